"""What the caller of a query leaves open: its ways and its profile, drawn; or a frame that waits ready.

Drawn in the caller's thread, so that he is told at once when there is no such way; a retry is drawn in the
reactor's. Source: docs/routes.md.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from reactor import Reactor
from tunnel.geometry import Profile
from tunnel.modes import ReplyMode
from tunnel.node.api_service import Content, QueryCall
from tunnel.node.prepared import Kind, PreparedQueries
from tunnel.node.route_provider import LARGE_BYTES
from tunnel.route import Purpose, Route

if TYPE_CHECKING:
    from tunnel.node.context import NodeContext

__all__ = ["Draft", "Drawing"]


@dataclass(frozen=True, slots=True)
class Draft:
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


class Drawing:
    """Makes calls of drafts, for one node. May be called from any thread.

    Args:
        reactor: where frames are prepared for the next time (`Limits.prepared`).
    """

    def __init__(self, node: NodeContext, reactor: Reactor) -> None:
        self._node = node
        self._reactor = reactor
        self._prepared = PreparedQueries(node, node.limits.prepared)

    def drawn(self, draft: Draft, avoid: frozenset[bytes] = frozenset()) -> QueryCall:
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

    def again(self, draft: Draft, avoid: frozenset[bytes]) -> QueryCall:
        """The call over other ways, also where some were given. Raises as `drawn`."""
        return self.drawn(replace(draft, route=None, reply_route=None), avoid)

    def ready(self, draft: Draft) -> QueryCall:
        """The call with a frame that waits ready, or else as `drawn`; the next one is prepared beside it."""
        call = draft.call
        # Much content has another profile, and so long a way that its beginning does not count.
        is_small = (_size(call.content) or 0) < LARGE_BYTES
        is_fit = draft.is_free and is_small and call.mode is not ReplyMode.KNOWN_DEST
        if not (self._node.limits.prepared and is_fit):
            return self.drawn(draft)
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
        refill = self._prepared.fill(kind, lambda: self.drawn(bare))
        self._reactor.submit(refill, name=f"{self._node.name} prepare")
        if found is None:
            return self.drawn(draft)
        ways, query = found
        return replace(call.over(ways), prepared=query, redraw=partial(self.again, draft))


def _size(content: Content) -> int | None:
    """Of content that lies in memory; None for any other."""
    return len(content) if isinstance(content, bytes | memoryview) else None
