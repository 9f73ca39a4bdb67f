"""Queries and tunnels for threads (`Client`) and for services of the reactor (`ServiceClient`).

    client = Client(node)
    result = client.query(bob_id, b"ping").result(timeout=5)
    with client.ask(bob_id, pieces()) as reply:
        for data in reply:
            ...
    with client.tunnel(bob_id) as tunnel:
        answer = tunnel.ask(b"hello", timeout_s=5)

A `Client` is not for the thread of the node's reactor, which would wait for itself: that is `reactor.Busy`.
There, and for asyncio (aio.py), the methods are the same, and only the way to wait differs:

    client = ServiceClient(node)
    result = yield from client.query(bob_id, b"ping")
    with (yield from client.tunnel(bob_id)) as tunnel:
        answer = yield from timeout_after(5, tunnel.ask(b"hello"))
        yield from tunnel.close()

At the end of this file a call crosses from a thread into the reactor (`_run`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, Unpack

from reactor import Closed, Reactor, Service, needs_yield_from, timeout_after
from reactor.errors import Forked
from tunnel.arguments import EnteredOnce, check_options, checked_seconds
from tunnel.codes import Report
from tunnel.established import Target
from tunnel.geometry import Profile
from tunnel.identity.client_key import ClientKey
from tunnel.node.query.attempts import submit
from tunnel.node.query.contents import Content, Prefixed, as_content
from tunnel.node.query.incoming_replies import REPLY_WINDOW_BYTES, IncomingReply, QueryResult, ended_error
from tunnel.node.query.request import CallOptions, QueryOptions, QueryRequest, TunnelOptions
from tunnel.node.tunnels.tunnel import MESSAGE_BYTES, NodeTunnel, TunnelStream
from tunnel.routing.route import Route
from tunnel.services.base import service_prefix

__all__ = [
    "AskingNode",
    "Client",
    "ServiceClient",
    "ThreadReply",
    "ThreadStream",
    "ThreadTunnel",
    "Undoing",
    "asking",
    "check_running",
    "make_call",
    "make_tunnel",
]


T = TypeVar("T")


class AskingNode(Protocol):
    """A node as clients use it: a `Node` of this process, or one in another process (`ControlClient`)."""

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
    def choose_route(self, destination: bytes, hops: int, profile: Profile | str | None = None) -> Route: ...
    def open_tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> Service[NodeTunnel]: ...


class Undoing(Protocol):
    """An object that takes back a result that arrived while its caller was being cancelled."""

    def numbered(self, reading: Service[T], /) -> Service[tuple[int, T]]: ...


def make_call(
    node: AskingNode, destination: bytes, content: Content, service: str | None, options: CallOptions
) -> QueryRequest:
    """The query. Args and errors: `Node.query`; service: the name of one of several there.

    Raises, as well: NodeStopped; Closed, of a client: the reactor of the node is closed.
    """
    check_running(node)
    if service is not None:
        content = _prefixed(service_prefix(service), content)
    return node.call(destination, content, **options)


def asking(node: AskingNode) -> AskingNode:
    """The node of a client. Raises TypeError: the object cannot send queries."""
    if isinstance(getattr(node, "reactor", None), Reactor):
        return node
    hint = f": write connect({str(node)!r})" if isinstance(node, str | Path) else ""
    raise TypeError(f"node: expected a Node, or the result of `connect`, got {node!r}{hint}")


def make_tunnel(node: AskingNode, destination: bytes, options: TunnelOptions) -> Service[NodeTunnel]:
    """Open a tunnel. Args and errors: `Node.open_tunnel`."""
    check_running(node)
    check_options(options, TunnelOptions.__annotations__)
    return node.open_tunnel(destination, **options)


def check_running(node: AskingNode) -> None:
    """Check that the node's reactor runs: an unused service would warn about a forgotten `yield from`.

    Raises:
        NodeStopped; Closed, of a client: its reactor is closed.
        Forked: it is the reactor of a parent process.
    """
    try:
        node.reactor.check_usable()
    except Forked:
        raise
    except Closed as error:
        raise ended_error(node.reactor) from error


def _prefixed(prefix: bytes, content: Content) -> Content:
    content = as_content(content)
    if isinstance(content, bytes | memoryview):
        return b"".join((prefix, content))
    return Prefixed(prefix, content)


class ServiceClient:
    """Queries and tunnels of a node, for services that run in its reactor."""

    def __init__(self, node: AskingNode) -> None:
        self._node = asking(node)

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
        return (yield from make_tunnel(self._node, destination, options))


S = TypeVar("S", bound=Undoing)


class Client:
    """Queries and tunnels of a node, for any thread except that of its reactor."""

    def __init__(self, node: AskingNode) -> None:
        self._node = asking(node)

    def query(
        self,
        destination: bytes,
        content: Content = b"",
        *,
        service: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Future[QueryResult]:
        """Send a query; cancelling the future cancels it. Args and errors: `Node.query`.

        Args:
            service: name of the service, if the destination offers several (`Services`).
        """
        call = make_call(self._node, destination, content, service, options)
        return submit(self._node.reactor, self._node.query_service(call), "client query")

    def ask(
        self,
        destination: bytes,
        content: Content = b"",
        *,
        service: str | None = None,
        **options: Unpack[CallOptions],
    ) -> ThreadReply:
        """Start a query and return its reply, to be read as it arrives. Args: as for `query`.

        Raises:
            TypeError, BadRoute, ProfileError: as `Node.query`. The reply raises what ends the query.
        """
        reactor = self._node.reactor
        call = make_call(self._node, destination, content, service, options)
        return ThreadReply(reactor, _run(reactor, self._node.ask(call), release=IncomingReply.cancel))

    def tunnel(
        self, destination: bytes, *, timeout_s: float | None = None, **options: Unpack[TunnelOptions]
    ) -> ThreadTunnel:
        """Open an established tunnel. Args and errors: `Node.open_tunnel`; TimedOut: after `timeout_s`."""
        reactor = self._node.reactor
        opening = make_tunnel(self._node, destination, options)
        return ThreadTunnel(reactor, _run(reactor, opening, timeout_s, NodeTunnel.give_up))


class ThreadReply(EnteredOnce):
    """`IncomingReply` for threads. Iterating yields its pieces; leaving a `with` block cancels the rest.

    Raises, from each method with `timeout_s`: TimedOut, a TimeoutError, which loses nothing; the errors of
    `IncomingReply`.
    """

    def __init__(self, reactor: Reactor, reply: IncomingReply) -> None:
        self._reactor = reactor
        self._reply = reply

    def read(self, limit_bytes: int = REPLY_WINDOW_BYTES, *, timeout_s: float | None = None) -> bytes:
        """Read at least one byte; b"" only when the whole query has succeeded."""
        return _take(
            self._reactor, self._reply, self._reply.read(limit_bytes), IncomingReply.undo_read, timeout_s
        )

    def result(self, *, timeout_s: float | None = None) -> QueryResult:
        """Wait for the end of the query, discarding the rest of the reply."""
        return _run(self._reactor, self._reply.result(), timeout_s)

    def cancel(self) -> None:
        """End the query."""
        _post(self._reactor, self._reply.cancel)

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read():
            yield data

    def __enter__(self) -> Self:
        return self.enter_once("reply", "with client.ask(...) as reply")

    def __exit__(self, *_: object) -> None:
        self.cancel()


class ThreadTunnel(EnteredOnce):
    """`NodeTunnel` for threads; several may use it concurrently.

    Iterating yields the incoming messages. At the end of a `with` block the tunnel is closed; an error aborts
    it.

    Raises, from each method with `timeout_s`: TimedOut, a TimeoutError; the errors of `NodeTunnel`.
    """

    def __init__(self, reactor: Reactor, tunnel: NodeTunnel) -> None:
        self._reactor = reactor
        self.inner = tunnel  # not API

    @property
    def profile(self) -> Profile:
        """The profile; its chunk length is `profile.geometry.chunk_bytes`."""
        return self.inner.profile

    def send(self, message: bytes, *, timeout_s: float | None = None) -> None:
        """Send one whole message. A timeout in the middle of the message aborts the tunnel."""
        _run(self._reactor, self.inner.send(message), timeout_s)

    def receive(self, limit_bytes: int = MESSAGE_BYTES, *, timeout_s: float | None = None) -> bytes | None:
        """Receive one whole message; None: the other end sends no more. A timeout loses nothing."""
        return self._take(self.inner.receive(limit_bytes), NodeTunnel.undo_receive, timeout_s)

    def ask(
        self, message: bytes, limit_bytes: int = MESSAGE_BYTES, *, timeout_s: float | None = None
    ) -> bytes | None:
        """Send a message and receive one at the same time."""
        return self._take(self.inner.ask(message, limit_bytes), NodeTunnel.undo_ask, timeout_s)

    def write(self, data: bytes, *, timeout_s: float | None = None) -> None:
        """Send a part of a message."""
        _run(self._reactor, self.inner.write(data), timeout_s)

    def flush(self) -> None:
        """Send buffered bytes now."""
        _run(self._reactor, self.inner.flush())

    def end_message(self, *, timeout_s: float | None = None) -> None:
        """End the message; the next `write` begins another."""
        _run(self._reactor, self.inner.end_message(), timeout_s)

    def next_message(self, *, timeout_s: float | None = None) -> bool:
        """Wait for the next message. False: the other end sends no more."""
        return self._take(self.inner.next_message(), NodeTunnel.undo_next_message, timeout_s)

    def read(self, limit_bytes: int = 65_536, *, timeout_s: float | None = None) -> bytes:
        """Read from the message that `next_message` began; b"" at its end."""
        return self._take(self.inner.read(limit_bytes), NodeTunnel.undo_read, timeout_s)

    def open(
        self,
        target: str | Target,
        *,
        client_key: ClientKey | None = None,
        timeout_s: float | None = None,
    ) -> ThreadStream:
        """Open a sub-stream and wait for the other end to accept it; see `NodeTunnel.open`."""
        opening = self.inner.open(target, client_key=client_key)
        stream = _run(self._reactor, opening, timeout_s, TunnelStream.give_up)
        return ThreadStream(self._reactor, stream)

    def stop_sending(self, *, timeout_s: float | None = None) -> None:
        """End this end's messages and sub-streams; those of the other end can still be received."""
        _run(self._reactor, self.inner.stop_sending(), timeout_s)

    def close(self, *, timeout_s: float | None = None) -> Report | None:
        """Close cleanly. After a timeout, call `give_up`."""
        return _run(self._reactor, self.inner.close(), timeout_s)

    def give_up(self) -> None:
        """Abort the tunnel in both directions."""
        self.inner.leave()
        _post(self._reactor, self.inner.give_up)

    def _take(
        self,
        receiving: Service[T],
        undo: Callable[[NodeTunnel, int, T], None],
        timeout_s: float | None,
    ) -> T:
        return _take(self._reactor, self.inner, receiving, undo, timeout_s)

    def __iter__(self) -> Iterator[bytes]:
        while (message := self.receive()) is not None:
            yield message

    def __enter__(self) -> Self:
        return self.enter_once("tunnel", "with client.tunnel(...) as tunnel")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.give_up()


