"""The limit on what Bob sends in a tunnel before Alice proves that she receives it; both ends in memory."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest

from tests.tunnel.tunnels import ECHO, Flag, Pair, RawEnd, make_end
from tunnel.errors import ErrorCode, MalformedMessage, TunnelSilent
from tunnel.established import End, SubStream, TunnelLimits
from tunnel.established.layouts import pack_close
from tunnel.geometry import BULK, DEFAULT, GEOMETRIES, INTERACTIVE, LONG, STREAM, Geometry, unproven_bytes
from tunnel.onion.message import ChunkType

WIDE = TunnelLimits(window_chunks=1024)  # so that credit is no limit


def bob_with_content(hand: RawEnd) -> SubStream[Flag]:
    """Bob has a sub-stream whose service always has more to send, and all the credit he may have."""
    hand.hello = hand.hello[:32] + (2**30).to_bytes(4, "big") + hand.hello[36:]
    hand.establish()
    hand.send(ChunkType.OPEN, ECHO.pack(), sub_stream=1)
    stream = hand.other.accept()
    stream.confirm()
    return stream


class Asker(RawEnd):
    """Alice by hand, and the sub-stream of Bob's service."""

    stream: SubStream[Flag]

    def take_content(self, most: int = 5_000) -> list[tuple[int, int, int, bytes]]:
        """Receive what Bob sends while his service writes without end."""
        found: list[tuple[int, int, int, bytes]] = []
        while len(found) < most:
            with contextlib.suppress(BlockingIOError):
                self.stream.write(bytes(self.stream.chunk_data_bytes))
            chunk = self.take()
            if chunk is None:
                break
            found.append(chunk)
        return found


def challenges(chunks: list[tuple[int, int, int, bytes]]) -> list[bytes]:
    return [data for kind, _, _, data in chunks if kind == ChunkType.CHALLENGE]


def asker(geometry: Geometry = INTERACTIVE) -> Asker:
    hand = Asker(make_end(End.BOB, geometry=geometry), End.ALICE, geometry)
    hand.stream = bob_with_content(hand)
    return hand


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda each: each.name)
def test_without_receipts_bob_stops(geometry: Geometry) -> None:
    hand = asker(geometry)
    hand.take_content()
    sent = len(hand.received) * geometry.chunk_bytes
    limit = unproven_bytes([geometry]) + hand.sent * geometry.chunk_bytes
    assert limit <= sent <= limit + 2 * geometry.chunk_bytes
    # What he is sent allows as much; a wrong receipt ends the tunnel.
    hand.send(ChunkType.PAD)
    assert len(hand.take_content()) == 1
    assert isinstance(hand.refused(ChunkType.CHALLENGE, bytes(16)), MalformedMessage)


@pytest.mark.parametrize("geometry", [DEFAULT, STREAM, INTERACTIVE], ids=lambda each: each.name)
def test_with_receipts_he_asks_rarely(geometry: Geometry) -> None:
    hand = asker(geometry)
    count = 0
    while len(hand.received) < 3_000:
        for challenge in challenges(hand.take_content()):
            count += 1
            hand.send(ChunkType.CHALLENGE, challenge)
    assert count < 25


def test_a_receipt_is_good_for_all_challenges_before_it_and_only_once() -> None:
    hand = asker()
    hand.take_content()
    for _ in range(2_000):
        hand.send(ChunkType.PAD)
    hand.take_content()
    first, *_, last = challenges(hand.received)
    assert hand.refused(ChunkType.CHALLENGE, last) is None
    assert hand.take_content()
    assert isinstance(hand.refused(ChunkType.CHALLENGE, first), MalformedMessage)


@pytest.mark.parametrize("data", [b"", bytes(15), bytes(17)])
@pytest.mark.parametrize("end", End)
def test_challenges_of_other_lengths(end: End, data: bytes) -> None:
    hand = RawEnd(make_end(End.BOB if end is End.ALICE else End.ALICE), end)
    hand.establish()
    assert isinstance(hand.refused(ChunkType.CHALLENGE, data), MalformedMessage)


def test_a_challenge_on_a_sub_stream() -> None:
    hand = RawEnd(make_end(End.ALICE), End.BOB)
    hand.establish()
    assert isinstance(hand.refused(ChunkType.CHALLENGE, bytes(16), sub_stream=1), MalformedMessage)


def test_a_flood_of_challenges_makes_alice_send_one_receipt() -> None:
    hand = RawEnd(make_end(End.ALICE), End.BOB)
    hand.establish()
    for number in range(1_000):
        hand.send(ChunkType.CHALLENGE, number.to_bytes(16, "big"))
    assert hand.take_all() == [(ChunkType.CHALLENGE, 0, 0, (999).to_bytes(16, "big"))]


def test_alice_asks_for_no_receipts() -> None:
    pair = Pair(limits=WIDE)
    pair.settle()
    for _ in range(1_000):
        pair.alice.outgoing.write(bytes(pair.geometry.chunk_data_bytes))
        assert pair.send(pair.alice)
    assert len(pair.to_bob) == 1_000


@pytest.mark.parametrize("geometry", [DEFAULT, STREAM, INTERACTIVE], ids=lambda each: each.name)
def test_a_short_answer_and_an_idle_tunnel_need_no_receipt(geometry: Geometry) -> None:
    hand = asker(geometry)
    assert not challenges(hand.take_content(3))
    hand = Asker(make_end(End.BOB, geometry=geometry), End.ALICE, geometry)
    hand.establish()
    for _ in range(3 * 8):  # eight minutes
        hand.other.pad()
        hand.send(ChunkType.PAD)
        hand.take_all()
    assert Counter(kind for kind, *_ in hand.received) == {ChunkType.HELLO: 1, ChunkType.PAD: 24}


def test_the_padding_at_the_end_needs_none() -> None:
    hand = asker()
    hand.take_content()
    assert hand.take() is None
    hand.send(ChunkType.CLOSE, pack_close(ErrorCode.CANCELLED))  # gives the tunnel up
    hand.take_all()
    assert hand.received[-1][:2] == (ChunkType.PAD, 1)


def test_bob_ends_a_tunnel_whose_receipt_does_not_come() -> None:
    hand = asker()
    hand.take_content()
    for tick in range(10):
        hand.other.look(float(tick))
    with pytest.raises(TunnelSilent):
        hand.other.look(10.0)


def test_the_first_bytes_for_several_geometries() -> None:
    assert unproven_bytes([DEFAULT]) == 4 * 2**20 // 32 - 2 * 16_356
    assert unproven_bytes([INTERACTIVE, BULK]) == 4 * 2**20 // 32 - 2 * 64_484
    assert unproven_bytes([LONG, BULK]) == 1
