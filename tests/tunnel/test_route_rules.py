"""Rules of every route outside a local network: no two proxies of one owner, guards at the ends."""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tunnel.helpers import ALL_PROFILE_BYTES, NOW_S, OPENSSL, make_keys
from tunnel.codes import clock_text
from tunnel.directory import StaticDirectory
from tunnel.errors import BadRoute, ProfileError
from tunnel.geometry import BULK, DEFAULT, HCTR_SUITE, Profile
from tunnel.identity.descriptor import Address, Descriptor, OnionKeyInfo
from tunnel.identity.keys import EPOCH_S
from tunnel.routing.addresses import LOCAL, PUBLIC, AddressRules
from tunnel.routing.draw_route import RouteProvider, choose_route, is_this_host
from tunnel.routing.guards import Guards
from tunnel.routing.peers import PeerTable
from tunnel.routing.route import Route

ALICE, BOB = b"A" * 32, b"B" * 32
PROFILE = Profile(DEFAULT)


def peer(
    number: int,
    host: str,
    *,
    family: bytes | None = None,
    unlisted: bool = False,
    starts_s: int = int(NOW_S) - 600,
    expiry: int = 2**32 - 1,
) -> Descriptor:
    """A node with one onion key, which serves from `starts_s` for a day."""
    node_id = number.to_bytes(32, "big")
    address = (Address(host, 1),)
    keys = (OnionKeyInfo(starts_s, starts_s + EPOCH_S, b"o" * 32),)
    return Descriptor(
        node_id, b"l" * 32, keys, address, ALL_PROFILE_BYTES, 1, expiry, unlisted, family=family
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

    def __init__(
        self,
        peers: list[Descriptor],
        *,
        rules: AddressRules = PUBLIC,
        seed: int = 0,
        own: Collection[bytes] = (),
        family: bytes | None = None,
    ) -> None:
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
            own=own,
            family=family,
            rng=random.Random(seed),
        )


def spread(count: int) -> list[Descriptor]:
    return [peer(number, f"{50 + number}.1.1.1") for number in range(count)]


@given(st.integers(0, 5), st.integers(0, 2**32))
def test_a_reply_route_for_an_unknown_node_ends_with_a_guard(hops: int, seed: int) -> None:
    """It begins with any node, because its receiver sees that node."""
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
    world.provider.directory.publish(neighbour)
    assert world.provider.route(neighbour.node_id, 2, PROFILE).proxies[0] != usual
    others = [each.node_id for each in peers if each.node_id != usual]
    assert world.provider.route(others[0], 2, PROFILE).proxies[0] == usual


def test_the_error_explains_that_no_guard_is_available() -> None:
    private = [peer(number, f"10.{number}.1.1") for number in range(9)]
    with pytest.raises(BadRoute, match=r"0 guards.* 0 nodes of the directory could be guards") as caught:
        _World(private).provider.route(BOB, 1, PROFILE)
    assert "add peers" in caught.value.hint


def test_failed_peers_return_one_by_one_where_there_are_too_few() -> None:
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


# --- nodes of the same owner, and nodes without a valid key

FAMILY = b"f" * 16
HOUR_S = 3600


@given(st.booleans(), st.booleans(), st.integers(1, 4), st.integers(0, 2**32))
def test_nodes_of_the_same_owner_are_in_no_route(
    is_local: bool, has_neighbour: bool, hops: int, seed: int
) -> None:
    """Neither the given nodes nor the family, in any place: proxies, guards, reply paths."""
    strangers, family = spread(12), [peer(20 + n, f"{80 + n}.1.1.1", family=FAMILY) for n in range(6)]
    given_ids = [strangers[0].node_id, strangers[1].node_id]
    world = _World(
        [*strangers, *family], rules=LOCAL if is_local else PUBLIC, seed=seed, own=given_ids, family=FAMILY
    )
    own = {ALICE, *given_ids, *(each.node_id for each in family)}
    last = strangers[5].node_id if has_neighbour else None
    route = world.provider.route(strangers[11].node_id, hops, PROFILE, last=last)
    back = world.provider.other_route(route, PROFILE)
    for way in (route, back, world.provider.other_route(Route((), ALICE), PROFILE, hops=hops)):
        assert len(way.proxies) == hops
        assert not own & set(way.proxies)
    assert not own & {guard.node_id for guard in world.guards or ()}
    repeated = world.provider.route(strangers[11].node_id, hops, PROFILE, rng=random.Random(seed))
    assert not own & set(repeated.proxies)


