"""The hostile-stream kit: puts any layer or stack through everything that a stream may do to it.

Public, since users write layers too. `check_ext_pair(make_pair)` is the whole kit; the single checks are
public as well, so that a property test can drive them with its own choices. It needs no test framework: a
broken promise raises `KitFailure`, an `AssertionError` whose text says what was done.

A *script* is how a stream misbehaves: one number for each call, the most bytes that this call handles; 0
refuses the call (`BlockingIOError`). After its last number the stream behaves. An endless iterator is fine if
it is not all zeros. *Splits* are the sizes of the pieces in which content is offered or asked for, used round
and round.

A hang is a failure, not a wait: streams and drivers count calls, and give up long after any correct layer
would be done.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .base import Ending, ExtRead, ExtWrite
from .errors import AuthenticationError, Malformed, PhaseError, RemoteLayerError, Truncated
from .helpers import would_block
from .phases import Phase

__all__ = [
    "HostileReader",
    "HostileWriter",
    "KitFailure",
    "MakePair",
    "ReadResult",
    "check_abandoned_write",
    "check_corruption",
    "check_early_end",
    "check_ext_pair",
    "check_misuse",
    "check_round_trip",
    "check_truncation",
    "read_message",
    "write_message",
]

MakePair = Callable[[], tuple[ExtWrite, ExtRead]]
T = TypeVar("T")

# Calls of one stream, and refusals in a row of one layer, after which the kit speaks of a hang. Far above
# what byte by byte transfer of the kit's contents takes.
_MAX_CALLS = 2_000_000
_MAX_REFUSALS = 100_000
_MAX_CALLS_AT_END = 10_000

FOREIGN = b"these bytes belong to somebody else"


class KitFailure(AssertionError):
    """The layer broke a promise of the contract."""


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise KitFailure(text)


class _Script:
    """Says how many bytes the next call may handle."""

    def __init__(self, script: Iterable[int]) -> None:
        self._steps = iter(script)
        self._calls = 0

    def limit(self, asked: int) -> int:
        self._calls += 1
        _require(self._calls <= _MAX_CALLS, f"the layer hangs: {self._calls} calls of one stream")
        step = next(self._steps, None)
        if step is None:
            return asked
        if step == 0:
            raise would_block("the script refuses this call")
        return min(asked, step)


class HostileReader:
    """A stream over `data` that follows a script. `position` is how far it was read."""

    def __init__(self, data: bytes, script: Iterable[int] = ()) -> None:
        self._data = data
        self._script = _Script(script)
        self._calls_at_end = 0
        self.position = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Read as the script allows; 0 at the end of `data`."""
        _require(len(buffer) > 0, "the layer reads into an empty buffer")
        count = self._script.limit(min(len(buffer), len(self._data) - self.position))
        if count == 0:
            self._calls_at_end += 1
            _require(
                self._calls_at_end <= _MAX_CALLS_AT_END,
                "the layer hangs: it reads on at the end of the stream",
            )
        buffer[:count] = self._data[self.position : self.position + count]
        self.position += count
        return count


class HostileWriter:
    """A stream that collects in `data` and follows a script."""

    def __init__(self, script: Iterable[int] = ()) -> None:
        self._script = _Script(script)
        self.data = bytearray()

    def write(self, data: memoryview, /) -> int:
        """Take as much as the script allows."""
        _require(len(data) > 0, "the layer writes empty data")
        count = self._script.limit(len(data))
        self.data += data[:count]
        return count


def _until_done(call: Callable[[], T]) -> T:
    for _ in range(_MAX_REFUSALS):
        try:
            return call()
        except BlockingIOError:
            continue
    raise KitFailure("the layer hangs: it refuses for ever although the stream does not")


def write_message(
    ext: ExtWrite,
    w: HostileWriter,
    content: bytes,
    splits: Sequence[int] = (1 << 20,),
    *,
    flush_every: int = 0,
    gives_up_when_refused: bool = False,
) -> bytes:
    """Write one message, making each refused call again.

    Args:
        ext: a layer in phase NEW.
        w: where to.
        content: what.
        splits: sizes of the pieces offered; a refused piece is offered again with the next size.
        flush_every: flush after so many pieces; 0: never.
        gives_up_when_refused: end the message at the first refusal of content.
    Returns:
        The content that the layer took: all of `content` unless it gave up.
    """
    _until_done(lambda: ext.write_header(w))
    _require(ext.write_into(w, b"") == 0, "write_into of nothing did not return 0")
    sizes = itertools.cycle(splits)
    done, pieces, refusals = 0, 0, 0
    while done < len(content):
        piece = content[done : done + next(sizes)]
        try:
            count = ext.write_into(w, piece)
        except BlockingIOError:
            refusals += 1
            _require(refusals <= _MAX_REFUSALS, "the layer hangs: it takes no content")
            if gives_up_when_refused:
                break
            continue
        _require(1 <= count <= len(piece), f"write_into took {count} of {len(piece)} bytes")
        done, pieces, refusals = done + count, pieces + 1, 0
        if flush_every and pieces % flush_every == 0:
            _until_done(lambda: ext.flush_into(w))
    _until_done(lambda: ext.write_end(w))
    _require(ext.phase is Phase.NEW, f"after write_end the writer is {ext.phase.name}, expected NEW")
    return content[:done]


