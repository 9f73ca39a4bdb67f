"""One service, two spawners, the same result; and what only the blocking one has to know: when to give up."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from reactor import (
    PASS,
    Blocker,
    Broken,
    Busy,
    Channel,
    CurrentTime,
    Deadlock,
    FakeClock,
    Handle,
    Reactor,
    ReadYield,
    RunInThread,
    Scope,
    Service,
    ServiceCancelled,
    Signal,
    Sleep,
    SocketStream,
    Spawn,
    TcpListener,
    TimedOut,
    WriteYield,
    connect_tcp,
    timeout_after,
)
from tests.reactor.helpers import forever, give, passes


def over_sockets() -> Service[bytes]:
    left, right = (SocketStream(sock) for sock in socket.socketpair())

    def sender() -> Service[None]:
        yield from WriteYield(left).write_all(bytes(300_000))
        left.close()

    with left, right:
        yield Spawn(sender())
        got = bytearray()
        while data := (yield from ReadYield(right).read()):
            got += data
    return bytes(got)


def over_tcp() -> Service[bytes]:
    with TcpListener("127.0.0.1", 0) as listener:
        near = yield from connect_tcp(*listener.address, timeout_s=5)
        far = yield from listener.accept()
        with near, far:
            near.write(b"over tcp")
            return (yield from ReadYield(far).read())


def over_channel() -> Service[list[int]]:
    channel: Channel[int] = Channel(2)
    got: list[int] = []

    def producer() -> Service[None]:
        for number in range(7):
            yield from channel.send(number)
        channel.close()

    scope = Scope("producer")
    yield from scope.spawn(producer())
    for _ in range(7):
        got.append((yield from channel.receive()))
    yield from scope.join()
    return got


def over_time() -> Service[list[float]]:
    times = [(yield CurrentTime())]
    yield Sleep(3)
    times.append((yield CurrentTime()))
    try:
        yield from timeout_after(4, forever())
    except TimedOut:
        times.append((yield CurrentTime()))
    return times


def over_threads() -> Service[int]:
    return (yield RunInThread(sum, range(5)))  # type: ignore[no-any-return]


def failing() -> Service[None]:
    yield PASS
    raise Broken("on purpose")


SERVICES: list[Callable[[], Service[Any]]] = [
    over_sockets,
    over_tcp,
    over_channel,
    over_time,
    over_threads,
    failing,
]


def ended(handle: Handle[Any]) -> Service[None]:
    while not handle.is_finished:
        yield Sleep(0.1)


@pytest.mark.parametrize("make", SERVICES)
def test_same_result_with_both(make: Callable[[], Service[Any]]) -> None:
    blocked = Blocker(clock=FakeClock()).spawn(make(), name="blocked")
    assert blocked.is_finished
    with Reactor(clock=FakeClock()) as reactor:
        handle = reactor.spawn(make())
        reactor.run(ended(handle))
        if blocked.error is None:
            assert blocked.result() == handle.result()
        else:
            assert repr(blocked.error) == repr(handle.error)


@pytest.mark.parametrize("wait", [Signal(), Channel[int](1)])
def test_deadlock_is_thrown_where_the_service_waits(wait: Signal | Channel[int]) -> None:
    seen: list[str] = []

    def service() -> Service[None]:
        try:
            if isinstance(wait, Channel):
                yield from wait.receive()
            else:
                yield wait
        except Deadlock as error:
            seen.append(str(error))
            raise

    handle = Blocker().spawn(service(), name="stuck")
    assert isinstance(handle.error, Deadlock)
    assert "'stuck'" in seen[0]
    with pytest.raises(Deadlock):
        handle.result()


def test_two_that_wait_for_each_other() -> None:
    def service() -> Service[None]:
        child = yield Spawn(forever())
        yield from child.join()

    assert isinstance(Blocker().spawn(service()).error, Deadlock)


def test_children_left_behind_are_cancelled() -> None:
    seen: list[str] = []

    def child() -> Service[None]:
        try:
            yield from forever()
        finally:
            seen.append("cleaned")

    def service() -> Service[str]:
        yield Spawn(child())
        yield PASS
        return "done"

    assert Blocker().spawn(service()).result() == "done"
    assert seen == ["cleaned"]


def test_blocking_call_inside_a_service(fake: Reactor) -> None:
    """A stream may be used by the reactor, by a blocker inside a service, and by the reactor again."""
    left, right = (SocketStream(sock) for sock in socket.socketpair())

    def service() -> Service[list[bytes]]:
        got = []
        for text in (b"one", b"two", b"three"):
            left.write(text)
            if text == b"two":
                got.append(Blocker().spawn(ReadYield(right).read()).result())
            else:
                got.append((yield from ReadYield(right).read()))
        return got

    with left, right:
        assert fake.run(service()) == [b"one", b"two", b"three"]


def test_blocker_does_not_take_a_stream_from_its_waiter(fake: Reactor) -> None:
    left, right = (SocketStream(sock) for sock in socket.socketpair())
    with left, right:
        waiting = fake.spawn(ReadYield(right).read())
        fake.run(passes(2))
        assert isinstance(Blocker().spawn(ReadYield(right).read()).error, Busy)
        left.write(b"for the first")
        fake.run(waiting.join())
        assert waiting.result() == b"for the first"


def test_blockers_nest() -> None:
    def outer() -> Service[int]:
        yield PASS
        return Blocker().spawn(give(5)).result() + 1

    assert Blocker().spawn(outer()).result() == 6


def test_cancelled_in_a_blocker() -> None:
    def service() -> Service[None]:
        child = yield Spawn(forever())
        child.cancel()
        yield from child.join()

    with pytest.raises(ServiceCancelled):
        Blocker().spawn(service()).result()
