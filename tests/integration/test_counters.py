"""Each counter of a node grows when its event happens between real nodes, and at no other time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from types import EllipsisType
from typing import Any

import pytest

from reactor import Service, Sleep
from tests.integration.test_error_reports import fail_hop
from tests.integration.test_silent_tunnels import Swallower
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tests.support.raw_peer import RawPeer
from tunnel import Echo, Limits, LocalNetwork, Node, Profile, QueryFailed, ReplyMode, Route
from tunnel.crypto.primitives import tunnel_engine
from tunnel.errors import PeerError
from tunnel.established import TunnelLimits
from tunnel.geometry import DEFAULT
from tunnel.link.cells import CellType
from tunnel.node.counters import Counters
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.onion.header import Command, Slot, build_header
from tunnel.routing.cover import CoverPlan
from tunnel.services import Query, Reply, Services

ENGINE = tunnel_engine()
PROFILE = Profile(DEFAULT)
LIMITS = Limits(handshake_s=5.0, linger_s=1.0)
ALICE, RELAY, BOB = 0, 1, 2  # of the network


def failing(query: Query, reply: Reply) -> Service[None]:
    yield from query.read()
    raise ZeroDivisionError("on purpose")


SERVICE = Services({"echo": Echo(), "failing": failing})


def route(net: LocalNetwork) -> Route:
    return Route((net[RELAY].id,), net[BOB].id)


def ask(net: LocalNetwork, content: bytes = b"\x04echohello") -> None:
    """A query through the relay, whose reply takes the same way back."""
    query = net[ALICE].query(net[BOB].id, content, route=route(net), mode=ReplyMode.CACHED, profile=PROFILE)
    query.result(PATIENCE_S)


def fails(future: Future[Any]) -> None:
    with pytest.raises((QueryFailed, PeerError)):
        future.result(PATIENCE_S)


def ask_a_failing_service(net: LocalNetwork) -> None:
    with pytest.raises(QueryFailed):
        ask(net, b"\x07failing")


def lose_a_link(net: LocalNetwork) -> None:
    ask(net)
    net.stop(RELAY)


def ask_the_stopped(net: LocalNetwork) -> None:
    net.stop(BOB)
    fails(net[ALICE].query(net[BOB].id, b"\x04echo", route=Route((), net[BOB].id)))


def ask_through_failing_relays(net: LocalNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the three possible proxies works: with three retries the query arrives in the end."""
    for index in (RELAY, 3):
        fail_hop(net[index], monkeypatch, 0, is_backward=False)
    for _ in range(40):  # until a draw has begun with one that fails
        result = net[ALICE].query(net[BOB].id, b"\x04echo", hops=1, retries=3).result(PATIENCE_S)
        if result.attempts:
            return
    raise AssertionError("no route went through a failing relay")


def speak_another_protocol(net: LocalNetwork) -> None:
    with RawPeer(net[RELAY].descriptor, ENGINE) as peer:
        peer.send_bytes(bytes(100))


def connect_twice(net: LocalNetwork) -> None:
    """A second connection beside one whose handshake never comes, at a node that allows one."""
    address = net[RELAY].address
    with socket.create_connection((address.host, address.port), timeout=PATIENCE_S) as first:
        wait_until(net, lambda: net[RELAY].context.half_open == 1)
        with socket.create_connection((address.host, address.port), timeout=PATIENCE_S):
            assert first.recv(1) == b""


def header(net: LocalNetwork, *, age_s: int = 0, opener: int = RELAY) -> bytes:
    slot = Slot(Command.DEST, int(time.time()) + 3600 - age_s, os.urandom(16))
    hop = net[opener].descriptor.hop(int(time.time()))
    return build_header(PROFILE, [(hop, slot)], engine=ENGINE, random_bytes=os.urandom)


def cut_a_header(net: LocalNetwork) -> None:
    with RawPeer(net[RELAY].descriptor, ENGINE).handshake() as peer:
        peer.open(PROFILE, header(net)[:-1])
        peer.send_fin()
        assert peer.reset_code() is not None


def send_headers(net: LocalNetwork, *headers: bytes) -> None:
    """Headers on streams of one link to the relay; the last one is refused."""
    with RawPeer(net[RELAY].descriptor, ENGINE).handshake() as peer:
        for number, each in enumerate(headers):
            peer.open(PROFILE, each, stream=2 * number + 1)
        assert peer.reset_code(stream=2 * len(headers) - 1) is not None
        for number in range(len(headers) - 1):
            peer.send_fin(stream=2 * number + 1)
            assert peer.wait_for(CellType.STATUS, stream=2 * number + 1)


