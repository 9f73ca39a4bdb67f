"""A running node, for the commands and programs of its owner: over its control socket.

    with ControlClient(state_folder / CONTROL_FILE) as node:   # or tunnel.connect("node.toml")
        print(node.query(bob_id, b"ping").result(timeout=30).read())
        for peer in node.peers(): ...

`ControlClient` has the asking side of `Node`, so what takes a node takes it: `Client(node)`,
`AsyncClient(node)`, `ServiceClient(node)`, `put(node, …)`, `get(node, …)`. Queries leave under the identity
of the running node, over its links and guards; it draws the routes. The client has a reactor of its own, in a
thread, which carries content between this process and the node. Each request has a connection of its own;
closing it cancels the request in the node.

Not over the socket: established tunnels, and the modes with reply blocks for more than one reply.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack

from reactor import (
    Broken,
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
from tunnel.arguments import check_options, checked_count, checked_id, checked_seconds, member
from tunnel.codes import short
from tunnel.control.messages import (
    CONTENT_BYTES,
    NODE_BODY_BYTES,
    FrameParser,
    MessageKind,
    PeerState,
    QueryMessage,
    QueryOutcome,
    RouteRequest,
    Welcome,
    pack_attempt,
    pack_frame,
    unpack_attempt,
    unpack_error,
    unpack_progress,
    unpack_route,
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
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.query.contents import Content, as_content, open_content, rewinder
from tunnel.node.query.pending import PendingQuery, Sink, Spool
from tunnel.node.query.reply import IncomingReply, ask
from tunnel.node.query.request import (
    Progress,
    QueryOptions,
    QueryRequest,
    TunnelOptions,
    check_retries,
    check_served,
)
from tunnel.node.query.running import QueryResult, submit
from tunnel.node.tunnels.open_tunnel import OpenTunnel
from tunnel.node.waits import run_with_guards
from tunnel.routing.draw_route import LARGE_BYTES
from tunnel.routing.route import Route, checked_purpose

__all__ = ["CONTROL_FILE", "ControlClient"]

CONTROL_FILE: Final = "control"
"""The name of the socket in the state folder."""

T = TypeVar("T")

_CONNECT_S: Final = 10.0  # a running node answers in a moment; one that does not is stopped or stuck


@dataclass(frozen=True, slots=True)
class _ControlCall(QueryRequest):
    """A query of a `ControlClient`: what the node is to be asked."""

    message: QueryMessage | None = None


class ControlClient:
    """The asking side of a running node. Any thread but that of its reactor may use it.

    Args:
        path: of the control socket.
    Raises:
        NodeNotRunning: no node runs there. ControlError: it does not answer, or it is of another version.
        StateError: the state folder is not private, or has another owner.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists():
            check_private(path.parent)
        self._scope = Scope("control client", fail_together=False)
        self._thread = ReactorThread(name="control client").start()
        try:
            self._welcome = self._run(self._meet())
        except BaseException:
            self._thread.close()
            raise

    def close(self) -> None:
        """Cancel what is under way. Idempotent."""
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def id(self) -> bytes:
        """The node's id, 32 bytes."""
        return self._welcome.node_id

    @property
    def pid(self) -> int:
        """The node's process."""
        return self._welcome.pid

    def draw_hops(self) -> int:
        """Proxies of a new route whose length the caller leaves open: as the node draws it."""
        return self._welcome.hops + secrets.randbelow(self._welcome.bias + 1)

    @property
    def reactor(self) -> Reactor:
        """What runs this client; `ServiceClient` is for its services."""
        return self._thread.reactor

    # -- the asking side of a node ---------------------------------------------------------------------

    def query(
        self, destination: bytes, content: Content, **options: Unpack[QueryOptions]
    ) -> Future[QueryResult]:
        """Send a query through the running node. Args: `Node.query`; what cannot be chosen here: see `call`.

        Returns:
            A future of QueryResult. Cancelling it cancels the query in the node.
        Raises:
            TypeError, ValueError, LocalTunnelError: as `call`. From the future: what that of `Node.query`
                raises; NodeStopped: the node was stopped, or this client closed; QueryFailed with the code
                DISCONNECTED: the node ended without a word; NodeNotRunning, ControlError: as `ControlClient`.
        """
        call = self.call(destination, content, **options)
        return submit(self.reactor, self.query_service(call), "control query")

    def call(
        self, destination: bytes, content: Content = b"", **options: Unpack[QueryOptions]
    ) -> QueryRequest:
        """What `query` sends; the node draws what is left open. Args: `Node.query`.

        Raises:
            TypeError, ValueError: as `Node.query`. LocalTunnelError: `rng`, more than one reply or sink, or
                mode `reply-on-reply`, which are for a node of the program's own.
        """
        check_options(options, QueryOptions.__annotations__)
        destination, content = checked_id(destination), as_content(content)
        mode = member(ReplyMode, options.get("mode", ReplyMode.ROUTE), "mode")
        check_served(mode)
        retries, idle_s, timeout_s = (
            options.get("retries", 0),
            options.get("idle_s"),
            options.get("timeout_s"),
        )
        check_retries(content, retries)
        sink, sinks = options.get("sink"), tuple(options.get("sinks", ()))
        own_sinks = sinks if sink is None else (sink, *sinks)
        if options.get("replies", 1) != 1 or len(own_sinks) > 1 or mode is ReplyMode.REPLY_ON_REPLY:
            raise LocalTunnelError("a running node is asked for one reply, and none that can be answered")
        if options.get("rng") is not None:
            raise LocalTunnelError("a running node draws its routes itself: leave `rng` away")
        whole = bytes(content) if isinstance(content, bytes | bytearray | memoryview) else None
        is_large = whole is not None and len(whole) >= LARGE_BYTES
        hops, route, reply_route = options.get("hops"), options.get("route"), options.get("reply_route")
        message = QueryMessage(
            destination,
            None if hops is None else _checked_hops(hops),
            None if route is None else _checked_route(route, "route", destination),
            None if reply_route is None else _checked_route(reply_route, "reply_route", self.id),
            Profile.of(options.get("profile")),
            checked_purpose(options.get("purpose")) or ("bulk" if is_large else None),
            mode,
            member(ErrorMode, options.get("error_mode", ErrorMode.STATUS), "error_mode"),
            retries,
            None if idle_s is None else checked_seconds(idle_s, "idle_s"),
            None if timeout_s is None else checked_seconds(timeout_s, "timeout_s"),
            whole if whole is not None and len(whole) <= CONTENT_BYTES else None,
        )
        return _ControlCall(
            route or Route((), destination),
            content,
            mode,
            message.profile or Profile.for_proxies(0),
            message.idle_s or 0.0,
            own_sinks,
            options.get("progress"),
            retries=retries,
            message=message,
        )

    def query_service(self, call: QueryRequest) -> Service[QueryResult]:
        """A query as a service of this client's reactor. Raises as the future of `query`."""
        spools = () if call.sinks else (Spool(),)
        try:
            outcome = yield from self._query(call, (call.sinks or spools)[0])
        except BaseException:
            for spool in spools:
                spool.close()
            raise
        for spool in spools:
            spool.rewind()
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
        """Begin a query whose reply is read while it comes: as `Node.ask`.

        Raises, when run: Closed, the client has been closed.
        """
        return ask(
            self._scope,
            self.reactor.post,
            call.route.destination,
            lambda sink: self.query_service(call.with_sink(sink)),
            "control query",
        )

    def choose_route(self, destination: bytes, hops: int, profile: Profile) -> Route:
        """Have the node draw a route. Waits for the answer.

        Raises:
            BadRoute: there is none. ProfileError: no profile holds so many. ControlError, QueryFailed: the
                node has ended.
        """
        destination, hops = checked_id(destination), checked_count(hops, "hops")
        request = RouteRequest(checked_id(destination), _checked_hops(hops), profile).pack()
        return self._run(self._ask_once(request, MessageKind.ROUTED, unpack_route))

    def open_tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> Service[OpenTunnel]:
        """Established tunnels are not offered.

        Raises:
            LocalTunnelError: always.
        """
        raise LocalTunnelError(
            "a running node opens no tunnel for other programs: use a node of the program's own"
        )

    def peers(self) -> dict[Descriptor, PeerState]:
        """The peers that the node knows, each with what dealing with it has shown. Waits for the answer.

        Raises:
            ControlError, QueryFailed: the node has ended.
        """
        return self._run(self._list_peers())

    # -- over the socket -------------------------------------------------------------------------------

    def _run(self, service: Service[T]) -> T:
        future = self._thread.submit(timeout_after(_CONNECT_S, service))
        try:
            return future.result()
        except TimedOut as error:
            raise ControlError(
                f"the node at {self._path} does not answer within {_CONNECT_S:g} s",
                "is its process stopped, or very busy? kill -USR1 its process shows what it does",
            ) from error
        except BaseException:
            future.cancel()
            raise

    def _open(self) -> Service[tuple[_Link, Welcome]]:
        try:
            stream = yield from connect_unix(self._path, timeout_s=_CONNECT_S)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise NodeNotRunning(
                f"no running node has its control socket at {self._path}",
                "start it with: mtun node --config FILE",
            ) from error
        except TimedOut as error:
            raise ControlError(f"the node at {self._path} takes no connections") from error
        link = _Link(stream)
        try:
            if stream.peer_uid not in (None, os.geteuid()):
                raise ControlError(f"a process of user {stream.peer_uid} listens at {self._path}")
            welcome = Welcome.unpack((yield from link.expect(MessageKind.WELCOME)))
        except BaseException:
            stream.close()
            raise
        return link, welcome

    def _meet(self) -> Service[Welcome]:
        link, welcome = yield from self._open()
        link.close()
        return welcome

    def _ask_once(self, request: bytes, kind: MessageKind, unpack: Callable[[bytes], T]) -> Service[T]:
        link, _ = yield from self._open()
        with link:
            yield from link.send(request)
            return unpack((yield from link.expect(kind)))

    def _list_peers(self) -> Service[dict[Descriptor, PeerState]]:
        link, _ = yield from self._open()
        engine = tunnel_engine()
        found: dict[Descriptor, PeerState] = {}
        with link:
            yield from link.send(pack_frame(MessageKind.PEERS))
            while True:
                kind, body = yield from link.receive()
                if kind is MessageKind.DONE:
                    return found
                if kind is not MessageKind.PEER or not body or body[0] not in PeerState._value2member_map_:
                    raise ControlError(f"control socket: {kind.name} in a list of peers")
                try:
                    found[Descriptor.parse(body[1:], engine)] = PeerState(body[0])
                except DescriptorError as error:
                    raise ControlError(f"control socket: {error}") from error

    def _query(self, call: QueryRequest, sink: Sink) -> Service[QueryOutcome]:
        if not isinstance(call, _ControlCall) or call.message is None:
            raise TypeError("this query was made by another node: use `call` of the client that sends it")
        link, _ = yield from self._open()
        with link:
            yield from link.send(call.message.pack())
            download = _Download(link, call, sink)
            if call.message.content is None:
                yield from run_with_guards(download.run(), _Upload(link, call.content, download).run())
            else:
                yield from download.run()
        assert download.outcome is not None
        return download.outcome


