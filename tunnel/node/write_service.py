"""The write service: one per forwarded frame. Opens a stream to the next node, relays both halves, passes on
the status.

It is lent the incoming stream: its forward relay reads there and its backward relay writes there. It owns the
outgoing one and ends it; the incoming one goes back to the read service. What goes wrong behind this node it
tells itself, since only here is it known on which side that was.
"""

from __future__ import annotations

from dataclasses import replace

from reactor import CurrentTime, Service, Signal, Sleep, WriteYield
from readwrite_comp.helpers import renewed
from tunnel.errors import ErrorCode, MalformedMessage, NextRefused, PeerError
from tunnel.node.context import NodeContext, Stream, report_frame
from tunnel.node.forward import Forward
from tunnel.node.relay import guarded, idle_watch, relay
from tunnel.node.statuses import wait_status
from tunnel.node.within import within

__all__ = ["write_service"]


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
        yield from within(node.limits.idle_s, header, "the next node did not take the header")
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
    yield from guarded(relay_forward(), relay_backward(), *watches)
