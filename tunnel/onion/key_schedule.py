"""The key schedule: which secret gives which key, each with one label and one use.

Everything is expand(secret, label, n) = HKDF-SHA256(salt "mtun1", ikm secret, info label, length n).
Source: docs/protocol.md, "Key schedule".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from readwrite_comp.primitives import sha256
from readwrite_comp.wideblock import HCTR_KEY_BYTES, LIONESS_KEY_BYTES, Hctr, Lioness, WidePermutation
from tunnel.crypto.primitives import TunnelEngine, X25519Private, expand
from tunnel.errors import MalformedMessage, RefusedKey
from tunnel.geometry import HCTR_SUITE, SEED_BYTES, Profile

__all__ = [
    "Direction",
    "StatusKeys",
    "block_status_keys",
    "end_to_end_key",
    "header_key",
    "layer_keys",
    "origin_binding",
    "permutation",
    "reply_end_to_end_seed",
    "reply_hop_seed",
    "tunnel_keys",
]


class Direction(Enum):
    """Which half of a stream, or whose key. The value is the label of the key schedule."""

    FORWARD = b"forward"  # from the sender of the header to its last node
    BACKWARD = b"backward"  # over the same streams, back to the sender


def header_key(slot_seed: bytes) -> bytes:
    """AES-256-CTR key of the header keystream of a relay (32 bytes, counter block 0, used once)."""
    return expand(slot_seed, b"header", 32)


def layer_keys(slot_seed: bytes, direction: Direction, length: int = 128) -> bytes:
    """The wide-block keys of a relay for `direction`, b"forward" or b"backward".

    `length` is the suite's: 128 bytes for LIONESS, 64 for HCTR.
    """
    return expand(slot_seed, direction.value, length)


def end_to_end_key(seed: bytes, direction: Direction) -> bytes:
    """AES-256-GCM key of chunks (32 bytes) for `direction`, b"forward" or b"backward"."""
    return expand(seed, b"e2e " + direction.value, 32)


def origin_binding(seed: bytes) -> bytes:
    """What ties Alice's signature in mode `known-dest` to one query, from the DEST seed (32 bytes)."""
    return expand(seed, b"origin", 32)


def reply_hop_seed(master_seed: bytes, proxy: int) -> bytes:
    """Slot seed of proxy `proxy` of a reply route; 0 is the first after Bob."""
    return expand(master_seed, b"hop" + proxy.to_bytes(2, "big"), SEED_BYTES)


def reply_end_to_end_seed(master_seed: bytes) -> bytes:
    """The end-to-end seed that a reply block gives to Bob."""
    return expand(master_seed, b"reply e2e", SEED_BYTES)


# The two suites of the content layers: which permutation a profile means, and how its key is made.
#
# Suite 0 is LIONESS, which every node offers. Suite 1 is HCTR, three to four times faster with OpenSSL,
# used where every hop offers it. A slot seed belongs to one frame, a frame has one profile, and the profile
# is bound into each slot: so the two suites may take their keys from the same label. Source:
# docs/protocol.md, "Wide-block layer".


def permutation(
    profile: Profile, slot_seed: bytes, direction: Direction, engine: TunnelEngine
) -> WidePermutation:
    """The permutation of one proxy for one direction of a frame.

    Args:
        profile: gives the suite and the chunk's length.
        slot_seed: 16 bytes from the proxy's slot. direction: b"forward" or b"backward".
    """
    chunk_bytes = profile.geometry.chunk_bytes
    if profile.suite == HCTR_SUITE:
        return Hctr(layer_keys(slot_seed, direction, HCTR_KEY_BYTES), chunk_bytes, engine.layers)
    return Lioness(layer_keys(slot_seed, direction, LIONESS_KEY_BYTES), chunk_bytes, engine.layers)


@dataclass(frozen=True, slots=True)
class StatusKeys:
    """The three keys that a node has for the STATUS of one stream, 32 bytes each."""

    mac: bytes
    trail: bytes
    pad: bytes

    @classmethod
    def derive(cls, seed: bytes) -> StatusKeys:
        """From a slot's seed; at Alice, for a reply that reached her, from the master seed in HOME."""
        return cls(
            expand(seed, b"status mac", 32),
            expand(seed, b"status trail", 32),
            expand(seed, b"status pad", 32),
        )


def block_status_keys(master_seed: bytes, proxies: int) -> list[StatusKeys]:
    """Keys for reading the STATUS of a reply by block: its proxies in order, then Alice's own HOME."""
    seeds = [reply_hop_seed(master_seed, proxy) for proxy in range(proxies)]
    return [StatusKeys.derive(seed) for seed in (*seeds, master_seed)]


def tunnel_keys(
    seed: bytes, ephemeral: X25519Private, other_ephemeral: bytes, hello_alice: bytes, hello_bob: bytes
) -> tuple[bytes, bytes]:
    """The keys (forward, backward) after the HELLOs.

    Args:
        seed: of the DEST slot, 16 bytes.
        ephemeral, other_ephemeral: this end's and the other end's.
        hello_alice, hello_bob: the data of both HELLO chunks.
    Raises:
        MalformedMessage: the other end's key is of low order, which would fix the secret to zero.
    """
    try:
        shared = ephemeral.exchange(other_ephemeral)
    except RefusedKey as error:
        raise MalformedMessage(f"HELLO: {error}") from error
    transcript = sha256(hello_alice + hello_bob)
    return (
        expand(seed + shared, b"hello forward" + transcript, 32),
        expand(seed + shared, b"hello backward" + transcript, 32),
    )
