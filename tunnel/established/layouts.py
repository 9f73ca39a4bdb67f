"""The chunks of an established tunnel: layouts of HELLO, OPEN, CLOSE, CREDIT and PAD, and two state tables.

Each state table describes one direction as its receiver sees it. `TUNNEL_TABLE` is for the tunnel: HELLO, the
key switch, the end. `STREAM_TABLE` is for one stream: a sub-stream, or stream 0, the messages, which starts
as OPEN. A pair that is not listed is an error and ends the tunnel.

Rules for changing it: every layout and every state is a row of docs/protocol.md first, and a test compares
the states; `unpack` accepts exactly what `pack` writes; no length in a layout makes a receiver reserve
memory.

Source: docs/protocol.md, "Established tunnels"; address kinds are those of SOCKS5 (RFC 1928, section 5); the
tables follow h11's `_state.py`.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, auto

from readwrite_comp.helpers import byte_view
from tunnel.arguments import MOST_PORT, checked_count, member
from tunnel.errors import ErrorCode, LocalTunnelError, MalformedMessage
from tunnel.onion.message import ChunkType

__all__ = [
    "CREDIT_ENTRY_BYTES",
    "HELLO_BYTES",
    "MAX_WINDOW_BYTES",
    "PROOF_BYTES",
    "STREAM_TABLE",
    "TUNNEL_TABLE",
    "Hello",
    "Pad",
    "StreamEvent",
    "StreamState",
    "Target",
    "TargetKind",
    "TunnelState",
    "next_stream_state",
    "pack_close",
    "pack_credit",
    "unpack_close",
    "unpack_credit",
    "unpack_open",
]


class TunnelState(Enum):
    """A direction of the tunnel, as one of its ends sees it."""

    AWAIT_HELLO = auto()
    EARLY = auto()  # from Alice only: after HELLO, before her first REKEY
    RUNNING = auto()  # under keys from both HELLOs
    ENDED = auto()  # after LAST


_CONTENT = (
    ChunkType.MSG,
    ChunkType.END,
    ChunkType.PAD,
    ChunkType.OPEN,
    ChunkType.OPENED,
    ChunkType.CLOSE,
    ChunkType.CREDIT,
)
# HELLO leads to EARLY at Bob, and to RUNNING at Alice, because Bob switches keys with his HELLO. PAD with
# LAST leads to ENDED. STATUS is never legal here.
TUNNEL_TABLE: dict[TunnelState, frozenset[ChunkType]] = {
    TunnelState.AWAIT_HELLO: frozenset({ChunkType.HELLO}),
    TunnelState.EARLY: frozenset({*_CONTENT, ChunkType.REKEY}),
    TunnelState.RUNNING: frozenset({*_CONTENT, ChunkType.REKEY, ChunkType.CHALLENGE}),
    TunnelState.ENDED: frozenset(),
}


class StreamState(Enum):
    """The other end's side of one stream."""

    IDLE = auto()  # not opened yet: the next id of the other end
    AWAIT_OPENED = auto()  # opened by this end, not confirmed yet
    OPEN = auto()
    ENDED = auto()  # the other end has closed its half, or has given up
    DISCARDING = auto()  # this end gave up, and the other end may not know yet
    GONE = auto()  # closed by both ends


class StreamEvent(Enum):
    """A chunk for one stream. CLOSE is one of two events, by its code."""

    OPEN = auto()
    OPENED = auto()
    MSG = auto()
    END = auto()  # on stream 0 only
    CREDIT = auto()
    CLOSE = auto()  # code 0: the other end's half has ended
    GIVE_UP = auto()  # any other code


