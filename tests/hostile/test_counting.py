"""Random mixtures of broken rules and changed recordings, as `python -m tests.hostile` sends them."""

from __future__ import annotations

import pytest

from tests.hostile.counting import LIMITS, Flood
from tests.hostile.network import MemoryNetwork


@pytest.mark.parametrize(
    ("seed", "inputs"), [(1, 200), *(pytest.param(seed, 1500, marks=pytest.mark.full) for seed in (2, 3))]
)
def test_a_mixture_harms_nobody(seed: int, inputs: int) -> None:
    with MemoryNetwork(limits=LIMITS) as network:
        totals = Flood(network, seed).run(inputs, 300.0)
    assert totals.total >= inputs
    assert totals.is_clean, "\n".join(totals.lines())
