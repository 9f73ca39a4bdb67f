"""A file descriptor that threads work with and the reactor's thread may close at any time, without waiting.

A service that is cancelled leaves a call behind that still runs in a thread. Closing the descriptor under its
hands could give the number to another file; so then that thread closes it afterwards.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from tunnel.errors import LocalTunnelError

__all__ = ["ThreadFile"]


class ThreadFile:
    """Args: fd: owned from here on. on_closed: called once, in any thread, when it is closed."""

    def __init__(self, fd: int, on_closed: Callable[[], None] = lambda: None) -> None:
        self._fd: int | None = fd
        self._on_closed = on_closed
        self._lock = threading.Lock()
        self.is_closed = False  # or is to be, as soon as no thread is at work

    @contextlib.contextmanager
    def using(self) -> Iterator[int]:
        """The descriptor, for one thread at a time. Raises LocalTunnelError: it is closed."""
        try:
            with self._lock:
                if self.is_closed or self._fd is None:
                    raise LocalTunnelError("the file is closed")
                yield self._fd
        finally:
            if self.is_closed:
                self.close()

    def close(self) -> None:
        """Close it, now or when the thread that uses it is done. More than once does no harm."""
        self.is_closed = True
        if self._lock.acquire(blocking=False):
            try:
                fd, self._fd = self._fd, None
            finally:
                self._lock.release()
            if fd is not None:
                os.close(fd)
                self._on_closed()

    def __del__(self) -> None:
        # Opened in a thread for a service that was cancelled meanwhile.
        self.close()
