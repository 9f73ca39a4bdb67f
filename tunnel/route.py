"""Routes: which proxies, in which order. Chosen by Alice alone, with the operating system's generator."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from tunnel.descriptor import Descriptor
from tunnel.errors import BadRoute

__all__ = ["Route", "choose_route"]

_SYSTEM = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Route:
    """The proxies between Alice and Bob, in the order of the query.

    Attributes:
        proxies: node ids; may be empty (direct).
        destination: Bob's node id.
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
    rng: random.Random | None = None,
) -> Route:
    """Draw a route of `hops` proxies, no node twice, among the listed peers that offer the profile.

    Args:
        peers: the directory's descriptors.
        origin, destination: never proxies.
        rng: a seeded generator makes the choice repeatable, for demonstrations only: it gives the route away.
    Raises:
        BadRoute: fewer peers than hops.
    """
    candidates = sorted(
        peer.node_id
        for peer in peers
        if peer.node_id not in (origin, destination) and not peer.unlisted and profile_byte in peer.profiles
    )
    if hops < 0 or hops > len(candidates):
        raise BadRoute(
            f"a route of {hops} proxies needs as many peers besides Alice and Bob; the directory has "
            f"{len(candidates)} that offer profile 0x{profile_byte:02x}"
        )
    return Route(tuple((rng or _SYSTEM).sample(candidates, hops)), destination)
