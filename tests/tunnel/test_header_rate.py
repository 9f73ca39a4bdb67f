"""Token buckets: one per neighbour, with the time as an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.errors import raises_code
from tests.tunnel.exchange import cast_of, send
from tests.tunnel.helpers import NOW_S, SMALL
from tunnel.errors import ErrorCode, PeerError
from tunnel.modes import ReplyMode
from tunnel.onion.codec import OnionCodec
from tunnel.onion.replay import HeaderRate

A, B = b"a" * 32, b"b" * 32


def test_a_burst_and_then_the_rate() -> None:
    rate = HeaderRate(per_s=10, burst=3)
    for _ in range(3):
        rate.take(A, now_s=100.0)
    with raises_code(ErrorCode.BUSY) as caught:
        rate.take(A, now_s=100.05)
    assert caught.value.code is ErrorCode.BUSY
    rate.take(B, now_s=100.05)  # the other neighbour is not affected
    rate.take(A, now_s=100.125)
    with raises_code(ErrorCode.BUSY):
        rate.take(A, now_s=100.125)


def test_refused_headers_cost_no_tokens() -> None:
    rate = HeaderRate(per_s=1, burst=1)
    rate.take(A, now_s=0.0)
    for _ in range(50):
        with raises_code(ErrorCode.BUSY):
            rate.take(A, now_s=0.5)
    rate.take(A, now_s=1.0)


def test_clocks_that_jump() -> None:
    rate = HeaderRate(per_s=1, burst=2)
    for now_s in (1_000.0, 1_000.0):
        rate.take(A, now_s=now_s)
    with raises_code(ErrorCode.BUSY):
        rate.take(A, now_s=10.0)
    rate.take(A, now_s=1e9)
    rate.take(A, now_s=1e9)
    with raises_code(ErrorCode.BUSY):
        rate.take(A, now_s=1e9)
    rate = HeaderRate(per_s=1, burst=5)
    rate.take(A, now_s=1_000.0)
    rate.take(A, now_s=0.0)  # the clock was set back: nothing refilled, nothing lost
    rate.take(A, now_s=1.0)


def test_buckets_are_bounded_and_full_ones_go_first() -> None:
    rate = HeaderRate(per_s=1, burst=2, neighbours=2)
    rate.take(A, now_s=0.0)
    rate.take(B, now_s=0.0)
    with raises_code(ErrorCode.BUSY, match="neighbours"):
        rate.take(b"c", now_s=0.5)
    assert len(rate) == 2
    rate.take(b"c", now_s=1.0)  # the others are full again
    assert len(rate) == 1


@given(
    st.lists(st.tuples(st.sampled_from([A, B]), st.floats(0, 3)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_never_more_than_burst_and_rate_allow(
    calls: list[tuple[bytes, float]], per_s: int, burst: int
) -> None:
    rate, now_s = HeaderRate(per_s=per_s, burst=burst), 0.0
    taken: dict[bytes, int] = {A: 0, B: 0}
    for who, step in calls:
        now_s += step
        try:
            rate.take(who, now_s=now_s)
        except PeerError as error:
            if error.code is not ErrorCode.BUSY:
                raise
            continue
        taken[who] += 1
        assert taken[who] <= burst + now_s * per_s + 1e-6


def test_the_limit_is_checked_before_a_header_is_opened() -> None:
    cast = cast_of(2)
    bob = OnionCodec(
        ring=cast.bob.codec.ring,
        directory=cast.bob.codec.builder.directory,
        header_rate=HeaderRate(per_s=1, burst=1),
    )
    headers = [
        send(cast.alice.codec.query(cast.route, ReplyMode.NONE, SMALL, now_s=NOW_S).frame.layer, b"")[:1_024]
        for _ in range(2)
    ]
    bob.open_frame(headers[0], SMALL, neighbour=cast.alice.id, now_s=NOW_S)
    with raises_code(ErrorCode.BUSY):
        bob.open_frame(headers[1], SMALL, neighbour=cast.alice.id, now_s=NOW_S)
    # It was not recorded, so it opens later.
    bob.open_frame(headers[1], SMALL, neighbour=cast.alice.id, now_s=NOW_S + 1)
