"""Queries and tunnels for services of the reactor.

    client = ServiceClient(node)
    result = yield from client.query(bob_id, b"ping")
    with (yield from client.ask(bob_id, pieces())) as reply:
        while data := (yield from reply.read()):
            ...
    with (yield from client.tunnel(bob_id)) as tunnel:
        answer = yield from tunnel.ask(b"hello")
        yield from tunnel.close()

The clients for threads and for asyncio have the same names, which mean the same; only how one waits differs.
For a limit on any wait: `timeout_after(5, reply.read())`.
"""

from __future__ import annotations

from typing import Unpack

from reactor import Service, needs_yield_from
from tunnel.client.calls import AskingNode, make_call
from tunnel.node.query.contents import Content
from tunnel.node.query.reply import IncomingReply
from tunnel.node.query.request import CallOptions, TunnelOptions
from tunnel.node.query.running import QueryResult
from tunnel.node.tunnels.open_tunnel import OpenTunnel

__all__ = ["ServiceClient"]


class ServiceClient:
    """Args: node: asks; its reactor runs the services that use this."""

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
        """Send a query, and give its result when the whole reply is here. Args and errors: `Node.query`.

        Args:
            service: the name of the service there, where several are.
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
        """Begin a query, and give its reply, to be read while it comes. Args: as for `query`.

        Raises:
            TypeError, BadRoute, ProfileError: as `Node.query`. What happens to the query is told by the
            reply.
        """
        call = make_call(self._node, destination, content, service, options)
        return (yield from self._node.ask(call))

    @needs_yield_from
    def tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> Service[OpenTunnel]:
        """Open an established tunnel. Args and errors: `Node.open_tunnel`."""
        return (yield from self._node.open_tunnel(destination, **options))
