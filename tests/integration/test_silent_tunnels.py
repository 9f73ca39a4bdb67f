"""Silent tunnels, over which nothing arrives any more: both ends notice in time, with the reason, and replace
them.

`Swallower` makes a node silently drop everything that it sends on some streams, like a broken or stopped hop.
At the end of this file real processes are stopped.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import pytest

from reactor import ReadYield, Service, Signal
from tests.integration.test_network_processes import network as running_network
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tunnel import Echo, ErrorCode, Limits, LocalNetwork, Node, QueryFailed, Route, connect
from tunnel.client import Client
from tunnel.client.clients import ThreadTunnel
from tunnel.errors import PeerError
from tunnel.established import SubStream, Target, TargetKind, TunnelLimits
from tunnel.front.tunnel_pool import TunnelPool
from tunnel.link.mux import MuxStream
from tunnel.services import Services, StreamService

pytestmark = pytest.mark.full  # they wait for the limit; on a clock of their own: test_established_silence.py

SILENT_S = 2.0
LIMITS = Limits(linger_s=1.0, idle_s=30.0, tunnel=TunnelLimits(silent_s=SILENT_S))
LATE_S = 1.0  # that a busy machine may be late
ALICE, RELAY, BOB, OTHER = 0, 1, 2, 3  # of the network


class Download(StreamService):
    """Sends a part, and then nothing. Notes how its sub-streams fail."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def serve(self, stream: SubStream[Signal]) -> Service[None]:
        stream.confirm()
        stream.write(b"the first part")
        try:
            yield from ReadYield(stream).read(1)
        except PeerError as error:
            self.failures.append(str(error))
            raise


class Swallower:
    """Drops what is written to some streams; streams that are opened later are spared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._swallowed: set[Any] = set()
        write = MuxStream.write

        def swallowing(stream: MuxStream[Any], data: bytes | memoryview) -> int:
            return len(data) if stream in self._swallowed else write(stream, data)

        monkeypatch.setattr(MuxStream, "write", swallowing)

    def swallow(self, node: Node, *neighbours: Node, spared: AbstractSet[Any] = frozenset()) -> None:
        """All open streams of a node to its neighbours, but those that are `spared`."""
        ids = {each.id for each in neighbours}
        self._swallowed |= {each for each in streams_of(node) if each.peer_id in ids} - spared


def streams_of(node: Node) -> set[Any]:
    return {stream for link in node.links for stream in link.mux.table.streams.values()}


@pytest.fixture
def swallower(monkeypatch: pytest.MonkeyPatch) -> Swallower:
    return Swallower(monkeypatch)


@pytest.fixture
def download() -> Download:
    return Download()


@pytest.fixture
def net(download: Download) -> Iterator[LocalNetwork]:
    services = Services({"echo": Echo(), "download": download})
    with LocalNetwork(peers=4, service=services, limits=LIMITS) as net:
        yield net
        wait_until_idle(net)


def open_tunnel(net: LocalNetwork, via: int) -> ThreadTunnel:
    route = Route((net[via].id,), net[BOB].id)
    return Client(net[ALICE]).tunnel(net[BOB].id, route=route, timeout_s=PATIENCE_S)


def check_echo(tunnel: ThreadTunnel) -> None:
    with tunnel.open("echo", timeout_s=PATIENCE_S) as stream:
        stream.write(b"works")
        assert stream.read(timeout_s=PATIENCE_S) == b"works"


@pytest.mark.parametrize("ends", [(BOB,), (ALICE,), (ALICE, BOB)], ids=["to Bob", "to Alice", "both"])
def test_a_hop_that_swallows_chunks(net: LocalNetwork, swallower: Swallower, ends: tuple[int, ...]) -> None:
    """What is open fails at both ends, with the reason; what comes next works, and so do other tunnels."""
    relay = net[RELAY]
    with open_tunnel(net, RELAY) as neighbour:
        check_echo(neighbour)
        spared = streams_of(relay)
        tunnel = open_tunnel(net, RELAY)
        stream = tunnel.open("echo")
        stream.write(b"works")
        assert stream.read(timeout_s=PATIENCE_S) == b"works"
        swallower.swallow(relay, *(net[each] for each in ends), spared=spared)
        began_s = time.monotonic()
        stream.write(b"lost")
        with pytest.raises(QueryFailed) as caught:
            stream.read(timeout_s=PATIENCE_S)
        assert time.monotonic() - began_s < SILENT_S + LATE_S
        assert caught.value.code is ErrorCode.TIMEOUT
        assert "nothing has arrived" in str(caught.value)
        with pytest.raises(QueryFailed, match="nothing has arrived"):
            tunnel.open("echo", timeout_s=PATIENCE_S)
        check_echo(neighbour)
        with open_tunnel(net, OTHER) as following:
            check_echo(following)
    for end in (ALICE, BOB):
        counters = net[end].counters
        wait_until(net, lambda: counters.tunnels_failed == 1)  # noqa: B023
    assert net[ALICE].counters.tunnels_silent + net[BOB].counters.tunnels_silent >= 1
    assert not relay.counters.tunnels_silent


@pytest.mark.parametrize("ends", [(ALICE,), (ALICE, BOB)], ids=["to Alice", "both"])
def test_a_download_that_stops(
    net: LocalNetwork, swallower: Swallower, download: Download, ends: tuple[int, ...]
) -> None:
    """Alice has nothing to send, and waits for the next part; Bob's service learns of the end as well."""
    tunnel = open_tunnel(net, RELAY)
    stream = tunnel.open("download")
    assert stream.read(timeout_s=PATIENCE_S) == b"the first part"
    swallower.swallow(net[RELAY], *(net[each] for each in ends))
    began_s = time.monotonic()
    with pytest.raises(QueryFailed, match="nothing has arrived"):
        stream.read(timeout_s=PATIENCE_S)
    assert time.monotonic() - began_s < SILENT_S + LATE_S
    wait_until(net, lambda: download.failures)


