"""The server of a control socket: the owner's commands and programs use a running node through it.

The owner of the process and root may connect. The socket has mode 0600 in the state folder, which has mode
0700; if the system reports the user of a connection, that is checked too. A client cannot harm the node:
there are at most `MOST_CLIENTS` connections of at most 1 MB each, a client that sends no request or receives
nothing in time is dropped, and a malformed message ends only its own connection.

Each connection has one service. During a query three more run: for its content, its reply, and its outgoing
messages. A slow side thus holds up the other.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections import deque
from pathlib import Path
from typing import Any, Final, TypeAlias

from reactor import (
    Broken,
    Channel,
    ChannelClosed,
    Closed,
    ReadYield,
    Scope,
    Service,
    Signal,
    Sleep,
    SocketStream,
    TimedOut,
    UnixListener,
    WriteYield,
    move_on_after,
    timeout_after,
)
from reactor.errors import log_failure
from tunnel.control.messages import (
    CLIENT_BODY_BYTES,
    CONTENT_BYTES,
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
    pack_error,
    pack_message,
    unpack,
    unpack_attempt,
)
from tunnel.directory import Directory
from tunnel.errors import ControlError, ErrorCode, NodeStopped, StateError, TunnelError
from tunnel.identity.client_key import ClientKey
from tunnel.identity.descriptor import Descriptor
from tunnel.node import Node
from tunnel.node.query.contents import Prefixed
from tunnel.node.query.incoming_replies import IncomingReply
from tunnel.node.query.request import CallOptions
from tunnel.node.waits import run_with_guards

__all__ = ["ControlServer", "peer_states"]

log = logging.getLogger("tunnel.control")

MOST_CLIENTS: Final = 64
REQUEST_S: Final = 10.0  # for a client to send its request
_TAKE_S: Final = 60.0  # for a client to receive one message; it may be suspended (Ctrl-Z) meanwhile
_TICK_S: Final = 0.25  # between two PROGRESS: each side notices this soon when the other has gone
_AHEAD: Final = 2  # pieces of content held for the node
_PLACE_S: Final = 0.5  # for a place among `MOST_CLIENTS`
_LAST_WORDS_S: Final = 1.0  # for the last messages when the node stops

_Step: TypeAlias = Service[None]


def peer_states(node: Node, directory: Directory) -> dict[Descriptor, PeerState]:
    """The known nodes with their states, this node among them. For the reactor's thread."""
    backed_off = node.peers.avoided()

    def state(node_id: bytes) -> PeerState:
        if node_id == node.id:
            return PeerState.THIS_NODE
        if node_id in backed_off:
            return PeerState.BACKED_OFF
        return PeerState.UNKNOWN if node.peers.last_seen_s(node_id) is None else PeerState.SEEN

    return {descriptor: state(descriptor.node_id) for descriptor in directory.sample()}


