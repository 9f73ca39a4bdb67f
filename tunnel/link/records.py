"""Bytes that a link holds: records to send, records received, and content that no service has read yet.

`OutgoingRecords` and `IncomingRecords` are the two buffers of a link. A buffer holds four of the largest
records, so one system call receives a batch and one sends the result. With two records a proxy used 10 to 20
% more processor time. Both are borrowed from a pool while they hold bytes, so a node with a thousand idle
links has a handful of buffers. `ReceiveQueue` holds the unread content of one stream, and `Budget` bounds
that of a whole node.

Rule for changing this file: a borrowed buffer still holds old bytes (ciphertext of other links, or content
that this node has read). Write every byte of a record, padding included.
"""

from __future__ import annotations

import struct
from typing import Protocol

from readwrite_comp.errors import AuthenticationError
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import LinkError
from tunnel.link.noise import rekeyed

__all__ = [
    "BUFFERS",
    "BUFFER_BYTES",
    "HEAD_BYTES",
    "MAX_RECORD_BYTES",
    "MAX_UNITS",
    "RECORD_OVERHEAD",
    "REKEY_AFTER",
    "TAG_BYTES",
    "UNIT_BYTES",
    "Budget",
    "BufferPool",
    "Evictable",
    "IncomingRecords",
    "OutgoingRecords",
    "ReceiveQueue",
    "RecordOpener",
    "RecordSealer",
    "record_bytes_for",
    "record_bytes_of",
]

# Link records: an observer of a connection sees only these. Sizes are multiples of 1,024 bytes; contents look
# random.
#
#     units 2 ‖ zero 2 ‖ ciphertext units·1,024 − 20 ‖ tag 16
#
# The first four bytes are associated data. The nonce is a counter that never repeats under a key. After 2^14
# records the key is replaced by its successor (Noise REKEY), and the counter continues. Both classes work in
# place. Source: docs/protocol.md, "Link record"; the Noise Protocol Framework, revision 34, 4.2 and 11.3.
UNIT_BYTES = 1024
MAX_UNITS = 63
MAX_RECORD_BYTES = MAX_UNITS * UNIT_BYTES
HEAD_BYTES = 4
TAG_BYTES = 16
RECORD_OVERHEAD = HEAD_BYTES + TAG_BYTES
REKEY_AFTER = 1 << 14
_HEADS = [struct.pack(">HH", units, 0) for units in range(MAX_UNITS + 1)]
_HEAD = struct.Struct(">HH")


