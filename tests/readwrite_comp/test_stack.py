"""Stacks: mixed, nested, joined, and 128 deep."""

from __future__ import annotations

import inspect
import io
import itertools
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readwrite_comp import (
    BadParameter,
    CompExtW,
    Ending,
    EscapeTermR,
    EscapeTermW,
    ExtWrite,
    IdentityR,
    IdentityW,
    Lioness,
    MultiRExt,
    MultiWExt,
    PaddedWindowsR,
    PaddedWindowsW,
    SealedR,
    SealedW,
    SizedWindowsR,
    SizedWindowsW,
    StreamCipherR,
    StreamCipherW,
    WideBlockR,
    WideBlockW,
    WindowSizes,
    stack,
)
from readwrite_comp.errors import InUse
from readwrite_comp.helpers import ByteReader, ByteWriter
from readwrite_comp.inplace import InPlaceW
from readwrite_comp.testing import (
    HostileReader,
    HostileWriter,
    MakePair,
    check_abandoned_write,
    check_corruption,
    check_early_end,
    check_ext_pair,
    check_round_trip,
    check_truncation,
    read_message,
    write_message,
)

from .pairs import (
    KEY,
    LAYERS,
    Pair,
    contents,
    is_authenticated,
    lioness,
    scripts,
    splits,
    stack_of,
    stacks,
    wire_of,
)


@given(
    names=stacks,
    nested=st.booleans(),
    messages=st.lists(contents, min_size=2, max_size=2),
    write_script=scripts,
    read_script=scripts,
    write_splits=splits,
    read_splits=splits,
    flush_every=st.integers(0, 3),
)
def test_round_trip(
    names: list[str],
    nested: bool,
    messages: list[bytes],
    write_script: list[int],
    read_script: list[int],
    write_splits: list[int],
    read_splits: list[int],
    flush_every: int,
) -> None:
    check_round_trip(
        stack_of(names, nested=nested),
        messages,
        write_script=write_script,
        read_script=read_script,
        write_splits=write_splits,
        read_splits=read_splits,
        flush_every=flush_every,
    )


@given(names=stacks, content=contents, write_script=scripts, write_splits=splits)
def test_giving_up(
    names: list[str], content: bytes, write_script: list[int], write_splits: list[int]
) -> None:
    check_abandoned_write(stack_of(names), content, write_script=write_script, write_splits=write_splits)


@given(names=stacks, content=contents, read_bytes=st.integers(0, 200), read_script=scripts)
def test_early_end(names: list[str], content: bytes, read_bytes: int, read_script: list[int]) -> None:
    check_early_end(stack_of(names), content, read_bytes, read_script=read_script)


@given(names=stacks, content=contents, cut=st.integers(0, 600), read_script=scripts, read_splits=splits)
def test_truncation(
    names: list[str], content: bytes, cut: int, read_script: list[int], read_splits: list[int]
) -> None:
    check_truncation(stack_of(names), content, cut, read_script=read_script, read_splits=read_splits)


@given(
    names=stacks,
    content=contents,
    position=st.integers(0, 5_000),
    mask=st.integers(1, 255),
    read_splits=splits,
)
def test_corruption(
    names: list[str], content: bytes, position: int, mask: int, read_splits: list[int]
) -> None:
    check_corruption(
        stack_of(names),
        content,
        position,
        mask,
        authenticated=is_authenticated(names),
        read_splits=read_splits,
    )


# Each example is a whole run of the kit; hypothesis profiles lengthen only the single checks above.
@settings(max_examples=12)
@given(names=stacks)
def test_kit(names: list[str]) -> None:
    check_ext_pair(
        stack_of(names),
        authenticated=is_authenticated(names),
        sizes=(0, 1, 16, 41),
        samples=3,
        seed=len(names),
        long_bytes=0,
    )


# Both orders, and each layer over itself. Contents at the edges of a window or block of most of them.
@pytest.mark.full
@pytest.mark.parametrize("outer", LAYERS)
def test_every_pair(outer: str) -> None:
    for inner in LAYERS:
        names = [outer, inner]
        check_ext_pair(
            stack_of(names), authenticated=is_authenticated(names), sizes=(0, 16, 41), samples=2, long_bytes=0
        )


DEPTH = 128


def _deep_mixed() -> Pair:
    """128 layers, no two of which can be joined. Windows are large compared with the
    content; otherwise each layer's padding would enlarge the next without bound.
    """
    makers: list[MakePair] = [
        lambda: (StreamCipherW(KEY), StreamCipherR(KEY)),
        lambda: (SizedWindowsW(WindowSizes(512)), SizedWindowsR(WindowSizes(512))),
        lambda: (SealedW(KEY, chunk_bytes=4096), SealedR(KEY, chunk_bytes=4096)),
        lambda: (IdentityW(), IdentityR()),
        lambda: (PaddedWindowsW(8192), PaddedWindowsR(8192)),
        lambda: (
            SizedWindowsW(WindowSizes(64), size_written=True),
            SizedWindowsR(WindowSizes(64), size_written=True),
        ),
        lambda: (WideBlockW(lioness(256)), WideBlockR(lioness(256))),
        lambda: (PaddedWindowsW(4096), PaddedWindowsR(4096)),
    ]
    # The two windowed layers that multiply bytes occur once in 16; elsewhere a transparent one replaces them.
    pairs = []
    for index in range(DEPTH):
        kind = index % 8
        if kind in (4, 7) and index > 8:
            kind = 3
        pairs.append(makers[kind]())
    writers, readers = zip(*pairs, strict=True)
    return MultiWExt(writers), MultiRExt(readers)


