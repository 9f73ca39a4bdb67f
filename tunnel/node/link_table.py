"""A node's links by neighbour, and the way to a new stream: over a link that lives, or one dialled for it.

The table owns every link from the end of its handshake: it runs the link's services and takes the link out
when it has ended.

Under policy `pooled` links live on between messages, and those to some neighbours are opened ahead of need:
an observer of connections sees no message begin or end. Under `once` each stream has a link of its own, as
the Rust original had it: kept for comparison, since it draws the route.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from reactor import Handle, Service
from tunnel.descriptor import Descriptor, short
from tunnel.errors import NextRefused, PeerError, UnknownNext
from tunnel.geometry import Profile
from tunnel.node.context import NodeContext, Stream
from tunnel.node.handshakes import Shaken, dial
from tunnel.node.limits import LinkPolicy
from tunnel.node.link import Link, Serve

__all__ = ["LinkTable"]

log = logging.getLogger("tunnel.node")

# A link that was there a moment ago may be leaving: so often another one is looked for.
_ATTEMPTS: Final = 3


class LinkTable:
    """All links of a node.

    Args:
        serve: gets each stream that a neighbour opens.
    """

    def __init__(self, node: NodeContext, serve: Serve) -> None:
        self._node = node
        self._serve = serve
        self._by_peer: dict[bytes, list[Link]] = {}
        self._dialling: dict[bytes, Handle[Link | NextRefused]] = {}
        self._is_once = node.limits.link_policy is LinkPolicy.ONCE

    def __iter__(self) -> Iterator[Link]:
        for links in self._by_peer.values():
            yield from links

    def __len__(self) -> int:
        """Links that live."""
        return sum(map(len, self._by_peer.values()))

    @property
    def streams(self) -> int:
        """Streams that are open, on all links."""
        return sum(link.mux.streams for link in self)

    @property
    def dialling(self) -> int:
        """Attempts under way."""
        return len(self._dialling)

    def is_linked(self, peer_id: bytes) -> bool:
        """Whether a new stream to this neighbour needs no dialling."""
        return self._choose(peer_id) is not None

    # -- streams -------------------------------------------------------------------------------------

    def open_stream(self, peer_id: bytes, profile: Profile) -> Service[Stream]:
        """Open a stream to a neighbour, over a link that is there or is dialled for it.

        Raises:
            UnknownNext: the node is neither linked nor in the directory. NextRefused: it cannot be reached.
            TableFull: it takes no more streams.
        """
        for _ in range(_ATTEMPTS):
            link = None if self._is_once else self._choose(peer_id)
            if link is None:
                link = yield from self.dial(peer_id)
            if link.can_open:
                stream = link.open(profile)
                if self._is_once:
                    link.retire()
                return stream
        raise NextRefused("the links to the next node end as soon as they begin")

    def _choose(self, peer_id: bytes) -> Link | None:
        """The link that carries the fewest streams."""
        links = [link for link in self._by_peer.get(peer_id, ()) if link.can_open]
        return min(links, key=lambda link: link.mux.streams, default=None)

    # -- links -----------------------------------------------------------------------------------------

    def dial(self, peer_id: bytes) -> Service[Link]:
        """A new link; those who want one to the same neighbour at the same time share it.

        Raises:
            UnknownNext, NextRefused: as for `open_stream`.
        """
        peer = self._node.directory.lookup(peer_id)
        if peer is None:
            raise UnknownNext("the next node is neither linked nor in the directory")
        if self._is_once:
            outcome = yield from self._connect(peer)
        else:
            outcome = yield from self._connect_shared(peer)
        if isinstance(outcome, NextRefused):
            # Anew for each who asked: one error raised in many services would gather their tracebacks.
            raise NextRefused(str(outcome))
        return outcome

    def _connect_shared(self, peer: Descriptor) -> Service[Link | NextRefused]:
        handle = self._dialling.get(peer.node_id)
        if handle is None:
            handle = yield from self._node.scope.spawn(self._connect(peer), name=f"{self._node.name} dial")
            self._dialling[peer.node_id] = handle
            handle.add_done_callback(lambda _: self._dialling.pop(peer.node_id, None))
        return (yield from handle.join())

    def _connect(self, peer: Descriptor) -> Service[Link | NextRefused]:
        """Dial, and run the link. A refusal is an outcome here: it is no failure of this service."""
        try:
            shaken = yield from dial(self._node, peer)
        except NextRefused as error:
            return error
        return (yield from self.adopt(shaken))

    def adopt(self, shaken: Shaken) -> Service[Link]:
        """Run a link from the end of its handshake on, in a service of its own."""
        node = self._node
        link = Link(node, shaken, self._serve)
        links = self._by_peer.setdefault(shaken.peer.node_id, [])
        links.append(link)
        try:
            yield from node.scope.spawn(self._run(link), name=f"{node.name} link")
        except BaseException:
            # Cancelled just here, or the node is being closed: nobody has taken the link.
            self._forget(link)
            shaken.socket.close()
            raise
        if not self._is_once:
            self._retire_twin(links)
        return link

    def _retire_twin(self, links: list[Link]) -> None:
        """Of two links dialled at once, one by each side, the one of the smaller node id stays.

        Both sides come to the same choice. The other link carries the streams that it has to their end.
        """
        dialled = [link for link in links if link.is_dialler and not link.is_retired]
        accepted = [link for link in links if not link.is_dialler and not link.is_retired]
        if dialled and accepted:
            ours_stay = self._node.descriptor.node_id < links[0].peer.node_id
            for link in accepted if ours_stay else dialled:
                link.retire()

    def _run(self, link: Link) -> Service[None]:
        node = self._node
        try:
            yield from link.run()
        except PeerError as error:
            log.warning("node %s lost a link: %s: %s", node.name, type(error).__name__, error)
            log.debug("node %s: that link was to %s", node.name, short(link.peer.node_id))
        finally:
            self._forget(link)

    def _forget(self, link: Link) -> None:
        peer_id = link.peer.node_id
        links = self._by_peer[peer_id]
        links.remove(link)
        if not links:
            del self._by_peer[peer_id]
