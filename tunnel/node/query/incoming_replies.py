"""Replies and results: a query's replies while they arrive, where they are stored, and the outcome.

A query registers a `PendingQuery` under its id (`NodeContext.pending`). The read service of a reply finds it
there, claims a reply number and writes content to the reply's sink. `Spool` is the sink of a caller who gave
none. `QueryResult` is the outcome of the whole query.

`Node.ask` returns an `IncomingReply` instead, which is read while it arrives. The reply waits in a bounded
buffer. While the buffer is full the frame is not read, which slows its sender down, hop by hop. A reply that
is not read for `idle_s` is therefore ended.
"""

from __future__ import annotations

import errno
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import IO, Final, Protocol, Self, TypeVar
from weakref import WeakSet

from reactor import Cancelled, Closed, Handle, Reactor, Scope, Service, Signal, needs_yield_from
from reactor.errors import is_ctrl_c
from readwrite_comp.errors import renewed
from tunnel.arguments import EnteredOnce, checked_count
from tunnel.codes import Report, short
from tunnel.disk import write_all
from tunnel.errors import ErrorCode, LocalTunnelError, NodeStopped, PeerError, QueryFailed, TunnelError
from tunnel.geometry import Profile
from tunnel.modes import MODES, ReplyMode
from tunnel.node.waits import Post, Turn, UntakenBytes, release_dropped
from tunnel.onion.reply_block import ReplyBlock
from tunnel.routing.route import Route

__all__ = [
    "REPLY_WINDOW_BYTES",
    "IncomingReply",
    "PendingQuery",
    "QueryResult",
    "QueryState",
    "Sink",
    "Spool",
    "ask",
    "ended_error",
    "reactors_of_clients",
    "report_progress",
    "spooled",
    "user_failure",
]


T = TypeVar("T")

REPLY_WINDOW_BYTES: Final = 256 * 1024
"""A few chunks of the largest profile, so that reader and network work at the same time."""

# `tempfile.SpooledTemporaryFile` warns when it is dropped unclosed even if it never left memory:
# `query(...).result().read()` in a script would always warn. A `Spool` warns for a real file only.
MEMORY_BYTES = 1024 * 1024
MOST_BYTES = 1 << 34
"""So that no node can fill the disk; the same limit as for fetched files. Longer replies need a sink."""


class Spool:
    """A reply's storage, written once and then read: in memory while small, then in a temporary file."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._left_bytes = MOST_BYTES
        self._file: IO[bytes] = io.BytesIO()

    def write(self, data: memoryview) -> int:
        """Append. Raises OSError: the disk is full, or the reply is too long."""
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise OSError(errno.EFBIG, f"the reply is longer than {MOST_BYTES} bytes: give the query a sink")
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
    """The target of a reply: a binary file, or any object with this method. The view is valid during the
    call.

    Optional methods: `wait_room`, a service that returns when the sink accepts more; `end`, called when all
    replies are complete while the query is still being sent.
    """

    def write(self, data: memoryview, /) -> object: ...


def user_failure(what: str, error: BaseException) -> LocalTunnelError:
    """The error of a query whose user's code has failed. It is always an `Exception`, because a node must
    survive the `sys.exit()` of a callback."""
    text = f": {error}" if str(error) else ""
    return LocalTunnelError(f"{what} failed: {type(error).__name__}{text}")


@contextmanager
def _user_code(what: str) -> Iterator[None]:
    """Convert whatever the user's code in the block raises, except Ctrl-C, to `user_failure`."""
    try:
        yield
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        raise user_failure(what, error) from error


reactors_of_clients: Final[WeakSet[Reactor]] = WeakSet()
"""Those that a client closes, while its node runs on in another process."""


def ended_error(reactor: Reactor) -> NodeStopped | Closed:
    """The error of a call that was cut off by the end of its reactor."""
    return Closed("the client was closed") if reactor in reactors_of_clients else NodeStopped()


def report_progress(progress: Callable[..., object], *counts: int) -> None:
    """Call a progress callback. Raises LocalTunnelError: it failed."""
    with _user_code("the progress callback"):
        progress(*counts)


@contextmanager
def spooled(count: int) -> Iterator[tuple[Spool, ...]]:
    """Spools for the replies of a query: ready to be read at the end of the block, closed by an error."""
    spools = tuple(Spool() for _ in range(count))
    try:
        yield spools
    except BaseException:
        for spool in spools:
            spool.close()
        raise
    for spool in spools:
        spool.rewind()


class QueryState(Enum):
    """The life of a query, as its replies see it."""

    SENDING = auto()
    SENT = auto()  # replies are still to come
    COMPLETE = auto()  # all replies are here and checked; the query may still be sent
    FAILED = auto()
    OVER = auto()  # the query has ended; replies are refused


# An event that has no row in a state changes nothing: the first outcome stays.
_NEXT: Final = {
    QueryState.SENDING: {QueryState.SENT, QueryState.COMPLETE, QueryState.FAILED, QueryState.OVER},
    QueryState.SENT: {QueryState.COMPLETE, QueryState.FAILED, QueryState.OVER},
    QueryState.COMPLETE: {QueryState.OVER},
    QueryState.FAILED: {QueryState.OVER},
    QueryState.OVER: set[QueryState](),
}


