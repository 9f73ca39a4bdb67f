"""One service has the same result under every spawner; then the features of each spawner."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from reactor import (
    YIELD,
    BadRequest,
    Blocker,
    Broken,
    Busy,
    Cancelled,
    Channel,
    Closed,
    Coroutine,
    Handle,
    Reactor,
    ReactorError,
    ReadYield,
    Restart,
    Service,
    ServiceCancelled,
    SharedChannel,
    Signal,
    Sleep,
    SocketStream,
    Spawn,
    ThreadPark,
    ThreadPool,
    TimedOut,
    move_on_after,
    serve,
)
from reactor.core.timers import FakeClock
from reactor.errors import (
    ChannelEmpty,
    Deadlock,
)
from reactor.run.spawners import (
    ProxyHandle,
    RestartHandle,
    Spawner,
)
from tests.reactor.helpers import errors_logged, forever, give, has_ended, passes
from tests.reactor.services import SERVICES, Counter, cancelling_itself

T = TypeVar("T")

PATIENCE_S = 60.0


class Way:
    """A spawner, and functions that let its services continue and end."""

    def __init__(self, spawner: Spawner, reactor: Reactor | None = None) -> None:
        self.spawner = spawner
        self.reactor = reactor

    def spawn(self, service: Service[T]) -> Handle[T]:
        return self.spawner.spawn(service, name="the service")

    def go_on(self, handle: Handle[Any], until: threading.Event) -> None:
        """Let the service run until it has set an event."""
        if self.reactor is not None:
            self.reactor.run(passes(5))
        elif isinstance(handle, RestartHandle):
            handle.unyield()
        assert until.wait(PATIENCE_S)

    def finish(self, handle: Handle[T]) -> T:
        """Let the service end. Returns its result."""
        if isinstance(handle, ProxyHandle):
            handle.wait(PATIENCE_S)
        elif self.reactor is not None:
            self.reactor.run(ended(handle))
        assert handle.is_finished
        return handle.result()


def ended(handle: Handle[Any]) -> Service[None]:
    while not handle.is_finished:
        yield Sleep(0.1)


@contextlib.contextmanager
def way_called(name: str) -> Iterator[Way]:
    clock = FakeClock()
    if name == "Blocker":
        yield Way(Blocker(clock=clock))
    elif name == "Coroutine":
        with Reactor(clock=clock) as reactor:
            yield Way(Coroutine(reactor), reactor)
    elif name == "ThreadPark":
        yield Way(ThreadPark(clock=clock))
    elif name == "ThreadPool":
        with ThreadPool(2, clock=clock) as pool:
            yield Way(pool)
    else:
        with Restart(clock=clock) as restart:
            yield Way(restart)


LATER = ["Coroutine", "ThreadPark", "ThreadPool", "Restart"]


@pytest.fixture(params=["Blocker", *LATER])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    with way_called(request.param) as way:
        yield way


@pytest.fixture(params=LATER)
def later(request: pytest.FixtureRequest) -> Iterator[Way]:
    """The spawners that do not end a service within `spawn`."""
    with way_called(request.param) as way:
        yield way


@pytest.mark.parametrize("make", list(SERVICES), ids=lambda make: make.__name__)
def test_same_result_with_all(way: Way, make: Callable[[], Service[Any]]) -> None:
    handle = way.spawn(make())
    result: Any
    try:
        result = way.finish(handle)
    except ReactorError as error:
        result = repr(error)
    assert result == SERVICES[make]
    if make is cancelling_itself:
        assert isinstance(handle.error, Cancelled)
        assert handle.error.args == ("enough",)
    assert handle.is_finished
    assert handle.name == "the service"
    assert handle.cancel() is False
    assert handle.unyield() is False


def test_causes_are_kept(way: Way) -> None:
    def service() -> Service[None]:
        yield YIELD
        raise Broken("surface") from ValueError("deep")

    with pytest.raises(Broken) as caught:
        way.finish(way.spawn(service()))
    assert isinstance(caught.value.__cause__, ValueError)


def test_state_is_taken_once_and_started_again(way: Way) -> None:
    """Each spawner returns the state, and any other spawner can continue with it."""
    commands: SharedChannel[int] = SharedChannel(10)
    answers: SharedChannel[int] = SharedChannel(10)
    counter = Counter()
    for number in (1, 2, 3, 4):
        commands.send_nowait(number)
    handle = way.spawn(serve(counter, commands, answers, limit=2))
    way.finish(handle)
    taken = handle.take()
    assert taken is counter
    for ask in (handle.result, handle.take):
        with pytest.raises(Closed, match="taken"):
            ask()
    commands.close()
    assert way.finish(way.spawn(serve(taken, commands, answers))).total == 10
    assert [answers.receive_nowait() for _ in range(4)] == [1, 3, 6, 10]


def test_done_callbacks(way: Way) -> None:
    ends: list[object] = []
    called = threading.Event()

    def tell(handle: Handle[int]) -> None:
        ends.append(handle.result())
        called.set()

    handle = way.spawn(give(5))
    handle.add_done_callback(tell)
    way.finish(handle)
    assert called.wait(PATIENCE_S)
    handle.add_done_callback(tell)
    assert ends == [5, 5]


def test_things_that_are_not_services(way: Way) -> None:
    with pytest.raises(BadRequest, match="call it first"):
        way.spawn(forever)  # type: ignore[arg-type]


def test_commands_one_by_one(later: Way) -> None:
    """The loop of a command service: commands and answers in turn, then the end."""
    commands: SharedChannel[int] = SharedChannel(1)
    answers: SharedChannel[int] = SharedChannel(1)
    handle = later.spawn(serve(Counter(), commands, answers))
    total = 0
    for number in range(5):
        commands.send_blocking(number)
        if later.reactor is not None:
            later.reactor.run(passes(5))
        handle.unyield()
        total += number
        assert answers.receive_blocking(PATIENCE_S) == total
    commands.close()
    assert later.finish(handle).total == total


def test_cancelled_from_outside(later: Way) -> None:
    started, cleaned = threading.Event(), threading.Event()

    def service() -> Service[None]:
        try:
            started.set()
            yield from forever()
        finally:
            yield Sleep(1)
            yield from passes(2)
            cleaned.set()

    handle = later.spawn(service())
    later.go_on(handle, started)
    assert not handle.is_finished
    with pytest.raises(Busy, match="has not ended"):
        handle.result()
    assert handle.cancel("enough")
    assert not handle.cancel()
    with pytest.raises(ServiceCancelled):
        later.finish(handle)
    assert cleaned.is_set()
    assert isinstance(handle.error, Cancelled)
    assert handle.error.args == ("enough",)


def test_unyield_from_outside(later: Way) -> None:
    """It ends a wait for readiness, and has no effect at other moments."""
    started, gate = threading.Event(), SharedChannel[int](1)
    woken = threading.Event()

    def service() -> Service[str]:
        yield from gate.receive()
        started.set()
        yield from forever_on(left)
        woken.set()
        return "woken"

    left, right = (SocketStream(sock) for sock in socket.socketpair())
    with left, right:
        handle = later.spawn(service())
        for _ in range(3):
            handle.unyield()
        assert not started.is_set()
        gate.send_nowait(1)
        later.go_on(handle, started)
        for _ in range(10_000):
            if woken.wait(0.001):
                break
            # The service may not have reached its wait yet; then the call wakes nothing.
            handle.unyield()
            if later.reactor is not None:
                later.reactor.run(passes(3))
        assert later.finish(handle) == "woken"
    assert not handle.unyield()


def forever_on(stream: SocketStream) -> Service[None]:
    yield stream.readable


def test_joined_from_another_reactor(fake: Reactor) -> None:
    """Handles of threads can be joined from any reactor: before and after the end, failed and cancelled."""
    gate: SharedChannel[int] = SharedChannel(1)
    park = ThreadPark()

    def main() -> Service[list[Any]]:
        seen: list[Any] = []
        waiting = park.spawn(gate.receive())
        stuck = park.spawn(forever())
        joiner = yield Spawn(waiting.join())
        other = yield Spawn(waiting.join())
        yield YIELD
        other.cancel()
        gate.send_nowait(7)
        seen.append((yield from joiner.join()))
        seen.append((yield from waiting.join()))
        stuck.cancel()
        for failing in (stuck, park.spawn(fail())):
            for _ in range(2):
                try:
                    yield from failing.join()
                except (ServiceCancelled, Broken) as error:
                    seen.append(type(error).__name__)
        return seen

    assert fake.run(main()) == [7, 7, "ServiceCancelled", "ServiceCancelled", "Broken", "Broken"]


def fail() -> Service[None]:
    yield YIELD
    raise Broken("on purpose")


@pytest.mark.parametrize("kind", [ThreadPark, ThreadPool, Restart])
def test_a_failure_that_was_not_looked_at_is_logged(
    kind: type[ThreadPark | ThreadPool | Restart], caplog: pytest.LogCaptureFixture
) -> None:
    spawner = kind()
    handle: ProxyHandle[None] | None = spawner.spawn(fail(), name="unlucky")
    assert handle is not None
    # Not `wait`, which reads the outcome.
    assert has_ended(handle, PATIENCE_S)
    del handle
    gc.collect()
    texts = errors_logged(caplog)
    assert len(texts) == 1
    assert "unlucky" in texts[0]
    if not isinstance(spawner, ThreadPark):
        spawner.close()


# Weak handles.


def test_weak_handles(way: Way) -> None:
    handle: Handle[int] | None = way.spawn(give(5))
    assert handle is not None
    weak = handle.weak()
    assert weak.upgrade() is handle
    way.finish(handle)
    assert weak.is_finished
    assert weak.cancel() is False
    assert "'the service'" in repr(weak)
    del handle
    gc.collect()
    assert weak.upgrade() is None
    assert weak.is_finished
    assert weak.cancel() is False
    assert weak.unyield() is False


def test_a_service_without_a_handle_lives(later: Way) -> None:
    """Dropping the handle ends nothing; the weak one still reaches the service."""
    started, ended = threading.Event(), threading.Event()

    def service() -> Service[None]:
        try:
            started.set()
            yield from forever()
        finally:
            ended.set()

    handle: Handle[None] | None = later.spawn(service())
    assert handle is not None
    later.go_on(handle, started)
    weak = handle.weak()
    del handle
    gc.collect()
    assert not weak.is_finished
    assert weak.cancel()
    weak.unyield()
    if later.reactor is not None:
        later.reactor.run(passes(3))
    assert ended.wait(PATIENCE_S)


# The blocking side needs a time limit.


@pytest.mark.parametrize("wait", [Signal(), Channel[int](1)])
def test_a_deadlock_is_raised_where_the_service_waits(wait: Signal | Channel[int]) -> None:
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


def test_a_wait_that_another_thread_may_end_is_not_a_deadlock() -> None:
    channel: SharedChannel[int] = SharedChannel(1)
    waiting = ThreadPark().spawn(send_when_awaited(channel))
    assert Blocker().spawn(channel.receive()).result() == 1
    assert Blocker().spawn(waiting.join()).result() is None


def send_when_awaited(channel: SharedChannel[int]) -> Service[None]:
    while not channel.waiting_receivers:
        yield YIELD
    yield from channel.send(1)


def test_two_that_wait_for_each_other() -> None:
    def service() -> Service[None]:
        child = yield Spawn(forever())
        yield from child.join()

    assert isinstance(Blocker().spawn(service()).error, Deadlock)


@pytest.mark.parametrize("spawner", [Blocker(), ThreadPark()], ids=["Blocker", "ThreadPark"])
def test_unjoined_children_are_cancelled(spawner: Blocker | ThreadPark) -> None:
    seen: list[str] = []

    def child() -> Service[None]:
        try:
            yield from forever()
        finally:
            seen.append("cleaned")

    def service() -> Service[str]:
        yield Spawn(child())
        yield YIELD
        return "done"

    handle = spawner.spawn(service())
    if isinstance(handle, ProxyHandle):
        handle.wait(PATIENCE_S)
    assert handle.result() == "done"
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
        yield YIELD
        return Blocker().spawn(give(5)).result() + 1

    assert Blocker().spawn(outer()).result() == 6


# Restart.


def test_restart_repeats_only_on_request() -> None:
    commands: Channel[int] = Channel(3)
    answers: Channel[int] = Channel(3)
    with Restart() as restart:
        handle = restart.spawn(serve(Counter(), commands, answers))
        commands.send_nowait(5)
        with pytest.raises(ChannelEmpty):
            answers.receive_nowait()
        assert handle.unyield()
        assert answers.receive_nowait() == 5
        assert handle.unyield()
        commands.send_nowait(6)
        commands.close()
        assert handle.wait().total == 11
        assert answers.receive_nowait() == 11
        assert not handle.unyield()


def test_an_early_wake_ends_no_sleep() -> None:
    """A service has the same result as under the other spawners, for any number of `unyield` calls."""
    clock = FakeClock()

    def service() -> Service[bool | None]:
        return (yield from move_on_after(1, sleep_then_true(60)))

    def sleep_then_true(seconds: float) -> Service[bool]:
        yield Sleep(seconds)
        return True

    with Restart(clock=clock) as restart:
        handle = restart.spawn(service())
        for _ in range(3):
            handle.unyield()
        assert not handle.is_finished
        assert handle.wait() is None
        assert clock.now() == 1
    with Reactor(clock=FakeClock()) as reactor:
        asleep = reactor.spawn(sleep_then_true(5))
        reactor.run(passes(2))
        assert not asleep.unyield()
        reactor.run(asleep.join())
        assert reactor.now() == 5


def test_restart_leaves_the_clock_alone() -> None:
    clock = FakeClock()

    def service() -> Service[str]:
        yield from passes(3)
        waited = SharedChannel[int](1)
        child = yield Spawn(sleep_then(2, waited))
        yield from waited.receive()
        yield from child.join()
        return "slept"

    with Restart(clock=clock) as restart:
        handle = restart.spawn(service())
        handle.unyield()
        assert clock.now() == 0
        assert not handle.is_finished
        clock.advance(2)
        handle.unyield()
        assert handle.result() == "slept"


def sleep_then(seconds: float, channel: SharedChannel[int]) -> Service[None]:
    yield Sleep(seconds)
    yield from channel.send(1)


def test_restart_waits_no_longer_than_asked() -> None:
    with Restart(clock=FakeClock()) as restart:
        handle = restart.spawn(forever(), name="slow")
        with pytest.raises(TimedOut, match="within 3 s"):
            handle.wait(3)
        assert not handle.is_finished
        failing = restart.spawn(time_out_itself())
        with pytest.raises(TimedOut, match="own"):
            failing.wait(3)
        with pytest.raises(Deadlock):
            handle.wait()


def time_out_itself() -> Service[None]:
    yield Sleep(1)
    raise TimedOut("its own")


def test_restart_from_within() -> None:
    """Called by the service itself or by another of the same spawner, `unyield` has no effect."""
    seen: list[bool] = []
    handles: list[Handle[None]] = []

    def prod() -> Service[None]:
        yield YIELD
        seen.append(handles[0].unyield())

    with Restart() as restart:
        handles.append(restart.spawn(forever()))
        handle = restart.spawn(prod())
        assert seen == [False]
        assert handle.result() is None
        with pytest.raises(Busy):
            restart.spawn(spawn_with(restart)).result()
    assert handles[0].is_finished
    with pytest.raises(Closed):
        restart.spawn(give(1))
    assert not handles[0].unyield()


def spawn_with(restart: Restart) -> Service[None]:
    yield YIELD
    restart.spawn(give(1))
