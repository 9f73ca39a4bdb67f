"""The gain of permanent links over one link for each message: `python -m bench.links`.

For each number of proxies two networks run, with one process per node. In one the links are permanent and
carry many messages at a time (policy `pooled`); in the other each message dials its own links (`once`, as the
Rust original did). Both get the same queries, in turn:

* small queries in sequence over the same route, with replies: milliseconds to the first byte of the reply
  (the reply is one chunk, so this is also its last byte);
* many small queries at the same time: queries per second;
* one long transfer in mode `none`: MB/s of content, 10⁶ bytes each.

It also measures the memory of an open stream: a proxy holds many idle tunnels of mode `cached`, over one link
on each side. The growth of its process is divided by their number.

    python -m bench.links --proxies 1 3 10 --pairs 3 --json result.json --plot result.png
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.command import count, make_parser, positive, positive_count, run, settings_of, watcher
from bench.plots import drawing
from bench.processes import NodeProcesses, RunningQuery
from bench.report import Machine, Spread, report, table

__all__ = ["Case", "Memory", "Settings", "main", "measure", "measure_memory", "record", "text"]

_DIGEST = "crc32"
_SMALL_BYTES = 64
_POLICIES = ("pooled", "once")
_MEMORY_TIMEOUT_S = 120.0
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a measurement.

    Attributes:
        proxies: numbers of proxies, one case each. pairs: rounds of both policies.
        queries: small queries of a round, first in sequence, then in parallel. at_once: how many of the
            latter run at a time. megabytes: of the transfer. streams: open streams at the proxy.
    """

    proxies: tuple[int, ...] = (1, 3, 10)
    pairs: int = 3
    queries: int = 60
    at_once: int = 16
    megabytes: float = 32
    streams: int = 1000

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works; too small to measure."""
        return cls(proxies=(1,), pairs=1, queries=6, at_once=3, megabytes=1, streams=40)


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy in one case.

    Attributes:
        first_byte_ms: the median of each round. queries_per_s, mb_per_s: of each round.
    """

    first_byte_ms: Spread
    queries_per_s: Spread
    mb_per_s: Spread


@dataclass(frozen=True, slots=True)
class Case:
    """One number of proxies, under both policies."""

    proxies: int
    pooled: Policy
    once: Policy


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of open streams at a proxy. Each tunnel is two streams, one on each side.

    Attributes:
        rss_bytes_per_tunnel: of the process, content and buffers included.
    """

    tunnels: int
    links: int
    rss_bytes_before: int
    rss_bytes_after: int

    @property
    def rss_bytes_per_tunnel(self) -> float:
        return (self.rss_bytes_after - self.rss_bytes_before) / self.tunnels


@dataclass(frozen=True, slots=True)
class _Round:
    first_byte_ms: float
    queries_per_s: float
    mb_per_s: float


def _start(net: NodeProcesses, proxies: int, content_bytes: int, mode: str) -> RunningQuery:
    route = range(1, proxies + 1)
    return net.query(0, proxies + 1, content_bytes=content_bytes, route=route, mode=mode, profile="default")


def _round(net: NodeProcesses, proxies: int, settings: Settings) -> _Round:
    times = [_start(net, proxies, _SMALL_BYTES, "route").result()["seconds"] for _ in range(settings.queries)]
    began_s = time.perf_counter()
    under_way: deque[RunningQuery] = deque()
    for _ in range(settings.queries):
        if len(under_way) >= settings.at_once:
            under_way.popleft().result()
        under_way.append(_start(net, proxies, _SMALL_BYTES, "route"))
    for query in under_way:
        query.result()
    seconds = time.perf_counter() - began_s
    content_bytes = int(settings.megabytes * 1_000_000)
    report = _start(net, proxies, content_bytes, "none").result()
    return _Round(
        statistics.median(times) * 1000, settings.queries / seconds, content_bytes / report["seconds"] / 1e6
    )


def _policy(rounds: Sequence[_Round]) -> Policy:
    return Policy(
        Spread.of([found.first_byte_ms for found in rounds]),
        Spread.of([found.queries_per_s for found in rounds]),
        Spread.of([found.mb_per_s for found in rounds]),
    )


def _measure_case(proxies: int, settings: Settings, progress: Callable[[str], None]) -> Case:
    rounds: dict[str, list[_Round]] = {name: [] for name in _POLICIES}
    pooled = NodeProcesses(proxies + 2, links="pooled", digest=_DIGEST)
    with pooled, NodeProcesses(proxies + 2, links="once", digest=_DIGEST) as once:
        for net in (pooled, once):
            _start(net, proxies, _SMALL_BYTES, "route").result()
        for number in range(settings.pairs):
            for name, net in zip(_POLICIES, (pooled, once), strict=True):
                rounds[name].append(_round(net, proxies, settings))
            progress(f"{proxies} proxies, round {number + 1} of {settings.pairs}")
    return Case(proxies, _policy(rounds["pooled"]), _policy(rounds["once"]))


def measure(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> list[Case]:
    """Measure one case after the other.

    Raises:
        ProcessError: a process failed. QueryFailed: a query did.
    """
    return [_measure_case(proxies, settings, progress) for proxies in settings.proxies]


def measure_memory(settings: Settings) -> Memory:
    """Hold tunnels open through one proxy. Raises as `measure`, and TimeoutError: not all came to Bob."""
    with NodeProcesses(3, service="hold", idle_s=3600.0, digest=_DIGEST) as net:
        before = _open_streams(net, 20)  # the first ones allocate shared objects
        after = _open_streams(net, settings.streams)
        return Memory(settings.streams, 2, before, after)


def _open_streams(net: NodeProcesses, count: int) -> int:
    """Open this many more; returns the proxy's memory when Bob holds all of them."""
    opened = [
        net.query(0, 2, content_bytes=_SMALL_BYTES, route=[1], mode="cached", profile="default")
        for _ in range(count)
    ]
    until_s = time.monotonic() + _MEMORY_TIMEOUT_S
    held = 0
    while held < count:
        for query in opened:
            if query.has_ended:
                query.result()  # raises: none of them is answered
        if time.monotonic() > until_s:
            raise TimeoutError(f"{held} of {count} tunnels are open")
        time.sleep(_LOOK_S)
        held += len(net.received(2))
    return net.usage(1).rss_bytes


