"""The test cipher of the original: it adds a key to every byte. Its wire has a header byte (the key), blocks,
and in the cases of composed layers a byte after the end (the key plus 3).
"""

from __future__ import annotations

from readwrite_comp import Ending, ExtRead, ExtWrite, Malformed
from readwrite_comp.helpers import ByteReader, ByteWriter, Take, read_some, skip_some, write_some

__all__ = ["ShiftR", "ShiftW"]


class ShiftW(ExtWrite):
    """Adds `key` to each byte; pads to blocks."""

    ends = Ending.PADDED

    def __init__(self, key: int, block_bytes: int, *, has_end: bool = False) -> None:
        super().__init__()
        self.key, self.block_bytes, self.has_end = key, block_bytes, has_end

    def _start(self) -> None:
        self.count = 0
        self._owed.owe(bytes([self.key]))

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        count = write_some(w, memoryview(bytes((byte + self.key) % 256 for byte in view)))
        self.count += count
        return count

    def _finish(self) -> None:
        self._owed.owe(bytes([self.key]) * (-self.count % self.block_bytes))
        if self.has_end:
            self._owed.owe(bytes([self.key + 3]))


class ShiftR(ExtRead):
    """Reads what `ShiftW` wrote."""

    ends = Ending.PADDED

    def __init__(self, key: int, block_bytes: int, *, has_end: bool = False) -> None:
        super().__init__()
        self.key, self.block_bytes, self.has_end = key, block_bytes, has_end

    def _start(self) -> None:
        self.count = 0
        self.byte, self.incoming = memoryview(bytearray(1)), Take()
        self.incoming.begin(self.byte)

    def _read_header(self, r: ByteReader) -> None:
        self._expect(r, self.key)
        self.incoming.begin(self.byte)

    def _expect(self, r: ByteReader, value: int) -> None:
        self.incoming.fill(r, "a header or end")
        if self.byte[0] != value:
            raise Malformed(f"{self.byte[0]}, expected {value}")

    def _read(self, r: ByteReader, view: memoryview) -> int:
        count = read_some(r, view)
        for index in range(count):
            view[index] = (view[index] - self.key) % 256
        self.count += count
        return count

    def _skip(self, r: ByteReader) -> None:
        while self.count % self.block_bytes:
            self.count += skip_some(r, -self.count % self.block_bytes, "padding")
        if self.has_end:
            self._expect(r, self.key + 3)
