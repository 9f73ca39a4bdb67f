"""Spawners: ways to run one service, the handles they give out, and services that answer commands.

    handle = Blocker().spawn(service())

Each spawner has `spawn(service) -> Handle`. A service is written for the requests, not for a spawner. The
spawners that use threads are in run/threads.py. When a service ends, services that it started are cancelled
if the spawner gave it a loop (`Blocker`, `ThreadPark`); in a shared reactor they continue.

A `ProxyHandle` is for any thread: calls about the service are posted to its runner, and the outcome is stored
under a lock.

A service with a state is an object with `call(command)`, a generator. `serve` runs it: it takes commands from
a channel and returns the object at the end. So the state can be taken out of the handle and served again, by
the same spawner or another.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import threading
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

from reactor.core.forgotten import needs_yield_from
from reactor.core.loop import Reactor
from reactor.core.poller import Poller, SelectorPoller
from reactor.core.requests import PARKED, Service, Waiter
from reactor.core.task import Handle, Task
from reactor.core.timers import Clock, lock_timeout
from reactor.errors import (
    Busy,
    Cancelled,
    ChannelClosed,
    Closed,
    Forked,
    ServiceCancelled,
    TimedOut,
    check_count,
    check_type,
    log_failure,
)
from reactor.sync.channel import Channel, CrossThreadWait
from reactor.sync.scope import Signal, timeout_after

__all__ = [
    "Blocker",
    "CommandService",
    "Coroutine",
    "ProxyHandle",
    "Restart",
    "RestartHandle",
    "Spawner",
    "poll_poller",
    "serve",
]


logger = logging.getLogger("reactor")
T = TypeVar("T")
C_contra = TypeVar("C_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S", bound="CommandService[Any, Any]")


class CommandService(Protocol[C_contra, R_co]):
    """A service with a state."""

    def call(self, command: C_contra, /) -> Service[R_co]:
        """Handle one command; the generator's result is the answer."""


@needs_yield_from
def serve(
    service: S, commands: Channel[Any], answers: Channel[Any] | None = None, *, limit: int | None = None
) -> Service[S]:
    """Let a service object answer the commands of a channel, one after the other.

    Args:
        service: not used elsewhere until the end.
        commands: until the channel is closed and drained.
        answers: one for each command, in order; None: the answers are dropped.
        limit: number of commands after which it ends; None: no limit.
    Returns:
        The service object, with its state.
    Raises:
        ChannelClosed: the channel of answers is closed. One answer is lost.
        TypeError, ValueError: `limit` is not a whole number of 0 or more.
        any other: the error of `call`. The command is used up.
    """
    if limit is not None:
        check_count(limit, "limit", least=0)
    done = 0
    while limit is None or done < limit:
        try:
            command = yield from commands.receive()
        except ChannelClosed:
            break
        answer = yield from service.call(command)
        if answers is not None:
            yield from answers.send(answer)
        done += 1
    return service


class ProxyHandle(Handle[T]):
    """A handle for any thread.

    Callbacks are called in the service's thread, or immediately when it has ended. A failure that was not
    looked at is logged when the handle is dropped.
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
        self._crossings: list[CrossThreadWait] = []
        self._task: Task[T] | None = None
        self._thread_id: int | None = None
        self._is_cancelling = False
        self._cancel_reason: str | None = None
        self._is_unyielding = False

    # For any thread.

    def wait(self, timeout_s: float | None = None) -> T:
        """Block this thread until the service has ended.

        Args:
            timeout_s: None: no limit.
        Returns:
            Its result.
        Raises:
            TimedOut: it has not ended in time, and continues.
            Busy: called in the service's own thread, which would wait for itself.
            BadRequest: `timeout_s` is not a number of seconds.
            any other: as `result`.
        """
        if not self.is_finished and self._thread_id == threading.get_ident():
            raise Busy(f"service {self.name!r} runs in this thread, which cannot wait for it")
        limit_s = lock_timeout(timeout_s)
        if not self._ended.wait(None if limit_s < 0 else limit_s):
            raise TimedOut(f"service {self.name!r} has not ended within {timeout_s} s")
        return self.result()

    def cancel(self, reason: str | None = None) -> bool:
        """See `Handle`. The service is interrupted when its loop takes the posted call."""
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
        """A service that ends with this one, so that a scope can own it: `scope.spawn(handle.as_service())`.

        When it is cancelled it cancels the service and waits for its end.

        Returns:
            The result of the service.
        Raises:
            any: as `result`.
        """
        try:
            return (yield from self.join())
        finally:
            if not self.is_finished:
                self.cancel()
                with contextlib.suppress(ServiceCancelled):
                    yield from self.join()

    def unyield(self) -> bool:
        """See `Handle`. Calls made before the service's loop takes the first one are joined."""
        task = self._task
        if task is None or self.is_finished:
            return False
        if self._is_unyielding:
            return True
        self._is_unyielding = True
        return self._post(self._unyield, task)

    def add_done_callback(self, function: Callable[[Handle[T]], object]) -> None:
        with self._lock:
            if not self.is_finished:
                super().add_watcher(function)
                return
        super().add_done_callback(function)

    def join_from_outside(self, task: Waiter) -> object:
        with self._lock:
            if not self.is_finished:
                crossing = CrossThreadWait(task, self)
                self._crossings.append(crossing)
                task.wait = crossing
                return PARKED
        # It has just ended.
        self.was_asked = True
        if self._error is None:
            return self._result
        task.wake_error(self.error_for_others())
        return PARKED

    def forget(self, waiter: CrossThreadWait) -> None:
        """Remove a waiter, from any thread, if it is still there."""
        with self._lock:
            if waiter in self._crossings:
                self._crossings.remove(waiter)

    # For the service's own thread.

    @property
    def is_watched(self) -> bool:
        return bool(self._crossings) or super().is_watched

    def bind(self, task: Task[T]) -> None:
        """Set the task, once it has been started."""
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

    def leave_to_parent(self, error: Forked) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it
        if self.is_finished:
            return
        self._task = None
        self._error = error
        self.was_asked = self.is_finished = True
        self._ended = threading.Event()
        self._ended.set()

    def settle_from(self, task: Handle[T]) -> None:
        """Copy the outcome of an ended task."""
        error = task.error
        self.settle(None if error is not None else task.take(), error)

    def _unyield(self, task: Task[T]) -> None:
        self._is_unyielding = False
        task.unyield()

    def _post(self, function: Callable[..., object], *args: Any) -> bool:
        # Closed: the service has ended or is being ended.
        with contextlib.suppress(Closed):
            task = self._task
            if task is not None:
                task.runner.post(function, *args)
                return True
        return False

    def __del__(self) -> None:
        error = self._error
        if error is not None and not self.was_asked and not isinstance(error, Cancelled):
            log_failure(logger, error, "service %r failed and nothing waited for it", self.name)


