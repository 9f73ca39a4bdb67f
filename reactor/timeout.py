"""Limits on the time of a service: `timeout_after` fails when it is over, `move_on_after` goes on.

Both run the service within the caller's task, and are thereby scopes in time: they nest, and what is inside
cleans up before they return.
"""

from __future__ import annotations

from typing import TypeVar

from reactor.errors import TimedOut
from reactor.forgotten import Reminder, discard, reminded, settle
from reactor.requests import Service, SetTimer
from reactor.timers import Deadline, Expired

__all__ = ["move_on_after", "timeout_after"]

T = TypeVar("T")


@reminded
def timeout_after(seconds: float | None, reminder: Reminder, service: Service[T]) -> Service[T]:
    """Run a service within this one, for so many seconds: `x = yield from timeout_after(5, stream_reader())`.

    When the time is over the inner service is interrupted where it waits, with an error that is no
    `Exception`; it cleans up as for a cancellation (and may wait while it does). Timeouts nest: the error of
    an outer one passes through the inner ones. With `in_scope` inside, the time limits all its children.

    Args:
        seconds: of the runner's clock; None: no limit.
        service: runs in the caller's task.
    Returns:
        What the inner service returned, also when it did so at the very moment the time was over.
    Raises:
        TimedOut: the time is over.
        any other: what the inner service raised.
    """
    settle(reminder)
    del reminder
    if seconds is None:
        return (yield from service)
    try:
        deadline: Deadline = yield SetTimer(seconds)
    except BaseException:
        discard(service)
        raise
    try:
        return (yield from service)
    except Expired as expired:
        if expired is not deadline.error:
            raise
        raise TimedOut(f"not done within {seconds:g} s") from None
    finally:
        deadline.cancel()


@reminded
def move_on_after(seconds: float, reminder: Reminder, service: Service[T]) -> Service[T | None]:
    """Run a service within this one, and give it up without an error when its time is over.

    Args:
        seconds: of the runner's clock.
        service: runs in the caller's task, and cleans up as for `timeout_after`.
    Returns:
        What the inner service returned; None when its time was over.
    Raises:
        any: what the inner service raised, a `TimedOut` of its own included.
    """
    settle(reminder)
    del reminder
    try:
        deadline: Deadline = yield SetTimer(seconds)
    except BaseException:
        discard(service)
        raise
    try:
        return (yield from service)
    except Expired as expired:
        if expired is not deadline.error:
            raise
        return None
    finally:
        deadline.cancel()
