"""Cells, the content of link records: type 1 ‖ flags 1 ‖ length 2 ‖ stream 4 ‖ payload.

Layouts only: `CELLS` has one row per type, with the lengths of its payload and whether it concerns a stream
or the link. A cell that does not fit its row is refused here; stream.py has the table of what is legal in
which state. To add a type: a number in `CellType`, a row in `CELLS`, a function that packs it, and its row in
docs/protocol.md. Source: docs/protocol.md, "Link cells".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from tunnel.errors import ErrorCode, LinkError, LocalTunnelError
from tunnel.geometry import PROTOCOL_VERSION, Profile
from tunnel.link.records import MAX_RECORD_BYTES, RECORD_OVERHEAD

__all__ = [
    "CELLS",
    "CELL_HEAD",
    "CELL_HEAD_BYTES",
    "MAX_CREDIT",
    "MAX_EXCHANGE_BYTES",
    "MAX_PAYLOAD_BYTES",
    "MAX_STATUS_BYTES",
    "PING_TOKEN_BYTES",
    "CellType",
    "pack_credit",
    "pack_fin",
    "pack_go_away",
    "pack_open",
    "pack_peer_exchange",
    "pack_ping",
    "pack_reset",
    "parse_credit",
    "parse_open",
    "parse_ping",
    "parse_reset",
    "split_cells",
]

CELL_HEAD = struct.Struct(">BBHI")
CELL_HEAD_BYTES = CELL_HEAD.size
MAX_PAYLOAD_BYTES = MAX_RECORD_BYTES - RECORD_OVERHEAD - CELL_HEAD_BYTES
# As in HTTP/2 (RFC 9113, 6.9.1): a sum of two credits fits into 32 bits.
MAX_CREDIT = (1 << 31) - 1
# The longest status of any profile, that of 32 slots.
MAX_STATUS_BYTES = 2_496
# Eight of the longest descriptors with their head.
MAX_EXCHANGE_BYTES = 4_096
PING_TOKEN_BYTES = 7

_OPEN = struct.Struct(">BBI")
_RESET = struct.Struct(">H")
_CREDIT = struct.Struct(">I")
_ZEROS = bytes(MAX_RECORD_BYTES)


class CellType(IntEnum):
    """The first byte of a cell."""

    PAD = 0  # the rest of the record is zero
    OPEN = 1
    DATA = 2
    CREDIT = 3
    FIN = 4
    RESET = 5
    STATUS = 6
    PING = 7
    GOAWAY = 8
    PEER_EXCHANGE = 9


class CellRule(NamedTuple):
    """The rules for one type of cell in any state.

    Attributes:
        name: for error texts.
        min_bytes, max_bytes: of the payload.
        of_stream, of_link: whether the stream field may be a stream's number, and whether it may be 0.
    """

    name: str
    min_bytes: int
    max_bytes: int
    of_stream: bool
    of_link: bool


# Indexed by type; PAD is not a cell.
CELLS: tuple[CellRule | None, ...] = (
    None,
    CellRule("OPEN", _OPEN.size, _OPEN.size, True, False),
    CellRule("DATA", 1, MAX_PAYLOAD_BYTES, True, False),
    CellRule("CREDIT", _CREDIT.size, _CREDIT.size, True, False),
    CellRule("FIN", 0, 0, True, False),
    CellRule("RESET", _RESET.size, _RESET.size, True, True),
    CellRule("STATUS", 1, MAX_STATUS_BYTES, True, False),
    CellRule("PING", 1 + PING_TOKEN_BYTES, 1 + PING_TOKEN_BYTES, False, True),
    CellRule("GOAWAY", 0, 0, False, True),
    CellRule("PEER-EXCHANGE", 1, MAX_EXCHANGE_BYTES, False, True),
)


def split_cells(plain: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Split the plaintext of one record into its cells.

    Yields:
        (type, stream, payload): the payload is a view of `plain`.
    Raises:
        LinkError: malformed, or padding is not zero. The cells before were yielded.
    """
    at, end = 0, len(plain)
    while at < end:
        if not plain[at]:
            if plain[at:].tobytes() != _ZEROS[: end - at]:
                raise LinkError("padding of a link record is not zero")
            return
        if end - at < CELL_HEAD_BYTES:
            raise LinkError(f"{end - at} bytes at a record's end, too few for a cell")
        kind, flags, length, stream = CELL_HEAD.unpack_from(plain, at)
        at += CELL_HEAD_BYTES
        rule = CELLS[kind] if kind < len(CELLS) else None
        if rule is None:
            raise LinkError(f"cell type {kind} is not known")
        if flags:
            raise LinkError(f"{rule.name} cell has flags 0x{flags:02x}, expected 0")
        if length > end - at:
            raise LinkError(f"{rule.name} cell of {length} bytes in a record that has {end - at} left")
        if not rule.min_bytes <= length <= rule.max_bytes:
            raise LinkError(
                f"{rule.name} cell has {length} bytes, expected {rule.min_bytes} to {rule.max_bytes}"
            )
        if not (rule.of_stream if stream else rule.of_link):
            raise LinkError(f"{rule.name} cell names stream {stream}")
        yield kind, stream, plain[at : at + length]
        at += length


