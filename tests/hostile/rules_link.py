"""Rules of records, cells and streams: what ends a link, what ends a stream, and what ends nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.hostile.frames import PROFILE
from tests.hostile.peer import HostilePeer
from tests.hostile.rules import ALL_POINTS, Expect, Rule, bits, link, nothing, outside, stream
from tests.hostile.rules_handshake import flipped
from tunnel.errors import ErrorCode
from tunnel.link.cells import (
    CELL_HEAD,
    CELLS,
    CellType,
    pack_credit,
    pack_fin,
    pack_go_away,
    pack_open,
    pack_ping,
    pack_reset,
)
from tunnel.link.records import HEAD_BYTES

__all__ = ["RULES", "cell"]

_WINDOW: Final = PROFILE.geometry.window_bytes
_UNIT: Final = 1024
_RECORDS_OF_A_KEY: Final = 1 << 14
_MAX_CREDIT: Final = (1 << 31) - 1
_KNOWN_PROFILES: Final = (*range(1, 6), *range(17, 22))

Do = Callable[[HostilePeer, Any], None]


def cell(kind: int, stream: int, payload: bytes = b"", *, flags: int = 0, length: int | None = None) -> bytes:
    """A cell with any values."""
    return CELL_HEAD.pack(kind, flags, len(payload) if length is None else length, stream) + payload


# --- records -----------------------------------------------------------------------------------------------


def _ping(peer: HostilePeer) -> bytes:
    return pack_ping(peer.rng.randbytes(7), is_answer=False)


def _head(peer: HostilePeer, units: int) -> None:
    peer.send_bytes(units.to_bytes(2, "big") + bytes(2) + peer.rng.randbytes(1020))


def _head_not_zero(peer: HostilePeer, value: int) -> None:
    peer.send_bytes(b"\0\1" + value.to_bytes(2, "big") + peer.rng.randbytes(1020))


def _changed_record(peer: HostilePeer, bit: int) -> None:
    peer.send_bytes(flipped(peer.seal_cells(_ping(peer)), bit))


def _other_size(peer: HostilePeer, units: int) -> None:
    """A good record under a head that names another number of units."""
    record = peer.seal_cells(_ping(peer))
    peer.send_bytes(units.to_bytes(2, "big") + record[2:] + peer.rng.randbytes(_UNIT * (units - 1)))


def _repeated(peer: HostilePeer, value: None) -> None:
    record = peer.seal_cells(_ping(peer))
    peer.send_bytes(record)
    peer.send_bytes(record)


def _left_out(peer: HostilePeer, count: int) -> None:
    for _ in range(count):
        peer.seal_cells(_ping(peer))
    peer.send_cells(_ping(peer))


def _swapped(peer: HostilePeer, value: None) -> None:
    first, second = peer.seal_cells(_ping(peer)), peer.seal_cells(_ping(peer))
    peer.send_bytes(second + first)


def _unfinished(peer: HostilePeer, count: int) -> None:
    peer.is_silent = True
    peer.send_bytes(peer.seal_cells(_ping(peer))[:count])


def _old_key(peer: HostilePeer, value: None) -> None:
    """So many records that the key changes, and one more under the key before."""
    for _ in range(_RECORDS_OF_A_KEY):
        peer.send_cells(_ping(peer))
        if peer.inputs % 100 == 0:
            peer.look()
    head = b"\0\1\0\0"
    aead = peer.engine.layers.aead(peer.link_keys.send_key)
    sealed = aead.seal(_RECORDS_OF_A_KEY.to_bytes(12, "big"), _ping(peer).ljust(_UNIT - 20, b"\0"), head)
    peer.send_bytes(head + sealed)


def _padding_only(peer: HostilePeer, units: int) -> None:
    peer.send_cells(bytes(_UNIT * units - 20))


_RECORD: Final = "A wrong head or tag ends the link: RESET of stream 0 with PROTOCOL is sent"


def _ends_link(
    name: str, sentence: str, do: Do, values: Any = (None,), points: tuple[str, ...] = ALL_POINTS
) -> Rule:
    return Rule(name, sentence, do, link(), values, points=points)


_RECORDS: Final = (
    _ends_link("record: units", _RECORD, _head, outside(1, 63, 16)),
    _ends_link("record: not zero", _RECORD, _head_not_zero, range(1, 1 << 16)),
    _ends_link("record: changed", _RECORD, _changed_record, bits(HEAD_BYTES, _UNIT)),
    _ends_link("record: size", _RECORD, _other_size, range(2, 64)),
    _ends_link(
        "record: repeated", "the counter being the record's number in this direction from 0", _repeated
    ),
    _ends_link(
        "record: left out",
        "the counter being the record's number in this direction from 0",
        _left_out,
        range(1, 9),
    ),
    _ends_link("record: swapped", "the counter being the record's number in this direction from 0", _swapped),
    Rule(
        "record: old key",
        "each multiple of 2^14) the key is replaced by the first 32 bytes",
        _old_key,
        link(),
        is_slow=True,
    ),
    Rule(
        "record: unfinished",
        "A record that has begun and is not complete after 30 s ends the link.",
        _unfinished,
        link(None, within_s=41.0),
        range(1, _UNIT),
    ),
    Rule(
        "record: padding only",
        "A record that holds nothing but zeros is padding, and legal at any time.",
        _padding_only,
        nothing,
        range(1, 64),
        points=ALL_POINTS,
    ),
)


# --- cells -------------------------------------------------------------------------------------------------


def _one(make: Callable[[HostilePeer, Any], bytes]) -> Do:
    """Send the cells that `make` gives, in one record, behind a good one."""

    def do(peer: HostilePeer, value: Any) -> None:
        peer.send_cells(_ping(peer), make(peer, value))

    return do


def _stream_of(peer: HostilePeer, kind: int) -> int:
    """A number that a cell of this type may have."""
    rule = CELLS[kind]
    assert rule is not None
    return max(peer.stream, 1) if rule.of_stream else 0


def _legal_payload(kind: int) -> bytes:
    return {
        CellType.OPEN: b"\1" + bytes([PROFILE.byte]) + bytes(4),
        CellType.DATA: b"data",
        CellType.CREDIT: b"\0\0\0\1",
        CellType.FIN: b"",
        CellType.RESET: b"\0\1",
        CellType.STATUS: bytes(432),
        CellType.PING: bytes(8),
        CellType.GOAWAY: b"",
        CellType.PEER_EXCHANGE: b"\1\0\0\0",
    }[CellType(kind)]


def _bad_lengths() -> tuple[tuple[int, int], ...]:
    """(type, length) of payloads that the table does not have."""
    found = []
    for kind, rule in enumerate(CELLS):
        if rule is not None:
            lengths = {rule.min_bytes - 1, rule.max_bytes + 1, rule.max_bytes + 100, 0}
            found += [
                (kind, n)
                for n in sorted(lengths)
                if 0 <= n < 60_000 and not rule.min_bytes <= n <= rule.max_bytes
            ]
    return tuple(found)


def _flagged(peer: HostilePeer, value: tuple[int, int]) -> bytes:
    kind, flags = value
    return cell(kind, _stream_of(peer, kind), _legal_payload(kind), flags=flags)


def _with_length(peer: HostilePeer, value: tuple[int, int]) -> bytes:
    kind, length = value
    return cell(kind, _stream_of(peer, kind), bytes(length))


def _beyond_record(peer: HostilePeer, more: int) -> bytes:
    """A DATA cell that is longer than what the record has left: 8 bytes of head, the ping before it 16."""
    left = _UNIT - 20 - 16 - 8
    return cell(CellType.DATA, _stream_of(peer, CellType.DATA), bytes(left), length=left + more)


def _cut_head(peer: HostilePeer, count: int) -> None:
    """A record whose last bytes are the beginning of a cell's head."""
    filler = cell(CellType.PEER_EXCHANGE, 0, b"\1\0\0\0".ljust(_UNIT - 20 - 8 - count, b"\0"))
    peer.send_cells(filler + cell(CellType.GOAWAY, 0)[:count])


