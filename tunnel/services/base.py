"""The interface of inner services, the services `Echo`, `Ping` and `Services`, and the rules for names.

An inner service is a generator that reads a query stream and may write a reply stream. Both have any length,
and the reply may begin before the query ends:

    class Upper(InnerService):
        def handle(self, query, reply):
            while chunk := (yield from query.read()):
                yield from reply.write(chunk.upper())

A plain function with the same two arguments works too: `Node(..., service=upper)`.

`Services` serves several services by name. A message starts with the name of its service: its length (one
byte, 1 to 120), then the name. A sub-stream of an established tunnel has the name as its target (kind
SERVICE). Source: docs/services.md, "Services".

Service names are ASCII letters, digits, "-", "_" and ".", without a leading dot, because people type them and
put them into configurations. Files and attachments keep their names ("日本語.txt", "my résumé (1).txt",
".bashrc"), in UTF-8 and NFC on the wire, so that é has one form. Refused are names that a folder cannot hold
("/", NUL, ".", ".."), that change the display of a terminal (control characters, line separators, direction
marks), and those of unfinished files (".….part"). A name from a peer is thus never a path, and safe to print.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol, TypeAlias

from reactor import needs_yield_from
from tunnel.errors import LocalTunnelError, MalformedMessage, TargetNotAllowed
from tunnel.services.names import checked_name, is_name

__all__ = [
    "PieceReader",
    "Echo",
    "InnerService",
    "PieceReader",
    "Ping",
    "Query",
    "Reply",
    "ServiceFunction",
    "Services",
    "Tunnel",
    "as_service",
    "check_function",
    "left_by",
    "name_of",
    "run_service",
    "service_prefix",
]


class PieceReader:
    """Reads fixed layouts from pieces of any length: a query, a reply, a message.

    Args:
        read: a service that returns the next bytes, b"" at the end, such as `query.read`.
    """

    def __init__(self, read: Callable[[], Generator[Any, Any, bytes]]) -> None:
        self._read = read
        self._held = b""

    def exactly(self, count: int) -> Generator[Any, Any, bytes]:
        """Exactly `count` bytes. Raises MalformedMessage: the content ends before."""
        while len(self._held) < count:
            more = yield from self._read()
            if not more:
                raise MalformedMessage(f"the content ends after {len(self._held)} of {count} bytes")
            self._held += more
        data, self._held = self._held[:count], self._held[count:]
        return data

    def read(self) -> Generator[Any, Any, bytes]:
        """The next bytes, b"" at the end."""
        if self._held:
            data, self._held = self._held, b""
            return data
        return (yield from self._read())

    def batches(self, size: int) -> Callable[[], Generator[Any, Any, bytes]]:
        """A service that gives pieces of at least `size` bytes, but for the last: for threads and disks,
        which cost by the call."""

        def batch() -> Generator[Any, Any, bytes]:
            pieces: list[bytes] = []
            count = 0
            while count < size and (data := (yield from self.read())):
                pieces.append(data)
                count += len(data)
            return b"".join(pieces)

        return batch


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
    """An established tunnel, as a service sees it; see `tunnel.node.tunnels.tunnel.NodeTunnel`."""

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

    @needs_yield_from
    def read(self) -> Generator[Any, Any, bytes]:
        return (yield from self._tunnel.read())


class _TunnelReply:
    """`Reply` as one message of a tunnel."""

    is_possible = True
    remaining = 0  # a message has one answer

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._has_ended = False

    @needs_yield_from
    def write(self, data: bytes) -> Generator[Any, Any, None]:
        if self._has_ended:
            raise LocalTunnelError("write after the end of the reply")
        yield from self._tunnel.write(data)

    @needs_yield_from
    def flush(self) -> Generator[Any, Any, None]:
        if not self._has_ended:
            yield from self._tunnel.flush()

    @needs_yield_from
    def end(self) -> Generator[Any, Any, None]:
        if not self._has_ended:
            self._has_ended = True
            yield from self._tunnel.end_message()

    @needs_yield_from
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
            yield from run_service(self.handle, query, reply)
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
        return run_service(self._function, query, reply)


def as_service(service: InnerService | ServiceFunction) -> InnerService:
    """A service, from a service or from a function.

    Raises:
        TypeError: neither, an `async def`, or one that does not take a query and a reply.
    """
    if isinstance(service, InnerService):
        check_function(service.handle)
        return service
    if callable(service) and not isinstance(service, type):
        check_function(service)
        return _FunctionService(service)
    hint = ": make one of the class" if isinstance(service, type) else ""
    raise TypeError(f"a service is an InnerService or a generator function, got {service!r}{hint}")


def check_function(function: Callable[..., object]) -> None:
    """Refuse a function that cannot serve a query.

    Raises:
        TypeError: an `async def`, or one that does not take a query and a reply. The text names the function,
            its file and its line.
    """
    if any(
        inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found)
        for found in _functions_of(function)
    ):
        raise TypeError(
            f"{name_of(function)} is an `async def`: a service is a `def` with `yield from` for `await`"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin without a signature
    try:
        signature.bind("query", "reply")
    except TypeError as error:
        raise TypeError(
            f"{name_of(function)} takes {signature}, a service takes two arguments: `(query, reply)`"
        ) from error


def run_service(function: Callable[..., object], *arguments: object) -> Generator[Any, Any, None]:
    """Call what a user wrote as a service, and run it.

    Raises:
        TypeError: it is no generator, or returned something. The text names the function, its file and its
            line, and says what to write.
        RuntimeError: it called `sys.exit()`, which is to end no node.
        any other: what the service raises.
    """
    try:
        service = function(*arguments)
        yield from _run_checked(function, service)
    except SystemExit as error:
        raise left_by(function, error) from error


def left_by(function: Callable[..., object], error: BaseException) -> RuntimeError:
    """The failure of a user's function that ended with an error that is no `Exception`."""
    return RuntimeError(f"{name_of(function)} ended with {type(error).__name__}: {error}")


