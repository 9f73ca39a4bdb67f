"""Every limit of a node, with its reason. A peer can make nothing grow beyond these."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Limits", "LinkPolicy"]


class LinkPolicy(StrEnum):
    """How links relate to messages."""

    POOLED = "pooled"  # long-lived links that carry many streams
    ONCE = "once"  # one link for each message, as in the Rust original: it draws the route


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of a node; times in seconds.

    Attributes:
        handshake_s: a whole handshake; a slow peer holds a connection slot no longer.
        header_s: OPEN and the onion header, from the end of the handshake.
        dial_s: a connection attempt and its handshake; hops upstream wait for it.
        idle_s: a frame under way on which nothing moves, in either direction, is ended.
        answer_s: the longest that this node's inner service may think, without reading or writing.
        linger_s: how long the end of a link is waited for after GOAWAY, and that of the stream of an answered
            query.
        links: connections at once, incoming and dialled. One that idles costs a few KiB.
        half_open: incoming connections that have not finished their handshake.
        link_policy: see `LinkPolicy`.
        link_idle_s: a link without streams for so long is ended. Longer than the pauses of people.
        link_age_s: after so long a link takes no new streams and another is dialled: new keys, new counters.
        link_tick_s: how often a link looks at the times below.
        quiet_s: nothing has come for so long: PING.
        pong_s: a neighbour that has not answered a PING for so long is gone.
        record_s: a record that has begun to come must be whole after so long.
        buffer_bytes: unread content of all links; above nine tenths of it the streams that wait longest are
            reset.
        replay_tags: size of the replay table; about 100 bytes each.
        queries: of this node's own that wait for their result.
        answer_hops: proxies of the routes that this node chooses for answers (modes known-dest and
            reply-on-reply).
    """

    handshake_s: float = 10.0
    header_s: float = 10.0
    dial_s: float = 10.0
    idle_s: float = 60.0
    answer_s: float = 300.0
    linger_s: float = 5.0
    links: int = 1024
    half_open: int = 128
    link_policy: LinkPolicy = LinkPolicy.POOLED
    link_idle_s: float = 600.0
    link_age_s: float = 3600.0
    link_tick_s: float = 5.0
    quiet_s: float = 30.0
    pong_s: float = 30.0
    record_s: float = 30.0
    buffer_bytes: int = 256 << 20
    replay_tags: int = 1_000_000
    queries: int = 1024
    answer_hops: int = 1
