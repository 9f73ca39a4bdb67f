"""Calls that block: `RunInThread` and `LookUp`, their threads, and futures of services for other threads.

    text = yield RunInThread(path.read_text)

The threads are for small files and for host names, not for computing. They are started as needed. Calls about
files and look-ups of names have pools apart (`RunInThread.pool`), so neither delays the other.

A call can hang, for example in the open of a FIFO or on a mount whose server is gone, and a thread cannot be
interrupted. So an abandoned call no longer counts and another thread takes its place, up to `MOST_THREADS`.
The threads are daemons: a hanging call does not keep the program from ending. Calls that are still running at
the end of the program get `_GRACE_S`.

A `ServiceFuture` is the `concurrent.futures.Future` that another thread holds of a service; `tie` connects
the two. It stays "pending" while the service runs, because a "running" future refuses to be cancelled.
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, ClassVar, Final, Protocol, TypeVar

from reactor.core.forgotten import remind
from reactor.core.requests import PARKED, NeedsYield, Waiter
from reactor.core.task import Handle
from reactor.errors import Broken, Busy, Cancelled, Closed, Forked, renewed

__all__ = [
    "FromThread",
    "LookUp",
    "RunInThread",
    "ServiceFuture",
    "ThreadCalls",
    "answer_at_fork",
    "set_outcome",
    "tie",
]

logger = logging.getLogger("reactor")
T = TypeVar("T")

# Concurrent calls of each pool. A look-up only waits for an answer from the network.
THREADS: Final = {"calls": 4, "names": 16}
# Threads of a pool, those of abandoned calls included. A hanging thread costs some 10 kB.
MOST_THREADS: Final = 64
_GRACE_S: Final = 1.0


class ThreadCalls:
    """The thread calls of one runner.

    Args:
        post: lets the loop call a function, from any thread; `Reactor.post`.

    Attributes:
        running: number of calls that a service waits for.
    """

    __slots__ = ("_pools", "_post", "running")

    def __init__(self, post: Callable[..., None]) -> None:
        self._post = post
        self._pools: dict[str, _Pool] = {}
        self.running = 0

    def begin(self, request: RunInThread, task: Waiter) -> None:
        """Hand a call to its pool and park the task on it.

        Raises:
            Broken: the system cannot start a thread.
        """
        pool = self._pools.get(request.pool)
        if pool is None:
            pool = self._pools[request.pool] = _Pool(THREADS[request.pool], f"reactor {request.pool}")
        call = _Call(self, pool, task, request)
        pool.put(call)
        task.wait = call
        self.running += 1

    def end_soon(self, call: _Call) -> None:
        """In the thread: pass the outcome to the loop, unless it was closed meanwhile."""
        try:
            self._post(self._end, call)
        except Closed:
            logger.debug("a call in a thread ended after its reactor was closed")

    def _end(self, call: _Call) -> None:
        if call.task is not None:
            self.running -= 1
            call.deliver(call.task)

    def close(self) -> None:
        """Drop the calls that have not begun. Does not wait for the others."""
        for pool in self._pools.values():
            pool.close()


class _State(enum.Enum):
    """State of a call in its pool."""

    QUEUED = enum.auto()
    RUNS = enum.auto()
    ABANDONED = enum.auto()
    ENDED = enum.auto()


class _Call:
    """One call; its task is parked on it.

    Attributes:
        task: waits for the outcome; None after a cancellation, which drops the outcome.
        state: belongs to the pool.
    """

    __slots__ = ("_calls", "_error", "_pool", "_request", "_result", "state", "task")

    def __init__(self, calls: ThreadCalls, pool: _Pool, task: Waiter, request: RunInThread) -> None:
        self._calls = calls
        self._pool = pool
        self._request = request
        self._result: Any = None
        self._error: BaseException | None = None
        self.task: Waiter | None = task
        self.state = _State.QUEUED

    def run(self) -> None:
        """In the thread: make the call and pass on its outcome."""
        try:
            self._result = self._request.function(*self._request.args)
        except BaseException as error:  # noqa: BLE001 - it goes to the service
            self._error = error
        self._calls.end_soon(self)

    def undo(self, task: Waiter) -> None:
        self.task = None
        self._calls.running -= 1
        self._pool.abandon(self)

    def deliver(self, task: Waiter) -> None:
        """In the loop: resume the service with the outcome."""
        if self._error is None:
            task.wake(self._result)
        else:
            task.wake_error(self._error)


class _Pool:
    """The threads of one kind of calls.

    Rule for changing this class: the lock protects every attribute and is never held during a call.

    Args:
        limit: calls that run concurrently, abandoned ones not counted.
        name: of the threads.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[_Call] = deque()
        self.threads = 0
        self._idle = 0
        self._abandoned = 0
        self.is_closed = False
        POOLS.add(self)

    def put(self, call: _Call) -> None:
        """Let a thread run a call. Raises Broken: no thread exists and none can be started."""
        with self._changed:
            self._queue.append(call)
            self._find_thread()

    def abandon(self, call: _Call) -> None:
        """Cancel a call that no task waits for: remove it from the queue, or stop counting its thread."""
        with self._changed:
            if call.state is _State.QUEUED and not self.is_closed:
                self._queue.remove(call)
            elif call.state is _State.RUNS:
                call.state = _State.ABANDONED
                self._abandoned += 1
                if self._queue:
                    self._find_thread()

    def close(self) -> None:
        """Drop the queued calls. Each thread ends after its call."""
        with self._changed:
            self.is_closed = True
            self._queue.clear()
            self._changed.notify_all()

    @property
    def is_busy(self) -> bool:
        """Whether a call runs."""
        with self._changed:
            return self.threads > self._idle

    def _find_thread(self) -> None:
        if self._idle >= len(self._queue):
            self._changed.notify()
            return
        if self.threads - self._abandoned >= self._limit or self.threads >= MOST_THREADS:
            return
        try:
            threading.Thread(target=self._main, name=self._name, daemon=True).start()
        except RuntimeError as error:
            if self.threads == 0:
                self._queue.clear()
                raise Broken(f"no thread for a call: {error}") from error
        else:
            self.threads += 1

    def _main(self) -> None:
        call = self._next(None)
        while call is not None:
            call.run()
            call = self._next(call)

    def _next(self, ended: _Call | None) -> _Call | None:
        """Wait for a call to run. None: the thread must end."""
        with self._changed:
            if ended is not None:
                if ended.state is _State.ABANDONED:
                    self._abandoned -= 1
                ended.state = _State.ENDED
            while True:
                if self.is_closed or self.threads - self._abandoned > self._limit:
                    self.threads -= 1
                    return None
                if self._queue:
                    call = self._queue.popleft()
                    call.state = _State.RUNS
                    return call
                self._idle += 1
                self._changed.wait()
                self._idle -= 1


