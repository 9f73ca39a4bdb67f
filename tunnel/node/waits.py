"""Waiting in the services of a node: time limits, guards beside a service, turns, and clean-up.

Built on `reactor` (`timeout_after`, `Scope`, `Signal`), with two rules for nodes: an expired limit is a
`PeerError` with code TIMEOUT, and if one broken connection causes several failures, only the first counts.
All rooms of `tunnel.node` and `tunnel.control` import it; it imports none of them.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from bisect import insort
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from reactor import (
    Closed,
    ReadYield,
    Scope,
    Select,
    Service,
    Signal,
    Sleep,
    TimedOut,
    UnexpectedEnd,
    timeout_after,
)
from reactor.core.task import name_of
from reactor.io.streams import ReadStream
from tunnel.errors import ErrorCode, FrameTruncated, PeerError, TableFull

__all__ = [
    "Counted",
    "Places",
    "Post",
    "Turn",
    "UntakenBytes",
    "drain",
    "idle_watch",
    "read_rest",
    "release_dropped",
    "run_with_guards",
    "with_timeout",
]

log = logging.getLogger("tunnel.node")

Post: TypeAlias = Callable[[Callable[[], object]], None]
"""Calls a function in the reactor's thread, from any thread."""

T = TypeVar("T")

_DRAIN_BYTES = 16 * 1024


def with_timeout(limit_s: float, service: Service[T], what: str) -> Service[T]:
    """Run a service with a time limit.

    Args:
        what: the start of the error's text, such as "no whole header".
    Raises:
        PeerError (TIMEOUT): the limit was reached. Errors of the service.
    """
    try:
        return (yield from timeout_after(limit_s, service))
    except TimedOut as error:
        raise PeerError(f"{what} within {limit_s:g} s", ErrorCode.TIMEOUT) from error


def read_rest(reader: ReadYield, chunk: memoryview, count: int) -> Service[None]:
    """Read what is missing of a chunk of which `count` bytes are here.

    Raises:
        FrameTruncated: FIN before its end. Errors of the stream.
    """
    try:
        yield from reader.read_exactly(chunk[count:])
    except UnexpectedEnd as error:
        here = count + error.received_bytes
        raise FrameTruncated(f"FIN after {here} of {len(chunk)} bytes of a content chunk") from error


def drain(stream: ReadStream) -> Service[None]:
    """Read and discard a stream until its end. Raises the errors of the stream."""
    reader, scratch = ReadYield(stream), memoryview(bytearray(_DRAIN_BYTES))
    while (yield from reader.readinto(scratch)):
        pass


class Counted(Protocol):
    """A stream whose byte counts show movement."""

    @property
    def content_in(self) -> int: ...
    @property
    def content_out(self) -> int: ...


def idle_watch(
    streams: Sequence[Counted], idle_s: float, look: Callable[[], None] | None = None
) -> Generator[Any, Any, None]:
    """End with PeerError (TIMEOUT) when nothing has moved on any of `streams` for `idle_s` to 1.5 × `idle_s`.

    One timer per frame, not per read: it compares the counters twice per limit, and calls `look`.
    """
    last: list[int] = []
    quiet = 0
    while True:
        now = [stream.content_in + stream.content_out for stream in streams]
        quiet = quiet + 1 if now == last else 0
        if quiet >= 2:
            raise PeerError(f"nothing moved for {idle_s:g} s", ErrorCode.TIMEOUT)
        last = now
        if look is not None:
            look()
        yield Sleep(idle_s / 2)


def run_with_guards(main: Generator[Any, Any, object], *guards: Generator[Any, Any, None]) -> Service[None]:
    """Run `main` with `guards` beside it; when `main` returns, the guards are cancelled.

    The first failure cancels the other services and is raised. A guard that returns has no effect. No service
    is left running. Unlike `in_scope`, further failures are logged at DEBUG only, because one broken
    connection fails every service that uses it.
    """
    scope = Scope("run_with_guards")  # its services keep their own names, for the log of a slow step
    errors: list[Exception] = []

    def run(service: Generator[Any, Any, object], *, ends_all: bool) -> Service[None]:
        try:
            yield from service
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
            ends_all = True
        if ends_all:
            scope.cancel()

    try:
        for guard in guards:
            yield from scope.spawn(run(guard, ends_all=False), name=name_of(guard, None))
        yield from scope.spawn(run(main, ends_all=True), name=name_of(main, None))
        yield from scope.join()
    finally:
        yield from scope.close()
    for error in errors[1:]:
        log.debug("failed as well: %s: %s", type(error).__name__, error)
    if errors:
        raise errors[0]


