"""The two engines give the same bytes and the same errors, call by call, for good and for hostile input."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from readwrite_comp.errors import BadParameter, EngineUnavailable
from readwrite_comp.primitives import engine_names, get_engine
from tests.support import edwards
from tunnel.errors import BadSignature, CryptoError, LocalTunnelError, Refused, RefusedKey, TunnelError
from tunnel.primitives import HPKE_OVERHEAD, TunnelEngine, expand, hkdf, tunnel_engine

OPENSSL, PYCRYPTODOME = tunnel_engine("openssl"), tunnel_engine("pycryptodome")
ENGINES = (OPENSSL, PYCRYPTODOME)
PRIME = 2**255 - 19

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

keys = st.binary(min_size=32, max_size=32)
non_canonical = st.one_of(
    st.integers(PRIME, 2**255 - 1).map(lambda number: number.to_bytes(32, "little")),
    st.integers(2**255, 2**256 - 1).map(lambda number: number.to_bytes(32, "little")),
)
points = st.one_of(keys, st.sampled_from(BAD_POINTS), non_canonical)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> TunnelEngine:
    assert isinstance(request.param, TunnelEngine)
    return request.param


def outcome(call: Callable[[], bytes | None]) -> tuple[str, object]:
    """What a caller can see of a call: its result, or class, text and cause of its documented error."""
    try:
        return "result", call()
    except TunnelError as error:
        return type(error).__name__, (str(error), error.__cause__, error.__suppress_context__)


def same_outcome(call: Callable[[TunnelEngine], bytes | None]) -> tuple[str, object]:
    first, second = (outcome(lambda engine=engine: call(engine)) for engine in ENGINES)  # type: ignore[misc]
    assert first == second
    return first


# --- the engine itself -------------------------------------------------------------------------------------


def test_engine_is_cached_and_named() -> None:
    assert tunnel_engine("openssl") is OPENSSL
    assert [engine.name for engine in ENGINES] == ["openssl", "pycryptodome"]
    assert tunnel_engine().name == engine_names()[0]


def test_engine_has_what_the_layer_engine_has(engine: TunnelEngine) -> None:
    assert engine.layers is get_engine(engine.name)
    key, nonce, counter = bytes(range(32)), bytes(12), bytes(16)
    assert engine.aead(key).seal(nonce, b"text") == engine.layers.aead(key).seal(nonce, b"text")
    streams = [bytearray(40) for _ in range(3)]
    engine.xor_keystream(key, memoryview(streams[0]))
    engine.layers.xor_keystream(key, memoryview(streams[1]))
    engine.ctr(key, counter).apply(memoryview(streams[2]))
    assert streams[0] == streams[1] == streams[2] != bytearray(40)


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
def test_no_hpke_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
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
        same_outcome(lambda engine: engine.x25519(private, point)),
        same_outcome(lambda engine: engine.x25519_private(private).exchange(point)),
        same_outcome(lambda engine: engine.hpke_seal(point, b"info", b"text")),
        same_outcome(
            lambda engine: engine.hpke_seal_with_ephemeral(
                point, b"info", b"text", fixed_ephemeral_for_tests_only=private
            )
        ),
    }
    assert [name for name, _ in refusals] == ["RefusedKey"], "one class and one text for all of them"
    sealed = point + bytes(48)
    assert (
        same_outcome(lambda engine: engine.hpke_open(engine.hpke_private(private), sealed, b""))[0]
        == "Refused"
    )


@given(private=keys, public=points)
def test_exchange_agrees(private: bytes, public: bytes) -> None:
    kind, shared = same_outcome(lambda engine: engine.x25519_private(private).exchange(public))
    assert (kind, shared) == same_outcome(lambda engine: engine.x25519(private, public))
    assert (kind == "RefusedKey") == (public in BAD_POINTS)


@given(private=keys, number=st.integers(0, 18))
def test_non_canonical_points_mean_their_reduction(private: bytes, number: int) -> None:
    """RFC 7748 section 5: values from p to 2^255 - 1 are taken, as if reduced; the top bit is ignored."""
    forms = [number, number + PRIME, number + 2**255, number + PRIME + 2**255]
    outcomes = {
        same_outcome(lambda engine, form=form: engine.x25519(private, form.to_bytes(32, "little")))  # type: ignore[misc]
        for form in forms
    }
    assert len(outcomes) == 1


@given(private=keys)
def test_public_keys_agree_and_are_canonical(private: bytes) -> None:
    _, public = same_outcome(lambda engine: engine.x25519_public(private))
    assert isinstance(public, bytes)
    assert int.from_bytes(public, "little") < PRIME
    for engine in ENGINES:
        assert engine.x25519_private(private).public == engine.hpke_private(private).public == public


def test_generated_pairs_fit_and_differ(engine: TunnelEngine) -> None:
    pairs = [engine.generate_x25519() for _ in range(3)]
    assert all(engine.x25519_public(private) == public for private, public in pairs)
    assert len(set(pairs)) == 3


@pytest.mark.parametrize("length", [0, 31, 33])
def test_wrong_lengths(length: int, engine: TunnelEngine) -> None:
    """A private key of the wrong length is our fault; a public one comes from outside and is refused."""
    wrong, good = bytes(length), bytes(range(32))
    for call in (
        engine.x25519_private,
        engine.x25519_public,
        engine.hpke_private,
        engine.ed25519_public,
        lambda private: engine.x25519(private, good),
        lambda private: engine.ed25519_sign(private, b""),
        lambda private: engine.hpke_seal_with_ephemeral(
            engine.x25519_public(good), b"", b"", fixed_ephemeral_for_tests_only=private
        ),
    ):
        with pytest.raises(LocalTunnelError, match=f"{length} bytes, expected 32"):
            call(wrong)
    with pytest.raises(RefusedKey):
        engine.x25519(good, wrong)
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
    public = OPENSSL.x25519_public(private)
    _, sealed = same_outcome(
        lambda engine: engine.hpke_seal_with_ephemeral(
            public, info, plaintext, fixed_ephemeral_for_tests_only=ephemeral
        )
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
    public = OPENSSL.x25519_public(private)
    sealed = bytearray(
        OPENSSL.hpke_seal_with_ephemeral(public, b"", plaintext, fixed_ephemeral_for_tests_only=ephemeral)
    )
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
    """No private key's owner would compute the same key schedule, so nobody could open it."""
    assert same_outcome(lambda engine: engine.hpke_seal(point, b"", b""))[0] == "RefusedKey"


