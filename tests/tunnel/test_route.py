"""Routes: drawn among those who may stand in them, no node twice, and with the system's generator."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tunnel.route
from tunnel.descriptor import Descriptor
from tunnel.errors import BadRoute
from tunnel.route import Route, choose_route

ALICE, BOB = b"A" * 32, b"B" * 32


def peer(number: int, *, profiles: tuple[int, ...] = (1, 2), unlisted: bool = False) -> Descriptor:
    return Descriptor(number.to_bytes(32, "big"), b"l" * 32, (), (), profiles, 1, 1, unlisted)


def named(node_id: bytes) -> Descriptor:
    return Descriptor(node_id, b"l" * 32, (), (), (1, 2), 1, 1)


PEERS = [peer(number) for number in range(10)] + [named(ALICE), named(BOB)]


def choose(peers: list[Descriptor], hops: int, rng: random.Random | None = None, profile: int = 1) -> Route:
    return choose_route(peers, origin=ALICE, destination=BOB, hops=hops, profile_byte=profile, rng=rng)


@given(st.integers(0, 10), st.one_of(st.none(), st.integers()))
def test_a_route_visits_nobody_twice_and_neither_end(hops: int, seed: int | None) -> None:
    route = choose(PEERS, hops, None if seed is None else random.Random(seed))
    assert len(route.proxies) == hops
    assert len({ALICE, BOB, *route.proxies}) == hops + 2
    assert set(route.proxies) <= {each.node_id for each in PEERS}
    assert route.nodes == (*route.proxies, BOB)


@pytest.mark.parametrize("hops", [-1, 11, 126])
def test_more_hops_than_peers(hops: int) -> None:
    with pytest.raises(BadRoute, match="has 10"):
        choose(PEERS, hops)


def test_unlisted_nodes_and_those_without_the_profile_are_passed_over() -> None:
    peers = [peer(1), peer(2, unlisted=True), peer(3, profiles=(2,)), peer(4)]
    assert set(choose(peers, 2).proxies) == {peer(1).node_id, peer(4).node_id}
    with pytest.raises(BadRoute):
        choose(peers, 3)
    assert len(choose(peers, 3, profile=2).proxies) == 3
    with pytest.raises(BadRoute, match="0x03"):
        choose(peers, 1, profile=3)


def test_no_hops_need_no_peers() -> None:
    assert choose([], 0) == Route((), BOB)


def test_a_seed_repeats_the_choice_whatever_the_order_of_the_directory() -> None:
    routes = {choose(peers, 5, random.Random(1)).proxies for peers in (PEERS, PEERS[::-1])}
    assert len(routes) == 1


def test_by_default_the_system_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(tunnel.route._SYSTEM, random.SystemRandom)
    assert len({choose(PEERS, 10).proxies for _ in range(5)}) == 5


def test_every_peer_is_as_likely_at_every_place() -> None:
    rng = random.Random(3)
    places = [Counter[bytes]() for _ in range(3)]
    for _ in range(2_000):
        for place, node_id in zip(places, choose(PEERS, 3, rng).proxies, strict=True):
            place[node_id] += 1
    for place in places:
        assert len(place) == 10
        assert all(130 < count < 270 for count in place.values()), "five standard deviations around 200"
