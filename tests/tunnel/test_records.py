"""Link records: every size, every change refused, and the change of keys after 2^14 of them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.helpers import ENGINES, OPENSSL, engines, mixed_engine
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode, LinkError
from tunnel.link.noise import rekeyed
from tunnel.link.records import (
    HEAD_BYTES,
    MAX_RECORD_BYTES,
    MAX_UNITS,
    RECORD_OVERHEAD,
    REKEY_AFTER,
    TAG_BYTES,
    UNIT_BYTES,
    RecordOpener,
    RecordSealer,
    record_bytes_for,
    record_bytes_of,
)

KEY = bytes(range(32))


def record_of(units: int, fill: int = 7) -> bytearray:
    return bytearray([fill]) * (units * UNIT_BYTES)


def sealed_by(sealer: RecordSealer, units: int = 1, fill: int = 7) -> bytes:
    record = record_of(units, fill)
    sealer.seal(memoryview(record))
    return bytes(record)


def opened_by(opener: RecordOpener, record: bytes) -> bytes:
    return bytes(opener.open(memoryview(bytearray(record))))


# --- sizes -


@given(st.integers(0, MAX_RECORD_BYTES - RECORD_OVERHEAD))
def test_the_smallest_record_that_holds(cell_bytes: int) -> None:
    size = record_bytes_for(cell_bytes)
    assert size % UNIT_BYTES == 0
    assert size <= MAX_RECORD_BYTES
    assert cell_bytes <= size - RECORD_OVERHEAD < cell_bytes + UNIT_BYTES


@pytest.mark.parametrize("units", range(1, MAX_UNITS + 1))
def test_every_size_there_and_back(units: int) -> None:
    engine = mixed_engine(units)
    record = sealed_by(RecordSealer(KEY, engine), units)
    assert len(record) == units * UNIT_BYTES
    assert record[:HEAD_BYTES] == struct.pack(">HH", units, 0)
    assert record_bytes_of(record[:HEAD_BYTES]) == len(record)
    assert opened_by(RecordOpener(KEY, engine), record) == b"\x07" * (len(record) - RECORD_OVERHEAD)


@pytest.mark.parametrize("first", [0, 64, 65, 0x100, 0xFFFF])
def test_heads_out_of_range(first: int) -> None:
    with pytest.raises(LinkError, match=f"{first:04x}0000") as caught:
        record_bytes_of(struct.pack(">HH", first, 0))
    assert caught.value.code is ErrorCode.PROTOCOL


@given(st.binary(min_size=4, max_size=4))
def test_any_head_is_a_length_or_a_link_error(head: bytes) -> None:
    try:
        size = record_bytes_of(head)
    except LinkError:
        assert head[2:] != b"\0\0" or head[0] or not 1 <= head[1] <= MAX_UNITS
    else:
        assert head == struct.pack(">HH", size // UNIT_BYTES, 0)


# --- opening in place, and refusing -


def test_opening_happens_in_the_callers_buffer() -> None:
    buffer = bytearray(sealed_by(RecordSealer(KEY, OPENSSL), 2))
    cells = RecordOpener(KEY, OPENSSL).open(memoryview(buffer))
    cells[0] = 99
    assert buffer[HEAD_BYTES] == 99
    assert len(cells) == 2 * UNIT_BYTES - RECORD_OVERHEAD


@given(st.integers(0, 8 * (3 * UNIT_BYTES - HEAD_BYTES) - 1), st.sampled_from(ENGINES))
def test_any_flipped_bit_after_the_head(bit: int, engine: TunnelEngine) -> None:
    record = bytearray(sealed_by(RecordSealer(KEY, OPENSSL), 3))
    record[HEAD_BYTES + bit // 8] ^= 1 << bit % 8
    view = memoryview(record)
    with pytest.raises(LinkError):
        RecordOpener(KEY, engine).open(view)
    # Both libraries decrypt before they compare the tag, so the plaintext must be erased.
    assert not any(view[HEAD_BYTES:-TAG_BYTES])


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_the_head_is_bound(engine: TunnelEngine) -> None:
    """A record cut to fewer units, with a matching head, does not open."""
    record = bytearray(sealed_by(RecordSealer(KEY, engine), 3))
    for units in (1, 2):
        shorter = bytearray(record[: units * UNIT_BYTES])
        shorter[:HEAD_BYTES] = struct.pack(">HH", units, 0)
        with pytest.raises(LinkError):
            RecordOpener(KEY, engine).open(memoryview(shorter))


@given(st.permutations(range(5)), engines)
def test_only_the_order_of_sending_opens(order: list[int], engine: TunnelEngine) -> None:
    sealer, opener = RecordSealer(KEY, engine), RecordOpener(KEY, engine)
    records = [sealed_by(sealer, fill=number) for number in range(5)]
    for place, number in enumerate(order):
        if number != place:
            with pytest.raises(LinkError, match=f"record {place} "):
                opened_by(opener, records[number])
            return
        assert opened_by(opener, records[number])[0] == number


def test_repeated_dropped_and_reflected_records() -> None:
    sealer, opener = RecordSealer(KEY, OPENSSL), RecordOpener(KEY, OPENSSL)
    records = [sealed_by(sealer, fill=number) for number in range(3)]
    opened_by(opener, records[0])
    with pytest.raises(LinkError):
        opened_by(opener, records[0])
    with pytest.raises(LinkError):
        opened_by(RecordOpener(KEY, OPENSSL), records[1])
    with pytest.raises(LinkError):
        opened_by(RecordOpener(KEY[::-1], OPENSSL), records[0])


def test_equal_contents_never_look_equal() -> None:
    sealer = RecordSealer(KEY, OPENSSL)
    assert len({sealed_by(sealer)[HEAD_BYTES:] for _ in range(100)}) == 100


@given(st.integers(1, 3).flatmap(lambda units: st.binary(min_size=units * 1024, max_size=units * 1024)))
def test_random_records(data: bytes) -> None:
    with pytest.raises(LinkError):
        opened_by(RecordOpener(KEY, OPENSSL), data)


# --- keys -


def reference(key: bytes, counter: int, units: int, fill: int = 7) -> bytes:
    """A record made by the protocol's text, without the code under test."""
    head = struct.pack(">HH", units, 0)
    plain = bytes([fill]) * (units * UNIT_BYTES - RECORD_OVERHEAD)
    return head + OPENSSL.layers.aead(key).seal(bytes(4) + counter.to_bytes(8, "big"), plain, head)


