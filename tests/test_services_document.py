"""docs/services.md agrees with the code."""

from __future__ import annotations

import inspect
import ipaddress
import re
import tomllib
from pathlib import Path

import pytest

from reactor.core.threads import THREADS
from tunnel.cli import main
from tunnel.client import Client, ServiceClient, ThreadReply, ThreadStream, ThreadTunnel
from tunnel.client.aio import AsyncClient, AsyncReply, AsyncStream, AsyncTunnel
from tunnel.node.query.incoming_replies import IncomingReply
from tunnel.node.tunnels.tunnel import NodeTunnel, TunnelStream
from tunnel.routing.addresses import SPECIAL_BLOCKS, special_block
from tunnel.services.attachments import MAX_PIECE_BYTES
from tunnel.services.exit import HALF_OPEN_S, MOST_ADDRESSES, TUNNEL_LOOK_UPS
from tunnel.services.exit_rules import ExitRules
from tunnel.services.file_requests import (
    ENTRY_HEAD_BYTES,
    REPLY_BYTES,
    REQUEST_HEAD_BYTES,
    FileStatus,
    Operation,
)
from tunnel.services.files import STALLED_S
from tunnel.services.names import MAX_FILE_NAME_BYTES, MAX_NAME_BYTES

TEXT = (Path(__file__).parents[1] / "docs" / "services.md").read_text(encoding="utf-8")


def _sum_of(table: str) -> int:
    """The bytes of the fields of fixed length."""
    rows = re.search(rf"^\| {table} \| bytes \| \|\n\| --- .*\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert rows
    return sum(int(count) for count in re.findall(r"^\| [a-z ]+ \| (\d+) \|", rows[1], re.MULTILINE))


def test_the_node_in_a_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = TEXT.split("## A node in a program\n")[1].split("\n## ")[0]
    commands = re.findall(r"`mtun (network [^`]+)`", section)
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    assert main(commands[0].split()) == 0
    capsys.readouterr()
    exec(compile(program, "docs/services.md", "exec"), {})
    assert capsys.readouterr().out == "A QUIET VOICE\n"


def test_the_first_service_runs(capsys: pytest.CaptureFixture[str]) -> None:
    program = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[0]
    exec(compile(program, "docs/services.md", "exec"), {})
    assert capsys.readouterr().out == "b'PING'\n"


def test_the_statuses_of_the_files_service() -> None:
    rows = re.findall(r"^\| 0x(..) \| `(\w+)` \| (.+) \|$", TEXT, re.MULTILINE)
    assert [(int(code, 16), name) for code, name, _ in rows] == [(code, code.name) for code in FileStatus]


def test_lengths_and_numbers() -> None:
    assert _sum_of("request") == REQUEST_HEAD_BYTES
    assert _sum_of("reply") == REPLY_BYTES
    assert ENTRY_HEAD_BYTES == 1 + 8
    assert ", ".join(f"{int(o)} {o.name}" for o in Operation) in TEXT
    assert f"(u32, 1 to {MAX_PIECE_BYTES:,})" in TEXT
    assert f"1 to {MAX_NAME_BYTES} ASCII letters" in TEXT
    assert f"1 to {MAX_FILE_NAME_BYTES} bytes of UTF-8" in TEXT
    assert f"nothing moved for {STALLED_S:g} s" in TEXT


def _exit_section() -> str:
    return TEXT.split("## Exit\n")[1].split("\n## ")[0]


def test_the_rules_of_the_exit_section_do_what_it_says() -> None:
    table, *pair = [
        tomllib.loads(text)
        for block in re.findall(r"```toml\n(.*?)```", _exit_section(), re.DOTALL)
        for text in ([block] if block.startswith("[exit]") else block.splitlines())
    ]
    users, admins = ipaddress.ip_address("93.184.216.34"), ipaddress.ip_address("10.1.2.3")
    rules = ExitRules(table["exit"]["rules"])
    assert rules.allow("example.org", users, 443, None)
    assert not rules.allow("track.ads.example", users, 443, None)
    assert not rules.allow(None, users, 22, None)
    assert rules.allow(None, admins, 22, special_block(admins))
    assert not rules.allow(None, admins, 80, special_block(admins))
    app = ipaddress.ip_address("10.0.0.7")
    allowed = [
        [
            ExitRules(each["rules"]).allow("app.example.org", app, port, special_block(app))
            for port in (80, 443)
        ]
        for each in pair
    ]
    assert allowed == [[False, False], [False, True]]
    for host, is_named in [
        ("10.0.0.0/24", True),
        ("10.0.0.0/8", True),
        ("0.0.0.0/0", False),
        ("8.0.0.0/6", False),
    ]:
        assert f"`{host}`" in _exit_section()
        assert ExitRules([f"allow {host}"]).allow(None, app, 80, special_block(app)) is is_named


def test_the_special_blocks_of_the_exit_section_are_those_of_the_code() -> None:
    table = _exit_section().split("| special addresses |")[1].split("\n\n")[0]
    named = {ipaddress.ip_network(text) for text in re.findall(r"[0-9a-f:.]+/\d+|::1\b|::(?= \|)", table)}
    unassigned = {ipaddress.ip_network(text) for text in ("::/3", "4000::/2", "8000::/1", "2000::/3")}
    assert named - unassigned == set(SPECIAL_BLOCKS) - unassigned
    assert f"Up to {MOST_ADDRESSES} addresses of each family" in _exit_section()
    assert f"{THREADS['names']} look-ups at the same time, {TUNNEL_LOOK_UPS} of one tunnel" in _exit_section()
    assert f"or for {HALF_OPEN_S / 60:g} minutes when one direction has ended" in _exit_section()


def test_the_three_kinds_of_clients_have_the_same_names() -> None:
    def names(kind: type) -> set[str]:
        # The `undo_...` methods are for the clients themselves.
        return {name for name in vars(kind) if not name.startswith(("_", "undo_")) and name != "numbered"}

    assert names(Client) == names(ServiceClient) == names(AsyncClient)
    served = names(IncomingReply) - {"write", "wait_room", "has_ended"}
    assert names(ThreadReply) == names(AsyncReply) == served
    held = names(NodeTunnel) - {
        "answered",
        "carrier",
        "drain",
        "end_sending",
        "has_ended",
        "is_as_new",
        "leave",
        "start",
    }  # for the node and the front
    assert names(ThreadTunnel) == names(AsyncTunnel) == held
    assert (
        names(ThreadStream) == names(AsyncStream) == names(TunnelStream) - {"claim", "leave", "opened", "use"}
    )  # for the node and the front


def test_their_arguments_are_the_same_but_for_time_limits() -> None:
    for group in (
        (Client, ServiceClient, AsyncClient),
        (ThreadReply, AsyncReply),
        (ThreadTunnel, AsyncTunnel, NodeTunnel),
        (ThreadStream, AsyncStream, TunnelStream),
    ):
        for name, method in vars(group[0]).items():
            if not name.startswith("_") and not isinstance(method, property):
                found = [
                    [p for p in inspect.signature(vars(kind)[name]).parameters if p != "timeout_s"]
                    for kind in group
                ]
                assert all(arguments == found[0] for arguments in found), name
