"""Rules of the messages that end at a node: chunks, heads, reply blocks and receipts.

The hostile peer is Alice: its frame has one slot, DEST for the victim. What it breaks is told by a STATUS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from tests.hostile.frames import (
    CHALLENGE,
    END,
    HELLO,
    LAST,
    MSG,
    PAD,
    PROFILE,
    REKEY,
    STATUS,
    ChunkSealer,
    RawSlot,
    header,
    message,
)
from tests.hostile.peer import HostilePeer
from tests.hostile.rules import Expect, Rule, bits, outside, status
from tests.hostile.rules_handshake import flipped
from tests.hostile.rules_header import send_frame, slot_for
from tests.support.second_implementation_modes import padme
from tunnel.crypto.primitives import expand
from tunnel.errors import ErrorCode
from tunnel.geometry import LONG, Profile

__all__ = ["CHUNKS", "RULES", "TRUNCATED"]

Chunks = Callable[[HostilePeer, ChunkSealer, Any], bytes]

_ROOM: Final = PROFILE.geometry.chunk_data_bytes
_ECHO: Final = b"\4echo"
_HEAD: Final = bytes(4) + _ECHO


def _message(make: Chunks) -> Callable[[HostilePeer, Any], None]:
    """Send a frame with the chunks that `make` gives, and FIN."""

    def do(peer: HostilePeer, value: Any) -> None:
        slot = slot_for(peer)
        send_frame(peer, slot, make(peer, ChunkSealer.forward(slot.seed), value))
        peer.send_fin(stream=peer.stream)

    return do


def _head(make: Callable[[HostilePeer, Any], bytes]) -> Callable[[HostilePeer, Any], None]:
    """Send a whole message that begins with what `make` gives."""
    return _message(lambda peer, sealer, value: message(sealer, make(peer, value) + _ECHO))


# --- chunks ------------------------------------------------------------------------------------------------


def _second(make: Callable[[ChunkSealer, Any], bytes]) -> Chunks:
    """A legal first chunk, and then one that `make` gives."""
    return lambda _, sealer, value: sealer.seal(MSG, _HEAD + b"first") + make(sealer, value)


def _changed(_: HostilePeer, sealer: ChunkSealer, bit: int) -> bytes:
    return flipped(message(sealer, _HEAD), bit)


def _other_count(_: HostilePeer, sealer: ChunkSealer, count: int) -> bytes:
    sealer.count = count
    return message(sealer, _HEAD)


def _swapped(_: HostilePeer, sealer: ChunkSealer, value: None) -> bytes:
    size = PROFILE.geometry.chunk_bytes
    both = message(sealer, _HEAD + bytes(_ROOM))
    return both[size:] + both[:size]


def _repeated(_: HostilePeer, sealer: ChunkSealer, value: None) -> bytes:
    return sealer.seal(MSG, _HEAD + b"x") * 2


def _cut(_: HostilePeer, sealer: ChunkSealer, count: int) -> bytes:
    return message(sealer, _HEAD)[:count]


def _no_end(_: HostilePeer, sealer: ChunkSealer, count: int) -> bytes:
    """Whole chunks, and FIN without LAST."""
    return b"".join(sealer.seal(MSG, _HEAD) for _ in range(count))


def _more_behind(_: HostilePeer, sealer: ChunkSealer, count: int) -> bytes:
    return message(sealer, _HEAD) + bytes(count)


def _late_last(_: HostilePeer, sealer: ChunkSealer, pads: int) -> bytes:
    """LAST some chunks after its place."""
    return (
        sealer.seal(END, _HEAD)
        + b"".join(sealer.seal(PAD) for _ in range(pads - 1))
        + sealer.seal(PAD, flags=LAST)
    )


def _early_last(_: HostilePeer, sealer: ChunkSealer, count: int) -> bytes:
    """LAST on END, although the number of chunks is no PADMÉ bucket."""
    full = b"".join(sealer.seal(MSG, (_HEAD if not n else b"") + b"x") for n in range(count - 1))
    return full + sealer.seal(END, b"x", flags=LAST)


_NO_BUCKETS: Final = tuple(count for count in range(1, 60) if padme(count) != count)
_CHECKS: Final = (
    "it opens; flags, sub-stream, length; padding is zero; the type is legal here; PAD has length 0 and "
    "MSG has not; LAST is set exactly if this chunk is number padme(m)."
)
_FURTHER: Final = "After the chunk marked LAST it reads FIN; a further byte is refused."
_OTHERS: Final = "every other type is refused"

CHUNKS: Final[tuple[tuple[str, str, Chunks, Any], ...]] = (
    ("changed", _CHECKS, _changed, bits(0, PROFILE.geometry.chunk_bytes)),
    (
        "counter",
        "The counter is the chunk's number t, from 0, in each direction.",
        _other_count,
        range(1, 1 << 40),
    ),
    ("swapped", "A chunk repeated, reordered or changed becomes noise at the next proxy.", _swapped, (None,)),
    (
        "repeated",
        "A chunk repeated, reordered or changed becomes noise at the next proxy.",
        _repeated,
        (None,),
    ),
    (
        "flags",
        "bit 0 LAST: the frame's final chunk. Others MUST be zero",
        _second(lambda s, n: s.seal(MSG, b"x", flags=n)),
        range(2, 256),
    ),
    (
        "flags of the first",
        "bit 0 LAST: the frame's final chunk. Others MUST be zero",
        lambda _, s, n: s.seal(MSG, _HEAD, flags=n),
        range(2, 256),
    ),
    (
        "sub-stream",
        "| 2 | sub-stream | 2 | MUST be zero in a message |",
        _second(lambda s, n: s.seal(MSG, b"x", sub_stream=n)),
        range(1, 65_536),
    ),
    (
        "length",
        "MSG 1 … C − 22, END 0 … C − 22, PAD 0, CHALLENGE 16",
        _second(lambda s, n: s.seal(MSG, b"x", length=n)),
        range(_ROOM + 1, 65_536),
    ),
    (
        "length of END",
        "MSG 1 … C − 22, END 0 … C − 22, PAD 0, CHALLENGE 16",
        _second(lambda s, n: s.seal(END, b"x", length=n)),
        range(_ROOM + 1, 65_536),
    ),
    ("empty MSG", _CHECKS, _second(lambda s, _: s.seal(MSG)), (None,)),
    (
        "full PAD",
        _CHECKS,
        lambda _, s, n: message(s, _HEAD + bytes(8 * _ROOM))[: 9 * 996] + s.seal(PAD, bytes(n)),
        range(1, _ROOM),
    ),
    (
        "padding",
        "| | padding | C − 22 − length | MUST be zero |",
        _second(lambda s, n: s.seal(MSG, b"x", padding=bytes(n) + b"\1")),
        range(_ROOM - 1),
    ),
    ("type", _CHECKS, _second(lambda s, kind: s.seal(kind, bytes(16))), (0, *range(3, 11), *range(12, 256))),
    (
        "type of the first",
        _OTHERS,
        lambda _, s, kind: s.seal(kind, bytes(16)),
        (0, *range(3, 5), *range(6, 11), *range(12, 256)),
    ),
    ("PAD before END", _CHECKS, _second(lambda s, _: s.seal(PAD)), (None,)),
    ("two ENDs", "exactly one END", lambda _, s, n: s.seal(END, _HEAD) + s.seal(END, b"x"), (None,)),
    ("MSG after END", "exactly one END", lambda _, s, n: s.seal(END, _HEAD) + s.seal(MSG, b"x"), (None,)),
    (
        "LAST on MSG",
        "LAST is set on the final chunk and on no other",
        lambda _, s, n: s.seal(MSG, _HEAD, flags=LAST),
        (None,),
    ),
    ("LAST too early", _CHECKS, _early_last, _NO_BUCKETS),
    ("LAST too late", _CHECKS, _late_last, range(1, 10)),
    ("bytes behind LAST", _FURTHER, _more_behind, (1, 995, 996, 997, 3000)),
    (
        "CHALLENGE in a query",
        "a CHALLENGE before the first MSG, after END, directly after another",
        _second(lambda s, _: s.seal(CHALLENGE, bytes(16))),
        (None,),
    ),
    ("HELLO in a query", _CHECKS, _second(lambda s, _: s.seal(HELLO, bytes(38))), (None,)),
    (
        "STATUS in a query",
        "STATUS stands alone on a backward half",
        _second(lambda s, _: s.seal(STATUS, bytes(432))),
        (None,),
    ),
    ("REKEY in a query", _CHECKS, _second(lambda s, _: s.seal(REKEY)), (None,)),
)

TRUNCATED: Final[tuple[tuple[str, str, Chunks, Any], ...]] = (
    ("FIN in a chunk", "C bytes are here (FIN before: TRUNCATED)", _cut, range(1, 996)),
    ("FIN without a chunk", "C bytes are here (FIN before: TRUNCATED)", _cut, (0,)),
    ("FIN without LAST", "C bytes are here (FIN before: TRUNCATED)", _no_end, range(1, 20)),
)


# --- heads -------------------------------------------------------------------------------------------------

ORIGIN, ANSWER, WANTS_BLOCKS, BACKWARD = 1, 2, 4, 8


def block(peer: HostilePeer, **changes: Any) -> bytes:
    """A reply block for the victim: over Bob to a HOME slot that nobody can read."""
    fields: dict[str, Any] = {
        "profile": PROFILE.byte,
        "flags": 0,
        "expiry": int(peer.network.wall_s()) + 3600,
        "first": peer.network.bob.id,
    }
    fields |= changes
    known = Profile.from_byte(fields["profile"]) if fields["profile"] in (1, 2, 3, 4, 5) else PROFILE
    slots = [(peer.network.bob.descriptor, slot_for(peer, command=fields.get("command", 4)))]
    fixed = struct.pack(
        ">BBI32s18s16s",
        fields["profile"],
        fields["flags"],
        fields["expiry"],
        fields["first"],
        bytes(18),
        peer.rng.randbytes(16),
    )
    return fixed + header(slots, peer.network.wall_s(), known)


def _blocks(count: int, made: bytes, flags: int = 0) -> bytes:
    return bytes([count, flags, 0, 0]) + made


def _long_blocks(peer: HostilePeer, count: int) -> bytes:
    """The first of them names geometry `long`, of which three fit."""
    one = bytes([Profile(LONG).byte]) + bytes(LONG.reply_block_bytes - 1)
    return _blocks(count, one * count)


def _origin(peer: HostilePeer, slot: RawSlot, changed_bit: int) -> bytes:
    """A claim whose descriptor, ticket or signature was changed."""
    ticket, signed = peer.rng.randbytes(24), peer.descriptor.signed
    text = b"mtun1 known dest" + peer.target.id + expand(slot.seed, b"origin", 32) + ticket
    claim = (
        ticket + len(signed).to_bytes(2, "big") + signed + peer.engine.ed25519_sign(peer.keys.identity, text)
    )
    return flipped(claim, changed_bit % (8 * len(claim)))


def _bad_origin(peer: HostilePeer, bit: int) -> None:
    slot = slot_for(peer)
    claim = _origin(peer, slot, bit if bit // 8 not in (24, 25) else bit + 16)
    content = message(ChunkSealer.forward(slot.seed), bytes([0, ORIGIN, 0, 0]) + claim + _ECHO)
    send_frame(peer, slot, content)
    peer.send_fin(stream=peer.stream)


def _origin_length(_: HostilePeer, length: int) -> bytes:
    return bytes([0, ORIGIN, 0, 0]) + bytes(24) + length.to_bytes(2, "big") + bytes(600)


_WAYS: Final = "A message names at most one way back: blocks, ORIGIN or BACKWARD"
_HEADS: Final[tuple[tuple[str, str, Callable[[HostilePeer, Any], bytes], Any], ...]] = (
    ("count", "number of reply blocks, at most 8", lambda p, n: _blocks(n, block(p) * 9), range(9, 256)),
    (
        "flags",
        "bit 0 ORIGIN, bit 1 ANSWER, bit 2 WANTS_BLOCKS, bit 3 BACKWARD; others MUST be zero",
        lambda _, n: bytes([0, n, 0, 0]),
        range(16, 256),
    ),
    ("zero", "| zero | 2 | MUST be zero |", lambda _, n: bytes(2) + n.to_bytes(2, "big"), range(1, 65_536)),
    (
        "two ways back",
        _WAYS,
        lambda p, flags: _blocks(1, block(p), flags),
        (ORIGIN, BACKWARD, ORIGIN | BACKWARD),
    ),
    ("ORIGIN and BACKWARD", _WAYS, lambda _, n: bytes([0, ORIGIN | BACKWARD, 0, 0]) + bytes(600), (None,)),
    (
        "WANTS_BLOCKS without blocks",
        "WANTS_BLOCKS stands with blocks only.",
        lambda _, flags: bytes([0, flags, 0, 0]),
        (WANTS_BLOCKS, WANTS_BLOCKS | BACKWARD),
    ),
    (
        "block's profile",
        "for each block: its first byte names a known profile",
        lambda p, n: _blocks(1, bytes([n]) + block(p)[1:]),
        (0, *range(6, 17), *range(22, 256)),
    ),
    ("blocks too long", "that many *Reply block*s, at most 65,536 bytes together", _long_blocks, range(4, 9)),
    (
        "block's flags",
        "each block's flags are zero",
        lambda p, n: _blocks(1, block(p, flags=n)),
        range(1, 256),
    ),
    ("origin's length", "if ORIGIN: ticket 24 ‖ length u16, 69 to 478", _origin_length, outside(69, 478, 16)),
    (
        "foreign answer",
        "Alice checks in constant time that the ticket is hers (else BAD_CONTENT)",
        lambda p, _: bytes([0, ANSWER, 0, 0]) + p.rng.randbytes(24),
        range(5),
    ),
)


def _short_head(_: HostilePeer, sealer: ChunkSealer, count: int) -> bytes:
    """END before the head is complete."""
    return sealer.seal(END, (_blocks(1, bytes([PROFILE.byte]) + bytes(1095)))[:count], flags=LAST)


# --- reply blocks and receipts -----------------------------------------------------------------------------


def _use_of(**changes: Any) -> Callable[[HostilePeer, Any], None]:
    """A query with one block, of which a field has another value."""

    def do(peer: HostilePeer, value: Any) -> None:
        made = {name: change(peer, value) for name, change in changes.items()}
        _head(lambda p, _: _blocks(1, block(p, **made)))(peer, value)

    return do


def _same_block_twice(peer: HostilePeer, value: None) -> None:
    made = block(peer)
    for _ in range(2):
        _head(lambda *_: _blocks(1, made))(peer, None)
        peer.reaction(20.0)


def _receipt(peer: HostilePeer, value: None) -> None:
    slot = slot_for(peer)
    send_frame(peer, slot, ChunkSealer.forward(slot.seed).seal(CHALLENGE, peer.rng.randbytes(16), flags=LAST))
    peer.send_fin(stream=peer.stream)


def _receipt_with(
    data: Callable[[int], bytes] = lambda _: bytes(16),
    flags: Callable[[int], int] = lambda _: LAST,
    sub_stream: Callable[[int], int] = lambda _: 0,
) -> Callable[[HostilePeer, Any], None]:
    """A receipt of which one field has the value."""
    return _message(
        lambda _, sealer, value: sealer.seal(
            CHALLENGE, data(value), flags=flags(value), sub_stream=sub_stream(value)
        )
    )


_RECEIPT: Final = "type CHALLENGE, flags LAST, with the 16 bytes; FIN."


def _of(
    kind: str, rows: Any, expect: Expect, wrap: Callable[[Any], Callable[[HostilePeer, Any], None]]
) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"{kind}: {name}", text, wrap(make), expect, values) for name, text, make, values in rows
    )


RULES: Final = (
    *_of("message", CHUNKS, status(ErrorCode.BAD_CONTENT), _message),
    *_of("message", TRUNCATED, status(ErrorCode.TRUNCATED), _message),
    *_of("head", _HEADS, status(ErrorCode.BAD_CONTENT), _head),
    Rule(
        "head: END too early",
        "END before the head is complete is refused",
        _message(_short_head),
        status(ErrorCode.BAD_CONTENT),
        range(_ROOM),
    ),
    Rule(
        "head: false origin",
        "Either failing is BAD_CONTENT.",
        _bad_origin,
        status(ErrorCode.BAD_CONTENT),
        range(4000),
    ),
    Rule(
        "block: expired",
        "within the limits of steps 11 and 12 of *Order of checks* (else EXPIRED)",
        _use_of(expiry=lambda p, n: max(0, min((1 << 32) - 1, int(p.network.wall_s()) + n))),
        status(ErrorCode.EXPIRED),
        (-1_000_000, -602, 15_002, 1_000_000_000),
    ),
    Rule(
        "block: unknown first",
        "first id is linked to him or in his directory and is not his own (else UNKNOWN_NEXT)",
        _use_of(first=lambda p, _: p.rng.randbytes(32)),
        status(ErrorCode.UNKNOWN_NEXT, is_about_next=True),
    ),
    Rule(
        "block: own first",
        "first id is linked to him or in his directory and is not his own (else UNKNOWN_NEXT)",
        _use_of(first=lambda p, _: p.target.id),
        status(ErrorCode.UNKNOWN_NEXT),
    ),
    Rule(
        "block: used twice",
        "that he has not used it before (else REPLAYED",
        _same_block_twice,
        status(ErrorCode.REPLAYED, 20.0),
    ),
    Rule(
        "receipt: of no challenge",
        "one that answers no open challenge is UNKNOWN_QUERY",
        _receipt,
        status(ErrorCode.UNKNOWN_QUERY),
    ),
    Rule(
        "receipt: length",
        _RECEIPT,
        _receipt_with(data=bytes),
        status(ErrorCode.BAD_CONTENT),
        (*range(16), *range(17, 100)),
    ),
    Rule(
        "receipt: flags",
        _RECEIPT,
        _receipt_with(flags=int),
        status(ErrorCode.BAD_CONTENT),
        (0, *range(2, 256)),
    ),
    Rule(
        "receipt: sub-stream",
        _RECEIPT,
        _receipt_with(sub_stream=int),
        status(ErrorCode.BAD_CONTENT),
        range(1, 65_536),
    ),
)
