"""Many simultaneous queries over one control socket: queries above a client's limit wait for their turn."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from reactor import Handle, Service, Spawn
from tests.support.held import Held
from tests.support.network import PATIENCE_S, wait_until
from tunnel import LocalNetwork, QueryFailed, QueryResult, TunnelError
from tunnel.client import ControlClient
from tunnel.client.aio import AsyncClient
from tunnel.control import CONTROL_FILE, ControlServer
from tunnel.control.client import AT_ONCE
from tunnel.errors import ControlError, ErrorCode, NodeNotRunning
from tunnel.services import Query, Reply

pytestmark = pytest.mark.full


class Ordered(Held):
    """Remembers the queries in the order of their arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[bytes] = []

    def handle(self, query: Query, reply: Reply) -> Service[None]:
        content = yield from query.read()
        self.order.append(content)
        yield from super().handle(query, reply)
        yield from reply.write(content)


class Asked:
    """A node with a control socket and a client of it, which asks the other node of a network of two."""

    def __init__(self, folder: Path) -> None:
        self.held = Ordered()
        self.net = LocalNetwork(peers=2, service=self.held)
        self.folder = folder

    def __enter__(self) -> Asked:
        self.net.__enter__()
        self.folder.chmod(0o700)
        self.server: ControlServer = self.net.submit(self._serve()).result(PATIENCE_S)
        self.client = ControlClient(self.folder / CONTROL_FILE)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.net.submit(self.server.finish()).result(PATIENCE_S)
        self.net.close()

    def _serve(self) -> Service[ControlServer]:
        server = ControlServer(self.net[0], self.net.directory, self.folder / CONTROL_FILE)
        self.serving: Handle[None] = yield Spawn(server.serve(), "control")
        return server

    def ask(self, number: int, **options: Any) -> Future[QueryResult]:
        return self.client.query(self.net[1].id, b"%d" % number, hops=0, **options)

    def wait_full(self) -> None:
        wait_until(self.net, lambda: self.held.asked == AT_ONCE)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    with Asked(tmp_path) as asked:
        yield asked


def test_more_queries_than_connections_wait_in_the_order_of_the_calls(asked: Asked) -> None:
    first = [asked.ask(number) for number in range(AT_ONCE)]
    asked.wait_full()
    more = [asked.ask(number) for number in range(AT_ONCE, 200)]
    assert asked.client.choose_route(asked.net[1].id, 0), "a command needs no turn"
    assert asked.held.asked == AT_ONCE
    asked.held.let()
    for number, future in enumerate(first + more):
        assert future.result(PATIENCE_S).read() == b"%d" % number
    later = [int(content) for content in asked.held.order[AT_ONCE:]]
    # Queries that run at the same time overtake each other on their way, by at most those beside them.
    assert all(abs(place + AT_ONCE - number) < AT_ONCE for place, number in enumerate(later))


def test_a_cancelled_waiter_leaves_no_gap_in_the_queue(asked: Asked) -> None:
    running = [asked.ask(number) for number in range(AT_ONCE)]
    asked.wait_full()
    waiting = [asked.ask(number) for number in range(AT_ONCE, AT_ONCE + 60)]
    for future in waiting[:-1]:
        assert future.cancel()
    asked.held.let()
    assert waiting[-1].result(PATIENCE_S).read() == b"%d" % (AT_ONCE + 59)
    for future in running:
        future.result(PATIENCE_S)
    # All places are free again.
    for future in [asked.ask(number) for number in range(2 * AT_ONCE)]:
        future.result(PATIENCE_S)


def test_the_wait_counts_to_the_time_of_the_query(asked: Asked) -> None:
    running = [asked.ask(number) for number in range(AT_ONCE)]
    asked.wait_full()
    for _ in range(2):
        with pytest.raises(QueryFailed, match=r"not done within 0.05 s: it waited for \d+ others") as caught:
            asked.ask(1, timeout_s=0.05).result(PATIENCE_S)
        assert caught.value.code is ErrorCode.TIMEOUT
    asked.held.let()
    for future in running:
        future.result(PATIENCE_S)


def test_asyncio_waits_as_well(asked: Asked) -> None:
    async def main() -> None:
        async with AsyncClient(asked.client) as client, asyncio.TaskGroup() as group:

            async def ask(number: int) -> bytes:
                result = await client.query(asked.net[1].id, b"%d" % number, hops=0)
                return result.read()

            tasks = [group.create_task(ask(number)) for number in range(150)]
            cancelled = tasks.pop(120)
            await asyncio.to_thread(asked.wait_full)
            cancelled.cancel()
            asked.held.let()
            assert {await task for task in tasks} == {
                b"%d" % number for number in range(150) if number != 120
            }

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


@pytest.mark.parametrize("how", ["stopped", "crashed", "closed"])
def test_all_waits_end_when_the_node_stops(asked: Asked, how: str) -> None:
    futures = [asked.ask(number) for number in range(AT_ONCE + 200)]
    asked.wait_full()
    if how == "stopped":
        asked.net.submit(asked.server.finish()).result(PATIENCE_S)
    elif how == "crashed":
        (asked.folder / CONTROL_FILE).unlink()
        asked.net.submit(asked.server.clients.close()).result(PATIENCE_S)
    else:
        asked.client.close()
    began_s = time.monotonic()
    errors = [future.exception(PATIENCE_S) for future in futures]
    assert time.monotonic() - began_s < 20
    if how == "closed":
        assert {type(error).__name__ for error in errors} == {"Closed"}
    else:
        assert all(isinstance(error, TunnelError) for error in errors), errors
        assert sum(isinstance(error, NodeNotRunning) for error in errors) >= 200


def test_too_many_that_wait_are_refused(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.control.client.MOST_WAITING", 3)
    futures = [asked.ask(number) for number in range(AT_ONCE + 3)]
    asked.wait_full()
    with pytest.raises(QueryFailed, match="3 queries of this client wait already") as caught:
        asked.ask(0).result(PATIENCE_S)
    assert caught.value.code is ErrorCode.BUSY
    asked.held.let()
    for future in futures:
        future.result(PATIENCE_S)


def test_a_silent_node_fails_the_query(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that is suspended (SIGSTOP): the system accepts for it, and it does not answer."""
    path = asked.folder / CONTROL_FILE
    path.unlink()
    monkeypatch.setattr("tunnel.control.client.CONNECT_S", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(path))
        silent.listen(8)
        with pytest.raises(ControlError, match=r"does not answer within 0.1 s"):
            asked.ask(0).result(PATIENCE_S)
