"""Ends that come at a bad moment: everything is given back, and who asked is told.

Services that go on after an error, sinks and sources of unusual kinds, nodes stopped under their own
queries.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import time
from collections.abc import Generator, Iterator
from typing import Any, cast

import pytest

from reactor import Cancelled, ReactorThread, Sleep, SocketStream, Spawn, TcpListener
from tests.support.network import PATIENCE_S, assert_works, wait_until, wait_until_idle
from tunnel import ErrorCode, Limits, LocalNetwork, Node, QueryFailed, ReplyMode
from tunnel.descriptor import Address
from tunnel.directory import StaticDirectory
from tunnel.errors import LocalTunnelError, PeerError
from tunnel.keys import NodeKeys
from tunnel.node.api_service import SERVED_MODES
from tunnel.node.limits import LinkPolicy
from tunnel.node.listener import listen_service
from tunnel.services import InnerService, Query, Reply

# Links that do not outlive their message: so the way back has to be dialled.
ONCE = Limits(link_policy=LinkPolicy.ONCE)


@pytest.fixture
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=4) as network:
        yield network


def test_connection_accepted_when_the_cancellation_was_on_its_way_is_closed() -> None:
    ours, theirs = socket.socketpair()
    stream = SocketStream(ours, ("127.0.0.1", 1))

    class Listener:
        def accept(self) -> Generator[Any, Any, SocketStream]:
            return stream
            yield

    with theirs, ReactorThread() as thread:
        node = Node(NodeKeys.generate(time.time()), StaticDirectory(), reactor=thread.reactor)
        try:
            service = listen_service(node._context, cast(TcpListener, Listener()))
            assert isinstance(next(service), Spawn)
            with pytest.raises(Cancelled):
                service.throw(Cancelled())
            assert stream.is_closed
            assert node.is_idle
        finally:
            node.close()


class _GoesOn(InnerService):
    """Makes Alice's address useless, and then does what it should not do with the error of the way back."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.net: LocalNetwork

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        while (yield from query.read()):
            pass
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        keys = self.net[0]._context.tunnel.ring.keys
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
def test_service_that_goes_on_without_a_way_back(how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    service = _GoesOn(how)
    with LocalNetwork(peers=2, service=service, limits=ONCE) as net:
        service.net = net
        with pytest.raises(QueryFailed) as caught:
            net[0].query(net[1].id, b"hello", hops=0).result(timeout=PATIENCE_S)
        wait_until_idle(net)
    assert caught.value.code is (ErrorCode.SERVICE_FAILED if how == "wraps" else ErrorCode.NEXT_REFUSED)
    assert "AssertionError" not in caplog.text
    assert "127.0.0.1" not in caplog.text  # nobody's address, not even in the service's traceback


class _Silent(InnerService):
    """Reads the query and then thinks for good, perhaps after a beginning."""

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
    # For the others: behind a FIN nobody reads, so they learn of it only by their limits.
    limits = Limits(idle_s=2.0, answer_s=2.0, linger_s=1.0)
    with LocalNetwork(peers=4, service=_Silent(beginning), limits=limits) as net:
        moved: list[int] = []
        query = net[0].query(
            net[3].id, b"hello", hops=2, idle_s=1000, progress=lambda sent, got: moved.append(got)
        )
        wait_until(net, lambda: moved and moved[-1] >= len(beginning))
        net.stop(0)
        with pytest.raises(QueryFailed) as caught:
            query.result(timeout=PATIENCE_S)
        assert caught.value.code is ErrorCode.DISCONNECTED
        with pytest.raises(QueryFailed, match="stopped"):
            net[0].query(net[3].id, b"again", hops=2).result(timeout=PATIENCE_S)
        wait_until_idle(net)


def test_query_cancelled_while_its_reply_comes_is_no_fault_of_the_sink(
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
    """A file that takes a few bytes at a time, and None once it is full."""

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


def test_sink_that_fails_while_the_query_is_still_being_sent(net: LocalNetwork) -> None:
    with pytest.raises(LocalTunnelError, match="takes nothing now"):
        net[0].query(net[3].id, bytes(20_000_000), hops=1, sink=_Raw(1)).result(timeout=PATIENCE_S)
    wait_until_idle(net)


@pytest.mark.parametrize("mode", SERVED_MODES)
def test_content_that_pauses_is_not_taken_for_its_end(net: LocalNetwork, mode: ReplyMode) -> None:
    class Pausing:
        def read(self, size: int, /) -> bytes | None:
            return None

    with pytest.raises(LocalTunnelError, match="non-blocking"):
        net[0].query(net[3].id, Pausing(), hops=1, mode=mode).result(timeout=PATIENCE_S)
    wait_until_idle(net)


@pytest.mark.parametrize("clock_s", [0.0, -1e9, 2.0**32, float("nan")])
def test_node_under_an_impossible_clock_says_so_and_leaves_nothing(clock_s: float) -> None:
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
