"""The messages of a node's control socket: JSON records, and content as bytes. No sockets.

One connection carries one request. The node speaks first:

    message     kind u8, length u32 (big-endian), body
    node        WELCOME   `Welcome`
    client      QUERY     `QueryMessage`; then CONTENT and END unless the query holds its content
                CONTENT   attempt u8, data           END       attempt u8
                PEERS     empty                      ROUTE     `RouteRequest`
    node        REPLY     data                       PROGRESS  `QueryProgress`
                REWIND    attempt u8: send the content again, from its start
                RESULT    `QueryOutcome`             ERROR     see `pack_error`
                PEER      `PeerRecord`
                ROUTED    `Route`                    DONE      empty: the end of PEERS

A record is a dataclass; its body is a JSON object with exactly the fields of the class, read by their types:
bytes in hex, an enum member or a profile as its name, a tuple as a list, another dataclass as an object. To
change a message, change its class and `VERSION`.

RESULT, ERROR, ROUTED and DONE end the connection. Back-pressure is the socket's: each side reads only while
it has room. The client cancels a request by closing the connection. PROGRESS comes several times a second
while a query runs, so that each side soon notices when the other has gone.

Both sides belong to one user on one machine, but a message from a faulty client must not harm the node: each
body has a limit, each field is checked, and every misfit is a `ControlError`.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum, IntEnum
from functools import lru_cache
from types import UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tunnel.codes import ErrorCode, Report
from tunnel.errors import (
    BadArgument,
    BadRoute,
    ControlError,
    LocalTunnelError,
    NodeStopped,
    ProfileError,
    QueryFailed,
    TunnelError,
)
from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.routing.route import Purpose, Route

__all__ = [
    "CLIENT_BODY_BYTES",
    "CONTENT_BYTES",
    "NODE_BODY_BYTES",
    "VERSION",
    "MessageKind",
    "MessageParser",
    "PeerRecord",
    "PeerState",
    "QueryMessage",
    "QueryOutcome",
    "QueryProgress",
    "RouteRequest",
    "Welcome",
    "pack",
    "pack_attempt",
    "pack_error",
    "pack_message",
    "unpack",
    "unpack_attempt",
    "unpack_error",
    "unpack_welcome",
]

VERSION: Final = 5
CONTENT_BYTES: Final = 65_536
"""Longest piece of content, in both directions."""
CLIENT_BODY_BYTES: Final = 160_000
"""Longest body from a client: a query with two routes of 126 proxies and 64 KiB of content, all in hex."""
NODE_BODY_BYTES: Final = 1 << 21
"""Longest body from the node: the failures of 17 attempts, each with its report."""

_HEAD: Final = struct.Struct(">BI")
_TEXT_BYTES: Final = 4096
_MOST: Final = {int: 1 << 64, float: math.inf}  # no number is negative

T = TypeVar("T")


class MessageKind(IntEnum):
    """The kind of a message. Kinds from the node have the highest bit set."""

    QUERY = 0x01
    CONTENT = 0x02
    END = 0x03
    PEERS = 0x04
    ROUTE = 0x05
    WELCOME = 0x80
    REPLY = 0x81
    PROGRESS = 0x82
    REWIND = 0x83
    RESULT = 0x84
    ERROR = 0x85
    PEER = 0x86
    DONE = 0x87
    ROUTED = 0x88


class PeerState(IntEnum):
    """The state of a known node, from the contacts of the node that lists it. THIS_NODE: that node itself."""

    UNKNOWN = 0
    SEEN = 1
    BACKED_OFF = 2
    THIS_NODE = 3


@dataclass(frozen=True, slots=True)
class Welcome:
    """The first message of the node.

    Attributes:
        hops, bias: a route of open length has `hops` proxies, and up to `bias` more.
    """

    node_id: bytes
    hops: int
    bias: int
    pid: int
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class QueryMessage:
    """A query as a client requests it; for each None the node chooses.

    Attributes:
        content: the whole content; None: it follows in CONTENT messages.
        prefix, client_key: for content with the proof of a client key (`Prefixed`): the prefix, and the seed
            of the key; None: no proof. Only the node can make the proof, because it draws the keys of each
            attempt.
    """

    destination: bytes
    hops: int | None = None
    route: Route | None = None
    reply_route: Route | None = None
    profile: Profile | None = None
    purpose: Purpose | None = None
    mode: ReplyMode = ReplyMode.ROUTE
    error_mode: ErrorMode = ErrorMode.STATUS
    retries: int = 0
    idle_s: float | None = None
    timeout_s: float | None = None
    content: bytes | None = field(default=None, repr=False)
    prefix: bytes = b""
    client_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """A request to draw a route."""

    destination: bytes
    hops: int
    profile: Profile


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """A known peer: its signed descriptor and its state."""

    descriptor: bytes
    state: PeerState


@dataclass(frozen=True, slots=True)
class QueryProgress:
    """Bytes of the query sent, and of the reply received."""

    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class QueryOutcome:
    """The result of a query that succeeded, with its failed attempts."""

    route: Route
    mode: ReplyMode
    profile: Profile
    query_bytes: int
    reply_bytes: int
    report: Report | None
    attempts: tuple[QueryFailed, ...] = ()


@dataclass(frozen=True, slots=True)
class _Failure:
    """A `QueryFailed` without its attempts."""

    text: str
    code: ErrorCode | None
    report: Report | None
    blamed: tuple[bytes, ...]
    hint: str


@dataclass(frozen=True, slots=True)
class _Error:
    """An error.

    Attributes:
        name: of its class.
        hint: of the classes that have one. hops, available: of a BadRoute.
        failure, attempts: of a QueryFailed.
    """

    name: str
    text: str = ""
    hint: str = ""
    hops: int | None = None
    available: int | None = None
    failure: QueryFailed | None = None
    attempts: tuple[QueryFailed, ...] = ()


_KINDS: Final[dict[type, MessageKind]] = {
    Welcome: MessageKind.WELCOME,
    QueryMessage: MessageKind.QUERY,
    RouteRequest: MessageKind.ROUTE,
    Route: MessageKind.ROUTED,
    PeerRecord: MessageKind.PEER,
    QueryProgress: MessageKind.PROGRESS,
    QueryOutcome: MessageKind.RESULT,
    _Error: MessageKind.ERROR,
}


def pack(record: object) -> bytes:
    """A record as a whole message."""
    text = json.dumps(_to_json(record), ensure_ascii=False)
    return pack_message(_KINDS[type(record)], text.encode("utf-8"))


def unpack(record: type[T], body: bytes) -> T:
    """Read the body of a record's message. Raises ControlError: not such a record."""
    try:
        found: T = _from_json(record, json.loads(body))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, TunnelError) as error:
        raise ControlError(f"control socket: not a {_KINDS[record].name} message: {error!r}") from error
    return found


