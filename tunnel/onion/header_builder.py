"""Headers over routes, for queries, reply blocks and cover traffic, and the keys that Alice keeps for them.

`HeaderBuilder` looks up the nodes of a route in the directory and seals a slot to each. It returns a
`Circuit` (a header with its secrets) or a `ReplyBlock`. `OutgoingQuery` and `OutgoingFrame` are what the node
sends.

Rule for changing it: the order of the random draws is part of the worked example in docs/protocol.md.
Source: docs/protocol.md, "Building a query" and "Reply block".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from readwrite_comp import WideBlockR, WideBlockW
from tunnel.codes import short
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory import Directory
from tunnel.errors import BadRoute, DescriptorError, RefusedKey
from tunnel.geometry import SEED_BYTES, Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.key_ring import KeyRing
from tunnel.modes import ERROR_MODES, ErrorMode, ReplyMode
from tunnel.onion.header import Command, Hop, Slot, build_header, draw_delay, draw_expiry
from tunnel.onion.key_schedule import Direction, permutation
from tunnel.onion.message import FrameR, FrameW
from tunnel.onion.reply_block import ReplyBlock, build_reply_block
from tunnel.routing.route import Route

__all__ = ["Circuit", "HeaderBuilder", "OutgoingFrame", "OutgoingQuery", "ReplyPath"]

_OWN_ID = "the destination is this node itself: a node cannot query itself"


@dataclass(frozen=True, slots=True)
class Circuit:
    """A header over a route, with Alice's secrets.

    Attributes:
        first_id: the node to send it to.
        header: 128·N bytes.
        seeds: 16 bytes for each node in the order of the route; the last is the end-to-end seed.
    """

    first_id: bytes
    profile: Profile
    header: bytes = field(repr=False)
    seeds: tuple[bytes, ...] = field(repr=False)

    @property
    def proxy_seeds(self) -> tuple[bytes, ...]:
        """The seeds of the proxies, proxy 1 first."""
        return self.seeds[:-1]

    @property
    def end_to_end_seed(self) -> bytes:
        """The seed of the last node."""
        return self.seeds[-1]

    def forward_layers(self, engine: TunnelEngine) -> list[WideBlockW]:
        """Layers for writing to Bob. Layer 0, next to the stream, is proxy 1's, which is removed first."""
        return [
            WideBlockW(permutation(self.profile, seed, Direction.FORWARD, engine))
            for seed in self.proxy_seeds
        ]

    def backward_layers(self, engine: TunnelEngine) -> list[WideBlockR]:
        """Layers for reading the backward half. Proxy 1 added its layer last."""
        return [
            WideBlockR(permutation(self.profile, seed, Direction.BACKWARD, engine), inverse=True)
            for seed in self.proxy_seeds
        ]


@dataclass(frozen=True, slots=True)
class OutgoingFrame:
    """A frame to send.

    Attributes:
        first_id: the node to send it to.
        layer: writes header, content and end.
        query_id: id of the answers that arrive as separate frames; None: no such answers.
    """

    first_id: bytes
    profile: Profile
    layer: FrameW
    query_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class ReplyPath:
    """The path of a reply block, with the secret to read the STATUS of a frame on it.

    Attributes:
        route: in the order in which the reply travels, Alice last.
    """

    route: Route
    profile: Profile
    master_seed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutgoingQuery:
    """The frame of a query, and the keys that Alice keeps until the answer arrives.

    Attributes:
        circuit: for reading the STATUS.
        backward: mode `cached`: reads the reply from the backward half; else None.
        reply_paths: of the query's reply blocks, in their order.
    """

    route: Route
    frame: OutgoingFrame
    mode: ReplyMode
    error_mode: ErrorMode
    circuit: Circuit = field(repr=False)
    backward: FrameR | None = None
    reply_paths: tuple[ReplyPath, ...] = ()

    @property
    def query_id(self) -> bytes | None:
        """The id of a reply that arrives as a separate frame; None in other modes."""
        return self.frame.query_id


