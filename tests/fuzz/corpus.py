"""The kept inputs: tests/fuzz/corpus/TARGET/NAME, and those that once failed, in corpus/crashes.

`minimised` chooses inputs to keep: the shortest ones that together run every pair of successive lines which
all of them run, of the product and of the targets. It needs no library.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.fuzz.target import Target

__all__ = ["CORPUS", "CRASHES", "crashes_of", "inputs_of", "keep", "minimised"]

CORPUS: Final = Path(__file__).parent / "corpus"
CRASHES: Final = CORPUS / "crashes"
_PARTS: Final = ("tunnel", "readwrite_comp", "tests/fuzz")
_TRACED: Final = tuple(str(Path(__file__).parents[2] / part) for part in _PARTS)
_MOST_BYTES: Final = 6_000
"""Of the kept inputs of one target."""


def inputs_of(name: str, folder: Path = CORPUS) -> Iterator[Path]:
    """The kept inputs of a target."""
    return iter(sorted(path for path in (folder / name).glob("*") if path.is_file()))


def crashes_of(name: str) -> Iterator[Path]:
    """The inputs that failed once, `TARGET-crash-DIGEST`: they stay, so that the fault stays away."""
    return iter(sorted(CRASHES.glob(f"{name}-*")))


def keep(target: Target, inputs: Iterable[bytes]) -> int:
    """Replace the kept inputs of a target by the best of these. Returns their number."""
    folder = CORPUS / target.name
    folder.mkdir(parents=True, exist_ok=True)
    for path in inputs_of(target.name):
        path.unlink()
    kept = minimised(target, inputs)
    for data in kept:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return len(kept)


def minimised(target: Target, inputs: Iterable[bytes]) -> list[bytes]:
    """The inputs that run something that no shorter one runs, up to a total length."""
    kept: list[bytes] = []
    seen: set[object] = set()
    left = _MOST_BYTES
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        found = _steps(target, data)
        if found - seen and len(data) <= left:
            kept.append(data)
            seen |= found
            left -= len(data)
    return kept


def _steps(target: Target, data: bytes) -> set[object]:
    """Pairs of lines that run one after the other."""
    found: set[object] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_TRACED):
            return None
        code, last = frame.f_code, frame.f_lineno

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            found.add((code, last, frame.f_lineno, event == "exception"))
            last = frame.f_lineno
            return line

        return line

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(before)
    return found
