"""TCP echo on one core, with our reactor and other libraries: `python -m bench.echo`.

Every server runs in its own process and is idle except in its turn. All have the same load generator. Every
second round runs in reverse order, so that a slow minute of the machine affects all servers. The figure is
the server's own processor time for a request, during the measured part only, so the speed of the load and the
other core do not affect it. Libraries that are not installed (`pip install '.[peers]'`) are skipped and
listed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

from bench.command import make_parser, positive_count, run, settings_of
from bench.echo_servers import KINDS
from bench.plots import Panel, draw_bars
from bench.report import Machine, Spread, markdown_table, report, table

__all__ = [
    "OURS", "TARGETS", "Case", "Memory", "Settings", "installed", "main", "measure", "measure_memory",
    "record", "text",
]  # fmt: skip

OURS = "reactor"
_FLOOR = "epoll alone"
T = TypeVar("T")
K = TypeVar("K")

TARGETS = {"asyncio Protocol": 1.0, "uvloop streams": 0.75, "asyncio streams": 0.6, "trio": 0.45}
"""What ours may take at most of the processor time of a peer."""

_MODULES = {"uvloop": "uvloop", "trio": "trio", "curio": "curio"}


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a measurement.

    Attributes:
        rounds: turns of each server in each case.
        requests: of one turn.
        loads: (connections, bytes of a request).
        idle: numbers of idle connections, to measure memory.
        kinds: of the servers.
    """

    rounds: int = 5
    requests: int = 20_000
    loads: tuple[tuple[int, int], ...] = (
        (1, 64),
        (50, 64),
        (1000, 64),
        (1, 16_384),
        (50, 16_384),
        (1000, 16_384),
    )
    idle: tuple[int, ...] = (1000, 5000)
    kinds: tuple[str, ...] = tuple(KINDS)

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(rounds=1, requests=200, loads=((10, 64), (2, 16_384)), idle=(20,))


@dataclass(frozen=True, slots=True)
class Case:
    """One server under one load.

    Attributes:
        cpu_us: processor microseconds of the server for each request.
        ratio: our reactor's figure divided by this one, in the same round.
        floor: the system calls alone divided by this figure, the least possible ratio. None: not measured.
        per_s: requests a second.
        load_share: busy share of the load's processor; near 1 it was the bottleneck.
    """

    kind: str
    connections: int
    request_bytes: int
    cpu_us: Spread
    ratio: Spread
    floor: Spread | None
    per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    load_share: Spread


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of an idle connection.

    Attributes:
        rss_bytes: resident memory of the server for each.
    """

    kind: str
    connections: int
    rss_bytes: float


class _Process:
    """A process with a protocol of lines."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The next line, as JSON. Raises RuntimeError: there is none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended early")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def _server(kind: str) -> Iterator[tuple[_Process, int]]:
    process = _Process("bench.echo_servers", kind)
    try:
        yield process, int(process.hear())
    finally:
        process.close()


