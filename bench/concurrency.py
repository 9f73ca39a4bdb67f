"""The cost of many concurrent tunnels: `python -m bench.concurrency`.

One process for each node: Alice, three proxies and Bob. Alice opens each number of tunnels over the same
route and moves the same content through all of them together, in equal parts. The figure is content per
processor second of all five processes, from when all tunnels are open until all content has arrived,
compared with one tunnel in the same round. The rounds alternate, so that changes in the machine's speed
affect all cases alike.

Memory, as the growth of the resident size:

* for each open stream: at a proxy with open, idle tunnels, each of which is two streams there;
* for each idle link: at a separate node, whose neighbours have queried it once and stay connected.

A process grows by pages and keeps its memory, so these are upper bounds, and rough for small numbers.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.command import make_parser, positive, positive_count, run, settings_of, watcher
from bench.plots import drawing
from bench.processes import NodeProcesses
from bench.report import Machine, Spread, report, table
from tunnel import LocalNetwork, ReplyMode, Route
from tunnel.geometry import DEFAULT

__all__ = ["Case", "Memory", "Settings", "main", "measure", "measure_memory", "record", "text"]

_ROUTE = (0, 1, 2, 3, 4)
_PROXY = 2
_STREAMS_OF_A_PROXIED_TUNNEL = 2
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a measurement.

    Attributes:
        tunnels: numbers of concurrently open tunnels, one case each; later cases are compared with the first.
        megabytes: content of all tunnels of a case together, 10⁶ bytes each.
        rounds: of all cases, one after the other.
        links: number of idle links at one node.
        profile: of all tunnels.
    """

    tunnels: tuple[int, ...] = (1, 10, 100, 1_000)
    megabytes: float = 128
    rounds: int = 3
    links: int = 200
    profile: str = DEFAULT.name

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(tunnels=(1, 4), megabytes=1, rounds=1, links=3)


