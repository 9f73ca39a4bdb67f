"""The cost of one proxy besides its ciphers: `python -m bench.proxy_path`.

Two links and the relay between them run in one thread, without sockets and waits. So the figure is stable
from run to run, unlike that of whole transfers on a shared machine. It is the processor time of a proxy for a
chunk between `recv` and `send`: both multiplexers, the relay, the reactor's turns, credit in both directions.
The two ends that make and receive the records are not timed.

The cipher passes alone (open a record, permute the chunk, seal a record) are measured in turn. The difference
is the cost of the path itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.command import make_parser, positive_count, run, settings_of
from bench.report import Machine, Spread, report, table
from reactor import Reactor, Service, Signal
from tunnel.crypto.primitives import tunnel_engine
from tunnel.geometry import ALL_PROFILES, BULK, DEFAULT, HCTR_SUITE, LIONESS_SUITE, Profile
from tunnel.link.cells import CELL_HEAD_BYTES
from tunnel.link.mux import Multiplexer, MuxLimits, MuxStream
from tunnel.link.noise import LinkKeys
from tunnel.link.records import BUFFER_BYTES, RecordOpener, RecordSealer, record_bytes_for
from tunnel.node.relay.read_service import relay
from tunnel.onion.key_schedule import Direction, permutation

__all__ = ["Case", "Settings", "main", "measure", "record", "text"]

_KEYS = (bytes(32), bytes([1]) * 32)
_SEED = bytes(16)


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a measurement.

    Attributes:
        profiles: by name. chunks: of one measurement. rounds: measurements.
    """

    profiles: tuple[str, ...] = tuple(
        Profile(geometry, suite).name for geometry in (DEFAULT, BULK) for suite in (LIONESS_SUITE, HCTR_SUITE)
    )
    chunks: int = 2_000
    rounds: int = 7

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(chunks=40, rounds=1)


@dataclass(frozen=True, slots=True)
class Case:
    """One profile; microseconds of processor time for a chunk.

    Attributes:
        path: of all that is timed. passes: of the ciphers alone. rest: path − passes, of each round.
    """

    profile: str
    path: Spread
    passes: Spread
    rest: Spread


class _Timer:
    """Measures the processor time of calls."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> Any:
        started_ns = time.thread_time_ns()
        result = call(*arguments)
        self.ns += time.thread_time_ns() - started_ns
        return result


class _Proxy:
    """A proxy between two far ends: `send` makes one end send and moves everything as far as possible."""

    def __init__(self, profile: Profile, reactor: Reactor) -> None:
        self._reactor = reactor
        self._timer = _Timer()
        self._upstream, self._incoming = self._link(is_upstream=True)
        self._outgoing, self._downstream = self._link(is_upstream=False)
        self._source = self._upstream.open(profile)
        self._relayed = self._outgoing.open(profile)
        self._sink: MuxStream[Signal] | None = None
        self._scratch = memoryview(bytearray(BUFFER_BYTES))
        # The relay moves chunks; the header before them has another length.
        self._header = bytes(profile.geometry.header_bytes)
        self._relayed.write(self._header)
        self._source.write(self._header)
        self._layer = permutation(profile, _SEED, Direction.FORWARD, tunnel_engine())
        self._chunk_bytes = profile.geometry.chunk_bytes
        self._move()

    def _link(self, *, is_upstream: bool) -> tuple[Multiplexer[Signal], Multiplexer[Signal]]:
        def side(keys: LinkKeys, *, is_dialler: bool) -> Multiplexer[Signal]:
            return Multiplexer(
                keys,
                is_dialler=is_dialler,
                engine=tunnel_engine(),
                limits=MuxLimits(),
                make_notifier=Signal,
                now_s=self._reactor.now,
            )

        forward, backward = _KEYS
        return (
            side(LinkKeys(forward, backward, b""), is_dialler=True),
            side(LinkKeys(backward, forward, b""), is_dialler=False),
        )

    def send(self, chunks: int) -> float:
        """Relay this many chunks; returns microseconds of the proxy's processor time for each."""
        self._timer.ns = 0
        content = memoryview(bytes(self._chunk_bytes))
        left = chunks
        while left or not self._is_quiet():
            while left:
                try:
                    self._source.write(content)
                except BlockingIOError:
                    break
                left -= 1
            self._move()
        return self._timer.ns / chunks / 1e3

    def _is_quiet(self) -> bool:
        return not (self._upstream.pending or self._outgoing.pending)

    def _move(self) -> None:
        """One receive of each link with pending bytes, one turn of the reactor, and the resulting sends."""
        timer = self._timer
        self._transfer(self._upstream, self._incoming, timer_at_target=True)
        self._transfer(self._downstream, self._outgoing, timer_at_target=True)
        if self._sink is None:
            self._begin()
        timer(self._reactor.turn)
        self._transfer(self._outgoing, self._downstream, timer_at_target=False)
        self._transfer(self._incoming, self._upstream, timer_at_target=False)
        if self._sink is not None:
            self._take(self._sink)

    def _begin(self) -> None:
        stream = self._incoming.accept_nowait()
        if stream is not None:
            header = memoryview(bytearray(len(self._header)))
            while header:
                header = header[stream.readinto(header) :]
            self._reactor.spawn(self._serve(stream))
        self._transfer(self._outgoing, self._downstream, timer_at_target=False)
        self._sink = self._downstream.accept_nowait()

    def _serve(self, stream: MuxStream[Signal]) -> Service[int]:
        return relay(stream, self._relayed, self._layer.decrypt, self._chunk_bytes)

    def _take(self, sink: MuxStream[Signal]) -> None:
        try:
            while sink.readinto(self._scratch):
                pass
        except BlockingIOError:
            return

    def _transfer(
        self, source: Multiplexer[Signal], target: Multiplexer[Signal], *, timer_at_target: bool
    ) -> None:
        """The bytes of one `send` and one `recv`; only the proxy's side is timed."""
        at_source = _call if timer_at_target else self._timer
        at_target = self._timer if timer_at_target else _call
        pending = at_source(_pending, source)
        if not pending:
            return
        space = at_target(target.space)
        count = min(len(space), len(pending))
        space[:count] = pending[:count]
        at_source(source.sent, count)
        at_target(target.received, count)


