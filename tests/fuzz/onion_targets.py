"""Onion headers and what they lead to: slots, tickets, replay tables, reply blocks, message heads."""

from __future__ import annotations

import struct

from readwrite_comp.primitives import hmac_sha256
from tests.fuzz.target import ENGINE, Input, raised, target
from tests.tunnel.helpers import NOW_S, make_keys
from tunnel.directory import StaticDirectory
from tunnel.errors import ErrorCode, MalformedMessage, PeerError, ProfileError, ReplayFileError, TableFull
from tunnel.geometry import ALL_PROFILES, INTERACTIVE, MAX_BLOCKS_BYTES, SLOT_BYTES, Profile
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, Address
from tunnel.identity.key_ring import KeyRing
from tunnel.onion.codec import OnionCodec
from tunnel.onion.header import HOUR_S, Command, Hop, Slot, build_header
from tunnel.onion.message_head import (
    TICKET_BYTES,
    MessageHead,
    answer_ticket,
    answered_query,
    check_origin,
    claim_origin,
    head_bytes,
)
from tunnel.onion.replay import ReplayTable
from tunnel.onion.reply_block import HomeTicket, ReplyBlock

_PROFILE = Profile(INTERACTIVE)
_KEYS = make_keys("fuzz")
_NODE_ID = _KEYS.node_id(ENGINE)
_FIELD_BYTES = SLOT_BYTES - 48
_NEIGHBOUR = b"neighbour".ljust(32, b"\0")
_SEED = bytes(range(16))
_OTHER = bytes([7]) * 32
_EXPIRY = int(NOW_S) // HOUR_S * HOUR_S + HOUR_S
_MOST_TAGS = 8


def _codec() -> OnionCodec:
    ring = KeyRing(_KEYS, ENGINE, limit=_MOST_TAGS, share=_MOST_TAGS)
    return OnionCodec(ring=ring, directory=StaticDirectory(), random_bytes=bytes)


@target(PeerError, most_bytes=_FIELD_BYTES)
def slot(given: Input) -> None:
    """Fields that are read pack to the same bytes; the last six are reserved."""
    data = given.take(_FIELD_BYTES)
    assert Slot.unpack(data).pack()[:-6] == data[:-6]


def _slot(given: Input) -> Slot:
    return Slot(
        given.one_of(list(Command)),
        given.one_of([_EXPIRY, _EXPIRY + given.number(0, 1 << 16), given.number(0, (1 << 32) - 1)]),
        given.take(16),
        given.one_of([_OTHER, _NODE_ID, _NEIGHBOUR, given.take(32)]),
        flags=given.number(0, 7),
        delay_10ms=given.one_of([0, given.number(0, 65_535)]),
    )


@target(PeerError, most_bytes=1280)
def header(given: Input) -> None:
    """Headers with any slots, changed or not: opened once, and the next one has the same length."""
    codec = _codec()
    profile = given.one_of(ALL_PROFILES)
    hop = codec.ring.own_hop()
    while not given.is_empty:
        hops: list[tuple[Hop, Slot]] = [(hop, _slot(given)) for _ in range(given.number(1, 2))]
        data = build_header(profile, hops, engine=ENGINE, random_bytes=bytes)
        match given.number(0, 3):
            case 0:
                at = given.number(0, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ given.number(0, 255)]) + data[at + 1 :]
            case 1:
                data = given.one_of([given.some(1280), data[: given.number(0, len(data))], data + b"\0"])
        try:
            opened = codec.open_frame(data, profile, neighbour=_NEIGHBOUR, now_s=NOW_S)
        except TableFull:
            assert len(codec.ring.state.current.table) == _MOST_TAGS
            return
        except PeerError:
            continue
        is_relay = opened.slot.command is Command.RELAY
        assert len(opened.next_header) == (profile.geometry.header_bytes if is_relay else 0)
        assert 0 <= opened.delay_s <= 30
        again = raised(PeerError, codec.open_frame, data, profile, neighbour=_OTHER, now_s=NOW_S)
        assert isinstance(again, PeerError)
        assert again.code in (ErrorCode.REPLAYED, ErrorCode.UNKNOWN_NEXT)


@target(PeerError, most_bytes=128)
def home_ticket(given: Input) -> None:
    """A ticket that was made here is taken, and no change of it."""
    made = HomeTicket(given.take(8), given.number(0, 255), given.number(0, 255))
    ticket = bytearray(made.pack(_KEYS.home, _SEED))
    ticket[given.number(0, 31)] ^= given.number(0, 255)
    found = HomeTicket.unpack(Slot(Command.HOME, 0, _SEED, next_id=bytes(ticket)), _KEYS.home)
    assert found == made


