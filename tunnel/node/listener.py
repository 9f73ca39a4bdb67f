"""The listener: accepts connections within the node's limits and gives each a read service."""

from __future__ import annotations

import logging

from reactor import Service, TcpListener
from tunnel.node.context import NodeContext
from tunnel.node.read_service import read_service

__all__ = ["listen_service"]

log = logging.getLogger("tunnel.node")


def listen_service(node: NodeContext, listener: TcpListener) -> Service[None]:
    """Run for the node's life. A connection above a limit is closed at once: who is inside stays unharmed."""
    while True:
        socket = yield from listener.accept()
        limits = node.limits
        if node.connections >= limits.connections or node.half_open >= limits.half_open:
            log.warning(
                "node %s refused a connection: %d are open (limit %d), %d without handshake (limit %d)",
                node.name, node.connections, limits.connections, node.half_open, limits.half_open,
            )  # fmt: skip
            socket.close()
            continue
        # Counted here and not in the service: a crowd is accepted before the first of its services runs.
        node.connections += 1
        node.half_open += 1
        try:
            yield from node.scope.spawn(read_service(node, socket), name=f"{node.name} read")
        except BaseException:
            # A cancellation that was on its way struck here: no service has taken the connection.
            node.connections -= 1
            node.half_open -= 1
            socket.close()
            raise
