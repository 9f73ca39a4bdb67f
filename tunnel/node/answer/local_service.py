"""The local service of the card: frames that end at this node, by the command of their slot.

* DEST: a query or a tunnel for the inner service, or (mode known-dest) the answer to a query of this node.
* HOME: a frame along a reply block of this node: the reply to a query, or a follow-up to a reply.
* DROP: cover traffic, consumed.

The read service owns the stream and calls `local_service`.
"""

from __future__ import annotations

from reactor import ReadYield, Service
from reactor.core.requests import Request
from tunnel.errors import ErrorCode, MalformedMessage, PeerError
from tunnel.established.keys import Chunk, ChunkOpener
from tunnel.node.answer.send_reply import IncomingQuery, answer_service
from tunnel.node.context import NodeContext, Stream
from tunnel.node.query.frame_io import READ_BYTES, FrameReader, ReceiptWriter, receive_reply
from tunnel.node.query.incoming_replies import PendingQuery
from tunnel.node.relay.status_reporter import Reporter
from tunnel.node.tunnels.carrying import tunnel_service
from tunnel.node.waits import idle_watch, read_rest, run_with_guards
from tunnel.onion.header import Command, Slot
from tunnel.onion.key_schedule import Direction, end_to_end_key
from tunnel.onion.message import CHALLENGE_BYTES, ChunkType

__all__ = [
    "Replayed",
    "local_service",
    "opened_first",
    "read_first_chunk",
]


# A message and an established tunnel begin under the same key; only the type of the first chunk differs. So
# that chunk is opened twice: here, in a copy, to see its type, and then by the reader of the frame.


class Replayed:
    """A stream whose first bytes were read before: returns them again, then continues."""

    def __init__(self, stream: Stream, first: memoryview) -> None:
        self._stream = stream
        self._first = first

    @property
    def readable(self) -> Request:
        """The request to yield when a read raises BlockingIOError."""
        return self._stream.readable

    def readinto(self, buffer: memoryview) -> int:
        """As `readinto` of the stream."""
        first = self._first
        if not first:
            return self._stream.readinto(buffer)
        count = min(len(first), len(buffer))
        buffer[:count] = first[:count]
        self._first = first[count:]
        return count


def read_first_chunk(stream: Stream) -> Service[memoryview]:
    """Wait for the first chunk.

    Raises:
        FrameTruncated: FIN before its end. Errors of the stream.
    """
    chunk = memoryview(bytearray(stream.profile.geometry.chunk_bytes))
    yield from read_rest(ReadYield(stream), chunk, 0)
    return chunk


def opened_first(node: NodeContext, slot: Slot, stream: Stream, chunk: memoryview) -> Chunk:
    """Open a copy of this first chunk.

    Raises:
        MalformedMessage: it does not open.
    """
    opener = ChunkOpener(end_to_end_key(slot.seed, Direction.FORWARD), stream.profile.geometry, node.engine)
    return opener.open(memoryview(bytearray(chunk)))


def local_service(node: NodeContext, stream: Stream, slot: Slot, reporter: Reporter) -> Service[None]:
    """Serve one frame that ends here.

    Raises:
        PeerError: the frame or the reply path of its answer broke. UNKNOWN_QUERY: it answers no pending
            query. BAD_HEADER: its HOME slot was not made here.
    """
    if slot.command is Command.DEST:
        yield from _destination(node, stream, slot, reporter)
    elif slot.command is Command.HOME:
        yield from _home(node, stream, slot, reporter)
    else:
        node.counters.cover_received += 1
        yield from run_with_guards(_drop(stream, reporter), idle_watch([stream], node.limits.idle_s))


