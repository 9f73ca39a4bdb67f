"""Which end of a tunnel, and what one end allows the other.

Rules: what the other end can make grow is bounded here, with the reason beside it; what must be equal at both
ends is a constant, the rest travels in HELLO.

Source: docs/protocol.md, "Established tunnels".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tunnel.errors import LocalTunnelError
from tunnel.established.keys import MAX_KEY_CHUNKS

__all__ = ["LEAST_SUB_STREAMS", "LEAST_WINDOW_CHUNKS", "End", "TunnelLimits"]

LEAST_SUB_STREAMS = 4  # what Alice may count on before she has Bob's HELLO
LEAST_WINDOW_CHUNKS = 4  # with less, credit could not keep up with a single stream


class End(Enum):
    """Which end of the tunnel this is."""

    ALICE = "alice"
    BOB = "bob"


@dataclass(frozen=True, slots=True)
class TunnelLimits:
    """What one end allows the other, and when it changes keys.

    Args:
        window_chunks: window of each stream, in full chunks of data; 4 to 1,024. Memory of a tunnel is at
            most (sub_streams + 1) · (window_chunks + 1) chunks for each end's sub-streams, and only if the
            user reads nothing at all.
        sub_streams: that the other end may have open at once, 4 to 32,767.
        rekey_chunks: sent under one key, at most 2^24.
        rekey_s: age at which a key is replaced before the next chunk.
        early: Alice only: send before Bob's HELLO is here. Saves a round trip; those chunks have no forward
            secrecy, and Bob cannot tell them from a replay but by the header's replay table.
    Raises:
        LocalTunnelError: out of range.
    """

    window_chunks: int = 16
    sub_streams: int = 64
    rekey_chunks: int = MAX_KEY_CHUNKS
    rekey_s: float = 600.0
    early: bool = False

    def __post_init__(self) -> None:
        if not LEAST_WINDOW_CHUNKS <= self.window_chunks <= 1024:
            raise LocalTunnelError(f"window of {self.window_chunks} chunks, expected 4 to 1024")
        if not LEAST_SUB_STREAMS <= self.sub_streams <= 32_767:
            raise LocalTunnelError(f"{self.sub_streams} sub-streams, expected 4 to 32,767")
        if not 2 <= self.rekey_chunks <= MAX_KEY_CHUNKS or not self.rekey_s > 0:
            raise LocalTunnelError(f"keys for {self.rekey_chunks} chunks and {self.rekey_s} s")
