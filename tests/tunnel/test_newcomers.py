"""Places before the handshake: which connections lose theirs, and which must solve a puzzle. Times and draws
are arguments."""

from __future__ import annotations

import random

import pytest

from tunnel.link.handshake import MAX_BITS
from tunnel.link.newcomers import CALM_PER_S, Newcomer, Newcomers
from tunnel.routing.addresses import LOCAL, PUBLIC, host_group

FLOOD, HONEST = "9.9.9.9", "8.8.4.4"
LIMIT = 128


def come(places: Newcomers, host: str = FLOOD) -> tuple[Newcomer, Newcomer | None]:
    newcomer = Newcomer(host_group(host), PUBLIC.network(host), lambda: None)
    return newcomer, places.add(newcomer)


def full_of(hosts: list[str], *, has_spoken: bool = False) -> Newcomers:
    places = Newcomers(LIMIT, rng=random.Random(1))
    for number in range(LIMIT):
        come(places, hosts[number % len(hosts)])[0].has_spoken = has_spoken
    return places


@pytest.mark.parametrize("has_spoken", [False, True], ids=["silent", "with a first message"])
def test_a_crowd_of_one_network_never_displaces_another(has_spoken: bool) -> None:
    """Hosts of one /16 and of one /32 count together: their owner has them all."""
    of_one_16 = [f"9.9.{n}.{n}" for n in range(200)]
    of_one_32 = [f"2a00:1:{n:x}::{n:x}" for n in range(200)]
    for crowd in ([FLOOD], of_one_16, of_one_32):
        places = full_of(crowd, has_spoken=has_spoken)
        honest, _ = come(places, HONEST)
        honest.has_spoken = has_spoken
        for number in range(1_000):
            newcomer, _ = come(places, crowd[number % len(crowd)])
            newcomer.has_spoken = has_spoken
        assert honest in places
        assert len(places) == LIMIT


def test_connections_with_a_first_message_outlast_silent_connections() -> None:
    places = full_of([FLOOD])
    honest, _ = come(places)  # from the flooding host itself
    honest.has_spoken = True
    for number in range(1_000):
        come(places, f"{number % 200 + 1}.1.1.1")
    assert honest in places


@pytest.mark.parametrize("per_round_trip", [10, 30, 60])
def test_a_flood_from_everywhere_leaves_the_time_of_a_round_trip(per_round_trip: int) -> None:
    """A connection for each network, which no count by source can tell from an honest crowd."""
    places, draw = full_of([f"{n + 1}.1.1.1" for n in range(LIMIT)]), random.Random(2)
    for _ in range(50):
        honest, _ = come(places, HONEST)
        for _ in range(per_round_trip):
            come(places, f"{draw.randrange(1, 200)}.{draw.randrange(256)}.1.1")
        assert honest in places
        places.remove(honest)


@pytest.mark.parametrize("crowd_has_spoken", [False, True])
@pytest.mark.parametrize("others_have_spoken", [False, True])
def test_neither_kind_crowds_out_the_other(crowd_has_spoken: bool, others_have_spoken: bool) -> None:
    """A crowd of one kind, of all networks, and a few newcomers of either kind in each round trip."""
    for message in (False, True):
        places = full_of([f"{n + 1}.1.1.1" for n in range(LIMIT)], has_spoken=crowd_has_spoken)
        honest, _ = come(places, HONEST)
        for is_second_trip in (False, message):
            honest.has_spoken = is_second_trip
            for number in range(LIMIT // 8):
                newcomer, _ = come(places, f"{number + 1}.2.1.1")
                newcomer.has_spoken = others_have_spoken
        assert honest in places


def test_the_displaced_connection_is_not_always_the_oldest() -> None:
    """Or a flood would know when its own turn comes, and renew in time."""
    ages = set()
    for seed in range(30):
        places = Newcomers(8, rng=random.Random(seed))
        order = [come(places)[0] for _ in range(8)]
        _, loser = come(places)
        assert loser is not None
        ages.add(order.index(loser))
    assert ages == {0, 1, 2, 3}, "a random one of the older half"


def test_removing_a_displaced_connection_again_has_no_effect() -> None:
    places = Newcomers(1, rng=random.Random(1))
    first, _ = come(places)
    second, loser = come(places)
    assert loser is first
    places.remove(first)
    assert list(places) == [second]


def test_puzzles_are_for_the_networks_that_flood() -> None:
    places, flood, honest = Newcomers(LIMIT, rng=random.Random(1)), b"flood", b"honest"
    assert [places.puzzle_bits(flood, now_s=7.0) for _ in range(CALM_PER_S)] == [0] * CALM_PER_S
    assert places.puzzle_bits(honest, now_s=7.1) == 0
    asked = [places.puzzle_bits(flood, now_s=7.5) for _ in range(20 * CALM_PER_S)]
    assert asked[0] == 12
    assert asked[-1] == MAX_BITS
    assert asked == sorted(asked), "the faster the flood, the harder"
    assert places.puzzle_bits(honest, now_s=8.2) == 0
    assert places.puzzle_bits(flood, now_s=8.9) > 0, "the second before counts"
    assert places.puzzle_bits(flood, now_s=10.0) == 0


@pytest.mark.full
def test_a_flood_from_everywhere_pays_too() -> None:
    places = Newcomers(LIMIT, rng=random.Random(1))
    bits = [places.puzzle_bits(b"%d" % n, now_s=0.0) for n in range(10_000)]
    assert set(bits[:CALM_PER_S]) == {0}
    assert all(bits[CALM_PER_S:4_096])


def test_addresses_that_count_as_one_source() -> None:
    assert host_group("2a00:1:2:3::1") == host_group("2a00:1:2:3:ffff::9") != host_group("2a00:1:2:4::1")
    assert host_group("8.8.8.8") == host_group("::ffff:8.8.8.8") != host_group("8.8.8.9")
    assert PUBLIC.network("8.8.8.8") == PUBLIC.network("8.8.9.9") != PUBLIC.network("8.9.8.8")
    assert LOCAL.network("127.0.0.1") != LOCAL.network("127.0.0.2")
