"""The replay table: no header is accepted twice while it has not expired.

A tag is HMAC(table key, slot 0) cut to 8 bytes; without the key nobody can make two headers share one. Tags
live in one set per expiry hour and are dropped with the hour, 600 s late, by a clock that never steps back. A
full table refuses everything new (fails closed): forgetting would reopen the door. For the same reason a
header whose hour was dropped is refused, even when the node's clock was set back since and calls it fresh.
Source: docs/protocol.md, "Order of checks".
"""

from __future__ import annotations

from readwrite_comp.primitives import hmac_sha256
from tunnel.errors import ExpiredHeader, ReplayedHeader, TableFull
from tunnel.geometry import SLOT_BYTES
from tunnel.onion.expiry import CLOCK_SKEW_S, HOUR_S

__all__ = ["ReplayTable"]

_TAG_BYTES = 8


class ReplayTable:
    """Tags of the headers seen, bounded.

    Args:
        key: 32 random bytes, kept as long as the onion key.
        limit: most tags held at once; each costs about 100 bytes of memory.
    """

    def __init__(self, key: bytes, *, limit: int = 1_000_000) -> None:
        self._key = key
        self._limit = limit
        self._hours: dict[int, set[bytes]] = {}
        self._count = 0
        self._latest_now_s = 0.0

    def __len__(self) -> int:
        return self._count

    def insert(self, header: bytes, expiry: int, *, now_s: float) -> None:
        """Remember a header that has just been opened; test and insert are one step.

        Args:
            header: the whole header; its first slot is what is remembered.
            expiry: of the opened slot, already checked.
            now_s: seconds since 1970.
        Raises:
            ReplayedHeader: it was here before. TableFull: no room until an hour has expired.
            ExpiredHeader: its hour was forgotten already, by the latest time that this table was told.
        On error: no header is remembered or lost.
        """
        self._forget(now_s)
        if expiry < self._latest_now_s - CLOCK_SKEW_S:
            raise ExpiredHeader(
                "header expired by the latest time that was seen here: the clock has stepped back"
            )
        tag = hmac_sha256(self._key, header[:SLOT_BYTES])[:_TAG_BYTES]
        # Rounded up here too, so that senders of odd expiries cannot make thousands of sets of one tag each.
        hour = -(-expiry // HOUR_S) * HOUR_S
        tags = self._hours.get(hour, ())
        if tag in tags:
            raise ReplayedHeader("this header was accepted before")
        if self._count >= self._limit:
            raise TableFull(
                f"replay table holds its limit of {self._limit} headers; refusing until some expire"
            )
        self._hours.setdefault(hour, set()).add(tag)
        self._count += 1

    def _forget(self, now_s: float) -> None:
        self._latest_now_s = max(self._latest_now_s, now_s)
        past = [hour for hour in self._hours if hour < self._latest_now_s - CLOCK_SKEW_S]
        for hour in past:
            self._count -= len(self._hours.pop(hour))
