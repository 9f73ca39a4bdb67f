"""Places for the threads of a blocking service: given in the order of arrival, and lost by who is silent.

A query holds its place until its thread ends. While none is free, the first in line ends the query whose peer
has been silent longest, as soon as that is `silent_s`; one at a time, and none while nobody waits. So a quiet
conversation may last as long as it likes, and those who only hold a place lose it.

Rules for changing this file:

1. What is known of the holders belongs to the reactor's thread. The thread of a query calls `give_back` only.
2. Between the receive of a place and the return of `take` nothing is yielded: a cancellation there would lose
   the place for good.
3. Only who has the turn receives places, so a time limit on that receive moves nobody in the line.
"""

from __future__ import annotations

from typing import Final, Protocol

from reactor import ChannelEmpty, CurrentTime, Service, SharedChannel, move_on_after
from tunnel.errors import IdleTimeout, LocalTunnelError, PeerError

__all__ = ["Holder", "Places"]

# A week: well below what a poller can wait.
_MAX_SILENT_S: Final = 604_800


class Holder(Protocol):
    """A query that has a place.

    Attributes:
        place: as `take` gave it.
        moved_s: when something last moved between it and its peer, or could begin to.
    """

    place: int
    moved_s: float

    @property
    def waits_for_peer(self) -> bool:
        """Whether its thread can go on with nothing but the peer: there is nothing on its way to either."""
        ...

    def end(self, error: PeerError) -> None:
        """End the query with this error, soon. Called once at most; the place comes back with its thread."""
        ...


class Places:
    """The places of one service.

    Args:
        count: of places, at least 1.
        silent_s: the silence, in seconds, for which a query may lose its place.
    Attributes:
        waiting: queries that wait for a place.
    Raises:
        LocalTunnelError: `silent_s` is not above 0, or more than a week. ValueError: `count` is less than 1.
    """

    def __init__(self, count: int, silent_s: float) -> None:
        if not 0 < silent_s <= _MAX_SILENT_S:
            raise LocalTunnelError(f"silent_s is above 0 s and at most {_MAX_SILENT_S} s, got {silent_s}")
        self.waiting = 0
        self._silent_s = silent_s
        self._free: SharedChannel[int] = SharedChannel(count, "threads of a blocking service")
        for place in range(count):
            self._free.send_nowait(place)
        self._turn: SharedChannel[None] = SharedChannel(1, "turn to get a thread of a blocking service")
        self._turn.send_nowait(None)
        self._holders: dict[Holder, None] = {}  # of two that are silent alike the elder goes first
        # The place of the query that was ended last, until it has come back.
        self._ending: int | None = None
        self._ended_s = 0.0

    @property
    def free(self) -> int:
        """How many can be had at once. True at a moment only."""
        return len(self._free)

    def take(self) -> Service[int]:
        """Wait for a place. Cancellation: none is taken.

        The caller starts the thread that gives it back before its next yield.
        """
        self.waiting += 1
        try:
            yield from self._turn.receive()
            try:
                return (yield from self._take_next())
            finally:
                self._turn.send_nowait(None)
        finally:
            self.waiting -= 1

    def give_back(self, place: int) -> None:
        """Let the next have it. From any thread."""
        self._free.send_nowait(place)

    def enter(self, holder: Holder) -> None:
        """From now on this one may be ended for its silence."""
        self._holders[holder] = None

    def leave(self, holder: Holder) -> None:
        """From now on it may not: the query is over, whether or not its thread is. Nothing if it has left."""
        self._holders.pop(holder, None)

    def _take_next(self) -> Service[int]:
        place: int | None = None
        while place is None:
            try:
                place = self._free.receive_nowait()
            except ChannelEmpty:
                look_s = self._look((yield CurrentTime()))
                place = yield from move_on_after(look_s, self._free.receive())
        if place == self._ending:
            self._ending = None
        return place

    def _look(self, now_s: float) -> float:
        """End the query that is silent longest, if it is time. Returns seconds until the next look."""
        if self._ending is not None and (rest_s := self._ended_s + self._silent_s - now_s) > 0:
            return rest_s  # a place is about to come; a thread that does not end by then is not waited for
        # Over a copy: a node in another thread may have the same service.
        silent = [holder for holder in tuple(self._holders) if holder.waits_for_peer]
        longest = min(silent, key=lambda holder: holder.moved_s, default=None)
        if longest is None:
            return self._silent_s
        if (rest_s := longest.moved_s + self._silent_s - now_s) > 0:
            return rest_s
        self.leave(longest)
        self._ending, self._ended_s = longest.place, now_s
        longest.end(
            IdleTimeout(
                f"silent for {now_s - longest.moved_s:.0f} s, and others wait for the thread it holds"
            )
        )
        return self._silent_s
