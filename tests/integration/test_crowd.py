"""A thousand concurrent queries: each is answered, or refused with a documented code, and nothing leaks."""

from __future__ import annotations

import os
import random
from collections import Counter
from concurrent.futures import Future

import pytest

from tests.support.network import PATIENCE_S, assert_works, wait_until_idle
from tunnel import Limits, LocalNetwork, QueryFailed, QueryResult
from tunnel.codes import CODES
from tunnel.modes import MODES
from tunnel.node.query.request import SERVED_MODES

pytestmark = pytest.mark.full

NODES, QUERIES = 10, 1000
SIZES = [0, 1, 900, 5_000, 16_400, 60_000]


def _crowd(net: LocalNetwork) -> list[tuple[bytes, Future[QueryResult]]]:
    draw = random.Random(7)
    asked = []
    for number in range(QUERIES):
        origin, destination = draw.sample(range(NODES), 2)
        content = os.urandom(draw.choice(SIZES))
        mode = SERVED_MODES[number % len(SERVED_MODES)]
        future = net[origin].query(net[destination].id, content, hops=draw.randrange(4), mode=mode)
        asked.append((content, future))
    return asked


def _outcomes(asked: list[tuple[bytes, Future[QueryResult]]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for content, future in asked:
        try:
            with future.result(timeout=4 * PATIENCE_S) as result:
                assert result.read() == (content if MODES[result.mode].has_reply else b"")
                found["answered"] += 1
        except QueryFailed as error:
            found["undocumented" if error.code not in CODES else error.code.name] += 1
    return found


def test_a_thousand_queries_at_once() -> None:
    with LocalNetwork(peers=NODES) as net:
        found = _outcomes(_crowd(net))
        assert found.total() == QUERIES
        # The default limits have room for all of them.
        assert found["answered"] == QUERIES, found
        wait_until_idle(net)
        assert_works(net)


def test_a_thousand_queries_at_nodes_that_have_too_little_room() -> None:
    limits = Limits(streams_per_link=8, buffer_bytes=400_000, replay_tags=2_000, idle_s=20.0)
    with LocalNetwork(peers=NODES, limits=limits) as net:
        found = _outcomes(_crowd(net))
        assert found.total() == QUERIES
        assert found["undocumented"] == 0
        assert found["answered"] > 0
        assert found["BUSY"] > 0, found
        wait_until_idle(net)
        assert_works(net)
