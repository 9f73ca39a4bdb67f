"""A node that is stopped at any moment ends each call of its user, and leaves no connection open.

The moment is a pass of the loop: the network is the same each time, so all passes of a call can be tried.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

import pytest

from reactor import Service
from tests.network_model.network import ModelNetwork, prefixed
from tunnel.errors import QueryFailed
from tunnel.geometry import DEFAULT, Profile
from tunnel.node import Limits, Node
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.routing.cover import QuerySample, draw_cover

CONTENT = prefixed("echo", b"content " * 3000)
# By then these calls have ended, but for tunnels that are being closed.
MOST_PASSES: Final = 160
LIMITS: Final = Limits(link_tick_s=15.0)  # looked at less often, which costs the test most


def _query(node: Node, bob: bytes) -> Future[Any]:
    return node.query(bob, CONTENT, hops=2)


def _cached(node: Node, bob: bytes) -> Future[Any]:
    return node.query(bob, CONTENT, hops=2, mode="cached")


def _ask(node: Node, bob: bytes) -> Future[Any]:
    def read() -> Service[bytes]:
        content = b""
        with (yield from node.ask(node.call(bob, CONTENT, hops=2))) as reply:
            while piece := (yield from reply.read()):
                content += piece
        return content

    return node.reactor.submit(read())


def _talk(tunnel: NodeTunnel) -> Service[None]:
    assert (yield from tunnel.ask(CONTENT)) == CONTENT.removeprefix(prefixed("echo", b""))


def _tunnel(node: Node, bob: bytes) -> Future[Any]:
    return node.tunnel(bob, _talk, hops=2)


def _open_tunnel(node: Node, bob: bytes) -> Future[Any]:
    def talk() -> Service[None]:
        with (yield from node.open_tunnel(bob, hops=2)) as tunnel:
            yield from _talk(tunnel)
            yield from tunnel.close()

    return node.reactor.submit(talk())


def _sub_stream(node: Node, bob: bytes) -> Future[Any]:
    def talk() -> Service[None]:
        with (yield from node.open_tunnel(bob, hops=1)) as tunnel:
            stream = yield from tunnel.open("echo")
            yield from stream.write(b"content")
            stream.close()
            while (yield from stream.read()):
                pass
            yield from tunnel.close()

    return node.reactor.submit(talk())


def _cover(node: Node, bob: bytes) -> Future[Any]:
    sample = QuerySample(Profile(DEFAULT), 2, 3)
    peers = node.context.directory.sample()
    return node.send_cover(draw_cover(random.Random(1), [sample], peers, origin=node.id, loop_share=1.0))


CALLS: Final[dict[str, Callable[[Node, bytes], Future[Any]]]] = {
    "query": _query,
    "cached": _cached,
    "ask": _ask,
    "tunnel": _tunnel,
    "open tunnel": _open_tunnel,
    "sub-stream": _sub_stream,
    "cover": _cover,
}


def stop_after(
    call: Callable[[Node, bytes], Future[Any]], passes: int, *, seed: int = 3, has_links: bool = True
) -> None:
    """Stop the asking node after so many passes, and check what must hold."""
    with ModelNetwork(5, seed, limits=LIMITS) as net:
        if has_links:
            net[0].query(net[4].id, CONTENT, hops=2)
            net.pass_time(5.0)
        future, host = call(net[0], net[4].id), net.machines[0].host
        net.step(passes)
        net.end(0)
        assert future.done(), f"stopped after {passes} passes"
        error = future.exception()
        assert error is None or isinstance(error, QueryFailed), f"after {passes} passes: {error!r}"
        own = [wire.ends[wire.hosts.index(host)] for wire in net.wires.live if host in wire.hosts]
        assert all(end.is_closed for end in own)
        net.pass_time(1.5 * LIMITS.idle_s + LIMITS.linger_s)
        assert all(node.is_idle for node in net.nodes)
        assert not net.bugs, net.bugs


@pytest.mark.parametrize("call", CALLS)
def test_each_call_ends_when_its_node_is_stopped(call: str) -> None:
    for passes in range(0, MOST_PASSES, 33):
        stop_after(CALLS[call], passes, seed=passes, has_links=bool(passes % 2))


@pytest.mark.full
@pytest.mark.parametrize("has_links", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_each_call_ends_when_its_node_is_stopped_in_most_passes(call: str, has_links: bool) -> None:
    for passes in range(MOST_PASSES // 2):
        stop_after(CALLS[call], 2 * passes + has_links, seed=passes, has_links=has_links)


def test_a_tunnel_ends_when_its_node_is_stopped_before_it_is_carried() -> None:
    """The service that carries it was cancelled before it had begun, and who used the tunnel waited for ever.

    The seed decides which service of a pass runs first; with 6 it is the end of the node.
    """
    for seed in range(4, 8):
        for passes in (4, 16, 28):
            stop_after(_tunnel, passes, seed=seed)
