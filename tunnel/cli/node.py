"""`mtun node`: one node, as its configuration says, until SIGINT, SIGTERM or SIGHUP.

It stops in order: neighbours are told that nothing new is taken, what passes through may end, and keys and
replay tables are written, so that the next start goes on where this run ended. A second signal does not wait.
SIGUSR1 prints what every service does.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import sys
from typing import Any

from reactor import Reactor, Service, Spawn, run_main
from reactor.core.poller import FileDescriptor
from tunnel.cli.options import add_json, command, filled_path
from tunnel.cli.terminal import say, say_json
from tunnel.codes import short
from tunnel.config import NodeConfig, load_config
from tunnel.running.configured_node import ConfiguredNode

__all__ = ["add_parser"]

log = logging.getLogger("tunnel.cli")

_OTHER_FILES = 128  # listener, poller, state, and the files that a files service has open

_EXAMPLE = """\
example:
  mtun keygen state/keys
  mtun node --config node.toml           an empty file is a valid one; see docs/configuration.md
  kill -USR1 PID                         what is it doing?
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "node", __doc__, _EXAMPLE, run)
    parser.add_argument(
        "--config", type=filled_path, required=True, metavar="FILE", help="configuration, TOML"
    )
    # For `mtun up`: no node outlives the program that started it, however that ends.
    parser.add_argument("--stop-at-eof", action="store_true", help=argparse.SUPPRESS)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the node. Returns the exit status."""
    config = load_config(options.config, os.environ)
    if not options.verbose:
        logging.getLogger().setLevel(config.log_level)
    _allow_open_files(config.limits.links)
    try:
        _serve(config, options)
    except (KeyboardInterrupt, SystemExit):
        log.warning("stopped by a second signal: what passed through the node was cut")
        raise
    log.info("stopped in order; the state is saved")
    return 0


def _serve(config: NodeConfig, options: argparse.Namespace) -> None:
    # Left from the right: the reactor is closed, and only then the state is written.
    reactor = Reactor()
    with ConfiguredNode(config, reactor) as configured, reactor:

        def ready() -> None:
            _say_ready(configured, as_json=options.json)

        serve = configured.serve(ready)
        main = _with_watch(serve) if options.stop_at_eof else serve
        run_main(reactor, main, name="node process")


def _allow_open_files(links: int) -> None:
    """As many as the node's own limit lets it use, where the system lets us have them."""
    needed = links + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < needed:
            log.warning("%d links need %d open files, the system allows %d", links, needed, most)


def _with_watch(serve: Service[None]) -> Service[None]:
    """The node, and a watch over standard input beside it."""
    watching = yield Spawn(_watch_stdin(), "standard input")
    try:
        yield from serve
    finally:
        watching.cancel()


def _watch_stdin() -> Service[None]:
    """The end of standard input is what SIGTERM is."""
    stdin = FileDescriptor(sys.stdin)
    try:
        while True:
            yield stdin.readable
            if not os.read(stdin.fileno(), 4096):
                signal.raise_signal(signal.SIGTERM)
                return
    finally:
        stdin.close_notify()


def _say_ready(configured: ConfiguredNode, *, as_json: bool) -> None:
    node, peers = configured.node, len(configured.directory) - 1
    place = None if node.listens_at is None else str(node.listens_at)
    if as_json:
        event = {
            "event": "ready",
            "id": node.id.hex(),
            "listen": place,
            "addresses": [str(address) for address in node.descriptor.addresses],
            "peers": peers,
            "pid": os.getpid(),
        }
        say_json(True, event)
    else:
        where = f"listens on {place}" if place else "listens nowhere"
        say(f"ready: node {short(node.id)} {where} and knows {peers} peers")