class ControlServer:
    """Serves a control socket.

    The socket's folder must belong to this node alone, such as its `StateDir`. A socket that a crash left
    there is replaced, one on which another process listens is not.

    Args:
        node: serves the requests.
        directory: of the node; for the list of peers.
        path: of the socket.
    Raises:
        StateError: another process listens there, or it is not a socket. OSError: it cannot be created.
    """

    def __init__(self, node: Node, directory: Directory, path: Path) -> None:
        self._node = node
        self._directory = directory
        self._path = path
        self._listen()
        self.clients = Scope("control", fail_together=False)
        self._served = 0
        self._left = Signal()
        self._is_stopping = False

    def _listen(self) -> None:
        try:
            self._listener = UnixListener(self._path, replace_stale=True)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise StateError(
                f"{self._path} is in use: a process listens there, or it is not a socket",
                f"stop that process, or move {self._path} away",
            ) from error
        self._inode = self._path.stat().st_ino

    def restore(self) -> None:
        """Create the socket again if its folder was removed. Raises StateError, OSError."""
        if not self._is_stopping and not self._path.exists():
            removed = self._listener
            self._listen()
            removed.close()

    def serve(self) -> Service[None]:
        """Accept connections until `close`."""
        while not self._is_stopping:
            # Closed: by `close`, or `restore` has made another listener.
            with contextlib.suppress(Closed):
                stream = yield from self._listener.accept()
                # A client that has its outcome makes its next request before this node has cleared away.
                yield from move_on_after(_PLACE_S, self._wait_place())
                if self._served >= MOST_CLIENTS:
                    _refuse(stream, f"{MOST_CLIENTS} clients already use this node")
                    continue
                self._served += 1
                yield from self.clients.spawn(self._serve_counted(stream), name="control client")

    def _wait_place(self) -> Service[None]:
        while self._served >= MOST_CLIENTS:
            yield self._left

    def _serve_counted(self, stream: SocketStream) -> Service[None]:
        try:
            yield from self._serve_one(stream)
        finally:
            self._served -= 1
            self._left.set()

    def close(self) -> None:
        """Accept no more connections, and remove the socket. Running requests continue. Idempotent."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._listener.close()
        with contextlib.suppress(OSError):  # the folder may have been removed
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def finish(self) -> Service[None]:
        """Close all connections after the node has ended; each client receives its error."""
        self.close()
        try:
            yield from move_on_after(_LAST_WORDS_S, self.clients.join())
        finally:
            yield from self.clients.close()

    # -- one connection --------------------------------------------------------------------------------

    def _serve_one(self, stream: SocketStream) -> Service[None]:
        link = _Link(stream)
        with stream:
            try:
                if stream.peer_uid not in (None, 0, os.geteuid()):
                    log.warning("the control socket refused a process of user %s", stream.peer_uid)
                    return
                node = self._node
                yield from link.send(pack(Welcome(node.id, *node.route_hops, os.getpid())))
                kind, body = yield from timeout_after(REQUEST_S, link.receive())
                if kind is MessageKind.QUERY:
                    yield from self._query(link, unpack(QueryMessage, body))
                elif kind is MessageKind.PEERS:
                    yield from self._list_peers(link)
                elif kind is MessageKind.ROUTE:
                    request = unpack(RouteRequest, body)
                    route = node.choose_route(request.destination, request.hops, request.profile)
                    yield from link.send(pack(route))
                else:
                    raise ControlError(f"control socket: {kind.name} is not a request")
            except (_Gone, Broken, TimedOut) as error:
                log.debug("a control client has gone: %s", error)
            except ControlError as error:
                log.warning("a control client was dropped: %s", error)
                yield from link.send_last(pack_error(error))
            except (TunnelError, TypeError, ValueError) as error:
                yield from link.send_last(pack_error(error))
            except Exception as error:  # noqa: BLE001 - logged, and sent to the client
                log_failure(log, error, "a control request failed")
                yield from link.send_last(pack_error(error))

    def _list_peers(self, link: _Link) -> Service[None]:
        for descriptor, state in peer_states(self._node, self._directory).items():
            yield from link.send(pack(PeerRecord(descriptor.signed, state)))
        yield from link.send(pack_message(MessageKind.DONE))

    def _query(self, link: _Link, request: QueryMessage) -> Service[None]:
        exchange = _Exchange(self, link, request)
        options: CallOptions = {
            "hops": request.hops,
            "route": request.route,
            "reply_route": request.reply_route,
            "profile": request.profile,
            "purpose": request.purpose,
            "mode": request.mode,
            "error_mode": request.error_mode,
            "idle_s": request.idle_s,
            "timeout_s": request.timeout_s,
            "retries": request.retries,
            "progress": exchange.progress,
        }
        content: Any = exchange.upload if request.content is None else request.content
        if request.client_key is not None:
            content = Prefixed(request.prefix, content, ClientKey(request.client_key))
        call = self._node.call(request.destination, content, **options)
        with (yield from self._node.ask(call)) as reply:
            # The query ends when its last message is sent.
            yield from run_with_guards(
                exchange.send(),
                exchange.take_reply(reply),
                exchange.upload.take_content(),
                exchange.tick(),
            )

    @property
    def is_stopping(self) -> bool:
        """Whether the node is being stopped."""
        return self._is_stopping


class _Gone(Exception):
    """The client has closed its connection."""


class _Link:
    """Messages over a connection. `out`: outgoing messages of a query."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._reader = ReadYield(stream)
        self._writer = WriteYield(stream)
        self._parser = MessageParser(CLIENT_BODY_BYTES, is_node=True)
        self.out: Channel[bytes] = Channel(_AHEAD, "control")

    def receive(self) -> Service[tuple[MessageKind, bytes]]:
        """The next message. Raises _Gone, ControlError, Broken."""
        while (message := self._parser.next()) is None:
            data = yield from self._reader.read(CONTENT_BYTES)
            if not data:
                raise _Gone("connection closed")
            self._parser.feed(data)
        return message

    def send(self, message: bytes) -> Service[None]:
        """Send a message. Raises TimedOut: the client does not receive it. Broken."""
        yield from timeout_after(_TAKE_S, self._writer.write_all(message))

    def send_last(self, message: bytes) -> Service[None]:
        """Send an error, unless the client has stopped reading."""
        with contextlib.suppress(Broken, Closed, TimedOut):
            yield from timeout_after(_LAST_WORDS_S, self._writer.write_all(message))


