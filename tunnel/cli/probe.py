"""`mtun peers`, `mtun ping` and `mtun route`: a client's view of a network.

`peers` lists the known signed descriptors and sends nothing. `ping` queries a node, over a new route each
time. `route` shows a route with the reports of its nodes, which only the sender can read.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import statistics
import time
from dataclasses import dataclass
from typing import Any

from tunnel.cli.client import (
    Client,
    PeerNames,
    add_client_options,
    add_source,
    add_target,
    client_config,
    proxies_text,
    wait,
)
from tunnel.cli.options import add_retries, command, count, size
from tunnel.cli.terminal import complain, say, say_json, table
from tunnel.client.connect import is_client, running_node
from tunnel.codes import Report
from tunnel.config import NodeConfig
from tunnel.control import PeerState
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.errors import DescriptorError, KeyFileError, QueryFailed
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.modes import ReplyMode
from tunnel.routing.route import Route
from tunnel.running.configured_node import Peers, load_peers, settle
from tunnel.services import service_prefix

__all__ = ["add_parser"]

log = logging.getLogger("tunnel.cli")

_PEERS = """\
List the known nodes, from their signed descriptors. Sends nothing. With --config the list marks the node of
the configuration as "(this node)".
"""
_PEERS_EXAMPLE = """\
example:
  mtun peers --network mynet
  mtun peers --peers peers.txt --json
"""
_PING = """\
Check that a node answers, and measure the round trip through proxies.

Each ping is a query over a new random route. A refusal by the node itself ("no such service") counts as an
answer. With --retries, a ping that failed at a proxy is repeated over another route; its time includes all
attempts.
"""
_PING_EXAMPLE = """\
example:
  mtun ping node-7 --network mynet
  mtun ping 4307b306 --peers peers.txt --hops 5 --count 10 --json
"""
_ROUTE = """\
Draw a route to a node, send a small query along it, and show how long each node held the query.

Only the sender can read the nodes' reports. The route is not used again. With --retries, the command tries
other routes after a failure. It shows the route that carried the query, or the first route if all failed.
"""
_ROUTE_EXAMPLE = """\
example:
  mtun route node-7 --network mynet --hops 5
  mtun route 4307b306 --peers peers.txt --dry-run      draw a route, send nothing
