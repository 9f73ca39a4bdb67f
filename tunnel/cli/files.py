"""`mtun send` and `mtun get`: files to and from the files service of another node, through proxies.

Both ends compare SHA-256 digests. What breaks off is gone on with over another route, within the command and
by the next one for the same file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from tunnel.cli.client import Client, add_client_options, add_target, proxies_text, wait
from tunnel.cli.options import add_json, command, count
from tunnel.cli.terminal import ProgressBar, readable_size, say, say_json
from tunnel.client import Fetched, Stored, get, list_files, put
from tunnel.errors import ConfigError
from tunnel.services import safe_name

__all__ = ["add_parser"]

T = TypeVar("T")

_SERVICE = "files"
_SEND_EXAMPLE = """\
example:
  mtun send report.pdf node-7 --network mynet
  mtun send report.pdf 4307b306 --peers peers.txt --name r.pdf --hops 10
"""
_GET_EXAMPLE = """\
example:
  mtun get node-7 report.pdf --network mynet
  mtun get node-7 report.pdf --network mynet --output copy.pdf
  mtun get node-7 --network mynet                 what is there?
"""


def add_parser(commands: Any) -> None:
    """Add both subcommands to the main parser."""
    sender = command(commands, "send", __doc__, _SEND_EXAMPLE, run_send)
    sender.add_argument("file", type=Path, metavar="FILE", help="what is sent")
    add_target(sender)
    sender.add_argument("--name", help="under which it is kept there (default: that of the file)")
    getter = command(commands, "get", __doc__, _GET_EXAMPLE, run_get)
    add_target(getter)
    getter.add_argument("name", metavar="NAME", nargs="?", help="of the file; without: list them")
    getter.add_argument("--output", type=Path, metavar="PATH", help="file or folder (default: NAME, here)")
    getter.add_argument("--replace", action="store_true", help="also where a file is already")
    for parser in (sender, getter):
        parser.add_argument("--retries", type=count(0, 100), default=3, metavar="N", help="(default 3)")
        add_client_options(parser, timeout_s=86_400.0)
        add_json(parser)


def run_send(options: argparse.Namespace) -> int:
    """Send a file. Returns the exit status."""
    if not options.file.is_file():
        raise ConfigError(f"{options.file} is no file", "one file is sent at a time; pack a folder with tar")
    name = options.name or safe_name(options.file.name)
    with Client(options) as client:
        destination, hops = client.names.resolve(options.id), client.hops()
        stored: Stored = _run(
            options,
            lambda progress: put(
                client.node,
                destination,
                options.file,
                name,
                progress=progress,
                service=_SERVICE,
                retries=options.retries,
                hops=hops,
            ),
        )
    text = f"{stored.name}: {readable_size(stored.size)} are at {options.id}, sent {proxies_text(hops)}"
    _say(options, stored, stored.sent_bytes, hops, text)
    return 0


def run_get(options: argparse.Namespace) -> int:
    """Get a file, or list what there is. Returns the exit status."""
    with Client(options) as client:
        destination, hops = client.names.resolve(options.id), client.hops()
        way = {"service": _SERVICE, "retries": options.retries, "hops": hops}
        if options.name is None:
            entries = wait(list_files(client.node, destination, **way), options.timeout)
            if options.json:
                listed = [{"name": e.name, "size": e.size} for e in entries]
                say_json(True, {"hops": hops, "files": listed}, indent=1)
            for entry in () if options.json else entries:
                say(f"{entry.size:>14,}  {entry.name}")
            return 0
        target = options.output or Path(options.name)
        if target.is_file() and not options.replace:
            raise ConfigError(f"{target} exists", "--replace replaces it, --output names another place")
        fetched: Fetched = _run(
            options,
            lambda progress: get(
                client.node,
                destination,
                options.name,
                target,
                progress=progress,
                replace=options.replace,
                **way,
            ),
        )
    text = f"{fetched.name}: {readable_size(fetched.size)} are here, fetched {proxies_text(hops)}"
    _say(options, fetched, fetched.received_bytes, hops, text)
    return 0


def _run(options: argparse.Namespace, start: Callable[[Callable[[int, int], None]], Future[T]]) -> T:
    """Show how far it is while it runs."""
    bar: ProgressBar | None = None

    def progress(done: int, size: int) -> None:
        nonlocal bar
        if bar is None:
            bar = ProgressBar(size, enabled=not options.json)
        bar.update(done)

    try:
        return wait(start(progress), options.timeout)
    finally:
        if bar is not None:
            bar.close()


def _say(options: argparse.Namespace, done: Stored | Fetched, moved_bytes: int, hops: int, text: str) -> None:
    if options.json:
        outcome = {
            "hops": hops,
            "name": done.name,
            "bytes": done.size,
            "moved_bytes": moved_bytes,
            "sha256": done.digest.hex(),
            "attempts": done.attempts,
        }
        say_json(True, outcome)
        return
    resumed = "" if moved_bytes == done.size else f" ({readable_size(moved_bytes)} of them moved now)"
    say(f"{text}{resumed}, sha256 {done.digest.hex()}")
