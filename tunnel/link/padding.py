"""Cover traffic of a link: when it sends a record of padding, and of what size.

A driver waits until `next_s`, calls `act` with the multiplexer, and repeats.

* `NoPadding`: never.
* `PoissonPadding`: records of padding at random times, independent of other traffic. The gaps are
  exponential, so the past does not predict the next one; the sizes are those of content. It hides that a
  quiet link is quiet, not how much a busy one carries.
* `ConstantRate`: records of one size at one rate, with content in them if there is any. An observer learns
  nothing about content. The price is the rate, and half a gap of delay at each link.

Pure: times and randomness are arguments. Source: docs/protocol.md, "Padding".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tunnel.errors import LocalTunnelError
from tunnel.link.handshake import PaddingMode
from tunnel.link.records import MAX_UNITS

__all__ = ["ConstantRate", "NoPadding", "PaddingPolicy", "PoissonPadding"]

_NEVER_S = float("inf")


class Randomness(Protocol):
    """The part of `random.Random` that the policies need."""

    def expovariate(self, lambd: float) -> float: ...
    def choice(self, seq: Sequence[int], /) -> int: ...


class Padded(Protocol):
    """A multiplexer, as padding sees it."""

    def pad(self, units: int) -> bool:
        """Send one record of padding."""

    def tick(self) -> None:
        """Let one record of the fixed size leave."""


class PaddingPolicy(Protocol):
    """Decides when to pad, and with which records.

    Attributes:
        mode: sent in the handshake.
        record_units: for the multiplexer: the fixed size of all records, or 0.
        next_s: when to call `act` next.
    """

    mode: PaddingMode
    record_units: int
    next_s: float

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """Send the records that are due and set `next_s`."""


class NoPadding:
    """No padding."""

    mode = PaddingMode.OFF
    record_units = 0
    next_s = _NEVER_S

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """Do nothing."""


class PoissonPadding:
    """Records of padding at random times.

    Args:
        rate_per_s: mean number per second, above 0.
        units: sizes to draw from.
        now_s, rng: for the first gap.
    Raises:
        LocalTunnelError: the rate is not above 0, or a size is not 1 to 63.
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
        """Send one record if it is due. Records missed while the machine slept are not sent later."""
        if now_s >= self.next_s:
            link.pad(rng.choice(self._units))
            self.next_s = now_s + rng.expovariate(self._rate_per_s)


class ConstantRate:
    """One record of a fixed size each `gap_s`, and no others.

    Args:
        gap_s: between records, above 0.
        units: their size, MIN_FIXED_UNITS (scheduler.py) to 63; checked by the multiplexer.
        now_s: the first record is due one gap later.
    Raises:
        LocalTunnelError: the gap is not above 0.
    """

    mode = PaddingMode.CONSTANT

    def __init__(self, gap_s: float, units: int, *, now_s: float) -> None:
        if not gap_s > 0:
            raise LocalTunnelError(f"records each {gap_s} s, expected more than 0")
        self._gap_s = gap_s
        self.record_units = units
        self.next_s = now_s + gap_s

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """Send one record if it is due. The rhythm is kept; missed records are not sent later."""
        if now_s >= self.next_s:
            link.tick()
            missed = (now_s - self.next_s) // self._gap_s
            self.next_s += (missed + 1) * self._gap_s
