"""Timers, the clocks they are measured by, and the requests that use them (`Sleep`, `SetTimer`).

    yield Sleep(0.5)

The timers are a heap with lazy cancellation. Most timers are timeouts that never fire, so cancelling must be
cheap: the entry is emptied and stays in the heap. The exception is the last leaf, which can be dropped
directly (the usual case: a timeout is set and cleared before the next one is set). When more than half of the
entries are empty the heap is rebuilt without them. Memory so follows the number of living timers, and each
rebuild is paid for by as many cancellations.

An entry is a plain list, compared by deadline, then by order of creation. Comparing objects with `__lt__`
would call into Python each time, and a tuple could not be emptied.

The loop gets the time from its clock only. With `FakeClock`, which jumps to the next timer when all services
wait, a test of an hour's timeout takes no time and has no race with the real clock.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

from reactor.core.forgotten import remind
from reactor.core.requests import PARKED, NeedsYield, Request, Runner, Waiter
from reactor.core.task import Task
from reactor.errors import BadRequest, Cancelled

__all__ = [
    "Clock",
    "Deadline",
    "Expired",
    "FakeClock",
    "MonotonicClock",
    "SetTimer",
    "Sleep",
    "SleepingTask",
    "Timer",
    "Timers",
    "check_seconds",
    "lock_timeout",
]


class Clock(Protocol):
    """A source of seconds that never go back, of no fixed origin.

    The loop never waits for a clock that also has `jump_to(deadline_s)`: when nothing is ready and no thread
    call is under way it calls that with the deadline of the next timer instead.
    """

    def now(self) -> float:
        """Give the time in seconds."""


class MonotonicClock:
    """The system's monotonic clock."""

    __slots__ = ()

    now = staticmethod(time.monotonic)


class FakeClock:
    """A clock that stands still until `advance` is called or the loop would wait for a timer.

    Raises:
        BadRequest: `start_s` is not a number.
    """

    __slots__ = ("_now_s",)

    def __init__(self, start_s: float = 0.0) -> None:
        check_seconds(start_s)
        self._now_s = start_s

    def now(self) -> float:
        """Give the time in seconds."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let time pass. Call it from a service or while the loop is not running.

        Raises:
            ValueError: `seconds` is negative. BadRequest: it is not a number.
        """
        check_seconds(seconds)
        if seconds < 0:
            raise ValueError(f"a clock goes forward, got {seconds} s")
        self._now_s += seconds

    def jump_to(self, deadline_s: float) -> None:
        """Let time pass up to a deadline; a deadline in the past does nothing."""
        self._now_s = max(self._now_s, deadline_s)


Timer: TypeAlias = list[Any]
"""[deadline_s, order, action or None when fired or cancelled, argument]; for callers a token for `cancel`."""

_ACTION: Final = 2
_ARGUMENT: Final = 3
# With fewer empty entries a rebuild is not worth its fixed cost.
_MIN_DEAD: Final = 64


def check_seconds(seconds: object) -> None:
    """Check a time to wait: any number but nan, inf included. Raises BadRequest."""
    if type(seconds) is not float and (not isinstance(seconds, int | float) or isinstance(seconds, bool)):
        raise BadRequest(f"a time to wait is a number of seconds, got {seconds!r}")
    # nan has no order relative to the other deadlines and would corrupt the heap.
    if seconds != seconds:
        raise BadRequest("a time to wait is a number of seconds, got nan")


def lock_timeout(timeout_s: float | None) -> float:
    """Convert a time limit for `Lock.acquire`, which refuses inf. Raises BadRequest."""
    if timeout_s is None:
        return -1
    check_seconds(timeout_s)
    return min(max(0, timeout_s), threading.TIMEOUT_MAX)


