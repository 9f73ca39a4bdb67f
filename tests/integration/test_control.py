"""Other programs of the owner use a running node over its control socket, in this process and in others."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reactor import YIELD, Closed, Handle, Service, SharedChannel, Signal, Spawn
from reactor.errors import ChannelClosed
from tests.integration.test_network_processes import PATIENCE_S, asked, mtun, network, running
from tests.support.cancelling import cancelled_with_result
from tests.support.leaks import no_leaks
from tests.support.network import wait_until, wait_until_idle
from tunnel import LocalNetwork, QueryFailed, ReplyMode, Route
from tunnel.client import Client, ConnectedNode, ControlClient, ServiceClient, connect, get, list_files, put
from tunnel.client.aio import AsyncClient
from tunnel.control import CONTROL_FILE, ControlServer, PeerState
from tunnel.errors import (
    BadRoute,
    ControlError,
    ErrorCode,
    LocalTunnelError,
    NodeNotRunning,
    StateError,
    TunnelError,
)
from tunnel.geometry import DEFAULT, Profile
from tunnel.services import Echo, Files, Ping, Query, Reply, Services

pytestmark = pytest.mark.full

BIG = os.urandom(3_000_000)
DEAD = 5


def slow(query: Query, reply: Reply) -> Service[None]:
    yield Signal()  # never set: it neither reads nor answers


class Node0:
    """Node 0 of a network, with a control socket in its own folder."""

    def __init__(self, net: LocalNetwork, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.net = net
        self.path = folder / CONTROL_FILE
        self.server: ControlServer = self.run(self._open())

    def run(self, service: Service[Any]) -> Any:
        return self.net.submit(service).result(PATIENCE_S)

    def _open(self) -> Service[ControlServer]:
        server = ControlServer(self.net[0], self.net.directory, self.path)
        self._serving: Handle[None] = yield Spawn(server.serve(), "control")
        return server

    def close(self) -> None:
        self.run(self.server.finish())

    def raw(self) -> socket.socket:
        """A client that may send any bytes."""
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        raw.settimeout(PATIENCE_S)
        raw.connect(str(self.path))
        return raw


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    files = tmp_path_factory.mktemp("files")
    services = Services({"ping": Ping(), "echo": Echo(), "files": Files(files), "slow": slow})
    with LocalNetwork(peers=6, service=services) as net:
        net.stop(DEAD)
        yield net


@pytest.fixture
def node0(net: LocalNetwork, tmp_path: Path) -> Iterator[Node0]:
    node = Node0(net, tmp_path)
    yield node
    node.close()


@pytest.fixture
def control(node0: Node0) -> Iterator[ConnectedNode]:
    with connect(node0.path.parent) as control:
        yield control


def echoed(net: LocalNetwork) -> dict[str, Any]:
    return {"route": Route((net[2].id,), net[4].id)}


def test_a_program_asks_as_the_running_node(control: ConnectedNode, net: LocalNetwork) -> None:
    assert control.id == net[0].id
    assert control.pid == os.getpid()
    counts: list[tuple[int, int]] = []
    route = control.choose_route(net[4].id, 2, Profile(DEFAULT))
    assert len(route.proxies) == 2
    for node in (control, net[0]):
        assert len(node.choose_route(net[4].id, 1).proxies) == 1
        assert len(node.choose_route(net[4].id, 1, "bulk").proxies) == 1
    assert net[0].id not in route.nodes
    query = Client(control).query(
        net[4].id, b"hello", service="echo", progress=lambda *now: counts.append(now), **echoed(net)
    )
    with query.result(PATIENCE_S) as result:
        assert result.read() == b"hello"
        assert result.route == echoed(net)["route"]
        assert (result.mode, result.query_bytes, result.reply_bytes) == (ReplyMode.ROUTE, 10, 5)
    assert counts[-1] == (10, 5)
    options: Any = {"mode": ReplyMode.NONE, **echoed(net)}
    delivered = control.query(net[4].id, b"\x04ping", **options).result(PATIENCE_S)
    assert delivered.report is not None
    assert delivered.report.succeeded
    assert not delivered.has_reply
    peers = {peer.node_id: state for peer, state in control.peers().items()}
    assert set(peers) == {node.id for node in net}
    assert peers[net[2].id] is PeerState.SEEN
    assert [node_id for node_id, state in peers.items() if state is PeerState.THIS_NODE] == [control.id]


@pytest.mark.parametrize("content", ["bytes", "view", "file", "iterator"])
def test_content_of_each_kind_goes_both_ways(control: ConnectedNode, net: LocalNetwork, content: str) -> None:
    given: Any = {
        "bytes": BIG,
        "view": memoryview(BIG).cast("I"),
        "file": io.BytesIO(BIG),
        "iterator": iter([BIG[:1_000_001], b"", BIG[1_000_001:]]),
    }
    with Client(control).ask(net[4].id, given[content], service="echo", **echoed(net)) as reply:
        assert b"".join(reply) == BIG
        assert reply.result().query_bytes == len(BIG) + 5


def test_services_and_asyncio_use_a_running_node_too(control: ConnectedNode, net: LocalNetwork) -> None:
    def scenario() -> Service[bytes]:
        result = yield from ServiceClient(control).query(net[4].id, b"one", service="echo", **echoed(net))
        return result.read()

    assert control.reactor.submit(scenario()).result(PATIENCE_S) == b"one"

    async def program() -> tuple[bytes, bytes]:
        async with AsyncClient(control) as client:
            result = await client.query(net[4].id, b"two", service="echo", **echoed(net))
            async with await client.ask(net[4].id, b"three", service="echo", **echoed(net)) as reply:
                await cancelled_with_result(reply.read())
                return result.read(), await reply.read()

    assert asyncio.run(program()) == (b"two", b"three")


def test_files_are_put_listed_and_fetched_through_a_running_node(
    control: ConnectedNode, net: LocalNetwork, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(BIG)
    way: Any = {"service": "files", "hops": 1, "retries": 8}
    assert put(control, net[4].id, tmp_path / "big", **way).result(PATIENCE_S).size == len(BIG)
    assert "big" in [entry.name for entry in list_files(control, net[4].id, **way).result(PATIENCE_S)]
    get(control, net[4].id, "big", tmp_path / "copy", **way).result(PATIENCE_S)
    assert (tmp_path / "copy").read_bytes() == BIG


def test_a_refusal_ends_a_transfer_through_a_running_node(
    control: ConnectedNode, net: LocalNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    ask = net[0].ask

    def watched(call: Any) -> Any:
        calls.append(call)
        return ask(call)

    monkeypatch.setattr(net[0], "ask", watched)
    for service, code in ((None, ErrorCode.BAD_REQUEST), ("none", ErrorCode.TARGET_NOT_ALLOWED)):
        with pytest.raises(QueryFailed) as caught:
            list_files(control, net[4].id, service=service, **echoed(net)).result(PATIENCE_S)
        assert caught.value.code is code
        assert len(calls) == 1
        calls.clear()


def test_errors_have_hop_code_and_text(control: ConnectedNode, net: LocalNetwork) -> None:
    client = Client(control)
    with pytest.raises(QueryFailed, match="TARGET_NOT_ALLOWED") as caught:
        client.query(net[4].id, b"", service="none", **echoed(net)).result(PATIENCE_S)
    assert caught.value.code is ErrorCode.TARGET_NOT_ALLOWED
    assert caught.value.report is not None
    assert caught.value.report.hop == 1
    route = Route((net[2].id, net[DEAD].id), net[4].id)
    with pytest.raises(QueryFailed) as caught:
        client.query(net[4].id, b"", service="echo", route=route).result(PATIENCE_S)
    assert net[DEAD].id in caught.value.blamed
    with pytest.raises(BadRoute, match="too few"):
        client.query(net[4].id, b"", hops=100).result(PATIENCE_S)
    with pytest.raises(BadRoute):
        control.choose_route(net[4].id, 100, Profile.for_proxies(100))
    with pytest.raises(QueryFailed, match=r"within 0\.1 s") as caught:
        client.query(net[4].id, b"", service="slow", timeout_s=0.1, **echoed(net)).result(PATIENCE_S)
    assert caught.value.code is ErrorCode.TIMEOUT


def test_options_that_a_running_node_cannot_take_are_refused(
    control: ConnectedNode, net: LocalNetwork
) -> None:
    with pytest.raises(LocalTunnelError, match="one reply"):
        control.call(net[4].id, b"", replies=2)
    with pytest.raises(LocalTunnelError, match="one reply"):
        control.call(net[4].id, b"", mode=ReplyMode.REPLY_ON_REPLY)
    with pytest.raises(LocalTunnelError, match="opens no tunnel"):
        Client(control).tunnel(net[4].id)
    with pytest.raises(ValueError, match="retries"):
        control.call(net[4].id, b"", retries=99)
    with pytest.raises(TypeError, match="sent again"):
        control.call(net[4].id, iter([b""]), retries=1)
    for wrong in ({"hops": 300}, {"hops": -1}, {"mode": "rout"}, {"purpose": "much"}, {"timeout_s": -1}):
        with pytest.raises(TunnelError):
            control.call(net[4].id, b"", **wrong)
    with pytest.raises(BadRoute, match="it ends at"):
        control.call(net[4].id, b"", route=Route((), net[3].id))
    with pytest.raises(BadRoute, match="it ends at"):
        control.call(net[4].id, b"", mode=ReplyMode.OTHER_ROUTE, reply_route=Route((), net[3].id))
    with pytest.raises(TypeError, match="in hex"):
        control.call(net[4].id.hex(), b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="did you mean 'hops'"):
        control.call(net[4].id, b"", hop=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("size", [100, 2_000_000])
def test_content_is_sent_again_when_a_route_fails(
    control: ConnectedNode, net: LocalNetwork, size: int
) -> None:
    content = io.BytesIO(b"not this" + BIG[:size])
    content.seek(8)
    query = Client(control).query(
        net[4].id, content, service="echo", retries=3, route=Route((net[1].id, net[DEAD].id), net[4].id)
    )
    with query.result(PATIENCE_S) as result:
        assert result.read() == BIG[:size]
        assert len(result.attempts) >= 1
        assert net[DEAD].id in result.attempts[0].blamed


def test_a_service_that_does_not_read_holds_up_the_content(control: ConnectedNode, net: LocalNetwork) -> None:
    pulled = 0
    has_stalled = threading.Event()

    def pieces() -> Iterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 1
            yield bytes(65_536)

    with Client(control).ask(
        net[4].id, pieces(), service="slow", progress=lambda *_: has_stalled.set(), hops=0
    ):
        assert has_stalled.wait(PATIENCE_S)
        last = -1
        while pulled != last:  # until a tick passes without a further piece
            last = pulled
            has_stalled.clear()
            assert has_stalled.wait(PATIENCE_S)
        assert pulled < 400
    wait_until_idle(net)


@pytest.mark.full
def test_a_reader_that_pauses_holds_up_the_reply(control: ConnectedNode, net: LocalNetwork) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(800):
            sent += 65_536
            yield bytes(65_536)

    ticks = threading.Semaphore(0)
    with Client(control).ask(
        net[4].id, pieces(), service="echo", progress=lambda *_: ticks.release(), **echoed(net)
    ) as reply:
        assert reply.read()
        last = -1
        while sent != last:
            last = sent
            assert ticks.acquire(timeout=1) or True
        assert sent < 40_000_000
        assert len(reply.read()) + sum(map(len, reply)) > 50_000_000


def test_cancelling_ends_the_nodes_work(control: ConnectedNode, net: LocalNetwork) -> None:
    query = Client(control).query(net[4].id, b"", service="slow", **echoed(net))
    wait_until(net, lambda: not net[0].is_idle)
    query.cancel()
    wait_until_idle(net)
    reply = Client(control).ask(net[4].id, iter([b"a"]), service="slow", **echoed(net))
    wait_until(net, lambda: not net[0].is_idle)
    reply.cancel()
    wait_until_idle(net)


def test_a_client_that_dies_in_the_middle_leaves_nothing(node0: Node0, net: LocalNetwork) -> None:
    with connect(node0.path.parent) as control:  # opens the links, which stay open
        Client(control).query(net[4].id, b"", service="echo", hops=0).result(PATIENCE_S).close()
    with no_leaks():
        with connect(node0.path.parent) as control:
            contents: list[Any] = [b"", iter([b"x" * 65_536] * 10)]
            replies = [
                Client(control).ask(net[4].id, content, service="slow", hops=0) for content in contents
            ]
            wait_until(net, lambda: not net[0].is_idle)
        for reply in replies:
            with pytest.raises(Closed, match="client was closed"):
                reply.result()
        # Streams that remain would end at some time limit, which is too late.
        wait_until_idle(net, patience_s=15)
        for reply in replies:
            reply.cancel()  # otherwise they would be reported as dropped


CALLS: dict[str, Callable[[ConnectedNode, bytes], object]] = {
    "query": lambda control, there: Client(control).query(there, b"", service="slow", hops=0).result(),
    "result": lambda control, there: Client(control).ask(there, b"", service="slow", hops=0).result(),
    "read": lambda control, there: [*Client(control).ask(there, b"", service="slow", hops=0)],
    "asyncio": lambda control, there: asyncio.run(_ask_in_asyncio(control, there)),
    "files": lambda control, there: list_files(control, there, service="slow", hops=0).result(),
}


async def _ask_in_asyncio(control: ConnectedNode, there: bytes) -> object:
    async with AsyncClient(control) as client:
        return await client.query(there, b"", service="slow", hops=0)


@pytest.mark.parametrize("call", CALLS)
def test_calls_of_a_closed_client_are_refused(node0: Node0, net: LocalNetwork, call: str) -> None:
    errors: list[BaseException] = []
    closing = connect(node0.path.parent)

    def ask() -> None:
        try:
            CALLS[call](closing, net[4].id)
        except BaseException as error:  # noqa: BLE001 - compared below
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(net, lambda: not net[0].is_idle)
    closing.close()
    thread.join(PATIENCE_S)
    ask()
    for error in errors:
        assert type(error) is Closed
        assert str(error) == "the client was closed"
    assert len(errors) == 2
    with pytest.raises(Closed, match="client was closed"):
        closing.peers()
    wait_until_idle(net)


def test_a_channel_that_is_closed_under_a_query_is_no_stop_of_the_node(net: LocalNetwork) -> None:
    channel: SharedChannel[bytes] = SharedChannel(1)
    channel.close()
    with pytest.raises(ChannelClosed):
        net[0].query(net[4].id, channel.receive, hops=0).result(PATIENCE_S)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x04",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x02\x00\x00\x00\x01\x00",
        b"\x01\x00\x00\x00\x05short",
        b"\x05\x00\x00\x00\x22" + bytes(34),
        b"\x01\xff\xff\xff\xff",
        b"\x05\x00\x00\x00\x22" + bytes(32) + b"\x02\x02",
        b"\x01\x00\x00\x00\x40" + bytes(32) + b"\x01\x02\x02\x00\x00" + bytes(24) + b"\xff\xff\x00",
    ],
)
def test_a_broken_client_never_harms_the_node(node0: Node0, net: LocalNetwork, said: bytes) -> None:
    with node0.raw() as raw:
        raw.sendall(said)
        raw.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(65_536):
                pass
    with connect(node0.path.parent) as control:
        query = Client(control).query(net[4].id, b"still here", service="echo", **echoed(net))
        assert query.result(PATIENCE_S).read() == b"still here"
    wait_until_idle(net)


def test_the_number_of_clients_is_limited(node0: Node0, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.control.server.MOST_CLIENTS", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            assert stack.enter_context(node0.raw()).recv(1)
        with pytest.raises(ControlError, match="3 clients"):
            connect(node0.path.parent)
    wait_until(node0.net, lambda: not len(node0.server.clients))
    connect(node0.path.parent).close()


def test_a_client_that_asks_nothing_is_dropped(node0: Node0, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.control.server.REQUEST_S", 0.05)
    with node0.raw() as raw:
        while raw.recv(65_536):
            pass


def test_clients_learn_that_their_node_stops(net: LocalNetwork, tmp_path: Path) -> None:
    node0 = Node0(net, tmp_path)
    with connect(tmp_path) as control:
        query = Client(control).query(net[4].id, b"", service="slow", **echoed(net))
        wait_until(net, lambda: not net[0].is_idle)
        node0.run(_stop(node0.server, net))
        with pytest.raises(QueryFailed) as caught:
            query.result(PATIENCE_S)
        assert caught.value.code in (ErrorCode.CANCELLED, ErrorCode.DISCONNECTED)
        assert not node0.path.exists()
        with pytest.raises(NodeNotRunning, match="no running node"):
            Client(control).query(net[4].id, b"").result(PATIENCE_S)
    wait_until_idle(net)


def _stop(server: ControlServer, net: LocalNetwork) -> Service[None]:
    server.close()
    yield from server.finish()


def test_a_socket_that_a_crash_left_is_replaced_and_a_live_one_never(
    net: LocalNetwork, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / CONTROL_FILE))
    with pytest.raises(NodeNotRunning):
        connect(tmp_path)
    first = Node0(net, tmp_path)
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    with pytest.raises(StateError, match="in use"):
        Node0(net, tmp_path)
    connect(tmp_path).close()
    first.close()
    first.path.write_text("a file of the user's")
    with pytest.raises(StateError, match="not a socket"):
        Node0(net, tmp_path)
    assert first.path.read_text() == "a file of the user's"


def test_a_state_folder_may_have_a_long_path(net: LocalNetwork, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    node0 = Node0(net, deep)
    assert len(os.fsencode(node0.path)) > 200
    with connect(deep) as control:
        assert control.id == net[0].id
    node0.close()
    assert not node0.path.exists()


def test_a_folder_that_others_can_enter_is_not_trusted(node0: Node0) -> None:
    node0.path.parent.chmod(0o755)
    with pytest.raises(StateError, match="others"):
        connect(node0.path.parent)
    node0.path.parent.chmod(0o700)


@pytest.mark.full
def test_commands_and_programs_use_a_node_while_it_runs(tmp_path: Path) -> None:
    with network(tmp_path / "net", 4) as (_, nodes):
        config = tmp_path / "net" / "node-1" / "node.toml"
        use = ("--config", config, "--hops", "2")
        pinged = asked("ping", "node-3", "--count", "1", *use)
        assert (pinged["answered"], pinged["hops"]) == (1, 2)
        (tmp_path / "big").write_bytes(BIG)
        assert asked("send", tmp_path / "big", "node-3", *use)["bytes"] == len(BIG)
        asked("get", "node-3", "big", "--output", tmp_path / "copy", *use)
        assert (tmp_path / "copy").read_bytes() == BIG
        assert asked("route", "node-3", *use)["ok"]
        peers = {peer["name"]: peer for peer in asked("peers", "--config", config)["peers"]}
        assert peers["node-3"]["state"] == "seen"
        failed = mtun("ping", "node-3", "--count", "1", "--config", config, "--hops", "100", status=2)
        assert "error:" in failed.stderr
        failed = mtun("ping", "node-1", "--config", config, status=2)
        assert "cannot query itself" in failed.stderr
        with connect(config) as control:
            assert control.id.hex() == nodes["node-1"]["id"]
            assert control.pid == nodes["node-1"]["pid"]


@pytest.mark.full
def test_a_request_gets_the_outcome_of_its_node(tmp_path: Path) -> None:
    mtun("network", tmp_path / "net", "--nodes", "2")
    config = tmp_path / "net" / "node-0" / "node.toml"
    config.write_text(config.read_text() + "\n[timeouts]\nstop_s = 0.2\n")
    state = config.parent / "state"

    def ended(number: int) -> ErrorCode | None:
        with running("node", "--config", config) as node:
            event = node.event()
            with connect(state) as control:
                has_begun = threading.Event()
                reply = Client(control).ask(
                    bytes.fromhex(other["id"]),
                    iter(lambda: bytes(65_536), b""),
                    service="echo",
                    hops=0,
                    progress=lambda *_: has_begun.set(),
                )
                assert has_begun.wait(PATIENCE_S)
                os.kill(event["pid"], number)
                with pytest.raises(QueryFailed) as caught:
                    reply.result(timeout_s=PATIENCE_S)
            node.process.wait(PATIENCE_S)
            return caught.value.code

    with running("node", "--config", tmp_path / "net" / "node-1" / "node.toml") as far:
        other = far.event()
        assert ended(signal.SIGTERM) is ErrorCode.CANCELLED
        assert not (state / CONTROL_FILE).exists()
        assert ended(signal.SIGKILL) is ErrorCode.DISCONNECTED
        assert (state / CONTROL_FILE).exists()  # left over from the crash
        assert asked("ping", "node-1", "--count", "1", "--config", config, "--hops", "0")["answered"] == 1
        assert ended(signal.SIGTERM) is ErrorCode.CANCELLED


def test_a_socket_whose_folder_was_removed_is_made_again(net: LocalNetwork, tmp_path: Path) -> None:
    node0 = Node0(net, tmp_path / "state")
    node0.path.unlink()
    node0.path.parent.rmdir()
    with pytest.raises(NodeNotRunning):
        connect_to(node0)
    node0.path.parent.mkdir(mode=0o700)
    node0.run(_restore(node0.server))
    connect_to(node0)
    node0.close()


def connect_to(node0: Node0) -> None:
    ControlClient(node0.path).close()


def _restore(server: ControlServer) -> Service[None]:
    server.restore()
    server.restore()
    yield YIELD
