"""Preparations for the next query or tunnel: sealed frames, and open established tunnels.

Off by default (`Limits.prepared`, `Limits.prepared_tunnels`).

* A prepared query saves a public-key operation for each hop, in both directions: a millisecond at 3 hops and
  five at 23, about one seventh of the cost of a query and its reply.
* A prepared tunnel saves a key exchange with each hop and one round trip. Its first byte leaves without
  delay, and the time of opening does not reveal when its user begins to send. It costs every hop a stream,
  and the other end a waiting service.

Calls of one kind share their preparations; each frame or tunnel is used once at most. It is discarded after
ten minutes (relays accept headers for an hour at least), and when a node of its routes has failed. At most 16
kinds are kept; the least recently used kind is dropped.
Source: docs/routes.md, "Prepared queries" and "Prepared tunnels".
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from reactor import Reactor, RunInThread, Service, Signal
from tunnel.errors import TunnelError
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.context import NodeContext
from tunnel.node.query.attempts import build_query
from tunnel.node.query.request import QueryRequest, content_size, draw_routes
from tunnel.node.tunnels.carrying import open_tunnel
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.onion.header_builder import OutgoingQuery
from tunnel.routing.draw_route import LARGE_BYTES
from tunnel.routing.route import Purpose, Route

__all__ = ["PreparedQueries", "PreparedTunnels", "TunnelKind"]

log = logging.getLogger("tunnel.node")
_LIFE_S: Final = 600.0
KINDS: Final = 16


@dataclass(frozen=True, slots=True)
class _QueryKind:
    """Queries of one kind can use each other's frame.

    Attributes:
        profile: the caller's, or the purpose by which it is chosen; None: the best one for content of
            unknown length.
        replies: number of reply blocks in the frame.
    """

    destination: bytes
    hops: int
    mode: ReplyMode
    error_mode: ErrorMode
    profile: Profile | Purpose | None
    replies: int = 1


@dataclass(frozen=True, slots=True)
class _Ready:
    request: QueryRequest
    query: OutgoingQuery
    made_s: float
    sequences: dict[bytes, int]


class PreparedQueries:
    """Prepared frames of one node. May be called from any thread.

    A frame is discarded too when a node of its routes has published a newer descriptor or left the directory.

    Args:
        reactor: prepares the frames.
    """

    def __init__(self, node: NodeContext, reactor: Reactor) -> None:
        self._node = node
        self._reactor = reactor
        self._per_kind = node.limits.prepared
        self.ready: OrderedDict[_QueryKind, deque[_Ready]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self.ready.values())

    def use(self, request: QueryRequest) -> QueryRequest:
        """The request with a prepared frame and its routes, or unchanged if none is ready. Prepares the next.

        Large content has no prepared frames: it uses another profile, and its long transfer hides the gain.
        """
        is_free = request.rng is None and not request.has_given_routes and request.hops is not None
        is_small = (content_size(request.content) or 0) < LARGE_BYTES
        if not (self._per_kind and is_free and is_small) or request.mode is ReplyMode.KNOWN_DEST:
            return request
        assert request.hops is not None
        kind = _QueryKind(
            request.route.destination,
            request.hops,
            request.mode,
            request.error_mode,
            request.wanted_profile or request.purpose,
            request.replies,
        )
        found = self.take(kind)
        bare = replace(request, content=b"", sinks=(), progress=None)
        self._reactor.submit(self._fill(kind, bare), name=f"{self._node.name} prepare")
        if found is None:
            return request
        planned = found.request
        return replace(
            request,
            route=planned.route,
            reply_route=planned.reply_route,
            profile=planned.profile,
            prepared=found.query,
        )

    def take(self, kind: _QueryKind) -> _Ready | None:
        with self._lock:
            waiting = self.ready.get(kind)
            while waiting:
                ready = waiting.popleft()
                if self._is_good(ready):
                    return ready
        return None

    def _fill(self, kind: _QueryKind, bare: QueryRequest) -> Service[None]:
        """Prepare the missing frames of one kind; `bare` has no content."""
        while self._begin(kind):
            try:
                request = draw_routes(self._node, bare)
                query: OutgoingQuery = yield RunInThread(partial(build_query, self._node, request))
            except TunnelError as error:
                # The next query of this kind reports it to its caller.
                log.debug("node %s prepares no query: %s", self._node.name, error)
                return
            sequences = self._sequences(query)
            with self._lock:
                waiting = self.ready.get(kind)
                if waiting is None or len(waiting) >= self._per_kind:
                    return
                waiting.append(_Ready(request, query, self._node.now_s(), sequences))

    def _begin(self, kind: _QueryKind) -> bool:
        """Whether one more frame of the kind is wanted; marks the kind as used."""
        with self._lock:
            waiting = self.ready.setdefault(kind, deque())
            self.ready.move_to_end(kind)
            if len(self.ready) > KINDS:
                self.ready.popitem(last=False)
            return len(waiting) < self._per_kind

    def _sequences(self, query: OutgoingQuery) -> dict[bytes, int]:
        ids = {*query.route.nodes, *(node_id for path in query.reply_paths for node_id in path.route.proxies)}
        known = {node_id: self._node.directory.lookup(node_id) for node_id in ids}
        return {node_id: -1 if peer is None else peer.sequence for node_id, peer in known.items()}

    def _is_good(self, ready: _Ready) -> bool:
        if self._node.now_s() - ready.made_s > _LIFE_S:
            return False
        if ready.sequences.keys() & self._node.peers.avoided():
            return False
        return ready.sequences == self._sequences(ready.query)


@dataclass(frozen=True, slots=True)
class TunnelKind:
    """The key of a prepared tunnel: calls with equal kinds can take each other's.

    Attributes:
        hops: as given by the caller; None: drawn by the node.
        profile: as given by the caller, or the purpose that selects one for the route.
    """

    destination: bytes
    hops: int | None
    profile: Profile | Purpose


class _Place:
    """A prepared tunnel, or one that is being opened.

    Attributes:
        tunnel: None until it is open. route: None until it is drawn.
        is_taken: a caller owns it. is_over: no longer wanted. `wake` notifies its service of both.
    """

    def __init__(self) -> None:
        self.tunnel: NodeTunnel | None = None
        self.route: Route | None = None
        self.is_taken = False
        self.is_over = False
        self.wake = Signal()

    def drop(self) -> None:
        self.is_over = True
        self.wake.set()


class PreparedTunnels:
    """The prepared tunnels of one node. Everything runs in the reactor's thread.

    A service owns each tunnel until a caller takes it, and probes it from time to time. A tunnel that has
    ended, no longer answers, or was closed by its other end is discarded early. Prepared tunnels count as
    queries of the node, and use at most half of that limit.

    Args:
        per_kind: number for each kind; 0: none.
        life_s: an unused tunnel is closed after this time.
    """

    def __init__(self, node: NodeContext, per_kind: int, *, life_s: float = _LIFE_S) -> None:
        self._node = node
        self._per_kind = per_kind
        self._life_s = life_s
        self.places: OrderedDict[TunnelKind, list[_Place]] = OrderedDict()

    def __len__(self) -> int:
        """Number of open tunnels, without those being opened."""
        return sum(place.tunnel is not None for places in self.places.values() for place in places)

    def take(self, kind: TunnelKind) -> NodeTunnel | None:
        """Take an open tunnel, which then belongs to the caller; None: no tunnel is ready."""
        places = self.places.get(kind, [])
        peers = self._node.peers
        backed_off, suspected = set(peers.backed_off()), set(peers.suspected())
        for place in tuple(places):
            if place.tunnel is None or place.route is None:
                continue
            places.remove(place)
            is_good = not backed_off & set(place.route.nodes) and not suspected & set(place.route.proxies)
            if place.tunnel.is_as_new and is_good:
                place.is_taken = True
                place.wake.set()
                return place.tunnel
            place.drop()
        return None

    def fill(self, kind: TunnelKind, draw: Callable[[], tuple[Route, Profile]]) -> Service[None]:
        """Start to open the missing tunnels of one kind, without waiting for them.

        Args:
            draw: draws a new route and its profile at each call. Raises BadRoute, ProfileError.
        """
        if not self._per_kind:
            return
        places = self.places.setdefault(kind, [])
        self.places.move_to_end(kind)
        if len(self.places) > KINDS:
            self._drop_oldest_kind()
        while len(places) < self._per_kind and self._has_room:
            place = _Place()
            places.append(place)
            standing = self._stand(places, place, draw)
            try:
                yield from self._node.scope.spawn(standing, name=f"{self._node.name} prepared tunnel")
            except BaseException:
                self._forget(places, place)
                place.drop()
                raise

    def close(self) -> None:
        """Begin to close all prepared tunnels, and open no more: the node is about to stop."""
        self._per_kind = 0
        while self.places:
            self._drop_oldest_kind()

    def _drop_oldest_kind(self) -> None:
        _, unused = self.places.popitem(last=False)
        for place in unused:
            place.drop()

    @property
    def _has_room(self) -> bool:
        """Whether another prepared tunnel would leave half of the node's queries for real use."""
        return 2 * sum(map(len, self.places.values())) + 2 <= self._node.limits.queries

    def _stand(
        self, places: list[_Place], place: _Place, draw: Callable[[], tuple[Route, Profile]]
    ) -> Service[None]:
        """Open one tunnel and own it until it is taken."""
        try:
            place.route, profile = draw()
            place.tunnel = tunnel = yield from open_tunnel(self._node, place.route, profile)
            if not place.is_over:
                yield from tunnel.carrier.stand(place.wake, self._life_s)
            if not place.is_taken and not tunnel.has_ended:
                self._forget(places, place)
                yield from tunnel.close()
        except TunnelError as error:
            # The next call of this kind raises it to its caller.
            log.debug("node %s prepares no tunnel: %s", self._node.name, error)
        finally:
            self._forget(places, place)
            if place.tunnel is not None and not place.is_taken:
                place.tunnel.give_up()

    def _forget(self, places: list[_Place], place: _Place) -> None:
        if place in places:
            places.remove(place)
