"""What a crypto library must offer to carry the tunnel, and the rules that hold for every library.

Library-free: `tunnel.crypto.primitives` holds one subclass per library; callers import from there. What is
decided here is decided once: which lengths and points are refused, and with which error. A subclass only
says yes, no or the bytes. Both engines must give the same bytes and the same errors, so that no peer can
tell, or be split off by, the library that a node happens to run:

* One error for all refusals. The libraries refuse a point of low order at different moments (pycryptodome
  when it imports the point, OpenSSL when it exchanges) and in different classes; callers see `RefusedKey`,
  `Refused` or `BadSignature`, with one fixed text each and without the library's error as a cause.
* X25519 takes points in non-canonical form as RFC 7748 section 5 demands. Sealing to one is refused: RFC
  9180 hashes the receiver's key as it was written, so its owner, who hashes the canonical form, could never
  open.
* Ed25519 accepts what RFC 8032 section 5.1.7 accepts by its equation *without* the cofactor, for a key that
  is in canonical form and not of low order. Left alone, pycryptodome multiplies by the cofactor and OpenSSL
  does not: whoever signs a descriptor could craft a signature that only a part of the network takes.
* Private keys are imported once. With pycryptodome that costs as much as the exchange itself, so callers
  keep `X25519Private` and `HpkePrivate` objects. They are two types, because a key has one use.
* Nothing is composed by hand that the libraries have. The exception, `hpke_seal_with_ephemeral`, exists to
  be compared with published vectors, which fix the ephemeral key; production calls `hpke_seal`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from readwrite_comp.primitives import (
    Aead,
    CtrStream,
    ReadableBuffer,
    WideEngine,
    hmac_sha256,
    random_bytes,
)
from tunnel.errors import BadSignature, LocalTunnelError, Refused, RefusedKey

__all__ = [
    "HPKE_OVERHEAD",
    "PRIVATE_BYTES",
    "PUBLIC_BYTES",
    "SIGNATURE_BYTES",
    "HpkePrivate",
    "TunnelEngine",
    "X25519Private",
    "check_private",
]

PRIVATE_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
_TAG_BYTES = 16
HPKE_OVERHEAD = PUBLIC_BYTES + _TAG_BYTES
"""What sealing adds: the ephemeral public key (`enc`) before the ciphertext and the tag behind it."""

# RFC 9180 section 7: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
_HPKE_KEM_SUITE = b"KEM" + bytes.fromhex("0020")
_HPKE_SUITE = b"HPKE" + bytes.fromhex("0020 0001 0002")
_HPKE_MODE_BASE = b"\x00"

_FIELD_PRIME = 2**255 - 19
# y of the eight points whose order divides 8: orders 1, 2, 4 (two points), 8 (four points).
_Y_OF_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_LOW_ORDER_Y = frozenset((1, _FIELD_PRIME - 1, 0, _Y_OF_ORDER_8, _FIELD_PRIME - _Y_OF_ORDER_8))

_REFUSED = "the sealed bytes were refused: not sealed to this key with this info, or changed since"
_REFUSED_KEY = "the X25519 public key was refused: expected 32 bytes naming a point that is not of low order"
_BAD_SIGNATURE = "the Ed25519 signature was refused: not made with this key over this message"


def check_private(private: bytes) -> None:
    """Refuse a private key or seed of the wrong length, which can only be our own fault."""
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
    """The primitives of one crypto library. Get it from `tunnel_engine`; it has no state that calls change.

    Attributes:
        name: "openssl" or "pycryptodome".
        layers: the layer engine of the same library; `aead`, `ctr` and `xor_keystream` pass on to it.
        suites: those of the content layers that a node with this engine offers. It can open every one; what
            it is slow at it leaves to others (HCTR by pycryptodome: a GCM object for each hash).
    """

    name: str
    layers: WideEngine
    suites: tuple[int, ...] = (0,)

    # --- what a layer Engine has ---------------------------------------------------------------------------

    def aead(self, key: bytes) -> Aead:
        """Prepare AES-256-GCM for one key: see `readwrite_comp.primitives.Engine.aead`."""
        return self.layers.aead(key)

    def xor_keystream(self, key: bytes, view: memoryview) -> None:
        """XOR AES-256-CTR of a key used once into `view`: see `readwrite_comp.primitives.Engine`."""
        self.layers.xor_keystream(key, view)

    def ctr(self, key: bytes, counter_block: bytes) -> CtrStream:
        """Begin an AES-256-CTR keystream: see `readwrite_comp.primitives.Engine.ctr`."""
        return self.layers.ctr(key, counter_block)

    # --- X25519 --------------------------------------------------------------------------------------------

    @abstractmethod
    def x25519_private(self, private: bytes) -> X25519Private:
        """Prepare a private key for Diffie-Hellman.

        Args:
            private: any 32 bytes; they are clamped when used, as RFC 7748 section 5 says.
        Raises:
            LocalTunnelError: wrong length.
        """

    def x25519_public(self, private: bytes) -> bytes:
        """Return the 32-byte public key of `private`. Raises LocalTunnelError: wrong length."""
        return self.x25519_private(private).public

    def x25519(self, private: bytes, public: bytes) -> bytes:
        """Exchange once: `X25519Private.exchange` for a key that is used for nothing further.

        Raises:
            LocalTunnelError: `private` is not 32 bytes.
            RefusedKey: `public` is not 32 bytes, or of low order.
        """
        return self.x25519_private(private).exchange(public)

    def generate_x25519(self) -> tuple[bytes, bytes]:
        """Return a new (private, public) pair, 32 bytes each, from the operating system's generator."""
        private = random_bytes(PRIVATE_BYTES)
        return private, self.x25519_public(private)

    # --- Ed25519 -------------------------------------------------------------------------------------------

    @abstractmethod
    def ed25519_public(self, seed: bytes) -> bytes:
        """Return the 32-byte public key of a 32-byte seed. Raises LocalTunnelError: wrong length."""

    @abstractmethod
    def ed25519_sign(self, seed: bytes, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`; always the same one for the same arguments.

        Raises:
            LocalTunnelError: the seed is not 32 bytes.
        Source: RFC 8032, section 5.1.6 (pure Ed25519, no context).
        """

    def ed25519_verify(self, public: bytes, message: bytes, signature: bytes) -> None:
        """Return if `signature` is one of `message` by the owner of `public`, raise otherwise.

        Raises:
            BadSignature: any other case: wrong lengths, a key in non-canonical form or of low order included.
        Source: RFC 8032, section 5.1.7, equation without the cofactor; the module docstring says why.
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
        """Check the equation without the cofactor; lengths and the form of `public` were checked."""

    # --- HPKE ----------------------------------------------------------------------------------------------

    @abstractmethod
    def hpke_private(self, private: bytes) -> HpkePrivate:
        """Prepare a receiver's private key. Raises LocalTunnelError: not 32 bytes."""

    def hpke_seal(self, public: bytes, info: bytes, plaintext: bytes) -> bytes:
        """Seal `plaintext` to the owner of `public` and bind it to `info`.

        Args:
            public: the receiver's X25519 key, 32 bytes.
            info: what the receiver must know and agree on; it is not sent.
            plaintext: any length.
        Returns:
            enc 32 ‖ ciphertext ‖ tag 16, different on each call.
        Raises:
            RefusedKey: not 32 bytes, of low order, or in non-canonical form (nobody could open it).
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
            Refused: it does not open, whatever the reason: too short, a low-order enc, a wrong tag.
        Source: RFC 9180, section 6.1.
        """
        plaintext = private._open(sealed, info) if len(sealed) >= HPKE_OVERHEAD else None
        if plaintext is None:
            raise Refused(_REFUSED)
        return plaintext

    @abstractmethod
    def _seal(self, public: bytes, info: bytes, plaintext: bytes) -> bytes | None:
        """Seal by the library; None when it refuses the point."""

    def hpke_seal_with_ephemeral(
        self,
        public: bytes,
        info: bytes,
        plaintext: bytes,
        *,
        fixed_ephemeral_for_tests_only: bytes,
        aad: bytes = b"",
    ) -> bytes:
        """Seal with a given ephemeral private key: the same bytes each time, hence for vectors only.

        Composed of this module's X25519, HMAC and AES-256-GCM. Sealing two plaintexts with one ephemeral key
        and one info repeats an AES-GCM nonce, which reveals both and the authentication key.

        Args:
            public, info, plaintext: as for `hpke_seal`.
            fixed_ephemeral_for_tests_only: 32 bytes, the vector's skEm.
            aad: associated data; the protocol has none, but the published vectors do.
        Raises:
            RefusedKey: as for `hpke_seal`.
            LocalTunnelError: the ephemeral key is not 32 bytes.
        Source: RFC 9180, sections 4, 4.1, 5.1 and 6.1.
        """
        _check_receiver(public)
        ephemeral = self.x25519_private(fixed_ephemeral_for_tests_only)
        key, nonce = _hpke_key_and_nonce(
            ephemeral.exchange(public), ephemeral.public + public, _HPKE_MODE_BASE, info
        )
        return ephemeral.public + self.layers.aead(key).seal(nonce, plaintext, aad)


def _check_receiver(public: bytes) -> None:
    if len(public) != PUBLIC_BYTES or int.from_bytes(public, "little") >= _FIELD_PRIME:
        raise RefusedKey(_REFUSED_KEY)


def _hpke_key_and_nonce(shared: bytes, kem_context: bytes, mode: bytes, info: bytes) -> tuple[bytes, bytes]:
    """RFC 9180 section 4.1 ExtractAndExpand and section 5.1 KeySchedule, without exporter and pre-shared key.

    Every output is at most one hash long, so that HKDF-Expand is a single HMAC with the block number 1.
    """

    def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
        return hmac_sha256(salt, b"HPKE-v1", suite, label, secret)

    def expand_one(suite: bytes, prk: bytes, label: bytes, context: bytes, length: int) -> bytes:
        labeled = (length.to_bytes(2, "big"), b"HPKE-v1", suite, label, context)
        return hmac_sha256(prk, *labeled, b"\x01")[:length]

    kem_prk = extract(_HPKE_KEM_SUITE, b"", b"eae_prk", shared)
    kem_secret = expand_one(_HPKE_KEM_SUITE, kem_prk, b"shared_secret", kem_context, 32)
    context = (
        mode + extract(_HPKE_SUITE, b"", b"psk_id_hash", b"") + extract(_HPKE_SUITE, b"", b"info_hash", info)
    )
    secret = extract(_HPKE_SUITE, kem_secret, b"secret", b"")
    return (
        expand_one(_HPKE_SUITE, secret, b"key", context, 32),
        expand_one(_HPKE_SUITE, secret, b"base_nonce", context, 12),
    )
