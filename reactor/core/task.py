"""Services that were started: `Handle` for other services, `WeakHandle`, and `Task` for the loop.

    handle = yield Spawn(count_lines(stream))
    lines = yield from handle.join()

A handle has the name and the outcome of its service. The outcome is set once, and its watchers are notified:
tasks that join, or functions to be called. Handles belong to the thread of their runner. Other threads use
the future of `Reactor.submit`, or the handles of the thread spawners (run/spawners.py). Dropping a handle
does not end its service; scopes do that. A `WeakHandle` keeps neither the outcome nor the service alive.

A task is a handle, the generator, and the value to resume it with. A living task is in exactly one of three
states:

* waiting: `wait` is the thing it is parked on, whose `undo(task)` removes it;
* ready: `wait` is None, the task is in the runner's queue, and `value` or `thrown` is what it gets;
* running: `wait` is None, and the runner is inside its generator.

**The first wake wins.** The event, a timeout, a cancellation or a close ends a wait by clearing `wait`; later
ones find nothing to do. An interruption of a task that is ready or running, or that another thread has
answered already, must not overwrite the answer, which may be a received item. It is kept in `pending` and
thrown at the next yield. So a new task that is cancelled runs to its first yield, and its `finally` blocks
are executed.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Generator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, Generic, TypeVar, cast

from reactor.core.forgotten import Reminder, discard, remind, reminded, settle
from reactor.core.requests import PARKED, Claim, NeedsYield, Request, Runner, Service, Undoable, Waiter
from reactor.errors import (
    BadRequest,
    Busy,
    Cancelled,
    Closed,
    ServiceCancelled,
    check_type,
    is_ctrl_c,
    log_failure,
    renewed,
)

__all__ = ["Handle", "Join", "Task", "WeakHandle", "check_service", "name_of", "not_a_request"]

logger = logging.getLogger("reactor")
T = TypeVar("T")

# A service that answers GeneratorExit with another yield is abandoned after this many attempts.
_CLOSE_ATTEMPTS: Final = 16


class Handle(Generic[T]):
    """A started service: its name, its outcome, and methods to wait for it or to end it."""

    __slots__ = (
        "__weakref__",
        "_error",
        "_is_taken",
        "_result",
        "_watchers",
        "is_finished",
        "name",
        "was_asked",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_finished = False
        # Whether the outcome was read: then a failure need not be logged.
        self.was_asked = False
        self._result: T | None = None
        self._error: BaseException | None = None
        self._is_taken = False
        self._watchers: list[Waiter | Callable[[Handle[T]], object]] | None = None

    @property
    def error(self) -> BaseException | None:
        """The error that ended the service.

        None while it runs and when it returned, `Cancelled` when it was cancelled.
        """
        self.was_asked = True
        return self._error

    @property
    def is_watched(self) -> bool:
        """Whether a watcher waits for the outcome."""
        return bool(self._watchers)

    def result(self) -> T:
        """The value that the service returned.

        Raises:
            Busy: it has not ended yet.
            Closed: the result was removed by `take`.
            ServiceCancelled: it was cancelled.
            any other: the error it ended with.
        """
        if not self.is_finished:
            raise Busy(f"service {self.name!r} has not ended, it has no result yet")
        self.was_asked = True
        if self._error is not None:
            raise self.error_for_others()
        if self._is_taken:
            raise Closed(f"the result of service {self.name!r} was taken")
        return cast(T, self._result)

    def take(self) -> T:
        """Remove and return the result, such as the state of a service that is to be started again.

        Raises what `result` raises; Closed from the second call on.
        """
        result = self.result()
        self._is_taken = True
        self._result = None
        return result

    def weak(self) -> WeakHandle[T]:
        """Make a reference that does not keep the outcome alive."""
        return WeakHandle(self)

    def unyield(self) -> bool:
        """Wake the service early if it waits for the readiness of a descriptor, where a wake is a hint.

        The service then tries again. In any other state (running, ready, finished, asleep, waiting for an
        item or a signal) nothing happens.

        Returns:
            Whether the service was woken; in another thread, whether it may have been.
        """
        raise NotImplementedError

    def cancel(self, reason: str | None = None) -> bool:
        """Throw `Cancelled` into the service where it waits.

        Returns whether this call did it: only the first one does.
        """
        raise NotImplementedError

    @reminded
    def join(self, reminder: Reminder) -> Service[T]:
        """Wait for the end: `result = yield from handle.join()`. Raises what `result` raises."""
        settle(reminder)
        del reminder
        if self.is_finished:
            return self.result()
        # Annotated instead of `cast`, a call at run time: a tenth of a ping-pong over channels.
        result: T = yield Join(self)
        return result

    def add_done_callback(self, function: Callable[[Handle[T]], object]) -> None:
        """Call `function(handle)` when the service has ended, immediately if it already has.

        An error in it is logged.
        """
        if self.is_finished:
            self.was_asked = True
            self._call(function)
        else:
            self.add_watcher(function)

    # For the runner.

    def add_watcher(self, watcher: Waiter | Callable[[Handle[T]], object]) -> None:
        """Wake a task, or call a function, at the end."""
        if self._watchers is None:
            self._watchers = [watcher]
        else:
            self._watchers.append(watcher)

    def forget_watcher(self, watcher: Waiter) -> None:
        """Undo `add_watcher`."""
        if self._watchers is not None and watcher in self._watchers:
            self._watchers.remove(watcher)

    def join_from_outside(self, task: Waiter) -> object:
        """Answer with the result, or park a task of another runner until the service has ended.

        Raises:
            BadRequest: only tasks of the same runner can join this handle.
        """
        raise BadRequest(f"{self!r} is run by another reactor, {task.name!r} cannot join it")

    def error_for_others(self) -> BaseException:
        """Make a new error object for one watcher.

        The `Cancelled` of this service becomes `ServiceCancelled`: the watcher itself was not cancelled.
        """
        error = self._error
        assert error is not None
        if isinstance(error, Cancelled):
            wrapped = ServiceCancelled(f"service {self.name!r} was cancelled")
            wrapped.__cause__ = error
            return wrapped
        return renewed(error)

    def settle(self, result: T | None, error: BaseException | None) -> None:
        """Set the outcome and notify the watchers."""
        self.is_finished = True
        self._result = result
        self._error = error
        watchers = self._watchers
        if watchers is None:
            return
        self._watchers = None
        self.was_asked = True
        for watcher in watchers:
            if callable(watcher):
                self._call(watcher)
            elif error is None:
                watcher.wake(result)
            else:
                watcher.wake_error(self.error_for_others())

    def _call(self, function: Callable[[Handle[T]], object]) -> None:
        try:
            function(self)
        except BaseException as error:  # a callback must not end the loop
            if is_ctrl_c(error):
                raise
            log_failure(logger, error, "a done callback of service %r failed", self.name)

    def __repr__(self) -> str:
        if not self.is_finished:
            state = "alive"
        elif self._error is None:
            state = "returned"
        else:
            state = "cancelled" if isinstance(self._error, Cancelled) else f"failed: {self._error!r}"
        return f"<{type(self).__name__} {self.name!r} {state}>"


class WeakHandle(Generic[T]):
    """Refers to a service without keeping its outcome: for tables, and for callers that only `unyield`.

    The runner keeps a running service, so the reference is valid while the service runs or a handle exists.
    """

    __slots__ = ("_reference", "name")

    def __init__(self, handle: Handle[T]) -> None:
        check_type(handle, Handle, "WeakHandle", "the handle of a service")
        self.name = handle.name
        self._reference = weakref.ref(handle)

    def upgrade(self) -> Handle[T] | None:
        """The handle; None when the service has ended and its handle was dropped."""
        return self._reference()

    @property
    def is_finished(self) -> bool:
        """Whether the service has ended."""
        handle = self._reference()
        return handle is None or handle.is_finished

    def unyield(self) -> bool:
        """See `Handle.unyield`; no effect when the handle is gone."""
        handle = self._reference()
        return handle is not None and handle.unyield()

    def cancel(self, reason: str | None = None) -> bool:
        """See `Handle.cancel`; no effect when the handle is gone."""
        handle = self._reference()
        return handle is not None and handle.cancel(reason)

    def __repr__(self) -> str:
        return f"<WeakHandle {self.name!r} of {self._reference()!r}>"


def name_of(service: Service[Any], name: str | None) -> str:
    """The name of a service in messages.

    Raises:
        BadRequest: not a generator.
    """
    check_service(service)
    return name if name is not None else str(getattr(service, "__name__", "service"))


def check_service(service: object) -> None:
    """Check that an object is a generator.

    Raises:
        BadRequest: it is not.
    """
    if not isinstance(service, Generator):
        raise BadRequest(f"a service is a generator, got {service!r}: {_advice(service)}")


def _advice(service: object) -> str:
    """The correct form in place of an object that is not a service."""
    if isinstance(service, CoroutineType | AsyncGeneratorType):
        if isinstance(service, CoroutineType):
            service.close()  # otherwise it would warn that it was never awaited
        return "write the function with `def` and `yield from`, without `async`"
    if isinstance(service, Request):
        if isinstance(service, NeedsYield):
            service.take_note()
        return "a request is yielded by a service, `yield Sleep(1)`"
    if callable(service):
        return "call it first, `spawn(function(...))`"
    return "did the function that returned it forget to `yield`?"


def not_a_request(yielded: object, service: Service[Any]) -> BadRequest:
    """Make the error for a service that yielded another object: the line, and the correct form."""
    what = f"{yielded.__qualname__}()" if isinstance(yielded, GeneratorType) else repr(yielded)
    return BadRequest(f"{_place_of(service)}`yield` takes a request, got {what}: {_yield_advice(yielded)}")


def _yield_advice(yielded: object) -> str:
    if isinstance(yielded, GeneratorType):
        discard(yielded)
        return "write `yield from`"
    if isinstance(yielded, CoroutineType):
        yielded.close()  # otherwise it would warn that it was never awaited
        return "a service waits for asyncio with `yield from bridge.wait(...)`, see reactor.run.aio"
    if isinstance(yielded, type) and issubclass(yielded, Request):
        return f"make one, `yield {yielded.__name__}(...)`"
    if yielded is None:
        return "write `yield YIELD` to let others run"
    if isinstance(yielded, Handle):
        return "write `yield from handle.join()`"
    if hasattr(yielded, "receive"):
        return "write `yield from channel.receive()`"
    if isinstance(yielded, int | float):
        return "write `yield Sleep(...)` to wait"
    if callable(yielded):
        return "write `yield from` and call it"
    return "a service gives values with `return` or through a channel"


def _place_of(service: object) -> str:
    """File and line at which the innermost generator of a service is suspended."""
    place = ""
    while service is not None:
        frame = getattr(service, "gi_frame", None)
        if frame is not None:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}: "
        service = getattr(service, "gi_yieldfrom", None)
    return place


class Task(Handle[T]):
    """A generator, its runner, and the answer or error with which the generator will be resumed."""

    __slots__ = ("_cancel_asked", "pending", "runner", "service", "thrown", "value", "wait")

    def __init__(self, service: Service[T], name: str | None, runner: Runner) -> None:
        if service.__class__ is not GeneratorType:
            check_service(service)
        # Without super().__init__, a third of the cost of a task; each connection makes one.
        self.name = name if name is not None else getattr(service, "__name__", "service")
        self.is_finished = False
        self.was_asked = False
        self._result = None
        self._error = None
        self._is_taken = False
        self._watchers = None
        self.service: Service[T] | None = service
        self.runner = runner
        self.value: Any = None
        self.thrown: BaseException | None = None
        self.wait: Undoable | None = None
        self.pending: list[BaseException] | None = None
        self._cancel_asked = False

    def wake(self, value: Any = None) -> None:
        """Make a waiting task ready, with the answer to its request.

        The caller removes the task from the thing it waited for.
        """
        self.wait = None
        self.value = value
        self.runner.ready.append(self)

    def wake_error(self, error: BaseException) -> None:
        """Make a waiting task ready; the error is thrown into it."""
        self.wait = None
        self.thrown = error
        self.runner.ready.append(self)

    def interrupt(self, error: BaseException) -> None:
        """Throw an error into the service where it waits, or at its next yield when it does not."""
        wait = self.wait
        if wait is not None and not wait.undo(self):
            self.wake_error(error)
        elif not self.is_finished:
            if self.pending is None:
                self.pending = []
            self.pending.append(error)

    def unyield(self) -> bool:
        wait = self.wait
        if wait is None or not getattr(wait, "may_end_early", False):
            return False
        wait.undo(self)
        self.wake()
        return True

    def make_claim(self) -> Claim:
        return Claim()

    def take_back(self, error: BaseException) -> None:
        """Forget an interruption that has not been thrown yet."""
        if self.pending and error in self.pending:
            self.pending.remove(error)

    def cancel(self, reason: str | None = None) -> bool:
        """Throw `Cancelled` into the service where it waits, or at its next yield.

        Only the first call has an effect, so that nested scopes do not interrupt a cleanup that waits.
        """
        if self.is_finished or self._cancel_asked:
            return False
        self._cancel_asked = True
        self.interrupt(Cancelled(reason) if reason is not None else Cancelled())
        return True

    def end_by_force(self) -> None:
        """Close the generator where it stands. Requests of its cleanup are not answered."""
        if self.wait is not None:
            self.wait.undo(self)
            self.wait = None
        service = self.service
        for _ in range(_CLOSE_ATTEMPTS):
            if service is None or not _closes_with_yield(service, self.name):
                return
        logger.error("service %r continues after each GeneratorExit, it is abandoned", self.name)

    def settle(self, result: T | None, error: BaseException | None) -> None:
        # The frame of a finished service may hold buffers, and handles live long.
        self.service = None
        self.pending = None
        # Without super(), which makes an object.
        Handle.settle(self, result, error)


def _closes_with_yield(service: Service[Any], name: str) -> bool:
    """Close a generator. Returns whether it yielded again instead of ending."""
    try:
        if getattr(service, "gi_suspended", True):
            # Not `close`, which would lose the request that it yields.
            request = service.throw(GeneratorExit())
            if isinstance(request, NeedsYield):
                request.drop()
            return True
        discard(service)
    except (GeneratorExit, StopIteration):
        pass
    except BaseException as error:  # the other services must still be ended
        if is_ctrl_c(error):
            raise
        if isinstance(error, RuntimeError) and str(error) == "generator ignored GeneratorExit":
            # A generator inside it waits again in its cleanup: Python has abandoned that one.
            logger.warning("service %r waits in its cleanup, the rest of which is abandoned", name)
        else:
            log_failure(logger, error, "service %r failed while it was ended by force", name)
    return False


class Join(NeedsYield):
    """Resume when a service has ended, with its result.

    Its error is raised here: `ServiceCancelled` when it was cancelled.
    """

    __slots__ = ("_handle",)

    def __init__(self, handle: Handle[Any]) -> None:
        check_type(handle, Handle, "Join", "the handle of a service")
        self._handle = handle
        self.reminder = remind("Join(...) was made and never yielded: write `yield Join(...)`")

    @property
    def handle(self) -> Handle[Any]:
        """For a runner without `begin`."""
        self.take_note()
        return self._handle

    def begin(self, task: Waiter) -> object:
        """See `Request`. Raises BadRequest: the handle belongs to another runner."""
        handle = self.handle
        if handle.is_finished:
            error = handle.error
            if error is None:
                return handle.result()
            # Not raised: it may be a KeyboardInterrupt, which a failed `begin` would let out of the loop.
            task.wake_error(handle.error_for_others())
            return PARKED
        if not isinstance(handle, Task) or handle.runner is not task.runner:
            return handle.join_from_outside(task)
        handle.add_watcher(task)
        task.wait = self
        return PARKED

    def undo(self, task: Waiter) -> None:
        self.handle.forget_watcher(task)
