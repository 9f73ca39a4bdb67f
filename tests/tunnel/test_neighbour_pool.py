"""The links to one neighbour. The pool is pure, so tests choose each time and each random value."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.link.neighbour_pool import ONCE, POOLED, NeighbourPool, PoolPolicy

LOW, HIGH = b"\x01" * 32, b"\x02" * 32
TWO = replace(POOLED, links=2)


@dataclass(eq=False)
class FakeLink:
    streams: int = 0
    can_open: bool = True
    is_crowded: bool = False


class Middle:
    """Draws the middle of every range."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def pool(policy: PoolPolicy = POOLED, *, own: bytes = LOW, peer: bytes = HIGH) -> NeighbourPool[FakeLink]:
    return NeighbourPool(policy, own_id=own, peer_id=peer, rng=Middle())


def dialled(links: NeighbourPool[FakeLink], now_s: float = 0.0) -> FakeLink:
    link = FakeLink()
    links.dial_begins()
    links.add(link, now_s, is_dialler=True)
    return link


def test_links_to_a_wanted_neighbour_are_made_before_they_are_needed() -> None:
    links = pool(TWO)
    assert not links.wants_dial(0.0)
    assert links.wants_dial(0.0, waiting=1)
    links.is_wanted = True
    for _ in range(2):
        assert links.wants_dial(0.0)
        links.dial_begins()
    assert not links.wants_dial(0.0, waiting=50)
    links.add(FakeLink(), 0.0, is_dialler=True)
    assert links.dialling == 1
    links.add(FakeLink(), 0.0, is_dialler=True)
    assert not links.wants_dial(0.0, waiting=50)
    assert links.retire(10_000_000.0) == links.links  # both too old
    assert links.wants_dial(10_000_000.0)


def test_a_stream_takes_the_link_with_the_fewest() -> None:
    links = pool(TWO)
    first, second = dialled(links), dialled(links)
    first.streams = 3
    assert links.choose() is second
    second.can_open = False
    assert links.choose() is first
    first.can_open = False
    assert links.choose() is None
    assert links.wants_dial(0.0, waiting=1)


def test_a_crowded_link_is_the_last_choice() -> None:
    links = pool()
    first = dialled(links)
    first.streams, first.is_crowded = 512, True
    assert links.choose() is None
    assert links.wants_dial(0.0, waiting=1)
    assert links.choose(with_crowded=True) is first
    second = dialled(links)
    assert links.choose() is links.choose(with_crowded=True) is second
    first.can_open = False
    second.is_crowded = True
    assert links.choose() is None
    assert links.choose(with_crowded=True) is second


@pytest.mark.parametrize("crowded", [0, 1, 2])
def test_a_second_link_beside_a_crowded_one_is_kept(crowded: int) -> None:
    """Whichever side dialled it, and at both sides."""
    for own, peer in ((LOW, HIGH), (HIGH, LOW)):
        links = pool(own=own, peer=peer)
        both = [dialled(links), FakeLink(streams=1)]
        links.add(both[1], 0.0, is_dialler=False)
        for link in both[:crowded]:
            link.is_crowded = True
        retired = links.retire(1.0)
        is_surplus = own == HIGH  # the link that this side has dialled
        assert retired == ([both[not is_surplus]] if not both[is_surplus].is_crowded else [])


def test_a_neighbour_without_an_address_is_not_dialled() -> None:
    links = pool()
    links.is_wanted, links.can_dial = True, False
    assert not links.wants_dial(0.0, waiting=1)
    its = FakeLink()
    links.add(its, 0.0, is_dialler=False)
    assert links.choose() is its


def test_failures_are_waited_for_longer_each_time() -> None:
    links = pool()
    waits, now_s = [], 100.0
    for _ in range(12):
        assert links.wants_dial(now_s, waiting=1)
        links.dial_begins()
        links.dial_fails(now_s)
        assert not links.wants_dial(now_s, waiting=1)
        waits.append(links.retry_s - now_s)
        now_s = links.retry_s
    assert waits[:4] == [0.375, 0.75, 1.5, 3.0]
    assert waits == sorted(waits)
    assert waits[-1] == POOLED.max_backoff_s * 0.75


