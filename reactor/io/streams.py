"""The only place where "would block" becomes a wait: `ReadYield` and `WriteYield`.

    data = yield from ReadYield(stream).read(1024)

A layer or parser that reads or writes a stream is plain code. It lets `BlockingIOError` through and can be
called again. `ReadYield` and `WriteYield` call it; when it is refused they yield the request of the stream
and call it again. They hold no bytes, so they are cheap to make. To pass a stream to another service, stop
using it and pass the object; the other service makes its own `ReadYield`. Pending readiness stays with the
stream, so no wake is lost in between. Two services that wait on one side at the same time are an error
(`Busy`).

They try first and wait when refused, with one exception. A read that got less than it asked for has emptied
the kernel's buffer, and another try would be refused. A socket stream reports that in `hint.drained`, and the
next read waits first. The hint lives in the descriptor: another service may have read in between, or may have
been woken (see core/poller.py).

A stream that is always ready never waits and would starve the other services. So both yield `YIELD` after a
number of calls that were not refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from reactor.core.forgotten import Reminder, needs_yield_from, reminded, settle
from reactor.core.requests import YIELD, Request, Service
from reactor.errors import UnexpectedEnd, check_count

__all__ = [
    "MOST_READ_BYTES",
    "ReadStream",
    "ReadYield",
    "WriteStream",
    "WriteYield",
    "byte_view",
    "writable_view",
]

T = TypeVar("T")
# Calls in a row that did not block; then the other services run.
_CALLS_PER_PASS: Final = 16
MOST_READ_BYTES: Final = 1 << 30
"""Most bytes of one `read`: the buffer for them is allocated first."""
# Types whose length counts bytes. A view may have another format, so it goes through `byte_view`.
_BYTES: Final = (bytes, bytearray)
_FIELD_NAME: Final = re.compile(":[^:]*:")  # in the format of a buffer of structures


def byte_view(data: Any, what: str = "data") -> memoryview:
    """The bytes of any contiguous buffer, uncopied: `len` counts bytes, and slices are bytes.

    `len` of a `memoryview` depends on its format and shape, and `len` of an `array.array` counts items.

    Raises:
        TypeError: no buffer (text, a list, a number), or one of objects, or with gaps between its bytes.
    """
    if type(data) is memoryview:
        view = data
    else:
        try:
            view = memoryview(data)
        except (TypeError, ValueError, BufferError) as error:
            kind = type(data).__name__
            hint = ": encode it first" if kind == "str" else ""
            if not isinstance(error, TypeError):
                hint = f", which gives no bytes: {error}"
            raise TypeError(f"{what}: expected bytes or another buffer, got {kind}{hint}") from None
    if not view.c_contiguous:
        raise TypeError(f"{what}: expected a contiguous buffer, got one with gaps between its bytes: copy it")
    if view.format == "B" and view.ndim == 1:
        return view
    if "O" in _FIELD_NAME.sub("", view.format):  # the bytes would be addresses of this process
        raise TypeError(f"{what}: expected bytes, got a buffer of Python objects")
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
    """A stream for `ReadYield`. It may also have `read(limit_bytes)`, and `hint`, see `SocketStream`."""

    @property
    def readable(self) -> Request:
        """The request that is answered when a refused read is worth another try."""

    def readinto(self, buffer: Any, /) -> int:
        """Read up to len(buffer) bytes into a bytearray or a view of bytes.

        Returns:
            How many; 0 at the end and only there.
        Raises:
            BlockingIOError: nothing yet.
        """


class WriteStream(Protocol):
    """A stream for `WriteYield`."""

    @property
    def writable(self) -> Request:
        """The request that is answered when a refused write is worth another try."""

    def write(self, data: Any, /) -> int:
        """Write some of the bytes, given as bytes or a view of bytes. Returns how many.

        Raises:
            BlockingIOError: none can be taken now.
        """


class _NoHint:
    """The hint of streams without one."""

    drained = False


class _Side:
    """One side of a stream. It counts the calls since the service last waited.

    Rule for changing this file: `read`, `readinto` and `write_all` keep separate loops. One shared
    generator costs an echo server 6 % of a request of 64 bytes (more calls, packed arguments).
    """

    __slots__ = ("_streak", "stream")

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._streak = 0

    def _ready(self) -> Request:
        """The request of this side. A stream may give another one for each wait."""
        raise NotImplementedError

    def _end_streak(self) -> Request:
        self._streak = 0
        return YIELD

    def call(self, method: Callable[..., T], *args: Any) -> Service[T]:
        """Call `method(stream, *args)`, and again after a wait whenever it raises BlockingIOError.

        Raises:
            any: what the method raises, except BlockingIOError.
        """
        stream = self.stream
        self._streak += 1
        if self._streak > _CALLS_PER_PASS:
            yield self._end_streak()
        while True:
            try:
                # No wait first, whatever the hint: the method may have buffered bytes.
                return method(stream, *args)
            except BlockingIOError:
                self._streak = 0
            yield self._ready()


class ReadYield(_Side):
    """The reading side of a stream, for services.

    Cancellation: a call that is cancelled while it waits has taken nothing from the stream, except
    `read_exactly`, which may have taken a part.

    Raises:
        TypeError: `stream` has no `readinto`.
    """

    __slots__ = ("_hint",)

    stream: ReadStream

    def __init__(self, stream: ReadStream) -> None:
        if not hasattr(stream, "readinto"):
            raise TypeError(f"ReadYield: expected a stream, such as a SocketStream, got {stream!r}")
        super().__init__(stream)
        self._hint: Any = getattr(stream, "hint", _NoHint)

    def _ready(self) -> Request:
        return self.stream.readable

    def readinto(self, buffer: bytearray | memoryview) -> Service[int]:
        """Read the available bytes into any contiguous buffer.

        Returns:
            How many bytes; 0 is the end (or an empty buffer).
        Raises:
            TypeError: no buffer that can be written to.
            any other: as the stream.
        """
        if type(buffer) is not bytearray:
            buffer = writable_view(buffer)
        stream = self.stream
        must_wait = self._hint.drained
        if not must_wait:
            self._streak += 1
            if self._streak > _CALLS_PER_PASS:
                yield self._end_streak()
        while True:
            if must_wait:
                self._streak = 0
                yield stream.readable
            try:
                return stream.readinto(buffer)
            except BlockingIOError:
                must_wait = True

    def read(self, limit_bytes: int = 65536) -> Service[bytes]:
        """Read the available bytes, up to a limit, as new bytes; b"" is the end. For streams with `read`.

        A service that holds no buffer while it waits is small: for services that wait most of the time.

        Raises:
            TypeError: `limit_bytes` is not a whole number. ValueError: it is not 1 to 1 GiB.
            any other: as the stream.
        """
        # Without the check 0 would read b"", which looks like the end.
        if type(limit_bytes) is not int or not 0 < limit_bytes <= MOST_READ_BYTES:
            check_count(limit_bytes, "limit_bytes", least=1, most=MOST_READ_BYTES)
        stream: Any = self.stream
        must_wait = self._hint.drained
        if not must_wait:
            self._streak += 1
            if self._streak > _CALLS_PER_PASS:
                yield self._end_streak()
        while True:
            if must_wait:
                self._streak = 0
                yield stream.readable
            try:
                data: bytes = stream.read(limit_bytes)
            except BlockingIOError:
                must_wait = True
            else:
                return data

    @reminded
    def read_exactly(self, reminder: Reminder, buffer: bytearray | memoryview) -> Service[None]:
        """Fill the buffer.

        Raises:
            UnexpectedEnd: the stream ended first. It has the number of bytes that came; they are at the
                start of the buffer.
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
        """Read the content of a layer, by `ext.read_into(stream, buffer)`. 0 is the end of the content."""
        return self.call(ext.read_into, buffer)


