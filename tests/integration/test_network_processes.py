"""A network as its users run it: `mtun network`, `up`, `ping`, `send`, `get`, in separate processes.

Nothing sleeps: each step waits for a line, for the end of a process, or for the end of a pipe.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reactor import ReactorThread
from tests.support.network import wait_until
from tests.support.terminal import read_terminal

pytestmark = pytest.mark.full

PROJECT = Path(__file__).resolve().parents[2]
# Only reached when something hangs, so it is long: the machine may be busy.
PATIENCE_S = 120.0
TRANSFER_S = 900.0
MIB = 1 << 20


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PROJECT)}


def mtun(
    *arguments: str | Path, status: int = 0, patience_s: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    """Run one command until it ends."""
    done = subprocess.run(
        [sys.executable, "-m", "tunnel", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=patience_s,
        env=environment(),
        check=False,
    )
    assert done.returncode == status, f"{arguments}: {done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def asked(*arguments: str | Path, status: int = 0, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    done = mtun(*arguments, "--json", status=status, patience_s=patience_s)
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


class Running:
    """A running command: `up`, or `node`. Its events are JSON lines."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tunnel", *map(str, arguments), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def event(self) -> dict[str, Any]:
        """The next line; a process that prints nothing for long is killed, and the test fails."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(PATIENCE_S, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, f"ended: {self.process.communicate()}"
        event: dict[str, Any] = json.loads(line)
        return event

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Signal it and wait. Returns its status and its stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def running(*arguments: str | Path) -> Iterator[Running]:
    command = Running(*arguments)
    try:
        yield command
    finally:
        command.close()


@contextlib.contextmanager
def network(folder: Path, nodes: int) -> Iterator[tuple[Running, dict[str, Any]]]:
    """A running network, and the first events of its nodes, by name."""
    mtun("network", folder, "--nodes", str(nodes))
    with running("up", folder) as up:
        event = up.event()
        assert event["event"] == "ready"
        assert len(event["nodes"]) == nodes
        yield up, event["nodes"]


def is_gone(pid: int) -> bool:
    """Neither running nor a zombie."""
    return not Path(f"/proc/{pid}").exists()


def peak_bytes(pid: int) -> int:
    """The peak memory of a process."""
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    ("nodes", "hops", "megabytes"),
    [
        (5, 3, 2),
        pytest.param(25, 3, 256, marks=pytest.mark.slow),
        pytest.param(25, 10, 256, marks=pytest.mark.slow),
    ],
)
def test_a_network_from_its_making_to_control_c(
    tmp_path: Path, nodes: int, hops: int, megabytes: int
) -> None:
    net, far = tmp_path / "net", f"node-{nodes - 1}"
    content = tmp_path / "content.bin"
    block = os.urandom(MIB)
    content.write_bytes(b"".join(block + bytes([number]) for number in range(megabytes)))
    digest = hashlib.sha256(content.read_bytes()).hexdigest()
    at = ("--network", net, "--hops", str(hops))
    with network(net, nodes) as (up, ready):
        pinged = asked("ping", far, *at, "--count", "3")
        assert (pinged["ok"], pinged["answered"], pinged["hops"]) == (True, 3, hops)
        assert pinged["id"] == ready[far]["id"]
        route = asked("route", ready[far]["id"][:12], *at)
        assert [hop["name"] for hop in route["hops"]][-1] == far
        assert len(route["hops"]) == hops + 1
        sent = asked("send", content, far, *at, patience_s=TRANSFER_S)
        assert (sent["sha256"], sent["bytes"]) == (digest, content.stat().st_size)
        again = asked("send", content, far, *at)
        assert again["moved_bytes"] == 0  # the file is stored already
        files = asked("get", far, *at)["files"]
        assert files == [{"name": "content.bin", "size": content.stat().st_size}]
        output = ("--output", tmp_path / "back.bin")
        asked("get", far, "content.bin", *at, *output, patience_s=TRANSFER_S)
        with (tmp_path / "back.bin").open("rb") as back:
            assert hashlib.file_digest(back, "sha256").hexdigest() == digest
        missing = mtun("get", far, "none.bin", *at, status=1)
        assert "NOT_FOUND" in missing.stderr
        assert "hint:" in missing.stderr
        peaks = [peak_bytes(node["pid"]) for node in ready.values()]
        status, errors = up.stop()
        assert (status, errors) == (0, "")
        assert max(peaks) < min(peaks) + 64 * MIB, "memory does not grow with what passes"
        assert all(is_gone(node["pid"]) for node in ready.values())
    for index in range(nodes):
        home = net / f"node-{index}"
        assert (home / "state" / "replay").exists(), "each node has stopped in order"
        assert "Traceback" not in (home / "log").read_text()
    unreachable = mtun("ping", far, *at, "--count", "1", status=1)
    assert "did not answer" in unreachable.stderr


def test_a_second_up_is_refused_and_touches_nothing_of_the_first(tmp_path: Path) -> None:
    net = tmp_path / "net"
    with network(net, 2) as (up, ready):
        logs = {path: path.stat().st_ino for path in net.glob("node-*/log")}
        for path in logs:
            path.write_text("the first one's log")
        refused = mtun("up", net, status=1)
        assert f"error: {net} is running already (process {up.process.pid})\nhint: " in refused.stderr
        assert {path: path.stat().st_ino for path in net.glob("node-*/log")} == logs
        assert {path.read_text() for path in logs} == {"the first one's log"}
        assert asked("ping", "node-1", "--network", net, "--hops", "0")["ok"] is True
        # Also when the nodes run without `up`.
        (net / "lock").unlink()
        refused = mtun("up", net, status=1)
        assert f"is in use by a running node (process {ready['node-0']['pid']})" in refused.stderr
        assert {path.read_text() for path in logs} == {"the first one's log"}
    with running("up", net) as again:
        assert again.event()["ok"] is True


def test_a_node_that_dies_is_reported_and_is_used_again_when_it_is_back(tmp_path: Path) -> None:
    net = tmp_path / "net"
    # With four nodes a route of two proxies has room for one choice only: node-1 is on two of three of them.
    at = ("--network", net, "--hops", "2")
    with network(net, 4) as (up, ready):
        assert asked("ping", "node-3", *at)["ok"]
        os.kill(ready["node-1"]["pid"], signal.SIGKILL)
        event = up.event()
        assert (event["event"], event["name"], event["status"]) == ("ended", "node-1", -signal.SIGKILL)
        assert "log_tail" in event
        assert is_gone(ready["node-1"]["pid"])
        for how in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            failed = asked("ping", "node-1", "--network", net, "--hops", "0", "--count", "1", status=1)
            assert failed["answered"] == 0
            with running("node", "--config", net / "node-1" / "node.toml") as node:
                again = node.event()
                for key in ("event", "id", "listen", "peers"):
                    assert again[key] == ready["node-1"][key]
                for target in ("node-1", "node-3", "node-0"):
                    assert asked("ping", target, *at, "--count", "3")["ok"], target
                assert node.stop(how)[0] == (0 if how == signal.SIGTERM else -how)
        status, errors = up.stop(signal.SIGTERM)
        assert status == 1, "a node has died"
        assert "error: node-1 ended with status -9" in errors
        assert "hint: restart it with: mtun node --config" in errors


def test_two_nodes_on_one_state_folder_and_damaged_state_are_refused(tmp_path: Path) -> None:
    net = tmp_path / "net"
    mtun("network", net, "--nodes", "2")
    config, state = net / "node-0" / "node.toml", net / "node-0" / "state"
    with running("node", "--config", config) as node:
        assert node.event()["event"] == "ready"
        second = mtun("node", "--config", config, status=1)
        assert f"error: {state} is in use by a running node (process {node.process.pid})" in second.stderr
        assert "hint: to use the running node: " in second.stderr
        assert node.stop(signal.SIGTERM)[0] == 0
    good = (state / "replay").read_bytes()
    (state / "replay").write_bytes(good[:-1])
    damaged = mtun("node", "--config", config, status=1)
    assert "Delete the file" in damaged.stderr
    with running("up", net) as up:
        up.process.wait(PATIENCE_S)
        _, errors = up.process.communicate()
        assert up.process.returncode == 1
        assert "error: node-0 ended with status 1; its log" in errors
        assert "Delete the file" in errors
    (state / "replay").write_bytes(good)
    with running("node", "--config", config) as node:
        assert node.event()["event"] == "ready"
        assert node.stop(signal.SIGINT)[0] == 0


def test_a_client_with_a_configuration_file_and_one_with_a_peer_file(tmp_path: Path) -> None:
    config, keys = tmp_path / "own.toml", tmp_path / "state" / "keys"
    config.write_text('[node]\nlisten = "none"\n[peers]\nfiles = ["net/peers"]\n')
    mtun("keygen", keys)
    with network(tmp_path / "net", 3) as (up, ready):
        for _ in range(2):
            assert asked("ping", "node-2", "--config", config, "--hops", "2", "--count", "2")["ok"]
            assert (keys.parent / "replay").exists()
        peers = tmp_path / "net" / "peers"
        assert asked("ping", ready["node-0"]["id"], "--peers", peers, "--hops", "1")["ok"]
        assert up.stop()[0] == 0


def test_another_network_is_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = tmp_path / "net"
    at = ("ping", "node-1", "--network", net, "--hops", "0", "--count", "1")
    monkeypatch.setenv("MTUN_SERVICE_NAMES", "")
    with network(net, 2) as (up, _):
        assert asked(*at)["ok"]  # it refuses the unknown service, so it runs
        refused = mtun("get", "node-1", "--network", net, "--hops", "0", status=1)
        assert "TARGET_NOT_ALLOWED" in refused.stderr
        assert up.stop()[0] == 0
    monkeypatch.setenv("MTUN_NODE_NETWORK", "5a" * 16)
    monkeypatch.setenv("MTUN_NODE_PRIVATE_RANGES", "127.0.0.0/8")
    with network(tmp_path / "other", 2) as (up, _):
        # A client of the network called local may dial them; they have another name.
        monkeypatch.delenv("MTUN_NODE_NETWORK")
        at = ("ping", "node-1", "--network", tmp_path / "other", "--hops", "0", "--count", "1")
        assert asked(*at, status=1)["answered"] == 0
        assert up.stop()[0] == 0


def test_a_separate_network_must_declare_its_private_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = tmp_path / "net"
    mtun("network", net, "--nodes", "5")
    monkeypatch.setenv("MTUN_NODE_NETWORK", "5a" * 16)
    refused = mtun("node", "--config", net / "node-0" / "node.toml", status=2)
    assert "[node] private_ranges" in refused.stderr
    monkeypatch.setenv("MTUN_NODE_PRIVATE_RANGES", "127.0.0.0/8")
    at = ("ping", "node-1", "--network", net, "--count", "1")
    with running("up", net) as up:
        assert up.event()["event"] == "ready"
        assert asked(*at, "--hops", "2")["ok"]
        monkeypatch.delenv("MTUN_NODE_PRIVATE_RANGES")
        told = mtun(*at, "--hops", "0", "--json", status=1)
        assert "private addresses only, in no range declared" in told.stdout
        assert up.stop()[0] == 0


def test_a_node_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    mtun("network", tmp_path / "net", "--nodes", "2")
    with running("up", tmp_path / "net", "--stop-timeout", "1") as up:
        ready = up.event()["nodes"]
        os.kill(ready["node-1"]["pid"], signal.SIGSTOP)
        status, errors = up.stop()
        assert status == 1
        assert "error: node-1 did not stop in time and was killed" in errors
        assert all(is_gone(node["pid"]) for node in ready.values())


def test_a_second_control_c_does_not_wait(tmp_path: Path) -> None:
    mtun("network", tmp_path / "net", "--nodes", "2")
    with running("up", tmp_path / "net", "--stop-timeout", "600") as up:
        ready = up.event()["nodes"]
        os.kill(ready["node-1"]["pid"], signal.SIGSTOP)
        first = os.pidfd_open(ready["node-0"]["pid"])
        up.process.send_signal(signal.SIGINT)
        _wait_for_end(first)  # so the first signal has been handled
        status, errors = up.stop()
        assert (status, "error: interrupted" in errors) == (130, True)
        assert all(is_gone(node["pid"]) for node in ready.values())


def test_a_bar_on_a_terminal_and_control_c_in_the_middle(tmp_path: Path) -> None:
    with (tmp_path / "content").open("wb") as file:
        file.truncate(512 * MIB)  # more than is moved in the second before the bar is shown
    with network(tmp_path / "net", 5) as (up, _):
        arguments = ["send", str(tmp_path / "content"), "node-4", "--network", str(tmp_path / "net")]
        terminal, stderr = os.openpty()
        send = subprocess.Popen(
            [sys.executable, "-m", "tunnel", *arguments], stderr=stderr, env=environment()
        )
        os.close(stderr)
        watchdog = threading.Timer(PATIENCE_S, send.kill)
        watchdog.start()
        try:
            read_terminal(terminal, "MiB")
            send.send_signal(signal.SIGINT)
            assert "error: interrupted" in read_terminal(terminal, "error: interrupted")
            assert send.wait(PATIENCE_S) == 130
        finally:
            watchdog.cancel()
            send.kill()
            send.wait()
            os.close(terminal)
        assert list((tmp_path / "net" / "node-4" / "files").glob(".*.part")), "to be resumed"
        assert asked("ping", "node-4", "--network", tmp_path / "net")["ok"]
        assert up.stop()[0] == 0


def test_killed_proxies_cost_a_retry_in_send_get_and_ping(tmp_path: Path) -> None:
    """Of three proxies one dies in the middle of `send`, another of `get`; `ping` finds the third."""
    net, content = tmp_path / "net", tmp_path / "content"
    with content.open("wb") as file:
        file.truncate(256 * MIB)  # more than is moved in the second before the bar is shown
        file.write(os.urandom(MIB))
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    at = ["--network", str(net), "--hops", "1"]
    with network(net, 4) as (up, ready):
        proxies = {f"node-{index}" for index in range(3)}
        back = ["--output", str(tmp_path / "back")]
        for arguments in (["send", str(content), "node-3"], ["get", "node-3", "content", *back]):
            dead, said = _kill_the_proxy_of([*arguments, *at], {name: ready[name]["pid"] for name in proxies})
            event = up.event()
            assert (event["event"], event["name"]) == ("ended", dead)
            proxies.remove(dead)
            assert digest in said
        with (tmp_path / "back").open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == digest
        # A client that knows of no failure yet. Ten draws miss both dead nodes once in 59,049 runs.
        pinged = asked("ping", "node-3", *at, "--count", "10", "--retries", "2")
        assert (pinged["ok"], pinged["answered"]) == (True, 10)
        assert 1 <= pinged["retried"] <= 2
        again = ["node-3", *at, "--retries", "2"]
        assert [hop["name"] for hop in asked("route", *again)["hops"]] == [*proxies, "node-3"]
        assert asked("bench", *again, "--count", "2", "--size", "1MiB")["hops"] == 1
        status, errors = up.stop()
        assert status == 1, "two nodes have died"
        assert errors.count("ended with status -9") == 2
        assert "Traceback" not in (net / "node-3" / "log").read_text()


def _kill_the_proxy_of(arguments: list[str], proxies: dict[str, int]) -> tuple[str, str]:
    """Run a command on a terminal, and kill its only proxy, the busiest node, when it shows its progress bar.

    Returns the proxy's name and the command's output; the command must have succeeded.
    """
    before = {name: _cpu_ticks(pid) for name, pid in proxies.items()}
    terminal, stderr = os.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "tunnel", *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment(),
    )
    os.close(stderr)
    watchdog = threading.Timer(TRANSFER_S, command.kill)
    watchdog.start()
    try:
        read_terminal(terminal, "MiB")
        busiest = max(proxies, key=lambda name: _cpu_ticks(proxies[name]) - before[name])
        assert command.poll() is None, "moved before the bar was shown: needs a larger file"
        os.kill(proxies[busiest], signal.SIGKILL)
        shown = read_terminal(terminal)
        assert command.stdout is not None
        said = command.stdout.read()
        assert command.wait(PATIENCE_S) == 0, shown
    finally:
        watchdog.cancel()
        command.kill()
        command.communicate()
        os.close(terminal)
    return busiest, said


def _cpu_ticks(pid: int) -> int:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_nodes_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    with network(tmp_path / "net", 2) as (up, ready):
        descriptors = [os.pidfd_open(node["pid"]) for node in ready.values()]
        up.process.kill()
        up.process.wait(PATIENCE_S)
        for descriptor in descriptors:
            _wait_for_end(descriptor)
    for index in range(2):
        assert (tmp_path / "net" / f"node-{index}" / "state" / "replay").exists()


def _wait_for_end(pidfd: int) -> None:
    """Wait for a process that is not a child: its descriptor becomes readable when it has ended."""
    with contextlib.closing(os.fdopen(pidfd, "rb", buffering=0)):
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(PATIENCE_S * 1000), "still running"


def test_a_dump_of_a_running_node(tmp_path: Path) -> None:
    net = tmp_path / "net"
    mtun("network", net, "--nodes", "1")
    with running("node", "--config", net / "node-0" / "node.toml") as node:
        assert node.event()["event"] == "ready"
        node.process.send_signal(signal.SIGUSR1)
        status, errors = node.stop(signal.SIGTERM)
        assert status == 0
        assert "'node process'" in errors
        assert "in serve" in errors
        assert "counters since the start:\n    links_dialled 0\n" in errors


@pytest.mark.parametrize("command", ["node", "up"])
def test_a_closed_terminal_ends_a_node_and_a_network_in_order(command: str, tmp_path: Path) -> None:
    """The system then sends SIGHUP, and writes to the terminal fail."""
    net = tmp_path / "net"
    mtun("network", net, "--nodes", "2")
    arguments = ["up", net] if command == "up" else ["node", "--config", net / "node-0" / "node.toml"]
    master, terminal = pty.openpty()
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *map(str, arguments)],
            stdin=terminal,
            stdout=terminal,
            stderr=errors,
            start_new_session=True,
            env=environment(),
        )
    try:
        os.close(terminal)
        # To the end of the line, so that the command does not fail while it writes the line.
        shown = read_terminal(master, until="ready")
        shown += "" if shown.endswith("\n") else read_terminal(master, until="\n")
        assert "ready" in shown
        os.close(master)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
    assert "error: " not in (tmp_path / "errors").read_text()
    for index in range(2 if command == "up" else 1):
        assert (net / f"node-{index}" / "state" / "replay").exists()


@pytest.mark.parametrize("command", ["send", "get"])
def test_sigterm_during_a_transfer_prints_one_line_and_the_transfer_resumes(
    tmp_path: Path, command: str
) -> None:
    net, big, there = tmp_path / "net", tmp_path / "big", tmp_path / "net" / "node-1" / "files" / "big"
    content = os.urandom(48 * MIB)
    with network(net, 3):
        (big if command == "send" else there).write_bytes(content)
        source: list[str | Path] = ["node-1", "big", "--output", tmp_path / "copy"]
        if command == "send":
            source = [big, "node-1"]
        arguments: list[str | Path] = [command, *source, "--network", net, "--hops", "1"]
        target, parts = (there, there.parent) if command == "send" else (tmp_path / "copy", tmp_path)
        with running(*arguments) as transfer, ReactorThread() as thread:
            wait_until(thread, lambda: any(part.stat().st_size for part in parts.glob(".*.part")), PATIENCE_S)
            status, errors = transfer.stop(signal.SIGTERM)
        assert status == 128 + signal.SIGTERM
        assert errors.startswith("error: ended by SIGTERM\n")
        assert errors.count("\n") <= 2
        assert not target.exists()
        mtun(*arguments)
        assert target.read_bytes() == content


# Makes its standard input the terminal of its session, so that its end causes SIGHUP.
_ON_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from tunnel.cli import main
sys.exit(main(sys.argv[1:]))
"""
