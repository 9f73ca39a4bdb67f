"""Files: opening, reading, detecting changes, and publishing under a new name.

    open_regular(path)        opens regular files only, and never waits for a writer of a FIFO
    read_regular(path)        reads a small file whole
    Identity.of(status)       differs if the content of a file has changed
    rename_new(part, path)    names a finished file, and never replaces another
    sync_folder(folder)       makes the new name durable
    naming(path)              adds the path to errors of the disk

A user's path may be a FIFO, a socket, a device or a file of /proc. Opening a FIFO waits for a writer, and
opening some devices has side effects. So the kind is checked before the file is opened, and again on the open
descriptor, because the path may have changed in between.

Everything here blocks; call it in a thread where the reactor runs.
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
    "name_for_errors",
    "naming",
    "open_regular",
    "os_error_text",
    "pieces_of",
    "read_regular",
    "regular_status",
    "rename_new",
    "sync_folder",
    "write_all",
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
    """A fingerprint of a file: equal identities mean equal content.

    A change within one tick of the file system's clock, or through a memory map, may be missed; digests find
    those.
    """

    device: int
    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity of a result of `os.stat` or `os.fstat`."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def check_unchanged(before: os.stat_result, now: os.stat_result, name: str) -> None:
    """Compare two states of a file that is being sent.

    Args:
        name: for the error.
    Raises:
        FileChanged: its content may have changed.
    """
    if now.st_size != before.st_size:
        how = f"it had {before.st_size:,} bytes and has {now.st_size:,} now"
    elif Identity.of(now) != Identity.of(before):
        how = "something has written to it"
    else:
        return
    raise file_changed(name, how)


def file_changed(name: str, how: str) -> FileChanged:
    """The error, with the remedy."""
    return FileChanged(
        f"{name} changed while it was sent: {how}; send it when nothing writes to it, or send a copy"
    )


def kind_of(mode: int) -> str:
    """The kind of a file by its `st_mode`, with an article: "a FIFO (named pipe)"."""
    return _KINDS.get(stat.S_IFMT(mode), "a file of an unknown kind")


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open a regular file. Returns the descriptor, which belongs to the caller.

    Args:
        flags, mode: as for `os.open`.
    Raises:
        LocalTunnelError: the path is a folder, FIFO, socket or device. OSError: it cannot be opened, or it is
            a symbolic link and O_NOFOLLOW was given.
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
        With a limit, at most limit_bytes + 1 bytes: more than the limit means that the file is too large.
    Raises:
        LocalTunnelError, OSError: as `open_regular`.
    """
    with naming(path), os.fdopen(open_regular(path, flags), "rb") as file:
        return file.read(-1 if limit_bytes is None else limit_bytes + 1)


def regular_status(file: object) -> os.stat_result | None:
    """`os.fstat` of an open file object for a regular file; otherwise None.

    Only classes that read the file directly count; others, such as gzip, return other bytes.
    """
    if type(file).__module__ == "tempfile":  # NamedTemporaryFile: a wrapper
        file = getattr(file, "file", file)
    if not isinstance(file, io.FileIO | io.BufferedReader | io.BufferedRandom):
        return None
    try:
        status = os.fstat(file.fileno())
    except (OSError, ValueError):  # not made from a file; or closed, which reading will report
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def name_for_errors(file: object) -> str:
    """A path, or the name of an open file, in quotes; "the file" if it has none."""
    name = file if isinstance(file, Path) else getattr(file, "name", None)
    return repr(str(name)) if isinstance(name, str | Path) else "the file"


class ReadableFile(Protocol):
    """A readable binary file. `read` returns None if the file does not block and has no data now."""

    def read(self, size: int, /) -> bytes | None: ...


class FileReader:
    """Reads an open binary file. A regular file is read up to its present size.

    A log may grow faster than it is sent. Files of /proc have size 0, and are read to the end.

    Args:
        path: for errors; by default the name of the file.
    """

    def __init__(self, file: ReadableFile, path: Path | None = None) -> None:
        self._file = file
        self._name = name_for_errors(file if path is None else path)
        self._left_bytes: int | None = None
        if isinstance(file, io.BufferedRandom):
            file.flush()
        self._before = regular_status(file)
        if self._before is not None and self._before.st_size:
            self._left_bytes = max(0, self._before.st_size - cast(BinaryIO, file).tell())

    def read(self, limit_bytes: int) -> bytes | None:
        """The next bytes, b"" at the end. Blocks.

        Raises:
            FileChanged: it changed since it was opened. Errors of the file.
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


class WritableFile(Protocol):
    """A writable binary file: of Python, or a class of the user with this method."""

    def write(self, data: memoryview, /) -> object: ...


def write_all(file: WritableFile, data: memoryview) -> None:
    """Write all of `data`. A raw file, or an object that imitates one, may take less at a time.

    Raises:
        BlockingIOError: it takes nothing now. ValueError: it reports an impossible count. Errors of the
            file.
    """
    while True:
        taken = file.write(data)
        if taken == 0 or (taken is None and isinstance(file, io.RawIOBase)):
            raise BlockingIOError("the file takes nothing now: is it non-blocking?")
        if type(taken) is not int:
            return  # a class of the user whose `write` returns no number: it has taken all
        if not 0 < taken <= len(data):
            raise ValueError(f"write() took {taken} of {len(data)} bytes")
        data = data[taken:]
        if not data:
            return


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
    """Add `path` to errors of the disk without one, such as "No space left on device"."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


def advice_for(error: OSError) -> str:
    """The remedy for an error of the disk; may be empty."""
    return _ADVICE.get(error.errno or 0, "")


def os_error_text(error: OSError, path: object) -> str:
    """A description of an error at a path, for people."""
    return f"no such file: {path}" if error.errno == errno.ENOENT else f"{path}: {error.strerror}"


def rename_new(source: Path, target: Path) -> None:
    """Rename a file to a free name. Never replaces a file.

    There are three ways, because no file system supports all: a hard link (not on FAT, exFAT, and many FUSE
    and SMB mounts); renameat2 with RENAME_NOREPLACE (not on NFS); and an empty file, created with O_EXCL at
    the new name and then replaced. The last has two weaknesses: a crash between its two calls leaves the
    empty file, and content that another program writes into it in that moment is lost.

    Raises:
        FileExistsError: the new name is taken. OSError: the disk failed.
    On error: nothing has changed.
    """
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        # The error for "not on this file system" varies: EPERM, EOPNOTSUPP, ENOSYS, EMLINK, EINVAL, EACCES.
        # For any other cause the rename fails as well, with that cause.
        if not rename_noreplace(source, target):
            _replace_placeholder(source, target)
    else:
        os.unlink(source)


def rename_noreplace(source: Path, target: Path) -> bool:
    """Rename with renameat2. Returns whether system and file system support it."""
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
            # Another program may have replaced it with its own file.
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

    Some file systems (FUSE, SMB) cannot sync a folder; there, nothing more can be done.
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
