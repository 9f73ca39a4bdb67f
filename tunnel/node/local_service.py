"""The local service: frames that end at this node. One per message.

DEST: the inner service reads the query and writes the reply. HOME: a reply of one of this node's own queries
is read into its sink. DROP: consumed. The stream is lent by the read service, which ends it.
"""

from __future__ import annotations

import logging

from reactor import ReadYield, Service, Sleep
from tunnel.errors import ErrorCode, IdleTimeout, PeerError, ServiceFailed, TunnelError, UnknownQuery
from tunnel.node.context import NodeContext, Stream
from tunnel.node.frame_io import FrameReader, FrameWriter
from tunnel.node.relay import Counted, guarded, idle_watch
from tunnel.node.statuses import end_backward
from tunnel.onion.header import Slot
from tunnel.onion.message import MessageR
from tunnel.onion.reply_block import ReplyBlock

__all__ = ["drop_service", "home_service", "local_service"]

log = logging.getLogger("tunnel.node")

READ_BYTES = 16 * 1024


class _Query:
    """`tunnel.services.Query` over a frame reader."""

    def __init__(self, frame: FrameReader) -> None:
        self._frame = frame
        self._buffer = memoryview(bytearray(READ_BYTES))

    def read(self) -> Service[bytes]:
        count = yield from self._frame.readinto(self._buffer)
        return bytes(self._buffer[:count])


class _Reply:
    """`tunnel.services.Reply` along a reply block; the way back is opened with the first byte or at the end.

    Args:
        moving: gets the stream of the way back, for the idle watch.
    """

    def __init__(self, node: NodeContext, block: ReplyBlock | None, moving: list[Counted]) -> None:
        self._node = node
        self._block = block
        self._moving = moving
        self._writer: FrameWriter | None = None
        # Why there is no way back; a service that goes on writing all the same is told again.
        self._failure: PeerError | None = None

    @property
    def is_possible(self) -> bool:
        return self._block is not None

    def write(self, data: bytes) -> Service[None]:
        if self._block is not None:
            writer = yield from self._start(self._block)
            yield from writer.write(data)
            yield from writer.send()

    def flush(self) -> Service[None]:
        if self._block is not None and (self._writer is not None or self._failure is not None):
            writer = yield from self._start(self._block)
            yield from writer.flush()

    def finish(self) -> Service[None]:
        """End the answer and wait until Alice has it. Raises StreamReset when a hop on the way failed."""
        if self._block is not None:
            writer = yield from self._start(self._block)
            yield from writer.finish()
            yield from writer.wait_taken()

    def end(self, code: ErrorCode) -> None:
        """End the way back with a reset that carries `code`; nothing happens if it has ended in order."""
        if self._writer is not None:
            self._writer.reset(code)

    def _start(self, block: ReplyBlock) -> Service[FrameWriter]:
        """The way back: opened by the first call, the same one from then on."""
        if self._failure is not None:
            raise self._failure
        if self._writer is None:
            try:
                frame = self._node.tunnel.reply(block, now_s=self._node.wall_clock())
                self._writer = FrameWriter(self._node, frame)
                self._moving.append((yield from self._writer.start()))
            except PeerError as error:
                self._failure = error
                # The cause names the neighbour's address, and a service that wraps this is logged with
                # its traceback. `dial` has told it to the DEBUG log.
                raise error from None
        return self._writer


def local_service(node: NodeContext, stream: Stream, slot: Slot) -> Service[None]:
    """Read one query, let the inner service answer it.

    The backward half of the query stays open until Alice has the answer, so that she is told there of what
    fails on the way back; but only for half of the time after which proxies would find it idle.

    Raises:
        PeerError: the frame or the way back broke. ServiceFailed: the inner service raised something else;
            logged.
    """
    moving: list[Counted] = [stream]
    layer = node.tunnel.destination_reader(slot, stream.profile)
    frame = FrameReader(stream, layer)
    yield from guarded(
        _answer(node, stream, frame, layer, moving),
        idle_watch(moving, node.limits.answer_s),
        _let_go(stream, frame, node.limits.idle_s / 2),
    )


def _let_go(stream: Stream, frame: FrameReader, patience_s: float) -> Service[None]:
    """End the backward half when the answer takes long: the query is here, its streams are of no more use."""
    yield frame.ended
    yield Sleep(patience_s)
    yield from end_backward(stream)


def _answer(
    node: NodeContext, stream: Stream, frame: FrameReader, layer: MessageR, moving: list[Counted]
) -> Service[None]:
    yield from frame.start()
    reply = _Reply(node, layer.reply_blocks[0] if layer.reply_blocks else None, moving)
    code = ErrorCode.CANCELLED
    try:
        try:
            yield from node.service.handle(_Query(frame), reply)
        except PeerError:
            raise
        except (Exception, SystemExit) as error:  # a user's sys.exit() is to end no node
            log.exception("node %s: inner service %s failed", node.name, type(node.service).__name__)
            yield from _announce_failure(reply)
            raise ServiceFailed(f"inner service failed: {type(error).__name__}") from error
        yield from frame.drain()
        yield from reply.finish()
    except PeerError as error:
        code = error.code
        raise
    finally:
        reply.end(code)
    yield from end_backward(stream)


def _announce_failure(reply: _Reply) -> Service[None]:
    """Open the way back, so that the reset has a stream to travel on; its own failure adds nothing."""
    try:
        yield from reply.write(b"")
    except PeerError as error:
        log.debug("way back of a failed query: %s", error)


def home_service(node: NodeContext, stream: Stream, slot: Slot) -> Service[None]:
    """Read a reply to one of this node's queries into its sink, and wake who waits for it.

    Raises:
        HeaderError: the ticket is not ours. UnknownQuery: nobody waits (any more), or the block served
            before.
    """
    ticket = node.tunnel.home_ticket(slot)
    pending = node.pending.get(ticket.query_id)
    if pending is None or not pending.claim():
        raise UnknownQuery("a reply has come for a query that nobody waits for")
    try:
        layer = node.tunnel.home_reader(slot, ticket, stream.profile)
        frame = FrameReader(stream, layer)
        yield from frame.start()
        buffer = memoryview(bytearray(READ_BYTES))
        while count := (yield from frame.readinto(buffer)):
            pending.take(buffer[:count])
        pending.succeed()
    except TunnelError as error:
        pending.fail(error)
        raise
    finally:
        if not pending.has_ended:
            # Cancelled, by the idle watch for one; a block serves once, so nothing more can come.
            pending.fail(IdleTimeout("the reply was given up before its end"))
    yield from end_backward(stream)


def drop_service(stream: Stream) -> Service[None]:
    """Consume cover traffic to its FIN."""
    reader = ReadYield(stream)
    scratch = memoryview(bytearray(stream.profile.geometry.chunk_bytes))
    while (yield from reader.readinto(scratch)):
        pass
    yield from end_backward(stream)