class PendingQuery:
    """The replies of one query, each claimed at most once; all of them complete, or failed.

    Args:
        sinks: one for each reply, in their order: where its content goes.

    Attributes:
        content_in, content_out: movement, for the idle watch.
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
        self._state = QueryState.SENDING if sinks else QueryState.COMPLETE
        self._was_sent = False
        self.content_in = 0
        self.content_out = 0
        self.done = Signal()
        self.failed = Signal()
        self.error: TunnelError | None = None
        self.lost: bytes | None = None
        self.on_progress: Callable[[], None] | None = None
        self.reply_blocks: tuple[ReplyBlock, ...] = ()

    def enter(self, state: QueryState) -> bool:
        """Go to a state, if the table lets it follow the present one. Returns whether it did."""
        self._was_sent = self._was_sent or state is QueryState.SENT
        follows = state in _NEXT[self._state]
        if follows:
            self._state = state
        return follows

    def take(self, data: memoryview, number: int = 0) -> None:
        """Write content of a reply to its sink.

        Raises:
            LocalTunnelError: the user's sink fails.
            PeerError (UNKNOWN_QUERY): the query has ended; nothing more is written to its sink.
        """
        if self._state is QueryState.OVER:
            raise PeerError("the query was abandoned while its reply arrived", ErrorCode.UNKNOWN_QUERY)
        with _user_code("the sink of the reply"):
            write_all(self._sinks[number], data)
        self.content_in += len(data)
        self.moved()

    def wait_room(self, number: int = 0) -> Service[None]:
        """Wait until the sink accepts more, as most always do. Raises LocalTunnelError: the sink fails."""
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
    def is_unanswered(self) -> bool:
        """Whether the query is sent, and nothing of a reply has come."""
        return self._was_sent and not self.content_in

    @property
    def is_complete(self) -> bool:
        """Whether all replies are complete."""
        return self._state is QueryState.COMPLETE

    def content_ended(self) -> None:
        """The content of one reply is complete. Raises LocalTunnelError: a sink fails."""
        self._ends_left -= 1
        if self._state is not QueryState.SENDING or self._ends_left:
            return
        for sink in self._sinks:
            end: Callable[[], None] | None = getattr(sink, "end", None)
            if end is not None:
                with _user_code("the sink of the reply"):
                    end()

    def succeed(self, number: int = 0) -> None:
        """One reply is complete and checked."""
        self._complete.add(number)
        if len(self._complete) == len(self._sinks) and self.enter(QueryState.COMPLETE):
            self.done.set()

    def fail(self, error: TunnelError, *, lost: bytes | None = None) -> None:
        """The reply has failed. The first error stays; `lost` as the attribute."""
        if self.enter(QueryState.FAILED):
            self.error, self.lost = error, lost
            self.done.set()
            self.failed.set()


@dataclass(slots=True)
class QueryResult:
    """The outcome of a query.

    Attributes:
        route: the route taken.
        query_bytes, reply_bytes: content sent and received.
        has_reply: False in mode `none`: Bob has confirmed that he holds the whole query.
        content: the reply, read from its start; None if the caller gave a sink.
        replies: all replies in the order in which the other end sent them; `content` is the first. Empty if
            the caller gave sinks.
        report: the route's report, if it arrived: how long each node held the query.
        reply_blocks: mode `reply-on-reply`: one for each reply, each usable once (`Node.follow_up`).
        attempts: the failures of earlier attempts over other routes.
    """

    route: Route
    mode: ReplyMode
    profile: Profile
    query_bytes: int
    reply_bytes: int
    content: Spool | None
    report: Report | None = None
    reply_blocks: tuple[ReplyBlock, ...] = ()
    replies: tuple[Spool, ...] = ()
    attempts: tuple[QueryFailed, ...] = ()

    @property
    def has_reply(self) -> bool:
        """Whether this mode has a reply; see the class."""
        return MODES[self.mode].has_reply

    def read(self, size: int = -1) -> bytes:
        """Read from the reply.

        Raises:
            LocalTunnelError: it went to the caller's sink.
        """
        if self.content is None:
            raise LocalTunnelError("the reply went to the sink of the query: read it there")
        return self.content.read(size)

    def close(self) -> None:
        """Release the reply's storage; matters for replies above 1 MiB, which are on disk."""
        for content in self.replies:
            content.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class IncomingReply(EnteredOnce):
    """A running query: its reply, read as it arrives, and its outcome.

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
            QueryFailed: the query failed; the bytes read are authentic but incomplete. Other errors of
                `Node.query`.
        Cancellation: nothing is consumed.
        """
        checked_count(limit_bytes, "limit_bytes", least=1)
        return (yield from self._reading.run(self._query.read(limit_bytes, self._untaken)))

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
        return (yield from self._reading.run(self._query.outcome()))

    def cancel(self) -> None:
        """Cancel the query; a pending read gets QueryFailed. No effect if it has ended."""
        self._query.cancel()

    def __enter__(self) -> Self:
        return self.enter_once("reply", "with (yield from node.ask(...)) as reply")

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

    def run(self, query: Service[QueryResult], reactor: Reactor) -> Service[None]:
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
                if not self.is_cancelled:
                    error = ended_error(reactor)
            self._error = error
            self._room.set()
            self._changed.set()


def ask(
    scope: Scope,
    reactor: Reactor,
    destination: bytes,
    query: Callable[[Sink], Service[QueryResult]],
    name: str,
) -> Service[IncomingReply]:
    """Start a query and return its reply, which may not have begun.

    Retries stop once part of the reply has arrived, since it may have been read.

    Args:
        scope: owns the query.
        reactor: runs the query.
        query: runs the query with this sink for its reply.
    Raises:
        Closed: the scope was cancelled: the node has been stopped.
    """
    running = _ReplyBuffer(destination)
    running.handle = yield from scope.spawn(running.run(query(running), reactor), name=name)
    return IncomingReply(reactor.post, running)
