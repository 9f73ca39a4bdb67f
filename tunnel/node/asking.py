"""A query whose reply is read while it arrives: for services.

The reply waits in a bounded buffer; while that is full the frame is not read, so its sender is held up, hop
by hop. A reply that nobody reads for as long as `idle_s` is therefore ended.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from reactor import Handle, Scope, Service, Signal
from tunnel.errors import ErrorCode, QueryFailed
from tunnel.node.api_service import QueryResult
from tunnel.node.pending import Sink

__all__ = ["REPLY_WINDOW_BYTES", "IncomingReply", "ask"]

REPLY_WINDOW_BYTES: Final = 256 * 1024
"""A few chunks of the largest profile, so that reader and network work at the same time."""


class IncomingReply:
    """A query under way: its reply, read as it comes, and its outcome. One service reads it.

    It is a context: what is left of the query when the block is left is cancelled.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._changed = Signal()
        self._room = Signal()
        self._result: QueryResult | None = None
        self._error: BaseException | None = None
        self._is_dropping = False
        self._handle: Handle[None] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the query is over; a part of the reply may still wait here."""
        return self._result is not None or self._error is not None

    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """The next bytes of the reply, at least one; b"" when the whole query has succeeded, and only then.

        Raises:
            QueryFailed: it did not; what was read before is authentic, and not whole. Whatever else
                `Node.query` raises.
        Cancellation: nothing is taken.
        """
        while not self._held:
            if self._error is not None:
                raise self._error
            if self._result is not None:
                return b""
            yield self._changed
        data = bytes(memoryview(self._held)[:limit_bytes])
        del self._held[:limit_bytes]
        self._room.set()
        return data

    def result(self) -> Service[QueryResult]:
        """Wait for the end of the query; what is left of the reply is thrown away. Raises as `read`."""
        self._is_dropping = True
        while (yield from self.read()):
            pass
        assert self._result is not None
        return self._result

    def cancel(self) -> None:
        """End the query; who reads gets QueryFailed. Nothing if it has ended."""
        if self._handle is not None:
            self._handle.cancel("the query was cancelled by its user")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    # The sink of the query.

    def write(self, data: memoryview) -> None:
        """Take content of the reply; called by the node."""
        if not self._is_dropping:
            self._held += data
            self._changed.set()

    def wait_room(self) -> Service[None]:
        """Wait until more may come; called by the node."""
        while len(self._held) >= REPLY_WINDOW_BYTES and not self.has_ended:
            yield self._room

    def _run(self, query: Service[QueryResult]) -> Service[None]:
        error: BaseException | None = QueryFailed("the query was cancelled", ErrorCode.CANCELLED)
        try:
            self._result = yield from query
            error = None
        except Exception as failure:  # noqa: BLE001 - raised where the reply is read
            error = failure
        finally:
            self._error = error
            self._room.set()
            self._changed.set()


def ask(scope: Scope, query: Callable[[Sink], Service[QueryResult]], name: str) -> Service[IncomingReply]:
    """Begin a query, and return its reply to come.

    It is retried until something of the reply is here: that may have been read.

    Args:
        scope: owns the query.
        query: the query, whose reply goes to this sink.
    Raises:
        Closed: the scope was cancelled: the node has been stopped.
    """
    reply = IncomingReply()
    reply._handle = yield from scope.spawn(reply._run(query(reply)), name=name)
    return reply
