"""Tools of layers: calls of a stream, state across a refusal, checks of arguments.

A stream may handle fewer bytes than requested, or refuse (`BlockingIOError`) at any byte. The state that a
layer must keep across a refusal is one of two things:

* `Take`: a structure of known length of which only a part has arrived;
* `Owed`: bytes that are ready for the stream and that it has not taken yet.

Both keep views, not copies: do not change the buffer until the structure is complete or the bytes are
written. Three outcomes are distinct everywhere: 0 (the stream ended), `BlockingIOError` (not now),
`Truncated` (it ended too early). All counts are bytes.
"""

from __future__ import annotations

import errno
import re
from typing import Any, Protocol

from readwrite_comp.errors import BadParameter, Malformed, Truncated

__all__ = [
    "ByteReader",
    "ByteWriter",
    "Owed",
    "Take",
    "byte_view",
    "check_number",
    "read_only",
    "read_part",
    "read_some",
    "skip_some",
    "would_block",
    "writable_view",
    "write_some",
]

_EMPTY = memoryview(b"")
_FIELD_NAME = re.compile(":[^:]*:")  # in the format of a buffer of structures
# The most that is skipped in one call of the stream.
_SCRATCH_BYTES = 16 * 1024


class ByteReader(Protocol):
    """A stream to read from: 0 at its end and only there."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read at most `len(buffer)` bytes; `None` (as raw files do) or `BlockingIOError` means "not now"."""
        ...


class ByteWriter(Protocol):
    """A stream to write to."""

    def write(self, data: memoryview, /) -> int | None:
        """Take some of `data`, at least one byte; `None` or `BlockingIOError` means "not now"."""
        ...


def byte_view(data: Any, what: str = "data") -> memoryview:
    """The bytes of any buffer, uncopied: `len` and slices count bytes, not items or rows.

    Args:
        data: any format and shape, if its bytes are contiguous in C order.
        what: the argument's name, for the error.
    Raises:
        TypeError: not a buffer (text, a list, a number), a buffer of objects, or not contiguous.
    """
    try:
        view = memoryview(data)
    except (TypeError, ValueError, BufferError) as error:
        kind = type(data).__name__
        hint = ": encode it first" if kind == "str" else ""
        if not isinstance(error, TypeError):
            hint = f", which gives no bytes: {error}"
        raise TypeError(f"{what}: expected bytes or another buffer, got {kind}{hint}") from None
    if not view.c_contiguous:
        raise TypeError(f"{what}: expected a contiguous buffer, got one with gaps between its bytes: copy it")
    if view.format == "B" and view.ndim == 1:
        return view
    if "O" in _FIELD_NAME.sub("", view.format):  # the bytes would be addresses of this process
        raise TypeError(f"{what}: expected bytes, got a buffer of Python objects")
    # An empty shape such as (3, 0) cannot be cast.
    return view.cast("B") if view.nbytes else memoryview(b"")


def writable_view(buffer: Any) -> memoryview:
    """The bytes of any contiguous buffer that is read into.

    Raises:
        TypeError: as `byte_view`.
        BadParameter: read-only.
    """
    view = byte_view(buffer, "buffer")
    if view.readonly and len(view):
        raise read_only()
    return view


