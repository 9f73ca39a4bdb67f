"""Padding and liveness of a link. Both are pure, so tests choose each time and each random value."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from tunnel.errors import LinkError, LocalTunnelError
from tunnel.link.handshake import PaddingMode
from tunnel.link.mux import Liveness, Pinger
from tunnel.link.padding import ConstantRate, NoPadding, PoissonPadding


class Middle:
    """Draws the mean gap and the first size."""

    def expovariate(self, lambd: float) -> float:
        return 1 / lambd

    def choice(self, seq: Sequence[int], /) -> int:
        return seq[0]


@dataclass
class Trace:
    """Records the padding calls of a policy."""

    padded: list[int]
    ticks: int = 0

    def pad(self, units: int) -> bool:
        self.padded.append(units)
        return True

    def tick(self) -> None:
        self.ticks += 1


def test_no_padding() -> None:
    link, policy = Trace([]), NoPadding()
    policy.act(link, 1e9, Middle())
    assert (link.padded, link.ticks, policy.next_s) == ([], 0, float("inf"))
    assert policy.mode is PaddingMode.OFF


def test_poisson_padding_has_its_rate_and_its_sizes() -> None:
    rng, link = random.Random(3), Trace([])
    policy = PoissonPadding(2.0, [1, 5, 16, 16], now_s=0.0, rng=rng)
    gaps, now_s = [], 0.0
    for _ in range(4_000):
        gaps.append(policy.next_s - now_s)
        now_s = policy.next_s
        policy.act(link, now_s, rng)
    assert len(link.padded) == 4_000
    assert sum(gaps) / 4_000 == pytest.approx(0.5, rel=0.05)
    # Exponential: 36.8 % are longer than the mean.
    assert sum(gap > 0.5 for gap in gaps) / 4_000 == pytest.approx(0.368, abs=0.03)
    assert link.padded.count(16) == pytest.approx(2_000, rel=0.1)
    assert set(link.padded) == {1, 5, 16}
    assert policy.record_units == link.ticks == 0


def test_padding_that_was_missed_is_not_made_up_for() -> None:
    link = Trace([])
    policy = PoissonPadding(1.0, [1], now_s=0.0, rng=Middle())
    policy.act(link, 0.5, Middle())
    assert link.padded == []
    policy.act(link, 1_000.0, Middle())
    assert link.padded == [1]
    assert policy.next_s == 1_001.0


def test_constant_rate_keeps_the_beat() -> None:
    link, policy = Trace([]), ConstantRate(0.5, 16, now_s=10.0)
    assert policy.record_units == 16
    policy.act(link, 10.4, Middle())
    assert link.ticks == 0
    policy.act(link, 10.6, Middle())
    assert (link.ticks, policy.next_s) == (1, 11.0)
    policy.act(link, 13.2, Middle())
    assert (link.ticks, policy.next_s) == (2, 13.5)


def test_padding_that_cannot_be() -> None:
    for rate, units in ((0.0, [1]), (-1.0, [1]), (1.0, []), (1.0, [0]), (1.0, [64])):
        with pytest.raises(LocalTunnelError):
            PoissonPadding(rate, units, now_s=0.0, rng=Middle())
    with pytest.raises(LocalTunnelError):
        ConstantRate(0.0, 16, now_s=0.0)


def test_liveness_asks_and_then_gives_up() -> None:
    policy = Liveness(quiet_s=25.0, dead_s=20.0)
    assert policy.verdict(110.0, last_received_s=100.0, ping_sent_s=None) == "wait"
    assert policy.verdict(125.0, last_received_s=100.0, ping_sent_s=None) == "ping"
    assert policy.verdict(130.0, last_received_s=100.0, ping_sent_s=125.0) == "wait"
    # Any byte counts: the answer may be behind a long transfer.
    assert policy.verdict(150.0, last_received_s=149.0, ping_sent_s=125.0) == "wait"
    assert policy.verdict(145.0, last_received_s=100.0, ping_sent_s=125.0) == "dead"


def test_one_ping_at_a_time_and_no_answer_without() -> None:
    pinger = Pinger()
    with pytest.raises(LinkError):
        pinger.answered(b"")
    first = pinger.request(1.0)
    assert first is not None
    assert pinger.request(2.0) is None
    with pytest.raises(LinkError):
        pinger.answered(bytes(7))
    pinger.answered(first[-7:])
    assert pinger.sent_s is None
    with pytest.raises(LinkError):
        pinger.answered(first[-7:])
    second = pinger.request(5.0)
    assert second is not None
    assert second != first
