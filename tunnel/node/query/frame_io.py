"""Write and read the content of a frame over a stream, for Alice's queries and Bob's replies alike.

`receive_reply` reads a reply into the sink of the query that waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from time import perf_counter
from typing import Any, Final, TypeVar

from reactor import YIELD, ReadYield, Service, Signal, WriteYield
from reactor.io.streams import ReadStream
from readwrite_comp import ExtRead, ExtWrite, LayerError, Truncated
from readwrite_comp.errors import is_same_error
from readwrite_comp.helpers import byte_view
from tunnel.errors import ChangedContent, ErrorCode, FrameTruncated, PeerError, StreamReset, TunnelError
from tunnel.geometry import Profile
from tunnel.node.context import NodeContext, Stream, report_frame
from tunnel.node.query.contents import Content, open_content
from tunnel.node.query.incoming_replies import PendingQuery
from tunnel.node.relay.status_reporter import Reporter, settle_beside
from tunnel.node.waits import with_timeout
from tunnel.onion.codec import OutgoingFrame
from tunnel.onion.message import FrameR, FrameW, MessageW
from tunnel.onion.message_head import MessageHead
from tunnel.onion.reply_block import ReplyBlock

__all__ = [
    "READ_BYTES",
    "FrameReader",
    "FrameWriter",
    "ReceiptWriter",
    "receive_reply",
    "send_whole",
    "start_frame",
    "write_content",
]

T = TypeVar("T")

READ_BYTES: Final = 16 * 1024
"""Content that a frame is asked for at a time."""

# A chunk takes 5 µs at Bob, and milliseconds at Alice if she adds 126 layers. After this time other services
# run, among them the link's writer, whose `send` then takes several chunks. Yielding after each chunk cost
# all nodes of a route together a tenth more processor time.
_SLICE_S = 500e-6


class _TimeSlice:
    """When a service that always has work must yield. Measured in real time, whatever clock the node has."""

    __slots__ = ("_began_s",)

    def __init__(self) -> None:
        self._began_s = perf_counter()

    def is_over(self) -> bool:
        """Whether it is time to yield; if so, the next turn begins."""
        now_s = perf_counter()
        if now_s - self._began_s < _SLICE_S:
            return False
        self._began_s = now_s
        return True


class FrameWriter:
    """Writes the content and the end of one frame. The caller ends the stream.

    Args:
        layer: of the frame; its header is already written.

    Attributes:
        content_bytes: content taken so far.
    """

    def __init__(self, node: NodeContext, stream: Stream, layer: ExtWrite) -> None:
        self._node = node
        self._layer = layer
        self._writer = WriteYield(stream)
        self._began_s = node.now_s()
        self._slice = _TimeSlice()
        self.stream = stream
        self.content_bytes = 0

    def write(self, data: bytes | memoryview) -> Service[None]:
        """Write content; returns when all is accepted. An incomplete chunk is kept until `flush`.

        Raises TypeError: not a contiguous buffer. Errors of the stream.
        """
        view = byte_view(data)
        while view:
            taken: int = yield from self._writer.call(self._layer.write_into, view)
            self.content_bytes += taken
            view = view[taken:]
            if self._slice.is_over():
                yield YIELD

    def flush(self) -> Service[None]:
        """Seal the current chunk, full or not."""
        yield from self._writer.call(self._layer.flush_into)

    def challenge(self, nonce: bytes) -> Service[None]:
        """Seal the current chunk if it has content, and ask the reader for a receipt."""
        assert isinstance(self._layer, FrameW | MessageW)
        self._layer.challenge(nonce)
        yield from self.flush()

    def finish(self) -> Service[None]:
        """End the message and pad it. The caller sends FIN or more content."""
        yield from self._writer.call(self._layer.write_end)
        yield from report_frame(self._node, self.stream, self._began_s, content_in=0)


def write_content(writer: FrameWriter, content: Content, moved: Callable[[], None]) -> Service[None]:
    """Write all of a frame's content and its end.

    Args:
        moved: called after each piece.
    Raises:
        LocalTunnelError: the content's file is non-blocking. Errors of the stream or of the content.
    """
    with closing(open_content(content)) as source:
        while chunk := (yield from source.read()):
            yield from writer.write(chunk)
            moved()
    yield from writer.finish()
    writer.stream.finish()


def start_frame(node: NodeContext, frame: OutgoingFrame, *, is_own: bool) -> Service[FrameWriter]:
    """Open a stream to a frame's first node and send the header.

    Args:
        is_own: this node's user has sent it; False: an answer, whose path strangers may choose.
    Raises:
        PeerError (UNKNOWN_NEXT): the node is neither linked nor in the directory.
        NextRefused: it cannot be reached.
        PeerError: the stream broke.
    On error: the stream has ended.
    """
    stream = yield from node.links.open_stream(frame.first_id, frame.profile, is_own=is_own)
    try:
        writer = FrameWriter(node, stream, frame.layer)
        header = WriteYield(stream).call(frame.layer.write_header)
        yield from with_timeout(node.limits.idle_s, header, "the first node did not take the header")
    except BaseException:
        stream.reset(ErrorCode.CANCELLED)
        raise
    return writer


def send_whole(node: NodeContext, first_id: bytes, profile: Profile, frame: bytes) -> Service[None]:
    """Send a short frame of this node's user, header included; its status is read beside the caller.

    Raises as `start_frame`.
    """
    stream = yield from node.links.open_stream(first_id, profile, is_own=True)
    try:
        send = WriteYield(stream).write_all(frame)
        yield from with_timeout(node.limits.idle_s, send, "the first node did not take the frame")
        stream.finish()
    except BaseException:
        stream.reset(ErrorCode.CANCELLED)
        raise
    yield from settle_beside(node, stream)


class ReceiptWriter:
    """Alice's receipts for a reply, on the backward half of its stream; without a challenge nothing is sent.

    A separate service writes them, because the reader waits for content after a challenge while Bob waits for
    the receipt.

    Args:
        reply: reads the reply. layer: writes the message with the receipts.
    """

    def __init__(self, stream: Stream, reply: FrameR, layer: FrameW) -> None:
        self._writer = WriteYield(stream)
        self._layer = layer
        self._has_begun = self._is_over = False
        self._changed = Signal()
        self._ended = Signal()
        self._challenges = reply.take_challenges(self._changed.set)

    def run(self) -> Service[None]:
        """Answer each challenge, until `finish`. Raises the errors of the stream."""
        while True:
            yield from self._answer()
            if self._is_over:
                break
            yield self._changed
        if self._has_begun:
            yield from self._writer.call(self._layer.write_end)
        self._ended.set()

    def finish(self) -> Service[None]:
        """After the end of the reply: wait until `run` has sent all receipts."""
        self._is_over = True
        self._changed.set()
        yield self._ended

    def _answer(self) -> Service[None]:
        while self._challenges:
            if not self._has_begun:
                yield from self._writer.call(self._layer.write_header)
                self._has_begun = True
            receipt = memoryview(self._challenges.pop(0))
            while receipt:
                taken: int = yield from self._writer.call(self._layer.write_into, receipt)
                receipt = receipt[taken:]
            yield from self._writer.call(self._layer.flush_into)


class FrameReader:
    """Reads the content of one frame whose header is already read.

    Attributes:
        on_content_end: called when the end of the message is read and checked; FIN may follow much later.
        ended: set when FIN is read.

    Raises, from each method: ChangedContent for chunks that do not open or that no sender writes,
    FrameTruncated when the frame ends early, and errors of the link.
    """

    def __init__(self, stream: ReadStream, layer: ExtRead) -> None:
        self._reader = ReadYield(stream)
        self._layer = layer
        self._has_started = False
        self._has_ended = False
        self._slice = _TimeSlice()
        self.on_content_end: Callable[[], None] | None = None
        self.ended = Signal()

    def start(self) -> Service[None]:
        """Read the message's head, which precedes the content. Idempotent."""
        if not self._has_started:
            yield from self._call(self._layer.read_header)
            self._has_started = True

    def readinto(self, buffer: memoryview) -> Service[int]:
        """Content into `buffer`; 0 at the end, when everything up to the frame's FIN was checked."""
        if self._has_ended:
            return 0
        if self._slice.is_over():
            yield YIELD
        count = yield from self._call(self._layer.read_into, buffer)
        if count == 0 and len(buffer):
            yield from self._call(self._layer.read_end)
            if self.on_content_end is not None:
                self.on_content_end()
            if (yield from self._reader.readinto(memoryview(bytearray(1)))):
                raise ChangedContent("a chunk follows the one marked last")
            self._has_ended = True
            self.ended.set()
        return count

    def drain(self) -> Service[None]:
        """Read, check and discard the rest of the message."""
        scratch = memoryview(bytearray(READ_BYTES))
        while (yield from self.readinto(scratch)):
            pass

    def _call(self, method: Callable[..., T], *args: Any) -> Service[T]:
        """Call the layer and convert its errors to those of a frame."""
        try:
            return (yield from self._reader.call(method, *args))
        except Truncated as error:
            raise FrameTruncated(str(error)) from error
        except LayerError as error:
            raise ChangedContent(str(error)) from error


