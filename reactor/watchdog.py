"""A watchdog: tells of a service that does not give the loop back, while it still does not.

The slow-step warning of the loop comes when the step is over; a service that never yields is never told of.
The watchdog is a thread that looks every now and then at which service runs since when, and logs the stack of
the loop's thread. It is a tracer, so it costs something only while it is on: two calls per step.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any, Final, Self

from reactor.errors import BadRequest
from reactor.handle import Handle
from reactor.loop import Reactor
from reactor.tracing import Tracer, add_tracer, remove_tracer

__all__ = ["Watchdog"]

logger = logging.getLogger("reactor")

# So many looks within the time after which a service is told of.
_LOOKS: Final = 4


class Watchdog(Tracer):
    """Logs, once per step, a service that keeps the loop for longer than a time: its name and its stack.

    Use: `with Watchdog(reactor, after_s=1.0): reactor.run(...)`.

    Args:
        reactor: to be watched. Enter and leave the context in its thread, or while it does not run.
        after_s: seconds of the system's monotonic clock.
    Raises:
        BadRequest: `after_s` is not positive.
    """

    def __init__(self, reactor: Reactor, *, after_s: float = 1.0) -> None:
        if not after_s > 0:
            raise BadRequest(f"a watchdog barks after some time, got {after_s} s")
        self._reactor = reactor
        self._after_s = after_s
        # What runs, since when, in which thread: one object per step, set and read as a whole.
        self._step: tuple[Handle[Any], float, int] | None = None
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def service_resumed(self, service: Handle[Any]) -> None:
        """See `Tracer`."""
        self._step = (service, time.monotonic(), threading.get_ident())

    def service_suspended(self, service: Handle[Any]) -> None:
        """See `Tracer`."""
        self._step = None

    def service_ended(self, service: Handle[Any]) -> None:
        """See `Tracer`."""
        self._step = None

    def __enter__(self) -> Self:
        add_tracer(self._reactor, self)
        self._is_over.clear()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove_tracer(self._reactor, self)
        self._step = None
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        reported = None
        while not self._is_over.wait(self._after_s / _LOOKS):
            step = self._step
            if step is None or step is reported:
                continue
            service, since_s, thread_id = step
            for_s = time.monotonic() - since_s
            if for_s < self._after_s:
                continue
            frame = sys._current_frames().get(thread_id)
            stack = [] if frame is None else traceback.format_stack(frame)
            # Looked at once more: the stack must be of this very step.
            if self._step is step:
                reported = step
                logger.warning(
                    "service %r keeps the loop since %.3f s and does not yield:\n%s",
                    service.name,
                    for_s,
                    "".join(stack),
                )
