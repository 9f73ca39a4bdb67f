"""What Alice makes of a STATUS: how her frame went, and where it failed, by the nodes of her route."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from readwrite_comp import AuthenticationError
from readwrite_comp.primitives import equal
from tunnel.codes import Report
from tunnel.crypto.primitives import TunnelEngine, expand
from tunnel.errors import ErrorCode, LocalTunnelError, MalformedMessage
from tunnel.geometry import Geometry
from tunnel.modes import NOERR_FLAG, XORERR_FLAG, ErrorMode
from tunnel.onion.header import Command, Slot
from tunnel.onion.header_builder import Circuit, OutgoingQuery
from tunnel.onion.key_schedule import Direction, StatusKeys, block_status_keys, end_to_end_key, permutation
from tunnel.onion.message import ChunkType
from tunnel.onion.status import StatusReport, originate_status, read_status, wrap_status
from tunnel.routing.route import Route

__all__ = [
    "XOR_CODE_BYTES",
    "Reported",
    "XorReport",
    "add_xor_code",
    "fits_status_chunk",
    "open_status_chunk",
    "originate",
    "pass_on",
    "raise_xor_code",
    "random_status",
    "read_reply_report",
    "read_report",
    "read_xor_code",
    "seal_status_chunk",
    "xor_code",
]


# What a node of a frame sends as STATUS: by the flags of the slot that it opened, in every error mode.
#
# The node where the frame ended or failed makes one (`originate`); each node that it passes on its way to
# Alice adds its own (`pass_on`). All kinds have one length, and a node that passes one on need not know
# which it is.
#
# Rule for the caller: the keys of a slot serve once, so one of the two is called, once for each stream.
#
# Pure functions. Source: docs/protocol.md, "Status" and "Error modes".
# The original's error channel: eight bytes to which every hop on the way back adds its code by XOR.
#
# Alice gave each hop a code (it comes from the slot seed), so she knows what each place would send: the XOR
# of the codes of hops 0 … i means that hop i raised the error. The codes say nothing of why, and do not
# resist a hop that changes them: then no place fits, and Alice knows only that. It is kept because the
# original has it, and because it costs a hop nothing; the default is `tunnel.onion.status`.
#
# The frame has the length of every STATUS. What follows the eight bytes is random and drawn anew at every
# hop, so that two hops cannot know by it that they carry the same stream.
#
# Pure functions. Source: docs/protocol.md, "Error modes"; the original's tests reptunnel_*_err.
XOR_CODE_BYTES = 8
_FAILURE, _SUCCESS = b"xor", b"xor success"


@dataclass(frozen=True, slots=True)
class XorReport:
    """What the eight bytes say.

    Attributes:
        origin: the hop that raised the error, or the last one if all went well; 0 is the first of the route.
            None when no hop could have sent these bytes: somebody changed them.
        succeeded: the last node said that all went well.
    """

    origin: int | None
    succeeded: bool


def xor_code(seed: bytes, *, success: bool = False) -> bytes:
    """The code of a slot, 8 bytes: for an error at this hop, or (last node only) for success."""
    return expand(seed, _SUCCESS if success else _FAILURE, XOR_CODE_BYTES)


def random_status(geometry: Geometry, random_bytes: Callable[[int], bytes]) -> bytes:
    """What a node sends as STATUS when it has nothing to say to anybody: the answer to DROP."""
    return random_bytes(geometry.status_bytes)


def raise_xor_code(
    seed: bytes, geometry: Geometry, random_bytes: Callable[[int], bytes], *, success: bool = False
) -> bytes:
    """The frame of the hop that raises an error, or of the last node that reports success.

    Returns:
        geometry.status_bytes bytes.
    """
    rest = random_bytes(geometry.status_bytes - XOR_CODE_BYTES)
    return xor_code(seed, success=success) + rest


def add_xor_code(
    status: bytes, seed: bytes, geometry: Geometry, random_bytes: Callable[[int], bytes]
) -> bytes:
    """What a hop makes of such a frame that came from downstream.

    Raises:
        MalformedMessage: wrong length. Reset the stream, and raise this hop's own code upstream.
    """
    if len(status) != geometry.status_bytes:
        raise MalformedMessage(
            f"STATUS is {len(status)} bytes, geometry {geometry.name!r} has {geometry.status_bytes}"
        )
    rest = random_bytes(geometry.status_bytes - XOR_CODE_BYTES)
    return _xor(status[:XOR_CODE_BYTES], xor_code(seed)) + rest


def read_xor_code(status: bytes, seeds: Sequence[bytes]) -> XorReport:
    """Compare the first eight bytes with what each hop would send; all of them, whatever fits.

    Args:
        seeds: the slot seeds of the route, the last node's included.
    Raises:
        LocalTunnelError: no seeds. MalformedMessage: fewer than 8 bytes.
    """
    if not seeds:
        raise LocalTunnelError("a route of no hops has no codes")
    if len(status) < XOR_CODE_BYTES:
        raise MalformedMessage(f"STATUS is {len(status)} bytes, expected at least {XOR_CODE_BYTES}")
    seen = status[:XOR_CODE_BYTES]
    origin = None
    sum_before = bytes(XOR_CODE_BYTES)
    for hop, seed in enumerate(seeds):
        if equal(seen, _xor(sum_before, xor_code(seed))):
            origin = hop
        success = equal(seen, _xor(sum_before, xor_code(seed, success=True)))
        sum_before = _xor(sum_before, xor_code(seed))
    if success:  # the last node's: nobody else reports it
        origin = len(seeds) - 1
    return XorReport(origin, success)


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def originate(
    slot: Slot,
    geometry: Geometry,
    code: ErrorCode | None,
    *,
    hold_ms: int,
    engine: TunnelEngine,
    about_next: bool = False,
    text: str = "",
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """The STATUS of the node where a frame ended.

    Args:
        slot: what this node opened of the header.
        code: the reason; None for success.
        hold_ms, about_next, text: as for `originate_status`; the error modes xor and none leave them out.
    """
    if slot.command is Command.DROP or slot.flags & NOERR_FLAG:
        return random_status(geometry, random_bytes)
    if slot.flags & XORERR_FLAG:
        return raise_xor_code(slot.seed, geometry, random_bytes, success=code is None)
    return originate_status(
        StatusKeys.derive(slot.seed),
        code,
        geometry=geometry,
        hold_ms=hold_ms,
        engine=engine,
        about_next=about_next,
        text=text,
    )


def pass_on(
    status: bytes,
    slot: Slot,
    geometry: Geometry,
    *,
    hold_ms: int,
    engine: TunnelEngine,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """What a hop makes of the STATUS that came from the next one.

    Raises:
        MalformedMessage: it has another length than every STATUS: the next node sent it so.
    """
    if slot.flags & XORERR_FLAG:
        return add_xor_code(status, slot.seed, geometry, random_bytes)
    keys = StatusKeys.derive(slot.seed)
    return wrap_status(status, keys, geometry=geometry, hold_ms=hold_ms, engine=engine)


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
    return engine.aead(end_to_end_key(seed, Direction.BACKWARD)).seal(_FIRST_NONCE, plain)


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
        plain = engine.aead(end_to_end_key(seed, Direction.BACKWARD)).open(_FIRST_NONCE, chunk)
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
    def circuit(self) -> Circuit: ...
    @property
    def error_mode(self) -> ErrorMode: ...


def read_report(query: Reported, status: bytes, engine: TunnelEngine) -> Report | None:
    """Read the STATUS that came back for a query.

    Returns:
        None in error mode `none`, unless a proxy tells a failure: there Bob's own word is random bytes.
    """
    route, seeds = query.route.nodes, query.circuit.seeds
    geometry = query.circuit.profile.geometry
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


def read_reply_report(query: OutgoingQuery, chunk: bytes, engine: TunnelEngine) -> Report:
    """Read what Bob has handed on of the way of his reply.

    Args:
        chunk: C bytes, the only ones of the query's backward half, as they came from the first hop.
    Raises:
        MalformedMessage: the chunk does not open, or is none of Bob's.
    """
    circuit, reply_paths = query.circuit, query.reply_paths
    buffer = bytearray(chunk)
    for seed in circuit.proxy_seeds:
        permutation(circuit.profile, seed, Direction.BACKWARD, engine).encrypt(memoryview(buffer), 0)
    geometry = reply_paths[0].profile.geometry  # all blocks of a query have one profile
    number, status = open_status_chunk(
        bytes(buffer),
        circuit.end_to_end_seed,
        circuit.profile.geometry,
        geometry,
        engine,
        blocks=len(reply_paths),
    )
    reply_path = reply_paths[number]
    route = reply_path.route.nodes
    keys = block_status_keys(reply_path.master_seed, len(route) - 1)
    return _report(route, read_status(status, keys, geometry=geometry, engine=engine), is_about_reply=True)


def _report(route: tuple[bytes, ...], found: StatusReport, *, is_about_reply: bool = False) -> Report:
    return Report(
        route,
        found.succeeded,
        found.origin,
        found.code,
        found.about_next,
        found.text,
        found.suspects,
        found.hold_ms,
        is_about_reply,
    )
