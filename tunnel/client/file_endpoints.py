"""The local end of a file transfer: a source to send, a target to fetch to. Each is a path or an open file.

Everything here blocks; run it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from readwrite_comp.helpers import byte_view
from tunnel.disk import (
    check_unchanged,
    file_changed,
    kind_of,
    name_for_errors,
    naming,
    open_regular,
    regular_status,
    write_all,
)
from tunnel.errors import FileChanged, LocalTunnelError
from tunnel.services.file_requests import NO_DIGEST
from tunnel.services.partial_file import BLOCK_BYTES, PartialFile, ThreadFile

__all__ = ["FileTarget", "ObjectTarget", "PathTarget", "SourceFile", "keep_as_part", "resumable_bytes"]

_MOST_STEM_BYTES: Final = 180  # the rest of a part's name is 71 bytes, and a name has at most 255
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_LOCK_WAIT_S: Final = 1.0
"""A cancelled transfer holds its part until the thread that writes is done."""


class SourceFile:
    """A file to send: exactly the bytes that it had when it was opened.

    Args:
        source: a path, or a binary file that can seek.
    Attributes:
        size: in bytes. digest: SHA-256, once `prepare` has returned True.
    Raises, from each method:
        FileChanged: it grew, was cut, rewritten or replaced since it was opened. LocalTunnelError: the path
        is not a regular file; its size is unknown before it is read; the file object cannot seek, or is
        non-blocking. TypeError: neither a path nor a file. OSError: it cannot be read.
    """

    def __init__(self, source: str | Path | BinaryIO) -> None:
        self._object: BinaryIO | None = None
        self._file: ThreadFile | None = None
        self._path: Path | None = None
        self._place = 0
        self._sha256 = hashlib.sha256()
        if isinstance(source, str | os.PathLike):
            self._path = Path(source)
            fd = open_regular(self._path)
            self._file = ThreadFile(fd)
            status = os.fstat(fd)
            self.size = status.st_size
            if not self.size and _has_content(fd):
                raise self._unknown_size()
            self._before: os.stat_result | None = status
        else:
            if isinstance(source, io.TextIOBase):
                raise TypeError("a file to be stored must be binary, got a text file: open it in binary mode")
            if not (hasattr(source, "read") and hasattr(source, "seekable")):
                raise TypeError(
                    f"a file to be stored is a path or a binary file, got {type(source).__name__}; "
                    "wrap bytes in io.BytesIO"
                )
            if not source.seekable():
                raise LocalTunnelError("a file to be stored is read twice: give one that can seek, or a path")
            self._object = source
            self.size = source.seek(0, os.SEEK_END)  # also writes what a writable file has buffered
            self._before = regular_status(source)

    @property
    def digest(self) -> bytes:
        return self._sha256.digest()

    def prepare(self) -> bool:
        """Hash one block. Call it until it returns True."""
        return self._hash_into(self._sha256)

    def start(self, offset: int) -> None:
        """Set the place of the next `read`."""
        self._place = offset

    def verifier(self) -> Callable[[], bool]:
        """A step like `prepare`: hashes the file again, and raises FileChanged if the digest differs.

        It finds changes that size and time do not show.
        """
        sha256 = hashlib.sha256()
        self._place = 0

        def verify() -> bool:
            is_done = self._hash_into(sha256)
            if is_done and sha256.digest() != self.digest:
                raise self._changed("its content is different now")
            return is_done

        return verify

    def read(self, limit_bytes: int) -> bytes:
        """The next bytes; b"" at the size that the file had when it was opened."""
        limit_bytes = min(limit_bytes, self.size - self._place)
        data = self._read(limit_bytes)
        if limit_bytes and not data:
            raise self._changed("it ends early") if self._before is None else self._unknown_size()
        self._place += len(data)
        return data

    def close(self) -> None:
        """Close the file if it was opened here. Never waits."""
        if self._file is not None:
            self._file.close()

    def _hash_into(self, sha256: hashlib._Hash) -> bool:
        if self._place < self.size:
            sha256.update(self.read(BLOCK_BYTES))
        return self._place == self.size

    def _read(self, limit_bytes: int) -> bytes:
        if self._file is not None:
            with self._file.using() as fd:
                data = os.pread(fd, limit_bytes, self._place)
                self._check_unchanged(os.fstat(fd))
            return data
        assert self._object is not None
        self._object.seek(self._place)
        read: bytes | None = self._object.read(limit_bytes)
        if read is None:
            raise LocalTunnelError("the file to be stored is non-blocking and has no data now")
        self._check_unchanged(regular_status(self._object))
        if self._place + limit_bytes == self.size and self._object.seek(0, os.SEEK_END) != self.size:
            raise self._changed("its size is another one now")
        return read

    def _check_unchanged(self, now: os.stat_result | None) -> None:
        before = self._before
        if now is None or before is None:
            return
        check_unchanged(before, now, self._label)
        if self._path is not None:
            try:
                named = os.stat(self._path)
            except OSError:
                return  # removed: the open file is still complete
            if not os.path.samestat(named, before):
                raise self._changed("another file has its name now")

    def _changed(self, how: str) -> FileChanged:
        return file_changed(self._label, how)

    def _unknown_size(self) -> LocalTunnelError:
        return LocalTunnelError(
            f"{self._label} holds more or less than the {self.size:,} bytes of its size, as files of /proc "
            "and /sys do, so its size cannot be announced; send its present content (mtun send - < FILE)"
        )

    @property
    def _label(self) -> str:
        return name_for_errors(self._object if self._path is None else self._path)


def _has_content(fd: int) -> bool:
    """Whether a file of size 0 has content."""
    try:
        return bool(os.pread(fd, 4096, 0))
    except BlockingIOError:
        return True


class FileTarget(Protocol):
    """The target of a fetched file. Each method raises OSError.

    Attributes:
        version: digest of the complete file, if a part of it exists; None: unknown.
    """

    version: bytes | None

    @property
    def size(self) -> int:
        """Bytes that exist already."""
        ...

    def prepare(self) -> bool:
        """Hash one block of an earlier transfer's part. Call it until it returns True."""
        ...

    def restart(self, version: bytes) -> None:
        """Start again from the beginning, with this version of the file."""
        ...

    def write(self, data: bytes) -> None: ...

    @property
    def digest(self) -> bytes:
        """SHA-256 of the existing bytes."""
        ...

    def commit(self) -> None:
        """Finish: the file is complete, and its digest is right."""
        ...

    def close(self) -> None:
        """Stop; the part can be resumed. Never waits."""
        ...


