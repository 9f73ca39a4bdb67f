"""X25519, Ed25519, HPKE and HKDF by the crypto library chosen in `readwrite_comp.primitives`.

This and that module are the only two that name a crypto library; each is imported when its engine is first
asked for. `tunnel_engine()` returns a `TunnelEngine`: all that a layer `Engine` has, and the public-key
part. The rules for both libraries, and the reasons, are in `tunnel.crypto.engine`; a subclass here adds the
library's calls and its way of refusing, and nothing else.
"""

from __future__ import annotations

import hashlib
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from readwrite_comp.errors import EngineUnavailable
from readwrite_comp.primitives import (
    HmacSha256,
    ReadableBuffer,
    engine_names,
    get_engine,
    hkdf_expand_sha256,
    hkdf_sha256,
)
from tunnel.crypto.engine import (
    HPKE_OVERHEAD,
    PRIVATE_BYTES,
    PUBLIC_BYTES,
    SIGNATURE_BYTES,
    HpkePrivate,
    TunnelEngine,
    X25519Private,
    check_private,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "HPKE_OVERHEAD",
    "PRIVATE_BYTES",
    "PUBLIC_BYTES",
    "SIGNATURE_BYTES",
    "HpkePrivate",
    "TunnelEngine",
    "X25519Private",
    "expand",
    "hkdf",
    "tunnel_engine",
]

_EXTRACT: Final = HmacSha256(b"mtun1")  # the first half of every derivation

_ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
# RFC 8032 section 5.1: the base point.
_ED25519_BASE = (
    0x216936D3CD6E53FEC0A4E231FDD6DC5C692CC7609525A7B2C9562D608F25D51A,
    0x6666666666666666666666666666666666666666666666666666666666666658,
)

# --- OpenSSL, by the package cryptography ------------------------------------------------------------------


class _OpenSslX25519Private(X25519Private):
    __slots__ = ("_import_public", "_library_exchange")

    def __init__(self, key: Any, import_public: Callable[[bytes], Any]) -> None:
        self.public = key.public_key().public_bytes_raw()
        self._library_exchange = key.exchange
        self._import_public = import_public

    def _exchange(self, public: bytes) -> bytes | None:
        try:
            shared: bytes = self._library_exchange(self._import_public(public))
        except ValueError:
            return None
        return shared


class _OpenSslHpkePrivate(HpkePrivate):
    __slots__ = ("_decrypt", "_key", "_refusals")

    def __init__(self, key: Any, decrypt: Callable[..., Any], refusals: tuple[type[Exception], ...]) -> None:
        self.public = key.public_key().public_bytes_raw()
        self._key = key
        self._decrypt = decrypt
        self._refusals = refusals

    def _open(self, sealed: ReadableBuffer, info: bytes) -> bytes | None:
        try:
            plaintext: bytes = self._decrypt(sealed, self._key, info)
        except self._refusals:
            return None
        return plaintext


class _OpenSslEngine(TunnelEngine):
    name = "openssl"
    suites = (0, 1)

    def __init__(self) -> None:
        from cryptography.exceptions import InvalidSignature, InvalidTag
        from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
        from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

        self.layers = get_engine("openssl")
        self._x25519_private = x25519.X25519PrivateKey.from_private_bytes
        self._x25519_public = x25519.X25519PublicKey.from_public_bytes
        self._ed25519_private = ed25519.Ed25519PrivateKey.from_private_bytes
        self._ed25519_public = ed25519.Ed25519PublicKey.from_public_bytes
        self._suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
        self._invalid_signature = InvalidSignature
        # InvalidTag today for all of them; ValueError is what a bare exchange raises for a bad point.
        self._open_refusals = (InvalidTag, ValueError)

    def x25519_private(self, private: bytes) -> X25519Private:
        check_private(private)
        return _OpenSslX25519Private(self._x25519_private(private), self._x25519_public)

    def ed25519_public(self, seed: bytes) -> bytes:
        check_private(seed)
        return self._ed25519_private(seed).public_key().public_bytes_raw()

    def ed25519_sign(self, seed: bytes, message: bytes) -> bytes:
        check_private(seed)
        return self._ed25519_private(seed).sign(message)

    def _verifies(self, public: bytes, message: bytes, signature: bytes) -> bool:
        try:
            self._ed25519_public(public).verify(signature, message)
        except (self._invalid_signature, ValueError):
            return False
        return True

    def hpke_private(self, private: bytes) -> HpkePrivate:
        check_private(private)
        return _OpenSslHpkePrivate(self._x25519_private(private), self._suite.decrypt, self._open_refusals)

    def _seal(self, public: bytes, info: bytes, plaintext: bytes) -> bytes | None:
        try:
            return self._suite.encrypt(plaintext, self._x25519_public(public), info)
        except ValueError:
            return None


# --- pycryptodome ------------------------------------------------------------------------------------------


class _PycryptodomeX25519Private(X25519Private):
    __slots__ = ("_agree", "_import_public", "_key")

    def __init__(self, key: Any, import_public: Callable[[bytes], Any], agree: Callable[..., bytes]) -> None:
        self.public = key.public_key().export_key(format="raw")
        self._key = key
        self._import_public = import_public
        self._agree = agree

    def _exchange(self, public: bytes) -> bytes | None:
        try:
            return self._agree(static_priv=self._key, eph_pub=self._import_public(public), kdf=bytes)
        except ValueError:
            return None


