"""`mtun socks`: its places and files, its errors, and curl through a network of processes."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import running
from tunnel.cli.main import main
from tunnel.config.kinds import ListenPlace
from tunnel.errors import ConfigError
from tunnel.running.fronts import read_users


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("front") / "net"
    assert main(["network", str(folder), "--nodes", "5", "--exit", "node-4"]) == 0
    return folder


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("0", ("127.0.0.1", 0)),
        ("1080", ("127.0.0.1", 1080)),
        ("127.0.0.2:65535", ("127.0.0.2", 65535)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("[::1]:1080", ("::1", 1080)),
        ("/run/socks", Path("/run/socks")),
        ("./socks", Path("socks")),
    ],
)
def test_places(text: str, place: object) -> None:
    assert ListenPlace().check(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "socks",
        "127.0.0.1",
        "127.0.0.1:",
        ":80",
        "::1:80",
        "::1:65536",
        "65536",
        "-1",
        "127.0.0.1:+1",
        "a:80",
    ],
)
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the caller adds the text
        ListenPlace().check(text)


def test_users(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("alice:secret\n\nbob:with: colons\n")
    path.chmod(0o600)
    assert read_users(path) == {"alice": "secret", "bob": "with: colons"}


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        (b"alice:secret\n", 0o644, "others could read"),
        (b"", 0o600, "has 0 users: expected 1 to 1000 lines USER:PASSWORD"),
        (b"a:1\nalice\n", 0o600, "line 2: expected USER:PASSWORD"),
        (b"a:1\n\na:2\n", 0o600, "line 3: expected each user once"),
        (b"a:\xff\n", 0o600, "not UTF-8"),
        (None, 0, "no such file"),
    ],
)
def test_users_that_are_refused(tmp_path: Path, content: bytes | None, mode: int, text: str) -> None:
    path = tmp_path / "users"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=text):
        read_users(path)


@pytest.mark.parametrize(
    ("options", "text", "status"),
    [
        (["--exit", "node-9"], "no peer has the name 'node-9'", 2),
        (["--exit", "node-4", "--via", "node-1,node-9"], "no peer has the name 'node-9'", 2),
        (["--exit", "node-4", "--via", "node-1,node-1"], "error: the route visits node-1 twice", 2),
        (["--exit", "node-4", "--via", "node-4"], "error: the route visits node-4 twice", 2),
        (["--exit", "node-4", "--hops", "20"], "a route of 20 proxies", 2),
        (["--exit", "node-4", "--hops", "1", "--listen", "0.0.0.0:0"], "not a loopback address", 2),
        (["--exit", "node-4", "--hops", "1", "--listen", "/nowhere/socks"], "cannot listen", 1),
        (["--exit", "node-4", "--hops", "1", "--users", "/nowhere/users"], "no such file: /nowhere/users", 2),
    ],
)
def test_errors_before_it_is_ready(
    net: Path, capsys: pytest.CaptureFixture[str], options: list[str], text: str, status: int
) -> None:
    assert main(["socks", "--network", str(net), *options]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert text in shown.err


# --- processes ----------------------------------------------------------------------------------------------


class _Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.full
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_through_a_network_of_processes(net: Path, web: int, tmp_path: Path) -> None:
    def curl(*options: str) -> str:
        command = ["curl", "-sS", "--max-time", "30", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout

    with running("up", str(net)) as (network, _):
        command = (
            "socks",
            "--network",
            str(net),
            "--exit",
            "node-4",
            "--via",
            "node-1,node-2",
            "--listen",
            "0",
        )
        with running(*command) as (socks, ready):
            assert (ready["ok"], ready["event"]) == (True, "ready")
            proxy = ready["listen"]
            assert curl("-x", f"socks5h://{proxy}", f"http://localhost:{web}/") == "hello\n"
            assert curl("-x", f"socks4a://{proxy}", f"http://localhost:{web}/") == "hello\n"
            assert curl("-p", "-x", f"http://{proxy}", f"http://127.0.0.1:{web}/") == "hello\n"
            curl("-x", f"socks5h://{proxy}", "http://localhost:1/")
            assert socks.stdout is not None
            event = json.loads(socks.stdout.readline())
            assert (event["event"], event["code"]) == ("failed", "TARGET_REFUSED")
        path = tmp_path / "socks"
        with running(*command[:-1], str(path)):
            assert curl("-x", f"socks5h://localhost{path}", f"http://localhost:{web}/") == "hello\n"
        assert not path.exists()
        config = ["--config", str(net / "node-3" / "node.toml")]
        for opening in (
            ["socks", "--exit", "node-4"],
            ["forward", "0", "node-4:a"],
            ["forward", "-R", "node-4/0", "127.0.0.1:1"],
            ["pipe", "node-4:a"],
        ):
            assert main([*opening, *config]) == 1  # that node runs, and opens no tunnels for others
        assert network.poll() is None
