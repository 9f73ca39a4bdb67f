"""Rules of what comes back: the victim asks, or relays, and the hostile peer is the node behind.

In the first tables the hostile peer is Bob of the victim's own query; in the last it is the next node of a
frame that the victim relays for another hostile peer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.hostile.frames import CHALLENGE, LAST, PROFILE, RELAY, STATUS, ChunkSealer, header, message
from tests.hostile.network import Unanswered
from tests.hostile.peer import HostilePeer
from tests.hostile.rules import CONNECTED, Expect, Rule, bits, failed, outside, status
from tests.hostile.rules_handshake import flipped
from tests.hostile.rules_header import slot_for
from tests.hostile.rules_link import cell
from tests.hostile.rules_message import CHUNKS, TRUNCATED
from tests.support.second_implementation import expand, open_header
from tests.support.second_implementation_modes import read_message, split_head
from tunnel.errors import ErrorCode
from tunnel.link.cells import CellType, pack_fin, pack_reset
from tunnel.modes import ReplyMode
from tunnel.routing.route import Route

__all__ = ["RULES", "HostileBob"]

_HEADER_BYTES: Final = PROFILE.geometry.header_bytes
_STATUS_BYTES: Final = PROFILE.geometry.status_bytes
_MESSAGE: Final = bytes(4) + b"answer"


class HostileBob:
    """Bob of a query of the victim, which comes over a link that the victim has dialled.

    Attributes:
        stream: that carries the query.
        seed: of the DEST slot.
    """

    def __init__(self, peer: HostilePeer, mode: ReplyMode) -> None:
        peer.handshake()
        victim = peer.target
        query = victim.call(peer.id, b"a question", route=Route((), peer.id), mode=mode, profile=PROFILE)
        peer.asked = victim.reactor.submit(victim.query_service(query))
        query_ended = peer.asked.done
        self.peer = peer
        self.stream = 1
        peer.network.wait_until(lambda: self._has_come() or query_ended(), 30.0)
        if query_ended():
            raise Unanswered("the query has failed before it came")
        wire = peer.seen.data[self.stream]
        onion = peer.keys.onion
        fields, _ = open_header(wire[:_HEADER_BYTES], PROFILE.byte, onion.private, onion.epoch)
        self.seed = fields.seed
        self._chunks = wire[_HEADER_BYTES:]

    def _has_come(self) -> bool:
        self.peer.look()
        return self.stream in self.peer.seen.ended

    @property
    def block(self) -> bytes:
        """The reply block of the query."""
        plain = read_message(PROFILE.byte, expand(self.seed, b"e2e forward", 32), self._chunks)
        return split_head(plain)[0].blocks[0]

    @property
    def backward(self) -> ChunkSealer:
        """Seals chunks on the query's backward half."""
        return ChunkSealer(expand(self.seed, b"e2e backward", 32))

    def send(self, *cells: bytes) -> None:
        self.peer.send_cells(*cells)

    def content(self, data: bytes) -> None:
        """Content on the backward half."""
        for at in range(0, len(data), 900):
            self.peer.look()
            self.send(cell(CellType.DATA, self.stream, data[at : at + 900]))

    def end(self, status_bytes: bytes) -> None:
        """FIN and a STATUS."""
        self.send(pack_fin(self.stream), cell(CellType.STATUS, self.stream, status_bytes))

    def reply(self, chunks: Callable[[ChunkSealer], bytes], block: bytes = b"") -> None:
        """A reply along the block: a stream to the victim."""
        block = block or self.block
        self.peer.open(PROFILE, block[72:], stream=self.peer.next_stream())
        self.peer.send_paced(chunks(ChunkSealer.forward(block[56:72])))
        self.peer.send_fin(stream=self.peer.stream)


Do = Callable[[HostileBob, Any], None]
Row = tuple[str, str, Do, Expect, Any]


def _in_mode(mode: ReplyMode, rows: tuple[Row, ...]) -> tuple[Rule, ...]:
    def carrying(do: Do) -> Callable[[HostilePeer, Any], None]:
        return lambda peer, value: do(HostileBob(peer, mode), value)

    return tuple(
        Rule(f"{mode}: {name}", text, carrying(do), expect, values, ("is dialled",), CONNECTED)
        for name, text, do, expect, values in rows
    )


# --- the backward half of a query without reply ------------------------------------------------------------

_ROW: Final = "| DATA or FIN after FIN, STATUS before FIN or by the opener, a second STATUS | the stream"
_GARBAGE: Final = "| no body fits, all mac(0, ·) do | the last node made it up |"


def _cells(*make: Callable[[HostileBob], bytes]) -> Do:
    return lambda bob, _: bob.send(*(each(bob) for each in make))


