"""A stream passed from reader to reader: each rule, a state machine, and seeded runs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reactor import (
    YIELD,
    Broken,
    Busy,
    Cancelled,
    Closed,
    Handle,
    Reactor,
    ReadYield,
    Service,
    SocketStream,
    Spawn,
    timeout_after,
)
from reactor.core.timers import FakeClock
from tests.reactor.conftest import POLLERS
from tests.reactor.helpers import assert_clean, passes, run
from tests.reactor.interleaving import play
from tests.support.leaks import no_leaks
from tests.support.memory_pipe import memory_pipe

Ends = tuple[Any, Any]


def socket_ends() -> Ends:
    near, far = socket.socketpair()
    return SocketStream(near), SocketStream(far)


def memory_ends() -> Ends:
    return memory_pipe(1 << 16)


KINDS: dict[str, Callable[[], Ends]] = {"socket": socket_ends, "memory": memory_ends}


@pytest.fixture(params=list(KINDS))
def ends(request: pytest.FixtureRequest) -> Any:
    reader, writer = KINDS[request.param]()
    yield reader, writer
    reader.close()
    writer.close()


def read_on(stream: Any, into: bytearray) -> Service[str]:
    """Read until the stream ends or the service is cancelled. Returns which."""
    reader, buffer = ReadYield(stream), bytearray(7)
    try:
        while count := (yield from reader.readinto(buffer)):
            into += buffer[:count]
            yield YIELD
    except Cancelled:
        return "cancelled"
    except Broken:
        return "lost"
    except Closed:
        return "closed"
    return "end"


def test_plays() -> None:
    """The short form; `python -m tests.reactor.interleaving --seeds 10000` is the long one."""
    with no_leaks():
        for seed in range(300):
            play(seed)


def test_a_cancelled_reader_has_taken_nothing(reactor: Reactor, ends: Ends) -> None:
    reader, writer = ends
    got = bytearray()
    waiting = reactor.spawn(read_on(reader, got))
    reactor.run(passes(3))
    waiting.cancel()
    assert run(reactor, waiting.join()) == "cancelled"
    writer.write(b"for the second")
    assert run(reactor, ReadYield(reader).read_exactly(bytearray(14))) is None
    assert got == b""
    assert_clean(reactor)


def test_a_second_reader_is_refused_while_the_first_waits(reactor: Reactor, ends: Ends) -> None:
    reader, writer = ends
    got = bytearray()
    waiting = reactor.spawn(read_on(reader, got))
    reactor.run(passes(3))
    with pytest.raises(Busy):
        run(reactor, ReadYield(reader).readinto(bytearray(7)))
    writer.write(b"first's")
    writer.close()
    assert run(reactor, waiting.join()) == "end"
    assert got == b"first's"


def test_a_reader_cancelled_after_its_wake_loses_nothing(reactor: Reactor, ends: Ends) -> None:
    """The wake and the cancellation fall between the same two steps; the poller has no other event."""
    reader, writer = ends
    got, second_got = bytearray(), bytearray()

    def service() -> Service[str]:
        writer.write(b"x")
        # Drain the socket, so that the next read waits before it tries.
        yield from ReadYield(reader).readinto(bytearray(9))
        first = yield Spawn(read_on(reader, got))
        yield from passes(3)
        writer.write(b"late bytes")
        # By hand: the first reader is woken now, and the next line runs before its step.
        reactor.poller.poll(0, reactor.ready)
        first.cancel()
        assert (yield from first.join()) == "cancelled"
        second = yield Spawn(read_on(reader, second_got))
        yield from passes(3)
        writer.close()
        return (yield from second.join())  # type: ignore[no-any-return]

    assert run(reactor, service()) == "end"
    assert bytes(got + second_got) == b"late bytes"


def test_the_rest_of_a_part_is_for_the_next_reader(reactor: Reactor, ends: Ends) -> None:
    reader, writer = ends

    def service() -> Service[None]:
        writer.write(b"abcdef")
        assert (yield from ReadYield(reader).readinto(bytearray(2))) == 2
        assert (yield from ReadYield(reader).readinto(bytearray(9))) == 4

    run(reactor, timeout_after(5, service()))


def test_between_two_readers_bytes_wait(reactor: Reactor, ends: Ends) -> None:
    reader, writer = ends
    got = bytearray()
    first = reactor.spawn(timeout_after(5, read_on(reader, got)))
    reactor.run(passes(3))
    first.cancel()
    assert run(reactor, first.join()) == "cancelled"
    writer.write(b"kept")
    writer.close()
    reactor.run(passes(3))
    assert run(reactor, read_on(reader, got)) == "end"
    assert got == b"kept"


def test_each_reader_learns_of_the_end_and_of_the_loss(reactor: Reactor) -> None:
    reader, writer = socket_ends()
    reader.write(b"unread")
    writer.write(b"last")
    writer.close()
    got = bytearray()
    for _ in range(3):
        assert run(reactor, read_on(reader, got)) == "lost"
    assert got == b"last"
    reader.close()
    assert run(reactor, read_on(reader, got)) == "closed"


class PassingOn(RuleBasedStateMachine):
    """Any order of writing, ending, passing on, cancelling and running; the model is what was written."""

    @initialize(
        kind=st.sampled_from(list(KINDS)), poller=st.sampled_from(list(POLLERS)), seed=st.integers(0, 9)
    )
    def make(self, kind: str, poller: str, seed: int) -> None:
        self.is_socket = kind == "socket"
        self.reader, self.writer = KINDS[kind]()
        self.reactor = Reactor(clock=FakeClock(), poller=POLLERS[poller](), seed=seed, slow_step_s=None)
        self.sent, self.got = bytearray(), bytearray()
        self.ending: str | None = None
        self.holder: Handle[str] | None = None

    @precondition(lambda self: self.ending is None)
    @rule(data=st.binary(min_size=1, max_size=20))
    def write(self, data: bytes) -> None:
        assert self.writer.write(data) == len(data)
        self.sent += data

    @precondition(lambda self: self.ending is None)
    @rule()
    def end(self) -> None:
        self.writer.close()
        self.ending = "end"

    @precondition(lambda self: self.ending is None and self.is_socket)
    @rule()
    def lose(self) -> None:
        self.reader.write(b"unread")
        self.writer.close()
        self.ending = "lost"

    @rule()
    def pass_on(self) -> None:
        self._stop_holder()
        self.holder = self.reactor.spawn(read_on(self.reader, self.got))

    @precondition(lambda self: self.holder is not None)
    @rule()
    def cancel(self) -> None:
        assert self.holder is not None
        self.holder.cancel()

    @rule(count=st.integers(1, 4))
    def run_passes(self, count: int) -> None:
        self.reactor.run(passes(count))

    @rule()
    def poll(self) -> None:
        """Deliver the events before any service acts on them."""
        self.reactor.poller.poll(0, self.reactor.ready)

    @invariant()
    def nothing_is_doubled_or_out_of_order(self) -> None:
        if hasattr(self, "sent"):
            assert self.sent.startswith(self.got)

    def _stop_holder(self) -> None:
        if self.holder is not None:
            self.holder.cancel()
            outcome = run(self.reactor, timeout_after(1_000, self.holder.join()))
            assert outcome in ("cancelled", self.ending)

    def teardown(self) -> None:
        if not hasattr(self, "sent"):
            return
        if self.ending is None:
            self.end()
        try:
            self._stop_holder()
            last = self.reactor.spawn(read_on(self.reader, self.got))
            assert run(self.reactor, timeout_after(1_000, last.join())) == self.ending
            assert self.got == self.sent
            assert_clean(self.reactor)
        finally:
            self.reactor.close()
            self.reader.close()
            self.writer.close()


def test_any_order() -> None:
    run_state_machine_as_test(
        PassingOn,
        settings=settings(
            max_examples=settings().max_examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_the_plain_stream_may_be_passed_on_after_a_wait(reactor: Reactor) -> None:
    """One service waits, and passes the reading on to another, which had drained the stream before."""
    reader, writer = socket_ends()

    def service() -> Service[None]:
        later = ReadYield(reader)
        writer.write(b"abc")
        assert (yield from later.read(10)) == b"abc"
        assert reader.drained
        writer.write(b"def")
        yield reader.readable
        yield YIELD
        assert (yield from later.read(10)) == b"def"

    run(reactor, timeout_after(5, service()))
    reader.close()
    writer.close()
