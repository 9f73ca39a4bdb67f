"""Unix signals: `run_main` ends a program cleanly, and SIGUSR1 prints what its services are doing.

The interpreter runs signal handlers in the main thread, between two bytecodes, so possibly in the middle of
any function. Therefore the handlers only put a function into the loop's inbox. A loop that is about to sleep
would not look there, so the interpreter also writes a byte into the loop's wake-up pipe when the signal
arrives (`signal.set_wakeup_fd`). The dump is the exception: the handler makes it, since it is most useful
while a service blocks the loop. It changes nothing, and is written with `os.write`, since `print` is not
reentrant.

All handlers are restored at the end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, TypeVar

from reactor.core.loop import Reactor
from reactor.core.requests import Service
from reactor.core.task import Handle
from reactor.errors import BadRequest, Cancelled, Closed, check_type
from reactor.run.debug import dump

__all__ = ["dump_on_signal", "run_main"]

logger = logging.getLogger("reactor")

T = TypeVar("T")

_Handler = Callable[[int, FrameType | None], Any]

# SIGHUP is sent when the terminal is closed, and by service managers. Windows has none.
_ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_STDERR_FD: Final = 2


def run_main(
    reactor: Reactor,
    service: Service[T],
    *,
    name: str | None = None,
    dump_more: Callable[[], str] | None = None,
) -> T | None:
    """Run the main service of a program until it ends or a signal ends it.

    The first SIGINT (Ctrl-C), SIGTERM or SIGHUP (the terminal is closed) cancels the service, which cleans up
    and may wait while it does. The second raises `KeyboardInterrupt`, for SIGTERM `SystemExit(143)`, for
    SIGHUP `SystemExit(129)`, wherever the program is, also in a service that never yields. SIGUSR1 prints a
    dump of all services to stderr. A signal that is ignored (as SIGHUP by `nohup`) stays ignored.

    Args:
        dump_more: text of the program for the end of the dump, see `dump_on_signal`.
    Returns:
        The result of the service; None when a signal ended it.
    Raises:
        BadRequest: not called in the main thread, the only one that can catch signals.
        KeyboardInterrupt, SystemExit: after the second signal. The services are unchanged: close the reactor.
        Busy, Closed, any other: as for `Reactor.run`.
    """
    if threading.current_thread() is not threading.main_thread():
        raise BadRequest("run_main is for the main thread, where signals arrive; use Reactor.run here")
    check_type(reactor, Reactor, "reactor", "a Reactor")
    handle = reactor.spawn(service, name=name)
    ending = _Ending(reactor, handle)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_wake_on_signal(reactor))
        for number in _ENDING:
            stack.enter_context(_handled(number, ending.on_signal))
        if hasattr(signal, "SIGUSR1"):
            stack.enter_context(dump_on_signal(reactor, more=dump_more))
        try:
            reactor.run(_watch(handle))
        except Closed:
            if ending.forced is not None:
                raise ending.forced from None
            raise
    error = handle.error
    if isinstance(error, Cancelled) and ending.was_asked:
        return None
    return handle.result()


class _Ending:
    """Handler of the signals that end the program."""

    def __init__(self, reactor: Reactor, main: Handle[Any]) -> None:
        self.was_asked = False
        self.forced: BaseException | None = None
        self._reactor = reactor
        self._main = main

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.was_asked:
            # As a shell has it: 128 and the signal's number.
            self.forced = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
            # A function that catches every error would keep the program alive.
            self._reactor.post_from_signal(self._reactor.stop)
            raise self.forced
        self.was_asked = True
        self._reactor.post_from_signal(self._cancel, signal.Signals(number).name)

    def _cancel(self, name: str) -> None:
        logger.info("%s: ending", name)
        self._main.cancel(f"the program got {name}")


def _watch(handle: Handle[Any]) -> Service[None]:
    """Wait for the end, whatever the outcome."""
    with contextlib.suppress(Exception):
        yield from handle.join()


@contextlib.contextmanager
def dump_on_signal(
    reactor: Reactor,
    number: int | None = None,
    *,
    fd: int = _STDERR_FD,
    more: Callable[[], str] | None = None,
) -> Iterator[None]:
    """Print a dump of all services at each signal: `with dump_on_signal(reactor): reactor.run(...)`.

    Args:
        number: the signal; default SIGUSR1.
        fd: the descriptor to print to.
        more: text for the end of the dump. It is called in the signal handler, between any two bytecodes of
            the program: it must only read. If it fails, the dump shows the error.
    Raises:
        BadRequest: not called in the main thread, or the system has no SIGUSR1.
    """
    if number is None:
        number = getattr(signal, "SIGUSR1", None)
        if number is None:
            raise BadRequest("this system has no SIGUSR1, give another signal")
    if threading.current_thread() is not threading.main_thread():
        raise BadRequest("signals can be caught in the main thread only")

    def print_dump(number: int, frame: FrameType | None) -> None:
        text = dump(reactor)
        if more is not None:
            try:
                text += more()
            except Exception as error:  # noqa: BLE001 - raised here, it would end whatever runs now
                text += f"no more can be shown: {type(error).__name__}: {error}\n"
        _write_all(fd, text.encode("utf-8", "backslashreplace"))

    # A sleeping loop must wake, so that the interpreter can run the handler.
    with _wake_on_signal(reactor), _handled(number, print_dump):
        yield


def _write_all(fd: int, data: bytes) -> None:
    # A dump that cannot be printed must not end the program.
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _handled(number: int, handler: _Handler) -> Iterator[None]:
    before = signal.getsignal(number)
    # None: set by C code, and could not be restored. Ignored: on purpose.
    if before is None or before is signal.SIG_IGN:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _wake_on_signal(reactor: Reactor) -> Iterator[None]:
    # No warning for a full pipe: the loop will wake anyway.
    before = signal.set_wakeup_fd(reactor.wake_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