def text(settings: Settings, cases: Sequence[Case], memory: Memory, where: Machine) -> str:
    """The report for people."""
    rows = []
    for case in cases:
        for name in _POLICIES:
            found: Policy = getattr(case, name)
            rows.append(
                (
                    f"{case.proxies} proxies, {name}",
                    found.first_byte_ms.text(),
                    found.queries_per_s.text(0),
                    found.mb_per_s.text(),
                )
            )
    title = (
        f"Links: {settings.queries} queries of {_SMALL_BYTES} bytes, then {settings.at_once} at once, "
        f"{settings.megabytes:g} MB in one transfer, {settings.pairs} rounds; median (lowest–highest)"
    )
    lines = table(("", "ms to first byte", "queries/s", "MB/s"), rows, title=title)
    held = (
        f"{memory.tunnels} idle tunnels through one proxy, over {memory.links} links: "
        f"{memory.rss_bytes_per_tunnel / 1024:.1f} KiB of its memory each "
        f"({memory.rss_bytes_before / 2**20:.1f} to {memory.rss_bytes_after / 2**20:.1f} MiB)"
    )
    return f"{lines}\n{held}\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], memory: Memory, where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report(
        "links",
        settings,
        cases,
        where,
        memory={**asdict(memory), "rss_bytes_per_tunnel": memory.rss_bytes_per_tunnel},
    )


def _plot(cases: Sequence[Case], where: Machine, path: str) -> None:
    with drawing(path, where.line(), (12, 4)) as figure:
        labels = {
            "first_byte_ms": "ms to first byte",
            "queries_per_s": "queries a second",
            "mb_per_s": "MB/s",
        }
        for axes, (field, label) in zip(figure.subplots(1, 3), labels.items(), strict=True):
            for offset, name in ((-0.2, "pooled"), (0.2, "once")):
                spreads = [getattr(getattr(case, name), field) for case in cases]
                errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
                places = [position + offset for position in range(len(cases))]
                axes.bar(places, [s.median for s in spreads], 0.4, yerr=errors, capsize=3, label=name)
            axes.set(xlabel="proxies", ylabel=label)
            axes.set_xticks(range(len(cases)), [str(case.proxies) for case in cases])
            axes.legend()


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "bench.links",
        "Latency, rate and throughput over permanent links, and with one link for each message.",
        short="other defaults: little of each",
        plot=True,
        example="--proxies 1 3 --pairs 3 --json -",
    )
    full = Settings()
    add = parser.add_argument
    add("--proxies", type=count, nargs="+", metavar="N", help=f"default {' '.join(map(str, full.proxies))}")
    add("--pairs", type=positive_count, metavar="N", help=f"rounds of each (default {full.pairs})")
    add("--queries", type=positive_count, metavar="N", help=f"small ones of a round (default {full.queries})")
    add("--megabytes", type=positive, metavar="MB", help=f"of the transfer (default {full.megabytes})")
    add("--streams", type=positive_count, metavar="N", help=f"that the proxy holds (default {full.streams})")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    settings = settings_of(options, Settings)
    return run(
        options,
        settings,
        lambda: (measure(settings, watcher()), measure_memory(settings)),
        text,
        record,
        lambda cases, _, where, path: _plot(cases, where, path),
    )


if __name__ == "__main__":
    sys.exit(main())
