"""Wide-block permutations: a whole chunk is one block, and every output bit depends on every input bit.

Suite 0, LIONESS, is here, and `WideBlock`, the layer that applies a permutation to each block of its
content. A permutation is length-preserving, so a layer of it leaves no place where a hop
could see how many layers there are; and since one changed bit garbles the whole block, nobody can mark a
block and know it again further on.

The tweak (the number of the block, u64 big-endian) goes into every round's hash, so equal blocks differ on
the wire and a repeated or reordered block turns into noise.

Rejected: the keys k ⊕ L of the original LIONESS. With AES as the stream cipher that is a related-key use;
here each round hashes key, tweak and half into a fresh AES key. It costs a hash of 72 bytes for each of the
two cipher rounds.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from readwrite_comp.errors import BadParameter
from readwrite_comp.inplace import InPlaceR, InPlaceW
from readwrite_comp.primitives import (
    NONCE_BYTES,
    SPARE_BYTES,
    TAG_BYTES,
    Engine,
    ReadableBuffer,
    WideEngine,
    bound_xor,
    checked_key,
    engine_of,
    get_engine,
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
    "advantage_log2",
]

LEFT_BYTES = 32
LIONESS_KEY_BYTES = 128
_sha256 = hashlib.sha256


class WidePermutation(Protocol):
    """A tweaked permutation of blocks of one size, in place."""

    @property
    def block_bytes(self) -> int:
        """The length of every block."""
        ...

    def encrypt(self, view: memoryview, tweak: int) -> None:
        """Permute `view` in place."""
        ...

    def decrypt(self, view: memoryview, tweak: int) -> None:
        """Undo `encrypt` with the same tweak, in place."""
        ...


class Lioness:
    """Suite 0: four unbalanced Feistel rounds of AES-256-CTR and SHA-256.

    With L the first 32 bytes, R the rest, t the tweak and k0 … k3 the round keys:
    S(i, L, x) = x XOR AES-256-CTR keystream under SHA-256(kᵢ ‖ t ‖ L), counter block 0; H(i, R) = SHA-256(kᵢ
    ‖ t ‖ R).
    encrypt: R = S(0, L, R); L ^= H(1, R); R = S(2, L, R); L ^= H(3, R). decrypt: the same backwards.

    Holds no state between calls: one object may serve any number of streams, and both directions.

    Args:
        keys: k0 ‖ k1 ‖ k2 ‖ k3, 128 bytes.
        block_bytes: length of every block, more than 32.
        engine: where AES comes from, or its name; by default the preferred one.
    Raises:
        BadParameter: a length is out of range.
    Source: Anderson, Biham, "Two Practical and Provably Secure Block Ciphers: BEAR and LION" (1996); the
        tweak and the key derivation as in docs/protocol.md, "Wide-block layer".
    """

    __slots__ = ("_keys", "_xor_keystream", "block_bytes")

    def __init__(self, keys: bytes, block_bytes: int, engine: Engine | str | None = None) -> None:
        keys = checked_key(keys, LIONESS_KEY_BYTES, "keys")
        if block_bytes <= LEFT_BYTES:
            raise BadParameter(f"block of {block_bytes} bytes, expected more than {LEFT_BYTES}")
        self._keys = (keys[:32], keys[32:64], keys[64:96], keys[96:])
        self._xor_keystream = engine_of(engine).xor_keystream
        self.block_bytes = block_bytes

    def encrypt(self, view: memoryview, tweak: int) -> None:
        """Permute one block in place.

        Args:
            view: writable, exactly `block_bytes` long.
            tweak: the number of the block, 0 to 2^64 - 1.
        Raises:
            BadParameter: wrong length, read-only view, or tweak out of range.
        On error: nothing changes.
        """
        key0, key1, key2, key3 = self._keys
        number = self._checked_tweak(view, tweak)
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
        """Undo `encrypt` of the same tweak in place. Arguments and errors as there."""
        key0, key1, key2, key3 = self._keys
        number = self._checked_tweak(view, tweak)
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

    def _checked_tweak(self, view: memoryview, tweak: int) -> bytes:
        if len(view) != self.block_bytes or view.nbytes != self.block_bytes:
            raise BadParameter(f"block is {view.nbytes} bytes, expected a view of {self.block_bytes}")
        if view.readonly:
            raise BadParameter("the block is read-only, expected a writable view: it is permuted in place")
        try:
            return tweak.to_bytes(8, "big")
        except OverflowError:
            raise BadParameter(f"tweak {tweak} is outside 0 to 2^64 - 1") from None


# The layer. Format: block*, each of the permutation's `block_bytes`; the content is padded with zero bytes
# to whole
# blocks, and block t of a message has the tweak `first_tweak` + t. No header, no end mark: the reader knows
# the length, or a layer inside does.
#
# `inverse=True` applies the permutation's inverse when writing: a proxy takes a layer off a query and puts
# one onto a reply with the same operation, and the far end undoes it with the reader of the same setting.


class _Blocks:
    """One direction of a permutation with its running tweak, as a transform."""

    header_bytes = 0

    def __init__(self, permutation: WidePermutation, first_tweak: int, *, is_encrypting: bool) -> None:
        if not 0 <= first_tweak < 2**64:
            raise BadParameter(f"first tweak {first_tweak} is outside 0 to 2^64 - 1")
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
        permutation: for instance `Lioness`; it keeps no state, so one object may serve any number of layers.
        first_tweak: the tweak of each message's first block.
        inverse: apply the inverse of the permutation.
    """

    def __init__(self, permutation: WidePermutation, *, first_tweak: int = 0, inverse: bool = False) -> None:
        super().__init__([_Blocks(permutation, first_tweak, is_encrypting=not inverse)])


