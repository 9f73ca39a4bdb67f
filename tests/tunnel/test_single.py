"""Link frames: any pieces of received bytes give the same events, and hostile ones a documented error."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tunnel.helpers import OPENSSL, PROFILES, SMALL, cut_in_pieces, mixed_engine, seeded_bytes
from tunnel.engine import TunnelEngine
from tunnel.errors import ErrorCode, LinkError, ProfileError
from tunnel.geometry import GEOMETRIES, Profile
from tunnel.link.records import (
    MAX_RECORD_BYTES,
    RECORD_OVERHEAD,
    REKEY_AFTER,
    TAG_BYTES,
    UNIT_BYTES,
    RecordOpener,
    RecordSealer,
    record_bytes_for,
)
from tunnel.link.single import (
    BUFFER_BYTES,
    FRAME_HEAD_BYTES,
    NEED_DATA,
    Data,
    Event,
    Fin,
    FrameReceiver,
    FrameSender,
    FrameType,
    GoAway,
    Open,
    Reset,
)

KEY = bytes(range(32))
MAX_PAYLOAD = MAX_RECORD_BYTES - RECORD_OVERHEAD - FRAME_HEAD_BYTES

# What a service can send: content, or one of the four others.
Sent = bytes | Profile | ErrorCode | str


def sender(engine: TunnelEngine = OPENSSL) -> FrameSender:
    return FrameSender(RecordSealer(KEY, engine))


def receiver(engine: TunnelEngine = OPENSSL) -> FrameReceiver:
    return FrameReceiver(RecordOpener(KEY, engine))


def drained(front: FrameSender) -> bytes:
    """All that is pending, sent at once."""
    data = bytes(front.pending)
    front.sent(len(data))
    assert front.is_empty
    return data


def record(frames: bytes, *, counter: int = 0, pad: bytes = b"") -> bytes:
    """One sealed record with any bytes for frames, and zeros (or `pad` and zeros) behind them."""
    size = record_bytes_for(len(frames) + len(pad))
    buffer = bytearray(size)
    buffer[4 : 4 + len(frames) + len(pad)] = frames + pad
    sealer = RecordSealer(KEY, OPENSSL)
    sealer._counter = counter
    sealer.seal(memoryview(buffer))
    return bytes(buffer)


def frame(
    kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 1, length: int | None = None
) -> bytes:
    return struct.pack(">BBHI", kind, flags, len(payload) if length is None else length, stream) + payload


def plain(event: Event) -> object:
    """An event that outlives the receiver's buffer."""
    return bytes(event.payload) if isinstance(event, Data) else event


def feed(behind: FrameReceiver, wire: bytes, sizes: Sequence[int] = (1 << 20,)) -> list[object]:
    """All events of `wire`, received in pieces of the given sizes at most."""
    events: list[object] = []
    index = at = 0
    while True:
        event = behind.next_event()
        if event is not NEED_DATA:
            events.append(plain(event))
            continue
        if at == len(wire):
            return events
        space = behind.space()
        assert len(space) > 0, "no room, and no record either: the link would stand still"
        count = min(len(space), sizes[index % len(sizes)], len(wire) - at)
        space[:count] = wire[at : at + count]
        behind.received(count)
        at, index = at + count, index + 1


# --- there and back

payloads = st.one_of(
    st.integers(1, 60),
    st.integers(1, MAX_PAYLOAD),
    st.sampled_from([996, 16_356, MAX_PAYLOAD, 1_024 - 28, 1_024 - 27]),
).map(lambda size: seeded_bytes(size)(size))
controls = st.sampled_from([Open(profile) for profile in PROFILES] + [Reset(code) for code in ErrorCode])


