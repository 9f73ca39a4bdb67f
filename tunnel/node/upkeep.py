"""Upkeep of a node's onion keys and descriptor, checks of its clock, and outdated descriptors of other nodes.

The key ring (tunnel/identity/key_ring.py) decides when keys change. `rotate_keys` polls it, because wall
clocks are set, machines sleep, and a full replay table needs a new key early. A change of the wall clock
shows as a jump against the reactor's monotonic clock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from reactor import RunInThread, Service, Sleep
from reactor.errors import is_ctrl_c, log_failure
from tunnel.codes import clock_text, short
from tunnel.errors import ErrorCode, LocalTunnelError, QueryFailed
from tunnel.identity.descriptor import Descriptor
from tunnel.node.context import NodeContext
from tunnel.onion.header import CLOCK_SKEW_S

__all__ = [
    "clock_difference",
    "had_old_keys",
    "is_clock_doubtful",
    "known_descriptors",
    "publish",
    "rotate_keys",
]

log = logging.getLogger("tunnel.node")
# The clock in a handshake is rounded to the minute, and a handshake takes time itself.
_CLOCKS_DIFFER_S: Final = CLOCK_SKEW_S + 60


def rotate_keys(node: NodeContext) -> Service[None]:
    """Change the onion keys when due, publish each new descriptor, log jumps of the wall clock.

    A wall clock out of range for keys has no effect until it is corrected.
    """
    ring, ahead_s = node.codec.ring, node.wall_clock() - node.now_s()
    is_out_of_range = False
    while True:
        yield Sleep(node.limits.key_tick_s)
        now_s = node.wall_clock()
        _log_clock_jump(node, now_s, ahead_s)
        ahead_s = now_s - node.now_s()
        try:
            is_new = ring.advance(now_s)
            is_early = not is_new and ring.wants_rotation and ring.rotate_early(now_s)
        except LocalTunnelError as error:
            if not is_out_of_range:
                log.error("node %s keeps its onion keys: %s", node.name, error)
            is_out_of_range = True
            continue
        is_out_of_range = False
        if is_early:
            log.warning("node %s has a new onion key early, because a replay table was full", node.name)
        elif is_new:
            log.info("node %s has new onion keys", node.name)
        if is_new or is_early:
            publish(node)


def _log_clock_jump(node: NodeContext, now_s: float, ahead_s: float) -> None:
    """Log a jump of the wall clock.

    Args:
        ahead_s: wall clock minus the reactor's clock at the last check.
    """
    step_s = now_s - node.now_s() - ahead_s
    if abs(step_s) <= CLOCK_SKEW_S:
        return
    direction = "ahead" if step_s > 0 else "back"
    log.error(
        "node %s: this machine's clock has moved %s by %s, to %s: it was set%s. If that is wrong, other "
        "nodes refuse this node's messages",
        node.name, direction, _span_text(step_s), clock_text(now_s),
        ", or the machine slept" if step_s > 0 else "",
    )  # fmt: skip


def publish(node: NodeContext) -> None:
    """Sign a descriptor with the current onion keys and give it to the directory and the callback.

    Both may be a user's code: their errors are logged, and the node continues.
    """
    now_s, addresses = node.wall_clock(), node.descriptor.addresses
    # The highest sequence number wins, and keys may change twice within a second.
    sequence = node.codec.ring.next_sequence(now_s, node.descriptor.sequence)
    now, keys = node.descriptor, node.codec.ring.keys
    node.descriptor = keys.descriptor(
        addresses, now_s, node.engine, profiles=now.profiles, sequence=sequence, family=now.family
    )
    for publish_to in (node.directory.publish, node.on_publish):
        try:
            if publish_to is not None:
                publish_to(node.descriptor)
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            log_failure(log, error, "node %s: a new descriptor was not published", node.name)


# A node that restarts after a crash has new onion keys, and BAD_HEADER is all that it can say to a header for
# the old ones. Then this node looks for its new descriptor once, in its own sources only: a dial, or a
# question to a neighbour, would tell a hop that answers BAD_HEADER on purpose who sent the query.
_NEWS_S: Final = 0.2  # for a neighbour's descriptor, which it sends when a link begins
_LOOKS: Final = 4


def known_descriptors(node: NodeContext, node_ids: Iterable[bytes]) -> dict[bytes, Descriptor]:
    """The descriptors of these nodes, as far as they are known."""
    known = {node_id: node.directory.lookup(node_id) for node_id in node_ids}
    return {node_id: peer for node_id, peer in known.items() if peer is not None}


def had_old_keys(node: NodeContext, error: QueryFailed, used: dict[bytes, Descriptor]) -> Service[bool]:
    """Whether a frame failed because its header was sealed for keys that a hop no longer has.

    True only if a newer descriptor of that hop is known now. BAD_HEADER alone proves nothing, because the hop
    before it may have changed the header. If that hop has newer keys, neither it nor the reporting hop is at
    fault.

    Args:
        used: `known_descriptors` of the route, from before the header was sealed.
    """
    report = error.report
    if error.code is not ErrorCode.BAD_HEADER:
        return False
    # The reporting hop publishes what it likes, so its own descriptor is no evidence.
    reporting = report.route[report.hop] if report is not None and report.hop is not None else None
    suspects = [used[node_id] for node_id in error.blamed if node_id in used and node_id != reporting]
    if not suspects:
        return False
    if node.refresh is not None:
        for descriptor in (yield RunInThread(node.refresh)):
            node.directory.publish(descriptor)
    for _ in range(_LOOKS):
        for old in suspects:
            now = node.directory.lookup(old.node_id)
            # A node that restarts within a second has the same sequence number again.
            if now is not None and now.signed != old.signed and now.sequence >= old.sequence:
                log.info("node %s: node %s has new onion keys", node.name, short(old.node_id))
                return True
        yield Sleep(_NEWS_S / _LOOKS)
    return False


def clock_difference(node: NodeContext, *node_ids: bytes, own: str = "this node") -> str:
    """Describe the nodes whose clocks differ from this one's: both times and the difference.

    Args:
        own: the name of this node in the text.

    Returns:
        "" if no clock is known to be more than ten minutes off. If most neighbours differ from this node, the
        text advises to check its own clock.
    """
    now_s = node.wall_clock()
    texts = [
        f"the clock of {short(node_id)} shows {clock_text(shown_s)}, that of {own} {clock_text(now_s)}: "
        f"{_span_text(shown_s - now_s)} apart, at most 10 min are allowed"
        for node_id in dict.fromkeys(node_ids)
        if (shown_s := node.peers.clock_s(node_id)) is not None and abs(shown_s - now_s) > _CLOCKS_DIFFER_S
    ]
    if texts and is_clock_doubtful(node):
        texts.append(f"most neighbours of {own} differ from it: its own clock is probably wrong")
    return "; ".join(texts)


def is_clock_doubtful(node: NodeContext) -> bool:
    """Whether at least two neighbours have sent their clock and most of them differ from this one's."""
    now_s, clocks = node.wall_clock(), node.peers.clocks()
    different = sum(abs(shown_s - now_s) > _CLOCKS_DIFFER_S for shown_s in clocks)
    return different >= 2 and 2 * different > len(clocks)


def _span_text(span_s: float) -> str:
    """A span of time as text, without its sign: `2 h 5 min`, `3 days 1 h`."""
    minutes = round(abs(span_s) / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} {'day' if days == 1 else 'days'} {hours} h"
    return f"{hours} h {rest} min" if hours else f"{rest} min"
