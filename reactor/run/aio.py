"""Use with asyncio: a coroutine awaits a service, and a service waits for an awaitable.

There are two bridges, with the same methods `run` and `wait`:

* `AsyncioBridge`: the reactor runs in another thread (`ReactorThread`). Each loop keeps its speed.
* `EmbeddedReactor`: the reactor runs inside the asyncio loop, in its thread. The reactor's poller has a
  descriptor that is readable when there are events (an epoll within an epoll). asyncio waits for that and
  for the next timer, and then runs one turn of the reactor.

The rules are those of two threads in both cases:

1. Services run in the reactor, coroutines in asyncio. Calls between them go through `post` and
   `call_soon_threadsafe`. To wake a service from a coroutine: `reactor.post(signal.set)`.
2. Cancelling one side cancels the other **and waits for its cleanup**: when the error is raised, the other
   side has ended.
3. A service that was cancelled raises `ServiceCancelled` in the coroutine that awaits it; a cancelled
   awaitable raises `ServiceCancelled` in the service that waits for it.

Not imported with the package: asyncio takes longer to import than the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeVar, cast

from reactor.core.forgotten import discard, needs_yield_from
from reactor.core.loop import Reactor
from reactor.core.requests import CurrentTask, Service
from reactor.core.task import Handle, Task
from reactor.errors import (
    BadRequest,
    Broken,
    Busy,
    Closed,
    ReactorError,
    ServiceCancelled,
    check_type,
    renewed,
)
from reactor.sync.scope import Signal

__all__ = ["AsyncioBridge", "EmbeddedReactor"]

T = TypeVar("T")


class AsyncioBridge:
    """Connects the running asyncio loop with a reactor that another thread runs.

    Use: `async with AsyncioBridge(thread.reactor) as bridge: await bridge.run(service())`. Leaving the
    context cancels the services that `run` started in this loop, and waits for their end.

    Several loops may use one bridge, simultaneously or in turn: `run` belongs to the loop that awaits it.
    Each loop may enter the context; the bridge is closed when the last one has left.
    """

    _called = "bridge"  # in messages

    def __init__(self, reactor: Reactor) -> None:
        check_type(reactor, Reactor, "reactor", "a Reactor")
        self.reactor = reactor
        self._asyncio_loop: asyncio.AbstractEventLoop | None = None
        self._entered: list[asyncio.AbstractEventLoop] = []
        self._left: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._runs: set[_Run[Any]] = set()
        self._closed_by: BaseException | None = None

    async def run(
        self,
        service: Service[T],
        *,
        name: str | None = None,
        release: Callable[[T], object] | None = None,
    ) -> T:
        """Run a service in the reactor and await its end.

        Args:
            release: called in the reactor with a result that the coroutine does not get, because it was
                cancelled just as the service returned. For a result that must not be lost:
                `await bridge.run(channel.receive(), release=channel.receiving.give_back)`.
        Cancellation: the service is cancelled, and the awaiting coroutine gets its `CancelledError` when the
        service has ended.

        Raises:
            Closed: the reactor or the bridge is closed, or the asyncio loop that runs the reactor; the
                service was not started.
            BadRequest: the bridge is not open yet.
            ServiceCancelled: the service was cancelled, but not by the awaiting coroutine.
            Broken: the embedded reactor failed; `__cause__` has its error.
            any other: the service's error, also one of its cleanup.
        """
        try:
            self._loop()
        except BadRequest:
            discard(service)
            raise
        run = _Run[T](self, asyncio.get_running_loop(), release)
        self._runs.add(run)
        try:
            self._check_open()
            self.reactor.post(run.start, service, name)
            return await run.wait()
        except Closed:
            discard(service)
            raise
        finally:
            self._runs.discard(run)

    @needs_yield_from
    def wait(self, awaitable: Awaitable[T], loop: asyncio.AbstractEventLoop | None = None) -> Service[T]:
        """Wait for an awaitable of asyncio, in a service: `x = yield from bridge.wait(coroutine())`.

        When the service is cancelled, the awaitable is cancelled, and the service continues when that has
        ended. If the awaitable has a result nevertheless, the service gets it, and the cancellation at its
        next yield.

        Args:
            loop: runs the awaitable; default: the loop that entered the bridge last.
        Raises:
            ServiceCancelled: the awaitable was cancelled, but not by this service.
            Closed: the asyncio loop is closed. A coroutine was not started.
            BadRequest: the bridge is not open yet, or the object is not awaitable.
            any other: the awaitable's error.
        """
        try:
            task: Task[Any] = yield CurrentTask()
        except BaseException:
            _close_coroutines(awaitable)
            raise
        wait = _Wait[T](self)
        self._call_asyncio(loop, wait.start, awaitable)
        try:
            yield wait.ended
        except GeneratorExit:
            # Ended by force: it cannot wait.
            with contextlib.suppress(Closed):
                self._call_asyncio(loop, wait.cancel)
            raise
        except BaseException as interruption:
            with contextlib.suppress(Closed):
                self._call_asyncio(loop, wait.cancel)
                while not wait.is_done:
                    yield wait.ended
            if wait.error is not None or not wait.is_done:
                raise
            task.interrupt(interruption)
        if wait.error is not None:
            raise renewed(wait.error)  # others may await the same awaitable
        return cast(T, wait.result)

    def was_left_by(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the loop has left the context, which cancelled the services it had started."""
        return loop in self._left

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._asyncio_loop is None:
            raise BadRequest(f"the {self._called} is not open: use it in an `async with` block")
        return self._asyncio_loop

    def _call_asyncio(
        self, loop: asyncio.AbstractEventLoop | None, function: Callable[..., object], *args: Any
    ) -> None:
        """Let asyncio call a function, in its thread."""
        try:
            (loop or self._loop()).call_soon_threadsafe(function, *args)
        except (RuntimeError, BadRequest) as error:
            _close_coroutines(*args)
            if isinstance(error, BadRequest):
                raise
            raise Closed("the asyncio loop is closed") from error

    def _check_open(self) -> None:
        if self._closed_by is not None:
            raise Closed(f"the {self._called} was closed") from self._closed_by

    async def __aenter__(self) -> Self:
        self._asyncio_loop = loop = asyncio.get_running_loop()
        self._entered.append(loop)
        self._left.discard(loop)
        self._closed_by = None
        return self

    async def __aexit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        self._entered.remove(loop)
        # A loop that was closed within the context cannot leave it.
        self._entered = [entered for entered in self._entered if not entered.is_closed()]
        if not self._entered:
            self._closed_by = self._closed_by or Closed("its context was left")
        if loop in self._entered:
            return  # an inner context of the same loop
        self._left.add(loop)
        runs = [run for run in list(self._runs) if run.loop is loop]
        for run in runs:
            run.cancel()
        for run in runs:
            # Its error is raised where it is awaited.
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.shield(run.ended)