@given(
    st.lists(payloads, max_size=6),
    # Not by single bytes, which have a test of their own: a failure here must shrink in seconds.
    st.lists(st.integers(150, 70_000), min_size=1, max_size=5),
    st.lists(st.integers(150, 140_000), min_size=1, max_size=4),
    st.sampled_from(PROFILES),
    st.integers(0, 2**32),
)
def test_any_pieces_give_the_same_events(
    contents: list[bytes], pieces: list[int], sends: list[int], profile: Profile, seed: int
) -> None:
    """A socket that takes any number of bytes at a time, and another that gives any number."""
    front, behind = sender(mixed_engine(seed)), receiver(mixed_engine(seed + 1))
    wire = bytearray()
    front.open(profile)
    expected: list[object] = [Open(profile)]
    calls = 0
    for content in contents:
        while not (count := front.data(content)):
            part = bytes(front.pending[: sends[calls % len(sends)]])
            wire += part
            front.sent(len(part))
            calls += 1
        assert count == len(content)
        expected.append(content)
    front.fin()
    front.go_away()
    wire += drained(front)
    assert len(wire) % UNIT_BYTES == 0
    assert feed(behind, bytes(wire), pieces) == [*expected, Fin(), GoAway()]
    assert len(behind.space()) == BUFFER_BYTES, "nothing is left half received"


def test_byte_by_byte() -> None:
    front, behind = sender(), receiver()
    front.open(SMALL)
    front.data(b"x" * 996)
    front.data(b"y")
    front.fin()
    assert feed(behind, drained(front), [1]) == [Open(SMALL), b"x" * 996, b"y", Fin()]


@pytest.mark.parametrize("code", ErrorCode)
def test_reset_carries_its_code(code: ErrorCode) -> None:
    front = sender()
    front.reset(code)
    assert feed(receiver(), drained(front)) == [Reset(code)]


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda geometry: geometry.name)
def test_a_chunk_is_one_record_without_padding(geometry: object) -> None:
    profile = next(profile for profile in PROFILES if profile.geometry is geometry)
    front, chunk = sender(), seeded_bytes(1)(profile.geometry.chunk_bytes)
    assert front.data(chunk) == len(chunk)
    assert len(front.pending) == len(chunk) + 28
    assert feed(receiver(), drained(front)) == [chunk]


def test_several_frames_in_one_record() -> None:
    """Our sender puts one frame into a record; a reader takes any number."""
    frames = frame(1, struct.pack(">BBI", 1, 1, 0)) + frame(2, b"abc") + frame(2, b"d") + frame(4) + frame(8)
    assert feed(receiver(), record(frames)) == [Open(SMALL), b"abc", b"d", Fin(), GoAway()]


def test_frames_that_fill_a_record_exactly() -> None:
    payload = b"z" * (UNIT_BYTES - RECORD_OVERHEAD - 2 * FRAME_HEAD_BYTES - 1)
    assert feed(receiver(), record(frame(2, b"y") + frame(2, payload))) == [b"y", payload]


def test_a_record_of_padding_alone_is_refused() -> None:
    with pytest.raises(LinkError, match="nothing but padding"):
        feed(receiver(), record(b""))


def test_across_the_change_of_keys() -> None:
    front, behind = sender(), receiver()
    front._sealer._counter = behind._opener._counter = REKEY_AFTER - 3
    for number in range(6):
        content = bytes([number]) * 10
        assert front.data(content) == 10
        assert feed(behind, drained(front)) == [content]
    assert front._sealer._key == behind._opener._key != KEY


# --- room


def test_a_full_buffer_takes_no_content_but_every_end() -> None:
    front = sender()
    front.open(SMALL)
    chunks = 0
    while front.data(b"c" * 16_356):
        chunks += 1
    assert chunks == (BUFFER_BYTES - UNIT_BYTES) // 16_384
    while front.data(b"small"):
        pass
    full = bytes(front.pending)
    assert front.data(b"x") == 0
    assert bytes(front.pending) == full, "a refused frame leaves nothing behind"
    front.fin()
    front.reset(ErrorCode.BUSY)
    front.go_away()
    events = feed(receiver(), drained(front))
    assert events[0] == Open(SMALL)
    assert events[1 : 1 + chunks] == [b"c" * 16_356] * chunks
    assert events[-3:] == [Fin(), Reset(ErrorCode.BUSY), GoAway()]
    assert front.data(b"x") == 1


