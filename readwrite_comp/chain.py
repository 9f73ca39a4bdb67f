"""`ChainExtRead`: two messages that follow each other on one stream, read as one.

For content that somebody wrote in two parts, each through layers of its own: the first message's content,
past its end, then the second's. Either reader may be *initialised already*, its header read by somebody else
(from this stream or from another place); the chain then begins with its content.
"""

from __future__ import annotations

from .base import Ending, ExtRead, check_layer
from .errors import BadParameter, InUse
from .helpers import ByteReader
from .phases import Phase

__all__ = ["ChainExtRead"]

# Endings by which reading returns 0 while the stream below goes on.
_ENDS_BY_ITSELF = (Ending.EXACT, Ending.MARKED)


class ChainExtRead(ExtRead):
    """Reads the content of one message through `first`, then that of the next through `second`. Ends: as
    `second`.

    The chain is NEW again after its end; both readers then read their headers, also one that was initialised
    at first. `reset()` resets both.

    Args:
        first: must end by itself (EXACT, or MARKED: its padding is then read as content).
        second: any layer or stack.
    Raises:
        BadParameter: `first` does not end by itself, so there would be no second.
        InUse: one object given twice, or a reader that is neither NEW nor initialised (between header and
            end).
        TypeError: one of them is no layer that reads.
    """

    def __init__(self, first: ExtRead, second: ExtRead) -> None:
        super().__init__()
        check_layer(first, ExtRead, "the first reader")
        check_layer(second, ExtRead, "the second reader")
        if first.ends not in _ENDS_BY_ITSELF:
            raise BadParameter(
                f"the first reader ends {first.ends.name}, expected one that ends by itself: EXACT or MARKED"
            )
        if first is second:
            raise InUse("one reader given twice; each part needs an object of its own")
        for reader in (first, second):
            if reader.phase not in (Phase.NEW, Phase.CONTENT):
                raise InUse(f"the reader is in phase {reader.phase.name}, expected NEW or CONTENT")
        self.ends = second.ends
        self._first = first
        self._second = second
        self._is_first_over = False

    @property
    def at_hand(self) -> int:
        return (self._second if self._is_first_over else self._first).at_hand

    def _start(self) -> None:
        self._is_first_over = False

    def _read_header(self, r: ByteReader) -> None:
        if self._first.phase is not Phase.CONTENT:
            self._first.read_header(r)

    def _read(self, r: ByteReader, view: memoryview) -> int:
        if not self._is_first_over:
            # After a refusal in the end of the first message it is in phase END, and only that goes on.
            if self._first.phase is Phase.CONTENT:
                count = self._first.read_into(r, view)
                if count:
                    return count
            self._pass_border(r)
        self._open_second(r)
        return self._second.read_into(r, view)

    def _skip(self, r: ByteReader) -> None:
        if not self._is_first_over:
            self._pass_border(r)
        if self._second.phase is not Phase.END:
            self._open_second(r)
        self._second.read_end(r)

    def _pass_border(self, r: ByteReader) -> None:
        self._first.read_end(r)
        self._is_first_over = True

    def _open_second(self, r: ByteReader) -> None:
        if self._second.phase is not Phase.CONTENT:
            self._second.read_header(r)

    def reset(self) -> None:
        super().reset()
        self._first.reset()
        self._second.reset()
