"""Queries and tunnels for asyncio.

    async with AsyncClient(node) as client:
        result = await client.query(bob_id, b"ping")
        async with await client.ask(bob_id, pieces()) as reply:
            async for data in reply:
                ...
        async with await client.tunnel(bob_id) as tunnel:
            answer = await tunnel.ask(b"hello")

The node's reactor runs in another thread, or within asyncio's loop (`reactor.run.aio.EmbeddedReactor`, to be
given as `bridge`). Cancelling a task cancels its call and waits for the clean-up. A time
limit for any call: `asyncio.timeout(5)`.

`tunnel.client` does not import this module: asyncio takes longer to import than everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, Unpack

from reactor import (
    Closed,
    Service,
    ServiceCancelled,
)
from reactor.errors import Forked
from reactor.run.aio import AsyncioBridge
from tunnel.client.calls import READ_BYTES, AskingNode, Owned, check_running, make_call
from tunnel.codes import Report
from tunnel.errors import NodeStopped
from tunnel.established import Target
from tunnel.geometry import Profile
from tunnel.node.query.contents import Content, as_piece
from tunnel.node.query.reply import IncomingReply
from tunnel.node.query.request import CallOptions, TunnelOptions
from tunnel.node.query.running import QueryResult
from tunnel.node.tunnels.open_tunnel import OpenStream, OpenTunnel
from tunnel.node.tunnels.tunnel import MESSAGE_BYTES

__all__ = ["AsyncClient", "AsyncReply", "AsyncStream", "AsyncTunnel"]

T = TypeVar("T")

AsyncContent: TypeAlias = "Content | AsyncIterable[bytes]"


class AsyncClient:
    """Queries and tunnels of a node, for one or several asyncio loops. A context manager.

    Replies and tunnels may be used in any of these loops.

    Args:
        node: sends the queries.
        bridge: an open bridge to the node's reactor. By default the client makes its own, for a reactor in
            another thread.
    """

    def __init__(self, node: AskingNode, *, bridge: AsyncioBridge | None = None) -> None:
        self._node = node
        self._is_owner = bridge is None
        self._bridge = AsyncioBridge(node.reactor) if bridge is None else bridge

    async def query(
        self,
        destination: bytes,
        content: AsyncContent = b"",
        *,
        service: str | None = None,
        **options: Unpack[CallOptions],
    ) -> QueryResult:
        """Send a query and return its result when the whole reply has arrived. Args and errors: `Node.query`.

        Args:
            content: an asynchronous iterator of bytes is allowed as well.
            service: name of the service, if the destination offers several (`Services`).
            progress (of the options): called in asyncio's thread.
        """
        call = make_call(self._node, destination, self._content(content), service, self._options(options))
        return await _run(self._bridge, self._node.query_service(call))

    async def ask(
        self,
        destination: bytes,
        content: AsyncContent = b"",
        *,
        service: str | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncReply:
        """Start a query and return its reply, to be read as it arrives. Args: as for `query`.

        Raises:
            TypeError, BadRoute, ProfileError: as `Node.query`. The reply raises what ends the query.
        """
        call = make_call(self._node, destination, self._content(content), service, self._options(options))
        reply = await _run_owned(self._bridge, self._node.ask(call), IncomingReply.cancel)
        return AsyncReply(self._bridge, reply)

    async def tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> AsyncTunnel:
        """Open an established tunnel. Args and errors: `Node.open_tunnel`."""
        check_running(self._node)
        opening = self._node.open_tunnel(destination, **options)
        return AsyncTunnel(self._bridge, await _run_owned(self._bridge, opening, OpenTunnel.give_up))

    async def __aenter__(self) -> Self:
        if self._is_owner:
            await self._bridge.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_owner:
            await self._bridge.__aexit__(kind, error, trace)

    def _content(self, content: AsyncContent) -> Content:
        if not isinstance(content, AsyncIterable):
            return content
        pieces, loop = aiter(content), asyncio.get_running_loop()

        async def next_piece() -> bytes:
            async for piece in pieces:
                if data := as_piece(piece):
                    return data
            return b""

        def read() -> Service[bytes]:
            return (yield from self._bridge.wait(next_piece(), loop))

        return read

    def _options(self, options: CallOptions) -> CallOptions:
        """The options, with `progress` called in asyncio's thread."""
        progress = options.get("progress")
        if progress is None:
            return options
        tell, loop = progress, asyncio.get_running_loop()

        def hand_over(sent: int, received: int) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, sent, received)

        return CallOptions(**{**options, "progress": hand_over})