class _Exchange:
    """One query of a client, and its reply.

    Attributes:
        upload: the content of the query.
    """

    def __init__(self, server: ControlServer, link: _Link, request: QueryMessage) -> None:
        self._server = server
        self._link = link
        self.upload = _Upload(link)
        self._progress = QueryProgress(0, 0)

    def progress(self, sent: int, received: int) -> None:
        """Called by the node."""
        self._progress = QueryProgress(sent, received)

    def send(self) -> _Step:
        """Send the outgoing messages until `take_reply` has ended."""
        with contextlib.suppress(ChannelClosed):
            while True:
                yield from self._link.send((yield from self._link.out.receive()))

    def tick(self) -> _Step:
        """Send the progress several times a second."""
        with contextlib.suppress(ChannelClosed):  # the outcome is on its way
            while True:
                yield Sleep(_TICK_S)
                yield from self._link.out.send(pack(self._progress))

    def take_reply(self, reply: IncomingReply) -> _Step:
        """Pass on the reply and the outcome."""
        out = self._link.out
        try:
            while data := (yield from reply.read(CONTENT_BYTES)):
                yield from out.send(pack_message(MessageKind.REPLY, data))
            result = yield from reply.result()
            yield from out.send(pack(QueryProgress(result.query_bytes, result.reply_bytes)))
            outcome = QueryOutcome(
                result.route,
                result.mode,
                result.profile,
                result.query_bytes,
                result.reply_bytes,
                result.report,
                result.attempts,
            )
            last = pack(outcome)
        except Exception as error:  # noqa: BLE001 - raised again at the client
            last = pack_error(self._explained(error))
        yield from out.send(last)
        out.close()

    def _explained(self, error: Exception) -> Exception:
        if self._server.is_stopping and getattr(error, "code", None) in (None, ErrorCode.CANCELLED):
            return NodeStopped()
        if not isinstance(error, TunnelError | TypeError | ValueError):
            log.error("a query of a control client failed: %s: %s", type(error).__name__, error)
        return error


class _Upload:
    """Content from a client, as content of the node's query.

    It has the methods of a file that can be rewound, so that a query with retries accepts it.
    """

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._held: deque[bytes] = deque()
        self._has_ended = False
        self._attempt = 0
        self._must_rewind = False
        self._changed = Signal()
        self._room = Signal()

    def __call__(self) -> Service[bytes]:
        """The next bytes; b"" at the end."""
        if self._must_rewind:
            self._must_rewind = False
            yield from self._link.out.send(pack_attempt(MessageKind.REWIND, self._attempt))
        while not self._held:
            if self._has_ended:
                return b""
            yield self._changed
        data = self._held.popleft()
        self._room.set()
        return data

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return 0

    def seek(self, position: int) -> int:
        """Begin again; content of an earlier attempt is dropped."""
        self._attempt += 1
        self._held.clear()
        self._has_ended = False
        self._must_rewind = True
        self._room.set()
        return position

    def take_content(self) -> _Step:
        """Receive content while there is room, and notice the client's end. Raises _Gone, ControlError."""
        while True:
            while len(self._held) >= _AHEAD:
                yield self._room
            kind, body = yield from self._link.receive()
            if kind not in (MessageKind.CONTENT, MessageKind.END):
                raise ControlError(f"control socket: {kind.name} inside a query")
            attempt, data = unpack_attempt(body)
            if attempt != self._attempt:
                continue
            if self._has_ended:
                raise ControlError(f"control socket: {kind.name} after the end of the content")
            if kind is MessageKind.END:
                self._has_ended = True
            elif data:
                self._held.append(data)
            self._changed.set()


def _refuse(stream: SocketStream, reason: str) -> None:
    """Refuse a client, without waiting for it."""
    with stream, contextlib.suppress(BlockingIOError, Broken):
        stream.write(pack_error(ControlError(reason)))
