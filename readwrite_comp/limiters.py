"""Window limiters: a message is cut into windows, and padding hides its exact length.

    SizedWindowsW(WindowSizes(1024, growth=(2, 1), max_bytes=65_536))   # 1, 2, 4 … 64 KiB

| limiter | on the wire | where the message ends |
| --- | --- | --- |
| `SizedWindows` | (size u32, if `size_written` ‖ window)* | the reader knows the length (`Ending.PADDED`) |
| `PaddedWindows` | (last bit and content length in a u32 ‖ window)* | marked exactly (`Ending.EXACT`) |
| `EndStream` | (window ‖ mark)*, mark = 0 more, 1 end | at a whole window (`Ending.MARKED`) |

All numbers are big-endian. The last window is padded. There is at least one window, so an empty message looks
like a short one. Three classes and not one with three settings: they differ in what has to be known before a
window may be announced, which is where each of them is hard.

Rule for changing this file: a window may be announced only when content for it has been taken. A writer that
gives up after a refusal would otherwise leave a window that the reader waits for.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum, auto

from readwrite_comp.base import Ending, ExtRead, ExtWrite
from readwrite_comp.errors import BadParameter, Malformed, Truncated
from readwrite_comp.helpers import ByteReader, ByteWriter, Take, read_part, read_some, skip_some, write_some
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
    "check_window",
]

# The top bit of a written length is kept free: it means "the last".
MAX_WINDOW_BYTES = 2**31 - 1


class Padding(Enum):
    """What padding is made of."""

    ZERO = auto()
    """Zero bytes: cheap, and checked by readers that know it; for use inside a cipher."""

    RANDOM = auto()
    """Random bytes, ignored by the reader."""

    @classmethod
    def of(cls, padding: Padding | str) -> Padding:
        """Return the padding itself, or the one of that name, in any case.

        Raises:
            BadParameter: there is none of that name.
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


def check_window(window_bytes: int) -> None:
    """Raises BadParameter: `window_bytes` is outside 1 to `MAX_WINDOW_BYTES`."""
    if not 1 <= window_bytes <= MAX_WINDOW_BYTES:
        raise BadParameter(f"window of {window_bytes} bytes, expected 1 to {MAX_WINDOW_BYTES}")


_SIZE = struct.Struct("!I")
# How much content goes out together with a written size. More would only copy more.
_FIRST_BYTES = 16 * 1024
# The most padding that is made at once.
_PADDING_BYTES = 16 * 1024


