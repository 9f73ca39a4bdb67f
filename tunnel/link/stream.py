"""One stream of a multiplexed link: a stream in the sense of `readwrite_comp`, both ways.

`readinto` and `write` give short counts and raise `BlockingIOError`, so ReadYield, WriteYield, layers and
lending work on it as on a socket. Its read side belongs to one service and its write side to one service.
What belongs to the link as a whole (records, turns, the table) is in mux.py; here is what each stream has for
itself: the states of its halves, credit, what was received.

Credit counts content, for each half by itself. The window is what a half's receiver is ready to hold: the
sender's credit, what is on its way, what waits in the queue and what was read but not granted again add up to
it at any time. It is granted again when half of it has been read.
"""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from readwrite_comp.helpers import renewed
from tunnel.errors import ErrorCode, LinkError, LocalTunnelError, StreamReset, TableFull, TunnelError
from tunnel.geometry import Profile
from tunnel.link.buffers import ReceiveQueue
from tunnel.link.cells import MAX_CREDIT, MAX_STATUS_BYTES, CellType, pack_fin
from tunnel.link.scheduler import Notifier

if TYPE_CHECKING:
    from tunnel.link.mux import Multiplexer

__all__ = ["ENDED", "MAY_SEND_DATA", "TRANSITIONS", "Half", "MuxStream", "N"]


# The states of a stream's two halves.
#
# The *forward* half runs from the opener to the other side, the *backward* half runs back. A cell moves
# the half of its sender along a row of `TRANSITIONS`. RESET is not in the table: it is always legal, from
# either side, and ends both halves. CREDIT is not either: it concerns the other side's half and changes no
# state. A pair that is not listed is an error and changes nothing.
#
# Change it together with docs/protocol.md, "Streams". tests/tunnel/test_mux_states.py walks every pair.


class Half(StrEnum):
    """Where one half of a stream stands. Strings, whose hash costs no call of Python for each cell."""

    FORWARD_OPEN = "forward, open"
    FORWARD_ENDED = "forward, ended by FIN"
    BACKWARD_OPEN = "backward, open"
    BACKWARD_STATUS_DUE = "backward, FIN sent, status due"
    BACKWARD_ENDED = "backward, ended by STATUS"


TRANSITIONS: dict[Half, dict[int, Half]] = {
    Half.FORWARD_OPEN: {CellType.DATA: Half.FORWARD_OPEN, CellType.FIN: Half.FORWARD_ENDED},
    Half.FORWARD_ENDED: {},
    Half.BACKWARD_OPEN: {CellType.DATA: Half.BACKWARD_OPEN, CellType.FIN: Half.BACKWARD_STATUS_DUE},
    Half.BACKWARD_STATUS_DUE: {CellType.STATUS: Half.BACKWARD_ENDED},
    Half.BACKWARD_ENDED: {},
}
MAY_SEND_DATA = frozenset(half for half, row in TRANSITIONS.items() if CellType.DATA in row)
# Nothing more can come of such a half; a stream of two such halves leaves the link's table.
ENDED = frozenset(half for half, row in TRANSITIONS.items() if not row)
N = TypeVar("N", bound=Notifier)


