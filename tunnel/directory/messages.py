"""The payload of a PEER-EXCHANGE frame: some signed descriptors, and whether more are wanted.

Layout: version u8 = 1 ‖ flags u8 (bit 0: WANT) ‖ count u8, 0 to 8 ‖ zero u8 ‖ count × (length u16 ‖ signed
descriptor). Source: docs/protocol.md, "Peer exchange".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tunnel.descriptor import MAX_DESCRIPTOR_BYTES, MIN_DESCRIPTOR_BYTES
from tunnel.errors import LinkError, LocalTunnelError

__all__ = ["MAX_DESCRIPTORS", "ExchangeMessage"]

MAX_DESCRIPTORS: Final = 8  # of the greatest length they fit into one frame
_HEAD: Final = struct.Struct(">BBBB")
_LENGTH: Final = struct.Struct(">H")
_VERSION: Final = 1
_WANT: Final = 0x01


@dataclass(frozen=True, slots=True)
class ExchangeMessage:
    """What one side tells.

    Attributes:
        descriptors: the signed bytes of each, not verified here.
        wants_more: the sender asks for a message in return, now.
    """

    descriptors: tuple[bytes, ...]
    wants_more: bool = False

    def to_bytes(self) -> bytes:
        """The payload. Raises LocalTunnelError: more descriptors than a message holds."""
        if len(self.descriptors) > MAX_DESCRIPTORS:
            raise LocalTunnelError(f"{len(self.descriptors)} descriptors, expected up to {MAX_DESCRIPTORS}")
        head = _HEAD.pack(_VERSION, _WANT if self.wants_more else 0, len(self.descriptors), 0)
        return head + b"".join(_LENGTH.pack(len(signed)) + signed for signed in self.descriptors)

    @classmethod
    def parse(cls, payload: bytes) -> ExchangeMessage:
        """Read a payload whole.

        Raises:
            LinkError: any byte that no sender writes.
        """
        if len(payload) < _HEAD.size:
            raise LinkError(f"PEER-EXCHANGE of {len(payload)} bytes, expected at least {_HEAD.size}")
        version, flags, count, zero = _HEAD.unpack_from(payload)
        if version != _VERSION or flags & ~_WANT or count > MAX_DESCRIPTORS or zero:
            raise LinkError(f"PEER-EXCHANGE begins with {payload[: _HEAD.size].hex()}")
        return cls(tuple(_split(payload[_HEAD.size :], count)), bool(flags & _WANT))


def _split(body: bytes, count: int) -> Sequence[bytes]:
    found, at = [], 0
    for _ in range(count):
        start = at + _LENGTH.size
        length = int.from_bytes(body[at:start], "big") if start <= len(body) else 0
        at = start + length
        if not MIN_DESCRIPTOR_BYTES <= length <= MAX_DESCRIPTOR_BYTES or at > len(body):
            raise LinkError(f"PEER-EXCHANGE with a descriptor of {length} bytes at byte {start} of its body")
        found.append(body[start:at])
    if at != len(body):
        raise LinkError(f"PEER-EXCHANGE with {len(body) - at} bytes behind its last descriptor")
    return found
