"""A scope owns the services started in it, so that none outlives its purpose and no failure gets lost.

Precedents: trio's nurseries. Generators have no `async with`, so leaving a scope takes a word: `yield from
scope.close()` in a `finally`, or `with scope:`, which cancels on the way out but cannot wait.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Self, TypeVar

from reactor.errors import Cancelled, Closed
from reactor.handle import Handle
from reactor.requests import Service, Spawn
from reactor.signal import Signal

__all__ = ["Scope"]

logger = logging.getLogger("reactor")

T = TypeVar("T")


class Scope:
    """A group of services with one end.

    Args:
        name: for messages.
        fail_together: True: the first child that fails cancels its siblings, and `join` raises its error.
            False: a failure is logged, and the siblings go on.

    Attributes:
        failures: the errors of failed children, in order. Each was reported once: raised by `join`, or logged
            when nobody joined.
    """

    __slots__ = (
        "_all_ended",
        "_children",
        "_joiners",
        "_unraised",
        "fail_together",
        "failures",
        "is_cancelled",
        "name",
    )

    def __init__(self, name: str = "scope", *, fail_together: bool = True) -> None:
        self.name = name
        self.fail_together = fail_together
        self.failures: list[BaseException] = []
        self.is_cancelled = False
        self._children: dict[Handle[Any], None] = {}
        self._all_ended = Signal()
        self._joiners = 0
        self._unraised: BaseException | None = None

    def __len__(self) -> int:
        """Give the number of children that live."""
        return len(self._children)

    def spawn(self, service: Service[T], *, name: str | None = None) -> Service[Handle[T]]:
        """Start a child: `handle = yield from scope.spawn(service)`.

        Raises:
            Closed: the scope was cancelled, by its owner or by a failure. The service was not started.
        """
        if self.is_cancelled:
            service.close()
            raise Closed(f"scope {self.name!r} was cancelled, it takes no more services")
        handle: Handle[T] = yield Spawn(service, name)
        self._children[handle] = None
        handle.add_done_callback(self._child_ended)
        if self.is_cancelled:
            handle.cancel(f"scope {self.name!r} was cancelled")
        return handle

    def cancel(self) -> None:
        """Cancel all children.

        They may take their time to clean up, `join` waits for that. No more can be started.
        """
        self.is_cancelled = True
        for child in list(self._children):
            child.cancel(f"scope {self.name!r} was cancelled")

    def join(self) -> Service[None]:
        """Wait until no child lives. One service at a time may do so.

        Raises:
            Busy: another service joins.
            any other: the error of the first child that failed, with fail_together, and only once.
        """
        yield from self._wait_ended()
        error, self._unraised = self._unraised, None
        if error is not None:
            raise error

    def close(self) -> Service[None]:
        """Cancel all children and wait until they have ended.

        Made for `finally`: it logs what has not been reported, and raises nothing of theirs.
        """
        self.cancel()
        yield from self._wait_ended()

    def _wait_ended(self) -> Service[None]:
        self._joiners += 1
        try:
            while self._children:
                yield self._all_ended
        finally:
            self._joiners -= 1

    def _child_ended(self, handle: Handle[Any]) -> None:
        self._children.pop(handle, None)
        error = handle.error
        if error is not None and not isinstance(error, Cancelled):
            self._take_failure(handle, error)
        if not self._children and self._joiners:
            self._all_ended.set()

    def _take_failure(self, handle: Handle[Any], error: BaseException) -> None:
        self.failures.append(error)
        if self.fail_together and len(self.failures) == 1:
            self._unraised = error
            if not self._joiners:
                logger.error(
                    "service %r failed, scope %r is cancelled", handle.name, self.name, exc_info=error
                )
            self.cancel()
        else:
            logger.error("service %r of scope %r failed", handle.name, self.name, exc_info=error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __repr__(self) -> str:
        return f"<Scope {self.name!r} {len(self._children)} alive{' cancelled' if self.is_cancelled else ''}>"
