"""A node's links by neighbour; opens streams over existing links or dials new ones.

The table owns every link from the end of its handshake: it runs the link's services and removes the link when
it has ended. The neighbour's pool (tunnel/link/neighbour_pool.py) decides which link a stream takes,
when to dial again after a failure, and when a link is too old; the table carries that out.

Under policy `pooled` links outlive messages, and links to some neighbours are kept without any messages
(keeper.py): an observer of connections cannot see a message begin or end. Under `once` each stream has its
own link, as in the Rust original; this policy is kept for comparison, since it reveals the route.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from reactor import Handle, Service, Sleep
from tunnel.codes import short
from tunnel.directory import ExchangeDirectory
from tunnel.errors import ErrorCode, NextRefused, PeerError, TableFull
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.link.neighbour_pool import NeighbourPool
from tunnel.link.places import choose_loser, contested
from tunnel.node.context import NodeContext, Stream
from tunnel.node.limits import LinkPolicy
from tunnel.node.links.link import Link, Serve
from tunnel.node.links.link_setup import HandshakeResult, dial
from tunnel.node.links.puzzles import DialPuzzles, PuzzleRefused, PuzzleSolver
from tunnel.node.upkeep import clock_difference, is_clock_doubtful

__all__ = ["LinkTable"]

log = logging.getLogger("tunnel.node")

Refusal: TypeAlias = NextRefused | TableFull | None
"""Why dialling failed; None: it succeeded."""

_ATTEMPTS: Final = 3  # a link just dialled may already be ending
# After its first failure a peer is dialled again within half a second. Frames of this node itself wait for
# that, because the nodes of a network that starts come up one after the other.
_SHORT_WAIT_S: Final = 0.5


class LinkTable:
    """All links of a node.

    Args:
        serve: called with each stream that a neighbour opens, in a separate service.
    Attributes:
        is_leaving: the node is about to stop, so every link ends with its last stream.
    """

    def __init__(self, node: NodeContext, serve: Serve) -> None:
        self._node = node
        self._serve = serve
        self.pools: dict[bytes, NeighbourPool[Link]] = {}  # by neighbour
        self.dials: dict[bytes, Handle[Refusal]] = {}  # in progress, by neighbour
        self._own_dials: set[bytes] = set()  # dials for which a frame of this node itself waits
        self._solver = PuzzleSolver()
        self._is_once = node.limits.link_policy is LinkPolicy.ONCE
        self.is_leaving = False

    def __iter__(self) -> Iterator[Link]:
        for pool in self.pools.values():
            yield from pool.links

    def __len__(self) -> int:
        """Number of live links."""
        return sum(len(pool.links) for pool in self.pools.values())

    @property
    def streams(self) -> int:
        """Number of open streams on all links."""
        return sum(link.streams for link in self)

    @property
    def dialling(self) -> int:
        """Number of dials in progress."""
        return sum(pool.dialling for pool in self.pools.values())

    @property
    def linked(self) -> list[bytes]:
        """Ids of the neighbours to which a stream can be opened without dialling."""
        return [
            peer_id for peer_id, pool in list(self.pools.items()) if any(link.can_open for link in pool.links)
        ]

    def take_turn(self, peer_id: bytes) -> Service[None]:
        """Wait for a turn to open a header of this neighbour that came later than its OPEN."""
        pool = self.pools.get(peer_id)
        for link in pool.links[:1] if pool is not None else ():
            yield from link.take_turn()

    def charge(self, peer_id: bytes) -> None:
        """A header of this neighbour was garbage: see tunnel/link/turns.py."""
        pool = self.pools.get(peer_id)
        for link in pool.links[:1] if pool is not None else ():
            self._node.turns.charge(link.source, peer_id, weight=link.weight)

    def payer(self, peer_id: bytes) -> bytes:
        """The owner of the share of the replay table that a neighbour's headers use.

        A known neighbour uses its own share. Any other neighbour uses the share of its network, because ids
        are free. In a local network all neighbours may come from one address.
        """
        pool = self.pools.get(peer_id)
        strange = [link.source for link in pool.links if link.weight == 1] if pool is not None else []
        return strange[0] if strange and not self._node.is_local else peer_id

    # -- streams -------------------------------------------------------------------------------------

    def open_stream(self, peer_id: bytes, profile: Profile, *, is_own: bool = False) -> Service[Stream]:
        """Open a stream to a neighbour; dial first if no link to it is open.

        Args:
            is_own: the stream is for a frame of this node itself, not of another sender.
        Raises:
            PeerError (UNKNOWN_NEXT): the node is neither linked nor in the directory.
            NextRefused: it cannot be reached.
            TableFull: the neighbour or this node accepts no more streams or links.
        """
        for _ in range(_ATTEMPTS):
            pool = self.pools.get(peer_id)
            link = pool.choose() if pool is not None else None
            if link is None:
                link = yield from self._dial_or_share(peer_id, is_own=is_own)
            if link is not None:
                stream = link.open(profile)
                if self._is_once or self.is_leaving:
                    link.retire()
                return stream
        raise NextRefused("the links to it end as soon as they begin")

    def _dial_or_share(self, peer_id: bytes, *, is_own: bool) -> Service[Link | None]:
        """Dial; if that fails, return a crowded link, or raise as `dial`."""
        try:
            yield from self.dial(peer_id, is_own=is_own)
        except PeerError:
            pool = self.pools.get(peer_id)
            link = pool.choose(with_crowded=True) if pool is not None else None
            if link is None:
                raise
            return link
        return None

    # -- dialling --------------------------------------------------------------------------------------

    def dial(self, peer_id: bytes, *, is_own: bool = False) -> Service[None]:
        """Make a new link; services that want one to the same neighbour at the same time share the dial.

        Args:
            is_own: as for `open_stream`; only then is a puzzle solved.
        Raises:
            PeerError (UNKNOWN_NEXT), NextRefused, TableFull: as for `open_stream`.
        """
        node = self._node
        peer = node.directory.lookup(peer_id)
        if peer is None:
            raise PeerError("the next node is neither linked nor in the directory", ErrorCode.UNKNOWN_NEXT)
        if self._is_once:
            outcome = yield from self._connect(peer, lambda: is_own)
        else:
            outcome = yield from self._connect_shared(peer, is_own)
        if outcome is not None:
            # A new error for each caller: one error raised in many services would collect their tracebacks.
            raise type(outcome)(str(outcome))

    def probe(self, peer: Descriptor) -> Service[None]:
        """Dial a hearsay node, to find out whether it exists.

        The first message on the link shows whether the node itself answers (link.py). If so, the link stays
        until it has been idle, like others. A link that the other side has dialled does not replace this
        dial, because it proves no address. No puzzle is solved, because strangers decide what a node hears.
        """
        if not self.pool(peer.node_id).dialling:
            yield from self._connect(peer, lambda: False)

    def _connect_shared(self, peer: Descriptor, is_own: bool) -> Service[Refusal]:
        handle = self.dials.get(peer.node_id)
        if handle is not None and is_own:
            self._own_dials.add(peer.node_id)
        if handle is None:
            now_s, pool = self._node.now_s(), self.pool(peer.node_id)
            if not is_own and now_s < pool.puzzle_until_s:
                raise PuzzleRefused(
                    "it has asked for a puzzle, which this node solves for its own frames only"
                )
            wait_s = pool.retry_s - now_s
            if is_own and pool.can_dial and 0 < wait_s <= _SHORT_WAIT_S:
                yield Sleep(wait_s)
                return (yield from self._connect_shared(peer, is_own))
            if not pool.wants_dial(now_s, waiting=1):
                why = pool.failure or "it could not be reached"
                raise NextRefused(f"{why}; next try in {max(wait_s, 0):.1f} s")
            connect = self._connect(peer, lambda: peer.node_id in self._own_dials)
            handle = yield from self._node.scope.spawn(connect, name=f"{self._node.name} dial")
            self.dials[peer.node_id] = handle
            if is_own:
                self._own_dials.add(peer.node_id)
            handle.add_done_callback(lambda _: self._dial_ended(peer.node_id))
        return (yield from handle.join())

    def _dial_ended(self, peer_id: bytes) -> None:
        self.dials.pop(peer_id, None)
        self._own_dials.discard(peer_id)

    def _connect(self, peer: Descriptor, is_own: Callable[[], bool]) -> Service[Refusal]:
        """Dial and run the link. A refusal is returned, not raised: several services may wait for it."""
        node, pool = self._node, self.pool(peer.node_id)
        # Asked before the dial: what is only heard of may be forgotten while it lasts.
        is_hearsay = self._is_hearsay(peer.node_id)
        try:
            self._find_room(is_own=is_own(), is_dialled=True)
        except TableFull as error:
            return error
        pool.dial_begins()
        try:
            result = yield from self._dial(peer, is_own, is_hearsay=is_hearsay)
        except PuzzleRefused as error:
            # The peer is there, so only strangers' frames have to wait.
            pool.puzzle_refused(node.now_s())
            node.counters.dials_failed += 1
            return error
        except BaseException as error:
            pool.dial_fails(node.now_s())
            if isinstance(error, NextRefused):
                pool.failure = str(error)
                if not is_hearsay:
                    node.peers.failed(peer.node_id)
                node.counters.dials_failed += 1
                return error
            raise
        try:
            yield from self.adopt(result, is_own=is_own())
        except TableFull as error:
            return error
        return None

    def _dial(
        self, peer: Descriptor, is_own: Callable[[], bool], *, is_hearsay: bool
    ) -> Service[HandshakeResult]:
        """Dial. On behalf of a stranger, every failure takes as long as the longest one.

        A stranger can name any address that the rules allow, and make this node dial it. Otherwise the time
        of the failure would show him whether that port is open, closed or filtered.
        """
        node, began_s = self._node, self._node.now_s()
        try:
            return (yield from dial(node, peer, DialPuzzles(self._solver, is_own)))
        except NextRefused:
            if not is_own() and is_hearsay:
                ends_s = began_s + node.limits.dial_s * len(node.rules.dialable(peer.addresses))
                yield Sleep(max(0.0, ends_s - node.now_s()))
            raise

    def _is_hearsay(self, peer_id: bytes) -> bool:
        """Whether the node may be invented. Its failures are then not recorded: strangers choose the
        announcements and frames that cause them, and could displace known peers from the peer table."""
        directory = self._node.directory
        return isinstance(directory, ExchangeDirectory) and directory.is_hearsay(peer_id)

    # -- links -----------------------------------------------------------------------------------------

    def pool(self, peer_id: bytes) -> NeighbourPool[Link]:
        """The links of one neighbour. Neighbours are in the directory, or have completed a handshake."""
        pool = self.pools.get(peer_id)
        if pool is None:
            policy, own_id = self._node.limits.pool_policy, self._node.descriptor.node_id
            pool = NeighbourPool(policy, own_id=own_id, peer_id=peer_id, rng=self._node.rng)
            self.pools[peer_id] = pool
        return pool

    def adopt(self, result: HandshakeResult, *, is_own: bool = False) -> Service[None]:
        """Run a link after its handshake, in a separate service.

        Args:
            is_own: this node dialled it for a frame of its own.
        Raises:
            TableFull: all links of this node are in use.
        On error or cancellation: the socket is closed.
        """
        node, peer_id = self._node, result.peer.node_id
        pool = self.pool(peer_id)
        try:
            loser = self._find_room(is_own=is_own, is_dialled=result.is_dialler)
        except TableFull:
            if result.is_dialler:
                pool.dial_fails(node.now_s())
            result.socket.close()
            raise
        if loser is not None:
            (loser.give_way if loser.streams else loser.retire)()
        link = Link(node, result, self._serve, is_own=is_own)
        link.known_since_s = min([link.known_since_s, *(each.known_since_s for each in pool.links)])
        _tell_directory(node, link)
        if result.is_dialler:
            node.counters.links_dialled += 1
        else:
            node.counters.links_accepted += 1
        pool.can_dial = bool(result.peer.addresses)
        pool.add(link, node.now_s(), is_dialler=result.is_dialler)
        try:
            link.handle = yield from node.scope.spawn(self._run(link), name=f"{node.name} link")
        except BaseException:
            # Cancelled here, or the node is closing: no service has taken the link.
            pool.remove(link, node.now_s())
            result.socket.close()
            raise
        if self.is_leaving and not result.is_dialler:
            link.retire()
        node.peers.seen(peer_id)
        node.peers.saw_clock(peer_id, result.settings.clock_s)
        if difference := clock_difference(node, peer_id):
            own = " (this node's own is probably wrong)" if is_clock_doubtful(node) else ""
            node.log_limit.warning("met a neighbour", f"its clock differs from this one's{own}")
            log.debug("node %s: %s", node.name, difference)
        self.retire(peer_id)

    def retire(self, peer_id: bytes) -> None:
        """Send GOAWAY on the links of a neighbour that are due; delete its pool when it is of no use."""
        pool, now_s = self.pools[peer_id], self._node.now_s()
        for link in pool.retire(now_s):
            link.retire()
        waits = now_s < max(pool.retry_s, pool.puzzle_until_s)
        if not (pool.links or pool.dialling or pool.is_wanted or waits):
            del self.pools[peer_id]

    def retire_due(self) -> None:
        """Retire due links of all neighbours; called regularly by the keeper."""
        for peer_id in list(self.pools):
            self.retire(peer_id)

    def leave(self) -> None:
        """Send GOAWAY on all links: they end with their last stream. Dialling stays possible for frames that
        are still being relayed."""
        self.is_leaving = True
        for link in self:
            link.retire()

    @property
    def is_crowded(self) -> bool:
        """Whether links that are ending exceed the limit by `half_open`: then nothing may begin."""
        limits = self._node.limits
        return len(self) >= limits.links + limits.half_open

    def _find_room(self, *, is_own: bool, is_dialled: bool) -> Link | None:
        """The link that makes room for a new one, see tunnel/link/places.py. None: a place is free.

        Nothing is closed yet: a peer without a proven identity must not be able to end the links of others.

        Args:
            is_own, is_dialled: the new link is dialled, and for this node itself. A dial for another sender's
                frame ends no busy link. Only a dial for this node itself ends idle links with reserved
                places.
        Raises:
            TableFull: all links are in use.
        """
        node, limit = self._node, self._node.limits.links
        live = [link for link in self if not link.is_retired]
        if len(live) < limit and not self.is_crowded:
            return None
        losers = contested(live, limit, node.now_s())
        if is_own:
            losers = losers or live
        if is_dialled:
            losers = [link for link in losers if not link.streams]
        if not losers or self.is_crowded:
            raise TableFull(f"all {limit} links of this node are in use")
        return choose_loser(losers, node.rng)

    def _run(self, link: Link) -> Service[None]:
        node = self._node
        try:
            yield from link.run()
        except PeerError as error:
            node.log_limit.warning("lost a link", f"{type(error).__name__}: {error}")
            log.debug("node %s: that link was to %s", node.name, short(link.peer.node_id))
            node.peers.failed(link.peer.node_id)
            node.counters.links_lost += 1
        finally:
            self.pools[link.peer.node_id].remove(link, node.now_s())
            self.retire(link.peer.node_id)


def _tell_directory(node: NodeContext, link: Link) -> None:
    """Tell a directory that learns from neighbours about a handshake."""
    directory, own_id, now_s = node.directory, node.descriptor.node_id, node.wall_clock()
    if not isinstance(directory, ExchangeDirectory):
        return
    if not link.is_dialler:
        directory.presented(link.peer, source=link.source, own_id=own_id, now_s=now_s)
    elif directory.owns_key(link.peer):
        # Otherwise the first message shows it; but when both sides dialled, one of the two links may end
        # before.
        directory.reached(link.peer, str(link.socket.peername[0]), own_id=own_id, now_s=now_s)
