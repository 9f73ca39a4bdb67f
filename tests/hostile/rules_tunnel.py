"""Rules of established tunnels: the hostile peer is Alice, the victim is Bob.

Each rule is broken in a tunnel that runs; those of chunks and of OPEN also before the first REKEY ("early").
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from tests.hostile.frames import (
    CHALLENGE,
    CLOSE,
    CREDIT,
    END,
    HELLO,
    LAST,
    MSG,
    OPEN,
    OPENED,
    PAD,
    PROFILE,
    REKEY,
    STATUS,
    ChunkSealer,
)
from tests.hostile.network import Unanswered
from tests.hostile.peer import HostilePeer
from tests.hostile.rules import Rule, bits, nothing, outside, status
from tests.hostile.rules_handshake import flipped
from tests.hostile.rules_header import send_frame, slot_for
from tests.support.second_implementation_modes import padme
from tunnel.crypto.primitives import expand
from tunnel.errors import ErrorCode

__all__ = ["RULES", "HostileEnd"]

_ROOM: Final = PROFILE.geometry.chunk_data_bytes
_WINDOW: Final = 262_144 // _ROOM * _ROOM
_ECHO: Final = b"\0\0\0\4echo"
_SILENT: Final = b"\0\0\0\6silent"
_LOW_ORDER: Final = (bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f")


class HostileEnd:
    """Alice's end of a tunnel to the target, written from the document.

    Attributes:
        sealer: of the chunks that it sends.
        sent: chunks so far, under all keys.
    """

    def __init__(self, peer: HostilePeer) -> None:
        self.peer = peer
        slot = slot_for(peer)
        self._seed = slot.seed
        self.sealer = ChunkSealer.forward(slot.seed)
        self.sent = 0
        self._private = peer.engine.x25519_private(peer.rng.randbytes(32))
        send_frame(peer, slot)

    def hello(self, *, key: bytes = b"", window: int = _WINDOW, sub_streams: int = 64) -> bytes:
        """The data of HELLO."""
        return (key or self._private.public) + window.to_bytes(4, "big") + sub_streams.to_bytes(2, "big")

    def send(self, kind: int, data: bytes = b"", number: int = 0, **faults: Any) -> None:
        self.send_chunk(self.sealer.seal(kind, data, sub_stream=number, **faults))

    def send_chunk(self, chunk: bytes) -> None:
        self.sent += 1
        self.peer.send_paced(chunk)

    def greet(self) -> HostileEnd:
        """Send HELLO and read Bob's: the state "early"."""
        own = self.hello()
        self.send(HELLO, own)
        self.peer.look()
        chunk = self.peer.seen.data.get(self.peer.stream, b"")[: PROFILE.geometry.chunk_bytes]
        if len(chunk) < PROFILE.geometry.chunk_bytes:
            raise Unanswered("no HELLO came")
        backward = self.peer.engine.layers.aead(expand(self._seed, b"e2e backward", 32))
        other = backward.open(bytes(12), chunk)[6:44]
        secret = self._seed + self._private.exchange(other[:32])
        transcript = sha256(own + other).digest()
        self._receive_key = expand(secret, b"hello backward" + transcript, 32)
        self._next_key = expand(secret, b"hello forward" + transcript, 32)
        return self

    def establish(self) -> HostileEnd:
        """HELLO both ways, and REKEY: the state "running"."""
        self.greet()
        self.send(REKEY)
        self.sealer.use(self._next_key)
        return self

    def received(self) -> list[tuple[int, int, bytes]]:
        """Type, sub-stream and data of all chunks that came after the other end's HELLO."""
        size = PROFILE.geometry.chunk_bytes
        wire = self.peer.seen.data[self.peer.stream][size:]
        aead = self.peer.engine.layers.aead(self._receive_key)
        found = []
        for number, at in enumerate(range(0, len(wire) - size + 1, size)):
            plain = aead.open(number.to_bytes(12, "big"), wire[at : at + size])
            kind, _, sub_stream, length = struct.unpack_from(">BBHH", plain)
            found.append((kind, sub_stream, plain[6 : 6 + length]))
        return found

    def close(self, code: int = 0) -> None:
        """CLOSE of stream 0."""
        self.send(CLOSE, code.to_bytes(2, "big"))

    def finish(self, *, last: int = LAST) -> None:
        """Fill the direction up, and end it."""
        while padme(self.sent + 1) != self.sent + 1:
            self.send(PAD)
        self.send(PAD, flags=last)


