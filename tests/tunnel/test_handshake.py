"""The link handshake: both sides agree, or the side with a reason refuses with HandshakeError."""

from __future__ import annotations

import struct
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.helpers import ENGINES, NOW_S, OPENSSL, engines, make_keys
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import HandshakeError, LocalTunnelError
from tunnel.identity.descriptor import MAX_DESCRIPTOR_BYTES, Address, Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.link.handshake import (
    M1_BYTES,
    M2_BYTES,
    M3_BYTES,
    MAX_BITS,
    Initiator,
    PaddingMode,
    Puzzle,
    Responder,
    Settings,
)
from tunnel.link.noise import LinkKeys, NoiseXK

NETWORK = b"a network's name"
ALICE, BOB, EVE = make_keys("alice"), make_keys("bob"), make_keys("eve")
SETTINGS = Settings.make(NOW_S, (1, 2, 3, 4))


def descriptor_of(keys: NodeKeys, at_s: float = NOW_S) -> Descriptor:
    return keys.descriptor((Address("127.0.0.1", 80),), at_s, OPENSSL)


def initiator(
    *,
    keys: NodeKeys = ALICE,
    descriptor: Descriptor | None = None,
    remote: NodeKeys = BOB,
    network: bytes = NETWORK,
    settings: Settings = SETTINGS,
    engine: TunnelEngine = OPENSSL,
    ephemeral: bytes | None = None,
) -> Initiator:
    return Initiator(
        network_id=network,
        link_private=keys.link_private(engine),
        remote_link_key=remote.link_private(engine).public,
        descriptor=descriptor or descriptor_of(keys),
        settings=settings,
        engine=engine,
        fixed_ephemeral_for_tests_only=ephemeral,
    )


def responder(
    *,
    keys: NodeKeys = BOB,
    network: bytes = NETWORK,
    settings: Settings = SETTINGS,
    engine: TunnelEngine = OPENSSL,
    ephemeral: bytes | None = None,
    load: int = 0,
    challenge: bytes | None = None,
) -> Responder:
    return Responder(
        load=load,
        challenge=challenge,
        network_id=network,
        link_private=keys.link_private(engine),
        settings=settings,
        engine=engine,
        fixed_ephemeral_for_tests_only=ephemeral,
    )


def run(front: Initiator, behind: Responder) -> tuple[Descriptor, LinkKeys, LinkKeys]:
    answer = behind.hello(front.hello())
    peer = behind.final(front.reply(answer), now_s=NOW_S)
    return peer, front.finish(), behind.finish()


# --- agreement -


@given(engines, engines)
def test_both_sides_agree(left: TunnelEngine, right: TunnelEngine) -> None:
    front = initiator(engine=left, settings=Settings.make(NOW_S, (1, 2)))
    behind = responder(engine=right, settings=Settings.make(NOW_S + 600, (3, 4)))
    peer, front_keys, behind_keys = run(front, behind)
    assert peer == descriptor_of(ALICE)
    assert front_keys.send_key == behind_keys.receive_key
    assert front_keys.receive_key == behind_keys.send_key
    assert front_keys.send_key != front_keys.receive_key
    assert front_keys.handshake_hash == behind_keys.handshake_hash
    assert front.peer_settings == Settings.make(NOW_S + 600, (3, 4))
    assert behind.peer_settings == Settings.make(NOW_S, (1, 2))


def test_lengths_are_fixed() -> None:
    front, behind = initiator(), responder()
    first = front.hello()
    second = behind.hello(first)
    third = front.reply(second)
    assert (len(first), len(second), len(third)) == (M1_BYTES, M2_BYTES, M3_BYTES) == (64, 80, 576)
    assert first.startswith(b"MT\x00\x01" + bytes(12))


def test_every_handshake_has_new_keys() -> None:
    keys = [run(initiator(), responder()) for _ in range(5)]
    assert len({each.send_key for _, *both in keys for each in both}) == 10


def test_fixed_ephemerals_repeat_a_handshake_in_both_engines() -> None:
    results = [
        run(
            initiator(engine=engine, ephemeral=b"\x01" * 32), responder(engine=engine, ephemeral=b"\x02" * 32)
        )[1]
        for engine in ENGINES
    ]
    assert results[0] == results[1]


def test_the_longest_descriptor_fits() -> None:
    addresses = tuple(Address("2001:db8::1", port) for port in range(1, 5))
    longest = ALICE.descriptor(addresses, NOW_S, OPENSSL)
    assert len(longest.signed) <= MAX_DESCRIPTOR_BYTES
    assert run(initiator(descriptor=longest), responder())[0] == longest


