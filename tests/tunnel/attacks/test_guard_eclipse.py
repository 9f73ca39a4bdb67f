"""Threat: hostile nodes become a client's first hop, by waiting for months or by making honest guards fail.

A year of many clients on a fake clock, with the real guards of tunnel/routing/guards.py: each client asks for
its first hop once a day. Sixty nodes in networks of their own, six of them hostile, so that a first hop drawn
anew would be hostile in one of ten cases, and nearly every client would meet one within weeks. The figures
are compared with what the rules predict. No victim can notice a hostile first hop that works.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tunnel.identity.descriptor import Address, Descriptor
from tunnel.routing.addresses import PUBLIC
from tunnel.routing.guards import MOST_GUARDS, Guards

pytestmark = pytest.mark.full

DAY_S = 24 * 3_600
NOW_S = 1_800_000_000
NODES, HOSTILE, SIZE = 60, 6, 3
SHARE = HOSTILE / NODES
CLIENTS, DAYS = 150, 364


def described(number: int, *, is_hostile: bool) -> Descriptor:
    node_id = (b"h" if is_hostile else b"o") + number.to_bytes(31, "big")
    host = f"{50 + number // 250}.{1 + number % 250}.1.1"
    return Descriptor(node_id, b"l" * 32, (), (Address(host, 1),), (1, 2), 1, 2**32 - 1)


def is_hostile(node_id: bytes) -> bool:
    return node_id.startswith(b"h")


@dataclass
class World:
    """The nodes, of which some leave each day and as many come.

    Args:
        leaving: share of the honest nodes that leave for good each day. hostile_leaving: of the hostile ones.
    """

    leaving: float
    hostile_leaving: float
    rng: random.Random

    def __post_init__(self) -> None:
        self._count = NODES
        self.nodes = [described(number, is_hostile=number < HOSTILE) for number in range(NODES)]

    def pass_day(self) -> None:
        for place, peer in enumerate(self.nodes):
            hostile = is_hostile(peer.node_id)
            if self.rng.random() < (self.hostile_leaving if hostile else self.leaving):
                self._count += 1
                self.nodes[place] = described(self._count, is_hostile=hostile)


Down = Callable[[Guards, Sequence[Descriptor]], set[bytes]]


def year(world: World, down: Down) -> list[list[bool | None]]:
    """Each client's first hops, one for each day: whether it is hostile; None: there was none.

    Args:
        down: the nodes that one client cannot reach, from its guards and all nodes.
    """
    clients = [Guards(size=SIZE) for _ in range(CLIENTS)]
    found: list[list[bool | None]] = [[] for _ in clients]
    for day in range(DAYS):
        ids = {peer.node_id for peer in world.nodes}
        for guards, days in zip(clients, found, strict=True):
            usable = ids - down(guards, world.nodes)
            first = guards.choose(world.nodes, usable, now_s=NOW_S + day * DAY_S, rules=PUBLIC, rng=world.rng)
            days.append(None if first is None else is_hostile(first))
        world.pass_day()
    return found


def shares(found: Sequence[Sequence[bool | None]]) -> tuple[float, float]:
    """The share of days with a hostile first hop, and of clients that have ever had one."""
    days = [day for client in found for day in client]
    return days.count(True) / len(days), sum(True in client for client in found) / len(found)


def nothing_fails(guards: Guards, nodes: Sequence[Descriptor]) -> set[bytes]:
    return set()


def honest_guards_fail(guards: Guards, nodes: Sequence[Descriptor]) -> set[bytes]:
    """Whatever honest guard the client has is flooded; the attacker knows it from its traffic."""
    return {guard.node_id for guard in guards if not is_hostile(guard.node_id)}


def deviation(share: float, count: float) -> float:
    return math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("leaving", [0.0, 0.01], ids=["all nodes stay", "1 % leave each day"])
def test_waiting_gains_no_more_than_the_share_of_hostile_nodes(leaving: float) -> None:
    found = year(World(leaving, leaving, random.Random(1)), nothing_fails)
    of_days, of_clients = shares(found)
    # A client's days are alike while a guard lasts: three to six draws in a year.
    assert abs(of_days - SHARE) < 4 * deviation(SHARE, CLIENTS * 3)
    assert of_clients < 0.75, "without guards every client would have met one by now: 1 - 0.9**364"


def test_hostile_nodes_that_outlive_the_honest_ones_gain_what_the_formula_says() -> None:
    """Honest nodes leave, hostile ones never do: a hostile guard then stays for its 90 days, an honest one
    for as long as its node. The share is that of the time that each kind fills a place."""
    leaving = 0.01
    of_days, _ = shares(year(World(leaving, 0.0, random.Random(2)), nothing_fails))
    hostile_days = 90
    # Gone on a day, and given up seven days later; ended by its age between 60 and 120 days.
    honest_days = sum((1 - (1 - leaving) ** life) / leaving for life in range(60, 120)) / 60
    predicted = SHARE * hostile_days / (SHARE * hostile_days + (1 - SHARE) * honest_days)
    assert of_days < 2 * predicted


def test_making_guards_fail_gains_the_most_guards_and_no_more() -> None:
    """The last resort of a client with nine failing guards is no route, and not the attacker's node."""
    found = year(World(0.0, 0.0, random.Random(3)), honest_guards_fail)
    first_day = [client[7] for client in found]
    none_hostile = 1.0
    for drawn in range(MOST_GUARDS):
        none_hostile *= (NODES - HOSTILE - drawn) / (NODES - drawn)
    share = first_day.count(True) / CLIENTS
    assert abs(share - (1 - none_hostile)) < 4 * deviation(none_hostile, CLIENTS)
    assert first_day.count(None) == CLIENTS - first_day.count(True)
