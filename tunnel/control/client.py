"""The client of a control socket: a running node, for the commands and programs of its owner.

    with ControlClient(state_folder / CONTROL_FILE) as node:   # or tunnel.connect("node.toml")
        print(node.query(bob_id, b"ping").result(timeout=30).read())
        for peer in node.peers(): ...

`ControlClient` has the asking side of `Node`, so `Client(node)`, `AsyncClient(node)`, `ServiceClient(node)`,
`put(node, …)` and `get(node, …)` accept it. Queries have the identity of the running node, use its links and
guards, and it draws their routes. A reactor in a thread carries content between this process and the node.
Each request has its own connection; closing it cancels the request in the node. Of the queries of one client
`AT_ONCE` have a connection at a time; further ones wait, first come, first served.

Established tunnels and queries with several replies are not available over the socket.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar, Unpack

from reactor import (
    Broken,
    Channel,
    CurrentTime,
    Reactor,
    ReactorThread,
    ReadYield,
    Scope,
    Service,
    Signal,
    SocketStream,
    TimedOut,
    WriteYield,
    connect_unix,
    timeout_after,
)
from tunnel.arguments import EnteredOnce, check_options, checked_count, checked_id
from tunnel.codes import short
from tunnel.control.messages import (
    CONTENT_BYTES,
    NODE_BODY_BYTES,
    MessageKind,
    MessageParser,
    PeerRecord,
    PeerState,
    QueryMessage,
    QueryOutcome,
    QueryProgress,
    RouteRequest,
    Welcome,
    pack,
    pack_attempt,
    pack_message,
    unpack,
    unpack_attempt,
    unpack_error,
    unpack_welcome,
)
from tunnel.crypto.primitives import tunnel_engine
from tunnel.errors import (
    BadRoute,
    ControlError,
    DescriptorError,
    ErrorCode,
    LocalTunnelError,
    NodeNotRunning,
    QueryFailed,
)
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.state_dir import check_private
from tunnel.modes import ReplyMode
from tunnel.node.query.attempts import submit
from tunnel.node.query.contents import Content, Prefixed, open_content, rewinder
from tunnel.node.query.incoming_replies import (
    IncomingReply,
    PendingQuery,
    QueryResult,
    Sink,
    ask,
    reactors_of_clients,
    spooled,
)
from tunnel.node.query.request import Progress, QueryOptions, QueryRequest, TunnelOptions, checked_request
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.node.waits import run_with_guards
from tunnel.routing.draw_route import LARGE_BYTES
from tunnel.routing.route import Route

__all__ = ["CONTROL_FILE", "ControlClient"]

CONTROL_FILE: Final = "control"
"""The name of the socket in the state folder."""

T = TypeVar("T")

CONNECT_S: Final = 10.0  # a node that takes longer is stopped or stuck
# Queries of one client in the node at the same time. The node has 64 connections for all its clients, and
# one client that asks much must leave some to commands.
AT_ONCE: Final = 48
MOST_WAITING: Final = 10_000


@dataclass(frozen=True, slots=True)
class _ControlCall(QueryRequest):
    """A query of a `ControlClient`, with its message to the node."""

    message: QueryMessage | None = None


class ControlClient(EnteredOnce):
    """The asking side of a running node. For any thread except that of its reactor.

    Args:
        path: of the control socket.
    Raises:
        NodeNotRunning: no node runs there. ControlError: it does not answer, or has another version.
        StateError: the state folder is not private, or has another owner.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists():
            check_private(path.parent)
        self._scope = Scope("control client", fail_together=False)
        self._places: Channel[None] = Channel(AT_ONCE, "queries of a control client")
        for _ in range(AT_ONCE):
            self._places.send_nowait(None)
        self._waiting = 0
        self._thread = ReactorThread(name="control client").start()
        reactors_of_clients.add(self.reactor)
        try:
            self._welcome = self._run(self._meet())
        except BaseException:
            self._thread.close()
            raise

    def close(self) -> None:
        """Cancel all running queries. Idempotent."""
        self._thread.close()

    def __enter__(self) -> Self:
        return self.enter_once("client", "with connect(...) as node", is_closed=self.reactor.is_closed)

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> bytes:
        """The node's id, 32 bytes."""
        return self._welcome.node_id

    @property
    def pid(self) -> int:
        """The process id of the node."""
        return self._welcome.pid

    def draw_hops(self) -> int:
        """Number of proxies of a new route, drawn with the settings of the node."""
        return self._welcome.hops + secrets.randbelow(self._welcome.bias + 1)

    @property
    def reactor(self) -> Reactor:
        """The reactor of this client; a `ServiceClient` runs in it."""
        return self._thread.reactor

    # -- the asking side of a node ---------------------------------------------------------------------

    def query(
        self, destination: bytes, content: Content, **options: Unpack[QueryOptions]
    ) -> Future[QueryResult]:
        """Send a query through the running node. Args: as `Node.query`, except those that `call` refuses.

        Returns:
            A future of QueryResult. Cancelling it cancels the query in the node.
        Raises:
            TypeError, ValueError, LocalTunnelError: as `call`. From the future: as `Node.query`;
                QueryFailed with the code BUSY: 10,000 queries of this client wait already; Closed: this
                client was closed; NodeStopped: the running node was stopped; QueryFailed
                with the code DISCONNECTED: it ended without notice; NodeNotRunning, ControlError: as for
                `ControlClient`.
        """
        call = self.call(destination, content, **options)
        return submit(self.reactor, self.query_service(call), "control query")

    def call(
        self, destination: bytes, content: Content = b"", **options: Unpack[QueryOptions]
    ) -> QueryRequest:
        """Check the options of a query. The node chooses those that are not given. Args: as `Node.query`.

        Raises:
            TypeError, ValueError: as `Node.query`. LocalTunnelError: `rng`, more than one reply or sink, or
                mode `reply-on-reply`: they need a node in this process.
        """
        check_options(options, QueryOptions.__annotations__)
        request = checked_request(destination, content, **options)
        if request.replies != 1 or request.mode is ReplyMode.REPLY_ON_REPLY:
            raise LocalTunnelError(
                "a query over the control socket has one reply and one sink, and no mode reply-on-reply"
            )
        if request.rng is not None:
            raise LocalTunnelError("a running node draws its routes itself: remove `rng`")
        hops, route, reply_route = request.hops, options.get("route"), options.get("reply_route")
        content, prefix, seed = request.content, b"", None
        if isinstance(request.content, Prefixed) and request.content.client_key is not None:
            # The node adds the prefix and the proof.
            content, prefix = request.content.content, request.content.prefix
            seed = request.content.client_key.seed
        whole = content if isinstance(content, bytes | memoryview) else None
        message = QueryMessage(
            destination,
            None if hops is None else _checked_hops(hops),
            None if route is None else _checked_route(route, "route", destination),
            None if reply_route is None else _checked_route(reply_route, "reply_route", self.id),
            request.wanted_profile,
            request.purpose or ("bulk" if whole is not None and len(whole) >= LARGE_BYTES else None),
            request.mode,
            request.error_mode,
            request.retries,
            options.get("idle_s"),
            request.timeout_s,
            None if whole is None or len(whole) > CONTENT_BYTES else bytes(whole),
            prefix,
            seed,
        )
        return _ControlCall(
            request.route,
            content,
            request.mode,
            request.profile,
            request.idle_s,
            request.sinks,
            request.progress,
            retries=request.retries,
            message=message,
        )

    def query_service(self, call: QueryRequest) -> Service[QueryResult]:
        """Run a query in this client's reactor. Raises as the future of `query`."""
        with spooled(0 if call.sinks else 1) as spools:
            outcome = yield from self._query(call, (call.sinks or spools)[0])
        return QueryResult(
            outcome.route,
            outcome.mode,
            outcome.profile,
            outcome.query_bytes,
            outcome.reply_bytes,
            spools[0] if spools else None,
            outcome.report,
            replies=spools,
            attempts=outcome.attempts,
        )

    def ask(self, call: QueryRequest) -> Service[IncomingReply]:
        """Begin a query whose reply is read as it arrives, as `Node.ask`.

        Raises, when run: Closed: the client has been closed.
        """
        return ask(
            self._scope,
            self.reactor,
            call.route.destination,
            lambda sink: self.query_service(call.with_sink(sink)),
            "control query",
        )

    def choose_route(self, destination: bytes, hops: int, profile: Profile | str | None = None) -> Route:
        """Ask the node to draw a route. Waits for the answer.

        Raises:
            BadRoute: too few nodes. ProfileError: no profile holds this many proxies. ControlError,
                QueryFailed: the node has ended.
        """
        destination, hops = checked_id(destination), checked_count(hops, "hops")
        chosen = Profile.of(profile) or Profile.for_proxies(hops)
        return self._run(self._draw_route(RouteRequest(destination, _checked_hops(hops), chosen)))

    def open_tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> Service[NodeTunnel]:
        """Established tunnels are not available over the control socket.

        Raises:
            LocalTunnelError: always.
        """
        raise LocalTunnelError(
            "a running node opens no tunnels for other programs: connect to the configuration of a client "
            "instead, or open a node in this program (open_node)"
        )

    def peers(self) -> dict[Descriptor, PeerState]:
        """The nodes that it knows, with their states; the node itself has THIS_NODE. Waits for the answer.

        Raises:
            ControlError, QueryFailed: the node has ended.
        """
        return self._run(self._list_peers())

    # -- over the socket -------------------------------------------------------------------------------

    def _run(self, service: Service[T]) -> T:
        future = submit(self.reactor, timeout_after(CONNECT_S, service), "control request")
        try:
            return future.result()
        except TimedOut as error:
            raise self._silent() from error
        except BaseException:
            future.cancel()
            raise

    def _open(self) -> Service[tuple[_Link, Welcome]]:
        try:
            stream = yield from connect_unix(self._path, timeout_s=CONNECT_S)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise NodeNotRunning(
                f"no running node has its control socket at {self._path}",
                "start it with: mtun node --config FILE",
            ) from error
        except TimedOut as error:
            raise ControlError(f"the node at {self._path} accepts no connections") from error
        link = _Link(stream)
        try:
            if stream.peer_uid not in (None, os.geteuid()):
                raise ControlError(f"a process of user {stream.peer_uid} listens at {self._path}")
            welcome = unpack_welcome((yield from self._first(link)))
        except BaseException:
            stream.close()
            raise
        return link, welcome

    def _first(self, link: _Link) -> Service[bytes]:
        """The WELCOME of the node. Raises ControlError: none in time, for example from a stopped process."""
        try:
            return (yield from timeout_after(CONNECT_S, link.expect(MessageKind.WELCOME)))
        except TimedOut as error:
            raise self._silent() from error

    def _silent(self) -> ControlError:
        return ControlError(
            f"the node at {self._path} does not answer within {CONNECT_S:g} s",
            "is its process stopped, or very busy? kill -USR1 PID writes its state to its log",
        )

    def _meet(self) -> Service[Welcome]:
        link, welcome = yield from self._open()
        link.close()
        return welcome

    def _draw_route(self, request: RouteRequest) -> Service[Route]:
        link, _ = yield from self._open()
        with link:
            yield from link.send(pack(request))
            return unpack(Route, (yield from link.expect(MessageKind.ROUTED)))

    def _list_peers(self) -> Service[dict[Descriptor, PeerState]]:
        link, _ = yield from self._open()
        engine = tunnel_engine()
        found: dict[Descriptor, PeerState] = {}
        with link:
            yield from link.send(pack_message(MessageKind.PEERS))
            while True:
                kind, body = yield from link.receive()
                if kind is MessageKind.DONE:
                    return found
                if kind is not MessageKind.PEER:
                    raise ControlError(f"control socket: {kind.name} in a list of peers")
                peer = unpack(PeerRecord, body)
                try:
                    found[Descriptor.parse(peer.descriptor, engine)] = peer.state
                except DescriptorError as error:
                    raise ControlError(f"control socket: {error}") from error

    def _query(self, call: QueryRequest, sink: Sink) -> Service[QueryOutcome]:
        if not isinstance(call, _ControlCall) or call.message is None:
            raise TypeError("this query was made by another node: use `call` of the client that sends it")
        message = call.message
        began_s: float = yield CurrentTime()
        yield from self._wait_turn(message.timeout_s)
        try:
            waited_s = round((yield CurrentTime()) - began_s, 2)  # the node has the limit in its errors
            if message.timeout_s is not None and waited_s:
                message = replace(message, timeout_s=max(0.0, message.timeout_s - waited_s))
            return (yield from self._exchange(call, message, sink))
        finally:
            self._places.send_nowait(None)

    def _wait_turn(self, timeout_s: float | None) -> Service[None]:
        """Take a place, in the order of the calls. Cancellation: no place is taken.

        Raises:
            QueryFailed (TIMEOUT): the query's time limit is over. QueryFailed (BUSY): too many calls wait.
        """
        if self._waiting >= MOST_WAITING:
            raise QueryFailed(
                f"{self._waiting} queries of this client wait already, its limit", ErrorCode.BUSY
            )
        self._waiting += 1
        try:
            yield from timeout_after(timeout_s, self._places.receive())
        except TimedOut as error:
            raise QueryFailed(
                f"the query was not done within {timeout_s} s: it waited for {AT_ONCE} others of this client",
                ErrorCode.TIMEOUT,
            ) from error
        finally:
            self._waiting -= 1

    def _exchange(self, call: QueryRequest, message: QueryMessage, sink: Sink) -> Service[QueryOutcome]:
        link, _ = yield from self._open()
        with link:
            yield from link.send(pack(message))
            download = _Download(link, call, sink)
            if message.content is None:
                yield from run_with_guards(download.run(), _Upload(link, call.content, download).run())
            else:
                yield from download.run()
        assert download.outcome is not None
        return download.outcome


