"""What an engine is: AES-256 in the forms that the layers use, whatever library carries it out.

`primitives` has the two engines. The descriptions stand apart from them, so that a layer, or a user's own
engine, depends on no library.

* `Engine`: AEAD and keystreams, all that the layers and suite 0 of the wide blocks need.
* `WideEngine`: also the block cipher and the polynomial hash that suite 1 (`hctr`) is built of.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING, Final, Protocol

from .errors import BadParameter

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "SPARE_BYTES",
    "Aead",
    "BlockCipher",
    "CtrStream",
    "Engine",
    "HmacSha256",
    "ReadableBuffer",
    "WideEngine",
    "equal",
    "hkdf_expand_sha256",
    "hkdf_sha256",
    "hmac_sha256",
    "random_bytes",
    "sha256",
]

# What `cryptography` wants of the output of a block cipher beyond its input, though ECB never uses it.
SPARE_BYTES = 15


class CtrStream(Protocol):
    """One AES-256-CTR keystream, used up as it is applied."""

    def apply(self, view: memoryview) -> None:
        """XOR the next `len(view)` bytes of keystream into `view`, in place."""
        ...

    def apply_into(self, source: ReadableBuffer, out: memoryview, /) -> None:
        """Write `source` XOR the next bytes of keystream to `out`, of the same length and elsewhere."""
        ...


class Aead(Protocol):
    """AES-256-GCM under one key. Never seal twice with the same nonce."""

    def seal_into(self, nonce: bytes, plaintext: ReadableBuffer, aad: bytes, out: memoryview) -> None:
        """Write ciphertext and tag of `plaintext` to `out`.

        Args:
            nonce: 12 bytes.
            plaintext: any length; may be the first bytes of `out` itself (then it is replaced in place), but
                must not overlap `out` in any other way.
            aad: associated data, authenticated but not written.
            out: writable, exactly `len(plaintext) + 16` bytes.
        Raises:
            BadParameter: a length is wrong.
        On error: `out` is untouched.
        Source: NIST SP 800-38D.
        """
        ...

    def open_into(self, nonce: bytes, sealed: ReadableBuffer, aad: bytes, out: memoryview) -> None:
        """Check `sealed` and write its plaintext to `out`.

        Args:
            nonce: 12 bytes.
            sealed: ciphertext followed by the 16-byte tag.
            aad: the associated data that was given when sealing.
            out: writable, exactly `len(sealed) - 16` bytes; may be the first bytes of `sealed`, no other
                overlap.
        Raises:
            AuthenticationError: any refusal, one text for all, shorter than a tag included.
            BadParameter: the length of `nonce` or of `out` is wrong.
        On error: `out` is zeroed (tag mismatch) or untouched (wrong lengths).
        Source: NIST SP 800-38D.
        """
        ...

    def seal(self, nonce: bytes, plaintext: ReadableBuffer, aad: bytes = b"") -> bytes:
        """Return ciphertext and tag of `plaintext`: `seal_into` with a buffer of its own."""
        ...

    def open(self, nonce: bytes, sealed: ReadableBuffer, aad: bytes = b"") -> bytes:
        """Return the plaintext of `sealed`: `open_into` with a buffer of its own."""
        ...


class Engine(Protocol):
    """What a crypto library must offer to carry the layers."""

    name: str

    def aead(self, key: bytes) -> Aead:
        """Prepare AES-256-GCM for one 32-byte key. Keep the result: preparing costs more than sealing a small
        chunk.
        """
        ...

    def xor_keystream(self, key: bytes, view: memoryview) -> None:
        """XOR the AES-256-CTR keystream of `key`, from counter block 0 on, into `view`, in place.

        For keys that serve once (LIONESS derives a fresh one for each round): the counter always starts at
        zero, so a second use of the same key repeats the keystream.

        Args:
            key: 32 bytes.
            view: writable, contiguous bytes; may be empty.
        Raises:
            BadParameter: wrong key length or a read-only view.
        """
        ...

    def ctr(self, key: bytes, counter_block: bytes) -> CtrStream:
        """Begin an AES-256-CTR keystream at `counter_block` (16 bytes, one big-endian number that wraps
        around).
        """
        ...


class BlockCipher(Protocol):
    """AES-256 itself, for modes that are built on it here. One thread at a time."""

    def encrypt(self, block: bytes) -> bytes:
        """Return one encrypted block of 16 bytes."""
        ...

    def decrypt(self, block: bytes) -> bytes:
        """Undo `encrypt`."""
        ...

    def encrypt_blocks(self, view: memoryview) -> None:
        """Encrypt each block of `view` by itself (ECB), in place.

        Args:
            view: writable; a multiple of 16 bytes, followed by `SPARE_BYTES` that stay as they are.
        """
        ...


class WideEngine(Engine, Protocol):
    """An engine that has what suite 1 of the wide blocks (`hctr`) is made of as well; `get_engine` gives one.

    Apart from `Engine`, so that an engine of somebody's own needs no more than its layers use.
    """

    def block_cipher(self, key: bytes) -> BlockCipher:
        """Prepare AES-256 for one 32-byte key. Raises BadParameter: wrong key length."""
        ...

    def gmac(self, key: bytes) -> Callable[[ReadableBuffer], bytes]:
        """Return a function that gives the AES-256-GCM tag of a text as associated data, nonce zero.

        It is a polynomial hash XOR a constant mask, and no MAC: as the nonce is always the same, two tags
        give the key of the hash away. Whoever uses it keeps them to himself.

        Raises:
            BadParameter: wrong key length.
        Source: NIST SP 800-38D.
        """
        ...


# From the standard library, and the same with every engine: SHA-256, HMAC, HKDF, random bytes, constant-time
# comparison.
ReadableBuffer = bytes | bytearray | memoryview
_BLOCK_BYTES: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


def sha256(*parts: ReadableBuffer) -> bytes:
    """Return SHA-256 of the parts, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def hmac_sha256(key: bytes, *parts: ReadableBuffer) -> bytes:
    """Return HMAC-SHA256 of the parts, one after the other, under `key` of any length."""
    if len(parts) == 1:
        return hmac.digest(key, parts[0], "sha256")
    code = hmac.new(key, digestmod="sha256")
    for part in parts:
        code.update(part)
    return code.digest()