def _pack(kind: CellType, stream: int, payload: bytes) -> bytes:
    return CELL_HEAD.pack(kind, 0, len(payload), stream) + payload


def pack_open(stream: int, profile: Profile, extra_window: int) -> bytes:
    """OPEN. `extra_window`: bytes that the opener grants for the backward half beyond the profile's
    window."""
    return _pack(CellType.OPEN, stream, _OPEN.pack(PROTOCOL_VERSION, profile.byte, extra_window))


def parse_open(payload: memoryview) -> tuple[int, int]:
    """Return (profile byte, extra window). Raises LinkError: another version, or too much credit."""
    version, profile, window = _OPEN.unpack(payload)
    if version != PROTOCOL_VERSION:
        raise LinkError(f"OPEN names protocol version {version}, this is {PROTOCOL_VERSION}")
    if window > MAX_CREDIT // 2:
        raise LinkError(f"OPEN grants {window} bytes more, at most {MAX_CREDIT // 2} are legal")
    return profile, window


def pack_credit(stream: int, count: int) -> bytes:
    """CREDIT: the peer may send another `count` bytes of content."""
    return _pack(CellType.CREDIT, stream, _CREDIT.pack(count))


def parse_credit(payload: memoryview) -> int:
    """Return the credit granted. Raises LinkError: zero, or above MAX_CREDIT."""
    (count,) = _CREDIT.unpack(payload)
    if not 0 < count <= MAX_CREDIT:
        raise LinkError(f"CREDIT of {count} bytes, expected 1 to {MAX_CREDIT}")
    return int(count)


def pack_fin(stream: int) -> bytes:
    """FIN: the sender's half has ended in order."""
    return _pack(CellType.FIN, stream, b"")


def pack_reset(stream: int, code: ErrorCode) -> bytes:
    """RESET of both halves of a stream; stream 0: of the link."""
    return _pack(CellType.RESET, stream, _RESET.pack(code))


def parse_reset(payload: memoryview) -> ErrorCode:
    """Return the reason. Raises LinkError: an unknown code."""
    (code,) = _RESET.unpack(payload)
    if code not in ErrorCode._value2member_map_:
        raise LinkError(f"RESET names the unknown code {code}")
    return ErrorCode(code)


def pack_ping(token: bytes, *, is_answer: bool) -> bytes:
    """PING: a request, or the answer with the request's token."""
    return _pack(CellType.PING, 0, bytes((is_answer,)) + token)


def parse_ping(payload: memoryview) -> tuple[bool, bytes]:
    """Return (whether it is an answer, token). Raises LinkError: neither request nor answer."""
    if payload[0] > 1:
        raise LinkError(f"PING of kind {payload[0]}, expected 0 (request) or 1 (answer)")
    return payload[0] == 1, bytes(payload[1:])


def pack_go_away() -> bytes:
    """GOAWAY: the sender opens no further stream."""
    return _pack(CellType.GOAWAY, 0, b"")


def pack_peer_exchange(payload: bytes) -> bytes:
    """PEER-EXCHANGE. Raises LocalTunnelError: not 1 to `MAX_EXCHANGE_BYTES`."""
    if not 0 < len(payload) <= MAX_EXCHANGE_BYTES:
        raise LocalTunnelError(f"a peer exchange has 1 to {MAX_EXCHANGE_BYTES} bytes, not {len(payload)}")
    return _pack(CellType.PEER_EXCHANGE, 0, payload)
