"""Each rule of the tables is broken at a real node: in each role, at each point of a link, with many values.

Checked for each case (`run_case`): the documented reaction comes and nothing else ends; honest traffic
through the node goes on; no error and no traceback is logged; no task, timer, link, stream or buffer is left.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.network import MemoryNetwork
from tests.hostile.rules import Case, Rule, run_case
from tests.hostile.tables import TABLES, Table

ROOT = Path(__file__).resolve().parent.parent.parent

ALL = [(table, rule) for table in TABLES for rule in table.rules]
IDS = [f"{table.name}-{rule.name}" for table, rule in ALL]
CASES = [
    pytest.param(table, rule, id=name, marks=[pytest.mark.full] if rule.is_slow else [])
    for (table, rule), name in zip(ALL, IDS, strict=True)
]
_MOST_EDGES = 3

each_rule = pytest.mark.parametrize(("table", "rule"), CASES)


class Networks:
    """One network for each table, made when it is needed."""

    def __init__(self) -> None:
        self._made: dict[str, MemoryNetwork] = {}

    def of(self, table: Table) -> MemoryNetwork:
        if table.name not in self._made:
            self._made[table.name] = table.network().__enter__()
        return self._made[table.name]

    def drop(self, table: Table) -> None:
        """The network of a case that failed may hold anything."""
        self._made.pop(table.name).__exit__()

    def close(self) -> None:
        for network in self._made.values():
            network.__exit__()


@pytest.fixture(scope="module")
def networks() -> Iterator[Networks]:
    made = Networks()
    yield made
    made.close()


_runs = itertools.count()


def carry_out(networks: Networks, table: Table, case: Case, seed: int) -> None:
    try:
        run_case(networks.of(table), case, seed)
    except BaseException:
        networks.drop(table)
        raise


@each_rule
def test_one_value(networks: Networks, table: Table, rule: Rule) -> None:
    """A value, a role and a point, drawn anew for each version of the name."""
    rng = random.Random(f"{table.name} {rule.name}")
    case = Case(rule, rng.choice(rule.roles), rng.choice(rule.points), rng.choice(rule.values))
    carry_out(networks, table, case, rng.getrandbits(32))


@pytest.mark.full
@each_rule
def test_each_role_and_point_with_the_values_at_the_edges(
    networks: Networks, table: Table, rule: Rule
) -> None:
    rng = random.Random(f"edges {table.name} {rule.name}")
    edges = rule.edges
    if len(edges) > _MOST_EDGES:
        edges = [edges[0], edges[-1], *rng.sample(edges, _MOST_EDGES - 2)]
    for role in rule.roles:
        for point in rule.points:
            for value in edges:
                carry_out(networks, table, Case(rule, role, point, value), rng.getrandbits(32))


@pytest.mark.full
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@settings(max_examples=40)
@given(data=st.data())
def test_any_value(networks: Networks, table: Table, data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from([rule for rule in table.rules if not rule.is_slow]))
    value = rule.values[data.draw(st.integers(0, len(rule.values) - 1))]
    case = Case(rule, data.draw(st.sampled_from(rule.roles)), data.draw(st.sampled_from(rule.points)), value)
    # Hypothesis likes to draw a number twice, and the second use of what it makes would be a replay.
    seed = next(_runs) << 32 | data.draw(st.integers(0, 2**32 - 1))
    carry_out(networks, table, case, seed)


def test_each_rule_stands_in_its_document() -> None:
    """A rule whose sentence was reworded: change the table, and see whether the rule is still the same."""
    texts: dict[str, str] = {}
    missing = []
    for _, rule in ALL:
        if rule.document not in texts:
            texts[rule.document] = " ".join((ROOT / rule.document).read_text(encoding="utf-8").split())
        if rule.sentence not in texts[rule.document]:
            missing.append(f"{rule.document}, {rule.name}: {rule.sentence!r}")
    assert not missing


def test_names_are_unique() -> None:
    assert len(set(IDS)) == len(IDS)
