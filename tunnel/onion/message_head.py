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

from readwrite_comp.primitives import equal, hmac_sha256
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import BadSignature, DescriptorError, LocalTunnelError, MalformedMessage, ProfileError
from tunnel.geometry import MAX_BLOCKS, MAX_BLOCKS_BYTES, Profile
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, MIN_DESCRIPTOR_BYTES, Descriptor
from tunnel.modes import ReplyMode
from tunnel.onion.key_schedule import origin_binding
from tunnel.onion.reply_block import ReplyBlock

__all__ = [
    "TICKET_BYTES",
    "HeadFlag",
    "MessageHead",
    "Origin",
    "OriginClaim",
    "answer_ticket",
    "answered_query",
    "check_origin",
    "claim_origin",
    "head_bytes",
]

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
    """Who Alice says that she is, not yet checked (see `tunnel.onion.message_head`).

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


# Mode `known-dest`: Alice names herself, provably and for one query; Bob's own query names it back.
#
# The origin in a message's head has a ticket (query id and a MAC under Alice's home key, so that she keeps
# nothing but the ids of pending queries), her descriptor, and her signature over Bob's id, a value bound to
# the query's DEST seed, and the ticket. So Bob can be sure of her, nobody can make him send answers to
# somebody who did not ask, and he can show the claim to no other node as if it were meant for that one.
# Source: docs/protocol.md, "Message head".
_LABEL = b"mtun1 known dest"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked, checked: the descriptor to seal an answer to, and the ticket to give back."""

    descriptor: Descriptor
    ticket: bytes


def claim_origin(
    descriptor: Descriptor,
    identity_seed: bytes,
    *,
    ticket: bytes,
    destination: bytes,
    dest_seed: bytes,
    engine: TunnelEngine,
) -> OriginClaim:
    """Alice's claim for one query.

    Args:
        descriptor: her own, signed. ticket: from `answer_ticket`.
        destination: Bob's node id. dest_seed: 16 bytes, the seed in his slot.
    """
    signature = engine.ed25519_sign(identity_seed, _signed(destination, dest_seed, ticket))
    return OriginClaim(ticket, descriptor.signed, signature)


def check_origin(claim: OriginClaim, *, destination: bytes, dest_seed: bytes, engine: TunnelEngine) -> Origin:
    """Bob's check of a claim.

    Raises:
        MalformedMessage: no descriptor, not signed by the node that it names, or made for another query or
            another node. Code BAD_CONTENT.
    """
    try:
        descriptor = Descriptor.parse(claim.descriptor, engine)
        engine.ed25519_verify(
            descriptor.node_id, _signed(destination, dest_seed, claim.ticket), claim.signature
        )
    except (DescriptorError, BadSignature) as error:
        raise MalformedMessage(f"the message's origin is not who it says: {error}") from error
    return Origin(descriptor, claim.ticket)


def answer_ticket(home_key: bytes, query_id: bytes) -> bytes:
    """The ticket of a query: 24 bytes, that only the holder of the home key can make."""
    return query_id + hmac_sha256(home_key, _LABEL, query_id)[:16]


def answered_query(home_key: bytes, ticket: bytes) -> bytes:
    """The query id in a ticket that came back.

    Raises:
        MalformedMessage: it was not made here. Code BAD_CONTENT.
    """
    query_id = ticket[:8]
    if not equal(ticket, answer_ticket(home_key, query_id)):
        raise MalformedMessage("the message answers no query of this node: its ticket was not made here")
    return query_id


def _signed(destination: bytes, dest_seed: bytes, ticket: bytes) -> bytes:
    return _LABEL + destination + origin_binding(dest_seed) + ticket
