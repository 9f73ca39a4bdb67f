"""Reverse forwards: a node listens for a client, at the addresses that its owner allows and at no others."""

from __future__ import annotations

import errno
import hashlib
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from queue import Queue
from typing import Any, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import ConnectError, Service, Sleep, TimedOut
from tests.support.logs import records_of, texts_of
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tests.support.servers import MEGABYTE, digest_server, free_port, tcp_server
from tunnel import Limits, LocalNetwork
from tunnel.client import Client
from tunnel.errors import BadArgument, ErrorCode, MalformedMessage, SubStreamReset, TableFull
from tunnel.established import Target, TargetKind
from tunnel.front import reverse
from tunnel.front.reverse import ReverseForward
from tunnel.node import Node
from tunnel.node.query.request import TunnelOptions
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.services import Echo, Reverse, Services, published
from tunnel.services.names import REVERSE
from tunnel.services.reverse import checked_place, pack_request, unpack_port

LOOPBACK = "127.0.0.1"
PLACE = (LOOPBACK, free_port())
ALLOWED = Reverse([PLACE, (LOOPBACK, 0)])


@pytest.fixture(scope="module")
def server_port() -> Iterator[int]:
    """A server that answers a whole request with its digest and a megabyte."""

    with tcp_server(digest_server) as port:
        yield port


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    services = Services({"echo": Echo()}, reverse=ALLOWED)
    with LocalNetwork(peers=4, service=services, limits=Limits(linger_s=1.0, answer_s=5.0)) as net:
        yield net
        wait_until_idle(net)


@contextmanager
def reversed_to(
    net: LocalNetwork, port: int, place: tuple[str, int] = (LOOPBACK, 0)
) -> Iterator[tuple[Future[None], Queue[int]]]:
    """A reverse forward to a port of this machine, and the ports at which the node listens."""
    ports: Queue[int] = Queue()
    forward = ReverseForward(
        net[0], net[3].id, place, (LOOPBACK, port), options={"hops": 1}, on_listening=ports.put
    )
    running = net.submit(forward.serve())
    try:
        yield running, ports
    finally:
        running.cancel()
        wait_until(net, lambda: not ALLOWED.listening)


def ask(port: int, request: bytes) -> bytes:
    with socket.create_connection((LOOPBACK, port)) as conn:
        conn.settimeout(PATIENCE_S)
        conn.sendall(request)
        conn.shutdown(socket.SHUT_WR)
        answer = bytearray()
        while data := conn.recv(65_536):
            answer += data
        return bytes(answer)


@pytest.mark.parametrize("place", [PLACE, (LOOPBACK, 0)], ids=["a port", "any port"])
def test_connections_at_the_node_come_out_here(
    net: LocalNetwork, server_port: int, place: tuple[str, int]
) -> None:
    with reversed_to(net, server_port, place) as (_, ports):
        port = ports.get(timeout=PATIENCE_S)
        assert place[1] in (0, port)
        for request in (b"", b"x", bytes(1_000_000)):
            assert ask(port, request) == hashlib.sha256(request).digest() + MEGABYTE
    with pytest.raises(ConnectionRefusedError):
        ask(port, b"")


def test_many_connections_at_once(net: LocalNetwork, server_port: int) -> None:
    with reversed_to(net, server_port) as (_, ports), ExitStack() as stack:
        port = ports.get(timeout=PATIENCE_S)
        conns = [stack.enter_context(socket.create_connection((LOOPBACK, port))) for _ in range(30)]
        for number, conn in enumerate(conns):
            conn.settimeout(PATIENCE_S)
            conn.sendall(bytes([number]))
            conn.shutdown(socket.SHUT_WR)
        for number, conn in enumerate(conns):
            assert conn.recv(32) == hashlib.sha256(bytes([number])).digest()


@pytest.mark.parametrize("place", [("0.0.0.0", 0), (LOOPBACK, free_port()), ("::1", 0)])
def test_a_place_that_is_not_listed_is_refused(
    net: LocalNetwork, server_port: int, place: tuple[str, int]
) -> None:
    with reversed_to(net, server_port, place) as (running, _):
        with pytest.raises(SubStreamReset) as refused:
            running.result(timeout=PATIENCE_S)
        assert refused.value.code is ErrorCode.TARGET_NOT_ALLOWED