STREAM_TABLE: dict[StreamState, dict[StreamEvent, StreamState]] = {
    StreamState.IDLE: {StreamEvent.OPEN: StreamState.OPEN},
    StreamState.AWAIT_OPENED: {
        StreamEvent.OPENED: StreamState.OPEN,
        StreamEvent.GIVE_UP: StreamState.ENDED,
    },
    StreamState.OPEN: {
        StreamEvent.MSG: StreamState.OPEN,
        StreamEvent.END: StreamState.OPEN,
        StreamEvent.CREDIT: StreamState.OPEN,
        StreamEvent.CLOSE: StreamState.ENDED,
        StreamEvent.GIVE_UP: StreamState.ENDED,
    },
    StreamState.ENDED: {
        StreamEvent.CREDIT: StreamState.ENDED,
        StreamEvent.GIVE_UP: StreamState.ENDED,
    },
    StreamState.DISCARDING: {
        StreamEvent.OPENED: StreamState.DISCARDING,
        StreamEvent.MSG: StreamState.DISCARDING,
        StreamEvent.CREDIT: StreamState.DISCARDING,
        StreamEvent.CLOSE: StreamState.ENDED,
        StreamEvent.GIVE_UP: StreamState.ENDED,
    },
    # Both may have been in transit when this end closed.
    StreamState.GONE: {
        StreamEvent.CREDIT: StreamState.GONE,
        StreamEvent.GIVE_UP: StreamState.GONE,
    },
}


def next_stream_state(state: StreamState, event: StreamEvent, sub_stream: int) -> StreamState:
    """The state after `event`. Raises MalformedMessage: not listed in the table."""
    after = STREAM_TABLE[state].get(event)
    if after is None:
        raise MalformedMessage(f"{event.name} on stream {sub_stream}, which is {state.name}")
    return after


_HELLO = struct.Struct(">32sIH")
_CLOSE = struct.Struct(">H")
_CREDIT = struct.Struct(">HI")
_TARGET = struct.Struct(">BHB")
HELLO_BYTES = _HELLO.size
CREDIT_ENTRY_BYTES = _CREDIT.size
PROOF_BYTES = 96  # Ed25519 public key 32, signature 64
MAX_WINDOW_BYTES = 2**30  # sums of credit stay far from the u32 that carries them
_NAME_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")


@dataclass(frozen=True, slots=True)
class Hello:
    """The first chunk of each end.

    Attributes:
        ephemeral: X25519 public key, 32 bytes.
        window: bytes that the other end may send on each stream before more is granted.
        sub_streams: most sub-streams that the other end may have open.
    """

    ephemeral: bytes
    window: int
    sub_streams: int

    def pack(self) -> bytes:
        return _HELLO.pack(self.ephemeral, self.window, self.sub_streams)

    @classmethod
    def unpack(cls, data: bytes, *, least_window: int, least_sub_streams: int) -> Hello:
        """Raises MalformedMessage: wrong length, or an offer below the minimum."""
        if len(data) != HELLO_BYTES:
            raise MalformedMessage(f"HELLO has {len(data)} bytes, expected {HELLO_BYTES}")
        hello = cls(*_HELLO.unpack(data))
        if not least_window <= hello.window <= MAX_WINDOW_BYTES or hello.sub_streams < least_sub_streams:
            raise MalformedMessage(
                f"HELLO offers a window of {hello.window} bytes and {hello.sub_streams} sub-streams, "
                f"expected {least_window} to {MAX_WINDOW_BYTES} and at least {least_sub_streams}"
            )
        return hello


class TargetKind(IntEnum):
    """The kind of a sub-stream's destination. 1, 3 and 4 are SOCKS5's address types."""

    SERVICE = 0  # a service of the far end, by name
    IPV4 = 1
    DOMAIN = 3
    IPV6 = 4


