"""Attack: proxies, guards and destinations that fail routes, against the draw of routes alone.

A simulated client draws routes as a node does and records what became of them, on a clock of its own. So many
clients can be tried, and the figures are means.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from statistics import mean

import pytest

from tests.tunnel.helpers import ALL_PROFILE_BYTES, NOW_S
from tunnel.codes import CODES, ErrorCode, Report, Suspects
from tunnel.directory import StaticDirectory
from tunnel.geometry import DEFAULT, Profile
from tunnel.identity.descriptor import Address, Descriptor, OnionKeyInfo
from tunnel.identity.keys import EPOCH_S
from tunnel.routing.addresses import LOCAL, PUBLIC
from tunnel.routing.draw_route import RouteProvider
from tunnel.routing.guards import Guards
from tunnel.routing.peers import PeerTable
from tunnel.routing.route import Route

ALICE, BOB = b"A" * 32, b"B" * 32
PROFILE = Profile(DEFAULT)
GAP_S = 5.0  # between two queries

Fails = Callable[[Route], bool]


def ids(count: int) -> list[bytes]:
    return [number.to_bytes(32, "big") for number in range(count)]


def _peer(node_id: bytes, host: str) -> Descriptor:
    start_s = int(NOW_S) - 600
    keys = (OnionKeyInfo(start_s, start_s + EPOCH_S, b"o" * 32),)
    return Descriptor(node_id, b"l" * 32, keys, (Address(host, 1),), ALL_PROFILE_BYTES, 1, 2**32 - 1, False)


class Client:
    """Sends queries of three proxies, each up to four times.

    Args:
        proxies: that it knows, each in a network of its own.
        fails: whether a route fails; every node of it is then a suspect.
        has_guards: its routes begin with guards.
    """

    def __init__(
        self, proxies: Iterable[bytes], fails: Fails, seed: int, *, has_guards: bool = False
    ) -> None:
        self.now_s = 1000.0
        self.peers = PeerTable(lambda: self.now_s, own_id=ALICE)
        directory = StaticDirectory()
        for number, node_id in enumerate(proxies):
            directory.publish(_peer(node_id, f"{40 + number}.1.1.1"))
        directory.publish(_peer(BOB, "39.1.1.1"))
        self.guards = Guards() if has_guards else None
        self.routes = RouteProvider(
            directory, self.peers, own_id=ALICE, rules=PUBLIC if has_guards else LOCAL, guards=self.guards,
            wall_clock=lambda: NOW_S + self.now_s, rng=random.Random(seed),
        )  # fmt: skip
        self.fails = fails
        self.failures = self.lost = 0
        self.firsts: list[bytes] = []
        self.used: set[bytes] = set()

    def ask(self, times: int, bob: bytes = BOB) -> None:
        for _ in range(times):
            suspects: dict[bytes, None] = {}
            for _ in range(4):
                route = self.routes.route(bob, 3, PROFILE, suspects=tuple(suspects))
                self.firsts.append(route.proxies[0])
                self.now_s += 1
                if not self.fails(route):
                    self.peers.worked(route.nodes)
                    self.used.update(route.proxies)
                    break
                self.failures += 1
                self.peers.suspect(route.nodes)
                suspects.update(dict.fromkeys(route.proxies))
            else:
                self.lost += 1
            self.now_s += GAP_S


def passes_one_of(hostile: Iterable[bytes]) -> Fails:
    wanted = set(hostile)
    return lambda route: not wanted.isdisjoint(route.nodes)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_two_failures_for_each_hostile_proxy_of_twelve(count: int) -> None:
    proxies = ids(12)
    hostile = proxies[:count]
    clients = [Client(proxies, passes_one_of(hostile), seed) for seed in range(60)]
    for client in clients:
        client.ask(40)
    # 1.0, 3.1 and 5.9.
    assert mean(client.failures for client in clients) <= 2 * count
    assert max(client.failures for client in clients) <= 4 * count
    assert sum(client.lost for client in clients) == 0
    # Honest nodes are avoided for minutes, and not for good.
    assert mean(len(client.used) for client in clients) > 12 - count - 1.5
    for client in clients:
        client.fails = passes_one_of([])
        client.now_s += 2_000
        assert client.peers.avoided() == set()


def test_a_proxy_that_spoils_every_second_route_is_found_too() -> None:
    proxies = ids(12)
    coin = random.Random(7)
    clients = [
        Client(proxies, lambda route: proxies[0] in route.nodes and coin.random() < 0.5, seed)
        for seed in range(30)
    ]
    for client in clients:
        client.ask(100)
    # Without scores it would be in a quarter of the routes, and spoil an eighth of them.
    assert mean(client.failures for client in clients) < 0.4 * 100 / 8
    assert sum(client.lost for client in clients) == 0


def test_at_most_a_third_of_the_nodes_is_avoided_by_score() -> None:
    proxies = ids(12)
    client = Client(proxies, passes_one_of([]), 1)
    for node_id in proxies[:9]:
        client.peers.suspect([node_id])
    drawn = {node_id for _ in range(200) for node_id in client.routes.route(BOB, 3, PROFILE).proxies}
    assert len(drawn) == 8
    assert drawn.issuperset(proxies[9:])


# --- guards


def test_a_hostile_guard_is_passed_over_while_it_spoils_routes() -> None:
    for seed in range(20):
        client = Client(ids(20), passes_one_of([]), seed, has_guards=True)
        client.ask(1)
        guard = client.firsts[0]
        client.fails = passes_one_of([guard])
        client.ask(20)
        assert client.lost == 0
        assert client.failures <= 6
        assert client.firsts[-1] != guard
        client.fails = passes_one_of([])
        client.now_s += 3_600
        client.ask(1)
        assert client.firsts[-1] == guard, "it has stayed a guard"
        assert client.guards is not None
        assert len(client.guards) == 3


def test_hostile_proxies_do_not_choose_the_guard() -> None:
    """Two of twenty proxies spoil all their routes, and the first guard is in each of these failures."""
    shares = []
    for seed in range(15):
        proxies = ids(20)
        client = Client(proxies, passes_one_of([]), seed, has_guards=True)
        client.ask(3)
        assert client.guards is not None
        before = {guard.node_id for guard in client.guards}
        hostile = [node_id for node_id in proxies if node_id not in before][:2]
        client.fails = passes_one_of(hostile)
        client.firsts.clear()
        client.ask(60)
        assert {guard.node_id for guard in client.guards} == before
        shares.append(client.firsts.count(client.firsts[0]) / len(client.firsts))
    assert mean(shares) > 0.95


def test_a_hostile_destination_does_not_make_new_guards() -> None:
    """It fails whatever comes over one of the guards."""
    for seed in range(10):
        client = Client(ids(20), passes_one_of([]), seed, has_guards=True)
        client.ask(3)
        assert client.guards is not None
        before = {guard.node_id for guard in client.guards}
        client.fails = lambda route: True
        client.ask(30)
        assert {guard.node_id for guard in client.guards} == before
        client.fails = passes_one_of([])
        client.now_s += 2_400
        client.ask(1)
        assert client.firsts[-1] == client.firsts[0]


# --- the table of codes


ROUTE = (*ids(3), BOB)


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
@pytest.mark.parametrize("hop", range(4))
def test_who_reports_is_a_suspect_and_no_more_than_the_table_says(hop: int, code: ErrorCode) -> None:
    alone = Report(ROUTE, False, hop, code)
    expected = {
        Suspects.REPORTER: (hop,),
        Suspects.BEFORE: tuple(range(hop + 1)),
        Suspects.ROUTE: (0, 1, 2, 3),
    }
    assert alone.blamed == expected[CODES[code].suspects]
    assert hop in alone.blamed
    about_next = Report(ROUTE, False, hop, code, about_next=True)
    assert about_next.blamed[:2] == (hop, hop + 1)[: 4 - hop]
    assert hop in about_next.blamed


@pytest.mark.parametrize("code", [ErrorCode.BAD_CONTENT, ErrorCode.TRUNCATED, ErrorCode.TIMEOUT])
def test_a_destination_that_a_proxy_has_deceived_is_never_the_only_suspect(code: ErrorCode) -> None:
    report = Report(ROUTE, False, 3, code)
    assert not report.is_refusal
    assert set(report.blamed_ids) == set(ROUTE)