class WideBlockR(InPlaceR):
    """Reads what `WideBlockW` with the same arguments wrote. Ends: PADDED."""

    def __init__(self, permutation: WidePermutation, *, first_tweak: int = 0, inverse: bool = False) -> None:
        super().__init__([_Blocks(permutation, first_tweak, is_encrypting=inverse)])


# Suite 1 of the wide blocks: HCTR, a published mode that is built of AES and a polynomial hash.
#
# It makes one pass of AES and two of the hash over a block where LIONESS (`wideblock`) makes two of AES and
# two of SHA-256, and AES and this hash are instructions of the processor.
#
# Exactly as published --------------------
#
# HCTR (Wang, Feng, Wu 2005), with M1 the first 16 bytes of the block, N the rest, T the tweak (the block's
# number, u64 big-endian: a tweak of fixed length, as the paper demands), E = AES-256 and [i] the number i
# in 16 bytes, big-endian::
#
#     X = M1 ⊕ H(N ‖ T);  Y = E(X);  S = X ⊕ Y
#     V = N ⊕ (E(S ⊕ [1]) ‖ E(S ⊕ [2]) ‖ …);  C1 = Y ⊕ H(V ‖ T);  the result is C1 ‖ V
#
# The paper calls the keystream CTR. Its counter is XORed, not added: it is not the CTR mode of the
# libraries.
#
# The paper's hash of a text A = A1 ‖ … ‖ Ab (the last filled up with zero bits) of |A| bits is H(A) =
# A1·h^(b+1) ⊕ … ⊕ Ab·h² ⊕ [|A|]·h in GF(2^128). **This is GHASH(h; no associated data, ciphertext A)**,
# whose last block is u64 zero ‖ u64 |A|, the same as [|A|]. Bits stand for polynomials as in GCM (the
# proofs hold for any such choice); so does another implementation, of HCTR with SM4 as GB/T 17964-2021 has
# it, whose example the tests compare. docs/layers-suites.md says what else the definition was checked
# against.
#
# GMAC, which the libraries offer, hashes A as *associated data*: its last block is |A| ‖ zero, and a mask
# is added. `PolynomialHash` takes both differences away. They depend on the key and on the length alone, so
# they are one constant, found with the library's own GCM and without a multiplication of ours.
#
# Deviation: the paper draws h at random. Here h = AES-256(k2, zero block), as in GCM, since no library
# takes h itself. It is one output of AES under a key of its own, so all the difference is that AES is not a
# random permutation.
#
# The bound ---------
#
# The paper proves a cubic bound. Chakraborty and Nandi (2008) claim 4.5 σ²/2^128 for σ blocks of 16 bytes, bu
# **their proof has a gap** (Crowley, Huckleberry, Biggers, "Length-preserving encryption with HCTR2", 2021,
# section "HCTR issues"): the probability that X of one query meets S ⊕ [i] of another grows with the length o
# the longer one, and when lengths are mixed the sum is cubic again. With one length for all queries it stays
# quadratic. An `Hctr` has one block length, and **a key must serve for one block length only**. Then, counted
# anew, for q blocks enciphered or deciphered, l = blocks of 16 bytes in N and d = degree of H:
#
# * X against X, Y against Y: q²/2 pairs each, d/2^128 for each pair (inputs of one length that differ, or a
#   fresh random half);
# * X against S ⊕ [i], Y against N_i ⊕ V_i: q²·l pairs each, at most d/2^128: one of the parts is fresh, or h
#   is a root of a polynomial that is not zero, as it has |A| once or thrice as the coefficient of h;
# * S ⊕ [i] against S' ⊕ [j]: q²/2 pairs of blocks, at most 2l values of i ⊕ j, 1/2^128 for each;
# * N_i ⊕ V_i against N_j ⊕ V_j: (ql)²/2 pairs, 1/2^128 for each.
#
# Unless such a pair meets, the real answers are at least as likely as random ones. So (H-coefficient
# method) the advantage in telling it from a random tweakable permutation is at most q²·(d + 2ld + l +
# l²/2)/2^128, and q²/2^(8·block_bytes + 1) for permutations beside random answers. That is **less than 3
# σ²/2^128** for every block length, σ counting the blocks of 16 bytes in all q blocks. To it come the
# advantages against AES-256, under k1 in both directions and under k2 for the one output h. For our chunks
# `advantage_log2` gives:
#
# ============  ==============  ==============  ==============  ==================
# block         1 GiB           1 TiB           1 PiB           2^-32 reached at
# ============  ==============  ==============  ==============  ==================
# 16,356        2^-74.7         2^-54.7         2^-34.7         2.5 PiB
# 64,484        2^-74.7         2^-54.7         2^-34.7         2.5 PiB
# ============  ==============  ==============  ==============  ==================
#
# Each key of each layer counts by itself; the advantage against many keys is at most the sum. This counting
# is ours and has no other reviewer than the reader; the gap and that a bound on the length mends it are
# published.
HCTR_KEY_BYTES = 64
BLOCK_BYTES = 16
TWEAK_BYTES = 8


