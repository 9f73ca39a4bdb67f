"""Ends at bad moments: all resources are released, and the caller gets an error.

Services that continue after an error, unusual sinks and sources, nodes that stop during their own queries.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, cast

import pytest

from reactor import Cancelled, ReactorThread, Service, Sleep, SocketStream, Spawn, TcpListener
from tests.support.network import PATIENCE_S, assert_works, wait_until, wait_until_idle
from tunnel import ErrorCode, Limits, LocalNetwork, Node, QueryFailed, ReplyMode
from tunnel.client import Client, list_files
from tunnel.client.aio import AsyncClient
from tunnel.directory import StaticDirectory
from tunnel.errors import LocalTunnelError, NodeStopped, PeerError
from tunnel.geometry import DEFAULT, Profile
from tunnel.identity.descriptor import Address
from tunnel.identity.keys import NodeKeys
from tunnel.node.limits import LinkPolicy
from tunnel.node.links.keeper import listen_service
from tunnel.node.query.incoming_replies import IncomingReply
from tunnel.node.query.request import SERVED_MODES
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.routing.cover import CoverPlan
from tunnel.routing.route import Route
from tunnel.services import InnerService, Query, Reply, Tunnel

# Links that end with their message, so that the reply path must be dialled.
ONCE = Limits(link_policy=LinkPolicy.ONCE)


@pytest.fixture
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=4) as network:
        yield network


def test_a_connection_accepted_during_a_cancellation_is_closed() -> None:
    ours, theirs = socket.socketpair()
    stream = SocketStream(ours, ("127.0.0.1", 1))

    class Listener:
        def accept(self) -> Generator[Any, Any, SocketStream]:
            return stream
            yield

    with theirs, ReactorThread() as thread:
        node = Node(NodeKeys.generate(time.time()), StaticDirectory(), reactor=thread.reactor)
        try:
            service = listen_service(node.context, node.links, cast(TcpListener, Listener()))
            request = next(service)
            assert isinstance(request, Spawn)
            request.drop()
            with pytest.raises(Cancelled):
                service.throw(Cancelled())
            assert stream.is_closed
            assert node.is_idle
        finally:
            node.close()


class _GoesOn(InnerService):
    """Makes Alice's address useless, and then handles the error of the reply path in the wrong way."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.net: LocalNetwork

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while (yield from query.read()):
            pass
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        keys = self.net[0].context.codec.ring.keys
        self.net.directory.publish(
            keys.descriptor((Address("127.0.0.1", port),), time.time() + 60, self.net.engine)
        )
        try:
            yield from reply.write(b"answer")
        except PeerError as error:
            if self.how == "wraps":
                raise RuntimeError("an error of the service's own") from error
            if self.how == "writes on":
                yield from reply.write(b"more")
            if self.how == "flushes":
                yield from reply.flush()


