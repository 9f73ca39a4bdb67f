"""The kit is tested by layers that break one promise each: it must find every one, and say what."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from readwrite_comp import (
    Ending,
    ExtRead,
    ExtWrite,
    IdentityR,
    IdentityW,
    Malformed,
    PaddedWindowsR,
    PaddedWindowsW,
    Phase,
    RemoteLayerError,
    Truncated,
)
from readwrite_comp.helpers import ByteReader, ByteWriter, read_some, write_some
from readwrite_comp.testing import KitFailure, check_ext_pair, check_round_trip


class LosesOnRefusal(ExtWrite):
    """Takes content that the stream has refused."""

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        try:
            return write_some(w, view)
        except BlockingIOError:
            return len(view)


class RepeatsOnRefusal(ExtWrite):
    """Writes a byte at a time and forgets, on a refusal, which ones have gone."""

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        for index in range(len(view)):
            write_some(w, view[index : index + 1])
        return len(view)


class TakesTooMuch(ExtWrite):
    def _take(self, w: ByteWriter, view: memoryview) -> int:
        return write_some(w, view) + 1


class NeverTakes(ExtWrite):
    def _take(self, w: ByteWriter, view: memoryview) -> int:
        raise BlockingIOError


class EndsTwice(ExtWrite):
    def _push_end(self, w: ByteWriter) -> None:
        write_some(w, memoryview(b"!"))


class ReadsAhead(ExtRead):
    """Fetches more than it was asked for."""

    _ahead = b""

    def _read(self, r: ByteReader, view: memoryview) -> int:
        if not self._ahead:
            buffer = memoryview(bytearray(len(view) + 1))
            self._ahead = bytes(buffer[: read_some(r, buffer)])
        count = min(len(view), len(self._ahead))
        view[:count] = self._ahead[:count]
        self._ahead = self._ahead[count:]
        return count


class TakesRefusalForEnd(ExtRead):
    """The original's mistake: "would block" looks like "end"."""

    def _read(self, r: ByteReader, view: memoryview) -> int:
        try:
            return read_some(r, view)
        except BlockingIOError:
            return 0


class HangsAtEnd(ExtRead):
    def _read(self, r: ByteReader, view: memoryview) -> int:
        while not (count := read_some(r, view)):
            pass
        return count


class ForgetsItsError(PaddedWindowsR):
    """Calls after an error are not refused by it."""

    def _fail(self, error: RemoteLayerError) -> None:
        self._phase = Phase.CONTENT


class LetsOtherErrorsOut(PaddedWindowsR):
    def _read(self, r: ByteReader, view: memoryview) -> int:
        try:
            return super()._read(r, view)
        except Malformed:
            raise IndexError("not documented") from None


class TakesTruncationForEnd(PaddedWindowsR):
    def _read(self, r: ByteReader, view: memoryview) -> int:
        try:
            return super()._read(r, view)
        except Truncated:
            return 0

    def _skip(self, r: ByteReader) -> None:
        try:
            super()._skip(r)
        except Truncated:
            return


class DoesNotSkip(PaddedWindowsR):
    def _skip(self, r: ByteReader) -> None:
        return


class AllowsAnyOrder(IdentityW):
    def write_into(self, w: ByteWriter, data: bytes | bytearray | memoryview) -> int:
        return write_some(w, memoryview(data)) if data else 0


class KeepsOldState(PaddedWindowsW):
    """Does not start over after a reset."""

    def _start(self) -> None:
        return


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (LosesOnRefusal, IdentityR),
        (RepeatsOnRefusal, IdentityR),
        (TakesTooMuch, IdentityR),
        (EndsTwice, IdentityR),
        (AllowsAnyOrder, IdentityR),
        (IdentityW, ReadsAhead),
        (IdentityW, TakesRefusalForEnd),
        (IdentityW, HangsAtEnd),
        (NeverTakes, IdentityR),
        (lambda: PaddedWindowsW(16), lambda: TakesTruncationForEnd(16)),
        (lambda: PaddedWindowsW(16), lambda: ForgetsItsError(16)),
        (lambda: PaddedWindowsW(16), lambda: DoesNotSkip(16)),
        (lambda: KeepsOldState(16), lambda: PaddedWindowsR(16)),
        (lambda: PaddedWindowsW(16), lambda: PaddedWindowsR(15)),
    ],
)
def test_broken_promises_are_found(writer: Callable[[], ExtWrite], reader: Callable[[], ExtRead]) -> None:
    with pytest.raises(KitFailure):
        check_ext_pair(lambda: (writer(), reader()))


def test_undocumented_errors_pass_through() -> None:
    with pytest.raises(IndexError, match="not documented"):
        check_ext_pair(lambda: (PaddedWindowsW(16), LetsOtherErrorsOut(16)))


def test_a_false_claim_of_authentication_is_found() -> None:
    with pytest.raises(KitFailure, match="not written"):
        check_ext_pair(lambda: (PaddedWindowsW(16), PaddedWindowsR(16)), authenticated=True)


def test_both_ends_must_agree_on_how_the_message_ends() -> None:
    class SaysExact(IdentityR):
        ends = Ending.EXACT

    with pytest.raises(KitFailure, match="NEVER"):
        check_round_trip(lambda: (IdentityW(), SaysExact()), [b"content"])
