"""A whole frame as one layer: the onion header, then the message through one wide-block layer per proxy."""

from __future__ import annotations

from collections.abc import Sequence

from readwrite_comp import ByteWriter, CompExtW, Ending, ExtWrite, MultiWExt, WideBlockW
from tunnel.onion.message import MessageW

__all__ = ["FrameW"]


class FrameW(ExtWrite):
    """Writes one frame: `write_header` the onion header and the reply blocks, then content, then end and
    padding.

    Args:
        header: 128·N bytes, written as it is.
        layers: one for each proxy, the first proxy's first; none for Bob's replies.
        message: the end-to-end layer.
    """

    ends = Ending.EXACT

    def __init__(self, header: bytes, layers: Sequence[WideBlockW], message: MessageW) -> None:
        super().__init__()
        self._header = header
        self._inner: ExtWrite = CompExtW(MultiWExt(list(layers)), message) if layers else message

    def reset(self) -> None:
        super().reset()
        self._inner.reset()

    def _start(self) -> None:
        self._owed.owe(self._header)

    def _push_header(self, w: ByteWriter) -> None:
        self._owed.settle(w)
        self._inner.write_header(w)

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        return self._inner.write_into(w, view)

    def _push_flush(self, w: ByteWriter) -> None:
        self._inner.flush_into(w)

    def _push_end(self, w: ByteWriter) -> None:
        self._inner.write_end(w)
