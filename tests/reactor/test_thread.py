"""Other threads and the loop: submitting, cancelling, waking a loop that sleeps, closing."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from typing import Any

import pytest

from reactor import (
    YIELD,
    BadRequest,
    Broken,
    Busy,
    Closed,
    Reactor,
    ReactorThread,
    Service,
    SharedChannel,
    Signal,
    ThreadPool,
    TimedOut,
)
from reactor.core.poller import Poller
from tests.reactor.helpers import fail_once, forever, give, passes

LIMIT_S = 60


def fail() -> Service[None]:
    yield from passes(1)
    raise Broken("on purpose")


def test_submit_gives_result_and_error(poller: Poller) -> None:
    with ReactorThread(Reactor(poller=poller)) as thread:
        assert thread.submit(give(5)).result(LIMIT_S) == 5
        with pytest.raises(Broken, match="on purpose"):
            thread.submit(fail()).result(LIMIT_S)


def test_many_threads_submit(poller: Poller) -> None:
    results: list[int] = []

    def use(thread: ReactorThread, start: int) -> None:
        futures = [thread.submit(give(number)) for number in range(start, start + 50)]
        results.extend(future.result(LIMIT_S) for future in futures)

    with ReactorThread(Reactor(poller=poller)) as thread:
        users = [threading.Thread(target=use, args=(thread, start)) for start in (0, 50, 100, 150)]
        for user in users:
            user.start()
        for user in users:
            user.join(LIMIT_S)
    assert sorted(results) == list(range(200))


def test_one_at_a_time_wakes_a_sleeping_loop(poller: Poller) -> None:
    """Each submit finds the loop asleep or about to sleep; a lost wake-up would hang the test."""
    with ReactorThread(Reactor(poller=poller)) as thread:
        for number in range(300):
            assert thread.submit(give(number)).result(LIMIT_S) == number


def test_cancelling_the_future_cancels_the_service(poller: Poller) -> None:
    started, cleaned = threading.Event(), threading.Event()

    def service() -> Service[None]:
        try:
            started.set()
            yield from forever()
        finally:
            cleaned.set()

    with ReactorThread(Reactor(poller=poller)) as thread:
        future = thread.submit(service())
        assert started.wait(LIMIT_S)
        assert future.cancel()
        assert cleaned.wait(LIMIT_S)
        with pytest.raises(CancelledError):
            future.result(LIMIT_S)
        assert wait([future], LIMIT_S).not_done == set()


def test_a_future_cancelled_before_its_start() -> None:
    ran: list[int] = []

    def service() -> Service[None]:
        ran.append(1)
        yield from passes(1)

    with Reactor() as reactor:
        future = reactor.submit(service())
        future.cancel()
        reactor.run(passes(3))
        assert ran == []
        assert wait([future], 0).done == {future}


def test_service_that_ends_cancelled_cancels_its_future() -> None:
    futures: list[Future[Any]] = []
    with Reactor() as reactor:
        futures.append(reactor.submit(forever()))
        reactor.run(passes(3))
    assert futures[0].cancelled()


def test_closing_answers_every_future(poller: Poller) -> None:
    thread = ReactorThread(Reactor(poller=poller)).start()
    futures: list[Future[None]] = [thread.submit(forever()) for _ in range(10)]
    thread.close()
    thread.close()
    assert wait(futures, LIMIT_S).not_done == set()
    with pytest.raises(Closed):
        thread.submit(forever())


def test_submitted_but_never_run() -> None:
    reactor = Reactor()
    future = reactor.submit(forever())
    reactor.close()
    assert future.done()


def test_spawn_is_for_the_loops_thread() -> None:
    with ReactorThread() as thread:
        thread.submit(give(1)).result(LIMIT_S)
        with pytest.raises(BadRequest, match="submit"):
            thread.reactor.spawn(forever())


def test_loop_kept_busy_times_out_on_close() -> None:
    inside, gate = threading.Event(), threading.Event()

    def blocking() -> Service[None]:
        inside.set()
        gate.wait(LIMIT_S)
        yield from passes(1)

    thread = ReactorThread(Reactor(slow_step_s=None)).start()
    thread.submit(blocking())
    assert inside.wait(LIMIT_S)
    with pytest.raises(TimedOut):
        thread.close(0.01)
    gate.set()
    thread.close(LIMIT_S)


def test_users_of_a_failed_thread_get_its_error() -> None:
    thread = ReactorThread().start()
    waiting = thread.submit(forever())
    fail_once(thread.reactor)
    with pytest.raises(CancelledError):
        waiting.result(LIMIT_S)
    with pytest.raises(Broken) as caught:
        thread.close()
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_service_that_leaves_ends_no_other(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def leave() -> Service[None]:
        yield from passes(1)
        raise error

    def leave_at_once(*args: object) -> None:
        raise error

    def bystander() -> Service[str]:
        yield gate
        return "done"

    gate = Signal()
    with ReactorThread() as thread:
        with pytest.raises(type(error)):
            thread.submit(leave()).result(LIMIT_S)
        called = thread.submit(bystander())
        called.add_done_callback(leave_at_once)
        thread.reactor.post(gate.set)
        assert called.result(LIMIT_S) == "done"
        thread.reactor.post(leave_at_once)
        assert thread.submit(give(1)).result(LIMIT_S) == 1
    assert "leave_at_once failed" in caplog.text


def test_never_started_can_be_closed() -> None:
    thread = ReactorThread()
    thread.close()
    with pytest.raises(Closed):
        thread.submit(forever())


def test_a_reactors_own_thread_does_not_wait_for_its_future() -> None:
    with ReactorThread() as thread:

        def wait_here() -> Service[str]:
            future = thread.submit(give(1))
            for wait in (future.result, future.exception, partial(future.result, 5)):
                with pytest.raises(Busy, match="own thread"):
                    wait()
            with pytest.raises(TimeoutError):
                future.result(0)  # without waiting
            with pytest.raises(Busy, match="own end"):
                thread.close()
            while not future.done():
                yield YIELD
            assert future.result() == 1
            return "done"

        assert thread.submit(wait_here()).result(5) == "done"


@pytest.mark.parametrize("timeout_s", [float("inf"), 10**400, threading.TIMEOUT_MAX * 2])
def test_a_thread_may_wait_for_any_time(timeout_s: float) -> None:
    channel: SharedChannel[int] = SharedChannel(1)
    with ThreadPool() as pool:
        assert pool.spawn(give(1)).wait(timeout_s) == 1
        receiving = pool.spawn(channel.send(7))
        assert channel.receive_blocking(timeout_s) == 7
        receiving.wait(timeout_s)
    ReactorThread().start().close(timeout_s)


@pytest.mark.parametrize("timeout_s", [float("nan"), "1", True, []])
def test_a_thread_cannot_wait_for_a_malformed_time(timeout_s: Any) -> None:
    channel: SharedChannel[int] = SharedChannel(1)
    with ThreadPool() as pool:
        handle = pool.spawn(forever())
        for wait in (handle.wait, channel.receive_blocking):
            with pytest.raises(BadRequest, match="number of seconds"):
                wait(timeout_s)
