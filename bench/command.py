"""The common part of the benchmarks' command lines: parser, progress, outputs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

from bench.plots import can_draw
from bench.report import machine, write_json

__all__ = ["count", "make_parser", "positive", "positive_count", "run", "settings_of", "watcher"]

S = TypeVar("S")


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


def settings_of(options: argparse.Namespace, kind: type[S]) -> S:
    """Return a benchmark's settings: its (short) form with the options of the same names that were given."""
    base: Any = kind.short() if getattr(options, "short", False) else kind()  # type: ignore[attr-defined]
    given = {field.name: getattr(options, field.name, None) for field in fields(base)}
    changes = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }
    settings: S = replace(base, **changes)
    return settings


def count(value: str) -> int:
    """A number of 0 or more, for `type=`."""
    return _at_least(0, int(value))


def positive_count(value: str) -> int:
    """A number of 1 or more, for `type=`."""
    return _at_least(1, int(value))


def _at_least(least: int, number: int) -> int:
    if number < least:
        raise argparse.ArgumentTypeError(f"{number} is less than {least}")
    return number


def positive(value: str) -> float:
    """A number above 0, for `type=`."""
    number = float(value)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{number} is not more than 0")
    return number


def watcher() -> Callable[[str], None]:
    """Return a function that prints a line of progress on standard error, if that is a terminal."""
    is_watched = sys.stderr.isatty()
    return lambda line: print(line, file=sys.stderr) if is_watched else None


def run(
    options: argparse.Namespace,
    settings: Any,
    measure: Callable[[], tuple[Any, ...]],
    text: Callable[..., str],
    record: Callable[..., dict[str, Any]],
    plot: Callable[..., None] | None = None,
) -> int:
    """Measure, and write the figures to the outputs that `options` select.

    Args:
        measure: returns the results. text, record: called with the settings, all results and the machine.
        plot: called with all results, the machine and the file to draw into.
    Returns:
        The exit status: 0, or 2 if `--plot` cannot draw; then nothing was measured.
    """
    picture = None if plot is None else options.plot
    if picture is not None and not can_draw():
        return 2
    where = machine()
    found = (*measure(), where)
    if options.json != "-":
        print(text(settings, *found))
    if options.json is not None:
        write_json(record(settings, *found), options.json)
    if plot is not None and picture is not None:
        plot(*found, picture)
    return 0
