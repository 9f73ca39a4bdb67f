"""The errors of the package: one tree, by cause.

`Busy`: a second user of an object for one. `Closed`: this side closed it. `Broken`: something outside ended
it; `__cause__` has the details. A caller that needs no distinction catches `ReactorError`.

`Cancelled` is outside the tree, and not an `Exception`, so that an `except Exception` in a service does not
catch its own cancellation. Calls that would block raise `BlockingIOError`, as elsewhere in Python;
`ChannelFull` and `ChannelEmpty` are in both trees.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from types import UnionType, WrapperDescriptorType
from typing import Any, Self, TypeVar

__all__ = [
    "BadRequest",
    "Broken",
    "Busy",
    "Cancelled",
    "ChannelClosed",
    "ChannelEmpty",
    "ChannelFull",
    "Closed",
    "ConnectError",
    "Deadlock",
    "Forked",
    "ReactorError",
    "ServiceCancelled",
    "TimedOut",
    "UnexpectedEnd",
    "check_count",
    "check_type",
    "is_ctrl_c",
    "log_failure",
    "renewed",
]

E = TypeVar("E", bound=BaseException)


_UNREACHABLE = {errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}


class ReactorError(Exception):
    """Base of every error this package raises."""


class Busy(ReactorError):
    """A second simultaneous user of an object for one. The first is not disturbed."""


class Closed(ReactorError):
    """Use after close on this side."""


class Broken(ReactorError):
    """Something outside ended it: the peer, the system, another service. `__cause__` has the details."""


class ConnectError(Broken):
    """A connection could not be made.

    Attributes:
        host, port: the destination.
        errno: the system's number of the last error, or None.
        errors: the failure of each address, in order of time.
    """

    def __init__(
        self, host: str, port: int, errno: int | None, text: str, errors: tuple[OSError, ...] = ()
    ) -> None:
        shown = host if host.isprintable() else ascii(host)
        place = f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"
        super().__init__(f"cannot connect to {place}: {text}")
        self.host = host
        self.port = port
        self.errno = errno
        self.errors = errors


class ServiceCancelled(Broken):
    """The awaited service was cancelled.

    `Cancelled` itself would end the waiting service as if it had been cancelled too.
    """


class UnexpectedEnd(ReactorError, EOFError):
    """A stream ended inside a read of an exact length.

    Attributes:
        received_bytes: bytes before the end.
        expected_bytes: length of the read.
    """

    def __init__(self, received_bytes: int, expected_bytes: int) -> None:
        super().__init__(f"stream ended after {received_bytes} of {expected_bytes} bytes")
        self.received_bytes = received_bytes
        self.expected_bytes = expected_bytes


class TimedOut(ReactorError, TimeoutError):
    """The time limit of an operation is over. Each operation documents the state that it leaves."""


class Deadlock(ReactorError):
    """A blocked service waits for an event that no remaining service can cause."""


class BadRequest(ReactorError):
    """A service yielded an object that is not a request, or a request that cannot be answered here."""


class Forked(Closed, BadRequest):
    """A reactor of the parent process was used in the child of a fork. Make the reactor after the fork."""

    @classmethod
    def of(cls, parent_pid: int) -> Self:
        """Make the error for an object of that process."""
        return cls(
            f"the reactor belongs to process {parent_pid}, this is a child that it forked: "
            "make reactors, nodes and networks after the fork"
        )


class ChannelClosed(Closed):
    """The channel is closed and, for a receiver, drained."""


class ChannelFull(ReactorError, BlockingIOError):
    """`send_nowait` on a channel that holds its capacity."""


class ChannelEmpty(ReactorError, BlockingIOError):
    """`receive_nowait` on a channel that holds nothing."""


class Cancelled(BaseException):
    """Thrown into a service that must end. The service may clean up, may wait while it does, and lets it
    pass."""


def check_type(value: object, kind: type | UnionType, what: str, expected: str) -> None:
    """Refuse an argument of a wrong type where it is given; it would fail at its first use otherwise.

    Raises:
        TypeError: `value` is not a `kind`, or a bool for an int.
    """
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        given = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise TypeError(f"{what}: expected {expected}, got {given}")


def check_count(value: object, what: str, *, least: int, most: int | None = None) -> None:
    """Refuse a number out of range where it is given.

    Raises:
        TypeError: not a whole number. ValueError: out of range.
    """
    check_type(value, int, what, "a whole number")
    assert isinstance(value, int)
    if value < least or (most is not None and value > most):
        expected = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{what}: expected {expected}, got {value}")


def is_ctrl_c(error: BaseException) -> bool:
    """Whether an error is a real Ctrl-C, which ends the program wherever it arrives.

    Python raises that in the main thread only. In other threads, a `KeyboardInterrupt` is one more error of
    the code that raised it.
    """
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def log_failure(logger: logging.Logger, error: BaseException, text: str, *args: object) -> None:
    """Log a failure that no caller gets.

    Ordinary failures of connections (cut, refused, timed out, a name without an address) are logged as a
    warning of one line, with the traceback at DEBUG. All others are bugs, logged as errors with their
    traceback. Classes of other packages are ordinary if they have `is_expected = True`.

    Args:
        text, args: what failed, as for `logger.error`; the error is added.
    """
    kinds = (Broken, TimedOut, UnexpectedEnd, ConnectionError, TimeoutError, socket.gaierror)
    is_unreachable = isinstance(error, OSError) and error.errno in _UNREACHABLE
    if isinstance(error, kinds) or is_unreachable or getattr(error, "is_expected", False):
        logger.warning(f"{text}: %s: %s", *args, type(error).__name__, error)
        logger.debug(text, *args, exc_info=error)
    else:
        logger.error(text, *args, exc_info=error)


def renewed(error: E) -> E:
    """Copy a stored error in order to raise it again: `raise renewed(self._error)`.

    Each raise of one object adds its frames to the traceback, which then keep their objects alive; and two
    threads would write into one traceback. The copy has the same class, attributes, cause and first
    traceback.

    Returns:
        The copy. The error itself, without its traceback, if its class cannot be copied.
    """
    kind = type(error)
    try:
        parts: Any = error.__reduce_ex__(2)
        _, args, *state = parts
        copy = kind.__new__(kind, *args)
        # The builtin `__init__`: one in Python may take other arguments than it passes on to the builtin.
        for base in kind.__mro__:
            if isinstance(init := vars(base).get("__init__"), WrapperDescriptorType):
                init(copy, *args)
                break
        copy.__dict__.update(*state)
        copy.__dict__.setdefault("_renewed_from", error)  # identifies the copy
        if any(vars(base).get("__slots__") for base in kind.__mro__):
            raise TypeError("values in slots would be missing")
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        return error.with_traceback(None)
    if notes := getattr(error, "__notes__", None):
        copy.__notes__ = list(notes)
    copy.__cause__, copy.__context__ = error.__cause__, error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)