def test_a_node_without_reverse_addresses_listens_for_no_client(server_port: int) -> None:
    with LocalNetwork(peers=4, service=Services({"echo": Echo()})) as net:
        forward = ReverseForward(
            net[0], net[3].id, (LOOPBACK, 0), (LOOPBACK, server_port), options={"hops": 1}
        )
        with pytest.raises(SubStreamReset) as refused:
            net.submit(forward.serve()).result(timeout=PATIENCE_S)
        assert refused.value.code is ErrorCode.TARGET_NOT_ALLOWED


def test_a_server_that_is_down_resets_only_its_connection(
    net: LocalNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    server = free_port()
    down = f"connections are reset until the server at {LOOPBACK}:{server} answers: "
    refused = down + "the server refuses the connection"
    again = f"the server at {LOOPBACK}:{server} answers again"
    with caplog.at_level(logging.WARNING), reversed_to(net, server) as (running, ports):
        port = ports.get(timeout=PATIENCE_S)
        ask_in_vain(port)
        ask_in_vain(port)
        assert texts_of(caplog) == [refused]  # and none for the second connection
        with tcp_server(digest_server, server):
            for _ in range(2):
                assert ask(port, b"x")[:32] == hashlib.sha256(b"x").digest()
        assert texts_of(caplog) == [refused, again]
        ask_in_vain(port)
        assert not running.done()
    assert texts_of(caplog) == [refused, again, refused]


def ask_in_vain(port: int) -> None:
    """A connection that is reset. It sends nothing, because the reset may come first."""
    with socket.create_connection((LOOPBACK, port)) as conn:
        conn.settimeout(PATIENCE_S)
        with pytest.raises(ConnectionResetError):
            conn.recv(1)


def failed_connect(number: int) -> ConnectError:
    return ConnectError(LOOPBACK, 2, number, "no", (OSError(number, "no"),))


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (TimedOut("connecting"), "the server does not answer"),
        (failed_connect(errno.EHOSTUNREACH), "no route leads to the server, or its name has no address"),
        (failed_connect(errno.EMFILE), "this machine has no descriptor or port left for a connection"),
    ],
)
def test_the_log_has_the_reason_why_the_server_is_not_reached(
    net: LocalNetwork,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    words: str,
) -> None:
    def connect(*_: object, **__: object) -> Service[None]:
        yield Sleep(0)
        raise failure

    monkeypatch.setattr(published, "connect_tcp", connect)
    with caplog.at_level(logging.WARNING), reversed_to(net, 2) as (_, ports):
        ask_in_vain(ports.get(timeout=PATIENCE_S))
    assert texts_of(caplog) == [f"connections are reset until the server at {LOOPBACK}:2 answers: {words}"]


def test_a_place_in_use_is_told_before_it_ever_began(
    net: LocalNetwork, server_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        socket.create_server(PLACE),
        reversed_to(net, server_port, PLACE),
    ):
        wait_until(net, lambda: records_of(caplog))
    (line,) = texts_of(caplog)
    assert line.startswith("the reverse forward has not begun yet, and will be tried again: the node ")
    assert line.endswith(
        "(BUSY); another client or program uses that address there, or the node may not listen at it"
    )


