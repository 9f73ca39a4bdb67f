"""A file that is being written: under another name, with the digest of what it holds, and renamed when that
fits.

So no file is ever seen half. Everything here blocks and is called in threads; `close` alone may be called in
the reactor's, at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tunnel.services.thread_file import ThreadFile

__all__ = ["BLOCK_BYTES", "PartialFile", "sync_folder"]

BLOCK_BYTES: Final = 8 << 20
"""Read and hashed in one call: about 5 ms, after which a cancelled service is listened to."""

_PART_BYTES: Final = 1 << 20


class PartialFile:
    """Opens the file at `path`, or makes it, for this user alone. A symbolic link there is not followed.

    Args:
        path: of the file while it is not whole.
        on_closed: called, in any thread, when nobody will write to it any more.
    Attributes:
        size: of the part that is known and hashed; the rest of the file is overwritten, or `rehash`ed.
    Raises, from each method: OSError; LocalTunnelError when it is closed.
    """

    def __init__(self, path: Path, *, on_closed: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.size = 0
        self._sha256 = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = ThreadFile(os.open(path, flags, 0o600), on_closed)

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
        with self._file.using() as fd:
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
        with self._file.using() as fd:
            view = memoryview(data).cast("B")
            while view:
                taken = os.pwrite(fd, view, self.size)
                self._sha256.update(view[:taken])
                self.size += taken
                view = view[taken:]

    def commit(self, target: Path, *, replace: bool) -> None:
        """Give it its name, on the disk for good, and close it.

        Raises:
            FileExistsError: something has that name, and is not to be replaced. OSError: the disk failed.
        On error: the file is still here under its own name; nothing at `target` has changed.
        """
        with self._file.using() as fd:
            os.ftruncate(fd, self.size)
            os.fsync(fd)
            if replace:
                os.replace(self.path, target)
            else:
                os.link(self.path, target)  # unlike a rename it never replaces
                os.unlink(self.path)
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


def sync_folder(folder: Path) -> None:
    """A rename is durable only once its folder is. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
