"""The layer that changes nothing: a placeholder in stacks whose depth is fixed, and the smallest example of a
layer.
"""

from __future__ import annotations

from .base import ExtRead, ExtWrite

__all__ = ["IdentityR", "IdentityW"]


class IdentityW(ExtWrite):
    """Passes content on as it is: no header, no end. Ends: NEVER."""


class IdentityR(ExtRead):
    """Passes content on as it is: no header, no end. Ends: NEVER."""