class Spawner(Protocol):
    """A way to run a service."""

    def spawn(self, service: Service[T], *, name: str | None = None) -> Handle[T]:
        """Start a service.

        Args:
            service: a generator, not yet started.
            name: for messages; the generator's own name unless given.
        """


class Coroutine:
    """Runs services in a reactor, beside its other services."""

    __slots__ = ("_reactor",)

    def __init__(self, reactor: Reactor) -> None:
        check_type(reactor, Reactor, "reactor", "a Reactor")
        self._reactor = reactor

    def spawn(self, service: Service[T], *, name: str | None = None) -> Handle[T]:
        """Start a service; see `Reactor.spawn`."""
        return self._reactor.spawn(service, name=name)


class Blocker:
    """Runs a service in the calling thread until it ends: for scripts, and in calls that must not suspend.

    Each `spawn` makes a small reactor over `poll`, so a service may use every request, have timeouts and
    start other services, which are cancelled when it ends.
    """

    __slots__ = ("_clock",)

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock

    def spawn(self, service: Service[T], *, name: str | None = None) -> Handle[T]:
        """Run a service to completion.

        Returns:
            The finished handle: its `result()` gives the value or raises the error. The error is `Deadlock`
            (thrown into the service where it waits) when no remaining event could end a wait.
        """
        with Reactor(clock=self._clock, poller=poll_poller(), slow_step_s=None) as reactor:
            task = reactor.start(service, name)
            reactor.run_until_ended(task)
            return task


class Restart:
    """Runs services in the calling thread until they would wait, and resumes them with each `unyield`.

    For programs without a loop: send a command to the service's channel, call `unyield`, take the answer.
    Between two calls nothing runs, and the handle keeps the state of the service. All services of one
    `Restart` share a reactor, so an `unyield` resumes each of them that is ready.
    """

    __slots__ = ("_reactor",)

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._reactor = Reactor(clock=clock, poller=poll_poller(), slow_step_s=None)

    def spawn(self, service: Service[T], *, name: str | None = None) -> RestartHandle[T]:
        """Run a service until it ends or would wait.

        Raises:
            Closed: after `close`.
            Busy: called from a service of this `Restart`.
            BadRequest: not a generator.
        """
        task = self._reactor.start(service, name)
        handle = RestartHandle(task, self._reactor)
        self._reactor.run_ready()
        return handle

    def close(self) -> None:
        """Cancel the living services and let them clean up; see `Reactor.close`."""
        self._reactor.close()

    def __enter__(self) -> Self:
        if self._reactor.is_closed:
            raise Closed("this spawner was closed: make another one, `with Restart() as spawner`")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RestartHandle(ProxyHandle[T]):
    """A service that runs in `unyield` and `wait`, in the thread that calls them; one thread at a time."""

    __slots__ = ("_own_task", "_reactor")

    def __init__(self, task: Task[T], reactor: Reactor) -> None:
        super().__init__(task.name)
        self._own_task = task
        self._reactor = reactor
        self.bind(task)
        task.add_done_callback(self.settle_from)

    def unyield(self) -> bool:
        """Run the service in this thread until it ends or would wait.

        No effect when it has ended, or is running (called from within).

        Returns:
            Whether it was resumed.
        Raises:
            any: as `Reactor.run`.
        """
        if self.is_finished:
            return False
        self._own_task.unyield()
        try:
            self._reactor.run_ready()
        except Forked:
            raise
        except (Busy, Closed):
            return False
        return True

    def wait(self, timeout_s: float | None = None) -> T:
        """Run the service in this thread until it ends, waiting as `Blocker` does.

        Args:
            timeout_s: None: no limit.
        Returns:
            Its result.
        Raises:
            TimedOut: it has not ended in time, and stays suspended.
            Busy: called from a service of the same `Restart`.
            any other: as `result`.
        """
        if not self.is_finished:
            if timeout_s is None:
                self._reactor.run_until_ended(self._own_task)
            else:
                self._reactor.run(_within(timeout_s, self._own_task))
        return self.result()


def _within(timeout_s: float, handle: Handle[Any]) -> Service[None]:
    """Wait until a service has ended, whatever its outcome. Raises TimedOut."""
    ended = Signal()
    handle.add_done_callback(lambda _: ended.set())

    def wait() -> Service[None]:
        yield ended

    yield from timeout_after(timeout_s, wait())


def poll_poller() -> Poller:
    """A poller for few descriptors, which needs none itself."""
    kind = getattr(selectors, "PollSelector", selectors.DefaultSelector)
    return SelectorPoller(kind())
