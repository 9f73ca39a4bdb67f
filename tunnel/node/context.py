"""The state that the services of one node share: `NodeContext`, made by `Node`.

Services read everything here; only the tables change. Two things are policy rather than state: the routes
that this node chooses for its own answers, and the comparison of clocks.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from reactor import CurrentTime, Scope, Service, Signal
from reactor.errors import is_ctrl_c, log_failure
from tunnel.codes import short
from tunnel.crypto.primitives import TunnelEngine, X25519Private
from tunnel.directory import Directory
from tunnel.errors import BadRoute
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.link.buffers import Budget
from tunnel.link.handshake import PaddingMode, Settings
from tunnel.link.mux import MuxLimits, MuxStream
from tunnel.link.policies import ConstantRate, NoPadding, PaddingPolicy, PoissonPadding
from tunnel.node.limits import Limits, LinkPolicy, TunnelBudget
from tunnel.node.query.replies import PendingQuery
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import CLOCK_SKEW_S, clock_text
from tunnel.routing.addresses import AddressRules, IpRange
from tunnel.routing.draw_route import RouteProvider
from tunnel.routing.guards import Guards
from tunnel.routing.peers import PeerTable
from tunnel.routing.route import Route
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

log = logging.getLogger("tunnel.node")

LOCAL_NETWORK_ID = b"mtun local net.."
_RANDOM = random.SystemRandom()
# A handshake carries the clock rounded to the minute, and takes a moment itself.
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
        node, neighbour: ids of sender and receiver.
        bytes_in: header and chunks as received; 0 where the frame begins.
        bytes_out: header and chunks as sent.
        started_s, ended_s: first byte received and last byte sent, on the reactor's clock.
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
    scope: owns every service of the node; a failure of one does not end the others.
    pending: queries of this node that wait for a reply, by query id.
    queries: queries of this node under way, in any mode.
    invitations: query ids of reply blocks that this node has put into replies.
    own: queries of this node that have or are opening a stream: they fail when the node stops.
    half_open_hosts: hosts of the incoming connections whose handshake is not finished.
    budget: bounds the unread content of all links.
    post: calls a function in the reactor's thread, from any thread. Raises Closed.
    tunnels: bounds the unread content of all established tunnels.
    own_ids: other nodes of the same owner.
    guards: first hops of routes; None: any node may be one.
    peers: last contact, failures and back-off of each peer. routes: draws routes.
    links: to neighbours; set by `Node`, since it is made from this context.
    on_publish: called with each new descriptor; None: no callback.
    observe: called with a FrameReport for each forwarded frame; None: no callback.
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
        """The node's id in logs: its first four bytes in hex."""
        return short(self.descriptor.node_id)

    @property
    def half_open(self) -> int:
        """Incoming connections without a finished handshake."""
        return len(self.half_open_hosts)

    @property
    def is_local(self) -> bool:
        """Whether this network is declared local: on one machine or in one room, nothing to hide from."""
        return self.rules.is_local

    def choose_route(
        self, destination: bytes | None, profile: Profile, *, avoid: Collection[bytes] = ()
    ) -> Route:
        """Draw the route of an answer; with destination None, a route to this node. Raises BadRoute."""
        hops = self.limits.answer_hops
        if destination is not None:
            return self.routes.route(destination, hops, profile, avoid=avoid)
        # The sender is unknown: a route to this node, whose last proxy must be able to reach it.
        nobody, last = Route((), self.descriptor.node_id), self.home_neighbour(profile)
        return self.routes.other_route(nobody, profile, hops=hops, last=last, avoid=avoid)

    def home_neighbour(self, profile: Profile, *avoid: bytes) -> bytes | None:
        """The last proxy of a route to a node that cannot be dialled: one of its linked neighbours.

        Returns:
            None for a node that has an address: any proxy can reach it.
        Raises:
            BadRoute: no linked neighbour is in the directory and offers the profile.
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
        """Two routes to this node with different first nodes, for an unknown user: she may be one of these
        nodes and could not use that route. One route if there are too few nodes. Raises BadRoute.
        """
        first = self.choose_route(None, profile)
        if not first.proxies:
            return (first,)
        try:
            return first, self.choose_route(None, profile, avoid=first.proxies[:1])
        except BadRoute:
            return (first,)

    def clock_difference(self, *node_ids: bytes, own: str = "this node") -> str:
        """Text on the nodes whose clocks differ from this one's: both times and the difference.

        Args:
            own: the name of this node in the text.

        Returns:
            Empty if none is known to be more than ten minutes off. It includes the advice to check this
            node's own clock if most of its neighbours differ from it.
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
        """Whether at least two neighbours have sent their clock and most of them differ from this one's."""
        now_s, clocks = self.wall_clock(), self.peers.clocks()
        different = sum(abs(shown_s - now_s) > _CLOCKS_DIFFER_S for shown_s in clocks)
        return different >= 2 and 2 * different > len(clocks)

    def invite(self, query_id: bytes) -> None:
        """Accept one frame with this query id, which arrives along a reply block, as a new query."""
        if len(self.invitations) >= self.limits.queries:
            del self.invitations[next(iter(self.invitations))]  # the oldest: its blocks expire first
        self.invitations[query_id] = None

    def take_invitation(self, query_id: bytes) -> bool:
        """Whether such a frame was invited; each invitation is used once."""
        return query_id in self.invitations and self.invitations.pop(query_id) is None

    def publish(self) -> None:
        """Sign a descriptor with the present onion keys and give it to the directory."""
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
        """This node's settings for handshakes."""
        limits = self.limits
        return Settings.make(
            self.wall_clock(),
            self.descriptor.profiles,
            max_streams=1 if limits.link_policy is LinkPolicy.ONCE else limits.streams_per_link,
            padding=limits.padding,
        )

    def padding_policy(self) -> PaddingPolicy:
        """The padding of a new link."""
        limits, now_s = self.limits, self.now_s()
        if limits.padding is PaddingMode.POISSON:
            return PoissonPadding(1 / limits.padding_gap_s, [limits.padding_units], now_s=now_s, rng=_RANDOM)
        if limits.padding is PaddingMode.CONSTANT:
            return ConstantRate(limits.padding_gap_s, limits.padding_units, now_s=now_s)
        return NoPadding()

    def mux_limits(self, peer: Settings) -> MuxLimits:
        """Limits of one link: this node's, and those in the peer's settings."""
        return MuxLimits(max_streams=self.limits.streams_per_link, peer_max_streams=peer.max_streams)


def span_text(span_s: float) -> str:
    """A span of time as text, without its sign: `2 h 5 min`, `3 days 1 h`."""
    minutes = round(abs(span_s) / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} {'day' if days == 1 else 'days'} {hours} h"
    return f"{hours} h {rest} min" if hours else f"{rest} min"


def report_frame(node: NodeContext, stream: Stream, started_s: float, *, content_in: int) -> Service[None]:
    """Report to the observer, if there is one, that a frame was sent over `stream`."""
    if node.observe is not None:
        ended_s: float = yield CurrentTime()
        report = FrameReport(
            node.descriptor.node_id, stream.peer_id, content_in, stream.content_out, started_s, ended_s
        )
        try:
            node.observe(report)
        except BaseException as error:  # the frame is not the observer's
            if is_ctrl_c(error):
                raise
            log_failure(log, error, "node %s: the observer failed", node.name)
