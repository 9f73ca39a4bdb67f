"""The table of hearsay nodes: limited for each source and in time, and drawn fairly between sources."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tunnel.helpers import NOW_S, OPENSSL, make_keys
from tunnel.directory.hearsay import LIFE_S, PER_SOURCE, Hearsay
from tunnel.identity.descriptor import Address, Descriptor

SMALL = 12


@cache
def described(number: int, later_s: int = 0) -> Descriptor:
    keys = make_keys(f"told {number}")
    return keys.descriptor((Address(f"{50 + number % 20}.1.1.1", 1),), NOW_S + later_s, OPENSSL)


def make(limit: int = 1024, seed: int = 1) -> Hearsay:
    return Hearsay(random.Random(seed), limit=limit)


def test_a_source_has_its_share_and_no_more() -> None:
    table = make()
    taken = [table.put(described(number), b"flood", NOW_S) for number in range(PER_SOURCE + 20)]
    assert taken == [True] * PER_SOURCE + [False] * 20
    assert not table.has_room(b"flood")
    assert table.put(described(900), b"honest", NOW_S)


def test_in_a_full_table_the_largest_source_gives_way_to_smaller_ones() -> None:
    table = make(SMALL)
    for number in range(SMALL):
        assert table.put(described(number), b"flood", NOW_S)
    assert not table.put(described(100), b"flood", NOW_S)
    taken = [table.put(described(200 + number), b"honest", NOW_S) for number in range(SMALL)]
    assert taken == [True] * (SMALL // 2) + [False] * (SMALL // 2)
    assert table.told_by(b"flood") == table.told_by(b"honest") == len(table) // 2 == SMALL // 2
    assert not table.put(described(100), b"flood", NOW_S), (
        "no two sources take places from each other for ever"
    )


def test_newer_descriptors_do_not_prolong_an_entry_or_charge_another_source() -> None:
    """A stranger may sign a new one every second."""
    table = make()
    table.put(described(1), b"first", NOW_S)
    assert table.draw() == described(1)
    for later_s in range(1, int(LIFE_S), 60):
        assert table.put(described(1, later_s), b"second", NOW_S + later_s)
        table.expire(NOW_S + later_s)
        assert table.get(described(1).node_id) == described(1, later_s)
    assert table.draw() is None, "it has been dialled once"
    assert (table.told_by(b"first"), table.told_by(b"second")) == (1, 0)
    table.expire(NOW_S + LIFE_S)
    assert len(table) == table.told_by(b"first") == 0


def test_entries_leave_when_their_descriptor_expires_and_when_the_clock_is_set_back() -> None:
    for later_s in (described(1).expiry - NOW_S, -1):
        table = make()
        table.put(described(1), b"source", NOW_S if later_s < 0 else NOW_S + later_s - 10)
        table.expire(NOW_S + later_s)
        assert len(table) == 0


def test_a_flood_delays_others_only_by_its_share_of_the_sources() -> None:
    """One honest node among 128 invented ones of one source is the first or second to be dialled, mostly."""
    places = Counter[int]()
    for seed in range(400):
        table = make(seed=seed)
        for number in range(PER_SOURCE):
            table.put(described(number), b"flood", NOW_S)
        table.put(described(900), b"honest", NOW_S)
        drawn = iter(table.draw, None)
        places[next(at for at, peer in enumerate(drawn) if peer == described(900))] += 1
    assert 150 < places[0] < 250, "half of the draws"
    assert max(places) < 30


def test_guards_of_an_earlier_run_are_drawn_first() -> None:
    table = make()
    for number in range(100):
        table.put(described(number), b"%d" % (number % 7), NOW_S)
    guard = described(42).node_id
    drawn = table.draw(preferred={guard})
    assert drawn is not None
    assert drawn.node_id == guard


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "put", "draw", "remove", "expire"]),
            st.integers(0, 60),
            st.sampled_from([b"a", b"b", b"c"]),
        ),
        max_size=150,
    )
)
def test_the_bounds_hold_whatever_happens(steps: list[tuple[str, int, bytes]]) -> None:
    table, now_s = make(SMALL), NOW_S
    put_s: dict[bytes, float] = {}
    drawn = Counter[bytes]()
    for what, number, source in steps:
        node_id = described(number).node_id
        if what == "put":
            was_known, had_room = node_id in table, table.has_room(source)
            taken = table.put(described(number), source, now_s)
            assert taken == (was_known or had_room)
            if taken and not was_known:
                put_s[node_id] = now_s
                drawn[node_id] = 0
        elif what == "draw" and (peer := table.draw()) is not None:
            drawn[peer.node_id] += 1
        elif what == "remove":
            table.remove(node_id)
        elif what == "expire":
            now_s += number * 10
            table.expire(now_s)
            assert all(now_s - put_s[peer.node_id] < LIFE_S for peer in table)
        known = {peer.node_id for peer in table}
        assert len(known) == len(table) == sum(map(table.told_by, (b"a", b"b", b"c"))) <= SMALL
        assert table.undrawn == sum(not drawn[node_id] for node_id in known)
        assert max(drawn.values(), default=0) <= 1, "each is dialled once"
