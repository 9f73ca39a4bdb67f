"""The policies of links: which link a stream takes, when to dial, ping, pad and retire.

All of it is pure: times and randomness are arguments, and links are any objects with the few methods named
here. `LinkTable` and `Link` (tunnel/node/links) carry the decisions out. `NeighbourPool` holds the links to
one neighbour, `Liveness` and `Pinger` find dead ones, and a `PaddingPolicy` decides on cover traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, Protocol, TypeVar

from tunnel.errors import LinkError, LocalTunnelError
from tunnel.link.buffers import MAX_UNITS
from tunnel.link.cells import PING_TOKEN_BYTES, pack_ping
from tunnel.link.handshake import PaddingMode

__all__ = [
    "ONCE",
    "POOLED",
    "ConstantRate",
    "Liveness",
    "NeighbourPool",
    "NoPadding",
    "Padded",
    "PaddingPolicy",
    "Pinger",
    "PoissonPadding",
    "PoolPolicy",
    "PooledLink",
    "Randomness",
    "Uniform",
]


# The links to one neighbour. Under `pooled` a neighbour has k links, dialled before they are needed and
# replaced when they are old, so connections reveal nothing about messages. Under `once` each stream has a
# link of its own, dialled for it and ended with it (the original's SendOnce). It is kept for comparison: an
# observer can read the route from it.
#
# Both sides may dial at the same time. Then the links stay whose initiator has the smaller node id: both
# sides find the same ones without a message. Source: docs/protocol.md, "Life of a link".


class Uniform(Protocol):
    """What a pool needs of `random.SystemRandom`, or of a seeded one in tests."""

    def uniform(self, a: float, b: float) -> float:
        """A number between the two."""


class PooledLink(Protocol):
    """A link as the pool sees it: a multiplexer."""

    @property
    def streams(self) -> int:
        """How many are open."""

    @property
    def can_open(self) -> bool:
        """Whether it takes one more."""


L = TypeVar("L", bound=PooledLink)


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """How links are used.

    Attributes:
        name: on the command line.
        links: k, kept to each neighbour that is wanted; 0: dialled on demand only.
        streams_per_link: that a link ever carries; 0 = any number.
        idle_s: after so long without a stream a link beyond the k ends.
        max_age_s: after about so long a link is replaced: fresh keys, and no connection that outlives all
            others and so becomes a mark.
        min_backoff_s, max_backoff_s: wait after the first failure and at most; doubled with each.
        stable_s: a link that lives shorter counts as a failure.
    """

    name: str
    links: int = 1
    streams_per_link: int = 0
    idle_s: float = 300.0
    max_age_s: float = 3600.0
    min_backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    stable_s: float = 10.0


POOLED = PoolPolicy("pooled")
ONCE = PoolPolicy("once", links=0, streams_per_link=1, idle_s=0.0)
# Ages and waits differ by up to this share, or all links that began together would end together.
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
        policy: how they are used.
        own_id, peer_id: node ids of both sides, for links dialled at once.
        rng: for spreads.
    Attributes:
        is_wanted: whether k links are kept even when nobody needs them.
        can_dial: False for a neighbour that has no address: it keeps its links to us.
        dialling: how many dials are under way.
        failure: why the last dial failed, for the errors of those who must wait; "" when it did not.
    """

    def __init__(self, policy: PoolPolicy, *, own_id: bytes, peer_id: bytes, rng: Uniform) -> None:
        self._policy = policy
        self._peers_links_stay = peer_id < own_id
        self._rng = rng
        self._entries: list[_Entry[L]] = []
        self._failures = 0
        self._retry_s = float("-inf")
        self.is_wanted = False
        self.can_dial = True
        self.dialling = 0
        self.failure = ""

    @property
    def links(self) -> list[L]:
        """All that are open, those that are being retired included."""
        return [entry.link for entry in self._entries]

    # -- what there is --------------------------------------------------------------------------------

    def choose(self) -> L | None:
        """The link for a new stream, to be opened at once: of those that take one, that with the fewest.

        Returns:
            None where there is none: dial, or wait.
        """
        usable = [entry for entry in self._entries if self._is_usable(entry)]
        if not usable:
            return None
        entry = min(usable, key=lambda entry: entry.link.streams)
        entry.used += 1
        return entry.link

    def _is_usable(self, entry: _Entry[L]) -> bool:
        if entry.retired or not entry.link.can_open:
            return False
        limit = self._policy.streams_per_link
        if not limit:
            return True
        # A link that the peer dialled is for the peer's stream, unless there is no other way.
        return entry.used < limit and (entry.is_dialler or not self.can_dial)

    # -- dialling -------------------------------------------------------------------------------------

    def wants_dial(self, now_s: float, *, waiting: int = 0) -> bool:
        """Whether to dial now.

        Args:
            waiting: streams that wait for a link.
        """
        if not self.can_dial or now_s < self._retry_s:
            return False
        usable = sum(self._is_usable(entry) for entry in self._entries) + self.dialling
        limit = self._policy.streams_per_link
        # Any number of streams fits on one link, or each has to have its own.
        needed = waiting if limit else min(waiting, 1)
        return usable < max(needed, self._policy.links if self.is_wanted else 0)

    @property
    def retry_s(self) -> float:
        """Before this time `wants_dial` says no, whatever is needed."""
        return self._retry_s

    def dial_begins(self) -> None:
        """A dial is under way; `dial_fails` or `add` ends it."""
        self.dialling += 1

    def dial_fails(self, now_s: float) -> None:
        """It came to nothing: wait, each time about twice as long, and never two nodes in step."""
        self.dialling -= 1
        self._back_off(now_s)

    def _back_off(self, now_s: float) -> None:
        policy = self._policy
        wait_s = min(policy.max_backoff_s, policy.min_backoff_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        self._retry_s = now_s + self._rng.uniform(wait_s / 2, wait_s)

    # -- links come and go ----------------------------------------------------------------------------

    def add(self, link: L, now_s: float, *, is_dialler: bool) -> None:
        """A handshake has ended well, ours (`is_dialler`) or the peer's."""
        self.failure = ""
        if is_dialler:
            self.dialling -= 1
        age_s = self._policy.max_age_s * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD)
        self._entries.append(_Entry(link, is_dialler, now_s, now_s + age_s, now_s))

    def remove(self, link: L, now_s: float) -> None:
        """The link has ended. One that was young, and that nobody had used or retired, counts as failure."""
        for entry in self._entries:
            if entry.link is link:
                self._entries.remove(entry)
                if entry.retired or now_s - entry.since_s >= self._policy.stable_s:
                    self._failures = 0
                elif entry.is_dialler and not entry.used:
                    self._back_off(now_s)
                return

    def retire(self, now_s: float) -> list[L]:
        """The links on which to send GOAWAY now; each is returned once, and takes no stream any more.

        Old ones; those that have carried their share; idle ones beyond what is kept; and of links that both
        sides dialled at once, those whose initiator has the larger node id.
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
            if len(live) > most and is_surplus and any(e.is_dialler is not entry.is_dialler for e in live):
                live.remove(entry)
                leaving.append(entry)
        for entry in reversed(live):
            idle_s = now_s - entry.idle_since_s
            if len(live) > kept and not entry.link.streams and idle_s >= policy.idle_s:
                if policy.streams_per_link and not entry.used:
                    continue  # dialled for a stream that is about to take it
                live.remove(entry)
                leaving.append(entry)
        for entry in leaving:
            entry.retired = True
        return [entry.link for entry in leaving]


# Liveness: one PING at a time. Its token is a counter of this link, so an unsolicited answer is recognised;
# the PING also measures the round trip. Only the two ends of a link watch it. Source: docs/protocol.md,
# "Link cells".


class Pinger:
    """The PING of this side that awaits its answer, if there is one.

    Attributes:
        sent_s: when it was queued; None without one.
        round_trip_s: of the last answered PING; None before the first answer.
    """

    __slots__ = ("_count", "_token", "round_trip_s", "sent_s")

    def __init__(self) -> None:
        self._count = 0
        self._token = b""
        self.sent_s: float | None = None
        self.round_trip_s: float | None = None

    def request(self, now_s: float) -> bytes | None:
        """Return the cell to send, or None while the last PING is unanswered."""
        if self.sent_s is not None:
            return None
        self._count += 1
        self._token = self._count.to_bytes(PING_TOKEN_BYTES, "big")
        self.sent_s = now_s
        return pack_ping(self._token, is_answer=False)

    def answered(self, token: bytes, now_s: float) -> None:
        """Take an answer.

        Raises:
            LinkError: it answers no PING of this side.
        """
        if self.sent_s is None or token != self._token:
            raise LinkError("answer to a PING that was not sent")
        self.round_trip_s = now_s - self.sent_s
        self.sent_s = None


Verdict = Literal["wait", "ping", "dead"]
_SOON_S: Final = 0.001  # a timer that fires slightly early must not cause a thousand more


@dataclass(frozen=True, slots=True)
class Liveness:
    """When to send a PING, and when to give the neighbour up.

    Attributes:
        quiet_s: silence before a PING. Less than the half minute after which many address translators forget
            a connection.
        dead_s: silence after that PING until the link is dead.
    """

    quiet_s: float = 25.0
    dead_s: float = 20.0

    def look(
        self, now_s: float, *, last_received_s: float, ping_sent_s: float | None
    ) -> tuple[Verdict, float]:
        """Return what to do now, and seconds until the next look.

        Any byte since the PING counts, not only its answer: the answer may be behind a long transfer.
        """
        if ping_sent_s is None:
            left = last_received_s + self.quiet_s - now_s
            return ("wait", left) if left > _SOON_S else ("ping", self.dead_s)
        left = max(ping_sent_s, last_received_s) + self.dead_s - now_s
        return ("wait", left) if left > _SOON_S else ("dead", 0.0)


# Cover traffic: when a link sends a record that it need not send, and of what size.
#
# Pure policies: the clock and the randomness are arguments, and what is to be done is done to something
# with `pad` and `tick`, a multiplexer. A driver waits until `next_s`, calls `act`, and so on.
#
# * `NoPadding`: never.
# * `PoissonPadding`: records of padding at random times, whatever else the link carries. The gaps are
#   exponential, so no look at the past tells when the next comes; sizes are those that content has. It hides
#   that a quiet link is quiet, not how much a busy one carries.
# * `ConstantRate`: records of one size at one rate, with content in them if there is any. What an observer se
#   does not depend on content at all; what it costs is the rate, and half a gap of delay at each link.
#
# Source: docs/protocol.md, "Padding".
_NEVER_S = float("inf")


class Padded(Protocol):
    """What can be padded: a multiplexer."""

    def pad(self, units: int) -> bool:
        """Send one record of padding."""

    def tick(self) -> None:
        """Let one record of the fixed size go."""


class Randomness(Protocol):
    """What a policy needs of `random.SystemRandom`, or of a seeded one in tests."""

    def expovariate(self, lambd: float) -> float:
        """A gap between events of which `lambd` come in a second."""

    def choice(self, seq: Sequence[int], /) -> int:
        """One of them."""


class PaddingPolicy(Protocol):
    """When and what.

    Attributes:
        mode: as it is told in the handshake.
        record_units: for the multiplexer: the one size of all records, or 0.
        next_s: when to call `act` next.
    """

    mode: PaddingMode
    record_units: int
    next_s: float

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """Do what is due, and move `next_s` on."""


class NoPadding:
    """No record that need not be."""

    mode = PaddingMode.OFF
    record_units = 0
    next_s = _NEVER_S

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """Nothing."""


class PoissonPadding:
    """Records of padding at random times.

    Args:
        rate_per_s: how many on average, above 0.
        units: the sizes to draw from, each as likely as it is often named.
        now_s, rng: for the first gap.
    Raises:
        LocalTunnelError: no rate, or a size that no record has.
    """

    mode = PaddingMode.POISSON
    record_units = 0

    def __init__(self, rate_per_s: float, units: Sequence[int], *, now_s: float, rng: Randomness) -> None:
        if not rate_per_s > 0 or not units or not all(1 <= size <= MAX_UNITS for size in units):
            raise LocalTunnelError(f"padding of {list(units)} units {rate_per_s} times a second")
        self._rate_per_s = rate_per_s
        self._units = tuple(units)
        self.next_s = now_s + rng.expovariate(rate_per_s)

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """One record if it is time. What was missed, for a node that slept, is not made up for."""
        if now_s >= self.next_s:
            link.pad(rng.choice(self._units))
            self.next_s = now_s + rng.expovariate(self._rate_per_s)


class ConstantRate:
    """One record of one size each `gap_s`, and none otherwise.

    Args:
        gap_s: between records, above 0.
        units: their size, MIN_FIXED_UNITS (scheduler.py) to 63.
        now_s: the first is due one gap later.
    Raises:
        LocalTunnelError: no gap. (The size is checked by the multiplexer.)
    """

    mode = PaddingMode.CONSTANT

    def __init__(self, gap_s: float, units: int, *, now_s: float) -> None:
        if not gap_s > 0:
            raise LocalTunnelError(f"records each {gap_s} s, expected more than 0")
        self._gap_s = gap_s
        self.record_units = units
        self.next_s = now_s + gap_s

    def act(self, link: Padded, now_s: float, rng: Randomness) -> None:
        """One record if it is time; the beat is kept, but beats that were missed stay missed."""
        if now_s >= self.next_s:
            link.tick()
            missed = (now_s - self.next_s) // self._gap_s
            self.next_s += (missed + 1) * self._gap_s
