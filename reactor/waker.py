"""How another thread wakes a loop that sleeps in its poller: a byte through a pipe."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

from reactor.descriptor import Descriptor
from reactor.poller import Poller

__all__ = ["Waker"]

_DRAIN_BYTES: Final = 4096


class Waker:
    """A pipe whose read end is in the poller. `wake` is for any thread, the rest for the loop's.

    Attributes:
        descriptor: of the read end; its `read_ready` tells that `drain` is due.
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
        self.descriptor = Descriptor(self._read_fd)
        self.descriptor.adopt(poller)
        poller.watch(self.descriptor)

    def wake(self) -> None:
        """Make the poller return."""
        # The lock keeps a late byte out of whatever file gets our number after `close`.
        # Blocked: the pipe is full of earlier wakes, which the loop will see.
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._is_closed:
                os.write(self.write_fd, b"\0")

    def drain(self) -> None:
        """Take out the bytes and be ready for the next wake."""
        self.descriptor.read_ready = False
        # Blocked: the byte of this event was read together with those before it.
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_fd, _DRAIN_BYTES)
        self._poller.watch(self.descriptor)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self.descriptor.close_notify()
            os.close(self._read_fd)
            os.close(self.write_fd)
