"""What the length of a chunk costs an established tunnel: `python -m bench.chunks`.

One process for each node: Alice, three proxies and Bob. For each length a tunnel whose chunks have it moves
the same content and then short messages, each answered by an empty one: a chunk each way. The geometry is
that of `stream`, with other chunks. The rounds alternate, so that changes in the machine's speed affect all
lengths alike.

With `--mbit` each node has a host of its own: a network namespace, whose line has that speed and a delay
(`bench.lossy_wire`; needs root). There the transfer ends with the answer, so its speed includes a round trip.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.command import make_parser, positive, positive_count, run, settings_of, watcher
from bench.lossy_wire import LossyWire
from bench.processes import NodeProcesses
from bench.report import Machine, Spread, report, table
from tunnel.geometry import BULK, DEFAULT, HCTR_SUITE, INTERACTIVE, STREAM, Profile

__all__ = ["Case", "Settings", "main", "measure", "record", "text"]

_ROUTE = (0, 1, 2, 3, 4)
_MESSAGE_BYTES = 64
_WARM_UP_BYTES = 1_000_000
_NETWORK_ID = b"not a local one."
_PROFILE = Profile(STREAM, HCTR_SUITE).name


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a measurement.

    Attributes:
        chunks: lengths of a chunk on the wire, one case each; the others are compared with the first.
        megabytes: of content, 10⁶ bytes each, in each transfer. trips: short messages after it.
        rounds: of all lengths, one after the other.
        mbit: speed of each node's line, in both directions, in 10⁶ bits a second; None: loopback.
        delay_ms: of such a line, one way.
    """

    chunks: tuple[int, ...] = (
        STREAM.chunk_bytes,
        INTERACTIVE.chunk_bytes,
        4_068,
        6_116,
        DEFAULT.chunk_bytes,
        BULK.chunk_bytes,
    )
    megabytes: float = 64
    trips: int = 200
    rounds: int = 3
    mbit: float | None = None
    delay_ms: float = 25

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(chunks=(STREAM.chunk_bytes, 4_068), megabytes=1, trips=3, rounds=1)


@dataclass(frozen=True, slots=True)
class Case:
    """One length of chunks.

    Attributes:
        mb_per_s: of content. proxy_cpu_s_per_gb: processor seconds, mean over the proxies.
        trip_ms: median time of a short message and its answer, of each round.
        speed_ratio, cpu_ratio, trip_ratio: the same over those of the first case, of each round.
    """

    chunk_bytes: int
    mb_per_s: Spread
    proxy_cpu_s_per_gb: Spread
    trip_ms: Spread
    speed_ratio: Spread
    cpu_ratio: Spread
    trip_ratio: Spread


@dataclass(frozen=True, slots=True)
class _Round:
    mb_per_s: float
    proxy_cpu_s_per_gb: float
    trip_ms: float


@contextmanager
def _network(settings: Settings, chunk_bytes: int) -> Iterator[NodeProcesses]:
    processes = partial(NodeProcesses, len(_ROUTE), service="sink", digest="crc32", stream_chunk=chunk_bytes)
    if settings.mbit is None:
        with processes() as net:
            yield net
        return
    with (
        LossyWire(len(_ROUTE), delay_s=settings.delay_ms / 1e3, mbit=settings.mbit) as wire,
        processes(
            network_id=_NETWORK_ID,
            hosts=[wire.address(index) for index in _ROUTE],
            prefixes=[wire.enter(index) for index in _ROUTE],
        ) as net,
    ):
        yield net


def _round(chunk_bytes: int, settings: Settings) -> _Round:
    content_bytes = int(settings.megabytes * 1_000_000)
    proxies = _ROUTE[1:-1]
    with _network(settings, chunk_bytes) as net:
        net.open_tunnels(_ROUTE, 1, profile=_PROFILE)
        net.move(0, min(content_bytes, _WARM_UP_BYTES))
        before = [net.usage(index).cpu_s for index in proxies]
        seconds = net.move(0, content_bytes)
        cpu_s = [net.usage(index).cpu_s - first for index, first in zip(proxies, before, strict=True)]
        trips = [net.move(0, _MESSAGE_BYTES) for _ in range(settings.trips)]
        net.close_tunnels(0)
    return _Round(
        mb_per_s=content_bytes / seconds / 1e6,
        proxy_cpu_s_per_gb=statistics.mean(cpu_s) / content_bytes * 1e9,
        trip_ms=statistics.median(trips) * 1e3,
    )


