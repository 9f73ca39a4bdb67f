"""A query over one route after the other, until one carries it: wraps the api service.

Only a failure that names somebody else's fault is worth another attempt: a status that blames a hop, or a
first link that failed. The next route leaves out all who were blamed so far; in a small network, of each pair
of which one is to blame, the likelier. Nothing is sent again that
cannot be: content that is no bytes and cannot be rewound, or whose replies the caller's sinks (or who reads
them while they come) have begun to take. All attempts together have the time of one.

Bob may have had the query: then the retry reaches him as a second one. That is why retries are the caller's
wish and not the default. Source: docs/routes.md, "Retry".
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from reactor import RunInThread, Service
from tunnel.arguments import checked_count
from tunnel.errors import BadRoute, ProfileError, QueryFailed, TunnelError
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.context import NodeContext
from tunnel.node.query.contents import Content, rewinder
from tunnel.node.query.running import QueryCall, QueryResult, Redraw, build_query, query_service
from tunnel.onion.header_builder import OutgoingQuery
from tunnel.routing.route import Purpose

__all__ = ["MAX_RETRIES", "Kind", "PreparedQueries", "check_retries", "query_with_retries"]

MAX_RETRIES = 16
"""More attempts than that help nobody, and each costs every hop a header."""


def check_retries(content: Content, retries: int) -> None:
    """Whether a query can be retried so often.

    Raises:
        BadArgument: more often than a query can be. TypeError: no whole number, or the content cannot be sent
            again.
    """
    checked_count(retries, "retries", most=MAX_RETRIES)
    if retries and rewinder(content) is None:
        raise TypeError("retries need content that can be sent again: bytes, or a file that can be rewound")


def query_with_retries(node: NodeContext, call: QueryCall) -> Service[QueryResult]:
    """Send a query; where a hop is to blame for its failure, send it again, as often as the call says.

    What it tells of the peers is noted.

    Returns:
        The result; its `attempts` are the failures before it.
    Raises:
        QueryFailed: the last failure; with more than one attempt it lists them all, and has them as
            `attempts`. Others as `query_service`, of the attempt that raised them.
    """
    again = None if call.redraw is None or not call.retries else _Again(call, call.redraw)
    ends_s = None if call.timeout_s is None else node.now_s() + call.timeout_s
    failures: list[QueryFailed] = []
    while True:
        try:
            result = yield from query_service(node, again.watched(call) if again else call)
        except QueryFailed as error:
            node.peers.query_failed(error)
            failures.append(error)
            blamed = _blamed(failures, {node.descriptor.node_id, call.route.destination})
            is_last = len(failures) > call.retries or not blamed[-1]
            if again is None or is_last or not again.rewind():
                raise _all_of(failures) from error
            try:
                call = call.over(again.other_ways(blamed))
            except (BadRoute, ProfileError) as no_route:
                raise _all_of(failures, f"no other route: {no_route}") from error
            if ends_s is not None:
                call = replace(call, timeout_s=max(0.0, ends_s - node.now_s()))
            continue
        _went_well(node, call, result)
        result.attempts = tuple(failures)
        return result


def _blamed(failures: list[QueryFailed], exempt: set[bytes]) -> list[tuple[bytes, ...]]:
    """Whom each failure blames, in the order of the route, without those that stay in every route."""
    return [tuple(node_id for node_id in each.blamed if node_id not in exempt) for each in failures]


def _likeliest(blamed: list[tuple[bytes, ...]]) -> frozenset[bytes]:
    """At least one of those that each failure blames: who is blamed most often, of equals the last.

    A hop that reports of the one behind it is usually right.
    """
    times = Counter(node_id for each in blamed for node_id in each)
    found: set[bytes] = set()
    for each in sorted(filter(None, blamed), key=len):
        if not found.intersection(each):
            found.add(max(reversed(each), key=lambda node_id: times[node_id]))
    return frozenset(found)


def _went_well(node: NodeContext, call: QueryCall, result: QueryResult) -> None:
    """Note who did their part. The reply is often here before the report, and shows it as well."""
    if result.report is not None:
        node.peers.reported(result.report)
    if result.has_reply:
        back = () if call.reply_route is None else call.reply_route.proxies
        for node_id in (*call.route.nodes, *back):
            node.peers.seen(node_id)


def _all_of(failures: list[QueryFailed], ended: str = "") -> QueryFailed:
    """One error for all attempts; the only one stays as it is."""
    last = failures[-1]
    if len(failures) == 1 and not ended:
        return last
    lines = [f"attempt {number}: {failure}" for number, failure in enumerate(failures, start=1)]
    count = f"{len(failures)} attempts" if len(failures) > 1 else "1 attempt"
    text = "; ".join([f"{count} failed", *lines, *filter(None, [ended])])
    return QueryFailed(text, last.code, last.report, last.blamed, tuple(failures), last.hint)


class _Again:
    """What it takes to send a call once more.

    Attributes:
        redraw: draws other ways for it.
    """

    def __init__(self, call: QueryCall, redraw: Redraw) -> None:
        self.redraw = redraw
        self._rewind: Callable[[], object] | None = rewinder(call.content)
        self._has_sinks = bool(call.sinks)
        self._received = 0

    def watched(self, call: QueryCall) -> QueryCall:
        """The same call; what the caller's sinks have got is noted."""
        if not self._has_sinks:
            return call
        tell = call.progress

        def progress(sent: int, received: int) -> None:
            self._received = received
            if tell is not None:
                tell(sent, received)

        return replace(call, progress=progress)

    def other_ways(self, blamed: list[tuple[bytes, ...]]) -> QueryCall:
        """The call over ways without any that was blamed; where there are too few others, without the
        likeliest of each pair. Raises BadRoute, ProfileError: there are too few for that as well."""
        try:
            return self.redraw(frozenset(node_id for each in blamed for node_id in each))
        except BadRoute as error:
            likeliest = _likeliest(blamed)
            if all(likeliest.issuperset(each) for each in blamed):
                raise
            try:
                return self.redraw(likeliest)
            except BadRoute:
                raise error from None

    def rewind(self) -> bool:
        """Make ready for another attempt. False: that cannot be."""
        if self._rewind is None or self._received:
            return False
        self._rewind()
        return True


# Queries whose route is drawn and whose headers are sealed before there is anything to ask.
#
# Sealing costs a public-key operation for each hop, there and back. Where the node asks the same
# destination again and again, the next query's frame can wait ready. Off by default: it gains a millisecond
# at 3 hops and five at 23, about one seventh of what a query and its reply cost (docs/routes.md, "Prepared
# queries").
#
# A prepared frame is used once, or not at all: it is thrown away when it is older than ten minutes (relays
# take headers for an hour at least), when a node of its ways has published a newer descriptor or left the
# directory, or has failed since. Bounded: so many of each kind, and 16 kinds, of which the one used longest
# ago goes.
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
        if ready.sequences.keys() & set(self._node.peers.backed_off()):
            return False
        return ready.sequences == self._sequences(ready.query)
