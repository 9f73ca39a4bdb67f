"""`Reverse`: a node listens for a client, and forwards each connection through the client's tunnel.

    Services({}, reverse=Reverse([("127.0.0.1", 9000)]))

The client opens a sub-stream to the service `.reverse`, and writes the address to listen on and the name of a
service at its own end:

    port        2    0: any free port
    lengths     1 + 1
    host        an IP address as text
    service     a name

The answer is the port, 2 bytes. The node listens until that sub-stream ends. For each connection it opens a
sub-stream of the same tunnel to the named service. Addresses that the node's owner did not list are refused
with TARGET_NOT_ALLOWED.

Source: docs/front.md, "Reverse forwards".
"""

from __future__ import annotations

import ipaddress
import logging
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from reactor import ReadYield, Scope, Service, Signal, SocketStream, TcpListener, WriteYield
from tunnel.arguments import MOST_PORT, checked_count
from tunnel.errors import (
    BadArgument,
    LocalTunnelError,
    MalformedMessage,
    PeerError,
    TableFull,
    TargetNotAllowed,
)
from tunnel.established import SubStream, Target, TargetKind
from tunnel.services.base import PieceReader, StreamService
from tunnel.services.names import checked_name, is_name
from tunnel.services.splice import Splice

__all__ = ["Place", "Reverse", "checked_place", "pack_request", "unpack_port"]

log = logging.getLogger("tunnel.services")

Place: TypeAlias = tuple[str, int]
"""IP address and port."""

_HEAD: Final = struct.Struct(">HBB")
_PORT: Final = struct.Struct(">H")
_MOST_CONNECTIONS: Final = 256


def checked_place(value: Any) -> Place:
    """A place to listen at. Raises TypeError: not a pair. BadArgument: no IP address, or no port."""
    if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[0], str):
        raise TypeError(f'place: expected an IP address and a port, as ("127.0.0.1", 9000), got {value!r}')
    try:
        host = str(ipaddress.ip_address(value[0]))
    except ValueError as error:
        raise BadArgument(f"place: {value[0]!r} is not an IP address") from error
    return host, checked_count(value[1], "port", most=MOST_PORT)


def pack_request(place: Place, service: str) -> bytes:
    """The request of a client. Raises LocalTunnelError: an invalid name."""
    host, name = place[0].encode("ascii"), checked_name(service)
    return _HEAD.pack(place[1], len(host), len(name)) + host + name


def unpack_port(answer: bytes) -> int:
    """The port of an answer. Raises MalformedMessage: not a port."""
    if len(answer) != _PORT.size:
        raise MalformedMessage(f"the answer of a reverse forward has {len(answer)} bytes, expected 2")
    port: int = _PORT.unpack(answer)[0]
    return port


class Reverse(StreamService):
    """Listens at allowed addresses, each for one client at a time.

    Args:
        allowed: IP addresses, each with a port; port 0 allows any free port that the system chooses.
        most: connections of one client at the same time; more wait in the backlog of the system.
    Attributes:
        listening: the addresses in use.
    Raises:
        TypeError, BadArgument: as `checked_place`, or `most` is out of range.
    """

    def __init__(self, allowed: Collection[Place], *, most: int = _MOST_CONNECTIONS) -> None:
        self._allowed = frozenset(map(checked_place, allowed))
        self._most = checked_count(most, "most", least=1)
        self._tunnels: set[int] = set()  # their ids, while they have a reverse forward
        self.listening: set[Place] = set()

    def serve(self, stream: SubStream[Signal]) -> Service[None]:
        """Listen for one client, until it ends its sub-stream.

        Raises:
            TargetNotAllowed: not at that place. TableFull: it is in use, or this tunnel has a reverse
                forward. MalformedMessage: no request.
        """
        tunnel = id(stream.tunnel)
        if tunnel in self._tunnels:
            raise TableFull("the tunnel has a reverse forward")
        self._tunnels.add(tunnel)
        try:
            stream.confirm()
            place, target = yield from _read_request(stream)
            with self._listen(place) as listener:
                self.listening.add(place)
                yield from WriteYield(stream).write_all(_PORT.pack(listener.address[1]))
                yield from _Passing(listener, stream, target, self._most).run()
        finally:
            self._tunnels.discard(tunnel)

    @contextmanager
    def _listen(self, place: Place) -> Iterator[TcpListener]:
        if place not in self._allowed:
            raise TargetNotAllowed("this node does not listen at this address for clients")
        if place in self.listening and place[1]:
            raise TableFull("another client uses that place")
        try:
            listener = TcpListener(*place)
        except OSError as error:
            raise TableFull("the address cannot be listened on") from error
        try:
            with listener:
                yield listener
        finally:
            self.listening.discard(place)


class _Passing:
    """The connections of one client's place."""

    def __init__(self, listener: TcpListener, stream: SubStream[Signal], target: Target, most: int) -> None:
        self._listener = listener
        self._stream = stream
        self._target = target
        self._most = most
        self._open = 0
        self._failure: PeerError | None = None
        self._has_room = Signal()
        self._scope = Scope("reverse forward")

    def run(self) -> Service[None]:
        """Pass connections back until the client ends its half. Raises PeerError: the tunnel has ended."""
        scope = self._scope
        try:
            yield from scope.spawn(self._end_with(self._wait_for_end()), name="client")
            yield from scope.spawn(self._end_with(self._accept()), name="listener")
            yield from scope.join()
        finally:
            yield from scope.close()
        if self._failure is not None:
            raise self._failure

    def _end_with(self, service: Service[None]) -> Service[None]:
        """Run a service whose end is that of all."""
        try:
            yield from service
        except PeerError as error:
            self._failure = self._failure or error
        self._scope.cancel()

    def _wait_for_end(self) -> Service[None]:
        if (yield from ReadYield(self._stream).read(1)):
            raise MalformedMessage("bytes after the request of a reverse forward")

    def _accept(self) -> Service[None]:
        while True:
            while self._open >= self._most:
                yield self._has_room
            sock = yield from self._listener.accept()
            try:
                # One after the other: only one service may wait for a place in the tunnel.
                back = yield from self._open_back()
                self._open += 1
                yield from self._scope.spawn(self._join(sock, back), name="reverse connection")
            except BaseException:
                sock.abort()
                raise

    def _open_back(self) -> Service[SubStream[Signal]]:
        tunnel = self._stream.tunnel
        while True:
            try:
                return tunnel.open(self._target)
            except BlockingIOError:
                yield tunnel.openable
            except LocalTunnelError as error:
                raise TableFull("the tunnel opens no more sub-streams") from error

    def _join(self, sock: SocketStream, back: SubStream[Signal]) -> Service[None]:
        try:
            yield from WriteYield(back).call(lambda _: back.check_opened())
            yield from Splice(sock, back).run()
        except PeerError as error:
            log.debug("a connection of a reverse forward ended: %s", error)
        finally:
            sock.abort()  # no effect after an end in order, as the next line
            back.give_up()
            self._open -= 1
            self._has_room.set()


def _read_request(stream: SubStream[Signal]) -> Service[tuple[Place, Target]]:
    reader = PieceReader(ReadYield(stream).read)
    port, host_bytes, name_bytes = _HEAD.unpack((yield from reader.exactly(_HEAD.size)))
    host = yield from reader.exactly(host_bytes)
    name = yield from reader.exactly(name_bytes)
    if not host.isascii() or not is_name(name):
        raise MalformedMessage("the request of a reverse forward names no address or no service")
    return (host.decode("ascii"), port), Target(TargetKind.SERVICE, name)
