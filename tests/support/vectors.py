"""Reads the vectors of `tests/vectors`: one JSON object, one scenario, in a file; bytes in hex."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["VECTORS", "load_vectors"]

VECTORS = Path(__file__).parent.parent / "vectors"


def load_vectors(folder: str, *, expected: int) -> dict[str, dict[str, Any]]:
    """Return the vectors of one folder by file name, without the suffix.

    Args:
        expected: their number. Without this check a loader that finds none would make each test pass.
    """
    found = {path.stem: json.loads(path.read_text()) for path in sorted((VECTORS / folder).glob("*.json"))}
    assert len(found) == expected, (
        f"{len(found)} vectors in {folder}, expected {expected}: {', '.join(found)}"
    )
    return found
