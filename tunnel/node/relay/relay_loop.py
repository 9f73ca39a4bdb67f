"""The hot path: one direction of a proxied frame, chunk by chunk.

A chunk of C bytes is taken, permuted in place and sealed for the next link. A chunk that arrived in one
record, as our nodes send them, is permuted in its own buffer; others are collected first. Sealed records
leave when the link's writer runs, so the chunks of one `recv` leave in one `send`.

Below it are the tools of the node's services: a time limit on a step, guards beside a service, one user at a
time, and clean-up of dropped objects.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeAlias, TypeVar

from reactor import (
    Closed,
    ReadYield,
    Scope,
    Service,
    Signal,
    Sleep,
    TimedOut,
    WriteYield,
    timeout_after,
)
from reactor.core.requests import Request
from tunnel.errors import ErrorCode, FrameTruncated, PeerError

__all__ = [
    "Counted",
    "Duplex",
    "Post",
    "Turn",
    "idle_watch",
    "relay",
    "release_dropped",
    "run_with_guards",
    "with_timeout",
]


Post: TypeAlias = Callable[[Callable[[], object]], None]
"""Calls a function in the reactor's thread, from any thread."""

T = TypeVar("T")


def with_timeout(limit_s: float, service: Service[T], what: str) -> Service[T]:
    """Run a service with a time limit.

    Args:
        what: the start of the error's text, such as "no whole header".
    Raises:
        PeerError (TIMEOUT): the limit was reached. Whatever the service raises.
    """
    try:
        return (yield from timeout_after(limit_s, service))
    except TimedOut as error:
        raise PeerError(f"{what} within {limit_s:g} s", ErrorCode.TIMEOUT) from error


def release_dropped(post: Post, release: Callable[[], object], text: str | None, source: object) -> None:
    """For `__del__`, in any thread: call `release` in the reactor, and warn like an unclosed file.

    Args:
        text: of the ResourceWarning; None: no warning. source: the dropped object.
    """
    with contextlib.suppress(Closed):  # everything has ended already
        post(release)
    if text is not None:
        warnings.warn(text, ResourceWarning, stacklevel=3, source=source)


class Turn:
    """One user at a time, first come, first served.

        place = turn.enter()
        try:
            yield from turn.wait(place)
            ...
        finally:
            turn.leave(place)

    `enter` is a plain call, not a service, so two services that enter two turns in one step have the same
    order in both.

    Attributes:
        gaps: users that left with `leaves_gap` just before the one whose turn it is, or was last.
    """

    __slots__ = ("_queue", "gaps")

    def __init__(self) -> None:
        self._queue: deque[Signal | None] = deque()  # the first has the turn; None is a gap
        self.gaps = 0

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
        if leaves_gap:
            queue[queue.index(place)] = None
        was_first = queue[0] is place or queue[0] is None
        if not leaves_gap:
            queue.remove(place)
        while queue and queue[0] is None:
            queue.popleft()
            self.gaps += 1
        if was_first and queue and queue[0] is not None:
            queue[0].set()


log = logging.getLogger("tunnel.node")


class Counted(Protocol):
    """A stream whose byte counts show movement."""

    @property
    def content_in(self) -> int: ...
    @property
    def content_out(self) -> int: ...


class Duplex(Counted, Protocol):
    """What a relay needs of a stream."""

    @property
    def readable(self) -> Request: ...
    @property
    def writable(self) -> Request: ...
    def take_piece(self, size: int, /) -> bytearray | None: ...
    def readinto(self, buffer: memoryview, /) -> int: ...
    def write(self, data: bytes | memoryview, /) -> int: ...


def relay(
    source: Duplex, sink: Duplex, permute: Callable[[memoryview, int], None], chunk_bytes: int
) -> Generator[Any, Any, int]:
    """Move the chunks of one direction of a frame from `source` to `sink`, until its FIN.

    Args:
        permute: this hop's layer: (chunk in place, chunk number from 0).
    Returns:
        The number of chunks.
    Raises:
        FrameTruncated: FIN inside a chunk. Whatever the two streams raise.
    """
    reader, writer = ReadYield(source), WriteYield(sink)
    number = 0
    while True:
        chunk = source.take_piece(chunk_bytes)
        if chunk is None:
            chunk = yield from _collect(source, reader, chunk_bytes, number)
            if chunk is None:
                return number
        view = memoryview(chunk)
        permute(view, number)
        number += 1
        yield from writer.write_all(view)
        del chunk, view  # a quiet frame holds no chunk


def _collect(
    source: Duplex, reader: ReadYield, chunk_bytes: int, number: int
) -> Generator[Any, Any, bytearray | None]:
    """Wait for a chunk and assemble it if it is not in one piece. None: FIN came instead."""
    # Many halves never carry a byte, and most chunks arrive whole: allocate no buffer before it is needed.
    first = bytearray(1)
    while True:
        chunk = source.take_piece(chunk_bytes)
        if chunk is not None:
            return chunk
        try:
            if not source.readinto(memoryview(first)):
                return None
            break
        except BlockingIOError:
            yield source.readable
    chunk = first + bytes(chunk_bytes - 1)
    view, have = memoryview(chunk), 1
    while have < chunk_bytes:
        count = yield from reader.readinto(view[have:])
        if not count:
            raise FrameTruncated(f"FIN after {have} of {chunk_bytes} bytes of chunk {number}")
        have += count
    return chunk


def idle_watch(streams: list[Counted], idle_s: float) -> Generator[Any, Any, None]:
    """End with PeerError (TIMEOUT) when nothing has moved on any of `streams` for `idle_s` to 1.5 × `idle_s`.

    One timer per frame, not per read: it compares the counters twice per limit.
    """
    last: list[int] = []
    quiet = 0
    while True:
        now = [stream.content_in + stream.content_out for stream in streams]
        quiet = quiet + 1 if now == last else 0
        if quiet >= 2:
            raise PeerError(f"nothing moved for {idle_s:g} s", ErrorCode.TIMEOUT)
        last = now
        yield Sleep(idle_s / 2)


def run_with_guards(main: Generator[Any, Any, object], *guards: Generator[Any, Any, None]) -> Service[None]:
    """Run `main` with `guards` beside it.

    The first failure cancels all and is raised here. A guard that returns changes nothing. When `main`
    returns, the guards are cancelled. Nothing is left running in any case.
    """
    scope = Scope("run_with_guards")
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
            yield from scope.spawn(run(guard, ends_all=False), name="guard")
        yield from scope.spawn(run(main, ends_all=True), name="run_with_guards")
        yield from scope.join()
    finally:
        yield from scope.close()
    for error in errors[1:]:
        # One broken connection fails every service that uses it; the first error stands for all.
        log.debug("failed as well: %s: %s", type(error).__name__, error)
    if errors:
        raise errors[0]
