"""Wide-block permutations: a whole chunk is one block, and every output bit depends on every input bit.

    WideBlockW(Lioness(keys, block_bytes=16_356), first_tweak=3)

`Lioness` is suite 0, `Hctr` suite 1; `WideBlock` is the layer that applies one of them to each block of its
content. The length stays the same, so a hop cannot see how many layers there are. One changed bit garbles the
whole block, so a marked block cannot be recognised further on. The tweak (the number of the block, u64
big-endian) enters every hash: equal blocks differ on the wire, and a repeated or reordered block becomes
noise.

docs/layers-suites.md compares the suites and derives the bound of HCTR.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from readwrite_comp.errors import BadParameter
from readwrite_comp.helpers import check_number
from readwrite_comp.inplace import InPlaceR, InPlaceW
from readwrite_comp.primitives import (
    NONCE_BYTES,
    SPARE_BYTES,
    TAG_BYTES,
    Engine,
    ReadableBuffer,
    bound_xor,
    checked_key,
    engine_of,
    xor_function,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "HCTR_KEY_BYTES",
    "LEFT_BYTES",
    "LIONESS_KEY_BYTES",
    "Hctr",
    "Lioness",
    "PolynomialHash",
    "WideBlockR",
    "WideBlockW",
    "WidePermutation",
]

LIONESS_KEY_BYTES = 128
HCTR_KEY_BYTES = 64
# The left half of LIONESS, and the first block of HCTR.
LEFT_BYTES = 32
_AES_BYTES = 16
_TWEAK_BYTES = 8
_MAX_TWEAK = 2**64 - 1
_MAX_BLOCK_BYTES = 2**31 - 1
_sha256 = hashlib.sha256


class WidePermutation(Protocol):
    """A tweaked permutation of blocks of one size, in place."""

    @property
    def block_bytes(self) -> int:
        """The length of every block."""
        ...

    def encrypt(self, view: memoryview, tweak: int) -> None:
        """Permute one block in place.

        Args:
            view: writable, exactly `block_bytes` long.
            tweak: the number of the block, 0 to 2^64 - 1.
        Raises:
            BadParameter: wrong length, read-only view, or tweak out of range.
        On error: nothing changes.
        """
        ...

    def decrypt(self, view: memoryview, tweak: int) -> None:
        """Undo `encrypt` of the same tweak in place."""
        ...


def _checked_tweak(view: memoryview, block_bytes: int, tweak: int) -> bytes:
    """Check the arguments of a permutation; return the tweak as it is hashed."""
    if len(view) != block_bytes or view.nbytes != block_bytes:
        raise BadParameter(f"block is {view.nbytes} bytes, expected a view of {block_bytes}")
    if view.readonly:
        raise BadParameter("the block is read-only, expected a writable view: it is permuted in place")
    try:
        return tweak.to_bytes(_TWEAK_BYTES, "big")
    except OverflowError:
        raise BadParameter(f"tweak {tweak} is outside 0 to 2^64 - 1") from None


class Lioness:
    """Suite 0: four unbalanced Feistel rounds of AES-256-CTR and SHA-256.

    With L the first 32 bytes, R the rest, t the tweak and k0 … k3 the round keys:
    S(i, L, x) = x XOR AES-256-CTR keystream under SHA-256(kᵢ ‖ t ‖ L), counter block 0; H(i, R) = SHA-256(kᵢ
    ‖ t ‖ R).
    encrypt: R = S(0, L, R); L ^= H(1, R); R = S(2, L, R); L ^= H(3, R). decrypt: the same backwards.

    The original's keys k ⊕ L were rejected: with AES as the stream cipher they are related keys. Here each
    round hashes key, tweak and half into a fresh AES key, at the cost of a hash of 72 bytes for each of the
    two cipher rounds. An object holds no state between calls: it may serve any number of streams and both
    directions.

    Args:
        keys: k0 ‖ k1 ‖ k2 ‖ k3, 128 bytes.
        block_bytes: length of every block, more than 32.
        engine: where AES comes from, or its name; by default the preferred one.
    Raises:
        BadParameter: a length is out of range. TypeError: an argument of another kind.
    Source: Anderson, Biham, "Two Practical and Provably Secure Block Ciphers: BEAR and LION" (1996); the
        tweak and the key derivation as in docs/protocol.md, "Wide-block layer".
    """

    __slots__ = ("_keys", "_xor_keystream", "block_bytes")

    def __init__(self, keys: bytes, block_bytes: int, engine: Engine | str | None = None) -> None:
        keys = checked_key(keys, LIONESS_KEY_BYTES, "keys")
        check_number(block_bytes, "block_bytes", LEFT_BYTES + 1, _MAX_BLOCK_BYTES)
        self._keys = (keys[:32], keys[32:64], keys[64:96], keys[96:])
        self._xor_keystream = engine_of(engine).xor_keystream
        self.block_bytes = block_bytes

    def encrypt(self, view: memoryview, tweak: int) -> None:
        """Permute one block in place: see `WidePermutation.encrypt`."""
        key0, key1, key2, key3 = self._keys
        number = _checked_tweak(view, self.block_bytes, tweak)
        left, right = view[:LEFT_BYTES], view[LEFT_BYTES:]
        xor_keystream = self._xor_keystream
        # The left half stays a number between the rounds: XOR of 32 bytes has no cheaper form in Python.
        xor_keystream(_sha256(key0 + number + left).digest(), right)
        digest = _sha256(key1 + number)
        digest.update(right)
        half = int.from_bytes(left, "big") ^ int.from_bytes(digest.digest(), "big")
        xor_keystream(_sha256(key2 + number + half.to_bytes(LEFT_BYTES, "big")).digest(), right)
        digest = _sha256(key3 + number)
        digest.update(right)
        left[:] = (half ^ int.from_bytes(digest.digest(), "big")).to_bytes(LEFT_BYTES, "big")

    def decrypt(self, view: memoryview, tweak: int) -> None:
        """Undo `encrypt` of the same tweak in place."""
        key0, key1, key2, key3 = self._keys
        number = _checked_tweak(view, self.block_bytes, tweak)
        left, right = view[:LEFT_BYTES], view[LEFT_BYTES:]
        xor_keystream = self._xor_keystream
        half = int.from_bytes(left, "big")
        digest = _sha256(key3 + number)
        digest.update(right)
        half ^= int.from_bytes(digest.digest(), "big")
        xor_keystream(_sha256(key2 + number + half.to_bytes(LEFT_BYTES, "big")).digest(), right)
        digest = _sha256(key1 + number)
        digest.update(right)
        half ^= int.from_bytes(digest.digest(), "big")
        plain_left = half.to_bytes(LEFT_BYTES, "big")
        xor_keystream(_sha256(key0 + number + plain_left).digest(), right)
        left[:] = plain_left


class PolynomialHash:
    """The hash H of `Hctr`: GHASH of texts of one length, with h = AES-256(key, zero block).

    The libraries offer it only as GMAC, which hashes the text as *associated data*: the length is in the
    other half of the last block, and a mask is added. Both differences depend on the key and the length
    alone, so they are one constant, found with the library's own GCM and no field arithmetic here.

    Its values must stay inside a mode that hides them: two of them reveal h.

    Args:
        key: 32 bytes that serve for nothing else.
        text_bytes: the length of every text.
        engine: where GCM comes from.
    Raises:
        BadParameter: `key` has a wrong length.
    Source: NIST SP 800-38D, 6.4 (GHASH) and 7.1 (where GCM uses it).
    """

    __slots__ = ("_correction", "_gmac", "text_bytes")

    def __init__(self, key: bytes, text_bytes: int, engine: Engine) -> None:
        self.text_bytes = text_bytes
        self._gmac = engine.gmac(key)
        # The tag of zero bytes is the hash of their length plus the mask: |A| ‖ 0 as associated data, 0 ‖ |A|
        # as ciphertext; the tag of an empty text is the mask alone. The ciphertext is zero where the
        # plaintext is the keystream. One nonce may serve for all this: nothing of it leaves the object.
        aead, nonce, zeros = engine.aead(key), bytes(NONCE_BYTES), bytes(text_bytes)
        keystream = aead.seal(nonce, zeros)[:-TAG_BYTES]
        tags = (aead.seal(nonce, keystream)[-TAG_BYTES:], self._gmac(zeros), self._gmac(b""))
        self._correction = 0
        for tag in tags:
            self._correction ^= int.from_bytes(tag, "big")

    def of(self, text: ReadableBuffer) -> int:
        """Return H(text) as a big-endian number; wrong, and not checked, for a text of another length."""
        return int.from_bytes(self._gmac(text), "big") ^ self._correction


def _count(rest_bytes: int) -> int:
    return -(-rest_bytes // _AES_BYTES)


@lru_cache(maxsize=8)
def _indices(count: int) -> bytes:
    """The blocks [1] … [count]."""
    return b"".join(index.to_bytes(_AES_BYTES, "big") for index in range(1, count + 1))


class _Scratch:
    """The buffers of one call: the rest of the block with the tweak behind it (GMAC takes one buffer only),
    and the blocks that become the keystream. Views and XORs are made once.
    """

    __slots__ = ("add_indices", "add_stream", "blocks", "rest", "spacious", "text", "tweak")

    def __init__(self, rest_bytes: int) -> None:
        self.text = memoryview(bytearray(rest_bytes + _TWEAK_BYTES))
        self.rest = self.text[:rest_bytes]
        self.tweak = self.text[rest_bytes:]
        count = _count(rest_bytes)
        self.spacious = memoryview(bytearray(count * _AES_BYTES + SPARE_BYTES))
        self.blocks = self.spacious[:-SPARE_BYTES]
        self.add_indices = bound_xor(self.blocks, memoryview(_indices(count)))
        self.add_stream = bound_xor(self.rest, self.spacious[:rest_bytes])


@lru_cache(maxsize=8)
def _scratches(rest_bytes: int) -> list[_Scratch]:
    """The free buffers of one block length, shared by all objects.

    Separate buffers would cost each layer of each stream two blocks of memory; new ones for each call cost
    up to a twelfth of its time. A call takes a buffer from the list or makes one, and returns it, so there
    are at most as many as threads. The content of the last block stays in the buffer until the next call.
    """
    return []


class Hctr:
    """Suite 1: HCTR, one pass of AES-256 and two of a polynomial hash.

    With M1 the first 16 bytes of the block, N the rest, T the tweak, E = AES-256 under k1 and [i] the number
    i in 16 bytes, big-endian::

        X = M1 ⊕ H(N ‖ T);  Y = E(X);  S = X ⊕ Y
        V = N ⊕ (E(S ⊕ [1]) ‖ E(S ⊕ [2]) ‖ …);  the result is (Y ⊕ H(V ‖ T)) ‖ V

    The counter is XORed, not added: it is not the CTR mode of the libraries. H is GHASH of the *ciphertext* A
    without associated data, which is the paper's A1·h^(b+1) ⊕ … ⊕ Ab·h² ⊕ [|A|]·h in GF(2^128).

    Deviation: the paper draws h at random; here h = AES-256(k2, zero block), as in GCM, because no library
    takes h itself. The distance from a random permutation is less than 3σ²/2^128 for σ blocks of 16 bytes,
    **if a key serves for one block length only**.

    An object keeps nothing between calls but the prepared keys: it may serve any number of streams and both
    directions, in one thread at a time.

    Args:
        keys: k1 ‖ k2, 64 bytes, independent keys of AES-256 for this `block_bytes` only.
        block_bytes: length of every block, more than 16.
        engine: where AES and GCM come from; by default the preferred one.
    Raises:
        BadParameter: a length is out of range. TypeError: an argument of another kind.
        EngineUnavailable: pycryptodome, which XORs for both engines, is missing.
    Source: Wang, Feng, Wu, "HCTR: A Variable-Input-Length Enciphering Mode" (2005).
    """

    __slots__ = (
        "_count",
        "_decrypt",
        "_encrypt",
        "_encrypt_blocks",
        "_hash",
        "_scratches",
        "block_bytes",
    )

    def __init__(self, keys: bytes, block_bytes: int, engine: Engine | str | None = None) -> None:
        keys = checked_key(keys, HCTR_KEY_BYTES, "keys")
        check_number(block_bytes, "block_bytes", _AES_BYTES + 1, _MAX_BLOCK_BYTES)
        engine = engine_of(engine)
        rest_bytes = block_bytes - _AES_BYTES
        cipher = engine.block_cipher(keys[:32])
        self.block_bytes = block_bytes
        self._encrypt, self._decrypt, self._encrypt_blocks = (
            cipher.encrypt,
            cipher.decrypt,
            cipher.encrypt_blocks,
        )
        self._hash = PolynomialHash(keys[32:], rest_bytes + _TWEAK_BYTES, engine).of
        self._count = _count(rest_bytes)
        self._scratches = _scratches(rest_bytes)
        xor_function()  # raises here, not at the first block, if it is missing

    def encrypt(self, view: memoryview, tweak: int) -> None:
        """Permute one block in place: see `WidePermutation.encrypt`."""
        self._permute(view, tweak, self._encrypt)

    def decrypt(self, view: memoryview, tweak: int) -> None:
        """Undo `encrypt` of the same tweak in place."""
        self._permute(view, tweak, self._decrypt)

    def _permute(self, view: memoryview, tweak: int, cipher: Callable[[bytes], bytes]) -> None:
        """Both directions: X and Y change places, so they differ in `cipher` only."""
        number = _checked_tweak(view, self.block_bytes, tweak)
        first, rest = view[:_AES_BYTES], view[_AES_BYTES:]
        try:
            scratch = self._scratches.pop()
        except IndexError:
            scratch = _Scratch(len(rest))
        scratch.rest[:] = rest
        scratch.tweak[:] = number
        # Blocks are numbers between the steps: XOR of 16 bytes has no cheaper form in Python.
        inner = int.from_bytes(first, "big") ^ self._hash(scratch.text)
        outer = int.from_bytes(cipher(inner.to_bytes(_AES_BYTES, "big")), "big")
        seed = (inner ^ outer).to_bytes(_AES_BYTES, "big")
        scratch.blocks[:] = seed * self._count
        scratch.add_indices()
        self._encrypt_blocks(scratch.spacious)
        scratch.add_stream()
        first[:] = (outer ^ self._hash(scratch.text)).to_bytes(_AES_BYTES, "big")
        rest[:] = scratch.rest
        self._scratches.append(scratch)


# The layer. Format: block*, each of the permutation's `block_bytes`, the last padded with zero bytes; block t
# of a message has the tweak `first_tweak` + t. No header and no end mark: the reader knows the length, or an
# inner layer does.
#
# `inverse=True` applies the inverse when writing: a proxy removes a layer from a query and adds one to a
# reply with the same operation, and the far end undoes it with the reader of the same setting.


class _Blocks:
    """One direction of a permutation with its running tweak, as a transform."""

    header_bytes = 0

    def __init__(self, permutation: WidePermutation, first_tweak: int, *, is_encrypting: bool) -> None:
        if not callable(getattr(permutation, "encrypt", None)) or isinstance(permutation, type):
            raise TypeError(f"permutation: expected a Lioness, a Hctr or one like them, got {permutation!r}")
        check_number(first_tweak, "first_tweak", 0, _MAX_TWEAK)
        self.block_bytes = permutation.block_bytes
        self._permute = permutation.encrypt if is_encrypting else permutation.decrypt
        self._first_tweak = first_tweak
        self._tweak = first_tweak

    def begin_write(self) -> bytes:
        self._tweak = self._first_tweak
        return b""

    def begin_read(self, header: bytes) -> None:
        self._tweak = self._first_tweak

    def apply(self, view: memoryview) -> None:
        self._permute(view, self._tweak)
        self._tweak += 1

    def apply_into(self, source: memoryview, out: memoryview) -> None:
        out[:] = source
        self.apply(out)


class WideBlockW(InPlaceW):
    """Writes content as permuted blocks. Ends: PADDED. A partial block cannot be flushed.

    Args:
        permutation: a `Lioness` or `Hctr`; one object may serve any number of layers.
        first_tweak: the tweak of each message's first block.
        inverse: apply the inverse of the permutation.
    """

    def __init__(self, permutation: WidePermutation, *, first_tweak: int = 0, inverse: bool = False) -> None:
        super().__init__([_Blocks(permutation, first_tweak, is_encrypting=not inverse)])


class WideBlockR(InPlaceR):
    """Reads what `WideBlockW` with the same arguments wrote. Ends: PADDED."""

    def __init__(self, permutation: WidePermutation, *, first_tweak: int = 0, inverse: bool = False) -> None:
        super().__init__([_Blocks(permutation, first_tweak, is_encrypting=inverse)])
