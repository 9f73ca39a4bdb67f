"""Coverage-guided runs with atheris (the extra `fuzz`): one process for each target.

This process imports the product once, with counters in it, and forks for each target: with fifty targets, an
import for each would take longer than a short run. Importing this module needs atheris.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import atheris

# It writes a line for each module.
with (
    contextlib.redirect_stderr(io.StringIO()),
    atheris.instrument_imports(include=["tunnel", "readwrite_comp", "tests.fuzz"]),
):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.corpus import CORPUS, CRASHES
from tests.fuzz.target import Target

__all__ = ["Outcome", "run_guided"]

_SLOW_S: Final = 10  # one input that takes longer is a failure, a hang
_MOST_MB: Final = 1_024  # a process that takes more is a failure, growth
_LATE_S: Final = 120.0  # a process that runs on for so long is ended
_STAT: Final = re.compile(r"stat::(\w+):\s+(\d+)")
_MEMORY: Final = re.compile(r"rss: (\d+)Mb")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The run of one target.

    Attributes:
        new: inputs that reached something new. slowest_s: of a single input.
        first_mb, most_mb: memory of the process after the kept inputs, and at most.
        failures: inputs that failed, one at most. log: what the process has written.
    """

    name: str
    inputs: int
    new: int
    slowest_s: int
    first_mb: int
    most_mb: int
    failures: tuple[Path, ...]
    has_failed: bool
    log: Path


def run_guided(names: Sequence[str], seconds: float, jobs: int, work: Path) -> Iterator[Outcome]:
    """Run each target for its share of the time, and yield what came of it as each ends.

    Args:
        seconds: for all targets together. jobs: processes at a time.
        work: folder for new inputs and logs.
    """
    share_s = max(1, int(seconds * jobs / len(names)))
    waiting, running = list(names), dict[int, tuple[str, float]]()
    before = tempfile.tempdir
    # The processes end without cleaning up. In memory, since some write a file for each input.
    memory = Path("/dev/shm")
    tempfile.tempdir = tempfile.mkdtemp(prefix="mtun-fuzz-", dir=memory if memory.is_dir() else None)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running[_start(TARGETS[name], share_s, work)] = name, time.monotonic() + share_s + _LATE_S
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                name, _ = running.pop(pid)
                yield _outcome(name, work, has_failed=status != 0)
                continue
            for late in [pid for pid, (_, ends_s) in running.items() if time.monotonic() > ends_s]:
                os.kill(late, signal.SIGKILL)
            time.sleep(0.05)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)
        tempfile.tempdir = before


def _start(target: Target, share_s: int, work: Path) -> int:
    """Fork a process that runs a target. Returns its id."""
    new = work / target.name
    kept = CORPUS / target.name
    for folder in (new, kept, CRASHES):
        folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    log = os.open(work / f"{target.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    arguments = [
        "tests.fuzz",
        f"-max_total_time={share_s}",
        f"-max_len={target.most_bytes}",
        f"-timeout={_SLOW_S}",
        f"-rss_limit_mb={_MOST_MB}",
        f"-artifact_prefix={CRASHES / target.name}-",
        "-print_final_stats=1",
        "-len_control=10",  # long inputs sooner than by default: a run is short
        str(new),
        str(kept),
    ]
    atheris.Setup(arguments, target)
    atheris.Fuzz()  # ends this process
    os.abort()


def _outcome(name: str, work: Path, *, has_failed: bool) -> Outcome:
    log = work / f"{name}.log"
    text = log.read_text(encoding="utf-8", errors="replace")
    stats = {key: int(value) for key, value in _STAT.findall(text)}
    memory = _MEMORY.search(text)
    written = re.findall(r"Test unit written to (\S+)", text)
    return Outcome(
        name,
        stats.get("number_of_executed_units", 0),
        stats.get("new_units_added", 0),
        stats.get("slowest_unit_time_sec", 0),
        int(memory[1]) if memory else 0,
        stats.get("peak_rss_mb", 0),
        tuple(map(Path, written)),
        has_failed,
        log,
    )
