"""The peer table: contact, failures, suspicion and clock of each peer, from a node's own observations.

There are two kinds of failures:

* A failed dial or a broken link, seen by this node itself, is certain. It causes a back-off.
* A failed route has several suspects. Most of them are innocent, and the author of the report may be one of
  them. The failure distributes a weight of 1 among the suspects. The sum for a node is its *score*, which
  halves with time and with each route that works. Nodes with a high score are suspected, and `RouteProvider`
  draws other nodes.

Example: hop B of the route A, B, C swallows all content. A, B and C get a third each, and are avoided for
seven minutes. Later B is in the route D, B, E, which fails as well. B gets most of the weight, because its
score is the highest, and is avoided for 20 minutes, D and E for two.

A node that makes routes fail is a suspect each time, together with varying others. Accusations therefore cost
the accuser more than each of its victims.

Bounded: a score has a limit, and so has the table. In a full table the least recently used entry is dropped,
entries without failures and scores first. Failures and scores are recorded only for peers that this node
chose itself, so strangers cannot displace them.
"""

from __future__ import annotations

import logging
import traceback
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from tunnel.codes import Report
from tunnel.errors import Disconnected, LinkError, NextRefused, QueryFailed

__all__ = ["GUARD_SCORE", "MOST_SCORE", "SUSPECT_SCORE", "PeerListener", "PeerTable"]

log = logging.getLogger("tunnel.node")

# The first back-off is about the time of a restart; the longest still lets a repaired node be used soon.
_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 600.0
_HALF_LIFE_S: Final = 600.0
# Weight of a node without a score. With less, the first failure of a pair decides who gets the next ones.
_PRIOR: Final = 0.25
_NO_SCORE: Final = 0.01  # below it an entry may be dropped like one without failures
SUSPECT_SCORE: Final = 0.12
"""From this score on routes avoid a node: its share of a failure of four nodes, halved by one success."""
GUARD_SCORE: Final = 1.0
"""The same for a guard, which is in all routes: four failures without a success between them."""
MOST_SCORE: Final = 2.0
"""So that a node is avoided for 41 minutes at most after its last failure."""
# Own links that could not be opened or broke. The link table has recorded them by then (`failed`), once for
# all that was on the link.
_OF_LINKS: Final = (NextRefused, Disconnected, LinkError)
_MAX_PEERS: Final = 4096  # about 200 bytes each


class PeerListener(Protocol):
    """Is notified when peers appear and disappear, in the reactor's thread. Its errors are logged."""

    def peer_online(self, node_id: bytes) -> None:
        """A peer answers that was unknown or offline."""

    def peer_offline(self, node_id: bytes) -> None:
        """A peer does not answer or its link broke; it is backed off."""


@dataclass(slots=True)
class _Peer:
    last_seen_s: float = float("-inf")
    failures: int = 0
    pauses: int = 0
    retry_s: float = float("-inf")
    score: float = 0.0  # at `scored_s`
    scored_s: float = 0.0
    is_online: bool | None = None  # None: unknown
    clock_ahead_s: float | None = None  # its wall clock minus this table's clock


