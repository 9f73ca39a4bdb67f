"""Lending a read side: the rules one by one, a state machine that mixes them, and seeded plays."""

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
from reactor.errors import Lent
from reactor.io.memory import memory_pipe
from reactor.io.streams import (
    Loan,
    ReadSide,
)
from tests.reactor.conftest import POLLERS
from tests.reactor.helpers import assert_clean, passes, run
from tests.reactor.interleaving import play
from tests.support.leaks import no_leaks

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


def read_on(loan: Loan, into: bytearray) -> Service[str]:
    """Read until the loan or the stream is over, and say which."""
    reader, buffer = ReadYield(loan), bytearray(7)
    try:
        while count := (yield from reader.readinto(buffer)):
            into += buffer[:count]
    except Lent:
        return "lent"
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


def test_a_waiting_holder_is_told_once_and_has_taken_nothing(reactor: Reactor, ends: Ends) -> None:
    reader, writer = ends
    side = ReadSide(reader)
    first, got = side.lend("first"), bytearray()
    waiting = reactor.spawn(read_on(first, got))
    reactor.run(passes(3))
    second = side.lend("second")
    assert (first.is_good, second.is_good, side.loan) == (False, True, second)
    writer.write(b"for the second")
    assert run(reactor, ReadYield(second).read_exactly(bytearray(14))) is None
    assert run(reactor, waiting.join()) == "lent"
    assert got == b""
    assert "second" in repr(first)


def test_what_the_old_holder_was_woken_for_is_the_new_ones(reactor: Reactor, ends: Ends) -> None:
    """The wake and the move fall between the same two steps; all the news there are have been delivered."""
    reader, writer = ends
    side, got, second_got = ReadSide(reader), bytearray(), bytearray()

    def service() -> Service[str]:
        writer.write(b"x")
        # Drains the socket, so that the next read waits before it tries.
        yield from ReadYield(side.lend("earlier")).readinto(bytearray(9))
        first = yield Spawn(read_on(side.lend("first"), got))
        yield from passes(3)
        writer.write(b"news")
        # By hand: only now may the old holder be woken, and the next line comes before its step.
        reactor.poller.poll(0, reactor.ready)
        second = yield Spawn(read_on(side.lend("second"), second_got))
        assert (yield from first.join()) == "lent"
        yield from passes(3)
        writer.close()
        return (yield from second.join())  # type: ignore[no-any-return]

    assert run(reactor, service()) == "end"
    assert (bytes(got), bytes(second_got)) == (b"", b"news")


def test_the_first_wait_of_a_new_holder_is_answered(reactor: Reactor, ends: Ends) -> None:
    """Though the news of what is there were used up by one who took a part and stopped."""
    reader, writer = ends
    side = ReadSide(reader)

    def service() -> Service[None]:
        writer.write(b"abcdef")
        assert (yield from ReadYield(side.lend("first")).readinto(bytearray(2))) == 2
        loan = side.lend("second")
        yield loan.readable
        buffer = bytearray(9)
        assert loan.readinto(buffer) == 4

    run(reactor, timeout_after(5, service()))


def test_a_direct_reader_is_told_as_well(reactor: Reactor, ends: Ends) -> None:
    reader, writer = ends

    def direct() -> Service[str]:
        try:
            yield from ReadYield(reader).readinto(bytearray(3))
        except Lent:
            return "lent"
        return "read"

    waiting = reactor.spawn(direct())
    reactor.run(passes(3))
    loan = ReadSide(reader).lend("the first loan")
    writer.write(b"x")
    assert run(reactor, waiting.join()) == "lent"
    assert loan.readinto(bytearray(3)) == 1


def test_between_two_loans_bytes_wait(reactor: Reactor, ends: Ends) -> None:
    reader, writer = ends
    side, got = ReadSide(reader), bytearray()
    with side.lend("first") as loan:
        assert loan.is_good
    assert side.loan is None
    loan.give_back()
    side.end_loan()
    for use in (lambda: loan.readinto(bytearray(1)), lambda: loan.read(1), lambda: loan.readable):
        with pytest.raises(Lent, match="given back"):
            use()
    writer.write(b"kept")
    writer.close()
    assert run(reactor, read_on(side.lend("second"), got)) == "end"
    assert got == b"kept"


