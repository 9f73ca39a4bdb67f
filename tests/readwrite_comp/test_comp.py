"""`CompW` / `CompR`: file-like objects over a layer and a stream."""

from __future__ import annotations

import array
import gc
import io
import itertools

import pytest
from hypothesis import given

from readwrite_comp import (
    AuthenticationError,
    BadParameter,
    CompR,
    CompW,
    IdentityR,
    IdentityW,
    MultiRExt,
    MultiWExt,
    PaddedWindowsR,
    PaddedWindowsW,
    SealedR,
    SealedW,
    StreamCipherR,
    StreamCipherW,
    Truncated,
)
from readwrite_comp.base import Phase
from readwrite_comp.errors import InUse
from readwrite_comp.testing import HostileReader, HostileWriter

from .pairs import KEY, contents, scripts


@given(content=contents)
def test_as_files(content: bytes) -> None:
    """With the standard library's buffers above and `BytesIO` below; the stream stays open, positioned at the
    border.
    """
    stream = io.BytesIO()
    for _ in range(2):
        with CompW(stream, SealedW(KEY, chunk_bytes=32)) as comp:
            assert comp.writable()
            with io.BufferedWriter(comp, 50) as buffered:
                buffered.write(content)
    stream.write(b"foreign")
    stream.seek(0)
    reader = SealedR(KEY, chunk_bytes=32)
    for _ in range(2):
        with CompR(stream, reader) as source:
            assert source.readable()
            assert source.read() == content
    assert stream.read() == b"foreign"


@given(content=contents, write_script=scripts, read_script=scripts)
def test_refusals_pass_through(content: bytes, write_script: list[int], read_script: list[int]) -> None:
    w = HostileWriter(write_script)
    comp = CompW(w, MultiWExt([StreamCipherW(KEY), PaddedWindowsW(16)]))
    done = 0
    while not comp.closed:
        try:
            if done < len(content):
                done += comp.write(content[done:])
            else:
                comp.flush()
                comp.close()
        except BlockingIOError:
            continue
    r = HostileReader(bytes(w.data) + b"foreign", read_script)
    source = CompR(r, MultiRExt([StreamCipherR(KEY), PaddedWindowsR(16)]))
    got, buffer, at_end = b"", bytearray(20), False
    while not source.closed:
        try:
            if at_end:
                source.close()
            else:
                count = source.readinto(buffer)
                got += buffer[:count]
                at_end = count == 0
        except BlockingIOError:
            continue
    assert got == content
    assert r.position == len(w.data)


def test_nothing_written_is_an_empty_message() -> None:
    stream = io.BytesIO()
    CompW(stream, PaddedWindowsW(4)).close()
    assert len(stream.getvalue()) == 8
    stream.seek(0)
    with CompR(stream, PaddedWindowsR(4)) as source:
        assert source.read() == b""
    stream.seek(0)
    CompR(stream, PaddedWindowsR(4)).close()
    assert stream.tell() == 8


def test_closing_a_reader_passes_the_rest() -> None:
    stream = io.BytesIO()
    with CompW(stream, SealedW(KEY, chunk_bytes=4)) as comp:
        comp.write(b"abc")
    stream.write(b"next")
    stream.seek(0)
    with CompR(stream, SealedR(KEY, chunk_bytes=4)) as source:
        assert source.read(1) == b"a"
    assert stream.read() == b"next"


def test_an_exception_leaves_a_truncated_message() -> None:
    stream = io.BytesIO()
    comp = CompW(stream, SealedW(KEY, chunk_bytes=4))

    def leave_halfway() -> None:
        with comp:
            comp.write(b"abcdefgh")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        leave_halfway()
    assert comp.closed
    assert not stream.closed
    stream.seek(0)
    source = CompR(stream, SealedR(KEY, chunk_bytes=4))
    with pytest.raises(Truncated):
        source.read()
    # The error was raised, so closing raises nothing.
    source.close()
    assert source.closed


