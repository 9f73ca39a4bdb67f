"""Receipts, by the reader written from docs/protocol.md: replies with challenges, and their answers.

Like `second_implementation`, whose parts it uses: nothing of the packages under test, slow and simple on
purpose. Section names below are those of the document.
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.second_implementation import expand, open_chunk
from tests.support.second_implementation_frames import DEST, Refused, Walk
from tests.support.second_implementation_modes import Layers, padme

__all__ = ["answer_by_block", "read_challenged", "read_receipt_frame"]

_CHUNK_BYTES = {1: 996, 2: 16_356, 3: 16_356, 4: 64_484, 5: 8_164}  # Profiles: C
_MSG, _END, _PAD, _CHALLENGE = 1, 2, 3, 11


def read_challenged(profile: int, key: bytes, chunks: bytes) -> tuple[bytes, list[bytes]]:
    """Receipts: the message of a reply, head included, and the challenges in it. None is answered yet."""
    size = _CHUNK_BYTES[profile % 16]
    challenges: list[bytes] = []
    message, expected, before = b"", 0, 0
    for number, at in enumerate(range(0, len(chunks), size)):
        kind, is_last, data = open_chunk(key, chunks[at : at + size], number)
        if expected:
            if kind != _PAD or data:
                raise Refused("after END")
        elif kind == _CHALLENGE:
            if before != _MSG or len(data) != 16 or len(challenges) == 8:
                raise Refused("challenge")
            challenges.append(data)
        elif kind == _END:
            expected = padme(number + 1)
            message += data
        elif kind == _MSG and data:
            message += data
        else:
            raise Refused("type")
        if is_last != (number + 1 == expected):
            raise Refused("last")
        before = kind
    if expected * size != len(chunks):
        raise Refused("truncated")
    return message, challenges


def answer_by_block(profile: int, seeds: list[bytes], end_to_end: bytes, challenges: list[bytes]) -> bytes:
    """Receipts: what Alice sends on the backward half of a reply by block.

    Args:
        seeds: of the reply's proxies, that next to Bob first. end_to_end: the block's seed.
    """
    size, key = _CHUNK_BYTES[profile % 16], expand(end_to_end, b"e2e backward", 32)
    pieces = [(_MSG, challenge) for challenge in challenges]
    pieces[0] = (_MSG, bytes(4) + challenges[0])  # the head goes with the first
    pieces.append((_END, b""))
    count = padme(len(pieces))
    pieces += [(_PAD, b"")] * (count - len(pieces))
    chunks = b""
    for number, (kind, data) in enumerate(pieces):
        plain = struct.pack(">BBHH", kind, number == count - 1, 0, len(data)) + data
        nonce = bytes(4) + number.to_bytes(8, "big")
        chunks += AESGCM(key).encrypt(nonce, plain.ljust(size - 16, b"\0"), None)
    for seed in seeds:
        chunks = Layers(profile, seed, b"backward").on(chunks)
    return chunks


def read_receipt_frame(arrived: Walk, profile: int) -> bytes:
    """Receipts: the challenge that a frame of its own returns, in mode `cached`."""
    assert arrived.fields.command == DEST
    key = expand(arrived.fields.seed, b"e2e forward", 32)
    kind, is_last, data = open_chunk(key, arrived.chunks, 0)
    if (kind, is_last, len(data)) != (_CHALLENGE, True, 16):
        raise Refused("no receipt")
    assert len(arrived.chunks) == _CHUNK_BYTES[profile % 16]
    return data
