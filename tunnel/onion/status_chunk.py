"""A STATUS that Bob passes on: what became of his reply by block, sent home over the query's stream.

The STATUS of a reply ends at Bob, who cannot read it; its keys are Alice's. While the query's backward half
lives he sends it to her there, in a chunk of its own: chunk 0 of that half, which has no other content in a
mode that answers by block. It is sealed under the `e2e backward` key, and proxies put their backward layers
on as on every chunk.

Pure functions. Source: docs/protocol.md, "Status".
"""

from __future__ import annotations

import struct

from readwrite_comp import AuthenticationError
from tunnel.errors import LocalTunnelError, MalformedMessage
from tunnel.geometry import Geometry
from tunnel.onion.message import ChunkType
from tunnel.onion.secrets import end_to_end_key
from tunnel.primitives import TunnelEngine

__all__ = ["fits_status_chunk", "open_status_chunk", "seal_status_chunk"]

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
