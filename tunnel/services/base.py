"""The interface of inner services, and the services `Echo`, `Ping` and `Services`.

An inner service is a generator that reads a query stream and may write a reply stream. Both can have any
length, and the reply may begin before the query ends:

    class Upper(InnerService):
        def handle(self, query, reply):
            while chunk := (yield from query.read()):
                yield from reply.write(chunk.upper())

A plain function with the same two arguments works too: `Node(..., service=upper)`.

`Services` offers several services by name. A message starts with the name of its service: one byte with its
length, 1 to 120, then the name, and perhaps the proof of a client key. A sub-stream of an established tunnel
has the name as its target (kind SERVICE). Source: docs/services.md, "Services".
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, Protocol, TypeAlias

from reactor import Cancelled, Signal, needs_yield_from
from reactor.core.requests import CurrentTask
from reactor.errors import is_ctrl_c
from tunnel.crypto.primitives import tunnel_engine
from tunnel.errors import ChangedContent, LocalTunnelError, MalformedMessage, TargetNotAllowed
from tunnel.established import SubStream, Target, TargetKind
from tunnel.established.layouts import PROOF_BYTES
from tunnel.identity.client_key import Claim, ClientKey
from tunnel.services.names import REVERSE, checked_name, is_name

__all__ = [
    "Echo",
    "FunctionService",
    "InnerService",
    "NamedService",
    "PieceReader",
    "Ping",
    "Query",
    "Reply",
    "ServiceFunction",
    "Services",
    "StreamService",
    "Tunnel",
    "as_named",
    "as_service",
    "check_function",
    "left_by",
    "name_of",
    "proven_prefix",
    "run_service",
    "running",
    "service_prefix",
]


class PieceReader:
    """Reads fixed layouts from a stream of pieces of any length.

    Args:
        read: returns the next bytes, b"" at the end, such as `query.read`.
    """

    def __init__(self, read: Callable[[], Generator[Any, Any, bytes]]) -> None:
        self._read = read
        self._held = b""

    def exactly(self, count: int) -> Generator[Any, Any, bytes]:
        """Exactly `count` bytes. Raises MalformedMessage: the content ends earlier."""
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
        """A function that returns pieces of at least `size` bytes, except the last: for threads and disks,
        where each call has a fixed cost."""

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

    @property
    def claim(self) -> Claim:
        """The proof of a client key that came with it. Services for listed clients call `Claim.check`."""
        ...

    def read(self) -> Generator[Any, Any, bytes]:
        """The next bytes of the content; b"" only at its end.

        Raises:
            PeerError: the frame broke off, was reset, or fails authentication. Do not catch it: the node
                reports it.
        """
        ...


class Reply(Protocol):
    """The answer to one query."""

    @property
    def is_possible(self) -> bool:
        """False in mode `none`: written bytes are counted and dropped."""
        ...

    def write(self, data: bytes) -> Generator[Any, Any, None]:
        """Send bytes of the reply, in whole chunks. Waits while the reply path is full.

        Raises:
            PeerError: the reply path broke. Do not catch it: the node reports it.
        """
        ...

    def flush(self) -> Generator[Any, Any, None]:
        """Send all bytes written so far, in a padded chunk if necessary."""
        ...

    def end(self) -> Generator[Any, Any, None]:
        """End this reply; the query can still be read. A service that returns ends its reply too.

        The reader sees the end after all written bytes. A later `write` is a LocalTunnelError.

        Raises:
            PeerError: the reply path broke. Do not catch it: the node reports it.
        """
        ...

    @property
    def remaining(self) -> int:
        """The number of replies that may follow this one, set by the asking node (`replies` of
        `Node.query`)."""
        ...

    def next(self) -> Generator[Any, Any, None]:
        """End this reply, wait until it has arrived, and begin the next one.

        Replies that a service does not begin are sent empty, so that the asking node need not wait for them.

        Raises:
            LocalTunnelError: no further reply is possible. PeerError: the reply path broke; do not catch it.
        """
        ...


class Tunnel(Protocol):
    """The service's end of an established tunnel."""

    def send(self, message: bytes) -> Generator[Any, Any, None]:
        """Send one whole message."""
        ...

    def receive(self, limit_bytes: int = 1 << 20) -> Generator[Any, Any, bytes | None]:
        """Wait for one whole message. None: the other end has stopped sending."""
        ...

    def next_message(self) -> Generator[Any, Any, bool]:
        """Wait for the next message. False: the other end has stopped sending."""
        ...

    def read(self, limit_bytes: int = 65_536) -> Generator[Any, Any, bytes]:
        """The next bytes of the message; b"" at its end."""
        ...

    def write(self, data: bytes) -> Generator[Any, Any, None]:
        """Send a part of a message."""
        ...

    def flush(self) -> Generator[Any, Any, None]:
        """Send all bytes written so far."""
        ...

    def end_message(self) -> Generator[Any, Any, None]:
        """End the message."""
        ...


class _TunnelQuery:
    """`Query` over one message of a tunnel."""

    claim = Claim()  # only queries and sub-streams carry proofs

    def __init__(self, tunnel: Tunnel) -> None:
        self.read = tunnel.read


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


