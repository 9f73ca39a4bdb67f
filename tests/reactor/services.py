"""Services that use all requests, each with its expected result, which is the same under every spawner.

A service that fails has the error's repr as its result.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from reactor import (
    YIELD,
    BadRequest,
    Broken,
    Busy,
    Channel,
    ChannelClosed,
    CurrentTime,
    ReadYield,
    RunInThread,
    Scope,
    Select,
    Service,
    ServiceCancelled,
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
    serve,
    timeout_after,
)
from reactor.core.requests import CurrentTask
from reactor.core.task import Join
from tests.reactor.helpers import forever, give

__all__ = ["SERVICES", "Counter"]


def over_sockets() -> Service[int]:
    left, right = (SocketStream(sock) for sock in socket.socketpair())

    def sender() -> Service[None]:
        yield from WriteYield(left).write_all(bytes(300_000))
        left.close()

    with left, right:
        yield Spawn(sender())
        got = 0
        while data := (yield from ReadYield(right).read()):
            got += len(data)
    return got


def echo() -> Service[list[bytes]]:
    """Both directions of a pair of sockets simultaneously, and a half-close at the end."""
    left, right = (SocketStream(sock) for sock in socket.socketpair())

    def server() -> Service[None]:
        reader, writer = ReadYield(right), WriteYield(right)
        while data := (yield from reader.read()):
            yield from writer.write_all(data.upper())
        right.shutdown_write()

    answers = []
    with left, right:
        handle = yield Spawn(server())
        reader, writer = ReadYield(left), WriteYield(left)
        for text in (b"one", b"two", b"three"):
            yield from writer.write_all(text)
            buffer = bytearray(len(text))
            yield from reader.read_exactly(buffer)
            answers.append(bytes(buffer))
        left.shutdown_write()
        answers.append((yield from reader.read()))
        yield from handle.join()
    return answers


def over_tcp() -> Service[bytes]:
    with TcpListener("127.0.0.1", 0) as listener:
        near = yield from connect_tcp(*listener.address, timeout_s=5)
        far = yield from listener.accept()
        with near, far:
            near.write(b"over tcp")
            return (yield from ReadYield(far).read())


def through_channel(channel: Channel[int] | SharedChannel[int]) -> Service[list[int]]:
    """More items than the channel holds; closing it tells the receiver the end."""
    got: list[int] = []

    def producer() -> Service[None]:
        for number in range(7):
            yield from channel.send(number)
        channel.close()

    scope = Scope("producer")
    yield from scope.spawn(producer())
    try:
        while True:
            got.append((yield from channel.receive()))
    except ChannelClosed:
        got.append(-1)
    yield from scope.join()
    return got


def over_channel() -> Service[list[int]]:
    return through_channel(Channel(2))


def over_shared_channel() -> Service[list[int]]:
    return through_channel(SharedChannel(2))


def over_time() -> Service[list[float]]:
    times = [(yield CurrentTime())]
    yield Sleep(3)
    times.append((yield CurrentTime()))
    try:
        yield from timeout_after(4, forever())
    except TimedOut:
        times.append((yield CurrentTime()))
    times.append((yield from move_on_after(5, give(1))))
    nothing = yield from move_on_after(5, Channel[float](1).receive())
    times.append(0 if nothing is None else -1)
    times.append((yield CurrentTime()))
    return times


def over_nested_timeouts() -> Service[list[str]]:
    """The outer timeout expires first; the inner service cleans up before the error is raised."""
    seen: list[str] = []

    def inner() -> Service[None]:
        try:
            yield from forever()
        finally:
            yield Sleep(1)
            seen.append("cleaned")

    def middle() -> Service[None]:
        try:
            yield from timeout_after(100, inner())
        except TimedOut:
            seen.append("not to be seen")

    try:
        yield from timeout_after(2, middle())
    except TimedOut as error:
        seen.append(str(error))
    return seen


def over_threads() -> Service[list[Any]]:
    answers: list[Any] = [(yield RunInThread(sum, range(5)))]
    try:
        yield RunInThread(int, "no number")
    except ValueError as error:
        answers.append(type(error).__name__)
    return answers


def over_children() -> Service[list[Any]]:
    """Join in each way: before and after the end, a failure, a cancellation."""
    answers: list[Any] = []
    child = yield Spawn(give(1), "child")
    answers.append((yield from child.join()))
    answers.append((yield Join(child)))
    unlucky = yield Spawn(failing())
    try:
        yield from unlucky.join()
    except Broken as error:
        answers.append(str(error))
    stuck = yield Spawn(forever(), "stuck")
    answers.append(stuck.cancel())
    try:
        yield from stuck.join()
    except ServiceCancelled as error:
        answers.append(str(error))
    return answers


def over_a_waiting_cleanup() -> Service[list[str]]:
    seen: list[str] = []

    def child() -> Service[None]:
        try:
            yield from forever()
        finally:
            yield Sleep(2)
            yield YIELD
            seen.append("cleaned")

    handle = yield Spawn(child())
    yield YIELD
    handle.cancel()
    try:
        yield from handle.join()
    except ServiceCancelled:
        seen.append("joined")
    return seen


def over_scopes() -> Service[list[Any]]:
    """A child fails: its sibling and the body are cancelled, and the failure is raised once."""
    seen: list[Any] = []

    def sibling() -> Service[None]:
        try:
            yield from forever()
        finally:
            yield Sleep(1)
            seen.append("sibling cleaned")

    def body(scope: Scope) -> Service[None]:
        yield from scope.spawn(sibling())
        yield from scope.spawn(failing())
        try:
            yield from forever()
        finally:
            seen.append("body cleaned")

    try:
        yield from in_scope(body)
    except Broken as error:
        seen.append((str(error), error.__context__))
    return seen


def over_select() -> Service[list[Any]]:
    """All kinds of sources, until each has ended."""
    local: Channel[str] = Channel(1)
    shared: SharedChannel[str] = SharedChannel(1)
    signal = Signal()

    def others() -> Service[None]:
        yield from local.send("local")
        yield from shared.send("shared")
        signal.set()
        yield Sleep(1)
        local.close()
        shared.close()

    handle = yield Spawn(others(), "others")
    select = Select(local, shared, signal, handle, Sleep(10))
    seen: list[Any] = []
    while len(select) > 2:
        chosen = yield select
        seen.append(type(chosen.source).__name__ + (" ended" if chosen.error else ""))
    chosen = yield select
    seen.append((type(chosen.source).__name__, chosen.result()))
    return sorted(seen[:-1]) + seen[-1:]


class Counter:
    """A service with a state: adds up its commands."""

    def __init__(self) -> None:
        self.total = 0

    def call(self, command: int) -> Service[int]:
        yield YIELD
        self.total += command
        return self.total


def serving() -> Service[list[int]]:
    """Takes the state of a service and restarts the service with it."""
    commands: Channel[int] = Channel(5)
    answers: Channel[int] = Channel(10)
    for number in range(1, 6):
        commands.send_nowait(number)
    handle = yield Spawn(serve(Counter(), commands, answers, limit=2))
    yield from handle.join()
    commands.close()
    handle = yield Spawn(serve(handle.take(), commands, answers))
    counter = yield from handle.join()
    return [answers.receive_nowait() for _ in range(len(answers))] + [counter.total]


def prodding() -> Service[list[Any]]:
    """Wake a child early where a wake is a hint, and check that it has no effect in other waits."""
    seen: list[Any] = []
    signal = Signal()
    left, right = (SocketStream(sock) for sock in socket.socketpair())

    def child() -> Service[None]:
        yield Sleep(3)
        seen.append("has slept")
        yield left.readable
        seen.append("woken from a read")
        yield signal
        seen.append("woken by the signal")

    with left, right:
        handle = yield Spawn(child())
        seen.append(handle.unyield())
        yield YIELD
        seen.append(handle.unyield())
        yield Sleep(4)
        seen.append(handle.weak().unyield())
        yield YIELD
        seen.append(handle.unyield())
        signal.set()
        yield from handle.join()
        seen.append(handle.unyield())
    seen.append((yield CurrentTime()))
    return seen


def cancelling_itself() -> Service[None]:
    task = yield CurrentTask()
    task.cancel("enough")
    yield from forever()


def failing() -> Service[None]:
    yield YIELD
    raise Broken("on purpose")


def failing_at_once() -> Service[None]:
    raise Broken("at once")
    yield YIELD


def failing_with_cause() -> Service[None]:
    yield YIELD
    try:
        raise ValueError("deep")
    except ValueError as error:
        raise Broken("surface") from error


def returning_nothing() -> Service[None]:
    yield YIELD


def yielding_nonsense() -> Service[None]:
    yield 5  # type: ignore[misc]  # what it is about


def two_on_one_signal() -> Service[str]:
    signal = Signal()

    def wait() -> Service[None]:
        yield signal

    first = yield Spawn(wait(), "first")
    yield YIELD
    try:
        yield signal
    except Busy:
        first.cancel()
        return "refused"
    return "not to be reached"


SERVICES: dict[Callable[[], Service[Any]], Any] = {
    over_sockets: 300_000,
    echo: [b"ONE", b"TWO", b"THREE", b""],
    over_tcp: b"over tcp",
    over_channel: [0, 1, 2, 3, 4, 5, 6, -1],
    over_shared_channel: [0, 1, 2, 3, 4, 5, 6, -1],
    over_time: [0, 3, 7, 1, 0, 12],
    over_nested_timeouts: ["cleaned", "not done within 2 s"],
    over_threads: [10, "ValueError"],
    over_children: [1, 1, "on purpose", True, "service 'stuck' was cancelled"],
    over_a_waiting_cleanup: ["cleaned", "joined"],
    over_scopes: ["body cleaned", "sibling cleaned", ("on purpose", None)],
    over_select: [
        "Channel",
        "Channel ended",
        "SharedChannel",
        "SharedChannel ended",
        "Signal",
        "Task",
        ("Sleep", None),
    ],
    serving: [1, 3, 6, 10, 15, 15],
    prodding: [
        False,
        False,
        "has slept",
        True,
        "woken from a read",
        False,
        "woken by the signal",
        False,
        4,
    ],
    cancelling_itself: "ServiceCancelled(\"service 'the service' was cancelled\")",
    failing: "Broken('on purpose')",
    failing_at_once: "Broken('at once')",
    failing_with_cause: "Broken('surface')",
    yielding_nonsense: repr(
        BadRequest(
            f"{__file__}:{yielding_nonsense.__code__.co_firstlineno + 1}: `yield` takes a request, got 5: "
            "write `yield Sleep(...)` to wait"
        )
    ),
    two_on_one_signal: "refused",
    returning_nothing: None,
}
