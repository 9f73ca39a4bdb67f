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

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, TypeVar

from reactor.core.forgotten import Reminder, discard, remind, settle

if TYPE_CHECKING:
    from reactor.core.poller import Descriptor
    from reactor.core.task import Handle, Waiter

__all__ = [
    "YIELD",
    "CurrentTask",
    "CurrentTime",
    "Join",
    "LookUp",
    "Pass",
    "Request",
    "RunInThread",
    "Service",
    "SetTimer",
    "Sleep",
    "Spawn",
    "WaitReadable",
    "WaitWritable",
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


class WaitReadable(Request):
    """Resume when the descriptor can be read, has ended or has failed.

    Spurious wakes are allowed: try, and wait again when refused.
    """

    __slots__ = ("descriptor",)

    may_end_early = True

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor

    def undo(self, task: Waiter) -> None:
        self.descriptor.reader = None

    def pass_on(self, error: BaseException) -> None:
        """Throw an error into who waits, if anybody does, and answer the next wait at once. For lending."""
        descriptor = self.descriptor
        if descriptor.reader is not None:
            descriptor.reader.interrupt(error)
        descriptor.read_ready = True


class WaitWritable(Request):
    """Resume when the descriptor can be written or has failed. Spurious wakes are allowed, as above."""

    __slots__ = ("descriptor",)

    may_end_early = True

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor

    def undo(self, task: Waiter) -> None:
        self.descriptor.writer = None


class Sleep(OneUse):
    """Resume after so many seconds of the runner's clock; 0 or less: with the next pass, inf: never."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._reminder = remind("Sleep(...) was made and never yielded: write `yield Sleep(...)`")

    @property
    def seconds(self) -> float:
        """For the runner."""
        self.take_note()
        return self._seconds


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


class Join(OneUse):
    """Resume when a service has ended.

    With its result, or its error is raised here (`ServiceCancelled` when it was cancelled).
    """

    __slots__ = ("_handle",)

    def __init__(self, handle: Handle[Any]) -> None:
        self._handle = handle
        self._reminder = remind("Join(...) was made and never yielded: write `yield Join(...)`")

    @property
    def handle(self) -> Handle[Any]:
        """For the runner."""
        self.take_note()
        return self._handle

    def undo(self, task: Waiter) -> None:
        self._handle.forget_watcher(task)


class RunInThread(OneUse):
    """Call `function(*args)` in a thread of the runner's small pool; resume with its result or its error.

    For blocking calls such as those about files. When the waiting service is cancelled, a call that has begun
    runs on and its outcome is dropped. A call that hangs keeps neither others nor the end of the program.

    Attributes:
        pool: which threads run it, see thread_calls.py.
    Raises:
        TypeError: the function cannot be called.
    """

    __slots__ = ("_function", "args")

    pool: ClassVar[str] = "calls"

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        if not callable(function):
            raise TypeError(f"RunInThread takes a function and its arguments, got {function!r}")
        self._function = function
        self.args = args
        self._reminder = remind("RunInThread(...) was made and never yielded: write `yield RunInThread(...)`")

    @property
    def function(self) -> Callable[..., Any]:
        """For the runner."""
        self.take_note()
        return self._function


class LookUp(RunInThread):
    """The same for names of hosts, in threads of their own: a slow name does not hold up a file."""

    __slots__ = ()

    pool = "names"


class SetTimer(Request):
    """Answered at once with a `Deadline`, which interrupts this service when its time is over.

    Used by `timeout_after`; a service has no need of it.
    """

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
