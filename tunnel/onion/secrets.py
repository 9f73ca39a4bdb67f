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
    "reply_end_to_end_seed",
    "reply_hop_seed",
]


def header_key(slot_seed: bytes) -> bytes:
    """AES-256-CTR key of the header keystream of a relay (32 bytes, counter block 0, used once)."""
    return expand(slot_seed, b"header", 32)


def layer_keys(slot_seed: bytes, direction: bytes) -> bytes:
    """The four LIONESS keys of a relay (128 bytes) for `direction`, b"forward" or b"backward"."""
    return expand(slot_seed, direction, 128)


def end_to_end_key(seed: bytes, direction: bytes) -> bytes:
    """AES-256-GCM key of chunks (32 bytes) for `direction`, b"forward" or b"backward"."""
    return expand(seed, b"e2e " + direction, 32)


def reply_hop_seed(master_seed: bytes, proxy: int) -> bytes:
    """Slot seed of proxy `proxy` of a reply route; 0 is the first after Bob."""
    return expand(master_seed, b"hop" + proxy.to_bytes(2, "big"), SEED_BYTES)


def reply_end_to_end_seed(master_seed: bytes) -> bytes:
    """The end-to-end seed that a reply block gives to Bob."""
    return expand(master_seed, b"reply e2e", SEED_BYTES)
