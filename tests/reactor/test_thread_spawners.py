"""Spawners that run services in threads: `ThreadPark` and `ThreadPool`."""

from __future__ import annotations

import threading

import pytest

from reactor import (
    YIELD,
    Broken,
    Busy,
    Cancelled,
    Closed,
    Service,
    ServiceCancelled,
    SharedChannel,
    ThreadPark,
    ThreadPool,
    TimedOut,
)
from reactor.run.spawners import ProxyHandle
from tests.reactor.helpers import fail_once, forever, give

PATIENCE_S = 60.0


def test_thread_park_is_bounded() -> None:
    park = ThreadPark(max_threads=2)
    handles = [park.spawn(forever()) for _ in range(2)]
    with pytest.raises(Busy, match="2 services"):
        park.spawn(forever())
    for handle in handles:
        handle.cancel()
        with pytest.raises(ServiceCancelled):
            handle.wait(PATIENCE_S)
    assert park.spawn(give(1)).wait(PATIENCE_S) == 1


def test_thread_park_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    park = ThreadPark(max_threads=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Broken, match="can't start"):
            park.spawn(give(1))
    assert park.spawn(give(1)).wait(PATIENCE_S) == 1


def test_each_in_its_thread() -> None:
    def thread_id() -> Service[int]:
        yield YIELD
        return threading.get_ident()

    park = ThreadPark()
    ids = {park.spawn(thread_id()).wait(PATIENCE_S), threading.get_ident()}
    assert len(ids) == 2
    with ThreadPool(2) as pool:
        handles = [pool.spawn(thread_id()) for _ in range(10)]
        ids = {handle.wait(PATIENCE_S) for handle in handles}
        assert 1 <= len(ids) <= 2
        assert threading.get_ident() not in ids


def test_a_pool_may_hold_more_services_than_threads() -> None:
    """They wait for each other in a ring. It would deadlock if a waiting service kept its thread."""
    count = 20
    ring = [SharedChannel[int](1) for _ in range(count)]

    def link(number: int) -> Service[int]:
        got = yield from ring[number].receive()
        yield from ring[(number + 1) % count].send(got + 1)
        return got

    with ThreadPool(2) as pool:
        handles = [pool.spawn(link(number)) for number in range(count)]
        ring[0].send_nowait(0)
        assert [handle.wait(PATIENCE_S) for handle in handles] == list(range(count))
        assert len(pool.members) == 2


def test_a_closed_pool() -> None:
    with ThreadPool(1) as pool:
        handle = pool.spawn(forever())
    assert isinstance(handle.error, Cancelled)
    with pytest.raises(Closed):
        pool.spawn(forever())
    pool.close()
    with pytest.raises(ValueError, match="threads: expected 1 or more"):
        ThreadPool(0)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_service_that_leaves_ends_no_thread_of_a_pool(error: BaseException) -> None:
    def leave() -> Service[None]:
        yield YIELD
        raise error

    with ThreadPool(1) as pool:
        bystander = pool.spawn(forever())
        with pytest.raises(type(error)):
            pool.spawn(leave()).wait(PATIENCE_S)
        assert pool.spawn(give(1)).wait(PATIENCE_S) == 1
        assert not bystander.is_finished


def test_a_pool_continues_without_a_thread_that_has_failed() -> None:
    with ThreadPool(1) as pool:
        bystander = pool.spawn(forever())
        reactor = pool.members[0].thread.reactor
        fail_once(reactor)
        with pytest.raises(ServiceCancelled):
            bystander.wait(PATIENCE_S)
        with pytest.raises(Broken, match="thread failed"):
            pool.members[0].thread.close(PATIENCE_S)
        assert pool.spawn(give(1)).wait(PATIENCE_S) == 1


def test_a_thread_does_not_wait_for_itself() -> None:
    handles: SharedChannel[ProxyHandle[None]] = SharedChannel(1)

    def service() -> Service[None]:
        own = yield from handles.receive()
        own.wait()

    handle = ThreadPark().spawn(service())
    handles.send_nowait(handle)
    with pytest.raises(Busy, match="this thread"):
        handle.wait(PATIENCE_S)
    with pytest.raises(TimedOut):
        ThreadPark().spawn(forever()).wait(0)


def test_a_pool_spreads_its_services() -> None:
    """A new service goes to the thread with the fewest living services; ended ones do not count."""
    with ThreadPool(2) as pool:
        for _ in range(3):
            pool.spawn(give(1)).wait(PATIENCE_S)
        # An idle thread is as good as a new one.
        assert len(pool.members) == 1
        handles = [pool.spawn(forever()) for _ in range(4)]
        assert [member.living for member in pool.members] == [2, 2]
        gone = threading.Event()
        handles[1].add_done_callback(lambda _: gone.set())
        handles[1].cancel()
        assert gone.wait(PATIENCE_S)
        assert [member.living for member in pool.members] == [2, 1]
        pool.spawn(forever())
        assert [member.living for member in pool.members] == [2, 2]


def test_a_service_cancelled_before_its_thread_starts_it() -> None:
    """It runs to its first yield, like any service that is cancelled early."""
    hold, held = threading.Event(), threading.Event()
    seen: list[str] = []

    def holding() -> Service[None]:
        held.set()
        hold.wait(PATIENCE_S)
        yield YIELD

    def early() -> Service[None]:
        seen.append("started")
        try:
            yield from forever()
        finally:
            seen.append("cleaned")

    with ThreadPool(1) as pool:
        pool.spawn(holding())
        assert held.wait(PATIENCE_S)
        handle = pool.spawn(early())
        assert not handle.unyield()
        assert handle.cancel("early")
        hold.set()
        with pytest.raises(ServiceCancelled):
            handle.wait(PATIENCE_S)
    assert isinstance(handle.error, Cancelled)
    assert handle.error.args == ("early",)
    assert seen == ["started", "cleaned"]
