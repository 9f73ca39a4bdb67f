"""The idle time limits and the speed limit of `Splice`, on a fake clock."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from typing import Any

import pytest

from reactor import CurrentTime, Reactor, Service, Signal, Sleep, SocketStream, Spawn
from reactor.core.timers import FakeClock
from tests.reactor.helpers import run
from tunnel.errors import ErrorCode, PeerError
from tunnel.services.splice import Splice


class Stream:
    """A sub-stream whose other end sends what the test gives, and takes everything."""

    chunk_data_bytes = 1_000
    failure = None

    def __init__(self) -> None:
        self.readable, self.writable = Signal(), Signal()
        self.arrived = b""
        self.has_ended = self.is_full = False
        self.code: ErrorCode | None = None

    def give(self, data: bytes) -> None:
        self.arrived += data
        self.has_ended |= not data
        self.readable.set()

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), len(self.arrived))
        if not count and not self.has_ended:
            raise BlockingIOError
        buffer[:count], self.arrived = self.arrived[:count], self.arrived[count:]
        return count

    def read(self, limit_bytes: int) -> bytes:
        buffer = bytearray(limit_bytes)
        return bytes(buffer[: self.readinto(buffer)])

    def write(self, data: Any) -> int:
        if self.is_full:
            raise BlockingIOError
        return len(data)

    def close(self) -> None:
        pass

    finish = close

    def stop(self, code: ErrorCode) -> None:
        pass

    def give_up(self, code: ErrorCode) -> None:
        self.code = code


def ended_after_s(use: Callable[[Stream, socket.socket], Service[None]], **options: Any) -> float:
    """The time after which a splice ends with TIMEOUT; infinite: it ended in order."""
    near, far = socket.socketpair()
    stream = Stream()

    def service() -> Service[float]:
        began_s: float = yield CurrentTime()
        yield Spawn(use(stream, far))
        try:
            yield from Splice(SocketStream(near), stream, **options).run()  # type: ignore[arg-type]
        except PeerError:
            now_s: float = yield CurrentTime()
            return now_s - began_s
        return math.inf

    with Reactor(clock=FakeClock()) as reactor, near, far:
        after_s = run(reactor, service())
    assert stream.code is (None if after_s == math.inf else ErrorCode.TIMEOUT)
    return after_s


def silence(stream: Stream, far: socket.socket) -> Service[None]:
    yield Sleep(0)


def test_a_silent_connection_ends_after_its_idle_time() -> None:
    assert ended_after_s(silence, idle_s=100.0) == pytest.approx(100, abs=50)
    assert ended_after_s(silence, idle_s=100.0, half_open_s=10.0) == pytest.approx(100, abs=5)


@pytest.mark.parametrize("side", ["socket", "tunnel"])
def test_each_byte_in_either_direction_begins_the_idle_time_again(side: str) -> None:
    def use(stream: Stream, far: socket.socket) -> Service[None]:
        for _ in range(10):
            yield Sleep(90)
            if side == "socket":
                far.send(b"x")
            else:
                stream.give(b"x")

    assert 1_000 <= ended_after_s(use, idle_s=100.0) <= 1_050


@pytest.mark.parametrize("side", ["socket", "tunnel"])
def test_the_end_of_a_direction_begins_the_shorter_time_of_a_half_open_connection(side: str) -> None:
    def use(stream: Stream, far: socket.socket) -> Service[None]:
        yield Sleep(95)  # longer than a half-open connection may be silent
        if side == "socket":
            far.shutdown(socket.SHUT_WR)
        else:
            stream.give(b"")

    assert 95 + 20 <= ended_after_s(use, idle_s=100.0, half_open_s=20.0) <= 95 + 30


def test_a_slow_connection_is_not_idle() -> None:
    def use(stream: Stream, far: socket.socket) -> Service[None]:
        stream.give(bytes(500))
        stream.give(b"")
        far.shutdown(socket.SHUT_WR)
        yield Sleep(0)

    assert ended_after_s(use, idle_s=5.0, bytes_per_s=10) == math.inf


@pytest.mark.parametrize("is_full", [True, False], ids=["both sides wait", "the socket is read"])
def test_a_lost_socket_is_noticed_although_nothing_is_read_from_it(is_full: bool) -> None:
    """The other end of the tunnel takes no bytes, so those of the socket are not read."""
    near, far = socket.socketpair()
    stream = Stream()
    stream.is_full = is_full
    far.send(b"to the tunnel")
    stream.give(b"to the program, which does not read it")

    def service() -> Service[float]:
        splicing = yield Spawn(Splice(SocketStream(near), stream).run())  # type: ignore[arg-type]
        yield Sleep(1_000)
        assert not splicing.is_finished
        far.close()  # unread bytes make it a reset
        began_s: float = yield CurrentTime()
        with pytest.raises(PeerError, match=r"broke|lost"):
            yield from splicing.join()
        now_s: float = yield CurrentTime()
        return now_s - began_s

    with Reactor(clock=FakeClock()) as reactor, near, far:
        assert run(reactor, service()) <= 10
    assert stream.code is ErrorCode.DISCONNECTED
