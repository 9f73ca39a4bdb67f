"""Slots for threads: granted in order of arrival, and taken from idle holders while others wait."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor import (
    Handle,
    Reactor,
    Service,
    Sleep,
    Spawn,
)
from reactor.core.timers import FakeClock
from tests.tunnel.helpers import settle
from tunnel.errors import ErrorCode, LocalTunnelError, PeerError
from tunnel.services.blocking import WorkerSlots

SILENT_S = 30.0


class Held:
    """A holder of a slot. It records how and when it was ended."""

    def __init__(self, slots: WorkerSlots, clock: FakeClock, slot: int, *, waits: bool = True) -> None:
        self._slots = slots
        self._clock = clock
        self.slot = slot
        self.moved_s = clock.now()
        self.waits_for_peer = waits
        self.error: PeerError | None = None
        self.ended_s = -1.0
        self.silence_s = -1.0
        self.had_reason = False
        slots.enter(self)

    def end(self, error: PeerError) -> None:
        # Checked later: an assertion here would fail in the waiting query.
        self.had_reason = self.error is None and self.waits_for_peer and self._slots.waiting > 0
        self.error = error
        self.ended_s = self._clock.now()
        self.silence_s = self.ended_s - self.moved_s

    def move(self) -> None:
        self.moved_s = self._clock.now()

    def finish(self) -> None:
        self._slots.leave(self)
        self._slots.give_back(self.slot)


class Hall:
    """Slots with their holders and waiting queries, on a fake clock."""

    def __init__(self, reactor: Reactor, clock: FakeClock, count: int) -> None:
        self.reactor = reactor
        self.clock = clock
        self.slots = WorkerSlots(count, SILENT_S)
        self.served: list[str] = []
        self.held: dict[str, Held] = {}

    def comer(self, name: str, *, waits: bool = True) -> Service[None]:
        slot = yield from self.slots.take()
        self.served.append(name)
        self.held[name] = Held(self.slots, self.clock, slot, waits=waits)

    def come(self, *names: str, waits: bool = True) -> Service[list[Handle[None]]]:
        handles = []
        for name in names:
            handles.append((yield Spawn(self.comer(name, waits=waits), name)))
            yield from settle()
        return handles


@pytest.fixture
def hall(reactor: Reactor, clock: FakeClock) -> Hall:
    return Hall(reactor, clock, count=2)


def test_idle_holders_keep_their_slots_while_no_query_waits(hall: Hall) -> None:
    def play() -> Service[None]:
        yield from hall.come("a", "b")
        yield Sleep(1_000_000)
        assert [held.error for held in hall.held.values()] == [None, None]
        # A new query does not wait: a holder has been idle for long enough.
        yield from hall.come("c")
        assert hall.held["a"].error is not None
        assert hall.held["a"].error.code is ErrorCode.TIMEOUT
        assert hall.held["b"].error is None
        hall.held["a"].finish()
        yield from settle()
        assert hall.served == ["a", "b", "c"]
        assert hall.slots.waiting == 0

    hall.reactor.run(play())


def test_a_waiting_query_wakes_when_the_first_idle_one_reaches_the_limit(hall: Hall) -> None:
    def play() -> Service[None]:
        yield from hall.come("a")
        yield Sleep(4)
        yield from hall.come("b")
        yield Sleep(1)
        yield from hall.come("c")
        yield Sleep(24)  # t = 29
        hall.held["a"].move()
        yield Sleep(1_000)
        assert (hall.held["b"].ended_s, hall.held["a"].ended_s) == (34, 64)

    # The thread of `b` does not end; so `a` is ended too, `silent_s` after `b`. It was due at 59 already.
    hall.reactor.run(play())


def test_waiters_are_served_one_at_a_time(hall: Hall) -> None:
    def play() -> Service[None]:
        yield from hall.come("a", "b")
        yield Sleep(100)
        yield from hall.come("c", "d")
        yield Sleep(1)
        assert [name for name, held in hall.held.items() if held.error] == ["a"]
        hall.held["a"].finish()
        yield from settle()
        assert [name for name, held in hall.held.items() if held.error] == ["a", "b"]
        hall.held["b"].finish()
        yield Sleep(1_000)
        assert hall.served == ["a", "b", "c", "d"]
        assert [name for name, held in hall.held.items() if held.error] == ["a", "b"]

    hall.reactor.run(play())


def test_a_thread_that_does_not_wait_for_its_peer_keeps_its_slot(hall: Hall) -> None:
    def play() -> Service[None]:
        yield from hall.come("a", "b", waits=False)
        yield from hall.come("c")
        yield Sleep(1_000)
        assert [held.error for held in hall.held.values()] == [None, None]
        hall.held["b"].waits_for_peer = True
        hall.held["b"].move()
        moved_s = hall.clock.now()
        yield Sleep(2 * SILENT_S)
        assert SILENT_S <= hall.held["b"].ended_s - moved_s <= 2 * SILENT_S
        assert hall.held["a"].error is None

    hall.reactor.run(play())


def test_a_waiter_that_gives_up_loses_no_slot_and_changes_no_order(hall: Hall) -> None:
    def play() -> Service[None]:
        yield from hall.come("a", "b")
        yield Sleep(100)
        first, _, third, _ = yield from hall.come("c", "d", "e", "f")
        assert hall.held["a"].error is not None
        first.cancel()  # `a` was ended for it
        third.cancel()
        yield from settle()
        assert hall.slots.waiting == 2
        assert hall.held["b"].error is None, "one slot is being returned already"
        hall.held["a"].finish()
        yield from settle()
        assert hall.served == ["a", "b", "d"]
        hall.held["b"].finish()
        yield from settle()
        assert hall.served == ["a", "b", "d", "f"]
        hall.held["d"].finish()
        hall.held["f"].finish()
        yield from hall.come("g", "h")
        assert hall.served == ["a", "b", "d", "f", "g", "h"]

    hall.reactor.run(play())


def test_a_slot_given_at_the_moment_of_a_cancellation_is_not_lost(hall: Hall) -> None:
    """The next yield of the new holder raises. It must return the slot."""

    def play() -> Service[None]:
        yield from hall.come("a", "b")
        (waiting,) = yield from hall.come("c")
        thread = threading.Thread(target=hall.held["a"].finish)
        thread.start()
        thread.join()
        waiting.cancel()
        yield from settle()
        assert hall.served == ["a", "b", "c"]
        assert hall.slots.waiting == 0
        hall.held["c"].finish()
        yield from hall.come("d")
        assert hall.served == ["a", "b", "c", "d"]

    hall.reactor.run(play())


@pytest.mark.parametrize("silent_s", [0, -1, float("nan"), float("inf"), 1e9])
def test_idle_limits_out_of_range(silent_s: float) -> None:
    with pytest.raises(LocalTunnelError, match="silent_s"):
        WorkerSlots(1, silent_s)


NAMES = st.integers(0, 5)
STEPS = st.one_of(
    st.just(("come", 0)),
    st.tuples(st.sampled_from(["cancel", "move", "block", "wait", "finish"]), NAMES),
    st.tuples(st.just("sleep"), st.integers(1, 40)),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, max_size=40), st.integers(1, 3))
def test_order_and_reasons_in_random_sequences(steps: list[tuple[str, int]], count: int) -> None:
    clock = FakeClock()
    with Reactor(clock=clock) as reactor:
        reactor.run(Story(Hall(reactor, clock, count), count).play(steps))


class Story:
    """Random steps of many queries, with the invariants checked after each."""

    def __init__(self, hall: Hall, count: int) -> None:
        self.hall = hall
        self.count = count
        self.line: list[tuple[str, Handle[None]]] = []
        self.holding: list[Held] = []
        self.seen = 0
        self.comers = 0

    def play(self, steps: list[tuple[str, int]]) -> Service[None]:
        for verb, number in steps:
            yield from self.step(verb, number)
            yield from settle()
            self.check()
        # When all slots are returned, all waiting queries have been served, in order.
        while self.holding or self.line:
            self.holding.pop().finish()
            yield from settle()
            self.check()
        assert self.hall.slots.waiting == 0
        assert len(self.hall.slots.returned) == self.count

    def step(self, verb: str, number: int) -> Service[None]:
        if verb == "come":
            self.comers += 1
            name = str(self.comers)
            (handle,) = yield from self.hall.come(name)
            self.line.append((name, handle))
        elif verb == "sleep":
            yield Sleep(number)
        elif verb == "cancel":
            if number < len(self.line):
                self.line.pop(number)[1].cancel()
        elif number < len(self.holding):
            held = self.holding[number]
            if verb == "finish":
                self.holding.remove(held)
                held.finish()
            else:
                held.waits_for_peer = verb != "block"
                held.move()

    def check(self) -> None:
        hall, now_s = self.hall, self.hall.clock.now()
        for name in hall.served[self.seen :]:
            assert self.line.pop(0)[0] == name, "out of order"
            self.holding.append(hall.held[name])
        self.seen = len(hall.served)
        assert hall.slots.waiting == len(self.line)
        assert len(self.holding) <= self.count
        assert not self.line or len(self.holding) == self.count
        for held in self.holding:
            if held.error is not None:
                assert held.had_reason
                assert held.silence_s >= SILENT_S
        if self.line and not any(held.error for held in self.holding):
            # No holder is being ended, so none that waits for its peer was idle for twice the limit.
            assert all(now_s - held.moved_s < 2 * SILENT_S for held in self.holding if held.waits_for_peer)
