"""`SocksServer`: a port for SOCKS5, SOCKS4a and HTTP CONNECT whose connections go through tunnels to an exit.

    server = SocksServer(node, exit_id)
    node.reactor.submit(server.serve())
    # curl -x socks5h://127.0.0.1:1080 http://example.com/

It fails closed: a connection goes through a tunnel or not at all. This file opens no connection and looks up
no name; the exit does both.

A connection passes three stages. First it has `HANDSHAKE_S` to make its request; of more than `MOST_PENDING`
such connections the oldest is dropped. Then it has `REACH_S` until its target is reached. Finally it is
joined with its sub-stream (`Splice`), for as long as both ends want.

Each failed connection causes one log line: at INFO without its target, at DEBUG with target and hops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

from reactor import (
    Broken,
    Closed,
    Reactor,
    ReadYield,
    Scope,
    Service,
    Signal,
    SocketStream,
    TimedOut,
    WriteYield,
    move_on_after,
    needs_yield_from,
    timeout_after,
)
from tunnel.arguments import checked_count, checked_id, member
from tunnel.errors import BadArgument, BadProxyRequest, LocalTunnelError, TunnelError
from tunnel.front.entrance import Entrance, EntrancePlace, is_of_this_machine
from tunnel.front.failures import REACH_S, failure_of, summary
from tunnel.front.handshake import NEED_DATA, Answer, Failed, Handshake, Login, Opened, Request
from tunnel.front.logins import Logins
from tunnel.front.tunnel_pool import OpensTunnels, TunnelPool
from tunnel.node.query.request import TunnelOptions
from tunnel.node.tunnels.tunnel import TunnelStream
from tunnel.routing.route import Route
from tunnel.services.splice import Splice

__all__ = [
    "HANDSHAKE_S",
    "MOST_CONNECTIONS",
    "MOST_PENDING",
    "Isolation",
    "SocksServer",
]

log = logging.getLogger("tunnel.front")

MOST_CONNECTIONS: Final = 4_096
"""Connections at a time. Further ones wait in the backlog of the system."""

MOST_PENDING: Final = 256
"""Connections that have not made their request. The oldest is dropped for a new one."""

HANDSHAKE_S: Final = 30.0
"""Time limit for a client's request."""

_BACKLOG: Final = 1_024
_END: Final = "the exit"
_READ_BYTES: Final = 2_048  # of a handshake; so much early data is sent at most
_LINGER_S: Final = 2.0  # for a refused client to read its reply
_MOST_LINGERED_BYTES: Final = 256 * 1024


class Isolation(StrEnum):
    """Which connections share a tunnel. The exit can link the connections of one tunnel to one client."""

    AUTH = "auth"  # those with the same user and password, as in Tor
    LISTENER = "listener"  # all of the port
    CONNECTION = "connection"  # none


