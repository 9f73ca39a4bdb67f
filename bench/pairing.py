"""Who talks to whom, guessed from all wires: `python -m bench.pairing`.

Some clients each have a tunnel to a server of their own, over two of the same few relays. The observer sees
the times and sizes of records on every wire (`bench.wire_records`), and so the traffic of each client and of
each server. He pairs them: by the number of bytes alone, and by how alike their traffic is over time. Without
a look he would find one pair, whatever their number.

The document puts this observer outside its model (docs/protocol.md, "Threat model"). The figures show how
little it takes, and what padding changes.

    python -m bench.pairing --tunnels 1 2 5 10 20
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bench.command import make_parser, positive, positive_count, run, settings_of, watcher
from bench.observer import Watched
from bench.report import Machine, report, table
from bench.wire_records import Connection
from reactor import CurrentTime, Service, Sleep
from tunnel.link.handshake import PaddingMode
from tunnel.node import Limits
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.routing.route import Route

__all__ = ["Case", "Settings", "main", "measure", "record", "text"]

_RELAYS: Final = 4
_HOPS: Final = 2
_BIN_S: Final = 0.02
_LATEST_BINS: Final = 15  # the server's traffic may be so much later than the client's
_PATIENCE_S: Final = 120.0
_MESSAGE_BYTES: Final = (500, 30_000)
_GAP_S: Final = 0.2
_LATENCIES_S: Final = (0.005, 0.05)


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters.

    Attributes:
        tunnels: numbers of parallel tunnels. seconds: of traffic. rounds: each with other routes.
    """

    tunnels: tuple[int, ...] = (1, 2, 5, 10, 20)
    seconds: float = 5.0
    rounds: int = 2
    seed: int = 1

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(tunnels=(3,), seconds=1.0, rounds=1)


@dataclass(frozen=True, slots=True)
class Case:
    """Parallel tunnels under one kind of links.

    Attributes:
        by_bytes, by_times: shares of the pairs that the observer found, 0 to 1.
    """

    name: str
    tunnels: int
    by_bytes: float
    by_times: float


def _limits() -> dict[str, Limits]:
    off = Limits(link_tick_s=0.02)
    return {
        "no padding": off,
        "no padding, latencies": off,
        "padding at random times": replace(off, padding=PaddingMode.POISSON, padding_gap_s=0.1),
        "constant rate": replace(off, padding=PaddingMode.CONSTANT, padding_gap_s=0.1, padding_units=16),
    }


# --- the traffic ------------------------------------------------------------------------------------------


def _speaker(rng: random.Random, seconds: float) -> Callable[[NodeTunnel], Service[None]]:
    """A conversation: messages at random times, each answered with the same bytes."""

    def use(tunnel: NodeTunnel) -> Service[None]:
        end_s: float = (yield CurrentTime()) + seconds
        while True:
            yield Sleep(rng.expovariate(1 / _GAP_S))
            now_s: float = yield CurrentTime()
            if now_s > end_s:
                return
            yield from tunnel.send(bytes(rng.randrange(*_MESSAGE_BYTES)))
            yield from tunnel.receive()

    return use


def _watch(name: str, limits: Limits, tunnels: int, seconds: float, rng: random.Random) -> list[Connection]:
    """Run the tunnels. Nodes 0 … are clients, the next the servers, in the same order, then the relays."""
    count = 2 * tunnels + _RELAYS
    relays = range(2 * tunnels, count)
    is_late = name.endswith("latencies")

    def delay_s(source: int, target: int) -> float:
        return rng.uniform(*_LATENCIES_S) if is_late else 0.0

    def is_watched(source: int, target: int) -> bool:
        return source in relays or target in relays

    with Watched(count, limits, delay_s=delay_s, is_watched=is_watched) as watched:
        ids = [node.id for node in watched.nodes]
        futures = []
        for client in range(tunnels):
            proxies = tuple(ids[index] for index in rng.sample(relays, _HOPS))
            server = ids[tunnels + client]
            use = _speaker(random.Random(rng.random()), seconds)
            route = Route(proxies, server)
            futures.append(watched.nodes[client].tunnel(server, use, route=route, purpose="stream"))
        for future in futures:
            future.result(_PATIENCE_S)
        return list(watched.connections)


# --- the guesses ------------------------------------------------------------------------------------------


