"""Fixtures: a fake clock, and a reactor that runs on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reactor import Reactor
from reactor.core.timers import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def reactor(clock: FakeClock) -> Iterator[Reactor]:
    with Reactor(clock=clock) as reactor:
        yield reactor
