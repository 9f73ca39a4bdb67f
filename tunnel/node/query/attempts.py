"""A query under way: one attempt after another, each from sealing its headers to the last byte of the reply.

Example: `query_with_retries(node, request)` runs `query_service` once per attempt. That seals the headers in
a thread. Then a `RunningQuery` opens the stream, sends the content and waits for the reply. Three guards run
beside it: one reads the backward half (the status, and in mode `cached` the reply), one watches the reply
that arrives as a separate frame, and one is the idle watch. The first failure ends the attempt. The status
shows where it happened.

Retries, say `retries=2` and a status that blames hops 1 and 2: the content is rewound, a route without these
nodes is drawn, and the next attempt runs.

* Only a failure that a proxy may have caused is retried. Its *suspects* are nodes of which at least one is at
  fault (`QueryFailed.blamed`). For a report, `CODES` lists them. If this node noticed a time-out or garbled
  content without a report, all nodes of the route and of the reply path are suspects.
* The next route excludes all suspects so far. In a small network the suspects with the lowest scores return.
  A route over all suspects of one failure is not tried, because it would fail again.
* Content is sent again only if it can be rewound, and only while no sink of the caller (and no reader of a
  streamed reply) has received data.
* All attempts together have `timeout_s`.

Bob may receive the query twice, so retries are off by default. Source: docs/routes.md, "Retry".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from reactor import (
    Closed,
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
from reactor.errors import Forked
from readwrite_comp.errors import is_same_error, renewed
from tunnel.codes import CODES, Location, Report, Suspects, clock_text, short
from tunnel.errors import (
    BadRoute,
    ErrorCode,
    FrameTruncated,
    NextRefused,
    NodeStopped,
    PeerError,
    ProfileError,
    QueryFailed,
    StreamReset,
    TableFull,
)
from tunnel.modes import MODES, ErrorMode
from tunnel.node.context import NodeContext, Stream
from tunnel.node.query.contents import Prefixed, rewinder
from tunnel.node.query.frame_io import (
    FrameReader,
    FrameWriter,
    receive_reply,
    send_whole,
    start_frame,
    write_content,
)
from tunnel.node.query.incoming_replies import (
    PendingQuery,
    QueryResult,
    QueryState,
    Spool,
    ended_error,
    spooled,
)
from tunnel.node.query.request import QueryRequest, check_served, draw_routes
from tunnel.node.relay.status_reporter import settle_beside, wait_status
from tunnel.node.upkeep import clock_difference, had_old_keys, known_descriptors
from tunnel.node.waits import idle_watch, read_rest, run_with_guards, with_timeout
from tunnel.onion.header_builder import OutgoingQuery
from tunnel.onion.key_schedule import query_binding
from tunnel.onion.reports import Reported, read_reply_report, read_report

__all__ = [
    "RetryState",
    "RunningQuery",
    "build_query",
    "exchange",
    "explain",
    "in_query_place",
    "query_service",
    "query_with_retries",
    "registered",
    "submit",
    "until_stopped",
]

T = TypeVar("T")
# Errors that a wrong clock can cause: keys and expiries of another time, and a handshake that breaks off.
_OF_CLOCKS = {ErrorCode.BAD_HEADER, ErrorCode.EXPIRED, ErrorCode.DISCONNECTED, ErrorCode.NEXT_REFUSED}
REPLY = "the reply"
_CLOCK_HINT = "set the clock that is wrong: this machine's, where several nodes differ from it"


def until_stopped(node: NodeContext, service: Service[T]) -> Service[T]:
    """Run a service for the node's user, and report any failure caused by stopping the node as NodeStopped.

    Such failures: a cancelled dial, a service that cannot start any more, a broken link.

    Raises:
        NodeStopped: the node was stopped. Whatever the service raises.
    """
    try:
        return (yield from service)
    except (ServiceCancelled, Closed, PeerError, QueryFailed) as error:
        if not node.scope.is_cancelled:
            raise
        raise NodeStopped() from error


def submit(reactor: Reactor, service: Service[T], name: str) -> Future[T]:
    """`Reactor.submit` for the user of a node: a closed reactor is reported as a stopped node.

    Returns:
        A future that only its owner cancels.
    Raises:
        NodeStopped; Closed, of a client: the reactor is closed. Also from the future.
        Forked: this is a child of the node's process.
    """
    try:
        running = reactor.submit(service, name=name)
    except Forked:
        raise  # not stopped: the node runs in the parent process
    except Closed as error:
        raise ended_error(reactor) from error
    asked: Future[T] = ServiceFuture(reactor)
    # Futures keep their callbacks. Without this list the two futures would hold each other, and a result that
    # its user has dropped (a tunnel, a reply) would live until the next garbage collection.
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
            error = ended_error(reactor)
            error.__cause__ = cancelled
        # Not a subclass, such as the `ChannelClosed` of a content.
        if type(error) is Closed:
            cause, error = error, ended_error(reactor)
            error.__cause__ = cause
        try:
            if error is None:
                asked.set_result(running.result())
            else:
                asked.set_exception(error)
        except InvalidStateError:
            asked.set_running_or_notify_cancel()  # wakes the threads that wait for it

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
    way: tuple[bytes, ...] = (),
) -> QueryFailed:
    """The error for the user of a query or tunnel: from the status or, without one, from local evidence.

    Args:
        frame: the sent frame.
        error: the local cause.
        stream: to the first hop; None if none was opened.
        report: the route's report, if it was read already.
        counts: bytes moved so far, as text.
        where: the place, if known. lost: the neighbour whose link broke there.
        way: all nodes that carry the frame or its reply; by default those of the frame's route.
    """
    way = way or frame.route.nodes
    if report is None and stream is not None and stream.status is not None:
        report = read_report(frame, stream.status, node.engine)
    clocks = _clocks(node, frame, error, report)
    hint = _CLOCK_HINT if clocks else ""
    blamed: tuple[bytes, ...] = ()
    behind = "".join(f"; {text}" for text in (clocks, counts) if text)
    if report is not None and not report.succeeded:
        code = report.code if report.code is not None else error.code
        return QueryFailed(f"{report}{behind}", code, report, _suspects(report, way), hint=hint)
    first = frame.route.nodes[0]
    if where is None and stream is None and isinstance(error, NextRefused):
        role = "the first hop" if len(frame.route.nodes) > 1 else "the destination"
        text = f"could not connect to {role}, {short(first)}: {error} ({error.code.name}){behind}"
        return QueryFailed(text, error.code, blamed=(first,), hint=hint)
    if where is None:
        where = _where(short(first), error, stream)
        if frame.error_mode is not ErrorMode.NONE or not _is_of_far_end(error):
            blamed = _blamed_without_status(first, error, stream, way)
    elif lost is not None:
        where, blamed = f"{where}, on the link from {short(lost)}", (lost,)
    elif where == REPLY:
        blamed = way
    return QueryFailed(
        f"{error}, at {where} ({error.code.name}){behind}", error.code, blamed=blamed, hint=hint
    )


def _clocks(node: NodeContext, frame: Reported, error: PeerError, report: Report | None) -> str:
    """Text on differing clocks if they may be the cause. The report shows the clock of a remote hop; this
    text adds the local one."""
    code = error.code if report is None else report.code
    if code not in _OF_CLOCKS:
        return ""
    reported = () if report is None else report.route
    difference = clock_difference(node, *frame.route.nodes, *reported)
    if not difference and code is ErrorCode.EXPIRED:
        return f"the clock of this node shows {clock_text(node.wall_clock())}"
    return difference


def _suspects(report: Report, way: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The nodes that a report blames. What reached the destination wrongly, or not at all, may also be the
    receipts on the backward half of a reply, so all nodes that carry something may be the cause."""
    is_destinations = report.hop == len(report.route) - 1 and not report.is_about_reply
    return way if is_destinations and len(report.blamed) == len(report.route) > 1 else report.blamed_ids


