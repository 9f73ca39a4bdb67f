"""Measure a network: round trips through proxies, and the throughput of content in both directions.

Without ID, it measures a temporary network on loopback in this process, limited by the speed of one
processor. With ID, that node must offer the service `echo`. With --retries, the first query finds a route
around failed proxies; the measurements use that route.

By default the profile depends on the size of the content: short chunks make short messages fast, but long
content expensive. --profile overrides this choice.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from tunnel.cli.client import Client, add_client_options, proxies_text, wait
from tunnel.cli.options import add_retries, command, count, filled, profile, size
from tunnel.cli.terminal import ProgressBar, complain, readable_size, say, say_json
from tunnel.client.clients import AskingNode
from tunnel.errors import ConfigError, QueryFailed
from tunnel.geometry import INTERACTIVE, Profile
from tunnel.local_network import LocalNetwork
from tunnel.node import Limits
from tunnel.routing.draw_route import LARGE_BYTES
from tunnel.routing.route import Route
from tunnel.services import Echo, Services, service_prefix

__all__ = ["add_parser"]

_EXAMPLE = """\
example:
  mtun bench                                       3 proxies, in this process
  mtun bench node-7 --network mynet --hops 10 --size 64MiB
"""
_MOST_BYTES = 1 << 40
_PREFIX = service_prefix("echo")


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "bench", __doc__, _EXAMPLE, run)
    add = parser.add_argument
    add(
        "id",
        type=filled,
        metavar="ID",
        nargs="?",
        help="the node to query: name, id or first digits of the id (default: a temporary network)",
    )
    add("--count", type=count(1, 10_000), default=20, metavar="N", help="number of round trips (default 20)")
    add(
        "--size",
        type=size(0, _MOST_BYTES),
        default=16 << 20,
        metavar="SIZE",
        help="content to echo (default 16MiB)",
    )
    add(
        "--profile",
        type=profile,
        metavar="NAME",
        help="profile of all queries, such as interactive or bulk-hctr (default: by size)",
    )
    add_retries(parser, "the first query")
    add_client_options(parser, required=False)


def run(options: argparse.Namespace) -> int:
    """Measure. Returns the exit status."""
    has_source = options.network or options.peers or options.config
    if bool(options.id) != bool(has_source):
        raise ConfigError(
            "ID and a network must be given together",
            "give ID and one of --network, --peers, --config; or neither",
        )
    if options.id:
        with Client(options) as client:
            destination = client.names.resolve(options.id)
            outcome = _measure(client.node, client.route(destination), options)
    else:
        hops = Limits().route_hops if options.hops is None else options.hops
        with LocalNetwork(hops + 2, service=Services({"echo": Echo()})) as net:
            route = net[0].choose_route(net[1].id, hops, options.profile or Profile.for_proxies(hops))
            outcome = _measure(net[0], route, options)
    if options.json:
        say_json(True, outcome)
    else:
        say(
            f"first query, links and handshakes included: {outcome['first_ms']:.1f} ms\n"
            f"round trip on warm links: median {outcome['median_ms']:.1f} ms, "
            f"minimum {outcome['least_ms']:.1f} ms ({options.count} times, "
            f"profile {outcome['round_trip_profile']})\n"
            f"{readable_size(options.size)} in each direction: {outcome['seconds']:.2f} s, "
            f"{outcome['mb_per_s']:.1f} MB/s each way, "
            f"{proxies_text(outcome['hops'])}, profile {outcome['profile']}"
        )
    return 0


def _measure(node: AskingNode, route: Route, options: argparse.Namespace) -> dict[str, Any]:
    def ask(content: Any, **more: Any) -> tuple[float, Profile]:
        nonlocal route
        started_s = time.perf_counter()
        future = node.query(route.destination, content, route=route, profile=options.profile, **more)
        result = wait(future, options.timeout)
        result.close()
        route = result.route
        return time.perf_counter() - started_s, result.profile

    first_s, small = ask(_PREFIX + bytes(64), retries=options.retries)
    times_s = [ask(_PREFIX + bytes(64))[0] for _ in range(options.count)]
    sink = _Counter()
    bar = ProgressBar(2 * options.size, enabled=not options.json)
    try:
        seconds, large = ask(
            _Content(options.size),
            purpose="bulk" if options.size >= LARGE_BYTES else None,
            sink=sink,
            progress=lambda sent, received: bar.update(sent + received),
        )
    finally:
        bar.close()
    if sink.count != options.size:
        raise QueryFailed(f"received {sink.count} bytes of {options.size} sent")
    if options.size >= LARGE_BYTES and large.geometry is INTERACTIVE:
        complain(
            f"note: profile {large.name} has chunks of {large.geometry.chunk_bytes} bytes; for content of "
            f"this size profile bulk costs about a tenth"
        )
    return {
        "hops": len(route.proxies),
        "profile": large.name,
        "round_trip_profile": small.name,
        "first_ms": round(first_s * 1000, 3),
        "least_ms": round(min(times_s) * 1000, 3),
        "median_ms": round(statistics.median(times_s) * 1000, 3),
        "bytes": options.size,
        "seconds": round(seconds, 4),
        "mb_per_s": round(options.size / seconds / 1e6, 3),
    }


class _Content:
    """The name of the service, then zeros, generated while they are read."""

    def __init__(self, size: int) -> None:
        self._first = _PREFIX
        self._left = size

    def read(self, size: int, /) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        count = min(size, self._left)
        self._left -= count
        return bytes(count)


class _Counter:
    """A sink that counts its bytes and discards them."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, data: memoryview) -> None:
        self.count += len(data)
