"""The Noise XK state machine: turns, refusals that change nothing, a live exchange with `noiseprotocol`."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.errors import HandshakeError, LocalTunnelError
from tunnel.link import noise as noise_module
from tunnel.link.noise import MAX_MESSAGE_BYTES, PROTOCOL_NAME, CipherState, LinkKeys, NoiseXK, Role

ENGINES = {name: tunnel_engine(name) for name in ("openssl", "pycryptodome")}
ENGINE = ENGINES["openssl"]
PAIRS = [(first, second) for first in ENGINES for second in ENGINES]
INITIATOR_STATIC, RESPONDER_STATIC = bytes(range(32)), bytes(range(32, 64))
PROLOGUE = b"mtun1" + bytes(16)
PAYLOADS = (b"first", b"second, a little longer", b"")
# Before the payload: e 32 in messages 1 and 2, s 32 and its tag 16 in message 3. After each: a tag 16.
OVERHEADS = (32 + 16, 32 + 16, 32 + 16 + 16)

payloads = st.tuples(*[st.binary(max_size=600)] * 3)


def make(role: Role, engine: TunnelEngine = ENGINE, **changes: Any) -> NoiseXK:
    private = INITIATOR_STATIC if role == "initiator" else RESPONDER_STATIC
    arguments: dict[str, Any] = {
        "prologue": PROLOGUE,
        "static_private": engine.x25519_private(private),
        "remote_static": engine.x25519_private(RESPONDER_STATIC).public if role == "initiator" else None,
        "engine": engine,
    }
    return NoiseXK(role, **(arguments | changes))


def advance(count: int, initiator: NoiseXK, responder: NoiseXK) -> tuple[NoiseXK, NoiseXK]:
    """Pass `count` messages; return (who writes the next one, who reads it)."""
    writer, reader = initiator, responder
    for payload in PAYLOADS[:count]:
        assert reader.read_message(writer.write_message(payload)) == payload
        writer, reader = reader, writer
    return writer, reader


def snapshot(noise: NoiseXK) -> tuple[object, ...]:
    """All that a message may change, by value."""
    state = noise.state
    symmetric = state.symmetric
    return (
        symmetric.handshake_hash,
        symmetric.chaining_key,
        symmetric.cipher.key,
        symmetric.cipher.nonce,
        state.turn,
        state.ephemeral,
        state.remote_ephemeral,
        state.remote_static,
        noise.is_finished,
        noise.is_my_turn,
    )


# --- a whole handshake -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), PAIRS)
@given(payloads=payloads)
def test_both_ends_agree(first: str, second: str, payloads: tuple[bytes, bytes, bytes]) -> None:
    initiator, responder = make("initiator", ENGINES[first]), make("responder", ENGINES[second])
    writer, reader = initiator, responder
    for payload, overhead in zip(payloads, OVERHEADS, strict=True):
        assert (writer.is_my_turn, reader.is_my_turn) == (True, False)
        assert not writer.is_finished
        message = writer.write_message(payload)
        assert len(message) == len(payload) + overhead
        assert reader.read_message(message) == payload
        assert writer.handshake_hash == reader.handshake_hash
        writer, reader = reader, writer
    assert initiator.is_finished
    assert responder.is_finished
    assert not initiator.is_my_turn
    assert initiator.remote_static == ENGINE.x25519_private(RESPONDER_STATIC).public
    assert responder.remote_static == ENGINE.x25519_private(INITIATOR_STATIC).public

    ours, theirs = initiator.finish(), responder.finish()
    assert (ours.send_key, ours.receive_key) == (theirs.receive_key, theirs.send_key)
    assert ours.send_key != ours.receive_key
    assert ours.handshake_hash == theirs.handshake_hash == initiator.handshake_hash


def test_each_handshake_is_fresh() -> None:
    ends = []
    for _ in range(3):
        initiator, responder = make("initiator"), make("responder")
        advance(3, initiator, responder)
        ends.append(initiator.finish())
    assert len({end.send_key for end in ends}) == len({end.handshake_hash for end in ends}) == 3


def test_fixed_ephemerals_make_it_reproducible() -> None:
    def talk() -> list[bytes]:
        initiator = make("initiator", fixed_ephemeral_for_tests_only=bytes([1] * 32))
        responder = make("responder", fixed_ephemeral_for_tests_only=bytes([2] * 32))
        messages, (writer, reader) = [], (initiator, responder)
        for payload in PAYLOADS:
            messages.append(writer.write_message(payload))
            reader.read_message(messages[-1])
            writer, reader = reader, writer
        return messages

    assert talk() == talk()


def test_responder_learns_the_static_key_from_message_3_only() -> None:
    initiator, responder = make("initiator"), make("responder")
    assert responder.remote_static is None
    advance(2, initiator, responder)
    assert responder.remote_static is None
    responder.read_message(initiator.write_message(b""))
    assert responder.remote_static == ENGINE.x25519_private(INITIATOR_STATIC).public


def test_buffers_of_any_kind_are_taken() -> None:
    initiator, responder = make("initiator"), make("responder")
    message = initiator.write_message(memoryview(bytearray(b"payload")))
    assert responder.read_message(memoryview(bytearray(message))) == b"payload"


def test_link_keys_have_no_handshake_and_do_not_show_themselves() -> None:
    initiator, responder = make("initiator"), make("responder")
    advance(3, initiator, responder)
    keys = initiator.finish()
    assert isinstance(keys, LinkKeys)
    assert not hasattr(keys, "write_message")
    assert not hasattr(keys, "read_message")
    shown = repr(keys) + repr(initiator.state)
    for secret in (
        keys.send_key,
        keys.receive_key,
        initiator.state.symmetric.chaining_key,
        INITIATOR_STATIC,
    ):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


# --- refusals change nothing -------------------------------------------------------------------------------


def refuse(reader: NoiseXK, hostile: bytes, good: bytes, payload: bytes) -> None:
    """Check that `hostile` is refused without effect, with one text for all reasons, and `good` accepted."""
    before, turn = snapshot(reader), reader.state.turn
    with pytest.raises(HandshakeError, match=f"^handshake message {turn + 1} of 3 was refused: ") as caught:
        reader.read_message(hostile)
    assert str(caught.value).endswith("changed, cut, not for this node, or of another network")
    assert snapshot(reader) == before
    assert reader.read_message(good) == payload


@pytest.mark.parametrize("index", range(3))
def test_every_changed_byte_is_refused(index: int) -> None:
    initiator, responder = make("initiator"), make("responder")
    writer, reader = advance(index, initiator, responder)
    message = writer.write_message(PAYLOADS[index])
    before = snapshot(reader)
    for position in range(len(message)):
        for change in (0x01, 0x80):
            hostile = bytearray(message)
            hostile[position] ^= change
            with pytest.raises(HandshakeError):
                reader.read_message(hostile)
    assert snapshot(reader) == before
    assert reader.read_message(message) == PAYLOADS[index]


@given(
    index=st.integers(0, 2),
    payload=st.binary(max_size=300),
    position=st.integers(0, 10_000),
    change=st.integers(1, 255),
    engine=st.sampled_from(sorted(ENGINES)),
)
def test_any_changed_byte_is_refused_and_the_handshake_continues(
    index: int, payload: bytes, position: int, change: int, engine: str
) -> None:
    initiator, responder = make("initiator"), make("responder", ENGINES[engine])
    writer, reader = advance(index, initiator, responder)
    message = writer.write_message(payload)
    hostile = bytearray(message)
    hostile[position % len(message)] ^= change
    refuse(reader, bytes(hostile), message, payload)
    writer, reader = reader, writer
    for _ in range(index + 1, 3):
        assert reader.read_message(writer.write_message(b"on")) == b"on"
        writer, reader = reader, writer
    assert initiator.finish().send_key == responder.finish().receive_key


@pytest.mark.parametrize("index", range(3))
def test_every_other_length_is_refused(index: int) -> None:
    writer, reader = advance(index, make("initiator"), make("responder"))
    message = writer.write_message(PAYLOADS[index])
    before = snapshot(reader)
    for length in range(len(message)):
        with pytest.raises(HandshakeError):
            reader.read_message(message[:length])
    for hostile in (message + b"\0", b"\0" + message, bytes(MAX_MESSAGE_BYTES), bytes(MAX_MESSAGE_BYTES + 1)):
        with pytest.raises(HandshakeError):
            reader.read_message(hostile)
    assert snapshot(reader) == before
    assert reader.read_message(message) == PAYLOADS[index]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), (2**255 - 20).to_bytes(32, "little")])
@pytest.mark.parametrize("index", [0, 1])
def test_ephemeral_of_low_order_is_refused(index: int, point: bytes, engine: str) -> None:
    writer, reader = advance(index, make("initiator", ENGINES[engine]), make("responder", ENGINES[engine]))
    message = writer.write_message(b"payload")
    refuse(reader, point + message[32:], message, b"payload")


@pytest.mark.parametrize("engine", ENGINES)
def test_static_key_of_low_order_in_message_3_is_refused(engine: str) -> None:
    """Sealed by a peer who knows all keys so far: the tag is valid, the point is not."""
    chosen = ENGINES[engine]
    initiator, responder = make("initiator", chosen), make("responder", chosen)
    advance(2, initiator, responder)
    sealed = initiator.state.symmetric.copy().encrypt_and_hash(bytes(32))
    refuse(responder, sealed + bytes(16), initiator.write_message(b""), b"")


@pytest.mark.parametrize("engine", ENGINES)
def test_dialling_a_key_of_low_order_is_refused(engine: str) -> None:
    initiator = make("initiator", ENGINES[engine], remote_static=bytes(32))
    before = snapshot(initiator)
    with pytest.raises(HandshakeError, match="message 1 of 3"):
        initiator.write_message(b"")
    assert snapshot(initiator) == before


def test_another_network_is_refused() -> None:
    initiator, responder = make("initiator", prologue=b"mtun1" + bytes([1] * 16)), make("responder")
    with pytest.raises(HandshakeError):
        responder.read_message(initiator.write_message(b""))


def test_a_message_for_another_node_is_refused() -> None:
    initiator = make("initiator", remote_static=ENGINE.x25519_private(bytes([7] * 32)).public)
    with pytest.raises(HandshakeError):
        make("responder").read_message(initiator.write_message(b""))


def test_an_impostor_cannot_answer() -> None:
    """Without the responder's static key, Eve can only repeat what the real one sent to another peer."""
    initiator, other, responder = make("initiator"), make("initiator"), make("responder")
    responder.read_message(other.write_message(b""))
    answer = responder.write_message(b"")
    initiator.write_message(b"")
    before = snapshot(initiator)
    with pytest.raises(HandshakeError):
        initiator.read_message(answer)
    assert snapshot(initiator) == before


