"""Threat: changing or reusing a part of a header.

A proxy or an observer has the headers of each link. He flips any bit, moves slots, joins the beginning of one
to the end of another, or sends one under another profile or to another node. He learns nothing: the next node
refuses each with PeerError (BAD_HEADER) and the same text, so no change reveals the distance to Bob.
"""

from __future__ import annotations

import random

import pytest

from tests.support.errors import raises_code
from tests.tunnel.exchange import cast_of, exchange
from tests.tunnel.helpers import NOW_S, SMALL, SMALL_HCTR, Peer
from tunnel.errors import ErrorCode
from tunnel.geometry import LONG, Profile
from tunnel.modes import ReplyMode

PROXIES = 3
HEADER = SMALL.geometry.header_bytes


def headers() -> list[tuple[Peer, bytes, bytes]]:
    """The headers of a query and its reply, each with the node that opens it next, and its sender."""
    cast = cast_of(PROXIES + 2)
    done = exchange(cast, ReplyMode.ROUTE, b"q", [b"a"], profile=SMALL)
    reply = done.replies[0].relayed
    assert reply is not None
    there = [cast.alice, *cast.way]
    back = there[::-1]
    found = []
    for way, links in ((there, done.relayed.links), (back, reply.links)):
        for number, link in enumerate(links):
            found.append((way[number + 1], link[:HEADER], way[number].id))
    return found


HEADERS = headers()


def refusal(peer: Peer, header: bytes, neighbour: bytes, profile: Profile = SMALL) -> str:
    with raises_code(ErrorCode.BAD_HEADER) as caught:
        peer.codec.open_frame(header, profile, neighbour=neighbour, now_s=NOW_S)
    assert caught.value.code is ErrorCode.BAD_HEADER
    return str(caught.value)


@pytest.mark.parametrize("number", range(len(HEADERS)))
def test_a_flipped_bit_is_refused_at_the_next_hop(number: int) -> None:
    """Bits of the whole header, at least one in each byte of one header; the text is always the same."""
    peer, header, neighbour = HEADERS[number]
    rng = random.Random(number)
    bits = [8 * byte + rng.randrange(8) for byte in range(number, HEADER, len(HEADERS))]
    texts = set()
    for bit in bits:
        changed = bytearray(header)
        changed[bit // 8] ^= 1 << bit % 8
        texts.add(refusal(peer, bytes(changed), neighbour))
    assert len(texts) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(HEADERS)))
def test_every_bit(number: int) -> None:
    peer, header, neighbour = HEADERS[number]
    for bit in range(8 * HEADER):
        changed = bytearray(header)
        changed[bit // 8] ^= 1 << bit % 8
        refusal(peer, bytes(changed), neighbour)


def test_the_ignored_bit_of_a_point_is_bound_all_the_same() -> None:
    """X25519 ignores the bit, but HPKE hashes the point as sent."""
    for peer, header, neighbour in HEADERS:
        changed = bytearray(header)
        changed[31] ^= 0x80
        refusal(peer, bytes(changed), neighbour)


def test_slots_moved_swapped_and_joined() -> None:
    for (peer, header, neighbour), (_, other, _) in zip(HEADERS, HEADERS[1:] + HEADERS[:1], strict=True):
        slots = [header[at : at + 128] for at in range(0, HEADER, 128)]
        forged = [
            b"".join([slots[0], *slots[2:], slots[1]]),
            b"".join([slots[1], slots[0], *slots[2:]]),
            header[128:] + header[:128],
            header[:128] + other[128:],
            other[:128] + header[128:],
            header[:-128] + bytes(128),
            header[:-128] + other[-128:],
        ]
        assert len({refusal(peer, each, neighbour) for each in forged}) == 1


def test_a_header_at_another_node_or_under_another_profile() -> None:
    everybody = {peer.id: peer for peer, _, _ in HEADERS}
    for peer, header, neighbour in HEADERS:
        for other in everybody.values():
            if other is not peer:
                refusal(other, header, neighbour)
        refusal(peer, header, neighbour, SMALL_HCTR)
        refusal(peer, header, neighbour, Profile(LONG))
        refusal(peer, header + bytes(LONG.header_bytes - HEADER), neighbour, Profile(LONG))


def test_lengths() -> None:
    peer, header, neighbour = HEADERS[0]
    for wrong in (b"", header[:-1], header + b"x", header[:128], header[128:]):
        refusal(peer, wrong, neighbour)
