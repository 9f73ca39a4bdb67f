"""Attack: a proxy spoils what it relays, and lets others take the blame.

The hostile proxies are real nodes on real sockets whose relay does one thing wrong. The client is an ordinary
one. What must hold:

* With one hostile proxy of five, 39 of 40 queries with `retries=3` succeed, whatever it does.
* The failures lead to the hostile ones: two for each, and a few by chance. Honest nodes are used again.
* Who accuses others gains no part of the routes by it.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.hostile_relay import HostileRelays, spoilers
from tests.support.network import PATIENCE_S
from tunnel import Echo, ErrorCode, Limits, LocalNetwork, QueryFailed, ReplyMode
from tunnel.client import Client
from tunnel.established import TunnelLimits
from tunnel.services import Services, service_prefix

# A silent proxy costs an attempt 0.3 to 0.45 s.
LIMITS = Limits(idle_s=0.3, answer_s=1.0, linger_s=0.3, header_s=2.0)
RETRIES = 3
HOSTILE = 2  # of the network, whose last node is the destination
CONTENT = os.urandom(60_000)  # several chunks in all profiles
FEW = {
    "reset with BUSY", "reset with BAD_CONTENT", "reset with TARGET_NOT_ALLOWED",
    "report TIMEOUT", "report BAD_CONTENT", "report SERVICE_FAILED", "report NEXT_REFUSED of the next",
    "report TIMEOUT of the next", "report BAD_HEADER of the next",
}  # fmt: skip


@pytest.fixture
def relays(monkeypatch: pytest.MonkeyPatch) -> HostileRelays:
    return HostileRelays(monkeypatch)


class Asked:
    """Queries from the first node to the last one."""

    def __init__(self, net: LocalNetwork, **how: Any) -> None:
        self.net = net
        self._how = {"hops": 3, "retries": RETRIES, **how}
        self.succeeded = self.failures = 0
        self.hops: Counter[int] = Counter()  # of the routes that worked, by number of the node

    def ask(self, times: int, content: bytes = CONTENT) -> None:
        net = self.net
        bob = len(net) - 1
        for _ in range(times):
            try:
                result = net[0].query(net[bob].id, content, **self._how).result(PATIENCE_S)
            except QueryFailed as error:
                self.failures += len(error.attempts) or 1
                continue
            if result.has_reply:
                assert result.read() == content
            self.succeeded += 1
            self.failures += len(result.attempts)
            self.hops.update(index for index in range(len(net)) if net[index].id in result.route.proxies)


FULL = pytest.mark.full


def _ways() -> Iterator[Any]:
    """Each way to spoil frames in each mode where it differs; one of them in every run."""
    for name in spoilers:
        is_report = name.startswith(("reset with", "report"))
        for mode in (ReplyMode.ROUTE, ReplyMode.CACHED, ReplyMode.NONE):
            if not is_report or (name in FEW and mode is ReplyMode.CACHED):
                marks = [] if (name, mode) == ("flip a bit", ReplyMode.ROUTE) else [FULL]
                yield pytest.param(name, mode, id=f"{name}, {mode}", marks=marks)


@pytest.mark.parametrize(("name", "mode"), [*_ways()])
def test_one_hostile_proxy_of_five_fails_no_queries(
    relays: HostileRelays, name: str, mode: ReplyMode
) -> None:
    with LocalNetwork(peers=7, limits=LIMITS) as net:
        relays.spoil(net[HOSTILE], spoilers[name])
        asked = Asked(net, mode=mode)
        asked.ask(40)
    assert relays.spoilt, "it was never asked"
    assert asked.succeeded >= 39


@FULL
@pytest.mark.parametrize("name", ["flip a bit", "swallow the query", "garble the status"])
def test_one_hostile_proxy_of_five_on_two_routes(relays: HostileRelays, name: str) -> None:
    """A reply path of its own: each attempt needs four of the five."""
    with LocalNetwork(peers=7, limits=LIMITS) as net:
        relays.spoil(net[HOSTILE], spoilers[name])
        asked = Asked(net, mode=ReplyMode.OTHER_ROUTE, hops=2)
        asked.ask(40)
    assert asked.succeeded >= 39


@pytest.mark.parametrize("count", [pytest.param(1, marks=FULL), 2, pytest.param(3, marks=FULL)])
@pytest.mark.parametrize("name", ["flip a bit", pytest.param("swallow everything", marks=FULL)])
def test_a_client_finds_the_honest_ones(relays: HostileRelays, name: str, count: int) -> None:
    """Of twelve proxies. The number of failures depends on chance: test_blame.py has its mean."""
    with LocalNetwork(peers=14, limits=LIMITS) as net:
        for index in range(1, 1 + count):
            relays.spoil(net[index], spoilers[name])
        asked = Asked(net)
        asked.ask(30, b"short")
        assert asked.succeeded == 30
        assert asked.failures <= 4 * count
        peers = net[0].peers
        hostile = [peers.score(net[index].id) for index in range(1, 1 + count)]
        assert all(hostile) or asked.failures < count
        # The honest are used, all but those that were beside a hostile one lately.
        honest = range(1 + count, 13)
        assert sum(asked.hops[index] > 0 for index in honest) >= len(honest) - 4
        assert not peers.backed_off()


@FULL
@pytest.mark.parametrize("name", ["flip a bit", "swallow everything", "end the query early"])
def test_one_hostile_proxy_of_five_under_tunnels(relays: HostileRelays, name: str) -> None:
    """Tunnels are not opened again by themselves, and have lost at most a few when the proxy is found."""
    limits = replace(LIMITS, idle_s=1.0, tunnel=TunnelLimits(silent_s=1.0))
    with LocalNetwork(peers=7, limits=limits, service=Services({"echo": Echo()})) as net:
        relays.spoil(net[HOSTILE], spoilers[name])
        client, worked = Client(net[0]), 0
        for _ in range(20):
            with contextlib.suppress(QueryFailed), client.tunnel(net[6].id, hops=3) as tunnel:
                worked += tunnel.ask(service_prefix("echo") + b"works", timeout_s=PATIENCE_S) == b"works"
    assert relays.spoilt
    assert worked >= 20 - 4


@FULL
def test_a_client_that_waits_less_than_proxies_do_finds_a_silent_one(relays: HostileRelays) -> None:
    """Its `timeout_s` ends before anybody reports, and leaves no time for retries. But it remembers."""
    with LocalNetwork(peers=7, limits=Limits(linger_s=0.3)) as net:
        relays.spoil(net[HOSTILE], spoilers["swallow everything"])
        asked = Asked(net, timeout_s=0.5)
        asked.ask(20, b"short")
    assert relays.spoilt
    assert asked.succeeded >= 20 - 4


def _drawn(net: LocalNetwork) -> Counter[int]:
    """How often each node of ten is in a route of two proxies, in 200 routes for each."""
    return Counter(
        index
        for _ in range(200)
        for index in range(10)
        if net[index].id in net[0].choose_route(net[9].id, 2).proxies
    )


@pytest.mark.parametrize("code", [ErrorCode.NEXT_REFUSED, pytest.param(ErrorCode.TIMEOUT, marks=FULL)])
def test_accusations_do_not_steer_routes(relays: HostileRelays, code: ErrorCode) -> None:
    """Two of eight proxies accuse the next node of every frame, unless that is the other one."""
    with LocalNetwork(peers=10, limits=LIMITS) as net:
        hostile = {1, 2}
        for index in hostile:
            relays.spoil(net[index], spoilers[f"report {code.name} of the next"])
        drawn = _drawn(net)
        before = sum(drawn[index] for index in hostile) / drawn.total()
        asked = Asked(net, hops=2)
        asked.ask(30, b"short")
        assert asked.succeeded >= 29
        assert not hostile.intersection(asked.hops), "they have let nothing through"
        drawn = _drawn(net)
        after = sum(drawn[index] for index in hostile) / drawn.total()
        assert 0.15 < before < 0.35
        assert after < before / 2
        assert len([index for index in range(3, 9) if drawn[index]]) >= 4, "victims are a third at most"
