"""`EndStream`: windows of one size, each followed by a byte that says whether it is the last; for content of
unknown length.

Format: (window ‖ mark)*, window = `window_bytes` of content, the last one padded; mark = 0 (another window
follows) or 1 (the end). There is at least one window, so an empty message looks like a short one. Nothing
marks where content ends and padding begins, so a reader that does not know the length reads the padding too,
and then 0 (`Ending.MARKED`): what is copied so into another `EndStream` keeps its size. `PaddedWindows` says
how much is content.

The writer collects a window and sends it as soon as it is full. Its mark is held back until more content
comes, and goes out in front of it: promised alone, it would oblige a writer that gives up after a refusal to
send a window for nothing.
"""

from __future__ import annotations

from .base import Ending, ExtRead, ExtWrite
from .errors import Malformed
from .helpers import ByteReader, ByteWriter, Take, read_part, skip_some
from .padding import Padding, check_window

__all__ = ["EndStreamR", "EndStreamW"]

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
