"""`NodeContext`: the state that the services of one node share, made by `Node`.

Only state, and the methods that keep a table consistent. The decisions are made elsewhere: on reply paths in
query/request.py, on clocks, keys and publishing in upkeep.py, on the settings of links in the room links.
Services read everything here; they change only the tables.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from reactor import CurrentTime, Scope, Service, Signal, connect_tcp
from reactor.errors import is_ctrl_c, log_failure
from reactor.io.streams import ReadStream, WriteStream
from tunnel.codes import short
from tunnel.crypto.primitives import TunnelEngine, X25519Private
from tunnel.directory import Directory
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.link.mux import MuxStream
from tunnel.link.newcomers import Newcomers
from tunnel.link.records import Budget
from tunnel.link.turns import HEADERS_PER_S, HeaderTurns
from tunnel.node.counters import Counters
from tunnel.node.limits import Limits, TunnelBudget
from tunnel.node.log_limit import LogLimit
from tunnel.node.query.incoming_replies import PendingQuery
from tunnel.node.waits import Places
from tunnel.onion.codec import OnionCodec
from tunnel.routing.addresses import AddressRules, IpRange, lans_of
from tunnel.routing.draw_route import RouteProvider
from tunnel.routing.guards import Guards
from tunnel.routing.peers import PeerTable
from tunnel.services import InnerService

__all__ = [
    "LOCAL_NETWORK_ID",
    "Connect",
    "Connection",
    "FrameReport",
    "Links",
    "Listen",
    "Listener",
    "NodeContext",
    "Stream",
    "address_rules",
    "report_frame",
]

log = logging.getLogger("tunnel.node")

LOCAL_NETWORK_ID = b"mtun local net.."

Stream: TypeAlias = MuxStream[Signal]
"""A stream of a link, as the services of a node see it."""


class Connection(ReadStream, WriteStream, Protocol):
    """What a link runs over: a `SocketStream`, or a stream in memory that behaves like one."""

    @property
    def peername(self) -> Any:
        """The other side's address: (host, port)."""

    @property
    def drained(self) -> bool:
        """Whether a read would be refused now. A hint."""

    def shutdown_write(self) -> None:
        """End this side's half. Raises Broken, Closed."""

    def close(self) -> None:
        """Close the connection; a service that waits on it gets `Closed`. Idempotent."""


class Listener(Protocol):
    """Accepts connections of other nodes: a `TcpListener`, or one in memory."""

    @property
    def address(self) -> Any:
        """Where it listens: (host, port)."""

    def accept(self) -> Service[Connection]:
        """Wait for a connection. Raises Closed, Broken."""

    def close(self) -> None:
        """Stop listening; a service that waits in `accept` gets `Closed`. Idempotent."""


Listen: TypeAlias = Callable[[str, int], Listener]
"""Listens at a host and port; port 0: any free one. Raises OSError."""

Connect: TypeAlias = Callable[[str, int], Service[Connection]]
"""Connects to a host and port. Raises ConnectError."""


class Links(Protocol):
    """The links to neighbours, as the other rooms use them: `LinkTable` in tunnel/node/links."""

    @property
    def linked(self) -> list[bytes]:
        """Ids of the neighbours to which a stream can be opened without dialling."""

    def take_turn(self, peer_id: bytes) -> Service[None]:
        """Wait for a turn to open a header of this neighbour that came later than its OPEN."""

    def charge(self, peer_id: bytes) -> None:
        """A header of this neighbour was garbage: others come before it while headers wait."""

    def payer(self, peer_id: bytes) -> bytes:
        """Whose share of the replay table a neighbour's headers take."""

    def open_stream(self, peer_id: bytes, profile: Profile, *, is_own: bool = False) -> Service[Stream]:
        """Open a stream to a neighbour; dial first if there is no link to it.

        Args:
            is_own: the stream is for a frame of this node itself, not of another sender.
        Raises:
            PeerError (UNKNOWN_NEXT): the node is neither linked nor in the directory.
            NextRefused: it cannot be reached.
            TableFull: the neighbour or this node accepts no more streams or links.
        """


def address_rules(
    network_id: bytes, private_ranges: tuple[IpRange, ...], places: Iterable[Address]
) -> AddressRules:
    """The address rules of the network of this id.

    Args:
        places: where this node is reached, or if it does not listen, where its peers are: their LAN belongs
            to a network declared local.
    Raises:
        LocalTunnelError: a range is not private.
    """
    is_local = network_id == LOCAL_NETWORK_ID
    return AddressRules(is_local, (*private_ranges, *lans_of(places)) if is_local else private_ranges)


