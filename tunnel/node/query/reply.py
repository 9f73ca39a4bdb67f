"""A query whose reply is read while it arrives: for services.

The reply waits in a bounded buffer; while that is full the frame is not read, so its sender is held up, hop
by hop. A reply that nobody reads for as long as `idle_s` is therefore ended.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from reactor import Handle, Scope, Service, Signal, needs_yield_from
from readwrite_comp.helpers import renewed
from tunnel.arguments import checked_count
from tunnel.errors import ErrorCode, LocalTunnelError, NodeStopped, QueryFailed
from tunnel.identity.descriptor import short
from tunnel.node.query.pending import Sink
from tunnel.node.query.running import QueryResult
from tunnel.node.relay.relay_loop import Post, Turn, release_dropped

__all__ = ["REPLY_WINDOW_BYTES", "IncomingReply", "ask"]

REPLY_WINDOW_BYTES: Final = 256 * 1024
"""A few chunks of the largest profile, so that reader and network work at the same time."""


class IncomingReply:
    """A query under way: its reply, read as it comes, and its outcome.

    It is a context: what is left of the query when the block is left is cancelled. One that is dropped
    without that is cancelled with a ResourceWarning.
    """

    def __init__(self, post: Post, query: _ReplyBuffer) -> None:
        self._post = post
        self._query = query
        self._reading = Turn()

    @property
    def has_ended(self) -> bool:
        """Whether the query is over; a part of the reply may still wait here."""
        return self._query.has_ended

    @needs_yield_from
    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """The next bytes of the reply, at least one; b"" at its end.

        The end is given when the whole query has succeeded, and only then; but a reply that ends while the
        query is still being sent ends at once, and `result` says what becomes of the query.

        Raises:
            QueryFailed: it did not succeed; what was read before is authentic, and not whole. Whatever else
                `Node.query` raises.
        Cancellation: nothing is taken.
        """
        place = self._reading.enter()
        try:
            yield from self._reading.wait(place)
            return (yield from self._query.read(checked_count(limit_bytes, "limit_bytes", least=1)))
        finally:
            self._reading.leave(place)

    @needs_yield_from
    def result(self) -> Service[QueryResult]:
        """Wait for the end of the query; what is left of the reply is thrown away. Raises as `read`."""
        place = self._reading.enter()
        try:
            yield from self._reading.wait(place)
            return (yield from self._query.outcome())
        finally:
            self._reading.leave(place)

    def cancel(self) -> None:
        """End the query; who reads gets QueryFailed. Nothing if it has ended."""
        self._query.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
    """What the node holds of a query under way, and the sink of its reply.

    Apart from `IncomingReply`, which must be free to go when its user drops it.
    """

    def __init__(self, destination: bytes) -> None:
        self.destination = destination
        self.is_cancelled = False
        self._held = bytearray()
        self._changed = Signal()
        self._room = Signal()
        self._result: QueryResult | None = None
        self._error: BaseException | None = None
        self._is_whole = False  # the reply is, while the query is still being sent
        self._is_dropping = False
        self.handle: Handle[None] | None = None

    @property
    def has_ended(self) -> bool:
        return self._result is not None or self._error is not None

    def read(self, limit_bytes: int) -> Service[bytes]:
        while not self._held:
            if self._result is not None or self._is_whole:
                return b""
            if self._error is not None:
                raise renewed(self._error)
            yield self._changed
        data = bytes(memoryview(self._held)[:limit_bytes])
        del self._held[:limit_bytes]
        self._room.set()
        return data

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
        """Take content of the reply; called by the node."""
        if self._is_whole:
            raise LocalTunnelError("the query was sent again after its reply had ended")
        if not self._is_dropping:
            self._held += data
            self._changed.set()

    def end(self) -> None:
        """The reply is whole, and the query is still being sent; called by the node."""
        self._is_whole = True
        self._changed.set()

    def wait_room(self) -> Service[None]:
        """Wait until more may come; called by the node."""
        while len(self._held) >= REPLY_WINDOW_BYTES and not self.has_ended:
            yield self._room

    def run(self, query: Service[QueryResult], scope: Scope) -> Service[None]:
        error: BaseException | None = None
        try:
            self._result = yield from query
        except Exception as failure:  # noqa: BLE001 - raised where the reply is read
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
    """Begin a query, and return its reply to come.

    It is retried until something of the reply is here: that may have been read.

    Args:
        scope: owns the query.
        post: has a function called in the reactor's thread, from any thread.
        query: the query, whose reply goes to this sink.
    Raises:
        Closed: the scope was cancelled: the node has been stopped.
    """
    running = _ReplyBuffer(destination)
    running.handle = yield from scope.spawn(running.run(query(running), scope), name=name)
    return IncomingReply(post, running)
