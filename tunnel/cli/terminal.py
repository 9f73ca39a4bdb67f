"""Output on a terminal: safe text, byte counts for people, tables, a progress bar.

All output of a command goes through `say` and `complain`. Names of files, nodes and peers come from outside,
so their control characters are escaped: no name can move the cursor or clear the screen. Letters that the
terminal's encoding lacks are replaced (`_ascii_fallback`), so that no command fails because of them.

A command that cannot write its result fails; a closed pipe counts as SIGPIPE. A command that serves others
(`node`, `publish`, `socks`, `forward`, `up`) continues without its output (`going_on`). A lost stderr never
ends a command. After a loss, later output goes to /dev/null (`drop_output`). Otherwise the interpreter would
try to write the rest of the buffer at exit, and change the exit status to 120.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import logging
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

__all__ = [
    "STDOUT_NAME",
    "ProgressBar",
    "complain",
    "drop_output",
    "going_on",
    "lose_stderr",
    "prepare_output",
    "printable",
    "readable_size",
    "say",
    "say_all",
    "say_json",
    "table",
]

log = logging.getLogger("tunnel.cli")

_FALLBACK = "mtun-ascii"
_ASCII = {"─": "-", "…": "...", "–": "-", "█": "#", "░": ".", "×": "x"}
STDOUT_NAME = "standard output"
_KEPT = "\u00a0\u3000\u200c\u200d"  # spaces and letter joiners that `isprintable` excludes


def _ascii_fallback(error: UnicodeError) -> tuple[str, int]:
    """The error handler of a codec: similar letters, or an escape."""
    assert isinstance(error, UnicodeEncodeError)
    part = error.object[error.start : error.end]
    return "".join(_ASCII.get(letter) or _escaped(letter) for letter in part), error.end


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte of a file name that was not text
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")


def printable(text: str) -> str:
    """The text on one line, with every control character as an escape."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in _KEPT else _escaped(letter) for letter in text)


def prepare_output() -> None:
    """Let stdout and stderr replace characters that they cannot encode, unless the user chose otherwise."""
    codecs.register_error(_FALLBACK, _ascii_fallback)
    for stream in (sys.stdout, sys.stderr):
        # None where it was closed before the program began. "surrogateescape" is what the C locale sets.
        if isinstance(stream, io.TextIOWrapper) and stream.errors in (
            "strict",
            "surrogateescape",
            "backslashreplace",
        ):
            stream.reconfigure(errors=_FALLBACK)


def say(text: str = "") -> None:
    """Print lines on stdout and flush: a reader may be waiting for them."""
    _print(text, sys.stdout)


