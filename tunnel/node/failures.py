"""What Alice's user is told of a query or tunnel that failed: the status, or else what was seen here."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TypeVar

from reactor import Closed, Forked, Reactor, Service, ServiceCancelled
from reactor.core.threads import ServiceFuture
from readwrite_comp.helpers import is_same_error
from tunnel.descriptor import short
from tunnel.errors import ErrorCode, NextRefused, NodeStopped, PeerError, QueryFailed, StreamReset
from tunnel.node.context import NodeContext, Stream
from tunnel.onion.expiry import clock_text
from tunnel.reports import Report, Reported, read_report

__all__ = ["explain", "submit", "until_stopped"]

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
