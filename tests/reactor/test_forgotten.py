"""A forgotten `yield from` warns with the line of the call; calls that were dropped on purpose do not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reactor import (
    YIELD,
    BadRequest,
    Cancelled,
    Channel,
    Closed,
    Handle,
    Reactor,
    ReadYield,
    RunInThread,
    Scope,
    Select,
    Service,
    SharedChannel,
    Signal,
    Sleep,
    SocketStream,
    Spawn,
    TcpListener,
    TimedOut,
    WriteYield,
    connect_tcp,
    in_scope,
    move_on_after,
    needs_yield_from,
    serve,
    timeout_after,
)
from reactor.core.forgotten import discard
from reactor.core.poller import FileDescriptor, WaitReadable, WaitWritable
from reactor.core.requests import CurrentTask
from reactor.core.task import Join
from reactor.core.timers import FakeClock
from reactor.run.aio import AsyncioBridge
from tests.reactor.helpers import errors_logged, forever, give, passes, run

HERE = Path(__file__)


class Parts:
    """One object of each class whose methods a service calls."""

    def __init__(self, reactor: Reactor) -> None:
        self.left, self.right = (SocketStream(sock) for sock in socket.socketpair())
        self.reader, self.writer = ReadYield(self.left), WriteYield(self.left)
        self.descriptor = FileDescriptor(self.left.fileno())
        self.channel: Channel[int] = Channel(4)
        self.shared: SharedChannel[int] = SharedChannel(4)
        self.listener = TcpListener("127.0.0.1", 0)
        self.scope = Scope()
        self.handle: Handle[Any] = reactor.spawn(forever())

    def close(self) -> None:
        for part in (self.left, self.right, self.listener):
            part.close()


FORGOTTEN: dict[str, Callable[[Parts], object]] = {
    "WriteYield.write_all": lambda parts: parts.writer.write_all(b"x"),
    "WriteYield.write": lambda parts: parts.writer.write(b"x"),
    "WriteYield.flush": lambda parts: parts.writer.flush(),
    "ReadYield.read_exactly": lambda parts: parts.reader.read_exactly(bytearray(1)),
    "Channel.send": lambda parts: parts.channel.send(1),
    "Channel.receive": lambda parts: parts.channel.receive(),
    "SharedChannel.send": lambda parts: parts.shared.send(1),
    "SharedChannel.receive": lambda parts: parts.shared.receive(),
    "Listener.accept": lambda parts: parts.listener.accept(),
    "Scope.spawn": lambda parts: parts.scope.spawn(give(1)),
    "Scope.join": lambda parts: parts.scope.join(),
    "Scope.close": lambda parts: parts.scope.close(),
    "Handle.join": lambda parts: parts.handle.join(),
    "connect_tcp": lambda parts: connect_tcp("127.0.0.1", 1),
    "in_scope": lambda parts: in_scope(lambda scope: give(1)),
    "timeout_after": lambda parts: timeout_after(1, give(1)),
    "move_on_after": lambda parts: move_on_after(1, give(1)),
    "serve": lambda parts: serve(None, parts.channel),  # type: ignore[type-var]
    "Sleep": lambda parts: Sleep(1),
    "Spawn": lambda parts: Spawn(give(1)),
    "Join": lambda parts: Join(parts.handle),
    "RunInThread": lambda parts: RunInThread(len, "x"),
    "Select": lambda parts: Select(parts.channel, parts.handle),
    "WaitReadable": lambda parts: WaitReadable(parts.descriptor),
    "WaitWritable": lambda parts: WaitWritable(parts.descriptor),
}
# The others name the line where the call was dropped.
KNOW_THEIR_LINE = {
    "connect_tcp",
    "in_scope",
    "Sleep",
    "Spawn",
    "Join",
    "RunInThread",
    "Scope.join",
    "Select",
    "WaitReadable",
    "WaitWritable",
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_forgotten_call_warns_with_its_line_and_is_logged(
    name: str, fake: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts(fake)
    forget = FORGOTTEN[name]
    line = forget.__code__.co_firstlineno

    def service() -> Service[None]:
        yield YIELD
        forget(parts)  # dropped here
        yield YIELD

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(fake, service())
    parts.close()
    dropped = service.__code__.co_firstlineno + 2
    ours = [warning for warning in caught if name in str(warning.message)]
    assert len(ours) == 1
    assert ours[0].category is RuntimeWarning
    assert ours[0].filename == __file__
    assert ours[0].lineno in ({line} if name in KNOW_THEIR_LINE else {line, dropped})
    assert re.search("write `yield", str(ours[0].message))
    logged = errors_logged(caplog)
    assert len(logged) == 1
    assert f"service 'service', {__file__}:" in logged[0]


@pytest.mark.parametrize("name", sorted(KNOW_THEIR_LINE))
def test_a_call_that_is_kept_and_never_run_warns_with_the_line_of_the_call(
    name: str, fake: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts(fake)
    forget = FORGOTTEN[name]

    def service() -> Service[None]:
        kept = forget(parts)
        yield YIELD
        assert kept is not None

    with pytest.warns(RuntimeWarning, match=name) as caught:
        run(fake, service())
    parts.close()
    assert {(w.filename, w.lineno) for w in caught} == {(__file__, forget.__code__.co_firstlineno)}
    errors_logged(caplog)


def test_a_users_function_warns_too() -> None:
    @needs_yield_from
    def double(number: int, *, times: int = 2) -> Service[int]:
        """Twice."""
        yield YIELD
        return number * times

    with pytest.warns(RuntimeWarning, match=r"double\(\) was never run: write `yield from` before it"):
        double(1)
    with Reactor() as reactor:
        assert reactor.run(double(4, times=3)) == 12
        assert reactor.spawn(double(1)).name == "double"
        assert double.__doc__ == "Twice."


def test_a_call_that_runs_does_not_warn_however_it_is_run(fake: Reactor) -> None:
    channel: Channel[int] = Channel(8)

    def service() -> Service[list[int]]:
        yield from channel.send(1)
        kept = channel.send(2)
        yield from kept
        yield Spawn(channel.send(3))
        yield from timeout_after(1, channel.send(4))
        yield from in_scope(lambda scope: scope.spawn(channel.send(5)))
        pause = Sleep(1)
        yield pause
        yield pause
        select = Select(Signal(), Sleep(1))
        yield select
        yield from passes(2)
        return sorted(channel.receive_nowait() for _ in range(5))

    assert run(fake, service()) == [1, 2, 3, 4, 5]
    gc.collect()


def close_many(service: Any) -> None:
    """A loop, so that the interpreter specialises the call."""
    for one in [*(Channel[int](1).receive() for _ in range(50)), service]:
        one.close()


@pytest.mark.parametrize(
    "close",
    [
        lambda service: service.close(),
        lambda service: contextlib.closing(service).__exit__(),
        close_many,
    ],
)
def test_a_call_that_is_closed_before_it_began_does_not_warn(close: Callable[[Any], object]) -> None:
    channel: Channel[int] = Channel(1)
    for service in (
        channel.receive(),
        channel.send(1),
        connect_tcp("127.0.0.1", 1),
        timeout_after(1, channel.receive()),
        in_scope(lambda scope: give(1)),
    ):
        close(service)
    gc.collect()


def test_requests_that_are_kept_and_yielded_do_not_warn(fake: Reactor) -> None:
    left, right = socket.socketpair()
    descriptor = FileDescriptor(left)

    def service() -> Service[None]:
        yield WaitWritable(descriptor)
        right.send(b"x")
        yield descriptor.readable
        right.send(b"x")
        readable = WaitReadable(descriptor)
        yield readable
        select = Select(Sleep(1), Signal())
        yield select
        yield select
        empty = Select()
        empty.add(Signal())

    run(fake, service())
    descriptor.close_notify()
    left.close()
    right.close()
    gc.collect()


def test_a_waiting_call_does_not_hide_a_forgotten_one(
    fake: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    """Reminders are reused: one that a waiting service still held would warn too late."""
    empty: Channel[int] = Channel(1)
    other: Channel[int] = Channel(1)

    def service() -> Service[None]:
        waiting = yield Spawn(empty.receive())
        yield from passes(2)
        other.send(1)
        assert len(caught) == 1
        waiting.cancel()

    with pytest.warns(RuntimeWarning, match=r"Channel.send") as caught:
        run(fake, service())
    errors_logged(caplog)


def test_a_service_that_is_refused_or_ended_before_it_began_does_not_warn() -> None:
    channel: Channel[int] = Channel(1)
    reactor = Reactor(clock=FakeClock())
    reactor.spawn(timeout_after(1, channel.receive()))

    def strict() -> Service[None]:
        for seconds in (float("nan"), "soon", True):
            with pytest.raises(BadRequest):
                yield from timeout_after(seconds, channel.receive())  # type: ignore[arg-type]

    reactor.run(strict())
    handle = reactor.spawn(channel.receive())
    handle.cancel()
    future = reactor.submit(channel.receive())
    future.cancel()
    reactor.close()
    with pytest.raises(Closed):
        reactor.spawn(channel.receive())
    with pytest.raises(Closed):
        reactor.submit(timeout_after(1, channel.receive()))
    discard(in_scope(lambda scope: channel.receive()))
    gc.collect()


def test_services_refused_by_a_select_or_a_bridge_do_not_warn() -> None:
    with pytest.raises(BadRequest, match="cannot select over 5"):
        Select(Sleep(1), 5, Sleep(2))  # type: ignore[arg-type]
    with Reactor() as reactor, pytest.raises(BadRequest, match="not open"):
        asyncio.run(AsyncioBridge(reactor).run(Channel[int](1).receive()))
    gc.collect()


def test_a_request_yielded_by_a_service_that_is_interrupted_does_not_warn(fake: Reactor) -> None:
    """It is answered with the error, and the service of a `Spawn` is not started."""

    def service() -> Service[str]:
        own = yield CurrentTask()
        own.cancel("now")
        try:
            yield Spawn(timeout_after(1, Channel[int](1).receive()))
        except Cancelled:
            return "cancelled"
        return "goes on"

    assert run(fake, service()) == "cancelled"
    gc.collect()


def test_a_service_that_is_ended_by_force_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    def deaf() -> Service[None]:
        while True:
            try:
                yield Sleep(1_000)
            except Cancelled:
                continue
            except GeneratorExit:
                yield Sleep(1)
                raise

    reactor = Reactor(clock=FakeClock())
    reactor.spawn(deaf())
    reactor.run(passes(2))
    reactor.close()
    assert any("did not end" in text for text in errors_logged(caplog))
    gc.collect()


def test_wrong_arguments_are_an_error_and_no_warning() -> None:
    channel: Channel[int] = Channel(1)
    with pytest.raises(TypeError, match="send"):
        channel.send()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="connect_tcp"):
        connect_tcp("127.0.0.1")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Sleep"):
        Sleep()  # type: ignore[call-arg]
    gc.collect()


def test_keyword_arguments_work_as_before(fake: Reactor) -> None:
    channel: Channel[int] = Channel(1)

    def service() -> Service[int]:
        yield from channel.send(7)
        with pytest.raises(TimedOut):
            yield from timeout_after(1, service=channel.send(item=8))
        return (yield from channel.receive())

    assert run(fake, service()) == 7


def test_a_mistake_in_a_loop_is_logged_once_and_a_program_sees_it() -> None:
    program = """
