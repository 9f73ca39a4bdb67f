"""`CompW` / `CompR`: a layer and a stream together as a file-like object (`io.RawIOBase`) and context
manager. `FileW` / `FileR` put the standard library's buffers on top, for code that knows no layers.

The header is written or read on first use, the end on `close()`. The stream below is never closed here: it
does not belong to a layer. `BlockingIOError` passes through as everywhere: make the same call again,
`close()` included.

`suspend()` lets go of the stream in the middle of a message, so that another user can have it, and `resume()`
goes on, on the same stream or another one.

Leaving a `with` block by an exception abandons the message instead of ending it, so that the other side sees
a truncated message and not a short one that looks whole.
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
    """What both directions share. Nothing happens behind the user's back.

    The layer is looked at twice: it must be free when this object is made, and still be when it begins.
    """

    _stream: Stream | None
    _ext: ExtRead | ExtWrite
    _is_abandoned = False
    _has_begun = False
    _has_header = False

    # What the stream below must have.
    _method = ""

    def __init__(self, stream: Stream, ext: ExtRead | ExtWrite) -> None:
        super().__init__()
        self._check_stream(stream)
        if ext.phase is not Phase.NEW:
            raise InUse(f"the layer is in phase {ext.phase.name}, expected NEW")
        self._stream = stream

    def _check_stream(self, stream: Stream) -> None:
        """Raises TypeError: no stream of bytes that goes the right way."""
        if isinstance(stream, io.TextIOBase):
            raise TypeError("stream: expected one of bytes, got a text file: open it in binary mode")
        if isinstance(stream, type) or not callable(getattr(stream, self._method, None)):
            kind = f"the class {stream.__name__}" if isinstance(stream, type) else type(stream).__name__
            raise TypeError(f"stream: expected an object with {self._method}(), got {kind}")

    def _header(self, stream: Stream) -> None:
        """Hook: write or read the header."""
        raise NotImplementedError

    def _open(self) -> Stream:
        """Return the stream, with the header behind it."""
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
        """Let go of the stream, in the middle of the message or before it. It stands where the layer needs
        its next byte: nothing was read ahead.

        Returns:
            The stream; may be used, or lent, until `resume`.
        Raises:
            PhaseError: suspended already.
        """
        stream = self._attached()
        self._stream = None
        return stream

    def resume(self, stream: Stream) -> None:
        """Go on, on `stream`: the same one or another.

        Raises:
            PhaseError: not suspended.
            TypeError: no stream of bytes that goes the right way.
        """
        if self._stream is not None:
            raise PhaseError("not suspended: resume() would drop a stream")
        self._check_stream(stream)
        self._stream = stream

    def abandon(self) -> None:
        """Close without writing or reading the end of the message. The layer stays as it is: `reset()` it to
        use it again.
        """
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
            # Nobody will close it again behind the block that has failed.
            self.abandon()
            raise

    def __enter__(self) -> Self:
        return super().__enter__()

    def __del__(self) -> None:
        # The base class would close here: write to a stream from the garbage collector, at any moment, in any
        # thread. (An attribute may be missing when __init__ refused its arguments.)
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
        TypeError: `ext` is no layer of this direction, or `stream` no such stream of bytes.
    """

    _method = "write"

    def __init__(self, stream: ByteWriter, ext: ExtWrite) -> None:
        check_layer(ext, ExtWrite, "ext")
        super().__init__(stream, ext)
        self._ext: ExtWrite = ext
        self._has_end = False

    def writable(self) -> bool:
        """Say that it can be written to, as `io` asks."""
        return True

    def write(self, data: Any, /) -> int:
        """Take some of `data`: see `ExtWrite.write_into`. The first call writes the header.

        Raises:
            BlockingIOError: no byte of `data` was taken.
            ValueError: closed. TypeError: no contiguous buffer.
        """
        view = byte_view(data)  # before the header is written: a refused call changes nothing
        return self._ext.write_into(self._open(), view)

    def writelines(self, lines: Any, /) -> None:
        """Refused: `io` ignores how much each `write` has taken, and would lose the rest.

        Raises:
            io.UnsupportedOperation: always; `FileW` has it.
        """
        raise io.UnsupportedOperation("writelines: a CompW may take a part of each line; use FileW")

    def flush(self) -> None:
        """Push out what the layer holds back, as far as its format allows."""
        super().flush()
        # The base class calls this when it closes, too: the layer may then be in another user's message.
        is_mine = self._has_header and not self._has_end and not self._is_abandoned
        if is_mine and self._ext.phase is Phase.CONTENT:
            self._ext.flush_into(self._attached())

    def suspend(self) -> ByteWriter:
        """Let go of the stream, in the middle of the message or before it. Output that is owed goes out
        first, so no byte for this stream is left here. Content that the layer holds back stays with it:
        `flush()` before, if a reader shall have it.

        Returns:
            The stream; may be used, or lent, until `resume`.
        Raises:
            BlockingIOError: the stream has not taken all that is owed; not suspended, call again.
            PhaseError: suspended already.
        """
        stream = self._attached()
        # A layer that this object has not begun with belongs to another message.
        if self._has_begun and not self._is_abandoned:
            self._ext.settle_into(stream)
        return super().suspend()

    def close(self) -> None:
        """End the message (an empty one if nothing was written).

        Raises:
            BlockingIOError: not closed yet; call again.
            PhaseError: suspended.
        On error: open still, so that closing can be tried again or the message abandoned.
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
        TypeError: `ext` is no layer of this direction, or `stream` no such stream of bytes.
    """

    _method = "readinto"

    def __init__(self, stream: ByteReader, ext: ExtRead) -> None:
        check_layer(ext, ExtRead, "ext")
        super().__init__(stream, ext)
        self._ext: ExtRead = ext

    def readable(self) -> bool:
        """Say that it can be read from, as `io` asks."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read some content: see `ExtRead.read_into`. The first call reads the header.

        Raises:
            BlockingIOError: nothing can be read now.
            RemoteLayerError: the bytes are not of the layer's format.
            ValueError: closed. TypeError: no contiguous buffer. BadParameter: it is read-only.
        """
        view = writable_view(buffer)
        return self._ext.read_into(self._open(), view)

    def readall(self) -> bytes:
        """Read content up to its end, or up to a refusal: then call again, until it returns b"".

        Raises:
            BlockingIOError: nothing can be read now. What came before a refusal is returned, not lost.
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
        """Read past the end of the message, so that the stream stands at what follows it.

        Raises:
            BlockingIOError: not closed yet; call again.
            PhaseError: suspended; open still.
            RemoteLayerError: the rest of the message is not of the layer's format; closed nevertheless. A
                layer that has failed before has said so then, and closes without a word.
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
# `CompW.write` may take a part of its data, as a raw file may. Such code ignores the count and would lose the
# rest, so the standard library's buffers stand on top. They read ahead in the *content* only: after `close()`
# the stream stands at the end of the message.
#
# The buffers would end the message also when an exception leaves the `with` block, or from the garbage
# collector, and the other side would take half a message for a whole one. Both abandon the message here.
_BUFFER_BYTES = 64 * 1024
_MAX_BUFFER_BYTES = 2**31 - 1


