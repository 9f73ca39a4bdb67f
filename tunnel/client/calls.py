"""What all kinds of clients share: the node they need, and how arguments become a query."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol, TypeVar, Unpack

from reactor import (
    Closed,
    Reactor,
    Service,
)
from reactor.errors import Forked
from tunnel.errors import NodeStopped
from tunnel.geometry import Profile
from tunnel.node.query.contents import Content, Prefixed, as_content
from tunnel.node.query.reply import IncomingReply
from tunnel.node.query.request import CallOptions, QueryOptions, QueryRequest, TunnelOptions
from tunnel.node.query.running import QueryResult
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.routing.route import Route
from tunnel.services.base import service_prefix

__all__ = ["AskingNode", "Undoing", "check_running", "make_call"]

T = TypeVar("T")


class AskingNode(Protocol):
    """What clients need of a node: a `Node` of this process, or one that runs elsewhere (`ControlClient`)."""

    @property
    def id(self) -> bytes: ...
    @property
    def reactor(self) -> Reactor: ...
    def draw_hops(self) -> int: ...
    def call(
        self, destination: bytes, content: Content = b"", **options: Unpack[QueryOptions]
    ) -> QueryRequest: ...
    def query(
        self, destination: bytes, content: Content, **options: Unpack[QueryOptions]
    ) -> Future[QueryResult]: ...
    def query_service(self, call: QueryRequest) -> Service[QueryResult]: ...
    def ask(self, call: QueryRequest) -> Service[IncomingReply]: ...
    def choose_route(self, destination: bytes, hops: int, profile: Profile) -> Route: ...
    def open_tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> Service[NodeTunnel]: ...


class Undoing(Protocol):
    """An object that takes back the result of a call whose caller was cancelled as it arrived."""

    def numbered(self, reading: Service[T], /) -> Service[tuple[int, T]]: ...


def make_call(
    node: AskingNode, destination: bytes, content: Content, service: str | None, options: CallOptions
) -> QueryRequest:
    """The query. Args and errors: `Node.query`; service: the name of one of several there.

    Raises, as well: NodeStopped, the reactor of the node is closed.
    """
    check_running(node)
    if service is not None:
        content = _prefixed(service_prefix(service), content)
    return node.call(destination, content, **options)


def check_running(node: AskingNode) -> None:
    """Check that the node's reactor runs: a service made in vain would warn about a forgotten `yield from`.

    Raises:
        NodeStopped: its reactor is closed. Forked: it is the reactor of a parent process.
    """
    try:
        node.reactor.check_usable()
    except Forked:
        raise
    except Closed as error:
        raise NodeStopped() from error


def _prefixed(prefix: bytes, content: Content) -> Content:
    content = as_content(content)
    if isinstance(content, bytes | memoryview):
        return b"".join((prefix, content))
    return Prefixed(prefix, content)
