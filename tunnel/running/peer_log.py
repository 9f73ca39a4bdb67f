"""The peers in a node's log: which are new or forgotten, which stop answering, and which answer again.

One line for each change, a few changes a minute at most: a starting network or an outage must not fill the
disk. Suppressed changes are counted. Peers are named by the first digits of their ids; their addresses are
not logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from tunnel.codes import short
from tunnel.directory import Directory
from tunnel.node import PeerListener

__all__ = ["PeerLog"]

log = logging.getLogger("tunnel.running")

_NAMED: Final = 8  # peers in one line
_LINES: Final = 10  # about peers that answer or do not, in each window
_WINDOW_S: Final = 60.0
_MOST_AWAY: Final = 4096  # as many as a `PeerTable` holds


class PeerLog(PeerListener):
    """Logs changes of one node's peers. For the reactor's thread.

    Args:
        now_s: a monotonic clock.
        directory: the node's.
    """

    def __init__(self, now_s: Callable[[], float], directory: Directory) -> None:
        self._now_s = now_s
        self._directory = directory
        self._known = self._ids()
        self._away: dict[bytes, float] = {}  # node id → since when
        self._window_s = now_s()
        self._lines = 0
        self._left_out = 0

    def look(self) -> None:
        """Log new and forgotten peers since the last call. Call it periodically."""
        known = self._ids()
        learnt, forgotten = known - self._known, self._known - known
        self._known = known
        if learnt:
            log.info("%s learnt, %d known: %s", _peers(len(learnt)), len(known), _named(learnt))
        if forgotten:
            log.info("%s forgotten, %d known: %s", _peers(len(forgotten)), len(known), _named(forgotten))
        self._begin_window()

    def peer_offline(self, node_id: bytes) -> None:
        """Log that a peer is backed off, unless it already was."""
        if node_id in self._away:
            return
        if len(self._away) >= _MOST_AWAY:
            del self._away[next(iter(self._away))]
        self._away[node_id] = self._now_s()
        if self._may_log():
            log.warning("peer %s does not answer: backed off, %d now", short(node_id), len(self._away))

    def peer_online(self, node_id: bytes) -> None:
        """Log that a peer which was backed off answers again."""
        since_s = self._away.pop(node_id, None)
        if since_s is not None and self._may_log():
            log.info("peer %s answers again, after %.0f s", short(node_id), self._now_s() - since_s)

    def _ids(self) -> set[bytes]:
        return {descriptor.node_id for descriptor in self._directory.sample()}

    def _may_log(self) -> bool:
        self._begin_window()
        self._lines += 1
        self._left_out += self._lines > _LINES
        return self._lines <= _LINES

    def _begin_window(self) -> None:
        now_s = self._now_s()
        if now_s - self._window_s < _WINDOW_S:
            return
        if self._left_out:
            log.warning(
                "%d more changes of peers were not logged; %s backed off now",
                self._left_out,
                _peers(len(self._away)),
            )
        self._window_s, self._lines, self._left_out = now_s, 0, 0


def _peers(count: int) -> str:
    return f"{count} {'peer' if count == 1 else 'peers'}"


def _named(ids: Iterable[bytes]) -> str:
    names = sorted(map(short, ids))
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