class Turn:
    """One user at a time, first come, first served: `yield from turn.run(service)`.

    Its parts are `enter`, `wait` and `leave`. `enter` is a plain call, not a service, so two services that
    enter two turns in one step have the same order in both.

    Attributes:
        gaps: users that left with `leaves_gap` just before the one whose turn it is, or was last.
    """

    __slots__ = ("_queue", "gaps")

    def __init__(self) -> None:
        self._queue: deque[Signal | None] = deque()  # the first has the turn; None is a gap
        self.gaps = 0

    def run(self, service: Service[T]) -> Service[T]:
        """Wait for the turn, and run a service in it. Raises the errors of the service."""
        place = self.enter()
        try:
            if self._queue[0] is not place:
                yield place
            return (yield from service)
        finally:
            self.leave(place)
            service.close()  # on purpose, if this was cancelled before the turn came

    def enter(self) -> Signal:
        """Take a place in the queue."""
        place = Signal()
        self._queue.append(place)
        return place

    def wait(self, place: Signal) -> Service[None]:
        """Wait until the place is the first."""
        if self._queue[0] is not place:
            yield place

    def leave(self, place: Signal, *, leaves_gap: bool = False) -> None:
        """Leave the queue, with or without having had the turn. Idempotent.

        Args:
            leaves_gap: this user's item is still to arrive and must not go to the next user.
        """
        queue = self._queue
        if place not in queue:
            return
        had_turn = queue[0] is place
        if leaves_gap:
            queue[queue.index(place)] = None
        else:
            queue.remove(place)
        if not had_turn:
            return
        while queue and queue[0] is None:
            queue.popleft()
            self.gaps += 1
        if queue and queue[0] is not None:
            queue[0].set()


class Places:
    """A number of users at a time; further ones wait, first come, first served.

    Args:
        most: users at a time. most_waiting: that may wait.
        what: the users, for errors, such as "queries".
    """

    def __init__(self, most: int, most_waiting: int, what: str) -> None:
        self._most = most
        self._most_waiting = most_waiting
        self._what = what
        self._taken = self._given_back = 0
        self._queue: dict[Signal, None] = {}

    def __len__(self) -> int:
        """Users that have a place, or wait for one."""
        return self._taken + len(self._queue)

    def take(self, patience_s: float) -> Service[None]:
        """Wait for a place; `give_back` returns it. Cancellation: no place is taken.

        Args:
            patience_s: longest wait since a place was last given back.
        Raises:
            TableFull: the patience is over, or too many callers are waiting.
        """
        if self._taken < self._most:
            self._taken += 1
            return
        if len(self._queue) >= self._most_waiting:
            raise TableFull(f"{len(self._queue)} {self._what} wait already, the limit of this node")
        place = Signal()
        self._queue[place] = None
        try:
            while place in self._queue:
                given_back = self._given_back
                yield Select(place, Sleep(patience_s))
                if place in self._queue and self._given_back == given_back:
                    text = f"{self._taken} {self._what} are running, the limit of this node"
                    raise TableFull(f"{text}, and none has ended within {patience_s:g} s")
        except BaseException:
            if place in self._queue:
                del self._queue[place]
            else:
                self.give_back()  # the place came at the same moment
            raise

    def give_back(self) -> None:
        """Leave the place to the first that waits."""
        self._given_back += 1
        if self._queue:
            place = next(iter(self._queue))
            del self._queue[place]
            place.set()
        else:
            self._taken -= 1


def release_dropped(post: Post, release: Callable[[], object], text: str | None, source: object) -> None:
    """For `__del__`, in any thread: call `release` in the reactor, and warn like an unclosed file.

    Args:
        text: of the ResourceWarning; None: no warning. source: the dropped object.
    """
    with contextlib.suppress(Closed):  # everything has ended already
        post(release)
    if text is not None:
        warnings.warn(text, ResourceWarning, stacklevel=3, source=source)


class UntakenBytes:
    """Pieces that were read for users that were cancelled at that moment, kept for the next reader.

    Example: a task of asyncio is cancelled in the loop turn in which the bytes of its `read` arrive.
    `numbered` gives each piece its place in the stream, so several pieces that are put back keep their order.
    """

    def __init__(self) -> None:
        self._pieces: list[tuple[int, bytes]] = []  # the place in the stream, and what belongs there
        self._read_bytes = 0
        self._last_place = 0

    def take(self, limit_bytes: int) -> bytes:
        """The first bytes that were put back; b"": none."""
        if not self._pieces:
            return b""
        place, piece = self._pieces.pop(0)
        if len(piece) > limit_bytes:
            self._pieces.insert(0, (place + limit_bytes, piece[limit_bytes:]))
            piece = piece[:limit_bytes]
        self._last_place = place
        return piece

    def count(self, piece: bytes) -> bytes:
        """Note a piece that was read from the stream itself, and return it."""
        self._last_place = self._read_bytes
        self._read_bytes += len(piece)
        return piece

    def numbered(self, reading: Service[T]) -> Service[tuple[int, T]]:
        """Run a read that uses `take` and `count`; with its piece it returns the place of that."""
        piece = yield from reading
        return self._last_place, piece

    def put_back(self, place: int, piece: bytes) -> None:
        """Undo such a read."""
        if piece:
            insort(self._pieces, (place, piece))
