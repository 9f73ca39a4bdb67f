"""The helpers: pending bytes, exactly n bytes, and streams with unusual answers."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import BadParameter, ExtRead, Malformed, SealedR, Truncated
from readwrite_comp.errors import is_same_error
from readwrite_comp.helpers import ByteReader, Owed, Take, read_some, skip_some, write_some
from readwrite_comp.testing import HostileReader, HostileWriter
from tests.support.kept_errors import caught, check_that_nothing_grows

from .pairs import scripts


class Answers:
    """A stream with the same answer to every call."""

    def __init__(self, answer: int | None) -> None:
        self.answer = answer

    def readinto(self, buffer: memoryview, /) -> int | None:
        return self.answer

    def write(self, data: memoryview, /) -> int | None:
        return self.answer


def test_raw_files_return_none_for_not_now() -> None:
    with pytest.raises(BlockingIOError):
        read_some(Answers(None), memoryview(bytearray(4)))
    for answer in (None, 0):
        with pytest.raises(BlockingIOError):
            write_some(Answers(answer), memoryview(b"abcd"))
    assert read_some(Answers(0), memoryview(bytearray(4))) == 0


def test_streams_that_claim_too_much() -> None:
    with pytest.raises(BadParameter, match="5 bytes read into a buffer of 4"):
        read_some(Answers(5), memoryview(bytearray(4)))
    with pytest.raises(BadParameter, match="5 bytes written of 4"):
        write_some(Answers(5), memoryview(b"abcd"))


@given(debts=st.lists(st.binary(max_size=30), max_size=6), script=scripts)
def test_owed_bytes_arrive_once_and_in_order(debts: list[bytes], script: list[int]) -> None:
    owed, w = Owed(), HostileWriter(script)
    for debt in debts:
        owed.owe(debt)
        owed.push(w)
    while owed:
        try:
            owed.settle(w)
        except BlockingIOError:
            assert len(owed) > 0
    assert w.data == b"".join(debts)


@given(data=st.binary(max_size=60), size=st.integers(0, 60), script=scripts)
def test_take_takes_exactly(data: bytes, size: int, script: list[int]) -> None:
    buffer = bytearray(size)
    take, r = Take(), HostileReader(data, script)
    take.begin(memoryview(buffer))
    outcome = ""
    while not outcome:
        try:
            outcome = "whole" if take.fill(r, "a structure") else "ended"
        except BlockingIOError:
            continue
        except Truncated as error:
            outcome = str(error)
    if len(data) < size:
        assert outcome == f"the stream ended after {len(data)} of {size} bytes of a structure"
    else:
        assert outcome == "whole"
        assert buffer == data[:size]
        assert r.position == size


def test_take_may_find_the_end_before_its_first_byte_only() -> None:
    take = Take()
    take.begin(memoryview(bytearray(3)))
    assert not take.fill(HostileReader(b""), "x", may_end=True)
    with pytest.raises(Truncated):
        take.fill(HostileReader(b"ab"), "x", may_end=True)
    assert take.is_begun
    take.clear()
    assert not take.is_begun


def test_skip_checks_what_it_skips() -> None:
    assert skip_some(HostileReader(bytes(5)), 3, "padding", must_be_zero=True) == 3
    with pytest.raises(Malformed):
        skip_some(HostileReader(b"\0\1\0"), 3, "padding", must_be_zero=True)
    with pytest.raises(Truncated):
        skip_some(HostileReader(b""), 3, "padding")


class OwnRefusal(Malformed):
    """An error of a user's layer, whose `__init__` takes other arguments than it passes on."""

    def __init__(self, *, place: int) -> None:
        super().__init__(f"bad byte at {place}")
        self.place = place


class Refusing(ExtRead):
    def _read(self, r: ByteReader, view: memoryview) -> int:
        raise OwnRefusal(place=7)


@pytest.mark.parametrize("make", [lambda: SealedR(bytes(32)), Refusing], ids=["sealed", "a user's"])
def test_a_sticky_error_of_a_layer_grows_nothing(make: Callable[[], ExtRead]) -> None:
    layer, source = make(), io.BytesIO(bytes(99))
    layer.read_header(source)
    first = caught(lambda: layer.read_into(source, bytearray(9)))
    check_that_nothing_grows(lambda: layer.read_into(source, bytearray(9)))
    check_that_nothing_grows(lambda: layer.read_end(source))
    again = caught(lambda: layer.read_header(source))
    assert (type(again), str(again)) == (type(first), str(first))
    assert getattr(again, "place", None) == getattr(first, "place", None)
    assert is_same_error(again, first)
    assert not is_same_error(Malformed("another"), first)
    assert not is_same_error(again, None)
    layer.reset()
    layer.read_header(io.BytesIO(bytes(99)))
