"""`SocksServer` over a network on loopback: clients of each protocol, failures, limits, and isolation."""

from __future__ import annotations

import base64
import errno
import logging
import resource
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reactor import ConnectError, Service, Signal, connect_tcp
from tests.support.logs import texts_of
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tunnel import Limits, LocalNetwork, Route
from tunnel.client import SocksServer
from tunnel.errors import BadArgument, ErrorCode, LocalTunnelError, PeerError, TargetNotAllowed
from tunnel.established import SubStream
from tunnel.front import socks_server
from tunnel.front.logins import FREE_FAILURES, PAUSE_S
from tunnel.services import Services, StreamService
from tunnel.services.splice import Splice

pytestmark = pytest.mark.full

NO_AUTH = b"\x05\x01\x00"
EXIT = 4
FORBIDDEN, SILENT = 1, 2
NOTHING = bytes(6)
GRANTED = b"\x05\x00\x05\x00\x00\x01" + NOTHING


class LoopbackExit(StreamService):
    """Connects to the port of the target on this machine, whatever its host."""

    def serve(self, stream: SubStream[Signal]) -> Service[None]:
        port = stream.target.port
        if port == FORBIDDEN:
            raise TargetNotAllowed("not that port")
        if port == SILENT:
            yield Signal()
        try:
            sock = yield from connect_tcp("127.0.0.1", port)
        except ConnectError as error:
            is_refused = error.errno == errno.ECONNREFUSED
            code = ErrorCode.TARGET_REFUSED if is_refused else ErrorCode.TARGET_UNREACHABLE
            raise PeerError("no connection", code) from error
        stream.confirm()
        yield from Splice(sock, stream).run()


class Target:
    """A TCP server that runs a function for each connection, in a thread of its own."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._handle = handle
        self.accepted = 0
        self._threads = [threading.Thread(target=self._run)]
        self._threads[0].start()

    def _run(self) -> None:
        while True:
            try:
                conn, _ = self._server.accept()
            except OSError:
                return
            self.accepted += 1
            conn.settimeout(PATIENCE_S)
            self._threads.append(threading.Thread(target=self._serve, args=(conn,)))
            self._threads[-1].start()

    def _serve(self, conn: socket.socket) -> None:
        with conn:
            self._handle(conn)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(timeout=PATIENCE_S)


def echo(conn: socket.socket) -> None:
    try:
        while data := conn.recv(65_536):
            conn.sendall(data)
    except ConnectionError:
        pass  # the client broke off


def count(conn: socket.socket) -> None:
    """Answer with the number of bytes, after the end of the client's half."""
    conn.sendall(b"%d" % len(read_all(conn)))


def reset(conn: socket.socket) -> None:
    conn.recv(1)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hello(conn: socket.socket) -> None:
    conn.recv(65_536)
    conn.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")


def read_all(conn: socket.socket) -> bytes:
    data = bytearray()
    while piece := conn.recv(65_536):
        data += piece
    return bytes(data)


def read_exactly(conn: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = conn.recv(length - len(data))
        assert piece, f"the connection ended after {data!r}"
        data += piece
    return data


@pytest.fixture(scope="module")
def network() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=5, service=Services({}, exit=LoopbackExit()), limits=_limits()) as network:
        yield network


def _limits() -> Limits:
    return Limits(linger_s=1.0, answer_s=5.0)


@pytest.fixture
def targets() -> Iterator[Callable[[Callable[[socket.socket], None]], Target]]:
    made: list[Target] = []

    def make(handle: Callable[[socket.socket], None]) -> Target:
        made.append(Target(handle))
        return made[-1]

    yield make
    for target in made:
        target.close()


