"""docs/layers.md: its example is a layer that keeps the contract, and is as short as stated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import readwrite_comp
from readwrite_comp import Ending, Malformed, MultiRExt, MultiWExt, Truncated
from readwrite_comp.testing import (
    HostileReader,
    HostileWriter,
    check_ext_pair,
    read_message,
    write_message,
)

from .pairs import LAYERS, Pair

DOCUMENT = (Path(__file__).parents[2] / "docs" / "layers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The names that the document's blocks define when they run in order."""
    namespace: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/layers.md", "exec"), namespace)
    return namespace


def test_the_blocks_were_found() -> None:
    assert len(BLOCKS) == 5
    code = [line for line in BLOCKS[0].splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 40


def test_the_example_keeps_the_contract(names: dict[str, Any]) -> None:
    sizes = (0, 1, 2, 254, 255, 256, 510, 511)
    check_ext_pair(lambda: (names["RecordsW"](), names["RecordsR"]()), sizes=sizes, samples=300)


@pytest.mark.full
@pytest.mark.parametrize("other", LAYERS)
def test_the_example_stacks_with_all_others(names: dict[str, Any], other: str) -> None:
    def outside() -> Pair:
        writer, reader = LAYERS[other]()
        return MultiWExt([names["RecordsW"](), writer]), MultiRExt([names["RecordsR"](), reader])

    def inside() -> Pair:
        writer, reader = LAYERS[other]()
        return MultiWExt([writer, names["RecordsW"]()]), MultiRExt([reader, names["RecordsR"]()])

    for make_pair in (outside, inside):
        check_ext_pair(make_pair, sizes=(0, 1, 41), samples=3, long_bytes=0)


def test_the_example_s_format(names: dict[str, Any]) -> None:
    w = HostileWriter()
    write_message(names["RecordsW"](), w, b"abc" * 100)
    assert w.data[0] == 255
    assert w.data[256] == 45
    assert w.data[-1] == 0
    result = read_message(names["RecordsR"](), HostileReader(b"\3ab"), None)
    assert isinstance(result.error, Truncated)


def test_the_table_of_layers_is_true() -> None:
    rows = {
        name: ending
        for name, ending in re.findall(r"^\| `(\w+)` \| [^|]+ \| ([A-Z]+) \|", DOCUMENT, re.MULTILINE)
    }
    public = {
        name.removesuffix("W")
        for name in readwrite_comp.__all__
        if name.endswith("W") and name not in ("CompW", "CompExtW", "FileW", "InPlaceW", "SharedW")
    }
    assert rows.keys() == public
    by_class = {type(make()[1]).__name__.removesuffix("R"): make()[1].ends for make in LAYERS.values()}
    assert {name: Ending[ending] for name, ending in rows.items()} == by_class
    # Names in backquotes are names of the package.
    for name in ("ChainExtRead", "CompW", "FileW", "SharedW", "read_to_end", "write_all_into"):
        assert f"`{name}" in DOCUMENT
        assert name in readwrite_comp.__all__
    assert Malformed.__name__ in DOCUMENT
