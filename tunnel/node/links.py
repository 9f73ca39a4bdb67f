"""Dialling, accepting and ending links: the handshake over a socket, as services.

Under policy `once` a link carries one frame each way and is then ended in order: GOAWAY, half-close, read to
the end, close. Closing with unread bytes in the receive buffer would make the kernel send RST, and the last
records would be lost on their way to the peer.
"""

from __future__ import annotations

import logging
import os

from reactor import (
    Broken,
    Closed,
    ConnectError,
    ReadYield,
    Service,
    SocketStream,
    TimedOut,
    UnexpectedEnd,
    WriteYield,
    connect_tcp,
    timeout_after,
)
from tunnel.descriptor import Descriptor, short
from tunnel.errors import Disconnected, HandshakeError, IdleTimeout, LinkError, NextRefused, PeerError
from tunnel.link.handshake import M1_BYTES, M2_BYTES, M3_BYTES, Initiator, Responder, Settings
from tunnel.node.context import NodeContext
from tunnel.node.wire import LinkStream

__all__ = ["accept_link", "dial", "end_link", "end_link_beside"]

log = logging.getLogger("tunnel.node")


def dial(node: NodeContext, peer: Descriptor) -> Service[LinkStream]:
    """Open a link to `peer`: each of its addresses in turn, then the handshake.

    Raises:
        NextRefused: no address answered in time, or what answered is not the peer. __cause__ says which.
    """
    log.debug("node %s dials %s", node.name, short(peer.node_id))
    if peer.expiry < node.wall_clock():
        raise NextRefused("the descriptor of the node to dial has expired")
    if not peer.addresses:
        raise NextRefused("the node to dial has no address")
    failure: Exception | None = None
    for address in peer.addresses:
        try:
            return (
                yield from timeout_after(
                    node.limits.dial_s, _dial_address(node, peer, address.host, address.port)
                )
            )
        except (Broken, UnexpectedEnd, HandshakeError, TimedOut) as error:
            failure = error
    log.debug("node %s could not reach %s: %s", node.name, short(peer.node_id), failure)
    raise NextRefused(f"the node to dial could not be reached: {_reason(failure)}") from failure


def _reason(failure: Exception | None) -> str:
    """Why, without an address: who a node talks to is not for the log."""
    if isinstance(failure, ConnectError) and failure.errno is not None:
        return os.strerror(failure.errno)
    if isinstance(failure, TimedOut):
        return "no answer in time"
    return type(failure).__name__


def _dial_address(node: NodeContext, peer: Descriptor, host: str, port: int) -> Service[LinkStream]:
    socket = yield from connect_tcp(host, port)
    try:
        initiator = Initiator(
            network_id=node.network_id,
            link_private=node.link_private,
            remote_link_key=peer.link_key,
            descriptor=node.descriptor,
            settings=Settings.make(node.wall_clock(), node.descriptor.profiles),
            engine=node.engine,
        )
        reader, writer = ReadYield(socket), WriteYield(socket)
        yield from writer.write_all(initiator.hello())
        answer = yield from _read(reader, M2_BYTES)
        yield from writer.write_all(initiator.reply(answer))
        return LinkStream(socket, initiator.finish(), peer_id=peer.node_id, dialled=True, engine=node.engine)
    except BaseException:
        socket.close()
        raise


def accept_link(node: NodeContext, socket: SocketStream) -> Service[LinkStream]:
    """The responder's side of the handshake.

    Raises:
        HandshakeError: what came is no handshake of this network with this node. LinkError: it ended early.
        IdleTimeout: it took longer than the limit.
    On error: the socket is still the caller's to close.
    """
    try:
        return (yield from timeout_after(node.limits.handshake_s, _accept(node, socket)))
    except TimedOut as error:
        raise IdleTimeout(f"no handshake within {node.limits.handshake_s:g} s") from error
    except UnexpectedEnd as error:
        raise LinkError(f"connection ended inside the handshake: {error}") from error
    except Broken as error:
        raise Disconnected(f"connection broke in the handshake: {error}") from error


def _accept(node: NodeContext, socket: SocketStream) -> Service[LinkStream]:
    responder = Responder(
        network_id=node.network_id,
        link_private=node.link_private,
        settings=Settings.make(node.wall_clock(), node.descriptor.profiles),
        engine=node.engine,
    )
    reader, writer = ReadYield(socket), WriteYield(socket)
    first = yield from _read(reader, M1_BYTES)
    yield from writer.write_all(responder.hello(first))
    last = yield from _read(reader, M3_BYTES)
    peer = responder.final(last, now_s=node.wall_clock())
    return LinkStream(socket, responder.finish(), peer_id=peer.node_id, dialled=False, engine=node.engine)


def _read(reader: ReadYield, count: int) -> Service[bytes]:
    buffer = bytearray(count)
    yield from reader.read_exactly(memoryview(buffer))
    return bytes(buffer)


def end_link(node: NodeContext, link: LinkStream) -> Service[None]:
    """End a link in order, within the linger limit; the connection is closed in every case.

    A peer that is gone, or does not end its side in time, is no error here: what both sides owed each other
    was settled before by FIN or RESET.
    """
    try:
        link.go_away()
        yield from timeout_after(node.limits.linger_s, _settle(link))
    except (PeerError, Broken, TimedOut) as error:
        log.debug("link did not end in order: %s", error)
    finally:
        link.close()


def end_link_beside(node: NodeContext, link: LinkStream) -> Service[None]:
    """End a link while the caller goes on: nobody's news waits for a slow neighbour's goodbye."""
    try:
        yield from node.scope.spawn(_end_counted(node, link), name=f"{node.name} end")
    except Closed:
        link.close()  # the node is being closed itself
    except BaseException:
        link.close()  # a cancellation that was on its way struck here
        raise


def _end_counted(node: NodeContext, link: LinkStream) -> Service[None]:
    node.ending += 1
    try:
        yield from end_link(node, link)
    finally:
        node.ending -= 1


def _settle(link: LinkStream) -> Service[None]:
    yield from WriteYield(link).flush()
    link.shutdown_write()
    reader = ReadYield(link)
    while (yield from reader.call(LinkStream.discard)):
        pass
