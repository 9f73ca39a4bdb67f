"""Processor time and memory of a process."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "cpu_s", "machine_busy_s", "own_usage", "reset_peak", "resident_bytes"]

_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_STAT = Path("/proc/stat")
_IDLE_FIELDS = (3, 4)  # idle and iowait
_FIELDS = 8  # later fields are guest time, which user time includes
_USER_TICKS = 11  # after the name; those of the system follow


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process, since its start.

    Attributes:
        cpu_s: processor seconds, user and system.
        rss_bytes: memory in use now, without swapped pages.
        peak_rss_bytes: the most since the start or since `reset_peak`.
    """

    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int


def own_usage() -> Usage:
    """The usage of this process. `ru_maxrss` would not do: a child inherits its parent's peak there."""
    times = resource.getrusage(resource.RUSAGE_SELF)
    fields = _status("self")
    return Usage(times.ru_utime + times.ru_stime, _kibibytes(fields["VmRSS"]), _kibibytes(fields["VmHWM"]))


def resident_bytes(pid: int) -> int:
    """Memory in use by another process, without what is swapped out."""
    return _kibibytes(_status(str(pid))["VmRSS"])


def cpu_s(pid: int) -> float:
    """Processor seconds of another process so far, user and system. Source: proc(5), /proc/pid/stat."""
    fields = (
        Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    )
    return (int(fields[_USER_TICKS]) + int(fields[_USER_TICKS + 1])) / os.sysconf("SC_CLK_TCK")


def _status(process: str) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines)


def machine_busy_s() -> float:
    """Busy processor seconds of all cores since the machine was started, stolen time included.

    Source: proc(5), /proc/stat.
    """
    first = _STAT.read_text(encoding="ascii").splitlines()[0]
    ticks = [int(value) for value in first.split()[1 : 1 + _FIELDS]]
    busy = sum(count for index, count in enumerate(ticks) if index not in _IDLE_FIELDS)
    return busy / os.sysconf("SC_CLK_TCK")


def reset_peak() -> None:
    """Reset the peak to the present use. Source: proc(5), clear_refs."""
    _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")


def _kibibytes(field: str) -> int:
    number, unit = field.split()
    assert unit == "kB"
    return int(number) * 1024
