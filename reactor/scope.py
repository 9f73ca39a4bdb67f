"""A scope owns the services started in it, so that none outlives its purpose and no failure gets lost.

Precedents: trio's nurseries. Generators have no `async with`, so leaving a scope takes a word. `in_scope`
runs a service with a scope around it and is the whole of it in one call; the pieces are for those who keep a
scope in an object: `yield from scope.close()` in a `finally`, or `with scope:`, which cancels on the way out
but cannot wait.

**Each failure is reported once**: the first of a scope whose children fail together is raised, by `join` or
`in_scope`, or logged when the scope is left without that; every other one is logged when it happens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from reactor.errors import Cancelled, Closed, log_failure
from reactor.forgotten import discard, needs_yield_from
from reactor.handle import Handle
from reactor.requests import CurrentTask, Service, Spawn
from reactor.signal import Signal
from reactor.task import Task

__all__ = ["Scope", "in_scope"]

logger = logging.getLogger("reactor")

T = TypeVar("T")


class Scope:
    """A group of services with one end.

    Args:
        name: for messages.
        fail_together: True: the first child that fails cancels its siblings, and `join` raises its error.
            False: a failure is logged, and the siblings go on.

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
        # True from `close` or the end of `with` on: nobody will join any more.
        self._is_left = False
        # A failed child's name and error.
        self._unreported: tuple[str, BaseException] | None = None
        self._on_failure: Callable[[], None] | None = None

    def __len__(self) -> int:
        """Give the number of children that live."""
        return len(self._children)

    @needs_yield_from
    def spawn(self, service: Service[T], *, name: str | None = None) -> Service[Handle[T]]:
        """Start a child: `handle = yield from scope.spawn(service)`.

        Raises:
            Closed: the scope was cancelled, by its owner or by a failure (which is then its `__cause__`). The
                service was not started.
        """
        if self.is_cancelled:
            discard(service)
            cause = self.failures[0] if self.fail_together and self.failures else None
            raise Closed(f"scope {self.name!r} was cancelled, it takes no more services") from cause
        handle: Handle[T] = yield Spawn(service, name)
        self._children[handle] = None
        handle.add_done_callback(self._child_ended)
        if self.is_cancelled:
            handle.cancel(f"scope {self.name!r} was cancelled")
        return handle

    def cancel(self) -> None:
        """Cancel all children.

        They may take their time to clean up, `join` waits for that. No more can be started.
        """
        self.is_cancelled = True
        for child in list(self._children):
            child.cancel(f"scope {self.name!r} was cancelled")

    @needs_yield_from
    def join(self) -> Service[None]:
        """Wait until no child lives. One service at a time may do so.

        Raises:
            Busy: another service joins.
            any other: the error of the first child that failed, with fail_together, and only once.
        """
        yield from self._wait_ended()
        unreported, self._unreported = self._unreported, None
        if unreported is not None:
            raise unreported[1]

    @needs_yield_from
    def close(self) -> Service[None]:
        """Cancel all children and wait until they have ended.

        Made for `finally`: it logs what has not been reported, and raises nothing of theirs.
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
        """Log the failure that nobody was there to be told of."""
        unreported, self._unreported = self._unreported, None
        if unreported is not None:
            self._log(*unreported)

    def _log(self, name: str, error: BaseException) -> None:
        log_failure(logger, error, "service %r of scope %r failed", name, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    It is left when the body and all children have ended. The first failure, of the body or of a child,
    cancels all the others and is raised once they have cleaned up; so does a cancellation from outside. For a
    limit on the time of the whole: `timeout_after(5, in_scope(body))`.

    Args:
        body: starts children with `yield from scope.spawn(...)`; it runs in the caller's task.
        name: of the scope, for messages.
    Returns:
        What the body returned.
    Raises:
        any: the first failure. When the body fails while it is being cancelled for a child's sake, its error
            is raised and the child's is logged.
    """
    scope = Scope(name)
    task = cast(Task[Any], (yield CurrentTask()))
    interruption = _ChildFailed(f"a service of scope {name!r} failed")
    scope._on_failure = lambda: task.interrupt(interruption)
    result: T | None = None
    try:
        try:
            result = yield from body(scope)
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
