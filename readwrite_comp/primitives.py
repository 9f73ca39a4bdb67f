"""AES-256 and SHA-256 by two engines that give the same bytes and the same errors.

This is the one module of the package that names a crypto library:

* ``pycryptodome``: required by the project and enough for everything;
* ``openssl``: the package `cryptography` (the extra ``fast``), used when it can be imported, because a call
  of its AEAD costs a tenth and its AES runs at three times the speed.

`Engine` describes what both offer. Hashes, randomness and constant-time comparison come from the standard
library with either engine. A library is imported when its engine is first asked for.

Rules for changing this file:

* Refusals are one error. A tag that does not match and an input too short to hold one are both
  `AuthenticationError` with the same text in both engines, so that no caller depends on the difference.
* Parameters are checked here, before the library sees them: the libraries disagree on what they refuse and
  on the class of error.
* A failed `open_into` zeroes its output. Both libraries decrypt before they compare the tag; the caller's
  buffer would otherwise hold unauthenticated content.
* No cipher object per call where the key is the same: making one costs up to 5 µs warm and ten times that in
  a cold process. pycryptodome's GCM object serves one nonce only, so there it cannot be avoided.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from readwrite_comp.errors import AuthenticationError, BadParameter, EngineUnavailable
from readwrite_comp.helpers import byte_view

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "KEY_BYTES",
    "NONCE_BYTES",
    "SPARE_BYTES",
    "TAG_BYTES",
    "Aead",
    "BlockCipher",
    "CtrStream",
    "Engine",
    "HmacSha256",
    "ReadableBuffer",
    "bound_xor",
    "checked_key",
    "engine_names",
    "engine_of",
    "equal",
    "get_engine",
    "hkdf_expand_sha256",
    "hkdf_sha256",
    "hmac_sha256",
    "random_bytes",
    "sha256",
    "xor_function",
]


KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
COUNTER_BLOCK_BYTES = 16
# Room that `cryptography` demands behind the output of a block cipher, though ECB never uses it.
SPARE_BYTES = 15

# `cryptography` refuses more in one call; pycryptodome would go on, and the engines must agree.
MAX_AEAD_BYTES = 2**31 - 1 - TAG_BYTES

ReadableBuffer = bytes | bytearray | memoryview
_ZERO_NONCE = bytes(NONCE_BYTES)
_REFUSED = (
    "the sealed bytes were refused: not written with this key, nonce and associated data, or changed since"
)


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

    __slots__ = ()

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
            nonce, aad: as when sealing.
            sealed: ciphertext followed by the 16-byte tag.
            out: writable, exactly `len(sealed) - 16` bytes; may be the first bytes of `sealed`, no other
                overlap.
        Raises:
            AuthenticationError: any refusal, one text for all, shorter than a tag included.
            BadParameter: the length of `nonce` or of `out` is wrong.
        On error: `out` is zeroed (tag mismatch) or untouched (wrong lengths).
        """
        ...

    def seal(self, nonce: bytes, plaintext: ReadableBuffer, aad: bytes = b"") -> bytes:
        """Return ciphertext and tag of `plaintext`: `seal_into` with a new buffer."""
        plaintext = byte_view(plaintext, "plaintext")
        out = bytearray(len(plaintext) + TAG_BYTES)
        self.seal_into(nonce, plaintext, aad, memoryview(out))
        return bytes(out)

    def open(self, nonce: bytes, sealed: ReadableBuffer, aad: bytes = b"") -> bytes:
        """Return the plaintext of `sealed`: `open_into` with a new buffer."""
        sealed = byte_view(sealed, "sealed")
        out = bytearray(max(0, len(sealed) - TAG_BYTES))
        self.open_into(nonce, sealed, aad, memoryview(out))
        return bytes(out)


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


