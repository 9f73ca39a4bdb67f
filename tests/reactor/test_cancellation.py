"""A service with every kind of wait is cancelled, timed out or closed at each yield: nothing is left behind.

This is the promise that "each wait carries its undo", so the service below should be given every new request
that can wait.
"""

from __future__ import annotations

import logging
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    PASS,
    Cancelled,
    Channel,
    CurrentTime,
    FakeClock,
    Handle,
    Reactor,
    ReadYield,
    RunInThread,
    Scope,
    Service,
    Signal,
    Sleep,
    SocketStream,
    Spawn,
    TimedOut,
    WriteYield,
    timeout_after,
)
from tests.reactor.conftest import POLLERS
from tests.reactor.helpers import passes

BLOB = bytes(400_000)


class World:
    """What the service touches, to be looked over when it is gone."""

    def __init__(self) -> None:
        self.left, self.right = (SocketStream(sock) for sock in socket.socketpair())
        self.full: Channel[int] = Channel(1)
        self.empty: Channel[int] = Channel(1)
        self.signal = Signal()
        self.scope = Scope("children", fail_together=False)
        self.child: Handle[None] | None = None
        self.cleaned = False
        self.ended = False

    def service(self) -> Service[None]:
        try:
            yield PASS
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
            yield from self.child.join()
            self.ended = True
        finally:
            # A cleanup that waits, as real ones do.
            yield PASS
            yield from self.scope.close()
            self.cleaned = True

    def nested(self) -> Service[None]:
        yield from timeout_after(20, passes(1))
        yield Sleep(2)

    def helper(self) -> Service[None]:
        """Do what the service waits for."""
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

    def assert_clean(self, reactor: Reactor) -> None:
        assert self.signal.waiter is None
        for channel in (self.full, self.empty):
            assert not channel._senders
            assert not channel._receivers
        assert len(self.scope) == 0
        assert self.scope.failures == []
        for stream in (self.left, self.right):
            assert stream.readable.descriptor.reader is None
            assert stream.writable.descriptor.writer is None
            stream.close()
        assert not reactor.poller.has_waiters()
        assert reactor.timers.next_deadline() is None
        assert not reactor._tasks


def test_undisturbed() -> None:
    world = World()
    with Reactor(clock=FakeClock()) as reactor:
        reactor.run(world.service())
        assert world.ended
    world.assert_clean(reactor)


@pytest.mark.parametrize("kind", list(POLLERS))
@given(strike=st.integers(0, 45), seed=st.integers(0, 3), way=st.sampled_from(["cancel", "timeout", "close"]))
def test_strike_anywhere(kind: str, strike: int, seed: int, way: str) -> None:
    world = World()
    reactor = Reactor(clock=FakeClock(), poller=POLLERS[kind](), seed=seed)
    with reactor:
        if way == "timeout":
            # Quarters: between the moments at which the helper acts, and at them.
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
    """Let the service have so many turns, time going on when nothing else does."""

    def turns() -> Service[None]:
        for number in range(steps):
            if handle.is_finished:
                return
            yield Sleep(0.25) if number % 2 else PASS

    reactor.run(turns())


def wait_ended(reactor: Reactor, handle: Handle[None]) -> None:
    def wait() -> Service[None]:
        while not handle.is_finished:
            yield Sleep(0.1)

    reactor.run(wait())


def test_a_new_service_runs_to_its_first_yield(fake: Reactor) -> None:
    """So what it was given to own is cleaned up, even when it is cancelled before its first step."""
    seen: list[str] = []

    def service() -> Service[None]:
        try:
            seen.append("started")
            yield PASS
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


def test_a_late_thread_finds_nobody(fake: Reactor) -> None:
    gate = threading.Event()

    def service() -> Service[None]:
        yield RunInThread(gate.wait)

    def main() -> Service[None]:
        handle = yield Spawn(service())
        yield from passes(2)
        handle.cancel()
        gate.set()
        # The late thread reports when it comes to it, before or after a call that is made now.
        while fake.threads.running:
            yield RunInThread(gate.wait)
        assert isinstance(handle.error, Cancelled)

    fake.run(main())
    assert fake.threads.running == 0


def test_one_that_does_not_end_is_ended_by_force(caplog: pytest.LogCaptureFixture) -> None:
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