class HeaderBuilder:
    """Seals headers to the nodes of a route.

    Args:
        node_id: of this node.
        random_bytes: source of seeds, delays and padding.
    """

    def __init__(
        self, *, node_id: bytes, ring: KeyRing, directory: Directory, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._node_id = node_id
        self._ring = ring
        self.directory = directory
        self._random_bytes = random_bytes

    def circuit(
        self,
        route: Route,
        profile: Profile,
        command: Command = Command.DEST,
        *,
        now_s: float,
        error_mode: ErrorMode = ErrorMode.STATUS,
        mean_delay_s: float = 0.0,
        destination: Descriptor | None = None,
    ) -> Circuit:
        """Seal a fresh header over `route`; the last node gets `command`.

        Args:
            destination: descriptor of the last node, which then need not be in the directory.
        Raises:
            BadRoute, ProfileError: see `OnionCodec.query`.
        """
        hops = self._hops(route, profile, now_s, destination)
        seeds = tuple(self._random_bytes(SEED_BYTES) for _ in hops)
        ids, row = route.nodes, ERROR_MODES[error_mode]
        slots = [
            Slot(
                Command.RELAY,
                draw_expiry(now_s, self._random_bytes),
                seed,
                next_id=following,
                flags=row.proxy_flags,
                delay_10ms=draw_delay(mean_delay_s, self._random_bytes),
            )
            for seed, following in zip(seeds[:-1], ids[1:], strict=True)
        ]
        slots.append(Slot(command, draw_expiry(now_s, self._random_bytes), seeds[-1], flags=row.dest_flags))
        try:
            header = build_header(
                profile,
                list(zip(hops, slots, strict=True)),
                engine=self._ring.engine,
                random_bytes=self._random_bytes,
            )
        except RefusedKey as error:
            raise _unsealable() from error
        return Circuit(ids[0], profile, header, seeds)

    def reply_block(
        self,
        route: Route,
        profile: Profile,
        *,
        user: bytes | None,
        query_id: bytes,
        number: int,
        master_seed: bytes,
        now_s: float,
        mean_delay_s: float = 0.0,
    ) -> ReplyBlock:
        """A block that leads over `route.proxies` back to this node.

        Args:
            route: in the order in which the reply travels; its destination is this node.
            user: the node that will use the block, and so must not be a proxy of it; None: unknown, or this
                node itself (a loop).
            master_seed: 16 fresh random bytes.
        Raises:
            BadRoute, ProfileError: see `OnionCodec.query`.
        """
        if route.destination != self._node_id:
            raise BadRoute(f"the reply path ends at {short(route.destination)}, expected this node itself")
        ids = route.nodes if user is None else (*route.nodes, user)
        if user == self._node_id:
            raise BadRoute(_OWN_ID)
        if len(set(ids)) != len(ids):
            raise BadRoute("a reply path must not visit a node twice, nor pass its own ends")
        found = [self._descriptor(node_id, profile) for node_id in route.proxies]
        proxies = [(peer.node_id, self._hop(peer, now_s)) for peer in found]
        try:
            return build_reply_block(
                profile,
                proxies,
                (self._node_id, self._ring.own_hop()),
                query_id=query_id,
                master_seed=master_seed,
                home_key=self._ring.keys.home,
                draw_expiry=lambda: draw_expiry(now_s, self._random_bytes),
                engine=self._ring.engine,
                number=number,
                draw_delay=lambda: draw_delay(mean_delay_s, self._random_bytes),
                random_bytes=self._random_bytes,
            )
        except RefusedKey as error:
            raise _unsealable() from error

    def _hops(
        self, route: Route, profile: Profile, now_s: float, destination: Descriptor | None
    ) -> list[Hop]:
        ids: Sequence[bytes] = route.nodes
        if route.destination == self._node_id:
            raise BadRoute(_OWN_ID)
        if len({self._node_id, *ids}) != len(ids) + 1:
            raise BadRoute("a route must not visit a node twice, nor its origin")
        hops = [self._hop(self._descriptor(node_id, profile), now_s) for node_id in route.proxies]
        last = self._offering(destination, profile) if destination is not None else None
        return [*hops, self._hop(last or self._descriptor(route.destination, profile), now_s)]

    def _hop(self, descriptor: Descriptor, now_s: float) -> Hop:
        try:
            return descriptor.hop(now_s)
        except DescriptorError as error:
            hint = "set this machine's clock, or get a newer descriptor of that node"
            raise BadRoute(f"no key for the route: {error}", hint=hint) from error

    def _descriptor(self, node_id: bytes, profile: Profile) -> Descriptor:
        descriptor = self.directory.lookup(node_id)
        if descriptor is None:
            raise BadRoute(f"node {short(node_id)} of the route is not in the directory")
        return self._offering(descriptor, profile)

    def _offering(self, descriptor: Descriptor, profile: Profile) -> Descriptor:
        if not descriptor.offers(profile):
            raise BadRoute(
                f"node {short(descriptor.node_id)} of the route does not offer profile {profile.name!r}"
            )
        return descriptor


def _unsealable() -> BadRoute:
    # The owner signed the key, so the directory accepted the descriptor.
    return BadRoute("a node of the route has published an invalid onion key")