def _fin(bob: HostileBob) -> bytes:
    return pack_fin(bob.stream)


def _data(bob: HostileBob) -> bytes:
    return cell(CellType.DATA, bob.stream, b"data")


def _status(bob: HostileBob) -> bytes:
    return cell(CellType.STATUS, bob.stream, bob.peer.rng.randbytes(_STATUS_BYTES))


def _silence(bob: HostileBob, value: None) -> None:
    """Nothing, but answers to PINGs."""


def _hangs_up(bob: HostileBob, value: None) -> None:
    bob.peer.hang_up()


_NONE: Final[tuple[Row, ...]] = (
    (
        "content",
        "where the mode has none | proxies carry it; Alice refuses it: BAD_CONTENT",
        lambda bob, n: bob.content(bytes(n)),
        failed(ErrorCode.BAD_CONTENT),
        (1, 995, 996),
    ),
    (
        "content and FIN",
        "A reply's content there is refused.",
        _cells(_data, _fin, _status),
        failed(ErrorCode.BAD_CONTENT),
        (None,),
    ),
    ("STATUS before FIN", _ROW, _cells(_status), failed(ErrorCode.PROTOCOL), (None,)),
    ("DATA after FIN", _ROW, _cells(_fin, _data), failed(ErrorCode.PROTOCOL), (None,)),
    ("FIN after FIN", _ROW, _cells(_fin, _fin), failed(ErrorCode.PROTOCOL), (None,)),
    ("false STATUS", _GARBAGE, _cells(_fin, _status), failed(None), (None,)),
    (
        "STATUS: length",
        "A wrong length is refused",
        lambda bob, n: bob.end(bytes(n)),
        failed(ErrorCode.BAD_CONTENT),
        (*range(1, _STATUS_BYTES), *range(_STATUS_BYTES + 1, 900)),
    ),
    (
        "no STATUS",
        "STATUS is the last cell of every backward half that ends in order",
        _cells(_fin),
        failed(ErrorCode.TIMEOUT, 120.0),
        (None,),
    ),
    (
        "silence",
        "nothing has moved on a frame's streams, in either direction, for 60 to 90 s; TIMEOUT",
        _silence,
        failed(ErrorCode.TIMEOUT, 120.0),
        (None,),
    ),
    (
        "RESET",
        "RESET is legal at any time, from both sides",
        lambda bob, code: bob.send(pack_reset(bob.stream, ErrorCode(code))),
        failed(None),
        range(1, max(ErrorCode) + 1),
    ),
    (
        "hangs up",
        "or ends with RESET of stream 0 | every stream on it fails with DISCONNECTED",
        _hangs_up,
        failed(ErrorCode.DISCONNECTED),
        (None,),
    ),
    (
        "never opened",
        "| any other cell for a number that was never opened | the link |",
        lambda bob, beyond: bob.send(cell(CellType.DATA, bob.stream + beyond, b"x")),
        failed(ErrorCode.PROTOCOL),
        range(2, 1000, 2),
    ),
)


# --- replies on the query's own stream ---------------------------------------------------------------------


def _cached(make: Callable[[HostilePeer, ChunkSealer, Any], bytes]) -> Do:
    def do(bob: HostileBob, value: Any) -> None:
        bob.content(make(bob.peer, bob.backward, value))
        bob.end(bob.peer.rng.randbytes(_STATUS_BYTES))

    return do


_OF_QUERIES: Final = ("CHALLENGE in a query",)
_CACHED: Final[tuple[Row, ...]] = (
    *(
        (name, text, _cached(make), failed(ErrorCode.BAD_CONTENT, 10.0), values)
        for name, text, make, values in CHUNKS
        if name not in _OF_QUERIES
    ),
    *(
        (name, text, _cached(make), failed(ErrorCode.TRUNCATED, 10.0), values)
        for name, text, make, values in TRUNCATED
    ),
    (
        "CHALLENGE first",
        "a CHALLENGE before the first MSG, after END, directly after another",
        _cached(lambda _, s, __: s.seal(CHALLENGE, bytes(16))),
        failed(ErrorCode.BAD_CONTENT, 10.0),
        (None,),
    ),
    (
        "CHALLENGE: length",
        "CHALLENGE 16",
        _cached(lambda _, s, n: s.seal(1, _MESSAGE) + s.seal(CHALLENGE, bytes(n))),
        failed(ErrorCode.BAD_CONTENT, 10.0),
        (*range(16), *range(17, 100)),
    ),
    (
        "CHALLENGE after another",
        "directly after another",
        _cached(
            lambda _, s, __: s.seal(1, _MESSAGE) + s.seal(CHALLENGE, bytes(16)) + s.seal(CHALLENGE, bytes(16))
        ),
        failed(ErrorCode.BAD_CONTENT, 10.0),
        (None,),
    ),
    (
        "ninth CHALLENGE",
        "the ninth without an answer is refused (BAD_CONTENT)",
        _cached(
            lambda _, s, __: b"".join(s.seal(1, _MESSAGE) + s.seal(CHALLENGE, bytes(16)) for _ in range(9))
        ),
        failed(None, 10.0),
        (None,),
    ),
)


