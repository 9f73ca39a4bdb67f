"""`CompW` / `CompR`: a layer and a stream together as a file-like object (`io.RawIOBase`) and context
manager. `FileW` / `FileR` put the standard library's buffers on top, for code that knows no layers.

The header is written or read on first use, the end on `close()`. The stream below is never closed.
`BlockingIOError` passes through: repeat the call, `close()` included. `suspend()` releases the stream in the
middle of a message, and `resume()` continues on the same stream or another one.

A `with` block that is left by an exception abandons the message: the other side sees a truncated message, not
a short one that looks complete.
"""

from __future__ import annotations

import io
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from readwrite_comp.base import ExtRead, ExtWrite, Phase, check_layer
from readwrite_comp.errors import InUse, PhaseError
from readwrite_comp.helpers import ByteReader, ByteWriter, byte_view, check_number, writable_view

if TYPE_CHECKING:
    from typing import Self

__all__ = ["CompR", "CompW", "FileR", "FileW"]

Stream = TypeVar("Stream", ByteReader, ByteWriter)


class _Comp(io.RawIOBase, Generic[Stream]):
    """The common part of both directions. The layer must be NEW at construction and at the first use."""

    _stream: Stream | None
    _ext: ExtRead | ExtWrite
    _is_abandoned = False
    _has_begun = False
    _has_header = False

    # The method that the stream below must have.
    _method = ""

    def __init__(self, stream: Stream, ext: ExtRead | ExtWrite) -> None:
        super().__init__()
        self._check_stream(stream)
        if ext.phase is not Phase.NEW:
            raise InUse(f"the layer is in phase {ext.phase.name}, expected NEW")
        self._stream = stream

    def _check_stream(self, stream: Stream) -> None:
        """Raises TypeError: not a stream of bytes in the right direction."""
        if isinstance(stream, io.TextIOBase):
            raise TypeError("stream: expected a stream of bytes, got a text file: open it in binary mode")
        if isinstance(stream, type) or not callable(getattr(stream, self._method, None)):
            kind = f"the class {stream.__name__}" if isinstance(stream, type) else type(stream).__name__
            raise TypeError(f"stream: expected an object with {self._method}(), got {kind}")

    def _header(self, stream: Stream) -> None:
        """Hook: write or read the header."""
        raise NotImplementedError

    def _open(self) -> Stream:
        """Return the stream, after the header."""
        if self.closed:
            raise ValueError(f"I/O operation on a closed {type(self).__name__}")
        stream = self._attached()
        if not self._has_header:
            if not self._has_begun and self._ext.phase is not Phase.NEW:
                raise InUse(f"another user of the layer has begun a message, phase {self._ext.phase.name}")
            self._has_begun = True
            self._header(stream)
            self._has_header = True
        return stream

    def _attached(self) -> Stream:
        if self._stream is None:
            raise PhaseError("suspended; resume(stream) first")
        return self._stream

    def suspend(self) -> Stream:
        """Release the stream, in the middle of the message or before it. Nothing was read ahead.

        Returns:
            The stream; it may be used or lent until `resume`.
        Raises:
            PhaseError: suspended already.
        """
        stream = self._attached()
        self._stream = None
        return stream

    def resume(self, stream: Stream) -> None:
        """Continue on `stream`, the same one or another.

        Raises:
            PhaseError: not suspended.
            TypeError: not a stream of bytes in the right direction.
        """
        if self._stream is not None:
            raise PhaseError("not suspended: resume() would drop a stream")
        self._check_stream(stream)
        self._stream = stream

    def abandon(self) -> None:
        """Close without writing or reading the end of the message. `reset()` the layer to use it again."""
        self._is_abandoned = True
        self.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abandon()
            return
        try:
            self.close()
        except BlockingIOError:
            raise
        except BaseException:
            # Nothing closes it again after the block has failed.
            self.abandon()
            raise

    def __enter__(self) -> Self:
        return super().__enter__()

    def __del__(self) -> None:
        # The base class would close here and write from the garbage collector, at any time, in any thread.
        # (`_ext` is missing if __init__ refused its arguments.)
        ext = getattr(self, "_ext", None)
        is_under_way = ext is not None and self._has_begun and ext.phase not in (Phase.NEW, Phase.FAILED)
        if is_under_way and not self.closed:
            warnings.warn(
                f"{type(self).__name__} dropped in the middle of a message", ResourceWarning, stacklevel=2
            )


