"""Expect a `PeerError` by its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tunnel.errors import ErrorCode, PeerError

__all__ = ["raises_code"]


@contextmanager
def raises_code(code: ErrorCode, *, match: str | None = None) -> Iterator[pytest.ExceptionInfo[PeerError]]:
    """The block must raise a plain `PeerError` with this code; a subclass does not count."""
    with pytest.raises(PeerError, match=match) as caught:
        yield caught
    assert (type(caught.value), caught.value.code) == (PeerError, code)
