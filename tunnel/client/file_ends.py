"""Where the files of this side come from and go to: a path or an open file. All of it blocks, for threads."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from tunnel.errors import LocalTunnelError
from tunnel.services.partial_file import BLOCK_BYTES, PartialFile
from tunnel.services.thread_file import ThreadFile

__all__ = ["ObjectTarget", "PathTarget", "SourceFile", "Target"]

_MOST_STEM_BYTES: Final = 180  # 71 come before and behind it, and a name has at most 255


class SourceFile:
    """A file to be stored elsewhere.

    Args:
        source: a path, or a binary file that can be read from any place; it must not change meanwhile.
    Attributes:
        size: its bytes. digest: its SHA-256, once `prepare` has returned True.
    Raises:
        OSError: it cannot be read. LocalTunnelError: a file object without `seek`.
    """

    def __init__(self, source: str | Path | BinaryIO) -> None:
        self._object: BinaryIO | None = None
        self._file: ThreadFile | None = None
        if isinstance(source, str | Path):
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            self._file = ThreadFile(fd)
            self.size = os.fstat(fd).st_size
        else:
            if not source.seekable():
                raise LocalTunnelError("a file to be stored is read twice: give one that can seek, or a path")
            self._object = source
            self.size = source.seek(0, os.SEEK_END)
        self._place = 0
        self._sha256 = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        return self._sha256.digest()

    def prepare(self) -> bool:
        """Hash a part of it; again until True."""
        data = self.read(BLOCK_BYTES)
        self._sha256.update(data)
        return not data

    def start(self, offset: int) -> None:
        """Read from here on."""
        self._place = offset

    def read(self, limit_bytes: int) -> bytes:
        """The next bytes; b"" at the end."""
        if self._object is not None:
            self._object.seek(self._place)
            data = self._object.read(limit_bytes)
        else:
            assert self._file is not None
            with self._file.using() as fd:
                data = os.pread(fd, limit_bytes, self._place)
        self._place += len(data)
        return data

    def close(self) -> None:
        """Close what was opened here. Never waits."""
        if self._file is not None:
            self._file.close()


class Target(Protocol):
    """Where a fetched file goes. Each method raises OSError.

    Attributes:
        version: the digest of the file that what is here is a part of; None: not known.
    """

    version: bytes | None

    @property
    def size(self) -> int:
        """What is here, in bytes."""
        ...

    def prepare(self) -> bool:
        """Hash a part of what an earlier run has left; again until True."""
        ...

    def restart(self, version: bytes) -> None:
        """Begin anew, with this version of the file."""
        ...

    def write(self, data: bytes) -> None: ...

    @property
    def digest(self) -> bytes:
        """Of what is here."""
        ...

    def commit(self) -> None:
        """It is whole, and the digest fits."""
        ...

    def close(self) -> None:
        """Stop; what is here may be resumed. Never waits."""
        ...


def _stem(name: str) -> str:
    """What the name of a part begins with: a long name and a digest together are too long for one."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= _MOST_STEM_BYTES else hashlib.sha256(encoded).hexdigest()


class PathTarget:
    """A path; what is not whole is `.<name>.<digest>.part` beside it, and is resumed another time.

    Raises:
        LocalTunnelError: something is there, and is not to be replaced, or is no file. OSError.
    """

    def __init__(self, path: Path, *, replace: bool) -> None:
        if os.path.lexists(path):
            if not replace:
                raise LocalTunnelError(f"{path} exists; choose another name, or have it replaced")
            # A rename would put a file in the place of a device, for every program of the machine.
            if not (path.is_symlink() or path.is_file()):
                raise LocalTunnelError(f"{path} is no regular file, and is not replaced; choose another name")
        self.version: bytes | None = None
        self._path = path
        self._replace = replace
        self._part: PartialFile | None = None
        self._left_bytes = 0
        pattern = re.compile(re.escape(f".{_stem(path.name)}.") + r"([0-9a-f]{64})\.part")
        for name in os.listdir(path.parent):
            if found := pattern.fullmatch(name):
                self._open(bytes.fromhex(found[1]))
                self._left_bytes = os.lstat(self._part_path(self._version)).st_size
                break

    @property
    def size(self) -> int:
        return 0 if self._part is None else self._part.size

    @property
    def digest(self) -> bytes:
        assert self._part is not None
        return self._part.digest

    @property
    def _version(self) -> bytes:
        assert self.version is not None
        return self.version

    def prepare(self) -> bool:
        return self._part is None or self._part.rehash(self._left_bytes)

    def restart(self, version: bytes) -> None:
        if self._part is not None:
            self._part.discard()
        self._left_bytes = 0
        self._open(version)

    def write(self, data: bytes) -> None:
        assert self._part is not None
        self._part.write(data)

    def commit(self) -> None:
        assert self._part is not None
        self._part.commit(self._path, replace=self._replace)

    def close(self) -> None:
        if self._part is not None:
            self._part.close()

    def _part_path(self, version: bytes) -> Path:
        return self._path.with_name(f".{_stem(self._path.name)}.{version.hex()}.part")

    def _open(self, version: bytes) -> None:
        self._part = PartialFile(self._part_path(version))
        self.version = version


class ObjectTarget:
    """An open binary file, written from where it stands; resumed within one call. It cannot begin anew once
    bytes
    are in it."""

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
                "the file has changed at the other end, and what was written of it cannot be taken back: "
                "begin anew, or fetch it to a path"
            )
        self.version = version

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            taken = self._file.write(view)
            if not taken:
                raise OSError("the file to write to takes no more")
            self._sha256.update(view[:taken])
            self.size += taken
            view = view[taken:]

    def commit(self) -> None:
        self._file.flush()

    def close(self) -> None:
        pass
