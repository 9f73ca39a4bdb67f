"""Ten thousand services and connections, a hundred thousand timers. The tests count operations."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from reactor import (
    YIELD,
    Handle,
    Reactor,
    ReadYield,
    Scope,
    Service,
    Signal,
    Sleep,
    SocketStream,
    Spawn,
    TcpListener,
    WriteYield,
    timeout_after,
)
from reactor.core.timers import FakeClock, Timer, Timers
from reactor.run.debug import (
    Tracer,
    add_tracer,
    dump,
)
from tests.reactor.helpers import assert_clean, forever
from tests.support.leaks import no_leaks

pytestmark = pytest.mark.full

MANY = 10_000
LIMIT_S = 60
# Beside the connections: standard streams, the listener, the poller, the wake-up pipe, pytest's own.
SPARE_DESCRIPTORS = 200


class Counts(Tracer):
    """Counts events."""

    def __init__(self) -> None:
        self.created = self.resumed = self.ended = 0

    def service_created(self, service: Handle[object]) -> None:
        self.created += 1

    def service_resumed(self, service: Handle[object]) -> None:
        self.resumed += 1

    def service_ended(self, service: Handle[object]) -> None:
        self.ended += 1


def test_ten_thousand_services(fake: Reactor) -> None:
    """Each waits for its neighbour; the wake passes through all of them, one step each."""
    signals = [Signal() for _ in range(MANY)]
    counts = Counts()
    add_tracer(fake, counts)

    def link(number: int) -> Service[int]:
        yield signals[number]
        if number + 1 < MANY:
            signals[number + 1].set()
        return number

    def main() -> Service[int]:
        handles = []
        for number in range(MANY):
            handles.append((yield Spawn(link(number))))
        yield YIELD
        yield YIELD
        assert len(fake.tasks) == MANY + 1
        assert dump(fake, limit=10).endswith(f"and {MANY + 1 - 10} more\n")
        signals[0].set()
        total = 0
        for handle in handles:
            total += yield from handle.join()
        return total

    with no_leaks(fake):
        assert fake.run(main()) == MANY * (MANY - 1) // 2
    # Two steps for each: up to its wait, and from there to its end.
    assert counts.created == counts.ended == MANY + 1
    assert 2 * MANY <= counts.resumed <= 3 * MANY + 100
    assert_clean(fake)


def test_ten_thousand_services_are_cancelled_together(fake: Reactor) -> None:
    def main() -> Service[None]:
        scope = Scope("many")
        for _ in range(MANY):
            yield from scope.spawn(timeout_after(60, forever()))
        yield YIELD
        yield YIELD
        assert len(fake.timers) == MANY
        yield from scope.close()

    with no_leaks(fake):
        fake.run(main())
    assert_clean(fake)


CLIENT = """
    import resource, socket, struct, sys
    port, many, limit = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    socks = []
    for count in range(many):
        if count % 100 == 99:
            # An answer shows that all earlier ones were accepted: each full backlog costs a second.
            socks[-1].send(b"x")
            socks[-1].recv(1)
        sock = socket.create_connection(("127.0.0.1", port))
        # Closed by a reset, so that no port stays in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socks.append(sock)
    for sock in socks:
        sock.send(b"x")
    print(sum(len(sock.recv(1)) for sock in socks), flush=True)
    for sock in socks:
        sock.shutdown(socket.SHUT_WR)
    print(sum(len(sock.recv(1)) for sock in socks), flush=True)
"""


@contextmanager
def descriptor_limit(wanted: int) -> Iterator[int]:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this system allows {hard} descriptors per process, the test needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_connections() -> None:
    """All are open simultaneously, each with an echo service; then the other sides close them."""
    most = [0]

    def echo(stream: SocketStream) -> Service[int]:
        reader, writer, count = ReadYield(stream), WriteYield(stream), 0
        with stream:
            while data := (yield from reader.read(100)):
                yield from writer.write_all(data)
                count += len(data)
        return count

    def serve(listener: TcpListener) -> Service[int]:
        handles = []
        for _ in range(MANY):
            stream = yield from listener.accept()
            handles.append((yield Spawn(echo(stream))))
        most[0] = len(reactor.tasks)
        total = 0
        for handle in handles:
            total += yield from handle.join()
        return total

    with contextlib.ExitStack() as stack:
        limit = stack.enter_context(descriptor_limit(MANY + SPARE_DESCRIPTORS))
        stack.enter_context(no_leaks())
        with TcpListener("127.0.0.1", 0, backlog=4_096) as listener, Reactor(slow_step_s=None) as reactor:
            port = listener.address[1]
            client = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(CLIENT), f"{port}", f"{MANY}", f"{limit}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            with client:
                try:
                    assert reactor.run(timeout_after(LIMIT_S, serve(listener))) == MANY + MANY // 100
                    out, _ = client.communicate(timeout=LIMIT_S)
                finally:
                    client.kill()
            assert out.split() == [f"{MANY}", "0"]
            assert client.returncode == 0
            assert most[0] == MANY + 1
            assert_clean(reactor)


class Counted(float):
    """A deadline that counts its comparisons, which are the work of a heap."""

    comparisons = 0

    def __lt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) < float(other)


@pytest.mark.parametrize(
    ("many", "order"), [(10_000, "first to last"), (10_000, "last to first"), (100_000, "any")]
)
def test_a_hundred_thousand_timers_and_their_cancelling(many: int, order: str) -> None:
    """Cancelling costs only the comparisons of a rebuild, which happens after as many cancellations."""
    rng = random.Random(1)
    timers, fired = Timers(), [0]

    def fire(_: object) -> None:
        fired[0] += 1

    Counted.comparisons = 0
    alive: list[Timer] = [timers.add(Counted(rng.random()), fire) for _ in range(many)]
    assert len(timers) == many
    # A heap in random order takes a few comparisons for each.
    assert Counted.comparisons < 6 * many
    if order == "any":
        rng.shuffle(alive)
    elif order == "last to first":
        alive.reverse()
    Counted.comparisons = 0
    kept = 100
    for count, timer in enumerate(alive[:-kept], 1):
        timers.cancel(timer)
        timers.cancel(timer)
        assert len(timers) == many - count
        # The memory depends on the number of pending timers only.
        assert len(timers.held) <= 2 * len(timers) + 65
    assert Counted.comparisons <= 3 * many
    assert timers.fire(2.0) == fired[0] == kept
    assert not timers.held


def test_many_sleepers_are_cancelled_without_a_trace(clock: FakeClock) -> None:
    many = 10_000
    with Reactor(clock=clock) as reactor, no_leaks(reactor):
        handles = [reactor.spawn(sleeper(number)) for number in range(many)]

        def main() -> Service[None]:
            yield YIELD
            yield YIELD
            assert len(reactor.timers) == many
            for handle in handles[1:]:
                handle.cancel()
            yield from handles[0].join()

        reactor.run(main())
        assert clock.now() == 1
        assert len(reactor.timers) == 0


def sleeper(number: int) -> Service[None]:
    yield Sleep(1 + number)
