"""What a TCP program gets through a SOCKS port: `python -m bench.front`, beside C Tor where it is installed.

One process for each node: the client with its SOCKS port, the proxies and the exit; one for the server behind
the exit, and one for curl. The networks run at the same time, and the rounds alternate between them, so
that changes of the machine affect all alike. All share its cores.

* `3 proxies`, `2 proxies`: ours, with an exit behind the proxies. A circuit of Tor has three relays, and the
  last one is the exit: the like of it are our 2 proxies. With 3 proxies there is one hop more.
* `Tor`: a private network as shipped. `Tor, best`: with the configuration that is fastest on loopback, and
  without Nagle's algorithm between its relays.

In each round: one download; parallel ones; 64 bytes and their echo over one open connection, alone and beside
a download; the first byte of new connections (connect, SOCKS, a byte there and back); new connections by
several threads. `bare` is a message and its echo over the same route without SOCKS, from within the client.
At the end, once: memory for each of many open connections, as the growth of the resident size.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from argparse import BooleanOptionalAction
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.command import make_parser, positive, positive_count, run, settings_of, watcher
from bench.control import ControlledProcess, stop_processes
from bench.front_load import Load
from bench.latency import Latency
from bench.processes import NodeProcesses
from bench.report import Machine, Spread, report, table
from bench.tor_network import BEST, SHIPPED, TorNetwork, tor_version
from bench.usage import cpu_s, resident_bytes

__all__ = ["Case", "Settings", "main", "measure", "record", "text", "why_not"]

_START_S = 30.0
_PROXIES = (3, 2)
_TOR = {"Tor": SHIPPED, "Tor, best": BEST}


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Attributes:
        megabytes: of the one download, 10⁶ bytes each. parallel: downloads at once, of `parallel_megabytes`
            each.
        echoes: of 64 bytes, alone and again beside a download. first_bytes: new connections that are timed.
        seconds: of new connections, by `workers` threads. open: connections, for their memory.
        rounds: of all networks. tor: measure C Tor too, where it is installed.
    """

    megabytes: float = 100
    parallel: int = 100
    parallel_megabytes: float = 1
    echoes: int = 300
    first_bytes: int = 50
    seconds: float = 5
    workers: int = 16
    open: int = 1_000
    rounds: int = 3
    tor: bool = True

    @classmethod
    def short(cls) -> Settings:
        """Enough to see that everything works."""
        return cls(
            megabytes=1,
            parallel=4,
            parallel_megabytes=0.1,
            echoes=3,
            first_bytes=2,
            seconds=0.1,
            workers=2,
            open=8,
            rounds=1,
            tor=False,
        )


@dataclass(frozen=True, slots=True)
class Case:
    """One network; `bare` is None for Tor.

    Attributes:
        cpu_s_per_gb: of all nodes of the route, for the one download. It hardly depends on other work on the
            machine, which the speed does.
        memory_kib: for each open connection, by process.
    """

    name: str
    download_mb_per_s: Spread
    parallel_mb_per_s: Spread
    cpu_s_per_gb: Spread
    bare: Latency | None
    echo: Latency
    echo_beside: Latency
    first_byte: Latency
    connections_per_s: Spread
    memory_kib: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Network:
    """A network that stands.

    Attributes:
        bare: measures round trips without SOCKS: their seconds. prepare: called before each round.
    """

    load: Load
    pids: Mapping[str, int]
    bare: Callable[[int], list[float]] | None = None
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class _Round:
    download: float
    parallel: float
    cpu_s_per_gb: float
    bare: list[float]
    echoes: list[float]
    echoes_beside: list[float]
    first_bytes: list[float]
    connections_per_s: float


def why_not() -> str | None:
    """Why it cannot be measured here; None: it can."""
    return None if shutil.which("curl") else "curl is not installed"


@contextmanager
def _target() -> Iterator[tuple[int, int]]:
    """The process behind the exit. Yields its ports: web, echo."""
    with tempfile.TemporaryDirectory(prefix="bench-front-") as folder:
        target = ControlledProcess(
            "bench.front_target", [], name="target", log_path=Path(folder, "target.log")
        )
        try:
            ports = target.hello.result(_START_S)
            yield ports["web"], ports["echo"]
        finally:
            stop_processes([target])


def _ours(net: NodeProcesses, proxies: int, web: int, echo: int) -> _Network:
    """A SOCKS port of node 0, with tunnels through `proxies` nodes to the last one."""
    last = len(net.nodes) - 1
    route = [0, *range(1, proxies + 1), last]
    pids = {f"proxy {index}": net.nodes[index].pid for index in route[1:-1]}
    return _Network(
        Load(net.socks(route), web, echo),
        {"client": net.nodes[0].pid, **pids, "exit": net.nodes[last].pid},
        lambda count: net.round_trips(route, "established", count=count),
    )


@contextmanager
def _networks(settings: Settings, stack: ExitStack) -> Iterator[dict[str, _Network]]:
    web, echo = stack.enter_context(_target())
    net = stack.enter_context(NodeProcesses(max(_PROXIES) + 2, service="exit", digest="crc32"))
    networks = {f"{proxies} proxies": _ours(net, proxies, web, echo) for proxies in _PROXIES}
    if settings.tor and tor_version() is not None:
        for name, options in _TOR.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-front-tor-")))
            tor = stack.enter_context(TorNetwork(folder, options))
            networks[name] = _Network(Load(tor.port, web, echo), tor.pids)
            if options is BEST:
                networks[name] = replace(networks[name], prepare=tor.disable_nagle)
    yield networks


