"""Mode `known-dest`: Alice names herself, provably and for one query; Bob's own query names it back.

The origin in a message's head has a ticket (query id and a MAC under Alice's home key, so that she keeps
nothing but the ids of pending queries), her descriptor, and her signature over Bob's id, a value bound to the
query's DEST seed, and the ticket. So Bob can be sure of her, nobody can make him send answers to somebody who
did not ask, and he can show the claim to no other node as if it were meant for that one.
Source: docs/protocol.md, "Message head".
"""

from __future__ import annotations

from dataclasses import dataclass

from readwrite_comp.primitives import equal, hmac_sha256
from tunnel.descriptor import Descriptor
from tunnel.errors import BadSignature, DescriptorError, MalformedMessage
from tunnel.onion.message_head import OriginClaim
from tunnel.onion.secrets import origin_binding
from tunnel.primitives import TunnelEngine

__all__ = ["Origin", "answer_ticket", "answered_query", "check_origin", "claim_origin"]

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
