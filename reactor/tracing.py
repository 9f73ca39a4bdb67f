"""Tracers: told when a service is created, resumed, suspended and when it has ended.

While a reactor has tracers, three of its methods are shadowed by traced twins (`start`, `_step`, `_finish`,
entered in the reactor's own `__dict__`); with the last one gone the shadows go. So a reactor without tracers
runs the same code as if this file did not exist. A tracer that is added takes effect for what is created,
and from the next turn on for what is resumed.

Precedents: trio's instruments, also in that a tracer that fails is removed and logged.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from reactor.errors import BadRequest, log_failure
from reactor.handle import Handle
from reactor.loop import Reactor
from reactor.requests import Service
from reactor.task import Task

__all__ = ["Tracer", "add_tracer", "remove_tracer"]

logger = logging.getLogger("reactor")

T = TypeVar("T")


class Tracer:
    """Base of tracers: override what you want to hear of.

    The methods are called by the loop, in its thread. They must not wait, nor run the loop. An `Exception`
    from one is logged, and the tracer is removed from that reactor; the services do not notice.
    """

    def service_created(self, service: Handle[Any]) -> None:
        """A service was started; it first runs in the next pass."""

    def service_resumed(self, service: Handle[Any]) -> None:
        """A service is about to run."""

    def service_suspended(self, service: Handle[Any]) -> None:
        """A service has run, and waits or lets others go first. `describe` (inspection.py) tells for what."""

    def service_ended(self, service: Handle[Any]) -> None:
        """A service has returned or failed; the handle has the outcome, and its watchers were told."""


def add_tracer(reactor: Reactor, tracer: Tracer) -> None:
    """Have a tracer told of a reactor's services. To be called in the reactor's thread, or before it runs.

    Raises:
        BadRequest: it was added before.
    """
    tracing = _tracing_of(reactor) or _Tracing(reactor)
    if tracer in tracing.tracers:
        raise BadRequest(f"{tracer!r} traces this reactor already")
    tracing.tracers = (*tracing.tracers, tracer)


def remove_tracer(reactor: Reactor, tracer: Tracer) -> None:
    """Stop telling a tracer. Nothing happens if it is not told any more, since it failed or was removed."""
    tracing = _tracing_of(reactor)
    if tracing is not None:
        tracing.remove(tracer)


def _tracing_of(reactor: Reactor) -> _Tracing | None:
    shadow = vars(reactor).get("_step")
    return None if shadow is None else shadow.__self__


class _Tracing:
    """The tracers of one reactor, and the traced twins of its methods."""

    def __init__(self, reactor: Reactor) -> None:
        self.tracers: tuple[Tracer, ...] = ()
        self._reactor = reactor
        # Bound while there are no shadows: the plain methods.
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
        self._tell("service_created", task)
        return task

    def step(self, task: Task[Any]) -> None:
        self._tell("service_resumed", task)
        self._plain_step(task)
        if not task.is_finished:
            self._tell("service_suspended", task)

    def finish(self, task: Task[Any], result: Any, error: BaseException | None) -> None:
        try:
            self._plain_finish(task, result, error)
        finally:
            self._tell("service_ended", task)

    def _tell(self, event: str, task: Task[Any]) -> None:
        for tracer in self.tracers:
            try:
                getattr(tracer, event)(task)
            except Exception as error:  # noqa: BLE001 - a tracer ends no service
                text = "tracer %r failed at %s of service %r: removed"
                log_failure(logger, error, text, tracer, event, task.name)
                self.remove(tracer)
