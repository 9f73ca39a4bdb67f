"""Established tunnels over the streams of a node: the user's view, and the services that move the chunks.

The state machine decides about bytes (tunnel/established); here chunks go between it and a link stream, with
the proxies' layers put on and taken off at Alice's end, and its users wait as services. One service sends,
one receives, one keeps the tunnel alive; whichever fails ends the tunnel with what it knows.
"""

from __future__ import annotations

from collections.abc import Callable

from reactor import YIELD, ReadYield, Scope, Service, Signal, Sleep, WriteYield, in_scope, needs_yield_from
from readwrite_comp.helpers import byte_view
from tunnel.arguments import checked_count
from tunnel.errors import ErrorCode, FrameTruncated, LocalTunnelError, PeerError, TunnelStopped
from tunnel.established import EstablishedTunnel, Target
from tunnel.node.context import NodeContext, Stream
from tunnel.node.tunnels.sub_streams import TunnelStream
from tunnel.node.waits import Turn, idle_watch, run_with_guards

__all__ = ["MESSAGE_BYTES", "NodeTunnel", "pump"]

MESSAGE_BYTES = 1 << 20
"""Default limit of a message that is received whole."""

Layers = Callable[[memoryview, int], None]
"""Transforms each chunk in place: (chunk, its number from 0)."""


