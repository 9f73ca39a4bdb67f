"""How a TCP stream ends, over each poller: end, half-close, reset, close and urgent data are distinguished.

The other side is a plain blocking socket, so that each segment is sent when the test says.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reactor import (
    Broken,
    Closed,
    Handle,
    Reactor,
    ReadYield,
    Service,
    SocketStream,
    WriteYield,
    timeout_after,
)
from reactor.core.timers import FakeClock
from reactor.run.debug import (
    Tracer,
    add_tracer,
)
from tests.reactor.conftest import POLLERS
from tests.reactor.helpers import assert_clean, passes, run

Ends = tuple[SocketStream, socket.socket]
LIMIT_S = 60


def connect() -> Ends:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname(), LIMIT_S)
        sock, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return SocketStream(sock), peer


@pytest.fixture
def ends() -> Iterator[Ends]:
    stream, peer = connect()
    with stream, peer:
        yield stream, peer


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def arrived(stream: SocketStream, events: int = select.POLLIN) -> None:
    """Wait until the system has an event of a stream, without asking the reactor."""
    waiting = select.poll()
    waiting.register(stream.fileno(), events)
    assert waiting.poll(LIMIT_S * 1_000)


def read_to_end(
    stream: SocketStream, size: int = 100, got: bytearray | None = None
) -> Service[tuple[bytes, str]]:
    """Read to the end. Returns the bytes and the kind of end, which a second read must confirm."""
    reader, got, buffer = ReadYield(stream), bytearray() if got is None else got, bytearray(size)
    outcomes: list[str] = []
    while len(outcomes) < 2:
        try:
            count = yield from reader.readinto(buffer)
        except Broken as error:
            cause = error.__cause__
            assert isinstance(cause, OSError)
            outcomes.append(errno.errorcode[cause.errno or 0])
        except Closed:
            outcomes.append("closed")
        else:
            got += buffer[:count]
            if not count:
                outcomes.append("end")
    assert outcomes[0] == outcomes[1]
    return bytes(got), outcomes[0]


def parked(reactor: Reactor, stream: SocketStream, got: bytearray | None = None) -> Handle[tuple[bytes, str]]:
    """Start reading, and wait until the read is parked."""
    reading = reactor.spawn(read_to_end(stream, got=got))
    reactor.run(passes(3))
    assert stream.readable.descriptor.reader is not None
    return reading


def test_end_alone(reactor: Reactor, ends: Ends) -> None:
    stream, peer = ends
    reading = parked(reactor, stream)
    peer.close()
    assert run(reactor, reading.join()) == (b"", "end")
    assert_clean(reactor, stream)


@pytest.mark.parametrize("size", [3, 4, 5, 100])
@pytest.mark.parametrize("waits", [True, False])
def test_data_and_end_together(reactor: Reactor, ends: Ends, size: int, waits: bool) -> None:
    stream, peer = ends
    # Registered before, so that both are reported in one edge.
    reading = parked(reactor, stream) if waits else None
    peer.sendall(b"last")
    peer.close()
    arrived(stream, select.POLLRDHUP if hasattr(select, "POLLRDHUP") else select.POLLIN)
    outcome = run(reactor, reading.join() if reading else read_to_end(stream, size))
    assert outcome == (b"last", "end")


def test_the_others_half_close_leaves_our_half(reactor: Reactor, ends: Ends) -> None:
    stream, peer = ends
    peer.sendall(b"question")
    peer.shutdown(socket.SHUT_WR)
    assert run(reactor, read_to_end(stream)) == (b"question", "end")
    answer = bytes(300_000)
    sending = reactor.spawn(WriteYield(stream).write_all(answer))
    got = 0
    while got < len(answer):
        reactor.run(passes(1))
        got += len(peer.recv(65_536))
    assert run(reactor, sending.join()) is None
    assert run(reactor, read_to_end(stream)) == (b"", "end")


def test_our_half_close_leaves_the_others_half(reactor: Reactor, ends: Ends) -> None:
    stream, peer = ends
    stream.shutdown_write()
    assert peer.recv(10) == b""
    reading = parked(reactor, stream)
    peer.sendall(b"answer")
    reactor.run(passes(3))
    assert not reading.is_finished
    with pytest.raises(Broken):
        stream.write(b"x")
    peer.close()
    assert run(reactor, reading.join()) == (b"answer", "end")


def test_reset_under_a_waiting_reader(reactor: Reactor, ends: Ends) -> None:
    stream, peer = ends
    reading = parked(reactor, stream)
    reset(peer)
    assert run(reactor, reading.join()) == (b"", "ECONNRESET")
    with pytest.raises(Broken):
        stream.write(b"x")
    assert run(reactor, read_to_end(stream)) == (b"", "ECONNRESET")


def test_a_reset_after_data(reactor: Reactor, ends: Ends) -> None:
    stream, peer = ends
    peer.sendall(b"some")
    arrived(stream)
    reset(peer)
    arrived(stream, select.POLLHUP)
    got, outcome = run(reactor, read_to_end(stream))
    assert b"some".startswith(got)
    assert outcome == "ECONNRESET"


def test_a_reset_that_the_writer_notices_first_is_not_an_end_for_the_reader(
    reactor: Reactor, ends: Ends
) -> None:
    """The kernel reports a loss once, and the next read would return 0: cut content would look complete."""
    stream, peer = ends
    peer.sendall(b"half of i")
    arrived(stream)
    reset(peer)
    arrived(stream, select.POLLHUP)
    with pytest.raises(Broken) as caught:
        stream.write(b"x")
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert run(reactor, read_to_end(stream))[1] == "ECONNRESET"


def test_the_end_stays_an_end_after_writing_has_failed(reactor: Reactor, ends: Ends) -> None:
    """The other side had sent everything and closed. That this side can no longer send does not change it."""
    stream, peer = ends
    peer.sendall(b"all of it")
    peer.close()
    arrived(stream, select.POLLIN)
    stream.write(b"into the void")
    arrived(stream, select.POLLHUP)
    with pytest.raises(Broken):
        stream.write(b"x")
    assert run(reactor, read_to_end(stream)) == (b"all of it", "end")


def test_reset_under_a_waiting_writer(reactor: Reactor, ends: Ends) -> None:
    stream, peer = ends
    writing = reactor.spawn(WriteYield(stream).write_all(bytes(50_000_000)))
    while stream.writable.descriptor.writer is None:
        reactor.run(passes(1))
    reset(peer)
    with pytest.raises(Broken):
        run(reactor, writing.join())
    assert_clean(reactor, stream)


def test_closed_by_us(reactor: Reactor, ends: Ends) -> None:
    stream, peer = ends
    reading = parked(reactor, stream)
    peer.sendall(b"too late")
    stream.close()
    assert run(reactor, reading.join()) == (b"", "closed")


class Resumed(Tracer):
    """Counts how often services run."""

    def __init__(self) -> None:
        self.count = 0

    def service_resumed(self, service: Handle[Any]) -> None:
        if service.name == "read_to_end":
            self.count += 1


def test_urgent_data_are_in_their_place_and_do_not_spin(reactor: Reactor, ends: Ends) -> None:
    stream, peer = ends
    resumed = Resumed()
    add_tracer(reactor, resumed)
    got = bytearray()
    reading = parked(reactor, stream, got)
    before = resumed.count
    # One edge for everything; a read stops at the urgent byte, although more bytes follow.
    peer.send(b"abc")
    peer.send(b"!", socket.MSG_OOB)
    peer.send(b"def")
    arrived(stream)
    reactor.run(passes(200))
    assert got == b"abc!def"
    assert stream.readable.descriptor.reader is not None
    assert resumed.count - before <= 8
    # An urgent byte alone.
    peer.send(b"?", socket.MSG_OOB)
    arrived(stream)
    reactor.run(passes(200))
    assert got == b"abc!def?"
    assert resumed.count - before <= 16
    peer.send(b"ghi")
    peer.close()
    assert run(reactor, timeout_after(5, reading.join())) == (b"abc!def?ghi", "end")


def test_urgent_data_of_a_local_socket(reactor: Reactor, pair: tuple[SocketStream, SocketStream]) -> None:
    left, right = pair
    got = bytearray()
    parked(reactor, left, got)
    with socket.socket(fileno=os.dup(right.fileno())) as peer:
        try:
            peer.send(b"abc!", socket.MSG_OOB)
        except OSError as error:
            pytest.skip(f"local sockets of this system have no urgent data: {error}")
        peer.send(b"def")
    reactor.run(passes(200))
    assert got == b"abc!def"
    # So that the reader does not outlive the test.
    right.close()
    reactor.run(passes(200))


@pytest.mark.parametrize("kind", list(POLLERS))
@given(
    sends=st.lists(st.tuples(st.binary(min_size=1, max_size=5), st.booleans()), max_size=8),
    size=st.integers(1, 9),
    runs=st.lists(st.booleans(), min_size=8, max_size=8),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_urgent_data_anywhere(
    kind: str, sends: list[tuple[bytes, bool]], size: int, runs: list[bool]
) -> None:
    stream, peer = connect()
    with Reactor(clock=FakeClock(), poller=POLLERS[kind]()) as reactor, stream, peer:
        sent, got = bytearray(), bytearray()
        reading = reactor.spawn(read_to_end(stream, size, got))
        for (data, is_urgent), runs_now in zip(sends, runs, strict=False):
            peer.send(data, socket.MSG_OOB if is_urgent else 0)
            sent += data
            if runs_now:
                reactor.run(passes(2))
        # Before the end, whose event would replace a lost one.
        reactor.run(passes(100))
        assert got == sent
        peer.close()
        assert run(reactor, reading.join()) == (bytes(sent), "end")
