"""A query of this node that waits for its reply: the meeting point of the api service and the reply's read
service.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from reactor import Signal
from tunnel.errors import LocalTunnelError, TunnelError

__all__ = ["PendingQuery", "Sink"]


class Sink(Protocol):
    """Where a reply goes: any binary file, or whatever takes bytes. The view is good during the call only."""

    def write(self, data: memoryview, /) -> object: ...


class PendingQuery:
    """One reply, claimed at most once, then complete or failed.

    Attributes:
        sink: where the reply's content goes.
        content_in, content_out: movement, for the idle watch.
        done: set when the reply is complete or has failed.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.content_in = 0
        self.content_out = 0
        self.done = Signal()
        self.claimed = False
        self.complete = False
        self.error: TunnelError | None = None
        self.on_progress: Callable[[], None] | None = None

    def take(self, data: memoryview) -> None:
        """Content of the reply has come. Raises LocalTunnelError when the user's sink fails."""
        try:
            self.sink.write(data)
        except Exception as error:
            raise LocalTunnelError(
                f"the sink of the reply failed: {type(error).__name__}: {error}"
            ) from error
        self.content_in += len(data)
        self.moved()

    def moved(self) -> None:
        """Something was sent or received: tell whoever wants to know. Raises LocalTunnelError when that
        fails.
        """
        if self.on_progress is None:
            return
        try:
            self.on_progress()
        except Exception as error:
            raise LocalTunnelError(
                f"the progress callback failed: {type(error).__name__}: {error}"
            ) from error

    def claim(self) -> bool:
        """True for the first reply that comes for this query; a reply block serves once."""
        first, self.claimed = not self.claimed, True
        return first

    def succeed(self) -> None:
        self.complete = True
        self.done.set()

    def fail(self, error: TunnelError) -> None:
        self.error = error
        self.done.set()
