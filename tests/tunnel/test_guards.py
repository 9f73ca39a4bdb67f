"""Guards: few, uniform among the candidates, kept over restarts, and not replaceable by an attacker."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import KeyFileError
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.routing.addresses import PUBLIC
from tunnel.routing.guards import MAX_GUARDS, Guard, Guards

DAY_S = 24 * 3600
NOW_S = 1_800_000_000


@cache
def crowd(count: int = 30) -> list[Descriptor]:
    """Nodes in separate networks, except each fifth, which shares one with the previous node."""
    return [
        Descriptor(
            bytes([number]) * 32,
            b"l" * 32,
            (),
            (Address(f"{50 + number - (number % 5 == 4)}.1.1.{number}", 1),),
            (1, 2),
            1,
            2**32 - 1,
        )
        for number in range(count)
    ]


IDS = {peer.node_id for peer in crowd()}


def choose(
    guards: Guards, usable: set[bytes] | None = None, now_s: float = NOW_S, seed: int = 0
) -> bytes | None:
    usable = IDS if usable is None else usable
    return guards.choose(crowd(), usable, now_s=now_s, rules=PUBLIC, rng=random.Random(seed))


@given(st.integers(0, 2**32), st.lists(st.sets(st.integers(0, 29)), max_size=30))
def test_there_are_never_more_than_most_and_never_two_of_one_network(
    seed: int, downs: list[set[int]]
) -> None:
    """With any failures in any order, which an attacker causes to make a node choose his guard."""
    guards, rng = Guards(size=3, most=6), random.Random(seed)
    for down in downs:
        usable = {peer.node_id for number, peer in enumerate(crowd()) if number not in down}
        guard = guards.choose(crowd(), usable, now_s=NOW_S, rules=PUBLIC, rng=rng)
        present = [each.node_id for each in guards]
        assert len(present) == len(set(present)) <= 6
        groups = [group for peer in crowd() if peer.node_id in present for group in PUBLIC.owners(peer)]
        assert len(groups) == len(set(groups))
        if guard is None:
            assert not set(present) & usable
        else:
            assert guard == next(each for each in present if each in usable)


def test_the_first_usable_guard_is_used_and_a_returned_one_again() -> None:
    guards = Guards(size=3, most=5)
    first = choose(guards)
    assert first is not None
    order = [guard.node_id for guard in guards]
    assert len(order) == 3
    assert choose(guards, IDS - {order[0]}) == order[1]
    assert choose(guards, IDS - set(order[:2])) == order[2]
    assert choose(guards) == order[0]
    fourth = choose(guards, IDS - set(order))
    assert fourth not in order
    assert choose(guards) == order[0]
    fifth = choose(guards, IDS - {*order, fourth})
    assert fifth is not None
    assert choose(guards, IDS - {*order, fourth, fifth}) is None
    assert choose(guards, seed=9) == first


def test_every_node_is_as_likely() -> None:
    alone = [peer for number, peer in enumerate(crowd()) if number % 5 < 3]  # in a network of its own
    counts = Counter[bytes | None]()
    for seed in range(3_000):
        counts[choose(Guards(size=1), seed=seed)] += 1
    assert counts.keys() == IDS
    assert all(50 < counts[peer.node_id] < 150 for peer in alone), "five standard deviations around 100"


def test_a_guard_leaves_when_its_time_is_over() -> None:
    guards = Guards()
    choose(guards)
    before = list(guards)
    assert all(60 * DAY_S <= guard.until_s - guard.since_s < 120 * DAY_S for guard in before)
    soon = min(guard.until_s for guard in before)
    choose(guards, now_s=soon - 1)
    assert list(guards) == before
    choose(guards, now_s=soon)
    assert len(set(guards) & set(before)) == 2
    assert len(guards) == 3


def test_a_guard_is_dropped_after_a_week_of_absence() -> None:
    guards = Guards()
    gone = choose(guards)
    others = [peer for peer in crowd() if peer.node_id != gone]
    rng = random.Random(1)
    for day in (0, 3, 7):
        found = guards.choose(others, IDS - {gone}, now_s=NOW_S + day * DAY_S, rules=PUBLIC, rng=rng)
        assert found != gone
        assert gone in {guard.node_id for guard in guards}
    assert choose(guards, now_s=NOW_S + 7 * DAY_S) == gone, "back in time: as if it had not been away"
    for day in (8, 16):
        guards.choose(others, IDS - {gone}, now_s=NOW_S + day * DAY_S, rules=PUBLIC, rng=rng)
    assert gone not in {guard.node_id for guard in guards}


def test_excluded_nodes_never_become_guards_and_guards_stay() -> None:
    """One machine may answer for many identities; `crowd` has all but one of them."""
    left_out = set(sorted(IDS)[:20])
    for seed in range(20):
        guards = Guards(size=3)
        guards.choose(crowd(), IDS, left_out, now_s=NOW_S, rules=PUBLIC, rng=random.Random(seed))
        drawn = [guard.node_id for guard in guards]
        assert not left_out.intersection(drawn)
        again = guards.choose(crowd(), IDS, IDS, now_s=NOW_S, rules=PUBLIC, rng=random.Random(seed))
        assert again == drawn[0]
        assert (
            guards.choose(crowd(), left_out, left_out, now_s=NOW_S, rules=PUBLIC, rng=random.Random(seed))
            is None
        )


u32 = st.integers(0, 2**32 - 1)
some_guards = st.lists(
    st.builds(Guard, st.binary(min_size=32, max_size=32), u32, u32, u32),
    max_size=MAX_GUARDS,
    unique_by=lambda guard: guard.node_id,
)


@given(some_guards)
def test_the_state_survives_a_restart(made: list[Guard]) -> None:
    state = Guards(made).to_bytes()
    assert len(state) == 6 + 44 * len(made)
    assert list(Guards.from_bytes(state)) == made
    assert Guards.from_bytes(state).to_bytes() == state


def test_the_bytes_of_the_state() -> None:
    state = Guards([Guard(b"i" * 32, 1, 2, 3)]).to_bytes()
    assert state == b"mtgd\x01\x01" + b"i" * 32 + bytes.fromhex("000000010000000200000003")


@given(some_guards.filter(len), st.data())
def test_damaged_states_are_refused_or_are_states(made: list[Guard], data: st.DataObject) -> None:
    state = bytearray(Guards(made).to_bytes())
    kind = data.draw(st.sampled_from(["cut", "longer", "bit"]))
    if kind == "cut":
        del state[data.draw(st.integers(0, len(state) - 1)) :]
    elif kind == "longer":
        state += data.draw(st.binary(min_size=1, max_size=50))
    else:
        state[data.draw(st.integers(0, 5))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(KeyFileError, match="remove it"):
        Guards.from_bytes(bytes(state))


def test_a_guard_state_with_a_duplicate_node_is_refused() -> None:
    entry = Guards([Guard(b"i" * 32, 1, 2)]).to_bytes()[6:]
    with pytest.raises(KeyFileError, match="twice"):
        Guards.from_bytes(b"mtgd\x01\x02" + entry * 2)