from reactor import *
def service():
    channel = Channel(4)
    for number in range(3):
        channel.send(number)  # line 6
    yield Sleep(0)
    return len(channel)
with Reactor() as reactor:
    print(reactor.run(service()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, cwd=HERE.parents[2]
    )
    assert done.stdout == "0\n"
    assert done.stderr.count("RuntimeWarning: the call of Channel.send() was never run") == 1
    assert done.stderr.count("service 'service', <string>:6: the call of Channel.send()") == 1


@pytest.mark.parametrize(
    ("nonsense", "advice"),
    [
        (lambda: give(1), "write `yield from`"),
        (lambda: connect_tcp("127.0.0.1", 1), "write `yield from`"),
        (lambda: None, "yield YIELD"),
        (lambda: Sleep, r"yield Sleep\(...\)"),
        (lambda: 0.5, r"yield Sleep\(...\)"),
        (lambda: give, "call it"),
        (lambda: Channel(1), r"channel.receive\(\)"),
        (lambda: b"answer", "with `return`"),
    ],
)
def test_yielding_a_wrong_type_is_refused_with_a_hint(
    nonsense: Callable[[], Any], advice: str, fake: Reactor
) -> None:
    def inner() -> Service[None]:
        yield nonsense()

    def service() -> Service[str]:
        try:
            yield from inner()
        except BadRequest as error:
            return str(error)
        return "taken"

    text = run(fake, service())
    assert f"{__file__}:{inner.__code__.co_firstlineno + 1}: " in text
    assert re.search(advice, text)


async def _coroutine() -> None: ...


@pytest.mark.parametrize(
    ("nonsense", "advice"),
    [
        (lambda: forever, "call it first"),
        (lambda: None, "forget to `yield`"),
        (lambda: b"result", "forget to `yield`"),
        (lambda: Sleep(1), "yielded by a service"),
        (_coroutine, "without `async`"),
    ],
)
def test_spawning_a_wrong_type_is_refused_with_a_hint(
    nonsense: Callable[[], Any], advice: str, fake: Reactor
) -> None:
    with pytest.raises(BadRequest, match=advice):
        fake.spawn(nonsense())

    def service() -> Service[None]:
        with pytest.raises(BadRequest, match=advice):
            yield Spawn(nonsense())

    run(fake, service())


@pytest.mark.parametrize("seconds", [float("nan"), True, "1", None, [], 1j])
def test_a_time_that_is_not_a_number_of_seconds_is_refused_in_the_service(
    fake: Reactor, seconds: Any
) -> None:
    def service() -> Service[str]:
        with pytest.raises(BadRequest, match="number of seconds"):
            yield Sleep(seconds)
        with pytest.raises(BadRequest, match="number of seconds"):
            yield from move_on_after(seconds, forever())
        return "goes on"

    assert run(fake, service()) == "goes on"


def test_times_of_any_size_are_taken(fake: Reactor) -> None:
    def service() -> Service[str]:
        for seconds in (0, -1, -float("inf"), -(10**400), 1e-300):
            yield Sleep(seconds)
        for seconds in (10**400, float("inf")):
            assert (yield from move_on_after(1, sleep(seconds))) is None
        return "done"

    def sleep(seconds: float) -> Service[bool]:
        yield Sleep(seconds)
        return True

    assert run(fake, service()) == "done"


def test_an_error_inside_a_request_is_the_services_own(fake: Reactor) -> None:
    """It must not end the loop, which all services share."""

    class Broken(Sleep):
        def begin(self, task: object) -> object:
            raise ZeroDivisionError

    def service() -> Service[str]:
        with pytest.raises(ZeroDivisionError):
            yield Broken(1)
        return "goes on"

    assert run(fake, service()) == "goes on"


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True, "4", None, float("inf")])
@pytest.mark.parametrize("kind", [Channel, SharedChannel])
def test_a_capacity_is_a_whole_number_of_at_least_1(kind: Callable[[Any], object], capacity: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="capacity"):
        kind(capacity)
