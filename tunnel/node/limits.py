"""Every limit of a node, with its reason. A peer can make nothing grow beyond these."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of a node; times in seconds.

    Attributes:
        handshake_s: a whole handshake; a slow peer holds a connection slot no longer.
        header_s: OPEN and the onion header, from the end of the handshake.
        dial_s: a connection attempt and its handshake; hops upstream wait for it.
        idle_s: a frame under way on which nothing moves, in either direction, is ended.
        answer_s: the longest that this node's inner service may think, without reading or writing.
        linger_s: how long the end of a link is waited for after GOAWAY.
        connections: incoming connections at once; each holds about 260 KiB while it carries a frame.
        half_open: of these, connections that have not finished their handshake.
        replay_tags: size of the replay table, of which a neighbour has a quarter; about 135 bytes each.
        queries: of this node's own that wait for their result.
    """

    handshake_s: float = 10.0
    header_s: float = 10.0
    dial_s: float = 10.0
    idle_s: float = 60.0
    answer_s: float = 300.0
    linger_s: float = 5.0
    connections: int = 1024
    half_open: int = 128
    replay_tags: int = 1_000_000
    queries: int = 1024
