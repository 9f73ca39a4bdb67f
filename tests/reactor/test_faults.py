"""Faults outside the loop: closed descriptors, failing pollers, signals, forks, invalid requests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from reactor import (
    BadRequest,
    Closed,
    Handle,
    Reactor,
    ReadYield,
    Service,
    Sleep,
    SocketStream,
    Spawn,
    timeout_after,
)
from reactor.core.poller import (
    FileDescriptor,
    Poller,
)
from reactor.core.timers import FakeClock
from tests.reactor.conftest import POLLERS
from tests.reactor.helpers import assert_clean, errors_logged, forever, give, passes, run
from tests.support.leaks import no_leaks

ROOT = Path(__file__).resolve().parents[2]
Pair = tuple[SocketStream, SocketStream]


def wait_readable(descriptor: FileDescriptor) -> Service[str]:
    """Wait once on a bare descriptor."""
    yield descriptor.readable
    return "try"


def pair_at(number: int) -> tuple[socket.socket, socket.socket]:
    """A new pair whose first socket has this free descriptor number."""
    near, far = socket.socketpair()
    if far.fileno() == number:
        near, far = far, near
    if near.fileno() != number:
        moved = socket.socket(fileno=os.dup2(near.fileno(), number))
        near.close()
        near = moved
    return near, far


def parked(reactor: Reactor, descriptor: FileDescriptor) -> Handle[str]:
    handle = reactor.spawn(wait_readable(descriptor), name="waiting")
    reactor.run(passes(3))
    return handle


def run_program(program: str, *warnings: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter, from the checkout, with these warning filters."""
    filters = [word for each in warnings for word in ("-W", each)]
    command = [sys.executable, *filters, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=ROOT, check=False)


