"""How another thread wakes a loop that sleeps in its poller: a byte through a pipe."""

from __future__ import annotations

import os
from typing import Final

from reactor.descriptor import Descriptor
from reactor.poller import Poller

__all__ = ["Waker"]

_DRAIN_BYTES: Final = 4096


class Waker:
    """A pipe whose read end is in the poller. `wake` is for any thread, the rest for the loop's."""

    def __init__(self, poller: Poller) -> None:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._descriptor = Descriptor(self._read_fd)
        self._descriptor.adopt(poller)
        self._poller = poller
        poller.watch(self._descriptor)

    def wake(self) -> None:
        """Make the poller return."""
        try:
            os.write(self._write_fd, b"\0")
        except BlockingIOError:
            # Full of earlier wakes: the loop will see those.
            return

    def was_woken(self) -> bool:
        return self._descriptor.read_ready

    def drain(self) -> None:
        """Take out the bytes and be ready for the next wake."""
        self._descriptor.read_ready = False
        try:
            os.read(self._read_fd, _DRAIN_BYTES)
        except BlockingIOError:
            # A byte written between two polls and read with those before it.
            return
        finally:
            self._poller.watch(self._descriptor)

    def close(self) -> None:
        self._descriptor.close_notify()
        os.close(self._read_fd)
        os.close(self._write_fd)
