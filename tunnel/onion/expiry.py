"""How expiries are drawn and checked: one rule for queries and reply blocks, so that they look alike.

Source: docs/protocol.md, "Onion header" and "Order of checks".
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from tunnel.errors import ExpiredHeader

__all__ = ["CLOCK_SKEW_S", "HOUR_S", "LATEST_S", "check_expiry", "clock_text", "draw_expiry"]

HOUR_S = 3600
CLOCK_SKEW_S = 600  # clocks of nodes may differ by ten minutes
LATEST_S = 4 * HOUR_S  # now + 1 h + at most 2 h, rounded up to the hour


def draw_expiry(now_s: float, random_bytes: Callable[[int], bytes]) -> int:
    """now + 1 h + uniform(0 … 2 h), rounded up to the hour: seconds since 1970."""
    extra = int.from_bytes(random_bytes(8), "big") % (2 * HOUR_S + 1)
    return -(-(int(now_s) + HOUR_S + extra) // HOUR_S) * HOUR_S


def clock_text(now_s: float) -> str:
    """A time as people see it, in UTC and to the minute: links tell clocks no more exactly either."""
    return f"{datetime.fromtimestamp(now_s, UTC):%Y-%m-%d %H:%M} UTC"


def check_expiry(expiry: int, now_s: float) -> None:
    """Raises ExpiredHeader when `expiry` is past, or later than any honest sender draws."""
    if expiry < now_s - CLOCK_SKEW_S:
        raise ExpiredHeader(
            f"header expired {int(now_s) - expiry} s ago, by the clock here, which shows {clock_text(now_s)}"
        )
    if expiry > now_s + LATEST_S + CLOCK_SKEW_S:
        raise ExpiredHeader(
            f"header's expiry is {expiry - int(now_s)} s ahead, no honest sender draws more than {LATEST_S}: "
            f"one of the two clocks is wrong; the one here shows {clock_text(now_s)}"
        )