def test_all_four_control_frames_fit_behind_a_full_buffer() -> None:
    front = sender()
    while front.data(b"small"):
        pass
    front.open(SMALL)
    front.fin()
    front.reset(ErrorCode.BUSY)
    front.go_away()
    assert len(front.pending) == BUFFER_BYTES + 4 * UNIT_BYTES
    assert len(feed(receiver(), drained(front))) == BUFFER_BYTES // UNIT_BYTES + 4


def test_a_payload_too_large_for_a_record_is_taken_in_part() -> None:
    front, content = sender(), seeded_bytes(2)(MAX_PAYLOAD + 1_000)
    assert front.data(content) == MAX_PAYLOAD
    assert front.data(memoryview(content)[MAX_PAYLOAD:]) == 1_000
    assert feed(receiver(), drained(front)) == [content[:MAX_PAYLOAD], content[MAX_PAYLOAD:]]


@pytest.mark.parametrize("empty", [b"", memoryview(b"")])
def test_an_empty_payload_queues_nothing(empty: bytes | memoryview) -> None:
    """It did queue a frame, which the peer answers by closing the link, and said that there was no room."""
    front = sender()
    assert front.data(empty) == 0
    assert front.is_empty


def test_partial_sends_keep_the_rest() -> None:
    front, wire = sender(), bytearray()
    for number in range(10):
        front.data(bytes([number]) * 500)
        part = bytes(front.pending[:700])
        wire += part
        front.sent(len(part))
    wire += drained(front)
    assert feed(receiver(), bytes(wire)) == [bytes([number]) * 500 for number in range(10)]


def test_padding_behind_a_short_frame_shows_nothing_of_the_record_before() -> None:
    """The buffer is used again: old ciphertext must not go out as padding, and the peer would refuse it."""
    front, behind = sender(), receiver()
    front.data(b"\xff" * 60_000)
    feed(behind, drained(front))
    front.data(b"a")
    assert feed(behind, drained(front)) == [b"a"]


def test_space_is_never_empty_while_a_record_is_incomplete() -> None:
    """The largest records, received so that each begins at the worst place of the buffer."""
    front, behind = sender(), receiver()
    wire, expected = bytearray(), []
    for number in range(12):
        size = MAX_PAYLOAD if number % 3 else 5
        assert front.data(bytes([number]) * size) == size
        expected.append(bytes([number]) * size)
        wire += drained(front)
    assert feed(behind, bytes(wire), [BUFFER_BYTES - 1, 1, 64_511, 2]) == expected


def test_discard_forgets_everything() -> None:
    front, behind = sender(), receiver()
    front.data(b"x")
    wire = drained(front)
    behind.space()[:500] = wire[:500]
    behind.received(500)
    behind.discard()
    assert behind.next_event() is NEED_DATA
    assert len(behind.space()) == BUFFER_BYTES


# --- what is refused


def refused(frames: bytes, *, pad: bytes = b"") -> str:
    behind = receiver()
    with pytest.raises(LinkError) as caught:
        feed(behind, record(frames, pad=pad))
    return str(caught.value)


@pytest.mark.parametrize("kind", [3, 6, 7, 9, 10, 100, 255])
def test_types_that_are_not_legal_yet(kind: int) -> None:
    for length in (0, 2, 6, 100):
        assert f"type {kind} " in refused(frame(kind, bytes(length)))


LENGTHS = {FrameType.OPEN: 6, FrameType.FIN: 0, FrameType.RESET: 2, FrameType.GOAWAY: 0}


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 6, 7, 500])
def test_wrong_lengths(kind: FrameType, length: int) -> None:
    if length != LENGTHS[kind]:
        assert f"{kind.name} frame has {length} bytes" in refused(frame(kind, bytes(length)))


def test_data_without_content() -> None:
    assert "without payload" in refused(frame(2))


@pytest.mark.parametrize("kind", [1, 2, 4, 5, 8])
def test_flags_and_streams(kind: int) -> None:
    payload = {1: struct.pack(">BBI", 1, 1, 0), 2: b"x", 5: b"\0\1"}.get(kind, b"")
    assert len(feed(receiver(), record(frame(kind, payload)))) == 1
    for flags in (1, 2, 0x80, 0xFF):
        assert "flags" in refused(frame(kind, payload, flags=flags))
    for stream in (0, 2, 3, 0xFFFFFFFF):
        assert "stream" in refused(frame(kind, payload, stream=stream))


