"""Spawners: ways to run one service.

Each has `spawn(service) -> Handle`. A service is written for the requests, not for the spawner. Those that
use threads are in thread_spawners.py.

What a service started (`Spawn`) and left behind is cancelled at its end where it had a loop of its own
(`Blocker`, `ThreadPark`), and lives on, as in any reactor, where it shares one.
"""

from __future__ import annotations

import selectors
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from reactor.by_hand import run_ready, run_until_ended
from reactor.clock import Clock
from reactor.errors import Busy, Closed, Forked
from reactor.handle import Handle
from reactor.loop import Reactor
from reactor.poller import Poller, SelectorPoller
from reactor.proxy_handle import ProxyHandle
from reactor.requests import Service
from reactor.signal import Signal
from reactor.task import Task
from reactor.timeout import timeout_after

__all__ = ["Blocker", "Coroutine", "Restart", "RestartHandle", "Spawner", "poll_poller"]

T = TypeVar("T")


class Spawner(Protocol):
    """A way to run a service."""

    def spawn(self, service: Service[T], *, name: str | None = None) -> Handle[T]:
        """Start a service.

        Args:
            service: a generator, not yet started.
            name: for messages; the generator's own name unless given.
        """


class Coroutine:
    """Runs services in a reactor, beside all others there."""

    __slots__ = ("_reactor",)

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor

    def spawn(self, service: Service[T], *, name: str | None = None) -> Handle[T]:
        """Start a service; see `Reactor.spawn`."""
        return self._reactor.spawn(service, name=name)


class Blocker:
    """Runs a service here and now to its end: for scripts, and for calls in a service that must not suspend.

    Each `spawn` is a small reactor of its own over `poll`, so a service may use every request, have timeouts
    and start others. Those that it leaves behind are cancelled when it ends.

    Args:
        clock: as for `Reactor`.
    """

    __slots__ = ("_clock",)

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock

    def spawn(self, service: Service[T], *, name: str | None = None) -> Handle[T]:
        """Run a service to its end.

        Returns:
            The finished handle: its `result()` gives the value or raises the error. The error is `Deadlock`
            (thrown into the service where it waits) when nothing is left that could end a wait.
        """
        with Reactor(clock=self._clock, poller=poll_poller(), slow_step_s=None) as reactor:
            task = reactor.start(service, name)
            run_until_ended(reactor, task)
            return task


class Restart:
    """Runs services here, until they would wait; and on, from where they stopped, with each `unyield`.

    Made for whoever has no loop and wants none: send a command into the service's channel, `unyield`, look
    for the answer. Between two calls the service's state rests in its handle and nothing runs.

    All services of one `Restart` share a reactor that is turned by hand, so each of those that are ready goes
    on with the `unyield` of any.

    Args:
        clock: as for `Reactor`.
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
        run_ready(self._reactor)
        return handle

    def close(self) -> None:
        """Cancel what has not ended and let it clean up; see `Reactor.close`."""
        self._reactor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RestartHandle(ProxyHandle[T]):
    """A service that goes on when told to, in the thread that tells it; one thread at a time."""

    __slots__ = ("_own_task", "_reactor")

    def __init__(self, task: Task[T], reactor: Reactor) -> None:
        super().__init__(task.name)
        self._own_task = task
        self._reactor = reactor
        self.bind(task)
        task.add_done_callback(self.settle_from)

    def unyield(self) -> bool:
        """Let the service go on, here and now, until it ends or would wait.

        Nothing happens when it has ended, or is running (called from within).

        Returns:
            Whether it was given the chance.
        Raises:
            whatever `Reactor.run` lets through: KeyboardInterrupt and SystemExit of a service.
        """
        if self.is_finished:
            return False
        self._own_task.unyield()
        try:
            run_ready(self._reactor)
        except Forked:
            raise
        except (Busy, Closed):
            return False
        return True

    def wait(self, timeout_s: float | None = None) -> T:
        """Run the service to its end, here, waiting as `Blocker` does.

        Args:
            timeout_s: None: for ever.
        Returns:
            Its result. Raises what `result` raises, and:
        Raises:
            TimedOut: it has not ended in time, and rests again.
            Busy: called from a service of the same `Restart`.
        """
        if not self.is_finished:
            if timeout_s is None:
                run_until_ended(self._reactor, self._own_task)
            else:
                self._reactor.run(_within(timeout_s, self._own_task))
        return self.result()


def _within(timeout_s: float, handle: Handle[Any]) -> Service[None]:
    """Wait for a service's end, and only that: its error is not ours. Raises TimedOut."""
    ended = Signal()
    handle.add_done_callback(lambda _: ended.set())

    def wait() -> Service[None]:
        yield ended

    yield from timeout_after(timeout_s, wait())


def poll_poller() -> Poller:
    """Make a poller for few descriptors."""
    # poll() wants no descriptor of its own, and here there are few to look through.
    kind = getattr(selectors, "PollSelector", selectors.DefaultSelector)
    return SelectorPoller(kind())
