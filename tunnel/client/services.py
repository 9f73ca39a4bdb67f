"""Queries and tunnels for services of the reactor.

    client = ServiceClient(node)
    result = yield from client.query(bob_id, b"ping")
    with (yield from client.ask(bob_id, pieces())) as reply:
        while data := (yield from reply.read()):
            ...
    with (yield from client.tunnel(bob_id)) as tunnel:
        answer = yield from tunnel.ask(b"hello")
        yield from tunnel.close()

The clients for threads and asyncio have the same methods; only the way to wait differs. A time limit for any
call: `timeout_after(5, reply.read())`.
"""

from __future__ import annotations

from typing import Unpack

from reactor import Service, needs_yield_from
from tunnel.client.calls import AskingNode, make_call
from tunnel.node.query.contents import Content
from tunnel.node.query.reply import IncomingReply
from tunnel.node.query.request import CallOptions, TunnelOptions
from tunnel.node.query.running import QueryResult
from tunnel.node.tunnels.tunnel import NodeTunnel

__all__ = ["ServiceClient"]


class ServiceClient:
    """Queries and tunnels of a node, for services that run in its reactor."""

    def __init__(self, node: AskingNode) -> None:
        self._node = node

    @needs_yield_from
    def query(
        self,
        destination: bytes,
        content: Content = b"",
        *,
        service: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Service[QueryResult]:
        """Send a query and return its result when the whole reply has arrived. Args and errors: `Node.query`.

        Args:
            service: name of the service, if the destination offers several (`Services`).
        """
        call = make_call(self._node, destination, content, service, options)
        return (yield from self._node.query_service(call))

    @needs_yield_from
    def ask(
        self,
        destination: bytes,
        content: Content = b"",
        *,
        service: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Service[IncomingReply]:
        """Start a query and return its reply, to be read as it arrives. Args: as for `query`.

        Raises:
            TypeError, BadRoute, ProfileError: as `Node.query`. The reply raises what ends the query.
        """
        call = make_call(self._node, destination, content, service, options)
        return (yield from self._node.ask(call))

    @needs_yield_from
    def tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> Service[NodeTunnel]:
        """Open an established tunnel. Args and errors: `Node.open_tunnel`."""
        return (yield from self._node.open_tunnel(destination, **options))
