"""`NodeTunnel` and `TunnelStream`: an established tunnel and its sub-streams, for services.

    tunnel = yield from node.open_tunnel(bob_id)
    answer = yield from tunnel.ask(b"hello")
    yield from tunnel.close()

One class serves both ends. The state machine (tunnel/established) handles the bytes, and pump.py moves
the chunks. The node keeps a `TunnelLife`, not the user's `NodeTunnel`: when the user drops that object,
Python collects it, and the node ends the tunnel with a ResourceWarning. The faces for threads and asyncio are
in `tunnel.client`.

Each reading call has an `undo_` method. A caller outside the reactor can be cancelled at the moment at which
its result arrives; its client then calls `undo_read(place, piece)`, and the next reader gets the piece.
"""

from __future__ import annotations

import functools
from bisect import insort
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, Self, TypeVar

from reactor import YIELD, ReadYield, Scope, Service, Signal, WriteYield, in_scope, needs_yield_from
from readwrite_comp.errors import renewed
from readwrite_comp.helpers import byte_view
from tunnel.arguments import EnteredOnce, checked_count
from tunnel.codes import Report
from tunnel.crypto.primitives import tunnel_engine
from tunnel.errors import ErrorCode, FrameTruncated, LocalTunnelError, PeerError
from tunnel.established import IncomingMessages, SubStream, Target, TargetKind
from tunnel.geometry import Profile
from tunnel.identity.client_key import Claim, ClientKey
from tunnel.node.waits import Turn, UntakenBytes, release_dropped
from tunnel.services.names import checked_name

if TYPE_CHECKING:
    from tunnel.node.tunnels.carrying import Carrier, TunnelLife

__all__ = ["MESSAGE_BYTES", "NodeTunnel", "TunnelStream", "checked_target"]

MESSAGE_BYTES = 1 << 20
"""Default limit of a message that is received whole."""

P = ParamSpec("P")
S = TypeVar("S", bound="_Explaining")
T = TypeVar("T")


class _Explaining(Protocol):
    """A shared object whose failures the carrier of its tunnel can explain."""

    _carrier: Carrier | None


def _call(
    method: Callable[Concatenate[S, P], Service[T]],
) -> Callable[Concatenate[S, P], Service[T]]:
    """Decorate a public call: `needs_yield_from`, and a failure of the tunnel names the place."""

    @needs_yield_from
    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Service[T]:
        service, carrier = method(self, *args, **kwargs), self._carrier
        return service if carrier is None else carrier.explained(service)

    return call


