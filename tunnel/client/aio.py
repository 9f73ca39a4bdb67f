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
import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeAlias, TypeVar, Unpack

from reactor import Closed, Service, ServiceCancelled
from reactor.errors import Forked
from reactor.run.aio import AsyncioBridge
from tunnel.arguments import EnteredOnce
from tunnel.client.clients import AskingNode, Undoing, asking, make_call, make_tunnel
from tunnel.established import Target
from tunnel.geometry import Profile
from tunnel.identity.client_key import ClientKey
from tunnel.node.query.contents import Content, as_piece
from tunnel.node.query.incoming_replies import IncomingReply, QueryResult, ended_error
from tunnel.node.query.request import CallOptions, TunnelOptions
from tunnel.node.tunnels.tunnel import NodeTunnel, TunnelStream

__all__ = ["AsyncClient", "AsyncReply", "AsyncStream", "AsyncTunnel"]

T = TypeVar("T")

AsyncContent: TypeAlias = "Content | AsyncIterable[bytes]"


class _ClientBridge(AsyncioBridge):
    _called = "client"


class AsyncClient:
    """Queries and tunnels of a node, for one or several asyncio loops. A context manager.

    Replies and tunnels may be used in any of these loops. The context may be entered again, also when it was
    left: a client that serves several loops in turn is opened by each.

    Args:
        node: sends the queries.
        bridge: an open bridge to the node's reactor. By default the client makes its own, for a reactor in
            another thread.
    """

    def __init__(self, node: AskingNode, *, bridge: AsyncioBridge | None = None) -> None:
        self._node = asking(node)
        self._is_owner = bridge is None
        self._bridge = _ClientBridge(node.reactor) if bridge is None else bridge

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
        return await _run(self._bridge, self._node.query_service(call), QueryResult.close)

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
        reply = await _run(self._bridge, self._node.ask(call), IncomingReply.cancel)
        return AsyncReply(self._bridge, reply)

    async def tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> AsyncTunnel:
        """Open an established tunnel. Args and errors: `Node.open_tunnel`."""
        opening = make_tunnel(self._node, destination, options)
        return AsyncTunnel(self._bridge, await _run(self._bridge, opening, NodeTunnel.give_up))

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


S = TypeVar("S", bound=Undoing)
S_co = TypeVar("S_co", covariant=True)
P = ParamSpec("P")


class _Face(Generic[S_co]):
    """The asyncio face of an object of the reactor."""

    def __init__(self, bridge: AsyncioBridge, shared: S_co) -> None:
        self._bridge = bridge
        self.inner = shared  # not API


def _awaited(
    method: Callable[Concatenate[S, P], Service[T]], undo: Callable[[S, int, T], None] | None = None
) -> Callable[Concatenate[_Face[S], P], Coroutine[Any, Any, T]]:
    """The awaitable form of a method.

    Args:
        undo: gives the result to the next caller; for results that must not be lost.
    """

    @functools.wraps(method)
    async def call(face: _Face[S], /, *args: P.args, **kwargs: P.kwargs) -> T:
        shared = face.inner
        service = method(shared, *args, **kwargs)
        if undo is None:
            return await _run(face._bridge, service)
        _, result = await _run(
            face._bridge, shared.numbered(service), lambda numbered: undo(shared, *numbered)
        )
        return result

    return call


def _posted(method: Callable[[S], None]) -> Callable[[_Face[S]], None]:
    """The same method, posted to the reactor."""

    @functools.wraps(method)
    def call(face: _Face[S], /) -> None:
        _post(face._bridge, partial(method, face.inner))

    return call


class AsyncReply(_Face[IncomingReply], EnteredOnce):
    """`IncomingReply` for asyncio. Iterating yields its pieces; leaving the context cancels the rest.

    Raises, from each method: the errors of `IncomingReply`.
    """

    read = _awaited(IncomingReply.read, IncomingReply.undo_read)
    result = _awaited(IncomingReply.result)
    cancel = _posted(IncomingReply.cancel)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def __aenter__(self) -> Self:
        return self.enter_once("reply", "async with await client.ask(...) as reply")

    async def __aexit__(self, *_: object) -> None:
        self.cancel()


class AsyncTunnel(_Face[NodeTunnel], EnteredOnce):
    """`NodeTunnel` for asyncio; several tasks may use it concurrently.

    Iterating yields the incoming messages. At the end of a `with` block the tunnel is closed; an error aborts
    it. Cancelling a receiving call loses nothing.

    Raises, from each method: the errors of `NodeTunnel`.
    """

    send = _awaited(NodeTunnel.send)
    receive = _awaited(NodeTunnel.receive, NodeTunnel.undo_receive)
    ask = _awaited(NodeTunnel.ask, NodeTunnel.undo_ask)
    write = _awaited(NodeTunnel.write)
    flush = _awaited(NodeTunnel.flush)
    end_message = _awaited(NodeTunnel.end_message)
    next_message = _awaited(NodeTunnel.next_message, NodeTunnel.undo_next_message)
    read = _awaited(NodeTunnel.read, NodeTunnel.undo_read)
    stop_sending = _awaited(NodeTunnel.stop_sending)
    close = _awaited(NodeTunnel.close)

    def give_up(self) -> None:
        """Abort the tunnel in both directions."""
        self.inner.leave()
        _post(self._bridge, self.inner.give_up)

    @property
    def profile(self) -> Profile:
        """The profile; its chunk length is `profile.geometry.chunk_bytes`."""
        return self.inner.profile

    async def open(self, target: str | Target, *, client_key: ClientKey | None = None) -> AsyncStream:
        """Open a sub-stream and wait for the other end to accept it; see `NodeTunnel.open`."""
        opening = self.inner.open(target, client_key=client_key)
        return AsyncStream(self._bridge, await _run(self._bridge, opening, TunnelStream.give_up))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.receive()) is not None:
            yield message

    async def __aenter__(self) -> Self:
        return self.enter_once("tunnel", "async with await client.tunnel(...) as tunnel")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self.give_up()


class AsyncStream(_Face[TunnelStream], EnteredOnce):
    """`TunnelStream` for asyncio."""

    read = _awaited(TunnelStream.read, TunnelStream.undo_read)
    write = _awaited(TunnelStream.write)
    close = _posted(TunnelStream.close)
    give_up = _posted(TunnelStream.give_up)

    async def __aenter__(self) -> Self:
        return self.enter_once("sub-stream", "async with await tunnel.open(...) as stream")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _post(self._bridge, partial(self.inner.leave, in_order=error is None))


async def _run(bridge: AsyncioBridge, service: Service[T], release: Callable[[T], object] | None = None) -> T:
    """Await a service.

    Args:
        release: called in the reactor with a result that arrives as the caller is cancelled.
    """
    try:
        return await bridge.run(service, name="client", release=release)
    except ServiceCancelled as error:
        if bridge.was_left_by(asyncio.get_running_loop()):
            raise Closed("the client was closed") from error
        raise ended_error(bridge.reactor) from error
    except Forked:
        raise  # not stopped: the node runs, in another process
    except Closed as error:
        if not bridge.reactor.is_closed:
            raise  # the client, by its user
        raise ended_error(bridge.reactor) from error


def _post(bridge: AsyncioBridge, function: Callable[[], Any]) -> None:
    with contextlib.suppress(Closed):  # everything has ended already
        bridge.reactor.post(function)
