"""A reader of the wire written from docs/protocol.md, with nothing of the packages under test.

It shows what the document leaves out: every step of the worked example must follow from its text. Slow and
simple on purpose. Section names below are those of the document.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

__all__ = [
    "Fields",
    "accept_handshake",
    "expand",
    "filler",
    "layer_off",
    "layer_on",
    "next_record_key",
    "open_chunk",
    "open_header",
    "open_record",
    "public_key",
    "ticket_mac",
]

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


# --- Key schedule ---


def _hkdf(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    block, output = b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        output += block
    return output[:length]


def expand(secret: bytes, label: bytes, length: int) -> bytes:
    return _hkdf(b"mtun1", secret, label, length)


def _keystream(key: bytes, length: int) -> bytes:
    return Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(length))


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


# --- Onion header ---


class Fields(NamedTuple):
    command: int
    flags: int
    delay: int
    expiry: int
    next_id: bytes
    next_address: bytes
    seed: bytes
    reserved: bytes


def open_header(header: bytes, profile: int, private: bytes, epoch: int) -> tuple[Fields, bytes]:
    """The fields of the first slot, and the header for the next hop."""
    slot, rest = header[:128], header[128:]
    info = b"mtun1 header" + struct.pack(">BBI", 1, profile, epoch) + hashlib.sha256(rest).digest()
    plain = _SUITE.decrypt(slot, X25519PrivateKey.from_private_bytes(private), info)
    fields = Fields(*struct.unpack(">BBHI32s18s16s6s", plain))
    return fields, _xor(rest + bytes(128), _keystream(expand(fields.seed, b"header", 32), len(header)))


def filler(seeds: list[bytes], header_bytes: int) -> bytes:
    """Building a header: the bytes into which the zeros of `seeds` proxies have turned at the last node."""
    value = b""
    for seed in seeds:
        value += bytes(128)
        value = _xor(value, _keystream(expand(seed, b"header", 32), header_bytes)[-len(value) :])
    return value


# --- The wide-block layer, suite 0 ---


def _rounds(keys: bytes, number: int) -> tuple[list[bytes], bytes]:
    return [keys[i : i + 32] for i in range(0, 128, 32)], number.to_bytes(8, "big")


def layer_on(keys: bytes, chunk: bytes, number: int) -> bytes:
    """E: the origin of a frame applies it once for each proxy."""
    (k0, k1, k2, k3), tweak = _rounds(keys, number)
    left, right = chunk[:32], chunk[32:]
    right = _xor(right, _keystream(hashlib.sha256(k0 + tweak + left).digest(), len(right)))
    left = _xor(left, hashlib.sha256(k1 + tweak + right).digest())
    right = _xor(right, _keystream(hashlib.sha256(k2 + tweak + left).digest(), len(right)))
    left = _xor(left, hashlib.sha256(k3 + tweak + right).digest())
    return left + right


def layer_off(keys: bytes, chunk: bytes, number: int) -> bytes:
    """D: applied by a proxy."""
    (k0, k1, k2, k3), tweak = _rounds(keys, number)
    left, right = chunk[:32], chunk[32:]
    left = _xor(left, hashlib.sha256(k3 + tweak + right).digest())
    right = _xor(right, _keystream(hashlib.sha256(k2 + tweak + left).digest(), len(right)))
    left = _xor(left, hashlib.sha256(k1 + tweak + right).digest())
    right = _xor(right, _keystream(hashlib.sha256(k0 + tweak + left).digest(), len(right)))
    return left + right


# --- Content chunk and reply block ---


def open_chunk(key: bytes, chunk: bytes, number: int) -> tuple[int, bool, bytes]:
    """Type, whether it is the last, data."""
    plain = AESGCM(key).decrypt(bytes(4) + number.to_bytes(8, "big"), chunk, None)
    kind, flags, sub_stream, length = struct.unpack_from(">BBHH", plain)
    assert flags in (0, 1)
    assert sub_stream == 0
    assert not any(plain[6 + length :])
    return kind, flags == 1, plain[6 : 6 + length]


def ticket_mac(home_key: bytes, master_seed: bytes, ticket_head: bytes) -> bytes:
    return hmac.digest(home_key, master_seed + ticket_head, "sha256")[:16]


# --- Link handshake and link record ---


class Link(NamedTuple):
    initiator_key: bytes
    responder_key: bytes
    initiator_settings: bytes
    initiator_descriptor: bytes
    handshake_hash: bytes
    second_message: bytes


def accept_handshake(
    network_id: bytes, private: bytes, ephemeral: bytes, settings: bytes, first: bytes, third: bytes
) -> Link:
    """The responder's side: read M1, write M2, read M3. Raises for anything unexpected."""
    name = b"Noise_XK_25519_AESGCM_SHA256".ljust(32, b"\0")
    chain, digest = name, name
    key, nonce = b"", 0

    def mix_hash(data: bytes) -> None:
        nonlocal digest
        digest = hashlib.sha256(digest + data).digest()

    def mix_key(own: bytes, other: bytes) -> None:
        nonlocal chain, key, nonce
        shared = X25519PrivateKey.from_private_bytes(own).exchange(X25519PublicKey.from_public_bytes(other))
        output = _hkdf(chain, shared, b"", 64)
        chain, key, nonce = output[:32], output[32:], 0

    def opened(sealed: bytes) -> bytes:
        nonlocal nonce
        plain = AESGCM(key).decrypt(nonce.to_bytes(12, "big"), sealed, digest)
        nonce += 1
        mix_hash(sealed)
        return plain

    mix_hash(b"mtun1" + network_id)
    mix_hash(public_key(private))
    assert first[:16] == b"MT" + bytes.fromhex("0001") + bytes(12)
    assert len(first) == 64
    remote_ephemeral = first[16:48]
    mix_hash(remote_ephemeral)
    mix_key(private, remote_ephemeral)
    assert opened(first[48:]) == b""

    mix_hash(public_key(ephemeral))
    mix_key(ephemeral, remote_ephemeral)
    sealed = AESGCM(key).encrypt(bytes(12), settings, digest)
    mix_hash(sealed)
    second = public_key(ephemeral) + sealed

    # The key of M2 also seals the static key of M3, with its next nonce.
    nonce = 1
    assert len(third) == 576
    remote_static = opened(third[:48])
    mix_key(ephemeral, remote_static)
    plain = opened(third[48:])
    assert len(plain) == 512
    (length,) = struct.unpack_from(">H", plain, 32)
    assert not any(plain[34 + length :])
    keys = _hkdf(chain, b"", b"", 64)
    return Link(keys[:32], keys[32:], plain[:32], plain[34 : 34 + length], digest, second)


def next_record_key(key: bytes) -> bytes:
    """The key before record 16,384, and before each multiple of it."""
    return AESGCM(key).encrypt(bytes(4) + b"\xff" * 8, bytes(32), None)[:32]


def open_record(key: bytes, record: bytes, number: int) -> bytes:
    units, zero = struct.unpack_from(">HH", record)
    assert zero == 0
    assert len(record) == units * 1024
    return AESGCM(key).decrypt(bytes(4) + number.to_bytes(8, "big"), record[4:], record[:4])