def measure(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> list[Case]:
    """Measure all rounds.

    Args:
        progress: called with a line after each length of a round.
    Raises:
        ProcessError: a process failed. QueryFailed: a tunnel did.
    """
    rounds: dict[int, list[_Round]] = {chunk_bytes: [] for chunk_bytes in settings.chunks}
    for number in range(settings.rounds):
        for chunk_bytes, found in rounds.items():
            found.append(_round(chunk_bytes, settings))
            progress(f"round {number + 1}, chunks of {chunk_bytes:,} bytes: {found[-1].mb_per_s:.1f} MB/s")
    first = rounds[settings.chunks[0]]
    return [_case(chunk_bytes, found, first) for chunk_bytes, found in rounds.items()]


def _case(chunk_bytes: int, found: Sequence[_Round], first: Sequence[_Round]) -> Case:
    def spread(value: Callable[[_Round], float]) -> Spread:
        return Spread.of([value(one) for one in found])

    def ratio(value: Callable[[_Round], float]) -> Spread:
        return Spread.of([value(ours) / value(base) for ours, base in zip(found, first, strict=True)])

    return Case(
        chunk_bytes,
        mb_per_s=spread(lambda one: one.mb_per_s),
        proxy_cpu_s_per_gb=spread(lambda one: one.proxy_cpu_s_per_gb),
        trip_ms=spread(lambda one: one.trip_ms),
        speed_ratio=ratio(lambda one: one.mb_per_s),
        cpu_ratio=ratio(lambda one: one.proxy_cpu_s_per_gb),
        trip_ratio=ratio(lambda one: one.trip_ms),
    )


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people."""
    rows = [
        (
            f"{case.chunk_bytes:,}",
            case.mb_per_s.text(2),
            case.speed_ratio.text(2),
            case.proxy_cpu_s_per_gb.text(),
            case.cpu_ratio.text(2),
            case.trip_ms.text(2),
            case.trip_ratio.text(2),
        )
        for case in cases
    ]
    heads = ("chunk bytes", "MB/s", "÷ first", "CPU s per GB, proxy", "÷ first", "round trip ms", "÷ first")
    wire = "loopback"
    if settings.mbit is not None:
        wire = f"lines of {settings.mbit:g} Mbit/s, {settings.delay_ms:g} ms one way"
    title = (
        f"Chunks of a tunnel: {settings.megabytes:g} MB through 3 proxies, then {settings.trips} messages of "
        f"{_MESSAGE_BYTES} bytes, {wire}, {settings.rounds} rounds; median (lowest–highest)"
    )
    return table(heads, rows, title=title) + f"\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("chunks", settings, cases, where)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    full, short = Settings(), Settings.short()
    parser = make_parser("bench.chunks", __doc__ or "", short=f"other defaults: {short}")
    parser.add_argument(
        "--chunks", type=positive_count, nargs="+", metavar="BYTES", help=f"lengths (default {full.chunks})"
    )
    parser.add_argument("--megabytes", type=positive, metavar="MB", help=f"default {full.megabytes}")
    parser.add_argument("--trips", type=positive_count, metavar="N", help=f"default {full.trips}")
    parser.add_argument("--rounds", type=positive_count, metavar="N", help=f"default {full.rounds}")
    parser.add_argument(
        "--mbit", type=positive, metavar="N", help="slow lines of N Mbit/s (default: loopback)"
    )
    parser.add_argument(
        "--delay-ms", type=positive, metavar="MS", help=f"of such a line, one way (default {full.delay_ms:g})"
    )
    options = parser.parse_args(arguments)
    settings = settings_of(options, Settings)
    return run(options, settings, lambda: (measure(settings, watcher()),), text, record)


if __name__ == "__main__":
    sys.exit(main())
