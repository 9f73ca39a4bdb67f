"""Dialling and accepting: the link handshake over a socket, as services.

Both return a `HandshakeResult`: a connected socket, the keys of the link, and an authenticated peer. A `Link`
(link.py) runs it from then on.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from reactor import (
    Broken,
    ConnectError,
    ReadYield,
    Service,
    TimedOut,
    UnexpectedEnd,
    WriteYield,
    timeout_after,
)
from tunnel.codes import clock_text, short
from tunnel.directory import ExchangeDirectory
from tunnel.errors import Disconnected, ErrorCode, HandshakeError, LinkError, NextRefused, PeerError
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.link.handshake import M1_BYTES, M2_BYTES, M3_BYTES, Initiator, Responder, Settings
from tunnel.link.newcomers import Newcomer
from tunnel.link.noise import LinkKeys
from tunnel.node.context import Connection, NodeContext
from tunnel.node.limits import LinkPolicy
from tunnel.node.links.puzzles import DialPuzzles

__all__ = ["HandshakeResult", "accept_handshake", "dial"]

log = logging.getLogger("tunnel.node")


@dataclass(slots=True)
class HandshakeResult:
    """A finished handshake.

    Attributes:
        peer: signed descriptor of the other end; the handshake has proven that it owns the keys.
        settings: of the peer.
    """

    socket: Connection
    keys: LinkKeys
    peer: Descriptor
    settings: Settings
    is_dialler: bool


def dial(node: NodeContext, peer: Descriptor, puzzles: DialPuzzles) -> Service[HandshakeResult]:
    """Connect to `peer`: try its addresses in order, then perform the handshake.

    Args:
        puzzles: solves the puzzle that the peer may issue.
    Raises:
        NextRefused: no address answered in time, or another node answered (`__cause__` has the error); or no
            address may be dialled, see `tunnel.routing.addresses.AddressRules`. PuzzleRefused: see there.
    On error or cancellation: no socket is left open.
    """
    log.debug("node %s dials %s", node.name, short(peer.node_id))
    if peer.expiry < node.wall_clock() and not _is_configured(node, peer):
        raise NextRefused(
            f"its descriptor has expired: it served until {clock_text(peer.expiry)}, "
            f"and the clock here shows {clock_text(node.wall_clock())}"
        )
    if not peer.addresses:
        raise NextRefused("it has no address, and no link to this node")
    # A descriptor may name any address, also one of a machine behind this node's firewall.
    addresses = node.rules.dialable(peer.addresses)
    if not addresses:
        raise NextRefused("it has private addresses only, in no range declared as this network's")
    failure: Exception | None = None
    for address in addresses:
        try:
            return (yield from timeout_after(node.limits.dial_s, _dial_address(node, peer, address, puzzles)))
        except (Broken, UnexpectedEnd, HandshakeError, TimedOut) as error:
            failure = error
    log.debug("node %s could not reach %s: %s", node.name, short(peer.node_id), failure)
    raise NextRefused(_reason(failure)) from failure


def _is_configured(node: NodeContext, peer: Descriptor) -> bool:
    """Whether the user configured this peer as a first contact. Such a descriptor is used after its expiry:
    the link key never changes, and the first message on the link has the newest descriptor."""
    return isinstance(node.directory, ExchangeDirectory) and node.directory.is_configured(peer.node_id)


def _reason(failure: Exception | None) -> str:
    """The reason for the log and the error, without addresses."""
    if isinstance(failure, ConnectError) and failure.errno is not None:
        return os.strerror(failure.errno)
    if isinstance(failure, TimedOut):
        return "no answer in time"
    if isinstance(failure, UnexpectedEnd | HandshakeError):
        return "it broke off the handshake: another node is there, or one of another network or version"
    return "the connection broke"


def _dial_address(
    node: NodeContext, peer: Descriptor, address: Address, puzzles: DialPuzzles
) -> Service[HandshakeResult]:
    socket = yield from node.connect(address.host, address.port)
    try:
        initiator = Initiator(
            network_id=node.network_id,
            link_private=node.link_private,
            remote_link_key=peer.link_key,
            descriptor=node.descriptor,
            settings=_settings(node),
            engine=node.engine,
        )
        reader, writer = ReadYield(socket), WriteYield(socket)
        yield from writer.write_all(initiator.hello())
        answer = yield from _read(reader, M2_BYTES)
        if initiator.is_retry(answer):
            solution = yield from puzzles.solve(initiator.retry(answer))
            yield from writer.write_all(initiator.hello_again(solution))
            answer = yield from _read(reader, M2_BYTES)
        yield from writer.write_all(initiator.reply(answer))
        assert initiator.peer_settings is not None
        return HandshakeResult(socket, initiator.finish(), peer, initiator.peer_settings, is_dialler=True)
    except BaseException:
        socket.close()
        raise


def _settings(node: NodeContext) -> Settings:
    limits = node.limits
    return Settings.make(
        node.wall_clock(),
        node.descriptor.profiles,
        max_streams=1 if limits.link_policy is LinkPolicy.ONCE else limits.streams_per_link,
        padding=limits.padding,
    )


def accept_handshake(node: NodeContext, socket: Connection, newcomer: Newcomer) -> Service[HandshakeResult]:
    """Perform the responder's side of the handshake.

    Args:
        newcomer: its place, which is safer once its first message has proven valid.
    Raises:
        HandshakeError: not a handshake of this network with this node. LinkError: the connection ended early.
        Disconnected: it broke. PeerError (TIMEOUT): the handshake took longer than the limit.
    On error: the caller closes the socket.
    """
    try:
        return (yield from timeout_after(node.limits.handshake_s, _accept(node, socket, newcomer)))
    except TimedOut as error:
        raise PeerError(f"no handshake within {node.limits.handshake_s:g} s", ErrorCode.TIMEOUT) from error
    except UnexpectedEnd as error:
        raise LinkError(f"connection ended inside the handshake: {error}") from error
    except Broken as error:
        raise Disconnected(f"connection broke in the handshake: {error}") from error


def _accept(node: NodeContext, socket: Connection, newcomer: Newcomer) -> Service[HandshakeResult]:
    reader, writer = ReadYield(socket), WriteYield(socket)
    first = yield from _read(reader, M1_BYTES)
    responder = Responder(
        network_id=node.network_id,
        link_private=node.link_private,
        settings=_settings(node),
        engine=node.engine,
        load=node.newcomers.puzzle_bits(newcomer.network, now_s=node.now_s()),
    )
    yield from writer.write_all(responder.hello(first))
    if responder.awaits_hello:
        yield from writer.write_all(responder.hello((yield from _read(reader, M1_BYTES))))
    newcomer.has_spoken = True
    last = yield from _read(reader, M3_BYTES)
    peer = responder.final(last, now_s=node.wall_clock())
    assert responder.peer_settings is not None
    return HandshakeResult(socket, responder.finish(), peer, responder.peer_settings, is_dialler=False)


def _read(reader: ReadYield, count: int) -> Service[bytes]:
    buffer = bytearray(count)
    yield from reader.read_exactly(memoryview(buffer))
    return bytes(buffer)
