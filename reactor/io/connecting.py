"""Connecting: `connect_tcp` tries the addresses of a name in parallel, `connect_addresses` those that it is
given, and `connect_unix` takes a path.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final, TypeAlias

from reactor.core.forgotten import needs_yield_from
from reactor.core.requests import Service
from reactor.core.task import Handle
from reactor.core.threads import LookUp
from reactor.core.timers import Sleep
from reactor.errors import ConnectError
from reactor.io.sockets import SocketStream, place_fault, short_path
from reactor.sync.scope import Scope, timeout_after
from reactor.sync.selection import Chosen, Select

__all__ = ["connect_addresses", "connect_tcp", "connect_unix"]

# Family, kind, protocol, canonical name and address, as `getaddrinfo` has them.
_Found: TypeAlias = tuple[Any, ...]

# Time to the next attempt to connect to a Unix socket whose backlog is full.
_FULL_BACKLOG_S: Final = 0.02
# Time until the next address of a name is tried beside the last (RFC 8305, section 8).
_ATTEMPT_DELAY_S: Final = 0.25
# Addresses that are tried at the same time. A name may have any number, and none may answer.
_MOST_ATTEMPTS: Final = 16


@needs_yield_from
def connect_tcp(host: str, port: int, *, timeout_s: float | None = None) -> Service[SocketStream]:
    """Connect: `stream = yield from connect_tcp(host, port)`.

    The addresses of a name are tried in the system's order, IPv6 and IPv4 in turn. After a quarter of a
    second without an answer the next is tried beside it; the first to answer wins ("Happy Eyeballs"). On
    error or cancellation no socket is left open.

    Args:
        host: an address, or a name, which is looked up in a thread.
        port: 1 to 65535.
        timeout_s: for the look-up and all addresses; None: the limits of the system.
    Raises:
        ConnectError: no address answered, the name is unknown or malformed, or the port is out of range. Its
            `errors` has the failure of each address.
        TimedOut: the time is over.
        TypeError: `host` is not text, or `port` not a whole number.
    Source: RFC 8305, section 5.
    """
    # Types are checked here, in the call; all else when the service runs.
    return _within(timeout_s, _connect(host, port, place_fault(host, port, 1)))


@needs_yield_from
def connect_addresses(
    hosts: Sequence[str], port: int, *, timeout_s: float | None = None
) -> Service[SocketStream]:
    """Connect to one of several addresses, as `connect_tcp` to one of those of a name. Nothing is looked up.

    For callers that have checked the addresses of a name: a second look-up could have another answer.

    Args:
        hosts: numeric addresses, the preferred one first.
        port: 1 to 65535.
        timeout_s: for all addresses; None: the limits of the system.
    Raises:
        ConnectError, TimedOut: as `connect_tcp`. ValueError: no address, one that is not numeric, or the port
            is out of range.
    """
    found = [_numeric(host, port) for host in hosts]
    if not found:
        raise ValueError("no address to connect to")
    return _within(timeout_s, _connect_found(hosts[0], port, found))


def _numeric(host: str, port: int) -> _Found:
    """The entry of a numeric address. Raises ValueError: another host, or a bad port."""
    # The socket would look a name up, and read "127.1" as an address.
    address = ipaddress.ip_address(host)
    if fault := place_fault(host, port, 1):
        raise ValueError(fault)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port)


def _within(timeout_s: float | None, connecting: Service[SocketStream]) -> Service[SocketStream]:
    return (yield from timeout_after(timeout_s, connecting))


def _connect(host: str, port: int, fault: str | None) -> Service[SocketStream]:
    if fault is not None:
        raise ConnectError(host, port, None, fault)
    return (yield from _connect_found(host, port, (yield from _look_up(host, port))))


def _connect_found(host: str, port: int, found: list[_Found]) -> Service[SocketStream]:
    """Connect to one of the addresses that were found for a host."""
    addresses = in_turn(found)
    failures: list[tuple[Any, OSError]] = []
    if len(addresses) == 1:
        # The usual case, an address: no other services are needed.
        stream = yield from _attempt(addresses[0], failures)
    else:
        stream = yield from _race(addresses, failures)
    if stream is not None:
        return stream
    if not failures:
        raise ConnectError(host, port, None, "the name has no address")
    texts = [error.strerror or str(error) for _, error in failures]
    if len(failures) > 1:
        texts = [f"{address[0]}: {text}" for (address, _), text in zip(failures, texts, strict=True)]
    last = failures[-1][1]
    errors = tuple(error for _, error in failures)
    raise ConnectError(host, port, last.errno, "; ".join(texts), errors) from last


def _look_up(host: str, port: int) -> Service[list[_Found]]:
    try:
        # A numeric address needs no thread.
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    try:
        found: list[_Found] = yield LookUp(_getaddrinfo, host, port)
    except OSError as error:
        raise ConnectError(host, port, error.errno, f"{error}") from error
    return found


def _getaddrinfo(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def in_turn(found: list[_Found]) -> list[_Found]:
    """Sort the addresses: the families in turn, each family in its order, each address once.

    Source: RFC 8305, section 4, with one address of the first family before one of the other.
    """
    families: dict[int, list[_Found]] = {}
    for entry in dict.fromkeys(found):
        families.setdefault(entry[0], []).append(entry)
    return [entry for turn in zip_longest(*families.values()) for entry in turn if entry is not None]


def _race(addresses: list[_Found], failures: list[tuple[Any, OSError]]) -> Service[SocketStream | None]:
    """Try several addresses in parallel. Returns the first stream, None when all have failed."""
    scope = Scope("connect", fail_together=False)
    attempts: list[Handle[SocketStream | None]] = []
    winner = None
    try:
        try:
            first = yield from _first_answer(addresses, failures, scope, attempts)
        finally:
            yield from scope.close()
        winner = first
    finally:
        # Several may have answered; after an interruption even the first is closed.
        for attempt in attempts:
            stream = attempt.result() if attempt.is_finished and attempt.error is None else None
            if stream is not None and stream is not winner:
                stream.close()
    return winner


def _first_answer(
    addresses: list[_Found],
    failures: list[tuple[Any, OSError]],
    scope: Scope,
    attempts: list[Handle[SocketStream | None]],
) -> Service[SocketStream | None]:
    delay = Sleep(_ATTEMPT_DELAY_S)
    under_way = Select()
    for number, address in enumerate(addresses, 1):
        attempt = yield from scope.spawn(_attempt(address, failures), name="connect to one address")
        attempts.append(attempt)
        under_way.add(attempt)
        is_last = number == len(addresses)
        has_room = len(under_way) < _MOST_ATTEMPTS
        if has_room and not is_last:
            under_way.add(delay)
        while under_way:
            chosen: Chosen = yield under_way
            stream: SocketStream | None = chosen.result()  # None also for the delay
            if stream is not None:
                return stream
            if not is_last:
                break
        under_way.discard(delay)
    return None


def _attempt(entry: _Found, failures: list[tuple[Any, OSError]]) -> Service[SocketStream | None]:
    """Connect to one address; None after a failure, which is added to `failures`."""
    family, kind, protocol, _, address = entry
    try:
        return (yield from connect_address(family, kind, protocol, address))
    except OSError as error:
        failures.append((address, error))
        return None


def connect_address(family: int, kind: int, protocol: int, address: Any) -> Service[SocketStream]:
    """Connect a new socket. Raises OSError."""
    sock = socket.socket(family, kind, protocol)
    stream = None
    try:
        sock.setblocking(False)
        status = sock.connect_ex(address)
        if status not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR):
            raise OSError(status, os.strerror(status))
        stream = SocketStream(sock, address)
        if status != 0:
            yield from _wait_connected(stream, sock)
    except BaseException:
        if stream is not None:
            stream.close()
        sock.close()
        raise
    return stream


def _wait_connected(stream: SocketStream, sock: socket.socket) -> Service[None]:
    while True:
        yield stream.writable
        status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status != 0:
            raise OSError(status, os.strerror(status))
        try:
            sock.getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            # A spurious wake: not connected yet.
        else:
            return


@needs_yield_from
def connect_unix(path: str | os.PathLike[str], *, timeout_s: float | None = None) -> Service[SocketStream]:
    """Connect to a Unix socket: `stream = yield from connect_unix(path)`.

    Args:
        path: as for `UnixListener`.
        timeout_s: for the wait until a listener with a full backlog accepts; None: no limit.
    Raises:
        OSError: no such path (FileNotFoundError), no program listens there (ConnectionRefusedError), or no
            right to connect (PermissionError). No socket is left open.
        TimedOut: the time is over.
    """
    return (yield from timeout_after(timeout_s, _connect_unix(path)))


def _connect_unix(path: str | os.PathLike[str]) -> Service[SocketStream]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                with short_path(path) as short:
                    sock.connect(short)
                return SocketStream(sock, os.fspath(path))
            except BlockingIOError:
                # The backlog is full, and the system has no event for free room.
                yield Sleep(_FULL_BACKLOG_S)
    except BaseException:
        sock.close()
        raise
