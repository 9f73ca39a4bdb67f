"""The exit status of every command that reads a file, listens, or meets a running node: docs/cli.md."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel import open_node
from tunnel.cli.main import main
from tunnel.identity.state_dir import StateDir

CLIENT = "--network {net} --hops 1"
# Each command with a file of the user; {file} is its place.
READING = [
    "node --config {file}",
    "publish ssh 127.0.0.1:22 --config {file}",
    "peers --config {file}",
    "peers --peers {file}",
    "ping node-1 --config {file}",
    "route node-1 --peers {file}",
    "get node-1 --config {file}",
    "bench node-1 --config {file}",
    "send {net}/client.toml node-1 --config {file}",
    f"socks --exit node-1 --listen 0 --users {{file}} {CLIENT}",
    f"forward 0 node-1:ssh --key {{file}} {CLIENT}",
    f"pipe node-1:ssh --key {{file}} {CLIENT}",
    f"send {{net}}/client.toml node-1 --key {{file}} {CLIENT}",
    f"get node-1 x --key {{file}} {CLIENT}",
    f"get node-1 --secret-file {{file}} {CLIENT}",
]
SECRETS = [each for each in READING if any(option in each for option in ("--key", "--users", "--secret"))]
SENDING = [f"send {{file}} node-1 {CLIENT}", "demo --peers 2 --hops 0 --file {file}"]  # any content is right
LISTENING = [
    "node --config {net}/taken.toml",
    "publish ssh 127.0.0.1:22 --config {net}/taken.toml",
    f"socks --exit node-1 --listen {{port}} {CLIENT}",
    f"socks --exit node-1 --listen {{net}}/none/socket {CLIENT}",
    f"forward {{port}} node-1:ssh {CLIENT}",
]
RUNNING = {
    "node": "mtun peers --config ",
    "publish ssh 127.0.0.1:22": 'name = "ssh" and to = "127.0.0.1:22"',
    "socks --exit node-1": "[[socks]]",
    "forward 0 node-1:ssh": "[[forward]]",
    "forward -R node-1/9000 127.0.0.1:80": "a client",
    "pipe node-1:ssh": "[[forward]]",
}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("status") / "net"
    assert main(["network", str(folder), "--nodes", "3"]) == 0
    return folder


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with (tmp_path / "input").open("w+") as empty:
        monkeypatch.setattr("sys.stdin", empty)
        yield


def run(command: str, **places: object) -> int:
    return main([argument.format(**places) for argument in command.split()])


def name_of(command: str) -> str:
    return " ".join(word for word in command.split() if not word.startswith("{"))


@pytest.mark.parametrize("command", [*READING, *SENDING], ids=name_of)
def test_a_missing_file_is_wrong_usage(net: Path, tmp_path: Path, command: str) -> None:
    assert run(command, net=net, file=tmp_path / "none") == 2


@pytest.mark.parametrize("command", READING, ids=name_of)
def test_a_file_of_another_kind_is_wrong_usage(net: Path, tmp_path: Path, command: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"\xff\x00 no such file")
    other.chmod(0o600)
    assert run(command, net=net, file=other) == 2


@pytest.mark.parametrize("command", SECRETS, ids=name_of)
def test_a_secret_that_others_can_read_is_wrong_usage(
    net: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"
    if "--key" in command:
        assert main(["keygen", "--client", str(secret)]) == 0
    else:
        secret.write_text("alice:a long enough secret\n")
    secret.chmod(0o644)
    assert run(command, net=net, file=secret) == 2
    assert f"hint: chmod 600 {secret}" in capsys.readouterr().err


@pytest.mark.parametrize("command", LISTENING, ids=name_of)
def test_a_place_that_cannot_be_listened_on_is_a_failure(net: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f'[node]\nstate = "node-0/state"\nlisten = "127.0.0.1:{port}"\n'
        (net / "taken.toml").write_text(text)
        assert run(command, net=net, port=port) == 1


@pytest.mark.parametrize(("command", "advice"), RUNNING.items(), ids=RUNNING)
def test_a_running_node_is_a_failure_with_advice_for_the_command(
    net: Path, command: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = net / "node-0" / "node.toml"
    with open_node(config):
        assert run(f"{command} --config {config}") == 1
    shown = capsys.readouterr().err
    assert "running" in shown.splitlines()[0]
    assert advice in shown.splitlines()[1]


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("ping node-1 --config {config}", "it is starting or stopping, so try again"),
        ("socks --exit node-1 --config {config}", "it is starting or stopping, so try again"),
        ("node --config {config}", "mtun peers --config "),
        ("up {net}", "stop that node first"),
    ],
)
def test_a_state_folder_in_use_without_a_control_socket(
    net: Path, command: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with StateDir(net / "node-0" / "state"):
        assert run(command, net=net, config=net / "node-0" / "node.toml") == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert "is in use by a running node (process " in error
    assert advice in hint


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("publish ssh 127.0.0.1:22 --config {net}/node-0/node.toml --client {key}", "give the key itself"),
        (f"pipe node-1:ssh --key {'ab' * 32} {CLIENT}", "that is a public key"),
        (f"forward 0 node-1:ssh --key {'ab' * 32} {CLIENT}", "that is a public key"),
        (f"pipe node-1:ssh --key {{net}}/node-0/state/keys {CLIENT}", "mtun keygen --client FILE"),
        (f"socks --exit node-1 --users alice:secret {CLIENT}", "a file with lines USER:PASSWORD"),
        (f"socks --exit {{net}}/peers/node-1 {CLIENT}", "did you mean node-1?"),
        (f"ping {{net}}/peers/node-1 {CLIENT}", "did you mean node-1?"),
    ],
)
def test_a_key_or_name_confused_with_a_file_is_explained(
    net: Path, tmp_path: Path, command: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    assert main(["keygen", "--client", str(key)]) == 0
    assert run(command, net=net, key=key) == 2
    assert hint in capsys.readouterr().err.split("hint: ")[1]