def test_the_error_says_that_the_place_is_unknown_and_other_proxies_are_drawn(
    net: LocalNetwork, swallower: Swallower
) -> None:
    tunnel = open_tunnel(net, RELAY)
    stream = tunnel.open("echo")
    swallower.swallow(net[RELAY], net[ALICE], net[BOB])
    stream.write(b"lost")
    with pytest.raises(QueryFailed) as caught:
        stream.read(timeout_s=PATIENCE_S)
    first = net[RELAY].id.hex()[:8]
    assert f"at a place that is not known: the first hop, {first}, or behind it (TIMEOUT)" in str(
        caught.value
    )
    assert caught.value.blamed == (net[RELAY].id, net[BOB].id)
    # The relay is not to blame for sure, but others are drawn first; Bob has no substitute.
    peers = net[ALICE].peers
    assert set(peers.suspected()) == {net[RELAY].id, net[BOB].id}
    assert peers.failures(net[RELAY].id) == 0
    for _ in range(10):
        assert net[ALICE].choose_route(net[BOB].id, 1).proxies == (net[OTHER].id,)
    with open_tunnel(net, RELAY) as working:
        check_echo(working)
    wait_until(net, lambda: peers.score(net[RELAY].id) < 0.3)  # a tunnel that ended well halves it


def test_a_prepared_tunnel_that_is_dead_is_not_given_to_a_user(swallower: Swallower) -> None:
    limits = Limits(idle_s=3.0, prepared_tunnels=1, tunnel=TunnelLimits(silent_s=SILENT_S))
    with LocalNetwork(peers=3, service=Services({"echo": Echo()}), limits=limits) as net:
        client = Client(net[ALICE])
        with client.tunnel(net[BOB].id, hops=1) as first:
            check_echo(first)
        prepared = net[ALICE].prepared_tunnels
        wait_until(net, lambda: len(prepared) == 1)
        wait_until(net, lambda: net[BOB].counters.tunnels_accepted == 2)
        swallower.swallow(net[RELAY], net[ALICE], net[BOB])
        wait_until(net, lambda: len(prepared) == 0)
        assert net[ALICE].counters.tunnels_silent == 1
        with client.tunnel(net[BOB].id, hops=1) as next_one:
            check_echo(next_one)
        net.submit(net[ALICE].leave()).result(PATIENCE_S)


def test_a_dead_tunnel_of_a_front_is_replaced_before_it_is_used(swallower: Swallower) -> None:
    """It carries no connection: nobody waits for it, and the next connection does not either."""
    limits = Limits(idle_s=3.0, tunnel=TunnelLimits(silent_s=SILENT_S))
    services = Services({}, exit=Download())
    with LocalNetwork(peers=3, service=services, limits=limits) as net:
        pool = TunnelPool(net[ALICE], net[BOB].id, {"hops": 1})

        def connect_once() -> None:
            target = Target(TargetKind.DOMAIN, b"site.test", 80)
            net.submit(pool.open(target, "key")).result(PATIENCE_S).give_up()

        connect_once()
        wait_until(net, lambda: len(pool) == 1)
        swallower.swallow(net[RELAY], net[ALICE], net[BOB])
        wait_until(net, lambda: len(pool) == 0)
        assert net[ALICE].counters.tunnels_silent == 1
        began_s = time.monotonic()
        connect_once()
        assert time.monotonic() - began_s < LATE_S
        net.submit(pool.close()).result(PATIENCE_S)


# --- real processes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", ["the relay", "the exit"])
def test_a_process_that_is_stopped(tmp_path: Path, stopped: str) -> None:
    """SIGSTOP: its connections stay open, and the system of its machine takes bytes for it."""
    with running_network(tmp_path / "net", 4) as (_, nodes), connect(tmp_path / "net") as node:
        ids = [bytes.fromhex(nodes[f"node-{index}"]["id"]) for index in range(4)]
        client = Client(node)
        tunnel = client.tunnel(ids[1], route=Route((ids[0],), ids[1]), timeout_s=PATIENCE_S)
        with client.tunnel(ids[3], route=Route((ids[2],), ids[3]), timeout_s=PATIENCE_S) as other:
            assert tunnel.ask(b"\x04pingbefore", timeout_s=PATIENCE_S) is not None
            pid = nodes["node-0" if stopped == "the relay" else "node-1"]["pid"]
            os.kill(pid, signal.SIGSTOP)
            try:
                began_s = time.monotonic()
                tunnel.send(b"lost")
                with pytest.raises(QueryFailed) as caught:
                    tunnel.receive(timeout_s=PATIENCE_S)
                assert time.monotonic() - began_s < 10 + LATE_S
                assert caught.value.code is ErrorCode.TIMEOUT
                assert other.ask(b"\x04pingbeside", timeout_s=PATIENCE_S) is not None
                if stopped == "the relay":
                    with client.tunnel(ids[1], route=Route((ids[2],), ids[1]), timeout_s=5) as following:
                        assert following.ask(b"\x04pingafter", timeout_s=5) is not None
            finally:
                os.kill(pid, signal.SIGCONT)
        with client.tunnel(ids[1], route=Route((ids[0],), ids[1]), timeout_s=PATIENCE_S) as again:
            assert again.ask(b"\x04pingagain", timeout_s=PATIENCE_S) is not None
