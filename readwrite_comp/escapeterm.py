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
from .helpers import ByteReader, ByteWriter, read_some, write_some

__all__ = ["EscapeTermR", "EscapeTermW"]

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
