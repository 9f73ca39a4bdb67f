"""A reactor in a thread of its own, for programs that are not built around one."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Self, TypeVar

from reactor.errors import Broken, Closed, TimedOut
from reactor.loop import Reactor
from reactor.requests import Service
from reactor.timers import lock_timeout

__all__ = ["ReactorThread"]

T = TypeVar("T")


class ReactorThread:
    """A reactor and the daemon thread that runs it.

    Args:
        reactor: to be run; a new one unless given. It is closed at the end.
        name: of the thread.

    Attributes:
        reactor: from other threads use `submit`, `post` and `stop` only.
    """

    def __init__(self, reactor: Reactor | None = None, *, name: str = "reactor") -> None:
        self.reactor = Reactor() if reactor is None else reactor
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._failure: BaseException | None = None

    def start(self) -> Self:
        """Start the thread. Returns self, for `thread = ReactorThread().start()`."""
        self._thread.start()
        return self

    def submit(self, service: Service[T], *, name: str | None = None) -> Future[T]:
        """Start a service in the reactor; see `Reactor.submit`.

        Raises:
            Closed: `close` was called.
            Broken: the reactor's thread failed; `__cause__` says how.
        """
        try:
            return self.reactor.submit(service, name=name)
        except Closed:
            self._raise_failure()
            raise

    def close(self, timeout_s: float | None = 5.0) -> None:
        """Stop the reactor, cancel what lives in it and wait for the thread. Done twice it does nothing.

        Raises:
            TimedOut: the thread has not ended; some service keeps the loop.
            Broken: the reactor's thread failed; `__cause__` says how.
        """
        limit_s = lock_timeout(timeout_s)
        if self._thread.ident is None:
            self.reactor.close()
            return
        # Closed: it has ended by itself, or was closed before.
        with contextlib.suppress(Closed):
            self.reactor.stop()
        self._thread.join(None if limit_s < 0 else limit_s)
        if self._thread.is_alive():
            raise TimedOut(f"thread {self._thread.name!r} did not end within {timeout_s} s")
        self._raise_failure()

    def _main(self) -> None:
        try:
            with self.reactor:
                self.reactor.run()
        except BaseException as error:  # noqa: BLE001 - raised again in the threads that use us
            self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise Broken("the reactor's thread failed") from failure

    def __enter__(self) -> Self:
        return self.start() if self._thread.ident is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
