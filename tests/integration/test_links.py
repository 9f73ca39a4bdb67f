"""Links between real nodes: which links exist, how they end, and which peers are refused or accepted.
Their traffic is tested in test_local_network.py, broken links in test_cut_links.py.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from bench.node_group import NodeGroup
from bench.tcp_proxy import TcpProxy
from tests.support.held import Held
from tests.support.network import PATIENCE_S
from tests.support.raw_peer import RawPeer
from tunnel import ErrorCode, Limits, Node, Profile, QueryFailed, ReplyMode, Route
from tunnel.directory import StaticDirectory
from tunnel.errors import BadRoute
from tunnel.geometry import BULK, DEFAULT
from tunnel.identity.descriptor import Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.link.cells import CellType
from tunnel.node.limits import LinkPolicy

LIMITS = Limits(dial_s=5.0, linger_s=1.0, link_tick_s=0.02, redial_s=0.02)
ELSEWHERE = b"another network."


@pytest.fixture
def group() -> Iterator[NodeGroup]:
    with NodeGroup() as nodes:
        yield nodes


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """All log lines of nodes; lines of the reactor about slow steps are allowed."""
    caplog.set_level(logging.WARNING)
    return lambda: "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("tunnel")
    )


def start(group: NodeGroup, directory: StaticDirectory, count: int, **options: Any) -> list[Node]:
    """Start nodes that know each other."""
    nodes = []
    for _ in range(count):
        node = group.add(directory, **{"limits": LIMITS, **options})
        directory.publish(node.descriptor)
        group.start(node)
        nodes.append(node)
    return nodes


def ask(alice: Node, bob: Node, *proxies: Node, content: bytes = b"here", **options: Any) -> bytes:
    route = Route(tuple(node.id for node in proxies), bob.id)
    return alice.query(bob.id, content, route=route, **options).result(PATIENCE_S).read()


def links_of(node: Node) -> list[Any]:
    return list(node.links)


def are_linked(nodes: list[Node], links: int) -> bool:
    """Whether each node has one link to each of this number of neighbours, and is not dialling.

    Two nodes that dial each other simultaneously have two links for a moment.
    """
    return all(
        node.is_idle and node.open_links == links == len({link.peer.node_id for link in links_of(node)})
        for node in nodes
    )


# --- which links exist ------------------------------------------------------------------------------------


def test_simultaneous_dials_leave_one_link(group: NodeGroup, warnings: Callable[[], str]) -> None:
    directory = StaticDirectory()
    first, second = sorted(start(group, directory, 2), key=lambda node: node.id)

    def dial_both() -> Generator[Any, Any, None]:
        handles = []
        for node, peer in ((first, second), (second, first)):
            handles.append((yield from node.context.scope.spawn(node.links.dial(peer.id))))
        for handle in handles:
            yield from handle.join()

    group.run(dial_both())
    assert ask(first, second) == ask(second, first) == b"here"
    group.wait_until(lambda: first.open_links == second.open_links == 1)
    # The link whose initiator has the smaller id, without any message.
    assert [link.is_dialler for link in links_of(first)] == [True]
    assert [link.is_dialler for link in links_of(second)] == [False]
    assert ask(first, second) == ask(second, first) == b"here"
    assert not warnings()


def test_links_are_kept_without_any_message(group: NodeGroup) -> None:
    nodes = start(group, StaticDirectory(), 4, limits=replace(LIMITS, links_ahead=3))
    group.wait_until(lambda: are_linked(nodes, 3))
    before = {id(link) for node in nodes for link in links_of(node)}
    assert ask(nodes[0], nodes[3], nodes[1], nodes[2]) == b"here"
    assert {id(link) for node in nodes for link in links_of(node)} == before


def test_a_directory_that_fails_for_a_while_ends_no_keeper(
    group: NodeGroup, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(StaticDirectory):
        fails = True

        def sample(self, count: int | None = None) -> list[Descriptor]:
            if self.fails:
                raise ZeroDivisionError
            return super().sample(count)

    directory = Failing()
    nodes = start(group, directory, 2, limits=replace(LIMITS, links_ahead=1))
    group.wait_until(lambda: "gave no peers" in caplog.text)
    directory.fails = False
    group.wait_until(lambda: are_linked(nodes, 1))


def test_a_link_that_breaks_is_kept_again(group: NodeGroup) -> None:
    nodes = start(group, StaticDirectory(), 2, limits=replace(LIMITS, links_ahead=1))
    group.wait_until(lambda: are_linked(nodes, 1))
    (old,) = links_of(nodes[0])
    group.call(old.socket.shutdown_write)
    group.wait_until(lambda: [link for link in links_of(nodes[0]) if link is not old and link.can_open])
    assert ask(nodes[0], nodes[1]) == b"here"


def test_policy_once_leaves_no_link(group: NodeGroup) -> None:
    nodes = start(group, StaticDirectory(), 4, limits=replace(LIMITS, link_policy=LinkPolicy.ONCE))
    for mode in (ReplyMode.NONE, ReplyMode.ROUTE, ReplyMode.CACHED, ReplyMode.KNOWN_DEST):
        reply = ask(nodes[0], nodes[3], nodes[1], nodes[2], mode=mode)
        assert reply == (b"" if mode is ReplyMode.NONE else b"here")
    group.wait_until(lambda: not any(node.open_links for node in nodes))
    group.wait_until(lambda: all(node.is_idle for node in nodes))


@pytest.mark.full
def test_an_old_link_is_replaced_and_loses_no_stream(group: NodeGroup, warnings: Callable[[], str]) -> None:
    held = Held()
    limits = replace(LIMITS, links_ahead=1, link_age_s=2.0)
    alice, bob = start(group, StaticDirectory(), 2, limits=limits, service=held)
    group.wait_until(lambda: are_linked([alice, bob], 1))
    (old,) = links_of(alice)
    content = os.urandom(300_000)
    query = alice.query(bob.id, content, hops=0, mode=ReplyMode.CACHED)
    group.wait_until(lambda: held.asked == 1)
    group.wait_until(lambda: any(link.can_open for link in links_of(alice) if link is not old))
    assert old.is_retired
    assert old.streams == 1
    group.call(held.let)
    assert query.result(PATIENCE_S).read() == content
    group.wait_until(lambda: old not in links_of(alice))
    assert not warnings()


def test_a_node_at_the_address_of_another_is_not_mistaken_for_it(
    group: NodeGroup, warnings: Callable[[], str]
) -> None:
    directory = StaticDirectory()
    alice, bob, mallory = start(group, directory, 3)
    directory.publish(replace(bob.descriptor, addresses=mallory.descriptor.addresses))
    with pytest.raises(QueryFailed) as caught:
        ask(alice, bob)
    assert caught.value.code is ErrorCode.NEXT_REFUSED
    group.wait_until(lambda: not mallory.context.half_open)
    assert not mallory.open_links
    assert bob.id.hex()[:8] not in warnings()


# --- nodes that cannot be dialled -------------------------------------------------------------------------


def test_node_without_a_listener_gets_replies_over_its_links(group: NodeGroup) -> None:
    directory = StaticDirectory()
    others = start(group, directory, 6)
    client = group.add(directory, port=None, limits=replace(LIMITS, links_ahead=2))
    assert client.listens_at is None
    assert client.descriptor.unlisted
    assert not client.descriptor.addresses
    with pytest.raises(BadRoute, match="no link yet"):
        client.query(others[0].id, b"", hops=1, mode=ReplyMode.OTHER_ROUTE)
    group.start(client)
    group.wait_until(lambda: client.open_links == 2)
    for mode in (ReplyMode.ROUTE, ReplyMode.OTHER_ROUTE, ReplyMode.REPLY_ON_REPLY, ReplyMode.CACHED):
        for hops in (0, 1, 2):
            query = client.query(others[0].id, os.urandom(20_000), hops=hops, mode=mode)
            assert query.result(PATIENCE_S).reply_bytes == 20_000
    assert client.query(others[0].id, b"no reply", hops=1, mode=ReplyMode.NONE).result(PATIENCE_S)
    with pytest.raises(BadRoute, match="known-dest needs an address"):
        client.query(others[0].id, b"", hops=1, mode=ReplyMode.KNOWN_DEST)


def test_a_node_behind_a_forwarded_port_is_reachable(group: NodeGroup) -> None:
    class Counter:
        seen = 0

        def passes(self, data: memoryview, *, outward: bool) -> int:
            Counter.seen += len(data)
            return len(data)

        def ended(self) -> None:
            pass

    directory = StaticDirectory()
    (alice,) = start(group, directory, 1)
    router = TcpProxy(Counter)
    group.submit(router.serve())
    (bob,) = start(group, directory, 1, addresses=(router.address,))
    assert bob.address == router.address != bob.listens_at
    router.target = bob.listens_at
    assert ask(alice, bob) == b"here"
    assert Counter.seen > 1000


# --- how links end ----------------------------------------------------------------------------------------


def test_restart_of_a_relay_loses_no_stream(group: NodeGroup, warnings: Callable[[], str]) -> None:
    directory, held = StaticDirectory(), Held()
    alice, other = start(group, directory, 2)
    (bob,) = start(group, directory, 1, service=held)
    keys = NodeKeys.generate(time.time())
    relay = group.add(directory, keys=keys, limits=LIMITS)
    directory.publish(relay.descriptor)
    serving = group.start(relay)
    content = os.urandom(200_000)
    route = Route((relay.id,), bob.id)
    queries = [alice.query(bob.id, content, route=route, mode=ReplyMode.CACHED) for _ in range(3)]
    group.wait_until(lambda: held.asked == 3)
    left = group.submit(relay.leave())
    group.wait_until(lambda: all(link.is_retired for link in links_of(alice)))
    with pytest.raises(QueryFailed):
        ask(alice, bob, relay)
    assert ask(alice, other) == b"here"
    assert not left.done()
    group.call(held.let)
    for query in queries:
        assert query.result(PATIENCE_S).read() == content
    left.result(PATIENCE_S)
    serving.result(PATIENCE_S)
    assert not warnings()

    address = relay.listens_at
    assert address is not None
    again = group.add(directory, keys=keys, limits=LIMITS, port=address.port)
    assert again.id == relay.id
    directory.publish(again.descriptor)
    group.start(again)
    group.wait_until(lambda: not alice.links.pools.get(relay.id))  # its time for another attempt
    assert ask(alice, bob, again) == b"here"


def test_node_without_work_leaves_at_once(group: NodeGroup) -> None:
    directory = StaticDirectory()
    alice, bob = start(group, directory, 2)
    client = group.add(directory, port=None, limits=replace(LIMITS, links_ahead=1))
    serving = group.start(client)
    group.wait_until(lambda: client.open_links)
    group.run(client.leave())
    serving.result(PATIENCE_S)
    group.wait_until(lambda: not alice.open_links and not bob.open_links)


def test_peer_that_answers_no_go_away_is_ended(group: NodeGroup, warnings: Callable[[], str]) -> None:
    limits = replace(LIMITS, link_idle_s=0.05, linger_s=0.2)
    (bob,) = start(group, StaticDirectory(), 1, limits=limits)
    with RawPeer(bob.descriptor, group.engine).handshake() as peer:
        kinds = [kind for kind, _, _ in peer.cells()]
    assert kinds == [CellType.GOAWAY]
    group.wait_until(lambda: not bob.open_links)
    assert "did not answer GOAWAY within 0.2 s" in warnings()


@pytest.mark.full
def test_a_peer_that_stops_reading_harms_no_other_link(group: NodeGroup) -> None:
    class Sees:
        def passes(self, data: memoryview, *, outward: bool) -> int:
            return len(data)

        def ended(self) -> None:
            pass

    directory = StaticDirectory()
    limits = replace(LIMITS, quiet_s=1.0, pong_s=2.0, link_tick_s=0.1)
    alice, bob, other = start(group, directory, 3, limits=limits)
    proxy = TcpProxy(Sees)
    group.submit(proxy.serve())
    (relay,) = start(group, directory, 1, addresses=(proxy.address,), limits=limits)
    proxy.target = relay.listens_at
    assert ask(alice, bob, relay) == b"here"
    (stalled,) = [link for link in links_of(alice) if link.peer.node_id == relay.id]
    proxy.is_stalled = True
    route, content = Route((relay.id,), bob.id), bytes(1 << 20)
    count = 10_000_000 // BULK.window_bytes + 4  # more than the kernel's buffers hold
    queries = [
        alice.query(bob.id, content, route=route, profile=Profile(BULK), mode=ReplyMode.CACHED)
        for _ in range(count)
    ]
    group.wait_until(lambda: stalled.streams == count and not stalled.mux.sender.is_idle)
    assert ask(alice, bob, other, content=bytes(1 << 20)) == bytes(1 << 20)
    assert alice.context.budget.used_bytes == 0
    for query in queries:
        with pytest.raises(QueryFailed, match="answered no PING within 2 s"):
            query.result(PATIENCE_S)
    proxy.is_stalled = False
    group.wait_until(lambda: stalled not in links_of(alice) and alice.is_idle)
    assert ask(alice, bob, relay) == b"here"


@pytest.mark.full
def test_a_peer_that_answers_no_ping_harms_no_other_link(
    group: NodeGroup, warnings: Callable[[], str]
) -> None:
    limits = replace(LIMITS, quiet_s=0.3, pong_s=1.0)
    alice, bob = start(group, StaticDirectory(), 2, limits=limits)
    assert ask(alice, bob) == b"here"
    kept = links_of(alice)
    with RawPeer(bob.descriptor, group.engine).handshake() as peer:
        assert [kind for kind, _, _ in peer.cells()] == [CellType.PING]
    group.wait_until(lambda: "answered no PING within 1 s" in warnings())
    assert ask(alice, bob) == b"here"
    assert links_of(alice) == kept


# --- refused peers ----------------------------------------------------------------------------------------


def test_links_per_address_are_limited_outside_a_local_network(
    group: NodeGroup, warnings: Callable[[], str]
) -> None:
    limits = replace(LIMITS, links_per_address=3, handshake_s=PATIENCE_S)
    (bob,) = start(group, StaticDirectory(), 1, limits=limits, network_id=ELSEWHERE)
    assert bob.listens_at is not None
    address = (bob.listens_at.host, bob.listens_at.port)
    # No node: outside a local network none would dial this address.
    with RawPeer(bob.descriptor, group.engine, network_id=ELSEWHERE) as peer:
        peer.handshake()
        group.wait_until(lambda: bob.open_links == 1)  # links count, and so do unfinished handshakes
        crowd = [socket.create_connection(address, timeout=PATIENCE_S) for _ in range(5)]
        assert [sock.recv(1) for sock in crowd[2:]] == [b"", b"", b""]
        assert bob.context.half_open == 2
        assert "3 are open from its address (limit 3)" in warnings()
        assert address[0] not in warnings()
        assert bob.open_links == 1
        for sock in crowd:
            sock.close()


@pytest.mark.full
def test_at_the_limit_the_idle_link_makes_room(group: NodeGroup) -> None:
    profile = Profile(DEFAULT)
    (bob,) = start(group, StaticDirectory(), 1, limits=replace(LIMITS, links=2, header_s=PATIENCE_S))
    idle, busy = (RawPeer(bob.descriptor, group.engine) for _ in range(2))
    with idle, busy:
        idle.handshake()
        busy.handshake().open(profile, b"")
        group.wait_until(lambda: bob.open_links == 2 and bob.open_streams == 1)
        newcomer = RawPeer(bob.descriptor, group.engine).handshake()
        newcomer.open(profile, b"")
        assert [kind for kind, _, _ in idle.cells()] == [CellType.GOAWAY]
        group.wait_until(lambda: bob.open_links == 2 and bob.open_streams == 2)
        newcomer.close()


def test_a_peer_without_a_proven_identity_ends_no_link(group: NodeGroup) -> None:
    alice, bob = start(group, StaticDirectory(), 2, limits=replace(LIMITS, links=1))
    assert ask(alice, bob) == b"here"
    (link,) = links_of(bob)
    assert bob.listens_at is not None
    for _ in range(5):
        with socket.create_connection((bob.listens_at.host, bob.listens_at.port)) as sock:
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
    assert links_of(bob) == [link]
    assert not link.is_retired


def test_a_node_whose_links_are_all_in_use_does_not_dial(
    group: NodeGroup, caplog: pytest.LogCaptureFixture
) -> None:
    directory, held = StaticDirectory(), Held()
    (alice,) = start(group, directory, 1, limits=replace(LIMITS, links=1))
    (bob,) = start(group, directory, 1, service=held)
    (carol,) = start(group, directory, 1)
    query = alice.query(bob.id, b"wait", hops=0, mode=ReplyMode.CACHED)
    group.wait_until(lambda: held.asked == 1)
    with pytest.raises(QueryFailed, match="all 1 links of this node are in use") as caught:
        ask(alice, carol)
    assert caught.value.code is ErrorCode.BUSY
    group.call(held.let)
    assert query.result(PATIENCE_S).read() == b"wait"
    assert ask(alice, carol) == b"here"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
