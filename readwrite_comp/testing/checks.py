"""The checks: each carries one part of the contract out on a fresh pair of layers, and raises `KitFailure`
where it is broken.
"""

from __future__ import annotations

import itertools
import random
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from readwrite_comp.base import Ending, ExtRead, ExtWrite, Phase
from readwrite_comp.errors import AuthenticationError, Malformed, PhaseError, Truncated
from readwrite_comp.helpers import would_block
from readwrite_comp.testing.streams import (
    HostileReader,
    HostileWriter,
    KitFailure,
    MakePair,
    length_for,
    read_message,
    require,
    write_message,
)

__all__ = [
    "check_abandoned_write",
    "check_at_hand",
    "check_broken_stream",
    "check_corruption",
    "check_early_end",
    "check_ext_pair",
    "check_extension",
    "check_memory",
    "check_misuse",
    "check_removal",
    "check_round_trip",
    "check_runs",
    "check_truncation",
    "check_work",
]

# Endings that the format shows: an early end of reading passes the rest, and a cut anywhere is noticed.
SHOWN = (Ending.EXACT, Ending.MARKED)
FOREIGN = b"these bytes belong to somebody else"


def check_round_trip(
    make_pair: MakePair,
    contents: Sequence[bytes],
    *,
    write_script: Iterable[int] = (),
    read_script: Iterable[int] = (),
    write_splits: Sequence[int] = (1 << 20,),
    read_splits: Sequence[int] = (1 << 16,),
    flush_every: int = 0,
) -> bytes:
    """Messages in a row through one pair on one stream, foreign bytes behind them: the same content comes
    out, each reader stops at its message's border, and the foreign bytes are untouched.

    Returns:
        What was on the wire, without the foreign bytes.
    Raises:
        KitFailure: it is not so.
    """
    writer, reader = make_pair()
    require(writer.ends is reader.ends, f"the writer ends {writer.ends.name}, the reader {reader.ends.name}")
    w = HostileWriter(write_script)
    borders = []
    for content in contents:
        write_message(writer, w, content, write_splits, flush_every=flush_every)
        borders.append(len(w.data))
    r = HostileReader(bytes(w.data) + FOREIGN, read_script)
    for index, (content, border) in enumerate(zip(contents, borders, strict=True)):
        result = read_message(reader, r, length_for(reader, len(content)), read_splits)
        require(result.error is None, f"message {index} of {len(content)} bytes: {result.error!r}")
        require(result.content == content, f"message {index} of {len(content)} bytes came out changed")
        require(
            r.position == border,
            f"message {index}: the reader stands at {r.position}, its border is {border}",
        )
    return bytes(w.data)


def check_abandoned_write(
    make_pair: MakePair,
    content: bytes,
    *,
    write_script: Iterable[int],
    write_splits: Sequence[int] = (1 << 20,),
) -> None:
    """A writer whose user ends the message at the first refusal: exactly what was taken is in it, and nothing
    more.
    """
    writer, reader = make_pair()
    w = HostileWriter(write_script)
    taken = write_message(writer, w, content, write_splits, gives_up_when_refused=True)
    r = HostileReader(bytes(w.data) + FOREIGN)
    result = read_message(reader, r, length_for(reader, len(taken)))
    require(result.error is None, f"{len(taken)} bytes, then given up: {result.error!r}")
    require(
        result.content == taken, f"{len(taken)} bytes were taken, {len(result.content)} came out, or others"
    )
    require(r.position == len(w.data), f"the reader stands at {r.position}, the border is {len(w.data)}")


def check_broken_stream(
    make_pair: MakePair, content: bytes, calls: int, *, write_splits: Sequence[int] = (1 << 20,)
) -> None:
    """A stream that raises an error of its own after some calls, once, and a caller who makes the broken call
    again: the message comes out whole, or the writer has refused to go on and what it wrote is truncated;
    never a message that lacks content, or has it twice, and looks whole. Reading loses nothing.

    Args:
        calls: of the stream, before the one that breaks.
    """
    writer, reader = make_pair()
    w, where = HostileWriter([1 << 20] * calls + [-1]), f"broken after {calls} calls"
    try:
        write_message(writer, w, content, write_splits)
    except PhaseError:
        result = read_message(reader, HostileReader(bytes(w.data)), length_for(reader, len(content)))
        require(content.startswith(result.content), f"{where}: the truncated message has other content")
        if reader.ends in SHOWN:
            require(result.error is not None, f"{where}: the message was given up, but looks whole")
        writer.reset()
        reader.reset()
        w = HostileWriter()
        write_message(writer, w, content, write_splits)
    r = HostileReader(bytes(w.data) + FOREIGN, [5] * calls + [-1])
    result = read_message(reader, r, length_for(reader, len(content)))
    require(result.error is None, f"{where}: {result.error!r}")
    require(result.content == content, f"{where}: the content came out changed")
    require(r.position == len(w.data), f"{where}: the reader stands at {r.position}, not at {len(w.data)}")


