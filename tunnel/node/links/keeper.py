"""Four services that manage a node's links while it runs: listener, keeper, seeker, giver of turns.

`listen_service` accepts connections within the node's limits. `keep_links` keeps `Limits.links_ahead` links
open even without messages, so that an observer of connections cannot see when messages begin. It also ends
links that are too old. `seek_peers` finds a link over which the node can learn of peers, and dials the peers
that it learns of.

The keeper draws its neighbours once, from the operating system's generator, and replaces only neighbours that
leave the directory. A choice that depended on messages would reveal them.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from reactor import Handle, Service, Sleep
from reactor.errors import is_ctrl_c, log_failure
from tunnel.directory import ExchangeDirectory
from tunnel.errors import HandshakeError, PeerError, TableFull
from tunnel.link.newcomers import Newcomer
from tunnel.node.context import Connection, Listener, NodeContext
from tunnel.node.limits import LinkPolicy
from tunnel.node.links.link_setup import accept_handshake
from tunnel.node.links.link_table import LinkTable
from tunnel.routing.addresses import host_group

__all__ = ["give_turns", "keep_links", "listen_service", "seek_peers"]

log = logging.getLogger("tunnel.node")
# Turns are given together for this time: a tenth of the longest delay that anybody would notice.
_TURNS_S: Final = 0.002
# Ticks for which the node with the larger id leaves dialling to the other one.
_PATIENCE_TICKS: Final = 2
# Nodes only heard of that are dialled at once; later one every `Limits.probe_s`.
_FIRST_PROBES: Final = 32
_SEEK_S: Final = 0.5  # between two looks for such nodes


def listen_service(node: NodeContext, links: LinkTable, listener: Listener) -> Service[None]:
    """Accept connections. One above the limit of its host, or of all links, is closed immediately; above the
    limit of unfinished handshakes another one makes room. Existing links are unaffected."""
    while True:
        socket = yield from listener.accept()
        host = str(socket.peername[0])
        if (reason := _refusal(node, links, host)) is not None:
            _count_refused(node, reason)
            socket.close()
            continue
        newcomer = Newcomer(host_group(host), node.rules.network(host), socket.close)
        # Counted here, not in the new service: many are accepted before the first of their services runs.
        loser = node.newcomers.add(newcomer)
        if loser is not None:
            loser.end()
        try:
            handle = yield from node.scope.spawn(
                _admit(node, links, socket, newcomer), name=f"{node.name} accept"
            )
        except BaseException:
            # Cancelled here: no service has taken the connection.
            node.newcomers.remove(newcomer)
            socket.close()
            raise
        newcomer.end = partial(_make_way, node, handle)


def _refusal(node: NodeContext, links: LinkTable, host: str) -> str | None:
    """The reason to refuse a connection from this host; None: it is accepted."""
    limit = node.limits.links_per_address
    if not node.is_local:
        own = host_group(host)
        held = sum(each.address == own for each in node.newcomers)
        held += sum(bool(link.host) and host_group(link.host) == own for link in links)
        if held >= limit:
            return f"{held} are open from its address (limit {limit})"
    # The handshake decides about a place: only then is the newcomer known.
    if links.is_crowded:
        return "too many links of this node are ending"
    return None


def _count_refused(node: NodeContext, reason: str) -> None:
    node.log_limit.warning("refused a connection", reason)
    node.counters.connections_refused += 1


def _make_way(node: NodeContext, handle: Handle[None]) -> None:
    """End a connection that has lost its place.

    Its service closes it: it may be about to run, and would take a connection that was closed under it for a
    fault of this node.
    """
    handle.cancel()
    _count_refused(node, f"{node.half_open} are without handshake, and a newer one took its place")


def _admit(node: NodeContext, links: LinkTable, socket: Connection, newcomer: Newcomer) -> Service[None]:
    try:
        result = yield from accept_handshake(node, socket, newcomer)
        yield from links.adopt(result)
    except (HandshakeError, PeerError) as error:
        node.log_limit.warning("refused a connection", f"{type(error).__name__}: {error}")
        if isinstance(error, TableFull):
            node.counters.connections_refused += 1
        else:
            node.counters.handshakes_failed += 1
        socket.close()
    except BaseException:
        socket.close()
        raise
    finally:
        node.newcomers.remove(newcomer)


def keep_links(node: NodeContext, links: LinkTable) -> Service[None]:
    """Keep links to some neighbours, and retire links that are due.

    Of two nodes that want each other, the one with the smaller id dials first.
    """
    wanted: dict[bytes, int] = {}  # ticks since each was chosen
    while True:
        # First, so that an old link is replaced now and not when a message needs it.
        links.retire_due()
        node.log_limit.tell()
        try:
            _choose(node, links, wanted)
        except BaseException as error:  # the directory may be a user's code
            if is_ctrl_c(error):
                raise
            log_failure(log, error, "node %s: its directory gave no peers", node.name)
        for peer_id, ticks in wanted.items():
            if links.is_leaving:
                return
            pool = links.pool(peer_id)
            pool.is_wanted = True
            # A node without an address cannot be dialled, so it does not wait to be.
            is_first = node.descriptor.node_id < peer_id or not node.descriptor.addresses
            if (is_first or ticks >= _PATIENCE_TICKS) and pool.wants_dial(node.now_s()):
                yield from node.scope.spawn(_dial(node, links, peer_id), name=f"{node.name} keep")
            wanted[peer_id] = ticks + 1
        yield Sleep(node.limits.link_tick_s)


def _choose(node: NodeContext, links: LinkTable, wanted: dict[bytes, int]) -> None:
    """Fill free places with nodes of the directory that can be dialled."""
    reachable = {
        peer.node_id
        for peer in node.directory.sample()
        if peer.addresses and not peer.unlisted and peer.node_id != node.descriptor.node_id
    }
    for peer_id in wanted.keys() - reachable:
        del wanted[peer_id]
        links.pool(peer_id).is_wanted = False
    directory = node.directory
    crowd = directory.crowd(wanted) if isinstance(directory, ExchangeDirectory) else frozenset()
    free = sorted(reachable - wanted.keys() - crowd)
    count = min(len(free), node.limits.links_ahead - len(wanted))
    for peer_id in node.rng.sample(free, max(count, 0)):
        wanted[peer_id] = 0


def _dial(node: NodeContext, links: LinkTable, peer_id: bytes) -> Service[None]:
    try:
        yield from links.dial(peer_id, is_own=True)
    except PeerError as error:
        # Retried later, after the pool's back-off.
        log.debug("node %s keeps no link yet: %s", node.name, error)


def give_turns(node: NodeContext) -> Service[None]:
    """Give the links that wait their turns to serve a stream, at the rate of `HeaderTurns`."""
    while True:
        wait_s = node.turns.give(node.now_s())
        if wait_s is None:
            yield node.turn_wanted
        else:
            yield Sleep(max(wait_s, _TURNS_S))


def seek_peers(node: NodeContext, links: LinkTable) -> Service[None]:
    """Find out which nodes exist, for a directory that learns from others.

    Whenever this node has no link, it dials a known node to learn of others. It dials hearsay nodes at a
    bounded rate, several of them soon after the start, since a newcomer knows few nodes. Neither the times
    nor the choice depend on this node's messages.
    """
    directory, limits = node.directory, node.limits
    if not isinstance(directory, ExchangeDirectory) or limits.link_policy is LinkPolicy.ONCE:
        return  # under `once` neighbours exchange nothing
    allowed, looked_s = float(_FIRST_PROBES), node.now_s()
    while not links.is_leaving:
        directory.expire(node.wall_clock())
        others = [peer for peer in directory.sample() if peer.node_id != node.descriptor.node_id]
        if others and not len(links) and not links.dialling:
            service = _dial(node, links, node.rng.choice(others).node_id)
            yield from node.scope.spawn(service, name=f"{node.name} seek")
        now_s = node.now_s()
        allowed = min(_FIRST_PROBES, allowed + (now_s - looked_s) / limits.probe_s)
        looked_s = now_s
        # Guards of an earlier run come first: otherwise others would be drawn in their place.
        guards = frozenset(guard.node_id for guard in node.guards or ())
        while allowed >= 1 and (peer := directory.next_to_dial(node.wall_clock(), guards)) is not None:
            allowed -= 1
            yield from node.scope.spawn(links.probe(peer), name=f"{node.name} probe")
        yield Sleep(min(limits.link_tick_s, _SEEK_S))
