"""X25519, Ed25519, HPKE and HKDF by the crypto library chosen in `readwrite_comp.primitives`.

Only this module and that one name a crypto library. `tunnel_engine()` returns a `TunnelEngine` and imports
its library. The base class decides which lengths and points are refused and with which error; a subclass adds
the library's calls, which return None or False where the library refuses.

Both engines give the same bytes and the same errors. Peers therefore cannot detect which library a node runs,
and no input is accepted by only a part of the network:

* One error for all refusals. The libraries refuse a point of low order at different moments (pycryptodome
  when it imports the point, OpenSSL when it exchanges) and in different classes; callers see `RefusedKey`,
  `Refused` or `BadSignature`, with one fixed text each and without the library's error as a cause.
* X25519 accepts points in non-canonical form, as RFC 7748 section 5 demands. Sealing to one is refused: RFC
  9180 hashes the receiver's key as written, so its owner, who hashes the canonical form, could never open.
* Ed25519 accepts what RFC 8032 section 5.1.7 accepts by its equation *without* the cofactor, for a key in
  canonical form and not of low order. By default pycryptodome multiplies by the cofactor and OpenSSL does
  not: the signer of a descriptor could craft a signature that only a part of the network accepts.
* Private keys are imported once, which with pycryptodome costs as much as the exchange: callers keep
  `X25519Private` and `HpkePrivate` objects. They are two types because a key has one use.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from readwrite_comp.errors import EngineUnavailable
from readwrite_comp.primitives import (
    Engine,
    HmacSha256,
    ReadableBuffer,
    engine_names,
    get_engine,
    hkdf_expand_sha256,
)
from tunnel.errors import BadSignature, LocalTunnelError, Refused, RefusedKey

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
    "check_private",
    "expand",
    "tunnel_engine",
]


PRIVATE_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
_TAG_BYTES = 16
HPKE_OVERHEAD = PUBLIC_BYTES + _TAG_BYTES
"""What sealing adds: the ephemeral public key (`enc`) before the ciphertext and the tag after it."""

_FIELD_PRIME = 2**255 - 19
# y of the eight points whose order divides 8: orders 1, 2, 4 (two points), 8 (four points).
_Y_OF_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_LOW_ORDER_Y = frozenset((1, _FIELD_PRIME - 1, 0, _Y_OF_ORDER_8, _FIELD_PRIME - _Y_OF_ORDER_8))
_REFUSED = "the sealed bytes were refused: not sealed to this key with this info, or changed since"
_REFUSED_KEY = "the X25519 public key was refused: expected 32 bytes naming a point that is not of low order"
_BAD_SIGNATURE = "the Ed25519 signature was refused: not made with this key over this message"


def check_private(private: bytes) -> None:
    """Raises LocalTunnelError: a private key or seed of the wrong length, a fault of this side."""
    if len(private) != PRIVATE_BYTES:
        raise LocalTunnelError(f"private key is {len(private)} bytes, expected {PRIVATE_BYTES}")


def _y_or_x(public: bytes) -> int:
    """The coordinate in a public key, without the top bit (ignored by X25519, the sign of x for Ed25519)."""
    return int.from_bytes(public, "little") & (2**255 - 1)


class X25519Private(ABC):
    """A prepared X25519 private key for plain Diffie-Hellman: import once, keep, exchange often.

    Attributes:
        public: the public key, 32 bytes.
    """

    __slots__ = ("public",)

    public: bytes

    def exchange(self, public: bytes) -> bytes:
        """Return the shared secret with the owner of `public`.

        Args:
            public: 32 bytes from outside; the top bit is ignored, non-canonical forms are taken.
        Returns:
            32 bytes, never all zero. Not uniform: derive keys from it, do not use it as one.
        Raises:
            RefusedKey: not 32 bytes, or of low order, which would fix the secret to zero.
        Source: RFC 7748, sections 5 and 6.1.
        """
        if len(public) != PUBLIC_BYTES:
            raise RefusedKey(_REFUSED_KEY)
        shared = self._exchange(public)
        # Both libraries refuse low order by themselves; their error, and this check, are one outcome.
        if shared is None or not any(shared):
            raise RefusedKey(_REFUSED_KEY)
        return shared

    @abstractmethod
    def _exchange(self, public: bytes) -> bytes | None:
        """Return the shared secret, or None when the library refuses the point."""


class HpkePrivate(ABC):
    """A prepared private key of an HPKE receiver: import once, keep, give it to `TunnelEngine.hpke_open`.

    Attributes:
        public: the public key, 32 bytes.
    """

    __slots__ = ("public",)

    public: bytes

    @abstractmethod
    def _open(self, sealed: ReadableBuffer, info: bytes) -> bytes | None:
        """Return the plaintext, or None when the library refuses (at least `HPKE_OVERHEAD` bytes came)."""


class TunnelEngine(ABC):
    """The primitives of one crypto library; get it from `tunnel_engine`. Stateless.

    Attributes:
        name: "openssl" or "pycryptodome".
        layers: the layer engine of the same library.
        suites: the suites of content layers that a node with this engine offers. It can open all of them; it
            does not offer the slow ones (HCTR by pycryptodome: a GCM object for each hash).
    """

    name: str
    layers: Engine
    suites: tuple[int, ...] = (0,)

    # --- X25519 --------------------------------------------------------------------------------------------

    @abstractmethod
    def x25519_private(self, private: bytes) -> X25519Private:
        """Prepare a private key for Diffie-Hellman.

        Args:
            private: any 32 bytes, clamped when used (RFC 7748 section 5).
        Raises:
            LocalTunnelError: wrong length.
        """

    # --- Ed25519 -------------------------------------------------------------------------------------------

    @abstractmethod
    def ed25519_public(self, seed: bytes) -> bytes:
        """Return the 32-byte public key of a 32-byte seed. Raises LocalTunnelError: wrong length."""

    @abstractmethod
    def ed25519_sign(self, seed: bytes, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`, which is deterministic.

        Raises:
            LocalTunnelError: the seed is not 32 bytes.
        Source: RFC 8032, section 5.1.6 (pure Ed25519, no context).
        """

    def ed25519_verify(self, public: bytes, message: bytes, signature: bytes) -> None:
        """Check that the owner of `public` signed `message`.

        Raises:
            BadSignature: the signature does not match, a length is wrong, or the key is in non-canonical form
                or of low order.
        Source: RFC 8032, section 5.1.7, equation without the cofactor; the module docstring has the reason.
        """
        if (
            len(public) != PUBLIC_BYTES
            or len(signature) != SIGNATURE_BYTES
            or (y := _y_or_x(public)) >= _FIELD_PRIME
            or y in _LOW_ORDER_Y
            or not self._verifies(public, message, signature)
        ):
            raise BadSignature(_BAD_SIGNATURE)

    @abstractmethod
    def _verifies(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Check the equation without the cofactor. Lengths and the form of `public` are checked already."""

    # --- HPKE ----------------------------------------------------------------------------------------------

    @abstractmethod
    def hpke_private(self, private: bytes) -> HpkePrivate:
        """Prepare a receiver's private key. Raises LocalTunnelError: not 32 bytes."""

    def hpke_seal(self, public: bytes, info: bytes, plaintext: bytes) -> bytes:
        """Seal `plaintext` to the owner of `public` and bind it to `info`.

        Args:
            public: the receiver's X25519 key, 32 bytes.
            info: bytes on which both sides must agree; not sent.
            plaintext: any length.
        Returns:
            enc 32 ‖ ciphertext ‖ tag 16, different on each call.
        Raises:
            RefusedKey: not 32 bytes, of low order, or in non-canonical form (its owner could not open it).
        Source: RFC 9180, section 6.1: base mode, KEM 0x0020, KDF 0x0001, AEAD 0x0002, empty associated data.
        """
        _check_receiver(public)
        sealed = self._seal(public, info, plaintext)
        if sealed is None:
            raise RefusedKey(_REFUSED_KEY)
        return sealed

    def hpke_open(self, private: HpkePrivate, sealed: ReadableBuffer, info: bytes) -> bytes:
        """Open what `hpke_seal` made.

        Args:
            private: from `hpke_private` of either engine.
            sealed: enc 32 ‖ ciphertext ‖ tag 16.
            info: the same bytes as given when sealing.
        Raises:
            Refused: it does not open, for any reason: too short, a low-order enc, a wrong tag.
        Source: RFC 9180, section 6.1.
        """
        plaintext = private._open(sealed, info) if len(sealed) >= HPKE_OVERHEAD else None
        if plaintext is None:
            raise Refused(_REFUSED)
        return plaintext

    @abstractmethod
    def _seal(self, public: bytes, info: bytes, plaintext: bytes) -> bytes | None:
        """Seal by the library; None when it refuses the point."""


def _check_receiver(public: bytes) -> None:
    if len(public) != PUBLIC_BYTES or int.from_bytes(public, "little") >= _FIELD_PRIME:
        raise RefusedKey(_REFUSED_KEY)


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
        # The library's equation has the cofactor. This one, R = s·B - k·A compared as bytes, has not, as in
        # OpenSSL. It is checked after the library's, so it can only refuse more.
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
    """Return the engine called `name`; the first call imports its library.

    Args:
        name: "openssl", "pycryptodome", or "auto" for the first of them that is installed and has HPKE.
    Returns:
        The engine; the same object for the same name.
    Raises:
        EngineUnavailable: the library cannot be imported or is too old; the text names the package to
            install.
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
            continue  # an older cryptography; the other engine may have HPKE
    raise EngineUnavailable(
        "no crypto library with HPKE found; install one: pip install 'pycryptodome>=3.23'"
    )


def expand(secret: bytes, label: bytes, length: int) -> bytes:
    """Derive a key for one use from a secret: HKDF-SHA256(salt "mtun1", ikm secret, info label, length).

    Raises:
        BadParameter: length not 1 to 8,160 (an error of `readwrite_comp`).
    Source: docs/protocol.md, "Key schedule", which lists every label.
    """
    return hkdf_expand_sha256(_EXTRACT.digest(secret), label, length)