class Engine(Protocol):
    """AES-256 by one crypto library, as the layers use it."""

    name: str

    def aead(self, key: bytes) -> Aead:
        """Prepare AES-256-GCM for one 32-byte key. Keep the result: preparing costs more than sealing a small
        chunk.
        """
        ...

    def xor_keystream(self, key: bytes, view: memoryview) -> None:
        """XOR the AES-256-CTR keystream of `key`, from counter block 0 on, into `view`, in place.

        A second use of a key repeats the keystream, so this is for keys that serve once, such as those of
        LIONESS.

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

    def block_cipher(self, key: bytes) -> BlockCipher:
        """Prepare AES-256 for one 32-byte key. Raises BadParameter: wrong key length."""
        ...

    def gmac(self, key: bytes) -> Callable[[ReadableBuffer], bytes]:
        """Return a function that gives the AES-256-GCM tag of a text as associated data, nonce zero.

        It is a polynomial hash XOR a constant mask, not a MAC: the nonce is always the same, so two tags
        reveal the key of the hash. Never release a tag.

        Raises:
            BadParameter: wrong key length.
        Source: NIST SP 800-38D.
        """
        ...


# From the standard library, the same with every engine: SHA-256, HMAC, HKDF, randomness, comparison.

# RFC 2104: the block of SHA-256 and the two paddings of the key.
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
    """HMAC-SHA256 of many messages with one key and one beginning, which are hashed once.

    A message takes 0.7 µs instead of the 2 of `hmac_sha256`, which makes a library object each time.

    Args:
        key: of any length. beginning: what all messages begin with.
    Source: RFC 2104, section 4.
    """

    def __init__(self, key: bytes, beginning: ReadableBuffer = b"") -> None:
        padded = (key if len(key) <= _BLOCK_BYTES else sha256(key)).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(padded.translate(_INNER))
        self._inner.update(beginning)
        self._outer = hashlib.sha256(padded.translate(_OUTER))

    def digest(self, rest: ReadableBuffer) -> bytes:
        """Return the code of the message `beginning` ‖ `rest`."""
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
    """The second half of HKDF: derive at most 8,160 bytes from the result of the first.

    Raises:
        BadParameter: length out of range.
    Source: RFC 5869, expand.
    """
    if not 0 < length <= 255 * 32:
        raise BadParameter(f"length of {length} bytes, expected 1 to {255 * 32}")
    if length <= 32:
        return hmac.digest(pseudo_random_key, info + b"\x01", "sha256")[:length]
    code = HmacSha256(pseudo_random_key)
    block, output = b"", b""
    for index in range(1, -(-length // 32) + 1):
        block = code.digest(block + info + bytes((index,)))
        output += block
    return output[:length]


def equal(left: ReadableBuffer, right: ReadableBuffer) -> bool:
    """Compare tags or MACs, in constant time if their lengths are equal."""
    return hmac.compare_digest(left, right)


def random_bytes(count: int) -> bytes:
    """Return `count` bytes from the operating system's generator."""
    return os.urandom(count)


# The two engines.


def checked_key(key: ReadableBuffer, size: int = KEY_BYTES, what: str = "key") -> bytes:
    """Return the bytes of a caller's key.

    Raises:
        BadParameter: not `size` bytes. TypeError: not bytes, for example text in hex.
    """
    data = key if type(key) is bytes else bytes(byte_view(key, what))
    if len(data) != size:
        raise BadParameter(f"{what} is {len(data)} bytes, expected {size}")
    return data


def _check_ctr(key: bytes, counter_block: bytes) -> None:
    checked_key(key)
    if len(counter_block) != COUNTER_BLOCK_BYTES:
        raise BadParameter(f"counter block is {len(counter_block)} bytes, expected {COUNTER_BLOCK_BYTES}")


def _check_view(view: memoryview) -> None:
    if view.readonly:
        raise BadParameter("the view is read-only, expected a writable one: a keystream is applied in place")
    if view.nbytes != len(view):
        raise TypeError(f"a view of format {view.format!r}, expected one of bytes: view.cast('B')")


def _check_aead(nonce: bytes, plaintext_bytes: int, out: memoryview, out_bytes: int) -> None:
    if len(nonce) != NONCE_BYTES:
        raise BadParameter(f"nonce is {len(nonce)} bytes, expected {NONCE_BYTES}")
    if len(out) != out_bytes:
        raise BadParameter(f"output is {len(out)} bytes, expected {out_bytes}")
    if out.readonly:
        raise BadParameter("the output is read-only, expected a writable view")
    if plaintext_bytes > MAX_AEAD_BYTES:
        raise BadParameter(f"{plaintext_bytes} bytes in one call, at most {MAX_AEAD_BYTES}")