@dataclass(frozen=True, slots=True)
class FrameReport:
    """One direction of a frame that has passed a node; for tables and tests on the node's own machine.

    Attributes:
        node, neighbour: ids of sender and receiver.
        bytes_in: header and chunks as received; 0 at the origin of the frame.
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
    """The state that the services of one node share.

    Attributes:
        rules: the address rules of this network.
        scope: owns every service of the node; a failure of one does not end the others.
        pending: queries of this node that wait for a reply, by query id.
        queries: the places of this node's queries in any mode, and of its tunnels.
        invitations: query ids of reply blocks that this node has put into replies.
        connect: makes the connections of the links that this node dials.
        receipts: challenges of this node's replies in mode `cached`, each with the signal of its receipt.
        own: queries of this node that have or are opening a stream: they fail when the node stops.
        newcomers: incoming connections without a finished handshake.
        turns: for links to serve streams that neighbours open. turn_wanted: set when a link waits for a turn.
        budget: bounds the unread content of all links.
        post: calls a function in the reactor's thread, from any thread. Raises Closed.
        tunnels: bounds the unread content of all established tunnels.
        counters: totals since the start.
        log_limit: for lines that strangers can cause.
        own_ids: other nodes of the same owner.
        guards: first hops of routes; None: any node may be one.
        peers: last contact, failures and back-off of each peer.
        routes: draws routes.
        links: to neighbours; set by `Node`, since it is made from this context.
        on_publish: called with each new descriptor; None: no callback.
        observe: called with a FrameReport for each forwarded frame; None: no callback.
        refresh: called in a thread: reads the user's peer sources again, and returns the changed descriptors;
            None: no such sources.
        rng: draws routes, neighbours and times of padding. Keys never come from it.
    """

    engine: TunnelEngine
    network_id: bytes
    link_private: X25519Private
    descriptor: Descriptor
    rules: AddressRules
    directory: Directory
    codec: OnionCodec
    service: InnerService
    limits: Limits
    scope: Scope
    now_s: Callable[[], float]
    post: Callable[[Callable[[], object]], None]
    budget: Budget
    on_publish: Callable[[Descriptor], None] | None = None
    refresh: Callable[[], Iterable[Descriptor]] | None = None
    observe: Callable[[FrameReport], None] | None = None
    wall_clock: Callable[[], float] = time.time
    connect: Connect = connect_tcp
    rng: random.Random = field(default_factory=random.SystemRandom)
    pending: dict[bytes, PendingQuery] = field(default_factory=dict)
    queries: Places = field(init=False)
    own: set[PendingQuery] = field(default_factory=set)
    invitations: dict[bytes, None] = field(default_factory=dict)
    receipts: dict[bytes, Signal] = field(default_factory=dict, repr=False)
    guards: Guards | None = None
    own_ids: tuple[bytes, ...] = ()
    counters: Counters = field(default_factory=Counters)
    links: Links = field(init=False)
    newcomers: Newcomers = field(init=False)
    turns: HeaderTurns[Signal] = field(init=False)
    turn_wanted: Signal = field(default_factory=Signal)
    log_limit: LogLimit = field(init=False)
    peers: PeerTable = field(init=False)
    routes: RouteProvider = field(init=False)
    tunnels: TunnelBudget = field(init=False)

    def __post_init__(self) -> None:
        own_id = self.descriptor.node_id
        self.queries = Places(self.limits.queries, self.limits.waiting_queries, "queries and tunnels")
        self.newcomers = Newcomers(self.limits.half_open, rng=self.rng)
        self.turns = HeaderTurns(per_s=HEADERS_PER_S[self.engine.name])
        self.log_limit = LogLimit(log, self.name, self.now_s)
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
            rng=self.rng,
        )

    @property
    def name(self) -> str:
        """The node's id in logs: its first four bytes in hex."""
        return short(self.descriptor.node_id)

    @property
    def half_open(self) -> int:
        """Number of incoming connections without a finished handshake."""
        return len(self.newcomers)

    @property
    def is_local(self) -> bool:
        """Whether this network is declared local: without an adversary to hide from."""
        return self.rules.is_local

    def invite(self, query_id: bytes) -> None:
        """Accept one frame with this query id, sent along a reply block of a reply, as a new query."""
        if len(self.invitations) >= self.limits.queries:
            del self.invitations[next(iter(self.invitations))]  # the oldest: its blocks expire first
        self.invitations[query_id] = None

    def take_invitation(self, query_id: bytes) -> bool:
        """Whether such a frame was invited. Uses up the invitation."""
        return query_id in self.invitations and self.invitations.pop(query_id) is None


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
