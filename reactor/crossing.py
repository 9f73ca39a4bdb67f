"""Waits that end in another thread: for channels and handles that are shared between threads.

A service that waits for another thread is parked on a `Crossing`; a thread that waits is a `ThreadWaiter`.
Whoever answers first *claims* the waiter, under the lock of what is waited on, and then delivers; a
cancellation or a timeout claims it too. So exactly one of them comes first, whichever thread it is in. A
cancellation that comes second is told "too late" and is thrown at the service's next yield, as for any answer
that is on its way.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

from reactor.errors import Closed
from reactor.timers import lock_timeout
from reactor.waiting import Waiter

__all__ = ["Claim", "Crossing", "Home", "ThreadWaiter"]


class Home(Protocol):
    """What is waited for."""

    def forget(self, waiter: Any, /) -> None:
        """Take a waiter out, from any thread, if it is still in there."""


class Claim:
    """Taken once, by whoever comes first; to that one it stays taken."""

    __slots__ = ("_lock", "_owner")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: object = None

    def take(self, owner: object) -> bool:
        """Take it, from any thread. Returns whether it is `owner`'s, now or since before."""
        if self._lock.acquire(blocking=False):
            self._owner = owner
            return True
        return self._owner is owner


class Crossing:
    """What a service is parked on while another thread is to answer.

    Args:
        task: who waits.
        home: where it is entered, and can be taken out again.
        item: what a blocked sender wants to send.
    """

    __slots__ = ("_claim", "_home", "item", "task")

    # For the loop, which tells a service that nobody can wake any more.
    is_from_outside = True

    def __init__(self, task: Waiter, home: Home, item: Any = None) -> None:
        self.task = task
        self.item = item
        self._claim = task.make_claim()
        self._home = home

    def claim(self) -> bool:
        """Say that the answer is ours to give, from any thread. Once claimed it must be delivered."""
        return self._claim.take(self.task)

    def deliver(self, value: Any, error: BaseException | None = None) -> bool:
        """Send the answer over, from any thread. Returns False when the service's loop is closed."""
        try:
            self.task.runner.post(self._arrive, value, error)
        except Closed:
            return False
        return True

    def _arrive(self, value: Any, error: BaseException | None) -> None:
        task = self.task
        if task.wait is not self:
            # The loop was closed, and ended the service by force.
            return
        if error is None:
            task.wake(value)
        else:
            task.wake_error(error)

    def undo(self, task: Waiter) -> bool:
        is_late = not self._claim.take(self)
        self._home.forget(self)
        return is_late


class ThreadWaiter:
    """A thread that waits; for threads without a loop.

    Args:
        item: what a blocked sender wants to send.
    """

    __slots__ = ("_claim", "_gate", "_is_answered", "error", "item", "value")

    def __init__(self, item: Any = None) -> None:
        self.item = item
        self.value: Any = None
        self.error: BaseException | None = None
        self._claim = Claim()
        self._is_answered = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def claim(self) -> bool:
        """Say that the answer is ours to give. Once claimed it must be delivered."""
        return self._claim.take(None)

    def deliver(self, value: Any, error: BaseException | None = None) -> bool:
        """Give the answer; always True."""
        self.value = value
        self.error = error
        self._is_answered = True
        self._gate.release()
        return True

    def wait(self, timeout_s: float | None) -> bool:
        """Block until there is an answer. Returns False when the time is over; none will come then."""
        if self._gate.acquire(timeout=lock_timeout(timeout_s)):
            return True
        return not self.give_up()

    def give_up(self) -> bool:
        """Want no answer any more. Returns False when one is there already."""
        if self._claim.take(self):
            return True
        if not self._is_answered:
            # On its way: whoever claimed delivers next.
            self._gate.acquire()
        return False
