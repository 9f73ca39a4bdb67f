"""Files that are written by threads and get their final name when they are complete.

    part = PartialFile(path)        opened or created under a temporary name
    part.write(data)                hashed as it is written; `rehash` continues an earlier run
    part.commit(target, …)          synced to the disk and renamed

The files service, attachments and `get` use it. A cancelled service leaves a call behind that still runs in a
thread. Closing its descriptor at that moment could give the number to another file. `ThreadFile` therefore
lets that thread close it afterwards.
"""

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
        fd: this object owns it.
        on_closed: called once, in any thread.
    """

    def __init__(self, fd: int, on_closed: Callable[[], None] = lambda: None) -> None:
        self._fd: int | None = fd
        self._on_closed = on_closed
        self._lock = threading.Lock()
        self.is_closed = False  # True also while a thread still uses the descriptor

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
        """Close it, now or when the thread that uses it is done. Idempotent."""
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
        # A service that was cancelled never receives the file that a thread has just opened for it.
        self.close()


BLOCK_BYTES: Final = 8 << 20
"""Read and hashed in one call: about 5 ms, the longest delay of a cancellation."""

_PART_BYTES: Final = 1 << 20
_LOCK_STEP_S: Final = 0.02


class PartialFile:
    """Opens or creates the regular file at `path`. A symbolic link there is not followed.

    Args:
        path: of the incomplete file.
        mode: of a new file, before the umask; by default only this user may read it.
        lock_wait_s: lock the file, and wait this long for another holder; then BlockingIOError.
        on_closed: called once, in any thread, after the last write.
    Attributes:
        size: of the part that is hashed; `write` overwrites the rest, `rehash` continues with it.
        is_closed: it is closed, or will be when a thread is done with it.
    Raises, from each method: OSError, which names the path; LocalTunnelError: the file is closed, or not a
    regular file.
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
        self.is_closed = False
        self._resting: os.stat_result | None = None
        self._sha256 = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        if lock_wait_s is None:
            fd = open_regular(path, flags, mode)
        else:
            fd = _open_locked(path, flags, mode, lock_wait_s)
        self.file = ThreadFile(fd, on_closed)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the first `size` bytes."""
        return self._sha256.digest()

    def rehash(self, up_to: int) -> bool:
        """Hash the next block of what an earlier run wrote. Returns whether `up_to` bytes are hashed."""
        with naming(self.path), self.file.using() as fd:
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
        """Append to the hashed part."""
        with naming(self.path), self._using() as fd:
            view = byte_view(data)
            while view:
                taken = os.pwrite(fd, view, self.size)
                self._sha256.update(view[:taken])
                self.size += taken
                view = view[taken:]

    def commit(self, target: Path, *, replace: bool, mode: int | None = None) -> None:
        """Sync the file to the disk, rename it to `target`, and close it.

        Args:
            mode: of the file, where the file system keeps modes; by default unchanged.
        Raises:
            FileExistsError: `target` exists, and `replace` is false. OSError: the disk failed, or another
            program has removed or replaced the unfinished file.
        On error: the file still has its temporary name; nothing at `target` has changed.
        """
        with naming(self.path), self._using() as fd:
            os.ftruncate(fd, self.size)
            if mode is not None:
                with contextlib.suppress(PermissionError, NotImplementedError):
                    os.fchmod(fd, mode)
            os.fsync(fd)
            if not os.path.samestat(os.lstat(self.path), os.fstat(fd)):
                raise self._replaced()
            if replace:
                os.replace(self.path, target)
            else:
                rename_new(self.path, target)
            sync_folder(target.parent)
        self.close()

    def rest(self) -> None:
        """Close the descriptor until the next `write` or `commit`: a sender that pauses holds none.
        No effect while it is closed."""
        if self._resting is None and not self.is_closed:
            with self.file.using() as fd:
                self._resting = os.fstat(fd)
            self.file.close()

    @contextlib.contextmanager
    def _using(self) -> Iterator[int]:
        """The descriptor, opened again after `rest`."""
        if self._resting is not None and not self.is_closed:
            self._wake(self._resting)
        with self.file.using() as fd:
            yield fd

    def _wake(self, before: os.stat_result) -> None:
        self.file = ThreadFile(open_regular(self.path, os.O_RDWR | os.O_NOFOLLOW, 0))
        self._resting = None
        if self.is_closed:  # by another thread, meanwhile
            self.file.close()
        with self.file.using() as fd:
            if not os.path.samestat(before, os.fstat(fd)):
                raise self._replaced()

    def _replaced(self) -> OSError:
        text = "another program has replaced the unfinished file"
        return OSError(errno.ESTALE, text, str(self.path))

    def discard(self) -> None:
        """Remove and close the file. A closed file is left alone: another upload may be writing to it."""
        if not self.is_closed:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Close the file; its content stays. Never waits."""
        self.is_closed = True
        self.file.close()


def _open_locked(path: Path, flags: int, mode: int, wait_s: float) -> int:
    """Open `path` and lock it; the descriptor is of the file that has this name now."""
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
        os.close(fd)  # the previous holder has renamed or removed it