def _call(call: Callable[..., Any], *arguments: Any) -> Any:
    return call(*arguments)


def _pending(mux: Multiplexer[Signal]) -> memoryview:
    return mux.pending


def _passes(profile: Profile, chunks: int) -> float:
    """Microseconds for the cipher passes over one chunk."""
    engine = tunnel_engine()
    layer = permutation(profile, _SEED, Direction.FORWARD, engine)
    size = record_bytes_for(CELL_HEAD_BYTES + profile.geometry.chunk_bytes)
    record = memoryview(bytearray(size))
    sealer, again, opener = (
        RecordSealer(_KEYS[0], engine),
        RecordSealer(_KEYS[1], engine),
        RecordOpener(_KEYS[0], engine),
    )
    start = size - len(record[4:-16]) - 16 + CELL_HEAD_BYTES
    chunk = record[start : start + profile.geometry.chunk_bytes]
    spent_ns = 0
    for number in range(chunks):
        sealer.seal(record)
        started_ns = time.thread_time_ns()
        opener.open(record)
        layer.decrypt(chunk, number)
        again.seal(record)
        spent_ns += time.thread_time_ns() - started_ns
    return spent_ns / chunks / 1e3


def measure(settings: Settings) -> list[Case]:
    """Measure one profile after the other."""
    cases = []
    for name in settings.profiles:
        profile = Profile.from_name(name)
        path, passes = [], []
        with Reactor() as reactor:
            proxy = _Proxy(profile, reactor)
            proxy.send(min(200, settings.chunks))
            for _ in range(settings.rounds):
                path.append(proxy.send(settings.chunks))
                passes.append(_passes(profile, settings.chunks))
        rest = [whole - part for whole, part in zip(path, passes, strict=True)]
        cases.append(Case(name, Spread.of(path), Spread.of(passes), Spread.of(rest)))
    return cases


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people."""
    rows = [[case.profile, case.path.text(), case.passes.text(), case.rest.text()] for case in cases]
    heads = ("profile", "whole path", "ciphers alone", "the rest")
    title = (
        f"One proxy without sockets: µs of processor time for a chunk, median of {settings.rounds} "
        "(lowest–highest)"
    )
    return table(heads, rows, title=title) + f"\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("proxy path", settings, cases, where)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    defaults = Settings()
    parser = make_parser("bench.proxy_path", __doc__ or "")
    names = [profile.name for profile in ALL_PROFILES]
    parser.add_argument("--profiles", nargs="+", choices=names, help=f"default {defaults.profiles}")
    chunks = f"of one measurement (default {defaults.chunks})"
    parser.add_argument("--chunks", type=positive_count, metavar="N", help=chunks)
    parser.add_argument("--rounds", type=positive_count, metavar="N", help=f"default {defaults.rounds}")
    options = parser.parse_args(arguments)
    settings = settings_of(options, Settings)
    return run(options, settings, lambda: (measure(settings),), text, record)


if __name__ == "__main__":
    sys.exit(main())
