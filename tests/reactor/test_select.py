"""Select: no item is lost, no wait remains, ready sources take turns. Threads: test_shared_channel.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    YIELD,
    BadRequest,
    Broken,
    Busy,
    Cancelled,
    Channel,
    ChannelClosed,
    Handle,
    Reactor,
    Select,
    Service,
    ServiceCancelled,
    SharedChannel,
    Signal,
    Sleep,
    Spawn,
    ThreadPark,
    TimedOut,
    timeout_after,
)
from reactor.core.poller import FileDescriptor
from reactor.core.timers import FakeClock
from reactor.sync.selection import Chosen
from tests.reactor.helpers import assert_clean, errors_logged, forever, give, passes, run

ACTIONS = ["send", "set", "select", "receive", "cancel", "turn", "close"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30)), max_size=50)


class Sources:
    """The sources of a select, with a record of all sent and received items."""

    def __init__(self) -> None:
        self.channels: list[Channel[int] | SharedChannel[int]] = [
            Channel(1),
            SharedChannel(1),
            Channel(3),
            SharedChannel(3),
        ]
        self.signals = [Signal(), Signal()]
        self.sent: dict[int, list[int]] = {index: [] for index in range(4)}
        self.got: dict[int, list[int]] = {index: [] for index in range(4)}
        self.sets = 0
        self.seen = 0
        self.ends = 0

    def new_select(self, which: int) -> Select:
        """A select over some channels and one signal. Each service needs its own."""
        chosen = [channel for index, channel in enumerate(self.channels) if which >> index & 1]
        return Select(*chosen, self.signals[which % 2], Sleep(5))

    def selecting(self, select: Select, rounds: int) -> Service[None]:
        for _ in range(rounds):
            self.take((yield select))

    def take(self, chosen: Chosen) -> None:
        source = chosen.source
        if isinstance(source, Signal):
            self.seen += 1
        elif isinstance(source, Channel):
            if chosen.error is None:
                self.got[self.channels.index(source)].append(chosen.result())
            else:
                assert isinstance(chosen.error, ChannelClosed)
                self.ends += 1

    def receiving(self, index: int) -> Service[None]:
        try:
            self.got[index].append((yield from self.channels[index].receive()))
        except ChannelClosed:
            self.ends += 1

    def send(self, index: int, item: int) -> None:
        try:
            self.channels[index].send_nowait(item)
        except (ChannelClosed, BlockingIOError):
            return
        self.sent[index].append(item)

    def left_over(self, index: int) -> Iterator[int]:
        while True:
            try:
                yield self.channels[index].receive_nowait()
            except (ChannelClosed, BlockingIOError):
                return

    def assert_clean(self) -> None:
        for channel in self.channels:
            assert not channel.waiting_receivers
        for signal in self.signals:
            assert signal.waiter is None


@given(steps=STEPS, seed=st.integers(0, 3))
def test_nothing_is_lost_or_left(steps: list[tuple[str, int]], seed: int) -> None:
    """Several services select over the same sources, others receive directly, any may be cancelled."""
    sources = Sources()
    handles: list[Handle[None]] = []
    with Reactor(clock=FakeClock(), seed=seed) as reactor:
        for number, (step, which) in enumerate(steps):
            if step == "send":
                sources.send(which % 4, number)
            elif step == "set":
                signal = sources.signals[which % 2]
                # A flag that is already set would absorb this one.
                if not signal.is_set:
                    signal.set()
                    sources.sets += 1
            elif step == "select":
                if sources.signals[which % 2].waiter is None:
                    service = sources.selecting(sources.new_select(which), 1 + which % 3)
                    handles.append(reactor.spawn(service))
                    reactor.run(passes(2))
            elif step == "receive":
                handles.append(reactor.spawn(sources.receiving(which % 4)))
            elif step == "cancel" and handles:
                handles[which % len(handles)].cancel()
            elif step == "close" and which > 27:
                sources.channels[which % 4].close()
            elif step == "turn":
                reactor.run(passes(1))
        # Items in transit arrive before the end.
        reactor.run(passes(3))
        for handle in handles:
            handle.cancel()
        reactor.run(passes(3))
        sources.assert_clean()
        assert_clean(reactor)
    # A second service that waits for a signal is refused, and consumes nothing.
    for handle in handles:
        assert handle.error is None or isinstance(handle.error, Cancelled | Busy)
    for index in range(4):
        got = sources.got[index] + list(sources.left_over(index))
        assert sorted(got) == sources.sent[index]
    still_set = sum(signal.is_set for signal in sources.signals)
    assert sources.seen + still_set == sources.sets


def test_each_has_its_turn(fake: Reactor) -> None:
    """Of sources that are always ready, none is chosen twice before all others were chosen."""
    channels: list[Channel[int] | SharedChannel[int]] = [Channel(100), SharedChannel(100), Channel(100)]
    for channel in channels:
        for number in range(100):
            channel.send_nowait(number)

    def service() -> Service[list[int]]:
        select = Select(*channels)
        order = []
        for _ in range(30):
            chosen = yield select
            order.append(channels.index(chosen.source))
        return order

    assert run(fake, service()) == [0, 1, 2] * 10


def test_an_end_is_reported_once(fake: Reactor) -> None:
    channel: Channel[int] = Channel(1)
    channel.send_nowait(1)
    channel.close()

    def service() -> Service[list[Any]]:
        child = yield Spawn(give(2))
        unlucky = yield Spawn(fail())
        stuck = yield Spawn(forever())
        stuck.cancel()
        select = Select(channel, child, unlucky, stuck)
        seen: list[Any] = []
        while select:
            chosen = yield select
            try:
                seen.append(chosen.result())
            except (ChannelClosed, Broken) as error:
                seen.append(type(error))
        with pytest.raises(BadRequest, match="without a source"):
            yield select
        return seen

    seen = run(fake, service())
    assert seen[0] == 1
    assert set(seen[1:]) == {ChannelClosed, 2, Broken, ServiceCancelled}
    assert len(seen) == 5


def fail() -> Service[None]:
    yield YIELD
    raise Broken("on purpose")


def test_sources_come_and_go(fake: Reactor) -> None:
    one, two = Channel[int](5), Channel[int](5)
    for number in (1, 2):
        one.send_nowait(number)
        two.send_nowait(number + 10)

    def service() -> Service[list[int]]:
        select = Select(one)
        got = [(yield select).result()]
        select.add(two)
        got.append((yield select).result())
        select.discard(one)
        select.discard(one)
        got.append((yield select).result())
        assert len(select) == 1
        return got

    assert run(fake, service()) == [1, 11, 12]


def test_sleep_is_a_limit_on_idleness(fake: Reactor) -> None:
    channel: Channel[int] = Channel(5)

    def sender() -> Service[None]:
        for number in range(3):
            yield Sleep(2)
            yield from channel.send(number)

    def service() -> Service[list[Any]]:
        yield Spawn(sender())
        idle = Sleep(3)
        select = Select(channel, idle)
        seen: list[Any] = []
        while True:
            chosen = yield select
            if chosen.source is idle:
                return seen
            seen.append(chosen.result())

    assert run(fake, service()) == [0, 1, 2]
    assert fake.now() == 9
    assert_clean(fake)


def test_a_timed_out_select_leaves_nothing(fake: Reactor) -> None:
    sources = Sources()
    child = fake.spawn(forever())

    def service() -> Service[None]:
        with pytest.raises(TimedOut):
            yield from timeout_after(1, wait_on(Select(*sources.channels, *sources.signals, child)))

    run(fake, service())
    sources.assert_clean()
    assert not child.is_watched
    child.cancel()
    fake.run(passes(2))
    assert_clean(fake)


def wait_on(select: Select) -> Service[Chosen]:
    chosen: Chosen = yield select
    return chosen


def test_a_handle_of_another_thread(fake: Reactor) -> None:
    gate: SharedChannel[int] = SharedChannel(1)
    signal = Signal()
    handle = ThreadPark().spawn(gate.receive())

    def service() -> Service[Any]:
        select = Select(handle, signal)
        signal.set()
        assert (yield select).source is signal
        assert not handle.is_watched
        gate.send_nowait(5)
        chosen = yield select
        assert chosen.source is handle
        return chosen.result()

    assert run(fake, service()) == 5
    assert signal.waiter is None


def test_one_at_a_time(fake: Reactor) -> None:
    signal = Signal()
    select = Select(Channel[int](1), signal)
    fake.spawn(wait_on(select), name="first")
    fake.run(passes(2))
    with pytest.raises(Busy, match="first"):
        run(fake, wait_on(select))
    other: Channel[int] = Channel(1)
    # The signal has a waiter already; the waits entered before the refusal are removed.
    with pytest.raises(Busy, match="first"):
        run(fake, wait_on(Select(other, signal)))
    assert not other.waiting_receivers
    signal.set()
    fake.run(passes(2))


def test_invalid_sources_of_a_select_are_refused(fake: Reactor) -> None:
    with pytest.raises(BadRequest, match="cannot select"):
        Select(FileDescriptor(0).readable)  # type: ignore[arg-type]
    with Reactor() as other:
        stranger = other.spawn(forever())
        with pytest.raises(BadRequest, match="another reactor"):
            run(fake, wait_on(Select(Channel[int](1), stranger)))


def test_a_failed_source_is_not_logged(fake: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    """A select over a service counts as a request for its failure."""
    handle = fake.spawn(fail())
    chosen = run(fake, wait_on(Select(handle)))
    assert isinstance(chosen.error, Broken)
    assert errors_logged(caplog) == []


def test_an_answer_in_transit_wins_over_a_cancellation(fake: Reactor) -> None:
    """Another thread has sent its item when the service is cancelled, and when its own channel gets one."""
    shared: SharedChannel[int] = SharedChannel(1)
    local: Channel[int] = Channel(1)
    signal = Signal()
    got: list[Chosen] = []

    def service() -> Service[None]:
        got.append((yield Select(shared, local, signal)))
        yield from forever()

    handle = fake.spawn(service())
    fake.run(passes(2))
    shared.send_nowait(1)
    local.send_nowait(2)
    signal.set()
    assert handle.cancel()
    fake.run(passes(3))
    assert isinstance(handle.error, Cancelled)
    assert [chosen.result() for chosen in got] == [1]
    # The others have kept their items.
    assert local.receive_nowait() == 2
    assert signal.is_set
    assert not local.waiting_receivers


def test_an_item_that_is_put_back_is_next(fake: Reactor) -> None:
    for channel in (Channel[int](2), SharedChannel[int](2)):
        channel.send_nowait(1)
        channel.send_nowait(2)
        channel.receiving.give_back(channel.receive_nowait())
        assert channel.receive_nowait() == 1
        assert channel.receive_nowait() == 2
        waiting = fake.spawn(channel.receive())
        fake.run(passes(2))
        channel.receiving.give_back(3)
        fake.run(passes(2))
        assert waiting.result() == 3
