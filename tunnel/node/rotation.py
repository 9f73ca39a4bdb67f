"""Onion keys over time: a service that moves them on, publishes what is new and lets go of what is old.

The key ring decides (tunnel/key_ring.py); here it is asked now and then. Not at computed moments: wall clocks
are set, machines sleep, and a full replay table asks for a new key between times. Whether the wall clock was
set is seen by the reactor's, which nobody sets.
"""

from __future__ import annotations

import logging

from reactor import Service, Sleep
from tunnel.node.context import NodeContext, span_text
from tunnel.onion.expiry import CLOCK_SKEW_S, clock_text

__all__ = ["rotate_keys"]

log = logging.getLogger("tunnel.node")


def rotate_keys(node: NodeContext) -> Service[None]:
    """Run for the node's life."""
    ring, ahead_s = node.tunnel.ring, node.wall_clock() - node.now_s()
    while True:
        yield Sleep(node.limits.key_tick_s)
        now_s = node.wall_clock()
        _look_at_clock(node, now_s, ahead_s)
        ahead_s = now_s - node.now_s()
        if ring.wants_rotation and ring.rotate_early(now_s):
            log.warning("node %s has a new onion key before its time: a replay table was full", node.name)
            node.publish()
        elif ring.advance(now_s):
            log.info("node %s has moved its onion keys on", node.name)
            node.publish()


def _look_at_clock(node: NodeContext, now_s: float, ahead_s: float) -> None:
    """Log where the wall clock has moved otherwise than time has passed.

    Args:
        ahead_s: of the wall clock before the reactor's, when they were looked at last.
    """
    step_s = now_s - node.now_s() - ahead_s
    if abs(step_s) <= CLOCK_SKEW_S:
        return
    way = "ahead" if step_s > 0 else "back"
    log.error(
        "node %s: this machine's clock has moved %s by %s, to %s: it was set%s. Where that is wrong, other "
        "nodes refuse what this one sends",
        node.name, way, span_text(step_s), clock_text(now_s), ", or the machine slept" if step_s > 0 else "",
    )  # fmt: skip
