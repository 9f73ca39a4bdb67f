"""Latency of an answer by the number of proxies: `python -m bench.latency`.

* `one-shot route`, `one-shot cached`: queries in sequence, each with its own header, and their echoes, on
  open links. The protocol treats each as the first on its route, so this is also the *first query on warm
  links*. In mode `route` the reply has its own headers, in mode `cached` it has none.
* `cold links`: the same in mode `route`, but every node dials for each message (`LinkPolicy.ONCE`), so the
  time includes connection and handshake of each hop, in both directions.
* `established`: a message and its echo over one open tunnel; the same for tunnels of purpose `mixed`,
  `interactive` and `bulk`.

Content is 64 bytes. There are two layouts: `processes`, one for each node, which share this machine's cores;
and `one process`, with all nodes in one reactor, where no process is woken and nothing runs concurrently.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.command import count, make_parser, positive_count, run, settings_of, watcher
from bench.plots import drawing
from bench.processes import NodeProcesses
from bench.report import Machine, report, table
from bench.round_trips import KINDS, round_trips
from tunnel import Limits, LocalNetwork, Route
from tunnel.node.limits import LinkPolicy

__all__ = ["Case", "Latency", "Settings", "main", "measure", "record", "text"]

LAYOUTS = ("processes", "one process")
_COLD = "cold links"
_NAMES = {"route": "one-shot route", "cached": "one-shot cached"}
_WARM_UP = 3
_TIMEOUT_S = 600.0

Measured = Callable[[Sequence[int], str, int], list[float]]
"""Round trips over these nodes, of this kind, this many times: seconds of each."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a measurement.

    Attributes:
        hops: numbers of proxies, one column each.
        count: round trips of each case on warm links. cold: on cold ones.
        content_bytes: each way.
    """

    hops: tuple[int, ...] = (0, 1, 3, 10, 23, 25)
    count: int = 200
    cold: int = 20
    content_bytes: int = 64

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(hops=(0, 2), count=3, cold=2)


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of several round trips, in milliseconds. With fewer than 100, p99 is the longest."""

    p50_ms: float
    p99_ms: float
    low_ms: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Raises ValueError: no values."""
        if not seconds:
            raise ValueError("no measurements")
        ordered = sorted(seconds)
        p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        return cls(statistics.median(ordered) * 1e3, p99 * 1e3, ordered[0] * 1e3, len(ordered))

    def text(self) -> str:
        """ "p50 / p99"."""
        return f"{self.p50_ms:.3g} / {self.p99_ms:.3g}"


@dataclass(frozen=True, slots=True)
class Case:
    """One kind, one layout, one number of proxies."""

    kind: str
    layout: str
    hops: int
    latency: Latency


@contextmanager
def _processes(nodes: int, settings: Settings, links: LinkPolicy) -> Iterator[Measured]:
    with NodeProcesses(nodes, service="echo", digest="crc32", links=links) as net:
        yield lambda route, kind, count: net.round_trips(
            route, kind, count=count, content_bytes=settings.content_bytes
        )


@contextmanager
def _one_process(nodes: int, settings: Settings, links: LinkPolicy) -> Iterator[Measured]:
    with LocalNetwork(nodes, limits=Limits(link_policy=links)) as net:

        def measured(indices: Sequence[int], kind: str, count: int) -> list[float]:
            origin, *proxies, destination = (net[index] for index in indices)
            route = Route(tuple(node.id for node in proxies), destination.id)
            times = round_trips(origin, route, kind, count=count, content_bytes=settings.content_bytes)
            return net.submit(times).result(_TIMEOUT_S)

        yield measured


def _cases(settings: Settings, layout: str) -> Iterator[Case]:
    network = _processes if layout == "processes" else _one_process
    nodes = max(settings.hops) + 2
    routes = {hops: range(hops + 2) for hops in settings.hops}
    with network(nodes, settings, LinkPolicy.POOLED) as measured:
        for hops, route in routes.items():
            for kind in KINDS:
                measured(route, kind, _WARM_UP)
                yield Case(
                    _NAMES.get(kind, kind), layout, hops, Latency.of(measured(route, kind, settings.count))
                )
    with network(nodes, settings, LinkPolicy.ONCE) as measured:
        for hops, route in routes.items():
            measured(route, "route", 1)
            yield Case(_COLD, layout, hops, Latency.of(measured(route, "route", settings.cold)))


def measure(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> list[Case]:
    """Measure one case after the other.

    Args:
        progress: called with a line after each.
    Raises:
        ProcessError: a process failed. QueryFailed: a query did.
    """
    cases = []
    for layout in LAYOUTS:
        for case in _cases(settings, layout):
            cases.append(case)
            progress(f"{case.layout}, {case.kind}, {case.hops} proxies: {case.latency.text()} ms")
    return cases


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people: a row for each kind and layout, a column for each number of proxies."""
    found = {(case.kind, case.layout, case.hops): case.latency.text() for case in cases}
    rows = [
        [f"{kind}, {layout}", *(found[kind, layout, hops] for hops in settings.hops)]
        for kind, layout in dict.fromkeys((case.kind, case.layout) for case in cases)
    ]
    heads = ["p50 / p99 in ms", *(f"{hops} proxies" for hops in settings.hops)]
    title = (
        f"Latency: {settings.content_bytes} bytes and their echo, {settings.count} times, "
        f"{settings.cold} on cold links"
    )
    return table(heads, rows, title=title) + f"\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("latency", settings, cases, where)


def _plot(cases: Sequence[Case], where: Machine, path: str) -> None:
    with drawing(path, where.line(), (10, 4.5)) as figure:
        for panel, layout in zip(figure.subplots(1, 2, sharey=True), LAYOUTS, strict=True):
            for kind in dict.fromkeys(case.kind for case in cases):
                line = [case for case in cases if (case.kind, case.layout) == (kind, layout)]
                hops = [case.hops for case in line]
                panel.plot(hops, [case.latency.p50_ms for case in line], marker="o", label=kind)
                panel.fill_between(
                    hops,
                    [case.latency.p50_ms for case in line],
                    [case.latency.p99_ms for case in line],
                    alpha=0.15,
                )
            panel.set(title=layout, xlabel="proxies", ylabel="ms, p50 (shaded: to p99)", yscale="log")
            panel.legend(fontsize="small")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    full, short = Settings(), Settings.short()
    parser = make_parser("bench.latency", __doc__ or "", short=f"other defaults: {short}", plot=True)
    parser.add_argument("--hops", type=count, nargs="+", metavar="N", help=f"proxies (default {full.hops})")
    parser.add_argument(
        "--count", type=positive_count, metavar="N", help=f"round trips (default {full.count})"
    )
    parser.add_argument(
        "--cold", type=positive_count, metavar="N", help=f"on cold links (default {full.cold})"
    )
    options = parser.parse_args(arguments)
    settings = settings_of(options, Settings)
    return run(options, settings, lambda: (measure(settings, watcher()),), text, record, _plot)


if __name__ == "__main__":
    sys.exit(main())
