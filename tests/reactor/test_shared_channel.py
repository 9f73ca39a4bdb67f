"""Channels between threads: real threads of each kind; nothing is lost, doubled or out of order."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import (
    Cancelled,
    ChannelClosed,
    ChannelFull,
    Reactor,
    ReactorThread,
    Select,
    Service,
    SharedChannel,
    Sleep,
    ThreadPark,
    TimedOut,
    move_on_after,
    timeout_after,
)
from reactor.core.requests import Claim
from reactor.core.timers import FakeClock
from reactor.errors import ChannelEmpty
from reactor.sync.channel import CrossThreadWait, ThreadWaiter
from tests.reactor.helpers import forever, passes, task_of

PATIENCE_S = 60.0
# (sender, number)
Item = tuple[int, int]


class Crew:
    """Threads of each kind that can be given a service or a blocking call."""

    def __init__(self) -> None:
        self.reactors = [ReactorThread(Reactor(slow_step_s=None)).start() for _ in range(2)]
        self.park = ThreadPark()

    def run(self, kind: str, service: Service[Any], call: Callable[[], Any]) -> Callable[[], Any]:
        """Start it. Returns a function that waits for the end and returns the result."""
        if kind == "thread":
            future: Future[Any] = Future()
            threading.Thread(target=_call_into, args=(future, call), daemon=True).start()
            return lambda: future.result(PATIENCE_S)
        if kind == "park":
            handle = self.park.spawn(service)
            return lambda: handle.wait(PATIENCE_S)
        submitted = self.reactors[int(kind[-1])].submit(service)
        return lambda: submitted.result(PATIENCE_S)

    def close(self) -> None:
        for reactor in self.reactors:
            reactor.close()


def _call_into(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        future.set_exception(error)


@pytest.fixture(scope="module")
def crew() -> Any:
    # Switch threads as often as possible, to test the moments in between.
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    crew = Crew()
    yield crew
    crew.close()
    sys.setswitchinterval(interval_s)


KINDS = ["thread", "park", "reactor0", "reactor1"]


class LastCloses:
    """Closes a channel when its last sender leaves the context, in any thread."""

    def __init__(self, channel: SharedChannel[Item], senders: int) -> None:
        self._channel = channel
        self._left = senders
        self._lock = threading.Lock()

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._channel.close()


def send_all(channel: SharedChannel[Item], last: LastCloses, number: int, count: int) -> Service[None]:
    with last:
        for index in range(count):
            yield from channel.send((number, index))


def send_all_blocking(channel: SharedChannel[Item], last: LastCloses, number: int, count: int) -> None:
    with last:
        for index in range(count):
            channel.send_blocking((number, index), PATIENCE_S)


def receive_all(channel: SharedChannel[Item]) -> Service[list[Item]]:
    got = []
    try:
        while True:
            got.append((yield from channel.receive()))
    except ChannelClosed:
        return got


def receive_all_blocking(channel: SharedChannel[Item]) -> list[Item]:
    got = []
    try:
        while True:
            got.append(channel.receive_blocking(PATIENCE_S))
    except ChannelClosed:
        return got


def receive_all_impatiently(channel: SharedChannel[Item]) -> Service[list[Item]]:
    """With constant time-outs, at arbitrary moments."""
    got: list[Item] = []

    def one() -> Service[None]:
        got.append((yield from channel.receive()))

    try:
        while True:
            yield from move_on_after(0.0001, one())
    except ChannelClosed:
        return got


def receive_all_impatiently_blocking(channel: SharedChannel[Item]) -> list[Item]:
    got = []
    while True:
        try:
            got.append(channel.receive_blocking(0.0001))
        except TimedOut:
            continue
        except ChannelClosed:
            return got


def check(sent: dict[int, int], received: list[list[Item]]) -> None:
    """All items arrived once, and each receiver got those of one sender in order."""
    seen = sorted(item for got in received for item in got)
    assert seen == sorted((number, index) for number, count in sent.items() for index in range(count))
    for got in received:
        by_sender = defaultdict(list)
        for number, index in got:
            by_sender[number].append(index)
        for indices in by_sender.values():
            assert indices == sorted(indices)


@given(
    capacity=st.integers(1, 4),
    senders=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 30)), min_size=1, max_size=4),
    receivers=st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=3),
)
def test_between_any_threads(
    crew: Crew, capacity: int, senders: list[tuple[str, int]], receivers: list[tuple[str, bool]]
) -> None:
    channel: SharedChannel[Item] = SharedChannel(capacity)
    last = LastCloses(channel, len(senders))
    waits = []
    for kind, is_patient in receivers:
        if is_patient:
            waits.append(crew.run(kind, receive_all(channel), lambda: receive_all_blocking(channel)))
        else:
            waits.append(
                crew.run(
                    kind,
                    receive_all_impatiently(channel),
                    lambda: receive_all_impatiently_blocking(channel),
                )
            )
    for number, (kind, count) in enumerate(senders):
        waits.append(
            crew.run(
                kind,
                send_all(channel, last, number, count),
                lambda number=number, count=count: send_all_blocking(  # type: ignore[misc]
                    channel, last, number, count
                ),
            )
        )
    results = [wait() for wait in waits]
    check({number: count for number, (_, count) in enumerate(senders)}, results[: len(receivers)])
    assert not channel.waiting_receivers
    assert not channel.waiting_senders
    assert len(channel) == 0


@given(kinds=st.lists(st.sampled_from(KINDS), min_size=3, max_size=3), count=st.integers(0, 30))
def test_select_between_threads(crew: Crew, kinds: list[str], count: int) -> None:
    """One service receives from three channels that three threads fill, with time-outs in between."""
    channels = [SharedChannel[Item](2, f"number {number}") for number in range(3)]

    def collect() -> Service[list[Item]]:
        got: list[Item] = []

        def one() -> Service[None]:
            chosen = yield select
            if chosen.error is None:
                got.append(chosen.result())

        select = Select(*channels)
        while select:
            yield from move_on_after(0.0001, one())
        return got

    waits = [crew.run("park", collect(), lambda: None)]
    for number, (kind, channel) in enumerate(zip(kinds, channels, strict=True)):
        last = LastCloses(channel, 1)
        waits.append(
            crew.run(
                kind,
                send_all(channel, last, number, count),
                lambda channel=channel, last=last, number=number: send_all_blocking(  # type: ignore[misc]
                    channel, last, number, count
                ),
            )
        )
    results = [wait() for wait in waits]
    check(dict.fromkeys(range(3), count), results[:1])
    assert not any(channel.waiting_receivers for channel in channels)


# Blocking calls.


def test_blocking_calls_wait_no_longer_than_asked() -> None:
    channel: SharedChannel[int] = SharedChannel(1, "jobs")
    with pytest.raises(TimedOut, match="jobs"):
        channel.receive_blocking(0)
    channel.send_blocking(1, 0)
    with pytest.raises(TimedOut, match="jobs"):
        channel.send_blocking(2, 0)
    assert channel.receive_blocking(0) == 1
    assert not channel.waiting_receivers
    assert not channel.waiting_senders
    with pytest.raises(ChannelEmpty):
        channel.receive_nowait()


def test_closing_ends_waiting_threads(crew: Crew) -> None:
    empty: SharedChannel[int] = SharedChannel(1)
    full: SharedChannel[int] = SharedChannel(1)
    full.send_nowait(1)
    receiving = crew.run("thread", forever(), empty.receive_blocking)
    sending = crew.run("thread", forever(), lambda: full.send_blocking(2))
    wait_for(lambda: bool(empty.waiting_receivers and full.waiting_senders))
    assert (empty.waiting_senders, full.waiting_receivers) == (0, 0)
    for channel in (empty, full):
        channel.close()
        channel.close()
    for ended in (receiving, sending):
        with pytest.raises(ChannelClosed):
            ended()
    assert full.receive_blocking() == 1
    with pytest.raises(ChannelClosed):
        full.receive_blocking()
    with pytest.raises(ChannelClosed):
        full.send_blocking(3)


def wait_for(holds: Callable[[], bool]) -> None:
    event = threading.Event()
    for _ in range(int(PATIENCE_S * 1000)):
        if holds():
            return
        event.wait(0.001)
    raise AssertionError("it never came to hold")


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_thread_that_is_interrupted_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, is_answered: bool
) -> None:
    """Ctrl-C may be pressed while an item is in transit to the waiting thread."""
    channel: SharedChannel[int] = SharedChannel(1)

    def interrupted(waiter: ThreadWaiter, timeout_s: float | None) -> bool:
        if is_answered:
            if waiter.item is None:
                channel.send_nowait(1)
            else:
                assert channel.receive_nowait() == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadWaiter, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        channel.receive_blocking()
    if not is_answered:
        channel.send_nowait(1)
    assert not channel.waiting_receivers
    with pytest.raises(KeyboardInterrupt):
        channel.send_blocking(2)
    assert not channel.waiting_senders
    assert channel.receive_nowait() == (2 if is_answered else 1)


# The order of simultaneous events.


def test_an_answer_in_transit_wins_over_a_cancellation(fake: Reactor) -> None:
    channel: SharedChannel[int] = SharedChannel(1)
    got: list[int] = []

    def receiver() -> Service[None]:
        got.append((yield from channel.receive()))
        yield Sleep(1_000)

    handle = fake.spawn(receiver())
    fake.run(passes(2))
    channel.send_nowait(7)
    # The item was sent but has not arrived: it is too late to undo the wait of the service.
    assert handle.cancel()
    fake.run(passes(3))
    assert got == [7]
    assert handle.is_finished
    assert fake.now() == 0


def test_a_time_out_at_the_same_moment(fake: Reactor) -> None:
    """A receive has happened or it has not. Here it has, and the time-out has no effect."""
    channel: SharedChannel[int] = SharedChannel(1)
    handle = fake.spawn(timeout_after(1, channel.receive()))
    fake.run(passes(2))
    channel.send_nowait(7)
    clock_of(fake).advance(2)
    fake.run(passes(3))
    assert handle.result() == 7


def clock_of(reactor: Reactor) -> FakeClock:
    clock = reactor.now.__self__  # type: ignore[attr-defined]
    assert isinstance(clock, FakeClock)
    return clock


def test_a_blocked_sender_is_served_before_later_ones(fake: Reactor) -> None:
    channel: SharedChannel[int] = SharedChannel(1)
    channel.send_nowait(1)
    handle = fake.spawn(channel.send(2))
    fake.run(passes(2))
    assert channel.receive_nowait() == 1
    with pytest.raises(ChannelFull):
        channel.send_nowait(3)
    handle.cancel()
    fake.run(passes(2))
    # Too late: the item has been sent, so the sender ends normally.
    assert handle.error is None
    assert channel.receive_nowait() == 2


def test_an_item_for_a_closed_loop_is_returned() -> None:
    channel: SharedChannel[int] = SharedChannel(1)
    with Reactor() as reactor:
        handle = reactor.spawn(channel.receive())
        reactor.run(passes(2))
        waiter = channel._receivers[0]
    assert handle.is_finished
    assert not channel.waiting_receivers
    # As if another thread had claimed it just before the end.
    assert isinstance(waiter, CrossThreadWait)
    waiter._claim = Claim()
    channel._receivers.append(waiter)
    channel.send_nowait(1)
    assert channel.receive_nowait() == 1


def test_a_closed_loop_takes_its_waiters_along() -> None:
    channel: SharedChannel[int] = SharedChannel(1)
    with Reactor() as reactor:
        reactor.spawn(channel.receive())
        reactor.run(passes(2))
        assert channel.waiting_receivers == 1
    assert not channel.waiting_receivers
    channel.send_nowait(1)
    assert channel.receive_nowait() == 1


def test_two_services_that_talk_through_it_let_others_run(fake: Reactor) -> None:
    """On a channel that always has items and room no call waits; the loop still runs the others."""
    channel: SharedChannel[int] = SharedChannel(1)
    seen = 0

    def busy() -> Service[None]:
        nonlocal seen
        while True:
            yield from channel.send(1)
            yield from channel.receive()
            seen += 1

    handle = fake.spawn(busy())
    fake.run(passes(10))
    assert 0 < seen < 1_000
    handle.cancel()
    fake.run(passes(3))


def test_closed_between_two_looks() -> None:
    """A receiver that found no item before the channel was closed is not queued afterwards."""
    channel: SharedChannel[int] = SharedChannel(1)
    channel.close()
    with pytest.raises(ChannelClosed):
        channel._take(ThreadWaiter())
    with pytest.raises(ChannelClosed):
        channel._offer(1, ThreadWaiter())
    assert not channel.waiting_receivers
    assert not channel.waiting_senders


def test_a_late_answer_to_a_service_that_was_ended_by_force(fake: Reactor) -> None:
    channel: SharedChannel[int] = SharedChannel(1)
    handle = fake.spawn(channel.receive())
    fake.run(passes(2))
    task = task_of(handle)
    channel.send_nowait(1)
    task.end_by_force()
    task.settle(None, Cancelled("ended by force"))
    del fake.tasks[task]
    fake.run(passes(2))
    assert not fake.ready
