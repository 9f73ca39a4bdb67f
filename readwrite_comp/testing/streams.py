"""Streams that misbehave by a script, and drivers that pass one message through a layer over them.

They also check the layer's calls: an empty buffer, or far more calls than any correct layer makes, is a
failure. That turns a hang into an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from readwrite_comp.base import Ending, ExtRead, ExtWrite, Phase
from readwrite_comp.errors import LayerError, RemoteLayerError
from readwrite_comp.helpers import byte_view, would_block, writable_view

__all__ = [
    "MAX_REFUSALS",
    "Broken",
    "HostileReader",
    "HostileWriter",
    "KitFailure",
    "MakePair",
    "ReadResult",
    "length_for",
    "read_message",
    "require",
    "write_message",
]

# Calls of one stream, and refusals in a row of one layer, that count as a hang. Far above what byte by byte
# transfer of the kit's contents takes.
_MAX_CALLS = 2_000_000
MAX_REFUSALS = 100_000
_MAX_CALLS_AT_END = 10_000


class KitFailure(AssertionError):
    """The layer broke a promise of the contract."""


class Broken(OSError):
    """The error of a stream whose script has -1: neither a refusal nor an end."""


def require(condition: bool, text: str) -> None:
    if not condition:
        raise KitFailure(text)


class _Scripted:
    """A stream that limits each call by a script and counts `calls`."""

    def __init__(self, script: Iterable[int]) -> None:
        self._steps = iter(script)
        self.calls = 0

    def _limit(self, asked: int) -> int:
        self.calls += 1
        require(self.calls <= _MAX_CALLS, f"the layer hangs: {self.calls} calls of one stream")
        step = next(self._steps, None)
        if step is None:
            return asked
        if step == 0:
            raise would_block("the script refuses this call")
        if step < 0:
            raise Broken("the script breaks this call")
        return min(asked, step)


class HostileReader(_Scripted):
    """A stream over `data` that follows a script; it was read up to `position`."""

    def __init__(self, data: bytes, script: Iterable[int] = ()) -> None:
        super().__init__(script)
        self._data = data
        self._calls_at_end = 0
        self.position = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Read as the script allows; 0 at the end of `data`."""
        buffer = writable_view(buffer)
        require(len(buffer) > 0, "the layer reads into an empty buffer")
        count = self._limit(min(len(buffer), len(self._data) - self.position))
        if count == 0:
            self._calls_at_end += 1
            require(
                self._calls_at_end <= _MAX_CALLS_AT_END,
                "the layer hangs: it keeps reading at the end of the stream",
            )
        buffer[:count] = self._data[self.position : self.position + count]
        self.position += count
        return count


class HostileWriter(_Scripted):
    """A stream that collects in `data` and follows a script."""

    def __init__(self, script: Iterable[int] = ()) -> None:
        super().__init__(script)
        self.data = bytearray()

    def write(self, data: memoryview, /) -> int:
        """Take as much as the script allows."""
        data = byte_view(data)
        require(len(data) > 0, "the layer writes empty data")
        count = self._limit(len(data))
        self.data += data[:count]
        return count


# Drivers: one message through one layer, each refused or broken call repeated.
T = TypeVar("T")
_AGAIN = (BlockingIOError, Broken)
MakePair: TypeAlias = Callable[[], tuple[ExtWrite, ExtRead]]
"""Returns a new writer and the matching reader."""


def length_for(reader: ExtRead, length: int) -> int | None:
    """The `length` for `read_message`: None if reading ends by itself."""
    return None if reader.ends is Ending.EXACT else length


def _until_done(call: Callable[[], T]) -> T:
    for _ in range(MAX_REFUSALS):
        try:
            return call()
        except _AGAIN:
            continue
    raise KitFailure("the layer hangs: it refuses again and again, but the stream does not")


