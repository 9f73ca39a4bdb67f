"""Link records: what an observer of a connection sees. Sizes are multiples of 1,024 bytes, contents are
noise.

A record on the wire is `units` 2 ‖ zero 2 ‖ ciphertext units·1,024 − 20 ‖ tag 16; the first four bytes are
the associated data. The nonce is a counter that never repeats under a key; after 2^14 records the key is
replaced by its successor (Noise REKEY) and the counter goes on. Both classes work in place in the caller's
buffer.
Source: docs/protocol.md, "Link record"; the Noise Protocol Framework, revision 34, sections 4.2 and 11.3.
"""

from __future__ import annotations

import struct

from readwrite_comp.errors import AuthenticationError
from tunnel.errors import LinkError
from tunnel.link.noise import rekeyed
from tunnel.primitives import TunnelEngine

__all__ = [
    "HEAD_BYTES",
    "MAX_RECORD_BYTES",
    "MAX_UNITS",
    "RECORD_OVERHEAD",
    "REKEY_AFTER",
    "TAG_BYTES",
    "UNIT_BYTES",
    "RecordOpener",
    "RecordSealer",
    "record_bytes_for",
    "record_bytes_of",
]

UNIT_BYTES = 1024
MAX_UNITS = 63
MAX_RECORD_BYTES = MAX_UNITS * UNIT_BYTES
HEAD_BYTES = 4
TAG_BYTES = 16
RECORD_OVERHEAD = HEAD_BYTES + TAG_BYTES
REKEY_AFTER = 1 << 14

_HEADS = [struct.pack(">HH", units, 0) for units in range(MAX_UNITS + 1)]
_HEAD = struct.Struct(">HH")


def record_bytes_for(frame_bytes: int) -> int:
    """The smallest record that holds `frame_bytes` of frames: a multiple of 1,024."""
    return -(-(frame_bytes + RECORD_OVERHEAD) // UNIT_BYTES) * UNIT_BYTES


def record_bytes_of(head: bytes | memoryview) -> int:
    """The length of the record that begins with these four bytes.

    Raises:
        LinkError: no record begins so. Close the link.
    """
    units, zero = _HEAD.unpack(head)
    if zero or not 1 <= units <= MAX_UNITS:
        raise LinkError(f"record head is {bytes(head).hex()}, expected 0001 to 003f and 0000")
    return int(units) * UNIT_BYTES


class _Direction:
    """Key, counter and rekeying of one direction."""

    def __init__(self, key: bytes, engine: TunnelEngine) -> None:
        self._engine = engine
        self._key = key
        self._aead = engine.layers.aead(key)
        self._counter = 0

    def _next_nonce(self) -> bytes:
        counter = self._counter
        if counter and counter % REKEY_AFTER == 0:
            self._key = rekeyed(self._key, self._engine)
            self._aead = self._engine.layers.aead(self._key)
        self._counter = counter + 1
        return counter.to_bytes(12, "big")  # 4 zero bytes ‖ u64: the counter never reaches 2^64


class RecordSealer(_Direction):
    """Seals records in place, in order."""

    def seal(self, record: memoryview) -> None:
        """Seal one record where it lies.

        Args:
            record: k·1,024 bytes; frames and padding stand at [4:-16]. Head, ciphertext and tag replace all
                of it.
        """
        head = _HEADS[len(record) // UNIT_BYTES]
        record[:HEAD_BYTES] = head
        sealed = record[HEAD_BYTES:]
        nonce = self._next_nonce()  # first: it may replace the key
        self._aead.seal_into(nonce, sealed[:-TAG_BYTES], head, sealed)


class RecordOpener(_Direction):
    """Opens records in place, in order. After an error the link is dead: nothing further may be opened."""

    def open(self, record: memoryview) -> memoryview:
        """Open one record where it lies.

        Args:
            record: one whole record, head included.
        Returns:
            A view of its frames and padding, in the caller's buffer.
        Raises:
            LinkError: the tag does not match: changed, reordered, repeated or not from this peer. Close the
                link.
        """
        head = _HEADS[len(record) // UNIT_BYTES]
        sealed = record[HEAD_BYTES:]
        frames = sealed[:-TAG_BYTES]
        nonce = self._next_nonce()  # first: it may replace the key
        try:
            self._aead.open_into(nonce, sealed, head, frames)
        except AuthenticationError as error:
            raise LinkError(f"link record {self._counter - 1} does not open") from error
        return frames
