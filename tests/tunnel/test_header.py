"""The onion header: it opens hop by hop, looks alike on each link, and is refused after any change."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.errors import raises_code
from tests.support.hpke import seal_with_ephemeral
from tests.tunnel.helpers import ENGINES, OPENSSL, PROFILES, SMALL, engines, mixed_engine, seeded_bytes
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode, PeerError, ProfileError, RefusedKey
from tunnel.geometry import BULK, DEFAULT, SLOT_BYTES, Profile
from tunnel.onion.header import Command, Hop, Opened, OpeningKey, Slot, build_header, open_header

EPOCH = 1_799_990_000
EXPIRY = 1_800_007_200
ONION_PRIVATES = [bytes([1 + index % 255, index // 255]) * 16 for index in range(127)]
ONION_HOPS = [Hop(OPENSSL.x25519_private(private).public, EPOCH) for private in ONION_PRIVATES]
LAST_COMMANDS = [Command.DEST, Command.HOME, Command.DROP]

seeds = st.binary(min_size=16, max_size=16)
slots = st.builds(
    Slot,
    command=st.just(Command.RELAY),
    expiry=st.integers(0, 2**32 - 1),
    seed=seeds,
    next_id=st.binary(min_size=32, max_size=32),
    next_address=st.binary(min_size=18, max_size=18),
    flags=st.integers(0, 3),
    delay_10ms=st.integers(0, 2**16 - 1),
)


def opening_keys(engine: TunnelEngine, index: int, epoch: int = EPOCH) -> list[OpeningKey]:
    return [OpeningKey(engine.hpke_private(ONION_PRIVATES[index]), epoch)]


def relay_slots(count: int, source: Callable[[int], bytes]) -> list[Slot]:
    """`count` slots of a plain route; the last is DEST."""
    relays = [Slot(Command.RELAY, EXPIRY, source(16), next_id=source(32)) for _ in range(count - 1)]
    return [*relays, Slot(Command.DEST, EXPIRY, source(16))]


def build(
    profile: Profile, route_slots: Sequence[Slot], engine: TunnelEngine = OPENSSL, seed: int = 0
) -> bytes:
    """Build a header for the first nodes, one for each slot."""
    hops = list(zip(ONION_HOPS, route_slots, strict=False))
    return build_header(profile, hops, engine=engine, random_bytes=seeded_bytes(seed))


def open_all(header: bytes, profile: Profile, count: int, engine: TunnelEngine) -> list[Opened]:
    """Open at each of the first `count` nodes in turn."""
    opened = []
    for index in range(count):
        opened.append(open_header(header, profile, opening_keys(engine, index), engine=engine))
        header = opened[-1].next_header
    return opened


# --- round trip --------------------------------------------------------------------------------------------


@given(st.sampled_from(PROFILES), st.lists(slots, max_size=6), slots, st.sampled_from(LAST_COMMANDS), engines)
def test_each_hop_opens_its_own_slot(
    profile: Profile, relays: list[Slot], last: Slot, command: Command, engine: TunnelEngine
) -> None:
    last_slot = Slot(
        command, last.expiry, last.seed, last.next_id, last.next_address, last.flags, last.delay_10ms
    )
    route_slots = [*relays, last_slot]
    header = build(profile, route_slots, engine)
    lengths = {len(header)}
    for index, slot in enumerate(route_slots):
        opened = open_header(header, profile, opening_keys(engine, index), engine=engine)
        assert opened.slot == slot
        header = opened.next_header
        if slot.command is Command.RELAY:
            lengths.add(len(header))
    assert header == b""
    assert lengths == {profile.geometry.header_bytes}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_longest_route(profile: Profile) -> None:
    count = profile.geometry.max_proxies + 1
    engine = mixed_engine(count) if count < 40 else OPENSSL
    route_slots = relay_slots(count, seeded_bytes(count))
    opened = open_all(build(profile, route_slots, engine), profile, count, engine)
    assert [each.slot for each in opened] == route_slots


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_route_too_long_is_refused(profile: Profile) -> None:
    count = profile.geometry.max_proxies + 2
    hops = [(ONION_HOPS[0], slot) for slot in relay_slots(count, seeded_bytes(0))]
    with pytest.raises(ProfileError, match=str(profile.geometry.max_proxies)):
        build_header(profile, hops, engine=OPENSSL, random_bytes=seeded_bytes(0))


def test_a_route_of_no_node_is_refused() -> None:
    with pytest.raises(ProfileError):
        build_header(SMALL, [], engine=OPENSSL, random_bytes=seeded_bytes(0))


def test_both_engines_build_the_same_bytes_from_the_same_choices() -> None:
    headers = set()
    for engine in ENGINES:
        ephemerals = itertools.count(1)

        def seal(
            public: bytes,
            info: bytes,
            fields: bytes,
            engine: TunnelEngine = engine,
            ephemerals: itertools.count[int] = ephemerals,
        ) -> bytes:
            fixed = next(ephemerals).to_bytes(32, "big")
            return seal_with_ephemeral(engine, public, info, fields, ephemeral=fixed)

        hops = list(zip(ONION_HOPS, relay_slots(4, seeded_bytes(7)), strict=False))
        headers.add(
            build_header(SMALL, hops, engine=engine, random_bytes=seeded_bytes(8), seal_for_tests_only=seal)
        )
    assert len(headers) == 1


# --- changed bytes -----------------------------------------------------------------------------------------


@given(
    st.sampled_from(PROFILES), st.integers(1, 4), st.data(), st.sampled_from(ENGINES), st.integers(0, 2**32)
)
def test_any_changed_bit_is_refused_at_every_hop(
    profile: Profile, count: int, data: st.DataObject, engine: TunnelEngine, seed: int
) -> None:
    """A bit changed on any link: the next node refuses, at any place of the header."""
    header = build(profile, relay_slots(count, seeded_bytes(seed)), seed=seed)
    for index in range(count):
        bit = data.draw(st.integers(0, 8 * len(header) - 1))
        changed = bytearray(header)
        changed[bit // 8] ^= 1 << bit % 8
        keys = opening_keys(engine, index)
        # Also the top bit of `enc`: the exchange ignores it, but HPKE hashes the point as it was sent.
        with raises_code(ErrorCode.BAD_HEADER) as caught:
            open_header(bytes(changed), profile, keys, engine=engine)
        assert caught.value.code is ErrorCode.BAD_HEADER
        header = open_header(header, profile, keys, engine=engine).next_header


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_bit_of_a_small_header_at_every_hop(engine: TunnelEngine) -> None:
    header = build(SMALL, relay_slots(3, seeded_bytes(3)))
    refused = 0
    for index in range(3):
        keys = opening_keys(engine, index)
        for bit in range(8 * len(header)):
            changed = bytearray(header)
            changed[bit // 8] ^= 1 << bit % 8
            with raises_code(ErrorCode.BAD_HEADER):
                open_header(bytes(changed), SMALL, keys, engine=engine)
            refused += 1
        header = open_header(header, SMALL, keys, engine=engine).next_header
    assert refused == 3 * 8 * 1024


@given(st.binary(min_size=1024, max_size=1024), st.sampled_from(ENGINES))
def test_random_bytes_are_refused(header: bytes, engine: TunnelEngine) -> None:
    with raises_code(ErrorCode.BAD_HEADER):
        open_header(header, SMALL, opening_keys(engine, 0), engine=engine)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize(
    "point", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"], ids=range(3)
)
def test_a_slot_with_an_ephemeral_key_of_low_order_is_refused(engine: TunnelEngine, point: bytes) -> None:
    header = build(SMALL, relay_slots(2, seeded_bytes(0)))
    with raises_code(ErrorCode.BAD_HEADER):
        open_header(point + header[32:], SMALL, opening_keys(engine, 0), engine=engine)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 896, 1023, 1025, 4096])
def test_wrong_lengths_are_refused(length: int) -> None:
    header = (build(SMALL, relay_slots(2, seeded_bytes(0))) + bytes(4096))[:length]
    with raises_code(ErrorCode.BAD_HEADER, match=f"{length} bytes"):
        open_header(header, SMALL, opening_keys(OPENSSL, 0), engine=OPENSSL)


def test_slots_that_change_places_are_refused() -> None:
    header = build(SMALL, relay_slots(4, seeded_bytes(0)))
    cut = [header[at : at + SLOT_BYTES] for at in range(0, len(header), SLOT_BYTES)]
    for left, right in itertools.combinations(range(8), 2):
        swapped = list(cut)
        swapped[left], swapped[right] = swapped[right], swapped[left]
        with raises_code(ErrorCode.BAD_HEADER):
            open_header(b"".join(swapped), SMALL, opening_keys(OPENSSL, 0), engine=OPENSSL)


# --- who may open, and when --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_another_node_cannot_open(engine: TunnelEngine) -> None:
    header = build(SMALL, relay_slots(3, seeded_bytes(0)))
    for index in (1, 2, 3):
        with raises_code(ErrorCode.BAD_HEADER, match="another node"):
            open_header(header, SMALL, opening_keys(engine, index), engine=engine)


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1, 0])
def test_the_right_key_of_another_epoch_does_not_open(epoch: int) -> None:
    header = build(SMALL, relay_slots(1, seeded_bytes(0)))
    with raises_code(ErrorCode.BAD_HEADER):
        open_header(header, SMALL, opening_keys(OPENSSL, 0, epoch), engine=OPENSSL)


def test_keys_are_tried_in_turn_and_none_is_refused() -> None:
    header = build(SMALL, relay_slots(1, seeded_bytes(0)))
    wrong = opening_keys(OPENSSL, 1) + opening_keys(OPENSSL, 0, EPOCH + 86_400)
    right = opening_keys(OPENSSL, 0)
    for keys in (right + wrong, wrong[:1] + right + wrong[1:], wrong + right):
        assert open_header(header, SMALL, keys, engine=OPENSSL).slot.command is Command.DEST
    for keys in (wrong, []):
        with raises_code(ErrorCode.BAD_HEADER):
            open_header(header, SMALL, keys, engine=OPENSSL)


def test_another_profile_of_the_same_length_does_not_open() -> None:
    default, bulk = Profile(DEFAULT), Profile(BULK)
    assert default.geometry.header_bytes == bulk.geometry.header_bytes
    header = build(default, relay_slots(2, seeded_bytes(0)))
    for wrong in (bulk, Profile(DEFAULT, suite=1)):
        with raises_code(ErrorCode.BAD_HEADER):
            open_header(header, wrong, opening_keys(OPENSSL, 0), engine=OPENSSL)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize(
    "public", [bytes(32), b"\xff" * 32, b"short"], ids=["low order", "not canonical", "short"]
)
def test_sealing_to_an_impossible_key_is_refused(engine: TunnelEngine, public: bytes) -> None:
    hops = [(Hop(public, EPOCH), slot) for slot in relay_slots(1, seeded_bytes(0))]
    with pytest.raises(RefusedKey):
        build_header(SMALL, hops, engine=engine, random_bytes=seeded_bytes(0))


# --- what a slot may hold ----------------------------------------------------------------------------------


def header_with_fields(change: Callable[[bytes], bytes]) -> bytes:
    """A header for node 0 alone, with fields changed before sealing."""

    def seal(public: bytes, info: bytes, fields: bytes) -> bytes:
        return OPENSSL.hpke_seal(public, info, change(fields))

    return build_header(
        SMALL,
        [(ONION_HOPS[0], Slot(Command.DEST, EXPIRY, bytes(16)))],
        engine=OPENSSL,
        random_bytes=seeded_bytes(0),
        seal_for_tests_only=seal,
    )


@pytest.mark.parametrize("command", [0, *range(5, 256)])
def test_unknown_commands_are_refused(command: int) -> None:
    header = header_with_fields(lambda fields: bytes([command]) + fields[1:])
    with raises_code(ErrorCode.BAD_HEADER, match=f"command is {command},"):
        open_header(header, SMALL, opening_keys(OPENSSL, 0), engine=OPENSSL)


@pytest.mark.parametrize("flags", range(256))
def test_unknown_flags_are_refused(flags: int) -> None:
    header = header_with_fields(lambda fields: fields[:1] + bytes([flags]) + fields[2:])
    if flags <= 7:
        assert open_header(header, SMALL, opening_keys(OPENSSL, 0), engine=OPENSSL).slot.flags == flags
        return
    with raises_code(ErrorCode.BAD_HEADER, match=f"0x{flags:02x}"):
        open_header(header, SMALL, opening_keys(OPENSSL, 0), engine=OPENSSL)


def test_reserved_bytes_are_ignored() -> None:
    header = header_with_fields(lambda fields: fields[:-6] + b"future")
    assert open_header(header, SMALL, opening_keys(OPENSSL, 0), engine=OPENSSL).slot.seed == bytes(16)


def test_fields_are_where_the_protocol_puts_them() -> None:
    slot = Slot(
        Command.HOME,
        0x01020304,
        b"s" * 16,
        next_id=b"i" * 32,
        next_address=b"a" * 18,
        flags=3,
        delay_10ms=0x0506,
    )
    packed = slot.pack()
    assert packed == b"\x03\x03\x05\x06\x01\x02\x03\x04" + b"i" * 32 + b"a" * 18 + b"s" * 16 + bytes(6)
    assert Slot.unpack(packed) == slot


@given(st.binary(min_size=80, max_size=80))
def test_any_80_bytes_are_a_slot_or_a_header_error(data: bytes) -> None:
    try:
        slot = Slot.unpack(data)
    except PeerError as error:
        if error.code is not ErrorCode.BAD_HEADER:
            raise
        assert data[0] not in (1, 2, 3, 4) or data[1] > 3
    else:
        assert slot.pack()[:-6] == data[:-6]


def test_a_local_slot_out_of_range_does_not_wrap_around() -> None:
    with pytest.raises(struct.error):
        Slot(Command.RELAY, EXPIRY, bytes(16), delay_10ms=1 << 16).pack()


# --- what a header looks like ------------------------------------------------------------------------------


@given(st.integers(1, 7), st.integers(0, 2**32))
def test_nothing_of_a_header_is_zero_or_seen_twice(count: int, seed: int) -> None:
    """On every link, in every 16-byte block, for two builds over the same nodes: no zeros (unfilled space),
    no repeats (a keystream used twice, equal padding)."""
    source = seeded_bytes(seed)
    seen: set[bytes] = set()
    total = 0
    for build_number in range(2):
        header = build(SMALL, relay_slots(count, source), seed=seed + build_number)
        for index in range(count):
            blocks = [header[at : at + 16] for at in range(0, len(header), 16)]
            seen.update(blocks)
            total += len(blocks)
            header = open_header(header, SMALL, opening_keys(OPENSSL, index), engine=OPENSSL).next_header
    assert bytes(16) not in seen
    # Between links of one build everything changes too, so a slot is never recognised on another link.
    assert len(seen) == total


def test_padding_of_a_short_route_is_not_recognised_at_the_last_hop() -> None:
    """The last node sees its slot and then noise: the number of set bits in what follows is that of noise,
    whether it was random padding (short route) or filler (long route)."""
    for count in (1, 2, 7):
        ones = bits = 0
        for seed in range(20):
            header = build(SMALL, relay_slots(count, seeded_bytes(seed)), seed=seed)
            for opened in open_all(header, SMALL, count, OPENSSL)[:-1]:
                header = opened.next_header
            ones += int.from_bytes(header[SLOT_BYTES:], "big").bit_count()
            bits += 8 * (len(header) - SLOT_BYTES)
        # Five standard deviations of a fair coin; the seeds are fixed, so the result is stable.
        assert abs(ones - bits / 2) < 5 * (bits / 4) ** 0.5, count
