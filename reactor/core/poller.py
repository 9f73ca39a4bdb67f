"""Two pollers: what asks the system which descriptors are ready and hands the news to those who wait.

`EpollPoller` is edge-triggered: one `epoll_ctl` when a descriptor is first waited on and none per wait, which
is worth one microsecond of a request that costs seven. `SelectorPoller` is level-triggered over the standard
`selectors` and works on any system; it keeps the set of
wanted events in step with the waiters, lazily: interest is dropped only when an event comes and nobody waits.

Some facts about epoll that the code rests on:

* An event carries the whole readiness at that moment, not only what changed: so `EPOLLOUT` comes along with
  most `EPOLLIN`. The flag it leaves (`write_ready`) may be stale when it is used. That costs one refused
  call, never a hang, since a refused call is followed by a new wait.
* Adding a descriptor that is ready already gives an event. So registering late, on the first wait, loses
  nothing.
* Data and end of stream may share one edge; only `EPOLLRDHUP` tells. A read stops at urgent data, which only
  `EPOLLPRI` tells. Both make a short read say nothing (see descriptor.py).
* Closing the last copy of a descriptor removes it. With another copy open (dup, fork) it stays, so it is
  always removed by name before the close.
* After a fork the child's copy is the same object in the kernel: what the child registers, or takes out
  because it closes a socket, changes the parent's. So the child's copies are closed at once.
* A batch of events is handed out whole before any service runs: no service can close a descriptor, and
  another open one of the same number, between an event and its delivery.
"""

from __future__ import annotations

import logging
import os
import selectors
import weakref
from collections import deque
from typing import Any, Final, Protocol

from reactor.core.requests import PARKED, Request, Waiter
from reactor.core.task import Task
from reactor.errors import BadRequest, Busy, Closed

__all__ = [
    "HAS_EPOLL",
    "Descriptor",
    "EpollPoller",
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
# How many events one call may bring. More gain nothing: the call is then a hundredth of the work that they
# cause.
_EVENTS_PER_POLL = 512


class Poller(Protocol):
    """What the loop needs of a poller."""

    def register(self, descriptor: Descriptor) -> None:
        """Take up a descriptor that is waited on for the first time."""

    def unregister(self, descriptor: Descriptor) -> None:
        """Forget a descriptor; it may have been closed behind our back."""

    @property
    def needs_arming(self) -> bool:
        """Whether `arm` must be called whenever a task has been entered as a waiter."""

    def arm(self, descriptor: Descriptor) -> None:
        """Ask for the events that the descriptor's waiters wait for."""

    def watch(self, descriptor: Descriptor) -> None:
        """Have `read_ready` set once when there is something to read, though no task waits.

        For the loop's own wake-up pipe.
        """

    def poll(self, timeout_s: float | None, ready: deque[Task[Any]]) -> None:
        """Wait for events, append the tasks they wake to `ready`, and keep what nobody waits for in flags.

        Args:
            timeout_s: None: for ever.
        """

    def has_waiters(self) -> bool:
        """Whether any service waits on any descriptor."""

    def fileno(self) -> int:
        """Give the poller's own descriptor, which is readable when there are events.

        Raises:
            BadRequest: it has none.
        """

    def close(self) -> None:
        """Let go of all descriptors and of the system's object. Done twice it does nothing."""


class _Table:
    """The descriptors a poller serves, by number."""

    def __init__(self) -> None:
        self._by_fd: dict[int, Descriptor] = {}
        _alive.add(self)

    def has_waiters(self) -> bool:
        return any(d.reader is not None or d.writer is not None for d in self._by_fd.values())

    def _evict(self, descriptor: Descriptor) -> None:
        """Make room for a descriptor whose number is taken.

        Either the earlier one was closed without `close_notify` and the system has given its number out
        again: its waiters will never see an event and are told. Or there are two objects for one open file:
        that is fine while only one is waited on.
        """
        fd = descriptor.fileno()
        earlier = self._by_fd.get(fd)
        if earlier is None or earlier is descriptor:
            return
        if self._is_known(fd) and (earlier.reader is not None or earlier.writer is not None):
            raise Busy(f"descriptor {fd} is waited on through another Descriptor object")
        if self._is_known(fd):
            earlier.detach()
        else:
            earlier.close_notify()

    def _is_known(self, fd: int) -> bool:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def _release_all(self) -> None:
        for descriptor in self._by_fd.values():
            descriptor.poller = None
            descriptor.read_ready = descriptor.write_ready = False
        self._by_fd.clear()


_alive: Final[weakref.WeakSet[_Table]] = weakref.WeakSet()


def _close_after_fork() -> None:
    for table in list(_alive):
        table.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)

