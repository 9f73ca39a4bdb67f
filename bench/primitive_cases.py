"""The cases of `bench.primitives`, each library in its own process.

`python -m bench.primitive_cases KIND SCALE` prints one JSON object: processor microseconds of one operation,
by the name of the case. SCALE multiplies the number of operations. Every case is written as the documentation
of its library recommends, at the lowest public level. Cases that a library does not support are left out.

The cases:

* timer set + cancel: a callback in a minute, cancelled immediately, while a hundred others wait;
* timer set + fire: a callback in a millisecond; all are set first, then all are called;
* time limit: a limit around a body that ends immediately, as servers have for each request;
* sleep: a hundred tasks that repeatedly sleep a millisecond: set, fire, resume;
* thread → loop: another thread posts functions to the loop, as fast as it can;
* thread ↔ loop: the thread waits for each answer, so that each message wakes the loop;
* spawn + join, 100: a hundred tasks that end immediately; all are started, then all joined;
* spawn + join, 1: the same, one after the other;
* ping-pong: two tasks and two channels of one item each.

The time is that of the whole process (`time.process_time`), both threads where there are two.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from reactor import YIELD, Channel, Reactor, Service, Signal, Sleep, Spawn, timeout_after

__all__ = ["CASES", "KINDS", "main"]

CASES: Final = (
    "timer set + cancel",
    "timer set + fire",
    "time limit",
    "sleep",
    "thread → loop",
    "thread ↔ loop",
    "spawn + join, 100",
    "spawn + join, 1",
    "ping-pong",
)
# Operations of each at scale 1.
_COUNT: Final = dict(
    zip(CASES, (100_000, 20_000, 50_000, 20_000, 100_000, 5_000, 20_000, 20_000, 50_000), strict=True)
)
_LONG_S: Final = 60.0
_SHORT_S: Final = 0.001
_GROUP: Final = 100


class Figures:
    """Processor microseconds of one operation, by case."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self.cpu_us: dict[str, float] = {}

    def count(self, case: str) -> int:
        """How many operations; a multiple of the group."""
        return max(1, int(_COUNT[case] * self._scale) // _GROUP) * _GROUP

    @contextmanager
    def timed(self, case: str) -> Iterator[int]:
        count = self.count(case)
        started_s = time.process_time()
        yield count
        self.cpu_us[case] = (time.process_time() - started_s) / count * 1e6


def _flood(send: Callable[[Callable[[], None]], Any], function: Callable[[], None], count: int) -> None:
    """Post a function to the loop repeatedly, from another thread."""

    def run() -> None:
        for _ in range(count):
            send(function)

    threading.Thread(target=run).start()


def _converse(send: Callable[[Callable[[], None]], Any], done: Callable[[], None], count: int) -> None:
    """Pass a function to the loop and wait for its call, a given number of times; then `done`."""

    def run() -> None:
        # A SimpleQueue waits in C; an Event would cost more than the measured operation.
        answers: queue.SimpleQueue[None] = queue.SimpleQueue()
        answer = lambda: answers.put(None)  # noqa: E731 - one object, as a program would have a method
        for _ in range(count):
            send(answer)
            answers.get()
        send(done)

    threading.Thread(target=run).start()


class _Countdown:
    """Calls a function after it was called a given number of times."""

    def __init__(self, count: int, then: Callable[[], Any]) -> None:
        self._left = count
        self._then = then

    def __call__(self, _: Any = None) -> None:
        self._left -= 1
        if self._left == 0:
            self._then()


def _nothing(_: Any = None) -> None:
    """The callback of the timers."""


# Ours.


def _reactor(figures: Figures) -> None:
    with Reactor() as reactor:
        reactor.run(_reactor_cases(reactor, figures))


def _reactor_cases(reactor: Reactor, figures: Figures) -> Service[None]:
    timers = reactor.timers
    others = [timers.add(reactor.now() + _LONG_S, _nothing) for _ in range(_GROUP)]
    with figures.timed("timer set + cancel") as count:
        for _ in range(count):
            timers.cancel(timers.add(reactor.now() + _LONG_S, _nothing))
    # The other cases do not wait; together they would be reported as a slow step.
    yield YIELD
    finished = Signal()
    with figures.timed("timer set + fire") as count:
        last = _Countdown(count, finished.set)
        for _ in range(count):
            timers.add(reactor.now() + _SHORT_S, last)
        yield finished
    with figures.timed("time limit") as count:
        for _ in range(count):
            yield from timeout_after(_LONG_S, _reactor_nothing())
    for timer in others:
        timers.cancel(timer)

    with figures.timed("sleep") as count:
        yield from _reactor_group(_reactor_sleeper, count // _GROUP)

    with figures.timed("thread → loop") as count:
        _flood(reactor.post, _Countdown(count, finished.set), count)
        yield finished
    with figures.timed("thread ↔ loop") as count:
        _converse(reactor.post, finished.set, count)
        yield finished

    with figures.timed("spawn + join, 100") as count:
        for _ in range(count // _GROUP):
            yield from _reactor_group(_reactor_nothing)
    with figures.timed("spawn + join, 1") as count:
        for _ in range(count):
            handle = yield Spawn(_reactor_nothing())
            yield from handle.join()

    there, back = Channel[int](1), Channel[int](1)
    with figures.timed("ping-pong") as count:
        yield Spawn(_reactor_pong(there, back, count))
        for number in range(count):
            yield from there.send(number)
            yield from back.receive()


def _reactor_group(service: Callable[..., Service[None]], *args: Any) -> Service[None]:
    handles = []
    for _ in range(_GROUP):
        handles.append((yield Spawn(service(*args))))
    for handle in handles:
        yield from handle.join()


def _reactor_nothing() -> Service[None]:
    return
    yield YIELD


def _reactor_sleeper(count: int) -> Service[None]:
    for _ in range(count):
        yield Sleep(_SHORT_S)


def _reactor_pong(there: Channel[int], back: Channel[int], count: int) -> Service[None]:
    for _ in range(count):
        yield from back.send((yield from there.receive()))


# asyncio, with its own loop and with uvloop's.


async def _asyncio(figures: Figures) -> None:
    loop = asyncio.get_running_loop()
    others = [loop.call_later(_LONG_S, _nothing) for _ in range(_GROUP)]
    with figures.timed("timer set + cancel") as count:
        for _ in range(count):
            loop.call_later(_LONG_S, _nothing).cancel()
    finished = asyncio.Event()
    with figures.timed("timer set + fire") as count:
        last = _Countdown(count, finished.set)
        for _ in range(count):
            loop.call_later(_SHORT_S, last)
        await finished.wait()
    finished.clear()
    with figures.timed("time limit") as count:
        for _ in range(count):
            async with asyncio.timeout(_LONG_S):
                await _async_nothing()
    for timer in others:
        timer.cancel()

    with figures.timed("sleep") as count:
        await _asyncio_group(_asyncio_sleeper, count // _GROUP)

    with figures.timed("thread → loop") as count:
        _flood(loop.call_soon_threadsafe, _Countdown(count, finished.set), count)
        await finished.wait()
    finished.clear()
    with figures.timed("thread ↔ loop") as count:
        _converse(loop.call_soon_threadsafe, finished.set, count)
        await finished.wait()

    with figures.timed("spawn + join, 100") as count:
        for _ in range(count // _GROUP):
            await _asyncio_group(_async_nothing)
    with figures.timed("spawn + join, 1") as count:
        for _ in range(count):
            await asyncio.create_task(_async_nothing())

    there, back = asyncio.Queue[int](1), asyncio.Queue[int](1)
    with figures.timed("ping-pong") as count:
        pong = asyncio.create_task(_asyncio_pong(there, back, count))
        for number in range(count):
            await there.put(number)
            await back.get()
        await pong


async def _asyncio_group(function: Callable[..., Any], *args: Any) -> None:
    tasks = [asyncio.create_task(function(*args)) for _ in range(_GROUP)]
    for task in tasks:
        await task


async def _async_nothing() -> None:
    """The same for libraries with `async`."""


async def _asyncio_sleeper(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(_SHORT_S)


async def _asyncio_pong(there: asyncio.Queue[int], back: asyncio.Queue[int], count: int) -> None:
    for _ in range(count):
        await back.put(await there.get())


def _uvloop(figures: Figures) -> None:
    import uvloop

    uvloop.run(_asyncio(figures))


# trio has no call-backs: its timers are its time limits.


async def _trio(figures: Figures) -> None:
    import trio

    with figures.timed("time limit") as count:
        for _ in range(count):
            with trio.fail_after(_LONG_S):
                await _async_nothing()

    async def group(function: Callable[..., Awaitable[None]], *args: Any) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(_GROUP):
                nursery.start_soon(function, *args)

    async def sleeper(count: int) -> None:
        for _ in range(count):
            await trio.sleep(_SHORT_S)

    with figures.timed("sleep") as count:
        await group(sleeper, count // _GROUP)

    token = trio.lowlevel.current_trio_token()
    finished = trio.Event()
    with figures.timed("thread → loop") as count:
        _flood(token.run_sync_soon, _Countdown(count, finished.set), count)
        await finished.wait()
    finished = trio.Event()
    with figures.timed("thread ↔ loop") as count:
        _converse(token.run_sync_soon, finished.set, count)
        await finished.wait()

    with figures.timed("spawn + join, 100") as count:
        for _ in range(count // _GROUP):
            await group(_async_nothing)
    with figures.timed("spawn + join, 1") as count:
        for _ in range(count):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_async_nothing)

    send_there, receive_there = trio.open_memory_channel[int](1)
    send_back, receive_back = trio.open_memory_channel[int](1)

    async def pong(count: int) -> None:
        for _ in range(count):
            await send_back.send(await receive_there.receive())

    with figures.timed("ping-pong") as count:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pong, count)
            for number in range(count):
                await send_there.send(number)
                await receive_back.receive()


def _run_trio(figures: Figures) -> None:
    import trio

    trio.run(_trio, figures)


# curio has no call-backs either; a thread reaches its loop through a UniversalQueue.


async def _curio(figures: Figures) -> None:
    import curio

    with figures.timed("time limit") as count:
        for _ in range(count):
            async with curio.timeout_after(_LONG_S):
                await _async_nothing()

    async def group(function: Callable[..., Any], *args: Any) -> None:
        tasks = [await curio.spawn(function, *args) for _ in range(_GROUP)]
        for task in tasks:
            await task.join()

    async def sleeper(count: int) -> None:
        for _ in range(count):
            await curio.sleep(_SHORT_S)

    with figures.timed("sleep") as count:
        await group(sleeper, count // _GROUP)

    functions = curio.UniversalQueue()

    async def call(count: int) -> None:
        for _ in range(count):
            (await functions.get())()

    with figures.timed("thread → loop") as count:
        _flood(functions.put, _nothing, count)
        await call(count)
    with figures.timed("thread ↔ loop") as count:
        _converse(functions.put, _nothing, count)
        await call(count + 1)

    with figures.timed("spawn + join, 100") as count:
        for _ in range(count // _GROUP):
            await group(_async_nothing)
    with figures.timed("spawn + join, 1") as count:
        for _ in range(count):
            await (await curio.spawn(_async_nothing)).join()

    there, back = curio.Queue(1), curio.Queue(1)

    async def pong(count: int) -> None:
        for _ in range(count):
            await back.put(await there.get())

    with figures.timed("ping-pong") as count:
        task = await curio.spawn(pong, count)
        for number in range(count):
            await there.put(number)
            await back.get()
        await task.join()


def _run_curio(figures: Figures) -> None:
    import curio

    curio.run(_curio, figures)


KINDS: dict[str, Callable[[Figures], None]] = {
    "reactor": _reactor,
    "asyncio": lambda figures: asyncio.run(_asyncio(figures)),
    "uvloop": _uvloop,
    "trio": _run_trio,
    "curio": _run_curio,
}
"""Every library by its name in the tables."""


def main() -> None:
    figures = Figures(float(sys.argv[2]))
    KINDS[sys.argv[1]](figures)
    print(json.dumps(figures.cpu_us))


if __name__ == "__main__":
    main()
