"""Files of secrets: mode 0600, whole or not at all.

Written to a new name first, synced, then renamed, so that a crash leaves the old file or the new one. The new
name is made afresh and never followed, whatever somebody has prepared there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from tunnel.disk import naming, sync_folder

__all__ = ["make_private", "remove_file", "write_private"]

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
