"""What passes over a node's control socket: frames, and the layouts in them. Bytes only.

One connection carries one request. The node speaks first; all integers are big-endian:

    frame       kind u8, length u32, body
    node        WELCOME   version u8, hops u8, bias u8, process u32, node id 32
    client      QUERY     see `QueryMessage`; then CONTENT and END unless the request holds its content
                CONTENT   attempt u8, data           END       attempt u8
                PEERS     empty                      ROUTE     destination 32, hops u8, profile u8
    node        REPLY     data                       PROGRESS  sent u64, received u64
                REWIND    attempt u8: send the content again, from its start
                RESULT    see `QueryOutcome`         ERROR     see `pack_error`
                PEER      state u8, signed descriptor
                ROUTED    route                      DONE      empty: the end of PEERS

RESULT, ERROR, ROUTED and DONE end the connection. Back-pressure is the socket's: each side reads only while
it has room. The client cancels a request by closing the connection. PROGRESS comes several times a second
while a query runs, so that each side soon sees that the other has gone.

Both sides belong to one user on one machine, but a frame from a faulty client must not harm the node: each
body has a limit, each field is checked, and what does not fit is a `ControlError`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, get_args

from tunnel.codes import Report
from tunnel.errors import (
    BadArgument,
    BadRoute,
    ControlError,
    ErrorCode,
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
    "FrameParser",
    "MessageKind",
    "PeerState",
    "QueryMessage",
    "QueryOutcome",
    "RouteRequest",
    "Welcome",
    "pack_attempt",
    "pack_error",
    "pack_frame",
    "pack_progress",
    "pack_route",
    "unpack_attempt",
    "unpack_error",
    "unpack_progress",
    "unpack_route",
]

VERSION: Final = 1
CONTENT_BYTES: Final = 65_536
"""Of one piece of content, either way."""
CLIENT_BODY_BYTES: Final = 80_000
"""Of a frame from a client: a whole query with two routes of 126 proxies and small content."""
NODE_BODY_BYTES: Final = 1 << 20
"""Of a frame from the node: the failures of 17 attempts, each with its report."""

_HEAD: Final = struct.Struct(">BI")
_WELCOME: Final = struct.Struct(">BBBI32s")
_QUERY: Final = struct.Struct(">32sBBBBBBdd")
_ROUTE: Final = struct.Struct(">32sBB")
_PROGRESS: Final = struct.Struct(">QQ")
_OUTCOME: Final = struct.Struct(">BBQQ")
_REPORT: Final = struct.Struct(">BBB")
_OPEN: Final = 255
"""A count that is left open, or a hop that is not known."""
_NO_TIME: Final = -1.0
_TEXT_BYTES: Final = 4096
_PURPOSES: Final[tuple[Purpose, ...]] = get_args(Purpose)


class MessageKind(IntEnum):
    """What a frame holds. Those of the node have the highest bit set."""

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
    """What the node knows of a peer from dealing with it."""

    UNKNOWN = 0
    SEEN = 1
    BACKED_OFF = 2


def pack_frame(kind: MessageKind, body: bytes | bytearray | memoryview = b"") -> bytes:
    """One frame."""
    return _HEAD.pack(kind, len(body)) + body


class FrameParser:
    """Takes bytes as they come and gives whole frames.

    Args:
        limit_bytes: of a body.
        is_node: whether the frames come from a client (True: this end is the node) or from the node.
    """

    def __init__(self, limit_bytes: int, *, is_node: bool) -> None:
        self._limit_bytes = limit_bytes
        self._is_node = is_node
        self._held = bytearray()

    @property
    def is_between(self) -> bool:
        """Whether no part of a frame is held: the stream may end here."""
        return not self._held

    def feed(self, data: bytes) -> None:
        """Take bytes. At most one piece of them and one frame are held if `next` is called until None."""
        self._held += data

    def next(self) -> tuple[MessageKind, bytes] | None:
        """The next whole frame; None: more bytes are needed.

        Raises:
            ControlError: an unknown kind, or a body above the limit. Close the connection.
        """
        if len(self._held) < _HEAD.size:
            return None
        value, length = _HEAD.unpack_from(self._held)
        if value not in MessageKind._value2member_map_ or (value >= MessageKind.WELCOME) is self._is_node:
            raise ControlError(f"control socket: frame of kind 0x{value:02x} is not expected here")
        if length > self._limit_bytes:
            name = MessageKind(value).name
            raise ControlError(f"control socket: a {name} of {length:,} bytes, at most {self._limit_bytes:,}")
        end = _HEAD.size + length
        if len(self._held) < end:
            return None
        body = bytes(memoryview(self._held)[_HEAD.size : end])
        del self._held[:end]
        return MessageKind(value), body


class _Fields:
    """Reads the fields of a body from its start. Raises ControlError: it is too short."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, count: int) -> bytes:
        data = self._body[self._at : self._at + count]
        if len(data) < count:
            raise ControlError(f"control socket: a body of {len(self._body)} bytes ends inside a field")
        self._at += count
        return data

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def byte(self) -> int:
        return self.take(1)[0]

    def text(self) -> str:
        return self.take(int.from_bytes(self.take(2), "big")).decode("utf-8", "replace")

    def ids(self) -> tuple[bytes, ...]:
        return tuple(self.take(32) for _ in range(self.byte()))

    def rest(self) -> bytes:
        return self.take(len(self._body) - self._at)

    def end(self) -> None:
        """Raises ControlError: something is left."""
        if self._at != len(self._body):
            raise ControlError(f"control socket: {len(self._body) - self._at} bytes behind the last field")


