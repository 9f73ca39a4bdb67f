"""Any buffer of a caller is counted in bytes, whatever its format and shape."""

from __future__ import annotations

import array
import contextlib
import ctypes
import io
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import (
    BadParameter,
    ChainExtRead,
    CompExtR,
    CompExtW,
    CompR,
    CompW,
    EndStreamR,
    EndStreamW,
    EscapeTermR,
    EscapeTermW,
    ExtRead,
    ExtWrite,
    FileR,
    FileW,
    Hctr,
    IdentityR,
    IdentityW,
    Lioness,
    Malformed,
    MultiRExt,
    MultiWExt,
    PaddedWindowsR,
    PaddedWindowsW,
    SealedR,
    SealedW,
    SharedR,
    SharedW,
    SizedWindowsR,
    SizedWindowsW,
    StreamCipherR,
    StreamCipherW,
    WideBlockR,
    WideBlockW,
    WindowSizes,
    read_exact_from,
    read_to_end,
    write_all_into,
)
from readwrite_comp.helpers import Owed, Take, byte_view, writable_view
from readwrite_comp.inplace import InPlaceR, InPlaceW
from readwrite_comp.limiters import Padding
from readwrite_comp.primitives import engine_names, get_engine
from readwrite_comp.testing import HostileReader, HostileWriter
from tests.support.buffers import NO_BUFFERS, SHAPES

KEY = bytes(range(32))


LAYERS: dict[str, Callable[[], tuple[ExtWrite, ExtRead]]] = {
    "identity": lambda: (IdentityW(), IdentityR()),
    "sealed": lambda: (SealedW(KEY, chunk_bytes=48), SealedR(KEY, chunk_bytes=48)),
    "keystream": lambda: (StreamCipherW(KEY), StreamCipherR(KEY)),
    "padded": lambda: (PaddedWindowsW(40), PaddedWindowsR(40)),
    "sized": lambda: (SizedWindowsW(WindowSizes(24)), SizedWindowsR(WindowSizes(24))),
    "end mark": lambda: (EndStreamW(24), EndStreamR(24)),
    "escaped": lambda: (EscapeTermW(), EscapeTermR()),
    "stack": lambda: (
        MultiWExt([StreamCipherW(KEY), PaddedWindowsW(40)]),
        MultiRExt([StreamCipherR(KEY), PaddedWindowsR(40)]),
    ),
    "shared": lambda: (SharedW(SealedW(KEY)), SharedR(SealedR(KEY))),
}


@given(
    layer=st.sampled_from(sorted(LAYERS)),
    shape=st.sampled_from(sorted(SHAPES)),
    words=st.binary(max_size=40),
    step=st.integers(1, 7),
)
def test_a_layer_passes_all_bytes_of_any_buffer(layer: str, shape: str, words: bytes, step: int) -> None:
    content = words + bytes(8 + -len(words) % 8)
    writer, reader = LAYERS[layer]()
    below = HostileWriter([step, 0] * 4096)
    data = SHAPES[shape](content)
    _until_done(lambda: writer.write_header(below))
    done = 0
    while done < len(content):
        with contextlib.suppress(BlockingIOError):
            done += writer.write_into(below, byte_view(data)[done:] if done else data)
    assert done == len(content)
    _until_done(lambda: writer.write_end(below))
    source = HostileReader(bytes(below.data))
    reader.read_header(source)
    buffer = SHAPES[shape](bytes(len(content)))
    read_exact_from(reader, source, buffer)
    assert bytes(byte_view(buffer)) == content


@given(shape=st.sampled_from(sorted(SHAPES)), script=st.lists(st.integers(0, 9), max_size=20))
def test_writing_all_of_any_buffer_continues_where_the_stream_refused(shape: str, script: list[int]) -> None:
    content = bytes(range(64))
    layer, below, done = IdentityW(), HostileWriter(script), 0
    layer.write_header(below)
    data = SHAPES[shape](content)
    while done < len(content):
        try:
            write_all_into(layer, below, byte_view(data)[done:] if done else data)
        except BlockingIOError as error:
            done += error.characters_written
        else:
            done = len(content)
    assert bytes(below.data) == content


