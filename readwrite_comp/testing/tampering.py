"""The checks that touch the wire: cut it, change it, put bytes in, take bytes out, repeat some.

A layer answers with a documented error or, where nothing authenticates, with wrong content that is no longer
than the wire: never with a hang, and never with another exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from ..base import Ending, ExtRead, ExtWrite
from ..errors import AuthenticationError, Malformed, Truncated
from ..phases import Phase
from .drive import MakePair, length_for, read_message, write_message
from .streams import HostileReader, HostileWriter, require

__all__ = [
    "check_corruption",
    "check_extension",
    "check_removal",
    "check_runs",
    "check_truncation",
]

# Endings that the format shows: a cut anywhere is noticed.
_SHOWN = (Ending.EXACT, Ending.MARKED)


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
    elif reader.ends in _SHOWN:
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
