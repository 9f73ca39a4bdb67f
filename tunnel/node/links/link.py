"""A link: one connection to a neighbour, from its handshake to its end, and the services that run it.

The multiplexer (tunnel/link/mux.py) decides about bytes; this file joins it to the socket. One service
receives: it passes on all records of one receive and starts a service for each stream that the neighbour
opened. One sends: everything sealed meanwhile leaves with one system call. One checks that the neighbour is
alive. Further services pad the link and exchange peers, if the node is set up for it. All share one scope:
the first failure ends the link, and each of its streams ends with that error.

A link ends cleanly when both sides have sent GOAWAY and no stream is left: everything queued is sent, then
the connection is half-closed and read until it ends. If the connection were closed with unread bytes in the
receive buffer, the kernel would send RST, and the last records would be lost.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Final

from reactor import (
    YIELD,
    Broken,
    Closed,
    Handle,
    ReadYield,
    RunInThread,
    Service,
    Signal,
    Sleep,
    WriteYield,
)
from tunnel.directory import ExchangeDirectory
from tunnel.directory.exchange import ExchangeMessage
from tunnel.errors import DescriptorError, Disconnected, ErrorCode, LinkError, PeerError, TableFull
from tunnel.geometry import Profile
from tunnel.link.cells import pack_reset
from tunnel.link.handshake import PaddingMode
from tunnel.link.mux import Liveness, Multiplexer, MuxLimits
from tunnel.link.padding import ConstantRate, NoPadding, PaddingPolicy, PoissonPadding
from tunnel.link.places import KNOWN_S
from tunnel.link.turns import KNOWN_WEIGHT
from tunnel.node.context import Connection, NodeContext, Stream
from tunnel.node.limits import Limits, LinkPolicy
from tunnel.node.links.link_setup import HandshakeResult
from tunnel.node.waits import run_with_guards

__all__ = ["Link", "Serve"]

log = logging.getLogger("tunnel.node")

# Peers are drawn at random: after this many messages without news there is hardly any left.
_PATIENCE: Final = 3
# Bytes of one receive while headers wait for turns: so much of a flood is processed before other services
# run.
_CROWDED_BYTES: Final = 16 << 10

Serve = Callable[[Stream], Service[None]]
"""The service of a stream that a neighbour opened."""


class Link:
    """One authenticated connection and its streams.

    Args:
        result: of the finished handshake; the link owns its socket.
        serve: called with each stream that the neighbour opens, in a separate service.

    Attributes:
        peer: the neighbour's descriptor.
        is_dialler: whether this node dialled.
        host: the address that the connection came from; empty when this node dialled.
        used_s: when a stream was last opened, on the reactor's clock.
        is_retired: it takes no new stream and ends with its last one.
        is_own: this node dialled it for a frame of its own.
        source: the network whose share its place and its announcements use; see `AddressRules.source`.
        known_since_s: since when this neighbour has been linked without a break, on the reactor's clock.
    """

    def __init__(self, node: NodeContext, result: HandshakeResult, serve: Serve, *, is_own: bool) -> None:
        self._node = node
        self.socket: Connection = result.socket
        self._serve = serve
        self.peer = result.peer
        self.is_dialler = result.is_dialler
        host = str(result.socket.peername[0])
        self.host = "" if result.is_dialler else host
        self.source = node.rules.source(result.peer.node_id, host, is_dialled=result.is_dialler)
        self.used_s = self.known_since_s = node.now_s()
        self.is_retired = False
        self.is_own = is_own
        self.handle: Handle[None] | None = None  # of `run`
        self._padding = _padding_policy(node.limits, node.now_s(), node.rng)
        self.mux = Multiplexer(
            result.keys,
            is_dialler=result.is_dialler,
            engine=node.engine,
            limits=MuxLimits(
                max_streams=node.limits.streams_per_link, peer_max_streams=result.settings.max_streams
            ),
            make_notifier=Signal,
            budget=node.budget,
            now_s=node.now_s,
            record_units=self._padding.record_units,
            peer_id=result.peer.node_id,
        )

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return self.mux.streams

    @property
    def weight(self) -> float:
        """The weight of its turns to serve streams."""
        is_known = self.is_own or self._node.now_s() - self.known_since_s >= KNOWN_S
        return KNOWN_WEIGHT if is_known else 1.0

    @property
    def can_open(self) -> bool:
        """Whether a stream can be opened now."""
        return not self.is_retired and self.mux.can_open

    @property
    def is_crowded(self) -> bool:
        """Whether the next stream should take another link."""
        return self.mux.is_crowded

    def open(self, profile: Profile) -> Stream:
        """Open a stream. Raises TableFull: the neighbour allows no more of them."""
        self.used_s = self._node.now_s()
        stream = self.mux.open(profile)
        self._node.counters.streams_opened += 1
        return stream

    def retire(self) -> None:
        """Take no new stream; the link ends with its last one."""
        if not self.is_retired:
            self.is_retired = True
            self.mux.go_away()

    def take_turn(self) -> Service[None]:
        """Take a turn to serve a stream; wait for it if many streams are opened (tunnel/link/turns.py)."""
        node, turns = self._node, self._node.turns
        if turns.take(self.source, weight=self.weight, now_s=node.now_s()):
            return
        turn = Signal()
        turns.wait(self.source, self.peer.node_id, turn, weight=self.weight)
        node.turn_wanted.set()
        try:
            yield turn
        except BaseException:
            turns.leave(self.source, turn)
            raise

    def give_way(self) -> None:
        """End immediately with all streams, BUSY, because another link takes its place."""
        self.is_retired = True
        error = TableFull("all links of this node are in use, and a new link displaced this one")
        self.mux.fail(error)
        self.mux.sender.stop(pack_reset(0, error.code))
        if self.handle is not None:
            self.handle.cancel()

    def run(self) -> Service[None]:
        """Run the link until it has ended.

        Raises:
            PeerError: it did not end cleanly. Its streams have ended with that error.
        """
        failure: PeerError = Disconnected("the link was closed by this node")
        try:
            padding = () if self._padding.mode is PaddingMode.OFF else (self._pad(),)
            exchange = _exchange_peers(self._node, self)
            yield from run_with_guards(self._receive(), self._send(), self._watch(), exchange, *padding)
        except PeerError as error:
            failure = error
            raise
        finally:
            self.is_retired = True
            self.mux.fail(failure)
            self._send_last_words()
            self.mux.close()
            self.socket.close()

    # -- the services of a link ------------------------------------------------------------------------

    def _receive(self) -> Service[None]:
        """Receive until the connection ends; the link lives as long as this."""
        socket, mux = self.socket, self.mux
        reader = ReadYield(socket)
        while (yield from reader.call(self._receive_once)):
            while (stream := mux.accept_nowait()) is not None:
                yield from self._begin(stream)
            # One receive takes all available bytes: let the streams process them before the next.
            yield socket.readable if socket.drained else YIELD
        if mux.streams or not mux.peer_leaves:
            how = "the neighbour left" if mux.peer_leaves else "the connection ended without GOAWAY"
            open_streams = "1 stream" if mux.streams == 1 else f"{mux.streams} streams"
            raise Disconnected(f"{how}, with {open_streams} open")

    def _begin(self, stream: Stream) -> Service[None]:
        """Serve a stream of the neighbour, when it is this link's turn."""
        node = self._node
        try:
            yield from self.take_turn()
            self.used_s = node.now_s()
            node.counters.streams_accepted += 1
            yield from node.scope.spawn(self._serve(stream), name=f"{node.name} stream")
        except BaseException:
            # Nobody will read it. What came with its FIN outlives the link, and would be held for ever.
            stream.reset(ErrorCode.CANCELLED)
            raise

    def _receive_once(self, socket: Connection) -> int:
        try:
            space = self.mux.space()
            count = socket.readinto(space[:_CROWDED_BYTES] if self._node.turns else space)
        except BlockingIOError:
            self.mux.received(0)  # returns the buffer
            raise
        except Broken as error:
            raise Disconnected(f"connection broke while reading: {error}") from error
        self._node.counters.link_bytes_in += count
        self.mux.received(count)
        if self.mux.peer_leaves:
            self.retire()
        if self.mux.is_drained:
            # The link has ended with nothing left to send: wake the sending service so that it notices.
            self.mux.output.set()
        return count

    def _send(self) -> Service[None]:
        """Send sealed bytes as they arise; half-close the connection after the last of them."""
        writer = WriteYield(self.socket)
        mux = self.mux
        while not mux.is_drained:
            yield mux.output
            while (yield from writer.call(self._send_some)):
                pass
        try:
            self.socket.shutdown_write()
        except Broken as error:
            raise Disconnected(f"connection broke while it was ended: {error}") from error
        # The neighbour closes; `_receive` then returns and cancels this service.
        yield Sleep(self._node.limits.linger_s)
        raise PeerError("the neighbour did not end a link that both sides have left", ErrorCode.TIMEOUT)

    def _send_some(self, socket: Connection) -> bool:
        """Send as much as the socket takes. Returns whether more is unsent."""
        sender = self.mux.sender
        pending = sender.pending
        if not pending:
            return False
        try:
            count = socket.write(pending)
        except Broken as error:
            raise Disconnected(f"connection broke while writing: {error}") from error
        self._node.counters.link_bytes_out += count
        sender.sent(count)
        return not sender.is_idle

    def _watch(self) -> Service[None]:
        """Check regularly that the neighbour is alive and follows the protocol's limits."""
        node, mux, limits = self._node, self.mux, self._node.limits
        liveness = Liveness(limits.quiet_s, limits.pong_s)
        partial_since_s: float | None = None
        left_since_s: float | None = None
        while True:
            yield Sleep(limits.link_tick_s)
            now_s = node.now_s()
            # Without this limit a neighbour that never answers GOAWAY would occupy its place forever.
            if not self.is_retired or mux.streams or mux.peer_leaves:
                left_since_s = None
            elif left_since_s is None:
                left_since_s = now_s
            elif now_s - left_since_s > limits.linger_s:
                raise PeerError(
                    f"the neighbour did not answer GOAWAY within {limits.linger_s:g} s", ErrorCode.TIMEOUT
                )
            if not mux.has_partial_record:
                partial_since_s = None
            elif partial_since_s is None:
                partial_since_s = now_s
            elif now_s - partial_since_s > limits.record_s:
                raise PeerError(f"a record was not complete within {limits.record_s:g} s", ErrorCode.TIMEOUT)
            verdict = liveness.verdict(
                now_s, last_received_s=mux.last_received_s, ping_sent_s=mux.ping_sent_s
            )
            if verdict == "dead":
                raise PeerError(
                    f"the neighbour answered no PING within {limits.pong_s:g} s", ErrorCode.TIMEOUT
                )
            if verdict == "ping":
                mux.ping()

    def _pad(self) -> Service[None]:
        """Send padding as the policy decides."""
        padding, now_s = self._padding, self._node.now_s
        while True:
            yield Sleep(padding.next_s - now_s())
            padding.act(self.mux, now_s(), self._node.rng)

    def _send_last_words(self) -> None:
        """Try once to send the sealed records: they may contain the reason of the end."""
        try:
            self.socket.write(self.mux.pending)
        except (Broken, Closed, BlockingIOError) as error:
            log.debug("the last records of a link were not sent: %s", error)