class NodeTunnel(EnteredOnce):
    """An established tunnel: messages each way, each of any length, and sub-streams. For services.

    Several services may use it concurrently. `send`, `receive` and `ask` each move a whole message, in the
    order of the calls, and an `ask` gets the answer to its own message. A message in pieces (`write`,
    `end_message`; `next_message`, `read`) is for one service at a time.

    At Alice's end, leaving a `with` block aborts the tunnel unless it was closed. A tunnel that is dropped
    while open is aborted with a ResourceWarning.

    Args:
        life: the node's part. carrier: Alice's, which explains failures; None for a tunnel that lasts as long
            as the service that uses it.

    Raises, from each method: QueryFailed (PeerError without a carrier): the tunnel has ended early; the text
        names the place, if known, or the reason of the other end. LocalTunnelError: a call out of order.
    """

    def __init__(self, life: TunnelLife, carrier: Carrier | None = None) -> None:
        core = life.core
        self._life = life
        self._carrier = carrier
        self.core = core
        self._inbox = _Inbox(core.incoming)
        self._writer = WriteYield(core.outgoing)
        self._is_in_pieces = False  # `write` has begun a message and not ended it
        self._sending, self._opening = Turn(), Turn()

    @property
    def profile(self) -> Profile:
        """The profile; its chunk length is `profile.geometry.chunk_bytes`."""
        return self._life.profile

    # -- messages ------------------------------------------------------------------------------------

    @_call
    def send(self, message: bytes) -> Service[None]:
        """Send one whole message.

        Raises:
            LocalTunnelError: a message that `write` began is not ended.
        Cancellation: nothing was sent; or, in the middle of the message, the tunnel is given up, since no
            other call could end that message.
        """
        return self._sending.run(self._send(byte_view(message, "message")))

    @_call
    def write(self, data: bytes) -> Service[None]:
        """Send a part of a message. It leaves in whole chunks, at `flush`, or at `end_message`.

        Concurrent calls follow each other, so the bytes of one call stay together; but the parts of two
        messages that are written at the same time become one message.
        """
        return self._sending.run(self._write(byte_view(data)))

    @_call
    def flush(self) -> Service[None]:
        """Send buffered bytes now."""
        self.core.outgoing.flush()
        yield YIELD

    @_call
    def end_message(self) -> Service[None]:
        """End the message; the next `write` begins another."""
        return self._sending.run(self._end_pieces())

    @_call
    def receive(self, limit_bytes: int = MESSAGE_BYTES) -> Service[bytes | None]:
        """Receive one whole message; None: the other end sends no more. Cancellation loses nothing.

        Raises:
            FrameTruncated: the message is longer than the limit; read it in pieces.
        """
        checked_count(limit_bytes, "limit_bytes")
        return self._inbox.turn.run(self._inbox.receive(limit_bytes))

    @_call
    def ask(self, message: bytes, limit_bytes: int = MESSAGE_BYTES) -> Service[bytes | None]:
        """Send a message and receive one at the same time, so no size of either can deadlock the two ends.

        Concurrent asks each get their own answer if the other end answers in order.

        Cancellation: as for `send`. The next `ask` discards an answer that is still to come; a `receive`
            before that gets it.
        """
        view = byte_view(message, "message")
        checked_count(limit_bytes, "limit_bytes")
        inbox = self._inbox
        sending = self._sending.enter()
        receiving: Signal | None = None
        is_sent = is_answered = False
        answer: bytes | None = None
        failure: PeerError | None = None

        def send() -> Service[None]:
            nonlocal is_sent, failure
            try:
                yield from self._send(view)
            except PeerError as error:
                failure = error  # the receiving half has failed with it, and raises it below
                return
            is_sent = True
            self._sending.leave(sending)

        def both(scope: Scope) -> Service[None]:
            nonlocal is_answered, answer
            yield from scope.spawn(send(), name="tunnel send")
            assert receiving is not None
            yield from inbox.turn.wait(receiving)
            yield from inbox.skip_late()
            answer = yield from inbox.receive_whole(limit_bytes, is_ask=True)
            is_answered = True

        try:
            yield from self._sending.wait(sending)
            receiving = inbox.turn.enter()
            yield from in_scope(both)
            if failure is not None:
                raise failure
            return answer
        except BaseException:
            # The other end may have sent a message before it received this one.
            inbox.put_back(inbox.number, answer, is_answer=is_sent)
            raise
        finally:
            self._sending.leave(sending)
            if receiving is not None:
                inbox.turn.leave(receiving, leaves_gap=is_sent and not is_answered)

    @_call
    def next_message(self) -> Service[bool]:
        """Wait for the next message. False: the other end sends no more."""
        return self._inbox.turn.run(self._inbox.next_message())

    @_call
    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """Read from the message that `next_message` began; b"" at its end.

        Also from a message that was too long for `receive`, or in which `receive` was cancelled; the message
        is read from its beginning.
        """
        checked_count(limit_bytes, "limit_bytes", least=1)
        return self._inbox.turn.run(self._inbox.read(limit_bytes))

    # -- results that a cancelled caller did not take ------------------------------------------------

    def numbered(self, receiving: Service[T]) -> Service[tuple[int, T]]:
        """Run a receiving call; with its result it returns the number that the `undo_` methods take."""
        result = yield from receiving
        return self._inbox.number, result

    def undo_receive(self, number: int, message: bytes | None) -> None:
        """Give the message to the next call that receives one."""
        self._inbox.put_back(number, message, is_answer=False)

    def undo_ask(self, number: int, answer: bytes | None) -> None:
        """Give the answer to the next `receive`; an `ask` before that discards it."""
        self._inbox.put_back(number, answer, is_answer=True)

    def undo_next_message(self, number: int, has_come: bool) -> None:
        """Let the next call begin the message again."""
        if has_come:
            self._inbox.offer(number)

    def undo_read(self, number: int, piece: bytes) -> None:
        """Give the piece to the next `read`, if that is still of the same message."""
        self._inbox.put_back_piece(number, piece)

    # -- for the call whose turn it is ---------------------------------------------------------------

    def _send(self, view: memoryview) -> Service[None]:
        # A broken tunnel raises its own error below, whatever `write` has begun.
        if self._is_in_pieces and self.core.failure is None:
            raise LocalTunnelError("a message that `write` began is not ended: call `end_message` first")
        begun = False
        try:
            while view:
                taken = yield from self._writer.write(view)
                view = view[taken:]
                begun = True
            yield from self._end_message()
        except BaseException:
            if begun:
                self.core.give_up(ErrorCode.CANCELLED)
            raise

    def _write(self, view: memoryview) -> Service[None]:
        if len(view):
            self._is_in_pieces = True
            yield from self._writer.write_all(view)

    def _end_pieces(self) -> Service[None]:
        yield from self._end_message()
        self._is_in_pieces = False
        yield YIELD

    def _close(self) -> Service[None]:
        self.core.close()
        return
        yield

    def _end_message(self) -> Service[None]:
        yield from self._writer.call(lambda _: self.core.outgoing.end())

    # -- sub-streams ---------------------------------------------------------------------------------

    @_call
    def open(self, target: str | Target, *, client_key: ClientKey | None = None) -> Service[TunnelStream]:
        """Open a sub-stream and wait for the other end to accept it.

        Args:
            target: the name of a service of the other end, or any target.
            client_key: for a published service that lists its clients; it learns which of them this is. No
                effect for another target.
        Raises:
            SubStreamReset: the other end refused, with TARGET_NOT_ALLOWED if its rules forbid the target.
        Cancellation: the sub-stream is given up.
        """
        stream = yield from self._opening.run(self._open(checked_target(target), client_key))
        try:
            yield from stream.opened()
        except BaseException:
            stream.give_up()
            raise
        return stream

    @_call
    def start(self, target: str | Target, *, client_key: ClientKey | None = None) -> Service[TunnelStream]:
        """Open a sub-stream without waiting for the other end: bytes can be written immediately.

        `TunnelStream.opened` waits for its answer. Args: as for `open`.
        """
        return (yield from self._opening.run(self._open(checked_target(target), client_key)))

    @_call
    def answered(self) -> Service[None]:
        """Wait for the first chunk of the other end: the whole route works, and its limits are known."""
        yield from self._opening.run(self._wait_answered())

    def _wait_answered(self) -> Service[None]:
        while True:
            try:
                return self.core.check_answered()
            except BlockingIOError:
                yield self.core.openable

    def _open(self, target: Target, client_key: ClientKey | None) -> Service[TunnelStream]:
        core, proof = self.core, b""
        # An exit checks no proof, and would learn from it which connections have one client.
        if client_key is not None and target.kind is TargetKind.SERVICE:
            yield from self._wait_answered()
            assert core.binding is not None
            proof = client_key.proof(tunnel_engine(), core.binding, target.pack())
        while True:
            try:
                stream = core.open(target, proof)
            except BlockingIOError:
                yield core.openable
            else:
                self._life.counters.sub_streams += 1
                return TunnelStream(stream, self)

    # -- ends ----------------------------------------------------------------------------------------

    @_call
    def stop_sending(self) -> Service[None]:
        """End this end's messages and sub-streams; those of the other end can still be received.

        A message that is being sent is completed first.

        Raises:
            LocalTunnelError: a message that `write` began is not ended.
        """
        yield from self.end_sending()
        if self.core.failure is not None:  # what was sent before may be lost
            raise renewed(self.core.failure)

    @_call
    def close(self) -> Service[Report | None]:
        """Close in order: sent data arrives, incoming data is discarded.

        Returns:
            The report of the route, if this is Alice's end and the report has arrived.
        Cancellation: call `give_up` afterwards.
        """
        if self._carrier is not None:
            return (yield from self._carrier.close(self))
        yield from self.end_sending()
        yield self._life.when_ended()
        return None

    def give_up(self) -> None:
        """Abort the tunnel in both directions. No effect after its end."""
        if self._carrier is None:
            self.core.give_up(ErrorCode.CANCELLED)
        else:
            self._carrier.give_up()

    def leave(self) -> None:
        """Note, in any thread, that `give_up` follows: sub-streams that are dropped until then cause no
        warning."""
        if self._carrier is not None:
            self._carrier.is_left = True

    def __enter__(self) -> Self:
        return self.enter_once("tunnel", "with (yield from node.open_tunnel(...)) as tunnel")

    def __exit__(self, *_: object) -> None:
        self.give_up()

    def __del__(self) -> None:
        carrier = self._carrier
        if carrier is not None and not carrier.is_closing and not carrier.has_ended:
            release_dropped(carrier.post, carrier.give_up, carrier.dropped_text, self)

    # -- for the node --------------------------------------------------------------------------------

    @needs_yield_from
    def drain(self) -> Service[None]:
        """Read and discard messages until the other end sends no more."""
        yield from self._inbox.turn.run(self._inbox.drain())

    def end_sending(self) -> Service[None]:
        """`stop_sending` for the node, with the errors of the state machine."""
        yield from self._sending.run(self._close())

    @property
    def carrier(self) -> Carrier:
        """The service of the node that carries an open tunnel."""
        assert self._carrier is not None
        return self._carrier

    @property
    def has_ended(self) -> bool:
        """Whether the tunnel has ended, cleanly or not."""
        return self._life.has_ended if self._carrier is None else self._carrier.has_ended

    @property
    def is_as_new(self) -> bool:
        """Whether an unused tunnel is as good as a new one: both ends are open."""
        return not self.has_ended and not self._life.other_end_has_closed