# --- settings -


all_settings = st.builds(
    Settings,
    clock_s=st.integers(0, 2**32 - 1),
    profiles=st.lists(st.integers(1, 255), min_size=1, max_size=16).map(tuple),
    max_streams=st.integers(1, 65_536),
    window_bytes=st.integers(0, 2**32 - 1),
    padding=st.sampled_from(PaddingMode),
)


@given(all_settings)
def test_settings_round_trip(settings: Settings) -> None:
    packed = settings.pack()
    assert len(packed) == 32
    assert Settings.unpack(packed) == settings


@given(
    st.tuples(
        st.sampled_from([bytes(4), bytes(3) + b"\x01", b"\0\1\0\0", b"\0\1\0\1"]),
        st.sampled_from([bytes(4), b"\xff" * 4]),
        st.sampled_from([bytes(4), b"\2\0\0\0", b"\3\0\0\0", bytes(3) + b"\x01"]),
        st.binary(min_size=20, max_size=20),
    ).map(b"".join)
)
def test_any_settings_are_settings_or_a_handshake_error(data: bytes) -> None:
    streams, padding = int.from_bytes(data[:4], "big"), data[8]
    is_list = data[16:].rstrip(b"\0").count(0) == 0 and data[16:].strip(b"\0")
    is_good = 1 <= streams <= 65_536 and padding <= 2 and data[9:12] == bytes(3) and is_list
    try:
        settings = Settings.unpack(data)
    except HandshakeError:
        assert not is_good
    else:
        assert is_good
        assert settings.pack() == data


def test_the_clock_is_rounded_to_a_minute() -> None:
    assert {Settings.make(now_s, ()).clock_s % 60 for now_s in (0, 29.9, 30.1, NOW_S)} == {0}
    assert abs(Settings.make(NOW_S, ()).clock_s - NOW_S) <= 30


# --- changed bytes -


def test_every_changed_byte_of_m1_is_refused_and_the_right_one_still_taken() -> None:
    front, behind = initiator(), responder()
    first = front.hello()
    for position in range(M1_BYTES):
        changed = bytearray(first)
        changed[position] ^= 1 << position % 8
        with pytest.raises(HandshakeError):
            behind.hello(bytes(changed))
    answer = behind.hello(first)
    behind.final(front.reply(answer), now_s=NOW_S)
    assert front.finish().send_key == behind.finish().receive_key


def test_every_changed_byte_of_m2_is_refused_and_the_right_one_still_taken() -> None:
    front, behind = initiator(), responder()
    second = behind.hello(front.hello())
    for position in range(M2_BYTES):
        changed = bytearray(second)
        changed[position] ^= 1 << position % 8
        with pytest.raises(HandshakeError):
            front.reply(bytes(changed))
        assert front.peer_settings is None
    behind.final(front.reply(second), now_s=NOW_S)


def test_every_changed_byte_of_m3_is_refused_and_gives_no_keys() -> None:
    front, behind = initiator(), responder()
    third = front.reply(behind.hello(front.hello()))
    for position in range(M3_BYTES):
        changed = bytearray(third)
        changed[position] ^= 1 << position % 8
        with pytest.raises(HandshakeError):
            behind.final(bytes(changed), now_s=NOW_S)
        with pytest.raises(LocalTunnelError):
            behind.finish()
    assert behind.final(third, now_s=NOW_S) == descriptor_of(ALICE)
    assert behind.finish().receive_key == front.finish().send_key