@dataclass(frozen=True)
class WindowSizes:
    """The sizes of the windows of one message: `first_bytes`, then each the one before times `growth`, up to
    `max_bytes`.

    Args:
        first_bytes: size of the first window, at least 1.
        growth: (numerator, denominator), at least 1; whole numbers, so that both ends round alike (down).
        max_bytes: no window is larger; by default `first_bytes`.
    Raises:
        BadParameter: sizes or growth out of range.
    """

    first_bytes: int
    growth: tuple[int, int] = (1, 1)
    max_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.max_bytes:
            object.__setattr__(self, "max_bytes", self.first_bytes)
        if not 1 <= self.first_bytes <= self.max_bytes <= MAX_WINDOW_BYTES:
            raise BadParameter(
                f"windows of {self.first_bytes} to {self.max_bytes} bytes, expected 1 <= first <= max < 2^31"
            )
        if not 1 <= self.growth[1] <= self.growth[0]:
            raise BadParameter(f"growth {self.growth[0]}/{self.growth[1]}, expected at least 1/1")

    def after(self, size: int) -> int:
        """Return the size of the window that follows one of `size` bytes."""
        return min(self.max_bytes, size * self.growth[0] // self.growth[1])


class SizedWindowsW(ExtWrite):
    """Writes content in windows whose sizes `WindowSizes` gives. Ends: PADDED.

    With sizes written the reader takes any size from 1 to its maximum, so a writer may follow another plan.
    Content passes uncopied, except for the first bytes of a window whose size is written: size and content
    must reach the stream together.

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
        self._sizes = sizes
        self._size_written = size_written
        self._padding = Padding.of(padding)
        self._next_bytes = sizes.first_bytes
        self._left = 0
        self._is_first = True

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
            self._owed.owe(_SIZE.pack(size) + view)
            self._owed.push(w)
            count = len(view)
        else:
            count = write_some(w, view[:size])
        # Only now is the window begun: a refusal above has left it the next one.
        self._next_bytes = self._sizes.after(size)
        self._is_first = False
        self._left = size - count
        return count

    def _finish(self) -> None:
        if self._is_first:
            self._is_first = False
            self._left = self._next_bytes
            if self._size_written:
                self._owed.owe(_SIZE.pack(self._left))

    def _push_end(self, w: ByteWriter) -> None:
        self._owed.settle(w)
        while self._left:
            # In pieces: a window may be larger than what should lie in memory.
            count = min(self._left, _PADDING_BYTES)
            self._owed.owe(self._padding.make(count))
            self._left -= count
            self._owed.settle(w)


class SizedWindowsR(ExtRead):
    """Reads what `SizedWindowsW` wrote. Ends: PADDED, so read as many bytes as the message is known to have,
    then `read_end`.

    Args:
        sizes: as given to the writer; with `size_written` only its `max_bytes` counts, as a limit.
        size_written: each window is preceded by its size.
        padding: as given to the writer. ZERO is checked: other bytes are `Malformed`.
    """

    ends = Ending.PADDED

    def __init__(
        self, sizes: WindowSizes, *, size_written: bool = False, padding: Padding | str = Padding.RANDOM
    ) -> None:
        super().__init__()
        self._sizes = sizes
        self._size_written = size_written
        self._zero_padded = Padding.of(padding) is Padding.ZERO
        self._head = memoryview(bytearray(_SIZE.size))
        self._incoming = Take()
        self._clear()

    def _clear(self) -> None:
        self._next_bytes = self._sizes.first_bytes
        self._left = 0
        self._is_first = True
        self._incoming.begin(self._head)

    def _read(self, r: ByteReader, view: memoryview) -> int:
        if not self._left:
            if not self._size_written:
                return self._read_first_of_window(r, view)
            if not self._open_window(r, may_end=not self._is_first):
                return 0
        count = read_part(r, view, self._left, "a window")
        self._left -= count
        return count

    def _read_first_of_window(self, r: ByteReader, view: memoryview) -> int:
        # A window of implied size exists only once a byte of it has come.
        size = self._next_bytes
        count = read_some(r, view[:size])
        if count == 0:
            if self._is_first:
                raise Truncated("the stream ended before the first window")
            return 0
        self._next_bytes = self._sizes.after(size)
        self._is_first = False
        self._left = size - count
        return count

    def _open_window(self, r: ByteReader, *, may_end: bool) -> bool:
        """Read the size of the next window; False when the stream ended before it."""
        if not self._incoming.fill(r, "a window's size", may_end=may_end):
            return False
        (size,) = _SIZE.unpack(self._head)
        if not 1 <= size <= self._sizes.max_bytes:
            raise Malformed(f"window of {size} bytes, expected 1 to {self._sizes.max_bytes}")
        self._incoming.begin(self._head)
        self._is_first = False
        self._left = size
        return True

    def _skip(self, r: ByteReader) -> None:
        if self._size_written:
            if not self._left and (self._is_first or self._incoming.is_begun):
                self._open_window(r, may_end=False)
        elif self._is_first:
            # An empty message has a window too.
            self._left = self._next_bytes
            self._is_first = False
        while self._left:
            self._left -= skip_some(r, self._left, "window padding", must_be_zero=self._zero_padded)


_HEAD = struct.Struct("!I")
_LAST = 1 << 31


class PaddedWindowsW(ExtWrite):
    """Writes content in windows of one size that name their content. Ends: EXACT.

    Each window but the last holds at least one byte of content, so a reader's work is bounded by the content.
    The length stands before the content, so the writer collects a window: one copy. It holds a full window
    back until more content comes, because the last window is marked. `flush_into` sends what is held as a
    window.

    Args:
        window_bytes: content and padding of each window; 4 more bytes go over the stream.
        padding: what fills a window that is not full.
    """

    ends = Ending.EXACT

    def __init__(self, window_bytes: int, *, padding: Padding | str = Padding.RANDOM) -> None:
        super().__init__()
        check_window(window_bytes)
        self._window_bytes = window_bytes
        self._padding = Padding.of(padding)
        self._window = memoryview(bytearray(_HEAD.size + window_bytes))
        self._held = 0

    def _start(self) -> None:
        self._held = 0

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        if self._held == self._window_bytes:
            self._close_window(0)
            self._owed.settle(w)
        count = min(len(view), self._window_bytes - self._held)
        start = _HEAD.size + self._held
        self._window[start : start + count] = view[:count]
        self._held += count
        return count

    def _flush(self) -> None:
        if self._held:
            self._close_window(0)

    def _finish(self) -> None:
        self._close_window(_LAST)

    def _close_window(self, last: int) -> None:
        held, self._held = self._held, 0
        _HEAD.pack_into(self._window, 0, last | held)
        if held < self._window_bytes:
            self._window[_HEAD.size + held :] = self._padding.make(self._window_bytes - held)
        self._owed.owe(self._window)


class PaddedWindowsR(ExtRead):
    """Reads what `PaddedWindowsW` wrote. Ends: EXACT.

    Args:
        window_bytes: as given to the writer.
        padding: as given to the writer. ZERO is checked: other bytes are `Malformed`.
    """

    ends = Ending.EXACT

    def __init__(self, window_bytes: int, *, padding: Padding | str = Padding.RANDOM) -> None:
        super().__init__()
        check_window(window_bytes)
        self._window_bytes = window_bytes
        self._zero_padded = Padding.of(padding) is Padding.ZERO
        self._head = memoryview(bytearray(_HEAD.size))
        self._incoming = Take()
        self._clear()

    def _clear(self) -> None:
        self._content_left = 0
        self._padding_left = 0
        self._is_last = False
        self._incoming.begin(self._head)

    def _read(self, r: ByteReader, view: memoryview) -> int:
        if not self._content_left:
            if self._is_last:
                return 0
            self._open_window(r)
            if not self._content_left:
                return 0
        count = read_part(r, view, self._content_left, "window content")
        self._content_left -= count
        return count

    def _skip(self, r: ByteReader) -> None:
        while True:
            while self._content_left:
                self._content_left -= skip_some(r, self._content_left, "window content")
            if self._is_last:
                break
            self._open_window(r)
        self._skip_padding(r)

    def _skip_padding(self, r: ByteReader) -> None:
        while self._padding_left:
            self._padding_left -= skip_some(
                r, self._padding_left, "window padding", must_be_zero=self._zero_padded
            )

    def _open_window(self, r: ByteReader) -> None:
        """Pass the padding of the window before and read the next head. No content is left when this is
        called.
        """
        self._skip_padding(r)
        self._incoming.fill(r, "a window's head")
        (head,) = _HEAD.unpack(self._head)
        length = head & ~_LAST
        if length > self._window_bytes:
            raise Malformed(f"{length} bytes of content in a window, at most {self._window_bytes}")
        if not head & _LAST and not length:
            raise Malformed("a window without content that is not the last")
        self._incoming.begin(self._head)
        self._is_last = bool(head & _LAST)
        self._content_left = length
        self._padding_left = self._window_bytes - length


_MORE = 0
_END = 1
_MARK_BYTES = 1


class EndStreamW(ExtWrite):
    """Writes content in windows with a mark after each, for content of unknown length. Ends: MARKED.

    Padding is not marked: a reader that does not know the length reads it too, so a copy into another
    `EndStream` keeps the size. A full window leaves immediately; its mark waits for more content and goes out
    in front of it. `flush_into` sends the content that is held; the window stays open.

    Args:
        window_bytes: content of each window; 1 more byte goes over the stream.
        padding: what fills the last window.
    """

    ends = Ending.MARKED

    def __init__(self, window_bytes: int, *, padding: Padding | str = Padding.RANDOM) -> None:
        super().__init__()
        check_window(window_bytes)
        self._padding = Padding.of(padding)
        # The mark of the window before (always "another follows") and this window.
        self._unit = memoryview(bytearray(_MARK_BYTES + window_bytes))
        self._held = _MARK_BYTES
        self._sent = _MARK_BYTES

    def _start(self) -> None:
        # No mark precedes the first window.
        self._held = self._sent = _MARK_BYTES

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        if self._held == len(self._unit):
            self._held, self._sent = _MARK_BYTES, 0
        count = min(len(view), len(self._unit) - self._held)
        self._unit[self._held : self._held + count] = view[:count]
        self._held += count
        if self._held == len(self._unit):
            self._flush()
            self._owed.push(w)
        return count

    def _flush(self) -> None:
        self._owed.owe(self._unit[self._sent : self._held])
        self._sent = self._held

    def _finish(self) -> None:
        if self._held < len(self._unit):
            self._unit[self._held :] = self._padding.make(len(self._unit) - self._held)
        self._owed.owe(self._unit[self._sent :])
        self._owed.owe(bytes([_END]))


class EndStreamR(ExtRead):
    """Reads what `EndStreamW` wrote. Ends: MARKED. `read_end` passes what is left of the content, and the
    padding, whatever they hold.

    Args:
        window_bytes: as given to the writer.
    """

    ends = Ending.MARKED

    def __init__(self, window_bytes: int) -> None:
        super().__init__()
        check_window(window_bytes)
        self._window_bytes = window_bytes
        self._mark = memoryview(bytearray(_MARK_BYTES))
        self._incoming = Take()
        self._clear()

    def _clear(self) -> None:
        self._left = self._window_bytes
        self._has_ended = False
        self._incoming.begin(self._mark)

    def _read(self, r: ByteReader, view: memoryview) -> int:
        if not self._left and not self._open_window(r):
            return 0
        count = read_part(r, view, self._left, "a window")
        self._left -= count
        return count

    def _skip(self, r: ByteReader) -> None:
        while self._left or self._open_window(r):
            self._left -= skip_some(r, self._left, "a window")

    def _open_window(self, r: ByteReader) -> bool:
        """Read the mark after a window that was read to its end; False when it was the last."""
        if self._has_ended:
            return False
        self._incoming.fill(r, "the mark of a window")
        self._incoming.begin(self._mark)
        mark = self._mark[0]
        if mark not in (_MORE, _END):
            raise Malformed(f"a window's mark is {mark}, expected {_MORE} or {_END}")
        if mark == _END:
            self._has_ended = True
            return False
        self._left = self._window_bytes
        return True


# `EscapeTerm`: content of any length with a terminator after it; nothing is buffered and nothing padded.
#
# Format: content, in which each escape byte E is doubled, then E ‖ T, with T the complement of E (so no
# single flipped bit turns content into an end). Any other byte after E is `Malformed`. Reading ends by
# itself (`Ending.EXACT`).
#
# The price of an end that can be anywhere: only the two bytes of the terminator are sure to follow. A
# reader must not read ahead, so it takes at most two bytes in one call of the stream, which is a hundred
# times slower than any other layer. A stream with `peek`, as `io.BufferedReader` has it (and a socket with
# MSG_PEEK can), shows what comes; it is read up to the terminator or to the end of what it shows. Where
# there is none, use `PaddedWindows` instead.
# The most content that one call takes; if it holds escape bytes, at most twice as much is owed.
_MOST_BYTES = 16 * 1024
_TERMINATOR_BYTES = 2


def _check_escape(escape: int) -> None:
    if not 0 <= escape <= 255:
        raise BadParameter(f"escape byte {escape}, expected 0 to 255")


class EscapeTermW(ExtWrite):
    """Writes content with its escape bytes doubled, and a terminator. Ends: EXACT.

    Args:
        escape: the escape byte, 0 to 255; best one that is rare in the content.
    """

    ends = Ending.EXACT

    def __init__(self, escape: int = 0) -> None:
        super().__init__()
        _check_escape(escape)
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
        _check_escape(escape)
        self._escape = bytes([escape])
        # Content, up to an escape byte that is not doubled, or not yet. Possessive: nothing to remember.
        self._content = re.compile(b"(?:[^\\x%02x]++|\\x%02x{2})*+" % (escape, escape))
        self._incoming = memoryview(bytearray(_TERMINATOR_BYTES))
        self._clear()

    def _clear(self) -> None:
        self._is_escaped = False
        self._has_ended = False

    def _read(self, r: ByteReader, view: memoryview) -> int:
        # One call of the stream for each turn, and no turn after content has come: whatever the stream
        # raises, nothing is lost.
        while not self._has_ended:
            sure = self._content_ahead(r, len(view))
            done = self._read_content(r, view[:sure]) if sure else self._read_pair(r, view)
            if done:
                return done
        return 0

    def _content_ahead(self, r: ByteReader, most: int) -> int:
        """Return how many of the next bytes, at most `most`, are sure to belong to content; 0 if that cannot
        be seen.
        """
        peek = getattr(r, "peek", None)
        if peek is None or self._is_escaped:
            return 0
        found = self._content.match(peek(most), 0, most)
        return found.end() if found else 0

    def _read_content(self, r: ByteReader, view: memoryview) -> int:
        """Read what `_content_ahead` has seen into `view` and undo the doubling there."""
        count = read_some(r, view)
        if count == 0:
            raise Truncated("the stream ended before bytes that it has shown")
        # Between the two of each pair lies an empty part. Where the stream has stopped inside the last pair,
        # there is an even number of parts, and the last one is empty.
        parts = bytes(view[:count]).split(self._escape)
        if len(parts) == 1:
            return count
        self._is_escaped = len(parts) % 2 == 0
        content = self._escape.join(parts[::2])
        view[: len(content)] = content
        return len(content)

    def _read_pair(self, r: ByteReader, view: memoryview) -> int:
        """Read as many bytes as are sure to come, two at most, and take from them what is content."""
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