class _Link:
    """Frames over a connection."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._reader = ReadYield(stream)
        self._writer = WriteYield(stream)
        self._parser = FrameParser(NODE_BODY_BYTES, is_node=False)

    def send(self, frame: bytes) -> Service[bool]:
        """Send a frame. False: the node has closed the connection; `receive` tells why."""
        try:
            yield from self._writer.write_all(frame)
        except Broken:
            return False
        return True

    def receive(self) -> Service[tuple[MessageKind, bytes]]:
        """The next frame. Raises the error that the node sends. QueryFailed: it has ended. ControlError."""
        while (frame := self._parser.next()) is None:
            try:
                data = yield from self._reader.read(CONTENT_BYTES)
            except Broken:
                data = b""
            if not data:
                raise QueryFailed("the node ended while it was asked", ErrorCode.DISCONNECTED)
            self._parser.feed(data)
        if frame[0] is MessageKind.ERROR:
            raise unpack_error(frame[1])
        return frame

    def expect(self, kind: MessageKind) -> Service[bytes]:
        """The body of the next frame, which must be of this kind. Raises as `receive`."""
        found, body = yield from self.receive()
        if found is not kind:
            raise ControlError(f"control socket: {found.name} in place of {kind.name}")
        return body

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Download:
    """The reply, its progress and the outcome of one query.

    Attributes:
        rewinds: attempts for which the content is wanted again. asked: set with each.
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
        """Take frames until the outcome. Raises what ended the query; LocalTunnelError: sink or progress."""
        pending = self._pending
        while self.outcome is None:
            kind, body = yield from self._link.receive()
            if kind is MessageKind.REPLY:
                pending.take(memoryview(body))
                yield from pending.wait_room()
            elif kind is MessageKind.PROGRESS:
                self._sent, _ = unpack_progress(body)
                pending.moved()
            elif kind is MessageKind.REWIND:
                self.rewinds.append(unpack_attempt(body)[0])
                self.asked.set()
            elif kind is MessageKind.RESULT:
                self.outcome = QueryOutcome.unpack(body)
            else:
                raise ControlError(f"control socket: {kind.name} inside a reply")


