"""Readiness of descriptors: two pollers, `FileDescriptor`, and the requests that wait for it.

    yield descriptor.readable

A poller asks the system which descriptors are ready and wakes the tasks that wait for them. `EpollPoller` is
edge-triggered: one `epoll_ctl` when a descriptor is first waited on and none per wait, which saves one
microsecond of a request that costs seven. `SelectorPoller` is level-triggered over the standard `selectors`
and works on any system. It drops interest in an event lazily: when the event arrives and no task waits.

A `FileDescriptor` has at most one waiter on each side. An edge-triggered poller reports a change once. If no
task waits at that moment, the change is kept in `read_ready` or `write_ready`, and the next wait on that side
returns immediately. So no wake is lost between a refused call and the wait after it, nor when a stream is
passed to another service. The price is an occasional spurious wake: **a wait means "try", never "there is
data"**.

`drained` means that the last read got less than it requested. The kernel's buffer is then empty, the next
bytes will be reported, and a reader may wait before it tries. There are two exceptions, after which no read
counts as short (`short_reads_lie`):

* Data and the end of the stream may share one edge, and no second edge follows for the end.
* A read stops short at urgent data (MSG_OOB), and the data behind it was reported already.

Each wait clears the hint: one service may get the event and another do the reading.

Facts about epoll that the code relies on:

* An event carries the whole readiness at that moment, not only the change, so `EPOLLOUT` accompanies most
  `EPOLLIN`. The flag it leaves (`write_ready`) may be stale when used. That costs one refused call, never a
  hang, since a new wait follows a refused call.
* Adding a descriptor that is already ready produces an event. So registering late, on the first wait, loses
  nothing.
* Only `EPOLLRDHUP` reports the end that shares an edge with data, and only `EPOLLPRI` reports urgent data.
* Closing the last copy of a descriptor removes it. With another copy open (dup, fork) it stays, so the code
  always unregisters before the close.
* After a fork the child's copy is the same object in the kernel: a registration by the child, or a socket it
  closes, would change the parent's. So the child's copies are closed immediately.
* A batch of events is delivered completely before any service runs. So no service can close a descriptor,
  and open another one of the same number, between an event and its delivery.
"""

from __future__ import annotations

import logging
import os
import selectors
import weakref
from collections import deque
from typing import Any, ClassVar, Final, Protocol

from reactor.core.forgotten import remind
from reactor.core.requests import PARKED, NeedsYield, Waiter
from reactor.core.task import Task
from reactor.errors import BadRequest, Busy, Closed, check_type

__all__ = [
    "HAS_EPOLL",
    "EpollPoller",
    "FileDescriptor",
    "HasFileno",
    "Poller",
    "SelectorPoller",
    "WaitReadable",
    "WaitWritable",
    "default_poller",
]

try:
    from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, epoll

    HAS_EPOLL = True
except ImportError:  # not Linux: SelectorPoller serves
    HAS_EPOLL = False

logger = logging.getLogger("reactor")
# Events per call. More gain nothing: the call is then a hundredth of the work that the events cause.
_EVENTS_PER_POLL = 512


