"""An inner service that does nothing until it is told to."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from reactor import Signal
from tunnel.services import InnerService, Query, Reply

__all__ = ["Held"]


class Held(InnerService):
    """Echoes each query when it is let; before that it reads nothing."""

    def __init__(self) -> None:
        self._waiting: list[Signal] = []
        self._is_let = False

    @property
    def asked(self) -> int:
        """Queries that have come so far."""
        return len(self._waiting)

    def let(self) -> None:
        """Let all go on, and all that come later."""
        self._is_let = True
        for signal in self._waiting:
            signal.set()

    def let_all_but_first(self) -> None:
        """Let those that have come go on, but for the first."""
        for signal in self._waiting[1:]:
            signal.set()

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        signal = Signal()
        self._waiting.append(signal)
        if not self._is_let:
            yield signal
        while chunk := (yield from query.read()):
            yield from reply.write(chunk)
