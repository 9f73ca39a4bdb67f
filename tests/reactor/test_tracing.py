"""Tracers and the dump."""

from __future__ import annotations

import contextlib
import inspect
import re
import threading
from collections.abc import Generator
from typing import Any

import pytest

from reactor import (
    YIELD,
    BadRequest,
    Broken,
    Cancelled,
    Channel,
    Handle,
    Reactor,
    ReadYield,
    RunInThread,
    Service,
    Signal,
    Sleep,
    SocketStream,
    Spawn,
)
from reactor.core import loop
from reactor.core.timers import FakeClock
from reactor.run.debug import (
    Tracer,
    add_tracer,
    describe,
    dump,
    remove_tracer,
)
from tests.reactor.helpers import errors_logged, forever, give, passes, run

Pair = tuple[SocketStream, SocketStream]
LIMIT_S = 60


class Notes(Tracer):
    """Records its events."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def service_created(self, service: Handle[Any]) -> None:
        self.heard.append(("created", service.name))

    def service_resumed(self, service: Handle[Any]) -> None:
        self.heard.append(("resumed", service.name))

    def service_suspended(self, service: Handle[Any]) -> None:
        self.heard.append(("suspended", describe(service)))

    def service_ended(self, service: Handle[Any]) -> None:
        self.heard.append(("ended", describe(service)))

    def of(self, name: str) -> list[tuple[str, str]]:
        return [entry for entry in self.heard if name in entry[1]]


def test_a_tracer_is_called_for_each_event_of_a_service(fake: Reactor) -> None:
    notes = Notes()
    add_tracer(fake, notes)

    def child() -> Service[None]:
        yield Sleep(2)
        yield YIELD

    def parent() -> Service[None]:
        handle = yield Spawn(child(), "child")
        yield from handle.join()

    fake.run(parent(), name="parent")
    assert notes.of("'child'") + notes.of("child") != []
    assert [entry for entry in notes.heard if entry[1].strip("'").startswith("child")] == [
        ("created", "child"),
        ("resumed", "child"),
        ("suspended", "'child' waits 2.000 s more"),
        ("resumed", "child"),
        ("suspended", "'child' is ready to run"),
        ("resumed", "child"),
        ("ended", "'child' has ended"),
    ]
    assert notes.heard[-1] == ("ended", "'parent' has ended")
    assert ("suspended", "'parent' waits for the end of 'child'") in notes.heard


def test_a_failed_a_cancelled_and_a_forced_end_are_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "GRACE_S", 0.02)

    def fail() -> Service[None]:
        yield YIELD
        raise Broken("on purpose")

    def stubborn() -> Service[None]:
        with contextlib.suppress(Cancelled):
            yield from forever()
        yield from forever()

    notes = Notes()
    with Reactor(clock=FakeClock()) as reactor:
        add_tracer(reactor, notes)
        with pytest.raises(Broken):
            reactor.run(fail(), name="fail")
        reactor.spawn(forever(), name="forever")
        reactor.spawn(stubborn(), name="stubborn")
        reactor.run(passes(2))
    assert len(errors_logged(caplog)) == 1
    assert {name for event, name in notes.heard if event == "ended"} == {
        "'fail' has ended",
        "'passes' has ended",
        "'forever' has ended",
        "'stubborn' has ended",
    }


def test_without_tracers_the_loop_is_as_it_was(fake: Reactor) -> None:
    plain = dict(vars(fake))
    first, second = Notes(), Notes()
    add_tracer(fake, first)
    add_tracer(fake, second)
    with pytest.raises(BadRequest):
        add_tracer(fake, first)
    remove_tracer(fake, first)
    remove_tracer(fake, first)
    run(fake, give(1))
    assert first.heard == []
    assert second.heard != []
    remove_tracer(fake, second)
    assert vars(fake).keys() == plain.keys()
    heard = len(second.heard)
    run(fake, give(1))
    assert len(second.heard) == heard
    remove_tracer(fake, second)


@pytest.mark.parametrize(
    "event", ["service_created", "service_resumed", "service_suspended", "service_ended"]
)
def test_a_tracer_that_fails_is_removed_and_logged(
    fake: Reactor, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Notes):
        pass

    def fail(self: Failing, service: Handle[Any]) -> None:
        raise ZeroDivisionError

    setattr(Failing, event, fail)
    good = Notes()
    add_tracer(fake, Failing())
    add_tracer(fake, good)
    assert run(fake, give(5)) == 5
    logged = errors_logged(caplog)
    assert len(logged) == 1
    assert event in logged[0]
    assert ("ended", "'give' has ended") in good.heard


def test_a_tracer_may_remove_itself_during_a_call(fake: Reactor) -> None:
    class Once(Notes):
        def service_resumed(self, service: Handle[Any]) -> None:
            super().service_resumed(service)
            remove_tracer(fake, self)

    once = Once()
    add_tracer(fake, once)
    run(fake, give(1))
    assert [event for event, _ in once.heard if event != "created"] == ["resumed"]


SECRET = b"a secret payload"


def test_the_dump_shows_what_each_service_waits_for_and_where(reactor: Reactor, pair: Pair) -> None:
    left, _ = pair
    channel = Channel[bytes](1, "orders")
    gate = threading.Event()

    def sender() -> Service[None]:
        yield from channel.send(SECRET)
        yield from channel.send(SECRET)

    def waiter(signal: Signal) -> Service[None]:
        yield signal

    def writer() -> Service[None]:
        while True:
            try:
                left.write(SECRET * 1_000)
            except BlockingIOError:
                yield left.writable

    def looker() -> Service[str]:
        empty = Channel[int](1, "empty")
        yield Spawn(ReadYield(left).read(), "reader")
        yield Spawn(writer(), "writer")
        yield Spawn(sender(), "sender")
        yield Spawn(empty.receive(), "receiver")
        sleeper = yield Spawn(passing_sleep(), "sleeper")
        yield Spawn(sleeper.join(), "joiner")
        yield Spawn(waiter(Signal()), "waiter")
        yield Spawn(in_thread(gate), "caller")
        yield from passes(5)
        yield Spawn(give(1), "fresh")
        return dump(reactor)

    text = reactor.run(looker(), name="looker")
    gate.set()
    reactor.close()
    number = left.fileno()
    for line in [
        f"'reader' waits to read descriptor {number}",
        f"'writer' waits to write descriptor {number}",
        "'sender' waits for room in channel 'orders'",
        "'receiver' waits for an item of channel 'empty'",
        "'sleeper' waits 30.000 s more",
        "'joiner' waits for the end of 'sleeper'",
        "'waiter' waits for a signal",
        "'caller' waits for a call in a thread",
        "'fresh' is ready to run",
        "'looker' runs now",
    ]:
        assert f"\n{line}\n" in text, (line, text)
    assert text.startswith("reactor: 10 services, ")
    # From the service's own frame to the innermost, which is in the sleep.
    own, inner = inspect.getsourcelines(passing_sleep)[1], inspect.getsourcelines(inner_sleep)[1]
    here = "reactor/test_tracing.py"
    assert f"    {here}:{own + 1} in passing_sleep\n    {here}:{inner + 2} in inner_sleep\n" in text
    # The running service: from the loop down to this call.
    assert re.search(r"'looker' runs now\n    reactor/test_tracing.py:\d+ in looker\n('|$)", text)
    assert SECRET.decode() not in text


def passing_sleep() -> Service[None]:
    yield from inner_sleep()


def inner_sleep() -> Service[None]:
    yield YIELD
    yield Sleep(30)


def in_thread(gate: threading.Event) -> Service[None]:
    yield RunInThread(gate.wait, LIMIT_S)


def test_a_dump_of_many_is_cut_and_of_none_is_short(fake: Reactor) -> None:
    assert dump(fake) == "reactor: 0 services, 0 ready, 0 timers\n"
    for _ in range(10):
        fake.spawn(forever())
    fake.run(passes(2))
    text = dump(fake, limit=3)
    assert text.count("waits for a signal") == 3
    assert text.endswith("and 7 more\n")


class HandMade(Generator[Any, Any, None]):
    """A service that was not made by a generator function: it has no frame to show."""

    def send(self, value: Any) -> Any:
        return Sleep(1)

    def throw(self, *error: Any) -> Any:
        raise error[0]


def test_a_service_without_frames_is_described_as_far_as_possible(fake: Reactor) -> None:
    def outer() -> Service[None]:
        yield from HandMade()

    fake.spawn(HandMade(), name="bare")
    fake.spawn(outer(), name="outer")
    fake.run(passes(2))
    text = dump(fake)
    assert "'bare' waits 1.000 s more\n    in HandMade, which has no frame\n" in text
    assert re.search(
        r"'outer' waits 1.000 s more\n    .* in outer\n    in HandMade, which has no frame\n", text
    )


def test_a_description_of_an_ended_task_and_of_other_objects(fake: Reactor) -> None:
    handle = fake.spawn(give(1), name="it")
    fake.run(passes(3))
    assert describe(handle) == "'it' has ended"
    assert describe(Handle("far")) == "'far' runs elsewhere"
