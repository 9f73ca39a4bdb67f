"""How the loop answers each request.

A handler takes (request, task) and returns the answer; or it has entered the task somewhere, set `task.wait`,
and returns PARKED. What it raises is thrown into the service. Waking up is the business
of whatever the task was entered in.

Signals and channel requests bring their own `begin`: they need nothing of the runner but its queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import CoroutineType, GeneratorType
from typing import Any, Final, TypeAlias

from reactor.core.forgotten import discard
from reactor.core.poller import WaitReadable, WaitWritable
from reactor.core.requests import PARKED, CurrentTask, CurrentTime, Pass, Request, Spawn
from reactor.core.task import Handle, Join, Task
from reactor.core.threads import RunInThread
from reactor.core.timers import Deadline, SetTimer, Sleep, SleepingTask, check_seconds
from reactor.errors import BadRequest, Busy
from reactor.sync.channel import Channel, ReceiveCounted, ReceiveItem, SendItem
from reactor.sync.scope import Signal
from reactor.sync.selection import Select
from reactor.sync.shared_channel import ReceiveShared, SendShared, SharedChannel

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
    check_seconds(seconds)
    try:
        return task.runner.now() + seconds
    except OverflowError:
        return math.inf if seconds > 0 else -math.inf


def _on_current_task(request: CurrentTask, task: Task[Any]) -> Handle[Any]:
    return task


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
        return handle.join_from_outside(task)
    handle.add_watcher(task)
    task.wait = request
    return PARKED


def _on_run_in_thread(request: RunInThread, task: Task[Any]) -> object:
    request.take_note()
    task.runner.threads.begin(request, task)
    return PARKED


def _on_select(request: Select, task: Task[Any]) -> object:
    return request.begin(task, _handler_of)


def _handler_of(request: Request) -> Handler:
    return HANDLERS.get(type(request)) or find_by_base(request, HANDLERS)


HANDLERS: Final[dict[type, Handler]] = {
    WaitReadable: _on_wait_readable,
    WaitWritable: _on_wait_writable,
    Signal: Signal.begin,
    ReceiveItem: ReceiveItem.begin,
    SendItem: SendItem.begin,
    ReceiveCounted: ReceiveCounted.begin,
    ReceiveShared: ReceiveShared.begin,
    SendShared: SendShared.begin,
    Select: _on_select,
    Pass: _on_pass,
    Sleep: _on_sleep,
    SetTimer: _on_set_timer,
    CurrentTask: _on_current_task,
    CurrentTime: _on_current_time,
    Spawn: _on_spawn,
    Join: _on_join,
    RunInThread: _on_run_in_thread,
}


def find_by_base(request: object, handlers: dict[type, Handler], service: object = None) -> Handler:
    """Find the handler of a subclass of a known request, and enter it in the table.

    Args:
        service: the generator that yielded it.
    Raises:
        BadRequest: it is none. The text says what to write, and where.
    """
    kind = type(request)
    for base in kind.__mro__:
        handler = handlers.get(base)
        if handler is not None:
            handlers[kind] = handler
            return handler
    what = f"{request.__qualname__}()" if isinstance(request, GeneratorType) else repr(request)
    raise BadRequest(f"{_place_of(service)}`yield` takes a request, got {what}: {_advice(request)}")


def _advice(request: object) -> str:
    """Say what to write instead of something that is no request."""
    if isinstance(request, GeneratorType):
        discard(request)
        return "write `yield from`"
    if isinstance(request, CoroutineType):
        request.close()  # else it warns that it was never awaited
        return "a service waits for asyncio with `yield from bridge.wait(...)`, see reactor.run.aio"
    if isinstance(request, type) and issubclass(request, Request):
        return f"make one, `yield {request.__name__}(...)`"
    if request is None:
        return "write `yield YIELD` to let others run"
    if isinstance(request, Handle):
        return "write `yield from handle.join()`"
    if isinstance(request, Channel | SharedChannel):
        return "write `yield from channel.receive()`"
    if isinstance(request, int | float):
        return "write `yield Sleep(...)` to wait"
    if callable(request):
        return "write `yield from` and call it"
    return "a service gives values with `return` or through a channel"


def _place_of(service: object) -> str:
    """Give the file and line of the innermost generator, where the service stands."""
    place = ""
    while service is not None:
        frame = getattr(service, "gi_frame", None)
        if frame is not None:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}: "
        service = getattr(service, "gi_yieldfrom", None)
    return place
