"""Attack: a hop changes a STATUS so that Alice blames other nodes, blames none, or believes a false report.

The attacker is one or two hops of the route, with their keys. It changes received and sent bytes
at will. Alice must find the truth or suspect the attacker, and never two innocent neighbours.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.helpers import OPENSSL
from tests.tunnel.status_routes import Tamper, carry, keys_of
from tunnel.errors import ErrorCode
from tunnel.geometry import DEFAULT, INTERACTIVE, LONG, Geometry
from tunnel.onion.status import StatusReport, Trail, originate_status, read_status, wrap_status

TRUTH = (ErrorCode.TIMEOUT, "truth")


def flip(bit: int) -> Tamper:
    def tamper(status: bytes) -> bytes:
        changed = bytearray(status)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return tamper


def replace_by(other: bytes) -> Tamper:
    return lambda status: other


def judge(report: StatusReport, origin: int, tamperers: set[int]) -> bool:
    """Whether the attacker hid a part of the truth. Fails the test if an innocent hop is blamed."""
    if report.origin is not None and report.origin not in tamperers:
        assert report.origin == origin
        assert (report.code, report.text) == TRUTH
    if report.suspects:
        assert tamperers & set(report.suspects)
        assert len(report.suspects) <= 2
        assert len(report.suspects) == 1 or report.suspects[1] - report.suspects[0] == 1
    else:
        assert report.origin is not None
    return bool(report.suspects)


def attacked(
    geometry: Geometry,
    hops: int,
    origin: int,
    on_input: dict[int, Tamper],
    on_output: dict[int, Tamper],
) -> StatusReport:
    route = keys_of(hops)
    status = carry(
        route,
        origin,
        geometry,
        code=TRUTH[0],
        text=TRUTH[1],
        on_input=on_input,
        on_output=on_output,
    )[-1]
    return read_status(status, route, geometry=geometry, engine=OPENSSL)


@pytest.mark.parametrize("hops", range(1, 9))
def test_whole_replacement_at_each_place_of_each_route(hops: int) -> None:
    """Every failing hop, with every attacker between it and Alice, before and after wrapping."""
    noise = random.Random(hops).randbytes(432)
    for origin in range(hops):
        for tamperer in range(origin + 1):
            for other in (noise, bytes(432), carry(keys_of(hops, "other"), origin, INTERACTIVE)[-1]):
                report = attacked(INTERACTIVE, hops, origin, {}, {tamperer: replace_by(other)})
                assert judge(report, origin, {tamperer})
                assert report.origin is None
                assert report.suspects == ((tamperer - 1, tamperer) if tamperer else (0,))
                if tamperer < origin:
                    report = attacked(INTERACTIVE, hops, origin, {tamperer: replace_by(other)}, {})
                    assert judge(report, origin, {tamperer})
                    assert report.suspects == (tamperer, tamperer + 1)


@pytest.mark.parametrize(("hops", "origin", "tamperer"), [(1, 0, 0), (3, 2, 1), (8, 7, 3), (8, 2, 1)])
def test_each_byte_flipped(hops: int, origin: int, tamperer: int) -> None:
    kept = 0
    for byte in range(INTERACTIVE.status_bytes):
        report = attacked(INTERACTIVE, hops, origin, {}, {tamperer: flip(8 * byte + byte % 8)})
        changed = judge(report, origin, {tamperer})
        assert changed or byte >= 256  # body and code: always noticed
        kept += not changed
    # No check covers the bytes that are cut off before Alice reads them.
    assert kept < 432 - 256


@given(
    hops=st.integers(1, 8),
    data=st.data(),
    bits=st.lists(st.integers(0, 432 * 8 - 1), min_size=1, max_size=3),
    second_bits=st.lists(st.integers(0, 432 * 8 - 1), max_size=3),
)
def test_any_flips_by_two_hops_that_conspire(
    hops: int, data: st.DataObject, bits: list[int], second_bits: list[int]
) -> None:
    origin = data.draw(st.integers(0, hops - 1))
    first = data.draw(st.integers(0, origin))
    second = data.draw(st.integers(0, origin))

    def all_of(places: list[int]) -> Tamper:
        def tamper(status: bytes) -> bytes:
            for bit in places:
                status = flip(bit)(status)
            return status

        return tamper

    side = data.draw(st.sampled_from(["in", "out"]))
    on_input = {first: all_of(bits)} if side == "in" and first < origin else {}
    on_output = {second: all_of(second_bits)} | ({first: all_of(bits)} if not on_input else {})
    judge(attacked(INTERACTIVE, hops, origin, on_input, on_output), origin, {first, second})


@given(
    hops=st.sampled_from([2, 16, 31]),
    data=st.data(),
    bit=st.integers(0, 2_496 * 8 - 1),
    before=st.booleans(),
)
def test_any_flip_in_the_default_geometry(hops: int, data: st.DataObject, bit: int, before: bool) -> None:
    origin = data.draw(st.sampled_from([1, hops // 2, hops - 1]))
    tamperer = data.draw(st.integers(0, origin - before))
    on_input, on_output = ({tamperer: flip(bit)}, {}) if before else ({}, {tamperer: flip(bit)})
    judge(attacked(DEFAULT, hops, origin, on_input, on_output), origin, {tamperer})


def test_a_status_of_the_same_stream_repeated_from_elsewhere() -> None:
    """A hop sends bytes that left another place: its accomplice's, or its own earlier ones."""
    route = keys_of(6)
    for origin in range(1, 6):
        seen = carry(route, origin, INTERACTIVE, code=TRUTH[0], text=TRUTH[1])
        for tamperer in range(origin):
            for other in seen[:-1]:
                report = attacked(INTERACTIVE, 6, origin, {}, {tamperer: replace_by(other)})
                if other != seen[origin - tamperer]:
                    assert judge(report, origin, {tamperer})


