"""STATUS: its author, content and hold times; lengths, refusals, both engines, equal work."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp.primitives import hmac_sha256
from tests.tunnel.helpers import ENGINES, OPENSSL, engines
from tests.tunnel.status_routes import carry, keys_of, seeds_of
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode, LocalTunnelError, MalformedMessage
from tunnel.geometry import DEFAULT, GEOMETRIES, INTERACTIVE, LONG, Geometry
from tunnel.onion import status as attribution
from tunnel.onion import status as status_module
from tunnel.onion.key_schedule import Direction, StatusKeys, block_status_keys, end_to_end_key
from tunnel.onion.reports import fits_status_chunk, open_status_chunk, seal_status_chunk
from tunnel.onion.status import (
    MAX_HOLD_MS,
    STATUS_TEXT_BYTES,
    Trail,
    clean_text,
    draw_status_wait_ms,
    originate_status,
    read_status,
    wrap_status,
)

codes = st.sampled_from([None, *ErrorCode])


@pytest.mark.parametrize(
    ("geometry", "length"), [(INTERACTIVE, 432), (DEFAULT, 2_496), (LONG, 768)], ids=lambda v: str(v)
)
def test_lengths(geometry: Geometry, length: int) -> None:
    macs = 4 * geometry.slots * (geometry.slots + 1) // 2 if geometry is not LONG else 0
    assert geometry.status_bytes == 32 + 2 + 2 + 220 + 4 * geometry.slots + macs == length
    for status in carry(keys_of(3), 2, geometry):
        assert len(status) == length


@pytest.mark.parametrize("geometry", [INTERACTIVE, DEFAULT], ids=lambda g: g.name)
def test_every_hop_of_every_length_of_route_is_named(geometry: Geometry) -> None:
    lengths = range(1, geometry.slots + 1) if geometry is INTERACTIVE else (1, 2, 17, 31, 32)
    for hops in lengths:
        route = keys_of(hops)
        for origin in range(hops) if geometry is INTERACTIVE else {0, hops // 2, hops - 1}:
            status = carry(route, origin, geometry, text="why")[-1]
            report = read_status(status, route, geometry=geometry, engine=OPENSSL)
            assert (report.origin, report.code, report.text) == (origin, ErrorCode.TIMEOUT, "why")
            assert report.suspects == ()
            assert report.hold_ms == tuple(range(1, origin + 2))
            assert not report.succeeded


@pytest.mark.parametrize("hops", [1, 2, 64, 126, 127, 128])
def test_the_long_geometry_names_the_origin_too(hops: int) -> None:
    route = keys_of(hops)
    for origin in {0, hops // 2, hops - 1}:
        report = read_status(carry(route, origin, LONG)[-1], route, geometry=LONG, engine=OPENSSL)
        assert (report.origin, report.suspects) == (origin, ())
        assert report.hold_ms == tuple(range(1, origin + 2))


@given(
    engine=engines,
    geometry=st.sampled_from([INTERACTIVE, LONG]),
    hops=st.integers(1, 7),
    data=st.data(),
    code=codes,
    about_next=st.booleans(),
    text=st.text(max_size=300),
)
def test_written_data_is_read_back(
    engine: TunnelEngine,
    geometry: Geometry,
    hops: int,
    data: st.DataObject,
    code: ErrorCode | None,
    about_next: bool,
    text: str,
) -> None:
    origin = data.draw(st.integers(0, hops - 1)) if code is not None else hops - 1
    about_next = about_next and code is not None
    route = keys_of(hops)
    status = carry(route, origin, geometry, code=code, text=text, about_next=about_next, engine=engine)[-1]
    report = read_status(status, route, geometry=geometry, engine=engine)
    assert (report.origin, report.code, report.about_next) == (origin, code, about_next)
    assert report.succeeded == (code is None)
    encoded = clean_text(text).encode("utf-8", "replace")
    assert encoded.startswith(report.text.encode())
    assert len(report.text.encode()) > min(len(encoded), STATUS_TEXT_BYTES) - 4


def test_a_text_is_cut_between_characters_and_cleaned() -> None:
    route = keys_of(1)
    for text, seen in [
        ("x" * 500, "x" * STATUS_TEXT_BYTES),
        ("€" * 100, "€" * 73),  # 3 bytes each, 219 of 220
        ("a\x1b[31m\n\u202eb\x00", "a�[31m��b�"),
        ("", ""),
    ]:
        status = carry(route, 0, INTERACTIVE, text=text)[-1]
        assert read_status(status, route, geometry=INTERACTIVE, engine=OPENSSL).text == seen


def test_a_text_that_another_implementation_did_not_clean_is_cleaned_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    route = keys_of(1)
    with monkeypatch.context() as patched:
        patched.setattr(status_module, "clean_text", lambda text: text)
        status = carry(route, 0, INTERACTIVE, text="\x1b]0;title\x07")[-1]
    assert read_status(status, route, geometry=INTERACTIVE, engine=OPENSSL).text == "�]0;title�"


def written_by_hand(keys: StatusKeys, content: bytes) -> bytes:
    """A STATUS with an authentic body that the code never writes."""
    body = hmac_sha256(keys.mac, content) + content
    trail = Trail(INTERACTIVE)
    trail.push(keys.trail, body, 1)
    status = bytearray(body + bytes(trail))
    OPENSSL.layers.xor_keystream(keys.pad, memoryview(status))
    return bytes(status)


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\xff\x00\x00" + bytes(220),  # unknown code
        b"\x01\x00\x00\x00" + bytes(220),  # success about the next
        b"\x02\x08\x00\x00" + bytes(220),  # unknown high byte
        b"\x00\x01\x00\xdd" + bytes(220),  # length 221
        b"\x00\x01\x00\x01" + b"ab" + bytes(218),  # padding not zero
    ],
)
def test_a_malformed_status_is_the_origins_fault(content: bytes) -> None:
    route = keys_of(1)
    report = read_status(written_by_hand(route[0], content), route, geometry=INTERACTIVE, engine=OPENSSL)
    assert (report.origin, report.code, report.text) == (0, ErrorCode.PROTOCOL, "")


def test_only_the_last_node_can_report_success() -> None:
    route = keys_of(3)
    status = carry(route, 1, INTERACTIVE, code=None, text="all well")[-1]
    report = read_status(status, route, geometry=INTERACTIVE, engine=OPENSSL)
    assert (report.origin, report.code, report.text) == (1, ErrorCode.PROTOCOL, "")
    assert not report.succeeded
    with pytest.raises(LocalTunnelError, match="last node"):
        originate_status(route[0], None, geometry=INTERACTIVE, hold_ms=0, engine=OPENSSL, about_next=True)


@pytest.mark.parametrize("hold_ms", [-1, 0, MAX_HOLD_MS, MAX_HOLD_MS + 1, 2**70])
def test_hold_times_are_capped(hold_ms: int) -> None:
    route = keys_of(1)
    status = originate_status(route[0], ErrorCode.BUSY, geometry=INTERACTIVE, hold_ms=hold_ms, engine=OPENSSL)
    report = read_status(status, route, geometry=INTERACTIVE, engine=OPENSSL)
    assert report.hold_ms == (max(0, min(hold_ms, MAX_HOLD_MS)),)


@pytest.mark.parametrize("length", [0, 431, 433, 2_496])
def test_a_wrong_length_is_refused(length: int) -> None:
    route = keys_of(2)
    with pytest.raises(MalformedMessage, match=f"{length} bytes") as caught:
        read_status(bytes(length), route, geometry=INTERACTIVE, engine=OPENSSL)
    assert caught.value.code is ErrorCode.BAD_CONTENT
    with pytest.raises(MalformedMessage):
        wrap_status(bytes(length), route[0], geometry=INTERACTIVE, hold_ms=0, engine=OPENSSL)


@pytest.mark.parametrize("hops", [0, 9])
def test_a_route_that_the_geometry_cannot_hold_is_refused(hops: int) -> None:
    with pytest.raises(LocalTunnelError, match=f"{hops} nodes"):
        read_status(bytes(432), keys_of(hops), geometry=INTERACTIVE, engine=OPENSSL)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda g: g.name)
def test_both_engines_write_the_same_bytes(geometry: Geometry) -> None:
    route = keys_of(5)
    first, second = (carry(route, 4, geometry, text="same", engine=engine) for engine in ENGINES)
    assert first == second


def test_the_status_of_a_reply_by_block_ends_at_alices_own_keys() -> None:
    """Bob passes it on to Alice unchanged; she reads it with keys from the master seed."""
    route = block_status_keys(b"m" * 16, 3)
    assert route[3] == StatusKeys.derive(b"m" * 16)
    assert len({keys.mac for keys in route} | {keys.trail for keys in route}) == 8
    for origin in range(4):
        code = None if origin == 3 else ErrorCode.UNKNOWN_NEXT
        report = read_status(
            carry(route, origin, DEFAULT, code=code)[-1], route, geometry=DEFAULT, engine=OPENSSL
        )
        assert (report.origin, report.code) == (origin, code)


def test_no_key_has_two_uses() -> None:
    keys = StatusKeys.derive(seeds_of(1)[0])
    assert len({keys.mac, keys.trail, keys.pad}) == 3


def test_reading_costs_the_same_whatever_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: the calls of the primitives and their bytes."""
    counts: Counter[str] = Counter()

    def counting(key: bytes, *parts: Any, real: Any = hmac_sha256) -> Any:
        counts["hmac"] += 1
        counts["hmac bytes"] += sum(len(part) for part in parts)
        return real(key, *parts)

    class Counting:
        def __init__(self, key: bytes, beginning: bytes) -> None:
            self._key, self._beginning = key, beginning

        def digest(self, rest: bytes) -> Any:
            return counting(self._key, self._beginning, rest)

    monkeypatch.setattr(status_module, "hmac_sha256", counting)
    monkeypatch.setattr(attribution, "HmacSha256", Counting)
    route = keys_of(6)
    statuses = [carry(route, origin, INTERACTIVE)[-1] for origin in range(6)]
    statuses += [carry(route, 5, INTERACTIVE, code=None)[-1], bytes(432), b"\xff" * 432]
    costs = set()
    for status in statuses:
        counts.clear()
        read_status(status, route, geometry=INTERACTIVE, engine=OPENSSL)
        costs.add(tuple(sorted(counts.items())))
    assert len(costs) == 1
    assert dict(costs.pop())["hmac"] == 12


