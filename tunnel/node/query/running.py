"""The api service: one per query of this node's user, from the first dial to the reply's last byte.

One service sends and then waits for the reply; three guard it: the watch over the backward half (which brings
the status, and in mode `cached` the reply), the watch over a reply that comes by itself, and the idle watch.
Whichever fails first ends the query with what it knows, and the status says where that was.
"""

from __future__ import annotations

from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from reactor import (
    Closed,
    Forked,
    Reactor,
    ReadYield,
    RunInThread,
    Service,
    ServiceCancelled,
    Signal,
    TimedOut,
    move_on_after,
    timeout_after,
)
from reactor.core.threads import ServiceFuture
from readwrite_comp.helpers import is_same_error, renewed
from tunnel.errors import (
    ErrorCode,
    FrameTruncated,
    LocalTunnelError,
    NextRefused,
    NodeStopped,
    PeerError,
    QueryFailed,
    StreamReset,
)
from tunnel.geometry import Profile
from tunnel.identity.descriptor import short
from tunnel.modes import MODES, ReplyMode
from tunnel.node.answer.local_service import receive_reply
from tunnel.node.context import NodeContext, Stream
from tunnel.node.query.frame_io import FrameReader, FrameWriter, start_frame, write_content
from tunnel.node.query.pending import PendingQuery, Spool
from tunnel.node.query.request import QueryRequest, check_served
from tunnel.node.relay.relay_loop import idle_watch, run_with_guards, with_timeout
from tunnel.node.relay.status_reporter import settle_beside, wait_status
from tunnel.onion.header import clock_text
from tunnel.onion.header_builder import OutgoingQuery
from tunnel.onion.reply_block import ReplyBlock
from tunnel.onion.reports import Report, Reported, read_report, read_way_back_report
from tunnel.routing.route import Route

__all__ = [
    "QueryResult",
    "RunningQuery",
    "build_query",
    "explain",
    "query_service",
    "submit",
    "until_stopped",
]


# What Alice's user is told of a query or tunnel that failed: the status, or else what was seen here.
T = TypeVar("T")
# What a wrong clock looks like: keys and expiries of another time, and a handshake that is broken off.
_OF_CLOCKS = {ErrorCode.BAD_HEADER, ErrorCode.EXPIRED, ErrorCode.DISCONNECTED, ErrorCode.NEXT_REFUSED}
_CLOCK_HINT = "set the clock that is wrong: this machine's, where several nodes differ from it"


def until_stopped(node: NodeContext, service: Service[T]) -> Service[T]:
    """Run what the node's user has asked for. When the node stops, that is the reason, wherever it hits: a
    dial that was cancelled, a service that cannot begin any more, a link that broke.

    Raises:
        NodeStopped: what it says. Whatever the service raises.
    """
    try:
        return (yield from service)
    except (ServiceCancelled, Closed, PeerError, QueryFailed) as error:
        if not node.scope.is_cancelled:
            raise
        raise NodeStopped() from error


def submit(reactor: Reactor, service: Service[T], name: str) -> Future[T]:
    """`Reactor.submit` for what the user of a node asks for: a reactor that closes stops its nodes.

    Returns:
        A future that is cancelled by its owner only.
    Raises:
        NodeStopped: the reactor is closed. Also from the future.
        Forked: this is a child of the node's process.
    """
    try:
        running = reactor.submit(service, name=name)
    except Forked:
        raise  # not stopped: the node runs, in another process
    except Closed as error:
        raise NodeStopped() from error
    asked: Future[T] = ServiceFuture()
    # Futures keep their callbacks: without this the two would hold each other, and a result that its user has
    # dropped (a tunnel, a reply) would live until the garbage collector comes.
    to_cancel = [running]

    def cancel(asked: Future[T]) -> None:
        if asked.cancelled():
            for future in to_cancel:
                future.cancel()

    def give_outcome(running: Future[T]) -> None:
        to_cancel.clear()
        try:
            error = running.exception()
        except CancelledError as cancelled:
            error = NodeStopped()
            error.__cause__ = cancelled
        if isinstance(error, Closed):
            cause, error = error, NodeStopped()
            error.__cause__ = cause
        try:
            if error is None:
                asked.set_result(running.result())
            else:
                asked.set_exception(error)
        except InvalidStateError:
            asked.set_running_or_notify_cancel()  # those who wait for it are still to be told

    asked.add_done_callback(cancel)
    running.add_done_callback(give_outcome)
    return asked


