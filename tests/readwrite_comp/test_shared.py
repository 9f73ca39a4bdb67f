"""`SharedW` / `SharedR`: one layer, several holders, one at a time."""

from __future__ import annotations

import gc
import io
import threading
from collections.abc import Callable

import pytest

from readwrite_comp import (
    CompR,
    CompW,
    EscapeTermR,
    EscapeTermW,
    IdentityR,
    IdentityW,
    MultiRExt,
    MultiWExt,
    PaddedWindowsR,
    PaddedWindowsW,
    SealedR,
    SealedW,
    SharedR,
    SharedW,
    read_exact_from,
    read_to_end,
)
from readwrite_comp.base import Phase
from readwrite_comp.errors import InUse
from readwrite_comp.testing import HostileReader, HostileWriter, check_ext_pair, read_message, write_message
from readwrite_comp.testing.streams import length_for

from .pairs import KEY, LAYERS, Pair, is_authenticated


@pytest.mark.parametrize("name", LAYERS)
def test_a_handle_is_a_layer(name: str) -> None:
    def make_pair() -> Pair:
        writer, reader = LAYERS[name]()
        return SharedW(writer).share(), SharedR(reader).share()

    check_ext_pair(
        make_pair, authenticated=is_authenticated([name]), sizes=(0, 1, 16, 41), samples=5, long_bytes=0
    )


def test_handles_in_stacks() -> None:
    writer, reader = SharedW(SealedW(KEY)), SharedR(SealedR(KEY))
    w = HostileWriter()
    for _ in range(2):
        write_message(MultiWExt([writer.share(), PaddedWindowsW(8)]), w, b"content")
    r = HostileReader(bytes(w.data))
    for _ in range(2):
        result = read_message(MultiRExt([reader.share(), PaddedWindowsR(8)]), r, None)
        assert result.content == b"content"


@pytest.mark.parametrize("name", LAYERS)
def test_a_handle_alone_in_a_stack_does_its_work(name: str) -> None:
    """A bug wrote content unencrypted, and its reader accepted it: so each side meets the bare layer here."""
    content = b"attack at dawn" * 5
    for shared_writes in (True, False):
        writer, reader = LAYERS[name]()
        if shared_writes:
            writer = MultiWExt([SharedW(writer)])
        else:
            reader = MultiRExt([SharedR(reader)])
        w = HostileWriter()
        write_message(writer, w, content)
        result = read_message(reader, HostileReader(bytes(w.data)), length_for(reader, len(content)))
        assert result.error is None
        assert result.content == content


def test_the_other_holder_is_refused_until_the_end() -> None:
    one, w = SharedW(EscapeTermW()), HostileWriter()
    two = one.share()
    one.write_header(w)
    one.write_into(w, b"mine")
    calls: list[Callable[[], object]] = [
        lambda: two.write_header(w),
        lambda: two.write_into(w, b"yours"),
        lambda: two.flush_into(w),
        lambda: two.settle_into(w),
        lambda: two.write_end(w),
        two.reset,
        lambda: CompW(w, two),
    ]
    for call in calls:
        with pytest.raises(InUse):
            call()
    two.release()
    with pytest.raises(InUse, match="another holder has the layer, in phase CONTENT"):
        two.write_end(w)
    one.write_end(w)
    assert one.phase is two.phase is Phase.NEW
    write_message(two, w, b"yours")

    r, buffer = HostileReader(bytes(w.data)), bytearray(9)
    first = SharedR(EscapeTermR())
    second = first.share()
    first.read_header(r)
    calls = [
        lambda: second.read_header(r),
        lambda: second.read_into(r, buffer),
        lambda: second.read_end(r),
        second.reset,
        lambda: CompR(r, second),
    ]
    for call in calls:
        with pytest.raises(InUse):
            call()
    read_exact_from(first, r, memoryview(buffer)[:4])
    first.read_end(r)
    assert read_message(second, r, None).content == b"yours"