def test_a_loan_ends_within_a_timeout_and_leaves_nothing(reactor: Reactor, ends: Ends) -> None:
    reader, _ = ends
    side = ReadSide(reader)
    waiting = reactor.spawn(timeout_after(5, read_on(side.lend("first"), bytearray())))
    reactor.run(passes(3))
    side.end_loan("no longer wanted")
    assert run(reactor, waiting.join()) == "lent"
    assert_clean(reactor)


def test_each_holder_learns_of_the_end_and_of_the_loss(reactor: Reactor) -> None:
    reader, writer = socket_ends()
    side = ReadSide(reader)
    reader.write(b"unread")
    writer.write(b"last")
    writer.close()
    got = bytearray()
    for _ in range(3):
        assert run(reactor, read_on(side.lend(), got)) == "lost"
    assert got == b"last"
    reader.close()
    assert run(reactor, read_on(side.lend(), got)) == "closed"


class Lending(RuleBasedStateMachine):
    """Any order of writing, ending, lending, cancelling and running; the model is what was written."""

    @initialize(
        kind=st.sampled_from(list(KINDS)), poller=st.sampled_from(list(POLLERS)), seed=st.integers(0, 9)
    )
    def make(self, kind: str, poller: str, seed: int) -> None:
        self.is_socket = kind == "socket"
        self.reader, self.writer = KINDS[kind]()
        self.reactor = Reactor(clock=FakeClock(), poller=POLLERS[poller](), seed=seed, slow_step_s=None)
        self.side = ReadSide(self.reader)
        self.sent, self.got = bytearray(), bytearray()
        self.ending: str | None = None
        self.holders: list[tuple[Loan, Handle[str]]] = []
        self.cancelled: set[int] = set()

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

    @rule(name=st.sampled_from("abc"))
    def lend(self, name: str) -> None:
        loan = self.side.lend(name)
        self.holders.append((loan, self.reactor.spawn(read_on(loan, self.got))))

    @rule()
    def end_loan(self) -> None:
        self.side.end_loan()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        alive = [i for i, (_, handle) in enumerate(self.holders) if not handle.is_finished]
        if alive:
            number = data.draw(st.sampled_from(alive))
            self.holders[number][1].cancel()
            self.cancelled.add(number)

    @rule(count=st.integers(1, 4))
    def run_passes(self, count: int) -> None:
        self.reactor.run(passes(count))

    @rule()
    def poll(self) -> None:
        """Deliver the news, and let nobody act on them yet."""
        self.reactor.poller.poll(0, self.reactor.ready)

    @invariant()
    def nothing_is_doubled_or_out_of_order(self) -> None:
        if hasattr(self, "sent"):
            assert self.sent.startswith(self.got)

    @invariant()
    def one_waiter_at_most(self) -> None:
        if hasattr(self, "side"):
            assert sum(loan.is_good for loan, _ in self.holders) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "side"):
            return
        if self.ending is None:
            self.end()
        try:
            last = self.reactor.spawn(read_on(self.side.lend("last"), self.got))
            assert run(self.reactor, timeout_after(1_000, last.join())) == self.ending
            assert self.got == self.sent
            run(self.reactor, passes(3))
            for number, (_, handle) in enumerate(self.holders):
                assert handle.is_finished, number
                if number not in self.cancelled:
                    assert handle.result() in ("lent", self.ending)
            assert_clean(self.reactor)
        finally:
            self.reactor.close()
            self.reader.close()
            self.writer.close()


def test_any_order() -> None:
    run_state_machine_as_test(
        Lending,
        settings=settings(
            max_examples=settings().max_examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_the_plain_stream_may_be_passed_on_after_a_wait(reactor: Reactor) -> None:
    """Without a loan: one service waits, and hands the reading to another, which had drained it before."""
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
