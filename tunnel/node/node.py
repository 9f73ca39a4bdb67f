"""A node: its keys, its listener and its services, and the query call for its user."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from reactor import Channel, Reactor, Scope, Service, TcpListener
from tunnel.descriptor import Address, Descriptor, short
from tunnel.directory import Directory
from tunnel.errors import Disconnected
from tunnel.geometry import INTERACTIVE, Profile
from tunnel.guards import Guards
from tunnel.key_ring import KeyRing
from tunnel.keys import NodeKeys
from tunnel.link.receive_queue import Budget
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.api_service import Content, Progress, QueryCall, QueryResult, Sink
from tunnel.node.context import LOCAL_NETWORK_ID, FrameReport, NodeContext
from tunnel.node.exchange import seek_peers
from tunnel.node.global_service import global_service
from tunnel.node.keeper import keep_links
from tunnel.node.limits import Limits
from tunnel.node.link_table import LinkTable
from tunnel.node.listener import listen_service
from tunnel.node.peers import PeerTable
from tunnel.node.prepared import Kind, PreparedQueries
from tunnel.node.read_service import read_service
from tunnel.node.retry import MAX_RETRIES, can_send_again, query_with_retries
from tunnel.node.rotation import rotate_keys
from tunnel.node.route_provider import LARGE_BYTES
from tunnel.node.tunnel_call import with_tunnel
from tunnel.node.tunnels import NodeTunnel
from tunnel.onion.header_rate import HeaderRate
from tunnel.primitives import TunnelEngine, tunnel_engine
from tunnel.reports import Report
from tunnel.route import Route
from tunnel.services import Echo, InnerService
from tunnel.tunnel import Tunnel

__all__ = ["LOCAL_NETWORK_ID", "Node"]

_FORWARD_QUEUE = 64  # frames handed over and not yet taken up; the global service takes each at once


class Node:
    """One peer: listens, relays, answers queries with its inner service, and asks queries of its own.

    The listener is bound when the object is made, so that `descriptor` names the real port. `serve` is the
    service that does everything else; it is to be run by the reactor given here.

    Args:
        keys: this node's secrets; the onion key is made anew for each run.
        directory: the peers; shared and filled by the caller.
        reactor: runs this node; queries may be asked from any thread.
        service: answers queries that reach this node; by default `Echo`.
        host, port: where to listen; port 0 lets the system choose.
        family: 16 bytes, the same in all nodes of one owner, so that nobody's route passes two of them.
        guards: `Node.guards` of the last run, so that routes begin with the same nodes again.
        observe: called with a FrameReport for each frame sent on; stays on this machine.
    Raises:
        OSError: the address cannot be listened on. ValueError: `host` is a name, not an IP address.
        LocalTunnelError: the wall clock shows a time that no key or descriptor can hold. KeyFileError: the
            state of the guards is damaged.
    """

    def __init__(
        self,
        keys: NodeKeys,
        directory: Directory,
        *,
        reactor: Reactor,
        service: InnerService | None = None,
        engine: TunnelEngine | None = None,
        limits: Limits | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        network_id: bytes = LOCAL_NETWORK_ID,
        family: bytes | None = None,
        guards: bytes | None = None,
        observe: Callable[[FrameReport], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        engine = engine or tunnel_engine()
        limits = limits or Limits()
        # The replay table dies with the process, so what it guarded must too: a node that starts again has
        # a new onion key, and frames recorded before open no more.
        keys = keys.rotated(wall_clock())
        kept = Guards.from_bytes(guards, size=limits.guards) if guards else Guards(size=limits.guards)
        has_guards = limits.guards > 0 and network_id != LOCAL_NETWORK_ID
        self._reactor = reactor
        self._listener = TcpListener(host, port)
        try:
            ring = KeyRing(keys, engine, limit=limits.replay_tags)
            ring.advance(wall_clock())
            address = Address(host, self._listener.address[1])
            descriptor = ring.keys.descriptor((address,), wall_clock(), engine, family=family)
        except BaseException:
            self._listener.close()
            raise
        tunnel = Tunnel(ring=ring, directory=directory, header_rate=HeaderRate())
        self._context = NodeContext(
            engine=engine,
            network_id=network_id,
            link_private=keys.link_private(engine),
            descriptor=descriptor,
            directory=directory,
            tunnel=tunnel,
            service=service or Echo(),
            limits=limits,
            # A read or write service that fails must not take the others with it.
            scope=Scope(f"node {short(descriptor.node_id)}", fail_together=False),
            forwards=Channel(_FORWARD_QUEUE),
            now_s=reactor.now,
            budget=Budget(limits.buffer_bytes),
            observe=observe,
            wall_clock=wall_clock,
            guards=kept if has_guards else None,
        )
        self._prepared = PreparedQueries(self._context, limits.prepared)
        self._context.links = LinkTable(self._context, partial(read_service, self._context))

    @property
    def id(self) -> bytes:
        """The node id, 32 bytes: the Ed25519 public key that signs the descriptor."""
        return self._context.descriptor.node_id

    @property
    def descriptor(self) -> Descriptor:
        """What others know of this node: its keys, addresses and profiles, signed."""
        return self._context.descriptor

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._context.descriptor.addresses[0]

    @property
    def guards(self) -> bytes | None:
        """The state of the guards, to be kept on disk and given to the next run; None: this node has none."""
        return self._context.routes.guards

    @property
    def peers(self) -> PeerTable:
        """What this node knows of others from dealing with them; add a `PeerListener` to its `listeners`."""
        return self._context.peers

    @property
    def open_links(self) -> int:
        """Links to neighbours now; they stay between messages."""
        return len(self._context.links)

    @property
    def open_streams(self) -> int:
        """Frames on their way, in one direction or the other; 0 when nothing passes this node."""
        return self._context.links.streams

    @property
    def is_idle(self) -> bool:
        """No frame on its way through, no handshake under way, no query of its own."""
        context = self._context
        links = context.links
        return not (
            links.streams or links.dialling or context.half_open or context.pending or context.queries
        )

    def serve(self) -> Service[None]:
        """Run the node until it is cancelled; then everything of it is ended."""
        scope = self._context.scope
        try:
            yield from scope.spawn(global_service(self._context), name=f"{self._context.name} global")
            yield from scope.spawn(rotate_keys(self._context), name=f"{self._context.name} keys")
            yield from scope.spawn(keep_links(self._context), name=f"{self._context.name} keeper")
            yield from scope.spawn(seek_peers(self._context), name=f"{self._context.name} seeker")
            yield from listen_service(self._context, self._listener)
        finally:
            self._listener.close()
            for query in self._context.own:
                query.fail(Disconnected("the node that asked was stopped"))
            yield from scope.close()

    def close(self) -> None:
        """Stop listening. `serve` does so when it ends; this is for one that never came to serve."""
        self._listener.close()

    def query(
        self,
        destination: bytes,
        content: Content,
        *,
        hops: int | None = None,
        route: Route | None = None,
        mode: ReplyMode = ReplyMode.ROUTE,
        error_mode: ErrorMode = ErrorMode.STATUS,
        reply_route: Route | None = None,
        profile: Profile | None = None,
        idle_s: float | None = None,
        sink: Sink | None = None,
        progress: Progress | None = None,
        retries: int = 0,
        rng: random.Random | None = None,
    ) -> Future[QueryResult]:
        """Send `content` to the node `destination` through `hops` proxies, from any thread.

        Args:
            content: bytes, or a binary file that is read to its end (in the reactor's thread: a regular
                file).
            hops: by default the node's limit `route_hops` (3), and up to `route_bias` more.
            route: the proxies themselves, in place of `hops` chosen at random.
            error_mode: how failures come back: `status` says where, `xor` has the original's codes, `none`.
            reply_route: modes `other-route` and `reply-on-reply`: the way back, ending at this node; by
                default as many other proxies, drawn at random (the same in reverse for `reply-on-reply`).
            profile: by default the best one that all nodes of the ways offer: `bulk` from 1 MiB on, else
                `default`, or `long` where the route needs it; suite 1 where all have it.
            idle_s: fail when nothing moves for so long; by default the node's limit (60 s). A service that
                thinks for longer needs more.
            sink: a binary file for the reply; by default memory up to 1 MiB, a temporary file beyond.
            progress: called in the reactor's thread with (query bytes sent, reply bytes received).
            retries: how often to try again, over another route of the same length without those to blame,
                when a hop failed: for content that may reach the destination twice. Bytes, or a file that can
                be rewound; the reply must not have begun to come into a `sink`.
            rng: for demonstrations whose route is to be the same each time.
        Returns:
            A future of QueryResult. Cancelling it cancels the query.
        Raises:
            TypeError: content is neither bytes nor a file, or is to be sent again and cannot be.
            ValueError: retries are not 0 to 16.
            BadRoute, ProfileError: no such route can be chosen. From the future as well, and from there
                QueryFailed: the query did not come through; says what is known.
        """
        if not isinstance(content, bytes | bytearray | memoryview) and not hasattr(content, "read"):
            raise TypeError(f"content is bytes or a binary file, got {type(content).__name__}")
        if not 0 <= retries <= MAX_RETRIES:
            raise ValueError(f"{retries} retries, expected 0 to {MAX_RETRIES}")
        if retries and not can_send_again(content):
            raise TypeError(
                "retries need content that can be sent again: bytes, or a file that can be rewound"
            )
        if hops is None:
            limits = self._context.limits
            hops = self._context.routes.draw_hops(limits.route_hops, limits.route_bias)
        if idle_s is None:
            idle_s = self._context.limits.idle_s
        call = QueryCall(
            Route((), destination) if route is None else route,
            content,
            mode,
            Profile.for_proxies(hops if route is None else len(route.proxies))
            if profile is None
            else profile,
            idle_s,
            sink,
            progress,
            error_mode=error_mode,
            reply_route=reply_route,
        )
        draw = partial(self._drawn, call, hops if route is None else len(route.proxies), profile, rng)
        first = draw(frozenset(), route, reply_route) if route or reply_route or rng else None
        if first is None:
            first = self._ready(call, hops, profile, draw)
        service = query_with_retries(self._context, first, draw, retries)
        return self._reactor.submit(service, name=f"{self._context.name} query")

    def _ready(
        self,
        call: QueryCall,
        hops: int,
        profile: Profile | None,
        draw: Callable[[frozenset[bytes]], QueryCall],
    ) -> QueryCall:
        """The call with a frame that waits ready, or else with ways that are drawn now."""
        # Much content has another profile, and so long a way that its beginning does not count.
        is_fit = self._context.limits.prepared and call.mode is not ReplyMode.KNOWN_DEST
        if not is_fit or (_size(call.content) or 0) >= LARGE_BYTES:
            return draw(frozenset())
        kind = Kind(call.route.destination, hops, call.mode, call.error_mode, profile)
        found = self._prepared.take(kind)
        bare = replace(call, content=b"", sink=None, progress=None)
        refill = self._prepared.fill(kind, lambda: self._drawn(bare, hops, profile, None, frozenset()))
        self._reactor.submit(refill, name=f"{self._context.name} prepare")
        if found is None:
            return draw(frozenset())
        ways, query = found
        return replace(
            call, route=ways.route, reply_route=ways.reply_route, profile=ways.profile, prepared=query
        )

    def _drawn(
        self,
        call: QueryCall,
        hops: int,
        profile: Profile | None,
        rng: random.Random | None,
        avoid: frozenset[bytes],
        route: Route | None = None,
        reply_route: Route | None = None,
    ) -> QueryCall:
        """The call with its ways, drawn where they are not given, and the best profile where none is."""
        routes = self._context.routes
        least = call.profile if profile is None else profile
        if route is None:
            route = routes.route(call.route.destination, hops, least, avoid=avoid, rng=rng)
        if call.mode is ReplyMode.OTHER_ROUTE and reply_route is None:
            reply_route = routes.other_route(route, least, avoid=avoid, rng=rng)
        if profile is None:
            ways = (route,) if reply_route is None else (route, reply_route)
            profile = routes.profile(ways, _size(call.content)) or least
        return replace(call, route=route, reply_route=reply_route, profile=profile)

    def query_service(self, call: QueryCall) -> Service[QueryResult]:
        """A query as a service of the reactor: `result = yield from node.query_service(call)`."""
        return query_with_retries(self._context, call, lambda _: call, 0)

    def tunnel(
        self,
        destination: bytes,
        use: Callable[[NodeTunnel], Service[None]],
        *,
        hops: int = 3,
        route: Route | None = None,
        profile: Profile | None = None,
    ) -> Future[Report | None]:
        """Open an established tunnel to the node `destination`, from any thread, and let a service use it.

        Args:
            use: called with the tunnel in the reactor; a generator. The tunnel lives as long as it runs, and
                is then closed in order.
            hops, route: as for `query`.
            profile: by default the interactive one where the route fits, whose chunks are of 1 KiB.
        Returns:
            A future of what the route says of the tunnel. Cancelling it gives the tunnel up.
        Raises:
            BadRoute, ProfileError: no such route can be chosen. From the future as well, and from there
                QueryFailed: it could not be opened, or broke. any other: what `use` has raised.
        """
        if profile is None:
            proxies = hops if route is None else len(route.proxies)
            small = Profile(INTERACTIVE)
            profile = small if proxies <= INTERACTIVE.max_proxies else Profile.for_proxies(proxies)
        if route is None:
            route = self.choose_route(destination, hops, profile)
        service = with_tunnel(self._context, route, profile, use)
        return self._reactor.submit(service, name=f"{self._context.name} tunnel")

    def choose_route(
        self, destination: bytes, hops: int, profile: Profile, *, rng: random.Random | None = None
    ) -> Route:
        """Draw a route. Raises BadRoute."""
        return self._context.routes.route(destination, hops, profile, rng=rng)


def _size(content: Content) -> int | None:
    """Of content that lies in memory; None for a file."""
    return len(content) if isinstance(content, bytes | bytearray) else None