def _padding_not_zero(peer: HostilePeer, at: int) -> bytes:
    return bytes(at) + b"\1"


def _other_scope(peer: HostilePeer, value: tuple[int, int]) -> bytes:
    kind, number = value
    return cell(kind, number, _legal_payload(kind))


_OF_STREAM: Final = [kind for kind, rule in enumerate(CELLS) if rule and not rule.of_link]
_OF_LINK: Final = [kind for kind, rule in enumerate(CELLS) if rule and not rule.of_stream]
_SCOPES: Final = tuple(
    [(kind, 0) for kind in _OF_STREAM]
    + [(kind, number) for kind in _OF_LINK for number in (1, 2, 3, (1 << 32) - 1)]
)
_KINDS: Final = [kind for kind, rule in enumerate(CELLS) if rule]
_REFUSED: Final = (
    "Refused, and the link ends with it (RESET of stream 0 with PROTOCOL): any other type, flags, a length"
)
_REST: Final = (
    "CREDIT of 0, a RESET with an unknown code, an answer to a PING that was not sent, a second GOAWAY."
)


def _new_open(version: int, profile: int, window: int) -> Callable[[HostilePeer, Any], bytes]:
    def make(peer: HostilePeer, value: Any) -> bytes:
        payload = bytes([value if version < 0 else version, profile])
        return cell(
            CellType.OPEN, peer.next_stream(), payload + (value if window < 0 else window).to_bytes(4, "big")
        )

    return make