class _OpenSslAead(Aead):
    __slots__ = ("_decrypt_into", "_encrypt_into", "_invalid_tag")

    def __init__(self, cipher: Any, invalid_tag: type[Exception]) -> None:
        self._encrypt_into = cipher.encrypt_into
        self._decrypt_into = cipher.decrypt_into
        self._invalid_tag = invalid_tag

    def seal_into(self, nonce: bytes, plaintext: ReadableBuffer, aad: bytes, out: memoryview) -> None:
        size = len(plaintext)
        if len(nonce) != NONCE_BYTES or len(out) != size + TAG_BYTES or out.readonly or size > MAX_AEAD_BYTES:
            _check_aead(nonce, size, out, size + TAG_BYTES)
        self._encrypt_into(nonce, plaintext, aad, out)

    def open_into(self, nonce: bytes, sealed: ReadableBuffer, aad: bytes, out: memoryview) -> None:
        plaintext_bytes = len(sealed) - TAG_BYTES
        if plaintext_bytes < 0:
            raise AuthenticationError(_REFUSED)
        is_long = plaintext_bytes > MAX_AEAD_BYTES
        if len(nonce) != NONCE_BYTES or len(out) != plaintext_bytes or out.readonly or is_long:
            _check_aead(nonce, plaintext_bytes, out, plaintext_bytes)
        try:
            self._decrypt_into(nonce, sealed, aad, out)
        except self._invalid_tag:
            out[:] = bytes(plaintext_bytes)
            raise AuthenticationError(_REFUSED) from None


class _OpenSslCtr:
    __slots__ = ("_update_into", "apply_into")

    def __init__(self, encryptor: Any) -> None:
        self._update_into = encryptor.update_into
        # The library's own function: one Python call fewer for each write of a keystream.
        self.apply_into: Callable[[ReadableBuffer, memoryview], None] = encryptor.update_into

    def apply(self, view: memoryview) -> None:
        _check_view(view)
        self._update_into(view, view)


class _OpenSslBlocks:
    __slots__ = ("_update_into", "decrypt", "encrypt")

    def __init__(self, encryptor: Any, decryptor: Any) -> None:
        # Between whole blocks a context of ECB holds nothing but the key.
        self.encrypt: Callable[[bytes], bytes] = encryptor.update
        self.decrypt: Callable[[bytes], bytes] = decryptor.update
        self._update_into = encryptor.update_into

    def encrypt_blocks(self, view: memoryview) -> None:
        self._update_into(view[:-SPARE_BYTES], view)


class _OpenSslEngine:
    name = "openssl"

    def __init__(self) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if not hasattr(AESGCM, "encrypt_into"):
            raise ImportError("this version of cryptography has no AESGCM.encrypt_into")
        self._aesgcm = AESGCM
        self._invalid_tag = InvalidTag
        self._cipher = Cipher
        self._aes = algorithms.AES
        self._ctr_mode = modes.CTR
        self._ecb = modes.ECB()
        # A mode object holds no state, so one serves all keystreams from zero.
        self._from_zero = modes.CTR(bytes(COUNTER_BLOCK_BYTES))

        class Unchecked(Cipher[modes.CTR]):
            """A cipher whose mode was checked before, a quarter of the cost of a short keystream."""

            def __init__(self, algorithm: algorithms.AES, mode: modes.CTR) -> None:
                self.algorithm = algorithm  # it checks the key itself
                self.mode = mode

        self._unchecked = Unchecked

    def aead(self, key: bytes) -> Aead:
        checked_key(key)
        return _OpenSslAead(self._aesgcm(key), self._invalid_tag)

    def xor_keystream(self, key: bytes, view: memoryview) -> None:
        if len(key) != KEY_BYTES:
            checked_key(key)
        _check_view(view)
        self._unchecked(self._aes(key), self._from_zero).encryptor().update_into(view, view)

    def ctr(self, key: bytes, counter_block: bytes) -> CtrStream:
        _check_ctr(key, counter_block)
        return _OpenSslCtr(self._cipher(self._aes(key), self._ctr_mode(counter_block)).encryptor())

    def block_cipher(self, key: bytes) -> BlockCipher:
        checked_key(key)
        cipher = self._cipher(self._aes(key), self._ecb)
        return _OpenSslBlocks(cipher.encryptor(), cipher.decryptor())

    def gmac(self, key: bytes) -> Callable[[ReadableBuffer], bytes]:
        checked_key(key)
        # A lambda would cost another Python call for each of the two hashes of a block.
        return partial(self._aesgcm(key).encrypt, _ZERO_NONCE, b"")


