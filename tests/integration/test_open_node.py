"""`open_node` and `connect` in a program: real configurations, state folders and sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reactor import Service
from tunnel import Client, Node, connect, open_node
from tunnel.cli import main
from tunnel.client import ClientNode, ControlClient, ServiceClient
from tunnel.client.aio import AsyncClient
from tunnel.control import PeerState
from tunnel.crypto.primitives import tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.errors import CannotListen, ConfigError, NodeNotRunning, QueryFailed, StateError, SubStreamReset
from tunnel.established import Target, TargetKind
from tunnel.services import Echo, Query, Reply, Services

PATIENCE_S = 120.0


def upper(query: Query, reply: Reply) -> Service[None]:
    while chunk := (yield from query.read()):
        yield from reply.write(chunk.upper())


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A folder with two nodes that are not running."""
    assert main(["network", str(tmp_path / "net"), "--nodes", "2"]) == 0
    return tmp_path / "net"


@pytest.fixture
def bob(network: Path) -> Iterator[Node]:
    services = {"upper": upper, "echo": upper}
    with (
        open_node(str(network / "node-0" / "node.toml")),
        open_node(network / "node-1" / "node.toml", services=services) as node,
    ):
        yield node


def test_the_folder_of_a_node_is_not_taken_for_its_state(network: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(network / "node-0")
    hint = f"did you mean {network / 'node-0' / 'node.toml'}?"
    assert caught.value.hint == hint
    assert f"hint: {hint}" in "".join(traceback.format_exception(caught.value)), "programs print no hints"


def test_a_node_with_rules_is_an_exit_and_never_to_itself(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    assert main(["network", str(folder), "--nodes", "3", "--exit", "node-2"]) == 0
    with (
        open_node(folder / "node-0" / "node.toml"),
        open_node(folder / "node-1" / "node.toml") as relay,
        open_node(folder / "node-2" / "node.toml") as exit,
        connect(folder) as node,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        with Client(node).tunnel(exit.id, hops=1) as tunnel:
            with tunnel.open(loopback(server.getsockname()[1]), timeout_s=PATIENCE_S) as stream:
                with server.accept()[0] as conn:
                    conn.sendall(b"hello")
                assert stream.read(timeout_s=PATIENCE_S) == b"hello"
            with pytest.raises(SubStreamReset, match="TARGET_NOT_ALLOWED"):
                tunnel.open(loopback(exit.address.port), timeout_s=PATIENCE_S)
        with (
            Client(node).tunnel(relay.id, hops=1) as tunnel,
            pytest.raises(SubStreamReset, match="TARGET_NOT_ALLOWED"),
        ):
            tunnel.open(loopback(server.getsockname()[1]), timeout_s=PATIENCE_S)


def test_an_exit_does_not_lead_to_the_ports_for_its_own_programs(tmp_path: Path) -> None:
    """They use its tunnels and its client keys."""
    folder = tmp_path / "net"
    assert main(["network", str(folder), "--nodes", "3", "--exit", "node-2"]) == 0
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [first.getsockname()[1], second.getsockname()[1]]
    config = folder / "node-2" / "node.toml"
    config.write_text(
        config.read_text()
        + f'[[socks]]\nexit = "node-0"\nlisten = "127.0.0.1:{ports[0]}"\n'
        + f'[[forward]]\nlisten = "127.0.0.1:{ports[1]}"\nto = "node-0:echo"\n'
    )
    with (
        open_node(folder / "node-0" / "node.toml"),
        open_node(folder / "node-1" / "node.toml"),
        open_node(config) as exit,
        connect(folder) as node,
        Client(node).tunnel(exit.id, hops=1) as tunnel,
    ):
        for port in ports:
            with pytest.raises(SubStreamReset, match="TARGET_NOT_ALLOWED"):
                tunnel.open(loopback(port), timeout_s=PATIENCE_S)


def test_a_node_has_a_port_for_programs(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    assert main(["network", str(folder), "--nodes", "3", "--exit", "node-2"]) == 0
    exit_id = next(iter(StaticDirectory.load(folder / "peers" / "node-2", tunnel_engine()))).node_id
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "node-0" / "node.toml"
    table = f'[routes]\nroute_hops = 1\n[[socks]]\nexit = "{exit_id.hex()}"\nlisten = "127.0.0.1:{port}"\n'
    config.write_text(config.read_text() + table)
    with (
        open_node(folder / "node-1" / "node.toml"),
        open_node(folder / "node-2" / "node.toml"),
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        with open_node(config), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as program:
            target = b"\x7f\0\0\x01" + server.getsockname()[1].to_bytes(2)
            program.sendall(b"\x04\x01" + target[4:] + target[:4] + b"\0hello")
            with server.accept()[0] as conn:
                assert conn.recv(5) == b"hello"
                conn.sendall(b"world")
                assert program.recv(8) == b"\0\x5a" + bytes(6)
                assert program.recv(5) == b"world"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with (
            socket.create_server(("127.0.0.1", port)),
            pytest.raises(CannotListen, match=r"\[\[socks\]\] 1: cannot listen"),
            open_node(config),
        ):
            pass


def loopback(port: int) -> Target:
    return Target(TargetKind.IPV4, socket.inet_aton("127.0.0.1"), port)


@pytest.mark.parametrize("services", [5, "echo", [upper], Echo()])
def test_services_are_given_by_name(network: Path, services: Any) -> None:
    with (
        pytest.raises(TypeError, match="services: expected a dict of services by name"),
        open_node(network / "node-0" / "node.toml", services=services),
    ):
        pass
    with pytest.raises(TypeError, match="services: expected a dict of services by name"):
        Services(services)


def test_services_of_the_program_are_added_to_the_configured_services(bob: Node, network: Path) -> None:
    with connect(network) as node:
        assert isinstance(node, ClientNode)

        def answer(service: str) -> bytes:
            query = Client(node).query(bob.id, b"a voice", service=service, hops=1)
            return query.result(PATIENCE_S).read()

        assert answer("upper") == b"A VOICE"
        assert answer("echo") == b"A VOICE"  # in place of the configured one
        assert answer("ping") == b"pong"
        with pytest.raises(QueryFailed, match="TARGET_NOT_ALLOWED"):
            answer("nothing")


@pytest.mark.parametrize("place", ["", "client.toml"])
def test_a_client_node_serves_threads_generators_and_asyncio(bob: Node, network: Path, place: str) -> None:
    def scenario() -> Service[bytes]:
        return (yield from ServiceClient(node).query(bob.id, b"one", service="upper", hops=1)).read()

    async def task() -> bytes:
        async with AsyncClient(node) as client:
            return (await client.query(bob.id, b"two", service="upper", hops=1)).read()

    with connect(str(network / place)) as node:
        assert node.reactor.submit(scenario()).result(PATIENCE_S) == b"ONE"
        assert asyncio.run(task()) == b"TWO"
        with Client(node).tunnel(bob.id, hops=1) as tunnel, tunnel.open("upper") as stream:
            stream.write(b"three", timeout_s=PATIENCE_S)
            assert stream.read(timeout_s=PATIENCE_S) == b"THREE"
        assert bob.id in {peer.node_id for peer in node.peers()}
        assert PeerState.SEEN in node.peers().values()
        assert node.pid == os.getpid()
        assert node.id != bob.id
    node.close()
    with pytest.raises(QueryFailed, match="stopped"):
        Client(node).query(bob.id, b"", service="upper").result(PATIENCE_S)


@pytest.mark.parametrize("place", ["node-0/node.toml", "node-0/state"])
def test_a_node_that_a_program_opened_is_used_over_its_control_socket(
    bob: Node, network: Path, place: str
) -> None:
    with connect(network / place) as node:
        assert isinstance(node, ControlClient)
        query = Client(node).query(bob.id, b"from outside", service="upper", hops=0)
        assert query.result(PATIENCE_S).read() == b"FROM OUTSIDE"


def test_the_state_is_saved_at_the_end_and_the_node_stays_the_same(network: Path) -> None:
    config = network / "node-0" / "node.toml"
    state = network / "node-0" / "state"

    found: list[bytes] = []

    def fail() -> None:
        with open_node(config) as node:
            assert (state / "control").is_socket()
            assert not (state / "replay").exists()  # a crash must not leave an old one
            with pytest.raises(StateError, match="in use"), open_node(config):
                pass
            found.append(node.id)
            raise RuntimeError("the program fails")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="the program fails"):
            fail()
        assert (state / "replay").exists()
        assert not (state / "control").exists()
    assert found[0] == found[1]


def test_a_place_that_cannot_be_opened_is_named(network: Path, tmp_path: Path) -> None:
    with pytest.raises(NodeNotRunning):
        connect(network / "node-0" / "node.toml")
    with pytest.raises(NodeNotRunning):
        connect(network / "node-0" / "state")
    with pytest.raises(ConfigError, match="nowhere"):
        connect(tmp_path / "nowhere")
    with pytest.raises(NodeNotRunning) as refused:
        connect(network / "peers")
    assert refused.value.hint == f"did you mean {network}?"
    with pytest.raises(ConfigError), open_node(network / "client.toml"):
        pass
    with pytest.raises(TypeError), open_node(network / "node-0" / "node.toml", services={"x": 3}):  # type: ignore[dict-item]
        pass
    with open_node(network / "node-0" / "node.toml"):  # nothing was left locked
        pass
