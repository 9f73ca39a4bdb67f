"""HPKE sealed with a given ephemeral key, composed of X25519, HMAC and AES-256-GCM.

The published vectors fix the ephemeral key, and the libraries draw it. Two plaintexts sealed with one
ephemeral key and one info repeat an AES-GCM nonce, so this is for tests only.
"""

from __future__ import annotations

from readwrite_comp.primitives import hmac_sha256
from tunnel.crypto.primitives import TunnelEngine

__all__ = ["key_and_nonce", "seal_with_ephemeral"]

# RFC 9180 section 7: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
_KEM_SUITE = b"KEM" + bytes.fromhex("0020")
_SUITE = b"HPKE" + bytes.fromhex("0020 0001 0002")
_MODE_BASE = b"\x00"


def seal_with_ephemeral(
    engine: TunnelEngine, public: bytes, info: bytes, plaintext: bytes, *, ephemeral: bytes, aad: bytes = b""
) -> bytes:
    """Return enc ‖ ciphertext ‖ tag with `ephemeral`, the vector's skEm (RFC 9180, sections 4 to 6.1)."""
    sender = engine.x25519_private(ephemeral)
    engine.hpke_seal(public, b"", b"")  # refuses invalid receiver keys
    key, nonce = key_and_nonce(sender.exchange(public), sender.public + public, info)
    return sender.public + engine.layers.aead(key).seal(nonce, plaintext, aad)


def key_and_nonce(shared: bytes, kem_context: bytes, info: bytes) -> tuple[bytes, bytes]:
    """RFC 9180 section 4.1 ExtractAndExpand and section 5.1 KeySchedule, without exporter and pre-shared key.

    Every output is at most one hash long, so that HKDF-Expand is a single HMAC with the block number 1.
    """

    def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
        return hmac_sha256(salt, b"HPKE-v1", suite, label, secret)

    def expand_one(suite: bytes, prk: bytes, label: bytes, context: bytes, length: int) -> bytes:
        labeled = (length.to_bytes(2, "big"), b"HPKE-v1", suite, label, context)
        return hmac_sha256(prk, *labeled, b"\x01")[:length]

    kem_prk = extract(_KEM_SUITE, b"", b"eae_prk", shared)
    kem_secret = expand_one(_KEM_SUITE, kem_prk, b"shared_secret", kem_context, 32)
    context = (
        _MODE_BASE + extract(_SUITE, b"", b"psk_id_hash", b"") + extract(_SUITE, b"", b"info_hash", info)
    )
    secret = extract(_SUITE, kem_secret, b"secret", b"")
    return (
        expand_one(_SUITE, secret, b"key", context, 32),
        expand_one(_SUITE, secret, b"base_nonce", context, 12),
    )
