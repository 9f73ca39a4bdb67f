"""The cases of `bench.layers`: work through our layers, and its bound, the same primitives without layers.

Both are functions of the number of the call. A case that writes sends content through a layer into a stream
that accepts everything; a case that reads takes it from a stream that never ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import TypeAlias

from readwrite_comp import (
    EndStreamR,
    EndStreamW,
    EscapeTermR,
    EscapeTermW,
    ExtRead,
    ExtWrite,
    Hctr,
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
)
from readwrite_comp.primitives import (
    SPARE_BYTES,
    TAG_BYTES,
    Engine,
    bound_xor,
    engine_names,
    get_engine,
)
from readwrite_comp.wideblock import HCTR_KEY_BYTES, LEFT_BYTES, LIONESS_KEY_BYTES, WidePermutation

__all__ = ["BLOCKS", "DEPTHS", "KINDS", "LIMITERS", "MIXED", "Pair", "Work", "pairs"]

Work: TypeAlias = Callable[[int], None]

BLOCKS = (1024, 16 * 1024, 64 * 1024)
DEPTHS = (1, 3, 6, 25)
KINDS = ("stream cipher", "sealed", "LIONESS", "HCTR")

_KEY = bytes(range(32))
_WIDE_KEYS = bytes(range(LIONESS_KEY_BYTES))
# A message that is read again and again: long enough that its header does not count.
_MESSAGE_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Pair:
    """One case before it is measured.

    Attributes:
        passes: raw passes over the content in one call, so that deep stacks get fewer calls.
        content_bytes: content of one call.
    """

    name: str
    engine: str
    block_bytes: int
    work: Work
    bound: Work
    passes: int
    content_bytes: int


class _Nowhere:
    """A stream that takes everything."""

    def write(self, data: memoryview, /) -> int:
        return len(data)


class _Always:
    """A stream that always has enough; its bytes are those in the reader's buffer."""

    def readinto(self, buffer: memoryview, /) -> int:
        return len(buffer)


class _Copying:
    """A stream that takes everything and copies it once, as a socket would."""

    def __init__(self, room_bytes: int) -> None:
        self._buffer = memoryview(bytearray(room_bytes))

    def write(self, data: memoryview, /) -> int:
        self._buffer[: len(data)] = data
        return len(data)


def pairs() -> Iterator[Pair]:
    """Give all cases, with each engine that is installed."""
    for block_bytes in BLOCKS:
        for name in LIMITERS:
            yield from _limiter(name, block_bytes)
    for engine in (get_engine(name) for name in engine_names()):
        for block_bytes in BLOCKS:
            yield from _permutations(engine, block_bytes)
        for name in MIXED:
            yield from _mixed(name, engine)
        for kind in KINDS:
            for block_bytes in BLOCKS:
                for depth in DEPTHS:
                    yield from _stack(kind, engine, depth, block_bytes)


def _through(layer: ExtWrite, stream: _Nowhere | _Copying, content: memoryview) -> Work:
    """Begin a message; each call sends the content through the layer."""
    layer.write_header(stream)

    def work(_: int) -> None:
        rest = content
        while rest:
            rest = rest[layer.write_into(stream, rest) :]

    return work


