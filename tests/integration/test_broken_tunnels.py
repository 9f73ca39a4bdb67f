"""A hop is cut off or falls silent under an open tunnel: each call of each client ends, with one error."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from reactor import ReactorThread, Service
from tests.integration.client_kinds import KINDS
from tests.support.network import PATIENCE_S
from tests.tunnel.helpers import OPENSSL
from tunnel import Limits, Node, NodeKeys, QueryFailed, Route
from tunnel.client import Client
from tunnel.client.aio import AsyncClient
from tunnel.directory import StaticDirectory
from tunnel.identity.descriptor import Address

LIMITS = Limits(idle_s=1.5, linger_s=0.3, answer_s=3.0, quiet_s=0.4, pong_s=0.4, link_tick_s=0.05)
# More than every limit above together; a call that hangs takes the patience of the client, 120 s.
BOUND_S = 15.0


class Wire:
    """Copies bytes between a node and those who dial it, until it is cut."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.target = 0
        self._flows = threading.Event()
        self._flows.set()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self.target))
                self._ends += [near, far]
                self._start(self._copy, near, far)
                self._start(self._copy, far, near)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._flows.wait()
                sink.sendall(data)

    def silence(self) -> None:
        """As a process that is suspended (SIGSTOP): its system still acknowledges, and nothing comes."""
        self._flows.clear()

    def close(self) -> None:
        """As a process that ends: FIN, and no new connections."""
        self._stop(abort=False)

    def reset(self) -> None:
        """As a machine that restarts: RST."""
        self._stop(abort=True)

    def _stop(self, *, abort: bool) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                if abort:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._flows.set()

    def end(self) -> None:
        self._stop(abort=False)
        for thread in self._threads:
            thread.join(PATIENCE_S)


class Net:
    """Alice, a hop behind a wire, and Bob; as the client kinds use a network."""

    def __init__(self, thread: ReactorThread) -> None:
        self._thread = thread
        self.wire = Wire()
        directory = StaticDirectory()
        self.nodes = []
        for number in range(3):
            addresses = (Address("127.0.0.1", self.wire.port),) if number == 1 else None
            node = Node(
                NodeKeys.generate(time.time()),
                directory,
                reactor=thread.reactor,
                engine=OPENSSL,
                limits=LIMITS,
                addresses=addresses,
            )
            directory.publish(node.descriptor)
            thread.submit(node.serve())
            self.nodes.append(node)
        assert self.nodes[1].listens_at is not None
        self.wire.target = self.nodes[1].listens_at.port
        self.route = Route((self.nodes[1].id,), self.nodes[2].id)

    def __getitem__(self, index: int) -> Node:
        return self.nodes[index]

    def submit(self, service: Service[Any]) -> Future[Any]:
        return self._thread.submit(service)

    def end(self) -> None:
        self.wire.end()
        for node in self.nodes:
            node.close()


@pytest.fixture
def net() -> Iterator[Net]:
    with ReactorThread() as thread:
        net = Net(thread)
        yield net
        net.end()


CALLS: dict[str, Callable[[Any], Any]] = {
    "receive": lambda tunnel: tunnel.receive(),
    "next_message": lambda tunnel: tunnel.next_message(),
    "ask": lambda tunnel: tunnel.ask(b"x"),
    "send": lambda tunnel: tunnel.send(bytes(3_000_000)),
    "write": lambda tunnel: tunnel.write(bytes(3_000_000)),
    "open": lambda tunnel: tunnel.open("echo"),
    "end_message": lambda tunnel: tunnel.end_message(),
    "stop_sending": lambda tunnel: tunnel.stop_sending(),
    "close": lambda tunnel: tunnel.close(),
}
# Those that wait for nothing while the tunnel is open.
SHORT = {"end_message", "stop_sending"}


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["silence", "close", "reset"])
@pytest.mark.parametrize("name", [name for name in CALLS if name not in SHORT])
def test_a_waiting_call_and_all_later_calls_raise_the_same_error(
    name: str, how: str, kind: str, net: Net
) -> None:
    def scenario(client: Any) -> Generator[Callable[[], Any], Any, None]:
        tunnel = yield lambda: client.tunnel(net[2].id, route=net.route)
        assert (yield lambda: tunnel.ask(b"works")) == b"works"
        getattr(net.wire, how)()
        began_s = time.monotonic()
        with pytest.raises(QueryFailed) as first:
            yield lambda: CALLS[name](tunnel)
        assert time.monotonic() - began_s < BOUND_S
        for other, call in CALLS.items():
            began_s = time.monotonic()
            with pytest.raises(QueryFailed) as again:
                yield partial(call, tunnel)
            assert (str(again.value), again.value.code) == (str(first.value), first.value.code), other
            assert time.monotonic() - began_s < BOUND_S
        tunnel.give_up()  # quiet, and idempotent
        tunnel.give_up()

    KINDS[kind](net, scenario)  # type: ignore[arg-type]


@pytest.mark.full
@pytest.mark.parametrize("how", ["silence", "close", "reset"])
def test_leaving_a_block_with_the_error_adds_nothing(how: str, net: Net) -> None:
    def use() -> None:
        with Client(net[0]).tunnel(net[2].id, route=net.route) as tunnel:
            assert tunnel.ask(b"works") == b"works"
            getattr(net.wire, how)()
            tunnel.receive()

    began_s = time.monotonic()
    with pytest.raises(QueryFailed) as caught:
        use()
    assert time.monotonic() - began_s < BOUND_S
    assert not isinstance(caught.value.__context__, QueryFailed)


@pytest.mark.full
@pytest.mark.parametrize("how", ["silence", "close", "reset"])
def test_leaving_a_block_of_asyncio_ends(how: str, net: Net) -> None:
    async def main() -> None:
        async with AsyncClient(net[0]) as client, await client.tunnel(net[2].id, route=net.route) as tunnel:
            assert await tunnel.ask(b"works") == b"works"
            getattr(net.wire, how)()

    began_s = time.monotonic()
    with pytest.raises(QueryFailed):
        asyncio.run(main())
    assert time.monotonic() - began_s < BOUND_S
