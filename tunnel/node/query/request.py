"""What the caller of a query leaves open: its ways and its profile, drawn; or a frame that waits ready.

Drawn in the caller's thread, so that he is told at once when there is no such way; a retry is drawn in the
reactor's. Source: docs/routes.md.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypedDict

from reactor import Reactor
from tunnel.arguments import checked_count, checked_id, checked_seconds, member
from tunnel.errors import BadRoute, LocalTunnelError
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.query.contents import as_content
from tunnel.node.query.retry import Kind, PreparedQueries, check_retries
from tunnel.node.query.running import Content, Progress, QueryCall, Sink, check_served
from tunnel.routing.route import Purpose, Route, checked_purpose
from tunnel.routing.route_provider import LARGE_BYTES

if TYPE_CHECKING:
    from tunnel.node.context import NodeContext

__all__ = [
    "CallOptions",
    "QueryOptions",
    "QueryRequest",
    "RoutePlanner",
    "TunnelOptions",
    "WayOptions",
    "draw_hops",
    "make_request",
    "make_sinks",
    "plan_tunnel",
]


# What a query and a tunnel may be told beside destination and content: one list for nodes and all clients.
#
# An option is added to the dictionary of those who may give it, said there, and taken in `make_request`,
# which has its default.


class WayOptions(TypedDict, total=False):
    """How a query goes and for how long.

    Attributes:
        hops: proxies, drawn at random; by default the node's limit `route_hops` (3), and up to `route_bias`
            more.
        route: the proxies themselves, in place of `hops` chosen at random.
        mode: how the reply comes, and whether there is one; by default `route`.
        error_mode: how failures come back: `status` (the default) says where, `xor` has the original's codes,
            `none`.
        reply_route: modes `other-route` and `reply-on-reply`: the way back, ending at this node; by default
            as many other proxies, drawn at random (the same in reverse for `reply-on-reply`).
        profile: a profile or its name ("bulk-hctr"); by default the best one that all nodes of the ways
            offer: `bulk` from 1 MiB on, else `default`, or `long` where the route needs it; suite 1 where all
            have it.
        purpose: what the content is like, in place of its length, which is not known of an iterator or for
            the reply: `bulk` for megabytes, `interactive` for less than 4 KiB each way, `mixed`.
        idle_s: fail when nothing moves for so long; by default the node's limit (60 s). A service that thinks
            for longer needs more.
        timeout_s: fail when the query has not ended after so long, all attempts together; by default there is
            no such limit.
        rng: for demonstrations whose route is to be the same each time.
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


class CallOptions(WayOptions, total=False):
    """The same, and who is told how far it is, and whether to try again: of each query of a client.

    Attributes:
        progress: called with (query bytes sent, reply bytes received), in the reactor's thread where nothing
            else is said.
        retries: how often to try again, over another route of the same length without those to blame, when a
            hop failed: 0 to 16, by default 0. For content that may reach the destination twice: bytes, or a
            file that can be rewound. A reply that is read while it comes, or goes to a sink, must not have
            begun to come.
    """

    progress: Progress | None
    retries: int


class QueryOptions(CallOptions, total=False):
    """The same, and where the replies go: of a query of a node.

    Attributes:
        sink: a binary file for the reply; by default memory up to 1 MiB, a temporary file beyond.
        replies: how many the other end may send, in the modes with reply blocks: at most 8, and 3 in profile
            `long`; by default 1. Those that its service does not send come empty.
        sinks: one binary file for each reply, in place of `sink`.
    """

    sink: Sink | None
    replies: int
    sinks: Sequence[Sink]


class TunnelOptions(TypedDict, total=False):
    """How a tunnel goes.

    Attributes:
        hops: proxies, drawn at random; by default as many as of a query.
        route: the proxies themselves, in place of `hops` chosen at random.
        purpose: what the tunnel is for, which decides how long its chunks are: `mixed` (the default, 16 KiB)
            for content and short messages, `interactive` (1 KiB) for short messages only over slow links,
            `bulk` (64 KiB) for megabytes. Each message and each write to a sub-stream costs whole chunks.
        profile: a profile or its name ("bulk-hctr"), in place of the best one for the purpose that all nodes
            of the route offer.
    """

    hops: int | None
    route: Route | None
    profile: Profile | str | None
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """A query, and what of it is still to be drawn.

    Attributes:
        call: all the rest; its ways and its profile count for nothing but the destination, and what it is
            drawn again with is not set yet.
        hops: proxies of the way there.
        route, reply_route, profile: as given; None: to be drawn.
        purpose: by which the profile is chosen.
        rng: of a demonstration, whose route is to be the same each time.
    """

    call: QueryCall
    hops: int
    route: Route | None = None
    reply_route: Route | None = None
    profile: Profile | None = None
    purpose: Purpose | None = None
    rng: random.Random | None = None

    @property
    def is_free(self) -> bool:
        """Whether any ways will do."""
        return self.route is None and self.reply_route is None and self.rng is None


