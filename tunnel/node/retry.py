"""A query over one route after the other, until one carries it: wraps the api service.

Only a failure that names somebody else's fault is worth another attempt: a status that blames a hop, or a
first link that failed. The next route leaves out all who were blamed so far. Nothing is sent again that
cannot be: content that is no bytes and cannot be rewound, or whose replies the caller's sinks have begun to
take. All attempts together have the time of one.

Bob may have had the query: then the retry reaches him as a second one. That is why retries are the caller's
wish and not the default. Source: docs/routes.md, "Retry".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reactor import Service
from tunnel.errors import BadRoute, ProfileError, QueryFailed
from tunnel.node.api_service import Content, QueryCall, QueryResult, query_service
from tunnel.node.context import NodeContext

__all__ = ["MAX_RETRIES", "Redraw", "can_send_again", "query_once", "query_with_retries"]

MAX_RETRIES = 16
"""More attempts than that help nobody, and each costs every hop a header."""

Redraw = Callable[[frozenset[bytes]], QueryCall]
"""Gives the same query over another route that avoids these nodes. Raises BadRoute, ProfileError."""


def can_send_again(content: Content) -> bool:
    """Whether content can be sent more than once: bytes, or a file that can be rewound."""
    if isinstance(content, bytes | bytearray | memoryview):
        return True
    seekable = getattr(content, "seekable", None)
    return seekable is not None and bool(seekable())


def query_with_retries(
    node: NodeContext, call: QueryCall, redraw: Redraw, retries: int
) -> Service[QueryResult]:
    """Send a query; where a hop is to blame for its failure, send it again over another route.

    Args:
        call: the first attempt.
        redraw: makes the others.
        retries: attempts after the first, at most.
    Returns:
        The result; its `attempts` are the failures before it.
    Raises:
        QueryFailed: the last failure; with more than one attempt it lists them all, and has them as
            `attempts`. Others as `query_service`, of the attempt that raised them.
    """
    again = _Again(call)
    ends_s = None if call.timeout_s is None else node.now_s() + call.timeout_s
    failures: list[QueryFailed] = []
    while True:
        try:
            result = yield from query_service(node, again.watched(call))
        except QueryFailed as error:
            node.peers.query_failed(error)
            failures.append(error)
            blamed = frozenset(node_id for each in failures for node_id in each.blamed) - {
                node.descriptor.node_id,
                call.route.destination,
            }
            if len(failures) > retries or not blamed & set(error.blamed) or not again.rewind():
                raise _all_of(failures) from error
            try:
                call = redraw(blamed)
            except (BadRoute, ProfileError) as no_route:
                raise _all_of(failures, f"no other route: {no_route}") from error
            if ends_s is not None:
                call = replace(call, timeout_s=max(0.0, ends_s - node.now_s()))
            continue
        _went_well(node, call, result)
        result.attempts = tuple(failures)
        return result


def _went_well(node: NodeContext, call: QueryCall, result: QueryResult) -> None:
    """Note who did their part. The reply is often here before the report, and shows it as well."""
    if result.report is not None:
        node.peers.reported(result.report)
    if result.has_reply:
        back = () if call.reply_route is None else call.reply_route.proxies
        for node_id in (*call.route.nodes, *back):
            node.peers.seen(node_id)


def query_once(node: NodeContext, call: QueryCall) -> Service[QueryResult]:
    """Send a query over its own route only, and note what it says of the peers. Raises as `query_service`."""
    return query_with_retries(node, call, lambda _: call, 0)


def _all_of(failures: list[QueryFailed], ended: str = "") -> QueryFailed:
    """One error for all attempts; the only one stays as it is."""
    last = failures[-1]
    if len(failures) == 1 and not ended:
        return last
    lines = [f"attempt {number}: {failure}" for number, failure in enumerate(failures, start=1)]
    count = f"{len(failures)} attempts" if len(failures) > 1 else "1 attempt"
    text = "; ".join([f"{count} failed", *lines, *filter(None, [ended])])
    return QueryFailed(text, last.code, last.report, last.blamed, tuple(failures))


class _Again:
    """What it takes to send a call once more."""

    def __init__(self, call: QueryCall) -> None:
        self._content: Any = call.content
        self._has_sinks = bool(call.sinks)
        self._can = can_send_again(call.content)
        self._start = self._content.tell() if self._can and hasattr(self._content, "tell") else None
        self._received = 0

    def watched(self, call: QueryCall) -> QueryCall:
        """The same call; what the caller's sinks have got is noted."""
        if not (self._has_sinks and self._can):
            return call
        tell = call.progress

        def progress(sent: int, received: int) -> None:
            self._received = received
            if tell is not None:
                tell(sent, received)

        return replace(call, progress=progress)

    def rewind(self) -> bool:
        """Make ready for another attempt. False: that cannot be."""
        if not self._can or self._received:
            return False
        if self._start is not None:
            self._content.seek(self._start)
        return True
