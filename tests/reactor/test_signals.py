"""Signals, in separate processes: a clean end, a forced end, the dump, and restored handlers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reactor import (
    YIELD,
    BadRequest,
    Reactor,
    Service,
    run_main,
)
from reactor.core.timers import FakeClock
from reactor.run.signals import dump_on_signal
from tests.reactor.helpers import forever, give

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 30
HEAD = """
    import signal, sys
    from reactor import *
    from reactor.core.poller import EpollPoller, SelectorPoller
    from reactor.run.signals import dump_on_signal

    def say(text):
        print(text, flush=True)

    def forever():
        try:
            yield Signal()
        finally:
            say("cleaning up")
            yield Sleep(0.01)
            say("cleaned up")
"""


@contextmanager
def program(text: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program, and wait until it prints "ready"."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(HEAD) + textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("poller", ["EpollPoller", "SelectorPoller"])
def test_the_first_signal_ends_cleanly(number: signal.Signals, poller: str) -> None:
    """The loop sleeps without a timer: only the signal can wake it."""
    text = f"""
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        with Reactor(poller={poller}()) as reactor:
            reactor.post(say, "ready")
            assert run_main(reactor, forever()) is None
            say("goes on")
        assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
        assert signal.set_wakeup_fd(-1) == -1
    """
    with program(text) as process:
        process.send_signal(number)
        assert end(process) == (0, "cleaning up\ncleaned up\ngoes on\n", "")


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, -signal.SIGINT),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGHUP, 128 + signal.SIGHUP),
    ],
)
def test_the_second_signal_does_not_wait(number: signal.Signals, status: int) -> None:
    """A cleanup that never ends: first it waits for a `Signal`, then it blocks the loop."""
    text = """
        def stubborn():
            try:
                yield Signal()
            finally:
                say("never done")
                yield Signal()

        reactor = Reactor()
        reactor.post(say, "ready")
        try:
            run_main(reactor, stubborn())
        except BaseException as error:
            say(type(error).__name__)
            raise
    """
    with program(text) as process:
        assert process.stdout is not None
        process.send_signal(number)
        assert process.stdout.readline() == "never done\n"
        process.send_signal(number)
        returned, out, _ = end(process)
    assert out == ("KeyboardInterrupt\n" if number == signal.SIGINT else "SystemExit\n")
    assert returned == status


def test_the_second_signal_ends_the_loop_where_a_function_catches_every_error() -> None:
    text = """
        def stubborn():
            try:
                yield Signal()
            finally:
                try:
                    say("busy")
                    while True:
                        pass
                except BaseException:
                    pass
                yield Signal()

        reactor = Reactor()
        reactor.post(say, "ready")
        try:
            run_main(reactor, stubborn())
        except BaseException as error:
            say(type(error).__name__)
            raise
    """
    with program(text) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "busy\n"
        process.send_signal(signal.SIGTERM)
        assert end(process)[:2] == (128 + signal.SIGTERM, "SystemExit\n")


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As set by `nohup`."""
    text = """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with Reactor() as reactor:
            reactor.post(say, "ready")
            run_main(reactor, forever())
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    """
    with program(text) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert end(process) == (0, "cleaning up\ncleaned up\n", "")


def test_a_service_that_never_yields_is_ended_by_the_second() -> None:
    text = """
        def hog():
            try:
                say("ready")
                while True:
                    pass
            finally:
                say("out")
            yield

        with Reactor(slow_step_s=None) as reactor:
            run_main(reactor, hog())
    """
    with program(text) as process:
        # Two simultaneous signals may arrive as one: the kernel keeps one of each kind.
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        returned, out, err = end(process)
    assert out == "out\n"
    assert returned in (-signal.SIGINT, 128 + signal.SIGTERM)
    assert "hog" in err or returned > 0


