"""SOCKS5, SOCKS4, SOCKS4a and HTTP CONNECT on one port, as a state machine over bytes.

    handshake = Handshake()
    handshake.receive_data(data)                  # from the client; b"" at its end
    match handshake.next_event():
        case Answer(data): ...                    # send `data` to the client
        case Request(target=target): ...          # connect, then send what `send` returns:
            handshake.send(Opened()), or handshake.send(Failed(ErrorCode.TARGET_REFUSED, "…"))
    handshake.early_data                          # bytes behind the request, for the target

The first byte selects the protocol: 5, 4, or a letter. There is no socket, clock or look-up here. Input that
is not a valid request raises `BadProxyRequest`, with the reply for the client.

Rules for changing it: a reader returns an event, moves to the next step of `STEPS`, raises, or does none of
these because it needs more bytes. It consumes bytes only when it moves on. The held bytes are limited by
`HEAD_BYTES` and one read of the caller.

Source: RFC 1928 (SOCKS5), RFC 1929 (user and password), Koblas's SOCKS protocol version 4 and its extension
4A by Lee, RFC 9110, section 9.3.6 (CONNECT), RFC 7617 (Basic); the shape is that of h11's `_connection.py`.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Final, NoReturn, TypeAlias

from tunnel.codes import ErrorCode, short
from tunnel.errors import BadArgument, BadProxyRequest, LocalTunnelError
from tunnel.established import Target
from tunnel.front.targets import make_target, parse_target

__all__ = [
    "HEAD_BYTES",
    "NEED_DATA",
    "STEPS",
    "Answer",
    "CheckLogin",
    "Event",
    "Failed",
    "Handshake",
    "Login",
    "NeedData",
    "Opened",
    "ProxyProtocol",
    "Request",
    "Step",
]

HEAD_BYTES: Final = 8_192
"""Longest head of a CONNECT. Browsers send less than 1 KiB."""

_FIELD_BYTES: Final = 255  # of a user id or a name in SOCKS4
_HEAD_END: Final = b"\r\n\r\n"
_NO_ADDRESS: Final = bytes(6)  # the bound address and port of replies, which clients ignore
_SOCKS4_REQUEST: Final = struct.Struct(">BBH4s")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
_FIELD_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

Login: TypeAlias = tuple[bytes, bytes]
"""User and password."""

CheckLogin: TypeAlias = Callable[[Login], str]
"""The reason why a user and password are refused; "": they are accepted."""


class ProxyProtocol(StrEnum):
    """What the client speaks."""

    SOCKS5 = "SOCKS5"
    SOCKS4 = "SOCKS4"
    CONNECT = "HTTP CONNECT"


class Step(Enum):
    """What the machine reads or waits for."""

    FIRST_BYTE = auto()
    SOCKS5_METHODS = auto()
    SOCKS5_LOGIN = auto()
    SOCKS5_REQUEST = auto()
    SOCKS4_REQUEST = auto()
    HTTP_LINE = auto()
    HTTP_FIELDS = auto()
    REQUESTED = auto()  # the caller connects, then calls `send`
    ENDED = auto()  # answered, or refused


STEPS: Final[dict[Step, frozenset[Step]]] = {
    Step.FIRST_BYTE: frozenset({Step.SOCKS5_METHODS, Step.SOCKS4_REQUEST, Step.HTTP_LINE, Step.ENDED}),
    Step.SOCKS5_METHODS: frozenset({Step.SOCKS5_LOGIN, Step.SOCKS5_REQUEST, Step.ENDED}),
    Step.SOCKS5_LOGIN: frozenset({Step.SOCKS5_REQUEST, Step.ENDED}),
    Step.SOCKS5_REQUEST: frozenset({Step.REQUESTED, Step.ENDED}),
    Step.SOCKS4_REQUEST: frozenset({Step.REQUESTED, Step.ENDED}),
    Step.HTTP_LINE: frozenset({Step.HTTP_FIELDS, Step.ENDED}),
    Step.HTTP_FIELDS: frozenset({Step.REQUESTED, Step.ENDED}),
    Step.REQUESTED: frozenset({Step.ENDED}),
    Step.ENDED: frozenset(),
}
"""The steps that may follow each step."""


class NeedData(Enum):
    """The type of `NEED_DATA`: call `receive_data` with more bytes."""

    NEED_DATA = auto()


NEED_DATA: Final = NeedData.NEED_DATA


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes to send to the client now; its request follows."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """The client wants a connection.

    Attributes:
        login: user and password, b"" for a missing password; None: the client gave none.
    """

    target: Target
    protocol: ProxyProtocol
    login: Login | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """The target has answered."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No connection.

    Attributes:
        code: the reason. text: for people.
        hops: ids of the suspected nodes, of which one is at fault; empty if unknown.
        is_at_target: the far end gives this reason for its connection to the target; the tunnel works.
        hint: a remedy, for the log; may be empty.
    """

    code: ErrorCode
    text: str
    hops: tuple[bytes, ...] = ()
    is_at_target: bool = False
    hint: str = ""


Event: TypeAlias = Answer | Request | NeedData

_MethodsReply: Final = {method: bytes((5, method)) for method in (0, 2, 255)}
_NO_AUTH, _USER_PASSWORD, _NO_METHOD = 0, 2, 255

# SOCKS5 replies and HTTP statuses of failures at the target; elsewhere 1 and 502 or 504.
_AT_TARGET: Final = {
    ErrorCode.TARGET_NOT_ALLOWED: (2, 403),
    ErrorCode.TARGET_UNREACHABLE: (4, 502),
    ErrorCode.TARGET_REFUSED: (5, 502),
    ErrorCode.TIMEOUT: (6, 504),
}
_GENERAL, _BAD_COMMAND, _BAD_ADDRESS_TYPE = 1, 7, 8
_SOCKS4_GRANTED, _SOCKS4_REFUSED = 90, 91

_REASONS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    407: "Proxy Authentication Required",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
_CHALLENGE: Final = ('Proxy-Authenticate: Basic realm="mtun"',)


class Handshake:
    """One connection of a client, until its target has answered.

    Args:
        check_login: why a user and password are refused; None: a login is not needed, and any is accepted.
    Attributes:
        step: see `Step`.
        protocol: None until the first byte.
    """

    def __init__(self, check_login: CheckLogin | None = None) -> None:
        self._check_login = check_login
        self._buffer = bytearray()
        self._has_ended = False  # the client sends no more
        self._login: Login | None = None
        self._http_target: Target | None = None
        self.step = Step.FIRST_BYTE
        self.protocol: ProxyProtocol | None = None

    def receive_data(self, data: bytes) -> None:
        """Add bytes from the client; b"": it sends no more."""
        self._buffer += data
        self._has_ended |= not data

    def next_event(self) -> Event:
        """The next event of the bytes received so far.

        Raises:
            BadProxyRequest: not a request, or a refused request: send its `reply`, if any, and close.
            LocalTunnelError: after a request, or after an error.
        """
        while True:
            before = self.step
            if before not in _READERS:
                raise LocalTunnelError(f"nothing more is read from the client: {before.name}")
            event = _READERS[before](self)
            if event is not None:
                return event
            if self.step is before:
                break
        if self._has_ended:
            where = "inside its request" if self._buffer else "without a request"
            self._refuse(_GENERAL, 400, f"the client ended the connection {where}")
        return NEED_DATA

    def send(self, event: Opened | Failed) -> bytes:
        """The reply to the request. Raises LocalTunnelError: there is no request to answer."""
        if self.step is not Step.REQUESTED:
            raise LocalTunnelError(f"no request to answer: {self.step.name}")
        self._go(Step.ENDED)
        if isinstance(event, Opened):
            return self._reply(0, 200)
        status = 504 if event.code is ErrorCode.TIMEOUT else 502
        code = _GENERAL
        if event.is_at_target:
            code, status = _AT_TARGET.get(event.code, (code, status))
        fields = [f"Mtun-Error: {event.code.name}"]
        if event.hops:
            fields.append(f"Mtun-Hop: {', '.join(map(short, event.hops))}")
        return self._reply(code, status, event.text, fields)

    @property
    def early_data(self) -> bytes:
        """Bytes that the client sent after its request."""
        return bytes(self._buffer) if self.step in (Step.REQUESTED, Step.ENDED) else b""

    # --- the first byte -------------------------------------------------------------------------------------

    def _read_first_byte(self) -> None:
        if not self._buffer:
            return
        first = self._buffer[0]
        if first == 5:
            self.protocol = ProxyProtocol.SOCKS5
            self._go(Step.SOCKS5_METHODS)
        elif first == 4:
            self.protocol = ProxyProtocol.SOCKS4
            self._go(Step.SOCKS4_REQUEST)
        elif _TOKEN.match(self._buffer):
            self.protocol = ProxyProtocol.CONNECT
            self._go(Step.HTTP_LINE)
        elif first == 0x16:
            self._refuse(0, 0, "the client speaks TLS to the proxy: configure it as http:// or socks5h://")
        else:
            self._refuse(0, 0, f"the first byte is {first}, expected 4 or 5 (SOCKS) or CONNECT (HTTP)")

    # --- SOCKS5 ---------------------------------------------------------------------------------------------

    def _read_methods(self) -> Answer | None:
        buffer = self._buffer
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return None
        methods = buffer[2 : 2 + buffer[1]]
        # A login separates circuits even where it is not needed, so it is preferred, as in Tor.
        if _USER_PASSWORD in methods:
            method, step = _USER_PASSWORD, Step.SOCKS5_LOGIN
        elif _NO_AUTH in methods and self._check_login is None:
            method, step = _NO_AUTH, Step.SOCKS5_REQUEST
        else:
            self._refuse_with(
                _MethodsReply[_NO_METHOD],
                "the client offers none of the methods of this port: "
                + ("user and password" if self._check_login else "none, or user and password"),
            )
        self._take(2 + buffer[1])
        self._go(step)
        return Answer(_MethodsReply[method])

    def _read_login(self) -> Answer | None:
        buffer = self._buffer
        if buffer and buffer[0] != 1:
            self._refuse_with(b"\x01\x01", f"version {buffer[0]} of the SOCKS5 login, expected 1")
        if len(buffer) < 2 or len(buffer) < 3 + buffer[1]:
            return None
        user_end = 2 + buffer[1]
        end = user_end + 1 + buffer[user_end]
        if len(buffer) < end:
            return None
        # Lengths of 0 are accepted, against RFC 1929: curl sends them for an empty password.
        self._login = bytes(buffer[2:user_end]), bytes(buffer[user_end + 1 : end])
        if self._check_login is not None and (reason := self._check_login(self._login)):
            self._refuse_with(b"\x01\x01", reason)
        self._take(end)
        self._go(Step.SOCKS5_REQUEST)
        return Answer(b"\x01\x00")

    def _read_socks5(self) -> Request | None:
        buffer = self._buffer
        if buffer and buffer[0] != 5:
            self._refuse(_GENERAL, 0, f"version {buffer[0]} in a SOCKS5 request")
        if len(buffer) > 1 and buffer[1] != 1:
            self._refuse(_BAD_COMMAND, 0, f"SOCKS5 command {buffer[1]}: only 1, CONNECT, is supported")
        if len(buffer) > 2 and buffer[2]:
            self._refuse(_GENERAL, 0, f"the reserved byte of the SOCKS5 request is {buffer[2]}, expected 0")
        if len(buffer) > 3 and buffer[3] not in (1, 3, 4):
            self._refuse(_BAD_ADDRESS_TYPE, 0, f"SOCKS5 address type {buffer[3]}, expected 1, 3 or 4")
        if len(buffer) < 5:
            return None
        kind = buffer[3]
        end = 4 + {1: 4, 3: 1 + buffer[4], 4: 16}[kind]
        if len(buffer) < end + 2:
            return None
        raw = bytes(buffer[4:end])
        host = raw[1:].decode("latin-1") if kind == 3 else str(ipaddress.ip_address(raw))
        return self._requested(host, int.from_bytes(buffer[end : end + 2]), end + 2)

    # --- SOCKS4 ---------------------------------------------------------------------------------------------

    def _read_socks4(self) -> Request | None:
        buffer = self._buffer
        if len(buffer) > 1 and buffer[1] != 1:
            self._refuse(_GENERAL, 0, f"SOCKS4 command {buffer[1]}: only 1, CONNECT, is supported")
        if len(buffer) < _SOCKS4_REQUEST.size:
            return None
        if self._check_login is not None:
            self._refuse(_GENERAL, 0, "SOCKS4 has no password, which this port needs: use SOCKS5 or CONNECT")
        _, _, port, address = _SOCKS4_REQUEST.unpack_from(buffer)
        user = self._socks4_field(_SOCKS4_REQUEST.size, "user id")
        if user is None:
            return None
        end = _SOCKS4_REQUEST.size + len(user) + 1
        host = str(ipaddress.IPv4Address(address))
        if address[:3] == bytes(3) and address[3]:  # 0.0.0.x: a name follows (4A)
            name = self._socks4_field(end, "name")
            if name is None:
                return None
            host, end = name.decode("latin-1"), end + len(name) + 1
        if user:
            self._login = user, b""
        return self._requested(host, port, end)

    def _socks4_field(self, start: int, what: str) -> bytes | None:
        """The bytes up to a zero byte; None: it has not arrived yet."""
        end = self._buffer.find(0, start, start + _FIELD_BYTES + 1)
        if end >= 0:
            return bytes(self._buffer[start:end])
        if len(self._buffer) > start + _FIELD_BYTES:
            self._refuse(_GENERAL, 0, f"the {what} of the SOCKS4 request is longer than {_FIELD_BYTES} bytes")
        return None

    # --- HTTP CONNECT ---------------------------------------------------------------------------------------

    def _read_http_line(self) -> None:
        end = self._buffer.find(b"\r\n", 0, HEAD_BYTES)
        if end < 0:
            self._check_head()
            return
        line = bytes(self._buffer[:end])
        found = _REQUEST_LINE.fullmatch(line)
        if found is None:
            self._refuse(0, 400, "not a request of HTTP: expected CONNECT HOST:PORT HTTP/1.1")
        method, target, major, _ = found.groups()
        if method != b"CONNECT":
            self._refuse(
                0,
                405,
                "this is a SOCKS and CONNECT proxy, which serves no pages and fetches none: it answers "
                "CONNECT HOST:PORT only. With curl use -x socks5h://, or add --proxytunnel",
                ["Allow: CONNECT"],
            )
        if major != b"1":
            self._refuse(0, 505, "the version of HTTP is not 1.0 or 1.1")
        try:
            self._http_target = parse_target(target.decode("ascii"))
        except BadArgument as error:
            self._refuse(0, 400, f"CONNECT: {error}")
        self._go(Step.HTTP_FIELDS)

    def _read_http_fields(self) -> Request | None:
        end = self._buffer.find(_HEAD_END, 0, HEAD_BYTES)
        if end < 0:
            self._check_head()
            return None
        lines = bytes(self._buffer[: end + 2]).split(b"\r\n")[1:-1]
        credentials = [
            value for name, value in map(self._http_field, lines) if name == b"proxy-authorization"
        ]
        if len(credentials) > 1:
            self._refuse(0, 400, "more than one Proxy-Authorization")
        if credentials:
            self._login = _basic_login(credentials[0])
        if self._check_login is not None or credentials:
            if self._login is None:
                self._refuse(0, 407, "this proxy needs a user and a password (Basic)", _CHALLENGE)
            if self._check_login is not None and (reason := self._check_login(self._login)):
                self._refuse(0, 407, reason, _CHALLENGE)
        assert self._http_target is not None
        self._take(end + len(_HEAD_END))
        self._go(Step.REQUESTED)
        return Request(self._http_target, ProxyProtocol.CONNECT, self._login)

    def _http_field(self, line: bytes) -> tuple[bytes, bytes]:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
            self._refuse(0, 400, "a malformed header field")
        return name.lower(), value.strip(b" \t")

    def _check_head(self) -> None:
        """Refuse what cannot become a head: its client would wait for more until its time is over."""
        if self._buffer.count(b"\n", 0, HEAD_BYTES) > self._buffer.count(b"\r\n", 0, HEAD_BYTES):
            self._refuse(0, 400, "a line of the request ends in LF alone, expected CR LF")
        if len(self._buffer) >= HEAD_BYTES:
            self._refuse(0, 431, f"the head of the request is longer than {HEAD_BYTES:,} bytes")

    # --- common ---------------------------------------------------------------------------------------------

    def _requested(self, host: str, port: int, length: int) -> Request:
        """The request of a SOCKS client, of which `length` bytes are consumed."""
        try:
            target = make_target(host, port)
        except BadArgument as error:
            self._refuse(_GENERAL, 0, f"{self.protocol}: {error}")
        self._take(length)
        self._go(Step.REQUESTED)
        assert self.protocol is not None
        return Request(target, self.protocol, self._login)

    def _take(self, count: int) -> None:
        del self._buffer[:count]

    def _go(self, step: Step) -> None:
        assert step in STEPS[self.step], (self.step, step)
        self.step = step

    def _refuse(self, code: int, status: int, text: str, fields: Sequence[str] = ()) -> NoReturn:
        """Refuse with a SOCKS5 code, or a status of HTTP, whichever the protocol has."""
        # Before the methods are chosen, a SOCKS5 client does not expect the reply to a request.
        is_early = self.step in (Step.FIRST_BYTE, Step.SOCKS5_METHODS, Step.SOCKS5_LOGIN)
        self._refuse_with(b"" if is_early else self._reply(code, status, text, fields), text)

    def _refuse_with(self, reply: bytes, text: str) -> NoReturn:
        self._go(Step.ENDED)
        self._buffer.clear()
        raise BadProxyRequest(text, reply)

    def _reply(self, code: int, status: int, text: str = "", fields: Sequence[str] = ()) -> bytes:
        match self.protocol:
            case ProxyProtocol.SOCKS5:
                return bytes((5, code, 0, 1)) + _NO_ADDRESS
            case ProxyProtocol.SOCKS4:
                return bytes((0, _SOCKS4_REFUSED if code else _SOCKS4_GRANTED)) + _NO_ADDRESS
            case _:
                return _http_reply(status, text, fields)


_READERS: Final[dict[Step, Callable[[Handshake], Answer | Request | None]]] = {
    Step.FIRST_BYTE: Handshake._read_first_byte,
    Step.SOCKS5_METHODS: Handshake._read_methods,
    Step.SOCKS5_LOGIN: Handshake._read_login,
    Step.SOCKS5_REQUEST: Handshake._read_socks5,
    Step.SOCKS4_REQUEST: Handshake._read_socks4,
    Step.HTTP_LINE: Handshake._read_http_line,
    Step.HTTP_FIELDS: Handshake._read_http_fields,
}


def _http_reply(status: int, text: str, fields: Sequence[str]) -> bytes:
    if status == 200:
        return b"HTTP/1.1 200 Connection established\r\n\r\n"
    body = " ".join(text.split()).encode() + b"\n"
    head = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *fields,
    ]
    return "\r\n".join(head).encode("ascii") + _HEAD_END + body


def _basic_login(value: bytes) -> Login | None:
    """User and password of a Proxy-Authorization; None: another scheme, or malformed."""
    scheme, _, encoded = value.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(b" "), validate=True).partition(b":")
    except binascii.Error:
        return None
    return (user, password) if colon else None
