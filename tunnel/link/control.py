"""What a link owes its peer besides content: small frames that share records.

They wait here until the link has something to send or room to send it, so that all credits owed at one flush
go out together, mostly in padding that would have been sent anyway. The queue is bounded by what it holds: of
each stream at most OPEN, FIN and RESET and one CREDIT, of the link one GOAWAY, one answer to a PING, one
PEER-EXCHANGE; and RESETs of streams that have ended since, which the multiplexer counts. Order is kept
among frames that are queued; a credit may go later than they do.
"""

from __future__ import annotations

from typing import Protocol

from tunnel.link.frames import FRAME_HEAD_BYTES, pack_credit

__all__ = ["ControlQueue", "Creditor"]

_CREDIT_BYTES = FRAME_HEAD_BYTES + 4


class Creditor(Protocol):
    """A stream that owes credit."""

    id: int

    def take_owed(self) -> int:
        """The credit to grant now; 0 where it is owed no more."""


class ControlQueue:
    """Frames in, the front part of a record out.

    Attributes:
        queued, taken: how many frames were ever queued and taken (credits, and the answer, not counted): a
            frame has left the queue when `taken` has reached what `queued` was after it.
    """

    __slots__ = ("_answer", "_bytes", "_frames", "_owing", "queued", "taken")

    def __init__(self) -> None:
        self._frames: list[bytes] = []  # a deque takes 700 bytes of each idle link
        self._owing: dict[Creditor, None] = {}
        self._answer = b""
        self._bytes = 0
        self.queued = 0
        self.taken = 0

    @property
    def size(self) -> int:
        """Bytes of all frames that wait."""
        return self._bytes + len(self._answer) + _CREDIT_BYTES * len(self._owing)

    def add(self, frame: bytes) -> int:
        """Queue a frame; returns its number, to be compared with `taken`."""
        self._frames.append(frame)
        self._bytes += len(frame)
        self.queued += 1
        return self.queued

    def answer(self, frame: bytes) -> None:
        """The answer to a PING. One that still waits is replaced, so that a flood of them fills nothing."""
        self._answer = frame

    def owe(self, stream: Creditor) -> None:
        """Ask `stream`, when it comes to that, what credit it owes."""
        self._owing[stream] = None

    def forget(self, stream: Creditor) -> None:
        """The stream has ended: its credit is owed no more."""
        self._owing.pop(stream, None)

    def take(self, limit: int) -> bytes:
        """Frames of at most `limit` bytes together, which leave the queue; may be empty."""
        parts: list[bytes] = []
        for frame in self._frames:
            if len(frame) > limit:
                break
            limit -= len(frame)
            self._bytes -= len(frame)
            parts.append(frame)
        del self._frames[: len(parts)]
        self.taken += len(parts)
        if self._answer and len(self._answer) <= limit:
            limit -= len(self._answer)
            parts.append(self._answer)
            self._answer = b""
        while self._owing and limit >= _CREDIT_BYTES:
            stream = next(iter(self._owing))
            del self._owing[stream]
            count = stream.take_owed()
            if count:
                limit -= _CREDIT_BYTES
                parts.append(pack_credit(stream.id, count))
        return b"".join(parts)

    def clear(self) -> None:
        """Forget everything."""
        self._frames.clear()
        self._owing.clear()
        self._answer = b""
        self._bytes = 0
        self.taken = self.queued
