"""A frame that fails at one hop, in memory: how far it comes, and the STATUS that returns.

As in `tests/tunnel/exchange.py`, every hop opens its header and relays the chunks. The failing hop makes a
STATUS by the flags of its slot, and each earlier hop passes it on by the flags of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.tunnel.exchange import Cast
from tests.tunnel.helpers import NOW_S, OPENSSL, Peer, chunks_of
from tunnel.errors import ErrorCode
from tunnel.geometry import Profile
from tunnel.onion.header import Opened
from tunnel.onion.reports import originate, pass_on

__all__ = ["FAULT", "back_to_alice", "backward_over", "open_over", "relay_over", "status_of"]

FAULT = ErrorCode.BUSY


def open_over(header: bytes, profile: Profile, way: Sequence[Peer], origin: bytes) -> list[Opened]:
    """Take a header over `way`. Returns it as each node opened it."""
    opened: list[Opened] = []
    for peer in way:
        opened.append(peer.codec.open_frame(header, profile, neighbour=origin, now_s=NOW_S))
        header, origin = opened[-1].next_header, peer.id
    return opened


def relay_over(
    body: bytes, profile: Profile, way: Sequence[Peer], opened: Sequence[Opened], *, backward: bool = False
) -> bytes:
    """Take chunks over proxies: those of `way`, in the order in which they meet them."""
    for peer, found in zip(way, opened, strict=True):
        layer = peer.codec.relay_layers(found.slot, profile)[backward]
        out = bytearray()
        for number, chunk in enumerate(chunks_of(body, profile)):
            work = bytearray(chunk)
            layer.decrypt(memoryview(work), number)
            out += work
        body = bytes(out)
    return body


def backward_over(body: bytes, profile: Profile, way: Sequence[Peer], opened: Sequence[Opened]) -> bytes:
    """The same on the backward halves: over `way` from its end."""
    return relay_over(body, profile, way[::-1], opened[::-1], backward=True)


def status_of(
    opened: Sequence[Opened],
    profile: Profile,
    hop: int,
    code: ErrorCode | None = FAULT,
    *,
    about_next: bool = False,
    text: str = "",
) -> bytes:
    """The STATUS of hop `hop` as hop 0 sends it. Each hop holds it 10 ms longer than the next."""
    geometry = profile.geometry
    status = originate(
        opened[hop].slot, geometry, code, hold_ms=10, engine=OPENSSL, about_next=about_next, text=text
    )
    for place in range(hop - 1, -1, -1):
        hold_ms = 10 * (hop - place + 1)
        status = pass_on(status, opened[place].slot, geometry, hold_ms=hold_ms, engine=OPENSSL)
    return status


def back_to_alice(cast: Cast, body: bytes, profile: Profile, opened: Sequence[Opened]) -> bytes:
    """Bob's chunks on the backward halves of the query, as Alice's first hop sends them."""
    return backward_over(body, profile, cast.proxies, opened[: len(cast.proxies)])