def say_json(ok: bool, outcome: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Print one JSON object on stdout. `ok`: whether the command, or the reported event, succeeded."""
    _print(json.dumps({"ok": ok, **outcome}, indent=indent), sys.stdout)


def complain(text: str) -> None:
    """Print lines on stderr, if it is open."""
    try:
        _print(text, sys.stderr)
    except OSError as error:
        lose_stderr(error)


def lose_stderr(error: OSError) -> None:
    """After a failed write to stderr: drop stderr if its reader is gone. A full disk may get room."""
    if error.errno in (errno.EPIPE, errno.EIO):
        drop_output(sys.stderr)


@contextlib.contextmanager
def going_on() -> Iterator[None]:
    """For commands that serve others: continue when stdout is lost (closed terminal or pipe, full disk)."""
    try:
        yield
    except OSError as error:
        if error.filename != STDOUT_NAME:
            raise
        drop_output(sys.stdout)
        log.warning("%s: %s; continuing without it", STDOUT_NAME, error.strerror)


def drop_output(stream: TextIO | None) -> None:
    """Send the later output of a stream to /dev/null, including that of the interpreter at exit."""
    if stream is not None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # without a descriptor, or closed
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def say_all() -> None:
    """Flush stdout. Raises OSError, with the name of stdout."""
    if sys.stdout is not None:
        with _named():
            sys.stdout.flush()


def _print(text: str, stream: TextIO | None) -> None:
    if stream is not None:  # `print` would take stdout in place of a closed stderr
        with _named():
            print("\n".join(printable(line) for line in text.split("\n")), file=stream, flush=True)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, STDOUT_NAME) from error


def readable_size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def text_width(text: str) -> int:
    """Columns on a terminal: East Asian letters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def _columns() -> int | None:
    """The width of stdout; None if it is not a terminal, so that lines may have any length."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, columns: int | None = None) -> str:
    """A table with columns of minimal width; the first three are aligned left, the others right.

    If the terminal is too narrow, each row becomes a block of lines, "head  cell", so that nothing is cut.

    Args:
        columns: the width to fit; None: the width of the terminal, or any.
    """
    columns = _columns() if columns is None else columns
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(text_width(row[i]) for row in (heads, *cells)) for i in range(len(heads))]
    for gap in (2, 1):
        if columns is None or sum(widths) + gap * (len(widths) - 1) <= columns:
            return _rows(heads, cells, widths, gap)
    label = max(map(text_width, heads))
    blocks = [
        "\n".join(
            f"{head}{' ' * (label - text_width(head))}  {cell}"
            for head, cell in zip(heads, row, strict=True)
            if cell
        )
        for row in cells
    ]
    return "\n\n".join(blocks)


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], gap: int) -> str:
    lines = []
    for row in (heads, ["─" * width for width in widths], *rows):
        padded = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            fill = " " * (width - text_width(cell))
            padded.append(cell + fill if i < 3 else fill + cell)
        lines.append((" " * gap).join(padded).rstrip())
    return "\n".join(lines)


class ProgressBar:
    """A bar on stderr, if that is a terminal and the work takes longer than a second.

    Args:
        total: the final count, in bytes or in `unit`.
        unit: shown behind the count; None: bytes.
    """

    _WIDTH = 40

    def __init__(self, total: int, *, enabled: bool, unit: str | None = None) -> None:
        self._total = max(1, total)
        self._unit = unit
        # None where it was closed before the program began.
        is_terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._enabled = enabled and is_terminal
        self._next_s = time.monotonic() + 1
        self._start: tuple[float, int] | None = None
        self._is_shown = False

    def update(self, done: int) -> None:
        """Show `done` of the total; cheap when there is nothing to show yet."""
        now_s = time.monotonic()
        if not self._enabled:
            return
        if self._start is None:
            self._start = now_s, done  # excludes the earlier part of a resumed transfer from the rate
        if now_s < self._next_s:
            return
        self._next_s = now_s + 0.1
        self._is_shown = True
        started_s, before = self._start
        rate = (done - before) / (now_s - started_s) if now_s > started_s else 0.0
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        except OSError:
            columns = 80
        self._write(f"\r{self.line(done, rate, columns)}\x1b[K")

    def line(self, done: int, rate: float, columns: int) -> str:
        """The bar and its figures, in fewer than `columns` columns; the least important figures go first.

        Args:
            rate: in units per second.
        """
        part = min(1.0, done / self._total)
        if self._unit is None:
            shown = [f"{part:4.0%}", readable_size(done)]
            if rate > 0:
                shown += [f"{readable_size(rate)}/s", f"{_clock((self._total - done) / rate)} left"]
        else:
            shown = [f"{part:4.0%}", f"{done}{self._unit}"]
        while len(shown) > 1 and len(" ".join(shown)) >= columns:
            del shown[1]
        text = " ".join(shown)
        width = min(self._WIDTH, columns - len(text) - 2)
        if width < 4:
            return text[: max(0, columns - 1)]
        return f"{('█' * round(part * width)).ljust(width, '░')} {text}"

    def close(self) -> None:
        if self._is_shown:
            self._is_shown = False
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError as error:
            lose_stderr(error)  # a closed terminal does not end the transfer


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours > 99:
        return "many hours"
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
