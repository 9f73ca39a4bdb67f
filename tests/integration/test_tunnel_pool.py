"""The tunnels of a front: shared by isolation key; replaced when broken, full or old; limited in number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Unpack

import pytest

from reactor import ReadYield, Scope, Service, Signal, WriteYield
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tunnel import Limits, LocalNetwork, Route
from tunnel.errors import ErrorCode, QueryFailed, SubStreamReset, TableFull, TargetNotAllowed
from tunnel.established import SubStream, Target, TargetKind, TunnelLimits
from tunnel.established.stream_table import LAST_ID
from tunnel.front import tunnel_pool
from tunnel.front.tunnel_pool import ATTEMPTS, TunnelPool
from tunnel.node.node import Node
from tunnel.node.query.request import TunnelOptions
from tunnel.node.tunnels.tunnel import NodeTunnel, TunnelStream
from tunnel.services import Services, StreamService

pytestmark = pytest.mark.full

ECHO, REFUSED, SILENT = (Target(TargetKind.DOMAIN, b"site.test", port) for port in (7, 1, 2))
LIMITS = Limits(linger_s=1.0, answer_s=5.0, tunnel=TunnelLimits(sub_streams=4))
EXIT = 5


class EchoExit(StreamService):
    """Echoes, refuses port 1, and never answers at port 2."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.is_silent = False

    def serve(self, stream: SubStream[Signal]) -> Service[None]:
        if stream.target == REFUSED:
            raise TargetNotAllowed("not that port")
        if stream.target == SILENT and self.is_silent:
            self.received.append(b"")
            yield Signal()
        stream.confirm()
        reader, writer = ReadYield(stream), WriteYield(stream)
        while data := (yield from reader.read(65_536)):
            self.received.append(data)
            yield from writer.write_all(data)


class Recorded:
    """A node that notes each tunnel it opens, and takes the routes that a test gives."""

    def __init__(self, node: Node, routes: list[Route] | None = None) -> None:
        self._node = node
        self._routes = routes or []
        self.asked = 0
        self.tunnels: list[NodeTunnel] = []

    def open_tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> Service[NodeTunnel]:
        self.asked += 1
        if self._routes:
            options = {"route": self._routes.pop(0)}
        tunnel = yield from self._node.open_tunnel(destination, **options)
        self.tunnels.append(tunnel)
        return tunnel


class Front:
    """A pool in a network, used from the test's thread."""

    def __init__(self, net: LocalNetwork, routes: list[Route] | None = None, **settings: Any) -> None:
        self._net = net
        self.node = Recorded(net[0], routes)
        self.pool = TunnelPool(self.node, net[EXIT].id, {"hops": 1}, **settings)
        self.streams: list[TunnelStream] = []  # one that is dropped while it is open is a ResourceWarning

    def run(self, service: Service[Any]) -> Any:
        return self._net.submit(service).result(timeout=PATIENCE_S)

    def open(self, key: object = "", target: Target = ECHO, early: bytes = b"") -> TunnelStream:
        self.streams.append(self.run(self.pool.open(target, key, early)))
        return self.streams[-1]

    def echo(self, stream: TunnelStream, data: bytes) -> bytes:
        def ask() -> Service[bytes]:
            yield from stream.write(data)
            return (yield from stream.read())

        answer: bytes = self.run(ask())
        return answer

    def has_ended(self) -> bool:
        return all(tunnel.has_ended for tunnel in self.node.tunnels)

    def wait(self, condition: Callable[[], object]) -> None:
        wait_until(self._net, condition)


@pytest.fixture
def service() -> EchoExit:
    return EchoExit()


@pytest.fixture
def net(service: EchoExit) -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=6, service=Services({}, exit=service), limits=LIMITS) as network:
        yield network


@pytest.fixture
def make_front(net: LocalNetwork) -> Iterator[Callable[..., Front]]:
    fronts: list[Front] = []

    def make(*routes: Route, **settings: Any) -> Front:
        fronts.append(Front(net, list(routes), **settings))
        return fronts[-1]

    yield make
    for front in fronts:
        front.run(front.pool.close())
        assert len(front.pool) == 0
        front.wait(front.has_ended)
    wait_until_idle(net)