def _padding_policy(limits: Limits, now_s: float, rng: random.Random) -> PaddingPolicy:
    if limits.padding is PaddingMode.POISSON:
        return PoissonPadding(1 / limits.padding_gap_s, [limits.padding_units], now_s=now_s, rng=rng)
    if limits.padding is PaddingMode.CONSTANT:
        return ConstantRate(limits.padding_gap_s, limits.padding_units, now_s=now_s)
    return NoPadding()


# Peer exchange over a link, for a directory that learns from neighbours (`ExchangeDirectory`). A message with
# WANT leaves when the link begins and then from time to time; a message with WANT or with news gets an
# answer. So two nodes with different peers continue until neither learns anything, and two with the same are
# silent.
#
# A neighbour cannot make this node work or grow. It processes messages at a limited rate (the multiplexer
# keeps only the last one). Each source has a share of the directory, and descriptors that are known or beyond
# that share are not verified. A malformed or forged message ends the link. Source: docs/protocol.md, "Peer
# exchange".


def _exchange_peers(node: NodeContext, link: Link) -> Service[None]:
    """Exchange peers over one link until it ends.

    Raises:
        LinkError: a malformed or forged message; a RESET for it is sealed.
    """
    directory, mux = node.directory, link.mux
    if not isinstance(directory, ExchangeDirectory) or node.limits.link_policy is LinkPolicy.ONCE:
        return
    exchange = _PeerExchange(node, directory, link)
    try:
        yield from run_with_guards(exchange.receive(), exchange.send_regularly())
    except LinkError as error:
        mux.fail(error)
        mux.sender.stop(pack_reset(0, error.code))
        raise


