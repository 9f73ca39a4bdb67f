"""What a node knows of its peers from its own dealings with them: who was seen, who failed, who is to wait.

Fed by the link table (links that begin, dials that fail, links that break; each handshake tells the peer's
clock) and by what the routes of this
node's own queries report. Nothing here comes from hearsay. A liar among the hops can accuse the node behind
it, and always accuses itself with it (`Report.blamed`), so blame does no more than a pause.

Bounded: at the limit the entry that was touched longest ago goes, and one without failures before any that
has some. Failures are noted of peers that this node chose itself, so strangers cannot push them out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from tunnel.codes import Report
from tunnel.errors import QueryFailed

__all__ = ["PeerListener", "PeerTable"]

# The first pause is about as long as a restart takes; the longest lets a node that was repaired soon be used.
_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 600.0
_MAX_PEERS: Final = 4096  # about 200 bytes each


class PeerListener(Protocol):
    """Who wants to know of peers that come and go. Called in the reactor's thread; must not raise."""

    def peer_online(self, node_id: bytes) -> None:
        """A peer answers that did not, or that nothing was known of."""

    def peer_offline(self, node_id: bytes) -> None:
        """A peer does not answer, or was blamed for a failure: it is not to be used for a while."""


@dataclass(slots=True)
class _Peer:
    last_seen_s: float = float("-inf")
    failures: int = 0
    pauses: int = 0
    retry_s: float = float("-inf")
    is_online: bool | None = None  # None: not known yet
    clock_ahead_s: float | None = None  # of the wall clock that it has told, before this table's clock


class PeerTable:
    """Peers by node id.

    Args:
        now_s: a clock that never steps back.
        own_id: this node; blame of itself is no news of a peer.
        limit: entries at most.
    Attributes:
        now_s: that clock. listeners: told of each change.
    """

    def __init__(self, now_s: Callable[[], float], *, own_id: bytes = b"", limit: int = _MAX_PEERS) -> None:
        self.now_s = now_s
        self._own_id = own_id
        self._limit = limit
        self._peers: OrderedDict[bytes, _Peer] = OrderedDict()
        self.listeners: list[PeerListener] = []

    def __len__(self) -> int:
        return len(self._peers)

    def seen(self, node_id: bytes) -> None:
        """It has just shown that it lives: a handshake, or its part in a query that went well."""
        peer = self._touch(node_id)
        peer.last_seen_s, peer.retry_s = self.now_s(), float("-inf")
        peer.failures = peer.pauses = 0
        if peer.is_online is not True:
            peer.is_online = True
            for listener in self.listeners:
                listener.peer_online(node_id)

    def failed(self, node_id: bytes) -> None:
        """It could not be reached, its link broke, or it is blamed: a pause, each time twice as long.

        What fails while it rests begins the pause anew and does not double it: all that passes over one link
        breaks with it, and ten queries or standing tunnels are not to cost a guard ten minutes.
        """
        if node_id == self._own_id:
            return
        peer = self._touch(node_id)
        now_s = self.now_s()
        peer.failures += 1
        peer.pauses += now_s >= peer.retry_s
        peer.retry_s = now_s + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(peer.pauses - 1, 30))
        if peer.is_online is not False:
            peer.is_online = False
            for listener in self.listeners:
                listener.peer_offline(node_id)

    def told_clock(self, node_id: bytes, clock_s: float) -> None:
        """What its wall clock shows now, as it has told in a handshake, to the minute."""
        self._touch(node_id).clock_ahead_s = clock_s - self.now_s()

    def clock_s(self, node_id: bytes) -> float | None:
        """What its wall clock should show now, if nobody has set it since; None: it has told nothing."""
        peer = self._peers.get(node_id)
        return None if peer is None or peer.clock_ahead_s is None else peer.clock_ahead_s + self.now_s()

    def clocks(self) -> list[float]:
        """What the wall clocks of all peers show that have told theirs."""
        known = [peer.clock_ahead_s for peer in list(self._peers.values())]
        return [ahead_s + self.now_s() for ahead_s in known if ahead_s is not None]

    def reported(self, report: Report) -> None:
        """A route has told how a frame went: all did their part, or some are to blame."""
        if report.succeeded:
            for node_id in report.route:
                if node_id != self._own_id:
                    self.seen(node_id)
        else:
            for index in report.blamed:
                self.failed(report.route[index])

    def query_failed(self, error: QueryFailed) -> None:
        """A query of this node's own has failed: note whom it blames."""
        for node_id in error.blamed:
            self.failed(node_id)

    def last_seen_s(self, node_id: bytes) -> float | None:
        """When it was seen last, on the table's clock; None: never, or long forgotten."""
        peer = self._peers.get(node_id)
        return None if peer is None or peer.last_seen_s == float("-inf") else peer.last_seen_s

    def failures(self, node_id: bytes) -> int:
        """How often it has failed since it was seen."""
        peer = self._peers.get(node_id)
        return 0 if peer is None else peer.failures

    def backed_off(self) -> list[bytes]:
        """Those that are not to be used now, who failed least first; of equals whose pause ends first."""
        now_s = self.now_s()
        # A copy first: routes are drawn in the caller's thread, while the reactor's may note what happens.
        pauses = [
            (peer.failures, peer.retry_s, node_id)
            for node_id, peer in list(self._peers.items())
            if peer.retry_s > now_s
        ]
        return [node_id for _, _, node_id in sorted(pauses)]

    def _touch(self, node_id: bytes) -> _Peer:
        peer = self._peers.get(node_id)
        if peer is None:
            if len(self._peers) >= self._limit:
                self._evict()
            peer = self._peers[node_id] = _Peer()
        self._peers.move_to_end(node_id)
        return peer

    def _evict(self) -> None:
        harmless = (node_id for node_id, peer in self._peers.items() if not peer.failures)
        del self._peers[next(harmless, next(iter(self._peers)))]
