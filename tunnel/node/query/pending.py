"""A query of this node that waits for its reply: the meeting point of the api service and the reply's read
service.
"""

from __future__ import annotations

import errno
import io
import tempfile
from collections.abc import Callable
from typing import IO, Protocol

from reactor import Service, Signal
from tunnel.errors import ErrorCode, LocalTunnelError, PeerError, TunnelError
from tunnel.onion.reply_block import ReplyBlock

__all__ = ["PendingQuery", "Sink", "Spool"]


# Where a reply waits for its reader: memory while it is small, an unnamed temporary file beyond.
#
# `tempfile.SpooledTemporaryFile` warns when it is dropped unclosed even while it is only memory, so that
# `query(...).result().read()` in a script would warn each time; here only a real file does.
MEMORY_BYTES = 1024 * 1024
MOST_BYTES = 1 << 34
"""As for files that are fetched: no node can fill the disk here. Longer ones need a sink of their own."""


class Spool:
    """Written once from start to end, then read."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._left_bytes = MOST_BYTES
        self._file: IO[bytes] = io.BytesIO()

    def write(self, data: memoryview) -> int:
        """Append. Raises OSError: the disk does not take it, or it is too much in all."""
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise OSError(errno.EFBIG, "the reply is longer than what is kept without a sink")
        file = self._file
        if isinstance(file, io.BytesIO) and file.tell() + len(data) > self._memory_bytes:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
            self._file.write(file.getbuffer())
        return self._file.write(data)

    def rewind(self) -> None:
        """Read from the start now."""
        self._file.seek(0)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        """Give memory or disk back. Idempotent."""
        self._file.close()


class Sink(Protocol):
    """Where a reply goes: any binary file, or whatever takes bytes. The view is good during the call only.

    One that has a method `wait_room`, a service, is given nothing more until that returns. One that has a
    method `end` is told when all replies are here and the query is still being sent.
    """

    def write(self, data: memoryview, /) -> object: ...


class PendingQuery:
    """The replies of one query, each claimed at most once; all of them complete, or failed.

    Args:
        sinks: one for each reply, in their order: where its content goes.

    Attributes:
        content_in, content_out: movement, for the idle watch.
        is_sending: the query has not been sent to its end.
        given_up: the query has ended; a reply still under way has nowhere to go.
        done: set when all replies are complete or one has failed.
        failed: set when one has failed; for another who waits.
        lost: the neighbour whose link broke while it brought a reply.
        reply_blocks: along which Bob can be answered again (mode `reply-on-reply`).
    """

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._claimed: set[int] = set()
        self._complete: set[int] = set()
        self._ends_left = len(sinks)
        self.is_sending = False
        self.content_in = 0
        self.content_out = 0
        self.done = Signal()
        self.failed = Signal()
        self.given_up = False
        self.error: TunnelError | None = None
        self.lost: bytes | None = None
        self.on_progress: Callable[[], None] | None = None
        self.reply_blocks: tuple[ReplyBlock, ...] = ()

    def take(self, data: memoryview, number: int = 0) -> None:
        """Content of a reply has come.

        Raises:
            LocalTunnelError: the user's sink fails.
            PeerError (UNKNOWN_QUERY): the query has ended; nothing more is written to its sink.
        """
        if self.given_up:
            raise PeerError("the query was given up while its reply came", ErrorCode.UNKNOWN_QUERY)
        try:
            self._write(data, self._sinks[number])
        except Exception as error:
            raise LocalTunnelError(
                f"the sink of the reply failed: {type(error).__name__}: {error}"
            ) from error
        self.content_in += len(data)
        self.moved()

    def wait_room(self, number: int = 0) -> Service[None]:
        """Wait until the sink takes more; most always do."""
        wait: Callable[[], Service[None]] | None = getattr(self._sinks[number], "wait_room", None)
        if wait is not None:
            yield from wait()

    def _write(self, data: memoryview, sink: Sink) -> None:
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

    def claim(self, number: int = 0) -> bool:
        """True for the first frame that comes as this reply; a reply block serves once."""
        if number in self._claimed or number >= len(self._sinks):
            return False
        self._claimed.add(number)
        return True

    @property
    def claimed(self) -> bool:
        """A reply has begun to come."""
        return bool(self._claimed)

    @property
    def complete(self) -> bool:
        """All replies are here."""
        return len(self._complete) == len(self._sinks)

    @property
    def has_ended(self) -> bool:
        return self.complete or self.error is not None

    def content_ended(self) -> None:
        """The content of one reply is here, to its end."""
        self._ends_left -= 1
        if self.is_sending and not self._ends_left:
            for sink in self._sinks:
                end: Callable[[], None] | None = getattr(sink, "end", None)
                if end is not None:
                    end()

    def succeed(self, number: int = 0) -> None:
        """One reply is here."""
        self._complete.add(number)
        if self.complete:
            self.done.set()

    def fail(self, error: TunnelError, *, lost: bytes | None = None) -> None:
        """The reply will not come. What ended it first stays the reason; `lost` as the attribute."""
        if not self.has_ended:
            self.error, self.lost = error, lost
            self.done.set()
            self.failed.set()
