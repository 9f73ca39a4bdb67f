"""Turns to open headers: one budget, shared by sources. Time is an argument, waiters are plain objects."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.link.turns import GARBAGE_TURNS, KNOWN_WEIGHT, HeaderTurns

PER_S = 1_000.0
BURST = 100


class Flood:
    """Sources that want a turn at any time, each with one waiter for each of its links."""

    def __init__(self, turns: HeaderTurns[Flood.Link]) -> None:
        self.turns = turns
        self.now_s = 50.0
        self.given: list[bytes] = []
        self.arrived: list[Flood.Link] = []

    class Link:
        def __init__(self, flood: Flood, source: bytes, neighbour: bytes) -> None:
            self.flood, self.source, self.neighbour = flood, source, neighbour

        def set(self) -> None:
            self.flood.given.append(self.neighbour or self.source)
            self.flood.arrived.append(self)

    def spend_the_burst(self) -> None:
        while self.turns.take(b"before", now_s=self.now_s):
            pass

    def want(self, source: bytes, weight: float = 1.0, *, neighbour: bytes = b"") -> Link:
        link = self.Link(self, source, neighbour)
        self.turns.wait(source, neighbour, link, weight=weight)
        return link

    def run(self, seconds: float, weights: dict[bytes, float], *, garbage: tuple[bytes, ...] = ()) -> None:
        """Those that got a turn want the next one immediately."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 0.001
            self.turns.give(self.now_s)
            for link in self.arrived:
                weight = weights[link.source]
                if link.source in garbage or link.neighbour in garbage:
                    self.turns.charge(link.source, link.neighbour, weight=weight)
                self.want(link.source, weight, neighbour=link.neighbour)
            self.arrived.clear()


def flood() -> Flood:
    return Flood(HeaderTurns(per_s=PER_S))


def test_without_a_flood_nobody_waits() -> None:
    turns: HeaderTurns[Flood.Link] = HeaderTurns(per_s=PER_S)
    assert all(turns.take(b"a", now_s=n / 900) for n in range(5_000))
    assert turns.give(10.0) is None


def test_a_burst_and_then_the_rate_for_all_sources_together() -> None:
    crowd = flood()
    assert sum(crowd.turns.take(b"%d" % n, now_s=crowd.now_s) for n in range(500)) == BURST
    weights = {b"%d" % n: 1.0 for n in range(16)}
    for source in weights:
        crowd.want(source)
    crowd.run(2.0, weights)
    assert len(crowd.given) == pytest.approx(2 * PER_S, abs=2)
    shares = Counter(crowd.given)
    assert max(shares.values()) - min(shares.values()) <= 1


@pytest.mark.parametrize("links", [16, 1_000])
def test_the_first_header_of_another_source_waits_for_one_turn(links: int) -> None:
    """However many wait before it, of one source or of many."""
    for sources in (1, 16, links):
        crowd = flood()
        crowd.spend_the_burst()
        weights = {b"%d" % n: 1.0 for n in range(sources)}
        for n in range(links):
            crowd.want(b"%d" % (n % sources))
        crowd.run(0.5, weights)
        before = len(crowd.given)
        crowd.want(b"honest")
        crowd.run(0.005, {**weights, b"honest": 1.0})
        assert crowd.given.index(b"honest") - before <= 1


@pytest.mark.parametrize("kind", ["valid", "garbage"])
def test_an_honest_peer_does_not_wait_for_a_crowd_of_its_network(kind: str) -> None:
    """A thousand links of one network, where an honest peer lives too."""
    crowd, weights = flood(), {b"network": 1.0}
    crowd.spend_the_burst()
    hostile = tuple(b"%d" % n for n in range(1_000))
    for each in hostile:
        crowd.want(b"network", neighbour=each)
    garbage = hostile if kind == "garbage" else ()
    crowd.run(2.0, weights, garbage=garbage)
    before = len(crowd.given)
    crowd.want(b"network", neighbour=b"honest")
    crowd.run(0.005, weights, garbage=garbage)
    assert crowd.given.index(b"honest") - before <= 1


def test_garbage_lowers_the_share_of_its_source() -> None:
    crowd, weights = flood(), {b"garbage": 1.0, b"honest": 1.0}
    crowd.spend_the_burst()
    for source in weights:
        crowd.want(source)
    crowd.run(2.0, weights, garbage=(b"garbage",))
    shares = Counter(crowd.given)
    assert shares[b"honest"] == pytest.approx((GARBAGE_TURNS + 1) * shares[b"garbage"], rel=0.05)


def test_debts_are_forgiven() -> None:
    """A neighbour that passed on somebody else's garbage is soon as good as others."""
    crowd = flood()
    crowd.spend_the_burst()
    for _ in range(100_000):
        crowd.turns.charge(b"relay", b"")
    weights = {b"relay": 1.0, b"other": 1.0}
    for source in weights:
        crowd.want(source)
    crowd.run(1.0, weights)
    assert Counter(crowd.given)[b"relay"] == pytest.approx(PER_S / 2, abs=60)


def test_known_neighbours_come_before_others() -> None:
    crowd = flood()
    crowd.spend_the_burst()
    weights: dict[bytes, float] = {b"known": KNOWN_WEIGHT, **{b"s%d" % n: 1.0 for n in range(8)}}
    for source, weight in weights.items():
        crowd.want(source, weight)
    crowd.run(2.0, weights)
    assert Counter(crowd.given)[b"known"] == pytest.approx(PER_S, rel=0.05), "half, beside eight others"


def test_a_departed_waiter_takes_no_turn() -> None:
    crowd = flood()
    crowd.spend_the_burst()
    gone, stays = crowd.want(b"a"), crowd.want(b"b")
    crowd.turns.leave(b"a", gone)
    crowd.turns.leave(b"a", gone)
    crowd.turns.give(crowd.now_s + 1)
    crowd.turns.leave(b"b", stays)  # its turn has come already
    assert crowd.given == [b"b"]
    assert not len(crowd.turns)


def test_a_clock_that_steps_back_gives_nothing_and_takes_nothing() -> None:
    turns: HeaderTurns[Flood.Link] = HeaderTurns(per_s=10)
    assert turns.take(b"a", now_s=1_000.0)
    assert not turns.take(b"a", now_s=0.0)
    assert turns.take(b"a", now_s=0.2)


def test_sources_are_bounded() -> None:
    turns: HeaderTurns[Flood.Link] = HeaderTurns(per_s=1e9)
    for number in range(20_000):
        turns.charge(b"%d" % number, b"")
        turns.take(b"x%d" % number, now_s=float(number))
    assert turns.sources <= 4_096


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.floats(0, 0.5), st.booleans()), max_size=80),
    st.integers(1, 50),
)
def test_never_more_than_burst_and_rate_allow(calls: list[tuple[bytes, float, bool]], per_s: int) -> None:
    crowd = Flood(HeaderTurns(per_s=per_s))
    start_s, taken = crowd.now_s, 0
    for source, step_s, is_garbage in calls:
        crowd.now_s += step_s
        if is_garbage:
            crowd.turns.charge(source, b"")
        elif crowd.turns.take(source, now_s=crowd.now_s):
            taken += 1
        else:
            crowd.want(source)
        wait_s = crowd.turns.give(crowd.now_s)
        assert (wait_s is None) == (len(crowd.turns) == 0)
        passed_s = crowd.now_s - start_s
        assert taken + len(crowd.given) <= max(1, per_s / 10) + passed_s * per_s + 1e-6
