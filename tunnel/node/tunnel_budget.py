"""One bound for what all established tunnels of a node hold unread.

Each tunnel has its windows; a peer that opens many tunnels, and in each the sub-streams that nobody reads,
would fill the memory with them all the same. When the node holds too much, the tunnel that holds most is
given up: those whose users read on are not the ones to pay.
"""

from __future__ import annotations

from typing import Protocol

from tunnel.errors import ErrorCode

__all__ = ["Holder", "TunnelBudget"]


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
