"""What the kit has found in the node, one plain test for each fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile.network import MemoryNetwork
from tests.hostile.rules import Case, run_case
from tests.hostile.tables import TABLES

RULES = {rule.name: rule for table in TABLES for rule in table.rules}


@pytest.fixture
def network() -> Iterator[MemoryNetwork]:
    with MemoryNetwork() as made:
        yield made


@pytest.mark.parametrize(
    ("name", "value"), [("receipt: flags", 0), ("receipt: sub-stream", 1), ("receipt: length", 15)]
)
def test_a_receipt_of_mode_cached_is_one_last_chunk_of_sixteen_bytes(
    network: MemoryNetwork, name: str, value: Any
) -> None:
    """Its flags, sub-stream and length were not looked at."""
    run_case(network, Case(RULES[name], "dials", "idle", value))
