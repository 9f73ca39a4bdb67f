"""The timer heap against a model, and its bound on memory."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reactor.core.timers import Timer, Timers


class TimersAgainstModel(RuleBasedStateMachine):
    """The model is a list of (deadline, order); the same timers must fire in the same order."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.now = 0
        self.next_label = 0
        self.alive: dict[int, int] = {}
        self.tokens: dict[int, Timer] = {}
        self.fired: list[int] = []

    @rule(delay=st.integers(0, 20))
    def add(self, delay: int) -> None:
        label = self.next_label
        self.next_label += 1
        self.tokens[label] = self.timers.add(self.now + delay, self.fired.append, label)
        self.alive[label] = self.now + delay

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def cancel_any(self, data: st.DataObject) -> None:
        """Cancel any timer, also one that has fired or was cancelled."""
        label = data.draw(st.sampled_from(sorted(self.tokens)))
        self.timers.cancel(self.tokens[label])
        self.alive.pop(label, None)

    @rule(seconds=st.integers(0, 15))
    def go_on(self, seconds: int) -> None:
        self.now += seconds
        due = sorted((deadline, label) for label, deadline in self.alive.items() if deadline <= self.now)
        assert self.timers.fire(self.now) == len(due)
        assert self.fired == [label for _, label in due]
        self.fired.clear()
        for _, label in due:
            del self.alive[label]

    @invariant()
    def same_count(self) -> None:
        assert len(self.timers) == len(self.alive)

    @invariant()
    def same_next(self) -> None:
        assert self.timers.next_deadline() == (min(self.alive.values()) if self.alive else None)


TestTimersAgainstModel = TimersAgainstModel.TestCase


@pytest.mark.parametrize("newest_first", [True, False])
def test_cancelled_timers_do_not_fill_memory(newest_first: bool) -> None:
    timers = Timers()
    kept = timers.add(1.0, lambda _: None)
    for _ in range(50):
        batch = [timers.add(1_000.0 + i, lambda _: None) for i in range(100)]
        for timer in reversed(batch) if newest_first else batch:
            timers.cancel(timer)
    assert len(timers) == 1
    assert len(timers.held) <= 200
    timers.cancel(kept)
    assert timers.next_deadline() is None


def test_set_and_cancelled_at_once_holds_nothing() -> None:
    timers = Timers()
    for i in range(1_000):
        timers.cancel(timers.add(float(i), lambda _: None))
    assert timers.held == []


def test_an_action_may_cancel_another_timer_that_is_due() -> None:
    timers = Timers()
    fired: list[str] = []
    second: list[Timer] = []
    timers.add(1.0, lambda _: timers.cancel(second[0]))
    second.append(timers.add(1.0, fired.append, "second"))
    timers.add(1.0, fired.append, "third")
    assert timers.fire(1.0) == 2
    assert fired == ["third"]
    assert len(timers) == 0
