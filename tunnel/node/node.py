"""A node: keys, listener, services, and the calls of its user.

`Node` is the public class. Its methods are thin: state shared by the node's services is in `NodeContext`
(context.py), limits in limits.py, and the work in the folders: `links` (neighbours), `relay` (frames that
pass), `answer` (frames that end here), `query` and `tunnels` (of this node's user). Put new behaviour there
and only its entry point here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from types import EllipsisType
from typing import Unpack, cast

from reactor import Closed, Reactor, Scope, Service, Signal, Sleep, TcpListener, connect_tcp, needs_yield_from
from tunnel.arguments import (
    MOST_SECONDS,
    check_options,
    checked_bytes,
    checked_count,
    checked_id,
    checked_seconds,
)
from tunnel.codes import Report, short
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.directory import Directory
from tunnel.errors import BadArgument, Disconnected
from tunnel.geometry import Profile
from tunnel.identity.descriptor import FAMILY_BYTES, Address, Descriptor
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import NodeKeys
from tunnel.link.records import Budget
from tunnel.node.context import LOCAL_NETWORK_ID, Connect, FrameReport, Listen, NodeContext, address_rules
from tunnel.node.counters import Counters
from tunnel.node.limits import Limits
from tunnel.node.links.keeper import give_turns, keep_links, listen_service, seek_peers
from tunnel.node.links.link_table import LinkTable
from tunnel.node.prepared import PreparedQueries, PreparedTunnels, TunnelKind
from tunnel.node.query.attempts import query_with_retries, submit, until_stopped
from tunnel.node.query.contents import Content
from tunnel.node.query.frames_without_status import cover_service, follow_up_service, make_follow_up
from tunnel.node.query.incoming_replies import IncomingReply, QueryResult, Sink, ask
from tunnel.node.query.request import (
    QueryOptions,
    QueryRequest,
    draw_hops,
    make_request,
    make_sinks,
    plan_tunnel,
)
from tunnel.node.relay.read_service import read_service
from tunnel.node.tunnels.carrying import open_tunnel, with_tunnel
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.node.upkeep import rotate_keys
from tunnel.onion.codec import OnionCodec
from tunnel.routing.addresses import AddressRules, IpRange
from tunnel.routing.cover import CoverPlan
from tunnel.routing.guards import Guards
from tunnel.routing.peers import PeerTable
from tunnel.routing.route import Purpose, Route, checked_purpose
from tunnel.services import Echo, InnerService, ServiceFunction
from tunnel.services.base import as_service

__all__ = ["LOCAL_NETWORK_ID", "Node"]


log = logging.getLogger("tunnel.node")

_LOOK_S = 0.05


class Node:
    """One peer: listens, relays, answers queries with its inner service, and sends its user's queries.

    The constructor binds the listener, so that `descriptor` has the real port. `serve` is the service that
    does everything else; run it in the reactor given here.

    Args:
        keys: this node's secrets; a new onion key is made. Or a ring resumed with its replay tables
            (`KeyRing.resume`), whose keys stay valid; the caller stops it when `serve` has ended.
        directory: the peers; shared and filled by the caller.
        reactor: runs this node; queries may be sent from any thread.
        service: answers queries that reach this node, an `InnerService` or a generator function; by default
            `Echo`. For several: `tunnel.services.Services`.
        host, port: listening address; port 0 lets the system choose, None does not listen. A node that does
            not listen keeps links to others (`Limits.links_ahead`), and its replies arrive over them.
        addresses: where others reach it; by default the listener's address. Give the router's where a port is
            forwarded.
        private_ranges: IP networks that are part of this network beside the open internet, such as a LAN's or
            a VPN's: only their private addresses are dialled. A network declared local needs none.
        profiles: profile bytes to offer; by default all that the engine supports.
        family: 16 bytes, equal in all nodes of one owner, so that no route passes two of them.
        own: ids of other nodes of the same owner, never proxies of this node's routes. Nodes of the same
            family never are.
        engine: cipher engine or its name; by default the preferred one.
        guards: `Node.guards` of the last run, so that routes begin with the same nodes again.
        on_publish: called in the reactor with each new descriptor after the first.
        observe: called with a FrameReport for each forwarded frame; the reports stay on this machine.
        rng: draws routes, neighbours and times of padding; by default the system's randomness.
        listen, connect: how nodes reach each other: TCP, or in a simulation memory.
    Raises:
        OSError: the address cannot be listened on. TypeError: an argument has the wrong type.
            ValueError: `host` is a name, not an IP address. BadArgument, ProfileError: an id, family, network
            id or profile that cannot be. LocalTunnelError: the wall clock shows a time that no key or
            descriptor can hold. KeyFileError: the state of the guards is damaged.
    """

    def __init__(
        self,
        keys: NodeKeys | KeyRing,
        directory: Directory,
        *,
        reactor: Reactor,
        service: InnerService | ServiceFunction | None = None,
        engine: TunnelEngine | str | None = None,
        limits: Limits | None = None,
        host: str = "127.0.0.1",
        port: int | None = 0,
        addresses: tuple[Address, ...] | None = None,
        network_id: bytes = LOCAL_NETWORK_ID,
        private_ranges: tuple[IpRange, ...] = (),
        family: bytes | None = None,
        own: Collection[bytes] = (),
        guards: bytes | None = None,
        profiles: tuple[int, ...] | None = None,
        on_publish: Callable[[Descriptor], None] | None = None,
        observe: Callable[[FrameReport], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        listen: Listen = TcpListener,
        connect: Connect = connect_tcp,
    ) -> None:
        engine = tunnel_engine(engine or "auto") if engine is None or isinstance(engine, str) else engine
        _check_types(reactor, directory, limits, addresses)
        limits = Limits() if limits is None else limits
        # Wrong ids would not fail: other nodes would refuse this one, or `own` would protect nothing.
        network_id = checked_bytes(network_id, "network_id", len(LOCAL_NETWORK_ID))
        own_ids = tuple(checked_id(each, "own") for each in own)
        inner = Echo() if service is None else as_service(service)
        ring = _key_ring(keys, engine, limits, wall_clock())
        self._reactor = reactor
        self._listener = None if port is None else listen(host, port)
        try:
            self._listens_at = None if self._listener is None else Address(host, self._listener.address[1])
            if addresses is None:
                addresses = () if self._listens_at is None else (self._listens_at,)
            places = addresses or [place for peer in directory.sample() for place in peer.addresses]
            rules = address_rules(network_id, private_ranges, places)
            kept_guards = _kept_guards(guards, limits, rules)
            ring.advance(wall_clock())
            descriptor = _first_descriptor(ring, addresses, directory, wall_clock(), profiles, family)
        except BaseException:
            self.close()
            raise
        # For the rooms of node/ and for tests, not API: `context`, `links`, prepared queries and tunnels.
        self.context = NodeContext(
            engine=engine,
            network_id=network_id,
            link_private=ring.keys.link_private(engine),
            descriptor=descriptor,
            rules=rules,
            directory=directory,
            codec=OnionCodec(ring=ring, directory=directory),
            service=inner,
            limits=limits,
            # A service that fails must not end the others.
            scope=Scope(f"node {short(descriptor.node_id)}", fail_together=False),
            now_s=reactor.now,
            post=reactor.post,
            budget=Budget(limits.buffer_bytes),
            on_publish=on_publish,
            observe=observe,
            wall_clock=wall_clock,
            connect=connect,
            rng=rng or random.SystemRandom(),
            guards=kept_guards,
            own_ids=own_ids,
        )
        self.prepared_queries = PreparedQueries(self.context, reactor)
        self.prepared_tunnels = PreparedTunnels(self.context, limits.prepared_tunnels)
        self.context.links = self.links = LinkTable(self.context, partial(read_service, self.context))
        self._has_left = Signal()

    def __repr__(self) -> str:
        return f"<Node {short(self.id)} at {self.listens_at or 'no address'}>"

    @property
    def id(self) -> bytes:
        """The node id, 32 bytes: the Ed25519 public key that signs the descriptor."""
        return self.context.descriptor.node_id

    @property
    def descriptor(self) -> Descriptor:
        """The signed public description of this node: keys, addresses, profiles."""
        return self.context.descriptor

    @property
    def address(self) -> Address:
        """The first address at which others reach it. Raises IndexError: it has none."""
        return self.context.descriptor.addresses[0]

    @property
    def guards(self) -> bytes | None:
        """State of the guards: store it and give it to the next run. None: this node uses no guards."""
        return self.context.routes.guards

    @property
    def peers(self) -> PeerTable:
        """Last contact, failures and back-off of each peer; add a `PeerListener` to its `listeners`."""
        return self.context.peers

    @property
    def counters(self) -> Counters:
        """Totals of this node since it was made: bytes, streams, tunnels, refusals and others, by kind."""
        return self.context.counters

    @property
    def listens_at(self) -> Address | None:
        """The listener's address; None without a listener."""
        return self._listens_at

    @property
    def reactor(self) -> Reactor:
        """The reactor that runs this node."""
        return self._reactor

    @property
    def open_links(self) -> int:
        """Number of links to neighbours; links stay open between messages."""
        return len(self.links)

    @property
    def open_streams(self) -> int:
        """Number of open streams: frames in transit in either direction."""
        return self.links.streams

    @property
    def is_idle(self) -> bool:
        """Whether no frame, handshake or query of this node is in progress."""
        context = self.context
        links = self.links
        return not (
            links.streams or links.dialling or context.half_open or context.pending or context.queries
        )

    @needs_yield_from
    def serve(self) -> Service[None]:
        """Run the node until cancelled; then end all its services and links."""
        context, links, scope = self.context, self.links, self.context.scope
        try:
            yield from scope.spawn(rotate_keys(context), name=f"{context.name} keys")
            yield from scope.spawn(give_turns(context), name=f"{context.name} turns")
            yield from scope.spawn(keep_links(context, links), name=f"{context.name} keeper")
            yield from scope.spawn(seek_peers(context, links), name=f"{context.name} seeker")
            yield from self._listen()
        finally:
            self.close()
            for query in self.context.own:
                query.fail(Disconnected("the node that asked was stopped"))
            yield from scope.close()

    def close(self) -> None:
        """Stop listening. `serve` does so when it ends; call this for a node that was never served."""
        if self._listener is not None:
            self._listener.close()

    @needs_yield_from
    def leave(self, within_s: float = 60.0) -> Service[None]:
        """Stop for a restart without losing a stream, here or at the neighbours; then `serve` ends.

        First this node's own queries finish. Then it sends GOAWAY on its links, and relayed frames finish.

        Args:
            within_s: limit for each of the two steps; the rest is cut off.
        """
        checked_seconds(within_s, "within_s")
        context = self.context
        self.prepared_tunnels.close()
        yield from _wait_until(lambda: not context.queries, within_s)
        self.links.leave()
        self.close()
        yield from _wait_until(lambda: self.is_idle and not self.open_links, within_s)
        self._has_left.set()

    def _listen(self) -> Service[None]:
        """Listen until `leave` is done."""
        try:
            if self._listener is not None:
                yield from listen_service(self.context, self.links, self._listener)
        except Closed:
            if not self.links.is_leaving:
                raise
        yield self._has_left

    # -- queries, follow-ups, cover frames and tunnels: from any thread, or as services of the reactor

    @property
    def route_hops(self) -> tuple[int, int]:
        """`Limits.route_hops` and `Limits.route_bias`: proxies of a route, and the most additional ones."""
        limits = self.context.limits
        return limits.route_hops, limits.route_bias

    def draw_hops(self) -> int:
        """Number of proxies of a new route: `Limits.route_hops` and up to `route_bias` more, never fewer."""
        return draw_hops(self.context)

    def query(
        self, destination: bytes, content: Content, **options: Unpack[QueryOptions]
    ) -> Future[QueryResult]:
        """Send `content` to the node `destination` through proxies, from any thread.

        Args:
            content: bytes; the path of a regular file; a binary file, read up to its present size (a regular
                file) or to its end; an iterator of bytes; or a service that returns bytes, b"" at the end.
                Regular files are read in the reactor's thread, paths, pipes and iterators in a thread of
                their own.
            options: the route (`hops`, `route`, `mode`, `error_mode`, `reply_route`, `profile`, `purpose`,
                `idle_s`, `timeout_s`, `rng`), `progress`, `retries`, and the sinks of replies (`sink`,
                `replies`, `sinks`); described in `tunnel.node.query.request`.
        Returns:
            A future of QueryResult. Cancelling it cancels the query.
        Raises:
            TypeError: content of another kind, or retries with content that cannot be sent again; profile is
                neither a Profile nor a name. ValueError: retries are not 0 to 16. LocalTunnelError: the
                numbers of sinks and replies differ.
            BadRoute, ProfileError: no such route can be chosen. From the future as well, and from there
                QueryFailed: the query failed; the error has all details. FileChanged: the content is a file
                that changed while it was sent. Errors of reading the content.
        """
        check_options(options, QueryOptions.__annotations__)
        request = self.prepared_queries.use(make_request(self.context, destination, content, **options))
        return submit(self._reactor, self.query_service(request), f"{self.context.name} query")

    def call(
        self, destination: bytes, content: Content = b"", **options: Unpack[QueryOptions]
    ) -> QueryRequest:
        """The request that `query` would send, with a route and profile chosen. Args: see there.

        Raises:
            TypeError, ValueError, LocalTunnelError, BadRoute, ProfileError: as for `query`.
        """
        check_options(options, QueryOptions.__annotations__)
        return make_request(self.context, destination, content, **options)

    @needs_yield_from
    def query_service(self, request: QueryRequest) -> Service[QueryResult]:
        """A query as a service of the reactor: `result = yield from node.query_service(call)`."""
        return until_stopped(self.context, query_with_retries(self.context, request))

    @needs_yield_from
    def ask(self, request: QueryRequest) -> Service[IncomingReply]:
        """Start a query whose reply is read as it arrives: `reply = yield from node.ask(node.call(...))`.

        Raises, when run: QueryFailed, the node has been stopped.
        """
        context = self.context
        asking = ask(
            context.scope,
            self._reactor,
            request.route.destination,
            lambda sink: self.query_service(request.with_sink(sink)),
            f"{context.name} query",
        )
        return until_stopped(context, asking)

    def follow_up(
        self,
        result: QueryResult,
        content: Content,
        *,
        hops: int | EllipsisType | None = ...,
        wants_blocks: bool = False,
        replies: int = 1,
        sink: Sink | None = None,
        sinks: Sequence[Sink] = (),
        idle_s: float | None = None,
    ) -> Future[QueryResult]:
        """Answer a reply that carried reply blocks (mode `reply-on-reply`), from any thread.

        The content takes the path of the first block in `result`, which is removed from it. The other end
        chose that path; this node knows only its end.

        Args:
            hops: proxies of the answer's route, drawn at random; by default as many as a query has. None: no
                answer wanted.
            wants_blocks: the answer is to carry blocks, for another follow-up.
            content, replies, sink, sinks, idle_s: as for `query`.
        Returns:
            A future of QueryResult. Without an answer it means that the content was sent, not received.
        Raises:
            TypeError: content is neither bytes nor a file.
            LocalTunnelError: no block is left; the numbers of sinks and replies differ.
            BadRoute: no such reply path. The future may raise it too, and PeerError (EXPIRED, UNKNOWN_NEXT):
                the block can no longer be used; QueryFailed: no answer arrived.
        """
        call = make_follow_up(
            self.context,
            result,
            content,
            hops=self.draw_hops() if hops is ... else hops,
            wants_blocks=wants_blocks,
            replies=replies,
            sinks=make_sinks(replies, sink, sinks),
            idle_s=idle_s,
        )
        service = until_stopped(self.context, follow_up_service(self.context, call))
        return submit(self._reactor, service, f"{self.context.name} follow-up")

    def send_cover(self, plan: CoverPlan, *, mean_delay_s: float = 0.0) -> Future[None]:
        """Send one cover frame, from any thread; see `tunnel.routing.cover.draw_cover`.

        Args:
            plan: a loop or a DROP frame. The caller decides when to send the next one.
            mean_delay_s: mean of the random delay at each proxy.
        Returns:
            A future that ends when the frame has arrived; a loop arrives at this node.
        Raises:
            From the future BadRoute, ProfileError: no such route; QueryFailed: it did not arrive.
        """
        checked_seconds(mean_delay_s, "mean_delay_s", most=MOST_SECONDS)
        service = cover_service(self.context, plan, mean_delay_s=mean_delay_s)
        return submit(self._reactor, until_stopped(self.context, service), f"{self.context.name} cover")

    def tunnel(
        self,
        destination: bytes,
        use: Callable[[NodeTunnel], Service[None]],
        *,
        hops: int | None = None,
        route: Route | None = None,
        profile: Profile | str | None = None,
        purpose: Purpose = "stream",
    ) -> Future[Report | None]:
        """Open an established tunnel to the node `destination`, from any thread, and let a service use it.

        Args:
            use: a generator function, called with the tunnel in the reactor. When it returns, the tunnel is
                closed cleanly.
            hops, route: as for `query`.
            profile, purpose: see `tunnel.node.query.request.TunnelOptions`.
        Returns:
            A future of the route's report on the tunnel. Cancelling it aborts the tunnel.
        Raises:
            BadRoute, ProfileError: no such route can be chosen. LocalTunnelError: unknown purpose. From the
                future as well, and from there QueryFailed: it could not be opened, or broke. any other: what
                `use` has raised.
        """
        route, chosen = plan_tunnel(
            self.context,
            checked_id(destination),
            hops,
            route,
            Profile.of(profile),
            checked_purpose(purpose) or "stream",
        )
        service = until_stopped(self.context, with_tunnel(self.context, route, chosen, use))
        return submit(self._reactor, service, f"{self.context.name} tunnel")

    @needs_yield_from
    def open_tunnel(
        self,
        destination: bytes,
        *,
        hops: int | None = None,
        route: Route | None = None,
        profile: Profile | str | None = None,
        purpose: Purpose = "stream",
        services: InnerService | None = None,
    ) -> Service[NodeTunnel]:
        """Open an established tunnel that its user closes: `tunnel = yield from node.open_tunnel(bob_id)`.

        Reuses a pre-opened tunnel if `Limits.prepared_tunnels` keeps one, and neither `route` nor `services`
        is given. Args and errors as for `tunnel`, without `use`.

        Args:
            services: serve the sub-streams that the other end opens; None: they are refused.
        Raises:
            TypeError: `services` has a wrong type.
        """
        if services is not None and not isinstance(services, InnerService):
            raise TypeError(f"services: expected an InnerService, such as Services, got {services!r}")
        destination, chosen = checked_id(destination), Profile.of(profile)
        purpose = checked_purpose(purpose) or "stream"
        draw = partial(plan_tunnel, self.context, destination, hops, route, chosen, purpose)
        if route is None and services is None:
            kind = TunnelKind(destination, hops, chosen or purpose)
            standing = self.prepared_tunnels.take(kind)
            try:
                yield from until_stopped(self.context, self.prepared_tunnels.fill(kind, draw))
            except BaseException:
                if standing is not None:
                    standing.give_up()
                raise
            if standing is not None:
                return standing
        return (yield from until_stopped(self.context, open_tunnel(self.context, *draw(), services)))

    def choose_route(
        self,
        destination: bytes,
        hops: int,
        profile: Profile | str | None = None,
        *,
        rng: random.Random | None = None,
    ) -> Route:
        """Draw a route. Args, and the errors BadRoute, ProfileError, BadArgument, TypeError: as `query`."""
        destination, hops = checked_id(destination), checked_count(hops, "hops")
        chosen = Profile.of(profile) or Profile.for_proxies(hops)
        return self.context.routes.route(destination, hops, chosen, rng=rng)


