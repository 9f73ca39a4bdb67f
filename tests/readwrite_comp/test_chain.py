"""`ChainExtRead`: two messages on one stream read as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readwrite_comp import (
    BadParameter,
    ChainExtRead,
    CompR,
    CompW,
    EndStreamR,
    EndStreamW,
    EscapeTermR,
    EscapeTermW,
    ExtRead,
    ExtWrite,
    IdentityR,
    SealedR,
    SealedW,
    SizedWindowsR,
    Truncated,
    WindowSizes,
    read_exact_from,
)
from readwrite_comp.base import Phase
from readwrite_comp.errors import InUse
from readwrite_comp.helpers import ByteWriter
from readwrite_comp.limiters import Padding
from readwrite_comp.testing import (
    HostileReader,
    HostileWriter,
    MakePair,
    check_abandoned_write,
    check_corruption,
    check_ext_pair,
    check_round_trip,
    check_truncation,
    read_message,
    write_message,
)

from .pairs import KEY, LAYERS, Pair, contents, is_authenticated, layer_names, scripts, splits

FIRST = ["padded", "sealed", "escape"]


class TwoPartsW(ExtWrite):
    """Writes the first `first_bytes` of content (or all, if shorter) through one layer, the rest through
    another; a layer that is initialised already gets no header.
    """

    def __init__(self, first: ExtWrite, second: ExtWrite, first_bytes: int) -> None:
        super().__init__()
        self._parts = (first, second)
        self._first_bytes = first_bytes
        self.ends = second.ends

    def _start(self) -> None:
        self._left = self._first_bytes
        self._is_first_over = False

    def _push_header(self, w: ByteWriter) -> None:
        if self._parts[0].phase is not Phase.CONTENT:
            self._parts[0].write_header(w)

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        if self._left:
            count = self._parts[0].write_into(w, view[: self._left])
            self._left -= count
            return count
        self._begin_second(w)
        return self._parts[1].write_into(w, view)

    def _begin_second(self, w: ByteWriter) -> None:
        if not self._is_first_over:
            self._parts[0].write_end(w)
            self._is_first_over = True
        if self._parts[1].phase not in (Phase.CONTENT, Phase.END):
            self._parts[1].write_header(w)

    def _push_flush(self, w: ByteWriter) -> None:
        if self._is_first_over:
            self._begin_second(w)
        self._parts[self._is_first_over].flush_into(w)

    def _push_end(self, w: ByteWriter) -> None:
        self._begin_second(w)
        self._parts[1].write_end(w)

    def reset(self) -> None:
        super().reset()
        for part in self._parts:
            part.reset()


def chain_of(first: str, second: str, first_bytes: int, *, initialised: bool = False) -> MakePair:
    def make() -> Pair:
        (first_w, first_r), (second_w, second_r) = LAYERS[first](), LAYERS[second]()
        if initialised:
            # The second header was written to another stream.
            elsewhere = HostileWriter()
            second_w.write_header(elsewhere)
            second_r.read_header(HostileReader(bytes(elsewhere.data)))
        return TwoPartsW(first_w, second_w, first_bytes), ChainExtRead(first_r, second_r)

    return make


@pytest.mark.full
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", LAYERS)
def test_kit(first: str, second: str) -> None:
    authenticated = is_authenticated([first]) and is_authenticated([second])
    for first_bytes in (0, 16):
        make_pair = chain_of(first, second, first_bytes)
        check_ext_pair(make_pair, authenticated=authenticated, sizes=(0, 16, 41), samples=2, long_bytes=0)


@given(
    first=st.sampled_from(FIRST),
    second=layer_names,
    first_bytes=st.integers(0, 100),
    initialised=st.booleans(),
    messages=st.lists(contents, min_size=1, max_size=2),
    write_script=scripts,
    read_script=scripts,
    read_splits=splits,
    position=st.integers(0, 400),
)
def test_round_trip(
    first: str,
    second: str,
    first_bytes: int,
    initialised: bool,
    messages: list[bytes],
    write_script: list[int],
    read_script: list[int],
    read_splits: list[int],
    position: int,
) -> None:
    make_pair = chain_of(first, second, first_bytes, initialised=initialised)
    check_round_trip(
        make_pair, messages, write_script=write_script, read_script=read_script, read_splits=read_splits
    )
    check_abandoned_write(make_pair, messages[0], write_script=write_script)
    check_truncation(make_pair, messages[0], position, read_script=read_script, read_splits=read_splits)
    authenticated = is_authenticated([first]) and is_authenticated([second])
    check_corruption(make_pair, messages[0], position, 1 + position % 255, authenticated=authenticated)


def test_chains_in_chains() -> None:
    w, makers = HostileWriter(), ["padded", "escape", "sealed", "identity"]
    for index, name in enumerate(makers):
        write_message(LAYERS[name]()[0], w, bytes([65 + index]) * 20)
    reader: ExtRead = LAYERS[makers[-1]]()[1]
    for name in makers[-2::-1]:
        reader = ChainExtRead(LAYERS[name]()[1], reader)
    result = read_message(reader, HostileReader(bytes(w.data)), 80, splits=(7,))
    assert result.error is None
    assert result.content == b"A" * 20 + b"B" * 20 + b"C" * 20 + b"D" * 20


def test_a_first_that_is_initialised_and_half_read() -> None:
    """A word of the first message has been read before."""
    w = HostileWriter()
    write_message(EscapeTermW(), w, b"word and the rest, ")
    write_message(SealedW(KEY), w, b"then more")
    r, first, word = HostileReader(bytes(w.data)), EscapeTermR(), bytearray(5)
    first.read_header(r)
    read_exact_from(first, r, word)
    with CompR(r, ChainExtRead(first, SealedR(KEY))) as chain:
        assert chain.read() == b"and the rest, then more"
    assert first.phase is Phase.NEW


def test_padding_of_a_marked_first_is_content() -> None:
    w = HostileWriter()
    write_message(EndStreamW(4, padding=Padding.ZERO), w, b"ab")
    write_message(EscapeTermW(), w, b"cd")
    result = read_message(ChainExtRead(EndStreamR(4), EscapeTermR()), HostileReader(bytes(w.data)), None)
    assert result.content == b"ab\0\0cd"


def test_the_second_message_is_missing() -> None:
    w = HostileWriter()
    with CompW(w, EscapeTermW()) as first:
        first.write(b"alone")
    chain = ChainExtRead(EscapeTermR(), EscapeTermR())
    result = read_message(chain, HostileReader(bytes(w.data)), None)
    assert result.content == b"alone"
    assert isinstance(result.error, Truncated)


def test_invalid_chains_are_refused() -> None:
    for first in (IdentityR(), SizedWindowsR(WindowSizes(4))):
        with pytest.raises(BadParameter, match="ends by itself"):
            ChainExtRead(first, IdentityR())
    reader = EscapeTermR()
    with pytest.raises(InUse, match="twice"):
        ChainExtRead(reader, reader)
    assert read_message(reader, HostileReader(b"\0\1"), None).error is not None
    with pytest.raises(InUse, match="FAILED"):
        ChainExtRead(EscapeTermR(), reader)
