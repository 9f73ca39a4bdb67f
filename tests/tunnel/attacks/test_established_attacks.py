"""Attacks on an established tunnel by a proxy or by a false end, with the bytes that they have.

A proxy has every chunk of the stream, without its own layer. It can repeat, withhold, swap, cut and forge
them. Every attack causes one documented error at the receiving end, which releases no byte of the chunk.
"""

from __future__ import annotations

import itertools

import pytest

from readwrite_comp import AuthenticationError
from tests.tunnel.helpers import OPENSSL
from tests.tunnel.tunnels import ECHO, SEED, Pair, RawEnd, Tunnel, make_end, read_some
from tunnel.crypto.primitives import expand
from tunnel.errors import ErrorCode, FrameTruncated, MalformedMessage
from tunnel.established import End, TunnelLimits
from tunnel.onion.key_schedule import Direction, end_to_end_key
from tunnel.onion.message import ChunkType


def refuses(end: Tunnel, chunk: bytes) -> None:
    """Check that the chunk is refused, nothing is released, and the tunnel has ended."""
    with pytest.raises(MalformedMessage) as caught:
        end.received(memoryview(bytearray(chunk)))
    assert caught.value.code is ErrorCode.BAD_CONTENT
    with pytest.raises(MalformedMessage):
        end.incoming.next_message()
    assert end.held_bytes == 0


def talk(pair: Pair, rounds: int) -> None:
    for number in range(rounds):
        for writer, reader in [(pair.alice, pair.bob), (pair.bob, pair.alice)]:
            writer.outgoing.write(bytes([number]))
            writer.outgoing.end()
            pair.settle()
            assert reader.incoming.next_message()
            buffer = bytearray(9)
            assert reader.incoming.readinto(buffer) == 1
            assert reader.incoming.readinto(buffer) == 0


@pytest.mark.parametrize("place", [0, 1, 5, 20])
def test_hello_replayed(place: int) -> None:
    """The first chunk again: immediately, after the key change, in the middle, and to a new Bob."""
    pair = Pair()
    if place:
        pair.settle()
        talk(pair, place)
    else:
        pair.send(pair.alice)
        pair.deliver(pair.bob)
    hello = next(chunk for who, chunk in pair.recorded if who == "alice")
    refuses(pair.bob, hello)


def test_a_whole_recorded_tunnel_played_to_a_bob_that_lost_his_replay_table() -> None:
    """If the header was accepted again, only HELLO would open, because Bob's ephemeral key is new."""
    pair = Pair()
    talk(pair, 3)
    recorded = [chunk for who, chunk in pair.recorded if who == "alice"]
    bob = make_end(End.BOB, random_seed=99)
    bob.received(memoryview(bytearray(recorded[0])))
    assert bob.next_chunk(memoryview(bytearray(996)), 0.0)
    bob.received(memoryview(bytearray(recorded[1])))  # REKEY is still under the seed's key, and is empty
    refuses(bob, recorded[2])


def test_early_chunks_replayed_to_a_restarted_bob_count() -> None:
    """The price of `early`: only the replay table protects what Alice sends before Bob's HELLO."""
    pair = Pair(limits=TunnelLimits(early=True))
    pair.alice.outgoing.write(b"early")
    pair.alice.outgoing.end()
    pair.settle()
    recorded = [chunk for who, chunk in pair.recorded if who == "alice"]
    bob = make_end(End.BOB, random_seed=99)
    for chunk in recorded[:2]:
        bob.received(memoryview(bytearray(chunk)))
    assert bob.incoming.next_message()


def test_an_all_zero_exchange_by_either_end() -> None:
    low_order = [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]
    for end, low in itertools.product(End, low_order):
        hand = RawEnd(make_end(End.BOB if end is End.ALICE else End.ALICE), end)
        if end is End.BOB:
            hand.take_all()
        assert hand.refused(ChunkType.HELLO, low + hand.hello[32:])
        assert not hand.other.is_established


@pytest.mark.parametrize("kind", [kind for kind in ChunkType if kind is not ChunkType.HELLO])
@pytest.mark.parametrize("end", End)
def test_a_chunk_before_hello(kind: ChunkType, end: End) -> None:
    hand = RawEnd(make_end(End.BOB if end is End.ALICE else End.ALICE), end)
    if end is End.BOB:
        hand.take_all()
    assert isinstance(hand.refused(kind, b"x" if kind is ChunkType.MSG else b""), MalformedMessage)
    assert not hand.take_all()


