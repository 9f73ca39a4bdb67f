"""Bob's side of a query: the inner service reads it and writes the answer along the reply path in its head.

The reply path is opened with the first byte of the answer, or at its end. Until Alice has the answer, the
query's own streams stay open to carry failures of the reply path to her, but only for half of the time after
which proxies would close them as idle.

A query may carry several reply blocks, one for each reply. Replies are sent one after the other, each after
the previous one has arrived. Reply blocks that the service leaves unused are answered with empty replies.
"""

from __future__ import annotations

import logging
from functools import partial

from reactor import RunInThread, Service, Sleep, WriteYield, needs_yield_from
from readwrite_comp.errors import is_same_error, renewed
from readwrite_comp.helpers import byte_view
from tunnel.errors import (
    BadRoute,
    ChangedContent,
    ErrorCode,
    LocalTunnelError,
    MalformedMessage,
    PeerError,
    StreamReset,
    TunnelError,
    UnreadableRequest,
)
from tunnel.identity.client_key import Claim
from tunnel.modes import MODES, ReplyMode
from tunnel.node.answer.receipts import BackwardReceipts, Receipts, SentReceipts
from tunnel.node.context import NodeContext, Stream
from tunnel.node.query.frame_io import READ_BYTES, FrameReader, FrameWriter, start_frame
from tunnel.node.query.request import routes_home
from tunnel.node.relay.status_reporter import Reporter, wait_status
from tunnel.node.waits import Counted, drain, idle_watch, run_with_guards, with_timeout
from tunnel.onion.header import Command, Slot
from tunnel.onion.header_builder import OutgoingFrame, OutgoingQuery
from tunnel.onion.key_schedule import query_binding
from tunnel.onion.message_head import MessageHead
from tunnel.onion.reports import fits_status_chunk, read_report, seal_status_chunk
from tunnel.services.base import run_service, running

__all__ = ["IncomingQuery", "answer_service"]

log = logging.getLogger("tunnel.node")

_LOOK_S = 0.5


class IncomingQuery:
    """A received query whose head is read.

    Attributes:
        slot: of this node, from the header.
        frame: reads the content.
        head: the reply mode and the reply path.
        moving: streams of this exchange, for the idle watch; the reply path is added.
    """

    def __init__(self, stream: Stream, slot: Slot, frame: FrameReader, head: MessageHead) -> None:
        self.stream = stream
        self.slot = slot
        self.frame = frame
        self.head = head
        self.moving: list[Counted] = [stream]

    @property
    def mode(self) -> ReplyMode:
        """The reply mode. A frame along a reply block is answered by another block only: its backward half
        ends at its sender, who did not build the layers."""
        mode = self.head.mode
        return ReplyMode.NONE if mode is ReplyMode.CACHED and self.slot.command is Command.HOME else mode


def answer_service(node: NodeContext, query: IncomingQuery, reporter: Reporter) -> Service[None]:
    """Let the inner service answer one query; ends when the answer has been sent.

    Raises:
        PeerError: the frame or the reply path broke, or (SERVICE_FAILED) the inner service raised another
            error, which is logged. UnreadableRequest: the inner service cannot read the query.
    """
    replies = _Replies(node, query)
    code = ErrorCode.CANCELLED
    try:
        yield from run_with_guards(
            _answer(node, query, replies),
            idle_watch(query.moving, node.limits.answer_s),
            _let_go(node, query, reporter),
            _watch_for_reset(query),
        )
        # From here on only this service writes to the query's stream.
        yield from _hand_on(node, query, replies)
    except PeerError as error:
        node.counters.answers_failed += 1
        code = error.code
        try:
            if (yield from _hand_on(node, query, replies)):
                yield from reporter.fail(error)
                yield from _wait_heard(node, query)
            elif replies.has_refused(error):
                yield from reporter.fail(error, next_id=replies.first_id)
        except PeerError as further:
            log.debug("the status of a reply path was not forwarded: %s", further)
        raise
    finally:
        replies.abandon(code)
        node.counters.answer_bytes_in += query.stream.content_in
        node.counters.answer_bytes_out += sum(each.content_out for each in query.moving)
    node.counters.queries_answered += 1
    yield from reporter.succeed()


def _let_go(node: NodeContext, query: IncomingQuery, reporter: Reporter) -> Service[None]:
    """End the backward half when the answer takes long; the query is complete and no longer needs it."""
    if not MODES[query.mode].backward_content:
        yield query.frame.ended
        yield Sleep(node.limits.idle_s / 2)
        yield from reporter.succeed()


def _watch_for_reset(query: IncomingQuery) -> Service[None]:
    """Fail when Alice aborts the query, however long its answer takes.

    This polls, because nothing waits on the stream while the service does not read.
    """
    while query.stream.error is None:
        yield Sleep(_LOOK_S)
    raise renewed(query.stream.error)


