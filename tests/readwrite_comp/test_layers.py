"""Every layer through the kit, with fixed and random choices, and its format byte by byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readwrite_comp import (
    AuthenticationError,
    BadParameter,
    Ending,
    ExtRead,
    Malformed,
    PaddedWindowsR,
    PaddedWindowsW,
    RemoteLayerError,
    SealedR,
    SealedW,
    SizedWindowsR,
    SizedWindowsW,
    StreamCipherR,
    StreamCipherW,
    Truncated,
    WideBlockR,
    WideBlockW,
    WindowSizes,
)
from readwrite_comp.limiters import Padding
from readwrite_comp.primitives import get_engine, hkdf_sha256
from readwrite_comp.testing import (
    HostileReader,
    HostileWriter,
    check_abandoned_write,
    check_corruption,
    check_early_end,
    check_ext_pair,
    check_round_trip,
    check_truncation,
    read_message,
)

from .pairs import (
    EDGES,
    KEY,
    LAYERS,
    contents,
    is_authenticated,
    layer_names,
    lioness,
    scripts,
    splits,
    stack_of,
    wire_of,
)

# Layers with a sibling of the same code: another engine, or blocks of one byte.
_ALIKE = ("sealed_pycryptodome", "sized_one", "end_stream_one", "wide_block_inverse")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] if name in _ALIKE else []) for name in LAYERS]
)
def test_kit(name: str) -> None:
    samples = 3 * settings().max_examples
    check_ext_pair(LAYERS[name], authenticated=is_authenticated([name]), sizes=EDGES, samples=samples)


@given(
    name=layer_names,
    messages=st.lists(contents, min_size=1, max_size=3),
    write_script=scripts,
    read_script=scripts,
    write_splits=splits,
    read_splits=splits,
    flush_every=st.integers(0, 3),
)
def test_round_trip(
    name: str,
    messages: list[bytes],
    write_script: list[int],
    read_script: list[int],
    write_splits: list[int],
    read_splits: list[int],
    flush_every: int,
) -> None:
    check_round_trip(
        LAYERS[name],
        messages,
        write_script=write_script,
        read_script=read_script,
        write_splits=write_splits,
        read_splits=read_splits,
        flush_every=flush_every,
    )


@given(name=layer_names, content=contents, write_script=scripts, write_splits=splits)
def test_giving_up(name: str, content: bytes, write_script: list[int], write_splits: list[int]) -> None:
    check_abandoned_write(LAYERS[name], content, write_script=write_script, write_splits=write_splits)


@given(name=layer_names, content=contents, read_bytes=st.integers(0, 200), read_script=scripts)
def test_early_end(name: str, content: bytes, read_bytes: int, read_script: list[int]) -> None:
    check_early_end(LAYERS[name], content, read_bytes, read_script=read_script)


@given(name=layer_names, content=contents, cut=st.integers(0, 400), read_script=scripts, read_splits=splits)
def test_truncation(
    name: str, content: bytes, cut: int, read_script: list[int], read_splits: list[int]
) -> None:
    check_truncation(LAYERS[name], content, cut, read_script=read_script, read_splits=read_splits)


@given(
    name=layer_names,
    content=contents,
    position=st.integers(0, 2_000),
    mask=st.integers(1, 255),
    read_splits=splits,
)
def test_corruption(name: str, content: bytes, position: int, mask: int, read_splits: list[int]) -> None:
    check_corruption(
        LAYERS[name],
        content,
        position,
        mask,
        authenticated=is_authenticated([name]),
        read_splits=read_splits,
    )


@given(name=layer_names, noise=st.binary(max_size=300), length=st.integers(0, 300))
def test_random_bytes_are_refused_or_read(name: str, noise: bytes, length: int) -> None:
    """Random bytes cause documented errors only; the drivers fail on all others."""
    _, reader = LAYERS[name]()
    result = read_message(
        reader, HostileReader(noise), None if reader.ends is Ending.EXACT else length, most_bytes=len(noise)
    )
    if is_authenticated([name]):
        assert result.error is not None
        assert result.content == b""


@pytest.mark.parametrize(
    "names",
    [
        ["identity"],
        ["stream_cipher"],
        ["padded"],
        ["sealed"],
        ["padded", "sealed"],
        ["sealed", "padded", "stream_cipher"],
    ],
)
def test_flushed_content_can_be_read(names: list[str]) -> None:
    """Before the end is written, and again after more content; a second flush writes nothing."""
    writer, reader = stack_of(names)()
    w = HostileWriter()
    writer.write_header(w)
    content = b"said at once, and some more of it after that"
    done = 0
    for end in (1, 20, len(content)):
        while done < end:
            done += writer.write_into(w, content[done:end])
        writer.flush_into(w)
        size = len(w.data)
        writer.flush_into(w)
        assert len(w.data) == size
        _, reader = stack_of(names)()
        r, got = HostileReader(bytes(w.data)), b""
        reader.read_header(r)
        while len(got) < end:
            buffer = bytearray(end - len(got))
            got += buffer[: reader.read_into(r, buffer)]
        assert got == content[:end]


# Formats.


def error_of(reader: ExtRead, wire: bytes) -> RemoteLayerError | None:
    return read_message(reader, HostileReader(wire), None).error


def test_window_sizes() -> None:
    sizes, size, seen = WindowSizes(20, (4, 3), 100), 20, []
    for _ in range(8):
        seen.append(size)
        size = sizes.after(size)
    assert seen == [20, 26, 34, 45, 60, 80, 100, 100]
    assert WindowSizes(7).after(7) == 7
    for wrong in ((0,), (5, (1, 1), 4), (5, (2, 3), 9), (5, (1, 0), 9), (2**31,)):
        with pytest.raises(BadParameter):
            WindowSizes(*wrong)


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 20), (1, 20), (20, 20), (21, 46), (46, 46), (47, 80), (150, 185)]
)
def test_sized_windows_wire(size: int, expected: int) -> None:
    content = bytes(range(1, size + 1))
    zero = SizedWindowsW(WindowSizes(20, (4, 3), 60), padding=Padding.ZERO)
    assert wire_of(zero, content) == content + bytes(expected - size)
    # Random padding: content in front, and padding that differs from message to message.
    writer = SizedWindowsW(WindowSizes(20, (4, 3), 60))
    wires = [wire_of(writer, content) for _ in range(2)]
    assert all(len(wire) == expected and wire.startswith(content) for wire in wires)
    assert wires[0] != wires[1] or expected - size < 8


def test_sized_windows_wire_with_sizes() -> None:
    writer = SizedWindowsW(WindowSizes(2, (2, 1), 4), size_written=True, padding=Padding.ZERO)
    assert wire_of(writer, b"abcdefg") == b"\0\0\0\2ab" + b"\0\0\0\4cdef" + b"\0\0\0\4g\0\0\0"
    assert wire_of(writer, b"") == b"\0\0\0\2\0\0"
    # A reader needs only the maximum; other sizes than 1 to the maximum are refused.
    reader = SizedWindowsR(WindowSizes(1, max_bytes=9), size_written=True)
    r = HostileReader(b"\0\0\0\x09abcdefghi" + b"\0\0\0\1j")
    assert read_message(reader, r, 10).content == b"abcdefghij"
    for size in (0, 10, 2**31, 2**32 - 1):
        reader = SizedWindowsR(WindowSizes(1, max_bytes=9), size_written=True)
        assert isinstance(error_of(reader, struct.pack("!I", size) + bytes(20)), Malformed)


@pytest.mark.parametrize("size_written", [False, True])
def test_a_huge_window_is_padded_in_pieces(size_written: bool) -> None:
    """The window need not fit into memory, on either side."""

    class Counter:
        largest = total = 0

        def write(self, data: memoryview, /) -> int:
            self.largest, self.total = max(self.largest, len(data)), self.total + len(data)
            return len(data)

        def readinto(self, buffer: memoryview, /) -> int:
            self.largest = max(self.largest, len(buffer))
            count = min(len(buffer), self.total)
            buffer[:count] = bytes(count)
            self.total -= count
            return count

    sizes, stream = WindowSizes(2**24), Counter()
    writer = SizedWindowsW(sizes, size_written=size_written, padding=Padding.ZERO)
    writer.write_header(stream)
    writer.write_into(stream, b"x")
    writer.write_end(stream)
    assert stream.total == 2**24 + 4 * size_written
    assert stream.largest <= 16 * 1024
    reader, stream.total = SizedWindowsR(sizes, padding=Padding.ZERO), 2**24
    reader.read_header(stream)
    reader.read_end(stream)
    assert stream.total == 0
    assert stream.largest <= 16 * 1024


def test_rewindowing_keeps_the_size() -> None:
    """Content of unknown length, copied by a reader to a second limiter, takes the same number of windows."""
    sizes = WindowSizes(2)
    first = wire_of(SizedWindowsW(sizes), b"abc")
    copied = read_message(SizedWindowsR(sizes), HostileReader(first), None).content
    assert len(first) == len(wire_of(SizedWindowsW(sizes), copied)) == 4


def test_zero_padding_is_checked() -> None:
    sizes = WindowSizes(8)
    wire = bytearray(wire_of(SizedWindowsW(sizes, padding=Padding.ZERO), b"abc"))
    wire[-1] = 1
    result = read_message(SizedWindowsR(sizes, padding=Padding.ZERO), HostileReader(bytes(wire)), 3)
    assert isinstance(result.error, Malformed)
    assert read_message(SizedWindowsR(sizes), HostileReader(bytes(wire)), 3).error is None
    wire = bytearray(wire_of(PaddedWindowsW(8, padding=Padding.ZERO), b"abc"))
    wire[-1] = 1
    assert isinstance(error_of(PaddedWindowsR(8, padding=Padding.ZERO), bytes(wire)), Malformed)


def test_padded_windows_wire() -> None:
    writer = PaddedWindowsW(4, padding=Padding.ZERO)
    assert wire_of(writer, b"") == b"\x80\0\0\0" + bytes(4)
    assert wire_of(writer, b"abcd") == b"\x80\0\0\4abcd"
    assert wire_of(writer, b"abcde") == b"\0\0\0\4abcd" + b"\x80\0\0\1e\0\0\0"
    # A flush closes the window.
    w = HostileWriter()
    writer.write_header(w)
    writer.write_into(w, b"a")
    assert w.data == b""
    writer.flush_into(w)
    writer.flush_into(w)
    assert w.data == b"\0\0\0\1a\0\0\0"
    writer.write_end(w)
    assert read_message(PaddedWindowsR(4), HostileReader(bytes(w.data)), None).content == b"a"
    for head in (5, 2**31 | 5, 0, 2**31 - 1):
        assert isinstance(error_of(PaddedWindowsR(4), struct.pack("!I", head) + bytes(40)), Malformed)
    for size in (0, 2**31):
        with pytest.raises(BadParameter):
            PaddedWindowsW(size)


@pytest.mark.parametrize("engine", ["openssl", "pycryptodome"])
def test_stream_cipher_wire(engine: str) -> None:
    wire = wire_of(StreamCipherW(KEY, engine=get_engine(engine)), b"content of a message")
    plain = bytearray(wire[16:])
    get_engine("pycryptodome").ctr(KEY, wire[:16]).apply(memoryview(plain))
    assert plain == b"content of a message"
    assert wire[:16] != wire_of(StreamCipherW(KEY, engine=get_engine(engine)), b"")[:16]
    with pytest.raises(BadParameter):
        StreamCipherR(bytes(16))


def test_sealed_wire() -> None:
    """Parsed by hand, with the other engine."""
    wire = wire_of(SealedW(KEY, chunk_bytes=4, engine=get_engine("openssl")), b"abcdefghij")
    salt, rest = wire[:32], wire[32:]
    aead = get_engine("pycryptodome").aead(hkdf_sha256(salt, KEY, b"readwrite_comp sealed 1", 32))
    content = b""
    for counter, (length, last) in enumerate(((4, 0), (4, 0), (2, 1))):
        head, body, rest = rest[:4], rest[4 : 20 + length], rest[20 + length :]
        assert head == struct.pack("!I", last << 31 | length)
        content += aead.open(counter.to_bytes(11, "big") + bytes([last]), body, head)
    assert content == b"abcdefghij"
    assert rest == b""


def _chunks(wire: bytes) -> tuple[bytes, list[bytes]]:
    header, rest, chunks = wire[:32], wire[32:], []
    while rest:
        end = 20 + (struct.unpack("!I", rest[:4])[0] & 0x7FFFFFFF)
        chunks.append(rest[:end])
        rest = rest[end:]
    return header, chunks


def test_sealed_attacks_on_whole_chunks() -> None:
    """Chunks that are dropped, repeated, moved or from another message, and a moved end: all refused."""
    writer = SealedW(KEY, chunk_bytes=4)
    header, (a, b, c) = _chunks(wire_of(writer, b"abcdefghij"))
    _, (other, _, _) = _chunks(wire_of(writer, b"abcdefghij"))
    attacks = {
        "dropped": [b, c],
        "dropped in the middle": [a, c],
        "repeated": [a, a, b, c],
        "moved": [b, a, c],
        "from another message": [other, b, c],
        "made the last": [a, bytes([b[0] | 0x80]) + b[1:]],
        "made not the last": [a, b, bytes([c[0] & 0x7F]) + c[1:], c],
        "empty last": [a, b, b"\x80\0\0\0" + bytes(16)],
    }
    for name, chunks in attacks.items():
        result = read_message(SealedR(KEY, chunk_bytes=4), HostileReader(header + b"".join(chunks)), None)
        assert isinstance(result.error, AuthenticationError), name
        assert b"abcdefghij".startswith(result.content), name
    result = read_message(SealedR(KEY, chunk_bytes=4), HostileReader(header + a + b), None)
    assert isinstance(result.error, Truncated)
    assert result.content == b"abcdefgh"
    assert isinstance(error_of(SealedR(bytes(32), chunk_bytes=4), header + a + b + c), AuthenticationError)
    # A chunk over the limit is refused by its head, before anything of it is read; so is an empty one in the
    # middle.
    for head in (5, 2**31 | 5, 0):
        r = HostileReader(header + struct.pack("!I", head) + bytes(40))
        assert isinstance(read_message(SealedR(KEY, chunk_bytes=4), r, None).error, Malformed)
        assert r.position == 36


def test_sealed_detects_every_bit() -> None:
    wire = wire_of(SealedW(KEY, chunk_bytes=4), b"abcdefghij")
    for bit in range(8 * len(wire)):
        changed = bytearray(wire)
        changed[bit // 8] ^= 1 << bit % 8
        assert error_of(SealedR(KEY, chunk_bytes=4), bytes(changed)) is not None


def test_sealed_refuses_parameters() -> None:
    for key, chunk_bytes in ((bytes(31), 16), (KEY, 0), (KEY, 2**24 + 1)):
        for kind in (SealedW, SealedR):
            with pytest.raises(BadParameter):
                kind(key, chunk_bytes=chunk_bytes)


def test_refused_content_reaches_no_buffer() -> None:
    """The caller's buffer holds no plaintext of a chunk that was refused, although opening works in it."""
    wire = bytearray(wire_of(SealedW(KEY, chunk_bytes=16), b"a secret content"))
    wire[40] ^= 1
    reader, r, buffer = SealedR(KEY, chunk_bytes=16), HostileReader(bytes(wire)), bytearray(16)
    reader.read_header(r)
    with pytest.raises(AuthenticationError):
        reader.read_into(r, buffer)
    assert buffer == bytes(16)


def test_wide_block_wire() -> None:
    permutation = lioness(40)
    wire = wire_of(WideBlockW(permutation, first_tweak=9), b"x" * 50)
    assert wire_of(WideBlockW(permutation), b"") == b""
    plain = bytearray(wire)
    for index in range(2):
        permutation.decrypt(memoryview(plain)[40 * index : 40 * index + 40], 9 + index)
    assert plain == b"x" * 50 + bytes(30)
    # Applying the inverse removes a layer, in either direction, as a proxy does.
    assert wire_of(WideBlockW(permutation, first_tweak=9, inverse=True), wire) == plain
    assert read_message(WideBlockR(permutation, first_tweak=8), HostileReader(wire), 50).content != b"x" * 50
    for tweak in (-1, 2**64):
        with pytest.raises(BadParameter):
            WideBlockW(permutation, first_tweak=tweak)
