"""A query of this node that waits for its reply: the meeting point of the api service and the reply's read
service.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Protocol

from reactor import Service, Signal
from tunnel.errors import LocalTunnelError, TunnelError, UnknownQuery
from tunnel.onion.reply_block import ReplyBlock

__all__ = ["PendingQuery", "Sink"]


class Sink(Protocol):
    """Where a reply goes: any binary file, or whatever takes bytes. The view is good during the call only.

    One that has a method `wait_room`, a service, is given nothing more until that returns.
    """

    def write(self, data: memoryview, /) -> object: ...


class PendingQuery:
    """One reply, claimed at most once, then complete or failed.

    Attributes:
        sink: where the reply's content goes.
        content_in, content_out: movement, for the idle watch.
        given_up: the query has ended; a reply still under way has nowhere to go.
        done: set when the reply is complete or has failed.
        failed: set when it has failed; for another who waits.
        reply_blocks: along which Bob can be answered again (mode `reply-on-reply`).
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.content_in = 0
        self.content_out = 0
        self.done = Signal()
        self.failed = Signal()
        self.claimed = False
        self.given_up = False
        self.complete = False
        self.error: TunnelError | None = None
        self.on_progress: Callable[[], None] | None = None
        self.reply_blocks: tuple[ReplyBlock, ...] = ()
        self._wait_room: Callable[[], Service[None]] | None = getattr(sink, "wait_room", None)

    def take(self, data: memoryview) -> None:
        """Content of the reply has come.

        Raises:
            LocalTunnelError: the user's sink fails. UnknownQuery: the query has ended, its sink is not to be
                written to.
        """
        if self.given_up:
            raise UnknownQuery("the query was given up while its reply came")
        try:
            self._write(data)
        except Exception as error:
            raise LocalTunnelError(
                f"the sink of the reply failed: {type(error).__name__}: {error}"
            ) from error
        self.content_in += len(data)
        self.moved()

    def wait_room(self) -> Service[None]:
        """Wait until the sink takes more; most always do."""
        if self._wait_room is not None:
            yield from self._wait_room()

    def _write(self, data: memoryview) -> None:
        sink = self.sink
        taken = sink.write(data)
        if isinstance(sink, io.RawIOBase):  # the one kind of file that may take less than all
            while taken != len(data):
                if not isinstance(taken, int) or not taken:
                    raise BlockingIOError("a non-blocking file takes nothing now")
                data = data[taken:]
                taken = sink.write(data)

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

    @property
    def has_ended(self) -> bool:
        return self.complete or self.error is not None

    def succeed(self) -> None:
        self.complete = True
        self.done.set()

    def fail(self, error: TunnelError) -> None:
        """The reply will not come. What ended it first stays the reason."""
        if not self.has_ended:
            self.error = error
            self.done.set()
            self.failed.set()
