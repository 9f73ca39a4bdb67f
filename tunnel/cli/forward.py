"""`mtun forward`: local ports whose connections come out at services behind a tunnel."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import Any

from reactor import Scope, Service
from tunnel.cli.client import Client, proxies_text
from tunnel.cli.options import command
from tunnel.cli.pipe import add_destination_options, client_key, destination
from tunnel.cli.terminal import say, say_json
from tunnel.config.kinds import Place
from tunnel.errors import BadArgument, ConfigError
from tunnel.established import Target
from tunnel.front.forward import Forward
from tunnel.front.tunnel_pool import TunnelPool
from tunnel.identity.client_key import ClientKey

__all__ = ["add_parser"]

_FORWARD = """\
Pass connections to local ports on to services that nodes publish, or to HOST:PORT behind an exit.

Every connection goes through proxies. Connections to one node share a tunnel. It runs until Ctrl-C.
"""
_FORWARD_EXAMPLE = """\
example:
  mtun forward 5432 node-7:postgres --network mynet
  mtun forward 2222 node-7:ssh 8080 node-3/intranet:80 --network mynet
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "forward", _FORWARD, _FORWARD_EXAMPLE, run_forward)
    parser.add_argument(
        "pairs",
        nargs="+",
        metavar="[BIND:]PORT TO",
        help="a local port, or address and port, and where it leads: NODE:SERVICE, or NODE/HOST:PORT through "
        "an exit; several pairs may follow",
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="allow addresses that other machines reach; they can then use the tunnels",
    )
    add_destination_options(parser)


def run_forward(options: argparse.Namespace) -> int:
    """Forward until a signal stops the command. Returns the exit status."""
    wanted = _pairs(options.pairs)
    key = client_key(options.key)
    with Client(options) as client:
        hops = client.hops()
        pools: dict[bytes, TunnelPool] = {}
        with ExitStack() as stack:
            forwards = []
            for (host, port), (node, target) in wanted:
                node_id = client.names.resolve(node)
                pool = pools.setdefault(node_id, TunnelPool(client.node, node_id, {"hops": hops}))
                forward = _listen(pool, target, host, port, key, is_public=options.public)
                stack.callback(forward.close)
                forwards.append(forward)

            def ready() -> None:
                for forward, to in zip(forwards, options.pairs[1::2], strict=True):
                    _say_ready(forward.address, to, hops, as_json=options.json)

            client.run(_serve(forwards, pools), ready)
    return 0


def _pairs(arguments: list[str]) -> list[tuple[tuple[str, int], tuple[str, Target]]]:
    """The places to listen on, each with a node and a target. Raises ConfigError: something else."""
    if len(arguments) % 2:
        raise ConfigError(
            f"{arguments[-1]}: a port without its target", "for example: mtun forward 5432 node-7:postgres"
        )
    return [
        (_place(place), destination(to)) for place, to in zip(arguments[::2], arguments[1::2], strict=True)
    ]


def _place(text: str) -> tuple[str, int]:
    """The address to listen on: of `PORT` or `BIND:PORT`."""
    try:
        address = Place(least_port=0).check(f"127.0.0.1:{text}" if text.isdigit() else text)
    except ValueError as error:
        raise ConfigError(
            f"{text}: expected a local port, or an IP address and a port", "for example 5432, or [::1]:5432"
        ) from error
    assert address is not None
    return address.host, address.port


def _listen(
    pool: TunnelPool, target: Target, host: str, port: int, key: ClientKey | None, *, is_public: bool
) -> Forward:
    try:
        return Forward(pool, target, host=host, port=port, client_key=key, is_public=is_public)
    except BadArgument as error:
        raise ConfigError(str(error), "or allow it with --public") from error
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror}", "choose another port"
        ) from error


def _say_ready(address: tuple[str, int], to: str, hops: int, *, as_json: bool) -> None:
    host, port = address
    if as_json:
        say_json(True, {"event": "ready", "listen": f"{host}:{port}", "to": to, "hops": hops})
    else:
        say(f"ready: {host} port {port} leads to {to}, {proxies_text(hops)}")


def _serve(forwards: list[Forward], pools: dict[bytes, TunnelPool]) -> Service[None]:
    scope = Scope("forwards")
    try:
        for forward in forwards:
            yield from scope.spawn(forward.serve(), name="forward")
        yield from scope.join()
    finally:
        yield from scope.close()
        for pool in pools.values():
            yield from pool.close()
