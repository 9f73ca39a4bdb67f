"""The local service: frames that end at this node. One per message.

DEST: a query or a tunnel for the inner service, or the answer of somebody to whom this node had named
itself. HOME: what came along a reply block of this node: the reply to a query, or what follows a reply that
carried blocks. DROP: consumed. The stream is lent by the read service.
"""

from __future__ import annotations

from reactor import ReadYield, Service
from tunnel.errors import IdleTimeout, TunnelError, UnknownQuery
from tunnel.node.answers import READ_BYTES, Incoming, answer_service
from tunnel.node.context import NodeContext, Stream
from tunnel.node.first_chunk import Replayed, begins_tunnel, read_first_chunk
from tunnel.node.frame_io import FrameReader
from tunnel.node.pending import PendingQuery
from tunnel.node.relay import guarded, idle_watch
from tunnel.node.statuses import Reporter
from tunnel.node.tunnel_service import tunnel_service
from tunnel.onion.header import Command, Slot

__all__ = ["local_service", "receive_reply"]


def local_service(node: NodeContext, stream: Stream, slot: Slot, reporter: Reporter) -> Service[None]:
    """Serve one frame that ends here.

    Raises:
        PeerError: the frame, or the way back of its answer, broke. UnknownQuery: it answers a query that
            nobody waits for (any more). HeaderError: a HOME slot that was not made here.
    """
    if slot.command is Command.DEST:
        yield from _destination(node, stream, slot, reporter)
    elif slot.command is Command.HOME:
        yield from _home(node, stream, slot, reporter)
    else:
        yield from guarded(_drop(stream, reporter), idle_watch([stream], node.limits.idle_s))


def _destination(node: NodeContext, stream: Stream, slot: Slot, reporter: Reporter) -> Service[None]:
    layer = node.tunnel.destination_reader(slot, stream.profile)
    first = memoryview(b"")
    frame: FrameReader | None = None

    def begin() -> Service[None]:
        nonlocal frame, first
        first = yield from read_first_chunk(stream)
        if not begins_tunnel(node, slot, stream, first):
            frame = FrameReader(Replayed(stream, first), layer)
            yield from frame.start()

    yield from guarded(begin(), idle_watch([stream], node.limits.idle_s))
    if frame is None:
        yield from tunnel_service(node, stream, slot, first, reporter)
        return
    query_id = node.tunnel.answered_query(layer.head)
    if query_id is None:
        yield from answer_service(node, Incoming(stream, slot, frame, layer.head), reporter)
        return
    pending = _claim(node, query_id)
    yield from guarded(receive_reply(frame, pending, reporter), idle_watch([stream], node.limits.idle_s))


def _home(node: NodeContext, stream: Stream, slot: Slot, reporter: Reporter) -> Service[None]:
    ticket = node.tunnel.home_ticket(slot)
    layer = node.tunnel.home_reader(slot, ticket, stream.profile)
    frame = FrameReader(stream, layer)
    if node.take_invitation(ticket.query_id):
        yield from guarded(frame.start(), idle_watch([stream], node.limits.idle_s))
        yield from answer_service(node, Incoming(stream, slot, frame, layer.head), reporter)
        return
    pending = _claim(node, ticket.query_id)

    def receive() -> Service[None]:
        try:
            yield from frame.start()
        except TunnelError as error:
            pending.fail(error)
            raise
        pending.reply_blocks = layer.head.reply_blocks
        yield from receive_reply(frame, pending, reporter)

    yield from guarded(receive(), idle_watch([stream], node.limits.idle_s))


def _claim(node: NodeContext, query_id: bytes) -> PendingQuery:
    pending = node.pending.get(query_id)
    if pending is None or not pending.claim():
        raise UnknownQuery("a reply has come for a query that nobody waits for")
    return pending


def receive_reply(frame: FrameReader, pending: PendingQuery, reporter: Reporter | None) -> Service[None]:
    """Read a reply to one of this node's queries into its sink, and wake who waits for it.

    Args:
        frame: at the start of the content.
        reporter: tells Bob's way back that it is here; None where he needs no telling.
    """
    try:
        buffer = memoryview(bytearray(READ_BYTES))
        while count := (yield from frame.readinto(buffer)):
            pending.take(buffer[:count])
            yield from pending.wait_room()
        pending.succeed()
    except TunnelError as error:
        pending.fail(error)
        raise
    finally:
        if not pending.has_ended:
            # Cancelled, by the idle watch for one; a block serves once, so nothing more can come.
            pending.fail(IdleTimeout("the reply was given up before its end"))
    if reporter is not None:
        yield from reporter.succeed()


def _drop(stream: Stream, reporter: Reporter) -> Service[None]:
    """Consume cover traffic to its FIN."""
    reader = ReadYield(stream)
    scratch = memoryview(bytearray(READ_BYTES))
    while (yield from reader.readinto(scratch)):
        pass
    yield from reporter.succeed()
