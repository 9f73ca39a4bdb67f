"""A handle: what everybody but the runner sees of a service that was started.

The outcome is set once. Whoever wants to know of it is a *watcher*: a task that joins, or a function to be
called. These handles belong to the thread of their runner. Other threads use the future of `Reactor.submit`,
or the handles of the spawners for threads (proxy_handle.py).

Dropping a handle does not end its service: who is to end with whom is the business of scopes. A `WeakHandle`
neither keeps the outcome alive nor the service.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from reactor.errors import BadRequest, Busy, Cancelled, Closed, ServiceCancelled, log_failure, renewed
from reactor.forgotten import Reminder, reminded, settle
from reactor.requests import Join, Service
from reactor.waiting import Waiter

__all__ = ["Handle", "WeakHandle"]

logger = logging.getLogger("reactor")

T = TypeVar("T")


class Handle(Generic[T]):
    """A service that was started: its name, its outcome, and the means to wait for it or to end it."""

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
        # True once somebody has taken notice of the outcome: then a failure need not be logged.
        self.was_asked = False
        self._result: T | None = None
        self._error: BaseException | None = None
        self._is_taken = False
        self._watchers: list[Waiter | Callable[[Handle[T]], object]] | None = None

    @property
    def error(self) -> BaseException | None:
        """What ended the service.

        None while it runs and when it returned, `Cancelled` when it was cancelled.
        """
        self.was_asked = True
        return self._error

    @property
    def is_watched(self) -> bool:
        """Whether anybody waits for the outcome now."""
        return bool(self._watchers)

    def result(self) -> T:
        """Give what the service returned.

        Raises:
            Busy: it has not ended yet.
            Closed: the result was taken away by `take`.
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
        """Give the result and keep it no longer: the state of a service, to be started again.

        Raises what `result` raises; Closed from the second time on.
        """
        result = self.result()
        self._is_taken = True
        self._result = None
        return result

    def weak(self) -> WeakHandle[T]:
        """Make a reference that does not keep the outcome alive."""
        return WeakHandle(self)

    def unyield(self) -> bool:
        """Wake the service early if it is parked where a wake is a hint: on the readiness of a descriptor.

        It then looks for itself whether there is something to do. At any other moment (running, ready,
        finished, asleep, waiting for an item or a signal) nothing happens, for there would be nothing to see.

        Returns:
            Whether the service was woken, or for one in another thread, may be.
        """
        raise NotImplementedError

    def cancel(self, reason: str | None = None) -> bool:
        """Have `Cancelled` thrown into the service where it waits.

        Returns whether this call did it (it is done once).
        """
        raise NotImplementedError

    @reminded
    def join(self, reminder: Reminder) -> Service[T]:
        """Wait for the end: `result = yield from handle.join()`. Raises what `result` raises."""
        settle(reminder)
        del reminder
        if self.is_finished:
            return self.result()
        # Annotated, not `cast`, which is a call at run time: a tenth of a ping-pong over channels.
        result: T = yield Join(self)
        return result

    def add_done_callback(self, function: Callable[[Handle[T]], object]) -> None:
        """Have `function(handle)` called when the service has ended, at once if it has.

        An error in it is logged.
        """
        if self.is_finished:
            self.was_asked = True
            self._call(function)
        else:
            self.add_watcher(function)

    # What follows is for the runner.

    def add_watcher(self, watcher: Waiter | Callable[[Handle[T]], object]) -> None:
        """Have a task woken, or a function called, at the end. For the runner."""
        if self._watchers is None:
            self._watchers = [watcher]
        else:
            self._watchers.append(watcher)

    def forget_watcher(self, watcher: Waiter) -> None:
        """Undo `add_watcher`. For the runner."""
        if self._watchers is not None and watcher in self._watchers:
            self._watchers.remove(watcher)

    def join_from_outside(self, task: Waiter) -> object:
        """Answer with the result, or park a task of another runner until it is there. For the runner.

        Raises:
            BadRequest: this handle is for its own runner only.
        """
        raise BadRequest(f"{self!r} is run by another reactor, {task.name!r} cannot join it")

    def error_for_others(self) -> BaseException:
        """Give the error as others are to see it: an object for each of them, however many and however often.

        The `Cancelled` of one service must not pass for their own.
        """
        error = self._error
        assert error is not None
        if isinstance(error, Cancelled):
            wrapped = ServiceCancelled(f"service {self.name!r} was cancelled")
            wrapped.__cause__ = error
            return wrapped
        return renewed(error)

    def settle(self, result: T | None, error: BaseException | None) -> None:
        """Set the outcome and tell the watchers."""
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
        except Exception as error:  # noqa: BLE001 - a callback ends no loop
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
    """Refers to a service without keeping its outcome: for tables, and for whoever only prods.

    A service that runs is kept by its runner, so the reference holds as long as it runs or somebody has the
    handle.
    """

    __slots__ = ("_reference", "name")

    def __init__(self, handle: Handle[T]) -> None:
        self.name = handle.name
        self._reference = weakref.ref(handle)

    def upgrade(self) -> Handle[T] | None:
        """Give the handle; None when the service has ended and nobody kept its handle."""
        return self._reference()

    @property
    def is_finished(self) -> bool:
        """Whether the service has ended."""
        handle = self._reference()
        return handle is None or handle.is_finished

    def unyield(self) -> bool:
        """See `Handle.unyield`; nothing happens when the handle is gone."""
        handle = self._reference()
        return handle is not None and handle.unyield()

    def cancel(self, reason: str | None = None) -> bool:
        """See `Handle.cancel`; nothing happens when the handle is gone."""
        handle = self._reference()
        return handle is not None and handle.cancel(reason)

    def __repr__(self) -> str:
        return f"<WeakHandle {self.name!r} of {self._reference()!r}>"
