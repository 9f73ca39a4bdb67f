"""`Sealed`: authenticated encryption of a stream of any length, chunk by chunk (the STREAM construction).

Format: salt 32 random bytes ‖ chunk*, chunk = head u32 big-endian (last << 31 | length) ‖ ciphertext (length
bytes) ‖ tag 16. The key of a message is HKDF-SHA256(salt, key, info "readwrite_comp sealed 1"); AES-256-GCM
with the head as associated data and the nonce counter (11 bytes, from 0) ‖ last (1 byte, 0 or 1). So no chunk
can be changed, dropped, repeated, moved, or made the last.

The chunk with the `last` bit ends the message (`Ending.EXACT`); it may be empty, any other holds at least one
byte. A write of at least a chunk is sealed without a copy and sent immediately, which saves a fifth of the
time; if it was the last, an empty chunk follows. No byte of a chunk is released before its tag is checked, so
a reader releases a prefix of the written content.

Source: Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance" (2015), STREAM; age, internal/stream.
"""

from __future__ import annotations

import struct

from readwrite_comp.base import Ending, ExtRead, ExtWrite
from readwrite_comp.errors import AuthenticationError, Malformed
from readwrite_comp.helpers import ByteReader, ByteWriter, Take, check_number
from readwrite_comp.primitives import (
    KEY_BYTES,
    TAG_BYTES,
    Aead,
    Engine,
    checked_key,
    engine_of,
    hkdf_sha256,
    random_bytes,
)

__all__ = ["DEFAULT_CHUNK_BYTES", "SALT_BYTES", "SealedR", "SealedW"]

SALT_BYTES = 32
DEFAULT_CHUNK_BYTES = 16 * 1024
# A reader allocates a chunk before it can check it: this bounds the memory that a wrong setting costs.
MAX_CHUNK_BYTES = 2**24

_HEAD = struct.Struct("!I")
_LAST = 1 << 31
_INFO = b"readwrite_comp sealed 1"
# Writable, since an empty chunk is opened into it.
_EMPTY = memoryview(bytearray())


def _message_aead(engine: Engine, key: bytes, salt: bytes) -> Aead:
    return engine.aead(hkdf_sha256(salt, key, _INFO, KEY_BYTES))


def _nonce(counter: int, is_last: bool) -> bytes:
    return (counter << 8 | is_last).to_bytes(12, "big")


class SealedW(ExtWrite):
    """Writes sealed chunks. Ends: EXACT. `flush_into` sends the held content as a chunk.

    Args:
        key: 32 bytes; may serve any number of messages, as each derives its own from a random salt.
        chunk_bytes: most content in a chunk.
        engine: where AES-GCM comes from, or its name; by default the preferred one.
    """

    ends = Ending.EXACT

    def __init__(
        self, key: bytes, *, chunk_bytes: int = DEFAULT_CHUNK_BYTES, engine: Engine | str | None = None
    ) -> None:
        super().__init__()
        check_number(chunk_bytes, "chunk_bytes", 1, MAX_CHUNK_BYTES)
        self._key = checked_key(key)
        self._chunk_bytes = chunk_bytes
        self._engine = engine_of(engine)
        self._chunk = memoryview(bytearray(_HEAD.size + chunk_bytes + TAG_BYTES))
        self._head, self._body = self._chunk[: _HEAD.size], self._chunk[_HEAD.size :]
        self._held = 0
        self._counter = 0
        self._aead: Aead | None = None

    def _start(self) -> None:
        salt = random_bytes(SALT_BYTES)
        self._aead = _message_aead(self._engine, self._key, salt)
        self._counter = 0
        self._held = 0
        self._owed.owe(salt)

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        chunk_bytes = self._chunk_bytes
        if not self._held and len(view) >= chunk_bytes:
            # Sealed straight from the caller's buffer. If this was the last, an empty chunk follows.
            content = view if len(view) == chunk_bytes else view[:chunk_bytes]
            self._owed.send(w, self._seal(content, is_last=False))
            return chunk_bytes
        if self._held == chunk_bytes:
            self._seal_held(is_last=False)
            self._owed.settle(w)
        count = min(len(view), chunk_bytes - self._held)
        self._body[self._held : self._held + count] = view[:count]
        self._held += count
        return count

    def _flush(self) -> None:
        if self._held:
            self._seal_held(is_last=False)

    def _finish(self) -> None:
        self._seal_held(is_last=True)

    def _clear(self) -> None:
        super()._clear()
        self._aead = None
        self._held = 0

    def _seal_held(self, *, is_last: bool) -> None:
        held, self._held = self._held, 0
        self._owed.owe(self._seal(self._body[:held], is_last=is_last))

    def _seal(self, content: memoryview, *, is_last: bool) -> memoryview:
        """Seal one chunk into `_chunk` and return what goes out."""
        assert self._aead is not None
        length = len(content)
        head = _HEAD.pack(length | _LAST if is_last else length)
        body, whole = self._body, self._chunk
        if length < self._chunk_bytes:
            body, whole = body[: length + TAG_BYTES], whole[: _HEAD.size + length + TAG_BYTES]
        self._aead.seal_into(_nonce(self._counter, is_last), content, head, body)
        self._counter += 1
        self._head[:] = head
        return whole