class Poller:
    """Base of the pollers, with the table of their descriptors.

    Attributes:
        needs_arming: whether `arm` must be called after each new waiter.
    """

    def __init__(self, *, needs_arming: bool) -> None:
        # Not of the class: read on each wait, and three times as fast from the instance.
        self.needs_arming = needs_arming
        self._by_fd: dict[int, FileDescriptor] = {}
        _alive.add(self)

    def register(self, descriptor: FileDescriptor) -> None:
        """Add a descriptor on its first wait.

        Raises:
            Closed: the descriptor does not exist.
            BadRequest: it is a regular file or directory, if the system refuses these here and not in `arm`.
            Busy: its number is waited on through another FileDescriptor object.
        """
        raise NotImplementedError

    def unregister(self, descriptor: FileDescriptor) -> None:
        """Remove a descriptor; it may have been closed without notice."""
        raise NotImplementedError

    def arm(self, descriptor: FileDescriptor) -> None:
        """Request the events that the waiters of a descriptor need.

        Raises:
            Closed, BadRequest: the system refuses the descriptor. The waiter was removed again.
        """

    def watch(self, descriptor: FileDescriptor) -> None:
        """Set `read_ready` once when data arrives, without a waiting task. For the loop's wake-up pipe."""

    def poll(self, timeout_s: float | None, ready: deque[Task[Any]]) -> None:
        """Wait for events and append the tasks they wake to `ready`; events without a waiter set flags.

        Args:
            timeout_s: None: no limit.
        """
        raise NotImplementedError

    def has_waiters(self) -> bool:
        """Whether any service waits on any descriptor."""
        return any(d.reader is not None or d.writer is not None for d in self._by_fd.values())

    def fileno(self) -> int:
        """Number of the poller's own descriptor, which is readable when there are events.

        Raises:
            BadRequest: this poller has none.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Release all descriptors and the system's object. Idempotent."""
        for descriptor in self._by_fd.values():
            descriptor.poller = None
            descriptor.read_ready = descriptor.write_ready = False
        self._by_fd.clear()

    def _evict(self, descriptor: FileDescriptor) -> None:
        """Make room for a descriptor whose number is taken.

        Either the earlier one was closed without `close_notify` and the system has reused its number: its
        waiters would never see an event and get `Closed`. Or two objects refer to one open file, which is
        allowed while only one of them is waited on.
        """
        fd = descriptor.fileno()
        earlier = self._by_fd.get(fd)
        if earlier is None or earlier is descriptor:
            return
        if self._is_known(fd) and (earlier.reader is not None or earlier.writer is not None):
            raise Busy(f"descriptor {fd} is waited on through another FileDescriptor object")
        if self._is_known(fd):
            earlier.detach()
        else:
            earlier.close_notify()

    def _is_known(self, fd: int) -> bool:
        """Whether the system still has the file that was registered with this number."""
        raise NotImplementedError


_alive: Final[weakref.WeakSet[Poller]] = weakref.WeakSet()


def _close_after_fork() -> None:
    for poller in list(_alive):
        poller.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)

if HAS_EPOLL:
    _READ = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR
    _WRITE = EPOLLOUT | EPOLLHUP | EPOLLERR
    _SHORT_READS_LIE = EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI
    _INTEREST = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET

    class EpollPoller(Poller):
        """Edge-triggered, both sides of a descriptor in one registration."""

        def __init__(self) -> None:
            # All events are requested from the start.
            super().__init__(needs_arming=False)
            self._epoll = epoll()

        def register(self, descriptor: FileDescriptor) -> None:
            """See `Poller`. Raises Closed, BadRequest and Busy."""
            fd = descriptor.fileno()
            self._evict(descriptor)
            try:
                self._epoll.register(fd, _INTEREST)
            except PermissionError as error:
                raise BadRequest(
                    f"descriptor {fd} is a regular file: it is always ready, do not wait for it"
                ) from error
            except OSError as error:
                raise Closed(f"descriptor {fd} cannot be waited on: {error.strerror}") from error
            self._by_fd[fd] = descriptor

        def unregister(self, descriptor: FileDescriptor) -> None:
            fd = descriptor.fileno()
            if self._by_fd.get(fd) is not descriptor:
                return
            del self._by_fd[fd]
            if not self._epoll.closed:
                self._drop(fd)

        def _drop(self, fd: int) -> None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                # Closed without notice: the kernel has removed it already.
                return

        def _is_known(self, fd: int) -> bool:
            try:
                self._epoll.modify(fd, _INTEREST)
            except OSError:
                return False
            return True

        def poll(self, timeout_s: float | None, ready: deque[Task[Any]]) -> None:
            by_fd = self._by_fd
            for fd, events in self._epoll.poll(timeout_s, _EVENTS_PER_POLL):
                try:
                    descriptor = by_fd[fd]
                except KeyError:
                    # Closed without notice while a copy of it exists: silence it.
                    self._drop(fd)
                    continue
                if events & _SHORT_READS_LIE:
                    descriptor.short_reads_lie = True
                # `Task.wake` inlined: the calls would cost as much as the rest of this loop.
                if events & _READ:
                    task = descriptor.reader
                    if task is None:
                        descriptor.read_ready = True
                    else:
                        descriptor.reader = None
                        task.wait = None
                        ready.append(task)
                if events & _WRITE:
                    task = descriptor.writer
                    if task is None:
                        descriptor.write_ready = True
                    else:
                        descriptor.writer = None
                        task.wait = None
                        ready.append(task)

        def fileno(self) -> int:
            return self._epoll.fileno()

        def close(self) -> None:
            super().close()
            self._epoll.close()


