"""Queries whose route is drawn and whose headers are sealed in advance, for `Node.query`.

Sealing costs a public-key operation for each hop, there and back. A node that asks the same destination again
and again can have the next query's frame ready. Off by default (`Limits.prepared`): it gains a millisecond at
3 hops and five at 23, about one seventh of what a query and its reply cost (docs/routes.md, "Prepared
queries").

A prepared frame is used at most once. It is discarded after ten minutes (relays take headers for an hour at
least), and when a node of its routes has published a newer descriptor, has left the directory or has failed.
Memory is bounded: `Limits.prepared` frames of each kind, and 16 kinds; the least recently used kind goes.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from reactor import Reactor, RunInThread, Service
from tunnel.errors import TunnelError
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.context import NodeContext
from tunnel.node.query.request import QueryRequest, content_size, draw_routes
from tunnel.node.query.running import build_query
from tunnel.onion.header_builder import OutgoingQuery
from tunnel.routing.draw_route import LARGE_BYTES
from tunnel.routing.route import Purpose

__all__ = ["PreparedQueries"]

log = logging.getLogger("tunnel.node")
_LIFE_S: Final = 600.0
_KINDS: Final = 16


@dataclass(frozen=True, slots=True)
class _Kind:
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

    Args:
        reactor: prepares the frames.
    """

    def __init__(self, node: NodeContext, reactor: Reactor) -> None:
        self._node = node
        self._reactor = reactor
        self._per_kind = node.limits.prepared
        self._ready: OrderedDict[_Kind, deque[_Ready]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._ready.values())

    def use(self, request: QueryRequest) -> QueryRequest:
        """The request with a prepared frame and its routes, or unchanged if there is none. Prepares the next.

        Large content is not prepared for: it has another profile, and takes so long that its start does not
        matter.
        """
        is_free = request.rng is None and not request.has_given_routes and request.hops is not None
        is_small = (content_size(request.content) or 0) < LARGE_BYTES
        if not (self._per_kind and is_free and is_small) or request.mode is ReplyMode.KNOWN_DEST:
            return request
        assert request.hops is not None
        kind = _Kind(
            request.route.destination,
            request.hops,
            request.mode,
            request.error_mode,
            request.wanted_profile or request.purpose,
            request.replies,
        )
        found = self._take(kind)
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

    def _take(self, kind: _Kind) -> _Ready | None:
        with self._lock:
            waiting = self._ready.get(kind)
            while waiting:
                ready = waiting.popleft()
                if self._is_good(ready):
                    return ready
        return None

    def _fill(self, kind: _Kind, bare: QueryRequest) -> Service[None]:
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
                waiting = self._ready.get(kind)
                if waiting is None or len(waiting) >= self._per_kind:
                    return
                waiting.append(_Ready(request, query, self._node.now_s(), sequences))

    def _begin(self, kind: _Kind) -> bool:
        """Whether one more frame of the kind is wanted; marks the kind as used."""
        with self._lock:
            waiting = self._ready.setdefault(kind, deque())
            self._ready.move_to_end(kind)
            if len(self._ready) > _KINDS:
                self._ready.popitem(last=False)
            return len(waiting) < self._per_kind

    def _sequences(self, query: OutgoingQuery) -> dict[bytes, int]:
        ids = {*query.route.nodes, *(node_id for way in query.reply_paths for node_id in way.route.proxies)}
        known = {node_id: self._node.directory.lookup(node_id) for node_id in ids}
        return {node_id: -1 if peer is None else peer.sequence for node_id, peer in known.items()}

    def _is_good(self, ready: _Ready) -> bool:
        if self._node.now_s() - ready.made_s > _LIFE_S:
            return False
        if ready.sequences.keys() & set(self._node.peers.backed_off()):
            return False
        return ready.sequences == self._sequences(ready.query)
