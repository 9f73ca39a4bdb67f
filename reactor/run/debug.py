"""Debugging: a dump of all services, and tracers.

`dump` shows names, descriptor numbers, times and places in the code, but no items, bytes or addresses. It
changes nothing, so it may be called anywhere: in a signal handler of the loop's thread (run/signals.py), in a
debugger, from a service.

A `Tracer` is notified when a service is created, resumed, suspended and when it has ended. While a reactor
has tracers, traced versions shadow three of its methods (`start`, `_step`, `_finish`, in the `__dict__` of
the reactor). Without tracers they cost nothing. A new tracer sees the services created after it was added,
and the resumes from the next turn on. As with trio's instruments, a failing tracer is removed and logged.

The loop itself logs a slow step when it is over. For a service that never yields, dump on a signal.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, TypeVar

from reactor.core.loop import Reactor
from reactor.core.poller import WaitReadable, WaitWritable
from reactor.core.requests import Service
from reactor.core.task import Handle, Join, Task
from reactor.core.threads import ThreadCalls
from reactor.core.timers import SleepingTask
from reactor.errors import BadRequest, check_count, check_type, is_ctrl_c, log_failure
from reactor.sync.channel import ReceiveItem, SendItem
from reactor.sync.scope import Signal

__all__ = ["Tracer", "add_tracer", "describe", "dump", "remove_tracer"]

# Frames of the dump itself.
_LOOKING: Final = ("reactor/run/debug.py:", "reactor/run/signals.py:")
# More than a person reads.
_MOST_SERVICES: Final = 1_000


def dump(reactor: Reactor, *, limit: int = _MOST_SERVICES) -> str:
    """Describe all living services.

    Args:
        limit: number of services to describe, the oldest first; the others are counted.
    Returns:
        A summary line; then for each service a line with its wait, and below it its position,
        from its own line to that of the innermost generator. For the running service: where the loop's
        thread is.
    """
    check_type(reactor, Reactor, "reactor", "a Reactor")
    check_count(limit, "limit", least=0)
    tasks = list(reactor.tasks)
    lines = [f"reactor: {len(tasks)} services, {len(reactor.ready)} ready, {len(reactor.timers)} timers"]
    for task in tasks[:limit]:
        lines.append(describe(task))
        lines += [f"    {place}" for place in _places(task, reactor)]
    if len(tasks) > limit:
        lines.append(f"and {len(tasks) - limit} more")
    return "\n".join(lines) + "\n"


def describe(service: Handle[Any]) -> str:
    """Describe in one line what a service does or waits for: `'echo' waits to read descriptor 7`."""
    if service.is_finished or not isinstance(service, Task):
        return f"{service.name!r} has ended" if service.is_finished else f"{service.name!r} runs elsewhere"
    if getattr(service.service, "gi_running", False):
        return f"{service.name!r} runs now"
    if service.wait is None:
        return f"{service.name!r} is ready to run"
    return f"{service.name!r} waits {_wait_text(service.wait, service)}"


def _sleep_text(wait: Any, task: Task[Any]) -> str:
    left_s = wait.deadline_s - task.runner.now()
    return f"{left_s:.3f} s more"


def _channel_name(wait: Any) -> str:
    return getattr(getattr(wait, "_channel", None), "name", "channel")


# The wait of a task, in words that follow "waits".
_WAITS: Final[dict[type, Callable[[Any, Task[Any]], str]]] = {
    WaitReadable: lambda wait, _: f"to read descriptor {wait.descriptor.fileno()}",
    WaitWritable: lambda wait, _: f"to write descriptor {wait.descriptor.fileno()}",
    ReceiveItem: lambda wait, _: f"for an item of channel {_channel_name(wait)!r}",
    SendItem: lambda wait, _: f"for room in channel {_channel_name(wait)!r}",
    Join: lambda wait, _: f"for the end of {wait.handle.name!r}",
    Signal: lambda wait, _: "for a signal",
    SleepingTask: _sleep_text,
}


def _wait_text(wait: Any, task: Task[Any]) -> str:
    for base in type(wait).__mro__:
        if base in _WAITS:
            return _WAITS[base](wait, task)
    if type(wait).__module__ == ThreadCalls.__module__:
        return "for a call in a thread"
    return f"for {type(wait).__name__}"


def _places(task: Task[Any], reactor: Reactor) -> Iterator[str]:
    """The position of a service, outermost first."""
    generator: Any = task.service
    if getattr(generator, "gi_running", False):
        yield from _running_places(reactor)
        return
    while generator is not None:
        frame = getattr(generator, "gi_frame", None)
        if frame is None:
            # Not a real generator, or one that has just ended.
            yield f"in {type(generator).__name__}, which has no frame"
            return
        yield _place(frame, frame.f_lineno)
        generator = getattr(generator, "gi_yieldfrom", None)


def _running_places(reactor: Reactor) -> Iterator[str]:
    thread_id = reactor.thread_id
    frame = None if thread_id is None else sys._current_frames().get(thread_id)
    if frame is None:
        return
    # Innermost first, up to the loop, without the frames of the dump.
    places: list[str] = []
    for caller, line in traceback.walk_stack(frame):
        text = _place(caller, line)
        if text.startswith("reactor/core/loop.py:"):
            break
        if not text.startswith(_LOOKING):
            places.append(text)
    yield from reversed(places)


def _place(frame: FrameType, line: int) -> str:
    path = frame.f_code.co_filename.replace("\\", "/").split("/")
    # Files of this package with its name, others with their folder.
    shown = path[-3:] if path[-3:-2] == ["reactor"] else path[-2:]
    return f"{'/'.join(shown)}:{line} in {frame.f_code.co_name}"


logger = logging.getLogger("reactor")
T = TypeVar("T")


class Tracer:
    """Base of tracers: override the events you want.

    The loop calls the methods in its thread. They must neither wait nor run the loop. An `Exception` is
    logged, and the tracer is removed from that reactor; the services continue.
    """

    def service_created(self, service: Handle[Any]) -> None:
        """A service was started; it first runs in the next pass."""

    def service_resumed(self, service: Handle[Any]) -> None:
        """A service is about to run."""

    def service_suspended(self, service: Handle[Any]) -> None:
        """A service waits or has yielded to others. `describe` names what it waits for."""

    def service_ended(self, service: Handle[Any]) -> None:
        """A service has returned or failed; the handle has the outcome, and its watchers were notified."""


def add_tracer(reactor: Reactor, tracer: Tracer) -> None:
    """Add a tracer, in the reactor's thread or before it runs. Raises BadRequest: it was added before."""
    tracing = _tracing_of(reactor) or _Tracing(reactor)
    if tracer in tracing.tracers:
        raise BadRequest(f"{tracer!r} traces this reactor already")
    tracing.tracers = (*tracing.tracers, tracer)


