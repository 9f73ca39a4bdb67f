"""How fast the byte layers are beside the raw work that is in them: `python -m bench.layers`.

Each case is run in turn with its *bound*: the same primitives on the same bytes with nothing around them.
The ratio of the two is what our code costs. Everything runs in this one process and is timed in processor
seconds.

* copy-through: content through a limiter into nothing; the bound is one copy of it.
* Lioness: one block; the bound is its two AES-CTR passes and its two SHA-256 passes.
* HCTR: one block; the bound is its two GMAC passes, its AES-ECB pass and its two XOR passes.
* HCTR beside Lioness: the same block through either; the bound is Lioness here, and may be passed.
* n layers: content through `MultiWExt` over n `WideBlockW`; the bound is n Lioness calls on one buffer.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.report import Machine, Spread, machine, table, write_json
from readwrite_comp import (
    Engine,
    ExtWrite,
    Hctr,
    Lioness,
    MultiWExt,
    SizedWindowsW,
    WideBlockW,
    WideEngine,
    WindowSizes,
    engine_names,
    get_engine,
)
from readwrite_comp.hctr import HCTR_KEY_BYTES
from readwrite_comp.primitives import SPARE_BYTES, xor_function
from readwrite_comp.wideblock import LEFT_BYTES, LIONESS_KEY_BYTES

__all__ = ["Case", "Settings", "main", "measure", "record", "text"]

_KEYS = bytes(range(LIONESS_KEY_BYTES))
_BLOCKS = (16 * 1024, 64 * 1024)
_DEPTHS = (1, 3, 6, 25)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Attributes:
        rounds: pairs of measurements of each case.
        megabytes: work of one measurement: content times layers, 10⁶ bytes each.
    """

    rounds: int = 7
    megabytes: float = 32

    @classmethod
    def short(cls) -> Settings:
        """Enough to see that everything works."""
        return cls(rounds=1, megabytes=0.5)


@dataclass(frozen=True, slots=True)
class Case:
    """One layer or stack.

    Attributes:
        mb_per_s, bound_mb_per_s: content per processor second, 10⁶ bytes.
        ratio: the first over the second, of each pair.
    """

    name: str
    engine: str
    block_bytes: int
    mb_per_s: Spread
    bound_mb_per_s: Spread
    ratio: Spread


class _Nowhere:
    """A stream that takes everything."""

    def write(self, data: memoryview, /) -> int:
        return len(data)


class _Copying:
    """A stream that takes everything and copies it once, as a socket would."""

    def __init__(self, block_bytes: int) -> None:
        self._buffer = memoryview(bytearray(block_bytes))

    def write(self, data: memoryview, /) -> int:
        self._buffer[: len(data)] = data
        return len(data)


def _seconds(work: Callable[[int], None], calls: int) -> float:
    started_s = time.process_time()
    for number in range(calls):
        work(number)
    return time.process_time() - started_s


def _case(
    name: str,
    engine: str,
    block_bytes: int,
    settings: Settings,
    work: Callable[[int], None],
    bound: Callable[[int], None],
    passes: int = 1,
) -> Case:
    calls = max(1, int(settings.megabytes * 1_000_000 / block_bytes / passes))
    _seconds(work, 1)
    _seconds(bound, 1)
    pairs = [(_seconds(work, calls), _seconds(bound, calls)) for _ in range(settings.rounds)]
    megabytes = calls * block_bytes / 1e6
    return Case(
        name=name,
        engine=engine,
        block_bytes=block_bytes,
        mb_per_s=Spread.of([megabytes / ours for ours, _ in pairs]),
        bound_mb_per_s=Spread.of([megabytes / theirs for _, theirs in pairs]),
        ratio=Spread.of([theirs / ours for ours, theirs in pairs]),
    )


def _through(layer: ExtWrite, stream: _Nowhere | _Copying, content: memoryview) -> Callable[[int], None]:
    """Begin a message; each call sends the content through the layer."""
    layer.write_header(stream)

    def work(_: int) -> None:
        rest = content
        while rest:
            rest = rest[layer.write_into(stream, rest) :]

    return work


def _copy_through(block_bytes: int, settings: Settings) -> Case:
    content = memoryview(bytes(block_bytes))
    sink = _Copying(block_bytes)

    def bound(_: int) -> None:
        sink.write(content)

    work = _through(SizedWindowsW(WindowSizes(block_bytes), size_written=False), sink, content)
    return _case("limiter copy-through", "–", block_bytes, settings, work, bound)


def _raw_passes(engine: Engine, block: memoryview) -> Callable[[int], None]:
    key, right = bytes(range(32)), block[LEFT_BYTES:]

    def passes(_: int) -> None:
        engine.xor_keystream(key, right)
        hashlib.sha256(right).digest()
        engine.xor_keystream(key, right)
        hashlib.sha256(right).digest()

    return passes


