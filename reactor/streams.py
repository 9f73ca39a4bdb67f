"""Where "would block" becomes a wait: the only place.

Whatever reads or writes a stream (a layer, a parser) is plain code that lets `BlockingIOError` through and
can be called again. `ReadYield` and `WriteYield` call it, and when it is refused yield the stream's request
and call it again. They hold no bytes, so making one is cheap and a stream is lent
to another service by passing it: the other makes its own.

Try first, wait when refused, with one exception. A read that got less than it asked for has emptied the
kernel's buffer, so trying again would be refused; a socket stream says so in `hint.drained`, and the next
read waits first. The hint lives in the descriptor, not here, for another service may have read in between, or
have been given the news (see descriptor.py).

A stream that is always ready never waits, and would keep everybody else from running. So after a number of
calls that were not refused both yield `PASS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from reactor.errors import UnexpectedEnd
from reactor.forgotten import Reminder, needs_yield_from, reminded, settle
from reactor.requests import PASS, Request, Service

__all__ = ["ReadStream", "ReadYield", "WriteStream", "WriteYield", "byte_view", "writable_view"]

T = TypeVar("T")

# So many calls in a row that did not block; then the others get their turn.
_CALLS_PER_PASS: Final = 16


def byte_view(data: Any, what: str = "data") -> memoryview:
    """The bytes of any contiguous buffer, uncopied: `len` counts bytes, and slices are bytes.

    A `memoryview` counts items, rows or whatever its format and shape say; an `array.array` counts items.

    Raises:
        TypeError: no buffer (text, a list, a number), or one with gaps between its bytes.
    """
    if type(data) is memoryview:
        view = data
    else:
        try:
            view = memoryview(data)
        except TypeError:
            kind = type(data).__name__
            hint = ": encode it first" if kind == "str" else ""
            raise TypeError(f"{what}: expected bytes or another buffer, got {kind}{hint}") from None
    if not view.c_contiguous:
        raise TypeError(f"{what}: expected a contiguous buffer, got one with gaps between its bytes: copy it")
    if view.format == "B" and view.ndim == 1:
        return view
    # Without bytes a shape such as (3, 0) cannot be cast.
    return view.cast("B") if view.nbytes else memoryview(b"")


def writable_view(buffer: Any) -> memoryview:
    """The bytes of any contiguous buffer, to be read into. Raises TypeError: as `byte_view`, or read-only."""
    view = byte_view(buffer, "buffer")
    if view.readonly and len(view):
        raise TypeError(
            f"buffer: expected one that can be written to, got a read-only {type(buffer).__name__}"
        )
    return view


class ReadStream(Protocol):
    """What `ReadYield` needs."""

    @property
    def readable(self) -> Request:
        """The request that is answered when a refused read is worth another try."""

    def readinto(self, buffer: Any, /) -> int:
        """Read up to len(buffer) bytes; `ReadYield` hands on a bytearray or a view of bytes, no other.

        0 at the end and only there; BlockingIOError when there is nothing yet.
        """


class WriteStream(Protocol):
    """What `WriteYield` needs."""

    @property
    def writable(self) -> Request:
        """The request that is answered when a refused write is worth another try."""

    def write(self, data: Any, /) -> int:
        """Write some of the bytes, and say how many; BlockingIOError when none can be taken now.

        `WriteYield` hands on bytes or a view of bytes, no other buffer.
        """


class _NeverDrained:
    """Stands in for streams that give no hint."""

    drained = False


class ReadYield:
    """The reading side of a stream, for services.

    Args:
        before_wait: a service run before each wait: a relay sends what it has, rather than keep it while
            nothing comes.

    Cancellation: a call that is cancelled while it waits has taken nothing from the stream, except
    `read_exactly`, which may have taken a part.
    """

    __slots__ = ("_before_wait", "_hint", "_streak", "stream")

    def __init__(self, stream: ReadStream, *, before_wait: Callable[[], Service[None]] | None = None) -> None:
        self.stream = stream
        self._before_wait = before_wait
        self._hint: Any = getattr(stream, "hint", _NeverDrained)
        self._streak = 0

    def call(self, method: Callable[..., T], *args: Any) -> Service[T]:
        """Call `method(stream, *args)`, again whenever it was refused and the stream has become readable.

        Raises:
            whatever the method raises, except BlockingIOError.
        """
        stream = self.stream
        self._streak += 1
        if self._streak > _CALLS_PER_PASS:
            self._streak = 0
            yield PASS
        while True:
            try:
                # No waiting first, whatever the hint: the method may have bytes of its own to give.
                return method(stream, *args)
            except BlockingIOError:
                self._streak = 0
            if self._before_wait is not None:
                yield from self._before_wait()
            yield stream.readable

    def readinto(self, buffer: bytearray | memoryview) -> Service[int]:
        """Read what there is into any contiguous buffer.

        Returns:
            How many bytes; 0 is the end (or an empty buffer).
        Raises:
            TypeError: no buffer that can be written to. Whatever the stream raises.
        """
        if type(buffer) is not bytearray:
            buffer = writable_view(buffer)
        stream = self.stream
        if self._hint.drained:
            self._streak = 0
            if self._before_wait is not None:
                yield from self._before_wait()
            yield stream.readable
        else:
            self._streak += 1
            if self._streak > _CALLS_PER_PASS:
                self._streak = 0
                yield PASS
        while True:
            try:
                return stream.readinto(buffer)
            except BlockingIOError:
                self._streak = 0
            if self._before_wait is not None:
                yield from self._before_wait()
            yield stream.readable

    def read(self, limit_bytes: int = 65536) -> Service[bytes]:
        """Read what there is, up to a limit, as new bytes; b"" is the end. For streams that have `read`.

        A service that holds no buffer while it waits is small: this is for those that wait most of the time.
        """
        stream: Any = self.stream
        if self._hint.drained:
            self._streak = 0
            if self._before_wait is not None:
                yield from self._before_wait()
            yield stream.readable
        else:
            self._streak += 1
            if self._streak > _CALLS_PER_PASS:
                self._streak = 0
                yield PASS
        while True:
            try:
                data: bytes = stream.read(limit_bytes)
            except BlockingIOError:
                self._streak = 0
            else:
                return data
            if self._before_wait is not None:
                yield from self._before_wait()
            yield stream.readable

    @reminded
    def read_exactly(self, reminder: Reminder, buffer: bytearray | memoryview) -> Service[None]:
        """Fill the buffer.

        Raises:
            UnexpectedEnd: the stream ended first. It says how many bytes came; they are at the buffer's
                start.
            TypeError: no buffer that can be written to.
        """
        settle(reminder)
        del reminder
        view = writable_view(buffer)
        done = 0
        while done < len(view):
            count = yield from self.readinto(view[done:])
            if count == 0:
                raise UnexpectedEnd(done, len(view))
            done += count

    def read_into(self, buffer: bytearray | memoryview, ext: Any) -> Service[int]:
        """Read a layer's content.

        `ext.read_into(stream, buffer)` until it is not refused. 0 is the end of the layer's content.
        """
        return self.call(ext.read_into, buffer)


class WriteYield:
    """The writing side of a stream, for services.

    Cancellation: `write` that is cancelled while it waits has written nothing; `write_all` some, all or none.
    """

    __slots__ = ("_streak", "stream")

    def __init__(self, stream: WriteStream) -> None:
        self.stream = stream
        self._streak = 0

    def call(self, method: Callable[..., T], *args: Any) -> Service[T]:
        """Call `method(stream, *args)`, again whenever it was refused and the stream has become writable.

        Raises:
            whatever the method raises, except BlockingIOError.
        """
        stream = self.stream
        self._streak += 1
        if self._streak > _CALLS_PER_PASS:
            self._streak = 0
            yield PASS
        while True:
            try:
                return method(stream, *args)
            except BlockingIOError:
                self._streak = 0
            yield stream.writable

    @reminded
    def write(self, reminder: Reminder, data: bytes | bytearray | memoryview) -> Service[int]:
        """Write some of the bytes of any contiguous buffer.

        Returns:
            How many, at least 1 of non-empty data.
        Raises:
            TypeError: no contiguous buffer. Whatever the stream raises.
        """
        settle(reminder)
        del reminder
        if type(data) is not bytes:
            data = byte_view(data)
        stream = self.stream
        self._streak += 1
        if self._streak > _CALLS_PER_PASS:
            self._streak = 0
            yield PASS
        while True:
            try:
                return stream.write(data)
            except BlockingIOError:
                self._streak = 0
            yield stream.writable

    @reminded
    def write_all(self, reminder: Reminder, data: bytes | bytearray | memoryview) -> Service[None]:
        """Write all bytes of any contiguous buffer. It must not change until this is done.

        Raises:
            TypeError: no contiguous buffer. Whatever the stream raises.
        """
        settle(reminder)
        del reminder
        if type(data) is not bytes:
            data = byte_view(data)
        stream = self.stream
        self._streak += 1
        if self._streak > _CALLS_PER_PASS:
            self._streak = 0
            yield PASS
        try:
            done = stream.write(data)
        except BlockingIOError:
            done = 0
        if done == len(data):
            return
        view = memoryview(data)
        while done < len(view):
            try:
                done += stream.write(view[done:])
            except BlockingIOError:
                self._streak = 0
                yield stream.writable

    @needs_yield_from
    def flush(self) -> Service[None]:
        """Push out what the stream holds back; nothing for a stream without `flush`."""
        flush = getattr(self.stream, "flush", None)
        if flush is not None:
            yield from self.call(lambda _: flush())