def _message_again(layer: ExtRead, wire: bytes, content_bytes: int) -> Work:
    """Each call reads the same whole message."""
    buffer = memoryview(bytearray(content_bytes // _MESSAGE_BLOCKS))

    def work(_: int) -> None:
        # With `peek`, which EscapeTerm wants; the same for all.
        stream = BufferedReader(BytesIO(wire), len(buffer))
        layer.read_header(stream)
        left = content_bytes
        while left:
            left -= layer.read_into(stream, buffer[:left])
        layer.read_end(stream)

    return work


def _written(layer: ExtWrite, content: bytes) -> bytes:
    stream, rest = BytesIO(), memoryview(content)
    layer.write_header(stream)
    while rest:
        rest = rest[layer.write_into(stream, rest) :]
    layer.write_end(stream)
    return stream.getvalue()


# Limiters: the bound is one copy of the content.

LIMITERS: dict[str, Callable[[int], tuple[ExtWrite, ExtRead]]] = {
    "SizedWindows": lambda size: (
        SizedWindowsW(WindowSizes(size), size_written=True),
        SizedWindowsR(WindowSizes(size), size_written=True),
    ),
    "PaddedWindows": lambda size: (PaddedWindowsW(size), PaddedWindowsR(size)),
    "EndStream": lambda size: (EndStreamW(size), EndStreamR(size)),
    "EscapeTerm": lambda _: (EscapeTermW(0xC0), EscapeTermR(0xC0)),
}


def _limiter(name: str, block_bytes: int) -> Iterator[Pair]:
    content = memoryview(_text(block_bytes))
    sink = _Copying(2 * block_bytes + 64)
    writer, _ = LIMITERS[name](block_bytes)

    def copy(_: int) -> None:
        sink.write(content)

    yield Pair(f"{name} write", "–", block_bytes, _through(writer, sink, content), copy, 1, block_bytes)
    writer, reader = LIMITERS[name](block_bytes)
    size = block_bytes * _MESSAGE_BLOCKS
    wire = _written(writer, bytes(content) * _MESSAGE_BLOCKS)
    target = memoryview(bytearray(block_bytes))

    def read_raw(_: int) -> None:
        stream = BufferedReader(BytesIO(wire), block_bytes)
        for _block in range(_MESSAGE_BLOCKS):
            stream.readinto(target)

    work = _message_again(reader, wire, size)
    yield Pair(f"{name} read", "–", block_bytes, work, read_raw, _MESSAGE_BLOCKS, size)


# Limiters inside a seal, as one would use them: the bound is the seal of the content by itself.

MIXED: dict[str, Callable[[], tuple[ExtWrite, ExtRead]]] = {
    "EscapeTerm": lambda: (EscapeTermW(0xC0), EscapeTermR(0xC0)),
    "PaddedWindows of 1 KiB": lambda: (PaddedWindowsW(1024), PaddedWindowsR(1024)),
}


def _mixed(name: str, engine: Engine) -> Iterator[Pair]:
    block_bytes, size = BLOCKS[1], BLOCKS[1] * _MESSAGE_BLOCKS
    title, content = f"{name} in Sealed", _text(block_bytes)
    sealed, _, seal = _parts("sealed", engine, block_bytes, 1)
    writer, _ = MIXED[name]()
    work = _through(MultiWExt([*sealed, writer]), _Nowhere(), memoryview(content))
    yield Pair(f"{title} write", engine.name, block_bytes, work, seal, 1, block_bytes)
    sealed, opened, _ = _parts("sealed", engine, block_bytes, 1)
    writer, reader = MIXED[name]()
    wire = _written(MultiWExt([*sealed, writer]), content * _MESSAGE_BLOCKS)
    work = _message_again(MultiRExt([*opened, reader]), wire, size)

    def bound(number: int) -> None:
        for _ in range(_MESSAGE_BLOCKS):
            seal(number)

    yield Pair(f"{title} read", engine.name, block_bytes, work, bound, _MESSAGE_BLOCKS, size)


def _text(count: int) -> bytes:
    """Content with each byte value equally often: EscapeTerm doubles one in 256."""
    return (bytes(range(256)) * (count // 256 + 1))[:count]


# The two permutations by themselves: the bound is their own primitive passes.


def _permutations(engine: Engine, block_bytes: int) -> Iterator[Pair]:
    block = memoryview(bytearray(block_bytes))
    for name, permutation, bound in (
        ("LIONESS", Lioness(_WIDE_KEYS, block_bytes, engine), _lioness_passes(engine, block)),
        ("HCTR", Hctr(_WIDE_KEYS[:HCTR_KEY_BYTES], block_bytes, engine), _hctr_passes(engine, block_bytes)),
    ):
        yield Pair(
            f"{name} itself", engine.name, block_bytes, _encryption(permutation, block), bound, 1, block_bytes
        )


def _encryption(permutation: WidePermutation, block: memoryview) -> Work:
    def work(number: int) -> None:
        permutation.encrypt(block, number)

    return work


def _lioness_passes(engine: Engine, block: memoryview) -> Work:
    right = block[LEFT_BYTES:]

    def passes(_: int) -> None:
        engine.xor_keystream(_KEY, right)
        hashlib.sha256(right).digest()
        engine.xor_keystream(_KEY, right)
        hashlib.sha256(right).digest()

    return passes


def _hctr_passes(engine: Engine, block_bytes: int) -> Work:
    gmac, cipher = engine.gmac(_KEY), engine.block_cipher(_KEY)
    text = memoryview(bytearray(block_bytes - 8))
    spacious = memoryview(bytearray(block_bytes - 16 + SPARE_BYTES))
    xor = bound_xor(spacious[:-SPARE_BYTES], memoryview(bytes(block_bytes - 16)))

    def passes(_: int) -> None:
        gmac(text)
        xor()
        cipher.encrypt_blocks(spacious)
        xor()
        gmac(text)

    return passes


# Stacks of one kind: the bound is as many raw passes over one buffer.


def _stack(kind: str, engine: Engine, depth: int, block_bytes: int) -> Iterator[Pair]:
    name = f"{depth} × {kind}"
    content = memoryview(bytes(block_bytes))
    writers, readers, raw = _parts(kind, engine, block_bytes, depth)

    def bound(number: int) -> None:
        for _ in range(depth):
            raw(number)

    work = _through(MultiWExt(writers), _Nowhere(), content)
    yield Pair(f"{name} write", engine.name, block_bytes, work, bound, depth, block_bytes)
    if depth not in DEPTHS[:2] or block_bytes == BLOCKS[0]:
        return
    if kind == "sealed":
        size = block_bytes * _MESSAGE_BLOCKS
        sealed, _, _ = _parts(kind, engine, block_bytes, depth)
        wire = _written(MultiWExt(sealed), bytes(size))
        work = _message_again(MultiRExt(readers), wire, size)

        def bound_of_message(number: int) -> None:
            for _ in range(_MESSAGE_BLOCKS):
                bound(number)

        yield Pair(
            f"{name} read", engine.name, block_bytes, work, bound_of_message, depth * _MESSAGE_BLOCKS, size
        )
    else:
        work = _out_of(MultiRExt(readers), block_bytes)
        yield Pair(f"{name} read", engine.name, block_bytes, work, bound, depth, block_bytes)


def _out_of(layer: ExtRead, block_bytes: int) -> Work:
    """Begin a message; each call reads one block of it."""
    stream, buffer = _Always(), memoryview(bytearray(block_bytes))
    layer.read_header(stream)

    def work(_: int) -> None:
        layer.read_into(stream, buffer)

    return work


def _parts(
    kind: str, engine: Engine, block_bytes: int, depth: int
) -> tuple[Sequence[ExtWrite], Sequence[ExtRead], Work]:
    """Return layers to write, layers to read, and one raw pass."""
    block = memoryview(bytearray(block_bytes))
    each = range(depth)
    if kind == "stream cipher":
        keystream = engine.ctr(_KEY, bytes(16))
        return (
            [StreamCipherW(_KEY, engine=engine) for _ in each],
            [StreamCipherR(_KEY, engine=engine) for _ in each],
            lambda _: keystream.apply(block),
        )
    if kind == "sealed":
        aead = engine.aead(_KEY)
        room = memoryview(bytearray(block_bytes + TAG_BYTES))
        text = room[:block_bytes]
        return (
            [SealedW(_KEY, chunk_bytes=block_bytes, engine=engine) for _ in each],
            [SealedR(_KEY, chunk_bytes=block_bytes, engine=engine) for _ in each],
            lambda number: aead.seal_into(number.to_bytes(12, "big"), text, b"", room),
        )
    permutation: WidePermutation
    if kind == "LIONESS":
        permutation = Lioness(_WIDE_KEYS, block_bytes, engine)
    else:
        permutation = Hctr(_WIDE_KEYS[:HCTR_KEY_BYTES], block_bytes, engine)
    return (
        [WideBlockW(permutation) for _ in each],
        [WideBlockR(permutation) for _ in each],
        _encryption(permutation, block),
    )