def _blamed_without_status(
    first: bytes, error: PeerError, stream: Stream | None, way: tuple[bytes, ...]
) -> tuple[bytes, ...]:
    """The first hop if it was unreachable, its link broke or it reset the stream.

    All nodes for a time-out and for content that was changed or cut off, which any of them may have caused.
    None for this node's own lack of room.
    """
    is_its = isinstance(error, NextRefused) if stream is None else is_same_error(error, stream.error)
    if is_its:
        return (first,)
    return () if CODES[error.code].suspects is Suspects.REPORTER else way


def _is_of_far_end(error: PeerError) -> bool:
    """A code that only a destination has reason to send. In error mode `none`, where no status could name
    its author, the first hop has forwarded it: another route would lead to the same answer."""
    return isinstance(error, StreamReset) and CODES[error.code].location is Location.FAR_END


def _where(first: str, error: PeerError, stream: Stream | None) -> str:
    """The place of a failure without a status."""
    if stream is None:
        return f"the first hop, {first}"
    if is_same_error(error, stream.error) and not isinstance(error, StreamReset):
        return f"the link to the first hop, {first}"
    return f"a place that is not known: the first hop, {first}, or behind it"


def query_service(node: NodeContext, request: QueryRequest) -> Service[QueryResult]:
    """Run one attempt and wait for its result.

    Raises:
        BadRoute, ProfileError: the query cannot be built. QueryFailed: it failed; the error has all details.
            LocalTunnelError: the sink or the progress callback failed, or the content's file is non-blocking.
            OSError: reading the content failed.
    """
    check_served(request.mode)
    with spooled(0 if request.sinks else request.replies) as spools:
        pending = PendingQuery(*(request.sinks or spools))
        try:
            query = in_query_place(node, _query(node, request, spools, pending))
            return (yield from timeout_after(request.timeout_s, query))
        except TimedOut as error:
            text = f"the query was not done within {request.timeout_s} s"
            # Sent in full, and no byte has come back: as with an idle limit, which may be longer.
            blamed = _all_hops(request) if pending.is_unanswered else ()
            raise QueryFailed(text, ErrorCode.TIMEOUT, blamed=blamed) from error