def _opened(peer: HostilePeer) -> int:
    """A new stream, opened and empty."""
    number = peer.next_stream()
    peer.send_cells(pack_open(number, PROFILE, 0))
    return number


_CELLS: Final = (
    _ends_link(
        "cell: type", _REFUSED, _one(lambda p, kind: cell(kind, p.rng.choice((0, 1)))), range(10, 256)
    ),
    _ends_link(
        "cell: flags", _REFUSED, _one(_flagged), tuple((k, 1 << bit) for k in _KINDS for bit in range(8))
    ),
    _ends_link("cell: length", _REFUSED, _one(_with_length), _bad_lengths()),
    _ends_link(
        "cell: leaves the record",
        "of the payload; it ends within the record",
        _one(_beyond_record),
        range(1, 1000),
    ),
    _ends_link("cell: cut head", "fewer than 8 bytes left that are not zero", _cut_head, range(1, 8)),
    _ends_link(
        "cell: padding", "all the rest of the record MUST be zero", _one(_padding_not_zero), range(1, 980)
    ),
    _ends_link("cell: scope", "a stream field that the table does not have", _one(_other_scope), _SCOPES),
    _ends_link("OPEN: version", _REST, _one(_new_open(-1, 1, 0)), outside(1, 1, 8)),
    _ends_link("OPEN: window", _REST, _one(_new_open(1, 1, -1)), range(1 << 30, 1 << 32)),
    _ends_link(
        "CREDIT: value",
        "| 3 | CREDIT | ≥ 1 | u32, 1 to 2^31 − 1 |",
        _one(lambda p, n: cell(CellType.CREDIT, _opened(p), n.to_bytes(4, "big"))),
        outside(1, _MAX_CREDIT, 32),
    ),
    _ends_link(
        "RESET: code",
        "0 is success there, and the orderly end in CLOSE; in a RESET it MUST be refused.",
        _one(lambda p, code: cell(CellType.RESET, 0, code.to_bytes(2, "big"))),
        outside(1, max(ErrorCode), 16),
    ),
    _ends_link(
        "RESET: code, of a stream",
        _REST,
        _one(lambda p, code: cell(CellType.RESET, _opened(p), code.to_bytes(2, "big"))),
        outside(1, max(ErrorCode), 16),
    ),
    _ends_link(
        "PING: kind",
        "kind 0 asks; kind 1 answers",
        _one(lambda p, kind: cell(CellType.PING, 0, bytes([kind]) + bytes(7))),
        range(2, 256),
    ),
    _ends_link("PING: answer", _REST, _one(lambda p, _: pack_ping(p.rng.randbytes(7), is_answer=True))),
    _ends_link(
        "GOAWAY: second", _REST, _one(lambda p, n: pack_go_away() * n), range(2, 50), points=("frame",)
    ),
)


