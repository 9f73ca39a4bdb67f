"""`mtun socks`: a proxy port that sends TCP programs through tunnels.

The port and the tunnels belong to a client node, which runs in a separate thread.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from tunnel.arguments import plain_name
from tunnel.cli.client import Client, PeerNames, add_hops, add_source
from tunnel.cli.nodes import allow_open_files
from tunnel.cli.options import command, filled, filled_path
from tunnel.cli.terminal import going_on, say, say_json
from tunnel.config.kinds import ListenPlace
from tunnel.config.repeated import SocksEntry
from tunnel.front.entrance import place_text
from tunnel.front.handshake import Failed, Request
from tunnel.front.socks_server import MOST_CONNECTIONS, Isolation, SocksServer
from tunnel.routing.route import Route
from tunnel.running.fronts import Fronts

__all__ = ["add_parser"]

_SOCKS = """\
Open a proxy port for SOCKS5, SOCKS4, SOCKS4a and HTTP CONNECT, and connect its programs through tunnels to
an exit, until Ctrl-C.

The exit is a node whose configuration has rules in [exit]. It resolves all names. If no tunnel works,
programs get an error, never a direct connection. Connections with different proxy users or passwords use
different tunnels (--isolate auth), so the exit cannot link them. A node opens such a port itself if its
configuration has a table [[socks]]. docs/front.md shows the settings of many programs.
"""
_SOCKS_EXAMPLE = """\
example:
  mtun socks --network mynet --exit node-7
  curl -x socks5h://127.0.0.1:1080 http://example.com/           in another terminal
  mtun socks --config client.toml --exit 4307b306 --hops 2 --listen 127.0.0.1:9050
  mtun socks --network mynet --exit node-7 --via node-2,node-4 --json
"""
_DEFAULT_PLACE = "127.0.0.1", 1080


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "socks", _SOCKS, _SOCKS_EXAMPLE, run_socks)
    add_source(parser, opens_tunnels=True)
    add = parser.add_argument
    add("--exit", type=filled, required=True, metavar="ID", help="the exit: its name, id, or first digits")
    add(
        "--listen",
        type=_listen_place,
        default=_DEFAULT_PLACE,
        metavar="PLACE",
        help="where programs connect: [BIND:]PORT, or a path with '/' for a Unix socket (default "
        "127.0.0.1:1080; port 0: any free port)",
    )
    length = parser.add_mutually_exclusive_group()
    add_hops(length)
    length.add_argument("--via", type=filled, metavar="ID,ID", help="use these proxies, in this order")
    add(
        "--isolate",
        type=plain_name,
        choices=[str(kind) for kind in Isolation],
        default=str(Isolation.AUTH),
        help="which connections share a tunnel: those with the same user and password (auth, the default), "
        "all (listener), or none (connection)",
    )
    add(
        "--users",
        type=filled_path,
        metavar="FILE",
        help="accept only the logins in this file, with lines USER:PASSWORD. Required if other machines can "
        "reach the port",
    )


def _listen_place(text: str) -> tuple[str, int] | Path:
    """Where to listen, for `type=`."""
    kind = ListenPlace()
    try:
        return kind.check(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {kind.expected}") from error


def run_socks(options: argparse.Namespace) -> int:
    """Serve until a signal. Returns the exit status."""
    if not options.verbose:
        logging.getLogger("tunnel.front").setLevel(logging.INFO)
    allow_open_files(MOST_CONNECTIONS)
    with Client(options) as client:
        client.check_opens_tunnels("[[socks]]")
        exit_id = client.names.resolve(options.exit)
        route = _route(options.via, client, exit_id)
        entry = SocksEntry(
            options.exit, options.listen, options.hops, Isolation(options.isolate), options.users
        )
        with contextlib.closing(Fronts(client.node, client.hint)) as fronts:
            on_failure = partial(_say_failure, client.names) if options.json else None
            server = fronts.add_socks(exit_id, entry, route=route, on_failure=on_failure)
            client.run(fronts.serve(), lambda: _say_ready(server, client, exit_id, options))
    return 0


def _route(via: str | None, client: Client, exit_id: bytes) -> Route | None:
    """The route of --via, or None. Raises BadRoute: it, or a route with --hops proxies, is impossible."""
    if via is None:
        client.route(exit_id)
        return None
    route = Route(tuple(map(client.names.resolve, map(str.strip, via.split(",")))), exit_id)
    client.node.call(exit_id, route=route)
    return route


def _say_ready(server: SocksServer, client: Client, exit_id: bytes, options: argparse.Namespace) -> None:
    address = server.address
    place = place_text(address)
    if options.json:
        event = {"event": "ready", "listen": place, "exit": exit_id.hex(), "pid": os.getpid()}
        say_json(True, event)
        return
    say(f"ready: SOCKS5, SOCKS4a and HTTP CONNECT at {place}, with tunnels to {client.names.name(exit_id)}")
    login = "" if options.users is None else "USER:PASSWORD@"
    proxy = f"localhost{address.absolute()}" if isinstance(address, Path) else place
    say(f"  curl -x socks5h://{login}{proxy} http://example.com/")


def _say_failure(names: PeerNames, request: Request, failed: Failed) -> None:
    event = {
        "event": "failed",
        "protocol": str(request.protocol),
        "code": failed.code.name,
        "error": names.in_words(failed.text),
        "hops": [hop.hex() for hop in failed.hops],
    }
    with going_on():
        say_json(False, event)
