"""Link cells: each type packed and parsed, and any bytes are cells or LinkError."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readwrite_comp.errors import is_same_error
from tests.tunnel.helpers import PROFILES, SMALL, seeded_bytes
from tests.tunnel.mux_helpers import Link, RawPeer, cell
from tunnel.errors import ErrorCode, LinkError, LocalTunnelError
from tunnel.geometry import GEOMETRIES, Profile
from tunnel.link.cells import (
    CELLS,
    MAX_CREDIT,
    MAX_EXCHANGE_BYTES,
    CellType,
    pack_credit,
    pack_fin,
    pack_go_away,
    pack_open,
    pack_peer_exchange,
    pack_ping,
    pack_reset,
    parse_credit,
    parse_open,
    parse_ping,
    parse_reset,
    split_cells,
)
from tunnel.link.records import record_bytes_for

streams = st.integers(1, 2**32 - 1)


def split(plain: bytes) -> list[tuple[int, int, bytes]]:
    return [(kind, stream, bytes(payload)) for kind, stream, payload in split_cells(memoryview(plain))]


def only(plain: bytes) -> tuple[int, int, memoryview]:
    ((kind, stream, payload),) = split_cells(memoryview(plain))
    return kind, stream, payload


@given(streams, st.sampled_from(PROFILES), st.integers(0, MAX_CREDIT // 2))
def test_open(stream: int, profile: Profile, extra: int) -> None:
    kind, number, payload = only(pack_open(stream, profile, extra))
    assert (kind, number, parse_open(payload)) == (CellType.OPEN, stream, (profile.byte, extra))


@given(streams, st.integers(1, MAX_CREDIT))
def test_credit(stream: int, count: int) -> None:
    kind, number, payload = only(pack_credit(stream, count))
    assert (kind, number, parse_credit(payload)) == (CellType.CREDIT, stream, count)


@given(st.integers(0, 2**32 - 1), st.sampled_from(ErrorCode))
def test_reset(stream: int, code: ErrorCode) -> None:
    kind, number, payload = only(pack_reset(stream, code))
    assert (kind, number, parse_reset(payload)) == (CellType.RESET, stream, code)


@given(st.booleans(), st.binary(min_size=7, max_size=7))
def test_ping(is_answer: bool, token: bytes) -> None:
    kind, number, payload = only(pack_ping(token, is_answer=is_answer))
    assert (kind, number, parse_ping(payload)) == (CellType.PING, 0, (is_answer, token))


def test_cells_without_fields() -> None:
    assert split(pack_fin(7)) == [(CellType.FIN, 7, b"")]
    assert split(pack_go_away()) == [(CellType.GOAWAY, 0, b"")]
    assert split(pack_peer_exchange(b"x")) == [(CellType.PEER_EXCHANGE, 0, b"x")]
    for payload in (b"", bytes(MAX_EXCHANGE_BYTES + 1)):
        with pytest.raises(LocalTunnelError):
            pack_peer_exchange(payload)


def test_each_type_has_its_row() -> None:
    assert len(CELLS) == len(CellType)
    assert [rule and rule.name.replace("-", "_") for rule in CELLS[1:]] == [kind.name for kind in CellType][
        1:
    ]


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda geometry: geometry.name)
def test_a_chunk_is_one_record_without_padding(geometry: object) -> None:
    profile = next(profile for profile in PROFILES if profile.geometry is geometry)
    assert record_bytes_for(8 + profile.geometry.chunk_bytes) == 8 + profile.geometry.chunk_bytes + 20


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.binary(max_size=20)), max_size=8))
def test_several_cells_in_one_record(parts: list[tuple[int, int, bytes]]) -> None:
    legal = []
    for kind, stream, payload in parts:
        rule = CELLS[kind]
        assert rule is not None
        if rule.min_bytes <= len(payload) <= rule.max_bytes and (rule.of_stream if stream else rule.of_link):
            legal.append((kind, stream, payload))
    plain = b"".join(cell(kind, stream, payload) for kind, stream, payload in legal)
    assert split(plain) == split(plain + bytes(500)) == legal


# --- hostile bytes ---

anything = st.one_of(
    st.binary(max_size=80),
    st.builds(
        cell,
        st.integers(0, 11),
        st.sampled_from([0, 1, 2, 3, 4, 2**32 - 1]),
        st.one_of(st.binary(max_size=12), st.sampled_from([b"\1\1\0\0\0\0", bytes(8), b"\0\1", bytes(900)])),
        flags=st.sampled_from([0, 0, 0, 1]),
    ),
)


@given(st.lists(anything, max_size=5).map(b"".join))
def test_any_bytes_are_cells_or_a_link_error(plain: bytes) -> None:
    try:
        cells = split(plain)
    except LinkError:
        return
    again = b"".join(cell(kind, stream, payload) for kind, stream, payload in cells)
    assert plain[: len(again)] == again
    assert not plain[len(again) :].strip(b"\0")


@pytest.mark.full
@settings(max_examples=300)
@given(st.lists(st.lists(anything, max_size=4).map(b"".join), max_size=8), st.booleans())
def test_any_records_from_a_peer_with_the_keys(records: list[bytes], is_dialler: bool) -> None:
    """Each cell is applied, or the link ends with LinkError and leaves nothing open."""
    peer = RawPeer.make(is_dialler=is_dialler)
    ours = peer.mux.open(SMALL)
    caught: list[LinkError] = []
    for plain in records:
        try:
            peer.say(plain)
        except LinkError as error:
            caught.append(error)
        for stream in list(peer.mux.table.streams.values()):
            stream.finish()
    if caught:
        assert all(is_same_error(error, peer.mux.error) for error in caught)
        assert not peer.mux.streams
        assert ours.is_ended
    peer.heard()
    held = sum(stream.unread_bytes for stream in peer.mux.table.streams.values())
    if peer.mux.error is None:
        assert peer.mux.budget.used_bytes >= held
    peer.mux.close()
    assert peer.mux.sender.is_idle


@given(st.integers(0, 2**32), st.integers(0, 10**9))
def test_any_changed_bit_on_the_wire_ends_the_link(seed: int, place: int) -> None:
    link = Link.make()
    stream = link.a.open(SMALL)
    stream.write(seeded_bytes(seed)(1_024))
    stream.finish()
    wire = bytearray(link.a.pending)
    place %= 8 * len(wire)
    wire[place // 8] ^= 1 << place % 8
    space = link.b.space()
    space[: len(wire)] = wire
    try:
        link.b.received(len(wire))
    except LinkError:
        assert link.b.error is not None
    else:
        # A record with a larger length is awaited, and does not open when it has arrived.
        assert link.b.has_partial_record
