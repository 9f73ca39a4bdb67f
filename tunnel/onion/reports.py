"""STATUS in every error mode, for both sides: how a node writes it, and how Alice reads it.

    originate     the node where the frame ended or failed makes the STATUS
    pass_on       each earlier hop adds its part
    read_report   Alice opens it: outcome, place, code

The flags of the slot give the error mode. In all modes a STATUS has the same length, so a hop cannot see the
mode of another hop. The modes are:

* `status` (default): `tunnel.onion.status`, authenticated.
* `xor`: the error channel of the original. Every hop XORs its 8-byte code into the first eight bytes. Alice
  derives the codes from the slot seeds, so the XOR of the codes of hops 0 … i means that hop i raised the
  error. The codes carry no reason and no authentication: after a change no place fits. The mode exists for
  compatibility and costs a hop nothing. The bytes after the code are random and fresh at every hop, so that
  two hops cannot recognise a stream by them.
* `none`: Bob sends random bytes.

The STATUS of a reply by block ends at Bob, but only Alice has its keys. Bob sends it to her as chunk 0 of the
backward half of the query, while that half is open (`seal_status_chunk`). That half carries nothing else in a
mode that answers by block.

Rule for the caller: the status keys of a slot serve once, so call `originate` or `pass_on`, once per stream.
Pure functions. Source: docs/protocol.md, "Status" and "Error modes"; for `xor`, the original's tests
reptunnel_*_err.
"""

from __future__ import annotations

import os
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
from tunnel.onion.message import CHUNK_HEAD, CHUNK_TAG_BYTES, LAST_FLAG, ChunkType
from tunnel.onion.status import StatusReport, check_status_length, originate_status, read_status, wrap_status
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

XOR_CODE_BYTES = 8
_FAILURE, _SUCCESS = b"xor", b"xor success"  # labels of the codes
_FIRST_NONCE = bytes(12)  # of the chunk with a STATUS, whose sub-stream field is the number of the block


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
        slot: the slot that this node opened.
        code: the reason; None for success.
        hold_ms, about_next, text: as for `originate_status`; the error modes xor and none omit them.
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
    """Add this hop's part to a STATUS from the next node.

    Raises:
        MalformedMessage: wrong length; the fault of the next node.
    """
    if slot.flags & XORERR_FLAG:
        return add_xor_code(status, slot.seed, geometry, random_bytes)
    keys = StatusKeys.derive(slot.seed)
    return wrap_status(status, keys, geometry=geometry, hold_ms=hold_ms, engine=engine)


def random_status(geometry: Geometry, random_bytes: Callable[[int], bytes]) -> bytes:
    """A STATUS that carries nothing: the answer to DROP, and Bob's in error mode `none`."""
    return random_bytes(geometry.status_bytes)


@dataclass(frozen=True, slots=True)
class XorReport:
    """The meaning of the eight bytes in error mode `xor`.

    Attributes:
        origin: index of the hop that raised the error, or of the last node on success; 0 is the first hop.
            None: no hop could have sent these bytes, so they were changed.
        succeeded: the last node reported success.
    """

    origin: int | None
    succeeded: bool


def xor_code(seed: bytes, *, success: bool = False) -> bytes:
    """The 8-byte code of a slot: for an error at this hop or, at the last node only, for success."""
    return expand(seed, _SUCCESS if success else _FAILURE, XOR_CODE_BYTES)


def raise_xor_code(
    seed: bytes, geometry: Geometry, random_bytes: Callable[[int], bytes], *, success: bool = False
) -> bytes:
    """The STATUS of the hop that raises an error, or of the last node on success."""
    rest = random_bytes(geometry.status_bytes - XOR_CODE_BYTES)
    return xor_code(seed, success=success) + rest


def add_xor_code(
    status: bytes, seed: bytes, geometry: Geometry, random_bytes: Callable[[int], bytes]
) -> bytes:
    """XOR this hop's code into a STATUS from downstream.

    Raises:
        MalformedMessage: wrong length. Reset the stream, and raise this hop's own code upstream.
    """
    check_status_length(status, geometry)
    rest = random_bytes(geometry.status_bytes - XOR_CODE_BYTES)
    return _xor(status[:XOR_CODE_BYTES], xor_code(seed)) + rest


