"""A stored error that is raised repeatedly: no object grows, and no two waiters share one."""

from __future__ import annotations

import asyncio
import gc
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from reactor import (
    Broken,
    ChannelFull,
    ConnectError,
    Reactor,
    ReactorThread,
    Select,
    Service,
    Spawn,
    ThreadPark,
    TimedOut,
    UnexpectedEnd,
)
from reactor.core.timers import FakeClock
from reactor.errors import renewed
from reactor.run.aio import AsyncioBridge
from tests.reactor.helpers import lost_stream, passes, run
from tests.support.kept_errors import TIMES, caught, check_that_nothing_grows, frames


def fail() -> Service[None]:
    yield from ()
    raise ZeroDivisionError("by the service")


def test_a_handle_raises_a_new_error_each_time() -> None:
    with Reactor(clock=FakeClock()) as reactor:
        handle = reactor.spawn(fail())
        handle.add_done_callback(lambda _: None)
        reactor.run(passes(3))
        check_that_nothing_grows(handle.result)
        check_that_nothing_grows(lambda: reactor.run(handle.join()))
        assert traceback.extract_tb(caught(handle.result).__traceback__)[-1].name == "fail"


def test_each_joiner_of_a_failed_service_gets_a_new_error() -> None:
    def join(handle: Any) -> Service[BaseException]:
        try:
            yield from handle.join()
        except ZeroDivisionError as error:
            return error
        raise AssertionError("it has failed")

    def service() -> Service[list[BaseException]]:
        failing = yield Spawn(fail())
        joining = []
        for _ in range(5):
            joining.append((yield Spawn(join(failing))))
        errors = []
        for handle in joining:
            errors.append((yield from handle.join()))
        return errors

    with Reactor(clock=FakeClock()) as reactor:
        errors = run(reactor, service())
    assert len({id(error) for error in errors}) == 5
    assert len({frames(error) for error in errors}) == 1


def test_the_choice_of_a_failed_service_can_be_asked_again() -> None:
    def service() -> Service[Any]:
        failing = yield Spawn(fail())
        return (yield Select(failing))

    with Reactor(clock=FakeClock()) as reactor:
        check_that_nothing_grows(run(reactor, service()).result)


def test_a_future_of_the_reactor_and_a_handle_of_a_thread_can_be_asked_again() -> None:
    with ReactorThread() as thread:
        future = thread.submit(fail())
        check_that_nothing_grows(lambda: future.result(10))
        assert future.exception() is future.exception()
    handle = ThreadPark().spawn(fail())
    check_that_nothing_grows(lambda: handle.wait(10))


def test_threads_that_ask_one_future_at_the_same_time_do_not_write_into_one_traceback() -> None:
    with ReactorThread() as thread, ThreadPoolExecutor(8) as pool:
        future = thread.submit(fail())
        asked = [pool.submit(lambda: caught(lambda: future.result(10))) for _ in range(200)]
        errors = [each.result(10) for each in asked]
    assert len({id(error) for error in errors}) == len(errors)
    assert len({frames(error) for error in errors}) == 1


def test_each_read_of_a_lost_connection_raises_the_loss() -> None:
    with lost_stream() as stream:
        check_that_nothing_grows(lambda: stream.read(9))
        check_that_nothing_grows(lambda: stream.readinto(bytearray(9)))
        error = caught(lambda: stream.read(9))
        assert isinstance(error, Broken)
        assert isinstance(error.__cause__, ConnectionResetError)


def test_a_failed_awaitable_gives_each_waiting_service_a_new_error() -> None:
    async def main() -> list[BaseException]:
        with ReactorThread() as thread:
            async with AsyncioBridge(thread.reactor) as bridge:
                failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                failing.set_exception(ZeroDivisionError("elsewhere"))
                errors: list[BaseException] = []
                for _ in range(9):
                    try:
                        await bridge.run(bridge.wait(failing))
                    except ZeroDivisionError as error:
                        errors.append(error)
                return errors

    errors = asyncio.run(main())
    assert len({id(error) for error in errors}) == 9
    assert len({frames(error) for error in errors}) == 1


class OwnArguments(Exception):
    """Its `__init__` takes other arguments than it passes on."""

    def __init__(self, place: str, *, code: int) -> None:
        super().__init__(f"{place} failed with {code}")
        self.code = code


class OwnOsError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "not here", path)
        self.path = path


class OwnNew(Exception):
    """It cannot be copied."""

    def __new__(cls, left: int, right: int) -> OwnNew:
        return super().__new__(cls)

    def __init__(self, left: int, right: int) -> None:
        super().__init__(left + right)


class Slotted(Exception):
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        super().__init__("slotted")
        self.value = value


COPIED: list[BaseException] = [
    OwnArguments("here", code=3),
    OwnOsError("file"),
    ConnectError("host", 1, 111, "refused", (OSError(111, "refused"),)),
    UnexpectedEnd(1, 2),
    TimedOut("late"),
    ChannelFull("full"),
    FileNotFoundError(2, "no such file", "name"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    KeyError("key"),
    StopIteration(5),
    SystemExit(3),
    ExceptionGroup("two", [ValueError("a"), ValueError("b")]),
]


@pytest.mark.parametrize("error", COPIED, ids=lambda error: type(error).__name__)
def test_a_copy_is_like_the_error_in_all_but_identity(error: BaseException) -> None:
    error.__cause__ = LookupError("why")
    error.add_note("a note")
    copy = renewed(error)
    assert copy is not error
    assert type(copy) is type(error)
    assert (str(copy), copy.args, copy.__cause__) == (str(error), error.args, error.__cause__)
    assert vars(copy) == {**vars(error), "_renewed_from": error}
    assert vars(renewed(copy))["_renewed_from"] is error
    for name in ("errno", "strerror", "filename", "object", "reason", "code", "value", "exceptions"):
        assert getattr(copy, name, None) == getattr(error, name, None)
    copy.add_note("another")
    assert error.__notes__ == ["a note"]


@pytest.mark.parametrize("error", [OwnNew(1, 2), Slotted(7)], ids=lambda error: type(error).__name__)
def test_an_error_that_cannot_be_copied_drops_its_traceback_instead(error: Exception) -> None:
    def raise_it() -> None:
        raise renewed(error)

    found = {frames(caught(raise_it)) for _ in range(TIMES)}
    assert len(found) == 1
    assert caught(raise_it) is error
    assert getattr(error, "value", 7) == 7


def test_the_frames_of_each_raise_are_let_go() -> None:
    kept = TimedOut("kept")
    held: list[weakref.ref[Any]] = []

    def call() -> None:
        local = OwnArguments("a local value of the frame", code=1)
        held.append(weakref.ref(local))
        raise renewed(kept)

    for _ in range(TIMES):
        caught(call)
    gc.collect()
    assert not any(reference() for reference in held)
