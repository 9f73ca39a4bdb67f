"""Reports of benchmarks: tables for people, JSON for machines, and a description of the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["Machine", "Spread", "machine", "markdown_table", "report", "table", "write_json"]

_CPU_INFO = Path("/proc/cpuinfo")
_LIBRARIES = ("cryptography", "pycryptodome")


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated measurements: median, lowest and highest."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError: no values."""
        if not values:
            raise ValueError("no measurements")
        return cls(statistics.median(values), min(values), max(values), len(values))

    def text(self, digits: int = 1) -> str:
        """For a table: "12.3 (11.8–12.9)", or the number alone where there is only one."""
        if self.count == 1:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}–{self.high:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a measurement, without names and paths: reports are passed on.

    Attributes:
        cores: number that this process may use.
        load: runnable processes, averaged over the last minute: others slow down a measurement.
    """

    cpu: str
    cores: int
    system: str
    python: str
    libraries: dict[str, str]
    load: float

    def line(self) -> str:
        libraries = ", ".join(f"{name} {number}" for name, number in self.libraries.items())
        parts = [
            self.cpu,
            f"{self.cores} cores",
            self.system,
            self.python,
            libraries,
            f"load {self.load:.1f}",
        ]
        return ", ".join(parts)


def machine() -> Machine:
    """Describe this machine."""
    libraries = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            libraries[name] = "not installed"
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libraries=libraries,
        load=os.getloadavg()[0],
    )


def _cpu_model() -> str:
    try:
        lines = _CPU_INFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> str:
    """Lay out a table in plain text: the first column is aligned left, the others right."""
    cells = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([title, *lines] if title else lines)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> str:
    """Lay out the same in Markdown."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in (heads, *rows)]
    lines.insert(1, "| --- |" + " ---: |" * (len(heads) - 1))
    return "\n".join([f"**{title}**", "", *lines] if title else lines)


def report(name: str, settings: Any, cases: Sequence[Any], where: Machine, **more: Any) -> dict[str, Any]:
    """The report of a benchmark for machines.

    Args:
        settings, cases: data classes. more: further results.
    """
    return {
        "benchmark": name,
        "machine": asdict(where),
        "settings": asdict(settings),
        "cases": [asdict(case) for case in cases],
        **more,
    }


def write_json(record: dict[str, Any], target: str) -> None:
    """Write a report to a file, or to standard output where `target` is "-"."""
    text = json.dumps(record, indent=2, ensure_ascii=False, default=asdict) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")
