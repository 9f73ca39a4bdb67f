"""Checks that a stored error does not grow when it is raised repeatedly."""

from __future__ import annotations

import traceback
from collections.abc import Callable

__all__ = ["TIMES", "caught", "check_that_nothing_grows", "frames"]

TIMES = 40


def frames(error: BaseException) -> int:
    """Number of frames that the error refers to, those of its causes and contexts included."""
    count, waiting, seen = 0, [error], set[int]()
    while waiting:
        error = waiting.pop()
        assert error.__cause__ is not error
        assert error.__context__ is not error
        if id(error) not in seen:
            seen.add(id(error))
            count += len(list(traceback.walk_tb(error.__traceback__)))
            waiting += [other for other in (error.__cause__, error.__context__) if other is not None]
    return count


def caught(call: Callable[[], object]) -> BaseException:
    """The error that the call raises."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - looked at by the caller
        return error
    raise AssertionError("nothing was raised")


def check_that_nothing_grows(call: Callable[[], object]) -> None:
    """Make a call that raises a stored error, alone and while another error is being handled."""
    errors = [caught(call) for _ in range(TIMES)]

    def in_a_handler() -> None:
        try:
            raise LookupError("something else")
        except LookupError:
            call()

    for _ in range(TIMES):
        caught(in_a_handler)
    errors.append(caught(call))
    assert len({id(error) for error in errors}) == len(errors)
    assert len({(type(error), str(error)) for error in errors}) == 1
    assert len({frames(error) for error in errors}) == 1