class ThreadStream(EnteredOnce):
    """`TunnelStream` for threads. Methods with `timeout_s` also raise TimedOut."""

    def __init__(self, reactor: Reactor, stream: TunnelStream) -> None:
        self._reactor = reactor
        self.inner = stream  # not API

    def read(self, limit_bytes: int = 65_536, *, timeout_s: float | None = None) -> bytes:
        """Read bytes; b"" when the other end has closed its half."""
        return _take(
            self._reactor, self.inner, self.inner.read(limit_bytes), TunnelStream.undo_read, timeout_s
        )

    def write(self, data: bytes, *, timeout_s: float | None = None) -> None:
        """Send bytes immediately."""
        _run(self._reactor, self.inner.write(data), timeout_s)

    def close(self) -> None:
        """Close this half after the written bytes; the other half stays open."""
        _post(self._reactor, self.inner.close)

    def give_up(self) -> None:
        """Abort both halves."""
        _post(self._reactor, self.inner.give_up)

    def __enter__(self) -> Self:
        return self.enter_once("sub-stream", "with tunnel.open(...) as stream")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _post(self._reactor, partial(self.inner.leave, in_order=error is None))


class _Owned(Generic[T]):
    """A service whose result is released if the thread that waits for it is interrupted.

    The interruption may arrive just before or just after the service returns.
    """

    def __init__(self, service: Service[T], release: Callable[[T], object]) -> None:
        self._service = service
        self._release = release
        self._results: list[T] = []
        self._is_abandoned = False

    def run(self) -> Service[T]:
        # As an argument: the reactor finds and closes it there if it refuses to start the outer service.
        return self._run(self._service)

    def _run(self, service: Service[T]) -> Service[T]:
        result = yield from service
        self._results.append(result)
        if self._is_abandoned:
            self.abandon()
        return result

    def abandon(self) -> None:
        """Release the result, now or when it arrives."""
        self._is_abandoned = True
        while self._results:
            self._release(self._results.pop())