def check_number(value: int, what: str, least: int, most: int) -> None:
    """Refuse an argument that is not a whole number from `least` to `most`.

    Raises:
        TypeError: not a whole number. BadParameter: out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what}: expected a whole number, got {value!r}")
    if not least <= value <= most:
        raise BadParameter(f"{what}: {value}, expected {least} to {most}")


def read_only() -> BadParameter:
    """Return the error that refuses a read-only buffer."""
    return BadParameter("the buffer is read-only, expected a writable one: content is read into it")


def would_block(what: str) -> BlockingIOError:
    """Return the error that means "not now"."""
    return BlockingIOError(errno.EAGAIN, what)


def read_some(r: ByteReader, view: memoryview) -> int:
    """Read once from a stream into `view`, which is not empty.

    Returns:
        1 to `len(view)`, or 0 at the end of the stream.
    Raises:
        BlockingIOError: nothing can be read now.
        BadParameter: the stream reports more bytes than `view` holds.
    """
    count = r.readinto(view)
    if count is None:
        raise would_block("the stream has nothing to read now")
    if count > len(view):
        raise BadParameter(f"the stream reports {count} bytes read into a buffer of {len(view)}")
    return count


def read_part(r: ByteReader, view: memoryview, left: int, what: str) -> int:
    """Read once into `view`, at most the `left` remaining bytes (at least 1) of a structure.

    Returns:
        1 to `left`.
    Raises:
        Truncated: the stream ended.
        BlockingIOError: nothing can be read now.
    """
    count = read_some(r, view if len(view) <= left else view[:left])
    if count == 0:
        raise Truncated(f"the stream ended with {left} bytes of {what} to come")
    return count


def write_some(w: ByteWriter, view: memoryview) -> int:
    """Write once to a stream; `view` is not empty.

    Returns:
        1 to `len(view)`.
    Raises:
        BlockingIOError: nothing can be written now; a stream that takes 0 bytes means the same.
        BadParameter: the stream reports more bytes than it was offered.
    """
    count = w.write(view)
    if not count:
        raise would_block("the stream takes nothing now")
    return _checked(count, view)


def _checked(count: int, view: memoryview) -> int:
    if count > len(view):
        raise BadParameter(f"the stream reports {count} bytes written of {len(view)}")
    return count


def skip_some(r: ByteReader, count: int, what: str, *, must_be_zero: bool = False) -> int:
    """Read up to `count` bytes (at least 1) and drop them, in one call of the stream.

    Returns:
        How many were dropped, 1 to `count`.
    Raises:
        Truncated: the stream ended.
        Malformed: `must_be_zero` and they are not.
        BlockingIOError: nothing can be read now.
    """
    view = memoryview(bytearray(min(count, _SCRATCH_BYTES)))
    done = read_part(r, view, count, what)
    if must_be_zero and any(view[:done]):
        raise Malformed(f"{what} holds bytes that are not zero")
    return done


class Owed:
    """Bytes owed to the stream below, in order."""

    __slots__ = ("_view",)

    def __init__(self) -> None:
        self._view = _EMPTY

    def __bool__(self) -> bool:
        return len(self._view) > 0

    def __len__(self) -> int:
        return len(self._view)

    def owe(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes. They are only copied if something is owed already: do not change them until they are
        written.
        """
        view = byte_view(data)
        self._view = memoryview(bytes(self._view) + view) if self._view else view

    def settle(self, w: ByteWriter) -> None:
        """Write until nothing is owed.

        Raises:
            BlockingIOError: the stream refused; the rest is still owed.
        """
        view = self._view
        while view:
            count = write_some(w, view)
            # Stored at every step, so that the rest is right whatever the next write raises.
            self._view = view = view[count:]

    def send(self, w: ByteWriter, view: memoryview) -> None:
        """Write `view` as far as the stream takes it now and owe the rest; nothing is owed before.

        The same as `owe` and `push`, but in the usual case with no call except the stream's: every cipher
        layer's write comes through here.
        """
        try:
            count = w.write(view)
        except BlockingIOError:
            count = None
        if count != view.nbytes:
            view = byte_view(view)
            self._view = view[_checked(count, view) :] if count else view
            if count:
                self.push(w)

    def push(self, w: ByteWriter) -> None:
        """Write as much as the stream accepts now; for callers that took content and so must not raise."""
        try:
            self.settle(w)
        except BlockingIOError:
            return  # the rest is still owed, and the layer's next call begins with it

    def clear(self) -> None:
        """Drop all owed bytes."""
        self._view = _EMPTY


class Take:
    """A structure of known length that arrives in parts."""

    __slots__ = ("_filled", "_view")

    def __init__(self) -> None:
        self._view = _EMPTY
        self._filled = 0

    @property
    def is_begun(self) -> bool:
        """Whether some but not all bytes have arrived."""
        return 0 < self._filled < len(self._view)

    def begin(self, view: memoryview, filled: int = 0) -> None:
        """Start over with the target `view`, whose first `filled` bytes have arrived already."""
        self._view = writable_view(view)
        self._filled = filled

    def fill(self, r: ByteReader, what: str, *, may_end: bool = False) -> bool:
        """Read until the structure is complete, and no further.

        Args:
            r: the stream.
            what: the structure's name, for errors.
            may_end: the stream may end before the first byte.
        Returns:
            True; False if the stream ended before the first byte and `may_end` allows that.
        Raises:
            Truncated: the stream ended.
            BlockingIOError: not complete yet; call again.
        """
        view, size = self._view, len(self._view)
        while self._filled < size:
            count = read_some(r, view[self._filled :])
            if count == 0:
                if may_end and self._filled == 0:
                    return False
                raise Truncated(f"the stream ended after {self._filled} of {size} bytes of {what}")
            self._filled += count
        return True

    def clear(self) -> None:
        """Drop the structure."""
        self._view = _EMPTY
        self._filled = 0
