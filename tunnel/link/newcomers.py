"""Places for incoming connections before their handshake has ended. A connection costs its sender nothing.

At the limit a newcomer still gets a place, and another connection loses its own. It is chosen in three steps:

1. Connections without a valid first message, if they hold at least half of the places; otherwise connections
   with one. So neither kind can crowd out the other.
2. Among these, the network with the most connections.
3. Among its connections, a random one of the older half. An honest peer sends each message within a round
   trip, so it is in the younger half unless the flood fills a quarter of the places in that time. An attacker
   could time a choice by age alone, and a choice at random would hit the young as often as the old.

The puzzle protects the processor, not the places. A node asks for it only when many first messages arrive,
and only from networks that send at least the average. So a flooding host does not slow the others.

Pure: time and randomness are arguments. Source: docs/protocol.md, "Link handshake"; the random drop of the
oldest is that of OpenSSH (`MaxStartups`) and of SYN caches (Lemon, BSDCon 2002).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from tunnel.link.handshake import MAX_BITS

__all__ = ["CALM_PER_S", "Newcomer", "Newcomers"]

T = TypeVar("T")

CALM_PER_S: Final = 50
"""First messages in a second that are answered without a puzzle: 2 % of a core with OpenSSL."""
_LEAST_BITS: Final = 12  # some milliseconds of Python
_MOST_NETWORKS: Final = 4096  # counted in a second; the others count only in the total


class Randomness(Protocol):
    """The part of `random.Random` that is used here."""

    def choice(self, seq: Sequence[T], /) -> T: ...


@dataclass(slots=True, eq=False)
class Newcomer:
    """An incoming connection without a finished handshake.

    Attributes:
        address, network: where it comes from, see `tunnel.routing.addresses`.
        end: gives up the connection.
        has_spoken: its first message was valid.
    """

    address: bytes
    network: bytes
    end: Callable[[], object]
    has_spoken: bool = False


class Newcomers:
    """The places before the handshake.

    Args:
        limit: places, at least 1.
        calm_per_s: first messages in a second that are answered without a puzzle.
    """

    def __init__(self, limit: int, *, rng: Randomness, calm_per_s: int = CALM_PER_S) -> None:
        self._limit = limit
        self._rng = rng
        self._calm_per_s = calm_per_s
        self._places: dict[Newcomer, None] = {}  # in order of arrival
        self._second = 0
        self._now: Counter[bytes] = Counter()
        self._before: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Newcomer]:
        return iter(self._places)

    def add(self, newcomer: Newcomer) -> Newcomer | None:
        """Give a place. Returns the connection that lost its place for it, if any; the caller ends that."""
        loser = self._loser() if len(self._places) >= self._limit else None
        if loser is not None:
            del self._places[loser]
        self._places[newcomer] = None
        return loser

    def remove(self, newcomer: Newcomer) -> None:
        """Free its place: its handshake has ended. No effect if it has none."""
        self._places.pop(newcomer, None)

    def _loser(self) -> Newcomer:
        silent = [each for each in self._places if not each.has_spoken]
        kind = silent
        if 2 * len(silent) < self._limit:
            kind = [each for each in self._places if each.has_spoken]
        crowd = Counter(each.network for each in kind)
        most = max(crowd.values())
        crowded = [each for each in kind if crowd[each.network] == most]
        return self._rng.choice(crowded[: (len(crowded) + 1) // 2])

    def puzzle_bits(self, network: bytes, *, now_s: float) -> int:
        """Count a first message. Returns the difficulty of the puzzle that its sender must solve; 0: none.

        Args:
            now_s: any clock in seconds.
        """
        second = int(now_s)
        if second != self._second:
            self._before = self._now if second == self._second + 1 else Counter()
            self._now, self._second = Counter(), second
        if network in self._now or len(self._now) < _MOST_NETWORKS:
            self._now[network] += 1
        rates = self._now | self._before  # the larger of both seconds, for each network
        total = rates.total()
        if total <= self._calm_per_s or rates[network] * len(rates) < total:
            return 0
        return min(MAX_BITS, _LEAST_BITS + total // self._calm_per_s - 1)