def test_nodes_of_the_same_owner_do_not_count_and_the_error_explains_it() -> None:
    peers = [*spread(3), peer(9, "80.1.1.1", family=FAMILY)]
    world = _World(peers, rules=LOCAL, family=FAMILY)
    with pytest.raises(BadRoute, match=r"2 too few.*1 of the same owner as this node") as caught:
        world.provider.route(peers[0].node_id, 4, PROFILE)
    assert (caught.value.hops, caught.value.available) == (4, 2)
    assert "--hops 2" in caught.value.hint
    # It can still be the destination.
    assert world.provider.route(peers[3].node_id, 3, PROFILE).destination == peers[3].node_id


def test_a_given_route_through_the_owners_nodes_is_refused() -> None:
    peers = spread(4)
    world = _World(peers, own=[peers[2].node_id])
    world.provider.check(Route((peers[1].node_id,), peers[2].node_id))
    with pytest.raises(BadRoute, match="is this node itself"):
        world.provider.check(Route((peers[1].node_id, ALICE), BOB))
    with pytest.raises(BadRoute, match="another node of its owner"):
        world.provider.check(Route((peers[2].node_id,), BOB))


def test_a_node_at_an_address_of_this_machine_is_the_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client beside a node has other keys. It recognises the node by the address of this machine."""
    here = peer(3, "53.1.1.1")
    peers = [*spread(3), here, *spread(6)[4:]]

    class Probe(socket.socket):
        def bind(self, address: tuple[str, int]) -> None:  # type: ignore[override]
            if address[0] != "53.1.1.1":
                raise OSError("not an address of this machine")

    monkeypatch.setattr(socket, "socket", Probe)
    is_this_host.cache_clear()
    try:
        world = _World(peers, rules=LOCAL)
        routes = [world.provider.route(peers[0].node_id, 3, PROFILE) for _ in range(30)]
    finally:
        is_this_host.cache_clear()
    assert not any(here.node_id in route.proxies for route in routes)
    assert len({node_id for route in routes for node_id in route.proxies}) == 4


def test_loopback_addresses_do_not_show_a_common_owner() -> None:
    peers = [peer(number, "127.0.0.1") for number in range(4)]
    assert len(_World(peers, rules=LOCAL).provider.route(BOB, 4, PROFILE).proxies) == 4


STALE: dict[str, dict[str, Any]] = {
    "off for three days": {"starts_s": int(NOW_S) - 72 * HOUR_S},
    "its clock is an hour fast": {"starts_s": int(NOW_S) + HOUR_S - 600},
    "its descriptor has expired": {"expiry": int(NOW_S)},
    "its key begins in a second more than ten minutes": {"starts_s": int(NOW_S) + 601},
    "its key has just ended": {"starts_s": int(NOW_S) - 24 * HOUR_S},
}


@pytest.mark.parametrize("rules", [LOCAL, PUBLIC], ids=["local", "public"])
@pytest.mark.parametrize("why", STALE)
def test_a_peer_that_nothing_can_be_sealed_to_is_not_drawn(why: str, rules: AddressRules) -> None:
    stale = peer(9, "80.1.1.1", **STALE[why])
    world = _World([*spread(5), stale], rules=rules)
    for _ in range(30):
        route = world.provider.route(BOB, 2, PROFILE)
        back = world.provider.other_route(route, PROFILE)
        assert stale.node_id not in {*route.proxies, *back.proxies}
    with pytest.raises(BadRoute, match=r"5 that offer.*1 (without an onion key|with an expired)") as caught:
        _World([*spread(5), stale], rules=LOCAL).provider.route(BOB, 6, PROFILE)
    assert caught.value.available == 5


@pytest.mark.parametrize("starts_s", [int(NOW_S) + 600, int(NOW_S) + 1])
def test_a_key_within_the_difference_that_clocks_may_have_serves(starts_s: int) -> None:
    """As at the change of an epoch, for nodes with slightly slow clocks."""
    peers = [peer(number, f"{50 + number}.1.1.1", starts_s=starts_s) for number in range(3)]
    assert len(_World(peers, rules=LOCAL).provider.route(BOB, 3, PROFILE).proxies) == 3
    assert peers[0].hop(NOW_S).epoch == starts_s


def test_where_most_peers_have_no_key_for_now_both_times_are_shown() -> None:
    """Probably the clock of this machine is wrong, or the peer file is old."""
    for ahead_s in (2 * HOUR_S, -26 * HOUR_S, 24 * HOUR_S):
        starts_s = int(NOW_S) + ahead_s
        peers = [peer(number, "50.1.1.1", starts_s=starts_s) for number in range(5)]
        with pytest.raises(BadRoute) as caught:
            _World(peers, rules=LOCAL).provider.route(BOB, 3, PROFILE)
        text = str(caught.value)
        assert f"This machine's clock shows {clock_text(NOW_S)}" in text
        assert f"{clock_text(starts_s)} to {clock_text(starts_s + EPOCH_S)}" in text
        assert caught.value.available == 0
        assert "set this machine's clock" in caught.value.hint


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
