"""`EscapeTerm`: content of any length with a terminator after it; nothing is buffered and nothing padded.

Format: content, in which each escape byte E is doubled, then E ‖ T, with T the complement of E (so no single
flipped bit turns content into an end). Any other byte after E is `Malformed`. Reading ends by itself
(`Ending.EXACT`).

The price of an end that can be anywhere: only the two bytes of the terminator are sure to follow. A reader
must not read ahead, so it takes at most two bytes in one call of the stream, which is a hundred times slower
than any other layer. A stream with `peek`, as `io.BufferedReader` has it (and a socket with MSG_PEEK can),
shows what comes; it is read up to the terminator or to the end of what it shows. Where there is none, use
`PaddedWindows` instead.
"""

from __future__ import annotations

import re

from .base import Ending, ExtRead, ExtWrite
from .errors import BadParameter, Malformed, Truncated
from .helpers import ByteReader, ByteWriter, Take, read_part, read_some, skip_some, write_some
from .windows import Padding, check_window

__all__ = ["EndStreamR", "EndStreamW", "EscapeTermR", "EscapeTermW"]


# `EndStream`: windows of one size, each followed by a byte that says whether it is the last; for content of
# unknown length.
#
# Format: (window ‖ mark)*, window = `window_bytes` of content, the last one padded; mark = 0 (another
# window follows) or 1 (the end). There is at least one window, so an empty message looks like a short one.
# Nothing marks where content ends and padding begins, so a reader that does not know the length reads the
# padding too, and then 0 (`Ending.MARKED`): what is copied so into another `EndStream` keeps its size.
# `PaddedWindows` says how much is content.
#
# The writer collects a window and sends it as soon as it is full. Its mark is held back until more content
# comes, and goes out in front of it: promised alone, it would oblige a writer that gives up after a refusal
# to send a window for nothing.
_MORE = 0
_END = 1
_MARK_BYTES = 1


class EndStreamW(ExtWrite):
    """Writes content in windows with a mark after each. Ends: MARKED. `flush_into` sends the content that is
    held; the window stays open.

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