def test_a_hop_that_forges_a_report_is_blamed() -> None:
    """A hop can always report a failure of itself or of the next node, but the report names it."""
    route = keys_of(5)
    for liar in range(4):
        lie = originate_status(
            route[liar], ErrorCode.NEXT_REFUSED, geometry=INTERACTIVE, hold_ms=9, engine=OPENSSL,
            about_next=True, text="it was the next",
        )  # fmt: skip
        report = attacked(INTERACTIVE, 5, 4, {}, {liar: replace_by(lie)})
        assert (report.origin, report.code, report.about_next) == (liar, ErrorCode.NEXT_REFUSED, True)


def test_a_false_trail_under_the_attackers_own_key() -> None:
    """Hop 2 confirms a hop 3 that does not exist: the next check fails, and hop 2 is a suspect."""
    route = keys_of(6)
    rng = random.Random(7)
    for _ in range(20):
        body, trail = rng.randbytes(256), Trail(INTERACTIVE, rng.randbytes(176))
        status = wrap_status(body + bytes(trail), route[2], geometry=INTERACTIVE, hold_ms=3, engine=OPENSSL)
        report = attacked(INTERACTIVE, 6, 5, {}, {2: replace_by(status)})
        assert judge(report, 5, {2})
        assert report.suspects == (2, 3)


def test_the_last_node_that_vouches_for_noise_is_suspected_alone() -> None:
    route = keys_of(4)
    noise = random.Random(1).randbytes(432)
    status = wrap_status(noise, route[3], geometry=INTERACTIVE, hold_ms=1, engine=OPENSSL)
    report = attacked(INTERACTIVE, 4, 3, {}, {3: replace_by(status)})
    assert report.origin is None
    assert report.suspects == (3,)


def test_hold_times_that_others_wrote_cannot_be_changed() -> None:
    """Hop 1 wants hop 3 to look slow: Alice believes no hold time beyond the change."""
    for hop in range(8):
        report = attacked(INTERACTIVE, 6, 5, {1: flip(8 * (256 + 4 * hop))}, {})
        if judge(report, 5, {1}):
            assert report.suspects == (1, 2)
            assert report.hold_ms == (1, 2)
        else:
            assert report.hold_ms == (1, 2, 3, 4, 5, 6)


@given(hops=st.sampled_from([1, 5, 127]), data=st.data(), bit=st.integers(0, 768 * 8 - 1))
def test_without_attribution_a_change_is_noticed_though_not_placed(
    hops: int, data: st.DataObject, bit: int
) -> None:
    origin = data.draw(st.integers(0, hops - 1))
    tamperer = data.draw(st.integers(0, origin))
    report = attacked(LONG, hops, origin, {}, {tamperer: flip(bit)})
    if bit < 8 * 256:
        assert (report.origin, report.suspects, report.hold_ms) == (None, tuple(range(hops)), ())
    else:
        assert (report.origin, report.code, report.text) == (origin, *TRUTH)