@pytest.mark.parametrize("kind", [1, 2, 4, 5, 8, 77])
def test_a_frame_longer_than_its_record(kind: int) -> None:
    room = UNIT_BYTES - RECORD_OVERHEAD - FRAME_HEAD_BYTES
    for length in (room + 1, 0xFFFF):
        assert "has" in refused(frame(kind, length=length))


@pytest.mark.parametrize("rest", range(1, FRAME_HEAD_BYTES))
def test_a_frame_head_cut_by_the_end_of_its_record(rest: int) -> None:
    first = frame(2, bytes(UNIT_BYTES - RECORD_OVERHEAD - FRAME_HEAD_BYTES - rest))
    assert "too few" in refused(first + b"\2" * rest)
    # Zeros are padding, however few.
    assert len(feed(receiver(), record(first + bytes(rest)))) == 1


@pytest.mark.parametrize("place", [1, 7, 8, 100, UNIT_BYTES - RECORD_OVERHEAD - 1])
def test_padding_that_is_not_zero(place: int) -> None:
    assert "padding" in refused(b"", pad=bytes(place) + b"\1")


def test_padding_after_a_frame_is_checked_too() -> None:
    behind = receiver()
    wire = record(frame(2, b"x"), pad=bytes(50) + b"\1")
    behind.space()[: len(wire)] = wire
    behind.received(len(wire))
    assert plain(behind.next_event()) == b"x"
    with pytest.raises(LinkError, match="padding"):
        behind.next_event()


@pytest.mark.parametrize("version", [0, 2, 255])
def test_open_with_another_version(version: int) -> None:
    assert f"version {version}" in refused(frame(1, struct.pack(">BBI", version, 1, 0)))


@pytest.mark.parametrize("window", [1, 0xFFFFFFFF])
def test_open_with_a_window(window: int) -> None:
    assert "window" in refused(frame(1, struct.pack(">BBI", 1, 1, window)))


@pytest.mark.parametrize("byte", [0, 5, 0x15, 0x21, 0xFF])
def test_open_with_an_unknown_profile(byte: int) -> None:
    with pytest.raises(ProfileError):
        feed(receiver(), record(frame(1, struct.pack(">BBI", 1, byte, 0))))


@pytest.mark.parametrize("code", [0, max(ErrorCode) + 1, 0x100, 0xFFFF])
def test_reset_with_an_unknown_code(code: int) -> None:
    assert f"code {code}" in refused(frame(5, struct.pack(">H", code)))


@pytest.mark.parametrize("head", ["00000000", "00400000", "ffff0000", "00010001", "0001ffff", "47455420"])
def test_heads_that_no_record_has(head: str) -> None:
    """Refused with the fourth byte; nothing waits for a record that will never be whole."""
    behind = receiver()
    behind.space()[:4] = bytes.fromhex(head)
    behind.received(4)
    with pytest.raises(LinkError, match=head):
        behind.next_event()