def _pack_text(text: str) -> bytes:
    # A cut inside a character is shown as "�".
    data = text.encode("utf-8", "replace")[:_TEXT_BYTES]
    return len(data).to_bytes(2, "big") + data


def _pack_ids(ids: Sequence[bytes]) -> bytes:
    return bytes([len(ids)]) + b"".join(ids)


def _pack_proxies(route: Route | None) -> bytes:
    return bytes([_OPEN]) if route is None else _pack_ids(route.proxies)


def _take_proxies(fields: _Fields, destination: bytes) -> Route | None:
    count = fields.byte()
    return None if count == _OPEN else Route(tuple(fields.take(32) for _ in range(count)), destination)


def _is_time(value: float) -> bool:
    return value == _NO_TIME or value >= 0


def _profile(value: int) -> Profile | None:
    try:
        return Profile.from_byte(value) if value else None
    except ProfileError as error:
        raise ControlError(f"control socket: {error}") from error


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the node says of itself. `hops`: proxies of a route whose length is left open, and up to `bias`
    more.
    """

    node_id: bytes
    hops: int
    bias: int
    pid: int

    def pack(self) -> bytes:
        return pack_frame(
            MessageKind.WELCOME, _WELCOME.pack(VERSION, self.hops, self.bias, self.pid, self.node_id)
        )

    @classmethod
    def unpack(cls, body: bytes) -> Welcome:
        """Raises ControlError: of another version of this protocol."""
        if len(body) != _WELCOME.size or body[0] != VERSION:
            raise ControlError(
                "the running node has another version of this program",
                "restart the node, so that both are of one version",
            )
        _, hops, bias, pid, node_id = _WELCOME.unpack(body)
        return cls(node_id, hops, bias, pid)


@dataclass(frozen=True, slots=True)
class QueryMessage:
    """A query as a client asks for it: what it leaves open the node chooses.

    Layout: destination 32, hops u8 (255: open), profile u8 (0: open), purpose u8 (255: open), mode u8, error
    mode u8 (places in their lists), retries u8, idle f64, timeout f64 (seconds; -1: open), route and reply
    route (count u8, 255: open; ids), is whole u8, content.

    Attributes:
        content: the whole content; None: it follows in frames.
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
    content: bytes | None = None

    def pack(self) -> bytes:
        head = _QUERY.pack(
            self.destination,
            _OPEN if self.hops is None else self.hops,
            0 if self.profile is None else self.profile.byte,
            _OPEN if self.purpose is None else _PURPOSES.index(self.purpose),
            list(ReplyMode).index(self.mode),
            list(ErrorMode).index(self.error_mode),
            self.retries,
            _NO_TIME if self.idle_s is None else self.idle_s,
            _NO_TIME if self.timeout_s is None else self.timeout_s,
        )
        ways = _pack_proxies(self.route) + _pack_proxies(self.reply_route)
        return pack_frame(
            MessageKind.QUERY, head + ways + bytes([self.content is not None]) + (self.content or b"")
        )

    @classmethod
    def unpack(cls, body: bytes, node_id: bytes) -> QueryMessage:
        """Args: node_id: where a reply route ends. Raises ControlError: not such a body."""
        fields = _Fields(body)
        destination, hops, profile, purpose, mode, error_mode, retries, idle_s, timeout_s = _QUERY.unpack(
            fields.take(_QUERY.size)
        )
        route = _take_proxies(fields, destination)
        reply_route = _take_proxies(fields, node_id)
        is_whole = fields.byte()
        content = fields.rest()
        if mode >= len(ReplyMode) or error_mode >= len(ErrorMode) or is_whole > 1:
            raise ControlError("control socket: a QUERY with an unknown mode")
        if purpose != _OPEN and purpose >= len(_PURPOSES):
            raise ControlError("control socket: a QUERY with an unknown purpose")
        if not (_is_time(idle_s) and _is_time(timeout_s)) or (content and not is_whole):
            raise ControlError("control socket: a QUERY with impossible limits or stray content")
        return cls(
            destination,
            None if hops == _OPEN else hops,
            route,
            reply_route,
            _profile(profile),
            None if purpose == _OPEN else _PURPOSES[purpose],
            list(ReplyMode)[mode],
            list(ErrorMode)[error_mode],
            retries,
            None if idle_s == _NO_TIME else idle_s,
            None if timeout_s == _NO_TIME else timeout_s,
            content if is_whole else None,
        )


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """A route that is to be drawn: destination 32, hops u8, profile u8."""

    destination: bytes
    hops: int
    profile: Profile

    def pack(self) -> bytes:
        return pack_frame(MessageKind.ROUTE, _ROUTE.pack(self.destination, self.hops, self.profile.byte))

    @classmethod
    def unpack(cls, body: bytes) -> RouteRequest:
        """Raises ControlError: not such a body."""
        fields = _Fields(body)
        destination, hops, value = _ROUTE.unpack(fields.take(_ROUTE.size))
        fields.end()
        profile = _profile(value)
        if profile is None:
            raise ControlError("control socket: a ROUTE without a profile")
        return cls(destination, hops, profile)