class FileW(io.BufferedWriter):
    """A binary file whose content goes through `ext` to `stream`.

    Args:
        stream: anything with a blocking `write`; stays open.
        ext: a layer or stack in phase NEW; after `close()` it is NEW again.
        buffer_bytes: content is collected up to this length.
    Raises:
        InUse: `ext` is in the middle of a message.
        TypeError: as `CompW`.
    On error: a failed `write()`, `flush()` or `close()` raises, and the message is not ended: what the other
        side has is truncated.
    """

    def __init__(self, stream: ByteWriter, ext: ExtWrite, *, buffer_bytes: int = _BUFFER_BYTES) -> None:
        comp = CompW(stream, ext)
        check_number(buffer_bytes, "buffer_bytes", 1, _MAX_BUFFER_BYTES)
        super().__init__(comp, buffer_bytes)
        self._comp = comp

    def flush(self) -> None:
        """Write what is buffered, and what the layer holds back, as far as its format allows.

        A limiter then closes a window early. Closing does not do that, but `io.TextIOWrapper` flushes before
        it closes.
        """
        super().flush()
        self._comp.flush()

    def close(self) -> None:
        """End the message.

        Raises:
            OSError: whatever the stream raises.
        On error: open still, and the message is not ended. Try again, or `abandon()`.
        """
        if not self.closed:
            # One by one: the base class would end the message also when its buffer could not be written, and
            # a message that lacks its last content would look whole.
            super().flush()
            self._comp.close()
        super().close()

    def abandon(self) -> None:
        """Close without writing what is buffered or the end: the other side sees a truncated message. The
        layer stays as it is: `reset()` it to use it again.
        """
        self._comp.abandon()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abandon()
            return
        try:
            self.close()
        except BaseException:
            self.abandon()
            raise

    def __del__(self) -> None:
        # The base class would end the message here. (No attribute if __init__ refused its arguments.)
        comp = getattr(self, "_comp", None)
        if comp is not None and not comp.closed:
            self.abandon()
            warnings.warn("FileW dropped without close(); its message is truncated", ResourceWarning, 2)


class FileR(io.BufferedReader):
    """A binary file whose content comes through `ext` from `stream`. `close()` reads past the end of the
    message, and raises what reading has not.

    Args:
        stream: anything with a blocking `readinto`; stays open.
        ext: a layer or stack in phase NEW; after `close()` it is NEW again.
        buffer_bytes: how much content is read ahead.
    Raises:
        InUse: `ext` is in the middle of a message.
        TypeError: as `CompR`.
    """

    def __init__(self, stream: ByteReader, ext: ExtRead, *, buffer_bytes: int = _BUFFER_BYTES) -> None:
        comp = CompR(stream, ext)
        check_number(buffer_bytes, "buffer_bytes", 1, _MAX_BUFFER_BYTES)
        super().__init__(comp, buffer_bytes)
        self._comp = comp

    def abandon(self) -> None:
        """Close without reading the rest. The layer stays as it is: `reset()` it to use it again."""
        self._comp.abandon()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def __del__(self) -> None:
        comp = getattr(self, "_comp", None)
        if comp is not None and not comp.closed:
            self.abandon()
            warnings.warn("FileR dropped without close()", ResourceWarning, 2)
