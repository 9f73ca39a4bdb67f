"""How this package opens, names and publishes files: what every other module needs of the operating system.

    open_regular(path)        only regular files, and never a wait for a writer that does not come
    read_regular(path)        the whole of a small one
    Identity.of(status)       what changes when the content of a file does
    rename_new(part, path)    gives a finished file its name, and never replaces another
    sync_folder(folder)       makes the new name durable
    naming(path)              errors of the disk name the path

A user's path may be a FIFO, a socket, a device or a file of /proc. Opening a FIFO waits until somebody writes
to it, and opening some devices has effects of its own, so the kind is looked at before the file is opened,
and once
more on the descriptor: the path may have changed between. Only a file system that does not answer can keep a
caller waiting; everything here blocks, and is called in threads where the reactor runs.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol, cast

from tunnel.errors import FileChanged, LocalTunnelError

__all__ = [
    "FileReader",
    "Identity",
    "ReadableFile",
    "advice_for",
    "check_unchanged",
    "file_changed",
    "kind_of",
    "naming",
    "open_regular",
    "os_error_text",
    "pieces_of",
    "read_regular",
    "regular_status",
    "rename_new",
    "sync_folder",
]

_OPEN: Final = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_ADVICE: Final = {
    errno.ENOSPC: "the disk is full: free some space on it, or name a folder on another one",
    errno.EDQUOT: "the quota is used up: remove some files, or name a folder on another disk",
    errno.EROFS: "that file system is read-only: mount it writable, or name a folder elsewhere",
    errno.EACCES: "this user may not do that there: change the rights, or name a folder of the user's own",
    errno.EPERM: "this user may not do that there: change the rights, or name a folder of the user's own",
    errno.EMFILE: "too many files are open: ulimit -n raises the limit",
}
_KINDS: Final = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
}


class Identity(NamedTuple):
    """Two looks at a file that give the same identity found the same content.

    Only a change within one tick of the file system's clock, or through a memory map, may go unseen: digests
    find those.
    """

    device: int
    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity that `os.stat` or `os.fstat` found."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def check_unchanged(before: os.stat_result, now: os.stat_result, name: str) -> None:
    """Compare two looks at a file that is being sent.

    Args:
        name: what to call it.
    Raises:
        FileChanged: its content may be another one now.
    """
    if now.st_size != before.st_size:
        how = f"it had {before.st_size:,} bytes and has {now.st_size:,} now"
    elif Identity.of(now) != Identity.of(before):
        how = "something has written to it"
    else:
        return
    raise file_changed(name, how)


def file_changed(name: str, how: str) -> FileChanged:
    """The error that says what a user can do."""
    return FileChanged(
        f"{name} changed while it was sent: {how}; send it when nothing writes to it, or send a copy"
    )


def kind_of(mode: int) -> str:
    """What a file is, with its article: "a FIFO (named pipe)". Args: mode: `st_mode`."""
    return _KINDS.get(stat.S_IFMT(mode), "a file of an unknown kind")


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open a regular file, and nothing else. Returns the descriptor, which belongs to the caller.

    Args:
        flags, mode: as for `os.open`.
    Raises:
        LocalTunnelError: the path is a folder, FIFO, socket or device. OSError: it cannot be opened; with
        O_NOFOLLOW also that it is a symbolic link.
    """
    with contextlib.suppress(FileNotFoundError):  # O_CREAT makes it; else opening it raises the same
        _check_regular(path, os.stat(path, follow_symlinks=not flags & os.O_NOFOLLOW))
    descriptor = os.open(path, flags | _OPEN, mode)
    try:
        _check_regular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path, limit_bytes: int | None = None, flags: int = os.O_RDONLY) -> bytes:
    """Read a regular file whole.

    Returns:
        With a limit at most limit_bytes + 1 bytes: more than the limit tells that the file is too large.
    Raises:
        LocalTunnelError, OSError: as `open_regular`.
    """
    with naming(path), os.fdopen(open_regular(path, flags), "rb") as file:
        return file.read(-1 if limit_bytes is None else limit_bytes + 1)


def regular_status(file: object) -> os.stat_result | None:
    """What `os.fstat` says of an open file object, if that is a regular file; else None.

    Only the kinds that read the file itself count: those that unpack it read something else.
    """
    if not isinstance(file, io.FileIO | io.BufferedReader | io.BufferedRandom):
        return None
    try:
        status = os.fstat(file.fileno())
    except (OSError, ValueError):  # made of no file; or closed, which reading it shows
        return None
    return status if stat.S_ISREG(status.st_mode) else None