Do = Callable[[HostileEnd, Any], None]
Row = tuple[str, str, Do, Any]


# --- HELLO -------------------------------------------------------------------------------------------------


def _hello(**fields: Callable[[Any], Any]) -> Do:
    def do(end: HostileEnd, value: Any) -> None:
        end.send(HELLO, end.hello(**{name: make(value) for name, make in fields.items()}))

    return do


_WINDOWS: Final = "4·(C − 22) … 2^30"
_HELLOS: Final[tuple[Row, ...]] = (
    (
        "HELLO: length",
        "| HELLO | 0 | 38 bytes | below |",
        lambda e, n: e.send(HELLO, bytes(n)),
        (*range(38), *range(39, 100), _ROOM),
    ),
    ("HELLO: small window", _WINDOWS, _hello(window=int), range(4 * _ROOM)),
    ("HELLO: large window", _WINDOWS, _hello(window=int), range(2**30 + 1, 2**32)),
    (
        "HELLO: sub-streams",
        "how many the other end may have open at once, at least 4.",
        _hello(sub_streams=int),
        range(4),
    ),
    (
        "HELLO: low order",
        "public key of low order (all-zero secret) MUST be refused",
        _hello(key=bytes),
        _LOW_ORDER,
    ),
    (
        "HELLO: LAST",
        "LAST is an error on any other chunk",
        lambda e, _: e.send(HELLO, e.hello(), flags=LAST),
        (None,),
    ),
    (
        "HELLO: sub-stream",
        "| HELLO | 0 | 38 bytes | below |",
        lambda e, n: e.send(HELLO, e.hello(), n),
        range(1, 65_536),
    ),
)


# --- chunks ------------------------------------------------------------------------------------------------


def _changed(end: HostileEnd, bit: int) -> None:
    end.send_chunk(flipped(end.sealer.seal(MSG, b"\4echo"), bit))


def _counter(end: HostileEnd, more: int) -> None:
    end.sealer.count += more
    end.send(MSG, b"\4echo")


def _repeated(end: HostileEnd, value: None) -> None:
    chunk = end.sealer.seal(MSG, b"\4echo")
    end.send_chunk(chunk)
    end.send_chunk(chunk)


def _swapped(end: HostileEnd, value: None) -> None:
    first, second = end.sealer.seal(MSG, b"\4echo"), end.sealer.seal(MSG, b"x")
    end.send_chunk(second)
    end.send_chunk(first)


_OPENS: Final = "every chunk that does not open, is BAD_CONTENT and ends the tunnel"
_TABLES: Final = "Whatever these tables, the layouts and the credit do not allow"
_LAST_RULE: Final = "LAST is an error on any other chunk, and on a PAD with data."
_KINDS: Final = (MSG, END, OPEN, OPENED, CLOSE, CREDIT, REKEY, CHALLENGE)

