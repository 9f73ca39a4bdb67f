"""The listener: accepts connections within the node's limits, shakes hands, hands links to the table."""

from __future__ import annotations

import logging

from reactor import Service, SocketStream, TcpListener
from tunnel.errors import HandshakeError, PeerError
from tunnel.node.context import NodeContext
from tunnel.node.handshakes import accept_handshake

__all__ = ["listen_service"]

log = logging.getLogger("tunnel.node")


def listen_service(node: NodeContext, listener: TcpListener) -> Service[None]:
    """Run for the node's life. A connection above a limit is closed at once: who is inside stays unharmed."""
    while True:
        socket = yield from listener.accept()
        limits = node.limits
        held = len(node.links) + node.half_open
        if held >= limits.links or node.half_open >= limits.half_open:
            log.warning(
                "node %s refused a connection: %d are open (limit %d), %d without handshake (limit %d)",
                node.name, held, limits.links, node.half_open, limits.half_open,
            )  # fmt: skip
            socket.close()
            continue
        # Counted here and not in the service: a crowd is accepted before the first of its services runs.
        node.half_open += 1
        try:
            yield from node.scope.spawn(_welcome(node, socket), name=f"{node.name} accept")
        except BaseException:
            # A cancellation that was on its way struck here: no service has taken the connection.
            node.half_open -= 1
            socket.close()
            raise


def _welcome(node: NodeContext, socket: SocketStream) -> Service[None]:
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
        node.half_open -= 1