class PeerTable:
    """Peers by node id.

    Args:
        now_s: a monotonic clock.
        own_id: this node, which is never backed off.
        limit: of entries.
    Attributes:
        now_s: that clock. listeners: notified of each change.
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
        """The peer is alive: a handshake, or its part in a query that succeeded. Ends its back-off.

        A link that works does not clear a suspect: it may swallow what it carries.
        """
        peer = self._touch(node_id)
        peer.last_seen_s = self.now_s()
        peer.retry_s = float("-inf")
        peer.failures = peer.pauses = 0
        if peer.is_online is not True:
            peer.is_online = True
            self._notify("peer_online", node_id)

    def failed(self, node_id: bytes) -> None:
        """Back a peer off after a failed dial or a broken link; each time twice as long.

        A failure during back-off restarts it without doubling: everything on one link breaks with the link,
        and ten queries or reserve tunnels must not cost a guard ten minutes.
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
            self._notify("peer_offline", node_id)

    def suspect(self, node_ids: Collection[bytes]) -> None:
        """Distribute a weight of 1 among the suspects of a failed route, of which at least one is at fault.

        Nodes with a higher score get more: such a node explains the failure, and relieves the others.
        """
        now_s = self.now_s()
        weights = {node_id: self.score(node_id) + _PRIOR for node_id in node_ids if node_id != self._own_id}
        total = sum(weights.values())
        for node_id, weight in weights.items():
            peer = self._touch(node_id)
            peer.score = min(MOST_SCORE, weight - _PRIOR + weight / total)
            peer.scored_s = now_s

    def worked(self, node_ids: Iterable[bytes]) -> None:
        """A route over these nodes worked from end to end: all of them are alive, and their scores halve.

        Scores do not drop to zero immediately, because a hop could fail every second route.
        """
        now_s = self.now_s()
        for node_id in node_ids:
            if node_id != self._own_id:
                self.seen(node_id)
                peer = self._peers[node_id]
                peer.score, peer.scored_s = self.score(node_id) / 2, now_s

    def score(self, node_id: bytes) -> float:
        """The peer's estimated share of recent route failures: 0 to 2."""
        peer = self._peers.get(node_id)
        return 0.0 if peer is None else self._score(peer)

    def _score(self, peer: _Peer) -> float:
        return peer.score * 0.5 ** ((self.now_s() - peer.scored_s) / _HALF_LIFE_S) if peer.score else 0.0

    def suspected(self) -> list[bytes]:
        """The nodes that routes should avoid because of their score, the lowest first."""
        # A copy: routes are drawn in the caller's thread while the reactor's thread records events.
        scores = [(self._score(peer), node_id) for node_id, peer in list(self._peers.items())]
        return [node_id for score, node_id in sorted(scores) if score >= SUSPECT_SCORE]

    def _notify(self, event: Literal["peer_online", "peer_offline"], node_id: bytes) -> None:
        for listener in list(self.listeners):
            try:
                getattr(listener, event)(node_id)
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001 - a listener must not end the link
                log.error("a peer listener failed in %s\n%s", event, traceback.format_exc())

    def saw_clock(self, node_id: bytes, clock_s: float) -> None:
        """Record the peer's wall clock from its handshake, to the minute."""
        self._touch(node_id).clock_ahead_s = clock_s - self.now_s()

    def clock_s(self, node_id: bytes) -> float | None:
        """The peer's wall clock now, unless it was set since its handshake; None: unknown."""
        peer = self._peers.get(node_id)
        return None if peer is None or peer.clock_ahead_s is None else peer.clock_ahead_s + self.now_s()

    def clocks(self) -> list[float]:
        """The known wall clocks of all peers, now."""
        known = [peer.clock_ahead_s for peer in list(self._peers.values())]
        return [ahead_s + self.now_s() for ahead_s in known if ahead_s is not None]

    def reported(self, report: Report) -> None:
        """Record the report about a route: it worked, or some of its nodes are suspects."""
        if report.succeeded or report.is_refusal:
            self.worked(report.route)
        else:
            self.suspect(report.blamed_ids)

    def query_failed(self, error: QueryFailed) -> None:
        """Record the suspects of a failed query of this node."""
        if error.report is not None and error.report.is_refusal:
            self.reported(error.report)
        elif not isinstance(error.__cause__, _OF_LINKS):
            self.suspect(error.blamed)

    def last_seen_s(self, node_id: bytes) -> float | None:
        """The last contact, on the table's clock; None: no contact, or its entry was dropped."""
        peer = self._peers.get(node_id)
        return None if peer is None or peer.last_seen_s == float("-inf") else peer.last_seen_s

    def failures(self, node_id: bytes) -> int:
        """Number of failures since the last contact."""
        peer = self._peers.get(node_id)
        return 0 if peer is None else peer.failures

    def backed_off(self) -> list[bytes]:
        """The backed-off peers: fewest failures first, then earliest end of back-off."""
        now_s = self.now_s()
        # A copy: routes are drawn in the caller's thread while the reactor's thread records events.
        pauses = [
            (peer.failures, until_s, node_id)
            for node_id, peer in list(self._peers.items())
            if (until_s := peer.retry_s) > now_s
        ]
        return [node_id for _, _, node_id in sorted(pauses)]

    def avoided(self) -> set[bytes]:
        """The peers that are backed off or suspected."""
        return {*self.backed_off(), *self.suspected()}

    def _touch(self, node_id: bytes) -> _Peer:
        peer = self._peers.get(node_id)
        if peer is None:
            if len(self._peers) >= self._limit:
                self._evict()
            peer = self._peers[node_id] = _Peer()
        self._peers.move_to_end(node_id)
        return peer

    def _evict(self) -> None:
        harmless = (
            node_id
            for node_id, peer in self._peers.items()
            if not peer.failures and self._score(peer) < _NO_SCORE
        )
        del self._peers[next(harmless, next(iter(self._peers)))]
