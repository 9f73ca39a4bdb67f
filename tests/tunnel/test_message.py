"""Sealed messages: the hostile-stream kit, lengths, and reply blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import (
    AuthenticationError,
    CompExtR,
    ExtRead,
    ExtWrite,
    Lioness,
    MultiRExt,
    WideBlockR,
    WideBlockW,
)
from readwrite_comp.base import Phase
from readwrite_comp.helpers import ByteReader, Take
from readwrite_comp.testing import (
    HostileReader,
    HostileWriter,
    check_abandoned_write,
    check_early_end,
    check_ext_pair,
    check_round_trip,
)
from tests.tunnel.helpers import (
    ENGINES,
    OPENSSL,
    PROFILES,
    SMALL,
    engines,
    mixed_engine,
    read_all,
    seeded_bytes,
    written,
)
from tests.tunnel.messages import (
    DATA,
    HEADER,
    KEY,
    PREFIX_BYTES,
    SEEDS,
    block,
    blocks,
    contents,
    reader,
    writer,
)
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import LocalTunnelError
from tunnel.geometry import BULK, DEFAULT, INTERACTIVE, LONG, Profile, padme
from tunnel.onion.message import FrameW, MessageR, MessageW
from tunnel.onion.message_head import MessageHead
from tunnel.onion.reply_block import ReplyBlock

# --- the kit -----------------------------------------------------------------------------------------------


class _FreshW(MessageW):
    """Begins each message with nonce 0, as under a new key. Otherwise the kit could not read one twice,
    or continue after a damaged one. Never outside tests."""

    def _start(self) -> None:
        super()._start()
        self._counter = 0


class _FreshR(MessageR):
    def _start(self) -> None:
        super()._start()
        self._counter = 0


class _HeaderR(ExtRead):
    """Reads the onion header that `FrameW` writes first, then the rest through the layers of Alice."""

    ends = MessageR.ends

    def __init__(self, header: bytes, inner: ExtRead) -> None:
        super().__init__()
        self._expected = header
        self._header = bytearray(len(header))
        self._take = Take()
        self._inner = inner

    def reset(self) -> None:
        super().reset()
        self._inner.reset()

    def _start(self) -> None:
        self._take.begin(memoryview(self._header))

    def _read_header(self, r: ByteReader) -> None:
        if self._inner.phase is Phase.NEW:
            self._take.fill(r, "an onion header")
            if self._header != self._expected:
                raise AuthenticationError("the onion header was changed")
        self._inner.read_header(r)

    def _read(self, r: ByteReader, view: memoryview) -> int:
        return self._inner.read_into(r, view)

    def _skip(self, r: ByteReader) -> None:
        self._inner.read_end(r)


def frame_pair(message_w: MessageW, message_r: MessageR, proxies: int) -> tuple[ExtWrite, ExtRead]:
    """A frame with `proxies` layers, and a reader that removes all of them."""
    permutations = [Lioness(keys, SMALL.geometry.chunk_bytes, OPENSSL.layers) for keys in SEEDS[:proxies]]
    frame = FrameW(HEADER, [WideBlockW(permutation) for permutation in permutations], message_w)
    layers = [WideBlockR(permutation) for permutation in permutations]
    return frame, _HeaderR(HEADER, CompExtR(MultiRExt(layers), message_r) if layers else message_r)


SIZES = (0, 1, DATA - PREFIX_BYTES, DATA, 2 * DATA - PREFIX_BYTES + 1)


@pytest.mark.parametrize(
    ("engine", "count"),
    [
        pytest.param(ENGINES[0], 0, marks=pytest.mark.full),
        (ENGINES[1], 0),
        pytest.param(ENGINES[1], 2, marks=pytest.mark.full),
    ],
    ids=lambda value: str(value)[:8],
)
def test_messages_pass_the_kit(engine: TunnelEngine, count: int) -> None:
    check_ext_pair(
        lambda: (
            _FreshW(SMALL, KEY, engine=engine, head=MessageHead(tuple(blocks(count)))),
            _FreshR(SMALL, KEY, engine=engine),
        ),
        authenticated=True,
        sizes=SIZES if engine is not OPENSSL else (*SIZES, 9 * DATA),
        samples=15,
    )


@pytest.mark.parametrize(
    "proxies", [pytest.param(0, marks=pytest.mark.full), 1, pytest.param(3, marks=pytest.mark.full)]
)
def test_frames_pass_the_kit(proxies: int) -> None:
    check_ext_pair(
        lambda: frame_pair(_FreshW(SMALL, KEY, engine=OPENSSL), _FreshR(SMALL, KEY, engine=OPENSSL), proxies),
        authenticated=True,
        sizes=(0, 1, DATA - PREFIX_BYTES, DATA - PREFIX_BYTES + 1),
        samples=10,
    )


@pytest.mark.full
@given(
    st.lists(contents, min_size=1, max_size=3),
    st.lists(st.integers(0, 700), max_size=30),
    st.lists(st.integers(0, 700), max_size=30),
    st.lists(st.integers(1, 2_500), min_size=1, max_size=5),
    st.lists(st.integers(1, 2_500), min_size=1, max_size=5),
    st.integers(0, 3),
    engines,
)
def test_messages_in_a_row_with_their_real_nonces(
    messages: list[bytes],
    write_script: list[int],
    read_script: list[int],
    write_splits: list[int],
    read_splits: list[int],
    flush_every: int,
    engine: TunnelEngine,
) -> None:
    """Bytes after LAST stay unread, and the next message continues the nonces."""
    check_round_trip(
        lambda: (writer(engine=engine), reader(engine=engine)),
        messages,
        write_script=write_script,
        read_script=read_script,
        write_splits=write_splits,
        read_splits=read_splits,
        flush_every=flush_every,
    )


@given(
    st.lists(contents, min_size=1, max_size=2),
    st.lists(st.integers(0, 1_500), max_size=20),
    st.lists(st.integers(0, 1_500), max_size=20),
    st.integers(0, 3),
)
def test_frames_in_any_pieces(
    messages: list[bytes], write_script: list[int], read_script: list[int], proxies: int
) -> None:
    check_round_trip(
        lambda: frame_pair(writer(), reader(), proxies),
        messages,
        write_script=write_script,
        read_script=read_script,
        read_splits=(777,),
    )


@given(contents, st.lists(st.integers(0, 1_500), max_size=8), st.integers(0, 2))
def test_a_writer_that_gives_up_at_a_refusal(content: bytes, script: list[int], proxies: int) -> None:
    check_abandoned_write(lambda: (writer(), reader()), content, write_script=[*script, 0])
    check_abandoned_write(lambda: frame_pair(writer(), reader(), proxies), content, write_script=[*script, 0])


@given(contents, st.integers(0, 5_000))
def test_a_reader_that_ends_early_checks_the_rest(content: bytes, read_bytes: int) -> None:
    check_early_end(lambda: (writer(), reader()), content, read_bytes)


def test_a_frame_can_be_reset_in_the_middle() -> None:
    frame, behind = frame_pair(_FreshW(SMALL, KEY, engine=OPENSSL), _FreshR(SMALL, KEY, engine=OPENSSL), 2)
    w = HostileWriter([100, 0])
    with pytest.raises(BlockingIOError):
        frame.write_header(w)
    frame.reset()
    w = HostileWriter()
    frame.write_header(w)
    frame.write_into(w, b"dropped")
    frame.reset()
    assert frame.phase is Phase.NEW
    assert read_all(behind, written(frame, b"kept"))[:2] == (b"kept", None)


# --- lengths -----------------------------------------------------------------------------------------------


def edge_sizes(profile: Profile, used: int) -> list[int]:
    """Sizes around chunks, and around the first PADMÉ bucket that pads (9 chunks)."""
    data = profile.geometry.chunk_data_bytes
    around = {0, 1, 2}
    for chunks in (1, 2, 3, 8, 9, 10, 11):
        around |= {chunks * data - used + offset for offset in (-1, 0, 1)}
    return sorted(size for size in around if size >= 0)


@pytest.mark.parametrize(
    "size", [*edge_sizes(SMALL, PREFIX_BYTES), DATA - 1, DATA, DATA + 1, 2 * DATA, 17_000]
)
def test_contents_around_every_edge(size: int) -> None:
    content = seeded_bytes(size)(size)
    wire = written(writer(engine=mixed_engine(size)), content)
    assert len(wire) == SMALL.geometry.chunk_count(PREFIX_BYTES + size) * SMALL.geometry.chunk_bytes
    assert read_all(reader(engine=mixed_engine(size + 1)), wire + b"foreign") == (content, None, len(wire))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("chunks", [1, 2, 9])
def test_edges_in_every_profile(profile: Profile, chunks: int, offset: int) -> None:
    size = chunks * profile.geometry.chunk_data_bytes - PREFIX_BYTES + offset
    content = seeded_bytes(size)(size)
    wire = written(writer(profile), content)
    assert len(wire) == padme(chunks + (offset > 0)) * profile.geometry.chunk_bytes
    assert read_all(reader(profile), wire) == (content, None, len(wire))


@pytest.mark.parametrize("count", [0, 1, 7, 8])
@pytest.mark.parametrize("size", [0, 1, 500])
@pytest.mark.parametrize("proxies", [0, 2])
def test_frame_lengths_follow_from_the_geometry(count: int, size: int, proxies: int) -> None:
    frame, behind = frame_pair(writer(reply_blocks=blocks(count)), reader(), proxies)
    content = seeded_bytes(size)(size)
    wire = written(frame, content)
    used = PREFIX_BYTES + count * SMALL.geometry.reply_block_bytes + size
    assert len(wire) - len(HEADER) == SMALL.geometry.frame_bytes(used) - SMALL.geometry.header_bytes
    assert read_all(behind, wire) == (content, None, len(wire))


@given(st.integers(0, 3 * DATA), st.lists(st.integers(1, 500), min_size=1, max_size=4), st.integers(1, 4))
def test_flushing_costs_chunks_and_changes_nothing_else(size: int, splits: list[int], every: int) -> None:
    content = seeded_bytes(size)(size)
    wire = written(writer(), content, splits, flush_every=every)
    assert len(wire) // SMALL.geometry.chunk_bytes == padme(len(wire) // SMALL.geometry.chunk_bytes)
    assert read_all(reader(), wire) == (content, None, len(wire))


def test_a_flush_lets_the_reader_have_everything_so_far() -> None:
    message, w = writer(reply_blocks=blocks(1)), HostileWriter()
    message.write_header(w)
    message.write_into(w, b"question")
    message.flush_into(w)
    message.flush_into(w)  # again: no bytes are pending, so nothing is sent
    behind, r = reader(), HostileReader(bytes(w.data) + b"", [])
    behind.read_header(r)
    buffer = bytearray(100)
    assert behind.head.reply_blocks == (block(0),)
    assert bytes(buffer[: behind.read_into(r, buffer)]) == b"question"
    assert r.position == len(w.data)


# --- reply blocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 8])
@pytest.mark.parametrize(
    "profile", [Profile(INTERACTIVE), Profile(DEFAULT)], ids=lambda profile: profile.name
)
def test_reply_blocks_are_sent_before_the_content(count: int, profile: Profile) -> None:
    given_blocks = blocks(count)
    wire = written(writer(profile, reply_blocks=given_blocks), b"content")
    behind = reader(profile)
    assert read_all(behind, wire)[:2] == (b"content", None)
    assert behind.head.reply_blocks == tuple(given_blocks)


def test_blocks_of_several_profiles() -> None:
    mixed = [block(1, Profile(LONG)), block(2), block(3, Profile(BULK)), block(4, Profile(DEFAULT))]
    behind = reader()
    assert read_all(behind, written(writer(reply_blocks=mixed), b"x" * 3_000))[:2] == (b"x" * 3_000, None)
    assert behind.head.reply_blocks == tuple(mixed)


@pytest.mark.parametrize(
    "many", [blocks(9), blocks(4, Profile(LONG))], ids=["nine blocks", "more than 64 KiB"]
)
def test_more_blocks_than_a_reader_takes_are_a_local_error(many: list[ReplyBlock]) -> None:
    with pytest.raises(LocalTunnelError, match="at most"):
        writer(reply_blocks=many)


def test_three_of_the_largest_blocks_pass() -> None:
    behind = reader()
    largest = blocks(3, Profile(LONG))
    assert read_all(behind, written(writer(reply_blocks=largest), b""))[:2] == (b"", None)
    assert behind.head.reply_blocks == tuple(largest)


def test_blocks_come_again_with_each_message_of_a_layer() -> None:
    front, behind = writer(reply_blocks=blocks(2)), reader()
    for content in (b"one", b"two"):
        assert read_all(behind, written(front, content))[0] == content
        assert behind.head.reply_blocks == tuple(blocks(2))
