"""`mtun` as a user runs it: the demo in every mode, profile and engine, and its errors."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
import tracemalloc
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tests.support.terminal import read_terminal
from tunnel import LocalNetwork
from tunnel.cli import main
from tunnel.cli.demo import LINE, PositionSampler, open_content
from tunnel.cli.terminal import ProgressBar, readable_size, table
from tunnel.config.kinds import parse_size
from tunnel.geometry import GEOMETRIES, Geometry
from tunnel.modes import MODES, ReplyMode
from tunnel.node.query.request import SERVED_MODES
from tunnel.routing.draw_route import choose_route

KEYS = {
    "ok", "peers", "hops", "mode", "profile", "engine", "link_policy", "query_bytes", "reply_bytes",
    "query_sha256_sent", "query_sha256_received", "reply_sha256_sent", "reply_sha256_received",
    "seconds", "links",
}  # fmt: skip
LINK_KEYS = {"from", "to", "query_frame_bytes", "reply_frame_bytes"}


def _demo(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main(["demo", "--json", *arguments]) == status
    outcome: dict[str, Any] = json.loads(capsys.readouterr().out)
    return outcome


def _cases() -> list[Any]:
    cases = []
    for peers in (2, 3, 25, 128):
        for geometry in GEOMETRIES.values():
            if peers - 2 <= geometry.max_proxies:
                name, marks = geometry.name, [pytest.mark.full] if peers > 3 else []
                cases += [
                    pytest.param(
                        peers,
                        geometry,
                        mode,
                        engine,
                        id=f"{peers}-{name}-{mode}-{engine}",
                        marks=marks,
                    )
                    for mode in ("none", "route")
                    for engine in ("openssl", "pycryptodome")
                ]
    return cases


@pytest.mark.parametrize(("peers", "geometry", "mode", "engine"), _cases())
def test_demo(
    capsys: pytest.CaptureFixture[str], peers: int, geometry: Geometry, mode: str, engine: str
) -> None:
    outcome = _demo(
        capsys, "--peers", str(peers), "--profile", geometry.name, "--mode", mode, "--engine", engine,
        "--size", "40KiB",
    )  # fmt: skip
    assert set(outcome) == KEYS
    assert outcome["ok"] is True
    assert (outcome["peers"], outcome["hops"]) == (peers, peers - 2)
    assert (outcome["mode"], outcome["profile"], outcome["engine"]) == (mode, geometry.name, engine)
    assert outcome["link_policy"] == "pooled"
    assert outcome["query_bytes"] == 40 * 1024
    assert outcome["query_sha256_sent"] == outcome["query_sha256_received"]
    links = outcome["links"]
    assert len(links) == peers - 1
    assert all(set(link) == LINK_KEYS for link in links)
    assert [link["to"] for link in links[:-1]] == [link["from"] for link in links[1:]]
    (query_frame_bytes,) = {link["query_frame_bytes"] for link in links}
    (reply_frame_bytes,) = {link["reply_frame_bytes"] for link in links}
    block_bytes = geometry.reply_block_bytes if mode == "route" else 0
    assert query_frame_bytes == geometry.frame_bytes(40 * 1024 + 4 + block_bytes)
    if mode == "route":
        assert outcome["reply_bytes"] == 40 * 1024
        assert outcome["reply_sha256_sent"] == outcome["reply_sha256_received"] is not None
        assert reply_frame_bytes == geometry.frame_bytes(40 * 1024 + 4)
    else:
        assert outcome["reply_bytes"] == reply_frame_bytes == 0
        assert outcome["reply_sha256_sent"] is outcome["reply_sha256_received"] is None


@pytest.mark.parametrize("mode", SERVED_MODES)
def test_the_demo_succeeds_in_every_mode_and_shows_the_route_of_the_reply(
    capsys: pytest.CaptureFixture[str], mode: ReplyMode
) -> None:
    outcome = _demo(capsys, "--peers", "9", "--hops", "2", "--mode", mode, "--size", "5k")
    assert outcome["ok"] is True
    links = outcome["links"]
    assert [bool(link["query_frame_bytes"]) for link in links] == [True] * 3 + [False] * (len(links) - 3)
    reply_links = [link for link in links if link["reply_frame_bytes"]]
    assert len({link["reply_frame_bytes"] for link in reply_links}) == MODES[mode].has_reply
    alice, bob = links[0]["from"], links[2]["to"]
    # From Bob to Alice, over the query's links or others.
    back = {link["to"]: link["from"] for link in reply_links}
    node = bob
    for _ in back:
        node = back[node]
    if mode is ReplyMode.CACHED:  # over the query's open streams: only Bob reports it
        assert list(back) == [bob]
    else:
        assert node == (alice if MODES[mode].has_reply else bob)


def test_demo_sends_a_file_of_the_users(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "binary"
    file.write_bytes(os.urandom(123_456))
    outcome = _demo(capsys, "--peers", "5", "--file", str(file))
    assert outcome["query_sha256_sent"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert outcome["reply_sha256_sent"] == hashlib.sha256(file.read_bytes().upper()).hexdigest()


def test_demo_of_an_empty_file(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = _demo(capsys, "--peers", "3", "--size", "0")
    assert outcome["ok"]
    assert outcome["query_bytes"] == outcome["reply_bytes"] == 0


def test_demo_with_one_link_for_each_message(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = _demo(capsys, "--peers", "4", "--links", "once")
    assert outcome["ok"]
    assert outcome["link_policy"] == "once"


def test_demo_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--peers", "4"]) == 0
    shown = capsys.readouterr().out
    assert "4 nodes are listening" in shown
    for word in ("Alice", "proxy 1", "proxy 2", "Bob", "arrived intact"):
        assert word in shown
    assert "4 nodes are listening on 127.0.0.1, 2 proxies, mode route, profile default" in shown
    assert "over links that carry many messages (policy `pooled`)" in shown
    assert shown.rstrip().endswith("ok")


def test_seed_repeats_the_positions_of_the_route_and_not_the_keys() -> None:
    drawn = []
    for _ in range(2):
        with LocalNetwork(peers=9) as net:
            sampler = PositionSampler(random.Random(7), net)
            route = choose_route(
                net.directory, origin=net[0].id, destination=net[1].id, hops=5, profile_byte=2, rng=sampler
            )
            positions = {node.id: i for i, node in enumerate(net)}
            drawn.append(([positions[node_id] for node_id in route.proxies], net[0].id))
    assert drawn[0][0] == drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--peers", "5", "--hops", "4"], 2, ["error:", "leave 3 for proxies", "hint:"]),
        (["--peers", "25", "--profile", "interactive"], 2, ["error:", "holds 6", "hint:"]),
        (["--file", "no/such/file"], 2, ["error: no such file: no/such/file"]),
    ],
)
def test_errors_are_printed_in_two_lines(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, words: list[str]
) -> None:
    assert main(["demo", *arguments]) == status
    shown = capsys.readouterr().err
    for word in words:
        assert word in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hops", "99"],
        ["--peers", "3", "--hops", "2"],
        ["--profile", "interactive"],
        ["--file", "."],
        ["--peers", "300"],
    ],
    ids=" ".join,
)
def test_an_impossible_demo_fails_before_any_output(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["demo", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "mtun --help lists the commands"),
        (["nonsense"], "the commands are demo, "),
        (["demo", "--links", "twice"], "expected pooled, once"),
        (["demo", "--mode", "smoke"], "expected none, known-dest, route"),
        (["demo", "--peers", "1"], "--peers: '1': expected a whole number from 2"),
        (["demo", "--hops", "-1"], "--hops: '-1': expected a whole number from 0"),
        (["demo", "--profile", "huge"], "unknown profile 'huge'"),
        (["demo", "--size", "big"], "not a size: 'big'; expected 17, 10k, 300KiB"),
    ],
)
def test_wrong_use_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert "usage:" in shown
    assert words in shown


@pytest.mark.parametrize("size", [0, 1, 76, 300_000])
def test_made_text(size: int) -> None:
    with open_content(Namespace(file=None, size=size)) as file:
        text = file.read()
    whole = "".join(LINE % number for number in range(size // 70 + 1)).encode("ascii")
    assert text == whole[:size]


def test_made_text_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        with open_content(Namespace(file=None, size=8 << 20)) as file:
            while file.read(65536):
                pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 << 20


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--help"])
    assert caught.value.code == 0
    assert "mtun demo --peers" in capsys.readouterr().out


@pytest.mark.full
def test_progress_bar_on_a_terminal() -> None:
    """A real terminal, and enough content to take longer than a second."""
    master, slave = pty.openpty()
    options = ["--peers", "4", "--size", "8MiB", "--engine", "pycryptodome"]
    command = [sys.executable, "-m", "tunnel", "demo", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    shown = read_terminal(master)
    os.close(master)
    assert process.wait(timeout=60) == 0
    assert "█" in shown
    assert shown.endswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("17", 17),
        ("300KiB", 307_200),
        ("10k", 10_240),
        ("1m", 1 << 20),
        ("2 GiB", 2 << 30),
        ("1GB", 1_000_000_000),
        ("5b", 5),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "-1", "1.5M", "5 apples", "1e3", "0x10", "٣", "k", "1KiBs", "9" * 50])
def test_malformed_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_readable_sizes() -> None:
    assert [readable_size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 30)] == [
        "0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 GiB",
    ]  # fmt: skip


def test_table() -> None:
    lines = table(["a", "b", "c", "number"], [["x", "yy", "z", "1"], ["xxx", "y", "z", "1,000"]]).splitlines()
    assert lines == ["a    b   c  number", "───  ──  ─  ──────", "x    yy  z       1", "xxx  y   z   1,000"]


def _mtun(
    *arguments: str, stdout: int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """As a user's shell runs it: with buffered output."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "tunnel", *arguments],
        env=kept | environment, stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip


def test_a_closed_pipe_ends_the_command_without_a_line(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = _mtun("keygen", str(tmp_path / "keys"), stdout=writer)
    finally:
        os.close(writer)
    assert result.returncode == 128 + signal.SIGPIPE
    assert result.stderr == b""


@pytest.mark.full
def test_a_terminal_without_the_letters_of_a_table(tmp_path: Path) -> None:
    assert _mtun("network", str(tmp_path / "net"), "--nodes", "1").returncode == 0
    result = _mtun("peers", "--network", str(tmp_path / "net"), PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert b"node-0" in result.stdout


def test_a_closed_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    bar = ProgressBar(1, enabled=True)
    bar.update(1)
    bar.close()
