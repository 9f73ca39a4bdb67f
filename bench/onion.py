"""The cost of the onion, by number of proxies and engine: `python -m bench.onion`.

Each case is one call, timed in microseconds of processor time and divided by the number of calls:

* `header build`: Alice seals n + 1 slots. `header open`: one hop opens one and makes the next header, its
  replay table included. `reply block`: Alice seals n + 1 slots for the reply path.
* `query, with reply block`: all of what `OnionCodec.query` does in mode `route`.
* `n layers`: one chunk through the layers that Alice applies, in both suites and both of the large chunk
  lengths; n = 1 is what it costs a proxy.
* `status originate`, `wrap`, `read`: by the node where the frame ended, each hop on the way, and Alice.
* `seal` and `open`: one chunk of content end to end, at Alice and at Bob; and of an established tunnel.

Profile `default`, or `long` for more than 30 proxies. All nodes are in this process; none has a socket.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.command import count, make_parser, positive_count, run, settings_of
from bench.report import Machine, Spread, report, table
from readwrite_comp.primitives import engine_names
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.errors import ErrorCode
from tunnel.established.keys import ChunkOpener, ChunkSealer
from tunnel.geometry import (
    ALL_PROFILES,
    BULK,
    DEFAULT,
    HCTR_SUITE,
    INTERACTIVE,
    LIONESS_SUITE,
    SUITES,
    Geometry,
    Profile,
)
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import NodeKeys
from tunnel.modes import ReplyMode
from tunnel.onion.codec import OnionCodec
from tunnel.onion.key_schedule import Direction, StatusKeys, permutation
from tunnel.onion.message import ChunkType, MessageR, MessageW
from tunnel.onion.status import originate_status, read_status, wrap_status
from tunnel.routing.route import Route

__all__ = [
    "Case",
    "Settings",
    "main",
    "measure",
    "record",
    "text",
]


_NOW_S = 1_800_000_000.0
_SEED = bytes(16)
Call = Callable[[], object]
# A name, and what prepares a number of calls.
Prepared = tuple[str, Callable[[int], Call]]


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a measurement.

    Attributes:
        proxies: n, each a group of cases.
        rounds: measurements of each case.
        seconds: approximate time of one measurement.
        only: select the cases whose name contains this.
    """

    proxies: tuple[int, ...] = (1, 3, 25, 126)
    rounds: int = 5
    seconds: float = 0.1
    only: str = ""

    @classmethod
    def short(cls) -> Settings:
        """Small values that show that everything works."""
        return cls(proxies=(1, 3), rounds=1, seconds=0.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One call.

    Attributes:
        proxies: n.
        microseconds: of processor time, of one call.
    """

    name: str
    engine: str
    proxies: int
    microseconds: Spread


class _Nodes:
    """Alice, n proxies and Bob, without sockets. Their keys are made once."""

    def __init__(self, proxies: int, engine: TunnelEngine) -> None:
        self.profile = Profile.for_proxies(proxies)
        self._engine = engine
        directory = StaticDirectory()
        keys = [NodeKeys.generate(_NOW_S) for _ in range(proxies + 2)]
        found: list[Descriptor] = []
        for each in keys:
            offered = tuple(profile.byte for profile in ALL_PROFILES)
            found.append(each.descriptor((), _NOW_S, engine, profiles=offered))
            directory.publish(found[-1])
        ids = [descriptor.node_id for descriptor in found]
        self.route = Route(tuple(ids[1:-1]), ids[-1])
        self.alice = OnionCodec(ring=KeyRing(keys[0], engine), directory=directory)
        # Enough room in the first proxy's table for every header that is opened here, from one neighbour.
        ring = KeyRing(keys[1], engine, limit=10_000_000, share=10_000_000)
        self.first = OnionCodec(ring=ring, directory=directory)
        self.home = Route(self.route.proxies[::-1], ids[0])

    def header(self) -> bytes:
        """Of a fresh query."""
        return self.alice.circuit(self.route, self.profile, now_s=_NOW_S).header

    def open(self, header: bytes) -> None:
        """At the first proxy."""
        self.first.open_frame(header, self.profile, neighbour=self.alice.node_id, now_s=_NOW_S)

    def block(self) -> None:
        """A reply block."""
        self.alice.builder.reply_block(
            self.home,
            self.profile,
            user=self.route.destination,
            query_id=bytes(8),
            number=0,
            master_seed=bytes(16),
            now_s=_NOW_S,
        )

    def query(self) -> None:
        """A query with a reply block."""
        self.alice.query(self.route, ReplyMode.ROUTE, self.profile, now_s=_NOW_S)


def _cases(proxies: int, engine: TunnelEngine) -> Iterator[Prepared]:
    """The name of each case, and a function that prepares a number of calls."""
    nodes = _Nodes(proxies, engine)
    yield "header build", lambda _: nodes.header
    yield "header open", lambda count: _each(nodes.open, [nodes.header() for _ in range(count)])
    yield "reply block", lambda _: nodes.block
    yield "query, with reply block", lambda _: nodes.query
    for suite in (LIONESS_SUITE, HCTR_SUITE):
        for geometry in (DEFAULT, BULK):
            profile = Profile(geometry, suite)
            name = f"{SUITES[suite]}, chunk of {geometry.chunk_bytes:,}"
            yield f"n layers, {name}", partial(_layers, profile, proxies, engine)
    yield from _status_cases(proxies, engine)
    if proxies == 1:
        yield from _tunnel_cases(engine)
        yield "seal, chunk of 16,356", lambda _: _sealing(Profile(DEFAULT), engine)
        yield "open, chunk of 16,356", lambda count: _opening(Profile(DEFAULT), engine, count)


def _each(call: Callable[[bytes], object], arguments: list[bytes]) -> Call:
    left = iter(arguments)
    return lambda: call(next(left))


def _layers(profile: Profile, layers: int, engine: TunnelEngine, _: int) -> Call:
    """One chunk through all layers, always with the same tweak, which costs the same."""
    all_layers = [permutation(profile, bytes([n]) * 16, Direction.FORWARD, engine) for n in range(layers)]
    chunk = memoryview(bytearray(profile.geometry.chunk_bytes))

    def call() -> None:
        for layer in all_layers:
            layer.encrypt(chunk, 0)

    return call


class _Sink:
    def write(self, data: memoryview, /) -> int:
        return len(data)


def _sealing(profile: Profile, engine: TunnelEngine) -> Call:
    layer, sink = MessageW(profile, bytes(32), engine=engine), _Sink()
    content = memoryview(bytes(profile.geometry.chunk_data_bytes))
    layer.write_header(sink)
    layer.flush_into(sink)

    def call() -> None:
        layer.write_into(sink, content)
        layer.flush_into(sink)

    return call


def _opening(profile: Profile, engine: TunnelEngine, count: int) -> Call:
    wire = io.BytesIO()
    writer = MessageW(profile, bytes(32), engine=engine)
    writer.write_header(wire)
    data = profile.geometry.chunk_data_bytes
    content = memoryview(bytes(data * (count + 1)))
    while content:
        content = content[writer.write_into(wire, content) :]
    writer.write_end(wire)
    wire.seek(0)
    reader, buffer = MessageR(profile, bytes(32), engine=engine), bytearray(data)
    reader.read_header(wire)
    reader.read_into(wire, buffer)
    return lambda: reader.read_into(wire, buffer)


def _status_cases(proxies: int, engine: TunnelEngine) -> Iterator[Prepared]:
    """The cost of a STATUS for its sender, each hop and Alice; keys included, as in a node."""
    geometry = Profile.for_proxies(proxies).geometry
    seeds = [bytes([number]) * 16 for number in range(proxies + 1)]
    status = _originated(seeds[-1], geometry, engine)
    for seed in reversed(seeds[:-1]):
        status = _wrapped(status, seed, geometry, engine)
    yield "status originate", lambda _: partial(_originated, seeds[-1], geometry, engine)
    yield "status wrap", lambda _: partial(_wrapped, status, seeds[0], geometry, engine)
    yield "status read", lambda _: partial(_read, status, seeds, geometry, engine)


def _originated(seed: bytes, geometry: Geometry, engine: TunnelEngine) -> bytes:
    keys = StatusKeys.derive(seed)
    return originate_status(keys, ErrorCode.TIMEOUT, geometry=geometry, hold_ms=1, engine=engine)


def _wrapped(status: bytes, seed: bytes, geometry: Geometry, engine: TunnelEngine) -> bytes:
    return wrap_status(status, StatusKeys.derive(seed), geometry=geometry, hold_ms=1, engine=engine)


def _read(status: bytes, seeds: list[bytes], geometry: Geometry, engine: TunnelEngine) -> None:
    keys = [StatusKeys.derive(seed) for seed in seeds]
    report = read_status(status, keys, geometry=geometry, engine=engine)
    assert report.origin == len(seeds) - 1


def _tunnel_cases(engine: TunnelEngine) -> Iterator[Prepared]:
    """A full chunk of an established tunnel at either end, without the proxies' layers."""
    for geometry in (INTERACTIVE, DEFAULT):
        name = f"tunnel chunk of {geometry.chunk_bytes:,}"
        yield f"{name}, seal", partial(_tunnel_sealing, geometry, engine)
        yield f"{name}, open", partial(_tunnel_opening, geometry, engine)


def _tunnel_sealing(geometry: Geometry, engine: TunnelEngine, _: int) -> Call:
    sealer = ChunkSealer(bytes(32), geometry, engine)
    chunk = memoryview(bytearray(geometry.chunk_bytes))
    return lambda: sealer.seal(chunk, ChunkType.MSG, geometry.chunk_data_bytes)


def _tunnel_opening(geometry: Geometry, engine: TunnelEngine, count: int) -> Call:
    sealer = ChunkSealer(bytes(32), geometry, engine)
    opener = ChunkOpener(bytes(32), geometry, engine)
    chunks = [memoryview(bytearray(geometry.chunk_bytes)) for _ in range(count + 1)]
    for chunk in chunks:
        sealer.seal(chunk, ChunkType.MSG, geometry.chunk_data_bytes)
    left = iter(chunks)
    return lambda: opener.open(next(left))


def _measured(prepare: Callable[[int], Call], settings: Settings) -> Spread:
    trial = prepare(3)
    trial()
    started_s = time.process_time()
    trial()
    once_s = max(1e-6, time.process_time() - started_s)
    calls = max(1, min(2_000, int(settings.seconds / once_s)))
    found = []
    for _ in range(settings.rounds):
        call = prepare(calls + 1)
        call()
        started_s = time.process_time()
        for _ in range(calls):
            call()
        # The clock has a resolution: a single short call may seem to take no time.
        found.append(max(1e-3, (time.process_time() - started_s) / calls * 1e6))
    return Spread.of(found)


def measure(settings: Settings) -> list[Case]:
    """Run every case on every engine that is installed."""
    return [
        Case(name, engine, proxies, _measured(prepare, settings))
        for engine in engine_names()
        for proxies in settings.proxies
        for name, prepare in _cases(proxies, tunnel_engine(engine))
        if settings.only in name
    ]


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people: a row for each case and engine, a column for each n."""
    rows = []
    for engine in dict.fromkeys(case.engine for case in cases):
        for name in dict.fromkeys(case.name for case in cases):
            found = {c.proxies: c.microseconds for c in cases if (c.name, c.engine) == (name, engine)}
            cells = [found[n].text(0) if n in found else "–" for n in settings.proxies]
            rows.append([name, engine, *cells])
    heads = ["call", "engine", *(f"n = {proxies}" for proxies in settings.proxies)]
    title = f"The onion: µs of processor time for one call, median of {settings.rounds} (lowest–highest)"
    return "\n".join([table(heads, rows, title=title), "", where.line()])


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return report("onion", settings, cases, where)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    defaults = Settings()
    parser = make_parser("bench.onion", __doc__ or "")
    parser.add_argument("--proxies", type=count, nargs="+", metavar="N", help=f"default {defaults.proxies}")
    parser.add_argument("--rounds", type=positive_count, metavar="N", help=f"default {defaults.rounds}")
    parser.add_argument("--seconds", type=float, help=f"of one measurement (default {defaults.seconds})")
    parser.add_argument("--only", metavar="TEXT", help="the cases whose name holds this")
    options = parser.parse_args(arguments)
    settings = settings_of(options, Settings)
    return run(options, settings, lambda: (measure(settings),), text, record)


if __name__ == "__main__":
    sys.exit(main())
