"""Each context manager serves one `with` block: a later or nested block is an error with an explanation."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import pkgutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import reactor as reactor_package
import tunnel as tunnel_package
from reactor import (
    Closed,
    Reactor,
    ReactorThread,
    Restart,
    Scope,
    Service,
    SocketStream,
    TcpListener,
    ThreadPool,
)
from tests.support.network import PATIENCE_S
from tunnel import Client, LocalNetwork, connect, open_node
from tunnel.cli import main
from tunnel.client.aio import AsyncClient
from tunnel.config import load_config
from tunnel.errors import LocalTunnelError
from tunnel.identity.state_dir import StateDir
from tunnel.running.configured_node import ConfiguredNode
from tunnel.services import Echo, Services

Make = Callable[["Setting"], Any]


class Setting:
    """What the context managers are made of; everything is closed at the end."""

    def __init__(self, net: LocalNetwork, folder: Path, stack: ExitStack) -> None:
        self.net = net
        self.folder = folder
        self.stack = stack

    def client(self) -> Client:
        return Client(self.net[0])

    def tunnel(self) -> Any:
        tunnel = self.client().tunnel(self.net[1].id, hops=0)
        self.stack.callback(tunnel.give_up)
        return tunnel

    def stream(self) -> Any:
        return self.tunnel().open("echo")

    def reply(self) -> Service[Any]:
        node = self.net[0]
        reply = yield from node.ask(node.call(self.net[1].id, b"\x04echo", hops=0))
        self.stack.callback(node.reactor.post, reply.cancel)
        return reply

    def socket_stream(self) -> SocketStream:
        ends = socket.socketpair()
        self.stack.callback(ends[1].close)
        ends[0].setblocking(False)
        return SocketStream(ends[0])

    def configuration(self) -> Path:
        assert main(["network", str(self.folder / "net"), "--nodes", "1"]) == 0
        return self.folder / "net"

    def control_client(self) -> Any:
        file = self.configuration() / "node-0" / "node.toml"
        self.stack.enter_context(open_node(file))
        return connect(file)

    def configured(self) -> ConfiguredNode:
        config = load_config(self.configuration() / "node-0" / "node.toml", {})
        return ConfiguredNode(config, self.stack.enter_context(Reactor()))


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=2, service=Services({"echo": Echo()})) as net:
        yield net


@pytest.fixture
def setting(net: LocalNetwork, tmp_path: Path) -> Iterator[Setting]:
    with ExitStack() as stack:
        yield Setting(net, tmp_path, stack)


BLOCKS: dict[str, Make] = {
    "ThreadReply": lambda on: on.client().ask(on.net[1].id, b"\x04echo", hops=0),
    "ThreadTunnel": lambda on: on.tunnel(),
    "ThreadStream": lambda on: on.stream(),
    "NodeTunnel": lambda on: on.tunnel().inner,
    "TunnelStream": lambda on: on.stream().inner,
    "IncomingReply": lambda on: on.net.submit(on.reply()).result(PATIENCE_S),
    "LocalNetwork": lambda on: LocalNetwork(peers=1),
    "ClientNode": lambda on: connect(on.configuration()),
    "ControlClient": lambda on: on.control_client(),
    "ConfiguredNode": lambda on: on.configured(),
    "OpenNode": lambda on: open_node(on.configuration() / "node-0" / "node.toml"),
    "StateDir": lambda on: StateDir(on.folder / "state"),
    "ReactorThread": lambda on: ReactorThread(),
}
# As with Python's files: a second block inside the first one is allowed, one after it is not.
FILES: dict[str, Make] = {
    "Reactor": lambda on: Reactor(),
    "ThreadPool": lambda on: ThreadPool(),
    "Restart": lambda on: Restart(),
    "Scope": lambda on: Scope("one"),
    "SocketStream": lambda on: on.socket_stream(),
    "TcpListener": lambda on: TcpListener("127.0.0.1", 0),
}
ASYNCIO = {"AsyncReply", "AsyncTunnel", "AsyncStream"}
EXEMPT = {
    "AsyncClient": "several loops may enter it, and it opens again: see its test below",
    "AsyncioBridge": "the same",
    "EmbeddedReactor": "the same",
    "ConnectedNode": "a protocol",
    "QueryResult": "a value: its block closes files, which say so themselves",
    "BlockingQuery": "a file of Python",
    "BlockingReply": "the same",
    "Download": "of the files service, not of a user",
    "UnixListener": "a listener",
    "EnteredOnce": "the base of these",
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_second_with_block_is_refused_with_the_remedy(kind: str, setting: Setting) -> None:
    manager = BLOCKS[kind](setting)
    assert type(manager).__name__ == kind
    with manager:
        pass
    with (
        pytest.raises((LocalTunnelError, Closed), match="make another one, `with ") as caught,
        manager,
    ):
        pytest.fail("entered")
    assert "entered before" in str(caught.value) or "closed" in str(caught.value)


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_inside_the_first_says_so_too(kind: str, setting: Setting) -> None:
    manager = BLOCKS[kind](setting)
    with manager, pytest.raises((LocalTunnelError, Closed), match="make another one"), manager:
        pytest.fail("entered")


@pytest.mark.parametrize("kind", FILES)
def test_a_later_with_block_is_refused_with_the_remedy(kind: str, setting: Setting) -> None:
    manager = FILES[kind](setting)
    assert type(manager).__name__ == kind
    with manager, manager:
        pass
    with pytest.raises(Closed, match="make another one"), manager:
        pytest.fail("entered")


@pytest.mark.parametrize("kind", ["ClientNode", "ControlClient", "StateDir", "ReactorThread"])
def test_an_object_closed_before_its_with_block_is_refused(kind: str, setting: Setting) -> None:
    manager = BLOCKS[kind](setting)
    manager.close()
    with pytest.raises((LocalTunnelError, Closed), match="was closed: make another one"), manager:
        pytest.fail("entered")


@pytest.mark.parametrize("kind", sorted(ASYNCIO))
def test_asyncio_blocks_are_entered_once(kind: str, net: LocalNetwork) -> None:
    async def main() -> None:
        async with AsyncClient(net[0]) as client:
            tunnel = await client.tunnel(net[1].id, hops=0)
            reply = await client.ask(net[1].id, b"\x04echo", hops=0)
            async with reply if kind == "AsyncReply" else tunnel as one:
                manager = await tunnel.open("echo") if kind == "AsyncStream" else one
                assert type(manager).__name__ == kind
                if kind == "AsyncStream":
                    async with manager:
                        pass
                with pytest.raises(LocalTunnelError, match="make another one, `async with await "):
                    await manager.__aenter__()
            with pytest.raises(LocalTunnelError, match="was entered before"):
                await manager.__aenter__()
            tunnel.give_up()
            reply.cancel()

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_an_asyncio_client_opens_again(net: LocalNetwork) -> None:
    client = AsyncClient(net[0])

    async def use() -> None:
        for _ in range(2):
            async with client, client:
                result = await client.query(net[1].id, b"x", service="echo", hops=0)
                assert result.read() == b"x"

    for _ in range(2):
        asyncio.run(asyncio.wait_for(use(), PATIENCE_S))


def test_every_context_manager_has_its_row() -> None:
    found = set()
    for package in (reactor_package, tunnel_package):
        for module_info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if ".cli" in module_info.name or module_info.name.endswith("__main__"):
                continue
            module = importlib.import_module(module_info.name)
            found |= {
                name
                for name, kind in inspect.getmembers(module, inspect.isclass)
                if kind.__module__ == module_info.name
                and not name.startswith("_")
                and (hasattr(kind, "__enter__") or hasattr(kind, "__aenter__"))
            }
    assert found - set(BLOCKS) - set(FILES) - ASYNCIO - set(EXEMPT) == set()
