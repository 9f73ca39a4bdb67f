"""A signal: a level flag for services of one thread, and the smallest thing one can wait for.

The signal is itself the request, made once: `yield signal` returns when it is set, and clears it. One waiter;
a second one is a mistake that would lose wakes, so it gets `Busy`.
"""

from __future__ import annotations

from reactor.errors import Busy
from reactor.requests import Request
from reactor.waiting import PARKED, Waiter

__all__ = ["Signal"]


class Signal(Request):
    """A flag that one service may wait for. Not for use across threads."""

    __slots__ = ("is_set", "waiter")

    def __init__(self) -> None:
        self.is_set = False
        self.waiter: Waiter | None = None

    def set(self) -> None:
        """Set the flag; a service that waits is resumed and has thereby consumed it."""
        waiter = self.waiter
        if waiter is None:
            self.is_set = True
        else:
            self.waiter = None
            waiter.wake()

    def clear(self) -> None:
        """Unset the flag."""
        self.is_set = False

    def undo(self, task: Waiter) -> None:
        self.waiter = None

    def pass_on(self, error: BaseException) -> None:
        """Throw an error into who waits, if anybody does, and set the flag for the next. For lending."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.wake_error(error)
        self.is_set = True

    def give_back(self, value: None) -> None:
        """Undo a wait whose end nobody wants. For `Select`."""
        self.set()

    def begin(self, task: Waiter) -> object:
        """Consume the flag, or park the task. For the runner.

        Raises:
            Busy: somebody waits already.
        """
        if self.waiter is not None:
            raise Busy(f"signal is waited for by {self.waiter.name!r}, {task.name!r} cannot wait too")
        if self.is_set:
            self.is_set = False
            return None
        self.waiter = task
        task.wait = self
        return PARKED
