"""A service with every kind of wait is cancelled, timed out or closed at each yield, and leaks nothing.

The tests check that every wait can be undone. So the service below should use all requests that can wait.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    YIELD,
    Cancelled,
    Channel,
    CurrentTime,
    Handle,
    Reactor,
    ReactorError,
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
    ThreadPark,
    TimedOut,
    WriteYield,
    in_scope,
    move_on_after,
    timeout_after,
)
from reactor.core import loop
from reactor.core.requests import CurrentTask
from reactor.core.task import Join
from reactor.core.timers import Expired, FakeClock
from reactor.run.spawners import ProxyHandle
from tests.reactor.conftest import POLLERS
from tests.reactor.helpers import errors_logged, has_ended, passes, task_of
from tests.reactor.services import SERVICES

BLOB = bytes(400_000)


class World:
    """The objects that the service uses, which are checked at its end."""

    def __init__(self) -> None:
        self.left, self.right = (SocketStream(sock) for sock in socket.socketpair())
        self.full: Channel[int] = Channel(1)
        self.empty: Channel[int] = Channel(1)
        self.shared_full: SharedChannel[int] = SharedChannel(1)
        self.shared_empty: SharedChannel[int] = SharedChannel(1)
        self.signal = Signal()
        self.other_signal = Signal()
        self.gate: SharedChannel[int] = SharedChannel(1)
        self.thread: ProxyHandle[int] | None = None
        self.scope = Scope("children", fail_together=False)
        self.child: Handle[None] | None = None
        self.cleaned = False
        self.ended = False

    def service(self) -> Service[None]:
        try:
            yield YIELD
            yield CurrentTime()
            yield Sleep(1)
            self.child = yield from self.scope.spawn(self.helper())
            assert self.child is not None
            assert (yield from ReadYield(self.left).read(10)) == b"0123456789"
            yield from WriteYield(self.left).write_all(BLOB)
            yield self.signal
            yield from self.full.send(1)
            yield from self.full.send(2)
            assert (yield from self.empty.receive()) == 3
            yield from timeout_after(50, self.nested())
            assert (yield RunInThread(sum, [1, 2])) == 3
            yield from self.shared_full.send(1)
            yield from self.shared_full.send(2)
            assert (yield from self.shared_empty.receive()) == 4
            select = Select(self.empty, self.shared_empty, self.other_signal, self.child)
            for _ in range(3):
                chosen = yield select
                assert chosen.source is not self.child
            assert (yield from move_on_after(1, Channel[int](1).receive())) is None
            yield from in_scope(self.in_scope)
            self.thread = ThreadPark().spawn(self.gate.receive())
            self.gate.send_nowait(6)
            # Not `handle.join()`, which yields only while the other runs: the number of yields would vary
            # with the speed of the thread.
            assert (yield Join(self.thread)) == 6
            assert (yield CurrentTask()).name
            yield Join(self.child)
            self.ended = True
        finally:
            # A cleanup that waits, like real ones.
            yield YIELD
            yield from self.scope.close()
            self.cleaned = True

    def nested(self) -> Service[None]:
        yield from timeout_after(20, passes(1))
        yield Sleep(2)

    def in_scope(self, scope: Scope) -> Service[None]:
        yield from scope.spawn(passes(2))
        yield from scope.spawn(self.nested())

    def helper(self) -> Service[None]:
        """Cause the events for which the service waits."""
        yield Sleep(1)
        self.right.write(b"0123456789")
        yield Sleep(1)
        reader, buffer, missing = ReadYield(self.right), bytearray(65_536), len(BLOB)
        while missing:
            missing -= yield from reader.readinto(buffer)
        yield Sleep(1)
        self.signal.set()
        yield Sleep(1)
        assert (yield from self.full.receive()) == 1
        yield Sleep(1)
        self.empty.send_nowait(3)
        yield Sleep(5)
        assert (yield from self.shared_full.receive()) == 1
        yield Sleep(1)
        self.shared_empty.send_nowait(4)
        yield Sleep(1)
        self.empty.send_nowait(5)
        self.other_signal.set()
        yield Sleep(1)
        self.shared_empty.send_nowait(6)
        yield Sleep(20)

    def assert_clean(self, reactor: Reactor) -> None:
        self.gate.close()
        assert self.signal.waiter is None
        assert self.other_signal.waiter is None
        for channel in (self.full, self.empty, self.shared_full, self.shared_empty):
            assert not channel.waiting_senders
            assert not channel.waiting_receivers
        if self.thread is not None:
            assert not self.thread.is_watched
            assert has_ended(self.thread, 20)
        assert len(self.scope) == 0
        assert self.scope.failures == []
        for stream in (self.left, self.right):
            assert stream.readable.descriptor.reader is None
            assert stream.writable.descriptor.writer is None
            stream.close()
        assert not reactor.poller.has_waiters()
        assert reactor.timers.next_deadline() is None
        assert not reactor.tasks


def test_undisturbed() -> None:
    world = World()
    with Reactor(clock=FakeClock()) as reactor:
        reactor.run(world.service())
        assert world.ended
    world.assert_clean(reactor)


def striking(service: Service[Any], at: int, strike: Callable[[], object]) -> Service[None]:
    """Run a service, and call `strike` immediately before its yield of that number."""
    answer: Any = None
    error: BaseException | None = None
    number = 0
    while True:
        try:
            request = service.send(answer) if error is None else service.throw(error)
        except StopIteration:
            return
        error = None
        if number == at:
            strike()
        number += 1
        try:
            answer = yield request
        except BaseException as thrown:  # noqa: BLE001 - handed on
            error = thrown


@pytest.mark.parametrize("when", ["running", "parked"])
@pytest.mark.parametrize("way", ["cancel", "expire"])
def test_strike_at_each_yield(when: str, way: str) -> None:
    """At every yield: while the service still runs, and after it was parked."""
    gc.collect()
    descriptors = count_descriptors()
    # Another thread takes part, so one run may have a yield or two more than another.
    number = 0
    while strike_at(number, when, way):
        number += 1
    assert number > 25
    gc.collect()
    assert count_descriptors() == descriptors


def strike_at(number: int, when: str, way: str) -> bool:
    """Run the service and strike once. Returns False if it ended first."""
    world, struck = World(), []

    def strike() -> None:
        if when == "running":
            hit()
        else:
            # Runs after the service was parked, or has already continued.
            reactor.post(hit)

    def hit() -> None:
        # Not in the cleanup: a service cancelled there for the first time has not finished it.
        if world.ended:
            return
        struck.append(number)
        if way == "cancel":
            handle.cancel()
        else:
            task_of(handle).interrupt(Expired())

    with Reactor(clock=FakeClock()) as reactor:
        handle = reactor.spawn(striking(world.service(), number, strike))
        wait_ended(reactor, handle)
        assert world.ended or isinstance(handle.error, Cancelled)
        assert world.child is None or world.child.is_finished
    assert world.ended or struck
    assert world.cleaned
    world.assert_clean(reactor)
    return bool(struck)


@pytest.mark.parametrize("make", list(SERVICES), ids=lambda make: make.__name__)
def test_each_service_struck_at_each_yield(make: Callable[[], Service[Any]]) -> None:
    """All owned resources are released, and the waited-for objects no longer refer to the service."""
    gc.collect()
    descriptors = count_descriptors()
    for number in range(40):
        if not cancelled_at(number, make()):
            break
    gc.collect()
    assert count_descriptors() == descriptors


def cancelled_at(number: int, service: Service[Any]) -> bool:
    """Cancel a service when it is parked for the n-th time. Returns whether that happened."""
    struck = False

    def hit() -> None:
        nonlocal struck
        struck = True
        handle.cancel()

    with Reactor(clock=FakeClock()) as reactor:
        handle = reactor.spawn(striking(service, number, lambda: reactor.post(hit)))
        wait_ended(reactor, handle)
        assert isinstance(handle.error, ReactorError | Cancelled | None)
    assert not reactor.tasks
    assert not reactor.poller.has_waiters()
    assert reactor.timers.next_deadline() is None
    return struck


def count_descriptors() -> int:
    return sum(1 for fd in range(256) if is_open(fd))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("kind", list(POLLERS))
@given(strike=st.integers(0, 70), seed=st.integers(0, 3), way=st.sampled_from(["cancel", "timeout", "close"]))
def test_strike_anywhere(kind: str, strike: int, seed: int, way: str) -> None:
    world = World()
    reactor = Reactor(clock=FakeClock(), poller=POLLERS[kind](), seed=seed)
    with reactor:
        if way == "timeout":
            # Quarters: between the times at which the helper acts, and at these times.
            handle = reactor.spawn(timeout_after(strike / 4, world.service()))
            reactor.run(passes(1))
            wait_ended(reactor, handle)
            assert world.ended or isinstance(handle.error, TimedOut)
        else:
            handle = reactor.spawn(world.service())
            step_by_step(reactor, handle, strike)
            if way == "cancel":
                handle.cancel()
                handle.cancel()
                wait_ended(reactor, handle)
                assert world.ended or isinstance(handle.error, Cancelled)
    # "close": leaving the block has cancelled it.
    assert handle.is_finished
    assert world.cleaned
    world.assert_clean(reactor)


def step_by_step(reactor: Reactor, handle: Handle[None], steps: int) -> None:
    """Give the service a number of turns; time advances when nothing else happens."""

    def turns() -> Service[None]:
        for number in range(steps):
            if handle.is_finished:
                return
            yield Sleep(0.25) if number % 2 else YIELD

    reactor.run(turns())


def wait_ended(reactor: Reactor, handle: Handle[None]) -> None:
    def wait() -> Service[None]:
        while not handle.is_finished:
            yield Sleep(0.1)

    reactor.run(wait())


def test_a_new_service_runs_to_its_first_yield(fake: Reactor) -> None:
    """So its resources are released even if it is cancelled before its first step."""
    seen: list[str] = []

    def service() -> Service[None]:
        try:
            seen.append("started")
            yield YIELD
            seen.append("not to be reached")
        finally:
            seen.append("cleaned")

    handle = fake.spawn(service())
    assert handle.cancel() is True
    assert handle.cancel() is False
    fake.run(passes(2))
    assert seen == ["started", "cleaned"]
    assert handle.cancel() is False


def test_cancelling_oneself(fake: Reactor) -> None:
    handles: list[Handle[None]] = []

    def service() -> Service[None]:
        handles[0].cancel("enough")
        yield Sleep(100)

    handles.append(fake.spawn(service()))
    fake.run(passes(2))
    assert isinstance(handles[0].error, Cancelled)
    assert handles[0].error.args == ("enough",)


def test_a_late_thread_finds_no_waiter(fake: Reactor) -> None:
    gate = threading.Event()

    def service() -> Service[None]:
        yield RunInThread(gate.wait)

    def main() -> Service[None]:
        handle = yield Spawn(service())
        yield from passes(2)
        handle.cancel()
        gate.set()
        # The late thread reports at any time, before or after a call made now.
        yield RunInThread(gate.wait)
        assert isinstance(handle.error, Cancelled)

    fake.run(main())
    assert fake.threads.running == 0


def test_a_service_that_ignores_cancellation_is_ended_by_force(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    def deaf() -> Service[None]:
        while True:
            try:
                yield Sleep(1_000)
            except Cancelled:
                continue
            finally:
                ended.append("finally")

    reactor = Reactor(clock=FakeClock())
    handle = reactor.spawn(deaf(), name="deaf")
    reactor.run(passes(2))
    reactor.close()
    reactor.close()
    assert handle.is_finished
    assert ended
    texts = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    caplog.clear()
    assert len(texts) == 1
    assert "deaf" in texts[0]


def test_a_cleanup_that_waits_at_a_forced_end_is_one_line_each(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was closed while 600 queries ended wrote 2,500 tracebacks."""
    monkeypatch.setattr(loop, "GRACE_S", 0.02)

    def inner() -> Service[None]:
        try:
            yield Signal()
        finally:
            try:
                yield Signal()
            finally:
                yield Signal()

    def outer() -> Service[None]:
        yield from inner()

    reactor = Reactor(clock=FakeClock())
    reactor.spawn(outer(), name="outer")
    reactor.run(passes(2))
    reactor.close()
    assert not [record for record in caplog.records if record.exc_info or "Traceback" in record.getMessage()]
    lines = errors_logged(caplog)
    assert len(lines) == 2
    assert "'outer' did not end" in lines[0]
    assert "'outer' waits in its cleanup" in lines[1]
