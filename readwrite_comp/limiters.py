"""Limiters: layers that end a message by themselves or hide its exact length, without encrypting it.

    SizedWindowsW(WindowSizes(1024, growth=(2, 1), max_bytes=65_536))   # 1, 2, 4 … 64 KiB

| limiter | on the wire | where the message ends |
| --- | --- | --- |
| `SizedWindows` | (size u32, if `size_written` ‖ window)* | the reader knows the length (`Ending.PADDED`) |
| `PaddedWindows` | (last bit and content length in a u32 ‖ window)* | marked exactly (`Ending.EXACT`) |
| `EndStream` | (window ‖ mark)*, mark = 0 more, 1 end | at a whole window (`Ending.MARKED`) |
| `EscapeTerm` | content, each escape byte E doubled ‖ E ‖ not E | marked exactly (`Ending.EXACT`) |

Numbers are big-endian. The three window limiters pad the last window and write at least one, so an empty
message looks like a short one. They share one reader (`_WindowsR`); the two that must collect a window before
they can write it share one writer (`_CollectingW`).

Rule for changing this file: announce a window only after content for it was taken. A writer that gives up
after a refusal would otherwise leave a window that the reader waits for.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum, auto

from readwrite_comp.base import Ending, ExtRead, ExtWrite
from readwrite_comp.errors import BadParameter, Malformed, Truncated
from readwrite_comp.helpers import (
    ByteReader,
    ByteWriter,
    Take,
    check_number,
    read_part,
    read_some,
    skip_some,
    write_some,
)
from readwrite_comp.primitives import random_bytes

__all__ = [
    "MAX_WINDOW_BYTES",
    "EndStreamR",
    "EndStreamW",
    "EscapeTermR",
    "EscapeTermW",
    "PaddedWindowsR",
    "PaddedWindowsW",
    "Padding",
    "SizedWindowsR",
    "SizedWindowsW",
    "WindowSizes",
]

# The top bit of a written length is kept free: it means "the last".
MAX_WINDOW_BYTES = 2**31 - 1
_LAST = 1 << 31
_U32 = struct.Struct("!I")
_U32_BYTES = 4
# Content that goes out together with a written size. More would only copy more.
_FIRST_BYTES = 16 * 1024
# Padding made in one piece: a window may be larger than what should lie in memory.
_PADDING_BYTES = 16 * 1024


class Padding(Enum):
    """The bytes of padding. Layers take a member or its name: `padding="zero"`."""

    ZERO = auto()
    """Zero bytes: cheap, and checked by readers that know it; for use inside a cipher."""

    RANDOM = auto()
    """Random bytes, ignored by the reader."""

    @classmethod
    def of(cls, padding: Padding | str) -> Padding:
        """Return the padding itself, or the one of that name, in any case.

        Raises:
            BadParameter: no padding has that name.
        """
        if isinstance(padding, cls):
            return padding
        try:
            return cls[padding.strip().upper()]  # type: ignore[union-attr]
        except (AttributeError, KeyError):
            names = ", ".join(member.name.lower() for member in cls)
            raise BadParameter(f"padding {padding!r}, expected one of {names}") from None

    def make(self, count: int) -> bytes:
        """Return `count` bytes of padding."""
        return bytes(count) if self is Padding.ZERO else random_bytes(count)


class _WindowsR(ExtRead):
    """The reader of all window limiters: reads the open window, then opens the next one.

    A limiter implements `_open_window`. `_left` and `_padding_left` are what remains of the open window,
    `_has_ended` is set when no window follows.
    """

    def __init__(self, head_bytes: int, padding: Padding | str = Padding.RANDOM) -> None:
        super().__init__()
        self._zero_padded = Padding.of(padding) is Padding.ZERO
        self._head = memoryview(bytearray(head_bytes))
        self._incoming = Take()
        self._clear()

    def _clear(self) -> None:
        self._left = 0
        self._padding_left = 0
        self._has_ended = False
        self._incoming.begin(self._head)

    def _open_window(self, r: ByteReader) -> bool:
        """Read what precedes the next window and set `_left`; False at the end of the content."""
        raise NotImplementedError

    def _read(self, r: ByteReader, view: memoryview) -> int:
        if not self._left and not self._open_window(r):
            return 0
        count = read_part(r, view, self._left, "a window")
        self._left -= count
        return count

    def _skip(self, r: ByteReader) -> None:
        while self._left or self._open_window(r):
            self._left -= skip_some(r, self._left, "a window")
        self._skip_padding(r)

    def _skip_padding(self, r: ByteReader) -> None:
        while self._padding_left:
            self._padding_left -= skip_some(
                r, self._padding_left, "window padding", must_be_zero=self._zero_padded
            )


class _CollectingW(ExtWrite):
    """The writer of limiters that need a whole window before it can go out: one copy of the content.

    `_unit` is a window behind the bytes that precede it on the wire: `_unit_bytes`, of which `_held` are
    filled.
    """

    # Whether a full window leaves immediately, or waits for more content.
    _sends_full = False

    def __init__(self, window_bytes: int, padding: Padding | str, head_bytes: int) -> None:
        super().__init__()
        check_number(window_bytes, "window_bytes", 1, MAX_WINDOW_BYTES)
        self._padding = Padding.of(padding)
        self._head_bytes = head_bytes
        self._unit_bytes = head_bytes + window_bytes
        self._unit = memoryview(bytearray(self._unit_bytes))
        self._held = head_bytes

    def _start(self) -> None:
        self._held = self._head_bytes

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        if self._held == self._unit_bytes:
            self._close_window()
            self._owed.settle(w)
        held = self._held
        count = min(len(view), self._unit_bytes - held)
        self._unit[held : held + count] = view[:count]
        self._held = held + count
        if self._sends_full and self._held == self._unit_bytes:
            self._flush()
            self._owed.push(w)
        return count

    def _close_window(self) -> None:
        """Owe the held content, so that the next window can be collected."""
        raise NotImplementedError

    def _pad(self) -> None:
        self._unit[self._held :] = self._padding.make(self._unit_bytes - self._held)


@dataclass(frozen=True)
class WindowSizes:
    """The sizes of a message's windows: `first_bytes`, then each the one before times `growth`, up to
    `max_bytes`.

    Args:
        first_bytes: at least 1.
        growth: (numerator, denominator), at least 1; whole numbers, so that both ends round down alike.
        max_bytes: by default `first_bytes`.
    Raises:
        BadParameter: sizes or growth out of range.
        TypeError: one of them is not a whole number.
    """

    first_bytes: int
    growth: tuple[int, int] = (1, 1)
    max_bytes: int = 0

    def __post_init__(self) -> None:
        check_number(self.first_bytes, "first_bytes", 1, MAX_WINDOW_BYTES)
        if self.max_bytes == 0:
            object.__setattr__(self, "max_bytes", self.first_bytes)
        check_number(self.max_bytes, "max_bytes", self.first_bytes, MAX_WINDOW_BYTES)
        if not isinstance(self.growth, tuple | list) or len(self.growth) != 2:
            raise TypeError(f"growth: expected (numerator, denominator), got {self.growth!r}")
        check_number(self.growth[1], "growth[1]", 1, MAX_WINDOW_BYTES)
        check_number(self.growth[0], "growth[0]", self.growth[1], MAX_WINDOW_BYTES)

    def after(self, size: int) -> int:
        """Return the size of the window that follows one of `size` bytes."""
        return min(self.max_bytes, size * self.growth[0] // self.growth[1])


def _check_sizes(sizes: WindowSizes) -> None:
    if not isinstance(sizes, WindowSizes):
        raise TypeError(f"sizes: expected WindowSizes(first_bytes, …), got {sizes!r}")


class SizedWindowsW(ExtWrite):
    """Writes content in windows whose sizes follow a plan. Ends: PADDED.

    With `size_written` the reader accepts any size from 1 to its maximum, so a writer may follow another
    plan. Content is not copied, except for the first bytes after a written size: both must reach the stream
    together.

    Args:
        sizes: the plan, the same on both sides unless `size_written`.
        size_written: precede each window by its size.
        padding: what fills the last window.
    """

    ends = Ending.PADDED

    def __init__(
        self, sizes: WindowSizes, *, size_written: bool = False, padding: Padding | str = Padding.RANDOM
    ) -> None:
        super().__init__()
        _check_sizes(sizes)
        self._sizes = sizes
        self._size_written = size_written
        self._padding = Padding.of(padding)
        self._start()

    def _start(self) -> None:
        self._next_bytes = self._sizes.first_bytes
        self._left = 0
        self._is_first = True

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        if self._left:
            count = write_some(w, view if len(view) <= self._left else view[: self._left])
            self._left -= count
            return count
        size = self._next_bytes
        if self._size_written:
            view = view[: min(size, _FIRST_BYTES)]
            self._owed.owe(_U32.pack(size) + view)
            self._owed.push(w)
            count = len(view)
        else:
            count = write_some(w, view[:size])
        # The window begins only now: after a refusal above it is still the next one.
        self._next_bytes = self._sizes.after(size)
        self._is_first = False
        self._left = size - count
        return count

    def _finish(self) -> None:
        if self._is_first:
            self._is_first = False
            self._left = self._next_bytes
            if self._size_written:
                self._owed.owe(_U32.pack(self._left))

    def _push_end(self, w: ByteWriter) -> None:
        self._owed.settle(w)
        while self._left:
            count = min(self._left, _PADDING_BYTES)
            self._owed.owe(self._padding.make(count))
            self._left -= count
            self._owed.settle(w)


class SizedWindowsR(_WindowsR):
    """Reads what `SizedWindowsW` wrote. Ends: PADDED: read the known length, then `read_end`.

    Args:
        sizes: as given to the writer; with `size_written` only its `max_bytes` counts, as a limit.
        size_written: each window is preceded by its size.
        padding: as given to the writer. ZERO is checked: other bytes are `Malformed`.
    """

    ends = Ending.PADDED

    def __init__(
        self, sizes: WindowSizes, *, size_written: bool = False, padding: Padding | str = Padding.RANDOM
    ) -> None:
        _check_sizes(sizes)
        self._sizes = sizes
        self._size_written = size_written
        super().__init__(_U32_BYTES, padding)

    def _clear(self) -> None:
        super()._clear()
        self._next_bytes = self._sizes.first_bytes
        self._is_first = True

    def _read(self, r: ByteReader, view: memoryview) -> int:
        # As in the base class, repeated here because another call would be a third of a small read.
        if not self._left:
            if not self._size_written:
                return self._read_first_of_window(r, view)
            if not self._open_window(r):
                return 0
        count = read_part(r, view, self._left, "a window")
        self._left -= count
        return count

    def _read_first_of_window(self, r: ByteReader, view: memoryview) -> int:
        # A window of implied size begins with its first byte.
        size = self._next_bytes
        count = read_some(r, view[:size])
        if count:
            self._next_bytes = self._sizes.after(size)
            self._is_first = False
            self._left = size - count
        elif self._is_first:
            raise Truncated("the stream ended before the first window")
        return count

    def _open_window(self, r: ByteReader, *, may_end: bool = True) -> bool:
        """Read a written size; False if the stream ended before it, which it may after the first window."""
        if not self._incoming.fill(r, "a window's size", may_end=may_end and not self._is_first):
            return False
        self._incoming.begin(self._head)
        (size,) = _U32.unpack(self._head)
        if not 1 <= size <= self._sizes.max_bytes:
            raise Malformed(f"window of {size} bytes, expected 1 to {self._sizes.max_bytes}")
        self._is_first = False
        self._left = size
        return True

    def _skip(self, r: ByteReader) -> None:
        # The rest of the open window is padding. An empty message has a window, too.
        if self._size_written:
            if not self._left and (self._is_first or self._incoming.is_begun):
                self._open_window(r, may_end=False)
        elif self._is_first:
            self._left = self._next_bytes
            self._is_first = False
        self._left, self._padding_left = 0, self._left + self._padding_left
        self._skip_padding(r)


class PaddedWindowsW(_CollectingW):
    """Writes content in windows of one size that state how much of them is content. Ends: EXACT.

    Each window but the last holds at least one byte of content, so the content bounds a reader's work. A full
    window waits for more content, because the last window is marked. `flush_into` sends the held content as a
    window.

    Args:
        window_bytes: content and padding of each window; 4 more bytes go over the stream.
        padding: what fills a window that is not full.
    """

    ends = Ending.EXACT

    def __init__(self, window_bytes: int, *, padding: Padding | str = Padding.RANDOM) -> None:
        super().__init__(window_bytes, padding, _U32_BYTES)

    def _flush(self) -> None:
        if self._held > _U32_BYTES:
            self._close_window()

    def _finish(self) -> None:
        self._close_window(_LAST)

    def _close_window(self, last: int = 0) -> None:
        held = self._held
        if held < self._unit_bytes:
            self._pad()
        _U32.pack_into(self._unit, 0, last | held - _U32_BYTES)
        self._owed.owe(self._unit)
        self._held = _U32_BYTES


class PaddedWindowsR(_WindowsR):
    """Reads what `PaddedWindowsW` wrote. Ends: EXACT.

    Args:
        window_bytes: as given to the writer.
        padding: as given to the writer. ZERO is checked: other bytes are `Malformed`.
    """

    ends = Ending.EXACT

    def __init__(self, window_bytes: int, *, padding: Padding | str = Padding.RANDOM) -> None:
        check_number(window_bytes, "window_bytes", 1, MAX_WINDOW_BYTES)
        self._window_bytes = window_bytes
        super().__init__(_U32_BYTES, padding)

    def _open_window(self, r: ByteReader) -> bool:
        if self._has_ended:
            return False
        self._skip_padding(r)
        self._incoming.fill(r, "a window's head")
        self._incoming.begin(self._head)
        (head,) = _U32.unpack(self._head)
        length = head & ~_LAST
        if length > self._window_bytes:
            raise Malformed(f"{length} bytes of content in a window, at most {self._window_bytes}")
        if not head & _LAST and not length:
            raise Malformed("a window without content that is not the last")
        self._has_ended = bool(head & _LAST)
        self._left = length
        self._padding_left = self._window_bytes - length
        return self._left > 0


_MORE = 0
_END = 1
_MARK_BYTES = 1


class EndStreamW(_CollectingW):
    """Writes content in windows with a mark after each, for content of unknown length. Ends: MARKED.

    Padding is not marked: a reader that does not know the length reads it too, so a copy into another
    `EndStream` keeps the size. A full window is sent immediately; its mark waits for more content and
    precedes it. `flush_into` sends the content that is held; the window stays open.

    Args:
        window_bytes: content of each window; 1 more byte goes over the stream.
        padding: what fills the last window.
    """

    ends = Ending.MARKED
    _sends_full = True

    def __init__(self, window_bytes: int, *, padding: Padding | str = Padding.RANDOM) -> None:
        # A window is preceded by the mark of the previous one, always "another follows".
        super().__init__(window_bytes, padding, _MARK_BYTES)
        self._sent = _MARK_BYTES

    def _start(self) -> None:
        # No mark precedes the first window.
        self._held = self._sent = _MARK_BYTES

    def _close_window(self) -> None:
        # It was sent when it was full.
        self._held, self._sent = _MARK_BYTES, 0

    def _flush(self) -> None:
        self._owed.owe(self._unit[self._sent : self._held])
        self._sent = self._held

    def _finish(self) -> None:
        self._pad()
        self._owed.owe(self._unit[self._sent :])
        self._owed.owe(bytes([_END]))


class EndStreamR(_WindowsR):
    """Reads what `EndStreamW` wrote. Ends: MARKED. `read_end` skips unread content and padding unchecked.

    Args:
        window_bytes: as given to the writer.
    """

    ends = Ending.MARKED

    def __init__(self, window_bytes: int) -> None:
        check_number(window_bytes, "window_bytes", 1, MAX_WINDOW_BYTES)
        self._window_bytes = window_bytes
        super().__init__(_MARK_BYTES)

    def _clear(self) -> None:
        super()._clear()
        # The first window has no mark before it.
        self._left = self._window_bytes

    def _open_window(self, r: ByteReader) -> bool:
        if self._has_ended:
            return False
        self._incoming.fill(r, "the mark of a window")
        self._incoming.begin(self._head)
        mark = self._head[0]
        if mark not in (_MORE, _END):
            raise Malformed(f"a window's mark is {mark}, expected {_MORE} or {_END}")
        if mark == _END:
            self._has_ended = True
            return False
        self._left = self._window_bytes
        return True


# `EscapeTerm` neither buffers nor pads. T is the complement of E, so no single flipped bit turns content into
# an end; any other byte after E is `Malformed`.
#
# Only the two bytes of the terminator are sure to follow, and a reader must not read ahead. So it takes two
# bytes in one call of the stream, a hundred times slower than any other layer, unless the stream has `peek`,
# as `io.BufferedReader` has and a socket with MSG_PEEK can: then it reads up to the terminator or to the end
# of what `peek` shows. Elsewhere use `PaddedWindows`.
# The most content that one call takes; doubled escape bytes at most double the owed bytes.
_MOST_BYTES = 16 * 1024
_TERMINATOR_BYTES = 2


class EscapeTermW(ExtWrite):
    """Writes content with its escape bytes doubled, and a terminator. Ends: EXACT.

    Args:
        escape: 0 to 255, preferably a byte that is rare in the content.
    """

    ends = Ending.EXACT

    def __init__(self, escape: int = 0) -> None:
        super().__init__()
        check_number(escape, "escape", 0, 255)
        self._escape = bytes([escape])
        self._terminator = bytes([escape, escape ^ 0xFF])

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        chunk = bytes(view[:_MOST_BYTES])
        if self._escape not in chunk:
            return write_some(w, view[:_MOST_BYTES])
        self._owed.owe(chunk.replace(self._escape, self._escape * 2))
        self._owed.push(w)
        return len(chunk)

    def _finish(self) -> None:
        self._owed.owe(self._terminator)


class EscapeTermR(ExtRead):
    """Reads what `EscapeTermW` wrote. Ends: EXACT.

    Args:
        escape: as given to the writer.
    """

    ends = Ending.EXACT

    def __init__(self, escape: int = 0) -> None:
        super().__init__()
        check_number(escape, "escape", 0, 255)
        self._escape = bytes([escape])
        # Content up to an escape byte that is not doubled, or not yet. Possessive: no backtracking.
        self._content = re.compile(b"(?:[^\\x%02x]++|\\x%02x{2})*+" % (escape, escape))
        self._incoming = memoryview(bytearray(_TERMINATOR_BYTES))
        self._clear()

    def _clear(self) -> None:
        self._is_escaped = False
        self._has_ended = False

    def _read(self, r: ByteReader, view: memoryview) -> int:
        # One call of the stream for each turn, and none after content has arrived, so no error loses content.
        while not self._has_ended:
            sure = self._content_ahead(r, len(view))
            done = self._read_content(r, view[:sure]) if sure else self._read_pair(r, view)
            if done:
                return done
        return 0

    def _content_ahead(self, r: ByteReader, most: int) -> int:
        """Return how many of the next bytes, at most `most`, are certainly content; 0 without `peek`."""
        peek = getattr(r, "peek", None)
        if peek is None or self._is_escaped:
            return 0
        found = self._content.match(peek(most), 0, most)
        return found.end() if found else 0

    def _read_content(self, r: ByteReader, view: memoryview) -> int:
        """Read what `_content_ahead` has found into `view` and undo the doubling there."""
        count = read_some(r, view)
        if count == 0:
            raise Truncated("the stream ended before bytes that its peek() has shown")
        # Between the two bytes of a pair is an empty part. If the stream has stopped inside the last pair,
        # the number of parts is even and the last one is empty.
        parts = bytes(view[:count]).split(self._escape)
        if len(parts) == 1:
            return count
        self._is_escaped = len(parts) % 2 == 0
        content = self._escape.join(parts[::2])
        view[: len(content)] = content
        return len(content)

    def _read_pair(self, r: ByteReader, view: memoryview) -> int:
        """Read the one or two bytes that must follow and put the content among them into `view`."""
        most = 1 if self._is_escaped or len(view) == 1 else _TERMINATOR_BYTES
        count = read_some(r, self._incoming[:most])
        if count == 0:
            raise Truncated("the stream ended before the terminator")
        done, escape = 0, self._escape[0]
        for byte in self._incoming[:count]:
            if not self._is_escaped and byte == escape:
                self._is_escaped = True
                continue
            if self._is_escaped and byte != escape:
                if byte != escape ^ 0xFF:
                    raise Malformed(
                        f"{byte} after the escape byte {escape}, expected it again or {escape ^ 0xFF}"
                    )
                self._has_ended = True
                break
            self._is_escaped = False
            view[done] = byte
            done += 1
        return done

    def _skip(self, r: ByteReader) -> None:
        scratch = memoryview(bytearray(_MOST_BYTES))
        while self._read(r, scratch):
            pass