@given(st.integers(0, 2), st.data(), engines)
def test_any_changed_bit_is_refused(number: int, data: st.DataObject, engine: TunnelEngine) -> None:
    front, behind = initiator(engine=engine), responder(engine=engine)

    def changed(message: bytes) -> bytes:
        bit = data.draw(st.integers(0, 8 * len(message) - 1))
        copy = bytearray(message)
        copy[bit // 8] ^= 1 << bit % 8
        return bytes(copy)

    first = front.hello()
    if number == 0:
        with pytest.raises(HandshakeError):
            behind.hello(changed(first))
        return
    second = behind.hello(first)
    if number == 1:
        with pytest.raises(HandshakeError):
            front.reply(changed(second))
        return
    third = front.reply(second)
    with pytest.raises(HandshakeError):
        behind.final(changed(third), now_s=NOW_S)


@given(st.integers(0, 700))
def test_wrong_lengths_are_refused(length: int) -> None:
    """Short messages caused a struct.error; longer ones were read by offset."""
    front, behind = initiator(), responder()
    first = front.hello()
    if length != M1_BYTES:
        with pytest.raises(HandshakeError, match=f"M1 is {length} bytes"):
            behind.hello((first + bytes(700))[:length])
    second = behind.hello(first)
    if length != M2_BYTES:
        with pytest.raises(HandshakeError, match=f"M2 is {length} bytes"):
            front.reply((second + bytes(700))[:length])
    third = front.reply(second)
    if length != M3_BYTES:
        with pytest.raises(HandshakeError, match=f"M3 is {length} bytes"):
            behind.final((third + bytes(700))[:length], now_s=NOW_S)


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=600))
def test_random_bytes(first: bytes, second: bytes, third: bytes) -> None:
    front, behind = initiator(), responder()
    for message in (first, b"MT\0\1" + bytes(12) + first.ljust(48, b"x")[:48]):
        with pytest.raises(HandshakeError):
            behind.hello(message)
    good = front.hello()
    for message in (second, second.ljust(M2_BYTES, b"x")[:M2_BYTES]):
        with pytest.raises(HandshakeError):
            front.reply(message)
    behind.hello(good)
    for message in (third, third.ljust(M3_BYTES, b"x")[:M3_BYTES]):
        with pytest.raises(HandshakeError):
            behind.final(message, now_s=NOW_S)


# --- wrong worlds -


def test_another_network_is_refused_at_the_first_message() -> None:
    with pytest.raises(HandshakeError, match="another network"):
        responder().hello(initiator(network=b"another network.").hello())


@pytest.mark.parametrize("version", [0, 2, 0x0100, 0xFFFF])
def test_another_version(version: int) -> None:
    first = initiator().hello()
    with pytest.raises(HandshakeError, match=f"version {version}"):
        responder().hello(first[:2] + struct.pack(">H", version) + first[4:])


@pytest.mark.parametrize("magic", [b"mt", b"GE", b"\x16\x03", b"SS", b"\0\0"])
def test_another_protocol(magic: bytes) -> None:
    with pytest.raises(HandshakeError, match="not this protocol"):
        responder().hello(magic + initiator().hello()[2:])


def test_an_unwanted_puzzle_answer() -> None:
    first = initiator().hello()
    for position in range(4, 16):
        with pytest.raises(HandshakeError, match="puzzle"):
            responder().hello(first[:position] + b"\1" + first[position + 1 :])


def test_a_hello_for_another_node_is_refused() -> None:
    with pytest.raises(HandshakeError):
        responder().hello(initiator(remote=EVE).hello())


def test_an_answer_by_another_node_is_refused() -> None:
    """Eve answers in Bob's place. She cannot open M1, so she answers an M1 of her own."""
    front = initiator()
    front.hello()
    answer = responder(keys=EVE).hello(initiator(remote=EVE).hello())
    with pytest.raises(HandshakeError):
        front.reply(answer)


def test_messages_of_two_handshakes_do_not_mix() -> None:
    front, behind = initiator(), responder()
    other_front, other_behind = initiator(), responder()
    second, other_second = behind.hello(front.hello()), other_behind.hello(other_front.hello())
    with pytest.raises(HandshakeError):
        front.reply(other_second)
    front.reply(second)
    with pytest.raises(HandshakeError):
        behind.final(other_front.reply(other_second), now_s=NOW_S)


# --- the initiator's descriptor -


def refused_final(descriptor: Descriptor, *, keys: NodeKeys = ALICE, now_s: float = NOW_S) -> str:
    front, behind = initiator(keys=keys, descriptor=descriptor), responder()
    third = front.reply(behind.hello(front.hello()))
    with pytest.raises(HandshakeError) as caught:
        behind.final(third, now_s=now_s)
    # Noise is complete now and could return its keys, but a refused initiator gets no link.
    with pytest.raises(LocalTunnelError):
        behind.finish()
    return str(caught.value)


def test_the_descriptor_of_another_node_is_refused() -> None:
    assert "static key" in refused_final(descriptor_of(EVE))


def test_a_descriptor_that_claims_a_foreign_link_key_is_refused() -> None:
    """Eve signs a descriptor with Alice's link key. It identifies Eve, but she does not hold that key."""
    foreign = replace(descriptor_of(EVE), link_key=ALICE.link_private(OPENSSL).public)
    assert "static key" in refused_final(foreign.sign(EVE.identity, OPENSSL), keys=EVE)


