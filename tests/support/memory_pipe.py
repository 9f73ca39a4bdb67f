"""A byte stream in memory.

It behaves like a socket: bounded, partial reads and writes, `BlockingIOError` when nothing can be done, 0 at
the end and only there.
"""

from __future__ import annotations

from reactor.errors import Broken, Closed
from reactor.io.streams import byte_view, writable_view
from reactor.sync.scope import Signal

__all__ = ["MemoryReader", "MemoryWriter", "memory_pipe"]


class _Buffer:
    """The bytes in transit, and the open sides."""

    __slots__ = ("capacity", "content", "readable", "reader_closed", "writable", "writer_closed")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.content = bytearray()
        self.readable = Signal()
        self.writable = Signal()
        self.reader_closed = False
        self.writer_closed = False


class MemoryReader:
    """The reading end. `readable` is the request to yield after a refusal."""

    __slots__ = ("_buffer", "readable")

    def __init__(self, buffer: _Buffer) -> None:
        self._buffer = buffer
        self.readable = buffer.readable

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read the available bytes. Returns their number; 0 is the end.

        Raises:
            BlockingIOError: nothing yet.
            Closed: `close` was called.
            TypeError: not a writable buffer.
        """
        pipe = self._buffer
        if pipe.reader_closed:
            raise Closed("the reading end is closed")
        view = writable_view(buffer)
        if not pipe.content:
            if pipe.writer_closed or not len(view):
                return 0
            raise BlockingIOError("the pipe is empty")
        count = min(len(view), len(pipe.content))
        view[:count] = pipe.content[:count]
        del pipe.content[:count]
        if pipe.content:
            # Still readable for the next reader; the flag may have been consumed for this read.
            pipe.readable.set()
        if count:
            pipe.writable.set()
        return count

    def close(self) -> None:
        """Close this end.

        The writer gets `Broken` from now on; a waiting reader tries again and gets `Closed`.
        """
        self._buffer.reader_closed = True
        self._buffer.content.clear()
        self._buffer.writable.set()
        self._buffer.readable.set()


class MemoryWriter:
    """The writing end. `writable` is the request to yield after a refusal."""

    __slots__ = ("_buffer", "writable")

    def __init__(self, buffer: _Buffer) -> None:
        self._buffer = buffer
        self.writable = buffer.writable

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write some of the bytes. Returns their number.

        Raises:
            BlockingIOError: the pipe is full.
            Broken: the reading end is closed.
            Closed: `close` was called.
            TypeError: not a contiguous buffer.
        """
        pipe = self._buffer
        if pipe.writer_closed:
            raise Closed("the writing end is closed")
        if pipe.reader_closed:
            raise Broken("the reading end is closed")
        view = byte_view(data)
        room = pipe.capacity - len(pipe.content)
        if not room and len(view):
            raise BlockingIOError("the pipe is full")
        count = min(room, len(view))
        pipe.content += view[:count]
        if count:
            pipe.readable.set()
        return count

    def close(self) -> None:
        """Close this end: the reader gets the bytes in transit, then the end."""
        self._buffer.writer_closed = True
        self._buffer.readable.set()
        self._buffer.writable.set()


def memory_pipe(capacity: int) -> tuple[MemoryReader, MemoryWriter]:
    """Make a pipe that holds up to `capacity` bytes.

    Returns:
        (reader, writer).
    Raises:
        ValueError: `capacity` is less than 1.
    """
    if capacity < 1:
        raise ValueError(f"a pipe holds at least 1 byte, got capacity {capacity}")
    buffer = _Buffer(capacity)
    return MemoryReader(buffer), MemoryWriter(buffer)
