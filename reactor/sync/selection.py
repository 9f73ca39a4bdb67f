"""`Select`: wait for the first of several things.

    chosen = yield Select(commands, child, Sleep(10))

A `_Case` waits on each source and looks like a task to it, so channels, signals, handles and timers need no
code for selection. The first case that is woken removes the others from their waits; nothing is left behind,
and an item that reaches a late case goes back to its source.

For sources that other threads answer, all cases share one `Claim`: the first thread to take it answers.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from reactor.core.forgotten import remind
from reactor.core.requests import PARKED, Claim, NeedsYield, Runner, Undoable, Waiter
from reactor.core.task import Handle, Join
from reactor.core.timers import Sleep
from reactor.errors import BadRequest, Busy, ReactorError, renewed
from reactor.sync.channel import Channel, ReceiveItem
from reactor.sync.scope import Signal

__all__ = ["Chosen", "Select", "Source"]

Source: TypeAlias = Channel[Any] | Handle[Any] | Signal | Sleep


class Chosen:
    """The answer to a `Select`.

    Attributes:
        source: which of the sources was first.
        error: `ChannelClosed` of a channel, or the error that ended a service; else None.
    """

    __slots__ = ("_value", "error", "source")

    def __init__(self, source: Source, value: Any, error: BaseException | None) -> None:
        self.source = source
        self.error = error
        self._value = value

    def result(self) -> Any:
        """The received item or the result of the service; None for a signal or a sleep. Raises `error`."""
        if self.error is not None:
            raise renewed(self.error)
        return self._value


class Select(NeedsYield):
    """Resume with the first source that is ready: `chosen = yield select`.

    Made once and yielded repeatedly, by one service at a time. Ready sources take turns. A source that
    has ended (a closed and drained channel, a finished service) is chosen once more and then removed:
    `while select: chosen = yield select` takes everything. A cancelled select has taken nothing.

    Args:
        sources: channels to receive from, handles to join, signals to consume, and `Sleep(s)`, which is
            restarted by each wait.
    Raises:
        BadRequest: another kind of object.
    """

    __slots__ = ("_cases", "_claim", "_next", "_task", "sources")

    def __init__(self, *sources: Source) -> None:
        self.sources: list[Source] = []
        self._next = 0
        self._task: Waiter | None = None
        self._claim: Claim | None = None
        self._cases: list[_Case] = []
        for source in sources:
            if isinstance(source, Sleep):
                source.take_note()  # before another source is refused: this one was not forgotten
        for source in sources:
            self.add(source)
        # One without sources is filled later, and may end up with none.
        text = "Select(...) was made and never yielded: write `yield Select(...)`"
        self.reminder = remind(text) if sources else None

    def __len__(self) -> int:
        """Number of sources that have not ended."""
        return len(self.sources)

    def add(self, source: Source) -> None:
        """Add a source, from the next wait on. Raises BadRequest: it cannot be selected."""
        if not isinstance(source, Channel | Handle | Signal | Sleep):
            raise BadRequest(f"cannot select over {source!r}: channels, handles, signals and Sleep only")
        if isinstance(source, Sleep):
            source.take_note()
        self.sources.append(source)

    def discard(self, source: Source) -> None:
        """Remove a source, from the next wait on; no effect if it is not one."""
        if source in self.sources:
            index = self.sources.index(source)
            del self.sources[index]
            if index < self._next:
                self._next -= 1

    # For the runner.

    def begin(self, task: Waiter) -> object:
        """See `Request`.

        Raises:
            Busy: another service waits here, or on one of the signals.
            BadRequest: no source is left, or a handle belongs to another runner.
        """
        if self.reminder is not None:
            self.take_note()
        if self._task is not None:
            raise Busy(f"a select is waited on by {self._task.name!r}, {task.name!r} cannot wait too")
        sources = self.sources
        if not sources:
            raise BadRequest("a select without a source would never end")
        self._task = task
        self._claim = None
        task.wait = self
        first = self._next % len(sources)
        for source in sources[first:] + sources[:first]:
            case = _Case(self, source, task)
            try:
                answer = case.request.begin(case)
            except (Busy, BadRequest):
                if self._undo_cases_unless_late(case):
                    break
                self._task = task.wait = None
                raise
            except ReactorError as error:
                case.wake_error(error)
            else:
                if answer is not PARKED:
                    case.wake(answer)
                elif self._task is not None:
                    self._cases.append(case)
            if self._task is None:
                break
        return PARKED

    def _undo_cases_unless_late(self, owner: object) -> bool:
        """Remove the cases from their waits. Returns True when another thread has answered one of them."""
        if self._claim is not None and not self._claim.take(owner):
            return True
        cases, self._cases = self._cases, []
        for case in cases:
            if case is not owner and case.wait is not None:
                case.wait.undo(case)
        return False

    def undo(self, task: Waiter) -> bool:
        if self._undo_cases_unless_late(self):
            return True
        self._task = None
        return False

    @property
    def is_from_outside(self) -> bool:
        """Whether another thread may answer."""
        return any(getattr(case.wait, "is_from_outside", False) for case in self._cases)

    def make_claim(self) -> Claim:
        """The claim that all cases of this wait share."""
        if self._claim is None:
            self._claim = Claim()
        return self._claim

    def finish(self, case: _Case, value: Any, error: BaseException | None) -> bool:
        """Wake the service unless it has an answer already. Returns whether it was woken."""
        task = self._task
        if task is None or self._undo_cases_unless_late(case):
            return False
        self._task = None
        source = case.source
        index = self.sources.index(source) if source in self.sources else 0
        self._next = index + 1
        if error is not None or isinstance(source, Handle):
            self.discard(source)
        task.wake(Chosen(source, value, error))
        return True


class _Case:
    """The wait on one source; a `Waiter` like a task."""

    __slots__ = ("_select", "name", "request", "runner", "source", "wait")

    def __init__(self, select: Select, source: Source, task: Waiter) -> None:
        self._select = select
        self.source = source
        self.request = _request_of(source)
        self.name = task.name
        self.runner: Runner = task.runner
        self.wait: Undoable | None = None

    def wake(self, value: Any = None) -> None:
        self.wait = None
        if not self._select.finish(self, value, None):
            give_back = getattr(self.request, "give_back", None)
            if give_back is not None:
                give_back(value)

    def wake_error(self, error: BaseException) -> None:
        self.wait = None
        # If it is late the next wait finds the end again.
        self._select.finish(self, None, error)

    def make_claim(self) -> Claim:
        return self._select.make_claim()


def _request_of(source: Source) -> ReceiveItem | Join | Signal | Sleep:
    if isinstance(source, Channel):
        return source.receiving
    if isinstance(source, Handle):
        return Join(source)
    return source