class _Upload:
    """The content of one query, as often as the node wants it."""

    def __init__(self, link: _Link, content: Content, download: _Download) -> None:
        self._link = link
        self._content = content
        self._download = download
        self._rewind = rewinder(content)
        self._attempt = 0

    def run(self) -> Service[None]:
        """Send it, and once more whenever it is asked for."""
        rewinds = self._download.rewinds
        while True:
            yield from self._send()
            while not rewinds:
                yield self._download.asked
            self._attempt = rewinds.pop()
            rewinds.clear()
            if self._rewind is None:
                raise ControlError("control socket: REWIND of content that can be sent once only")
            self._rewind()

    def _send(self) -> Service[None]:
        reader = open_content(self._content)
        try:
            while data := (yield from reader.read()):
                view = memoryview(data).cast("B")
                for start in range(0, len(view), CONTENT_BYTES):
                    piece = view[start : start + CONTENT_BYTES]
                    frame = pack_attempt(MessageKind.CONTENT, self._attempt, bytes(piece))
                    if not (yield from self._link.send(frame)) or self._download.rewinds:
                        return
        finally:
            reader.close()
        yield from self._link.send(pack_attempt(MessageKind.END, self._attempt))


def _checked_hops(hops: int) -> int:
    """Raises TypeError, BadArgument: no count. ProfileError: more than fit in any profile."""
    Profile.for_proxies(checked_count(hops, "hops"))
    return hops


def _checked_route(route: Route, what: str, destination: bytes) -> Route:
    """Raises TypeError, BadArgument: no route. ProfileError: too long. BadRoute: it ends elsewhere."""
    if not isinstance(route, Route):
        raise TypeError(f"{what}: expected a Route, got {type(route).__name__}")
    for node_id in route.nodes:
        checked_id(node_id, what)
    if route.destination != destination:
        raise BadRoute(f"{what}: it ends at {short(route.destination)}, expected {short(destination)}")
    _checked_hops(len(route.proxies))
    return route