def _stem(name: str) -> str:
    """The start of a part's name; a long name is replaced by its hash, to leave room for the digest."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= _MOST_STEM_BYTES else hashlib.sha256(encoded).hexdigest()


class PathTarget:
    """A path. An incomplete file is `.<name>.<digest>.part` beside it; the next transfer resumes it.

    Fails before the transfer if the folder does not exist or does not accept the name, or if the path exists.
    A lock on the part lets one transfer at a time write to a path. The file gets mode 0666 less the umask, or
    the mode of the file that it replaces.

    Raises:
        LocalTunnelError: the path exists and must not be replaced, or is not a regular file; another transfer
            writes to it. OSError: the folder does not exist, is not writable, or does not accept the name.
    Raises, from `restart` and `commit`: LocalTunnelError: something has appeared at the path meanwhile, or
        its folder was removed or replaced. OSError: the disk.
    """

    def __init__(self, path: Path, *, replace: bool) -> None:
        try:
            os.fsencode(path)
        except UnicodeEncodeError as error:
            raise LocalTunnelError(
                f"this system's locale cannot represent the name {path.name!r}: choose another name, "
                "or set LC_ALL=C.UTF-8"
            ) from error
        self._path = path
        self._replace = replace
        self._mode = self._check_target()
        self.version: bytes | None = None
        self._left_bytes = 0
        if parts := _parts(path):
            self.version = parts[0][0]
            self._part = self._open(self.version)
            self._left_bytes = os.lstat(self._part.path).st_size
            with contextlib.suppress(OSError):
                os.unlink(_part_path(self._path, NO_DIGEST))  # a killed process left it
        else:
            # The digest is not known yet. This part shows that the folder accepts the name, and is the lock.
            self._part = self._open(NO_DIGEST)

    @property
    def size(self) -> int:
        return self._part.size

    @property
    def digest(self) -> bytes:
        return self._part.digest

    def prepare(self) -> bool:
        return self._part.rehash(self._left_bytes)

    def restart(self, version: bytes) -> None:
        before = self._part
        if version == self.version:
            before.discard()  # it has the name and the lock of the new part
        with _still_there(self._path.parent):
            self._part = self._open(version)
        self.version = version
        self._left_bytes = 0
        before.discard()

    def write(self, data: bytes) -> None:
        self._part.write(data)

    def commit(self) -> None:
        with _still_there(self._path.parent):
            try:
                self._check_target()
                self._part.commit(self._path, replace=self._replace, mode=self._mode)
            except (FileExistsError, IsADirectoryError, LocalTunnelError) as error:
                kept = f"; the content is kept in {self._part.path.name!r}" if self.size else ""
                raise LocalTunnelError(
                    f"{str(self._path)!r} appeared during the transfer, and is not replaced{kept}",
                    "move it away, or allow replacing it (replace=True, --replace), and repeat the transfer: "
                    "nothing is fetched again",
                ) from error

    def close(self) -> None:
        if self.version is None or not (self._part.size or self._left_bytes):
            # Nothing was received. If the empty part cannot be removed, the folder's own error is on its way.
            with contextlib.suppress(OSError):
                self._part.discard()
        else:
            self._part.close()

    def _check_target(self) -> int | None:
        """Check that the path can be written. Returns the mode of the file that will be replaced, if any."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return None
        if not self._replace:
            raise LocalTunnelError(f"{str(self._path)!r} exists; choose another name, or allow replacing it")
        if stat.S_ISLNK(found.st_mode):
            return None
        # A rename would replace a device by a file, for all programs of the machine.
        if not stat.S_ISREG(found.st_mode):
            raise LocalTunnelError(
                f"{str(self._path)!r} is {kind_of(found.st_mode)}, not a regular file, and is not replaced; "
                "choose another name"
            )
        return found.st_mode & 0o777

    def _open(self, version: bytes) -> PartialFile:
        try:
            part = PartialFile(_part_path(self._path, version), mode=0o666, lock_wait_s=_LOCK_WAIT_S)
        except BlockingIOError as error:
            raise LocalTunnelError(
                f"another transfer to {str(self._path)!r} is under way; wait for its end, "
                "or choose another name"
            ) from error
        except OSError as error:
            error.filename = os.fspath(self._path)  # the name that the user knows
            raise
        try:
            self._mode = self._check_target()  # the transfer that held the lock may have ended
        except BaseException:
            part.discard()
            raise
        return part


