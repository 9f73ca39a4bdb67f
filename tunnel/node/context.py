"""What the services of one node share: made by `Node`, read by all, and only the tables in it change."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from reactor import CurrentTime, Scope, Service, Signal
from tunnel.crypto.primitives import TunnelEngine, X25519Private
from tunnel.directory import Directory
from tunnel.errors import BadRoute
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Descriptor, short
from tunnel.link.handshake import PaddingMode, Settings
from tunnel.link.mux import MuxLimits, MuxStream
from tunnel.link.padding import ConstantRate, NoPadding, PaddingPolicy, PoissonPadding
from tunnel.link.receive_queue import Budget
from tunnel.node.limits import Limits, LinkPolicy, TunnelBudget
from tunnel.node.query.pending import PendingQuery
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import CLOCK_SKEW_S, clock_text
from tunnel.routing.addresses import AddressRules, IpRange
from tunnel.routing.guards import Guards
from tunnel.routing.peers import PeerTable
from tunnel.routing.route import Route
from tunnel.routing.route_provider import RouteProvider
from tunnel.services import InnerService

if TYPE_CHECKING:
    from tunnel.node.links.link_table import LinkTable

__all__ = [
    "LOCAL_NETWORK_ID",
    "FrameReport",
    "NodeContext",
    "Stream",
    "address_rules",
    "report_frame",
    "span_text",
]

LOCAL_NETWORK_ID = b"mtun local net.."
_RANDOM = random.SystemRandom()
# A handshake tells the clock rounded to the minute, and takes a moment itself.
_CLOCKS_DIFFER_S = CLOCK_SKEW_S + 60

Stream: TypeAlias = MuxStream[Signal]
"""A stream of a link, as the services of a node see it."""


def address_rules(network_id: bytes, private_ranges: tuple[IpRange, ...] = ()) -> AddressRules:
    """What addresses mean in the network of this id. Raises LocalTunnelError: a range is not private."""
    return AddressRules(network_id == LOCAL_NETWORK_ID, private_ranges)


@dataclass(frozen=True, slots=True)
class FrameReport:
    """One direction of a frame has passed a node: for tables and tests on the node's own machine.

    Attributes:
        node, neighbour: who sent it on, and to whom (node ids).
        bytes_in: header and chunks as received; 0 where the frame begins.
        bytes_out: header and chunks as sent.
        started_s, ended_s: on the reactor's clock: the first byte taken in hand, the last one sent.
    """

    node: bytes
    neighbour: bytes
    bytes_in: int
    bytes_out: int
    started_s: float
    ended_s: float


@dataclass(slots=True)
class NodeContext:
    """Attributes:
    rules: what addresses mean in this network.
    scope: owns every service of the node; one that fails harms no other.
    pending: queries of this node that wait for a reply, by query id.
    queries: queries of this node under way, in any mode.
    invitations: query ids of reply blocks that this node has put into replies.
    own: those of them that have a first hop, or are about to: told when the node ends.
    half_open_hosts: where the incoming connections come from that have not finished their handshake.
    budget: bounds the unread content of all links.
    post: has a function called in the reactor's thread, from any thread. Raises Closed.
    tunnels: bounds that of all established tunnels.
    own_ids: other nodes of the same owner.
    guards: that routes begin with; None: they may begin with any node.
    peers: what is known of them from dealing with them. routes: draws routes.
    links: to neighbours; set by `Node`, since it is made from this context.
    on_publish: told of each new descriptor; None = nobody is.
    observe: called with a FrameReport when a frame has been sent on; None = nobody looks.
    """

    engine: TunnelEngine
    network_id: bytes
    link_private: X25519Private
    descriptor: Descriptor
    rules: AddressRules
    directory: Directory
    tunnel: OnionCodec
    service: InnerService
    limits: Limits
    scope: Scope
    now_s: Callable[[], float]
    post: Callable[[Callable[[], object]], None]
    budget: Budget
    on_publish: Callable[[Descriptor], None] | None = None
    observe: Callable[[FrameReport], None] | None = None
    wall_clock: Callable[[], float] = time.time
    pending: dict[bytes, PendingQuery] = field(default_factory=dict)
    queries: int = 0
    own: set[PendingQuery] = field(default_factory=set)
    half_open_hosts: list[str] = field(default_factory=list)
    invitations: dict[bytes, None] = field(default_factory=dict)
    guards: Guards | None = None
    own_ids: tuple[bytes, ...] = ()
    links: LinkTable = field(init=False)
    peers: PeerTable = field(init=False)
    routes: RouteProvider = field(init=False)
    tunnels: TunnelBudget = field(init=False)

    def __post_init__(self) -> None:
        own_id = self.descriptor.node_id
        self.tunnels = TunnelBudget(self.limits.tunnel_bytes)
        self.peers = PeerTable(self.now_s, own_id=own_id)
        self.routes = RouteProvider(
            self.directory,
            self.peers,
            own_id=own_id,
            rules=self.rules,
            guards=self.guards,
            wall_clock=self.wall_clock,
            own=self.own_ids,
            family=self.descriptor.family,
        )

    @property
    def name(self) -> str:
        """The node's id as the log shows it: its first four bytes in hex."""
        return short(self.descriptor.node_id)

    @property
    def half_open(self) -> int:
        """Incoming connections without a finished handshake."""
        return len(self.half_open_hosts)

    @property
    def is_local(self) -> bool:
        """Whether this network is declared local: one machine or one room, where times and addresses are no
        secret."""
        return self.rules.is_local

    def choose_route(
        self, destination: bytes | None, profile: Profile, *, avoid: Collection[bytes] = ()
    ) -> Route:
        """Proxies for a frame of this node's own making. Raises BadRoute."""
        hops = self.limits.answer_hops
        if destination is not None:
            return self.routes.route(destination, hops, profile, avoid=avoid)
        # From nobody that is known: a way home, whose last proxy is the one that sees this node.
        nobody, last = Route((), self.descriptor.node_id), self.home_neighbour(profile)
        return self.routes.other_route(nobody, profile, hops=hops, last=last, avoid=avoid)

    def home_neighbour(self, profile: Profile, *avoid: bytes) -> bytes | None:
        """For a node that nobody can dial: who comes last on a way to it, drawn from its linked neighbours.

        Returns:
            None for a node that has an address: anybody may.
        Raises:
            BadRoute: none is linked that is in the directory and offers the profile.
        """
        if self.descriptor.addresses:
            return None
        found = [self.directory.lookup(peer_id) for peer_id in self.links.linked if peer_id not in avoid]
        known = [peer for peer in found if peer is not None]
        own, now_s = self.routes.own_among(known), self.wall_clock()
        usable = [
            peer.node_id
            for peer in known
            if peer.node_id not in own
            and not peer.unlisted
            and peer.offers(profile)
            and peer.obstacle(now_s) is None
        ]
        if not usable:
            raise BadRoute(
                "this node has no address, and no link yet over which a reply could come: keep some ahead"
            )
        return _RANDOM.choice(usable)

    def ways_home(self, profile: Profile) -> tuple[Route, ...]:
        """Two ways to this node for somebody who is not known, that begin at different nodes: she may be one
        of the two, and cannot use that way. One, where there are too few nodes. Raises BadRoute.
        """
        first = self.choose_route(None, profile)
        if not first.proxies:
            return (first,)
        try:
            return first, self.choose_route(None, profile, avoid=first.proxies[:1])
        except BadRoute:
            return (first,)

    def clock_difference(self, *node_ids: bytes, own: str = "this node") -> str:
        """Which of these nodes has another time than this one, for people: both times, and by how much.

        Args:
            own: what this node is called.

        Returns:
            Empty where none is known to be more than ten minutes off. With the advice to look at this node's
            own clock where most of its neighbours differ from it.
        """
        now_s = self.wall_clock()
        texts = [
            f"the clock of {short(node_id)} shows {clock_text(shown_s)}, that of {own} {clock_text(now_s)}: "
            f"{span_text(shown_s - now_s)} apart, at most 10 min are allowed"
            for node_id in dict.fromkeys(node_ids)
            if (shown_s := self.peers.clock_s(node_id)) is not None
            and abs(shown_s - now_s) > _CLOCKS_DIFFER_S
        ]
        if texts and self.is_clock_doubtful:
            texts.append(f"most neighbours of {own} differ from it: its own clock is probably wrong")
        return "; ".join(texts)

    @property
    def is_clock_doubtful(self) -> bool:
        """Whether at least two neighbours have told their clock, and most of them differ from this one's."""
        now_s, clocks = self.wall_clock(), self.peers.clocks()
        different = sum(abs(shown_s - now_s) > _CLOCKS_DIFFER_S for shown_s in clocks)
        return different >= 2 and 2 * different > len(clocks)

    def invite(self, query_id: bytes) -> None:
        """Take one frame that comes home under `query_id` for a query of its own."""
        if len(self.invitations) >= self.limits.queries:
            del self.invitations[next(iter(self.invitations))]  # the oldest: its blocks expire first
        self.invitations[query_id] = None

    def take_invitation(self, query_id: bytes) -> bool:
        """Whether such a frame was invited; each is once."""
        return query_id in self.invitations and self.invitations.pop(query_id) is None

    def publish(self) -> None:
        """Sign a descriptor with the onion keys of this moment, and give it to the directory."""
        now_s, addresses = self.wall_clock(), self.descriptor.addresses
        # The highest sequence number wins, and keys may change twice within a second.
        sequence = self.tunnel.ring.next_sequence(now_s, self.descriptor.sequence)
        now, keys = self.descriptor, self.tunnel.ring.keys
        self.descriptor = keys.descriptor(
            addresses, now_s, self.engine, profiles=now.profiles, sequence=sequence, family=now.family
        )
        self.directory.publish(self.descriptor)
        if self.on_publish is not None:
            self.on_publish(self.descriptor)

    def link_settings(self) -> Settings:
        """What this node says of itself in a handshake."""
        limits = self.limits
        return Settings.make(
            self.wall_clock(),
            self.descriptor.profiles,
            max_streams=1 if limits.link_policy is LinkPolicy.ONCE else limits.streams_per_link,
            padding=limits.padding,
        )

    def padding_policy(self) -> PaddingPolicy:
        """What a new link sends beside content."""
        limits, now_s = self.limits, self.now_s()
        if limits.padding is PaddingMode.POISSON:
            return PoissonPadding(1 / limits.padding_gap_s, [limits.padding_units], now_s=now_s, rng=_RANDOM)
        if limits.padding is PaddingMode.CONSTANT:
            return ConstantRate(limits.padding_gap_s, limits.padding_units, now_s=now_s)
        return NoPadding()

    def mux_limits(self, peer: Settings) -> MuxLimits:
        """What one link may use: this node's limits, and what the peer has said of its own."""
        return MuxLimits(max_streams=self.limits.streams_per_link, peer_max_streams=peer.max_streams)


def span_text(span_s: float) -> str:
    """A span of time for people, without its sign: `2 h 5 min`, `3 days 1 h`."""
    minutes = round(abs(span_s) / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} {'day' if days == 1 else 'days'} {hours} h"
    return f"{hours} h {rest} min" if hours else f"{rest} min"


def report_frame(node: NodeContext, stream: Stream, started_s: float, *, content_in: int) -> Service[None]:
    """Tell the observer, if there is one, that a frame has been sent on over `stream`."""
    if node.observe is not None:
        ended_s: float = yield CurrentTime()
        node.observe(
            FrameReport(
                node.descriptor.node_id, stream.peer_id, content_in, stream.content_out, started_s, ended_s
            )
        )