class MuxStream(Generic[N]):
    """Made by `Multiplexer.open` and `Multiplexer.accept_nowait` only.

    Attributes:
        id: its number on the link.
        profile: the shape of its frame.
        is_opener: whether this side opened it, and so sends the forward half.
        readable, writable: told when a refused call is worth another try; `readable` also when `status` has
            come, and both when the stream fails.
        status: what `send_status` sent at the other end, once it is here.
        error: why it failed: sticky, raised by each call that it concerns.
        failed: set when the stream fails, for a service that neither reads nor writes. None: none waits.
        content_in, content_out: bytes read and written.
    """

    __slots__ = (
        "_credit",
        "_granted",
        "_mux",
        "_owed",
        "_piece_left",
        "_queue",
        "_read_error",
        "_read_since",
        "_receive_half",
        "_send_half",
        "content_in",
        "content_out",
        "control_mark",
        "error",
        "failed",
        "id",
        "is_opener",
        "profile",
        "readable",
        "status",
        "window_bytes",
        "writable",
    )

    def __init__(
        self,
        mux: Multiplexer[N],
        stream_id: int,
        profile: Profile,
        *,
        is_opener: bool,
        credit: int,
        window_bytes: int,
        readable: N,
        writable: N,
    ) -> None:
        self._mux = mux
        self.id = stream_id
        self.profile = profile
        self.is_opener = is_opener
        self._send_half = Half.FORWARD_OPEN if is_opener else Half.BACKWARD_OPEN
        self._receive_half = Half.BACKWARD_OPEN if is_opener else Half.FORWARD_OPEN
        # Content is cut where the frame's shape has it, however it is written: records of a kind look alike.
        self._piece_left = profile.geometry.header_bytes if is_opener else profile.geometry.chunk_bytes
        self._credit = credit  # what this side may send
        self._granted = window_bytes  # what the peer may send
        self.window_bytes = window_bytes
        self._owed = 0  # read, and not granted again
        self._read_since = 0  # read since the window last grew
        self._queue = ReceiveQueue()
        self._read_error: TunnelError | None = None
        self.error: TunnelError | None = None
        self.failed: N | None = None
        self.control_mark = 0  # number of this stream's last control cell (ControlQueue)
        self.readable = readable
        self.writable = writable
        self.status: bytes | None = None
        self.content_in = 0
        self.content_out = 0

    @property
    def peer_id(self) -> bytes:
        """Node id of the neighbour, as the multiplexer was told."""
        return self._mux.peer_id

    @property
    def is_ended(self) -> bool:
        """Whether the link has forgotten it: both halves have ended, or it has failed."""
        return self.error is not None or (self._send_half in ENDED and self._receive_half in ENDED)

    @property
    def can_write(self) -> bool:
        """Whether this side's half still takes content."""
        return self.error is None and self._send_half in MAY_SEND_DATA

    @property
    def is_answered(self) -> bool:
        """On the side that accepted: whether the status is sent."""
        return self._send_half is Half.BACKWARD_ENDED

    @property
    def is_cut(self) -> bool:
        """Whether it has failed before the peer's half came to its FIN: what was not read is lost."""
        return self._read_error is not None

    @property
    def unread_bytes(self) -> int:
        """Content that is here and was not read."""
        return self._queue.size

    # -- reading ------------------------------------------------------------------------------------

    def readinto(self, buffer: memoryview) -> int:
        """Content of the peer's half.

        Returns:
            Bytes written into `buffer`; 0 after FIN, and only then (or for an empty buffer).
        Raises:
            BlockingIOError: nothing now; wait for `readable`. StreamReset: the stream was reset.
            Disconnected: the connection broke before FIN. LinkError: the peer broke a rule. TableFull: the
                node holds too much unread content. All but the first are sticky.
        """
        queue = self._queue
        if queue.size:
            count = queue.readinto(buffer)
            self._was_read(count)
            return count
        if not len(buffer):
            return 0
        if self._read_error is not None:
            raise renewed(self._read_error)
        if self._receive_half not in MAY_SEND_DATA:
            return 0
        raise BlockingIOError(errno.EAGAIN, "nothing received that was not read")

    def take_piece(self, size: int) -> bytearray | None:
        """The next `size` bytes in a buffer that is the caller's from now on, where they lie so: uncopied.

        Returns:
            None: they do not, or have not come, or never will; `readinto` says which.
        """
        piece = self._queue.take_piece(size)
        if piece is not None:
            self._was_read(size)
        return piece

    def _was_read(self, count: int) -> None:
        """So much has left the queue: owed to the peer as credit, which goes once it is worth a cell."""
        self.content_in += count
        self._mux.budget.free(self, count, is_empty=not self._queue.size)
        self._owed += count
        self._read_since += count
        if 2 * self._owed >= self.window_bytes and self._receive_half in MAY_SEND_DATA:
            self._mux.sender.schedule_credit(self)

    def read_status(self) -> bytes:
        """The status that ends the backward half; call it after `readinto` has given 0.

        Raises:
            BlockingIOError: not here yet; wait for `readable`. What ended the stream before it came.
        """
        if self.status is not None:
            return self.status
        if self.error is not None:
            raise renewed(self.error)
        raise BlockingIOError(errno.EAGAIN, "no status received")

    # -- writing ------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> int:
        """Seal content into the link's outgoing buffer.

        A call takes no more than the piece under way: the header that a forward half begins with, then
        chunk by chunk. What it takes goes whole or not at all, so the sizes of records do not show how
        credit stood.

        Returns:
            Bytes taken: all, or up to the end of the piece; 0 of empty data.
        Raises:
            BlockingIOError: no credit, no room, or another stream's turn; wait for `writable`, then call
                again (or end the stream: until then a turn is kept for it). LocalTunnelError: after
                `finish`. StreamReset, Disconnected, LinkError, TableFull: as for `readinto`.
        """
        if self.error is not None:
            raise renewed(self.error)
        if self._send_half not in MAY_SEND_DATA:
            raise LocalTunnelError("write after finish")
        if not len(data):
            return 0
        count = min(len(data), self._piece_left)
        sender = self._mux.sender
        if sender.fixed_bytes:
            # Every record has one size whatever it holds: here content may be cut as credit and room have it.
            count = min(count, self._credit, sender.fixed_room())
        if not 0 < count <= self._credit:
            sender.yield_turn(self)
            raise BlockingIOError(errno.EAGAIN, f"credit of {self._credit} bytes")
        if not sender.emit(self, CellType.DATA, memoryview(data)[:count]):
            raise BlockingIOError(errno.EAGAIN, "the link's buffer is full, or others have their turn")
        self._piece_left = self._piece_left - count or self.profile.geometry.chunk_bytes
        self._credit -= count
        self.content_out += count
        return count

    def flush(self) -> None:
        """Nothing to do: what `write` takes is on its way as soon as the socket takes it."""

    def finish(self) -> None:
        """End this side's half in order; queued. Again, or after the stream's end: nothing."""
        if self.error is None and self._send_half in MAY_SEND_DATA:
            self._send_half = TRANSITIONS[self._send_half][CellType.FIN]
            self._mux.sender.queue_for(self, pack_fin(self.id))
            self._mux.sender.yield_turn(self)
            self._mux.settle(self)

    def send_status(self, status: bytes) -> None:
        """Say how the frame went; the last that the backward half carries, so after `finish`.

        Args:
            status: 1 to MAX_STATUS_BYTES (cells.py), opaque here.
        Raises:
            BlockingIOError: no room, or another stream's turn; wait for `writable`. LocalTunnelError: not the
                side that accepted, before `finish`, a second one, or one of another length. StreamReset,
                Disconnected, LinkError, TableFull: as for `readinto`.
        """
        if self.error is not None:
            raise renewed(self.error)
        after = TRANSITIONS[self._send_half].get(CellType.STATUS)
        if after is None:
            raise LocalTunnelError(f"no status can be sent now: {self._send_half.value}")
        if not 0 < len(status) <= MAX_STATUS_BYTES:
            raise LocalTunnelError(f"a status has 1 to {MAX_STATUS_BYTES} bytes, not {len(status)}")
        if not self._mux.sender.emit(self, CellType.STATUS, status):
            raise BlockingIOError(errno.EAGAIN, "the link's buffer is full, or others have their turn")
        self._send_half = after
        self._mux.settle(self)

    def reset(self, code: ErrorCode) -> None:
        """End the stream early, both ways, with the reason; queued. Unread content is dropped.

        Again, or after the stream's end: only drops what was not read.
        """
        if self.is_ended:
            self._drop_unread(StreamReset(code, "here"))
        else:
            self._mux.reset(self, code)

    # -- for the multiplexer --------------------------------------------------------------------------

    @property
    def oldest_s(self) -> float:
        """When the unread content came that has waited longest."""
        return self._queue.oldest_s

    @property
    def is_done(self) -> bool:
        """Whether both halves have ended in order."""
        return self._send_half in ENDED and self._receive_half in ENDED

    @property
    def late_bytes(self) -> int:
        """Content that the peer may still send before it hears that the stream has ended."""
        return self._granted if self._receive_half in MAY_SEND_DATA else 0

    def evict(self) -> None:
        """Give up the unread content, for the node holds too much of it."""
        full = TableFull("too much unread content at this node, and that of this stream had waited longest")
        if self.is_ended:
            self._drop_unread(full)
        else:
            self._mux.reset(self, ErrorCode.BUSY, full)

    def _drop_unread(self, error: TunnelError) -> None:
        """Forget what was not read; its reader sees `error`, and no end that looks like one in order."""
        dropped = self._queue.clear()
        if dropped:
            self._read_error = self._read_error or error
            self._mux.budget.free(self, dropped, is_empty=True)

    def advance(self, kind: int) -> bool:
        """The peer's half takes a step along the table. False: the cell is not legal now."""
        after = TRANSITIONS[self._receive_half].get(kind)
        if after is None:
            return False
        self._receive_half = after
        return True

    def take_data(self, payload: memoryview, now_s: float) -> None:
        """Content from the peer.

        Raises:
            LinkError: more than it had credit for.
        """
        count = len(payload)
        if count > self._granted:
            raise LinkError(f"stream {self.id}: {count} bytes of content, credit for {self._granted}")
        self._granted -= count
        is_news = not self._queue.size
        self._queue.append(payload, now_s)
        self._mux.budget.add(self, count)
        if is_news:
            self.readable.set()

    def take_credit(self, count: int) -> bool:
        """Credit from the peer. False: it would be more than there may be."""
        if self._credit + count > MAX_CREDIT:
            return False
        self._credit += count
        self.writable.set()
        return True

    def take_owed_credit(self) -> int:
        """The credit to grant now, and how much the window grows by, in one; 0 after the peer's FIN."""
        if self.error is not None or self._receive_half not in MAY_SEND_DATA:
            return 0
        growth = 0
        if self._read_since >= self.window_bytes:
            growth = self._mux.table.grow(self)
            self._read_since = 0
        count = self._owed + growth
        self._owed = 0
        self._granted += count
        return count

    def fail(self, error: TunnelError, *, keep_complete: bool) -> None:
        """End it with `error`. `keep_complete`: what came with its FIN can still be read."""
        self.error = error
        if not keep_complete or self._receive_half in MAY_SEND_DATA:
            self._read_error = error
            self._drop_unread(error)
        self.readable.set()
        self.writable.set()
        if self.failed is not None:
            self.failed.set()
