"""Where a reply waits for its reader: memory while it is small, an unnamed temporary file beyond.

`tempfile.SpooledTemporaryFile` warns when it is dropped unclosed even while it is only memory, so that
`query(...).result().read()` in a script would warn each time; here only a real file does.
"""

from __future__ import annotations

import errno
import io
import tempfile
from typing import IO

__all__ = ["Spool"]

MEMORY_BYTES = 1024 * 1024
MOST_BYTES = 1 << 34
"""As for files that are fetched: no node can fill the disk here. Longer ones need a sink of their own."""


class Spool:
    """Written once from start to end, then read."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._left_bytes = MOST_BYTES
        self._file: IO[bytes] = io.BytesIO()

    def write(self, data: memoryview) -> int:
        """Append. Raises OSError: the disk does not take it, or it is too much in all."""
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise OSError(errno.EFBIG, "the reply is longer than what is kept without a sink")
        file = self._file
        if isinstance(file, io.BytesIO) and file.tell() + len(data) > self._memory_bytes:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
            self._file.write(file.getbuffer())
        return self._file.write(data)

    def rewind(self) -> None:
        """Read from the start now."""
        self._file.seek(0)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        """Give memory or disk back. Idempotent."""
        self._file.close()