def _answer(node: NodeContext, query: IncomingQuery, replies: _Replies) -> Service[None]:
    try:
        yield from run_service(node.service.handle, _Query(node, query), replies)
    except MalformedMessage as error:
        if isinstance(error, ChangedContent):
            raise
        raise UnreadableRequest(str(error)) from error
    except PeerError:
        raise
    except Exception as error:
        text = f"inner service {(yield from running())} failed"
        node.log_limit.failure("failed in an inner service", error, text)
        yield from _announce_failure(replies)
        raise PeerError(f"inner service failed: {type(error).__name__}", ErrorCode.SERVICE_FAILED) from error
    # The reply ends first: the user may wait for that before ending the query.
    yield from replies.end()
    limit_s = node.limits.answer_s
    yield from with_timeout(limit_s, query.frame.drain(), "the query did not end after its answer")
    yield from replies.finish()


def _hand_on(node: NodeContext, query: IncomingQuery, replies: _Replies) -> Service[bool]:
    """Forward the status of the last reply path to Alice, over the query's own streams.

    Only she can read it, so success and failure look alike here and both are forwarded.
    Returns whether a status was forwarded.
    """
    stream, status = query.stream, replies.status
    if status is None or query.slot.command is not Command.DEST or not stream.can_write:
        return False
    geometry = stream.profile.geometry
    if not fits_status_chunk(geometry, query.head.reply_blocks[0].profile.geometry):
        return False
    chunk = seal_status_chunk(status, query.slot.seed, geometry, node.engine, number=replies.number)
    write = WriteYield(stream).write_all(chunk)
    yield from with_timeout(node.limits.idle_s, write, "the link did not take the status of the reply path")
    return True


def _wait_heard(node: NodeContext, query: IncomingQuery) -> Service[None]:
    """Wait for Alice to end the failed query. A reset from here would overtake, at each proxy, the chunk with
    the reason.
    """
    yield from with_timeout(node.limits.linger_s, drain(query.stream), "a failed query was not ended")


def _announce_failure(reply: _Replies) -> Service[None]:
    """Open the reply path, so that a stream can carry the reset; a failure to open it is ignored."""
    try:
        yield from reply.open()
    except PeerError as error:
        log.debug("the reply path of a failed query was not opened: %s", error)


class _Query:
    """`tunnel.services.Query` over a frame reader."""

    def __init__(self, node: NodeContext, query: IncomingQuery) -> None:
        self._frame = query.frame
        self._slot = query.slot
        self._own_id = node.descriptor.node_id
        self._buffer = memoryview(bytearray(READ_BYTES))

    @property
    def claim(self) -> Claim:
        # The sender of a message along a reply block does not know the seed in the block's HOME slot.
        is_bound = self._slot.command is Command.DEST
        return Claim(query_binding(self._slot.seed, self._own_id)) if is_bound else Claim()

    @needs_yield_from
    def read(self) -> Service[bytes]:
        count = yield from self._frame.readinto(self._buffer)
        return bytes(self._buffer[:count])


