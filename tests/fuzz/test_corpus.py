"""Every fuzz target on its kept inputs, on those that once failed, and on some that hypothesis draws.

`python -m tests.fuzz` searches for hours, guided by coverage.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import CORPUS, crashes_of, inputs_of, minimised
from tests.fuzz.target import Input, Target, raised
from tests.fuzz.targets import ROOMS, TARGETS

_MOST_CORPUS_BYTES = 500_000


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs(name: str) -> None:
    paths = [*inputs_of(name), *crashes_of(name)]
    assert paths, "no kept inputs: python -m tests.fuzz --keep"
    for path in paths:
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=20)
@given(data=st.data())
def test_drawn_inputs(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(st.binary(max_size=min(TARGETS[name].most_bytes, 300))))


def test_the_corpus_belongs_to_targets_and_is_small() -> None:
    folders = {path.name for path in CORPUS.iterdir()} - {"crashes"}
    assert folders <= set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < _MOST_CORPUS_BYTES
    assert len(ROOMS) > 5


def test_an_input_is_read_to_its_end_and_then_as_zeros() -> None:
    given = Input(b"\x07\x01\x02\x03rest")
    assert given.number(0, 9) == 7
    assert given.take(2) == b"\x01\x02"
    assert given.some(9) == b"res"
    assert given.rest() == b"t"
    assert given.is_empty
    assert (given.number(5, 9), given.take(2), given.flag(), given.one_of("ab")) == (5, b"\0\0", False, "a")


def test_what_is_not_documented_is_a_failure_and_the_rest_is_not() -> None:
    def fails(given: Input) -> None:
        raise [KeyError, ValueError][given.number(0, 1)]

    target = Target("fails", fails, (KeyError,), 1)
    target(b"\0")
    assert isinstance(raised(ValueError, target, b"\1"), ValueError)


def test_the_shortest_inputs_that_reach_everything_are_kept() -> None:
    target = TARGETS["exchange_message"]
    whole = b"\1\0\0\0"
    kept = minimised(target, [whole + b"more", whole, b"", b"\1", whole + b"mor"])
    assert kept == [b"", whole, whole + b"mor"]