def _lioness(engine: Engine, block_bytes: int, settings: Settings) -> Case:
    lioness = Lioness(_KEYS, block_bytes, engine)
    block = memoryview(bytearray(block_bytes))
    return _case(
        "Lioness",
        engine.name,
        block_bytes,
        settings,
        lambda number: lioness.encrypt(block, number),
        _raw_passes(engine, block),
    )


def _hctr_passes(engine: WideEngine, block_bytes: int) -> Callable[[int], None]:
    gmac, cipher, xor = engine.gmac(bytes(range(32))), engine.block_cipher(bytes(range(32))), xor_function()
    text = memoryview(bytearray(block_bytes - 8))
    spacious = memoryview(bytearray(block_bytes - 16 + SPARE_BYTES))
    rest, indices = spacious[:-SPARE_BYTES], bytes(block_bytes - 16)

    def passes(_: int) -> None:
        gmac(text)
        xor(rest, indices, rest)
        cipher.encrypt_blocks(spacious)
        xor(rest, indices, rest)
        gmac(text)

    return passes


def _hctr(engine: WideEngine, block_bytes: int, settings: Settings) -> list[Case]:
    hctr = Hctr(_KEYS[:HCTR_KEY_BYTES], block_bytes, engine)
    lioness = Lioness(_KEYS, block_bytes, engine)
    block = memoryview(bytearray(block_bytes))

    def work(number: int) -> None:
        hctr.encrypt(block, number)

    def other(number: int) -> None:
        lioness.encrypt(block, number)

    return [
        _case("HCTR", engine.name, block_bytes, settings, work, _hctr_passes(engine, block_bytes)),
        _case("HCTR beside Lioness", engine.name, block_bytes, settings, work, other),
    ]


def _layers(engine: Engine, depth: int, block_bytes: int, settings: Settings) -> Case:
    lioness = Lioness(_KEYS, block_bytes, engine)
    block = memoryview(bytearray(block_bytes))
    stack = MultiWExt([WideBlockW(lioness) for _ in range(depth)])

    def bound(number: int) -> None:
        for _ in range(depth):
            lioness.encrypt(block, number)

    name = f"{depth} wide-block layer{'s' if depth > 1 else ''}"
    work = _through(stack, _Nowhere(), memoryview(bytes(block_bytes)))
    return _case(name, engine.name, block_bytes, settings, work, bound, passes=depth)


def measure(settings: Settings) -> list[Case]:
    """Measure all cases, with each engine that is installed."""
    cases = [_copy_through(block_bytes, settings) for block_bytes in _BLOCKS]
    engines = [get_engine(name) for name in engine_names()]
    cases += [_lioness(engine, block_bytes, settings) for engine in engines for block_bytes in _BLOCKS]
    for engine in engines:
        for block_bytes in _BLOCKS:
            cases += _hctr(engine, block_bytes, settings)
    cases += [
        _layers(engine, depth, block_bytes, settings)
        for engine in engines
        for block_bytes in _BLOCKS
        for depth in _DEPTHS
    ]
    return cases


def text(settings: Settings, cases: Sequence[Case], where: Machine) -> str:
    """The report for people."""
    rows = [
        (
            case.name,
            case.engine,
            f"{case.block_bytes // 1024} KiB",
            case.mb_per_s.text(0),
            case.bound_mb_per_s.text(0),
            case.ratio.text(2),
        )
        for case in cases
    ]
    title = (
        f"Layers: MB of content per processor second, {settings.rounds} rounds; median (lowest–highest)\n"
        "(bound: the same work with nothing around it)"
    )
    heads = ("", "engine", "block", "MB/s", "bound", "of the bound")
    return table(heads, rows, title=title) + f"\n{where.line()}"


def record(settings: Settings, cases: Sequence[Case], where: Machine) -> dict[str, Any]:
    """The report for machines."""
    return {
        "benchmark": "layers",
        "machine": asdict(where),
        "settings": asdict(settings),
        "cases": [asdict(case) for case in cases],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.layers",
        description="Speed of the byte layers beside the raw work in them.",
        epilog="example: python -m bench.layers --json layers.json",
    )
    parser.add_argument("--json", metavar="FILE", help="write JSON too; - for JSON alone, on standard output")
    parser.add_argument("--short", action="store_true", help="one round with little content")
    options = parser.parse_args(arguments)
    settings = Settings.short() if options.short else Settings()
    where = machine()
    cases = measure(settings)
    if options.json != "-":
        print(text(settings, cases, where))
    if options.json is not None:
        write_json(record(settings, cases, where), options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
