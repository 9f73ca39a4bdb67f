"""The kit is tested with layers that each break one rule: it must find and name every violation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from readwrite_comp import (
    Ending,
    EndStreamR,
    EndStreamW,
    ExtRead,
    ExtWrite,
    IdentityR,
    IdentityW,
    Malformed,
    PaddedWindowsR,
    PaddedWindowsW,
    RemoteLayerError,
    SealedR,
    SealedW,
    Truncated,
    WideBlockW,
)
from readwrite_comp.base import Phase
from readwrite_comp.helpers import ByteReader, ByteWriter, read_some, write_some
from readwrite_comp.inplace import InPlaceR
from readwrite_comp.testing import KitFailure, check_ext_pair, check_round_trip, check_runs

from .pairs import KEY, lioness


class LosesOnRefusal(ExtWrite):
    """Accepts content that the stream refused."""

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        try:
            return write_some(w, view)
        except BlockingIOError:
            return len(view)


class RepeatsOnRefusal(ExtWrite):
    """Writes single bytes and forgets, on a refusal, which were written."""

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
    """Reads more than requested."""

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
    """Does not refuse calls after an error."""

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


class DropsOnFlush(PaddedWindowsW):
    """Loses the bytes that it holds."""

    def _flush(self) -> None:
        self._start()


class SendsTwice(EndStreamW):
    """Starts its window again after a refusal."""

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        count = super()._take(w, view)
        if 0 < len(self._owed) < 15:
            self._owed.clear()
            self._owed.owe(self._unit[1:])
        return count


class TakesBeforeItRefuses(EndStreamW):
    def _take(self, w: ByteWriter, view: memoryview) -> int:
        count = super()._take(w, view)
        self._owed.settle(w)
        return count


class CountsPadding(PaddedWindowsR):
    """Returns the padding as content."""

    def _open_window(self, r: ByteReader) -> bool:
        super()._open_window(r)
        self._left += self._padding_left
        self._padding_left = 0
        return self._left > 0


class NothingForSmallBuffers(PaddedWindowsR):
    def _read(self, r: ByteReader, view: memoryview) -> int:
        return super()._read(r, view) if len(view) > 1 else 0


class KeepsItsTweak:
    """The blocks of `WideBlockR`, but in the second message the tweak continues from the first."""

    header_bytes = 0

    def __init__(self) -> None:
        self._permutation = lioness()
        self.block_bytes = self._permutation.block_bytes
        self._tweak = 0

    def begin_write(self) -> bytes:
        return b""

    def begin_read(self, header: bytes) -> None:
        return

    def apply(self, view: memoryview) -> None:
        self._permutation.decrypt(view, self._tweak)
        self._tweak += 1

    def apply_into(self, source: memoryview, out: memoryview) -> None:
        out[:] = source
        self.apply(out)


class CollectsAll(ExtWrite):
    """Holds the whole message until its end."""

    def _start(self) -> None:
        self._all = b""

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        self._all += bytes(view)
        return len(view)

    def _flush(self) -> None:
        self._owed.owe(self._all)
        self._all = b""

    def _finish(self) -> None:
        self._flush()


class KeepsWhatItRead(ExtRead):
    def _start(self) -> None:
        self._all = b""

    def _read(self, r: ByteReader, view: memoryview) -> int:
        count = read_some(r, view)
        self._all += bytes(view[:count])
        return count


class WritesSmallerAndSmaller(ExtWrite):
    """Ever more calls for the same bytes."""

    def _start(self) -> None:
        self._done = 0

    def _take(self, w: ByteWriter, view: memoryview) -> int:
        count = write_some(w, view[: max(1, 1024 - self._done)])
        self._done += count
        return count


class GoesOnWhenBroken(SealedW):
    """Accepts content again that it had accepted when its stream broke."""

    def write_into(self, w: ByteWriter, data: bytes | bytearray | memoryview) -> int:
        try:
            return super().write_into(w, data)
        except OSError:
            self._phase = Phase.CONTENT
            raise


class SaysMoreThanItHas(PaddedWindowsR):
    @property
    def at_hand(self) -> int:
        return self._left


class ReadsOnUntilFull(ExtRead):
    """Calls the stream again although it has content, and loses the content when this call breaks."""

    def _read(self, r: ByteReader, view: memoryview) -> int:
        done = read_some(r, view)
        while 0 < done < len(view):
            try:
                count = read_some(r, view[done:])
            except BlockingIOError:
                break
            if not count:
                break
            done += count
        return done


def _with_nonce_of_chunk_0(kind: type[Any]) -> Callable[[], Any]:
    class NeverCounts(kind):  # type: ignore[misc]
        @property
        def _counter(self) -> int:
            return 0

        @_counter.setter
        def _counter(self, value: int) -> None: ...

    return lambda: NeverCounts(KEY, chunk_bytes=16)


def test_chunks_that_are_not_counted_are_found() -> None:
    writer, reader = _with_nonce_of_chunk_0(SealedW), _with_nonce_of_chunk_0(SealedR)
    with pytest.raises(KitFailure, match=r"repeated|swapped|removed"):
        check_runs(lambda: (writer(), reader()), bytes(range(50)), authenticated=True, lengths=(36,))


@pytest.mark.full
@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (lambda: DropsOnFlush(16), lambda: PaddedWindowsR(16)),
        (lambda: SendsTwice(15), lambda: EndStreamR(15)),
        (lambda: TakesBeforeItRefuses(15), lambda: EndStreamR(15)),
        (lambda: PaddedWindowsW(16), lambda: CountsPadding(16)),
        (lambda: PaddedWindowsW(16), lambda: NothingForSmallBuffers(16)),
        (lambda: WideBlockW(lioness()), lambda: InPlaceR([KeepsItsTweak()])),
        (lambda: GoesOnWhenBroken(KEY, chunk_bytes=16), lambda: SealedR(KEY, chunk_bytes=16)),
        (IdentityW, ReadsOnUntilFull),
        (lambda: PaddedWindowsW(16), lambda: SaysMoreThanItHas(16)),
        (CollectsAll, IdentityR),
        (IdentityW, KeepsWhatItRead),
        (WritesSmallerAndSmaller, IdentityR),
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
