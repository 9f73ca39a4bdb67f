"""Threat: a stranger tells of thousands of invented nodes for hours. Who is found when, and who is drawn?

A model of one node's tables on a fake clock, with the rates of the real services: a message of 8 descriptors
a minute from each honest neighbour and one a second from each hostile one, and a dial every 5 s. Fifty real
nodes, 4,000 invented ones. Goals: the real ones are found although he tells of others all the time; the share
of hostile hops in routes is at most the share of hostile nodes among those that answered; and afterwards
nothing is left of the attack.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache

import pytest

from tests.tunnel.helpers import NOW_S, OPENSSL, SMALL, make_keys
from tunnel.crypto.primitives import TunnelEngine
from tunnel.directory import ExchangeDirectory
from tunnel.directory.exchange import MAX_DESCRIPTORS, PER_NETWORK
from tunnel.directory.hearsay import LIFE_S, MOST_VERIFIED, PER_SOURCE, Verifications
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.node import Limits
from tunnel.routing.addresses import PUBLIC
from tunnel.routing.draw_route import RouteProvider
from tunnel.routing.guards import Guards
from tunnel.routing.peers import PeerTable

pytestmark = pytest.mark.full

OWN = b"me" * 16
REAL, INVENTED, NEIGHBOURS, ROUTES = 50, 4_000, 6, 300
FIRST_DIALS = 32
DAY_S = 24 * 3_600


@cache
def described(name: str, host: str) -> Descriptor:
    return make_keys(name).descriptor((Address(host, 4000),), NOW_S, OPENSSL)


@cache
def real() -> list[Descriptor]:
    return [described(f"real {number}", f"{50 + number}.1.1.1") for number in range(REAL)]


@cache
def invented() -> list[Descriptor]:
    """At addresses all over the world: he may sign any."""
    draw = random.Random(1)
    hosts = [f"{draw.choice((151, 163, 188, 193))}.{draw.randrange(256)}.1.1" for _ in range(INVENTED)]
    return [described(f"invented {number}", host) for number, host in enumerate(hosts)]


class World:
    """A newcomer that knows one real node, and what happens to its tables.

    Args:
        answering: hostile nodes that answer when they are dialled.
    """

    def __init__(self, answering: Sequence[Descriptor] = (), seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.directory = ExchangeDirectory(real()[:1], engine=OPENSSL, rng=self.rng)
        self.answering = {peer.node_id for peer in (*real(), *answering)}
        self.now_s = NOW_S
        self.allowed = float(FIRST_DIALS)
        self.dials = 0

    def pass_time(self, seconds: int, lies: Sequence[Descriptor] = (), liars: int = 1) -> None:
        """Let some seconds pass, in which strangers of `liars` networks tell of `lies`."""
        for _ in range(seconds):
            self.now_s += 1
            if int(self.now_s) % (60 // NEIGHBOURS) == 0:
                self._tell(real(), b"neighbour %d" % self.rng.randrange(NEIGHBOURS))
            for liar in range(liars if lies else 0):
                self._tell(lies, b"liar %d" % liar)
            self._dial()
            if int(self.now_s) % 10 == 0:
                self.directory.expire(self.now_s)

    def _tell(self, known: Sequence[Descriptor], source: bytes) -> None:
        told = self.rng.sample(known, MAX_DESCRIPTORS)
        signed = [each.signed for each in told]
        self.directory.learn(signed, source=source, own_id=OWN, now_s=self.now_s)

    def _dial(self) -> None:
        """As `seek_peers` does."""
        self.allowed = min(FIRST_DIALS, self.allowed + 1 / Limits().probe_s)
        while self.allowed >= 1 and (peer := self.directory.next_to_dial(self.now_s)) is not None:
            self.allowed -= 1
            self.dials += 1
            if peer.node_id in self.answering:
                self.directory.reached(peer, peer.addresses[0].host, own_id=OWN, now_s=self.now_s)

    @property
    def usable(self) -> set[bytes]:
        return {peer.node_id for peer in self.directory.sample()}

    def hops(self) -> list[list[bytes]]:
        """The proxies of many routes, each of a client with guards of its own."""
        table = PeerTable(lambda: self.now_s, own_id=OWN)
        return [
            list(
                RouteProvider(
                    self.directory, table, own_id=OWN, rules=PUBLIC, guards=Guards(), rng=self.rng,
                    wall_clock=lambda: self.now_s,
                ).route(real()[0].node_id, 3, SMALL).proxies
            )
            for _ in range(ROUTES)
        ]  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("liars", [1, 8])
def test_real_nodes_are_found_while_thousands_are_invented(liars: int) -> None:
    world, ids = World(), {peer.node_id for peer in real()}
    world.pass_time(600 if liars == 1 else 1_500, invented(), liars)
    assert world.usable == ids, "all real nodes, and none that was invented"
    assert all(ids.issuperset(route) for route in world.hops())
    assert len(world.directory) - REAL <= min(1024, (liars + NEIGHBOURS) * PER_SOURCE)
    assert world.dials <= FIRST_DIALS + (world.now_s - NOW_S) / Limits().probe_s + 1


@pytest.mark.full
def test_without_an_attack_a_newcomer_finds_fifty_nodes_in_minutes() -> None:
    world = World()
    world.pass_time(60)
    assert len(world.usable) > 20
    world.pass_time(240)
    assert len(world.usable) == REAL


@pytest.mark.full
def test_nothing_is_left_when_the_attack_has_ended() -> None:
    world = World()
    world.pass_time(300, invented())
    assert len(world.directory) > REAL
    world.pass_time(int(LIFE_S))
    assert {peer.node_id for peer in world.directory} == {peer.node_id for peer in real()}


@pytest.mark.full
def test_hostile_nodes_that_answer_get_at_most_their_share_of_the_hops() -> None:
    """Ten machines in ten networks, each of which answers for a hundred identities."""
    hostile = [
        described(f"hostile {number}", f"{150 + number % 10}.9.{number % 200}.{number // 10 + 1}")
        for number in range(1_000)
    ]
    world = World(answering=hostile)
    world.pass_time(1_800, hostile)
    ids = {peer.node_id for peer in hostile}
    assert 100 < len(world.usable & ids) <= 10 * PER_NETWORK
    routes = world.hops()
    share = 10 / (10 + REAL)  # of the machines, whatever number of identities
    drawn = [node_id in ids for route in routes for node_id in route]
    assert sum(drawn) / len(drawn) <= share + 0.04
    firsts = [route[0] in ids for route in routes]
    assert sum(firsts) / len(firsts) <= share + 0.07, "guards too: three deviations of 300 draws"


def _verified(engine_calls: list[bytes]) -> TunnelEngine:
    """An engine that notes each signature that it verifies."""
    engine = copy(OPENSSL)

    def verify(public: bytes, message: bytes, signature: bytes) -> None:
        engine_calls.append(signature)
        OPENSSL.ed25519_verify(public, message, signature)

    setattr(engine, "ed25519_verify", verify)  # noqa: B010 - a method, for mypy
    return engine


def _useless(kind: str) -> list[bytes]:
    """Descriptors with valid signatures that never fill a place in the table."""
    keys, place = make_keys("useless"), (Address("151.1.1.1", 4000),)
    private = (Address("10.1.1.1", 4000),)
    make: dict[str, Callable[[int], Descriptor]] = {
        "expired": lambda number: keys.descriptor(place, NOW_S - 30 * DAY_S - number, OPENSSL),
        "older and older": lambda number: keys.descriptor(place, NOW_S - number, OPENSSL),
        "newer and newer": lambda number: keys.descriptor(place, NOW_S + number, OPENSSL),
        "not to be dialled": lambda number: keys.descriptor(private, NOW_S + number, OPENSSL),
    }
    return [make[kind](number).signed for number in range(400)]


@pytest.mark.parametrize("kind", ["expired", "older and older", "newer and newer", "not to be dialled"])
def test_descriptors_that_fill_no_place_are_not_verified_without_end(kind: str) -> None:
    """Eight a second on one link of a network, and again: each was a signature to verify."""
    verified: list[bytes] = []
    directory = ExchangeDirectory(engine=_verified(verified))
    told = itertools.cycle(_useless(kind))
    for second in range(int(LIFE_S)):
        message = itertools.islice(told, MAX_DESCRIPTORS)
        directory.learn(message, source=b"liar", own_id=OWN, now_s=NOW_S + second)
    assert len(verified) <= MOST_VERIFIED
    assert len(directory) <= 1
    honest = real()[0]
    assert directory.learn([honest.signed], source=b"neighbour", own_id=OWN, now_s=NOW_S + LIFE_S) == 1


def test_a_source_that_was_too_talkative_is_heard_again_later() -> None:
    verifications = Verifications()
    assert all(verifications.take(b"s", NOW_S) for _ in range(MOST_VERIFIED))
    assert not verifications.take(b"s", NOW_S + LIFE_S - 1)
    assert verifications.take(b"other", NOW_S)
    assert verifications.take(b"s", NOW_S + LIFE_S)
    assert verifications.take(b"s", NOW_S - DAY_S), "the clock was set back"