if HAS_EPOLL:
    _READ = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR
    _WRITE = EPOLLOUT | EPOLLHUP | EPOLLERR
    _HANG_UP = EPOLLRDHUP | EPOLLHUP | EPOLLERR
    _SHORT_READS_LIE = _HANG_UP | EPOLLPRI
    _INTEREST = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET

    class EpollPoller(_Table):
        """Edge-triggered, both sides of a descriptor in one registration."""

        def __init__(self) -> None:
            super().__init__()
            # Not in the class: asked on each wait, and found three times as fast here.
            self.needs_arming = False
            self._epoll = epoll()

        def register(self, descriptor: Descriptor) -> None:
            """Take up a descriptor.

            Raises:
                Closed: there is no such descriptor.
                BadRequest: it is a regular file or directory, which epoll refuses.
                Busy: its number is waited on through another Descriptor object.
            """
            fd = descriptor.fileno()
            self._evict(descriptor)
            try:
                self._epoll.register(fd, _INTEREST)
            except PermissionError as error:
                raise BadRequest(
                    f"descriptor {fd} is a regular file: always ready, not to be waited on"
                ) from error
            except OSError as error:
                raise Closed(f"descriptor {fd} cannot be waited on: {error.strerror}") from error
            self._by_fd[fd] = descriptor

        def unregister(self, descriptor: Descriptor) -> None:
            """See `Poller`."""
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
                # Closed behind our back: the kernel has removed it already, which is what we want.
                return

        def _is_known(self, fd: int) -> bool:
            try:
                self._epoll.modify(fd, _INTEREST)
            except OSError:
                return False
            return True

        def arm(self, descriptor: Descriptor) -> None:
            """Nothing to do: all events are asked for from the start."""

        def watch(self, descriptor: Descriptor) -> None:
            """Nothing to do, likewise."""

        def poll(self, timeout_s: float | None, ready: deque[Task[Any]]) -> None:
            """See `Poller`."""
            by_fd = self._by_fd
            for fd, events in self._epoll.poll(timeout_s, _EVENTS_PER_POLL):
                try:
                    descriptor = by_fd[fd]
                except KeyError:
                    # Closed without notice while a copy of it lives on: silence it.
                    self._drop(fd)
                    continue
                if events & _SHORT_READS_LIE:
                    descriptor.short_reads_lie = True
                    if events & _HANG_UP:
                        descriptor.hang_up = True
                # The wakes are written out: a call for each would cost as much as the rest of this loop.
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
            """See `Poller`."""
            return self._epoll.fileno()

        def close(self) -> None:
            """See `Poller`."""
            self._release_all()
            self._epoll.close()


def _identity_of(fd: int) -> tuple[int, int]:
    """Tell open files of one number apart; selectors, other than epoll, cannot be asked."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class SelectorPoller(_Table):
    """Level-triggered, over `selectors`; for systems without epoll, and for `Blocker`.

    Args:
        selector: `DefaultSelector()` unless given; one of the standard library's kinds.
    """

    needs_arming = True

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        super().__init__()
        self._selector = selectors.DefaultSelector() if selector is None else selector
        self._interest: dict[int, int] = {}
        self._identity: dict[int, tuple[int, int]] = {}

    def register(self, descriptor: Descriptor) -> None:
        """Take up a descriptor; the system is asked about it only while somebody waits (see `arm`).

        Raises:
            Closed: there is no such descriptor.
            Busy: its number is waited on through another Descriptor object.
        """
        fd = descriptor.fileno()
        self._evict(descriptor)
        try:
            self._identity[fd] = _identity_of(fd)
        except OSError as error:
            raise Closed(f"descriptor {fd} cannot be waited on: {error.strerror}") from error
        self._by_fd[fd] = descriptor

    def unregister(self, descriptor: Descriptor) -> None:
        """See `Poller`."""
        fd = descriptor.fileno()
        if self._by_fd.get(fd) is descriptor:
            del self._by_fd[fd]
            del self._identity[fd]
            self._ask(fd, 0)

    def arm(self, descriptor: Descriptor) -> None:
        """Ask for the events that the descriptor's waiters wait for.

        Raises:
            Closed, BadRequest: the system refuses the descriptor. The waiter has been taken out again.
        """
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
                    f"descriptor {fd} is a regular file: always ready, not to be waited on"
                ) from error
            raise Closed(f"descriptor {fd} cannot be waited on: {error}") from error

    def watch(self, descriptor: Descriptor) -> None:
        """See `Poller`."""
        fd = descriptor.fileno()
        self._ask(fd, self._interest.get(fd, 0) | selectors.EVENT_READ)

    def poll(self, timeout_s: float | None, ready: deque[Task[Any]]) -> None:
        """See `Poller`."""
        try:
            news = self._selector.select(timeout_s)
        except (OSError, ValueError):
            # select() fails as a whole when one of its descriptors is closed.
            if not self._renew():
                raise
            return
        for key, events in news:
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
        """Make `interest` what the system is asked about a descriptor."""
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
        """Make a new selector, without what was closed behind our back: a waiter there gets `Closed`.

        The old one cannot be rid of such a descriptor while a copy of it is open elsewhere.

        Returns:
            Whether there was any. Events that were under way come again: we are level-triggered.
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
        """Give the selector's own descriptor.

        Raises:
            BadRequest: it has none; only epoll, kqueue and /dev/poll have.
        """
        own = getattr(self._selector, "fileno", None)
        if own is None:
            raise BadRequest(f"{type(self._selector).__name__} has no descriptor of its own")
        number: int = own()
        return number

    def close(self) -> None:
        """See `Poller`."""
        self._release_all()
        self._interest.clear()
        self._identity.clear()
        self._selector.close()