class _Link:
    """Messages over a connection."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._reader = ReadYield(stream)
        self._writer = WriteYield(stream)
        self._parser = MessageParser(NODE_BODY_BYTES, is_node=False)

    def send(self, message: bytes) -> Service[bool]:
        """Send a message. False: the node has closed the connection; `receive` raises the reason."""
        try:
            yield from self._writer.write_all(message)
        except Broken:
            return False
        return True

    def receive(self) -> Service[tuple[MessageKind, bytes]]:
        """The next message. Raises the error that the node sends. QueryFailed: it has ended. ControlError."""
        while (message := self._parser.next()) is None:
            try:
                data = yield from self._reader.read(CONTENT_BYTES)
            except Broken:
                data = b""
            if not data:
                raise QueryFailed("the running node ended during the query", ErrorCode.DISCONNECTED)
            self._parser.feed(data)
        if message[0] is MessageKind.ERROR:
            raise unpack_error(message[1])
        return message

    def expect(self, kind: MessageKind) -> Service[bytes]:
        """The body of the next message, which must be of this kind. Raises as `receive`."""
        found, body = yield from self.receive()
        if found is not kind:
            raise ControlError(f"control socket: expected {kind.name}, got {found.name}")
        return body

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Download:
    """The reply, its progress and the outcome of one query.

    Attributes:
        rewinds: numbers of the attempts that need the content again. asked: set with each.
    """

    def __init__(self, link: _Link, call: QueryRequest, sink: Sink) -> None:
        self._link = link
        self._pending = PendingQuery(sink)
        self._sent = 0
        self.rewinds: deque[int] = deque()
        self.asked = Signal()
        self.outcome: QueryOutcome | None = None
        if call.progress is not None:
            self._pending.on_progress = partial(self._tell, call.progress)

    def _tell(self, progress: Progress) -> None:
        progress(self._sent, self._pending.content_in)

    def run(self) -> Service[None]:
        """Receive until the outcome. Raises the error of the query; LocalTunnelError: sink or progress
        failed."""
        pending = self._pending
        while self.outcome is None:
            kind, body = yield from self._link.receive()
            if kind is MessageKind.REPLY:
                pending.take(memoryview(body))
                yield from pending.wait_room()
            elif kind is MessageKind.PROGRESS:
                self._sent = unpack(QueryProgress, body).sent
                pending.moved()
            elif kind is MessageKind.REWIND:
                self.rewinds.append(unpack_attempt(body)[0])
                self.asked.set()
            elif kind is MessageKind.RESULT:
                self.outcome = unpack(QueryOutcome, body)
            else:
                raise ControlError(f"control socket: {kind.name} inside a reply")


class _Upload:
    """Sends the content of one query, again for each attempt."""

    def __init__(self, link: _Link, content: Content, download: _Download) -> None:
        self._link = link
        self._content = content
        self._download = download
        self._rewind = rewinder(content)
        self._attempt = 0

    def run(self) -> Service[None]:
        """Send the content, and again after each REWIND."""
        rewinds = self._download.rewinds
        while True:
            yield from self._send()
            while not rewinds:
                yield self._download.asked
            self._attempt = rewinds.pop()
            rewinds.clear()
            if self._rewind is None:
                raise ControlError("control socket: REWIND of content that can be sent only once")
            self._rewind()

    def _send(self) -> Service[None]:
        reader = open_content(self._content)
        try:
            while data := (yield from reader.read()):
                view = memoryview(data).cast("B")
                for start in range(0, len(view), CONTENT_BYTES):
                    piece = view[start : start + CONTENT_BYTES]
                    message = pack_attempt(MessageKind.CONTENT, self._attempt, bytes(piece))
                    if not (yield from self._link.send(message)) or self._download.rewinds:
                        return
        finally:
            reader.close()
        yield from self._link.send(pack_attempt(MessageKind.END, self._attempt))


def _checked_hops(hops: int) -> int:
    """Raises TypeError, BadArgument: not a count. ProfileError: no profile holds this many proxies."""
    Profile.for_proxies(checked_count(hops, "hops"))
    return hops


def _checked_route(route: Route, what: str, destination: bytes) -> Route:
    """Raises TypeError, BadArgument: not a route. ProfileError: too long. BadRoute: wrong destination."""
    if not isinstance(route, Route):
        raise TypeError(f"{what}: expected a Route, got {type(route).__name__}")
    for node_id in route.nodes:
        checked_id(node_id, what)
    if route.destination != destination:
        raise BadRoute(f"{what}: it ends at {short(route.destination)}, expected {short(destination)}")
    _checked_hops(len(route.proxies))
    return route