# --- replies by block --------------------------------------------------------------------------------------


def _by_block(make: Callable[[HostilePeer, ChunkSealer, Any], bytes]) -> Do:
    return lambda bob, value: bob.reply(lambda sealer: make(bob.peer, sealer, value))


def _other_seed(bob: HostileBob, value: None) -> None:
    """The reply under a seed that is not the block's."""
    block = bob.block
    bob.reply(lambda sealer: message(sealer, _MESSAGE), block[:56] + bytes(16) + block[72:])


def _changed_header(bob: HostileBob, bit: int) -> None:
    block = bob.block
    bob.reply(lambda sealer: message(sealer, _MESSAGE), block[:72] + flipped(block[72:], bit))


def _status_chunk(make: Callable[[ChunkSealer, Any], bytes]) -> Do:
    """A chunk on the backward half in place of the STATUS of a reply."""

    def do(bob: HostileBob, value: Any) -> None:
        bob.content(make(bob.backward, value))
        bob.end(bob.peer.rng.randbytes(_STATUS_BYTES))

    return do


def _cut_chunk(bob: HostileBob, count: int) -> None:
    bob.content(bytes(count))
    bob.end(bytes(_STATUS_BYTES))


_CHUNK_RULE: Final = (
    "Alice refuses a chunk that does not open, another type, LAST missing, a number that she sent no block "
    "for, another length, padding that is not zero, and any byte between the chunk and FIN"
)
_BAD: Final = failed(ErrorCode.BAD_CONTENT, 30.0)
_ROUTE: Final[tuple[Row, ...]] = (
    *(
        (name, text, _by_block(make), _BAD, values)
        for name, text, make, values in CHUNKS
        if name not in _OF_QUERIES and name not in ("HELLO in a query",)
    ),
    *(
        (name, text, _by_block(make), failed(ErrorCode.TRUNCATED, 30.0), values)
        for name, text, make, values in TRUNCATED
    ),
    (
        "another seed",
        'opens it under the `"e2e forward"` key of expand(master seed, `"reply e2e"`, 16)',
        _other_seed,
        _BAD,
        (None,),
    ),
    (
        "changed header",
        "the first slot opens with one of the node's onion keys",
        _changed_header,
        failed(ErrorCode.TIMEOUT, 120.0),
        bits(0, _HEADER_BYTES),
    ),
    (
        "chunk: changed",
        _CHUNK_RULE,
        _status_chunk(lambda s, bit: flipped(s.seal(STATUS, bytes(_STATUS_BYTES), flags=LAST), bit)),
        _BAD,
        bits(0, 996),
    ),
    (
        "chunk: type",
        _CHUNK_RULE,
        _status_chunk(lambda s, kind: s.seal(kind, bytes(_STATUS_BYTES), flags=LAST)),
        _BAD,
        outside(4, 4, 8),
    ),
    (
        "chunk: flags",
        _CHUNK_RULE,
        _status_chunk(lambda s, n: s.seal(STATUS, bytes(_STATUS_BYTES), flags=n)),
        _BAD,
        outside(1, 1, 8),
    ),
    (
        "chunk: number",
        _CHUNK_RULE,
        _status_chunk(lambda s, n: s.seal(STATUS, bytes(_STATUS_BYTES), flags=LAST, sub_stream=n)),
        _BAD,
        range(1, 65_536),
    ),
    (
        "chunk: length",
        _CHUNK_RULE,
        _status_chunk(lambda s, n: s.seal(STATUS, bytes(n), flags=LAST)),
        _BAD,
        (*range(_STATUS_BYTES), *range(_STATUS_BYTES + 1, 900)),
    ),
    (
        "chunk: padding",
        _CHUNK_RULE,
        _status_chunk(
            lambda s, n: s.seal(STATUS, bytes(_STATUS_BYTES), flags=LAST, padding=bytes(n) + b"\1")
        ),
        _BAD,
        range(500),
    ),
    (
        "chunk: cut",
        "FIN before: TRUNCATED",
        _cut_chunk,
        failed(ErrorCode.TRUNCATED, 30.0),
        range(1, 996),
    ),
    (
        "chunk: more",
        _CHUNK_RULE,
        _status_chunk(lambda s, n: s.seal(STATUS, bytes(_STATUS_BYTES), flags=LAST) + bytes(n)),
        failed(None, 30.0),
        (1, 996),
    ),
    (
        "silence",
        "nothing has moved on a frame's streams, in either direction, for 60 to 90 s; TIMEOUT",
        _silence,
        failed(ErrorCode.TIMEOUT, 400.0),
        (None,),
    ),
)


