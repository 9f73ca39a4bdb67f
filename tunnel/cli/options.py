"""The commands, their parser, and the options that several commands share.

The parser differs from `argparse` in four points. An error is a `UsageError` with a hint ("did you mean
--hops?"). An unknown option is reported before a missing argument. Options may come before, between and
after the arguments. No option may be abbreviated.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from tunnel.arguments import did_you_mean
from tunnel.cli.terminal import say
from tunnel.disk import advice_for, open_regular, os_error_text
from tunnel.errors import ConfigError, LocalTunnelError, ProfileError

if TYPE_CHECKING:
    from tunnel.geometry import Profile

__all__ = [
    "COMMANDS",
    "Parser",
    "UsageError",
    "add_retries",
    "command",
    "count",
    "filled",
    "filled_path",
    "make_folder",
    "profile",
    "readable_file",
    "seconds",
    "size",
]

COMMANDS = {
    "demo": ("demo", "send a file through nodes in this process and check the reply"),
    "network": ("network", "create a network on this machine"),
    "up": ("nodes", "run a network, one process per node"),
    "keygen": ("network", "create the secret keys of a node or client"),
    "node": ("nodes", "run one node until it is stopped"),
    "publish": ("nodes", "run one node that publishes a TCP server"),
    "socks": ("socks", "open a SOCKS and HTTP CONNECT port with tunnels to an exit"),
    "pipe": ("pipe", "connect standard input and output to a service of a node"),
    "forward": ("forward", "forward local ports to services through tunnels"),
    "ping": ("probe", "query a node through proxies and show the round trip"),
    "send": ("files", "send a file to a node"),
    "get": ("files", "fetch a file from a node, or list its files"),
    "peers": ("probe", "list the known nodes"),
    "route": ("probe", "try a route to a node and show the report of each hop"),
    "bench": ("bench", "measure round trips and throughput"),
}
"""Command → module in tunnel.cli, and one line of help. A module is loaded only for its own commands."""

MAX_RETRIES = 16  # tunnel.node.query.request.MAX_RETRIES, which takes long to load; a test compares them
_SIZE = "17, 10k, 300KiB, 64MiB or 1GB (k, KiB: 1024 bytes; KB: 1000)"


class UsageError(ConfigError):
    """Wrong arguments.

    Attributes:
        usage: the usage line of the command.
    """

    def __init__(self, text: str, hint: str, usage: str) -> None:
        super().__init__(text, hint)
        self.usage = usage


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fits paragraphs to the terminal. Those with an indented line are kept: examples, and tables."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.rstrip("\n").split("\n\n")
        return "\n\n".join(
            paragraph if re.search(r"^\s", paragraph, re.MULTILINE) else textwrap.fill(paragraph, width)
            for paragraph in paragraphs
        )


class Parser(argparse.ArgumentParser):
    """See the module."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False, formatter_class=_HelpFormatter)
        self._surplus: list[str] = []  # arguments for which there is no place

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        hint = ""
        missing = re.search(r"--network.* is required$|required: (--config)$", message)
        if missing is not None and self._surplus:
            is_file = missing[1] or self._surplus[0].endswith(".toml")
            option = "--config" if is_file else "--network"
            hint = f"did you mean {option} {shlex.quote(self._surplus[0])}?"
        raise self._wrong(message.removeprefix("argument "), hint)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and version like all output: `argparse` would keep silent about a full disk."""
        say(message.rstrip("\n"))

    def _wrong(self, message: str, hint: str = "") -> UsageError:
        return UsageError(
            message,
            hint
            or f"{self.prog} --help {'has an example' if self._subparsers is None else 'lists the commands'}",
            self.format_usage(),
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `argparse` does, after the checks that the module docstring lists."""
        given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._arranged(given), namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `argparse` does. Raises UsageError."""
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            self._subparser(options.command).error(f"unexpected argument: {' '.join(rest)}")
        return options

    def _subparser(self, name: str) -> Parser:
        assert self._subparsers is not None
        (commands,) = self._subparsers._group_actions
        found = commands.choices[name]  # type: ignore[index]
        assert isinstance(found, Parser)
        return found

    def _arranged(self, given: list[str]) -> list[str]:
        """Move the options to the front: `argparse` would take an optional argument behind one as missing."""
        options: list[str] = []
        places: list[str] = []
        rest = iter(given)
        for argument in rest:
            if argument == "--":
                return [*options, *places, argument, *rest]
            if not _is_option(argument):
                if self._subparsers is not None:
                    return [*options, argument, *rest]  # a command with its arguments
                places.append(argument)
                continue
            options.append(argument)
            action = self._option(argument)
            if action.nargs is None and argument in action.option_strings:
                value = next(rest, None)
                if value is None:  # `argparse` would take the argument that is moved behind it
                    self.error(f"{argument}: expected one argument")
                options.append(value)
        positional = self._get_positional_actions()
        if all(action.nargs in (None, "?") for action in positional):
            self._surplus = places[len(positional) :]
        return [*options, *places]

    def _option(self, argument: str) -> argparse.Action:
        known = self._option_string_actions
        name = argument.split("=", 1)[0]
        for option in (argument, name, argument[:2] if not argument.startswith("--") else name):
            if option in known:
                return known[option]
        if self._subparsers is not None and name in ("--json", "--network", "--peers", "--config", "--hops"):
            hint = f"put the options of a command after it: mtun COMMAND {name}"
        elif name == "--network" and any(each.metavar == "DIR" for each in self._get_positional_actions()):
            hint = f"did you mean {self.prog} DIR, without {name}?"
        elif len(name) == 2 and (long := [each for each in known if each.startswith(f"-{name}".lower())]):
            hint = f"did you mean {' or '.join(long)}?"
        else:
            hint = did_you_mean(name, known)
        raise self._wrong(f"unknown option {name}", hint)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            hint = did_you_mean(value, names) or f"the commands are {', '.join(names)}"
            if value in ("help", "version"):
                hint = f"did you mean mtun --{value}?"
            raise self._wrong(f"unknown command {value!r}", hint)
        name = "/".join(action.option_strings) or str(action.metavar or action.dest)
        raise self._wrong(f"{name} {value}: expected {', '.join(names)}", did_you_mean(value, names))


def _is_option(argument: str) -> bool:
    return len(argument) > 1 and argument.startswith("-") and re.fullmatch(r"-[\d.]+", argument) is None


def command(
    commands: Any,
    name: str,
    description: str | None,  # None under `python -OO`
    example: str,
    run: Callable[[argparse.Namespace], int],
    *,
    has_json: bool = True,
) -> argparse.ArgumentParser:
    """The parser of a subcommand, with the common options; its `--help` ends with the example.

    Args:
        has_json: False for a command whose output is content.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=COMMANDS[name][1], description=description, epilog=example
    )
    # Another `dest`: the subcommand's count would replace the one before the command.
    parser.add_argument(
        "-v", "--verbose", dest="more_verbose", action="count", default=0, help="log more (-vv: everything)"
    )
    if has_json:
        parser.add_argument("--json", action="store_true", help="print only JSON on stdout")
    parser.set_defaults(run=run)
    return parser


