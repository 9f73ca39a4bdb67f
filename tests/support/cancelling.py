"""Cancel asyncio calls at the moment when their results arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

__all__ = ["cancelled_with_result"]


async def cancelled_with_result(*calls: Coroutine[Any, Any, Any]) -> None:
    """Await calls on a reactor, and cancel them in the loop turn that delivers their results.

    Results are held back until all have arrived, so no call gets its result before that turn.
    """
    loop = asyncio.get_running_loop()
    deliver = loop.call_soon_threadsafe
    arrived: list[Callable[[], object]] = []

    def collect(function: Callable[..., object], *args: Any, **how: Any) -> asyncio.Handle:
        if len(arrived) == len(tasks):
            return deliver(function, *args)  # of another call
        arrived.append(lambda: function(*args))
        return deliver(deliver_all if len(arrived) == len(tasks) else int)

    def deliver_all() -> None:
        for function in arrived:
            function()
        for task in tasks:
            task.cancel()

    loop.call_soon_threadsafe = collect  # type: ignore[assignment, method-assign]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                await task
    finally:
        del loop.call_soon_threadsafe
