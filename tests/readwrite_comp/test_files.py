"""Standard library code on top of layers: `FileW` / `FileR` over blocking streams."""

from __future__ import annotations

import errno
import gc
import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import (
    AuthenticationError,
    EscapeTermR,
    EscapeTermW,
    ExtRead,
    ExtWrite,
    FileR,
    FileW,
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
from readwrite_comp.errors import InUse, PhaseError

from .pairs import KEY, contents


def writer() -> ExtWrite:
    return MultiWExt([StreamCipherW(KEY), SealedW(KEY, chunk_bytes=512), PaddedWindowsW(300), EscapeTermW()])


def reader() -> ExtRead:
    return MultiRExt([StreamCipherR(KEY), SealedR(KEY, chunk_bytes=512), PaddedWindowsR(300), EscapeTermR()])


CONTENT = bytes(range(256)) * 40


def test_copyfileobj_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "message"
    with path.open("wb", buffering=0) as stream:
        for _ in range(2):
            with FileW(stream, writer()) as out:
                shutil.copyfileobj(io.BytesIO(CONTENT), out, 1000)
        stream.write(b"foreign")
    with path.open("rb", buffering=0) as stream:
        for _ in range(2):
            copy = io.BytesIO()
            with FileR(stream, reader()) as source:
                shutil.copyfileobj(source, copy, 777)
            assert copy.getvalue() == CONTENT
        assert stream.read() == b"foreign"


def test_tarfile_over_a_pipe() -> None:
    read_end, write_end = os.pipe()
    files = {"one": b"first", "two/three": CONTENT[:1000]}
    with open(write_end, "wb", buffering=0) as stream, FileW(stream, SealedW(KEY)) as out:  # noqa: SIM117
        with tarfile.open(fileobj=out, mode="w|") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    with open(read_end, "rb", buffering=0) as stream, FileR(stream, SealedR(KEY)) as source:  # noqa: SIM117
        with tarfile.open(fileobj=source, mode="r|") as tar:
            got = {}
            for entry in tar:
                member = tar.extractfile(entry)
                assert member is not None
                got[entry.name] = member.read()
    assert got == files


def test_json_as_text() -> None:
    stream, value = io.BytesIO(), {"name": "späť", "numbers": list(range(500))}
    with io.TextIOWrapper(FileW(stream, writer()), encoding="utf-8") as text:
        json.dump(value, text, ensure_ascii=False)
    stream.seek(0)
    with io.TextIOWrapper(FileR(stream, reader()), encoding="utf-8") as text:
        assert json.load(text) == value
    # Lines, too, one message each.
    stream = io.BytesIO()
    for number in range(3):
        with FileW(stream, EscapeTermW()) as out:
            out.write(b'{"a":\n' + str(number).encode() + b"}\n")
    stream.seek(0)
    ext = EscapeTermR()
    for number in range(3):
        with FileR(stream, ext) as source:
            lines = source.readlines()
        assert json.loads(b"".join(lines)) == {"a": number}


def test_gzip_inside() -> None:
    stream = io.BytesIO()
    with FileW(stream, writer()) as out, gzip.open(out, "wb") as packed:
        packed.write(CONTENT)
    stream.write(b"foreign")
    assert stream.tell() < len(CONTENT)
    stream.seek(0)
    with FileR(stream, reader()) as source, gzip.open(source, "rb") as unpacked:
        assert unpacked.read() == CONTENT
    assert stream.read() == b"foreign"


def test_gzip_below() -> None:
    """A layer over a stream of the standard library that is itself a layer."""
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as stream, FileW(stream, EscapeTermW()) as out:
        out.write(CONTENT)
    packed.seek(0)
    with gzip.open(packed, "rb") as stream, FileR(stream, EscapeTermR()) as source:
        assert source.read() == CONTENT


@given(content=contents, buffer_bytes=st.integers(1, 100), piece=st.integers(1, 100))
def test_any_buffer(content: bytes, buffer_bytes: int, piece: int) -> None:
    stream = io.BytesIO()
    with FileW(stream, writer(), buffer_bytes=buffer_bytes) as out:
        for start in range(0, len(content), piece):
            assert out.write(content[start : start + piece]) == len(content[start : start + piece])
    stream.write(b"foreign")
    stream.seek(0)
    with FileR(stream, reader(), buffer_bytes=buffer_bytes) as source:
        assert b"".join(iter(lambda: source.read(piece), b"")) == content
    assert stream.read() == b"foreign"


def test_an_exception_leaves_a_truncated_message() -> None:
    stream = io.BytesIO()
    out = FileW(stream, EscapeTermW())

    def leave_halfway() -> None:
        with out:
            out.write(b"half of it")
            out.flush()
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        leave_halfway()
    assert out.closed
    assert stream.getvalue() == b"half of it"
    stream.seek(0)

    def read_all() -> None:
        with FileR(stream, EscapeTermR()) as source:
            source.read()

    with pytest.raises(Truncated):
        read_all()


def test_closing_raises_an_error_that_no_read_has_raised() -> None:
    stream = io.BytesIO()
    with FileW(stream, SealedW(KEY, chunk_bytes=4)) as out:
        out.write(b"abcdefgh")
    wire = bytearray(stream.getvalue())
    wire[-1] ^= 1
    source = FileR(io.BytesIO(bytes(wire)), SealedR(KEY, chunk_bytes=4), buffer_bytes=2)
    assert source.read(2) == b"ab"
    with pytest.raises(AuthenticationError):
        source.close()
    assert source.closed


def test_a_stream_that_breaks_at_close() -> None:
    class Broken(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object, /) -> int:
            raise BrokenPipeError("the other side has gone")

    out = FileW(Broken(), EscapeTermW())

    def leave() -> None:
        with out:
            out.write(b"content")

    with pytest.raises(BrokenPipeError):
        leave()
    assert out.closed


class FailsOnce:
    """A full disk that gets free space: one call fails."""

    def __init__(self, calls: int) -> None:
        self.left, self.data = calls, bytearray()

    def write(self, data: memoryview, /) -> int:
        self.left -= 1
        if self.left == -1:
            raise OSError(errno.ENOSPC, "no space left")
        self.data += data
        return len(data)


@pytest.mark.parametrize("calls", range(5))
@pytest.mark.parametrize("try_again", [False, True])
def test_a_failed_write_makes_no_message_that_looks_whole(calls: int, try_again: bool) -> None:
    """`io.BufferedWriter` repeats bytes that a failed write may have accepted, and closes its stream even
    if its own content could not be written.
    """
    stream = FailsOnce(calls)
    out = FileW(stream, SealedW(KEY, chunk_bytes=4))
    out.write(b"abcdefghij")
    failed = False
    for _ in range(1 + try_again):
        try:
            out.close()
        except (OSError, PhaseError):
            failed = True
            assert not out.closed
    was_closed = out.closed
    out.abandon()
    assert failed == (calls <= 3)

    def read_all() -> bytes:
        with FileR(io.BytesIO(stream.data), SealedR(KEY, chunk_bytes=4)) as source:
            return source.read()

    if was_closed:
        assert read_all() == b"abcdefghij"
    else:
        with pytest.raises(Truncated):
            read_all()


def test_flush_goes_through_the_layer() -> None:
    """Flushed bytes can be read. Closing does not flush, because that would close a window early."""
    stream = io.BytesIO()
    out = FileW(stream, PaddedWindowsW(100))
    out.write(b"said at once")
    assert stream.getvalue() == b""
    out.flush()
    layer = PaddedWindowsR(100)
    sent = io.BytesIO(stream.getvalue())
    layer.read_header(sent)
    assert read_some_of(layer, sent) == b"said at once"
    out.write(b"x")
    out.close()
    with pytest.raises(ValueError, match="closed"):
        out.flush()
    assert len(stream.getvalue()) == 2 * 104


def read_some_of(layer: ExtRead, stream: io.BytesIO) -> bytes:
    buffer = bytearray(100)
    return bytes(buffer[: layer.read_into(stream, buffer)])


def test_the_garbage_collector_ends_no_message() -> None:
    stream, layer = io.BytesIO(), EscapeTermW()
    kept: list[object] = [FileW(stream, layer)]
    file = kept[0]
    assert isinstance(file, FileW)
    file.write(b"never sent")
    del file
    with pytest.warns(ResourceWarning, match="FileW dropped"):
        kept.clear()
    gc.collect()
    assert stream.getvalue() == b""
    kept.append(FileR(io.BytesIO(b"a\0\xff"), EscapeTermR()))
    with pytest.warns(ResourceWarning, match="FileR dropped"):
        kept.clear()
    layer.write_header(stream)
    with pytest.raises(InUse):
        FileW(stream, layer)
    with pytest.raises(ValueError, match="buffer"):
        FileR(stream, EscapeTermR(), buffer_bytes=0)
    gc.collect()
