"""Cover traffic: when a link sends a record that it need not send, and of what size.

Pure policies: the clock and the randomness are arguments, and what is to be done is done to something with
`pad` and `tick`, a multiplexer. A driver waits until `next_s`, calls `act`, and so on.

* `NoPadding`: never.
* `PoissonPadding`: records of padding at random times, whatever else the link carries. The gaps are
  exponential, so no look at the past tells when the next comes; sizes are those that content has. It hides
  that a quiet link is quiet, not how much a busy one carries.
* `ConstantRate`: records of one size at one rate, with content in them if there is any. What an observer sees
  does not depend on content at all; what it costs is the rate, and half a gap of delay at each link.

Source: docs/protocol.md, "Padding".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tunnel.errors import LocalTunnelError
from tunnel.link.buffers import MAX_UNITS
from tunnel.link.handshake import PaddingMode

__all__ = ["ConstantRate", "NoPadding", "Padded", "PaddingPolicy", "PoissonPadding", "Randomness"]

_NEVER_S = float("inf")


class Padded(Protocol):
    """What can be padded: a multiplexer."""

    def pad(self, units: int) -> bool:
        """Send one record of padding."""

    def tick(self) -> None:
        """Let one record of the fixed size go."""


class Randomness(Protocol):
    """What a policy needs of `random.SystemRandom`, or of a seeded one in tests."""

    def expovariate(self, lambd: float) -> float:
        """A gap between events of which `lambd` come in a second."""

    def choice(self, seq: Sequence[int], /) -> int:
        """One of them."""


class PaddingPolicy(Protocol):
    """When and what.

    Attributes:
        mode: as it is told in the handshake.
        record_units: for the multiplexer: the one size of all records, or 0.
        next_s: when to call `act` next.
    """

    mode: PaddingMode
    record_units: int
    next_s: float

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """Do what is due, and move `next_s` on."""


class NoPadding:
    """No record that need not be."""

    mode = PaddingMode.OFF
    record_units = 0
    next_s = _NEVER_S

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """Nothing."""


class PoissonPadding:
    """Records of padding at random times.

    Args:
        rate_per_s: how many on average, above 0.
        units: the sizes to draw from, each as likely as it is often named.
        now_s, rng: for the first gap.
    Raises:
        LocalTunnelError: no rate, or a size that no record has.
    """

    mode = PaddingMode.POISSON
    record_units = 0

    def __init__(self, rate_per_s: float, units: Sequence[int], *, now_s: float, rng: Randomness) -> None:
        if not rate_per_s > 0 or not units or not all(1 <= size <= MAX_UNITS for size in units):
            raise LocalTunnelError(f"padding of {list(units)} units {rate_per_s} times a second")
        self._rate_per_s = rate_per_s
        self._units = tuple(units)
        self.next_s = now_s + rng.expovariate(rate_per_s)

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """One record if it is time. What was missed, for a node that slept, is not made up for."""
        if now_s >= self.next_s:
            link.pad(rng.choice(self._units))
            self.next_s = now_s + rng.expovariate(self._rate_per_s)


class ConstantRate:
    """One record of one size each `gap_s`, and none otherwise.

    Args:
        gap_s: between records, above 0.
        units: their size, MIN_FIXED_UNITS (scheduler.py) to 63.
        now_s: the first is due one gap later.
    Raises:
        LocalTunnelError: no gap. (The size is checked by the multiplexer.)
    """

    mode = PaddingMode.CONSTANT

    def __init__(self, gap_s: float, units: int, *, now_s: float) -> None:
        if not gap_s > 0:
            raise LocalTunnelError(f"records each {gap_s} s, expected more than 0")
        self._gap_s = gap_s
        self.record_units = units
        self.next_s = now_s + gap_s

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """One record if it is time; the beat is kept, but beats that were missed stay missed."""
        if now_s >= self.next_s:
            link.tick()
            missed = (now_s - self.next_s) // self._gap_s
            self.next_s += (missed + 1) * self._gap_s