_CHUNKS: Final[tuple[Row, ...]] = (
    ("changed", _OPENS, _changed, bits(0, PROFILE.geometry.chunk_bytes)),
    ("counter", "The nonce is the counter nonce of the chunks under this key", _counter, range(1, 1 << 30)),
    ("repeated", _OPENS, _repeated, (None,)),
    ("swapped", _OPENS, _swapped, (None,)),
    (
        "flags",
        "bit 0 LAST: the frame's final chunk. Others MUST be zero",
        lambda e, n: e.send(MSG, b"x", flags=n),
        range(2, 256),
    ),
    ("length", "MSG 1 … C − 22", lambda e, n: e.send(MSG, b"x", length=n), range(_ROOM + 1, 65_536)),
    (
        "padding",
        "| | padding | C − 22 − length | MUST be zero |",
        lambda e, n: e.send(MSG, b"x", padding=bytes(n) + b"\1"),
        range(_ROOM - 1),
    ),
    ("type", _TABLES, lambda e, kind: e.send(kind), (0, STATUS, *range(12, 256))),
    ("second HELLO", _TABLES, lambda e, _: e.send(HELLO, e.hello()), (None,)),
    ("LAST", _LAST_RULE, lambda e, kind: e.send(kind, flags=LAST), _KINDS),
    ("LAST with data", _LAST_RULE, lambda e, n: e.send(PAD, bytes([n]), flags=LAST), (1, 2)),
    (
        "LAST too early",
        "When both ends have sent it and no sub-stream is open",
        lambda e, _: e.finish(),
        (None,),
    ),
    ("PAD: data", "| PAD | 0 | none, 01 or 02 |", lambda e, n: e.send(PAD, bytes([n])), outside(1, 2, 8)),
    ("PAD: length", "| PAD | 0 | none, 01 or 02 |", lambda e, n: e.send(PAD, b"\1" * n), range(2, _ROOM + 1)),
    ("PAD: sub-stream", "| PAD | 0 | none, 01 or 02 |", lambda e, n: e.send(PAD, number=n), range(1, 65_536)),
    ("PAD: answer", "More answers than probes are an error.", lambda e, _: e.send(PAD, b"\2"), (None,)),
    ("REKEY: data", "| REKEY | 0 | |", lambda e, n: e.send(REKEY, bytes(n)), range(1, _ROOM + 1)),
    ("REKEY: sub-stream", "| REKEY | 0 | |", lambda e, n: e.send(REKEY, number=n), range(1, 65_536)),
    ("receipt", "One that answers no open challenge is", lambda e, _: e.send(CHALLENGE, bytes(16)), (None,)),
    (
        "receipt: length",
        "| CHALLENGE | 0 | 16 bytes |",
        lambda e, n: e.send(CHALLENGE, bytes(n)),
        (*range(16), *range(17, 100)),
    ),
    (
        "empty MSG",
        "1 … C − 22 bytes | content of a message (0), or of a sub-stream |",
        lambda e, _: e.send(MSG),
        (None,),
    ),
)


def _old_key(end: HostileEnd, value: None) -> None:
    """REKEY, and a chunk under the key before."""
    end.send(REKEY)
    end.send(MSG, b"\4echo")


def _behind_last(end: HostileEnd, kind: int) -> None:
    end.close()
    end.peer.look()  # the other end closes too
    end.finish()
    end.send(kind)


def _wrong_count(end: HostileEnd, value: None) -> None:
    """LAST where the number of chunks is no bucket."""
    end.close()
    end.peer.look()
    while padme(end.sent + 1) == end.sent + 1:
        end.send(PAD)
    end.send(PAD, flags=LAST)


_ENDS: Final[tuple[Row, ...]] = (
    (
        "old key",
        "the next chunk of this direction is sealed under the next key, counter 0",
        _old_key,
        (None,),
    ),
    ("behind LAST", "| ENDED | nothing |", _behind_last, (MSG, PAD, CLOSE, CREDIT, REKEY)),
    (
        "LAST elsewhere",
        "until the number of its chunks, all counted, is a PADMÉ bucket",
        _wrong_count,
        (None,),
    ),
)


# --- streams and sub-streams -------------------------------------------------------------------------------


def _target(kind: int, port: int, address: bytes, length: int | None = None) -> bytes:
    return (
        bytes([kind])
        + port.to_bytes(2, "big")
        + bytes([len(address) if length is None else length])
        + address
    )


_BAD_TARGETS: Final = (
    b"",
    b"\0",
    b"\0\0\0",
    _target(0, 0, b""),
    _target(0, 1, b"echo"),
    _target(0, 0, b"echo", 5),
    _target(0, 0, b"echo", 3),
    _target(0, 0, b"ec ho"),
    _target(0, 0, b"ec/ho"),
    _target(0, 0, b"ech\xff"),
    _target(0, 0, b"ech\0"),
    _target(1, 80, bytes(3)),
    _target(1, 80, bytes(5)),
    _target(1, 0, bytes(4)),
    _target(3, 0, b"example.org"),
    _target(3, 80, b""),
    _target(3, 80, b"exa mple"),
    _target(4, 80, bytes(4)),
    _target(4, 0, bytes(16)),
    *(_target(kind, 80, b"abcd") for kind in (2, 5, 6, 127, 255)),
)