# --- turns and wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_every_call_out_of_turn_is_a_local_error(count: int, role: Role) -> None:
    """Each state with each call: calls that the table allows succeed, others raise LocalTunnelError."""
    ends: dict[Role, NoiseXK] = {"initiator": make("initiator"), "responder": make("responder")}
    advance(count, ends["initiator"], ends["responder"])
    noise = ends[role]
    writers: tuple[Role | None, ...] = ("initiator", "responder", "initiator", None)
    before = snapshot(noise)
    if writers[count] != role:
        with pytest.raises(LocalTunnelError, match="write_message"):
            noise.write_message(b"")
    if writers[count] in (role, None):
        with pytest.raises(LocalTunnelError, match="read_message"):
            noise.read_message(bytes(64))
    if writers[count] is not None:
        with pytest.raises(LocalTunnelError, match="finish"):
            noise.finish()
    assert snapshot(noise) == before


def test_finish_ends_the_object() -> None:
    initiator, responder = make("initiator"), make("responder")
    advance(3, initiator, responder)
    initiator.finish()
    with pytest.raises(LocalTunnelError, match="before"):
        initiator.finish()
    with pytest.raises(LocalTunnelError, match="ended"):
        initiator.write_message(b"")
    with pytest.raises(LocalTunnelError, match="ended"):
        initiator.read_message(b"")


