"""The knowledge of an observer of all wires: `python -m bench.observer`.

A recording proxy stands between every two nodes. The same schedule of queries runs with one link per message
(policy `once`), over permanent links (`pooled`), and over permanent links with padding at a constant rate.
Then the observer, who sees connections, and the times, directions and sizes of records, guesses the routes
(`bench.wire_records`). The report counts the correct guesses.

* Under `once` the connections reveal the routes.
* Under `pooled` the connections reveal nothing: they are the same with and without messages. The times of
  records still reveal a route while no other traffic passes.
* At a constant rate the records reveal nothing either: each direction has records of one size, at one rate.

Every record has one of the sizes that the protocol allows, whatever its content. The report counts this too.

    python -m bench.observer --nodes 8 --queries 60 --json result.json --plot result.png
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.command import make_parser, run, settings_of, watcher
from bench.node_group import NodeGroup
from bench.plots import drawing
from bench.report import Machine, report, table
from bench.tcp_proxy import TcpProxy
from bench.wire_records import Connection, connections_as_events, guess_routes, records_as_events
from reactor import CurrentTime, Sleep
from tunnel.directory import StaticDirectory
from tunnel.geometry import DEFAULT, Profile
from tunnel.link.handshake import PaddingMode
from tunnel.link.records import MAX_UNITS, UNIT_BYTES
from tunnel.modes import ReplyMode
from tunnel.node import Limits, Node
from tunnel.node.limits import LinkPolicy
from tunnel.node.query.request import QueryRequest
from tunnel.routing.route import Route
from tunnel.services import InnerService

__all__ = ["Case", "Settings", "Watched", "main", "measure", "record", "text"]

# The longest time that the observer assumes a node to hold a frame, and the length of a silence. The observer
# knows the network: of 0.02 to 0.25 s and 5 to 50 ms these values found the most routes.
_HELD_S = 0.04
_SILENCE_S = 0.005
_KEPT = Limits(link_tick_s=0.02)


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of an observation.

    Attributes:
        nodes: of the network. queries: number. hops: proxies of each route. gap_s: mean time from one query
            to the next, drawn exponentially. content_bytes: of each. seed: of the schedule.
        padding_gap_s: time between records at the constant rate.
    """

    nodes: int = 8
    queries: int = 60
    hops: int = 3
    gap_s: float = 0.15
    content_bytes: int = 2_000
    seed: int = 1
    padding_gap_s: float = 0.1

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(nodes=5, queries=6, hops=2, gap_s=0.05)

    def schedule(self) -> list[tuple[float, tuple[int, ...]]]:
        """The start time of each query, and its route, Alice and Bob included."""
        rng = random.Random(self.seed)
        found, time_s = [], 0.0
        for _ in range(self.queries):
            time_s += rng.expovariate(1 / self.gap_s)
            found.append((time_s, tuple(rng.sample(range(self.nodes), self.hops + 2))))
        return found


@dataclass(frozen=True, slots=True)
class Case:
    """The observation under one policy.

    Attributes:
        connections, connections_meanwhile: number opened in total, and after the first query began.
        records, record_sizes: numbers of records and of their sizes; strange: connections with bytes that
            are not a record of an allowed size.
        by_connections, by_records: shares of the routes that the observer found, 0 to 1; guesses_…: chains
            that it takes for routes.
        trace: for the plot: (time, source, target, bytes) of each record, and of each connection with 0.
    """

    name: str
    queries: int
    connections: int
    connections_meanwhile: int
    records: int
    record_sizes: tuple[int, ...]
    strange: int
    by_connections: float
    guesses_by_connections: int
    by_records: float
    guesses_by_records: int
    trace: tuple[tuple[float, int, int, int], ...]