Make = Callable[..., Front]


def give_up(tunnel: NodeTunnel) -> Service[None]:
    tunnel.give_up()
    yield from ()


def via(net: LocalNetwork, index: int) -> Route:
    return Route((net[index].id,), net[EXIT].id)


def test_connections_of_a_key_share_a_tunnel_and_others_do_not(make_front: Make) -> None:
    front = make_front()
    streams = [front.open(key) for key in ("a", "a", "b", "", "")]
    assert [stream.core.number for stream in streams] == [1, 3, 1, 1, 3]
    assert len(front.node.tunnels) == len(front.pool) == 3
    assert [front.echo(stream, b"hello") for stream in streams] == [b"hello"] * 5
    for stream in streams:
        stream.close()


def test_a_connection_without_a_key_has_a_tunnel_alone(make_front: Make) -> None:
    front = make_front()
    streams = [front.open(None) for _ in range(2)]
    assert [stream.core.number for stream in streams] == [1, 1]
    assert len(front.pool) == 0
    assert front.echo(streams[0], b"hello") == b"hello"
    streams[0].close()
    front.wait(lambda: front.node.tunnels[0].has_ended)
    assert front.echo(streams[1], b"hello") == b"hello"


def test_connections_without_a_key_wait_while_tunnels_are_being_opened(
    net: LocalNetwork, make_front: Make
) -> None:
    front = make_front(most=2)
    opening = [net.submit(front.pool.open(ECHO, None)) for _ in range(7)]
    front.streams += [future.result(timeout=PATIENCE_S) for future in opening]
    assert [front.echo(stream, b"hello") for stream in front.streams] == [b"hello"] * 7
    assert front.node.asked == 7


def test_a_tunnel_that_is_not_wanted_any_more_before_it_is_open_is_closed(
    net: LocalNetwork, make_front: Make
) -> None:
    front = make_front()
    first, may_open = front.node.open_tunnel, Signal()

    def slow(destination: bytes, **options: Unpack[TunnelOptions]) -> Service[NodeTunnel]:
        yield may_open
        return (yield from first(destination, **options))

    front.node.open_tunnel = slow  # type: ignore[method-assign]
    opening = net.submit(front.pool.open(ECHO, None))
    front.wait(lambda: len(front.pool))
    opening.cancel()
    net.submit(_set(may_open)).result(timeout=PATIENCE_S)
    front.wait(lambda: front.node.tunnels and front.has_ended())
    front.wait(lambda: not len(front.pool))


def test_a_full_tunnel_is_joined_by_another(make_front: Make) -> None:
    front = make_front()
    streams = [front.open() for _ in range(5)]
    assert [stream.core.number for stream in streams] == [1, 3, 5, 7, 1]
    streams[0].give_up()
    front.wait(lambda: front.node.tunnels[0].core.places)
    assert front.open().core.number == 9
    assert len(front.node.tunnels) == 2


def test_simultaneous_connections_open_no_more_tunnels_than_they_fill(make_front: Make) -> None:
    front = make_front()

    def open_one() -> Service[None]:
        front.streams.append((yield from front.pool.open(ECHO, "a")))

    def crowd() -> Service[None]:
        scope = Scope()
        for _ in range(10):
            yield from scope.spawn(open_one())
        yield from scope.join()

    front.run(crowd())
    assert len(front.streams) == 10
    assert front.node.asked == 3


def test_used_up_ids_are_followed_by_a_new_tunnel(make_front: Make) -> None:
    front = make_front()
    first = front.open()
    front.node.tunnels[0].core.table.next_id = LAST_ID + 2
    assert front.open().core.number == 1
    assert front.echo(first, b"hello") == b"hello"
    assert len(front.node.tunnels) == 2


def test_an_old_tunnel_gets_no_new_connections_and_ends_with_its_last(make_front: Make) -> None:
    front = make_front(life_s=0.05)
    old = front.open()
    front.wait(lambda: not len(front.pool))
    new = front.open()
    assert new.core.number == 1
    assert front.echo(old, b"still works") == b"still works"
    assert front.echo(new, b"works") == b"works"
    assert not front.node.tunnels[0].has_ended
    old.close()
    front.wait(lambda: front.node.tunnels[0].has_ended)
    assert front.echo(new, b"works") == b"works"


