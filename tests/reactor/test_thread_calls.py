"""Calls in threads: one that hangs blocks neither others nor the end of the program."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from reactor import (
    Broken,
    Handle,
    Reactor,
    RunInThread,
    Service,
    Sleep,
    Spawn,
    TcpListener,
    TimedOut,
    connect_tcp,
    timeout_after,
)
from reactor.core.threads import MOST_THREADS, THREADS
from tests.reactor.helpers import passes

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


def call(function: Any, *args: Any) -> Service[Any]:
    return (yield RunInThread(function, *args))


def hang_all(gate: threading.Event, count: int, limit_s: float = 0.01) -> Service[list[Handle[Any]]]:
    """Start a number of calls that hang; each is abandoned after a time limit."""
    handles = []
    for _ in range(count):
        handles.append((yield Spawn(timeout_after(limit_s, call(gate.wait)), "hangs")))
    for handle in handles:
        with pytest.raises(TimedOut):
            yield from handle.join()
    return handles


@pytest.mark.parametrize("count", [1, THREADS["calls"], 3 * THREADS["calls"]])
def test_calls_that_hang_and_were_given_up_leave_the_threads_to_others(count: int) -> None:
    gate = threading.Event()

    def main() -> Service[Any]:
        yield from hang_all(gate, count)
        return (yield from timeout_after(PATIENCE_S, call(len, "four")))

    with Reactor() as loop:
        try:
            assert loop.run(main()) == 4
            assert loop.threads.running == 0
        finally:
            gate.set()


def test_calls_that_are_waited_for_keep_to_the_limit() -> None:
    gate, lock = threading.Event(), threading.Lock()
    now, most = 0, 0
    begun = threading.Semaphore(0)

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        begun.release()
        assert gate.wait(PATIENCE_S)
        with lock:
            now -= 1

    def main() -> Service[None]:
        handles = []
        for _ in range(20):
            handles.append((yield Spawn(call(work))))
        opener = threading.Thread(target=open_gate)
        opener.start()
        for handle in handles:
            yield from handle.join()
        opener.join()

    def open_gate() -> None:
        for _ in range(THREADS["calls"]):
            assert begun.acquire(timeout=PATIENCE_S)
        gate.set()

    with Reactor() as loop:
        loop.run(main())
    assert most == THREADS["calls"]


def test_there_is_a_limit_on_threads_however_many_calls_hang() -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)
    before = threading.active_count()

    def hang() -> None:
        begun.release()
        gate.wait()

    def give_one_up() -> Service[None]:
        handle = yield Spawn(call(hang), "hangs")
        while not begun.acquire(blocking=False):
            yield Sleep(0.001)
        handle.cancel()

    def main() -> Service[None]:
        for _ in range(MOST_THREADS):
            yield from timeout_after(PATIENCE_S, give_one_up())
        yield from hang_all(gate, 30, 0.0)
        yield from hang_all(gate, 30, 0.01)
        assert threading.active_count() - before <= MOST_THREADS
        with pytest.raises(TimedOut):
            yield from timeout_after(0.01, call(len, "x"))
        gate.set()
        assert (yield from timeout_after(PATIENCE_S, call(len, "x"))) == 1

    with Reactor() as loop:
        try:
            loop.run(main())
        finally:
            gate.set()


def test_slow_names_hold_up_no_files_and_slow_files_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    real = socket.getaddrinfo

    def look_up(host: str, port: int, **options: Any) -> Any:
        if options.get("flags") == socket.AI_NUMERICHOST:
            return real(host, port, **options)
        return real("127.0.0.1", port, **options) if host == "fast.example" else gate.wait(PATIENCE_S) and []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def main() -> Service[None]:
        for number in range(8):
            yield Spawn(connect_tcp(f"slow-{number}.example", 1), "slow")
        assert (yield from timeout_after(PATIENCE_S, call(len, "x"))) == 1
        # Slow names do not block another name.
        (yield from connect_tcp("fast.example", port, timeout_s=PATIENCE_S)).close()
        for _ in range(8):
            yield Spawn(call(gate.wait, PATIENCE_S), "slow file")
        (yield from connect_tcp("fast.example", port, timeout_s=PATIENCE_S)).close()

    with TcpListener("127.0.0.1", 0) as listener, Reactor() as loop:
        port = listener.address[1]
        try:
            loop.run(main())
        finally:
            gate.set()


def test_a_call_in_the_queue_that_is_given_up_never_begins() -> None:
    gate, begun = threading.Event(), threading.Event()

    def main() -> Service[None]:
        stuck = []
        for _ in range(THREADS["calls"]):
            stuck.append((yield Spawn(call(gate.wait, PATIENCE_S))))
        yield from passes(2)
        with pytest.raises(TimedOut):
            yield from timeout_after(0.01, call(begun.set))
        gate.set()
        for handle in stuck:
            yield from handle.join()
        yield RunInThread(len, "x")

    with Reactor() as loop:
        loop.run(main())
    assert not begun.is_set()


def test_a_system_without_threads_is_an_error_in_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def main() -> Service[int]:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(Broken, match="no thread"):
                yield RunInThread(len, "x")
        length: int = yield RunInThread(len, "x")
        return length

    with Reactor() as loop:
        assert loop.run(main()) == 1


@pytest.mark.parametrize("what", [None, 5, "text"])
def test_a_service_that_cannot_be_called_is_refused_at_its_definition(what: Any) -> None:
    with pytest.raises(TypeError, match="a function and its arguments"):
        RunInThread(what)


@pytest.mark.full
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_program_with_calls_that_hang_ends(tmp_path: Path) -> None:
    """More hanging calls than threads, in the open of a FIFO; a call that is only slow still completes."""
    program = f"""
    import os, time
    from reactor import *
    os.mkfifo({str(tmp_path / "fifo")!r})
    def slow():
        time.sleep(0.3)
        open({str(tmp_path / "done")!r}, "w").close()
    def call(function, *args):
        yield RunInThread(function, *args)
    def main():
        yield Spawn(call(slow))
        for _ in range(9):
            yield Spawn(timeout_after(0.01, call(open, {str(tmp_path / "fifo")!r})))
        yield Sleep(0.1)
        print((yield RunInThread(len, "four")))
    with Reactor() as reactor:
        reactor.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, "4\n")
    assert (tmp_path / "done").exists()
