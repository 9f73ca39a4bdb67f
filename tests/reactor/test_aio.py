"""Use with asyncio: the same tests with the reactor inside the asyncio loop, and in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from reactor import (
    YIELD,
    BadRequest,
    Broken,
    Busy,
    Channel,
    Closed,
    Reactor,
    ReactorThread,
    ReadYield,
    Service,
    ServiceCancelled,
    SharedChannel,
    Signal,
    Sleep,
    SocketStream,
    Spawn,
    TcpListener,
    TimedOut,
    WriteYield,
    timeout_after,
)
from reactor.core.poller import (
    HAS_EPOLL,
    EpollPoller,
    SelectorPoller,
)
from reactor.core.timers import FakeClock
from reactor.run.aio import AsyncioBridge, EmbeddedReactor
from tests.reactor.conftest import POLLERS
from tests.reactor.helpers import forever, give, passes
from tests.support.cancelling import cancelled_with_result
from tests.support.leaks import no_leaks

LIMIT_S = 60
Open = Callable[[], AbstractAsyncContextManager[AsyncioBridge]]


@asynccontextmanager
async def embedded(poller: Any = SelectorPoller) -> AsyncIterator[AsyncioBridge]:
    with Reactor(poller=poller()) as reactor:
        async with EmbeddedReactor(reactor) as bridge:
            yield bridge


@asynccontextmanager
async def in_thread() -> AsyncIterator[AsyncioBridge]:
    with ReactorThread() as thread:
        async with AsyncioBridge(thread.reactor) as bridge:
            yield bridge


KINDS: dict[str, Open] = {"embedded": embedded, "thread": in_thread}
if HAS_EPOLL:
    KINDS["embedded-epoll"] = lambda: embedded(EpollPoller)


@pytest.fixture(params=list(KINDS))
def open_bridge(request: pytest.FixtureRequest) -> Open:
    return KINDS[request.param]


def play(open_bridge: Open, scene: Callable[[AsyncioBridge], Awaitable[None]]) -> None:
    """Run a scene with a bridge. Fails if it hangs or leaves resources behind."""

    async def main() -> None:
        async with asyncio.timeout(LIMIT_S), open_bridge() as bridge:
            await scene(bridge)

    with no_leaks():
        asyncio.run(main())


def fail() -> Service[None]:
    yield YIELD
    raise Broken("on purpose")


def test_awaiting_a_service(open_bridge: Open) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        assert await bridge.run(give(5)) == 5
        with pytest.raises(Broken, match="on purpose"):
            await bridge.run(fail())
        assert await asyncio.gather(*(bridge.run(give(n)) for n in range(50))) == list(range(50))

    play(open_bridge, scene)


async def coroutine(value: int) -> int:
    await asyncio.sleep(0)
    if value < 0:
        raise ValueError("negative")
    return value


def test_waiting_for_an_awaitable(open_bridge: Open) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def service() -> Service[int]:
            assert (yield from bridge.wait(coroutine(3))) == 3
            with pytest.raises(ValueError, match="negative"):
                yield from bridge.wait(coroutine(-1))
            with pytest.raises(BadRequest, match="int"):
                yield from bridge.wait(5)  # type: ignore[arg-type]
            return (yield from bridge.wait(future))

        running = asyncio.ensure_future(bridge.run(service()))
        await asyncio.sleep(0)
        future.set_result(7)
        assert await running == 7

    play(open_bridge, scene)


def test_services_and_coroutines_nest(open_bridge: Open) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        async def down(depth: int) -> int:
            return await bridge.run(up(depth)) if depth else 0

        def up(depth: int) -> Service[int]:
            return 1 + (yield from bridge.wait(down(depth - 1)))

        assert await down(20) == 20

    play(open_bridge, scene)


def test_cancelling_the_coroutine_cancels_the_service_and_waits_for_its_cleanup(open_bridge: Open) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        seen: list[str] = []
        loop, started = asyncio.get_running_loop(), asyncio.Event()

        def service() -> Service[None]:
            try:
                loop.call_soon_threadsafe(started.set)
                yield from forever()
            finally:
                yield Sleep(0.01)
                yield from bridge.wait(coroutine(1))
                seen.append("cleaned up")

        task = asyncio.ensure_future(bridge.run(service()))
        await started.wait()
        task.cancel("no longer wanted")
        with pytest.raises(asyncio.CancelledError, match="no longer wanted"):
            await task
        assert seen == ["cleaned up"]
        assert task.cancelled()

    play(open_bridge, scene)


def test_a_service_that_fails_in_its_cleanup_or_returns_after_all(open_bridge: Open) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        def failing() -> Service[None]:
            try:
                yield from forever()
            finally:
                raise Broken("in the cleanup")

        def stubborn() -> Service[str]:
            with contextlib.suppress(BaseException):
                yield from forever()
            return "after all"

        with pytest.raises(Broken, match="in the cleanup"):
            async with asyncio.timeout(0.01):
                await bridge.run(failing())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bridge.run(stubborn())

    play(open_bridge, scene)


def test_cancelling_before_the_start(open_bridge: Open) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        task = asyncio.ensure_future(bridge.run(forever()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        never = asyncio.ensure_future(bridge.run(service := forever()))
        never.cancel()
        with pytest.raises(asyncio.CancelledError):
            await never
        service.close()

    play(open_bridge, scene)


def test_cancelling_the_service_cancels_the_awaitable_and_waits_for_its_cleanup(open_bridge: Open) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        seen: list[str] = []

        async def slow() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                seen.append("cleaned up")

        def service() -> Service[str]:
            try:
                yield from timeout_after(0.01, bridge.wait(slow()))
            except TimedOut:
                assert seen == ["cleaned up"]
                return "timed out"
            return "ended"

        assert await bridge.run(service()) == "timed out"

    play(open_bridge, scene)


def test_each_side_keeps_its_own_cancellation(open_bridge: Open) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        async def cancels_itself() -> None:
            raise asyncio.CancelledError

        def waits() -> Service[str]:
            with pytest.raises(ServiceCancelled):
                yield from bridge.wait(cancels_itself())
            return "goes on"

        def cancelled_within() -> Service[None]:
            child = yield Spawn(forever())
            child.cancel()
            yield from child.join()

        assert await bridge.run(waits()) == "goes on"
        with pytest.raises(ServiceCancelled):
            await bridge.run(cancelled_within())

    play(open_bridge, scene)


def test_leaving_cancels_the_started_services(open_bridge: Open) -> None:
    async def main() -> None:
        seen: list[str] = []
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def service() -> Service[None]:
            try:
                loop.call_soon_threadsafe(started.set)
                yield from forever()
            finally:
                yield YIELD
                seen.append("cleaned up")

        async with open_bridge() as bridge:
            task = asyncio.ensure_future(bridge.run(service()))
            await started.wait()
        assert seen == ["cleaned up"]
        with pytest.raises(ServiceCancelled):
            await task

    with no_leaks():
        asyncio.run(main())


def echo(listener: TcpListener) -> Service[None]:
    stream = yield from listener.accept()
    reader, writer = ReadYield(stream), WriteYield(stream)
    with stream:
        while data := (yield from reader.read()):
            yield from writer.write_all(data)


def test_sockets_of_both(open_bridge: Open) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        data = bytes(range(256)) * 2_000
        with TcpListener("127.0.0.1", 0) as listener:
            server = asyncio.ensure_future(bridge.run(echo(listener)))
            reader, writer = await asyncio.open_connection(*listener.address)
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.close()
            await writer.wait_closed()
            await server

    play(open_bridge, scene)


def test_a_wake_from_a_coroutine_uses_post(open_bridge: Open) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        signal = Signal()

        def service() -> Service[str]:
            yield signal
            return "woken"

        task = asyncio.ensure_future(bridge.run(service()))
        while signal.waiter is None:
            await asyncio.sleep(0)
        bridge.reactor.post(signal.set)
        assert await task == "woken"

    play(open_bridge, scene)


def test_a_closed_bridge_and_a_closed_reactor_refuse(open_bridge: Open) -> None:
    async def main() -> None:
        async with open_bridge() as bridge:
            pass
        with pytest.raises(Closed, match="bridge"):
            await bridge.run(forever())
        async with AsyncioBridge(bridge.reactor) as again:
            with pytest.raises(Closed, match="reactor"):
                await again.run(forever())

    asyncio.run(main())


def test_a_bridge_that_is_not_open_refuses() -> None:
    async def main() -> None:
        with Reactor() as reactor, pytest.raises(BadRequest, match="async with"):
            await AsyncioBridge(reactor).run(forever())

    asyncio.run(main())
    with Reactor() as reactor, pytest.raises(BadRequest, match="async with"):
        reactor.run(AsyncioBridge(reactor).wait(coroutine(1)))


def test_waiting_when_asyncio_is_over() -> None:
    async def main() -> AsyncioBridge:
        async with AsyncioBridge(reactor) as bridge:
            return bridge

    with Reactor() as reactor:
        bridge = asyncio.run(main())
        with pytest.raises(Closed, match="asyncio"):
            reactor.run(bridge.wait(coroutine(1)))


# Inside the asyncio loop only.


def test_embedded_timers_of_both_and_a_busy_service_let_each_other_run() -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        done = [False]

        def busy() -> Service[int]:
            turns = 0
            while not done[0]:
                turns += 1
                yield YIELD
            return turns

        task = asyncio.ensure_future(bridge.run(busy()))
        for _ in range(50):
            await asyncio.sleep(0)
        await asyncio.sleep(0.005)
        await bridge.run(timeout_after(20, sleep(0.005)))
        done[0] = True
        assert await task > 50

    play(embedded, scene)


def sleep(seconds: float) -> Service[None]:
    yield Sleep(seconds)


def test_embedded_an_idle_reactor_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [0]
    plain = Reactor.turn

    def counted(reactor: Reactor) -> float | None:
        turns[0] += 1
        return plain(reactor)

    monkeypatch.setattr(Reactor, "turn", counted)

    async def scene(bridge: AsyncioBridge) -> None:
        await bridge.run(give(1))
        task = asyncio.ensure_future(bridge.run(forever()))
        for _ in range(20):
            await asyncio.sleep(0)
        before = turns[0]
        for _ in range(100):
            await asyncio.sleep(0)
        assert turns[0] == before
        task.cancel()

    play(embedded, scene)


def test_embedded_spawn_starts_immediately_and_no_other_loop_may_run_it() -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        assert isinstance(bridge, EmbeddedReactor)
        done = asyncio.Event()

        def service() -> Service[None]:
            yield YIELD
            with pytest.raises(Exception, match="runs already"):
                bridge.reactor.turn()
            bridge.reactor.stop()
            yield YIELD
            done.set()

        handle = bridge.spawn(service())
        await done.wait()
        await bridge.run(passes(2))
        assert handle.is_finished

    play(embedded, scene)


def test_embedded_over_a_poller_without_descriptor() -> None:
    async def main() -> None:
        for name in ("PollSelector", "SelectSelector"):
            if name in POLLERS:
                with Reactor(poller=POLLERS[name]()) as reactor, pytest.raises(BadRequest, match=name):
                    await EmbeddedReactor(reactor).__aenter__()

    asyncio.run(main())


def test_a_failure_of_the_embedded_poller_reaches_the_awaiting_coroutines() -> None:
    class Failing(SelectorPoller):
        fails = False

        def poll(self, timeout_s: float | None, ready: Any) -> None:
            if self.fails:
                raise OSError(5, "as the test wants")
            super().poll(timeout_s, ready)

    async def main() -> None:
        poller = Failing()
        with Reactor(poller=poller) as reactor:
            async with EmbeddedReactor(reactor) as bridge:
                task = asyncio.ensure_future(bridge.run(forever()))
                await bridge.run(give(1))
                poller.fails = True
                reactor.post(lambda: None)
                with pytest.raises(Broken) as caught:
                    await task
                assert isinstance(caught.value.__cause__, OSError)
                poller.fails = False
                with pytest.raises(Closed) as refused:
                    await bridge.run(give(1))
                assert refused.value.__cause__ is caught.value.__cause__

    asyncio.run(main())


def test_embedded_wish_to_exit_leaves_asyncio() -> None:
    def service() -> Service[None]:
        yield YIELD
        raise SystemExit(3)

    async def main() -> None:
        with Reactor() as reactor:
            async with EmbeddedReactor(reactor) as bridge:
                bridge.spawn(service())
                await asyncio.Event().wait()

    with pytest.raises(SystemExit):
        asyncio.run(main())


def test_embedded_on_a_fake_clock() -> None:
    async def main() -> None:
        clock = FakeClock()
        with Reactor(clock=clock) as reactor:
            async with EmbeddedReactor(reactor) as bridge:
                await bridge.run(sleep(3_600))
        assert clock.now() == 3_600

    asyncio.run(main())


def test_embedded_stream_that_waits_is_woken_by_its_peer() -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        near, far = socket.socketpair()
        with SocketStream(near) as stream, far:
            task = asyncio.ensure_future(bridge.run(ReadYield(stream).read()))
            while stream.readable.descriptor.reader is None:
                await asyncio.sleep(0)
            far.send(b"news")
            assert await task == b"news"

    play(embedded, scene)


def test_embedded_in_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is no part of the test environment")

    async def main() -> None:
        data = bytes(range(256)) * 2_000
        with TcpListener("127.0.0.1", 0) as listener, Reactor() as reactor:
            async with asyncio.timeout(LIMIT_S), EmbeddedReactor(reactor) as bridge:
                server = asyncio.ensure_future(bridge.run(echo(listener)))
                reader, writer = await asyncio.open_connection(*listener.address)
                writer.write(data)
                assert await reader.readexactly(len(data)) == data
                writer.close()
                await writer.wait_closed()
                await server
                await bridge.run(sleep(0.001))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def _answer() -> Service[str]:
    yield Sleep(0)
    return "answer"


def test_a_bridge_serves_several_loops_at_once_and_one_after_the_other() -> None:
    with ReactorThread() as thread:
        bridge = AsyncioBridge(thread.reactor)

        async def enter() -> str:
            await bridge.__aenter__()
            return await bridge.run(_answer())

        async def use() -> str:
            return await asyncio.wait_for(bridge.run(_answer()), 10)

        async def inside() -> str:
            async with bridge:
                return await use()

        first = asyncio.new_event_loop()
        runner = threading.Thread(target=first.run_forever)
        runner.start()
        try:
            assert asyncio.run_coroutine_threadsafe(enter(), first).result(10) == "answer"
            assert asyncio.run(use()) == "answer"
            assert asyncio.run(inside()) == "answer"  # the first loop stays in the context
            assert asyncio.run(use()) == "answer"
            asyncio.run_coroutine_threadsafe(bridge.__aexit__(None, None, None), first).result(10)
            with pytest.raises(Closed):
                asyncio.run(use())
        finally:
            first.call_soon_threadsafe(first.stop)
            runner.join()
            first.close()
        assert asyncio.run(enter()) == "answer"  # and its loop is closed within the context
        assert asyncio.run(use()) == "answer"
        assert asyncio.run(inside()) == "answer"
        with pytest.raises(Closed):
            asyncio.run(use())


def test_a_service_waits_for_an_awaitable_of_the_loop_that_is_named() -> None:
    async def main(bridge: AsyncioBridge) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()

        async def which() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        def service() -> Service[asyncio.AbstractEventLoop]:
            return (yield from bridge.wait(which(), loop))

        found = await asyncio.wait_for(bridge.run(service()), 10)
        assert found is loop
        return loop

    with ReactorThread() as thread:
        bridge = AsyncioBridge(thread.reactor)
        asyncio.run(bridge.__aenter__())
        assert asyncio.run(main(bridge)) is not asyncio.run(main(bridge))


def test_a_reactor_embedded_in_a_closed_loop_raises() -> None:
    reactor = Reactor()
    bridge = EmbeddedReactor(reactor)

    async def use() -> str:
        return await asyncio.wait_for(bridge.run(_answer()), 10)

    asyncio.run(bridge.__aenter__())
    with pytest.raises(Closed, match="loop that ran the reactor is closed"):
        asyncio.run(use())

    async def again() -> str:
        async with bridge:
            with pytest.raises(Busy, match="runs this reactor already"):
                await bridge.__aenter__()
            return await use()

    assert asyncio.run(again()) == "answer"
    reactor.close()


@pytest.mark.parametrize("kind", [Channel, SharedChannel])
def test_an_item_that_arrives_with_the_cancellation_is_given_back(open_bridge: Open, kind: Any) -> None:
    async def scene(bridge: AsyncioBridge) -> None:
        channel = kind(3)
        for item in range(3):
            channel.send_nowait(item)
        receive = partial(bridge.run, release=channel.receiving.give_back)
        await cancelled_with_result(receive(channel.receive()))
        assert [await receive(channel.receive()) for _ in range(3)] == [0, 1, 2]

    play(open_bridge, scene)


def test_a_result_is_released_only_if_its_coroutine_does_not_get_it(open_bridge: Open) -> None:
    released: list[int] = []

    def fail() -> Service[int]:
        yield YIELD
        raise ZeroDivisionError

    async def scene(bridge: AsyncioBridge) -> None:
        assert await bridge.run(give(1), release=released.append) == 1
        await cancelled_with_result(bridge.run(give(2), release=released.append))
        with pytest.raises(ZeroDivisionError):
            await bridge.run(fail(), release=released.append)
        assert await bridge.run(give(3)) == 3

    play(open_bridge, scene)
    assert released == [2]


def test_a_service_that_is_cancelled_as_its_awaitable_ends_gets_the_result(open_bridge: Open) -> None:
    """Like an item of a channel: first the result, then the cancellation at the next yield."""
    got: list[str] = []

    async def scene(bridge: AsyncioBridge) -> None:
        queue: asyncio.Queue[str] = asyncio.Queue()
        waits = asyncio.Event()

        async def next_item() -> str:
            waits.set()
            try:
                return await queue.get()
            except asyncio.CancelledError:
                return "came all the same"

        def service() -> Service[None]:
            got.append((yield from bridge.wait(next_item())))
            yield YIELD
            got.append("not cancelled")

        task = asyncio.create_task(bridge.run(service()))
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    play(open_bridge, scene)
    assert got == ["came all the same"]
