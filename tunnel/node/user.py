"""What a node's user asks of it: queries, follow-ups, cover frames, tunnels. `Node` is one of these.

Calls from any thread that give futures, and beside them the services that run in the reactor.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from types import EllipsisType
from typing import Unpack

from reactor import Reactor, Service, needs_yield_from
from tunnel.arguments import check_options, checked_count, checked_id, checked_seconds, member
from tunnel.errors import BadRoute, LocalTunnelError
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.context import NodeContext
from tunnel.node.query.contents import as_content
from tunnel.node.query.reply import IncomingReply, ask
from tunnel.node.query.request import QueryOptions, QueryRequest, RoutePlanner
from tunnel.node.query.retry import check_retries, query_with_retries
from tunnel.node.query.running import (
    Content,
    Progress,
    QueryCall,
    QueryResult,
    Sink,
    check_served,
    submit,
    until_stopped,
)
from tunnel.node.query.untracked import FollowUp, cover_service, follow_up_service
from tunnel.node.tunnels.open_tunnel import OpenTunnel, open_tunnel
from tunnel.node.tunnels.prepared import PreparedTunnels, TunnelKind
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.node.tunnels.tunnel_call import with_tunnel
from tunnel.onion.cover import CoverPlan
from tunnel.onion.reports import Report
from tunnel.routing.route import Purpose, Route, checked_purpose

__all__ = ["NodeUser"]


class NodeUser:
    """The asking side of a node; made by `Node`, which sets what it works with."""

    _context: NodeContext
    _reactor: Reactor
    _drawing: RoutePlanner
    _standing: PreparedTunnels

    @property
    def route_hops(self) -> tuple[int, int]:
        """`Limits.route_hops`, and up to how many more: `Limits.route_bias`."""
        limits = self._context.limits
        return limits.route_hops, limits.route_bias

    def draw_hops(self) -> int:
        """Proxies of a new route whose length the caller leaves open: `Limits.route_hops`, and up to
        `route_bias` more. Never fewer: a network that is too small for them is an error."""
        return self._context.routes.draw_hops(*self.route_hops)

    def query(
        self, destination: bytes, content: Content, **options: Unpack[QueryOptions]
    ) -> Future[QueryResult]:
        """Send `content` to the node `destination` through proxies, from any thread.

        Args:
            content: bytes; the path of a regular file; a binary file, read up to the size that it has now (a
                regular file) or to its end; an iterator of bytes; or a service that gives bytes, b"" at the
                end. Regular files are read in the reactor's thread, paths, pipes and iterators in their own.
            options: how it goes (`hops`, `route`, `mode`, `error_mode`, `reply_route`, `profile`, `purpose`,
                `idle_s`, `timeout_s`, `rng`), `progress`, `retries`, and where replies go (`sink`, `replies`,
                `sinks`): see `tunnel.node.query.request`, which says what each means.
        Returns:
            A future of QueryResult. Cancelling it cancels the query.
        Raises:
            TypeError: content is nothing of these, or is to be sent again and cannot be; profile is neither a
                Profile nor a name. ValueError: retries
                are not 0 to 16. LocalTunnelError: other than one sink for each reply.
            BadRoute, ProfileError: no such route can be chosen. From the future as well, and from there
                QueryFailed: the query did not come through; says what is known. FileChanged: the content is a
                file that changed while it was sent. Whatever reading the content raises.
        """
        check_options(options, QueryOptions.__annotations__)
        call = self._drawing.ready(self._draft(destination, content, **options))
        return submit(self._reactor, self.query_service(call), f"{self._context.name} query")

    def call(self, destination: bytes, content: Content = b"", **options: Unpack[QueryOptions]) -> QueryCall:
        """What `query` sends, with everything chosen that was left open. Args: see there.

        Raises:
            TypeError, ValueError, LocalTunnelError, BadRoute, ProfileError: as for `query`.
        """
        check_options(options, QueryOptions.__annotations__)
        return self._drawing.plan(self._draft(destination, content, **options))

    def _draft(
        self,
        destination: bytes,
        content: Content,
        *,
        hops: int | None = None,
        route: Route | None = None,
        mode: ReplyMode | str = ReplyMode.ROUTE,
        error_mode: ErrorMode | str = ErrorMode.STATUS,
        reply_route: Route | None = None,
        profile: Profile | str | None = None,
        purpose: Purpose | None = None,
        idle_s: float | None = None,
        timeout_s: float | None = None,
        sink: Sink | None = None,
        replies: int = 1,
        sinks: Sequence[Sink] = (),
        progress: Progress | None = None,
        retries: int = 0,
        rng: random.Random | None = None,
    ) -> QueryRequest:
        """What a caller asks for, checked; its ways are still open. Args and errors as for `query`."""
        destination = checked_id(destination)
        content, limits = as_content(content), self._context.limits
        mode, error_mode = member(ReplyMode, mode, "mode"), member(ErrorMode, error_mode, "error_mode")
        check_served(mode)
        own_sinks = _sinks(replies, sink, sinks)
        chosen, purpose = Profile.of(profile), checked_purpose(purpose)
        check_retries(content, retries)
        idle_s = limits.idle_s if idle_s is None else checked_seconds(idle_s, "idle_s")
        if timeout_s is not None:
            checked_seconds(timeout_s, "timeout_s")
        for given, name in ((route, "route"), (reply_route, "reply_route")):
            if given is not None:
                self._context.routes.check(_checked_route(given, name))
        hops = self._hops(hops, route)
        if mode is ReplyMode.KNOWN_DEST and not self._context.descriptor.addresses:
            raise BadRoute("mode known-dest needs an address that the answer can be sent to; use mode route")
        call = QueryCall(
            route or Route((), destination),
            content,
            mode,
            chosen or Profile.for_proxies(hops),
            idle_s,
            own_sinks,
            progress,
            error_mode=error_mode,
            replies=replies,
            timeout_s=timeout_s,
            retries=retries,
        )
        return QueryRequest(call, hops, route, reply_route, chosen, purpose, rng)

    @needs_yield_from
    def query_service(self, call: QueryCall) -> Service[QueryResult]:
        """A query as a service of the reactor: `result = yield from node.query_service(call)`."""
        return until_stopped(self._context, query_with_retries(self._context, call))

    @needs_yield_from
    def ask(self, call: QueryCall) -> Service[IncomingReply]:
        """Begin a query whose reply is read while it comes: `reply = yield from node.ask(node.call(...))`.

        Raises, when run: QueryFailed, the node has been stopped.
        """
        context = self._context
        asking = ask(
            context.scope,
            context.post,
            call.route.destination,
            lambda sink: self.query_service(call.with_sink(sink)),
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
        """Go on from a reply that carried reply blocks (mode `reply-on-reply`), from any thread.

        The content goes along the first block that is left in `result`, which is taken from it: over a way
        that the other end chose, and of which this node knows nothing but the end.

        Args:
            hops: proxies of the way on which the answer comes, drawn at random; by default as many as a query
                has. None: no answer is wanted.
            wants_blocks: the answer is to carry blocks, so that one can go on from it again.
            content, replies, sink, sinks, idle_s: as for `query`.
        Returns:
            A future of QueryResult. Without an answer it says that the content was sent, not that it arrived.
        Raises:
            TypeError: content is neither bytes nor a file.
            LocalTunnelError: no block is left; other than one sink for each reply.
            BadRoute: no such way back. From the future as well, and from there ExpiredHeader, UnknownNext:
                the block is of no use (any more); QueryFailed: no answer has come.
        """
        content = as_content(content)
        own_sinks = _sinks(replies, sink, sinks)
        if idle_s is not None:
            checked_seconds(idle_s, "idle_s")
        if not result.reply_blocks:
            raise LocalTunnelError("no reply block is left in this result to go on along")
        block, *left = result.reply_blocks
        way_back = None
        hops = self.draw_hops() if hops is ... else hops
        if hops is not None:
            checked_count(hops, "hops")
            origin = Route((), result.route.destination)
            last = self._context.home_neighbour(block.profile, origin.destination) if hops else None
            way_back = self._context.routes.other_route(origin, block.profile, hops=hops, last=last)
        result.reply_blocks = tuple(left)
        call = FollowUp(
            result.route.destination,
            block,
            content,
            way_back,
            self._context.limits.idle_s if idle_s is None else idle_s,
            wants_blocks=wants_blocks,
            sinks=own_sinks,
            replies=replies,
        )
        service = until_stopped(self._context, follow_up_service(self._context, call))
        return submit(self._reactor, service, f"{self._context.name} follow-up")

    def send_cover(self, plan: CoverPlan, *, mean_delay_s: float = 0.0) -> Future[None]:
        """Send one frame that says nothing, from any thread: see `tunnel.onion.cover.draw_cover`.

        Args:
            plan: a loop, or a DROP frame. When to send the next one is the caller's to decide.
            mean_delay_s: of the random delay at each proxy.
        Returns:
            A future that ends when the frame has arrived: a loop at this node.
        Raises:
            From the future BadRoute, ProfileError: no such way; QueryFailed: it did not arrive.
        """
        service = cover_service(self._context, plan, mean_delay_s=mean_delay_s)
        return submit(self._reactor, until_stopped(self._context, service), f"{self._context.name} cover")

    def tunnel(
        self,
        destination: bytes,
        use: Callable[[NodeTunnel], Service[None]],
        *,
        hops: int | None = None,
        route: Route | None = None,
        profile: Profile | str | None = None,
        purpose: Purpose = "mixed",
    ) -> Future[Report | None]:
        """Open an established tunnel to the node `destination`, from any thread, and let a service use it.

        Args:
            use: called with the tunnel in the reactor; a generator. The tunnel lives as long as it runs, and
                is then closed in order.
            hops, route: as for `query`.
            profile, purpose: see `tunnel.node.query.request.TunnelOptions`.
        Returns:
            A future of what the route says of the tunnel. Cancelling it gives the tunnel up.
        Raises:
            BadRoute, ProfileError: no such route can be chosen. LocalTunnelError: unknown purpose. From the
                future as well, and from there QueryFailed: it could not be opened, or broke. any other: what
                `use` has raised.
        """
        route, chosen = self._tunnel_way(
            checked_id(destination), hops, route, Profile.of(profile), checked_purpose(purpose) or "mixed"
        )
        service = until_stopped(self._context, with_tunnel(self._context, route, chosen, use))
        return submit(self._reactor, service, f"{self._context.name} tunnel")

    @needs_yield_from
    def open_tunnel(
        self,
        destination: bytes,
        *,
        hops: int | None = None,
        route: Route | None = None,
        profile: Profile | str | None = None,
        purpose: Purpose = "mixed",
    ) -> Service[OpenTunnel]:
        """Open an established tunnel that its user closes: `tunnel = yield from node.open_tunnel(bob_id)`.

        One that stands open already is taken, where `Limits.prepared_tunnels` keeps such and `route` is left
        open. Args and errors as for `tunnel`, but for `use`.
        """
        destination, chosen = checked_id(destination), Profile.of(profile)
        purpose = checked_purpose(purpose) or "mixed"
        way = partial(self._tunnel_way, destination, hops, route, chosen, purpose)
        if route is None:
            kind = TunnelKind(destination, hops, chosen or purpose)
            standing = self._standing.take(kind)
            try:
                yield from until_stopped(self._context, self._standing.fill(kind, way))
            except BaseException:
                if standing is not None:
                    standing.give_up()
                raise
            if standing is not None:
                return standing
        return (yield from until_stopped(self._context, open_tunnel(self._context, *way())))

    def _tunnel_way(
        self,
        destination: bytes,
        hops: int | None,
        route: Route | None,
        profile: Profile | None,
        purpose: Purpose,
    ) -> tuple[Route, Profile]:
        """What was left open of a tunnel's way."""
        if route is not None:
            self._context.routes.check(_checked_route(route, "route"))
        proxies = self._hops(hops, route)
        least = profile or Profile.for_proxies(proxies)
        route = route or self.choose_route(destination, proxies, least)
        return route, profile or self._context.routes.profile((route,), purpose=purpose) or least

    def choose_route(
        self, destination: bytes, hops: int, profile: Profile, *, rng: random.Random | None = None
    ) -> Route:
        """Draw a route. Raises BadRoute; BadArgument, TypeError: as `query`."""
        destination, hops = checked_id(destination), checked_count(hops, "hops")
        return self._context.routes.route(destination, hops, profile, rng=rng)

    def _hops(self, hops: int | None, route: Route | None) -> int:
        """How many proxies: of the route that was given, as the caller says, or drawn."""
        if hops is not None:
            checked_count(hops, "hops")
        if route is not None:
            return len(route.proxies)
        return self.draw_hops() if hops is None else hops


def _sinks(replies: int, sink: Sink | None, sinks: Sequence[Sink]) -> tuple[Sink, ...]:
    """The sinks of a query; none: temporary files."""
    checked_count(replies, "replies")
    # Not `or`: a sink with a length is false while it is empty.
    own = tuple(sinks) if sink is None else (sink, *sinks)
    for each in own:
        if isinstance(each, io.TextIOBase) or not callable(getattr(each, "write", None)):
            raise TypeError(f"sink: expected a binary file to write to, got {type(each).__name__}")
    if replies < 1 or (own and len(own) != replies):
        raise LocalTunnelError(f"{replies} replies and {len(own)} sinks: at least one reply, a sink for each")
    return own


def _checked_route(route: Route, what: str) -> Route:
    """Raises TypeError: no route."""
    if not isinstance(route, Route):
        raise TypeError(f"{what}: expected a Route, got {type(route).__name__}")
    return route
