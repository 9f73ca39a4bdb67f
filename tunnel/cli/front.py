"""`mtun socks`: TCP programs through tunnels.

The port and the tunnels are of a client node, in a thread of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from pathlib import Path
from typing import Any

from tunnel.arguments import plain_name
from tunnel.cli.client import Client, add_source
from tunnel.cli.nodes import allow_open_files
from tunnel.cli.options import command, count, filled, filled_path
from tunnel.cli.terminal import going_on, say, say_json
from tunnel.client import ControlClient
from tunnel.disk import advice_for, os_error_text
from tunnel.errors import ConfigError
from tunnel.front.handshake import Failed, Request
from tunnel.front.socks_server import MOST_CONNECTIONS, Isolation, SocksServer
from tunnel.front.targets import MAX_PORT
from tunnel.routing.route import Route

__all__ = ["add_parser", "listen_place", "read_users"]

_SOCKS = """\
Listen for programs that use a proxy, and connect them through tunnels to an exit: SOCKS5, SOCKS4a and HTTP
CONNECT on one port, until Ctrl-C.

Names are looked up by the exit. If no tunnel works, programs get an error, never a direct connection. The
exit is a node whose configuration has rules in [exit]. Different users or passwords of the proxy use
different tunnels (--isolate auth), so the exit cannot tell that they belong together.
"""
_SOCKS_EXAMPLE = """\
example:
  mtun socks --network mynet --exit node-7
  curl -x socks5h://127.0.0.1:1080 http://example.com/           in another terminal
  mtun socks --config client.toml --exit 4307b306 --hops 2 --listen 127.0.0.1:9050
  mtun socks --network mynet --exit node-7 --via node-2,node-4 --json
"""
_DEFAULT_HOST, _DEFAULT_PORT = "127.0.0.1", 1080
_MOST_USERS = 1_000


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "socks", _SOCKS, _SOCKS_EXAMPLE, run_socks)
    add_source(parser)
    add = parser.add_argument
    add("--exit", type=filled, required=True, metavar="ID", help="the exit: its name, id, or first digits")
    add(
        "--listen",
        type=listen_place,
        default=(_DEFAULT_HOST, _DEFAULT_PORT),
        metavar="PLACE",
        help=f"[HOST:]PORT, or a path with '/' for a Unix socket (default {_DEFAULT_HOST}:{_DEFAULT_PORT}; "
        "port 0: a free one)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--hops",
        type=count(0, 126),
        metavar="N",
        help="number of proxies (default: [routes] route_hops of the configuration, or 3)",
    )
    length.add_argument("--via", type=filled, metavar="ID,ID", help="these proxies, in this order")
    add(
        "--isolate",
        type=plain_name,
        choices=[str(kind) for kind in Isolation],
        default=str(Isolation.AUTH),
        help="connections that share a tunnel: those with the same user and password (auth, the default), "
        "all (listener), or none (connection)",
    )
    add(
        "--users",
        type=filled_path,
        metavar="FILE",
        help="only for these users: lines USER:PASSWORD. Needed to listen beyond this machine",
    )


def listen_place(text: str) -> tuple[str, int] | Path:
    """Where to listen, for `type=`: "1080", "127.0.0.1:1080", "[::1]:1080", "/run/socks"."""
    if "/" in text:
        return Path(text)
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r}: expected [HOST:]PORT, or a path with '/'")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise argparse.ArgumentTypeError(f"{text!r}: write an IPv6 address in brackets, [ADDRESS]:PORT")
    return host or _DEFAULT_HOST, int(port)


def run_socks(options: argparse.Namespace) -> int:
    """Serve until a signal. Returns the exit status."""
    if not options.verbose:
        logging.getLogger("tunnel.front").setLevel(logging.INFO)
    users = None if options.users is None else read_users(options.users)
    allow_open_files(MOST_CONNECTIONS)
    with Client(options) as client:
        if isinstance(client.node, ControlClient):
            raise ConfigError(
                f"the node of {options.config} is running, and opens no tunnels for other programs",
                "add [[socks]] to its configuration and restart it; or give the configuration of a client",
            )
        exit_id = client.names.resolve(options.exit)
        route = _route(options.via, client, exit_id)
        place: dict[str, Any] = (
            {"path": options.listen}
            if isinstance(options.listen, Path)
            else dict(zip(("host", "port"), options.listen, strict=True))
        )
        try:
            server = SocksServer(
                client.node,
                exit_id,
                **place,
                users=users,
                isolation=options.isolate,
                hops=options.hops,
                route=route,
                on_failure=_say_failure if options.json else None,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen: {os_error_text(error, error.filename)}", "choose another place with --listen"
            ) from error
        with contextlib.closing(server):
            client.run(server.serve(), lambda: _say_ready(server, client, exit_id, options))
    return 0


def _route(via: str | None, client: Client, exit_id: bytes) -> Route | None:
    """The route of --via. Raises BadRoute: it cannot be used, or one with --hops proxies cannot be drawn."""
    if via is None:
        client.route(exit_id)
        return None
    route = Route(tuple(map(client.names.resolve, via.split(","))), exit_id)
    client.node.call(exit_id, route=route)
    return route


def _say_ready(server: SocksServer, client: Client, exit_id: bytes, options: argparse.Namespace) -> None:
    address = server.address
    place = str(address) if isinstance(address, Path) else _with_port(*address)
    if options.json:
        event = {"event": "ready", "listen": place, "exit": exit_id.hex(), "pid": os.getpid()}
        say_json(True, event)
        return
    say(f"ready: SOCKS5, SOCKS4a and HTTP CONNECT at {place}, with tunnels to {client.names.name(exit_id)}")
    login = "" if options.users is None else "USER:PASSWORD@"
    proxy = f"localhost{address.absolute()}" if isinstance(address, Path) else place
    say(f"  curl -x socks5h://{login}{proxy} http://example.com/")


def _with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say_failure(request: Request, failed: Failed) -> None:
    event = {
        "event": "failed",
        "protocol": str(request.protocol),
        "code": failed.code.name,
        "error": failed.text,
        "hops": [hop.hex() for hop in failed.hops],
    }
    with going_on():
        say_json(False, event)


def read_users(path: Path) -> dict[str, str]:
    """Users and passwords from a file. Raises ConfigError: unreadable, malformed, or readable for others."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"others can read the passwords in {path}", f"chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(os_error_text(error, path), advice_for(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    if not found or len(found) > _MOST_USERS or len(found) < len([line for line in lines if line.strip()]):
        raise ConfigError(f"{path}: expected lines USER:PASSWORD, 1 to {_MOST_USERS}, each user once")
    return found
