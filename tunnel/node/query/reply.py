"""A query whose reply is read while it arrives (`Node.ask`).

The reply waits in a bounded buffer. While the buffer is full the frame is not read, which slows its sender
down, hop by hop. A reply that is not read for `idle_s` is therefore ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self, TypeVar

from reactor import Cancelled, Handle, Scope, Service, Signal, needs_yield_from
from reactor.errors import is_ctrl_c
from readwrite_comp.helpers import renewed
from tunnel.arguments import checked_count
from tunnel.codes import short
from tunnel.errors import ErrorCode, LocalTunnelError, NodeStopped, QueryFailed
from tunnel.node.query.pending import Sink
from tunnel.node.query.running import QueryResult
from tunnel.node.waits import Post, Turn, UntakenBytes, release_dropped

__all__ = ["REPLY_WINDOW_BYTES", "IncomingReply", "ask"]

T = TypeVar("T")

REPLY_WINDOW_BYTES: Final = 256 * 1024
"""A few chunks of the largest profile, so that reader and network work at the same time."""


class IncomingReply:
    """A query under way: its reply, read as it arrives, and its outcome.

    A context manager: leaving the block cancels the query if it is not complete. Dropping an unfinished one
    cancels it with a ResourceWarning.
    """

    def __init__(self, post: Post, query: _ReplyBuffer) -> None:
        self._post = post
        self._query = query
        self._reading = Turn()
        self._untaken = UntakenBytes()

    @property
    def has_ended(self) -> bool:
        """Whether the query has ended; part of the reply may still be unread."""
        return self._query.has_ended

    @needs_yield_from
    def read(self, limit_bytes: int = REPLY_WINDOW_BYTES) -> Service[bytes]:
        """The next bytes of the reply, at least one; b"" at its end.

        The end is reported only when the whole query has succeeded. Exception: a reply that ends while the
        query is still being sent ends immediately; `result` has the outcome of the query.

        Raises:
            QueryFailed: the query failed; what was read is authentic but incomplete. Whatever else
                `Node.query` raises.
        Cancellation: nothing is consumed.
        """
        place = self._reading.enter()
        try:
            yield from self._reading.wait(place)
            return (
                yield from self._query.read(checked_count(limit_bytes, "limit_bytes", least=1), self._untaken)
            )
        finally:
            self._reading.leave(place)

    def numbered(self, reading: Service[T]) -> Service[tuple[int, T]]:
        """Run a `read`; with its piece it returns the place that `undo_read` takes."""
        return self._untaken.numbered(reading)

    def undo_read(self, place: int, piece: bytes) -> None:
        """Give a piece that its cancelled caller did not take to the next `read`."""
        self._untaken.put_back(place, piece)
        self._query.wake()

    @needs_yield_from
    def result(self) -> Service[QueryResult]:
        """Wait for the end of the query; the unread rest of the reply is discarded. Raises as `read`."""
        place = self._reading.enter()
        try:
            yield from self._reading.wait(place)
            return (yield from self._query.outcome())
        finally:
            self._reading.leave(place)

    def cancel(self) -> None:
        """Cancel the query; a pending read gets QueryFailed. No effect if it has ended."""
        self._query.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        query = self._query
        if query.has_ended or query.is_cancelled:
            return
        text = (
            f"the reply of a query to {short(query.destination)} was dropped while it came: read it to its "
            "end, or leave its `with` block"
        )
        release_dropped(self._post, query.cancel, text, self)


class _ReplyBuffer:
    """The node's side of an `IncomingReply`: the sink of its reply, and its outcome.

    A separate object, so that an `IncomingReply` is collected when its user drops it.
    """

    def __init__(self, destination: bytes) -> None:
        self.destination = destination
        self.is_cancelled = False
        self._held = bytearray()
        self._changed = Signal()
        self._room = Signal()
        self._result: QueryResult | None = None
        self._error: BaseException | None = None
        self._is_whole = False  # the reply is complete while the query is still being sent
        self._is_dropping = False
        self.handle: Handle[None] | None = None

    @property
    def has_ended(self) -> bool:
        return self._result is not None or self._error is not None

    def read(self, limit_bytes: int, untaken: UntakenBytes) -> Service[bytes]:
        """The next bytes, those in `untaken` first."""
        while True:
            if piece := untaken.take(limit_bytes):
                return piece
            if self._held:
                break
            if self._result is not None or self._is_whole:
                return b""
            if self._error is not None:
                raise renewed(self._error)
            yield self._changed
        data = bytes(memoryview(self._held)[:limit_bytes])
        del self._held[:limit_bytes]
        self._room.set()
        return untaken.count(data)

    def wake(self) -> None:
        """Have the reader look again."""
        self._changed.set()

    def outcome(self) -> Service[QueryResult]:
        self._is_dropping = True
        self._held.clear()
        self._room.set()
        while self._result is None:
            if self._error is not None:
                raise renewed(self._error)
            yield self._changed
        return self._result

    def cancel(self) -> None:
        self.is_cancelled = True
        if self.handle is not None:
            self.handle.cancel("the query was cancelled by its user")

    # The sink of the query.

    def write(self, data: memoryview) -> None:
        """Accept content of the reply; called by the node."""
        if self._is_whole:
            raise LocalTunnelError("the query was sent again after its reply had ended")
        if not self._is_dropping:
            self._held += data
            self._changed.set()

    def end(self) -> None:
        """The reply is complete while the query is still being sent; called by the node."""
        self._is_whole = True
        self._changed.set()

    def wait_room(self) -> Service[None]:
        """Wait for room in the buffer; called by the node."""
        while len(self._held) >= REPLY_WINDOW_BYTES and not self.has_ended:
            yield self._room

    def run(self, query: Service[QueryResult], scope: Scope) -> Service[None]:
        error: BaseException | None = None
        try:
            self._result = yield from query
        except (Cancelled, GeneratorExit):
            raise
        except BaseException as failure:  # raised where the reply is read
            if is_ctrl_c(failure):
                raise
            error = failure
        finally:
            if self._result is None and error is None:
                error = QueryFailed("the query was cancelled", ErrorCode.CANCELLED)
                if scope.is_cancelled and not self.is_cancelled:
                    error = NodeStopped()
            self._error = error
            self._room.set()
            self._changed.set()


def ask(
    scope: Scope, post: Post, destination: bytes, query: Callable[[Sink], Service[QueryResult]], name: str
) -> Service[IncomingReply]:
    """Start a query and return its reply, which may not have begun.

    Retries stop once part of the reply has arrived, since it may have been read.

    Args:
        scope: owns the query.
        post: calls a function in the reactor's thread, from any thread.
        query: runs the query with this sink for its reply.
    Raises:
        Closed: the scope was cancelled: the node has been stopped.
    """
    running = _ReplyBuffer(destination)
    running.handle = yield from scope.spawn(running.run(query(running), scope), name=name)
    return IncomingReply(post, running)
