"""Streams that misbehave by a script, and what the kit raises.

Beyond the script they watch over the layer: a call with an empty buffer, or far more calls than any correct
layer makes, is a failure at once. That is what turns a hang into an error.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..helpers import byte_view, would_block, writable_view

__all__ = ["MAX_REFUSALS", "Broken", "HostileReader", "HostileWriter", "KitFailure", "require"]

# Calls of one stream, and refusals in a row of one layer, after which the kit speaks of a hang. Far above
# what byte by byte transfer of the kit's contents takes.
_MAX_CALLS = 2_000_000
MAX_REFUSALS = 100_000
_MAX_CALLS_AT_END = 10_000


class KitFailure(AssertionError):
    """The layer broke a promise of the contract."""


class Broken(OSError):
    """What a stream of the kit raises where its script says -1: neither a refusal nor an end."""


def require(condition: bool, text: str) -> None:
    if not condition:
        raise KitFailure(text)


class _Script:
    """Says how many bytes the next call may handle."""

    def __init__(self, script: Iterable[int]) -> None:
        self._steps = iter(script)
        self._calls = 0

    def limit(self, asked: int) -> int:
        self._calls += 1
        require(self._calls <= _MAX_CALLS, f"the layer hangs: {self._calls} calls of one stream")
        step = next(self._steps, None)
        if step is None:
            return asked
        if step == 0:
            raise would_block("the script refuses this call")
        if step < 0:
            raise Broken("the script breaks this call")
        return min(asked, step)


class HostileReader:
    """A stream over `data` that follows a script. `position` is how far it was read."""

    def __init__(self, data: bytes, script: Iterable[int] = ()) -> None:
        self._data = data
        self._script = _Script(script)
        self._calls_at_end = 0
        self.position = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Read as the script allows; 0 at the end of `data`."""
        buffer = writable_view(buffer)
        require(len(buffer) > 0, "the layer reads into an empty buffer")
        count = self._script.limit(min(len(buffer), len(self._data) - self.position))
        if count == 0:
            self._calls_at_end += 1
            require(
                self._calls_at_end <= _MAX_CALLS_AT_END,
                "the layer hangs: it reads on at the end of the stream",
            )
        buffer[:count] = self._data[self.position : self.position + count]
        self.position += count
        return count


class HostileWriter:
    """A stream that collects in `data` and follows a script."""

    def __init__(self, script: Iterable[int] = ()) -> None:
        self._script = _Script(script)
        self.data = bytearray()

    def write(self, data: memoryview, /) -> int:
        """Take as much as the script allows."""
        data = byte_view(data)
        require(len(data) > 0, "the layer writes empty data")
        count = self._script.limit(len(data))
        self.data += data[:count]
        return count
