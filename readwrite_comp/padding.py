"""What the limiters share: what padding is made of, and how large a window may be."""

from __future__ import annotations

from enum import Enum, auto

from .errors import BadParameter
from .hashes import random_bytes

__all__ = ["MAX_WINDOW_BYTES", "Padding", "check_window"]

# The top bit of a written length is kept free: it means "the last".
MAX_WINDOW_BYTES = 2**31 - 1


class Padding(Enum):
    """What padding is made of."""

    ZERO = auto()
    """Zero bytes: cheap, and checked by readers that know it; for use inside a cipher."""

    RANDOM = auto()
    """Random bytes, ignored by the reader."""

    @classmethod
    def of(cls, padding: Padding | str) -> Padding:
        """Return the padding itself, or the one of that name, in any case.

        Raises:
            BadParameter: there is none of that name.
        """
        if isinstance(padding, cls):
            return padding
        try:
            return cls[padding.strip().upper()]  # type: ignore[union-attr]
        except (AttributeError, KeyError):
            names = ", ".join(member.name.lower() for member in cls)
            raise BadParameter(f"padding {padding!r}, expected one of {names}") from None

    def make(self, count: int) -> bytes:
        """Return `count` bytes of padding."""
        return bytes(count) if self is Padding.ZERO else random_bytes(count)


def check_window(window_bytes: int) -> None:
    """Raises BadParameter: `window_bytes` is outside 1 to `MAX_WINDOW_BYTES`."""
    if not 1 <= window_bytes <= MAX_WINDOW_BYTES:
        raise BadParameter(f"window of {window_bytes} bytes, expected 1 to {MAX_WINDOW_BYTES}")