@given(st.binary(min_size=8, max_size=8))
def test_the_originators_wait(random: bytes) -> None:
    assert 0 <= draw_status_wait_ms(random) <= 500


def test_the_originators_wait_takes_every_value() -> None:
    assert {draw_status_wait_ms(n.to_bytes(8, "big")) for n in range(501)} == set(range(501))


def test_keys_of_another_route_read_nothing() -> None:
    report = read_status(
        carry(keys_of(3), 2, INTERACTIVE)[-1], keys_of(3, "other"), geometry=INTERACTIVE, engine=OPENSSL
    )
    assert report == replace(report, origin=None, code=None, text="", suspects=(0,), hold_ms=())


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda g: g.name)
@pytest.mark.parametrize("block_geometry", GEOMETRIES.values(), ids=lambda g: g.name)
def test_bob_passes_the_status_of_his_reply_on(geometry: Geometry, block_geometry: Geometry) -> None:
    seed = b"s" * 16
    keys = block_status_keys(b"m" * 16, 2)
    status = carry(keys, 1, block_geometry, code=ErrorCode.DISCONNECTED)[-1]
    if not fits_status_chunk(geometry, block_geometry):
        assert (geometry, block_geometry.status_bytes) == (INTERACTIVE, 2_496)
        with pytest.raises(LocalTunnelError, match="974"):
            seal_status_chunk(status, seed, geometry, OPENSSL)
        return
    chunk, same = (seal_status_chunk(status, seed, geometry, engine) for engine in ENGINES)
    assert chunk == same
    assert len(chunk) == geometry.chunk_bytes
    assert open_status_chunk(chunk, seed, geometry, block_geometry, OPENSSL) == (0, status)
    third = seal_status_chunk(status, seed, geometry, OPENSSL, number=2)
    assert open_status_chunk(third, seed, geometry, block_geometry, OPENSSL, blocks=3) == (2, status)
    with pytest.raises(MalformedMessage, match="not a STATUS"):
        open_status_chunk(third, seed, geometry, block_geometry, OPENSSL, blocks=2)
    report = read_status(status, keys, geometry=block_geometry, engine=OPENSSL)
    assert (report.origin, report.code) == (1, ErrorCode.DISCONNECTED)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 2), (1, 0), (3, 1), (5, 1), (-1, 1)],
    ids=["type", "last", "sub", "length", "pad"],
)
def test_a_stream_that_bob_does_not_write_is_refused(place: int, value: int) -> None:
    seed = b"s" * 16
    aead = OPENSSL.layers.aead(end_to_end_key(seed, Direction.BACKWARD))
    plain = bytearray(aead.open(bytes(12), seal_status_chunk(bytes(432), seed, INTERACTIVE, OPENSSL)))
    plain[place] = value
    with pytest.raises(MalformedMessage, match="not a STATUS"):
        open_status_chunk(aead.seal(bytes(12), plain), seed, INTERACTIVE, INTERACTIVE, OPENSSL)
    with pytest.raises(MalformedMessage, match="does not open"):
        open_status_chunk(bytes(996), seed, INTERACTIVE, INTERACTIVE, OPENSSL)
