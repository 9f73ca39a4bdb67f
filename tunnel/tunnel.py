"""The facade over the onion protocol: frames to send, frames to open. Bytes only, no socket, no waiting.

`TunnelReader` is what a service that reads frames needs: open a header with every check in its order, and
make the layers for what the header says. It has no route provider and can build nothing. `Tunnel` adds what
Alice and Bob need to write: queries over a route, replies by block.
Source: docs/protocol.md, "Order of checks" and "Building a query".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from readwrite_comp import CompExtR, ExtRead, MultiRExt, WideBlockR, WideBlockW
from readwrite_comp.primitives import random_bytes as system_random_bytes
from readwrite_comp.wideblock import Lioness
from tunnel.descriptor import Descriptor, short
from tunnel.directory import Directory
from tunnel.errors import BadRoute, DescriptorError, HeaderError, RefusedKey, UnknownNext
from tunnel.geometry import NODE_ID_BYTES, SEED_BYTES, Profile
from tunnel.keys import NodeKeys
from tunnel.modes import MODES, ReplyMode
from tunnel.onion.expiry import check_expiry, draw_expiry
from tunnel.onion.frame import FrameW
from tunnel.onion.header import Command, Hop, Opened, OpeningKey, Slot, build_header, open_header
from tunnel.onion.message import MessageR, MessageW
from tunnel.onion.replay import ReplayTable
from tunnel.onion.reply_block import HomeTicket, ReplyBlock, build_reply_block
from tunnel.onion.secrets import end_to_end_key, layer_keys, reply_end_to_end_seed, reply_hop_seed
from tunnel.primitives import TunnelEngine
from tunnel.route import Route

__all__ = ["OutgoingFrame", "OutgoingQuery", "Tunnel", "TunnelReader"]

MAX_DELAY_10MS = 3_000  # 30 s


@dataclass(frozen=True, slots=True)
class OutgoingFrame:
    """A frame to send: to whom, in which shape, and the layer that writes it (header, content, end)."""

    first_id: bytes
    profile: Profile
    layer: FrameW


@dataclass(frozen=True, slots=True)
class OutgoingQuery:
    """A query's frame, and the id under which its reply will come home (None in mode `none`)."""

    query_id: bytes | None
    route: Route
    frame: OutgoingFrame


def _permutation(seed: bytes, direction: bytes, profile: Profile, engine: TunnelEngine) -> Lioness:
    return Lioness(layer_keys(seed, direction), profile.geometry.chunk_bytes, engine.layers)


class TunnelReader:
    """What a read service needs to know what a frame is and to read it.

    Args:
        node_id: this node's own id.
        keys: onion keys to try, current first.
        home_key: checks the tickets of this node's own reply blocks.
        replay: shared by all readers of this node.
    """

    def __init__(
        self,
        *,
        node_id: bytes,
        keys: Sequence[OpeningKey],
        home_key: bytes,
        replay: ReplayTable,
        engine: TunnelEngine,
    ) -> None:
        self.node_id = node_id
        self.engine = engine
        self._keys = keys
        self._home_key = home_key
        self._replay = replay

    def open_frame(self, header: bytes, profile: Profile, *, neighbour: bytes, now_s: float) -> Opened:
        """Open and check a header, in the documented order; remember it.

        Args:
            header: 128·N bytes. neighbour: who it came from. now_s: seconds since 1970.
        Raises:
            HeaderError, UnknownNext, ExpiredHeader, ReplayedHeader, TableFull: each has the code for a RESET.
        On error: nothing was remembered.
        """
        opened = open_header(header, profile, self._keys, engine=self.engine)
        slot = opened.slot
        if slot.delay_10ms > MAX_DELAY_10MS:
            raise HeaderError(
                f"slot asks for a delay of {slot.delay_10ms * 10} ms, at most 30,000 are allowed"
            )
        if slot.command is Command.RELAY and slot.next_id in (self.node_id, neighbour):
            raise UnknownNext("slot names this node itself, or the neighbour that it came from, as the next")
        check_expiry(slot.expiry, now_s)
        self._replay.insert(header, slot.expiry, now_s=now_s)
        return opened

    def relay_layers(self, slot: Slot, profile: Profile) -> tuple[Lioness, Lioness]:
        """The permutations of a proxy, (forward, backward); it applies their `decrypt` to each chunk."""
        return (
            _permutation(slot.seed, b"forward", profile, self.engine),
            _permutation(slot.seed, b"backward", profile, self.engine),
        )

    def destination_reader(self, slot: Slot, profile: Profile) -> MessageR:
        """Bob's reader of a query."""
        return MessageR(profile, end_to_end_key(slot.seed, b"forward"), engine=self.engine)

    def home_ticket(self, slot: Slot) -> HomeTicket:
        """Whose reply this is. Raises HeaderError when the slot was not made here."""
        return HomeTicket.unpack(slot, self._home_key)

    def home_reader(self, slot: Slot, ticket: HomeTicket, profile: Profile) -> ExtRead:
        """Alice's reader of a reply by block: the layers of the reply route's last proxy come off first."""
        layers = [
            WideBlockR(
                _permutation(reply_hop_seed(slot.seed, proxy), b"forward", profile, self.engine), inverse=True
            )
            for proxy in range(ticket.proxies - 1, -1, -1)
        ]
        key = end_to_end_key(reply_end_to_end_seed(slot.seed), b"forward")
        message = MessageR(profile, key, engine=self.engine)
        return CompExtR(MultiRExt(layers), message) if layers else message


