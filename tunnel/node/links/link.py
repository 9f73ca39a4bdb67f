"""A link: one connection to a neighbour, from its handshake to its end, and the services that run it.

The multiplexer (tunnel/link/mux.py) decides about bytes. Here is what joins it to the socket: one service
receives, hands over all records of one receive, and gives each stream that the neighbour has opened to the
node; one sends whatever is owed, with one system call for all that was sealed meanwhile; one looks after the
link's age and life; and where links are padded, one does that. They share one scope: when one of them fails
the link is over, and each of its streams ends with that error.

A link ends in order when both sides have said GOAWAY and no stream is left: everything owed is sent, then the
connection is half-closed and read to its end. Closing with unread bytes in the receive buffer would make the
kernel send RST, and the last records would be lost on their way to the neighbour.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

from reactor import YIELD, Broken, Closed, ReadYield, Service, Signal, Sleep, SocketStream, WriteYield
from tunnel.errors import Disconnected, ErrorCode, PeerError
from tunnel.geometry import Profile
from tunnel.link.handshake import PaddingMode
from tunnel.link.mux import Multiplexer
from tunnel.link.policies import Liveness
from tunnel.node.context import NodeContext, Stream
from tunnel.node.links.handshake_io import HandshakeResult
from tunnel.node.links.keeper import exchange_with
from tunnel.node.waits import run_with_guards

__all__ = ["Link", "Serve"]

log = logging.getLogger("tunnel.node")

_RANDOM: Final = random.SystemRandom()

Serve = Callable[[Stream], Service[None]]
"""What a node does with a stream that a neighbour opened."""


class Link:
    """One authenticated connection and its streams.

    Args:
        shaken: of the finished handshake; the socket is the link's from here on.
        serve: gets each stream that the neighbour opens, in a service of its own.

    Attributes:
        peer: the neighbour's descriptor.
        is_dialler: whether this node dialled.
        host: where the connection came from; empty when this node dialled.
        began_s, used_s: on the reactor's clock: when it began, and when a stream was opened last.
        is_retired: it takes no new stream and ends when it has none left.
    """

    def __init__(self, node: NodeContext, shaken: HandshakeResult, serve: Serve) -> None:
        self._node = node
        self._socket: SocketStream = shaken.socket
        self._serve = serve
        self.peer = shaken.peer
        self.is_dialler = shaken.is_dialler
        self.host = "" if shaken.is_dialler else str(shaken.socket.peername[0])
        self.began_s = self.used_s = node.now_s()
        self.is_retired = False
        self._padding = node.padding_policy()
        self.mux = Multiplexer(
            shaken.keys,
            is_dialler=shaken.is_dialler,
            engine=node.engine,
            limits=node.mux_limits(shaken.settings),
            make_notifier=Signal,
            budget=node.budget,
            now_s=node.now_s,
            record_units=self._padding.record_units,
            peer_id=shaken.peer.node_id,
        )

    @property
    def streams(self) -> int:
        """How many are open."""
        return self.mux.streams

    @property
    def can_open(self) -> bool:
        """Whether a new stream may be opened here now."""
        return not self.is_retired and self.mux.can_open

    def open(self, profile: Profile) -> Stream:
        """Open a stream. Raises TableFull: the neighbour allows no more of them."""
        self.used_s = self._node.now_s()
        return self.mux.open(profile)

    def retire(self) -> None:
        """Open no more; the link ends when its last stream has."""
        if not self.is_retired:
            self.is_retired = True
            self.mux.go_away()

    def run(self) -> Service[None]:
        """Live until the link has ended.

        Raises:
            PeerError: it did not end in order. Its streams have ended with that error.
        """
        failure: PeerError = Disconnected("the link was closed by this node")
        try:
            padding = () if self._padding.mode is PaddingMode.OFF else (self._pad(),)
            exchange = exchange_with(self._node, self.peer, self.host, self.mux)
            yield from run_with_guards(self._receive(), self._send(), self._watch(), exchange, *padding)
        except PeerError as error:
            failure = error
            raise
        finally:
            self.is_retired = True
            self.mux.fail(failure)
            self._send_last_words()
            self.mux.close()
            self._socket.close()

    # -- the services of a link ------------------------------------------------------------------------

    def _receive(self) -> Service[None]:
        """Take in what comes, to the end of the connection; the link's life."""
        node, socket, mux = self._node, self._socket, self.mux
        reader = ReadYield(socket)
        while (yield from reader.call(self._receive_once)):
            while (stream := mux.accept_nowait()) is not None:
                self.used_s = node.now_s()
                yield from node.scope.spawn(self._serve(stream), name=f"{node.name} stream")
            # One receive brings all that is there: let the streams have it before more comes.
            yield socket.readable if socket.drained else YIELD
        if mux.streams or not mux.peer_leaves:
            raise Disconnected(f"connection ended without GOAWAY, with {mux.streams} streams open")

    def _receive_once(self, socket: SocketStream) -> int:
        try:
            count = socket.readinto(self.mux.space())
        except BlockingIOError:
            self.mux.received(0)  # gives the buffer back
            raise
        except Broken as error:
            raise Disconnected(f"connection broke while reading: {error}") from error
        self.mux.received(count)
        if self.mux.peer_leaves:
            self.retire()
        if self.mux.is_drained:
            # What came has ended the link and leaves nothing to send: the sender has to hear of it.
            self.mux.output.set()
        return count

    def _send(self) -> Service[None]:
        """Send what is owed, whenever something is; half-close after the last of it."""
        writer = WriteYield(self._socket)
        mux = self.mux
        while not mux.is_drained:
            yield mux.output
            while (yield from writer.call(self._send_some)):
                pass
        try:
            self._socket.shutdown_write()
        except Broken as error:
            raise Disconnected(f"connection broke while it was ended: {error}") from error
        # The rest is the neighbour's to do.
        yield Sleep(self._node.limits.linger_s)
        raise PeerError("the neighbour did not end a link that both sides have left", ErrorCode.TIMEOUT)

    def _send_some(self, socket: SocketStream) -> bool:
        """Send what the socket takes of what is owed. Returns whether more is owed now."""
        mux = self.mux
        pending = mux.pending
        if not pending:
            return False
        try:
            count = socket.write(pending)
        except Broken as error:
            raise Disconnected(f"connection broke while writing: {error}") from error
        mux.sent(count)
        return not mux.sender.is_idle

    def _watch(self) -> Service[None]:
        """Look now and then whether the neighbour still lives."""
        node, mux, limits = self._node, self.mux, self._node.limits
        liveness = Liveness(limits.quiet_s, limits.pong_s)
        partial_since_s: float | None = None
        left_since_s: float | None = None
        while True:
            yield Sleep(limits.link_tick_s)
            now_s = node.now_s()
            # Else a neighbour that does not answer GOAWAY would hold its place for ever.
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
            verdict, _ = liveness.look(
                now_s, last_received_s=mux.last_received_s, ping_sent_s=mux.ping_sent_s
            )
            if verdict == "dead":
                raise PeerError(
                    f"the neighbour answered no PING within {limits.pong_s:g} s", ErrorCode.TIMEOUT
                )
            if verdict == "ping":
                mux.ping()

    def _pad(self) -> Service[None]:
        """Send what the padding policy says, when it says so."""
        padding, now_s = self._padding, self._node.now_s
        while True:
            yield Sleep(padding.next_s - now_s())
            padding.act(self.mux, now_s(), _RANDOM)

    def _send_last_words(self) -> None:
        """One try to send what is sealed: it may tell the neighbour what it did wrong."""
        try:
            self._socket.write(self.mux.pending)
        except (Broken, Closed, BlockingIOError) as error:
            log.debug("last words of a link were not sent: %s", error)