class _PycryptodomeHpkePrivate(HpkePrivate):
    __slots__ = ("_key", "_new")

    def __init__(self, key: Any, new: Callable[..., Any]) -> None:
        self.public = key.public_key().export_key(format="raw")
        self._key = key
        self._new = new

    def _open(self, sealed: ReadableBuffer, info: bytes) -> bytes | None:
        enc, ciphertext = bytes(sealed[:PUBLIC_BYTES]), bytes(sealed[PUBLIC_BYTES:])
        try:
            plaintext: bytes = self._new(receiver_key=self._key, enc=enc, info=info).unseal(ciphertext)
        except ValueError:
            return None
        return plaintext


class _PycryptodomeEngine(TunnelEngine):
    name = "pycryptodome"

    def __init__(self) -> None:
        from Crypto.Protocol import DH, HPKE
        from Crypto.PublicKey import ECC
        from Crypto.Signature import eddsa

        self.layers = get_engine("pycryptodome")
        self._x25519_private: Callable[[bytes], Any] = DH.import_x25519_private_key
        self._x25519_public: Callable[[bytes], Any] = DH.import_x25519_public_key
        self._agree: Callable[..., Any] = DH.key_agreement
        self._hpke: Callable[..., Any] = partial(HPKE.new, aead_id=HPKE.AEAD.AES256_GCM)
        self._ed25519_private: Callable[[bytes], Any] = eddsa.import_private_key
        self._ed25519_public: Callable[[bytes], Any] = eddsa.import_public_key
        self._ed25519: Callable[..., Any] = partial(eddsa.new, mode="rfc8032")
        self._base: Any = ECC.construct(
            curve="Ed25519", point_x=_ED25519_BASE[0], point_y=_ED25519_BASE[1]
        ).pointQ

    def x25519_private(self, private: bytes) -> X25519Private:
        check_private(private)
        return _PycryptodomeX25519Private(self._x25519_private(private), self._x25519_public, self._agree)

    def ed25519_public(self, seed: bytes) -> bytes:
        check_private(seed)
        public: bytes = self._ed25519_private(seed).public_key().export_key(format="raw")
        return public

    def ed25519_sign(self, seed: bytes, message: bytes) -> bytes:
        check_private(seed)
        signature: bytes = self._ed25519(self._ed25519_private(seed)).sign(message)
        return signature

    def _verifies(self, public: bytes, message: bytes, signature: bytes) -> bool:
        try:
            key = self._ed25519_public(public)
            self._ed25519(key).verify(message, signature)
        except ValueError:
            return False
        # The library's equation has the cofactor in it. This one, R = s·B - k·A compared as bytes, has not,
        # as in OpenSSL. Being checked after the library's, it can only refuse more.
        nonce_point, s = signature[:32], int.from_bytes(signature[32:], "little")
        digest = hashlib.sha512(nonce_point + public + message).digest()
        k = int.from_bytes(digest, "little") % _ED25519_ORDER
        x, y = (self._base * s + (-key.pointQ) * k).xy
        return (int(y) | (int(x) & 1) << 255).to_bytes(32, "little") == nonce_point

    def hpke_private(self, private: bytes) -> HpkePrivate:
        check_private(private)
        return _PycryptodomeHpkePrivate(self._x25519_private(private), self._hpke)

    def _seal(self, public: bytes, info: bytes, plaintext: bytes) -> bytes | None:
        try:
            context = self._hpke(receiver_key=self._x25519_public(public), info=info)
        except ValueError:
            return None
        sealed: bytes = context.enc + context.seal(plaintext)
        return sealed


_UPGRADE = "pip install 'pycryptodome>=3.23' or 'cryptography>=47'"
_ENGINES: dict[str, type[TunnelEngine]] = {"openssl": _OpenSslEngine, "pycryptodome": _PycryptodomeEngine}


@cache
def tunnel_engine(name: str = "auto") -> TunnelEngine:
    """Return the engine called `name`, importing its library if nobody has yet.

    Args:
        name: "openssl", "pycryptodome", or "auto" for the first of them that is installed and has HPKE.
    Returns:
        The engine; the same object for the same name.
    Raises:
        EngineUnavailable: the library cannot be imported or is too old; the text says what to install.
        BadParameter: no engine has that name. (Both are errors of `readwrite_comp`.)
    """
    if name != "auto":
        layers = get_engine(name)  # refuses unknown names and missing libraries
        try:
            return _ENGINES[layers.name]()
        except ImportError as error:
            raise EngineUnavailable(f"engine {name!r} is too old, HPKE is missing: {_UPGRADE}") from error
    for available in engine_names():
        try:
            return tunnel_engine(available)
        except EngineUnavailable:
            continue  # an older cryptography: the other engine has all that is needed
    raise EngineUnavailable(
        "no crypto library with HPKE found; install one: pip install 'pycryptodome>=3.23'"
    )


def hkdf(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    """Return HKDF-SHA256 (RFC 5869), `length` bytes from 1 to 8,160; an empty salt means 32 zero bytes.

    Raises:
        BadParameter: length out of range (an error of `readwrite_comp`).
    """
    return hkdf_sha256(salt, secret, info, length)


def expand(secret: bytes, label: bytes, length: int) -> bytes:
    """Derive a key for one use from a secret: HKDF-SHA256(salt "mtun1", ikm secret, info label, length).

    Raises:
        BadParameter: length not 1 to 8,160 (an error of `readwrite_comp`).
    Source: docs/protocol.md, "Key schedule", which lists every label.
    """
    return hkdf_expand_sha256(_EXTRACT.digest(secret), label, length)
