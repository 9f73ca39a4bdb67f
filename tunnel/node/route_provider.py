"""Draws this node's routes: joins the directory, the guards and what is known of the peers.

A route avoids peers that have failed lately, unless there are too few others: then one that failed may serve
again, which is better than no route. Routes of a network declared local know no guards and no owners: all its
addresses are of one network, and nobody is hidden from. Source: docs/routes.md.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Final

from tunnel.addresses import AddressRules
from tunnel.descriptor import Descriptor
from tunnel.directory import Directory
from tunnel.errors import BadRoute
from tunnel.geometry import Profile
from tunnel.guards import Guards
from tunnel.node.peers import PeerTable
from tunnel.route import Route, best_profile, choose_other_route, choose_route

__all__ = ["LARGE_BYTES", "RouteProvider"]

_SYSTEM: Final = random.SystemRandom()
# From here on the larger geometry pays, whatever the reply's length is; below, nothing says how long that is.
LARGE_BYTES: Final = 1 << 20
# So many peers that failed are taken back one by one, those that failed least first; then all of them.
_MOST_STEPS: Final = 32


class RouteProvider:
    """Routes of one node. May be called from any thread.

    Args:
        directory: who there is.
        peers: who failed lately.
        own_id: this node.
        rules: which addresses may be dialled, and who counts as one owner.
        guards: that routes begin with; None: with any node.
        wall_clock: for the guards, whose times outlive the process.
        rng: a seeded one for tests only.
    """

    def __init__(
        self,
        directory: Directory,
        peers: PeerTable,
        *,
        own_id: bytes,
        rules: AddressRules,
        guards: Guards | None,
        wall_clock: Callable[[], float],
        rng: random.Random = _SYSTEM,
    ) -> None:
        self._directory = directory
        self._peers = peers
        self._own_id = own_id
        self._rules = rules
        self._guards = guards
        self._wall_clock = wall_clock
        self._rng = rng
        self._lock = threading.Lock()

    @property
    def guards(self) -> bytes | None:
        """The state of the guards, for the next run; None: there are none."""
        if self._guards is None:
            return None
        with self._lock:
            return self._guards.to_bytes()

    def draw_hops(self, hops: int, bias: int) -> int:
        """A route's length: `hops`, and up to `bias` more."""
        return hops + self._rng.randrange(bias + 1)

    def route(
        self,
        destination: bytes,
        hops: int,
        profile: Profile,
        *,
        last: bytes | None = None,
        avoid: Collection[bytes] = (),
        rng: random.Random | None = None,
    ) -> Route:
        """Draw a route of `hops` proxies to `destination`.

        Args:
            last: see `tunnel.route.choose_route`.
            avoid: nodes that are no proxies of it, whatever else.
            rng: for demonstrations, whose route is to be the same each time: a plain draw of the others.
        Raises:
            BadRoute: too few nodes; says how many are missing and why.
        """
        peers = self._directory.sample()
        if rng is not None:
            return choose_route(
                peers, origin=self._own_id, destination=destination, hops=hops, profile_byte=profile.byte,
                last=last, avoid=frozenset(avoid) - {last}, rng=rng,
            )  # fmt: skip

        def draw(avoid: frozenset[bytes]) -> Route:
            return choose_route(
                peers,
                origin=self._own_id,
                destination=destination,
                hops=hops,
                profile_byte=profile.byte,
                # A single place is the neighbour's that the caller asks for.
                first=self._guard(
                    peers, profile, {destination, *avoid}, destination, hops - (last is not None)
                ),
                last=last,
                avoid=avoid - {last},
                rules=self._rules,
                rng=self._rng,
            )

        return self._draw(draw, avoid)

    def other_route(
        self,
        query: Route,
        profile: Profile,
        *,
        hops: int | None = None,
        last: bytes | None = None,
        avoid: Collection[bytes] = (),
        rng: random.Random | None = None,
    ) -> Route:
        """Draw a way back from Bob to this node, without any proxy of the query's.

        Its last proxy is a guard as well: it sees this node's address as the first one of a query does.

        Args:
            hops: by default as many as the query's.
            last, avoid, rng: as for `route`.
        Raises:
            BadRoute: too few nodes.
        """
        peers = self._directory.sample()
        hops = len(query.proxies) if hops is None else hops
        if rng is not None:
            return choose_other_route(
                peers, query, origin=self._own_id, hops=hops, profile_byte=profile.byte,
                last=last, avoid=avoid, rng=rng,
            )  # fmt: skip

        def draw(avoid: frozenset[bytes]) -> Route:
            neither = {*query.nodes, *avoid}
            return choose_other_route(
                peers,
                query,
                origin=self._own_id,
                hops=hops,
                profile_byte=profile.byte,
                last=last or self._guard(peers, profile, neither, query.destination, hops),
                avoid=avoid,
                rules=self._rules,
                rng=self._rng,
            )

        return self._draw(draw, avoid)

    def profile(self, routes: Collection[Route], content_bytes: int | None = None) -> Profile | None:
        """The best profile that all nodes of a query's ways offer.

        Args:
            routes: the query's, and those back, whose destination (this node) is left out of account.
            content_bytes: of the query; None: not known beforehand.
        Returns:
            None where a node is not in the directory, or no profile is offered by all.
        Raises:
            ProfileError: no profile that holds the longest route is offered by all.
        """
        found = self._lookup(node_id for route in routes for node_id in route.nodes)
        if found is None:
            return None
        is_large = content_bytes is not None and content_bytes >= LARGE_BYTES
        longest = max(len(route.proxies) for route in routes)
        return best_profile(found, content_bytes if is_large else None, longest)

    def tunnel_profile(self, route: Route) -> Profile | None:
        """The best profile for an established tunnel: the shortest chunks that hold the route, since it is
        there for what people type and programs ask.

        Returns, raises: as `profile`.
        """
        found = self._lookup(route.nodes)
        return None if found is None else best_profile(found, 0, len(route.proxies))

    # -- parts -----------------------------------------------------------------------------------------

    def _lookup(self, node_ids: Iterable[bytes]) -> list[Descriptor] | None:
        """The descriptors of these nodes, but this one; None: one is not in the directory."""
        known = [self._directory.lookup(node_id) for node_id in {*node_ids} - {self._own_id}]
        found = [descriptor for descriptor in known if descriptor is not None]
        return found if len(found) == len(known) else None

    def _draw(self, draw: Callable[[frozenset[bytes]], Route], avoid: Collection[bytes]) -> Route:
        """Without the peers that failed lately, or else with as few of them as it takes."""
        never = frozenset(avoid)
        resting = self._peers.resting()
        for released in range(min(len(resting), _MOST_STEPS)):
            try:
                return draw(never.union(resting[released:]))
            except BadRoute:
                continue
        return draw(never)

    def _guard(
        self,
        peers: Collection[Descriptor],
        profile: Profile,
        neither: Collection[bytes],
        other_end: bytes,
        places: int,
    ) -> bytes | None:
        """A guard that can be next to this node on a way whose other end is `other_end`.

        Raises:
            BadRoute: none can, and no more may be drawn.
        """
        if self._guards is None or places < 1:
            return None
        now_s = self._wall_clock()
        may_be = [peer for peer in peers if self._may_be_guard(peer, now_s)]
        far = self._directory.lookup(other_end)
        foreign = frozenset[bytes]() if far is None else self._rules.owners(far)
        usable = {
            peer.node_id
            for peer in may_be
            if peer.node_id not in neither and peer.offers(profile) and not self._rules.owners(peer) & foreign
        }
        with self._lock:
            guard = self._guards.choose(may_be, usable, now_s=now_s, rules=self._rules, rng=self._rng)
        if guard is None:
            raise BadRoute(
                f"none of this node's {len(self._guards)} guards can begin a route now, and {len(may_be)} "
                f"nodes of the directory could be guards at all"
            )
        return guard

    def _may_be_guard(self, peer: Descriptor, now_s: float) -> bool:
        return (
            peer.node_id != self._own_id
            and not peer.unlisted
            and peer.expiry > now_s
            and bool(self._rules.dialable(peer.addresses))
        )
