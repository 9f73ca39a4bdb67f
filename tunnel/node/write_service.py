"""The write service: one per forwarded frame. Dials the next node, sends the header on, relays both halves.

It is lent the incoming link: its forward relay reads there and its backward relay writes there. It owns the
outgoing link and ends it; the incoming one goes back to the read service.
"""

from __future__ import annotations

from reactor import CurrentTime, Service, Signal, Sleep, WriteYield
from tunnel.errors import PeerError, UnknownNext
from tunnel.geometry import Profile
from tunnel.node.context import NodeContext, report_frame
from tunnel.node.links import dial, end_link_beside
from tunnel.node.relay import guarded, idle_watch, relay
from tunnel.node.wire import LinkStream
from tunnel.onion.header import Opened

__all__ = ["write_service"]


def write_service(node: NodeContext, incoming: LinkStream, profile: Profile, opened: Opened) -> Service[None]:
    """Forward one frame.

    Raises:
        UnknownNext: the next node is not in the directory. NextRefused: it cannot be reached.
        PeerError: either side broke, was reset, or fell silent.
    """
    started_s: float = yield CurrentTime()
    slot = opened.slot
    peer = node.directory.lookup(slot.next_id)
    if peer is None:
        raise UnknownNext("the next node is not in the directory")
    if opened.delay_s:
        yield Sleep(opened.delay_s)
    outgoing = yield from dial(node, peer)
    try:
        outgoing.open(profile)
        yield from WriteYield(outgoing).write_all(opened.next_header)
        yield from _relay_both(node, incoming, outgoing, profile, opened, started_s)
    except PeerError as error:
        outgoing.reset(error.code)
        raise
    finally:
        yield from end_link_beside(node, outgoing)


def _relay_both(
    node: NodeContext,
    incoming: LinkStream,
    outgoing: LinkStream,
    profile: Profile,
    opened: Opened,
    started_s: float,
) -> Service[None]:
    """Both halves at once, until both have ended; the first error ends both."""
    forward, backward = node.tunnel.relay_layers(opened.slot, profile)
    chunk_bytes = profile.geometry.chunk_bytes
    backward_ended = Signal()

    def relay_forward() -> Service[None]:
        yield from relay(incoming, outgoing, forward.decrypt, chunk_bytes)
        yield from report_frame(node, outgoing, started_s, content_in=incoming.content_in)
        yield backward_ended

    def relay_backward() -> Service[None]:
        yield from relay(outgoing, incoming, backward.decrypt, chunk_bytes)
        backward_ended.set()

    yield from guarded(
        relay_forward(), relay_backward(), idle_watch([incoming, outgoing], node.limits.idle_s)
    )
