"""Draws this node's routes: from the directory, the guards, and the back-off of its peers.

    RouteProvider.route         Alice's proxies to Bob; the first is a guard
    RouteProvider.other_route   a reply path that shares no proxy with the query; the last is a guard
    choose_route                the draw itself: a pure function of descriptors and a generator

1. Peers that failed lately are avoided: those that do not answer, those with a high score (`PeerTable`), and
   the suspects of a query that is sent again. If too few others remain, they return one by one, the likeliest
   to work first: any route is better than none. By their score at most a third of the peers are avoided, or
   false accusations could narrow the choice down to the accusers.
2. Nodes of this node's owner are never proxies, in any network: an observer of the owner's machines would see
   both sides of such a proxy.
3. Of the nodes of one network that were learned from others one takes part in a draw (`crowd`), so that an
   owner of few addresses gains nothing by many identities.
4. A local network has no guards and no owners: all its addresses are in one network.

Source: docs/routes.md, "How a route is drawn".
"""

from __future__ import annotations

import ipaddress
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Final

from tunnel.codes import clock_text, short
from tunnel.directory import Directory, ExchangeDirectory
from tunnel.errors import BadRoute, ProfileError
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.routing.addresses import LOCAL, AddressRules
from tunnel.routing.guards import Guards
from tunnel.routing.peers import GUARD_SCORE, PeerTable
from tunnel.routing.route import Purpose, Route, best_profile

__all__ = ["LARGE_BYTES", "RouteProvider", "choose_route"]

LARGE_BYTES: Final = 1 << 20
"""Content of this length takes the bulk geometry. Shorter content does not decide: the reply may be long."""
_MOST_STEPS: Final = 32  # avoided peers that return one by one; after that all return together
_HOST_KNOWN_S: Final = 60  # this machine's addresses change when it moves to another network
_ELSEWHERE: Final = "192.0.2.1"  # reserved for documentation: no machine has it