def test_usr1_prints_what_each_service_waits_for() -> None:
    text = """
        def main():
            channel = Channel(1, "orders")
            yield Spawn(forever(), "quiet one")
            yield Spawn(channel.receive(), "receiver")
            yield Spawn(speaker())
            yield Sleep(1_000)

        def speaker():
            yield YIELD
            say("ready")

        with Reactor() as reactor:
            run_main(reactor, main(), name="the main one")
    """
    with program(text) as process:
        assert process.stderr is not None
        lines = []
        for _ in range(2):
            process.send_signal(signal.SIGUSR1)
            lines.append(process.stderr.readline())
            while " in receive\n" not in lines[-1]:
                assert lines[-1], lines
                lines.append(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        returned, _, _ = end(process)
    assert returned == 0
    text = "".join(lines)
    assert text.startswith("reactor: ")
    assert text.count("'quiet one' waits for a signal") == 2
    assert "'receiver' waits for an item of channel 'orders'\n    reactor/sync/channel.py:" in text
    assert re.search(r"'the main one' waits (999|1000)\.\d+ s more\n", text)


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ("'17 orders\\n'", "17 orders\n"),
        ("1 / 0", "no more can be shown: ZeroDivisionError: division by zero\n"),
    ],
)
def test_usr1_shows_text_of_the_program_last(more: str, shown: str) -> None:
    text = f"""
        def main():
            say("ready")
            yield Sleep(1_000)

        with Reactor() as reactor:
            run_main(reactor, main(), name="the main one", dump_more=lambda: {more})
    """
    with program(text) as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGUSR1)
        lines = [process.stderr.readline()]
        while lines[-1] != shown:
            assert lines[-1], lines
            lines.append(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        returned, _, _ = end(process)
    assert returned == 0  # the program has not noticed
    assert lines[0].startswith("reactor: ")


def test_usr1_shows_where_a_service_that_never_yields_is() -> None:
    text = """
        def spin():
            say("ready")
            while True:
                pass

        def hog():
            yield YIELD
            spin()

        with Reactor(slow_step_s=None) as reactor:
            run_main(reactor, hog())
    """
    with program(text) as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGUSR1)
        lines = [process.stderr.readline()]
        while " in spin\n" not in lines[-1]:
            assert lines[-1], lines
            lines.append(process.stderr.readline())
    assert "'hog' runs now\n" in lines
    assert any(line.endswith(" in hog\n") for line in lines)


def test_an_ignored_signal_stays_ignored() -> None:
    text = """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with Reactor() as reactor:
            reactor.post(say, "ready")
            run_main(reactor, forever())
    """
    with program(text) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert end(process)[0] == 0


def test_the_example_server_ends_cleanly_with_connections_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "echo_server.py"), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"listening at port {port}\n"
            with socket.create_connection(("127.0.0.1", port), LIMIT_S) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"hello"
                process.send_signal(signal.SIGINT)
                assert sock.recv(100) == b""
                assert end(process) == (0, "echoed 5 bytes\n", "")
        finally:
            process.kill()


def test_results_errors_and_handlers_in_this_process() -> None:
    def broken() -> Service[None]:
        yield YIELD
        raise ZeroDivisionError

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR1)
    with Reactor(clock=FakeClock()) as reactor:
        assert run_main(reactor, give(5)) == 5
        with pytest.raises(ZeroDivisionError):
            run_main(reactor, broken())
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR1))


def test_a_signal_wakes_a_loop_that_is_about_to_sleep() -> None:
    """Many signals from a thread, each answered before the next is sent: a lost one would hang the test."""
    rounds = 200
    came = threading.Event()

    def send() -> None:
        for _ in range(rounds):
            came.clear()
            os.kill(os.getpid(), signal.SIGUSR2)
            assert came.wait(LIMIT_S)

    count = [0]
    with Reactor() as reactor:

        def note() -> None:
            count[0] += 1
            came.set()
            if count[0] == rounds:
                reactor.stop()

        before = signal.signal(signal.SIGUSR2, lambda *_: reactor.post_from_signal(note))
        wakeup = signal.set_wakeup_fd(reactor.wake_fd, warn_on_full_buffer=False)
        sender = threading.Thread(target=send)
        try:
            sender.start()
            reactor.run()
            sender.join(LIMIT_S)
        finally:
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGUSR2, before)
    assert count[0] == rounds


def test_signals_are_for_the_main_thread() -> None:
    errors: list[str] = []

    def enter(reactor: Reactor) -> None:
        with dump_on_signal(reactor):
            pass

    def main() -> None:
        with Reactor() as reactor:
            uses: list[Callable[[], object]] = [
                lambda: run_main(reactor, forever()),
                lambda: enter(reactor),
            ]
            for use in uses:
                try:
                    use()
                except BadRequest as error:
                    errors.append(str(error))

    thread = threading.Thread(target=main)
    thread.start()
    thread.join(LIMIT_S)
    assert len(errors) == 2
