"""Further cases of `bench.onion`: the error channel, by route length, and chunks of an established tunnel.

Each function gives names and what prepares a number of calls, as `bench.onion` wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode
from tunnel.established.keys import ChunkOpener, ChunkSealer
from tunnel.geometry import DEFAULT, INTERACTIVE, Geometry, Profile
from tunnel.onion.key_schedule import StatusKeys
from tunnel.onion.message import ChunkType
from tunnel.onion.status import originate_status, read_status, wrap_status

__all__ = ["Prepared", "status_cases", "tunnel_cases"]

Prepared = tuple[str, Callable[[int], Callable[[], object]]]


def status_cases(proxies: int, engine: TunnelEngine) -> Iterator[Prepared]:
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


def tunnel_cases(engine: TunnelEngine) -> Iterator[Prepared]:
    """A full chunk of an established tunnel at either end, without the proxies' layers."""
    for geometry in (INTERACTIVE, DEFAULT):
        name = f"tunnel chunk of {geometry.chunk_bytes:,}"
        yield f"{name}, seal", partial(_sealing, geometry, engine)
        yield f"{name}, open", partial(_opening, geometry, engine)


def _sealing(geometry: Geometry, engine: TunnelEngine, _: int) -> Callable[[], object]:
    sealer = ChunkSealer(bytes(32), geometry, engine)
    chunk = memoryview(bytearray(geometry.chunk_bytes))
    return lambda: sealer.seal(chunk, ChunkType.MSG, geometry.chunk_data_bytes)


def _opening(geometry: Geometry, engine: TunnelEngine, count: int) -> Callable[[], object]:
    sealer = ChunkSealer(bytes(32), geometry, engine)
    opener = ChunkOpener(bytes(32), geometry, engine)
    chunks = [memoryview(bytearray(geometry.chunk_bytes)) for _ in range(count + 1)]
    for chunk in chunks:
        sealer.seal(chunk, ChunkType.MSG, geometry.chunk_data_bytes)
    left = iter(chunks)
    return lambda: opener.open(next(left))