@pytest.mark.parametrize("kind", list(POLLERS))
def test_closed_without_notice_under_a_waiter(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """No other service is disturbed. The waiter is woken or gets an error as soon as the system reports it.

    epoll forgets such a descriptor silently; there the waiter gets the error when the number is used again.
    """
    near, far = socket.socketpair()
    with far, Reactor(poller=POLLERS[kind](), clock=FakeClock()) as reactor:
        descriptor = FileDescriptor(near)
        waiting = parked(reactor, descriptor)
        number = near.fileno()
        near.close()
        reactor.run(passes(3))
        assert waiting.is_finished == (kind in ("PollSelector", "SelectSelector"))
        left, right = (SocketStream(sock) for sock in pair_at(number))
        with left, right:
            reading = reactor.spawn(ReadYield(left).read())
            reactor.run(passes(3))
            right.write(b"not disturbed")
            assert run(reactor, timeout_after(5, reading.join())) == b"not disturbed"
        if kind == "PollSelector":
            assert waiting.result() == "try"
        else:
            assert isinstance(waiting.error, Closed)
        told = sum("without close_notify" in text for text in errors_logged(caplog))
        assert told == (kind == "SelectSelector")
        descriptor.close_notify()


@pytest.mark.parametrize("kind", list(POLLERS))
def test_closed_without_notice_while_a_copy_lives(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The system still reports events of the copy under the old number. The loop must not spin on them."""
    near, far = socket.socketpair()
    with far, Reactor(poller=POLLERS[kind](), clock=FakeClock()) as reactor:
        descriptor = FileDescriptor(near)
        waiting = parked(reactor, descriptor)
        with near.dup():
            near.close()
            far.send(b"news for nobody")
            reactor.run(passes(3))
            errors_logged(caplog)
            assert waiting.is_finished
            calls = [0]
            plain = reactor.poller.poll

            def counted(timeout_s: float | None, ready: Any) -> None:
                calls[0] += 1
                plain(timeout_s, ready)

            # Endless events would make each poll return immediately: then time does not pass.
            reactor.poller.poll = counted  # type: ignore[method-assign]
            run(reactor, sleep(5))
            assert calls[0] <= 10
            errors_logged(caplog)
        assert not reactor.poller.has_waiters()


def sleep(seconds: float) -> Service[None]:
    yield Sleep(seconds)


def test_a_poller_that_fails_reaches_run_and_the_services_live(fake: Reactor, pair: Pair) -> None:
    left, right = pair
    plain, error = fake.poller.poll, OSError(5, "as the test wants")
    reading = fake.spawn(ReadYield(left).read())
    fake.run(passes(2))

    def fail(timeout_s: float | None, ready: Any) -> None:
        raise error

    fake.poller.poll = fail  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(OSError, match="as the test wants"):
            fake.run()
    fake.poller.poll = plain  # type: ignore[method-assign]
    right.write(b"alive")
    assert run(fake, reading.join()) == b"alive"
    assert_clean(fake, left)


def test_posts_after_a_failed_poll_still_arrive(poller: Poller) -> None:
    """After the failure the loop must know that it is not asleep."""
    plain = poller.poll

    def fail(timeout_s: float | None, ready: Any) -> None:
        raise OSError(5, "as the test wants")

    with Reactor(poller=poller) as reactor:
        poller.poll = fail  # type: ignore[method-assign]
        with pytest.raises(OSError, match="as the test wants"):
            reactor.run()
        poller.poll = plain  # type: ignore[method-assign]
        reactor.stop()
        reactor.run()


def test_a_closed_poller_is_an_error_not_a_spin() -> None:
    with Reactor() as reactor:
        reactor.poller.close()
        with pytest.raises((ValueError, OSError, RuntimeError)):
            reactor.run()


def test_nonsense_for_ever_does_not_starve_others(fake: Reactor) -> None:
    def nonsense() -> Service[None]:
        while True:
            try:
                yield None  # type: ignore[misc]
            except BadRequest:
                continue

    handle = fake.spawn(nonsense())
    assert run(fake, give(5)) == 5
    assert not handle.is_finished


def test_an_error_raised_by_a_resumed_generator_object_is_its_error(fake: Reactor) -> None:
    def started() -> Service[None]:
        yield Sleep(1)

    twice = started()
    first = fake.spawn(twice)
    second = fake.spawn(twice)
    fake.run(passes(3))
    # It received the answer of the other; it ends, and no other service is affected.
    assert first.is_finished or second.is_finished
    assert run(fake, give(5)) == 5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer that sends signals")
def test_signals_do_not_shorten_or_break_a_wait(poller: Poller) -> None:
    """PEP 475: an interrupted system call continues for the rest of its time."""
    came = [0]

    def note(*_: Any) -> None:
        came[0] += 1

    def service() -> Service[float]:
        start_s = time.monotonic()
        while came[0] < 5:
            yield Sleep(0.02)
        yield Sleep(0.02)
        return time.monotonic() - start_s

    before = signal.signal(signal.SIGALRM, note)
    try:
        with Reactor(poller=poller) as reactor:
            signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
            assert reactor.run(service()) >= 0.02
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["EpollPoller", "SelectorPoller"])
def test_a_forked_child_cannot_disturb_its_parent(kind: str) -> None:
    """The child closes the streams and the reactor; the parent's streams continue."""
    program = f"""
        import os, socket
        from reactor import *
        from reactor.core.poller import EpollPoller, SelectorPoller

        def answer(stream):
            return (yield from ReadYield(stream).read())

        left, right = (SocketStream(sock) for sock in socket.socketpair())
        reactor = Reactor(poller={kind}())
        reading = reactor.spawn(answer(left))
        def settle():
            yield YIELD
            yield YIELD
        reactor.run(settle())
        child = os.fork()
        if child == 0:
            try:
                reactor.run()
            except BadRequest as error:
                assert "fork" in str(error)
                left.close()
                reactor.close()
                with Reactor() as own:
                    own.run(settle())
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        right.write(b"not disturbed")
        print(reactor.run(reading.join()).decode())
        reactor.submit(settle())
        reactor.run(settle())
        left.close()
        right.close()
        reactor.close()
    """
    done = run_program(program, "error", timeout_s=30)
    assert (done.stdout, done.stderr) == ("not disturbed\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_everything_that_starts_a_service_is_refused_in_a_forked_child() -> None:
    """While the parent's loop runs in another thread, and continues. The child can make new reactors."""
    program = """
        import os
        from reactor import *
        from reactor.errors import Forked

        def one():
            yield YIELD
            return 1

        def forever():
            yield Signal()

        thread = ReactorThread().start()
        restart = Restart()
        resting = restart.spawn(forever())
        assert thread.submit(one()).result(20) == 1
        child = os.fork()
        if child == 0:
            refused = 0
            for use in (
                lambda: thread.submit(one()),
                lambda: thread.reactor.submit(one()),
                lambda: thread.reactor.spawn(one()),
                lambda: thread.reactor.run(one()),
                lambda: thread.reactor.run(),
                lambda: thread.reactor.post(print),
                lambda: thread.reactor.stop(),
                lambda: restart.spawn(one()),
                lambda: resting.unyield(),
                lambda: resting.wait(1),
            ):
                try:
                    use()
                except Forked as error:
                    refused += str(os.getppid()) in str(error)
            thread.close()
            restart.close()
            own = Blocker().spawn(one()).result()
            with ReactorThread() as thread, ThreadPool() as pool:
                own += thread.submit(one()).result(20) + pool.spawn(one()).wait(20)
            os._exit(10 * refused + own)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 103
        assert thread.submit(one()).result(20) == 1
        thread.close()
        restart.close()
        print("not disturbed")
    """
    done = run_program(program, "error", "ignore::DeprecationWarning")
    assert (done.stdout, done.stderr) == ("not disturbed\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_waits_of_the_parent_are_answered_in_a_forked_child() -> None:
    """Futures and handles that were taken before the fork. Callbacks stay with the parent."""
    program = """
        import asyncio, os
        from concurrent.futures import as_completed, wait
        from reactor import *
        from reactor.errors import Forked

        def one():
            yield YIELD
            return 1

        def late():
            yield from ends.receive()
            return 2

        ends = SharedChannel(4)
        thread, park, pool = ReactorThread().start(), ThreadPark(), ThreadPool(1)
        done, waiting = thread.submit(one()), thread.submit(late())
        parked, pooled = park.spawn(late()), pool.spawn(late())
        waiting.add_done_callback(lambda _: print("called", os.getpid() == parent))
        assert done.result(20) == 1
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            async def await_it():
                await asyncio.wrap_future(waiting)

            forked = 0
            for use in (
                lambda: waiting.result(5),
                lambda: waiting.result(),
                lambda: asyncio.run(await_it()),
                lambda: parked.wait(5),
                lambda: pooled.wait(5),
                lambda: pooled.result(),
                lambda: Blocker().spawn(pooled.join()).result(),
            ):
                try:
                    use()
                except Forked as error:
                    forked += str(parent) in str(error)
            assert isinstance(waiting.exception(), Forked)
            assert not wait([waiting], 5).not_done
            assert list(as_completed([waiting], 5)) == [waiting]
            assert done.result() == 1
            assert not waiting.cancel() and not pooled.cancel() and not pooled.unyield()
            own = ReactorThread().start()
            assert own.submit(one()).result(20) == 1
            os._exit(forked)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        for _ in range(3):
            ends.send_nowait(None)
        assert waiting.result(20) == parked.wait(20) == pooled.wait(20) == 2
        thread.close()
        pool.close()
    """
    done = run_program(program, "error", "ignore::DeprecationWarning")
    assert (done.stdout, done.stderr) == ("called True\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_call_that_was_submitted_before_the_fork_is_not_called_forgotten_in_the_child() -> None:
    program = """
        import gc, os
        from reactor import *

        reactor = Reactor()
        future = reactor.submit(connect_tcp("127.0.0.1", 9))
        child = os.fork()
        if child == 0:
            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
        reactor.close()
        print(future.done())
    """
    done = run_program(program, "always", "ignore::DeprecationWarning", timeout_s=30)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_service_that_forks_is_the_only_one_in_the_child() -> None:
    program = """
        import os
        from reactor import *
        from reactor.errors import Forked

        def other():
            for _ in range(100):
                print(os.getpid(), flush=True)
                yield YIELD

        def main():
            beside = yield Spawn(other())
            yield YIELD
            child = os.fork()
            if child == 0:
                yield YIELD
                print("goes on in the child", flush=True)
            yield from beside.join()
            return child

        reactor = Reactor()
        try:
            child = reactor.run(main())
        except Forked:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        reactor.close()
        print(os.getpid())
    """
    done = run_program(program, "error")
    assert done.stderr == ""
    assert set(done.stdout.split("\n")[:-1]) == {done.stdout.split("\n")[-2]}
    assert done.stdout.count("\n") == 101


@pytest.mark.parametrize("kind", list(POLLERS))
def test_a_closed_reactor_releases_everything(kind: str) -> None:
    def service(stream: SocketStream) -> Service[None]:
        yield Spawn(ReadYield(stream).read())
        yield Spawn(sleep(100))
        yield Spawn(forever())
        yield from passes(3)

    with no_leaks():
        reactor = Reactor(poller=POLLERS[kind](), clock=FakeClock())
        left, right = (SocketStream(sock) for sock in socket.socketpair())
        with left, right, no_leaks(reactor):
            for _ in range(3):
                reactor.run(service(left))
                for task in list(reactor.tasks):
                    task.cancel()
                reactor.run(passes(3))
        reactor.close()