class _PeerExchange:
    """Peer exchange on one link."""

    def __init__(self, node: NodeContext, directory: ExchangeDirectory, link: Link) -> None:
        self._node = node
        self._directory = directory
        self._link = link
        self._mux = link.mux
        self._patience = _PATIENCE
        # A dial proves a link key, and the first message says whose it is. An incoming link proves no
        # address.
        self._is_settled = not link.is_dialler

    def send_regularly(self) -> Service[None]:
        while True:
            self._send(wants_more=True)
            yield Sleep(self._node.limits.exchange_s * self._node.rng.uniform(0.5, 1.5))

    def receive(self) -> Service[None]:
        """Learn from each message and answer it; returns when the link has failed."""
        while self._mux.error is None:
            yield self._mux.exchange
            payload = self._mux.take_exchange()
            if payload is None:
                continue
            message = ExchangeMessage.parse(payload)
            news = yield from self._learn(message)
            if not self._is_settled and self._directory.is_hearsay(self._link.peer.node_id):
                self._link.retire()  # another node answers there, under another name
            self._patience = _PATIENCE if news else self._patience - 1
            if message.wants_more or news:
                self._send(wants_more=self._patience > 0)
            yield Sleep(self._node.limits.exchange_min_s)

    def _learn(self, message: ExchangeMessage) -> Service[int]:
        """Give the message to the directory; returns the number of new descriptors."""
        # In a thread: verifying eight signatures takes pycryptodome some tens of milliseconds.
        learn = partial(self._take, message, self._node.wall_clock())
        try:
            news: int = yield RunInThread(learn)
        except DescriptorError as error:
            raise LinkError(f"PEER-EXCHANGE with a bad descriptor: {error}") from error
        return news

    def _take(self, message: ExchangeMessage, now_s: float) -> int:
        own_id, told, link = self._node.descriptor.node_id, message.descriptors, self._link
        news = self._directory.learn(told, source=link.source, own_id=own_id, now_s=now_s)
        if not self._is_settled:
            own = self._directory.own_of(link.peer, told)
            if own is not None:
                self._is_settled = True
                host = str(link.socket.peername[0])
                self._directory.reached(own, host, own_id=own_id, now_s=now_s)
        return news

    def _send(self, *, wants_more: bool) -> None:
        offered = self._directory.offer(
            self._node.descriptor, to=self._link.peer.node_id, now_s=self._node.wall_clock()
        )
        # Dropped while the last one is unsent: the next one has the same news.
        self._mux.send_exchange(ExchangeMessage(offered, wants_more).to_bytes())
