"""The parts of a fuzz target: `Input`, which turns bytes into choices, and the table of all targets.

A target is a function of an `Input`. It lets a parser or a state machine work on what the input chooses, and
asserts what must hold:

    @target(LinkError)
    def cells(given: Input) -> None:
        ...

The errors in the brackets are the documented ones. Everything else that it raises is a fault: another
error, or a broken `assert`. A target keeps no state from one input to the next: each failure can be repeated.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.fuzz import ENGINE_VARIABLE
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine

__all__ = ["ENGINE", "TARGETS", "Input", "Target", "raised", "same_in_pieces", "scratch_folder", "target"]

ENGINE: Final[TunnelEngine] = tunnel_engine(os.environ.get(ENGINE_VARIABLE, "auto"))

T = TypeVar("T")


class Input:
    """Bytes that are read as choices, from the front. At their end all choices are the first or zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        """Every byte was used: a target that takes steps ends then."""
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes, with zeros behind the end."""
        return self.up_to(count).ljust(count, b"\0")

    def up_to(self, count: int) -> bytes:
        """`count` bytes, or those that are left."""
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.up_to(len(self._data))

    def number(self, least: int, most: int) -> int:
        """A number in this range."""
        count = ((most - least).bit_length() + 7) // 8
        return least + int.from_bytes(self.take(count), "big") % (most - least + 1)

    def flag(self) -> bool:
        return bool(self.number(0, 1))

    def one_of(self, options: Sequence[T]) -> T:
        return options[self.number(0, len(options) - 1)]

    def some(self, most: int) -> bytes:
        """Up to `most` bytes; their number is chosen too."""
        return self.up_to(self.number(0, most))


@dataclass(frozen=True, slots=True)
class Target:
    """One target.

    Attributes:
        errors: documented, and therefore no fault.
        most_bytes: length of the longest input that is of use.
    """

    name: str
    run: Callable[[Input], None]
    errors: tuple[type[Exception], ...]
    most_bytes: int

    def __call__(self, data: bytes) -> None:
        """Try one input. Raises whatever shows a fault."""
        with contextlib.suppress(*self.errors):
            self.run(Input(data))


TARGETS: Final[dict[str, Target]] = {}
"""All targets by name; `tests.fuzz.targets` fills it."""


def target(
    *errors: type[Exception], most_bytes: int = 2048
) -> Callable[[Callable[[Input], None]], Callable[[Input], None]]:
    """Make a function a target of the same name."""

    def enter(run: Callable[[Input], None]) -> Callable[[Input], None]:
        name = run.__name__
        assert name not in TARGETS, f"two targets called {name}"
        TARGETS[name] = Target(name, run, errors, most_bytes)
        return run

    return enter


@cache
def scratch_folder() -> Path:
    """A private folder of this process, for targets that read files. Removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="mtun-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def raised(
    error_class: type[Exception],
    call: Callable[..., object],
    *args: Any,
    **named: Any,
) -> Exception | None:
    """The documented error of a call; None: it succeeded."""
    try:
        call(*args, **named)
    except error_class as error:
        return error
    return None


def same_in_pieces(data: bytes, feed: Callable[[list[bytes]], T]) -> T:
    """Feed `data` as a whole and byte by byte. Both must have the same outcome, which is returned."""
    whole = feed([data] if data else [])
    assert whole == feed([data[at : at + 1] for at in range(len(data))])
    return whole
