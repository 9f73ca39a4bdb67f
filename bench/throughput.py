"""Throughput of tunnels with one process per node: `python -m bench.throughput`.

For each number of proxies a network of processes (`bench.processes`) and the blocking chain that does the
same cipher work (`bench.reference_chain`) transfer the same content in turn. The machine may be shared and
its cores change their speed. So the figures that count are the ratio within a pair of neighbouring transfers,
with its median and spread, and processor seconds, which a busy neighbour affects less than the elapsed time.

The report also states how much of the machine others used meanwhile.

A gigabyte is 10⁹ bytes of content, in mode `route` sent once and received once. Each time includes the
connections, handshakes and headers of the tunnel.

    python -m bench.throughput --proxies 0 1 3 --megabytes 128 --pairs 5 --json result.json --plot result.png
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.command import count, make_parser, positive, positive_count, run, settings_of, watcher
from bench.content import content_digest
from bench.plots import drawing
from bench.processes import NodeProcesses
from bench.reference_chain import ReferenceChain
from bench.report import Machine, Spread, report, table
from bench.usage import machine_busy_s
from readwrite_comp.errors import EngineUnavailable
from readwrite_comp.primitives import engine_names, get_engine
from tunnel.geometry import BULK, DEFAULT, INTERACTIVE, STREAM, SUITES, Profile

__all__ = ["FULL", "Case", "Settings", "Transfer", "main", "measure", "record", "text"]

_DIGEST = "crc32"
_WARM_UP_BYTES = 1_000_000
_GEOMETRIES = {geometry.name: geometry for geometry in (DEFAULT, BULK, INTERACTIVE, STREAM)}


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a measurement.

    Attributes:
        proxies: how many, one case each. megabytes: content of one transfer, 10⁶ bytes each.
        pairs: transfers of each kind. engine: "auto", "openssl" or "pycryptodome".
        profile, mode: of the tunnel; the profile names geometry and suite ("default", "bulk-hctr").
    """

    proxies: tuple[int, ...] = (0, 1, 3, 10)
    megabytes: float = 256
    pairs: int = 3
    engine: str = "auto"
    profile: str = DEFAULT.name
    mode: str = "none"

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works; too small to measure."""
        return cls(proxies=(0, 3), megabytes=4, pairs=1)

    @property
    def content_bytes(self) -> int:
        return int(self.megabytes * 1_000_000)


# Of `python -m bench --full`: both suites, the long chunks, long routes, replies, and the slower engine.
FULL = (
    Settings(proxies=(0, 1, 3), pairs=5),
    Settings(proxies=(10, 25), megabytes=48),
    Settings(proxies=(1, 3), pairs=5, profile="default-hctr"),
    Settings(proxies=(10, 25), megabytes=64, profile="default-hctr"),
    Settings(proxies=(0, 1, 3), pairs=5, profile="bulk-hctr"),
    Settings(proxies=(10, 25), megabytes=128, profile="bulk-hctr"),
    Settings(proxies=(3,), profile="bulk"),
    Settings(proxies=(3,), megabytes=64, mode="route"),
    Settings(proxies=(3,), megabytes=64, engine="pycryptodome"),
    Settings(proxies=(3,), megabytes=64, engine="pycryptodome", profile="bulk"),
)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One kind of transfer in one case: MB/s of content, and processor seconds per gigabyte.

    Attributes:
        proxy_cpu_s_per_gb: mean over the proxies; None without any.
        others_share: of all processor time meanwhile, the part that went to others on this machine or was
            stolen from it, 0 to 1. Unless it is near 0, MB/s is unreliable.
    """

    mb_per_s: Spread
    alice_cpu_s_per_gb: Spread
    proxy_cpu_s_per_gb: Spread | None
    bob_cpu_s_per_gb: Spread
    others_share: Spread


@dataclass(frozen=True, slots=True)
class Case:
    """One number of proxies.

    Attributes:
        speed_ratio: MB/s of the tunnel over MB/s of the chain, of each pair.
        cpu_ratio: processor seconds of all nodes over those of all processes of the chain, of each pair.
    """

    proxies: int
    tunnel: Transfer
    chain: Transfer
    speed_ratio: Spread
    cpu_ratio: Spread


@dataclass(frozen=True, slots=True)
class _Run:
    seconds: float
    cpu_s: tuple[float, ...]
    others_share: float