def explain(
    node: NodeContext,
    frame: Reported,
    error: PeerError,
    stream: Stream | None,
    report: Report | None = None,
    counts: str = "",
    where: str | None = None,
    lost: bytes | None = None,
) -> QueryFailed:
    """The error for the user.

    Args:
        frame: what was sent.
        error: what ended it here.
        stream: to the first hop; None: there was none.
        report: what the route has told, if it was read already.
        counts: what had moved by then, for people.
        where: the place, where that is known. lost: the neighbour whose link broke there.
    """
    if report is None and stream is not None and stream.status is not None:
        report = read_report(frame, stream.status, node.engine)
    clocks = _clocks(node, frame, error, report)
    hint = _CLOCK_HINT if clocks else ""
    blamed: tuple[bytes, ...] = ()
    behind = "".join(f"; {text}" for text in (clocks, counts) if text)
    if report is not None and not report.succeeded:
        code = report.code if report.code is not None else error.code
        blamed = tuple(report.route[index] for index in report.blamed)
        return QueryFailed(f"{report}{behind}", code, report, blamed, hint=hint)
    first = frame.route.nodes[0]
    if where is None and stream is None and isinstance(error, NextRefused):
        role = "the first hop" if len(frame.route.nodes) > 1 else "the destination"
        text = f"could not connect to {role}, {short(first)}: {error} ({error.code.name}){behind}"
        return QueryFailed(text, error.code, blamed=(first,), hint=hint)
    if where is None:
        where, blamed = _where(short(first), error, stream), _blamed(first, error, stream)
    elif lost is not None:
        where, blamed = f"{where}, on the link from {short(lost)}", (lost,)
    return QueryFailed(
        f"{error}, at {where} ({error.code.name}){behind}", error.code, blamed=blamed, hint=hint
    )


def _clocks(node: NodeContext, frame: Reported, error: PeerError, report: Report | None) -> str:
    """Whose clock differs, where that may be the reason. A hop that is no neighbour shows its own in the
    report; beside it stands this one's."""
    code = error.code if report is None else report.code
    if code not in _OF_CLOCKS:
        return ""
    way_back = () if report is None else report.route
    difference = node.clock_difference(*frame.route.nodes, *way_back)
    if not difference and code is ErrorCode.EXPIRED:
        return f"the clock of this node shows {clock_text(node.wall_clock())}"
    return difference


def _blamed(first: bytes, error: PeerError, stream: Stream | None) -> tuple[bytes, ...]:
    """The first hop where it could not be reached, where its link broke or where it reset the stream.

    Not for a time-out, which may be anybody's, nor for what this node itself has no room for.
    """
    is_its = isinstance(error, NextRefused) if stream is None else is_same_error(error, stream.error)
    return (first,) if is_its else ()


def _where(first: str, error: PeerError, stream: Stream | None) -> str:
    """Where it failed, when no status says so."""
    if stream is None:
        return f"the first hop, {first}"
    if is_same_error(error, stream.error) and not isinstance(error, StreamReset):
        return f"the link to the first hop, {first}"
    return f"a place that is not known: the first hop, {first}, or behind it"


