"""`EscapeTerm`: content of any length with a terminator after it; nothing is buffered and nothing padded.

Format: content, in which each escape byte E is doubled, then E ‖ T, with T the complement of E (so no single
flipped bit turns content into an end). Any other byte after E is `Malformed`. Reading ends by itself
(`Ending.EXACT`).

The price of an end that can be anywhere: only the two bytes of the terminator are sure to follow. A reader
must not read ahead, so it takes at most two bytes in one call of the stream, which is a hundred times slower
than any other layer. A stream with `peek`, as `io.BufferedReader` has it, shows what comes, and is read in
pieces up to the next escape byte. Where there is none, use `PaddedWindows` instead.
"""

from __future__ import annotations

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
        self._escape = escape
        self._end = escape ^ 0xFF
        self._incoming = memoryview(bytearray(_TERMINATOR_BYTES))
        self._scratch = memoryview(bytearray(512))
        self._clear()

    def _clear(self) -> None:
        self._is_escaped = False
        self._has_ended = False
        self._wrong = -1

    def _read(self, r: ByteReader, view: memoryview) -> int:
        done = 0
        while done < len(view) and not self._has_ended:
            if self._wrong >= 0:
                if done:
                    break
                raise Malformed(
                    f"{self._wrong} after the escape byte {self._escape}, expected it again or {self._end}"
                )
            plain = 0 if self._is_escaped else self._plain_ahead(r, len(view) - done)
            if plain:
                done += read_some(r, view[done : done + plain])
                continue
            # Never more than is sure to come and has room: after an escape byte that is one byte.
            most = 1 if self._is_escaped or len(view) - done == 1 else _TERMINATOR_BYTES
            try:
                count = read_some(r, self._incoming[:most])
            except BlockingIOError:
                if not done:
                    raise
                break
            if count == 0:
                if not done:
                    raise Truncated("the stream ended before the terminator")
                break
            for byte in self._incoming[:count]:
                if not self._is_escaped and byte != self._escape:
                    view[done] = byte
                    done += 1
                elif not self._is_escaped:
                    self._is_escaped = True
                elif byte == self._escape:
                    self._is_escaped = False
                    view[done] = byte
                    done += 1
                elif byte == self._end:
                    self._has_ended = True
                else:
                    self._wrong = byte
        return done

    def _plain_ahead(self, r: ByteReader, most: int) -> int:
        """Return how many of the next bytes, at most `most`, are sure to be content; 0 if that cannot be
        seen.
        """
        peek = getattr(r, "peek", None)
        if peek is None:
            return 0
        ahead = peek(most)[:most]
        found: int = ahead.find(self._escape)
        return len(ahead) if found < 0 else found

    def _skip(self, r: ByteReader) -> None:
        while self._read(r, self._scratch):
            pass