@target(MalformedMessage, ProfileError, most_bytes=1280)
def reply_block(given: Input) -> None:
    """A block that is read packs to the same bytes."""
    profile = given.one_of([None, _PROFILE])
    data = given.rest() if profile is None else bytes([profile.byte]) + given.take(1095)
    assert ReplyBlock.unpack(data).pack() == data


@target(MalformedMessage, most_bytes=4096)
def message_head(given: Input) -> None:
    """The same head is found in all pieces of the data, and packs to the same bytes."""
    data = _head(given) if given.flag() else given.rest()
    length, steps = head_bytes(data), 1
    seen = 0
    while seen < min(length, len(data)):
        wanted = head_bytes(data[:seen])
        assert seen < wanted <= max(length, seen + 1)
        seen, steps = wanted, steps + 1
        assert steps < 64, "a head is read in a few steps"
    if length > len(data):
        return
    assert length <= 4 + MAX_BLOCKS_BYTES + 26 + MAX_DESCRIPTOR_BYTES + 64 + TICKET_BYTES
    assert MessageHead.parse(data[:length]).pack() == data[:length]


def _head(given: Input) -> bytes:
    """The beginning of a head with blocks of real lengths."""
    profiles = [given.one_of(ALL_PROFILES) for _ in range(given.number(0, 9))]
    blocks = b"".join(
        (bytes([each.byte, 0]) + given.take(4)).ljust(each.geometry.reply_block_bytes, b"\1")
        for each in profiles
    )
    head = bytes([len(profiles), given.number(0, 31), 0, 0]) + blocks
    if given.flag():
        length = given.number(0, 600)
        head += given.take(TICKET_BYTES) + length.to_bytes(2, "big") + bytes(length + 64)
    return head + given.some(64)


@target(MalformedMessage, most_bytes=768)
def origin(given: Input) -> None:
    """A claim counts for its own query and node only; of a ticket each bit counts."""
    descriptor = _KEYS.descriptor((Address("192.0.2.1", 4000),), NOW_S, ENGINE)
    ticket = answer_ticket(_KEYS.home, given.take(8))
    assert answered_query(_KEYS.home, ticket) == ticket[:8]
    claim = claim_origin(
        descriptor, _KEYS.identity, ticket=ticket, destination=_OTHER, dest_seed=_SEED, engine=ENGINE
    )
    packed = bytearray(claim.pack())
    packed[given.number(0, len(packed) - 1)] ^= given.number(0, 255)
    head = MessageHead.parse(b"\0\1\0\0" + bytes(packed)) if head_bytes(b"\0\1\0\0" + packed) else None
    assert head is not None
    assert head.origin is not None
    destination, seed = given.one_of([_OTHER, _NODE_ID]), given.one_of([_SEED, given.take(16)])
    found = check_origin(head.origin, destination=destination, dest_seed=seed, engine=ENGINE)
    assert (bytes(packed), destination, seed) == (claim.pack(), _OTHER, _SEED)
    assert found.descriptor == descriptor
    assert answered_query(_KEYS.home, found.ticket) == ticket[:8]


@target(ReplayFileError, most_bytes=1024)
def replay_table_file(given: Input) -> None:
    """A table that is read is written as the same bytes, whoever made its MAC."""
    data = given.rest()
    if data[:1] == b"\0":
        body = b"mtunrpl\x01" + data[1:]
        data = body + hmac_sha256(_SEED, b"replay file", body)
    table = ReplayTable.restored(data, _SEED, 0, limit=_MOST_TAGS)
    assert len(table) <= _MOST_TAGS
    assert table.dump(0) == data


@target(TableFull, PeerError, most_bytes=512)
def replay_table(given: Input) -> None:
    """Headers, clocks and neighbours in any order: nothing is accepted twice, and the table stays small."""
    table, accepted, now_s = ReplayTable(_SEED, limit=_MOST_TAGS), set(), NOW_S
    while not given.is_empty:
        now_s += struct.unpack(">h", given.take(2))[0] * 10
        data, expiry = given.take(1), int(NOW_S) + given.number(0, 65_535)
        error = raised(PeerError, table.insert, data, expiry, now_s=now_s, neighbour=data)
        if error is None:
            assert (data, expiry) not in accepted
            accepted.add((data, expiry))
        assert len(table) <= _MOST_TAGS
        assert table.held_by(data) <= len(table)
