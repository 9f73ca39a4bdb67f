"""Reads fixed layouts from whatever gives pieces of any length: a query, a reply, a message."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from tunnel.errors import MalformedMessage

__all__ = ["ByteReader"]


class ByteReader:
    """Args: read: a service that gives the next bytes, b"" at the end: `query.read`."""

    def __init__(self, read: Callable[[], Generator[Any, Any, bytes]]) -> None:
        self._read = read
        self._held = b""

    def exactly(self, count: int) -> Generator[Any, Any, bytes]:
        """So many bytes. Raises MalformedMessage: the content ends before."""
        while len(self._held) < count:
            more = yield from self._read()
            if not more:
                raise MalformedMessage(f"the content ends after {len(self._held)} of {count} bytes")
            self._held += more
        data, self._held = self._held[:count], self._held[count:]
        return data

    def read(self) -> Generator[Any, Any, bytes]:
        """The next bytes, b"" at the end."""
        if self._held:
            data, self._held = self._held, b""
            return data
        return (yield from self._read())

    def batches(self, size: int) -> Callable[[], Generator[Any, Any, bytes]]:
        """A service that gives pieces of at least `size` bytes, but for the last: for threads and disks,
        which cost by the call."""

        def batch() -> Generator[Any, Any, bytes]:
            pieces: list[bytes] = []
            count = 0
            while count < size and (data := (yield from self.read())):
                pieces.append(data)
                count += len(data)
            return b"".join(pieces)

        return batch
