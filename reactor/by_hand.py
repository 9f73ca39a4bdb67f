"""Running a reactor for a while: what spawners need that are no loops themselves. (Usual: `Reactor.run`.)

Like closing.py a part of the loop, kept apart for its length: both know its insides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reactor.loop import Reactor
    from reactor.task import Task

__all__ = ["run_ready", "run_until_ended"]


def run_until_ended(reactor: Reactor, task: Task[Any]) -> None:
    """Run the loop until a task of its own has ended, when nobody outside can help it.

    When it waits for something that nothing can end, `Deadlock` is thrown into it. Raises as `Reactor.run`.
    """
    reactor._check_startable()
    if not task.is_finished:
        reactor._deadlock_victim = task
        reactor._loop(task)


def run_ready(reactor: Reactor) -> None:
    """Run what can go on without waiting, then return. Raises as `Reactor.run`."""
    reactor._check_startable()
    reactor._loop(None, may_wait=False)
