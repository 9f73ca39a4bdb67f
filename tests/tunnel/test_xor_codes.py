"""XOR codes, the original's error channel: its test cases, every place, every change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.helpers import seeded_bytes
from tests.tunnel.status_routes import seeds_of
from tunnel.errors import LocalTunnelError, MalformedMessage
from tunnel.geometry import DEFAULT, GEOMETRIES, INTERACTIVE, Geometry
from tunnel.onion.reports import (
    XorReport,
    add_xor_code,
    raise_xor_code,
    random_status,
    read_xor_code,
    xor_code,
)


def carried(seeds: list[bytes], origin: int, geometry: Geometry, *, success: bool = False) -> list[bytes]:
    draw = seeded_bytes(origin)
    status = raise_xor_code(seeds[origin], geometry, draw, success=success)
    seen = [status]
    for seed in reversed(seeds[:origin]):
        status = add_xor_code(status, seed, geometry, draw)
        seen.append(status)
    return seen


@pytest.mark.parametrize(
    ("name", "peers", "raised_at"), [("reptunnel_2_c_err", 3, 1), ("reptunnel_3_c_err", 6, 4)]
)
def test_the_originals_cases(name: str, peers: int, raised_at: int) -> None:
    """There, places are counted from Alice = 0; here, from the first hop = 0."""
    seeds = seeds_of(peers - 1, name)
    seen = carried(seeds, raised_at - 1, DEFAULT)
    assert len(seen) - 1 == raised_at - 1  # hops that pass it on
    report = read_xor_code(seen[-1], seeds)
    assert report == XorReport(raised_at - 1, succeeded=False)


@pytest.mark.parametrize("hops", [1, 2, 3, 6, 24, 127])
def test_every_place_of_a_route(hops: int) -> None:
    seeds = seeds_of(hops)
    for origin in range(hops):
        assert read_xor_code(carried(seeds, origin, INTERACTIVE)[-1], seeds) == XorReport(origin, False)
    done = carried(seeds, hops - 1, INTERACTIVE, success=True)[-1]
    assert read_xor_code(done, seeds) == XorReport(hops - 1, succeeded=True)


@given(
    hops=st.integers(1, 7), success=st.booleans(), changes=st.binary(min_size=8, max_size=8), data=st.data()
)
def test_a_change_leaves_no_place(hops: int, success: bool, changes: bytes, data: st.DataObject) -> None:
    seeds = seeds_of(hops)
    origin = hops - 1 if success else data.draw(st.integers(0, hops - 1))
    status = carried(seeds, origin, INTERACTIVE, success=success)[-1]
    changed = bytes(a ^ b for a, b in zip(status, changes, strict=False)) + status[8:]
    expected = XorReport(None, False) if any(changes) else XorReport(origin, success)
    assert read_xor_code(changed, seeds) == expected


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda g: g.name)
def test_all_kinds_have_the_length_of_a_status(geometry: Geometry) -> None:
    frames = [*carried(seeds_of(3), 2, geometry), random_status(geometry, seeded_bytes(1))]
    assert {len(frame) for frame in frames} == {geometry.status_bytes}


def test_no_two_hops_see_the_same_bytes() -> None:
    first, second, third = carried(seeds_of(3), 2, INTERACTIVE)
    for left, right in [(first, second), (second, third), (first, third)]:
        assert not any(left[i : i + 4] == right[i : i + 4] for i in range(0, 432, 4))


def test_codes_of_failure_and_success_differ() -> None:
    seeds = seeds_of(50)
    assert len({xor_code(seed, success=s) for seed in seeds for s in (False, True)}) == 100


def test_refusals() -> None:
    with pytest.raises(LocalTunnelError, match="no hops"):
        read_xor_code(bytes(8), [])
    with pytest.raises(MalformedMessage, match="7 bytes"):
        read_xor_code(bytes(7), seeds_of(1))
    with pytest.raises(MalformedMessage, match="433"):
        add_xor_code(bytes(433), seeds_of(1)[0], INTERACTIVE, seeded_bytes(1))