def _run(
    reactor: Reactor,
    service: Service[T],
    timeout_s: float | None = None,
    release: Callable[[T], object] | None = None,
) -> T:
    """Run a service in the reactor and wait for its result. An interruption, such as Ctrl-C, cancels it.

    Args:
        release: called in the reactor with a result that arrives while the thread is interrupted.
    Raises:
        TypeError, BadArgument: `timeout_s` is no time; the service was not started.
    """
    if timeout_s is not None:
        try:
            checked_seconds(timeout_s, "timeout_s")
        except BaseException:
            service.close()
            raise
    owned = None if release is None else _Owned(service, release)
    service = timeout_after(timeout_s, service if owned is None else owned.run())
    future: Future[T] | None = None
    try:
        future = submit(reactor, service, "client")
        return future.result()
    except BaseException:
        if future is not None:
            future.cancel()
        if owned is not None:
            _post(reactor, owned.abandon)
        raise


def _take(
    reactor: Reactor,
    shared: S,
    reading: Service[T],
    undo: Callable[[S, int, T], None],
    timeout_s: float | None,
) -> T:
    """Run a reading call. `undo` gives its result to the next reader if the thread is interrupted."""
    service = shared.numbered(reading)
    return _run(reactor, service, timeout_s, lambda numbered: undo(shared, *numbered))[1]


def _post(reactor: Reactor, function: Callable[[], Any]) -> None:
    with contextlib.suppress(Closed):  # everything has ended already
        reactor.post(function)
