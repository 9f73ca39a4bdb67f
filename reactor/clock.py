"""Clocks. The loop asks no other module for the time, so a test can give it a clock of its own.

`FakeClock` jumps to the next timer when all is idle: a test of an hour's timeouts takes no time and has no
races with the real clock.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "FakeClock", "MonotonicClock"]


class Clock(Protocol):
    """Seconds that never go back, of no fixed origin.

    A clock that also has `jump_to(deadline_s)` is never waited for: when nothing is ready and no thread works
    for the loop, the loop calls it with the deadline of the next timer instead.
    """

    def now(self) -> float:
        """Give the time in seconds."""


class MonotonicClock:
    """The system's monotonic clock."""

    __slots__ = ()

    now = staticmethod(time.monotonic)


class FakeClock:
    """A clock that stands still until it is told to go, or the loop has nothing to do but wait for it."""

    __slots__ = ("_now_s",)

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        """Give the time in seconds."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let time pass. To be called from a service or while the loop is not running.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"a clock goes forward, got {seconds} s")
        self._now_s += seconds

    def jump_to(self, deadline_s: float) -> None:
        """Let time pass up to a deadline; nothing happens if it is over."""
        self._now_s = max(self._now_s, deadline_s)
