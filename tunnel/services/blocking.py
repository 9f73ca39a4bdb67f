"""Blocking services: a plain function in a thread, with query and reply as files.

    @blocking
    def count(query, reply):
        reply.write(b"%d lines" % sum(1 for line in query))

The thread is at most a few pieces ahead of the network, in both directions; the faster side waits. If the
query breaks off, or is ended to free its slot (see below), the next read or write of the function raises
`BrokenPipeError`. A thread that blocks elsewhere cannot be ended and keeps its slot until it returns.

`WorkerSlots` gives slots for threads in order of arrival. A query holds its slot until its thread ends. While
no slot is free, the first query in line ends the longest idle holder, once it has been idle for `silent_s`.
Holders end one at a time, and only while a query waits. So an idle conversation may last for any time, unless
another query needs its slot.

Rules for changing the slots:

1. State about holders belongs to the reactor's thread. The thread of a query calls only `give_back`.
2. `take` yields nothing between receiving a slot and returning: a cancellation there would lose the slot.
3. Only the first query in line receives slots, so a time limit on that receive changes no order.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Generator
from enum import Enum, auto
from typing import Any, Final, Protocol, TypeAlias

from reactor import ChannelClosed, CurrentTime, Scope, Service, SharedChannel, in_scope, move_on_after
from reactor.errors import ChannelEmpty
from readwrite_comp.errors import renewed
from readwrite_comp.helpers import byte_view, writable_view
from tunnel.arguments import LEAST_SECONDS, checked_count, checked_seconds
from tunnel.errors import ErrorCode, PeerError, TableFull
from tunnel.services.base import FunctionService, Query, Reply, check_function, left_by, name_of

__all__ = [
    "BlockingFunction",
    "BlockingQuery",
    "BlockingReply",
    "BlockingService",
    "Holder",
    "WorkerSlots",
    "blocking",
]


# A week: well below what a poller can wait.
_MAX_SILENT_S: Final = 604_800
# More than a system runs, or than have the patience to wait.
_MOST_THREADS: Final = 10_000
_MOST_WAITING: Final = 1_000_000


class Holder(Protocol):
    """A query that has a slot.

    Attributes:
        slot: as `take` returned it.
        moved_s: when data last moved between the query and its peer, or could begin to.
    """

    slot: int
    moved_s: float

    @property
    def waits_for_peer(self) -> bool:
        """Whether its thread waits for the peer, and no data is in transit to either."""
        ...

    def end(self, error: PeerError) -> None:
        """Begin to end the query with this error. Called at most once; the thread then returns the slot."""
        ...


class WorkerSlots:
    """The slots of one service.

    Args:
        count: of slots, at least 1.
        silent_s: idle time in seconds after which a query may lose its slot.
    Attributes:
        waiting: queries that wait for a slot.
    Raises:
        BadArgument: `silent_s` is less than 1 ms, or more than a week. ValueError: `count` is less than 1.
    """

    def __init__(self, count: int, silent_s: float) -> None:
        checked_seconds(silent_s, "silent_s", least=LEAST_SECONDS, most=_MAX_SILENT_S)
        self.waiting = 0
        self._silent_s = silent_s
        # The free slots. Threads return theirs at any time.
        self.returned: SharedChannel[int] = SharedChannel(count, "threads of a blocking service")
        for slot in range(count):
            self.returned.send_nowait(slot)
        self._turn: SharedChannel[None] = SharedChannel(1, "turn to get a thread of a blocking service")
        self._turn.send_nowait(None)
        self.holders: dict[Holder, None] = {}  # ordered: of two that are equally idle the older ends first
        # The slot of the query that was ended last, until it is returned.
        self._ending: int | None = None
        self._ended_s = 0.0

    @property
    def free(self) -> int:
        """Number of free slots. A snapshot: threads return slots at any time."""
        return len(self.returned)

    def take(self) -> Service[int]:
        """Wait for a slot. Cancellation: none is taken.

        The caller must start the thread that returns the slot before its next yield.
        """
        self.waiting += 1
        try:
            yield from self._turn.receive()
            try:
                return (yield from self._take_next())
            finally:
                self._turn.send_nowait(None)
        finally:
            self.waiting -= 1

    def give_back(self, slot: int) -> None:
        """Return a slot. From any thread."""
        self.returned.send_nowait(slot)

    def enter(self, holder: Holder) -> None:
        """Add a holder, which may be ended when it is idle."""
        self.holders[holder] = None

    def leave(self, holder: Holder) -> None:
        """Remove a holder: its query is over, even if its thread still runs. Idempotent."""
        self.holders.pop(holder, None)

    def _take_next(self) -> Service[int]:
        slot: int | None = None
        while slot is None:
            try:
                slot = self.returned.receive_nowait()
            except ChannelEmpty:
                look_s = self._look((yield CurrentTime()))
                slot = yield from move_on_after(look_s, self.returned.receive())
        if slot == self._ending:
            self._ending = None
        return slot

    def _look(self, now_s: float) -> float:
        """End the longest idle query, if it is idle for long enough. Returns seconds until the next check."""
        if self._ending is not None and (rest_s := self._ended_s + self._silent_s - now_s) > 0:
            return rest_s  # a slot is about to be returned; a stuck thread is not waited for any longer
        # A copy, because a node in another thread may use the same service.
        silent = [holder for holder in tuple(self.holders) if holder.waits_for_peer]
        longest = min(silent, key=lambda holder: holder.moved_s, default=None)
        if longest is None:
            return self._silent_s
        if (rest_s := longest.moved_s + self._silent_s - now_s) > 0:
            return rest_s
        self.leave(longest)
        self._ending, self._ended_s = longest.slot, now_s
        longest.end(
            PeerError(
                f"idle for {now_s - longest.moved_s:.0f} s while other queries waited for its thread",
                ErrorCode.TIMEOUT,
            )
        )
        return self._silent_s


log = logging.getLogger("tunnel.node")
_AHEAD: Final = 4
# Passing a piece to another thread costs about as much as copying this many bytes.
_PIECE_BYTES: Final = 64 * 1024


class BlockingQuery(io.BufferedReader):
    """The content of one query, as a binary file for the thread that serves it."""


class BlockingReply(io.BufferedWriter):
    """The reply, as a binary file. Bytes are sent in whole chunks, or by `flush`.

    Attributes:
        is_possible: False in mode `none`: written bytes are dropped.
    """

    def __init__(self, raw: io.RawIOBase, *, is_possible: bool) -> None:
        super().__init__(raw, _PIECE_BYTES)
        self.is_possible = is_possible

    def flush(self) -> None:
        """Send all bytes written so far, in a padded chunk if necessary."""
        self.flush_to_node()
        self.raw.flush()

    def flush_to_node(self) -> None:
        """Pass the buffered bytes to the node, which sends whole chunks."""
        super().flush()

    def end(self) -> None:
        """End the reply and close this file; the query can still be read. Nothing if the file is closed.

        `close` alone does not end the reply, because an error that leaves a `with` block closes it too.
        """
        if not self.closed:
            self.flush_to_node()
            raw = self.raw
            assert isinstance(raw, _RawReply)
            raw.end()
            self.close()


BlockingFunction: TypeAlias = Callable[[BlockingQuery, BlockingReply], object]
"""Serves one query. Its result is not used; to return bytes or text is an error."""


class BlockingService(FunctionService):
    """Runs a blocking function in a thread for each query.

    Args:
        function: called with the query and the reply.
        threads: running at the same time.
        waiting: queries that may wait for a thread; further ones are refused with BUSY.
        silent_s: while queries wait, the longest idle query is ended with TIMEOUT after this many seconds. A
            query is idle while its thread waits for the peer and no data moves.
    Raises:
        BadArgument: `silent_s` is less than 1 ms or more than a week; `threads` is not 1 to 10,000, `waiting`
            not 0 to 1,000,000. TypeError: a wrong type; the function does not take a query and a reply,
            or is a generator function, which is a service without `blocking`.
    """

    def __init__(
        self, function: BlockingFunction, *, threads: int = 16, waiting: int = 64, silent_s: float = 30.0
    ) -> None:
        if not callable(function):
            raise TypeError(f"expected a function of a query and a reply, got {function!r}")
        check_function(function)
        if inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{name_of(function)} is a generator function: it is a service without `blocking`"
            )
        self.function = function
        self._most_waiting = checked_count(waiting, "waiting", most=_MOST_WAITING)
        self.slots = WorkerSlots(checked_count(threads, "threads", least=1, most=_MOST_THREADS), silent_s)

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        """Serve one query.

        Raises:
            TableFull: no thread is free, and too many queries wait.
            PeerError (TIMEOUT): the query was idle while others waited for its thread.
            Any other: raised by the function.
        """
        if self.slots.waiting - self.slots.free >= self._most_waiting:
            raise TableFull(f"{self.slots.waiting} queries wait for a thread, the limit of this service")
        slot = yield from self.slots.take()
        yield from _Call(self.function, reply, self.slots, slot).run(query)


def blocking(function: BlockingFunction) -> BlockingService:
    """Make a service of a blocking function: `Node(..., service=blocking(count))`, or as a decorator."""
    return BlockingService(function)


def _check_result(function: BlockingFunction, result: object) -> None:
    """Refuse a generator or awaitable, and an answer that is returned. Raises TypeError."""
    if isinstance(result, Generator | Awaitable):
        raise TypeError(
            f"{name_of(function)} returned an object of type {type(result).__name__}: it never ran"
        )
    if isinstance(result, bytes | bytearray | memoryview | str):
        raise TypeError(
            f"{name_of(function)} returned an object of type {type(result).__name__}, which is not sent: "
            "a blocking service replies with `reply.write(...)`"
        )


class _Mark(Enum):
    """A mark between the bytes that a thread writes."""

    FLUSH = auto()
    END = auto()  # of the reply


class _Call:
    """One query and its thread; the `Holder` of a slot.

    The thread owns its slot until it ends. The service owns the channels, and closes them to end the thread.
    """

    def __init__(self, function: BlockingFunction, reply: Reply, slots: WorkerSlots, slot: int) -> None:
        self._function = function
        self._reply = reply
        self.slots = slots
        self.slot = slot
        self.moved_s = math.inf  # nothing can move yet
        self._is_reading = self._is_writing = False  # the service waits for the peer
        self.to_thread: SharedChannel[bytes] = SharedChannel(_AHEAD, "query of a blocking service")
        self._from_thread: SharedChannel[bytes | _Mark] = SharedChannel(_AHEAD, "reply of a blocking service")
        self._end: SharedChannel[PeerError] = SharedChannel(1, "end of a blocking service's query")
        self._is_whole = False  # the query was read to its end, so the thread sees b"" and no error
        self._error: Exception | None = None

    def run(self, query: Query) -> Service[None]:
        # Before the first yield: from here on the thread returns the slot, whatever happens.
        self._start_thread()
        self.slots.enter(self)
        try:
            yield from in_scope(lambda scope: self._serve(scope, query), name="blocking service")
        finally:
            self.slots.leave(self)
            self.to_thread.close()
            self._from_thread.close()
        if self._error is not None:
            raise renewed(self._error)

    @property
    def waits_for_peer(self) -> bool:
        if self._is_writing and self._from_thread.waiting_senders:
            return True
        # What the thread wrote before this read may not have reached the peer yet.
        is_all_written = self._is_writing or self._from_thread.waiting_receivers
        return bool(self._is_reading and self.to_thread.waiting_receivers and is_all_written)

    def end(self, error: PeerError) -> None:
        self._end.send_nowait(error)

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._run, name="tunnel service", daemon=True).start()
        except RuntimeError as error:
            self.slots.give_back(self.slot)  # otherwise the slot would be lost
            raise TableFull("the system starts no more threads") from error

    def _serve(self, scope: Scope, query: Query) -> Service[None]:
        ending = yield from scope.spawn(self._wait_for_end(), name="blocking service end")
        feeding = yield from scope.spawn(self._feed(query), name="blocking service feed")
        while True:
            try:
                item = yield from self._from_thread.receive()
            except ChannelClosed:
                break
            yield from self._hand_on(item)
        feeding.cancel()  # the node reads the rest of the query
        ending.cancel()

    def _wait_for_end(self) -> Service[None]:
        raise (yield from self._end.receive())

    def _feed(self, query: Query) -> Service[None]:
        try:
            while data := (yield from self._read(query)):
                yield from self.to_thread.send(data)
            self._is_whole = True
            self.to_thread.close()
        except ChannelClosed:
            pass  # the function has returned

    # Idle time begins when the peer could act: the time is taken before the flag is set.

    def _read(self, query: Query) -> Service[bytes]:
        yield from self._moved()
        self._is_reading = True
        data = yield from query.read()
        self._is_reading = False
        return data

    def _hand_on(self, item: bytes | _Mark) -> Service[None]:
        yield from self._moved()
        self._is_writing = True
        if item is _Mark.FLUSH:
            yield from self._reply.flush()
        elif item is _Mark.END:
            yield from self._reply.end()
        else:
            yield from self._reply.write(item)
        self._is_writing = False
        yield from self._moved()

    def _moved(self) -> Service[None]:
        self.moved_s = yield CurrentTime()

    # -- in the thread

    def _run(self) -> None:
        query = BlockingQuery(_RawQuery(self._receive), _PIECE_BYTES)
        raw = _RawReply(self._send)
        reply = BlockingReply(raw, is_possible=self._reply.is_possible)
        try:
            _check_result(self._function, self._function(query, reply))
            if not reply.closed:  # a `with` block or a text file around it closes it
                reply.flush_to_node()
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._error = error
        except BaseException as error:  # noqa: BLE001 - the reply must not seem complete
            self._error = left_by(self._function, error)
            self._error.__cause__ = error
        finally:
            # After an error buffered bytes must not be sent, and files flush when they are closed.
            raw.is_over = True
            for file in (reply, query):
                with contextlib.suppress(ValueError):  # the function has detached it
                    file.close()
            self._from_thread.close()
            self.to_thread.close()
            self.slots.give_back(self.slot)

    def _receive(self) -> bytes:
        try:
            return self.to_thread.receive_blocking()
        except ChannelClosed:
            if self._is_whole:
                return b""
            raise BrokenPipeError("the query ended before it was complete") from None

    def _send(self, item: bytes | _Mark) -> None:
        try:
            self._from_thread.send_blocking(item)
        except ChannelClosed:
            raise BrokenPipeError("the query has ended: the reply cannot be sent") from None


class _RawQuery(io.RawIOBase):
    """A raw file over a function that returns the next bytes."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._held = memoryview(b"")
        self._has_ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._held and not self._has_ended:
            self._held = byte_view(self._receive())
            self._has_ended = not self._held
        view = writable_view(buffer)
        count = min(len(view), len(self._held))
        view[:count] = self._held[:count]
        self._held = self._held[count:]
        return count


class _RawReply(io.RawIOBase):
    """A raw file over a function that sends bytes. Attributes: is_over: bytes are dropped."""

    def __init__(self, send: Callable[[bytes | _Mark], None]) -> None:
        self._send = send
        self.is_over = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(byte_view(data)[:_PIECE_BYTES])
        if piece and not self.is_over:
            self._send(piece)
        return len(piece)

    def flush(self) -> None:
        if not self.is_over and not self.closed:
            self._send(_Mark.FLUSH)

    def end(self) -> None:
        if not self.is_over:
            self._send(_Mark.END)
            self.is_over = True
