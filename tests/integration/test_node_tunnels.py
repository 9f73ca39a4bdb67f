"""Established tunnels between real nodes: messages, sub-streams, ends, and the errors that Alice gets."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from reactor import Service, Sleep
from tests.integration.test_error_reports import fail_hop, tamper_at
from tests.support.network import PATIENCE_S, assert_works, wait_until, wait_until_idle
from tunnel import Echo, ErrorCode, Limits, LocalNetwork, Profile, QueryFailed, Route
from tunnel.errors import PeerError
from tunnel.established import EstablishedTunnel, Target, TargetKind
from tunnel.geometry import DEFAULT
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.onion.header import Command
from tunnel.services import InnerService, Query, Reply, Tunnel

LIMITS = Limits(idle_s=2.0, answer_s=2.0, linger_s=1.0)
Use = Callable[[NodeTunnel], Service[None]]


class Switchable(Echo):
    """Echoes messages, unless a test replaces its use of a tunnel."""

    use: Callable[[Any], Generator[Any, Any, None]] | None = None

    def tunnel(self, tunnel: Tunnel) -> Generator[Any, Any, None]:
        if self.use is None:
            yield from super().tunnel(tunnel)
        else:
            yield from self.use(tunnel)


SERVICE = Switchable()


@pytest.fixture(scope="module")
def network() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=6, service=SERVICE, limits=LIMITS) as network:
        yield network


@pytest.fixture
def net(network: LocalNetwork) -> Iterator[LocalNetwork]:
    SERVICE.use = None
    yield network
    wait_until_idle(network)


def route(net: LocalNetwork) -> Route:
    return Route((net[1].id, net[2].id), net[3].id)


def exchange(messages: list[bytes], got: list[bytes | None]) -> Use:
    def use(tunnel: NodeTunnel) -> Service[None]:
        for message in messages:
            yield from tunnel.send(message)
            got.append((yield from tunnel.receive()))

    return use


@pytest.mark.parametrize("hops", [0, 1, 4])
def test_messages_and_their_answers(net: LocalNetwork, hops: int) -> None:
    # Each fits into the windows of both directions. To send more, an end must read meanwhile.
    messages = [b"", b"one", os.urandom(20_000), b"x" * 974, b"last"]
    got: list[bytes | None] = []
    report = net[0].tunnel(net[5].id, exchange(messages, got), hops=hops).result(PATIENCE_S)
    assert got == messages
    assert report is not None
    assert report.succeeded
    assert len(report.hold_ms) == hops + 1


def test_a_tunnel_over_many_hops_in_another_profile() -> None:
    with LocalNetwork(peers=25, service=SERVICE) as net:
        got: list[bytes | None] = []
        use = exchange([b"far", b"away"], got)
        net[0].tunnel(net[24].id, use, hops=23, profile=Profile(DEFAULT)).result(PATIENCE_S)
        assert got == [b"far", b"away"]
        wait_until_idle(net)


def test_both_directions_at_once(net: LocalNetwork) -> None:
    """More content than all windows hold in each direction, and each end writes some before it reads."""
    there, back = os.urandom(400_000), os.urandom(400_000)
    arrived: list[bytes | None] = []

    def talk(tunnel: NodeTunnel, content: bytes) -> Service[None]:
        handle = yield from net[0].context.scope.spawn(tunnel.send(content), name="talk")
        arrived.append((yield from tunnel.receive()))
        yield from handle.join()

    SERVICE.use = lambda tunnel: talk(tunnel, back)
    future = net[0].tunnel(
        net[3].id, lambda tunnel: talk(tunnel, there), route=route(net), purpose="interactive"
    )
    future.result(PATIENCE_S)
    assert sorted(map(bytes, filter(None, arrived))) == sorted([there, back])


@pytest.mark.full
def test_a_quiet_tunnel_outlives_the_idle_limit_of_every_hop() -> None:
    # The limit is not shorter, because a busy machine may stop a thread for part of a second.
    with LocalNetwork(peers=4, limits=Limits(idle_s=1.0, linger_s=1.0)) as net:
        got: list[bytes | None] = []

        def use(tunnel: NodeTunnel) -> Service[None]:
            yield from exchange([b"before"], got)(tunnel)
            yield Sleep(1.6)
            yield from exchange([b"after"], got)(tunnel)

        net[0].tunnel(net[3].id, use, route=route(net)).result(PATIENCE_S)
        assert got == [b"before", b"after"]
        wait_until_idle(net)


def test_a_tunnel_whose_other_end_is_silent_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its links are open and its service waits: only the silence shows that the tunnel is dead."""
    monkeypatch.setattr(EstablishedTunnel, "pad", lambda self: None)
    with LocalNetwork(peers=2, limits=Limits(idle_s=0.3, linger_s=0.5)) as net:

        def use(tunnel: NodeTunnel) -> Service[None]:
            yield from tunnel.receive()

        with pytest.raises(QueryFailed) as caught:
            net[0].tunnel(net[1].id, use, hops=0).result(PATIENCE_S)
        assert caught.value.code is ErrorCode.TIMEOUT
        wait_until_idle(net)