class Timers:
    """The pending timers of one loop. Times are arguments: the clock belongs to the caller.

    Attributes:
        held: the heap, cancelled entries included. Callers may only check whether it is empty.
    """

    __slots__ = ("_dead", "_next_order", "held")

    def __init__(self) -> None:
        self.held: list[Timer] = []
        self._next_order = itertools.count().__next__
        self._dead = 0

    def __len__(self) -> int:
        return len(self.held) - self._dead

    def add(self, deadline_s: float, action: Callable[[Any], object], argument: Any = None) -> Timer:
        """Let the first `fire` at or after the deadline call `action(argument)`.

        Equal deadlines keep their order.
        """
        timer = [deadline_s, self._next_order(), action, argument]
        heapq.heappush(self.held, timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Cancel a timer; no effect when it has fired or was cancelled before."""
        if timer[_ACTION] is None:
            return
        timer[_ACTION] = timer[_ARGUMENT] = None
        heap = self.held
        if heap[-1] is timer:
            heap.pop()
            return
        self._dead = dead = self._dead + 1
        if dead > _MIN_DEAD and dead * 2 > len(heap):
            self.held = [entry for entry in heap if entry[_ACTION] is not None]
            heapq.heapify(self.held)
            self._dead = 0

    def next_deadline(self) -> float | None:
        """The earliest deadline, None without a living timer."""
        while self.held:
            first = self.held[0]
            if first[_ACTION] is not None:
                deadline_s: float = first[0]
                return deadline_s
            heapq.heappop(self.held)
            self._dead -= 1
        return None

    def fire(self, now_s: float) -> int:
        """Call the actions of all due timers, in order of deadline. Returns their number.

        An action may cancel other timers. Timers that an action adds and that are due already are called too,
        so actions must not add them endlessly.
        """
        fired = 0
        while self.held and self.held[0][0] <= now_s:
            timer = heapq.heappop(self.held)
            action, argument = timer[_ACTION], timer[_ARGUMENT]
            if action is None:
                self._dead -= 1
                continue
            timer[_ACTION] = timer[_ARGUMENT] = None
            fired += 1
            action(argument)
        return fired


class Expired(Cancelled):
    """Thrown into a service by its `Deadline`.

    `timeout_after` turns the error of its own deadline into `TimedOut` and lets all others pass.
    """


class Deadline:
    """The timer of one `timeout_after`: interrupts its task unless cancelled before."""

    __slots__ = ("_task", "_timer", "_timers", "error")

    def __init__(self, task: Task[Any], timers: Timers, deadline_s: float) -> None:
        self._task = task
        self._timers = timers
        self._timer = timers.add(deadline_s, Deadline._fire, self)
        self.error: Expired | None = None

    def _fire(self) -> None:
        self.error = Expired()
        self._task.interrupt(self.error)

    def cancel(self) -> None:
        """Stop the timer. Its error is withdrawn if it has not been thrown yet."""
        self._timers.cancel(self._timer)
        if self.error is not None:
            self._task.take_back(self.error)


class SleepingTask:
    """The object on which a sleeping task is parked."""

    __slots__ = ("_timer", "_timers")

    def __init__(self, task: Waiter, timers: Timers, deadline_s: float) -> None:
        self._timers = timers
        self._timer = timers.add(deadline_s, task.wake)

    @property
    def deadline_s(self) -> float:
        """Time of the wake, on the runner's clock."""
        deadline_s: float = self._timer[0]
        return deadline_s

    def undo(self, task: Waiter) -> None:
        self._timers.cancel(self._timer)


class Sleep(NeedsYield):
    """Resume after a number of seconds of the runner's clock; 0 or less: in the next pass, inf: never."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.reminder = remind("Sleep(...) was made and never yielded: write `yield Sleep(...)`")

    @property
    def seconds(self) -> float:
        """For a runner without `begin`."""
        self.take_note()
        return self._seconds

    def begin(self, task: Waiter) -> object:
        """See `Request`. Raises BadRequest: not a number of seconds."""
        task.wait = SleepingTask(task, task.runner.timers, _deadline_s(self.seconds, task.runner))
        return PARKED


class SetTimer(Request):
    """Answered immediately with a `Deadline`, which interrupts this service when the time is over.

    Used by `timeout_after` and `move_on_after`.
    """

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def begin(self, task: Task[Any]) -> object:
        """See `Request`. Raises BadRequest: not a number of seconds."""
        return Deadline(task, task.runner.timers, _deadline_s(self.seconds, task.runner))


def _deadline_s(seconds: float, runner: Runner) -> float:
    check_seconds(seconds)
    try:
        return runner.now() + seconds
    except OverflowError:  # an int too large for a float
        return math.inf if seconds > 0 else -math.inf
