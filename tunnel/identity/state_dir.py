"""The state folder of a node: small private files, for one node at a time.

    lock     locked (flock) while a node uses the folder; the system releases it with the process
    keys     every secret of the node (tunnel/identity/keys.py)
    replay   the replay tables after a clean stop (key_ring.py); missing while a node runs and after a
             crash, and then the next start makes a new onion key
    others   by name, with `read` and `write`, such as the guards

A file of `write` begins with the line "mtun-state NAME VERSION DIGEST": a damaged, truncated or foreign file
is refused whole. The folder has mode 0700, its files 0600. As in ssh, files that others could have read or
written are refused.

Files of secrets are written to a new name first, synced, then renamed, so a crash leaves either the old file
or the new one. The new name is created exclusively and never followed as a link.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import stat
from pathlib import Path
from typing import Final, Self

from tunnel.arguments import EnteredOnce
from tunnel.disk import naming, open_regular, read_regular, sync_folder
from tunnel.errors import LocalTunnelError, StateError, StateInUse

__all__ = ["StateDir", "check_private", "make_private", "remove_file", "take_lock", "write_private"]


_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_MOST_BYTES: Final = 64 << 20  # larger than any state file; a foreign file is not read whole
_HEAD: Final = re.compile(rb"mtun-state ([a-z-]+) (\d{1,9}) ([0-9a-f]{64})\n")


def make_private(path: Path, data: bytes) -> None:
    """Write `data` to `path`, which must not exist: of several concurrent calls, one succeeds.

    After a crash the file may be incomplete.

    Raises:
        FileExistsError: it exists, and is unchanged. OSError: nothing was written.
    """
    _write_new(path, data)
    try:
        sync_folder(path.parent)
    except BaseException:
        path.unlink()
        raise


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path`, atomically. Raises OSError, with the old file unchanged."""
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
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error  # without the temporary name
    sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Remove `path` durably. Raises OSError."""
    path.unlink()
    sync_folder(path.parent)


def _write_new(path: Path, data: bytes) -> None:
    """Raises FileExistsError, OSError; an incomplete file is removed."""
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


class StateDir(EnteredOnce):
    """The state folder of one node, locked until `close`. A context manager.

    Args:
        path: created with mode 0700 if it is missing.
    Raises:
        StateInUse: a running node uses it. StateError: it is not private, or it is not a folder.
        OSError: it cannot be created or opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = self._acquire()

    def _acquire(self) -> int:
        """Create the folder if it is missing, and lock it. Returns the file descriptor of the lock."""
        path = self.path
        if path.exists() and not path.is_dir():
            raise StateError(f"{path} is not a folder", "name another one: [node] state")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(path)
        return take_lock(
            path / "lock",
            f"{path} is in use by a running node",
            "stop that node first, or wait some seconds if it is stopping; another node needs a state "
            "folder of its own ([node] state)",
        )

    @property
    def is_here(self) -> bool:
        """The folder is still the one that was locked, and has not been removed."""
        try:
            return os.path.samestat(os.stat(self.path / "lock"), os.fstat(self._lock))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def restore(self) -> bool:
        """Recreate and lock the folder if it was removed while in use.

        Returns:
            Whether it was removed, together with its files.
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
        """Path of the replay tables after a clean stop."""
        return self.path / "replay"

    def read(self, name: str, version: int) -> bytes | None:
        """Read a file of `write`. None: no such file exists.

        Raises:
            StateError: damaged, of another version, or foreign; has a remedy. OSError.
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
            raise StateError(f"{path} is not a state file called {name!r}", advice)
        if int(head[2]) != version:
            raise StateError(f"{path} has version {int(head[2])}, this program reads {version}", advice)
        body = data[head.end() :]
        if len(data) > _MOST_BYTES or hashlib.sha256(body).hexdigest() != head[3].decode("ascii"):
            raise StateError(f"{path} is damaged: wrong digest", advice)
        return body

    def write(self, name: str, version: int, body: bytes) -> None:
        """Write a file atomically, mode 0600. Raises OSError, with the old file unchanged.

        Args:
            name: lower-case letters and dashes.
        Raises:
            ValueError: an invalid name, or more than 64 MiB.
        """
        head = f"mtun-state {name} {version} {hashlib.sha256(body).hexdigest()}\n".encode("ascii")
        if _HEAD.fullmatch(head) is None or len(head) + len(body) > _MOST_BYTES:
            raise ValueError(f"a state file called {name!r} of {len(body)} bytes")
        write_private(self.path / name, head + body)

    def close(self) -> None:
        """Release the lock. Repeated calls have no effect."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> Self:
        return self.enter_once("state folder", "with StateDir(path) as state", is_closed=self._lock < 0)

    def __exit__(self, *_: object) -> None:
        self.close()


def take_lock(path: Path, refusal: str, hint: str) -> int:
    """Lock a file for this process, and write the process id into it.

    Args:
        refusal, hint: of the error, for people.
    Returns:
        The file descriptor; closing it releases the lock.
    Raises:
        StateInUse: another process holds it. StateError: not a regular file. OSError.
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
        raise StateInUse(refusal, hint, holder) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def check_private(path: Path, error: type[LocalTunnelError] = StateError) -> None:
    """Check that a file or folder of secrets is private.

    Args:
        error: the class to raise.
    Raises:
        StateError: other users can access it, or another user owns it. OSError: it is missing.
    """
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        right = "700" if path.is_dir() else "600"
        raise error(
            f"{path} has mode {mode:03o}: others could read it", f"chmod {right} {shlex.quote(str(path))}"
        )
    if found.st_uid != os.geteuid():
        raise error(f"{path} is owned by user {found.st_uid}", "run the command as its owner")