def default_poller() -> Poller:
    """Make the best poller of this system."""
    return EpollPoller() if HAS_EPOLL else SelectorPoller()


# Readiness of one descriptor: who waits on which side, and what became ready while nobody waited.
#
# The theory. With an edge-triggered poller the kernel tells of a change once. If nobody waits at that
# moment the news is kept in `read_ready` or `write_ready`, and the next wait on that side returns at once.
# So no wake-up is lost when a stream is lent from one service to another, nor between a refused call and
# the wait after it. The price is a spurious wake now and then: **a wait says "try", never "there is
# data"**.
#
# `drained` says that the last read got less than it asked for: the kernel's buffer is empty, there will be
# news of the next bytes, and a reader may wait before it tries. That is false in two cases. Data and the
# end of the stream may share one edge; then no second edge will come for the end. And a read stops short at
# urgent data (MSG_OOB), with more behind it that has been told of already. So after a hang-up (`hang_up`)
# and after urgent data no read counts as short (`short_reads_lie`). A wait takes the hint down, for the
# news it stands for may be handed to one service and the reading be done by another.
#
# A descriptor is registered with a poller by the first wait, once for its life, and each wait costs no
# system call from then on.


class HasFileno(Protocol):
    """A file, socket or pipe object."""

    def fileno(self) -> int: ...


class Descriptor:
    """One file descriptor's readiness.

    The descriptor itself stays its owner's: this class opens and closes nothing.

    Attributes:
        readable, writable: the requests to yield. At most one service at a time per side; a second one gets
            `Busy`.
        drained: see the module. Set by who reads, taken down by each wait.
        hang_up: the poller saw that the other side has shut down or failed. Stays False with a
            level-triggered poller, which needs no such care.
        short_reads_lie: see the module.
        is_closed: after `close_notify`.
    Raises:
        Closed: the file or socket is closed.
    """

    __slots__ = (
        "_fd",
        "drained",
        "hang_up",
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
        self._fd = fileobj_or_fd if isinstance(fileobj_or_fd, int) else fileobj_or_fd.fileno()
        if self._fd < 0:
            raise Closed(f"{fileobj_or_fd!r} is closed")
        self.readable = WaitReadable(self)
        self.writable = WaitWritable(self)
        self.reader: Task[Any] | None = None
        self.writer: Task[Any] | None = None
        self.read_ready = False
        self.write_ready = False
        self.drained = False
        self.hang_up = False
        self.short_reads_lie = False
        self.is_closed = False
        self.poller: Poller | None = None

    def fileno(self) -> int:
        """Give the descriptor's number (also after it was closed: for messages and for forgetting it)."""
        return self._fd

    def detach(self) -> None:
        """Take it out of its poller, so that another runner may use it. The next wait registers it anew.

        Raises:
            Busy: a service waits on it.
        """
        waiting = self.reader or self.writer
        if waiting is not None:
            raise Busy(f"descriptor {self._fd} is waited on by {waiting.name!r}")
        self._leave_poller()

    def close_notify(self) -> None:
        """Say that the descriptor is about to be closed: call this *before* closing it.

        Its waiters get `Closed`; so does each later wait. Done twice it does nothing.
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
        """Register with a runner's poller, leaving the one before. For the runner, on the first wait.

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
        return f"<Descriptor {self._fd}{' closed' if self.is_closed else ''}>"


class WaitReadable(Request):
    """Resume when the descriptor can be read, has ended or has failed.

    Spurious wakes are allowed: try, and wait again when refused.
    """

    __slots__ = ("descriptor",)

    may_end_early = True

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor

    def begin(self, task: Task[Any]) -> object:
        """See `Request`.

        Raises:
            Busy: another service reads the descriptor, or waits on it through another object.
            Closed: the descriptor is closed.
            BadRequest: it is a regular file or directory.
        """
        descriptor = self.descriptor
        poller: Poller = task.runner.poller
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
        task.wait = self
        return PARKED

    def undo(self, task: Waiter) -> None:
        self.descriptor.reader = None

    def pass_on(self, error: BaseException) -> None:
        """Throw an error into the waiting service, if any, and answer the next wait at once. For lending."""
        descriptor = self.descriptor
        if descriptor.reader is not None:
            descriptor.reader.interrupt(error)
        descriptor.read_ready = True


class WaitWritable(Request):
    """Resume when the descriptor can be written or has failed. Spurious wakes are allowed here too."""

    __slots__ = ("descriptor",)

    may_end_early = True

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor

    def begin(self, task: Task[Any]) -> object:
        """See `Request`. Raises Busy, Closed and BadRequest as `WaitReadable.begin`."""
        descriptor = self.descriptor
        poller: Poller = task.runner.poller
        if descriptor.poller is not poller:
            descriptor.adopt(poller)
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
