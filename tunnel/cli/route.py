"""`mtun route`: draws a route to a node, sends a small query along it and shows what each node says.

What is shown is what the route's nodes report to the sender alone: how long each has held the query. A route
is drawn anew for each query; this one is not used again. With --retries one that failed for a proxy's fault
is followed by another, and the one that carried the query is shown; when none did, the first.
"""

from __future__ import annotations

import argparse
from typing import Any

from tunnel.cli.client import Client, add_client_options, add_target, proxies_text, wait
from tunnel.cli.options import add_json, add_retries, command
from tunnel.cli.terminal import say, say_json, table
from tunnel.codes import Report
from tunnel.errors import QueryFailed
from tunnel.modes import ReplyMode
from tunnel.routing.route import Route
from tunnel.services import service_prefix

__all__ = ["add_parser"]

_EXAMPLE = """\
example:
  mtun route node-7 --network mynet --hops 5
  mtun route 4307b306 --peers peers.txt --dry-run      draw it only
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "route", __doc__, _EXAMPLE, run)
    add_target(parser)
    parser.add_argument("--dry-run", action="store_true", help="send nothing")
    add_retries(parser, "the query")
    add_client_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Draw it and try it. Returns the exit status."""
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
            _print(hops, report)
            for attempt in attempts if failure is None else ():
                say(f"before it: {client.names.in_words(str(attempt))}")
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


def _print(hops: list[dict[str, Any]], report: Report | None) -> None:
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
