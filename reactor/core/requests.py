"""What a service may yield: the whole vocabulary between services and whoever runs them.

A service is a generator. It yields a request and is resumed with the answer, or the request's error is thrown
into it. It never holds the reactor, so any runner that answers these requests can run it. The runner picks
the handler by the request's class.

Rules for changing this file:

1. Plain data. A request knows its arguments, and how to forget a waiter (`undo`), nothing else; the answers
   are in the runner's handlers.
2. A request that is waited on often is made once and yielded again and again (`descriptor.readable`,
   `signal`, `YIELD`): an object per yield costs half a microsecond, which is a tenth of serving a small
   request.
3. `undo(task)` is how a timeout or a cancellation takes a waiting task out of what it waits for. After it a
   late wake finds nothing.
4. What may be woken for no reason says so in `may_end_early`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeAlias, TypeVar

from reactor.core.forgotten import Reminder, discard, remind, settle

if TYPE_CHECKING:
    from reactor.core.poller import Poller
    from reactor.core.task import Task
    from reactor.core.threads import ThreadCalls
    from reactor.core.timers import Timers

__all__ = [
    "PARKED",
    "YIELD",
    "Claim",
    "CurrentTask",
    "CurrentTime",
    "Pass",
    "Request",
    "Runner",
    "Service",
    "Spawn",
    "Undoable",
    "Waiter",
]

T = TypeVar("T")


class Request:
    """Base of everything a service may yield.

    Attributes:
        may_end_early: whether `Handle.unyield` may wake a service that waits for it.
    """

    __slots__ = ()

    may_end_early: ClassVar[bool] = False

    def undo(self, task: Waiter) -> bool | None:
        """Forget that `task` waits here. Only called while it does. See `Undoable`.

        Raises:
            NotImplementedError: nobody can wait for a request of this class.
        """
        raise NotImplementedError(f"{type(self).__name__} is never waited on")


class OneUse(Request):
    """Base of the requests that are made for one `yield`. One that is never yielded warns.

    A runner that reads what is asked has received the request, so reading takes note of it.
    """

    __slots__ = ("_reminder",)

    _reminder: Reminder | None

    def take_note(self) -> None:
        """Take note that it was yielded."""
        reminder, self._reminder = self._reminder, None
        if reminder is not None:
            settle(reminder)

    def drop(self) -> None:
        """Take note that it was yielded by a service that gets an error in place of the answer."""
        self.take_note()


Service: TypeAlias = Generator[Request, Any, T]
"""A service that ends with a T: `def echo(stream) -> Service[int]`."""


class Pass(Request):
    """Let all others that are ready go first."""

    __slots__ = ()


YIELD: Final = Pass()


class CurrentTask(Request):
    """Answered at once with the asking service's own handle."""

    __slots__ = ()


class CurrentTime(Request):
    """Answered at once with the runner's clock: float seconds, monotonic, of no fixed origin."""

    __slots__ = ()


class Spawn(OneUse):
    """Start a service beside this one. Answered at once with its `Handle`; it first runs in the next pass."""

    __slots__ = ("_service", "name")

    def __init__(self, service: Service[Any], name: str | None = None) -> None:
        self._service = service
        self.name = name
        self._reminder = remind("Spawn(...) was made and never yielded: write `yield Spawn(...)`")

    def drop(self) -> None:
        """See `OneUse`. The other service is not started."""
        self.take_note()
        discard(self._service)

    @property
    def service(self) -> Service[Any]:
        """For the runner."""
        self.take_note()
        return self._service


# What waits, what is waited on, and what runs them, as they see each other.
#
# Here so that requests, channels and signals need not know of tasks, nor tasks of the loop: each knows the
# protocols of this file, and imports point one way.
#
# Rule for changing this file: an attribute comes in when a second kind of waiter needs it. The two kinds
# are a service (task.py) and one of the waits of a `Select` (selection.py).
PARKED: Final = object()
"""What a request's handler returns when there is no answer yet.

It has set `wait` of the waiter, or put the task into the queue.
"""


class Undoable(Protocol):
    """What a waiter can be parked on."""

    def undo(self, task: Waiter, /) -> bool | None:
        """Forget the waiter, and return something false.

        Or return True: too late, another thread has answered and the answer is on its way. The waiter then
        stays parked until it comes.
        """


class Waiter(Protocol):
    """What waits for one answer.

    Attributes:
        name: for messages.
        runner: whoever runs it.
        wait: what it is parked on.
    """

    name: str
    runner: Runner
    wait: Undoable | None

    def wake(self, value: Any = None, /) -> None:
        """Take the answer. Called once, in the runner's thread."""

    def wake_error(self, error: BaseException, /) -> None:
        """Take an error in place of the answer."""

    def make_claim(self) -> Claim:
        """Give what threads that would answer this wait compete for."""


class Runner(Protocol):
    """What a task and the handlers of its requests need of whoever runs it."""

    ready: deque[Task[Any]]
    poller: Poller
    timers: Timers
    threads: ThreadCalls
    now: Callable[[], float]

    def start(self, service: Generator[Any, Any, Any], name: str | None, /) -> Task[Any]:
        """Make a task and put it into the queue."""

    def post(self, function: Callable[..., object], /, *args: Any) -> None:
        """Have a function called by the loop, from any thread."""


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