def _identity_of(fd: int) -> tuple[int, int]:
    """Distinguish open files of one number; unlike epoll, selectors cannot be asked."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class SelectorPoller(Poller):
    """Level-triggered, over `selectors`; for systems without epoll, and for `Blocker`.

    Args:
        selector: default `DefaultSelector()`; a class of the standard library.
    """

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        super().__init__(needs_arming=True)
        self._selector = selectors.DefaultSelector() if selector is None else selector
        self._interest: dict[int, int] = {}
        self._identity: dict[int, tuple[int, int]] = {}

    def register(self, descriptor: FileDescriptor) -> None:
        """See `Poller`. The system is asked about it only while a task waits. Raises Closed and Busy."""
        fd = descriptor.fileno()
        self._evict(descriptor)
        try:
            self._identity[fd] = _identity_of(fd)
        except OSError as error:
            raise Closed(f"descriptor {fd} cannot be waited on: {error.strerror}") from error
        self._by_fd[fd] = descriptor

    def unregister(self, descriptor: FileDescriptor) -> None:
        fd = descriptor.fileno()
        if self._by_fd.get(fd) is descriptor:
            del self._by_fd[fd]
            del self._identity[fd]
            self._ask(fd, 0)

    def arm(self, descriptor: FileDescriptor) -> None:
        """See `Poller`. Raises Closed and BadRequest."""
        fd = descriptor.fileno()
        interest = self._interest.get(fd, 0)
        wanted = interest
        if descriptor.reader is not None:
            wanted |= selectors.EVENT_READ
        if descriptor.writer is not None:
            wanted |= selectors.EVENT_WRITE
        if wanted == interest:
            return
        try:
            self._ask(fd, wanted)
        except (OSError, ValueError) as error:
            if wanted & ~interest & selectors.EVENT_READ:
                descriptor.reader = None
            else:
                descriptor.writer = None
            if isinstance(error, PermissionError):
                raise BadRequest(
                    f"descriptor {fd} is a regular file: it is always ready, do not wait for it"
                ) from error
            raise Closed(f"descriptor {fd} cannot be waited on: {error}") from error

    def watch(self, descriptor: FileDescriptor) -> None:
        fd = descriptor.fileno()
        self._ask(fd, self._interest.get(fd, 0) | selectors.EVENT_READ)

    def poll(self, timeout_s: float | None, ready: deque[Task[Any]]) -> None:
        try:
            events_by_key = self._selector.select(timeout_s)
        except (OSError, ValueError):
            # select() fails as a whole when one of its descriptors is closed.
            if not self._renew():
                raise
            return
        for key, events in events_by_key:
            descriptor = self._by_fd[key.fd]
            unwanted = 0
            if events & selectors.EVENT_READ:
                task = descriptor.reader
                if task is None:
                    descriptor.read_ready = True
                    unwanted |= selectors.EVENT_READ
                else:
                    descriptor.reader = None
                    task.wake()
            if events & selectors.EVENT_WRITE:
                task = descriptor.writer
                if task is None:
                    descriptor.write_ready = True
                    unwanted |= selectors.EVENT_WRITE
                else:
                    descriptor.writer = None
                    task.wake()
            if unwanted:
                try:
                    self._ask(key.fd, self._interest[key.fd] & ~unwanted)
                except OSError:
                    self._renew()
                    return

    def _ask(self, fd: int, interest: int) -> None:
        """Set the events that are requested from the system."""
        before = self._interest.get(fd, 0)
        if interest == 0:
            if before:
                del self._interest[fd]
                self._selector.unregister(fd)
        elif before:
            self._selector.modify(fd, interest)
            self._interest[fd] = interest
        else:
            self._selector.register(fd, interest)
            self._interest[fd] = interest

    def _is_known(self, fd: int) -> bool:
        try:
            return self._identity.get(fd) == _identity_of(fd)
        except OSError:
            return False

    def _renew(self) -> bool:
        """Replace the selector by one without descriptors that were closed without notice.

        Their waiters get `Closed`. The old selector keeps such a descriptor while a copy of it is open. No
        event is lost, since pending ones are reported again (level-triggered).

        Returns:
            Whether it found such a descriptor.
        """
        lost = [descriptor for fd, descriptor in self._by_fd.items() if not self._is_known(fd)]
        interest, self._interest = self._interest, {}
        self._selector.close()
        self._selector = type(self._selector)()
        numbers = {descriptor.fileno() for descriptor in lost}
        for fd, wanted in interest.items():
            if fd not in numbers:
                self._ask(fd, wanted)
        for descriptor in lost:
            logger.warning("descriptor %d was closed without close_notify", descriptor.fileno())
            descriptor.close_notify()
        return bool(lost)

    def fileno(self) -> int:
        """See `Poller`. Raises BadRequest: only epoll, kqueue and /dev/poll have one."""
        own = getattr(self._selector, "fileno", None)
        if own is None:
            raise BadRequest(f"{type(self._selector).__name__} has no descriptor")
        number: int = own()
        return number

    def close(self) -> None:
        super().close()
        self._interest.clear()
        self._identity.clear()
        self._selector.close()


def default_poller() -> Poller:
    """Make the best poller of this system."""
    return EpollPoller() if HAS_EPOLL else SelectorPoller()


class HasFileno(Protocol):
    """An object with a descriptor: file, socket, pipe."""

    def fileno(self) -> int: ...


class FileDescriptor:
    """Readiness of one file descriptor. The owner opens and closes the descriptor, this class never does.

    Attributes:
        readable, writable: the requests to yield. One service at a time per side; a second one gets `Busy`.
        drained: see the module. Set by the reader, cleared by each wait.
        short_reads_lie: see the module.
        is_closed: after `close_notify`.
    Raises:
        Closed: the file or socket is closed.
    """

    __slots__ = (
        "_fd",
        "drained",
        "is_closed",
        "poller",
        "read_ready",
        "readable",
        "reader",
        "short_reads_lie",
        "writable",
        "write_ready",
        "writer",
    )

    def __init__(self, fileobj_or_fd: int | HasFileno) -> None:
        if isinstance(fileobj_or_fd, int):
            self._fd = fileobj_or_fd
        elif hasattr(fileobj_or_fd, "fileno"):
            self._fd = fileobj_or_fd.fileno()
        else:
            raise TypeError(f"FileDescriptor: expected a file, a socket or a number, got {fileobj_or_fd!r}")
        if self._fd < 0:
            raise Closed(f"{fileobj_or_fd!r} is closed")
        self.readable = WaitReadable(self)
        self.writable = WaitWritable(self)
        # A descriptor may be waited on by one side only, or never.
        self.readable.take_note()
        self.writable.take_note()
        self.reader: Task[Any] | None = None
        self.writer: Task[Any] | None = None
        self.read_ready = False
        self.write_ready = False
        self.drained = False
        self.short_reads_lie = False
        self.is_closed = False
        self.poller: Poller | None = None

    def fileno(self) -> int:
        """The number of the descriptor, also after `close_notify`."""
        return self._fd

    def detach(self) -> None:
        """Remove it from its poller, so that another runner may use it. The next wait registers it again.

        Raises:
            Busy: a service waits on it.
        """
        waiting = self.reader or self.writer
        if waiting is not None:
            raise Busy(f"descriptor {self._fd} is waited on by {waiting.name!r}")
        self._leave_poller()

    def close_notify(self) -> None:
        """Announce that the descriptor will be closed: call this *before* closing it.

        Its waiters and all later waits get `Closed`. Idempotent.
        """
        if self.is_closed:
            return
        self.is_closed = True
        self._leave_poller()
        reader, self.reader = self.reader, None
        writer, self.writer = self.writer, None
        for waiting in (reader, writer):
            if waiting is not None:
                waiting.wake_error(
                    Closed(f"descriptor {self._fd} was closed under the waiting {waiting.name!r}")
                )

    def _leave_poller(self) -> None:
        poller = self.poller
        if poller is not None:
            poller.unregister(self)
            self.poller = None
        self.read_ready = self.write_ready = False

    def adopt(self, poller: Poller) -> None:
        """Register with the poller of a runner and leave the previous one. For the first wait.

        Raises:
            Closed: the descriptor is closed.
            Busy: a service of another runner waits on it.
        """
        if self.is_closed:
            raise Closed(f"descriptor {self._fd} is closed")
        if self.poller is not None:
            self.detach()
        poller.register(self)
        self.poller = poller

    def __repr__(self) -> str:
        return f"<FileDescriptor {self._fd}{' closed' if self.is_closed else ''}>"


class _WaitDescriptor(NeedsYield):
    """Base of the two waits on a descriptor. A spurious wake is allowed: try, and wait again when refused."""

    __slots__ = ("descriptor",)

    may_end_early = True
    _NEVER_YIELDED: ClassVar[str]

    def __init__(self, descriptor: FileDescriptor) -> None:
        check_type(descriptor, FileDescriptor, type(self).__name__, "a FileDescriptor")
        self.descriptor = descriptor
        self.reminder = remind(self._NEVER_YIELDED)

    def _poller_for(self, task: Task[Any]) -> Poller:
        """The poller of the task's runner, where the descriptor is then registered."""
        if self.reminder is not None:
            self.take_note()
        poller: Poller = task.runner.poller
        if self.descriptor.poller is not poller:
            self.descriptor.adopt(poller)
        return poller