@dataclass(slots=True)
class QueryResult:
    """What came of a query.

    Attributes:
        route: the way that it took.
        query_bytes, reply_bytes: content sent and received.
        has_reply: False in mode `none`: then Bob has confirmed that he holds the whole query.
        content: the reply, to be read from its start; None where the caller gave a sink of its own.
        replies: the contents of all replies, in the order in which the other end sent them; `content` is the
            first. Empty where the caller gave sinks.
        report: what the route says of the query, where it has come: how long each node held it.
        reply_blocks: mode `reply-on-reply`: one of each reply, along which it can be answered, once
            (`Node.follow_up`).
        attempts: how earlier attempts over other routes failed, where it was retried.
    """

    route: Route
    mode: ReplyMode
    profile: Profile
    query_bytes: int
    reply_bytes: int
    content: Spool | None
    report: Report | None = None
    reply_blocks: tuple[ReplyBlock, ...] = ()
    replies: tuple[Spool, ...] = ()
    attempts: tuple[QueryFailed, ...] = ()

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
        for content in self.replies:
            content.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def query_service(node: NodeContext, request: QueryRequest) -> Service[QueryResult]:
    """Send one query, once, and wait for its result. For one that is retried see `retry`.

    Raises:
        BadRoute, ProfileError: this query cannot be built. QueryFailed: it did not come through; says what is
            known. LocalTunnelError: the sink or the progress callback failed, or the content's file does not
            block. OSError: reading the content did.
    """
    check_served(request.mode)
    if node.queries >= node.limits.queries:
        raise QueryFailed(f"{node.queries} queries are under way already, the limit of this node")
    node.queries += 1
    spools = () if request.sinks else tuple(Spool() for _ in range(request.replies))
    try:
        result = yield from timeout_after(request.timeout_s, _query(node, request, spools))
    except TimedOut as error:
        for spool in spools:
            spool.close()
        raise QueryFailed(
            f"the query was not done within {request.timeout_s} s", ErrorCode.TIMEOUT
        ) from error
    except BaseException:
        for spool in spools:
            spool.close()
        raise
    finally:
        node.queries -= 1
    return result


def _query(node: NodeContext, request: QueryRequest, spools: tuple[Spool, ...]) -> Service[QueryResult]:
    query: OutgoingQuery = request.prepared or (yield RunInThread(partial(build_query, node, request)))
    if node.scope.is_cancelled:
        raise NodeStopped()
    asked = RunningQuery(node, request, query, PendingQuery(*(request.sinks or spools)))
    report = yield from asked.run()
    for spool in spools:
        spool.rewind()
    pending = asked.pending
    return QueryResult(
        request.route,
        request.mode,
        request.profile,
        asked.sent_bytes,
        pending.content_in,
        spools[0] if spools else None,
        report,
        pending.reply_blocks,
        spools,
    )


def build_query(node: NodeContext, request: QueryRequest) -> OutgoingQuery:
    """Draw the secrets of a query and seal its headers; for another thread than the reactor's.

    Up to 254 public-key operations: a third of a second in which the node's loop goes on elsewhere.

    Raises:
        BadRoute, ProfileError: this query cannot be built.
    """
    return node.tunnel.query(
        request.route,
        request.mode,
        request.profile,
        now_s=node.wall_clock(),
        error_mode=request.error_mode,
        reply_routes=() if request.reply_route is None else (request.reply_route,),
        descriptor=node.descriptor if MODES[request.mode].names_alice else None,
        blocks=None if request.replies == 1 else request.replies,
    )


