"""Both tunnel engines, and a check that a call looks the same from outside on either."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.errors import TunnelError

__all__ = ["ENGINES", "OPENSSL", "PRIME", "PYCRYPTODOME", "keys", "non_canonical", "outcome", "same_outcome"]

OPENSSL, PYCRYPTODOME = tunnel_engine("openssl"), tunnel_engine("pycryptodome")
ENGINES = (OPENSSL, PYCRYPTODOME)
PRIME = 2**255 - 19

keys = st.binary(min_size=32, max_size=32)
non_canonical = st.one_of(
    st.integers(PRIME, 2**255 - 1).map(lambda number: number.to_bytes(32, "little")),
    st.integers(2**255, 2**256 - 1).map(lambda number: number.to_bytes(32, "little")),
)


def outcome(call: Callable[[], bytes | None]) -> tuple[str, object]:
    """The visible outcome of a call: its result, or the class, text and cause of its documented error."""
    try:
        return "result", call()
    except TunnelError as error:
        return type(error).__name__, (str(error), error.__cause__, error.__suppress_context__)


def same_outcome(call: Callable[[TunnelEngine], bytes | None]) -> tuple[str, object]:
    first, second = (outcome(lambda engine=engine: call(engine)) for engine in ENGINES)  # type: ignore[misc]
    assert first == second
    return first
