"""Read the output of commands on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os

__all__ = ["read_terminal"]


def read_terminal(master: int, until: str | None = None) -> str:
    """Read up to and including a word; None: until the last writer has closed the terminal."""
    shown = b""
    with contextlib.suppress(OSError):  # no writer is left
        while (until is None or until.encode() not in shown) and (data := os.read(master, 4096)):
            shown += data
    return shown.decode("utf-8", "replace")
