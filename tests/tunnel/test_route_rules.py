"""What holds for every route that a node draws outside a local network: owners apart, guards at the ends."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tunnel.helpers import ALL_PROFILE_BYTES, NOW_S, OPENSSL, make_keys
from tunnel.addresses import LOCAL, PUBLIC, AddressRules
from tunnel.descriptor import Address, Descriptor
from tunnel.directory import StaticDirectory
from tunnel.errors import BadRoute, ProfileError
from tunnel.geometry import BULK, DEFAULT, HCTR_SUITE, Profile
from tunnel.guards import Guards
from tunnel.node.peers import PeerTable
from tunnel.node.route_provider import RouteProvider
from tunnel.route import Route, choose_route

ALICE, BOB = b"A" * 32, b"B" * 32
PROFILE = Profile(DEFAULT)


def peer(number: int, host: str, *, family: bytes | None = None, unlisted: bool = False) -> Descriptor:
    node_id = number.to_bytes(32, "big")
    address = (Address(host, 1),)
    return Descriptor(
        node_id, b"l" * 32, (), address, ALL_PROFILE_BYTES, 1, 2**32 - 1, unlisted, family=family
    )


# Addresses of few networks, so that many share one.
hosts = st.builds(lambda a, b: f"{a}.{b}.1.1", st.integers(40, 46), st.integers(0, 1))
families = st.one_of(st.none(), st.sampled_from([b"f" * 16, b"g" * 16]))
crowds = st.lists(st.tuples(hosts, families, st.booleans()), min_size=1, max_size=16).map(
    lambda rows: [
        peer(number, host, family=family, unlisted=unlisted and number % 3 == 0)
        for number, (host, family, unlisted) in enumerate(rows)
    ]
)


def groups_of(peers: list[Descriptor], ids: tuple[bytes, ...]) -> list[bytes]:
    return [group for each in peers if each.node_id in ids for group in PUBLIC.owners(each)]


@given(crowds, st.integers(0, 5), st.integers(0, 2**32), st.data())
def test_no_two_of_one_owner_whatever_is_drawn(
    peers: list[Descriptor], hops: int, seed: int, data: st.DataObject
) -> None:
    bob = data.draw(st.sampled_from(peers))
    avoid = {each.node_id for each in data.draw(st.lists(st.sampled_from(peers), max_size=2))}
    try:
        route = choose_route(
            peers, origin=ALICE, destination=bob.node_id, hops=hops, profile_byte=PROFILE.byte,
            avoid=avoid, rules=PUBLIC, rng=random.Random(seed),
        )  # fmt: skip
    except BadRoute:
        assert hops > 0
        return
    assert len(set(route.proxies)) == hops == len(route.proxies)
    assert not {ALICE, bob.node_id, *avoid} & set(route.proxies)
    groups = groups_of(peers, route.nodes)
    assert len(groups) == len(set(groups))
    assert not any(each.unlisted for each in peers if each.node_id in route.proxies)


@given(st.integers(1, 8), st.integers(0, 2**32))
def test_one_node_in_each_network_is_found_when_there_are_just_enough(networks: int, seed: int) -> None:
    peers = [
        peer(5 * at + number, f"{50 + at}.1.1.{number}") for at in range(networks) for number in range(5)
    ]
    rng = random.Random(seed)
    route = choose_route(
        peers, origin=ALICE, destination=BOB, hops=networks, profile_byte=2, rules=PUBLIC, rng=rng
    )
    assert len(set(groups_of(peers, route.proxies))) == networks
    with pytest.raises(BadRoute, match=f"1 too few .*{4 * networks} of one network or family"):
        choose_route(
            peers, origin=ALICE, destination=BOB, hops=networks + 1, profile_byte=2, rules=PUBLIC, rng=rng
        )


def test_each_network_alone_is_as_likely_at_every_place() -> None:
    peers = [peer(number, f"{50 + number}.1.1.1") for number in range(10)]
    rng = random.Random(5)
    places = [Counter[bytes]() for _ in range(3)]
    for _ in range(2_000):
        route = choose_route(
            peers, origin=ALICE, destination=BOB, hops=3, profile_byte=2, rules=PUBLIC, rng=rng
        )
        for place, node_id in zip(places, route.proxies, strict=True):
            place[node_id] += 1
    for place in places:
        assert len(place) == 10
        assert all(130 < count < 270 for count in place.values()), "five standard deviations around 200"


@given(st.integers(0, 6), st.sampled_from([None, 3]), st.sampled_from([None, 3, 4]), st.integers(0, 2**32))
def test_the_ends_that_are_asked_for(hops: int, first: int | None, last: int | None, seed: int) -> None:
    peers = [peer(number, f"{50 + number}.1.1.1") for number in range(10)]
    ids = {None: None} | {number: peers[number].node_id for number in range(10)}
    route = choose_route(
        peers, origin=ALICE, destination=BOB, hops=hops, profile_byte=2, first=ids[first], last=ids[last],
        rules=PUBLIC, rng=random.Random(seed),
    )  # fmt: skip
    assert len(set(route.proxies)) == hops
    if hops and last is not None:
        assert route.proxies[-1] == ids[last]
    if first is not None and first != last and hops > (last is not None):
        assert route.proxies[0] == ids[first]
    with pytest.raises(BadRoute, match="begin or end"):
        choose_route(peers, origin=ALICE, destination=BOB, hops=2, profile_byte=2, first=BOB)


# --- the provider


class _World:
    """A provider over fake peers, with a clock and a generator of the test's."""

    def __init__(self, peers: list[Descriptor], *, rules: AddressRules = PUBLIC, seed: int = 0) -> None:
        self.clock = [0.0]
        self.peers = PeerTable(lambda: self.clock[0])
        self.guards = None if rules.is_local else Guards()
        self.provider = RouteProvider(
            StaticDirectory(peers),
            self.peers,
            own_id=ALICE,
            rules=rules,
            guards=self.guards,
            wall_clock=lambda: NOW_S,
            rng=random.Random(seed),
        )


