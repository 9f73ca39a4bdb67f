"""A node: its keys, its listener and its services. What it does for its user is in user.py."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from functools import partial

from reactor import Closed, Reactor, Scope, Service, Signal, Sleep, TcpListener, needs_yield_from
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.directory import Directory
from tunnel.errors import Disconnected
from tunnel.identity.descriptor import Address, Descriptor, short
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import NodeKeys
from tunnel.link.receive_queue import Budget
from tunnel.node.context import LOCAL_NETWORK_ID, FrameReport, NodeContext, address_rules, span_text
from tunnel.node.limits import Limits
from tunnel.node.links.handshake_io import listen_service
from tunnel.node.links.keeper import keep_links, seek_peers
from tunnel.node.links.link_table import LinkTable
from tunnel.node.query.request import RoutePlanner
from tunnel.node.relay.read_service import read_service
from tunnel.node.tunnels.prepared import PreparedTunnels
from tunnel.node.user import NodeUser
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import CLOCK_SKEW_S, clock_text
from tunnel.onion.replay import HeaderRate
from tunnel.routing.addresses import IpRange
from tunnel.routing.guards import Guards
from tunnel.routing.peers import PeerTable
from tunnel.services import Echo, InnerService, ServiceFunction
from tunnel.services.base import as_service

__all__ = ["LOCAL_NETWORK_ID", "Node", "rotate_keys"]


# Onion keys over time: a service that moves them on, publishes what is new and lets go of what is old.
#
# The key ring decides (tunnel/identity/key_ring.py); here it is asked now and then. Not at computed
# moments: wall clocks are set, machines sleep, and a full replay table asks for a new key between times.
# Whether the wall clock was set is seen by the reactor's, which nobody sets.
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


_LOOK_S = 0.05


class Node(NodeUser):
    """One peer: listens, relays, answers queries with its inner service, and asks queries of its own.

    The listener is bound when the object is made, so that `descriptor` names the real port. `serve` is the
    service that does everything else; it is to be run by the reactor given here.

    Args:
        keys: this node's secrets; the onion key is then made anew. Or a ring that was resumed with its replay
            tables (`KeyRing.resume`), whose keys go on; to be stopped by the caller when `serve` has ended.
        directory: the peers; shared and filled by the caller.
        reactor: runs this node; queries may be asked from any thread.
        service: answers queries that reach this node, an `InnerService` or a generator function; by default
            `Echo`. For several: `tunnel.services.Services`.
        host, port: where to listen; port 0 lets the system choose. None: nowhere. Such a node keeps links to
            others (`Limits.links_ahead`), and gets its replies over them.
        addresses: where others reach it; by default the listener's own address. Another one where a router
            forwards a port.
        private_ranges: IP networks that are part of this network beside the open internet, such as a LAN's or
            a VPN's: only their private addresses are dialled. A network declared local needs none.
        profiles: bytes of those to offer; by default all that suit the engine.
        family: 16 bytes, the same in all nodes of one owner, so that nobody's route passes two of them.
        own: ids of other nodes of the same owner, in this process or elsewhere: never proxies of this node's.
            Those of the same family never are.
        engine: where the ciphers come from, or its name; by default the preferred one.
        guards: `Node.guards` of the last run, so that routes begin with the same nodes again.
        on_publish: called in the reactor with each new descriptor after the first one.
        observe: called with a FrameReport for each frame sent on; stays on this machine.
    Raises:
        OSError: the address cannot be listened on. TypeError: `service` is none, or an argument
        is of another type than said here. ValueError: `host` is a
        name, not an IP address.
        LocalTunnelError: the wall clock shows a time that no key or descriptor can hold. KeyFileError: the
        state of the guards is damaged.
    """

    def __init__(
        self,
        keys: NodeKeys | KeyRing,
        directory: Directory,
        *,
        reactor: Reactor,
        service: InnerService | ServiceFunction | None = None,
        engine: TunnelEngine | str | None = None,
        limits: Limits | None = None,
        host: str = "127.0.0.1",
        port: int | None = 0,
        addresses: tuple[Address, ...] | None = None,
        network_id: bytes = LOCAL_NETWORK_ID,
        private_ranges: tuple[IpRange, ...] = (),
        family: bytes | None = None,
        own: Collection[bytes] = (),
        guards: bytes | None = None,
        profiles: tuple[int, ...] | None = None,
        on_publish: Callable[[Descriptor], None] | None = None,
        observe: Callable[[FrameReport], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if engine is None or isinstance(engine, str):
            engine = tunnel_engine(engine or "auto")
        limits = _checked_limits(limits)
        inner = Echo() if service is None else as_service(service)
        kept = Guards.from_bytes(guards, size=limits.guards) if guards else Guards(size=limits.guards)
        rules = address_rules(network_id, private_ranges)
        has_guards = limits.guards > 0 and not rules.is_local
        if isinstance(keys, NodeKeys):
            # The last run's replay table is gone, so what it guarded must be too: with a new onion key frames
            # recorded before open no more.
            keys = KeyRing(keys.rotated(wall_clock()), engine, limit=limits.replay_tags)
        elif not isinstance(keys, KeyRing):
            raise TypeError(f"keys: expected NodeKeys or a KeyRing, got {type(keys).__name__}")
        ring = keys
        self._reactor = reactor
        self._listener = None if port is None else TcpListener(host, port)
        try:
            self._listens_at = None if self._listener is None else Address(host, self._listener.address[1])
            if addresses is None:
                addresses = () if self._listens_at is None else (self._listens_at,)
            ring.advance(wall_clock())
            descriptor = _first_descriptor(ring, addresses, directory, wall_clock(), profiles, family)
        except BaseException:
            self.close()
            raise
        tunnel = OnionCodec(ring=ring, directory=directory, header_rate=HeaderRate())
        self._context = NodeContext(
            engine=engine,
            network_id=network_id,
            link_private=ring.keys.link_private(engine),
            descriptor=descriptor,
            rules=rules,
            directory=directory,
            tunnel=tunnel,
            service=inner,
            limits=limits,
            # A service that fails must not end the others.
            scope=Scope(f"node {short(descriptor.node_id)}", fail_together=False),
            now_s=reactor.now,
            post=reactor.post,
            budget=Budget(limits.buffer_bytes),
            on_publish=on_publish,
            observe=observe,
            wall_clock=wall_clock,
            guards=kept if has_guards else None,
            own_ids=tuple(own),
        )
        self._drawing = RoutePlanner(self._context, reactor)
        self._standing = PreparedTunnels(self._context, limits.prepared_tunnels)
        self._context.links = LinkTable(self._context, partial(read_service, self._context))
        self._has_left = Signal()

    @property
    def id(self) -> bytes:
        """The node id, 32 bytes: the Ed25519 public key that signs the descriptor."""
        return self._context.descriptor.node_id

    @property
    def descriptor(self) -> Descriptor:
        """What others know of this node: its keys, addresses and profiles, signed."""
        return self._context.descriptor

    @property
    def address(self) -> Address:
        """Where others reach it. Raises IndexError: a node without an address."""
        return self._context.descriptor.addresses[0]

    @property
    def guards(self) -> bytes | None:
        """The state of the guards, to be kept on disk and given to the next run; None: this node has none."""
        return self._context.routes.guards

    @property
    def peers(self) -> PeerTable:
        """What this node knows of others from dealing with them; add a `PeerListener` to its `listeners`."""
        return self._context.peers

    @property
    def listens_at(self) -> Address | None:
        """Where its listener is; None without one."""
        return self._listens_at

    @property
    def reactor(self) -> Reactor:
        """What runs this node."""
        return self._reactor

    @property
    def open_links(self) -> int:
        """Links to neighbours now; they stay between messages."""
        return len(self._context.links)

    @property
    def open_streams(self) -> int:
        """Frames on their way, in one direction or the other; 0 when nothing passes this node."""
        return self._context.links.streams

    @property
    def is_idle(self) -> bool:
        """No frame on its way through, no handshake under way, no query of its own."""
        context = self._context
        links = context.links
        return not (
            links.streams or links.dialling or context.half_open or context.pending or context.queries
        )

    @needs_yield_from
    def serve(self) -> Service[None]:
        """Run the node until it is cancelled; then everything of it is ended."""
        scope = self._context.scope
        try:
            yield from scope.spawn(rotate_keys(self._context), name=f"{self._context.name} keys")
            yield from scope.spawn(keep_links(self._context), name=f"{self._context.name} keeper")
            yield from scope.spawn(seek_peers(self._context), name=f"{self._context.name} seeker")
            yield from self._listen()
        finally:
            self.close()
            for query in self._context.own:
                query.fail(Disconnected("the node that asked was stopped"))
            yield from scope.close()

    def close(self) -> None:
        """Stop listening. `serve` does so when it ends; this is for one that never came to serve."""
        if self._listener is not None:
            self._listener.close()

    @needs_yield_from
    def leave(self, within_s: float = 60.0) -> Service[None]:
        """Stop in order, for a restart: no stream is lost, here or at the neighbours; then `serve` ends.

        Queries of this node's own come to their end first. Then its neighbours are told that its links take
        nothing new, and what passes through it may end.

        Args:
            within_s: for each of the two; what has not ended by then is cut.
        """
        context = self._context
        self._standing.close()
        yield from _wait_until(lambda: not context.queries, within_s)
        context.links.leave()
        self.close()
        yield from _wait_until(lambda: self.is_idle and not self.open_links, within_s)
        self._has_left.set()

    def _listen(self) -> Service[None]:
        """Until `leave` is done."""
        try:
            if self._listener is not None:
                yield from listen_service(self._context, self._listener)
        except Closed:
            if not self._context.links.is_leaving:
                raise
        yield self._has_left


def _first_descriptor(
    ring: KeyRing,
    addresses: tuple[Address, ...],
    directory: Directory,
    now_s: float,
    profiles: tuple[int, ...] | None,
    family: bytes | None,
) -> Descriptor:
    """That of a start. It replaces the last run's also where the clock was set back since."""
    known = directory.lookup(ring.keys.node_id(ring.engine))
    sequence = ring.next_sequence(now_s, 0 if known is None else known.sequence)
    return ring.keys.descriptor(
        addresses, now_s, ring.engine, profiles=profiles, sequence=sequence, family=family
    )


def _wait_until(condition: Callable[[], bool], within_s: float) -> Service[None]:
    """Look every now and then: what ends here ends in many places."""
    for _ in range(max(1, round(within_s / _LOOK_S))):
        if condition():
            return
        yield Sleep(_LOOK_S)


def _checked_limits(limits: Limits | None) -> Limits:
    """Raises TypeError: no Limits."""
    if limits is None:
        return Limits()
    if not isinstance(limits, Limits):
        raise TypeError(f"limits: expected Limits, got {type(limits).__name__}")
    return limits
