"""What the command lines of all benchmarks share: parser, progress, and where the figures go."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from bench.plots import can_draw
from bench.report import machine, write_json

__all__ = ["make_parser", "run", "watcher"]


def make_parser(
    name: str, description: str, *, short: str = "", plot: bool = False, example: str = ""
) -> argparse.ArgumentParser:
    """Return a parser with `--json`.

    Args:
        name: of the module, as in `python -m`.
        description: its first line is shown.
        short: the help of `--short`, if there is a short form.
        plot: add `--plot`.
        example: arguments to show at the end of the help.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description.split("\n")[0],
        epilog=f"example: python -m {name} {example}" if example else None,
    )
    parser.add_argument("--json", metavar="FILE", help="write JSON too; - for JSON alone, on standard output")
    if plot:
        parser.add_argument("--plot", metavar="FILE", help="draw it; needs the extra `plot`")
    if short:
        parser.add_argument("--short", action="store_true", help=short)
    return parser


def watcher() -> Callable[[str], None]:
    """Return a function that prints a line of progress on standard error, if that is a terminal."""
    is_watched = sys.stderr.isatty()
    return lambda line: print(line, file=sys.stderr) if is_watched else None


def run(
    options: argparse.Namespace,
    measure: Callable[[], tuple[Any, ...]],
    text: Callable[..., str],
    record: Callable[..., dict[str, Any]],
    plot: Callable[..., None] | None = None,
) -> int:
    """Measure, and write the figures as `options` demand.

    Args:
        measure: returns the results. text, record: called with all of them and the machine.
        plot: called with the same and the file to draw into.
    Returns:
        The exit status: 0, or 2 if `--plot` cannot draw; then nothing was measured.
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
