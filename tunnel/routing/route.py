"""A route as data, and the best profile for one.

The draw is in `draw_route.py`. Source: docs/protocol.md, "Profiles".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from tunnel.arguments import checked_id, plain_name
from tunnel.codes import short
from tunnel.errors import BadArgument, ProfileError
from tunnel.geometry import (
    BULK,
    DEFAULT,
    HCTR_SUITE,
    INTERACTIVE,
    LIONESS_SUITE,
    LONG,
    STREAM,
    Geometry,
    Profile,
)
from tunnel.identity.descriptor import Descriptor

__all__ = ["Purpose", "Route", "best_profile", "checked_purpose"]

# Up to 4 chunks of the small geometry cost less than one chunk of the default one.
_SMALL_CONTENT_BYTES = 4 * INTERACTIVE.chunk_data_bytes
_BULK_CONTENT_BYTES = 1 << 20
Purpose = Literal["mixed", "interactive", "bulk", "stream"]
"""The kind of content of a query or tunnel: decides which geometry is tried first."""

_PREFERENCES: Final[dict[Purpose, tuple[Geometry, ...]]] = {
    "mixed": (DEFAULT, LONG, BULK, STREAM, INTERACTIVE),
    "interactive": (INTERACTIVE, STREAM, DEFAULT, LONG, BULK),
    "bulk": (BULK, DEFAULT, LONG, STREAM, INTERACTIVE),
    "stream": (STREAM, DEFAULT, LONG, BULK, INTERACTIVE),
}


@dataclass(frozen=True, slots=True)
class Route:
    """The proxies between Alice and Bob, in the order of the query.

    Attributes:
        proxies: node ids; may be empty (direct).
        destination: Bob's node id; of a reply path, Alice's.
    Raises:
        TypeError: an id is not bytes, for instance a node or an id in hex.
    """

    proxies: tuple[bytes, ...]
    destination: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "proxies", tuple(self.proxies))
        for node_id in self.nodes:
            if type(node_id) is not bytes:
                checked_id(node_id, "a node of the route")

    def __repr__(self) -> str:
        proxies = ", ".join(short(node_id) for node_id in self.proxies) or "no proxies"
        return f"<Route through {proxies} to {short(self.destination)}>"

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """Every node after Alice: the proxies and Bob."""
        return (*self.proxies, self.destination)


def best_profile(
    descriptors: Sequence[Descriptor],
    content_bytes: int | None = None,
    proxies: int | None = None,
    *,
    purpose: Purpose | None = None,
) -> Profile:
    """The best profile that every node of a route offers.

    The purpose orders the geometries; the first one wins that all nodes offer and that holds the route.
    Without a purpose the length of the content decides: `interactive` for small content, `bulk` from 1 MiB
    on, otherwise `default`. The suite is HCTR if all nodes have it.

    Args:
        descriptors: of the route's proxies and its destination.
        content_bytes: None: unknown.
        proxies: by default one less than the number of descriptors.
        purpose: by default derived from `content_bytes`.
    Raises:
        ProfileError: no profile holds the route and is offered by all. Code UNSUPPORTED.
    """
    count = max(0, len(descriptors) - 1) if proxies is None else proxies
    for geometry in _PREFERENCES[purpose or _purpose_of(content_bytes)]:
        if count > geometry.max_proxies:
            continue
        for suite in (HCTR_SUITE, LIONESS_SUITE):
            profile = Profile(geometry, suite)
            if all(descriptor.offers(profile) for descriptor in descriptors):
                return profile
    raise ProfileError(
        f"no profile that holds {count} proxies (the longest: {LONG.max_proxies}) is offered by all "
        f"{len(descriptors)} nodes of the route"
    )


def checked_purpose(purpose: Any) -> Purpose | None:
    """A purpose, in upper or lower case. Raises BadArgument: unknown; the text lists the known ones."""
    if purpose is None:
        return None
    names: tuple[Purpose, ...] = get_args(Purpose)
    for name in names:
        if isinstance(purpose, str) and plain_name(purpose) == name:
            return name
    raise BadArgument(f"invalid purpose {purpose!r}: expected one of {', '.join(names)}")


def _purpose_of(content_bytes: int | None) -> Purpose:
    if content_bytes is None or _SMALL_CONTENT_BYTES < content_bytes < _BULK_CONTENT_BYTES:
        return "mixed"
    return "interactive" if content_bytes <= _SMALL_CONTENT_BYTES else "bulk"
