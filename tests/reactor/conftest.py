"""Fixtures.

A reactor over each poller, pairs of streams, and a check that nothing was logged that the test did not
expect.
"""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Callable, Iterator

import pytest

from reactor import (
    Reactor,
    SocketStream,
)
from reactor.core.poller import (
    HAS_EPOLL,
    EpollPoller,
    Poller,
    SelectorPoller,
)
from reactor.core.timers import FakeClock
from tests.reactor.helpers import errors_logged


def _over(kind: type[selectors.BaseSelector]) -> Callable[[], Poller]:
    return lambda: SelectorPoller(kind())


# Ours, and ours over each selector that this system has (kqueue on BSD and macOS, /dev/poll on Solaris).
POLLERS: dict[str, Callable[[], Poller]] = ({"epoll": EpollPoller} if HAS_EPOLL else {}) | {
    name: _over(getattr(selectors, name))
    for name in ("EpollSelector", "KqueueSelector", "DevpollSelector", "PollSelector", "SelectSelector")
    if hasattr(selectors, name)
}


@pytest.fixture(autouse=True)
def no_unexpected_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that leaves a warning in the reactor's log; one that expects it reads and clears it."""
    caplog.set_level(logging.WARNING, logger="reactor")
    yield
    assert errors_logged(caplog) == []


@pytest.fixture(params=list(POLLERS))
def poller(request: pytest.FixtureRequest) -> Poller:
    return POLLERS[request.param]()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def reactor(poller: Poller, clock: FakeClock) -> Iterator[Reactor]:
    """A reactor on a fake clock, over each poller in turn."""
    with Reactor(clock=clock, poller=poller) as reactor:
        yield reactor


@pytest.fixture
def fake(clock: FakeClock) -> Iterator[Reactor]:
    """A reactor on a fake clock, for what has nothing to do with descriptors."""
    with Reactor(clock=clock) as reactor:
        yield reactor


@pytest.fixture
def pair() -> Iterator[tuple[SocketStream, SocketStream]]:
    """Two connected streams."""
    left, right = (SocketStream(sock) for sock in socket.socketpair())
    yield left, right
    left.close()
    right.close()
