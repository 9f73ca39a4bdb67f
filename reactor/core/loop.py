"""The reactor: one loop that resumes services when the event they wait for has arrived.

`_step` resumes one service and answers its requests until one of them parks it. `_run_passes` steps the tasks
that are ready when a pass starts; tasks that become ready meanwhile wait for the next pass, so none starves.
`_turn` polls, empties the inbox of other threads, fires timers and runs passes.

The loop polls after about 64 steps, not after each pass: when two services only talk to each other, a pass is
one step, and a system call per step would be most of its cost.

Rules for changing this file:

1. Every wake of a task goes through `Task.wake`, `wake_error` or `interrupt`, or does exactly the same inline
   (poller.py).
2. Other threads touch `_inbox` (by `post`) and `_asleep`, nothing else.
3. The loop knows requests only by `request.begin(task)`. What a request does is defined in its class.
4. Before the thread sleeps it sets `_asleep` and then checks the inbox; `post` fills the inbox and then
   checks `_asleep`. In this order no wake is lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Self, TypeVar, overload

from reactor.core.forgotten import discard
from reactor.core.poller import FileDescriptor, Poller, WaitReadable, default_poller
from reactor.core.requests import PARKED, NeedsYield, Request, Service
from reactor.core.task import Handle, Task, not_a_request
from reactor.core.threads import ServiceFuture, ThreadCalls, set_outcome, tie
from reactor.core.timers import Clock, MonotonicClock, Timers, check_seconds
from reactor.errors import (
    BadRequest,
    Busy,
    Cancelled,
    Closed,
    Deadlock,
    Forked,
    ReactorError,
    check_type,
    is_ctrl_c,
    log_failure,
)

__all__ = ["Reactor", "Waker", "shuffle"]


logger = logging.getLogger("reactor")
T = TypeVar("T")

# Requests answered in one step; then the service goes to the end of the queue, its answer kept.
_ANSWERS_PER_STEP: Final = range(64)
# Steps between two calls of the poller.
STEPS_PER_POLL: Final = 64
# epoll takes 2^31 ms, 24.8 days: a longer sleep is cut into days.
_MOST_WAIT_S: Final = 86_400.0
# Time for cancelled services to clean up when the reactor is closed.
GRACE_S: Final = 1.0
# Bytes taken from the wake-up pipe by one read.
_DRAIN_BYTES: Final = 4096


def _drop(request: object) -> None:
    """Drop a request that is not answered, so that no forgotten `yield` is reported for it."""
    if isinstance(request, NeedsYield):
        request.drop()


def shuffle(ready: deque[Any], generator: random.Random) -> None:
    """Put the queue into random order, in place: for tests that look for hidden dependence on the order."""
    shuffled = list(ready)
    generator.shuffle(shuffled)
    ready.clear()
    ready.extend(shuffled)


class Waker:
    """Wakes a loop that sleeps in its poller, by a byte through a pipe whose read end the poller watches.

    `wake` is for any thread, the rest for the loop's.

    Attributes:
        descriptor: of the read end; `drain` is due when its `read_ready` is set.
        write_fd: a byte written here wakes the loop; for `signal.set_wakeup_fd`.
    """

    __slots__ = ("_is_closed", "_lock", "_poller", "_read_fd", "descriptor", "write_fd")

    def __init__(self, poller: Poller) -> None:
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self.write_fd, False)
        # Reentrant: a signal handler or a destructor may wake us in the middle of `wake`.
        self._lock = threading.RLock()
        self._is_closed = False
        self._poller = poller
        self.descriptor = FileDescriptor(self._read_fd)
        self.descriptor.adopt(poller)
        poller.watch(self.descriptor)

    def wake(self) -> None:
        """Make the poller return."""
        # The lock keeps a late byte out of a file that gets the pipe's number after `close`.
        # BlockingIOError: the pipe is full of earlier wakes, which the loop will see.
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._is_closed:
                os.write(self.write_fd, b"\0")

    def drain(self) -> None:
        """Empty the pipe and prepare for the next wake."""
        self.descriptor.read_ready = False
        # BlockingIOError: an earlier read took this event's byte too.
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_fd, _DRAIN_BYTES)
        self._poller.watch(self.descriptor)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self.descriptor.close_notify()
            os.close(self._read_fd)
            os.close(self.write_fd)


class Reactor:
    """Runs services in the thread that calls `run`.

    Args:
        clock: default `MonotonicClock()`.
        poller: default the best one of this system. The reactor closes it.
        seed: shuffle the order within each pass, reproducibly; see `shuffle`.
        slow_step_s: log a warning when a service blocks the loop for longer; None: do not measure.
    Raises:
        TypeError: `clock` has no `now`. BadRequest: `slow_step_s` is not a number, or is negative.
            The same for `seed`: TypeError.

    Attributes:
        tasks: the living services in order of creation, as the keys of a dict.
        thread_id: of the thread that runs the loop; None while it does not run.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        poller: Poller | None = None,
        seed: int | None = None,
        slow_step_s: float | None = 0.1,
    ) -> None:
        if slow_step_s is not None:
            check_seconds(slow_step_s)
            if slow_step_s < 0:
                raise BadRequest(f"slow_step_s: expected seconds, 0 or more, got {slow_step_s}")
        check_type(seed, int | None, "seed", "a whole number, or None")
        clock = MonotonicClock() if clock is None else clock
        if not callable(getattr(clock, "now", None)):
            raise TypeError(f"clock: expected an object with `now`, got {clock!r}")
        self.now: Callable[[], float] = clock.now
        self.ready: deque[Task[Any]] = deque()
        self._jump_to: Callable[[float], None] | None = getattr(clock, "jump_to", None)
        self.poller = default_poller() if poller is None else poller
        self.timers = Timers()
        self._random = None if seed is None else random.Random(seed)
        self._slow_step_s = slow_step_s
        self.tasks: dict[Task[Any], None] = {}
        self._unasked: list[Task[Any]] = []
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._asleep = False
        self._waker = Waker(self.poller)
        self.threads = ThreadCalls(self.post)
        self.thread_id: int | None = None
        self._stop_asked = False
        self._is_closed = False
        self._pid = os.getpid()
        # The service that `run` waits for.
        self._main: Task[Any] | None = None
        self._deadlock_victim: Task[Any] | None = None
        _reactors.add(self)

    def spawn(self, service: Service[T], *, name: str | None = None) -> Handle[T]:
        """Start a service; it first runs in the next pass.

        Args:
            service: a generator, not yet started.
            name: for messages; the generator's own name unless given.
        Raises:
            Closed: the reactor is closed.
            BadRequest: not a generator, or called from another thread while the loop runs (use `submit`).
        """
        if self.thread_id is not None and self.thread_id != threading.get_ident():
            raise BadRequest("spawn is for the reactor's own thread, use submit")
        return self.start(service, name)

    def submit(self, service: Service[T], *, name: str | None = None) -> Future[T]:
        """Start a service from any thread.

        Returns:
            A future of its result. `Future.cancel` cancels the service: the future is cancelled immediately,
            the service cleans up afterwards.
        Raises:
            Closed: the reactor is closed.
        """
        future: Future[T] = ServiceFuture(self)
        try:
            self.post(self._start_submitted, service, name, future)
        except Closed:
            discard(service)
            raise
        return future

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Let the loop call `function(*args)`, from any thread. It must not block; its error is logged.

        Raises:
            Closed: the reactor is closed.
        """
        if self._is_closed:
            raise self._closed_error()
        # In this order, see rule 4.
        self._inbox.append((function, args))
        if self._asleep:
            self._asleep = False
            self._waker.wake()
        elif self._is_closed:
            # Closed meanwhile, perhaps after its last look: a future in the inbox must still be answered.
            self._drain_inbox()

    def post_from_signal(self, function: Callable[..., object], *args: Any) -> None:
        """`post` for a signal handler, which may interrupt a `post`: it takes no lock.

        It does not wake the loop either. The interpreter does that, with the byte that it writes because of
        `signal.set_wakeup_fd(reactor.wake_fd)` (see run/signals.py).
        """
        self._inbox.append((function, args))

    def check_usable(self) -> None:
        """Check that the reactor can run services.

        Raises:
            Closed: it is closed. Forked: it belongs to the parent of this process.
        """
        if self._is_closed:
            raise self._closed_error()

    @property
    def is_closed(self) -> bool:
        """Whether the reactor was closed."""
        return self._is_closed

    @property
    def wake_fd(self) -> int:
        """Non-blocking descriptor; a byte written to it wakes the loop."""
        return self._waker.write_fd

    @overload
    def run(self, service: Service[T], name: str | None = None) -> T: ...
    @overload
    def run(self) -> None: ...
    def run(self, service: Service[T] | None = None, name: str | None = None) -> T | None:
        """Run the loop until a service ends, or `stop` is called.

        Args:
            service: started first, and the loop ends with it. None: run until stopped.
        Returns:
            The service's result; None without a service.
        Raises:
            Busy: the loop runs already.
            Closed: the reactor is closed, or was stopped before the service ended (the service lives on).
            Forked: the reactor was made in the parent of this process.
            OSError: the poller failed. The services are unchanged.
            KeyboardInterrupt, SystemExit: raised in any service, if this is the main thread: they are meant
                for the program. In other threads they end only the service that raised them.
            any other: the service's error.
        """
        self._check_startable()
        task = None if service is None else self.start(service, name)
        self._loop(task)
        if self._pid != os.getpid():
            raise self._closed_error()
        if task is None:
            return None
        if not task.is_finished:
            raise Closed(f"the reactor was stopped before service {task.name!r} ended")
        return task.result()

    def run_until_ended(self, task: Task[Any]) -> None:
        """Run the loop until one of its tasks has ended. For spawners.

        `Deadlock` is thrown into the task when no remaining event could wake it. Raises as `run`.
        """
        self._check_startable()
        if not task.is_finished:
            self._deadlock_victim = task
            self._loop(task)

    def run_ready(self) -> None:
        """Run the services until all of them wait, then return. For spawners. Raises as `run`."""
        self._check_startable()
        self._loop(None, may_wait=False)

    def turn(self) -> float | None:
        """Run the ready services without waiting: for another loop that runs this one (see run/aio.py).

        Returns:
            Seconds until the next turn is due; 0: immediately; None: when `poller.fileno()` becomes readable,
            also after a `post`.
        Raises:
            Busy, Closed, BadRequest: as for `run`.
        """
        self._check_startable()
        self._asleep = self._stop_asked = False
        self.thread_id = threading.get_ident()
        try:
            self._turn(may_wait=False)
        finally:
            self.thread_id = None
            # From here on a post wakes the loop; an earlier one is found in the inbox below.
            self._asleep = True
        return 0 if self.ready or self._inbox else self._idle_s()

    def stop(self) -> None:
        """Make `run` return after the current pass; from any thread. The services are unchanged."""
        self.post(self._ask_stop)

    def close(self) -> None:
        """Cancel all services, give them a second to clean up, then release all resources. Idempotent.

        Raises:
            Busy: called while the loop runs.
        """
        if self._is_closed:
            return
        if self.thread_id is not None:
            raise Busy("the reactor runs: stop it before closing it")
        try:
            self._cancel_all()
        finally:
            self._is_closed = True
            self.threads.close()
            self._drain_inbox()
            self._report_unasked()
            self.poller.close()
            self._waker.close()

    def __enter__(self) -> Self:
        if self._is_closed:
            raise Closed("the reactor was closed: make another one, `with Reactor() as reactor`")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cancel_all(self) -> None:
        """End all services.

        Each is cancelled and may clean up, wait meanwhile and start others, which are cancelled in turn. A
        service that has not ended after `GRACE_S` is closed where it stands.
        """
        until_s = time.monotonic() + GRACE_S
        self.thread_id = threading.get_ident()
        try:
            self._cancel_each()
            while self.tasks and time.monotonic() < until_s:
                # This timer limits the wait of the poller.
                bound = self.timers.add(self.now() + GRACE_S, lambda _: None)
                self._stop_asked = False
                self._turn()
                self.timers.cancel(bound)
                self._cancel_each()
        finally:
            self.thread_id = None
        for task in list(self.tasks):
            logger.warning("service %r did not end within %.1f s of being cancelled", task.name, GRACE_S)
            task.end_by_force()
            self._finish(task, None, Cancelled("ended by force"))
        self.ready.clear()

    def _cancel_each(self) -> None:
        for task in list(self.tasks):
            task.cancel("the reactor is closed")

    def _check_startable(self) -> None:
        if self.thread_id is not None:
            raise Busy("the reactor runs already")
        self.check_usable()

    def _closed_error(self) -> Closed:
        if self._pid == os.getpid():
            return Closed("the reactor is closed")
        return Forked.of(self._pid)

    def leave_to_parent(self) -> None:
        """Close this copy in the child of a fork: the services and their streams belong to the parent."""
        self._is_closed = self._stop_asked = True
        self.thread_id = None
        for _, args in self._inbox:
            for argument in args:
                discard(argument)
        self._inbox.clear()
        # When a service forks, the child is in the middle of a pass too: nothing may follow.
        self.ready.clear()
        self.ready = deque(maxlen=0)

    def _loop(self, main: Task[Any] | None, may_wait: bool = True) -> None:
        self.thread_id = threading.get_ident()
        self._main = main
        self._stop_asked = False
        try:
            while not self._stop_asked:
                self._turn(may_wait, may_jump=may_wait)
                if not (may_wait or self.ready or self._inbox):
                    break
        finally:
            self.thread_id = self._main = self._deadlock_victim = None
            self._report_unasked()

    def _turn(self, may_wait: bool = True, *, may_jump: bool = True) -> None:
        """Wait until services are ready, and run them."""
        ready = self.ready
        wait_s: float | None = None
        if ready or self._inbox or not may_wait:
            wait_s = 0
        elif self.timers.held or self._deadlock_victim is not None:
            # Skipped without timers: with one busy connection each request is a turn.
            wait_s = self._idle_s()
        if wait_s == 0:
            self.poller.poll(0, ready)
        else:
            self._asleep = True
            try:
                # A thread may have posted before `_asleep` was set: then it did not wake the loop.
                self.poller.poll(0 if self._inbox else wait_s, ready)
            finally:
                self._asleep = False
        if self._waker.descriptor.read_ready:
            self._waker.drain()
        if self._inbox:
            self._drain_inbox()
        if self.timers.held:
            if may_jump and self._jump_to is not None and not ready:
                self._jump()
            self.timers.fire(self.now())
        if ready:
            self._run_passes()
        if self._unasked:
            self._report_unasked()

    def _jump(self) -> None:
        """Advance a clock that is never waited for to the next timer, when all is idle."""
        deadline_s = self.timers.next_deadline()
        if deadline_s is not None and self._jump_to is not None and not self.threads.running:
            self._jump_to(deadline_s)

    def _idle_s(self) -> float | None:
        """The time to wait when no task is ready; None: without limit."""
        deadline_s = self.timers.next_deadline()
        if deadline_s is not None:
            if self._jump_to is not None and not self.threads.running:
                return 0
            return min(max(0.0, deadline_s - self.now()), _MOST_WAIT_S)
        victim = self._deadlock_victim
        if victim is not None and not self._awaits_outside():
            victim.interrupt(
                Deadlock(f"service {victim.name!r} waits, and nothing is left that could wake it")
            )
            return 0
        return None

    def _awaits_outside(self) -> bool:
        """Whether a descriptor or another thread may wake a service."""
        return (
            self.threads.running > 0
            or self.poller.has_waiters()
            or any(getattr(task.wait, "is_from_outside", False) for task in self.tasks)
        )

    def _run_passes(self) -> None:
        """Step each ready task once, then those that became ready meanwhile, for about 64 steps."""
        ready, step = self.ready, self._step
        next_ready = ready.popleft
        slow_step_s, clock = self._slow_step_s, time.monotonic
        before_s = clock()
        steps_left = STEPS_PER_POLL
        while ready and steps_left > 0 and not self._stop_asked:
            if self._random is not None:
                shuffle(ready, self._random)
            steps = len(ready)
            steps_left -= steps
            for _ in range(steps):
                try:
                    task = next_ready()
                except IndexError:
                    return  # a service forked, and this is the child
                step(task)
                if slow_step_s is not None:
                    after_s = clock()
                    if after_s - before_s > slow_step_s:
                        logger.warning("service %r kept the loop for %.3f s", task.name, after_s - before_s)
                    before_s = after_s

    def _step(self, task: Task[Any]) -> None:
        """Resume a service and answer its requests until it waits or ends."""
        service = task.service
        assert service is not None
        value = task.value
        if value is not None:
            task.value = None
        error = task.thrown
        poller = self.poller
        for _ in _ANSWERS_PER_STEP:
            try:
                if error is None:
                    request = service.send(value)
                else:
                    task.thrown = None
                    request = service.throw(error)
                    error = None
            except StopIteration as stop:
                self._finish(task, stop.value, None)
                return
            except BaseException as failure:  # noqa: BLE001 - it goes to the handle, the scope or the log
                self._finish(task, None, failure)
                return
            if task.pending:
                error = task.pending.pop(0)
                _drop(request)
                continue
            if type(request) is WaitReadable:
                # The usual case of `WaitReadable.begin`, inlined: the call is a twelfth of the loop's part of
                # a small request.
                descriptor = request.descriptor
                if (
                    request.reminder is None
                    and descriptor.poller is poller
                    and descriptor.reader is None
                    and not descriptor.read_ready
                    and not poller.needs_arming
                ):
                    descriptor.drained = False
                    descriptor.reader = task
                    task.wait = request
                    return
            try:
                if not isinstance(request, Request):
                    raise not_a_request(request, service)
                value = request.begin(task)
            except BaseException as refusal:
                # A request that cannot be answered is an error of its service.
                if is_ctrl_c(refusal):
                    raise
                value, error = None, refusal
                _drop(request)
                continue
            if value is PARKED:
                return
        task.value = value
        task.thrown = error
        self.ready.append(task)

    def _finish(self, task: Task[Any], result: Any, error: BaseException | None) -> None:
        del self.tasks[task]
        if task is self._main:
            self._stop_asked = True
        elif error is not None and not task.is_watched and not isinstance(error, Cancelled):
            self._unasked.append(task)
        task.settle(result, error)
        if error is not None and isinstance(error, KeyboardInterrupt | SystemExit) and _is_main_thread():
            raise error

    def _drain_inbox(self) -> None:
        inbox = self._inbox
        for _ in range(len(inbox)):
            try:
                function, args = inbox.popleft()
            except IndexError:
                # The reactor is closed, and a thread that posted too late empties the inbox too.
                return
            try:
                function(*args)
            except BaseException as error:
                if is_ctrl_c(error):
                    raise
                name = getattr(function, "__qualname__", repr(function))
                log_failure(logger, error, "the posted function %s failed", name)

    def _report_unasked(self) -> None:
        unasked, self._unasked = self._unasked, []
        for task in unasked:
            if not task.was_asked and task.error is not None:
                log_failure(logger, task.error, "service %r failed and nothing waits for it", task.name)

    def start(self, service: Service[T], name: str | None) -> Task[T]:
        """Make a task and append it to the queue, in any thread. Raises Closed and BadRequest as `spawn`."""
        if self._is_closed:
            discard(service)
            raise self._closed_error()
        task = Task(service, name, self)
        self.tasks[task] = None
        self.ready.append(task)
        return task

    def _start_submitted(self, service: Service[T], name: str | None, future: Future[T]) -> None:
        if future.cancelled():
            future.set_running_or_notify_cancel()
            discard(service)
            return
        try:
            task = self.start(service, name)
        except ReactorError as error:
            set_outcome(future, None, error)
        else:
            tie(task, future, self.post)

    def _ask_stop(self) -> None:
        self._stop_asked = True


_reactors: Final[weakref.WeakSet[Reactor]] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for reactor in list(_reactors):
        reactor.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