@dataclass(frozen=True, slots=True)
class Case:
    """One number of tunnels.

    Attributes:
        mb_per_cpu_s: content over the processor seconds of all five processes. mb_per_s: over the time.
        ratio: `mb_per_cpu_s` over that of the first case, of each round.
        stream_kib: memory of one open, idle stream at a proxy, of the first round, since later rounds reuse
            its memory.
    """

    tunnels: int
    mb_per_cpu_s: Spread
    mb_per_s: Spread
    ratio: Spread
    stream_kib: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Number of idle links, and KiB for each."""

    links: int
    link_kib: float


@dataclass(frozen=True, slots=True)
class _Round:
    mb_per_cpu_s: float
    mb_per_s: float
    stream_kib: float


def _round(tunnels: int, settings: Settings) -> _Round:
    """Each round has a new network, since a process does not return memory."""
    content_bytes = int(settings.megabytes * 1_000_000) // tunnels * tunnels
    with NodeProcesses(len(_ROUTE), service="sink", digest="crc32") as net:
        net.query(
            0, _ROUTE[-1], content_bytes=1_000_000, route=_ROUTE[1:-1], mode="none", profile=settings.profile
        ).result()
        before = net.usage(_PROXY).rss_bytes
        net.open_tunnels(_ROUTE, tunnels, profile=settings.profile)
        grown = net.usage(_PROXY).rss_bytes - before
        cpu_before = [net.usage(index).cpu_s for index in _ROUTE]
        seconds = net.move(0, content_bytes)
        cpu_s = sum(net.usage(index).cpu_s for index in _ROUTE) - sum(cpu_before)
        net.close_tunnels(0)
    return _Round(
        mb_per_cpu_s=content_bytes / cpu_s / 1e6,
        mb_per_s=content_bytes / seconds / 1e6,
        stream_kib=grown / tunnels / _STREAMS_OF_A_PROXIED_TUNNEL / 1024,
    )


def measure(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> list[Case]:
    """Measure all rounds.

    Args:
        progress: called with a line after each case of a round.
    Raises:
        ProcessError: a process failed. QueryFailed: a tunnel did.
    """
    rounds: dict[int, list[_Round]] = {tunnels: [] for tunnels in settings.tunnels}
    for number in range(settings.rounds):
        for tunnels, found in rounds.items():
            found.append(_round(tunnels, settings))
            progress(f"round {number + 1}, {tunnels} tunnels: {found[-1].mb_per_cpu_s:.1f} MB per CPU s")
    first = rounds[settings.tunnels[0]]
    return [
        Case(
            tunnels=tunnels,
            mb_per_cpu_s=Spread.of([one.mb_per_cpu_s for one in found]),
            mb_per_s=Spread.of([one.mb_per_s for one in found]),
            ratio=Spread.of(
                [ours.mb_per_cpu_s / base.mb_per_cpu_s for ours, base in zip(found, first, strict=True)]
            ),
            stream_kib=statistics.median(one.stream_kib for one in found),
        )
        for tunnels, found in rounds.items()
    ]


def measure_memory(settings: Settings) -> Memory:
    """Measure the memory of an idle link.

    Raises:
        ProcessError: the process failed. QueryFailed: a neighbour could not ask.
    """
    with NodeProcesses(2, service="sink") as net, LocalNetwork(settings.links + 1) as neighbours:
        target = net.nodes[1].descriptor
        assert target is not None
        neighbours.directory.publish(target)
        route = Route((), target.node_id)

        def ask(index: int) -> None:
            asked = neighbours[index].query(target.node_id, b"hello", route=route, mode=ReplyMode.NONE)
            asked.result(_TIMEOUT_S).close()

        ask(0)  # the first message makes objects that stay
        before = net.usage(1).rss_bytes
        for index in range(1, settings.links + 1):
            ask(index)
        grown = net.usage(1).rss_bytes - before
    return Memory(settings.links, grown / settings.links / 1024)


def text(settings: Settings, cases: Sequence[Case], memory: Memory, where: Machine) -> str:
    """The report for people."""
    rows = [
        (
            f"{case.tunnels:,}",
            case.mb_per_cpu_s.text(),
            case.ratio.text(2),
            case.mb_per_s.text(),
            f"{case.stream_kib:.1f}",
        )
        for case in cases
    ]
    heads = (
        "tunnels",
        "MB per CPU second",
        f"÷ that of {settings.tunnels[0]}",
        "MB/s",
        "KiB per open stream",
    )
    title = (
        f"Concurrency: {settings.megabytes:g} MB through 3 proxies, profile {settings.profile}, "
        f"{settings.rounds} rounds; median (lowest–highest)"
    )
    idle = f"one of {memory.links} idle links: {memory.link_kib:.1f} KiB"
    return table(heads, rows, title=title) + f"\n{idle}\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], memory: Memory, where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("concurrency", settings, cases, where, memory=asdict(memory))


def _plot(cases: Sequence[Case], where: Machine, path: str) -> None:
    with drawing(path, where.line(), (10, 4.5)) as figure:
        speed, memory = figure.subplots(1, 2)
        tunnels = [case.tunnels for case in cases]
        spreads = [case.mb_per_cpu_s for case in cases]
        errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
        speed.errorbar(tunnels, [s.median for s in spreads], yerr=errors, marker="o", capsize=3)
        speed.set(xlabel="concurrent tunnels", ylabel="MB per processor second", xscale="log", ylim=(0, None))
        memory.plot(tunnels, [case.stream_kib for case in cases], marker="o")
        memory.set(xlabel="concurrent tunnels", ylabel="KiB per open stream", xscale="log", ylim=(0, None))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    full, short = Settings(), Settings.short()
    parser = make_parser("bench.concurrency", __doc__ or "", short=f"other defaults: {short}", plot=True)
    parser.add_argument(
        "--tunnels", type=positive_count, nargs="+", metavar="N", help=f"default {full.tunnels}"
    )
    parser.add_argument(
        "--megabytes", type=positive, metavar="MB", help=f"together (default {full.megabytes})"
    )
    parser.add_argument("--rounds", type=positive_count, metavar="N", help=f"default {full.rounds}")
    parser.add_argument("--links", type=positive_count, metavar="N", help=f"idle ones (default {full.links})")
    parser.add_argument("--profile", default=full.profile, help="of all tunnels (default %(default)s)")
    options = parser.parse_args(arguments)
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
