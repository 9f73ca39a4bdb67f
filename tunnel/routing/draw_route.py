"""Draws this node's routes: joins the directory, the guards and what is known of the peers.

A route avoids peers that have failed lately, unless there are too few others: then one that failed may serve
again, which is better than no route. Routes of a network declared local know no guards and no owners: all its
addresses are of one network, and nobody is hidden from. In no network is a node of this node's own owner a
proxy: who watches that owner's machines would see both sides of it. Source: docs/routes.md.
"""

from __future__ import annotations

import ipaddress
import random
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Final

from tunnel.codes import short
from tunnel.directory import Directory
from tunnel.errors import BadRoute
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.routing.addresses import AddressRules
from tunnel.routing.guards import Guards
from tunnel.routing.peers import PeerTable
from tunnel.routing.route import Purpose, Route, best_profile, choose_other_route, choose_route

__all__ = ["LARGE_BYTES", "RouteProvider"]

_SYSTEM: Final = random.SystemRandom()
# From here on the larger geometry pays, whatever the reply's length is; below, nothing says how long that is.
LARGE_BYTES: Final = 1 << 20
# So many peers that failed are taken back one by one, those that failed least first; then all of them.
_MOST_STEPS: Final = 32
# Addresses of this machine change when it moves to another network.
_HOST_KNOWN_S: Final = 60
_ELSEWHERE: Final = "192.0.2.1"  # for documentation: no machine's own


