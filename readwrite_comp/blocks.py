"""`WideBlock`: a layer that sends each block of its content through a wide-block permutation, in place.

Format: block*, each of the permutation's `block_bytes`; the content is padded with zero bytes to whole
blocks, and block t of a message has the tweak `first_tweak` + t. No header, no end mark: the reader knows the
length, or a layer inside does.

`inverse=True` applies the permutation's inverse when writing: a proxy takes a layer off a query and puts one
onto a reply with the same operation, and the far end undoes it with the reader of the same setting.
"""

from __future__ import annotations

from .errors import BadParameter
from .inplace import InPlaceR, InPlaceW
from .wideblock import WidePermutation

__all__ = ["WideBlockR", "WideBlockW"]


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
