"""Files of secrets: mode 0600, whole or not at all.

Written to a new name first, synced, then renamed, so that a crash leaves the old file or the new one. The new
name is made afresh and never followed, whatever somebody has prepared there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["make_private", "remove_file", "write_private"]

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def make_private(path: Path, data: bytes) -> None:
    """Write `data` to `path`, which does not exist yet: of several who try, one does.

    Raises:
        FileExistsError: it exists; it is as it was. OSError: nothing is there. After a crash a part may be.
    """
    descriptor = os.open(path, _NEW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, data)
        _sync_folder(path)
    except BaseException:
        path.unlink()
        raise


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path`. Raises OSError; then the old file is as it was."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, _NEW, 0o600), "wb") as file:
        _write(file, data)
    temporary.replace(path)
    _sync_folder(path)


def remove_file(path: Path) -> None:
    """Remove `path`, and return when the disk knows. Raises OSError."""
    path.unlink()
    _sync_folder(path)


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """A rename or removal is durable only once its folder is."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