def test_a_refused_call_keeps_the_layer() -> None:
    """A partly written header belongs to the handle that began it."""
    one, w = SharedW(SealedW(KEY)), HostileWriter([5, 0])
    two = one.share()
    with pytest.raises(BlockingIOError):
        one.write_header(w)
    with pytest.raises(InUse, match="HEADER"):
        two.write_header(w)
    one.write_header(w)
    one.write_end(w)
    write_message(two, w, b"next")


def test_handing_a_message_over() -> None:
    one, w = SharedW(EscapeTermW()), HostileWriter()
    two = one.share()
    one.write_header(w)
    one.write_into(w, b"begun, ")
    one.release()
    two.write_into(w, b"and ended by another")
    with pytest.raises(InUse):
        one.write_end(w)
    two.write_end(w)
    r, first, buffer = HostileReader(bytes(w.data)), SharedR(EscapeTermR()), bytearray(99)
    second = first.share()
    first.read_header(r)
    read_exact_from(first, r, memoryview(buffer)[:3])
    first.release()
    rest = bytearray()
    read_to_end(second, r, rest, limit_bytes=99)
    second.read_end(r)
    assert buffer[:3] + rest == b"begun, and ended by another"


def test_a_reset_gives_it_back() -> None:
    one = SharedR(EscapeTermR())
    two = one.share()
    assert read_message(one, HostileReader(b"\0\1"), None).error is not None
    with pytest.raises(InUse, match="FAILED"):
        two.reset()
    one.reset()
    assert read_message(two, HostileReader(b"a\0\xff"), None).content == b"a"


def test_a_call_from_within_a_call() -> None:
    """The stream uses the same layer that writes to it."""
    shared = SharedW(IdentityW())

    class Loop:
        def write(self, data: memoryview, /) -> int:
            return shared.write_into(HostileWriter(), data)

    shared.write_header(HostileWriter())
    with pytest.raises(InUse, match="is running"):
        shared.write_into(Loop(), b"x")
    # The inner call has changed nothing; the outer call sees a broken stream.
    assert shared.phase is Phase.FAILED
    shared.reset()
    w = HostileWriter()
    write_message(shared.share(), w, b"y")
    assert w.data == b"y"


def test_a_call_from_another_thread() -> None:
    """Two threads, one handle: the second gets an error at once, and the first is not disturbed."""
    shared, w, refused = SharedW(EscapeTermW()), HostileWriter(), []

    class Slow:
        def write(self, data: memoryview, /) -> int:
            other = threading.Thread(target=use)
            other.start()
            other.join()
            return w.write(data)

    def use() -> None:
        try:
            shared.write_into(w, b"y")
        except InUse as error:
            refused.append(error)

    shared.write_header(w)
    shared.write_into(Slow(), b"x")
    shared.write_end(w)
    assert len(refused) == 1
    assert w.data == b"x\0\xff"


def test_a_dropped_handle_does_not_keep_a_shared_layer_in_use() -> None:
    kept = SharedW(EscapeTermW())
    gone = kept.share()
    gone.write_header(HostileWriter())
    gone.write_into(HostileWriter(), b"half a mess")
    with pytest.raises(InUse):
        kept.reset()
    del gone
    gc.collect()
    kept.reset()
    w = HostileWriter()
    write_message(kept, w, b"whole")
    assert w.data == b"whole\0\xff"


def test_two_file_like_objects_over_one_layer() -> None:
    """Without handles: both were made while it was free. The second use is refused and changes nothing."""
    stream, writer = io.BytesIO(), EscapeTermW()
    one, two = CompW(stream, writer), CompW(stream, writer)
    one.write(b"abc")
    for call in (lambda: two.write(b"x"), two.close):
        with pytest.raises(InUse, match="CONTENT"):
            call()
    two.flush()
    two.abandon()
    one.close()
    assert stream.getvalue() == b"abc\0\xff"
    stream.seek(0)
    reader = IdentityR()
    source, other = CompR(stream, reader), CompR(stream, reader)
    assert source.read(1) == b"a"
    with pytest.raises(InUse, match="CONTENT"):
        other.read(1)
    other.abandon()
    source.close()
    assert stream.tell() == 1
