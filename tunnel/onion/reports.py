"""What Alice makes of a STATUS: how her frame went, and where it failed, by the nodes of her route."""

from __future__ import annotations

import struct
from typing import Protocol

from readwrite_comp import AuthenticationError
from tunnel.codes import Report
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode, LocalTunnelError, MalformedMessage
from tunnel.geometry import Geometry
from tunnel.modes import ErrorMode
from tunnel.onion.error_channel import read_xor_code
from tunnel.onion.header_builder import Circuit, OutgoingQuery
from tunnel.onion.key_schedule import end_to_end_key, permutation
from tunnel.onion.message import ChunkType
from tunnel.onion.status import StatusKeys, StatusReport, block_status_keys, read_status
from tunnel.routing.route import Route

__all__ = [
    "Reported",
    "fits_status_chunk",
    "open_status_chunk",
    "read_report",
    "read_way_back_report",
    "seal_status_chunk",
]


# A STATUS that Bob passes on: what became of his reply by block, sent home over the query's stream.
#
# The STATUS of a reply ends at Bob, who cannot read it; its keys are Alice's. While the query's backward
# half lives he sends it to her there, in a chunk of its own: chunk 0 of that half, which has no other
# content in a mode that answers by block. It is sealed under the `e2e backward` key, and proxies put their
# backward layers on as on every chunk.
#
# Pure functions. Source: docs/protocol.md, "Status".
_HEAD = struct.Struct(">BBHH")
_LAST = 0x01
_FIRST_NONCE = bytes(12)


def fits_status_chunk(geometry: Geometry, block_geometry: Geometry) -> bool:
    """Whether a query of `geometry` can carry the STATUS of a block of `block_geometry`; else it is lost."""
    return block_geometry.status_bytes <= geometry.chunk_data_bytes


def seal_status_chunk(
    status: bytes, seed: bytes, geometry: Geometry, engine: TunnelEngine, *, number: int = 0
) -> bytes:
    """Bob's chunk.

    Args:
        status: as it came on the reply's backward half.
        seed: of the query's DEST slot. geometry: the query's.
        number: of the reply block, from 0, in the order of the query's head.
    Returns:
        C bytes: all content of the query's backward half; FIN and the query's own STATUS follow.
    Raises:
        LocalTunnelError: the chunk is too short (see `fits_status_chunk`).
    """
    if len(status) > geometry.chunk_data_bytes:
        raise LocalTunnelError(
            f"a STATUS of {len(status)} bytes, a chunk of geometry {geometry.name!r} carries "
            f"{geometry.chunk_data_bytes}"
        )
    plain = _HEAD.pack(ChunkType.STATUS, _LAST, number, len(status)) + status
    plain += bytes(geometry.chunk_bytes - 16 - len(plain))
    return engine.aead(end_to_end_key(seed, b"backward")).seal(_FIRST_NONCE, plain)


def open_status_chunk(
    chunk: bytes,
    seed: bytes,
    geometry: Geometry,
    block_geometry: Geometry,
    engine: TunnelEngine,
    *,
    blocks: int = 1,
) -> tuple[int, bytes]:
    """What Alice reads: the STATUS of one of her replies, for `read_status` with `block_status_keys`.

    Args:
        chunk: C bytes, the backward layers taken off. block_geometry: of the blocks that she gave to Bob.
        blocks: how many.
    Returns:
        The block's number, and the STATUS.
    Raises:
        MalformedMessage: it does not open, or holds what Bob does not write.
    """
    try:
        plain = engine.aead(end_to_end_key(seed, b"backward")).open(_FIRST_NONCE, chunk)
    except AuthenticationError as error:
        raise MalformedMessage("the chunk on the query's backward half does not open") from error
    length = block_geometry.status_bytes
    end = _HEAD.size + length
    _, _, number, _ = _HEAD.unpack_from(plain)
    head = _HEAD.pack(ChunkType.STATUS, _LAST, number, length)
    if plain[: _HEAD.size] != head or number >= blocks or any(plain[end:]):
        raise MalformedMessage(f"the chunk on the query's backward half is no STATUS of {length} bytes")
    return number, plain[_HEAD.size : end]


class Reported(Protocol):
    """A frame of Alice's whose status she can read: a query, or a tunnel."""

    @property
    def route(self) -> Route: ...
    @property
    def way(self) -> Circuit: ...
    @property
    def error_mode(self) -> ErrorMode: ...


def read_report(query: Reported, status: bytes, engine: TunnelEngine) -> Report | None:
    """Read the STATUS that came back for a query.

    Returns:
        None in error mode `none`, unless a proxy tells a failure: there Bob's own word is random bytes.
    """
    route, seeds = query.route.nodes, query.way.seeds
    geometry = query.way.profile.geometry
    try:
        if query.error_mode is ErrorMode.XOR:
            if len(status) != geometry.status_bytes:
                raise MalformedMessage(f"STATUS of {len(status)} bytes, expected {geometry.status_bytes}")
            xor = read_xor_code(status, seeds)
            return Report(route, xor.succeeded, xor.origin, None)
        keys = [StatusKeys.derive(seed) for seed in seeds]
        found = read_status(status, keys, geometry=geometry, engine=engine)
    except MalformedMessage:
        return Report(route, False, None, ErrorCode.BAD_CONTENT, suspects=(0,))
    if query.error_mode is ErrorMode.NONE and found.origin is None:
        return None
    return _report(route, found)


def read_way_back_report(query: OutgoingQuery, chunk: bytes, engine: TunnelEngine) -> Report:
    """Read what Bob has handed on of the way of his reply.

    Args:
        chunk: C bytes, the only ones of the query's backward half, as they came from the first hop.
    Raises:
        MalformedMessage: the chunk does not open, or is none of Bob's.
    """
    way, ways_back = query.way, query.ways_back
    buffer = bytearray(chunk)
    for seed in way.proxy_seeds:
        permutation(way.profile, seed, b"backward", engine).encrypt(memoryview(buffer), 0)
    geometry = ways_back[0].profile.geometry  # all blocks of a query have one profile
    number, status = open_status_chunk(
        bytes(buffer),
        way.end_to_end_seed,
        way.profile.geometry,
        geometry,
        engine,
        blocks=len(ways_back),
    )
    way_back = ways_back[number]
    route = way_back.route.nodes
    keys = block_status_keys(way_back.master_seed, len(route) - 1)
    return _report(route, read_status(status, keys, geometry=geometry, engine=engine), is_way_back=True)


def _report(route: tuple[bytes, ...], found: StatusReport, *, is_way_back: bool = False) -> Report:
    return Report(
        route,
        found.succeeded,
        found.origin,
        found.code,
        found.about_next,
        found.text,
        found.suspects,
        found.hold_ms,
        is_way_back,
    )
