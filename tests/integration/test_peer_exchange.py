"""Peer exchange between running nodes: one node tells all, and forged descriptors end the link."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from reactor import ReactorThread, Service, Sleep
from tests.support.network import PATIENCE_S, wait_until
from tests.support.strangers import Strangers, strangers
from tests.tunnel.helpers import OPENSSL
from tunnel import Limits, Node, Profile, ReplyMode
from tunnel.config import make_config
from tunnel.directory.exchange import ExchangeMessage
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.running.configured_node import ConfiguredNode

COUNT = 20
LIMITS = Limits(exchange_s=0.5, exchange_min_s=0.01, link_tick_s=0.1)


@pytest.fixture(scope="module")
def crowd() -> Iterator[Strangers]:
    with strangers(COUNT, limits=LIMITS) as network:
        yield network


def _knows(network: Strangers, index: int, peer: Descriptor) -> bool:
    """Whether a node knows another one, if only by hearsay."""
    return network.all[index].directory.lookup(peer.node_id) is not None


def _ids(network: Strangers, index: int) -> set[bytes]:
    """The nodes of which this one draws its routes."""
    return {peer.node_id for peer in network.all[index].directory.sample()}


@pytest.mark.full
def test_twenty_nodes_that_know_one_learn_of_all_and_use_them(crowd: Strangers) -> None:
    everyone = {stranger.node.id for stranger in crowd.all}
    own = [{stranger.node.id} for stranger in crowd.all]
    crowd.wait_until(lambda: all(_ids(crowd, index) | own[index] == everyone for index in range(COUNT)))
    proxies = set()
    for index in range(1, COUNT):
        for mode in (ReplyMode.ROUTE, ReplyMode.OTHER_ROUTE):
            target = crowd[(index + 7) % COUNT].id
            result = crowd[index].query(target, b"hello", hops=4, mode=mode).result(PATIENCE_S)
            assert result.read() == b"hello"
            proxies |= set(result.route.proxies)
    assert len(proxies) > COUNT // 2, "routes of nodes that were learned, not of the bootstrap alone"


@pytest.mark.full
def test_a_newcomer_becomes_known_to_the_neighbours_of_its_bootstrap(crowd: Strangers) -> None:
    newcomer = crowd.add().node.id
    others = range(COUNT)
    crowd.wait_until(lambda: all(newcomer in _ids(crowd, index) for index in others))


def _send_by(network: Strangers, index: int, payload: bytes, until: Callable[[], bool]) -> None:
    """Let one node send the test's PEER-EXCHANGE to the bootstrap until it has an effect. A message that
    the node's own next message replaces is never processed."""

    def send() -> Service[None]:
        while not until():
            for link in network[index].links:
                link.mux.send_exchange(payload)
            yield Sleep(0.002)

    network.submit(send()).result(PATIENCE_S)


@pytest.mark.parametrize("what", ["malformed", "forged"])
def test_an_exchange_that_no_honest_node_sends_ends_the_link(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # The node sends no further exchange of its own, so only the test's message can be refused.
    limits = Limits(exchange_s=1000, exchange_min_s=0.001, link_tick_s=0.05)
    with strangers(2, limits=limits) as network:
        network.wait_until(lambda: network[1].open_links == 1 and len(_ids(network, 0)) == 2)
        forged = bytearray(network[1].descriptor.signed)
        forged[-1] ^= 1
        payload = b"\x01\xff\x00\x00" if what == "malformed" else ExchangeMessage((bytes(forged),)).to_bytes()
        lost = "PEER-EXCHANGE begins with" if what == "malformed" else "PEER-EXCHANGE with a bad descriptor"
        _send_by(network, 1, payload, lambda: lost in caplog.text)
        # It receives the reason, and tries again later.
        network.wait_until(lambda: "PROTOCOL" in caplog.text and network[1].open_links == 1)


def test_unlisted_nodes_and_the_receivers_own_descriptor_are_not_sent() -> None:
    limits = Limits(exchange_s=0.05, exchange_min_s=0.001, link_tick_s=0.05)
    with strangers(3, limits=limits) as network:
        hidden = NodeKeys.generate(time.time()).descriptor((), time.time(), OPENSSL)
        assert hidden.unlisted
        network.all[0].directory.publish(hidden)
        shown = _reachable(4000)
        network.all[0].directory.publish(shown)
        network.wait_until(lambda: all(_knows(network, index, shown) for index in range(3)))
        assert _knows(network, 0, hidden)
        assert not any(_knows(network, index, hidden) for index in (1, 2))


def test_a_bootstrap_whose_descriptor_has_long_expired_still_serves() -> None:
    """The user's file is old, but the node still has that address and link key."""
    with strangers(1, limits=LIMITS) as network:
        bootstrap = network[0]
        old_s = time.time() - 30 * 24 * 3600
        old = bootstrap.context.codec.ring.keys.descriptor(
            bootstrap.descriptor.addresses, old_s, OPENSSL, sequence=int(old_s)
        )
        assert old.expiry < time.time()
        newcomer = network.add(bootstrap=old)
        network.wait_until(lambda: newcomer.directory.lookup(bootstrap.id) == bootstrap.descriptor)
        assert newcomer.node.query(bootstrap.id, b"hello", hops=0).result(PATIENCE_S).read() == b"hello"


def _reachable(port: int) -> Descriptor:
    return NodeKeys.generate(time.time()).descriptor((Address("127.0.0.1", port),), time.time(), OPENSSL)


def _leave(thread: ReactorThread, node: Node, serving: Future[None]) -> None:
    thread.submit(node.leave(1.0)).result(PATIENCE_S)
    serving.result(PATIENCE_S)


def test_configured_nodes_learn_of_each_other(tmp_path: Path) -> None:
    """Each has only the descriptor of the first node in a file."""
    with ReactorThread() as thread, ExitStack() as stack:
        nodes: list[ConfiguredNode] = []
        for name in ("first", "second", "third"):
            home = tmp_path / name
            tables: dict[str, dict[str, object]] = {"peers": {"publish": "me"}}
            if nodes:
                tables["peers"]["files"] = ["../first/me"]
            config = make_config(tables, folder=home, source=name, environment={})
            limits = replace(config.limits, exchange_s=0.1, exchange_min_s=0.01, link_tick_s=0.05)
            config = replace(config, limits=limits)
            config.state.mkdir(mode=0o700, parents=True)
            NodeKeys.generate(time.time()).save(config.keys)
            configured = stack.enter_context(ConfiguredNode(config, thread.reactor))
            nodes.append(configured)
            serving = thread.submit(configured.serve(lambda: None))
            stack.callback(_leave, thread, configured.node, serving)
        wanted = {each.node.id for each in nodes}
        wait_until(thread, lambda: all({peer.node_id for peer in each.directory} == wanted for each in nodes))
        first, second, third = (each.node for each in nodes)
        route = third.choose_route(second.id, 1, Profile.for_proxies(1))
        assert route.proxies == (first.id,)