def test_chunks_from_before_a_rekey_are_refused_after_it() -> None:
    """The counter starts at 0 again, so only the new key makes old chunks invalid."""
    limits = TunnelLimits(rekey_chunks=4)
    recorded = Pair(limits=limits)
    talk(recorded, 12)
    chunks = [chunk for who, chunk in recorded.recorded if who == "alice"]
    for old in range(len(chunks)):
        pair = Pair(limits=limits)
        talk(pair, 12)
        assert [chunk for who, chunk in pair.recorded if who == "alice"] == chunks
        refuses(pair.bob, chunks[old])


def test_each_pair_of_neighbours_swapped() -> None:
    whole = Pair()
    talk(whole, 4)
    chunks = [chunk for who, chunk in whole.recorded if who == "alice"]
    for place in range(len(chunks) - 1):
        pair = Pair()
        bob = pair.bob
        for chunk in chunks[:place]:
            bob.received(memoryview(bytearray(chunk)))
            while pair.send(bob):
                pass
        refuses(bob, chunks[place + 1])


def test_reflection_and_chunks_of_another_tunnel() -> None:
    pair = Pair()
    talk(pair, 2)
    own = [chunk for who, chunk in pair.recorded if who == "bob"]
    for chunk in own:
        fresh = Pair()
        talk(fresh, 2)
        refuses(fresh.bob, chunk)
    other = Pair(random_seed=7)
    talk(other, 3)
    refuses(pair.bob, other.recorded[-2][1])


def test_cut_after_each_chunk() -> None:
    """Truncation is an error at any place, and the bytes read before are a prefix of the content."""
    whole = Pair()
    talk(whole, 3)
    chunks = [chunk for who, chunk in whole.recorded if who == "alice"]
    for count in range(len(chunks)):
        pair = Pair()
        for chunk in chunks[:count]:
            pair.bob.received(memoryview(bytearray(chunk)))
            while pair.send(pair.bob):
                pass
        with pytest.raises(FrameTruncated):
            pair.bob.received_fin()


def test_a_false_bob_without_the_seed_is_never_believed() -> None:
    """Only the node that opened the DEST slot has the seed: the HELLO of a proxy is refused."""
    alice = make_end(End.ALICE)
    assert alice.next_chunk(memoryview(bytearray(996)), 0.0)
    false = RawEnd(make_end(End.BOB), End.BOB)
    false.send_key = expand(b"another seed....", b"e2e backward", 32)
    refuses(alice, bytes(false.seal(ChunkType.HELLO, false.hello)))


def test_a_later_owner_of_the_seed_cannot_answer_either() -> None:
    """The seed alone, without an ephemeral key of Bob or Alice, gives no key of a running tunnel."""
    pair = Pair()
    talk(pair, 2)
    for direction in Direction:
        key = end_to_end_key(SEED, direction)
        guesses = [key, expand(key, b"rekey", 32), expand(SEED, b"hello " + direction.value, 32)]
        for guess, counter in itertools.product(guesses, range(8)):
            for who, chunk in pair.recorded[3:]:
                with pytest.raises(AuthenticationError):
                    OPENSSL.layers.aead(guess).open(counter.to_bytes(12, "big"), chunk)
                assert who in ("alice", "bob")


def test_lengths_and_bytes_do_not_show_the_kind_of_a_chunk() -> None:
    """HELLO, REKEY, PAD, CREDIT, data, CLOSE, LAST: all have C bytes and evenly distributed byte values."""
    pair = Pair(limits=TunnelLimits(window_chunks=4, rekey_chunks=8))
    talk(pair, 40)
    sub = pair.alice.open(ECHO)
    sub.write(b"x" * 900)
    pair.settle()
    theirs = pair.bob.accept()
    theirs.confirm()
    assert read_some(theirs) == b"x" * 900
    for end in (pair.alice, pair.bob):
        end.close()
    sub.close()
    theirs.close()
    pair.settle()
    assert pair.alice.is_finished
    assert {len(chunk) for _, chunk in pair.recorded} == {996}
    for chunk in (chunk for _, chunk in pair.recorded):
        # 996 random bytes have about 4 of each value; 25 of one would be about 10 standard deviations.
        assert max(chunk.count(value) for value in range(256)) < 25
    heads = [chunk[:4] for _, chunk in pair.recorded]
    assert len(set(heads)) == len(heads)
