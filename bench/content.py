"""Content of any length that is never held as a whole: generated when read, digested when it arrives.

The pattern's period is a prime number, so that no two chunks or blocks of a transfer are equal and a digest
reveals lost, doubled and swapped ones. `content_digest` computes the expected digest.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

__all__ = [
    "DIGESTS",
    "Digest",
    "DigestingSink",
    "RepeatedContent",
    "content_digest",
    "file_digest",
    "new_digest",
]

READ_BYTES: Final = 64 * 1024
_PERIOD: Final = 65_521  # the largest prime below 64 KiB
_BLOCK = hashlib.shake_256(b"mtun bench content").digest(_PERIOD)
# Any READ_BYTES bytes that begin in the first period can be had as one slice.
_PATTERN = memoryview(_BLOCK + (_BLOCK * 2)[:READ_BYTES])


class Digest(Protocol):
    """The part of `hashlib` objects that is used here."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Crc32:
    """Cheap enough to be in a measured transfer: a third of the cost of SHA-256."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


DIGESTS: Final = ("sha256", "crc32")


def new_digest(name: str) -> Digest:
    """Begin a digest. Raises ValueError: not one of DIGESTS."""
    if name == "crc32":
        return _Crc32()
    if name == "sha256":
        return hashlib.sha256()
    raise ValueError(f"no digest is called {name!r}; there are {', '.join(DIGESTS)}")


class RepeatedContent(io.RawIOBase):
    """A binary file of `size` bytes of the pattern."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._left = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        """Return True: it can be sent again."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """From the beginning only."""
        if whence != io.SEEK_SET or not 0 <= offset <= self._size:
            raise ValueError(f"seek to {offset} of {self._size}, from {whence}")
        self._left, self._position = self._size - offset, offset % _PERIOD
        return offset

    def tell(self) -> int:
        return self._size - self._left

    def read(self, size: int | None = -1, /) -> bytes:
        """At most 64 KiB at a time; everything when `size` is negative."""
        if size is None or size < 0:
            return self.readall()
        return bytes(self._next(size))

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(buffer)
        part = self._next(len(view))
        view[: len(part)] = part
        return len(part)

    def _next(self, size: int) -> memoryview:
        count = min(size, self._left, READ_BYTES)
        part = _PATTERN[self._position : self._position + count]
        self._left -= count
        self._position = (self._position + count) % _PERIOD
        return part


class DigestingSink(io.RawIOBase):
    """A binary file that counts and digests what is written and drops it."""

    def __init__(self, digest: str) -> None:
        super().__init__()
        self._digest = new_digest(digest)
        self.count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        self._digest.update(data)
        self.count += len(data)
        return len(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@lru_cache(maxsize=64)
def content_digest(size: int, digest: str) -> str:
    """The digest of `RepeatedContent(size)`."""
    state = new_digest(digest)
    content = RepeatedContent(size)
    while part := content.read(READ_BYTES):
        state.update(part)
    return state.hexdigest()


def file_digest(path: Path, digest: str) -> str:
    """The digest of a file's content."""
    state = new_digest(digest)
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            state.update(part)
    return state.hexdigest()