def follow_up(net: LocalNetwork) -> None:
    query = net[ALICE].query(net[BOB].id, b"\x04echo", hops=0, mode=ReplyMode.REPLY_ON_REPLY)
    net[ALICE].follow_up(query.result(PATIENCE_S), b"\x04echomore", hops=0).result(PATIENCE_S)


def send_cover(net: LocalNetwork) -> None:
    plan = CoverPlan(route(net), PROFILE, 9, is_loop=False)
    net[ALICE].send_cover(plan).result(PATIENCE_S)


def use_a_tunnel(net: LocalNetwork) -> None:
    def use(tunnel: NodeTunnel) -> Service[None]:
        stream = yield from tunnel.open("echo")
        yield from stream.write(b"hello")
        stream.close()
        while (yield from stream.read()):
            pass
        with pytest.raises(PeerError):
            yield from tunnel.open("unknown")

    net[ALICE].tunnel(net[BOB].id, use, route=route(net), profile=PROFILE).result(PATIENCE_S)


def abort_a_tunnel(net: LocalNetwork) -> None:
    def use(tunnel: NodeTunnel) -> Service[None]:
        yield from (yield from tunnel.open("echo")).write(b"hello")
        raise PeerError("on purpose")

    fails(net[ALICE].tunnel(net[BOB].id, use, route=route(net), profile=PROFILE))