@pytest.mark.parametrize("shape", SHAPES)
def test_files_over_layers_take_and_fill_any_buffer(shape: str) -> None:
    content = bytes(range(160))
    stream = io.BytesIO()
    with CompW(stream, SealedW(KEY)) as comp:
        assert comp.write(SHAPES[shape](content)) == len(content)
    with FileW(stream, SealedW(KEY)) as file:
        assert file.write(SHAPES[shape](content)) == len(content)
    stream.seek(0)
    for buffer in (SHAPES[shape](bytes(len(content))) for _ in range(2)):
        with CompR(stream, SealedR(KEY)) as reader:
            assert reader.readinto(buffer) == len(content)
        assert bytes(byte_view(buffer)) == content
    stream.seek(0)
    with FileR(stream, SealedR(KEY)) as read_back:
        buffer = SHAPES[shape](bytes(len(content)))
        assert read_back.readinto(buffer) == len(content)
    assert bytes(byte_view(buffer)) == content


@pytest.mark.parametrize("shape", SHAPES)
def test_owed_content_is_counted_in_bytes(shape: str) -> None:
    content = bytes(range(32))
    below = HostileWriter([5, 0, 3])
    owed = Owed()
    owed.owe(SHAPES[shape](content))
    owed.owe(SHAPES[shape](content))
    assert len(owed) == 64
    with pytest.raises(BlockingIOError):
        owed.settle(below)
    owed.settle(below)
    assert bytes(below.data) == content * 2
    owed.send(HostileWriter([8, 0]), memoryview(array.array("I", content)))
    assert len(owed) == 24  # 8 items, but only 8 bytes were accepted


def test_a_structure_is_taken_into_any_buffer() -> None:
    target, take = array.array("I", bytes(16)), Take()
    take.begin(memoryview(target))
    assert take.fill(io.BytesIO(bytes(range(32))), "16 bytes")
    assert target.tobytes() == bytes(range(16))


def test_a_view_without_bytes_is_empty_whatever_its_shape() -> None:
    empty = memoryview(((ctypes.c_uint16 * 0) * 3)())
    assert len(byte_view(empty)) == 0
    writer, below = SealedW(KEY), io.BytesIO()
    writer.write_header(below)
    assert writer.write_into(below, empty) == 0
    assert len(writable_view(array.array("I"))) == 0


@pytest.mark.parametrize(("value", "word"), NO_BUFFERS.values(), ids=NO_BUFFERS.keys())
def test_a_non_contiguous_buffer_is_refused_by_name(value: Any, word: str) -> None:
    writer, reader, below = SealedW(KEY), SealedR(KEY), io.BytesIO()
    writer.write_header(below)
    below.seek(0)
    reader.read_header(below)
    calls: list[Callable[[], object]] = [
        lambda: writer.write_into(below, value),
        lambda: write_all_into(writer, below, value),
        lambda: reader.read_into(below, value),
        lambda: read_exact_from(reader, below, value),
        lambda: CompW(io.BytesIO(), IdentityW()).write(value),
        lambda: CompR(io.BytesIO(), IdentityR()).readinto(value),
        lambda: Owed().owe(value),
        lambda: Take().begin(value),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=rf"expected .*{word}"):
            call()


@pytest.mark.parametrize("buffer", [b"12345678", memoryview(array.array("I", [1, 2])).toreadonly()])
def test_reading_into_a_read_only_buffer_is_refused(buffer: Any) -> None:
    reader, source = IdentityR(), io.BytesIO(b"content")
    reader.read_header(source)
    for call in (reader.read_into, lambda r, view: read_exact_from(reader, r, view)):
        with pytest.raises(BadParameter, match="read-only"):
            call(source, buffer)
    assert source.tell() == 0


def test_content_is_gathered_in_a_bytearray_only() -> None:
    reader = IdentityR()
    reader.read_header(io.BytesIO())
    with pytest.raises(TypeError, match=r"expected a bytearray.*bytes"):
        read_to_end(reader, io.BytesIO(b"lost"), b"", limit_bytes=9)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", engine_names())
def test_engines_work_on_bytes_or_refuse(name: str) -> None:
    engine, ints = get_engine(name), array.array("I", range(8))
    aead, nonce = engine.aead(KEY), bytes(12)
    sealed = aead.seal(nonce, ints)  # type: ignore[arg-type]
    assert sealed == aead.seal(nonce, ints.tobytes())
    assert aead.open(nonce, memoryview(array.array("I", sealed))) == ints.tobytes()
    for change in (engine.ctr(KEY, bytes(16)).apply, lambda view: engine.xor_keystream(KEY, view)):
        plain = ints.tobytes()
        with contextlib.suppress(TypeError):
            change(memoryview(ints))
            assert not any(a == b for a, b in zip(ints.tobytes()[::4], plain[::4], strict=True))


