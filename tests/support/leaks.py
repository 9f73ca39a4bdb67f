"""Leak checks: descriptors and threads of the process, services and timers of reactors."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from reactor import Reactor
from reactor.core.threads import POOLS

__all__ = ["Held", "held", "no_leaks"]

_PATIENCE_S = 30.0
_FD_FOLDER = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


class Held(NamedTuple):
    """Numbers of open resources."""

    descriptors: int
    threads: int
    services: int
    timers: int
    waiters: bool


def held(*reactors: Reactor) -> Held:
    """Count the open resources of the process and of these reactors."""
    # Garbage is not a leak, and collecting it may close descriptors.
    gc.collect()
    return Held(
        len(os.listdir(_FD_FOLDER)),
        # A reactor starts the threads of its pools when there is work, and keeps them until it is closed.
        threading.active_count() - sum(pool.threads for pool in list(POOLS) if not pool.is_closed),
        sum(len(reactor.tasks) for reactor in reactors),
        sum(len(reactor.timers) for reactor in reactors),
        any(reactor.poller.has_waiters() for reactor in reactors),
    )


@contextlib.contextmanager
def no_leaks(*reactors: Reactor) -> Iterator[None]:
    """Fail when more is held at the end than at the start.

    Raises:
        AssertionError: a resource is still open.
    """
    before = held(*reactors)
    yield
    end_s = time.monotonic() + _PATIENCE_S
    while True:
        after = held(*reactors)
        # There may be fewer: garbage of an earlier test may have been collected meanwhile.
        if all(now <= then for now, then in zip(after, before, strict=True)):
            return
        assert time.monotonic() < end_s, f"left behind: {after}, before: {before}"
        time.sleep(0.01)  # on a busy machine a thread takes a while to end
