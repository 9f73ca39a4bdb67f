"""Limits what Bob sends of a reply before the asking node has proved that it receives the reply.

A reply block is a header made by the asking node. Its path may loop over many proxies and end at a node that
discards everything. Without a limit, a short query could make Bob send gigabytes over thirty links. Therefore
Bob inserts challenges into the reply, random bytes that only a receiver can know. The asking node returns
each challenge on the backward half of the reply's own streams, as a receipt for all content before it.

Without receipts Bob sends 4 MiB in all, counted on each link of the longest route that the profile allows,
plus as much as the asking node has sent; an echo therefore needs no receipts. With receipts, half of the
content that they cover may be in transit in addition. A long reply then waits a few times at its beginning,
and the number of challenges grows with the logarithm of its length.

Source: docs/protocol.md, "Receipts".
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from reactor import Service, Signal
from tunnel.errors import ChangedContent, ErrorCode, PeerError
from tunnel.geometry import Geometry, unproven_bytes
from tunnel.node.query.frame_io import FrameReader, FrameWriter
from tunnel.node.waits import Counted
from tunnel.onion.message import CHALLENGE_BYTES

__all__ = ["BackwardReceipts", "Receipts", "SentReceipts"]


class Receipts:
    """Limits the replies to one query, which are sent one after the other.

    Args:
        geometries: of the replies.
        query: its stream; the received bytes count.
    """

    def __init__(self, geometries: Sequence[Geometry], query: Counted) -> None:
        self._query = query
        self._free_bytes = unproven_bytes(geometries)
        self._proven_bytes = 0  # of all replies
        self._earlier_bytes = 0  # sent in earlier replies and not proven
        self._current: _Proof | None = None

    @property
    def _limit_bytes(self) -> int:
        return self._free_bytes + self._query.content_in + self._proven_bytes // 2

    @property
    def _ask_bytes(self) -> int:
        """Bytes between two challenges, so that a receipt arrives before the limit is reached."""
        return self._limit_bytes * 3 // 4

    @property
    def _unproven_bytes(self) -> int:
        return self._earlier_bytes + (0 if self._current is None else self._current.unproven_bytes)

    def begin(self, writer: FrameWriter, source: ReceiptSource) -> None:
        """Begin to count a reply.

        Args:
            writer: of the reply; its header is written.
            source: of its receipts.
        Raises:
            PeerError (TIMEOUT): earlier replies used up the limit, and no receipt came for them.
        """
        if self._unproven_bytes >= self._limit_bytes:
            raise PeerError("the asker gave no receipts for the earlier replies", ErrorCode.TIMEOUT)
        self._current = _Proof(writer, source)

    def room(self) -> Service[int]:
        """Wait until more of the reply may be sent; returns how many bytes of content.

        Raises:
            ChangedContent: a wrong receipt. FrameTruncated: the backward half ended without one.
        """
        proof = self._current
        assert proof is not None
        if proof.unasked_bytes >= self._ask_bytes:
            yield from proof.challenge()
        while proof.asked and self._unproven_bytes >= self._limit_bytes:
            self._proven_bytes += yield from proof.take_receipt()
        return max(1, self._ask_bytes - proof.unasked_bytes)

    def before_end(self) -> Service[None]:
        """Before the end of a reply that is not the last: ask for a receipt if the limit comes near."""
        proof = self._current
        assert proof is not None
        if self._unproven_bytes >= self._limit_bytes // 3:
            yield from proof.challenge()

    def finish(self) -> Service[None]:
        """Take the receipts that are missing, and the end of their message. Raises as `room`."""
        proof = self._current
        assert proof is not None
        while proof.asked and proof.source.is_awaited_at_end:
            self._proven_bytes += yield from proof.take_receipt()
        yield from proof.source.finish()
        self._earlier_bytes += proof.unproven_bytes
        self._current = None


class ReceiptSource(Protocol):
    """Where the receipts of one reply come from.

    Attributes:
        is_awaited_at_end: the asking node sends all receipts, even after the reply has ended.
    """

    is_awaited_at_end: bool

    def expect(self, challenge: bytes) -> None:
        """A challenge is about to be sent."""

    def wait(self, challenge: bytes) -> Service[None]:
        """Wait for its receipt. Raises PeerError: it is wrong, or none can come."""

    def finish(self) -> Service[None]:
        """No more receipts are expected."""


class BackwardReceipts:
    """Receipts on the backward half of a reply by block, in the order of their challenges."""

    is_awaited_at_end = True

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader
        self._has_asked = False

    def expect(self, challenge: bytes) -> None:
        self._has_asked = True

    def wait(self, challenge: bytes) -> Service[None]:
        yield from self._reader.start()
        receipt, filled = memoryview(bytearray(CHALLENGE_BYTES)), 0
        while filled < CHALLENGE_BYTES:
            count = yield from self._reader.readinto(receipt[filled:])
            if not count:
                raise ChangedContent("the receipts of a reply ended too early")
            filled += count
        if receipt != challenge:
            raise ChangedContent("wrong receipt of a reply")

    def finish(self) -> Service[None]:
        if self._has_asked and (yield from self._reader.readinto(memoryview(bytearray(1)))):
            raise ChangedContent("a receipt of a reply without a challenge")


class SentReceipts:
    """Receipts for a reply in mode `cached`: frames of their own, which may overtake each other.

    Args:
        table: of the node, by challenge.
    """

    is_awaited_at_end = False

    def __init__(self, table: dict[bytes, Signal]) -> None:
        self._table = table
        self._expected: dict[bytes, Signal] = {}

    def expect(self, challenge: bytes) -> None:
        self._table[challenge] = self._expected[challenge] = Signal()

    def wait(self, challenge: bytes) -> Service[None]:
        # Expected until it is here: `drop` has to find it when the reply is given up during this wait.
        yield self._expected[challenge]
        del self._expected[challenge]

    def finish(self) -> Service[None]:
        yield from ()
        self.drop()

    def drop(self) -> None:
        """Forget the challenges that were not answered."""
        for challenge in self._expected:
            self._table.pop(challenge, None)


class _Proof:
    """The challenges and receipts of one reply.

    Attributes:
        asked: challenges without a receipt, each with the bytes of the reply that were sent before it.
    """

    def __init__(self, writer: FrameWriter, source: ReceiptSource) -> None:
        self._writer = writer
        self.source = source
        self._proven = self._last_asked = writer.stream.content_out  # the header costs no receipt
        self._asked_content = -1  # content before the last challenge
        self.asked: deque[tuple[bytes, int]] = deque()

    @property
    def unproven_bytes(self) -> int:
        return self._writer.stream.content_out - self._proven

    @property
    def unasked_bytes(self) -> int:
        return self._writer.stream.content_out - self._last_asked

    def challenge(self) -> Service[None]:
        """Write what the reply holds back, and a challenge. No effect without content since the last one."""
        if self._writer.content_bytes == self._asked_content:
            return
        self._asked_content = self._writer.content_bytes
        nonce = os.urandom(CHALLENGE_BYTES)
        self.source.expect(nonce)
        yield from self._writer.challenge(nonce)
        self._last_asked = self._writer.stream.content_out
        self.asked.append((nonce, self._last_asked))

    def take_receipt(self) -> Service[int]:
        """Wait for the receipt of the oldest challenge; returns how many bytes it proves."""
        nonce, sent = self.asked.popleft()
        yield from self.source.wait(nonce)
        proven = sent - self._proven
        self._proven = sent
        return proven
