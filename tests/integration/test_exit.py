"""The exit in a network: its connections to TCP servers on loopback, their limits, and their ends."""

from __future__ import annotations

import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tunnel.services.exit as exit_module
from reactor import Service, SocketStream, TcpListener
from tests.integration.test_splice import MEGABYTE, RESET, Program, answer_after_the_end, read_all, read_rest
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tests.support.servers import free_port
from tunnel import Limits, LocalNetwork
from tunnel.client import Client
from tunnel.client.clients import ThreadStream, ThreadTunnel
from tunnel.errors import ErrorCode, SubStreamReset
from tunnel.established import Target, TargetKind, TunnelLimits
from tunnel.routing.route import Route
from tunnel.services import Echo, Exit, ExitSettings, Services

pytestmark = pytest.mark.full

LOOPBACK = ["deny * 1", "allow 127.0.0.0/8", "allow ::1"]
MANY = 100


def look_up(name: str) -> list[str]:
    return {"dual.test": ["::1", "127.0.0.1"], "here.test": ["127.0.0.1"]}.get(name, ["93.184.216.34"])


@contextmanager
def network(exit: Exit, peers: int = 3) -> Iterator[LocalNetwork]:
    limits = Limits(linger_s=1.0, answer_s=5.0, tunnel=TunnelLimits(sub_streams=MANY + 4))
    with LocalNetwork(peers=peers, service=Services({"echo": Echo()}, exit=exit), limits=limits) as net:
        yield net
        wait_until_idle(net)
        assert exit.open_connections == 0


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    with network(Exit(LOOPBACK, look_up=look_up)) as net:
        yield net


@pytest.fixture
def tunnel(net: LocalNetwork) -> Iterator[ThreadTunnel]:
    with Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
        yield tunnel


def address(port: int, host: str = "127.0.0.1") -> Target:
    return Target(TargetKind.IPV4, socket.inet_aton(host), port)


def name(port: int, host: str) -> Target:
    return Target(TargetKind.DOMAIN, host.encode(), port)


def open_to(tunnel: ThreadTunnel, target: Target) -> ThreadStream:
    return tunnel.open(target, timeout_s=PATIENCE_S)


def refusal(tunnel: ThreadTunnel, target: Target) -> ErrorCode:
    with pytest.raises(SubStreamReset) as refused:
        open_to(tunnel, target)
    return refused.value.code


@pytest.mark.parametrize(
    "target",
    [
        lambda port: address(port),
        lambda port: Target(TargetKind.IPV6, socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1"), port),
        lambda port: name(port, "127.0.0.1."),
        lambda port: name(port, "localhost"),
        lambda port: name(port, "HERE.test"),
        lambda port: name(port, "dual.test"),
    ],
    ids=["IPv4", "mapped", "an address as a name", "localhost", "a name", "a name with two addresses"],
)
def test_a_connection_and_its_halves(tunnel: ThreadTunnel, target: Callable[[int], Target]) -> None:
    program = Program(answer_after_the_end)
    stream = open_to(tunnel, target(program.port))
    stream.write(MEGABYTE)
    stream.close()
    assert len(read_rest(stream)) == 32 + len(MEGABYTE)


def test_a_server_on_ipv6(tunnel: ThreadTunnel) -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error}")
    with server:
        stream = open_to(tunnel, Target(TargetKind.IPV6, bytes(15) + b"\x01", server.getsockname()[1]))
        with server.accept()[0] as conn:
            conn.sendall(b"six")
        assert read_rest(stream) == b"six"
        stream.close()


def test_each_refusal_has_its_code(net: LocalNetwork, tunnel: ThreadTunnel) -> None:
    assert refusal(tunnel, address(free_port())) is ErrorCode.TARGET_REFUSED
    assert refusal(tunnel, name(free_port(), "dual.test")) is ErrorCode.TARGET_REFUSED
    assert refusal(tunnel, address(1)) is ErrorCode.TARGET_NOT_ALLOWED
    assert refusal(tunnel, address(80, "10.0.0.1")) is ErrorCode.TARGET_NOT_ALLOWED
    assert refusal(tunnel, name(80, "elsewhere.test")) is ErrorCode.TARGET_NOT_ALLOWED
    assert refusal(tunnel, name(80, "127.1")) is ErrorCode.TARGET_NOT_ALLOWED
    # The tunnel and its services still work.
    with tunnel.open("echo", timeout_s=PATIENCE_S) as stream:
        stream.write(b"still here")
        assert stream.read(timeout_s=PATIENCE_S) == b"still here"