class _Inbox:
    """The messages that arrive over a tunnel, for the call whose turn it is.

    A call that is cancelled loses nothing: its message, or what it has read of one, goes to the next call.
    Only the answer to a cancelled `ask` is skipped, by the next `ask`.

    Attributes:
        turn: of the receiving calls. Its gaps are answers still to come to cancelled calls of `ask`.
        number: of the current message.
    """

    def __init__(self, incoming: IncomingMessages[Signal]) -> None:
        self.turn = Turn()
        self.number = 0
        self._incoming = incoming
        self._reader = ReadYield(incoming)
        self._begun = 0  # messages of `incoming` so far
        # The current message: the bytes that precede the rest in `incoming`, whether there is no rest, and
        # whether a cancelled call has left the message to the next call.
        self._head = bytearray()
        self._is_whole = False
        self._is_offered = False
        self._is_skipping = False  # within the answer to an `ask` that was cancelled
        # Messages that cancelled callers did not take, by number; True: the answer to an `ask`.
        self._untaken: list[tuple[int, bytes, bool]] = []

    def _begin_message(self, *, is_ask: bool = False) -> Service[bool]:
        """Begin the next message, or one that a cancelled call has left. False: no further message."""
        return self._reader.call(self._try_begin, is_ask)

    def _try_begin(self, _: object, is_ask: bool) -> bool:
        if self._is_offered:
            self._is_offered = False
            return True
        untaken, incoming = self._untaken, self._incoming
        while is_ask and untaken and untaken[0][2]:
            del untaken[0]  # the answer to an earlier `ask`
        if self._head or (untaken and incoming.is_inside_message):
            raise LocalTunnelError("the previous message has not been read completely")
        if untaken:
            self.number, message, _ = untaken.pop(0)
            self._head += message
            self._is_whole = True
            return True
        self._is_whole = False
        if not incoming.next_message():
            return False
        self._begun += 1
        self.number = self._begun
        return True

    def next_message(self) -> Service[bool]:
        """Begin the next message. False: no more come."""
        if self._is_skipping:
            yield from self._finish_skipping()
        has_come = yield from self._begin_message()
        if has_come:
            self._fill_gap()
        return has_come

    def receive(self, limit_bytes: int) -> Service[bytes | None]:
        """The next message; None: no more come. Raises FrameTruncated: it is longer than the limit."""
        if self._is_skipping:
            yield from self._finish_skipping()
        message = yield from self.receive_whole(limit_bytes)
        self._fill_gap()
        return message

    def receive_whole(self, limit_bytes: int, *, is_ask: bool = False) -> Service[bytes | None]:
        """As `receive`, without a check for the answer to a cancelled `ask`."""
        if not (yield from self._begin_message(is_ask=is_ask)):
            return None
        try:
            while len(self._head) <= limit_bytes:
                piece = b"" if self._is_whole else (yield from self._reader.read())
                if not piece:
                    message = bytes(self._head)
                    self._head.clear()
                    return message
                self._head += piece
            raise FrameTruncated(
                f"a message of more than {limit_bytes} bytes: read it in pieces, or raise limit_bytes"
            )
        except BaseException:
            self._is_offered = True
            raise

    def read(self, limit_bytes: int) -> Service[bytes]:
        """The next bytes of the message; b"" at its end."""
        if self._is_offered:
            self._is_offered = False
            self._fill_gap()
        if self._head or self._is_whole:
            piece = bytes(self._head[:limit_bytes])
            del self._head[:limit_bytes]
            return piece
        return (yield from self._reader.read(limit_bytes))

    def _fill_gap(self) -> None:
        """A message was received that may be the answer to a cancelled `ask`: one less to skip."""
        self.turn.gaps -= bool(self.turn.gaps)

    def skip_late(self) -> Service[None]:
        """Discard the answers to asks that were cancelled."""
        yield from self._finish_skipping()
        while self.turn.gaps:
            if not (yield from self._begin_message(is_ask=True)):
                return
            self._head.clear()
            self.turn.gaps -= 1
            self._is_skipping = not self._is_whole
            yield from self._finish_skipping()

    def _finish_skipping(self) -> Service[None]:
        """Discard the rest of an answer if `skip_late` was cancelled within it."""
        while self._is_skipping:
            self._is_skipping = bool((yield from self._reader.read()))

    def drain(self) -> Service[None]:
        """Discard everything until no more messages come."""
        self._untaken.clear()
        self._head.clear()
        self._is_offered = False
        while self._incoming.is_inside_message or (yield from self._begin_message()):
            yield from self._reader.read()

    def put_back(self, number: int, message: bytes | None, *, is_answer: bool) -> None:
        """Give a whole message to the next call. Args: is_answer: a later `ask` discards it."""
        if message is not None:
            insort(self._untaken, (number, message, is_answer))
            self._incoming.readable.set()

    def put_back_piece(self, number: int, piece: bytes) -> None:
        """Give a piece to the next `read`, if that is still of the same message."""
        if number == self.number:
            self._head[:0] = piece

    def offer(self, number: int) -> None:
        """Let the next call begin the message again, if it is still the current one."""
        if number == self.number:
            self._is_offered = True
            self._incoming.readable.set()


