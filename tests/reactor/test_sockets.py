"""Connecting and listening on loopback, over both pollers."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reactor import (
    Broken,
    Closed,
    ConnectError,
    Reactor,
    ReadYield,
    Scope,
    Service,
    SocketStream,
    Spawn,
    TcpListener,
    TimedOut,
    UnixListener,
    WriteYield,
    connect_tcp,
    connect_unix,
)
from reactor.core.timers import FakeClock
from tests.reactor.helpers import assert_clean, errors_logged, passes, run


@pytest.fixture
def listener() -> Iterator[TcpListener]:
    with TcpListener("127.0.0.1", 0) as listener:
        yield listener


def echo(stream: SocketStream) -> Service[None]:
    reader, writer = ReadYield(stream), WriteYield(stream)
    with stream:
        while data := (yield from reader.read()):
            yield from writer.write_all(data)


def serve(listener: TcpListener, scope: Scope) -> Service[None]:
    while True:
        stream = yield from listener.accept()
        yield from scope.spawn(echo(stream))


def ask(listener: TcpListener, text: bytes) -> Service[bytes]:
    stream = yield from connect_tcp(*listener.address)
    with stream:
        yield from WriteYield(stream).write_all(text)
        buffer = bytearray(len(text))
        yield from ReadYield(stream).read_exactly(buffer)
    return bytes(buffer)


def test_many_clients(reactor: Reactor, listener: TcpListener) -> None:
    def service() -> Service[None]:
        scope = Scope("connections")
        server = yield Spawn(serve(listener, scope))
        clients = []
        for number in range(60):
            clients.append((yield Spawn(ask(listener, b"text %d" % number))))
        for number, client in enumerate(clients):
            assert (yield from client.join()) == b"text %d" % number
        yield from scope.join()
        server.cancel()
        yield from passes(2)

    run(reactor, service())
    assert_clean(reactor)


@pytest.mark.parametrize("sent", [b"", b"all of it"])
def test_content_that_arrived_before_accept_is_read(
    reactor: Reactor, listener: TcpListener, sent: bytes
) -> None:
    # The first read of an accepted connection waits: data and end that have arrived already must wake it.
    with socket.create_connection(listener.address) as client:
        client.sendall(sent)

    def service() -> Service[bytes]:
        stream = yield from listener.accept()
        with stream:
            assert stream.drained
            found = b""
            while data := (yield from ReadYield(stream).read(4)):
                found += data
            return found

    assert run(reactor, service()) == sent


def test_names_and_options(reactor: Reactor, listener: TcpListener) -> None:
    def service() -> Service[None]:
        near = yield from connect_tcp("localhost", listener.address[1])
        far = yield from listener.accept()
        with near, far:
            assert far.peername[0] == "127.0.0.1"
            assert near.peername[:2] == listener.address
            for stream in (near, far):
                assert os.get_blocking(stream.fileno()) is False
                with socket.socket(fileno=socket.dup(stream.fileno())) as sock:
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(reactor, service())


def test_a_place_that_cannot_be_listened_on_is_named(listener: TcpListener) -> None:
    port = listener.address[1]
    with pytest.raises(OSError, match=f"Address already in use: '127.0.0.1:{port}'"):
        TcpListener("127.0.0.1", port)
    with pytest.raises(OSError, match=r"'192\.0\.2\.1:0'"):  # a documentation address
        TcpListener("192.0.2.1", 0)
    with pytest.raises(OSError, match=r"no-such-host\.invalid:0"):
        TcpListener("no-such-host.invalid", 0)


def test_refused_names_the_place(reactor: Reactor, listener: TcpListener) -> None:
    port = listener.address[1]
    listener.close()

    def service() -> Service[None]:
        with pytest.raises(ConnectError, match=f"127.0.0.1:{port}") as caught:
            yield from connect_tcp("127.0.0.1", port)
        assert caught.value.errno == errno.ECONNREFUSED
        assert isinstance(caught.value, Broken)
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)

    run(reactor, service())
    assert_clean(reactor)


def test_unknown_name(fake: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, *args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def service() -> Service[None]:
        with pytest.raises(ConnectError, match=r"nowhere\.invalid:80"):
            yield from connect_tcp("nowhere.invalid", 80)

    run(fake, service())


def test_connecting_times_out_and_closes(fake: Reactor) -> None:
    """A full backlog drops connections without an answer; the fake clock makes the wait short."""
    with TcpListener("127.0.0.1", 0, backlog=0) as listener:
        fillers = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.address)
            fillers.append(sock)

        def service() -> Service[None]:
            with pytest.raises(TimedOut):
                yield from connect_tcp(*listener.address, timeout_s=5)

        run(fake, service())
        for sock in fillers:
            sock.close()
    assert_clean(fake)


def test_next_address_is_tried(fake: Reactor, listener: TcpListener, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = socket.socket()
    dead.bind(("127.0.0.1", 0))
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*entry, dead.getsockname()), (*entry, listener.address)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)

    def service() -> Service[None]:
        stream = yield from connect_tcp("two.addresses", 1)
        assert stream.peername == listener.address
        stream.close()

    run(fake, service())
    dead.close()


Accepts = Callable[[Callable[[int], int]], tuple[TcpListener, list[int]]]


@pytest.fixture
def failing_listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accepts]:
    """Make a listener whose n-th accept fails with error number `error_of(n)`; 0: it succeeds.

    Returns the listener, and a list with the number of accepts so far.
    """
    plain = socket.socket.accept
    with contextlib.ExitStack() as stack:

        def make(error_of: Callable[[int], int]) -> tuple[TcpListener, list[int]]:
            calls = [0]

            def accept(sock: socket.socket) -> Any:
                calls[0] += 1
                if number := error_of(calls[0]):
                    raise OSError(number, "as the test wants")
                return plain(sock)

            monkeypatch.setattr(socket.socket, "accept", accept)
            return stack.enter_context(TcpListener("127.0.0.1", 0)), calls

        yield make


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_out_of_descriptors_backs_off_and_reports_once(
    fake: Reactor,
    clock: FakeClock,
    failing_listener: Accepts,
    number: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener, calls = failing_listener(lambda count: number if count <= 5 else 0)

    def service() -> Service[None]:
        near = yield from connect_tcp(*listener.address)
        far = yield from listener.accept()
        near.close()
        far.close()

    run(fake, service())
    assert calls[0] == 6
    assert clock.now() == pytest.approx(0.5)
    assert len(errors_logged(caplog)) == 1


def test_out_of_descriptors_again_and_again_is_reported_once_a_minute(
    fake: Reactor, clock: FakeClock, failing_listener: Accepts, caplog: pytest.LogCaptureFixture
) -> None:
    """At the limit, each connection that ends makes room for one more."""
    listener, _ = failing_listener(lambda count: errno.EMFILE if count % 2 else 0)

    def service() -> Service[None]:
        for _ in range(700):
            near = yield from connect_tcp(*listener.address)
            far = yield from listener.accept()
            near.close()
            far.close()

    run(fake, service())
    assert clock.now() == pytest.approx(70)
    assert len(errors_logged(caplog)) == 2


def test_out_of_descriptors_for_real() -> None:
    """In another process, with a low limit: accepting continues when a descriptor is free."""
    program = """
        import logging, resource, socket
        from reactor import *
        from reactor.core.timers import FakeClock
        logging.disable(logging.CRITICAL)
        listener = TcpListener("127.0.0.1", 0)
        accepted = []
        def serve():
            while True:
                accepted.append((yield from listener.accept()))
        def main():
            yield Spawn(serve())
            clients = []
            for _ in range(3):
                clients.append((yield from connect_tcp(*listener.address)))
            while len(accepted) < 3:
                yield YIELD
            late = socket.socket()
            late.setblocking(False)
            highest = max(s.fileno() for s in clients + accepted + [late])
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
            late.connect_ex(listener.address)
            yield Sleep(1)
            assert len(accepted) == 3, accepted
            accepted[0].close()
            yield Sleep(1)
            assert len(accepted) == 4, accepted
            return "went on"
        with Reactor(clock=FakeClock()) as reactor:
            print(reactor.run(main()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("went on", "")


def test_lost_connections_are_passed_over(fake: Reactor, failing_listener: Accepts) -> None:
    listener, calls = failing_listener(lambda count: errno.ECONNABORTED if count <= 3 else 0)

    def service() -> Service[None]:
        near = yield from connect_tcp(*listener.address)
        far = yield from listener.accept()
        near.close()
        far.close()

    run(fake, service())
    assert calls[0] == 4


def test_failing_listener_is_broken(fake: Reactor, failing_listener: Accepts) -> None:
    listener, _ = failing_listener(lambda count: errno.EINVAL if count == 1 else 0)

    def service() -> Service[None]:
        with pytest.raises(Broken):
            yield from listener.accept()

    run(fake, service())


def test_listener_closed_under_accept(reactor: Reactor, listener: TcpListener) -> None:
    def one() -> Service[None]:
        yield from listener.accept()

    handle = reactor.spawn(one())
    reactor.run(passes(3))
    listener.close()
    listener.close()
    reactor.run(passes(2))
    assert isinstance(handle.error, Closed)

    def again() -> Service[None]:
        with pytest.raises(Closed):
            yield from listener.accept()

    run(reactor, again())


def test_taken_address_is_an_os_error(listener: TcpListener) -> None:
    with pytest.raises(OSError, match="in use"):
        TcpListener(*listener.address)


def test_reset_is_broken(reactor: Reactor, listener: TcpListener) -> None:
    def service() -> Service[None]:
        near = yield from connect_tcp(*listener.address)
        far = yield from listener.accept()
        with near, far:
            reading = yield Spawn(ReadYield(near).read())
            yield from passes(2)
            # Closing with data unread makes the system send a reset.
            near.write(b"unread")
            far.close()
            with pytest.raises(Broken) as caught:
                yield from reading.join()
            assert isinstance(caught.value.__cause__, ConnectionResetError)

    run(reactor, service())


@pytest.mark.parametrize("depth", [0, 3], ids=["short path", "path of 200 bytes"])
def test_unix_sockets_carry_bytes_and_are_the_owners_alone(
    reactor: Reactor, tmp_path: Path, depth: int
) -> None:
    folder = tmp_path.joinpath(*["x" * 60] * depth)
    folder.mkdir(parents=True, exist_ok=True)

    def service() -> Service[None]:
        with UnixListener(folder / "socket") as listener:
            assert stat.S_IMODE((folder / "socket").stat().st_mode) == 0o600
            near = yield from connect_unix(folder / "socket")
            far = yield from listener.accept()
            with near, far:
                assert near.peer_uid == far.peer_uid == os.geteuid()
                yield from WriteYield(near).write_all(b"hello")
                near.shutdown_write()
                assert (yield from ReadYield(far).read()) == b"hello"
                assert (yield from ReadYield(far).read()) == b""
        # The path is still there, without a listener.
        with pytest.raises(ConnectionRefusedError, match=str(folder / "socket")):
            yield from connect_unix(folder / "socket")
        for name in ("other", "no folder/socket", "y" * 120 + "/socket"):
            with pytest.raises(FileNotFoundError, match=str(folder / name)):
                yield from connect_unix(folder / name)
        with pytest.raises(OSError, match=f"in use: '{folder / 'socket'}'"):
            UnixListener(folder / "socket")
        with UnixListener(folder / "socket", replace_stale=True):
            with pytest.raises(OSError, match="in use"):  # a live one is not replaced
                UnixListener(folder / "socket", replace_stale=True)
            (yield from connect_unix(folder / "socket")).close()
        (folder / "socket").unlink()
        (folder / "socket").write_text("a file of the user's")
        with pytest.raises(OSError, match="in use"):
            UnixListener(folder / "socket", replace_stale=True)

    run(reactor, service())


def test_a_lost_connection_is_noticed_without_a_read_but_an_end_is_not_a_loss(reactor: Reactor) -> None:
    def service() -> Service[None]:
        with TcpListener("127.0.0.1", 0) as listener:
            near = yield from connect_tcp(*listener.address)
            far = yield from listener.accept()
            with near, far:
                assert not near.is_lost
                yield from WriteYield(far).write_all(b"the last bytes")
                far.shutdown_write()
                near.shutdown_write()
                assert not near.is_lost
                assert not far.is_lost
            assert not near.is_lost  # closed
            near = yield from connect_tcp(*listener.address)
            far = yield from listener.accept()
            with near:
                yield from WriteYield(far).write_all(b"the last bytes")
                yield near.readable
                far.abort()
                assert near.is_lost
                assert (yield from ReadYield(near).read()) == b"the last bytes"
                assert near.is_lost
                with pytest.raises(Broken):
                    yield from ReadYield(near).read()
                assert near.is_lost

    run(reactor, service())


def test_the_name_of_a_unix_socket_can_be_too_long(reactor: Reactor, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)

    def service() -> Service[None]:
        with pytest.raises(OSError, match=str(path)) as caught:
            yield from connect_unix(path)
        assert caught.value.errno == errno.ENAMETOOLONG
        with pytest.raises(OSError, match=str(path)) as caught:
            UnixListener(path, replace_stale=True)
        assert caught.value.errno == errno.ENAMETOOLONG

    run(reactor, service())


def test_connecting_to_a_unix_socket_waits_while_the_backlog_is_full(fake: Reactor, tmp_path: Path) -> None:
    def service() -> Service[None]:
        with UnixListener(tmp_path / "socket", backlog=0) as listener:
            first = yield from connect_unix(tmp_path / "socket")
            with pytest.raises(TimedOut):
                yield from connect_unix(tmp_path / "socket", timeout_s=1)
            second = yield Spawn(connect_unix(tmp_path / "socket"))
            yield from passes(3)
            (yield from listener.accept()).close()
            (yield from second.join()).close()
            first.close()

    run(fake, service())
