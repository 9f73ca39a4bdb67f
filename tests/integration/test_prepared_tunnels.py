"""Prepared tunnels: they are taken, replaced, closed when unused, and never handed out after they broke."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from reactor import Service, Signal, Sleep, Spawn
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tunnel import Limits, LocalNetwork, Route
from tunnel.client import Client
from tunnel.errors import QueryFailed
from tunnel.node.prepared import PreparedTunnels
from tunnel.node.tunnels.carrying import open_tunnel
from tunnel.node.tunnels.tunnel import NodeTunnel
from tunnel.services import Echo

LIMITS = Limits(prepared_tunnels=2, linger_s=1.0)


@pytest.fixture
def net() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=8, limits=LIMITS) as network:
        yield network


def standing(net: LocalNetwork) -> PreparedTunnels:
    return net[0].prepared_tunnels


def tunnels(net: LocalNetwork) -> list[NodeTunnel]:
    (places,) = standing(net).places.values()
    return [place.tunnel for place in places if place.tunnel is not None]


def routes(net: LocalNetwork) -> list[Route]:
    (places,) = standing(net).places.values()
    return [place.route for place in places if place.route is not None]


def use(net: LocalNetwork, hops: int = 2) -> None:
    with Client(net[0]).tunnel(net[7].id, hops=hops) as tunnel:
        assert tunnel.ask(b"hello", timeout_s=PATIENCE_S) == b"hello"


def test_a_prepared_tunnel_is_used_and_replaced(net: LocalNetwork) -> None:
    use(net)
    wait_until(net, lambda: len(standing(net)) == 2)
    first, second = tunnels(net)
    tunnel = Client(net[0]).tunnel(net[7].id, hops=2)
    assert tunnel.inner is first
    wait_until(net, lambda: len(standing(net)) == 2)
    assert tunnels(net)[0] is second
    assert tunnels(net)[1] is not first
    assert tunnel.ask(b"mine", timeout_s=PATIENCE_S) == b"mine"
    tunnel.close()


def test_each_kind_has_separate_tunnels(net: LocalNetwork) -> None:
    use(net)
    use(net, hops=1)
    wait_until(net, lambda: len(standing(net)) == 4)
    lengths = [
        [len(place.route.proxies) for place in places if place.route]
        for places in standing(net).places.values()
    ]
    assert lengths == [[2, 2], [1, 1]]


@pytest.mark.parametrize(
    "options", [{}, {"purpose": "bulk"}, {"profile": "interactive"}], ids=["default", "purpose", "profile"]
)
def test_a_prepared_tunnel_has_the_profile_that_a_new_one_would_have(
    net: LocalNetwork, options: dict[str, Any]
) -> None:
    client = Client(net[0])
    with client.tunnel(net[7].id, hops=2, **options) as opened:
        pass
    wait_until(net, lambda: len(standing(net)) == 2)
    first, _ = tunnels(net)
    with client.tunnel(net[7].id, hops=2, **options) as taken:
        assert taken.inner is first
        assert taken.profile == opened.profile


def test_a_tunnel_of_another_purpose_is_not_taken(net: LocalNetwork) -> None:
    """Nor is a tunnel of a profile with the name of a purpose."""
    client = Client(net[0])
    with client.tunnel(net[7].id, hops=2, purpose="bulk"):
        wait_until(net, lambda: len(standing(net)) == 2)
    others: list[tuple[dict[str, Any], str]] = [({}, "stream-hctr"), ({"profile": "bulk"}, "bulk")]
    for options, name in others:
        with client.tunnel(net[7].id, hops=2, **options) as tunnel:
            assert tunnel.profile.name == name


def test_a_prepared_tunnel_whose_hop_has_failed_is_not_used(net: LocalNetwork) -> None:
    use(net)
    wait_until(net, lambda: len(standing(net)) == 2)
    old = routes(net)
    for route in old:
        net[0].peers.failed(route.proxies[0])
    use(net)
    wait_until(net, lambda: len(standing(net)) == 2)
    assert not set(routes(net)) & set(old)


def test_a_prepared_tunnel_that_has_ended_is_forgotten(net: LocalNetwork) -> None:
    use(net)
    wait_until(net, lambda: len(standing(net)) == 2)
    net.stop(7)
    wait_until(net, lambda: not len(standing(net)))
    with pytest.raises(QueryFailed), Client(net[0]).tunnel(net[7].id, hops=2) as tunnel:
        tunnel.ask(b"hello", timeout_s=PATIENCE_S)


def test_unused_tunnels_are_closed_in_order(net: LocalNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[NodeTunnel] = []

    def watched(*way: Any) -> Service[NodeTunnel]:
        opened.append((yield from open_tunnel(*way)))
        return opened[-1]

    monkeypatch.setattr("tunnel.node.prepared.open_tunnel", watched)
    net[0].prepared_tunnels = PreparedTunnels(net[0].context, 2, life_s=0.05)
    use(net)
    wait_until(net, lambda: len(opened) == 2 and all(tunnel.has_ended for tunnel in opened))
    reports = [tunnel.carrier.report for tunnel in opened]
    assert all(report is not None and report.succeeded for report in reports)
    wait_until(net, lambda: not any(standing(net).places.values()))
    wait_until_idle(net)
    assert not net[0].peers.avoided()


def test_the_kind_used_longest_ago_makes_room(net: LocalNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.node.prepared.KINDS", 2)
    for hops in (0, 1, 2):
        use(net, hops)
    wait_until(net, lambda: len(standing(net)) == 4)
    assert [kind.hops for kind in standing(net).places] == [1, 2]


def test_a_call_with_a_given_route_opens_a_new_tunnel(net: LocalNetwork) -> None:
    route = Route((net[1].id, net[2].id), net[7].id)
    with Client(net[0]).tunnel(net[7].id, route=route) as tunnel:
        assert tunnel.ask(b"hello", timeout_s=PATIENCE_S) == b"hello"
    assert not standing(net).places


def test_a_node_that_leaves_does_not_wait_for_its_prepared_tunnels(net: LocalNetwork) -> None:
    """They count as queries, for which a leaving node waits."""
    use(net)
    wait_until(net, lambda: len(standing(net)) == 2)
    old = tunnels(net)
    net.submit(net[0].leave(2 * PATIENCE_S)).result(PATIENCE_S)
    assert all(tunnel.has_ended for tunnel in old)
    assert not standing(net).places


def test_a_node_that_stops_leaves_no_prepared_tunnels(net: LocalNetwork) -> None:
    use(net)
    wait_until(net, lambda: len(standing(net)) == 2)
    net.stop(0)
    wait_until(net, lambda: not len(standing(net)))


def test_a_cancellation_while_taking_a_tunnel_leaves_none_open(net: LocalNetwork) -> None:
    use(net)
    wait_until(net, lambda: len(standing(net)) == 2)
    first, second = tunnels(net)

    def cancelled() -> Service[None]:
        opening = net[0].open_tunnel(net[7].id, hops=2)
        request = next(opening)  # it has taken one, and now opens another
        assert isinstance(request, Spawn)
        request.drop()
        opening.close()
        yield Sleep(0)

    net.submit(cancelled()).result(PATIENCE_S)
    wait_until(net, lambda: first.has_ended)
    assert tunnels(net) == [second]
    assert [len(places) for places in standing(net).places.values()] == [1], "no place is taken by nobody"


class _Leaves(Echo):
    """Serves only tunnels that are opened after `leave`."""

    def __init__(self) -> None:
        self.ends: list[Signal] = []
        self.has_left = False

    def tunnel(self, tunnel: Any) -> Service[None]:
        if self.has_left:
            yield from super().tunnel(tunnel)
        else:
            self.ends.append(Signal())
            yield self.ends[-1]

    def leave(self) -> Service[None]:
        self.has_left = True
        for end in self.ends:
            end.set()
        yield Sleep(0)


def test_a_prepared_tunnel_whose_other_end_has_closed_is_not_used() -> None:
    """A service that limits the wait for a first message ends its half in order."""
    service = _Leaves()
    with LocalNetwork(peers=8, service=service, limits=LIMITS) as net:
        first = Client(net[0]).tunnel(net[7].id, hops=2)
        # Bob serves all three. He would not leave a tunnel that he serves later.
        wait_until(net, lambda: len(standing(net)) == 2 and len(service.ends) == 3)
        first.give_up()
        old = tunnels(net)
        net.submit(service.leave()).result(PATIENCE_S)
        wait_until(net, lambda: not any(tunnel.is_as_new for tunnel in old))
        use(net)
        wait_until(net, lambda: all(tunnel.has_ended for tunnel in old))
        assert not net[0].peers.avoided(), "nobody failed"


def test_prepared_tunnels_use_half_of_the_nodes_queries_at_most() -> None:
    with LocalNetwork(peers=8, limits=Limits(prepared_tunnels=8, queries=6, linger_s=1.0)) as net:
        use(net)
        use(net, hops=1)
        wait_until(net, lambda: len(standing(net)) == 3)
        assert sum(len(places) for places in standing(net).places.values()) == 3
        waiting = [
            Client(net[0]).tunnel(net[index].id, route=Route((), net[index].id)) for index in (4, 5, 6)
        ]
        for tunnel in waiting:
            assert tunnel.ask(b"mine", timeout_s=PATIENCE_S) == b"mine"
            tunnel.give_up()
