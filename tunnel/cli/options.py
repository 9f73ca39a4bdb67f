"""What the parsers of several commands share: how a command looks in --help, and options of one meaning."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from tunnel.node.retry import MAX_RETRIES

__all__ = ["add_json", "add_retries", "command", "count", "seconds"]


def command(
    commands: Any,
    name: str,
    help_text: str,
    description: str | None,
    example: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """A subcommand's parser; its `--help` ends with the example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="JSON on stdout, nothing else")


def add_retries(parser: argparse.ArgumentParser, of: str) -> None:
    """`--retries` of queries. of: of which, for people."""
    text = f"of {of}, around proxies that failed (default 0)"
    parser.add_argument("--retries", type=count(0, MAX_RETRIES), default=0, metavar="N", help=text)


def count(least: int, most: int) -> Callable[[str], int]:
    """A whole number in a range, for `type=`."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """A time above 0, for `type=`."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds, above 0 and up to 86,400")
    return value
