"""Dialling and accepting: the link handshake over a socket, as services.

Both end with a `HandshakeResult`: a connected socket, the keys of the link, and an authenticated peer. Who
uses it from then on is the link (link.py).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from reactor import (
    YIELD,
    Broken,
    ConnectError,
    ReadYield,
    Service,
    SocketStream,
    TcpListener,
    TimedOut,
    UnexpectedEnd,
    WriteYield,
    connect_tcp,
    timeout_after,
)
from tunnel.codes import short
from tunnel.directory import ExchangeDirectory
from tunnel.errors import (
    Disconnected,
    ErrorCode,
    HandshakeError,
    LinkError,
    NextRefused,
    PeerError,
    TableFull,
)
from tunnel.identity.descriptor import Descriptor
from tunnel.link.handshake import M1_BYTES, M2_BYTES, M3_BYTES, Initiator, Responder, Settings
from tunnel.link.noise import LinkKeys
from tunnel.node.context import NodeContext
from tunnel.onion.header import clock_text

__all__ = ["HandshakeResult", "accept_handshake", "dial", "listen_service"]

log = logging.getLogger("tunnel.node")
# About two milliseconds.
_TRIES_PER_TURN = 2_000


@dataclass(slots=True)
class HandshakeResult:
    """A finished handshake.

    Attributes:
        peer: who is at the other end: its descriptor, signed, and proven to be its own by the handshake.
        settings: what the peer says about itself.
        is_dialler: whether this node dialled.
    """

    socket: SocketStream
    keys: LinkKeys
    peer: Descriptor
    settings: Settings
    is_dialler: bool


def dial(node: NodeContext, peer: Descriptor) -> Service[HandshakeResult]:
    """Connect to `peer`: each of its addresses in turn, then the handshake.

    Raises:
        NextRefused: no address answered in time, or what answered is not the peer (__cause__ says which); or
            it has no address that may be dialled: see `tunnel.routing.addresses.AddressRules`.
    On error or cancellation: no socket is left open.
    """
    log.debug("node %s dials %s", node.name, short(peer.node_id))
    if peer.expiry < node.wall_clock() and not _is_configured(node, peer):
        raise NextRefused(
            f"its descriptor has expired: it served until {clock_text(peer.expiry)}, "
            f"and the clock here shows {clock_text(node.wall_clock())}"
        )
    if not peer.addresses:
        raise NextRefused("it has no address, and keeps no link to this one")
    # Anybody can sign a descriptor with the address of a machine behind this node's firewall.
    addresses = node.rules.dialable(peer.addresses)
    if not addresses:
        raise NextRefused("it has private addresses only, in no range declared as this network's")
    failure: Exception | None = None
    for address in addresses:
        try:
            return (
                yield from timeout_after(
                    node.limits.dial_s, _dial_address(node, peer, address.host, address.port)
                )
            )
        except (Broken, UnexpectedEnd, HandshakeError, TimedOut) as error:
            failure = error
    log.debug("node %s could not reach %s: %s", node.name, short(peer.node_id), failure)
    raise NextRefused(_reason(failure)) from failure


def _is_configured(node: NodeContext, peer: Descriptor) -> bool:
    """Whether the user named this peer to learn others from: its link key lives as long as the node, and the
    first thing that it tells is its newest descriptor. Else the user's file would serve for a week only."""
    return isinstance(node.directory, ExchangeDirectory) and node.directory.is_configured(peer.node_id)


def _reason(failure: Exception | None) -> str:
    """Why, without an address: who a node talks to is not for the log."""
    if isinstance(failure, ConnectError) and failure.errno is not None:
        return os.strerror(failure.errno)
    if isinstance(failure, TimedOut):
        return "no answer in time"
    if isinstance(failure, UnexpectedEnd | HandshakeError):
        return "it broke off the handshake: another node is there, or one of another network or version"
    return "the connection broke"


def _dial_address(node: NodeContext, peer: Descriptor, host: str, port: int) -> Service[HandshakeResult]:
    socket = yield from connect_tcp(host, port)
    try:
        initiator = Initiator(
            network_id=node.network_id,
            link_private=node.link_private,
            remote_link_key=peer.link_key,
            descriptor=node.descriptor,
            settings=node.link_settings(),
            engine=node.engine,
        )
        reader, writer = ReadYield(socket), WriteYield(socket)
        yield from writer.write_all(initiator.hello())
        answer = yield from _read(reader, M2_BYTES)
        if initiator.is_retry(answer):
            yield from writer.write_all((yield from _solve(initiator, answer)))
            answer = yield from _read(reader, M2_BYTES)
        yield from writer.write_all(initiator.reply(answer))
        assert initiator.peer_settings is not None
        return HandshakeResult(socket, initiator.finish(), peer, initiator.peer_settings, is_dialler=True)
    except BaseException:
        socket.close()
        raise


