"""All streams of one authenticated link, as a state machine over bytes.

The socket side calls `space`, `received`, `pending`, `sent`; services hold streams (stream.py). In between,
content is sealed straight into one outgoing buffer (buffers.py) as its stream has credit and its turn
(turns.py), and everything small waits for a record to share (control.py). There is no queue of content on the
sending side, and on the receiving side each stream's is bounded by the credit that this side granted.

Rules for changing it:

* Any forbidden byte ends the smallest scope that it can be charged to: the stream (RESET both ways) where
  only that stream's order was broken, else the link. Which is which is in docs/protocol.md, "Streams".
* Whatever a peer can make grow has its limit in `MuxLimits`, or beside the constant.
* A method that ends a stream leaves nothing of it in the table, the turns, the control queue or the budget.

Source: docs/protocol.md, "Link frames", "Streams" and "Credit".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic

from tunnel.errors import (
    Disconnected,
    ErrorCode,
    LinkError,
    LocalTunnelError,
    ProfileError,
    StreamReset,
    TableFull,
    TunnelError,
)
from tunnel.geometry import Profile
from tunnel.link.buffers import BUFFERS, BufferPool, Incoming, Outgoing
from tunnel.link.control import ControlQueue
from tunnel.link.frames import (
    FRAME_HEAD,
    FRAME_HEAD_BYTES,
    MAX_EXCHANGE_BYTES,
    PING_TOKEN_BYTES,
    FrameType,
    pack_fin,
    pack_go_away,
    pack_open,
    pack_peer_exchange,
    pack_ping,
    pack_reset,
    parse_credit,
    parse_open,
    parse_ping,
    parse_reset,
    split_frames,
)
from tunnel.link.noise import LinkKeys
from tunnel.link.receive_queue import Budget
from tunnel.link.records import (
    MAX_RECORD_BYTES,
    MAX_UNITS,
    RECORD_OVERHEAD,
    UNIT_BYTES,
    RecordOpener,
    RecordSealer,
)
from tunnel.link.stream import MuxStream, N
from tunnel.link.turns import Notifier, Turns
from tunnel.primitives import TunnelEngine

__all__ = ["MIN_FIXED_UNITS", "Budget", "Multiplexer", "MuxLimits", "MuxStream", "Notifier"]

_MAX_STREAM_ID: Final = (1 << 32) - 1
# Streams whose window may grow: with more of them on a link each is fast enough with its first window.
_FEW_STREAMS: Final = 4
# Refused OPENs whose RESET has not left: a peer that keeps to its limits never has so many.
_MAX_REFUSALS: Final = 64
# What a peer may have sent on a stream of a profile that is not known here.
_UNKNOWN_WINDOW_BYTES: Final = 1 << 20
# The longest control frame, PEER-EXCHANGE, has to fit into a record of a fixed size.
MIN_FIXED_UNITS: Final = -(-(MAX_EXCHANGE_BYTES + FRAME_HEAD_BYTES + RECORD_OVERHEAD) // UNIT_BYTES)


@dataclass(frozen=True, slots=True)
class MuxLimits:
    """What one link may use.

    Attributes:
        max_streams: streams of the peer's at once; told in the handshake.
        peer_max_streams: the same of the peer's settings, for those that this side opens.
        window_bytes: all receive windows together: 1,024 streams of the default profile, and four that have
            grown.
        max_window_bytes: to which the window of one stream grows while few share the link.
    """

    max_streams: int = 1024
    peer_max_streams: int = 1024
    window_bytes: int = 66 << 20
    max_window_bytes: int = 256 << 10


class Multiplexer(Generic[N]):
    """One link.

    Args:
        keys: of the finished handshake.
        is_dialler: whether this side dialled: its streams have odd numbers, the other's even ones.
        engine: where the AEAD comes from.
        limits: of this link.
        make_notifier: makes the flags that `output`, `incoming`, `exchange` and the streams set.
        budget: of the node; without one the link has its own, of its windows' size.
        now_s: a clock that never steps back.
        record_units: 0, or the one size of all records sent, in units of 1,024 bytes (constant rate): then
            records leave only by `tick`.
        buffers: where the two buffers are borrowed while they hold bytes.
    Attributes:
        output: told when `pending` is no longer empty.
        incoming: told when `accept_nowait` has a stream, and when the link fails.
        exchange: told when `take_exchange` has a payload.
        peer_id: node id of the neighbour; for the driver to set.
        last_received_s: when bytes came last.
        round_trip_s: of the last PING that was answered; None before.
        error: why the link failed.
    Raises:
        LocalTunnelError: `record_units` below MIN_FIXED_UNITS or above 63.
    """

    def __init__(
        self,
        keys: LinkKeys,
        *,
        is_dialler: bool,
        engine: TunnelEngine,
        limits: MuxLimits,
        make_notifier: Callable[[], N],
        budget: Budget | None = None,
        now_s: Callable[[], float],
        record_units: int = 0,
        buffers: BufferPool = BUFFERS,
    ) -> None:
        if record_units and not MIN_FIXED_UNITS <= record_units <= MAX_UNITS:
            raise LocalTunnelError(
                f"records of a fixed size have {MIN_FIXED_UNITS} to {MAX_UNITS} units, not {record_units}"
            )
        self._out = Outgoing(RecordSealer(keys.send_key, engine), buffers, record_units * UNIT_BYTES)
        self._in = Incoming(RecordOpener(keys.receive_key, engine), buffers)
        self._limits = limits
        self._make_notifier = make_notifier
        self._now_s = now_s
        self._control = ControlQueue()
        self._turns = Turns()
        self._table: dict[int, MuxStream[N]] = {}
        self._next_id = 1 if is_dialler else 2
        self._peer_parity = 0 if is_dialler else 1
        self._peer_highest = 0
        self._own_streams = 0
        self._windows_bytes = 0
        self._arrived: deque[MuxStream[N]] = deque()
        self._refusals: deque[int] = deque()
        self._late_bytes = 0
        self._has_left = False
        self._peer_has_left = False
        self._ping_token = b""
        self._ping_sent_s = 0.0
        self._pings = 0
        self._exchange_in: bytes | None = None
        self._exchange_mark = 0
        self.budget = Budget(limits.window_bytes * 10 // 9 + 1) if budget is None else budget
        self.output = make_notifier()
        self.incoming = make_notifier()
        self.exchange = make_notifier()
        self.peer_id = b""
        self.last_received_s = now_s()
        self.round_trip_s: float | None = None
        self.error: TunnelError | None = None

    # -- the socket's side ----------------------------------------------------------------------------

    def space(self) -> memoryview:
        """Where to receive into, never empty; from here until `received` the link holds a buffer.

        Call it when the socket is readable, and `received(0)` if nothing came after all.
        """
        return self._in.space()

    def received(self, count: int) -> None:
        """The first `count` bytes of `space()` were filled: open every whole record and apply its frames.

        Raises:
            LinkError: forbidden bytes, or the peer ended the link for a fault of this side. All streams have
                failed with it; send what `pending` has, and close. After a failure: that failure.
        """
        if self.error is not None:
            raise self.error
        if count:
            self.last_received_s = self._now_s()
        incoming = self._in
        incoming.received(count)
        try:
            while (plain := incoming.next_record()) is not None:
                for kind, stream_id, payload in split_frames(plain):
                    _HANDLERS[kind](self, stream_id, payload)
        except LinkError as error:
            self._refuse_link(error)
            raise

    @property
    def has_partial_record(self) -> bool:
        """Whether a record has begun to come and is not complete: a driver limits how long that may last."""
        return self._in.partial_bytes > 0

    @property
    def pending(self) -> memoryview:
        """Sealed bytes to send, control frames that waited included; valid until the next call."""
        if not self._out.fixed_bytes:
            self._flush_control()
        return self._out.pending

    def sent(self, count: int) -> None:
        """The first `count` bytes of `pending` have left."""
        out = self._out
        out.sent(count)
        self._turns.freed(out.room, is_empty=out.is_empty)

    def fail(self, error: TunnelError) -> None:
        """End the link: every stream on it fails with `error`, except for content that came with its FIN.

        What is sealed stays in `pending`. Again: nothing.
        """
        if self.error is not None:
            return
        self.error = error
        streams = list(self._table.values())
        nobodys = set(self._arrived)
        self._table.clear()
        self._arrived.clear()
        self._control.clear()
        self._turns.clear()
        self._in.clear()
        self._own_streams = self._windows_bytes = 0
        for stream in streams:
            stream.fail(error, keep_complete=stream not in nobodys)
        self.incoming.set()
        self.exchange.set()
        self.output.set()

    def close(self) -> None:
        """Give back the buffers; after `fail`, when the connection is closed. Idempotent."""
        self.fail(Disconnected("the link was closed here"))
        self._in.clear()
        self._out.clear()

    # -- streams --------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """How many streams are open, of both sides."""
        return len(self._table)

    @property
    def can_open(self) -> bool:
        """Whether `open` has a number and a place for one more stream of the default kind."""
        return (
            self.error is None
            and not self._has_left
            and not self._peer_has_left
            and self._own_streams < self._limits.peer_max_streams
            and self._next_id <= _MAX_STREAM_ID
        )

    def open(self, profile: Profile, *, extra_window: int = 0) -> MuxStream[N]:
        """Open a stream; OPEN is queued, and leaves with the first content.

        Args:
            extra_window: bytes that the peer may send beyond the profile's window.
        Raises:
            TableFull: as many streams or windows as there may be. Disconnected: one of the sides leaves.
                Whatever the link failed with.
        """
        if self.error is not None:
            raise self.error
        if self._has_left or self._peer_has_left:
            raise Disconnected("the link is being ended, it takes no new stream")
        window = profile.geometry.window_bytes + extra_window
        if not self.can_open or self._windows_bytes + window > self._limits.window_bytes:
            raise TableFull(f"the link carries {self._own_streams} streams of this side and takes no more")
        stream = self._add(
            self._next_id, profile, is_opener=True, credit=profile.geometry.window_bytes, window=window
        )
        self._next_id += 2
        self._own_streams += 1
        self._queue_for(stream, pack_open(stream.id, profile, extra_window))
        return stream

    def accept_nowait(self) -> MuxStream[N] | None:
        """The next stream that the peer has opened, or None: wait for `incoming`.

        Raises:
            whatever the link failed with.
        """
        while self._arrived:
            stream = self._arrived.popleft()
            if stream.error is None:
                return stream
        if self.error is not None:
            raise self.error
        return None

    def go_away(self) -> None:
        """Open nothing more; streams that are open go on. Idempotent."""
        if not self._has_left and self.error is None:
            self._has_left = True
            self._control.add(pack_go_away())
            self.output.set()

    @property
    def peer_leaves(self) -> bool:
        """Whether the peer opens nothing more."""
        return self._peer_has_left

    @property
    def is_drained(self) -> bool:
        """Whether both sides have left, no stream is open and nothing is unsent: close, nobody loses."""
        return (
            self._has_left
            and self._peer_has_left
            and not self._table
            and not self._control.size
            and self._out.is_empty
        )

    # -- the link -------------------------------------------------------------------------------------

    def ping(self) -> bool:
        """Ask for a sign of life, if none is asked for. False: the last PING has not been answered."""
        if self._ping_token or self.error is not None:
            return False
        self._pings += 1
        self._ping_token = self._pings.to_bytes(PING_TOKEN_BYTES, "big")
        self._ping_sent_s = self._now_s()
        self._control.add(pack_ping(self._ping_token, is_answer=False))
        self.output.set()
        return True

    @property
    def ping_sent_s(self) -> float | None:
        """When the PING was queued that is not answered yet; None without one."""
        return self._ping_sent_s if self._ping_token else None

    def send_exchange(self, payload: bytes) -> bool:
        """Queue a PEER-EXCHANGE of 1 to MAX_EXCHANGE_BYTES. False: the last one has not left."""
        if self._exchange_mark > self._control.taken or self.error is not None:
            return False
        if not 0 < len(payload) <= MAX_EXCHANGE_BYTES:
            raise LocalTunnelError(f"a peer exchange has 1 to {MAX_EXCHANGE_BYTES} bytes, not {len(payload)}")
        self._exchange_mark = self._control.add(pack_peer_exchange(payload))
        self.output.set()
        return True

    def take_exchange(self) -> bytes | None:
        """The payload of the last PEER-EXCHANGE that came, once; None: wait for `exchange`."""
        payload, self._exchange_in = self._exchange_in, None
        return payload

    def pad(self, units: int) -> bool:
        """Seal a record of padding only. False: no room, so there is traffic enough."""
        size = units * UNIT_BYTES
        if self.error is not None or self._out.fixed_bytes or size > self._out.room:
            return False
        self._out.add(size, b"")
        self.output.set()
        return True

    def tick(self) -> None:
        """With records of a fixed size: let exactly one more leave, of padding if there is nothing else.

        A socket that takes less than it is given holds up the clock: with two records unsent nothing is
        added.
        """
        out = self._out
        if not out.fixed_bytes:
            raise LocalTunnelError("tick on a link without a fixed record size")
        if len(out.pending) >= 2 * out.fixed_bytes or self.error is not None:
            return
        if not out.hidden_bytes:
            if out.room < out.fixed_bytes:
                return
            out.add(out.fixed_bytes, self._control.take(out.fixed_bytes - RECORD_OVERHEAD))
        out.show_next()
        self.output.set()

    # -- for the streams ------------------------------------------------------------------------------

    @property
    def fixed_bytes(self) -> int:
        """The one length of all records sent; 0 where it is as needed."""
        return self._out.fixed_bytes

    def fixed_room(self) -> int:
        """Content that the next record of the fixed size takes beside the control frames that wait."""
        inside = self._out.fixed_bytes - RECORD_OVERHEAD - FRAME_HEAD_BYTES
        return inside - min(self._control.size, inside // 2)

    def emit(self, stream: MuxStream[N], kind: FrameType, payload: bytes | memoryview) -> bool:
        """Seal one frame of content, if it is the stream's turn and there is room.

        Control frames ride in front as far as they fit into what would be padding. Those of this stream go
        first in any case: nothing of a stream overtakes its OPEN or FIN.
        """
        out, control = self._out, self._control
        frame_bytes = FRAME_HEAD_BYTES + len(payload)
        size = need = out.size_for(frame_bytes)
        spare = size - RECORD_OVERHEAD - frame_bytes
        waits = control.size
        if waits > spare and stream.control_mark > control.taken:
            need += out.size_for(min(waits, MAX_RECORD_BYTES - RECORD_OVERHEAD))
            need = min(need, out.capacity)
        if not self._turns.admits(stream, need, out.room):
            return False
        if need > size:
            self._flush_control()
            if stream.control_mark > control.taken or out.room < size:
                # More control frames than one record holds: once more, when those have left.
                self._turns.admits(stream, need, 0)
                return False
        front = control.take(spare) if waits else b""
        out.add(size, front + FRAME_HEAD.pack(kind, 0, len(payload), stream.id), payload)
        self.output.set()
        return True

    def pass_turn(self, stream: MuxStream[N]) -> None:
        """The stream cannot write now, whoever's turn it is."""
        if len(self._turns):
            self._turns.forget(stream, self._out.room)

    def owe(self, stream: MuxStream[N]) -> None:
        """The stream has credit to grant."""
        if stream.error is None and self.error is None:
            self._control.owe(stream)
            self.output.set()

    def growth(self, stream: MuxStream[N]) -> int:
        """By how much the window of a stream whose reader keeps up may grow."""
        limits = self._limits
        room = limits.window_bytes - self._windows_bytes
        growth = min(stream.window_bytes, limits.max_window_bytes - stream.window_bytes)
        if len(self._table) > _FEW_STREAMS or not 0 < growth <= room:
            return 0
        self._windows_bytes += growth
        return growth

    def half_finished(self, stream: MuxStream[N]) -> None:
        """This side's half has ended: FIN is queued."""
        self._queue_for(stream, pack_fin(stream.id))
        self._turns.forget(stream, self._out.room)
        self.settle(stream)

    def settle(self, stream: MuxStream[N]) -> None:
        """Forget a stream that has ended in order."""
        if stream.is_done:
            self._remove(stream)

    def reset(self, stream: MuxStream[N], code: ErrorCode, error: TunnelError | None = None) -> None:
        """Reset a stream both ways; `error` is what it fails with here."""
        # What is on its way to it is forgiven, and nothing more: see `_late`.
        self._late_bytes += stream.late_bytes
        self._control.add(pack_reset(stream.id, code))
        self.output.set()
        self._remove(stream)
        stream.fail(error or StreamReset(code, "here"), keep_complete=False)

    # -- inside ---------------------------------------------------------------------------------------

    def _add(
        self, stream_id: int, profile: Profile, *, is_opener: bool, credit: int, window: int
    ) -> MuxStream[N]:
        stream = MuxStream(
            self,
            stream_id,
            profile,
            is_opener=is_opener,
            credit=credit,
            window_bytes=window,
            readable=self._make_notifier(),
            writable=self._make_notifier(),
        )
        self._table[stream_id] = stream
        self._windows_bytes += window
        return stream

    def _remove(self, stream: MuxStream[N]) -> None:
        del self._table[stream.id]
        self._windows_bytes -= stream.window_bytes
        if stream.is_opener:
            self._own_streams -= 1
        self._control.forget(stream)
        self._turns.forget(stream, self._out.room)

    def _queue_for(self, stream: MuxStream[N], frame: bytes) -> None:
        stream.control_mark = self._control.add(frame)
        self.output.set()

    def _flush_control(self) -> None:
        """Seal control frames into records of their own, as far as there is room."""
        out, control = self._out, self._control
        while control.size:
            limit = min(out.fixed_bytes or MAX_RECORD_BYTES, out.room) - RECORD_OVERHEAD
            frames = control.take(limit) if limit > 0 else b""
            if not frames:
                return
            out.add(out.size_for(len(frames)), frames)

    def _refuse_link(self, error: LinkError) -> None:
        """Fail with `error`, and tell the peer its code if there is room for that."""
        self.fail(error)
        size = self._out.size_for(1)
        if self._out.room >= size:
            self._out.add(size, pack_reset(0, error.code))

    # -- frames from the peer -------------------------------------------------------------------------

    def _find(self, stream_id: int, kind: int) -> MuxStream[N] | None:
        """The stream, or None when it has ended here: then the frame was on its way before the peer knew.

        Raises:
            LinkError: no such stream was ever opened.
        """
        stream = self._table.get(stream_id)
        if stream is None:
            is_peers = stream_id & 1 == self._peer_parity
            if stream_id > self._peer_highest if is_peers else stream_id >= self._next_id:
                raise LinkError(f"{FrameType(kind).name} for stream {stream_id}, which was never opened")
        return stream

    def _on_open(self, stream_id: int, payload: memoryview) -> None:
        profile_byte, extra = parse_open(payload)
        if stream_id & 1 != self._peer_parity or stream_id <= self._peer_highest:
            raise LinkError(
                f"OPEN of stream {stream_id}, expected more than {self._peer_highest} and "
                f"{'odd' if self._peer_parity else 'even'} numbers"
            )
        if self._peer_has_left:
            raise LinkError("OPEN after GOAWAY")
        self._peer_highest = stream_id
        try:
            profile = Profile.from_byte(profile_byte)
        except ProfileError:
            self._refuse_open(stream_id, ErrorCode.UNSUPPORTED, _UNKNOWN_WINDOW_BYTES)
            return
        window = profile.geometry.window_bytes
        if (
            len(self._table) - self._own_streams >= self._limits.max_streams
            or self._windows_bytes + window > self._limits.window_bytes
        ):
            self._refuse_open(stream_id, ErrorCode.BUSY, window)
            return
        stream = self._add(stream_id, profile, is_opener=False, credit=window + extra, window=window)
        self._arrived.append(stream)
        self.incoming.set()

    def _refuse_open(self, stream_id: int, code: ErrorCode, window: int) -> None:
        refusals, control = self._refusals, self._control
        while refusals and refusals[0] <= control.taken:
            refusals.popleft()
        if len(refusals) >= _MAX_REFUSALS:
            raise LinkError(f"{_MAX_REFUSALS} streams opened beyond the limits before the first was refused")
        refusals.append(control.add(pack_reset(stream_id, code)))
        self._late_bytes += window
        self.output.set()

    def _on_data(self, stream_id: int, payload: memoryview) -> None:
        stream = self._table.get(stream_id)
        if stream is None:
            self._find(stream_id, FrameType.DATA)
            self._late_bytes -= len(payload)
            if self._late_bytes < 0:
                raise LinkError(f"content for stream {stream_id}, which has ended, beyond what was granted")
        elif stream.advance(FrameType.DATA):
            stream.take_data(payload, self.last_received_s)
        else:
            self._out_of_order(stream, FrameType.DATA)

    def _on_credit(self, stream_id: int, payload: memoryview) -> None:
        count = parse_credit(payload)
        stream = self._find(stream_id, FrameType.CREDIT)
        if stream is not None and not stream.take_credit(count):
            self._out_of_order(stream, FrameType.CREDIT)

    def _on_fin(self, stream_id: int, payload: memoryview) -> None:
        stream = self._find(stream_id, FrameType.FIN)
        if stream is None:
            return
        if stream.advance(FrameType.FIN):
            self._control.forget(stream)
            stream.readable.set()
            self.settle(stream)
        else:
            self._out_of_order(stream, FrameType.FIN)

    def _on_status(self, stream_id: int, payload: memoryview) -> None:
        stream = self._find(stream_id, FrameType.STATUS)
        if stream is None:
            return
        if stream.advance(FrameType.STATUS):
            stream.status = bytes(payload)
            stream.readable.set()
            self.settle(stream)
        else:
            self._out_of_order(stream, FrameType.STATUS)

    def _out_of_order(self, stream: MuxStream[N], kind: FrameType) -> None:
        """Only this stream's order is broken: it ends, the link goes on."""
        error = LinkError(f"stream {stream.id}: {kind.name} is not legal now")
        self.reset(stream, ErrorCode.PROTOCOL, error)

    def _on_reset(self, stream_id: int, payload: memoryview) -> None:
        code = parse_reset(payload)
        if not stream_id:
            error = LinkError(f"the neighbour ended the link: {code.name}")
            error.code = code
            raise error
        stream = self._find(stream_id, FrameType.RESET)
        if stream is not None:
            self._remove(stream)
            stream.fail(StreamReset(code), keep_complete=False)

    def _on_ping(self, stream_id: int, payload: memoryview) -> None:
        is_answer, token = parse_ping(payload)
        if not is_answer:
            self._control.answer(pack_ping(token, is_answer=True))
            self.output.set()
        elif token and token == self._ping_token:
            self.round_trip_s = self.last_received_s - self._ping_sent_s
            self._ping_token = b""
        else:
            raise LinkError("answer to a PING that was not sent")

    def _on_go_away(self, stream_id: int, payload: memoryview) -> None:
        if self._peer_has_left:
            raise LinkError("second GOAWAY")
        self._peer_has_left = True
        # The answer tells the peer that no OPEN is on its way any more: nothing is lost when it closes.
        self.go_away()
        self.incoming.set()

    def _on_peer_exchange(self, stream_id: int, payload: memoryview) -> None:
        # One that nobody has taken is replaced: newer news is better, and nothing grows.
        self._exchange_in = bytes(payload)
        self.exchange.set()


_Handler = Callable[[Multiplexer[Any], int, memoryview], None]
_HANDLERS: Final[dict[int, _Handler]] = {
    FrameType.OPEN: Multiplexer._on_open,
    FrameType.DATA: Multiplexer._on_data,
    FrameType.CREDIT: Multiplexer._on_credit,
    FrameType.FIN: Multiplexer._on_fin,
    FrameType.RESET: Multiplexer._on_reset,
    FrameType.STATUS: Multiplexer._on_status,
    FrameType.PING: Multiplexer._on_ping,
    FrameType.GOAWAY: Multiplexer._on_go_away,
    FrameType.PEER_EXCHANGE: Multiplexer._on_peer_exchange,
}
