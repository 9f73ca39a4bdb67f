"""docs/front.md agrees with the code. Its commands run in tests/integration/test_front_document.py."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

from tests.support.reader import code_blocks, section
from tunnel.config import make_config
from tunnel.errors import ErrorCode
from tunnel.established import TunnelLimits
from tunnel.front.failures import REACH_S
from tunnel.front.forward import Forward
from tunnel.front.handshake import Failed, Handshake, Request
from tunnel.front.logins import FREE_FAILURES, MOST_LOGIN_BYTES, PAUSE_S
from tunnel.front.socks_server import (
    HANDSHAKE_S,
    MOST_CONNECTIONS,
    MOST_PENDING,
)
from tunnel.front.tunnel_pool import LIFE_S, MOST_TUNNELS
from tunnel.running.fronts import MOST_USERS
from tunnel.services import ExitSettings, Published, Reverse

PAGE = (Path(__file__).parents[1] / "docs" / "front.md").read_text(encoding="utf-8")


def test_the_tables_are_configurations() -> None:
    (text,) = code_blocks(PAGE, "Permanent ports", "toml")
    config = make_config(tomllib.loads(text), folder=Path("/x"), source="front.md", environment={})
    assert (len(config.socks), len(config.forwards)) == (2, 1)
    assert config.socks[1].listen == Path("/run/user/1000/socks")


def table(title: str, first: str) -> list[list[str]]:
    """The rows below the heading of a table."""
    lines = section(PAGE, title).split(f"| {first} |")[1].splitlines()[2:]
    rows = [line for line in lines[: lines.index("")] if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_the_codes_of_a_target_are_those_of_the_handshake() -> None:
    found = 0
    for failure, socks, status, *_ in table("Errors", "failure"):
        if not (code := re.search(r"\(([A-Z_]+)\)", failure)):
            continue
        failed = Failed(ErrorCode[code[1]], "", is_at_target=True)
        for request, reply in (
            (b"\5\1\0\5\1\0\1\x7f\0\0\1\0\x50", bytes([5, int(socks)])),
            (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n", f"HTTP/1.1 {status} ".encode()),
        ):
            handshake = Handshake()
            handshake.receive_data(request)
            while not isinstance(handshake.next_event(), Request):
                pass
            assert handshake.send(failed).startswith(reply), failure
        found += 1
    assert found == 4


def _default(kind: type, argument: str) -> object:
    return inspect.signature(kind).parameters[argument].default


def test_the_limits_are_those_of_the_code() -> None:
    rows = {what: limit for what, limit in table("Limits", "what")}
    numbers = [
        int(number.replace(",", "")) for limit in rows.values() for number in re.findall(r"[\d,]*\d", limit)
    ]
    exit = ExitSettings()
    assert numbers == [
        *(MOST_CONNECTIONS, _default(Forward, "most"), MOST_PENDING, HANDSHAKE_S, REACH_S, exit.connect_s),
        *(MOST_TUNNELS, TunnelLimits().sub_streams, MOST_USERS, 1, MOST_LOGIN_BYTES),
        *(FREE_FAILURES, PAUSE_S),
        *(_default(Published, "most"), _default(Reverse, "most")),
    ]
    assert exit.connection_idle_s == 3_600
    assert LIFE_S == 600


def test_every_block_of_commands_is_run() -> None:
    """A section that is new here needs a test in tests/integration/test_front_document.py."""
    found = {
        title: len(code_blocks(PAGE, title, "sh")) for title in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    }
    assert {title: count for title, count in found.items() if count} == {
        "Try it on one machine": 3,
        "curl": 1,
        "git": 1,
        "ssh, scp and rsync": 1,
        "A browser": 1,
        "psql and other programs without a proxy setting": 3,
        "Published services": 3,
        "Reverse forwards": 1,
        "Isolation": 1,
    }
