"""Threat: a stranger fills the tables of peers with nodes that he has invented, so that queries go to them.

He invents any number of identities, signs what he likes for each, and has a few links or a hash table to tell
of them. Tested here on real sockets: afterwards each node draws its routes from the same nodes as before, all
queries succeed, and no node tells another one what it was only told. test_poisoning_over_time.py has the
long run: who is found when, and the shares of routes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from tests.support.fake_dht import FakeDht
from tests.support.network import PATIENCE_S
from tests.support.raw_peer import RawPeer
from tests.support.strangers import Strangers, strangers
from tests.tunnel.helpers import OPENSSL
from tunnel import Limits
from tunnel.directory import DhtDirectory, ExchangeDirectory
from tunnel.directory.exchange import MAX_DESCRIPTORS, ExchangeMessage
from tunnel.directory.hearsay import PER_SOURCE
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.link.cells import CellType, pack_peer_exchange
from tunnel.routing.addresses import LOCAL

NODES = 6
NOBODY = (Address("127.0.0.1", 1),)
LIMITS = Limits(exchange_s=0.2, exchange_min_s=0.001, link_tick_s=0.05, probe_s=0.02, dial_s=1.0)


def invented(count: int, later_s: int = 0) -> list[Descriptor]:
    now_s = time.time() + later_s
    return [NodeKeys.generate(now_s).descriptor(NOBODY, now_s, OPENSSL) for _ in range(count)]


@contextmanager
def network() -> Iterator[Strangers]:
    """Nodes that have all found each other through the first one."""
    with strangers(NODES, limits=LIMITS) as net:
        everyone = {stranger.node.id for stranger in net.all}
        net.wait_until(lambda: all(usable(net, index) == everyone for index in range(NODES)))
        yield net


def usable(net: Strangers, index: int) -> set[bytes]:
    """The nodes of which a node draws its routes."""
    return {peer.node_id for peer in net.all[index].directory.sample()}


def knows(net: Strangers, index: int, peer: Descriptor) -> bool:
    """Whether a node knows another one, if only by hearsay."""
    return net.all[index].directory.lookup(peer.node_id) is not None


def tell(liar: RawPeer, told: list[Descriptor]) -> None:
    """Send descriptors as a neighbour does, each message after one of the node. The last one may still be on
    its way when this returns."""
    for at in range(0, len(told), MAX_DESCRIPTORS):
        signed = tuple(each.signed for each in told[at : at + MAX_DESCRIPTORS])
        liar.send_cells(pack_peer_exchange(ExchangeMessage(signed, wants_more=True).to_bytes()))
        liar.wait_for(CellType.PEER_EXCHANGE, stream=0)


def answered(net: Strangers, index: int, count: int = 15) -> int:
    """How many queries of a node succeed, over three proxies and without retries."""
    asking, bob = net[index], net[(index + 1) % NODES].id
    results = [asking.query(bob, b"hello", hops=3, retries=0) for _ in range(count)]
    return sum(result.exception(PATIENCE_S) is None for result in results)


def check_unharmed(net: Strangers, fakes: list[Descriptor]) -> None:
    everyone = {stranger.node.id for stranger in net.all}
    for index in range(NODES):
        assert usable(net, index) == everyone
        assert answered(net, index) == 15
    for index in range(1, NODES):
        assert not any(knows(net, index, fake) for fake in fakes), "told by a node that was only told"


@pytest.mark.full
@pytest.mark.parametrize("links", [1, 5])
def test_links_of_strangers_that_tell_of_invented_nodes(links: int) -> None:
    with network() as net, ExitStack() as stack:
        assert answered(net, 0) == 15
        fakes = invented(400)
        liars = [stack.enter_context(RawPeer(net[0].descriptor, OPENSSL).handshake()) for _ in range(links)]
        for number, liar in enumerate(liars):
            tell(liar, fakes[number::links])
        check_unharmed(net, fakes)
        # All that the first node still knows of them is the share of one address, for a few minutes.
        assert 0 < sum(knows(net, 0, fake) for fake in fakes) <= PER_SOURCE


@pytest.mark.full
def test_strangers_that_dial_and_sign_addresses_of_others() -> None:
    """Their handshakes prove their keys, and nothing about the addresses."""
    with network() as net, ExitStack() as stack:
        liars = []
        for _ in range(40):
            liar = RawPeer(net[0].descriptor, OPENSSL, addresses=NOBODY).handshake()
            liars.append(stack.enter_context(liar))
            tell(liar, [])
        fakes = [liar.keys.descriptor(NOBODY, time.time(), OPENSSL) for liar in liars]
        net.wait_until(lambda: any(knows(net, 0, fake) for fake in fakes))
        check_unharmed(net, fakes)


@pytest.mark.full
def test_invented_nodes_with_the_link_keys_and_addresses_of_real_ones() -> None:
    """Each dial succeeds, and says nothing about the node: another one is there."""
    with network() as net, RawPeer(net[0].descriptor, OPENSSL).handshake() as liar:
        fakes = []
        for number in range(60):
            keys, real = NodeKeys.generate(time.time()), net[number % NODES].descriptor
            fake = keys.descriptor(real.addresses, time.time(), OPENSSL)
            fakes.append(replace(fake, link_key=real.link_key).sign(keys.identity, OPENSSL))
        links = len(net[0].links)
        tell(liar, fakes)
        check_unharmed(net, fakes)
        # A newcomer hears of them before it knows the real ones, and dials both.
        newcomer = net.add()
        with RawPeer(newcomer.node.descriptor, OPENSSL).handshake() as other:
            tell(other, fakes)
            everyone = {stranger.node.id for stranger in net.all}
            net.wait_until(lambda: usable(net, NODES) == everyone)
            directory = newcomer.directory
            assert isinstance(directory, ExchangeDirectory)
            net.wait_until(lambda: not directory.undialled)
            assert usable(net, NODES) == everyone
            assert answered(net, NODES) == 15
        net.wait_until(lambda: len(net[0].links) <= links + 2)


@pytest.mark.full
def test_a_reached_node_that_signs_another_address_is_a_stranger_there() -> None:
    """The identity of a real node, moved by its owner to where nobody answers: no route leads there."""
    with network() as net:
        mover = net.all[NODES - 1]
        keys = mover.node.context.codec.ring.keys
        moved = keys.descriptor(NOBODY, time.time(), OPENSSL, sequence=mover.node.descriptor.sequence + 1000)
        net.stop(mover)
        with RawPeer(net[1].descriptor, OPENSSL).handshake() as liar:
            tell(liar, [moved])
            net.wait_until(lambda: net.all[1].directory.lookup(moved.node_id) == moved)
            assert moved.node_id not in usable(net, 1)
        assert answered(net, 1) == 15


def test_a_hash_table_of_invented_nodes() -> None:
    """Two nodes meet through a hash table that holds two hundred others, and use only each other."""
    dht, network_id = FakeDht(), bytes(16)
    fakes = invented(200)
    for number in range(16):
        key = FakeDht.InfoHash.get(f"mtun1 members {network_id.hex()} {number}")
        dht.table[key] = [fake.signed for fake in fakes[number::16]]

    def make() -> DhtDirectory:
        return DhtDirectory(
            engine=OPENSSL, network_id=network_id, rules=LOCAL, refresh_s=0.05, soon_s=0.01, module=dht
        )

    with strangers(2, limits=LIMITS, make_directory=make, knows_bootstrap=True) as net:
        both = {net[0].id, net[1].id}
        net.wait_until(lambda: usable(net, 0) == both)
        assert usable(net, 1) == both
        net.wait_until(lambda: any(knows(net, 1, fake) for fake in fakes))


def test_a_newcomer_is_found_while_a_stranger_floods() -> None:
    """It dials one node, which is told of invented ones all the time; soon all know it, and it knows all."""
    with network() as net, RawPeer(net[0].descriptor, OPENSSL).handshake() as liar:
        tell(liar, invented(160))
        newcomer = net.add()
        everyone = {stranger.node.id for stranger in net.all}
        net.wait_until(lambda: all(usable(net, index) == everyone for index in range(NODES + 1)))
        result = newcomer.node.query(net[3].id, b"hello", hops=3).result(PATIENCE_S)
        assert result.read() == b"hello"