class _PycryptodomeAead(Aead):
    __slots__ = ("_key", "_mode", "_new")

    def __init__(self, key: bytes, new: Callable[..., Any], mode: int) -> None:
        self._key = bytes(key)
        self._new = new
        self._mode = mode

    def seal_into(self, nonce: bytes, plaintext: ReadableBuffer, aad: bytes, out: memoryview) -> None:
        plaintext = byte_view(plaintext, "plaintext")
        plaintext_bytes = len(plaintext)
        _check_aead(nonce, plaintext_bytes, out, plaintext_bytes + TAG_BYTES)
        cipher = self._new(self._key, self._mode, nonce=nonce)
        cipher.update(aad)
        cipher.encrypt(plaintext, output=out[:plaintext_bytes])
        out[plaintext_bytes:] = cipher.digest()

    def open_into(self, nonce: bytes, sealed: ReadableBuffer, aad: bytes, out: memoryview) -> None:
        view = byte_view(sealed, "sealed")
        plaintext_bytes = len(view) - TAG_BYTES
        if plaintext_bytes < 0:
            raise AuthenticationError(_REFUSED)
        _check_aead(nonce, plaintext_bytes, out, plaintext_bytes)
        cipher = self._new(self._key, self._mode, nonce=nonce)
        cipher.update(aad)
        cipher.decrypt(view[:plaintext_bytes], output=out)
        try:
            cipher.verify(view[plaintext_bytes:])
        except ValueError:
            out[:] = bytes(plaintext_bytes)
            raise AuthenticationError(_REFUSED) from None


class _PycryptodomeCtr:
    __slots__ = ("_encrypt",)

    def __init__(self, cipher: Any) -> None:
        self._encrypt = cipher.encrypt

    def apply(self, view: memoryview) -> None:
        _check_view(view)
        self._encrypt(view, output=view)

    def apply_into(self, source: ReadableBuffer, out: memoryview) -> None:
        self._encrypt(source, output=out)


class _PycryptodomeBlocks:
    __slots__ = ("_encrypt", "decrypt", "encrypt")

    def __init__(self, cipher: Any, decipher: Any) -> None:
        self.encrypt: Callable[[bytes], bytes] = cipher.encrypt
        self.decrypt: Callable[[bytes], bytes] = decipher.decrypt
        self._encrypt = cipher.encrypt

    def encrypt_blocks(self, view: memoryview) -> None:
        blocks = view[:-SPARE_BYTES]
        self._encrypt(blocks, output=blocks)


class _PycryptodomeEngine:
    name = "pycryptodome"

    def __init__(self) -> None:
        from Crypto.Cipher import AES

        self._new: Callable[..., Any] = AES.new
        self._gcm = AES.MODE_GCM
        self._ctr = AES.MODE_CTR
        self._ecb = AES.MODE_ECB

    def aead(self, key: bytes) -> Aead:
        checked_key(key)
        return _PycryptodomeAead(key, self._new, self._gcm)

    def xor_keystream(self, key: bytes, view: memoryview) -> None:
        if len(key) != KEY_BYTES:
            checked_key(key)
        _check_view(view)
        self._new(key, self._ctr, nonce=b"", initial_value=0).encrypt(view, output=view)

    def ctr(self, key: bytes, counter_block: bytes) -> CtrStream:
        _check_ctr(key, counter_block)
        return _PycryptodomeCtr(self._new(key, self._ctr, nonce=b"", initial_value=bytes(counter_block)))

    def block_cipher(self, key: bytes) -> BlockCipher:
        checked_key(key)
        return _PycryptodomeBlocks(self._new(key, self._ecb), self._new(key, self._ecb))

    def gmac(self, key: bytes) -> Callable[[ReadableBuffer], bytes]:
        checked_key(key)

        def tag(text: ReadableBuffer) -> bytes:
            cipher = self._new(key, self._gcm, nonce=_ZERO_NONCE)
            cipher.update(text)
            digest: bytes = cipher.digest()
            return digest

        return tag


# In order of preference: "auto" is the first that can be imported.
_ENGINES: dict[str, tuple[Callable[[], Engine], str]] = {
    "openssl": (_OpenSslEngine, "pip install 'mydht-tunnel[fast]' (the package cryptography, 47 or newer)"),
    "pycryptodome": (_PycryptodomeEngine, "pip install 'pycryptodome>=3.23'"),
}


