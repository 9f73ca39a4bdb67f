"""A node and its clients as docs/configuration.md describes them, in folders that are empty at first."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reactor import ReactorThread
from reactor.core.timers import FakeClock
from tests.integration.test_network_processes import PROJECT, Running, asked, mtun, running
from tests.support.network import PATIENCE_S, wait_until
from tests.tunnel.helpers import OPENSSL
from tunnel.cli import main
from tunnel.client import Client, connect
from tunnel.codes import short
from tunnel.config import load_config
from tunnel.directory import StaticDirectory
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import NodeKeys
from tunnel.running.configured_node import ConfiguredNode
from tunnel.running.peer_log import PeerLog

TEXT = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
NODE, CLIENT = re.findall(r"```toml\n(\[node\]\n.*?)```", TEXT, re.DOTALL)
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^mtun .*$", TEXT, re.MULTILINE)]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.full
def test_the_document_starts_a_node_in_an_empty_folder(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another program may have the port of the example, or take it in the middle of the test.
    monkeypatch.setenv("MTUN_NODE_LISTEN", "0.0.0.0:0")
    (empty / "node.toml").write_text(NODE)
    assert COMMANDS == [["keygen", "state/keys"], ["node", "--config", "node.toml"]]
    mtun(*COMMANDS[0])
    with running(*COMMANDS[1]) as node:
        ready = node.event()
        assert ready["addresses"] == ["10.8.0.7:4000"]
        assert ready["peers"] == 0
        assert (empty / "peers" / "me").is_file()
        assert (empty / "files").is_dir()
        # The client of the document, beside it: another identity that knows the node.
        (empty / "client.toml").write_text(CLIENT)
        # The node knows no peer beside itself; its client knows the node.
        for config, is_own in (("node.toml", True), ("client.toml", False)):
            (peer,) = asked("peers", "--config", config, status=int(is_own))["peers"]
            assert peer["id"] == ready["id"]
            assert (peer["this_node"], peer["usable"]) == (is_own, not is_own)
        status, _ = node.stop(signal.SIGTERM)
        assert status == 0
    assert sorted(path.name for path in (empty / "state").iterdir()) == [
        "guards",
        "keys",
        "lock",
        "replay",
    ]


@pytest.mark.full
def test_paths_begin_at_the_configuration_file(empty: Path) -> None:
    home = empty / "deep" / "home"
    home.mkdir(parents=True)
    (home / "node.toml").write_text('[peers]\npublish = "out/of/here"\n[service]\nnames = ["files"]\n')
    mtun("keygen", home / "state" / "keys")
    with running("node", "--config", "deep/home/node.toml") as node:
        node.event()
        assert (home / "out" / "of" / "here").is_file()
        assert (home / "files").is_dir()
    assert [path.name for path in empty.iterdir()] == ["deep"]


@pytest.mark.full
def test_a_client_takes_network_and_peers_from_its_configuration(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = 'network = "6f1d0c9b4e7a43d2a5c8e0f19b3d7a64"\nprivate_ranges = ["10.8.0.0/24"]\n'
    (empty / "node.toml").write_text(
        f'[node]\n{network}listen = "127.0.0.1:0"\nadvertise = ["10.8.0.7:4000"]\n[peers]\npublish = "p/me"\n'
    )
    mtun("keygen", "state/keys")
    with running("node", "--config", "node.toml") as node:
        ready = node.event()
    # In the same network the node's address may be dialled, although no process answers there.
    (empty / "client.toml").write_text(f'[node]\nkeys = "none"\n{network}[peers]\nfiles = ["p"]\n')
    arguments = ["ping", "me", "--config", "client.toml", "--hops", "0", "--count", "1", "--json"]
    os.environ["MTUN_TIMEOUTS_DIAL_S"] = "0.1"
    try:
        assert main(arguments) == 1
    finally:
        del os.environ["MTUN_TIMEOUTS_DIAL_S"]
    pinged = json.loads(capsys.readouterr().out)
    assert pinged["id"] == ready["id"]
    assert "NEXT_REFUSED" in str(pinged["errors"]) or "reach" in str(pinged["errors"])
    # A client is not a node, and leaves no files.
    assert main(["node", "--config", "client.toml"]) == 2
    assert 'keys = "none" is for clients' in capsys.readouterr().err
    assert sorted(path.name for path in empty.iterdir()) == ["client.toml", "node.toml", "p", "state"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[peers]\nfiles = ["nowhere"]\n', ["there is no peer file or folder", "nowhere", "hint:"]),
        ('[node]\nkeys = "other/keys"\n', ["there is no key file", "mtun keygen", "other/keys"]),
    ],
)
def test_a_missing_file_is_named_with_the_remedy(
    empty: Path, capsys: pytest.CaptureFixture[str], text: str, words: list[str]
) -> None:
    (empty / "node.toml").write_text(text)
    assert main(["keygen", "state/keys"]) == 0
    for command in (["node"], ["ping", "x"]):
        assert main([*command, "--config", "node.toml"]) == 2
        shown = capsys.readouterr().err
        for word in words:
            assert word in shown


def lost_pipe() -> int:
    """A pipe that nobody reads: writing is EPIPE, as behind `mtun node | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def lost_terminal() -> int:
    """A terminal whose window was closed: writing is EIO."""
    master, slave = pty.openpty()
    os.close(master)
    return slave


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@contextlib.contextmanager
def started(*arguments: str | Path, **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """A command with other standard streams, without the buffering of tests."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "tunnel", *map(str, arguments)]
    with subprocess.Popen(command, env=kept, text=True, **streams) as process:
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


@pytest.mark.full
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("lost", [lost_pipe, lost_terminal, full_disk])
@pytest.mark.parametrize("command", ["node", "up"])
def test_a_serving_command_survives_the_loss_of_standard_output(
    empty: Path, command: str, lost: Callable[[], int], flags: list[str]
) -> None:
    assert main(["network", "net", "--nodes", "1"]) == 0
    arguments = {"node": ["--config", "net/node-0/node.toml"], "up": ["net"]}[command]
    stdout = lost()
    with started(command, *arguments, *flags, stdout=stdout, stderr=subprocess.PIPE) as process:
        os.close(stdout)
        assert process.stderr is not None
        log = iter(process.stderr.readline, "")
        assert any("standard output" in line and "continuing without it" in line for line in log)
        with connect(empty / "net" / "node-0" / "state") as node:
            assert node.id  # it answers
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.full
@pytest.mark.parametrize("lost", [lost_pipe, lost_terminal])
def test_a_node_survives_the_loss_of_its_log(empty: Path, lost: Callable[[], int]) -> None:
    """Also at its end the interpreter finds nothing that it could not write: that would be status 120."""
    assert main(["network", "net", "--nodes", "1"]) == 0
    stderr = lost()
    arguments = ["-vv", "node", "--config", "net/node-0/node.toml"]
    with started(*arguments, stdout=subprocess.PIPE, stderr=stderr) as process:
        os.close(stderr)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready: ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def _ends(node: Running, *numbers: int) -> str:
    """Send signals to a node, each after it has logged the previous one. Returns its log."""
    log = ""
    assert node.process.stderr is not None
    for number in numbers[:-1]:
        node.process.send_signal(number)
        while "ending" not in log:
            log += node.process.stderr.readline()
    _, errors = node.stop(numbers[-1])
    return log + errors


@pytest.mark.full
def test_the_log_shows_how_a_node_stopped(empty: Path) -> None:
    (empty / "node.toml").write_text('[timeouts]\nstop_s = 60\n[peers]\nfiles = ["p"]\npublish = "p/a"\n')
    mtun("keygen", "state/keys")
    with running("node", "--config", "node.toml") as node:
        node.event()
        assert "stopped in order" in _ends(node, signal.SIGTERM)
    (empty / "other.toml").write_text('[node]\nstate = "o"\n[peers]\nfiles = ["p"]\n')
    mtun("keygen", "o/keys")
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(running("node", "--config", "node.toml"))
        first = node.event()
        # Started after the node, so it reads the node's present address.
        other = stack.enter_context(running("node", "--config", "other.toml"))
        other.event()
        with connect("other.toml") as control:
            # A query that never ends prevents an orderly stop, once a part of it has arrived.
            begun = threading.Event()
            reply = Client(control).ask(
                bytes.fromhex(first["id"]),
                iter(lambda: bytes(9_000), b""),
                service="ping",
                hops=0,
                progress=lambda sent, _: begun.set() if sent else None,
            )
            assert begun.wait(PATIENCE_S)
            log = _ends(node, signal.SIGTERM, signal.SIGTERM)
            reply.cancel()
        assert "stopped by a second signal" in log
        assert "stopped in order" not in log


@pytest.fixture
def log_of_peers() -> tuple[PeerLog, FakeClock, StaticDirectory]:
    clock, directory = FakeClock(), StaticDirectory([_peer(1)])
    return PeerLog(clock.now, directory), clock, directory


def _peer(number: int) -> Descriptor:
    keys = NodeKeys.generate(1e9)
    return keys.descriptor((Address("127.0.0.1", number),), 1e9, OPENSSL)


def test_the_log_names_peers_that_are_learnt_and_forgotten(
    log_of_peers: tuple[PeerLog, FakeClock, StaticDirectory], caplog: pytest.LogCaptureFixture
) -> None:
    log, _, directory = log_of_peers
    caplog.set_level(logging.INFO)
    log.look()
    assert not caplog.messages
    new = [_peer(number) for number in range(10)]
    for descriptor in new:
        directory.publish(descriptor)
    log.look()
    log.look()
    (line,) = caplog.messages
    assert line.startswith("10 peers learnt, 11 known: ")
    assert line.endswith(", and 2 more")
    assert sum(short(descriptor.node_id) in line for descriptor in new) == 8
    directory.forget(new[0].node_id)
    log.look()
    assert caplog.messages[-1] == f"1 peer forgotten, 10 known: {short(new[0].node_id)}"
    assert "127.0.0.1" not in caplog.text


def test_the_log_names_peers_that_are_backed_off_and_back_again_but_not_without_end(
    log_of_peers: tuple[PeerLog, FakeClock, StaticDirectory], caplog: pytest.LogCaptureFixture
) -> None:
    log, clock, _ = log_of_peers
    caplog.set_level(logging.INFO)
    peer = bytes(range(32))
    log.peer_online(peer)  # the first contact is not logged
    log.peer_offline(peer)
    log.peer_offline(peer)
    clock.advance(35)
    log.peer_online(peer)
    assert caplog.messages == [
        "peer 00010203 does not answer: backed off, 1 now",
        "peer 00010203 answers again, after 35 s",
    ]
    for number in range(100):
        log.peer_offline(bytes([number]) * 32)
    assert len(caplog.messages) == 10
    clock.advance(60)
    log.look()
    assert caplog.messages[-1] == "92 more changes of peers were not logged; 100 peers backed off now"
    log.peer_online(bytes(32))
    assert "answers again" in caplog.messages[-1]


def test_a_node_logs_news_from_its_files_and_links(empty: Path, caplog: pytest.LogCaptureFixture) -> None:
    (empty / "node.toml").write_text('[peers]\nfiles = ["p"]\npublish = "p/me"\nrefresh_s = 0.02\n')
    assert main(["keygen", "state/keys"]) == 0
    caplog.set_level(logging.INFO)
    thread = ReactorThread()
    with ConfiguredNode(load_config(empty / "node.toml", {}), thread.reactor) as configured, thread:
        thread.submit(configured.serve(lambda: None))
        peer = NodeKeys.generate(time.time()).descriptor((Address("127.0.0.1", 1),), time.time(), OPENSSL)
        StaticDirectory([peer]).save(empty / "p" / "other")
        wait_until(thread, lambda: f"1 peer learnt, 2 known: {short(peer.node_id)}" in caplog.messages)
        thread.reactor.post(configured.node.peers.failed, peer.node_id)
        thread.reactor.post(configured.node.peers.seen, peer.node_id)
        wait_until(thread, lambda: f"{short(peer.node_id)} answers again" in caplog.text)
    assert f"{short(peer.node_id)} does not answer" in caplog.text