@pytest.mark.parametrize(("level", "is_shown"), [("INFO", False), ("DEBUG", True)])
def test_targets_are_logged_at_debug_only(
    tunnel: ThreadTunnel, caplog: pytest.LogCaptureFixture, level: str, is_shown: bool
) -> None:
    program = Program(answer_after_the_end)
    with caplog.at_level(level):
        stream = open_to(tunnel, name(program.port, "here.test"))
        stream.close()
        read_rest(stream)
        port = free_port()
        assert refusal(tunnel, name(port, "dual.test")) is ErrorCode.TARGET_REFUSED
        assert refusal(tunnel, name(80, "elsewhere.test")) is ErrorCode.TARGET_NOT_ALLOWED
    texts = ["here.test", "elsewhere.test", str(port), "127.0.0.1"]
    assert [text for text in texts if text in caplog.text] == (texts[:3] if is_shown else [])


def test_a_node_without_rules_is_no_exit() -> None:
    with network(Exit()) as net, Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
        for target in (address(80), address(80, "93.184.216.34"), name(80, "example.org")):
            assert refusal(tunnel, target) is ErrorCode.TARGET_NOT_ALLOWED


def test_a_reset_by_the_target_is_distinguished_from_its_end(tunnel: ThreadTunnel) -> None:
    def handle(conn: socket.socket) -> object:
        conn.sendall(b"half an ans")
        assert conn.recv(1) == b"x"
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return None

    stream = open_to(tunnel, address(Program(handle).port))
    assert stream.read(timeout_s=PATIENCE_S) == b"half an ans"
    stream.write(b"x")
    with pytest.raises(SubStreamReset) as broken:
        read_rest(stream)
    assert broken.value.code is ErrorCode.DISCONNECTED


def test_a_target_that_never_answers_times_out_and_its_socket_is_closed() -> None:
    exit = Exit(LOOPBACK, ExitSettings(connect_s=0.2))
    with network(exit) as net, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        port = silent.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # a full backlog: the kernel answers no further connection
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        with Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
            before = sockets_to(port)
            assert refusal(tunnel, address(port)) is ErrorCode.TIMEOUT
            assert sockets_to(port) == before
        for filler in fillers:
            filler.close()


