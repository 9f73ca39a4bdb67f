"""Nodes on hosts of their own: network namespaces, joined by a wire of 50 ms and 1 % loss.

Real TCP stacks with real retransmissions between processes that cannot see each other's loopback. Every mode
works; a proxy that is killed in the middle of a transfer is named, another route works, and the node is used
again when it is back.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.processes import NodeProcesses
from tests.support.lossy_wire import LossyWire, why_not
from tunnel import QueryFailed
from tunnel.descriptor import short
from tunnel.modes import MODES
from tunnel.node.api_service import SERVED_MODES

ALICE, BOB = 0, 4
PROXIES = [1, 2, 3]
TIMEOUT_S = 120.0

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"no network namespaces: {why_not()}")


@pytest.fixture(scope="module")
def net() -> Iterator[NodeProcesses]:
    count = 7
    with (
        LossyWire(count, delay_s=0.05, loss=0.01) as wire,
        NodeProcesses(
            count,
            idle_s=20.0,
            hosts=[wire.address(index) for index in range(count)],
            prefixes=[wire.enter(index) for index in range(count)],
        ) as network,
    ):
        yield network


def test_every_mode_over_a_slow_lossy_wire(net: NodeProcesses) -> None:
    running = {
        mode: net.start_query(ALICE, BOB, content_bytes=60_000, hops=2, mode=mode) for mode in SERVED_MODES
    }
    for mode, query in running.items():
        report = query.result(TIMEOUT_S)
        assert report["reply_digest"] == (report["query_digest"] if MODES[mode].has_reply else "")
    assert len(net.received(BOB)) >= len(SERVED_MODES)


@pytest.mark.parametrize(
    "victim", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_proxy_killed_in_mid_transfer_is_named_and_used_again(net: NodeProcesses, victim: int) -> None:
    running = net.start_query(
        ALICE, BOB, content_bytes=1 << 28, route=PROXIES, mode="none", notify_bytes=200_000
    )
    running.reached.result(TIMEOUT_S)
    net.nodes[victim].kill()
    with pytest.raises(QueryFailed) as failure:
        running.result(TIMEOUT_S)
    assert short(net.nodes[victim].id) in str(failure.value)
    others = [node.is_running for node in net.nodes if node.index != victim]
    assert all(others)

    around = [index for index in (1, 2, 3, 5, 6) if index != victim][:3]
    report = net.query(ALICE, BOB, content_bytes=20_000, route=around, timeout_s=TIMEOUT_S)
    assert report["reply_digest"] == report["query_digest"]

    net.restart(victim)
    report = net.query(ALICE, BOB, content_bytes=20_000, route=PROXIES, timeout_s=TIMEOUT_S)
    assert report["reply_digest"] == report["query_digest"]