class HmacSha256:
    """HMAC-SHA256 of many messages under one key that begin alike: what they share is hashed once.

    Takes 0.7 µs for each where `hmac_sha256` takes 2: making the library's object is most of that.

    Args:
        key: of any length. beginning: of all messages.
    Source: RFC 2104, section 4.
    """

    def __init__(self, key: bytes, beginning: ReadableBuffer = b"") -> None:
        padded = (key if len(key) <= _BLOCK_BYTES else sha256(key)).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(padded.translate(_INNER))
        self._inner.update(beginning)
        self._outer = hashlib.sha256(padded.translate(_OUTER))

    def digest(self, rest: ReadableBuffer) -> bytes:
        """The code of the message that goes on with `rest`."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(rest)
        outer.update(inner.digest())
        return outer.digest()


def hkdf_sha256(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    """Derive `length` bytes (at most 8,160) from `secret`.

    Source: RFC 5869, extract and expand; an empty salt means 32 zero bytes.
    """
    return hkdf_expand_sha256(hmac.digest(salt or bytes(32), secret, "sha256"), info, length)


def hkdf_expand_sha256(pseudo_random_key: bytes, info: bytes, length: int) -> bytes:
    """The second half of HKDF: at most 8,160 bytes, from the result of the first.

    Raises:
        BadParameter: length out of range.
    Source: RFC 5869, expand.
    """
    if not 0 < length <= 255 * 32:
        raise BadParameter(f"{length} bytes asked of HKDF-SHA256, expected 1 to {255 * 32}")
    if length <= 32:
        return hmac.digest(pseudo_random_key, info + b"\x01", "sha256")[:length]
    code = HmacSha256(pseudo_random_key)
    block, output = b"", b""
    for index in range(1, -(-length // 32) + 1):
        block = code.digest(block + info + bytes((index,)))
        output += block
    return output[:length]


def equal(left: ReadableBuffer, right: ReadableBuffer) -> bool:
    """Compare in constant time (for equal lengths): for tags and MACs."""
    return hmac.compare_digest(left, right)


def random_bytes(count: int) -> bytes:
    """Return `count` bytes from the operating system's generator."""
    return os.urandom(count)
