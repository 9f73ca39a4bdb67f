"""The table of a tunnel's streams: it applies received chunks to them, and chooses the next chunk to send.

Stream 0 carries the messages. Alice opens sub-streams 1, 3, 5, …, Bob 2, 4, 6, …. Each id is used once, in
order, as in HTTP/2, so a chunk in transit when a sub-stream ends can never count for another. After 32,767
ids a new tunnel is needed.

A sub-stream counts against the limit until both ends have closed it. Both ends agree on that moment: the end
that opens the next one has received the other's CLOSE, and sends its own CLOSE before its OPEN.

Order of sending: control chunks (OPEN, OPENED, CLOSE with a code), then CREDIT, then data, one chunk for each
ready stream in turn.

Source: docs/protocol.md, "Established tunnels".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic

from tunnel.errors import ErrorCode, LocalTunnelError, MalformedMessage, PeerError, SubStreamReset
from tunnel.established.keys import LEAST_SUB_STREAMS
from tunnel.established.layouts import (
    CREDIT_ENTRY_BYTES,
    StreamEvent,
    StreamState,
    Target,
    next_stream_state,
    pack_close,
    pack_credit,
)
from tunnel.established.streams import (
    Incoming,
    IncomingMessages,
    N,
    Outgoing,
    OwnTunnel,
    StreamHalves,
    SubStream,
)
from tunnel.onion.message import ChunkType

__all__ = ["LAST_ID", "SubStreamTable"]

LAST_ID = 65_535


class SubStreamTable(Generic[N]):
    """All streams of a tunnel, this end's and the other's.

    Args:
        capacity: data bytes of a chunk.
        window: receive window of each stream. least_window: the least that the other end allows.
        sub_streams: most sub-streams that the other end may have open.
        first_id: of this end's sub-streams: 1 or 2.
        tunnel: whose streams they are.
        on_due: called when something becomes due.
    """

    def __init__(
        self,
        capacity: int,
        *,
        window: int,
        least_window: int,
        sub_streams: int,
        first_id: int,
        tunnel: OwnTunnel[N],
        make_notifier: Callable[[], N],
        on_due: Callable[[], None],
    ) -> None:
        self.least_window = least_window
        self._capacity = capacity
        self._window = window
        self._other_window = least_window
        self._other_limit = LEAST_SUB_STREAMS  # sub-streams that the other end allows
        self._limit = sub_streams
        self._tunnel = tunnel
        self._make_notifier = make_notifier
        self._on_due = on_due
        self.next_id = first_id
        self._next_other_id = 3 - first_id
        self._streams: dict[int, StreamHalves[N]] = {}
        self._handles: dict[int, SubStream[N]] = {}
        self._open_counts = [0, 0]  # of even and of odd ids
        self._waiting: dict[int, None] = {}  # opened by the other end, not accepted yet, in order
        self.controls: deque[tuple[ChunkType, int, bytes]] = deque()
        # Queues, in order; dictionaries, so that a stream that ends can be removed.
        self._ready: dict[int, StreamHalves[N]] = {}
        self._credit_due: dict[int, StreamHalves[N]] = {}
        self.refuse_opens = False
        self.acceptable = make_notifier()
        self.openable = make_notifier()
        self.messages_in: IncomingMessages[N] = IncomingMessages(
            window, readable=make_notifier(), changed=lambda: self._schedule_credit(self.messages)
        )
        self.messages = self._stream(0, StreamState.OPEN, eager=False, incoming=self.messages_in)

    @property
    def held_bytes(self) -> int:
        """Bytes that wait to be sent or read."""
        streams = [self.messages, *self._streams.values()]
        return sum(s.incoming.held_bytes + s.outgoing.held_bytes for s in streams)

    @property
    def is_over(self) -> bool:
        """The other end has closed the messages, and no sub-stream is open."""
        return self.messages.state is StreamState.ENDED and not self._streams

    @property
    def waits(self) -> bool:
        """The user may wait for the other end: a sub-stream is open, or a message has arrived in part."""
        return bool(self._streams) or self.messages_in.is_arriving

    def other_end_allows(self, window: int, sub_streams: int) -> None:
        """Apply the limits of the other end's HELLO; until then the least was assumed."""
        more = window - self._other_window
        self._other_window, self._other_limit = window, sub_streams
        for stream in [self.messages, *self._streams.values()]:
            if more:
                stream.outgoing.add_credit(more, window)
        self.openable.set()

    # --- for the user ---------------------------------------------------------------------------------------

    @property
    def own_streams(self) -> int:
        """See `EstablishedTunnel.own_streams`."""
        return self._open_counts[self.next_id % 2]

    @property
    def places(self) -> int:
        """See `EstablishedTunnel.places`."""
        ids = (LAST_ID - self.next_id) // 2 + 1
        return max(0, min(ids, self._other_limit - self.own_streams))

    def open(self, target: Target, proof: bytes) -> SubStream[N]:
        """See `EstablishedTunnel.open`."""
        if self.next_id > LAST_ID:
            raise LocalTunnelError("all sub-stream ids are used: use a new tunnel")
        if self.own_streams >= self._other_limit:
            raise BlockingIOError(f"the other end allows {self._other_limit} open sub-streams")
        stream = self._stream(self.next_id, StreamState.AWAIT_OPENED, eager=True)
        self.next_id += 2
        self._control(ChunkType.OPEN, stream.number, target.pack() + proof)
        return self._add(stream, target, proof, is_confirmed=True)

    def accept(self) -> SubStream[N]:
        """See `EstablishedTunnel.accept`."""
        if not self._waiting:
            raise BlockingIOError("no sub-stream to accept")
        number = next(iter(self._waiting))
        del self._waiting[number]
        return self._handles[number]

    # --- for the tunnel: sending ----------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """A chunk can be filled now."""
        return bool(self.controls or self._credit_due or self._ready)

    def fill(self, out: memoryview) -> tuple[ChunkType, int, int]:
        """Write the next chunk's data. Returns its type, sub-stream and length."""
        if self.controls:
            kind, number, data = self.controls.popleft()
            if kind is ChunkType.CLOSE:
                self._close_is_sent(number)
            out[: len(data)] = data
            return kind, number, len(data)
        if self._credit_due:
            return ChunkType.CREDIT, 0, self._fill_credit(out)
        return self._fill_data(out)

    def queue(self, stream: StreamHalves[N]) -> None:
        """Put a stream at the end of the queue if it has something due."""
        if stream.is_due and stream.number not in self._ready:
            self._ready[stream.number] = stream
            self._on_due()

    def give_up_all(self, code: ErrorCode | None) -> None:
        """Drop everything except one CLOSE on stream 0: with `code`, or to answer the other end's."""
        self.controls.clear()
        self._credit_due.clear()
        self._ready.clear()
        self._waiting.clear()
        if code is not None or not self.messages.close_sent:
            self._control_close(self.messages, code)

    def fail(self, error: PeerError) -> None:
        """Every sub-stream raises `error` from now on. Wakes all waiting callers."""
        for handle in self._handles.values():
            handle.fail(error)
        self._streams.clear()
        self._handles.clear()
        self._ready.clear()
        self._credit_due.clear()
        self._waiting.clear()
        self.acceptable.set()
        self.openable.set()

    def finish_all(self) -> None:
        """See `EstablishedTunnel.finish_streams`."""
        for handle in list(self._handles.values()):
            handle.finish()

    def give_up_streams(self, code: ErrorCode) -> None:
        """See `EstablishedTunnel.give_up_streams`."""
        for handle in list(self._handles.values()):
            handle.give_up(code)

    def _fill_credit(self, out: memoryview) -> int:
        numbers = list(self._credit_due)[: len(out) // CREDIT_ENTRY_BYTES]
        grants = [(number, self._credit_due.pop(number).incoming.take_credit()) for number in numbers]
        data = pack_credit(grants)
        out[: len(data)] = data
        return len(data)

    def _fill_data(self, out: memoryview) -> tuple[ChunkType, int, int]:
        stream = self._ready.pop(next(iter(self._ready)))
        if stream.outgoing.is_due:
            length, is_end = stream.outgoing.take(out)
            self.queue(stream)
            return ChunkType.END if is_end else ChunkType.MSG, stream.number, length
        data = pack_close(None)
        out[: len(data)] = data
        self._close_is_sent(stream.number)
        return ChunkType.CLOSE, stream.number, len(data)

    # --- for the tunnel: receiving --------------------------------------------------------------------------

    def opened_by_other_end(self, number: int, target: Target, proof: bytes) -> None:
        """OPEN. Raises MalformedMessage: not the next id, beyond the limit, or after CLOSE of the tunnel."""
        if number != self._next_other_id:
            raise MalformedMessage(f"OPEN of sub-stream {number}, expected {self._next_other_id}")
        if self.messages.state is not StreamState.OPEN:
            raise MalformedMessage("OPEN after the other end closed the tunnel")
        if self._open_counts[number % 2] >= self._limit:
            raise MalformedMessage(f"OPEN of a sub-stream beyond the limit of {self._limit}")
        self._next_other_id += 2
        if number % 2 == 0:
            proof = b""  # this end is Alice: both have one binding, so Bob could return a proof of hers
        state = next_stream_state(StreamState.IDLE, StreamEvent.OPEN, number)
        stream = self._stream(number, state, eager=True)
        handle = self._add(stream, target, proof, is_confirmed=False)
        if self.refuse_opens:
            handle.give_up(ErrorCode.CANCELLED)
            return
        self._waiting[number] = None
        self.acceptable.set()

    def confirmed(self, number: int) -> None:
        """OPENED."""
        stream = self._advance(number, StreamEvent.OPENED)
        if stream is not None:
            stream.outgoing.writable.set()

    def arrived(self, number: int, data: memoryview, *, is_end: bool) -> None:
        """MSG, or END on stream 0."""
        if not data and not is_end:
            raise MalformedMessage("MSG without data")
        if is_end and number:
            raise MalformedMessage(f"END on sub-stream {number}")
        stream = self._advance(number, StreamEvent.END if is_end else StreamEvent.MSG)
        assert stream is not None, "no data is legal on a stream that is gone"
        if stream.state is StreamState.DISCARDING:
            stream.incoming.discard(data)
        elif number:
            stream.incoming.put(data)
        else:
            self.messages_in.put(data, is_end=is_end)

    def granted(self, number: int, amount: int) -> None:
        """One entry of CREDIT."""
        stream = self._advance(number, StreamEvent.CREDIT)
        if stream is not None:
            stream.outgoing.add_credit(amount, self._other_window)

    def closed(self, number: int, code: ErrorCode | None) -> None:
        """CLOSE: a half ended in order, or (sub-streams only here) given up with a code."""
        open_stream = self._streams.get(number)
        had_ended = open_stream is not None and open_stream.state is StreamState.ENDED
        stream = self._advance(number, StreamEvent.CLOSE if code is None else StreamEvent.GIVE_UP)
        if stream is None:
            return
        self._credit_due.pop(number, None)
        if code is None:
            (stream.incoming if number else self.messages_in).finish()
        else:
            if had_ended and number not in self._waiting:
                self._handles[number].refuse_writes(SubStreamReset(code, by_other_end=True))
                self._ready.pop(number, None)
            else:
                self._stop(stream, SubStreamReset(code, by_other_end=True))
            if not stream.close_sent and not stream.close_queued:
                self._control_close(stream, None)
        self._drop_if_gone(stream)

    def _advance(self, number: int, event: StreamEvent) -> StreamHalves[N] | None:
        """Apply a chunk to its stream. None: the stream is gone, and the chunk was still legal."""
        stream = self._streams.get(number) if number else self.messages
        if stream is not None:
            stream.advance(event)
            return stream
        bound = self.next_id if number % 2 == self.next_id % 2 else self._next_other_id
        state = StreamState.GONE if number < bound else StreamState.IDLE
        next_stream_state(state, event, number)
        return None

    # --- common ---------------------------------------------------------------------------------------------

    def _stream(
        self, number: int, state: StreamState, *, eager: bool, incoming: Incoming[N] | None = None
    ) -> StreamHalves[N]:
        stream: StreamHalves[N]
        outgoing = Outgoing(
            self._capacity,
            self._other_window,
            eager=eager,
            writable=self._make_notifier(),
            changed=lambda: self.queue(stream),
        )
        if incoming is None:
            incoming = Incoming(
                self._window, readable=self._make_notifier(), changed=lambda: self._schedule_credit(stream)
            )
        stream = StreamHalves(number, state, outgoing, incoming)
        return stream

    def _add(
        self, stream: StreamHalves[N], target: Target, proof: bytes, *, is_confirmed: bool
    ) -> SubStream[N]:
        number = stream.number
        self._streams[number] = stream
        self._open_counts[number % 2] += 1
        self._handles[number] = handle = SubStream(
            stream,
            target,
            proof,
            is_confirmed=is_confirmed,
            tunnel=self._tunnel,
            ended=self._make_notifier(),
            on_confirm=partial(self._control, ChunkType.OPENED, number),
            on_close=partial(self.queue, stream),
            on_give_up=partial(self._give_up, stream),
            on_stop=partial(self._stop_other_end, stream),
        )
        return handle

    def _give_up(self, stream: StreamHalves[N], code: ErrorCode) -> None:
        """The user gives up a sub-stream. No effect if both ends have closed it."""
        if stream.number not in self._streams:
            return
        self._stop(stream, SubStreamReset(code))
        if stream.state is not StreamState.ENDED:
            stream.state = StreamState.DISCARDING
        self._control_close(stream, code)

    def _stop_other_end(self, stream: StreamHalves[N], code: ErrorCode) -> None:
        """Give up a sub-stream, after this end's orderly CLOSE."""
        if stream.close_sent:
            self._give_up(stream, code)
        else:
            stream.stop_code = code

    def _stop(self, stream: StreamHalves[N], error: PeerError) -> None:
        """End both halves; only CLOSE is left, to send or to receive."""
        number = stream.number
        self._handles[number].fail(error)
        self._ready.pop(number, None)
        self._credit_due.pop(number, None)
        self._waiting.pop(number, None)

    def _control(self, kind: ChunkType, number: int, data: bytes = b"") -> None:
        self.controls.append((kind, number, data))
        self._on_due()

    def _control_close(self, stream: StreamHalves[N], code: ErrorCode | None) -> None:
        stream.close_queued = True
        self._control(ChunkType.CLOSE, stream.number, pack_close(code))

    def _close_is_sent(self, number: int) -> None:
        stream = self._streams.get(number) if number else self.messages
        if stream is not None:
            stream.close_sent = True
            code, stream.stop_code = stream.stop_code, None
            if code is not None and stream.state is not StreamState.ENDED:
                self._give_up(stream, code)
            self._drop_if_gone(stream)

    def _drop_if_gone(self, stream: StreamHalves[N]) -> None:
        if stream.is_gone and stream.number:
            del self._streams[stream.number]
            self._handles.pop(stream.number).ended.set()
            self._open_counts[stream.number % 2] -= 1
            self.openable.set()

    def _schedule_credit(self, stream: StreamHalves[N]) -> None:
        if stream.number not in self._credit_due:
            self._credit_due[stream.number] = stream
            self._on_due()
