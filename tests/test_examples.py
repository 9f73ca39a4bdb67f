"""Every example, and the README's commands and Python code, run as for a user, and print what is expected."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.commands import needs
from tests.support.reader import Terminals

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EXPECTED = {
    "asyncio_client": "the tunnel answers 'and over'",
    "any_spawner": "Restart: 15 words",
    "chat": "Alice reads:  * Bob has left",
    "echo_server": "echoed 1000005 bytes",
    "files": "the copy is the same: True",
    "first_query": "'ping' came back through 23 proxies",
    "real_node": "A REAL NODE",
    "upper_service": "A QUIET VOICE",
    "send_file": "refused, as it should be: NEXT_REFUSED",
    "sealed_file": "length is hidden in windows\nbytes behind the message",
    "socks_port": "hello from the web server",
    "tunnel_chat": "Alice reads:  Bob has left",
    "two_services": "ARE YOU THERE?",
    "voting": "the tally: 4 yes, 2 no",
}


def test_every_example_is_listed() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example(name: str) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # nodes may log what they refuse, and a busy machine is slow
    assert EXPECTED[name] in done.stdout


README = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.full
@pytest.mark.parametrize(
    ("number", "output"),
    [(0, "b'ping'\n"), (1, "b'hello'\n"), (2, "b'PING'\n"), (3, "b'A REAL NODE'\n")],
)
def test_each_block_of_python_in_the_readme_runs_alone(tmp_path: Path, number: int, output: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    network = [sys.executable, "-m", "tunnel", "network", "pair", "--nodes", "2"]
    subprocess.run(network, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    command = [sys.executable, "-W", "error", "-c", blocks[number]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, output), done.stderr


@pytest.mark.full
@needs("curl", package="curl")
def test_the_network_of_the_readme(tmp_path: Path) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"<!-- (\w+) -->\n```\n(.*?)```", readme, re.DOTALL))
    network, port, use = (
        blocks[name].replace(".venv/bin/", "").replace(" && ", "\n") for name in ("network", "port", "use")
    )
    shutil.copy(EXAMPLES.parent / "LICENSE", tmp_path)
    terminals = Terminals(tmp_path, {1080: None, 8000: None})
    with ExitStack() as stack:
        # Each command of the first line is a terminal here, the last one runs on.
        terminals.paste(network, stack)
        terminals.paste(port, stack)
        shown = terminals.paste(use, stack)
    assert shown.startswith((tmp_path / "LICENSE").read_text())
    assert "stored at node-3, sent over 3 proxies" in shown
    assert (tmp_path / "mynet" / "node-3" / "files" / "LICENSE").read_bytes() == (
        tmp_path / "LICENSE"
    ).read_bytes()