def sockets_to(port: int) -> int:
    """Sockets of this machine that are connected, or connecting, to a port."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    ends = [line.split()[2:4] for line in lines]  # address of the other side, state
    return sum(remote.endswith(f":{port:04X}") and state in ("01", "02") for remote, state in ends)


def test_at_the_limit_connections_are_refused_until_one_ends() -> None:
    exit = Exit(LOOPBACK, ExitSettings(connections=2))
    with network(exit) as net, Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
        streams = [open_to(tunnel, address(Program(read_all).port)) for _ in range(2)]
        third = Program(read_all)
        assert refusal(tunnel, address(third.port)) is ErrorCode.BUSY
        streams.pop().close()
        wait_until(net, lambda: exit.open_connections == 1)
        stream = open_to(tunnel, address(third.port))
        stream.write(b"now")
        stream.close()
        assert third.outcome() == b"now"
        streams.pop().close()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process open enough files for both ends of the most connections of an exit."""
    wanted = 2 * ExitSettings().connections + 256
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < wanted:
        pytest.skip(f"needs {wanted} open files, this process may have {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(usual, wanted), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))


@pytest.mark.full
@pytest.mark.usefixtures("many_files")
def test_a_thousand_connections_of_many_tunnels_and_the_limit_of_all() -> None:
    exit, wanted = Exit(LOOPBACK), ExitSettings().connections
    held: list[SocketStream] = []

    def accept(listener: TcpListener) -> Service[None]:
        try:
            while True:
                held.append((yield from listener.accept()))
        finally:
            for stream in held:
                stream.close()

    with network(exit) as net, TcpListener("127.0.0.1", 0) as listener:
        accepting = net.submit(accept(listener))
        target = address(listener.address[1])
        tunnels = [Client(net[0]).tunnel(net[2].id, hops=1) for _ in range(wanted // MANY + 1)]
        streams = [open_to(tunnels[number % len(tunnels)], target) for number in range(wanted)]
        assert exit.open_connections == wanted
        assert refusal(tunnels[0], target) is ErrorCode.BUSY
        streams.pop().give_up()
        wait_until(net, lambda: exit.open_connections == wanted - 1)
        streams.append(open_to(tunnels[0], target))
        for tunnel in tunnels:
            tunnel.give_up()
        wait_until(net, lambda: exit.open_connections == 0)
        accepting.cancel()
        wait_until(net, lambda: all(stream.is_closed for stream in held))


def test_a_silent_connection_is_ended_and_a_half_open_one_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(conn: socket.socket) -> object:
        conn.sendall(b"y")
        with pytest.raises(ConnectionResetError):
            read_all(conn)
        return "reset"

    monkeypatch.setattr(exit_module, "HALF_OPEN_S", 0.1)
    exit = Exit(LOOPBACK, ExitSettings(connection_idle_s=3_600.0))
    with network(exit) as net, Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
        open_one = open_to(tunnel, address(Program(read_all).port))
        program = Program(hold_after_the_end)
        half_open = open_to(tunnel, address(program.port))
        half_open.close()
        with pytest.raises(SubStreamReset) as ended:
            read_rest(half_open)
        assert ended.value.code is ErrorCode.TIMEOUT
        assert program.outcome() == "reset"
        wait_until(net, lambda: exit.open_connections == 1)
        open_one.close()
    exit = Exit(LOOPBACK, ExitSettings(connection_idle_s=0.1))
    with network(exit) as net, Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
        program = Program(silent)
        stream = open_to(tunnel, address(program.port))
        assert stream.read(timeout_s=PATIENCE_S) == b"y"
        with pytest.raises(SubStreamReset) as ended:
            stream.read(timeout_s=PATIENCE_S)
        assert ended.value.code is ErrorCode.TIMEOUT
        assert program.outcome() == "reset"


def test_the_speed_of_a_connection_is_limited_in_each_direction() -> None:
    exit = Exit(LOOPBACK, ExitSettings(bytes_per_s=400_000))
    with network(exit) as net, Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
        program = Program(answer_at_length)
        stream = open_to(tunnel, address(program.port))
        began_s = time.monotonic()
        stream.write(bytes(200_000))
        stream.close()
        assert stream.read(timeout_s=PATIENCE_S)
        middle_s = time.monotonic()
        assert len(read_rest(stream)) >= 100_000
        # The last piece, of 64 KiB at most, needs no pause after it.
        assert middle_s - began_s > (200_000 - 65_536) / 400_000
        assert time.monotonic() - middle_s > 0.1


def answer_at_length(conn: socket.socket) -> object:
    data = read_all(conn)
    conn.sendall(data)
    return None


def hold_after_the_end(conn: socket.socket) -> object:
    """Read to the end, and answer nothing. A reset then shows in the next write."""
    assert read_all(conn) == b""
    poll = select.poll()
    poll.register(conn, 0)  # errors are always reported
    assert poll.poll(PATIENCE_S * 1000)
    return "reset"


class Crowd:
    """A TCP server that holds its connections and notes how each of them ended."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._server.getsockname()[1]
        self.ends: list[str] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        for _ in range(MANY):
            conn, _ = self._server.accept()
            thread = threading.Thread(target=self._hold, args=(conn,), daemon=True)
            thread.start()
            self._threads.append(thread)
        self._server.close()

    def _hold(self, conn: socket.socket) -> None:
        with conn:
            conn.settimeout(PATIENCE_S)
            try:
                while conn.recv(100):
                    pass
                self.ends.append("end")
            except ConnectionResetError:
                self.ends.append("reset")

    def join(self) -> list[str]:
        self._accepting.join(PATIENCE_S)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        return self.ends


@pytest.mark.parametrize("how", ["given up", "the client's node stops", "the relay stops"])
def test_when_a_tunnel_dies_all_its_connections_are_reset(how: str) -> None:
    exit = Exit(LOOPBACK)
    with network(exit, peers=4) as net:
        crowd = Crowd()
        tunnel = Client(net[0]).tunnel(net[3].id, route=Route((net[1].id,), net[3].id))
        streams = [open_to(tunnel, address(crowd.port)) for _ in range(MANY)]
        for stream in streams:
            stream.write(b"hello")
        assert exit.open_connections == sockets_to(crowd.port) == MANY
        if how == "given up":
            tunnel.give_up()
        else:
            net.stop(0 if how == "the client's node stops" else 1)
        assert crowd.join() == ["reset"] * MANY
        assert sockets_to(crowd.port) == 0
        wait_until(net, lambda: exit.open_connections == 0)
        tunnel.give_up()
