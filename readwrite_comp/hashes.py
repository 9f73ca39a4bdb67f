"""SHA-256, HMAC, HKDF, random bytes and constant-time comparison: what the standard library has, in the form
that layers use.

The same with every engine, so it stands apart from them; `primitives` offers all of it as well.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

from .errors import BadParameter

__all__ = [
    "HmacSha256",
    "ReadableBuffer",
    "equal",
    "hkdf_expand_sha256",
    "hkdf_sha256",
    "hmac_sha256",
    "random_bytes",
    "sha256",
]

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
