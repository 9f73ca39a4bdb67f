"""The original's test cases of layers, limiters and their compositions, with their original names
(Rust crate *readwrite-comp*): the same sizes, depths and buffer lengths, and the bytes that its tests name.

Its test cipher, which adds a key to every byte, is in `shift`.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import pytest

from readwrite_comp import (
    CompExtR,
    CompExtW,
    CompR,
    CompW,
    EndStreamR,
    EndStreamW,
    EscapeTermR,
    EscapeTermW,
    ExtRead,
    ExtWrite,
    IdentityR,
    IdentityW,
    MultiRExt,
    MultiWExt,
    SizedWindowsR,
    SizedWindowsW,
    WindowSizes,
    read_exact_from,
    read_to_end,
    write_all_into,
)
from readwrite_comp.limiters import Padding
from readwrite_comp.testing import HostileReader, HostileWriter, check_ext_pair

from .pairs import wire_of
from .shift import ShiftR, ShiftW

MARKER = 123


def frames(
    writer: ExtWrite,
    reader: ExtRead,
    *,
    write_bytes: int = 32,
    read_bytes: int = 23,
    lengths: tuple[int, ...] = (123, 123),
    by_itself: bool = False,
) -> bytes:
    """Frames in sequence through the same objects, with buffers of the original's lengths, and
    a marker behind them.

    Args:
        by_itself: then read on after the content, to 0, as a reader that does not know the length does.
    Returns:
        What was on the stream.
    """
    rng, stream = random.Random(0), io.BytesIO()
    contents = [rng.randbytes(length) for length in lengths]
    for content in contents:
        writer.write_header(stream)
        for start in range(0, len(content), write_bytes):
            write_all_into(writer, stream, content[start : start + write_bytes])
        writer.flush_into(stream)
        writer.write_end(stream)
    stream.write(bytes([MARKER]))
    wire = stream.getvalue()
    stream.seek(0)
    for content in contents:
        reader.read_header(stream)
        got = bytearray()
        while len(got) < len(content):
            buffer = bytearray(min(read_bytes, len(content) - len(got)))
            got += buffer[: reader.read_into(stream, buffer)]
        assert got == content
        assert reader.read_into(stream, bytearray()) == 0
        if by_itself:
            read_to_end(reader, stream, got, limit_bytes=10 * len(content))
            for _ in range(2):
                assert reader.read_into(stream, bytearray(read_bytes)) == 0
        reader.read_end(stream)
    assert stream.read() == bytes([MARKER])
    return wire


@pytest.mark.parametrize(
    ("key", "block_bytes"),
    [(4, 7), pytest.param(0, 1, marks=pytest.mark.full), pytest.param(255 - 3, 2, marks=pytest.mark.full)],
)
def test_the_shift_cipher_is_a_layer(key: int, block_bytes: int) -> None:
    for has_end in (False, True):
        check_ext_pair(
            lambda has_end=has_end: (  # type: ignore[misc]
                ShiftW(key, block_bytes, has_end=has_end),
                ShiftR(key, block_bytes, has_end=has_end),
            )
        )


def test_void() -> None:
    assert len(frames(IdentityW(), IdentityR())) == 2 * 123 + 1


def test_void_enr() -> None:
    frames(IdentityW(), IdentityR(), write_bytes=2, read_bytes=2)


@pytest.mark.parametrize("block_bytes", [7, 2, 1])
def test_ciph(block_bytes: int) -> None:
    wire = frames(ShiftW(9, block_bytes), ShiftR(9, block_bytes))
    frame_bytes = 1 + -(-123 // block_bytes) * block_bytes
    assert len(wire) == 2 * frame_bytes + 1
    assert wire[0] == wire[frame_bytes] == 9


@pytest.mark.parametrize("window_bytes", [15, 2, 1])
def test_endstream(window_bytes: int) -> None:
    wire = frames(EndStreamW(window_bytes), EndStreamR(window_bytes), by_itself=True)
    assert len(wire) == 2 * -(-123 // window_bytes) * (window_bytes + 1) + 1


def test_enstremciph() -> None:
    """EndStream over a cipher, through CompW within CompW instead of a stack."""
    stream, content = io.BytesIO(), bytes(range(23))
    with CompW(stream, ShiftW(1, 7)) as cipher, CompW(cipher, EndStreamW(15)) as comp:
        done = 0
        while done < len(content):
            done += comp.write(content[done:])
    assert len(stream.getvalue()) == 1 + 35
    stream.write(bytes([MARKER]))
    stream.seek(0)
    with CompR(stream, ShiftR(1, 7)) as plain, CompR(plain, EndStreamR(15)) as source:
        got = source.readall()
        assert got.startswith(content)
        assert len(got) == 30
    assert stream.read() == bytes([MARKER])


def _end_over_cipher(windows: tuple[int, ...], blocks: tuple[int, ...] | None) -> tuple[MultiWExt, MultiRExt]:
    writers: list[ExtWrite] = []
    readers: list[ExtRead] = []
    for index, window_bytes in enumerate(windows):
        writer: ExtWrite = EndStreamW(window_bytes)
        reader: ExtRead = EndStreamR(window_bytes)
        if blocks:
            writer = CompExtW(ShiftW(index + 1, blocks[index]), writer)
            reader = CompExtR(ShiftR(index + 1, blocks[index]), reader)
        writers.append(writer)
        readers.append(reader)
    return MultiWExt(writers), MultiRExt(readers)


def three_layers(windows: tuple[int, ...], blocks: tuple[int, ...] | None = None) -> None:
    """Reads 123 bytes, drains the padding, ends; then a frame of 25, and 0. The same without draining."""
    writer, reader = _end_over_cipher(windows, blocks)
    frames(writer, reader, lengths=(123, 25), by_itself=True)
    frames(writer, reader, lengths=(123, 25))


def test_ciph_end_mult() -> None:
    three_layers((5, 3, 4), (3, 2, 5))


def test_multendstream_dec_windows() -> None:
    three_layers((4, 3, 2))


def test_multendstream_inc_windows() -> None:
    three_layers((2, 4, 7))


def test_suspend() -> None:
    """A writer releases its stream, a raw byte is written, and the message ends on the same stream."""
    stream = io.BytesIO()
    comp = CompW(stream, ShiftW(1, 1))
    comp.write(b"ab")
    lent = comp.suspend()
    lent.write(memoryview(bytes([MARKER])))
    comp.resume(lent)
    comp.write(b"c")
    comp.close()
    assert stream.getvalue() == bytes([1, *b"bc", MARKER, *b"d"])


def test_suspend2() -> None:
    """The same with a stack, which also reads it."""
    stream = io.BytesIO()
    comp = CompW(stream, CompExtW(ShiftW(1, 1), ShiftW(2, 1)))
    comp.write(b"ab")
    comp.suspend()
    stream.write(bytes([MARKER]))
    comp.resume(stream)
    comp.close()
    stream.seek(0)
    source = CompR(stream, CompExtR(ShiftR(1, 1), ShiftR(2, 1)))
    assert source.read(2) == b"ab"
    source.suspend()
    assert stream.read() == bytes([MARKER])
    source.resume(stream)
    source.close()


def test_read_end_multi_pad() -> None:
    w = HostileWriter()
    with CompW(w, EndStreamW(2)) as comp:
        assert comp.write(b"abc") == 2
        assert comp.write(b"c") == 1
    assert len(w.data) == 6
    r, reader = HostileReader(bytes(w.data)), EndStreamR(2)
    reader.read_header(r)
    reader.read_end(r)
    assert r.position == 6


def test_constant_size() -> None:
    """Copied to a second limiter by code that does not know the length: the size is unchanged."""
    content = b"abc"
    for _ in range(3):
        w = HostileWriter()
        writer, reader = EndStreamW(2, padding=Padding.ZERO), EndStreamR(2)
        writer.write_header(w)
        write_all_into(writer, w, content)
        writer.write_end(w)
        assert len(w.data) == 6
        copied, r = bytearray(), HostileReader(bytes(w.data))
        reader.read_header(r)
        read_to_end(reader, r, copied, limit_bytes=4)
        reader.read_end(r)
        content = bytes(copied)
    assert content == b"abc\0"


def _read_back(reader: ExtRead, wire: bytes, length: int) -> bytes:
    r, buffer = HostileReader(wire + bytes([MARKER])), bytearray(length)
    reader.read_header(r)
    read_exact_from(reader, r, buffer)
    reader.read_end(r)
    assert r.position == len(wire)
    return bytes(buffer)


MULTICIPH = ((1, 4), (2, 4), (3, 5))
MULTICIPH_CONTENT = bytes([MARKER, 1, 2, 3, 4])


def multiciph() -> MultiWExt:
    return MultiWExt([ShiftW(key, block, has_end=True) for key, block in MULTICIPH])


def test_multiciph_w() -> None:
    """Headers from the outside in, ends from the inside out."""
    wire = wire_of(multiciph(), MULTICIPH_CONTENT)
    assert list(wire[:4]) == [1, 3, 6, 129]
    assert (wire[8], wire[10], wire[13]) == (9, 6, 4)
    assert len(wire) == 14


def test_multiciph_r() -> None:
    reader = MultiRExt([ShiftR(key, block, has_end=True) for key, block in MULTICIPH])
    wire = wire_of(multiciph(), MULTICIPH_CONTENT)
    assert _read_back(reader, wire, 5) == MULTICIPH_CONTENT


def nested_wire(content: bytes) -> bytes:
    """Two layers by nesting."""
    stream = io.BytesIO()
    with (
        CompW(stream, ShiftW(2, 2, has_end=True)) as outer,
        CompW(outer, ShiftW(1, 3, has_end=True)) as inner,
    ):
        inner.write(content)
    return stream.getvalue()


def composed_wire(content: bytes) -> bytes:
    """The same by CompExt."""
    return wire_of(CompExtW(ShiftW(2, 2, has_end=True), ShiftW(1, 3, has_end=True)), content)


def check_composed(wire: bytes) -> None:
    assert list(wire[:3]) == [2, 3, 4]
    assert (wire[5], wire[7]) == (6, 5)


def test_compciph_w() -> None:
    check_composed(nested_wire(bytes([1, 2, 3])))


def test_compext_w() -> None:
    check_composed(composed_wire(bytes([1, 2, 3])))


@pytest.mark.parametrize("make_wire", [nested_wire, composed_wire])
def test_compciph_r(make_wire: Callable[[bytes], bytes]) -> None:
    stream = io.BytesIO(make_wire(bytes([1, 2, 3])))
    with (
        CompR(stream, ShiftR(2, 2, has_end=True)) as below,
        CompR(below, ShiftR(1, 3, has_end=True)) as source,
    ):
        assert source.read(3) == bytes([1, 2, 3])
    assert stream.read() == b""


@pytest.mark.parametrize("make_wire", [nested_wire, composed_wire])
def test_compext_r(make_wire: Callable[[bytes], bytes]) -> None:
    reader = CompExtR(ShiftR(2, 2, has_end=True), ShiftR(1, 3, has_end=True))
    assert _read_back(reader, make_wire(bytes([1, 2, 3])), 3) == bytes([1, 2, 3])


P1 = WindowSizes(20, (4, 3), 2048)
P2 = WindowSizes(20)


@pytest.mark.parametrize(
    ("sizes", "size_written", "buffer_bytes"),
    [(P1, False, 7), (P2, False, 15), (P2, False, 36), (P1, True, 200), (P2, True, 7)],
)
def test_windows_test(sizes: WindowSizes, size_written: bool, buffer_bytes: int) -> None:
    """One object for two frames; padding may be read over, the next byte is intact."""
    writer = SizedWindowsW(sizes, size_written=size_written)
    reader = SizedWindowsR(sizes, size_written=size_written)
    frames(writer, reader, write_bytes=buffer_bytes, read_bytes=buffer_bytes, lengths=(150, 150))
    # A reader that mistakes some padding for content, and then ends.
    stream = io.BytesIO(wire_of(writer, bytes(150)) + bytes([MARKER]))
    reader.read_header(stream)
    read_exact_from(reader, stream, bytearray(155))
    reader.read_end(stream)
    assert stream.read() == bytes([MARKER])


@pytest.mark.parametrize(("escape", "buffer_bytes"), [(0, 7), (1, 15), (3, 200)])
def test_escape_test(escape: int, buffer_bytes: int) -> None:
    frames(
        EscapeTermW(escape),
        EscapeTermR(escape),
        write_bytes=buffer_bytes,
        read_bytes=buffer_bytes,
        lengths=(150, 150),
        by_itself=True,
    )
