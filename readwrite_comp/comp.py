"""`CompW` / `CompR`: a layer and a stream together as a file-like object (`io.RawIOBase`) and context
manager.

The header is written or read on first use, the end on `close()`. The stream below is never closed here: it
does not belong to a layer. `BlockingIOError` passes through as everywhere: make the same call again,
`close()` included.

Leaving a `with` block by an exception abandons the message instead of ending it, so that the other side sees
a truncated message and not a short one that looks whole.
"""

from __future__ import annotations

import io
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .base import ExtRead, ExtWrite
from .errors import InUse
from .helpers import ByteReader, ByteWriter
from .phases import Phase

if TYPE_CHECKING:
    from typing import Self

__all__ = ["CompR", "CompW"]


class _Comp(io.RawIOBase):
    """What both directions share: nothing happens behind the user's back."""

    _is_abandoned = False

    def abandon(self) -> None:
        """Close without writing or reading the end of the message. The layer stays as it is: `reset()` it to
        use it again.
        """
        self._is_abandoned = True
        self.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def __enter__(self) -> Self:
        return super().__enter__()

    def __del__(self) -> None:
        # The base class would close here: write to a stream from the garbage collector, at any moment, in any
        # thread. (An attribute may be missing when __init__ refused its arguments.)
        ext = getattr(self, "_ext", None)
        if ext is not None and not self.closed and ext.phase not in (Phase.NEW, Phase.FAILED):
            warnings.warn(
                f"{type(self).__name__} dropped in the middle of a message", ResourceWarning, stacklevel=2
            )


class CompW(_Comp):
    """Writes to `stream` through `ext`.

    Args:
        stream: anything with `write`; stays open.
        ext: a layer or stack in phase NEW; after `close()` it is NEW again.
    Raises:
        InUse: `ext` is in the middle of a message.
    """

    def __init__(self, stream: ByteWriter, ext: ExtWrite) -> None:
        super().__init__()
        if ext.phase is not Phase.NEW:
            raise InUse(f"the layer is in phase {ext.phase.name}, expected NEW")
        self._stream = stream
        self._ext = ext
        self._has_header = False
        self._has_end = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """Take some of `data`: see `ExtWrite.write_into`. The first call writes the header.

        Raises:
            BlockingIOError: no byte of `data` was taken.
            ValueError: closed.
        """
        self._open()
        return self._ext.write_into(self._stream, data)

    def flush(self) -> None:
        """Push out what the layer holds back, as far as its format allows."""
        super().flush()
        if self._ext.phase is Phase.CONTENT and not self._is_abandoned:
            self._ext.flush_into(self._stream)

    def close(self) -> None:
        """End the message (an empty one if nothing was written).

        Raises:
            BlockingIOError: not closed yet; call again.
        On error: open still, so that closing can be tried again or the message abandoned.
        """
        if self.closed:
            return
        if not self._is_abandoned and not self._has_end:
            self._open()
            self._ext.write_end(self._stream)
            self._has_end = True
        super().close()

    def _open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed CompW")
        if not self._has_header:
            self._ext.write_header(self._stream)
            self._has_header = True


class CompR(_Comp):
    """Reads from `stream` through `ext`.

    Args:
        stream: anything with `readinto`; stays open.
        ext: a layer or stack in phase NEW; after `close()` it is NEW again.
    Raises:
        InUse: `ext` is in the middle of a message.
    """

    def __init__(self, stream: ByteReader, ext: ExtRead) -> None:
        super().__init__()
        if ext.phase is not Phase.NEW:
            raise InUse(f"the layer is in phase {ext.phase.name}, expected NEW")
        self._stream = stream
        self._ext = ext
        self._has_header = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read some content: see `ExtRead.read_into`. The first call reads the header.

        Raises:
            BlockingIOError: nothing can be read now.
            RemoteLayerError: the bytes are not of the layer's format.
            ValueError: closed.
        """
        self._open()
        return self._ext.read_into(self._stream, buffer)

    def close(self) -> None:
        """Read past the end of the message, so that the stream stands at what follows it.

        Raises:
            BlockingIOError: not closed yet; call again.
            RemoteLayerError: the rest of the message is not of the layer's format; closed nevertheless. A
                layer that has failed before has said so then, and closes without a word.
        """
        if self.closed:
            return
        if not self._is_abandoned and self._ext.phase is not Phase.FAILED:
            try:
                self._open()
                self._ext.read_end(self._stream)
            except BlockingIOError:
                raise
            except Exception:
                super().close()
                raise
        super().close()

    def _open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed CompR")
        if not self._has_header:
            self._ext.read_header(self._stream)
            self._has_header = True
