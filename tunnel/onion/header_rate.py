"""How many headers a neighbour may have opened: a token bucket for each.

Opening a slot is the one public-key operation that a stranger's bytes can ask of a node, 0.07 ms with OpenSSL
and 0.5 ms with pycryptodome. Pure: the caller brings the time. Source: docs/protocol.md, "Order of checks".
"""

from __future__ import annotations

from tunnel.errors import TooManyHeaders

__all__ = ["HeaderRate"]


class HeaderRate:
    """Token buckets by neighbour.

    Args:
        per_s: headers a second that a neighbour may send on average. By default 500: a quarter of a core with
            the slower engine.
        burst: headers at once, after a pause.
        neighbours: buckets kept. Neighbours are live links, which have a limit of their own; buckets that are
            full again are forgotten first, for nothing is lost with them.
    """

    def __init__(self, *, per_s: float = 500.0, burst: float = 1_000.0, neighbours: int = 4_096) -> None:
        self._per_s = per_s
        self._burst = burst
        self._neighbours = neighbours
        self._buckets: dict[bytes, tuple[float, float]] = {}  # neighbour → tokens, and when they were counted

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, neighbour: bytes, *, now_s: float) -> None:
        """Count one header of `neighbour`.

        Args:
            now_s: any clock in seconds. A clock that steps back refills nothing for that once; one that
                steps forward fills the bucket, and no more.
        Raises:
            TooManyHeaders: it has had its share for now; nothing was counted.
        """
        tokens = self._tokens(neighbour, now_s)
        if tokens < 1:
            raise TooManyHeaders(
                f"a neighbour sends more than {self._per_s:g} headers a second; refused until it slows down"
            )
        if neighbour not in self._buckets and len(self._buckets) >= self._neighbours:
            self._forget_full(now_s)
        self._buckets[neighbour] = (tokens - 1, now_s)

    def _tokens(self, neighbour: bytes, now_s: float) -> float:
        tokens, then_s = self._buckets.get(neighbour, (self._burst, now_s))
        return min(self._burst, tokens + max(0.0, now_s - then_s) * self._per_s)

    def _forget_full(self, now_s: float) -> None:
        full = [who for who in self._buckets if self._tokens(who, now_s) >= self._burst]
        for who in full:
            del self._buckets[who]
        if not full:
            raise TooManyHeaders(f"{self._neighbours} neighbours are sending headers; refusing a further one")
