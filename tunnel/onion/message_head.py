"""What stands before a message's content: how it can be answered, and which query it answers.

    count u8 ‖ flags u8 ‖ zero u16 ‖ reply block × count ‖ [origin] ‖ [answer]

The head is inside the end-to-end seal: Bob alone reads it. It precedes the content, so that he can answer
while the query is still arriving. A message names at most one way back. Rules for changing it: every field
has a length that is known before it is read, and a bound that is checked before anything is kept.
Source: docs/protocol.md, "Message head".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag

from tunnel.descriptor import MAX_DESCRIPTOR_BYTES, MIN_DESCRIPTOR_BYTES
from tunnel.errors import LocalTunnelError, MalformedMessage, ProfileError
from tunnel.geometry import MAX_BLOCKS, MAX_BLOCKS_BYTES, Profile
from tunnel.modes import ReplyMode
from tunnel.onion.reply_block import ReplyBlock

__all__ = ["TICKET_BYTES", "HeadFlag", "MessageHead", "OriginClaim", "head_bytes"]

TICKET_BYTES = 24  # query id 8 ‖ MAC 16
_SIGNATURE_BYTES = 64
_FIXED = struct.Struct(">BBH")
_ORIGIN = struct.Struct(f">{TICKET_BYTES}sH")


class HeadFlag(IntFlag):
    """What the head says besides its blocks."""

    ORIGIN = 1  # Alice names herself: an origin follows the blocks
    ANSWER = 2  # this message answers a query of mode `known-dest`: its ticket follows
    WANTS_BLOCKS = 4  # the reply is to carry blocks of Bob's
    BACKWARD = 8  # the reply is awaited on the backward half of this stream


_KNOWN_FLAGS = 0x0F


@dataclass(frozen=True, slots=True)
class OriginClaim:
    """Who Alice says that she is, not yet checked (see `tunnel.onion.origin`).

    Attributes:
        ticket: 24 bytes, to be given back with the answer.
        descriptor: her signed descriptor. signature: 64 bytes, by her identity key, for this query alone.
    """

    ticket: bytes
    descriptor: bytes
    signature: bytes

    def pack(self) -> bytes:
        return _ORIGIN.pack(self.ticket, len(self.descriptor)) + self.descriptor + self.signature


@dataclass(frozen=True, slots=True)
class MessageHead:
    """A message's head; the empty one asks for no reply and answers nothing.

    Attributes:
        reply_blocks: at most 8 and 64 KiB.
        origin: Alice names herself.
        answer: the ticket of the query that this message answers, 24 bytes.
        backward: the reply comes back over the same streams.
        wants_blocks: with reply blocks only: the reply carries blocks.
    """

    reply_blocks: tuple[ReplyBlock, ...] = ()
    origin: OriginClaim | None = None
    answer: bytes | None = None
    backward: bool = False
    wants_blocks: bool = False

    @property
    def mode(self) -> ReplyMode:
        """How the sender wants to be answered. `route` stands for `other-route` too: Bob cannot tell."""
        if self.reply_blocks:
            return ReplyMode.REPLY_ON_REPLY if self.wants_blocks else ReplyMode.ROUTE
        if self.origin is not None:
            return ReplyMode.KNOWN_DEST
        return ReplyMode.CACHED if self.backward else ReplyMode.NONE

    def pack(self) -> bytes:
        """The head as it is sent.

        Raises:
            LocalTunnelError: more than any reader takes, or more than one way back.
        """
        blocks = b"".join(block.pack() for block in self.reply_blocks)
        if len(self.reply_blocks) > MAX_BLOCKS or len(blocks) > MAX_BLOCKS_BYTES:
            raise LocalTunnelError(
                f"{len(self.reply_blocks)} reply blocks of {len(blocks)} bytes, "
                f"at most {MAX_BLOCKS} and {MAX_BLOCKS_BYTES} bytes are allowed"
            )
        flags = HeadFlag(0)
        flags |= HeadFlag.ORIGIN if self.origin is not None else 0
        flags |= HeadFlag.ANSWER if self.answer is not None else 0
        flags |= HeadFlag.WANTS_BLOCKS if self.wants_blocks else 0
        flags |= HeadFlag.BACKWARD if self.backward else 0
        fault = _fault(len(self.reply_blocks), flags)
        if fault:
            raise LocalTunnelError(fault)
        origin = self.origin.pack() if self.origin is not None else b""
        return _FIXED.pack(len(self.reply_blocks), flags, 0) + blocks + origin + (self.answer or b"")

    @classmethod
    def parse(cls, data: bytes) -> MessageHead:
        """Read a head that is complete, that is: `head_bytes(data) == len(data)`.

        Raises:
            MalformedMessage: a field holds what no sender writes.
        """
        count, flags, _ = _FIXED.unpack_from(data)
        position, blocks = _FIXED.size, []
        for _ in range(count):
            end = position + Profile.from_byte(data[position]).geometry.reply_block_bytes
            blocks.append(ReplyBlock.unpack(data[position:end]))
            position = end
        origin = None
        if flags & HeadFlag.ORIGIN:
            ticket, length = _ORIGIN.unpack_from(data, position)
            position += _ORIGIN.size
            end = position + length + _SIGNATURE_BYTES
            origin = OriginClaim(ticket, data[position : position + length], data[position + length : end])
            position = end
        answer = data[position : position + TICKET_BYTES] if flags & HeadFlag.ANSWER else None
        return cls(
            tuple(blocks),
            origin,
            answer,
            backward=bool(flags & HeadFlag.BACKWARD),
            wants_blocks=bool(flags & HeadFlag.WANTS_BLOCKS),
        )


def head_bytes(data: bytes | bytearray) -> int:
    """How long the head that begins with `data` is, as far as the part that is here tells.

    Returns:
        The head's length if `data` holds that many bytes; else a number greater than `len(data)`, and not
        greater than the head's length.
    Raises:
        MalformedMessage: a field that is here holds what no sender writes, or the head is too long.
    """
    if len(data) < _FIXED.size:
        return _FIXED.size
    count, flags, zero = _FIXED.unpack_from(data)
    if count > MAX_BLOCKS or zero or flags & ~_KNOWN_FLAGS:
        raise MalformedMessage(
            f"message names {count} reply blocks, flags 0x{flags:02x} and reserved 0x{zero:04x}; at most "
            f"{MAX_BLOCKS} blocks, flags 0x{_KNOWN_FLAGS:02x} and 2 zero bytes are allowed"
        )
    fault = _fault(count, HeadFlag(flags))
    if fault:
        raise MalformedMessage(fault)
    end = _FIXED.size
    for _ in range(count):
        if len(data) <= end:
            return end + 1
        try:
            end += Profile.from_byte(data[end]).geometry.reply_block_bytes
        except ProfileError as error:
            raise MalformedMessage(f"reply block: {error}") from error
        if end - _FIXED.size > MAX_BLOCKS_BYTES:
            raise MalformedMessage(f"reply blocks of more than {MAX_BLOCKS_BYTES} bytes")
    if flags & HeadFlag.ORIGIN:
        if len(data) < end + _ORIGIN.size:
            return end + _ORIGIN.size
        length = _ORIGIN.unpack_from(data, end)[1]
        if not MIN_DESCRIPTOR_BYTES <= length <= MAX_DESCRIPTOR_BYTES:
            raise MalformedMessage(
                f"the origin's descriptor is {length} bytes, expected {MIN_DESCRIPTOR_BYTES} to "
                f"{MAX_DESCRIPTOR_BYTES}"
            )
        end += _ORIGIN.size + length + _SIGNATURE_BYTES
    return end + (TICKET_BYTES if flags & HeadFlag.ANSWER else 0)


def _fault(count: int, flags: HeadFlag) -> str:
    """Why these do not go together, or nothing."""
    ways = bool(count) + bool(flags & HeadFlag.ORIGIN) + bool(flags & HeadFlag.BACKWARD)
    if ways > 1:
        return f"message names {ways} ways back (blocks, origin, backward half), at most one is allowed"
    if flags & HeadFlag.WANTS_BLOCKS and not count:
        return "message wants blocks in its reply and names no reply block itself"
    return ""
