"""The listener: accepts connections within the node's limits, shakes hands, hands links to the table."""

from __future__ import annotations

import logging

from reactor import Service, SocketStream, TcpListener
from tunnel.errors import HandshakeError, PeerError, TableFull
from tunnel.node.context import NodeContext
from tunnel.node.handshakes import accept_handshake

__all__ = ["listen_service"]

log = logging.getLogger("tunnel.node")


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
