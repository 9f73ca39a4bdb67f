"""The interface of an inner service: a generator that reads a query stream and may write a reply stream.

Both streams have any length, and the reply may begin before the query has ended:

    class Upper(InnerService):
        def handle(self, query, reply):
            while chunk := (yield from query.read()):
                yield from reply.write(chunk.upper())

A plain function with the same two arguments will do as well: `Node(..., service=upper)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeAlias

from tunnel.errors import LocalTunnelError, TargetNotAllowed

__all__ = ["InnerService", "Query", "Reply", "ServiceFunction", "Tunnel", "as_service"]


class Query(Protocol):
    """The content of one query."""

    def read(self) -> Generator[Any, Any, bytes]:
        """The next bytes of the content, at least one; b"" at its end, and only there.

        Raises:
            PeerError: the frame broke off, was reset, or does not open. Let it through: the node reports it.
        """
        ...


class Reply(Protocol):
    """The answer to one query."""

    @property
    def is_possible(self) -> bool:
        """False in mode `none`: what is written is counted and dropped."""
        ...

    def write(self, data: bytes) -> Generator[Any, Any, None]:
        """Send bytes of the answer; waits while the way back is full. Bytes leave in whole chunks.

        Raises:
            PeerError: the way back broke. Let it through: the node reports it.
        """
        ...

    def flush(self) -> Generator[Any, Any, None]:
        """Send what is written so far, in a chunk that is padded where it is not full."""
        ...

    def end(self) -> Generator[Any, Any, None]:
        """End this reply now; the query can still be read. A service that returns ends its reply as well.

        Its reader sees the end behind all that was written. A `write` after it is a LocalTunnelError.

        Raises:
            PeerError: the way back broke. Let it through: the node reports it.
        """
        ...

    @property
    def remaining(self) -> int:
        """How many replies may follow this one: the query was sent for so many (`Node.query`, `replies`)."""
        ...

    def next(self) -> Generator[Any, Any, None]:
        """End this reply, wait until it has arrived, and begin the next one.

        Those that a service does not begin are sent empty, so that the one who asked need not wait for them.

        Raises:
            LocalTunnelError: none remains. PeerError: the way back broke; let it through.
        """
        ...


class Tunnel(Protocol):
    """An established tunnel, as a service sees it; see `tunnel.node.tunnels.NodeTunnel`."""

    def send(self, message: bytes) -> Generator[Any, Any, None]:
        """Send one whole message."""
        ...

    def receive(self, limit_bytes: int = 1 << 20) -> Generator[Any, Any, bytes | None]:
        """Wait for one whole message. None: the other end sends no more."""
        ...

    def next_message(self) -> Generator[Any, Any, bool]:
        """Wait for the next message. False: the other end sends no more."""
        ...

    def read(self, limit_bytes: int = 65_536) -> Generator[Any, Any, bytes]:
        """Read from the message; b"" at its end."""
        ...

    def write(self, data: bytes) -> Generator[Any, Any, None]:
        """Send a part of a message."""
        ...

    def flush(self) -> Generator[Any, Any, None]:
        """Let what was written leave now."""
        ...

    def end_message(self) -> Generator[Any, Any, None]:
        """End the message."""
        ...


class _TunnelQuery:
    """`Query` over one message of a tunnel."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def read(self) -> Generator[Any, Any, bytes]:
        return (yield from self._tunnel.read())


class _TunnelReply:
    """`Reply` as one message of a tunnel."""

    is_possible = True
    remaining = 0  # a message has one answer

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._has_ended = False

    def write(self, data: bytes) -> Generator[Any, Any, None]:
        if self._has_ended:
            raise LocalTunnelError("write after the end of the reply")
        yield from self._tunnel.write(data)

    def flush(self) -> Generator[Any, Any, None]:
        if not self._has_ended:
            yield from self._tunnel.flush()

    def end(self) -> Generator[Any, Any, None]:
        if not self._has_ended:
            self._has_ended = True
            yield from self._tunnel.end_message()

    def next(self) -> Generator[Any, Any, None]:
        yield from ()
        raise LocalTunnelError("a message of a tunnel has one answer")


class InnerService(ABC):
    """Handles the queries of one node; one object serves them all, each in a service of its own."""

    @abstractmethod
    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        """Serve one query.

        Read the query to its end before an answer that takes long: proxies end a query on which nothing moves
        for `Limits.idle_s`. When this returns the reply is ended, and what is left of the query is read and
        thrown away.
        A service that neither reads nor writes for `Limits.answer_s` is ended by the node. An error that
        leaves this generator ends the query at the other side with SERVICE_FAILED, and is logged here.
        """
        ...

    def tunnel(self, tunnel: Tunnel) -> Generator[Any, Any, None]:
        """Serve one established tunnel.

        Unless a service does better: each message is a query for `handle`, and its answer a message, in the
        same order. When this returns the tunnel is closed from this end.
        """
        while (yield from tunnel.next_message()):
            query, reply = _TunnelQuery(tunnel), _TunnelReply(tunnel)
            yield from self.handle(query, reply)
            yield from reply.end()  # first: the other end may wait for it before it ends its own message
            while (yield from query.read()):
                pass  # what the service left unread

    def find(self, name: bytes) -> InnerService:
        """The service for sub-streams of an established tunnel to a target of kind SERVICE.

        It gets what the other end writes, to its end, as a query; its reply goes back on the same sub-stream.

        Raises:
            TargetNotAllowed: none has that name; unless a service does better, that is so of every name.
        """
        raise TargetNotAllowed("no service of that name is here")


ServiceFunction: TypeAlias = Callable[[Query, Reply], Generator[Any, Any, None]]
"""A service as a function: a generator, like `InnerService.handle`."""


class _FunctionService(InnerService):
    """A function as a service."""

    def __init__(self, function: ServiceFunction) -> None:
        self._function = function

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        serving = self._function(query, reply)
        if not isinstance(serving, Generator):
            raise TypeError(
                f"{self._function!r} is no generator; one that blocks is made a service by `blocking`"
            )
        yield from serving


def as_service(service: InnerService | ServiceFunction) -> InnerService:
    """A service, from a service or from a function. Raises TypeError: neither."""
    if isinstance(service, InnerService):
        return service
    if callable(service) and not isinstance(service, type):
        return _FunctionService(service)
    raise TypeError(f"a service is an InnerService or a generator function, got {service!r}")