class _Replies:
    """`tunnel.services.Reply` along the query's reply paths, one after the other.

    Attributes:
        number: of the current reply and its reply block, from 0.
        first_id: the node to which the current reply goes first; None before it is opened.
    """

    def __init__(self, node: NodeContext, query: IncomingQuery) -> None:
        self._node = node
        self._query = query
        self._row = MODES[query.mode]
        self.number = 0
        self.first_id: bytes | None = None
        self._writer: FrameWriter | None = None
        self._has_ended = False  # the end of the current reply is written
        profiles = [block.profile for block in query.head.reply_blocks]
        if self._row.backward_content:
            profiles = [query.stream.profile]
        # Mode known-dest needs none: this node draws the route, and the asker has signed that it asked.
        self._receipts = Receipts([each.geometry for each in profiles], query.stream) if profiles else None
        self._sent_receipts = SentReceipts(node.receipts)
        self._own: OutgoingQuery | None = None  # known-dest: the answer is a query of this node's
        # The reason why the reply path is not open; raised again at each further write.
        self._failure: PeerError | None = None

    @property
    def is_possible(self) -> bool:
        return self._row.has_reply

    @property
    def status(self) -> bytes | None:
        """The status of the reply path."""
        return self._writer.stream.status if self._writer is not None and self._row.reply_blocks else None

    def open(self) -> Service[None]:
        """Open the reply path, before anything is written."""
        if self.is_possible:
            yield from self._start()

    @needs_yield_from
    def write(self, data: bytes) -> Service[None]:
        view = byte_view(data)  # also where it is dropped: a mistake shows in every mode
        if self._has_ended:
            raise LocalTunnelError("write after the end of the reply")
        if self.is_possible:
            while view:
                writer = yield from self._start()
                room = len(view) if self._receipts is None else (yield from self._receipts.room())
                yield from writer.write(view[:room])
                view = view[room:]

    @needs_yield_from
    def flush(self) -> Service[None]:
        has_begun = self._writer is not None or self._failure is not None
        if self.is_possible and has_begun and not self._has_ended:
            writer = yield from self._start()
            if self._receipts is not None:
                yield from self._receipts.room()
            yield from writer.flush()

    @needs_yield_from
    def end(self) -> Service[None]:
        if self._has_ended:
            return
        self._has_ended = True
        if self.is_possible:
            writer = yield from self._start()
            if self._receipts is not None and self.remaining:
                yield from self._receipts.before_end()
            yield from writer.finish()
            if not self._row.backward_content:
                writer.stream.finish()

    @property
    def remaining(self) -> int:
        return max(0, len(self._query.head.reply_blocks) - 1 - self.number)

    @needs_yield_from
    def next(self) -> Service[None]:
        if not self.remaining:
            raise LocalTunnelError(f"reply {self.number + 1} is the last one that the query allows")
        yield from self._finish_one()
        self.number += 1
        self.first_id = None
        self._writer = None
        self._has_ended = False

    def finish(self) -> Service[None]:
        """End the answer and wait until Alice has it. Raises PeerError: a hop of the reply path failed."""
        while self.remaining:
            yield from self.next()
        if self.is_possible:
            yield from self._finish_one()

    def _finish_one(self) -> Service[None]:
        yield from self.end()
        writer = yield from self._start()
        if self._receipts is not None:
            yield from self._receipts.finish()
        if not self._row.backward_content:
            status = yield from wait_status(writer.stream)
            # A reply block's status is opaque here: it is forwarded to Alice, who built the path.
            if self._own is not None:
                report = read_report(self._own, status, self._node.engine)
                if report is not None and not report.succeeded:
                    self._failure = _reply_failure(StreamReset(report.code or ErrorCode.INTERNAL))
                    raise renewed(self._failure)

    def has_refused(self, error: PeerError) -> bool:
        """Whether `error` is the first node of a reply block: refused, unreachable, or its link broke.

        It sends no status, because it has accepted no header.
        """
        if self.first_id is None or not self._row.reply_blocks or self.status is not None:
            return False
        stream_error = None if self._writer is None else self._writer.stream.error
        return is_same_error(error, self._failure) or is_same_error(error, stream_error)

    def abandon(self, code: ErrorCode) -> None:
        """Reset a reply path that has its own stream, with `code`; no effect after an orderly end."""
        self._sent_receipts.drop()
        if self._writer is not None and not self._row.backward_content:
            self._writer.stream.reset(code)

    def _start(self) -> Service[FrameWriter]:
        """The writer of the reply path, which the first call opens."""
        if self._failure is not None:
            raise renewed(self._failure)
        if self._writer is None:
            try:
                self._writer = yield from self._open()
            except TunnelError as error:
                self._failure = _reply_failure(error)
                # No cause: it names the neighbour's address, and a service that wraps this error is logged
                # with its traceback. The dialler has logged the address at DEBUG.
                raise renewed(self._failure) from None
        return self._writer

    def _open(self) -> Service[FrameWriter]:
        node, query = self._node, self._query
        if self._row.backward_content:
            layer = node.codec.cached_reply(query.slot, query.stream.profile)
            yield from WriteYield(query.stream).call(layer.write_header)
            writer = FrameWriter(node, query.stream, layer)
            assert self._receipts is not None
            self._receipts.begin(writer, self._sent_receipts)
            return writer
        frame = yield from self._frame()
        self.first_id = frame.first_id
        writer = yield from start_frame(node, frame, is_own=False)
        query.moving.append(writer.stream)
        if self._receipts is not None:
            reader = node.codec.receipts_reader(query.head.reply_blocks[self.number])
            self._receipts.begin(writer, BackwardReceipts(FrameReader(writer.stream, reader)))
        return writer

    def _frame(self) -> Service[OutgoingFrame]:
        """The frame that carries the answer. Routes chosen by this node are built in a thread."""
        node, query, now_s = self._node, self._query, self._node.wall_clock()
        if query.mode is ReplyMode.ROUTE:
            return node.codec.reply(query.head.reply_blocks[self.number], now_s=now_s)
        if query.mode is ReplyMode.KNOWN_DEST:
            origin = node.codec.origin(query.slot, query.head)
            route = node.routes.route(
                origin.descriptor.node_id, node.limits.answer_hops, query.stream.profile
            )
            own: OutgoingQuery = yield RunInThread(
                partial(node.codec.answer, origin, route, query.stream.profile, now_s=now_s)
            )
            self._own = own
            return own.frame
        block = query.head.reply_blocks[self.number]
        reply_routes = routes_home(node, block.profile)
        frame: OutgoingFrame = yield RunInThread(
            partial(node.codec.reply, block, now_s=now_s, reply_routes=reply_routes)
        )
        assert frame.query_id is not None
        node.invite(frame.query_id)
        return frame


def _reply_failure(reason: TunnelError) -> PeerError:
    """The error of an answer that could not be sent, or not completely; it has the code of the reason."""
    code = getattr(reason, "code", ErrorCode.INTERNAL)
    if isinstance(reason, BadRoute) and reason.hops is not None:
        return PeerError(
            f"the reply path needs {reason.hops} proxies, and this node has {reason.available} for it", code
        )
    return PeerError(f"the reply path failed: {code.name}", code)
