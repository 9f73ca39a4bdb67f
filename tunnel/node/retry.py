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

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from reactor import Service
from tunnel.arguments import checked_count
from tunnel.errors import BadRoute, ProfileError, QueryFailed
from tunnel.node.api_service import QueryCall, QueryResult, Redraw, query_service
from tunnel.node.contents import Content, rewinder
from tunnel.node.context import NodeContext

__all__ = ["MAX_RETRIES", "check_retries", "query_with_retries"]

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
