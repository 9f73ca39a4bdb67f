"""What a query and a tunnel may be told beside destination and content: one list for nodes and all clients.

An option is added to the dictionary of those who may give it, said there, and taken in `NodeUser`, which has
its default.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypedDict

from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.api_service import Progress, Sink
from tunnel.route import Purpose, Route

__all__ = ["CallOptions", "QueryOptions", "TunnelOptions", "WayOptions"]


class WayOptions(TypedDict, total=False):
    """How a query goes and for how long.

    Attributes:
        hops: proxies, drawn at random; by default the node's limit `route_hops` (3), and up to `route_bias`
            more.
        route: the proxies themselves, in place of `hops` chosen at random.
        mode: how the reply comes, and whether there is one; by default `route`.
        error_mode: how failures come back: `status` (the default) says where, `xor` has the original's codes,
            `none`.
        reply_route: modes `other-route` and `reply-on-reply`: the way back, ending at this node; by default
            as many other proxies, drawn at random (the same in reverse for `reply-on-reply`).
        profile: a profile or its name ("bulk-hctr"); by default the best one that all nodes of the ways
            offer: `bulk` from 1 MiB on, else `default`, or `long` where the route needs it; suite 1 where all
            have it.
        purpose: what the content is like, in place of its length, which is not known of an iterator or for
            the reply: `bulk` for megabytes, `interactive` for less than 4 KiB each way, `mixed`.
        idle_s: fail when nothing moves for so long; by default the node's limit (60 s). A service that thinks
            for longer needs more.
        timeout_s: fail when the query has not ended after so long, all attempts together; by default there is
            no such limit.
        rng: for demonstrations whose route is to be the same each time.
    """

    hops: int | None
    route: Route | None
    mode: ReplyMode | str
    error_mode: ErrorMode | str
    reply_route: Route | None
    profile: Profile | str | None
    purpose: Purpose | None
    idle_s: float | None
    timeout_s: float | None
    rng: random.Random | None


class CallOptions(WayOptions, total=False):
    """The same, and who is told how far it is, and whether to try again: of each query of a client.

    Attributes:
        progress: called with (query bytes sent, reply bytes received), in the reactor's thread where nothing
            else is said.
        retries: how often to try again, over another route of the same length without those to blame, when a
            hop failed: 0 to 16, by default 0. For content that may reach the destination twice: bytes, or a
            file that can be rewound. A reply that is read while it comes, or goes to a sink, must not have
            begun to come.
    """

    progress: Progress | None
    retries: int


class QueryOptions(CallOptions, total=False):
    """The same, and where the replies go: of a query of a node.

    Attributes:
        sink: a binary file for the reply; by default memory up to 1 MiB, a temporary file beyond.
        replies: how many the other end may send, in the modes with reply blocks: at most 8, and 3 in profile
            `long`; by default 1. Those that its service does not send come empty.
        sinks: one binary file for each reply, in place of `sink`.
    """

    sink: Sink | None
    replies: int
    sinks: Sequence[Sink]


class TunnelOptions(TypedDict, total=False):
    """How a tunnel goes.

    Attributes:
        hops: proxies, drawn at random; by default as many as of a query.
        route: the proxies themselves, in place of `hops` chosen at random.
        purpose: what the tunnel is for, which decides how long its chunks are: `mixed` (the default, 16 KiB)
            for content and short messages, `interactive` (1 KiB) for short messages only over slow links,
            `bulk` (64 KiB) for megabytes. Each message and each write to a sub-stream costs whole chunks.
        profile: a profile or its name ("bulk-hctr"), in place of the best one for the purpose that all nodes
            of the route offer.
    """

    hops: int | None
    route: Route | None
    profile: Profile | str | None
    purpose: Purpose
