"""`mtun forward`: the errors before it is ready. What it carries: tests/integration/test_front_clients.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.cli.main import main


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forward") / "net"
    assert main(["network", str(folder), "--nodes", "3"]) == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "text", "status"),
    [
        (["5432"], "5432: its destination is missing", 2),
        (["5432", "node-1:x", "127.0.0.1:5432", "node-1:y"], "5432 is given twice", 2),
        (["./a.sock", "node-1:x", "./a.sock", "node-1:y"], "./a.sock is given twice", 2),
        (["0", "node-2"], "node-2: no service: expected NODE:SERVICE", 2),
        (["0", "node-2/host"], "node-2/host: no port", 2),
        (["host:0", "node-2:a"], "host:0: expected a port", 2),
        (["/nowhere/socket", "node-2:a"], "cannot listen: ", 1),
        (["0", "node-9:a"], "no peer has the name 'node-9'", 2),
        (["0", "node-2:a", "--key", "/nowhere/key"], "no such file: /nowhere/key", 2),
        (["node-2:a", "5432"], "did you swap node-2:a and 5432?", 2),
        (["-R", "127.0.0.1:80", "node-2/9000"], "did you swap 127.0.0.1:80 and node-2/9000?", 2),
        (["0", "node-2:a", "--hops", "5"], "a route of 5 proxies", 2),
        (["-R", "node-2/9000", "127.0.0.1:80", "--hops", "5"], "a route of 5 proxies", 2),
        (["0.0.0.0:0", "node-2:a"], "other machines could use the tunnels", 2),
        (["192.0.2.1:0", "node-2:a", "--public"], "cannot listen: 192.0.2.1:0", 1),
        (["-R", "node-2", "127.0.0.1:80"], "node-2: expected NODE/[BIND:]PORT", 2),
        (["-R", "node-2//tmp/socket", "127.0.0.1:80"], "a node listens at ports only", 2),
        (["-R", "node-2/9000", "80"], "80: expected a host and a port", 2),
        (["-R", "node-2/9000", "127.0.0.1:80", "--public"], "cannot be combined with --reverse", 2),
        (["-R", "node-2/9000", "127.0.0.1:80", "--key", "k"], "cannot be combined with --reverse", 2),
    ],
)
def test_errors_before_it_is_ready(
    net: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str, status: int
) -> None:
    hops = [] if "--hops" in arguments else ["--hops", "1"]
    assert main(["forward", *arguments, "--network", str(net), *hops]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert text in shown.err