NO_KEYS: dict[str, Any] = {"hex": KEY.hex(), "numbers": list(KEY), "a number": 32, "None": None}


@pytest.mark.parametrize("key", NO_KEYS.values(), ids=NO_KEYS.keys())
def test_a_key_is_bytes(key: Any) -> None:
    kinds: list[Callable[[Any], object]] = [
        SealedW,
        SealedR,
        StreamCipherW,
        StreamCipherR,
        lambda key: Lioness(key, 64),
        lambda key: Hctr(key, 64),
        lambda key: get_engine().aead(key),
    ]
    for make in kinds:
        with pytest.raises(TypeError, match=r"keys?: expected bytes"):
            make(key)
    with pytest.raises(BadParameter, match="key is 128 bytes, expected 32"):
        SealedW(array.array("I", range(32)))  # type: ignore[arg-type]


# A layer, stream or setting of a wrong kind.


def _no_layers(right: type[ExtWrite] | type[ExtRead]) -> list[Any]:
    wrong = SealedR(KEY) if right is ExtWrite else SealedW(KEY)
    return [wrong, io.BytesIO(), b"layer", None, IdentityW if right is ExtWrite else IdentityR]


def test_a_writer_in_place_of_a_reader_is_refused_and_vice_versa() -> None:
    writing: list[Callable[[Any], object]] = [
        lambda layer: CompW(io.BytesIO(), layer),
        lambda layer: FileW(io.BytesIO(), layer),
        lambda layer: MultiWExt([IdentityW(), layer]),
        lambda layer: CompExtW(layer, IdentityW()),
        lambda layer: write_all_into(layer, io.BytesIO(), b"content"),
        SharedW,
    ]
    reading: list[Callable[[Any], object]] = [
        lambda layer: CompR(io.BytesIO(), layer),
        lambda layer: FileR(io.BytesIO(), layer),
        lambda layer: MultiRExt([IdentityR(), layer]),
        lambda layer: CompExtR(layer, IdentityR()),
        lambda layer: ChainExtRead(layer, IdentityR()),
        lambda layer: ChainExtRead(SealedR(KEY), layer),
        lambda layer: read_exact_from(layer, io.BytesIO(), bytearray(1)),
        lambda layer: read_to_end(layer, io.BytesIO(), bytearray(), limit_bytes=1),
        SharedR,
    ]
    for makers, kind, verb in ((writing, ExtWrite, "writes"), (reading, ExtRead, "reads")):
        for make in makers:
            for layer in _no_layers(kind):
                with pytest.raises(TypeError, match=f"a layer that {verb}"):
                    make(layer)


def test_one_layer_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match="a list of layers, got IdentityW"):
        MultiWExt(IdentityW())  # type: ignore[arg-type]
    assert MultiWExt(layer for layer in (IdentityW(), SealedW(KEY))).ends is SealedW.ends


def test_a_stream_of_the_other_direction_or_of_text_is_refused() -> None:
    class ReadsOnly:
        def readinto(self, buffer: memoryview) -> int:
            return 0

    class WritesOnly:
        def write(self, data: memoryview) -> int:
            return len(data)

    neither: list[Any] = [b"bytes", "path", io.StringIO(), io.BytesIO, None]
    for stream in (ReadsOnly(), *neither):
        with pytest.raises(TypeError, match="stream: expected"):
            CompW(stream, IdentityW())
    for stream in (WritesOnly(), *neither):
        with pytest.raises(TypeError, match="stream: expected"):
            FileR(stream, IdentityR())
    comp = CompW(io.BytesIO(), IdentityW())
    comp.suspend()
    with pytest.raises(TypeError, match="binary mode"):
        comp.resume(io.StringIO())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["zero", "ZERO", " Zero "])
def test_padding_may_be_given_by_name(name: str) -> None:
    below = io.BytesIO()
    with CompW(below, PaddedWindowsW(16, padding=name)) as comp:
        comp.write(b"content")
    assert below.getvalue()[-9:] == bytes(9)
    spoiled = io.BytesIO(below.getvalue()[:-1] + b"x")
    reader = CompR(spoiled, PaddedWindowsR(16, padding=name))
    assert reader.read(7) == b"content"
    with pytest.raises(Malformed):
        reader.close()