def test_unread_tunnels_do_not_fill_the_memory() -> None:
    """Sub-streams whose service never reads: the tunnel that holds most is closed."""

    class Unread(Echo):
        def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
            yield Sleep(1_000)

        def find(self, name: bytes) -> InnerService:
            return self

    limits = Limits(idle_s=2.0, linger_s=1.0, tunnel_bytes=100_000)
    with LocalNetwork(peers=2, service=Unread(), limits=limits) as net:
        bob = net[1].context

        def fill(tunnel: NodeTunnel) -> Service[None]:
            for _ in range(12):
                stream = yield from tunnel.open(Target(TargetKind.SERVICE, b"nobody"))
                yield from stream.write(bytes(15_000))
            yield from tunnel.receive()

        with pytest.raises(QueryFailed) as caught:
            net[0].tunnel(net[1].id, fill, hops=0).result(PATIENCE_S)
        assert caught.value.code is ErrorCode.BUSY
        wait_until_idle(net)
        assert bob.tunnels.total == 0


# --- failures


@pytest.mark.parametrize("when", [0, 30], ids=["before", "during"])
@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize("is_backward", [False, True], ids=["forward", "backward"])
def test_a_proxy_that_fails_under_a_tunnel(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch, hop: int, is_backward: bool, when: int
) -> None:
    fail_hop(net[1 + hop], monkeypatch, when, is_backward=is_backward)
    use = exchange([os.urandom(20_000)] * 5, [])  # many chunks of the short kind
    with pytest.raises(QueryFailed) as caught:
        net[0].tunnel(net[3].id, use, route=route(net), purpose="interactive").result(PATIENCE_S)
    report = caught.value.report
    assert report is not None
    assert (report.hop, report.code) == (hop, ErrorCode.BUSY)
    assert f"BUSY at hop {hop + 1} of 3" in str(caught.value)


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_hop_that_changes_the_status_of_a_tunnel(
    net: LocalNetwork, monkeypatch: pytest.MonkeyPatch, hop: int
) -> None:
    tamper_at(
        net[1 + hop], monkeypatch, lambda status: bytes([status[0] ^ 1]) + status[1:],
        to=Command.DEST if hop == 2 else Command.RELAY,
    )  # fmt: skip
    report = net[0].tunnel(net[3].id, exchange([b"x"], []), route=route(net)).result(PATIENCE_S)
    assert report is not None
    assert not report.succeeded
    assert report.suspects == ((hop - 1, hop) if hop else (0,))


def test_a_failed_service_is_reported_in_the_tunnel_and_in_the_status(
    net: LocalNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(tunnel: NodeTunnel) -> Service[None]:
        yield from tunnel.receive()
        raise ZeroDivisionError

    def use(tunnel: NodeTunnel) -> Service[None]:
        yield from tunnel.send(b"x")
        with pytest.raises(PeerError) as caught:
            yield from tunnel.receive()
        codes.append(caught.value.code)

    codes: list[ErrorCode] = []
    SERVICE.use = serve
    for _ in range(5):
        report = net[0].tunnel(net[3].id, use, route=route(net)).result(PATIENCE_S)
        assert report is not None
        assert (report.hop, report.code) == (2, ErrorCode.SERVICE_FAILED)
    assert codes == [ErrorCode.SERVICE_FAILED] * 5
    assert "inner service Switchable." in caplog.text


def test_an_error_of_the_user_passes_through_and_leaves_nothing(net: LocalNetwork) -> None:
    def use(tunnel: NodeTunnel) -> Service[None]:
        yield from tunnel.send(b"x")
        raise KeyError("the user's own")

    with pytest.raises(KeyError, match="the user's own"):
        net[0].tunnel(net[3].id, use, route=route(net)).result(PATIENCE_S)
    wait_until_idle(net)
    assert_works(net)


def test_a_cancelled_tunnel_leaves_nothing(net: LocalNetwork) -> None:
    begun: list[bool] = []

    def use(tunnel: NodeTunnel) -> Service[None]:
        yield from tunnel.send(b"x")
        yield from tunnel.receive()
        begun.append(True)
        yield Sleep(1_000)

    future = net[0].tunnel(net[3].id, use, route=route(net))
    wait_until(net, lambda: begun)
    assert future.cancel()
    wait_until_idle(net)
    assert_works(net)


@pytest.mark.parametrize("stopped", [0, 1, 3], ids=["alice", "proxy", "bob"])
def test_a_node_that_stops_under_a_tunnel(stopped: int) -> None:
    with LocalNetwork(peers=4, limits=LIMITS) as net:
        begun: list[bool] = []

        def use(tunnel: NodeTunnel) -> Service[None]:
            yield from tunnel.send(b"x")
            yield from tunnel.receive()
            begun.append(True)
            yield from tunnel.receive()

        future = net[0].tunnel(net[3].id, use, route=route(net))
        wait_until(net, lambda: begun)
        net.stop(stopped)
        error = future.exception(PATIENCE_S)
        assert isinstance(error, QueryFailed)
        assert error.code in (ErrorCode.DISCONNECTED, ErrorCode.CANCELLED)
        if stopped == 3:
            assert error.report is not None
            assert error.report.blamed == (1, 2)
        wait_until_idle(net)
