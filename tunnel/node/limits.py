"""Every limit of a node, with its reason. A peer can make nothing grow beyond these."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import Enum, StrEnum
from typing import Protocol

from tunnel.arguments import checked_count, checked_seconds, member
from tunnel.errors import ErrorCode
from tunnel.established import TunnelLimits
from tunnel.link.handshake import PaddingMode
from tunnel.link.pool import ONCE, POOLED, PoolPolicy

__all__ = ["Holder", "Limits", "LinkPolicy", "TunnelBudget"]


# One bound for what all established tunnels of a node hold unread.
#
# Each tunnel has its windows; a peer that opens many tunnels, and in each the sub-streams that nobody
# reads, would fill the memory with them all the same. When the node holds too much, the tunnel that holds
# most is given up: those whose users read on are not the ones to pay.


class Holder(Protocol):
    """A tunnel, as far as its memory goes."""

    @property
    def held_bytes(self) -> int: ...
    def give_up(self, code: ErrorCode) -> None: ...


class TunnelBudget:
    """Counts what tunnels hold. Args: limit_bytes: of all of them together."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[Holder, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """As last counted; users may have read since."""
        return self._total

    def enter(self, tunnel: Holder) -> None:
        """Count this tunnel from now on."""
        self._held[tunnel] = 0

    def leave(self, tunnel: Holder) -> None:
        """It has ended."""
        self._total -= self._held.pop(tunnel)

    def received(self, tunnel: Holder) -> None:
        """Something has come for it; gives up the one that holds most when that was too much."""
        self._count(tunnel)
        if self._total <= self._limit_bytes:
            return
        # What was read of the others since is not counted yet.
        for each in self._held:
            self._count(each)
        if self._total > self._limit_bytes:
            most = max(self._held, key=self._held.__getitem__)
            most.give_up(ErrorCode.BUSY)
            self._count(most)

    def _count(self, tunnel: Holder) -> None:
        held = tunnel.held_bytes
        self._total += held - self._held[tunnel]
        self._held[tunnel] = held


class LinkPolicy(StrEnum):
    """How links relate to messages."""

    POOLED = "pooled"  # long-lived links that carry many streams
    ONCE = "once"  # one link for each message, as in the Rust original: it draws the route


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of a node; times in seconds.

    Attributes:
        handshake_s: a whole handshake; a slow peer holds a connection slot no longer.
        header_s: OPEN and the onion header, from the end of the handshake.
        dial_s: a connection attempt and its handshake; hops upstream wait for it.
        idle_s: a frame under way on which nothing moves, in either direction, is ended.
        answer_s: the longest that this node's inner service may think, without reading or writing.
        linger_s: how long the end of a link is waited for after GOAWAY, and that of the stream of an answered
            query.
        links: connections at once, incoming and dialled; at the limit an idle one makes room. One that idles
            costs a few KiB.
        links_per_address: incoming ones from one host, half-open ones included; a network declared local has
            no such limit.
        links_ahead: neighbours to which a link is kept whether there are messages or not; 0: links are
            dialled when the first message wants them, and kept from then on.
        streams_per_link: that a neighbour may open at once.
        half_open: incoming connections that have not finished their handshake.
        link_policy: see `LinkPolicy`.
        link_idle_s: a link without streams for so long is ended, unless it is kept ahead. Longer than the
            pauses of people.
        link_age_s: after about so long a link takes no new streams and another is dialled: fresh keys.
        link_tick_s: how often links are looked after.
        redial_s: the longest wait before a neighbour that could not be reached is dialled again: one that was
            restarted is to be used again soon.
        padding: what each link of this node sends beside content: nothing, records of padding at random
            times, or records of one size at one rate and nothing else.
        padding_gap_s: mean time between such records.
        padding_units: their size in KiB; at a constant rate at least 5, and 16 carry a chunk whole.
        quiet_s: nothing has come for so long: PING.
        pong_s: a neighbour that has not answered a PING for so long is gone.
        record_s: a record that has begun to come must be whole after so long.
        buffer_bytes: unread content of all links; above nine tenths of it the streams that wait longest are
            reset.
        tunnel_bytes: unread content of all established tunnels, in their sub-streams and messages; above it
            the tunnel that holds most is given up.
        replay_tags: size of the replay table; about 100 bytes each.
        queries: of this node's own that wait for their result.
        key_tick_s: how often the onion keys are looked after; they change once a day.
        tunnel: windows, sub-streams and keys of established tunnels.
        answer_hops: proxies of the routes that this node chooses for answers (modes known-dest and
            reply-on-reply).
        route_hops: proxies of a query's route where the caller does not say.
        route_bias: up to so many more, drawn anew for each route: then no length is a mark of this node.
        guards: nodes that routes begin with, the same ones for months; 0: any node. In a network declared
            local there are none, for there is nobody to hide from.
        prepared: queries of each kind that wait ready for the next time, their headers sealed: for a node
            that asks the same destinations over long routes; 0: none.
        prepared_tunnels: established tunnels of each kind that stand open for the next time, till ten minutes
            after the last use: for a node that goes to the same destinations; 0: none.
        exchange_s: mean time between two messages of peer exchange on a link, when there is no news.
        exchange_min_s: the least time between two that are taken in, or answered, on a link. A neighbour that
            sends more only replaces its last one.
    Raises:
        BadArgument: a name that does not exist, or a negative number. TypeError: of another type than the
            default.
    """

    handshake_s: float = 10.0
    header_s: float = 10.0
    dial_s: float = 10.0
    idle_s: float = 60.0
    answer_s: float = 300.0
    linger_s: float = 5.0
    links: int = 1024
    links_per_address: int = 64
    links_ahead: int = 0
    streams_per_link: int = 1024
    half_open: int = 128
    link_policy: LinkPolicy = LinkPolicy.POOLED
    link_idle_s: float = 600.0
    link_age_s: float = 3600.0
    link_tick_s: float = 5.0
    redial_s: float = 10.0
    padding: PaddingMode = PaddingMode.OFF
    padding_gap_s: float = 1.0
    padding_units: int = 16
    quiet_s: float = 25.0
    pong_s: float = 20.0
    record_s: float = 30.0
    buffer_bytes: int = 256 << 20
    tunnel_bytes: int = 128 << 20
    replay_tags: int = 1_000_000
    queries: int = 1024
    key_tick_s: float = 60.0
    answer_hops: int = 1
    route_hops: int = 3
    route_bias: int = 0
    guards: int = 3
    prepared: int = 0
    prepared_tunnels: int = 0
    exchange_s: float = 60.0
    exchange_min_s: float = 1.0
    tunnel: TunnelLimits = field(default_factory=TunnelLimits)

    def __post_init__(self) -> None:
        # `link_policy` and `padding` may be given by name.
        for each in fields(self):
            value, default = getattr(self, each.name), each.default
            if isinstance(default, Enum):
                object.__setattr__(self, each.name, member(type(default), value, each.name))
            elif isinstance(default, float):
                checked_seconds(value, each.name)
            elif isinstance(default, int):
                checked_count(value, each.name)
            elif not isinstance(value, TunnelLimits):
                raise TypeError(f"{each.name}: expected TunnelLimits, got {type(value).__name__}")

    @property
    def pool_policy(self) -> PoolPolicy:
        """How the links to one neighbour are used."""
        if self.link_policy is LinkPolicy.ONCE:
            return ONCE
        return replace(
            POOLED, idle_s=self.link_idle_s, max_age_s=self.link_age_s, max_backoff_s=self.redial_s
        )
