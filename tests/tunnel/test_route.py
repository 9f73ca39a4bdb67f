"""Routes: drawn among the permitted nodes, with no node twice, by the system's generator."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.helpers import ALL_PROFILE_BYTES, NOW_S, OPENSSL, PYCRYPTODOME, make_keys
from tunnel.errors import BadRoute, ProfileError
from tunnel.geometry import ALL_PROFILES, BULK, DEFAULT, HCTR_SUITE, Profile
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import offered_profiles
from tunnel.routing.draw_route import choose_route
from tunnel.routing.route import Purpose, Route, best_profile

ALICE, BOB = b"A" * 32, b"B" * 32


def peer(number: int, *, profiles: tuple[int, ...] = (1, 2), unlisted: bool = False) -> Descriptor:
    return Descriptor(number.to_bytes(32, "big"), b"l" * 32, (), (), profiles, 1, 1, unlisted)


def named(node_id: bytes) -> Descriptor:
    return Descriptor(node_id, b"l" * 32, (), (), (1, 2), 1, 1)


PEERS = [peer(number) for number in range(10)] + [named(ALICE), named(BOB)]


def choose(peers: list[Descriptor], hops: int, rng: random.Random | None = None, profile: int = 1) -> Route:
    return choose_route(peers, origin=ALICE, destination=BOB, hops=hops, profile_byte=profile, rng=rng)


@given(st.integers(0, 10), st.one_of(st.none(), st.integers()))
def test_a_route_visits_no_node_twice_and_neither_end(hops: int, seed: int | None) -> None:
    route = choose(PEERS, hops, None if seed is None else random.Random(seed))
    assert len(route.proxies) == hops
    assert len({ALICE, BOB, *route.proxies}) == hops + 2
    assert set(route.proxies) <= {each.node_id for each in PEERS}
    assert route.nodes == (*route.proxies, BOB)


@pytest.mark.parametrize("hops", [-1, 11, 126])
def test_more_hops_than_peers(hops: int) -> None:
    with pytest.raises(BadRoute, match="has 10"):
        choose(PEERS, hops)


def test_unlisted_nodes_and_nodes_without_the_profile_are_skipped() -> None:
    peers = [peer(1), peer(2, unlisted=True), peer(3, profiles=(2,)), peer(4)]
    assert set(choose(peers, 2).proxies) == {peer(1).node_id, peer(4).node_id}
    with pytest.raises(BadRoute):
        choose(peers, 3)
    assert len(choose(peers, 3, profile=2).proxies) == 3
    with pytest.raises(BadRoute, match="profile long"):
        choose(peers, 1, profile=3)


def test_no_hops_need_no_peers() -> None:
    assert choose([], 0) == Route((), BOB)


def test_a_seed_repeats_the_choice_whatever_the_order_of_the_directory() -> None:
    routes = {choose(peers, 5, random.Random(1)).proxies for peers in (PEERS, PEERS[::-1])}
    assert len(routes) == 1


def test_by_default_the_system_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[random.SystemRandom] = []

    class Watched(random.SystemRandom):
        def __init__(self) -> None:
            made.append(self)

    monkeypatch.setattr(random, "SystemRandom", Watched)
    assert len({choose(PEERS, 10).proxies for _ in range(5)}) == 5
    assert len(made) == 5


def test_every_peer_is_as_likely_at_every_place() -> None:
    rng = random.Random(3)
    places = [Counter[bytes]() for _ in range(3)]
    for _ in range(2_000):
        for place, node_id in zip(places, choose(PEERS, 3, rng).proxies, strict=True):
            place[node_id] += 1
    for place in places:
        assert len(place) == 10
        assert all(130 < count < 270 for count in place.values()), "five standard deviations around 200"


# --- reply routes, and profiles


def described(name: str, profiles: tuple[int, ...] = ALL_PROFILE_BYTES) -> Descriptor:
    return make_keys(name).descriptor((Address("127.0.0.1", 1),), NOW_S, OPENSSL, profiles=profiles)


CROWD = [described(str(number)) for number in range(12)]
IDS = [peer.node_id for peer in CROWD]


@given(st.integers(0, 6), st.integers(0, 2**32))
def test_a_neighbour_is_put_last_in_a_reply_route(hops: int, seed: int) -> None:
    """Even an unlisted one without profiles, because the client keeps a link to it."""
    for last in (IDS[5], b"x" * 32):
        route = choose_route(
            CROWD, origin=IDS[1], destination=IDS[0], hops=hops, profile_byte=1, last=last,
            rng=random.Random(seed),
        )  # fmt: skip
        assert len(route.proxies) == hops == len(set(route.proxies))
        assert not {IDS[0], IDS[1]} & set(route.proxies)
        if hops:
            assert route.proxies[-1] == last
            assert last not in route.proxies[:-1]


@given(st.integers(0, 4), st.integers(0, 2**32))
def test_another_route_shares_no_proxy_but_the_neighbour(hops: int, seed: int) -> None:
    rng = random.Random(seed)
    query = Route(tuple(IDS[2:6]), IDS[1])
    for last in (None, IDS[2]):
        back = choose_route(
            CROWD, origin=IDS[1], destination=IDS[0], hops=hops, profile_byte=1, last=last,
            avoid={*query.proxies} - {last}, rng=rng,
        )  # fmt: skip
        assert back.destination == IDS[0]
        assert set(back.proxies) & set(query.proxies) <= {last}
        assert not {IDS[0], IDS[1]} & set(back.proxies)


def test_ways_back_that_cannot_be_chosen() -> None:
    query = Route(tuple(IDS[2:6]), IDS[1])
    with pytest.raises(BadRoute):
        choose_route(CROWD, origin=IDS[1], destination=IDS[0], hops=7, profile_byte=1, avoid=query.proxies)
    for last in (IDS[0], IDS[1]):
        with pytest.raises(BadRoute):
            choose_route(CROWD, origin=IDS[1], destination=IDS[0], hops=2, profile_byte=1, last=last)


SUITE_0 = tuple(profile.byte for profile in ALL_PROFILES if profile.suite == 0)


@pytest.mark.parametrize(
    ("content_bytes", "proxies", "name"),
    [
        (None, 3, "default-hctr"),
        (0, 3, "interactive-hctr"),
        (3_896, 6, "interactive-hctr"),
        (3_897, 6, "default-hctr"),
        (3_896, 7, "stream-hctr"),
        (100, 13, "stream-hctr"),
        (100, 14, "default-hctr"),
        ((1 << 20) - 1, 3, "default-hctr"),
        (1 << 20, 3, "bulk-hctr"),
        (1 << 20, 31, "long-hctr"),
        (None, 126, "long-hctr"),
    ],
)
def test_the_best_profile(content_bytes: int | None, proxies: int, name: str) -> None:
    everyone = CROWD[:4]
    assert best_profile(everyone, content_bytes, proxies).name == name
    # If one node lacks suite 1, for example with pycryptodome alone, the route does not use it.
    slow = [*everyone[:3], described("slow", SUITE_0)]
    assert best_profile(slow, content_bytes, proxies).name == name.removesuffix("-hctr")


@pytest.mark.parametrize(
    ("purpose", "proxies", "name"),
    [
        ("mixed", 3, "default-hctr"),
        ("mixed", 31, "long-hctr"),
        ("interactive", 6, "interactive-hctr"),
        ("interactive", 7, "stream-hctr"),
        ("interactive", 14, "default-hctr"),
        ("bulk", 30, "bulk-hctr"),
        ("bulk", 31, "long-hctr"),
        ("stream", 0, "stream-hctr"),
        ("stream", 13, "stream-hctr"),
        ("stream", 14, "default-hctr"),
        ("stream", 30, "default-hctr"),
        ("stream", 31, "long-hctr"),
    ],
)
def test_the_best_profile_for_a_purpose(purpose: Purpose, proxies: int, name: str) -> None:
    """Whatever the length of the content."""
    for content_bytes in (None, 0, 1 << 30):
        assert best_profile(CROWD[:4], content_bytes, proxies, purpose=purpose).name == name


@pytest.mark.parametrize(
    ("offered", "name"),
    [
        ((2, 5, 18), "stream"),
        ((1, 2, 18), "default-hctr"),
        ((1, 3, 4), "long"),
        ((1, 4), "bulk"),
        ((1,), "interactive"),
    ],
)
def test_a_stream_takes_the_next_best_where_a_node_does_not_offer_its_geometry(
    offered: tuple[int, ...], name: str
) -> None:
    peers = [*CROWD[:3], described("choosy", offered)]
    assert best_profile(peers, purpose="stream").name == name


def test_the_best_profile_is_one_that_all_offer() -> None:
    only_bulk = [described("bulk only", (4, 20)), described("bulk 0", (4,))]
    assert best_profile(only_bulk, 10) == Profile(BULK)
    assert best_profile(CROWD[:3]) == Profile(DEFAULT, HCTR_SUITE)
    with pytest.raises(ProfileError, match="offered by all"):
        best_profile([described("left", (1,)), described("right", (2,))])
    with pytest.raises(ProfileError, match="127"):
        best_profile(CROWD[:2], None, 127)


def test_pycryptodome_does_not_offer_the_suite_that_is_slow_in_it() -> None:
    assert offered_profiles(PYCRYPTODOME) == SUITE_0 == (1, 2, 3, 4, 5)
    assert offered_profiles(OPENSSL) == ALL_PROFILE_BYTES == (1, 2, 3, 4, 5, 17, 18, 19, 20, 21)


def test_routes_and_descriptors_are_shown_by_short_ids() -> None:
    assert repr(Route((b"\x01" * 32, b"\xab" * 32), BOB)) == "<Route through 01010101, abababab to 42424242>"
    assert repr(Route((), BOB)) == "<Route through no proxies to 42424242>"
    assert repr(named(BOB)) == "<Descriptor of node 42424242 at no address>"
    at = Descriptor(BOB, b"l" * 32, (), (Address("::1", 7), Address("10.0.0.1", 8)), (1, 2), 1, 1)
    assert repr(at) == "<Descriptor of node 42424242 at [::1]:7, 10.0.0.1:8>"