class ReadableFile(Protocol):
    """Any binary file that can be read; None: it does not block and has nothing now."""

    def read(self, size: int, /) -> bytes | None: ...


class FileReader:
    """Reads an open binary file: a regular one only up to the size that it has now.

    A log may grow faster than it is sent. Files of /proc are empty by their size, and are read to their end.

    Args:
        path: for errors; by default the name of the file.
    """

    def __init__(self, file: ReadableFile, path: Path | None = None) -> None:
        self._file = file
        name = getattr(file, "name", None) if path is None else path
        self._name = repr(str(name)) if isinstance(name, str | Path) else "the file"
        self._left_bytes: int | None = None
        if isinstance(file, io.BufferedRandom):
            file.flush()
        self._before = regular_status(file)
        if self._before is not None and self._before.st_size:
            self._left_bytes = max(0, self._before.st_size - cast(BinaryIO, file).tell())

    def read(self, limit_bytes: int) -> bytes | None:
        """The next bytes, b"" at the end. Blocks.

        Raises:
            FileChanged: it changed since it was opened. Whatever the file raises.
        """
        left = self._left_bytes
        if left is None:
            return self._file.read(limit_bytes)
        data = self._file.read(min(limit_bytes, left))
        now = regular_status(self._file)
        if now is not None and self._before is not None:
            check_unchanged(self._before, now, self._name)
        self._left_bytes = left - len(data or b"")
        return data


def pieces_of(path: Path, piece_bytes: int) -> Iterator[bytes]:
    """The content of a regular file, in pieces.

    Raises:
        FileChanged: as `FileReader`. LocalTunnelError, OSError: as `open_regular`.
    """
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        reader = FileReader(file, path)
        while data := reader.read(piece_bytes):
            yield data


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the disk name `path` where they name no file: "No space left on device" alone does not
    help."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


def advice_for(error: OSError) -> str:
    """What a user can do about an error of the disk; empty where the error itself says all."""
    return _ADVICE.get(error.errno or 0, "")


def os_error_text(error: OSError, path: object) -> str:
    """What has failed at a path, for people."""
    return f"no such file: {path}" if error.errno == errno.ENOENT else f"{path}: {error.strerror}"


def rename_new(source: Path, target: Path) -> None:
    """Rename a file to a name that is free. Never replaces a file.

    Three ways, as not every file system has each of them: a hard link (not on FAT, exFAT, and many FUSE and
    SMB mounts), renameat2 with RENAME_NOREPLACE (not on NFS), and an empty file of the new name that is made
    with O_EXCL and then replaced. The last has two weaknesses. A crash between its two calls leaves the empty
    file, and content that another program writes into the empty file in that moment is lost.

    Raises:
        FileExistsError: something has the new name. OSError: the disk failed.
    On error: `source` is as it was, and so is what is at `target`.
    """
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        # Which errors mean "not on this file system" differs: EPERM, EOPNOTSUPP, ENOSYS, EMLINK, EINVAL,
        # EACCES. Where the cause is another one, the rename fails as well and says so.
        if not _rename_noreplace(source, target):
            _replace_placeholder(source, target)
    else:
        os.unlink(source)


def _rename_noreplace(source: Path, target: Path) -> bool:
    """Rename with renameat2. Returns whether the system and the file system have it."""
    import ctypes  # only here: the command line loads this module for every command

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    arguments = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if renameat2(*arguments) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EEXIST, errno.ENOENT):
        raise OSError(number, os.strerror(number), os.fspath(target))
    return False


def _replace_placeholder(source: Path, target: Path) -> None:
    placeholder = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        own = os.fstat(placeholder)
        try:
            # Another program may have removed it, and made a file of its own.
            if not os.path.samestat(own, os.lstat(target)):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))
            os.rename(source, target)
        except BaseException:
            with contextlib.suppress(OSError):
                if os.path.samestat(own, os.lstat(target)):
                    os.unlink(target)
            raise
    finally:
        os.close(placeholder)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable. Raises OSError.

    Some file systems (FUSE, SMB) cannot sync a folder; there it is as durable as it can be.
    """
    with naming(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        finally:
            os.close(descriptor)


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):  # opening a link fails by itself
        raise LocalTunnelError(f"{str(path)!r} is {kind_of(status.st_mode)}, expected a regular file")