# --- the node behind a relay -------------------------------------------------------------------------------


def _behind(do: Callable[[HostilePeer, int, Any], None]) -> Callable[[HostilePeer, Any], None]:
    """A frame over the victim to another hostile peer; `do` gets that peer, and the stream to it."""

    def carry_out(peer: HostilePeer, value: Any) -> None:
        network = peer.network
        next_peer = HostilePeer(network, "is dialled", target=peer.target, rng=peer.rng)
        peer.others.append(next_peer)
        first = slot_for(peer, command=RELAY, next_id=next_peer.id)
        peer.frame_seed = first.seed
        slots = [(peer.target.descriptor, first), (next_peer.descriptor, slot_for(peer))]
        peer.open(PROFILE, header(slots, network.wall_s()), stream=peer.next_stream())
        next_peer.accept()
        next_peer.answer_handshake()
        next_peer.look()
        do(next_peer, 1, value)

    return carry_out


def _next_sends(*make: Callable[[int, Any], bytes]) -> Callable[[HostilePeer, Any], None]:
    return _behind(lambda peer, stream, value: peer.send_cells(*(each(stream, value) for each in make)))


def _of_next(code: ErrorCode) -> Expect:
    return status(code, 2.0, is_about_next=True)


_RELAYED: Final = (
    Rule(
        "relay: content and FIN in a chunk",
        "A FIN after a whole chunk is passed on; inside one: TRUNCATED.",
        _next_sends(lambda n, size: cell(CellType.DATA, n, bytes(size)), lambda n, _: pack_fin(n)),
        status(ErrorCode.TRUNCATED, 10.0),
        range(1, 900),
    ),
    Rule(
        "relay: STATUS before FIN",
        _ROW,
        _next_sends(lambda n, _: cell(CellType.STATUS, n, bytes(_STATUS_BYTES))),
        _of_next(ErrorCode.PROTOCOL),
    ),
    Rule(
        "relay: DATA after FIN",
        _ROW,
        _next_sends(lambda n, _: pack_fin(n), lambda n, _: cell(CellType.DATA, n, b"x")),
        _of_next(ErrorCode.PROTOCOL),
    ),
    Rule(
        "relay: FIN after FIN",
        _ROW,
        _next_sends(lambda n, _: pack_fin(n), lambda n, _: pack_fin(n)),
        _of_next(ErrorCode.PROTOCOL),
    ),
    Rule(
        "relay: STATUS: length",
        "| a STATUS of another length | the hop that it was sent to | BAD_CONTENT + 256 |",
        _next_sends(lambda n, _: pack_fin(n), lambda n, size: cell(CellType.STATUS, n, bytes(size))),
        _of_next(ErrorCode.BAD_CONTENT),
        (*range(1, _STATUS_BYTES), *range(_STATUS_BYTES + 1, 900)),
    ),
    Rule(
        "relay: RESET",
        "| the next node resets, cannot be dialled, or its link dies | the hop before it | that reason + 256",
        _next_sends(lambda n, _: pack_reset(n, ErrorCode.BUSY)),
        _of_next(ErrorCode.BUSY),
    ),
    Rule(
        "relay: link error",
        "a link ends or breaks, or ends with RESET of stream 0",
        _next_sends(lambda n, _: b"\xff" * 8),
        _of_next(ErrorCode.PROTOCOL),
    ),
    Rule(
        "relay: hangs up",
        "the link's death is DISCONNECTED",
        _behind(lambda peer, *_: peer.hang_up()),
        _of_next(ErrorCode.DISCONNECTED),
    ),
    Rule(
        "relay: beyond credit",
        "| content beyond the credit granted | the link |",
        _next_sends(*[lambda n, _: cell(CellType.DATA, n, bytes(1000))] * 5),
        _of_next(ErrorCode.PROTOCOL),
    ),
)

RULES: Final = (
    *_in_mode(ReplyMode.NONE, _NONE),
    *_in_mode(ReplyMode.CACHED, _CACHED),
    *_in_mode(ReplyMode.ROUTE, _ROUTE),
    *_RELAYED,
)
