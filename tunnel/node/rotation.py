"""Onion keys over time: a service that moves them on, publishes what is new and lets go of what is old.

The key ring decides (tunnel/key_ring.py); here it is asked now and then. Not at computed moments: wall clocks
are set, machines sleep, and a full replay table asks for a new key between times.
"""

from __future__ import annotations

import logging

from reactor import Service, Sleep
from tunnel.node.context import NodeContext

__all__ = ["rotate_keys"]

log = logging.getLogger("tunnel.node")


def rotate_keys(node: NodeContext) -> Service[None]:
    """Run for the node's life."""
    ring = node.tunnel.ring
    while True:
        yield Sleep(node.limits.key_tick_s)
        now_s = node.wall_clock()
        if ring.wants_rotation and ring.rotate_early(now_s):
            log.warning("node %s has a new onion key before its time: a replay table was full", node.name)
            node.publish()
        elif ring.advance(now_s):
            log.info("node %s has moved its onion keys on", node.name)
            node.publish()
