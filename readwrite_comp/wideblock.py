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
from typing import Protocol

from .errors import BadParameter
from .inplace import InPlaceR, InPlaceW
from .primitives import Engine, checked_key, engine_of

__all__ = ["LEFT_BYTES", "LIONESS_KEY_BYTES", "Lioness", "WideBlockR", "WideBlockW", "WidePermutation"]

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
