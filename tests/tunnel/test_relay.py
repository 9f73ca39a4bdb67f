"""One direction of a proxied frame, over in-memory streams with a fake clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from reactor import (
    Reactor,
    ReadYield,
    Service,
    Sleep,
    WriteYield,
)
from reactor.core.requests import Request
from reactor.core.timers import FakeClock
from tests.support.errors import raises_code
from tests.support.memory_pipe import (
    MemoryReader,
    MemoryWriter,
    memory_pipe,
)
from tunnel.errors import ErrorCode, FrameTruncated, MalformedMessage
from tunnel.node.relay.read_service import relay
from tunnel.node.waits import idle_watch, run_with_guards

CHUNK = 8


class Stream:
    """The part of a link's stream that a relay uses.

    Args:
        pieces: chunks in separate buffers, before the content of the reader.
    """

    def __init__(self, reader: MemoryReader, writer: MemoryWriter, pieces: Sequence[bytes] = ()) -> None:
        self._reader, self._writer = reader, writer
        self._pieces = [bytearray(piece) for piece in pieces]
        self.content_in = self.content_out = 0
        self.pass_on: Callable[[memoryview], bool] | None = None

    @property
    def readable(self) -> Request:
        return self._reader.readable

    @property
    def writable(self) -> Request:
        return self._writer.writable

    def take_piece(self, size: int) -> bytearray | None:
        if not self._pieces:
            return None
        assert len(self._pieces[0]) == size
        return self._pieces.pop(0)

    def readinto(self, buffer: memoryview) -> int:
        return self._reader.readinto(buffer)

    def takes(self, count: int) -> bool:
        return False  # memory pipes pass nothing on

    def write(self, data: bytes | bytearray | memoryview) -> int:
        return self._writer.write(data)


def _count_up(chunk: memoryview, number: int) -> None:
    chunk[0] = number


def _run(reactor: Reactor, content: bytes, *, capacity: int, whole: int = 0) -> bytes:
    """Relay `content`, the first `whole` chunks of it as separate pieces."""
    to_relay, source_end = memory_pipe(capacity)
    sink_end, from_relay = memory_pipe(capacity)
    unused_reader, unused_writer = memory_pipe(1)
    pieces = [content[at : at + CHUNK] for at in range(0, whole * CHUNK, CHUNK)]
    source = Stream(to_relay, unused_writer, pieces)
    sink = Stream(unused_reader, from_relay)
    out = bytearray()

    def feed() -> Service[None]:
        yield from WriteYield(source_end).write_all(content[whole * CHUNK :])
        source_end.close()

    def collect() -> Service[None]:
        buffer = memoryview(bytearray(100))
        reader = ReadYield(sink_end)
        while count := (yield from reader.readinto(buffer)):
            out.extend(buffer[:count])

    reactor.spawn(feed())
    collecting = reactor.spawn(collect())
    number = reactor.run(relay(source, sink, _count_up, CHUNK))
    assert number == len(content) // CHUNK
    from_relay.close()
    reactor.run(collecting.join())
    return bytes(out)


@pytest.mark.parametrize("capacity", [1, 3, CHUNK, 1000])
@pytest.mark.parametrize("chunks", [0, 1, 2, 40])
def test_every_chunk_passes_once_and_in_order(capacity: int, chunks: int) -> None:
    content = b"".join(bytes([255, i]) + bytes(CHUNK - 2) for i in range(chunks))
    expected = b"".join(bytes([i, i]) + bytes(CHUNK - 2) for i in range(chunks))
    with Reactor(clock=FakeClock()) as reactor:
        assert _run(reactor, content, capacity=capacity) == expected


@pytest.mark.parametrize("whole", [1, 39, 40])
def test_whole_and_split_chunks_alternate(whole: int) -> None:
    content = b"".join(bytes([255, i]) + bytes(CHUNK - 2) for i in range(40))
    expected = b"".join(bytes([i, i]) + bytes(CHUNK - 2) for i in range(40))
    with Reactor(clock=FakeClock()) as reactor:
        assert _run(reactor, content, capacity=3, whole=whole) == expected


@pytest.mark.parametrize("extra", [1, CHUNK - 1])
def test_fin_inside_a_chunk_is_truncation(extra: int) -> None:
    with (
        Reactor(clock=FakeClock()) as reactor,
        pytest.raises(FrameTruncated, match=f"FIN after {extra} of 8"),
    ):
        _run(reactor, bytes(2 * CHUNK + extra), capacity=1000)


class Counter:
    content_in = content_out = 0


def test_idle_watch_waits_while_something_moves_and_not_much_longer() -> None:
    moving, still = Counter(), Counter()
    clock = FakeClock()

    def move() -> Service[None]:
        for _ in range(20):
            yield Sleep(3)
            moving.content_in += 1

    with Reactor(clock=clock) as reactor:
        started_s = reactor.now()
        reactor.spawn(move())
        with raises_code(ErrorCode.TIMEOUT, match="10 s"):
            reactor.run(idle_watch([still, moving], 10))
        assert 70 <= reactor.now() - started_s <= 75.1


def _sleep(seconds: float, log: list[str]) -> Service[None]:
    try:
        yield Sleep(seconds)
        log.append("ran to its end")
    finally:
        log.append("ended")


def _fail(seconds: float) -> Service[None]:
    yield Sleep(seconds)
    raise MalformedMessage("guard")


def test_guards_end_with_the_guarded_service() -> None:
    log: list[str] = []
    with Reactor(clock=FakeClock()) as reactor:
        reactor.run(run_with_guards(_sleep(1, []), _sleep(100, log), _sleep(0.5, [])))
        assert log == ["ended"]
        assert reactor.now() < 50


def test_a_failed_guard_ends_the_guarded_service() -> None:
    log: list[str] = []
    with Reactor(clock=FakeClock()) as reactor:
        with pytest.raises(MalformedMessage, match="guard"):
            reactor.run(run_with_guards(_sleep(10, log), _fail(1)))
        assert log == ["ended"]


def test_the_error_of_a_guarded_service_is_raised_and_the_guards_end() -> None:
    log: list[str] = []
    with Reactor(clock=FakeClock()) as reactor:
        with pytest.raises(MalformedMessage, match="guard"):
            reactor.run(run_with_guards(_fail(1), _sleep(10, log)))
        assert log == ["ended"]
