"""Small tools of the node's services: a time limit on one step, turns of what one at a time may do, and what
happens to an object that its user has dropped.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from reactor import Closed, Service, Signal, TimedOut, timeout_after
from tunnel.errors import IdleTimeout

__all__ = ["Post", "Turn", "release_dropped", "within"]

Post: TypeAlias = Callable[[Callable[[], object]], None]
"""Has a function called in the reactor's thread, from any thread."""

T = TypeVar("T")


def within(limit_s: float, service: Service[T], what: str) -> Service[T]:
    """Run a service, for so long.

    Args:
        what: names what was waited for, in the error's text.
    Raises:
        IdleTimeout: the time is over. Whatever the service raises.
    """
    try:
        return (yield from timeout_after(limit_s, service))
    except TimedOut as error:
        raise IdleTimeout(f"{what} within {limit_s:g} s") from error


def release_dropped(post: Post, release: Callable[[], object], text: str | None, source: object) -> None:
    """For `__del__`, in any thread: have `release` called in the reactor, and warn as a file would.

    Args:
        text: of the ResourceWarning; None: none. source: what was dropped.
    """
    with contextlib.suppress(Closed):  # then all of it has ended
        post(release)
    if text is not None:
        warnings.warn(text, ResourceWarning, stacklevel=3, source=source)


class Turn:
    """One user at a time, in the order in which they came.

        place = turn.enter()
        try:
            yield from turn.wait(place)
            ...
        finally:
            turn.leave(place)

    `enter` is a call and no service: two services that enter two turns within one step have the same order in
    both.

    Attributes:
        gaps: users that left with `leaves_gap` just before the one whose turn it is, or was last.
    """

    __slots__ = ("_queue", "gaps")

    def __init__(self) -> None:
        self._queue: deque[Signal | None] = deque()  # the first has the turn; None is a gap
        self.gaps = 0

    def enter(self) -> Signal:
        """Take a place in the queue."""
        place = Signal()
        self._queue.append(place)
        return place

    def wait(self, place: Signal) -> Service[None]:
        """Wait until the place is the first."""
        if self._queue[0] is not place:
            yield place

    def leave(self, place: Signal, *, leaves_gap: bool = False) -> None:
        """Leave the queue, whether the turn has come or not. Nothing if it was left before.

        Args:
            leaves_gap: what this user would have taken is still to come, and is not for the next.
        """
        queue = self._queue
        if place not in queue:
            return
        if leaves_gap:
            queue[queue.index(place)] = None
        was_first = queue[0] is place or queue[0] is None
        if not leaves_gap:
            queue.remove(place)
        while queue and queue[0] is None:
            queue.popleft()
            self.gaps += 1
        if was_first and queue and queue[0] is not None:
            queue[0].set()