def receive_reply(
    stream: Stream,
    frame: FrameReader,
    pending: PendingQuery,
    reporter: Reporter | None,
    *,
    number: int = 0,
    layer: FrameR | None = None,
    receipts: ReceiptWriter | None = None,
    node_id: bytes = b"",
) -> Service[None]:
    """Read a reply to one of this node's queries into its sink and wake the query.

    Args:
        stream: of the reply.
        frame: at the start of the message, or of the content.
        reporter: reports success along Bob's reply path; None: the mode has none.
        number: of the reply, from 0.
        layer: has the message's head; its first reply block that this node (`node_id`) can use is kept.
        receipts: shows Bob that the reply arrives; None: the mode has none.
    """
    is_whole = False
    frame.on_content_end = pending.content_ended
    try:
        yield from frame.start()
        if layer is not None:
            pending.reply_blocks += _usable_block(node_id, layer.head)
        buffer = memoryview(bytearray(READ_BYTES))
        while count := (yield from frame.readinto(buffer)):
            pending.take(buffer[:count], number)
            yield from pending.wait_room(number)
        is_whole = True
        pending.succeed(number)
    except TunnelError as error:
        # A reset may come from any hop; any other error of the stream is that of its link.
        is_links = is_same_error(error, stream.error) and not isinstance(error, StreamReset)
        pending.fail(error, lost=stream.peer_id if is_links else None)
        raise
    finally:
        if not is_whole:
            # Cancelled, for example by the idle watch. A block is used once, so no further reply can come.
            pending.fail(PeerError("the reply was abandoned before its end", ErrorCode.TIMEOUT))
    if receipts is not None:
        yield from receipts.finish()
    if reporter is not None:
        yield from reporter.succeed()


def _usable_block(node_id: bytes, head: MessageHead) -> tuple[ReplyBlock, ...]:
    """The first usable reply block, or none.

    The other end does not know this node and may have chosen it as the first hop of a block, which this node
    cannot use.
    """
    return tuple(block for block in head.reply_blocks if block.first_id != node_id)[:1]
