"""`Splice`: a TCP connection behind a sub-stream. Its program is a plain blocking socket in a thread."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from reactor import Service, Signal, connect_tcp
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tunnel import Limits, LocalNetwork
from tunnel.client import Client
from tunnel.client.clients import ThreadStream
from tunnel.errors import ErrorCode, QueryFailed, SubStreamReset, TargetNotAllowed
from tunnel.established import SubStream, Target, TargetKind
from tunnel.services import Services, StreamService
from tunnel.services.splice import Splice

MEGABYTE = bytes(range(256)) * 4096
RESET = struct.pack("ii", 1, 0)


class Program:
    """A TCP server whose connections are handled by a function, one after the other."""

    def __init__(self, handle: Callable[[socket.socket], object]) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.result: Future[object] = Future()
        threading.Thread(target=self._run, args=(handle,), daemon=True).start()

    def _run(self, handle: Callable[[socket.socket], object]) -> None:
        try:
            conn, _ = self._server.accept()
            conn.settimeout(PATIENCE_S)
            with conn:
                self.result.set_result(handle(conn))
        except BaseException as error:  # noqa: BLE001 - the test reads it
            self.result.set_exception(error)
        finally:
            self._server.close()

    def outcome(self) -> object:
        return self.result.result(timeout=PATIENCE_S)


class Connect(StreamService):
    """Connects to port `PORT` of this machine, whatever the target says."""

    def __init__(self) -> None:
        self.port = 0
        self.idle_s: float | None = None
        self.splices: list[Splice] = []

    def serve(self, stream: SubStream[Signal]) -> Service[None]:
        if stream.target.port == 1:
            raise TargetNotAllowed("not that port")
        sock = yield from connect_tcp("127.0.0.1", self.port)
        stream.confirm()
        splice = Splice(sock, stream, idle_s=self.idle_s)
        self.splices.append(splice)
        yield from splice.run()


CONNECT = Connect()


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    services = Services({"tcp": CONNECT}, exit=CONNECT)
    with LocalNetwork(peers=4, service=services, limits=Limits(linger_s=1.0, answer_s=5.0)) as net:
        yield net
        wait_until_idle(net)


@pytest.fixture
def open_to(net: LocalNetwork) -> Iterator[Callable[[Program], ThreadStream]]:
    CONNECT.idle_s = None
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:

        def open_stream(program: Program) -> ThreadStream:
            CONNECT.port = program.port
            return tunnel.open("tcp", timeout_s=PATIENCE_S)

        yield open_stream


Open = Callable[[Program], ThreadStream]


def read_all(conn: socket.socket) -> bytes:
    data = bytearray()
    while piece := conn.recv(65_536):
        data += piece
    return bytes(data)


def read_rest(stream: ThreadStream) -> bytes:
    data = bytearray()
    while piece := stream.read(timeout_s=PATIENCE_S):
        data += piece
    return bytes(data)


def answer_after_the_end(conn: socket.socket) -> object:
    digest = hashlib.sha256(read_all(conn)).digest()
    conn.sendall(digest + MEGABYTE)
    return digest


def test_either_half_may_end_first(open_to: Open) -> None:
    program = Program(answer_after_the_end)
    stream = open_to(program)
    for _ in range(8):
        stream.write(MEGABYTE)
    stream.close()
    assert read_rest(stream) == hashlib.sha256(MEGABYTE * 8).digest() + MEGABYTE


def test_a_program_that_ends_first_still_reads(open_to: Open) -> None:
    def handle(conn: socket.socket) -> object:
        conn.sendall(b"220 hello")
        conn.shutdown(socket.SHUT_WR)
        return read_all(conn)

    program = Program(handle)
    stream = open_to(program)
    assert read_rest(stream) == b"220 hello"
    stream.write(b"and I go on")
    stream.close()
    assert program.outcome() == b"and I go on"


def test_an_address_target_reaches_the_exit(net: LocalNetwork) -> None:
    program = Program(answer_after_the_end)
    CONNECT.port = program.port
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        stream = tunnel.open(Target(TargetKind.DOMAIN, b"somewhere.test", 80), timeout_s=PATIENCE_S)
        stream.close()
        assert read_rest(stream)[32:] == MEGABYTE
        with pytest.raises(SubStreamReset) as refused:
            tunnel.open(Target(TargetKind.IPV4, bytes(4), 1), timeout_s=PATIENCE_S)
        assert refused.value.code is ErrorCode.TARGET_NOT_ALLOWED


def test_a_reset_of_the_program_is_no_orderly_end(open_to: Open) -> None:
    def handle(conn: socket.socket) -> object:
        conn.sendall(b"half an ans")
        assert conn.recv(1) == b"x"
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return None

    stream = open_to(Program(handle))
    assert stream.read(timeout_s=PATIENCE_S) == b"half an ans"
    stream.write(b"x")
    with pytest.raises(SubStreamReset) as broken:
        read_rest(stream)
    assert broken.value.code is ErrorCode.DISCONNECTED


def test_a_sub_stream_that_is_given_up_resets_the_connection(open_to: Open) -> None:
    def handle(conn: socket.socket) -> object:
        assert conn.recv(1) == b"x"
        conn.sendall(b"y")
        with pytest.raises(ConnectionResetError):
            read_all(conn)
        return "reset"

    program = Program(handle)
    stream = open_to(program)
    stream.write(b"x")
    assert stream.read(timeout_s=PATIENCE_S) == b"y"
    stream.give_up()
    assert program.outcome() == "reset"


def test_a_tunnel_that_breaks_resets_the_connection(net: LocalNetwork) -> None:
    def handle(conn: socket.socket) -> object:
        conn.sendall(b"y")
        with pytest.raises(ConnectionResetError):
            read_all(conn)
        return "reset"

    program = Program(handle)
    CONNECT.port = program.port
    tunnel = Client(net[0]).tunnel(net[3].id, hops=1)
    stream = tunnel.open("tcp", timeout_s=PATIENCE_S)
    assert stream.read(timeout_s=PATIENCE_S) == b"y"
    tunnel.give_up()
    assert program.outcome() == "reset"


def test_an_early_answer_arrives_although_the_query_is_not_read(open_to: Open) -> None:
    def handle(conn: socket.socket) -> object:
        conn.recv(1)
        conn.sendall(b"413 too large")
        conn.shutdown(socket.SHUT_WR)
        read_all(conn)
        return None

    stream = open_to(Program(handle))
    stream.write(MEGABYTE)
    stream.close()
    assert read_rest(stream) == b"413 too large"


def test_a_program_that_reads_nothing_stops_its_sender_only(open_to: Open) -> None:
    release = threading.Event()

    def never_reads(conn: socket.socket) -> object:
        assert release.wait(PATIENCE_S)
        return len(read_all(conn))

    stuck_program = Program(never_reads)
    stuck = open_to(stuck_program)
    sent = Future[int]()

    def send() -> None:
        for _ in range(16):
            stuck.write(MEGABYTE)
        stuck.close()
        sent.set_result(16 * len(MEGABYTE))

    threading.Thread(target=send, daemon=True).start()
    program = Program(answer_after_the_end)
    stream = open_to(program)
    stream.write(b"beside it")
    stream.close()
    assert len(read_rest(stream)) == 32 + len(MEGABYTE)
    assert not sent.done()
    release.set()
    assert stuck_program.outcome() == sent.result(timeout=PATIENCE_S)


def test_a_silent_connection_ends_with_time_out(net: LocalNetwork, open_to: Open) -> None:
    def handle(conn: socket.socket) -> object:
        conn.sendall(b"y")
        with pytest.raises(ConnectionResetError):
            read_all(conn)
        return "reset"

    CONNECT.idle_s = 0.1
    program = Program(handle)
    stream = open_to(program)
    assert stream.read(timeout_s=PATIENCE_S) == b"y"
    with pytest.raises(SubStreamReset) as silent:
        stream.read(timeout_s=PATIENCE_S)
    assert silent.value.code is ErrorCode.TIMEOUT
    assert program.outcome() == "reset"


def test_the_bytes_of_both_directions_are_counted(net: LocalNetwork, open_to: Open) -> None:
    stream = open_to(Program(answer_after_the_end))
    stream.write(b"12345")
    stream.close()
    assert len(read_rest(stream)) == 32 + len(MEGABYTE)
    splice = CONNECT.splices[-1]
    wait_until(net, lambda: splice.received_bytes == 5)
    assert splice.sent_bytes == 32 + len(MEGABYTE)


def test_a_service_of_connections_takes_no_messages(net: LocalNetwork) -> None:
    with pytest.raises(QueryFailed) as refused:
        Client(net[0]).query(net[3].id, b"x", service="tcp", hops=1).result(timeout=PATIENCE_S)
    assert refused.value.code is ErrorCode.TARGET_NOT_ALLOWED


def test_services_check_their_exit() -> None:
    with pytest.raises(TypeError, match="exit: expected a StreamService"):
        Services({}, exit=lambda query, reply: None)  # type: ignore[arg-type]


def test_abort_of_a_socket_is_a_reset(net: LocalNetwork) -> None:
    def handle(conn: socket.socket) -> object:
        with pytest.raises(ConnectionResetError):
            read_all(conn)
        return "reset"

    program = Program(handle)

    def connect_and_abort() -> Service[None]:
        sock = yield from connect_tcp("127.0.0.1", program.port)
        sock.abort()
        sock.abort()

    net.submit(connect_and_abort()).result(timeout=PATIENCE_S)
    assert program.outcome() == "reset"
