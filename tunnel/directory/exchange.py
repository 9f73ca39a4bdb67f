"""The directory that learns from neighbours (peer exchange): a bounded table without sockets or clocks.

Published descriptors (this node's own, and the configured ones) are trusted and never evicted. Learned ones
are bounded. When the table is full, an entry is evicted by these rules:

* Never a node that is currently linked. A node that was linked once (`proven`) only if such nodes fill more
  than half of the table, the one seen longest ago first: each has cost its owner a machine and a handshake.
* Each entry is charged to the source that sent it first (a neighbour, or its network). Otherwise a random
  entry of the source with the most entries goes: a neighbour that floods the table with free identities
  displaces its own.
* Random and not oldest first: with a known order a flooder would know when the honest entries are gone.

A flood thus makes the unproven half of the table less useful, and isolates no node. Half of each sent message
is drawn from proven nodes, so that false entries spread more slowly than true ones.
Source: docs/routes.md, "Peer exchange"; the model is the tried and new tables of Bitcoin's address manager
(Heilman et al. 2015).
"""

from __future__ import annotations

import random
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tunnel.arguments import checked_count
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import DescriptorError, LinkError, LocalTunnelError
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, MIN_DESCRIPTOR_BYTES, Descriptor
from tunnel.routing.addresses import PUBLIC, AddressRules

__all__ = ["MAX_DESCRIPTORS", "ExchangeDirectory", "ExchangeMessage"]


# The payload of PEER-EXCHANGE: signed descriptors, and whether a message in return is wanted.
#
# Layout: version u8 = 1 ‖ flags u8 (bit 0: WANT) ‖ count u8, 0 to 8 ‖ zero u8 ‖ count × (length u16 ‖
# signed descriptor). Source: docs/protocol.md, "Peer exchange".
MAX_DESCRIPTORS: Final = 8  # of the greatest length they fit into one frame
_HEAD: Final = struct.Struct(">BBBB")
_LENGTH: Final = struct.Struct(">H")
_VERSION: Final = 1
_WANT: Final = 0x01


@dataclass(frozen=True, slots=True)
class ExchangeMessage:
    """One message of an exchange.

    Attributes:
        descriptors: signed bytes, not verified here.
        wants_more: the sender asks for a message in return.
    """

    descriptors: tuple[bytes, ...]
    wants_more: bool = False

    def to_bytes(self) -> bytes:
        """The payload. Raises LocalTunnelError: too many descriptors."""
        if len(self.descriptors) > MAX_DESCRIPTORS:
            raise LocalTunnelError(f"{len(self.descriptors)} descriptors, expected up to {MAX_DESCRIPTORS}")
        head = _HEAD.pack(_VERSION, _WANT if self.wants_more else 0, len(self.descriptors), 0)
        return head + b"".join(_LENGTH.pack(len(signed)) + signed for signed in self.descriptors)

    @classmethod
    def parse(cls, payload: bytes) -> ExchangeMessage:
        """Read a payload.

        Raises:
            LinkError: not the output of `to_bytes`.
        """
        if len(payload) < _HEAD.size:
            raise LinkError(f"PEER-EXCHANGE of {len(payload)} bytes, expected at least {_HEAD.size}")
        version, flags, count, zero = _HEAD.unpack_from(payload)
        if version != _VERSION or flags & ~_WANT or count > MAX_DESCRIPTORS or zero:
            raise LinkError(f"PEER-EXCHANGE begins with {payload[: _HEAD.size].hex()}")
        return cls(tuple(_split(payload[_HEAD.size :], count)), bool(flags & _WANT))


def _split(body: bytes, count: int) -> Sequence[bytes]:
    found, at = [], 0
    for _ in range(count):
        start = at + _LENGTH.size
        length = int.from_bytes(body[at:start], "big") if start <= len(body) else 0
        at = start + length
        if not MIN_DESCRIPTOR_BYTES <= length <= MAX_DESCRIPTOR_BYTES or at > len(body):
            raise LinkError(f"PEER-EXCHANGE with a descriptor of {length} bytes at byte {start} of its body")
        found.append(body[start:at])
    if at != len(body):
        raise LinkError(f"PEER-EXCHANGE with {len(body) - at} bytes after its last descriptor")
    return found


