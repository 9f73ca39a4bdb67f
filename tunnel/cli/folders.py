"""Folders as tar archives: `mtun send FOLDER` packs them, `mtun get --extract` unpacks them.

The archive holds folders, regular files and symbolic links that stay inside. Times and the execute permission
are kept. Owners are not, because the archive must not name its sender. Other entries are skipped and listed
for the user.

An archive may come from a stranger, so unpacking trusts nothing in it:

* It is unpacked into a fresh folder beside the target. Links are created last, so no file's path leads
  through a link.
* A link may contain ".." only at its beginning, and may not lead above that folder. It then stays inside,
  whatever the other links are.
* Entries that take more space on the disk than in the archive (hard links, sparse files) are skipped. The
  length of a header is limited.
* Each entry must begin after the previous one. A negative length would lead back to an earlier entry, in an
  endless loop.
* Folders are nested up to a limit, because Python makes and removes them by recursion.
* Python's own extraction filter is not used, because it has holes in Python releases that are still in use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, NoReturn

from tunnel.disk import check_unchanged, kind_of, naming, open_regular
from tunnel.errors import LocalTunnelError

__all__ = ["pack_folder", "unpack_archive", "unreadable_entries"]

_MOST_HEADER_BYTES: Final = 1 << 20
_MOST_LEVELS: Final = 200
_COPY_BYTES: Final = 1 << 18


def pack_folder(folder: Path, archive: BinaryIO) -> list[str]:
    """Write a tar archive of a folder; its members are called `<name of the folder>/…`.

    Equal folders give equal archives, so that an interrupted transfer can be resumed.

    Returns:
        The skipped entries, for people: "a/pipe: a FIFO (named pipe)".
    Raises:
        FileChanged: a file changed while it was read. OSError: something cannot be read, or the archive
        cannot be written.
    """
    top = Path(os.path.realpath(folder))
    name = Path(os.path.abspath(folder)).name or "root"  # of a link: its own name, not its target's
    skipped: list[str] = []
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for here, folders, files in os.walk(top, onerror=_raise):
            folders.sort()
            inside = PurePosixPath(name, *Path(here).relative_to(top).parts)
            tar.addfile(_member(inside, os.lstat(here), tarfile.DIRTYPE))
            links = [entry for entry in folders if os.path.islink(os.path.join(here, entry))]
            for entry in sorted([*files, *links]):
                if problem := _pack(tar, Path(here, entry), inside / entry):
                    skipped.append(f"{inside / entry}: {problem}")
    return skipped


def unreadable_entries(folder: Path, tick: Callable[[], None]) -> list[str]:
    """The files and folders that `pack_folder` could not read, for people: "a/b: Permission denied".

    Args:
        tick: called for each folder; what it raises ends the search.
    """
    top = os.path.realpath(folder)
    found: list[str] = []

    def add(error: OSError) -> None:
        found.append(f"{os.path.relpath(error.filename, top)}: {error.strerror}")

    for here, folders, files in os.walk(top, onerror=add):
        tick()
        folders.sort()
        for entry in sorted(files):
            path = Path(here, entry)
            try:
                if stat.S_ISREG(os.lstat(path).st_mode):
                    os.close(open_regular(path, os.O_RDONLY | os.O_NOFOLLOW))
            except OSError as error:
                add(error)
    return found


def unpack_archive(archive: Path, target: Path) -> list[str]:
    """Unpack an archive into a new folder, completely or not at all.

    An archive of a single folder becomes that folder; the members of any other are put into the new folder.

    Args:
        target: does not exist yet.
    Returns:
        The skipped entries, for people.
    Raises:
        LocalTunnelError: not a tar archive. OSError: the target exists, or cannot be written.
    """
    work = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".part", dir=target.parent))
    try:
        inside = work / "inside"
        inside.mkdir()
        with open(archive, "rb") as file:
            try:
                skipped = _unpack_all(file, inside)
            except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
                raise LocalTunnelError(f"not a valid tar archive: {error}") from error
        entries = list(inside.iterdir())
        is_folder = len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink()
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))
        os.rename(entries[0] if is_folder else inside, target)
        return skipped
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _raise(error: OSError) -> NoReturn:
    raise error


def _member(name: PurePosixPath, status: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(str(name))
    member.type = kind
    member.mtime = int(status.st_mtime)
    member.mode = 0o755 if kind == tarfile.DIRTYPE or status.st_mode & 0o100 else 0o644
    return member


def _pack(tar: tarfile.TarFile, path: Path, name: PurePosixPath) -> str:
    """Add one file or link. Returns the reason if it is skipped, otherwise an empty text."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        member = _member(name, status, tarfile.SYMTYPE)
        member.linkname = os.readlink(path)
        if not _stays_inside(name, member.linkname):
            return "a symbolic link that leads out of the folder"
        tar.addfile(member)
        return ""
    if not stat.S_ISREG(status.st_mode):
        return kind_of(status.st_mode)
    with naming(path), os.fdopen(open_regular(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        before = os.fstat(file.fileno())
        member = _member(name, before, tarfile.REGTYPE)
        member.size = before.st_size
        try:
            tar.addfile(member, file)
        finally:
            # A short read is an error without a cause in `tarfile`; this check gives the cause.
            check_unchanged(before, os.fstat(file.fileno()), repr(str(path)))
    return ""


def _stays_inside(name: PurePosixPath, link: str) -> bool:
    """Whether a link in an archive leads to a place below the archive's first folder."""
    parts = PurePosixPath(link).parts
    climbs = 0
    while climbs < len(parts) and parts[climbs] == "..":
        climbs += 1
    is_relative = bool(link) and not link.startswith("/")
    return is_relative and ".." not in parts[climbs:] and (not climbs or climbs < len(name.parts) - 1)


class _Bounded:
    """A file that refuses reads above the limit of a header: `tarfile` reads each header whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:  # a negative number would read the whole file
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _unpack_all(file: BinaryIO, inside: Path) -> list[str]:
    skipped: list[str] = []
    links: list[tuple[PurePosixPath, str]] = []
    bounded: BinaryIO = _Bounded(file)  # type: ignore[assignment]
    end = -1
    with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8") as tar:
        while (member := tar.next()) is not None:
            if tar.offset <= end:
                raise tarfile.ReadError("an entry of a negative length")
            end = tar.offset
            tar.members.clear()  # type: ignore[attr-defined]
            name = PurePosixPath(member.name)
            if member.issym() and not _bad_name(name):
                links.append((name, member.linkname))
            elif problem := _unpack(tar, member, inside):
                skipped.append(f"{name}: {problem}")
    for name, link in links:
        if problem := _make_link(inside, name, link):
            skipped.append(f"{name}: {problem}")
    return skipped


def _bad_name(name: PurePosixPath) -> str:
    """The reason to skip a member of this name, or an empty text."""
    if name.is_absolute() or ".." in name.parts:
        return "a name that leads out of the folder"
    if any(unicodedata.category(char) == "Cc" for char in str(name)):
        return "a name with control characters"
    if len(name.parts) > _MOST_LEVELS:
        return f"more than {_MOST_LEVELS} folders in each other"
    return ""


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, inside: Path) -> str:
    """Make one file or folder. Returns the reason if it is skipped, otherwise an empty text."""
    name = PurePosixPath(member.name)
    if problem := _bad_name(name):
        return problem
    try:
        if member.isdir():
            (inside / name).mkdir(parents=True, exist_ok=True)
        elif member.isreg() and not member.issparse():
            _write(tar, member, inside / name)
        else:
            return "a hard link" if member.islnk() else "neither a file nor a folder"
    except (FileExistsError, NotADirectoryError):
        return "another member has that name"
    return ""


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write one file. Raises FileExistsError, NotADirectoryError: its name, or that of a folder, is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o777 if member.mode & 0o100 else 0o666)
    with naming(path), os.fdopen(descriptor, "wb") as file:
        content = tar.extractfile(member)
        assert content is not None
        left = member.size
        while left:
            data = content.read(min(left, _COPY_BYTES))
            if not data:
                raise tarfile.ReadError("it ends early")
            file.write(data)
            left -= len(data)
        file.flush()
        with contextlib.suppress(OSError, OverflowError, ValueError):  # a time that the disk cannot hold
            os.utime(file.fileno(), (member.mtime, member.mtime))


def _make_link(inside: Path, name: PurePosixPath, link: str) -> str:
    """Make one symbolic link. Returns the reason if it is skipped, otherwise an empty text."""
    if not _stays_inside(name, link):
        return "a symbolic link that leads out of the folder"
    path = inside / name
    # Its folder must be a real one: no earlier link may be part of the path.
    if os.path.realpath(path.parent) != str((Path(os.path.realpath(inside)) / name).parent):
        return "a name that leads through a link"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(link, path)
    except (FileExistsError, NotADirectoryError):
        return "another member has that name"
    return ""
