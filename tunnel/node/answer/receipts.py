"""How much of a reply Bob sends before the asker has shown that it receives the reply.

A reply block is a header that the asker made. Its path may loop over many proxies and end at a node that
discards everything, so without a limit a short query would make Bob send gigabytes over thirty links. So Bob
puts challenges, random bytes that only a receiver of the reply can know, between its content. The asker sends
each back on the backward half of the reply's own streams: a receipt for all that came before it.

Without receipts Bob sends 4 MiB in all, counted on each link of the longest route that the profile allows,
and as much as the asker has sent: an echo needs none. Half of what the receipts cover may be under way in
addition, so a long reply waits for its asker at most a few times at its beginning, and the number of
challenges grows with the logarithm of its length.

Source: docs/protocol.md, "Receipts".
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence

from reactor import Service
from tunnel.errors import ErrorCode, MalformedMessage, PeerError
from tunnel.geometry import Geometry
from tunnel.node.query.frame_io import FrameReader, FrameWriter
from tunnel.node.waits import Counted
from tunnel.onion.message import CHALLENGE_BYTES

__all__ = ["UNPROVEN_BYTES", "Receipts"]

UNPROVEN_BYTES = 4 * 1024 * 1024
"""Bytes of the replies to one query on all links together, on the longest route, that need no receipt."""


class Receipts:
    """Limits the replies to one query, which are sent one after the other.

    Args:
        geometries: of the replies.
        query: its stream; what has come counts.
    """

    def __init__(self, geometries: Sequence[Geometry], query: Counted) -> None:
        self._query = query
        longest = max(geometry.slots for geometry in geometries)
        # A challenge costs a chunk, and another one is not full because of it.
        spare = 2 * max(geometry.chunk_bytes for geometry in geometries)
        self._free_bytes = max(1, UNPROVEN_BYTES // longest - spare)
        self._proven_bytes = 0  # of all replies
        self._earlier_bytes = 0  # sent in earlier replies and not proven
        self._current: _Proof | None = None

    @property
    def _limit_bytes(self) -> int:
        return self._free_bytes + self._query.content_in + self._proven_bytes // 2

    @property
    def _ask_bytes(self) -> int:
        """After so much without a challenge one is due, so that its receipt comes before the limit."""
        return self._limit_bytes * 3 // 4

    @property
    def _unproven_bytes(self) -> int:
        return self._earlier_bytes + (0 if self._current is None else self._current.unproven_bytes)

    def begin(self, writer: FrameWriter, reader: FrameReader) -> None:
        """Begin to count a reply.

        Args:
            writer: of the reply; its header is written.
            reader: of the message with the receipts.
        Raises:
            PeerError (TIMEOUT): earlier replies used up the limit, and no receipt came for them.
        """
        if self._unproven_bytes >= self._limit_bytes:
            raise PeerError("the asker gave no receipts for the earlier replies", ErrorCode.TIMEOUT)
        self._current = _Proof(writer, reader)

    def room(self) -> Service[int]:
        """Wait until more of the reply may be sent; returns how many bytes of content.

        Raises:
            MalformedMessage: a wrong receipt. FrameTruncated: the backward half ended without one.
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
        while proof.asked:
            self._proven_bytes += yield from proof.take_receipt()
        yield from proof.finish()
        self._earlier_bytes += proof.unproven_bytes
        self._current = None


class _Proof:
    """The challenges and receipts of one reply.

    Attributes:
        asked: challenges without a receipt, each with the bytes of the reply that were sent before it.
    """

    def __init__(self, writer: FrameWriter, reader: FrameReader) -> None:
        self._writer = writer
        self._reader = reader
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
        yield from self._writer.challenge(nonce)
        self._last_asked = self._writer.stream.content_out
        self.asked.append((nonce, self._last_asked))

    def take_receipt(self) -> Service[int]:
        """Wait for the receipt of the oldest challenge; returns how many bytes it proves."""
        nonce, sent = self.asked.popleft()
        yield from self._reader.start()
        receipt, filled = memoryview(bytearray(CHALLENGE_BYTES)), 0
        while filled < CHALLENGE_BYTES:
            count = yield from self._reader.readinto(receipt[filled:])
            if not count:
                raise MalformedMessage("the receipts of a reply ended too early")
            filled += count
        if receipt != nonce:
            raise MalformedMessage("wrong receipt of a reply")
        proven = sent - self._proven
        self._proven = sent
        return proven

    def finish(self) -> Service[None]:
        """Read the end of the receipts, if there were any."""
        if self._asked_content >= 0 and (yield from self._reader.readinto(memoryview(bytearray(1)))):
            raise MalformedMessage("a receipt of a reply without a challenge")