POOLS: Final[weakref.WeakSet[_Pool]] = weakref.WeakSet()


def _give_time() -> None:
    """Let running calls finish, such as the last write to a file. Hanging ones are left."""
    until_s = time.monotonic() + _GRACE_S
    while any(pool.is_busy for pool in list(POOLS)) and time.monotonic() < until_s:
        time.sleep(0.01)


atexit.register(_give_time)

if hasattr(os, "register_at_fork"):
    # Threads do not survive a fork.
    os.register_at_fork(after_in_child=POOLS.clear)


class FromThread(Protocol):
    """An object that another thread answers. Threads do not survive a fork, so the child must not wait for
    it."""

    def leave_to_parent(self, error: Forked) -> None:
        """In the child of a fork: end with an error, unless it was answered before. Calls no callbacks."""


_from_threads: Final[weakref.WeakSet[FromThread]] = weakref.WeakSet()

answer_at_fork: Final = _from_threads.add
"""Have something end with `Forked` in the child of each fork."""


def _answer_in_child() -> None:
    error = Forked.of(os.getppid())
    for waiting in list(_from_threads):
        waiting.leave_to_parent(error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_answer_in_child)


class _Running(Protocol):
    """A reactor: the thread that runs it now; None: it does not run."""

    thread_id: int | None