@given(st.integers(0, 3 * 8 * UNIT_BYTES - 1))
def test_any_flipped_bit_on_the_wire(bit: int) -> None:
    front = sender()
    for number in range(3):
        front.data(bytes([65 + number]) * 900)
    wire = bytearray(drained(front))
    wire[bit // 8] ^= 1 << bit % 8
    events: list[object] = []
    behind = receiver()
    refusals = 0
    for piece in cut_in_pieces(bytes(wire), [UNIT_BYTES]):
        behind.space()[: len(piece)] = piece
        behind.received(len(piece))
        try:
            while (event := behind.next_event()) is not NEED_DATA:
                events.append(plain(event))
        except LinkError:
            refusals += 1
            break
    # A larger unit count makes the receiver wait for more: nothing comes out, and the link times out.
    assert events == [bytes([65 + number]) * 900 for number in range(bit // 8 // UNIT_BYTES)]
    assert refusals or bit // 8 % UNIT_BYTES < 2


@pytest.mark.parametrize("name", ["swapped", "repeated", "dropped"])
def test_records_out_of_order(name: str) -> None:
    front = sender()
    cut = []
    for number in range(3):
        front.data(bytes([number]))
        cut.append(drained(front))
    orders = {"swapped": [0, 2, 1], "repeated": [0, 1, 1], "dropped": [0, 2]}
    behind = receiver()
    assert feed(behind, cut[0]) == [b"\0"]
    with pytest.raises(LinkError):
        feed(behind, b"".join(cut[number] for number in orders[name][1:]))


@given(st.integers(0, 2_047))
def test_truncation_gives_no_event(cut: int) -> None:
    front, behind = sender(), receiver()
    front.data(b"x" * 2_000)
    assert feed(behind, drained(front)[:cut]) == []
    assert behind.next_event() is NEED_DATA


# --- hostile mixtures


def survives(behind: FrameReceiver, wire: bytes, sizes: Sequence[int]) -> None:
    """Events, or the documented errors, and no other end."""
    try:
        feed(behind, wire, sizes)
    except (LinkError, ProfileError):
        return


@given(st.binary(max_size=3_000), st.lists(st.integers(1, 2_000), min_size=1, max_size=4))
def test_random_bytes_on_the_wire(wire: bytes, sizes: list[int]) -> None:
    survives(receiver(), wire, sizes)


@given(st.integers(0, 2**32), st.lists(st.integers(1, 200_000), min_size=1, max_size=3))
@settings(max_examples=30)
def test_much_random_bytes_behind_a_good_head(seed: int, sizes: list[int]) -> None:
    wire = struct.pack(">HH", 1 + seed % 63, 0) + seeded_bytes(seed)(300_000)
    with pytest.raises(LinkError):
        feed(receiver(), wire, sizes)


some_frames = st.one_of(
    st.binary(max_size=40),
    st.builds(
        frame,
        st.integers(0, 10),
        st.binary(max_size=20),
        flags=st.sampled_from([0, 0, 0, 1]),
        stream=st.sampled_from([1, 1, 1, 0, 2]),
        length=st.one_of(st.none(), st.integers(0, 30), st.integers(0, 65_535)),
    ),
    st.sampled_from([frame(4), frame(8), frame(2, b"x"), frame(5, b"\0\1"), frame(1, b"\1\1\0\0\0\0")]),
)


@given(
    st.lists(st.lists(some_frames, max_size=6).map(b"".join), min_size=1, max_size=4),
    st.lists(st.integers(1, 3_000), min_size=1, max_size=3),
)
def test_any_frames_from_a_peer_with_the_keys(records: list[bytes], sizes: list[int]) -> None:
    wire = b"".join(record(frames, counter=counter) for counter, frames in enumerate(records))
    survives(receiver(), wire, sizes)


def mutate(rng: random.Random, wire: bytes) -> bytes:
    changed = bytearray(wire)
    choices: list[Callable[[], object]] = [
        lambda: changed.__setitem__(rng.randrange(len(changed)), rng.randrange(256)),
        lambda: changed.__delitem__(slice(rng.randrange(len(changed)), rng.randrange(len(changed)))),
        lambda: changed.extend(changed[: rng.randrange(2_000)]),
        lambda: changed.insert(rng.randrange(len(changed)), rng.randrange(256)),
    ]
    for _ in range(rng.randrange(1, 4)):
        if changed:
            rng.choice(choices)()
    return bytes(changed)


@given(st.integers(0, 2**32))
def test_damaged_streams(seed: int) -> None:
    rng, front = random.Random(seed), sender()
    front.open(SMALL)
    for _ in range(rng.randrange(4)):
        front.data(rng.randbytes(rng.randrange(1, 3_000)))
    front.fin()
    survives(receiver(), mutate(rng, drained(front)), [rng.randrange(1, 5_000)])


def test_tag_and_head_lengths_add_up() -> None:
    assert RECORD_OVERHEAD == 4 + TAG_BYTES
    assert FRAME_HEAD_BYTES == 8
    assert BUFFER_BYTES == 2 * MAX_RECORD_BYTES
