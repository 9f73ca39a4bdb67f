"""`FileW` / `FileR`: a layer and a *blocking* stream as an ordinary binary file, for code that knows nothing
of layers: `shutil.copyfileobj`, `tarfile` (modes "w|" and "r|"), `gzip`, and `io.TextIOWrapper` for `json`.

`CompW.write` may take a part of what it is offered, as a raw file may; such code ignores the count and would
lose the rest. So the standard library's own buffers stand on top: they write all, and read full buffers. They
read ahead in the *content* only; after `close()` the stream stands at the message's border.

What the buffers do by themselves is put right here: they would end the message also when a `with` block is
left by an exception, or from the garbage collector, and the other side would take half a message for a whole
one. Both abandon it here. For streams that refuse (`BlockingIOError`) use `CompW` / `CompR`: a buffer in
front of them cannot be closed twice.
"""

from __future__ import annotations

import io
import warnings
from types import TracebackType

from .base import ExtRead, ExtWrite
from .comp import CompR, CompW
from .helpers import ByteReader, ByteWriter

__all__ = ["FileR", "FileW"]

_BUFFER_BYTES = 64 * 1024


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
