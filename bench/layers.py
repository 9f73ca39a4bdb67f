"""The speed of the byte layers, compared with their ciphers alone: `python -m bench.layers`.

Each case alternates with its *bound*: the same primitives on the same bytes, without layers. The ratio of the
two is the cost of our code. Everything runs in this process and is timed in processor seconds.

* A limiter: content through it, written into a stream that copies, or read; the bound is one copy.
* A limiter in Sealed; the bound is the raw seal of the content.
* LIONESS itself, HCTR itself: one block; the bound is its own passes (two AES-CTR and two SHA-256; two GMAC,
  one AES-ECB and two XOR).
* n × a cipher layer: content through `MultiWExt` or `MultiRExt` over n of them; the bound is n calls of the
  raw cipher (of the whole permutation, for the wide blocks) on one buffer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.command import make_parser, run, settings_of
from bench.layer_cases import Pair, Work, pairs
from bench.report import Machine, Spread, report, table

__all__ = ["Case", "Settings", "main", "measure", "record", "text"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a measurement.

    Attributes:
        rounds: pairs of measurements of each case.
        megabytes: work of one measurement: content times layers, 10⁶ bytes each.
        only: select the cases whose name contains this.
    """

    rounds: int = 7
    megabytes: float = 8
    only: str = ""

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(rounds=1, megabytes=0.1)


@dataclass(frozen=True, slots=True)
class Case:
    """One layer or stack.

    Attributes:
        mb_per_s, bound_mb_per_s: content per processor second, 10⁶ bytes.
        ratio: the first over the second, of each pair.
    """

    name: str
    engine: str
    block_bytes: int
    mb_per_s: Spread
    bound_mb_per_s: Spread
    ratio: Spread


def _seconds(work: Work, calls: int) -> float:
    started_s = time.process_time()
    for number in range(calls):
        work(number)
    return time.process_time() - started_s


def _measured(pair: Pair, settings: Settings) -> Case:
    calls = max(1, int(settings.megabytes * 1_000_000 / pair.block_bytes / pair.passes))
    _seconds(pair.work, 1)
    _seconds(pair.bound, 1)
    seconds = [(_seconds(pair.work, calls), _seconds(pair.bound, calls)) for _ in range(settings.rounds)]
    megabytes = calls * pair.content_bytes / 1e6
    return Case(
        name=pair.name,
        engine=pair.engine,
        block_bytes=pair.block_bytes,
        mb_per_s=Spread.of([megabytes / ours for ours, _ in seconds]),
        bound_mb_per_s=Spread.of([megabytes / theirs for _, theirs in seconds]),
        ratio=Spread.of([theirs / ours for ours, theirs in seconds]),
    )


def measure(settings: Settings) -> list[Case]:
    """Measure all cases, with each engine that is installed."""
    return [_measured(pair, settings) for pair in pairs() if settings.only in pair.name]


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people."""
    rows = [
        (
            case.name,
            case.engine,
            f"{case.block_bytes // 1024} KiB",
            case.mb_per_s.text(0),
            case.bound_mb_per_s.text(0),
            case.ratio.text(2),
        )
        for case in cases
    ]
    title = (
        f"Layers: MB of content per processor second, {settings.rounds} rounds; median (lowest–highest)\n"
        "(bound: the same work with nothing around it)"
    )
    heads = ("", "engine", "block", "MB/s", "bound", "of the bound")
    return table(heads, rows, title=title) + f"\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("layers", settings, cases, where)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser(
        "bench.layers",
        "Speed of the byte layers, compared with their ciphers alone.",
        short="one round with little content",
        example="--json layers.json",
    )
    parser.add_argument("--only", metavar="TEXT", help='cases whose name holds it: "3 × sealed"')
    options = parser.parse_args(arguments)
    settings = settings_of(options, Settings)
    return run(options, settings, lambda: (measure(settings),), text, record)


if __name__ == "__main__":
    sys.exit(main())