def _checked_profiles(profiles: Collection[int]) -> tuple[int, ...]:
    """Raises TypeError: not numbers. BadArgument: none. ProfileError: there is no such profile."""
    found = tuple(Profile.from_byte(checked_count(each, "profiles")).byte for each in profiles)
    if not found:
        raise BadArgument("profiles: expected at least one")
    return found


def _key_ring(keys: NodeKeys | KeyRing, engine: TunnelEngine, limits: Limits, now_s: float) -> KeyRing:
    """Raises TypeError: neither of the two."""
    if isinstance(keys, KeyRing):
        return keys
    if not isinstance(keys, NodeKeys):
        raise TypeError(f"keys: expected NodeKeys or a KeyRing, got {type(keys).__name__}")
    # The last run's replay table is lost, so its onion key goes too: recorded frames no longer open.
    return KeyRing(keys.rotated(now_s), engine, limit=limits.replay_tags)


def _first_descriptor(
    ring: KeyRing,
    addresses: tuple[Address, ...],
    directory: Directory,
    now_s: float,
    profiles: tuple[int, ...] | None,
    family: bytes | None,
) -> Descriptor:
    """The descriptor of a start, numbered above the last run's even if the clock was set back since.

    Raises:
        BadArgument, ProfileError: a family or profile that other nodes would refuse.
    """
    family = None if family is None else checked_bytes(family, "family", FAMILY_BYTES)
    profiles = None if profiles is None else _checked_profiles(profiles)
    known = directory.lookup(ring.keys.node_id(ring.engine))
    sequence = ring.next_sequence(now_s, 0 if known is None else known.sequence)
    return ring.keys.descriptor(
        addresses, now_s, ring.engine, profiles=profiles, sequence=sequence, family=family
    )


