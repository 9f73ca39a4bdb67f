"""Spawners: two ways to run one service.

Each has `spawn(service) -> Handle`. A service is written for the requests, not for the spawner.

Threads of their own, pools and restarting are to come as further spawners with the same one method.
"""

from __future__ import annotations

import selectors
from typing import TypeVar

from reactor.clock import Clock
from reactor.handle import Handle
from reactor.loop import Reactor
from reactor.poller import Poller, SelectorPoller
from reactor.requests import Service

__all__ = ["Blocker", "Coroutine"]

T = TypeVar("T")


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
        with Reactor(clock=self._clock, poller=_poll_poller(), slow_step_s=None) as reactor:
            return reactor.run_alone(service, name)


def _poll_poller() -> Poller:
    # poll() wants no descriptor of its own, and here there are few to look through.
    kind = getattr(selectors, "PollSelector", selectors.DefaultSelector)
    return SelectorPoller(kind())