def test_waits_are_spread() -> None:
    rng = random.Random(1)
    ends = []
    for _ in range(200):
        links: NeighbourPool[FakeLink] = NeighbourPool(POOLED, own_id=LOW, peer_id=HIGH, rng=rng)
        links.dial_begins()
        links.dial_fails(0.0)
        ends.append(links.retry_s)
    assert 0.25 <= min(ends) < 0.3
    assert 0.45 < max(ends) <= 0.5


def test_a_link_that_dies_young_and_unused_counts_as_a_failure() -> None:
    links = pool()
    links.remove(dialled(links, 0.0), 1.0)
    assert links.retry_s > 1.0
    lived = dialled(links, 2.0)
    links.remove(lived, 2.0 + POOLED.stable_s)
    links.dial_begins()
    links.dial_fails(50.0)
    assert links.retry_s == 50.0 + 0.375  # the count began anew
    links.remove(FakeLink(), 60.0)  # not a link of this pool: no effect


def test_old_links_are_replaced_and_each_is_retired_once() -> None:
    links = pool()
    links.is_wanted = True
    old = dialled(links)
    old.streams = 5
    assert links.retire(POOLED.max_age_s - 1) == []
    assert not links.wants_dial(POOLED.max_age_s - 1)
    assert links.retire(POOLED.max_age_s) == [old]
    assert links.retire(POOLED.max_age_s + 1) == []
    assert links.wants_dial(POOLED.max_age_s)
    assert links.choose() is None
    assert links.links == [old]
    links.remove(old, POOLED.max_age_s + 2)
    assert links.links == []


def test_idle_links_beyond_those_kept_end() -> None:
    links = pool(TWO)
    first, second, third = (dialled(links) for _ in range(3))
    links.is_wanted = True
    second.streams = 1
    assert links.retire(100.0) == []
    second.streams = 0
    assert links.retire(POOLED.idle_s) == [third]  # the second was idle for 200 s only
    links.is_wanted = False
    assert links.retire(POOLED.idle_s + 1) == [first]
    assert links.retire(POOLED.idle_s + 100.0) == [second]


@given(st.integers(1, 4), st.integers(0, 6), st.integers(0, 6))
def test_both_sides_keep_the_same_of_simultaneous_links(k: int, low: int, high: int) -> None:
    """Each side sees all links, in its own order, and both choose the same ones to end."""
    policy = replace(POOLED, links=k)
    names = [("low", number) for number in range(low)] + [("high", number) for number in range(high)]
    at_low = pool(policy, own=LOW, peer=HIGH)
    at_high = pool(policy, own=HIGH, peer=LOW)
    by_link: dict[FakeLink, tuple[str, int]] = {}
    for side, own in ((at_low, "low"), (at_high, "high")):
        side.is_wanted = True
        for name in names:
            link = FakeLink(streams=1)
            by_link[link] = name
            if name[0] == own:
                side.dial_begins()
            side.add(link, 0.0, is_dialler=name[0] == own)
    ends = [{by_link[link] for link in side.retire(1.0)} for side in (at_low, at_high)]
    assert ends[0] == ends[1]
    if low and high:
        assert len(ends[0]) == min(high, max(0, low + high - k))
        assert {name for name, _ in ends[0]} <= {"high"}
    else:
        assert not ends[0]


def test_once_gives_each_stream_a_link_and_ends_it_with_the_stream() -> None:
    links = pool(ONCE)
    links.is_wanted = True
    assert not links.wants_dial(0.0)
    assert links.wants_dial(0.0, waiting=2)
    links.dial_begins()
    assert links.wants_dial(0.0, waiting=2)
    link = FakeLink()
    links.add(link, 0.0, is_dialler=True)
    assert links.retire(5.0) == []
    assert links.choose() is link
    link.streams = 1
    assert links.choose() is None
    assert links.retire(6.0) == []
    link.streams = 0
    assert links.retire(7.0) == [link]


def test_once_leaves_the_peers_links_to_the_peer() -> None:
    links = pool(ONCE)
    its = FakeLink()
    links.add(its, 0.0, is_dialler=False)
    assert links.choose() is None
    assert links.retire(100.0) == []