class Watched:
    """A context manager: nodes, and a recording proxy between every two of them.

    Args:
        limits: of every node. service: of every node; by default `Echo`.
        delay_s: time on the wire from one node to another, by their numbers.
        is_watched: whether there is a recording proxy between two nodes, by their numbers; by default
            between all. Without one the node is known, for routes.
    Attributes:
        connections: all that were seen.
    """

    def __init__(
        self,
        count: int,
        limits: Limits,
        *,
        service: InnerService | None = None,
        delay_s: Callable[[int, int], float] = lambda source, target: 0.0,
        is_watched: Callable[[int, int], bool] = lambda source, target: True,
    ) -> None:
        self.group = NodeGroup()
        self.connections: list[Connection] = []
        self.nodes: list[Node] = []
        self._count = count
        self._limits = limits
        self._service = service
        self._delay_s = delay_s
        self._is_watched = is_watched
        self._directories = [StaticDirectory() for _ in range(count)]

    def __enter__(self) -> Watched:
        self.group.__enter__()
        try:
            self.nodes = [
                self.group.add(known, limits=self._limits, service=self._service)
                for known in self._directories
            ]
            for source in range(self._count):
                for target in range(self._count):
                    self._introduce(source, target)
            for node in self.nodes:
                self.group.start(node)
            if self._limits.links_ahead:
                self.group.wait_until(lambda: all(map(self._is_linked, self.nodes)))
        except BaseException:
            self.group.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *reason: Any) -> None:
        self.group.__exit__(*reason)

    def _is_linked(self, node: Node) -> bool:
        """Whether the node has one link to each other node, and neither dials nor is dialled."""
        neighbours = {link.peer.node_id for link in node.links}
        return node.is_idle and len(neighbours) == len(node.links) == self._count - 1

    def _introduce(self, source: int, target: int) -> None:
        """Give a node the descriptor of another, with the address of the proxy between them."""
        descriptor = self.nodes[target].descriptor
        if source != target and self._is_watched(source, target):

            def watch() -> Connection:
                self.connections.append(Connection(source, target, self.group.reactor.now))
                return self.connections[-1]

            delay_s = self._delay_s(source, target)
            proxy = TcpProxy(watch, self.nodes[target].listens_at, delay_s=delay_s)
            self.group.submit(proxy.serve())
            descriptor = replace(descriptor, addresses=(proxy.address,))
        self._directories[source].publish(descriptor)

    def ask(self, route: tuple[int, ...], content_bytes: int) -> Generator[Any, Any, None]:
        """A query in mode `none`, so that its route is passed once. Raises QueryFailed."""
        ids = [self.nodes[index].id for index in route]
        call = QueryRequest(
            Route(tuple(ids[1:-1]), ids[-1]), bytes(content_bytes), ReplyMode.NONE, Profile(DEFAULT), 60.0
        )
        result = yield from self.nodes[route[0]].query_service(call)
        result.close()

    def run(self, schedule: Sequence[tuple[float, tuple[int, ...]]], content_bytes: int) -> float:
        """Run a schedule to its end; returns the time at which it began."""

        def one(at_s: float, route: tuple[int, ...]) -> Generator[Any, Any, None]:
            yield Sleep(at_s)
            yield from self.ask(route, content_bytes)

        def now() -> Generator[Any, Any, float]:
            time_s: float = yield CurrentTime()
            return time_s

        began_s = self.group.run(now())
        futures = [self.group.submit(one(at_s, route)) for at_s, route in schedule]
        for future in futures:
            future.result(600.0)
        self.group.wait_until(lambda: all(node.is_idle for node in self.nodes))
        return began_s


def limits_of(settings: Settings) -> dict[str, Limits]:
    """The limits of all nodes in each case."""
    pooled = replace(_KEPT, links_ahead=settings.nodes - 1)
    return {
        "once": replace(_KEPT, link_policy=LinkPolicy.ONCE),
        "pooled": pooled,
        "pooled, constant rate": replace(
            pooled, padding=PaddingMode.CONSTANT, padding_gap_s=settings.padding_gap_s, padding_units=5
        ),
    }


def _measure_case(name: str, settings: Settings, limits: Limits) -> Case:
    schedule = settings.schedule()
    with Watched(settings.nodes, limits) as watched:
        began_s = watched.run(schedule, settings.content_bytes)
        found = list(watched.connections)
    routes = [route for _, route in schedule]
    # Only events during queries are useful to the observer, who may know when queries run.
    lately = [event for event in connections_as_events(found) if event.time_s >= began_s]
    by_connections = _whole(guess_routes(lately, _HELD_S), settings)
    events = [event for event in records_as_events(found, _SILENCE_S) if event.time_s >= began_s]
    by_records = _whole(guess_routes(events, _HELD_S), settings)
    sizes = sorted({record.size for connection in found for record in connection.records})
    return Case(
        name=name,
        queries=len(routes),
        connections=len(found),
        connections_meanwhile=len(lately),
        records=sum(len(connection.records) for connection in found),
        record_sizes=tuple(sizes),
        strange=sum(connection.has_strange_bytes for connection in found),
        by_connections=_share_found(routes, by_connections),
        guesses_by_connections=len(by_connections),
        by_records=_share_found(routes, by_records),
        guesses_by_records=len(by_records),
        trace=tuple(_trace(found, began_s)),
    )


