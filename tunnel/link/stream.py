"""One stream of a multiplexed link: the states of its two halves, its credit and its received content.

A stream can be read and written as `readwrite_comp` and `reactor` expect it: `readinto` and `write` return
short counts and raise `BlockingIOError`, so ReadYield, WriteYield and layers work on it as on a socket. One
service reads and one service writes.

Credit counts content, separately for each half. The window is the content that the receiver can hold.
At any time it is the sum of the sender's credit, the content in transit, the content in the queue, and the
content that was read but not granted again. Example: with a window of 64 KiB the receiver grants credit after
its reader has taken 32 KiB.

Calls go one way: the multiplexer (mux.py) calls a stream, and a stream calls the table (stream_table.py),
which it shares with all streams of its link, and the sender and the budget there. It knows no multiplexer,
and reports through `readable`, `writable` and `failed`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar

from readwrite_comp.errors import renewed
from tunnel.errors import ErrorCode, LinkError, LocalTunnelError, StreamReset, TableFull, TunnelError
from tunnel.geometry import Profile
from tunnel.link.cells import MAX_CREDIT, MAX_STATUS_BYTES, CellType, pack_fin
from tunnel.link.records import ReceiveQueue
from tunnel.link.scheduler import Notifier
from tunnel.link.stream_table import StreamTable

__all__ = ["ENDED", "MAY_SEND_DATA", "TRANSITIONS", "Half", "MuxStream", "N"]


# The states of a stream's two halves. The *forward* half runs from the opener to the other side, the
# *backward* half runs back. A cell moves the half of its sender along a row of `TRANSITIONS`; a pair that is
# not listed is an error and changes nothing. Two types are not in the table: RESET is always legal and ends
# both halves, and CREDIT concerns the other side's half and changes no state.
#
# Change it together with docs/protocol.md, "Streams". tests/tunnel/test_mux_states.py walks every pair.


class Half(StrEnum):
    """State of one half of a stream. Strings: hashing one takes no Python call."""

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
# Nothing can follow on such a half. A stream whose halves have both ended leaves the table.
ENDED = frozenset(half for half, row in TRANSITIONS.items() if not row)
N = TypeVar("N", bound=Notifier)


class MuxStream(Generic[N]):
    """One stream, made only by `Multiplexer.open` and `Multiplexer.accept_nowait`.

    Args:
        table: of its link.
        credit: bytes that this side may send at first.
        window_bytes: bytes that the peer may send at first.
    Attributes:
        id: its number on the link.
        profile: geometry and cipher suite of its frame.
        is_opener: whether this side opened it, and so sends the forward half.
        readable, writable: set when a refused call is worth another try; `readable` also when `status` has
            arrived, and both when the stream fails.
        status: the status that the other end sent; None until it arrives.
        error: the reason why the stream failed. It is sticky: every call that it concerns raises it.
        failed: set when the stream fails, for a service that neither reads nor writes; None: no such service.
        pass_on: called with content that arrives while none is unread; True: it was taken, and is not queued.
            The view is valid during the call only, and may be written to.
        content_in, content_out: bytes read and written.
        control_mark: number of its last control cell, see `LinkSender.queue_for`.
    """

    __slots__ = (
        "_piece_left",
        "_read_error",
        "_read_since",
        "_receive_half",
        "_send_half",
        "content_in",
        "content_out",
        "control_mark",
        "credit",
        "error",
        "failed",
        "granted",
        "id",
        "is_opener",
        "owed",
        "pass_on",
        "profile",
        "queue",
        "readable",
        "status",
        "table",
        "window_bytes",
        "writable",
    )

    def __init__(
        self,
        table: StreamTable[MuxStream[N]],
        stream_id: int,
        profile: Profile,
        *,
        is_opener: bool,
        credit: int,
        window_bytes: int,
        readable: N,
        writable: N,
    ) -> None:
        self.table = table
        self.id = stream_id
        self.profile = profile
        self.is_opener = is_opener
        self._send_half = Half.FORWARD_OPEN if is_opener else Half.BACKWARD_OPEN
        self._receive_half = Half.BACKWARD_OPEN if is_opener else Half.FORWARD_OPEN
        # Content is cut at header and chunk ends, however it is written: records of a profile look alike.
        self._piece_left = profile.geometry.header_bytes if is_opener else profile.geometry.chunk_bytes
        self.credit = credit  # bytes that this side may send
        self.granted = window_bytes  # bytes that the peer may send
        self.window_bytes = window_bytes
        self.owed = 0  # read, and not granted again
        self._read_since = 0  # read since the window last grew
        self.queue = ReceiveQueue()  # unread content
        self._read_error: TunnelError | None = None
        self.error: TunnelError | None = None
        self.failed: N | None = None
        self.pass_on: Callable[[memoryview], bool] | None = None
        self.control_mark = 0
        self.readable = readable
        self.writable = writable
        self.status: bytes | None = None
        self.content_in = 0
        self.content_out = 0

    @property
    def peer_id(self) -> bytes:
        """Node id of the neighbour."""
        return self.table.peer_id

    @property
    def is_ended(self) -> bool:
        """Whether it is no longer in the table: both halves have ended, or it has failed."""
        return self.error is not None or (self._send_half in ENDED and self._receive_half in ENDED)

    @property
    def can_write(self) -> bool:
        """Whether this side's half still takes content."""
        return self.error is None and self._send_half in MAY_SEND_DATA

    @property
    def is_answered(self) -> bool:
        """On the accepting side: whether the status has been sent."""
        return self._send_half is Half.BACKWARD_ENDED

    @property
    def is_cut(self) -> bool:
        """Whether it failed before the peer's FIN; unread content is lost."""
        return self._read_error is not None

    @property
    def unread_bytes(self) -> int:
        """Content that has arrived and was not read."""
        return self.queue.size

    # -- reading ------------------------------------------------------------------------------------

    def readinto(self, buffer: memoryview) -> int:
        """Read content of the peer's half.

        Returns:
            Bytes written into `buffer`; 0 only after FIN, or for an empty buffer.
        Raises:
            BlockingIOError: nothing now; wait for `readable`. StreamReset: the stream was reset.
            Disconnected: the connection broke before FIN. LinkError: the peer broke a rule. TableFull: the
                node holds too much unread content. All but the first are sticky.
        """
        queue = self.queue
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
        """Take the next `size` bytes without a copy; the buffer is the caller's from now on.

        Returns:
            None: they did not arrive as one piece, have not arrived, or never will; `readinto` shows which.
        """
        piece = self.queue.take_piece(size)
        if piece is not None:
            self._was_read(size)
        return piece

    def _was_read(self, count: int) -> None:
        """Content left the queue."""
        self.table.budget.free(self, count, is_empty=not self.queue.size)
        self._was_taken(count)

    def _was_taken(self, count: int) -> None:
        """Owe the peer credit for content; send it once it is worth a cell."""
        self.content_in += count
        self.owed += count
        self._read_since += count
        if 2 * self.owed >= self.window_bytes and self._receive_half in MAY_SEND_DATA:
            self.table.sender.schedule_credit(self)

    def read_status(self) -> bytes:
        """Return the status that ends the backward half; call it after `readinto` has returned 0.

        Raises:
            BlockingIOError: not yet; wait for `readable`. Or the error that ended the stream before.
        """
        if self.status is not None:
            return self.status
        if self.error is not None:
            raise renewed(self.error)
        raise BlockingIOError(errno.EAGAIN, "no status received")

    # -- writing ------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Seal content into the link's outgoing buffer.

        A call takes at most the rest of the current piece: the header at the start of a forward half, then
        one chunk after another. It takes that completely or not at all, so the sizes of records do not reveal
        how much credit there was.

        Returns:
            Bytes taken: all of `data` or the rest of the piece; 0 for empty data.
        Raises:
            BlockingIOError: no credit, no room, or another stream's turn. Wait for `writable` and call again,
                or end the stream: until then a turn is reserved for it. LocalTunnelError: after `finish`.
            StreamReset, Disconnected, LinkError, TableFull: as for `readinto`.
        """
        if self.error is not None:
            raise renewed(self.error)
        if self._send_half not in MAY_SEND_DATA:
            raise LocalTunnelError("write after finish")
        count = len(data)
        if not count:
            return 0
        count = min(count, self._piece_left)
        sender = self.table.sender
        if sender.fixed_bytes:
            # All records have one size, so cutting content to credit and room reveals nothing.
            count = min(count, self.credit, sender.fixed_room())
        if not 0 < count <= self.credit:
            sender.yield_turn(self)
            raise BlockingIOError(errno.EAGAIN, f"credit of {self.credit} bytes")
        if not sender.emit(self, CellType.DATA, memoryview(data)[:count]):
            raise BlockingIOError(errno.EAGAIN, "the link's buffer is full, or other streams have their turn")
        self._piece_left = self._piece_left - count or self.profile.geometry.chunk_bytes
        self.credit -= count
        self.content_out += count
        return count

    def takes(self, count: int) -> bool:
        """Whether `write` takes as many bytes of the current piece now."""
        return (
            self.error is None
            and self._send_half in MAY_SEND_DATA
            and count <= self._piece_left
            and count <= self.credit
            and self.table.sender.has_room(self, count)
        )

    def flush(self) -> None:
        """Do nothing: content that `write` took leaves as soon as the socket takes it."""

    def finish(self) -> None:
        """End this side's half in order. Idempotent; no effect after the stream's end."""
        if self.error is None and self._send_half in MAY_SEND_DATA:
            self._send_half = TRANSITIONS[self._send_half][CellType.FIN]
            self.table.sender.queue_for(self, pack_fin(self.id))
            self.table.sender.yield_turn(self)
            self._remove_if_done()

    def send_status(self, status: bytes) -> None:
        """Report the outcome of the frame: the last cell of the backward half, after `finish`.

        Args:
            status: 1 to MAX_STATUS_BYTES (cells.py), opaque here.
        Raises:
            BlockingIOError: no room, or another stream's turn; wait for `writable`. LocalTunnelError: this
                side opened the stream, `finish` was not called, a status was sent, or its length is wrong.
            StreamReset, Disconnected, LinkError, TableFull: as for `readinto`.
        """
        if self.error is not None:
            raise renewed(self.error)
        after = TRANSITIONS[self._send_half].get(CellType.STATUS)
        if after is None:
            raise LocalTunnelError(f"no status can be sent now: {self._send_half.value}")
        if not 0 < len(status) <= MAX_STATUS_BYTES:
            raise LocalTunnelError(f"a status has 1 to {MAX_STATUS_BYTES} bytes, not {len(status)}")
        if not self.table.sender.emit(self, CellType.STATUS, status):
            raise BlockingIOError(errno.EAGAIN, "the link's buffer is full, or other streams have their turn")
        self._send_half = after
        self._remove_if_done()

    def reset(self, code: ErrorCode) -> None:
        """End both halves early, with the reason, and drop unread content.

        After the stream's end it only drops unread content.
        """
        self._end(code, StreamReset(code, "here"))

    def evict(self) -> None:
        """Drop the unread content because the node holds too much of it. For `Budget`."""
        text = "too much unread content at this node, and that of this stream had waited longest"
        self._end(ErrorCode.BUSY, TableFull(text))

    def _end(self, code: ErrorCode, error: TunnelError) -> None:
        """Reset the stream; on this side it fails with `error`."""
        if self.is_ended:
            self._drop_unread(error)
        else:
            self.table.abandon(self, code)
            self.fail(error, keep_complete=False)

    def _remove_if_done(self) -> None:
        if self._send_half in ENDED and self._receive_half in ENDED:
            self.table.remove(self)

    # -- for the multiplexer and the table ------------------------------------------------------------

    @property
    def oldest_s(self) -> float:
        """Arrival time of the oldest unread content."""
        return self.queue.oldest_s

    @property
    def late_bytes(self) -> int:
        """Content that the peer may still send before it learns that the stream has ended."""
        return self.granted if self._receive_half in MAY_SEND_DATA else 0

    def take_data(self, payload: memoryview, now_s: float) -> None:
        """DATA from the peer.

        Raises:
            LinkError: more than it had credit for.
        """
        if not self._advance(CellType.DATA):
            return
        count = len(payload)
        if count > self.granted:
            raise LinkError(f"stream {self.id}: {count} bytes of content, credit for {self.granted}")
        self.granted -= count
        is_news = not self.queue.size
        table = self.table
        if is_news and self.pass_on is not None and table.passes_left and self.pass_on(payload):
            table.passes_left -= 1
            self._was_taken(count)
            return
        self.queue.append(payload, now_s)
        table.budget.add(self, count)
        if is_news:
            self.readable.set()

    def take_credit(self, count: int) -> None:
        """CREDIT from the peer; above MAX_CREDIT the stream is reset."""
        if self.credit + count > MAX_CREDIT:
            self._refuse(CellType.CREDIT)
            return
        self.credit += count
        self.writable.set()

    def take_fin(self) -> None:
        """FIN from the peer."""
        if self._advance(CellType.FIN):
            self.table.sender.owe_nothing(self)
            self.readable.set()
            self._remove_if_done()

    def take_status(self, status: bytes) -> None:
        """STATUS from the peer."""
        if self._advance(CellType.STATUS):
            self.status = status
            self.readable.set()
            self._remove_if_done()

    def take_reset(self, code: ErrorCode) -> None:
        """RESET from the peer."""
        self.table.drop(self)
        self.fail(StreamReset(code), keep_complete=False)

    def _advance(self, kind: CellType) -> bool:
        """Move the peer's half along the table. False: the cell is not legal now, and the stream is reset."""
        after = TRANSITIONS[self._receive_half].get(kind)
        if after is None:
            self._refuse(kind)
            return False
        self._receive_half = after
        return True

    def _refuse(self, kind: CellType) -> None:
        """A cell that breaks this stream's order only: the stream ends, the link continues."""
        self._end(ErrorCode.PROTOCOL, LinkError(f"stream {self.id}: {kind.name} is not legal now"))

    def take_owed_credit(self) -> int:
        """Return the credit to grant now, growth of the window included; 0 after the peer's FIN."""
        if self.error is not None or self._receive_half not in MAY_SEND_DATA:
            return 0
        growth = 0
        if self._read_since >= self.window_bytes:
            growth = self.table.grow(self)
            self._read_since = 0
        count = self.owed + growth
        self.owed = 0
        self.granted += count
        return count

    def fail(self, error: TunnelError, *, keep_complete: bool) -> None:
        """End it with `error`; its table entry is gone already.

        Args:
            keep_complete: content that arrived with its FIN can still be read.
        """
        self.error = error
        if not keep_complete or self._receive_half in MAY_SEND_DATA:
            self._read_error = error
            self._drop_unread(error)
        self.readable.set()
        self.writable.set()
        if self.failed is not None:
            self.failed.set()

    def _drop_unread(self, error: TunnelError) -> None:
        """Drop unread content; its reader gets `error` instead of an apparent orderly end."""
        dropped = self.queue.clear()
        if dropped:
            self._read_error = self._read_error or error
            self.table.budget.free(self, dropped, is_empty=True)
