"""`python -m bench`: the short form of every benchmark, in a few seconds.

It shows that all of them work, and roughly how fast things are. To measure, call one of them by its name. A
new one has `Settings.short`, `measure`, `text` and `record` like the others, and a line in `BENCHMARKS`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from bench import echo, layers, links, observer, onion, primitives, throughput
from bench.report import machine, write_json

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS: tuple[ModuleType, ...] = (layers, echo, primitives, onion, throughput, links, observer)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all short forms. Returns the exit status: 0, 2 wrong use."""
    names = ", ".join(module.__name__ for module in BENCHMARKS)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="The short form of every benchmark: shows that all work, and roughly how fast. "
        f"To measure, run python -m with one of {names}.",
    )
    parser.add_argument("--json", metavar="FILE", help="write JSON too; - for JSON alone, on standard output")
    options = parser.parse_args(arguments)
    where = machine()
    records = []
    for module in BENCHMARKS:
        text, record = _run(module, where)
        records.append(record)
        if options.json != "-":
            print(text, end="\n\n", flush=True)
    if options.json is not None:
        write_json({"benchmarks": records}, options.json)
    return 0


def _run(module: ModuleType, where: Any) -> tuple[str, Any]:
    """One short form, as text and as what is written to a file."""
    settings = module.Settings.short()
    found: tuple[Any, ...] = (module.measure(settings),)
    more: Callable[[Any], Any] | None = getattr(module, "measure_memory", None)
    if more is not None:
        found = (*found, more(settings))
    return module.text(settings, *found, where), module.record(settings, *found, where)


if __name__ == "__main__":
    sys.exit(main())
