"""The write service: one per forwarded frame. Opens a stream to the next node, relays both halves, passes on
the status.

It is lent the incoming stream: its forward relay reads there and its backward relay writes there. It owns the
outgoing one and ends it; the incoming one goes back to the read service.
"""

from __future__ import annotations

from reactor import CurrentTime, Service, Signal, Sleep, WriteYield
from tunnel.errors import ErrorCode, PeerError
from tunnel.node.context import NodeContext, Stream, report_frame
from tunnel.node.relay import guarded, idle_watch, relay
from tunnel.node.statuses import pass_status
from tunnel.onion.header import Opened

__all__ = ["write_service"]


def write_service(node: NodeContext, incoming: Stream, opened: Opened) -> Service[None]:
    """Forward one frame.

    Raises:
        UnknownNext: the next node is neither linked nor in the directory. NextRefused: it cannot be reached.
        PeerError: either side broke, was reset, or fell silent.
    """
    started_s: float = yield CurrentTime()
    slot = opened.slot
    if slot.delay_10ms:
        yield Sleep(slot.delay_10ms / 100)
    outgoing = yield from node.links.open_stream(slot.next_id, incoming.profile)
    code = ErrorCode.CANCELLED
    try:
        yield from WriteYield(outgoing).write_all(opened.next_header)
        yield from _relay_both(node, incoming, outgoing, opened, started_s)
    except PeerError as error:
        code = error.code
        raise
    finally:
        outgoing.reset(code)  # without effect when it has ended in order


def _relay_both(
    node: NodeContext, incoming: Stream, outgoing: Stream, opened: Opened, started_s: float
) -> Service[None]:
    """Both halves at once, until both have ended; the first error ends both."""
    profile = incoming.profile
    forward, backward = node.tunnel.relay_layers(opened.slot, profile)
    chunk_bytes = profile.geometry.chunk_bytes
    backward_ended = Signal()

    def relay_forward() -> Service[None]:
        yield from relay(incoming, outgoing, forward.decrypt, chunk_bytes)
        yield from report_frame(node, outgoing, started_s, content_in=incoming.content_in)
        yield backward_ended

    def relay_backward() -> Service[None]:
        yield from relay(outgoing, incoming, backward.decrypt, chunk_bytes)
        yield from pass_status(outgoing, incoming)
        backward_ended.set()

    yield from guarded(
        relay_forward(), relay_backward(), idle_watch([incoming, outgoing], node.limits.idle_s)
    )
