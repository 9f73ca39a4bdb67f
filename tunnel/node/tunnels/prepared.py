"""Prepared tunnels: established tunnels that are opened before they are needed.

Opening a tunnel costs a key exchange with each hop and one round trip. For a node that returns to the same
destinations, such as a front for other programs, the next tunnel can be open already: its first byte leaves
without delay, and the time of opening does not reveal when there is something to send. Off by default: each
prepared tunnel costs every hop a stream, and the other end a waiting service.

A service owns each prepared tunnel until a caller takes it. An unused one is closed after ten minutes, and
discarded earlier if it has ended, its other end has closed, or a hop of its route has failed. Limits:
`prepared_tunnels` of each kind; 16 kinds, where the least recently used one goes; half of the node's queries,
which they count among. Everything runs in the reactor's thread.
Source: docs/routes.md, "Prepared tunnels".
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from reactor import Select, Service, Signal, Sleep
from tunnel.errors import TunnelError
from tunnel.geometry import Profile
from tunnel.node.tunnels.carrying import open_tunnel
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.routing.route import Purpose, Route

if TYPE_CHECKING:
    from tunnel.node.context import NodeContext

__all__ = ["PreparedTunnels", "TunnelKind"]

log = logging.getLogger("tunnel.node")
_LIFE_S: Final = 600.0
_KINDS: Final = 16


@dataclass(frozen=True, slots=True)
class TunnelKind:
    """The key of a prepared tunnel: calls with equal kinds can take each other's.

    Attributes:
        hops: as given by the caller; None: drawn by the node.
        profile: as given by the caller, or the purpose that selects one for the route.
    """

    destination: bytes
    hops: int | None
    profile: Profile | Purpose


class _Place:
    """A prepared tunnel, or one that is being opened.

    Attributes:
        tunnel: None until it is open. route: None until it is drawn.
        is_taken: a caller owns it. is_over: no longer wanted. `wake` notifies its service of both.
    """

    def __init__(self) -> None:
        self.tunnel: NodeTunnel | None = None
        self.route: Route | None = None
        self.is_taken = False
        self.is_over = False
        self.wake = Signal()

    def drop(self) -> None:
        self.is_over = True
        self.wake.set()


class PreparedTunnels:
    """The prepared tunnels of one node.

    Args:
        per_kind: number for each kind; 0: none.
        life_s: after this time an unused one is closed.
    """

    def __init__(self, node: NodeContext, per_kind: int, *, life_s: float = _LIFE_S) -> None:
        self._node = node
        self._per_kind = per_kind
        self._life_s = life_s
        self._places: OrderedDict[TunnelKind, list[_Place]] = OrderedDict()

    def __len__(self) -> int:
        """Open ones, without those that are being opened."""
        return sum(place.tunnel is not None for places in self._places.values() for place in places)

    def take(self, kind: TunnelKind) -> NodeTunnel | None:
        """Take an open tunnel, which then belongs to the caller; None: there is none."""
        places = self._places.get(kind, [])
        backed_off = set(self._node.peers.backed_off())
        for place in tuple(places):
            if place.tunnel is None or place.route is None:
                continue
            places.remove(place)
            if place.tunnel.is_as_new and not backed_off & set(place.route.nodes):
                place.is_taken = True
                place.wake.set()
                return place.tunnel
            place.drop()
        return None

    def fill(self, kind: TunnelKind, draw: Callable[[], tuple[Route, Profile]]) -> Service[None]:
        """Start to open the missing tunnels of one kind, without waiting for them.

        Args:
            draw: draws a new route and its profile at each call. Raises BadRoute, ProfileError.
        """
        if not self._per_kind:
            return
        places = self._places.setdefault(kind, [])
        self._places.move_to_end(kind)
        if len(self._places) > _KINDS:
            self._drop_oldest_kind()
        while len(places) < self._per_kind and self._has_room:
            place = _Place()
            places.append(place)
            standing = self._stand(places, place, draw)
            try:
                yield from self._node.scope.spawn(standing, name=f"{self._node.name} prepared tunnel")
            except BaseException:
                self._forget(places, place)
                place.drop()
                raise

    def close(self) -> None:
        """Start to close all, and open no more: the node is about to stop."""
        self._per_kind = 0
        while self._places:
            self._drop_oldest_kind()

    def _drop_oldest_kind(self) -> None:
        _, unused = self._places.popitem(last=False)
        for place in unused:
            place.drop()

    @property
    def _has_room(self) -> bool:
        """Whether one more leaves half of the node's queries to real use."""
        return 2 * sum(map(len, self._places.values())) + 2 <= self._node.limits.queries

    def _stand(
        self, places: list[_Place], place: _Place, draw: Callable[[], tuple[Route, Profile]]
    ) -> Service[None]:
        """Open one tunnel and own it until it is taken."""
        try:
            place.route, profile = draw()
            place.tunnel = tunnel = yield from open_tunnel(self._node, place.route, profile)
            if not place.is_over:
                yield Select(place.wake, tunnel.carrier.handle, Sleep(self._life_s))
            if not place.is_taken and not tunnel.has_ended:
                self._forget(places, place)
                yield from tunnel.close()
        except TunnelError as error:
            # The next call of this kind raises it to its caller.
            log.debug("node %s prepares no tunnel: %s", self._node.name, error)
        finally:
            self._forget(places, place)
            if place.tunnel is not None and not place.is_taken:
                place.tunnel.give_up()

    def _forget(self, places: list[_Place], place: _Place) -> None:
        if place in places:
            places.remove(place)