@pytest.mark.parametrize("index", range(3))
def test_largest_message(index: int) -> None:
    writer, reader = advance(index, make("initiator"), make("responder"))
    room = MAX_MESSAGE_BYTES - OVERHEADS[index]
    before = snapshot(writer)
    with pytest.raises(LocalTunnelError, match=f"{MAX_MESSAGE_BYTES + 1} bytes, at most {MAX_MESSAGE_BYTES}"):
        writer.write_message(bytes(room + 1))
    assert snapshot(writer) == before
    message = writer.write_message(bytes(room))
    assert len(message) == MAX_MESSAGE_BYTES
    assert reader.read_message(message) == bytes(room)


@pytest.mark.parametrize("index", range(3))
def test_longer_message_is_refused_with_a_right_tag(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = advance(index, make("initiator"), make("responder"))
    with monkeypatch.context() as patch:
        patch.setattr(noise_module, "MAX_MESSAGE_BYTES", MAX_MESSAGE_BYTES + 1)
        message = writer.write_message(bytes(MAX_MESSAGE_BYTES + 1 - OVERHEADS[index]))
    before = snapshot(reader)
    with pytest.raises(HandshakeError, match="was refused"):
        reader.read_message(message)
    assert snapshot(reader) == before


def test_wrong_construction() -> None:
    with pytest.raises(LocalTunnelError, match="initiator must have it"):
        make("initiator", remote_static=None)
    with pytest.raises(LocalTunnelError, match="responder must not"):
        make("responder", remote_static=bytes(32))
    with pytest.raises(LocalTunnelError, match="31 bytes, expected 32"):
        make("initiator", remote_static=bytes(31))
    with pytest.raises(LocalTunnelError, match="observer"):
        make("observer")  # type: ignore[arg-type]
    short = make("initiator", fixed_ephemeral_for_tests_only=b"")
    with pytest.raises(LocalTunnelError, match="0 bytes, expected 32"):
        short.write_message(b"")


# --- against an independent implementation -----------------------------------------------------------------


def independent(role: Role) -> Any:
    """`noiseprotocol` in one role, with the same keys as `make`."""
    peer = NoiseConnection.from_name(PROTOCOL_NAME)
    peer.set_prologue(PROLOGUE)
    if role == "initiator":
        peer.set_as_initiator()
        peer.set_keypair_from_private_bytes(Keypair.STATIC, INITIATOR_STATIC)
        peer.set_keypair_from_public_bytes(
            Keypair.REMOTE_STATIC, ENGINE.x25519_private(RESPONDER_STATIC).public
        )
    else:
        peer.set_as_responder()
        peer.set_keypair_from_private_bytes(Keypair.STATIC, RESPONDER_STATIC)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peer.start_handshake()
    return peer


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("role", ["initiator", "responder"])
@given(payloads=payloads, transport=st.lists(st.tuples(st.booleans(), st.binary(max_size=100)), max_size=6))
def test_live_exchange_with_noiseprotocol(
    role: Role,
    engine: TunnelEngine,
    payloads: tuple[bytes, bytes, bytes],
    transport: list[tuple[bool, bytes]],
) -> None:
    ours = make(role, engine)
    theirs = independent("responder" if role == "initiator" else "initiator")
    for payload in payloads:
        if ours.is_my_turn:
            assert bytes(theirs.read_message(ours.write_message(payload))) == payload
        else:
            assert ours.read_message(bytes(theirs.write_message(payload))) == payload
    assert theirs.handshake_finished
    keys = ours.finish()
    assert keys.handshake_hash == theirs.get_handshake_hash()

    sender, receiver = CipherState(engine, keys.send_key), CipherState(engine, keys.receive_key)

    def exchange() -> None:
        for outward, text in transport:
            if outward:
                assert theirs.decrypt(sender.encrypt(b"", text)) == text
            else:
                assert receiver.decrypt(b"", theirs.encrypt(text)) == text

    exchange()
    sender.rekey()
    theirs.rekey_inbound_cipher()
    receiver.rekey()
    theirs.rekey_outbound_cipher()
    exchange()
