"""`[[socks]]` and `[[forward]]`: a node from its configuration serves programs beside relaying."""

from __future__ import annotations

import json
import shutil
import socket
import tomllib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from reactor import ReactorThread
from tests.support.commands import running
from tests.support.network import PATIENCE_S
from tests.support.servers import tcp_server
from tunnel import open_node
from tunnel.cli.main import main
from tunnel.cli.nodes import say_node_ready
from tunnel.config import load_config, make_config
from tunnel.directory.base import ids_by_name
from tunnel.errors import CannotListen, ConfigError
from tunnel.front.entrance import EntrancePlace
from tunnel.running import ConfiguredNode

EXIT = "node-3"


@pytest.fixture(scope="module")
def greeter() -> Iterator[int]:
    """The port of a server that greets."""
    with tcp_server(lambda conn: conn.sendall(b"hello")) as port:
        yield port


@pytest.fixture
def net(tmp_path: Path, greeter: int) -> Path:
    """A network that does not run. node-2 publishes the greeting server, node-3 is an exit."""
    folder = tmp_path / "net"
    assert main(["network", str(folder), "--nodes", "4", "--exit", EXIT]) == 0
    add(folder, "node-2", f'[[publish]]\nname = "greet"\nto = "127.0.0.1:{greeter}"')
    return folder


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose files no test changes."""
    folder = tmp_path_factory.mktemp("still") / "net"
    assert main(["network", str(folder), "--nodes", "4"]) == 0
    return folder


def add(net: Path, node: str, text: str) -> None:
    with (net / node / "node.toml").open("a") as file:
        file.write(f"\n{text}\n")


@contextmanager
def others(net: Path) -> Iterator[None]:
    """All nodes but node-0, in this process."""
    with ExitStack() as stack:
        for number in range(1, 4):
            stack.enter_context(open_node(net / f"node-{number}" / "node.toml"))
        yield


@contextmanager
def served(net: Path, name: str = "node-0") -> Iterator[ConfiguredNode]:
    """A node, as `open_node` runs it."""
    thread = ReactorThread(name=name)
    config = load_config(net / name / "node.toml", {})
    with ConfiguredNode(config, thread.reactor) as configured, thread:
        ready: Future[None] = Future()
        serving = thread.submit(configured.serve(lambda: ready.set_result(None)))
        try:
            wait((ready, serving), PATIENCE_S, FIRST_COMPLETED)
            if not serving.done():
                yield configured
        finally:
            if not serving.done():
                thread.submit(configured.stop()).result(PATIENCE_S)
            serving.result(PATIENCE_S)


def connect(address: EntrancePlace) -> socket.socket:
    conn = socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET)
    try:
        conn.settimeout(PATIENCE_S)
        conn.connect(str(address) if isinstance(address, Path) else address)
    except OSError:
        conn.close()
        raise
    return conn


def socks(address: EntrancePlace, port: int) -> tuple[int, bytes]:
    """The SOCKS5 reply for a connection to localhost, and what the target sent."""
    with connect(address) as conn:
        conn.sendall(b"\5\1\0\5\1\0\3\x09localhost" + port.to_bytes(2, "big"))
        answer = conn.makefile("rb").read()
        assert answer[:2] == b"\5\0"
        return answer[3], answer[12:]


def greeting(address: EntrancePlace) -> bytes:
    with connect(address) as conn, conn.makefile("rb") as file:
        return file.read()


def test_a_node_that_refuses_a_reverse_forward_is_named(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with others(net):
        arguments = ["-R", "node-2/9000", "127.0.0.1:80", "--network", str(net), "--hops", "0", "--json"]
        assert main(["forward", *arguments]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["error"] == "node-2 does not let clients listen at 127.0.0.1:9000 (TARGET_NOT_ALLOWED)"
    assert "[service] reverse" in shown["hint"]
    assert shown["code"] == "TARGET_NOT_ALLOWED"


def test_a_node_says_what_it_publishes(net: Path, greeter: int, capsys: pytest.CaptureFixture[str]) -> None:
    entry = f'[[publish]]\nname = "wiki"\nto = "localhost:80"\nclients = ["{"ab" * 32}"]'
    add(net, "node-2", entry)
    with served(net, "node-2") as configured:
        say_node_ready(configured, as_json=False)
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"  greet leads to 127.0.0.1:{greeter}, for everybody in the network",
        "  wiki leads to localhost:80, for 1 client",
    ]


def test_a_place_in_use_is_named(net: Path, greeter: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forward", str(greeter), "node-2:a", "--network", str(net), "--hops", "1"]) == 1
    assert "hint: another program listens there: stop it, or choose another" in capsys.readouterr().err


def test_ports_of_a_configuration(net: Path, greeter: int) -> None:
    add(net, "node-0", f'[[socks]]\nexit = "{EXIT}"\nlisten = "0"\nhops = 1')
    add(net, "node-0", f'[[socks]]\nexit = "{EXIT}"\nlisten = "./socks"\nhops = 1\nisolate = "connection"')
    add(net, "node-0", '[[forward]]\nlisten = "0"\nto = "node-2:greet"\nhops = 1')
    add(net, "node-0", '[[forward]]\nlisten = "./greet"\nto = "node-2:greet"\nhops = 1')
    add(net, "node-0", f'[[forward]]\nlisten = "0"\nto = "{EXIT}/localhost:{greeter}"\nhops = 2')
    with others(net), served(net) as configured:
        fronts = configured.fronts
        places = [port.address for port in fronts.socks]
        assert places[1] == net / "node-0" / "socks"
        assert [socks(place, greeter) for place in places] == [(0, b"hello")] * 2
        assert [greeting(forward.address) for forward in fronts.forwards] == [b"hello"] * 3
        forwards = [forward.address for forward in fronts.forwards]
    for place in (*places, *forwards):
        with pytest.raises(OSError, match=r"refused|No such file"):
            connect(place)


def test_an_exit_does_not_lead_to_its_own_ports(net: Path, greeter: int) -> None:
    """Its users would get at the tunnels and client keys of its own programs."""
    text = (net / "node-0" / "node.toml").read_text()
    rules = '[exit]\nrules = ["allow 127.0.0.0/8"]'
    (net / "node-0" / "node.toml").write_text(
        f'{text}\n{rules}\n[[forward]]\nlisten = "0"\nto = "node-2:greet"'
    )
    add(net, "node-1", '[[socks]]\nexit = "node-0"\nlisten = "0"\nhops = 1')
    nodes = [net / f"node-{number}" / "node.toml" for number in (2, 3)]
    with ExitStack() as stack, served(net) as exit, served(net, "node-1") as client:
        for path in nodes:
            stack.enter_context(open_node(path))
        (own,), place = exit.fronts.ports, client.fronts.socks[0].address
        assert socks(place, greeter) == (0, b"hello")
        assert socks(place, own.port) == (2, b"")  # not allowed


def test_the_end_of_a_forward_resets_its_connections(net: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, others(net):
        port = silent.getsockname()[1]
        add(net, "node-0", f'[[forward]]\nlisten = "0"\nto = "{EXIT}/127.0.0.1:{port}"\nhops = 1')
        with served(net) as configured:
            conn = connect(configured.fronts.forwards[0].address)
            far, _ = silent.accept()
        with conn, far, pytest.raises(ConnectionError):
            conn.recv(1)


def test_an_exit_that_becomes_known_later(net: Path, greeter: int, tmp_path: Path) -> None:
    peers = net / "peers"
    ids = {path.name: load_id(path) for path in peers.iterdir()}
    away = tmp_path / EXIT
    shutil.move(peers / EXIT, away)
    text = (net / "node-0" / "node.toml").read_text()
    (net / "node-0" / "node.toml").write_text(text.replace("[peers]\n", "[peers]\nrefresh_s = 0.05\n"))
    add(net, "node-0", f'[[socks]]\nexit = "{ids[EXIT]}"\nlisten = "0"\nhops = 0')
    with ExitStack() as stack, served(net) as configured:
        place = configured.fronts.socks[0].address
        assert socks(place, greeter) == (1, b"")  # general failure
        shutil.move(away, peers / EXIT)
        stack.enter_context(open_node(net / EXIT / "node.toml"))
        while (answer := socks(place, greeter))[0]:
            pass  # node-0 has not read the file again
        assert answer == (0, b"hello")


def load_id(path: Path) -> str:
    return ids_by_name(path)[path.name].hex()


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        (
            "[[socks]]\nexit = 'node-3'\nlisten = '{taken}'",
            "[[socks]] 1: cannot listen: 127.0.0.1",
            "another",
        ),
        (
            "[[socks]]\nexit = 'node-3'\nlisten = '/nowhere/socks'",
            "no such file: /nowhere/socks",
            "its folder",
        ),
        ("[[socks]]\nexit = 'node-9'", "[[socks]] 1: no peer file", "64 hex digits"),
        ("[[socks]]\nexit = 'node-0'\nlisten = '0'", "'node-0' is this node", "another node"),
        ("[[socks]]\nexit = 'node-3'\nlisten = '0.0.0.0:0'", "not a loopback address", "users"),
        ("[[socks]]\nexit = 'node-3'\nusers = 'nobody'", "no such file: {net}/node-0/nobody", ""),
        ("[[forward]]\nto = 'node-3:a'\nlisten = '{taken}'", "[[forward]] 1: cannot listen", "another"),
        ("[[forward]]\nto = 'node-3:a'\nlisten = '0.0.0.0:0'", "other machines", "public = true"),
        (
            "[[forward]]\nto = 'node-3:a'\nlisten = '0'\nkey = 'none'",
            "no such file: {net}/node-0/none",
            "keygen",
        ),
        ("[[forward]]\nto = 'node-9:a'\nlisten = '0'", "[[forward]] 1: no peer file", "64 hex digits"),
    ],
)
def test_a_port_that_cannot_be_opened_is_an_error_at_the_start(
    still: Path, text: str, words: str, hint: str
) -> None:
    config = load_config(still / "node-0" / "node.toml", {})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        added = tomllib.loads(text.format(taken=taken.getsockname()[1]))
        entries = make_config(added, folder=still / "node-0", source="node.toml", environment={})
        config = replace(config, socks=entries.socks, forwards=entries.forwards)
        with pytest.raises((ConfigError, CannotListen)) as refused, open_node(config):
            pass
    assert words.format(net=still) in str(refused.value)
    assert hint in refused.value.hint
    with open_node(replace(config, socks=(), forwards=())):
        pass  # nothing of the failed start is left


@pytest.mark.full
def test_mtun_up_starts_the_ports(net: Path, greeter: int) -> None:
    add(net, "node-0", f'[[socks]]\nexit = "{EXIT}"\nlisten = "0"\nhops = 2')
    add(net, "node-0", '[[forward]]\nlisten = "0"\nto = "node-2:greet"\nhops = 2')
    with running("up", str(net)) as (_, event):
        ready = event["nodes"]["node-0"]
        (socks_port,), (forward,) = ([address(text) for text in ready[key]] for key in ("socks", "forwards"))
        assert socks(socks_port, greeter) == (0, b"hello")
        assert greeting(forward) == b"hello"
        assert event["nodes"]["node-1"]["socks"] == event["nodes"]["node-1"]["forwards"] == []


def address(text: str) -> tuple[str, int]:
    host, port = text.rsplit(":", 1)
    return host, int(port)