class SocksServer:
    """A SOCKS and CONNECT port. It listens from its construction on, and works while `serve` runs.

    Args:
        node: opens the tunnels, such as a `Node` or the result of `connect`.
        exit_id: id of the exit.
        host, port: listening address; port 0 lets the system choose. Another host than loopback needs
            `users`.
        path: of a Unix socket instead, which only its owner can use.
        users: password by user name; None: no login is needed. Either way user and password separate
            tunnels.
        isolation: which connections share a tunnel, see `Isolation`.
        hops, route: of each tunnel, as for `Node.open_tunnel`.
        on_failure: called in the reactor with each request that gets no connection, and its reply.
    Raises:
        OSError: the address cannot be listened on. TypeError: an argument has the wrong type.
            BadArgument: an unknown isolation, an id of another length, a user or password that is empty or
            longer than 255 bytes, a route to another node. LocalTunnelError: not a loopback address, and no
            `users`. ValueError: `host` is not a valid name, or the port is out of range.
    """

    def __init__(
        self,
        node: OpensTunnels,
        exit_id: bytes,
        *,
        host: str = "127.0.0.1",
        port: int = 1080,
        path: str | Path | None = None,
        users: Mapping[str, str] | None = None,
        isolation: Isolation | str = Isolation.AUTH,
        hops: int | None = None,
        route: Route | None = None,
        on_failure: Callable[[Request, Failed], None] | None = None,
    ) -> None:
        if not isinstance(getattr(node, "reactor", None), Reactor):
            raise TypeError(f"node: expected a Node, or the result of `connect`, got {node!r}")
        self.logins = None if users is None else Logins(users)  # not API
        self._on_failure = on_failure
        self._isolation = member(Isolation, isolation, "isolation")
        options = _tunnel_options(checked_id(exit_id, "exit_id"), hops, route)
        self.pool = TunnelPool(node, exit_id, options)  # not API
        self._scope = Scope("SOCKS connections", fail_together=False)
        self._pending: dict[SocketStream, None] = {}  # in the order of their arrival
        self._freed = Signal()
        self.connections = 0  # that are open
        place = (host, port) if path is None else Path(path)
        if users is None and not is_of_this_machine(place):
            raise LocalTunnelError(
                f"{host} is not a loopback address: without a password, everybody who reaches it could use "
                "the tunnels",
                "listen at 127.0.0.1 or a Unix socket, or give users and passwords (`users`, --users FILE)",
            )
        self.entrance = Entrance(place, _BACKLOG)  # not API

    @property
    def address(self) -> EntrancePlace:
        """Host and port, or the path of the Unix socket."""
        return self.entrance.address

    @property
    def pending(self) -> int:
        """Connections that have not made their request."""
        return len(self._pending)

    @needs_yield_from
    def serve(self) -> Service[None]:
        """Serve in the reactor of the node, until cancelled or closed; then end all connections.

        A tunnel for the first connection is opened ahead.
        """
        try:
            yield from self._scope.spawn(self._open_ahead(), name="first tunnel of a front")
            while True:
                while self.connections >= MOST_CONNECTIONS:
                    yield self._freed
                try:
                    sock = yield from self.entrance.listener.accept()
                except Closed:
                    return
                self._admit(sock)
                try:
                    yield from self._scope.spawn(self._serve(sock), name="SOCKS connection")
                except BaseException:
                    sock.close()
                    raise
        finally:
            self.close()
            for sock in tuple(self._pending):  # also those whose service has not begun
                sock.close()
            yield from self._scope.close()
            yield from self.pool.close()

    def _open_ahead(self) -> Service[None]:
        key = self._key(None)
        if key is None:
            return
        try:
            yield from self.pool.prepare(key)
        except TunnelError as error:
            reason = summary(failure_of(error, _END))
            log.warning("no tunnel to the exit yet, each connection tries again: %s", reason)
            log.debug("no tunnel to the exit yet: %s", error)

    def close(self) -> None:
        """Stop listening; `serve` then ends all connections. Idempotent."""
        self.entrance.close()

    def _admit(self, sock: SocketStream) -> None:
        self.connections += 1
        self._pending[sock] = None
        if len(self._pending) > MOST_PENDING:
            log.debug("a connection was dropped before its request: there are over %d", MOST_PENDING)
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            oldest.close()  # its service gets Closed

    # --- one connection -------------------------------------------------------------------------------------

    def _serve(self, sock: SocketStream) -> Service[None]:
        try:
            stream = yield from self._open(sock)
            if stream is not None:
                yield from stream.use(Splice(sock, stream.core).run())
        except TunnelError as error:
            log.info("a connection ended early: %s", summary(failure_of(error, _END)))
            log.debug("a connection ended early: %s", error)
        except (Broken, Closed) as error:
            log.debug("a client left: %s", error)
        finally:
            sock.close()
            self._pending.pop(sock, None)
            self.connections -= 1
            self._freed.set()

    def _open(self, sock: SocketStream) -> Service[TunnelStream | None]:
        """The sub-stream of the client's request, after its reply. None: it was refused, and knows."""
        handshake = Handshake(None if self.logins is None else partial(self._check, sock, self.logins))
        try:
            request = yield from timeout_after(HANDSHAKE_S, _read_request(sock, handshake))
        except BadProxyRequest as error:
            log.info("a client was refused: %s", error)
            yield from _refuse(sock, error.reply)
            return None
        except TimedOut:
            log.info("a client made no request within %g s", HANDSHAKE_S)
            return None
        self._pending.pop(sock, None)
        opening = self.pool.open(request.target, self._key(request.login), handshake.early_data)
        try:
            stream = yield from timeout_after(REACH_S, opening)
        except (TunnelError, TimedOut) as error:
            failed = failure_of(error, _END)
            _log_failure(request, failed)
            if self._on_failure is not None:
                self._on_failure(request, failed)
            yield from _refuse(sock, handshake.send(failed))
            return None
        try:
            yield from WriteYield(sock).write_all(handshake.send(Opened()))
        except BaseException:
            stream.give_up()
            raise
        return stream

    def _check(self, sock: SocketStream, logins: Logins, login: Login) -> str:
        """See `CheckLogin`."""
        is_unix = isinstance(self.address, Path)
        return logins.refusal(login, "" if is_unix else sock.peername[0])

    def _key(self, login: Login | None) -> Hashable | None:
        """The isolation key of the pool."""
        match self._isolation:
            case Isolation.AUTH:
                return (login,)
            case Isolation.LISTENER:
                return ()
            case _:
                return None


def _log_failure(request: Request, failed: Failed) -> None:
    log.info("%s: no connection: %s", request.protocol, summary(failed))
    log.debug("%s: no connection to %s: %s", request.protocol, request.target, failed.text)


def _read_request(sock: SocketStream, handshake: Handshake) -> Service[Request]:
    """Read a client's request, and answer what comes before it. Raises BadProxyRequest."""
    reader, writer = ReadYield(sock), WriteYield(sock)
    while True:
        event = handshake.next_event()
        if isinstance(event, Request):
            return event
        if isinstance(event, Answer):
            yield from writer.write_all(event.data)
        elif event is NEED_DATA:
            handshake.receive_data((yield from reader.read(_READ_BYTES)))


def _refuse(sock: SocketStream, reply: bytes) -> Service[None]:
    """Send the reply, and let the client read it: closing with unread bytes would send a reset instead."""

    def linger() -> Service[None]:
        yield from WriteYield(sock).write_all(reply)
        sock.shutdown_write()
        reader, left = ReadYield(sock), _MOST_LINGERED_BYTES
        while left > 0 and (data := (yield from reader.read(_READ_BYTES))):
            left -= len(data)

    if reply:
        yield from move_on_after(_LINGER_S, linger())


def _tunnel_options(exit_id: bytes, hops: int | None, route: Route | None) -> TunnelOptions:
    options: TunnelOptions = {}
    if hops is not None:
        options["hops"] = checked_count(hops, "hops")
    if route is not None:
        if not isinstance(route, Route):
            raise TypeError(f"route: expected a Route, got {type(route).__name__}")
        if route.destination != exit_id:
            raise BadArgument("route: expected one to the exit, it leads to another node")
        options["route"] = route
    return options
