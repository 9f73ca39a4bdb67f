"""Keeps links to some neighbours, whether there are messages or not, and ends those that are due.

Which neighbours is drawn once, with the operating system's generator, and again only for those that leave the
directory: a choice that followed the messages would tell of them. Of two nodes that want each other the one
with the smaller id dials first.
"""

from __future__ import annotations

import logging
import random
from typing import Final

from reactor import Service, Sleep
from tunnel.errors import PeerError
from tunnel.node.context import NodeContext

__all__ = ["keep_links"]

log = logging.getLogger("tunnel.node")

_RANDOM: Final = random.SystemRandom()
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