def _solve(initiator: Initiator, retry: bytes) -> Service[bytes]:
    """M1 once more, with the answer of the puzzle; the search lets others run."""
    puzzle = initiator.retry(retry)
    while not puzzle.search(_TRIES_PER_TURN):
        yield YIELD
    assert puzzle.answer is not None
    return initiator.hello_again(puzzle.answer)


def _puzzle_bits(node: NodeContext) -> int:
    """How much work a new handshake must show: none until half of the places are taken, then more and more.

    12 bits are some milliseconds for an honest node; 18 a third of a second.
    """
    taken = node.half_open / node.limits.half_open
    return 0 if taken < 0.5 else 12 + int((taken - 0.5) * 12)


def accept_handshake(node: NodeContext, socket: SocketStream) -> Service[HandshakeResult]:
    """The responder's side.

    Raises:
        HandshakeError: what came is no handshake of this network with this node. LinkError: it ended early.
        Disconnected: the connection broke. PeerError (TIMEOUT): it took longer than the limit.
    On error: the socket is still the caller's to close.
    """
    try:
        return (yield from timeout_after(node.limits.handshake_s, _accept(node, socket)))
    except TimedOut as error:
        raise PeerError(f"no handshake within {node.limits.handshake_s:g} s", ErrorCode.TIMEOUT) from error
    except UnexpectedEnd as error:
        raise LinkError(f"connection ended inside the handshake: {error}") from error
    except Broken as error:
        raise Disconnected(f"connection broke in the handshake: {error}") from error


def _accept(node: NodeContext, socket: SocketStream) -> Service[HandshakeResult]:
    responder = Responder(
        network_id=node.network_id,
        link_private=node.link_private,
        settings=node.link_settings(),
        engine=node.engine,
        load=_puzzle_bits(node),
    )
    reader, writer = ReadYield(socket), WriteYield(socket)
    while responder.awaits_hello:
        yield from writer.write_all(responder.hello((yield from _read(reader, M1_BYTES))))
    last = yield from _read(reader, M3_BYTES)
    peer = responder.final(last, now_s=node.wall_clock())
    assert responder.peer_settings is not None
    return HandshakeResult(socket, responder.finish(), peer, responder.peer_settings, is_dialler=False)


def _read(reader: ReadYield, count: int) -> Service[bytes]:
    buffer = bytearray(count)
    yield from reader.read_exactly(memoryview(buffer))
    return bytes(buffer)


# The listener: accepts connections within the node's limits, shakes hands, hands links to the table.


def listen_service(node: NodeContext, listener: TcpListener) -> Service[None]:
    """Run for the node's life. A connection above a limit is closed at once: who is inside stays unharmed."""
    while True:
        socket = yield from listener.accept()
        host = str(socket.peername[0])
        if (reason := _refusal(node, host)) is not None:
            log.warning("node %s refused a connection: %s", node.name, reason)
            socket.close()
            continue
        # Counted here and not in the service: a crowd is accepted before the first of its services runs.
        node.half_open_hosts.append(host)
        try:
            yield from node.scope.spawn(_welcome(node, socket, host), name=f"{node.name} accept")
        except BaseException:
            # A cancellation that was on its way struck here: no service has taken the connection.
            node.half_open_hosts.remove(host)
            socket.close()
            raise


def _refusal(node: NodeContext, host: str) -> str | None:
    """Why a connection from this host is not taken, or None."""
    limits = node.limits
    if node.half_open >= limits.half_open:
        return f"{node.half_open} are without handshake (limit {limits.half_open})"
    if not node.is_local:
        held = node.half_open_hosts.count(host) + sum(link.host == host for link in node.links)
        if held >= limits.links_per_address:
            return f"{held} are open from its address (limit {limits.links_per_address})"
    try:
        node.links.check_room()
    except TableFull as error:
        return str(error)
    return None


def _welcome(node: NodeContext, socket: SocketStream, host: str) -> Service[None]:
    try:
        shaken = yield from accept_handshake(node, socket)
        yield from node.links.adopt(shaken)
    except (HandshakeError, PeerError) as error:
        log.warning("node %s refused a connection: %s: %s", node.name, type(error).__name__, error)
        socket.close()
    except BaseException:
        socket.close()
        raise
    finally:
        node.half_open_hosts.remove(host)
