"""Reply blocks and the tickets in their last slot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.errors import raises_code
from tests.tunnel.helpers import (
    ALL_PROFILE_BYTES,
    ENGINES,
    OPENSSL,
    PROFILES,
    SMALL,
    SMALL_HCTR,
    engines,
    seeded_bytes,
)
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode, MalformedMessage, ProfileError
from tunnel.geometry import Profile
from tunnel.onion.header import Command, Hop, OpeningKey, Slot, open_header
from tunnel.onion.key_schedule import reply_end_to_end_seed, reply_hop_seed
from tunnel.onion.reply_block import HomeTicket, ReplyBlock, build_reply_block

EPOCH = 7
HOME_KEY = b"h" * 32
MASTER = b"m" * 16
QUERY_ID = b"query id"
PRIVATES = [bytes([1 + index]) * 32 for index in range(8)]
IDS = [bytes([index]) * 32 for index in range(100, 108)]
EXPIRY = 1_800_003_600

blocks = st.sampled_from(PROFILES).flatmap(
    lambda profile: st.builds(
        ReplyBlock,
        profile=st.just(profile),
        expiry=st.integers(0, 2**32 - 1),
        first_id=st.binary(min_size=32, max_size=32),
        first_address=st.binary(min_size=18, max_size=18),
        end_to_end_seed=st.binary(min_size=16, max_size=16),
        header=st.integers(0, 2**32).map(lambda seed: seeded_bytes(seed)(profile.geometry.header_bytes)),
    )
)


def build(proxies: int, engine: TunnelEngine = OPENSSL, profile: Profile = SMALL) -> ReplyBlock:
    hops = [Hop(engine.x25519_private(private).public, EPOCH) for private in PRIVATES]
    return build_reply_block(
        profile,
        list(zip(IDS, hops[:proxies], strict=False)),
        (IDS[-1], hops[-1]),
        query_id=QUERY_ID,
        master_seed=MASTER,
        home_key=HOME_KEY,
        draw_expiry=lambda: EXPIRY,
        engine=engine,
        random_bytes=seeded_bytes(0),
    )


# --- bytes -------------------------------------------------------------------------------------------------


@given(blocks)
def test_round_trip(block: ReplyBlock) -> None:
    packed = block.pack()
    assert len(packed) == block.profile.geometry.reply_block_bytes
    assert ReplyBlock.unpack(packed) == block


def test_fields_are_where_the_protocol_puts_them() -> None:
    block = ReplyBlock(SMALL, 0x01020304, b"i" * 32, b"a" * 18, b"s" * 16, b"h" * 1024)
    assert block.pack() == b"\x01\x00\x01\x02\x03\x04" + b"i" * 32 + b"a" * 18 + b"s" * 16 + b"h" * 1024


@given(blocks, st.data())
def test_wrong_lengths_are_refused(block: ReplyBlock, data: st.DataObject) -> None:
    packed = block.pack()
    cut = data.draw(st.integers(0, len(packed) - 1))
    for wrong in (packed[:cut], packed + bytes(1), packed + packed):
        with pytest.raises(MalformedMessage) as caught:
            ReplyBlock.unpack(wrong)
        assert caught.value.code is ErrorCode.BAD_CONTENT


@pytest.mark.parametrize("first", range(256))
def test_every_first_byte(first: int) -> None:
    packed = bytes([first]) + build(0).pack()[1:]
    if first in (SMALL.byte, SMALL_HCTR.byte):
        ReplyBlock.unpack(packed)
    elif first in ALL_PROFILE_BYTES:
        with pytest.raises(MalformedMessage):
            ReplyBlock.unpack(packed)
    else:
        with pytest.raises(ProfileError):
            ReplyBlock.unpack(packed)


@pytest.mark.parametrize("flags", [1, 2, 0x80, 0xFF])
def test_unknown_flags_are_refused(flags: int) -> None:
    packed = build(0).pack()
    with pytest.raises(MalformedMessage, match=f"0x{flags:02x}"):
        ReplyBlock.unpack(packed[:1] + bytes([flags]) + packed[2:])


@given(st.binary(max_size=2_000))
def test_random_bytes_are_a_block_or_a_documented_error(data: bytes) -> None:
    try:
        block = ReplyBlock.unpack(data)
    except (MalformedMessage, ProfileError):
        return
    assert block.pack() == data


# --- building ----------------------------------------------------------------------------------------------


@given(st.integers(0, 6), engines)
def test_a_block_leads_home(proxies: int, engine: TunnelEngine) -> None:
    """Each proxy of the reply route learns the next one, and gets the seed that Alice derives again."""
    block = build(proxies, engine)
    assert block.first_id == (IDS[0] if proxies else IDS[-1])
    assert block.end_to_end_seed == reply_end_to_end_seed(MASTER)
    header = block.header
    for index in range(proxies):
        key = OpeningKey(engine.hpke_private(PRIVATES[index]), EPOCH)
        opened = open_header(header, SMALL, [key], engine=engine)
        assert opened.slot.command is Command.RELAY
        assert opened.slot.next_id == (IDS[index + 1] if index + 1 < proxies else IDS[-1])
        assert opened.slot.seed == reply_hop_seed(MASTER, index)
        header = opened.next_header
    key = OpeningKey(engine.hpke_private(PRIVATES[-1]), EPOCH)
    slot = open_header(header, SMALL, [key], engine=engine).slot
    assert slot.command is Command.HOME
    assert slot.seed == MASTER
    assert HomeTicket.unpack(slot, HOME_KEY) == HomeTicket(QUERY_ID, proxies)


def test_all_seeds_of_a_reply_route_differ() -> None:
    derived = {reply_hop_seed(MASTER, index) for index in range(300)} | {
        reply_end_to_end_seed(MASTER),
        MASTER,
    }
    assert len(derived) == 302


def test_a_route_too_long_is_refused() -> None:
    with pytest.raises(ProfileError):
        build(7)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_length_in_every_profile(profile: Profile, engine: TunnelEngine) -> None:
    assert len(build(2, engine, profile).pack()) == profile.geometry.reply_block_bytes


# --- tickets -----------------------------------------------------------------------------------------------


def home_slot(ticket: bytes, seed: bytes = MASTER) -> Slot:
    return Slot(Command.HOME, EXPIRY, seed, next_id=ticket)


@given(st.binary(min_size=8, max_size=8), st.integers(0, 255), st.binary(min_size=16, max_size=16))
def test_ticket_round_trip(query_id: bytes, proxies: int, seed: bytes) -> None:
    ticket = HomeTicket(query_id, proxies)
    packed = ticket.pack(HOME_KEY, seed)
    assert len(packed) == 32
    assert HomeTicket.unpack(home_slot(packed, seed), HOME_KEY) == ticket


def test_every_changed_bit_of_a_ticket_is_refused() -> None:
    packed = HomeTicket(QUERY_ID, 3).pack(HOME_KEY, MASTER)
    for bit in range(256):
        changed = bytearray(packed)
        changed[bit // 8] ^= 1 << bit % 8
        with raises_code(ErrorCode.BAD_HEADER) as caught:
            HomeTicket.unpack(home_slot(bytes(changed)), HOME_KEY)
        assert caught.value.code is ErrorCode.BAD_HEADER


def test_a_ticket_is_bound_to_its_seed_and_its_owner() -> None:
    packed = HomeTicket(QUERY_ID, 3).pack(HOME_KEY, MASTER)
    with raises_code(ErrorCode.BAD_HEADER):
        HomeTicket.unpack(home_slot(packed, b"n" * 16), HOME_KEY)
    with raises_code(ErrorCode.BAD_HEADER):
        HomeTicket.unpack(home_slot(packed), b"g" * 32)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_a_made_up_ticket_is_refused(ticket: bytes, seed: bytes) -> None:
    with raises_code(ErrorCode.BAD_HEADER):
        HomeTicket.unpack(home_slot(ticket, seed), HOME_KEY)
