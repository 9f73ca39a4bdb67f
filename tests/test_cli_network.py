"""The commands around networks: help, wrong use, and the files they make. In this process; no node runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.tunnel.helpers import OPENSSL
from tunnel.cli.client import PeerNames
from tunnel.cli.main import main, make_parser
from tunnel.cli.nodes import ChildNode
from tunnel.cli.options import make_folder
from tunnel.cli.terminal import ProgressBar
from tunnel.config import load_config
from tunnel.directory import StaticDirectory
from tunnel.directory.base import list_peer_files
from tunnel.errors import ConfigError
from tunnel.identity.client_key import ClientKey
from tunnel.identity.keys import NodeKeys

COMMANDS = [
    "demo", "network", "up", "keygen", "node", "publish", "socks", "pipe", "forward", "ping", "send", "get",
    "peers", "route", "bench",
]  # fmt: skip


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("net")
    assert main(["network", str(folder), "--nodes", "12"]) == 0
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "example:" in shown
    assert f"mtun {command}" in shown.split("example:")[1]


def test_the_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"    {command} " in shown


def test_a_network_is_whole(net: Path) -> None:
    directory = StaticDirectory()
    for path in list_peer_files([net / "peers"]):
        for descriptor in StaticDirectory.load(path, OPENSSL):
            directory.publish(descriptor)
    assert len(directory) == 12
    ports = set()
    for index in range(12):
        home = net / f"node-{index}"
        config = load_config(home / "node.toml", {})
        peer = directory.lookup(NodeKeys.load(config.keys).node_id(OPENSSL))
        assert peer is not None
        assert (config.listen,) == peer.addresses
        assert config.publish is not None
        assert config.publish.resolve() == net.resolve() / "peers" / f"node-{index}"
        assert config.names == ("ping", "echo", "files")
        assert stat.S_IMODE(config.state.stat().st_mode) == 0o700
        assert stat.S_IMODE(config.keys.stat().st_mode) == 0o600
        assert (config.state / "replay").exists()  # so that the first run has the published keys
        ports.add(peer.addresses[0].port)
    assert len(ports) == 12
    assert load_config(net / "client.toml", {}).listen is None


def test_the_exits_of_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "net"
    command = ["network", str(folder), "--nodes", "3", "--exit", "node-2", "--exit", "node-0"]
    assert main(command) == 0
    rules = [load_config(folder / f"node-{index}" / "node.toml", {}).rules for index in range(3)]
    assert rules == [rules[0], (), rules[0]]
    assert "allow 127.0.0.0/8" in rules[0]
    capsys.readouterr()
    for name in ("node-3", "2", "node-00"):
        assert main(["network", str(tmp_path / "other"), "--nodes", "3", "--exit", name]) == 2
        assert capsys.readouterr().err.splitlines() == [
            f"error: --exit {name}: no such node",
            "hint: the nodes are node-0 to node-2",
        ]
        assert not (tmp_path / "other").exists()


def test_peers(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", "--network", str(net), "--json"]) == 0
    peers: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["peers"]
    assert [peer["name"] for peer in peers] == [f"node-{index}" for index in range(12)]
    assert all(peer["usable"] for peer in peers)
    assert main(["peers", "--peers", str(net / "peers" / "node-3")]) == 0
    shown = capsys.readouterr().out
    assert "node-3" in shown
    assert "node-4" not in shown


def test_a_node_is_marked_in_the_list_of_its_peers(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it runs or not; `test_own_node.py` has a running one."""
    config = str(net / "node-3" / "node.toml")
    assert main(["peers", "--config", config, "--json"]) == 0
    peers = json.loads(capsys.readouterr().out)["peers"]
    assert {peer["name"] for peer in peers if peer["this_node"]} == {"node-3"}
    assert {peer["name"] for peer in peers if not peer["usable"]} == {"node-3"}
    assert main(["peers", "--config", config]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "(this node)" in line] == [
        "node-3"
    ]
    assert main(["peers", "--network", str(net)]) == 0
    assert "(this node)" not in capsys.readouterr().out, "a client is none of them"


