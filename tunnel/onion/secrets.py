"""The key schedule: which secret gives which key, each with one label and one use.

Everything is expand(secret, label, n) = HKDF-SHA256(salt "mtun1", ikm secret, info label, length n).
Source: docs/protocol.md, "Key schedule".
"""

from __future__ import annotations

from tunnel.geometry import SEED_BYTES
from tunnel.primitives import expand

__all__ = [
    "end_to_end_key",
    "header_key",
    "layer_keys",
    "origin_binding",
    "reply_end_to_end_seed",
    "reply_hop_seed",
]


def header_key(slot_seed: bytes) -> bytes:
    """AES-256-CTR key of the header keystream of a relay (32 bytes, counter block 0, used once)."""
    return expand(slot_seed, b"header", 32)


def layer_keys(slot_seed: bytes, direction: bytes, length: int = 128) -> bytes:
    """The wide-block keys of a relay for `direction`, b"forward" or b"backward".

    `length` is the suite's: 128 bytes for LIONESS, 64 for HCTR.
    """
    return expand(slot_seed, direction, length)


def end_to_end_key(seed: bytes, direction: bytes) -> bytes:
    """AES-256-GCM key of chunks (32 bytes) for `direction`, b"forward" or b"backward"."""
    return expand(seed, b"e2e " + direction, 32)


def origin_binding(seed: bytes) -> bytes:
    """What ties Alice's signature in mode `known-dest` to one query, from the DEST seed (32 bytes)."""
    return expand(seed, b"origin", 32)


def reply_hop_seed(master_seed: bytes, proxy: int) -> bytes:
    """Slot seed of proxy `proxy` of a reply route; 0 is the first after Bob."""
    return expand(master_seed, b"hop" + proxy.to_bytes(2, "big"), SEED_BYTES)


def reply_end_to_end_seed(master_seed: bytes) -> bytes:
    """The end-to-end seed that a reply block gives to Bob."""
    return expand(master_seed, b"reply e2e", SEED_BYTES)