class ServiceFuture(Future[T]):
    """A future that raises a new error object on each call of `result`; see `renewed`.

    In the child of a fork its error is `Forked`, unless it was answered before.

    Args:
        runner: the reactor that answers it. Its own thread would wait for itself.
    """

    def __init__(self, runner: _Running) -> None:
        super().__init__()
        self._runner = runner
        answer_at_fork(self)

    def leave_to_parent(self, error: Forked) -> None:
        # Another thread of the parent may have held the lock. Waiters and callbacks are the parent's.
        self._condition = threading.Condition()
        self._waiters = []
        self._done_callbacks: list[Any] = []
        if not self.done():
            self.set_exception(error)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the error; as `concurrent.futures.Future.exception`.

        Raises:
            Busy: called in the reactor's own thread before the end, with a timeout other than 0.
        """
        if timeout != 0 and self._runner.thread_id == threading.get_ident() and not self.done():
            raise Busy(
                "a wait for a service in the reactor's own thread, which would wait for itself: use the "
                "calls for services, with `yield from`"
            )
        return super().exception(timeout)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result; as `concurrent.futures.Future.result`. Raises Busy: as `exception`."""
        error = self.exception(timeout)
        if error is not None:
            raise renewed(error)
        return super().result(0)


def tie(handle: Handle[T], future: Future[T], post: Callable[..., None]) -> None:
    """Pass the outcome of a service to a new future, and a cancellation of the future to the service.

    Args:
        post: lets the loop call a function, from any thread.
    """

    def cancel_service(future: Future[T]) -> None:
        if future.cancelled():
            # Closed: the service has ended already.
            with contextlib.suppress(Closed):
                post(handle.cancel)

    def give_outcome(handle: Handle[T]) -> None:
        error = handle.error
        if error is None:
            set_outcome(future, handle.result(), None)
        elif isinstance(error, Cancelled):
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            set_outcome(future, None, error)

    future.add_done_callback(cancel_service)
    handle.add_done_callback(give_outcome)


def set_outcome(future: Future[Any], result: Any, error: BaseException | None) -> None:
    """Give a future its result or error, unless its owner has cancelled it."""
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        # Its owner has cancelled it, perhaps just now. Its waiters must still be notified.
        future.set_running_or_notify_cancel()


class RunInThread(NeedsYield):
    """Call `function(*args)` in a thread of the runner's small pool; resume with its result or its error.

    For blocking calls, such as those about files. When the waiting service is cancelled, a call that has
    begun runs on and its outcome is dropped. A hanging call blocks neither other calls nor the end of the
    program.

    Attributes:
        pool: the name of the threads that run it, a key of `THREADS`.
    Raises:
        TypeError: the function cannot be called.
    """

    __slots__ = ("_function", "args")

    pool: ClassVar[str] = "calls"

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        if not callable(function):
            raise TypeError(f"RunInThread takes a function and its arguments, got {function!r}")
        self._function = function
        self.args = args
        self.reminder = remind("RunInThread(...) was made and never yielded: write `yield RunInThread(...)`")

    @property
    def function(self) -> Callable[..., Any]:
        """For a runner without `begin`."""
        self.take_note()
        return self._function

    def begin(self, task: Waiter) -> object:
        """See `Request`. Raises Broken: the system has no thread to spare."""
        self.take_note()
        threads: ThreadCalls = task.runner.threads
        threads.begin(self, task)
        return PARKED


class LookUp(RunInThread):
    """The same for host names, in separate threads: a slow name server does not delay a file."""

    __slots__ = ()

    pool = "names"
