"""Rules of onion headers: the order of checks, by command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.hostile.frames import DROP, HOME, PROFILE, RELAY, ChunkSealer, RawSlot, header, message
from tests.hostile.peer import HostilePeer
from tests.hostile.rules import Expect, Rule, bits, outside, status, stream
from tests.hostile.rules_handshake import flipped
from tunnel.errors import ErrorCode
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Address

__all__ = ["RULES", "send_frame", "slot_for"]

Do = Callable[[HostilePeer, Any], None]

_HEADER_BYTES: Final = PROFILE.geometry.header_bytes


def slot_for(peer: HostilePeer, **changes: Any) -> RawSlot:
    """A legal slot with some other values."""
    expiry = int(peer.network.wall_s()) + 3600
    return RawSlot(expiry, seed=peer.rng.randbytes(16)).over(**changes)


def send_frame(peer: HostilePeer, slot: RawSlot, content: bytes = b"", *, profile: Profile = PROFILE) -> None:
    """OPEN, a header of one slot for the target, and content."""
    peer.frame_seed = slot.seed
    head = header([(peer.target.descriptor, slot)], peer.network.wall_s(), profile)
    peer.open(profile, head, stream=peer.next_stream())
    peer.send_paced(content)


def _slot(name: str) -> Do:
    """A slot in which one field has the value."""

    def do(peer: HostilePeer, value: Any) -> None:
        send_frame(peer, slot_for(peer, **{name: value}))

    return do


def _expiry(peer: HostilePeer, offset_s: int) -> None:
    send_frame(peer, slot_for(peer, expiry=max(0, min((1 << 32) - 1, int(peer.network.wall_s()) + offset_s))))


def _relay(next_id: Callable[[HostilePeer], bytes]) -> Do:
    def do(peer: HostilePeer, value: Any) -> None:
        send_frame(peer, slot_for(peer, command=RELAY, next_id=next_id(peer)))

    return do


def _too_short(peer: HostilePeer, count: int) -> None:
    """A header that ends with FIN."""
    peer.open(PROFILE, peer.rng.randbytes(count), stream=peer.next_stream())
    peer.send_fin(stream=peer.stream)


def _stuck(peer: HostilePeer, count: int) -> None:
    """A header that never ends."""
    peer.open(PROFILE, peer.rng.randbytes(count), stream=peer.next_stream())


def _changed(peer: HostilePeer, bit: int) -> None:
    head = header([(peer.target.descriptor, slot_for(peer))], peer.network.wall_s())
    peer.open(PROFILE, flipped(head, bit), stream=peer.next_stream())


def _for_another(peer: HostilePeer, value: None) -> None:
    head = header([(peer.network.bob.descriptor, slot_for(peer))], peer.network.wall_s())
    peer.open(PROFILE, head, stream=peer.next_stream())


def _other_epoch(peer: HostilePeer, shift: int) -> None:
    head = header([(peer.target.descriptor, slot_for(peer))], peer.network.wall_s(), epoch_shift=shift)
    peer.open(PROFILE, head, stream=peer.next_stream())


def _other_profile(peer: HostilePeer, byte: int) -> None:
    """A header of one profile behind an OPEN of another, of the same length."""
    head = header([(peer.target.descriptor, slot_for(peer))], peer.network.wall_s())
    peer.open(Profile.from_byte(byte), head, stream=peer.next_stream())


def _replayed(peer: HostilePeer, value: None) -> None:
    head = header([(peer.target.descriptor, slot_for(peer))], peer.network.wall_s())
    peer.open(PROFILE, head, stream=peer.next_stream())
    peer.look()
    peer.open(PROFILE, head, stream=peer.next_stream())


def _replayed_with_another_rest(peer: HostilePeer, value: None) -> None:
    """The same header with another end does not open, and so needs no place in the table."""
    head = header([(peer.target.descriptor, slot_for(peer))], peer.network.wall_s())
    peer.open(PROFILE, head, stream=peer.next_stream())
    peer.look()
    peer.open(PROFILE, head[:-16] + peer.rng.randbytes(16), stream=peer.next_stream())


def _unreachable(peer: HostilePeer) -> bytes:
    """A node of the directory that nobody answers for."""
    listener = peer.network.listen()
    peer.network.unlisten(listener)
    other = peer.network.identity()
    descriptor = other.descriptor((Address(*listener.address),), peer.network.wall_s(), peer.engine)
    peer.network.directory.publish(descriptor)
    return descriptor.node_id


def _cut_relay(peer: HostilePeer, count: int) -> None:
    """A frame over the victim to Bob whose FIN comes inside a chunk."""
    network = peer.network
    first = slot_for(peer, command=RELAY, next_id=network.bob.id)
    peer.frame_seed = first.seed
    slots = [(peer.target.descriptor, first), (network.bob.descriptor, slot_for(peer))]
    head = header(slots, network.wall_s())
    peer.open(PROFILE, head + peer.rng.randbytes(count), stream=peer.next_stream())
    peer.send_fin(stream=peer.stream)


def _home(peer: HostilePeer, value: None) -> None:
    send_frame(peer, slot_for(peer, command=HOME, next_id=peer.rng.randbytes(32)))


def _endless_drop(peer: HostilePeer, chunks: int) -> None:
    slot = slot_for(peer, command=DROP)
    send_frame(peer, slot, peer.rng.randbytes((chunks + 1) * PROFILE.geometry.chunk_bytes))
    peer.frame_seed = b""  # random bytes take the place of its STATUS


def _late_chunks(peer: HostilePeer, value: None) -> None:
    """A header, and then nothing."""
    send_frame(peer, slot_for(peer))


def _second_block(peer: HostilePeer, value: None) -> None:
    """A frame of two whole messages."""
    slot = slot_for(peer)
    sealer = ChunkSealer.forward(slot.seed)
    data = bytes(4) + b"\4echo"
    send_frame(peer, slot, message(sealer, data) + message(sealer, data))


_TABLE: Final[tuple[tuple[str, str, Do, Expect, Any], ...]] = (
    (
        "late header",
        "OPEN and 128·N bytes of content are here within 10 s of the handshake's end",
        _stuck,
        stream(ErrorCode.TIMEOUT, 12.0),
        range(1, _HEADER_BYTES),
    ),
    (
        "FIN in the header",
        "| 4 | no FIN before that | RESET TRUNCATED |",
        _too_short,
        stream(ErrorCode.TRUNCATED),
        range(1, _HEADER_BYTES),
    ),
    (
        "changed header",
        "the first slot opens with one of the node's onion keys",
        _changed,
        stream(ErrorCode.BAD_HEADER),
        bits(0, _HEADER_BYTES),
    ),
    (
        "header for another node",
        "the first slot opens with one of the node's onion keys",
        _for_another,
        stream(ErrorCode.BAD_HEADER),
        (None,),
    ),
    (
        "header of another epoch",
        "the epoch in `info` being the key's",
        _other_epoch,
        stream(ErrorCode.BAD_HEADER),
        (-86_400, -1, 1, 86_400),
    ),
    (
        "header of another profile",
        "‖ version u8 = 1 ‖ profile u8 ‖ epoch u32 ‖",
        _other_profile,
        stream(ErrorCode.BAD_HEADER),
        (17,),
    ),
    (
        "command",
        "| 7 | the command is 1 to 4 | RESET BAD_HEADER |",
        _slot("command"),
        stream(ErrorCode.BAD_HEADER),
        outside(1, 4, 8),
    ),
    (
        "flags",
        "| 8 | flags have no bit but 0, 1 and 2 | RESET BAD_HEADER |",
        _slot("flags"),
        stream(ErrorCode.BAD_HEADER),
        range(8, 256),
    ),
    (
        "delay",
        "| 9 | delay ≤ 3,000 (whatever the command) | RESET BAD_HEADER |",
        _slot("delay_10ms"),
        stream(ErrorCode.BAD_HEADER),
        range(3001, 65_536),
    ),
    (
        "next is the node",
        "RELAY: next id is neither this node nor the neighbour that the stream came from",
        _relay(lambda peer: peer.target.id),
        stream(ErrorCode.UNKNOWN_NEXT),
        (None,),
    ),
    (
        "next is the neighbour",
        "RELAY: next id is neither this node nor the neighbour that the stream came from",
        _relay(lambda peer: peer.id),
        stream(ErrorCode.UNKNOWN_NEXT),
        (None,),
    ),
    (
        "expired",
        "| 11 | expiry ≥ now − 600 | RESET EXPIRED |",
        _expiry,
        stream(ErrorCode.EXPIRED),
        range(-1_000_000, -601),
    ),
    (
        "too far ahead",
        "| 12 | expiry ≤ now + 14,400 + 600 | RESET EXPIRED |",
        _expiry,
        stream(ErrorCode.EXPIRED),
        range(15_002, 2_000_000_000),
    ),
    (
        "replayed",
        "the header is not in the replay table of the onion key that opened it | RESET REPLAYED |",
        _replayed,
        stream(ErrorCode.REPLAYED),
        (None,),
    ),
    (
        "replayed with another end",
        "a slot does not open before another rest",
        _replayed_with_another_rest,
        stream(ErrorCode.BAD_HEADER),
        (None,),
    ),
    (
        "unknown next",
        "| 17 | RELAY: there is a link to the next id, or it is in the directory | RESET UNKNOWN_NEXT |",
        _relay(lambda peer: peer.rng.randbytes(32)),
        status(ErrorCode.UNKNOWN_NEXT),
        (None,),
    ),
    (
        "unreachable next",
        "take a link to the next node, or dial it; the handshake proves its link key | RESET NEXT_REFUSED |",
        _relay(_unreachable),
        status(ErrorCode.NEXT_REFUSED, 15.0, is_about_next=True),
        (None,),
    ),
    (
        "FIN in a chunk",
        "A FIN after a whole chunk is passed on; inside one: TRUNCATED.",
        _cut_relay,
        status(ErrorCode.TRUNCATED),
        (1, 995, 997),
    ),
    (
        "foreign ticket",
        "| 19 | HOME: the ticket is this node's (*Reply block*) | RESET BAD_HEADER |",
        _home,
        status(ErrorCode.BAD_HEADER),
        (None,),
    ),
    (
        "endless DROP",
        "A node reads at most four windows (16 chunks) of a DROP frame, then it is BAD_CONTENT.",
        _endless_drop,
        status(ErrorCode.BAD_CONTENT),
        (16, 20),
    ),
    (
        "silent frame",
        "nothing has moved on the query's stream nor on the reply's",
        _late_chunks,
        status(ErrorCode.TIMEOUT, 460.0),
        (None,),
    ),
    (
        "two messages in a frame",
        "After the chunk marked LAST it reads FIN; a further byte is refused.",
        _second_block,
        status(ErrorCode.BAD_CONTENT),
        (None,),
    ),
)

RULES: Final = tuple(
    Rule(f"header: {name}", sentence, do, expect, values) for name, sentence, do, expect, values in _TABLE
)
