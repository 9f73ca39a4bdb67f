"""Operations of a loop other than sockets, our reactor and other libraries: `python -m bench.primitives`.

Timers, messages from another thread, tasks started and joined, channels: primitive_cases.py describes each
case. A round runs each library once, in its own process; every second round runs in reverse order. The figure
is processor time per operation; ratios are within a round.

    python -m bench.primitives --rounds 7 --json result.json --plot result.png
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.command import make_parser, positive_count, run, settings_of
from bench.echo import OURS, installed
from bench.plots import Panel, draw_bars
from bench.primitive_cases import CASES, KINDS
from bench.report import Machine, Spread, markdown_table, report, table

__all__ = ["Case", "Settings", "main", "measure", "record", "text"]

# A case takes well below a second; this is for one that hangs.
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a measurement.

    Attributes:
        rounds: turns of each library.
        scale: factor of the number of operations; 1 takes some tenths of a second for each library.
        kinds: of libraries.
    """

    rounds: int = 7
    scale: float = 1.0
    kinds: tuple[str, ...] = tuple(KINDS)

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(rounds=1, scale=0.02)


@dataclass(frozen=True, slots=True)
class Case:
    """One operation of one library.

    Attributes:
        cpu_us: processor microseconds of an operation.
        ratio: our reactor's figure divided by this one, in the same round.
    """

    name: str
    kind: str
    cpu_us: Spread
    ratio: Spread


def measure(settings: Settings) -> list[Case]:
    """Measure all installed libraries.

    Raises:
        RuntimeError: one of them failed.
    """
    kinds = installed(settings.kinds)
    turns: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for number in range(settings.rounds):
        for kind in kinds if number % 2 == 0 else kinds[::-1]:
            turns[kind].append(_turn(kind, settings.scale))
    cases = []
    for name in CASES:
        ours = [turn[name] for turn in turns[OURS]]
        for kind in kinds:
            if name in turns[kind][0]:
                theirs = [turn[name] for turn in turns[kind]]
                ratios = [mine / this for mine, this in zip(ours, theirs, strict=True)]
                cases.append(Case(name, kind, Spread.of(theirs), Spread.of(ratios)))
    return cases


def _turn(kind: str, scale: float) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.primitive_cases", kind, str(scale)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the primitives of {kind} ended with status {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def text(
    settings: Settings, cases: Sequence[Case], where: Machine, *, lay_out: Callable[..., str] = table
) -> str:
    """The report for people.

    Args:
        lay_out: `table` or `markdown_table`.
    """
    rows = [
        (
            case.name,
            case.kind,
            case.cpu_us.text(2),
            f"{1e3 / case.cpu_us.median:,.0f}",
            case.ratio.text(2),
        )
        for case in cases
    ]
    heads = ("operation", "library", "cpu µs", "1000 per cpu s", "ours ÷ this")
    title = f"Primitives, {settings.rounds} rounds; median (lowest–highest)"
    parts = [lay_out(heads, rows, title=title)]
    missing = [kind for kind in settings.kinds if kind not in installed(settings.kinds)]
    if missing:
        parts.append(f"not installed: {', '.join(missing)}")
    return "\n\n".join([*parts, where.line()])


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("primitives", settings, cases, where)


def _draw(cases: Sequence[Case], where: Machine, path: str) -> None:
    panels = []
    for name in CASES:
        bars = {case.kind: case.cpu_us for case in cases if case.name == name}
        panels.append(Panel(name, "processor µs an operation", bars))
    draw_bars(panels, ours=OURS, title=where.line(), path=path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser(
        "bench.primitives",
        "Processor time of timers, thread messages, tasks and channels: our reactor beside asyncio, uvloop, "
        "trio, curio.",
        short="one round with few operations",
        plot=True,
        example="--only reactor uvloop --rounds 5",
    )
    parser.add_argument("--markdown", action="store_true", help="tables for a document")
    parser.add_argument(
        "--only", dest="kinds", nargs="+", metavar="LIBRARY", choices=[*KINDS], help="these libraries"
    )
    parser.add_argument("--rounds", type=positive_count, metavar="N", help="turns of each library")
    options = parser.parse_args(arguments)
    settings = settings_of(options, Settings)
    if OURS not in settings.kinds:
        parser.error(f"--only must name {OURS!r}: all others are compared with it")
    return run(
        options,
        settings,
        lambda: (measure(settings),),
        partial(text, lay_out=markdown_table if options.markdown else table),
        record,
        _draw,
    )


if __name__ == "__main__":
    sys.exit(main())
