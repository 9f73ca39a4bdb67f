"""Cover traffic: frames that look like real queries, for times without any.

There are two kinds. A DROP frame ends at another node, which discards it. A loop returns to its sender, which
thus also detects hops that drop frames (Loopix). Length, number of hops and times follow the node's own
queries, because cover traffic of another shape hides nothing. Pure: the caller provides the generator and the
samples, and sends the frames (`OnionCodec.drop`, `OnionCodec.loop`). Source: docs/protocol.md, "Cover
traffic".
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tunnel.errors import BadRoute
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.routing.draw_route import choose_route
from tunnel.routing.route import Route

__all__ = ["CoverPlan", "QuerySample", "draw_cover", "draw_gap_s"]

_HEAD_BYTES = 4  # of a message without a reply block
_MIN_LOOP_HOPS = 2


@dataclass(frozen=True, slots=True)
class QuerySample:
    """The shape of a real query of this node.

    Attributes:
        proxies: number of proxies of its route.
        message_bytes: its head (reply blocks included) and content.
    """

    profile: Profile
    proxies: int
    message_bytes: int


@dataclass(frozen=True, slots=True)
class CoverPlan:
    """A frame to send: a loop if its route ends at the sender, else a DROP frame.

    Attributes:
        content_bytes: length of its content; zeros suffice, because no node can read them. `draw_cover` stays
            within 16 chunks, because nodes take no more from a DROP frame.
    """

    route: Route
    profile: Profile
    content_bytes: int
    is_loop: bool


def draw_cover(
    rng: random.Random,
    samples: Sequence[QuerySample],
    peers: Sequence[Descriptor],
    *,
    origin: bytes,
    own: Collection[bytes] = (),
    now_s: float | None = None,
    loop_share: float = 0.5,
) -> CoverPlan:
    """Draw one cover frame.

    Args:
        rng: `random.SystemRandom()`, except in tests.
        samples: shapes of real or expected queries; one of them is drawn.
        peers: the directory's descriptors. origin: this node.
        own, now_s: as for `choose_route`.
        loop_share: share of loops, 0 to 1.
    Raises:
        BadRoute: no samples, or too few peers for the drawn shape.
    """
    if not samples:
        raise BadRoute("cover traffic needs at least one sample of a query")
    sample = rng.choice(samples)
    is_loop = rng.random() < loop_share and sample.proxies >= _MIN_LOOP_HOPS
    listed = [
        peer
        for peer in peers
        if not peer.unlisted
        and sample.profile.byte in peer.profiles
        and (now_s is None or peer.obstacle(now_s) is None)
    ]
    if is_loop:
        destination = origin
    else:
        others = sorted(peer.node_id for peer in listed if peer.node_id != origin)
        if not others:
            raise BadRoute("cover traffic needs at least one other node that offers the profile")
        destination = rng.choice(others)
    route = choose_route(
        peers,
        origin=origin,
        destination=destination,
        hops=sample.proxies,
        profile_byte=sample.profile.byte,
        own=own,
        now_s=now_s,
        rng=rng,
    )
    geometry = sample.profile.geometry
    # More than this the last node of a DROP frame refuses.
    most_chunks = geometry.most_cover_bytes // geometry.chunk_bytes
    message_bytes = min(sample.message_bytes, most_chunks * geometry.chunk_data_bytes)
    return CoverPlan(route, sample.profile, max(0, message_bytes - _HEAD_BYTES), is_loop)


def draw_gap_s(rng: random.Random, mean_s: float) -> float:
    """Seconds until the next cover frame, exponentially distributed: the times are a Poisson process."""
    return rng.expovariate(1 / mean_s)
