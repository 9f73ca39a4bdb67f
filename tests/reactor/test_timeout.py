"""Sleeping, `timeout_after`, and simultaneous events."""

from __future__ import annotations

from typing import Any

import pytest

from reactor import (
    BadRequest,
    Broken,
    Cancelled,
    CurrentTime,
    Reactor,
    Service,
    ServiceCancelled,
    Signal,
    Sleep,
    TimedOut,
    move_on_after,
    timeout_after,
)
from reactor.core.poller import Poller
from reactor.core.timers import FakeClock
from tests.reactor.helpers import assert_clean, forever, give, run


def now() -> Service[float]:
    return (yield CurrentTime())  # type: ignore[no-any-return]


def test_fake_clock_jumps_over_hours_and_keeps_order(fake: Reactor) -> None:
    seen: list[tuple[str, float]] = []

    def sleeper(name: str, seconds: float) -> Service[None]:
        yield Sleep(seconds)
        seen.append((name, (yield CurrentTime())))

    handles = [fake.spawn(sleeper(name, s)) for name, s in [("b", 7200.0), ("a", 3600.0), ("c", 7200.0)]]
    for handle in handles:
        fake.run(handle.join())
    assert seen == [("a", 3600.0), ("b", 7200.0), ("c", 7200.0)]


def test_a_month_is_more_than_a_poller_can_wait(poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    poll = poller.poll

    with Reactor(poller=poller) as real:

        def month() -> Service[None]:
            yield Sleep(30 * 86_400.0)

        handle = real.spawn(month())

        def woken(wait_s: float | None, ready: Any) -> None:
            """Wake it as another thread would, just when it begins to wait."""
            waits.append(wait_s)
            if wait_s:
                real.post(handle.cancel)
            poll(wait_s, ready)

        monkeypatch.setattr(poller, "poll", woken)
        with pytest.raises(ServiceCancelled):
            real.run(handle.join())
    assert max(wait_s for wait_s in waits if wait_s is not None) == 86_400.0


def test_sleeping_no_time_still_lets_others_go(fake: Reactor) -> None:
    def service() -> Service[float]:
        yield Sleep(0)
        yield Sleep(-1)
        return (yield from now())

    assert run(fake, service()) == 0.0


def test_not_a_number_is_refused(fake: Reactor) -> None:
    def service() -> Service[None]:
        with pytest.raises(BadRequest):
            yield Sleep(float("nan"))
        with pytest.raises(BadRequest):
            yield from timeout_after(float("nan"), forever())

    run(fake, service())
    assert_clean(fake)


def test_times_out_and_leaves_nothing(fake: Reactor, clock: FakeClock) -> None:
    def service() -> Service[None]:
        with pytest.raises(TimedOut, match=r"2\.5 s"):
            yield from timeout_after(2.5, forever())

    run(fake, service())
    assert clock.now() == 2.5
    assert_clean(fake)


def test_gives_result_and_error_of_the_inner(fake: Reactor, clock: FakeClock) -> None:
    def failing() -> Service[None]:
        yield Sleep(1)
        raise Broken("inner")

    def service() -> Service[int]:
        with pytest.raises(Broken, match="inner"):
            yield from timeout_after(5, failing())
        assert (yield from timeout_after(None, give(3))) == 3
        return (yield from timeout_after(5, give(4)))

    assert run(fake, service()) == 4
    assert clock.now() == 1
    assert_clean(fake)


@pytest.mark.parametrize("fails", [False, True])
def test_inner_ends_at_the_very_moment(fake: Reactor, fails: bool) -> None:
    """The inner service has been woken when the timer fires.

    The wake wins and the timeout has no effect.
    """
    signal = Signal()

    def inner() -> Service[str]:
        yield signal
        if fails:
            raise Broken("inner")
        return "done"

    def service() -> Service[str]:
        try:
            result = yield from timeout_after(5, inner())
        except Broken:
            result = "failed"
        # A late timeout would interrupt here.
        yield Sleep(1)
        return result

    # Made first, so it fires first; the timeout follows before the woken service has run.
    fake.timers.add(5.0, lambda _: signal.set())
    assert run(fake, service()) == ("failed" if fails else "done")
    assert_clean(fake)


@pytest.mark.parametrize(("outer_s", "inner_s", "who"), [(1, 2, "outer"), (2, 1, "inner"), (1, 1, "outer")])
def test_nested_timeouts(fake: Reactor, outer_s: int, inner_s: int, who: str) -> None:
    def inner() -> Service[str]:
        try:
            yield from timeout_after(inner_s, forever())
        except TimedOut:
            return "inner"
        raise AssertionError("unreachable")

    def service() -> Service[str]:
        try:
            result = yield from timeout_after(outer_s, inner())
        except TimedOut:
            result = "outer"
        yield Sleep(10)
        return result

    assert run(fake, service()) == who
    assert_clean(fake)


def test_cleanup_may_wait_and_outer_timeout_still_counts(fake: Reactor, clock: FakeClock) -> None:
    cleaned: list[float] = []

    def slow_to_clean() -> Service[None]:
        try:
            yield from forever()
        finally:
            yield Sleep(10)
            cleaned.append(clock.now())

    def service() -> Service[None]:
        with pytest.raises(TimedOut):
            yield from timeout_after(1, slow_to_clean())

    run(fake, service())
    assert cleaned == [11.0]
    assert_clean(fake)


def test_cancellation_passes_through_a_timeout(fake: Reactor) -> None:
    seen: list[type[BaseException]] = []

    def service() -> Service[None]:
        try:
            yield from timeout_after(5, forever())
        except BaseException as error:
            seen.append(type(error))
            raise

    handle = fake.spawn(service())
    fake.run(give(None))
    handle.cancel()
    fake.run(give(None))
    assert seen == [Cancelled]
    assert isinstance(handle.error, Cancelled)
    assert_clean(fake)


def test_swallowed_timeout_counts_once(fake: Reactor) -> None:
    """An inner service that swallows its interruption continues, and its result is the result."""

    def stubborn() -> Service[str]:
        try:
            yield from forever()
        except BaseException:  # noqa: BLE001 - what the test is about
            yield Sleep(1)
        return "went on"

    assert run(fake, timeout_after(1, stubborn())) == "went on"
    assert_clean(fake)


def test_a_fake_clock_only_moves_forward() -> None:
    clock = FakeClock(5)
    clock.advance(1)
    clock.jump_to(3)
    assert clock.now() == 6
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)


def test_move_on_after_gives_up_without_an_error(fake: Reactor) -> None:
    cleaned: list[float] = []

    def slow() -> Service[int]:
        try:
            yield from forever()
        finally:
            yield Sleep(1)
            cleaned.append((yield CurrentTime()))
        return 1

    def service() -> Service[list[int | None]]:
        return [
            (yield from move_on_after(5, slow())),
            (yield from move_on_after(5, give(2))),
        ]

    assert run(fake, service()) == [None, 2]
    assert cleaned == [6.0]
    assert_clean(fake)


def test_move_on_after_lets_the_errors_of_others_pass(fake: Reactor) -> None:
    def late() -> Service[None]:
        yield Sleep(1)
        raise TimedOut("its own")

    def service() -> Service[None]:
        with pytest.raises(TimedOut, match="its own"):
            yield from move_on_after(5, late())
        with pytest.raises(TimedOut, match="2 s"):
            yield from timeout_after(2, move_on_after(5, forever()))
        # The inner limit is reached first; the outer one is not affected.
        assert (yield from timeout_after(5, move_on_after(2, forever()))) is None  # type: ignore[func-returns-value]

    run(fake, service())
    assert_clean(fake)
