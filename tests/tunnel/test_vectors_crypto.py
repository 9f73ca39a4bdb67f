"""Published vectors of X25519, Ed25519, HKDF, HPKE and Noise XK, each on both engines.

Origins: tests/vectors/README.md.
"""

from __future__ import annotations

from typing import Any

import pytest

from readwrite_comp.primitives import hkdf_sha256, sha256
from tests.support.hpke import seal_with_ephemeral
from tests.support.vectors import load_vectors
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.errors import BadSignature, Refused
from tunnel.link.noise import NoiseXK, nonce_of

X25519 = load_vectors("x25519", expected=4)
ED25519 = load_vectors("ed25519", expected=5)
HKDF = load_vectors("hkdf", expected=3)
HPKE = load_vectors("hpke", expected=1)
NOISE = load_vectors("noise", expected=1)


@pytest.fixture(params=["openssl", "pycryptodome"])
def engine(request: pytest.FixtureRequest) -> TunnelEngine:
    return tunnel_engine(request.param)


def _bytes(vector: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(vector[name]) for name in names]


@pytest.mark.parametrize("name", ["rfc7748_5_2_first", "rfc7748_5_2_second"])
def test_x25519_scalar_multiplication(name: str, engine: TunnelEngine) -> None:
    scalar, point, result = _bytes(X25519[name], "scalar", "point", "result")
    assert engine.x25519_private(scalar).exchange(point) == result
    assert engine.x25519_private(scalar).exchange(point) == result


def test_x25519_iterated(engine: TunnelEngine) -> None:
    vector = X25519["rfc7748_5_2_iterated"]
    scalar, point = _bytes(vector, "scalar", "point")
    results = {}
    for round_ in range(1, 1001):
        scalar, point = engine.x25519_private(scalar).exchange(point), scalar
        results[str(round_)] = scalar.hex()
    assert sorted(vector["results"]) == ["1", "1000"]
    assert vector["results"].items() <= results.items()


def test_x25519_exchange(engine: TunnelEngine) -> None:
    vector = X25519["rfc7748_6_1_exchange"]
    (shared,) = _bytes(vector, "shared")
    alice, alice_public, bob, bob_public = _bytes(
        vector, "alice_private", "alice_public", "bob_private", "bob_public"
    )
    assert engine.x25519_private(alice).public == alice_public
    assert engine.x25519_private(bob).public == bob_public
    assert (
        engine.x25519_private(alice).exchange(bob_public)
        == engine.x25519_private(bob).exchange(alice_public)
        == shared
    )


@pytest.mark.parametrize("name", ED25519)
def test_ed25519(name: str, engine: TunnelEngine) -> None:
    seed, public, message, signature = _bytes(ED25519[name], "seed", "public", "message", "signature")
    assert engine.ed25519_public(seed) == public
    assert engine.ed25519_sign(seed, message) == signature
    engine.ed25519_verify(public, message, signature)
    with pytest.raises(BadSignature):
        engine.ed25519_verify(public, message + b"\0", signature)


def test_ed25519_long_vector_is_whole() -> None:
    assert len(bytes.fromhex(ED25519["rfc8032_test_1024"]["message"])) == 1023


@pytest.mark.parametrize("name", HKDF)
def test_hkdf(name: str) -> None:
    salt, secret, info, output = _bytes(HKDF[name], "salt", "secret", "info", "output")
    assert len(output) == HKDF[name]["length"]
    assert hkdf_sha256(salt, secret, info, len(output)) == output


@pytest.mark.parametrize("name", HPKE)
def test_hpke(name: str, engine: TunnelEngine) -> None:
    """The vector has associated data and the protocol has none, so the libraries' calls cannot take it.

    So the composed seal is compared with the vector, and the libraries open what it seals without such data.
    """
    private, public, ephemeral, enc, info, aad, plaintext, ciphertext = _bytes(
        HPKE[name],
        "receiver_private",
        "receiver_public",
        "ephemeral_private",
        "enc",
        "info",
        "aad",
        "plaintext",
        "ciphertext",
    )
    receiver = engine.hpke_private(private)
    assert receiver.public == public
    assert engine.x25519_private(ephemeral).public == enc
    sealed = seal_with_ephemeral(engine, public, info, plaintext, ephemeral=ephemeral, aad=aad)
    assert sealed == enc + ciphertext
    with pytest.raises(Refused):
        engine.hpke_open(receiver, sealed, info)

    without = seal_with_ephemeral(engine, public, info, plaintext, ephemeral=ephemeral)
    assert without[:-16] == sealed[:-16], "associated data changes the tag only"
    assert engine.hpke_open(receiver, without, info) == plaintext


@pytest.mark.parametrize("name", NOISE)
def test_noise(name: str, engine: TunnelEngine) -> None:
    vector = NOISE[name]
    prologue, initiator_static, initiator_ephemeral, remote, responder_static, responder_ephemeral = _bytes(
        vector,
        "prologue",
        "initiator_static",
        "initiator_ephemeral",
        "initiator_remote_static",
        "responder_static",
        "responder_ephemeral",
    )
    initiator = NoiseXK(
        "initiator",
        prologue=prologue,
        static_private=engine.x25519_private(initiator_static),
        remote_static=remote,
        engine=engine,
        fixed_ephemeral_for_tests_only=initiator_ephemeral,
    )
    responder = NoiseXK(
        "responder",
        prologue=prologue,
        static_private=engine.x25519_private(responder_static),
        engine=engine,
        fixed_ephemeral_for_tests_only=responder_ephemeral,
    )
    messages = [_bytes(message, "payload", "ciphertext") for message in vector["messages"]]
    assert len(messages) == 6
    sender, receiver = initiator, responder
    hashes = []
    for payload, ciphertext in messages[:3]:
        assert sender.write_message(payload) == ciphertext
        assert receiver.read_message(ciphertext) == payload
        assert sender.handshake_hash == receiver.handshake_hash
        hashes.append(sender.handshake_hash)
        sender, receiver = receiver, sender
    assert responder.remote_static == engine.x25519_private(initiator_static).public

    ends = initiator.finish(), responder.finish()
    # The published hash is the one after message 2 (see the vector's note); MixHash of what message 3 sends,
    # its sealed static key and its sealed payload, gives the final one.
    assert hashes[1].hex() == vector["handshake_hash"]
    last = messages[2][1]
    final = sha256(sha256(hashes[1], last[:48]), last[48:])
    assert hashes[2] == ends[0].handshake_hash == ends[1].handshake_hash == final
    # Transport messages alternate: the responder, who did not write the last one, writes the fourth.
    for index, (payload, ciphertext) in enumerate(messages[3:]):
        writer, reader = ends[(index + 1) % 2], ends[index % 2]
        nonce = nonce_of(index // 2)
        assert engine.layers.aead(writer.send_key).seal(nonce, payload) == ciphertext
        assert engine.layers.aead(reader.receive_key).open(nonce, ciphertext) == payload