class TunnelStream(EnteredOnce):
    """A sub-stream: bytes in both directions. Concurrent readers take turns, and so do writers.

    At the end of a `with` block it is closed; an error aborts it.

    Args:
        core: the state machine.
        tunnel: kept as long as the stream; None for one that the other end has opened.

    Raises, from `read` and `write`: SubStreamReset: one of the ends aborted it; `code` is the reason.
        QueryFailed (PeerError without a carrier): the tunnel has ended.
    """

    def __init__(self, core: SubStream[Signal], tunnel: NodeTunnel | None = None) -> None:
        self.core = core
        self._tunnel = tunnel
        self._carrier = None if tunnel is None else tunnel._carrier
        self._reader = ReadYield(core)
        self._writer = WriteYield(core)
        self._reading, self._writing = Turn(), Turn()
        self._untaken = UntakenBytes()

    @_call
    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """Read bytes; b"" when the other end has closed its half. Cancellation loses nothing."""
        checked_count(limit_bytes, "limit_bytes", least=1)
        return self._reading.run(self._reader.call(self._take, limit_bytes))

    @_call
    def write(self, data: bytes) -> Service[None]:
        """Send bytes immediately. Cancellation: some, all or none of them are sent."""
        view = byte_view(data)
        if len(view):
            yield from self._writing.run(self._writer.write_all(view))

    @property
    def claim(self) -> Claim:
        """The proof of a client key that came with it, if the other end has opened it."""
        return Claim(self.core.binding, self.core.target.pack(), self.core.proof)

    def close(self) -> None:
        """Close this half after the written bytes; the other half stays open."""
        self.core.close()

    def give_up(self) -> None:
        """Abort both halves. No effect after the end."""
        self.core.give_up(ErrorCode.CANCELLED)

    def leave(self, *, in_order: bool) -> None:
        """Leave a `with` block: stop reading. In order: send the written bytes and close this half."""
        if in_order:
            self.core.close()
        _release(self.core)

    @_call
    def use(self, service: Service[T]) -> Service[T]:
        """Run a service that uses `core`, such as a `Splice`. A failure of the tunnel names the place."""
        return service

    @_call
    def opened(self) -> Service[None]:
        """Wait for the other end to accept the sub-stream. Raises SubStreamReset: it refused."""
        yield from self._writer.call(lambda _: self.core.check_opened())

    def numbered(self, reading: Service[T]) -> Service[tuple[int, T]]:
        """Run a `read`; with its piece it returns the place that `undo_read` takes."""
        return self._untaken.numbered(reading)

    def undo_read(self, place: int, piece: bytes) -> None:
        """Give the piece to the next `read`."""
        self._untaken.put_back(place, piece)
        self.core.readable.set()

    def _take(self, _: object, limit_bytes: int) -> bytes:
        if piece := self._untaken.take(limit_bytes):
            return piece
        return self._untaken.count(self.core.read(limit_bytes))

    def __enter__(self) -> Self:
        return self.enter_once("sub-stream", "with (yield from tunnel.open(...)) as stream")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(in_order=error is None)

    def __del__(self) -> None:
        core, carrier = self.core, self._carrier
        if carrier is None or core.has_ended or carrier.is_closing or carrier.has_ended:
            return
        name = core.target.address.decode("ascii", "replace")
        text = f"a sub-stream to {name!r} was dropped while it was open: close it, or give it up"
        is_expected = core.is_closed or carrier.is_left
        release_dropped(carrier.post, functools.partial(_release, core), None if is_expected else text, self)


def checked_target(target: str | Target) -> Target:
    """The target of a sub-stream, given as such or as the name of a service.

    Raises:
        TypeError: neither. LocalTunnelError: an invalid name.
    """
    if isinstance(target, str) and ":" in target:
        raise LocalTunnelError(
            f"{target!r} is not the name of a service",
            "a host and a port behind an exit are parse_target(...) of tunnel.front.targets",
        )
    if isinstance(target, str):
        return Target(TargetKind.SERVICE, checked_name(target))
    if not isinstance(target, Target):
        raise TypeError(f"target: expected the name of a service or a Target, got {type(target).__name__}")
    return target


def _release(core: SubStream[Signal]) -> None:
    """Release a sub-stream that its user has dropped: send a closed half, give up an open one."""
    if core.is_closed:
        core.finish()
        core.stop(ErrorCode.CANCELLED)
    else:
        core.give_up(ErrorCode.CANCELLED)
