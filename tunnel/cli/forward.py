"""`mtun forward`: local ports whose connections lead through a tunnel to a service or target."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reactor import Scope, Service
from tunnel.cli.client import Client, add_hops, add_source, proxies_text
from tunnel.cli.nodes import allow_open_files
from tunnel.cli.options import command
from tunnel.cli.pipe import add_key, destination
from tunnel.cli.terminal import going_on, say, say_json
from tunnel.config.kinds import HostPort, ListenPlace
from tunnel.config.repeated import ForwardEntry
from tunnel.errors import ConfigError, QueryFailed, SubStreamReset
from tunnel.established import Target
from tunnel.front.entrance import EntrancePlace, place_text
from tunnel.front.forward import MOST_CONNECTIONS
from tunnel.front.reverse import ReverseForward
from tunnel.running.fronts import Fronts

__all__ = ["add_parser"]

_FORWARD = """\
Forward local ports to services that nodes publish, or to HOST:PORT behind an exit, until Ctrl-C.

Every connection goes through proxies. The connections of one port share a tunnel. A node opens such ports
itself if its configuration has tables [[forward]].

With --reverse the direction is reversed: a node listens, and its connections lead to a server here. The
owner of the node must list the address in [service] reverse of its configuration.
"""
_FORWARD_EXAMPLE = """\
example:
  mtun forward 5432 node-7:postgres --network mynet
  mtun forward 2222 node-7:ssh 8080 node-3/intranet:80 --network mynet
  mtun forward --reverse node-7/9000 127.0.0.1:8080 --network mynet
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "forward", _FORWARD, _FORWARD_EXAMPLE, run_forward)
    parser.add_argument(
        "pairs",
        nargs="+",
        metavar="[BIND:]PORT TO",
        help="where to listen: a local port, address and port, or a path with '/' for a Unix socket; then "
        "where connections go: NODE:SERVICE, or NODE/HOST:PORT through an exit. Repeat for several pairs. "
        "With --reverse: NODE/[BIND:]PORT HOST:PORT",
    )
    parser.add_argument(
        "-R", "--reverse", action="store_true", help="make nodes listen, and forward their connections here"
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="allow addresses that other machines can reach; they can then use the tunnels",
    )
    add_key(parser)
    add_source(parser, opens_tunnels=True)
    add_hops(parser)


def run_forward(options: argparse.Namespace) -> int:
    """Forward until a signal stops the command. Returns the exit status."""
    if options.reverse:
        return _run_reverse(options)
    pairs = _pairs(options.pairs)
    allow_open_files(MOST_CONNECTIONS * len(pairs))
    with Client(options) as client, contextlib.closing(Fronts(client.node, client.hint)) as fronts:
        client.check_opens_tunnels("[[forward]]")
        hops = client.hops()
        for place, to in pairs:
            node_id = client.names.resolve(to[0])
            client.route(node_id)
            fronts.add_forward(node_id, ForwardEntry(place, to, hops, options.key, options.public))

        def ready() -> None:
            for forward, to in zip(fronts.forwards, options.pairs[1::2], strict=True):
                _say_ready(forward.address, to, hops, as_json=options.json)

        client.run(fronts.serve(), ready)
    return 0


def _pairs(arguments: list[str]) -> list[tuple[EntrancePlace, tuple[str, Target]]]:
    """The places to listen on, each with a node and a target. Raises ConfigError: something else."""
    if len(arguments) == 1 and re.search("[:/]", arguments[0]) and not _is_place(arguments[0]):
        raise ConfigError(
            f"{arguments[0]}: at which local port?", f"for example: mtun forward 5432 {arguments[0]}"
        )
    pairs = [_local_pair(*pair) for pair in _in_pairs(arguments, "mtun forward 5432 node-7:postgres")]
    places = [place for place, _ in pairs]
    for place, text in zip(places, arguments[::2], strict=True):
        if places.count(place) > 1 and not (isinstance(place, tuple) and place[1] == 0):
            raise ConfigError(
                f"{text} is given twice", "each destination needs a local port of its own; 0: any free one"
            )
    return pairs


