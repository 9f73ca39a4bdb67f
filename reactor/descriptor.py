"""Readiness of one descriptor: who waits on which side, and what became ready while nobody waited.

The theory. With an edge-triggered poller the kernel tells of a change once. If nobody waits at that moment
the news is kept in `read_ready` or `write_ready`, and the next wait on that side returns at once. So no
wake-up is lost when a stream is lent from one service to another, nor between a refused call and the wait
after it. The price is a spurious wake now and then: **a wait says "try", never "there is data"**.

`drained` says that the last read got less than it asked for: the kernel's buffer is empty, there will be news
of the next bytes, and a reader may wait before it tries. That is false in two cases. Data and the end of the
stream may share one edge; then no second edge will come for the end. And a read stops short at urgent data
(MSG_OOB), with more behind it that has been told of already. So after a hang-up (`hang_up`) and after urgent
data no read counts as short (`short_reads_lie`). A wait takes the hint down, for the news it stands for may
be handed to one service and the reading be done by another.

A descriptor is registered with a poller by the first wait, once for its life, and each wait costs no system
call from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from reactor.errors import Busy, Closed
from reactor.requests import WaitReadable, WaitWritable

if TYPE_CHECKING:
    from reactor.poller import Poller
    from reactor.task import Task

__all__ = ["Descriptor", "HasFileno"]


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
