"""The requests of this node's user: the options, and the `QueryRequest` and tunnel routes made of them.

A query passes three objects. Example, `node.query(bob, b"ping", hops=3)`:

1. `make_request` checks the options (`checked_request`), draws a route and chooses a profile: a
   `QueryRequest`, a plain value. This runs in the caller's thread, so that a missing route is an error at
   the call.
2. `build_query` (attempts.py) seals the headers in a thread: an `OutgoingQuery` of `tunnel.onion`, with the
   `Circuit` to Bob and the `ReplyPath`s back.
3. `RunningQuery` (attempts.py) sends it and waits for the outcome. A retry is another `RunningQuery`, over
   routes that `draw_routes` draws without the suspected hops.

To add an option: put it into the matching dictionary below, with its description, and into
`checked_request`, which has its default. Source: docs/routes.md.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict, Unpack

from tunnel.arguments import LEAST_SECONDS, checked_count, checked_id, checked_seconds, member
from tunnel.errors import BadRoute, LocalTunnelError
from tunnel.geometry import MAX_BLOCKS, Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.query.contents import Content, as_content, rewinder
from tunnel.node.query.incoming_replies import Sink
from tunnel.onion.header_builder import OutgoingQuery
from tunnel.routing.route import Purpose, Route, checked_purpose
from tunnel.services.base import InnerService

if TYPE_CHECKING:
    from tunnel.node.context import NodeContext

__all__ = [
    "MAX_RETRIES",
    "SERVED_MODES",
    "CallOptions",
    "Progress",
    "QueryOptions",
    "QueryRequest",
    "RouteOptions",
    "TunnelOptions",
    "check_retries",
    "check_served",
    "checked_request",
    "content_size",
    "draw_hops",
    "draw_routes",
    "home_neighbour",
    "make_request",
    "make_sinks",
    "plan_tunnel",
    "routes_home",
]

MAX_RETRIES = 16
"""More attempts rarely help, and each costs every hop a header."""

SERVED_MODES = tuple(mode for mode in ReplyMode if mode is not ReplyMode.ESTABLISHED)
"""Reply modes of a query: all but an established tunnel."""

Progress = Callable[[int, int], None]


# The options of queries and tunnels beside destination and content: one list for nodes and all clients.


class RouteOptions(TypedDict, total=False):
    """Route, mode and time limits of a query.

    Attributes:
        hops: number of proxies, drawn at random; by default the node's limit `route_hops` (3), plus up to
            `route_bias`.
        route: a given route instead of `hops` random proxies.
        mode: the reply mode; by default `route`.
        error_mode: how failures are reported: `status` (the default) includes the place, `xor` uses the
            original's codes, `none` reports nothing.
        reply_route: modes `other-route` and `reply-on-reply`: the reply path, ending at this node; by default
            as many other proxies, drawn at random (the reverse of the route for `reply-on-reply`).
        profile: a profile or its name ("bulk-hctr"); by default the best one that all nodes of the routes
            offer: `bulk` from 1 MiB on, else `default`, or `long` if the route needs it; suite 1 if all nodes
            have it.
        purpose: the kind of content, for content of unknown length or a long reply: `bulk` for megabytes,
            `interactive` for less than 4 KiB each way, `mixed`, or `stream`, which tunnels take.
        idle_s: fail after this many seconds without movement; by default the node's limit (60 s). A slower
            service needs more.
        timeout_s: limit in seconds of all attempts together; by default none.
        rng: draws the route of a demonstration, so that it is the same each time.
    """

    hops: int | None
    route: Route | None
    mode: ReplyMode | str
    error_mode: ErrorMode | str
    reply_route: Route | None
    profile: Profile | str | None
    purpose: Purpose | None
    idle_s: float | None
    timeout_s: float | None
    rng: random.Random | None


class CallOptions(RouteOptions, total=False):
    """The same, plus progress and retries: the options of a client's query.

    Attributes:
        progress: called with (query bytes sent, reply bytes received), in the reactor's thread unless the
            client documents another.
        retries: attempts after a hop failed, each over another route of the same length, excluding the
            suspected hops: 0 to 16, by default 0. The content may reach the destination twice; it must be
            bytes or a file that can be rewound. No retry once a reply that is read as it arrives, or goes to
            a sink, has begun.
    """

    progress: Progress | None
    retries: int


class QueryOptions(CallOptions, total=False):
    """The same, plus the sinks of replies: the options of a node's query.

    Attributes:
        sink: a binary file for the reply; by default memory up to 1 MiB, a temporary file beyond.
        replies: number of replies that the other end may send, in modes with reply blocks: at most 8, or 3
            in profile `long`; by default 1. Replies that its service does not send arrive empty.
        sinks: one binary file for each reply, in place of `sink`.
    """

    sink: Sink | None
    replies: int
    sinks: Sequence[Sink]


class TunnelOptions(TypedDict, total=False):
    """The options of a tunnel.

    Attributes:
        hops: number of proxies, drawn at random; by default as for a query.
        route: a given route instead of `hops` random proxies.
        purpose: decides the chunk size: `stream` (the default, 8 KiB) for content and short messages,
            `interactive` (1 KiB) for short messages only over slow links, `mixed` (16 KiB) for mostly
            content, `bulk` (64 KiB) for megabytes. Each message and each write to a sub-stream costs whole
            chunks.
        profile: a profile or its name ("bulk-hctr"); by default the best one for the purpose that all nodes
            of the route offer.
        services: serve the sub-streams that the other end opens; by default they are refused.
    """

    hops: int | None
    route: Route | None
    profile: Profile | str | None
    purpose: Purpose
    services: InnerService | None


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """A query to send, with every choice made. A value: it may be sent more than once.

    Attributes:
        route: to the destination. reply_route: back to this node, in modes other-route and reply-on-reply.
        content: see `tunnel.node.query.contents.Content`; read until its end.
        idle_s: the query fails after this time without movement in either direction.
        sinks: one for each reply; none: temporary files, in memory while small.
        progress: called with (query bytes sent, reply bytes received) as they grow.
        replies: number of replies; more than one only in modes with reply blocks.
        timeout_s: limit of all attempts together; None: no limit but `idle_s`.
        retries: most attempts after the first. Without `hops` there are none.
        hops: proxies of a newly drawn route; None: new routes cannot be drawn.
        wanted_profile, purpose: as the caller gave them; choose the profile of new routes.
        rng: draws the routes of a demonstration.
        has_given_routes: the caller gave a route.
        prepared: the frame if it was built in advance; used once.
    """

    route: Route
    content: Content = field(repr=False)
    mode: ReplyMode
    profile: Profile
    idle_s: float
    sinks: tuple[Sink, ...] = ()
    progress: Progress | None = None
    error_mode: ErrorMode = ErrorMode.STATUS
    reply_route: Route | None = None
    replies: int = 1
    timeout_s: float | None = None
    retries: int = 0
    hops: int | None = None
    wanted_profile: Profile | None = None
    purpose: Purpose | None = None
    rng: random.Random | None = None
    has_given_routes: bool = False
    prepared: OutgoingQuery | None = None

    def __post_init__(self) -> None:
        # Users may give both by name.
        object.__setattr__(self, "mode", member(ReplyMode, self.mode, "mode"))
        object.__setattr__(self, "error_mode", member(ErrorMode, self.error_mode, "error_mode"))

    def with_sink(self, sink: Sink) -> QueryRequest:
        """The same request with one reply, which goes to `sink`."""
        return replace(self, sinks=(sink,), replies=1)


def checked_request(
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
    """Check the options of a query that can be checked without a node. Args and errors: as `Node.query`.

    Returns:
        A request without routes. The choices that the options leave to the node are still open.
    """
    mode = member(ReplyMode, mode, "mode")
    content = as_content(content)
    check_served(mode)
    check_retries(content, retries)
    if hops is not None:
        checked_count(hops, "hops")
    for given, name in ((route, "route"), (reply_route, "reply_route")):
        if given is not None:
            _checked_route(given, name)
    if timeout_s is not None:
        timeout_s = checked_seconds(timeout_s, "timeout_s")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: expected a function, got {type(progress).__name__}")
    if rng is not None and not isinstance(rng, random.Random):
        raise TypeError(f"rng: expected a random.Random, got {type(rng).__name__}")
    wanted = Profile.of(profile)
    return QueryRequest(
        Route((), checked_id(destination)),
        content,
        mode,
        wanted or Profile.for_proxies(0),
        0.0 if idle_s is None else checked_seconds(idle_s, "idle_s", least=LEAST_SECONDS),
        make_sinks(replies, sink, sinks),
        progress,
        error_mode=member(ErrorMode, error_mode, "error_mode"),
        replies=replies,
        timeout_s=timeout_s,
        retries=retries,
        hops=hops,
        wanted_profile=wanted,
        purpose=checked_purpose(purpose),
        rng=rng,
        has_given_routes=route is not None or reply_route is not None,
    )


def make_request(
    node: NodeContext, destination: bytes, content: Content, **options: Unpack[QueryOptions]
) -> QueryRequest:
    """Check the options of a query and make the open choices. Args and errors: as `Node.query`."""
    request = checked_request(destination, content, **options)
    route, reply_route = options.get("route"), options.get("reply_route")
    for given in (route, reply_route):
        if given is not None:
            node.routes.check(given)
    if request.mode is ReplyMode.KNOWN_DEST and not node.descriptor.addresses:
        raise BadRoute("mode known-dest needs an address that the answer can be sent to; use mode route")
    hops = _count_hops(node, request.hops, route)
    request = replace(
        request,
        hops=hops,
        profile=request.wanted_profile or Profile.for_proxies(hops),
        idle_s=node.limits.idle_s if options.get("idle_s") is None else request.idle_s,
    )
    return draw_routes(node, request, route=route, reply_route=reply_route)


def draw_routes(
    node: NodeContext,
    request: QueryRequest,
    *,
    suspects: tuple[bytes, ...] = (),
    route: Route | None = None,
    reply_route: Route | None = None,
) -> QueryRequest:
    """The request over new routes, in their best profile unless the caller chose one.

    Args:
        suspects: ids of nodes to leave out if enough others remain. route, reply_route: to be used instead of
            drawing one.
    Raises:
        BadRoute, ProfileError: no such route.
    """
    routes, destination, rng = node.routes, request.route.destination, request.rng
    assert request.hops is not None
    least = request.wanted_profile or Profile.for_proxies(request.hops)
    if route is None:
        route = routes.route(destination, request.hops, least, suspects=suspects, rng=rng)
    if request.mode is ReplyMode.OTHER_ROUTE and reply_route is None:
        last = home_neighbour(node, least, route.destination, suspects=suspects)
        reply_route = routes.other_route(route, least, last=last, suspects=suspects, rng=rng)
    profile = request.wanted_profile
    if profile is None:
        wanted = (route,) if reply_route is None else (route, reply_route)
        profile = routes.profile(wanted, content_size(request.content), request.purpose) or least
    return replace(request, route=route, reply_route=reply_route, profile=profile, prepared=None)


def content_size(content: Content) -> int | None:
    """Bytes of content that is in memory; None for any other."""
    return len(content) if isinstance(content, bytes | memoryview) else None


def check_served(mode: ReplyMode) -> None:
    """Raises LocalTunnelError: not a mode of queries."""
    if mode not in SERVED_MODES:
        raise LocalTunnelError(f"mode {mode} is not for queries; use one of {', '.join(SERVED_MODES)}")


def check_retries(content: Content, retries: int) -> None:
    """Check the number of retries against the content.

    Raises:
        BadArgument: out of range. TypeError: not a whole number, or the content cannot be sent again.
    """
    checked_count(retries, "retries", most=MAX_RETRIES)
    if retries and rewinder(content) is None:
        raise TypeError("retries need content that can be sent again: bytes, or a file that can be rewound")


def plan_tunnel(
    node: NodeContext,
    destination: bytes,
    hops: int | None,
    route: Route | None,
    profile: Profile | None,
    purpose: Purpose,
) -> tuple[Route, Profile]:
    """The route and profile of a tunnel, drawn where the caller leaves them open. Errors as `Node.tunnel`."""
    if route is not None:
        node.routes.check(_checked_route(route, "route"))
    proxies = _count_hops(node, hops, route)
    least = profile or Profile.for_proxies(proxies)
    route = route or node.routes.route(destination, proxies, least)
    return route, profile or node.routes.profile((route,), purpose=purpose) or least


def draw_hops(node: NodeContext) -> int:
    """Number of proxies of a new route: `Limits.route_hops` and up to `route_bias` more."""
    return node.routes.draw_hops(node.limits.route_hops, node.limits.route_bias)


def _count_hops(node: NodeContext, hops: int | None, route: Route | None) -> int:
    """Number of proxies: of the given route, as given, or drawn."""
    if hops is not None:
        checked_count(hops, "hops")
    if route is not None:
        return len(route.proxies)
    return draw_hops(node) if hops is None else hops


def make_sinks(replies: int, sink: Sink | None, sinks: Sequence[Sink]) -> tuple[Sink, ...]:
    """The sinks of a query; none: temporary files. Raises TypeError, BadArgument, LocalTunnelError."""
    checked_count(replies, "replies", least=1, most=MAX_BLOCKS)
    # Not `or`: a sink with a length is false while it is empty.
    own = tuple(sinks) if sink is None else (sink, *sinks)
    for each in own:
        if isinstance(each, io.TextIOBase) or not callable(getattr(each, "write", None)):
            raise TypeError(f"sink: expected a binary file to write to, got {type(each).__name__}")
    if own and len(own) != replies:
        raise LocalTunnelError(f"{replies} replies and {len(own)} sinks: expected a sink for each")
    return own


def _checked_route(route: Route, what: str) -> Route:
    """Raises TypeError: no route."""
    if not isinstance(route, Route):
        raise TypeError(f"{what}: expected a Route, got {type(route).__name__}")
    return route


# Reply paths to this node. A node without an address can be reached only over one of its linked neighbours,
# so its reply paths end with one. `RouteProvider` (tunnel/routing) draws the rest.


def home_neighbour(
    node: NodeContext, profile: Profile, *avoid: bytes, suspects: tuple[bytes, ...] = ()
) -> bytes | None:
    """Choose the last proxy of a reply path to this node.

    Args:
        avoid: ids of nodes not to choose. suspects: not to choose if there are others.
    Returns:
        One of the linked neighbours if this node has no address; None if it has one: any proxy can dial it.
    Raises:
        BadRoute: no linked neighbour is in the directory and offers the profile.
    """
    if node.descriptor.addresses:
        return None
    found = [node.directory.lookup(peer_id) for peer_id in node.links.linked if peer_id not in avoid]
    known = [peer for peer in found if peer is not None]
    own, now_s = node.routes.own_among(known), node.wall_clock()
    usable = [
        peer.node_id
        for peer in known
        if peer.node_id not in own
        and not peer.unlisted
        and peer.offers(profile)
        and peer.obstacle(now_s) is None
    ]
    if not usable:
        raise BadRoute("this node has no address, and no link yet for replies: set links_ahead above 0")
    doubtful = {*suspects, *node.peers.suspected()}
    return node.rng.choice([node_id for node_id in usable if node_id not in doubtful] or usable)


def routes_home(node: NodeContext, profile: Profile) -> tuple[Route, ...]:
    """Draw two reply paths to this node with different first nodes, for the unknown sender of a query.

    The sender may be one of the first nodes and could not use that path. One path if there are too few nodes.
    Raises BadRoute.
    """
    first = _route_home(node, profile)
    if not first.proxies:
        return (first,)
    try:
        return first, _route_home(node, profile, avoid=first.proxies[:1])
    except BadRoute:
        return (first,)


def _route_home(node: NodeContext, profile: Profile, *, avoid: tuple[bytes, ...] = ()) -> Route:
    # The sender is unknown, so there is no query route to avoid.
    unknown, last = Route((), node.descriptor.node_id), home_neighbour(node, profile)
    return node.routes.other_route(unknown, profile, hops=node.limits.answer_hops, last=last, avoid=avoid)
