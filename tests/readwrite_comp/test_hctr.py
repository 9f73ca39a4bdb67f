"""HCTR: compared with a slow second implementation from the paper, and the properties of a wide block."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import (
    BadParameter,
    Hctr,
    Lioness,
    MultiRExt,
    MultiWExt,
    WideBlockR,
    WideBlockW,
    primitives,
)
from readwrite_comp.errors import EngineUnavailable
from readwrite_comp.inplace import InPlaceW
from readwrite_comp.primitives import SPARE_BYTES, bound_xor, get_engine, xor_function
from readwrite_comp.testing import HostileReader, check_ext_pair, read_message
from readwrite_comp.wideblock import HCTR_KEY_BYTES, PolynomialHash, WidePermutation

from .pairs import wire_of

ENGINES = ("openssl", "pycryptodome")
KEYS = bytes(range(64))
GCM_VECTORS = Path(__file__).parent.parent / "vectors" / "aes_gcm"

block_sizes = st.one_of(st.integers(17, 100), st.sampled_from([17, 31, 32, 33, 48, 64, 996]))
tweaks = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1), st.just(2**64 - 1))
all_keys = st.binary(min_size=HCTR_KEY_BYTES, max_size=HCTR_KEY_BYTES)

Block = Callable[[bytes], bytes]


# The reference, from the papers only: one bit and one block at a time.


def _aes(key: bytes) -> tuple[Block, Block]:
    from Crypto.Cipher import AES

    return AES.new(key, AES.MODE_ECB).encrypt, AES.new(key, AES.MODE_ECB).decrypt


def _multiply(a: int, b: int) -> int:
    """In GF(2^128) modulo x^128 + x^7 + x^2 + x + 1; the leftmost bit of a block is the coefficient of x^0.
    NIST SP 800-38D, 6.3.
    """
    product = 0
    for position in range(128):
        if b >> (127 - position) & 1:
            product ^= a
        a = (a >> 1) ^ (0xE1 << 120 if a & 1 else 0)
    return product


def reference_hash(h: bytes, text: bytes) -> bytes:
    """H(A) = A1·h^(b+1) ⊕ … ⊕ pad(Ab)·h² ⊕ bin(|A|)·h."""
    point, value = int.from_bytes(h, "big"), 0
    for start in range(0, len(text), 16):
        value = _multiply(value ^ int.from_bytes(text[start : start + 16].ljust(16, b"\0"), "big"), point)
    return _multiply(value ^ (8 * len(text)), point).to_bytes(16, "big")


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def _ctr(encrypt: Block, s: bytes, text: bytes) -> bytes:
    """Block i, from 1 on, XOR E(s XOR bin(i))."""
    out = b""
    for number, start in enumerate(range(0, len(text), 16), 1):
        piece = text[start : start + 16]
        out += _xor(piece, encrypt(_xor(s, number.to_bytes(16, "big")))[: len(piece)])
    return out


def hctr_encrypt(cipher: tuple[Block, Block], h: bytes, tweak: bytes, message: bytes) -> bytes:
    first, rest = message[:16], message[16:]
    x = _xor(first, reference_hash(h, rest + tweak))
    y = cipher[0](x)
    rest = _ctr(cipher[0], _xor(x, y), rest)
    return _xor(y, reference_hash(h, rest + tweak)) + rest


def hctr_decrypt(cipher: tuple[Block, Block], h: bytes, tweak: bytes, message: bytes) -> bytes:
    first, rest = message[:16], message[16:]
    y = _xor(first, reference_hash(h, rest + tweak))
    x = cipher[1](y)
    rest = _ctr(cipher[0], _xor(x, y), rest)
    return _xor(x, reference_hash(h, rest + tweak)) + rest


def _h(key: bytes) -> bytes:
    return _aes(key)[0](bytes(16))


def reference_encrypt(keys: bytes, block: bytes, t: int) -> bytes:
    return hctr_encrypt(_aes(keys[:32]), _h(keys[32:]), t.to_bytes(8, "big"), block)


def reference_decrypt(keys: bytes, block: bytes, t: int) -> bytes:
    return hctr_decrypt(_aes(keys[:32]), _h(keys[32:]), t.to_bytes(8, "big"), block)


def encrypt(block: bytes, tweak: int = 0, keys: bytes = KEYS, engine: str = "auto") -> bytes:
    buffer = bytearray(block)
    Hctr(keys, len(block), get_engine(engine)).encrypt(memoryview(buffer), tweak)
    return bytes(buffer)


def decrypt(block: bytes, tweak: int = 0, keys: bytes = KEYS, engine: str = "auto") -> bytes:
    buffer = bytearray(block)
    Hctr(keys, len(block), get_engine(engine)).decrypt(memoryview(buffer), tweak)
    return bytes(buffer)


def test_the_reference_against_another_implementation() -> None:
    """An example of HCTR with SM4 (GB/T 17964-2021) from an independent implementation:
    it fixes the hash, its bit order and length, and the counter.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    sm4 = Cipher(algorithms.SM4(bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")), modes.ECB())
    cipher = (sm4.encryptor().update, sm4.decryptor().update)
    h = bytes(range(16))
    tweak = bytes(range(0xF0, 0x100))
    message = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    sealed = bytes.fromhex(
        "9cd7481d3b7ca904b14b4084d9d4c83ed39eac8e16747895fc2ae1eecd220276"
        "af3d0d2f21cb3807561347c81ad138117dd85c652afe16a47dc68eb884068ae3"
    )
    assert hctr_encrypt(cipher, h, tweak, message) == sealed
    assert hctr_decrypt(cipher, h, tweak, sealed) == message


def _gcm_hash(vector: dict[str, bytes]) -> bytes:
    """GHASH as the vector has it: its tag without the mask."""
    nonce = vector["nonce"] + (1).to_bytes(4, "big")
    return _xor(vector["tag"], _aes(vector["key"])[0](nonce))


def test_the_hash_against_the_vectors_of_gcm() -> None:
    """Where a vector has no associated data, its tag without the mask is H of its ciphertext."""
    vectors = [
        {
            name: bytes.fromhex(value)
            for name, value in json.loads(path.read_text()).items()
            if name != "scenario"
        }
        for path in sorted(GCM_VECTORS.glob("*.json"))
    ]
    plain = [vector for vector in vectors if not vector["aad"]]
    assert len(plain) == 3
    for vector in plain:
        expected = _gcm_hash(vector)
        assert reference_hash(_h(vector["key"]), vector["ciphertext"]) == expected
        for name in ENGINES:
            found = PolynomialHash(vector["key"], len(vector["ciphertext"]), get_engine(name))
            assert found.of(vector["ciphertext"]) == int.from_bytes(expected, "big")


@given(key=st.binary(min_size=32, max_size=32), text=st.binary(max_size=100))
def test_the_hash_against_the_reference(key: bytes, text: bytes) -> None:
    expected = int.from_bytes(reference_hash(_h(key), text), "big")
    for name in ENGINES:
        assert PolynomialHash(key, len(text), get_engine(name)).of(text) == expected


@given(data=st.data(), size=block_sizes, tweak=tweaks, keys=all_keys)
def test_against_the_reference(data: st.DataObject, size: int, tweak: int, keys: bytes) -> None:
    block = data.draw(st.binary(min_size=size, max_size=size))
    sealed, opened = reference_encrypt(keys, block, tweak), reference_decrypt(keys, block, tweak)
    assert reference_decrypt(keys, sealed, tweak) == block
    for name in ENGINES:
        assert encrypt(block, tweak, keys, name) == sealed
        assert decrypt(block, tweak, keys, name) == opened
        assert decrypt(sealed, tweak, keys, name) == block
        assert encrypt(opened, tweak, keys, name) == block


@pytest.mark.parametrize("size", [16_356, 64_484])
def test_chunks_against_the_reference(size: int) -> None:
    """The lengths of the tunnel's chunks: more than 255 and more than 4,000 counters."""
    block = hashlib.shake_256(b"chunk").digest(size)
    sealed = reference_encrypt(KEYS, block, 1_000)
    for name in ENGINES:
        assert encrypt(block, 1_000, KEYS, name) == sealed
        assert decrypt(sealed, 1_000, KEYS, name) == block


@given(
    key=st.binary(min_size=32, max_size=32), blocks=st.lists(st.binary(min_size=16, max_size=16), max_size=5)
)
def test_engines_agree_on_the_block_cipher(key: bytes, blocks: list[bytes]) -> None:
    expected = b"".join(map(_aes(key)[0], blocks))
    for name in ENGINES:
        cipher = get_engine(name).block_cipher(key)
        assert b"".join(map(cipher.encrypt, blocks)) == expected
        assert [cipher.decrypt(cipher.encrypt(block)) for block in blocks] == blocks
        buffer = bytearray(b"".join(blocks) + b"\x77" * SPARE_BYTES)
        cipher.encrypt_blocks(memoryview(buffer))
        assert buffer == expected + b"\x77" * SPARE_BYTES


def test_xor_works_in_place() -> None:
    left, right = bytearray(range(40)), bytes(range(40, 80))
    xor_function()(left, right, memoryview(left))
    assert left == _xor(bytes(range(40)), right)


@pytest.mark.parametrize("is_raw", [True, False])
def test_a_bound_xor_takes_its_buffers_as_they_are(is_raw: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_raw:
        monkeypatch.setattr(primitives, "raw_xor", lambda: None)
    target, source = bytearray(50), bytearray(40)
    work = bound_xor(memoryview(target)[5:45], memoryview(source))
    target[:], source[:] = bytes(range(50)), bytes(range(100, 140))
    work()
    assert target[5:45] == _xor(bytes(range(5, 45)), bytes(source))
    assert target[:5] + target[45:] == bytes([0, 1, 2, 3, 4, 45, 46, 47, 48, 49])
    work()
    assert target == bytes(range(50))
    with pytest.raises(BufferError):
        target.append(0)  # it would be written at its old address


@pytest.mark.parametrize(("target", "source"), [(bytearray(3), bytes(4)), (bytes(3), bytes(3))])
def test_a_bound_xor_checks_its_buffers(target: bytes | bytearray, source: bytes) -> None:
    with pytest.raises(BadParameter):
        bound_xor(memoryview(target), memoryview(source))


def test_the_function_below_xor_is_used_only_if_it_works_as_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from Crypto.Util import strxor

    monkeypatch.setattr(strxor, "_raw_strxor", SimpleNamespace(strxor=lambda *_: None))
    assert primitives.raw_xor.__wrapped__() is None
    monkeypatch.delattr(strxor, "_raw_strxor")
    assert primitives.raw_xor.__wrapped__() is None


def _looks_unrelated(a: bytes, b: bytes) -> bool:
    """No part agrees more than chance allows: in each eighth, fewer than one byte in eight is equal."""
    part = len(a) // 8
    return all(
        sum(x == y for x, y in zip(a[start : start + part], b[start : start + part], strict=True)) < part // 8
        for start in range(0, 8 * part, part)
    )


@pytest.mark.parametrize("transform", [encrypt, decrypt])
def test_one_bit_garbles_the_whole_block(transform: Callable[[bytes], bytes]) -> None:
    block = hashlib.shake_256(b"block").digest(996)
    whole = transform(block)
    for position in (0, 1, 15, 16, 17, 31, 32, 500, 991, 992, 995):
        for bit in (0x01, 0x80):
            changed = bytearray(block)
            changed[position] ^= bit
            other = transform(bytes(changed))
            assert _looks_unrelated(other, whole)
            assert other[:16] != whole[:16]


def test_tweaks_and_keys_separate() -> None:
    block = bytes(996)
    outputs = [encrypt(block, tweak) for tweak in (0, 1, 2, 256, 2**32, 2**64 - 1)]
    for position in range(0, HCTR_KEY_BYTES, 8):
        keys = bytearray(KEYS)
        keys[position] ^= 1
        outputs.append(encrypt(block, 0, bytes(keys)))
    for index, output in enumerate(outputs):
        assert _looks_unrelated(output, block)
        for other in outputs[:index]:
            assert _looks_unrelated(output, other)


def test_wrong_tweak_or_key_gives_noise() -> None:
    block = bytes(996)
    sealed = encrypt(block, 7)
    assert decrypt(sealed, 7) == block
    assert _looks_unrelated(decrypt(sealed, 8), block)
    assert _looks_unrelated(decrypt(sealed, 7, KEYS[::-1]), block)


def test_nothing_of_a_call_is_left_for_the_next() -> None:
    permutation = Hctr(KEYS, 100)
    for tweak in (0, 5, 0, 2**64 - 1):
        buffer = bytearray(b"\x11" * 100)
        permutation.encrypt(memoryview(buffer), tweak)
        assert buffer == reference_encrypt(KEYS, b"\x11" * 100, tweak)
        permutation.decrypt(memoryview(buffer), tweak)
        assert buffer == b"\x11" * 100


def test_objects_in_threads_do_not_meet() -> None:
    """They share only working memory; each thread has its own keys."""

    def work(number: int) -> bool:
        keys, block = bytes([number]) * HCTR_KEY_BYTES, bytes([number]) * 4_000
        permutation, buffer = Hctr(keys, len(block)), bytearray(block)
        for tweak in range(20):
            permutation.encrypt(memoryview(buffer), tweak)
        once = reference_encrypt(keys, block, 0)
        for tweak in reversed(range(1, 20)):
            permutation.decrypt(memoryview(buffer), tweak)
        return buffer == once

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_refused_parameters_change_nothing() -> None:
    for keys, size in ((bytes(63), 64), (bytes(65), 64), (bytes(48), 64), (KEYS, 16), (KEYS, 0), (KEYS, -1)):
        with pytest.raises(BadParameter):
            Hctr(keys, size)
    for name in ENGINES:
        engine = get_engine(name)
        with pytest.raises(BadParameter):
            engine.block_cipher(bytes(16))
        with pytest.raises(BadParameter):
            engine.gmac(bytes(31))
        with pytest.raises(BadParameter):
            PolynomialHash(bytes(16), 64, engine)
    permutation = Hctr(KEYS, 64)
    buffer = bytearray(b"\x33" * 65)
    view = memoryview(buffer)
    for method in (permutation.encrypt, permutation.decrypt):
        for wrong, tweak in (
            (view, 0),
            (view[:63], 0),
            (view[:0], 0),
            (view[:64], -1),
            (view[:64], 2**64),
            (memoryview(bytes(64)), 0),
        ):
            with pytest.raises(BadParameter):
                method(wrong, tweak)
    assert buffer == b"\x33" * 65


def test_without_a_library_to_xor_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Crypto.Util.strxor", None)
    with pytest.raises(EngineUnavailable, match="pycryptodome"):
        xor_function.__wrapped__()


# In layers.


def _pair(engine: str, *, inverse: bool = False) -> tuple[WideBlockW, WideBlockR]:
    permutation = Hctr(KEYS, 40, get_engine(engine))
    return (
        WideBlockW(permutation, first_tweak=3, inverse=inverse),
        WideBlockR(permutation, first_tweak=3, inverse=inverse),
    )


@pytest.mark.parametrize("inverse", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "engine", [ENGINES[0], *(pytest.param(name, marks=pytest.mark.full) for name in ENGINES[1:])]
)
def test_layers_pass_the_kit(engine: str, inverse: bool) -> None:
    check_ext_pair(lambda: _pair(engine, inverse=inverse), sizes=(0, 1, 39, 40, 41, 80, 300))


def _permutations(depth: int) -> list[WidePermutation]:
    """Suites 1 and 0 in turn, engines in turn."""
    return [
        Lioness(bytes([index]) * 128, 48, get_engine(ENGINES[index % 2]))
        if index % 3 == 2
        else Hctr(bytes([index]) * 64, 48, get_engine(ENGINES[index % 2]))
        for index in range(depth)
    ]


@given(content=st.binary(max_size=200), depth=st.integers(1, 6))
def test_joined_layers_are_the_permutations_one_after_the_other(content: bytes, depth: int) -> None:
    permutations = _permutations(depth)
    writer = MultiWExt([WideBlockW(p, first_tweak=i, inverse=i % 2 == 1) for i, p in enumerate(permutations)])
    reader = MultiRExt([WideBlockR(p, first_tweak=i, inverse=i % 2 == 1) for i, p in enumerate(permutations)])
    assert [type(layer) for layer in writer.layers] == [WideBlockW if depth == 1 else InPlaceW]
    expected = bytearray(content.ljust(-(-len(content) // 48) * 48, b"\0"))
    for number, start in enumerate(range(0, len(expected), 48)):
        block = memoryview(expected)[start : start + 48]
        for index, permutation in reversed(list(enumerate(permutations))):
            (permutation.decrypt if index % 2 else permutation.encrypt)(block, index + number)
    data = wire_of(writer, content)
    assert data == expected
    found = read_message(reader, HostileReader(data), None).content
    assert found[: len(content)] == content
    assert not any(found[len(content) :])


def test_the_first_layer_of_a_message_is_the_reference() -> None:
    content = hashlib.shake_256(b"content").digest(100)
    padded = content.ljust(120, b"\0")
    expected = b"".join(reference_encrypt(KEYS, padded[40 * t : 40 * t + 40], 3 + t) for t in range(3))
    for name in ENGINES:
        assert wire_of(_pair(name)[0], content) == expected


# The bound.


def advantage_log2(block_bytes: int, blocks: int) -> float:
    """The binary logarithm of the bound in docs/layers-suites.md, without the advantages against AES, for
    `blocks` enciphered or deciphered under one key.
    """
    length = -(-(block_bytes - 16) // 16)
    degree = 1 + -(-(block_bytes - 16 + 8) // 16)
    factor = degree + 2 * length * degree + length + length**2 / 2
    return 2 * math.log2(blocks) + math.log2(factor) - 128


def test_the_bound_is_as_documented() -> None:
    """Below 3 σ²/2^128 at every length, and the figures of the table."""
    for block_bytes in (*range(17, 2_000), 16_356, 64_484, 10**6):
        for blocks in (1, 1_000, 2**40):
            sigma = blocks * -(-block_bytes // 16)
            assert advantage_log2(block_bytes, blocks) < math.log2(3) + 2 * math.log2(sigma) - 128
    for block_bytes in (16_356, 64_484):
        for volume, expected in ((2**30, -74.7), (2**40, -54.7), (2**50, -34.7), (2.5 * 2**50, -32)):
            found = advantage_log2(block_bytes, math.ceil(volume / block_bytes))
            assert found == pytest.approx(expected, abs=0.06)
