"""Frames without a status for their sender: follow-ups along a reply block, loops and DROP frames.

A follow-up answers a reply that carried reply blocks. It takes a path that the other end built, so only that
end has the keys and could read a status; the sender learns the outcome from the answer, or from its absence.
A loop returns to its sender. For a DROP frame the orderly end of the stream is the only sign.

Source: docs/protocol.md, "Reply modes" and "Cover traffic".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from reactor import RunInThread, Service
from readwrite_comp.errors import renewed
from tunnel.arguments import LEAST_SECONDS, checked_count, checked_seconds
from tunnel.errors import LocalTunnelError, NodeStopped, PeerError, QueryFailed
from tunnel.modes import ReplyMode
from tunnel.node.context import NodeContext
from tunnel.node.query.attempts import exchange, in_query_place, registered
from tunnel.node.query.contents import Content, as_content
from tunnel.node.query.frame_io import FrameWriter, start_frame, write_content
from tunnel.node.query.incoming_replies import PendingQuery, QueryResult, Sink, spooled
from tunnel.node.query.request import home_neighbour
from tunnel.node.relay.status_reporter import wait_status
from tunnel.onion.header_builder import OutgoingFrame
from tunnel.onion.reply_block import ReplyBlock
from tunnel.routing.cover import CoverPlan
from tunnel.routing.route import Route

__all__ = ["FollowUp", "cover_service", "follow_up_service", "make_follow_up"]


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A message along a reply block.

    Attributes:
        destination: id of the node that made the block.
        content: as for queries; read until its end.
        reply_route: route of the answer, to this node; None: no answer wanted.
        wants_blocks: the answer is to carry reply blocks.
        sinks: one for each answer; none: temporary files.
        replies: number of answers.
    """

    destination: bytes
    block: ReplyBlock
    content: Content = field(repr=False)
    reply_route: Route | None
    idle_s: float
    wants_blocks: bool = False
    sinks: tuple[Sink, ...] = ()
    replies: int = 1


def make_follow_up(
    node: NodeContext,
    result: QueryResult,
    content: Content,
    *,
    hops: int | None,
    wants_blocks: bool,
    replies: int,
    sinks: tuple[Sink, ...],
    idle_s: float | None,
) -> FollowUp:
    """The checked follow-up along the first block of `result`; the block is removed from `result`.

    Args:
        others as `Node.follow_up`.
    Raises:
        TypeError: content of an unknown kind. BadArgument: a number out of range. LocalTunnelError: no block
            is left. BadRoute: no route for the answer.
    """
    content = as_content(content)
    if idle_s is not None:
        checked_seconds(idle_s, "idle_s", least=LEAST_SECONDS)
    if not result.reply_blocks:
        raise LocalTunnelError("no reply block is left in this result")
    block, *left = result.reply_blocks
    reply_route = None
    if hops is not None:
        checked_count(hops, "hops")
        origin = Route((), result.route.destination)
        last = home_neighbour(node, block.profile, origin.destination) if hops else None
        reply_route = node.routes.other_route(origin, block.profile, hops=hops, last=last)
    result.reply_blocks = tuple(left)
    return FollowUp(
        result.route.destination,
        block,
        content,
        reply_route,
        node.limits.idle_s if idle_s is None else idle_s,
        wants_blocks=wants_blocks,
        sinks=sinks,
        replies=replies,
    )


def follow_up_service(node: NodeContext, call: FollowUp) -> Service[QueryResult]:
    """Send a follow-up and wait for its answers, if any are wanted.

    Raises:
        PeerError (EXPIRED, REPLAYED or UNKNOWN_NEXT), TableFull: the block can no longer be used.
        BadRoute, ProfileError: no such reply path. QueryFailed: no answer arrived; the error has all details.
            LocalTunnelError, OSError: as `query_service`.
    """
    replies = 0 if call.reply_route is None else call.replies
    node.counters.follow_ups += 1
    with spooled(0 if call.sinks else replies) as spools:
        pending = PendingQuery(*(call.sinks or spools))
        build = partial(_follow_up, node, call)
        sent_bytes = yield from _send(node, build, call.content, pending, call.idle_s)
    return QueryResult(
        Route((), call.destination),
        ReplyMode.NONE if call.reply_route is None else ReplyMode.REPLY_ON_REPLY,
        call.block.profile,
        sent_bytes,
        pending.content_in,
        spools[0] if spools else None,
        None,
        pending.reply_blocks,
        spools,
    )


def cover_service(node: NodeContext, plan: CoverPlan, *, mean_delay_s: float = 0.0) -> Service[None]:
    """Send one cover frame and wait for its end: a loop returns, a DROP frame is consumed.

    Raises:
        BadRoute, ProfileError: no such route. QueryFailed: it did not arrive; for a loop, a hop failed or
            drops frames.
    """
    build = node.codec.loop if plan.is_loop else node.codec.drop
    frame = partial(build, plan.route, plan.profile, now_s=node.wall_clock(), mean_delay_s=mean_delay_s)
    pending = PendingQuery(*([_Nowhere()] if plan.is_loop else []))
    node.counters.cover_frames += 1
    yield from _send(node, frame, _Zeros(plan.content_bytes), pending, node.limits.idle_s)


def _follow_up(node: NodeContext, call: FollowUp) -> OutgoingFrame:
    return node.codec.reply(
        call.block,
        now_s=node.wall_clock(),
        reply_routes=() if call.reply_route is None else (call.reply_route,),
        blocks=None if call.reply_route is None else call.replies,
        wants_blocks=call.wants_blocks,
    )


def _send(
    node: NodeContext,
    build: Callable[[], OutgoingFrame],
    content: Content,
    pending: PendingQuery,
    idle_s: float,
) -> Service[int]:
    """Build a frame in a thread, send it and wait for its answers. Returns the content's length."""

    def send() -> Service[int]:
        frame: OutgoingFrame = yield RunInThread(build)
        if node.scope.is_cancelled:
            raise NodeStopped()
        with registered(node, pending, frame.query_id):
            try:
                writer = yield from start_frame(node, frame, is_own=True)
                yield from _exchange(node, writer, content, pending, idle_s)
            except PeerError as error:
                text = f"{error}, at a place that is not known ({error.code.name})"
                raise QueryFailed(text, error.code) from error
        return writer.content_bytes

    return (yield from in_query_place(node, send()))


def _exchange(
    node: NodeContext, writer: FrameWriter, content: Content, pending: PendingQuery, idle_s: float
) -> Service[None]:
    awaits_frames = not pending.is_complete

    def send() -> Service[None]:
        yield from write_content(writer, content, pending.moved)
        if awaits_frames:
            yield pending.done
        else:
            yield from wait_status(writer.stream)

    def watch() -> Service[None]:
        yield pending.failed
        assert pending.error is not None
        raise renewed(pending.error)

    yield from exchange(node, writer.stream, pending, idle_s, send(), watch())


class _Nowhere:
    """The sink of a loop."""

    def write(self, data: memoryview, /) -> int:
        return len(data)


class _Zeros:
    """Dummy content of a given length."""

    def __init__(self, count: int) -> None:
        self._left = count

    def read(self, size: int, /) -> bytes:
        taken = min(size, self._left)
        self._left -= taken
        return bytes(taken)
