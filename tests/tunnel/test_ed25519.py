"""Signatures: both engines agree, also about forged ones that no library would make."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from tests.support import edwards
from tests.support.engines import OPENSSL, PRIME, keys, non_canonical, outcome, same_outcome


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
    """Sign against the rules, with any points as key and nonce. Returns (signature, k)."""
    nonce_point = edwards.encode(edwards.add(edwards.multiply(nonce, edwards.BASE), nonce_extra))
    digest = hashlib.sha512(nonce_point + edwards.encode(key) + message).digest()
    k = int.from_bytes(digest, "little") % edwards.ORDER
    return nonce_point + ((nonce + k * secret) % edwards.ORDER).to_bytes(32, "little"), k


def test_signature_that_only_the_cofactor_lets_pass() -> None:
    """R with a part of order 8: pycryptodome itself accepts it, OpenSSL does not; here both refuse."""
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
    """s + L fits the equation too. RFC 8032 refuses it, because anyone could make a second signature."""
    signature = OPENSSL.ed25519_sign(seed, message)
    s = int.from_bytes(signature[32:], "little") + edwards.ORDER
    again = signature[:32] + s.to_bytes(32, "little")
    assert verdict(OPENSSL.ed25519_public(seed), message, again) == "BadSignature"
