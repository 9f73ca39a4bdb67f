"""Reads a STATUS as docs/protocol.md describes it, written from that text alone: "Key schedule", "Status".

It shares nothing with `tunnel.onion` but the crypto primitives below. Slow and simple on purpose.
"""

from __future__ import annotations

import hmac
from typing import Any

from readwrite_comp.primitives import get_engine

__all__ = ["second_read_status"]


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    key = hmac.digest(b"mtun1", secret, "sha256")
    output = hmac.digest(key, label + b"\x01", "sha256")
    assert length <= 32
    return output[:length]


def second_read_status(status: bytes, seeds: list[bytes], slots: int) -> dict[str, Any]:
    """The node that wrote it (origin), its code field, its text, the suspected nodes, and the hold times.

    Args:
        seeds: of each node of the route, in its order. slots: N.
    """
    has_macs = slots <= 32
    hops = len(seeds)
    origin: int | None = None
    broken: int | None = None
    holds: list[int] = []
    code, text = None, ""
    for hop, seed in enumerate(seeds):
        pad = bytearray(len(status))
        get_engine("pycryptodome").xor_keystream(_expand(seed, b"status pad", 32), memoryview(pad))
        status = bytes(a ^ b for a, b in zip(status, pad, strict=True))
        body, times, macs = status[:256], status[256 : 256 + 4 * slots], status[256 + 4 * slots :]
        # Rows of N, N − 1, … MACs; row x, distance y stands at place N − 1 − x − y of its row.
        rows, at = [], 0
        for x in range(slots if has_macs else 0):
            rows.append([macs[at + 4 * i : at + 4 * i + 4] for i in range(slots - x)])
            at += 4 * (slots - x)
        if origin is None and broken is None:
            y = hops - 1 - hop
            if has_macs:
                behind = b"".join(rows[x][slots - 1 - x - (y - x)] for x in range(1, y + 1))
                key = _expand(seed, b"status trail", 32)
                expected = hmac.digest(key, body + times[: 4 * (y + 1)] + behind, "sha256")[:4]
                if rows[0][slots - 1 - y] != expected:
                    broken = hop
            if broken is None:
                holds.append(int.from_bytes(times[:4], "big"))
        if origin is None and body[:32] == hmac.digest(_expand(seed, b"status mac", 32), body[32:], "sha256"):
            origin = hop
            code = int.from_bytes(body[32:34], "big")
            text = body[36 : 36 + int.from_bytes(body[34:36], "big")].decode()
        # As hop + 1 sent it: everything one place to the left.
        times = times[4:] + bytes(4)
        rows = [[bytes(4), *row] for row in rows[1:]] + ([[bytes(4)]] if has_macs else [])
        status = body + times + b"".join(b"".join(row) for row in rows)
    if broken is not None:
        suspects = [broken - 1, broken] if broken else [0]
    elif origin is None:
        suspects = [hops - 1] if has_macs else list(range(hops))
    else:
        suspects = []
    if origin is None and not has_macs:
        holds = []
    return {"origin": origin, "code": code, "text": text, "suspects": suspects, "hold_ms": holds}
