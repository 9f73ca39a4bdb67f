"""How the delay in a slot is drawn: an exponential distribution, as Loopix has it, cut off at 30 s.

With exponential delays a proxy is a queue that forgets: of two frames that it holds, each is equally likely
to leave first, whichever came first. Source: docs/protocol.md, "Onion header"; Piotrowska et al., "The Loopix
Anonymity System" (2017), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["MAX_DELAY_10MS", "draw_delay"]

MAX_DELAY_10MS = 3_000  # 30 s
_UNITS_PER_S = 100


def draw_delay(mean_s: float, random_bytes: Callable[[int], bytes]) -> int:
    """A delay for one proxy, in units of 10 ms, 0 to 3,000.

    Args:
        mean_s: of the distribution before it is cut off. 0: no delay, and nothing is drawn.
    """
    if mean_s <= 0:
        return 0
    # In (0, 1]: 0 would have no logarithm.
    uniform = (int.from_bytes(random_bytes(8), "big") + 1) / 2**64
    return min(MAX_DELAY_10MS, round(-math.log(uniform) * mean_s * _UNITS_PER_S))
