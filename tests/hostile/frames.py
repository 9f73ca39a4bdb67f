"""Headers, chunks and messages written from docs/protocol.md, with whatever fault a rule asks for."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field, replace
from typing import Final, cast

from tests.support.second_implementation_modes import padme
from tests.tunnel.helpers import OPENSSL
from tunnel.crypto.primitives import expand
from tunnel.geometry import INTERACTIVE, Profile
from tunnel.identity.descriptor import Descriptor
from tunnel.onion.header import Hop, Slot, build_header

__all__ = [
    "END",
    "LAST",
    "MSG",
    "PAD",
    "PROFILE",
    "ChunkSealer",
    "RawSlot",
    "header",
    "message",
    "status_code",
]

PROFILE: Final = Profile(INTERACTIVE)
MSG, END, PAD, STATUS, HELLO, OPEN, OPENED, CLOSE, CREDIT, REKEY, CHALLENGE = range(1, 12)
LAST: Final = 1
RELAY, DEST, HOME, DROP = 1, 2, 3, 4

_FIELDS: Final = struct.Struct(">BBHI32s18s16s6s")


@dataclass(frozen=True)
class RawSlot:
    """The fields of a slot, any values."""

    expiry: int
    command: int = DEST
    flags: int = 0
    delay_10ms: int = 0
    next_id: bytes = bytes(32)
    seed: bytes = field(default_factory=lambda: os.urandom(16))

    def pack(self) -> bytes:
        return _FIELDS.pack(
            self.command,
            self.flags,
            self.delay_10ms,
            self.expiry,
            self.next_id,
            bytes(18),
            self.seed,
            bytes(6),
        )

    def over(self, **changes: object) -> RawSlot:
        """A copy with other values."""
        return replace(self, **changes)  # type: ignore[arg-type]


def header(
    route: list[tuple[Descriptor, RawSlot]], now_s: float, profile: Profile = PROFILE, *, epoch_shift: int = 0
) -> bytes:
    """The header of a route: each node with its slot."""
    hops = [(node.hop(now_s), slot) for node, slot in route]
    shifted = [(Hop(hop.onion_public, hop.epoch + epoch_shift), cast(Slot, slot)) for hop, slot in hops]
    return build_header(profile, shifted, engine=OPENSSL, random_bytes=os.urandom)


class ChunkSealer:
    """Seals content chunks under one key, one counter after the other."""

    def __init__(self, key: bytes, profile: Profile = PROFILE) -> None:
        self.profile = profile
        self.count = 0
        self.use(key)

    @classmethod
    def forward(cls, seed: bytes, profile: Profile = PROFILE) -> ChunkSealer:
        """Of a query, by the seed of the DEST slot; of a reply, by the end-to-end seed of its block."""
        return cls(expand(seed, b"e2e forward", 32), profile)

    def use(self, key: bytes) -> None:
        """Go on under another key, from counter 0."""
        self.key = key
        self._aead = OPENSSL.layers.aead(key)
        self.count = 0

    @property
    def room(self) -> int:
        """Most bytes of data in a chunk."""
        return self.profile.geometry.chunk_data_bytes

    def seal(
        self,
        kind: int,
        data: bytes = b"",
        *,
        flags: int = 0,
        sub_stream: int = 0,
        length: int | None = None,
        padding: bytes = b"",
    ) -> bytes:
        """One chunk; `padding` begins behind the data, zeros follow."""
        claimed = len(data) if length is None else length
        head = struct.pack(">BBHH", kind, flags, sub_stream, claimed)
        plain = (head + data + padding).ljust(self.profile.geometry.chunk_bytes - 16, b"\0")
        nonce = self.count.to_bytes(12, "big")
        self.count += 1
        return self._aead.seal(nonce, plain)


def message(sealer: ChunkSealer, data: bytes) -> bytes:
    """The chunks of a whole message: `data` is head and content."""
    room = sealer.room
    pieces = [data[at : at + room] for at in range(0, len(data), room)] or [b""]
    total = padme(len(pieces))
    chunks = []
    for number in range(total):
        last = LAST if number == total - 1 else 0
        if number < len(pieces) - 1:
            chunks.append(sealer.seal(MSG, pieces[number], flags=last))
        elif number == len(pieces) - 1:
            chunks.append(sealer.seal(END, pieces[number], flags=last))
        else:
            chunks.append(sealer.seal(PAD, flags=last))
    return b"".join(chunks)


def status_code(status: bytes, seed: bytes) -> int:
    """The code in a STATUS of the first hop."""
    plain = bytearray(status)
    OPENSSL.layers.xor_keystream(expand(seed, b"status pad", 32), memoryview(plain))
    return int.from_bytes(plain[32:34], "big")
