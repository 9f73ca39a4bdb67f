"""Warnings about calls that never ran: a forgotten `yield from`.

    reply.write(b"hello")  # makes a generator that nothing runs: nothing is written

Python warns about coroutines that were never awaited, but not about generators. So the public functions of
services put a `Reminder` into their generator. The first step of the generator settles the reminder. A
generator that is dropped before that drops its reminder too, and the reminder warns, unless the generator was
closed on purpose. Requests, such as `Sleep(1)`, hold a reminder until they are yielded.

There are two decorators because of their cost. `needs_yield_from` costs 0.5 µs a call and records the line of
the call. `reminded` costs 0.1 µs, for methods that a busy service calls for every few bytes. It reports the
line that dropped the call, which for a statement such as the one above is the same line.

Rule for changing this file: a settled reminder is reused, so only the generator may hold it.
"""

from __future__ import annotations

import dis
import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Generator
from types import CodeType, FrameType, FunctionType, GeneratorType
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from reactor.errors import check_type

__all__ = ["Reminder", "discard", "needs_yield_from", "remind", "reminded", "settle"]

logger = logging.getLogger("reactor")

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

# Each place is logged once, and no more places than this.
_MOST_PLACES: Final = 1_000
_logged: Final[set[tuple[str, int, str]]] = set()
# The state of `warnings` for each file, like the `__warningregistry__` of a module.
_registries: Final[dict[str, dict[Any, Any]]] = {}


class Reminder:
    """Warns when it is dropped without having been settled.

    Attributes:
        text: of the warning.
        code, position: place of the call; None, 0: unknown.
    """

    __slots__ = ("code", "position", "text")

    text: str
    code: CodeType | None
    position: int

    def __del__(self) -> None:
        # The settled reminders are dropped when the interpreter ends.
        if not sys.is_finalizing():
            _warn(self)


_settled: Final[list[Reminder]] = []

settle: Final = _settled.append
"""Record that the call of a reminder runs. Once per call."""


def remind(text: str) -> Reminder:
    """Make a reminder with the line that called the calling function."""
    try:
        reminder = _settled.pop()
    except IndexError:
        reminder = Reminder()
    reminder.text = text
    frame = sys._getframe(2)
    reminder.code = frame.f_code
    reminder.position = frame.f_lasti
    return reminder


def needs_yield_from(function: Callable[P, Generator[Any, Any, R]]) -> Callable[P, Generator[Any, Any, R]]:
    """Decorate a public generator function: a call that never runs warns, with the line of the call."""
    check_type(function, FunctionType, "needs_yield_from", "a generator function")
    text = _text_for(function)

    def run(service: Generator[Any, Any, R], reminder: Reminder) -> Generator[Any, Any, R]:
        settle(reminder)
        del reminder
        return (yield from service)

    # Services are named after their generator, which takes its name from this function.
    run.__name__, run.__qualname__ = function.__name__, function.__qualname__

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, R]:
        return run(function(*args, **kwargs), remind(text))

    return call


def reminded(
    method: Callable[Concatenate[S, Reminder, P], Generator[Any, Any, R]],
) -> Callable[Concatenate[S, P], Generator[Any, Any, R]]:
    """Decorate a public generator method that must be fast; its arguments have no defaults.

    The method takes the reminder as its second argument, and begins with `settle(reminder)` and
    `del reminder`.
    """
    first, _, *others = method.__code__.co_varnames[: method.__code__.co_argcount]
    scope: dict[str, Any] = {
        "method": method,
        "take": _settled.pop,
        "Reminder": Reminder,
        "text": _text_for(method),
    }
    exec(_REMINDED.format(name=method.__name__, first=first, others=", ".join(others)), scope)
    call: Any = functools.wraps(method)(scope[method.__name__])
    # `help` must not show the reminder, nor take the signature from the wrapped method.
    del call.__wrapped__, call.__annotations__["reminder"]
    call.__signature__ = inspect.signature(call)
    call.__wrapped__ = method
    return cast("Callable[Concatenate[S, P], Generator[Any, Any, R]]", call)


# Text, so that arguments keep their names and order: with `*args, **kwargs` an echo would cost 4 % more.
_REMINDED: Final = """
def {name}({first}, {others}):
    try:
        reminder = take()
    except IndexError:
        reminder = Reminder()
    reminder.text = text
    reminder.code = None
    return method({first}, reminder, {others})
"""


def _text_for(function: Callable[..., object]) -> str:
    # Some classes behind a public interface have a leading underscore.
    name = function.__qualname__.lstrip("_")
    return f"the call of {name}() was never run: write `yield from` before it"


def discard(service: object) -> None:
    """Close a service that will not be started, and the calls in its arguments, without a warning."""
    if isinstance(service, GeneratorType) and not (service.gi_suspended or service.gi_running):
        # It has ended, or not begun: then its frame still holds the arguments.
        arguments = {} if service.gi_frame is None else service.gi_frame.f_locals
        for argument in list(arguments.values()):
            if isinstance(argument, Reminder):
                settle(argument)
            else:
                discard(argument)
    if isinstance(service, Generator):
        service.close()


def _warn(reminder: Reminder) -> None:
    dropped_in = sys._getframe(2)
    if _calls_close(dropped_in):
        return  # its user has closed the generator, so it was not forgotten
    if reminder.code is not None:
        path, line = reminder.code.co_filename, _line_of(reminder.code, reminder.position)
    else:
        path, line = dropped_in.f_code.co_filename, dropped_in.f_lineno
    service = _service_of(dropped_in)
    place = path, line, reminder.text
    if service is not None and place not in _logged and len(_logged) < _MOST_PLACES:
        _logged.add(place)
        logger.warning("service %r, %s:%d: %s", service, path, line, reminder.text)
    warnings.warn_explicit(
        reminder.text, RuntimeWarning, path, line, registry=_registries.setdefault(path, {})
    )


def _calls_close(frame: FrameType) -> bool:
    """Whether a frame is in the middle of `something.close()`."""
    before = ""
    for instruction in dis.get_instructions(frame.f_code):
        if instruction.offset >= frame.f_lasti:
            return before == "close" and instruction.opname in ("PRECALL", "CALL")
        if instruction.opname in ("LOAD_METHOD", "LOAD_ATTR"):
            before = instruction.argval
        elif instruction.opname != "PRECALL":
            before = ""
    return False


def _line_of(code: CodeType, position: int) -> int:
    for start, end, line in code.co_lines():
        if start <= position < end and line is not None:
            return line
    return code.co_firstlineno


def _service_of(frame: FrameType | None) -> str | None:
    """Name the service that runs in this thread, if any."""
    while frame is not None:
        if frame.f_code.co_name == "_step" and frame.f_globals.get("__name__") == "reactor.core.loop":
            return str(frame.f_locals["task"].name)
        frame = frame.f_back
    return None