def test_each_seal_is_fresh(engine: TunnelEngine) -> None:
    public = engine.x25519_public(bytes(32))
    sealed = [engine.hpke_seal(public, b"", b"same") for _ in range(4)]
    assert len({data[:32] for data in sealed}) == len({data[32:] for data in sealed}) == 4


# --- Ed25519 -----------------------------------------------------------------------------------------------


@given(seed=keys, message=st.binary(max_size=100))
def test_signatures_agree(seed: bytes, message: bytes) -> None:
    _, public = same_outcome(lambda engine: engine.ed25519_public(seed))
    _, signature = same_outcome(lambda engine: engine.ed25519_sign(seed, message))
    assert isinstance(public, bytes)
    assert isinstance(signature, bytes)
    assert verdict(public, message, signature) == "result"


@given(
    seed=keys,
    message=st.binary(max_size=20),
    field=st.integers(0, 2),
    position=st.integers(0, 10_000),
    change=st.integers(1, 255),
)
def test_any_changed_byte_is_the_same_bad_signature(
    seed: bytes, message: bytes, field: int, position: int, change: int
) -> None:
    parts = [
        bytearray(OPENSSL.ed25519_public(seed)),
        bytearray(message + b"."),
        bytearray(OPENSSL.ed25519_sign(seed, message + b".")),
    ]
    parts[field][position % len(parts[field])] ^= change
    assert verdict(*map(bytes, parts)) == "BadSignature"


@given(
    public=st.one_of(keys, non_canonical), message=st.binary(max_size=20), signature=st.binary(max_size=70)
)
def test_hostile_signatures_are_the_same_refusal(public: bytes, message: bytes, signature: bytes) -> None:
    assert verdict(public, message, signature) == "BadSignature"
    assert verdict(public, message, signature.ljust(64, b"\0")) == "BadSignature"
    assert verdict(public[:31], message, signature) == "BadSignature"


def verdict(public: bytes, message: bytes, signature: bytes) -> str:
    """The outcome's name, the same in both engines; all refusals have one text."""
    name, detail = same_outcome(lambda engine: engine.ed25519_verify(public, message, signature))
    if name != "result":
        assert (name, detail) == outcome(lambda: OPENSSL.ed25519_verify(b"", b"", b""))
    return name


def forge(
    secret: int, nonce: int, message: bytes, *, key: edwards.Point, nonce_extra: edwards.Point
) -> tuple[bytes, int]:
    """Sign as a signer may who breaks the rules: any points as key and nonce. Returns (signature, k)."""
    nonce_point = edwards.encode(edwards.add(edwards.multiply(nonce, edwards.BASE), nonce_extra))
    digest = hashlib.sha512(nonce_point + edwards.encode(key) + message).digest()
    k = int.from_bytes(digest, "little") % edwards.ORDER
    return nonce_point + ((nonce + k * secret) % edwards.ORDER).to_bytes(32, "little"), k


