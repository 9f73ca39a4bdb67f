"""What all services are doing: `dump` for people, while the loop runs or stands still.

Only names, descriptor numbers, times and places in the code: no item of a channel, no bytes, no address.

`dump` looks and changes nothing, so it may be called where the loop may not be: in a signal handler of the
loop's thread (unix_signals.py), in a debugger, from a service.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from reactor.channel import ReceiveItem, SendItem
from reactor.handle import Handle
from reactor.loop import Reactor
from reactor.requests import Join, WaitReadable, WaitWritable
from reactor.signal import Signal
from reactor.task import Task
from reactor.thread_calls import ThreadCalls
from reactor.timers import SleepingTask

__all__ = ["describe", "dump"]

# Frames of who makes the dump.
_LOOKING: Final = ("reactor/inspection.py:", "reactor/unix_signals.py:")
# More services than a person reads; the rest are counted.
_MOST_SERVICES: Final = 1_000


def dump(reactor: Reactor, *, limit: int = _MOST_SERVICES) -> str:
    """Describe all services that live.

    Args:
        limit: so many are described, the oldest first; the others are counted.
    Returns:
        Lines, each ended: a summary; then per service what it waits for, and below it where it stands, from
        the service's own line to the innermost generator's. For the one that runs now, where the loop's
        thread is instead.
    """
    tasks = list(reactor._tasks)
    lines = [f"reactor: {len(tasks)} services, {len(reactor.ready)} ready, {len(reactor.timers)} timers"]
    for task in tasks[:limit]:
        lines.append(describe(task))
        lines += [f"    {place}" for place in _places(task, reactor)]
    if len(tasks) > limit:
        lines.append(f"and {len(tasks) - limit} more")
    return "\n".join(lines) + "\n"


def describe(service: Handle[Any]) -> str:
    """Say in one line what a service does or waits for: `'echo' waits to read descriptor 7`."""
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


# What a task is parked on, in words that follow "waits".
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
    """Where a service stands, outermost first."""
    generator: Any = task.service
    if getattr(generator, "gi_running", False):
        yield from _running_places(reactor)
        return
    while generator is not None:
        frame = getattr(generator, "gi_frame", None)
        if frame is None:
            # A generator made by hand, or one on which the outer one has just been resumed.
            yield f"in {type(generator).__name__}, which has no frame"
            return
        yield _place(frame, frame.f_lineno)
        generator = getattr(generator, "gi_yieldfrom", None)


def _running_places(reactor: Reactor) -> Iterator[str]:
    thread_id = reactor._thread_id
    frame = None if thread_id is None else sys._current_frames().get(thread_id)
    if frame is None:
        return
    # Innermost first: without those who look, and up to the loop; what is beyond is the way to `run`.
    places: list[str] = []
    for caller, line in traceback.walk_stack(frame):
        text = _place(caller, line)
        if text.startswith("reactor/loop.py:"):
            break
        if not text.startswith(_LOOKING):
            places.append(text)
    yield from reversed(places)


def _place(frame: FrameType, line: int) -> str:
    path = frame.f_code.co_filename.replace("\\", "/").split("/")
    return f"{'/'.join(path[-2:])}:{line} in {frame.f_code.co_name}"
