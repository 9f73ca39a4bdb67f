"""A network of nodes in memory, by hand: each mode, restarts, each hostile node, and the same run twice."""

from __future__ import annotations

import hashlib

import pytest

from tests.network_model.hostile import BEHAVIOURS, make_honest, make_hostile
from tests.network_model.network import ModelNetwork, prefixed
from tests.network_model.wires import Passage
from tunnel.errors import QueryFailed
from tunnel.modes import MODES
from tunnel.node import Limits
from tunnel.node.query.request import SERVED_MODES
from tunnel.routing.route import Route


@pytest.mark.parametrize("mode", SERVED_MODES)
@pytest.mark.parametrize("learns", [False, True], ids=["knows all", "learns"])
def test_a_query_in_each_mode(mode: str, learns: bool) -> None:
    with ModelNetwork(6, learns=learns) as net:
        net.pass_time(10.0)
        future = net[0].query(net[5].id, prefixed("echo", b"hello" * 4000), hops=2, mode=mode)
        net.pass_time(10.0)
        result = future.result(timeout=0)
        assert result.read() == (b"hello" * 4000 if MODES[result.mode].has_reply else b"")
        assert not net.bugs


@pytest.mark.parametrize("in_order", [True, False], ids=["stopped", "crashed"])
def test_a_node_that_returns_is_used_again(in_order: bool) -> None:
    with ModelNetwork(5) as net:
        before = net[2].descriptor.onion_keys
        (net.leave if in_order else net.crash)(2)
        net.start(2)
        # A crash loses the replay table, and with it the onion keys.
        assert (net[2].descriptor.onion_keys == before) is in_order
        route = Route((net[2].id,), net[4].id)
        future = net[0].query(net[4].id, prefixed("echo", b"again"), route=route)
        net.pass_time(10.0)
        assert future.result(timeout=0).read() == b"again"


def test_a_node_that_has_just_come_up_is_used_at_once() -> None:
    """The first connection after `mtun up` failed if its node was ready before the others were."""
    with ModelNetwork(3) as net:
        net.crash(1)
        route = Route((net.machines[1].id,), net[2].id)
        early = net[0].query(net[2].id, prefixed("echo", b"x"), route=route)
        while not early.done():
            net.step(1)
        assert isinstance(early.exception(timeout=0), QueryFailed)
        net.start(1)
        future = net[0].query(net[2].id, prefixed("echo", b"again"), route=route)
        net.pass_time(1.0)
        assert future.result(timeout=0).read() == b"again"


@pytest.mark.parametrize("how", BEHAVIOURS)
def test_a_hostile_node_fails_only_the_traffic_that_it_relays(how: str) -> None:
    with ModelNetwork(5) as net:
        make_hostile(net[1], how)

        def ask(*proxies: int) -> QueryFailed | None:
            route = Route(tuple(net[each].id for each in proxies), net[4].id)
            future = net[0].query(net[4].id, prefixed("echo", b"x" * 5000), route=route)
            net.pass_time(200.0)
            error = future.exception(timeout=0)
            assert isinstance(error, QueryFailed | None)
            return error

        assert ask(2, 3) is None
        error = ask(1, 3)
        # Whoever changes a STATUS changes nothing else.
        assert (error is None) == (how == "rewrites")
        assert error is None or error.code is not None
        make_honest(net[1])
        assert ask(1, 3) is None
        assert not net.bugs


@pytest.mark.parametrize("seed", range(4))
def test_newcomers_that_displace_each_other_while_they_speak(seed: int) -> None:
    """One that was about to be read when it lost its place was taken for a fault, with a traceback."""
    with ModelNetwork(8, seed, limits=Limits(half_open=1)) as net:
        asked = []
        for number in range(1, 8):
            asked.append(net[number].query(net[0].id, prefixed("echo", b"x"), hops=0))
            net.step(1)
        net.pass_time(30.0)
        assert all(future.done() for future in asked)
        assert net[0].counters.connections_refused
        assert net[0].context.half_open == 0
        assert net.bugs == []


def test_a_node_that_is_forgotten_while_it_is_dialled_leaves_no_trace() -> None:
    """It was only heard of. Its failed dial was recorded when it was forgotten before that had ended."""
    with ModelNetwork(4, learns=True) as net:
        net.pass_time(10.0)
        real = {machine.id for machine in net.machines}
        net.invent(3, 8)
        inventor, others = net[3], net.nodes[:3]
        for node in others:
            inventor.query(node.id, prefixed("echo", b"x"), hops=0)  # a link, over which it tells
        while not all(node.links.dialling for node in others):
            net.pass_time(0.5)
        net.slept_s += 3600.0
        net.pass_time(30.0)
        for node in others:
            assert node.counters.dials_failed
            assert len(node.peers) <= len(real)


def _trace(seed: int) -> str:
    """A digest of all that passes the wires in a network with a liar and a cut."""
    digest = hashlib.sha256()

    def see(passage: Passage) -> None:
        digest.update(f"{passage.source} {passage.target} {passage.at_s} {len(passage.data)}\n".encode())

    with ModelNetwork(5, seed, learns=True) as net:
        net.wires.observer = see
        net.pass_time(10.0)
        make_hostile(net[3], "garbles")
        for number in range(4):
            net[number].query(net[4].id, prefixed("echo", bytes(40_000)), hops=2, retries=2)
            net.pass_time(0.01)
        for wire in net.wires.live[:3]:
            wire.cut()
        net.pass_time(100.0)
    return digest.hexdigest()


def test_a_run_is_the_same_each_time() -> None:
    assert _trace(1) == _trace(1)
    assert _trace(1) != _trace(2)
