"""Cover traffic and delays: drawn as for real queries, and consumed."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.errors import raises_code
from tests.tunnel.exchange import cast_of, receive, send
from tests.tunnel.helpers import NOW_S, SMALL, make_peers, relay_frame, seeded_bytes
from tunnel.errors import BadRoute, ErrorCode
from tunnel.geometry import DEFAULT, HCTR_SUITE, Profile
from tunnel.onion.header import MAX_DELAY_10MS, Command, draw_delay
from tunnel.routing.cover import QuerySample, draw_cover, draw_gap_s
from tunnel.routing.route import Route

PEERS = make_peers(9)
DESCRIPTORS = [peer.descriptor for peer in PEERS]
SAMPLES = [
    QuerySample(SMALL, 3, 1_104),
    QuerySample(SMALL, 2, 5_000),
    QuerySample(Profile(DEFAULT), 4, 90_000),
]


def test_a_drop_frame_is_relayed_and_then_discarded() -> None:
    cast = cast_of(4)
    frame = cast.alice.codec.drop(cast.route, SMALL, now_s=NOW_S)
    wire = send(frame.layer, bytes(3_000))
    relayed = relay_frame(wire, SMALL, cast.way, origin=cast.alice.id)
    assert relayed.opened.slot.command is Command.DROP
    assert {len(link) for link in relayed.links} == {SMALL.geometry.frame_bytes(3_004)}
    assert frame.query_id is None


@pytest.mark.parametrize("hops", [2, 3, 6])
@pytest.mark.parametrize("profile", [SMALL, Profile(DEFAULT, HCTR_SUITE)], ids=lambda profile: profile.name)
def test_a_loop_returns_to_its_sender(hops: int, profile: Profile) -> None:
    alice, *proxies = PEERS[: hops + 1]
    route = Route(tuple(peer.id for peer in proxies), alice.id)
    frame = alice.codec.loop(route, profile, now_s=NOW_S)
    assert frame.first_id == proxies[0].id
    wire = send(frame.layer, bytes(2_000))
    relayed = relay_frame(wire, profile, [*proxies, alice], origin=alice.id)
    assert relayed.opened.slot.command is Command.HOME
    ticket = alice.codec.home_ticket(relayed.opened.slot)
    assert ticket.query_id == frame.query_id
    reader = alice.codec.home_reader(relayed.opened.slot, ticket, profile)
    assert receive(reader, relayed.body) == (bytes(2_000), None)


def test_loops_that_cannot_be() -> None:
    """A single proxy would have to return it to its sender, which every node refuses."""
    alice, proxy, other = PEERS[:3]
    for route in (
        Route((), alice.id),
        Route((proxy.id,), alice.id),
        Route((proxy.id, other.id), other.id),
        Route((proxy.id, proxy.id), alice.id),
        Route((proxy.id, alice.id), alice.id),
    ):
        with pytest.raises(BadRoute):
            alice.codec.loop(route, SMALL, now_s=NOW_S)
    block = alice.codec.builder.reply_block(
        Route((proxy.id,), alice.id),
        SMALL,
        user=None,
        query_id=bytes(8),
        number=0,
        master_seed=bytes(16),
        now_s=NOW_S,
    )
    with raises_code(ErrorCode.UNKNOWN_NEXT):
        proxy.codec.open_frame(block.header, SMALL, neighbour=alice.id, now_s=NOW_S)


def test_cover_is_drawn_as_real_queries_are() -> None:
    rng = random.Random(1)
    plans = [draw_cover(rng, SAMPLES, DESCRIPTORS, origin=PEERS[0].id) for _ in range(600)]
    shapes = Counter((plan.profile, len(plan.route.proxies), plan.content_bytes + 4) for plan in plans)
    assert set(shapes) == {(s.profile, s.proxies, s.message_bytes) for s in SAMPLES}
    assert all(150 < count < 250 for count in shapes.values())
    assert 240 < sum(plan.is_loop for plan in plans) < 360
    for plan in plans:
        assert plan.is_loop == (plan.route.destination == PEERS[0].id)
        assert PEERS[0].id not in plan.route.proxies
        assert len(set(plan.route.nodes)) == len(plan.route.nodes)
    used = Counter(node for plan in plans for node in plan.route.proxies)
    assert set(used) == {peer.id for peer in PEERS[1:]}, "any node may be a proxy"


def test_short_samples_become_drops_only() -> None:
    rng = random.Random(2)
    for proxies in (0, 1):
        plan = draw_cover(
            rng, [QuerySample(SMALL, proxies, 0)], DESCRIPTORS, origin=PEERS[0].id, loop_share=1
        )
        assert not plan.is_loop
        assert plan.content_bytes == 0


def test_cover_that_cannot_be_drawn() -> None:
    rng = random.Random(3)
    for samples, peers in (([], DESCRIPTORS), (SAMPLES, DESCRIPTORS[:1]), (SAMPLES, [])):
        with pytest.raises(BadRoute):
            draw_cover(rng, samples, peers, origin=PEERS[0].id)


def test_gaps_are_exponential() -> None:
    rng = random.Random(4)
    gaps = [draw_gap_s(rng, 2.0) for _ in range(20_000)]
    assert abs(sum(gaps) / len(gaps) - 2.0) < 0.1
    assert abs(sum(gap > 2.0 for gap in gaps) / len(gaps) - 0.368) < 0.02


# --- delays


def test_no_mean_no_delay_and_nothing_drawn() -> None:
    def never(length: int) -> bytes:
        raise AssertionError("plan")

    assert draw_delay(0.0, never) == 0


def test_delays_have_the_mean_and_the_shape() -> None:
    source = seeded_bytes(5)
    delays = [draw_delay(1.5, source) for _ in range(20_000)]
    assert abs(sum(delays) / len(delays) - 150) < 5
    assert abs(sum(delay > 150 for delay in delays) / len(delays) - 0.368) < 0.02


@given(st.binary(min_size=8, max_size=8), st.floats(0.001, 10_000))
def test_every_delay_is_legal(drawn: bytes, mean_s: float) -> None:
    assert 0 <= draw_delay(mean_s, lambda length: drawn[:length]) <= MAX_DELAY_10MS


@pytest.mark.parametrize("is_loop", [False, True])
def test_delays_reach_the_proxies_only(is_loop: bool) -> None:
    cast = cast_of(5)
    if is_loop:
        route, way = Route(cast.route.proxies, cast.alice.id), [*cast.proxies, cast.alice]
        frame = cast.alice.codec.loop(route, SMALL, now_s=NOW_S, mean_delay_s=100.0)
    else:
        way = cast.way
        frame = cast.alice.codec.drop(cast.route, SMALL, now_s=NOW_S, mean_delay_s=100.0)
    relayed = relay_frame(send(frame.layer, b""), SMALL, way, origin=cast.alice.id)
    delays = [opened.delay_s for opened in relayed.proxied]
    assert max(delays) > 0
    assert all(0 <= delay <= 30 for delay in delays)
    assert relayed.opened.delay_s == 0
