"""Whole pieces of content through a layer: write all, read exactly, read to the end.

The layer's own calls may handle less than asked; these go on until all is done. Over a stream that refuses
they are as restartable as a layer: `BlockingIOError` tells in `characters_written` (as in `io`) how many
bytes of content this call has handled, and the next call goes on with the rest. `read_to_end` keeps what it
has in the caller's `bytearray`, so it is simply called again.
"""

from __future__ import annotations

from .base import ExtRead, ExtWrite
from .errors import LimitExceeded, Truncated
from .helpers import ByteReader, ByteWriter, byte_view, writable_view

__all__ = ["read_exact_from", "read_to_end", "write_all_into"]

# The buffer of `read_to_end`.
_PIECE_BYTES = 64 * 1024


def _refused_after(done: int, error: BlockingIOError) -> BlockingIOError:
    return BlockingIOError(error.errno, error.strerror or "not now", done)


def write_all_into(ext: ExtWrite, w: ByteWriter, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` as content.

    Args:
        ext: between header and end.
        w: the stream below.
        data: content, the bytes of any contiguous buffer.
    Raises:
        BlockingIOError: its `characters_written` bytes were taken; call again with the others.
        PhaseError: not between header and end.
        TypeError: `data` is no contiguous buffer.
    """
    view = byte_view(data)
    done = 0
    while done < len(view):
        try:
            done += ext.write_into(w, view[done:])
        except BlockingIOError as error:
            raise _refused_after(done, error) from None


def read_exact_from(ext: ExtRead, r: ByteReader, buffer: bytearray | memoryview) -> None:
    """Fill `buffer` with content, and read none beyond.

    Args:
        ext: between header and end.
        r: the stream below.
        buffer: any contiguous one; filled from the front.
    Raises:
        BlockingIOError: its `characters_written` bytes are there; call again with `buffer` from there on.
        BadParameter: it is read-only. TypeError: it is no contiguous buffer.
        Truncated: the content ended before. Not sticky: the layer stands at the end of its content.
        RemoteLayerError: the bytes are not of the layer's format; sticky.
        PhaseError: not between header and end.
    """
    view = writable_view(buffer)
    done = 0
    while done < len(view):
        try:
            count = ext.read_into(r, view[done:])
        except BlockingIOError as error:
            raise _refused_after(done, error) from None
        if count == 0:
            raise Truncated(f"the content ended after {done} of {len(view)} bytes")
        done += count


def read_to_end(ext: ExtRead, r: ByteReader, content: bytearray, *, limit_bytes: int) -> None:
    """Append all content up to its end to `content`; `read_end` is still to be called.

    Args:
        ext: between header and end. If it is PADDED or MARKED, padding is part of what is read.
        r: the stream below.
        content: what has been read so far, by this call or earlier ones.
        limit_bytes: how long `content` may become.
    Raises:
        BlockingIOError: call again with the same `content`.
        LimitExceeded: there is more. `content` is one byte longer than the limit; nothing is lost, so a call
            with a higher limit goes on.
        RemoteLayerError: the bytes are not of the layer's format; sticky. `content` holds what came before.
        PhaseError: not between header and end.
        TypeError: `content` is no bytearray.
    """
    if not isinstance(content, bytearray):
        raise TypeError(f"content: expected a bytearray, which grows, got {type(content).__name__}")
    buffer = memoryview(bytearray(min(_PIECE_BYTES, max(0, limit_bytes - len(content)) + 1)))
    while True:
        # One byte more than there is room for: only so can content of exactly the limit be told from more.
        room = limit_bytes - len(content) + 1
        if room <= 0:
            raise LimitExceeded(f"more than {limit_bytes} bytes of content")
        count = ext.read_into(r, buffer[:room])
        if count == 0:
            return
        content += buffer[:count]
