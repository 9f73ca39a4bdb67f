"""The write service: one per forwarded frame. Opens a stream to the next node, relays both halves, passes on
the status.

It is lent the incoming stream: its forward relay reads there and its backward relay writes there. It owns the
outgoing one and ends it; the incoming one goes back to the read service. What goes wrong behind this node it
tells itself, since only here is it known on which side that was.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from reactor import CurrentTime, ReadYield, Service, Signal, Sleep, UnexpectedEnd, WriteYield
from readwrite_comp.helpers import renewed
from tunnel.errors import (
    ErrorCode,
    FrameTruncated,
    LocalTunnelError,
    MalformedMessage,
    NextRefused,
    PeerError,
    ProfileError,
    StreamReset,
    TunnelError,
)
from tunnel.identity.descriptor import short
from tunnel.node.answer.local_service import local_service
from tunnel.node.context import NodeContext, Stream, report_frame
from tunnel.node.relay.forward import Forward
from tunnel.node.relay.relay_loop import idle_watch, relay, run_with_guards, with_timeout
from tunnel.node.relay.status_reporter import Reporter, fault_here, wait_status
from tunnel.onion.header import Command

__all__ = ["global_service", "read_service", "write_service"]


# The read service: one per stream that a neighbour opened. Header, and then whoever the frame is for.
#
# A frame to be forwarded is handed to the global service, which lends the stream to a write service; frames
# that end here are served by the local service. The read service owns the stream all the time: it alone
# tells the neighbour of an error, in one place.
log = logging.getLogger("tunnel.node")


def read_service(node: NodeContext, stream: Stream) -> Service[None]:
    """Serve one stream to its end. Errors of the peer end it, and are logged here."""
    code = ErrorCode.CANCELLED
    try:
        yield from _serve(node, stream)
    except PeerError as error:
        _log(node, stream, error)
        code = error.code
    except LocalTunnelError as error:
        log.error("node %s: %s: %s", node.name, type(error).__name__, error)
        code = ErrorCode.INTERNAL
    except Exception:
        code = ErrorCode.INTERNAL
        raise  # a fault of this node: the scope logs it
    finally:
        stream.reset(code)  # without effect when it has ended in order


def _log(node: NodeContext, stream: Stream, error: PeerError) -> None:
    # Who talks to whom stays below INFO; that and why a node refused something does not.
    level = logging.INFO if isinstance(error, StreamReset) else logging.WARNING
    log.log(level, "node %s ended a frame: %s: %s", node.name, type(error).__name__, error)
    log.debug("node %s: that frame came from %s", node.name, short(stream.peer_id))


def _serve(node: NodeContext, stream: Stream) -> Service[None]:
    opened = node.tunnel.open_frame(
        # In no variable: it would stay as long as the frame, and there may be a thousand.
        (yield from _read_header(node, stream)),
        stream.profile,
        neighbour=stream.peer_id,
        now_s=node.wall_clock(),
    )
    # From here on this node has keys of the frame, and can tell Alice what goes wrong with it.
    reporter = Reporter(node, stream, opened.slot)
    try:
        if opened.slot.command is Command.RELAY:
            forward = Forward(stream, opened, reporter)
            del opened  # the next header, which the write service drops when it is sent
            yield from node.forwards.send(forward)
            yield from forward.wait_returned()
        else:
            yield from local_service(node, stream, opened.slot, reporter)
    except PeerError as error:
        yield from reporter.fail(error)
        raise
    except Exception:
        yield from reporter.fail(fault_here())
        raise


def _read_header(node: NodeContext, stream: Stream) -> Service[bytes]:
    if not node.descriptor.offers(stream.profile):
        raise ProfileError(
            f"peer opens a frame of profile {stream.profile.name!r}, which this node does not offer"
        )
    header = bytearray(stream.profile.geometry.header_bytes)
    read = ReadYield(stream).read_exactly(memoryview(header))
    try:
        yield from with_timeout(node.limits.header_s, read, "no whole header after OPEN")
    except UnexpectedEnd as error:
        raise FrameTruncated("FIN inside the onion header") from error
    return bytes(header)


def write_service(node: NodeContext, forward: Forward) -> Service[None]:
    """Forward one frame.

    Raises:
        UnknownNext: the next node is neither linked nor in the directory. NextRefused: it cannot be reached.
        PeerError: either side broke, was reset, or fell silent.
    """
    started_s: float = yield CurrentTime()
    slot = forward.opened.slot
    if forward.opened.delay_s:
        yield Sleep(forward.opened.delay_s)
    try:
        outgoing = yield from node.links.open_stream(slot.next_id, forward.stream.profile)
    except NextRefused as error:
        yield from forward.reporter.fail(error, about_next=True)
        raise
    code = ErrorCode.CANCELLED
    try:
        header = WriteYield(outgoing).write_all(forward.opened.next_header)
        yield from with_timeout(node.limits.idle_s, header, "the next node did not take the header")
        forward.opened = replace(forward.opened, next_header=b"")
        yield from _relay_both(node, forward, outgoing, started_s)
    except PeerError as error:
        code = error.code
        yield from _tell(forward, outgoing, error)
        raise
    finally:
        outgoing.reset(code)  # without effect when it has ended in order


def _tell(forward: Forward, outgoing: Stream, error: PeerError) -> Service[None]:
    """Tell of a failure behind this node: in the words of the next one, or what became of the stream to it.

    A failure of this node's own is the read service's to tell, also where the next one has told of success
    already.
    """
    if outgoing.error is None and not isinstance(error, MalformedMessage):
        return
    try:
        if outgoing.status is not None:
            yield from forward.reporter.pass_on(outgoing.status)
            return
    except MalformedMessage as malformed:
        error = malformed
    yield from forward.reporter.fail(error, about_next=True)


def _relay_both(node: NodeContext, forward: Forward, outgoing: Stream, started_s: float) -> Service[None]:
    """Both halves at once, until both have ended; the first error ends both."""
    incoming, profile = forward.stream, forward.stream.profile
    towards_bob, towards_alice = node.tunnel.relay_layers(forward.opened.slot, profile)
    chunk_bytes = profile.geometry.chunk_bytes
    backward_ended, failed = Signal(), Signal()
    incoming.failed = outgoing.failed = failed
    has_sent_all = False

    def relay_forward() -> Service[None]:
        nonlocal has_sent_all
        yield from relay(incoming, outgoing, towards_bob.decrypt, chunk_bytes)
        outgoing.finish()
        yield from report_frame(node, outgoing, started_s, content_in=incoming.content_in)
        has_sent_all = True
        failed.set()  # the watch looks again
        yield backward_ended

    def relay_backward() -> Service[None]:
        yield from relay(outgoing, incoming, towards_alice.decrypt, chunk_bytes)
        yield from forward.reporter.pass_on((yield from wait_status(outgoing)))
        backward_ended.set()

    def watch_failures() -> Service[None]:
        """End the frame when either neighbour gives it up, also while both relays wait for the other one.

        Content that came in full before a link broke is still forwarded. A sender may give up behind its FIN.
        """
        while True:
            if incoming.error is not None and (has_sent_all or incoming.is_cut):
                raise renewed(incoming.error)
            if outgoing.error is not None and outgoing.is_cut:
                raise renewed(outgoing.error)
            yield failed

    watches = watch_failures(), idle_watch([incoming, outgoing], node.limits.idle_s)
    yield from run_with_guards(relay_forward(), relay_backward(), *watches)


# The global service: takes frames to be forwarded and gives each a write service, which is lent the stream.
#
# No content passes through it; it decides only whether a frame may go on and to whom.


def global_service(node: NodeContext) -> Service[None]:
    """Run for the node's life."""
    while True:
        forward = yield from node.forwards.receive()
        yield from node.scope.spawn(_forward(node, forward), name=f"{node.name} write")


def _forward(node: NodeContext, forward: Forward) -> Service[None]:
    try:
        yield from write_service(node, forward)
        forward.error = None
    except TunnelError as error:
        forward.error = error
    finally:
        forward.returned.set()