class PolynomialHash:
    """H of the module's text: GHASH of texts of one length, under h = AES-256(key, zero block).

    Its values must stay inside a mode that hides them: two of them give the key h away.

    Args:
        key: 32 bytes that serve for nothing else.
        text_bytes: the length of every text.
        engine: where GCM comes from.
    Raises:
        BadParameter: `key` has a wrong length.
    Source: NIST SP 800-38D, 6.4 (GHASH) and 7.1 (where GCM uses it).
    """

    __slots__ = ("_correction", "_gmac", "text_bytes")

    def __init__(self, key: bytes, text_bytes: int, engine: WideEngine) -> None:
        self.text_bytes = text_bytes
        self._gmac = engine.gmac(key)
        # For zero bytes only the length and the mask are left of a tag: |A| ‖ 0 hashed as associated data,
        # 0 ‖ |A| as ciphertext; of an empty text the mask alone. The ciphertext is zero where the plaintext
        # is the keystream. One nonce serves all of it: nothing of this leaves the object.
        aead, nonce, zeros = engine.aead(key), bytes(NONCE_BYTES), bytes(text_bytes)
        keystream = aead.seal(nonce, zeros)[:-TAG_BYTES]
        tags = (aead.seal(nonce, keystream)[-TAG_BYTES:], self._gmac(zeros), self._gmac(b""))
        self._correction = 0
        for tag in tags:
            self._correction ^= int.from_bytes(tag, "big")

    def of(self, text: ReadableBuffer) -> int:
        """Return H(text) as a big-endian number. Its length is not checked: for another one it is wrong."""
        return int.from_bytes(self._gmac(text), "big") ^ self._correction