def test_a_used_tunnel_has_a_successor_and_an_unused_one_has_none(make_front: Make) -> None:
    front = make_front(life_s=0.05)
    front.run(front.pool.prepare("unused"))
    front.wait(lambda: not len(front.pool))
    assert front.node.asked == 1
    front.open("used")
    front.wait(lambda: front.node.asked == 3)
    front.wait(lambda: not len(front.pool))
    assert front.node.asked == 3


def test_an_old_tunnel_takes_connections_until_its_successor_is_open(
    net: LocalNetwork, make_front: Make
) -> None:
    front = make_front(life_s=0.05)
    first, is_open = front.node.open_tunnel, Signal()

    def slow(destination: bytes, **options: Unpack[TunnelOptions]) -> Service[NodeTunnel]:
        tunnel = yield from first(destination, **options)
        if len(front.node.tunnels) > 1:
            yield is_open
        return tunnel

    front.node.open_tunnel = slow  # type: ignore[method-assign]
    front.open()
    front.wait(lambda: len(front.node.tunnels) == 2)
    assert front.open().core.number == 3
    net.submit(_set(is_open)).result(timeout=PATIENCE_S)
    front.wait(lambda: not len(front.pool))


def _set(signal: Signal) -> Service[None]:
    signal.set()
    return
    yield


def test_the_idle_tunnel_used_least_recently_makes_room(make_front: Make) -> None:
    front = make_front(most=2, room_s=0.05)
    busy = front.open("a")
    front.open("b").give_up()
    front.wait(lambda: not front.node.tunnels[1].core.own_streams)
    third = front.open("c")
    front.wait(lambda: front.node.tunnels[1].has_ended)
    assert front.echo(busy, b"1") == b"1"
    with pytest.raises(TableFull, match="all 2 tunnels"):
        front.open("d")
    third.give_up()
    front.wait(lambda: not front.node.tunnels[2].core.own_streams)
    assert front.echo(front.open("d"), b"2") == b"2"


@pytest.mark.parametrize("key", ["c", None], ids=["shared", "alone"])
def test_a_connection_waits_for_a_tunnel_while_all_are_in_use(
    net: LocalNetwork, make_front: Make, key: str | None
) -> None:
    front = make_front(most=2)
    front.open("a")
    second = front.open("b")
    opening = [net.submit(front.pool.open(ECHO, key)) for _ in range(3)]
    second.give_up()
    front.streams += [each.result(timeout=PATIENCE_S) for each in opening]
    # A tunnel for one connection alone is in nobody's way once it is used.
    assert front.node.asked == (5 if key is None else 3)


def test_who_waits_longest_has_the_first_turn(net: LocalNetwork, make_front: Make) -> None:
    """Newcomers who went first would let the others wait until their time is over."""
    front = make_front(most=1, room_s=PATIENCE_S)
    front.open("a")
    order: list[int] = []

    def wait(number: int) -> Service[None]:
        stream = yield from front.pool.open(ECHO, number)
        order.append(number)
        stream.give_up()

    opening = []
    for number in range(4):
        opening.append(net.submit(wait(number)))
        front.wait(lambda: front.pool.waiting == len(opening))
    front.run(give_up(front.node.tunnels[0]))
    front.wait(lambda: order)
    assert order[0] == 0
    for each in opening[1:]:
        each.cancel()
    front.wait(lambda: not front.pool.waiting)


def test_connections_that_stop_waiting_leave_nothing_behind(net: LocalNetwork, make_front: Make) -> None:
    front = make_front(most=1, room_s=PATIENCE_S)
    front.open("a")
    opening = [net.submit(front.pool.open(ECHO, number)) for number in range(20)]
    front.wait(lambda: front.pool.waiting == len(opening))
    for each in opening:
        each.cancel()
    front.wait(lambda: not front.pool.waiting)