def _open(end: HostileEnd, number: int = 1, target: bytes = _SILENT) -> None:
    end.send(OPEN, target, number)


def _chunks(*chunks: tuple[int, bytes, int]) -> Do:
    """Several chunks: type, data, sub-stream."""

    def do(end: HostileEnd, value: Any) -> None:
        for kind, data, number in chunks:
            end.send(kind, data, number)

    return do


def _after_open(*chunks: tuple[int, bytes, int]) -> Do:
    """A sub-stream, and then these."""
    return _chunks((OPEN, _SILENT, 1), *chunks)


def _too_many(end: HostileEnd, value: None) -> None:
    for number in range(1, 2 * 64 + 3, 2):
        _open(end, number)


def _too_much(end: HostileEnd, more: int) -> None:
    """Content for a sub-stream that nobody reads."""
    _open(end)
    for _ in range(_WINDOW // _ROOM):
        end.send(MSG, bytes(_ROOM), 1)
    end.send(MSG, bytes(more), 1)


def _grants(*grants: tuple[int, int]) -> bytes:
    return b"".join(number.to_bytes(2, "big") + amount.to_bytes(4, "big") for number, amount in grants)


_CLOSED: Final = (CLOSE, bytes(2), 1)
_END_OF_MESSAGES: Final = (CLOSE, bytes(2), 0)
_IDS: Final = "Alice opens the sub-streams 1, 3, 5, … , Bob 2, 4, 6, … , each the next one, each id once"
_KIND: Final = "Kinds: 0 a service of the other end, by name, port 0; 1 IPv4 (4 bytes), 3 domain, 4 IPv6 (16)"
_OF_OPEN: Final = "| OPEN | MSG, END, CREDIT, CLOSE → ENDED, GIVE_UP → ENDED |"

_STREAMS: Final[tuple[Row, ...]] = (
    ("OPEN: id", _IDS, lambda e, n: _open(e, n), (0, *range(2, 65_536))),
    ("OPEN: id again", _IDS, _after_open((OPEN, _SILENT, 1)), (None,)),
    ("OPEN: target", _KIND, lambda e, target: _open(e, 1, target), _BAD_TARGETS),
    (
        "OPEN: proof",
        "Other lengths than 0 and 96 are malformed.",
        lambda e, n: _open(e, 1, _ECHO + bytes(n)),
        (*range(1, 96), *range(97, 300)),
    ),
    ("OPEN: too many", "the end that opens another beyond the limit is in error", _too_many, (None,)),
    (
        "OPENED: id",
        "| AWAIT_OPENED | OPENED → OPEN, GIVE_UP → ENDED |",
        lambda e, n: e.send(OPENED, number=n),
        range(65_536),
    ),
    ("OPENED: of its opener", _OF_OPEN, _after_open((OPENED, b"", 1)), (None,)),
    ("OPENED: data", "| OPENED | id | |", lambda e, n: e.send(OPENED, bytes(n), 2), range(1, _ROOM + 1)),
    ("MSG: idle", "| IDLE | OPEN → OPEN |", lambda e, n: e.send(MSG, b"x", n), range(1, 65_536)),
    ("MSG: closed", "| ENDED | CREDIT, GIVE_UP |", _after_open(_CLOSED, (MSG, b"x", 1)), (None,)),
    (
        "MSG: empty, of a sub-stream",
        "1 … C − 22 bytes | content of a message (0), or of a sub-stream |",
        _after_open((MSG, b"", 1)),
        (None,),
    ),
    ("END: sub-stream", "END is legal there only.", _after_open((END, b"x", 1)), (None,)),
    ("END: idle", "| END | 0 |", lambda e, n: e.send(END, b"x", n), range(1, 65_536)),
    ("MSG: credit", "More than was granted is an error", _too_much, range(1, _ROOM + 1)),
    (
        "CLOSE: length",
        "| CLOSE | 0 or id | code u16 |",
        lambda e, n: e.send(CLOSE, bytes(n)),
        (0, 1, *range(3, _ROOM + 1)),
    ),
    (
        "CLOSE: code",
        "Else an error code: both halves are given up |",
        lambda e, n: e.send(CLOSE, n.to_bytes(2, "big")),
        range(max(ErrorCode) + 1, 65_536),
    ),
    ("CLOSE: idle", "| IDLE | OPEN → OPEN |", lambda e, n: e.send(CLOSE, bytes(2), n), range(1, 65_536)),
    ("CLOSE: twice", "| ENDED | CREDIT, GIVE_UP |", _after_open(_CLOSED, _CLOSED), (None,)),
    (
        "CLOSE: inside a message",
        "never inside a message",
        _chunks((MSG, b"\4echo", 0), _END_OF_MESSAGES),
        (None,),
    ),
    (
        "MSG: after CLOSE of the tunnel",
        "no more messages and no more OPEN from this end",
        _chunks(_END_OF_MESSAGES, (MSG, b"x", 0)),
        (None,),
    ),
    (
        "OPEN: after CLOSE of the tunnel",
        "no more messages and no more OPEN from this end",
        _chunks(_END_OF_MESSAGES, (OPEN, _SILENT, 1)),
        (None,),
    ),
    (
        "CREDIT: length",
        "1 or more × (id u16 ‖ bytes u32)",
        lambda e, n: e.send(CREDIT, bytes(n)),
        tuple(n for n in range(_ROOM + 1) if n % 6 or not n),
    ),
    (
        "CREDIT: nothing",
        "the receiver may send so much more; bytes ≥ 1",
        lambda e, n: e.send(CREDIT, _grants((n, 0))),
        range(2),
    ),
    (
        "CREDIT: sub-stream",
        "| CREDIT | 0 |",
        lambda e, n: e.send(CREDIT, _grants((0, 1)), n),
        range(1, 65_536),
    ),
    (
        "CREDIT: idle",
        "| IDLE | OPEN → OPEN |",
        lambda e, n: e.send(CREDIT, _grants((n, 1))),
        range(1, 65_536),
    ),
    (
        "CREDIT: too much",
        "so are grants beyond the window altogether",
        lambda e, n: e.send(CREDIT, _grants((0, n))),
        range(1, 1 << 32),
    ),
    (
        "CREDIT: too much at once",
        "so are grants beyond the window altogether",
        _after_open((CREDIT, _grants((1, 1), (1, 0xFFFFFFFF)), 0)),
        (None,),
    ),
)


def _cut(end: HostileEnd, count: int) -> None:
    """FIN without LAST."""
    if count:
        end.peer.send_content(bytes(count), stream=end.peer.stream)
    end.peer.send_fin(stream=end.peer.stream)


def _flood_of_probes(end: HostileEnd, count: int) -> None:
    for _ in range(count):
        end.send(PAD, b"\1")


# --- rows to rules -----------------------------------------------------------------------------------------


def _in_state(state: str, begin: Callable[[HostileEnd], object], rows: tuple[Row, ...]) -> tuple[Rule, ...]:
    def doing(do: Do) -> Callable[[HostilePeer, Any], None]:
        def carry_out(peer: HostilePeer, value: Any) -> None:
            end = HostileEnd(peer)
            begin(end)
            do(end, value)

        return carry_out

    expect = status(ErrorCode.BAD_CONTENT)
    return tuple(Rule(f"{state}: {name}", text, doing(do), expect, values) for name, text, do, values in rows)


def _with_end(do: Do) -> Callable[[HostilePeer, Any], None]:
    return lambda peer, value: do(HostileEnd(peer).establish(), value)


RULES: Final = (
    *_in_state("tunnel", lambda end: None, _HELLOS),
    *_in_state("early tunnel", HostileEnd.greet, _CHUNKS + _STREAMS),
    *_in_state("tunnel", HostileEnd.establish, _CHUNKS + _STREAMS + _ENDS),
    Rule(
        "tunnel: FIN without LAST",
        "FIN without LAST is TRUNCATED.",
        _with_end(_cut),
        status(ErrorCode.TRUNCATED),
        (0, 1, 995),
    ),
    Rule(
        "tunnel: many probes",
        "one answer is enough for all probes that have come meanwhile",
        _with_end(_flood_of_probes),
        nothing,
        (1, 100),
    ),
)
