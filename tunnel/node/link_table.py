"""A node's links by neighbour, and the way to a new stream: over a link that lives, or one dialled for it.

The table owns every link from the end of its handshake: it runs the link's services and takes the link out
when it has ended. Which link a stream takes, when to dial again after a failure and when a link is old are
decided by the policy (tunnel/link/pool.py); here they are carried out.

Under policy `pooled` links live on between messages, and those to some neighbours are opened ahead of need:
an observer of connections sees no message begin or end. Under `once` each stream has a link of its own, as
the Rust original had it: kept for comparison, since it draws the route.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from reactor import Closed, CurrentTime, Handle, Service
from tunnel.descriptor import Descriptor, short
from tunnel.errors import NextRefused, PeerError, TableFull, UnknownNext
from tunnel.geometry import Profile
from tunnel.link.mux import MuxStream
from tunnel.node.context import NodeContext
from tunnel.node.handshakes import Shaken, dial
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
        self._policy = node.pool_policy()

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
        return any(link.can_open for link in self._by_peer.get(peer_id, ()))

    # -- streams -------------------------------------------------------------------------------------

    def open_stream(self, peer_id: bytes, profile: Profile) -> Service[MuxStream]:
        """Open a stream to a neighbour, over a link that is there or is dialled for it.

        Raises:
            UnknownNext: the node is neither linked nor in the directory. NextRefused: it cannot be reached.
            TableFull: it takes no more streams.
        """
        for _ in range(_ATTEMPTS):
            link = self._choose(peer_id)
            if link is None:
                link = yield from self._dial(peer_id)
            if link.can_open:
                stream = link.open(profile)
                if self._policy.is_once:
                    link.retire()
                return stream
        raise NextRefused("the links to the next node end as soon as they begin")

    def _choose(self, peer_id: bytes) -> Link | None:
        """The link that carries the fewest streams."""
        if self._node.limits.link_policy is LinkPolicy.ONCE:
            return None
        links = [link for link in self._by_peer.get(peer_id, ()) if link.can_open]
        return min(links, key=lambda link: link.mux.streams, default=None)

    # -- dialling --------------------------------------------------------------------------------------

    def _dial(self, peer_id: bytes) -> Service[Link]:
        """A new link; those who want one to the same neighbour at the same time share it."""
        node = self._node
        peer = node.directory.lookup(peer_id)
        if peer is None:
            raise UnknownNext("the next node is neither linked nor in the directory")
        if node.limits.link_policy is LinkPolicy.ONCE:
            outcome = yield from self._connect(peer)
        else:
            handle = self._dialling.get(peer_id)
            if handle is None:
                handle = yield from node.scope.spawn(self._connect(peer), name=f"{node.name} dial")
                self._dialling[peer_id] = handle
                handle.add_done_callback(lambda _: self._dialling.pop(peer_id, None))
            outcome = yield from handle.join()
        if isinstance(outcome, NextRefused):
            # Anew for each who asked: one error raised in many services would gather their tracebacks.
            raise NextRefused(str(outcome))
        return outcome

    def _connect(self, peer: Descriptor) -> Service[Link | NextRefused]:
        """Dial, and hand over the link; a refusal is an outcome, not a failure of this service."""
        backoff = self._backoffs.get(peer.node_id)
        ...