def test_signature_that_only_the_cofactor_lets_pass() -> None:
    """R with a part of order 8: pycryptodome alone takes it, OpenSSL alone does not; here both refuse."""
    secret, nonce, torsion = 12_345, 67_890, edwards.torsion_point()
    key = edwards.multiply(secret, edwards.BASE)
    honest, _ = forge(secret, nonce, b"m", key=key, nonce_extra=edwards.IDENTITY)
    assert verdict(edwards.encode(key), b"m", honest) == "result"

    for multiple in range(1, 8):
        extra = edwards.multiply(multiple, torsion)
        crafted, _ = forge(secret, nonce, b"m", key=key, nonce_extra=extra)
        assert verdict(edwards.encode(key), b"m", crafted) == "BadSignature"


def test_key_of_mixed_order_gets_one_verdict() -> None:
    """A with a part of order 8 fits the equation without the cofactor exactly when 8 divides k."""
    secret, nonce, torsion = 12_345, 67_890, edwards.torsion_point()
    key = edwards.add(edwards.multiply(secret, edwards.BASE), torsion)
    verdicts: dict[bool, set[str]] = {}
    for number in range(40):
        message = b"%d" % number
        signature, k = forge(secret, nonce, message, key=key, nonce_extra=edwards.IDENTITY)
        verdicts.setdefault(k % 8 == 0, set()).add(verdict(edwards.encode(key), message, signature))
    assert verdicts == {True: {"result"}, False: {"BadSignature"}}


def test_identity_as_nonce_point_gets_one_verdict() -> None:
    secret = 12_345
    key = edwards.multiply(secret, edwards.BASE)
    signature, _ = forge(secret, 0, b"m", key=key, nonce_extra=edwards.IDENTITY)
    assert verdict(edwards.encode(key), b"m", signature) == "result"
    # The same point in its other encodings: y = p + 1, and x = 0 with the sign bit.
    for other in ((PRIME + 1).to_bytes(32, "little"), (1 | 1 << 255).to_bytes(32, "little")):
        assert verdict(edwards.encode(key), b"m", other + signature[32:]) == "BadSignature"


def test_keys_of_low_order_are_refused_in_every_encoding() -> None:
    """For A of low order, (s·B, s) fits each message for which k·A vanishes: a key that signs anything."""
    torsion = edwards.torsion_point()
    small = {edwards.multiply(multiple, torsion) for multiple in range(8)}
    assert len(small) == 8
    encodings = {edwards.encode(point) for point in small}
    for point in small:
        for y in (point.y, point.y + PRIME):
            encodings |= {(y | sign << 255).to_bytes(32, "little") for sign in (0, 1) if y < 2**255}
    assert len(encodings) == 8 + 2 + 4, (
        "8 points, the sign bit at x = 0 twice, y = p and p + 1 with both signs"
    )
    for public in encodings:
        assert edwards.decode(public) in small
        for number in range(10):
            nonce_point = edwards.encode(edwards.multiply(5, edwards.BASE))
            assert verdict(public, b"%d" % number, nonce_point + (5).to_bytes(32, "little")) == "BadSignature"


@given(seed=keys, message=st.binary(max_size=20))
def test_s_beyond_the_order_is_refused(seed: bytes, message: bytes) -> None:
    """s + L fits the equation too; RFC 8032 refuses it, or else anyone could make a second signature."""
    signature = OPENSSL.ed25519_sign(seed, message)
    s = int.from_bytes(signature[32:], "little") + edwards.ORDER
    again = signature[:32] + s.to_bytes(32, "little")
    assert verdict(OPENSSL.ed25519_public(seed), message, again) == "BadSignature"


# --- HKDF and the error tree -------------------------------------------------------------------------------


@given(secret=st.binary(min_size=1, max_size=64), label=st.binary(max_size=40), length=st.integers(1, 200))
def test_expand_is_hkdf_with_the_protocols_salt(secret: bytes, label: bytes, length: int) -> None:
    derived = expand(secret, label, length)
    assert derived == hkdf(b"mtun1", secret, label, length)
    assert len(derived) == length
    assert expand(secret, label, 255 * 32)[:length] == derived


def test_expand_separates_labels() -> None:
    labels = [b"header", b"forward", b"backward", b"status mac", b"status pad", b"xor", b""]
    assert len({expand(b"seed", label, 32) for label in labels}) == len(labels)


@pytest.mark.parametrize("length", [-1, 0, 255 * 32 + 1])
def test_hkdf_length_out_of_range(length: int) -> None:
    with pytest.raises(BadParameter):
        hkdf(b"", b"secret", b"", length)


def test_refusals_are_remote_errors() -> None:
    assert all(issubclass(error, CryptoError) for error in (Refused, RefusedKey, BadSignature))
