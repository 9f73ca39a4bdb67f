"""An inner service whose answers wait for the test."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from reactor import Signal
from tunnel.services import InnerService, Query, Reply

__all__ = ["Held"]


class Held(InnerService):
    """Echoes queries, and reads nothing of them before `let`."""

    def __init__(self) -> None:
        self._waiting: list[Signal] = []
        self._is_let = False

    @property
    def asked(self) -> int:
        """Number of queries that have arrived."""
        return len(self._waiting)

    def let(self) -> None:
        """Release all queries, also those that arrive later."""
        self._is_let = True
        for signal in self._waiting:
            signal.set()

    def let_all_but_first(self) -> None:
        """Release all queries that have arrived, except the first."""
        for signal in self._waiting[1:]:
            signal.set()

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        signal = Signal()
        self._waiting.append(signal)
        if not self._is_let:
            yield signal
        while chunk := (yield from query.read()):
            yield from reply.write(chunk)
