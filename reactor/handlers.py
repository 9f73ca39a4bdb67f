"""How the loop answers each request.

A handler takes (request, task) and returns the answer; or it has entered the task somewhere, set `task.wait`,
and returns PARKED. It raises `ReactorError` only, which is thrown into the service. Waking up is the business
of whatever the task was entered in.

Signals and channel requests bring their own `begin`: they need nothing of the runner but its queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from reactor.channel import ReceiveItem, SendItem
from reactor.errors import BadRequest, Busy
from reactor.handle import Handle
from reactor.requests import (
    CurrentTime,
    Join,
    Pass,
    RunInThread,
    SetTimer,
    Sleep,
    Spawn,
    WaitReadable,
    WaitWritable,
)
from reactor.signal import Signal
from reactor.task import PARKED, Task
from reactor.timers import Deadline, SleepingTask

__all__ = ["HANDLERS", "Handler", "find_by_base"]

Handler: TypeAlias = Callable[[Any, Task[Any]], Any]


def _on_wait_readable(request: WaitReadable, task: Task[Any]) -> object:
    descriptor = request.descriptor
    poller = task.runner.poller
    if descriptor.poller is not poller:
        descriptor.adopt(poller)
    descriptor.drained = False
    if descriptor.read_ready:
        descriptor.read_ready = False
        return None
    if descriptor.reader is not None:
        raise Busy(f"{descriptor!r} is read by {descriptor.reader.name!r}, {task.name!r} cannot wait too")
    descriptor.reader = task
    if poller.needs_arming:
        poller.arm(descriptor)
    task.wait = request
    return PARKED


def _on_wait_writable(request: WaitWritable, task: Task[Any]) -> object:
    descriptor = request.descriptor
    poller = task.runner.poller
    if descriptor.poller is not poller:
        descriptor.adopt(poller)
    if descriptor.write_ready:
        descriptor.write_ready = False
        return None
    if descriptor.writer is not None:
        raise Busy(f"{descriptor!r} is written by {descriptor.writer.name!r}, {task.name!r} cannot wait too")
    descriptor.writer = task
    if poller.needs_arming:
        poller.arm(descriptor)
    task.wait = request
    return PARKED


def _on_pass(request: Pass, task: Task[Any]) -> object:
    task.runner.ready.append(task)
    return PARKED


def _on_sleep(request: Sleep, task: Task[Any]) -> object:
    task.wait = SleepingTask(task, task.runner.timers, _deadline_s(request.seconds, task))
    return PARKED


def _on_set_timer(request: SetTimer, task: Task[Any]) -> Deadline:
    return Deadline(task, task.runner.timers, _deadline_s(request.seconds, task))


def _deadline_s(seconds: float, task: Task[Any]) -> float:
    # nan would be in no order with the other deadlines and spoil the heap.
    if math.isnan(seconds):
        raise BadRequest("a time to wait must be a number, got nan")
    return task.runner.now() + seconds


def _on_current_time(request: CurrentTime, task: Task[Any]) -> float:
    return task.runner.now()


def _on_spawn(request: Spawn, task: Task[Any]) -> Handle[Any]:
    return task.runner.start(request.service, request.name)


def _on_join(request: Join, task: Task[Any]) -> object:
    handle = request.handle
    if handle.is_finished:
        error = handle.error
        if error is None:
            return handle.result()
        # Not raised here: it may be any error, and only those of the reactor may come from a handler.
        task.wake_error(handle.error_for_others())
        return PARKED
    if not isinstance(handle, Task) or handle.runner is not task.runner:
        raise BadRequest(f"{handle!r} is run by another reactor, {task.name!r} cannot join it")
    handle.add_watcher(task)
    task.wait = request
    return PARKED


def _on_run_in_thread(request: RunInThread, task: Task[Any]) -> object:
    task.runner.threads.begin(request, task)
    return PARKED


HANDLERS: Final[dict[type, Handler]] = {
    WaitReadable: _on_wait_readable,
    WaitWritable: _on_wait_writable,
    Signal: Signal.begin,
    ReceiveItem: ReceiveItem.begin,
    SendItem: SendItem.begin,
    Pass: _on_pass,
    Sleep: _on_sleep,
    SetTimer: _on_set_timer,
    CurrentTime: _on_current_time,
    Spawn: _on_spawn,
    Join: _on_join,
    RunInThread: _on_run_in_thread,
}


def find_by_base(request: object, handlers: dict[type, Handler]) -> Handler:
    """Find the handler of a subclass of a known request, and enter it in the table.

    Raises:
        BadRequest: it is none.
    """
    kind = type(request)
    for base in kind.__mro__:
        handler = handlers.get(base)
        if handler is not None:
            handlers[kind] = handler
            return handler
    raise BadRequest(f"yielded {request!r}, which is no request that is known here")
