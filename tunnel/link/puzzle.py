"""The puzzle of a link handshake under load: some hashing, so that M1 costs its sender more than its reader.

Answer: 12 bytes for which SHA-256("mtun1 puzzle" ‖ challenge 16 ‖ e 32 ‖ answer 12) begins with so many zero
bits. The challenge is of one connection and e of one handshake, so an answer serves once. Each bit doubles
the work: 12 bits are about 4,096 hashes, some milliseconds; checking is one hash.
Source: docs/protocol.md, "Link handshake"; Juels, Brainard, "Client puzzles" (NDSS 1999).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

__all__ = ["ANSWER_BYTES", "MAX_BITS", "Puzzle"]

ANSWER_BYTES = 12
# About four million hashes, seconds of work: whoever asks for more only wants to keep the initiator busy, and
# RETRY is not authenticated.
MAX_BITS = 22

_LABEL = b"mtun1 puzzle"


@dataclass(slots=True)
class Puzzle:
    """One puzzle, and how far the search has come.

    Attributes:
        challenge: 16 bytes of the responder's.
        ephemeral: e of M1, 32 bytes.
        bits: zero bits that the hash must begin with, 1 to MAX_BITS.
        answer: 12 bytes once `search` has found them; never all zero, which is "no answer" in M1.
    """

    challenge: bytes
    ephemeral: bytes
    bits: int
    answer: bytes | None = None
    _next: int = 1

    def search(self, tries: int) -> bool:
        """Try `tries` candidates; True when `answer` is there. Call again until it is.

        So that whoever runs other things beside it can let them run: 10,000 tries take about 10 ms.
        """
        if self.answer is not None:
            return True
        prefix = sha256(_LABEL + self.challenge + self.ephemeral)
        limit = 1 << (64 - self.bits)
        for number in range(self._next, self._next + tries):
            candidate = number.to_bytes(ANSWER_BYTES, "big")
            state = prefix.copy()
            state.update(candidate)
            if int.from_bytes(state.digest()[:8], "big") < limit:
                self.answer = candidate
                return True
        self._next += tries
        return False

    def accepts(self, answer: bytes) -> bool:
        """Whether these 12 bytes answer it."""
        digest = sha256(_LABEL + self.challenge + self.ephemeral + answer).digest()
        return int.from_bytes(digest[:8], "big") < 1 << (64 - self.bits)