def _others_share(busy_s: float, seconds: float, cpu_s: Sequence[float]) -> float:
    """The share of the machine that others used, from its busy time and our processes'; both are coarse."""
    return min(1.0, max(0.0, (busy_s - sum(cpu_s)) / (seconds * (os.cpu_count() or 1))))


def _transfer(runs: Sequence[_Run], content_bytes: int) -> Transfer:
    def per_gb(seconds: Sequence[float]) -> Spread:
        return Spread.of([value / content_bytes * 1e9 for value in seconds])

    has_proxies = len(runs[0].cpu_s) > 2
    return Transfer(
        mb_per_s=Spread.of([content_bytes / run.seconds / 1e6 for run in runs]),
        alice_cpu_s_per_gb=per_gb([run.cpu_s[0] for run in runs]),
        proxy_cpu_s_per_gb=per_gb([statistics.mean(run.cpu_s[1:-1]) for run in runs])
        if has_proxies
        else None,
        bob_cpu_s_per_gb=per_gb([run.cpu_s[-1] for run in runs]),
        others_share=Spread.of([run.others_share for run in runs]),
    )


def _run_tunnel(net: NodeProcesses, proxies: int, settings: Settings, content_bytes: int) -> _Run:
    others = range(1, proxies + 2)
    before = [net.usage(index).cpu_s for index in others]
    busy_before = machine_busy_s()
    report = net.query(
        0,
        proxies + 1,
        content_bytes=content_bytes,
        route=range(1, proxies + 1),
        mode=settings.mode,
        profile=settings.profile,
    ).result()
    busy_s = machine_busy_s() - busy_before
    after = [net.usage(index).cpu_s for index in others]
    digests = [received["digest"] for received in net.received(proxies + 1)]
    if settings.mode != "none":
        digests.append(report["reply_digest"])
    if any(digest != report["query_digest"] for digest in digests) or not digests:
        raise RuntimeError(f"content arrived with digests {digests}, expected {report['query_digest']}")
    cpu_s = (report["cpu_s"], *(end - start for start, end in zip(before, after, strict=True)))
    return _Run(report["seconds"], cpu_s, _others_share(busy_s, report["seconds"], cpu_s))


def _run_chain(chain: ReferenceChain, content_bytes: int) -> _Run:
    busy_before = machine_busy_s()
    run = chain.run(content_bytes)
    busy_s = machine_busy_s() - busy_before
    return _Run(run.seconds, run.cpu_s, _others_share(busy_s, run.seconds, run.cpu_s))


def _measure_case(proxies: int, settings: Settings, progress: Callable[[str], None]) -> Case:
    size = settings.content_bytes
    network = NodeProcesses(
        proxies + 2,
        engine=settings.engine,
        service="sink" if settings.mode == "none" else "echo",
        digest=_DIGEST,
    )
    reference = ReferenceChain(
        proxies, engine=settings.engine, profile=settings.profile, mode=settings.mode, digest=_DIGEST
    )
    tunnel_runs, chain_runs = [], []
    with network as net, reference as chain:
        _run_tunnel(net, proxies, settings, min(size, _WARM_UP_BYTES))
        _run_chain(chain, min(size, _WARM_UP_BYTES))
        content_digest(size, _DIGEST)  # cached here, not computed in the first transfer
        for pair in range(settings.pairs):
            tunnel_runs.append(_run_tunnel(net, proxies, settings, size))
            chain_runs.append(_run_chain(chain, size))
            ours, theirs = (size / runs[-1].seconds / 1e6 for runs in (tunnel_runs, chain_runs))
            number = f"pair {pair + 1} of {settings.pairs}"
            progress(f"{proxies} proxies, {number}: {ours:.1f} MB/s, chain {theirs:.1f}")
    pairs = list(zip(tunnel_runs, chain_runs, strict=True))
    return Case(
        proxies=proxies,
        tunnel=_transfer(tunnel_runs, size),
        chain=_transfer(chain_runs, size),
        speed_ratio=Spread.of([reference.seconds / run.seconds for run, reference in pairs]),
        cpu_ratio=Spread.of([sum(run.cpu_s) / sum(reference.cpu_s) for run, reference in pairs]),
    )


