"""At a node's own limits, its queries wait and do not fail."""

from __future__ import annotations

import pytest

from reactor import Service
from tests.support.held import Held
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tunnel import Limits, LocalNetwork, QueryFailed, ReplyMode
from tunnel.errors import ErrorCode


@pytest.mark.full
@pytest.mark.parametrize(
    ("profile", "count"),
    [("default", 600), ("bulk", 200), ("bulk-hctr", 200)],
    ids=str,
)
def test_more_queries_with_reply_blocks_than_a_link_has_windows_for(profile: str, count: int) -> None:
    """Each takes a stream of the link for itself, and one for its reply; there are two neighbours."""
    with LocalNetwork(peers=3) as net:
        queries = [
            net[0].query(net[1].id, b"%d" % number, hops=1, mode=ReplyMode.ROUTE, profile=profile)
            for number in range(count)
        ]
        assert [query.result(PATIENCE_S).read() for query in queries] == [b"%d" % n for n in range(count)]
        wait_until_idle(net)


@pytest.mark.parametrize("mode", [ReplyMode.NONE, ReplyMode.ROUTE, ReplyMode.CACHED, ReplyMode.KNOWN_DEST])
def test_more_queries_than_may_run(mode: ReplyMode) -> None:
    with LocalNetwork(peers=3, limits=Limits(queries=4)) as net:
        queries = [net[0].query(net[1].id, b"%d" % n, hops=1, mode=mode) for n in range(20)]
        for query in queries:
            query.result(PATIENCE_S)
        wait_until_idle(net)


def test_more_tunnels_than_may_run() -> None:
    with LocalNetwork(peers=3, limits=Limits(queries=1)) as net:

        def use() -> Service[bytes | None]:
            tunnel = yield from net[0].open_tunnel(net[1].id, hops=1)
            try:
                return (yield from tunnel.ask(b"hello"))
            finally:
                yield from tunnel.close()

        asked = [net.submit(use()) for _ in range(5)]
        assert [each.result(PATIENCE_S) for each in asked] == [b"hello"] * 5
        wait_until_idle(net)


def test_a_query_waits_as_long_as_its_own_limit_allows() -> None:
    held = Held()
    with LocalNetwork(peers=3, service=held, limits=Limits(queries=1)) as net:
        first = net[0].query(net[1].id, b"first", hops=1)
        wait_until(net, lambda: held.asked)
        with pytest.raises(QueryFailed, match="not done within") as caught:
            net[0].query(net[1].id, b"second", hops=1, timeout_s=0.05).result(PATIENCE_S)
        assert caught.value.code is ErrorCode.TIMEOUT
        assert held.asked == 1
        net.submit(_let(held)).result(PATIENCE_S)
        assert first.result(PATIENCE_S).read() == b"first"


@pytest.mark.parametrize("limits", [Limits(queries=1, waiting_queries=0), Limits(queries=1, idle_s=0.2)])
def test_where_nothing_ends_it_fails_as_busy(limits: Limits) -> None:
    held = Held()
    with LocalNetwork(peers=3, service=held, limits=limits) as net:
        net[0].query(net[1].id, b"first", hops=1)
        wait_until(net, lambda: held.asked)
        with pytest.raises(QueryFailed, match="the limit of this node") as caught:
            net[0].query(net[1].id, b"second", hops=1, retries=3).result(PATIENCE_S)
        assert caught.value.code is ErrorCode.BUSY


def _let(held: Held) -> Service[None]:
    held.let()
    return
    yield