class CompW(_Comp[ByteWriter]):
    """Writes to `stream` through `ext`.

    Args:
        stream: anything with `write`; stays open.
        ext: a layer or stack in phase NEW; after `close()` it is NEW again.
    Raises:
        InUse: `ext` is in the middle of a message.
        TypeError: `ext` is not a layer, or `stream` not a stream of bytes, of this direction.
    """

    _method = "write"

    def __init__(self, stream: ByteWriter, ext: ExtWrite) -> None:
        check_layer(ext, ExtWrite, "ext")
        super().__init__(stream, ext)
        self._ext: ExtWrite = ext
        self._has_end = False

    def writable(self) -> bool:
        """Return True: part of the `io` interface."""
        return True

    def write(self, data: Any, /) -> int:
        """Take some of `data`: see `ExtWrite.write_into`. The first call writes the header.

        Raises:
            BlockingIOError: no byte of `data` was taken.
            ValueError: closed. TypeError: not a contiguous buffer.
        """
        view = byte_view(data)  # before the header: a refused call changes nothing
        return self._ext.write_into(self._open(), view)

    def writelines(self, lines: Any, /) -> None:
        """Refused: `io` ignores how much each `write` took and would lose the rest.

        Raises:
            io.UnsupportedOperation: always; use `FileW`.
        """
        raise io.UnsupportedOperation("writelines: a CompW may take a part of each line; use FileW")

    def flush(self) -> None:
        """Write the content that the layer holds back, if its format allows."""
        super().flush()
        # The base class also calls this when it closes; the layer may then be in another user's message.
        is_mine = self._has_header and not self._has_end and not self._is_abandoned
        if is_mine and self._ext.phase is Phase.CONTENT:
            self._ext.flush_into(self._attached())

    def suspend(self) -> ByteWriter:
        """Write the owed output and release the stream, in the middle of the message or before it. Content
        that the layer holds back stays there; `flush()` first if the reader needs it.

        Returns:
            The stream; it may be used or lent until `resume`.
        Raises:
            BlockingIOError: the stream has not taken all owed bytes; not suspended, call again.
            PhaseError: suspended already.
        """
        stream = self._attached()
        # Before the first use the layer may be in another user's message.
        if self._has_begun and not self._is_abandoned:
            self._ext.settle_into(stream)
        return super().suspend()

    def close(self) -> None:
        """End the message (an empty one if nothing was written).

        Raises:
            BlockingIOError: not closed yet; call again.
            PhaseError: suspended.
        On error: still open; close again or abandon the message.
        """
        if self.closed:
            return
        if not self._is_abandoned and not self._has_end:
            self._ext.write_end(self._open())
            self._has_end = True
        super().close()

    def _header(self, stream: ByteWriter) -> None:
        self._ext.write_header(stream)


class CompR(_Comp[ByteReader]):
    """Reads from `stream` through `ext`.

    Args:
        stream: anything with `readinto`; stays open.
        ext: a layer or stack in phase NEW; after `close()` it is NEW again.
    Raises:
        InUse: `ext` is in the middle of a message.
        TypeError: `ext` is not a layer, or `stream` not a stream of bytes, of this direction.
    """

    _method = "readinto"

    def __init__(self, stream: ByteReader, ext: ExtRead) -> None:
        check_layer(ext, ExtRead, "ext")
        super().__init__(stream, ext)
        self._ext: ExtRead = ext

    def readable(self) -> bool:
        """Return True: part of the `io` interface."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read some content: see `ExtRead.read_into`. The first call reads the header.

        Raises:
            BlockingIOError: nothing can be read now.
            RemoteLayerError: the bytes are not of the layer's format.
            ValueError: closed. TypeError: not a contiguous buffer. BadParameter: it is read-only.
        """
        view = writable_view(buffer)
        return self._ext.read_into(self._open(), view)

    def readall(self) -> bytes:
        """Read content up to its end or up to a refusal: repeat until it returns b"".

        Raises:
            BlockingIOError: nothing can be read now. Content that came before a refusal is returned.
            RemoteLayerError: the bytes are not of the layer's format.
            ValueError: closed.
        """
        content, buffer = bytearray(), memoryview(bytearray(io.DEFAULT_BUFFER_SIZE))
        try:
            while count := self.readinto(buffer):
                content += buffer[:count]
        except BlockingIOError:
            if not content:
                raise
        return bytes(content)

    def close(self) -> None:
        """Read to the end of the message, so that the next read of the stream gets what follows.

        Raises:
            BlockingIOError: not closed yet; call again.
            PhaseError: suspended; still open.
            RemoteLayerError: the rest of the message is not of the layer's format; closed nevertheless. Not
                raised again if the layer has failed before.
        """
        if self.closed:
            return
        if not self._is_abandoned and self._ext.phase is not Phase.FAILED:
            self._attached()
            try:
                self._ext.read_end(self._open())
            except BlockingIOError:
                raise
            except Exception:
                super().close()
                raise
        super().close()

    def _header(self, stream: ByteReader) -> None:
        self._ext.read_header(stream)


