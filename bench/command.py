"""What the command lines of all benchmarks share: where the figures go, and who is told how far it is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from bench.plots import can_draw
from bench.report import machine, write_json

__all__ = ["add_outputs", "run", "watcher"]


def add_outputs(parser: argparse.ArgumentParser, *, plot: bool) -> None:
    """`--json`, and `--plot` where there is something to draw."""
    parser.add_argument("--json", metavar="FILE", help="write JSON too; - for JSON alone, on standard output")
    if plot:
        parser.add_argument("--plot", metavar="FILE", help="draw it; needs the extra `plot`")


def watcher() -> Callable[[str], None]:
    """Prints a line of progress on standard error, if somebody sits before it."""
    is_watched = sys.stderr.isatty()
    return lambda line: print(line, file=sys.stderr) if is_watched else None


def run(
    options: argparse.Namespace,
    measure: Callable[[], tuple[Any, ...]],
    text: Callable[..., str],
    record: Callable[..., dict[str, Any]],
    plot: Callable[..., None] | None = None,
) -> int:
    """Measure, and put the figures where `options` say.

    Args:
        measure: gives what was found. text, record: called with all of that and the machine.
        plot: called with the same and the file to draw into.
    Returns:
        The exit status: 0, or 2 where nothing can be drawn, and then nothing was measured.
    """
    picture = None if plot is None else options.plot
    if picture is not None and not can_draw():
        return 2
    where = machine()
    found = (*measure(), where)
    if options.json != "-":
        print(text(*found))
    if options.json is not None:
        write_json(record(*found), options.json)
    if plot is not None and picture is not None:
        plot(*found, picture)
    return 0
