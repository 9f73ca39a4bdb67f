"""All streams of one authenticated link, as a state machine over bytes.

The socket side calls `space`, `received`, `pending`, `sent`; services hold streams (stream.py). What goes out
is sealed straight into one buffer (scheduler.py): the sending side has no queue of content. What comes in is
opened in place (buffers.py), and its cells are applied one by one. Content goes to the queue of its stream,
bounded by the credit that this side granted. table.py holds the streams; stream.py has the table of legal
cells. `Pinger` and `Liveness` decide how long a silent link is kept.

Rules for changing it:

* Any forbidden byte ends the smallest scope that it can be charged to: the stream (RESET both ways) where
  only that stream's order was broken, else the link. Which is which is in docs/protocol.md, "Streams".
* Whatever a peer can make grow has its limit in `MuxLimits`, or beside the constant.
* What ends a stream leaves nothing of it in the table, the turns, the control queue or the budget.

Source: docs/protocol.md, "Link cells", "Streams" and "Credit".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal

from readwrite_comp.helpers import renewed
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import (
    Disconnected,
    ErrorCode,
    LinkError,
    ProfileError,
    StreamReset,
    TunnelError,
)
from tunnel.geometry import Profile
from tunnel.link.buffers import BUFFERS, Budget, BufferPool, IncomingRecords, RecordOpener, RecordSealer
from tunnel.link.cells import (
    PING_TOKEN_BYTES,
    CellType,
    pack_go_away,
    pack_open,
    pack_peer_exchange,
    pack_ping,
    pack_reset,
    parse_credit,
    parse_open,
    parse_ping,
    parse_reset,
    split_cells,
)
from tunnel.link.noise import LinkKeys
from tunnel.link.scheduler import LinkSender
from tunnel.link.stream import MuxStream, N
from tunnel.link.table import MuxLimits, StreamTable

__all__ = ["Liveness", "Multiplexer", "MuxLimits", "MuxStream", "Pinger"]


# Liveness: one PING at a time. Its token is a counter of this link, so an unsolicited answer is recognised.
# The PING also measures the round trip. `Liveness` is the policy: from times to an action. Only the two
# ends of a link watch it. Source: docs/protocol.md, "Link cells".


class Pinger:
    """The PING of this side that is under way, if one is.

    Attributes:
        sent_s: when it was queued; None without one.
        round_trip_s: of the last that was answered; None before.
    """

    __slots__ = ("_count", "_token", "round_trip_s", "sent_s")

    def __init__(self) -> None:
        self._count = 0
        self._token = b""
        self.sent_s: float | None = None
        self.round_trip_s: float | None = None

    def request(self, now_s: float) -> bytes | None:
        """The cell to send, or None while the last is not answered."""
        if self.sent_s is not None:
            return None
        self._count += 1
        self._token = self._count.to_bytes(PING_TOKEN_BYTES, "big")
        self.sent_s = now_s
        return pack_ping(self._token, is_answer=False)

    def answered(self, token: bytes, now_s: float) -> None:
        """An answer has come.

        Raises:
            LinkError: to nothing that was asked.
        """
        if self.sent_s is None or token != self._token:
            raise LinkError("answer to a PING that was not sent")
        self.round_trip_s = now_s - self.sent_s
        self.sent_s = None


Verdict = Literal["wait", "ping", "dead"]


@dataclass(frozen=True, slots=True)
class Liveness:
    """When to ask, and when to give up.

    Attributes:
        quiet_s: so long without a byte, then a PING. Below the half minute after which many address
            translators forget a connection.
        dead_s: so long after that PING without any byte, and the link is dead.
    """

    quiet_s: float = 25.0
    dead_s: float = 20.0

    def look(
        self, now_s: float, *, last_received_s: float, ping_sent_s: float | None
    ) -> tuple[Verdict, float]:
        """What to do now, and seconds until the next look.

        Any byte since the PING counts, not only its answer: the answer may stand behind a long transfer.
        """
        if ping_sent_s is None:
            left = last_received_s + self.quiet_s - now_s
            return ("wait", left) if left > _SOON_S else ("ping", self.dead_s)
        left = max(ping_sent_s, last_received_s) + self.dead_s - now_s
        return ("wait", left) if left > _SOON_S else ("dead", 0.0)


# A timer that fires a moment early must not lead to a thousand more.
_SOON_S: Final = 0.001
_SPARE_RESETS: Final = 64  # that wait to leave, beyond one for each stream that the peer may have
_UNKNOWN_WINDOW_BYTES: Final = 1 << 20  # what it may have sent on a stream of a profile unknown here


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
        error: why the link failed.
        sender, table, budget: for its streams; `sender.is_idle` says whether nothing is unsent.
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
        self.output = make_notifier()
        self.incoming = make_notifier()
        self.exchange = make_notifier()
        self.sender = LinkSender(RecordSealer(keys.send_key, engine), buffers, record_units, self.output)
        self.table: StreamTable[MuxStream[N]] = StreamTable(limits, is_dialler=is_dialler)
        # A budget of its own never runs out before the windows do.
        self.budget = Budget(limits.window_bytes * 10 // 9 + 1) if budget is None else budget
        self._in = IncomingRecords(RecordOpener(keys.receive_key, engine), buffers)
        self._make_notifier = make_notifier
        self._now_s = now_s
        self._pinger = Pinger()
        self._arrived: OrderedDict[MuxStream[N], None] = OrderedDict()
        self._max_resets = limits.max_streams + _SPARE_RESETS
        self._resets: list[int] = []  # marks of the RESETs of the peer's streams
        self._has_left = False
        self._peer_has_left = False
        self._exchange_in: bytes | None = None
        self._exchange_mark = 0
        self.peer_id = b""
        self.last_received_s = now_s()
        self.error: TunnelError | None = None

    # -- the socket's side ----------------------------------------------------------------------------

    def space(self) -> memoryview:
        """Where to receive into, never empty; from here until `received` the link holds a buffer.

        Call it when the socket is readable, and `received(0)` if nothing came after all.
        """
        return self._in.space()

    def received(self, count: int) -> None:
        """The first `count` bytes of `space()` were filled: open every whole record and apply its cells.

        Raises:
            LinkError: forbidden bytes, or the peer ended the link for a fault of this side. All streams have
                failed with it; send what `pending` has, and close. After a failure: that failure.
        """
        if self.error is not None:
            raise renewed(self.error)
        if count:
            self.last_received_s = self._now_s()
        incoming = self._in
        incoming.received(count)
        try:
            while (plain := incoming.next_record()) is not None:
                for kind, stream_id, payload in split_cells(plain):
                    _HANDLERS[kind](self, stream_id, payload)
        except LinkError as error:
            self.fail(error)
            self.sender.stop(pack_reset(0, error.code))
            raise

    @property
    def has_partial_record(self) -> bool:
        """Whether a record has begun to come and is not complete: a driver limits how long that may last."""
        return self._in.partial_bytes > 0

    @property
    def pending(self) -> memoryview:
        """Sealed bytes to send, control cells that waited included; valid until the next call."""
        return self.sender.pending

    def sent(self, count: int) -> None:
        """The first `count` bytes of `pending` have left."""
        self.sender.sent(count)

    def fail(self, error: TunnelError) -> None:
        """End the link: every stream on it fails with `error`, except for content that came with its FIN.

        What is sealed stays in `pending`. Again: nothing.
        """
        if self.error is not None:
            return
        self.error = error
        nobodys = set(self._arrived)
        self._arrived.clear()
        self.sender.stop()
        self._in.clear()
        for stream in self.table.clear():
            stream.fail(error, keep_complete=stream not in nobodys)
        self.incoming.set()
        self.exchange.set()
        self.output.set()

    def close(self) -> None:
        """Give back the buffers; after `fail`, when the connection is closed. Idempotent."""
        self.fail(Disconnected("the link was closed here"))
        self.sender.clear()

    # -- streams --------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """How many streams are open, of both sides."""
        return len(self.table.streams)

    @property
    def can_open(self) -> bool:
        """Whether `open` has a number and a place for one more stream of the default kind."""
        return self.error is None and not self._has_left and not self._peer_has_left and self.table.can_open

    def open(self, profile: Profile, *, extra_window: int = 0) -> MuxStream[N]:
        """Open a stream; OPEN is queued, and leaves with the first content.

        Args:
            extra_window: bytes that the peer may send beyond the profile's window.
        Raises:
            TableFull: as many streams or windows as there may be. Disconnected: one of the sides leaves.
                Whatever the link failed with.
        """
        if self.error is not None:
            raise renewed(self.error)
        if self._has_left or self._peer_has_left:
            raise Disconnected("the link is being ended, it takes no new stream")
        stream_id = self.table.next_id(profile.geometry.window_bytes + extra_window)
        stream = self._add(stream_id, profile, is_opener=True, extra_window=extra_window)
        self.sender.queue_for(stream, pack_open(stream_id, profile, extra_window))
        return stream

    def accept_nowait(self) -> MuxStream[N] | None:
        """The next stream that the peer has opened, or None: wait for `incoming`.

        Raises:
            whatever the link failed with.
        """
        if self._arrived:
            return self._arrived.popitem(last=False)[0]
        if self.error is not None:
            raise renewed(self.error)
        return None

    def go_away(self) -> None:
        """Open nothing more; streams that are open go on. Idempotent."""
        if not self._has_left and self.error is None:
            self._has_left = True
            self.sender.queue(pack_go_away())

    @property
    def peer_leaves(self) -> bool:
        """Whether the peer opens nothing more."""
        return self._peer_has_left

    @property
    def is_drained(self) -> bool:
        """Whether both sides have left, no stream is open and nothing is unsent: close, nobody loses."""
        return self._has_left and self._peer_has_left and not self.table.streams and self.sender.is_idle

    # -- the link -------------------------------------------------------------------------------------

    def ping(self) -> bool:
        """Ask for a sign of life. False: the last PING has not been answered, or the link has failed."""
        cell = None if self.error is not None else self._pinger.request(self._now_s())
        if cell is None:
            return False
        self.sender.queue(cell)
        return True

    @property
    def ping_sent_s(self) -> float | None:
        """When the PING was queued that is not answered yet; None without one."""
        return self._pinger.sent_s

    @property
    def round_trip_s(self) -> float | None:
        """Of the last PING that was answered; None before."""
        return self._pinger.round_trip_s

    def send_exchange(self, payload: bytes) -> bool:
        """Queue a PEER-EXCHANGE of 1 to MAX_EXCHANGE_BYTES; else LocalTunnelError. False: it was not taken,
        for the last one has not left, or the link has failed.
        """
        cell = pack_peer_exchange(payload)
        if self.error is not None or not self.sender.has_left(self._exchange_mark):
            return False
        self._exchange_mark = self.sender.queue(cell)
        return True

    def take_exchange(self) -> bytes | None:
        """The payload of the last PEER-EXCHANGE that came, once; None: wait for `exchange`."""
        payload, self._exchange_in = self._exchange_in, None
        return payload

    def pad(self, units: int) -> bool:
        """Seal a record of padding only. False: no room, so there is traffic enough."""
        return self.error is None and self.sender.pad(units)

    def tick(self) -> None:
        """With records of a fixed size: let exactly one more leave (`Sender.tick`)."""
        if self.error is None:
            self.sender.tick()

    # -- for the streams ------------------------------------------------------------------------------

    def settle(self, stream: MuxStream[N]) -> None:
        """Forget a stream that has ended in order."""
        if stream.is_done:
            self.table.remove(stream)
            self.sender.forget(stream)

    def reset(self, stream: MuxStream[N], code: ErrorCode, error: TunnelError | None = None) -> None:
        """Reset a stream both ways; `error` is what it fails with here."""
        self.table.abandon(stream)
        mark = self.sender.queue(pack_reset(stream.id, code))
        if not stream.is_opener:
            self._resets.append(mark)
        self._drop(stream, error or StreamReset(code, "here"))

    def _drop(self, stream: MuxStream[N], error: TunnelError) -> None:
        """What remains of a stream that has left the table early. One that nobody has accepted is gone."""
        self.sender.forget(stream)
        self._arrived.pop(stream, None)
        stream.fail(error, keep_complete=False)

    def _add(self, stream_id: int, profile: Profile, *, is_opener: bool, extra_window: int) -> MuxStream[N]:
        """`extra_window` is what the opener grants beyond the profile's window."""
        window = profile.geometry.window_bytes
        stream = MuxStream(
            self,
            stream_id,
            profile,
            is_opener=is_opener,
            credit=window if is_opener else window + extra_window,
            window_bytes=window + extra_window if is_opener else window,
            readable=self._make_notifier(),
            writable=self._make_notifier(),
        )
        self.table.add(stream)
        return stream

    # -- cells from the peer -------------------------------------------------------------------------

    def _on_open(self, stream_id: int, payload: memoryview) -> None:
        profile_byte, extra = parse_open(payload)
        self.table.take_id(stream_id)
        if self._peer_has_left:
            raise LinkError("OPEN after GOAWAY")
        if self._resets and self.sender.has_left(self._resets[0]):
            self._resets = [mark for mark in self._resets if not self.sender.has_left(mark)]
        if len(self._resets) > self._max_resets:
            raise LinkError(f"OPEN while {len(self._resets)} RESETs of such streams have not left")
        try:
            profile = Profile.from_byte(profile_byte)
        except ProfileError as error:
            self._refuse_open(stream_id, error.code, _UNKNOWN_WINDOW_BYTES)
            return
        window = profile.geometry.window_bytes
        if not self.table.admits(window):
            self._refuse_open(stream_id, ErrorCode.BUSY, window)
            return
        stream = self._add(stream_id, profile, is_opener=False, extra_window=extra)
        self._arrived[stream] = None
        self.incoming.set()

    def _refuse_open(self, stream_id: int, code: ErrorCode, window: int) -> None:
        self._resets.append(self.sender.queue(pack_reset(stream_id, code)))
        self.table.late_bytes += window

    def _on_data(self, stream_id: int, payload: memoryview) -> None:
        stream = self.table.find(stream_id, CellType.DATA)
        if stream is None:
            self.table.late(stream_id, len(payload))
        elif stream.advance(CellType.DATA):
            stream.take_data(payload, self.last_received_s)
        else:
            self._out_of_order(stream, CellType.DATA)

    def _on_credit(self, stream_id: int, payload: memoryview) -> None:
        count = parse_credit(payload)
        stream = self.table.find(stream_id, CellType.CREDIT)
        if stream is not None and not stream.take_credit(count):
            self._out_of_order(stream, CellType.CREDIT)

    def _on_fin(self, stream_id: int, payload: memoryview) -> None:
        stream = self._step(stream_id, CellType.FIN)
        if stream is not None:
            self.sender.owe_nothing(stream)
            stream.readable.set()
            self.settle(stream)

    def _on_status(self, stream_id: int, payload: memoryview) -> None:
        stream = self._step(stream_id, CellType.STATUS)
        if stream is not None:
            stream.status = bytes(payload)
            stream.readable.set()
            self.settle(stream)

    def _step(self, stream_id: int, kind: CellType) -> MuxStream[N] | None:
        """The stream whose half has taken a step; None where it has ended, or ends for want of order."""
        stream = self.table.find(stream_id, kind)
        if stream is None or stream.advance(kind):
            return stream
        self._out_of_order(stream, kind)
        return None

    def _out_of_order(self, stream: MuxStream[N], kind: CellType) -> None:
        """Only this stream's order is broken: it ends, the link goes on."""
        error = LinkError(f"stream {stream.id}: {kind.name} is not legal now")
        self.reset(stream, ErrorCode.PROTOCOL, error)

    def _on_reset(self, stream_id: int, payload: memoryview) -> None:
        code = parse_reset(payload)
        if not stream_id:
            raise LinkError(f"the neighbour ended the link: {code.name}", code)
        stream = self.table.find(stream_id, CellType.RESET)
        if stream is not None:
            self.table.remove(stream)
            self._drop(stream, StreamReset(code))

    def _on_ping(self, stream_id: int, payload: memoryview) -> None:
        is_answer, token = parse_ping(payload)
        if is_answer:
            self._pinger.answered(token, self.last_received_s)
        else:
            self.sender.queue_answer(pack_ping(token, is_answer=True))

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


_HANDLERS: Final[dict[int, Callable[[Multiplexer[Any], int, memoryview], None]]] = {
    CellType.OPEN: Multiplexer._on_open,
    CellType.DATA: Multiplexer._on_data,
    CellType.CREDIT: Multiplexer._on_credit,
    CellType.FIN: Multiplexer._on_fin,
    CellType.RESET: Multiplexer._on_reset,
    CellType.STATUS: Multiplexer._on_status,
    CellType.PING: Multiplexer._on_ping,
    CellType.GOAWAY: Multiplexer._on_go_away,
    CellType.PEER_EXCHANGE: Multiplexer._on_peer_exchange,
}
