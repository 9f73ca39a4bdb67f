"""The two suites of the content layers: which permutation a profile means, and how its key is made.

Suite 0 is LIONESS, which every node offers. Suite 1 is HCTR, three to four times faster with OpenSSL, used
where every hop offers it. A slot seed belongs to one frame, a frame has one profile, and the profile is bound
into each slot: so the two suites may take their keys from the same label. Source: docs/protocol.md,
"Wide-block layer".
"""

from __future__ import annotations

from readwrite_comp.hctr import HCTR_KEY_BYTES, Hctr
from readwrite_comp.wideblock import LIONESS_KEY_BYTES, Lioness, WidePermutation
from tunnel.geometry import HCTR_SUITE, Profile
from tunnel.onion.secrets import layer_keys
from tunnel.primitives import TunnelEngine

__all__ = ["permutation"]


def permutation(
    profile: Profile, slot_seed: bytes, direction: bytes, engine: TunnelEngine
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
