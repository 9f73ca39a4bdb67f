"""The joint between a service and the `concurrent.futures.Future` that another thread holds of it.

The future stays "pending" in the eyes of `concurrent.futures` while the service runs: a future that is
"running" refuses to be cancelled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

from reactor.errors import Cancelled, Closed, renewed
from reactor.handle import Handle

__all__ = ["ServiceFuture", "fail", "tie"]

T = TypeVar("T")


class ServiceFuture(Future[T]):
    """A future that raises an error of its own each time it is asked; see `renewed`."""

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result; as `concurrent.futures.Future.result`."""
        error = self.exception(timeout)
        if error is not None:
            raise renewed(error)
        return super().result(0)


def tie(handle: Handle[T], future: Future[T], post: Callable[..., None]) -> None:
    """Have the service's outcome given to the future, and a cancelled future cancel the service.

    Args:
        handle: of the service.
        future: just made.
        post: has a function called by the loop, from any thread.
    """

    def cancel_service(future: Future[T]) -> None:
        if future.cancelled():
            # Closed: then the service has ended already.
            with contextlib.suppress(Closed):
                post(handle.cancel)

    def give_outcome(handle: Handle[T]) -> None:
        error = handle.error
        if error is None:
            _set(future, handle.result(), None)
        elif isinstance(error, Cancelled):
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            _set(future, None, error)

    future.add_done_callback(cancel_service)
    handle.add_done_callback(give_outcome)


def fail(future: Future[Any], error: BaseException) -> None:
    """Give the future an error: its service was never started."""
    _set(future, None, error)


def _set(future: Future[Any], result: Any, error: BaseException | None) -> None:
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        # Cancelled by its owner, perhaps at this very moment. Those who wait for it are still to be told.
        future.set_running_or_notify_cancel()