@cache
def get_engine(name: str = "auto") -> Engine:
    """Return the engine called `name`; the first call imports its library.

    Args:
        name: "openssl", "pycryptodome", or "auto" for the first of them that is installed.
    Returns:
        The engine; the same object for the same name.
    Raises:
        EngineUnavailable: the library cannot be imported; the text names the package to install.
        BadParameter: no engine has that name.
    """
    if name == "auto":
        available = engine_names()
        if not available:
            raise EngineUnavailable(f"no crypto library found; install one: {_ENGINES['pycryptodome'][1]}")
        return get_engine(available[0])
    if name not in _ENGINES:
        if isinstance(name, str) and name.strip().lower() in ("auto", *_ENGINES):
            return get_engine(name.strip().lower())
        raise BadParameter(f"unknown engine {name!r}, expected one of auto, {', '.join(_ENGINES)}")
    make, hint = _ENGINES[name]
    try:
        return make()
    except ImportError as error:
        raise EngineUnavailable(f"engine {name!r} is not installed: {hint}") from error


def engine_of(engine: Engine | str | None) -> Engine:
    """Return a layer's engine: itself, the one of that name, or (None) the preferred one.

    Raises:
        EngineUnavailable, BadParameter: as `get_engine`.
        TypeError: neither an engine nor a name.
    """
    if engine is None or isinstance(engine, str):
        return get_engine("auto" if engine is None else engine)
    if isinstance(engine, type) or not callable(getattr(engine, "aead", None)):
        raise TypeError(f"engine: expected an engine or its name, got {engine!r}")
    return engine


def engine_names() -> tuple[str, ...]:
    """Return the names of the usable engines, the preferred one first."""
    names = []
    for name in _ENGINES:
        try:
            get_engine(name)
        except EngineUnavailable:
            continue
        names.append(name)
    return tuple(names)


@cache
def xor_function() -> Callable[[ReadableBuffer, ReadableBuffer, memoryview], object]:
    """Return the function (left, right, output) that XORs two buffers of one length into a third, which may
    be one of them.

    It is pycryptodome's with either engine: `cryptography` has none, and XOR of Python's numbers takes ten
    times as long.

    Raises:
        EngineUnavailable: pycryptodome cannot be imported.
    """
    try:
        from Crypto.Util.strxor import strxor
    except ImportError as error:
        raise EngineUnavailable(f"no XOR of buffers: {_ENGINES['pycryptodome'][1]}") from error
    return strxor


def bound_xor(target: memoryview, source: memoryview) -> Callable[[], object]:
    """Return a function without arguments that XORs the content of `source` into `target`.

    For buffers in constant use: `strxor` examines its arguments at each call, which takes 1.6 µs where XOR of
    16 KiB takes 0.5. This calls the C function below it with pointers found once. That function is not
    public: where it is missing or behaves differently, `strxor` is called.

    Args:
        target: writable, and as long as `source`. Both stay alive and cannot be resized meanwhile.
    Raises:
        EngineUnavailable: as `xor_function`.
        BadParameter: the lengths differ, or `target` is read-only.
    """
    if len(target) != len(source) or target.readonly:
        raise BadParameter(
            f"XOR of {len(source)} bytes into {len(target)}, expected equal lengths and a writable target"
        )
    raw = raw_xor()
    if raw is None:
        return partial(xor_function(), target, source, target)
    function, pointer_to = raw
    at_target, at_source = pointer_to(target), pointer_to(source)
    return partial(function, at_target, at_source, at_target, len(target))


@cache
def raw_xor() -> tuple[Callable[..., object], Callable[[memoryview], object]] | None:
    """The C function behind `strxor` and the maker of its pointers, if both exist and work as expected."""
    try:
        from Crypto.Util import strxor
        from Crypto.Util._raw_api import ffi  # only where pycryptodome calls C by cffi

        function = strxor._raw_strxor.strxor

        def pointer_to(buffer: memoryview) -> object:
            return ffi.from_buffer("uint8_t[]", buffer)

        trial = bytearray(b"\x0f\x33\x55")
        at_trial = pointer_to(memoryview(trial))
        function(at_trial, pointer_to(memoryview(b"\xff\x00\x55")), at_trial, 2)
    except (ImportError, AttributeError, TypeError):
        return None
    return (function, pointer_to) if trial == b"\xf0\x33\x55" else None
