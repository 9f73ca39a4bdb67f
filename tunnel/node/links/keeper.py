"""Peer exchange over links: what a neighbour tells is taken in, and it is told in return.

Runs only where the directory is one that learns (`ExchangeDirectory`). On each link one message goes out
when it begins and then now and then, with WANT; one that came with WANT, or brought news, is answered. So two
nodes with much to tell go on until neither learns anything, and two that know the same are silent.

A neighbour cannot make this node work or grow: messages are taken in at a limited rate (the multiplexer keeps
the last one only), the table is bounded and each source has its share, and signatures of what is known
already are not verified again. What is malformed or forged ends the link. Source: docs/protocol.md, "Peer
exchange".
"""

from __future__ import annotations

import logging
import random
from functools import partial
from typing import Final

from reactor import RunInThread, Service, Signal, Sleep
from tunnel.directory import ExchangeDirectory
from tunnel.directory.exchange import ExchangeMessage
from tunnel.errors import DescriptorError, LinkError, PeerError
from tunnel.identity.descriptor import Descriptor
from tunnel.link.cells import pack_reset
from tunnel.link.mux import Multiplexer
from tunnel.node.context import NodeContext
from tunnel.node.limits import LinkPolicy
from tunnel.node.waits import run_with_guards

__all__ = ["exchange_with", "keep_links", "seek_peers"]

log = logging.getLogger("tunnel.node")
_RANDOM: Final = random.SystemRandom()
# Draws are random: so many answers without news say that there is hardly any left.
_PATIENCE: Final = 3


def exchange_with(node: NodeContext, peer: Descriptor, host: str, mux: Multiplexer[Signal]) -> Service[None]:
    """Exchange peers over one link, for its life.

    Args:
        host: where the link came from; empty when this node dialled.
    Raises:
        LinkError: the neighbour sent what no node sends; it has been told.
    """
    directory = node.directory
    if not isinstance(directory, ExchangeDirectory) or node.limits.link_policy is LinkPolicy.ONCE:
        return
    directory.saw(peer, own_id=node.descriptor.node_id, now_s=node.wall_clock())
    exchange = _Exchange(node, directory, peer.node_id, node.rules.source(peer, host), mux)
    try:
        yield from run_with_guards(exchange.listen(), exchange.tell())
    except LinkError as error:
        mux.fail(error)
        mux.sender.stop(pack_reset(0, error.code))
        raise
    finally:
        directory.lost(peer.node_id)


class _Exchange:
    """Peer exchange on one link."""

    def __init__(
        self,
        node: NodeContext,
        directory: ExchangeDirectory,
        peer_id: bytes,
        source: bytes,
        mux: Multiplexer[Signal],
    ) -> None:
        self._node = node
        self._directory = directory
        self._peer_id = peer_id
        self._source = source
        self._mux = mux
        self._patience = _PATIENCE

    def tell(self) -> Service[None]:
        """At once, and now and then."""
        while True:
            self._send(wants_more=True)
            yield Sleep(self._node.limits.exchange_s * _RANDOM.uniform(0.5, 1.5))

    def listen(self) -> Service[None]:
        """Take in what comes; ends with the link."""
        while self._mux.error is None:
            yield self._mux.exchange
            payload = self._mux.take_exchange()
            if payload is None:
                continue
            message = ExchangeMessage.parse(payload)
            news = yield from self._learn(message)
            self._patience = _PATIENCE if news else self._patience - 1
            is_hungry = self._patience > 0
            if message.wants_more or news:
                self._send(wants_more=is_hungry)
            yield Sleep(self._node.limits.exchange_min_s)

    def _learn(self, message: ExchangeMessage) -> Service[int]:
        # In a thread: eight signatures take pycryptodome some tens of milliseconds.
        learn = partial(
            self._directory.learn,
            message.descriptors,
            source=self._source,
            own_id=self._node.descriptor.node_id,
            now_s=self._node.wall_clock(),
        )
        try:
            news: int = yield RunInThread(learn)
        except DescriptorError as error:
            raise LinkError(f"PEER-EXCHANGE with a bad descriptor: {error}") from error
        return news

    def _send(self, *, wants_more: bool) -> None:
        offered = self._directory.offer(
            self._node.descriptor, to=self._peer_id, now_s=self._node.wall_clock()
        )
        # Not taken when the last one has not left: the next will do as well.
        self._mux.send_exchange(ExchangeMessage(offered, wants_more).to_bytes())


def seek_peers(node: NodeContext) -> Service[None]:
    """See that there is a link over which peers can be learned; run for the node's life.

    A node that keeps links ahead has some; one that does not dials a peer of its directory at random when it
    has no link at all.
    """
    directory = node.directory
    if not isinstance(directory, ExchangeDirectory):
        return
    while True:
        directory.expire(node.wall_clock())
        others = [peer for peer in directory.sample() if peer.node_id != node.descriptor.node_id]
        if not len(node.links) and others:
            try:
                yield from node.links.dial(_RANDOM.choice(others).node_id)
            except PeerError as error:
                log.debug("node %s found nobody to exchange peers with: %s", node.name, error)
        yield Sleep(node.limits.link_tick_s)


# Keeps links to some neighbours, whether there are messages or not, and ends those that are due.
#
# Which neighbours is drawn once, with the operating system's generator, and again only for those that leave
# the directory: a choice that followed the messages would tell of them. Of two nodes that want each other
# the one with the smaller id dials first.
# So many ticks the node of the larger id leaves the dialling to the other.
_PATIENCE_TICKS: Final = 2


def keep_links(node: NodeContext) -> Service[None]:
    """Run for the node's life."""
    wanted: dict[bytes, int] = {}
    while True:
        # First, so that one that is old is replaced at once, and not when a message wants it.
        node.links.retire_due()
        _choose(node, wanted)
        for peer_id, ticks in wanted.items():
            if node.links.is_leaving:
                return
            pool = node.links.pool(peer_id)
            pool.is_wanted = True
            # A node without an address waits for nobody: it cannot be dialled.
            is_first = node.descriptor.node_id < peer_id or not node.descriptor.addresses
            if (is_first or ticks >= _PATIENCE_TICKS) and pool.wants_dial(node.now_s()):
                yield from node.scope.spawn(_dial(node, peer_id), name=f"{node.name} keep")
            wanted[peer_id] = ticks + 1
        yield Sleep(node.limits.link_tick_s)


def _choose(node: NodeContext, wanted: dict[bytes, int]) -> None:
    """Fill the places that are free with nodes of the directory that can be dialled."""
    reachable = {
        peer.node_id
        for peer in node.directory.sample()
        if peer.addresses and not peer.unlisted and peer.node_id != node.descriptor.node_id
    }
    for peer_id in wanted.keys() - reachable:
        del wanted[peer_id]
        node.links.pool(peer_id).is_wanted = False
    free = sorted(reachable - wanted.keys())
    count = min(len(free), node.limits.links_ahead - len(wanted))
    for peer_id in _RANDOM.sample(free, max(count, 0)):
        wanted[peer_id] = 0


def _dial(node: NodeContext, peer_id: bytes) -> Service[None]:
    try:
        yield from node.links.dial(peer_id)
    except PeerError as error:
        # Tried again later, by the pool's own patience.
        log.debug("node %s keeps no link yet: %s", node.name, error)