class WaitReadable(_WaitDescriptor):
    """Resume when the descriptor can be read, has ended or has failed."""

    __slots__ = ()

    _NEVER_YIELDED = "WaitReadable(...) was made and never yielded: write `yield WaitReadable(...)`"

    def begin(self, task: Task[Any]) -> object:
        """See `Request`.

        Raises:
            Busy: another service reads the descriptor, or waits on it through another object.
            Closed: the descriptor is closed.
            BadRequest: it is a regular file or directory.
        """
        poller = self._poller_for(task)
        descriptor = self.descriptor
        descriptor.drained = False
        if descriptor.read_ready:
            descriptor.read_ready = False
            return None
        if descriptor.reader is not None:
            raise Busy(f"{descriptor!r} is read by {descriptor.reader.name!r}, {task.name!r} cannot wait too")
        descriptor.reader = task
        if poller.needs_arming:
            poller.arm(descriptor)
        task.wait = self
        return PARKED

    def undo(self, task: Waiter) -> None:
        self.descriptor.reader = None


class WaitWritable(_WaitDescriptor):
    """Resume when the descriptor can be written or has failed."""

    __slots__ = ()

    _NEVER_YIELDED = "WaitWritable(...) was made and never yielded: write `yield WaitWritable(...)`"

    def begin(self, task: Task[Any]) -> object:
        """See `Request`. Raises Busy, Closed and BadRequest as `WaitReadable.begin`."""
        poller = self._poller_for(task)
        descriptor = self.descriptor
        if descriptor.write_ready:
            descriptor.write_ready = False
            return None
        if descriptor.writer is not None:
            raise Busy(
                f"{descriptor!r} is written by {descriptor.writer.name!r}, {task.name!r} cannot wait too"
            )
        descriptor.writer = task
        if poller.needs_arming:
            poller.arm(descriptor)
        task.wait = self
        return PARKED

    def undo(self, task: Waiter) -> None:
        self.descriptor.writer = None