_LIMIT: Final = 4096  # learned descriptors; about 2 KiB each


@dataclass(slots=True)
class _Learned:
    descriptor: Descriptor
    source: bytes
    is_proven: bool = False


class ExchangeDirectory:
    """Configured descriptors, and others learned from neighbours.

    Args:
        configured: verified descriptors to begin with. One reachable node is enough.
        engine: verifies signatures.
        rules: the address rules of this node: nodes that it may not dial are not learned.
        limit: of learned descriptors.
        rng: draws samples, and which unproven entries are evicted.
    """

    def __init__(
        self,
        configured: Iterable[Descriptor] = (),
        *,
        engine: TunnelEngine,
        rules: AddressRules = PUBLIC,
        limit: int = _LIMIT,
        rng: random.Random | None = None,
    ) -> None:
        self._rng = rng or random.SystemRandom()
        self._engine = engine
        self._rules = rules
        self._limit = checked_count(limit, "limit", least=1)
        self._lock = threading.Lock()  # routes are drawn in their callers' threads
        self._published: dict[bytes, Descriptor] = {}
        self.learned: dict[bytes, _Learned] = {}
        self.entries_by_source: Counter[bytes] = Counter()
        self._linked: Counter[bytes] = Counter()
        for descriptor in configured:
            self.publish(descriptor)

    # -- the four methods ------------------------------------------------------------------------------

    def publish(self, descriptor: Descriptor) -> None:
        """Add a verified descriptor that is never evicted; see `Directory`."""
        with self._lock:
            known = self._find(descriptor.node_id)
            newest = descriptor if known is None or descriptor.sequence >= known.sequence else known
            self._remove(descriptor.node_id)
            self._published[descriptor.node_id] = newest

    def lookup(self, node_id: bytes) -> Descriptor | None:
        """The descriptor of a node; None: unknown."""
        with self._lock:
            return self._find(node_id)

    def sample(self, count: int | None = None) -> list[Descriptor]:
        """Up to `count` descriptors, drawn uniformly; by default all."""
        with self._lock:
            every = [*self._published.values(), *(entry.descriptor for entry in self.learned.values())]
        return every if count is None or count >= len(every) else self._rng.sample(every, count)

    def is_configured(self, node_id: bytes) -> bool:
        """Whether the node was published, not learned."""
        return node_id in self._published

    def close(self) -> None:
        """Does nothing: no background work."""

    def __len__(self) -> int:
        return len(self._published) + len(self.learned)

    def __iter__(self) -> Iterator[Descriptor]:
        return iter(self.sample())

    # -- descriptors from neighbours -------------------------------------------------------------------

    def learn(
        self, signed_descriptors: Iterable[bytes], *, source: bytes, own_id: bytes, now_s: float
    ) -> int:
        """Add signed descriptors from a neighbour.

        Args:
            signed_descriptors: not verified yet.
            source: charged for them: the neighbour's id or network.
            own_id: this node, whose descriptors are ignored.
            now_s: the wall clock.
        Returns:
            The number of descriptors of unknown nodes, or newer than the known ones.
        Raises:
            DescriptorError: one is malformed or has a wrong signature; honest neighbours verify what they
                send. The descriptors before it are added.
        """
        news = 0
        for signed in signed_descriptors:
            if self._is_known(signed):
                continue  # avoids verifying the signature, the main cost
            descriptor = Descriptor.parse(signed, self._engine)
            news += self._take(descriptor, source, own_id, now_s, is_newest=False)
        return news

    def saw(self, descriptor: Descriptor, *, own_id: bytes, now_s: float) -> None:
        """A link with this node has begun: it is alive, and has sent its descriptor itself."""
        with self._lock:
            self._linked[descriptor.node_id] += 1
        # Of two descriptors of the same second the one that the node itself presents is the later.
        self._take(descriptor, descriptor.node_id, own_id, now_s, is_newest=True)
        with self._lock:
            entry = self.learned.get(descriptor.node_id)
            if entry is not None:
                entry.is_proven = True
                # Moved to the end: proven entries are in the order of last contact.
                self.learned[descriptor.node_id] = self.learned.pop(descriptor.node_id)

    def lost(self, node_id: bytes) -> None:
        """A link with this node has ended."""
        with self._lock:
            self._linked[node_id] -= 1
            if self._linked[node_id] <= 0:
                del self._linked[node_id]

    def offer(self, own: Descriptor, *, to: bytes, now_s: float) -> tuple[bytes, ...]:
        """Descriptors for a neighbour: this node's own, if it is listed, and random others.

        Never unlisted or expired ones, nor the neighbour's own.
        """
        with self._lock:
            entries = list(self.learned.values())
            published = list(self._published.values())
        proven = published + [entry.descriptor for entry in entries if entry.is_proven]
        unproven = [entry.descriptor for entry in entries if not entry.is_proven]
        mine = [own] if not own.unlisted else []
        room = MAX_DESCRIPTORS - len(mine)
        sure, rest = (
            [peer for peer in kind if self._may_pass_on(peer, now_s, {own.node_id, to})]
            for kind in (proven, unproven)
        )
        drawn = self._rng.sample(sure, min(len(sure), max(room // 2, room - len(rest))))
        drawn += self._rng.sample(rest, min(len(rest), room - len(drawn)))
        return tuple(peer.signed for peer in (*mine, *drawn))

    def expire(self, now_s: float) -> None:
        """Drop learned descriptors that have expired."""
        with self._lock:
            for node_id in [
                node_id for node_id, entry in self.learned.items() if entry.descriptor.expiry <= now_s
            ]:
                self._remove(node_id)

    # -- parts -----------------------------------------------------------------------------------------

    def _may_pass_on(self, peer: Descriptor, now_s: float, neither: set[bytes]) -> bool:
        return not peer.unlisted and peer.expiry > now_s and peer.node_id not in neither

    def _find(self, node_id: bytes) -> Descriptor | None:
        entry = self.learned.get(node_id)
        return self._published.get(node_id) if entry is None else entry.descriptor

    def _is_known(self, signed: bytes) -> bool:
        try:
            node_id = Descriptor.peek_id(signed)
        except DescriptorError:
            return False
        known = self.lookup(node_id)
        return known is not None and known.signed == signed

    def _take(
        self, descriptor: Descriptor, source: bytes, own_id: bytes, now_s: float, *, is_newest: bool
    ) -> int:
        node_id = descriptor.node_id
        is_reachable = bool(self._rules.dialable(descriptor.addresses))
        if node_id == own_id or descriptor.unlisted or descriptor.expiry <= now_s or not is_reachable:
            return 0
        with self._lock:
            known = self._find(node_id)
            if known is not None and descriptor.sequence < known.sequence + (not is_newest):
                return 0
            if node_id in self._published:
                self._published[node_id] = descriptor
            elif node_id in self.learned:
                self.learned[node_id].descriptor = descriptor
            elif not self._make_room():
                return 0
            else:
                self.learned[node_id] = _Learned(descriptor, source)
                self.entries_by_source[source] += 1
        return 1

    def _make_room(self) -> bool:
        """Make room for one entry. False: all entries are of linked nodes."""
        if len(self.learned) < self._limit:
            return True
        proven = [node_id for node_id, entry in self.learned.items() if entry.is_proven]
        idle = next((node_id for node_id in proven if node_id not in self._linked), None)
        leaving = idle if 2 * len(proven) > self._limit else None
        leaving = leaving or self._unproven_of_largest_source() or idle
        if leaving is not None:
            self._remove(leaving)
        return leaving is not None

    def _unproven_of_largest_source(self) -> bytes | None:
        for source, _ in self.entries_by_source.most_common():
            theirs = [
                node_id
                for node_id, entry in self.learned.items()
                if entry.source == source and not entry.is_proven
            ]
            if theirs:
                return self._rng.choice(theirs)
        return None

    def _remove(self, node_id: bytes) -> None:
        entry = self.learned.pop(node_id, None)
        if entry is not None:
            self.entries_by_source[entry.source] -= 1
            if not self.entries_by_source[entry.source]:
                del self.entries_by_source[entry.source]