def _deep_wide_blocks() -> Pair:
    permutations = [Lioness(bytes([index]) * 128, 64) for index in range(DEPTH)]
    return MultiWExt([WideBlockW(p) for p in permutations]), MultiRExt([WideBlockR(p) for p in permutations])


def _deep_stream_ciphers() -> Pair:
    return MultiWExt([StreamCipherW(KEY) for _ in range(DEPTH)]), MultiRExt(
        [StreamCipherR(KEY) for _ in range(DEPTH)]
    )


@pytest.mark.full
@pytest.mark.parametrize("make_pair", [_deep_mixed, _deep_wide_blocks, _deep_stream_ciphers])
def test_a_stack_of_128(make_pair: MakePair) -> None:
    content = bytes(range(150))
    refusing = [0, 1, 7, 0, 0, 500] * 40
    check_round_trip(
        make_pair,
        [content, b""],
        write_script=refusing,
        read_script=refusing,
        write_splits=(33, 5),
        read_splits=(3, 200),
    )
    check_round_trip(make_pair, [content, content], flush_every=2)
    check_abandoned_write(make_pair, content, write_script=[1 << 20] * 3 + [0] * 9, write_splits=(9,))
    wire_bytes = len(check_round_trip(make_pair, [content]))
    for part in range(1, 6):
        check_truncation(make_pair, content, wire_bytes * part // 6)
        check_corruption(
            make_pair, content, wire_bytes * part // 6, 1, authenticated=make_pair is _deep_mixed
        )


@pytest.mark.parametrize("make_pair", [_deep_mixed, _deep_wide_blocks])
def test_depth_costs_no_python_stack(make_pair: MakePair) -> None:
    writer, reader = make_pair()
    depth = len(inspect.stack(0))
    limit = sys.getrecursionlimit()
    # Far less than one Python frame per layer.
    sys.setrecursionlimit(depth + 40)
    try:
        w = HostileWriter()
        write_message(writer, w, b"deep")
        result = read_message(reader, HostileReader(bytes(w.data)), 4)
    finally:
        sys.setrecursionlimit(limit)
    assert result.error is None
    assert result.content == b"deep"


def _written(layers: list[ExtWrite], content: bytes) -> bytes:
    """The wire of separate layers, each writing all of its message before the next begins."""
    for layer in reversed(layers):
        content = wire_of(layer, content)
    return content


@given(content=contents, depth=st.integers(1, 6))
def test_joined_layers_write_the_same_bytes(content: bytes, depth: int) -> None:
    permutations = [Lioness(bytes([index]) * 128, 48) for index in range(depth)]
    joined = MultiWExt([WideBlockW(p, first_tweak=i, inverse=i % 2 == 1) for i, p in enumerate(permutations)])
    separate: list[ExtWrite] = [
        WideBlockW(p, first_tweak=i, inverse=i % 2 == 1) for i, p in enumerate(permutations)
    ]
    assert _written([joined], content) == _written(separate, content)


@given(content=contents, depth=st.integers(1, 5))
def test_joined_stream_ciphers_are_read_by_separate_ones(content: bytes, depth: int) -> None:
    keys = [bytes([index]) * 32 for index in range(depth)]
    data = _written([MultiWExt([StreamCipherW(key) for key in keys])], content)
    assert len(data) == len(content) + 16 * depth
    for key in keys:
        data = read_message(StreamCipherR(key), HostileReader(data), None).content
    assert data == content
    data = _written([StreamCipherW(key) for key in keys], content)
    assert (
        read_message(MultiRExt([StreamCipherR(key) for key in keys]), HostileReader(data), None).content
        == content
    )


def test_bytes_opened_by_an_outer_layer_are_passed_on_in_one_piece() -> None:
    """Otherwise each pair of bytes that `EscapeTerm` may read would cost a pass through the stack."""
    content = bytes(range(256)) * 16
    stream = io.BytesIO(_written([MultiWExt([SealedW(KEY, chunk_bytes=512), EscapeTermW()])], content))
    reader, reads = MultiRExt([SealedR(KEY, chunk_bytes=512), EscapeTermR()]), 0
    reader.read_header(stream)
    buffer, got = bytearray(1000), b""
    while count := reader.read_into(stream, buffer):
        got, reads = got + buffer[:count], reads + 1
    reader.read_end(stream)
    assert got == content
    # Two for each chunk: one that opens it, one for the rest of it.
    assert reads <= 2 * (len(content) // 512 + 2)


def test_a_layer_alone_that_overrides_the_public_calls() -> None:
    class UpperW(IdentityW):
        def write_into(self, w: ByteWriter, data: bytes | bytearray | memoryview) -> int:
            return super().write_into(w, bytes(data).upper())

    class LowerR(IdentityR):
        def read_into(self, r: ByteReader, buffer: bytearray | memoryview) -> int:
            count = super().read_into(r, buffer)
            buffer[:count] = bytes(buffer[:count]).lower()
            return count

    assert wire_of(MultiWExt([UpperW()]), b"quiet") == b"QUIET"
    assert read_message(MultiRExt([LowerR()]), HostileReader(b"QUIET"), None).content == b"quiet"


def test_a_layer_that_overrides_something_is_not_joined() -> None:
    taken = []

    class CountingW(StreamCipherW):
        def _take(self, w: ByteWriter, view: memoryview) -> int:
            count = super()._take(w, view)
            taken.append(count)
            return count

    wire = wire_of(MultiWExt([StreamCipherW(KEY), CountingW(KEY), StreamCipherW(KEY)]), b"content")
    assert taken == [16, 7]
    reader = MultiRExt([StreamCipherR(KEY) for _ in range(3)])
    assert read_message(reader, HostileReader(wire), None).content == b"content"


def test_neighbours_are_joined_and_stacks_unpacked() -> None:
    inner = MultiWExt([WideBlockW(lioness(64)), IdentityW()])
    stack = CompExtW(MultiWExt([WideBlockW(lioness(48)), WideBlockW(lioness(64))]), inner)
    # 64 and 64 meet where the two stacks do.
    assert [type(layer) for layer in stack.layers] == [WideBlockW, InPlaceW, IdentityW]


def test_outer_layer_is_first_on_the_wire() -> None:
    wire = _written([CompExtW(SizedWindowsW(WindowSizes(8), size_written=True), PaddedWindowsW(4))], b"ab")
    assert wire[:4] == b"\0\0\0\x08"
    assert wire[4:10] == b"\x80\0\0\2ab"


@pytest.mark.parametrize(
    ("names", "ends"),
    [
        (["identity"], Ending.NEVER),
        (["identity", "stream_cipher"], Ending.NEVER),
        (["sealed", "identity"], Ending.EXACT),
        (["identity", "sealed"], Ending.EXACT),
        (["sealed", "wide_block"], Ending.PADDED),
        (["wide_block", "sealed"], Ending.EXACT),
        (["sized", "stream_cipher", "identity"], Ending.PADDED),
    ],
)
def test_how_a_stack_ends(names: list[str], ends: Ending) -> None:
    for nested in (False, True):
        if nested and len(names) == 1:
            continue
        writer, reader = stack_of(names, nested=nested)()
        assert writer.ends is reader.ends is ends


def test_invalid_stacks_are_refused() -> None:
    for kind in (MultiWExt, MultiRExt):
        with pytest.raises(BadParameter):
            kind([])
    writer, reader = IdentityW(), IdentityR()
    with pytest.raises(InUse, match="twice"):
        MultiWExt([writer, writer])
    with pytest.raises(InUse, match="twice"):
        MultiRExt([reader, reader])
    writer.write_header(HostileWriter())
    reader.read_header(HostileReader(b""))
    with pytest.raises(InUse, match="CONTENT"):
        MultiWExt([IdentityW(), writer])
    with pytest.raises(InUse, match="CONTENT"):
        MultiRExt([reader])


def test_a_stack_holds_little_when_refused() -> None:
    """The stream accepts nothing: the stack accepts a few windows and then refuses, instead of growing."""
    writer = MultiWExt([SealedW(KEY, chunk_bytes=64), PaddedWindowsW(64), SealedW(KEY, chunk_bytes=64)])
    w = HostileWriter(itertools.chain([1 << 20], itertools.repeat(0)))
    writer.write_header(w)
    taken = [0]

    def write_on() -> None:
        for _ in range(1_000):
            taken[0] += writer.write_into(w, bytes(50))

    with pytest.raises(BlockingIOError):
        write_on()
    assert 0 < taken[0] < 1_000


def test_a_call_for_whole_pieces_names_a_layer_of_a_wrong_type() -> None:
    stream: Any = None
    calls: list[Callable[[Any], object]] = [
        lambda ext: stack.write_all_into(ext, stream, b"x"),
        lambda ext: stack.read_exact_from(ext, stream, bytearray(1)),
        lambda ext: stack.read_to_end(ext, stream, bytearray(), limit_bytes=1),
    ]
    for call in calls:
        for wrong in (5, b"x", None, IdentityR):
            with pytest.raises(TypeError, match="ext: expected a layer that"):
                call(wrong)
