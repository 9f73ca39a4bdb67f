"""The checks: each tries one part of the contract on a fresh pair of layers and raises `KitFailure` if it is
broken.
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
    "check_memory",
    "check_misuse",
    "check_round_trip",
    "check_runs",
    "check_truncation",
    "check_work",
]

# Endings that the format shows: an early end of reading skips the rest, and a cut anywhere is detected.
SHOWN = (Ending.EXACT, Ending.MARKED)
FOREIGN = b"these bytes belong to another message"


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
    """Several messages on one stream, foreign bytes behind them: the same content comes out, the reader stops
    at the end of each message, and the foreign bytes are untouched.

    Returns:
        The bytes on the wire, without the foreign ones.
    Raises:
        KitFailure: the promise is broken.
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
            f"message {index}: the reader is at {r.position}, its end is at {border}",
        )
    return bytes(w.data)


def check_abandoned_write(
    make_pair: MakePair,
    content: bytes,
    *,
    write_script: Iterable[int],
    write_splits: Sequence[int] = (1 << 20,),
) -> None:
    """The message ends at the first refusal: it has exactly the content that was taken."""
    writer, reader = make_pair()
    w = HostileWriter(write_script)
    taken = write_message(writer, w, content, write_splits, gives_up_when_refused=True)
    r = HostileReader(bytes(w.data) + FOREIGN)
    result = read_message(reader, r, length_for(reader, len(taken)))
    require(result.error is None, f"{len(taken)} bytes, then given up: {result.error!r}")
    require(
        result.content == taken, f"{len(taken)} bytes were taken, {len(result.content)} came out, or others"
    )
    require(r.position == len(w.data), f"the reader is at {r.position}, the end is at {len(w.data)}")