@pytest.mark.parametrize("how", ["wraps", "returns", "writes on", "flushes"])
def test_a_service_that_continues_without_a_reply_route(how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    service = _GoesOn(how)
    with LocalNetwork(peers=2, service=service, limits=ONCE) as net:
        service.net = net
        with pytest.raises(QueryFailed) as caught:
            net[0].query(net[1].id, b"hello", hops=0).result(timeout=PATIENCE_S)
        wait_until_idle(net)
    assert caught.value.code is (ErrorCode.SERVICE_FAILED if how == "wraps" else ErrorCode.NEXT_REFUSED)
    assert "AssertionError" not in caplog.text
    assert "127.0.0.1" not in caplog.text  # no address, not even in the service's traceback


class _Silent(InnerService):
    """Reads the query and never answers, or only a first part."""

    def __init__(self, beginning: bytes) -> None:
        self.beginning = beginning

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:

        while (yield from query.read()):
            pass
        if self.beginning:
            yield from reply.write(self.beginning)
            yield from reply.flush()
        yield Sleep(1000)


@pytest.mark.parametrize("beginning", [b"", b"some of the answer"])
def test_query_of_a_node_that_is_stopped_ends_at_once(beginning: bytes) -> None:
    # For the others: after a FIN the stream is not read, so only their time limits end it.
    limits = Limits(idle_s=2.0, answer_s=2.0, linger_s=1.0)
    with LocalNetwork(peers=4, service=_Silent(beginning), limits=limits) as net:
        moved: list[int] = []
        query = net[0].query(
            net[3].id, b"hello", hops=2, idle_s=1000, progress=lambda sent, got: moved.append(got)
        )
        wait_until(net, lambda: moved and moved[-1] >= len(beginning))
        net.stop(0)
        with pytest.raises(NodeStopped) as caught:
            query.result(timeout=PATIENCE_S)
        assert caught.value.code is ErrorCode.CANCELLED
        assert "stopped" in str(caught.value.__cause__), "how it ended is kept"
        with pytest.raises(QueryFailed, match="stopped"):
            net[0].query(net[3].id, b"again", hops=2).result(timeout=PATIENCE_S)
        wait_until_idle(net)


def test_a_query_cancelled_during_its_reply_is_not_a_fault_of_the_sink(
    net: LocalNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    moved: list[int] = []

    for _ in range(5):
        moved.clear()
        query = net[0].query(
            net[3].id, bytes(5_000_000), hops=1, progress=lambda sent, got: moved.append(got)
        )
        wait_until(net, lambda: moved and moved[-1])
        assert query.cancel()
        wait_until_idle(net)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_sink_that_is_false_while_it_is_empty(net: LocalNetwork) -> None:
    class Pieces(list[bytes]):
        def write(self, data: memoryview) -> None:
            self.append(bytes(data))

    pieces = Pieces()
    net[0].query(net[3].id, b"hello", hops=1, sink=pieces).result(timeout=PATIENCE_S)
    assert b"".join(pieces) == b"hello"


class _Raw(io.RawIOBase):
    """A file that accepts a few bytes at a time, and returns None once it is full."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int | None:
        piece = bytes(data[: min(100, self.room - len(self.held))])
        self.held += piece
        return len(piece) or None


def test_sink_that_takes_less_than_all(net: LocalNetwork) -> None:
    content = os.urandom(40_000)
    sink = _Raw(1_000_000)
    net[0].query(net[3].id, content, hops=1, sink=sink).result(timeout=PATIENCE_S)
    assert sink.held == content
    with pytest.raises(LocalTunnelError, match="takes nothing now"):
        net[0].query(net[3].id, content, hops=1, sink=_Raw(1000)).result(timeout=PATIENCE_S)
    assert_works(net)


@pytest.mark.parametrize(
    ("taken", "text"), [(0, "takes nothing now"), (-1, "took -1 of"), (10**6, "took 10")]
)
def test_sink_whose_count_cannot_be_is_no_success(net: LocalNetwork, taken: int, text: str) -> None:
    class Counting:
        def write(self, data: bytes | memoryview, /) -> int:
            return taken

    with pytest.raises(LocalTunnelError, match=text):
        net[0].query(net[3].id, b"hello", hops=1, sink=Counting()).result(timeout=PATIENCE_S)


def test_sink_of_any_class_that_takes_less_than_all(net: LocalNetwork) -> None:
    class Slow:
        held = b""

        def write(self, data: bytes | memoryview, /) -> int:
            self.held += bytes(data[:1000])
            return min(1000, len(data))

    content, sink = os.urandom(40_000), Slow()
    net[0].query(net[3].id, content, hops=1, sink=sink).result(timeout=PATIENCE_S)
    assert sink.held == content


def test_sink_that_fails_while_the_query_is_still_being_sent(net: LocalNetwork) -> None:
    with pytest.raises(LocalTunnelError, match="takes nothing now"):
        net[0].query(net[3].id, bytes(20_000_000), hops=1, sink=_Raw(1)).result(timeout=PATIENCE_S)
    wait_until_idle(net)


@pytest.mark.parametrize("mode", SERVED_MODES)
def test_a_pause_of_the_content_is_not_its_end(net: LocalNetwork, mode: ReplyMode) -> None:
    class Pausing:
        def read(self, size: int, /) -> bytes | None:
            return None

    with pytest.raises(LocalTunnelError, match="non-blocking"):
        net[0].query(net[3].id, Pausing(), hops=1, mode=mode).result(timeout=PATIENCE_S)
    wait_until_idle(net)


@pytest.mark.parametrize("clock_s", [0.0, -1e9, 2.0**32, float("nan")])
def test_a_node_under_an_impossible_clock_raises_and_leaves_nothing(clock_s: float) -> None:
    keys = NodeKeys.generate(time.time())
    with (
        ReactorThread() as thread,
        pytest.raises(LocalTunnelError, match="the clock shows"),
    ):
        Node(keys, StaticDirectory(), reactor=thread.reactor, wall_clock=lambda: clock_s)
    with pytest.raises(LocalTunnelError, match="the clock shows"):
        NodeKeys.generate(clock_s)


def test_node_that_cannot_be_made_leaves_no_listener() -> None:
    """An unclosed socket is a ResourceWarning, which is an error here."""
    with ReactorThread() as thread, pytest.raises(ValueError, match="localhost"):
        Node(NodeKeys.generate(time.time()), StaticDirectory(), reactor=thread.reactor, host="localhost")


# --- a node that stops during calls of its user


def _reads(reply: Service[IncomingReply]) -> Service[bytes]:
    with (yield from reply) as incoming:
        return (yield from incoming.read())


def _receives(opening: Service[NodeTunnel]) -> Service[object]:
    with (yield from opening) as tunnel:
        return (yield from tunnel.ask(b"\x01hello"))


def _uses(tunnel: NodeTunnel) -> Service[None]:
    yield from tunnel.ask(b"\x01hello")


async def _awaits(node: Node, bob: bytes) -> object:
    async with AsyncClient(node) as client:
        return await client.query(bob, b"\x01x", hops=0)


def _in_thread(function: Callable[[], object]) -> Future[Any]:
    """The future of a call that blocks or awaits."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future


ASKING: dict[str, Callable[[Node, bytes], Future[Any]]] = {
    "query": lambda node, bob: node.query(bob, b"\x01x", hops=0),
    "query, retried": lambda node, bob: node.query(bob, b"\x01x", hops=0, retries=3),
    "ask": lambda node, bob: node.reactor.submit(_reads(node.ask(node.call(bob, b"\x01x", hops=0)))),
    "cover": lambda node, bob: node.send_cover(CoverPlan(Route((), bob), Profile(DEFAULT), 9, is_loop=False)),
    "tunnel": lambda node, bob: node.tunnel(bob, _uses, hops=0),
    "open_tunnel": lambda node, bob: node.reactor.submit(_receives(node.open_tunnel(bob, hops=0))),
    "Client.query": lambda node, bob: Client(node).query(bob, b"\x01x", hops=0),
    "Client.ask": lambda node, bob: _in_thread(lambda: Client(node).ask(bob, b"\x01x", hops=0).read()),
    "Client.tunnel": lambda node, bob: _in_thread(lambda: Client(node).tunnel(bob, hops=0).ask(b"\x01x")),
    "AsyncClient": lambda node, bob: _in_thread(lambda: asyncio.run(_awaits(node, bob))),
    "list_files": lambda node, bob: list_files(node, bob, hops=0),
}


class _Hesitates(InnerService):
    """Never answers queries that begin with 1."""

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        content = yield from query.read()
        yield Sleep(0 if content.startswith(b"\x02") else 10 * PATIENCE_S)
        yield from reply.write(content)

    def tunnel(self, tunnel: Tunnel) -> Generator[Any, Any, None]:
        yield Sleep(10 * PATIENCE_S)


@contextlib.contextmanager
def _deaf(net: LocalNetwork) -> Iterator[bytes]:
    """A node that accepts connections and never sends a byte."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        now_s = time.time()
        address = Address("127.0.0.1", server.getsockname()[1])
        descriptor = NodeKeys.generate(now_s).descriptor((address,), now_s, net.engine)
        net.directory.publish(descriptor)
        yield descriptor.node_id


SERVICES = ("ask", "open_tunnel")
"""Those that run in a service of the user's own, which ends with its reactor."""


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        (name, ends)
        for name in ASKING
        for ends in ("node", "reactor")
        if ends == "node" or name not in SERVICES
    ],
)
@pytest.mark.parametrize("stage", ["before", "dials", "waits"])
def test_whatever_is_asked_of_a_node_that_stops_ends_as_stopped(name: str, ends: str, stage: str) -> None:
    with LocalNetwork(peers=2, service=_Hesitates()) as net, _deaf(net) as deaf:
        node = net[0]

        def stop() -> None:
            if ends == "node":
                net.stop(0)
            else:
                net.close()

        def ask() -> None:
            future = ASKING[name](net[0], net[1].id if stage == "waits" else deaf)
            if stage == "dials":
                wait_until(net, lambda: node.links.dialling)
            elif stage == "waits":
                wait_until(net, lambda: node.open_streams and node.context.queries)
            if stage != "before":
                stop()
            future.result(PATIENCE_S)

        if stage == "before":
            stop()
        if (name, stage) == ("cover", "waits"):
            return  # it gets no answer
        with pytest.raises(NodeStopped) as caught:
            ask()
        assert caught.value.code is ErrorCode.CANCELLED


