"""What the kit has found in the node, one plain test for each fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile.frames import PROFILE
from tests.hostile.network import MemoryNetwork
from tests.hostile.peer import ROLES, HostilePeer, Role
from tests.hostile.rules import Case, run_case
from tests.hostile.tables import TABLES

_CHUNK_BYTES = PROFILE.geometry.chunk_bytes

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


@pytest.mark.parametrize("count", [1, _CHUNK_BYTES - 1])
def test_a_tunnel_that_ends_inside_a_chunk_is_truncated(network: MemoryNetwork, count: int) -> None:
    """The reactor's UnexpectedEnd ended the service, and the STATUS told INTERNAL."""
    run_case(network, Case(RULES["tunnel: FIN without LAST"], "dials", "idle", count))


@pytest.mark.parametrize("count", [1, _CHUNK_BYTES - 1])
def test_a_query_whose_chunk_with_a_status_is_cut_fails_as_any_other(
    network: MemoryNetwork, count: int
) -> None:
    """The future of the query raised UnexpectedEnd."""
    run_case(network, Case(RULES["route: chunk: cut"], "is dialled", "handshake", count))


@pytest.mark.parametrize("links", [1, 5])
@pytest.mark.parametrize("role", ROLES)
def test_what_came_for_a_stream_that_was_never_served_is_dropped_with_its_link(
    network: MemoryNetwork, role: Role, links: int
) -> None:
    """A stream that waited for its turn when the link ended kept what had come with its FIN, for ever."""
    budget = network.victim.context.budget
    for _ in range(links):
        peer = HostilePeer(network, role).handshake()
        for _ in range(200):  # more than are served at once: then one of them waits for its turn
            peer.open(PROFILE, bytes(PROFILE.geometry.window_bytes), stream=peer.next_stream())
            peer.send_fin(stream=peer.stream)
        network.settle()
        assert budget.used_bytes, "no stream waits"
        peer.leave()
    network.pass_time(600.0)
    assert not budget.used_bytes, "content that nobody will read is held"
    assert not budget.holders
