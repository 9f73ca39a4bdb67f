"""Requests, which a service yields, and the protocols between requests and the runner of services.

A service is a generator. It yields a request and is resumed with the answer, or the error of the request is
thrown into it:

    now_s = yield CurrentTime()
    task = yield Spawn(echo(stream))
    yield YIELD

A service never holds the reactor. Any runner that has the attributes of `Runner` can run it: the runner calls
`request.begin(task)` and knows nothing else of a request. Requests that need a timer, the poller, a thread
or another task are defined in the file of that thing; those of this file need only the runner.

Rules for changing this file:

1. `begin(task)` returns the answer. Or it stores the task where the event will find it, sets `task.wait` and
   returns `PARKED`. An exception of `begin` is thrown into the service.
2. A timeout or a cancellation removes a parked task with `undo(task)`. A late wake then finds nothing.
3. A frequent request is made once and yielded repeatedly (`descriptor.readable`, a signal, `YIELD`). An
   object per yield costs half a microsecond, a tenth of serving a small request.
4. A request that may wake without cause sets `may_end_early`.
5. `Waiter` gets an attribute when its second implementation needs it. The two are `Task` (task.py) and one
   case of a `Select` (reactor/sync/selection.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeAlias, TypeVar

from reactor.core.forgotten import Reminder, discard, remind, settle
from reactor.errors import BadRequest

if TYPE_CHECKING:
    from reactor.core.task import Task

__all__ = [
    "PARKED",
    "YIELD",
    "Claim",
    "CurrentTask",
    "CurrentTime",
    "NeedsYield",
    "Request",
    "Runner",
    "Service",
    "Spawn",
    "Undoable",
    "Waiter",
    "Yield",
]

T = TypeVar("T")

PARKED: Final = object()
"""Returned by `Request.begin` when there is no answer yet: the task waits, or is in the runner's queue."""


class Undoable(Protocol):
    """The object on which a waiter is parked."""

    def undo(self, task: Waiter, /) -> bool | None:
        """Remove the waiter and return a false value.

        True means too late: another thread has answered. The waiter then stays parked until the answer
        arrives.
        """


class Waiter(Protocol):
    """The receiver of one answer.

    Attributes:
        name: for messages.
        runner: the loop that runs it.
        wait: the object on which it is parked; None when it does not wait.
    """

    name: str
    runner: Runner
    wait: Undoable | None

    def wake(self, value: Any = None, /) -> None:
        """Take the answer. Called once, in the runner's thread."""

    def wake_error(self, error: BaseException, /) -> None:
        """Take an error instead of the answer."""

    def make_claim(self) -> Claim:
        """Give the claim that the threads which may answer this wait compete for."""


class Runner(Protocol):
    """The loop that runs a service, as its requests see it.

    Attributes:
        ready: the queue of tasks to resume.
        poller, timers, threads: for the requests of poller.py, timers.py and threads.py, which give the type:
            this file imports none of them.
        now: the clock, seconds of no fixed origin.
    """

    ready: deque[Any]
    poller: Any
    timers: Any
    threads: Any
    now: Callable[[], float]

    def start(self, service: Generator[Any, Any, Any], name: str | None, /) -> Task[Any]:
        """Make a task and append it to the queue."""

    def post(self, function: Callable[..., object], /, *args: Any) -> None:
        """Let the loop call a function, from any thread."""


class Claim:
    """The right to answer a wait, taken once by the first of several threads."""

    __slots__ = ("_lock", "_owner")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: object = None

    def take(self, owner: object) -> bool:
        """Take the claim, from any thread. Returns whether `owner` has it, now or since an earlier call."""
        if self._lock.acquire(blocking=False):
            self._owner = owner
            return True
        return self._owner is owner


class Request:
    """Base of all objects that a service may yield.

    Attributes:
        may_end_early: whether `Handle.unyield` may wake a service that waits for it.
    """

    __slots__ = ()

    may_end_early: ClassVar[bool] = False

    def begin(self, task: Task[Any]) -> object:
        """Answer `task`, or park it and return PARKED. For the runner.

        Raises:
            BadRequest: this class has no answer.
            any other: goes to the service.
        """
        raise BadRequest(f"{type(self).__name__} defines no `begin`, no runner can answer it")

    def undo(self, task: Waiter) -> bool | None:
        """Remove a task that waits here. For the runner; see `Undoable`.

        Raises:
            NotImplementedError: no task can wait for a request of this class.
        """
        raise NotImplementedError(f"{type(self).__name__} is never waited on")


class NeedsYield(Request):
    """Base of the requests that a service makes, such as `Sleep(1)`. A request that is never yielded warns.

    A test or a runner that steps a service by hand reads the arguments of a request; that counts as a yield.

    Attributes:
        reminder: warns when it is dropped; None once the request was yielded.
    """

    __slots__ = ("reminder",)

    reminder: Reminder | None

    def take_note(self) -> None:
        """Record that it was yielded. Each `begin` calls it, and each read of its arguments."""
        reminder, self.reminder = self.reminder, None
        if reminder is not None:
            settle(reminder)

    def drop(self) -> None:
        """Record that it was yielded, by a service that gets an error instead of the answer."""
        self.take_note()


Service: TypeAlias = Generator[Request, Any, T]
"""A service that ends with a T: `def echo(stream) -> Service[int]`."""


class Yield(Request):
    """Let all other ready services run first."""

    __slots__ = ()

    def begin(self, task: Task[Any]) -> object:
        task.runner.ready.append(task)
        return PARKED


YIELD: Final = Yield()


class CurrentTask(Request):
    """Answered immediately with the service's own handle."""

    __slots__ = ()

    def begin(self, task: Task[Any]) -> object:
        return task


class CurrentTime(Request):
    """Answered immediately with the runner's clock: float seconds, monotonic, of no fixed origin."""

    __slots__ = ()

    def begin(self, task: Task[Any]) -> object:
        return task.runner.now()


class Spawn(NeedsYield):
    """Start a service. Answered immediately with its `Handle`; it first runs in the next pass."""

    __slots__ = ("_service", "name")

    def __init__(self, service: Service[Any], name: str | None = None) -> None:
        self._service = service
        self.name = name
        self.reminder = remind("Spawn(...) was made and never yielded: write `yield Spawn(...)`")

    def begin(self, task: Task[Any]) -> object:
        """See `Request`. Raises Closed and BadRequest as `Reactor.spawn`."""
        return task.runner.start(self.service, self.name)

    @property
    def service(self) -> Service[Any]:
        """For a runner without `begin`."""
        self.take_note()
        return self._service

    def drop(self) -> None:
        """See `NeedsYield`. The other service is not started."""
        discard(self.service)