@pytest.mark.parametrize("padding", ["zeros", "", None, 0, "padding.zero"])
def test_padding_of_no_known_name_is_refused_with_the_list(padding: Any) -> None:
    makers: list[Callable[[], object]] = [
        lambda: PaddedWindowsW(16, padding=padding),
        lambda: PaddedWindowsR(16, padding=padding),
        lambda: SizedWindowsW(WindowSizes(16), padding=padding),
        lambda: SizedWindowsR(WindowSizes(16), padding=padding),
        lambda: EndStreamW(16, padding=padding),
    ]
    for make in makers:
        with pytest.raises(BadParameter, match="zero, random"):
            make()
    assert Padding.of("random") is Padding.RANDOM


NO_NUMBERS: list[Any] = ["16", 16.0, None, True, b"16"]


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_an_argument_that_is_not_a_whole_number_is_refused_by_name(number: Any) -> None:
    makers: dict[str, list[Callable[[], object]]] = {
        "window_bytes": [
            lambda: PaddedWindowsW(number),
            lambda: PaddedWindowsR(number),
            lambda: EndStreamW(number),
            lambda: EndStreamR(number),
        ],
        "first_bytes": [lambda: WindowSizes(number)],
        "max_bytes": [lambda: WindowSizes(16, (1, 1), number)],
        r"growth\[0\]": [lambda: WindowSizes(16, (number, 1), 99)],
        r"growth\[1\]": [lambda: WindowSizes(16, (1, number), 99)],
        "escape": [lambda: EscapeTermW(number), lambda: EscapeTermR(number)],
        "chunk_bytes": [
            lambda: SealedW(KEY, chunk_bytes=number),
            lambda: SealedR(KEY, chunk_bytes=number),
        ],
        "block_bytes": [lambda: Lioness(bytes(128), number), lambda: Hctr(bytes(64), number)],
        "first_tweak": [
            lambda: WideBlockW(Lioness(bytes(128), 64), first_tweak=number),
            lambda: WideBlockR(Lioness(bytes(128), 64), first_tweak=number),
        ],
        "buffer_bytes": [
            lambda: FileW(io.BytesIO(), IdentityW(), buffer_bytes=number),
            lambda: FileR(io.BytesIO(), IdentityR(), buffer_bytes=number),
        ],
        "limit_bytes": [
            lambda: read_to_end(IdentityR(), io.BytesIO(), bytearray(), limit_bytes=number),
        ],
    }
    for name, calls in makers.items():
        for call in calls:
            with pytest.raises(TypeError, match=f"^{name}: expected a whole number, got "):
                call()


@pytest.mark.parametrize("value", ["16", 16, None, Lioness])
def test_an_argument_of_another_kind_is_named_with_what_was_expected(value: Any) -> None:
    makers: dict[str, list[Callable[[], object]]] = {
        "sizes: expected WindowSizes": [lambda: SizedWindowsW(value), lambda: SizedWindowsR(value)],
        r"growth: expected \(numerator, denominator\)": [lambda: WindowSizes(16, value)],
        "permutation: expected a Lioness": [lambda: WideBlockW(value), lambda: WideBlockR(value)],
        "transforms: expected a list": [lambda: InPlaceW(value), lambda: InPlaceR(value)],
        "layers: expected a list": [] if isinstance(value, str) else [lambda: MultiWExt(value)],
    }
    for text, calls in makers.items():
        for call in calls:
            with pytest.raises(TypeError, match=f"^{text}"):
                call()
    if not isinstance(value, str | None):
        for make in (SealedW, SealedR, StreamCipherW, StreamCipherR):
            with pytest.raises(TypeError, match="engine: expected an engine or its name"):
                make(KEY, engine=value)


def test_an_engine_may_be_given_by_name() -> None:
    below = io.BytesIO()
    with CompW(below, SealedW(KEY, engine="pycryptodome")) as comp:
        comp.write(b"content")
    below.seek(0)
    with CompR(below, SealedR(KEY, engine="PyCryptodome")) as reader:
        assert reader.read() == b"content"
    for make in (SealedW, StreamCipherR):
        with pytest.raises(BadParameter, match="auto, openssl, pycryptodome"):
            make(KEY, engine="rot13")


def _until_done(call: Callable[[], object]) -> None:
    while True:
        with contextlib.suppress(BlockingIOError):
            call()
            return
