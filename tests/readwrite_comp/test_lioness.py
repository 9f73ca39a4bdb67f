"""LIONESS: a second implementation from the text, round trips, separation of keys and tweaks, diffusion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import BadParameter, Lioness
from readwrite_comp.primitives import get_engine

ENGINES = ("openssl", "pycryptodome")
KEYS = bytes(range(128))

block_sizes = st.one_of(st.integers(33, 100), st.sampled_from([33, 48, 64, 996]))
tweaks = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1), st.just(2**64 - 1))


# The reference, from the design's text only: slow, not in place, one block of AES at a time, with ECB as its
# only primitive.


def _aes_block(key: bytes, block: bytes) -> bytes:
    from Crypto.Cipher import AES

    return AES.new(key, AES.MODE_ECB).encrypt(block)


def _ctr(key: bytes, data: bytes) -> bytes:
    out = bytearray()
    for number in range((len(data) + 15) // 16):
        keystream = _aes_block(key, number.to_bytes(16, "big"))
        out += bytes(a ^ b for a, b in zip(data[16 * number : 16 * number + 16], keystream, strict=False))
    return bytes(out)


def _s(k: bytes, t: int, left: bytes, x: bytes) -> bytes:
    """S(i, t, L, x) = AES-256-CTR under key SHA-256(k_i ‖ t ‖ L), counter block 0, applied to x."""
    return _ctr(hashlib.sha256(k + t.to_bytes(8, "big") + left).digest(), x)


def _h(k: bytes, t: int, right: bytes) -> bytes:
    """H(i, t, R) = SHA-256(k_i ‖ t ‖ R)."""
    return hashlib.sha256(k + t.to_bytes(8, "big") + right).digest()


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def reference_encrypt(keys: bytes, block: bytes, t: int) -> bytes:
    k = [keys[32 * i : 32 * i + 32] for i in range(4)]
    left, right = block[:32], block[32:]
    right = _s(k[0], t, left, right)
    left = _xor(left, _h(k[1], t, right))
    right = _s(k[2], t, left, right)
    left = _xor(left, _h(k[3], t, right))
    return left + right


def reference_decrypt(keys: bytes, block: bytes, t: int) -> bytes:
    k = [keys[32 * i : 32 * i + 32] for i in range(4)]
    left, right = block[:32], block[32:]
    left = _xor(left, _h(k[3], t, right))
    right = _s(k[2], t, left, right)
    left = _xor(left, _h(k[1], t, right))
    right = _s(k[0], t, left, right)
    return left + right


def encrypt(block: bytes, tweak: int = 0, keys: bytes = KEYS, engine: str = "auto") -> bytes:
    buffer = bytearray(block)
    Lioness(keys, len(block), get_engine(engine)).encrypt(memoryview(buffer), tweak)
    return bytes(buffer)


def decrypt(block: bytes, tweak: int = 0, keys: bytes = KEYS, engine: str = "auto") -> bytes:
    buffer = bytearray(block)
    Lioness(keys, len(block), get_engine(engine)).decrypt(memoryview(buffer), tweak)
    return bytes(buffer)


@given(data=st.data(), size=block_sizes, tweak=tweaks, keys=st.binary(min_size=128, max_size=128))
def test_against_the_reference(data: st.DataObject, size: int, tweak: int, keys: bytes) -> None:
    block = data.draw(st.binary(min_size=size, max_size=size))
    for engine in ENGINES:
        assert encrypt(block, tweak, keys, engine) == reference_encrypt(keys, block, tweak)
        assert decrypt(block, tweak, keys, engine) == reference_decrypt(keys, block, tweak)
        assert decrypt(encrypt(block, tweak, keys, engine), tweak, keys, engine) == block
        assert encrypt(decrypt(block, tweak, keys, engine), tweak, keys, engine) == block


def _looks_unrelated(a: bytes, b: bytes) -> bool:
    """No part agrees more than chance allows: about one byte in 256 is equal, here fewer than one in eight in
    each half of 32+.
    """
    half = len(a) // 2
    return all(
        sum(x == y for x, y in zip(a[part], b[part], strict=True)) < half // 8
        for part in (slice(0, half), slice(half, None))
    )


@pytest.mark.parametrize("transform", [encrypt, decrypt])
def test_one_bit_garbles_the_whole_block(transform: Callable[[bytes], bytes]) -> None:
    block = hashlib.shake_256(b"block").digest(996)
    whole = transform(block)
    for position in (0, 1, 31, 32, 33, 500, 995):
        changed = bytearray(block)
        changed[position] ^= 1
        assert _looks_unrelated(transform(bytes(changed)), whole)


def test_tweaks_and_keys_separate() -> None:
    block = bytes(996)
    outputs = [encrypt(block, tweak) for tweak in (0, 1, 2, 256, 2**32, 2**64 - 1)]
    for position in range(0, 96, 16):
        keys = bytearray(KEYS)
        keys[position] ^= 1
        outputs.append(encrypt(block, 0, bytes(keys)))
    for index, output in enumerate(outputs):
        assert _looks_unrelated(output, block)
        for other in outputs[:index]:
            assert _looks_unrelated(output, other)


def test_the_last_round_key_acts_on_the_left_half() -> None:
    """k3 is used in the last round only, which changes L alone: a property of LIONESS, whose keys are drawn
    together.
    """
    block, keys = bytes(996), bytearray(KEYS)
    keys[100] ^= 1
    whole, other = encrypt(block), encrypt(block, 0, bytes(keys))
    assert whole[32:] == other[32:]
    assert sum(a == b for a, b in zip(whole[:32], other[:32], strict=True)) < 4
    assert _looks_unrelated(decrypt(whole, 0, bytes(keys)), block)


def test_wrong_tweak_or_key_gives_noise() -> None:
    block = bytes(996)
    sealed = encrypt(block, 7)
    assert decrypt(sealed, 7) == block
    assert _looks_unrelated(decrypt(sealed, 8), block)
    assert _looks_unrelated(decrypt(sealed, 7, KEYS[::-1]), block)


def test_refused_parameters_change_nothing() -> None:
    for keys, size in ((bytes(127), 64), (bytes(129), 64), (KEYS, 32), (KEYS, 0)):
        with pytest.raises(BadParameter):
            Lioness(keys, size)
    permutation = Lioness(KEYS, 64)
    buffer = bytearray(b"\x33" * 65)
    view = memoryview(buffer)
    for method in (permutation.encrypt, permutation.decrypt):
        for wrong, tweak in (
            (view, 0),
            (view[:63], 0),
            (view[:64], -1),
            (view[:64], 2**64),
            (memoryview(bytes(64)), 0),
        ):
            with pytest.raises(BadParameter):
                method(wrong, tweak)
    assert buffer == b"\x33" * 65
