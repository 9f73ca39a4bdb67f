"""Threat: making a node send answers to a victim that did not ask (mode `known-dest`).

The attacker knows the victim's descriptor, which is public. He names the victim as the origin of his query.
Bob, who checks the signature, refuses with MalformedMessage (BAD_CONTENT) and sends nothing. An answer that
a Bob sends without that check is refused by the victim, which did not make its ticket.
"""

from __future__ import annotations

import pytest

from tests.tunnel.exchange import Cast, cast_of, exchange, receive, send
from tests.tunnel.helpers import NOW_S, SMALL, Peer, relay_frame
from tunnel.errors import ErrorCode, MalformedMessage
from tunnel.modes import ReplyMode
from tunnel.onion.message_head import MessageHead, Origin, OriginClaim, answer_ticket, claim_origin
from tunnel.routing.route import Route


def parts() -> tuple[Cast, Peer]:
    cast = cast_of(4)
    return cast, cast.others[0]


def test_the_victims_descriptor_under_the_attackers_signature() -> None:
    cast, victim = parts()
    done = exchange(cast, ReplyMode.CACHED, b"q", profile=SMALL)
    slot = done.relayed.opened.slot
    attacker = cast.alice.keys
    own = claim_origin(
        cast.alice.descriptor, attacker.identity, ticket=answer_ticket(attacker.home, bytes(8)),
        destination=cast.bob.id, dest_seed=slot.seed, engine=cast.bob.codec.engine,
    )  # fmt: skip
    assert cast.bob.codec.origin(slot, MessageHead(origin=own)).descriptor == cast.alice.descriptor
    forged = OriginClaim(own.ticket, victim.descriptor.signed, own.signature)
    with pytest.raises(MalformedMessage) as caught:
        cast.bob.codec.origin(slot, MessageHead(origin=forged))
    assert caught.value.code is ErrorCode.BAD_CONTENT


def test_a_recorded_claim_cannot_be_used_at_another_node() -> None:
    """Bob has a valid claim of Alice's. He uses it in his own query to a third node."""
    cast, third = parts()
    done = exchange(cast, ReplyMode.KNOWN_DEST, b"q", profile=SMALL)
    for slot in (done.relayed.opened.slot, done.relayed.proxied[0].slot):
        with pytest.raises(MalformedMessage):
            third.codec.origin(slot, done.head)


def test_an_unrequested_answer_is_refused_by_the_victim() -> None:
    cast, victim = parts()
    made_up = Origin(victim.descriptor, answer_ticket(b"x" * 32, bytes(8)))
    query = cast.bob.codec.answer(made_up, Route((), victim.id), SMALL, now_s=NOW_S)
    relayed = relay_frame(send(query.frame.layer, b"spam"), SMALL, [victim], origin=cast.bob.id)
    reader = victim.codec.destination_reader(relayed.opened.slot, SMALL)
    receive(reader, relayed.body)
    with pytest.raises(MalformedMessage, match="not made here"):
        victim.codec.answered_query(reader.head)
