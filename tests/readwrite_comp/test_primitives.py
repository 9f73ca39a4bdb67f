"""Engines: official vectors, and each call compared between the two."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import AuthenticationError, BadParameter, primitives
from readwrite_comp.errors import EngineUnavailable, LayerError
from readwrite_comp.primitives import (
    Engine,
    HmacSha256,
    engine_names,
    equal,
    get_engine,
    hkdf_sha256,
    hmac_sha256,
    random_bytes,
    sha256,
)

VECTORS = Path(__file__).parent.parent / "vectors"
ENGINES = ("openssl", "pycryptodome")


def load(folder: str, expected_count: int) -> list[dict[str, bytes]]:
    paths = sorted((VECTORS / folder).glob("*.json"))
    assert len(paths) == expected_count
    return [
        {
            name: bytes.fromhex(value)
            for name, value in json.loads(path.read_text()).items()
            if name != "scenario"
        }
        for path in paths
    ]


def outcome(call: Callable[[], bytes]) -> tuple[str, bytes | str]:
    """The outcome of a call, in a form that can be compared between engines."""
    try:
        return "value", call()
    except LayerError as error:
        return type(error).__name__, str(error)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return get_engine(request.param)


def test_aes_gcm_vectors(engine: Engine) -> None:
    for vector in load("aes_gcm", 4):
        aead = engine.aead(vector["key"])
        sealed = vector["ciphertext"] + vector["tag"]
        assert aead.seal(vector["nonce"], vector["plaintext"], vector["aad"]) == sealed
        assert aead.open(vector["nonce"], sealed, vector["aad"]) == vector["plaintext"]
        for position in range(len(sealed)):
            changed = bytearray(sealed)
            changed[position] ^= 0x20
            with pytest.raises(AuthenticationError):
                aead.open(vector["nonce"], changed, vector["aad"])


def test_aes_ctr_vectors(engine: Engine) -> None:
    for vector in load("aes_ctr", 1):
        for split in (0, 1, 15, 16, 17, 63, 64):
            stream = engine.ctr(vector["key"], vector["counter_block"])
            buffer = bytearray(vector["plaintext"])
            view = memoryview(buffer)
            stream.apply(view[:split])
            stream.apply(view[split:])
            assert buffer == vector["ciphertext"]


@given(key=st.binary(min_size=32, max_size=32), data=st.binary(max_size=300))
def test_xor_keystream_is_ctr_from_zero(key: bytes, data: bytes) -> None:
    results = []
    for name in ENGINES:
        engine = get_engine(name)
        once, stream = bytearray(data), bytearray(data)
        engine.xor_keystream(key, memoryview(once))
        engine.ctr(key, bytes(16)).apply(memoryview(stream))
        assert once == stream
        results.append(once)
    assert results[0] == results[1]


@given(
    key=st.binary(min_size=32, max_size=32),
    counter_block=st.one_of(
        st.binary(min_size=16, max_size=16), st.sampled_from([b"\xff" * 16, b"\0" * 8 + b"\xff" * 8])
    ),
    pieces=st.lists(st.integers(0, 40), max_size=8),
)
def test_engines_agree_on_ctr(key: bytes, counter_block: bytes, pieces: list[int]) -> None:
    streams = [get_engine(name).ctr(key, counter_block) for name in ENGINES]
    for size in pieces:
        buffers = [bytearray(size) for _ in streams]
        for stream, buffer in zip(streams, buffers, strict=True):
            stream.apply(memoryview(buffer))
        assert buffers[0] == buffers[1]


@given(
    key_bytes=st.sampled_from([32, 32, 32, 0, 16, 24, 31, 33]),
    nonce=st.one_of(st.binary(min_size=12, max_size=12), st.binary(max_size=20)),
    data=st.binary(max_size=120),
    aad=st.binary(max_size=40),
    flip=st.integers(0, 200),
)
def test_engines_agree_on_aead(key_bytes: int, nonce: bytes, data: bytes, aad: bytes, flip: int) -> None:
    key = bytes(range(key_bytes))

    def seal(name: str) -> bytes:
        return get_engine(name).aead(key).seal(nonce, data, aad)

    def open_sealed(name: str, candidate: bytes) -> bytes:
        return get_engine(name).aead(key).open(nonce, candidate, aad)

    sealed = [outcome(partial(seal, name)) for name in ENGINES]
    assert sealed[0] == sealed[1]
    kind, value = sealed[0]
    # Both the good bytes and wrong ones are opened: changed, cut short, random.
    good = value if isinstance(value, bytes) else data
    changed = bytearray(good)
    if changed:
        changed[flip % len(changed)] ^= 1
    for candidate in (good, bytes(changed), good[: flip % (len(good) + 1)], data):
        opened = [outcome(partial(open_sealed, name, candidate)) for name in ENGINES]
        assert opened[0] == opened[1]
        if kind == "value" and candidate == good:
            assert opened[0] == ("value", data)
        else:
            assert opened[0][0] in ("AuthenticationError", "BadParameter")


@given(data=st.binary(max_size=100), flip=st.one_of(st.none(), st.integers(0, 1_000)))
def test_aead_in_place(data: bytes, flip: int | None) -> None:
    """Sealing and opening over the same bytes; a refused opening leaves zeros, never plaintext."""
    results = []
    for name in ENGINES:
        aead = get_engine(name).aead(bytes(32))
        buffer = bytearray(data + bytes(16))
        view = memoryview(buffer)
        aead.seal_into(bytes(12), view[: len(data)], b"head", view)
        assert buffer == aead.seal(bytes(12), data, b"head")
        if flip is None:
            aead.open_into(bytes(12), view, b"head", view[: len(data)])
            assert buffer[: len(data)] == data
        else:
            buffer[flip % len(buffer)] ^= 0x80
            with pytest.raises(AuthenticationError):
                aead.open_into(bytes(12), view, b"head", view[: len(data)])
            assert not any(buffer[: len(data)])
        results.append(bytes(buffer[: len(data)]))
    assert results[0] == results[1]


def test_all_refusals_raise_the_same_error(engine: Engine) -> None:
    aead = engine.aead(bytes(32))
    sealed = bytearray(aead.seal(bytes(12), b"content", b"aad"))
    texts = set()
    for candidate, aad in ((b"", b"aad"), (bytes(15), b"aad"), (bytes(16), b"aad"), (sealed, b"other")):
        with pytest.raises(AuthenticationError) as caught:
            aead.open(bytes(12), candidate, aad)
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_wrong_parameters_change_nothing(engine: Engine) -> None:
    aead = engine.aead(bytes(32))
    out = bytearray(b"\x55" * 20)
    read_only = memoryview(bytes(20))
    view = memoryview(out)
    bad: list[Callable[[], object]] = [
        lambda: aead.seal_into(bytes(12), b"abc", b"", view),
        lambda: aead.seal_into(bytes(11), b"abcd", b"", view),
        lambda: aead.seal_into(bytes(12), b"abcd", b"", read_only),
        lambda: aead.open_into(bytes(12), bytes(20), b"", view),
        lambda: aead.open_into(bytes(8), bytes(36), b"", view),
        lambda: engine.aead(bytes(31)),
        lambda: engine.xor_keystream(bytes(16), view),
        lambda: engine.xor_keystream(bytes(32), read_only),
        lambda: engine.ctr(bytes(32), bytes(12)),
        lambda: engine.ctr(bytes(33), bytes(16)),
        lambda: engine.ctr(bytes(32), bytes(16)).apply(read_only),
    ]
    for call in bad:
        with pytest.raises(BadParameter):
            call()
    assert out == b"\x55" * 20


def test_choice_of_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_names() == ENGINES
    assert get_engine().name == "openssl"
    assert get_engine("openssl") is get_engine()
    with pytest.raises(BadParameter, match="unknown engine"):
        get_engine("rot13")
    # On a cache of the test's own: the engines that others hold must stay those that `get_engine` gives.
    fresh = functools.cache(get_engine.__wrapped__)
    monkeypatch.setattr(primitives, "get_engine", fresh)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(EngineUnavailable, match=r"mydht-tunnel\[fast\]"):
        fresh("openssl")
    assert fresh("auto").name == "pycryptodome"
    assert engine_names() == ("pycryptodome",)
    fresh.cache_clear()
    monkeypatch.setitem(sys.modules, "Crypto.Cipher", None)
    with pytest.raises(EngineUnavailable, match="pycryptodome"):
        fresh("auto")


def test_hashes() -> None:
    assert sha256(b"a", bytearray(b"b"), memoryview(b"c")) == hashlib.sha256(b"abc").digest()
    assert sha256() == hashlib.sha256(b"").digest()
    expected = hmac.new(b"key", b"abc", "sha256").digest()
    assert hmac_sha256(b"key", b"abc") == hmac_sha256(b"key", b"a", b"bc") == expected


@given(st.binary(max_size=200), st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=3))
def test_hmac_of_many_that_begin_alike(key: bytes, beginning: bytes, rests: list[bytes]) -> None:
    code = HmacSha256(key, beginning)
    for rest in rests:
        assert code.digest(rest) == hmac.digest(key, beginning + rest, "sha256")
    assert equal(b"same", b"same")
    assert not equal(b"same", b"samf")
    assert len({random_bytes(16) for _ in range(50)}) == 50


def test_hkdf_against_rfc_5869() -> None:
    """RFC 5869, A.1 and A.3 (empty salt and info)."""
    okm = hkdf_sha256(bytes(range(13)), b"\x0b" * 22, bytes(range(0xF0, 0xFA)), 42)
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    okm = hkdf_sha256(b"", b"\x0b" * 22, b"", 42)
    assert okm.hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    for length in (0, 255 * 32 + 1):
        with pytest.raises(BadParameter):
            hkdf_sha256(b"", b"secret", b"", length)