def check_broken_stream(
    make_pair: MakePair, content: bytes, calls: int, *, write_splits: Sequence[int] = (1 << 20,)
) -> None:
    """The stream raises its own error once and the call is repeated: the message comes out complete, or the
    writer refuses to continue and the message is truncated. It never lacks or repeats content and looks
    complete. Reading loses nothing.

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
    require(r.position == len(w.data), f"{where}: the reader is at {r.position}, not at {len(w.data)}")


def check_early_end(
    make_pair: MakePair, content: bytes, read_bytes: int, *, read_script: Iterable[int] = ()
) -> None:
    """`read_end` after a part of the content skips the rest; tried only if the format shows its end."""
    writer, reader = make_pair()
    if reader.ends not in SHOWN:
        return
    w = HostileWriter()
    write_message(writer, w, content)
    r = HostileReader(bytes(w.data) + FOREIGN, read_script)
    result = read_message(reader, r, min(read_bytes, len(content)))
    require(result.error is None, f"ended after {read_bytes} bytes: {result.error!r}")
    require(content.startswith(result.content), "what was read is not a prefix of the content")
    require(r.position == len(w.data), f"the reader is at {r.position}, the end is at {len(w.data)}")


def check_at_hand(make_pair: MakePair, content: bytes) -> None:
    """Bytes that a reader reports at hand can be read without its stream."""
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
                f"the reader reports {left} bytes at hand, but read them from the stream",
            )
            got += buffer[:count]
            left -= count
    require(got.startswith(content), "what was at hand came out changed")


def check_misuse(make_pair: MakePair) -> None:
    """Calls out of order raise `PhaseError` and change nothing; `reset()` in a message makes a layer NEW."""
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
    require(r.position == len(w.data), f"the reader is at {r.position}, the end is at {len(w.data)}")


def _goes_through(call: Callable[[], object]) -> None:
    try:
        call()
    except BlockingIOError:
        raise KitFailure("the layer refuses, but its stream does not") from None


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
        make_pair: returns a new writer and the matching reader.
        authenticated: only content that was written may come out.
        sizes: lengths of contents; name those around the edges of your windows or blocks.
        samples: how many cuts, changed, inserted and removed bytes to try; at most one for each place.
        seed: of the random choices.
        long_bytes: length of the content that shows that memory and work are bounded; 0 skips that.
    Raises:
        KitFailure: a promise is broken; the text names it.
        Exception: any undocumented error of the layer, which is a failure, too.
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
        where = f"{len(inserted)} bytes inserted before byte {position}"
        change = partial(_extended, position, inserted)
        _check_tampered(make_pair, small, change, where, authenticated=authenticated)
    for position in _sample(rng, wire_bytes, samples):
        count = rng.choice((1, 1, 2, 16))
        where = f"{count} bytes removed at byte {position}"
        change = partial(_removed, position, count)
        _check_tampered(make_pair, small, change, where, authenticated=authenticated)
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


# The checks of cost: memory does not grow with the message, and calls grow in proportion to it. `tracemalloc`
# counts the memory of Python objects, exact and equal on every machine; work is calls of the stream. Neither
# uses a clock.

# Additional memory that a layer may hold, compared with a message of an eighth of the length.
_SLACK_BYTES = 6 * 1024
_PIECE_BYTES = 256
# Content that a layer may take while its stream refuses all. The largest windows of this package are smaller.
_MOST_HELD_BYTES = 1 << 20
# Calls beyond proportion: header, end and the last window.
_EXTRA_CALLS = 16


class _Sink(HostileWriter):
    """Drops the data; refuses everything once `is_full`."""

    is_full = False

    def write(self, data: memoryview, /) -> int:
        if self.is_full:
            raise would_block("the stream is full")
        return len(data)


def check_memory(make_pair: MakePair, long_bytes: int) -> None:
    """Memory does not grow with the message, and a writer whose stream refuses takes a bounded amount.

    Args:
        long_bytes: length of the long message, compared with one of an eighth; at least 10 kB.
    Raises:
        KitFailure: the promise is broken.
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
    """Calls of the stream grow in proportion to the message: for eight times the bytes at most ten times the
    calls (the first part may be cheaper) and a few.

    Raises:
        KitFailure: the promise is broken.
    """
    few, many = _calls(make_pair, long_bytes // 8), _calls(make_pair, long_bytes)
    for what, short, long in zip(("writer", "reader"), few, many, strict=True):
        require(
            long <= 10 * short + _EXTRA_CALLS,
            f"the {what} makes {short} calls for a message of {long_bytes // 8} bytes, but {long} for one of "
            f"{long_bytes}",
        )


def _read(reader: ExtRead, stream: HostileReader, length: int) -> None:
    buffer = memoryview(bytearray(_PIECE_BYTES))
    reader.read_header(stream)
    left = length
    while left:
        count = reader.read_into(stream, buffer[:left])
        require(count > 0, f"the content ended {left} bytes early")
        left -= count
    reader.read_end(stream)


def _peak_of(work: Callable[[], object]) -> int:
    """The peak of the memory that `work` allocated, in bytes."""
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
    content = bytes(length)
    return _peak_of(lambda: write_message(writer, _Sink(), content, (_PIECE_BYTES,)))


def _reader_peak(make_pair: MakePair, length: int) -> int:
    writer, reader = make_pair()
    w = HostileWriter()
    write_message(writer, w, bytes(length))
    r = HostileReader(bytes(w.data))
    return _peak_of(lambda: _read(reader, r, length))


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
    raise KitFailure(f"the writer has taken {taken} bytes, but its stream refuses all")


def _calls(make_pair: MakePair, length: int) -> tuple[int, int]:
    writer, reader = make_pair()
    w = HostileWriter()
    write_message(writer, w, bytes(length), (_PIECE_BYTES,))
    r = HostileReader(bytes(w.data))
    _read(reader, r, length)
    return w.calls, r.calls


# The checks that change the wire. A layer answers with a documented error or, where nothing authenticates,
# with wrong content that is no longer than the wire: never with a hang or another exception.


def check_truncation(
    make_pair: MakePair,
    content: bytes,
    cut: int,
    *,
    read_script: Iterable[int] = (),
    read_splits: Sequence[int] = (64,),
) -> None:
    """The stream ends after `cut` bytes of the message: a documented error or, without an end mark, an early
    end. A prefix of the content comes out; after `reset()` the reader reads a whole message.
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
    """One byte on the wire is changed (XOR `mask`, not 0; `position` is taken modulo the length).

    With `authenticated` only a prefix of the content and then `AuthenticationError`, `Malformed` or
    `Truncated` may come out, or all of the content if the byte was padding outside the seal. Without it,
    documented errors or wrong content, no longer than the wire. After `reset()` the reader reads a whole
    message.

    Raises:
        KitFailure: the promise is broken.
    """
    change = partial(_changed, position, mask)
    where = f"byte {position} changed by {mask}"
    _check_tampered(make_pair, content, change, where, authenticated=authenticated, read_splits=read_splits)


def check_runs(make_pair: MakePair, content: bytes, *, authenticated: bool, lengths: Sequence[int]) -> None:
    """Every run of some lengths is removed, repeated, or swapped with the run behind it; as
    `check_corruption`.

    This finds what single bytes do not: chunks that may be dropped, repeated or reordered because nothing
    counts them. Not a part of `check_ext_pair`, since it takes a second or more.

    Args:
        lengths: of the runs; name that of a chunk or window on the wire.
    """
    writer, _ = make_pair()
    w = HostileWriter()
    write_message(writer, w, content)
    for count in lengths:
        for start in range(len(w.data) - count + 1):
            for what, move in _MOVES.items():
                where = f"{count} bytes at byte {start} {what}"
                change = partial(move, start, count)
                _check_tampered(
                    make_pair, content, change, where, authenticated=authenticated, read_splits=(1 << 16,)
                )


def _changed(position: int, mask: int, wire: bytes) -> bytes:
    at = position % max(len(wire), 1)
    return wire[:at] + bytes(byte ^ mask for byte in wire[at : at + 1]) + wire[at + 1 :]


def _extended(start: int, inserted: bytes, wire: bytes) -> bytes:
    return wire[:start] + inserted + wire[start:]


def _removed(start: int, count: int, wire: bytes) -> bytes:
    return wire[:start] + wire[start + count :]


def _repeated(start: int, count: int, wire: bytes) -> bytes:
    return wire[: start + count] + wire[start:]


def _swapped(start: int, count: int, wire: bytes) -> bytes:
    before, run, after = wire[:start], wire[start : start + count], wire[start + count :]
    return before + after[:count] + run + after[count:]


_MOVES: Final[dict[str, Callable[[int, int, bytes], bytes]]] = {
    "removed": _removed,
    "repeated": _repeated,
    "swapped with those behind them": _swapped,
}


def _check_tampered(
    make_pair: MakePair,
    content: bytes,
    change: Callable[[bytes], bytes],
    where: str,
    *,
    authenticated: bool,
    read_splits: Sequence[int] = (64,),
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
