"""The two engines return the same bytes and errors for each call, with valid and hostile input."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from readwrite_comp.errors import BadParameter, EngineUnavailable
from readwrite_comp.primitives import engine_names, get_engine, hkdf_sha256
from tests.support.engines import ENGINES, OPENSSL, PRIME, keys, non_canonical, outcome, same_outcome
from tests.support.hpke import key_and_nonce, seal_with_ephemeral
from tunnel.crypto.primitives import HPKE_OVERHEAD, TunnelEngine, expand, tunnel_engine
from tunnel.errors import BadSignature, CryptoError, LocalTunnelError, Refused, RefusedKey

# https://cr.yp.to/ecdh.html#validate: the points whose order divides 8, on the curve or on its twist, in
# every encoding below 2^255. The top bit is ignored, which doubles them.
SEVEN_BAD_POINTS = [
    number.to_bytes(32, "little")
    for number in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        PRIME - 1,
        PRIME,
        PRIME + 1,
    )
]
BAD_POINTS = SEVEN_BAD_POINTS + [point[:31] + bytes([point[31] | 0x80]) for point in SEVEN_BAD_POINTS]

points = st.one_of(keys, st.sampled_from(BAD_POINTS), non_canonical)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> TunnelEngine:
    assert isinstance(request.param, TunnelEngine)
    return request.param


# --- the engine itself -------------------------------------------------------------------------------------


def test_engine_is_cached_and_named() -> None:
    assert tunnel_engine("openssl") is OPENSSL
    assert [engine.name for engine in ENGINES] == ["openssl", "pycryptodome"]
    assert tunnel_engine().name == engine_names()[0]


def test_an_engine_has_the_layer_engine_of_its_library(engine: TunnelEngine) -> None:
    assert engine.layers is get_engine(engine.name)
    key, counter = bytes(range(32)), bytes(16)
    streams = [bytearray(40) for _ in range(2)]
    engine.layers.xor_keystream(key, memoryview(streams[0]))
    engine.layers.ctr(key, counter).apply(memoryview(streams[1]))
    assert streams[0] == streams[1] != bytearray(40)


@pytest.fixture
def no_cached_engine() -> Iterator[None]:
    tunnel_engine.cache_clear()
    yield
    tunnel_engine.cache_clear()


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(BadParameter, match="libsodium"):
        tunnel_engine("libsodium")


@pytest.mark.usefixtures("no_cached_engine")
def test_old_cryptography_leaves_pycryptodome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.hpke", None)
    with pytest.raises(EngineUnavailable, match=r"cryptography>=47"):
        tunnel_engine("openssl")
    assert tunnel_engine().name == "pycryptodome"


@pytest.mark.usefixtures("no_cached_engine")
def test_an_error_without_hpke_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.hpke", None)
    monkeypatch.setitem(sys.modules, "Crypto.Protocol.HPKE", None)
    monkeypatch.delattr("Crypto.Protocol.HPKE", raising=False)
    with pytest.raises(EngineUnavailable, match="pip install"):
        tunnel_engine()


# --- X25519 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", BAD_POINTS, ids=[point.hex()[:8] + point.hex()[-4:] for point in BAD_POINTS]
)
def test_low_order_points_are_one_refusal(point: bytes) -> None:
    private = bytes(range(32))
    refusals = {
        same_outcome(lambda engine: engine.x25519_private(private).exchange(point)),
        same_outcome(lambda engine: engine.hpke_seal(point, b"info", b"text")),
        same_outcome(lambda engine: seal_with_ephemeral(engine, point, b"info", b"text", ephemeral=private)),
    }
    assert [name for name, _ in refusals] == ["RefusedKey"], "one class and one text for all of them"
    sealed = point + bytes(48)
    assert (
        same_outcome(lambda engine: engine.hpke_open(engine.hpke_private(private), sealed, b""))[0]
        == "Refused"
    )


@given(private=keys, public=points)
def test_exchange_agrees(private: bytes, public: bytes) -> None:
    kind, _ = same_outcome(lambda engine: engine.x25519_private(private).exchange(public))
    assert (kind == "RefusedKey") == (public in BAD_POINTS)


@given(private=keys, number=st.integers(0, 18))
def test_non_canonical_points_mean_their_reduction(private: bytes, number: int) -> None:
    """RFC 7748 section 5: values from p to 2^255 - 1 are accepted as if reduced; the top bit is ignored."""
    forms = [number, number + PRIME, number + 2**255, number + PRIME + 2**255]
    outcomes = set()
    for form in forms:
        point = form.to_bytes(32, "little")
        outcomes.add(
            same_outcome(lambda engine, point=point: engine.x25519_private(private).exchange(point))  # type: ignore[misc]
        )
    assert len(outcomes) == 1


@given(private=keys)
def test_public_keys_agree_and_are_canonical(private: bytes) -> None:
    _, public = same_outcome(lambda engine: engine.x25519_private(private).public)
    assert isinstance(public, bytes)
    assert int.from_bytes(public, "little") < PRIME
    for engine in ENGINES:
        assert engine.x25519_private(private).public == engine.hpke_private(private).public == public


@pytest.mark.parametrize("length", [0, 31, 33])
def test_wrong_lengths(length: int, engine: TunnelEngine) -> None:
    """A private key of the wrong length is a local error; a public one comes from outside and is refused."""
    wrong, good = bytes(length), bytes(range(32))
    for call in (
        engine.x25519_private,
        engine.hpke_private,
        engine.ed25519_public,
        lambda private: engine.x25519_private(private).exchange(good),
        lambda private: engine.ed25519_sign(private, b""),
        lambda private: seal_with_ephemeral(
            engine, engine.x25519_private(good).public, b"", b"", ephemeral=private
        ),
    ):
        with pytest.raises(LocalTunnelError, match=f"{length} bytes, expected 32"):
            call(wrong)
    with pytest.raises(RefusedKey):
        engine.x25519_private(good).exchange(wrong)
    with pytest.raises(RefusedKey):
        engine.hpke_seal(wrong, b"", b"")


def test_keys_do_not_show_themselves(engine: TunnelEngine) -> None:
    private = bytes(range(32))
    for key in (engine.x25519_private(private), engine.hpke_private(private)):
        assert private.hex() not in repr(key)
        assert repr(private)[2:-1] not in repr(key)


# --- HPKE --------------------------------------------------------------------------------------------------


@given(private=keys, info=st.binary(max_size=80), plaintext=st.binary(max_size=200))
def test_hpke_crosses_engines(private: bytes, info: bytes, plaintext: bytes) -> None:
    for sealer in ENGINES:
        for opener in ENGINES:
            receiver = opener.hpke_private(private)
            sealed = sealer.hpke_seal(receiver.public, info, plaintext)
            assert len(sealed) == len(plaintext) + HPKE_OVERHEAD
            assert opener.hpke_open(receiver, sealed, info) == plaintext
            assert opener.hpke_open(receiver, memoryview(bytearray(sealed)), info) == plaintext
            # A prepared key belongs to no engine object: either one may open with it.
            assert sealer.hpke_open(receiver, sealed, info) == plaintext


@given(private=keys, ephemeral=keys, info=st.binary(max_size=80), plaintext=st.binary(max_size=200))
def test_hpke_with_given_ephemeral_agrees(
    private: bytes, ephemeral: bytes, info: bytes, plaintext: bytes
) -> None:
    public = OPENSSL.x25519_private(private).public
    _, sealed = same_outcome(
        lambda engine: seal_with_ephemeral(engine, public, info, plaintext, ephemeral=ephemeral)
    )
    assert isinstance(sealed, bytes)
    opened = same_outcome(lambda engine: engine.hpke_open(engine.hpke_private(private), sealed, info))
    assert opened == ("result", plaintext)


@given(
    private=keys,
    ephemeral=keys,
    plaintext=st.binary(max_size=80),
    position=st.integers(0, 10_000),
    change=st.integers(1, 255),
)
@example(private=bytes(32), ephemeral=bytes(32), plaintext=b"x", position=31, change=0x80)
def test_any_changed_byte_is_the_same_refusal(
    private: bytes, ephemeral: bytes, plaintext: bytes, position: int, change: int
) -> None:
    """The top bit of enc included, which X25519 ignores: RFC 9180 hashes enc as it was sent."""
    public = OPENSSL.x25519_private(private).public
    sealed = bytearray(seal_with_ephemeral(OPENSSL, public, b"", plaintext, ephemeral=ephemeral))
    sealed[position % len(sealed)] ^= change
    changed = bytes(sealed)
    seen = same_outcome(lambda engine: engine.hpke_open(engine.hpke_private(private), changed, b""))
    assert seen == outcome(lambda: OPENSSL.hpke_open(OPENSSL.hpke_private(private), b"", b""))
    assert seen[0] == "Refused"


@given(private=keys, enc=points, rest=st.binary(max_size=100))
def test_hostile_headers_are_the_same_refusal(private: bytes, enc: bytes, rest: bytes) -> None:
    sealed = enc + rest
    seen = same_outcome(lambda engine: engine.hpke_open(engine.hpke_private(private), sealed, b"info"))
    assert seen[0] == "Refused"


@pytest.mark.parametrize("length", [*range(HPKE_OVERHEAD + 1), HPKE_OVERHEAD + 80])
def test_short_input_is_the_same_refusal(length: int) -> None:
    private, sealed = bytes(range(32)), bytes(range(1, 255))[:length]
    texts = {
        same_outcome(lambda engine: engine.hpke_open(engine.hpke_private(private), sealed, b"")),
        same_outcome(lambda engine: engine.hpke_open(engine.hpke_private(private), bytes(length), b"")),
    }
    assert len(texts) == 1
    assert next(iter(texts))[0] == "Refused"


@given(private=keys, ephemeral=keys)
def test_enc_in_non_canonical_form_opens_alike(private: bytes, ephemeral: bytes) -> None:
    """A sender may write enc with its top bit set and hash it so: RFC 9180 hashes enc as it was sent."""
    sender, receiver = OPENSSL.x25519_private(ephemeral), OPENSSL.hpke_private(private)
    enc = sender.public[:31] + bytes([sender.public[31] | 0x80])
    shared = sender.exchange(receiver.public)
    key, nonce = key_and_nonce(shared, enc + receiver.public, b"info")
    sealed = enc + OPENSSL.layers.aead(key).seal(nonce, b"text")
    opened = same_outcome(lambda engine: engine.hpke_open(engine.hpke_private(private), sealed, b"info"))
    assert opened == ("result", b"text")


def test_wrong_key_and_wrong_info_are_refused(engine: TunnelEngine) -> None:
    right, wrong = engine.hpke_private(bytes(32)), engine.hpke_private(bytes([9] * 32))
    sealed = engine.hpke_seal(right.public, b"info", b"text")
    with pytest.raises(Refused):
        engine.hpke_open(wrong, sealed, b"info")
    with pytest.raises(Refused):
        engine.hpke_open(right, sealed, b"Info")
    assert engine.hpke_open(right, sealed, b"info") == b"text"


@given(point=non_canonical)
def test_sealing_to_a_non_canonical_key_is_refused(point: bytes) -> None:
    """No owner of a private key would compute the same key schedule, so it could not be opened."""
    assert same_outcome(lambda engine: engine.hpke_seal(point, b"", b""))[0] == "RefusedKey"


def test_each_seal_is_fresh(engine: TunnelEngine) -> None:
    public = engine.x25519_private(bytes(32)).public
    sealed = [engine.hpke_seal(public, b"", b"same") for _ in range(4)]
    assert len({data[:32] for data in sealed}) == len({data[32:] for data in sealed}) == 4


# --- HKDF and the error tree -------------------------------------------------------------------------------


@given(secret=st.binary(min_size=1, max_size=64), label=st.binary(max_size=40), length=st.integers(1, 200))
def test_expand_is_hkdf_with_the_protocols_salt(secret: bytes, label: bytes, length: int) -> None:
    derived = expand(secret, label, length)
    assert derived == hkdf_sha256(b"mtun1", secret, label, length)
    assert len(derived) == length
    assert expand(secret, label, 255 * 32)[:length] == derived


def test_expand_separates_labels() -> None:
    labels = [b"header", b"forward", b"backward", b"status mac", b"status pad", b"xor", b""]
    assert len({expand(b"seed", label, 32) for label in labels}) == len(labels)


@pytest.mark.parametrize("length", [-1, 0, 255 * 32 + 1])
def test_hkdf_length_out_of_range(length: int) -> None:
    with pytest.raises(BadParameter):
        hkdf_sha256(b"", b"secret", b"", length)


def test_refusals_are_remote_errors() -> None:
    assert all(issubclass(error, CryptoError) for error in (Refused, RefusedKey, BadSignature))