class Front:
    """A server that runs in a network, and its clients."""

    def __init__(self, net: LocalNetwork, **options: Any) -> None:
        self.net = net
        options = {"hops": 1, "port": 0, **options}
        self.server = SocksServer(net[0], net[EXIT].id, **options)
        self._ended = net.submit(self._serve())
        self.clients: list[socket.socket] = []

    def _serve(self) -> Service[None]:
        yield from self.server.serve()

    def client(self, first: bytes = b"") -> socket.socket:
        address = self.server.address
        conn = socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET)
        self.clients.append(conn)
        conn.settimeout(PATIENCE_S)
        conn.connect(str(address) if isinstance(address, Path) else address)
        conn.sendall(first)
        return conn

    def connect(
        self, port: int, *, login: tuple[bytes, bytes] | None = None, early: bytes = b""
    ) -> socket.socket:
        """A client that sends everything at once, and whose connection was granted."""
        conn, reply = self.try_connect(port, login=login, early=early)
        assert reply == b"\x05\x00\x00\x01" + NOTHING
        return conn

    def try_connect(
        self, port: int, *, login: tuple[bytes, bytes] | None = None, early: bytes = b""
    ) -> tuple[socket.socket, bytes]:
        request = b"\x05\x01\x00\x03\x09site.test" + port.to_bytes(2) + early
        if login is None:
            conn, length = self.client(NO_AUTH + request), 2
        else:
            user, password = login
            sent = b"\x05\x01\x02\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password
            conn, length = self.client(sent + request), 4
        read_exactly(conn, length)
        return conn, read_exactly(conn, 10)

    def wait(self, condition: Callable[[], object]) -> None:
        wait_until(self.net, condition)

    def close(self) -> None:
        for conn in self.clients:
            conn.close()
        self.net.submit(self.end()).result(timeout=PATIENCE_S)
        self._ended.result(timeout=PATIENCE_S)
        assert self.server.connections == self.server.pending == len(self.server.pool) == 0

    def end(self) -> Service[None]:
        self.server.close()
        return
        yield


@pytest.fixture
def make_front(network: LocalNetwork, targets: object) -> Iterator[Callable[..., Front]]:
    """`targets` outlive the clients, whose ends they wait for."""
    made: list[Front] = []

    def make(**options: Any) -> Front:
        made.append(Front(options.pop("net", network), **options))
        return made[-1]

    yield make
    for front in made:
        front.close()
    wait_until_idle(network)


Make = Callable[..., Front]
MakeTarget = Callable[[Callable[[socket.socket], None]], Target]


def is_over(conn: socket.socket) -> bool:
    """Wait for the end of a connection, in order or not."""
    try:
        return conn.recv(1) == b""
    except ConnectionResetError:
        return True


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# --- connections --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_of", "reply"),
    [
        (lambda port: NO_AUTH + b"\x05\x01\x00\x01\x7f\0\0\x01" + port, b"\x05\0\x05\0\0\x01" + NOTHING),
        (lambda port: NO_AUTH + b"\x05\x01\x00\x03\x01a" + port, b"\x05\0\x05\0\0\x01" + NOTHING),
        (
            lambda port: NO_AUTH + b"\x05\x01\x00\x04" + bytes(15) + b"\x01" + port,
            b"\x05\0\x05\0\0\x01" + NOTHING,
        ),
        (lambda port: b"\x04\x01" + port + b"\x7f\0\0\x01\0", b"\0\x5a" + NOTHING),
        (lambda port: b"\x04\x01" + port + b"\0\0\0\x01me\0site.test\0", b"\0\x5a" + NOTHING),
        (
            lambda port: b"CONNECT site.test:%d HTTP/1.1\r\n\r\n" % int.from_bytes(port),
            b"HTTP/1.1 200 Connection established\r\n\r\n",
        ),
    ],
    ids=["socks5 ipv4", "socks5 name", "socks5 ipv6", "socks4", "socks4a", "connect"],
)
def test_each_protocol_with_early_data(
    make_front: Make, targets: MakeTarget, request_of: Callable[[bytes], bytes], reply: bytes
) -> None:
    conn = make_front().client(request_of(targets(echo).port.to_bytes(2)) + b"early")
    assert read_exactly(conn, len(reply)) == reply
    assert read_exactly(conn, 5) == b"early"
    conn.sendall(b"later")
    assert read_exactly(conn, 5) == b"later"
    conn.shutdown(socket.SHUT_WR)
    assert conn.recv(1) == b""