def _part_path(path: Path, version: bytes) -> Path:
    return path.with_name(f".{_stem(path.name)}.{version.hex()}.part")


def keep_as_part(path: Path) -> None:
    """Keep the file at a path as a part, with which the next `get` to this path continues. Blocks.

    If the other end still has the same content, nothing is fetched again.

    Raises:
        LocalTunnelError: not a regular file. OSError.
    """
    with naming(path), os.fdopen(open_regular(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    path.rename(_part_path(path, digest))


@contextlib.contextmanager
def _still_there(folder: Path) -> Iterator[None]:
    """Raise LocalTunnelError: another program has removed or replaced the folder of a target meanwhile."""
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise
        raise LocalTunnelError(
            f"the folder {str(folder)!r}, or the unfinished file in it, was removed or replaced during the "
            "transfer",
            "make the folder again if it is missing, and repeat the transfer",
        ) from error


def resumable_bytes(path: Path) -> int:
    """Bytes that an interrupted `get` to `path` has left beside it. Raises OSError."""
    return max((size for _, size in _parts(path)), default=0)


def _parts(path: Path) -> list[tuple[bytes, int]]:
    """Digest and size of each part that interrupted transfers to a path have left, newest first.

    Raises OSError: the folder does not exist.
    """
    pattern = re.compile(re.escape(f".{_stem(path.name)}.") + r"([0-9a-f]{64})\.part")
    try:
        names = os.listdir(path.parent)
    except PermissionError:
        return []  # a folder may accept files and not list them
    found = []
    for name in names:
        if (match := pattern.fullmatch(name)) and (version := bytes.fromhex(match[1])) != NO_DIGEST:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path.with_name(name))
                found.append((status.st_mtime_ns, version, status.st_size))
    return [(version, size) for _, version, size in sorted(found, reverse=True)]


class ObjectTarget:
    """An open binary file, written from its current place. It resumes within one call, and cannot start again
    once bytes were written."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self.version: bytes | None = None
        self._file = file
        self._sha256 = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        return self._sha256.digest()

    def prepare(self) -> bool:
        return True

    def restart(self, version: bytes) -> None:
        if self.size:
            raise LocalTunnelError(
                "the file has changed at the other end, and the bytes already written cannot be removed: "
                "start again, or fetch it to a path"
            )
        self.version = version

    def write(self, data: bytes) -> None:
        if data:
            write_all(self._file, byte_view(data))
            self._sha256.update(data)
            self.size += len(data)

    def commit(self) -> None:
        self._file.flush()

    def close(self) -> None:
        pass