def _destination(node: NodeContext, stream: Stream, slot: Slot, reporter: Reporter) -> Service[None]:
    layer = node.codec.destination_reader(slot, stream.profile)
    first = memoryview(b"")
    frame: FrameReader | None = None
    kind = ChunkType.MSG

    def begin() -> Service[None]:
        nonlocal frame, first, kind
        first = yield from read_first_chunk(stream)
        chunk = opened_first(node, slot, stream, first)
        kind = chunk.kind
        if kind is ChunkType.CHALLENGE:
            yield from _take_receipt(node, stream, chunk, reporter)
        elif kind is not ChunkType.HELLO:
            frame = FrameReader(Replayed(stream, first), layer)
            yield from frame.start()

    yield from run_with_guards(begin(), idle_watch([stream], node.limits.idle_s))
    if kind is ChunkType.CHALLENGE:
        return
    if frame is None:
        yield from tunnel_service(node, stream, slot, first, reporter)
        return
    query_id = node.codec.answered_query(layer.head)
    if query_id is None:
        yield from answer_service(node, IncomingQuery(stream, slot, frame, layer.head), reporter)
        return
    pending = _claim(node, query_id, 0)
    yield from run_with_guards(
        receive_reply(stream, frame, pending, reporter), idle_watch([stream], node.limits.idle_s)
    )


def _take_receipt(node: NodeContext, stream: Stream, chunk: Chunk, reporter: Reporter) -> Service[None]:
    """The frame is a receipt for a reply of this node in mode `cached`."""
    if not chunk.is_last or chunk.sub_stream or len(chunk.data) != CHALLENGE_BYTES:
        raise MalformedMessage(
            f"a receipt has {len(chunk.data)} bytes, sub-stream {chunk.sub_stream}, LAST {chunk.is_last}; "
            f"expected {CHALLENGE_BYTES} bytes, 0 and True"
        )
    if (yield from ReadYield(stream).readinto(memoryview(bytearray(1)))):
        raise MalformedMessage("a chunk follows the one with a receipt")
    answered = node.receipts.pop(bytes(chunk.data), None)
    if answered is None:
        raise PeerError("a receipt arrived for an unknown reply", ErrorCode.UNKNOWN_QUERY)
    answered.set()
    yield from reporter.succeed()


def _home(node: NodeContext, stream: Stream, slot: Slot, reporter: Reporter) -> Service[None]:
    ticket = node.codec.home_ticket(slot)
    layer = node.codec.home_reader(slot, ticket, stream.profile)
    frame = FrameReader(stream, layer)
    if node.take_invitation(ticket.query_id):
        yield from run_with_guards(frame.start(), idle_watch([stream], node.limits.idle_s))
        yield from answer_service(node, IncomingQuery(stream, slot, frame, layer.head), reporter)
        return
    pending = _claim(node, ticket.query_id, ticket.number)
    receipts = ReceiptWriter(stream, layer, node.codec.receipts_writer(slot, ticket, stream.profile))

    def receive() -> Service[None]:
        yield from receive_reply(
            stream,
            frame,
            pending,
            reporter,
            number=ticket.number,
            layer=layer,
            receipts=receipts,
            node_id=node.descriptor.node_id,
        )

    yield from run_with_guards(receive(), receipts.run(), idle_watch([stream], node.limits.idle_s))


def _claim(node: NodeContext, query_id: bytes, number: int) -> PendingQuery:
    pending = node.pending.get(query_id)
    if pending is None or not pending.claim(number):
        raise PeerError("a reply arrived for an unknown query", ErrorCode.UNKNOWN_QUERY)
    return pending


def _drop(stream: Stream, reporter: Reporter) -> Service[None]:
    """Consume cover traffic until its FIN.

    A limit, because the sender need not have the bytes: they may be a reply that another node sends along a
    block that ends here.
    """
    most = stream.profile.geometry.most_cover_bytes
    reader, scratch = ReadYield(stream), memoryview(bytearray(READ_BYTES))
    while (yield from reader.readinto(scratch)):
        if stream.content_in > most + stream.profile.geometry.header_bytes:
            raise MalformedMessage(f"a frame that ends in DROP has more than {most} bytes of chunks")
    yield from reporter.succeed()
