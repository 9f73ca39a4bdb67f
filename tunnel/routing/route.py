"""Routes: which proxies, in which order. Chosen by Alice alone, with the operating system's generator.

Also the profile: the best one that every node of a route offers. Source: docs/protocol.md, "Profiles".
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from tunnel.arguments import checked_id, plain_name
from tunnel.errors import BadArgument, BadRoute, ProfileError
from tunnel.geometry import BULK, DEFAULT, HCTR_SUITE, INTERACTIVE, LIONESS_SUITE, LONG, Geometry, Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.onion.header import clock_text
from tunnel.routing.addresses import LOCAL, AddressRules

__all__ = ["Purpose", "Route", "best_profile", "checked_purpose", "choose_other_route", "choose_route"]

_SYSTEM = random.SystemRandom()
# Content below 4 chunks of the small geometry costs less there than one chunk of the default one.
_SMALL_CONTENT_BYTES = 4 * INTERACTIVE.chunk_data_bytes
_BULK_CONTENT_BYTES = 1 << 20

Purpose = Literal["mixed", "interactive", "bulk"]
"""What the content of a query or tunnel is like; decides which geometry is tried first."""

_PREFERENCES: Final[dict[Purpose, tuple[Geometry, ...]]] = {
    "mixed": (DEFAULT, LONG, BULK, INTERACTIVE),
    "interactive": (INTERACTIVE, DEFAULT, LONG, BULK),
    "bulk": (BULK, DEFAULT, LONG, INTERACTIVE),
}


@dataclass(frozen=True, slots=True)
class Route:
    """The proxies between Alice and Bob, in the order of the query.

    Attributes:
        proxies: node ids; may be empty (direct).
        destination: Bob's node id; of a way back, Alice's.
    Raises:
        TypeError: one of them is no bytes: a node, or an id in hex.
    """

    proxies: tuple[bytes, ...]
    destination: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "proxies", tuple(self.proxies))
        for node_id in self.nodes:
            if type(node_id) is not bytes:
                checked_id(node_id, "a node of the route")

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
    first: bytes | None = None,
    last: bytes | None = None,
    avoid: Collection[bytes] = (),
    own: Collection[bytes] = (),
    now_s: float | None = None,
    rules: AddressRules = LOCAL,
    rng: random.Random | None = None,
) -> Route:
    """Draw a route of `hops` proxies, no node twice, among the listed peers that offer the profile.

    Args:
        peers: the directory's descriptors.
        origin, destination: never proxies.
        first: this node is the first proxy, listed or not (if there is room for it beside `last`): a guard of
            the caller's.
        last: this node is the last proxy, listed or not (if there are any proxies). Clients, which nobody can
            dial, put a neighbour that they keep a link to last in each way back to themselves.
        avoid: nodes that are no proxies either.
        own: further nodes of the caller's owner: never proxies, not even as `first` or `last`.
        now_s: the wall clock: a peer that has no onion key for this time is left out. None: the descriptors'
            times are not looked at.
        rules: say which nodes count as one owner's: those of one network (/16 of IPv4, /32 of IPv6) or
            family. One owner is to see one place of the route at most, the destination's none; by default,
            as in a local network, nobody is kept apart.
        rng: a seeded generator makes the choice repeatable, for demonstrations only: it gives the route away.
    Raises:
        BadRoute: fewer peers than hops; says how many there are, and why others are left out.
    """
    own = {*own, origin}
    excluded = {destination, *own, *avoid}
    ends = _ends(first, last, hops)
    if excluded & set(ends):
        raise BadRoute("the node that a route is to begin or end with is none of those that it may pass")
    known = sorted(peers, key=lambda peer: peer.node_id)
    others = [peer for peer in known if peer.node_id not in {origin, destination, *ends}]
    obstacles = [_obstacle(peer, profile_byte, own, avoid, now_s) for peer in others]
    candidates = [peer for peer, obstacle in zip(others, obstacles, strict=True) if obstacle is None]
    wanted = hops - len(ends)
    rng = rng or _SYSTEM
    if rules.is_local:
        ids = [peer.node_id for peer in candidates]
        middle = rng.sample(ids, wanted) if 0 <= wanted <= len(ids) else ids
    else:
        fixed = {*ends, destination}
        taken = {owner for peer in known if peer.node_id in fixed for owner in rules.owners(peer)}
        middle = _draw_apart(candidates, wanted, rules, taken, rng)
    if hops < 0 or len(middle) < wanted:
        reasons = Counter(obstacle for obstacle in obstacles if obstacle is not None)
        reasons["of one network or family with another"] = len(candidates) - len(middle)
        raise _too_few(hops, len(ends) + len(middle), profile_byte, +reasons, _clock_note(others, now_s))
    head = (first,) if first is not None and first in ends and first != last else ()
    tail = (last,) if last is not None and last in ends else ()
    return Route((*head, *middle, *tail), destination)


def _profile_name(byte: int) -> str:
    try:
        return Profile.from_byte(byte).name
    except ProfileError:
        return f"0x{byte:02x}"


def _ends(first: bytes | None, last: bytes | None, hops: int) -> tuple[bytes, ...]:
    """Those of the two that the route has room for."""
    ends = () if last is None or hops < 1 else (last,)
    return (first, *ends) if first is not None and first != last and hops > len(ends) else ends


def _obstacle(
    peer: Descriptor,
    profile_byte: int,
    own: Collection[bytes],
    avoid: Collection[bytes],
    now_s: float | None,
) -> str | None:
    """Why a peer cannot be a proxy, for people; None: it can."""
    if peer.node_id in own:
        return "of the same owner as this node"
    if peer.node_id in avoid:
        return "to be avoided"
    if peer.unlisted:
        return "unlisted"
    if profile_byte not in peer.profiles:
        return "without the profile"
    return None if now_s is None else peer.obstacle(now_s)


def _too_few(hops: int, available: int, profile_byte: int, reasons: Counter[str], clock: str) -> BadRoute:
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    left_out = f" (left out: {listed})" if listed else ""
    return BadRoute(
        f"a route of {hops} proxies needs as many peers besides its two ends; the directory has {available} "
        f"that offer profile {_profile_name(profile_byte)}, {hops - available} too few{left_out}{clock}",
        hops=hops,
        available=available,
        hint="set this machine's clock, or get newer descriptors of the peers" if clock else "",
    )


def _clock_note(others: Sequence[Descriptor], now_s: float | None) -> str:
    """Where most peers have no key for now, it may be this clock that is wrong: both times, for the user."""
    if now_s is None:
        return ""
    timely = [peer.obstacle(now_s) for peer in others]
    if 2 * timely.count(None) >= len(timely):
        return ""
    keys = [(key.not_before, min(peer.expiry, key.not_after)) for peer in others for key in peer.onion_keys]
    if not keys:
        return ""
    return (
        f". This machine's clock shows {clock_text(now_s)}; the keys of these peers are for "
        f"{clock_text(min(start for start, _ in keys))} to {clock_text(max(end for _, end in keys))}: "
        "is this clock wrong, or are the descriptors old?"
    )


def _draw_apart(
    candidates: Sequence[Descriptor], count: int, rules: AddressRules, taken: set[bytes], rng: random.Random
) -> list[bytes]:
    """Draw one after the other, each uniformly among those that share no owner with any before."""
    left = list(candidates)
    drawn: list[bytes] = []
    while left and len(drawn) < count:
        index = rng.randrange(len(left))
        left[index], left[-1] = left[-1], left[index]
        peer = left.pop()
        owners = rules.owners(peer)
        if not owners & taken:
            taken |= owners
            drawn.append(peer.node_id)
    return drawn


def choose_other_route(
    peers: Iterable[Descriptor],
    query: Route,
    *,
    origin: bytes,
    hops: int,
    profile_byte: int,
    last: bytes | None = None,
    avoid: Collection[bytes] = (),
    own: Collection[bytes] = (),
    now_s: float | None = None,
    rules: AddressRules = LOCAL,
    rng: random.Random | None = None,
) -> Route:
    """Draw a way back from Bob to `origin` that has no proxy of the query's route (mode `other-route`).

    Args:
        query: the query's route. last, avoid, own, now_s, rules, rng: as in `choose_route`; `last` may be on
            the query's route.
    Raises:
        BadRoute: too few other peers. A way back that shares proxies with the query is mode `route`.
    """
    return choose_route(
        peers,
        origin=query.destination,
        destination=origin,
        hops=hops,
        profile_byte=profile_byte,
        last=last,
        avoid={*avoid, *query.proxies} - {last},
        own=own,
        now_s=now_s,
        rules=rules,
        rng=rng,
    )


def best_profile(
    descriptors: Sequence[Descriptor],
    content_bytes: int | None = None,
    proxies: int | None = None,
    *,
    purpose: Purpose | None = None,
) -> Profile:
    """The best profile that every node of a route offers.

    The geometry comes first: `long` where the route needs it, `interactive` for small content, `bulk` from
    1 MiB on, else `default`; then what else holds the route. For the geometry found, HCTR where all have it.

    Args:
        descriptors: of the route's proxies and its destination.
        content_bytes: None: not known beforehand.
        proxies: by default one less than there are descriptors.
        purpose: what decides the order of the geometries; by default the length of the content.
    Raises:
        ProfileError: no profile holds the route and is offered by all. Code UNSUPPORTED.
    """
    count = max(0, len(descriptors) - 1) if proxies is None else proxies
    for geometry in _PREFERENCES[purpose or _purpose_of(content_bytes)]:
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


def checked_purpose(purpose: Any) -> Purpose | None:
    """A purpose, in any case. Raises BadArgument: unknown; the message lists those that exist."""
    if purpose is None:
        return None
    names: tuple[Purpose, ...] = get_args(Purpose)
    for name in names:
        if isinstance(purpose, str) and plain_name(purpose) == name:
            return name
    raise BadArgument(f"invalid purpose {purpose!r}: expected one of {', '.join(names)}")


def _purpose_of(content_bytes: int | None) -> Purpose:
    if content_bytes is None or _SMALL_CONTENT_BYTES < content_bytes < _BULK_CONTENT_BYTES:
        return "mixed"
    return "interactive" if content_bytes <= _SMALL_CONTENT_BYTES else "bulk"