class WriteYield(_Side):
    """The writing side of a stream, for services.

    Cancellation: `write` that is cancelled while it waits has written nothing; `write_all` some, all or none.

    Raises:
        TypeError: `stream` has no `write`.
    """

    __slots__ = ()

    stream: WriteStream

    def __init__(self, stream: WriteStream) -> None:
        if not hasattr(stream, "write"):
            raise TypeError(f"WriteYield: expected a stream, such as a SocketStream, got {stream!r}")
        super().__init__(stream)

    def _ready(self) -> Request:
        return self.stream.writable

    @reminded
    def write(self, reminder: Reminder, data: bytes | bytearray | memoryview) -> Service[int]:
        """Write some of the bytes of any contiguous buffer.

        Returns:
            How many, at least 1 of non-empty data.
        Raises:
            TypeError: no contiguous buffer.
            any other: as the stream.
        """
        settle(reminder)
        del reminder
        if type(data) not in _BYTES:
            data = byte_view(data)
        count: int = yield from self.call(lambda stream: stream.write(data))
        return count

    @reminded
    def write_all(self, reminder: Reminder, data: bytes | bytearray | memoryview) -> Service[None]:
        """Write all bytes of any contiguous buffer. It must not change until this is done.

        Raises:
            TypeError: no contiguous buffer.
            any other: as the stream.
        """
        settle(reminder)
        del reminder
        if type(data) not in _BYTES:
            data = byte_view(data)
        stream, rest = self.stream, data
        self._streak += 1
        if self._streak > _CALLS_PER_PASS:
            yield self._end_streak()
        while True:
            try:
                count = stream.write(rest)
            except BlockingIOError:
                self._streak = 0
            else:
                if count == len(rest):
                    return
                rest = memoryview(rest)[count:]
                continue
            yield stream.writable

    @needs_yield_from
    def flush(self) -> Service[None]:
        """Send the bytes that the stream holds back; no effect on a stream without `flush`."""
        flush = getattr(self.stream, "flush", None)
        if flush is not None:
            yield from self.call(lambda _: flush())
