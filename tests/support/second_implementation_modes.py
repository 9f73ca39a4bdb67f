"""The rest of the reader written from docs/protocol.md: suite 1, message heads, replies in every mode.

Like `second_implementation`, whose parts it uses: nothing of the packages under test, slow and simple on
purpose. Section names below are those of the document.
"""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from tests.support.second_implementation import expand, layer_off, layer_on, open_chunk, ticket_mac

__all__ = [
    "Head",
    "Layers",
    "check_origin",
    "home_layers",
    "own_ticket",
    "padme",
    "read_message",
    "split_head",
]

_SLOTS = {1: (8, 996), 2: (32, 16_356), 3: (128, 16_356), 4: (32, 64_484), 5: (15, 8_164)}  # Profiles: N, C


# --- Wide-block layer, suite 1 ---


def _aes(key: bytes, block: bytes, *, backwards: bool = False) -> bytes:
    cipher = Cipher(AES(key), ECB())
    return (cipher.decryptor() if backwards else cipher.encryptor()).update(block)


def _times(x: int, y: int) -> int:
    """NIST SP 800-38D, algorithm 1: the leftmost bit is the coefficient of 1."""
    z = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            z ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return z


def _ghash(key: bytes, text: bytes) -> int:
    """GHASH of no associated data and this ciphertext."""
    h = int.from_bytes(_aes(key, bytes(16)), "big")
    padded = text + bytes(-len(text) % 16) + struct.pack(">QQ", 0, 8 * len(text))
    value = 0
    for at in range(0, len(padded), 16):
        value = _times(value ^ int.from_bytes(padded[at : at + 16], "big"), h)
    return value


def _hctr(keys: bytes, chunk: bytes, number: int, *, backwards: bool) -> bytes:
    k1, k2, tweak = keys[:32], keys[32:], struct.pack(">Q", number)
    first, rest = int.from_bytes(chunk[:16], "big"), chunk[16:]
    one = first ^ _ghash(k2, rest + tweak)
    other = int.from_bytes(_aes(k1, one.to_bytes(16, "big"), backwards=backwards), "big")
    s = one ^ other
    stream = b"".join(_aes(k1, (s ^ i).to_bytes(16, "big")) for i in range(1, -(-len(rest) // 16) + 1))
    rest = bytes(a ^ b for a, b in zip(rest, stream, strict=False))
    return (other ^ _ghash(k2, rest + tweak)).to_bytes(16, "big") + rest


class Layers(NamedTuple):
    """E and D of one proxy and direction, of either suite."""

    profile: int
    seed: bytes
    direction: bytes

    def on(self, chunks: bytes) -> bytes:
        return self._each(chunks, is_on=True)

    def off(self, chunks: bytes) -> bytes:
        return self._each(chunks, is_on=False)

    def _each(self, chunks: bytes, *, is_on: bool) -> bytes:
        suite, geometry = divmod(self.profile, 16)
        size = _SLOTS[geometry][1]
        keys = expand(self.seed, self.direction, 64 if suite else 128)
        done = b""
        for number, at in enumerate(range(0, len(chunks), size)):
            chunk = chunks[at : at + size]
            if suite:
                done += _hctr(keys, chunk, number, backwards=not is_on)
            else:
                done += layer_on(keys, chunk, number) if is_on else layer_off(keys, chunk, number)
        return done


# --- Content chunk, Message head ---


def padme(count: int) -> int:
    if count < 2:
        return count
    e = count.bit_length() - 1
    step = 1 << e - (e.bit_length() if e else 0)
    return -(-count // step) * step


def read_message(profile: int, key: bytes, chunks: bytes) -> bytes:
    """Head and content."""
    size = _SLOTS[profile % 16][1]
    message, expected = b"", 0
    for number, at in enumerate(range(0, len(chunks), size)):
        kind, is_last, data = open_chunk(key, chunks[at : at + size], number)
        if kind == 2:
            assert not expected
            expected = padme(number + 1)
        else:
            assert (kind, bool(data)) == ((3, False) if expected else (1, True))
        assert is_last == (number + 1 == expected)
        message += data
    assert expected * size == len(chunks)
    return message


class Head(NamedTuple):
    """The parts of a head; empty bytes for a missing one."""

    flags: int
    blocks: list[bytes]
    ticket: bytes
    descriptor: bytes
    signature: bytes
    answer: bytes


def split_head(message: bytes) -> tuple[Head, bytes]:
    """The head and the content after it."""
    count, flags, zero = struct.unpack_from(">BBH", message)
    assert count <= 8
    assert not flags & ~0x0F
    assert not zero
    assert bool(count) + bool(flags & 1) + bool(flags & 8) <= 1
    at, blocks = 4, []
    for _ in range(count):
        end = at + 72 + 128 * _SLOTS[message[at] % 16][0]
        blocks.append(message[at:end])
        at = end
    ticket = descriptor = signature = answer = b""
    if flags & 1:
        (length,) = struct.unpack_from(">H", message, at + 24)
        ticket, at = message[at : at + 24], at + 26
        descriptor, at = message[at : at + length], at + length
        signature, at = message[at : at + 64], at + 64
    if flags & 2:
        answer, at = message[at : at + 24], at + 24
    return Head(flags, blocks, ticket, descriptor, signature, answer), message[at:]


def own_ticket(home_key: bytes, query_id: bytes) -> bytes:
    """Message head, Origin: the ticket of a query."""
    return query_id + hmac.digest(home_key, b"mtun1 known dest" + query_id, "sha256")[:16]


def check_origin(head: Head, destination: bytes, dest_seed: bytes) -> bytes:
    """The node id of the sender. Raises InvalidSignature."""
    body, signature = head.descriptor[:-64], head.descriptor[-64:]
    assert body[5:8] == b"\x01\x00\x20", "the first field is the node id"
    node_id = body[8:40]
    key = Ed25519PublicKey.from_public_bytes(node_id)
    key.verify(signature, body)
    key.verify(
        head.signature, b"mtun1 known dest" + destination + expand(dest_seed, b"origin", 32) + head.ticket
    )
    return node_id


# --- Reply block ---


def home_layers(
    profile: int, home_key: bytes, next_id: bytes, master: bytes, reply: bytes
) -> tuple[bytes, bytes]:
    """Query id and chunks of a reply by block; the proxies' layers are removed, the last proxy's first."""
    query_id, proxies, _number, zero = struct.unpack(">8sBB6s", next_id[:16])
    assert zero == bytes(6)
    assert next_id[16:] == ticket_mac(home_key, master, next_id[:16])
    for proxy in range(proxies - 1, -1, -1):
        seed = expand(master, b"hop" + struct.pack(">H", proxy), 16)
        reply = Layers(profile, seed, b"forward").on(reply)
    return query_id, reply