def installed(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the servers whose library is installed."""
    return tuple(
        kind
        for kind in kinds
        if (module := _MODULES.get(kind.split()[0])) is None or importlib.util.find_spec(module) is not None
    )


def _usage(server: _Process) -> dict[str, float]:
    server.say("usage")
    found: dict[str, float] = server.hear()
    return found


def _turn(server: _Process, port: int, connections: int, size: int, requests: int) -> dict[str, float]:
    load = _Process("bench.echo_load", str(port), str(connections), str(size), str(requests))
    try:
        load.hear()
        before = _usage(server)
        load.say("go")
        figures: dict[str, float] = load.hear()
        figures["requests"] = requests
        figures["server_cpu_us"] = (_usage(server)["cpu_s"] - before["cpu_s"]) / requests * 1e6
    finally:
        load.close()
    return figures


def measure(settings: Settings) -> list[Case]:
    """Measure all installed servers under all loads."""
    cases: list[Case] = []
    kinds = installed(settings.kinds)
    for connections, size in settings.loads:
        turns: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for number in range(settings.rounds):
            for kind in kinds if number % 2 == 0 else kinds[::-1]:
                with _server(kind) as (server, port):
                    _turn(server, port, connections, size, max(connections, settings.requests // 20))
                    turns[kind].append(
                        _turn(server, port, connections, size, max(connections, settings.requests))
                    )
        for kind in kinds:
            cases.append(_case(kind, connections, size, turns))
    return cases


def _case(kind: str, connections: int, size: int, all_turns: dict[str, list[dict[str, float]]]) -> Case:
    turns = all_turns[kind]
    requests_per_s = [turn["requests"] / turn["seconds"] for turn in turns]

    def ratio_of(other: str) -> Spread:
        pairs = zip(all_turns[other], turns, strict=True)
        return Spread.of([mine["server_cpu_us"] / max(turn["server_cpu_us"], 1e-9) for mine, turn in pairs])

    return Case(
        kind=kind,
        connections=connections,
        request_bytes=size,
        cpu_us=Spread.of([turn["server_cpu_us"] for turn in turns]),
        ratio=ratio_of(OURS),
        floor=ratio_of(_FLOOR) if _FLOOR in all_turns else None,
        per_s=Spread.of(requests_per_s),
        p50_ms=Spread.of([turn["p50_ms"] for turn in turns]),
        p99_ms=Spread.of([turn["p99_ms"] for turn in turns]),
        load_share=Spread.of([turn["cpu_s"] / turn["seconds"] for turn in turns]),
    )


def measure_memory(settings: Settings) -> list[Memory]:
    """Measure the memory of idle connections, each time in a new process."""
    kinds = installed(settings.kinds)
    return [Memory(kind, idle, _idle_bytes(kind, idle)) for idle in settings.idle for kind in kinds]


def _idle_bytes(kind: str, connections: int) -> float:
    with _server(kind) as (server, port):
        # The first connections make the server import and allocate its shared objects.
        _turn(server, port, 10, 64, 100)
        before = _usage(server)["rss_bytes"]
        load = _Process("bench.echo_load", str(port), str(connections), "0", "0")
        try:
            load.hear()
            # An echo on the last connection shows that all earlier ones were accepted.
            _turn(server, port, 1, 64, 10)
            return (_usage(server)["rss_bytes"] - before) / connections
        finally:
            load.close()


def text(
    settings: Settings,
    cases: Sequence[Case],
    memory: Sequence[Memory],
    where: Machine,
    *,
    lay_out: Callable[..., str] = table,
) -> str:
    """The report for people.

    Args:
        lay_out: `table` or `markdown_table`.
    """
    rows = [
        (
            case.kind,
            case.connections,
            f"{case.request_bytes:,} B",
            case.cpu_us.text(1),
            case.ratio.text(2),
            f"{target:.2f}" if (target := TARGETS.get(case.kind)) is not None else "",
            f"{case.floor.median:.2f}" if case.floor is not None else "",
            f"{case.per_s.median / 1e3:,.1f}",
            case.p50_ms.text(2),
            case.p99_ms.text(2),
            case.load_share.text(2),
        )
        for case in cases
    ]
    heads = (
        "server", "connections", "request", "cpu µs/request", "ours ÷ this", "target", "floor", "1000/s",
        "p50 ms", "p99 ms", "load busy",
    )  # fmt: skip
    title = f"TCP echo, {settings.rounds} rounds of {settings.requests} requests; median (lowest–highest)"
    parts = [lay_out(heads, rows, title=title)]
    if memory:
        idle = [(one.kind, one.connections, f"{one.rss_bytes:,.0f}") for one in memory]
        parts.append(
            lay_out(("server", "connections", "bytes each"), idle, title="Memory of idle connections")
        )
    missing = [kind for kind in settings.kinds if kind not in installed(settings.kinds)]
    if missing:
        parts.append(f"not installed: {', '.join(missing)}")
    return "\n\n".join([*parts, where.line()])


def record(
    settings: Settings, cases: Sequence[Case], memory: Sequence[Memory], where: Machine
) -> dict[str, Any]:
    """The report for machines."""
    return report("echo", settings, cases, where, memory=[asdict(one) for one in memory])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser(
        "bench.echo",
        "Processor time of a TCP echo server: our reactor beside asyncio, uvloop, trio, curio.",
        short="one round with few requests",
        plot=True,
        example='--only reactor "asyncio Protocol" --connections 50 --bytes 64',
    )
    parser.add_argument("--markdown", action="store_true", help="tables for a document")
    parser.add_argument(
        "--only", dest="kinds", nargs="+", metavar="SERVER", choices=[*KINDS], help="these servers"
    )
    parser.add_argument(
        "--connections", type=positive_count, metavar="N", help="this load alone, with --bytes"
    )
    parser.add_argument("--bytes", type=positive_count, metavar="N", default=64, help="size of a request")
    parser.add_argument("--rounds", type=positive_count, metavar="N", help="turns of each server")
    parser.add_argument("--no-memory", action="store_true", help="leave out idle connections")
    options = parser.parse_args(arguments)
    settings = settings_of(options, Settings)
    if options.connections is not None:
        settings = replace(settings, loads=((options.connections, options.bytes),))
    if options.no_memory:
        settings = replace(settings, idle=())
    if OURS not in settings.kinds:
        parser.error(f"--only must name {OURS!r}: all others are compared with it")
    return run(
        options,
        settings,
        lambda: (measure(settings), measure_memory(settings)),
        partial(text, lay_out=markdown_table if options.markdown else table),
        record,
        _draw,
    )


def _draw(cases: Sequence[Case], memory: Sequence[Memory], where: Machine, path: str) -> None:
    panels = [
        Panel(f"{size:,} B, {connections} conn.", "processor µs a request", {c.kind: c.cpu_us for c in found})
        for (connections, size), found in _by(cases, lambda case: (case.connections, case.request_bytes))
    ]
    panels += [
        Panel(f"{idle} idle conn.", "bytes each", {one.kind: Spread.of([one.rss_bytes]) for one in found})
        for idle, found in _by(memory, lambda one: one.connections)
    ]
    draw_bars(panels, ours=OURS, title=where.line(), path=path)


def _by(items: Sequence[T], key: Callable[[T], K]) -> list[tuple[K, list[T]]]:
    return [(value, list(group)) for value, group in groupby(items, key)]


if __name__ == "__main__":
    sys.exit(main())
