"""The api service: one per query of this node's user, from the first dial to the reply's last byte.

One service sends and then waits for the reply; two guard it: the watch over the backward half (which says
FIN, or RESET and why) and the idle watch. Whichever fails first ends the query with what it knows.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from reactor import RunInThread, Service, Signal
from tunnel.descriptor import short
from tunnel.errors import ErrorCode, LocalTunnelError, PeerError, QueryFailed, StreamReset
from tunnel.geometry import Profile
from tunnel.modes import MODES, ReplyMode
from tunnel.node.context import NodeContext
from tunnel.node.frame_io import FrameWriter
from tunnel.node.pending import PendingQuery, Sink
from tunnel.node.relay import guarded, idle_watch
from tunnel.node.spool import Spool
from tunnel.node.statuses import settle_beside
from tunnel.route import Route
from tunnel.tunnel import OutgoingQuery

__all__ = [
    "SERVED_MODES",
    "Content",
    "Progress",
    "QueryCall",
    "QueryResult",
    "Sink",
    "Source",
    "query_service",
]

_READ_BYTES = 64 * 1024
SERVED_MODES = (ReplyMode.NONE, ReplyMode.ROUTE)
"""The modes that nodes serve; `Tunnel` has all of `tunnel.modes`."""

Progress = Callable[[int, int], None]
Content: TypeAlias = "bytes | bytearray | memoryview | Source"


class Source(Protocol):
    """Where content comes from: any binary file that blocks; None, "nothing now", is refused."""

    def read(self, size: int, /) -> bytes | None: ...


@dataclass(slots=True)
class QueryResult:
    """What came of a query.

    Attributes:
        route: the way that it took.
        query_bytes, reply_bytes: content sent and received.
        has_reply: False in mode `none`: then Bob has confirmed that he holds the whole query.
        content: the reply, to be read from its start; None where the caller gave a sink of its own.
    """

    route: Route
    mode: ReplyMode
    profile: Profile
    query_bytes: int
    reply_bytes: int
    content: Spool | None

    @property
    def has_reply(self) -> bool:
        """Whether this mode has a reply; see the class."""
        return MODES[self.mode].has_reply

    def read(self, size: int = -1) -> bytes:
        """Read from the reply.

        Raises:
            LocalTunnelError: it went to a sink of the caller's.
        """
        if self.content is None:
            raise LocalTunnelError("the reply went to the sink that the query was given: read it there")
        return self.content.read(size)

    def close(self) -> None:
        """Give back what holds the reply: of use for replies of over 1 MiB, which lie on the disk."""
        if self.content is not None:
            self.content.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class QueryCall:
    """What a user asks for.

    Attributes:
        content: bytes, or a file that is read to its end.
        idle_s: the query fails when nothing moves, in either direction, for this long.
        sink: where the reply goes; None: a temporary file that stays in memory while it is small.
        progress: called with (query bytes sent, reply bytes received) as they grow.
    """

    route: Route
    content: Content
    mode: ReplyMode
    profile: Profile
    idle_s: float
    sink: Sink | None = None
    progress: Progress | None = None


def query_service(node: NodeContext, call: QueryCall) -> Service[QueryResult]:
    """Send one query and wait for its result.

    Raises:
        BadRoute, ProfileError: this query cannot be built. QueryFailed: it did not come through; says what is
            known. LocalTunnelError: nodes do not serve the mode, the sink or the progress callback failed, or
            the content's file does not block. OSError: reading the content did.
    """
    if call.mode not in SERVED_MODES:
        raise LocalTunnelError(f"nodes do not serve mode {call.mode} yet; they serve {list(SERVED_MODES)}")
    if node.queries >= node.limits.queries:
        raise QueryFailed(f"{node.queries} queries are under way already, the limit of this node")
    node.queries += 1
    spool = None if call.sink is not None else Spool()
    try:
        result = yield from _query(node, call, spool)
    except BaseException:
        if spool is not None:
            spool.close()
        raise
    finally:
        node.queries -= 1
    return result


def _query(node: NodeContext, call: QueryCall, spool: Spool | None) -> Service[QueryResult]:
    # Up to 254 public-key operations: a third of a second in which the node's loop goes on.
    query: OutgoingQuery = yield RunInThread(
        partial(node.tunnel.query, call.route, call.mode, call.profile, now_s=node.wall_clock())
    )
    if node.scope.is_cancelled:
        raise QueryFailed("this node was stopped")
    # Not `or`: a sink with a length is false while it is empty.
    sink = spool if call.sink is None else call.sink
    assert sink is not None
    pending = PendingQuery(sink)
    node.own.add(pending)
    if query.query_id is not None:
        node.pending[query.query_id] = pending
    writer = FrameWriter(node, query.frame)
    delivered = Signal()
    try:
        stream = yield from writer.start()
        yield from guarded(
            _exchange(writer, call, pending, delivered if query.query_id is None else pending.done),
            _watch_backward(writer, delivered),
            _watch_reply(pending),
            idle_watch([stream, pending], call.idle_s),
        )
        if pending.error is not None:
            raise pending.error
        yield from settle_beside(node, stream)
    except PeerError as error:
        writer.reset(error.code)
        raise _failure(error, writer, pending, call.route) from error
    except BaseException:
        writer.reset(ErrorCode.CANCELLED)
        raise
    finally:
        node.own.discard(pending)
        pending.given_up = True
        if query.query_id is not None:
            del node.pending[query.query_id]
    if spool is not None:
        spool.rewind()
    return QueryResult(call.route, call.mode, call.profile, writer.content_bytes, pending.content_in, spool)


def _exchange(writer: FrameWriter, call: QueryCall, pending: PendingQuery, done: Signal) -> Service[None]:
    progress = call.progress
    if progress is not None:
        pending.on_progress = lambda: progress(writer.content_bytes, pending.content_in)
    content = call.content
    source = io.BytesIO(content) if isinstance(content, bytes | bytearray | memoryview) else content
    while chunk := source.read(_READ_BYTES):
        yield from writer.write(chunk)
        pending.moved()
    if chunk is None:
        # A non-blocking file that has nothing now: taken for the end it would cut the query short unseen.
        raise LocalTunnelError("the content's file is non-blocking: its end cannot be told from a pause")
    yield from writer.finish()
    yield done


def _watch_backward(writer: FrameWriter, delivered: Signal) -> Service[None]:
    """Bob ends the backward half when all is settled; a hop that fails says RESET."""
    yield from writer.wait_taken()
    delivered.set()


def _watch_reply(pending: PendingQuery) -> Service[None]:
    """A reply that failed ends the query at once, also while it is still being sent."""
    yield pending.failed
    assert pending.error is not None
    raise pending.error


def _failure(error: PeerError, writer: FrameWriter, pending: PendingQuery, route: Route) -> QueryFailed:
    """What is known of a failed query, for its user. Which hop failed is not known unless it is the first."""
    if writer.stream is None:
        where = f"the first hop, {short(route.nodes[0])}"
    elif pending.error is error:
        where = "the reply" if pending.claimed else "this node"
    elif isinstance(error, StreamReset):
        where = "a hop that is not known (a reset passes through all before it)"
    else:
        where = f"the link to the first hop, {short(route.nodes[0])}"
    sent = f"{writer.content_bytes} bytes of the query were sent, {pending.content_in} of the reply received"
    return QueryFailed(f"{error.code.name} at {where}: {error}; {sent}", error.code)