def _wait_until(condition: Callable[[], bool], within_s: float) -> Service[None]:
    """Poll: the condition changes in many places."""
    for _ in range(max(1, round(within_s / _LOOK_S))):
        if condition():
            return
        yield Sleep(_LOOK_S)


def _check_types(reactor: object, directory: object, limits: object, addresses: object) -> None:
    """Raises TypeError: one of a node's parts has the wrong type, for example a reactor thread."""
    if not isinstance(reactor, Reactor):
        hint = ": use its `reactor`" if isinstance(getattr(reactor, "reactor", None), Reactor) else ""
        raise TypeError(f"reactor: expected a Reactor, got {type(reactor).__name__}{hint}")
    if not hasattr(directory, "lookup"):
        raise TypeError(f"directory: expected a Directory, got {type(directory).__name__}")
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits: expected Limits, got {type(limits).__name__}")
    for address in cast(Iterable[object], addresses or ()):
        if not isinstance(address, Address):
            raise TypeError(f"addresses: expected a tuple of Address, got {address!r}")


def _kept_guards(state: bytes | None, limits: Limits, rules: AddressRules) -> Guards | None:
    """The guards of the last run, or an empty set; None: this node uses no guards."""
    guards = Guards.from_bytes(state, size=limits.guards) if state else Guards(size=limits.guards)
    return guards if limits.guards > 0 and not rules.is_local else None
