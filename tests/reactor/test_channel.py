"""Channels of both kinds: against a model, after cancellations, and at their close.

Tests with threads are in test_shared_channel.py.
"""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    Channel,
    ChannelClosed,
    ChannelFull,
    Handle,
    Reactor,
    Service,
    SharedChannel,
    Sleep,
    TimedOut,
    timeout_after,
)
from reactor.core.timers import FakeClock
from reactor.errors import ChannelEmpty
from tests.reactor.helpers import assert_clean, forever, passes, run

ACTIONS = ["send", "receive", "send_nowait", "receive_nowait", "turn", "cancel"]
# The number selects which earlier one is cancelled.
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30)), max_size=60)


AnyChannel: TypeAlias = Channel[Any] | SharedChannel[Any]
KINDS: list[type[AnyChannel]] = [Channel, SharedChannel]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[AnyChannel]:
    found: type[AnyChannel] = request.param
    return found


class Model:
    """The model of a channel: queues of items, of waiting senders and of waiting receivers."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: deque[int] = deque()
        self.senders: deque[int] = deque()
        self.receivers: deque[int] = deque()
        self.got: dict[int, int] = {}

    def send(self, item: int) -> None:
        if self.receivers:
            self.got[self.receivers.popleft()] = item
        elif len(self.items) < self.capacity:
            self.items.append(item)
        else:
            self.senders.append(item)

    def receive(self, who: int) -> None:
        if self.items:
            self.got[who] = self.items.popleft()
            if self.senders:
                self.items.append(self.senders.popleft())
        else:
            self.receivers.append(who)


@given(kind=st.sampled_from(KINDS), capacity=st.integers(1, 3), steps=STEPS)
def test_against_model(kind: type[AnyChannel], capacity: int, steps: list[tuple[str, int]]) -> None:
    """Each step is applied to the channel and to the model.

    Then every receiver has the item that the model predicts.
    """
    model, got = Model(capacity), dict[int, int]()
    channel = kind(capacity)
    handles: list[tuple[str, int, Handle[None]]] = []

    def receiver(who: int) -> Service[None]:
        got[who] = yield from channel.receive()

    with Reactor(clock=FakeClock()) as reactor:
        for number, (step, which) in enumerate(steps):
            if step == "send":
                handles.append(("send", number, reactor.spawn(channel.send(number))))
                reactor.run(passes(2))
                model.send(number)
            elif step == "receive":
                handles.append(("receive", number, reactor.spawn(receiver(number))))
                reactor.run(passes(2))
                model.receive(number)
            elif step == "send_nowait":
                if not model.receivers and len(model.items) == capacity:
                    with pytest.raises(ChannelFull):
                        channel.send_nowait(number)
                else:
                    channel.send_nowait(number)
                    model.send(number)
            elif step == "receive_nowait":
                if model.items:
                    got[number] = channel.receive_nowait()
                    model.receive(number)
                else:
                    with pytest.raises(ChannelEmpty):
                        channel.receive_nowait()
            elif step == "turn":
                reactor.run(passes(1))
            elif handles:
                action, label, handle = handles[which % len(handles)]
                handle.cancel()
                queue = model.senders if action == "send" else model.receivers
                if label in queue:
                    queue.remove(label)
        reactor.run(passes(3))
        assert got == model.got
        assert len(channel) == len(model.items)
        assert channel.waiting_senders == len(model.senders)
        assert channel.waiting_receivers == len(model.receivers)
        # First the queued items in order, then those of the waiting senders.
        for item in (*model.items, *model.senders):
            assert channel.receive_nowait() == item
        assert len(channel) == 0
        reactor.run(passes(3))
    assert_clean_channel(channel)


def assert_clean_channel(channel: AnyChannel) -> None:
    assert not channel.waiting_senders
    assert not channel.waiting_receivers


def test_closing_drains_receivers_and_refuses_senders(fake: Reactor, kind: type[AnyChannel]) -> None:
    channel = kind(1)
    outcomes: list[object] = []

    def sender(item: int) -> Service[None]:
        try:
            yield from channel.send(item)
        except ChannelClosed:
            outcomes.append(("refused", item))

    def service() -> Service[None]:
        yield from passes(2)
        channel.close()
        channel.close()
        yield Sleep(1)
        outcomes.append((yield from channel.receive()))
        with pytest.raises(ChannelClosed):
            yield from channel.receive()
        with pytest.raises(ChannelClosed):
            channel.receive_nowait()
        with pytest.raises(ChannelClosed):
            yield from channel.send(9)
        with pytest.raises(ChannelClosed):
            channel.send_nowait(9)

    fake.spawn(sender(1))
    fake.spawn(sender(2))
    run(fake, service())
    assert outcomes == [("refused", 2), 1]


def test_closing_ends_a_waiting_receiver(fake: Reactor, kind: type[AnyChannel]) -> None:
    channel = kind(1, "jobs")
    handle = fake.spawn(channel.receive())
    fake.run(passes(2))
    channel.close()
    fake.run(passes(2))
    assert isinstance(handle.error, ChannelClosed)
    assert "jobs" in str(handle.error)


def test_an_item_in_transit_is_not_lost_to_a_cancellation(fake: Reactor, kind: type[AnyChannel]) -> None:
    channel = kind(1)
    got: list[int] = []

    def receiver() -> Service[None]:
        got.append((yield from channel.receive()))
        yield from forever()

    handle = fake.spawn(receiver())
    fake.run(passes(2))
    channel.send_nowait(7)
    handle.cancel()
    fake.run(passes(2))
    assert got == [7]
    assert handle.is_finished


def test_timeouts_leave_no_waiters(fake: Reactor, kind: type[AnyChannel]) -> None:
    channel = kind(1)

    def service() -> Service[None]:
        with pytest.raises(TimedOut):
            yield from timeout_after(1, channel.receive())
        channel.send_nowait(1)
        with pytest.raises(TimedOut):
            yield from timeout_after(1, channel.send(2))
        assert channel.receive_nowait() == 1
        with pytest.raises(ChannelEmpty):
            channel.receive_nowait()

    run(fake, service())
    assert_clean(fake)
    assert_clean_channel(channel)


def test_full_and_empty_are_would_block(kind: type[AnyChannel]) -> None:
    channel = kind(1)
    with pytest.raises(BlockingIOError):
        channel.receive_nowait()
    channel.send_nowait(None)
    with pytest.raises(BlockingIOError):
        channel.send_nowait(None)
    assert len(channel) == 1
    with pytest.raises(ValueError, match="at least 1"):
        kind(0)


def drain(channel: AnyChannel) -> Service[list[Any]]:
    got = []
    try:
        while True:
            got.append((yield from channel.receive()))
    except ChannelClosed:
        return got


def test_a_channel_stays_open_until_it_is_closed(fake: Reactor, kind: type[AnyChannel]) -> None:
    channel = kind(1)
    channel.send_nowait(1)
    receiver = fake.spawn(drain(channel))
    fake.run(passes(3))
    assert not receiver.is_finished
    channel.close()
    fake.run(passes(3))
    assert receiver.result() == [1]