class SealedR(ExtRead):
    """Reads what `SealedW` wrote. Ends: EXACT. `read_end` also checks the tags of unread chunks.

    Args:
        key: as given to the writer.
        chunk_bytes: a larger chunk is `Malformed`; at least the writer's value.
        engine: where AES-GCM comes from, or its name; by default the preferred one.
    """

    ends = Ending.EXACT

    def __init__(
        self, key: bytes, *, chunk_bytes: int = DEFAULT_CHUNK_BYTES, engine: Engine | str | None = None
    ) -> None:
        super().__init__()
        check_number(chunk_bytes, "chunk_bytes", 1, MAX_CHUNK_BYTES)
        self._key = checked_key(key)
        self._chunk_bytes = chunk_bytes
        self._engine = engine_of(engine)
        self._head = memoryview(bytearray(_HEAD.size))
        self._body = memoryview(bytearray(chunk_bytes + TAG_BYTES))
        self._salt = memoryview(bytearray(SALT_BYTES))
        self._incoming = Take()
        self._clear()

    def _clear(self) -> None:
        self._aead: Aead | None = None
        self._counter = 0
        # The chunk that is being read, after its head has arrived.
        self._sealed = _EMPTY
        self._is_last = False
        self._opened = _EMPTY

    @property
    def at_hand(self) -> int:
        return len(self._opened)

    def _start(self) -> None:
        self._incoming.begin(self._salt)

    def _read_header(self, r: ByteReader) -> None:
        self._incoming.fill(r, "the salt")
        self._aead = _message_aead(self._engine, self._key, bytes(self._salt))
        self._incoming.begin(self._head)

    def _read(self, r: ByteReader, view: memoryview) -> int:
        if not self._opened:
            if self._is_last:
                return 0
            length = self._open_chunk(r, view)
            if not self._opened:
                return length
        count = min(len(view), len(self._opened))
        view[:count] = self._opened[:count]
        self._opened = self._opened[count:]
        return count

    def _skip(self, r: ByteReader) -> None:
        while not self._is_last:
            self._open_chunk(r, _EMPTY)

    def _open_chunk(self, r: ByteReader, view: memoryview) -> int:
        """Read and check the next chunk, into `view` if it fits, else into `_opened`; return its length."""
        assert self._aead is not None
        if not self._sealed:
            self._read_head(r)
        self._incoming.fill(r, "a chunk")
        sealed, self._sealed = self._sealed, _EMPTY
        length = len(sealed) - TAG_BYTES
        has_room = length <= len(view)
        out = view[:length] if has_room else sealed[:length]
        head = bytes(self._head)
        is_last = head[0] >= 0x80
        try:
            self._aead.open_into(_nonce(self._counter, is_last), sealed, head, out)
        except AuthenticationError:
            raise AuthenticationError(
                f"chunk {self._counter} was refused: changed, moved, or another key"
            ) from None
        self._opened = _EMPTY if has_room else out
        self._counter += 1
        self._is_last = is_last
        self._incoming.begin(self._head)
        return length

    def _read_head(self, r: ByteReader) -> None:
        """Read the head of the next chunk and expect its body."""
        self._incoming.fill(r, "a chunk's head")
        (head,) = _HEAD.unpack(self._head)
        length = head & ~_LAST
        if length > self._chunk_bytes:
            raise Malformed(f"chunk {self._counter} of {length} bytes, at most {self._chunk_bytes}")
        if not head & _LAST and not length:
            raise Malformed(f"chunk {self._counter} is empty and not the last")
        self._sealed = self._body[: length + TAG_BYTES]
        self._incoming.begin(self._sealed)