def record_bytes_for(cell_bytes: int) -> int:
    """Length of the smallest record that holds `cell_bytes` of cells."""
    return -(-(cell_bytes + RECORD_OVERHEAD) // UNIT_BYTES) * UNIT_BYTES


def record_bytes_of(head: bytes | memoryview) -> int:
    """Length of the record that begins with these four bytes.

    Raises:
        LinkError: not the head of a record. Close the link.
    """
    units, zero = _HEAD.unpack(head)
    if zero or not 1 <= units <= MAX_UNITS:
        raise LinkError(f"record head is {bytes(head).hex()}, expected 0001 to 003f and 0000")
    return int(units) * UNIT_BYTES


class _Direction:
    """Key, counter and rekeying of one direction."""

    def __init__(self, key: bytes, engine: TunnelEngine) -> None:
        self._engine = engine
        self.key = key
        self._aead = engine.layers.aead(key)
        self.counter = 0

    def _next_nonce(self) -> bytes:
        counter = self.counter
        if counter and counter % REKEY_AFTER == 0:
            self.key = rekeyed(self.key, self._engine)
            self._aead = self._engine.layers.aead(self.key)
        self.counter = counter + 1
        return counter.to_bytes(12, "big")  # 4 zero bytes ‖ u64: the counter never reaches 2^64


class RecordSealer(_Direction):
    """Seals the records of one direction in place, in order."""

    def seal(self, record: memoryview) -> None:
        """Seal one record in place.

        Args:
            record: k·1,024 bytes with cells and padding at [4:-16]; overwritten with head, ciphertext, tag.
        """
        head = _HEADS[len(record) // UNIT_BYTES]
        record[:HEAD_BYTES] = head
        sealed = record[HEAD_BYTES:]
        nonce = self._next_nonce()  # first: it may replace the key
        self._aead.seal_into(nonce, sealed[:-TAG_BYTES], head, sealed)


class RecordOpener(_Direction):
    """Opens records in place, in order. After an error the link is dead: nothing further may be opened."""

    def open(self, record: memoryview) -> memoryview:
        """Open one record in place.

        Args:
            record: one whole record, head included.
        Returns:
            A view of its cells and padding in the caller's buffer.
        Raises:
            LinkError: the tag does not match: the record was changed, reordered, repeated or is not from this
                peer. Close the link.
        """
        head = _HEADS[len(record) // UNIT_BYTES]
        sealed = record[HEAD_BYTES:]
        cells = sealed[:-TAG_BYTES]
        nonce = self._next_nonce()  # first: it may replace the key
        try:
            self._aead.open_into(nonce, sealed, head, cells)
        except AuthenticationError as error:
            raise LinkError(f"link record {self.counter - 1} does not open") from error
        return cells


# A link holds at most two of these: half a gigabyte for the 1,024 links of a node, if each neighbour sends
# half a record and reads nothing. `Limits.record_s` ends the first state, `quiet_s` and `pong_s` the second.
BUFFER_BYTES = 4 * MAX_RECORD_BYTES
_ZEROS = memoryview(bytes(MAX_RECORD_BYTES))
_NOTHING = memoryview(b"")


class BufferPool:
    """Free buffers of `BUFFER_BYTES`.

    Args:
        keep: most free buffers to keep; others are left to the garbage collector.
    Attributes:
        borrowed: number of buffers lent now.
    """

    def __init__(self, keep: int = 16) -> None:
        self._keep = keep
        # append and pop of a list are atomic, so reactors in several threads may share a pool.
        self._free: list[memoryview] = []
        self.borrowed = 0

    def take(self) -> memoryview:
        """Borrow a buffer; it contains old bytes."""
        self.borrowed += 1
        try:
            return self._free.pop()
        except IndexError:
            return memoryview(bytearray(BUFFER_BYTES))

    def give(self, buffer: memoryview) -> None:
        """Return a buffer; the caller keeps no view of it."""
        self.borrowed -= 1
        if len(self._free) < self._keep:
            self._free.append(buffer)


BUFFERS = BufferPool()


class OutgoingRecords:
    """Sealed records back to back, from `_start` to `_end`.

    Args:
        fixed_bytes: 0, or the fixed length of all records: then only records before `_shown` may be sent, and
            `show_next` advances it.
    """

    __slots__ = ("_buffer", "_end", "_pool", "_sealer", "_shown", "_start", "capacity", "fixed_bytes")

    def __init__(self, sealer: RecordSealer, pool: BufferPool, fixed_bytes: int = 0) -> None:
        self._sealer = sealer
        self._pool = pool
        self._buffer: memoryview | None = None
        self._start = self._end = self._shown = 0
        self.fixed_bytes = fixed_bytes
        # At a constant rate a longer buffer is a longer delay: one record leaves while the next is filled.
        self.capacity = 2 * fixed_bytes or BUFFER_BYTES

    @property
    def room(self) -> int:
        """Bytes of records that can be added now, in whole units."""
        return (self.capacity - self._end) // UNIT_BYTES * UNIT_BYTES

    @property
    def pending(self) -> memoryview:
        """Sealed bytes that may be sent now; valid until the next call."""
        if self._buffer is None:
            return _NOTHING
        return self._buffer[self._start : self._shown if self.fixed_bytes else self._end]

    @property
    def is_empty(self) -> bool:
        return self._start == self._end

    @property
    def hidden_bytes(self) -> int:
        """Sealed bytes that may not be sent yet."""
        return self._end - self._shown if self.fixed_bytes else 0

    def size_for(self, cell_bytes: int) -> int:
        """Length of the record for `cell_bytes` of cells."""
        return self.fixed_bytes or record_bytes_for(cell_bytes)

    def add(self, size: int, cells: bytes, payload: bytes | memoryview = b"") -> None:
        """Seal a record of `size` bytes with `cells`, then `payload`; there must be room."""
        buffer = self._buffer
        if buffer is None:
            buffer = self._buffer = self._pool.take()
        start = self._end
        self._end = end = start + size
        record = buffer[start:end]
        at = HEAD_BYTES + len(cells)
        record[HEAD_BYTES:at] = cells
        if payload:
            record[at : at + len(payload)] = payload
            at += len(payload)
        blank = size - TAG_BYTES - at
        if blank:
            record[at : at + blank] = _ZEROS[:blank]
        self._sealer.seal(record)

    def show_next(self) -> None:
        """Allow one more record of the fixed length to be sent."""
        self._shown += self.fixed_bytes

    def sent(self, count: int) -> None:
        """The first `count` bytes of `pending` have left."""
        self._start += count
        if self._start == self._end:
            self.clear()
        elif 2 * self._start >= self.capacity and self._buffer is not None:
            # The rest is at most half a buffer: moving it is cheaper than losing the space before it.
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._shown -= self._start
            self._start, self._end = 0, left

    def clear(self) -> None:
        """Drop everything and return the buffer."""
        self._start = self._end = self._shown = 0
        if self._buffer is not None:
            self._pool.give(self._buffer)
            self._buffer = None


class IncomingRecords:
    """Received bytes, opened record by record in place; those from `_start` to `_end` are not opened yet."""

    __slots__ = ("_buffer", "_end", "_opener", "_pool", "_start")

    def __init__(self, opener: RecordOpener, pool: BufferPool) -> None:
        self._opener = opener
        self._pool = pool
        self._buffer: memoryview | None = None
        self._start = self._end = 0

    @property
    def partial_bytes(self) -> int:
        """Bytes of an incomplete record."""
        return self._end - self._start

    def space(self) -> memoryview:
        """Return the space to receive into, never empty. Views of earlier records become invalid."""
        if self._buffer is None:
            self._buffer = self._pool.take()
        elif BUFFER_BYTES - self._start < MAX_RECORD_BYTES:
            # Too little space for a whole record: move the partial one to the front.
            have = self._end - self._start
            self._buffer[:have] = self._buffer[self._start : self._end]
            self._start, self._end = 0, have
        return self._buffer[self._end :]

    def received(self, count: int) -> None:
        """The first `count` bytes of `space()` were filled."""
        self._end += count

    def next_record(self) -> memoryview | None:
        """Open the next whole record and return its plaintext.

        None: no whole record is left; an empty buffer was returned to the pool.

        Raises:
            LinkError: malformed or forged. The object is of no further use.
        """
        start, buffer = self._start, self._buffer
        have = self._end - start
        if have >= HEAD_BYTES and buffer is not None:
            size = record_bytes_of(buffer[start : start + HEAD_BYTES])
            if have >= size:
                self._start = start + size
                return self._opener.open(buffer[start : start + size])
        if not have:
            self.clear()
        return None

    def clear(self) -> None:
        """Drop everything and return the buffer."""
        self._start = self._end = 0
        if self._buffer is not None:
            self._pool.give(self._buffer)
            self._buffer = None


# Unread content of the streams. A queue keeps content in the pieces in which it arrived, each copied once
# from the link's buffer. A reader gets a copy in its own buffer, or the piece itself if it wants exactly its
# length (`take_piece`). Small pieces are joined; otherwise a peer that sends single bytes would make each
# cost fifty. A queue never refuses: the stream checks that the peer has credit.
#
# Pieces are joined up to this size, so two adjacent ones hold more than this together, and keeping a piece
# (about 100 bytes) costs less than a fifth of its content.
_JOIN_BYTES = 1024


class ReceiveQueue:
    """Unread bytes of one stream, in order; allocates nothing while it is empty. `size`: their number."""

    __slots__ = ("_at", "blocks", "size", "times")

    def __init__(self) -> None:
        self.blocks: list[bytearray] | None = None
        self.times: list[float] = []
        self._at = 0
        self.size = 0

    @property
    def oldest_s(self) -> float:
        """Arrival time of the first piece; infinity while empty."""
        return self.times[0] if self.times else float("inf")

    def append(self, payload: memoryview, now_s: float) -> None:
        """Copy a piece to the end of the queue."""
        self.size += len(payload)
        blocks = self.blocks
        if blocks is None:
            self.blocks = [bytearray(payload)]
            self.times = [now_s]
            return
        if len(blocks[-1]) + len(payload) <= _JOIN_BYTES:
            blocks[-1] += payload
            return
        blocks.append(bytearray(payload))
        self.times.append(now_s)

    def take_piece(self, size: int) -> bytearray | None:
        """Take the first piece without a copy if it has exactly `size` bytes; the caller owns it."""
        blocks = self.blocks
        if not blocks or len(blocks[0]) != size or self._at:
            return None
        piece = blocks[0]
        if len(blocks) == 1:
            self.blocks, self.times = None, []
        else:
            del blocks[0], self.times[0]
        self.size -= size
        return piece

    def readinto(self, buffer: memoryview) -> int:
        """Move bytes into `buffer` and return their number; 0 if the queue or the buffer is empty."""
        done, space = 0, len(buffer)
        blocks = self.blocks
        while blocks and done < space:
            block, at = blocks[0], self._at
            count = min(len(block) - at, space - done)
            if count == len(block):
                buffer[done : done + count] = block
            else:
                with memoryview(block) as view:
                    buffer[done : done + count] = view[at : at + count]
            done += count
            if at + count < len(block):
                self._at = at + count
            else:
                self._at = 0
                del blocks[0], self.times[0]
        self.size -= done
        if not self.size:
            self.blocks = None
        return done

    def clear(self) -> int:
        """Drop everything and return the number of bytes."""
        dropped, self.size = self.size, 0
        self.blocks, self.times, self._at = None, [], 0
        return dropped


class Evictable(Protocol):
    """Something that holds unread content."""

    @property
    def oldest_s(self) -> float:
        """Arrival time of its oldest content."""

    def evict(self) -> None:
        """Drop all of it immediately."""


class Budget:
    """Bounds the unread content of all links of a node.

    Above nine tenths of the limit, streams are reset with BUSY until less is held, each time the one whose
    oldest unread byte has waited longest. An active reader has young bytes, so the budget removes streams
    that hold memory without using it. The attack is to open streams, send, and prevent them from being read:
    Jansen, Tschorsch, Johnson, Scheuermann, "The Sniper Attack" (NDSS 2014), section 6.3.

    Args:
        limit_bytes: for all content together.
    Attributes:
        used_bytes: held now; above the limit only by one piece, until `add` returns.
        evicted: number of streams reset so far.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.evicted = 0
        self._high_bytes = limit_bytes * 9 // 10
        self.holders: dict[Evictable, None] = {}

    def add(self, holder: Evictable, count: int) -> None:
        """`holder` has `count` bytes more. May reset streams, `holder` among them."""
        self.used_bytes += count
        self.holders[holder] = None
        while self.used_bytes > self._high_bytes and self.holders:
            self.evicted += 1
            min(self.holders, key=_oldest).evict()

    def free(self, holder: Evictable, count: int, *, is_empty: bool) -> None:
        """`holder` has `count` bytes less."""
        self.used_bytes -= count
        if is_empty:
            self.holders.pop(holder, None)


def _oldest(holder: Evictable) -> float:
    return holder.oldest_s