def _whole(guesses: Sequence[tuple[int, ...]], settings: Settings) -> list[tuple[int, ...]]:
    """The observer knows how long routes are."""
    return [guess for guess in guesses if len(guess) == settings.hops + 2]


def _share_found(routes: Sequence[tuple[int, ...]], guesses: Sequence[tuple[int, ...]]) -> float:
    left = list(guesses)
    found = 0
    for route in routes:
        if route in left:
            left.remove(route)
            found += 1
    return found / len(routes)


def _trace(found: Sequence[Connection], began_s: float) -> list[tuple[float, int, int, int]]:
    rows = [(connection.began_s - began_s, connection.source, connection.target, 0) for connection in found]
    for connection in found:
        ends = (connection.source, connection.target)
        for passed in connection.records:
            source, target = ends if passed.is_outward else ends[::-1]
            rows.append((passed.time_s - began_s, source, target, passed.size))
    return sorted(rows)


def measure(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> list[Case]:
    """Watch one case after the other. Raises QueryFailed: a query of the schedule did not come through."""
    cases = []
    for name, limits in limits_of(settings).items():
        cases.append(_measure_case(name, settings, limits))
        progress(
            f"{name}: {cases[-1].by_connections:.0%} by connections, {cases[-1].by_records:.0%} by records"
        )
    return cases


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people."""
    rows = [
        (
            case.name,
            case.connections,
            case.connections_meanwhile,
            case.records,
            len(case.record_sizes),
            case.strange,
            f"{case.by_connections:.0%} ({case.guesses_by_connections})",
            f"{case.by_records:.0%} ({case.guesses_by_records})",
        )
        for case in cases
    ]
    title = (
        f"Observer of all wires: {settings.queries} queries over {settings.hops} of {settings.nodes - 2} "
        f"others, one each {settings.gap_s * 1000:g} ms; share of routes found (chains taken for routes)"
    )
    heads = (
        "", "connections", "during queries", "records", "sizes", "strange", "by connections", "by records",
    )  # fmt: skip
    return table(heads, rows, title=title) + f"\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report(
        "observer",
        settings,
        cases,
        where,
        allowed_sizes=[units * UNIT_BYTES for units in range(1, MAX_UNITS + 1)],
    )


def _plot(settings: Settings, cases: Sequence[Case], path: str) -> None:
    with drawing(path, "", (11, 3 * len(cases))) as figure:
        last_s = settings.schedule()[-1][0] + 0.5
        for case, axes in zip(cases, figure.subplots(len(cases), 1, sharex=True), strict=True):
            lanes = [source * settings.nodes + target for _, source, target, _ in case.trace]
            times = [time_s for time_s, _, _, _ in case.trace]
            for is_opening, marker, colour, name in (
                (False, ".", "tab:grey", "record"),
                (True, "|", "tab:red", "connection opened"),
            ):
                chosen = [
                    i for i, row in enumerate(case.trace) if (row[3] == 0) is is_opening and row[0] > -0.5
                ]
                places = [times[i] for i in chosen], [lanes[i] for i in chosen]
                axes.scatter(*places, s=60 if is_opening else 2, marker=marker, color=colour, label=name)
            axes.set(title=f"{case.name}: {case.by_connections:.0%} of routes found by connections, "
                     f"{case.by_records:.0%} by records", ylabel="from, to", xlim=(-0.5, last_s))  # fmt: skip
            axes.set_yticks([])
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2)
        axes.set_xlabel("seconds since the first query was due")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "bench.observer",
        "The share of routes that an observer of all wires finds, by link policy.",
        short="other defaults: a few queries, a few nodes",
        plot=True,
        example="--queries 60 --plot observer.png",
    )
    full = Settings()
    parser.add_argument("--nodes", type=int, help=f"of the network (default {full.nodes})")
    parser.add_argument("--queries", type=int, help=f"how many (default {full.queries})")
    parser.add_argument("--hops", type=int, help=f"proxies of each (default {full.hops})")
    parser.add_argument("--gap", type=float, dest="gap_s", help=f"seconds between (default {full.gap_s})")
    parser.add_argument("--seed", type=int, help="another schedule")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    settings = settings_of(options, Settings)
    if settings.queries < 1 or not settings.gap_s > 0 or not 0 <= settings.hops <= settings.nodes - 2:
        parser.error("at least one query and two nodes, a gap above 0, and at most as many hops as others")
    return run(
        options,
        settings,
        lambda: (measure(settings, watcher()),),
        text,
        record,
        lambda cases, _, path: _plot(settings, cases, path),
    )


if __name__ == "__main__":
    sys.exit(main())
