"""Files of secrets: mode 0600, whole or not at all.

Written to a new name first, synced, then renamed, so that a crash leaves the old file or the new one. The new
name is made afresh and never followed, whatever somebody has prepared there.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["remove_file", "write_private"]


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path`. Raises OSError; then the old file is as it was."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path)


def remove_file(path: Path) -> None:
    """Remove `path`, and return when the disk knows. Raises OSError."""
    path.unlink()
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    """A rename or removal is durable only once its folder is."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