def test_a_follow_up_of_a_node_that_stops_ends_as_stopped() -> None:
    with LocalNetwork(peers=2, service=_Hesitates(), limits=Limits(answer_hops=0)) as net:
        query = net[0].query(net[1].id, b"\x02", hops=0, mode=ReplyMode.REPLY_ON_REPLY)
        result = query.result(PATIENCE_S)
        future = net[0].follow_up(result, b"\x01", hops=0)
        wait_until(net, lambda: net[0].open_streams and net[0].context.queries)
        net.stop(0)
        with pytest.raises(NodeStopped):
            future.result(PATIENCE_S)


@pytest.mark.full
def test_many_queries_at_every_moment_of_a_stop() -> None:
    for turn in range(6):
        with LocalNetwork(peers=6, limits=Limits(answer_hops=0)) as net:
            futures = [net[1].query(net[5].id, b"x" * 1000, hops=2, retries=turn % 2) for _ in range(20)]
            for future in futures[: 4 * turn]:
                future.result(PATIENCE_S)
            net.stop(1)
            errors = [future.exception(PATIENCE_S) for future in futures]
            assert {type(error) for error in errors} <= {type(None), NodeStopped}


def test_cancelling_a_future_has_no_other_effect(caplog: pytest.LogCaptureFixture) -> None:
    with LocalNetwork(peers=2, service=_Hesitates()) as net:
        future = net[0].query(net[1].id, b"\x01x", hops=0)
        wait_until(net, lambda: net[0].context.queries)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(PATIENCE_S)
        wait_until(net, lambda: not net[0].context.queries)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
