"""The directory that learns from neighbours (peer exchange): bounded tables without sockets or clocks.

It holds three kinds of nodes:

* **published**: this node's own descriptor, and those that its user configured. Trusted, never dropped.
* **reached**: this node has dialled them, and the owner of the link key at that address calls itself so. They
  are kept over new ones, and expire with their descriptors. Identities are free, also for an attacker with
  one real machine: a network has `PER_NETWORK` places at most, and the weight of one node in draws (`crowd`).
* **heard of**: everything else (hearsay.py), for some minutes. A node that has dialled this one is heard of
  too: its keys are proven, its address is not.

Routes, guards and links ahead are drawn from the first two kinds (`sample`), and only these are passed on. So
nobody can spread invented nodes, and each node finds out for itself: `seek_peers` in tunnel/node/links dials
what was heard of, a few a minute. Source: docs/routes.md, "Peer exchange"; the model is the tried and new
tables of Bitcoin's address manager (Heilman et al. 2015).
"""

from __future__ import annotations

import random
import struct
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tunnel.arguments import checked_count
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory.hearsay import Hearsay, Verifications
from tunnel.errors import DescriptorError, LinkError, LocalTunnelError
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, MIN_DESCRIPTOR_BYTES, Descriptor
from tunnel.routing.addresses import PUBLIC, AddressRules

__all__ = ["MAX_DESCRIPTORS", "PER_NETWORK", "ExchangeDirectory", "ExchangeMessage"]


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


PER_NETWORK: Final = 64
"""Reached nodes of one network (/16 of IPv4, /32 of IPv6)."""
_LIMIT: Final = 4096  # reached nodes; about 2 KiB each
# A node is dialled again when this has passed, and dropped after `_PROOF_S`: its descriptor may say that it
# never expires, and its owner may long have left that address.
_AGAIN_S: Final = 24 * 3600.0
_PROOF_S: Final = 7 * 24 * 3600.0


@dataclass(slots=True)
class _Reached:
    descriptor: Descriptor
    network: bytes | None  # of the address that answered; None: it distinguishes no owners
    since_s: float  # when it answered last
    tried_s: float  # when it was dialled last to see whether it still does


