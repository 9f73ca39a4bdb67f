"""Each later call on a failed link, stream or tunnel raises the cause, as a new error object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from tests.support.kept_errors import check_that_nothing_grows
from tests.support.network import PATIENCE_S, wait_until
from tests.tunnel.mux_helpers import Link, pump
from tests.tunnel.tunnels import ECHO, Pair
from tunnel import LocalNetwork, QueryFailed
from tunnel.client import Client
from tunnel.errors import ErrorCode, LinkError, MalformedMessage
from tunnel.geometry import DEFAULT, Profile
from tunnel.node.query.incoming_replies import QueryResult


def test_a_failed_link_and_its_streams() -> None:
    link = Link.make()
    near = link.a.open(Profile(DEFAULT))
    near.write(b"x" * 4096)
    pump(link.a, link.b)
    far = link.b.accept_nowait()
    assert far is not None
    for side in (link.a, link.b):
        error = LinkError("forbidden bytes")
        error.code = ErrorCode.PROTOCOL
        side.fail(error)
    calls: list[Callable[[], object]] = [
        lambda: link.a.open(Profile(DEFAULT)),
        link.b.accept_nowait,
        lambda: link.a.received(0),
        lambda: near.write(b"x"),
        lambda: near.readinto(memoryview(bytearray(9))),
        near.read_status,
        lambda: far.readinto(memoryview(bytearray(9))),
        lambda: far.send_status(b"status"),
    ]
    for call in calls:
        check_that_nothing_grows(call)
        with pytest.raises(LinkError) as caught:
            call()
        assert caught.value.code is ErrorCode.PROTOCOL


def test_a_failed_tunnel_its_messages_and_its_sub_streams() -> None:
    tunnel = Pair().alice
    stream = tunnel.open(ECHO)
    tunnel.fail(MalformedMessage("a chunk that does not open"))
    buffer = bytearray(9)
    calls: list[Callable[[], object]] = [
        lambda: tunnel.open(ECHO),
        tunnel.accept,
        lambda: tunnel.received(memoryview(bytearray(tunnel.geometry.chunk_bytes))),
        lambda: stream.write(b"x"),
        lambda: stream.readinto(buffer),
        stream.check_opened,
        stream.confirm,
        lambda: tunnel.outgoing.write(b"x"),
        tunnel.outgoing.end,
        tunnel.incoming.next_message,
        lambda: tunnel.incoming.readinto(buffer),
        lambda: stream.halves.incoming.readinto(buffer),
    ]
    for call in calls:
        check_that_nothing_grows(call)


@pytest.fixture
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=3) as net:
        yield net


def test_each_call_on_a_broken_tunnel_fails(net: LocalNetwork) -> None:
    tunnel = Client(net[0]).tunnel(net[2].id, hops=0)
    assert tunnel.ask(b"x", timeout_s=PATIENCE_S) == b"x"
    tunnel.give_up()
    wait_until(net, lambda: tunnel.inner.has_ended)
    check_that_nothing_grows(lambda: tunnel.receive(timeout_s=PATIENCE_S))
    check_that_nothing_grows(lambda: tunnel.send(b"x", timeout_s=PATIENCE_S))
    check_that_nothing_grows(lambda: tunnel.close(timeout_s=PATIENCE_S))


def test_each_look_at_a_failed_query_raises_its_error(net: LocalNetwork) -> None:
    net.stop(2)
    future: Future[QueryResult] = net[0].query(net[2].id, b"x", hops=0)
    assert isinstance(future.exception(PATIENCE_S), QueryFailed)
    check_that_nothing_grows(lambda: future.result(PATIENCE_S))
    reply = Client(net[0]).ask(net[2].id, b"x", hops=0)
    with pytest.raises(QueryFailed):
        reply.read(timeout_s=PATIENCE_S)
    check_that_nothing_grows(lambda: reply.read(timeout_s=PATIENCE_S))
    check_that_nothing_grows(lambda: reply.result(timeout_s=PATIENCE_S))