def test_a_half_close_is_passed_on(make_front: Make, targets: MakeTarget) -> None:
    conn = make_front().connect(targets(count).port)
    conn.sendall(bytes(1_000_000))
    conn.shutdown(socket.SHUT_WR)
    assert read_all(conn) == b"1000000"


def test_many_connections_at_once(make_front: Make, targets: MakeTarget) -> None:
    front, target = make_front(), targets(echo)
    clients = [front.connect(target.port) for _ in range(100)]
    for index, conn in enumerate(clients):
        conn.sendall(b"%03d" % index)
    assert [read_exactly(conn, 3) for conn in clients] == [b"%03d" % index for index in range(100)]
    assert len(front.server.pool) == 2  # of 64 sub-streams each


def test_a_target_that_resets_resets_the_client(make_front: Make, targets: MakeTarget) -> None:
    front = make_front()
    conn = front.connect(targets(reset).port, early=b"x")
    with pytest.raises(ConnectionResetError):
        read_all(conn)
    front.wait(lambda: not front.server.connections)


# --- failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "code", "status"),
    [(FORBIDDEN, 2, b"403 Forbidden"), (0, 5, b"502 Bad Gateway")],
    ids=["forbidden", "refused"],
)
def test_an_error_of_the_target_has_its_reply(make_front: Make, port: int, code: int, status: bytes) -> None:
    front = make_front()
    port = port or closed_port()
    conn, reply = front.try_connect(port)
    assert reply == bytes((5, code, 0, 1)) + NOTHING
    assert conn.recv(1) == b""
    reply = read_all(front.client(b"CONNECT site.test:%d HTTP/1.1\r\n\r\n" % port))
    assert reply.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nMtun-Error: TARGET_" in reply
    assert len(front.server.pool) == 1


def test_a_target_that_never_answers(make_front: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socks_server, "REACH_S", 0.5)
    front = make_front()
    assert front.try_connect(SILENT)[1][1] == 6
    assert b"HTTP/1.1 504 " in read_all(front.client(b"CONNECT site.test:%d HTTP/1.1\r\n\r\n" % SILENT))


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"\x05\x01\x01", b"\x05\xff"),
        (NO_AUTH + b"\x05\x02\x00\x01", b"\x05\x00\x05\x07\x00\x01" + NOTHING),
        (NO_AUTH + b"\x05\x01\x00\x05", b"\x05\x00\x05\x08\x00\x01" + NOTHING),
        (b"\x04\x02", b"\x00\x5b" + NOTHING),
        (b"\x16\x03\x01", b""),
        (b"GET / HTTP/1.1\r\n", b"HTTP/1.1 405 "),
        (b"CONNECT " + b"a" * 100_000, b"HTTP/1.1 431 "),
    ],
    ids=["methods", "bind", "address type", "socks4 bind", "tls", "get", "long head"],
)
def test_a_refused_client_reads_its_reply(make_front: Make, data: bytes, reply: bytes) -> None:
    front = make_front()
    found = read_all(front.client(data))
    assert found.startswith(reply)
    if reply[:1] != b"H":
        assert found == reply
    front.clients[0].close()
    front.wait(lambda: not front.server.connections)


def test_a_client_that_leaves_at_any_byte_leaves_nothing(make_front: Make) -> None:
    front = make_front()
    whole = NO_AUTH + b"\x05\x01\x00\x03\x09site.test" + SILENT.to_bytes(2)
    for length in range(len(whole)):
        front.client(whole[:length]).close()
    front.wait(lambda: not front.server.connections)
    assert front.server.pending == 0


# --- nodes that fail ----------------------------------------------------------------------------------------


def test_a_relay_that_is_killed(targets: MakeTarget) -> None:
    with LocalNetwork(peers=5, service=Services({}, exit=LoopbackExit()), limits=_limits()) as net:
        front, target = Front(net, hops=1), targets(echo)
        conn = front.connect(target.port)
        # Whichever relay the tunnel has: two of three are killed.
        for index in (1, 2):
            net.stop(index)
        again = front.connect(target.port)
        again.sendall(b"hello")
        assert read_exactly(again, 5) == b"hello"
        conn.close()
        front.close()