class ExchangeDirectory:
    """Configured descriptors, and others learned from neighbours.

    Args:
        configured: verified descriptors to begin with. One reachable node is enough.
        engine: verifies signatures.
        rules: the address rules of this node: nodes that it may not dial are not learned.
        limit: of reached nodes.
        rng: draws samples, and which nodes are dialled.

    Attributes:
        rules: as the argument; a client, which has no address, sets it when it knows where its peers are.
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
        self.rules = rules
        self._limit = checked_count(limit, "limit", least=1)
        self._lock = threading.Lock()  # routes are drawn in their callers' threads
        self._published: dict[bytes, Descriptor] = {}
        self._reached: dict[bytes, _Reached] = {}
        self._by_network: Counter[bytes | None] = Counter()
        self._heard = Hearsay(self._rng)
        self._verifications = Verifications()
        for descriptor in configured:
            self.publish(descriptor)

    # -- the four methods ------------------------------------------------------------------------------

    def publish(self, descriptor: Descriptor) -> None:
        """Add a verified descriptor that is never dropped; see `Directory`."""
        node_id = descriptor.node_id
        with self._lock:
            known = self._find(node_id)
            newest = descriptor if known is None or descriptor.sequence >= known.sequence else known
            self._forget_reached(node_id)
            self._heard.remove(node_id)
            self._published[node_id] = newest

    def lookup(self, node_id: bytes) -> Descriptor | None:
        """The descriptor of a node, also of one only heard of; None: unknown."""
        with self._lock:
            return self._find(node_id)

    def sample(self, count: int | None = None) -> list[Descriptor]:
        """Up to `count` published and reached nodes, drawn uniformly; by default all."""
        with self._lock:
            every = [*self._published.values(), *(entry.descriptor for entry in self._reached.values())]
        return every if count is None or count >= len(every) else self._rng.sample(every, count)

    def close(self) -> None:
        """Does nothing: no background work."""

    def __len__(self) -> int:
        return len(self._published) + len(self._reached) + len(self._heard)

    def __iter__(self) -> Iterator[Descriptor]:
        """All known nodes, also those only heard of."""
        with self._lock:
            heard = list(self._heard)
        return iter([*self.sample(), *heard])

    def is_configured(self, node_id: bytes) -> bool:
        """Whether the node was published, not learned."""
        return node_id in self._published

    def is_hearsay(self, node_id: bytes) -> bool:
        """Whether the node was only heard of."""
        return node_id in self._heard

    # -- what others tell ------------------------------------------------------------------------------

    def learn(
        self, signed_descriptors: Iterable[bytes], *, source: bytes, own_id: bytes, now_s: float
    ) -> int:
        """Hear of nodes: signed descriptors from a neighbour.

        Args:
            signed_descriptors: not verified yet.
            source: charged for them: the neighbour's network, see `AddressRules.source`.
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
            # Without verifying the signature, the main cost.
            if self._is_useless(signed, source) or not self._may_verify(source, now_s):
                continue
            descriptor = Descriptor.parse(signed, self._engine)
            with self._lock:
                known = self._find(descriptor.node_id)
                is_newer = known is None or descriptor.sequence > known.sequence
                if is_newer and self._may_know(descriptor, own_id, now_s):
                    news += self._hear(descriptor, source, now_s)
        return news

    def presented(self, descriptor: Descriptor, *, source: bytes, own_id: bytes, now_s: float) -> None:
        """A node has dialled this one and sent its descriptor. Its keys are proven, its address is not."""
        with self._lock:
            known = self._find(descriptor.node_id)
            # Of two descriptors of the same second the one that the node itself presents is the later.
            is_newest = known is None or descriptor.sequence >= known.sequence
            if not is_newest or not self._may_know(descriptor, own_id, now_s):
                return
            # Dialled soon, whatever others tell: its turn comes beside theirs, even if it was dialled before.
            self._heard.remove(descriptor.node_id)
            self._hear(descriptor, b"itself " + source, now_s)
            self._heard.prove_key(descriptor.node_id)

    def expire(self, now_s: float) -> None:
        """Drop learned descriptors that have expired, and hearsay of some minutes ago."""
        with self._lock:
            for node_id, entry in list(self._reached.items()):
                # After the clock was set back, a time that is still to come would keep the node till then.
                entry.since_s = min(entry.since_s, now_s)
                entry.tried_s = min(entry.tried_s, now_s)
                if entry.descriptor.expiry <= now_s or now_s - entry.since_s > _PROOF_S:
                    self._forget_reached(node_id)
            self._heard.expire(now_s)

    # -- what this node finds out ----------------------------------------------------------------------

    def next_to_dial(self, now_s: float, preferred: Collection[bytes] = ()) -> Descriptor | None:
        """A hearsay node to be dialled now; otherwise a node that was reached a day ago. None: no such node.

        Args:
            preferred: ids of hearsay nodes that are drawn before others.
        """
        with self._lock:
            known = {entry.descriptor.link_key for entry in self._reached.values()}
            known |= {peer.link_key for peer in self._published.values()}
            while (drawn := self._heard.draw(preferred)) is not None:
                places = self.rules.dialable(drawn.addresses)
                # Two nodes have one link key only if one is invented, to send many dials to the other.
                if drawn.link_key not in known and any(
                    self._has_room(self.rules.owner(place.host)) for place in places
                ):
                    return drawn
            oldest = min(self._reached.values(), key=lambda entry: entry.tried_s, default=None)
            if oldest is None or now_s - oldest.tried_s < _AGAIN_S:
                return None
            oldest.tried_s = now_s
            return oldest.descriptor

    @property
    def undialled(self) -> int:
        """Number of nodes only heard of that this node has not dialled."""
        with self._lock:
            return self._heard.undrawn

    def owns_key(self, descriptor: Descriptor) -> bool:
        """Whether a node only heard of has dialled this one, and so shown that it owns its link key."""
        with self._lock:
            return self._heard.owns_key(descriptor)

    def own_of(self, dialled: Descriptor, told: Iterable[bytes]) -> Descriptor | None:
        """A dialled neighbour's own descriptor among those it announced; None: it did not announce its own.

        A handshake proves the dialled link key, not its owner: an invented node may name the link key and the
        address of a real node. An honest node never announces a node that it has not reached. A neighbour
        that announces the node with the neighbour's own link key is therefore that node.

        Raises:
            DescriptorError: it is not signed by the node.
        """
        for signed in told:
            if Descriptor.peek_id(signed) == dialled.node_id:
                own = dialled if signed == dialled.signed else Descriptor.parse(signed, self._engine)
                return own if own.link_key == dialled.link_key else None
        return None

    def reached(self, descriptor: Descriptor, host: str, *, own_id: bytes, now_s: float) -> None:
        """Record that a node, dialled at `host`, was reached; see `owns_key` and `own_of`."""
        node_id, network = descriptor.node_id, self.rules.owner(host)
        with self._lock:
            known = self._find(node_id)
            if known is not None and known.sequence > descriptor.sequence:
                if not _is_same_place(known, descriptor):
                    return  # it has moved meanwhile
                descriptor = known
            if not self._may_know(descriptor, own_id, now_s) or node_id in self._published:
                return
            entry = self._reached.get(node_id)
            if entry is not None and entry.network == network:
                entry.since_s = entry.tried_s = now_s
            elif entry is None and self._has_room(network):
                self._heard.remove(node_id)
                self._reached[node_id] = _Reached(descriptor, network, now_s, now_s)
                self._by_network[network] += 1

    def crowd(self, avoid: Collection[bytes] = ()) -> frozenset[bytes]:
        """The nodes to leave out of one draw: all reached nodes of each network but one, drawn again each
        time. So one machine has the weight of one node, whatever number of identities it answers for.

        Args:
            avoid: nodes that the draw leaves out anyway.
        """
        by_network: dict[bytes, list[bytes]] = {}
        with self._lock:
            for node_id, entry in self._reached.items():
                if entry.network is not None and node_id not in avoid:
                    by_network.setdefault(entry.network, []).append(node_id)
        crowds = [node_ids for node_ids in by_network.values() if len(node_ids) > 1]
        return frozenset(node_id for ids in crowds for node_id in self._rng.sample(ids, len(ids) - 1))

    # -- what this node tells --------------------------------------------------------------------------

    def offer(self, own: Descriptor, *, to: bytes, now_s: float) -> tuple[bytes, ...]:
        """Descriptors for a neighbour: this node's own, if it is listed, and random others.

        Only nodes that this node has reached or that its user configured. Never unlisted or expired ones, nor
        the neighbour's own.
        """
        mine = [own] if not own.unlisted else []
        left_out = self.crowd() | {own.node_id, to}
        others = [
            peer
            for peer in self.sample()
            if not peer.unlisted and peer.expiry > now_s and peer.node_id not in left_out
        ]
        drawn = self._rng.sample(others, min(len(others), MAX_DESCRIPTORS - len(mine)))
        return tuple(peer.signed for peer in (*mine, *drawn))

    # -- parts, with the lock held ---------------------------------------------------------------------

    def _find(self, node_id: bytes) -> Descriptor | None:
        entry = self._reached.get(node_id)
        if entry is not None:
            return entry.descriptor
        return self._published.get(node_id) or self._heard.get(node_id)

    def _is_useless(self, signed: bytes, source: bytes) -> bool:
        """Whether a descriptor is known already, or of an unknown node for which its source has no room."""
        try:
            node_id = Descriptor.peek_id(signed)
        except DescriptorError:
            return False
        with self._lock:
            known = self._find(node_id)
            return not self._heard.has_room(source) if known is None else known.signed == signed

    def _may_verify(self, source: bytes, now_s: float) -> bool:
        with self._lock:
            return self._verifications.take(source, now_s)

    def _may_know(self, descriptor: Descriptor, own_id: bytes, now_s: float) -> bool:
        is_listed = descriptor.node_id != own_id and not descriptor.unlisted
        return is_listed and descriptor.expiry > now_s and bool(self.rules.dialable(descriptor.addresses))

    def _hear(self, descriptor: Descriptor, source: bytes, now_s: float) -> bool:
        """Take the newest descriptor of a node. False: its source has no room."""
        node_id = descriptor.node_id
        if node_id in self._published:
            self._published[node_id] = descriptor
            return True
        entry = self._reached.get(node_id)
        if entry is not None and _is_same_place(entry.descriptor, descriptor):
            entry.descriptor = descriptor
            return True
        if not self._heard.put(descriptor, source, now_s):
            return False
        self._forget_reached(node_id)  # it has moved: nobody has answered at the new address
        return True

    def _has_room(self, network: bytes | None) -> bool:
        is_crowded = network is not None and self._by_network[network] >= PER_NETWORK
        return len(self._reached) < self._limit and not is_crowded

    def _forget_reached(self, node_id: bytes) -> None:
        entry = self._reached.pop(node_id, None)
        if entry is not None:
            self._by_network[entry.network] -= 1
            if not self._by_network[entry.network]:
                del self._by_network[entry.network]


def _is_same_place(one: Descriptor, other: Descriptor) -> bool:
    """Whether a handshake with one descriptor proves the other descriptor too."""
    return one.link_key == other.link_key and set(one.addresses) == set(other.addresses)
