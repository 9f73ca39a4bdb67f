"""Reply paths to this node.

A node without an address can be reached only over one of its linked neighbours, so its reply paths end with
one. `RouteProvider` (tunnel/routing) draws the rest. Source: docs/routes.md.
"""

from __future__ import annotations

from tunnel.errors import BadRoute
from tunnel.geometry import Profile
from tunnel.node.context import NodeContext
from tunnel.routing.route import Route

__all__ = ["home_neighbour", "routes_home"]


def home_neighbour(node: NodeContext, profile: Profile, *avoid: bytes) -> bytes | None:
    """Choose the last proxy of a reply path to this node.

    Args:
        avoid: ids of nodes not to choose.
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
        raise BadRoute(
            "this node has no address, and no link yet over which a reply could come: keep some ahead"
        )
    return node.rng.choice(usable)


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
    # The sender is unknown, so the path shares no proxy with a route of none.
    unknown, last = Route((), node.descriptor.node_id), home_neighbour(node, profile)
    return node.routes.other_route(unknown, profile, hops=node.limits.answer_hops, last=last, avoid=avoid)