def test_closing_reports_an_error_that_no_read_has_raised() -> None:
    stream = io.BytesIO()
    with CompW(stream, SealedW(KEY)) as comp:
        comp.write(b"abc")
    wire = bytearray(stream.getvalue())
    wire[-1] ^= 1
    source = CompR(io.BytesIO(bytes(wire)), SealedR(KEY))
    with pytest.raises(AuthenticationError):
        source.close()
    assert source.closed


def test_the_layer_is_free_again_after_closing() -> None:
    stream, writer = io.BytesIO(), IdentityW()
    comp = CompW(stream, writer)
    comp.write(b"x")
    with pytest.raises(InUse):
        CompW(stream, writer)
    comp.close()
    comp.close()
    assert writer.phase is Phase.NEW
    for call in (lambda: comp.write(b"y"), comp.flush):
        with pytest.raises(ValueError, match="closed"):
            call()
    with CompW(stream, writer) as comp:
        comp.write(b"z")
    assert stream.getvalue() == b"xz"
    reader = IdentityR()
    stream.seek(0)
    source = CompR(stream, reader)
    assert source.read(1) == b"x"
    with pytest.raises(InUse):
        CompR(stream, reader)
    source.abandon()
    with pytest.raises(ValueError, match="closed"):
        source.read(1)
    reader.reset()
    CompR(stream, reader).close()


def test_the_garbage_collector_writes_nothing() -> None:
    w = HostileWriter()
    kept = [CompW(w, PaddedWindowsW(4))]
    kept[0].write(b"ab")
    with pytest.warns(ResourceWarning, match="CompW dropped in the middle"):
        kept.clear()
    gc.collect()
    assert w.data == b""
    CompW(w, PaddedWindowsW(4))
    gc.collect()
    assert w.data == b""


def test_closing_again_after_a_refusal() -> None:
    w = HostileWriter(itertools.chain([0, 0, 3, 0], itertools.repeat(2)))
    comp = CompW(w, PaddedWindowsW(4))
    refused = 0
    while not comp.closed:
        try:
            comp.close()
        except BlockingIOError:
            refused += 1
    assert refused == 3
    assert len(w.data) == 8


def test_reading_all_over_a_stream_that_refuses() -> None:
    """The base class would drop bytes read before a refusal."""
    w, content = HostileWriter(), bytes(range(100))
    with CompW(w, SealedW(KEY, chunk_bytes=16)) as comp:
        done = 0
        while done < len(content):
            done += comp.write(content[done:])
        with pytest.raises(io.UnsupportedOperation, match="FileW"):
            comp.writelines([b"a", b"b"])
    source = CompR(HostileReader(bytes(w.data), [0, 0, 50, 0, 3] * 20), SealedR(KEY, chunk_bytes=16))
    got, refusals = b"", 0
    while True:
        try:
            piece = source.readall()
        except BlockingIOError:
            refusals += 1
            continue
        if not piece:
            break
        got += piece
    assert got == content
    assert refusals > 5
    source.close()


def test_views_of_other_formats_and_read_only_ones() -> None:
    """Lengths are bytes, and a buffer that cannot be filled is refused before anything is read."""
    w, numbers = HostileWriter(), array.array("I", [1, 2, 3])
    comp, stack = CompW(w, PaddedWindowsW(16)), PaddedWindowsW(16)
    for data in (numbers, memoryview(numbers), memoryview(numbers.tobytes()).cast("b")):
        assert comp.write(data) == 12
        comp.flush()
    comp.close()
    stack.write_header(w)
    r, reader = HostileReader(bytes(w.data)), PaddedWindowsR(16)
    reader.read_header(r)
    with pytest.raises(BadParameter, match="read-only"):
        reader.read_into(r, memoryview(bytes(12)))
    assert r.position == 0
    target = array.array("I", [0, 0, 0])
    for view in (memoryview(target), memoryview(target).cast("B").cast("b")):
        assert reader.read_into(r, view) == 12
        assert target == numbers
        target[:] = array.array("I", [0, 0, 0])
