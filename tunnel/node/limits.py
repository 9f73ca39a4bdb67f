"""Every limit of a node, with its reason. No peer can make a table or buffer grow beyond them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from tunnel.arguments import bounded, check_fields, setting
from tunnel.errors import ErrorCode
from tunnel.established import TunnelLimits
from tunnel.geometry import LONG
from tunnel.link.handshake import PaddingMode
from tunnel.link.neighbour_pool import ONCE, POOLED, PoolPolicy
from tunnel.routing.guards import MOST_GUARDS

__all__ = ["BudgetedTunnel", "Limits", "LinkPolicy", "TunnelBudget"]


# One limit on the unread content of all established tunnels of a node. Each tunnel has windows, but a peer
# could open many tunnels and fill memory with sub-streams that are not read. Above the limit the tunnel that
# holds most is closed, so tunnels whose users read are kept.


class BudgetedTunnel(Protocol):
    """A tunnel that holds memory."""

    @property
    def held_bytes(self) -> int: ...
    def give_up(self, code: ErrorCode) -> None: ...


class TunnelBudget:
    """Bounds the unread content of all tunnels.

    It adds up received content as if nobody read it. Only when the sum exceeds the limit does it ask the
    tunnels for the content that they hold, so a chunk costs the same in a tunnel with many sub-streams.

    Args:
        limit_bytes: for all tunnels together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[BudgetedTunnel, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """Most bytes that the tunnels can hold; users may have read some since."""
        return self._total

    def enter(self, tunnel: BudgetedTunnel) -> None:
        """Count this tunnel from now on."""
        self._held[tunnel] = 0

    def leave(self, tunnel: BudgetedTunnel) -> None:
        """Stop counting a tunnel that has ended."""
        self._total -= self._held.pop(tunnel)

    def received(self, tunnel: BudgetedTunnel, most_bytes: int) -> None:
        """Count newly received content; above the limit, give up the tunnel that holds most."""
        self._held[tunnel] += most_bytes
        self._total += most_bytes
        if self._total <= self._limit_bytes:
            return
        for each in self._held:
            self._count(each)
        if self._total > self._limit_bytes:
            most = max(self._held, key=self._held.__getitem__)
            most.give_up(ErrorCode.BUSY)
            self._count(most)

    def _count(self, tunnel: BudgetedTunnel) -> None:
        held = tunnel.held_bytes
        self._total += held - self._held[tunnel]
        self._held[tunnel] = held


class LinkPolicy(StrEnum):
    """The number of messages that a link carries."""

    POOLED = "pooled"  # long-lived links that carry many streams
    ONCE = "once"  # one link for each message, as in the Rust original: it draws the route


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a node. Those declared with `setting` can be configured; docs/configuration.md has them.

    Attributes:
        tunnel: windows, sub-streams and keys of established tunnels.
    Raises:
        BadArgument: an unknown name, or a negative number. TypeError: a type other than the default's.
    """

    dial_s: float = setting(
        10.0,
        "Time limit of a connection attempt including its handshake. The hops before this node wait for it.",
        "s",
    )
    idle_s: float = setting(
        60.0,
        "The node ends a message in transit when nothing moves in either direction for this long.",
        "s",
    )
    answer_s: float = setting(
        300.0,
        "Longest time that an inner service may run without reading or writing.",
        "s",
    )
    links: int = setting(
        1024,
        "Simultaneous connections, incoming and dialled. At the limit, a new link displaces an idle link or, "
        "if none is idle, a link of the network with the most links. An idle link costs a few KiB.",
    )
    links_ahead: int = setting(
        0,
        "Number of neighbours to which the node keeps a link open even without traffic. 0: a link is dialled "
        "for its first message and then kept.",
        least=0,
        most=1024,
    )
    link_policy: LinkPolicy = setting(
        LinkPolicy.POOLED,
        '"pooled": long-lived links carry many streams. "once": a new link for each message, which shows '
        "routes to an observer.",
    )
    padding: PaddingMode = setting(
        PaddingMode.OFF,
        'Cover traffic on each link. "off": none. "poisson": padding records at random times. "constant": '
        "records of one size at a constant rate, and nothing else.",
    )
    padding_gap_s: float = setting(1.0, "Mean time between padding records of 16 KiB.", "s")
    buffer_bytes: int = setting(
        256 << 20,
        "Unread content of all links together. Above nine tenths of this limit, the streams that have waited "
        "longest are reset.",
        "bytes",
        least=1 << 16,
    )
    tunnel_bytes: int = setting(
        128 << 20,
        "Unread content of all established tunnels together, in sub-streams and messages. Above this limit, "
        "the tunnel with the most unread content is closed.",
        "bytes",
        least=1 << 16,
    )
    replay_tags: int = setting(1_000_000, "Capacity of the replay table; about 100 bytes per entry.")
    answer_hops: int = setting(
        1,
        "Proxies of the routes that this node chooses for answers (modes known-dest and reply-on-reply).",
        least=0,
        most=LONG.max_proxies,
    )
    route_hops: int = setting(
        3, "Proxies of a query's route if the caller gives no number.", least=0, most=LONG.max_proxies
    )
    route_bias: int = setting(
        0,
        "Each route gets a random number of extra proxies up to this one. Route length then does not "
        "identify this node.",
        least=0,
        most=LONG.max_proxies,
    )
    guards: int = setting(
        3,
        "Number of guards. Every route begins at one of these nodes, which are kept for months. 0: routes "
        'may begin at any node. Network "local" uses no guards, because it has no adversary to hide from.',
        least=0,
        most=MOST_GUARDS,
    )
    prepared: int = setting(
        0,
        "Number of queries of each kind that the node prepares in advance, with sealed headers. Useful for "
        "repeated queries to the same destinations over long routes. 0: none.",
        least=0,
        most=1024,
    )
    prepared_tunnels: int = setting(
        0,
        "Number of established tunnels of each kind that the node keeps open in reserve, until ten minutes "
        "after the last use. Useful for repeated tunnels to the same destinations. 0: none.",
        least=0,
        most=64,
    )

    # The following fields are for tests and simulations. The configuration lacks them, because their values
    # suit every network.
    handshake_s: float = 10.0  # a slow peer occupies a half-open slot no longer than this
    header_s: float = 10.0  # OPEN and the onion header, counted from the end of the handshake
    linger_s: float = 5.0  # the end of a link after GOAWAY, and of the stream of an answered query
    quiet_s: float = 25.0  # a PING is sent after this time without input
    pong_s: float = 20.0  # a neighbour that leaves a PING unanswered for this time has gone
    record_s: float = 30.0  # a whole record, from its first byte
    link_tick_s: float = 5.0  # between checks of all links
    link_idle_s: float = 600.0  # a link without streams is closed then; longer than a person's pauses
    link_age_s: float = 3600.0  # afterwards a link is replaced by one with fresh keys
    redial_s: float = 10.0  # the longest back-off from a neighbour: one that restarted is soon in use
    key_tick_s: float = 60.0  # between checks of the onion keys, which change once a day
    exchange_s: float = 60.0  # mean time between peer exchange messages on a link without news
    exchange_min_s: float = bounded(1.0, least=0.0)  # of messages that arrive faster only the last one counts
    probe_s: float = 5.0  # between two dials of nodes only heard of: 12 a minute, whatever neighbours tell
    # Incoming, from one host or one /64 of IPv6, half-open ones included; any in network "local".
    links_per_address: int = 64
    half_open: int = 128  # incoming connections with an unfinished handshake; a newcomer displaces another
    streams_per_link: int = 1024  # that a neighbour may have open on one link
    queries: int = 1024  # of this node, waiting for a result at the same time; tunnels included
    waiting_queries: int = bounded(10_000, least=0)  # that wait for a place among them
    # KiB of a padding record: a whole chunk; a constant rate needs at least 5.
    padding_units: int = bounded(16, most=63)
    tunnel: TunnelLimits = field(default_factory=TunnelLimits)

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.tunnel, TunnelLimits):
            raise TypeError(f"tunnel: expected TunnelLimits, got {type(self.tunnel).__name__}")

    @property
    def tunnel_ends(self) -> TunnelLimits:
        """`tunnel` for the tunnels that end here: with more patience where links have a constant rate, since
        16 KiB a second are slow."""
        if self.padding is not PaddingMode.CONSTANT:
            return self.tunnel
        return replace(self.tunnel, silent_s=max(self.tunnel.silent_s, self.idle_s))

    @property
    def pool_policy(self) -> PoolPolicy:
        """The policy for the links to one neighbour."""
        if self.link_policy is LinkPolicy.ONCE:
            return ONCE
        return replace(
            POOLED, idle_s=self.link_idle_s, max_age_s=self.link_age_s, max_backoff_s=self.redial_s
        )