def pack_attempt(kind: MessageKind, attempt: int, data: bytes = b"") -> bytes:
    """CONTENT, END and REWIND: the number of the attempt that they belong to, and what follows."""
    return pack_frame(kind, bytes([attempt]) + data)


def unpack_attempt(body: bytes) -> tuple[int, bytes]:
    """Raises ControlError: the body is empty."""
    fields = _Fields(body)
    return fields.byte(), fields.rest()


def pack_progress(sent: int, received: int) -> bytes:
    """Bytes of the query sent and of the reply received."""
    return pack_frame(MessageKind.PROGRESS, _PROGRESS.pack(sent, received))


def unpack_progress(body: bytes) -> tuple[int, int]:
    """Raises ControlError: not such a body."""
    fields = _Fields(body)
    sent, received = fields.unpack(_PROGRESS)
    fields.end()
    return sent, received


def _pack_way(route: Route) -> bytes:
    return route.destination + _pack_ids(route.proxies)


def _take_way(fields: _Fields) -> Route:
    destination = fields.take(32)
    return Route(fields.ids(), destination)


def pack_route(route: Route) -> bytes:
    """The answer to ROUTE: destination 32, count u8, ids of the proxies."""
    return pack_frame(MessageKind.ROUTED, _pack_way(route))


def unpack_route(body: bytes) -> Route:
    """Raises ControlError: not such a body."""
    fields = _Fields(body)
    route = _take_way(fields)
    fields.end()
    return route


def _pack_report(report: Report | None) -> bytes:
    """Is there u8; flags u8, hop u8, code u8, text, ids of the route, suspects (count u8, u8 each), hold
    times (count u8, u32 each)."""
    if report is None:
        return b"\x00"
    flags = report.succeeded | report.about_next << 1 | report.is_about_reply << 2
    hop = _OPEN if report.hop is None else report.hop
    return b"".join(
        [
            b"\x01",
            _REPORT.pack(flags, hop, report.code or 0),
            _pack_text(report.text),
            _pack_ids(report.route),
            bytes([len(report.suspects), *report.suspects]),
            bytes([len(report.hold_ms)]),
            *(min(held, 0xFFFF_FFFF).to_bytes(4, "big") for held in report.hold_ms),
        ]
    )