def make_request(
    node: NodeContext,
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
    """The checked request of a caller, its routes not drawn yet. Args and errors: as `Node.query`."""
    destination = checked_id(destination)
    content, limits = as_content(content), node.limits
    mode, error_mode = member(ReplyMode, mode, "mode"), member(ErrorMode, error_mode, "error_mode")
    check_served(mode)
    own_sinks = make_sinks(replies, sink, sinks)
    chosen, purpose = Profile.of(profile), checked_purpose(purpose)
    check_retries(content, retries)
    idle_s = limits.idle_s if idle_s is None else checked_seconds(idle_s, "idle_s")
    if timeout_s is not None:
        checked_seconds(timeout_s, "timeout_s")
    for given, name in ((route, "route"), (reply_route, "reply_route")):
        if given is not None:
            node.routes.check(_checked_route(given, name))
    hops = _count_hops(node, hops, route)
    if mode is ReplyMode.KNOWN_DEST and not node.descriptor.addresses:
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


class RoutePlanner:
    """Makes calls of drafts, for one node. May be called from any thread.

    Args:
        reactor: where frames are prepared for the next time (`Limits.prepared`).
    """

    def __init__(self, node: NodeContext, reactor: Reactor) -> None:
        self._node = node
        self._reactor = reactor
        self._prepared = PreparedQueries(node, node.limits.prepared)

    def plan(self, draft: QueryRequest, avoid: frozenset[bytes] = frozenset()) -> QueryCall:
        """The call with its ways, drawn where they are not given, and the best profile where none is.

        Raises:
            BadRoute, ProfileError: there is no such way.
        """
        call, routes = draft.call, self._node.routes
        route, back = draft.route, draft.reply_route
        least = draft.profile or Profile.for_proxies(draft.hops)
        if route is None:
            route = routes.route(call.route.destination, draft.hops, least, avoid=avoid, rng=draft.rng)
        if call.mode is ReplyMode.OTHER_ROUTE and back is None:
            last = self._node.home_neighbour(least, route.destination, *avoid)
            back = routes.other_route(route, least, last=last, avoid=avoid, rng=draft.rng)
        profile = draft.profile
        if profile is None:
            ways = (route,) if back is None else (route, back)
            profile = routes.profile(ways, _size(call.content), draft.purpose) or least
        redraw = partial(self.again, draft)
        return replace(call, route=route, reply_route=back, profile=profile, redraw=redraw)

    def again(self, draft: QueryRequest, avoid: frozenset[bytes]) -> QueryCall:
        """The call over other ways, also where some were given. Raises as `drawn`."""
        return self.plan(replace(draft, route=None, reply_route=None), avoid)

    def ready(self, draft: QueryRequest) -> QueryCall:
        """The call with a frame that waits ready, or else as `drawn`; the next one is prepared beside it."""
        call = draft.call
        # Much content has another profile, and so long a way that its beginning does not count.
        is_small = (_size(call.content) or 0) < LARGE_BYTES
        is_fit = draft.is_free and is_small and call.mode is not ReplyMode.KNOWN_DEST
        if not (self._node.limits.prepared and is_fit):
            return self.plan(draft)
        kind = Kind(
            call.route.destination,
            draft.hops,
            call.mode,
            call.error_mode,
            draft.profile or draft.purpose,
            call.replies,
        )
        found = self._prepared.take(kind)
        bare = replace(draft, call=replace(call, content=b"", sinks=(), progress=None))
        refill = self._prepared.fill(kind, lambda: self.plan(bare))
        self._reactor.submit(refill, name=f"{self._node.name} prepare")
        if found is None:
            return self.plan(draft)
        ways, query = found
        return replace(call.over(ways), prepared=query, redraw=partial(self.again, draft))


def _size(content: Content) -> int | None:
    """Of content that lies in memory; None for any other."""
    return len(content) if isinstance(content, bytes | memoryview) else None


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
