"""A node of one's own and its clients, as docs/configuration.md has them, in folders that begin empty."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
from pathlib import Path

import pytest

from tests.integration.test_network_processes import PROJECT, asked, mtun, running
from tunnel.cli import main

TEXT = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
NODE, CLIENT = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^mtun .*$", TEXT, re.MULTILINE)]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", 4000))
        except OSError:  # another program has the port of the example
            monkeypatch.setenv("MTUN_NODE_LISTEN", "0.0.0.0:0")
    return tmp_path


def test_the_document_starts_a_node_in_an_empty_folder(empty: Path) -> None:
    (empty / "node.toml").write_text(NODE)
    assert COMMANDS == [["keygen", "state/keys"], ["node", "--config", "node.toml"]]
    mtun(*COMMANDS[0])
    with running(*COMMANDS[1]) as node:
        ready = node.event()
        assert ready["addresses"] == ["10.8.0.7:4000"]
        assert ready["peers"] == 0
        assert (empty / "peers" / "me").is_file()
        assert (empty / "files").is_dir()
        # Beside it, the client of the document: another identity that knows the node.
        (empty / "client.toml").write_text(CLIENT)
        for config in ("node.toml", "client.toml"):
            (peer,) = asked("peers", "--config", config)["peers"]
            assert peer["id"] == ready["id"]
        status, _ = node.stop(signal.SIGTERM)
        assert status == 0
    assert sorted(path.name for path in (empty / "state").iterdir()) == [
        "guards",
        "keys",
        "lock",
        "replay",
    ]


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
    # The same network: the node's address is one that may be dialled, though nothing answers there.
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
    # A client is no node, and leaves nothing behind.
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
def test_what_is_missing_is_named_with_what_to_do(
    empty: Path, capsys: pytest.CaptureFixture[str], text: str, words: list[str]
) -> None:
    (empty / "node.toml").write_text(text)
    assert main(["keygen", "state/keys"]) == 0
    for command in (["node"], ["ping", "x"]):
        assert main([*command, "--config", "node.toml"]) == 2
        shown = capsys.readouterr().err
        for word in words:
            assert word in shown
