"""Statuses carried over a route in memory, for the tests of STATUS and of attacks on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from tests.tunnel.helpers import OPENSSL
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import ErrorCode
from tunnel.geometry import Geometry
from tunnel.onion.key_schedule import StatusKeys
from tunnel.onion.status import originate_status, wrap_status

__all__ = ["Tamper", "carry", "keys_of", "seeds_of"]

Tamper = Callable[[bytes], bytes]


def seeds_of(hops: int, name: str = "route") -> list[bytes]:
    """Slot seeds of a route, the same for the same name."""
    return [sha256(f"{name} {hop}".encode()).digest()[:16] for hop in range(hops)]


def keys_of(hops: int, name: str = "route") -> list[StatusKeys]:
    return [StatusKeys.derive(seed) for seed in seeds_of(hops, name)]


def carry(
    route: Sequence[StatusKeys],
    origin: int,
    geometry: Geometry,
    *,
    code: ErrorCode | None = ErrorCode.TIMEOUT,
    text: str = "",
    about_next: bool = False,
    on_output: dict[int, Tamper] | None = None,
    on_input: dict[int, Tamper] | None = None,
    engine: TunnelEngine = OPENSSL,
) -> list[bytes]:
    """Carry a STATUS from hop `origin` to Alice. Returns each hop's output. Hop i holds it i + 1 ms.

    Args:
        on_input, on_output: what a hop does to a STATUS before, or after, it wraps it as it should.
    """
    on_output, on_input = on_output or {}, on_input or {}

    def unchanged(status: bytes) -> bytes:
        return status

    status = originate_status(
        route[origin],
        code,
        geometry=geometry,
        hold_ms=origin + 1,
        engine=engine,
        about_next=about_next,
        text=text,
    )
    status = on_output.get(origin, unchanged)(status)
    seen = [status]
    for hop in range(origin - 1, -1, -1):
        status = on_input.get(hop, unchanged)(status)
        status = wrap_status(status, route[hop], geometry=geometry, hold_ms=hop + 1, engine=engine)
        status = on_output.get(hop, unchanged)(status)
        seen.append(status)
    return seen
