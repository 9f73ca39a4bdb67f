"""The replies that a query waits for: `PendingQuery` joins the query to the service that reads its reply.

The query registers it under its id (`NodeContext.pending`). The read service of a reply finds it there,
claims a reply number and writes content to its sink. `Spool` is the sink of a caller who gave none.
"""

from __future__ import annotations

import errno
import io
import tempfile
from collections.abc import Callable
from typing import IO, Protocol

from reactor import Cancelled, Service, Signal
from reactor.errors import is_ctrl_c
from tunnel.errors import ErrorCode, LocalTunnelError, PeerError, TunnelError
from tunnel.onion.reply_block import ReplyBlock

__all__ = ["PendingQuery", "Sink", "Spool", "report_progress", "user_failure"]


# `tempfile.SpooledTemporaryFile` warns when it is dropped unclosed even if it never left memory:
# `query(...).result().read()` in a script would always warn. A `Spool` warns for a real file only.
MEMORY_BYTES = 1024 * 1024
MOST_BYTES = 1 << 34
"""So that no node can fill the disk; the same limit as for fetched files. Longer replies need a sink."""


class Spool:
    """A reply's storage, written once and then read: memory while it is small, else a temporary file."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._left_bytes = MOST_BYTES
        self._file: IO[bytes] = io.BytesIO()

    def write(self, data: memoryview) -> int:
        """Append. Raises OSError: the disk is full, or the reply is too long."""
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise OSError(errno.EFBIG, "the reply is longer than what is kept without a sink")
        file = self._file
        if isinstance(file, io.BytesIO) and file.tell() + len(data) > self._memory_bytes:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
            self._file.write(file.getbuffer())
        return self._file.write(data)

    def rewind(self) -> None:
        """Continue reading at the start."""
        self._file.seek(0)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        """Release memory or disk. Idempotent."""
        self._file.close()


class Sink(Protocol):
    """Where a reply goes: a binary file, or any object with this method. The view is valid during the call.

    Optional methods: `wait_room`, a service that returns when the sink accepts more; `end`, called when all
    replies are complete while the query is still being sent.
    """

    def write(self, data: memoryview, /) -> object: ...


def user_failure(what: str, error: BaseException) -> LocalTunnelError:
    """The error of a query whose user's code has failed. It is an `Exception` whatever that code raised: a
    node must survive the `sys.exit()` of a callback."""
    return LocalTunnelError(f"{what} failed: {type(error).__name__}: {error}")


def report_progress(progress: Callable[..., object], *counts: int) -> None:
    """Call a progress callback. Raises LocalTunnelError: it failed."""
    try:
        progress(*counts)
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        raise user_failure("the progress callback", error) from error


class PendingQuery:
    """The replies of one query, each claimed at most once; all of them complete, or failed.

    Args:
        sinks: one for each reply, in their order: where its content goes.

    Attributes:
        content_in, content_out: movement, for the idle watch.
        is_sending: the query is not sent completely yet.
        given_up: the query has ended; replies are refused.
        done: set when all replies are complete or one has failed.
        failed: set when one has failed.
        lost: the neighbour whose link broke during a reply.
        reply_blocks: usable for follow-ups to Bob (mode `reply-on-reply`).
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
        """Write content of a reply to its sink.

        Raises:
            LocalTunnelError: the user's sink fails.
            PeerError (UNKNOWN_QUERY): the query has ended; nothing more is written to its sink.
        """
        if self.given_up:
            raise PeerError("the query was given up while its reply came", ErrorCode.UNKNOWN_QUERY)
        try:
            self._write(data, self._sinks[number])
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            raise user_failure("the sink of the reply", error) from error
        self.content_in += len(data)
        self.moved()

    def wait_room(self, number: int = 0) -> Service[None]:
        """Wait until the sink accepts more; most always do. Raises LocalTunnelError: the sink fails."""
        wait: Callable[[], Service[None]] | None = getattr(self._sinks[number], "wait_room", None)
        if wait is None:
            return
        try:
            yield from wait()
        except (Cancelled, GeneratorExit):
            raise
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            raise user_failure("the sink of the reply", error) from error

    def _write(self, data: memoryview, sink: Sink) -> None:
        taken = sink.write(data)
        if isinstance(sink, io.RawIOBase):  # the one kind of file that may take less than all
            while taken != len(data):
                if not isinstance(taken, int) or not taken:
                    raise BlockingIOError("a non-blocking file takes nothing now")
                data = data[taken:]
                taken = sink.write(data)

    def moved(self) -> None:
        """Call the progress callback. Raises LocalTunnelError: it failed."""
        if self.on_progress is not None:
            report_progress(self.on_progress)

    def claim(self, number: int = 0) -> bool:
        """Whether this is the first frame for that reply; a reply block is used once."""
        if number in self._claimed or number >= len(self._sinks):
            return False
        self._claimed.add(number)
        return True

    @property
    def claimed(self) -> bool:
        """Whether a reply has started."""
        return bool(self._claimed)

    @property
    def complete(self) -> bool:
        """Whether all replies are complete."""
        return len(self._complete) == len(self._sinks)

    @property
    def has_ended(self) -> bool:
        return self.complete or self.error is not None

    def content_ended(self) -> None:
        """The content of one reply is complete. Raises LocalTunnelError: a sink fails."""
        self._ends_left -= 1
        if not self.is_sending or self._ends_left:
            return
        for sink in self._sinks:
            end: Callable[[], None] | None = getattr(sink, "end", None)
            if end is not None:
                try:
                    end()
                except BaseException as error:
                    if is_ctrl_c(error):
                        raise
                    raise user_failure("the sink of the reply", error) from error

    def succeed(self, number: int = 0) -> None:
        """One reply is complete and checked."""
        self._complete.add(number)
        if self.complete:
            self.done.set()

    def fail(self, error: TunnelError, *, lost: bytes | None = None) -> None:
        """The reply has failed. The first error stays; `lost` as the attribute."""
        if not self.has_ended:
            self.error, self.lost = error, lost
            self.done.set()
            self.failed.set()