def remove_tracer(reactor: Reactor, tracer: Tracer) -> None:
    """Remove a tracer. No effect if it was removed before, or failed."""
    tracing = _tracing_of(reactor)
    if tracing is not None:
        tracing.remove(tracer)


def _tracing_of(reactor: Reactor) -> _Tracing | None:
    check_type(reactor, Reactor, "reactor", "a Reactor")
    shadow = vars(reactor).get("_step")
    return None if shadow is None else shadow.__self__


class _Tracing:
    """The tracers of one reactor, and the traced versions of its methods."""

    def __init__(self, reactor: Reactor) -> None:
        self.tracers: tuple[Tracer, ...] = ()
        self._reactor = reactor
        # The plain methods, bound before the traced ones shadow them.
        self._plain_start, self._plain_step, self._plain_finish = (
            reactor.start,
            reactor._step,
            reactor._finish,
        )
        vars(reactor).update(start=self.start, _step=self.step, _finish=self.finish)

    def remove(self, tracer: Tracer) -> None:
        self.tracers = tuple(other for other in self.tracers if other is not tracer)
        if not self.tracers:
            for name in ("start", "_step", "_finish"):
                vars(self._reactor).pop(name, None)

    def start(self, service: Service[T], name: str | None) -> Task[T]:
        task = self._plain_start(service, name)
        self._notify("service_created", task)
        return task

    def step(self, task: Task[Any]) -> None:
        self._notify("service_resumed", task)
        self._plain_step(task)
        if not task.is_finished:
            self._notify("service_suspended", task)

    def finish(self, task: Task[Any], result: Any, error: BaseException | None) -> None:
        try:
            self._plain_finish(task, result, error)
        finally:
            self._notify("service_ended", task)

    def _notify(self, event: str, task: Task[Any]) -> None:
        for tracer in self.tracers:
            try:
                getattr(tracer, event)(task)
            except BaseException as error:  # a tracer ends no service
                if is_ctrl_c(error):
                    raise
                text = "tracer %r failed at %s of service %r: removed"
                log_failure(logger, error, text, tracer, event, task.name)
                self.remove(tracer)
