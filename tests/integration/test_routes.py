"""Routes over running nodes: a dead hop is named and avoided, a returned node is used again, guards stay."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from reactor import Service, Sleep
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tests.tunnel.helpers import OPENSSL
from tunnel import (
    InnerService,
    Limits,
    LocalNetwork,
    Node,
    QueryFailed,
    QueryResult,
    ReplyMode,
    Route,
)
from tunnel.client import Client
from tunnel.errors import BadRoute, ErrorCode, TargetNotAllowed
from tunnel.identity.descriptor import Address
from tunnel.identity.keys import NodeKeys
from tunnel.modes import ErrorMode
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.node.upkeep import publish

MODES = [ReplyMode.NONE, ReplyMode.ROUTE, ReplyMode.OTHER_ROUTE, ReplyMode.CACHED]
PEERS = 11
DEAD, BOB = 3, 10


@pytest.fixture
def net() -> Iterator[LocalNetwork]:
    """A network with one dead node. The others have not noticed yet."""
    with LocalNetwork(peers=PEERS) as network:
        network.stop(DEAD)
        yield network


def _query(net: LocalNetwork, proxies: list[int], *, content: Any = b"hello", **how: Any) -> QueryResult:
    route = Route(tuple(net[index].id for index in proxies), net[BOB].id)
    return net[0].query(net[BOB].id, content, route=route, **how).result(PATIENCE_S)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("proxies", [[DEAD, 1], [1, DEAD], [1, DEAD, 2]], ids=["first", "last", "middle"])
def test_a_dead_hop_is_named_and_avoided(net: LocalNetwork, mode: ReplyMode, proxies: list[int]) -> None:
    result = _query(net, proxies, mode=mode, retries=3)
    if mode is not ReplyMode.NONE:
        assert result.read() == b"hello"
    (failure,) = result.attempts
    assert failure.code is ErrorCode.NEXT_REFUSED
    assert net[DEAD].id in failure.blamed
    assert net[DEAD].id not in result.route.proxies
    assert not set(failure.blamed) & set(result.route.proxies)
    assert len(result.route.proxies) == len(proxies)
    if proxies[0] != DEAD:
        # The report names the hop that could not continue, and the next one.
        assert failure.report is not None
        assert failure.blamed == (net[1].id, net[DEAD].id)
        assert net[DEAD].id.hex()[:8] in str(failure)
    assert net[DEAD].id in net[0].peers.avoided()
    wait_until_idle(net)


@pytest.mark.parametrize("mode", [ReplyMode.OTHER_ROUTE, ReplyMode.REPLY_ON_REPLY])
@pytest.mark.parametrize("back", [[DEAD, 4], [4, DEAD]], ids=["first", "last"])
def test_a_dead_hop_of_the_reply_route_is_named_and_avoided(
    net: LocalNetwork, mode: ReplyMode, back: list[int]
) -> None:
    reply_route = Route(tuple(net[index].id for index in back), net[0].id)
    result = _query(net, [1, 2], mode=mode, reply_route=reply_route, retries=3)
    assert result.read() == b"hello"
    (failure,) = result.attempts
    assert failure.code is ErrorCode.NEXT_REFUSED
    assert net[DEAD].id in failure.blamed
    assert net[DEAD].id.hex()[:8] in str(failure)
    assert "of the reply path" in str(failure)
    assert net[DEAD].id in net[0].peers.avoided()


def test_routes_drawn_afterwards_leave_it_out_while_there_are_others(net: LocalNetwork) -> None:
    _query(net, [DEAD], retries=1)
    routes = [net[0].query(net[BOB].id, b"x", hops=3).result(PATIENCE_S).route for _ in range(20)]
    assert not any(net[DEAD].id in route.proxies for route in routes)
    # Without another node the failed one is tried again, and the error explains it.
    with pytest.raises(QueryFailed) as caught:
        net[0].query(net[BOB].id, b"x", hops=PEERS - 2).result(PATIENCE_S)
    assert net[DEAD].id in caught.value.blamed


@pytest.mark.parametrize("mode", [ReplyMode.ROUTE, ReplyMode.OTHER_ROUTE, ReplyMode.CACHED])
def test_a_reply_ends_the_back_off_of_all_its_proxies(net: LocalNetwork, mode: ReplyMode) -> None:
    """Also when the reply arrives before the report, and for nodes without a link to this one."""
    peers, back = net[0].peers, Route((net[4].id, net[5].id), net[0].id)
    if mode is not ReplyMode.OTHER_ROUTE:
        back = Route((), net[0].id)
    carriers = [net[1].id, net[2].id, *back.proxies]
    for _ in range(5):
        for node_id in carriers:
            peers.failed(node_id)
        reply_route = back if back.proxies else None
        assert _query(net, [1, 2], mode=mode, reply_route=reply_route).read() == b"hello"
        assert not set(carriers) & set(peers.backed_off())
        assert [peers.failures(node_id) for node_id in carriers] == [0] * len(carriers)


def test_a_tunnel_that_answers_ends_the_back_off_of_all_its_proxies(net: LocalNetwork) -> None:
    """Immediately, not with its report, which comes at the end of the tunnel or never."""
    peers, route = net[0].peers, Route((net[1].id, net[2].id), net[BOB].id)

    def use() -> Service[None]:
        for node_id in route.nodes:
            peers.failed(node_id)
        with (yield from net[0].open_tunnel(net[BOB].id, route=route)) as tunnel:
            yield from tunnel.ask(b"hello")
            assert not set(route.nodes) & set(peers.backed_off())
            # Only once: a hop that fails queries is backed off, even while a tunnel passes over it.
            peers.failed(net[2].id)
            yield from tunnel.ask(b"hello")
            assert net[2].id in peers.backed_off()

    net.submit(use()).result(PATIENCE_S)
    assert [peers.failures(node_id) for node_id in route.nodes] == [0, 1, 0]
    wait_until_idle(net)


@pytest.mark.parametrize("mode", [ReplyMode.ROUTE, ReplyMode.OTHER_ROUTE, ReplyMode.CACHED])
def test_a_link_that_breaks_under_the_reply_names_its_neighbour(mode: ReplyMode) -> None:
    """The last hop of the reply path dies during the reply, and the query is repeated."""
    with LocalNetwork(peers=8) as net:
        back = Route((net[2].id,), net[0].id) if mode is ReplyMode.OTHER_ROUTE else None
        victim = 1 if back is None else 2
        killed: list[bytes] = []

        def progress(sent: int, received: int) -> None:
            if received and not killed:
                killed.append(net[victim].id)
                net.serving[net[victim].id].cancel()

        content, route = bytes(3_000_000), Route((net[1].id,), net[7].id)
        query = net[0].query(
            net[7].id, content, route=route, reply_route=back, mode=mode, progress=progress, retries=3
        )
        result = query.result(PATIENCE_S)
        assert result.read() == content
        result.close()
        assert killed[0] in result.attempts[0].blamed
        assert killed[0] not in result.route.proxies


def test_without_retries_the_failure_is_the_callers(net: LocalNetwork) -> None:
    with pytest.raises(QueryFailed, match="NEXT_REFUSED") as caught:
        _query(net, [1, DEAD])
    assert caught.value.attempts == ()
    assert caught.value.blamed == (net[1].id, net[DEAD].id)


def test_an_error_lists_every_attempt_and_why_there_is_no_other() -> None:
    with LocalNetwork(peers=4) as net:
        net.stop(1)
        net.stop(2)
        route = Route((net[1].id,), net[3].id)
        with pytest.raises(QueryFailed) as caught:
            net[0].query(net[3].id, b"hello", route=route, retries=5).result(PATIENCE_S)
        error = caught.value
        assert len(error.attempts) == 2
        assert {attempt.blamed for attempt in error.attempts} == {(net[1].id,), (net[2].id,)}
        text = str(error)
        assert text.startswith("2 attempts failed; attempt 1: could not connect to the first hop")
        assert "attempt 2: " in text
        assert "no other route: a route of 1 proxies" in text
        assert "2 to be avoided" in text


def test_one_attempt_without_another_route_is_one_attempt() -> None:
    with LocalNetwork(peers=3) as net:
        net.stop(1)
        with pytest.raises(QueryFailed, match=r"^1 attempt failed; attempt 1: .*; no other route: "):
            net[0].query(net[2].id, b"hello", hops=1, retries=1).result(PATIENCE_S)


def test_a_demonstration_retries_around_the_dead_as_well() -> None:
    with LocalNetwork(peers=6) as net:
        for index in (1, 2, 3):
            net.stop(index)
        for seed in range(10):
            rng, route = random.Random(seed), Route((net[1].id,), net[5].id)
            result = net[0].query(net[5].id, b"hi", route=route, retries=3, rng=rng).result(PATIENCE_S)
            blamed = [attempt.blamed for attempt in result.attempts]
            assert len(blamed) == len(set(blamed)), "nobody is blamed twice"


def test_retries_are_bounded() -> None:
    with LocalNetwork(peers=8) as net:
        for index in range(1, 7):
            net.stop(index)
        with pytest.raises(QueryFailed) as caught:
            net[0].query(net[7].id, b"hello", hops=1, retries=2).result(PATIENCE_S)
        assert len(caught.value.attempts) == 3
        assert len({attempt.blamed for attempt in caught.value.attempts}) == 3


class _Fails(InnerService):
    """Counts each query, then fails it."""

    count = 0

    def handle(self, query: Any, reply: Any) -> Service[None]:
        self.count += 1
        while (yield from query.read()):
            pass
        raise RuntimeError("as it is told")


def test_a_query_that_the_destination_refuses_is_not_retried() -> None:
    service = _Fails()
    with LocalNetwork(peers=5, service=service) as net:
        with pytest.raises(QueryFailed, match="SERVICE_FAILED") as caught:
            net[0].query(net[4].id, b"hello", hops=1, retries=5).result(PATIENCE_S)
        assert service.count == 1
        assert caught.value.attempts == ()


@pytest.mark.parametrize("error_mode", ErrorMode)
def test_a_refusal_is_not_retried_in_any_error_mode(error_mode: ErrorMode) -> None:
    """In mode `none` it arrives as a bare reset: the first hop has forwarded it, and is not to blame."""
    count = 0

    def refuse(query: Any, reply: Any) -> Service[None]:
        nonlocal count
        count += 1
        yield from query.read()
        raise TargetNotAllowed("this node has no such service")

    with LocalNetwork(peers=5, service=refuse) as net:
        way: Any = {"hops": 2, "retries": 3, "error_mode": error_mode}
        with pytest.raises(QueryFailed):
            net[0].query(net[4].id, bytes(3_000_000), **way).result(PATIENCE_S)
        assert count == 1
        if error_mode is not ErrorMode.XOR:  # it names the destination, not the reason
            assert net[0].peers.avoided() == set()


def test_a_destination_that_is_dead_costs_the_hops_before_it_a_pause_only() -> None:
    with LocalNetwork(peers=5) as net:
        net.stop(4)
        with pytest.raises(QueryFailed) as caught:
            net[0].query(net[4].id, b"hello", hops=1, retries=2).result(PATIENCE_S)
        # The hop may have lied, so others were tried: each blames itself and the destination.
        assert len(caught.value.attempts) == 3
        assert all(net[4].id in attempt.blamed for attempt in caught.value.attempts)
        assert net[0].query(net[3].id, b"hello", hops=2).result(PATIENCE_S).read() == b"hello"


def test_content_in_a_file_is_sent_again_from_where_it_began(net: LocalNetwork) -> None:
    content = os.urandom(300_000)
    file = io.BytesIO(b"not this" + content)
    file.seek(8)
    result = _query(net, [1, DEAD], content=file, retries=2)
    assert len(result.attempts) == 1
    assert result.read() == content


def test_content_that_cannot_be_sent_again_is_refused_with_retries(net: LocalNetwork) -> None:
    class Once:
        def read(self, size: int, /) -> bytes:
            return b""

    with pytest.raises(TypeError, match="sent again"):
        _query(net, [1], content=Once(), retries=1)
    with pytest.raises(ValueError, match="retries"):
        _query(net, [1], retries=17)
    assert _query(net, [1], content=Once()).read() == b""


def test_a_sink_that_has_got_something_gets_nothing_twice() -> None:
    """The proxy dies during the reply. The sink has received its beginning, so the caller gets the error."""
    with LocalNetwork(peers=5) as net:
        taken = bytearray()

        class Sink:
            def write(self, data: memoryview) -> None:
                if not taken:
                    net.serving[net[1].id].cancel()
                taken.extend(data)

        content = bytes(3_000_000)
        with pytest.raises(QueryFailed) as caught:
            net[0].query(
                net[4].id, content, route=Route((net[1].id,), net[4].id), sink=Sink(), retries=3
            ).result(PATIENCE_S)
        assert 0 < len(taken) < len(content)
        assert caught.value.attempts == ()


def test_several_replies_reach_their_sinks_after_a_retry(net: LocalNetwork) -> None:
    sinks = [io.BytesIO(), io.BytesIO()]
    result = _query(net, [1, DEAD], mode=ReplyMode.OTHER_ROUTE, replies=2, sinks=sinks, retries=2)
    assert len(result.attempts) == 1
    assert [sink.getvalue() for sink in sinks] == [b"hello", b""]


class _Silent(InnerService):
    """Reads each query, and never answers."""

    def handle(self, query: Any, reply: Any) -> Service[None]:
        while (yield from query.read()):
            pass
        yield Sleep(10 * PATIENCE_S)


@pytest.mark.full
def test_all_attempts_together_have_the_time_of_one() -> None:
    with LocalNetwork(peers=5, service=_Silent()) as net:
        net.stop(1)
        route = Route((net[1].id,), net[4].id)
        with pytest.raises(QueryFailed) as caught:
            net[0].query(net[4].id, b"", route=route, retries=2, timeout_s=1.5).result(PATIENCE_S)
    first, second = caught.value.attempts
    assert (first.code, second.code) == (ErrorCode.NEXT_REFUSED, ErrorCode.TIMEOUT)
    assert "not done within" in str(second)
    assert "within 1.5 s" not in str(second), "what the first attempt has left"


@pytest.mark.parametrize("error_mode", [ErrorMode.XOR, ErrorMode.NONE])
def test_other_error_modes_retry_with_what_they_report(net: LocalNetwork, error_mode: ErrorMode) -> None:
    result = _query(net, [DEAD, 1], error_mode=error_mode, retries=2)
    assert result.read() == b"hello"
    assert result.attempts[0].blamed == (net[DEAD].id,)


# --- never fewer proxies than requested


CALLS: dict[str, Any] = {
    "query": lambda net, **how: net[0].query(net[1].id, b"x", **how).result(PATIENCE_S),
    "call": lambda net, **how: net[0].call(net[1].id, b"x", **how),
    "client": lambda net, **how: Client(net[0]).query(net[1].id, b"x", **how),
    "tunnel": lambda net, **how: net[0].tunnel(net[1].id, _hello, **how).result(PATIENCE_S),
    "open_tunnel": lambda net, **how: net.submit(_opened(net, **how)).result(PATIENCE_S),
}


def _hello(tunnel: NodeTunnel) -> Service[None]:
    assert (yield from tunnel.ask(b"hello")) == b"hello"


def _opened(net: LocalNetwork, **how: Any) -> Service[None]:
    with (yield from net[0].open_tunnel(net[1].id, **how)) as tunnel:
        yield from tunnel.ask(b"hello")


@pytest.mark.parametrize("name", CALLS)
def test_a_network_too_small_for_the_default_is_an_error_with_the_numbers(name: str) -> None:
    for limits in (Limits(), Limits(prepared=1, prepared_tunnels=1)):
        with LocalNetwork(peers=3, limits=limits) as net:
            with pytest.raises(BadRoute, match="2 too few") as caught:
                CALLS[name](net)
            assert (caught.value.hops, caught.value.available) == (3, 1)
            assert "--hops 1" in caught.value.hint
            for hops in (1, 0):
                CALLS[name](net, hops=hops)


def test_the_default_of_all_calls_is_the_nodes_limit() -> None:
    with LocalNetwork(peers=6, limits=Limits(route_hops=4)) as net:
        assert len(net[0].query(net[1].id, b"x").result(PATIENCE_S).route.proxies) == 4
        report = net[0].tunnel(net[1].id, _hello).result(PATIENCE_S)
        assert report is not None
        assert len(report.route) == 5
    with LocalNetwork(peers=5, limits=Limits(route_hops=4)) as net:
        for call in CALLS.values():
            with pytest.raises(BadRoute, match="a route of 4 proxies"):
                call(net)


def test_a_reply_route_has_no_fewer_proxies_either() -> None:
    with LocalNetwork(peers=2) as net:
        # Bob's own route to Alice, of `answer_hops` proxies: one.
        with pytest.raises(QueryFailed, match="the reply path needs 1 proxies, and this node has 0"):
            net[0].query(net[1].id, b"x", hops=0, mode=ReplyMode.KNOWN_DEST).result(PATIENCE_S)
        with pytest.raises(BadRoute):
            net[0].query(net[1].id, b"x", hops=1, mode=ReplyMode.OTHER_ROUTE)
    with LocalNetwork(peers=4, limits=Limits(answer_hops=0)) as net:
        query = net[0].query(net[1].id, b"x", hops=0, mode=ReplyMode.REPLY_ON_REPLY)
        result = query.result(PATIENCE_S)
        with pytest.raises(BadRoute) as caught:
            net[0].follow_up(result, b"more")
        assert (caught.value.hops, caught.value.available) == (3, 2)
        assert net[0].follow_up(result, b"more", hops=2).result(PATIENCE_S).read() == b"more"


# --- peers that nothing can be sealed to, and the owner's own


def test_a_peer_that_is_off_for_days_costs_the_others_nothing() -> None:
    with LocalNetwork(peers=6) as net:
        then = time.time() - 3 * 86_400
        stale = NodeKeys.generate(then).descriptor((Address("127.0.0.1", 1),), then, OPENSSL)
        net.directory.publish(stale)
        for mode in MODES:
            for _ in range(5):
                hops = 1 if mode is ReplyMode.OTHER_ROUTE else 3
                net[0].query(net[1].id, b"x", hops=hops, mode=mode).result(PATIENCE_S)
        with pytest.raises(BadRoute, match="1 without an onion key valid any more") as caught:
            net[0].query(net[1].id, b"x", hops=5)
        assert caught.value.available == 4


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_hop_that_has_replaced_its_key_without_publishing_is_avoided(place: int) -> None:
    """Its descriptor looks valid, but no header sealed to it opens. The previous hop reports BAD_HEADER."""
    with LocalNetwork(peers=7) as net:
        ring = net[3].context.codec.ring
        ring.become(ring.keys.rotated(time.time()))
        proxies = [net[1].id, net[2].id]
        proxies.insert(place, net[3].id)
        query = net[0].query(net[6].id, b"x", route=Route(tuple(proxies), net[6].id), retries=2)
        result = query.result(PATIENCE_S)
        assert [attempt.code for attempt in result.attempts] == [ErrorCode.BAD_HEADER]
        assert net[3].id in result.attempts[0].blamed
        assert net[3].id not in result.route.proxies


def test_a_small_network_avoids_a_hop_that_another_one_accuses() -> None:
    """If the accuser was avoided too, there would be too few nodes for a route."""
    with LocalNetwork(peers=5) as net:
        ring = net[3].context.codec.ring
        ring.become(ring.keys.rotated(time.time()))
        route = Route((net[2].id, net[3].id), net[4].id)
        result = net[0].query(net[4].id, b"x", route=route, retries=3).result(PATIENCE_S)
        assert set(result.route.proxies) == {net[1].id, net[2].id}


def test_two_nodes_of_one_owner_in_one_process() -> None:
    """A client beside a serving node: it knows the node's id, or both have one family."""
    family = b"f" * 16
    with LocalNetwork(peers=4) as net:
        thread = net[0].reactor
        known = Node(NodeKeys.generate(time.time()), net.directory, reactor=thread, family=family)
        net.directory.publish(known.descriptor)
        ways: list[dict[str, Any]] = [{"own": [known.id]}, {"family": family}]
        for how in ways:
            client = Node(NodeKeys.generate(time.time()), net.directory, reactor=thread, **how)
            for _ in range(20):
                assert known.id not in client.call(net[0].id, hops=3).route.proxies
                back = client.call(net[0].id, hops=1, mode=ReplyMode.OTHER_ROUTE).reply_route
                assert back is not None
                assert known.id not in back.proxies
            with pytest.raises(BadRoute, match="1 of the same owner"):
                client.call(net[0].id, hops=4)
            own_route = Route((net[1].id, client.id), net[0].id)
            with pytest.raises(BadRoute, match="this node itself"):
                client.query(net[0].id, b"x", route=own_route)
            with pytest.raises(BadRoute, match="this node itself"):
                client.tunnel(net[0].id, _hello, route=own_route)
            client.close()
        known.close()


