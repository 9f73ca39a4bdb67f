"""The peer table: last contact, failures, back-off and clock of each peer, from a node's own observations.

Sources are the link table (handshakes, failed dials, broken links) and the reports about the routes of the
node's own queries; never another node's opinion. A lying hop can accuse the next one, but the report always
blames it too (`Report.blamed`), so blame only causes a back-off.

Bounded: at the limit the least recently used entry is dropped, entries without failures first. Failures are
recorded only for peers that this node chose itself, so strangers cannot displace them.
"""

from __future__ import annotations

import logging
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from tunnel.codes import Report
from tunnel.errors import QueryFailed

__all__ = ["PeerListener", "PeerTable"]

log = logging.getLogger("tunnel.node")

# The first back-off is about the time of a restart; the longest still lets a repaired node be used soon.
_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 600.0
_SUSPECT_S: Final = 60.0
_MAX_PEERS: Final = 4096  # about 200 bytes each


class PeerListener(Protocol):
    """Is notified when peers appear and disappear, in the reactor's thread. Its errors are logged."""

    def peer_online(self, node_id: bytes) -> None:
        """A peer answers that was unknown or offline."""

    def peer_offline(self, node_id: bytes) -> None:
        """A peer does not answer or was blamed for a failure; it is backed off."""


@dataclass(slots=True)
class _Peer:
    last_seen_s: float = float("-inf")
    failures: int = 0
    pauses: int = 0
    retry_s: float = float("-inf")
    suspected_until_s: float = float("-inf")
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
        """The peer is alive: a handshake, or its part in a query that succeeded. Ends its back-off."""
        peer = self._touch(node_id)
        peer.last_seen_s = self.now_s()
        peer.retry_s = peer.suspected_until_s = float("-inf")
        peer.failures = peer.pauses = 0
        if peer.is_online is not True:
            peer.is_online = True
            self._notify("peer_online", node_id)

    def failed(self, node_id: bytes) -> None:
        """Back a peer off after a failed dial, a broken link or blame; each time twice as long.

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

    def suspected(self, node_id: bytes) -> None:
        """Avoid a peer for a minute: one of several that may have caused a silence. The next contact with it
        ends that. It is no failure: most of those suspected are innocent.
        """
        if node_id != self._own_id:
            self._touch(node_id).suspected_until_s = self.now_s() + _SUSPECT_S

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
        """Record the report about a route: all hops are alive, or some are blamed."""
        if report.succeeded or report.is_refusal:
            for node_id in report.route:
                if node_id != self._own_id:
                    self.seen(node_id)
        else:
            for node_id in report.blamed_ids:
                self.failed(node_id)

    def query_failed(self, error: QueryFailed) -> None:
        """Record the blame of a failed query of this node."""
        if error.report is not None and error.report.is_refusal:
            self.reported(error.report)
            return
        for node_id in error.blamed:
            self.failed(node_id)

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
            if (until_s := max(peer.retry_s, peer.suspected_until_s)) > now_s
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
