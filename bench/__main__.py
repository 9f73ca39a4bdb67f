"""`python -m bench`: the short form of every benchmark, in seconds; with `--full` the long forms of all.

The short forms show that all benchmarks work and give rough figures. To measure, run one by its name, or all
with `--full --json FILE`, on an idle machine. A new benchmark has `Settings.short`, `measure`, `text` and
`record`, a `main` that ends in `bench.command.run`, and a line in `BENCHMARKS`. `FULL` lists the settings of
its long form, by default `Settings()`. `why_not` gives the reason that it cannot run here, or None.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from bench import (
    chunks,
    classify,
    concurrency,
    constant_time,
    echo,
    front,
    latency,
    layers,
    links,
    observer,
    onion,
    pairing,
    primitives,
    proxy_path,
    throughput,
)
from bench.command import make_parser
from bench.report import machine, write_json

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS: tuple[ModuleType, ...] = (
    layers,
    echo,
    primitives,
    onion,
    proxy_path,
    throughput,
    latency,
    chunks,
    concurrency,
    links,
    front,
    observer,
    pairing,
    classify,
    constant_time,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all of them. Returns the exit status: 0, 2 wrong use."""
    names = ", ".join(module.__name__ for module in BENCHMARKS)
    parser = make_parser(
        "bench",
        "The short form of every benchmark: shows that all work, and roughly how fast. "
        f"To measure, run python -m with one of {names}, or all of them with --full.",
    )
    parser.add_argument("--full", action="store_true", help="the long forms: three quarters of an hour")
    options = parser.parse_args(arguments)
    where = machine()
    records: list[Any] = []
    for module in BENCHMARKS:
        if reason := getattr(module, "why_not", lambda: None)():
            print(f"{module.__name__} is left out: {reason}", file=sys.stderr)
            continue
        for settings in _settings(module, is_full=options.full):
            text, record = _run(module, settings, where)
            records.append(record)
            if options.json != "-":
                print(text, end="\n\n", flush=True)
            if options.json not in (None, "-"):
                # After each: what comes later may fail, and the first took long.
                write_json({"benchmarks": records}, options.json)
    if options.json == "-":
        write_json({"benchmarks": records}, "-")
    return 0


def _settings(module: ModuleType, *, is_full: bool) -> Sequence[Any]:
    if not is_full:
        return [module.Settings.short()]
    full: Sequence[Any] | None = getattr(module, "FULL", None)
    return [module.Settings()] if full is None else full


def _run(module: ModuleType, settings: Any, where: Any) -> tuple[str, Any]:
    """Run one form of one benchmark; return its report as text and for JSON."""
    found: tuple[Any, ...] = (module.measure(settings),)
    more: Callable[[Any], Any] | None = getattr(module, "measure_memory", None)
    if more is not None:
        found = (*found, more(settings))
    return module.text(settings, *found, where), module.record(settings, *found, where)


if __name__ == "__main__":
    sys.exit(main())
