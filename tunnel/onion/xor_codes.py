"""The original's error channel: eight bytes to which every hop on the way back adds its code by XOR.

Alice gave each hop a code (it comes from the slot seed), so she knows what each place would send: the XOR of
the codes of hops 0 … i means that hop i raised the error. The codes say nothing of why, and do not resist a
hop that changes them: then no place fits, and Alice knows only that. It is kept because the original has it,
and because it costs a hop nothing; the default is `tunnel.onion.status`.

The frame has the length of every STATUS. What follows the eight bytes is random and drawn anew at every hop,
so that two hops cannot know by it that they carry the same stream.

Pure functions. Source: docs/protocol.md, "Error modes"; the original's tests reptunnel_*_err.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from readwrite_comp.primitives import equal
from tunnel.errors import LocalTunnelError, MalformedMessage
from tunnel.geometry import Geometry
from tunnel.primitives import expand

__all__ = [
    "XOR_CODE_BYTES",
    "XorReport",
    "add_xor_code",
    "raise_xor_code",
    "random_status",
    "read_xor_code",
    "xor_code",
]

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