def check_early_end(
    make_pair: MakePair, content: bytes, read_bytes: int, *, read_script: Iterable[int] = ()
) -> None:
    """`read_end` after a part of the content passes the rest, where the format shows its end; else it is not
    tried.
    """
    writer, reader = make_pair()
    if reader.ends not in SHOWN:
        return
    w = HostileWriter()
    write_message(writer, w, content)
    r = HostileReader(bytes(w.data) + FOREIGN, read_script)
    result = read_message(reader, r, min(read_bytes, len(content)))
    require(result.error is None, f"ended after {read_bytes} bytes: {result.error!r}")
    require(content.startswith(result.content), "what was read is not a prefix of the content")
    require(r.position == len(w.data), f"the reader stands at {r.position}, the border is {len(w.data)}")


def check_at_hand(make_pair: MakePair, content: bytes) -> None:
    """What a reader says it has at hand can be read without its stream."""
    writer, reader = make_pair()
    w = HostileWriter()
    write_message(writer, w, content)
    r, got = HostileReader(bytes(w.data)), bytearray()
    reader.read_header(r)
    while len(got) < len(content):
        buffer = bytearray(1)
        require(reader.read_into(r, buffer) == 1, f"no content after {len(got)} of {len(content)} bytes")
        got += buffer
        left, position = reader.at_hand, r.position
        while left:
            buffer = bytearray(left)
            count = reader.read_into(r, buffer)
            require(
                0 < count <= left and r.position == position,
                f"{left} bytes are said to be at hand, but the stream was asked for them",
            )
            got += buffer[:count]
            left -= count
    require(got.startswith(content), "what was at hand came out changed")


def check_misuse(make_pair: MakePair) -> None:
    """Calls out of order are `PhaseError` and change nothing; `reset()` in the middle of a message makes a
    layer NEW again.
    """
    writer, reader = make_pair()
    w = HostileWriter()
    _refuses(lambda: writer.write_into(w, b"x"), "write_into before the header")
    _refuses(lambda: writer.flush_into(w), "flush_into before the header")
    _refuses(lambda: writer.write_end(w), "write_end before the header")
    require(not w.data, "a refused call wrote something")
    _goes_through(lambda: writer.write_header(w))
    _refuses(lambda: writer.write_header(w), "a second header")
    _goes_through(lambda: writer.write_into(w, b"left behind"))
    writer.reset()
    w = HostileWriter()
    write_message(writer, w, b"kept")
    r = HostileReader(bytes(w.data) + FOREIGN)
    _refuses(lambda: reader.read_into(r, bytearray(1)), "read_into before the header")
    _refuses(lambda: reader.read_end(r), "read_end before the header")
    require(r.position == 0, "a refused call read something")
    _goes_through(lambda: reader.read_header(r))
    _refuses(lambda: reader.read_header(r), "a second header")
    _goes_through(lambda: reader.read_into(r, bytearray(2)))
    reader.reset()
    r = HostileReader(bytes(w.data) + FOREIGN)
    result = read_message(reader, r, length_for(reader, 4))
    require(result.error is None and result.content == b"kept", "after reset() a message does not come out")
    require(r.position == len(w.data), f"the reader stands at {r.position}, the border is {len(w.data)}")


def _goes_through(call: Callable[[], object]) -> None:
    try:
        call()
    except BlockingIOError:
        raise KitFailure("the layer refuses although its stream does not") from None


