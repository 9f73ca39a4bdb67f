"""Beside asyncio: a coroutine awaits a service, a service waits for an awaitable, one loop runs the other.

Two ways to live together, with the same two calls:

* `AsyncioBridge`: the reactor runs in another thread (`ReactorThread`). Each loop keeps its speed.
* `EmbeddedReactor`: the reactor runs inside the asyncio loop, in its thread. The reactor's poller has a
  descriptor of its own that is readable when there are events (an epoll within an epoll), so asyncio waits
  for that and for the next timer, and then the reactor runs one turn. Nothing is asked in vain.

The rules, which are those of two threads in both cases:

1. Services run in the reactor, coroutines in asyncio; what goes from one to the other goes through `post` and
   `call_soon_threadsafe`. To wake a service from a coroutine: `reactor.post(signal.set)`.
2. Cancelling one side cancels the other, **and waits for its cleanup**: when the error comes out, nothing of
   the other side runs any more.
3. Each side's cancellation keeps its own class. A service that ended cancelled is `ServiceCancelled` for who
   awaits it, a cancelled awaitable is `ServiceCancelled` for the service that waits for it.

Not imported with the package: asyncio takes longer to import than all the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from reactor.core.forgotten import discard, needs_yield_from
from reactor.core.loop import Reactor
from reactor.core.requests import Service
from reactor.core.task import Handle
from reactor.errors import BadRequest, Broken, Busy, Closed, ReactorError, ServiceCancelled, renewed
from reactor.sync.scope import Signal

__all__ = ["AsyncioBridge", "EmbeddedReactor"]

T = TypeVar("T")


class AsyncioBridge:
    """Between the running asyncio loop and a reactor that another thread runs.

    Use: `async with AsyncioBridge(thread.reactor) as bridge: await bridge.run(service())`. Leaving the
    context cancels what was started by `run` in this loop and still lives, and waits for its end.

    Several loops, in several threads or one after the other, may use one bridge: `run` belongs to the loop in
    which it is awaited. Each may enter the context for itself; the bridge is closed when the last has left.

    Args:
        reactor: as said.
    """

    def __init__(self, reactor: Reactor) -> None:
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
            ServiceCancelled: the service was cancelled, but not by who awaits it.
            Broken: the embedded reactor failed; `__cause__` says how.
            any other: the service's error, also one from its cleanup.
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

        Args:
            loop: in which it runs; by default the one that has entered the bridge last.
        Cancellation: the awaitable is cancelled, and the service goes on with its own cancellation when that
        has ended.

        Raises:
            ServiceCancelled: the awaitable was cancelled, but not by this service.
            Closed: the asyncio loop is closed. A coroutine was not started.
            BadRequest: the bridge is not open yet, or this is no awaitable.
            any other: the awaitable's error.
        """
        wait = _Wait[T](self)
        self._call_asyncio(loop, wait.start, awaitable)
        try:
            yield wait.ended
        except GeneratorExit:
            # Ended by force: no more waiting.
            with contextlib.suppress(Closed):
                self._call_asyncio(loop, wait.cancel)
            raise
        except BaseException:
            with contextlib.suppress(Closed):
                self._call_asyncio(loop, wait.cancel)
                while not wait.is_done:
                    yield wait.ended
            raise
        if wait.error is not None:
            raise renewed(wait.error)  # the awaitable may be one that others await as well
        return cast(T, wait.result)

    def was_left_by(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the loop has left the context, and so has cancelled what it had started."""
        return loop in self._left

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._asyncio_loop is None:
            raise BadRequest("the bridge is not open: async with it first")
        return self._asyncio_loop

    def _call_asyncio(
        self, loop: asyncio.AbstractEventLoop | None, function: Callable[..., object], *args: Any
    ) -> None:
        """Have a function called in asyncio's thread."""
        try:
            (loop or self._loop()).call_soon_threadsafe(function, *args)
        except (RuntimeError, BadRequest) as error:
            for unused in args:
                if inspect.iscoroutine(unused):
                    unused.close()
            if isinstance(error, BadRequest):
                raise
            raise Closed("the asyncio loop is closed") from error

    def _check_open(self) -> None:
        if self._closed_by is not None:
            raise Closed("the bridge is closed") from self._closed_by

    async def __aenter__(self) -> Self:
        self._asyncio_loop = loop = asyncio.get_running_loop()
        self._entered.append(loop)
        self._left.discard(loop)
        self._closed_by = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self._entered.remove(loop)
        # One that was closed within the context can leave it no more.
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
            # The error is for who awaits the service.
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.shield(run.ended)


class EmbeddedReactor(AsyncioBridge):
    """A reactor that runs inside the running asyncio loop, in the same thread.

    Use: `async with EmbeddedReactor(Reactor()) as bridge: ...`. While the context lasts, nobody else may run
    the reactor, and `Reactor.stop` does nothing. Services that coroutines start go through `run` or `spawn`
    here: `Reactor.spawn` does not know that asyncio sleeps. Leave the context before closing the reactor.

    Args:
        reactor: as said; its poller needs a descriptor of its own (epoll, kqueue).
    """

    def __init__(self, reactor: Reactor) -> None:
        super().__init__(reactor)
        self._next: asyncio.Handle | None = None
        self._fd: int | None = None

    def spawn(self, service: Service[T], *, name: str | None = None) -> Handle[T]:
        """Start a service without awaiting it; see `Reactor.spawn`. It lives on when the context is left."""
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
            BadRequest: its poller has no descriptor of its own. Use a thread.
            Busy: a loop runs it already.
        """
        if self._fd is not None and not self._loop().is_closed():
            raise Busy("an asyncio loop runs this reactor already: other loops may use the bridge as it is")
        await super().__aenter__()
        loop = self._loop()
        self._fd = self.reactor.poller.fileno()
        loop.add_reader(self._fd, self._turn)
        self._plan(loop.call_soon(self._turn))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._leave()
            if self._closed_by is not None:
                for run in list(self._runs):  # of other loops
                    run.fail(self._closed_by)

    def _turn(self) -> None:
        try:
            wait_s = self.reactor.turn()
        except Exception as error:  # noqa: BLE001 - it goes to all who await a service
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
        """Make this the only turn that is planned, but for those that events bring."""
        if self._next is not None:
            self._next.cancel()
        self._next = handle

    def _leave(self) -> None:
        self._plan(None)
        if self._fd is not None:
            self._loop().remove_reader(self._fd)
            self._fd = None


class _Run(Generic[T]):
    """A service that a coroutine awaits. `start` and what follows is called in the reactor."""

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
        error = Broken("the reactor failed, its services stand still")
        error.__cause__ = cause
        self._tell(None, error)

    def start(self, service: Service[T], name: str | None) -> None:
        try:
            self._handle = handle = self._bridge.reactor.start(service, name)
        except ReactorError as error:
            self._tell(None, error)
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
        elif self._handle.error is None and self._release is not None:
            self._release(self._handle.result())

    def _on_end(self, handle: Handle[T]) -> None:
        error = handle.error
        if self._is_abandoned:
            if error is None and self._release is not None:
                self._release(handle.result())
        elif error is None:
            self._tell(handle.result(), None)
        else:
            self._tell(None, handle.error_for_others())

    def _tell(self, result: T | None, error: BaseException | None) -> None:
        # A closed asyncio loop has nobody left who awaits.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._set, result, error)

    def _set(self, result: T | None, error: BaseException | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(cast(T, result))
        else:
            self.ended.set_exception(error)
            # It is raised by `wait`; should nobody get there, it is no news for asyncio's log.
            self.ended.exception()


class _Wait(Generic[T]):
    """An awaitable that a service waits for.

    `start`, `cancel` and `_on_end` are called in asyncio's thread.
    """

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
            self._tell(None, BadRequest(f"{error}, got {type(awaitable).__name__}"))
            return
        self._future = future
        future.add_done_callback(self._on_end)

    def cancel(self) -> None:
        if self._future is not None:
            self._future.cancel()

    def _on_end(self, future: asyncio.Future[T]) -> None:
        if future.cancelled():
            self._tell(None, ServiceCancelled("the awaitable was cancelled"))
        elif (error := future.exception()) is not None:
            self._tell(None, error)
        else:
            self._tell(future.result(), None)

    def _tell(self, result: T | None, error: BaseException | None) -> None:
        # Closed: the service has ended with the reactor.
        with contextlib.suppress(Closed):
            self._bridge.reactor.post(self._set, result, error)

    def _set(self, result: T | None, error: BaseException | None) -> None:
        self.result, self.error, self.is_done = result, error, True
        self.ended.set()
