"""Queries whose route is drawn and whose headers are sealed before there is anything to ask.

Sealing costs a public-key operation for each hop, there and back. Where the node asks the same destination
again and again, the next query's frame can wait ready. Off by default: it gains a millisecond at 3 hops and
five at 23, about one seventh of what a query and its reply cost (docs/routes.md, "Prepared queries").

A prepared frame is used once, or not at all: it is thrown away when it is older than ten minutes (relays take
headers for an hour at least), when a node of its ways has published a newer descriptor or left the directory,
or has failed since. Bounded: so many of each kind, and 16 kinds, of which the one used longest ago goes.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from reactor import RunInThread, Service
from tunnel.errors import TunnelError
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.api_service import QueryCall, build_query
from tunnel.node.context import NodeContext
from tunnel.outgoing import OutgoingQuery
from tunnel.route import Purpose

__all__ = ["Kind", "PreparedQueries"]

log = logging.getLogger("tunnel.node")

_LIFE_S: Final = 600.0
_KINDS: Final = 16


@dataclass(frozen=True, slots=True)
class Kind:
    """What two queries have in common when either can take the other's frame.

    Attributes:
        profile: the one that the caller asks for, or the purpose by which it is chosen; None: the best one,
            for content of unknown length.
        replies: how many there may be: so many blocks are in the frame.
    """

    destination: bytes
    hops: int
    mode: ReplyMode
    error_mode: ErrorMode
    profile: Profile | Purpose | None
    replies: int = 1


@dataclass(frozen=True, slots=True)
class _Ready:
    call: QueryCall
    query: OutgoingQuery
    made_s: float
    sequences: dict[bytes, int]


class PreparedQueries:
    """Prepared frames of one node. May be called from any thread.

    Args:
        per_kind: how many of each kind wait ready; 0: none.
    """

    def __init__(self, node: NodeContext, per_kind: int) -> None:
        self._node = node
        self._per_kind = per_kind
        self._ready: OrderedDict[Kind, deque[_Ready]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._ready.values())

    def take(self, kind: Kind) -> tuple[QueryCall, OutgoingQuery] | None:
        """A frame and the call that it was made for, once; None: build one."""
        with self._lock:
            waiting = self._ready.get(kind)
            while waiting:
                ready = waiting.popleft()
                if self._is_good(ready):
                    return ready.call, ready.query
        return None

    def fill(self, kind: Kind, draw: Callable[[], QueryCall]) -> Service[None]:
        """Prepare what is missing of one kind; `draw` gives a call with ways of its own, and no content."""
        while self._begin(kind):
            try:
                call = draw()
                query: OutgoingQuery = yield RunInThread(partial(build_query, self._node, call))
            except TunnelError as error:
                # The next query of this kind tells its caller.
                log.debug("node %s prepares no query: %s", self._node.name, error)
                return
            sequences = self._sequences(query)
            with self._lock:
                waiting = self._ready.get(kind)
                if waiting is None or len(waiting) >= self._per_kind:
                    return
                waiting.append(_Ready(call, query, self._node.now_s(), sequences))

    def _begin(self, kind: Kind) -> bool:
        """Whether one more is wanted; makes the place."""
        with self._lock:
            waiting = self._ready.setdefault(kind, deque())
            self._ready.move_to_end(kind)
            if len(self._ready) > _KINDS:
                self._ready.popitem(last=False)
            return len(waiting) < self._per_kind

    def _sequences(self, query: OutgoingQuery) -> dict[bytes, int]:
        ids = {*query.route.nodes, *(node_id for way in query.ways_back for node_id in way.route.proxies)}
        known = {node_id: self._node.directory.lookup(node_id) for node_id in ids}
        return {node_id: -1 if peer is None else peer.sequence for node_id, peer in known.items()}

    def _is_good(self, ready: _Ready) -> bool:
        if self._node.now_s() - ready.made_s > _LIFE_S:
            return False
        if ready.sequences.keys() & set(self._node.peers.resting()):
            return False
        return ready.sequences == self._sequences(ready.query)
