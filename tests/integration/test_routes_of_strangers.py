"""Routes between nodes without a common directory, and outside a local network."""

from __future__ import annotations

import ipaddress
import time
from typing import Any

import pytest

from reactor import ReactorThread
from tests.support.network import PATIENCE_S
from tests.support.strangers import Strangers, strangers
from tests.tunnel.helpers import OPENSSL
from tunnel import (
    Limits,
    Node,
    Profile,
    QueryFailed,
    Route,
)
from tunnel.directory import StaticDirectory
from tunnel.errors import BadRoute, ErrorCode
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.routing.guards import Guards

# --- coming and going


LIMITS = Limits(exchange_s=0.1, exchange_min_s=0.005, link_tick_s=0.05)


THREE = Profile.for_proxies(3)


class _Heard:
    def __init__(self) -> None:
        self.events: list[tuple[str, bytes]] = []

    def peer_online(self, node_id: bytes) -> None:
        self.events.append(("online", node_id))

    def peer_offline(self, node_id: bytes) -> None:
        self.events.append(("offline", node_id))


def test_a_node_that_is_restarted_is_used_again() -> None:
    with strangers(4, limits=LIMITS) as network:
        everyone = {stranger.node.id for stranger in network.all}
        _wait_all_known(network, everyone)
        heard = _Heard()
        alice, victim = network[1], network.all[2]
        alice.peers.listeners.append(heard)
        keys, port, victim_id = _keys_of(victim.node), victim.node.address.port, victim.node.id
        route = Route((victim_id,), network[3].id)
        assert alice.query(network[3].id, b"one", route=route).result(PATIENCE_S).read() == b"one"
        network.stop(victim)
        with pytest.raises(QueryFailed) as caught:
            alice.query(network[3].id, b"two", route=route).result(PATIENCE_S)
        assert victim_id in caught.value.blamed
        network.wait_until(lambda: ("offline", victim_id) in heard.events)
        assert victim_id in alice.peers.backed_off()
        network.all.remove(victim)

        # Its clock runs on; otherwise its second descriptor would have the time of the first.
        back = network.add(keys=keys, port=port, ahead_s=2)
        assert back.node.id == victim_id
        # Its new onion key must be known first; then it is an ordinary hop, backed off or not.
        newest = back.node.descriptor.sequence
        network.wait_until(lambda: _sequence(network, alice, victim_id) >= newest)
        _until_it_works(network, alice, route)
        assert victim_id not in alice.peers.backed_off()
        assert alice.peers.failures(victim_id) == 0
        network.wait_until(lambda: heard.events[-1] == ("online", victim_id))


def _wait_all_known(network: Strangers, everyone: set[bytes]) -> None:
    network.wait_until(
        lambda: all(
            everyone <= {peer.node_id for peer in stranger.directory.sample()} | {stranger.node.id}
            for stranger in network.all
        )
    )


def _keys_of(node: Node) -> NodeKeys:
    return node.context.codec.ring.keys


def _sequence(network: Strangers, node: Node, node_id: bytes) -> int:
    descriptor = node.context.directory.lookup(node_id)
    return -1 if descriptor is None else descriptor.sequence


def _until_it_works(network: Strangers, alice: Node, route: Route) -> None:
    """Repeat until it succeeds: after a failed dial the next one waits half a second at most."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            result = alice.query(route.destination, b"three", route=route).result(PATIENCE_S)
        except QueryFailed:
            assert time.monotonic() < end_s
            continue
        assert result.read() == b"three"
        return


# --- outside a local network


def _published(directory: StaticDirectory, hosts: list[str], family: bytes | None = None) -> list[Descriptor]:
    made = []
    for host in hosts:
        keys, now_s = NodeKeys.generate(time.time()), time.time()
        descriptor = keys.descriptor((Address(host, 4000),), now_s, OPENSSL, family=family)
        directory.publish(descriptor)
        made.append(descriptor)
    return made


def _lone(thread: ReactorThread, directory: StaticDirectory, **options: Any) -> Node:
    return Node(
        NodeKeys.generate(time.time()),
        directory,
        reactor=thread.reactor,
        engine=OPENSSL,
        network_id=b"some network....",
        **options,
    )


def test_guards_stay_over_a_restart() -> None:
    directory = StaticDirectory()
    peers = _published(directory, [f"{100 + number}.1.2.3" for number in range(20)])
    firsts = set()
    state = None
    with ReactorThread() as thread:
        for _ in range(4):
            node = _lone(thread, directory, guards=state)
            firsts |= {node.choose_route(peers[0].node_id, 3, THREE).proxies[0] for _ in range(10)}
            state = node.guards
            assert state is not None
            node.close()
    assert len(firsts) == 1
    assert state is not None
    assert {guard.node_id for guard in Guards.from_bytes(state)} > firsts
    assert len(Guards.from_bytes(state)) <= 4  # three, and one when the destination is the first of them


def test_no_two_of_one_network_or_family() -> None:
    directory = StaticDirectory()
    crowded = _published(directory, [f"8.8.{number}.1" for number in range(30)])
    others = _published(directory, ["9.1.1.1", "11.1.1.1", "2600:1::1"])
    family = _published(directory, ["13.1.1.1", "14.1.1.1"], family=b"f" * 16)
    (bob,) = _published(directory, ["15.1.1.1"])
    with ReactorThread() as thread:
        node = _lone(thread, directory)
        try:
            for _ in range(30):
                proxies = set(node.choose_route(bob.node_id, 5, THREE).proxies)
                assert len(proxies & {peer.node_id for peer in crowded}) == 1
                assert len(proxies & {peer.node_id for peer in family}) == 1
                assert proxies >= {peer.node_id for peer in others}
            with pytest.raises(BadRoute, match=r"1 too few .*of one network or family"):
                node.choose_route(bob.node_id, 6, THREE)
        finally:
            node.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.1.1", "::1", "fe80::1"])
def test_private_addresses_are_not_dialled_outside_a_local_network(host: str) -> None:
    """They are not even tried: a listener on loopback sees no connection."""
    directory = StaticDirectory()
    (target,) = _published(directory, [host])
    with ReactorThread() as thread:
        node = _lone(thread, directory)
        thread.submit(node.serve())
        try:
            with pytest.raises(QueryFailed, match="private addresses only") as caught:
                node.query(target.node_id, b"hello", hops=0).result(PATIENCE_S)
            assert caught.value.code is ErrorCode.NEXT_REFUSED
        finally:
            node.close()


def test_a_network_with_another_name_runs_on_a_lan() -> None:
    """All addresses are in one /16, so they do not distinguish owners, but guards and families work."""
    ranges = (ipaddress.ip_network("127.0.0.0/8"),)
    directory, nodes = StaticDirectory(), []
    with ReactorThread() as thread:
        for number in range(8):
            family = bytes([number // 3]) * 16
            nodes.append(_lone(thread, directory, private_ranges=ranges, family=family))
            directory.publish(nodes[-1].descriptor)
            thread.submit(nodes[-1].serve())
        alice, bob = nodes[0], nodes[7]
        try:
            firsts = set()
            for _ in range(4):
                result = alice.query(bob.id, b"hello", hops=1).result(PATIENCE_S)
                assert result.read() == b"hello"
                firsts |= {*result.route.proxies}
            assert len(firsts) == 1, "a guard"
            assert alice.guards is not None
            with pytest.raises(BadRoute, match="of one network or family"):
                alice.query(bob.id, b"hello", hops=3)
        finally:
            for node in nodes:
                node.close()
