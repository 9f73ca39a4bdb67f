"""Groups of services (`Scope`, `in_scope`), time limits, and `Signal`, the simplest wait.

    def body(scope):
        yield from scope.spawn(pump(left, right))
        yield from scope.spawn(pump(right, left))

    yield from timeout_after(60, in_scope(body))

A scope ends its services, so none outlives its purpose and no failure is lost (like trio's nurseries).
Generators have no `async with`, so `in_scope` runs a service inside a scope in one call. Objects that keep a
scope call `yield from scope.close()` in a `finally`; `with scope:` cancels at the end of the block but cannot
wait.

**Each failure is reported once.** `join` and `in_scope` raise the first failure of a scope whose children
fail together; if neither is called, it is logged when the scope is left. All other failures are logged when
they happen.

A `Signal` is itself the request: `yield signal` returns when it is set, and clears it. It has one waiter. A
second would lose wakes, so it gets `Busy`.

`timeout_after` raises when the time is over, `move_on_after` continues. Both run the service in the task of
the caller. They nest, and the inner services clean up before they return.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import GeneratorType
from typing import Any, Self, TypeVar, cast

from reactor.core.forgotten import Reminder, discard, needs_yield_from, reminded, settle
from reactor.core.requests import PARKED, YIELD, CurrentTask, Request, Service, Spawn, Waiter
from reactor.core.task import Handle, Task, check_service
from reactor.core.timers import Deadline, Expired, SetTimer
from reactor.errors import Busy, Cancelled, Closed, TimedOut, log_failure

__all__ = ["Scope", "Signal", "in_scope", "move_on_after", "timeout_after"]

logger = logging.getLogger("reactor")
T = TypeVar("T")


class Signal(Request):
    """A flag that one service may wait for, set in the same thread."""

    __slots__ = ("is_set", "waiter")

    def __init__(self) -> None:
        self.is_set = False
        self.waiter: Waiter | None = None

    def set(self) -> None:
        """Set the flag, or resume the waiting service, which consumes it."""
        waiter = self.waiter
        if waiter is None:
            self.is_set = True
        else:
            self.waiter = None
            waiter.wake()

    def clear(self) -> None:
        """Clear the flag."""
        self.is_set = False

    def undo(self, task: Waiter) -> None:
        self.waiter = None

    def give_back(self, value: None) -> None:
        """Set the flag again: the select that consumed it has another answer."""
        self.set()

    def begin(self, task: Waiter) -> object:
        """See `Request`. Raises Busy: another service waits already."""
        if self.waiter is not None:
            raise Busy(f"signal is waited for by {self.waiter.name!r}, {task.name!r} cannot wait too")
        if self.is_set:
            self.is_set = False
            return None
        self.waiter = task
        task.wait = self
        return PARKED


class Scope:
    """A group of services that ends as a whole.

    Args:
        name: for messages.
        fail_together: True: the first child that fails cancels its siblings, and `join` raises its error.
            False: a failure is logged, and the siblings continue.

    Attributes:
        failures: the errors of failed children, in order.
    """

    __slots__ = (
        "_all_ended",
        "_children",
        "_is_left",
        "_joiners",
        "_on_failure",
        "_unreported",
        "fail_together",
        "failures",
        "is_cancelled",
        "name",
    )

    def __init__(self, name: str = "scope", *, fail_together: bool = True) -> None:
        self.name = name
        self.fail_together = fail_together
        self.failures: list[BaseException] = []
        self.is_cancelled = False
        self._children: dict[Handle[Any], None] = {}
        self._all_ended = Signal()
        self._joiners = 0
        # True after `close` or the end of `with`: nothing will join any more.
        self._is_left = False
        # A failed child's name and error.
        self._unreported: tuple[str, BaseException] | None = None
        self._on_failure: Callable[[], None] | None = None

    def __len__(self) -> int:
        """Number of living children."""
        return len(self._children)

    @needs_yield_from
    def spawn(self, service: Service[T], *, name: str | None = None) -> Service[Handle[T]]:
        """Start a child: `handle = yield from scope.spawn(service)`.

        Raises:
            Closed: the scope was cancelled, by its owner or by a failure (then its `__cause__`). The service
                was not started.
        """
        if self.is_cancelled:
            discard(service)
            # A child that runs at that moment has not met its cancellation yet: it ends with that, and not
            # with an error that looks like a fault of its own.
            yield YIELD
            cause = self.failures[0] if self.fail_together and self.failures else None
            raise Closed(f"scope {self.name!r} was cancelled and accepts no more services") from cause
        handle: Handle[T] = yield Spawn(service, name)
        self._children[handle] = None
        handle.add_done_callback(self._child_ended)
        if self.is_cancelled:
            handle.cancel(f"scope {self.name!r} was cancelled")
        return handle

    def cancel(self) -> None:
        """Cancel all children. `join` waits until they have cleaned up. No more can be started."""
        self.is_cancelled = True
        for child in list(self._children):
            child.cancel(f"scope {self.name!r} was cancelled")

    @needs_yield_from
    def join(self) -> Service[None]:
        """Wait until no child lives. One service at a time may join.

        Raises:
            Busy: another service joins.
            any other: with `fail_together`, the error of the first child that failed; raised once.
        """
        yield from self._wait_ended()
        unreported, self._unreported = self._unreported, None
        if unreported is not None:
            raise unreported[1]

    @needs_yield_from
    def close(self) -> Service[None]:
        """Cancel all children and wait until they have ended.

        For `finally`: an unreported failure is logged, and no error of a child is raised.
        """
        self._leave()
        yield from self._wait_ended()

    def _leave(self) -> None:
        self._is_left = True
        self.cancel()
        self._report()

    def _wait_ended(self) -> Service[None]:
        self._joiners += 1
        try:
            while self._children:
                yield self._all_ended
        finally:
            self._joiners -= 1

    def _child_ended(self, handle: Handle[Any]) -> None:
        self._children.pop(handle, None)
        error = handle.error
        if error is not None and not isinstance(error, Cancelled):
            self._take_failure(handle, error)
        if not self._children and self._joiners:
            self._all_ended.set()

    def _take_failure(self, handle: Handle[Any], error: BaseException) -> None:
        self.failures.append(error)
        if self.fail_together and len(self.failures) == 1 and not self._is_left:
            self._unreported = handle.name, error
            self.cancel()
            if self._on_failure is not None:
                self._on_failure()
        else:
            self._log(handle.name, error)

    def _report(self) -> None:
        """Log the first failure unless `join` has raised it."""
        unreported, self._unreported = self._unreported, None
        if unreported is not None:
            self._log(*unreported)

    def _log(self, name: str, error: BaseException) -> None:
        log_failure(logger, error, "service %r of scope %r failed", name, self.name)

    def __enter__(self) -> Self:
        if self._is_left:
            raise Closed(f"scope {self.name!r} has ended: make another one, `with Scope() as scope`")
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def __del__(self) -> None:
        self._report()

    def __repr__(self) -> str:
        return f"<Scope {self.name!r} {len(self._children)} alive{' cancelled' if self.is_cancelled else ''}>"


class _ChildFailed(Cancelled):
    """Thrown into the body of `in_scope` when a child has failed."""


@needs_yield_from
def in_scope(body: Callable[[Scope], Service[T]], *, name: str = "scope") -> Service[T]:
    """Run a service with a scope around it: `x = yield from in_scope(body)`, with `def body(scope): ...`.

    Returns when the body and all children have ended. The first failure, of the body or of a child, cancels
    all others and is raised after they have cleaned up; so is a cancellation from outside. To limit the time
    of the whole: `timeout_after(5, in_scope(body))`.

    Args:
        body: starts children with `yield from scope.spawn(...)`; it runs in the caller's task.
        name: of the scope, for messages.
    Returns:
        The result of the body.
    Raises:
        TypeError: `body` is not a function. BadRequest: it did not return a generator.
        any: the first failure. When a child fails and the body fails while it is cancelled for that, the
            error of the body is raised and the child's is logged.
    """
    if not callable(body):
        raise TypeError(f"body: expected a generator function of the scope, got {body!r}")
    scope = Scope(name)
    task = cast(Task[Any], (yield CurrentTask()))
    interruption = _ChildFailed(f"a service of scope {name!r} failed")
    scope._on_failure = lambda: task.interrupt(interruption)
    result: T | None = None
    try:
        try:
            service = body(scope)
            check_service(service)
            result = yield from service
        except _ChildFailed as thrown:
            if thrown is not interruption:
                raise
        finally:
            scope._on_failure = None
            task.take_back(interruption)
        # Raises the child's failure, if there was one.
        yield from scope.join()
        return cast(T, result)
    finally:
        yield from scope.close()


@reminded
def timeout_after(seconds: float | None, reminder: Reminder, service: Service[T]) -> Service[T]:
    """Run a service within this one, with a time limit: `x = yield from timeout_after(5, stream_reader())`.

    When the time is over the inner service is interrupted where it waits, with an error that is not an
    `Exception`; it cleans up as for a cancellation, and may wait while it does. Timeouts nest: the error of
    an outer one passes through the inner ones. With `in_scope` inside, the limit is for all its children.

    Args:
        seconds: of the runner's clock; None: no limit.
        service: runs in the caller's task.
    Returns:
        The result of the inner service, even if it returned at the moment the time was over.
    Raises:
        TimedOut: the time is over.
        any other: the error of the inner service.
    """
    settle(reminder)
    del reminder
    if service.__class__ is not GeneratorType:
        check_service(service)
    if seconds is None:
        return (yield from service)
    try:
        deadline: Deadline = yield SetTimer(seconds)
    except BaseException:
        discard(service)
        raise
    try:
        return (yield from service)
    except Expired as expired:
        if expired is not deadline.error:
            raise
        raise TimedOut(f"not done within {seconds:g} s") from None
    finally:
        deadline.cancel()


@reminded
def move_on_after(seconds: float, reminder: Reminder, service: Service[T]) -> Service[T | None]:
    """Run a service within this one with a time limit; when the time is over, continue without an error.

    Args:
        seconds: of the runner's clock.
        service: runs in the caller's task, and cleans up as for `timeout_after`.
    Returns:
        The result of the inner service; None when the time was over.
    Raises:
        any: the error of the inner service, including a `TimedOut` that it raised itself.
    """
    settle(reminder)
    del reminder
    if service.__class__ is not GeneratorType:
        check_service(service)
    try:
        deadline: Deadline = yield SetTimer(seconds)
    except BaseException:
        discard(service)
        raise
    try:
        return (yield from service)
    except Expired as expired:
        if expired is not deadline.error:
            raise
        return None
    finally:
        deadline.cancel()
