"""A long reply whose asker gives no receipts is given up, and leaves nothing behind at its sender."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future
from typing import Any

import pytest

from tests.network_model.model import QUIET_S
from tests.network_model.network import ModelNetwork, prefixed
from tunnel.node import QueryResult
from tunnel.routing.route import Route
from tunnel.services import Query, Reply, Services

ALICE, PROXY, BOB = 0, 1, 2


def long(query: Query, reply: Reply) -> Generator[Any, Any, None]:
    """Writes a megabyte: in profile `long` less than a tenth of it needs no receipt."""
    while (yield from query.read()):
        pass
    for _ in range(100):
        yield from reply.write(bytes(10_000))


def ask(net: ModelNetwork, mode: str) -> Future[QueryResult]:
    net[BOB].context.service = Services({"long": long})
    route = Route((net[PROXY].id,), net[BOB].id)
    return net[ALICE].query(net[BOB].id, prefixed("long", b""), route=route, mode=mode, profile="long")


@pytest.mark.parametrize("mode", ["cached", "route"])
def test_receipts_come(mode: str) -> None:
    with ModelNetwork(3) as net:
        future = ask(net, mode)
        net.pass_time(60.0)
        assert future.result(timeout=0).reply_bytes == 1_000_000
        assert not net[BOB].context.receipts


@pytest.mark.parametrize("fault", ["alice is cut off", "alice crashes", "alice cancels", "the proxy crashes"])
@pytest.mark.parametrize("mode", ["cached", "route"])
def test_receipts_that_do_not_come(mode: str, fault: str) -> None:
    """Each left its challenge in the table of the node that answers, for as long as that ran."""
    with ModelNetwork(3) as net:
        future = ask(net, mode)
        context = net[BOB].context
        while mode == "cached" and not context.receipts:
            net.step(1)
        if mode == "route":
            net.step(60)
        assert not future.done()
        if fault == "alice is cut off":
            net.wires.hold(net.machines[ALICE].host, net.machines[PROXY].host)
        elif fault == "alice cancels":
            future.cancel()
        else:
            net.crash(ALICE if fault == "alice crashes" else PROXY)
        net.pass_time(QUIET_S)
        assert future.done()
        assert not context.receipts
        assert all(node.is_idle for node in net.nodes)
        assert not net.bugs
