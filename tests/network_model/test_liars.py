"""One hostile relay of five: queries with retries succeed, and the liar is avoided, the honest not for long.

What a node thinks of others is read from its peer table (`Node.peers`), as its own routes are drawn from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pytest

from tests.network_model.hostile import BEHAVIOURS, make_hostile
from tests.network_model.network import ModelNetwork, prefixed
from tunnel.errors import QueryFailed
from tunnel.node import Limits, QueryResult

ALICE, LIAR, HONEST, BOB = 0, 1, (2, 3, 4, 5), 6
QUERIES: Final = 40
LIMITS: Final = Limits(link_tick_s=15.0, guards=0)  # a guard is in each route, whatever it does
# The longest time for which a node is avoided after its last failure.
LONGEST_S: Final = 40 * 60.0


@dataclass
class Tally:
    """What came of the queries.

    Attributes:
        attempts: how many failed before each query had succeeded. accused: how often a node was avoided after
            a query, by machine.
    """

    succeeded: int = 0
    attempts: list[int] = field(default_factory=list)
    accused: dict[int, int] = field(default_factory=lambda: dict.fromkeys((LIAR, *HONEST), 0))


def ask_often(net: ModelNetwork) -> Tally:
    tally, content = Tally(), b"content" * 1000
    for _ in range(QUERIES):
        future = net[ALICE].query(net[BOB].id, prefixed("echo", content), hops=2, retries=3, idle_s=20.0)
        while not future.done():
            net.pass_time(1.0)
        error = future.exception()
        assert error is None or isinstance(error, QueryFailed)
        if error is None:
            result: QueryResult = future.result()
            assert result.read() == content
            tally.succeeded += 1
            tally.attempts.append(len(result.attempts))
        avoided = avoided_by(net)
        for machine in tally.accused:
            tally.accused[machine] += machine in avoided
        net.pass_time(60.0)
    return tally


def avoided_by(net: ModelNetwork) -> set[int]:
    """The machines that Alice's routes avoid."""
    avoided = net[ALICE].peers.avoided()
    return {machine.number for machine in net.machines if machine.id in avoided}


# One by default; each takes a second.
@pytest.mark.parametrize(
    "how", [how if how == "garbles" else pytest.param(how, marks=pytest.mark.full) for how in BEHAVIOURS]
)
def test_one_liar_of_five(how: str) -> None:
    with ModelNetwork(7, 5, limits=LIMITS) as net:
        make_hostile(net[LIAR], how)
        tally = ask_often(net)
        assert tally.succeeded >= QUERIES - 1
        # A changed STATUS spoils no query.
        if how != "rewrites":
            assert tally.accused[LIAR] > max(tally.accused[each] for each in HONEST)
            assert 1 <= sum(tally.attempts) <= 5
        net.pass_time(LONGEST_S)
        assert avoided_by(net) == set()
        assert not net.bugs


@pytest.mark.full
def test_nobody_is_avoided_without_a_liar() -> None:
    with ModelNetwork(7, 5, limits=LIMITS) as net:
        tally = ask_often(net)
        assert tally.succeeded == QUERIES
        assert not any(tally.attempts)
        assert not any(tally.accused.values())
