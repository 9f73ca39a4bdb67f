"""Sockets and the yield wrappers over both pollers.

Partial reads and writes, ends, hang-ups, streams passed on, hints.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    YIELD,
    Broken,
    Busy,
    Closed,
    Reactor,
    ReadYield,
    Service,
    Signal,
    SocketStream,
    Spawn,
    UnexpectedEnd,
    WriteYield,
)
from reactor.core.poller import (
    FileDescriptor,
    Poller,
)
from reactor.core.timers import FakeClock
from tests.reactor.conftest import POLLERS
from tests.reactor.helpers import assert_clean, forever, passes, run
from tests.support.memory_pipe import memory_pipe

Pair = tuple[SocketStream, SocketStream]
BIG = bytes(range(256)) * 8_192


def read_to_end(stream: Any, buffer_bytes: int = 65_536) -> Service[bytes]:
    reader, buffer, got = ReadYield(stream), bytearray(buffer_bytes), bytearray()
    while count := (yield from reader.readinto(buffer)):
        got += buffer[:count]
    return bytes(got)


def send_and_end(stream: SocketStream, data: bytes) -> Service[None]:
    yield from WriteYield(stream).write_all(data)
    stream.shutdown_write()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, len(BIG)])
def test_round_trip(reactor: Reactor, pair: Pair, size: int) -> None:
    left, right = pair

    def service() -> Service[bytes]:
        sender = yield Spawn(send_and_end(left, BIG[:size]))
        got = yield from read_to_end(right)
        yield from sender.join()
        # The end stays the end.
        assert (yield from ReadYield(right).read()) == b""
        return got

    assert run(reactor, service()) == BIG[:size]
    assert_clean(reactor, left, right)


def test_data_and_end_in_one_edge(reactor: Reactor, pair: Pair) -> None:
    """The trap of the short-read hint.

    The reader waits already, then data and FIN come before the poller is asked.
    """
    left, right = pair

    def service() -> Service[bytes]:
        reading = yield Spawn(read_to_end(right))
        yield from passes(3)
        left.write(b"last words")
        left.shutdown_write()
        return (yield from reading.join())  # type: ignore[no-any-return]

    assert run(reactor, service()) == b"last words"
    assert right.drained is False


def test_end_after_a_drained_read(reactor: Reactor, pair: Pair) -> None:
    """Here the hint applies, and the end has its own edge."""
    left, right = pair

    def service() -> Service[None]:
        reader = ReadYield(right)
        left.write(b"abc")
        assert (yield from reader.read(10)) == b"abc"
        assert right.drained
        left.close()
        assert (yield from reader.read(10)) == b""

    run(reactor, service())


def test_hint_is_the_streams_not_the_readers(reactor: Reactor, pair: Pair) -> None:
    """One reader drains the stream, another reads a part of later bytes.

    The first must not wait for an event that was delivered before.
    """
    left, right = pair

    def service() -> Service[None]:
        first, second = ReadYield(right), ReadYield(right)
        left.write(b"abc")
        assert (yield from first.read(10)) == b"abc"
        left.write(b"defghi")
        assert (yield from second.read(2)) == b"de"
        assert (yield from first.read(10)) == b"fghi"

    run(reactor, service())


def test_lending_the_read_side_while_data_arrives(reactor: Reactor, pair: Pair) -> None:
    """Each service reads one byte or a few and passes the stream on; no byte and no wake-up is lost."""
    left, right = pair
    total = 2_000
    got = bytearray()
    turns = [Signal(), Signal(), Signal()]

    def borrower(number: int) -> Service[None]:
        while True:
            yield turns[number]
            if len(got) < total:
                got.extend((yield from ReadYield(right).read(1 + number * 3)))
            turns[(number + 1) % 3].set()
            if len(got) >= total:
                return

    def sender() -> Service[None]:
        writer = WriteYield(left)
        for start in range(0, total, 5):
            yield from writer.write_all(BIG[start : start + 5])
            yield YIELD

    handles = [reactor.spawn(borrower(number)) for number in range(3)]
    reactor.spawn(sender())
    turns[0].set()
    for handle in handles:
        reactor.run(handle.join())
    assert bytes(got) == BIG[:total]


def test_lender_waits_and_is_cancelled_then_lends(reactor: Reactor, pair: Pair) -> None:
    left, right = pair
    lender = reactor.spawn(ReadYield(right).read())
    reactor.run(passes(2))
    lender.cancel()
    left.write(b"x")
    assert run(reactor, ReadYield(right).read()) == b"x"


def test_second_reader_is_refused_and_the_first_not_disturbed(reactor: Reactor, pair: Pair) -> None:
    left, right = pair
    first = reactor.spawn(ReadYield(right).read(), name="first")
    reactor.run(passes(2))

    def second() -> Service[None]:
        with pytest.raises(Busy, match="'first'"):
            yield right.readable

    run(reactor, second())
    left.write(b"for the first")
    reactor.run(first.join())
    assert first.result() == b"for the first"


def test_second_writer_is_refused(reactor: Reactor, pair: Pair) -> None:
    left, _ = pair
    first = reactor.spawn(WriteYield(left).write_all(BIG), name="first")
    reactor.run(passes(5))
    assert left.writable.descriptor.writer is first

    def second() -> Service[None]:
        with pytest.raises(Busy, match="'first'"):
            yield left.writable

    run(reactor, second())
    first.cancel()


def test_reading_and_writing_wait_at_once(reactor: Reactor, pair: Pair) -> None:
    left, right = pair
    writing = reactor.spawn(send_and_end(left, BIG))
    reading = reactor.spawn(ReadYield(left).read())
    reactor.run(passes(4))
    right.write(b"hello")
    reactor.run(reading.join())
    assert reading.result() == b"hello"
    assert run(reactor, read_to_end(right)) == BIG
    reactor.run(writing.join())


def test_closed_under_the_waiter(reactor: Reactor, pair: Pair) -> None:
    left, _ = pair
    reading = reactor.spawn(ReadYield(left).read(), name="reading")
    writing = reactor.spawn(WriteYield(left).write_all(BIG * 4), name="writing")
    reactor.run(passes(5))
    left.close()
    left.close()
    reactor.run(passes(2))
    assert isinstance(reading.error, Closed)
    assert isinstance(writing.error, Closed)
    assert_clean(reactor, left)


def test_a_closed_stream_is_not_tried_for_ever(reactor: Reactor, pair: Pair) -> None:
    left, _ = pair
    left.close()

    def service() -> Service[None]:
        with pytest.raises(Closed):
            yield from ReadYield(left).read()
        with pytest.raises(Closed):
            yield from ReadYield(left).readinto(bytearray(5))
        with pytest.raises(Closed):
            yield from WriteYield(left).write_all(b"x")
        with pytest.raises(Closed):
            yield left.readable
        with pytest.raises(Closed):
            yield left.writable
        with pytest.raises(Closed):
            left.shutdown_write()

    run(reactor, service())


def test_broken_has_the_cause(reactor: Reactor, pair: Pair) -> None:
    left, right = pair
    right.close()

    def service() -> Service[None]:
        with pytest.raises(Broken) as caught:
            yield from WriteYield(left).write_all(BIG)
        assert isinstance(caught.value.__cause__, BrokenPipeError)

    run(reactor, service())


def test_read_exactly(reactor: Reactor, pair: Pair) -> None:
    left, right = pair

    def service() -> Service[None]:
        reader, buffer = ReadYield(right), bytearray(8)
        sender = yield Spawn(send_bytes_one_by_one(left, b"12345678ab"))
        yield from reader.read_exactly(buffer)
        assert buffer == b"12345678"
        yield from sender.join()
        left.close()
        with pytest.raises(UnexpectedEnd) as caught:
            yield from reader.read_exactly(buffer)
        assert (caught.value.received_bytes, caught.value.expected_bytes) == (2, 8)
        assert buffer[:2] == b"ab"
        yield from reader.read_exactly(bytearray())

    run(reactor, service())


def send_bytes_one_by_one(stream: SocketStream, data: bytes) -> Service[None]:
    for byte in data:
        yield from WriteYield(stream).write_all(bytes([byte]))
        yield YIELD


class Restartable:
    """A minimal layer: reads exactly n bytes, over any number of refused calls."""

    def __init__(self, wanted_bytes: int) -> None:
        self.missing = wanted_bytes
        self.got = bytearray()

    def take(self, stream: Any) -> bytes:
        while self.missing:
            buffer = bytearray(self.missing)
            count = stream.readinto(buffer)
            self.got += buffer[:count]
            self.missing -= count
        return bytes(self.got)

    def read_into(self, stream: Any, buffer: bytearray) -> int:
        data = self.take(stream)
        buffer[: len(data)] = data
        return len(data)


def test_a_refused_call_continues_where_it_stopped(reactor: Reactor, pair: Pair) -> None:
    left, right = pair

    def service() -> Service[None]:
        reader = ReadYield(right)
        yield Spawn(send_bytes_one_by_one(left, b"abcdefgh"))
        assert (yield from reader.call(Restartable(5).take)) == b"abcde"
        buffer = bytearray(3)
        assert (yield from reader.read_into(buffer, Restartable(3))) == 3
        assert buffer == b"fgh"

    run(reactor, service())


class AlwaysReady:
    """A stream that never refuses, such as a file."""

    def __init__(self) -> None:
        self.readable = self.writable = Signal()

    def readinto(self, buffer: bytearray) -> int:
        buffer[0] = 1
        return 1

    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        return None


@pytest.mark.parametrize("kind", ["readinto", "write", "write_all", "call", "flush"])
def test_a_busy_service_lets_others_run(fake: Reactor, kind: str) -> None:
    stream = AlwaysReady()
    turns = [0]

    def busy() -> Service[None]:
        reader, writer, buffer = ReadYield(stream), WriteYield(stream), bytearray(1)
        calls: dict[str, Any] = {
            "readinto": lambda: reader.readinto(buffer),
            "write": lambda: writer.write(b"x"),
            "write_all": lambda: writer.write_all(b"x"),
            "call": lambda: reader.call(AlwaysReady.readinto, buffer),
            "flush": writer.flush,
        }
        while True:
            turns[0] += 1
            yield from calls[kind]()

    fake.spawn(busy())
    fake.run(passes(3))
    assert 16 <= turns[0] <= 100


@given(
    capacity=st.integers(1, 20),
    data=st.binary(max_size=200),
    chunks=st.lists(st.integers(1, 30), min_size=1),
    seed=st.integers(0, 100),
)
def test_memory_pipe(capacity: int, data: bytes, chunks: list[int], seed: int) -> None:
    reader, writer = memory_pipe(capacity)

    def send() -> Service[None]:
        wrapper, start, turn = WriteYield(writer), 0, 0
        while start < len(data):
            chunk = data[start : start + chunks[turn % len(chunks)]]
            yield from wrapper.write_all(chunk)
            start, turn = start + len(chunk), turn + 1
        writer.close()

    with Reactor(clock=FakeClock(), seed=seed) as reactor:
        reactor.spawn(send())
        assert run(reactor, read_to_end(reader, chunks[-1])) == data


def test_memory_pipe_closed_ends(fake: Reactor) -> None:
    reader, writer = memory_pipe(4)
    blocked = fake.spawn(WriteYield(writer).write_all(b"123456"))
    fake.run(passes(2))
    reader.close()
    fake.run(passes(2))
    assert isinstance(blocked.error, Broken)
    with pytest.raises(Closed):
        reader.readinto(bytearray(1))
    writer.close()
    with pytest.raises(Closed):
        writer.write(b"x")
    with pytest.raises(ValueError, match="at least 1"):
        memory_pipe(0)


# Descriptors below the streams.


def test_stale_readiness_after_the_number_is_used_again(reactor: Reactor) -> None:
    """A descriptor with an event is closed. The next file with its number must not be woken."""
    first, peer = socket.socketpair()
    stream = SocketStream(first)
    reading = reactor.spawn(ReadYield(stream).read())
    reactor.run(passes(2))
    number = stream.fileno()
    peer.send(b"stale")
    stream.close()
    second, other_peer = socket.socketpair()
    if second.fileno() != number:
        second, other_peer = other_peer, second
    assert second.fileno() == number
    with peer, SocketStream(second) as fresh, other_peer:
        waiting = reactor.spawn(forever_reading(fresh))
        reactor.run(passes(5))
        assert isinstance(reading.error, Closed)
        assert not waiting.is_finished
        other_peer.send(b"fresh")
        reactor.run(waiting.join())
        assert waiting.result() == b"fresh"


def forever_reading(stream: SocketStream) -> Service[bytes]:
    """Like ReadYield, but a spurious wake shows."""
    yield stream.readable
    return stream.read(100)


def test_closed_without_notice_and_number_used_again(reactor: Reactor) -> None:
    """The owner forgot `close_notify`: the old waiter gets `Closed` when its number is used again."""
    first, peer = socket.socketpair()
    old = FileDescriptor(first)
    number = first.fileno()

    def wait(descriptor: FileDescriptor) -> Service[None]:
        yield descriptor.readable

    waiting = reactor.spawn(wait(old))
    reactor.run(passes(2))
    first.close()
    second, other_peer = socket.socketpair()
    if second.fileno() != number:
        second, other_peer = other_peer, second
    assert second.fileno() == number
    with peer, second, other_peer:
        fresh = FileDescriptor(second)
        reading = reactor.spawn(wait(fresh))
        reactor.run(passes(3))
        assert isinstance(waiting.error, Closed)
        assert not reading.is_finished
        other_peer.send(b"x")
        reactor.run(reading.join())
        fresh.close_notify()


def test_two_objects_for_one_file(reactor: Reactor, pair: Pair) -> None:
    """Allowed one after the other; at the same time the second is refused."""
    left, right = pair
    extra = FileDescriptor(right)
    left.write(b"x")
    assert run(reactor, ReadYield(right).read()) == b"x"

    def wait(descriptor: FileDescriptor) -> Service[None]:
        yield descriptor.readable

    first = reactor.spawn(wait(extra))
    reactor.run(passes(2))

    def second() -> Service[None]:
        with pytest.raises(Busy):
            yield right.readable

    run(reactor, second())
    left.write(b"y")
    reactor.run(first.join())
    extra.close_notify()
    assert run(reactor, ReadYield(right).read()) == b"y"


@pytest.mark.parametrize("kind", list(POLLERS))
def test_a_stream_moves_between_reactors(kind: str, pair: Pair) -> None:
    left, right = pair
    pollers: list[Poller] = [POLLERS[kind](), POLLERS[kind]()]
    with Reactor(poller=pollers[0], clock=FakeClock()) as one, Reactor(poller=pollers[1]) as two:
        left.write(b"abcdef")
        assert run(one, ReadYield(right).read(10)) == b"abcdef"
        left.write(b"ghi")
        assert run(two, ReadYield(right).read(10)) == b"ghi"
        waiting = one.spawn(ReadYield(right).read())
        one.run(passes(2))
        with pytest.raises(Busy):
            right.detach()
        waiting.cancel()
        one.run(passes(2))
        right.detach()
    left.write(b"jk")
    with Reactor() as three:
        assert run(three, ReadYield(right).read(10)) == b"jk"


def test_a_wait_on_an_unsuitable_object_is_refused(reactor: Reactor) -> None:
    sock = socket.socket()
    descriptor = FileDescriptor(sock)
    sock.close()

    def service() -> Service[None]:
        with pytest.raises(Closed):
            yield descriptor.readable
        with pytest.raises(Closed):
            yield descriptor.writable

    run(reactor, service())
    with pytest.raises(Closed):
        FileDescriptor(sock)


def test_cancelled_wait_leaves_the_descriptor_clean(reactor: Reactor, pair: Pair) -> None:
    _, right = pair
    for _ in range(3):
        handle = reactor.spawn(ReadYield(right).read())
        reactor.run(passes(2))
        handle.cancel()
        reactor.run(passes(2))
        assert handle.is_finished
        assert_clean(reactor, right)


def test_forever_is_forever(reactor: Reactor) -> None:
    handle = reactor.spawn(forever())
    reactor.run(passes(10))
    assert not handle.is_finished