class Tunnel(TunnelReader):
    """A reader that can also write: for Alice, and for Bob's replies.

    Args:
        keys: this node's secrets.
        directory: where the descriptors of routes come from.
        random_bytes: seeds, ids and padding; the operating system's generator unless a test fixes it.
    """

    def __init__(
        self,
        *,
        keys: NodeKeys,
        directory: Directory,
        engine: TunnelEngine,
        replay_limit: int = 1_000_000,
        random_bytes: Callable[[int], bytes] = system_random_bytes,
    ) -> None:
        super().__init__(
            node_id=keys.node_id(engine),
            keys=[keys.opening_key(engine)],
            home_key=keys.home,
            replay=ReplayTable(keys.table, limit=replay_limit),
            engine=engine,
        )
        self._keys_secret = keys
        self._directory = directory
        self._random_bytes = random_bytes

    def query(self, route: Route, mode: ReplyMode, profile: Profile, *, now_s: float) -> OutgoingQuery:
        """Build a query's frame over `route`.

        Raises:
            BadRoute: a node that is unknown, visited twice, does not offer the profile, or has no onion key
                that can be sealed to now.
            ProfileError: the route is longer than the profile holds.
        """
        try:
            return self._build_query(route, mode, profile, now_s)
        except RefusedKey as error:
            # Its owner signed it, so it got into the directory; nothing else is wrong with the descriptor.
            raise BadRoute(
                "a node of the route has published an onion key that nobody can seal to"
            ) from error

    def _build_query(self, route: Route, mode: ReplyMode, profile: Profile, now_s: float) -> OutgoingQuery:
        hops = self._hops(route, profile, now_s)
        blocks = []
        query_id = None
        if MODES[mode].reply_blocks:
            query_id = self._random_bytes(8)
            blocks.append(self._reply_block(route, hops, query_id, profile, now_s))
        seeds = [self._random_bytes(SEED_BYTES) for _ in hops]
        ids = route.nodes
        slots = []
        for i, seed in enumerate(seeds):
            expiry = draw_expiry(now_s, self._random_bytes)
            last = i == len(seeds) - 1
            slots.append(
                Slot(Command.DEST, expiry, seed)
                if last
                else Slot(Command.RELAY, expiry, seed, next_id=ids[i + 1])
            )
        header = build_header(
            profile, list(zip(hops, slots, strict=True)), engine=self.engine, random_bytes=self._random_bytes
        )
        message = MessageW(
            profile, end_to_end_key(seeds[-1], b"forward"), reply_blocks=blocks, engine=self.engine
        )
        # Layer 0 is next to the stream: proxy 1, whose inverse is applied first on the way.
        layers = [WideBlockW(_permutation(seed, b"forward", profile, self.engine)) for seed in seeds[:-1]]
        return OutgoingQuery(query_id, route, OutgoingFrame(ids[0], profile, FrameW(header, layers, message)))

    def reply(self, block: ReplyBlock, *, now_s: float) -> OutgoingFrame:
        """Bob's frame along a reply block.

        Raises:
            ExpiredHeader: the block is too old to be of use. UnknownNext: it begins at this node itself.
            ReplayedHeader: it was used before; a second frame would be sealed with the nonces of the first.
        """
        check_expiry(block.expiry, now_s)
        if block.first_id == self.node_id:
            raise UnknownNext("reply block names this node itself as the first of the way back")
        self._replay.insert(block.header, block.expiry, now_s=now_s)
        message = MessageW(
            block.profile, end_to_end_key(block.end_to_end_seed, b"forward"), engine=self.engine
        )
        return OutgoingFrame(block.first_id, block.profile, FrameW(block.header, [], message))

    def _hops(self, route: Route, profile: Profile, now_s: float) -> list[Hop]:
        ids = route.nodes
        if len({self.node_id, *ids}) != len(ids) + 1:
            raise BadRoute("a route visits no node twice, and not its origin")
        try:
            return [self._descriptor(node_id, profile).hop(now_s) for node_id in ids]
        except DescriptorError as error:
            raise BadRoute(f"no key for the route: {error}") from error

    def _descriptor(self, node_id: bytes, profile: Profile) -> Descriptor:
        assert len(node_id) == NODE_ID_BYTES
        descriptor = self._directory.lookup(node_id)
        if descriptor is None:
            raise BadRoute(f"node {short(node_id)} of the route is not in the directory")
        if not descriptor.offers(profile):
            raise BadRoute(f"node {short(node_id)} of the route does not offer profile {profile.name!r}")
        return descriptor

    def _reply_block(
        self, route: Route, hops: Sequence[Hop], query_id: bytes, profile: Profile, now_s: float
    ) -> ReplyBlock:
        """The block of mode `route`: the same proxies in reverse."""
        way_back = list(zip(route.proxies, hops, strict=False))[::-1]
        current = self._keys[0]
        own = Hop(current.private.public, current.epoch)
        return build_reply_block(
            profile,
            way_back,
            (self.node_id, own),
            query_id=query_id,
            master_seed=self._random_bytes(SEED_BYTES),
            home_key=self._keys_secret.home,
            draw_expiry=lambda: draw_expiry(now_s, self._random_bytes),
            engine=self.engine,
            random_bytes=self._random_bytes,
        )
