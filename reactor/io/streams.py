"""The only place where "would block" becomes a wait: `ReadYield`, `WriteYield`, and lending of a read side.

    data = yield from ReadYield(stream).read(1024)

A layer or parser that reads or writes a stream is plain code. It lets `BlockingIOError` through and can be
called again. `ReadYield` and `WriteYield` call it; when it is refused they yield the request of the stream
and call it again. They hold no bytes, so they are cheap to make, and a stream is lent to another service by
passing it: the other makes its own.

They try first and wait when refused, with one exception. A read that got less than it asked for has emptied
the kernel's buffer, and another try would be refused. A socket stream reports that in `hint.drained`, and the
next read waits first. The hint lives in the descriptor: another service may have read in between, or may have
been woken (see core/poller.py).

A stream that is always ready never waits and would starve the other services. So both yield `YIELD` after a
number of calls that were not refused.

Lending. A stream may be passed on as it is when the old reader stops before the new one starts. `ReadSide`
takes it away from a service that waits for bytes, or was just woken and has not run yet. It hands out
*loans*, streams that are valid until the next loan:

* The waiting holder of an old loan is woken with `Lent`, once. Later reads and waits through it raise `Lent`.
  Neither has taken anything from the stream.
* Pending readiness is transferred. The event that woke the old holder may be the only one, so the first wait
  of the new holder is answered immediately. An end, a lost connection or a close reaches whichever holder
  reads next.

Rule for changing this file: an ended loan touches neither the stream nor what it waited on.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from reactor.core.forgotten import Reminder, needs_yield_from, reminded, settle
from reactor.core.requests import YIELD, Request, Service
from reactor.errors import Lent, UnexpectedEnd

__all__ = [
    "Loan",
    "ReadSide",
    "ReadStream",
    "ReadYield",
    "WriteStream",
    "WriteYield",
    "byte_view",
    "writable_view",
]


class _NoHint:
    """Stands in for the hint of a stream without one, and of a loan that is over."""

    drained = False


_NO_HINT: Final = _NoHint()


class ReadSide:
    """The read side of a stream, of which one service at a time has the loan.

    Args:
        stream: a `SocketStream`, a `MemoryReader`, or any whose `readable` is a `Signal` or a descriptor's.
            From now on it is read through loans only; a service that waits on it directly when the first
            loan is made gets `Lent` too.

    Attributes:
        loan: the one that is good, or None.
    """

    __slots__ = ("_moves_on", "loan", "stream")

    def __init__(self, stream: ReadStream) -> None:
        self.stream = stream
        self.loan: Loan | None = None
        # What the holder has asked to wait on; asked for once more, a stream may answer with another.
        self._moves_on: Request | None = None

    def lend(self, name: str = "reader") -> Loan:
        """Hand out a loan; the one before is over.

        Args:
            name: of the new holder, for the message that the old one gets.
        """
        self._move_on(f"the read side was lent to {name!r}")
        self.loan = Loan(self, name)
        return self.loan

    def end_loan(self, reason: str = "the read side was taken back") -> None:
        """End the loan, if there is one: its holder gets `Lent`. What comes now waits for the next holder."""
        if self.loan is not None:
            self._move_on(reason)

    def _move_on(self, reason: str) -> None:
        if self.loan is not None:
            self.loan.reason = reason
            self.loan = None
        request, self._moves_on = self._moves_on or self.stream.readable, None
        # A request without `pass_on` (such as YIELD) has nobody parked on it.
        pass_on = getattr(request, "pass_on", None)
        if pass_on is not None:
            pass_on(Lent(reason))

    def wait_on(self) -> Request:
        """Give the request to wait on, and remember that the holder may be found there. For `Loan`."""
        self._moves_on = request = self.stream.readable
        return request


class Loan:
    """A stream to read, for as long as the loan is good. Made by `ReadSide.lend`; `ReadYield` takes it.

    Attributes:
        name: of the holder.
        reason: why it is over; None while it is good.
    """

    __slots__ = ("_side", "name", "reason")

    def __init__(self, side: ReadSide, name: str) -> None:
        self._side = side
        self.name = name
        self.reason: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether the stream may be read through this loan."""
        return self._side.loan is self

    @property
    def readable(self) -> Request:
        """The request that is answered when a refused read is worth another try.

        To be yielded at once: kept, it would outlive the loan.

        Raises:
            Lent: the loan is over.
        """
        return self._good_side().wait_on()

    @property
    def hint(self) -> Any:
        """The stream's, see `ReadYield`."""
        return self if hasattr(self._side.stream, "hint") else _NO_HINT

    @property
    def drained(self) -> bool:
        """Whether a read would be refused now and news are to come; False when the loan is over."""
        stream: Any = self._side.stream
        return self.is_good and bool(getattr(stream, "hint", _NO_HINT).drained)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read as the stream does.

        Raises:
            Lent: the loan is over; nothing was read.
            any other: as the stream's `readinto`.
        """
        return self._good_side().stream.readinto(buffer)

    def read(self, limit_bytes: int) -> bytes:
        """Read new bytes, of a stream that has `read`. Raises as `readinto`."""
        stream: Any = self._good_side().stream
        data: bytes = stream.read(limit_bytes)
        return data

    def give_back(self) -> None:
        """End the loan from the holder's side. Nothing happens if it is over."""
        if self.is_good:
            self._side.end_loan("the loan was given back")

    def _good_side(self) -> ReadSide:
        if self._side.loan is not self:
            raise Lent(self.reason or "the loan is over")
        return self._side

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def __repr__(self) -> str:
        return f"<Loan {self.name!r} {'good' if self.is_good else f'over: {self.reason}'}>"


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
            yield YIELD
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
                yield YIELD
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
                yield YIELD
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
            yield YIELD
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
            yield YIELD
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
            yield YIELD
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