def _close_coroutines(*unused: object) -> None:
    """Close coroutines that will not be awaited, without a warning."""
    for each in unused:
        if inspect.iscoroutine(each):
            each.close()


class EmbeddedReactor(AsyncioBridge):
    """Runs a reactor inside the running asyncio loop, in the same thread.

    Use: `async with EmbeddedReactor(Reactor()) as bridge: ...`. Within the context no other loop may run the
    reactor, and `Reactor.stop` has no effect. Coroutines start services with `run` or `spawn` of the bridge:
    `Reactor.spawn` does not wake asyncio. Leave the context before closing the reactor.

    Args:
        reactor: its poller needs its own descriptor (epoll, kqueue).
    """

    def __init__(self, reactor: Reactor) -> None:
        super().__init__(reactor)
        self._next: asyncio.Handle | None = None
        self._fd: int | None = None

    def spawn(self, service: Service[T], *, name: str | None = None) -> Handle[T]:
        """Start a service without awaiting it; see `Reactor.spawn`. Leaving the context does not end it."""
        loop = self._loop()
        handle = self.reactor.spawn(service, name=name)
        self._plan(loop.call_soon(self._turn))
        return handle

    def _check_open(self) -> None:
        super()._check_open()
        if self._loop().is_closed():
            raise Closed("the asyncio loop that ran the reactor is closed") from self._closed_by

    async def __aenter__(self) -> Self:
        """Start running the reactor.

        Raises:
            BadRequest: its poller has no descriptor. Use a thread.
            Busy: a loop runs it already.
        """
        if self._fd is not None and not self._loop().is_closed():
            raise Busy("an asyncio loop runs this reactor already: other loops may use the same bridge")
        await super().__aenter__()
        loop = self._loop()
        self._fd = self.reactor.poller.fileno()
        loop.add_reader(self._fd, self._turn)
        self._plan(loop.call_soon(self._turn))
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await super().__aexit__()
        finally:
            self._leave()
            if self._closed_by is not None:
                for run in list(self._runs):  # of other loops
                    run.fail(self._closed_by)

    def _turn(self) -> None:
        try:
            wait_s = self.reactor.turn()
        except Exception as error:  # noqa: BLE001 - raised by all waiting `run` calls
            self._closed_by = error
            self._leave()
            for run in list(self._runs):
                run.fail(error)
            return
        except BaseException:
            # KeyboardInterrupt or SystemExit of a service: it ends asyncio's loop, as it would ours.
            self._leave()
            raise
        loop = self._loop()
        if wait_s is None:
            self._plan(None)
        elif wait_s == 0:
            self._plan(loop.call_soon(self._turn))
        else:
            self._plan(loop.call_later(wait_s, self._turn))

    def _plan(self, handle: asyncio.Handle | None) -> None:
        """Replace the planned turn. Events cause turns besides it."""
        if self._next is not None:
            self._next.cancel()
        self._next = handle

    def _leave(self) -> None:
        self._plan(None)
        if self._fd is not None:
            self._loop().remove_reader(self._fd)
            self._fd = None


