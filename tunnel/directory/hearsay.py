"""Hearsay: the nodes that this node has only heard of, in a bounded table, and which of them to dial next.

Anybody can invent any number of identities and sign descriptors for them. So `ExchangeDirectory` draws no
route from hearsay and does not pass it on until this node has dialled the node itself. The limits here count
by source, because a source costs an address and an identity costs nothing:

* A source may have `PER_SOURCE` entries. Descriptors beyond that are not even verified.
* When the table is full, a source with fewer entries replaces a random entry of the largest source.
* Of a source at most `MOST_VERIFIED` signatures are verified within `LIFE_S`: what never becomes an entry,
  such as expired descriptors, could be told without end.
* An entry expires `LIFE_S` after it arrived. A newer descriptor of the same node does not extend that.
* The next node to dial is drawn by source first, then among the nodes of that source. So a flood delays
  honest sources only by its share of the sources. Each entry is dialled once.

Pure: the clock is an argument; the caller holds a lock. Source: docs/routes.md, "Peer exchange".
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from tunnel.identity.descriptor import Descriptor

__all__ = ["LIFE_S", "MOST_VERIFIED", "PER_SOURCE", "Hearsay", "Verifications"]

LIFE_S: Final = 600.0
"""Life of an entry. A neighbour that knows the node itself tells of it again."""
PER_SOURCE: Final = 128
"""Entries of one source: about as many as this node dials within `LIFE_S`."""
MOST_VERIFIED: Final = 2 * PER_SOURCE
"""Signatures of one source that are verified within `LIFE_S`: those of its entries, and of as many others for
which the dialled ones make room."""
_LIMIT: Final = 1024  # about 2 KiB each
_MOST_SOURCES: Final = 4096


@dataclass(slots=True)
class _Heard:
    descriptor: Descriptor
    source: bytes
    since_s: float
    was_drawn: bool = False
    proven_key: bytes | None = None


class Verifications:
    """How many signatures were verified for each source lately."""

    def __init__(self) -> None:
        self._since: dict[bytes, tuple[float, int]] = {}  # the oldest first

    def take(self, source: bytes, now_s: float) -> bool:
        """Count one more. False: the source has had its share."""
        since_s, count = self._since.get(source, (now_s, 0))
        if not 0 <= now_s - since_s < LIFE_S:  # over, or the clock was set back
            self._since.pop(source, None)
            since_s, count = now_s, 0
        if count >= MOST_VERIFIED:
            return False
        if source not in self._since and len(self._since) >= _MOST_SOURCES:
            del self._since[next(iter(self._since))]
        self._since[source] = since_s, count + 1
        return True


class Hearsay:
    """Descriptors from other nodes, by node id.

    Args:
        rng: draws the node to dial, and the entry that leaves a full table.
        limit: of entries.
    """

    def __init__(self, rng: random.Random, *, limit: int = _LIMIT) -> None:
        self._rng = rng
        self._limit = limit
        self._by_id: dict[bytes, _Heard] = {}
        self._by_source: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, node_id: bytes) -> bool:
        return node_id in self._by_id

    def __iter__(self) -> Iterator[Descriptor]:
        return (entry.descriptor for entry in self._by_id.values())

    def get(self, node_id: bytes) -> Descriptor | None:
        """The descriptor of a node; None: unknown."""
        entry = self._by_id.get(node_id)
        return None if entry is None else entry.descriptor

    def told_by(self, source: bytes) -> int:
        """Number of entries of a source."""
        return self._by_source[source]

    def has_room(self, source: bytes) -> bool:
        """Whether an unknown node of this source would be added.

        A full table refuses a source that would become the largest: two floods could displace each other for
        ever."""
        count = self._by_source[source]
        is_full = len(self._by_id) >= self._limit
        return count < PER_SOURCE and not (is_full and count + 1 >= self._largest()[1])

    @property
    def undrawn(self) -> int:
        """Number of entries that have not been dialled."""
        return sum(not entry.was_drawn for entry in self._by_id.values())

    def put(self, descriptor: Descriptor, source: bytes, now_s: float) -> bool:
        """Add a verified descriptor, or replace that of a known node, which keeps its source and its time.

        Returns:
            False: the source has no room.
        """
        entry = self._by_id.get(descriptor.node_id)
        if entry is not None:
            entry.descriptor = descriptor
            return True
        if not self.has_room(source):
            return False
        if len(self._by_id) >= self._limit:
            self._evict()
        self._by_id[descriptor.node_id] = _Heard(descriptor, source, now_s)
        self._by_source[source] += 1
        return True

    def prove_key(self, node_id: bytes) -> None:
        """Record that the node owns its link key: it has dialled this node."""
        entry = self._by_id.get(node_id)
        if entry is not None:
            entry.proven_key = entry.descriptor.link_key

    def owns_key(self, descriptor: Descriptor) -> bool:
        """Whether the node has shown that it owns the link key in this descriptor."""
        entry = self._by_id.get(descriptor.node_id)
        return entry is not None and entry.proven_key == descriptor.link_key

    def remove(self, node_id: bytes) -> None:
        """Remove a node, if it is known."""
        entry = self._by_id.pop(node_id, None)
        if entry is not None:
            self._by_source[entry.source] -= 1
            if not self._by_source[entry.source]:
                del self._by_source[entry.source]

    def expire(self, now_s: float) -> None:
        """Remove entries that are too old, or from the future: the clock was set back."""
        for node_id, entry in list(self._by_id.items()):
            is_current = 0 <= now_s - entry.since_s < LIFE_S and now_s < entry.descriptor.expiry
            if not is_current:
                self.remove(node_id)

    def draw(self, preferred: Collection[bytes] = ()) -> Descriptor | None:
        """The node to dial next; None: all have been drawn.

        Args:
            preferred: drawn before others: guards of an earlier run.
        """
        by_source: dict[bytes, list[_Heard]] = {}
        for node_id, entry in self._by_id.items():
            if not entry.was_drawn:
                by_source.setdefault(b"" if node_id in preferred else entry.source, []).append(entry)
        if not by_source:
            return None
        source = b"" if b"" in by_source else self._rng.choice(sorted(by_source))
        entry = self._rng.choice(by_source[source])
        entry.was_drawn = True
        return entry.descriptor

    def _largest(self) -> tuple[bytes, int]:
        return self._by_source.most_common(1)[0]

    def _evict(self) -> None:
        largest, _ = self._largest()
        theirs = [node_id for node_id, entry in self._by_id.items() if entry.source == largest]
        self.remove(self._rng.choice(theirs))
