"""The errors of the package: one tree, named by whose doing it was.

`Busy`: two users of one thing at once. `Closed`: we closed it. `Broken`: the outside did, and `__cause__`
says what happened. A caller that only wants "this did not work" catches `ReactorError`.

`Cancelled` stands outside the tree, and outside `Exception`, so that an `except Exception` in a service does
not swallow its own end. Would-block answers are `BlockingIOError`, as everywhere else in Python;
`ChannelFull` and `ChannelEmpty` are both.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from types import WrapperDescriptorType
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
    "is_ctrl_c",
    "log_failure",
    "renewed",
]

E = TypeVar("E", bound=BaseException)


_UNREACHABLE = {errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}


class ReactorError(Exception):
    """Base of every error this package raises."""


class Busy(ReactorError):
    """Two users at once of something that takes one. The first one is not disturbed."""


class Closed(ReactorError):
    """We closed it (this side of the program did), and somebody went on using it."""


class Broken(ReactorError):
    """Something outside ended it.

    The peer, the system, another service. `__cause__` says what happened, where known.
    """


class ConnectError(Broken):
    """A connection could not be made.

    Attributes:
        host, port: where it should have gone.
        errno: the system's number of the last error, or None.
        errors: how each address of the name failed, in the order of the failures.
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
    """The service whose result was wanted had been cancelled.

    Not `Cancelled` itself: that would end the one who asks as if it had been cancelled too.
    """


class UnexpectedEnd(ReactorError, EOFError):
    """A stream ended inside a read of an exact length.

    Attributes:
        received_bytes: how many bytes came before the end.
        expected_bytes: how many were wanted.
    """

    def __init__(self, received_bytes: int, expected_bytes: int) -> None:
        super().__init__(f"stream ended after {received_bytes} of {expected_bytes} bytes")
        self.received_bytes = received_bytes
        self.expected_bytes = expected_bytes


class TimedOut(ReactorError, TimeoutError):
    """The time given to an operation is over. What it left behind is told by that operation."""


class Deadlock(ReactorError):
    """A blocked service waits for something that nobody is left to do."""


class BadRequest(ReactorError):
    """A service yielded something that is no request, or a request that cannot be answered here."""


class Forked(Closed, BadRequest):
    """A reactor of the parent process was used in the child of a fork. Fork first, make the reactor then."""

    @classmethod
    def of(cls, parent_pid: int) -> Self:
        """Make the error for something of that process."""
        return cls(
            f"the reactor belongs to process {parent_pid}, this is a child that it forked: "
            "make reactors, nodes and networks after the fork"
        )


class ChannelClosed(Closed):
    """The channel is closed (and, for a receiver, drained)."""


class ChannelFull(ReactorError, BlockingIOError):
    """`send_nowait` on a channel that holds its capacity."""


class ChannelEmpty(ReactorError, BlockingIOError):
    """`receive_nowait` on a channel that holds nothing."""


class Cancelled(BaseException):
    """Thrown into a service that is to end.

    Clean up and let it pass; waiting during the cleanup is allowed.
    """


def is_ctrl_c(error: BaseException) -> bool:
    """Whether an error is a real Ctrl-C, which ends the program wherever it arrives.

    Python raises that in the main thread only. In other threads, a `KeyboardInterrupt` is one more error of
    the code that raised it.
    """
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def log_failure(logger: logging.Logger, error: BaseException, text: str, *args: object) -> None:
    """Log a failure that no caller learns of.

    What happens to connections every day (cut, refused, timed out, a name without an address) is one line, a
    warning; its traceback goes to the DEBUG log. Anything else is taken for a bug, and logged as an error
    with its traceback. Classes of other packages count as everyday where they have `is_expected = True`.

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
    """An error that is kept, to be raised once more: `raise renewed(self._error)`.

    One object that is raised again and again grows: each raise adds its frames to the traceback, and keeps
    what they hold. Two threads that raise it write into one traceback. So each raise gets a copy: of the same
    class, with the same attributes, cause and first traceback.

    Returns:
        The copy. The error itself, without its traceback, where its class cannot be copied.
    """
    kind = type(error)
    try:
        parts: Any = error.__reduce_ex__(2)
        _, args, *state = parts
        copy = kind.__new__(kind, *args)
        # Not an `__init__` in Python: what that takes need not be what it hands on to the builtin class.
        for base in kind.__mro__:
            if isinstance(init := vars(base).get("__init__"), WrapperDescriptorType):
                init(copy, *args)
                break
        copy.__dict__.update(*state)
        copy.__dict__.setdefault("_renewed_from", error)  # by which the copy is known again
        if any(vars(base).get("__slots__") for base in kind.__mro__):
            raise TypeError("values in slots would be missing")
    except Exception:  # noqa: BLE001 - whatever a class of a user's does when it is made
        return error.with_traceback(None)
    if notes := getattr(error, "__notes__", None):
        copy.__notes__ = list(notes)
    copy.__cause__, copy.__context__ = error.__cause__, error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)
