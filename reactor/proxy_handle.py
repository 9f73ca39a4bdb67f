"""The handle of a service that a private runner runs: in another thread, or turned by hand.

Everything here may be called from any thread: what concerns the service is posted to its runner, and the
outcome comes back under a lock.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from reactor.crossing import Crossing
from reactor.errors import Busy, Cancelled, Closed, ServiceCancelled, TimedOut, log_failure
from reactor.forgotten import needs_yield_from
from reactor.handle import Handle
from reactor.requests import Service
from reactor.task import Task
from reactor.timers import lock_timeout
from reactor.waiting import PARKED, Waiter

__all__ = ["ProxyHandle"]

logger = logging.getLogger("reactor")

T = TypeVar("T")


class ProxyHandle(Handle[T]):
    """A handle for any thread.

    Callbacks are called in the service's thread, or at once when it has ended. A failure that nobody asked
    for is logged when the handle is dropped.
    """

    __slots__ = (
        "_cancel_reason",
        "_crossings",
        "_ended",
        "_is_cancelling",
        "_is_unyielding",
        "_lock",
        "_task",
        "_thread_id",
    )

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._crossings: list[Crossing] = []
        self._task: Task[T] | None = None
        self._thread_id: int | None = None
        self._is_cancelling = False
        self._cancel_reason: str | None = None
        self._is_unyielding = False

    # For any thread.

    def wait(self, timeout_s: float | None = None) -> T:
        """Block this thread until the service has ended.

        Args:
            timeout_s: None: for ever. BadRequest: not a number of seconds.
        Returns:
            Its result. Raises what `result` raises, and:
        Raises:
            TimedOut: it has not ended in time, and goes on.
            Busy: called in the service's own thread, which would wait for itself.
        """
        if not self.is_finished and self._thread_id == threading.get_ident():
            raise Busy(f"service {self.name!r} runs in this very thread, which cannot wait for it")
        limit_s = lock_timeout(timeout_s)
        if not self._ended.wait(None if limit_s < 0 else limit_s):
            raise TimedOut(f"service {self.name!r} has not ended within {timeout_s} s")
        return self.result()

    def cancel(self, reason: str | None = None) -> bool:
        """See `Handle`. The service learns of it when its thread comes to it."""
        with self._lock:
            if self.is_finished or self._is_cancelling:
                return False
            self._is_cancelling = True
            self._cancel_reason = reason
            task = self._task
        if task is not None:
            self._post(task.cancel, reason)
        return True

    @needs_yield_from
    def as_service(self) -> Service[T]:
        """Stand for the service in a reactor, so that a scope can own it: `scope.spawn(handle.as_service())`.

        Returns:
            Its result. Raises what `result` raises. Cancelled, it cancels the service and waits for its end.
        """
        try:
            return (yield from self.join())
        finally:
            if not self.is_finished:
                self.cancel()
                with contextlib.suppress(ServiceCancelled):
                    yield from self.join()

    def unyield(self) -> bool:
        """See `Handle`. Many calls before the service's thread comes to it cost as much as one."""
        task = self._task
        if task is None or self.is_finished:
            return False
        if self._is_unyielding:
            return True
        self._is_unyielding = True
        return self._post(self._unyield, task)

    def add_done_callback(self, function: Callable[[Handle[T]], object]) -> None:
        """See `Handle`."""
        with self._lock:
            if not self.is_finished:
                super().add_watcher(function)
                return
        super().add_done_callback(function)

    def join_from_outside(self, task: Waiter) -> object:
        with self._lock:
            if not self.is_finished:
                crossing = Crossing(task, self)
                self._crossings.append(crossing)
                task.wait = crossing
                return PARKED
        # It has ended at this very moment.
        self.was_asked = True
        if self._error is None:
            return self._result
        task.wake_error(self.error_for_others())
        return PARKED

    def forget(self, waiter: Crossing) -> None:
        """Take out a waiter. For the runner."""
        with self._lock:
            if waiter in self._crossings:
                self._crossings.remove(waiter)

    # For the service's own thread.

    @property
    def is_watched(self) -> bool:
        """See `Handle`."""
        return bool(self._crossings) or super().is_watched

    def bind(self, task: Task[T]) -> None:
        """Say which task this handle stands for, when it has been started."""
        with self._lock:
            self._task = task
            self._thread_id = threading.get_ident()
            is_cancelling, reason = self._is_cancelling, self._cancel_reason
        if is_cancelling:
            task.cancel(reason)

    def settle(self, result: T | None, error: BaseException | None) -> None:
        with self._lock:
            self._task = None
            self._result = result
            self._error = error
            self.is_finished = True
            crossings = [crossing for crossing in self._crossings if crossing.claim()]
            self._crossings.clear()
        self._ended.set()
        for crossing in crossings:
            self.was_asked = True
            crossing.deliver(result, None if error is None else self.error_for_others())
        super().settle(result, error)

    def settle_from(self, task: Handle[T]) -> None:
        """Take over the outcome of an ended task."""
        error = task.error
        self.settle(None if error is not None else task.take(), error)

    def _unyield(self, task: Task[T]) -> None:
        self._is_unyielding = False
        task.unyield()

    def _post(self, function: Callable[..., object], *args: Any) -> bool:
        # Closed: then the service has ended, or is about to be told so.
        with contextlib.suppress(Closed):
            task = self._task
            if task is not None:
                task.runner.post(function, *args)
                return True
        return False

    def __del__(self) -> None:
        error = self._error
        if error is not None and not self.was_asked and not isinstance(error, Cancelled):
            log_failure(logger, error, "service %r failed and nobody asked", self.name)
