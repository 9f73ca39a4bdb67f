"""Small services and checks for the tests of the reactor."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from reactor import YIELD, Broken, Handle, Reactor, Service, Signal, SocketStream
from reactor.core.task import Task
from tests.support.logs import records_of

__all__ = [
    "assert_clean",
    "errors_logged",
    "fail_once",
    "forever",
    "give",
    "has_ended",
    "lost_stream",
    "passes",
    "pump",
    "run",
]

T = TypeVar("T")


def run(reactor: Reactor, service: Service[T]) -> T:
    """Run a service until it ends. Returns its result."""
    handle = reactor.spawn(service)
    reactor.run(handle.join())
    return handle.result()


def forever() -> Service[None]:
    """Wait forever."""
    yield Signal()


def give(value: T) -> Service[T]:
    """Return a value after one pass."""
    yield YIELD
    return value


def passes(count: int) -> Service[None]:
    """Let all other services run for a number of passes."""
    for _ in range(count):
        yield YIELD


def pump(reactor: Reactor, until: Callable[[], bool], limit: int = 1_000) -> None:
    """Run the loop until a condition holds."""

    def wait() -> Service[None]:
        for _ in range(limit):
            if until():
                return
            yield YIELD
        raise AssertionError("the condition never held")

    reactor.run(wait())


def has_ended(handle: Handle[Any], limit_s: float) -> bool:
    """Wait in this thread until a service of another thread has ended, without reading its outcome."""
    end_s = time.monotonic() + limit_s
    while not handle.is_finished and time.monotonic() < end_s:
        time.sleep(0.001)
    return handle.is_finished


def lost_stream() -> SocketStream:
    """A stream whose connection was reset; a read has noticed it."""
    left, right = socket.socketpair()
    stream = SocketStream(left)
    stream.write(b"never read")
    right.close()  # with unread bytes, which causes a reset
    with pytest.raises(Broken):
        stream.read(1)
    return stream


def task_of(handle: Handle[Any]) -> Task[Any]:
    assert isinstance(handle, Task)
    return handle


def assert_clean(reactor: Reactor, *streams: SocketStream) -> None:
    """Check that nothing is left: no timer, no task, no waiter on a descriptor."""
    assert reactor.timers.next_deadline() is None
    assert not reactor.poller.has_waiters()
    assert not reactor.tasks
    for stream in streams:
        assert stream.readable.descriptor.reader is None
        assert stream.writable.descriptor.writer is None


def errors_logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the reactor's log without lines about slow steps: on a busy machine any step may be slow."""
    texts = [r.getMessage() for r in records_of(caplog, logging.WARNING) if r.name == "reactor"]
    caplog.clear()
    return texts


def fail_once(reactor: Reactor) -> None:
    """Make the poller of a reactor in another thread fail once."""
    poll = reactor.poller.poll

    def fail(*args: Any) -> None:
        reactor.poller.poll = poll  # type: ignore[method-assign]
        raise OSError("the poller has failed")

    reactor.poller.poll = fail  # type: ignore[method-assign, assignment]
    reactor.post(lambda: None)
