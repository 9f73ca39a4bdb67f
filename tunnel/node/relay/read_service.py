"""One service per stream that a neighbour opens: reads the header, then relays the frame or serves it here.

Example: `read_service` opens the header and finds the command RELAY. It calls `relay_frame`, which opens a
stream to the next node, sends the next header, and relays both halves and the status; `relay`, the chunk
loop, moves the content of one half. The specification's services are `read_service` (read and global),
`relay_frame` (write), and `local_service` in tunnel/node/answer (local).

Rules:

* `read_service` owns the incoming stream: only it resets that stream and reports this node's failures on it.
* `relay_frame` owns the outgoing stream and reports failures of the next node: only it knows on which side of
  this node a stream broke.
* Thousands of frames may be relayed and silent for hours, so no header stays in memory after its use: keep
  none in a variable across a wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol

from reactor import CurrentTime, ReadYield, Service, Signal, Sleep, UnexpectedEnd, WriteYield
from reactor.core.requests import Request
from readwrite_comp.errors import renewed
from tunnel.codes import short
from tunnel.errors import (
    ErrorCode,
    FrameTruncated,
    LocalTunnelError,
    MalformedMessage,
    NextRefused,
    PeerError,
    ProfileError,
    StreamReset,
)
from tunnel.node.answer.local_service import local_service
from tunnel.node.context import NodeContext, Stream, report_frame
from tunnel.node.relay.status_reporter import Reporter, fault_here, wait_status
from tunnel.node.waits import Counted, idle_watch, run_with_guards, with_timeout
from tunnel.onion.header import Command, Opened, Slot

__all__ = ["Duplex", "read_service", "relay", "relay_frame"]

log = logging.getLogger("tunnel.node")

# Lost links and failed services were logged where it happened; a reply may come after its user has given up.
_EXPECTED: Final = (ErrorCode.DISCONNECTED, ErrorCode.SERVICE_FAILED, ErrorCode.UNKNOWN_QUERY)
# No honest neighbour sends these, or hardly ever.
_GARBAGE: Final = (ErrorCode.BAD_HEADER, ErrorCode.EXPIRED, ErrorCode.REPLAYED)


def read_service(node: NodeContext, stream: Stream) -> Service[None]:
    """Serve one stream until it ends. The peer's errors end it and are logged here."""
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
        raise  # a bug in this node: the scope logs it
    finally:
        stream.reset(code)  # no effect after an orderly end


def _log(node: NodeContext, stream: Stream, error: PeerError) -> None:
    # Addresses and ids of neighbours are logged at DEBUG only; refusals and their reasons above it.
    is_expected = isinstance(error, StreamReset) or error.code in _EXPECTED
    level = logging.INFO if is_expected else logging.WARNING
    node.log_limit.log(level, "ended a frame", f"{type(error).__name__}: {error}")
    log.debug("node %s: that frame came from %s", node.name, short(stream.peer_id))


def _serve(node: NodeContext, stream: Stream) -> Service[None]:
    try:
        opened = node.codec.open_frame(
            # In no variable: see the rules above.
            (yield from _read_header(node, stream)),
            stream.profile,
            neighbour=stream.peer_id,
            payer=node.links.payer(stream.peer_id),
            now_s=node.wall_clock(),
        )
    except PeerError as error:
        node.counters.refused_header(error.code)
        if error.code in _GARBAGE:
            node.links.charge(stream.peer_id)
        raise
    # From here on this node has keys of the frame and can report failures to Alice.
    reporter = Reporter(node, stream, opened.slot)
    try:
        if opened.slot.command is Command.RELAY:
            node.counters.frames_relayed += 1
            relaying = relay_frame(node, stream, opened, reporter)
            del opened  # it holds the next header, which `relay_frame` drops once it is sent
            yield from relaying
        else:
            yield from local_service(node, stream, opened.slot, reporter)
    except Exception as error:
        node.counters.frames_failed += 1
        yield from reporter.fail(error if isinstance(error, PeerError) else fault_here())
        raise


