"""`EndStream` and `EscapeTerm`, whose readers find the end by a mark: their formats, byte by byte, with
streams that are cut, corrupted or continue after the end.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import (
    BadParameter,
    EndStreamR,
    EndStreamW,
    EscapeTermR,
    EscapeTermW,
    Malformed,
    Truncated,
    read_to_end,
)
from readwrite_comp.limiters import Padding
from readwrite_comp.testing import (
    HostileReader,
    HostileWriter,
    MakePair,
    check_round_trip,
    read_message,
)

from .pairs import contents, splits, wire_of

# EndStream.


def test_end_stream_wire() -> None:
    writer = EndStreamW(2, padding=Padding.ZERO)
    assert wire_of(writer, b"") == b"\0\0\1"
    assert wire_of(writer, b"a") == b"a\0\1"
    assert wire_of(writer, b"ab") == b"ab\1"
    assert wire_of(writer, b"abc") == b"ab\0c\0\1"
    random = EndStreamW(40)
    assert wire_of(random, b"a") != wire_of(random, b"a")
    for size in (0, 2**31):
        for kind in (EndStreamW, EndStreamR):
            with pytest.raises(BadParameter):
                kind(size)


@given(content=contents, window_bytes=st.integers(1, 50))
def test_end_stream_reads_whole_windows_and_ends(content: bytes, window_bytes: int) -> None:
    """A reader that does not know the length gets the padding too, and then 0."""
    wire = wire_of(EndStreamW(window_bytes, padding=Padding.ZERO), content)
    windows = max(1, -(-len(content) // window_bytes))
    assert len(wire) == windows * (window_bytes + 1)
    result = read_message(EndStreamR(window_bytes), HostileReader(wire + b"foreign"), None)
    assert result.error is None
    assert result.content == content + bytes(windows * window_bytes - len(content))


def test_end_stream_sends_a_full_window_at_once_and_holds_its_mark_back() -> None:
    writer, w = EndStreamW(4), HostileWriter()
    writer.write_header(w)
    writer.write_into(w, b"abc")
    assert w.data == b""
    writer.write_into(w, b"d")
    assert w.data == b"abcd"
    writer.write_into(w, b"e")
    assert w.data == b"abcd"
    writer.flush_into(w)
    writer.flush_into(w)
    assert w.data == b"abcd\0e"
    writer.write_into(w, b"fgh")
    writer.write_end(w)
    assert w.data == b"abcd\0efgh\1"


def test_giving_up_before_a_window_promises_none() -> None:
    """The stream refuses the third window; a message that ends then has two."""
    writer, w = EndStreamW(4), HostileWriter([4, 5, 0])
    writer.write_header(w)
    for piece in (b"abcd", b"efgh"):
        assert writer.write_into(w, piece) == 4
    assert w.data == b"abcd\0efgh"
    writer.write_into(w, b"i")
    with pytest.raises(BlockingIOError):
        writer.flush_into(w)
    writer.write_end(w)
    assert w.data[:10] == b"abcd\0efgh\0"
    assert len(w.data) == 15


@pytest.mark.parametrize("mark", [2, 0x80, 0xFF])
def test_end_stream_refuses_other_marks(mark: int) -> None:
    wire = b"ab\0cd" + bytes([mark])
    assert isinstance(read_message(EndStreamR(2), HostileReader(wire), None).error, Malformed)
    assert isinstance(read_message(EndStreamR(2), HostileReader(wire), 0).error, Malformed)


@given(content=contents, length=st.integers(0, 300), data=st.data())
def test_a_cut_end_stream_is_noticed_wherever_reading_stops(
    content: bytes, length: int, data: st.DataObject
) -> None:
    wire = wire_of(EndStreamW(7), content)
    cut = data.draw(st.integers(0, len(wire) - 1))
    for known in (None, min(length, len(content))):
        result = read_message(EndStreamR(7), HostileReader(wire[:cut]), known)
        assert isinstance(result.error, Truncated)


# EscapeTerm.


def test_escape_term_wire() -> None:
    assert wire_of(EscapeTermW(), b"") == b"\0\xff"
    assert wire_of(EscapeTermW(), b"a\0\0b") == b"a\0\0\0\0b\0\xff"
    assert wire_of(EscapeTermW(0x5C), b"\\n") == b"\\\\n\\\xa3"
    for escape in (-1, 256):
        for kind in (EscapeTermW, EscapeTermR):
            with pytest.raises(BadParameter):
                kind(escape)


@given(
    escape=st.integers(0, 255),
    content=st.one_of(contents, st.lists(st.sampled_from([0, 1, 254, 255]), max_size=60).map(bytes)),
    buffer_bytes=st.integers(1, 9),
)
def test_any_escape_byte(escape: int, content: bytes, buffer_bytes: int) -> None:
    def make_pair() -> tuple[EscapeTermW, EscapeTermR]:
        return EscapeTermW(escape), EscapeTermR(escape)

    wire = check_round_trip(make_pair, [content, content[::-1]], read_splits=(buffer_bytes,))
    assert len(wire) == 2 * (len(content) + content.count(escape) + 2)


def test_all_content_before_a_wrong_byte_is_delivered() -> None:
    """With any buffer; the error comes after the content."""
    for size in (1, 2, 3, 64):
        result = read_message(EscapeTermR(0), HostileReader(b"abc\0\0d\0e"), None, splits=(size,))
        assert result.content == b"abc\0d"
        assert isinstance(result.error, Malformed)
        result = read_message(EscapeTermR(0), HostileReader(b"abc\0\0d\0"), None, splits=(size,))
        assert result.content == b"abc\0d"
        assert isinstance(result.error, Truncated)


def test_no_flipped_bit_makes_an_end() -> None:
    wire = wire_of(EscapeTermW(7), b"\x07" * 5)
    for bit in range(8 * (len(wire) - 2)):
        changed = bytearray(wire)
        changed[bit // 8] ^= 1 << bit % 8
        assert read_message(EscapeTermR(7), HostileReader(bytes(changed)), None).error is not None


@pytest.mark.parametrize(
    "make_pair",
    [
        lambda: (EscapeTermW(0), EscapeTermR(0)),
        lambda: (EndStreamW(100), EndStreamR(100)),
    ],
)
def test_a_large_write_is_taken_in_bounded_parts(make_pair: MakePair) -> None:
    """The stream always refuses: the accepted (and buffered) amount does not depend on the offered one."""
    writer, _ = make_pair()
    w = HostileWriter([0] * 10)
    writer.write_header(w)
    assert writer.write_into(w, bytes(1 << 20)) <= 16 * 1024
    with pytest.raises(BlockingIOError):
        writer.write_into(w, b"more")


@given(
    content=st.binary(max_size=300).map(lambda data: data.replace(b"\x01", b"\0")),
    buffer_bytes=st.integers(1, 64),
    read_bytes=st.integers(1, 40),
)
def test_escape_term_takes_no_more_than_its_message_from_a_stream_that_can_peek(
    content: bytes, buffer_bytes: int, read_bytes: int
) -> None:
    stream = io.BytesIO()
    stream.write(wire_of(EscapeTermW(0), content))
    stream.write(b"foreign")
    stream.seek(0)
    peeking = io.BufferedReader(stream, buffer_bytes)
    layer, found, buffer = EscapeTermR(0), b"", bytearray(read_bytes)
    layer.read_header(peeking)
    while count := layer.read_into(peeking, buffer):
        found += buffer[:count]
    layer.read_end(peeking)
    assert found == content
    assert peeking.read() == b"foreign"


def test_escape_term_reads_in_pieces_where_it_can_peek() -> None:
    class Counting(io.BufferedReader):
        calls = 0

        def readinto(self, buffer: Any) -> int:
            self.calls += 1
            return super().readinto(buffer)

    content = bytes(range(256)) * 40
    stream = Counting(io.BytesIO(wire_of(EscapeTermW(0), content)), 4096)
    layer, found = EscapeTermR(0), bytearray()
    layer.read_header(stream)
    read_to_end(layer, stream, found, limit_bytes=len(content))
    layer.read_end(stream)
    assert found == content
    assert stream.calls <= 10


class Peeking(HostileReader):
    """Shows bytes by `peek`, but refuses, breaks or ends early when they are read."""

    def peek(self, size: int, /) -> bytes:
        return self._data[self.position : self.position + size]


@given(
    content=st.lists(st.sampled_from([0, 1, 255]), max_size=40).map(bytes),
    script=st.lists(st.integers(-1, 4), max_size=60),
    read_splits=splits,
)
def test_a_stream_that_shows_more_than_it_gives(
    content: bytes, script: list[int], read_splits: list[int]
) -> None:
    wire = wire_of(EscapeTermW(0), content)
    r = Peeking(wire + b"foreign", script)
    result = read_message(EscapeTermR(0), r, None, read_splits)
    assert result.error is None
    assert result.content == content
    assert r.position == len(wire)


@pytest.mark.parametrize(
    ("wire", "kind"), [(b"ab\0\0c\0d", Malformed), (b"ab\0\0c\0", Truncated), (b"ab\0\0c", Truncated)]
)
def test_content_before_an_error_is_delivered_from_a_stream_that_can_peek(
    wire: bytes, kind: type[Exception]
) -> None:
    result = read_message(EscapeTermR(0), Peeking(wire), None)
    assert result.content == b"ab\0c"
    assert isinstance(result.error, kind)