def test_a_descriptor_that_its_node_did_not_sign_is_refused() -> None:
    own = replace(descriptor_of(ALICE), link_key=EVE.link_private(OPENSSL).public)
    assert "not signed" in refused_final(own.sign(EVE.identity, OPENSSL), keys=EVE)


def test_an_expired_descriptor_is_refused() -> None:
    descriptor = descriptor_of(ALICE)
    assert "expired 1 s ago" in refused_final(descriptor, now_s=descriptor.expiry + 1)
    front, behind = initiator(descriptor=descriptor), responder()
    third = front.reply(behind.hello(front.hello()))
    assert behind.final(third, now_s=descriptor.expiry) == descriptor


@pytest.mark.parametrize("signed", [b"", b"x", bytes(300), bytes(478)], ids=len)
def test_a_wrong_type_instead_of_the_descriptor_is_refused(signed: bytes) -> None:
    refused_final(replace(descriptor_of(ALICE), signed=signed))


def final_with(plain: bytes) -> None:
    """M3 with any 512 bytes of content, sealed by a peer with the right keys."""
    front = NoiseXK(
        "initiator",
        prologue=b"mtun1" + NETWORK,
        static_private=ALICE.link_private(OPENSSL),
        remote_static=BOB.link_private(OPENSSL).public,
        engine=OPENSSL,
    )
    behind = responder()
    front.read_message(behind.hello(b"MT\0\1" + bytes(12) + front.write_message(b"")))
    behind.final(front.write_message(plain), now_s=NOW_S)


SETTINGS_BYTES = len(SETTINGS.pack())
GOOD = SETTINGS.pack() + struct.pack(">H", len(descriptor_of(ALICE).signed)) + descriptor_of(ALICE).signed


def test_plain_bytes_made_by_hand_are_accepted() -> None:
    final_with(GOOD.ljust(512, b"\0"))


@pytest.mark.parametrize("place", [len(GOOD), 500, 511])
def test_padding_that_is_not_zero(place: int) -> None:
    plain = bytearray(GOOD.ljust(512, b"\0"))
    plain[place] = 3
    with pytest.raises(HandshakeError, match="not zero"):
        final_with(bytes(plain))


@pytest.mark.parametrize("length", [0, 1, len(GOOD) - SETTINGS_BYTES - 3, 479, 65_535])
def test_a_wrong_length_of_the_descriptor(length: int) -> None:
    plain = bytearray(GOOD.ljust(512, b"\0"))
    plain[SETTINGS_BYTES : SETTINGS_BYTES + 2] = struct.pack(">H", length)
    with pytest.raises(HandshakeError):
        final_with(bytes(plain))


@pytest.mark.parametrize("place", [8, 9, 10, 11])
def test_settings_of_another_version(place: int) -> None:
    plain = bytearray(GOOD.ljust(512, b"\0"))
    plain[place] = 3
    with pytest.raises(HandshakeError, match="settings"):
        final_with(bytes(plain))


@given(st.binary(max_size=512))
def test_any_plain_bytes_from_a_peer_with_the_keys(plain: bytes) -> None:
    with pytest.raises(HandshakeError):
        final_with(plain.ljust(512, b"\0"))


def test_calls_out_of_turn_are_local_errors() -> None:
    front, behind = initiator(), responder()
    with pytest.raises(LocalTunnelError):
        behind.finish()
    with pytest.raises(LocalTunnelError):
        front.finish()
    with pytest.raises(LocalTunnelError):
        front.reply(bytes(M2_BYTES))
    first = front.hello()
    with pytest.raises(LocalTunnelError):
        front.hello()
    front.reply(behind.hello(first))
    front.finish()
    with pytest.raises(LocalTunnelError):
        front.finish()


# --- the puzzle ---


def retried(front: Initiator, behind: Responder) -> tuple[Descriptor, LinkKeys, LinkKeys]:
    """A handshake with a responder under load."""
    answer = behind.hello(front.hello())
    assert behind.awaits_hello
    assert front.is_retry(answer)
    puzzle = front.retry(answer)
    while not puzzle.search(1_000):
        pass
    assert puzzle.answer is not None
    answer = behind.hello(front.hello_again(puzzle.answer))
    assert not behind.awaits_hello
    assert not front.is_retry(answer)
    peer = behind.final(front.reply(answer), now_s=NOW_S)
    return peer, front.finish(), behind.finish()