def measure(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> list[Case]:
    """Measure one case after the other.

    Args:
        progress: called with a line after each pair.
    Raises:
        ProcessError: a process failed. QueryFailed: a transfer did. RuntimeError: other content arrived.
    """
    return [_measure_case(proxies, settings, progress) for proxies in settings.proxies]


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people."""
    rows = []
    for case in cases:
        for name, transfer in (("tunnel", case.tunnel), ("chain", case.chain)):
            is_tunnel = transfer is case.tunnel
            proxy = transfer.proxy_cpu_s_per_gb
            rows.append(
                (
                    f"{case.proxies} proxies, {name}",
                    transfer.mb_per_s.text(),
                    transfer.alice_cpu_s_per_gb.text(),
                    "–" if proxy is None else proxy.text(),
                    transfer.bob_cpu_s_per_gb.text(),
                    f"{transfer.others_share.median:.0%}",
                    case.speed_ratio.text(2) if is_tunnel else "",
                    case.cpu_ratio.text(2) if is_tunnel else "",
                )
            )
    title = (
        f"Throughput: {settings.megabytes:g} MB of content, mode {settings.mode}, "
        f"profile {settings.profile}, engine {_engine_name(settings)}, {settings.pairs} pairs; "
        "median (lowest–highest)"
    )
    heads = ("", "MB/s", "CPU s/GB Alice", "one proxy", "Bob", "others", "speed ÷ chain", "CPU ÷ chain")
    return table(heads, rows, title=title) + f"\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("throughput", replace(settings, engine=_engine_name(settings)), cases, where)


def _engine_name(settings: Settings) -> str:
    return get_engine(settings.engine).name


def _plot(cases: Sequence[Case], where: Machine, path: str) -> None:
    with drawing(path, where.line(), (10, 4.5)) as figure:
        speed, cpu = figure.subplots(1, 2)
        positions = range(len(cases))
        labels = [str(case.proxies) for case in cases]
        for offset, name in ((-0.2, "tunnel"), (0.2, "chain")):
            spreads = [getattr(case, name).mb_per_s for case in cases]
            errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
            places = [position + offset for position in positions]
            speed.bar(places, [s.median for s in spreads], 0.4, yerr=errors, capsize=3, label=name)
        speed.set(xlabel="proxies", ylabel="MB/s of content", yscale="log")
        speed.set_xticks(list(positions), labels)
        speed.legend()
        for name in ("alice", "proxy", "bob"):
            found = [getattr(case.tunnel, f"{name}_cpu_s_per_gb") for case in cases]
            places = [position for position, spread in enumerate(found) if spread is not None]
            cpu.plot(
                places, [spread.median for spread in found if spread is not None], marker="o", label=name
            )
        cpu.set(xlabel="proxies", ylabel="processor seconds per GB (tunnel)", ylim=(0, None))
        cpu.set_xticks(list(positions), labels)
        cpu.legend()


def _parser() -> argparse.ArgumentParser:
    full, short = Settings(), Settings.short()
    parser = make_parser(
        "bench.throughput",
        "Throughput of tunnels, one process per node, beside a blocking chain with the same cipher work.",
        short=f"other defaults: --proxies {_list(short.proxies)} --megabytes {short.megabytes} "
        f"--pairs {short.pairs}",
        plot=True,
        example="--proxies 1 3 --megabytes 64 --json -",
    )
    proxies = f"one case each (default {_list(full.proxies)})"
    parser.add_argument("--proxies", type=count, nargs="+", metavar="N", help=proxies)
    megabytes = f"content of a transfer (default {full.megabytes})"
    parser.add_argument("--megabytes", type=positive, metavar="MB", help=megabytes)
    pairs = f"transfers of each kind (default {full.pairs})"
    parser.add_argument("--pairs", type=positive_count, metavar="N", help=pairs)
    parser.add_argument("--engine", choices=("auto", "openssl", "pycryptodome"), default=full.engine)
    parser.add_argument("--profile", choices=list(_GEOMETRIES), default=DEFAULT.name)
    suites = ", ".join(f"{number}: {name}" for number, name in SUITES.items())
    parser.add_argument("--suite", type=int, choices=list(SUITES), default=0, help=suites)
    parser.add_argument("--mode", choices=("none", "route"), default=full.mode)
    return parser


def _list(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.profile = Profile(_GEOMETRIES[options.profile], options.suite).name
    settings = settings_of(options, Settings)
    try:
        get_engine(settings.engine)
    except EngineUnavailable as error:
        print(f"error: {error}\nhint: available here: {', '.join(engine_names())}", file=sys.stderr)
        return 2
    return run(options, settings, lambda: (measure(settings, watcher()),), text, record, _plot)


if __name__ == "__main__":
    sys.exit(main())