def _query(
    node: NodeContext, request: QueryRequest, spools: tuple[Spool, ...], pending: PendingQuery
) -> Service[QueryResult]:
    query: OutgoingQuery = request.prepared or (yield RunInThread(partial(build_query, node, request)))
    if node.scope.is_cancelled:
        raise NodeStopped()
    running = RunningQuery(node, request, query, pending)
    report = yield from running.run()
    return QueryResult(
        request.route,
        request.mode,
        request.profile,
        running.sent_bytes,
        pending.content_in,
        spools[0] if spools else None,
        report,
        pending.reply_blocks,
        spools,
    )


def in_query_place(node: NodeContext, service: Service[T]) -> Service[T]:
    """Run a query or a tunnel in one of the node's places, and wait for that first.

    Raises:
        QueryFailed (BUSY): too many wait already, or none has ended for `idle_s`. Errors of the service.
    """
    try:
        try:
            yield from node.queries.take(node.limits.idle_s)
        except TableFull as error:
            raise QueryFailed(str(error), error.code) from error
        try:
            return (yield from service)
        finally:
            node.queries.give_back()
    finally:
        service.close()  # on purpose, if this ended before the place came


@contextmanager
def registered(node: NodeContext, pending: PendingQuery, query_id: bytes | None) -> Iterator[None]:
    """Let replies find the query; refuse them at the end of the block."""
    node.own.add(pending)
    if query_id is not None:
        node.pending[query_id] = pending
    try:
        yield
    finally:
        node.own.discard(pending)
        pending.enter(QueryState.OVER)
        if query_id is not None:
            node.pending.pop(query_id, None)