class _NamedQuery(PieceReader):
    """The query of a named service: what follows the name and the proof behind it."""

    claim = Claim()


class InnerService(ABC):
    """Answers the queries of one node. One object serves all of them, each in its own task."""

    @abstractmethod
    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        """Serve one query.

        Read the whole query before a long computation: proxies end a query that is idle for
        `Limits.idle_s`. When this returns, the reply ends, and the rest of the query is discarded. The node
        ends a service that neither reads nor writes for `Limits.answer_s`. An error that leaves this
        generator ends the query at the asking node with SERVICE_FAILED, and is logged here.
        """
        ...

    def tunnel(self, tunnel: Tunnel) -> Generator[Any, Any, None]:
        """Serve one established tunnel. When this returns, the tunnel is closed from this end.

        By default each message is a query for `handle`, and its reply a message, in the same order.
        """
        yield from _name_task(self.handle)  # once: it costs as much as two calls of the tunnel
        while (yield from tunnel.next_message()):
            query, reply = _TunnelQuery(tunnel), _TunnelReply(tunnel)
            yield from _run_checked(self.handle, query, reply)
            # Before the rest is read: the other end may wait for the reply before it ends its message.
            yield from reply.end()
            while (yield from query.read()):
                pass

    def find(self, name: bytes) -> InnerService | StreamService:
        """The service for sub-streams of an established tunnel to a target of kind SERVICE.

        Its query is the content that the other end writes; its reply goes back on the same sub-stream. By
        default a service has no named services.

        Raises:
            TargetNotAllowed: no service has that name.
        """
        raise TargetNotAllowed("this node has no service of that name")

    def find_exit(self, target: Target) -> StreamService:
        """The service for sub-streams of an established tunnel to an address or a domain.

        By default a service connects to none.

        Raises:
            TargetNotAllowed: this node is no exit.
        """
        raise TargetNotAllowed("this node connects to no addresses")


class StreamService(ABC):
    """Serves sub-streams of established tunnels as connections: both halves at the same time.

    An `InnerService` reads a query and writes a reply. This one decides itself when to accept the sub-stream,
    for example after it has reached another server.
    """

    @abstractmethod
    def serve(self, stream: SubStream[Signal]) -> Generator[Any, Any, None]:
        """Serve one sub-stream.

        Call `stream.confirm()` first, or raise a PeerError to refuse it: the other end receives its code.
        When this returns, the node closes what is still open. When the other end gives the sub-stream up,
        this is cancelled.
        """
        ...


ServiceFunction: TypeAlias = Callable[[Query, Reply], Generator[Any, Any, None]]
"""A service as a function: a generator, like `InnerService.handle`."""


NamedService: TypeAlias = InnerService | StreamService | ServiceFunction
"""One of several services of a node, which its clients choose by name."""


class FunctionService(InnerService):
    """Base of the services that are made of a function. The log names the function, not `handle`.

    Attributes:
        function: the user's.
    """

    function: Callable[..., object]


class _GeneratorService(FunctionService):
    """A generator function as a service."""

    def __init__(self, function: ServiceFunction) -> None:
        self.function = function

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        return _run_checked(self.function, query, reply)


def as_named(service: NamedService) -> InnerService | StreamService:
    """A service that has a name among several. Raises TypeError: as `as_service`."""
    return service if isinstance(service, StreamService) else as_service(service)


def as_service(service: InnerService | ServiceFunction) -> InnerService:
    """A service from a service or a generator function.

    Raises:
        TypeError: neither, an `async def`, or a function that does not take a query and a reply.
    """
    if isinstance(service, InnerService):
        check_function(service.handle)
        return service
    if callable(service) and not isinstance(service, type):
        check_function(service)
        return _GeneratorService(service)
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


def run_service(
    function: Callable[..., object], *arguments: object, label: str = ""
) -> Generator[Any, Any, None]:
    """Call a user's function as a service, and run it.

    The running task takes the name of the function, which the log shows when the service fails (`running`) or
    keeps the loop. The name stays when the service has ended, so that a slow last step has it too.

    Args:
        label: the name under which `Services` offers the function.
    Raises:
        TypeError: it is not a generator function, or returned a value. The text names the function, its file
            and line, and the correct form.
        RuntimeError: it raised an error that is not an `Exception`, such as that of `sys.exit()`.
        any other: what the service raises.
    """
    yield from _name_task(function, label)
    yield from _run_checked(function, *arguments)


def _name_task(function: Callable[..., object], label: str = "") -> Generator[Any, Any, None]:
    task = yield CurrentTask()
    task.name = f"{label}: {name_of(function)}" if label else name_of(function)


def running() -> Generator[Any, Any, str]:
    """The name of the service that this task ran last; see `run_service`."""
    name: str = (yield CurrentTask()).name
    return name


def _run_checked(function: Callable[..., object], *arguments: object) -> Generator[Any, Any, None]:
    try:
        yield from _run_generator(function, function(*arguments))
    except (Exception, Cancelled, GeneratorExit):
        raise
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        raise left_by(function, error) from error


