"""`RunInThread`: a small pool of threads for calls that block, made when the first one comes.

The pool is for name lookups and small files, not for computing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from reactor.errors import Closed
from reactor.requests import RunInThread
from reactor.waiting import Waiter

__all__ = ["ThreadCalls"]

logger = logging.getLogger("reactor")

_THREADS: Final = 4


class ThreadCalls:
    """The calls that threads make for one runner.

    Args:
        post: has a function called by the loop, from any thread; `Reactor.post`.

    Attributes:
        running: how many calls the loop will still hear of.
    """

    __slots__ = ("_pool", "_post", "running")

    def __init__(self, post: Callable[..., None]) -> None:
        self._post = post
        self._pool: ThreadPoolExecutor | None = None
        self.running = 0

    def begin(self, request: RunInThread, task: Waiter) -> None:
        """Hand a call to the pool and park the task on it."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="reactor")
        call = _Call(task, self._pool.submit(request.function, *request.args))
        task.wait = call
        self.running += 1
        call.future.add_done_callback(lambda _: self._post_end(call))

    def _post_end(self, call: _Call) -> None:
        """In the thread: hand over to the loop, unless it was closed without waiting for us."""
        try:
            self._post(self._end, call)
        except Closed:
            logger.debug("a call in a thread ended after its reactor was closed")

    def _end(self, call: _Call) -> None:
        self.running -= 1
        call.deliver()

    def close(self) -> None:
        """Drop the calls that have not begun; wait for none."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


class _Call:
    """What a task is parked on while a thread works for it. After `undo` the outcome finds nobody."""

    __slots__ = ("_task", "future")

    def __init__(self, task: Waiter, future: Future[Any]) -> None:
        self._task: Waiter | None = task
        self.future = future

    def undo(self, task: Waiter) -> None:
        self._task = None
        self.future.cancel()

    def deliver(self) -> None:
        task = self._task
        if task is None:
            return
        error = self.future.exception()
        if error is None:
            task.wake(self.future.result())
        else:
            task.wake_error(error)
