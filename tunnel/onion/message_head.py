"""The head of a message: how Bob can answer it, and which query it answers.

    count u8 ‖ flags u8 ‖ zero u16 ‖ reply block × count ‖ [origin] ‖ [answer]

The head is inside the end-to-end seal, so only Bob reads it. It precedes the content, so he can answer while
the query is still arriving. A message offers at most one way to answer: reply blocks, an origin, or the
backward half.

In mode `known-dest` Alice names herself. Her origin is a ticket, her descriptor, and her signature over Bob's
id, a value bound to the seed in the DEST slot, and the ticket. So Bob knows who asks, he cannot be made to
send answers to a node that did not ask, and he cannot show the claim to another node as if it were meant for
that one. The ticket is the query id with a MAC under Alice's home key; Bob's own query returns it, and Alice
keeps nothing but the ids of pending queries.

Rules for changing it: the length of every field is known before the field is read, and its bound is checked
before anything is kept.
Source: docs/protocol.md, "Message head".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
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
_KNOWN_FLAGS = 0x0F
_LABEL = b"mtun1 known dest"
_FIXED = struct.Struct(">BBH")
_ORIGIN = struct.Struct(f">{TICKET_BYTES}sH")


class HeadFlag(IntFlag):
    """The flags of a head."""

    ORIGIN = 1  # an origin follows the blocks
    ANSWER = 2  # the message answers a query of mode `known-dest`, whose ticket follows
    WANTS_BLOCKS = 4  # the reply should carry reply blocks of Bob's
    BACKWARD = 8  # the reply is expected on the backward half of this stream


@dataclass(frozen=True, slots=True)
class OriginClaim:
    """The claim of an origin, not yet verified.

    Attributes:
        ticket: 24 bytes, returned with the answer.
        descriptor: signed. signature: 64 bytes, by the identity key, for this query only.
    """

    ticket: bytes = field(repr=False)
    descriptor: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def pack(self) -> bytes:
        return _ORIGIN.pack(self.ticket, len(self.descriptor)) + self.descriptor + self.signature


@dataclass(frozen=True, slots=True)
class MessageHead:
    """The head of a message. The empty head asks for no reply and answers nothing.

    Attributes:
        reply_blocks: at most 8 and 64 KiB.
        answer: the ticket of the query that this message answers, 24 bytes.
        backward: the reply comes back over the same streams.
        wants_blocks: the reply carries blocks; only with reply blocks.
    """

    reply_blocks: tuple[ReplyBlock, ...] = ()
    origin: OriginClaim | None = None
    answer: bytes | None = field(default=None, repr=False)
    backward: bool = False
    wants_blocks: bool = False

    @property
    def mode(self) -> ReplyMode:
        """The reply mode. `route` stands for `other-route` too: Bob cannot tell them apart."""
        if self.reply_blocks:
            return ReplyMode.REPLY_ON_REPLY if self.wants_blocks else ReplyMode.ROUTE
        if self.origin is not None:
            return ReplyMode.KNOWN_DEST
        return ReplyMode.CACHED if self.backward else ReplyMode.NONE

    def pack(self) -> bytes:
        """Raises LocalTunnelError: too many blocks, or more than one way to answer."""
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
        """Read a complete head: one where `head_bytes(data) == len(data)`.

        Raises:
            MalformedMessage: an invalid field.
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
    """The length of the head that begins with `data`, as far as `data` shows it.

    Returns:
        The length of the head if `data` holds it all. Otherwise a number greater than `len(data)` and at most
        the length of the head.
    Raises:
        MalformedMessage: an invalid field, or a head that is too long.
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
    """Describe a contradiction between the fields; empty: no contradiction."""
    offers = bool(count) + bool(flags & HeadFlag.ORIGIN) + bool(flags & HeadFlag.BACKWARD)
    if offers > 1:
        return f"message offers {offers} ways to answer (blocks, origin, backward half), at most 1 is allowed"
    if flags & HeadFlag.WANTS_BLOCKS and not count:
        return "message wants blocks in its reply but has no reply block itself"
    return ""


@dataclass(frozen=True, slots=True)
class Origin:
    """A verified origin: the descriptor to seal the answer to, and the ticket to return."""

    descriptor: Descriptor
    ticket: bytes = field(repr=False)


def claim_origin(
    descriptor: Descriptor,
    identity_seed: bytes,
    *,
    ticket: bytes,
    destination: bytes,
    dest_seed: bytes,
    engine: TunnelEngine,
) -> OriginClaim:
    """Sign Alice's claim for one query.

    Args:
        descriptor: her own, signed. ticket: from `answer_ticket`.
        destination: Bob's node id. dest_seed: the seed in his slot, 16 bytes.
    """
    signature = engine.ed25519_sign(identity_seed, _signed(destination, dest_seed, ticket))
    return OriginClaim(ticket, descriptor.signed, signature)


def check_origin(claim: OriginClaim, *, destination: bytes, dest_seed: bytes, engine: TunnelEngine) -> Origin:
    """Verify a claim at Bob.

    Raises:
        MalformedMessage: the descriptor or its signature is invalid, or the claim is for another query or
            another node.
    """
    try:
        descriptor = Descriptor.parse(claim.descriptor, engine)
        engine.ed25519_verify(
            descriptor.node_id, _signed(destination, dest_seed, claim.ticket), claim.signature
        )
    except (DescriptorError, BadSignature) as error:
        raise MalformedMessage(f"the origin of the message is not proven: {error}") from error
    return Origin(descriptor, claim.ticket)


def answer_ticket(home_key: bytes, query_id: bytes) -> bytes:
    """The ticket of a query: 24 bytes that only the holder of the home key can make."""
    return query_id + hmac_sha256(home_key, _LABEL, query_id)[:16]


def answered_query(home_key: bytes, ticket: bytes) -> bytes:
    """The query id in a returned ticket.

    Raises:
        MalformedMessage: the ticket was not made here.
    """
    query_id = ticket[:8]
    if not equal(ticket, answer_ticket(home_key, query_id)):
        raise MalformedMessage("the message answers no query of this node: its ticket was not made here")
    return query_id


def _signed(destination: bytes, dest_seed: bytes, ticket: bytes) -> bytes:
    return _LABEL + destination + origin_binding(dest_seed) + ticket
