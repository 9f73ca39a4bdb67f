"""Work and memory by counting: calls of the stream grow with the bytes and no faster, and what a layer holds
does not grow with the message.
"""

from __future__ import annotations

import pytest

from readwrite_comp import ExtRead, ExtWrite, read_exact_from, write_all_into

from .pairs import LAYERS, stack_of


class Counting:
    """A stream that counts its calls."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.position = 0
        self.calls = 0

    def write(self, data: memoryview, /) -> int:
        self.calls += 1
        self.data += data
        return len(data)

    def readinto(self, buffer: memoryview, /) -> int:
        self.calls += 1
        count = min(len(buffer), len(self.data) - self.position)
        buffer[:count] = self.data[self.position : self.position + count]
        self.position += count
        return count


def calls_for(writer: ExtWrite, reader: ExtRead, length: int) -> tuple[int, int]:
    """Calls to write and to read a message in pieces of 100 bytes. Each 1,000 bytes the writer shows that it
    holds no more than a little.
    """
    w, content = Counting(), bytes(range(250)) * (length // 250)
    writer.write_header(w)
    for start in range(0, length, 100):
        write_all_into(writer, w, content[start : start + 100])
        if start % 1_000 == 0:
            assert len(w.data) + 4_000 >= start, "the writer collects the message"
    writer.write_end(w)
    r, got = Counting(bytes(w.data)), bytearray()
    reader.read_header(r)
    while len(got) < length:
        piece = bytearray(100)
        read_exact_from(reader, r, piece)
        got += piece
        assert r.position <= len(w.data)
    reader.read_end(r)
    assert got == content
    return w.calls, r.calls


@pytest.mark.parametrize(
    "names", [[name] for name in LAYERS] + [["sealed", "escape", "padded"]], ids="-".join
)
def test_work_is_linear_in_bytes(names: list[str]) -> None:
    small = calls_for(*stack_of(names)(), 4_000)
    large = calls_for(*stack_of(names)(), 16_000)
    for few, many in zip(small, large, strict=True):
        assert many <= 4 * few + 8
