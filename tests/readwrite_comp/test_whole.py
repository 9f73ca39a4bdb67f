"""Complete contents: write all, read exactly, read to the end; also over streams that refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import (
    EscapeTermR,
    EscapeTermW,
    LimitExceeded,
    PaddedWindowsR,
    Truncated,
    read_exact_from,
    read_to_end,
    write_all_into,
)
from readwrite_comp.base import Phase
from readwrite_comp.errors import PhaseError
from readwrite_comp.testing import HostileReader, HostileWriter, write_message

from .pairs import LAYERS, contents, scripts


@given(
    name=st.sampled_from(["padded", "sealed", "escape"]),
    content=contents,
    head_bytes=st.integers(0, 200),
    write_script=scripts,
    read_script=scripts,
)
def test_all_of_it_over_streams_that_refuse(
    name: str, content: bytes, head_bytes: int, write_script: list[int], read_script: list[int]
) -> None:
    writer, reader = LAYERS[name]()
    w = HostileWriter()
    writer.write_header(w)
    hostile = HostileWriter(write_script)
    hostile.data = w.data
    done = 0
    while True:
        try:
            write_all_into(writer, hostile, content[done:])
            break
        except BlockingIOError as error:
            done += error.characters_written
    hostile = HostileWriter()
    hostile.data = w.data
    writer.write_end(hostile)

    reader.read_header(quiet := HostileReader(bytes(w.data)))
    r = HostileReader(bytes(w.data[quiet.position :]), read_script)
    head = memoryview(bytearray(min(head_bytes, len(content))))
    done = 0
    while True:
        try:
            read_exact_from(reader, r, head[done:])
            break
        except BlockingIOError as error:
            done += error.characters_written
    rest = bytearray()
    while True:
        try:
            read_to_end(reader, r, rest, limit_bytes=len(content) - len(head))
            break
        except BlockingIOError:
            continue
    assert bytes(head) + rest == content


def test_content_that_ends_too_early() -> None:
    w = HostileWriter()
    write_message(EscapeTermW(), w, b"abc")
    reader, r, buffer = EscapeTermR(), HostileReader(bytes(w.data)), bytearray(5)
    reader.read_header(r)
    with pytest.raises(Truncated, match="3 of 5 bytes"):
        read_exact_from(reader, r, buffer)
    assert buffer == b"abc\0\0"
    read_exact_from(reader, r, bytearray())
    # The layer itself still works.
    assert reader.phase is Phase.CONTENT
    reader.read_end(r)


def test_the_limit_loses_nothing() -> None:
    w = HostileWriter()
    write_message(EscapeTermW(), w, b"abcdefgh")
    reader, r, content = EscapeTermR(), HostileReader(bytes(w.data)), bytearray(b"> ")
    reader.read_header(r)
    for limit in (4, 4, 3, 0):
        with pytest.raises(LimitExceeded):
            read_to_end(reader, r, content, limit_bytes=limit)
        assert content == b"> abc"
    read_to_end(reader, r, content, limit_bytes=10)
    assert content == b"> abcdefgh"
    reader.read_end(r)


def test_phases_are_kept() -> None:
    with pytest.raises(PhaseError):
        write_all_into(EscapeTermW(), HostileWriter(), b"x")
    with pytest.raises(PhaseError):
        read_exact_from(PaddedWindowsR(4), HostileReader(b""), bytearray(1))
    with pytest.raises(PhaseError):
        read_to_end(PaddedWindowsR(4), HostileReader(b""), bytearray(), limit_bytes=1)