# Ordinary binary files, for `shutil.copyfileobj`, `tarfile` (modes "w|" and "r|"), `gzip`, and
# `io.TextIOWrapper` for `json`. Over *blocking* streams only: a buffer in front of a stream that refuses
# cannot be closed twice.
#
# `CompW.write` may take a part of its data. Such code ignores the count and would lose the rest, so the
# standard library's buffers stand on top. They read ahead in the *content* only: after `close()` the next
# read of the stream gets what follows the message.
#
# Left alone, the buffers would also end the message when an exception leaves the `with` block, or from the
# garbage collector, and the other side would take half a message for a whole one. `_File` abandons it.
_BUFFER_BYTES = 64 * 1024
_MAX_BUFFER_BYTES = 2**31 - 1


class _File:
    """The common part of both directions: the message is abandoned unless it is closed."""

    _comp: CompW | CompR

    def abandon(self) -> None:
        """Close without reading the rest, or without writing the buffer and the end: the other side then sees
        a truncated message. `reset()` the layer to use it again.
        """
        self._comp.abandon()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abandon()
            return
        try:
            self.close()  # type: ignore[attr-defined]
        except BaseException:
            self.abandon()
            raise

    def __del__(self) -> None:
        # `_comp` is missing if __init__ refused its arguments.
        comp = getattr(self, "_comp", None)
        if comp is not None and not comp.closed:
            self.abandon()
            warnings.warn(
                f"{type(self).__name__} dropped without close(); its message is abandoned", ResourceWarning, 2
            )


class FileW(_File, io.BufferedWriter):
    """A binary file whose content goes through `ext` to `stream`.

    Args:
        stream: anything with a blocking `write`; stays open.
        ext: a layer or stack in phase NEW; after `close()` it is NEW again.
        buffer_bytes: content is collected up to this length.
    Raises:
        InUse: `ext` is in the middle of a message.
        TypeError: as `CompW`. BadParameter: `buffer_bytes` is less than 1.
    On error: a failed `write()`, `flush()` or `close()` does not end the message: the other side sees it
        truncated.
    """

    def __init__(self, stream: ByteWriter, ext: ExtWrite, *, buffer_bytes: int = _BUFFER_BYTES) -> None:
        comp = CompW(stream, ext)
        check_number(buffer_bytes, "buffer_bytes", 1, _MAX_BUFFER_BYTES)
        super().__init__(comp, buffer_bytes)
        self._comp: CompW = comp

    def flush(self) -> None:
        """Write the buffer, and the content that the layer holds back, if its format allows.

        A limiter then closes a window early. Closing does not do that, but `io.TextIOWrapper` flushes before
        it closes.
        """
        super().flush()
        self._comp.flush()

    def close(self) -> None:
        """End the message.

        Raises:
            OSError: whatever the stream raises.
        On error: still open, and the message is not ended. Close again or `abandon()`.
        """
        if not self.closed:
            # In two steps: the base class would end the message even if its buffer could not be written, and
            # a message without its last content would look complete.
            super().flush()
            self._comp.close()
        super().close()


class FileR(_File, io.BufferedReader):
    """A binary file whose content comes through `ext` from `stream`. `close()` reads to the end of the
    message, and raises what reading has not.

    Args:
        stream: anything with a blocking `readinto`; stays open.
        ext: a layer or stack in phase NEW; after `close()` it is NEW again.
        buffer_bytes: how much content is read ahead.
    Raises:
        InUse: `ext` is in the middle of a message.
        TypeError: as `CompR`. BadParameter: `buffer_bytes` is less than 1.
    """

    def __init__(self, stream: ByteReader, ext: ExtRead, *, buffer_bytes: int = _BUFFER_BYTES) -> None:
        comp = CompR(stream, ext)
        check_number(buffer_bytes, "buffer_bytes", 1, _MAX_BUFFER_BYTES)
        super().__init__(comp, buffer_bytes)
        self._comp: CompR = comp