def _read_header(node: NodeContext, stream: Stream) -> Service[bytes]:
    if not node.descriptor.offers(stream.profile):
        raise ProfileError(
            f"peer opens a frame of profile {stream.profile.name!r}, which this node does not offer"
        )
    header = bytearray(stream.profile.geometry.header_bytes)
    is_late = stream.unread_bytes < len(header)
    read = ReadYield(stream).read_exactly(memoryview(header))
    try:
        yield from with_timeout(node.limits.header_s, read, "no whole header after OPEN")
    except UnexpectedEnd as error:
        raise FrameTruncated("FIN inside the onion header") from error
    # The link has waited for a turn at OPEN. Headers that were held back could otherwise come all at once.
    if is_late:
        turn = node.links.take_turn(stream.peer_id)
        yield from with_timeout(node.limits.header_s, turn, "no turn for a header that came late")
    return bytes(header)


def relay_frame(node: NodeContext, incoming: Stream, opened: Opened, reporter: Reporter) -> Service[None]:
    """Forward one frame to the next node, and relay both halves and the status until both have ended.

    Args:
        incoming: from the neighbour, its header read; the caller ends it.
        opened: this node's part of the header.

    Raises:
        PeerError (UNKNOWN_NEXT): the next node is neither linked nor in the directory.
        NextRefused: it cannot be reached.
        PeerError: either stream broke, was reset, or was idle for too long.
    """
    started_s: float = yield CurrentTime()
    slot, header = opened.slot, opened.next_header
    if opened.delay_s:
        yield Sleep(opened.delay_s)
    del opened
    try:
        outgoing = yield from node.links.open_stream(slot.next_id, incoming.profile)
    except NextRefused as error:
        yield from reporter.fail(error, next_id=slot.next_id)
        raise
    code = ErrorCode.CANCELLED
    try:
        send = WriteYield(outgoing).write_all(header)
        yield from with_timeout(node.limits.idle_s, send, "the next node did not take the header")
        del header, send
        yield from _relay_both(node, incoming, outgoing, slot, reporter, started_s)
    except PeerError as error:
        code = error.code
        yield from _report_behind(reporter, outgoing, slot.next_id, error)
        raise
    finally:
        outgoing.reset(code)  # no effect after an orderly end


def _report_behind(reporter: Reporter, outgoing: Stream, next_id: bytes, error: PeerError) -> Service[None]:
    """Report a failure after this node: the next node's status or, without one, the failure of its stream.

    The read service reports this node's own failures, even if the next node has reported success.
    """
    if outgoing.error is None and not isinstance(error, MalformedMessage):
        return
    try:
        if outgoing.status is not None:
            yield from reporter.pass_on(outgoing.status)
            return
    except MalformedMessage as malformed:
        error = malformed
    yield from reporter.fail(error, next_id=next_id)


def _relay_both(
    node: NodeContext,
    incoming: Stream,
    outgoing: Stream,
    slot: Slot,
    reporter: Reporter,
    started_s: float,
) -> Service[None]:
    """Relay both halves in parallel until both have ended; the first error ends both."""
    towards_bob, towards_alice = node.codec.relay_layers(slot, incoming.profile)
    chunk_bytes = incoming.profile.geometry.chunk_bytes
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
        yield from reporter.pass_on((yield from wait_status(outgoing)))
        backward_ended.set()

    def watch_failures() -> Service[None]:
        """End the frame when either neighbour aborts it, even while both relays wait for the other neighbour.

        Content that arrived in full before a link broke is still forwarded. A sender may reset after its FIN.
        """
        while True:
            if incoming.error is not None and (has_sent_all or incoming.is_cut):
                raise renewed(incoming.error)
            if outgoing.error is not None and outgoing.is_cut:
                raise renewed(outgoing.error)
            yield failed

    count = node.counters.tally(
        relayed_bytes_forward=lambda: incoming.content_in, relayed_bytes_backward=lambda: outgoing.content_in
    )
    watches = watch_failures(), idle_watch([incoming, outgoing], node.limits.idle_s, count)
    try:
        yield from run_with_guards(relay_forward(), relay_backward(), *watches)
    finally:
        count()


