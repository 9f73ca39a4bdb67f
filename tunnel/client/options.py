"""What every call of a client may be given beside its destination and content: one list for all kinds."""

from __future__ import annotations

import random
from typing import TypedDict

from tunnel.geometry import Profile
from tunnel.modes import ErrorMode, ReplyMode
from tunnel.node.api_service import Progress
from tunnel.route import Route

__all__ = ["CallOptions", "TunnelOptions", "WayOptions"]


class WayOptions(TypedDict, total=False):
    """How a query goes and for how long. As for `Node.query`, which has the meanings and defaults."""

    hops: int | None
    route: Route | None
    mode: ReplyMode
    error_mode: ErrorMode
    reply_route: Route | None
    profile: Profile | None
    idle_s: float | None
    timeout_s: float | None
    rng: random.Random | None


class CallOptions(WayOptions, total=False):
    """The same, and who is told how far it is."""

    progress: Progress | None


class TunnelOptions(TypedDict, total=False):
    """How a tunnel goes. As for `Node.open_tunnel`."""

    hops: int
    route: Route | None
    profile: Profile | None
