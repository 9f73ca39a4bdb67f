"""`suspend()` and `resume()`: a message that releases its stream, and continues there or on another."""

from __future__ import annotations

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import (
    CompR,
    CompW,
    EscapeTermR,
    EscapeTermW,
    IdentityW,
    MultiRExt,
    MultiWExt,
    PaddedWindowsR,
    PaddedWindowsW,
    SealedR,
    SealedW,
    SharedR,
    SharedW,
    StreamCipherR,
    StreamCipherW,
    WideBlockW,
)
from readwrite_comp.errors import PhaseError
from readwrite_comp.testing import HostileReader, HostileWriter, write_message

from .pairs import KEY, contents, is_authenticated, lioness, scripts, stack_of, stacks


@given(
    names=stacks,
    content=contents,
    pieces=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    script=scripts,
)
def test_a_message_over_many_streams(
    names: list[str], content: bytes, pieces: list[int], script: list[int]
) -> None:
    """A writer that changes its stream after every piece; the reader changes at the end of each stream. It
    never finds a byte on the wrong one.
    """
    writer, reader = stack_of(names)()
    steps = itertools.chain(script, itertools.repeat(1 << 20))
    streams = [HostileWriter(steps)]
    comp, sizes, done = CompW(streams[0], writer), itertools.cycle(pieces), 0
    while not comp.closed:
        try:
            if done == len(content):
                comp.close()
                continue
            done += comp.write(content[done : done + next(sizes)])
            while True:
                try:
                    comp.suspend()
                    break
                except BlockingIOError:
                    continue
            streams.append(HostileWriter(steps))
            comp.resume(streams[-1])
        except BlockingIOError:
            continue

    class Segment:
        """The bytes of one stream; after them it refuses."""

        def __init__(self, data: bytes) -> None:
            self.rest = io.BytesIO(data)

        def readinto(self, buffer: memoryview, /) -> int:
            count = self.rest.readinto(buffer)
            if not count:
                raise BlockingIOError
            return count

    segments = iter([Segment(bytes(w.data)) for w in streams])
    source, got, buffer = CompR(next(segments), reader), bytearray(), bytearray(50)
    at_end = False
    while not source.closed:
        try:
            if at_end or len(got) == len(content):
                source.close()
            else:
                count = source.readinto(memoryview(buffer)[: len(content) - len(got)])
                got += buffer[:count]
                at_end = count == 0
        except BlockingIOError:
            source.suspend()
            source.resume(next(segments))
    assert got == content
    if is_authenticated(names):
        # Windows of a fixed size may all be on the last stream; at least the end is there.
        assert len(streams[-1].data) > 0


def test_a_raw_byte_between() -> None:
    """The original's test_suspend: one stream, and a foreign byte on it in the middle of a message."""
    stream = io.BytesIO()
    comp = CompW(stream, MultiWExt([StreamCipherW(KEY), EscapeTermW()]))
    comp.write(b"first")
    comp.flush()
    assert comp.suspend() is stream
    stream.write(b"!")
    comp.resume(stream)
    comp.write(b"second")
    comp.close()
    stream.seek(0)
    source = CompR(stream, MultiRExt([StreamCipherR(KEY), EscapeTermR()]))
    assert b"".join(source.read(1) for _ in range(5)) == b"first"
    assert source.suspend() is stream
    assert stream.read(1) == b"!"
    source.resume(stream)
    assert source.readall() == b"second"
    source.close()


def test_owed_bytes_are_written_first() -> None:
    """A part of a sealed chunk is on the stream: the rest must follow there, not on the next one."""
    old, new = HostileWriter([32, 7, 0, 3, 0, 2, 0, 1, 0]), HostileWriter()
    comp = CompW(old, MultiWExt([SealedW(KEY, chunk_bytes=4), IdentityW()]))
    comp.write(b"abcdefgh")
    for refused in (comp.flush, comp.suspend):
        with pytest.raises(BlockingIOError):
            refused()
    comp.suspend()
    assert len(old.data) == 32 + 2 * (4 + 4 + 16)
    comp.resume(new)
    comp.close()
    # Full chunks were written immediately, so an empty one marks the end.
    assert len(new.data) == 4 + 16
    with CompR(HostileReader(bytes(old.data + new.data)), SealedR(KEY)) as source:
        assert source.read() == b"abcdefgh"


def test_suspended_objects_refuse() -> None:
    stream = io.BytesIO()
    comp = CompW(stream, PaddedWindowsW(4))
    with pytest.raises(PhaseError, match="drop a stream"):
        comp.resume(stream)
    comp.write(b"ab")
    comp.suspend()
    for call in (lambda: comp.write(b"x"), comp.flush, comp.suspend, comp.close):
        with pytest.raises(PhaseError, match="suspended"):
            call()
    assert not comp.closed
    comp.resume(stream)
    comp.close()
    stream.seek(0)
    source = CompR(stream, PaddedWindowsR(4))
    with pytest.raises(PhaseError, match="drop a stream"):
        source.resume(stream)
    assert source.read(1) == b"a"
    source.suspend()
    for read_call in (lambda: source.read(1), source.suspend, source.close):
        with pytest.raises(PhaseError, match="suspended"):
            read_call()
    assert not source.closed
    source.resume(stream)
    assert source.read() == b"b"
    source.close()
    # Abandoning needs no stream.
    comp = CompW(stream, SharedW(PaddedWindowsW(4)))
    comp.write(b"ab")
    comp.suspend()
    comp.abandon()
    assert comp.closed


def test_before_the_header_nothing_is_written() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    comp = CompW(first, SharedW(SealedW(KEY)))
    assert comp.suspend() is first
    comp.resume(second)
    comp.close()
    assert first.getvalue() == b""
    second.seek(0)
    source = CompR(first, SharedR(SealedR(KEY)))
    source.suspend()
    source.resume(second)
    assert source.read() == b""
    source.close()


def test_settling_closes_nothing() -> None:
    """In any phase, and content that waits for a full block keeps waiting."""
    writer, w = MultiWExt([WideBlockW(lioness(40)), PaddedWindowsW(7)]), HostileWriter()
    writer.settle_into(w)
    writer.write_header(w)
    writer.write_into(w, b"abc")
    writer.settle_into(w)
    assert w.data == b""
    writer.write_end(w)
    assert len(w.data) == 40
    writer.settle_into(w)
    assert len(w.data) == 40
    write_message(writer, w, b"next")


class FailsAtEnd:
    """A stream that breaks after some bytes."""

    def __init__(self, most: int) -> None:
        self.left = most

    def write(self, data: memoryview, /) -> int:
        if self.left < len(data):
            raise BrokenPipeError("the other side has gone")
        self.left -= len(data)
        return len(data)


def test_an_error_at_close_is_raised() -> None:
    def leave() -> None:
        with comp:
            comp.write(b"abc")

    comp = CompW(FailsAtEnd(32), SealedW(KEY))
    with pytest.raises(BrokenPipeError):
        leave()
    # The `with` block has ended, so no retry is possible.
    assert comp.closed
    comp = CompW(FailsAtEnd(32), SealedW(KEY))
    comp.write(b"abc")
    with pytest.raises(BrokenPipeError):
        comp.close()
    assert not comp.closed
    comp.abandon()
