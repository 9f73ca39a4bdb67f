"""`PaddedWindows`: windows of one size on the wire that say how much of each is content.

Format: window*, window = head u32 big-endian (last << 31 | content length) ‖ content ‖ padding; content and
padding together are always `window_bytes`. The window with the `last` bit ends the message (`Ending.EXACT`);
it may be empty. Any other holds at least one byte of content, so that a reader's work is bounded by the
content.

A window is announced with its length, so the writer collects it first: one copy. One full window is held back
until more content comes, as the last one has to say so.
"""

from __future__ import annotations

import struct

from .base import Ending, ExtRead, ExtWrite
from .errors import Malformed
from .helpers import ByteReader, ByteWriter, Take, read_part, skip_some
from .padding import Padding, check_window

__all__ = ["PaddedWindowsR", "PaddedWindowsW"]

_HEAD = struct.Struct("!I")
_LAST = 1 << 31


class PaddedWindowsW(ExtWrite):
    """Writes content in windows of one size. Ends: EXACT. `flush_into` sends what is held as a window of its
    own.

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
