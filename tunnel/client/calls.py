"""From what a user of a client says to the query that is sent: the same for all kinds of clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from reactor import Service
from tunnel.node.api_service import QueryCall
from tunnel.node.contents import Content, Prefixed
from tunnel.node.node import Node
from tunnel.node.options import CallOptions
from tunnel.services.router import service_prefix

__all__ = ["READ_BYTES", "Owned", "make_call"]

READ_BYTES: Final = 256 * 1024
"""What one crossing between threads brings at most: all that may wait."""


T = TypeVar("T")


def make_call(
    node: Node, destination: bytes, content: Content, service: str | None, options: CallOptions
) -> QueryCall:
    """The query. Args and errors: `Node.query`; service: the name of one of several there."""
    if service is not None:
        content = _prefixed(service_prefix(service), content)
    return node.call(destination, content, **options)


def _prefixed(prefix: bytes, content: Content) -> Content:
    if isinstance(content, bytes | bytearray | memoryview):
        return prefix + bytes(content)
    return Prefixed(prefix, content)


class Owned(Generic[T]):
    """A service whose result is remembered, for whoever was cancelled while it came to him."""

    def __init__(self, service: Service[T]) -> None:
        self._service = service
        self._made: list[T] = []

    def run(self) -> Service[T]:
        made = yield from self._service
        self._made.append(made)
        return made

    def release(self, release: Callable[[T], None]) -> None:
        """Let go of the result, if it was made."""
        for made in self._made:
            release(made)
