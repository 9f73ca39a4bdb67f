"""How a reactor ends what still lives in it: by asking first, then by force.

Each service is cancelled and may take its time to clean up, wait in its cleanup and start others, which are
cancelled in their turn. What has not ended after the grace is closed where it stands.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from reactor.errors import Cancelled

if TYPE_CHECKING:
    from reactor.loop import Reactor

__all__ = ["cancel_all"]

logger = logging.getLogger("reactor")

# How long the cleanup of what was cancelled may take.
_GRACE_S: Final = 1.0


def cancel_all(reactor: Reactor) -> None:
    """Cancel all services and run until they have ended or the grace is over; then end them by force."""
    until_s = time.monotonic() + _GRACE_S
    tasks = reactor._tasks
    reactor._thread_id = threading.get_ident()
    try:
        _cancel_each(reactor)
        while tasks and time.monotonic() < until_s:
            # A timer of our own bounds the wait of the poller.
            bound = reactor.timers.add(reactor.now() + _GRACE_S, lambda _: None)
            reactor._stop_asked = False
            reactor._turn()
            reactor.timers.cancel(bound)
            _cancel_each(reactor)
    finally:
        reactor._thread_id = None
    for task in list(tasks):
        logger.warning("service %r did not end within %.1f s of being cancelled", task.name, _GRACE_S)
        task.end_by_force()
        reactor._finish(task, None, Cancelled("ended by force"))
    reactor.ready.clear()


def _cancel_each(reactor: Reactor) -> None:
    for task in list(reactor._tasks):
        task.cancel("the reactor is closed")