def unpack_welcome(body: bytes) -> Welcome:
    """Raises ControlError: the node has another version of this protocol."""
    try:
        if (welcome := unpack(Welcome, body)).version == VERSION:
            return welcome
    except ControlError:
        pass  # of a version with other fields
    raise ControlError(
        "the running node has another version of this program",
        "restart the node, so that both have the same version",
    )


def _to_json(value: Any) -> Any:
    match value:
        case Enum() | Profile():
            return value.name
        case bytes():
            return value.hex()
        case str():
            return value.encode("utf-8", "replace")[:_TEXT_BYTES].decode("utf-8", "ignore")
        case tuple():
            return [_to_json(each) for each in value]
        case QueryFailed():
            return _to_json(_Failure(str(value), value.code, value.report, value.blamed, value.hint))
        case _ if is_dataclass(value):
            return {field.name: _to_json(getattr(value, field.name)) for field in fields(value)}
    return value


def _from_json(kind: Any, value: Any) -> Any:
    """Read a JSON value as this type. Raises ValueError, TypeError, KeyError, OverflowError, TunnelError: it
    is not.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # X | None
        return None if value is None else _from_json(inner[0], value)
    if origin is tuple:
        return tuple(_from_json(inner[0], each) for each in _of_type(list, value))
    if origin is Literal:
        return inner[inner.index(value)]
    if kind is bytes:
        return bytes.fromhex(value)
    if kind is Profile:
        return Profile.from_name(_of_type(str, value))
    if kind is QueryFailed:
        failure = _from_json(_Failure, value)
        return QueryFailed(failure.text, failure.code, failure.report, failure.blamed, hint=failure.hint)
    if hints := _hints(kind):
        if _of_type(dict, value).keys() != hints.keys():
            raise ValueError(f"fields {sorted(value)}, expected {sorted(hints)}")
        return kind(**{name: _from_json(hint, value[name]) for name, hint in hints.items()})
    if issubclass(kind, Enum):
        return kind[value]
    if kind is float and type(value) is int:
        value = float(value)
    if kind in _MOST and not 0 <= _of_type(kind, value) <= _MOST[kind]:
        raise ValueError(f"{value} is out of range")
    return _of_type(kind, value)


@lru_cache
def _hints(kind: type) -> dict[str, Any]:
    """The fields of a record and their types; empty: not a record."""
    return get_type_hints(kind) if is_dataclass(kind) else {}


def _of_type(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def pack_message(kind: MessageKind, body: bytes | bytearray | memoryview = b"") -> bytes:
    """One whole message."""
    return _HEAD.pack(kind, len(body)) + body


def pack_attempt(kind: MessageKind, attempt: int, data: bytes = b"") -> bytes:
    """CONTENT, END and REWIND: the number of their attempt, then data."""
    return pack_message(kind, bytes([attempt]) + data)


def unpack_attempt(body: bytes) -> tuple[int, bytes]:
    """Raises ControlError: the body is empty."""
    if not body:
        raise ControlError("control socket: content without the number of its attempt")
    return body[0], body[1:]


# An error is sent as the first of these classes that it is an instance of.
_ERRORS: Final[tuple[type[Exception], ...]] = (
    NodeStopped,
    QueryFailed,
    BadRoute,
    ProfileError,
    ControlError,
    BadArgument,
    LocalTunnelError,
    TypeError,
    ValueError,
)


def pack_error(error: Exception) -> bytes:
    """An error as an ERROR message. Errors of classes that a client does not know become a `QueryFailed`."""
    kind = next((kind for kind in _ERRORS if isinstance(error, kind)), None)
    if kind is None:
        code = getattr(error, "code", None) or ErrorCode.INTERNAL
        text = str(error) if isinstance(error, TunnelError) else "the node failed; its log has the error"
        kind, error = QueryFailed, QueryFailed(text, code)
    if kind is QueryFailed and isinstance(error, QueryFailed):
        return pack(_Error(kind.__name__, failure=error, attempts=error.attempts))
    hint = getattr(error, "hint", "")
    if isinstance(error, BadRoute):
        return pack(_Error(kind.__name__, str(error), hint, error.hops, error.available))
    return pack(_Error(kind.__name__, str(error), hint))


def unpack_error(body: bytes) -> Exception:
    """The error to raise. Raises ControlError: not an ERROR message."""
    found = unpack(_Error, body)
    if found.failure is not None:
        found.failure.attempts = found.attempts
        return found.failure
    if found.name == NodeStopped.__name__:
        return NodeStopped()
    if found.name == BadRoute.__name__:
        return BadRoute(found.text, hops=found.hops, available=found.available, hint=found.hint)
    if found.name == ControlError.__name__:
        return ControlError(found.text, found.hint)
    for kind in _ERRORS:
        if kind.__name__ == found.name:
            return kind(found.text)
    raise ControlError(f"control socket: unknown error class {found.name!r}")


class MessageParser:
    """Splits a stream of bytes into messages.

    Args:
        limit_bytes: of a body.
        is_node: True: this end is the node, and the messages come from a client; False: the reverse.
    """

    def __init__(self, limit_bytes: int, *, is_node: bool) -> None:
        self._limit_bytes = limit_bytes
        self._is_node = is_node
        self._held = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes. Holds at most one message and these bytes if `next` is called until it returns None."""
        self._held += data

    def next(self) -> tuple[MessageKind, bytes] | None:
        """The next message; None: more bytes are needed.

        Raises:
            ControlError: an unknown kind, or a body above the limit. Close the connection.
        """
        if len(self._held) < _HEAD.size:
            return None
        value, length = _HEAD.unpack_from(self._held)
        if value not in MessageKind._value2member_map_ or (value >= MessageKind.WELCOME) is self._is_node:
            raise ControlError(f"control socket: unexpected message of kind 0x{value:02x}")
        kind = MessageKind(value)
        if length > self._limit_bytes:
            raise ControlError(
                f"control socket: {kind.name} of {length:,} bytes, expected at most {self._limit_bytes:,}"
            )
        end = _HEAD.size + length
        if len(self._held) < end:
            return None
        body = bytes(memoryview(self._held)[_HEAD.size : end])
        del self._held[:end]
        return kind, body