# The chunk loop: the hot path. A chunk takes one of two ways.
#
# The short way: a whole chunk arrives in one record, as our nodes send them, and the next link has room. Then
# the link that receives it passes it on in the same step: permuted in the receive buffer, sealed into the
# send buffer, with no queue, copy or wake between. The ordinary way, for all other chunks, leads through the
# stream's queue and this service, which waits for room or for the rest of the chunk.
#
# Sealed records leave when the link's writer runs, so the chunks of one `recv` leave in one `send`.


class Duplex(Counted, Protocol):
    """A stream as a relay uses it."""

    pass_on: Callable[[memoryview], bool] | None

    @property
    def readable(self) -> Request: ...
    @property
    def writable(self) -> Request: ...
    def take_piece(self, size: int, /) -> bytearray | None: ...
    def readinto(self, buffer: memoryview, /) -> int: ...
    def takes(self, count: int, /) -> bool: ...
    def write(self, data: bytes | bytearray | memoryview, /) -> int: ...


def relay(
    source: Duplex, sink: Duplex, permute: Callable[[memoryview, int], None], chunk_bytes: int
) -> Generator[Any, Any, int]:
    """Move the chunks of one direction of a frame from `source` to `sink`, until its FIN.

    Args:
        permute: this hop's layer: (chunk in place, chunk number from 0).
    Returns:
        The number of chunks.
    Raises:
        FrameTruncated: FIN inside a chunk. Errors of the two streams.
    """
    reader, writer = ReadYield(source), WriteYield(sink)
    number = 0
    is_waiting = False  # for the first byte of a chunk, with all earlier chunks written
    failure: Exception | None = None

    def pass_on(chunk: memoryview) -> bool:
        nonlocal number, failure
        if not is_waiting or len(chunk) != chunk_bytes or not sink.takes(chunk_bytes):
            return False
        try:
            permute(chunk, number)
            sink.write(chunk)
        except Exception as error:  # noqa: BLE001 - it ends this frame, not the link that has called
            failure = error
            return False  # the chunk is queued, which wakes this service
        number += 1
        return True

    source.pass_on = pass_on
    try:
        while True:
            try:
                chunk = _begin_chunk(source, chunk_bytes)
            except BlockingIOError:
                is_waiting = True
                yield source.readable
                is_waiting = False
                if failure is not None:
                    raise failure from None
                continue
            if chunk is None:
                return number
            if len(chunk) < chunk_bytes:
                chunk = yield from _complete(reader, chunk, chunk_bytes, number)
            permute(memoryview(chunk), number)
            number += 1
            yield from writer.write_all(chunk)
            del chunk  # a quiet frame holds no chunk
    finally:
        source.pass_on = None


def _begin_chunk(source: Duplex, chunk_bytes: int) -> bytearray | None:
    """Take the next chunk, or the first byte of a chunk that is not in one piece. None: FIN came instead.

    Raises:
        BlockingIOError: nothing has arrived. Errors of the stream.
    """
    chunk = source.take_piece(chunk_bytes)
    if chunk is not None:
        return chunk
    first = bytearray(1)
    return first if source.readinto(memoryview(first)) else None


def _complete(
    reader: ReadYield, begun: bytearray, chunk_bytes: int, number: int
) -> Generator[Any, Any, bytearray]:
    """Assemble a chunk that did not arrive in one piece."""
    chunk = begun + bytes(chunk_bytes - len(begun))
    view, have = memoryview(chunk), len(begun)
    while have < chunk_bytes:
        count = yield from reader.readinto(view[have:])
        if not count:
            raise FrameTruncated(f"FIN after {have} of {chunk_bytes} bytes of chunk {number}")
        have += count
    return chunk