def _traffic(connections: Iterable[Connection], node: int) -> dict[int, int]:
    """Bytes on all wires of a client or a server, by the bin of their time."""
    found: dict[int, int] = {}
    for connection in connections:
        if node in (connection.source, connection.target):
            for passed in connection.records:
                place = int(passed.time_s / _BIN_S)
                found[place] = found.get(place, 0) + passed.size
    return found


def _likeness(client: dict[int, int], server: dict[int, int]) -> float:
    """The largest correlation of the two over the shifts in time, −1 to 1."""
    start, end = min(client), max(client) + 1
    left = [client.get(at, 0) for at in range(start, end)]
    found = -1.0
    for shift in range(_LATEST_BINS + 1):
        right = [server.get(at + shift, 0) for at in range(start, end)]
        found = max(found, _correlation(left, right))
    return found


def _correlation(left: Sequence[int], right: Sequence[int]) -> float:
    count = len(left)
    mean_left, mean_right = sum(left) / count, sum(right) / count
    over_left = sum((value - mean_left) ** 2 for value in left)
    over_right = sum((value - mean_right) ** 2 for value in right)
    both = sum((a - mean_left) * (b - mean_right) for a, b in zip(left, right, strict=True))
    return both / (over_left * over_right) ** 0.5 if over_left and over_right else 0.0


def _share_found(likes: Sequence[Sequence[float]], rng: random.Random) -> float:
    """Pair the most alike first, and count the right pairs.

    Args:
        likes: how alike each client is to each server, in the same order. rng: draws among equals, where
            their numbers would be a hint.
    """
    every = [(like, client, server) for client, row in enumerate(likes) for server, like in enumerate(row)]
    rng.shuffle(every)
    pairs: dict[int, int] = {}
    for _, client, server in sorted(every, key=lambda one: one[0], reverse=True):
        if client not in pairs and server not in pairs.values():
            pairs[client] = server
    return sum(client == server for client, server in pairs.items()) / len(likes)


def _measure_case(name: str, limits: Limits, tunnels: int, settings: Settings) -> Case:
    by_bytes = by_times = 0.0
    for number in range(settings.rounds):
        rng = random.Random(f"{settings.seed} {number} {name} {tunnels}")
        connections = _watch(name, limits, tunnels, settings.seconds, rng)
        clients = [_traffic(connections, index) for index in range(tunnels)]
        servers = [_traffic(connections, tunnels + index) for index in range(tunnels)]
        sums = [[sum(traffic.values()) for traffic in side] for side in (clients, servers)]
        differences = [[-abs(client - server) for server in sums[1]] for client in sums[0]]
        by_bytes += _share_found(differences, rng)
        by_times += _share_found(
            [[_likeness(client, server) for server in servers] for client in clients], rng
        )
    return Case(name, tunnels, by_bytes / settings.rounds, by_times / settings.rounds)


def measure(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> list[Case]:
    """Watch one case after the other. Raises QueryFailed: a tunnel broke."""
    cases = []
    for name, limits in _limits().items():
        for tunnels in settings.tunnels:
            cases.append(_measure_case(name, limits, tunnels, settings))
            progress(f"{name}, {tunnels} tunnels: {cases[-1].by_times:.0%}")
    return cases


# --- the report -------------------------------------------------------------------------------------------


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people."""
    rows = [
        (case.name, case.tunnels, f"{1 / case.tunnels:.0%}", f"{case.by_bytes:.0%}", f"{case.by_times:.0%}")
        for case in cases
    ]
    title = (
        f"Observer of all wires: parallel tunnels over {_HOPS} of {_RELAYS} relays, {settings.seconds:g} s, "
        f"{settings.rounds} rounds; share of pairs of client and server found"
    )
    heads = ("links", "tunnels", "by chance", "by bytes", "by times")
    return table(heads, rows, title=title) + f"\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("pairing", settings, cases, where)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "bench.pairing",
        "The share of clients that an observer of all wires pairs with their servers.",
        short="other defaults: three tunnels for a second",
        example="--tunnels 5 --seconds 10",
    )
    full = Settings()
    parser.add_argument(
        "--tunnels", type=positive_count, nargs="+", help=f"in parallel (default {full.tunnels})"
    )
    parser.add_argument("--seconds", type=positive, help=f"of traffic (default {full.seconds:g})")
    parser.add_argument("--rounds", type=positive_count, help=f"of each (default {full.rounds})")
    parser.add_argument("--seed", type=int, help="other routes and messages")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    settings = settings_of(options, Settings)
    return run(options, settings, lambda: (measure(settings, watcher()),), text, record)


if __name__ == "__main__":
    sys.exit(main())
