"""The wires behave like TCP connections, and break on request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reactor import Broken, Closed, ConnectError, Reactor, ReadYield, Service, Sleep, TimedOut, timeout_after
from reactor.core.timers import FakeClock
from tests.network_model.wires import (
    Fault,
    MemorySocket,
    Wire,
    Wires,
    doubled,
    flipped,
    lost,
    shortened,
)

ALICE, BOB = "20.1.0.1", "20.2.0.1"


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    with Reactor(clock=FakeClock(), slow_step_s=None) as reactor:
        yield reactor


@pytest.fixture
def wires(reactor: Reactor) -> Wires:
    return Wires(reactor)


def connect(wires: Wires) -> Wire:
    listener = wires.listen(BOB, 0)
    wires.reactor.run(wires.connect_from(ALICE)(BOB, listener.address[1]))
    wires.reactor.run(listener.accept())
    return wires.live[0]


def read_all(socket: MemorySocket) -> Service[bytes]:
    reader, content, buffer = ReadYield(socket), b"", bytearray(100)
    while count := (yield from reader.readinto(memoryview(buffer))):
        content += buffer[:count]
    return content


def test_bytes_arrive_in_order_and_the_end_after_them(reactor: Reactor, wires: Wires) -> None:
    alice, bob = connect(wires).ends
    assert bob.drained
    with pytest.raises(BlockingIOError):
        bob.readinto(bytearray(1))
    alice.write(b"one ")
    alice.write(b"two")
    alice.shutdown_write()
    assert reactor.run(read_all(bob)) == b"one two"
    bob.write(b"answer")
    bob.close()
    assert reactor.run(read_all(alice)) == b"answer"
    assert (alice.peername[0], bob.peername[0]) == (BOB, ALICE)
    with pytest.raises(Broken):
        alice.write(b"too late")
    alice.close()
    with pytest.raises(Closed):
        alice.readinto(bytearray(1))
    assert wires.live == []


def test_a_full_wire_refuses_until_it_is_read(wires: Wires) -> None:
    alice, bob = connect(wires).ends
    sent = alice.write(bytes(1 << 20))
    assert 0 < sent < 1 << 20
    with pytest.raises(BlockingIOError):
        alice.write(b"more")
    assert bob.readinto(bytearray(sent)) == sent
    assert alice.write(b"more") == 4


def test_bytes_take_their_time_and_stay_in_order(reactor: Reactor, wires: Wires) -> None:
    alice, bob = connect(wires).ends
    path = wires.path(ALICE, BOB)
    path.delay_s = 2.0
    alice.write(b"slow")
    path.delay_s = 0.0
    alice.write(b", but in order")  # does not overtake
    alice.shutdown_write()
    assert reactor.run(read_all(bob)) == b"slow, but in order"
    assert reactor.now() == 2.0


def test_held_bytes_arrive_when_released(reactor: Reactor, wires: Wires) -> None:
    alice, bob = connect(wires).ends
    wires.hold(ALICE, BOB)
    bob.write(b"held")
    bob.close()
    alice.write(b"unaware")  # of the end that is held too
    with pytest.raises(TimedOut):
        reactor.run(timeout_after(5, read_all(alice)))
    wires.heal()
    assert reactor.run(read_all(alice)) == b"held"


@pytest.mark.parametrize(
    ("fault", "arrives"),
    [(flipped(9), b"a`c"), (doubled, b"abcabc"), (shortened, b"a"), (lost, b"")],
    ids=["flipped", "doubled", "shortened", "lost"],
)
def test_a_fault_meets_one_write(reactor: Reactor, wires: Wires, fault: Fault, arrives: bytes) -> None:
    wire = connect(wires)
    wire.flows[0].fault = fault
    wire.ends[0].write(b"abc")
    wire.ends[0].write(b" on")
    wire.ends[0].shutdown_write()
    arrived = reactor.run(read_all(wire.ends[1]))
    assert arrived == arrives + b" on"


def test_both_ends_notice_a_cut(reactor: Reactor, wires: Wires) -> None:
    wire = connect(wires)

    def cut_soon() -> Service[None]:
        yield Sleep(1)
        wire.cut()

    reactor.spawn(cut_soon())
    with pytest.raises(Broken):
        reactor.run(read_all(wire.ends[0]))
    for end in wire.ends:
        with pytest.raises(Broken):
            end.write(b"x")
        end.close()
    assert wires.live == []


@pytest.mark.parametrize("case", ["nobody", "refused", "silent", "closed"])
def test_connections_that_fail(reactor: Reactor, wires: Wires, case: str) -> None:
    path = wires.path(ALICE, BOB)
    if case != "nobody":
        listener = wires.listen(BOB, 7000)
        with pytest.raises(OSError, match="in use"):
            wires.listen(BOB, 7000)
    path.refuses, path.is_silent = case == "refused", case == "silent"
    if case == "closed":
        listener.close()
        with pytest.raises(Closed):
            reactor.run(listener.accept())
    with pytest.raises(TimedOut if case == "silent" else ConnectError):
        reactor.run(timeout_after(10, wires.connect_from(ALICE)(BOB, 7000)))


def test_an_observer_sees_outgoing_records(reactor: Reactor, wires: Wires) -> None:
    seen: list[tuple[str, str, float, bytes]] = []
    wire = connect(wires)
    wires.observer = lambda passage: seen.append((passage.source, passage.target, passage.at_s, passage.data))
    wire.ends[0].write(b"abc")
    wire.ends[1].write(b"de")
    assert seen == [(ALICE, BOB, 0.0, b"abc"), (BOB, ALICE, 0.0, b"de")]