def _local_pair(place: str, to: str) -> tuple[EntrancePlace, tuple[str, Target]]:
    try:
        return _place(place), destination(to)
    except ConfigError as error:
        try:
            _place(to), destination(place)
        except ConfigError:
            raise error from None
        raise ConfigError(str(error), f"did you swap {place} and {to}? The local port is first") from error


def _run_reverse(options: argparse.Namespace) -> int:
    if options.public or options.key is not None:
        raise ConfigError(
            "--public and --key cannot be combined with --reverse",
            "the owner of the node allows addresses in its configuration",
        )
    wanted = []
    for place, to in _in_pairs(options.pairs, "mtun forward --reverse node-7/9000 127.0.0.1:8080"):
        wanted.append((*_reverse_pair(place, to), to))
    with Client(options) as client:
        client.check_opens_tunnels()
        hops = client.hops()

        def announce(node: str, place: tuple[str, int], to: str) -> Callable[[int], None]:
            return lambda port: _say_ready((place[0], port), to, hops, at=node, as_json=options.json)

        for node, *_ in wanted:
            client.route(client.names.resolve(node))
        forwards = [
            ReverseForward(
                client.node,
                client.names.resolve(node),
                place,
                server,
                options={"hops": hops},
                on_listening=announce(node, place, to),
                advise=client.hint,
            )
            for node, place, server, to in wanted
        ]
        services = [
            _explained(forward.serve(), node, place)
            for forward, (node, place, *_) in zip(forwards, wanted, strict=True)
        ]
        client.run(_together(services), lambda: None)
    return 0


def _reverse_pair(place: str, to: str) -> tuple[str, tuple[str, int], tuple[str, int]]:
    """The node, its place and the server here. Raises ConfigError: something else."""
    node, slash, where = place.partition("/")
    if not slash or not node:
        hint = f"did you swap {place} and {to}? The node is first" if "/" in to else "for example node-7/9000"
        raise ConfigError(f"{place}: expected NODE/[BIND:]PORT", hint)
    try:
        server = HostPort().check(to)
    except ValueError as error:
        raise ConfigError(f"{to}: expected {HostPort().expected}", "for example 127.0.0.1:8080") from error
    assert server is not None
    there = _place(where)
    if isinstance(there, Path):
        raise ConfigError(f"{place}: a node listens at ports only", "for example node-7/9000")
    return node, there, server


def _explained(service: Service[None], node: str, place: tuple[str, int]) -> Service[None]:
    """Run a reverse forward. Raises QueryFailed: the node refuses the place; else what the forward raises."""
    try:
        yield from service
    except SubStreamReset as error:
        raise QueryFailed(
            f"{node} does not let clients listen at {place_text(place)} ({error.code.name})",
            error.code,
            hint="its owner allows addresses in [service] reverse of its configuration",
        ) from error


def _in_pairs(arguments: list[str], example: str) -> list[tuple[str, str]]:
    """Raises ConfigError: an odd number of arguments."""
    if len(arguments) % 2:
        raise ConfigError(f"{arguments[-1]}: its destination is missing", f"for example: {example}")
    return list(zip(arguments[::2], arguments[1::2], strict=True))


def _place(text: str) -> EntrancePlace:
    """Where to listen. Raises ConfigError: something else."""
    try:
        return ListenPlace().check(text)
    except ValueError as error:
        raise ConfigError(f"{text}: expected {ListenPlace.expected}", "for example 5432") from error


def _is_place(text: str) -> bool:
    """Whether the argument is a local place, such as "127.0.0.1:5432"."""
    try:
        return isinstance(_place(text), tuple)
    except ConfigError:
        return False


def _say_ready(address: EntrancePlace, to: str, hops: int, *, at: str | None = None, as_json: bool) -> None:
    """Args: at: the node that listens; None: this machine."""
    place = place_text(address)
    with going_on():
        if as_json:
            event = {"event": "ready", "listen": place, "to": to, "hops": hops}
            say_json(True, event if at is None else event | {"at": at})
        else:
            where = "" if at is None else f" of {at}"
            say(f"ready: {place}{where} leads to {to}, {proxies_text(hops)}")


def _together(services: list[Service[None]]) -> Service[None]:
    """Run services until one fails. Raises its error."""
    scope = Scope("forwards")
    try:
        for service in services:
            yield from scope.spawn(service, name="forward")
        yield from scope.join()
    finally:
        yield from scope.close()
