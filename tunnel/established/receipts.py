"""Limits what Bob sends in a tunnel before Alice has proved that she receives it.

Alice builds the header of a tunnel, so its path may loop over many proxies. Without a limit, an Alice who
stops reading fills a window at each of these hops, although she has paid for one window only. The credit of
the streams does not help, because she may grant any amount without having received a byte. Therefore Bob
inserts challenges, random bytes that only a receiver of his chunks can know. Alice returns each challenge, as
a receipt for all content before it. Alice needs no receipts, because she has chosen the route and pays for
her own chunks.

The limit is that of long replies (`tunnel.node.answer.receipts`): 4 MiB on all links of the longest route,
plus as much as Alice has sent, plus half of the content that receipts cover. In geometry `stream` it exceeds
the window of a stream, so an ordinary tunnel is not affected.

Source: docs/protocol.md, "Receipts".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from tunnel.errors import MalformedMessage
from tunnel.geometry import Geometry, unproven_bytes
from tunnel.onion.message import CHALLENGE_BYTES

__all__ = ["AliceReceipts", "BobChallenges", "Proofs"]


class Proofs(Protocol):
    """One end's part. `sent` and `received` are the chunks of its two directions so far.

    Attributes:
        is_owed: a CHALLENGE chunk is to be sent even if nothing else is.
    """

    @property
    def is_owed(self) -> bool: ...
    def is_held(self, sent: int, received: int) -> bool:
        """Nothing may be sent before the other end's next chunk."""

    def is_due(self, sent: int, received: int) -> bool:
        """A CHALLENGE chunk is to be sent before other content."""

    def take(self, sent: int) -> bytes:
        """The data of the CHALLENGE chunk that is due."""

    def arrived(self, data: bytes) -> None:
        """A CHALLENGE chunk. Raises MalformedMessage: it is not expected."""


class AliceReceipts:
    """Answers challenges. One receipt answers all challenges so far, so a flood of them costs no more."""

    def __init__(self) -> None:
        self._newest: bytes | None = None

    @property
    def is_owed(self) -> bool:
        return self._newest is not None

    def is_held(self, sent: int, received: int) -> bool:
        return False

    def is_due(self, sent: int, received: int) -> bool:
        return self.is_owed

    def take(self, sent: int) -> bytes:
        assert self._newest is not None
        receipt, self._newest = self._newest, None
        return receipt

    def arrived(self, data: bytes) -> None:
        self._newest = data


class BobChallenges:
    """Limits what is sent without a receipt, and asks for receipts."""

    is_owed = False  # without content to send no receipt is needed

    def __init__(self, geometry: Geometry, random_bytes: Callable[[int], bytes]) -> None:
        self._chunk_bytes = geometry.chunk_bytes
        self._free_bytes = unproven_bytes([geometry])
        self._random_bytes = random_bytes
        self._proven = self._asked = 0  # chunks before the last receipt, and before the last challenge
        self._open: deque[tuple[bytes, int]] = deque()  # challenges without a receipt, and chunks before each

    def _limit_bytes(self, received: int) -> int:
        return self._free_bytes + self._chunk_bytes * (received + self._proven // 2)

    def is_held(self, sent: int, received: int) -> bool:
        unproven = (sent - self._proven) * self._chunk_bytes
        return bool(self._open) and unproven >= self._limit_bytes(received)

    def is_due(self, sent: int, received: int) -> bool:
        """At three quarters of the limit, so that the receipt comes before the limit is reached."""
        return (sent - self._asked) * self._chunk_bytes >= self._limit_bytes(received) * 3 // 4

    def take(self, sent: int) -> bytes:
        challenge = self._random_bytes(CHALLENGE_BYTES)
        self._open.append((challenge, sent))
        self._asked = sent
        return challenge

    def arrived(self, data: bytes) -> None:
        while self._open:
            challenge, self._proven = self._open.popleft()
            if challenge == data:
                return
        raise MalformedMessage("CHALLENGE that answers no open challenge of this end")