def left_by(function: Callable[..., object], error: BaseException) -> RuntimeError:
    """The failure of a user's function that raised an error that is not an `Exception`."""
    return RuntimeError(f"{name_of(function)} ended with {type(error).__name__}: {error}")


def _run_generator(function: Callable[..., object], service: object) -> Generator[Any, Any, None]:
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
    """The name of a function, with file and line if known."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, FunctionService):
        function = owner.function
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    for found in _functions_of(function):
        code = getattr(found, "__code__", None)
        if code is not None:
            return f"{name}() at {code.co_filename}:{code.co_firstlineno}"
    return f"{name}()"


def _functions_of(function: Any) -> tuple[Any, ...]:
    """The functions behind a callable: a partial, a decorated function, an object."""
    inner = inspect.unwrap(getattr(function, "func", function))
    return inner, inspect.getattr_static(type(inner), "__call__", None)


def _short(value: object) -> str:
    # Not its value: it may contain a user's data.
    return "None" if value is None else f"an object of type {type(value).__name__}"


class Echo(InnerService):
    """Replies with the content of the query, chunk by chunk, in bounded memory."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while chunk := (yield from query.read()):
            yield from reply.write(chunk)


PONG = b"pong"


class Ping(InnerService):
    """Replies b"pong" after the end of each query."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while (yield from query.read()):
            pass
        yield from reply.write(PONG)


_WITH_PROOF: Final = 0x80
"""Added to the length of a name: a proof follows the name. Names have at most 120 bytes."""


def service_prefix(name: str) -> bytes:
    """The prefix of a message for the service `name`. Raises LocalTunnelError: an invalid name."""
    raw = checked_name(name)
    return bytes([len(raw)]) + raw


def proven_prefix(prefix: bytes, client_key: ClientKey, binding: bytes) -> bytes:
    """The same with the proof that the sender holds a client key.

    Args:
        prefix: from `service_prefix`. binding: of the query.
    """
    target = Target(TargetKind.SERVICE, prefix[1:]).pack()
    return bytes([prefix[0] | _WITH_PROOF]) + prefix[1:] + client_key.proof(tunnel_engine(), binding, target)


_NAMELESS: Final = "the message does not begin with the name of a service; clients send it with service=..."


class Services(InnerService):
    """Passes each message and each sub-stream to the service that it names.

    Over an established tunnel each message names its service.

    Args:
        named: the services by name. A `StreamService` is for sub-streams only.
        exit: serves sub-streams to addresses and domains, such as `Exit`; None: this node is no exit.
        reverse: listens for clients, such as `Reverse`; None: this node listens for no client.
    Attributes:
        exit: as given.
    Raises:
        LocalTunnelError: an invalid name. TypeError: not a mapping, or a value is not a service.
    """

    def __init__(
        self,
        named: Mapping[str, NamedService],
        *,
        exit: StreamService | None = None,
        reverse: StreamService | None = None,
    ) -> None:
        if not isinstance(named, Mapping):
            raise TypeError(f"services: expected a dict of services by name, got {named!r}")
        for given, what in ((exit, "exit"), (reverse, "reverse")):
            if given is not None and not isinstance(given, StreamService):
                raise TypeError(f"{what}: expected a StreamService, got {given!r}")
        self._named = {checked_name(name): as_named(service) for name, service in named.items()}
        if reverse is not None:
            self._named[REVERSE] = reverse
        self.exit = exit

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        """Serve one message.

        Raises:
            MalformedMessage: it does not begin with a name. TargetNotAllowed: no service has that name, or it
                takes no messages.
        """
        named = _NamedQuery(query.read)
        try:
            length = (yield from named.exactly(1))[0]
            name = yield from named.exactly(length & ~_WITH_PROOF)
        except ChangedContent:
            raise
        except MalformedMessage as error:
            raise MalformedMessage(_NAMELESS) from error
        if not is_name(name):
            raise MalformedMessage(_NAMELESS)
        proof = (yield from named.exactly(PROOF_BYTES)) if length & _WITH_PROOF else b""
        named.claim = Claim(query.claim.binding, Target(TargetKind.SERVICE, name).pack(), proof)
        service = self.find(name)
        if isinstance(service, StreamService):
            raise TargetNotAllowed("the service takes no messages, only sub-streams of a tunnel")
        yield from run_service(service.handle, named, reply, label=self.label(name))

    def find(self, name: bytes) -> InnerService | StreamService:
        """The service of this name. Raises TargetNotAllowed: no service has it."""
        service = self._named.get(name)
        if service is None:
            # The peer chose the name: it must not appear in the log.
            raise TargetNotAllowed("this node has no service of that name")
        return service

    def find_exit(self, target: Target) -> StreamService:
        """The exit, which checks the target itself. Raises TargetNotAllowed: this node is not an exit."""
        return super().find_exit(target) if self.exit is None else self.exit

    def label(self, name: bytes) -> str:
        """A name for the log, if this node's owner chose it; otherwise ""."""
        return name.decode("ascii", "replace") if name in self._named else ""