@dataclass(frozen=True, slots=True)
class Target:
    """The destination of a sub-stream.

    Args:
        address: IPv4 4 bytes, IPv6 16; domain or service name 1 to 255 of letters, digits, "-._".
        port: 1 to 65,535; 0 for a service.
    Raises:
        LocalTunnelError: an address or a port that does not fit the kind. TypeError: the address is not
            bytes, or the port is not an integer.
    """

    kind: TargetKind
    address: bytes
    port: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", member(TargetKind, self.kind, "kind"))
        object.__setattr__(self, "address", bytes(byte_view(self.address, "address")))
        checked_count(self.port, "port", most=MOST_PORT)
        if problem := self._problem():
            raise LocalTunnelError(problem)

    def __str__(self) -> str:
        match self.kind:
            case TargetKind.IPV4 | TargetKind.IPV6:
                host = str(ipaddress.ip_address(self.address))
                return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
            case TargetKind.DOMAIN:
                return f"{self.address.decode('ascii')}:{self.port}"
            case _:
                return self.address.decode("ascii")

    def pack(self) -> bytes:
        return _TARGET.pack(self.kind, self.port, len(self.address)) + self.address

    @classmethod
    def unpack(cls, data: bytes) -> Target:
        """Raises MalformedMessage: not written by `pack`."""
        if len(data) < _TARGET.size:
            raise MalformedMessage(f"OPEN has {len(data)} bytes, expected at least {_TARGET.size}")
        kind, port, length = _TARGET.unpack_from(data)
        if len(data) != _TARGET.size + length:
            raise MalformedMessage(f"OPEN has {len(data)} bytes, but its address has {length}")
        if kind not in TargetKind._value2member_map_:
            raise MalformedMessage(f"OPEN has the target kind {kind}, expected 0, 1, 3 or 4")
        try:
            return cls(TargetKind(kind), data[_TARGET.size :], port)
        except LocalTunnelError as error:
            raise MalformedMessage(f"OPEN: {error}") from error

    def _problem(self) -> str | None:
        length = len(self.address)
        expected = {TargetKind.IPV4: 4, TargetKind.IPV6: 16}.get(self.kind)
        if expected is not None and length != expected:
            return f"an address of {length} bytes, expected {expected}"
        if expected is None and not (1 <= length <= 255 and _NAME_BYTES.issuperset(self.address)):
            return "a name that is not 1 to 255 letters, digits, '-', '.' or '_'"
        if not (self.port == 0 if self.kind is TargetKind.SERVICE else 1 <= self.port <= MOST_PORT):
            return f"port {self.port}, expected 1 to 65535, or 0 for a service"
        return None


def unpack_open(data: bytes) -> tuple[Target, bytes]:
    """The target and the client's proof, b"" without one.

    Raises:
        MalformedMessage: not a target, or not followed by a proof.
    """
    length = _TARGET.size + data[_TARGET.size - 1] if len(data) >= _TARGET.size else len(data)
    target, proof = Target.unpack(data[:length]), data[length:]
    if len(proof) not in (0, PROOF_BYTES):
        raise MalformedMessage(f"OPEN has {len(proof)} bytes after its target, expected 0 or {PROOF_BYTES}")
    return target, proof


class Pad(IntEnum):
    """What a PAD asks of its receiver: the one byte of its data, which most do not have."""

    NOTHING = 0  # no data
    PROBE = 1  # answer at once
    ANSWER = 2

    def pack(self) -> bytes:
        return bytes([self]) if self else b""

    @classmethod
    def unpack(cls, data: bytes) -> Pad:
        """Raises MalformedMessage: not written by `pack`."""
        if not data:
            return cls.NOTHING
        if len(data) > 1 or data[0] not in (cls.PROBE, cls.ANSWER):
            raise MalformedMessage(f"PAD has the data {data[:8].hex()}, expected none, 01 or 02")
        return cls(data[0])


def pack_close(code: ErrorCode | None) -> bytes:
    """CLOSE. None: this end's half ends normally. A code: both halves are aborted for that reason."""
    return _CLOSE.pack(code or 0)


def unpack_close(data: bytes) -> ErrorCode | None:
    """Raises MalformedMessage: wrong length, or an unknown code."""
    if len(data) != _CLOSE.size:
        raise MalformedMessage(f"CLOSE has {len(data)} bytes, expected {_CLOSE.size}")
    (code,) = _CLOSE.unpack(data)
    if code and code not in ErrorCode._value2member_map_:
        raise MalformedMessage(f"CLOSE has the unknown code {code}")
    return ErrorCode(code) if code else None


def pack_credit(grants: Sequence[tuple[int, int]]) -> bytes:
    """CREDIT with entries (sub-stream, granted bytes)."""
    return b"".join(_CREDIT.pack(*grant) for grant in grants)


def unpack_credit(data: bytes) -> list[tuple[int, int]]:
    """Raises MalformedMessage: no entry, an incomplete entry, or a grant of 0."""
    if not data or len(data) % _CREDIT.size:
        raise MalformedMessage(f"CREDIT has {len(data)} bytes, expected entries of {_CREDIT.size}")
    grants = list(_CREDIT.iter_unpack(data))
    if not all(amount for _, amount in grants):
        raise MalformedMessage("CREDIT grants nothing")
    return grants
