"""The sending half of a link: which stream writes next, and which cells share a record.

`WriteScheduler` gives the streams their turns, `ControlQueue` holds control cells (everything except DATA and
STATUS), and `LinkSender` joins both to the one outgoing buffer (records.py). Content is sealed straight into
that buffer when its stream has its turn. Control cells wait until the link is about to send. Then they use
the padding of a content record, or a separate record. With records of one fixed size, only `tick` sends.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from tunnel.errors import LocalTunnelError
from tunnel.link.cells import CELL_HEAD, CELL_HEAD_BYTES, MAX_EXCHANGE_BYTES, CellType, pack_credit
from tunnel.link.records import (
    MAX_RECORD_BYTES,
    MAX_UNITS,
    RECORD_OVERHEAD,
    UNIT_BYTES,
    BufferPool,
    OutgoingRecords,
    RecordSealer,
)

__all__ = [
    "MIN_FIXED_UNITS",
    "LinkSender",
    "Notifier",
    "SendingStream",
    "WriteScheduler",
    "Writer",
]


# Control cells wait until the link sends, so all credits of one flush leave together, mostly in padding that
# would have been sent anyway. The queue is bounded: for each stream at most OPEN, FIN, RESET and one CREDIT;
# for the link one GOAWAY, one answer to a PING and one PEER-EXCHANGE; and RESETs of ended streams, which the
# stream table counts. Cells keep their order; credits may leave after them.
_CREDIT_BYTES = CELL_HEAD_BYTES + 4


class CreditSource(Protocol):
    """A stream that owes its peer credit."""

    id: int

    def take_owed_credit(self) -> int:
        """Return the credit to grant now; 0 if none is owed any more."""


class ControlQueue:
    """Cells in, the first part of a record out.

    Attributes:
        queued, taken: number of cells ever queued and taken, without credits and answers to PINGs. A cell
            has left the queue when `taken` reaches the value that `queued` had after it.
    """

    __slots__ = ("_answer", "_bytes", "_cells", "_owing", "queued", "taken")

    def __init__(self) -> None:
        self._cells: list[bytes] = []  # a deque takes 700 bytes of each idle link
        self._owing: dict[CreditSource, None] = {}
        self._answer = b""
        self._bytes = 0
        self.queued = 0
        self.taken = 0

    @property
    def size(self) -> int:
        """Bytes of all waiting cells."""
        return self._bytes + len(self._answer) + _CREDIT_BYTES * len(self._owing)

    def add(self, cell: bytes) -> int:
        """Queue a cell; returns its number, for comparison with `taken`."""
        self._cells.append(cell)
        self._bytes += len(cell)
        self.queued += 1
        return self.queued

    def answer(self, cell: bytes) -> None:
        """Queue the answer to a PING. It replaces a waiting answer, so a flood of PINGs adds nothing."""
        self._answer = cell

    def schedule_credit(self, stream: CreditSource) -> None:
        """Ask `stream` for the credit that it owes when the next cells are taken."""
        self._owing[stream] = None

    def forget(self, stream: CreditSource) -> None:
        """The stream owes no credit any more."""
        self._owing.pop(stream, None)

    def take(self, limit: int) -> bytes:
        """Take cells of at most `limit` bytes in total; may return none."""
        parts: list[bytes] = []
        for cell in self._cells:
            if len(cell) > limit:
                break
            limit -= len(cell)
            self._bytes -= len(cell)
            parts.append(cell)
        del self._cells[: len(parts)]
        self.taken += len(parts)
        if self._answer and len(self._answer) <= limit:
            limit -= len(self._answer)
            parts.append(self._answer)
            self._answer = b""
        while self._owing and limit >= _CREDIT_BYTES:
            stream = next(iter(self._owing))
            del self._owing[stream]
            count = stream.take_owed_credit()
            if count:
                limit -= _CREDIT_BYTES
                parts.append(pack_credit(stream.id, count))
        return b"".join(parts)

    def clear(self) -> None:
        """Drop all cells."""
        self._cells.clear()
        self._owing.clear()
        self._answer = b""
        self._bytes = 0
        self.taken = self.queued


# Fairness: round robin, one piece per stream and turn.
#
# A stream that finds no room waits at the end of a queue. Freed room wakes as many streams from the front as
# fit, and each holds a *grant* until it calls again. While any stream waits or holds a grant, a stream
# without a grant goes to the end of the queue even if there is room. So no stream writes twice while another
# waits.
#
# A grant whose holder never calls, because its service was cancelled, would block the others. It ends with
# its stream, or when the buffer has run empty twice since.


class Notifier(Protocol):
    """A flag that wakes the service that waits for it, such as `reactor.Signal`."""

    def set(self) -> None:
        """Wake the waiting service; without one, the next wait returns immediately."""


class Writer(Protocol):
    """A stream as `WriteScheduler` sees it."""

    @property
    def writable(self) -> Notifier:
        """Set when a refused write is worth another try."""


class WriteScheduler:
    """The turns of one link. A queue entry has the bytes wanted; a grant also the count of emptyings."""

    __slots__ = ("_empties", "_waiting", "granted")

    def __init__(self) -> None:
        self._waiting: OrderedDict[Writer, int] = OrderedDict()
        self.granted: dict[Writer, tuple[int, int]] = {}
        self._empties = 0

    def __len__(self) -> int:
        """Number of streams that wait or hold a grant."""
        return len(self._waiting) + len(self.granted)

    def admits(self, stream: Writer, size: int, room: int) -> bool:
        """Whether `stream` may add `size` bytes now; if not, it gets a place in the queue."""
        waiting, granted = self._waiting, self.granted
        if not waiting and not granted:
            if size <= room:
                return True
            waiting[stream] = size
            return False
        has_turn = granted.pop(stream, None) is not None
        if has_turn and size <= room:
            if not granted:
                self.wake(room - size)
            return True
        waiting[stream] = size
        if has_turn:
            waiting.move_to_end(stream, last=False)
        return False

    def wake(self, room: int) -> None:
        """Give grants from the front of the queue while `room` reaches beyond those already given."""
        if not self._waiting:
            return
        room -= sum(size for size, _ in self.granted.values())
        while self._waiting:
            stream, size = next(iter(self._waiting.items()))
            if size > room:
                return
            room -= size
            del self._waiting[stream]
            self.granted[stream] = size, self._empties
            stream.writable.set()

    def freed(self, room: int, *, is_empty: bool) -> None:
        """Bytes have left the buffer. `is_empty`: it has no more."""
        if is_empty:
            self._empties += 1
            for stream, (_, given) in list(self.granted.items()):
                if given < self._empties - 1:
                    del self.granted[stream]
        self.wake(room)

    def forget(self, stream: Writer, room: int) -> None:
        """Give up the place and the grant of a stream that does not write now."""
        self._waiting.pop(stream, None)
        if self.granted.pop(stream, None) is not None:
            self.wake(room)

    def clear(self) -> None:
        """Drop all places and grants."""
        self._waiting.clear()
        self.granted.clear()


# A record of a fixed size must hold the longest control cell, PEER-EXCHANGE.
MIN_FIXED_UNITS: Final = -(-(MAX_EXCHANGE_BYTES + CELL_HEAD_BYTES + RECORD_OVERHEAD) // UNIT_BYTES)


class SendingStream(CreditSource, Writer, Protocol):
    """A stream as `LinkSender` sees it. `control_mark`: number of its last control cell."""

    control_mark: int


class LinkSender:
    """One direction of a link.

    Args:
        sealer: of this direction.
        pool: lends the buffer while it holds bytes.
        record_units: 0, or the fixed size of all records.
        output: set when there may be something to send.
    Raises:
        LocalTunnelError: `record_units` below MIN_FIXED_UNITS or above 63.
    """

    __slots__ = ("_output", "control", "fixed_bytes", "out", "turns")

    def __init__(self, sealer: RecordSealer, pool: BufferPool, record_units: int, output: Notifier) -> None:
        if record_units and not MIN_FIXED_UNITS <= record_units <= MAX_UNITS:
            raise LocalTunnelError(
                f"records of a fixed size have {MIN_FIXED_UNITS} to {MAX_UNITS} units, not {record_units}"
            )
        self.fixed_bytes = record_units * UNIT_BYTES
        self.out = OutgoingRecords(sealer, pool, self.fixed_bytes)
        self.control = ControlQueue()
        self.turns = WriteScheduler()
        self._output = output

    # -- the socket's side ----------------------------------------------------------------------------

    @property
    def pending(self) -> memoryview:
        """Sealed bytes to send, waiting control cells included; valid until the next call."""
        if not self.fixed_bytes:
            self._flush_control()
        return self.out.pending

    def sent(self, count: int) -> None:
        """The first `count` bytes of `pending` were sent."""
        out = self.out
        out.sent(count)
        self.turns.freed(out.room, is_empty=out.is_empty)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is unsent."""
        return not self.control.size and self.out.is_empty

    # -- padding --------------------------------------------------------------------------------------

    def pad(self, units: int) -> bool:
        """Seal a record of padding only. False: no room, so there is enough traffic."""
        size = units * UNIT_BYTES
        if self.fixed_bytes or size > self.out.room:
            return False
        self.out.add(size, b"")
        self._output.set()
        return True

    def tick(self) -> None:
        """With records of a fixed size: let exactly one more leave, of padding if nothing else waits.

        A slow socket delays the clock: nothing is added while two records are unsent.
        """
        out = self.out
        if not self.fixed_bytes:
            raise LocalTunnelError("tick on a link without a fixed record size")
        if not out.hidden_bytes:
            if out.room < self.fixed_bytes:
                return  # two records are unsent
            out.add(self.fixed_bytes, self.control.take(self.fixed_bytes - RECORD_OVERHEAD))
        out.show_next()
        self._output.set()

    # -- control cells -------------------------------------------------------------------------------

    def queue(self, cell: bytes) -> int:
        """Queue a control cell; returns its number, for `has_left`."""
        mark = self.control.add(cell)
        self._output.set()
        return mark

    def queue_for(self, stream: SendingStream, cell: bytes) -> None:
        """Queue a control cell that later content of `stream` must not overtake."""
        stream.control_mark = self.queue(cell)

    def queue_answer(self, cell: bytes) -> None:
        """Queue the answer to a PING; it replaces an answer that still waits."""
        self.control.answer(cell)
        self._output.set()

    def has_left(self, mark: int) -> bool:
        """Whether the control cell with this number has been sealed."""
        return mark <= self.control.taken

    def schedule_credit(self, stream: CreditSource) -> None:
        """The stream has credit to grant; it is asked for the amount when the link sends."""
        self.control.schedule_credit(stream)
        self._output.set()

    def owe_nothing(self, stream: CreditSource) -> None:
        """The peer sends no further content on the stream, so it needs no credit."""
        self.control.forget(stream)

    # -- content --------------------------------------------------------------------------------------

    def fixed_room(self) -> int:
        """Bytes of content that the next record of the fixed size holds beside waiting control cells."""
        inside = self.fixed_bytes - RECORD_OVERHEAD - CELL_HEAD_BYTES
        return inside - min(self.control.size, inside // 2)

    def has_room(self, stream: SendingStream, count: int) -> bool:
        """Whether `emit` would seal this many bytes now. False also if a closer check is needed."""
        out = self.out
        return (
            not self.fixed_bytes
            and not len(self.turns)
            and stream.control_mark <= self.control.taken
            and out.size_for(CELL_HEAD_BYTES + count) <= out.room
        )

    def emit(self, stream: SendingStream, kind: CellType, payload: bytes | memoryview) -> bool:
        """Seal one DATA or STATUS cell if it is the stream's turn and there is room; returns whether it was.

        Control cells go in front as far as they fit into what would be padding. Those of this stream always
        go first: nothing of a stream overtakes its OPEN or FIN.
        """
        out, control = self.out, self.control
        cell_bytes = CELL_HEAD_BYTES + len(payload)
        size = out.size_for(cell_bytes)
        spare = size - RECORD_OVERHEAD - cell_bytes
        room = out.room
        waiting_bytes = control.size
        if waiting_bytes > spare and stream.control_mark > control.taken:
            self._flush_control()
            # If they do not all fit now, the content waits until some have left.
            room = out.room if stream.control_mark <= control.taken else 0
        if not self.turns.admits(stream, size, room):
            return False
        front = control.take(spare) if waiting_bytes else b""
        out.add(size, front + CELL_HEAD.pack(kind, 0, len(payload), stream.id), payload)
        self._output.set()
        return True

    def yield_turn(self, stream: Writer) -> None:
        """Give the stream's turn to others, since it cannot write now."""
        if len(self.turns):
            self.turns.forget(stream, self.out.room)

    def forget(self, stream: SendingStream) -> None:
        """The stream has ended; its queued control cells still leave."""
        self.control.forget(stream)
        self.yield_turn(stream)

    # -- ending ---------------------------------------------------------------------------------------

    def stop(self, last: bytes = b"") -> None:
        """Take nothing more. Sealed records can still be sent, and then the cell `last` if it has room."""
        self.control.clear()
        self.turns.clear()
        size = self.out.size_for(1)
        if last and self.out.room >= size:
            self.out.add(size, last)
            self._output.set()

    def clear(self) -> None:
        """Drop everything and return the buffer."""
        self.stop()
        self.out.clear()

    def _flush_control(self) -> None:
        """Seal waiting control cells into separate records, as far as there is room."""
        out, control = self.out, self.control
        while control.size:
            limit = min(self.fixed_bytes or MAX_RECORD_BYTES, out.room) - RECORD_OVERHEAD
            cells = control.take(limit) if limit > 0 else b""
            if not cells:
                return
            out.add(out.size_for(len(cells)), cells)