@dataclass
class ReadResult:
    """What came out of one message."""

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
    """Read one message, making each refused call again.

    Args:
        ext: a layer in phase NEW.
        r: where from.
        length: read so many bytes and not on to the end; None: until the layer says 0.
        splits: sizes of the buffers.
        most_bytes: more content than this is a failure.
    Returns:
        The content up to the end or to the documented error. Any other error passes through.
    """
    content = bytearray()
    try:
        _until_done(lambda: ext.read_header(r))
        _require(ext.read_into(r, bytearray()) == 0, "read_into of no buffer did not return 0")
        sizes, refusals = itertools.cycle(splits), 0
        while length is None or len(content) < length:
            size = next(sizes)
            view = memoryview(bytearray(size if length is None else min(size, length - len(content))))
            try:
                count = ext.read_into(r, view)
            except BlockingIOError:
                refusals += 1
                _require(refusals <= _MAX_REFUSALS, "the layer hangs: it gives no content")
                continue
            _require(0 <= count <= len(view), f"read_into of {len(view)} bytes returned {count}")
            if count == 0:
                again = _until_done(lambda: ext.read_into(r, bytearray(1)))
                _require(again == 0, "read_into went on after it had returned 0")
                break
            refusals = 0
            content += view[:count]
            _require(len(content) <= most_bytes, f"more than {most_bytes} bytes of content")
        _until_done(lambda: ext.read_end(r))
    except RemoteLayerError as error:
        _check_sticky(ext, r, error)
        return ReadResult(bytes(content), error)
    _require(ext.phase is Phase.NEW, f"after read_end the reader is {ext.phase.name}, expected NEW")
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
        except RemoteLayerError as again:
            _require(
                type(again) is type(error), f"{type(again).__name__} after {type(error).__name__}: not sticky"
            )
        else:
            raise KitFailure(f"a call went through after {type(error).__name__}: not sticky")


