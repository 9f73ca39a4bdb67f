"""A node restarts after a crash with new onion keys. Queries for its old keys fail without blaming a node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from reactor import Handle, ReactorThread, Service, Sleep, Spawn
from tests.support.network import PATIENCE_S
from tests.support.strangers import strangers
from tests.tunnel.helpers import OPENSSL
from tunnel import Limits, Node, QueryFailed, Route
from tunnel.directory import StaticDirectory
from tunnel.errors import ErrorCode
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.keys import NodeKeys

LIMITS = Limits(redial_s=0.02, link_tick_s=0.05)


class Restarting:
    """Five nodes, each with a directory of its own that is filled once; the first one asks."""

    def __init__(self, thread: ReactorThread) -> None:
        self._thread = thread
        self.keys = [NodeKeys.generate(time.time()) for _ in range(5)]
        self.nodes = [self._make(each) for each in self.keys]
        for node in self.nodes:
            for other in self.nodes:
                node.context.directory.publish(other.descriptor)
        self.handles = [thread.submit(self._start(node)).result(PATIENCE_S) for node in self.nodes]

    def _make(self, keys: NodeKeys, port: int = 0) -> Node:
        return Node(
            keys, StaticDirectory(), reactor=self._thread.reactor, engine=OPENSSL, limits=LIMITS, port=port
        )

    def _start(self, node: Node) -> Service[Handle[None]]:
        handle: Handle[None] = yield Spawn(node.serve())
        return handle

    @property
    def alice(self) -> Node:
        return self.nodes[0]

    def restart(self, number: int) -> Descriptor:
        """Crash a node and start it again at its address, with its identity. Returns its new descriptor."""
        old, handle = self.nodes[number], self.handles[number]

        def stop() -> Service[None]:
            handle.cancel()
            while not handle.is_finished:
                yield Sleep(0.001)

        self._thread.submit(stop()).result(PATIENCE_S)
        node = self.nodes[number] = self._make(self.keys[number], old.address.port)
        for other in self.nodes:
            node.context.directory.publish(other.descriptor)
        self.handles[number] = self._thread.submit(self._start(node)).result(PATIENCE_S)
        assert node.id == old.id
        assert not set(node.descriptor.onion_keys) & set(old.descriptor.onion_keys)
        return node.descriptor

    def ids(self, *numbers: int) -> tuple[bytes, ...]:
        return tuple(self.nodes[number].id for number in numbers)

    def failures(self) -> list[int]:
        """Of each node: its failed links, and one more if it is a suspect."""
        peers = self.alice.peers
        return [peers.failures(node.id) + (peers.score(node.id) > 0) for node in self.nodes]

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@pytest.fixture
def net() -> Iterator[Restarting]:
    with ReactorThread() as thread:
        net = Restarting(thread)
        yield net
        net.close()


# Which node restarts, and what it is in the query from 0 over 1 and 2 to 3, and back over 4.
PLACES = {"first hop": 1, "hop": 2, "destination": 3, "hop of the reply path": 4}


@pytest.mark.parametrize("number", PLACES.values(), ids=PLACES)
def test_a_query_is_sent_again_for_the_new_keys(number: int, net: Restarting) -> None:
    route = Route(net.ids(1, 2), net.nodes[3].id)
    back = Route(net.ids(4), net.alice.id)
    ask: dict[str, Any] = {"route": route, "reply_route": back, "mode": "other-route"}
    # The links stay open, so nothing but the header can fail.
    assert net.alice.query(net.nodes[3].id, b"one", **ask).result(PATIENCE_S).read() == b"one"
    news: list[Descriptor] = []
    refreshed = []

    def refresh() -> list[Descriptor]:
        refreshed.append(True)
        return news

    net.alice.context.refresh = refresh
    news.append(net.restart(number))
    if number == 4:
        net.nodes[3].context.directory.publish(net.nodes[4].descriptor)
    _relink(net, number)
    if number == 4:  # Bob has the query: it is sent twice only to users who allow it
        before = net.failures()  # Alice has lost her link to that node
        with pytest.raises(QueryFailed):
            net.alice.query(net.nodes[3].id, b"once", **ask).result(PATIENCE_S)
        assert net.failures() == before
        return
    result = net.alice.query(net.nodes[3].id, b"two", **ask).result(PATIENCE_S)
    assert result.read() == b"two"
    assert [failure.code for failure in result.attempts] == [ErrorCode.BAD_HEADER]
    assert net.failures() == [0] * 5
    assert len(refreshed) == 1
    assert net.alice.query(net.nodes[3].id, b"three", **ask).result(PATIENCE_S).attempts == ()


def test_a_query_that_has_arrived_is_sent_again_only_with_retries(net: Restarting) -> None:
    newer = net.restart(4)
    _relink(net, 4)
    net.alice.context.refresh = lambda: [newer]
    net.nodes[3].context.directory.publish(newer)
    result = net.alice.query(
        net.nodes[3].id,
        b"x",
        hops=2,
        route=Route(net.ids(1, 2), net.nodes[3].id),
        reply_route=Route(net.ids(4), net.alice.id),
        mode="other-route",
        retries=1,
    ).result(PATIENCE_S)
    assert result.read() == b"x"
    assert [failure.code for failure in result.attempts] == [ErrorCode.BAD_HEADER]
    assert net.failures() == [0] * 5


def _relink(net: Restarting, number: int) -> None:
    """Let the neighbours of a restarted node notice the broken link: their next frame dials again."""
    for node in net.nodes:
        links = node.links
        net.alice.reactor.submit(_until_gone(links, net.nodes[number].id)).result(PATIENCE_S)


def _until_gone(links: object, node_id: bytes) -> Service[None]:
    while node_id in links.linked:  # type: ignore[attr-defined]
        yield Sleep(0.001)


def test_without_news_both_are_suspected_as_before(net: Restarting) -> None:
    """The hop before may have changed the header, so an error without evidence is no excuse."""
    net.restart(2)
    _relink(net, 2)
    route = Route(net.ids(1, 2), net.nodes[3].id)
    with pytest.raises(QueryFailed) as caught:
        net.alice.query(net.nodes[3].id, b"x", route=route).result(PATIENCE_S)
    assert caught.value.code is ErrorCode.BAD_HEADER
    assert net.failures() == [0, 1, 1, 0, 0]


def test_the_descriptor_of_the_reporting_hop_is_no_evidence(net: Restarting) -> None:
    """Otherwise a hop that damages headers would publish a new descriptor for each."""
    net.restart(2)
    _relink(net, 2)
    liar = net.nodes[1]
    newer = liar.context.codec.ring.keys.descriptor(
        liar.descriptor.addresses, time.time() + 9, OPENSSL, sequence=liar.descriptor.sequence + 9
    )
    net.alice.context.refresh = lambda: [newer]
    route = Route(net.ids(1, 2), net.nodes[3].id)
    with pytest.raises(QueryFailed):
        net.alice.query(net.nodes[3].id, b"x", route=route).result(PATIENCE_S)
    assert net.failures() == [0, 1, 1, 0, 0]


def test_content_that_cannot_be_sent_again_fails_and_accuses_nobody(net: Restarting) -> None:
    newer = net.restart(2)
    _relink(net, 2)
    net.alice.context.refresh = lambda: [newer]
    route = Route(net.ids(1, 2), net.nodes[3].id)
    with pytest.raises(QueryFailed) as caught:
        net.alice.query(net.nodes[3].id, iter([b"x"]), route=route).result(PATIENCE_S)
    assert caught.value.code is ErrorCode.BAD_HEADER
    assert net.failures() == [0] * 5
    assert net.alice.query(net.nodes[3].id, b"y", route=route).result(PATIENCE_S).read() == b"y"


def test_a_tunnel_fails_and_accuses_nobody(net: Restarting) -> None:
    newer = net.restart(2)
    _relink(net, 2)
    net.alice.context.refresh = lambda: [newer]
    route = Route(net.ids(1, 2), net.nodes[3].id)

    def use() -> Service[bytes | None]:
        with (yield from net.alice.open_tunnel(net.nodes[3].id, route=route)) as tunnel:
            return (yield from tunnel.ask(b"hello"))

    with pytest.raises(QueryFailed) as caught:
        net.alice.reactor.submit(use()).result(PATIENCE_S)
    assert caught.value.code is ErrorCode.BAD_HEADER
    assert net.failures() == [0] * 5
    assert net.alice.reactor.submit(use()).result(PATIENCE_S) == b"hello"


def test_a_neighbour_sends_its_new_keys_when_its_link_begins() -> None:
    """With peer exchange a restarted first hop costs one attempt and no wait."""
    keys = NodeKeys.generate(time.time())
    limits = Limits(redial_s=0.02, link_tick_s=0.05, exchange_s=1000)
    with strangers(3, limits=limits) as network:
        hop = network.add(keys=keys)
        bob = network[0]
        alice = network[1]
        network.wait_until(lambda: alice.context.directory.lookup(hop.node.id) is not None, PATIENCE_S)
        route = Route((hop.node.id,), bob.id)
        assert alice.query(bob.id, b"x", route=route).result(PATIENCE_S).read() == b"x"
        port = hop.node.address.port
        network.stop(hop)
        network.wait_until(lambda: hop.node.id not in alice.links.linked)
        network.add(keys=keys, port=port)
        # Its own dials, while the hop was down, may have failed: then it waits a moment before the next.
        pool = alice.links.pool(hop.node.id)
        network.wait_until(
            lambda: (
                hop.node.id not in alice.links.linked
                and not pool.dialling
                and pool.wants_dial(alice.context.now_s(), waiting=1)
            )
        )
        result = alice.query(bob.id, b"y", route=route).result(PATIENCE_S)
        assert result.read() == b"y"
        assert len(result.attempts) <= 1
        assert alice.peers.failures(hop.node.id) == 0