def add_retries(parser: argparse.ArgumentParser, of: str) -> None:
    """Add `--retries`. of: the queries that it repeats, for people."""
    text = f"if a proxy fails, repeat {of} over another route, up to N times (default 0)"
    parser.add_argument("--retries", type=count(0, MAX_RETRIES), default=0, metavar="N", help=text)


def filled(text: str) -> str:
    """A name, for `type=`. Refuses an empty name, which an unset variable of a script would give."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got empty text")
    return text


def filled_path(text: str) -> Path:
    """A path, for `type=`, as `filled`."""
    return Path(filled(text))


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Create a folder if it is missing, but not its parents: a mistyped path would create a tree of folders.

    Raises:
        ConfigError: its parent is missing, or a file has that name.
    """
    try:
        path.mkdir(mode=mode, exist_ok=True)
    except FileNotFoundError:
        made = shlex.quote(str(path.parent))
        raise ConfigError(
            f"there is no folder {path.parent}", f"correct the path, or create the folder: mkdir -p {made}"
        ) from None
    except (FileExistsError, NotADirectoryError):
        place = path if os.path.lexists(path) else path.parent
        raise ConfigError(f"{place} is not a folder", f"correct the path {path}") from None


def readable_file(path: Path) -> IO[bytes]:
    """Open a regular file that the user has named.

    Raises:
        ConfigError: it is missing, not a regular file, or cannot be read.
    """
    try:
        return os.fdopen(open_regular(path), "rb")
    except OSError as error:
        raise ConfigError(os_error_text(error, path), advice_for(error)) from error
    except LocalTunnelError as error:
        raise ConfigError(str(error)) from error


def count(least: int, most: int) -> Callable[[str], int]:
    """A whole number in a range, for `type=`."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 20 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {least:,} to {most:,}")
        return int(text)

    return parse


def size(least: int, most: int) -> Callable[[str], int]:
    """A number of bytes in a range, for `type=`: "17", "300KiB", "1GB"."""
    from tunnel.config.kinds import parse_size

    def parse(text: str) -> int:
        try:
            value = parse_size(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"not a size: {text!r}; expected {_SIZE}") from error
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {least:,} to {most:,} bytes")
        return value

    return parse


def profile(text: str) -> Profile:
    """A profile, for `type=`."""
    from tunnel.geometry import Profile

    try:
        return Profile.from_name(text)
    except ProfileError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def seconds(text: str) -> float:
    """A time above 0, for `type=`."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, above 0 and up to 86,400")
    return value
