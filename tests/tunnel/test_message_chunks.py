"""Sealed messages with wrong chunks: made by hand, damaged or truncated; and each nonce is used once."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readwrite_comp import (
    AuthenticationError,
    LayerError,
    Malformed,
    Truncated,
)
from readwrite_comp.base import Phase
from readwrite_comp.primitives import Aead, BlockCipher, CtrStream, Engine, ReadableBuffer
from readwrite_comp.testing import (
    HostileReader,
    HostileWriter,
    read_message,
    write_message,
)
from tests.tunnel.helpers import (
    ENGINES,
    OPENSSL,
    SMALL,
    chunks_of,
    read_all,
    seeded_bytes,
    written,
)
from tests.tunnel.messages import (
    DATA,
    KEY,
    block,
    blocks,
    reader,
    writer,
)
from tunnel.crypto.primitives import TunnelEngine
from tunnel.geometry import LONG, Profile
from tunnel.onion.message import ChunkType, MessageR, MessageW
from tunnel.onion.message_head import MessageHead

# --- chunks by hand ----------------------------------------------------------------------------------------


def sealed(
    chunk_type: int,
    data: bytes = b"",
    *,
    last: bool = False,
    number: int = 0,
    flags: int | None = None,
    sub_stream: int = 0,
    length: int | None = None,
    padding: bytes | None = None,
) -> bytes:
    """One chunk of a hostile Alice, with the right key and any fields."""
    head = bytes([chunk_type, int(last) if flags is None else flags])
    head += sub_stream.to_bytes(2, "big") + (len(data) if length is None else length).to_bytes(2, "big")
    rest = DATA - len(data)
    plain = head + data + (bytes(rest) if padding is None else padding.ljust(rest, b"\0"))
    return OPENSSL.layers.aead(KEY).seal(number.to_bytes(12, "big"), plain)


MSG, END, PAD, CHALLENGE = map(int, (ChunkType.MSG, ChunkType.END, ChunkType.PAD, ChunkType.CHALLENGE))
NO_BLOCKS = bytes(4)


def message_of(*chunks: tuple[int, bytes, bool]) -> bytes:
    return b"".join(
        sealed(chunk_type, data, last=last, number=number)
        for number, (chunk_type, data, last) in enumerate(chunks)
    )


def refusal(wire: bytes) -> LayerError:
    content, error, _ = read_all(reader(), wire)
    assert error is not None, f"accepted, with content {content!r}"
    return error


def test_hand_made_chunks_equal_those_of_the_writer() -> None:
    assert message_of((END, NO_BLOCKS + b"hello", True)) == written(writer(), b"hello")
    first = NO_BLOCKS + b"x" * (DATA - 4)
    assert message_of((MSG, first, False), (END, b"y", True)) == written(writer(), b"x" * (DATA - 4) + b"y")


# name → (chunks, part of the message)
SEQUENCES: dict[str, tuple[list[tuple[int, bytes, bool]], str]] = {
    "PAD before END": ([(PAD, b"", False), (END, NO_BLOCKS, True)], "before the END"),
    "PAD after MSG": ([(MSG, NO_BLOCKS, False), (PAD, b"", True)], "before the END"),
    "LAST on the first MSG": ([(MSG, NO_BLOCKS + b"x", True)], "marked last"),
    "LAST on a MSG": ([(MSG, NO_BLOCKS + b"x", False), (MSG, b"y", True)], "marked last"),
    "no LAST on END": ([(END, NO_BLOCKS, False), (PAD, b"", True)], "not marked last"),
    "LAST too early": (
        [(MSG, NO_BLOCKS + b"x", False)] + [(MSG, b"x", False)] * 7 + [(END, b"", True)],
        "marked last",
    ),
    "LAST too late": (
        [(MSG, NO_BLOCKS + b"x", False)]
        + [(MSG, b"x", False)] * 7
        + [(END, b"", False), (PAD, b"", False), (PAD, b"", True)],
        "not marked last",
    ),
    "MSG after END": (
        [(MSG, NO_BLOCKS + b"x", False)]
        + [(MSG, b"x", False)] * 7
        + [(END, b"", False), (MSG, b"more", True)],
        "after the END",
    ),
    "a second END": (
        [(MSG, NO_BLOCKS + b"x", False)] + [(MSG, b"x", False)] * 7 + [(END, b"", False), (END, b"", True)],
        "after the END",
    ),
    "PAD with content": (
        [(MSG, NO_BLOCKS + b"x", False)] + [(MSG, b"x", False)] * 7 + [(END, b"", False), (PAD, b"x", True)],
        "PAD chunk with content",
    ),
    "MSG without content": (
        [(MSG, NO_BLOCKS, False), (MSG, b"", False), (END, b"", True)],
        "without content",
    ),
    "first MSG without content": ([(MSG, b"", False), (END, NO_BLOCKS, True)], "without content"),
    "END inside the fixed part": ([(END, b"\0\0\0", True)], "inside its head"),
    "END before the head": ([(END, b"", True)], "inside its head"),
    "END inside a block": ([(END, b"\x01\0\0\0" + block(0).pack()[:500], True)], "inside its head"),
    "nine blocks": ([(END, b"\x09\0\0\0", True)], "9 reply blocks"),
    "255 blocks": ([(END, b"\xff\0\0\0", True)], "255 reply blocks"),
    "head not zero": ([(END, b"\0\0\0\1", True)], "2 zero bytes"),
    "unknown flags": ([(END, b"\0\x10\0\0", True)], "flags 0x10"),
    "two ways back": ([(END, b"\0\x09\0\0", True)], "2 ways to answer"),
    "wants blocks, has none": ([(END, b"\0\x04\0\0", True)], "wants blocks"),
    "END inside an origin": ([(END, b"\0\x01\0\0" + bytes(20), True)], "inside its head"),
    "END inside an answer": ([(END, b"\0\x02\0\0" + bytes(23), True)], "inside its head"),
    "an origin too short": ([(END, b"\0\x01\0\0" + bytes(25) + b"\x44", True)], "68 bytes"),
    "an origin too long": ([(END, b"\0\x01\0\0" + bytes(24) + b"\x01\xe7", True)], "487 bytes"),
    "unknown profile in a block": ([(END, b"\x01\0\0\0\x99", True)], "profile byte 0x99"),
    "four of the largest blocks": (
        [
            (
                MSG,
                (b"\x04\0\0\0" + b"".join(each.pack() for each in blocks(4, Profile(LONG))))[at : at + DATA],
                False,
            )
            for at in range(0, 66_000, DATA)
        ],
        "more than 65536 bytes",
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_that_no_writer_makes(name: str) -> None:
    chunks, text = SEQUENCES[name]
    error = refusal(message_of(*chunks))
    assert isinstance(error, Malformed)
    assert text in str(error)


def test_a_block_with_flags_is_refused() -> None:
    packed = bytearray(block(0).pack())
    packed[1] = 1
    prefix = b"\x01\0\0\0" + bytes(packed)
    assert isinstance(refusal(message_of((MSG, prefix[:DATA], False), (END, prefix[DATA:], True))), Malformed)


@pytest.mark.parametrize("chunk_type", [0, *range(4, 256)])
def test_unknown_chunk_types(chunk_type: int) -> None:
    assert isinstance(refusal(sealed(chunk_type, NO_BLOCKS, last=True)), Malformed)


@pytest.mark.parametrize(
    "chunk",
    [
        sealed(END, NO_BLOCKS, flags=0x03),
        sealed(END, NO_BLOCKS, flags=0x80),
        sealed(END, NO_BLOCKS, last=True, sub_stream=1),
        sealed(END, NO_BLOCKS, last=True, length=DATA + 1),
        sealed(END, NO_BLOCKS, last=True, length=0xFFFF),
        sealed(END, NO_BLOCKS + b"x", last=True, length=4),
        sealed(END, NO_BLOCKS, last=True, padding=b"\1"),
        sealed(END, NO_BLOCKS, last=True, padding=bytes(DATA - 5) + b"\1"),
    ],
    ids=[
        "flag 2",
        "flag 0x80",
        "sub-stream",
        "length + 1",
        "length 65535",
        "cut data",
        "padding",
        "last byte",
    ],
)
def test_fields_that_no_writer_makes(chunk: bytes) -> None:
    assert isinstance(refusal(chunk), Malformed)


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=12), st.booleans()), max_size=12))
def test_any_sealed_chunks_are_a_message_or_a_documented_error(chunks: list[tuple[int, bytes, bool]]) -> None:
    """A holder of the key may seal any bytes: the result is the data of MSG and END chunks, or an error."""
    content, error, position = read_all(reader(), message_of(*chunks))
    if error is None:
        count = position // SMALL.geometry.chunk_bytes
        assert [chunk[0] for chunk in chunks[:count]].count(END) == 1
        assert content == b"".join(data for _, data, _ in chunks[:count])[4:]
    else:
        assert isinstance(error, (Malformed, Truncated))


# --- damage ------------------------------------------------------------------------------------------------

CONTENT = seeded_bytes(9)(8 * DATA)  # nine chunks and a PAD
WIRE = written(writer(reply_blocks=()), CONTENT)


def test_the_damaged_message_below_has_padding() -> None:
    assert len(chunks_of(WIRE, SMALL)) == 10


@given(st.integers(0, len(WIRE) - 1))
def test_truncation_at_any_byte(cut: int) -> None:
    content, error, position = read_all(reader(), WIRE[:cut])
    assert isinstance(error, Truncated)
    assert CONTENT.startswith(content)
    assert position == cut


@pytest.mark.parametrize("number", range(10))
def test_truncation_at_each_chunk(number: int) -> None:
    """The end of the stream between two chunks is truncation too, because only LAST ends a message."""
    content, error, _ = read_all(reader(), WIRE[: number * SMALL.geometry.chunk_bytes])
    assert isinstance(error, Truncated)
    assert content == CONTENT[: max(0, number * DATA - 4)]


@given(st.integers(0, 8 * len(WIRE) - 1), st.sampled_from(ENGINES))
def test_any_flipped_bit(bit: int, engine: TunnelEngine) -> None:
    changed = bytearray(WIRE)
    changed[bit // 8] ^= 1 << bit % 8
    content, error, position = read_all(reader(engine=engine), bytes(changed))
    assert isinstance(error, AuthenticationError)
    number = bit // 8 // SMALL.geometry.chunk_bytes
    assert content == CONTENT[: max(0, number * DATA - 4)], "what came before is released, nothing else"
    assert position == (number + 1) * SMALL.geometry.chunk_bytes


def rebuilt(change: Callable[[list[bytes]], list[bytes]]) -> LayerError:
    return refusal(b"".join(change(chunks_of(WIRE, SMALL))))


@given(st.permutations(range(10)))
def test_chunks_in_another_order(order: list[int]) -> None:
    if order != sorted(order):
        error = rebuilt(lambda chunks: [chunks[number] for number in order])
        assert isinstance(error, AuthenticationError)


@pytest.mark.parametrize("number", range(10))
def test_chunks_repeated_or_dropped(number: int) -> None:
    if number < 9:
        repeated = rebuilt(lambda chunks: chunks[: number + 1] + chunks[number:])
        assert isinstance(repeated, AuthenticationError)
    dropped = rebuilt(lambda chunks: chunks[:number] + chunks[number + 1 :])
    assert isinstance(dropped, AuthenticationError if number < 9 else Truncated)


def test_a_chunk_of_another_message_under_the_same_key() -> None:
    front = writer()
    first, second = written(front, b"one"), written(front, b"two")
    assert isinstance(refusal(second), AuthenticationError)
    behind = reader()
    assert read_all(behind, first)[0] == b"one"
    assert read_all(behind, second)[0] == b"two"
    assert isinstance(read_all(behind, second)[1], AuthenticationError)


def test_a_challenge_is_kept_and_is_no_content() -> None:
    front, wire = writer(), HostileWriter()
    front.write_header(wire)
    for nonce in (b"a" * 16, b"b" * 16):
        assert front.write_into(wire, b"content") == 7
        front.challenge(nonce)
        front.flush_into(wire)
    front.write_end(wire)
    assert isinstance(refusal(bytes(wire.data)), Malformed), "a message without receipts"
    behind = reader()
    announced: list[int] = []
    behind.on_challenge = lambda: announced.append(len(behind.challenges))
    assert read_all(behind, bytes(wire.data))[:2] == (b"contentcontent", None)
    assert behind.challenges == [b"a" * 16, b"b" * 16]
    assert announced == [1, 2]


@pytest.mark.parametrize(
    "chunks",
    [
        [(CHALLENGE, b"n" * 16, False), (END, NO_BLOCKS, True)],
        [(MSG, NO_BLOCKS, False), (CHALLENGE, b"n" * 15, False), (END, b"", True)],
        [(MSG, NO_BLOCKS, False), *[(CHALLENGE, b"n" * 16, False)] * 2, (END, b"", True)],
        [*[(MSG, NO_BLOCKS, False)] * 8, (END, b"", False), (CHALLENGE, b"n" * 16, True)],
        [*[(MSG, NO_BLOCKS, False), (CHALLENGE, b"n" * 16, False)] * 9, (END, b"", True)],
    ],
    ids=["before content", "short", "two together", "after END", "nine without an answer"],
)
def test_a_challenge_in_a_wrong_place(chunks: list[tuple[int, bytes, bool]]) -> None:
    behind = reader()
    behind.on_challenge = lambda: None
    error = read_all(behind, message_of(*chunks))[1]
    assert isinstance(error, Malformed)
    assert "CHALLENGE chunk" in str(error)


def test_another_key_and_the_other_direction() -> None:
    behind = MessageR(SMALL, KEY[::-1], engine=OPENSSL)
    assert isinstance(read_all(behind, WIRE)[1], AuthenticationError)


def test_nothing_of_a_refused_chunk_is_released_even_in_the_readers_own_buffer() -> None:
    changed = bytearray(WIRE)
    changed[SMALL.geometry.chunk_bytes - 1] ^= 1
    behind, buffer = reader(), bytearray(DATA)
    with pytest.raises(AuthenticationError):
        behind.read_header(HostileReader(bytes(changed)))
    with pytest.raises(AuthenticationError):
        behind.read_into(HostileReader(WIRE), buffer)
    assert not any(buffer)


@given(st.binary(max_size=3 * 996))
def test_random_bytes(wire: bytes) -> None:
    content, error, _ = read_all(reader(), wire)
    assert content == b""
    assert isinstance(error, (AuthenticationError, Truncated))


# --- blocked, ended, truncated -----------------------------------------------------------------------------


def test_blocked_and_ended_are_never_mixed_up() -> None:
    wire = written(writer(), b"abc")
    behind, r, buffer = reader(), HostileReader(wire, [500, 0, 400, 0]), bytearray(10)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            behind.read_header(r)
    behind.read_header(r)
    assert behind.read_into(r, bytearray()) == 0
    assert behind.read_into(r, buffer) == 3
    assert [behind.read_into(r, buffer) for _ in range(3)] == [0, 0, 0]
    behind.read_end(r)
    assert behind.phase is Phase.NEW


def test_a_refused_end_continues_where_it_stopped() -> None:
    """Nine chunks of content: END and PAD are written one by one, each refused at first."""
    front = writer()
    w = HostileWriter([1, 0] * 2 * 10_000)
    write_message(front, w, CONTENT)
    assert bytes(w.data) == WIRE


# --- nonces ------------------------------------------------------------------------------------------------


class _RecordingAead:
    def __init__(self, inner: Aead, nonces: list[bytes]) -> None:
        self._inner = inner
        self._nonces = nonces

    def seal_into(self, nonce: bytes, plaintext: ReadableBuffer, aad: bytes, out: memoryview) -> None:
        self._nonces.append(nonce)
        self._inner.seal_into(nonce, plaintext, aad, out)

    def open_into(self, nonce: bytes, sealed: ReadableBuffer, aad: bytes, out: memoryview) -> None:
        self._inner.open_into(nonce, sealed, aad, out)

    def seal(self, nonce: bytes, plaintext: ReadableBuffer, aad: bytes = b"") -> bytes:
        self._nonces.append(nonce)
        return self._inner.seal(nonce, plaintext, aad)

    def open(self, nonce: bytes, sealed: ReadableBuffer, aad: bytes = b"") -> bytes:
        return self._inner.open(nonce, sealed, aad)


class _RecordingLayers:
    name = "recording"

    def __init__(self, inner: Engine, nonces: dict[bytes, list[bytes]]) -> None:
        self._inner = inner
        self._nonces = nonces

    def aead(self, key: bytes) -> Aead:
        return _RecordingAead(self._inner.aead(key), self._nonces.setdefault(key, []))

    def xor_keystream(self, key: bytes, view: memoryview) -> None:
        self._inner.xor_keystream(key, view)

    def ctr(self, key: bytes, counter_block: bytes) -> CtrStream:
        return self._inner.ctr(key, counter_block)

    def block_cipher(self, key: bytes) -> BlockCipher:
        return self._inner.block_cipher(key)

    def gmac(self, key: bytes) -> Callable[[ReadableBuffer], bytes]:
        return self._inner.gmac(key)


def recording_engine() -> tuple[TunnelEngine, dict[bytes, list[bytes]]]:
    """An engine that records the nonces of its seals, by key."""
    nonces: dict[bytes, list[bytes]] = {}
    engine = copy(OPENSSL)
    engine.layers = _RecordingLayers(OPENSSL.layers, nonces)
    return engine, nonces


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 11 * DATA), st.integers(0, 2), st.booleans()), min_size=1, max_size=5),
    st.lists(st.integers(0, 900), max_size=20),
)
def test_a_nonce_serves_once(messages: list[tuple[int, int, bool]], script: list[int]) -> None:
    """Over messages that are ended, flushed, partly refused or dropped by reset(): every seal has the next
    nonce, whatever happened to the previous chunk."""
    engine, nonces = recording_engine()
    front = MessageW(SMALL, KEY, engine=engine, head=MessageHead(tuple(blocks(1))))
    for size, flush_every, is_dropped in messages:
        w = HostileWriter(script)
        if is_dropped:
            try:
                front.write_header(w)
                front.write_into(w, bytes(size))
                front.write_into(w, bytes(size))
                front.write_end(w)
            except BlockingIOError:
                front.reset()
        else:
            write_message(front, w, bytes(size), (1_500,), flush_every=flush_every)
    assert list(nonces) == [KEY]
    numbers = [int.from_bytes(nonce, "big") for nonce in nonces[KEY]]
    assert numbers == list(range(len(numbers)))
    assert {len(nonce) for nonce in nonces[KEY]} == {12}


def test_reset_does_not_take_a_nonce_back() -> None:
    front, w = writer(), HostileWriter()
    front.write_header(w)
    front.write_into(w, b"secret one")
    front.flush_into(w)
    front.reset()
    again = written(front, b"secret two")
    left, right = bytes(w.data), again
    xored = bytes(a ^ b for a, b in zip(left[10:20], right[10:20], strict=True))
    assert xored != bytes(a ^ b for a, b in zip(b"secret one", b"secret two", strict=True))


def test_message_reader_may_be_read_without_content() -> None:
    """read_end immediately after the header: the rest is checked and skipped."""
    behind, r = reader(), HostileReader(WIRE + b"next")
    behind.read_header(r)
    behind.read_end(r)
    assert r.position == len(WIRE)
    result = read_message(behind, HostileReader(WIRE), None)
    assert isinstance(result.error, AuthenticationError), (
        "the nonces have moved on: a replayed message is refused"
    )
