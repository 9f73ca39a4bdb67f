"""Spawners that run a service in another thread: `ThreadPark`, `ThreadPool`; and `ReactorThread`.

A service may share with other threads only `SharedChannel`, the handles of these spawners, and locks.
Streams, `Channel` and `Signal` belong to one thread at a time.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from typing import Any, Final, Self, TypeVar

from reactor.core.forgotten import discard
from reactor.core.loop import Reactor
from reactor.core.requests import Service
from reactor.core.task import Handle, Task, name_of
from reactor.core.threads import answer_at_fork
from reactor.core.timers import Clock, lock_timeout
from reactor.errors import Broken, Busy, Closed, TimedOut, check_count, check_type
from reactor.run.spawners import ProxyHandle, poll_poller

__all__ = ["ReactorThread", "ThreadPark", "ThreadPool"]

T = TypeVar("T")
# A thread costs some 50 kB and three descriptors. For more services there is the pool.
_MAX_THREADS: Final = 64


class ThreadPark:
    """Runs each service in its own thread, which sleeps while the service waits.

    For services that compute or make blocking calls. Each thread has a small reactor, as with `Blocker`. The
    threads are daemons: they do not keep the program from ending.

    Args:
        clock: shared by all threads; see `Reactor`.
        max_threads: most living services; further ones are refused.
    """

    __slots__ = ("_clock", "_lock", "_max_threads", "_threads")

    def __init__(self, *, clock: Clock | None = None, max_threads: int = _MAX_THREADS) -> None:
        self._clock = clock
        check_count(max_threads, "max_threads", least=1)
        self._max_threads = max_threads
        self._lock = threading.Lock()
        self._threads = 0

    def spawn(self, service: Service[T], *, name: str | None = None) -> ProxyHandle[T]:
        """Start a service in a new thread; from any thread.

        The handle is finished when the service and all services that it started have ended.

        Raises:
            Busy: `max_threads` services live.
            Broken: the system cannot start a thread; `__cause__` has the reason.
            BadRequest: not a generator.
        """
        handle: ProxyHandle[T] = ProxyHandle(name_of(service, name))
        answer_at_fork(handle)
        with self._lock:
            if self._threads >= self._max_threads:
                raise Busy(f"{self._max_threads} services run in their own threads, which is the limit")
            self._threads += 1
        thread = threading.Thread(target=self._main, args=(service, handle), name=handle.name, daemon=True)
        try:
            thread.start()
        except BaseException as error:
            self._count_down()
            discard(service)
            raise Broken(f"no thread for service {handle.name!r}: {error}") from error
        return handle

    def _main(self, service: Service[T], handle: ProxyHandle[T]) -> None:
        task: Task[T] | None = None
        error: BaseException | None = None
        try:
            with Reactor(clock=self._clock, poller=poll_poller(), slow_step_s=None) as reactor:
                task = reactor.start(service, handle.name)
                handle.bind(task)
                # Ends the run; and, as a watcher, keeps the reactor from logging a failure.
                task.add_done_callback(lambda _: reactor.stop())
                reactor.run()
        except BaseException as failure:  # noqa: BLE001 - it goes to the handle
            error = failure
        self._count_down()
        if task is not None and task.is_finished:
            handle.settle_from(task)
        else:
            handle.settle(None, error)

    def _count_down(self) -> None:
        with self._lock:
            self._threads -= 1


class ThreadPool:
    """Runs services in a few threads, each with a reactor: a new service goes where the fewest live.

    A service stays in its thread. While it waits the thread runs others, so any number of services may wait
    for each other. While it computes the other services of its thread cannot run.

    Args:
        threads: most threads, started as they are needed; at least 1.
        clock: shared by all threads; see `Reactor`.
    Raises:
        ValueError: `threads` is less than 1.
    """

    __slots__ = ("_clock", "_is_closed", "_lock", "_max_threads", "members")

    def __init__(self, threads: int = 4, *, clock: Clock | None = None) -> None:
        check_count(threads, "threads", least=1)
        self._max_threads = threads
        self._clock = clock
        self._lock = threading.Lock()
        self.members: list[_Member] = []  # for tests, not API
        self._is_closed = False

    def spawn(self, service: Service[T], *, name: str | None = None) -> ProxyHandle[T]:
        """Start a service in a thread of the pool; from any thread.

        Raises:
            Closed: after `close`.
            Broken: the system has no thread or descriptor left; `__cause__` has the reason.
            BadRequest: not a generator.
        """
        handle: ProxyHandle[T] = ProxyHandle(name_of(service, name))
        answer_at_fork(handle)
        with self._lock:
            if self._is_closed:
                discard(service)
                raise Closed("the pool is closed")
            while True:
                member = self._choose()
                try:
                    member.post_start(service, handle)
                except Closed:
                    # Its thread has failed, with an error of the poller: continue without it.
                    self.members.remove(member)
                else:
                    return handle

    def _choose(self) -> _Member:
        idle_most = min(self.members, key=lambda member: member.living, default=None)
        if idle_most is not None and (idle_most.living == 0 or len(self.members) == self._max_threads):
            return idle_most
        try:
            member = _Member(self._clock, f"pool-{len(self.members)}")
        except (OSError, RuntimeError) as error:
            if idle_most is not None:
                return idle_most
            raise Broken(f"no thread for a pool: {error}") from error
        self.members.append(member)
        return member

    def close(self) -> None:
        """Cancel the living services, let them clean up and wait for the threads. Idempotent.

        Raises:
            TimedOut: a service blocks its thread.
            Broken: a thread failed; `__cause__` has its error.
        """
        with self._lock:
            self._is_closed = True
            members, self.members = self.members, []
        for member in members:
            member.thread.close()

    def __enter__(self) -> Self:
        if self._is_closed:
            raise Closed("the pool was closed: make another one, `with ThreadPool() as pool`")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Member:
    """One thread of a pool."""

    __slots__ = ("_lock", "living", "thread")

    def __init__(self, clock: Clock | None, name: str) -> None:
        reactor = Reactor(clock=clock, slow_step_s=None)
        self.thread = ReactorThread(reactor, name=name)
        try:
            self.thread.start()
        except BaseException:
            reactor.close()
            raise
        self._lock = threading.Lock()
        self.living = 0

    def post_start(self, service: Service[Any], handle: ProxyHandle[Any]) -> None:
        self.thread.reactor.post(self._start, service, handle)
        self._count(1)

    def _start(self, service: Service[Any], handle: ProxyHandle[Any]) -> None:
        try:
            task = self.thread.reactor.start(service, handle.name)
        except Closed as error:
            discard(service)
            self._count(-1)
            handle.settle(None, error)
            return
        handle.bind(task)
        task.add_done_callback(lambda task: self._end(task, handle))

    def _end(self, task: Handle[Any], handle: ProxyHandle[Any]) -> None:
        self._count(-1)
        handle.settle_from(task)

    def _count(self, change: int) -> None:
        with self._lock:
            self.living += change


class ReactorThread:
    """A reactor and the daemon thread that runs it, for programs that are not built around a reactor.

    Args:
        reactor: default: a new one. It is closed at the end.
        name: of the thread.

    Attributes:
        reactor: from other threads use `submit`, `post` and `stop` only.
    """

    def __init__(self, reactor: Reactor | None = None, *, name: str = "reactor") -> None:
        check_type(reactor, Reactor | None, "reactor", "a Reactor")
        self.reactor = Reactor() if reactor is None else reactor
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._failure: BaseException | None = None
        self._has_entered = False

    def start(self) -> Self:
        """Start the thread. Returns self, for `thread = ReactorThread().start()`."""
        self._thread.start()
        return self

    def submit(self, service: Service[T], *, name: str | None = None) -> Future[T]:
        """Start a service in the reactor; see `Reactor.submit`.

        Raises:
            Closed: `close` was called.
            Broken: the reactor's thread failed; `__cause__` has its error.
        """
        try:
            return self.reactor.submit(service, name=name)
        except Closed:
            self._raise_failure()
            raise

    def close(self, timeout_s: float | None = 5.0) -> None:
        """Stop the reactor, cancel its services and wait for the thread. Idempotent.

        Raises:
            TimedOut: the thread has not ended; a service blocks the loop.
            Broken: the reactor's thread failed; `__cause__` has its error.
            Busy: called in the thread itself. Nothing was stopped.
        """
        if threading.current_thread() is self._thread:
            raise Busy(f"thread {self._thread.name!r} cannot wait for its own end: call `reactor.stop`")
        limit_s = lock_timeout(timeout_s)
        if self._thread.ident is None:
            self.reactor.close()
            return
        # Closed: the reactor has ended, or was closed before.
        with contextlib.suppress(Closed):
            self.reactor.stop()
        self._thread.join(None if limit_s < 0 else limit_s)
        if self._thread.is_alive():
            raise TimedOut(f"thread {self._thread.name!r} did not end within {timeout_s} s")
        self._raise_failure()

    def _main(self) -> None:
        try:
            with self.reactor:
                self.reactor.run()
        except BaseException as error:  # noqa: BLE001 - raised again in the threads that use us
            self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise Broken("the reactor's thread failed") from failure

    def __enter__(self) -> Self:
        if self._has_entered or self.reactor.is_closed:
            self._raise_failure()
            past = "was entered before" if self._has_entered else "was closed"
            raise Closed(f"this thread {past}: make another one, `with ReactorThread() as thread`")
        self._has_entered = True
        return self.start() if self._thread.ident is None else self

    def __exit__(self, *_: object) -> None:
        self.close()
