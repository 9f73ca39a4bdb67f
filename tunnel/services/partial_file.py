"""A file that is written by threads and gets its name when it is whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from readwrite_comp.helpers import byte_view
from tunnel.disk import naming, open_regular, rename_new, sync_folder
from tunnel.errors import LocalTunnelError

__all__ = ["BLOCK_BYTES", "PartialFile", "ThreadFile"]


class ThreadFile:
    """A file descriptor for threads, which the reactor's thread may close at any time without waiting.

    Args:
        fd: owned from here on.
        on_closed: called once, in any thread, when it is closed.
    """

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
        """Close it, now or when the thread that uses it is done. May be called several times."""
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


BLOCK_BYTES: Final = 8 << 20
"""Read and hashed in one call: about 5 ms, the longest delay of a cancellation."""

_PART_BYTES: Final = 1 << 20
_LOCK_STEP_S: Final = 0.02


class PartialFile:
    """Opens the regular file at `path`, or makes it. A symbolic link there is not followed.

    Args:
        path: of the file while it is not whole.
        mode: of a file that is made here, before the umask; by default it is for this user alone.
        lock_wait_s: lock it, and wait so long for another that holds the lock; BlockingIOError: not in time.
        on_closed: called, in any thread, when nobody will write to it any more.
    Attributes:
        size: of the part that is known and hashed; the rest of the file is overwritten, or `rehash`ed.
    Raises, from each method: OSError, which names the path; LocalTunnelError when it is closed, or when
    something else than a regular file is there.
    """

    def __init__(
        self,
        path: Path,
        *,
        mode: int = 0o600,
        lock_wait_s: float | None = None,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.size = 0
        self._sha256 = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        if lock_wait_s is None:
            fd = open_regular(path, flags, mode)
        else:
            fd = _open_locked(path, flags, mode, lock_wait_s)
        self._file = ThreadFile(fd, on_closed)

    @property
    def is_closed(self) -> bool:
        """Whether it is closed, or is to be."""
        return self._file.is_closed

    @property
    def digest(self) -> bytes:
        """SHA-256 of the first `size` bytes."""
        return self._sha256.digest()

    def rehash(self, up_to: int) -> bool:
        """Hash on what an earlier run has written, up to a size. Returns whether that is reached."""
        with naming(self.path), self._file.using() as fd:
            wanted = min(BLOCK_BYTES, up_to - self.size)
            while wanted:
                data = os.pread(fd, min(_PART_BYTES, wanted), self.size)
                if not data:
                    raise OSError(f"{self.path.name} holds {self.size} bytes, expected {up_to}")
                self._sha256.update(data)
                self.size += len(data)
                wanted -= len(data)
        return self.size == up_to

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write behind what is known, and hash it."""
        with naming(self.path), self._file.using() as fd:
            view = byte_view(data)
            while view:
                taken = os.pwrite(fd, view, self.size)
                self._sha256.update(view[:taken])
                self.size += taken
                view = view[taken:]

    def commit(self, target: Path, *, replace: bool, mode: int | None = None) -> None:
        """Give it its name, on the disk for good, and close it.

        Args:
            mode: that the file is to have, where the file system keeps modes; by default as it is.
        Raises:
            FileExistsError: something has that name, and is not to be replaced. OSError: the disk failed, or
            another program has removed or replaced the unfinished file.
        On error: the file is still here under its own name; nothing at `target` has changed.
        """
        with naming(self.path), self._file.using() as fd:
            os.ftruncate(fd, self.size)
            if mode is not None:
                with contextlib.suppress(PermissionError, NotImplementedError):
                    os.fchmod(fd, mode)
            os.fsync(fd)
            if not os.path.samestat(os.lstat(self.path), os.fstat(fd)):
                raise OSError(
                    errno.ESTALE, "another program has replaced the unfinished file", str(self.path)
                )
            if replace:
                os.replace(self.path, target)
            else:
                rename_new(self.path, target)
            sync_folder(target.parent)
        self.close()

    def discard(self) -> None:
        """Remove it, and close it; when it is closed, another may be writing there, and it is left."""
        if not self.is_closed:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Close it; what is written stays. Never waits."""
        self._file.close()


def _open_locked(path: Path, flags: int, mode: int, wait_s: float) -> int:
    """A descriptor that holds the lock of the file which is at `path` now."""
    ends_s = time.monotonic() + wait_s
    while True:
        fd = open_regular(path, flags, mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            if time.monotonic() >= ends_s:
                raise
            time.sleep(_LOCK_STEP_S)
            continue
        except OSError:
            return fd  # a file system without locks
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(path), os.fstat(fd)):
                return fd
        os.close(fd)  # who held the lock has renamed or removed it