class RouteProvider:
    """Routes of one node. May be called from any thread.

    Args:
        directory: who there is.
        peers: who failed lately.
        own_id: this node. own: other nodes of its owner; family: the one that they have in common. None of
            them is ever a proxy, nor is a node at an address of this machine (loopback does not count).
        rules: which addresses may be dialled, and who counts as one owner.
        guards: that routes begin with; None: with any node.
        wall_clock: for the guards, whose times outlive the process, and for the peers' keys.
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
        own: Collection[bytes] = (),
        family: bytes | None = None,
        rng: random.Random = _SYSTEM,
    ) -> None:
        self._directory = directory
        self._peers = peers
        self._own_id = own_id
        self._own = frozenset({*own, own_id})
        self._family = family
        self._rules = rules
        self._guards = guards
        self._wall_clock = wall_clock
        self._began_s = wall_clock() - peers.now_s()
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
            last: see `tunnel.routing.route.choose_route`.
            avoid: nodes that are no proxies of it, whatever else.
            rng: for demonstrations, whose route is to be the same each time: a plain draw of the others.
        Raises:
            BadRoute: too few nodes; says how many are missing and why.
        """
        peers, now_s = self._directory.sample(), self._wall_clock()
        own = self.own_among(peers)
        if rng is not None:
            return choose_route(
                peers, origin=self._own_id, destination=destination, hops=hops, profile_byte=profile.byte,
                last=last, avoid=frozenset(avoid) - {last}, own=own, now_s=now_s, rng=rng,
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
                    peers, profile, {destination, *own, *avoid}, destination, hops - (last is not None)
                ),
                last=last,
                avoid=avoid - {last},
                own=own,
                now_s=now_s,
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
        peers, now_s = self._directory.sample(), self._wall_clock()
        own = self.own_among(peers)
        hops = len(query.proxies) if hops is None else hops
        if rng is not None:
            return choose_other_route(
                peers, query, origin=self._own_id, hops=hops, profile_byte=profile.byte,
                last=last, avoid=avoid, own=own, now_s=now_s, rng=rng,
            )  # fmt: skip

        def draw(avoid: frozenset[bytes]) -> Route:
            neither = {*query.nodes, *own, *avoid}
            return choose_other_route(
                peers,
                query,
                origin=self._own_id,
                hops=hops,
                profile_byte=profile.byte,
                last=last or self._guard(peers, profile, neither, query.destination, hops),
                avoid=avoid,
                own=own,
                now_s=now_s,
                rules=self._rules,
                rng=self._rng,
            )

        return self._draw(draw, avoid)

    def profile(
        self,
        routes: Collection[Route],
        content_bytes: int | None = None,
        purpose: Purpose | None = None,
    ) -> Profile | None:
        """The best profile that all nodes of the ways of a query or tunnel offer.

        Args:
            routes: the query's, and those back, whose destination (this node) is left out of account.
            content_bytes: of the query; None: not known beforehand.
            purpose: None: bulk for much content, else mixed.
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
        return best_profile(found, content_bytes if is_large else None, longest, purpose=purpose)

    def check(self, route: Route) -> None:
        """That a route of the caller's own choice passes none of the owner's nodes.

        Raises:
            BadRoute: it does; its first proxy would see this node's address and be this node's machine.
        """
        for node_id in route.proxies:
            if node_id in self._own:
                whose = "this node itself" if node_id == self._own_id else "another node of its owner"
                raise BadRoute(
                    f"proxy {short(node_id)} of the route is {whose}, which hides nothing: leave it out"
                )

    def own_among(self, peers: Iterable[Descriptor]) -> frozenset[bytes]:
        """The nodes of this node's owner, as far as they can be known: itself, those that it was given, its
        family, and those at an address of this machine."""
        minute, family = int(time.monotonic()) // _HOST_KNOWN_S, self._family
        return self._own.union(
            peer.node_id
            for peer in peers
            if (family is not None and peer.family == family)
            or any(_is_this_host(address.host, minute) for address in peer.addresses)
        )

    # -- parts -----------------------------------------------------------------------------------------

    def _lookup(self, node_ids: Iterable[bytes]) -> list[Descriptor] | None:
        """The descriptors of these nodes, but this one; None: one is not in the directory."""
        known = [self._directory.lookup(node_id) for node_id in {*node_ids} - {self._own_id}]
        found = [descriptor for descriptor in known if descriptor is not None]
        return found if len(found) == len(known) else None

    def _draw(self, draw: Callable[[frozenset[bytes]], Route], avoid: Collection[bytes]) -> Route:
        """Without the peers that failed lately, or else with as few of them as it takes."""
        never = frozenset(avoid)
        resting = self._peers.backed_off()
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
        own = self.own_among(peers)
        may_be = [peer for peer in peers if peer.node_id not in own and self._may_be_guard(peer, now_s)]
        far = self._directory.lookup(other_end)
        foreign = frozenset[bytes]() if far is None else self._rules.owners(far)
        usable = {
            peer.node_id
            for peer in may_be
            if peer.node_id not in neither
            and peer.offers(profile)
            and peer.obstacle(now_s) is None
            and not self._rules.owners(peer) & foreign
        }
        with self._lock:
            guard = self._guards.choose(
                may_be, usable, now_s=self._steady_s(), rules=self._rules, rng=self._rng
            )
        if guard is None:
            raise BadRoute(
                f"no node can be the first proxy now: this node has {len(self._guards)} guards, and "
                f"{len(may_be)} nodes of the directory could be guards",
                hint="add peers, besides the destination, at addresses that this network may dial",
            )
        return guard

    def _steady_s(self) -> float:
        """The wall clock of the start, and what has passed since: one that jumps ahead for a moment is not to
        end the guards of months."""
        return self._began_s + self._peers.now_s()

    def _may_be_guard(self, peer: Descriptor, now_s: float) -> bool:
        return not peer.unlisted and peer.expiry > now_s and bool(self._rules.dialable(peer.addresses))


@lru_cache(16_384)
def _is_this_host(host: str, minute: int) -> bool:
    """Whether an address is one of this machine's own, loopback apart: that is everybody's.

    Args:
        minute: any number that changes when it is to be found out again.
    """
    address = ipaddress.ip_address(host)
    if address.is_loopback or address.is_unspecified:
        return False
    # Where programs may bind what the machine has not, this says nothing.
    return _can_bind(host) and not _can_bind(_ELSEWHERE)


def _can_bind(host: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
