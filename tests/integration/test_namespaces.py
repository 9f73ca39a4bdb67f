"""Nodes on separate hosts: network namespaces, joined by a wire of 50 ms and 1 % loss.

Real TCP stacks with real retransmissions between processes that cannot see each other's loopback. The network
is not declared local, and each host has a public address. Routes therefore begin with guards, and no two of
their proxies share a /16. Every mode works. A proxy that is killed during a transfer is named, the retry
avoids it, and the node is used again when it has returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lossy_wire import LossyWire, why_not
from bench.processes import NodeProcesses, QueryReport
from tunnel import QueryFailed
from tunnel.codes import short
from tunnel.modes import MODES
from tunnel.node.query.request import SERVED_MODES

COUNT = 8
ALICE, BOB = 0, 4
PROXIES = [1, 2, 3]
OTHERS = [5, 6, 7]
TIMEOUT_S = 120.0
# Enough to be still in transit when the first 200 kB have been sent, and soon sent again.
RETRIED_BYTES = 1_000_000
NOTIFY_BYTES = 200_000

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(why_not() is not None, reason=f"no network namespaces: {why_not()}"),
]


@pytest.fixture(scope="module")
def net() -> Iterator[NodeProcesses]:
    with (
        LossyWire(COUNT, delay_s=0.05, loss=0.01) as wire,
        NodeProcesses(
            COUNT,
            idle_s=20.0,
            network_id=b"not a local one.",
            hosts=[wire.address(index) for index in range(COUNT)],
            prefixes=[wire.enter(index) for index in range(COUNT)],
        ) as network,
    ):
        yield network


def test_every_mode_over_a_slow_lossy_wire(net: NodeProcesses) -> None:
    running = {mode: net.query(ALICE, BOB, content_bytes=60_000, hops=2, mode=mode) for mode in SERVED_MODES}
    for mode, query in running.items():
        report = query.result(TIMEOUT_S)
        assert report["reply_digest"] == (report["query_digest"] if MODES[mode].has_reply else "")
    assert len(net.received(BOB)) >= len(SERVED_MODES)


@pytest.mark.parametrize(
    "victim", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_proxy_killed_in_mid_transfer_is_named_and_used_again(net: NodeProcesses, victim: int) -> None:
    running = net.query(
        ALICE, BOB, content_bytes=1 << 28, route=PROXIES, mode="none", notify_bytes=NOTIFY_BYTES
    )
    running.reached.result(TIMEOUT_S)
    net.nodes[victim].kill()
    with pytest.raises(QueryFailed) as failure:
        running.result(TIMEOUT_S)
    assert short(net.nodes[victim].id) in str(failure.value)
    _assert_only_this_one_has_ended(net, victim)

    # Routes drawn now avoid it, because there are other proxies.
    for mode in ("route", "other-route"):
        report = net.query(ALICE, BOB, content_bytes=20_000, hops=2, mode=mode).result(TIMEOUT_S)
        assert report["reply_digest"] == report["query_digest"]
        assert report["attempts"] == []
        assert victim not in _proxies(net, report)

    net.restart(victim)
    report = net.query(ALICE, BOB, content_bytes=20_000, route=PROXIES).result(TIMEOUT_S)
    assert report["reply_digest"] == report["query_digest"]


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        ("guard", "route"),
        pytest.param("middle", "route", marks=pytest.mark.slow),
        pytest.param("last", "route", marks=pytest.mark.slow),
        pytest.param("guard", "none", marks=pytest.mark.slow),
        pytest.param("last", "other-route", marks=pytest.mark.slow),
        pytest.param("last", "cached", marks=pytest.mark.slow),
    ],
)
def test_a_retry_avoids_a_proxy_killed_in_mid_transfer(net: NodeProcesses, place: str, mode: str) -> None:
    _ask_through_all(net)  # so that no node is backed off because of an earlier test
    guard = _proxies(net, net.query(ALICE, BOB, hops=3).result(TIMEOUT_S))[0]
    # Two hops may be blamed, and the other four of six proxies must suffice for both directions.
    hops = 2 if mode == "other-route" else 3
    route = [guard, *(index for index in PROXIES + OTHERS if index != guard)][:hops]
    victim = {"guard": guard, "middle": route[1], "last": route[-1]}[place]
    net.received(BOB)
    running = net.query(
        ALICE,
        BOB,
        content_bytes=RETRIED_BYTES,
        # Drawn routes begin with the guard; their other hops are random.
        route=None if place == "guard" else route,
        mode=mode,
        retries=4,
        notify_bytes=NOTIFY_BYTES,
    )
    running.reached.result(TIMEOUT_S)
    net.nodes[victim].kill()
    assert not running.has_ended
    report = running.result(TIMEOUT_S)

    # It was named and avoided, and the whole content arrived over the other route.
    assert net.nodes[victim].id.hex() in report["attempts"][0]["blamed"]
    assert short(net.nodes[victim].id) in report["attempts"][0]["error"]
    blamed = {node_id for attempt in report["attempts"] for node_id in attempt["blamed"]}
    assert not blamed & set(report["route"][:-1])
    assert victim not in _proxies(net, report)
    assert len(_proxies(net, report)) == hops
    assert report["reply_digest"] == (report["query_digest"] if mode != "none" else "")
    assert [query["content_bytes"] for query in net.received(BOB)][-1] == RETRIED_BYTES
    _assert_only_this_one_has_ended(net, victim)

    # It is back, with a new onion key. Its back-off may not be over, but a route that needs it uses it.
    net.restart(victim)
    assert victim in _proxies(net, _ask_through_all(net))
    # Now it is an ordinary node: the guard again, or drawn at some time.
    drawn = (net.query(ALICE, BOB, hops=4).result(TIMEOUT_S) for _ in range(30))
    if place == "guard":
        assert _proxies(net, next(drawn))[0] == victim
    else:
        assert any(victim in _proxies(net, report) for report in drawn)


def test_no_node_has_kept_connections_of_the_dead(net: NodeProcesses) -> None:
    """After all kills and restarts: one or two links to each other node, and the usual descriptors."""
    assert all(node.is_running for node in net.nodes)
    for node in net.nodes:
        assert len(list(Path(f"/proc/{node.pid}/fd").iterdir())) <= 10 + 2 * COUNT


def _ask_through_all(net: NodeProcesses) -> QueryReport:
    hops = len(PROXIES + OTHERS)
    report = net.query(ALICE, BOB, content_bytes=20_000, hops=hops).result(TIMEOUT_S)
    assert report["reply_digest"] == report["query_digest"]
    return report


def _proxies(net: NodeProcesses, report: QueryReport) -> list[int]:
    indices = {node.id.hex(): node.index for node in net.nodes}
    return [indices[node_id] for node_id in report["route"][:-1]]


def _assert_only_this_one_has_ended(net: NodeProcesses, victim: int) -> None:
    assert [node.index for node in net.nodes if not node.is_running] == [victim]
