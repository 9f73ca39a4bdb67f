"""The limit on unread content of all tunnels: it is exact when it matters, and costs little otherwise."""

from __future__ import annotations

from tunnel.errors import ErrorCode
from tunnel.node.limits import TunnelBudget


class FakeTunnel:
    """A tunnel that holds what a test says, and counts how often it is asked."""

    def __init__(self) -> None:
        self.held = self.asked = 0
        self.given_up: ErrorCode | None = None

    @property
    def held_bytes(self) -> int:
        self.asked += 1
        return self.held

    def give_up(self, code: ErrorCode) -> None:
        self.given_up, self.held = code, 0


def make(limit_bytes: int, count: int) -> tuple[TunnelBudget, list[FakeTunnel]]:
    budget, tunnels = TunnelBudget(limit_bytes), [FakeTunnel() for _ in range(count)]
    for tunnel in tunnels:
        budget.enter(tunnel)
    return budget, tunnels


def test_tunnels_that_are_read_are_asked_rarely_and_kept() -> None:
    budget, tunnels = make(100_000, 2)
    for _ in range(1_000):
        for tunnel in tunnels:
            budget.received(tunnel, 1_000)
    assert [tunnel.given_up for tunnel in tunnels] == [None, None]
    assert all(tunnel.asked <= 2_000_000 // 100_000 for tunnel in tunnels)


def test_above_the_limit_the_tunnel_that_holds_most_is_given_up() -> None:
    budget, (reader, hoarder, small) = make(100_000, 3)
    for _ in range(60):
        budget.received(reader, 1_000)
        hoarder.held += 900
        budget.received(hoarder, 1_000)
    small.held = 50_000
    budget.received(small, 50_000)
    assert (reader.given_up, hoarder.given_up, small.given_up) == (None, ErrorCode.BUSY, None)
    assert budget.total == 50_000


def test_a_tunnel_that_has_ended_is_not_counted() -> None:
    budget, (first, second) = make(100_000, 2)
    budget.received(first, 90_000)
    budget.leave(first)
    second.held = 90_000
    budget.received(second, 90_000)
    assert second.given_up is None
    budget.leave(second)
    assert budget.total == 0