def read_xor_code(status: bytes, seeds: Sequence[bytes]) -> XorReport:
    """Find the hop whose code the first eight bytes hold. Compares with every hop, in constant time.

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
    if success:  # of the last node: only that one can report it
        origin = len(seeds) - 1
    return XorReport(origin, success)


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def fits_status_chunk(geometry: Geometry, block_geometry: Geometry) -> bool:
    """Whether a chunk of the query can carry the STATUS of the reply path; if not, that STATUS is lost."""
    return block_geometry.status_bytes <= geometry.chunk_data_bytes


def seal_status_chunk(
    status: bytes, seed: bytes, geometry: Geometry, engine: TunnelEngine, *, number: int = 0
) -> bytes:
    """Seal the STATUS of a reply by block into a chunk, at Bob.

    Args:
        status: as received on the backward half of the reply.
        seed: of the query's DEST slot. geometry: of the query.
        number: of the reply block, from 0, in the order of the message head.
    Returns:
        C bytes, the only chunk of the query's backward half; FIN and the query's own STATUS follow.
    Raises:
        LocalTunnelError: the STATUS does not fit (see `fits_status_chunk`).
    """
    if len(status) > geometry.chunk_data_bytes:
        raise LocalTunnelError(
            f"a STATUS of {len(status)} bytes does not fit a chunk of geometry {geometry.name!r}, which "
            f"carries {geometry.chunk_data_bytes}"
        )
    plain = CHUNK_HEAD.pack(ChunkType.STATUS, LAST_FLAG, number, len(status)) + status
    plain += bytes(geometry.chunk_bytes - CHUNK_TAG_BYTES - len(plain))
    return engine.layers.aead(end_to_end_key(seed, Direction.BACKWARD)).seal(_FIRST_NONCE, plain)


def open_status_chunk(
    chunk: bytes,
    seed: bytes,
    geometry: Geometry,
    block_geometry: Geometry,
    engine: TunnelEngine,
    *,
    blocks: int = 1,
) -> tuple[int, bytes]:
    """Open what `seal_status_chunk` sealed. Read the STATUS with `block_status_keys` and `read_status`.

    Args:
        chunk: C bytes, without the backward layers.
        block_geometry, blocks: geometry and number of the query's reply blocks.
    Returns:
        The number of the block, and its STATUS.
    Raises:
        MalformedMessage: it does not open, or its content is malformed.
    """
    try:
        plain = engine.layers.aead(end_to_end_key(seed, Direction.BACKWARD)).open(_FIRST_NONCE, chunk)
    except AuthenticationError as error:
        raise MalformedMessage("the chunk on the query's backward half does not open") from error
    length = block_geometry.status_bytes
    end = CHUNK_HEAD.size + length
    _, _, number, _ = CHUNK_HEAD.unpack_from(plain)
    head = CHUNK_HEAD.pack(ChunkType.STATUS, LAST_FLAG, number, length)
    if plain[: CHUNK_HEAD.size] != head or number >= blocks or any(plain[end:]):
        raise MalformedMessage(f"the chunk on the query's backward half is not a STATUS of {length} bytes")
    return number, plain[CHUNK_HEAD.size : end]


class Reported(Protocol):
    """A frame whose status its sender can read: a query or a tunnel."""

    @property
    def route(self) -> Route: ...
    @property
    def circuit(self) -> Circuit: ...
    @property
    def error_mode(self) -> ErrorMode: ...


def read_report(query: Reported, status: bytes, engine: TunnelEngine) -> Report | None:
    """Read the STATUS of a query or tunnel.

    Returns:
        None in error mode `none`, where Bob sends random bytes, unless a proxy reported a failure.
    """
    route, seeds = query.route.nodes, query.circuit.seeds
    geometry = query.circuit.profile.geometry
    try:
        if query.error_mode is ErrorMode.XOR:
            check_status_length(status, geometry)
            xor = read_xor_code(status, seeds)
            return Report(route, xor.succeeded, xor.origin, None)
        keys = [StatusKeys.derive(seed) for seed in seeds]
        found = read_status(status, keys, geometry=geometry, engine=engine)
    except MalformedMessage:
        return Report(route, False, None, ErrorCode.BAD_CONTENT, suspects=(0,))
    if query.error_mode is ErrorMode.NONE and found.origin is None:
        return None
    reply_paths = query.reply_paths if isinstance(query, OutgoingQuery) else ()
    return _report(route, found, block_first_ids=tuple(path.route.nodes[0] for path in reply_paths))


def read_reply_report(query: OutgoingQuery, chunk: bytes, engine: TunnelEngine) -> Report:
    """Read the STATUS of the reply, which Bob forwards on the query's backward half.

    Args:
        chunk: C bytes, as received from the first hop.
    Raises:
        MalformedMessage: the chunk does not open, or its content is malformed.
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


def _report(
    route: tuple[bytes, ...],
    found: StatusReport,
    *,
    is_about_reply: bool = False,
    block_first_ids: tuple[bytes, ...] = (),
) -> Report:
    return Report(
        route,
        found.succeeded,
        hop=found.origin,
        code=found.code,
        about_next=found.about_next,
        text=found.text,
        suspects=found.suspects,
        hold_ms=found.hold_ms,
        is_about_reply=is_about_reply,
        block_first_ids=block_first_ids,
    )