def _refuses(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except PhaseError:
        return
    raise KitFailure(f"{what} was not refused with PhaseError")


def check_ext_pair(
    make_pair: MakePair,
    *,
    authenticated: bool = False,
    sizes: Sequence[int] = (0, 1, 2, 7, 16, 33, 100, 1_000),
    samples: int = 60,
    seed: int = 0,
    long_bytes: int = 16_384,
) -> None:
    """Put a layer or stack through all checks of the kit.

    Args:
        make_pair: returns a fresh writer and the reader that matches it.
        authenticated: the layer promises that nothing comes out that was not written.
        sizes: lengths of contents; name those around the edges of your windows or blocks.
        samples: how many cuts, changed, inserted and lost bytes to try; all places, if the message is no
            longer.
        seed: of the choices made here; the same seed makes the same ones.
        long_bytes: length of the content that shows that memory and work are bounded; 0 leaves that out.
    Raises:
        KitFailure: a promise is broken; the text says which.
        Exception: whatever else the layer let through, which is a failure just as well.
    """
    rng = random.Random(seed)
    check_misuse(make_pair)
    for size in sizes:
        content, second = rng.randbytes(size), rng.randbytes(rng.choice(sizes))
        for write_script, read_script, splits in _scripts(rng):
            check_round_trip(
                make_pair,
                [content, second],
                write_script=write_script,
                read_script=read_script,
                write_splits=splits,
                read_splits=splits[::-1],
                flush_every=rng.choice((0, 0, 1, 3)),
            )
        refused = rng.randrange(1, 8)
        check_abandoned_write(
            make_pair,
            content,
            write_script=[1 << 20] * refused + [0] * 3,
            write_splits=(rng.randrange(1, 40),),
        )
        check_early_end(make_pair, content, rng.randrange(size + 1), read_script=_random_script(rng, 200))
    small = rng.randbytes(min(max(sizes), 100))
    check_at_hand(make_pair, small)
    for calls in range(8):
        check_broken_stream(make_pair, small, calls, write_splits=(rng.randrange(1, 40),))
    wire_bytes = len(check_round_trip(make_pair, [small]))
    for cut in _sample(rng, wire_bytes + 1, samples):
        check_truncation(
            make_pair, small, cut, read_script=_random_script(rng, 50), read_splits=(rng.randrange(1, 80),)
        )
    for position in _sample(rng, wire_bytes, samples):
        check_corruption(make_pair, small, position, rng.randrange(1, 256), authenticated=authenticated)
    for position in _sample(rng, wire_bytes, samples):
        inserted = rng.randbytes(rng.choice((1, 1, 2, 16)))
        check_extension(make_pair, small, position, inserted, authenticated=authenticated)
    for position in _sample(rng, wire_bytes, samples):
        check_removal(make_pair, small, position, rng.choice((1, 1, 2, 16)), authenticated=authenticated)
    if long_bytes:
        check_memory(make_pair, long_bytes)
        check_work(make_pair, long_bytes)


def _random_script(rng: random.Random, length: int) -> list[int]:
    return [rng.choice((0, 0, 1, 1, 2, 5, 30)) for _ in range(length)]


def _scripts(rng: random.Random) -> list[tuple[Iterable[int], Iterable[int], Sequence[int]]]:
    """Well-behaved, byte by byte, refusing before every byte, and at random."""
    return [
        ((), (), (1 << 16,)),
        (itertools.repeat(1), itertools.repeat(1), (1, 2, 50)),
        (itertools.cycle((0, 1)), itertools.cycle((0, 1)), (1 << 16,)),
        (_random_script(rng, 300), _random_script(rng, 300), [rng.randrange(1, 60) for _ in range(5)]),
    ]


def _sample(rng: random.Random, count: int, most: int) -> list[int]:
    return list(range(count)) if count <= most else sorted(rng.sample(range(count), most))


# The checks of what a layer costs: memory that does not grow with the message, calls that grow with its
# bytes and no faster.
#
# Memory is counted by `tracemalloc`, so it is that of Python objects, exact and the same on every machine;
# work by calls of the stream. Neither looks at a clock.
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


# The checks that change the wire.
#
# A layer answers with a documented error or, where nothing authenticates, with wrong content that is no
# longer than the wire: never with a hang, and never with another exception.


def check_truncation(
    make_pair: MakePair,
    content: bytes,
    cut: int,
    *,
    read_script: Iterable[int] = (),
    read_splits: Sequence[int] = (64,),
) -> None:
    """A stream that ends after `cut` bytes of the message: a documented error, or, if the layer has no end
    mark, an early end. What came out is a prefix of the content; after `reset()` the reader reads a whole
    message.
    """
    writer, reader = make_pair()
    w = HostileWriter()
    write_message(writer, w, content)
    wire = bytes(w.data)
    cut = min(cut, len(wire))
    result = read_message(
        reader, HostileReader(wire[:cut], read_script), length_for(reader, len(content)), read_splits
    )
    where = f"cut after {cut} of {len(wire)} bytes"
    require(content.startswith(result.content), f"{where}: what came out is not a prefix of the content")
    if cut == len(wire):
        require(result.error is None and result.content == content, f"{where}: {result.error!r}")
    elif reader.ends in SHOWN:
        require(result.error is not None, f"{where}: not noticed, although the layer has an end mark")
    _check_usable_again(writer, reader, content)


def check_corruption(
    make_pair: MakePair,
    content: bytes,
    position: int,
    mask: int,
    *,
    authenticated: bool,
    read_splits: Sequence[int] = (64,),
) -> None:
    """One changed byte on the wire (XOR `mask`, not 0; `position` counts round and round).

    With `authenticated` nothing wrong may come out: a prefix of the content and then `AuthenticationError`,
    `Malformed` or `Truncated`, or all of the content where the byte was padding outside the seal. Without it,
    documented errors or wrong content, no longer than the wire. After `reset()` the reader reads a whole
    message.

    Raises:
        KitFailure: it is not so.
    """

    def change(wire: bytes) -> bytes:
        at = position % max(len(wire), 1)
        return wire[:at] + bytes(byte ^ mask for byte in wire[at : at + 1]) + wire[at + 1 :]

    where = f"byte {position} changed by {mask}"
    _check_tampered(make_pair, content, change, where, authenticated, read_splits)


def check_extension(
    make_pair: MakePair,
    content: bytes,
    position: int,
    inserted: bytes,
    *,
    authenticated: bool,
    read_splits: Sequence[int] = (64,),
) -> None:
    """Bytes put into the message before `position` (round and round). As `check_corruption`."""

    def change(wire: bytes) -> bytes:
        at = position % (len(wire) + 1)
        return wire[:at] + inserted + wire[at:]

    where = f"{len(inserted)} bytes put in before byte {position}"
    _check_tampered(make_pair, content, change, where, authenticated, read_splits)


def check_removal(
    make_pair: MakePair,
    content: bytes,
    position: int,
    count: int,
    *,
    authenticated: bool,
    read_splits: Sequence[int] = (64,),
) -> None:
    """`count` bytes taken out of the message at `position` (round and round). As `check_corruption`."""

    def change(wire: bytes) -> bytes:
        at = position % (len(wire) + 1)
        return wire[:at] + wire[at + count :]

    where = f"{count} bytes taken out at byte {position}"
    _check_tampered(make_pair, content, change, where, authenticated, read_splits)


def check_runs(make_pair: MakePair, content: bytes, *, authenticated: bool, lengths: Sequence[int]) -> None:
    """Every run of some lengths taken out, repeated, or swapped with the run behind it.

    That finds what single bytes do not: whole chunks that may be dropped, repeated or put in another order
    because nothing counts them. Not a part of `check_ext_pair`, since it takes a second or more. As
    `check_corruption`.

    Args:
        lengths: of the runs; name that of a chunk or window on the wire.
    """
    writer, _ = make_pair()
    w = HostileWriter()
    write_message(writer, w, content)
    for count in lengths:
        for start in range(len(w.data) - count + 1):
            for what, change in _MOVES.items():
                where = f"{count} bytes at byte {start} {what}"
                moved = partial(change, start, count)
                _check_tampered(make_pair, content, moved, where, authenticated, (1 << 16,))


def _taken_out(start: int, count: int, wire: bytes) -> bytes:
    return wire[:start] + wire[start + count :]


def _repeated(start: int, count: int, wire: bytes) -> bytes:
    return wire[: start + count] + wire[start:]


def _swapped(start: int, count: int, wire: bytes) -> bytes:
    before, run, after = wire[:start], wire[start : start + count], wire[start + count :]
    return before + after[:count] + run + after[count:]


_MOVES: Final[dict[str, Callable[[int, int, bytes], bytes]]] = {
    "taken out": _taken_out,
    "repeated": _repeated,
    "swapped with those behind them": _swapped,
}


def _check_tampered(
    make_pair: MakePair,
    content: bytes,
    change: Callable[[bytes], bytes],
    where: str,
    authenticated: bool,
    read_splits: Sequence[int],
) -> None:
    writer, reader = make_pair()
    w = HostileWriter()
    write_message(writer, w, content)
    wire = bytes(w.data)
    changed = change(wire)
    where = f"{where} of {len(wire)}"
    length = length_for(reader, len(content))
    result = read_message(reader, HostileReader(changed), length, read_splits, most_bytes=len(changed))
    require(
        result.error is None or isinstance(result.error, (AuthenticationError, Malformed, Truncated)),
        f"{where}: undocumented {result.error!r}",
    )
    if authenticated:
        require(content.startswith(result.content), f"{where}: content that was not written came out")
        require(
            result.error is not None or result.content == content,
            f"{where}: content is missing, and no error",
        )
    _check_usable_again(writer, reader, content)


def _check_usable_again(writer: ExtWrite, reader: ExtRead, content: bytes) -> None:
    reader.reset()
    require(reader.phase is Phase.NEW, f"after reset() the reader is {reader.phase.name}, expected NEW")
    w = HostileWriter()
    write_message(writer, w, content)
    result = read_message(reader, HostileReader(bytes(w.data)), length_for(reader, len(content)))
    require(
        result.error is None and result.content == content,
        f"after reset() a good message fails: {result.error!r}",
    )
