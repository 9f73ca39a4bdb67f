"""What a stream has received and nobody has read yet, and the node's budget for all of it.

A queue keeps content in the pieces in which it came, each copied once out of the link's buffer. A reader gets
a copy in its own buffer, or, if it wants just so many bytes, the piece itself (`take_piece`). Small pieces
are joined, or a peer that sends single bytes would make each cost fifty. A queue never refuses: what may come
is bounded by the credit that was granted, which the multiplexer checks.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Budget", "Evictable", "ReceiveQueue"]

# Pieces are joined up to this size: two neighbours hold more than this together, so the cost of keeping a
# piece (about 100 bytes) stays below a fifth of what it holds.
_JOIN_BYTES = 1024


class ReceiveQueue:
    """Bytes in order; nothing is allocated while it is empty.

    Attributes:
        size: bytes that wait.
    """

    __slots__ = ("_at", "_blocks", "_times", "size")

    def __init__(self) -> None:
        self._blocks: list[bytearray] | None = None
        self._times: list[float] = []
        self._at = 0
        self.size = 0

    @property
    def oldest_s(self) -> float:
        """When the piece came whose turn it is; infinity while empty."""
        return self._times[0] if self._times else float("inf")

    def append(self, payload: memoryview, now_s: float) -> None:
        """Copy a piece to the end."""
        self.size += len(payload)
        blocks = self._blocks
        if blocks is None:
            self._blocks = [bytearray(payload)]
            self._times = [now_s]
            return
        if len(blocks[-1]) + len(payload) <= _JOIN_BYTES:
            blocks[-1] += payload
            return
        blocks.append(bytearray(payload))
        self._times.append(now_s)

    def take_piece(self, size: int) -> bytearray | None:
        """The first piece, which is the caller's from now on, if `size` bytes are just what it has."""
        blocks = self._blocks
        if not blocks or len(blocks[0]) != size or self._at:
            return None
        piece = blocks[0]
        if len(blocks) == 1:
            self._blocks, self._times = None, []
        else:
            del blocks[0], self._times[0]
        self.size -= size
        return piece

    def readinto(self, buffer: memoryview) -> int:
        """Move what fits into `buffer`; returns how much, 0 where one of the two is empty."""
        done, space = 0, len(buffer)
        blocks = self._blocks
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
                del blocks[0], self._times[0]
        self.size -= done
        if not self.size:
            self._blocks = None
        return done

    def clear(self) -> int:
        """Drop everything; returns how many bytes that was."""
        dropped, self.size = self.size, 0
        self._blocks, self._times, self._at = None, [], 0
        return dropped


class Evictable(Protocol):
    """Something that holds unread content."""

    @property
    def oldest_s(self) -> float:
        """When the content came that has waited longest."""

    def evict(self) -> None:
        """Give up all of it at once."""


class Budget:
    """Unread content of all links of a node, and who loses when there is too much.

    Above nine tenths of the limit the stream whose oldest unread byte has waited longest is reset with BUSY,
    and so on until less is held. A reader that reads on has young bytes, so those who lose are the ones that
    hold memory without using it: the attack is to open streams, send, and never let them be read.
    Source: Jansen, Tschorsch, Johnson, Scheuermann, "The Sniper Attack" (NDSS 2014), section 6.3.

    Args:
        limit_bytes: of all content together.
    Attributes:
        used_bytes: held now; never above the limit, but for one piece while it is dealt with.
        evicted: how many streams have been reset.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.evicted = 0
        self._high_bytes = limit_bytes * 9 // 10
        self._holders: dict[Evictable, None] = {}

    def add(self, holder: Evictable, count: int) -> None:
        """`holder` has `count` bytes more. May reset streams, `holder` among them."""
        self.used_bytes += count
        self._holders[holder] = None
        while self.used_bytes > self._high_bytes and self._holders:
            self.evicted += 1
            min(self._holders, key=_oldest).evict()

    def free(self, holder: Evictable, count: int, *, is_empty: bool) -> None:
        """`holder` has `count` bytes less."""
        self.used_bytes -= count
        if is_empty:
            self._holders.pop(holder, None)


def _oldest(holder: Evictable) -> float:
    return holder.oldest_s