# --- streams -----------------------------------------------------------------------------------------------


def _after_open(*make: Callable[[int, Any], bytes]) -> Do:
    """OPEN, and then cells of the same stream in the same record."""

    def do(peer: HostilePeer, value: Any) -> None:
        number = peer.next_stream()
        peer.send_cells(pack_open(number, PROFILE, 0), *(each(number, value) for each in make))

    return do


def _data(count: int) -> Callable[[int, Any], bytes]:
    return lambda number, _: cell(CellType.DATA, number, bytes(count))


def _fin(number: int, _: Any) -> bytes:
    return pack_fin(number)


def _status(number: int, _: Any) -> bytes:
    return cell(CellType.STATUS, number, bytes(432))


def _credit(number: int, count: int) -> bytes:
    return pack_credit(number, count)


def _open_profile(peer: HostilePeer, byte: int) -> None:
    peer.send_cells(cell(CellType.OPEN, peer.next_stream(), bytes([1, byte]) + bytes(4)))


def _too_many(peer: HostilePeer, more: int) -> None:
    """Streams beyond the limit, the last one in `peer.stream`."""
    limit = peer.target.context.limits.streams_per_link
    for _ in range(limit + more):
        peer.send_cells(pack_open(peer.next_stream(), PROFILE, 0))


def _other_number(peer: HostilePeer, value: int) -> None:
    """OPEN of a number of the other side (odd values), or of one that was taken (even values)."""
    number = _opened(peer) if value % 2 == 0 else peer.next_stream() + value
    peer.send_cells(pack_open(number, PROFILE, 0))


def _after_go_away(peer: HostilePeer, value: None) -> None:
    peer.send_cells(pack_go_away(), pack_open(peer.next_stream(), PROFILE, 0))


def _unsent_resets(peer: HostilePeer, value: None) -> None:
    """OPENs that are refused, so many in one record that no RESET can leave meanwhile."""
    count = peer.target.context.limits.streams_per_link + 66
    peer.send_cells(*(cell(CellType.OPEN, peer.next_stream(), b"\1\xff" + bytes(4)) for _ in range(count)))


def _never_opened(peer: HostilePeer, value: tuple[int, int]) -> None:
    kind, beyond = value
    peer.send_cells(cell(kind, peer.stream + beyond, _legal_payload(kind)))


def _beyond_credit(peer: HostilePeer, more: int) -> None:
    number = peer.next_stream()
    size = _WINDOW + more
    cells = [cell(CellType.DATA, number, bytes(min(1000, size - at))) for at in range(0, size, 1000)]
    peer.send_cells(pack_open(number, PROFILE, 0), *cells)


def _dead_stream(peer: HostilePeer) -> int:
    """A stream that the node has reset, because its header was garbage."""
    peer.open(PROFILE, bytes(PROFILE.geometry.header_bytes), stream=peer.next_stream())
    peer.look()
    return peer.stream


def _late(kind: int) -> Do:
    def do(peer: HostilePeer, count: int) -> None:
        number = _dead_stream(peer)
        for _ in range(count):
            peer.send_cells(cell(kind, number, _legal_payload(kind)))

    return do


def _late_data(peer: HostilePeer, count: int) -> None:
    number = _dead_stream(peer)
    for at in range(0, count, 1000):
        peer.send_cells(cell(CellType.DATA, number, bytes(min(1000, count - at))))


def _reset(peer: HostilePeer, code: int) -> None:
    peer.send_cells(pack_reset(_opened(peer), ErrorCode(code)))


