"""Whole frames as one layer: header, and the message through one wide-block layer per proxy."""

from __future__ import annotations

from collections.abc import Sequence

from readwrite_comp import (
    ByteReader,
    ByteWriter,
    CompExtR,
    CompExtW,
    Ending,
    ExtRead,
    ExtWrite,
    MultiRExt,
    MultiWExt,
    WideBlockR,
    WideBlockW,
)
from tunnel.onion.message import MessageR
from tunnel.onion.message_head import MessageHead

__all__ = ["FrameR", "FrameW"]


class FrameW(ExtWrite):
    """Writes one frame: `write_header` the onion header and the reply blocks, then content, then end and
    padding.

    Args:
        header: 128·N bytes, written as it is.
        layers: one for each proxy, the first proxy's first; none for Bob's replies.
        message: the end-to-end layer: `MessageW`, or another that writes whole chunks.
    """

    ends = Ending.EXACT

    def __init__(self, header: bytes, layers: Sequence[WideBlockW], message: ExtWrite) -> None:
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


class FrameR(ExtRead):
    """Reads the chunks of a reply: takes the proxies' layers off, then reads the message.

    Args:
        layers: in the order in which they come off.
        message: the end-to-end layer.
    Raises (all sticky): those of `MessageR`.
    """

    ends = Ending.EXACT

    def __init__(self, layers: Sequence[WideBlockR], message: MessageR) -> None:
        super().__init__()
        self._message = message
        self._inner: ExtRead = CompExtR(MultiRExt(list(layers)), message) if layers else message

    @property
    def head(self) -> MessageHead:
        """Of the message whose header was read last."""
        return self._message.head

    def reset(self) -> None:
        super().reset()
        self._inner.reset()

    def _read_header(self, r: ByteReader) -> None:
        self._inner.read_header(r)

    def _read(self, r: ByteReader, view: memoryview) -> int:
        return self._inner.read_into(r, view)

    def _skip(self, r: ByteReader) -> None:
        self._inner.read_end(r)
