"""The key schedule of frames, status and tunnels: one label and one use for each key.

Every key is expand(secret, label, n) = HKDF-SHA256(salt "mtun1", ikm secret, info label, length n).

Rule for changing it: two keys from one secret never share a label. The two cipher suites are the exception:
both take their layer keys from the label of the direction. A slot seed belongs to one frame, a frame has one
profile, and each slot is bound to that profile, so only one suite ever uses the key.

Source: docs/protocol.md, "Key schedule" and "Wide-block layer".
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
    "query_binding",
    "reply_end_to_end_seed",
    "reply_hop_seed",
    "tunnel_keys",
]


class Direction(Enum):
    """One half of a frame's streams. The value is the label in the key schedule."""

    FORWARD = b"forward"  # from the sender of the header to the last node
    BACKWARD = b"backward"  # from the last node back to the sender, over the same streams


def header_key(slot_seed: bytes) -> bytes:
    """The AES-256-CTR key of a proxy's header keystream: 32 bytes, counter block 0, used once."""
    return expand(slot_seed, b"header", 32)


def layer_keys(slot_seed: bytes, direction: Direction, length: int = 128) -> bytes:
    """The wide-block key of a proxy: 128 bytes for LIONESS, 64 for HCTR."""
    return expand(slot_seed, direction.value, length)


def end_to_end_key(seed: bytes, direction: Direction) -> bytes:
    """The AES-256-GCM key of chunks, 32 bytes."""
    return expand(seed, b"e2e " + direction.value, 32)


def origin_binding(seed: bytes) -> bytes:
    """Binds Alice's signature (mode `known-dest`) to one query: 32 bytes from the seed in the DEST slot."""
    return expand(seed, b"origin", 32)


def query_binding(seed: bytes, destination: bytes) -> bytes:
    """Binds the proof of a client key to one query: 32 bytes that only its two ends know.

    It contains the destination, because a destination could put the seed into a query of its own to another
    node.

    Args:
        seed: in the DEST slot, 16 bytes. destination: its node id.
    """
    return expand(seed, b"client" + destination, 32)


def reply_hop_seed(master_seed: bytes, proxy: int) -> bytes:
    """The slot seed of a proxy on a reply path; proxy 0 is the first after Bob."""
    return expand(master_seed, b"hop" + proxy.to_bytes(2, "big"), SEED_BYTES)


def reply_end_to_end_seed(master_seed: bytes) -> bytes:
    """The end-to-end seed in a reply block, for Bob."""
    return expand(master_seed, b"reply e2e", SEED_BYTES)


def permutation(
    profile: Profile, slot_seed: bytes, direction: Direction, engine: TunnelEngine
) -> WidePermutation:
    """The wide-block permutation of one proxy for one direction of a frame.

    Every node offers suite 0, LIONESS. Suite 1, HCTR, is three to four times faster with OpenSSL, and is used
    where every hop offers it.

    Args:
        profile: gives the suite and the chunk length.
        slot_seed: 16 bytes from the proxy's slot.
    """
    chunk_bytes = profile.geometry.chunk_bytes
    if profile.suite == HCTR_SUITE:
        return Hctr(layer_keys(slot_seed, direction, HCTR_KEY_BYTES), chunk_bytes, engine.layers)
    return Lioness(layer_keys(slot_seed, direction, LIONESS_KEY_BYTES), chunk_bytes, engine.layers)


@dataclass(frozen=True, slots=True)
class StatusKeys:
    """A node's three keys for the STATUS of one stream, 32 bytes each."""

    mac: bytes = field(repr=False)
    trail: bytes = field(repr=False)
    pad: bytes = field(repr=False)

    @classmethod
    def derive(cls, seed: bytes) -> StatusKeys:
        """Derive the keys from a slot seed. For a HOME slot, that is the master seed of the reply block."""
        return cls(
            expand(seed, b"status mac", 32),
            expand(seed, b"status trail", 32),
            expand(seed, b"status pad", 32),
        )


def block_status_keys(master_seed: bytes, proxies: int) -> list[StatusKeys]:
    """Keys to read the STATUS of a reply path: the proxies in order, then Alice's own HOME slot."""
    seeds = [reply_hop_seed(master_seed, proxy) for proxy in range(proxies)]
    return [StatusKeys.derive(seed) for seed in (*seeds, master_seed)]


def tunnel_keys(
    seed: bytes, ephemeral: X25519Private, other_ephemeral: bytes, hello_alice: bytes, hello_bob: bytes
) -> tuple[bytes, bytes, bytes]:
    """The keys (forward, backward) of an established tunnel after both HELLOs, and its binding.

    The binding is equal at both ends, and different for each tunnel and each pair of ends. A client signs it,
    so that its signature proves nothing elsewhere.

    Args:
        seed: of the DEST slot, 16 bytes.
        other_ephemeral: the other end's public key.
        hello_alice, hello_bob: the data of the HELLO chunks.
    Raises:
        MalformedMessage: the other end's key has low order, which would fix the shared secret to zero.
    """
    try:
        shared = ephemeral.exchange(other_ephemeral)
    except RefusedKey as error:
        raise MalformedMessage(f"HELLO: {error}") from error
    transcript = sha256(hello_alice + hello_bob)
    return (
        expand(seed + shared, b"hello forward" + transcript, 32),
        expand(seed + shared, b"hello backward" + transcript, 32),
        expand(seed + shared, b"hello binding" + transcript, 32),
    )
