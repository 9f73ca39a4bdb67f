"""What the terminal shows: byte counts for people, a table, a progress bar."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence

__all__ = ["ProgressBar", "parse_size", "readable_size", "table"]

_UNITS = {"": 1, "B": 1, "K": 1024, "KIB": 1024, "M": 1024**2, "MIB": 1024**2, "G": 1024**3, "GIB": 1024**3}


def parse_size(text: str) -> int:
    """Bytes of "300KiB", "1MiB", "17".

    Raises:
        argparse.ArgumentTypeError: no size; of a ValueError argparse would not show the text.
    """
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise argparse.ArgumentTypeError(f"not a size: {text!r}; expected 17, 300KiB, 1MiB or 2GiB")
    return int(match[1]) * _UNITS[match[2].upper()]


def readable_size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be; the first two to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = []
    for row in (heads, ["─" * width for width in widths], *rows):
        cells = (
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class ProgressBar:
    """A bar on stderr, if that is a terminal and the work takes longer than a second.

    Args:
        total: of what is counted: bytes, or what `unit` says.
        unit: shown behind the count; None: bytes.
    """

    _WIDTH = 40

    def __init__(self, total: int, *, enabled: bool, unit: str | None = None) -> None:
        self._total = max(1, total)
        self._unit = unit
        # None where it was closed before the program began.
        self._enabled = enabled and sys.stderr is not None and sys.stderr.isatty()
        self._next_s = time.monotonic() + 1
        self._is_shown = False

    def update(self, done: int) -> None:
        """Show `done` of the total; cheap when there is nothing to show yet."""
        now_s = time.monotonic()
        if not self._enabled or now_s < self._next_s:
            return
        self._next_s = now_s + 0.1
        self._is_shown = True
        part = min(1.0, done / self._total)
        bar = "█" * round(part * self._WIDTH)
        count = readable_size(done) if self._unit is None else f"{done}{self._unit}"
        sys.stderr.write(f"\r{bar.ljust(self._WIDTH, '░')} {part:4.0%} {count}  ")
        sys.stderr.flush()

    def close(self) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