def exchange(
    node: NodeContext,
    stream: Stream,
    pending: PendingQuery,
    idle_s: float,
    send: Service[None],
    *guards: Service[None],
) -> Service[None]:
    """Run a query on its stream beside its guards and an idle watch. On error the stream has been reset.

    Raises PeerError: a reply has failed. Errors of the services.
    """
    code = ErrorCode.CANCELLED
    try:
        yield from run_with_guards(send, *guards, idle_watch([stream, pending], idle_s))
        if pending.error is not None:
            raise renewed(pending.error)
        yield from settle_beside(node, stream)
    except BaseException as error:
        code = error.code if isinstance(error, PeerError) else code
        stream.reset(code)
        raise


def build_query(node: NodeContext, request: QueryRequest) -> OutgoingQuery:
    """Draw the secrets of a query and seal its headers. Run it in a thread.

    Up to 254 public-key operations take a third of a second, which would block the node's loop.

    Raises:
        BadRoute, ProfileError: the query cannot be built.
    """
    return node.codec.query(
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
    """An attempt under way: its stream, its state and its report.

    Attributes:
        pending: collects the replies, whichever stream carries them.
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
        """Content bytes sent so far."""
        return 0 if self._writer is None else self._writer.content_bytes

    def run(self) -> Service[Report | None]:
        """Send the query and wait for the status and the replies.

        Raises:
            QueryFailed, LocalTunnelError, OSError: as `query_service`.
        """
        with registered(self._node, self.pending, self._query.query_id):
            try:
                self._writer = writer = yield from start_frame(self._node, self._query.frame, is_own=True)
                yield from self._exchange(writer)
            except PeerError as error:
                raise self._failure(error) from error
            finally:
                self._node.counters.query_bytes_out += self.sent_bytes
                self._node.counters.query_bytes_in += self.pending.content_in
        return self._report

    def _exchange(self, writer: FrameWriter) -> Service[None]:
        guards = self._watch_backward(writer.stream), self._watch_reply(), self._send_receipts()
        stream, idle_s = writer.stream, self._request.idle_s
        yield from exchange(self._node, stream, self.pending, idle_s, self._send(writer), *guards)

    def _send(self, writer: FrameWriter) -> Service[None]:
        """Send the content, then wait for the outcome that this mode has."""
        request, pending = self._request, self.pending
        progress = request.progress
        if progress is not None:
            pending.on_progress = lambda: progress(writer.content_bytes, pending.content_in)
        content = request.content
        if isinstance(content, Prefixed):
            seed, destination = self._query.circuit.end_to_end_seed, request.route.destination
            content = content.proven(query_binding(seed, destination))
        yield from write_content(writer, content, pending.moved)
        pending.enter(QueryState.SENT)
        yield pending.done if MODES[request.mode].has_reply else self._delivered
        if pending.error is not None:
            yield Signal()  # `_watch_reply` raises the error once the status had time to arrive

    def _watch_backward(self, stream: Stream) -> Service[None]:
        """Read the query's own backward half: a cached reply, then the status."""
        if self._query.backward is not None:
            frame = FrameReader(stream, self._query.backward)
            try:
                yield from receive_reply(stream, frame, self.pending, None)
            except FrameTruncated as error:
                yield from self._read_reason(stream, error)
        elif self._query.reply_paths:
            yield from self._read_reply_path_status(stream)
        status = yield from wait_status(stream)
        self._report = read_report(self._query, status, self._node.engine)
        if self._report is not None and not self._report.succeeded:
            raise StreamReset(self._report.code or ErrorCode.INTERNAL)
        if self._report is None:
            # No report in this mode. Only a reset of the stream shows a failure.
            while not stream.is_ended:
                yield stream.readable
            if stream.error is not None:
                raise renewed(stream.error)
        self._delivered.set()

    def _send_receipts(self) -> Service[None]:
        """Mode `cached`: answer each challenge in a separate frame, since the forward half has ended."""
        backward, node = self._query.backward, self._node
        if backward is None:
            return
        changed = Signal()
        challenges = backward.take_challenges(changed.set)
        route, profile = self._query.route, self._query.circuit.profile
        while True:
            while challenges:
                build = partial(
                    node.codec.receipt, route, profile, challenges.pop(0), now_s=node.wall_clock()
                )
                first_id, frame = yield RunInThread(build)
                yield from send_whole(node, first_id, profile, frame)
            yield changed

    def _read_reason(self, stream: Stream, truncated: FrameTruncated) -> Service[None]:
        """Read the reason of an early end: a failing hop ends the backward half, then sends its status."""
        status = yield from with_timeout(self._node.limits.linger_s, wait_status(stream), "no status")
        self._report = read_report(self._query, status, self._node.engine)
        if self._report is None or self._report.succeeded:
            raise truncated
        raise StreamReset(self._report.code or truncated.code) from truncated

    def _read_reply_path_status(self, stream: Stream) -> Service[None]:
        """Read the status of the reply path, which Bob forwards unless he ended the half before."""
        reader = ReadYield(stream)
        chunk = memoryview(bytearray(stream.profile.geometry.chunk_bytes))
        count = yield from reader.readinto(chunk)
        if not count:
            return
        yield from read_rest(reader, chunk, count)
        report = read_reply_report(self._query, bytes(chunk), self._node.engine)
        if not report.succeeded:
            self._report = report
            raise StreamReset(report.code or ErrorCode.INTERNAL)

    def _watch_reply(self) -> Service[None]:
        """End the query when its reply fails, even while the query is still being sent.

        It ends immediately if the fault was found here. A reset does not show where the reply failed. The
        status does, but Bob receives and forwards it, so the query waits `linger_s` for it.
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
        """The error for the user, from everything known here."""
        pending = self.pending
        stream = None if self._writer is None else self._writer.stream
        where, lost = None, None
        # Unless the query's own stream ended with the same error: mode `cached`, or both on one link.
        is_replys = is_same_error(error, pending.error)
        if is_replys and (stream is None or not is_same_error(error, stream.error)):
            where, lost = REPLY, pending.lost
        counts = ""
        if self.sent_bytes or pending.content_in:
            counts = (
                f"{self.sent_bytes} bytes of the query were sent, {pending.content_in} of the reply received"
            )
        way = _all_hops(self._request)
        return explain(self._node, self._query, error, stream, self._report, counts, where, lost, way)


def query_with_retries(node: NodeContext, request: QueryRequest) -> Service[QueryResult]:
    """Send a query; if a hop is to blame for its failure, send it again, up to `request.retries` times.

    A query that failed because a hop of its route has new keys is sent once more over the same route,
    whatever `retries`: the destination has not received it.
    Records in `node.peers` which peers worked and which failed.

    Returns:
        The result; its `attempts` are the failures before it.
    Raises:
        QueryFailed: the last failure; with more than one attempt it lists them all, and has them as
            `attempts`. Others as `query_service`, of the attempt that raised them.
    """
    retry = RetryState(node, request)
    ends_s = None if request.timeout_s is None else node.now_s() + request.timeout_s
    failures: list[QueryFailed] = []
    node.counters.queries += 1
    while True:
        used = known_descriptors(node, _all_hops(request))
        try:
            result = yield from query_service(node, retry.watched(request))
        except QueryFailed as error:
            is_innocent = yield from had_old_keys(node, error, used)
            if not is_innocent:
                node.peers.query_failed(error)
            failures.append(error)
            node.counters.query_failures += 1
            is_over = ends_s is not None and node.now_s() >= ends_s
            next_request = None if is_over else retry.next(request, failures, has_new_keys=is_innocent)
            if next_request is None:
                if (failed := _all_of(failures)) is error:
                    raise  # `from` would make it its own cause
                raise failed from error
            request = next_request
            if ends_s is not None:
                request = replace(request, timeout_s=max(0.0, ends_s - node.now_s()))
            node.counters.query_retries += 1
            continue
        _record_success(node, request, result)
        node.counters.queries_succeeded += 1
        result.attempts = tuple(failures)
        return result


def _all_hops(request: QueryRequest) -> tuple[bytes, ...]:
    """The nodes of the route and of the reply path, each once."""
    back = () if request.reply_route is None else request.reply_route.proxies
    return tuple(dict.fromkeys((*request.route.nodes, *back)))


def _is_unseen(request: QueryRequest, failure: QueryFailed) -> bool:
    """Whether the destination has certainly not received the query, so that sending it again does no harm."""
    if failure.report is not None:
        return not failure.report.has_arrived
    # Without a report the first hop has refused the header; in other modes a reset may come from any node.
    return request.error_mode is ErrorMode.STATUS


def _blamed(failures: list[QueryFailed], exempt: set[bytes]) -> list[tuple[bytes, ...]]:
    """The nodes that each failure blames, in route order, without the ends, which every route has."""
    return [tuple(node_id for node_id in each.blamed if node_id not in exempt) for each in failures]


def _record_success(node: NodeContext, request: QueryRequest, result: QueryResult) -> None:
    """Record which peers worked. The reply often arrives before the report, and proves it as well."""
    if result.has_reply:
        node.peers.worked(_all_hops(request))
    elif result.report is not None:
        node.peers.reported(result.report)


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
    """The state for sending a query again: how to rewind its content, and whether a sink has received any."""

    def __init__(self, node: NodeContext, request: QueryRequest) -> None:
        self._node = node
        self._rewind: Callable[[], object] | None = rewinder(request.content)
        self._has_sinks = bool(request.sinks)
        self._received = 0
        self._was_renewed = False

    def watched(self, request: QueryRequest) -> QueryRequest:
        """The same request, with a progress callback that records the bytes of the caller's sinks."""
        if not self._has_sinks:
            return request
        tell = request.progress

        def progress(sent: int, received: int) -> None:
            self._received = received
            if tell is not None:
                tell(sent, received)

        return replace(request, progress=progress)

    def next(
        self, request: QueryRequest, failures: list[QueryFailed], *, has_new_keys: bool
    ) -> QueryRequest | None:
        """The request of the next attempt, with its content rewound; None: the last failure is final.

        Raises QueryFailed: there is no other route.
        """
        if has_new_keys and not self._was_renewed and (request.retries or _is_unseen(request, failures[-1])):
            self._was_renewed = True
            return replace(request, prepared=None) if self.rewind() else None
        blamed = _blamed(failures, {self._node.descriptor.node_id, request.route.destination})
        is_last = len(failures) - self._was_renewed > request.retries or not blamed[-1]
        if request.hops is None or is_last or not self.rewind():
            return None
        try:
            return self.draw_other_routes(request, blamed)
        except (BadRoute, ProfileError) as no_route:
            raise _all_of(failures, f"no other route: {no_route}") from failures[-1]

    def draw_other_routes(self, request: QueryRequest, blamed: list[tuple[bytes, ...]]) -> QueryRequest:
        """The request over routes that leave out all suspects, or at least one of each failure.

        Raises BadRoute, ProfileError: too few nodes remain.
        """
        suspects = tuple(dict.fromkeys(node_id for each in blamed for node_id in each))
        other = draw_routes(self._node, request, suspects=suspects)
        hops = set(_all_hops(other))
        if any(each and hops.issuperset(each) for each in blamed):
            raise BadRoute(
                f"a route of {request.hops} proxies would have all suspects of a failure again: "
                f"{len(suspects)} to be avoided"
            )
        return other

    def rewind(self) -> bool:
        """Rewind the content for another attempt. False: impossible."""
        if self._rewind is None or self._received:
            return False
        self._rewind()
        return True