def test_a_record_is_as_the_protocol_defines_it() -> None:
    sealer = RecordSealer(KEY, OPENSSL)
    assert [sealed_by(sealer, units) for units in (1, 16, 63)] == [
        reference(KEY, counter, units) for counter, units in enumerate((1, 16, 63))
    ]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_the_key_changes_after_2_to_the_14_records(engine: TunnelEngine) -> None:
    """Both ends are placed just before the change (the first, then the second), and pass it.

    A bug sealed and opened the first record after it under the old key: the ends agreed with each other, but
    not with the protocol.
    """
    assert REKEY_AFTER == 16_384
    second = rekeyed(KEY, engine)
    third = rekeyed(second, engine)
    for border, before, after in ((REKEY_AFTER, KEY, second), (2 * REKEY_AFTER, second, third)):
        sealer, opener = RecordSealer(before, engine), RecordOpener(before, engine)
        sealer.counter = opener.counter = border - 2
        keys = {-2: before, -1: before, 0: after, 1: after}
        for offset, key in keys.items():
            record = sealed_by(sealer)
            # The counter continues: no nonce is used twice even if the keys were the same.
            assert record == reference(key, border + offset, 1)
            assert opened_by(opener, record) == b"\x07" * (UNIT_BYTES - RECORD_OVERHEAD)


def test_records_across_the_first_change_of_keys_for_real() -> None:
    sealer, opener = RecordSealer(KEY, OPENSSL), RecordOpener(KEY, OPENSSL)
    record = memoryview(record_of(1))
    for number in range(REKEY_AFTER + 3):
        record[HEAD_BYTES : HEAD_BYTES + 4] = number.to_bytes(4, "big")
        sealer.seal(record)
        assert opener.open(record)[:4] == number.to_bytes(4, "big")
    assert sealer.key == opener.key == rekeyed(KEY, OPENSSL)


def test_an_end_that_did_not_change_its_key_is_refused() -> None:
    sealer, opener = RecordSealer(KEY, OPENSSL), RecordOpener(KEY, OPENSSL)
    opener.counter = REKEY_AFTER
    sealer.counter = REKEY_AFTER
    sealed_by(sealer)
    with pytest.raises(LinkError):
        opened_by(opener, reference(KEY, REKEY_AFTER, 1))