def test_names_ids_and_their_beginnings(net: Path) -> None:
    directory = StaticDirectory()
    files = tuple(list_peer_files([net / "peers"]))
    for path in files:
        for descriptor in StaticDirectory.load(path, OPENSSL):
            directory.publish(descriptor)
    names = PeerNames(directory, files, OPENSSL)
    ids = [peer.node_id for peer in names]
    for index, node_id in enumerate(ids):
        assert names.name(node_id) == f"node-{index}"
        assert names.resolve(f"node-{index}") == names.resolve(node_id.hex().upper()) == node_id
        others = [other.hex() for other in ids if other != node_id]
        shortest = next(n for n in range(1, 65) if not any(o.startswith(node_id.hex()[:n]) for o in others))
        assert names.resolve(node_id.hex()[:shortest]) == node_id
        if shortest > 1:
            with pytest.raises(ConfigError, match="id that begins with") as caught:
                names.resolve(node_id.hex()[: shortest - 1])
            assert "give more digits" in caught.value.hint
    for text in ("", "node-12", "xyz", "00" * 33):
        with pytest.raises(ConfigError, match="no peer has the name"):
            names.resolve(text)
    assert names.name(b"\x01" * 32) == "01010101"
    # A peer file that a running node has not read yet.
    with pytest.raises(ConfigError, match="does not know 'node-0' yet") as caught:
        PeerNames(StaticDirectory(()), files, OPENSSL).resolve("node-0")
    assert "refresh_s" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["network", "{net}"], ["is not empty", "hint:"]),
        (["network", "{net}/new", "--nodes", "3", "--port", "65534"], ["the highest port is 65535", "hint:"]),
        (["keygen", "{net}/node-0/state/keys"], ["never overwritten", "hint:"]),
        (["up", "{net}/peers"], ["holds no network", "hint: did you mean {net}?"]),
        (["node", "--config", "{net}/none.toml"], ["no such file: ", "none.toml", "hint:"]),
        (["ping", "node-99", "--network", "{net}"], ["no peer has the name 'node-99'", "hint:"]),
        (["ping", "node-1", "--network", "{net}/peers"], ["holds no network", "hint: did you mean {net}?"]),
        (["ping", "node-1", "--network", "{net}/none"], ["no such folder: ", "hint: create a network"]),
        (["up", "{net}/client.toml"], ["client.toml is not a folder", "hint: name the folder that"]),
        (["up", "{net}/node-0/state"], ["holds no network", "hint: name the folder that"]),
        (["get", "node-1", "x", "--network", "{net}", "--output", "{net}/client.toml/"],
         ["client.toml is not a folder", "hint: name a file"]),
        (["ping", "node-1", "--network", "{net}", "--hops", "50"], ["needs as many peers"]),
        (["send", "{net}/none", "node-1", "--network", "{net}"], ["no such file: ", "hint:"]),
        (["get", "node-1", "client.toml", "--network", "{net}", "--output", "{net}/client.toml"],
         ["exists", "hint: replace it with --replace"]),
        (["bench", "node-1"], ["must be given together", "hint:"]),
        (["bench", "--network", "{net}"], ["must be given together", "hint:"]),
    ],
)  # fmt: skip
def test_wrong_use_is_reported_in_two_lines(
    net: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    assert main([argument.format(net=net) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    for word in words:
        assert word.format(net=net) in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["send", "", "node-1", "--network", "a"],
        ["send", "file", "node-1", "--network", "a", "--name", ""],
        ["send", "file", "node-1", "--network", ""],
        ["get", "node-1", "", "--network", "a"],
        ["get", "node-1", "file", "--network", "a", "--output", ""],
        ["keygen", ""],
        ["node", "--config", ""],
        ["demo", "--file", "file", "--size", "1k"],
        ["demo", "--seed", "x"],
        ["fly"],
        ["ping"],
        ["ping", "node-1"],
        ["ping", "node-1", "--network", "a", "--peers", "b"],
        ["ping", "node-1", "--network", "a", "--count", "0"],
        ["ping", "node-1", "--network", "a", "--hops", "127"],
        ["ping", "node-1", "--network", "a", "--timeout", "0"],
        ["ping", "node-1", "--network", "a", "--retries", "17"],
        ["route", "node-1", "--network", "a", "--retries", "17"],
        ["bench", "--retries", "17"],
        ["send", "file", "node-1", "--network", "a", "--retries", "-1"],
        ["network", "x", "--nodes", "0"],
        ["node"],
    ],
    ids=" ".join,
)
def test_input_that_the_parser_refuses(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.parametrize(
    "command",
    ["ping node-1", "send {file} node-1", "get node-1", "get node-1 x", "route node-1", "bench node-1"],
)
def test_no_command_uses_fewer_proxies_than_the_default_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main(["network", str(tmp_path / "net"), "--nodes", "3"]) == 0
    assert "give --hops 2" in capsys.readouterr().out
    (tmp_path / "file").write_bytes(b"x")
    arguments = command.format(file=tmp_path / "file").split()
    # One of the folder's nodes is queried; the single file has no other node.
    one = str(tmp_path / "net" / "peers" / "node-1")
    for source, available in (["--network", str(tmp_path / "net")], 2), (["--peers", one], 0):
        assert main([*arguments, *source]) == 2
        shown = capsys.readouterr().err
        assert "a route of 3 proxies" in shown
        assert f"the directory has {available} that" in shown
        assert f"--hops {available}" in shown
        assert "hint:" in shown


def test_the_default_number_of_proxies_is_that_of_the_configuration(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTUN_ROUTES_ROUTE_HOPS", "5")
    assert main(["route", "node-3", "--network", str(net), "--dry-run", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["proxies"], len(outcome["hops"])) == (5, 6)
    assert main(["route", "node-3", "--network", str(net), "--dry-run", "--hops", "0"]) == 0
    assert "over no proxy" in capsys.readouterr().out


def test_a_wrong_variable_is_refused_by_every_command_that_reads_a_configuration(
    net: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTUN_NODE_LISTNE", "x")
    for arguments in (
        ["peers", "--network", str(net)],
        ["node", "--config", str(net / "node-0" / "node.toml")],
    ):
        assert main(arguments) == 2
        assert "hint: did you mean MTUN_NODE_LISTEN?" in capsys.readouterr().err


def test_keygen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state" / "keys"
    assert main(["keygen", str(path), "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome == {"ok": True, "file": str(path), "id": NodeKeys.load(path).node_id(OPENSSL).hex()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keygen_of_a_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "friend.key"
    assert main(["keygen", "--client", str(path)]) == 0
    public = ClientKey.load(path).public(OPENSSL).hex()
    assert capsys.readouterr().out == f"the client key is in {path}; its public key is {public}\n"
    assert main(["keygen", "--client", str(path)]) == 2
    shown = capsys.readouterr().err
    assert "never overwritten" in shown
    assert f"services may list its public key, {public}" in shown  # its owner may have lost it
    path.write_text("{}")
    assert main(["keygen", "--client", str(path)]) == 2
    assert "it is no client key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ping", "127.0.0.1:1"], "two services have the name 'ping'"),
        (["a b", "127.0.0.1:1"], "mtun publish: name = 'a b': expected a name"),
        (["web", "127.0.0.1"], "mtun publish: to = '127.0.0.1': expected a host and a port"),
        (
            ["web", "127.0.0.1:1", "--client", "ff"],
            "mtun publish: clients: 'ff' is not a public key: expected",
        ),
    ],
)
def test_publish_checks_its_arguments_before_it_runs_a_node(
    net: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(net / "node-0" / "node.toml")
    assert main(["publish", *arguments, "--config", config]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("place", ["a/b/keys", "file/keys", "a/b/c/d/keys"])
def test_keygen_makes_no_tree_of_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """Otherwise a mistyped path would leave secrets in a forgotten place."""
    (tmp_path / "file").write_text("")
    assert main(["keygen", str(tmp_path / place)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "hint: " in shown
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["a/b", "file/net", "a/b/c/d"])
def test_network_makes_no_tree_of_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["network", str(tmp_path / place), "--nodes", "1"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_network_that_is_not_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, is_there: bool
) -> None:
    """Otherwise the next attempt would refuse the folder, because it is not empty."""
    folder = tmp_path / "net"
    if is_there:
        folder.mkdir()

    def breaks(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("tunnel.cli.network.write_descriptor", breaks)
        assert main(["network", str(folder)]) in (1, 130)
    assert [path.name for path in tmp_path.rglob("*")] == ["net"] * is_there
    assert main(["network", str(folder), "--nodes", "1"]) == 0


def test_two_networks_at_the_same_place_and_time_do_not_harm_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins after the first has checked that the folder is empty."""
    folder = tmp_path / "net"
    real = make_folder

    def overtaken(path: Path) -> None:
        monkeypatch.setattr("tunnel.cli.network.make_folder", real)
        assert main(["network", str(folder), "--nodes", "2"]) == 0
        real(path)

    monkeypatch.setattr("tunnel.cli.network.make_folder", overtaken)
    assert main(["network", str(folder), "--nodes", "1"]) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["client.toml", "node-0", "node-1", "peers"]


def test_a_node_interrupted_at_its_start_prints_one_line(
    net: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tunnel.running.configured_node.load_peers", interrupted)
    assert main(["node", "--config", str(net / "node-0" / "node.toml")]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_ports_that_do_not_exist_are_not_reported_as_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["network", str(tmp_path / "net"), "--port", "65530", "--nodes", "20"]) == 2
    shown = capsys.readouterr().err
    assert "need ports up to 65549; the highest port is 65535" in shown
    assert "--port 65516 is the highest" in shown
    assert not (tmp_path / "net").exists()


def test_a_folder_is_not_taken_for_a_file(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, hint in (
        (["peers", "--peers", str(net)], f"did you mean --network {net}?"),
        (["node", "--config", str(net / "node-0")], f"did you mean {net / 'node-0' / 'node.toml'}?"),
        (["node", "--config", str(net)], f"did you mean {net / 'node-0' / 'node.toml'}?"),
        (["node", "--config", str(net / "client.toml")], 'keys = "none" is for clients'),
        (["ping", "node-1", "--config", str(net)], f"did you mean {net / 'client.toml'}?"),
        (["keygen", str(tmp_path)], f"mtun keygen {tmp_path / 'keys'}"),
    ):
        assert main(arguments) == 2
        assert hint in capsys.readouterr().err


def test_swapped_node_and_network_are_named(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["ping"], ["route"], ["get"], ["bench"], ["send", str(net / "client.toml")]):
        assert main([*command, str(net), "--network", "node-1"]) == 2
        assert f"did you swap them? node-1 --network {net}" in capsys.readouterr().err


def test_peers_prints_why_none_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", "--peers", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: no peers are known\nhint: ")


def test_links_in_a_circle_are_missing_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    config = tmp_path / "client.toml"
    config.write_text('[node]\nkeys = "none"\n[peers]\nfiles = ["loop/x"]\n[service]\nnames = ["files"]\n')
    for command in (["--peers", str(loop)], ["--peers", str(loop / "x")], ["--config", str(config)]):
        assert main(["peers", *command]) == 2
        assert f"error: there is no peer file or folder {loop}" in capsys.readouterr().err


def test_a_node_that_does_not_start_is_named_with_its_own_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "net"
    assert main(["network", str(folder), "--nodes", "2"]) == 0
    (folder / "node-1" / "state" / "keys").unlink()
    capsys.readouterr()
    assert main(["up", str(folder)]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: node-1 ended with status 2; its log ends: there is no key file ")
    assert hint.startswith("hint: make one with: mtun keygen ")
    assert hint.endswith(f"; the log is {folder / 'node-1' / 'log'}")


def test_ctrl_c_before_a_network_is_ready_is_an_interrupted_command(
    net: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ChildNode.start
    for number, status, text in (
        (signal.SIGINT, 130, "error: interrupted\n"),
        (signal.SIGTERM, 143, "error: ended by SIGTERM\n"),
    ):

        def start_and_end(node: ChildNode, number: signal.Signals = number) -> None:
            start(node)
            if node.name == "node-1":
                signal.raise_signal(number)

        monkeypatch.setattr(ChildNode, "start", start_and_end)
        assert main(["up", str(net)]) == status
        assert capsys.readouterr() == ("", text)


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_ctrl_c_in_a_measurement_prints_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def update(self: ProgressBar, done: int) -> None:
        if done and not has_ended:
            has_ended.append(done)
            os.kill(os.getpid(), signal.SIGINT)  # the main thread gets it

    has_ended: list[int] = []
    monkeypatch.setattr(ProgressBar, "update", update)
    assert main([command, "--hops", "1", "--size", "4MiB"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert has_ended


def test_bench_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--hops", "1", "--size", "100KiB", "--count", "2", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["hops"], outcome["bytes"]) == (1, 102_400)
    assert outcome["median_ms"] > 0


def test_bench_names_the_profiles_that_it_used(capsys: pytest.CaptureFixture[str]) -> None:
    def names(*options: str) -> tuple[str, str]:
        assert main(["bench", "--hops", "1", "--count", "1", "--json", *options]) == 0
        outcome = json.loads(capsys.readouterr().out)
        return outcome["round_trip_profile"], outcome["profile"]

    assert names("--size", "100KiB") == ("default-hctr", "default-hctr")
    assert names("--size", "1MiB") == ("default-hctr", "bulk-hctr")
    assert names("--size", "1KiB", "--profile", "long") == ("long", "long")


def test_bench_warns_of_content_in_short_chunks(capsys: pytest.CaptureFixture[str]) -> None:
    for size, warns in (("1MiB", True), ("10KiB", False)):
        assert main(["bench", "--hops", "0", "--count", "1", "--size", size, "--profile", "interactive"]) == 0
        assert ("note: profile interactive has chunks of 996 bytes" in capsys.readouterr().err) == warns
    assert main(["bench", "--hops", "0", "--count", "1", "--size", "1MiB"]) == 0
    assert capsys.readouterr().err == ""


def test_the_files_of_a_network_are_toml(net: Path) -> None:
    for path in [*net.glob("node-*/node.toml"), net / "client.toml"]:
        assert tomllib.loads(path.read_text(encoding="utf-8"))


def _examples() -> list[str]:
    """Every `mtun` line of the document's blocks and of the help texts, without its comment."""
    document = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", document, re.DOTALL)
    helps = [path.read_text(encoding="utf-8") for path in Path(main.__code__.co_filename).parent.glob("*.py")]
    helps = [example for text in helps for example in re.findall(r'"""\\\n(example:.*?)"""', text, re.DOTALL)]
    lines = [line.strip() for text in blocks + helps for line in text.splitlines()]
    return sorted({re.split(r"\s{2,}", line)[0] for line in lines if line.startswith("mtun ")})


def test_there_are_examples_of_every_command() -> None:
    assert {line.split()[1] for line in _examples()} == set(COMMANDS)


@pytest.mark.parametrize("line", _examples())
def test_each_example_is_right_use(line: str) -> None:
    options = make_parser().parse_args(shlex.split(line)[1:])
    assert options.command == line.split()[1]


def test_the_document_names_every_command() -> None:
    document = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `mtun (\w+)", document, re.MULTILINE) == COMMANDS