class RunningQuery:
    """A query under way.

    Attributes:
        pending: where the reply is gathered, whichever way it comes.
    """

    def __init__(
        self, node: NodeContext, request: QueryRequest, query: OutgoingQuery, pending: PendingQuery
    ) -> None:
        self._node = node
        self._request = request
        self._query = query
        self.pending = pending
        self._writer: FrameWriter | None = None
        self._delivered = Signal()
        self._report: Report | None = None

    @property
    def sent_bytes(self) -> int:
        """Content of the query that has left."""
        return 0 if self._writer is None else self._writer.content_bytes

    def run(self) -> Service[Report | None]:
        """Send the query and wait for all that is to come.

        Raises:
            QueryFailed, LocalTunnelError, OSError: as `query_service`.
        """
        node, pending, query_id = self._node, self.pending, self._query.query_id
        node.own.add(pending)
        if query_id is not None:
            node.pending[query_id] = pending
        try:
            self._writer = writer = yield from start_frame(node, self._query.frame)
            yield from self._exchange(writer)
        except PeerError as error:
            raise self._failure(error) from error
        finally:
            node.own.discard(pending)
            pending.given_up = True
            if query_id is not None:
                del node.pending[query_id]
        return self._report

    def _exchange(self, writer: FrameWriter) -> Service[None]:
        stream, pending = writer.stream, self.pending
        code = ErrorCode.CANCELLED
        try:
            yield from run_with_guards(
                self._send(writer),
                self._watch_backward(stream),
                self._watch_reply(),
                idle_watch([stream, pending], self._request.idle_s),
            )
            if pending.error is not None:
                raise renewed(pending.error)
            yield from settle_beside(self._node, stream)
        except BaseException as error:
            code = error.code if isinstance(error, PeerError) else code
            stream.reset(code)
            raise

    def _send(self, writer: FrameWriter) -> Service[None]:
        """Send the content, then wait for what this mode waits for."""
        request, pending = self._request, self.pending
        progress = request.progress
        if progress is not None:
            pending.on_progress = lambda: progress(writer.content_bytes, pending.content_in)
        pending.is_sending = True
        yield from write_content(writer, request.content, pending.moved)
        pending.is_sending = False
        yield pending.done if MODES[request.mode].has_reply else self._delivered
        if pending.error is not None:
            yield Signal()  # the watch over the reply tells, when it has heard what there is to hear

    def _watch_backward(self, stream: Stream) -> Service[None]:
        """What comes back over the query's own streams: a cached reply, and the status."""
        if self._query.backward is not None:
            frame = FrameReader(stream, self._query.backward)
            try:
                yield from receive_reply(stream, frame, self.pending, None)
            except FrameTruncated as error:
                yield from self._hear_why(stream, error)
        elif self._query.ways_back:
            yield from self._read_way_back(stream)
        status = yield from wait_status(stream)
        self._report = read_report(self._query, status, self._node.engine)
        if self._report is not None and not self._report.succeeded:
            raise StreamReset(self._report.code or ErrorCode.INTERNAL)
        if self._report is None:
            # Nobody says how it went. What can be seen is whether the stream ends with a reset.
            while not stream.is_ended:
                yield stream.readable
            if stream.error is not None:
                raise renewed(stream.error)
        self._delivered.set()

    def _hear_why(self, stream: Stream, truncated: FrameTruncated) -> Service[None]:
        """A hop that fails ends the backward half early, and says why in its status, which comes next."""
        status = yield from with_timeout(self._node.limits.linger_s, wait_status(stream), "no status")
        self._report = read_report(self._query, status, self._node.engine)
        if self._report is None or self._report.succeeded:
            raise truncated
        raise StreamReset(self._report.code or truncated.code) from truncated

    def _read_way_back(self, stream: Stream) -> Service[None]:
        """The status of the reply's way, handed on by Bob; none when he has let go, or could not begin."""
        reader = ReadYield(stream)
        chunk = memoryview(bytearray(stream.profile.geometry.chunk_bytes))
        count = yield from reader.readinto(chunk)
        if not count:
            return
        yield from reader.read_exactly(chunk[count:])
        report = read_way_back_report(self._query, bytes(chunk), self._node.engine)
        if not report.succeeded:
            self._report = report
            raise StreamReset(report.code or ErrorCode.INTERNAL)

    def _watch_reply(self) -> Service[None]:
        """A reply that failed ends the query, also while it is still being sent.

        At once where the fault was found here. A reset on its way home says nothing of where; the status
        does, but it goes to Bob, who hands it on: that takes a moment longer.
        """
        yield self.pending.failed
        error = self.pending.error
        assert error is not None
        is_heard_here = isinstance(error, StreamReset) and self._query.backward is not None
        if isinstance(error, StreamReset | FrameTruncated) and not is_heard_here:
            yield from move_on_after(self._node.limits.linger_s, self._wait_delivered())
        raise renewed(error)

    def _wait_delivered(self) -> Service[None]:
        yield self._delivered

    def _failure(self, error: PeerError) -> QueryFailed:
        """What is known of a failed query, for its user."""
        pending = self.pending
        stream = None if self._writer is None else self._writer.stream
        where, lost = None, None
        # Not where the query's own stream has ended with it: in mode `cached`, or both on one link.
        is_replys = is_same_error(error, pending.error)
        if is_replys and (stream is None or not is_same_error(error, stream.error)):
            where, lost = "the reply" if pending.claimed else "this node", pending.lost
        counts = ""
        if self.sent_bytes or pending.content_in:
            counts = (
                f"{self.sent_bytes} bytes of the query were sent, {pending.content_in} of the reply received"
            )
        return explain(self._node, self._query, error, stream, self._report, counts, where, lost)