def _take_report(fields: _Fields) -> Report | None:
    if not fields.byte():
        return None
    flags, hop, code = fields.unpack(_REPORT)
    text, route = fields.text(), fields.ids()
    suspects = tuple(fields.take(fields.byte()))
    hold_ms = tuple(int.from_bytes(fields.take(4), "big") for _ in range(fields.byte()))
    return Report(
        route,
        bool(flags & 1),
        None if hop == _OPEN else hop,
        _code(code),
        bool(flags & 2),
        text,
        suspects,
        hold_ms,
        bool(flags & 4),
    )


def _code(value: int) -> ErrorCode | None:
    try:
        return ErrorCode(value) if value else None
    except ValueError as error:
        raise ControlError(f"control socket: error code {value} does not exist") from error


@dataclass(frozen=True, slots=True)
class QueryOutcome:
    """What came of a query: mode u8 and profile u8, query bytes u64, reply bytes u64, route, report, failed
    attempts (count u8, each as in ERROR)."""

    route: Route
    mode: ReplyMode
    profile: Profile
    query_bytes: int
    reply_bytes: int
    report: Report | None
    attempts: tuple[QueryFailed, ...] = ()

    def pack(self) -> bytes:
        head = _OUTCOME.pack(
            list(ReplyMode).index(self.mode), self.profile.byte, self.query_bytes, self.reply_bytes
        )
        attempts = bytes([len(self.attempts)]) + b"".join(map(_pack_failure, self.attempts))
        return pack_frame(
            MessageKind.RESULT, head + _pack_way(self.route) + _pack_report(self.report) + attempts
        )

    @classmethod
    def unpack(cls, body: bytes) -> QueryOutcome:
        """Raises ControlError: not such a body."""
        fields = _Fields(body)
        mode, value, query_bytes, reply_bytes = fields.unpack(_OUTCOME)
        route, report = _take_way(fields), _take_report(fields)
        attempts = tuple(_take_failure(fields) for _ in range(fields.byte()))
        fields.end()
        profile = _profile(value)
        if mode >= len(ReplyMode) or profile is None:
            raise ControlError("control socket: a RESULT with an unknown mode or profile")
        return cls(route, list(ReplyMode)[mode], profile, query_bytes, reply_bytes, report, attempts)


# The first class that an error is an instance of; the place in the list is its number.
_ERRORS: Final = (
    QueryFailed,
    BadRoute,
    ProfileError,
    ControlError,
    BadArgument,
    LocalTunnelError,
    TypeError,
    ValueError,
)


_STOPPED: Final = 255


def pack_error(error: Exception) -> bytes:
    """Class u8 (its place in a fixed list), text. Of NodeStopped: class 255 alone. Of QueryFailed: class u8,
    code u8, text, report, ids of those blamed, failed attempts. What has no class there becomes one."""
    number = next((index for index, kind in enumerate(_ERRORS) if isinstance(error, kind)), 0)
    if isinstance(error, NodeStopped):
        return pack_frame(MessageKind.ERROR, bytes([_STOPPED]))
    if number:
        return pack_frame(MessageKind.ERROR, bytes([number]) + _pack_text(str(error)))
    if not isinstance(error, QueryFailed):
        code = getattr(error, "code", None) or ErrorCode.INTERNAL
        text = str(error) if isinstance(error, TunnelError) else "the node failed; its log has the error"
        error = QueryFailed(text, code)
    attempts = error.attempts if len(error.attempts) < _OPEN else ()
    return pack_frame(
        MessageKind.ERROR,
        bytes([0]) + _pack_failure(error) + bytes([len(attempts)]) + b"".join(map(_pack_failure, attempts)),
    )


def unpack_error(body: bytes) -> Exception:
    """The error to raise. Raises ControlError: not such a body."""
    fields = _Fields(body)
    number = fields.byte()
    if number == _STOPPED:
        fields.end()
        return NodeStopped()
    if number >= len(_ERRORS):
        raise ControlError(f"control socket: error class {number} does not exist")
    if number:
        text = fields.text()
        fields.end()
        return _ERRORS[number](text)
    error = _take_failure(fields)
    error.attempts = tuple(_take_failure(fields) for _ in range(fields.byte()))
    fields.end()
    return error


def _pack_failure(error: QueryFailed) -> bytes:
    return b"".join(
        [
            bytes([error.code or 0]),
            _pack_text(str(error)),
            _pack_report(error.report),
            _pack_ids(error.blamed),
        ]
    )


def _take_failure(fields: _Fields) -> QueryFailed:
    code, text = _code(fields.byte()), fields.text()
    return QueryFailed(text, code, _take_report(fields), fields.ids())
