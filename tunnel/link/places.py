"""Which link ends when all links of a node are in use and a new one arrives.

Identities are free, so no count by identity protects a place. Reserved places are those of

* links that this node dialled for its own frames: busy links always, idle links up to half of the places;
* links that others dialled and that have lasted ten minutes: the oldest ones, up to a quarter of the places.

A new link displaces one of the other links: an idle link if there is one, and among the candidates a link of
the source with the most links. An attacker therefore displaces his own links, unless he has as many networks
as there are honest peers. Then a random link ends, most likely one of his.

Pure: time and randomness are arguments. Source: docs/security.md; the eviction of Bitcoin Core
(`SelectNodeToEvict`) has the same parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

__all__ = ["KNOWN_S", "choose_loser", "contested"]

T = TypeVar("T")

KNOWN_S: Final = 600.0
"""A neighbour is known when it has been linked for this long without a break."""


class Placed(Protocol):
    """What this file needs to know of a link."""

    @property
    def streams(self) -> int:
        """Number of open streams."""

    @property
    def is_own(self) -> bool:
        """Whether this node dialled it for a frame of its own."""

    @property
    def source(self) -> bytes:
        """The network that pays for it."""

    @property
    def known_since_s(self) -> float:
        """When this neighbour was linked; it has not been without a link since."""

    @property
    def used_s(self) -> float:
        """When a stream was last opened."""


class Randomness(Protocol):
    """The part of `random.Random` that is used here."""

    def choice(self, seq: Sequence[T], /) -> T: ...


L = TypeVar("L", bound=Placed)


def contested(links: Iterable[L], limit: int, now_s: float) -> list[L]:
    """The links whose places are not reserved.

    Args:
        links: those that take streams. limit: places of this node.
    """
    oldest_first = sorted(links, key=lambda link: link.known_since_s)
    own = sorted((link for link in oldest_first if link.is_own), key=lambda link: not link.streams)
    others = [link for link in oldest_first if not link.is_own]
    busy = sum(link.streams > 0 for link in own)
    known = sum(now_s - link.known_since_s >= KNOWN_S for link in others)
    return own[max(busy, limit // 2) :] + others[min(known, limit // 4) :]


def choose_loser(links: Sequence[L], rng: Randomness) -> L:
    """The link that makes room. Args: links: at least one."""
    idle = [link for link in links if not link.streams]
    candidates = idle or links
    crowd = Counter(link.source for link in candidates)
    most = max(crowd.values())
    crowded = [link for link in candidates if crowd[link.source] == most]
    # Nobody misses an idle link. Among busy links an attacker could exploit any fixed rule.
    return min(crowded, key=lambda link: link.used_s) if idle else rng.choice(crowded)
