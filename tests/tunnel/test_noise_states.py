"""The parts of the handshake: nonces, `CipherState`, REKEY and `SymmetricState`."""

from __future__ import annotations

import pytest

from readwrite_comp.errors import AuthenticationError
from tests.support.engines import ENGINES, OPENSSL
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import LocalTunnelError
from tunnel.link.noise import CipherState, SymmetricState, nonce_of, rekeyed


def test_nonce_is_big_endian() -> None:
    assert nonce_of(1) == bytes(11) + b"\1"
    assert nonce_of(0x0102) == bytes(10) + b"\1\2"
    assert nonce_of(2**64 - 1) == bytes(4) + b"\xff" * 8


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_cipher_state_counts_on_success_only(engine: TunnelEngine) -> None:
    key = bytes(range(32))
    sender, receiver = CipherState(engine, key), CipherState(engine, key)
    for number, text in enumerate((b"", b"one", b"two")):
        sealed = sender.encrypt(b"ad", text)
        assert sealed == engine.layers.aead(key).seal(nonce_of(number), text, b"ad")
        with pytest.raises(AuthenticationError):
            receiver.decrypt(b"other", sealed)
        assert receiver.nonce == number
        assert receiver.decrypt(b"ad", sealed) == text
    assert sender.nonce == receiver.nonce == 3


def test_cipher_state_without_a_key_passes_text_on() -> None:
    cipher = CipherState(OPENSSL)
    assert cipher.encrypt(b"ad", b"text") == cipher.decrypt(b"ad", b"text") == b"text"
    assert cipher.nonce == 0
    with pytest.raises(LocalTunnelError, match="no key"):
        cipher.rekey()


def test_the_last_nonce_is_never_used() -> None:
    key = bytes(32)
    cipher = CipherState(OPENSSL, key, nonce=2**64 - 2)
    sealed = cipher.encrypt(b"", b"last")
    for call in (cipher.encrypt, cipher.decrypt):
        with pytest.raises(LocalTunnelError, match="used up"):
            call(b"", sealed)
    assert cipher.nonce == 2**64 - 1


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_rekey_keeps_the_counter(engine: TunnelEngine) -> None:
    key = bytes(range(32))
    cipher = CipherState(engine, key, nonce=5)
    cipher.rekey()
    assert cipher.key == rekeyed(key, engine) == rekeyed(key, OPENSSL)
    assert cipher.nonce == 5
    assert cipher.key == OPENSSL.layers.aead(key).seal(bytes(4) + b"\xff" * 8, bytes(32))[:32] != key


def test_a_copy_of_the_symmetric_state_is_independent() -> None:
    state = SymmetricState.start(OPENSSL)
    state.mix_key(b"secret")
    before = (state.chaining_key, state.handshake_hash, state.cipher.key, state.cipher.nonce)
    tried = state.copy()
    tried.encrypt_and_hash(b"text")
    tried.mix_key(b"more")
    assert before == (state.chaining_key, state.handshake_hash, state.cipher.key, state.cipher.nonce)