# --- prepared


def test_prepared_queries_are_used_once_and_discarded_when_a_hop_changes_or_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with LocalNetwork(peers=8, limits=Limits(prepared=2)) as net:
        prepared = net[0].prepared_queries
        taken: list[Any] = []
        take = prepared.take

        def noted_take(kind: Any) -> Any:
            taken.append(take(kind))
            return taken[-1]

        monkeypatch.setattr(prepared, "take", noted_take)

        def wait_full() -> None:
            wait_until(net, lambda: len(prepared) >= 2)

        def ask(mode: ReplyMode = ReplyMode.ROUTE) -> QueryResult:
            return net[0].query(net[7].id, b"hello", hops=3, mode=mode).result(PATIENCE_S)

        assert ask().read() == b"hello"
        wait_full()
        (waiting,) = prepared.ready.values()
        expected = [ready.request.route for ready in waiting]
        assert [ask().route for _ in range(2)] == expected
        assert None not in taken[-2:]
        wait_full()
        # A hop of both has published a new descriptor, so a query sealed to its old key would not open.
        for node in net:
            publish(node.context)
        assert ask().read() == b"hello"
        assert taken[-1] is None
        wait_full()
        for ready in list(waiting):
            net[0].peers.failed(ready.request.route.proxies[1])
        assert not set(ask().route.proxies) & net[0].peers.avoided()
        # A separate kind, and a retry that draws new routes.
        for mode in (ReplyMode.OTHER_ROUTE, ReplyMode.CACHED, ReplyMode.NONE):
            assert [ask(mode).query_bytes for _ in range(3)] == [5, 5, 5]
        assert len(prepared) <= 2 * 4
        wait_until_idle(net)


def test_a_prepared_query_that_fails_is_retried_over_a_fresh_route() -> None:
    with LocalNetwork(peers=4, limits=Limits(prepared=1)) as net:
        prepared = net[0].prepared_queries
        net[0].query(net[3].id, b"hello", hops=1).result(PATIENCE_S)
        wait_until(net, lambda: len(prepared))
        (waiting,) = prepared.ready.values()
        victim = waiting[0].request.route.proxies[0]
        net.stop(next(index for index in range(4) if net[index].id == victim))
        # Remove this node's record of the failure; otherwise the node would not be tried.
        net[0].peers.seen(victim)
        result = net[0].query(net[3].id, b"hello", hops=1, retries=1).result(PATIENCE_S)
        assert result.read() == b"hello"
        assert [attempt.blamed for attempt in result.attempts] in ([], [(victim,)])
        assert result.route.proxies != (victim,)
