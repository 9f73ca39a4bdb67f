"""Retries: a query over one route after another until one carries it.

Example: `retries=2`, and the status blames hop 2. `query_with_retries` rewinds the content, draws a route
without that node, and runs the next attempt. Without retries it runs one.

* Only a failure that blames a node is retried: a status that blames a hop, or a first link that failed.
* The next route leaves out all nodes blamed so far. In a small network it leaves out the likelier one of each
  blamed pair.
* Content is sent again only if it can be rewound, and only while no sink of the caller's (and no reader of a
  reply that is read as it comes) has received anything.
* All attempts together have `timeout_s`.

Bob may receive the query twice, so retries are off by default. Source: docs/routes.md, "Retry".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from reactor import Service
from tunnel.errors import BadRoute, ProfileError, QueryFailed
from tunnel.node.context import NodeContext
from tunnel.node.query.contents import rewinder
from tunnel.node.query.request import QueryRequest, draw_routes
from tunnel.node.query.running import QueryResult, query_service

__all__ = ["RetryState", "query_with_retries"]


def query_with_retries(node: NodeContext, request: QueryRequest) -> Service[QueryResult]:
    """Send a query; if a hop is to blame for its failure, send it again, up to `request.retries` times.

    Records in `node.peers` which peers worked and which failed.

    Returns:
        The result; its `attempts` are the failures before it.
    Raises:
        QueryFailed: the last failure; with more than one attempt it lists them all, and has them as
            `attempts`. Others as `query_service`, of the attempt that raised them.
    """
    retry = RetryState(node, request) if request.retries and request.hops is not None else None
    ends_s = None if request.timeout_s is None else node.now_s() + request.timeout_s
    failures: list[QueryFailed] = []
    while True:
        try:
            result = yield from query_service(node, retry.watched(request) if retry else request)
        except QueryFailed as error:
            node.peers.query_failed(error)
            failures.append(error)
            blamed = _blamed(failures, {node.descriptor.node_id, request.route.destination})
            is_last = len(failures) > request.retries or not blamed[-1]
            if retry is None or is_last or not retry.rewind():
                raise _all_of(failures) from error
            try:
                request = retry.draw_other_routes(request, blamed)
            except (BadRoute, ProfileError) as no_route:
                raise _all_of(failures, f"no other route: {no_route}") from error
            if ends_s is not None:
                request = replace(request, timeout_s=max(0.0, ends_s - node.now_s()))
            continue
        _record_success(node, request, result)
        result.attempts = tuple(failures)
        return result


def _blamed(failures: list[QueryFailed], exempt: set[bytes]) -> list[tuple[bytes, ...]]:
    """The nodes that each failure blames, in route order, without the ends, which every route has."""
    return [tuple(node_id for node_id in each.blamed if node_id not in exempt) for each in failures]


def _likeliest(blamed: list[tuple[bytes, ...]]) -> frozenset[bytes]:
    """At least one node of each failure: the one blamed most often, of equals the last of the route.

    A hop that reports a failure of the next one is usually right.
    """
    times = Counter(node_id for each in blamed for node_id in each)
    found: set[bytes] = set()
    for each in sorted(filter(None, blamed), key=len):
        if not found.intersection(each):
            found.add(max(reversed(each), key=lambda node_id: times[node_id]))
    return frozenset(found)


def _record_success(node: NodeContext, request: QueryRequest, result: QueryResult) -> None:
    """Record which peers worked. The reply often arrives before the report, and proves it as well."""
    if result.report is not None:
        node.peers.reported(result.report)
    if result.has_reply:
        back = () if request.reply_route is None else request.reply_route.proxies
        for node_id in (*request.route.nodes, *back):
            node.peers.seen(node_id)


def _all_of(failures: list[QueryFailed], ended: str = "") -> QueryFailed:
    """One error for all attempts; a single failure is returned as it is."""
    last = failures[-1]
    if len(failures) == 1 and not ended:
        return last
    lines = [f"attempt {number}: {failure}" for number, failure in enumerate(failures, start=1)]
    count = f"{len(failures)} attempts" if len(failures) > 1 else "1 attempt"
    text = "; ".join([f"{count} failed", *lines, *filter(None, [ended])])
    return QueryFailed(text, last.code, last.report, last.blamed, tuple(failures), last.hint)


class RetryState:
    """What a query needs to be sent again: how to rewind its content, and whether a sink has received any."""

    def __init__(self, node: NodeContext, request: QueryRequest) -> None:
        self._node = node
        self._rewind: Callable[[], object] | None = rewinder(request.content)
        self._has_sinks = bool(request.sinks)
        self._received = 0

    def watched(self, request: QueryRequest) -> QueryRequest:
        """The same request; records what the caller's sinks receive."""
        if not self._has_sinks:
            return request
        tell = request.progress

        def progress(sent: int, received: int) -> None:
            self._received = received
            if tell is not None:
                tell(sent, received)

        return replace(request, progress=progress)

    def draw_other_routes(self, request: QueryRequest, blamed: list[tuple[bytes, ...]]) -> QueryRequest:
        """The request over routes without any blamed node; if there are too few others, without the likeliest
        of each pair. Raises BadRoute, ProfileError: there are too few for that as well."""
        try:
            all_blamed = frozenset(node_id for each in blamed for node_id in each)
            return draw_routes(self._node, request, avoid=all_blamed)
        except BadRoute as error:
            likeliest = _likeliest(blamed)
            if all(likeliest.issuperset(each) for each in blamed):
                raise
            try:
                return draw_routes(self._node, request, avoid=likeliest)
            except BadRoute:
                raise error from None

    def rewind(self) -> bool:
        """Rewind the content for another attempt. False: impossible."""
        if self._rewind is None or self._received:
            return False
        self._rewind()
        return True
