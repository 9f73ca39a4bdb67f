"""Lending: the read side of a stream moves from one service to another, whatever happens to it meanwhile.

A stream may be passed from hand to hand as it is, as long as each service stops reading before the next one
starts. `ReadSide` is for the case where it is taken away: from a service that waits for bytes, or has just
been woken for some and has not run yet. It hands out *loans*. A loan is a stream to read, and it is good
until the next one is handed out:

* Who waits through an old loan is woken with `Lent`, once. Who reads or waits through it later gets `Lent`.
  Neither has taken anything from the stream.
* The news move along. What the old holder was woken for may be all the news there ever are, so the first wait
  of the new holder is answered at once: try. The end, a lost connection and a close come to whoever holds the
  side when they are read.

Rule for changing this file: a loan that is over touches neither the stream nor what it waits on.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

from reactor.errors import Lent
from reactor.requests import Request
from reactor.streams import ReadStream

__all__ = ["Loan", "ReadSide"]


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
        # A request without `pass_on` (such as PASS) has nobody parked on it.
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
