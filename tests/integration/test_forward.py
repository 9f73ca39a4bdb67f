"""`Forward`: programs connect to a local port, and reach a service behind a tunnel."""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager

import pytest

from reactor import Service, Signal, Sleep
from tests.support.logs import records_of
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tests.support.servers import MEGABYTE, digest_server, tcp_server
from tunnel import Limits, LocalNetwork
from tunnel.crypto.primitives import tunnel_engine
from tunnel.errors import BadArgument
from tunnel.established import SubStream, Target, TargetKind
from tunnel.front import forward as front
from tunnel.front.forward import Forward
from tunnel.front.tunnel_pool import TunnelPool
from tunnel.identity.client_key import ClientKey
from tunnel.services import Published, Services, StreamService

FRIEND = ClientKey.generate()


class Silent(StreamService):
    """Never answers."""

    def serve(self, stream: SubStream[Signal]) -> Service[None]:
        yield Signal()


@pytest.fixture(scope="module")
def server_port() -> Iterator[int]:
    with tcp_server(digest_server) as port:
        yield port


@pytest.fixture(scope="module")
def net(server_port: int) -> Iterator[LocalNetwork]:
    services = Services(
        {
            "digest": Published("127.0.0.1", server_port),
            "friends": Published("127.0.0.1", server_port, clients=[FRIEND.public(tunnel_engine())]),
            "down": Published("127.0.0.1", 1),
            "silent": Silent(),
        }
    )
    with LocalNetwork(peers=5, service=services, limits=Limits(linger_s=1.0, answer_s=5.0)) as net:
        yield net
        wait_until_idle(net)


@contextmanager
def forwarding(
    net: LocalNetwork, name: bytes, *, hops: int = 2, client_key: ClientKey | None = None, most: int = 1_024
) -> Iterator[Forward]:
    """A forward that runs in the reactor of the network."""
    started: Future[Forward] = Future()

    def run() -> Service[None]:
        pool = TunnelPool(net[0], net[4].id, {"hops": hops})
        target = Target(TargetKind.SERVICE, name)
        forward = Forward(pool, target, client_key=client_key, most=most)
        started.set_result(forward)
        try:
            yield from forward.serve()
        finally:
            yield from pool.close()

    running = net.submit(run())
    try:
        yield started.result(timeout=PATIENCE_S)
    finally:
        running.cancel()
        wait_until(net, lambda: started.result().connections == 0)


def connect(forward: Forward) -> socket.socket:
    assert isinstance(forward.address, tuple)
    conn = socket.create_connection(forward.address)
    conn.settimeout(PATIENCE_S)
    return conn


def ask(forward: Forward, request: bytes) -> bytes:
    with connect(forward) as conn:
        conn.sendall(request)
        conn.shutdown(socket.SHUT_WR)
        answer = bytearray()
        while data := conn.recv(65_536):
            answer += data
        return bytes(answer)


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_request_and_its_answer_pass_whole(net: LocalNetwork, size: int) -> None:
    request = bytes(size)
    with forwarding(net, b"digest") as forward:
        assert ask(forward, request) == hashlib.sha256(request).digest() + MEGABYTE


def test_many_connections_share_a_tunnel(net: LocalNetwork) -> None:
    with forwarding(net, b"digest") as forward, ExitStack() as stack:
        conns = [stack.enter_context(connect(forward)) for _ in range(40)]
        for number, conn in enumerate(conns):
            conn.sendall(bytes([number]))
        for number, conn in enumerate(conns):
            conn.shutdown(socket.SHUT_WR)
            assert conn.recv(32) == hashlib.sha256(bytes([number])).digest()


def test_a_listed_client_is_served(net: LocalNetwork) -> None:
    with forwarding(net, b"friends", client_key=FRIEND) as forward:
        assert len(ask(forward, b"x")) == 32 + len(MEGABYTE)


@pytest.mark.parametrize("name", [b"friends", b"down", b"nobody"])
def test_an_unreachable_target_causes_a_reset_and_a_log_line(
    net: LocalNetwork, name: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tunnel.front"), forwarding(net, name) as forward:
        with connect(forward) as conn, pytest.raises(ConnectionError):
            conn.recv(1)
        wait_until(net, lambda: records_of(caplog))
    (record,) = records_of(caplog)
    assert isinstance(forward.address, tuple)
    assert f"a connection to port {forward.address[1]} failed" in record.getMessage()


def test_a_service_that_never_answers_does_not_keep_a_connection(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "REACH_S", 0.2)
    with forwarding(net, b"silent") as forward:
        with connect(forward) as conn, pytest.raises(ConnectionError):
            conn.recv(1)
        wait_until(net, lambda: forward.connections == 0)


def test_above_the_limit_connections_wait(net: LocalNetwork) -> None:
    with forwarding(net, b"digest", most=1) as forward, connect(forward) as first:
        first.sendall(b"first")
        wait_until(net, lambda: forward.connections == 1)
        with connect(forward) as second:
            second.sendall(b"second")
            second.shutdown(socket.SHUT_WR)
            second.settimeout(0.0)
            net.submit(_a_few_turns()).result(timeout=PATIENCE_S)
            with pytest.raises(BlockingIOError):
                second.recv(1)
            first.close()
            second.settimeout(PATIENCE_S)
            assert second.recv(32) == hashlib.sha256(b"second").digest()


def _a_few_turns() -> Service[None]:
    for _ in range(100):
        yield Sleep(0)


def test_the_end_of_a_forward_resets_its_connections(net: LocalNetwork) -> None:
    with forwarding(net, b"digest") as forward:
        conn = connect(forward)
        conn.sendall(b"x")
        wait_until(net, lambda: forward.connections == 1)
    with conn, pytest.raises(ConnectionError):
        conn.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(forward)


@pytest.mark.parametrize(("host", "port"), [("0.0.0.0", 0), ("::", 0), ("127.0.0.1", 65_536)])
def test_only_this_machine_may_connect_unless_that_is_said(net: LocalNetwork, host: str, port: int) -> None:
    pool = TunnelPool(net[0], net[4].id)
    with pytest.raises(BadArgument):
        Forward(pool, Target(TargetKind.SERVICE, b"digest"), host=host, port=port)
    if port == 0:
        forward = Forward(pool, Target(TargetKind.SERVICE, b"digest"), host=host, is_public=True)
        forward.close()
