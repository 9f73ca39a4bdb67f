"""What a node keeps between runs: a folder of small private files, for one node at a time.

    lock     held (flock) while a node uses the folder; the system lets go of it with the process
    keys     every secret of the node (tunnel/identity/keys.py)
    replay   the replay tables of a run that was stopped in order (key_ring.py); not there while a node
             runs, nor after a crash: then the next start makes a new onion key
    others   by name, with `read` and `write`: guards, for one

A file of `write` begins with one line, "mtun-state NAME VERSION DIGEST", so that a damaged, cut or foreign
file is refused whole and never half understood. The folder has mode 0700 and its files 0600; what others
could have read or written is refused, as ssh does with its keys.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Final, Self

from tunnel.disk import naming, open_regular, read_regular, sync_folder
from tunnel.errors import LocalTunnelError, StateError

__all__ = ["StateDir", "check_private", "make_private", "remove_file", "take_lock", "write_private"]


# Files of secrets: mode 0600, whole or not at all.
#
# Written to a new name first, synced, then renamed, so that a crash leaves the old file or the new one. The
# new name is made afresh and never followed, whatever somebody has prepared there.
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def make_private(path: Path, data: bytes) -> None:
    """Write `data` to `path`, which does not exist yet: of several who try, one does.

    Raises:
        FileExistsError: it exists; it is as it was. OSError: nothing is there. After a crash a part may be.
    """
    _write_new(path, data)
    try:
        sync_folder(path.parent)
    except BaseException:
        path.unlink()
        raise


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path`. Raises OSError, which names `path`; then the old file is as it was."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.unlink(missing_ok=True)
        _write_new(temporary, data)
        try:
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error  # not the temporary's name
    sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Remove `path`, and return when the disk knows. Raises OSError."""
    path.unlink()
    sync_folder(path.parent)


def _write_new(path: Path, data: bytes) -> None:
    """Raises FileExistsError, OSError; a file that was begun is removed again."""
    descriptor = os.open(path, _NEW, 0o600)
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


_MOST_BYTES = 64 << 20  # larger than anything a node keeps; a foreign file is not read to its end
_HEAD = re.compile(rb"mtun-state ([a-z-]+) (\d+) ([0-9a-f]{64})\n")


class StateDir:
    """The state folder of one node, locked. A context manager; `close` lets go of the lock.

    Args:
        path: made, with mode 0700, if it is not there.
    Raises:
        StateError: another node uses it, it is not private, or it is not a folder.
        OSError: it cannot be made or opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = self._acquire()

    def _acquire(self) -> int:
        """Make the folder if it is not there, and lock it. Returns the descriptor of the lock."""
        path = self.path
        if path.exists() and not path.is_dir():
            raise StateError(f"{path} is not a folder", "name another one: [node] state")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(path)
        return take_lock(
            path / "lock",
            f"{path} is in use by another node",
            "stop that one first, or give this node a state folder of its own",
        )

    @property
    def is_here(self) -> bool:
        """Whether the folder is the one that was locked; not, if somebody has removed it since."""
        try:
            return os.path.samestat(os.stat(self.path / "lock"), os.fstat(self._lock))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def restore(self) -> bool:
        """Make the folder again, and lock it, if somebody has removed it while it was in use.

        Returns:
            Whether it was removed: then its files are gone as well.
        Raises:
            StateError, OSError: as the class; the folder may still be missing.
        """
        if self.is_here:
            return False
        before, self._lock = self._lock, self._acquire()
        os.close(before)
        return True

    @property
    def replay(self) -> Path:
        """Where the replay tables are after a clean stop."""
        return self.path / "replay"

    def read(self, name: str, version: int) -> bytes | None:
        """What `write` has written, or None when there is no such file.

        Raises:
            StateError: damaged, of another version, or another file; says what to do. OSError.
        """
        path = self.path / name
        advice = f"move {path} away: the node then makes a new one"
        try:
            data = read_regular(path, _MOST_BYTES, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except LocalTunnelError as error:
            raise StateError(str(error), advice) from error
        check_private(path)
        head = _HEAD.match(data)
        if head is None or head[1].decode("ascii") != name:
            raise StateError(f"{path} is no state file called {name!r}", advice)
        if int(head[2]) != version:
            raise StateError(f"{path} has version {int(head[2])}, this program reads {version}", advice)
        body = data[head.end() :]
        if len(data) > _MOST_BYTES or hashlib.sha256(body).hexdigest() != head[3].decode("ascii"):
            raise StateError(f"{path} is damaged: its digest does not fit its content", advice)
        return body

    def write(self, name: str, version: int, body: bytes) -> None:
        """Write a file, mode 0600, whole or not at all. Raises OSError; then the old one is as it was.

        Args:
            name: lower-case letters and dashes.
        Raises:
            ValueError: another name, or more than 64 MiB.
        """
        head = f"mtun-state {name} {version} {hashlib.sha256(body).hexdigest()}\n".encode("ascii")
        if _HEAD.fullmatch(head) is None or len(head) + len(body) > _MOST_BYTES:
            raise ValueError(f"a state file called {name!r} of {len(body)} bytes")
        write_private(self.path / name, head + body)

    def close(self) -> None:
        """Let go of the lock. Done twice it does nothing."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def take_lock(path: Path, refusal: str, hint: str) -> int:
    """Lock a file for this process, and write the process's number into it.

    Args:
        refusal, hint: of the error, for people.
    Returns:
        The file descriptor; closing it lets go of the lock.
    Raises:
        StateError: another process, which the text names, holds it. OSError.
    """
    try:
        lock = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except LocalTunnelError as error:
        raise StateError(str(error), f"remove it: rm {path}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with naming(path):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise StateError(f"{refusal} (process {holder})", hint) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def check_private(path: Path) -> None:
    """Refuse a file or folder of secrets that others may read or write, or that somebody else owns.

    Raises:
        StateError: so it is. OSError: it is not there.
    """
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        right = "700" if path.is_dir() else "600"
        raise StateError(f"{path} has mode {mode:03o}: others could read it", f"chmod {right} {path}")
    if found.st_uid != os.geteuid():
        raise StateError(f"{path} is owned by user {found.st_uid}", "run the node as its owner")
