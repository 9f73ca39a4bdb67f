"""What a node of a frame sends as STATUS: by the flags of the slot that it opened, in every error mode.

The node where the frame ended or failed makes one (`originate`); each node that it passes on its way to Alice
adds its own (`pass_on`). All kinds have one length, and a node that passes one on need not know which it is.

Rule for the caller: the keys of a slot serve once, so one of the two is called, once for each stream.

Pure functions. Source: docs/protocol.md, "Status" and "Error modes".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from readwrite_comp.primitives import equal
from tunnel.crypto.primitives import TunnelEngine, expand
from tunnel.errors import ErrorCode, LocalTunnelError, MalformedMessage
from tunnel.geometry import Geometry
from tunnel.modes import NOERR_FLAG, XORERR_FLAG
from tunnel.onion.header import Command, Slot
from tunnel.onion.status import StatusKeys, originate_status, wrap_status

__all__ = [
    "XOR_CODE_BYTES",
    "XorReport",
    "add_xor_code",
    "originate",
    "pass_on",
    "raise_xor_code",
    "random_status",
    "read_xor_code",
    "xor_code",
]


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
