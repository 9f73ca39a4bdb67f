"""Length-preserving layers: any number of them works on one buffer, in place.

A `Transform` is the part that differs (a keystream, a wide-block permutation); `InPlaceW` and `InPlaceR` are
the layers around one or more of them. `MultiWExt` and `MultiRExt` join neighbours of equal block size: a
stack of 25 such layers is a loop over one buffer, and the bytes on the wire are those of separate layers.

Transform 0 is next to the stream. Its header comes first on the wire, in the clear; the header of transform 1
is transformed by 0, and so on. Content passes from the last to the first when written, in reverse when read.

* block_bytes = 1: any length (a keystream). Ends: NEVER.
* block_bytes > 1: whole blocks, the last padded with zero bytes before the transforms. Ends: PADDED. A
  message without content is zero blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from readwrite_comp.base import Ending, ExtRead, ExtWrite, _Phased
from readwrite_comp.errors import BadParameter
from readwrite_comp.helpers import ByteReader, ByteWriter, Take, read_some
from readwrite_comp.primitives import COUNTER_BLOCK_BYTES, Engine, checked_key, engine_of, random_bytes

__all__ = ["InPlaceR", "InPlaceW", "StreamCipherR", "StreamCipherW", "Transform"]

# The most that one write of a keystream layer takes: larger buffers cost memory and save nothing.
_STREAM_BYTES = 64 * 1024
_EMPTY = memoryview(b"")


class Transform(Protocol):
    """A length-preserving transformation of one message at a time."""

    @property
    def block_bytes(self) -> int:
        """Length of its blocks; 1: any length."""
        ...

    @property
    def header_bytes(self) -> int:
        """Length of its header; 0 if `block_bytes` is more than 1."""
        ...

    def begin_write(self) -> bytes:
        """Begin to write a message and return its header."""
        ...

    def begin_read(self, header: bytes) -> None:
        """Begin to read a message with this header."""
        ...

    @property
    def apply(self) -> Callable[[memoryview], None]:
        """Transforms the next bytes (block_bytes = 1) or the next block of the message, in place.

        A method, or an attribute that each `begin_…` sets: layers look it up once for each message.
        """
        ...

    @property
    def apply_into(self) -> Callable[[memoryview, memoryview], None]:
        """Does the same from one view into another of equal length, which saves a copy of the content."""
        ...


def _is_plain(layer: object, base: type) -> bool:
    """Whether the layer's class overrides nothing of `base`: joining would lose it."""
    kinds = type(layer).__mro__
    return all(name.startswith("__") for kind in kinds[: kinds.index(base)] for name in vars(kind))


class _InPlace(_Phased):
    """The common part of both directions: transforms of one block size, and a buffer for a block."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__()
        if not isinstance(transforms, Sequence) or isinstance(transforms, str | bytes):
            raise TypeError(f"transforms: expected a list of transforms, got {type(transforms).__name__}")
        sizes = {transform.block_bytes for transform in transforms}
        if len(sizes) != 1:
            raise BadParameter(f"transforms of block sizes {sorted(sizes)}, expected one size for all")
        (self.block_bytes,) = sizes
        is_stream = self.block_bytes == 1
        if not is_stream and any(transform.header_bytes for transform in transforms):
            raise BadParameter("a block transform with a header: blocks would not be aligned")
        self._transforms = tuple(transforms)
        self._buffer = memoryview(bytearray(0 if is_stream else self.block_bytes))
        self.ends = Ending.NEVER if is_stream else Ending.PADDED


class InPlaceW(_InPlace, ExtWrite):
    """Writes content through transforms of one block size. Ends: NEVER (keystreams) or PADDED (blocks).

    Args:
        transforms: the first is next to the stream.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__(transforms)
        self._first = self._transforms[-1].apply_into
        self._others: tuple[Callable[[memoryview], None], ...] = ()
        self._held = 0

    def _stack_joined(self, inner: ExtWrite) -> InPlaceW | None:
        if not isinstance(inner, InPlaceW) or inner.block_bytes != self.block_bytes:
            return None
        if not _is_plain(self, InPlaceW) or not _is_plain(inner, InPlaceW):
            return None
        return InPlaceW(self._transforms + inner._transforms)

    def _start(self) -> None:
        self._held = 0
        headers = b""
        for transform in reversed(self._transforms):
            header = transform.begin_write()
            if headers:
                inner = bytearray(headers)
                transform.apply(memoryview(inner))
                header += inner
            headers = header
        if headers:
            self._owed.owe(headers)
        self._first = self._transforms[-1].apply_into
        self._others = tuple(transform.apply for transform in reversed(self._transforms[:-1]))

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        size = self.block_bytes
        if size == 1:
            size = len(view)
            if size > _STREAM_BYTES:  # min() would slow down small writes
                size = _STREAM_BYTES
            if size > len(self._buffer):
                self._buffer = memoryview(bytearray(size))
        elif self._held or len(view) < size:
            return self._collect(w, view)
        block = self._buffer
        if len(block) != size:
            block = block[:size]
        self._first(view if len(view) == size else view[:size], block)
        for apply in self._others:
            apply(block)
        self._owed.send(w, block)
        return size

    def _collect(self, w: ByteWriter, view: memoryview) -> int:
        """Take content for a partial block."""
        held = self._held
        count = min(len(view), self.block_bytes - held)
        self._buffer[held : held + count] = view[:count]
        self._held = held + count
        if self._held == self.block_bytes:
            self._owed.send(w, self._close_block())
        return count

    def _finish(self) -> None:
        if self._held:
            self._buffer[self._held :] = bytes(self.block_bytes - self._held)
            self._owed.owe(self._close_block())

    def _close_block(self) -> memoryview:
        self._held = 0
        for transform in reversed(self._transforms):
            transform.apply(self._buffer)
        return self._buffer


