"""`StreamCipher`: AES-256-CTR over content of any length. It hides content and nothing else: no
authentication, no end mark.

Format: IV 16 random bytes ‖ content XOR keystream; the IV is the first counter block (one big-endian number).
Who changes a bit on the wire changes that bit of the content: put `Sealed` inside, or use it in its place,
wherever that matters.

Source: NIST SP 800-38A, CTR mode.
"""

from __future__ import annotations

from collections.abc import Callable

from .inplace import InPlaceR, InPlaceW
from .primitives import COUNTER_BLOCK_BYTES, Engine, checked_key, engine_of, random_bytes

__all__ = ["StreamCipherR", "StreamCipherW"]


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
    """Encrypts content. Ends: NEVER.

    Args:
        key: 32 bytes; may serve any number of messages, as each has a random IV.
        engine: where AES comes from, or its name; by default the preferred one.
    """

    def __init__(self, key: bytes, *, engine: Engine | str | None = None) -> None:
        super().__init__([_Keystream(key, engine)])


class StreamCipherR(InPlaceR):
    """Decrypts what `StreamCipherW` wrote, in the caller's buffer. Ends: NEVER. Arguments as there."""

    def __init__(self, key: bytes, *, engine: Engine | str | None = None) -> None:
        super().__init__([_Keystream(key, engine)])
