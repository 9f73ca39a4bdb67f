"""The links to one neighbour: which one a stream takes, when to dial, and when to replace a link.

Under `pooled` a neighbour has k links, dialled before they are needed and replaced when they are old, so
connections reveal nothing about messages. Under `once` each stream has its own link, dialled for it and ended
with it (the original's SendOnce). This policy is kept for comparison: it shows the route to an observer.

Both sides may dial at the same time. Then the links stay whose initiator has the smaller node id: both sides
find the same ones without a message. Pure: times and randomness are arguments, and links are any objects with
the few methods named here. `LinkTable` (tunnel/node/links) carries the decisions out. Source:
docs/protocol.md, "Life of a link".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tunnel.arguments import bounded, check_fields

__all__ = ["ONCE", "POOLED", "NeighbourPool", "PoolPolicy"]


class Randomness(Protocol):
    """The part of `random.Random` that a pool needs."""

    def uniform(self, a: float, b: float) -> float: ...


class PooledLink(Protocol):
    """A link as the pool sees it."""

    @property
    def streams(self) -> int:
        """Number of open streams."""

    @property
    def can_open(self) -> bool:
        """Whether it takes another stream."""

    @property
    def is_crowded(self) -> bool:
        """Whether another link should take the next stream; the same at both sides."""


L = TypeVar("L", bound=PooledLink)


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """How links are used.

    Attributes:
        links: k, the links kept to each wanted neighbour; 0: links are dialled on demand only.
        streams_per_link: streams that a link carries in its life; 0: any number.
        idle_s: a link beyond the k ends after this time without a stream.
        max_age_s: a link is replaced after about this time, for fresh keys, and so that no connection stands
            out by its age.
        min_backoff_s, max_backoff_s: wait after the first failure, and longest wait; it doubles each time.
        stable_s: a link that ends earlier counts as a failure.
    """

    links: int = bounded(1, least=0)
    streams_per_link: int = bounded(0, least=0)
    idle_s: float = bounded(300.0, least=0.0)
    max_age_s: float = 3600.0
    min_backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    stable_s: float = bounded(10.0, least=0.0)

    def __post_init__(self) -> None:
        check_fields(self)


POOLED = PoolPolicy()
ONCE = PoolPolicy(links=0, streams_per_link=1, idle_s=0.0)
# Ages vary by up to this share, so that links that began together do not end together.
_SPREAD = 0.25


@dataclass(slots=True)
class _Entry(Generic[L]):
    link: L
    is_dialler: bool
    since_s: float
    expires_s: float
    idle_since_s: float
    used: int = 0
    retired: bool = False


class NeighbourPool(Generic[L]):
    """All links with one neighbour.

    Args:
        own_id, peer_id: node ids of both sides, for links that both dialled.
        rng: varies ages and waits.
    Attributes:
        is_wanted: whether k links are kept without streams.
        can_dial: False for a neighbour without an address, which dials this node instead.
        dialling: number of dials in progress.
        puzzle_until_s: until then frames of others cause no dial: it has asked for a puzzle.
        failure: the reason why the last dial failed, for errors during back-off; "" if it succeeded.
    """

    def __init__(self, policy: PoolPolicy, *, own_id: bytes, peer_id: bytes, rng: Randomness) -> None:
        self._policy = policy
        self._peers_links_stay = peer_id < own_id
        self._rng = rng
        self._entries: list[_Entry[L]] = []
        self._failures = 0
        self._retry_s = float("-inf")
        self.is_wanted = False
        self.can_dial = True
        self.dialling = 0
        self.puzzle_until_s = float("-inf")
        self.failure = ""

    @property
    def links(self) -> list[L]:
        """All open links, retired ones included."""
        return [entry.link for entry in self._entries]

    # -- choosing a link ------------------------------------------------------------------------------

    def choose(self, *, with_crowded: bool = False) -> L | None:
        """Choose the link for a stream that is opened now: the one with the fewest streams.

        Args:
            with_crowded: crowded links too, since no other can be had.
        Returns:
            None: no link takes a stream; dial, or wait.
        """
        usable = [entry for entry in self._entries if self._is_usable(entry, with_crowded=with_crowded)]
        if not usable:
            return None
        entry = min(usable, key=lambda entry: entry.link.streams)
        entry.used += 1
        return entry.link

    def _is_usable(self, entry: _Entry[L], *, with_crowded: bool = False) -> bool:
        if entry.retired or not entry.link.can_open or (entry.link.is_crowded and not with_crowded):
            return False
        limit = self._policy.streams_per_link
        if not limit:
            return True
        # A link that the peer dialled is for the peer's stream, unless this node cannot dial.
        return entry.used < limit and (entry.is_dialler or not self.can_dial)

    # -- dialling -------------------------------------------------------------------------------------

    def wants_dial(self, now_s: float, *, waiting: int = 0) -> bool:
        """Whether to dial now. Args: waiting: number of streams that wait for a link."""
        if not self.can_dial or now_s < self._retry_s:
            return False
        usable = sum(self._is_usable(entry) for entry in self._entries) + self.dialling
        limit = self._policy.streams_per_link
        # Either one link carries any number of streams, or each stream needs its own.
        needed = waiting if limit else min(waiting, 1)
        return usable < max(needed, self._policy.links if self.is_wanted else 0)

    @property
    def retry_s(self) -> float:
        """End of the back-off: before this time `wants_dial` is False."""
        return self._retry_s

    def dial_begins(self) -> None:
        """A dial begins; `dial_fails` or `add` ends it."""
        self.dialling += 1

    def dial_fails(self, now_s: float) -> None:
        """A dial has failed: wait about twice as long as last time, with random variation."""
        self.dialling -= 1
        self._back_off(now_s)

    def puzzle_refused(self, now_s: float) -> None:
        """A dial for another sender's frame ended at a puzzle. It does not delay this node's own dials;
        otherwise strangers could keep it from its neighbours."""
        self.dialling -= 1
        self.puzzle_until_s = now_s + self._policy.max_backoff_s

    def _back_off(self, now_s: float) -> None:
        policy = self._policy
        wait_s = min(policy.max_backoff_s, policy.min_backoff_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        self._retry_s = now_s + self._rng.uniform(wait_s / 2, wait_s)

    # -- links begin and end --------------------------------------------------------------------------

    def add(self, link: L, now_s: float, *, is_dialler: bool) -> None:
        """Add a link whose handshake has succeeded."""
        self.failure = ""
        if is_dialler:
            self.dialling -= 1
        age_s = self._policy.max_age_s * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD)
        self._entries.append(_Entry(link, is_dialler, now_s, now_s + age_s, now_s))

    def remove(self, link: L, now_s: float) -> None:
        """Remove an ended link. A young one that was neither used nor retired counts as a failed dial."""
        for entry in self._entries:
            if entry.link is link:
                self._entries.remove(entry)
                if entry.retired or now_s - entry.since_s >= self._policy.stable_s:
                    self._failures = 0
                elif entry.is_dialler and not entry.used:
                    self._back_off(now_s)
                return

    def retire(self, now_s: float) -> list[L]:
        """Return the links on which to send GOAWAY now; each is returned once and takes no further stream.

        These are old links, links that have carried their number of streams, idle links beyond those kept,
        and, of links that both sides dialled at the same time, those whose initiator has the larger node id.
        """
        policy = self._policy
        kept = policy.links if self.is_wanted else 0
        leaving: list[_Entry[L]] = []
        live = [entry for entry in self._entries if not entry.retired]
        for entry in live:
            if entry.link.streams:
                entry.idle_since_s = now_s
            is_used_up = policy.streams_per_link and entry.used >= policy.streams_per_link
            if now_s >= entry.expires_s or (is_used_up and not entry.link.streams):
                leaving.append(entry)
        live = [entry for entry in live if entry not in leaving]
        most = max(1, policy.links)
        for entry in reversed(live):
            is_surplus = not policy.streams_per_link and entry.is_dialler is self._peers_links_stay
            others = [e for e in live if e.is_dialler is not entry.is_dialler and not e.link.is_crowded]
            if len(live) > most and is_surplus and others:
                live.remove(entry)
                leaving.append(entry)
        for entry in reversed(live):
            idle_s = now_s - entry.idle_since_s
            if len(live) > kept and not entry.link.streams and idle_s >= policy.idle_s:
                if policy.streams_per_link and not entry.used:
                    continue  # dialled for a stream that is about to use it
                live.remove(entry)
                leaving.append(entry)
        for entry in leaving:
            entry.retired = True
        return [entry.link for entry in leaving]