class AsyncReply:
    """`IncomingReply` for asyncio. Iterating yields its pieces; leaving the context cancels the rest.

    Raises, from each method: the errors of `IncomingReply`.
    """

    def __init__(self, bridge: AsyncioBridge, reply: IncomingReply) -> None:
        self._bridge = bridge
        self._reply = reply

    async def read(self, limit_bytes: int = READ_BYTES) -> bytes:
        """Read at least one byte; b"" only when the whole query has succeeded."""
        return await _run(self._bridge, self._reply.read(limit_bytes))

    async def result(self) -> QueryResult:
        """Wait for the end of the query, discarding the rest of the reply."""
        return await _run(self._bridge, self._reply.result())

    def cancel(self) -> None:
        """End the query."""
        _post(self._bridge, self._reply.cancel)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class AsyncTunnel:
    """`OpenTunnel` for asyncio; several tasks may use it at once.

    Iterating yields the incoming messages. At the end of a `with` block the tunnel is closed; an error aborts
    it.

    Raises, from each method: the errors of `OpenTunnel`.
    """

    def __init__(self, bridge: AsyncioBridge, tunnel: OpenTunnel) -> None:
        self._bridge = bridge
        self._tunnel = tunnel

    @property
    def profile(self) -> Profile:
        """How long its chunks are: `profile.geometry.chunk_bytes`."""
        return self._tunnel.profile

    async def send(self, message: bytes) -> None:
        """Send one whole message. Cancellation in the middle of the message aborts the tunnel."""
        await _run(self._bridge, self._tunnel.send(message))

    async def receive(self, limit_bytes: int = MESSAGE_BYTES) -> bytes | None:
        """Receive one whole message; None: the other end sends no more. Cancellation loses nothing."""
        return await _run(self._bridge, self._tunnel.receive(limit_bytes))

    async def ask(self, message: bytes, limit_bytes: int = MESSAGE_BYTES) -> bytes | None:
        """Send a message and receive one at the same time."""
        return await _run(self._bridge, self._tunnel.ask(message, limit_bytes))

    async def write(self, data: bytes) -> None:
        """Send a part of a message."""
        await _run(self._bridge, self._tunnel.write(data))

    async def flush(self) -> None:
        """Send buffered bytes now."""
        await _run(self._bridge, self._tunnel.flush())

    async def end_message(self) -> None:
        """End the message; the next `write` begins another."""
        await _run(self._bridge, self._tunnel.end_message())

    async def next_message(self) -> bool:
        """Wait for the next message. False: the other end sends no more."""
        return await _run(self._bridge, self._tunnel.next_message())

    async def read(self, limit_bytes: int = 65_536) -> bytes:
        """Read from the message that `next_message` began; b"" at its end."""
        return await _run(self._bridge, self._tunnel.read(limit_bytes))

    async def open(self, target: str | Target) -> AsyncStream:
        """Open a sub-stream and wait for the other end to accept it; see `OpenTunnel.open`."""
        opening = self._tunnel.open(target)
        return AsyncStream(self._bridge, await _run_owned(self._bridge, opening, OpenStream.give_up))

    async def stop_sending(self) -> None:
        """End this end's messages and sub-streams; those of the other end can still be received."""
        await _run(self._bridge, self._tunnel.stop_sending())

    async def close(self) -> Report | None:
        """Close in order. After a cancellation, call `give_up`."""
        return await _run(self._bridge, self._tunnel.close())

    def give_up(self) -> None:
        """Abort the tunnel in both directions."""
        _post(self._bridge, self._tunnel.give_up)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.receive()) is not None:
            yield message

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self.give_up()


class AsyncStream:
    """`OpenStream` for asyncio."""

    def __init__(self, bridge: AsyncioBridge, stream: OpenStream) -> None:
        self._bridge = bridge
        self._stream = stream

    async def read(self, limit_bytes: int = 65_536) -> bytes:
        """Read bytes; b"" when the other end has closed its half."""
        return await _run(self._bridge, self._stream.read(limit_bytes))

    async def write(self, data: bytes) -> None:
        """Send bytes immediately."""
        await _run(self._bridge, self._stream.write(data))

    def close(self) -> None:
        """Close this half after the written bytes; the other half stays open."""
        _post(self._bridge, self._stream.close)

    def give_up(self) -> None:
        """Abort both halves."""
        _post(self._bridge, self._stream.give_up)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _post(self._bridge, partial(self._stream.leave, in_order=error is None))


async def _run(bridge: AsyncioBridge, service: Service[T]) -> T:
    """Await a service."""
    try:
        return await bridge.run(service, name="client")
    except ServiceCancelled as error:
        if bridge.was_left_by(asyncio.get_running_loop()):
            raise Closed("the client was closed while this call ran") from error
        raise NodeStopped() from error
    except Forked:
        raise  # not stopped: the node runs, in another process
    except Closed as error:
        if not bridge.reactor.is_closed:
            raise  # the client, by its user
        raise NodeStopped() from error


async def _run_owned(bridge: AsyncioBridge, service: Service[T], release: Callable[[T], None]) -> T:
    """Await a service whose result needs releasing: cancellation may arrive just after it was made."""
    made = Owned(service)
    try:
        return await _run(bridge, made.run())
    except BaseException:
        _post(bridge, lambda: made.release(release))
        raise


def _post(bridge: AsyncioBridge, function: Callable[[], Any]) -> None:
    with contextlib.suppress(Closed):  # everything has ended already
        bridge.reactor.post(function)
