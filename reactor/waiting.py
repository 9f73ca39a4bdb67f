"""What waits, what is waited on, and what runs them, as they see each other.

Here so that requests, channels and signals need not know of tasks, nor tasks of the loop: each knows the
protocols of this file, and imports point one way.

Rule for changing this file: an attribute comes in when a second kind of waiter needs it. The two kinds are a
service (task.py) and one of the waits of a `Select` (selection.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from reactor.crossing import Claim
    from reactor.poller import Poller
    from reactor.task import Task
    from reactor.thread_calls import ThreadCalls
    from reactor.timers import Timers

__all__ = ["PARKED", "Runner", "Undoable", "Waiter"]

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
