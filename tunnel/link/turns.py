"""Turns to open a header: one budget for the node, shared fairly by sources.

Opening a slot is the one public-key operation that bytes from outside can trigger. It takes 0.07 ms with
OpenSSL and 0.5 ms with pycryptodome. A limit per neighbour would not help, because identities are free. So
the node as a whole opens a fixed number of headers a second. When more arrive, each link waits for its turn
before it serves the next stream, and reads nothing meanwhile. The flood stays at its sender, and nothing is
refused.

Turns follow start-time fair queueing. Each source has a virtual time, and each turn advances it by 1/weight.
The source with the lowest virtual time is next. A source that was silent starts at the current virtual time,
and the latest arrival wins a tie: so its first header waits for one turn, however long the queue is. Within a
source the neighbours share its turns in the same way. A header that does not open costs its neighbour and its
source ten turns. Known neighbours have eight times the weight of others. Without a queue none of this has any
effect.

Pure: time is an argument. Source: docs/security.md; Goyal, Vin, Cheng, "Start-time Fair Queuing" (SIGCOMM
1996).
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

__all__ = ["GARBAGE_TURNS", "HEADERS_PER_S", "KNOWN_WEIGHT", "HeaderTurns"]

HEADERS_PER_S: Final = {"openssl": 1_000, "pycryptodome": 300}
"""Headers that a node opens in a second, by engine. With the rest of a stream's work that is a quarter to a
third of a core, and about as many frames as a node can relay."""
KNOWN_WEIGHT: Final = 8
GARBAGE_TURNS: Final = 10
# After this many turns of others a debt is forgiven: a neighbour may have relayed somebody else's garbage.
_MOST_DEBT: Final = 100.0
_MOST_KEYS: Final = 4096


class Waiter(Protocol):
    """Something that waits for a turn."""

    def set(self) -> None: ...


T = TypeVar("T")
W = TypeVar("W", bound=Waiter)


class _FairQueue(Generic[T]):
    """Start-time fair queueing of items by key. A key that was silent is next; the others take turns."""

    def __init__(self) -> None:
        self._clock = 0.0  # virtual time: the start of the last turn
        self.ends: dict[bytes, float] = {}  # key → virtual time from which it may have its next turn
        self._heap: list[tuple[float, int, T]] = []  # by start; the last one first among equals
        self._order = count(0, -1)

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, key: bytes, item: T, weight: float) -> None:
        heapq.heappush(self._heap, (self._plan(key, weight), next(self._order), item))

    def pop(self) -> T:
        start, _, item = heapq.heappop(self._heap)
        self._clock = max(self._clock, start)
        return item

    def pass_by(self, key: bytes, weight: float) -> None:
        """Record a turn that was taken without waiting."""
        self._clock = self._plan(key, weight)

    def remove(self, item: T) -> bool:
        """Remove one such item. Returns whether there was one."""
        for number, entry in enumerate(self._heap):
            if entry[2] == item:
                del self._heap[number]
                heapq.heapify(self._heap)
                return True
        return False

    def charge(self, key: bytes, turns: float) -> None:
        end = max(self._clock, self.ends.get(key, 0.0)) + turns
        self._remember(key, min(end, self._clock + _MOST_DEBT))

    def _plan(self, key: bytes, weight: float) -> float:
        start = max(self._clock, self.ends.get(key, 0.0))
        self._remember(key, start + 1 / weight)
        return start

    def _remember(self, key: bytes, end: float) -> None:
        if key not in self.ends and len(self.ends) >= _MOST_KEYS:
            # A key without debt is as good as a new one. If every key has debt, all debts are forgiven.
            self.ends = {each: at for each, at in self.ends.items() if at > self._clock}
            if len(self.ends) >= _MOST_KEYS:
                self.ends.clear()
        self.ends[key] = end


class HeaderTurns(Generic[W]):
    """The turns of one node. A link waits for one turn at a time, so the queue is no longer than the links.

    Args:
        per_s: turns per second; after a pause, a tenth of them are available immediately.
    """

    def __init__(self, *, per_s: float) -> None:
        self._per_s = per_s
        self._burst = max(1.0, per_s / 10)
        self._tokens = self._burst
        self._then_s = float("-inf")
        self._sources: _FairQueue[bytes] = _FairQueue()
        self._neighbours: dict[bytes, _FairQueue[W]] = {}  # of the sources that wait

    def __len__(self) -> int:
        """Number of waiting links."""
        return len(self._sources)

    @property
    def sources(self) -> int:
        """Number of sources that are remembered."""
        return len(self._sources.ends)

    def take(self, source: bytes, *, weight: float = 1.0, now_s: float) -> bool:
        """Take a turn if no link is waiting and the budget has a turn; otherwise call `wait`."""
        self._refill(now_s)
        if len(self._sources) or self._tokens < 1:
            return False
        self._tokens -= 1
        self._sources.pass_by(source, weight)
        return True

    def wait(self, source: bytes, neighbour: bytes, waiter: W, *, weight: float = 1.0) -> None:
        """Queue a waiter; `give` sets it."""
        self._sources.push(source, source, weight)
        self._neighbours.setdefault(source, _FairQueue()).push(neighbour, waiter, weight)

    def leave(self, source: bytes, waiter: W) -> None:
        """Remove a waiter that has given up. No effect if its turn has come."""
        queue = self._neighbours.get(source)
        if queue is not None and queue.remove(waiter):
            self._sources.remove(source)
            if not len(queue):
                del self._neighbours[source]

    def give(self, now_s: float) -> float | None:
        """Wake the waiters whose turn has come. Returns the seconds to the next turn; None: no link waits."""
        self._refill(now_s)
        while len(self._sources) and self._tokens >= 1:
            self._tokens -= 1
            source = self._sources.pop()
            queue = self._neighbours[source]
            waiter = queue.pop()
            if not len(queue):
                del self._neighbours[source]
            waiter.set()
        return (1 - self._tokens) / self._per_s if len(self._sources) else None

    def charge(self, source: bytes, neighbour: bytes, *, weight: float = 1.0) -> None:
        """A header of this neighbour was garbage."""
        self._sources.charge(source, GARBAGE_TURNS / weight)
        if (queue := self._neighbours.get(source)) is not None:
            queue.charge(neighbour, GARBAGE_TURNS / weight)

    def _refill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._then_s)
        self._tokens = min(self._burst, self._tokens + passed_s * self._per_s)
        self._then_s = now_s