class RouteProvider:
    """Routes of one node. Any thread may call it.

    Args:
        directory: the known nodes.
        peers: their failures and back-off.
        own_id: this node's id.
        own, family: ids and common family of further nodes of its owner. They are never proxies, and neither
            are nodes at an address of this machine other than loopback.
        rules: which addresses may be dialled, and which nodes count as one owner's.
        guards: None: any node may be the first proxy.
        wall_clock: for guards, which outlive the process, and for the peers' keys.
        rng: a seeded generator, for tests only.
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
        rng: random.Random | None = None,
    ) -> None:
        self.directory = directory
        self._peers = peers
        self._own_id = own_id
        self._own = frozenset({*own, own_id})
        self._family = family
        self._rules = rules
        self._guards = guards
        self._wall_clock = wall_clock
        self._began_s = wall_clock() - peers.now_s()
        self._rng = rng or random.SystemRandom()
        self._lock = threading.Lock()

    @property
    def guards(self) -> bytes | None:
        """The state of the guards, for the next run; None: this node uses no guards."""
        if self._guards is None:
            return None
        with self._lock:
            return self._guards.to_bytes()

    def draw_hops(self, hops: int, bias: int) -> int:
        """The length of a route: `hops` plus a random number up to `bias`."""
        return hops + self._rng.randrange(bias + 1)

    def route(
        self,
        destination: bytes,
        hops: int,
        profile: Profile,
        *,
        last: bytes | None = None,
        avoid: Collection[bytes] = (),
        suspects: Collection[bytes] = (),
        rng: random.Random | None = None,
    ) -> Route:
        """Draw a route of `hops` proxies to `destination`.

        Args:
            last: the last proxy, see `choose_route`. With one hop it takes the place of the guard.
            avoid: nodes that are never proxies of this route.
            suspects: nodes that are avoided if enough others remain, whatever their number.
            rng: a seeded generator, for repeatable demonstrations: a plain draw, without guards, back-off and
                scores.
        Raises:
            BadRoute: too few nodes; the text has their number and the reasons.
        """
        return self._draw(destination, hops, profile, last, avoid, suspects, rng, is_reply=False)

    def other_route(
        self,
        query: Route,
        profile: Profile,
        *,
        hops: int | None = None,
        last: bytes | None = None,
        avoid: Collection[bytes] = (),
        suspects: Collection[bytes] = (),
        rng: random.Random | None = None,
    ) -> Route:
        """Draw a reply path from Bob to this node that shares no proxy with the query (mode `other-route`).

        Its last proxy is a guard, because it sees this node's address.

        Args:
            hops: by default as many as the query's.
            last: the last proxy instead of a guard; it may be on the query's route.
            avoid, suspects, rng: as for `route`.
        Raises:
            BadRoute: too few nodes.
        """
        hops = len(query.proxies) if hops is None else hops
        avoid = {*avoid, *query.proxies}
        return self._draw(query.destination, hops, profile, last, avoid, suspects, rng, is_reply=True)

    def profile(
        self,
        routes: Collection[Route],
        content_bytes: int | None = None,
        purpose: Purpose | None = None,
    ) -> Profile | None:
        """The best profile that all nodes of the routes of a query or tunnel offer.

        Args:
            routes: the query's route and the reply paths, which end at this node.
            content_bytes: length of the query; None: unknown.
            purpose: by default bulk for content of `LARGE_BYTES` or more, otherwise mixed.
        Returns:
            None if a node is not in the directory.
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
        """Check a route chosen by the caller.

        Raises:
            BadRoute: it visits a node twice, or passes a known node of this node's owner.
        """
        for node_id in route.nodes:
            if route.nodes.count(node_id) > 1:
                raise BadRoute(f"the route visits node {short(node_id)} twice: remove one of the two")
        for node_id in route.proxies:
            if node_id in self._own:
                whose = "this node itself" if node_id == self._own_id else "another node of its owner"
                raise BadRoute(
                    f"proxy {short(node_id)} of the route is {whose}, which hides nothing: remove it"
                )

    def own_among(self, peers: Iterable[Descriptor]) -> frozenset[bytes]:
        """Known nodes of this node's owner: itself, the configured ones, its family, and nodes at an address
        of this machine."""
        minute, family = int(self._wall_clock()) // _HOST_KNOWN_S, self._family
        return self._own.union(
            peer.node_id
            for peer in peers
            if (family is not None and peer.family == family)
            or any(is_this_host(address.host, minute) for address in peer.addresses)
        )

    # -- the draw --------------------------------------------------------------------------------------

    def _draw(
        self,
        far: bytes,
        hops: int,
        profile: Profile,
        last: bytes | None,
        avoid: Collection[bytes],
        suspects: Collection[bytes],
        rng: random.Random | None,
        *,
        is_reply: bool,
    ) -> Route:
        """Draw a route between this node and `far`: towards `far`, or back from it (`is_reply`).

        Raises:
            BadRoute: too few nodes.
        """
        peers, now_s = self.directory.sample(), self._wall_clock()
        own = self.own_among(peers)
        origin, destination = (far, self._own_id) if is_reply else (self._own_id, far)
        choose = partial(
            choose_route,
            peers,
            origin=origin,
            destination=destination,
            hops=hops,
            profile_byte=profile.byte,
            own=own,
            now_s=now_s,
        )
        never, suspects = frozenset(avoid), self._by_score(suspects)
        if rng is not None:
            for suspected in _fewer_and_fewer(suspects):
                try:
                    return choose(last=last, avoid=never.union(suspected) - {last}, rng=rng)
                except BadRoute:
                    continue
            return choose(last=last, avoid=never - {last}, rng=rng)
        backed_off = self._peers.backed_off()
        shunned = self._shunned_guards(suspects)

        def attempt(avoided: list[bytes], *, with_crowds: bool = False) -> Route:
            first, end = None, last
            # A guard that is a suspect may be used all the same, but not one that does not answer.
            unfit = {far, *own, *never, *(node_id for node_id in avoided if node_id in backed_off)}
            crowd = frozenset[bytes]() if with_crowds else self._crowd(unfit.union(avoided))
            if not is_reply:
                first = self._guard(peers, profile, unfit, shunned, crowd, far, hops - (last is not None))
            elif last is None:
                end = self._guard(peers, profile, unfit, shunned, crowd, far, hops)
            left_out = (never - {last}) | (crowd.union(avoided) - {first, end})
            return choose(first=first, last=end, avoid=left_out, rules=self._rules, rng=self._rng)

        for avoided in _fewer_and_fewer([*self._scored(suspects, peers), *backed_off]):
            try:
                return attempt(avoided)
            except BadRoute:
                continue
        # The one that takes part for its network may be without the profile.
        return attempt([], with_crowds=True)

    def _by_score(self, node_ids: Iterable[bytes]) -> list[bytes]:
        """The lowest score first; of equals the first of the route: who reports the next is usually right."""
        return sorted(node_ids, key=self._peers.score)

    def _scored(self, suspects: Collection[bytes], peers: Collection[Descriptor]) -> list[bytes]:
        """The suspects, and of the peers with high scores the highest, at most a third of all peers (or one).
        The lowest score first."""
        known = {peer.node_id for peer in peers}
        suspected = [node_id for node_id in self._peers.suspected() if node_id in known]
        highest = suspected[-max(1, len(known - {self._own_id}) // 3) :]
        return self._by_score(dict.fromkeys((*suspects, *highest)))

    def _shunned_guards(self, suspects: list[bytes]) -> frozenset[bytes]:
        """Guards that are used only if no other guard can be.

        A guard is in all routes, and therefore among the suspects of every failure. It counts as the culprit
        only if it explains more failures than any other node, of this query or of all recent routes.
        """
        if self._guards is None:
            return frozenset()
        scores = [self._peers.score(node_id) for node_id in suspects]
        is_likeliest = len(suspects) == 1 or (len(suspects) > 1 and scores[-1] > scores[-2])
        high = {guard.node_id for guard in self._guards if self._peers.score(guard.node_id) >= GUARD_SCORE}
        return frozenset(high.union(suspects[-1:] if is_likeliest else ()))

    def _crowd(self, excluded: Collection[bytes]) -> frozenset[bytes]:
        directory = self.directory
        return directory.crowd(excluded) if isinstance(directory, ExchangeDirectory) else frozenset()

    def _guard(
        self,
        peers: Collection[Descriptor],
        profile: Profile,
        excluded: Collection[bytes],
        shunned: Collection[bytes],
        crowd: Collection[bytes],
        far: bytes,
        places: int,
    ) -> bytes | None:
        """A guard for a route whose other end is `far`; None: no guards in use, or no place for one.

        Args:
            shunned: guards that are used only if no other guard can be.
        Raises:
            BadRoute: no guard is usable, and no more may be drawn.
        """
        if self._guards is None or places < 1:
            return None
        now_s = self._wall_clock()
        own = self.own_among(peers)
        eligible = [peer for peer in peers if peer.node_id not in own and self._may_be_guard(peer, now_s)]
        far_end = self.directory.lookup(far)
        far_owners = frozenset[bytes]() if far_end is None else self._rules.owners(far_end)
        usable = {
            peer.node_id
            for peer in eligible
            if peer.node_id not in excluded
            and peer.offers(profile)
            and peer.obstacle(now_s) is None
            and not self._rules.owners(peer) & far_owners
        }
        with self._lock:
            guard = self._guards.choose(
                eligible, usable, crowd, shunned, now_s=self._steady_s(), rules=self._rules, rng=self._rng
            )
        if guard is None:
            raise BadRoute(
                f"no node can be the first proxy now: this node has {len(self._guards)} guards, and "
                f"{len(eligible)} nodes of the directory could be guards",
                hint="add peers, besides the destination, at addresses that this network may dial",
            )
        return guard

    def _may_be_guard(self, peer: Descriptor, now_s: float) -> bool:
        return not peer.unlisted and peer.expiry > now_s and bool(self._rules.dialable(peer.addresses))

    def _steady_s(self) -> float:
        """The wall clock of the start plus elapsed time: a clock that jumps ahead for a moment must not end
        guards that are meant to stay for months."""
        return self._began_s + self._peers.now_s()

    def _lookup(self, node_ids: Iterable[bytes]) -> list[Descriptor] | None:
        """The descriptors of these nodes except this one; None: one is not in the directory."""
        known = [self.directory.lookup(node_id) for node_id in {*node_ids} - {self._own_id}]
        found = [descriptor for descriptor in known if descriptor is not None]
        return found if len(found) == len(known) else None


def _fewer_and_fewer(avoided: list[bytes]) -> Iterator[list[bytes]]:
    """The nodes to avoid, each time without the first one; at last none."""
    for released in range(min(len(avoided), _MOST_STEPS)):
        yield avoided[released:]
    yield []


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
    """Draw a route of `hops` different proxies among the listed peers that offer the profile.

    Args:
        peers: the directory's descriptors.
        origin, destination: never proxies.
        first: the first proxy (a guard), listed or not, if there is room for it beside `last`.
        last: the last proxy, listed or not, if there are any proxies. A client that does not listen ends each
            reply path with a neighbour to which it keeps a link.
        avoid: further nodes that are not drawn.
        own: further nodes of the caller's owner: never proxies, not even as `first` or `last`.
        now_s: the wall clock: peers without an onion key for this time are excluded. None: keys of any time.
        rules: which nodes count as one owner's: the same network (/16 of IPv4, /32 of IPv6) or family. An
            owner gets at most one place of a route, the destination's owner none. The default, a local
            network, has no owners.
        rng: a seeded generator makes the draw repeatable, for demonstrations only: it reveals the route.
    Raises:
        BadRoute: fewer peers than hops; the text has their number, and the reasons that exclude others.
    """
    own = {*own, origin}
    ends = _ends(first, last, hops)
    if {destination, *own, *avoid} & set(ends):
        raise BadRoute("the node that the route is to begin or end with is excluded from this route")
    known = sorted(peers, key=lambda peer: peer.node_id)
    others = [peer for peer in known if peer.node_id not in {origin, destination, *ends}]
    obstacles = [_obstacle(peer, profile_byte, own, avoid, now_s) for peer in others]
    candidates = [peer for peer, obstacle in zip(others, obstacles, strict=True) if obstacle is None]
    wanted = hops - len(ends)
    rng = rng or random.SystemRandom()
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
    """The reason why a peer cannot be a proxy, as text for a user; None: it can."""
    if peer.node_id in own:
        return "of the same owner as this node"
    if peer.node_id in avoid:
        return "to be avoided"
    if peer.unlisted:
        return "unlisted"
    if profile_byte not in peer.profiles:
        return "without the profile"
    return None if now_s is None else peer.obstacle(now_s)


def _draw_apart(
    candidates: Sequence[Descriptor], count: int, rules: AddressRules, taken: set[bytes], rng: random.Random
) -> list[bytes]:
    """Draw one after the other, each uniformly among the peers that share no owner with an earlier one."""
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


def _too_few(hops: int, available: int, profile_byte: int, reasons: Counter[str], clock: str) -> BadRoute:
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    excluded = f" (excluded: {listed})" if listed else ""
    return BadRoute(
        f"a route of {hops} proxies needs as many peers besides its two ends; the directory has {available} "
        f"that offer profile {_profile_name(profile_byte)}, {hops - available} too few{excluded}{clock}",
        hops=hops,
        available=available,
        hint="set this machine's clock, or get newer descriptors of the peers" if clock else "",
    )


def _profile_name(byte: int) -> str:
    try:
        return Profile.from_byte(byte).name
    except ProfileError:
        return f"0x{byte:02x}"


def _clock_note(others: Sequence[Descriptor], now_s: float | None) -> str:
    """If most peers have no key for now, this clock may be wrong: both times, for the user."""
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


@lru_cache(16_384)
def is_this_host(host: str, minute: int) -> bool:
    """Whether this machine has the address. Loopback does not count: every machine has it.

    Args:
        minute: part of the cache's key: the answer is looked up again when it changes.
    """
    address = ipaddress.ip_address(host)
    if address.is_loopback or address.is_unspecified:
        return False
    # Some systems let programs bind addresses that the machine does not have; there a bind proves nothing.
    return _can_bind(host) and not _can_bind(_ELSEWHERE)


def _can_bind(host: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