def spread(count: int) -> list[Descriptor]:
    return [peer(number, f"{50 + number}.1.1.1") for number in range(count)]


@given(st.integers(0, 5), st.integers(0, 2**32))
def test_a_way_home_for_somebody_unknown_ends_with_a_guard(hops: int, seed: int) -> None:
    """It begins with any node: whoever gets it sees that one."""
    peers = spread(20)
    world = _World(peers, seed=seed)
    assert world.guards is not None
    home = world.provider.other_route(Route((), ALICE), PROFILE, hops=hops)
    assert home.destination == ALICE
    assert len(set(home.proxies)) == hops
    assert home.proxies[-1:] == tuple(guard.node_id for guard in world.guards)[: min(hops, 1)]
    last = peers[7].node_id
    assert world.provider.other_route(Route((), ALICE), PROFILE, hops=2, last=last).proxies[1] == last


@settings(max_examples=50)
@given(st.integers(1, 5), st.integers(0, 2**32), st.lists(st.integers(0, 14), max_size=5, unique=True))
def test_routes_and_ways_back_have_guards_next_to_alice(hops: int, seed: int, down: list[int]) -> None:
    peers = spread(20)
    world = _World(peers, seed=seed)
    assert world.guards is not None
    for number in down:
        world.peers.failed(peers[number].node_id)
    bob = peers[19].node_id
    route = world.provider.route(bob, hops, PROFILE)
    back = world.provider.other_route(route, PROFILE)
    guards = {guard.node_id for guard in world.guards}
    assert route.proxies[0] in guards
    assert back.proxies[-1] in guards
    assert not set(route.proxies) & set(back.proxies)
    assert back.destination == ALICE
    assert not {peers[number].node_id for number in down} & {*route.proxies, *back.proxies}
    assert world.provider.route(bob, hops, PROFILE).proxies[0] == route.proxies[0]


def test_a_guard_in_bobs_network_is_passed_over_for_him_only() -> None:
    peers = spread(10)
    world = _World(peers)
    usual = world.provider.route(peers[0].node_id, 2, PROFILE).proxies[0]
    neighbour = peer(99, next(each for each in peers if each.node_id == usual).addresses[0].host)
    world.provider._directory.publish(neighbour)
    assert world.provider.route(neighbour.node_id, 2, PROFILE).proxies[0] != usual
    others = [each.node_id for each in peers if each.node_id != usual]
    assert world.provider.route(others[0], 2, PROFILE).proxies[0] == usual


def test_when_no_guard_can_be_had_the_error_says_so() -> None:
    private = [peer(number, f"10.{number}.1.1") for number in range(9)]
    with pytest.raises(BadRoute, match=r"0 guards .*0 nodes of the directory could be guards"):
        _World(private).provider.route(BOB, 1, PROFILE)


def test_those_that_failed_come_back_one_by_one_where_there_are_too_few() -> None:
    peers = spread(6)
    world = _World(peers, rules=LOCAL)
    ids = [each.node_id for each in peers]
    for number, times in enumerate((3, 2, 1)):
        for _ in range(times):
            world.peers.failed(ids[number])
    for _ in range(20):
        assert set(world.provider.route(BOB, 3, PROFILE).proxies) == set(ids[3:])
        assert set(world.provider.route(BOB, 4, PROFILE).proxies) == set(ids[2:])
        assert set(world.provider.route(BOB, 5, PROFILE).proxies) == set(ids[1:])
        assert set(world.provider.route(BOB, 6, PROFILE).proxies) == set(ids)
    with pytest.raises(BadRoute, match="2 to be avoided"):
        world.provider.route(BOB, 5, PROFILE, avoid=ids[:2])
    world.clock[0] = 1000
    assert any(ids[0] in world.provider.route(BOB, 3, PROFILE).proxies for _ in range(50))


@given(st.integers(0, 5), st.integers(0, 4), st.integers(0, 2**32))
def test_the_length_is_drawn_between_its_bounds(hops: int, bias: int, seed: int) -> None:
    provider = _World([], rules=LOCAL, seed=seed).provider
    drawn = {provider.draw_hops(hops, bias) for _ in range(200)}
    assert drawn == set(range(hops, hops + bias + 1))


def test_the_profile_is_the_best_that_all_ways_offer() -> None:
    full = [make_keys(name).descriptor((Address("1.1.1.1", 1),), NOW_S, OPENSSL) for name in "abc"]
    slow = make_keys("slow").descriptor((Address("1.1.1.1", 1),), NOW_S, OPENSSL, profiles=(1, 2, 3, 4))
    odd = make_keys("odd").descriptor((Address("1.1.1.1", 1),), NOW_S, OPENSSL, profiles=())
    provider = _World([*full, slow, odd], rules=LOCAL).provider
    ids = [each.node_id for each in full]
    query = Route((ids[0], ids[1]), ids[2])
    assert provider.profile((query,)) == Profile(DEFAULT, HCTR_SUITE)
    assert provider.profile((query,), 10) == Profile(DEFAULT, HCTR_SUITE), "the reply may be long"
    assert provider.profile((query,), 1 << 20) == Profile(BULK, HCTR_SUITE)
    assert provider.profile((query, Route((slow.node_id,), ALICE))) == Profile(DEFAULT)
    assert provider.profile((Route((b"?" * 32,), ids[2]),)) is None
    with pytest.raises(ProfileError):
        provider.profile((Route((odd.node_id,), ids[2]),))
