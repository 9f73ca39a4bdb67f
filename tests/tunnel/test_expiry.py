"""Expiries: drawn by their rule, and checked exactly at its limits."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp.primitives import random_bytes
from tests.support.errors import raises_code
from tests.tunnel.helpers import seeded_bytes
from tunnel.errors import ErrorCode
from tunnel.onion.header import check_expiry, draw_expiry

HOUR = 3_600
times = st.floats(1e9, 4e9)


@given(times, st.binary(min_size=8, max_size=8))
def test_a_drawn_expiry_is_a_whole_hour_one_to_four_hours_ahead(now_s: float, choice: bytes) -> None:
    expiry = draw_expiry(now_s, lambda count: choice[:count])
    assert expiry % HOUR == 0
    assert HOUR <= expiry - int(now_s) < 4 * HOUR


@given(times, st.floats(-600, 600), st.floats(0, 3_500))
def test_a_drawn_expiry_passes_at_any_honest_clock(now_s: float, skew_s: float, way_s: float) -> None:
    check_expiry(draw_expiry(now_s, random_bytes), now_s + skew_s + way_s)


@pytest.mark.parametrize("choice", [b"\x00" * 8, b"\xff" * 8, (7_200).to_bytes(8, "big")])
@pytest.mark.parametrize(
    "now_s", [7_200_000_000.0 / 4, 1_800_000_000.0, 1_799_999_999.999, 1_800_000_000.001]
)
def test_the_extremes_of_a_draw_pass_its_own_check(now_s: float, choice: bytes) -> None:
    expiry = draw_expiry(now_s, lambda count: choice)
    assert expiry % HOUR == 0
    check_expiry(expiry, now_s)
    check_expiry(expiry, now_s - 600)
    check_expiry(expiry, int(now_s) + HOUR + 600)


@pytest.mark.parametrize(
    ("offset_s", "is_accepted"),
    [
        (-601, False),
        (-600, True),
        (0, True),
        (4 * HOUR + 600, True),
        (4 * HOUR + 601, False),
        (-(10**9), False),
        (2**32 - 1_800_000_000 - 1, False),
    ],
)
def test_edges_of_the_check(offset_s: int, is_accepted: bool) -> None:
    now_s = 1_800_000_000
    if is_accepted:
        check_expiry(now_s + offset_s, now_s)
        return
    with raises_code(ErrorCode.EXPIRED) as caught:
        check_expiry(now_s + offset_s, now_s)
    assert caught.value.code is ErrorCode.EXPIRED


def test_draws_spread_over_their_hours() -> None:
    """From the middle of an hour, a quarter, a half and a quarter of the draws are in hours 2, 3 and 4."""
    source, now_s = seeded_bytes(1), 1_800_000_000 + HOUR // 2
    assert 1_800_000_000 % HOUR == 0
    hours = Counter((draw_expiry(now_s, source) - 1_800_000_000) // HOUR for _ in range(4_000))
    assert set(hours) == {2, 3, 4}
    for hour, share in ((2, 0.25), (3, 0.5), (4, 0.25)):
        # Five standard deviations, with a fixed seed.
        assert abs(hours[hour] - 4_000 * share) < 5 * (4_000 * share * (1 - share)) ** 0.5
