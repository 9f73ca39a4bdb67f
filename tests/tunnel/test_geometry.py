"""Lengths: each against the formula of the protocol, and PADMÉ against a reference written from the paper."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import ErrorCode, ProfileError
from tunnel.geometry import (
    ALL_PROFILES,
    BULK,
    DEFAULT,
    GEOMETRIES,
    HCTR_SUITE,
    INTERACTIVE,
    LONG,
    MAX_PROFILES,
    SLOT_BYTES,
    STREAM,
    Geometry,
    Profile,
    padme,
)
from tunnel.link.cells import CELL_HEAD_BYTES
from tunnel.link.handshake import Settings
from tunnel.link.records import MAX_UNITS, RECORD_OVERHEAD, UNIT_BYTES, record_bytes_for

# The table of the protocol: geometry, slots, C, header bytes, data of a chunk, record units.
TABLE = [
    (INTERACTIVE, 1, 8, 996, 1_024, 974, 1),
    (DEFAULT, 2, 32, 16_356, 4_096, 16_334, 16),
    (LONG, 3, 128, 16_356, 16_384, 16_334, 16),
    (BULK, 4, 32, 64_484, 4_096, 64_462, 63),
    (STREAM, 5, 15, 8_164, 1_920, 8_142, 8),
]

counts = st.one_of(st.integers(1, 10_000), st.integers(1, 2**60))


@pytest.mark.parametrize(
    ("geometry", "code", "slots", "chunk", "header", "data", "units"),
    TABLE,
    ids=lambda value: str(value)[:20],
)
def test_lengths(
    geometry: Geometry, code: int, slots: int, chunk: int, header: int, data: int, units: int
) -> None:
    assert GEOMETRIES[code] is geometry
    assert geometry.code == code
    assert geometry.slots == slots
    assert geometry.chunk_bytes == chunk == UNIT_BYTES * units - 28
    assert geometry.header_bytes == header == SLOT_BYTES * slots
    assert geometry.chunk_data_bytes == data == chunk - 6 - 16
    assert geometry.reply_block_bytes == 72 + header
    assert geometry.max_proxies == slots - 2


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda geometry: geometry.name)
def test_a_chunk_in_its_cell_fills_exactly_one_record(geometry: Geometry) -> None:
    units = (geometry.chunk_bytes + CELL_HEAD_BYTES + RECORD_OVERHEAD) // UNIT_BYTES
    assert units <= MAX_UNITS
    assert geometry.chunk_bytes + CELL_HEAD_BYTES + RECORD_OVERHEAD == units * UNIT_BYTES
    assert record_bytes_for(CELL_HEAD_BYTES + geometry.chunk_bytes) == units * UNIT_BYTES
    # One byte more would need another unit, so nothing is wasted.
    assert record_bytes_for(CELL_HEAD_BYTES + geometry.chunk_bytes + 1) == (units + 1) * UNIT_BYTES


def test_the_header_of_a_stream_is_the_longest_that_shares_two_units_with_open() -> None:
    """As the header of `interactive` does: the first records of both have one length."""
    open_cell = CELL_HEAD_BYTES + 6
    assert record_bytes_for(open_cell + CELL_HEAD_BYTES + STREAM.header_bytes) == 2 * UNIT_BYTES
    assert record_bytes_for(open_cell + CELL_HEAD_BYTES + INTERACTIVE.header_bytes) == 2 * UNIT_BYTES
    assert record_bytes_for(open_cell + CELL_HEAD_BYTES + STREAM.header_bytes + SLOT_BYTES) == 3 * UNIT_BYTES


def test_geometry_codes_fit_the_low_half_of_a_profile_byte() -> None:
    assert list(GEOMETRIES) == [1, 2, 3, 4, 5]
    assert all(geometry.code == code for code, geometry in GEOMETRIES.items())
    assert len({geometry.name for geometry in GEOMETRIES.values()}) == len(GEOMETRIES)


@pytest.mark.parametrize("value", range(256))
def test_every_profile_byte(value: int) -> None:
    suite, code = divmod(value, 16)
    if code in GEOMETRIES and suite in (0, 1):
        profile = Profile.from_byte(value)
        assert profile.geometry is GEOMETRIES[code]
        assert profile.suite == suite
        assert profile.byte == value
        assert profile in ALL_PROFILES
        return
    with pytest.raises(ProfileError, match=f"0x{value:02x}") as caught:
        Profile.from_byte(value)
    assert caught.value.code is ErrorCode.UNSUPPORTED


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda geometry: geometry.name)
def test_names(geometry: Geometry) -> None:
    assert Profile.from_name(geometry.name) == Profile.from_name(str(geometry.code)) == Profile(geometry)
    assert Profile(geometry).name == geometry.name
    second = Profile(geometry, HCTR_SUITE)
    assert Profile.from_name(f"{geometry.name}-hctr") == Profile.from_name(str(16 + geometry.code)) == second


def test_a_descriptor_and_settings_have_room_for_all_profiles() -> None:
    """Both have 16 places, and this version fills ten."""
    offered = tuple(profile.byte for profile in ALL_PROFILES)
    assert len(set(offered)) == len(ALL_PROFILES) == 10 <= MAX_PROFILES == 16
    assert Settings.unpack(Settings.make(0, offered).pack()).profiles == offered
    full = tuple(range(1, MAX_PROFILES + 1))
    assert Settings.unpack(Settings.make(0, full).pack()).profiles == full


@pytest.mark.parametrize("name", ["", "0", "6", "16", "22", "02", "default-lioness"])
def test_unknown_names_list_those_that_exist(name: str) -> None:
    with pytest.raises(ProfileError, match="interactive") as caught:
        Profile.from_name(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("proxies", "geometry"), [(0, DEFAULT), (30, DEFAULT), (31, LONG), (126, LONG)], ids=str
)
def test_profile_for_a_number_of_proxies(proxies: int, geometry: Geometry) -> None:
    assert Profile.for_proxies(proxies).geometry is geometry


def test_no_profile_holds_127_proxies() -> None:
    with pytest.raises(ProfileError, match="126"):
        Profile.for_proxies(127)


# --- PADMÉ -------------------------------------------------------------------------------------------------


def reference_padme(length: int) -> int:
    """Nikitin et al. 2019, algorithm 1, line by line and with exact arithmetic:

    E ← ⌊log2 L⌋; S ← ⌊log2 E⌋ + 1; z ← E − S; m ← 2^z − 1; L' ← (L + m) AND NOT m.
    """
    e = 0
    while 2 ** (e + 1) <= length:
        e += 1
    s = 0
    while 2 ** (s + 1) <= e:
        s += 1
    s += 1
    z = e - s
    # The smallest multiple of 2^z that is not less than L; z < 1 leaves L alone.
    unit = 2**z if z > 0 else 1
    return math.ceil(Fraction(length, unit)) * unit


def test_small_counts_stay_exact() -> None:
    assert [padme(count) for count in range(1, 9)] == list(range(1, 9))


def test_padme_equals_the_reference_for_all_counts_up_to_20_000() -> None:
    assert all(padme(count) == reference_padme(count) for count in range(2, 20_001))


@given(counts)
def test_padme_equals_the_reference(count: int) -> None:
    assert padme(count) == (reference_padme(count) if count > 1 else count)


@given(counts)
def test_padme_adds_at_most_12_percent_and_is_a_bucket(count: int) -> None:
    padded = padme(count)
    assert count <= padded
    assert Fraction(padded - count, count) <= Fraction(12, 100)
    assert padme(padded) == padded


@given(counts, counts)
def test_padme_keeps_order(left: int, right: int) -> None:
    low, high = sorted((left, right))
    assert padme(low) <= padme(high)


def test_buckets_are_few() -> None:
    # The purpose of padding: far fewer lengths than counts, about log2 of the exponent bits per octave.
    assert len({padme(count) for count in range(1, 1 << 16)}) < 200


# --- frames ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda geometry: geometry.name)
def test_chunk_counts_around_edges(geometry: Geometry) -> None:
    data = geometry.chunk_data_bytes
    assert geometry.chunk_count(0) == geometry.chunk_count(1) == geometry.chunk_count(data) == 1
    assert geometry.chunk_count(data + 1) == geometry.chunk_count(2 * data) == 2
    assert geometry.chunk_count(8 * data) == 8
    assert geometry.chunk_count(8 * data + 1) == geometry.chunk_count(10 * data) == 10


@given(st.sampled_from(list(GEOMETRIES.values())), st.integers(0, 2**40))
def test_frame_bytes(geometry: Geometry, content_bytes: int) -> None:
    count, rest = divmod(geometry.frame_bytes(content_bytes) - geometry.header_bytes, geometry.chunk_bytes)
    assert rest == 0
    assert count == geometry.chunk_count(content_bytes)
    assert count * geometry.chunk_data_bytes >= content_bytes
