"""The order within a pass, shuffled: for tests that look for hidden dependence on it."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

__all__ = ["shuffle"]


def shuffle(ready: deque[Any], generator: random.Random) -> None:
    """Put the queue into an order that the generator draws, in place."""
    shuffled = list(ready)
    generator.shuffle(shuffled)
    ready.clear()
    ready.extend(shuffled)
