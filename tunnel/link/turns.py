"""Who writes next: round robin of at most one piece for each stream and turn.

A stream that is refused for want of room stands at the end of a queue. When room is freed, as many are
woken from its front as fit; such a stream holds a *grant* until it calls again. While anyone waits or holds a
grant, a stream without one goes to the end of the queue even where there is room: so nobody writes twice
while another waits to write once.

A grant whose holder does not call (its service was cancelled in between) would hold up the rest: it ends with
its stream, and otherwise when the buffer has run empty twice since.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

__all__ = ["Notifier", "Turns", "Writer"]


class Notifier(Protocol):
    """Something that can be told that it is worth trying again."""

    def set(self) -> None:
        """Tell whoever waits; if nobody does, whoever waits next is told at once."""


class Writer(Protocol):
    """A stream as the queue sees it."""

    @property
    def writable(self) -> Notifier:
        """Told when a refused write is worth another try."""


class Turns:
    """The queue of one link: entries are wanted bytes; grants carry the emptying at which they were given."""

    __slots__ = ("_empties", "_granted", "_waiting")

    def __init__(self) -> None:
        self._waiting: OrderedDict[Writer, int] = OrderedDict()
        self._granted: dict[Writer, tuple[int, int]] = {}
        self._empties = 0

    def __len__(self) -> int:
        """Streams that wait or hold a grant."""
        return len(self._waiting) + len(self._granted)

    def admits(self, stream: Writer, size: int, room: int) -> bool:
        """Whether `stream` may add `size` bytes now; if not, it has its place in the queue."""
        waiting, granted = self._waiting, self._granted
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
        """Give grants to those in front, as far as `room` reaches beyond the grants that are out."""
        if not self._waiting:
            return
        room -= sum(size for size, _ in self._granted.values())
        while self._waiting:
            stream, size = next(iter(self._waiting.items()))
            if size > room:
                return
            room -= size
            del self._waiting[stream]
            self._granted[stream] = size, self._empties
            stream.writable.set()

    def freed(self, room: int, *, is_empty: bool) -> None:
        """Bytes have left; `is_empty` when none are left."""
        if is_empty:
            self._empties += 1
            for stream, (_, given) in list(self._granted.items()):
                if given < self._empties - 1:
                    del self._granted[stream]
        self.wake(room)

    def forget(self, stream: Writer, room: int) -> None:
        """The stream writes no more, or cannot now: its place and its grant go to the others."""
        self._waiting.pop(stream, None)
        if self._granted.pop(stream, None) is not None:
            self.wake(room)

    def clear(self) -> None:
        """Forget everybody."""
        self._waiting.clear()
        self._granted.clear()