@pytest.mark.parametrize("bits", [1, 8, 12])
def test_under_load_the_initiator_works_first(bits: int) -> None:
    peer, front_keys, behind_keys = retried(initiator(), responder(load=bits))
    assert peer == descriptor_of(ALICE)
    assert front_keys.send_key == behind_keys.receive_key


def test_a_retry_has_the_length_of_m2_and_costs_no_key_exchange() -> None:
    behind = responder(load=12, challenge=b"c" * 16)
    noise = b"anything at all, for nothing is opened before the answer"[:48].ljust(48)
    answer = behind.hello(b"MT\x00\x01" + bytes(12) + noise)
    assert answer == b"mtun1 retry".ljust(16, b"\0") + b"c" * 16 + bytes([12]) + bytes(47)
    assert len(answer) == M2_BYTES


def test_challenges_are_drawn_each_time() -> None:
    first = initiator().hello()
    assert len({responder(load=4).hello(first) for _ in range(20)}) == 20


def puzzle_of(behind: Responder, front: Initiator) -> Puzzle:
    puzzle = front.retry(behind.hello(front.hello()))
    while not puzzle.search(5_000):
        pass
    return puzzle


def test_malformed_answers() -> None:
    """Wrong, for another challenge, for another handshake, or followed by another M1."""
    behind, front = responder(load=12), initiator()
    puzzle = puzzle_of(behind, front)
    assert puzzle.answer is not None
    good = front.hello_again(puzzle.answer)
    other_front, other_behind = initiator(), responder(load=12)
    other = puzzle_of(other_behind, other_front)
    assert other.answer is not None
    wrong = [
        good[:4] + bytes(12) + good[16:],
        good[:4] + (int.from_bytes(puzzle.answer, "big") - 1).to_bytes(12, "big") + good[16:],
        good[:4] + other.answer + good[16:],
        other_front.hello_again(other.answer),
        good[:16] + bytes([good[16] ^ 1]) + good[17:],
        good[:63] + bytes([good[63] ^ 1]),
    ]
    for message in wrong:
        with pytest.raises(HandshakeError, match="puzzle"):
            behind.hello(message)
    # Nothing has changed: the right answer is still accepted.
    assert behind.hello(good)


@pytest.mark.parametrize(
    "retry",
    [
        b"mtun1 retry".ljust(16, b"\0") + bytes(16) + bytes([0]) + bytes(39),
        b"mtun1 retry".ljust(16, b"\0") + bytes(16) + bytes([MAX_BITS + 1]) + bytes(39),
        b"mtun1 retry".ljust(16, b"\0") + bytes(16) + bytes([255]) + bytes(39),
        b"mtun1 retry".ljust(16, b"\0") + bytes(16) + bytes([8]) + bytes(38) + b"\1",
        b"mtun1 retrz".ljust(16, b"\0") + bytes(16) + bytes([8]) + bytes(39),
    ],
)
def test_absurd_puzzles_are_refused(retry: bytes) -> None:
    front = initiator()
    front.hello()
    with pytest.raises(HandshakeError):
        front.retry(retry)


def test_a_second_retry_is_refused() -> None:
    front = initiator()
    answer = responder(load=1).hello(front.hello())
    puzzle = front.retry(answer)
    assert puzzle.search(1_000)
    assert puzzle.answer is not None
    front.hello_again(puzzle.answer)
    with pytest.raises(HandshakeError, match="RETRY"):
        front.retry(answer)
    with pytest.raises(HandshakeError):
        front.reply(answer)  # nor is it M2


@pytest.mark.parametrize("load", [-1, MAX_BITS + 1])
def test_puzzle_loads_out_of_range(load: int) -> None:
    with pytest.raises(LocalTunnelError):
        responder(load=load)


def test_a_puzzle_as_it_is_written() -> None:
    puzzle = Puzzle(bytes(range(16)), bytes(range(32)), 9)
    assert not puzzle.search(1)
    while not puzzle.search(7):
        pass
    assert puzzle.search(1)
    assert puzzle.answer is not None
    digest = sha256(b"mtun1 puzzle" + bytes(range(16)) + bytes(range(32)) + puzzle.answer).digest()
    assert digest[0] == 0
    assert digest[1] < 128
    assert puzzle.accepts(puzzle.answer)
    for number in range(1, int.from_bytes(puzzle.answer, "big")):
        assert not puzzle.accepts(number.to_bytes(12, "big"))