def use_a_tunnel_that_falls_silent(net: LocalNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(tunnel: NodeTunnel) -> Service[None]:
        yield from tunnel.answered()
        Swallower(monkeypatch).swallow(net[RELAY], net[ALICE], net[BOB])
        yield from tunnel.ask(b"lost")

    fails(net[ALICE].tunnel(net[BOB].id, use, route=route(net), profile=PROFILE))


Counts = dict[str, int | EllipsisType]


@dataclass
class Case:
    """An event, and what it adds to the counters of nodes; `...`: the counter grows.

    Attributes:
        counts: of each node that has any. Counters that are not named here may have changed.
        needs: fixtures that `act` takes after the network.
    """

    act: Callable[..., object]
    counts: dict[int, Counts]
    limits: Limits = LIMITS
    needs: tuple[str, ...] = field(default=())


CHUNK = DEFAULT.chunk_bytes
CASES = {
    "query": Case(
        ask,
        {
            ALICE: {
                "links_dialled": 1,
                "links_accepted": 0,
                "link_bytes_in": ...,
                "link_bytes_out": ...,
                "streams_opened": 1,
                "streams_accepted": 0,
                "queries": 1,
                "queries_succeeded": 1,
                "query_failures": 0,
                "query_retries": 0,
                "query_bytes_out": 10,
                "query_bytes_in": 5,
            },
            RELAY: {
                "links_dialled": 1,
                "links_accepted": 1,
                "streams_opened": 1,
                "streams_accepted": 1,
                "frames_relayed": 1,
                "frames_failed": 0,
                "relayed_bytes_forward": DEFAULT.header_bytes + CHUNK,
                "relayed_bytes_backward": CHUNK,
                "queries_answered": 0,
            },
            BOB: {
                "queries_answered": 1,
                "answers_failed": 0,
                "answer_bytes_in": DEFAULT.header_bytes + CHUNK,
                "answer_bytes_out": CHUNK,
                "frames_relayed": 0,
                "queries": 0,
            },
        },
    ),
    "failing service": Case(
        ask_a_failing_service,
        {
            ALICE: {"queries": 1, "queries_succeeded": 0, "query_failures": 1},
            RELAY: {"frames_failed": 0},
            BOB: {"answers_failed": 1, "queries_answered": 0, "frames_failed": 1},
        },
    ),
    "stopped node": Case(
        ask_the_stopped, {ALICE: {"dials_failed": 1, "query_failures": 1, "links_dialled": 0}}
    ),
    "retries": Case(
        ask_through_failing_relays,
        {ALICE: {"query_retries": ..., "query_failures": ..., "queries_succeeded": ...}},
        needs=("monkeypatch",),
    ),
    "lost link": Case(lose_a_link, {ALICE: {"links_lost": 1}}),
    "no handshake": Case(
        speak_another_protocol,
        {RELAY: {"handshakes_failed": 1, "connections_refused": 0, "links_accepted": 0}},
    ),
    "one connection too many": Case(
        connect_twice,
        {RELAY: {"connections_refused": 1, "handshakes_failed": 1}},
        limits=Limits(half_open=1),
    ),
    "header for another node": Case(
        lambda net: send_headers(net, header(net, opener=BOB)),
        {RELAY: {"headers_unreadable": 1, "headers_refused": 0, "streams_accepted": 1}},
    ),
    "old header": Case(
        lambda net: send_headers(net, header(net, age_s=4201)), {RELAY: {"headers_expired": 1}}
    ),
    "replayed header": Case(
        lambda net: send_headers(net, *[header(net)] * 2), {RELAY: {"headers_replayed": 1}}
    ),
    "header without room": Case(
        lambda net: send_headers(net, header(net), header(net)),
        {RELAY: {"headers_over_rate": 1}},
        limits=Limits(replay_tags=1),
    ),
    "cut header": Case(
        cut_a_header,
        {RELAY: {"headers_refused": 1, "headers_unreadable": 0}},
    ),
    "follow-up": Case(
        follow_up, {ALICE: {"queries": 1, "follow_ups": 1, "cover_frames": 0}, BOB: {"queries_answered": 2}}
    ),
    "cover": Case(send_cover, {ALICE: {"queries": 0, "cover_frames": 1}, BOB: {"cover_received": 1}}),
    "tunnel": Case(
        use_a_tunnel,
        {
            ALICE: {
                "tunnels": 1,
                "tunnels_accepted": 0,
                "tunnels_failed": 0,
                "tunnel_bytes_in": ...,
                "tunnel_bytes_out": ...,
                "sub_streams": 2,
                "sub_streams_accepted": 0,
                "queries": 0,
            },
            RELAY: {"tunnels": 0, "tunnels_accepted": 0, "frames_relayed": 1},
            BOB: {
                "tunnels": 0,
                "tunnels_accepted": 1,
                "tunnels_failed": 0,
                "tunnel_bytes_in": ...,
                "tunnel_bytes_out": ...,
                "sub_streams": 0,
                "sub_streams_accepted": 2,
                "sub_streams_refused": 1,
            },
        },
    ),
    "silent tunnel": Case(
        use_a_tunnel_that_falls_silent,
        {ALICE: {"tunnels_failed": 1, "tunnels_silent": 1}, RELAY: {"tunnels_silent": 0}},
        limits=replace(LIMITS, tunnel=TunnelLimits(silent_s=1.0)),
        needs=("monkeypatch",),
    ),
    "aborted tunnel": Case(
        abort_a_tunnel, {ALICE: {"tunnels": 1, "tunnels_failed": 1}, BOB: {"tunnels_failed": 1}}
    ),
}


def counted(node: Node, wanted: Counts) -> Counts:
    """The counters that `wanted` names; one that has grown as it says by `...`, its value otherwise."""
    now = node.counters.as_dict()
    return {name: ... if value is ... and now[name] else now[name] for name, value in wanted.items()}


@pytest.mark.parametrize("name", CASES)
def test_an_event_and_its_counters(name: str, request: pytest.FixtureRequest) -> None:
    case = CASES[name]
    with LocalNetwork(peers=5, service=SERVICE, limits=case.limits) as net:
        case.act(net, *map(request.getfixturevalue, case.needs))
        for index, wanted in case.counts.items():
            node = net[index]
            try:  # the other end may learn the outcome before this one has counted it
                wait_until(net, lambda: counted(node, wanted) == wanted, 10.0)  # noqa: B023
            except TimeoutError:
                assert counted(node, wanted) == wanted, index
        wait_until_idle(net)
        assert {index: counted(net[index], wanted) for index, wanted in case.counts.items()} == case.counts


def test_the_bytes_of_a_long_tunnel_are_counted_while_it_lasts() -> None:
    limits = replace(LIMITS, idle_s=0.4)
    with LocalNetwork(peers=5, service=SERVICE, limits=limits) as net:
        counted_open: list[bool] = []

        def use(tunnel: NodeTunnel) -> Service[None]:
            yield from tunnel.send(b"\x04echohello")
            while not all(
                (
                    net[RELAY].counters.relayed_bytes_forward,
                    net[RELAY].counters.relayed_bytes_backward,
                    net[BOB].counters.tunnel_bytes_in,
                    net[ALICE].counters.tunnel_bytes_out,
                )
            ):
                yield Sleep(0.01)
            counted_open.append(not tunnel.has_ended)

        net[ALICE].tunnel(net[BOB].id, use, route=route(net), profile=PROFILE).result(PATIENCE_S)
        assert counted_open == [True]


def test_a_tally_adds_the_difference_since_the_last_call() -> None:
    counters, total = Counters(queries=1), [5]
    count = counters.tally(queries=lambda: total[0])
    count()
    total[0] = 7
    count()
    count()
    assert counters.queries == 8


def test_every_counter_has_an_event() -> None:
    grown = {
        name
        for case in CASES.values()
        for each in case.counts.values()
        for name, value in each.items()
        if value
    }
    assert grown == {each.name for each in fields(Counters)}


def test_reading() -> None:
    counters = Counters()
    counters.queries += 3
    kept = counters.as_dict()
    counters.queries += 1
    assert kept["queries"] == 3
    assert dict(counters)["queries"] == 4
    assert "    queries 4\n" in str(counters)
    assert str(counters).count("\n") == len(kept)