def _length_for(reader: ExtRead, length: int) -> int | None:
    """What a reader must be told of the length: nothing if it ends by itself."""
    return None if reader.ends is Ending.EXACT else length


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
    _require(writer.ends is reader.ends, f"the writer ends {writer.ends.name}, the reader {reader.ends.name}")
    w = HostileWriter(write_script)
    borders = []
    for content in contents:
        write_message(writer, w, content, write_splits, flush_every=flush_every)
        borders.append(len(w.data))
    r = HostileReader(bytes(w.data) + FOREIGN, read_script)
    for index, (content, border) in enumerate(zip(contents, borders, strict=True)):
        result = read_message(reader, r, _length_for(reader, len(content)), read_splits)
        _require(result.error is None, f"message {index} of {len(content)} bytes: {result.error!r}")
        _require(result.content == content, f"message {index} of {len(content)} bytes came out changed")
        _require(
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
    more."""
    writer, reader = make_pair()
    w = HostileWriter(write_script)
    taken = write_message(writer, w, content, write_splits, gives_up_when_refused=True)
    r = HostileReader(bytes(w.data) + FOREIGN)
    result = read_message(reader, r, _length_for(reader, len(taken)))
    _require(result.error is None, f"{len(taken)} bytes, then given up: {result.error!r}")
    _require(
        result.content == taken, f"{len(taken)} bytes were taken, {len(result.content)} came out, or others"
    )
    _require(r.position == len(w.data), f"the reader stands at {r.position}, the border is {len(w.data)}")


def check_early_end(
    make_pair: MakePair, content: bytes, read_bytes: int, *, read_script: Iterable[int] = ()
) -> None:
    """`read_end` after a part of the content passes the rest, where the format shows its end; else it is not
    tried."""
    writer, reader = make_pair()
    if reader.ends is not Ending.EXACT:
        return
    w = HostileWriter()
    write_message(writer, w, content)
    r = HostileReader(bytes(w.data) + FOREIGN, read_script)
    result = read_message(reader, r, min(read_bytes, len(content)))
    _require(result.error is None, f"ended after {read_bytes} bytes: {result.error!r}")
    _require(content.startswith(result.content), "what was read is not a prefix of the content")
    _require(r.position == len(w.data), f"the reader stands at {r.position}, the border is {len(w.data)}")


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
    message."""
    writer, reader = make_pair()
    w = HostileWriter()
    write_message(writer, w, content)
    wire = bytes(w.data)
    cut = min(cut, len(wire))
    result = read_message(
        reader, HostileReader(wire[:cut], read_script), _length_for(reader, len(content)), read_splits
    )
    where = f"cut after {cut} of {len(wire)} bytes"
    _require(content.startswith(result.content), f"{where}: what came out is not a prefix of the content")
    if cut == len(wire):
        _require(result.error is None and result.content == content, f"{where}: {result.error!r}")
    elif reader.ends is Ending.EXACT:
        _require(result.error is not None, f"{where}: not noticed, although the layer has an end mark")
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
    """One changed byte on the wire (XOR `mask`, not 0).

    With `authenticated` nothing wrong may come out: a prefix of the content and then `AuthenticationError`,
    `Malformed` or `Truncated`, or all of the content where the byte was padding outside the seal. Without it,
    documented errors or wrong content, no longer than the wire. After `reset()` the reader reads a whole
    message.
    """
    writer, reader = make_pair()
    w = HostileWriter()
    write_message(writer, w, content)
    wire = bytearray(w.data)
    if not wire:
        return
    position %= len(wire)
    wire[position] ^= mask
    length = _length_for(reader, len(content))
    result = read_message(reader, HostileReader(bytes(wire)), length, read_splits, most_bytes=len(wire))
    where = f"byte {position} of {len(wire)} changed"
    _require(
        result.error is None or isinstance(result.error, (AuthenticationError, Malformed, Truncated)),
        f"{where}: undocumented {result.error!r}",
    )
    if authenticated:
        _require(content.startswith(result.content), f"{where}: content that was not written came out")
        _require(
            result.error is not None or result.content == content,
            f"{where}: content is missing, and no error",
        )
    _check_usable_again(writer, reader, content)


def _check_usable_again(writer: ExtWrite, reader: ExtRead, content: bytes) -> None:
    reader.reset()
    _require(reader.phase is Phase.NEW, f"after reset() the reader is {reader.phase.name}, expected NEW")
    w = HostileWriter()
    write_message(writer, w, content)
    result = read_message(reader, HostileReader(bytes(w.data)), _length_for(reader, len(content)))
    _require(
        result.error is None and result.content == content,
        f"after reset() a good message fails: {result.error!r}",
    )


def check_misuse(make_pair: MakePair) -> None:
    """Calls out of order are `PhaseError` and change nothing; `reset()` in the middle of a message makes a
    layer NEW again."""
    writer, reader = make_pair()
    w = HostileWriter()
    _refuses(lambda: writer.write_into(w, b"x"), "write_into before the header")
    _refuses(lambda: writer.flush_into(w), "flush_into before the header")
    _refuses(lambda: writer.write_end(w), "write_end before the header")
    _require(not w.data, "a refused call wrote something")
    writer.write_header(w)
    _refuses(lambda: writer.write_header(w), "a second header")
    writer.write_into(w, b"left behind")
    writer.reset()
    w = HostileWriter()
    write_message(writer, w, b"kept")
    r = HostileReader(bytes(w.data) + FOREIGN)
    _refuses(lambda: reader.read_into(r, bytearray(1)), "read_into before the header")
    _refuses(lambda: reader.read_end(r), "read_end before the header")
    _require(r.position == 0, "a refused call read something")
    reader.read_header(r)
    _refuses(lambda: reader.read_header(r), "a second header")
    reader.read_into(r, bytearray(2))
    reader.reset()
    r = HostileReader(bytes(w.data) + FOREIGN)
    result = read_message(reader, r, _length_for(reader, 4))
    _require(result.error is None and result.content == b"kept", "after reset() a message does not come out")
    _require(r.position == len(w.data), f"the reader stands at {r.position}, the border is {len(w.data)}")


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
) -> None:
    """Put a layer or stack through all checks of this module.

    Args:
        make_pair: returns a fresh writer and the reader that matches it.
        authenticated: the layer promises that nothing comes out that was not written.
        sizes: lengths of contents; name those around the edges of your windows or blocks.
        samples: how many cuts and changed bytes to try; all of them, if the message is no longer.
        seed: of the choices made here; the same seed makes the same ones.
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
    wire_bytes = len(check_round_trip(make_pair, [small]))
    for cut in _sample(rng, wire_bytes + 1, samples):
        check_truncation(
            make_pair, small, cut, read_script=_random_script(rng, 50), read_splits=(rng.randrange(1, 80),)
        )
    for position in _sample(rng, wire_bytes, samples):
        check_corruption(make_pair, small, position, rng.randrange(1, 256), authenticated=authenticated)


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