class InPlaceR(_InPlace, ExtRead):
    """Reads what `InPlaceW` with the inverse transforms wrote. Ends: NEVER (keystreams) or PADDED (blocks).

    A block is read into the caller's buffer and transformed there if it fits and arrives in one piece.

    Args:
        transforms: the first is next to the stream.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__(transforms)
        self._applies: tuple[Callable[[memoryview], None], ...] = ()
        self._incoming = Take()
        self._clear()

    def _stack_joined(self, inner: ExtRead) -> InPlaceR | None:
        if not isinstance(inner, InPlaceR) or inner.block_bytes != self.block_bytes:
            return None
        if not _is_plain(self, InPlaceR) or not _is_plain(inner, InPlaceR):
            return None
        return InPlaceR(self._transforms + inner._transforms)

    @property
    def at_hand(self) -> int:
        return len(self._opened)

    def _clear(self) -> None:
        self._opened = _EMPTY
        self._begun = 0
        self._header = memoryview(bytearray())
        self._incoming.begin(self._buffer)

    def _start(self) -> None:
        self._expect_header()

    def _expect_header(self) -> None:
        if self._begun < len(self._transforms):
            self._header = memoryview(bytearray(self._transforms[self._begun].header_bytes))
            self._incoming.begin(self._header)

    def _read_header(self, r: ByteReader) -> None:
        while self._begun < len(self._transforms):
            self._incoming.fill(r, "a header")
            if self._header:
                for outer in self._transforms[: self._begun]:
                    outer.apply(self._header)
            self._transforms[self._begun].begin_read(bytes(self._header))
            self._begun += 1
            self._expect_header()
        self._incoming.begin(self._buffer)
        self._applies = tuple(transform.apply for transform in self._transforms)

    def _read(self, r: ByteReader, view: memoryview) -> int:
        if self.block_bytes == 1:
            count = read_some(r, view)
            if count:
                self._apply(view[:count])
            return count
        if not self._opened:
            block_bytes = self.block_bytes
            if len(view) >= block_bytes and not self._incoming.is_begun:
                block = view[:block_bytes]
                count = read_some(r, block)
                if count == block_bytes:
                    self._apply(block)
                    return count
                if count == 0:
                    return 0
                self._buffer[:count] = block[:count]
                self._incoming.begin(self._buffer, count)
            if not self._open_block(r, may_end=True):
                return 0
        count = min(len(view), len(self._opened))
        view[:count] = self._opened[:count]
        self._opened = self._opened[count:]
        return count

    def _skip(self, r: ByteReader) -> None:
        if self._incoming.is_begun:
            self._open_block(r, may_end=False)

    def _open_block(self, r: ByteReader, *, may_end: bool) -> bool:
        """Read a block into `_buffer` and transform it; False if the stream ended before it."""
        if not self._incoming.fill(r, "a block", may_end=may_end):
            return False
        self._incoming.begin(self._buffer)
        self._apply(self._buffer)
        self._opened = self._buffer
        return True

    def _apply(self, view: memoryview) -> None:
        for apply in self._applies:
            apply(view)


class _Keystream:
    """A keystream from a random counter block, as a transform; the same for both directions."""

    block_bytes = 1
    header_bytes = COUNTER_BLOCK_BYTES

    def __init__(self, key: bytes, engine: Engine | str | None) -> None:
        self._key = checked_key(key)
        self._engine = engine_of(engine)
        self.begin_read(bytes(COUNTER_BLOCK_BYTES))

    def begin_write(self) -> bytes:
        iv = random_bytes(COUNTER_BLOCK_BYTES)
        self.begin_read(iv)
        return iv

    def begin_read(self, header: bytes) -> None:
        stream = self._engine.ctr(self._key, header)
        self.apply: Callable[[memoryview], None] = stream.apply
        self.apply_into: Callable[[memoryview, memoryview], None] = stream.apply_into


class StreamCipherW(InPlaceW):
    """Encrypts content with AES-256-CTR: no authentication, no end mark. Ends: NEVER.

    Format: IV 16 random bytes, the first counter block (one big-endian number) ‖ content XOR keystream. A bit
    changed on the wire changes that bit of the content: where that matters, use `Sealed`.

    Args:
        key: 32 bytes; may serve any number of messages, as each has a random IV.
        engine: where AES comes from, or its name; by default the preferred one.
    Source: NIST SP 800-38A, CTR mode.
    """

    def __init__(self, key: bytes, *, engine: Engine | str | None = None) -> None:
        super().__init__([_Keystream(key, engine)])


class StreamCipherR(InPlaceR):
    """Decrypts what `StreamCipherW` wrote, in the caller's buffer. Ends: NEVER."""

    def __init__(self, key: bytes, *, engine: Engine | str | None = None) -> None:
        super().__init__([_Keystream(key, engine)])
