"""Any buffer of a caller is counted in bytes, also when the stream accepts only a part."""

from __future__ import annotations

import array
import ctypes
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    YIELD,
    Reactor,
    ReadYield,
    Service,
    SocketStream,
    Spawn,
    UnexpectedEnd,
    WriteYield,
)
from reactor.core.requests import Request
from reactor.core.timers import FakeClock
from reactor.io.streams import byte_view, writable_view
from tests.reactor.helpers import lost_stream, run
from tests.support.buffers import NO_BUFFERS, SHAPES
from tests.support.memory_pipe import memory_pipe


class Part:
    """A user's stream that accepts or returns a few bytes and counts in bytes."""

    writable: Request = YIELD
    readable: Request = YIELD

    def __init__(self, most: int, content: bytes = b"") -> None:
        self.most = most
        self.content = bytearray(content)

    def write(self, data: Any) -> int:
        taken = data[: self.most]
        self.content += taken
        return len(taken)

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.most, len(self.content))
        buffer[:count] = self.content[:count]
        del self.content[:count]
        return count


@given(shape=st.sampled_from(sorted(SHAPES)), words=st.binary(max_size=90), most=st.integers(1, 40))
def test_all_bytes_of_any_buffer_are_written_and_read(shape: str, words: bytes, most: int) -> None:
    content = words + bytes(8 + -len(words) % 8)
    stream = Part(most)

    def service() -> Service[Any]:
        yield from WriteYield(stream).write_all(SHAPES[shape](content))
        assert bytes(stream.content) == content
        back = SHAPES[shape](bytes(len(content)))
        yield from ReadYield(stream).read_exactly(back)
        return back

    with Reactor(clock=FakeClock()) as reactor:
        assert bytes(byte_view(run(reactor, service()))) == content


@pytest.mark.parametrize("shape", SHAPES)
def test_a_call_returns_the_number_of_bytes_handled(shape: str) -> None:
    content = bytes(range(64))

    def service() -> Service[None]:
        reader, writer = memory_pipe(40)
        assert (yield from WriteYield(writer).write(SHAPES[shape](content))) == 40
        buffer = SHAPES[shape](bytes(48))
        assert (yield from ReadYield(reader).readinto(buffer)) == 40
        assert bytes(byte_view(buffer)) == content[:40] + bytes(8)
        with pytest.raises(BlockingIOError):
            reader.readinto(SHAPES[shape](bytes(8)))
        part = Part(5, content)
        assert (yield from ReadYield(part).readinto(SHAPES[shape](bytes(16)))) == 5
        assert (yield from WriteYield(part).write(SHAPES[shape](content))) == 5

    with Reactor(clock=FakeClock()) as reactor:
        run(reactor, service())


def test_a_socket_takes_a_large_array_whole() -> None:
    left, right = socket.socketpair()
    content = array.array("I", range(400_000))

    def service() -> Service[int]:
        with SocketStream(left) as sending, SocketStream(right) as receiving:

            def send() -> Service[None]:
                yield from WriteYield(sending).write_all(content)  # type: ignore[arg-type]
                sending.shutdown_write()

            yield Spawn(send())
            got = array.array("I", bytes(4 * len(content)))
            yield from ReadYield(receiving).read_exactly(got)  # type: ignore[arg-type]
            assert got == content
            return (yield from ReadYield(receiving).readinto(bytearray(9)))

    with Reactor() as reactor:
        assert run(reactor, service()) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_socket_reads_into_any_buffer_and_knows_when_it_is_drained(shape: str) -> None:
    left, right = socket.socketpair()
    with SocketStream(left) as sending, SocketStream(right) as receiving:
        assert sending.write(SHAPES[shape](bytes(range(24)))) == 24
        buffer = SHAPES[shape](bytes(16))
        assert receiving.readinto(buffer) == 16
        assert not receiving.drained
        assert bytes(byte_view(buffer)) == bytes(range(16))
        assert receiving.readinto(buffer) == 8
        assert receiving.drained


@pytest.mark.parametrize("shape", ["array of ints", "ctypes structure"])
def test_a_lost_connection_is_reported_for_any_kind_of_buffer(shape: str) -> None:
    with lost_stream() as stream, pytest.raises(Exception, match=r"connection lost: .*reset"):
        stream.readinto(SHAPES[shape](bytes(16)))


@pytest.mark.parametrize(("value", "word"), NO_BUFFERS.values(), ids=NO_BUFFERS.keys())
def test_a_non_contiguous_buffer_is_refused_by_name(value: Any, word: str) -> None:
    left, right = socket.socketpair()
    reader, writer = memory_pipe(99)
    with SocketStream(left) as one, SocketStream(right) as other:

        def service() -> Service[None]:
            for stream in (one, writer, Part(9)):
                for method in (WriteYield(stream).write, WriteYield(stream).write_all):
                    with pytest.raises(TypeError, match=rf"data: expected .*{word}"):
                        yield from method(value)
            for source in (other, reader, Part(9)):
                for read in (ReadYield(source).readinto, ReadYield(source).read_exactly):
                    with pytest.raises(TypeError, match=rf"buffer: expected .*{word}"):
                        yield from read(value)

        with Reactor(clock=FakeClock()) as reactor:
            run(reactor, service())
        for call in (one.write, writer.write):
            with pytest.raises(TypeError, match=rf"data: expected .*{word}"):
                call(value)
        for take in (other.readinto, reader.readinto):
            with pytest.raises(TypeError, match=rf"buffer: expected .*{word}"):
                take(value)


def test_reading_into_a_read_only_buffer_takes_nothing_from_the_stream() -> None:
    reader, writer = memory_pipe(99)
    writer.write(b"content")
    with pytest.raises(TypeError, match="read-only"):
        reader.readinto(b"12345678")  # type: ignore[arg-type]
    buffer = bytearray(9)
    assert reader.readinto(buffer) == 7


def test_the_end_in_the_middle_is_counted_in_bytes() -> None:
    def service() -> Service[UnexpectedEnd]:
        reader, writer = memory_pipe(99)
        writer.write(bytes(6))
        writer.close()
        with pytest.raises(UnexpectedEnd) as caught:
            yield from ReadYield(reader).read_exactly(array.array("I", bytes(16)))  # type: ignore[arg-type]
        return caught.value

    with Reactor(clock=FakeClock()) as reactor:
        error = run(reactor, service())
    assert (error.received_bytes, error.expected_bytes) == (6, 16)


def test_a_view_without_bytes_is_empty_whatever_its_shape() -> None:
    assert len(byte_view(memoryview(((ctypes.c_uint16 * 0) * 3)()))) == 0
    assert len(writable_view(array.array("d"))) == 0
