"""A task: a service as its runner sees it, that is a generator and what it is to be resumed with.

A living task is in exactly one of three places, and `wait` tells which:

* waiting: `wait` is the thing it is parked on, whose `undo(task)` takes it out again;
* ready: `wait` is None, the task is in the runner's queue, `value` or `thrown` is what it will be resumed
  with;
* running: `wait` is None, the runner is inside its generator.

**The first wake wins.** Whatever takes a task out of its wait (the event, a timeout, a cancellation, a close)
does so by clearing `wait`, and the others then find nothing to do. An interruption that comes when the task
is already ready or running, or when another thread has answered (crossing.py), is not lost and does not
overwrite the answer that is on its way (which might be a received item): it is kept in `pending` and thrown
at the next yield. So a new task that is cancelled runs to its first yield, and the `finally` blocks around it
hold.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, TypeVar

from reactor.crossing import Claim
from reactor.errors import BadRequest, Cancelled, log_failure
from reactor.forgotten import discard
from reactor.handle import Handle
from reactor.requests import OneUse, Request, Service
from reactor.waiting import Runner, Undoable

__all__ = ["Task", "name_of"]

logger = logging.getLogger("reactor")

T = TypeVar("T")

# A service that answers each GeneratorExit with another yield is given up after so many.
_CLOSE_ATTEMPTS: Final = 16


def name_of(service: Service[Any], name: str | None) -> str:
    """Give the name that a service goes by.

    Raises:
        BadRequest: it is no generator.
    """
    _check_service(service)
    return name if name is not None else str(getattr(service, "__name__", "service"))


def _check_service(service: object) -> None:
    """Refuse what is no service.

    Raises:
        BadRequest: it is no generator.
    """
    if not isinstance(service, Generator):
        raise BadRequest(f"a service is a generator, got {service!r}: {_advice(service)}")


def _advice(service: object) -> str:
    """Say what to write instead of something that is no service."""
    if isinstance(service, CoroutineType | AsyncGeneratorType):
        if isinstance(service, CoroutineType):
            service.close()  # else it warns that it was never awaited
        return "write the function with `def` and `yield from`, without `async`"
    if isinstance(service, Request):
        if isinstance(service, OneUse):
            service.take_note()
        return "a request is yielded by a service, `yield Sleep(1)`"
    if callable(service):
        return "call it first, `spawn(function(...))`"
    return "did the function that returned it forget to `yield`?"


class Task(Handle[T]):
    """A generator, its runner, and what the generator is to be resumed with."""

    __slots__ = ("_cancel_asked", "pending", "runner", "service", "thrown", "value", "wait")

    def __init__(self, service: Service[T], name: str | None, runner: Runner) -> None:
        if service.__class__ is not GeneratorType:
            _check_service(service)
        # Not through super().__init__: a task per connection is made here, and this is a third of its cost.
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

        Its entry in what it waited for is the caller's to remove.
        """
        self.wait = None
        self.value = value
        self.runner.ready.append(self)

    def wake_error(self, error: BaseException) -> None:
        """Make a waiting task ready, with an error to be thrown into it."""
        self.wait = None
        self.thrown = error
        self.runner.ready.append(self)

    def interrupt(self, error: BaseException) -> None:
        """Throw an error into the service where it waits; at its next yield when it does not wait now."""
        wait = self.wait
        if wait is not None and not wait.undo(self):
            self.wake_error(error)
        elif not self.is_finished:
            if self.pending is None:
                self.pending = []
            self.pending.append(error)

    def unyield(self) -> bool:
        """See `Handle`."""
        wait = self.wait
        if wait is None or not getattr(wait, "may_end_early", False):
            return False
        wait.undo(self)
        self.wake()
        return True

    def make_claim(self) -> Claim:
        """See `Waiter`."""
        return Claim()

    def take_back(self, error: BaseException) -> None:
        """Forget an interruption that has not been thrown yet."""
        if self.pending and error in self.pending:
            self.pending.remove(error)

    def cancel(self, reason: str | None = None) -> bool:
        """Have `Cancelled` thrown into the service where it waits, or at its next yield.

        Only the first call counts, so that a cleanup that waits is not interrupted by one scope after
        another.
        """
        if self.is_finished or self._cancel_asked:
            return False
        self._cancel_asked = True
        self.interrupt(Cancelled(reason) if reason is not None else Cancelled())
        return True

    def end_by_force(self) -> None:
        """Close the generator where it stands. What it yields in its cleanup is not answered any more."""
        if self.wait is not None:
            self.wait.undo(self)
            self.wait = None
        service = self.service
        for _ in range(_CLOSE_ATTEMPTS):
            if service is None or not _closes_with_yield(service, self.name):
                return
        logger.error("service %r goes on after each GeneratorExit, it is left behind", self.name)

    def settle(self, result: T | None, error: BaseException | None) -> None:
        # The frame of a finished service may hold buffers; handles are kept for long.
        self.service = None
        self.pending = None
        # Not super(), which makes an object: this is done once per task.
        Handle.settle(self, result, error)


def _closes_with_yield(service: Service[Any], name: str) -> bool:
    """Close a generator. Returns whether it yielded once more instead of ending."""
    try:
        if getattr(service, "gi_suspended", True):
            # Not `close`, which would drop the request that it yields.
            request = service.throw(GeneratorExit())
            if isinstance(request, OneUse):
                request.drop()
            return True
        discard(service)
    except (GeneratorExit, StopIteration):
        pass
    except Exception as error:  # noqa: BLE001 - the others are still to be ended
        log_failure(logger, error, "service %r failed while it was ended by force", name)
    return False