class _Run(Generic[T]):
    """A service that a coroutine awaits. The methods from `start` on run in the reactor's thread."""

    def __init__(
        self,
        bridge: AsyncioBridge,
        loop: asyncio.AbstractEventLoop,
        release: Callable[[T], object] | None,
    ) -> None:
        self._bridge = bridge
        self.loop = loop
        self._release = release
        self._is_abandoned = False
        self._handle: Handle[T] | None = None
        self.ended: asyncio.Future[T] = loop.create_future()

    async def wait(self) -> T:
        try:
            return await self._wait()
        except BaseException:
            # Before the coroutine continues: its next call then finds what is given back.
            with contextlib.suppress(Closed):
                self._bridge.reactor.post(self._abandon)
            raise

    async def _wait(self) -> T:
        cancelled: asyncio.CancelledError | None = None
        while not self.ended.done():
            try:
                await asyncio.wait([self.ended])
            except asyncio.CancelledError as error:
                cancelled = error
                self.cancel()
        if cancelled is None:
            return self.ended.result()
        error_of_cleanup = self.ended.exception()
        if error_of_cleanup is None or isinstance(error_of_cleanup, ServiceCancelled):
            raise cancelled
        raise error_of_cleanup from cancelled

    def cancel(self) -> None:
        # Closed: the service has ended with the reactor.
        with contextlib.suppress(Closed):
            self._bridge.reactor.post(self._cancel)

    def fail(self, cause: BaseException) -> None:
        error = Broken("the reactor failed, its services are stopped")
        error.__cause__ = cause
        self._answer(None, error)

    def start(self, service: Service[T], name: str | None) -> None:
        try:
            self._handle = handle = self._bridge.reactor.start(service, name)
        except ReactorError as error:
            self._answer(None, error)
        else:
            handle.add_done_callback(self._on_end)

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel("who awaits it was cancelled")

    def _abandon(self) -> None:
        """The coroutine does not take the result, which may be there already or come yet."""
        self._is_abandoned = True
        if self._handle is None or not self._handle.is_finished:
            self._cancel()
        elif self._handle.error is None:
            self._give_back(self._handle.result())

    def _give_back(self, result: T) -> None:
        """Release the result, once."""
        release, self._release = self._release, None
        if release is not None:
            release(result)

    def _on_end(self, handle: Handle[T]) -> None:
        error = handle.error
        if error is not None:
            self._answer(None, handle.error_for_others())
        elif self._is_abandoned or not self._answer(handle.result(), None):
            self._give_back(handle.result())

    def _answer(self, result: T | None, error: BaseException | None) -> bool:
        """Pass the outcome to asyncio. False: its loop is closed, so nothing awaits."""
        try:
            self.loop.call_soon_threadsafe(self._set, result, error)
        except RuntimeError:
            return False
        return True

    def _set(self, result: T | None, error: BaseException | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(cast(T, result))
        else:
            self.ended.set_exception(error)
            # Read it, so that asyncio does not log it if `wait` never raises it.
            self.ended.exception()


class _Wait(Generic[T]):
    """An awaitable that a service waits for. `start`, `cancel` and `_on_end` run in asyncio's thread."""

    def __init__(self, bridge: AsyncioBridge) -> None:
        self._bridge = bridge
        self._future: asyncio.Future[T] | None = None
        # The rest belongs to the reactor's thread.
        self.ended = Signal()
        self.is_done = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def start(self, awaitable: Awaitable[T]) -> None:
        try:
            future = asyncio.ensure_future(awaitable)
        except TypeError as error:
            self._answer(None, BadRequest(f"{error}, got {type(awaitable).__name__}"))
            return
        self._future = future
        future.add_done_callback(self._on_end)

    def cancel(self) -> None:
        if self._future is not None:
            self._future.cancel()

    def _on_end(self, future: asyncio.Future[T]) -> None:
        if future.cancelled():
            self._answer(None, ServiceCancelled("the awaitable was cancelled"))
        elif (error := future.exception()) is not None:
            self._answer(None, error)
        else:
            self._answer(future.result(), None)

    def _answer(self, result: T | None, error: BaseException | None) -> None:
        # Closed: the service has ended with the reactor.
        with contextlib.suppress(Closed):
            self._bridge.reactor.post(self._set, result, error)

    def _set(self, result: T | None, error: BaseException | None) -> None:
        self.result, self.error, self.is_done = result, error, True
        self.ended.set()