def write_message(
    ext: ExtWrite,
    w: HostileWriter,
    content: bytes,
    splits: Sequence[int] = (1 << 20,),
    *,
    flush_every: int = 0,
    gives_up_when_refused: bool = False,
) -> bytes:
    """Write one message and repeat each refused call.

    Args:
        ext: a layer in phase NEW.
        splits: sizes of the pieces offered; a refused piece is offered again with the next size.
        flush_every: flush after this many pieces; 0: never.
        gives_up_when_refused: end the message at the first refusal of content.
    Returns:
        The content that the layer took: all of `content` unless it gave up.
    """
    _until_done(lambda: ext.write_header(w))
    require(ext.write_into(w, b"") == 0, "write_into of nothing did not return 0")
    sizes = itertools.cycle(splits)
    done, pieces, refusals = 0, 0, 0
    while done < len(content):
        piece = content[done : done + next(sizes)]
        try:
            count = ext.write_into(w, piece)
        except _AGAIN:
            refusals += 1
            require(refusals <= MAX_REFUSALS, "the layer hangs: it takes no content")
            if gives_up_when_refused:
                break
            continue
        require(1 <= count <= len(piece), f"write_into took {count} of {len(piece)} bytes")
        done, pieces, refusals = done + count, pieces + 1, 0
        if flush_every and pieces % flush_every == 0:
            _until_done(lambda: ext.flush_into(w))
    _until_done(lambda: ext.write_end(w))
    require(ext.phase is Phase.NEW, f"after write_end the writer is {ext.phase.name}, expected NEW")
    return content[:done]


@dataclass
class ReadResult:
    """What `read_message` has read."""

    content: bytes
    error: RemoteLayerError | None


def read_message(
    ext: ExtRead,
    r: HostileReader,
    length: int | None,
    splits: Sequence[int] = (1 << 16,),
    *,
    most_bytes: int = 1 << 24,
) -> ReadResult:
    """Read one message, repeat each refused call, and check that errors are sticky.

    Args:
        ext: a layer in phase NEW.
        length: how many bytes to read; None: until the layer returns 0.
        splits: sizes of the buffers.
        most_bytes: more content is a failure.
    Returns:
        The content up to the end or to the documented error. Any other error passes through.
    """
    content = bytearray()
    try:
        _until_done(lambda: ext.read_header(r))
        require(ext.read_into(r, bytearray()) == 0, "read_into of no buffer did not return 0")
        sizes, refusals = itertools.cycle(splits), 0
        while length is None or len(content) < length:
            size = next(sizes)
            view = memoryview(bytearray(size if length is None else min(size, length - len(content))))
            try:
                count = ext.read_into(r, view)
            except _AGAIN:
                refusals += 1
                require(refusals <= MAX_REFUSALS, "the layer hangs: it gives no content")
                continue
            require(0 <= count <= len(view), f"read_into of {len(view)} bytes returned {count}")
            if count == 0:
                again = _until_done(lambda: ext.read_into(r, bytearray(1)))
                require(again == 0, "read_into continued after it had returned 0")
                break
            refusals = 0
            content += view[:count]
            require(len(content) <= most_bytes, f"more than {most_bytes} bytes of content")
        _until_done(lambda: ext.read_end(r))
    except RemoteLayerError as error:
        _check_sticky(ext, r, error)
        return ReadResult(bytes(content), error)
    require(ext.phase is Phase.NEW, f"after read_end the reader is {ext.phase.name}, expected NEW")
    return ReadResult(bytes(content), None)


def _check_sticky(ext: ExtRead, r: HostileReader, error: RemoteLayerError) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: ext.read_into(r, bytearray(8)),
        lambda: ext.read_end(r),
        lambda: ext.read_header(r),
    )
    for call in calls:
        try:
            call()
        except LayerError as again:
            require(
                type(again) is type(error),
                f"{type(again).__name__} after {type(error).__name__}: the error is not sticky",
            )
        else:
            raise KitFailure(f"a call went through after {type(error).__name__}: the error is not sticky")
