"""All streams of one authenticated link, as a state machine over bytes.

The socket side calls `space`, `received`, `pending` and `sent`; services use the streams (stream.py).
Outgoing content is sealed straight into one buffer (scheduler.py), so the sending side has no queue of
content. Incoming records are opened in place (records.py) and their cells applied one by one. Content goes
to the queue of its stream, bounded by the credit that this side granted, or a relay passes it on at once
(`MuxStream.pass_on`).

Calls go one way: `Multiplexer` calls `MuxStream` and `StreamTable` (stream_table.py), and both of those
call `LinkSender` (scheduler.py). None of them calls the multiplexer.

Rules for changing it:

* A forbidden byte ends the smallest scope that it can be charged to: the stream (RESET both ways) if only
  that stream's order was broken, else the link. docs/protocol.md, "Streams", has the table.
* Everything that a peer can make grow has a limit in `MuxLimits` or beside its constant.
* When a stream ends, nothing of it stays in the table, the turns, the control queue or the budget.

Source: docs/protocol.md, "Link cells", "Streams" and "Credit".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal

from readwrite_comp.errors import renewed
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import Disconnected, ErrorCode, LinkError, ProfileError, TunnelError
from tunnel.geometry import Profile
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
from tunnel.link.records import BUFFERS, Budget, BufferPool, IncomingRecords, RecordOpener, RecordSealer
from tunnel.link.scheduler import LinkSender
from tunnel.link.stream import MuxStream, N
from tunnel.link.stream_table import MuxLimits, StreamTable

__all__ = ["PASSES_PER_RECEIVE", "Liveness", "Multiplexer", "MuxLimits", "MuxStream", "Pinger"]

# A peer may have sent this much on a stream whose profile is unknown here.
_UNKNOWN_WINDOW_BYTES: Final = 1 << 20
PASSES_PER_RECEIVE: Final = 32
"""Chunks of one receive that are passed on at once. Each takes up to 0.2 ms; then other services run."""


class Multiplexer(Generic[N]):
    """One link.

    Args:
        keys: of the finished handshake.
        is_dialler: whether this side dialled: its streams have odd numbers, the other's even ones.
        engine: provides the AEAD.
        limits: of this link.
        make_notifier: makes the flags that `output`, `incoming`, `exchange` and the streams set.
        budget: of the node; by default one for this link, of the size of its windows.
        now_s: a monotonic clock.
        record_units: 0, or the fixed size of all records in units of 1,024 bytes (constant rate): then
            records leave only by `tick`.
        peer_id: node id of the neighbour.
        buffers: the pool that lends the two buffers while they hold bytes.
    Attributes:
        output: set when `pending` is no longer empty.
        incoming: set when `accept_nowait` has a stream, and when the link fails.
        exchange: set when `take_exchange` has a payload.
        last_received_s: when bytes last arrived.
        error: the reason why the link failed.
        sender, table, budget: shared with its streams; `sender.is_idle` means that nothing is unsent.
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
        peer_id: bytes = b"",
        buffers: BufferPool = BUFFERS,
    ) -> None:
        self.output = make_notifier()
        self.incoming = make_notifier()
        self.exchange = make_notifier()
        self.sender = LinkSender(RecordSealer(keys.send_key, engine), buffers, record_units, self.output)
        # A budget for one link never runs out before its windows do.
        self.budget = Budget(limits.window_bytes * 10 // 9 + 1) if budget is None else budget
        self.table: StreamTable[MuxStream[N]] = StreamTable(
            limits, self.sender, self.budget, peer_id=peer_id, is_dialler=is_dialler
        )
        self._in = IncomingRecords(RecordOpener(keys.receive_key, engine), buffers)
        self._make_notifier = make_notifier
        self._now_s = now_s
        self._pinger = Pinger()
        self._has_left = False
        self._peer_has_left = False
        self._exchange_in: bytes | None = None
        self._exchange_mark = 0
        self.last_received_s = now_s()
        self.error: TunnelError | None = None

    # -- the socket's side ----------------------------------------------------------------------------

    def space(self) -> memoryview:
        """Return the space to receive into, never empty. From here until `received` the link holds a buffer.

        Call it when the socket is readable, then `received`, with 0 if no bytes arrived.
        """
        return self._in.space()

    def received(self, count: int) -> None:
        """Open every whole record in the first `count` bytes of `space()` and apply its cells.

        Raises:
            LinkError: forbidden bytes, or the peer ended the link for a fault of this side. All streams have
                failed with it; send what `pending` has, then close. Later calls raise it again.
        """
        if self.error is not None:
            raise renewed(self.error)
        if count:
            self.last_received_s = self._now_s()
        incoming = self._in
        incoming.received(count)
        self.table.passes_left = PASSES_PER_RECEIVE
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
        """Whether an incomplete record has arrived: a driver limits the time until it is complete."""
        return self._in.partial_bytes > 0

    @property
    def pending(self) -> memoryview:
        """Sealed bytes to send, waiting control cells included; valid until the next call."""
        return self.sender.pending

    def sent(self, count: int) -> None:
        """The first `count` bytes of `pending` were sent."""
        self.sender.sent(count)

    def fail(self, error: TunnelError) -> None:
        """End the link: every stream fails with `error`, except for content that arrived with its FIN.

        Sealed bytes stay in `pending`. Idempotent.
        """
        if self.error is not None:
            return
        self.error = error
        unaccepted = set(self.table.arrived)
        self.sender.stop()
        self._in.clear()
        for stream in self.table.clear():
            stream.fail(error, keep_complete=stream not in unaccepted)
        self.incoming.set()
        self.exchange.set()
        self.output.set()

    def close(self) -> None:
        """Return the buffers, after `fail`, when the connection is closed. Idempotent."""
        self.fail(Disconnected("the link was closed here"))
        self.sender.clear()

    # -- streams --------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """Number of open streams of both sides."""
        return len(self.table.streams)

    @property
    def can_open(self) -> bool:
        """Whether `open` can open a stream of the default profile."""
        return self.error is None and not self._has_left and not self._peer_has_left and self.table.can_open

    @property
    def is_crowded(self) -> bool:
        """Whether another link, if there is one, should take the next stream."""
        return self.table.is_crowded

    def open(self, profile: Profile, *, extra_window: int = 0) -> MuxStream[N]:
        """Open a stream; OPEN is queued, and leaves with the first content.

        Args:
            extra_window: bytes that the peer may send beyond the profile's window.
        Raises:
            TableFull: a limit on streams or windows is reached. Disconnected: one side has sent GOAWAY. The
                error with which the link failed.
        """
        if self.error is not None:
            raise renewed(self.error)
        if self._has_left or self._peer_has_left:
            raise Disconnected("the link is being ended, it takes no new stream")
        stream_id = self.table.next_id(profile.geometry.window_bytes + extra_window)
        stream = self._add(stream_id, profile, is_opener=True, extra_window=extra_window)
        self.sender.queue_for(stream, pack_open(stream_id, profile, extra_window))
        return stream

    def _add(self, stream_id: int, profile: Profile, *, is_opener: bool, extra_window: int) -> MuxStream[N]:
        """Enter a stream; `extra_window`: bytes that its opener grants beyond the profile's window."""
        window = profile.geometry.window_bytes
        stream = MuxStream(
            self.table,
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

    def accept_nowait(self) -> MuxStream[N] | None:
        """Return the next stream that the peer has opened, or None: wait for `incoming`.

        Raises:
            the error with which the link failed.
        """
        if self.table.arrived:
            return self.table.arrived.popitem(last=False)[0]
        if self.error is not None:
            raise renewed(self.error)
        return None

    def go_away(self) -> None:
        """Open no further streams; open streams continue. Idempotent."""
        if not self._has_left and self.error is None:
            self._has_left = True
            self.sender.queue(pack_go_away())

    @property
    def peer_leaves(self) -> bool:
        """Whether the peer has sent GOAWAY and opens no further streams."""
        return self._peer_has_left

    @property
    def is_drained(self) -> bool:
        """Whether closing loses nothing: both sides have sent GOAWAY, and nothing is open or unsent."""
        return self._has_left and self._peer_has_left and not self.table.streams and self.sender.is_idle

    # -- the link -------------------------------------------------------------------------------------

    def ping(self) -> bool:
        """Send a PING. False: the last one has not been answered, or the link has failed."""
        cell = None if self.error is not None else self._pinger.request(self._now_s())
        if cell is None:
            return False
        self.sender.queue(cell)
        return True

    @property
    def ping_sent_s(self) -> float | None:
        """When the unanswered PING was queued; None without one."""
        return self._pinger.sent_s

    def send_exchange(self, payload: bytes) -> bool:
        """Queue a PEER-EXCHANGE. False: not queued, because the last one is unsent or the link has failed.

        Raises:
            LocalTunnelError: not 1 to MAX_EXCHANGE_BYTES.
        """
        cell = pack_peer_exchange(payload)
        if self.error is not None or not self.sender.has_left(self._exchange_mark):
            return False
        self._exchange_mark = self.sender.queue(cell)
        return True

    def take_exchange(self) -> bytes | None:
        """Take the payload of the last PEER-EXCHANGE that arrived. None: wait for `exchange`."""
        payload, self._exchange_in = self._exchange_in, None
        return payload

    def pad(self, units: int) -> bool:
        """Seal a record of padding only. False: no room, so there is enough traffic."""
        return self.error is None and self.sender.pad(units)

    def tick(self) -> None:
        """With records of a fixed size: let exactly one more leave (`LinkSender.tick`)."""
        if self.error is None:
            self.sender.tick()

    # -- cells from the peer --------------------------------------------------------------------------

    def _on_open(self, stream_id: int, payload: memoryview) -> None:
        profile_byte, extra = parse_open(payload)
        table = self.table
        table.take_id(stream_id)
        if self._peer_has_left:
            raise LinkError("OPEN after GOAWAY")
        table.check_resets()
        try:
            profile = Profile.from_byte(profile_byte)
        except ProfileError as error:
            table.refuse(stream_id, error.code, _UNKNOWN_WINDOW_BYTES)
            return
        window = profile.geometry.window_bytes
        if not table.admits(window):
            table.refuse(stream_id, ErrorCode.BUSY, window)
            return
        self._add(stream_id, profile, is_opener=False, extra_window=extra)
        self.incoming.set()

    def _on_data(self, stream_id: int, payload: memoryview) -> None:
        stream = self.table.find(stream_id, CellType.DATA)
        if stream is None:
            self.table.late(stream_id, len(payload))
        else:
            stream.take_data(payload, self.last_received_s)

    def _on_credit(self, stream_id: int, payload: memoryview) -> None:
        count = parse_credit(payload)
        stream = self.table.find(stream_id, CellType.CREDIT)
        if stream is not None:
            stream.take_credit(count)

    def _on_fin(self, stream_id: int, payload: memoryview) -> None:
        stream = self.table.find(stream_id, CellType.FIN)
        if stream is not None:
            stream.take_fin()

    def _on_status(self, stream_id: int, payload: memoryview) -> None:
        stream = self.table.find(stream_id, CellType.STATUS)
        if stream is not None:
            stream.take_status(bytes(payload))

    def _on_reset(self, stream_id: int, payload: memoryview) -> None:
        code = parse_reset(payload)
        if not stream_id:
            raise LinkError(f"the neighbour ended the link: {code.name}", code)
        stream = self.table.find(stream_id, CellType.RESET)
        if stream is not None:
            stream.take_reset(code)

    def _on_ping(self, stream_id: int, payload: memoryview) -> None:
        is_answer, token = parse_ping(payload)
        if is_answer:
            self._pinger.answered(token)
        else:
            self.sender.queue_answer(pack_ping(token, is_answer=True))

    def _on_go_away(self, stream_id: int, payload: memoryview) -> None:
        if self._peer_has_left:
            raise LinkError("second GOAWAY")
        self._peer_has_left = True
        # The answer shows the peer that no OPEN is in transit any more, so closing loses nothing.
        self.go_away()
        self.incoming.set()

    def _on_peer_exchange(self, stream_id: int, payload: memoryview) -> None:
        # Replaces an older one that is still unread: the newer is better, and memory stays bounded.
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


# Liveness: one PING at a time. Its token is a counter of this link, so an unsolicited answer is recognised.
# Only the two ends of a link watch it. Source: docs/protocol.md, "Link cells".


class Pinger:
    """The PING of this side that awaits its answer, if there is one.

    Attributes:
        sent_s: when it was queued; None without one.
    """

    __slots__ = ("_count", "_token", "sent_s")

    def __init__(self) -> None:
        self._count = 0
        self._token = b""
        self.sent_s: float | None = None

    def request(self, now_s: float) -> bytes | None:
        """Return the cell to send, or None while the last PING is unanswered."""
        if self.sent_s is not None:
            return None
        self._count += 1
        self._token = self._count.to_bytes(PING_TOKEN_BYTES, "big")
        self.sent_s = now_s
        return pack_ping(self._token, is_answer=False)

    def answered(self, token: bytes) -> None:
        """Take an answer.

        Raises:
            LinkError: it answers no PING of this side.
        """
        if self.sent_s is None or token != self._token:
            raise LinkError("answer to a PING that was not sent")
        self.sent_s = None


Verdict = Literal["wait", "ping", "dead"]


@dataclass(frozen=True, slots=True)
class Liveness:
    """Decides when to send a PING, and when a neighbour has gone.

    Attributes:
        quiet_s: silence before a PING. Less than the half minute after which many address translators forget
            a connection.
        dead_s: silence after that PING until the link is dead.
    """

    quiet_s: float = 25.0
    dead_s: float = 20.0

    def verdict(self, now_s: float, *, last_received_s: float, ping_sent_s: float | None) -> Verdict:
        """The decision for now.

        Any byte since the PING counts, not only its answer: the answer may be behind a long transfer.
        """
        if ping_sent_s is None:
            return "ping" if now_s >= last_received_s + self.quiet_s else "wait"
        return "dead" if now_s >= max(ping_sent_s, last_received_s) + self.dead_s else "wait"