def _count(rest_bytes: int) -> int:
    return -(-rest_bytes // BLOCK_BYTES)


@lru_cache(maxsize=8)
def _indices(count: int) -> bytes:
    """The blocks [1] … [count]."""
    return b"".join(index.to_bytes(BLOCK_BYTES, "big") for index in range(1, count + 1))


class _Scratch:
    """Where one call works: the rest of the block with the tweak behind it (GMAC takes one buffer only), and
    the blocks that become the keystream. The views, and the XORs of them, are made once.
    """

    __slots__ = ("add_indices", "add_stream", "blocks", "rest", "spacious", "text", "tweak")

    def __init__(self, rest_bytes: int) -> None:
        self.text = memoryview(bytearray(rest_bytes + TWEAK_BYTES))
        self.rest = self.text[:rest_bytes]
        self.tweak = self.text[rest_bytes:]
        count = _count(rest_bytes)
        self.spacious = memoryview(bytearray(count * BLOCK_BYTES + SPARE_BYTES))
        self.blocks = self.spacious[:-SPARE_BYTES]
        self.add_indices = bound_xor(self.blocks, memoryview(_indices(count)))
        self.add_stream = bound_xor(self.rest, self.spacious[:rest_bytes])


@lru_cache(maxsize=8)
def _scratches(rest_bytes: int) -> list[_Scratch]:
    """Those that no call uses now, shared by all objects of one block length.

    Each object with its own would cost every layer of every stream two blocks of memory; a new one for each
    call costs up to a twelfth of its time. A call takes one out, or makes one, and puts it back: there are no
    more than threads, and no two calls have the same. The last block stays in it until the next call.
    """
    return []


class Hctr:
    """Suite 1: HCTR with AES-256, its hash and its bound as in the module's text.

    Keeps nothing between calls but the prepared keys: one object may serve any number of streams, and both
    directions, in one thread at a time.

    Args:
        keys: k1 ‖ k2, 64 bytes: the AES-256 key of the block cipher, and the one that h is derived with. They
            must be independent, and serve for this `block_bytes` only.
        block_bytes: length of every block, more than 16.
        engine: where AES and GCM come from; by default the preferred one.
    Raises:
        BadParameter: a length is out of range.
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

    def __init__(self, keys: bytes, block_bytes: int, engine: WideEngine | str | None = None) -> None:
        keys = checked_key(keys, HCTR_KEY_BYTES, "keys")
        if block_bytes <= BLOCK_BYTES:
            raise BadParameter(f"block of {block_bytes} bytes, expected more than {BLOCK_BYTES}")
        if engine is None or isinstance(engine, str):
            engine = get_engine(engine or "auto")
        rest_bytes = block_bytes - BLOCK_BYTES
        cipher = engine.block_cipher(keys[:32])
        self.block_bytes = block_bytes
        self._encrypt, self._decrypt, self._encrypt_blocks = (
            cipher.encrypt,
            cipher.decrypt,
            cipher.encrypt_blocks,
        )
        self._hash = PolynomialHash(keys[32:], rest_bytes + TWEAK_BYTES, engine).of
        self._count = _count(rest_bytes)
        self._scratches = _scratches(rest_bytes)
        xor_function()  # so that it is missing here and not at the first block

    def encrypt(self, view: memoryview, tweak: int) -> None:
        """Permute one block in place.

        Args:
            view: writable, exactly `block_bytes` long.
            tweak: the number of the block, 0 to 2^64 - 1.
        Raises:
            BadParameter: wrong length, read-only view, or tweak out of range.
        On error: nothing changes.
        """
        self._permute(view, tweak, self._encrypt)

    def decrypt(self, view: memoryview, tweak: int) -> None:
        """Undo `encrypt` of the same tweak in place. Arguments and errors as there."""
        self._permute(view, tweak, self._decrypt)

    def _permute(self, view: memoryview, tweak: int, cipher: Callable[[bytes], bytes]) -> None:
        """Both directions: they differ in that of the one block only, as X and Y change places."""
        if len(view) != self.block_bytes or view.nbytes != self.block_bytes:
            raise BadParameter(f"block is {view.nbytes} bytes, expected a view of {self.block_bytes}")
        if view.readonly:
            raise BadParameter("the block is read-only, expected a writable view: it is permuted in place")
        try:
            number = tweak.to_bytes(TWEAK_BYTES, "big")
        except OverflowError:
            raise BadParameter(f"tweak {tweak} is outside 0 to 2^64 - 1") from None
        first, rest = view[:BLOCK_BYTES], view[BLOCK_BYTES:]
        try:
            scratch = self._scratches.pop()
        except IndexError:
            scratch = _Scratch(len(rest))
        scratch.rest[:] = rest
        scratch.tweak[:] = number
        # Blocks are numbers between the steps: XOR of 16 bytes has no cheaper form in Python.
        inner = int.from_bytes(first, "big") ^ self._hash(scratch.text)
        outer = int.from_bytes(cipher(inner.to_bytes(BLOCK_BYTES, "big")), "big")
        seed = (inner ^ outer).to_bytes(BLOCK_BYTES, "big")
        scratch.blocks[:] = seed * self._count
        scratch.add_indices()
        self._encrypt_blocks(scratch.spacious)
        scratch.add_stream()
        first[:] = (outer ^ self._hash(scratch.text)).to_bytes(BLOCK_BYTES, "big")
        rest[:] = scratch.rest
        self._scratches.append(scratch)


def advantage_log2(block_bytes: int, blocks: int) -> float:
    """Return the binary logarithm of the bound of the module's text, the parts of AES left out.

    Args:
        block_bytes: as for `Hctr`.
        blocks: how many blocks were enciphered or deciphered under one key, at least 1.
    """
    length = -(-(block_bytes - BLOCK_BYTES) // BLOCK_BYTES)
    degree = 1 + -(-(block_bytes - BLOCK_BYTES + TWEAK_BYTES) // BLOCK_BYTES)
    factor = degree + 2 * length * degree + length + length**2 / 2
    return 2 * math.log2(blocks) + math.log2(factor) - 8 * BLOCK_BYTES
