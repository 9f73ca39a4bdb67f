"""`mtun`: the parser, and one place where errors become lines on stderr and an exit status.

0 = done, 1 = failed, 2 = wrong use. An error is one line `error:` and, where something helps, lines `hint:`.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from readwrite_comp import EngineUnavailable
from tunnel.cli import bench, demo, files, keygen, network, node, peers, ping, route, up
from tunnel.codes import CODES
from tunnel.errors import (
    BadRoute,
    ConfigError,
    FilesError,
    ProfileError,
    QueryFailed,
    TooManyFiles,
    TunnelError,
)
from tunnel.services import FileStatus

__all__ = ["main", "make_parser"]

_FILES_HINTS: dict[int, str] = {
    FileStatus.NOT_FOUND: "without NAME, mtun get lists what is there",
    FileStatus.EXISTS: "other content has that name there: give another --name",
    FileStatus.FULL: "its owner can raise [files] quota_bytes",
    FileStatus.DENIED: "its owner does not offer this: [files] may_get, may_put, may_list",
}
_COMMANDS = (demo, network, up, keygen, node, ping, files, peers, route, bench)
_HINTS: dict[type[Exception], str] = {
    ProfileError: "profile `long` holds 126 proxies, `default` and `bulk` 30, `interactive` 6",
    TooManyFiles: "or use fewer --peers",
    EngineUnavailable: "--engine auto takes whichever is installed",
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="mtun",
        description="Multi-hop tunnels: send content through peers that you chose, and get an answer.",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more (-vv: everything)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    options = make_parser().parse_args(arguments)
    level = [logging.ERROR, logging.INFO, logging.DEBUG][min(options.verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A table's lines, or a file's name, are no reason to fail where the terminal has no such letters.
        sys.stdout.reconfigure(errors="backslashreplace")
    status = _run(options)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # What it does not take now the interpreter would try again at its end, and complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return status or _report(error)
    return status


def _run(options: argparse.Namespace) -> int:
    try:
        return int(options.run(options))
    except (TunnelError, EngineUnavailable, OSError) as error:
        return _report(error)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 1


def _report(error: Exception) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    print(f"error: {text}", file=sys.stderr)
    if hint := _hint(error):
        print(f"hint: {hint}", file=sys.stderr)
    return 2 if isinstance(error, BadRoute | ConfigError | ProfileError | EngineUnavailable) else 1


def _hint(error: Exception) -> str:
    if isinstance(error, QueryFailed) and error.code is not None:
        return CODES[error.code].advice
    general = next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), "")
    if isinstance(error, FilesError):
        return _FILES_HINTS.get(error.status, "")
    return getattr(error, "hint", "") or general
