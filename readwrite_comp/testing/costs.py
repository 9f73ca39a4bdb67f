"""The checks of what a layer costs: memory that does not grow with the message, calls that grow with its
bytes and no faster.

Memory is counted by `tracemalloc`, so it is that of Python objects, exact and the same on every machine; work
by calls of the stream. Neither looks at a clock.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from ..base import ExtRead, ExtWrite
from ..helpers import would_block
from .streams import KitFailure, MakePair, require

__all__ = ["check_memory", "check_work"]

# What a layer may hold beyond what it holds for a message of an eighth of the length: objects come and go.
_SLACK_BYTES = 6 * 1024
_PIECE_BYTES = 256
# Content that a layer may take while its stream refuses all. The largest windows of this package are smaller.
_MOST_HELD_BYTES = 1 << 20
# Calls beyond proportion: header, end and the last window.
_EXTRA_CALLS = 16


class _Sink:
    """Counts what it is given and forgets it; refuses everything once `is_full`."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_full = False

    def write(self, data: memoryview, /) -> int:
        if self.is_full:
            raise would_block("the stream is full")
        self.calls += 1
        return len(data)


class _Source:
    """Gives bytes that lie ready."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._position = 0
        self.calls = 0

    def readinto(self, buffer: memoryview, /) -> int:
        self.calls += 1
        count = min(len(buffer), len(self._data) - self._position)
        buffer[:count] = self._data[self._position : self._position + count]
        self._position += count
        return count


class _Collector(_Sink):
    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def write(self, data: memoryview, /) -> int:
        self.data += data
        return super().write(data)


def check_memory(make_pair: MakePair, long_bytes: int) -> None:
    """What writer and reader hold does not grow with the message, and a writer whose stream refuses takes no
    more than a bounded amount.

    Args:
        long_bytes: length of the long message; it is compared with one of an eighth. At least 10 kB, or
            nothing would show.
    Raises:
        KitFailure: it is not so.
    """
    short_bytes = long_bytes // 8
    for what, peak in (("writer", _writer_peak), ("reader", _reader_peak)):
        few, many = peak(make_pair, short_bytes), peak(make_pair, long_bytes)
        require(
            many <= few + _SLACK_BYTES,
            f"the {what} holds {few} bytes for a message of {short_bytes}, {many} for one of {long_bytes}",
        )
    _check_refused(make_pair)


def check_work(make_pair: MakePair, long_bytes: int) -> None:
    """Calls of the stream grow in proportion to the message: eight times the bytes, at most ten times the
    calls (a first part may be cheaper) and a few.

    Raises:
        KitFailure: it is not so.
    """
    few, many = _calls(make_pair, long_bytes // 8), _calls(make_pair, long_bytes)
    for what, short, long in zip(("writer", "reader"), few, many, strict=True):
        require(
            long <= 10 * short + _EXTRA_CALLS,
            f"the {what} makes {short} calls for a message of {long_bytes // 8} bytes, but {long} for one of "
            f"{long_bytes}",
        )


def _write(writer: ExtWrite, stream: _Sink, length: int) -> None:
    piece = memoryview(bytes(_PIECE_BYTES))
    writer.write_header(stream)
    left = length
    while left:
        left -= writer.write_into(stream, piece[:left])
    writer.write_end(stream)


def _read(reader: ExtRead, stream: _Source, length: int) -> None:
    buffer = memoryview(bytearray(_PIECE_BYTES))
    reader.read_header(stream)
    left = length
    while left:
        count = reader.read_into(stream, buffer[:left])
        require(count > 0, f"the content ended {left} bytes early")
        left -= count
    reader.read_end(stream)


def _peak_of(work: Callable[[], None]) -> int:
    """The most that `work` held at once, in bytes, beyond what was there."""
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        work()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not was_tracing:
            tracemalloc.stop()
    return peak - before


def _writer_peak(make_pair: MakePair, length: int) -> int:
    writer, _ = make_pair()
    return _peak_of(lambda: _write(writer, _Sink(), length))


def _reader_peak(make_pair: MakePair, length: int) -> int:
    writer, reader = make_pair()
    collector = _Collector()
    _write(writer, collector, length)
    source = _Source(bytes(collector.data))
    return _peak_of(lambda: _read(reader, source, length))


def _check_refused(make_pair: MakePair) -> None:
    writer, _ = make_pair()
    stream, content, taken = _Sink(), memoryview(bytes(64 * 1024)), 0
    writer.write_header(stream)
    stream.is_full = True
    while taken <= _MOST_HELD_BYTES:
        try:
            taken += writer.write_into(stream, content)
        except BlockingIOError:
            return
    raise KitFailure(f"the writer has taken {taken} bytes although its stream refuses all")


def _calls(make_pair: MakePair, length: int) -> tuple[int, int]:
    writer, reader = make_pair()
    collector = _Collector()
    _write(writer, collector, length)
    source = _Source(bytes(collector.data))
    _read(reader, source, length)
    return collector.calls, source.calls
