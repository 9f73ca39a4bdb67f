"""Routes: which proxies, in which order. Chosen by Alice alone, with the operating system's generator.

Also the profile: the best one that every node of a route offers. Source: docs/protocol.md, "Profiles".
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tunnel.descriptor import Descriptor
from tunnel.errors import BadRoute, ProfileError
from tunnel.geometry import BULK, DEFAULT, HCTR_SUITE, INTERACTIVE, LIONESS_SUITE, LONG, Geometry, Profile

__all__ = ["Route", "best_profile", "choose_other_route", "choose_route"]

_SYSTEM = random.SystemRandom()
# Content below 4 chunks of the small geometry costs less there than one chunk of the default one.
_SMALL_CONTENT_BYTES = 4 * INTERACTIVE.chunk_data_bytes
_BULK_CONTENT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Route:
    """The proxies between Alice and Bob, in the order of the query.

    Attributes:
        proxies: node ids; may be empty (direct).
        destination: Bob's node id; of a way back, Alice's.
    """

    proxies: tuple[bytes, ...]
    destination: bytes

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """Every node after Alice: the proxies and Bob."""
        return (*self.proxies, self.destination)


def choose_route(
    peers: Iterable[Descriptor],
    *,
    origin: bytes,
    destination: bytes,
    hops: int,
    profile_byte: int,
    last: bytes | None = None,
    avoid: Collection[bytes] = (),
    rng: random.Random | None = None,
) -> Route:
    """Draw a route of `hops` proxies, no node twice, among the listed peers that offer the profile.

    Args:
        peers: the directory's descriptors.
        origin, destination: never proxies.
        last: this node is the last proxy, listed or not (if there are any proxies). Clients, which nobody can
            dial, put a neighbour that they keep a link to last in each way back to themselves.
        avoid: nodes that are no proxies either.
        rng: a seeded generator makes the choice repeatable, for demonstrations only: it gives the route away.
    Raises:
        BadRoute: fewer peers than hops.
    """
    excluded = {origin, destination, *avoid}
    candidates = sorted(
        peer.node_id
        for peer in peers
        if peer.node_id not in excluded
        and peer.node_id != last
        and not peer.unlisted
        and profile_byte in peer.profiles
    )
    end = () if last is None or hops < 1 else (last,)
    if hops < 0 or hops - len(end) > len(candidates) or excluded & set(end):
        raise BadRoute(
            f"a route of {hops} proxies needs as many peers besides Alice and Bob; the directory has "
            f"{len(candidates) + len(end)} that offer profile 0x{profile_byte:02x}"
        )
    return Route((*(rng or _SYSTEM).sample(candidates, hops - len(end)), *end), destination)


def choose_other_route(
    peers: Iterable[Descriptor],
    query: Route,
    *,
    origin: bytes,
    hops: int,
    profile_byte: int,
    last: bytes | None = None,
    rng: random.Random | None = None,
) -> Route:
    """Draw a way back from Bob to `origin` that has no proxy of the query's route (mode `other-route`).

    Args:
        query: the query's route. last, rng: as in `choose_route`; `last` may be on the query's route.
    Raises:
        BadRoute: too few other peers. A way back that shares proxies with the query is mode `route`.
    """
    avoid = set(query.proxies) - {last}
    return choose_route(
        peers,
        origin=query.destination,
        destination=origin,
        hops=hops,
        profile_byte=profile_byte,
        last=last,
        avoid=avoid,
        rng=rng,
    )


def best_profile(
    descriptors: Sequence[Descriptor], content_bytes: int | None = None, proxies: int | None = None
) -> Profile:
    """The best profile that every node of a route offers.

    The geometry comes first: `long` where the route needs it, `interactive` for small content, `bulk` from
    1 MiB on, else `default`; then what else holds the route. For the geometry found, HCTR where all have it.

    Args:
        descriptors: of the route's proxies and its destination.
        content_bytes: None: not known beforehand.
        proxies: by default one less than there are descriptors.
    Raises:
        ProfileError: no profile holds the route and is offered by all. Code UNSUPPORTED.
    """
    count = max(0, len(descriptors) - 1) if proxies is None else proxies
    for geometry in _preferred(content_bytes):
        if count > geometry.max_proxies:
            continue
        for suite in (HCTR_SUITE, LIONESS_SUITE):
            profile = Profile(geometry, suite)
            if all(descriptor.offers(profile) for descriptor in descriptors):
                return profile
    raise ProfileError(
        f"no profile that holds {count} proxies (the longest: {LONG.max_proxies}) is offered by all "
        f"{len(descriptors)} nodes of the route"
    )


def _preferred(content_bytes: int | None) -> tuple[Geometry, ...]:
    if content_bytes is None or _SMALL_CONTENT_BYTES < content_bytes < _BULK_CONTENT_BYTES:
        return (DEFAULT, LONG, BULK, INTERACTIVE)
    if content_bytes <= _SMALL_CONTENT_BYTES:
        return (INTERACTIVE, DEFAULT, LONG, BULK)
    return (BULK, DEFAULT, LONG, INTERACTIVE)