def test_a_refusal_of_the_exit_is_final(make_front: Make) -> None:
    front = make_front()
    with pytest.raises(SubStreamReset) as caught:
        front.open(target=REFUSED)
    assert caught.value.code is ErrorCode.TARGET_NOT_ALLOWED
    front.open()
    assert front.node.asked == 1


def test_early_bytes_follow_open(make_front: Make, service: EchoExit) -> None:
    front = make_front()
    stream = front.open(early=b"early")
    assert front.run(stream.read()) == b"early"
    assert service.received == [b"early"]


def test_a_broken_tunnel_is_replaced(net: LocalNetwork, make_front: Make) -> None:
    front = make_front(via(net, 1), via(net, 2))
    stream = front.open()
    net.stop(1)
    with pytest.raises(QueryFailed):
        front.run(stream.read())
    assert front.echo(front.open(), b"again") == b"again"
    assert front.node.asked == 2


def test_a_tunnel_that_breaks_before_the_answer_is_replaced(
    net: LocalNetwork, make_front: Make, service: EchoExit
) -> None:
    front = make_front(via(net, 1), via(net, 2))
    service.is_silent = True
    opening = net.submit(front.pool.open(SILENT, ""))
    front.wait(lambda: service.received)
    service.is_silent = False
    net.stop(1)
    front.streams.append(opening.result(timeout=PATIENCE_S))
    assert front.echo(front.streams[0], b"hello") == b"hello"
    assert front.node.asked == 2


def test_early_bytes_are_never_sent_twice(net: LocalNetwork, make_front: Make, service: EchoExit) -> None:
    front = make_front(via(net, 1), via(net, 2))
    service.is_silent = True
    opening = net.submit(front.pool.open(SILENT, "", b"POST"))
    front.wait(lambda: service.received)
    net.stop(1)
    with pytest.raises(QueryFailed):
        opening.result(timeout=PATIENCE_S)
    assert front.node.asked == 1


def test_a_route_that_cannot_be_opened_is_replaced(net: LocalNetwork, make_front: Make) -> None:
    net.stop(1)
    front = make_front(via(net, 1), via(net, 1), via(net, 1), via(net, 2))
    assert front.echo(front.open(), b"hello") == b"hello"
    assert front.node.asked == ATTEMPTS == 4
    front = make_front(*[via(net, 1)] * 4, via(net, 2))
    with pytest.raises(QueryFailed, match="could not"):
        front.open()
    assert front.node.asked == ATTEMPTS
    assert front.echo(front.open(), b"hello") == b"hello"


def test_a_slow_failure_is_final(
    net: LocalNetwork, make_front: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel_pool, "RETRY_S", 0.0)
    net.stop(1)
    front = make_front(via(net, 1), via(net, 2))
    with pytest.raises(QueryFailed):
        front.open()
    assert front.node.asked == 1


def test_an_exit_that_does_not_answer_is_a_timeout(net: LocalNetwork) -> None:
    class Paused:
        asked = 0

        def open_tunnel(self, destination: bytes, **options: Unpack[TunnelOptions]) -> Service[NodeTunnel]:
            self.asked += 1
            yield Signal()
            raise AssertionError

    pool = TunnelPool(node := Paused(), net[EXIT].id, open_s=0.05)
    with pytest.raises(QueryFailed, match=r"within 0\.05 s") as caught:
        net.submit(pool.open(ECHO, "")).result(timeout=PATIENCE_S)
    assert caught.value.code is ErrorCode.TIMEOUT
    assert node.asked == ATTEMPTS
    wait_until(net, lambda: not len(pool))


def test_prepared_tunnels_are_used(service: EchoExit) -> None:
    limits = Limits(linger_s=1.0, answer_s=5.0, prepared_tunnels=1)
    with LocalNetwork(peers=6, service=Services({}, exit=service), limits=limits) as net:
        front = Front(net)
        front.open("a")
        wait_until(net, lambda: len(net[0].prepared_tunnels) == 1)
        (places,) = net[0].prepared_tunnels.places.values()
        standing = places[0].tunnel
        front.open("b")
        assert front.node.tunnels[1] is standing
        front.run(front.pool.close())