def _breaks(name: str, sentence: str, do: Do, expect: Expect, values: Any = (None,)) -> Rule:
    return Rule(name, sentence, do, expect, values)


_ROW: Final = "| DATA or FIN after FIN, STATUS before FIN or by the opener, a second STATUS | the stream"
_NUMBERS: Final = (
    "| OPEN with a number of the other side's, or not beyond the last; OPEN after GOAWAY | the link |"
)
_WAS_ON_ITS_WAY: Final = (
    "| CREDIT, FIN, STATUS, RESET for a stream that has ended | nothing: it was on its way |"
)
_LATE: Final = (
    "| DATA for a stream that has ended | nothing, as long as all of it together is not more than the credit"
)
_NEVER: Final = "| any other cell for a number that was never opened | the link |"
_ANSWERABLE: Final = (CellType.DATA, CellType.CREDIT, CellType.FIN, CellType.STATUS, CellType.RESET)

_STREAMS: Final = (
    _breaks(
        "stream: DATA after FIN", _ROW, _after_open(_data(9), _fin, _data(9)), stream(ErrorCode.PROTOCOL)
    ),
    _breaks("stream: FIN after FIN", _ROW, _after_open(_data(9), _fin, _fin), stream(ErrorCode.PROTOCOL)),
    _breaks("stream: STATUS of its opener", _ROW, _after_open(_data(9), _status), stream(ErrorCode.PROTOCOL)),
    _breaks(
        "stream: STATUS of its opener after FIN", _ROW, _after_open(_fin, _status), stream(ErrorCode.PROTOCOL)
    ),
    _breaks(
        "CREDIT: sum",
        "| CREDIT that makes more than 2^31 − 1 | the stream: RESET PROTOCOL |",
        _after_open(_credit, lambda number, _: pack_credit(number, _MAX_CREDIT)),
        stream(ErrorCode.PROTOCOL),
        range(1, _MAX_CREDIT + 1),
    ),
    _breaks(
        "OPEN: profile",
        "| OPEN with an unknown profile | the stream: RESET UNSUPPORTED |",
        _open_profile,
        stream(ErrorCode.UNSUPPORTED),
        tuple(byte for byte in range(256) if byte not in _KNOWN_PROFILES),
    ),
    _breaks(
        "OPEN: too many",
        "| OPEN beyond max streams, or beyond the link's window | the stream: RESET BUSY |",
        _too_many,
        stream(ErrorCode.BUSY),
        (1, 2),
    ),
    Rule("OPEN: number", _NUMBERS, _other_number, link(), range(40), points=ALL_POINTS),
    Rule("OPEN: after GOAWAY", _NUMBERS, _after_go_away, link(), points=("frame",)),
    Rule(
        "OPEN: unsent RESETs",
        "| OPEN while more than max streams + 64 RESETs of such streams have not left | the link |",
        _unsent_resets,
        link(),
    ),
    Rule(
        "stream: never opened",
        _NEVER,
        _never_opened,
        link(),
        tuple((kind, beyond) for kind in _ANSWERABLE for beyond in (2, 3, 4, 5, 1000, (1 << 31) - 10)),
        points=ALL_POINTS,
    ),
    Rule(
        "DATA: beyond credit",
        "| content beyond the credit granted | the link |",
        _beyond_credit,
        link(),
        range(1, 40_000),
        points=ALL_POINTS,
    ),
    *(
        _breaks(f"late {kind.name}", _WAS_ON_ITS_WAY, _late(kind), nothing, range(1, 20))
        for kind in _ANSWERABLE[1:]
    ),
    _breaks("late DATA", _LATE, _late_data, nothing, range(1, _WINDOW - 1024 - 9)),
    Rule("late DATA: too much", _LATE, _late_data, link(), range(2 * _WINDOW, 20 * _WINDOW)),
    _breaks(
        "RESET: any time",
        "RESET is legal at any time, from both sides",
        _reset,
        nothing,
        range(1, max(ErrorCode) + 1),
    ),
)

RULES: Final = _RECORDS + _CELLS + _STREAMS
