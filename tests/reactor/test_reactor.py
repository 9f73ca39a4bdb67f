"""The loop: running, stopping, closing, fairness, order, handles, and the fate of errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from reactor import (
    YIELD,
    BadRequest,
    Broken,
    Busy,
    Cancelled,
    Closed,
    Coroutine,
    Handle,
    Reactor,
    RunInThread,
    Service,
    ServiceCancelled,
    Signal,
    Sleep,
    Spawn,
)
from reactor.core.poller import Poller
from reactor.core.task import Join
from reactor.core.timers import FakeClock
from tests.reactor.helpers import assert_clean, errors_logged, forever, give, passes, run


def fail(text: str) -> Service[None]:
    yield YIELD
    raise Broken(text)


def test_run_gives_result_or_error(reactor: Reactor) -> None:
    assert reactor.run(give(5)) == 5
    with pytest.raises(Broken, match="oh"):
        reactor.run(fail("oh"))
    assert_clean(reactor)


@pytest.mark.parametrize("nonsense", [None, 5, "text", Sleep, object()])
def test_nonsense_is_refused_in_the_service(fake: Reactor, nonsense: Any) -> None:
    def service() -> Service[str]:
        with pytest.raises(BadRequest, match="takes a request"):
            yield nonsense
        yield YIELD
        return "goes on"

    assert run(fake, service()) == "goes on"


def test_a_subclass_of_a_request_is_accepted(fake: Reactor) -> None:
    class Doorbell(Signal):
        pass

    def service() -> Service[None]:
        bell = Doorbell()
        bell.set()
        yield bell
        bell.set()
        yield bell

    run(fake, service())


def test_only_generators_are_services(fake: Reactor) -> None:
    with pytest.raises(BadRequest, match="call it first"):
        fake.spawn(forever)  # type: ignore[arg-type]

    def service() -> Service[None]:
        with pytest.raises(BadRequest):
            yield Spawn(5)  # type: ignore[arg-type]

    run(fake, service())


class HandMade(Generator[Any, Any, str]):
    """A service that was not made by a generator function."""

    def __init__(self) -> None:
        self.turn = 0

    def send(self, value: Any) -> Any:
        self.turn += 1
        if self.turn == 3:
            raise StopIteration("made by hand")
        return YIELD

    def throw(self, *error: Any) -> Any:
        raise error[0]


def test_an_object_with_send_and_throw_is_a_service(fake: Reactor) -> None:
    assert run(fake, HandMade()) == "made by hand"


def test_join_before_and_after_the_end(fake: Reactor) -> None:
    def service() -> Service[None]:
        good, bad = (yield Spawn(give(1))), (yield Spawn(fail("x"), name="bad"))
        gone = yield Spawn(forever())
        for _ in range(2):
            assert (yield Join(good)) == 1
            with pytest.raises(Broken, match="x"):
                yield from bad.join()
            gone.cancel()
            with pytest.raises(ServiceCancelled):
                yield from gone.join()

    run(fake, service())
    assert_clean(fake)


def test_several_join_one(fake: Reactor) -> None:
    target = fake.spawn(passes(3))
    joiners = [fake.spawn(target.join()) for _ in range(3)]
    joiners[1].cancel()
    fake.run(passes(6))
    assert [joiner.is_finished for joiner in joiners] == [True] * 3
    assert isinstance(joiners[1].error, Cancelled)
    assert joiners[2].error is None


def test_handle_of_another_reactor(fake: Reactor) -> None:
    with Reactor(clock=FakeClock()) as other:
        handle = other.spawn(forever())

        def service() -> Service[None]:
            with pytest.raises(BadRequest):
                yield from handle.join()

        run(fake, service())


def test_handle_before_and_after(fake: Reactor) -> None:
    handle = fake.spawn(give(1), name="worker")
    assert handle.name == "worker"
    assert "alive" in repr(handle)
    assert handle.error is None
    with pytest.raises(Busy, match="worker"):
        handle.result()
    called: list[Handle[int]] = []
    handle.add_done_callback(called.append)
    fake.run(passes(3))
    handle.add_done_callback(called.append)
    assert called == [handle, handle]
    assert "returned" in repr(handle)


def test_failing_callback_is_logged_and_others_are_called(
    fake: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    handle = fake.spawn(give(1))
    called: list[object] = []
    handle.add_done_callback(lambda _: 1 / 0)
    handle.add_done_callback(called.append)
    fake.run(passes(3))
    assert called == [handle]
    assert len(errors_logged(caplog)) == 1


def test_a_failure_without_a_waiter_is_logged_once(fake: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    handle = fake.spawn(fail("alone"), name="lonely")
    fake.run(passes(5))
    assert [text for text in errors_logged(caplog) if "lonely" in text] != []
    with pytest.raises(Broken):
        handle.result()
    fake.run(passes(2))
    assert errors_logged(caplog) == []


def test_failure_asked_for_is_not_logged(fake: Reactor) -> None:
    """The fixture fails this test if anything is logged."""

    def service() -> Service[None]:
        handle = yield Spawn(fail("x"))
        yield from passes(1)
        assert isinstance(handle.error, Broken | None)
        with pytest.raises(Broken):
            yield from handle.join()

    run(fake, service())


def test_cancelled_services_are_not_logged(fake: Reactor) -> None:
    fake.spawn(forever()).cancel()
    fake.run(passes(3))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_wish_to_exit_leaves_the_loop(fake: Reactor, kind: type[BaseException]) -> None:
    def service() -> Service[None]:
        yield YIELD
        raise kind

    with pytest.raises(kind):
        fake.run(service())
    assert fake.run(give(2)) == 2


def test_stop_leaves_services_as_they_are(reactor: Reactor) -> None:
    def stopper() -> Service[None]:
        yield Sleep(1)
        reactor.stop()

    def long() -> Service[str]:
        yield Sleep(10)
        return "done"

    reactor.spawn(stopper())
    handle = reactor.spawn(long())
    assert reactor.run() is None
    assert not handle.is_finished
    assert reactor.run(handle.join()) == "done"


def test_running_twice_and_closing_while_running(fake: Reactor) -> None:
    def service() -> Service[None]:
        yield YIELD
        with pytest.raises(Busy):
            fake.run()
        with pytest.raises(Busy):
            fake.close()

    fake.run(service())


def test_closed_reactor_refuses(poller: Poller) -> None:
    reactor = Reactor(poller=poller)
    reactor.close()
    reactor.close()
    for use in (
        lambda: reactor.spawn(forever()),
        lambda: reactor.submit(forever()),
        lambda: reactor.run(forever()),
        reactor.stop,
    ):
        with pytest.raises(Closed):
            use()


def test_close_runs_finally_blocks_and_children_they_start(fake: Reactor) -> None:
    seen: list[str] = []

    def child() -> Service[None]:
        try:
            yield Sleep(5)
        finally:
            seen.append("child")

    def service() -> Service[None]:
        try:
            yield from forever()
        finally:
            yield Spawn(child())
            yield YIELD
            seen.append("parent")

    fake.spawn(service())
    fake.run(passes(2))
    fake.close()
    assert sorted(seen) == ["child", "parent"]
    assert_clean_closed(fake)


def assert_clean_closed(reactor: Reactor) -> None:
    assert not reactor.tasks
    assert not reactor.ready


def test_answers_starve_no_service(fake: Reactor) -> None:
    """A service whose requests are all answered immediately still lets others run."""
    signal = Signal()
    turns = [0]

    def greedy() -> Service[None]:
        while True:
            turns[0] += 1
            signal.set()
            yield signal

    fake.spawn(greedy())
    fake.run(passes(3))
    assert turns[0] <= 1_000


def test_busy_services_starve_neither_timers_nor_posts(reactor: Reactor) -> None:
    done = [False]

    def busy() -> Service[None]:
        while not done[0]:
            yield YIELD

    def finish() -> None:
        done[0] = True

    reactor.post(finish)
    run(reactor, busy())


def order_of(seed: int | None) -> list[int]:
    order: list[int] = []

    def worker(number: int) -> Service[None]:
        for _ in range(3):
            order.append(number)
            yield YIELD

    with Reactor(clock=FakeClock(), seed=seed) as reactor:
        for number in range(6):
            reactor.spawn(worker(number))
        reactor.run(passes(6))
    return order


def test_the_order_is_first_come_or_given_by_the_seed() -> None:
    assert order_of(None) == [*range(6)] * 3
    assert order_of(1) == order_of(1)
    assert len({tuple(order_of(seed)) for seed in range(5)}) > 1
    assert sorted(order_of(3)) == sorted(order_of(None))


def test_slow_step_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    with Reactor(clock=FakeClock(), slow_step_s=0.5) as reactor:
        reactor.run(give(1), name="slow one")
    assert any("'slow one' kept the loop for" in record.getMessage() for record in caplog.records)


def test_thread_call_result_error_and_thread(fake: Reactor) -> None:
    def service() -> Service[None]:
        assert (yield RunInThread(divmod, 7, 2)) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            yield RunInThread(divmod, 7, 0)
        assert (yield RunInThread(threading.get_ident)) != threading.get_ident()

    run(fake, service())
    assert fake.threads.running == 0


def test_fake_clock_does_not_jump_while_a_thread_works(fake: Reactor, clock: FakeClock) -> None:
    gate = threading.Event()

    def service() -> Service[float]:
        alarm = yield Spawn(sleeper())
        yield RunInThread(gate.wait, 0.05)
        at = clock.now()
        alarm.cancel()
        return at

    def sleeper() -> Service[None]:
        yield Sleep(100)

    assert run(fake, service()) == 0.0


def test_one_signal_one_waiter(fake: Reactor) -> None:
    signal = Signal()
    first = fake.spawn(wait_for(signal), name="first")
    fake.run(passes(2))

    def second() -> Service[None]:
        with pytest.raises(Busy, match="'first'"):
            yield signal

    run(fake, second())
    signal.set()
    assert not signal.is_set
    fake.run(first.join())
    signal.set()
    signal.set()
    run(fake, wait_for(signal))
    assert not signal.is_set
    signal.set()
    signal.clear()
    late = fake.spawn(wait_for(signal))
    fake.run(passes(3))
    assert not late.is_finished


def wait_for(signal: Signal) -> Service[None]:
    yield signal


def test_coroutine_spawner(fake: Reactor) -> None:
    handle = Coroutine(fake).spawn(give("x"), name="it")
    fake.run(handle.join())
    assert (handle.name, handle.result()) == ("it", "x")


def test_a_turn_returns_the_time_of_the_next(poller: Poller) -> None:
    """For an outer loop that contains this one."""
    seen: list[str] = []

    def service() -> Service[None]:
        seen.append("started")
        with pytest.raises(Busy):
            reactor.turn()
        yield YIELD
        seen.append("passed")
        yield Sleep(1_000)
        seen.append("slept")

    def busy() -> Service[None]:
        while True:
            yield YIELD

    with Reactor(poller=poller) as reactor:
        assert reactor.turn() is None
        handle = reactor.spawn(service())
        wait_s = reactor.turn()
        assert wait_s is not None
        assert 990 < wait_s <= 1_000
        assert seen == ["started", "passed"]
        reactor.post(handle.cancel)
        # The post woke the poller, which is readable before the next turn.
        assert reactor.turn() is None
        assert handle.is_finished
        reactor.spawn(busy())
        assert reactor.turn() == 0
        # `stop` is for `run`; here it ends only the turn.
        reactor.stop()
        assert reactor.turn() == 0
    with pytest.raises(Closed):
        reactor.turn()