def _run_checked(function: Callable[..., object], service: object) -> Generator[Any, Any, None]:
    if not isinstance(service, Generator):
        if inspect.iscoroutine(service):
            service.close()
        raise TypeError(
            f"{name_of(function)} returned {_short(service)}: a service answers with `yield from "
            "reply.write(...)`; a function that blocks becomes a service with `blocking`"
        )
    returned = yield from service
    if returned is not None:
        raise TypeError(
            f"{name_of(function)} returned {_short(returned)}, which is not sent: a service answers with "
            "`yield from reply.write(...)`"
        )


def name_of(function: Callable[..., object]) -> str:
    """Name a function, with its file and line where it has them."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    for found in _functions_of(function):
        code = getattr(found, "__code__", None)
        if code is not None:
            return f"{name}() at {code.co_filename}:{code.co_firstlineno}"
    return f"{name}()"


def _functions_of(function: Any) -> tuple[Any, ...]:
    """What is behind something that can be called: a partial, a decorated function, an object."""
    inner = inspect.unwrap(getattr(function, "func", function))
    return inner, inspect.getattr_static(type(inner), "__call__", None)


def _short(value: object) -> str:
    # Not its content, which may be of a query.
    return "None" if value is None else f"an object of type {type(value).__name__}"


class Echo(InnerService):
    """Answers with the query's own content, chunk by chunk, in bounded memory."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while chunk := (yield from query.read()):
            yield from reply.write(chunk)


PONG = b"pong"


class Ping(InnerService):
    """Answers b"pong" after the end of each query."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while (yield from query.read()):
            pass
        yield from reply.write(PONG)


def service_prefix(name: str) -> bytes:
    """The prefix of a message for the service `name`. Raises LocalTunnelError: an invalid name."""
    raw = checked_name(name)
    return bytes([len(raw)]) + raw


class Services(InnerService):
    """Hands each message, and each sub-stream, to the service that it names.

    Args:
        named: the services. Over an established tunnel each message names its own.
    Raises:
        LocalTunnelError: an invalid name. TypeError: a service that is none.
    """

    def __init__(self, named: Mapping[str, InnerService | ServiceFunction]) -> None:
        self._named = {checked_name(name): as_service(service) for name, service in named.items()}

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        """Serve one message.

        Raises:
            MalformedMessage: it does not begin with a name. TargetNotAllowed: no service has that name.
        """
        reader = PieceReader(query.read)
        length = (yield from reader.exactly(1))[0]
        name = yield from reader.exactly(length)
        if not is_name(name):
            raise MalformedMessage("the message does not begin with the name of a service")
        yield from run_service(self._find(name).handle, _Rest(reader), reply)

    def find(self, name: bytes) -> InnerService:
        """The service for sub-streams to this name."""
        return self._find(name)

    def _find(self, name: bytes) -> InnerService:
        service = self._named.get(name)
        if service is None:
            # The name is of the peer's making: not for the log.
            raise TargetNotAllowed("no service of that name is here")
        return service


class _Rest:
    """A query without the name that it began with."""

    def __init__(self, reader: PieceReader) -> None:
        self._reader = reader

    def read(self) -> Generator[Any, Any, bytes]:
        return (yield from self._reader.read())