def test_an_exit_that_is_killed_fails_closed(targets: MakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte and no look-up leaves the client by another way."""
    looked_up: set[object] = set()
    look_up = socket.getaddrinfo

    def noted(host: Any, *args: Any, **options: Any) -> Any:
        looked_up.add(host)
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    with LocalNetwork(peers=5, service=Services({}, exit=LoopbackExit()), limits=_limits()) as net:
        front, target = Front(net), targets(echo)
        conn = front.connect(target.port)
        net.stop(EXIT)
        with pytest.raises(ConnectionResetError):
            read_all(conn)
        assert front.try_connect(target.port, early=b"secret")[1] == b"\x05\x01\x00\x01" + NOTHING
        reply = read_all(front.client(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % target.port))
        assert reply.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert b"\r\nMtun-Error: " in reply
        assert net[EXIT].id.hex()[:8].encode() in reply
        front.close()
    assert target.accepted == 1
    assert looked_up == {"127.0.0.1"}  # the system call that connects to nodes takes addresses as well


def test_a_route_that_cannot_be_drawn(make_front: Make) -> None:
    front = make_front(hops=20)
    assert front.try_connect(80)[1][1] == 1
    reply = read_all(front.client(b"CONNECT site.test:80 HTTP/1.1\r\n\r\n"))
    assert b"\r\nMtun-Error: INTERNAL\r\n" in reply
    assert b"20" in reply.partition(b"\r\n\r\n")[2]


def test_a_given_route_is_used(network: LocalNetwork, make_front: Make, targets: MakeTarget) -> None:
    relay = network[2]
    front = make_front(route=Route((relay.id,), network[EXIT].id), hops=None)
    conn = front.connect(targets(echo).port)
    front.wait(lambda: relay.open_streams)
    conn.close()


def test_a_tunnel_is_open_before_the_first_connection(make_front: Make, network: LocalNetwork) -> None:
    before = network[0].counters.sub_streams
    front = make_front()
    front.wait(lambda: len(front.server.pool) == 1)
    assert network[0].counters.sub_streams == before


def test_the_end_of_the_server_ends_all_connections(make_front: Make, targets: MakeTarget) -> None:
    front = make_front()
    clients = [front.connect(targets(echo).port), front.client(), front.client(NO_AUTH)]
    read_exactly(clients[2], 2)
    front.net.submit(front.end()).result(timeout=PATIENCE_S)
    assert all(is_over(conn) for conn in clients)


# --- isolation and logins -----------------------------------------------------------------------------------

LOGINS = [None, (b"a", b"1"), (b"a", b"2"), (b"b", b"1"), (b"a", b"1")]


@pytest.mark.parametrize(("isolation", "tunnels"), [("auth", 4), ("listener", 1), ("connection", 5)])
def test_isolation(
    make_front: Make, network: LocalNetwork, targets: MakeTarget, isolation: str, tunnels: int
) -> None:
    before = network[0].counters.tunnels
    front, target = make_front(isolation=isolation), targets(echo)
    clients = [front.connect(target.port, login=login) for login in LOGINS]
    assert network[0].counters.tunnels - before == tunnels
    for conn in clients:
        conn.sendall(b"x")
        assert conn.recv(1) == b"x"


def test_a_connections_own_tunnel_ends_with_it(
    make_front: Make, targets: MakeTarget, network: LocalNetwork
) -> None:
    front = make_front(isolation="connection")
    conn = front.connect(targets(echo).port)
    conn.close()
    front.wait(lambda: not front.server.connections)
    wait_until_idle(network)


def test_logins_are_checked(make_front: Make, targets: MakeTarget) -> None:
    front, target = make_front(users={"alice": "secret", "bob": "s:x"}), targets(echo)
    front.connect(target.port, login=(b"alice", b"secret"))
    front.connect(target.port, login=(b"bob", b"s:x"))
    for login in [(b"alice", b"s:x"), (b"carol", b""), (b"", b""), (b"alice", b"secre")]:
        user, password = login
        sent = b"\x05\x01\x02\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password
        assert read_all(front.client(sent)) == b"\x05\x02\x01\x01"
    assert read_all(front.client(NO_AUTH)) == b"\x05\xff"
    assert read_all(front.client(b"\x04\x01\0\x50\x7f\0\0\x01\0")) == b"\x00\x5b" + NOTHING
    assert read_all(front.client(b"CONNECT a:80 HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 407 ")
    assert target.accepted == 2


@pytest.mark.parametrize("protocol", ["SOCKS5", "CONNECT"])
def test_guessing_passwords_is_slow(make_front: Make, targets: MakeTarget, protocol: str) -> None:
    front, target = make_front(users={"alice": "secret"}), targets(echo)
    clock = [1_000.0]
    assert front.server.logins is not None
    front.server.logins.now_s = lambda: clock[0]

    def answer(password: bytes) -> bytes:
        if protocol == "SOCKS5":
            return read_all(front.client(b"\x05\x01\x02\x01\x05alice" + bytes([len(password)]) + password))
        credentials = base64.b64encode(b"alice:" + password)
        head = b"CONNECT a:80 HTTP/1.1\r\nProxy-Authorization: Basic " + credentials
        return read_all(front.client(head + b"\r\n\r\n"))

    wrong = {answer(b"guess%d" % number) for number in range(FREE_FAILURES)}
    assert len(wrong) == 1
    slowed = {answer(b"another guess"), answer(b"secret")}
    assert len(slowed) == 1, "the right password is refused too"
    if protocol == "CONNECT":
        assert b"too many wrong passwords from this address: try again in 10 s" in slowed.pop()
    clock[0] += PAUSE_S
    front.connect(target.port, login=(b"alice", b"secret"))


def test_arguments(network: LocalNetwork, tmp_path: Path) -> None:
    node, exit_id = network[0], network[EXIT].id

    def refused(kind: type[Exception], text: str, **options: Any) -> None:
        with pytest.raises(kind, match=text):
            SocksServer(options.pop("node", node), options.pop("exit_id", exit_id), **{"port": 0, **options})

    refused(LocalTunnelError, "not a loopback address", host="0.0.0.0")
    refused(LocalTunnelError, "not a loopback address", host="192.0.2.1")
    refused(LocalTunnelError, "not a loopback address", host="::")
    refused(TypeError, "a Node, or the result of `connect`", node="client.toml")
    refused(BadArgument, "32 bytes", exit_id=b"short")
    refused(BadArgument, "auth, listener, connection", isolation="none")
    refused(BadArgument, "another node", route=Route((), network[1].id))
    refused(TypeError, "a Route", route=[exit_id])
    refused(BadArgument, "hops", hops=-1)
    refused(TypeError, "at least one user", users={})
    refused(BadArgument, "1 to 255 bytes", users={"a": ""})
    refused(BadArgument, "1 to 255 bytes", users={"a:b": "c"})
    refused(TypeError, "as text", users={"a": b"c"})
    with SocksServer(node, exit_id, host="0.0.0.0", port=0, users={"a": "b"}).entrance.listener:
        pass


def test_a_unix_socket(make_front: Make, targets: MakeTarget, tmp_path: Path) -> None:
    path = tmp_path / "socks"
    front = make_front(path=path)
    assert front.server.address == path
    assert path.stat().st_mode & 0o777 == 0o600
    conn = front.connect(targets(echo).port, early=b"hello")
    assert read_exactly(conn, 5) == b"hello"
    front.close()
    assert not path.exists()


# --- limits -------------------------------------------------------------------------------------------------


def test_the_oldest_idle_connections_are_dropped(
    make_front: Make, targets: MakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socks_server, "MOST_PENDING", 20)
    front, target = make_front(), targets(echo)
    used = front.connect(target.port)
    idle = [front.client(b"\x05"[: index % 2]) for index in range(100)]
    conn = front.connect(target.port, early=b"works")
    assert read_exactly(conn, 5) == b"works"
    assert front.server.pending <= 20
    assert all(is_over(one) for one in idle[:70])
    idle[-1].sendall(NO_AUTH[1:])
    assert read_exactly(idle[-1], 2) == b"\x05\x00"
    used.sendall(b"still")
    assert read_exactly(used, 5) == b"still"


@pytest.mark.full
def test_ten_thousand_idle_connections_cost_little(make_front: Make, targets: MakeTarget) -> None:
    wanted = 10_000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted + 1_000:
        pytest.skip(f"needs {wanted + 1_000} open files: ulimit -n {wanted + 1_000}")
    front, target = make_front(), targets(echo)
    used = front.connect(target.port)
    before = resident_bytes()
    for index in range(wanted):
        front.client(b"CONNECT site.test:80 HTTP/1.1\r\n"[: index % 30])
    front.wait(lambda: front.server.connections == socks_server.MOST_PENDING + 1)
    assert resident_bytes() - before < 32_000_000, "most of it for the clients' own sockets"
    for conn in (used, front.connect(target.port)):
        conn.sendall(b"works")
        assert read_exactly(conn, 5) == b"works"


def resident_bytes() -> int:
    """The memory of this process, by Linux's /proc."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_client_that_makes_no_request_is_dropped(make_front: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socks_server, "HANDSHAKE_S", 0.05)
    front = make_front()
    assert front.client(b"").recv(1) == b""
    assert read_all(front.client(NO_AUTH)) == b"\x05\x00"


def test_connections_above_the_limit_wait(
    make_front: Make, targets: MakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socks_server, "MOST_CONNECTIONS", 2)
    front, target = make_front(), targets(echo)
    first, _ = (front.connect(target.port) for _ in range(2))
    waiting = front.client(NO_AUTH)
    waiting.settimeout(0.1)
    with pytest.raises(TimeoutError):
        waiting.recv(1)
    assert front.server.connections == 2
    first.close()
    waiting.settimeout(PATIENCE_S)
    assert read_exactly(waiting, 2) == b"\x05\x00"


# --- log ----------------------------------------------------------------------------------------------------


def test_a_failure_is_logged_in_one_line_without_its_target(
    make_front: Make, caplog: pytest.LogCaptureFixture
) -> None:
    front = make_front()
    with caplog.at_level(logging.DEBUG, "tunnel.front"):
        front.try_connect(FORBIDDEN)
        read_all(front.client(NO_AUTH + b"\x05\x01\x00\x03\x06\xffsite.\0\x50"))
    shown = texts_of(caplog, logging.INFO)
    assert len(shown) == 2
    assert "does not offer this service or target (TARGET_NOT_ALLOWED)" in shown[0]
    assert "not ASCII" in shown[1]
    assert not any("site" in line for line in shown)
    assert any("site.test:1" in record.getMessage() for record in caplog.records)


# --- real clients -------------------------------------------------------------------------------------------

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not installed (apt install curl)"
)


def curl(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["curl", "-sS", "--max-time", "60", *options], capture_output=True, text=True, timeout=90, check=False
    )


@needs_curl
@pytest.mark.full
@pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4a", "socks4", "http"])
def test_curl(make_front: Make, targets: MakeTarget, scheme: str) -> None:
    front, target = make_front(), targets(hello)
    proxy = f"{scheme}://me:pw@127.0.0.1:{front.server.address[1]}"  # type: ignore[index]
    host = "127.0.0.1" if scheme in ("socks4", "socks5") else "site.test"
    done = curl("-p", "-x", proxy, f"http://{host}:{target.port}/")
    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr
    refused = curl("-p", "-x", proxy, f"http://{host}:{closed_port()}/")
    assert refused.returncode == (97 if scheme != "http" else 56), refused.stderr


@needs_curl
@pytest.mark.full
def test_curl_without_tunnel_option_gets_an_explanation(make_front: Make) -> None:
    front = make_front()
    done = curl("-x", f"http://127.0.0.1:{front.server.address[1]}", "http://site.test/")  # type: ignore[index]
    assert "SOCKS and CONNECT proxy" in done.stdout