def _round(network: _Network, settings: Settings) -> _Round:
    load = network.load
    load.echoes(1)  # then a tunnel or circuit stands
    network.prepare()
    bare = [] if network.bare is None else network.bare(settings.echoes)
    echoes = load.echoes(settings.echoes)
    first_bytes = load.first_bytes(settings.first_bytes)
    with load.downloading():
        echoes_beside = load.echoes(settings.echoes)
    before_s = _busy_s(network)
    download = load.download(int(settings.megabytes * 1e6))
    busy_s = _busy_s(network) - before_s
    return _Round(
        download=download,
        parallel=load.parallel(settings.parallel, int(settings.parallel_megabytes * 1e6)),
        cpu_s_per_gb=busy_s / settings.megabytes * 1e3,
        bare=bare,
        echoes=echoes,
        echoes_beside=echoes_beside,
        first_bytes=first_bytes,
        connections_per_s=load.connections_per_s(settings.seconds, settings.workers),
    )


def _busy_s(network: _Network) -> float:
    """Processor seconds of all nodes of the route so far."""
    return sum(map(cpu_s, network.pids.values()))


def _memory(network: _Network, count: int) -> dict[str, float]:
    """KiB of each process for each of `count` open connections."""
    before = {name: resident_bytes(pid) for name, pid in network.pids.items()}
    with network.load.open_connections(count):
        return {
            name: (resident_bytes(pid) - before[name]) / count / 1024 for name, pid in network.pids.items()
        }


def measure(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> list[Case]:
    """Measure all networks.

    Args:
        progress: called with a line after each round of each network.
    Raises:
        ProcessError, TorFailed: a process failed. LoadFailed, OSError: a connection did.
    """
    with ExitStack() as stack, _networks(settings, stack) as networks:
        rounds: dict[str, list[_Round]] = {name: [] for name in networks}
        for number in range(settings.rounds):
            for name, network in networks.items():
                rounds[name].append(_round(network, settings))
                progress(f"round {number + 1}, {name}: {rounds[name][-1].download:.1f} MB/s")
        memory = {name: _memory(network, settings.open) for name, network in networks.items()}
    return [_case(name, found, memory[name]) for name, found in rounds.items()]


def _case(name: str, rounds: Sequence[_Round], memory_kib: dict[str, float]) -> Case:
    def all_of(pick: Callable[[_Round], list[float]]) -> list[float]:
        return [seconds for each in rounds for seconds in pick(each)]

    bare = all_of(lambda each: each.bare)
    return Case(
        name=name,
        download_mb_per_s=Spread.of([each.download for each in rounds]),
        parallel_mb_per_s=Spread.of([each.parallel for each in rounds]),
        cpu_s_per_gb=Spread.of([each.cpu_s_per_gb for each in rounds]),
        bare=Latency.of(bare) if bare else None,
        echo=Latency.of(all_of(lambda each: each.echoes)),
        echo_beside=Latency.of(all_of(lambda each: each.echoes_beside)),
        first_byte=Latency.of(all_of(lambda each: each.first_bytes)),
        connections_per_s=Spread.of([each.connections_per_s for each in rounds]),
        memory_kib=memory_kib,
    )


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people: a column for each network."""

    def row(name: str, value: Callable[[Case], str]) -> list[str]:
        return [name, *(value(case) for case in cases)]

    rows = [
        row("one download, MB/s", lambda case: case.download_mb_per_s.text()),
        row("its CPU s per GB, all nodes", lambda case: case.cpu_s_per_gb.text()),
        row(f"{settings.parallel} downloads at once, MB/s", lambda case: case.parallel_mb_per_s.text()),
        row("bare round trip, ms", lambda case: "–" if case.bare is None else case.bare.text()),
        row("echo alone", lambda case: case.echo.text()),
        row("echo beside a download", lambda case: case.echo_beside.text()),
        row("first byte of a new connection", lambda case: case.first_byte.text()),
        row("the same, in bare round trips", _in_bare_round_trips),
        row("new connections a second", lambda case: case.connections_per_s.text(0)),
        row("KiB for each open connection", _memory_text),
    ]
    title = (
        f"Front: downloads of {settings.megabytes:g} and {settings.parallel_megabytes:g} MB, "
        f"{settings.rounds} rounds, median (lowest–highest); times p50 / p99"
    )
    tor = f"Tor {tor_version()}; " if settings.tor and tor_version() else ""
    return table(["", *(case.name for case in cases)], rows, title=title) + f"\n{tor}{where.line()}"


def _in_bare_round_trips(case: Case) -> str:
    return "–" if case.bare is None else f"{case.first_byte.p50_ms / case.bare.p50_ms:.1f}"


def _memory_text(case: Case) -> str:
    """Client, the relay that takes most, and the exit."""
    memory = dict(case.memory_kib)
    client, last = memory.pop("client"), memory.pop("exit")
    return " / ".join(f"{kib:.1f}" for kib in (client, max(memory.values()), last))


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("front", settings, cases, where, tor=tor_version() if settings.tor else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    full, short = Settings(), Settings.short()
    parser = make_parser("bench.front", __doc__ or "", short=f"other defaults: {short}")
    add = parser.add_argument
    add("--megabytes", type=positive, metavar="MB", help=f"of one download (default {full.megabytes})")
    add("--open", type=positive_count, metavar="N", help=f"connections, for memory (default {full.open})")
    add("--rounds", type=positive_count, metavar="N", help=f"default {full.rounds}")
    add("--tor", action=BooleanOptionalAction, help="beside C Tor, where it is installed")
    options = parser.parse_args(arguments)
    if reason := why_not():
        print(f"error: {reason}", file=sys.stderr)
        return 2
    settings = settings_of(options, Settings)
    return run(options, settings, lambda: (measure(settings, watcher()),), text, record)


if __name__ == "__main__":
    sys.exit(main())
