"""What a node of a frame sends as STATUS: by the flags of the slot that it opened, in every error mode.

The node where the frame ended or failed makes one (`originate`); each node that it passes on its way to Alice
adds its own (`pass_on`). All kinds have one length, and a node that passes one on need not know which it is.

Rule for the caller: the keys of a slot serve once, so one of the two is called, once for each stream.

Pure functions. Source: docs/protocol.md, "Status" and "Error modes".
"""

from __future__ import annotations

import os
from collections.abc import Callable

from tunnel.errors import ErrorCode
from tunnel.geometry import Geometry
from tunnel.modes import NOERR_FLAG, XORERR_FLAG
from tunnel.onion.header import Command, Slot
from tunnel.onion.status import StatusKeys, originate_status, wrap_status
from tunnel.onion.xor_codes import add_xor_code, raise_xor_code, random_status
from tunnel.primitives import TunnelEngine

__all__ = ["originate", "pass_on"]


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