"""
_NO_PEERS = "copy descriptor files of other nodes ([peers] publish) into the peers folder"
_WRONG_TIME = "their keys are not valid now: are the nodes running, and is the clock of this machine right?"
_MOST_BYTES = 1 << 20


def add_parser(commands: Any) -> None:
    """Add the three subcommands to the main parser."""
    parser = command(commands, "peers", _PEERS, _PEERS_EXAMPLE, run_peers)
    add_source(parser)
    parser = command(commands, "ping", _PING, _PING_EXAMPLE, run_ping)
    add_target(parser)
    parser.add_argument(
        "--count", type=count(1, 100_000), default=4, metavar="N", help="number of pings (default 4)"
    )
    parser.add_argument(
        "--size", type=size(0, _MOST_BYTES), default=64, metavar="SIZE", help="bytes of content (default 64)"
    )
    add_retries(parser, "a ping")
    add_client_options(parser)
    parser = command(commands, "route", _ROUTE, _ROUTE_EXAMPLE, run_route)
    add_target(parser)
    parser.add_argument("--dry-run", action="store_true", help="send nothing")
    add_retries(parser, "the query")
    add_client_options(parser)


def run_peers(options: argparse.Namespace) -> int:
    """List the peers. Returns the exit status: 1 if none can be used now."""
    config = client_config(options)
    engine = tunnel_engine(config.engine)
    running = None if options.config is None else running_node(config)
    states: dict[Descriptor, PeerState] = {}
    directory: Peers
    if running is not None:
        with running:
            states = running.peers()
            own_id: bytes | None = running.id
        directory = StaticDirectory(states)
    else:
        own_id = None if options.config is None or is_client(config) else _own_id(config, engine)
        directory, _ = load_peers(config, engine)
        settle(directory)
        directory.close()
    names = PeerNames(directory, config.files, engine, own_id=own_id)
    now_s = time.time()
    peers = [_described(names, peer, now_s, states.get(peer), own_id) for peer in names]
    is_usable = any(peer["usable"] for peer in peers)
    if options.json:
        say_json(is_usable, {"peers": peers}, indent=1)
    else:
        rows = [
            [
                f"{peer['name']} (this node)" if peer["this_node"] else peer["name"],
                peer["id"][:16],
                ", ".join(peer["addresses"]) or "–",
                _use_of(peer),
                f"{(peer['expires'] - now_s) / 86_400:.1f} days",
            ]
            for peer in peers
        ]
        if rows:
            say(table(["name", "id", "address", "usable", "expires in"], rows))
    if not is_usable:
        has_others = any(not peer["this_node"] for peer in peers)
        complain("error: no peer can be used now" if has_others else "error: no peers are known")
        complain(f"hint: {_WRONG_TIME if has_others else _NO_PEERS}")
    return 0 if is_usable else 1


def _own_id(config: NodeConfig, engine: TunnelEngine) -> bytes | None:
    """The id of the node of a configuration; None, with a warning, if its keys cannot be read."""
    try:
        return NodeKeys.load(config.keys).node_id(engine)
    except KeyFileError as error:
        log.warning("this node is not marked in the list: %s", error)
        return None


def _use_of(peer: dict[str, Any]) -> str:
    """Whether a peer can be used, for people."""
    if peer["this_node"]:
        return "–"
    return "backed off" if peer["state"] == "backed-off" else "yes" if peer["usable"] else "no"


def _described(
    names: PeerNames, peer: Descriptor, now_s: float, state: PeerState | None, own_id: bytes | None
) -> dict[str, Any]:
    is_own = peer.node_id == own_id
    try:
        peer.hop(now_s)
        usable = not is_own  # a node is no proxy or destination of its own
    except DescriptorError:
        usable = False
    return {
        "name": names.name(peer.node_id),
        "id": peer.node_id.hex(),
        "addresses": [str(address) for address in peer.addresses],
        "profiles": [Profile.from_byte(byte).name for byte in peer.profiles],
        "unlisted": peer.unlisted,
        "usable": usable,
        "this_node": is_own,
        "expires": peer.expiry,
        "state": None if state is None else state.name.lower().replace("_", "-"),
    }


@dataclass(frozen=True, slots=True)
class _Pinged:
    """One ping. Without an answer `milliseconds` is None, and `error` and `hint` have the reason."""

    hops: int
    milliseconds: float | None
    answer_bytes: int = 0
    error: str | None = None
    hint: str = ""
    retries: int = 0


def run_ping(options: argparse.Namespace) -> int:
    """Ping a node. Returns the exit status: 1 if one of the pings was not answered."""
    pings = []
    with Client(options) as client:
        destination = client.names.resolve(options.id)
        name = client.names.name(destination)
        for number in range(1, options.count + 1):
            pinged = _ping(client, destination, options)
            pings.append(pinged)
            if not options.json:
                _say_ping(number, name, pinged)
    times = [pinged.milliseconds for pinged in pings if pinged.milliseconds is not None]
    if options.json:
        outcome = {
            "id": destination.hex(),
            "hops": pings[0].hops,
            "sent": len(pings),
            "answered": len(times),
            "retried": sum(pinged.retries for pinged in pings),
            "milliseconds": [None if p.milliseconds is None else round(p.milliseconds, 3) for p in pings],
            "errors": [pinged.error for pinged in pings if pinged.milliseconds is None],
        }
        say_json(len(times) == len(pings), outcome)
    elif times:
        say(
            f"{len(times)} of {len(pings)} answered; minimum {min(times):.1f} ms, "
            f"median {statistics.median(times):.1f} ms, maximum {max(times):.1f} ms"
        )
        if lost := len(pings) - len(times):
            complain(f"error: {name} did not answer {lost} of {len(pings)} pings")
            if hint := next((pinged.hint for pinged in pings if pinged.hint), ""):
                complain(f"hint: {hint}")
    else:
        complain(f"error: {name} did not answer")
        known = all(pinged.hint for pinged in pings)
        advice = "try -v for the log of the client, or --hops 0 to dial the node directly"
        complain(f"hint: {pings[0].hint if known else advice}")
    return 0 if len(times) == len(pings) else 1


def _ping(client: Client, destination: bytes, options: argparse.Namespace) -> _Pinged:
    route = client.route(destination)
    hops = len(route.proxies)
    content = service_prefix("ping") + secrets.token_bytes(options.size)
    started_s = time.perf_counter()
    try:
        query = client.node.query(destination, content, route=route, retries=options.retries)
        result = wait(query, options.timeout)
        answer_bytes, error, retries = result.reply_bytes, None, len(result.attempts)
        result.close()
    except QueryFailed as failure:
        report, retries = failure.report, max(0, len(failure.attempts) - 1)
        if report is None or report.is_about_reply or report.suspects or report.hop != hops:
            said = client.names.in_words(str(failure))
            return _Pinged(hops, None, error=said, hint=client.hint(failure), retries=retries)
        answer_bytes, error = 0, client.names.in_words(str(report))  # a refusal by the node itself
    return _Pinged(hops, (time.perf_counter() - started_s) * 1000, answer_bytes, error, retries=retries)


def _say_ping(number: int, name: str, pinged: _Pinged) -> None:
    if pinged.milliseconds is None:
        say(f"{number}: no answer: {pinged.error}")
        return
    what = f"{pinged.answer_bytes} bytes" if pinged.error is None else f"({pinged.error})"
    again = f", after {pinged.retries} failed attempts" if pinged.retries else ""
    say(f"{number}: {what} from {name} in {pinged.milliseconds:.1f} ms {proxies_text(pinged.hops)}{again}")


def run_route(options: argparse.Namespace) -> int:
    """Draw a route and try it. Returns the exit status."""
    with Client(options) as client:
        route = client.route(client.names.resolve(options.id))
        report = failure = None
        attempts: tuple[QueryFailed, ...] = ()
        if not options.dry_run:
            query = client.node.query(
                route.destination,
                service_prefix("ping"),
                route=route,
                mode=ReplyMode.NONE,
                retries=options.retries,
            )
            try:
                result = wait(query, options.timeout)
                route, report, attempts = result.route, result.report, result.attempts
            except QueryFailed as error:
                failure = error
                attempts = error.attempts or (error,)
                report = attempts[0].report
        hops = _hops(client, route, report)
        if options.json:
            said = None if report is None else client.names.in_words(str(report))
            failed = [client.names.in_words(str(attempt)) for attempt in attempts]
            outcome = {"proxies": len(route.proxies), "hops": hops, "report": said, "failed": failed}
            say_json(failure is None, outcome, indent=1)
        else:
            _say_route(hops, report)
            for attempt in attempts if failure is None else ():
                say(f"failed before: {client.names.in_words(str(attempt))}")
            if failure is not None:
                raise failure
    return 0 if failure is None else 1


def _hops(client: Client, route: Route, report: Report | None) -> list[dict[str, Any]]:
    held = () if report is None else report.hold_ms
    hops: list[dict[str, Any]] = []
    for index, node_id in enumerate(route.nodes):
        peer = client.directory.lookup(node_id)
        hops.append(
            {
                "role": "destination" if index == len(route.proxies) else f"proxy {index + 1}",
                "name": client.names.name(node_id),
                "id": node_id.hex(),
                "addresses": [] if peer is None else [str(address) for address in peer.addresses],
                "held_ms": held[index] if index < len(held) else None,
            }
        )
    return hops


def _say_route(hops: list[dict[str, Any]], report: Report | None) -> None:
    rows = [
        [
            hop["role"],
            hop["name"],
            hop["id"][:16],
            ", ".join(hop["addresses"]),
            "" if hop["held_ms"] is None else f"{hop['held_ms']} ms",
        ]
        for hop in hops
    ]
    say(table(["role", "name", "id", "address", "held for"], rows))
    how = proxies_text(len(hops) - 1)
    say(f"{report}, {how}" if report is not None and report.succeeded else how)