def test_a_node_that_becomes_busy_later_has_another_reason(
    net: LocalNetwork, server_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> Service[None]:
        yield Sleep(0)
        raise TableFull("the tunnel opens no more sub-streams")

    monkeypatch.setattr("tunnel.services.reverse._Passing.run", fail)
    with caplog.at_level(logging.WARNING), reversed_to(net, server_port) as (_, ports):
        ports.get(timeout=PATIENCE_S)
        wait_until(net, lambda: records_of(caplog))
    line = texts_of(caplog)[0]
    assert line.startswith("the reverse forward is interrupted, and will be tried again: the node ")
    assert line.endswith("(BUSY)")


def test_two_clients_do_not_share_a_place(net: LocalNetwork, server_port: int) -> None:
    with reversed_to(net, server_port, PLACE) as (_, ports):
        ports.get(timeout=PATIENCE_S)
        code, _ = answer(net, pack_request(PLACE, "back"))
        assert code is ErrorCode.BUSY


def answer(net: LocalNetwork, request: bytes) -> tuple[ErrorCode | None, bytes]:
    """What the node answers to a request: a code, or its first bytes."""
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        stream = tunnel.open(Target(TargetKind.SERVICE, REVERSE), timeout_s=PATIENCE_S)
        try:
            stream.write(request)
            stream.close()
            return None, stream.read(timeout_s=PATIENCE_S)
        except SubStreamReset as error:
            return error.code, b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\0",
        b"\0\0\x09",
        b"\0\0\x09\x04" + LOOPBACK.encode(),
        b"\0\0\x09\x00" + LOOPBACK.encode(),
        b"\0\0\x00\x04back",
        b"\0\0\x09\x04" + b"127.0.0.\xff" + b"back",
        b"\0\0\x09\x04" + LOOPBACK.encode() + b".bad",
        b"\xff\xff\xff\xff" + bytes(510),
    ],
)
def test_a_malformed_request_is_refused(net: LocalNetwork, request_bytes: bytes) -> None:
    code, _ = answer(net, request_bytes)
    assert code in (ErrorCode.BAD_CONTENT, ErrorCode.TARGET_NOT_ALLOWED)
    wait_until(net, lambda: not ALLOWED.listening)


def test_a_tunnel_has_one_reverse_forward(net: LocalNetwork) -> None:
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        target = Target(TargetKind.SERVICE, REVERSE)
        first = tunnel.open(target, timeout_s=PATIENCE_S)
        with pytest.raises(SubStreamReset) as busy:
            tunnel.open(target, timeout_s=PATIENCE_S)
        assert busy.value.code is ErrorCode.BUSY
        first.give_up()


class Recording:
    """A node whose tunnels a test can break."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.tunnels: list[NodeTunnel] = []

    def open_tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> Service[NodeTunnel]:
        tunnel = yield from self.node.open_tunnel(destination, **options)
        self.tunnels.append(tunnel)
        return tunnel


def test_a_tunnel_that_breaks_is_replaced(
    net: LocalNetwork,
    server_port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(reverse, "PAUSES_S", (0.01,))
    node, ports = Recording(net[0]), Queue[int]()
    server = (LOOPBACK, server_port)
    forward = ReverseForward(node, net[3].id, PLACE, server, options={"hops": 1}, on_listening=ports.put)
    running = net.submit(forward.serve())
    for _ in range(3):
        assert ports.get(timeout=PATIENCE_S) == PLACE[1]
        assert ask(PLACE[1], b"x")[:32] == hashlib.sha256(b"x").digest()
        net[0].reactor.post(node.tunnels[-1].give_up)
    assert ports.get(timeout=PATIENCE_S) == PLACE[1]
    running.cancel()
    wait_until(net, lambda: not ALLOWED.listening)
    lines = texts_of(caplog, logging.WARNING)
    assert lines
    for line in lines:
        assert line.startswith("the reverse forward is interrupted, and will be tried again: ")


@given(st.binary(max_size=4))
def test_the_answer_is_two_bytes(data: bytes) -> None:
    if len(data) == 2:
        assert unpack_port(data) == int.from_bytes(data, "big")
    else:
        with pytest.raises(MalformedMessage):
            unpack_port(data)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("127.0.0.1:9000", TypeError),
        ((LOOPBACK, "9000"), TypeError),
        ((5, 9000), TypeError),
        (("localhost", 9000), BadArgument),
        (("\u00fc", 9000), BadArgument),
        ((LOOPBACK, 65_536), BadArgument),
        ((LOOPBACK, -1), BadArgument),
    ],
)
def test_a_place_is_an_address_and_a_port(net: LocalNetwork, place: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Reverse([place])
    with pytest.raises(error):
        ReverseForward(net[0], net[3].id, place, (LOOPBACK, 80))


def test_one_address_has_one_form() -> None:
    assert checked_place(("0:0:0:0:0:0:0:1", 80)) == checked_place(("::1", 80))