class NodeTunnel:
    """An established tunnel: messages each way, each of any length, and sub-streams. For services.

    Any number of services may use it at once. `send`, `receive` and `ask` each move a whole message, in the
    order in which they were called, and an `ask` gets the answer to its own message. A message in pieces
    (`write`, `end_message`; `next_message`, `read`) is for one service at a time. Every method but `give_up`
    is a service: `data = yield from tunnel.read()`.

    Attributes:
        has_ended: both directions have ended. failure: what ended the tunnel early.

    Raises, from each method: PeerError: the tunnel has ended early. LocalTunnelError: a call out of order.
    """

    def __init__(self, core: EstablishedTunnel[Signal]) -> None:
        self._core = core
        self._reader = ReadYield(core.incoming)
        self._writer = WriteYield(core.outgoing)
        self._is_reading = False  # within a message, its end not seen
        self._received: bytearray | None = None  # of a message that `receive` started to read
        self._begun = bytearray()  # the same, handed over to `read`
        self._is_in_pieces = False  # `write` has begun a message and not ended it
        self._is_skipping = False  # within the answer to an `ask` that was cancelled
        self._sending, self._receiving, self._opening = Turn(), Turn(), Turn()
        self._waiting_for_end: list[Signal] = []
        self.has_ended = False
        self.failure: PeerError | None = None

    @property
    def has_failed(self) -> bool:
        """It has ended early, for whatever reason; `failure` follows when all is known."""
        return self._core.failure is not None

    @property
    def given_up_by(self) -> str | None:
        """Which of its ends gave it up, if one did: "the other end" or "this node"."""
        if not self._core.is_given_up:
            return None
        return "the other end" if self._core.other_end_gave_up else "this node"

    @property
    def other_end_has_closed(self) -> bool:
        """It sends no more messages, and as a rule reads none either: its service has left."""
        return self._core.incoming.has_ended

    # -- messages ------------------------------------------------------------------------------------

    @needs_yield_from
    def send(self, message: bytes) -> Service[None]:
        """Send one whole message.

        Raises:
            LocalTunnelError: a message that `write` began is not ended.
        Cancellation: nothing was sent; or, in the middle of the message, the tunnel is given up, since nobody
            could end that message.
        """
        view = byte_view(message, "message")
        place = self._sending.enter()
        try:
            yield from self._sending.wait(place)
            yield from self._send(view)
        finally:
            self._sending.leave(place)

    @needs_yield_from
    def write(self, data: bytes) -> Service[None]:
        """Send a part of a message; it leaves in whole chunks, or with `flush` or `end_message`."""
        view = byte_view(data)
        place = self._sending.enter()
        try:
            yield from self._sending.wait(place)
            if len(view):
                self._is_in_pieces = True
                yield from self._writer.write_all(view)
        finally:
            self._sending.leave(place)

    @needs_yield_from
    def flush(self) -> Service[None]:
        """Let what was written leave now."""
        self._core.outgoing.flush()
        yield YIELD

    @needs_yield_from
    def end_message(self) -> Service[None]:
        """End the message; the next `write` begins another."""
        place = self._sending.enter()
        try:
            yield from self._sending.wait(place)
            yield from self._end()
            self._is_in_pieces = False
            yield YIELD
        finally:
            self._sending.leave(place)

    @needs_yield_from
    def next_message(self) -> Service[bool]:
        """Wait for the next message. False: the other end sends no more."""
        place = self._receiving.enter()
        try:
            yield from self._receiving.wait(place)
            yield from self._finish_skipping()
            has_come = yield from self._next_message()
            self._receiving.gaps -= bool(has_come and self._receiving.gaps)
            return has_come
        finally:
            self._receiving.leave(place)

    @needs_yield_from
    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """Read from the message that `next_message` began; b"" at its end.

        Also from one that `receive` found too long, or in which it was cancelled: nothing of it is missing.
        """
        checked_count(limit_bytes, "limit_bytes", least=1)
        place = self._receiving.enter()
        try:
            yield from self._receiving.wait(place)
            if self._received is not None:
                # A `receive` or `ask` has begun this message, and was cancelled or found it too long.
                self._begun, self._received = self._received, None
                self._receiving.gaps -= bool(self._receiving.gaps)
            if self._begun:
                piece = bytes(self._begun[:limit_bytes])
                del self._begun[:limit_bytes]
                return piece
            return (yield from self._read(limit_bytes))
        finally:
            self._receiving.leave(place)

    @needs_yield_from
    def receive(self, limit_bytes: int = MESSAGE_BYTES) -> Service[bytes | None]:
        """Wait for one whole message. None: the other end sends no more.

        Cancellation: what has come of the message is kept for the next call.

        Raises:
            FrameTruncated: it is longer than the limit; read such messages in pieces.
        """
        checked_count(limit_bytes, "limit_bytes")
        place = self._receiving.enter()
        try:
            yield from self._receiving.wait(place)
            yield from self._finish_skipping()
            message = yield from self._receive(limit_bytes)
            # Also the answer to an `ask` that was cancelled, if that comes first.
            self._receiving.gaps -= bool(self._receiving.gaps)
            return message
        finally:
            self._receiving.leave(place)

    @needs_yield_from
    def ask(self, message: bytes, limit_bytes: int = MESSAGE_BYTES) -> Service[bytes | None]:
        """Send a message and receive its answer, both at once.

        One after the other would wait for ever, were both longer than what the two ends and the windows hold
        and the other end one that answers while it reads. Several asks at once get each their own answer, as
        far as the other end answers in order.

        Cancellation: as for `send`. An answer that is still to come is thrown away by the next `ask`; a
        `receive` before that gets it.
        """
        view = byte_view(message, "message")
        checked_count(limit_bytes, "limit_bytes")
        sending = self._sending.enter()
        receiving: Signal | None = None
        is_sent = is_answered = False

        def send() -> Service[None]:
            nonlocal is_sent
            yield from self._send(view)
            is_sent = True
            self._sending.leave(sending)

        def both(scope: Scope) -> Service[bytes | None]:
            nonlocal is_answered
            yield from scope.spawn(send(), name="tunnel send")
            assert receiving is not None
            yield from self._receiving.wait(receiving)
            yield from self._skip_late()
            answer = yield from self._receive(limit_bytes)
            is_answered = True
            return answer

        try:
            yield from self._sending.wait(sending)
            receiving = self._receiving.enter()
            return (yield from in_scope(both))
        finally:
            self._sending.leave(sending)
            if receiving is not None:
                self._receiving.leave(receiving, leaves_gap=is_sent and not is_answered)

    @needs_yield_from
    def drain(self) -> Service[None]:
        """Read what comes, and throw it away, until the other end sends no more."""
        place = self._receiving.enter()
        try:
            yield from self._receiving.wait(place)
            self._received = None
            self._begun.clear()
            while self._is_reading or (yield from self._next_message()):
                yield from self._read()
        finally:
            self._receiving.leave(place)

    # Of the one whose turn it is.

    def _send(self, view: memoryview) -> Service[None]:
        if self._is_in_pieces:
            raise LocalTunnelError(
                "a message that `write` began is under way: end it first, with `end_message`"
            )
        begun = False
        try:
            while view:
                taken = yield from self._writer.write(view)
                view = view[taken:]
                begun = True
            yield from self._end()
        except BaseException:
            if begun:
                self.give_up()
            raise

    def _end(self) -> Service[None]:
        yield from self._writer.call(lambda _: self._core.outgoing.end())

    def _next_message(self) -> Service[bool]:
        self._is_reading = yield from self._reader.call(lambda _: self._core.incoming.next_message())
        return self._is_reading

    def _read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        buffer = bytearray(limit_bytes)
        count = yield from self._reader.readinto(buffer)
        self._is_reading = count > 0
        return bytes(memoryview(buffer)[:count])

    def _receive(self, limit_bytes: int) -> Service[bytes | None]:
        if self._received is None:
            if not (yield from self._next_message()):
                return None
            self._received = bytearray()
        piece = b""
        while True:
            self._received += piece
            if len(self._received) > limit_bytes:
                raise FrameTruncated(f"a message of more than {limit_bytes} bytes: read it in pieces")
            piece = yield from self._read()
            if not piece:
                break
        message, self._received = bytes(self._received), None
        return message

    def _skip_late(self) -> Service[None]:
        """Throw away the answers to asks that were cancelled."""
        yield from self._finish_skipping()
        while self._receiving.gaps:
            if self._received is None and not (yield from self._next_message()):
                return
            self._received = None
            self._receiving.gaps -= 1
            self._is_skipping = True
            yield from self._finish_skipping()

    def _finish_skipping(self) -> Service[None]:
        while self._is_skipping:
            self._is_skipping = bool((yield from self._read()))

    # -- sub-streams ---------------------------------------------------------------------------------

    @needs_yield_from
    def open(self, target: Target) -> Service[TunnelStream]:
        """Open a sub-stream, and wait until the other end has accepted it.

        Raises:
            SubStreamReset: it refused; the code says why.
        Cancellation: the sub-stream is given up.
        """
        core, stream = self._core, None
        place = self._opening.enter()
        try:
            yield from self._opening.wait(place)
            while stream is None:
                try:
                    stream = TunnelStream(core.open(target))
                except BlockingIOError:
                    yield core.openable
        finally:
            self._opening.leave(place)
        try:
            yield from stream.opened()
        except BaseException:
            stream.give_up()
            raise
        return stream

    @needs_yield_from
    def accept(self) -> Service[TunnelStream]:
        """Wait for a sub-stream of the other end's. For the node, which serves them all: `serve_streams`."""
        while True:
            try:
                return TunnelStream(self._core.accept())
            except BlockingIOError:
                yield self._core.acceptable

    # -- ends ----------------------------------------------------------------------------------------

    @needs_yield_from
    def stop_sending(self) -> Service[None]:
        """Send no more messages, behind one that is under way, and open no more sub-streams; receive goes on.

        Raises:
            LocalTunnelError: a message that `write` began is not ended.
        """
        place = self._sending.enter()
        try:
            yield from self._sending.wait(place)
            self._core.close()
        finally:
            self._sending.leave(place)

    @needs_yield_from
    def close(self) -> Service[None]:
        """End in order: no more messages of this end; waits until the other end has closed too."""
        yield from self.stop_sending()
        yield self.when_ended()

    def when_ended(self) -> Signal:
        """A signal for one service, that is set when both directions are over."""
        signal = Signal()
        if self.has_ended:
            signal.set()
        else:
            self._waiting_for_end.append(signal)
        return signal

    def end(self, failure: PeerError | None = None) -> None:
        """For the node: both directions are over."""
        self.has_ended, self.failure = True, failure
        for signal in self._waiting_for_end:
            signal.set()
        self._waiting_for_end.clear()

    def finish_streams(self) -> None:
        """Close what this end holds of every open sub-stream: what was written is sent, the rest ignored."""
        self._core.finish_streams()

    def give_up_streams(self) -> None:
        """Give up every sub-stream that is open."""
        self._core.give_up_streams()

    def give_up(self, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        """End both directions now; what was not sent is dropped."""
        self._core.give_up(code)


def pump(
    node: NodeContext,
    stream: Stream,
    core: EstablishedTunnel[Signal],
    *,
    first: memoryview | None = None,
    add_layers: Layers | None = None,
    remove_layers: Layers | None = None,
    heard: Callable[[], None] | None = None,
) -> Service[None]:
    """Move a tunnel's chunks until both directions have ended in order.

    Args:
        first: a chunk that has been read from the stream already.
        put_on: Alice's layers for what she sends. take_off: those of the proxies, for what comes.
        heard: called once, when the first chunk has come and is authentic.
    Raises:
        PeerError: the stream broke, or what came is no tunnel of this peer. The tunnel has failed with it.
    """

    received = Signal()

    def send() -> Service[None]:
        yield from _send(node, stream, core, add_layers)
        yield received

    def receive() -> Service[None]:
        yield from _receive(node, stream, core, first, remove_layers, heard)
        received.set()

    node.tunnels.enter(core)
    try:
        silence = idle_watch([_Heard(stream)], node.limits.idle_s)
        yield from run_with_guards(send(), receive(), _keep_alive(node, core), silence)
    except PeerError as error:
        core.fail(error)
        raise
    except BaseException:
        core.fail(TunnelStopped("the tunnel was ended by its own node"))
        raise
    finally:
        node.tunnels.leave(core)


def _send(
    node: NodeContext, stream: Stream, core: EstablishedTunnel[Signal], add_layers: Layers | None
) -> Service[None]:
    writer = WriteYield(stream)
    chunk = memoryview(bytearray(stream.profile.geometry.chunk_bytes))
    number = 0
    while not core.has_ended_sending:
        if not core.next_chunk(chunk, node.now_s()):
            yield core.sendable
            continue
        if add_layers is not None:
            add_layers(chunk, number)
        number += 1
        yield from writer.write_all(chunk)
    stream.finish()


def _receive(
    node: NodeContext,
    stream: Stream,
    core: EstablishedTunnel[Signal],
    first: memoryview | None,
    remove_layers: Layers | None,
    heard: Callable[[], None] | None,
) -> Service[None]:
    reader = ReadYield(stream)
    chunk = memoryview(bytearray(stream.profile.geometry.chunk_bytes)) if first is None else first
    number = 0
    while True:
        if first is None:
            count = yield from reader.readinto(chunk)
            if not count:
                core.received_fin()
                return
            if count < len(chunk):
                yield from reader.read_exactly(chunk[count:])
        first = None
        if remove_layers is not None:
            remove_layers(chunk, number)
        number += 1
        core.received(chunk)
        if heard is not None:
            heard()
            heard = None
        node.tunnels.received(core)


class _Heard:
    """What has come over a stream, for the idle watch. Both ends keep a tunnel alive: one that is not heard
    is gone, however much this end sends into the streams of the hops between.
    """

    content_out = 0

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def content_in(self) -> int:
        return self._stream.content_in


def _keep_alive(node: NodeContext, core: EstablishedTunnel[Signal]) -> Service[None]:
    """A chunk that says nothing, now and then: no hop is to find the tunnel idle."""
    while True:
        yield Sleep(node.limits.idle_s / 3)
        core.pad()
