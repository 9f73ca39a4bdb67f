"""The commands of docs/front.md run unchanged, with a server of this machine in place of example.com.

The first section creates the network that all others use.
"""

from __future__ import annotations

import getpass
import http.server
import re
import shlex
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.commands import needs
from tests.support.reader import Terminals, code_blocks
from tests.support.servers import NEEDS_POSTGRES, NEEDS_SSHD, postgres, run, sshd

PAGE = (Path(__file__).parents[2] / "docs" / "front.md").read_text(encoding="utf-8")
START = "Try it on one machine"
SERVER_WORD = "a page of example.com"


def blocks(title: str, language: str) -> list[str]:
    return code_blocks(PAGE, title, language)


class Pages(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A web server with a page and a git repository."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "index.html").write_text(f"{SERVER_WORD}\n")
    made = folder / "made"
    run("git", "init", "-q", str(made))
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    run("git", "-C", str(made), *identity, "commit", "-q", "--allow-empty", "-m", "message")
    run("git", "clone", "-q", "--bare", str(made), str(folder / "project.git"))
    run("git", "-C", str(folder / "project.git"), "update-server-info")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=folder)) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def adapt(text: str, folder: Path) -> str:
    """Code of the page with the servers of this test."""
    text = re.sub(r"\\\n *", "", text)
    text = text.replace("example.com:80", "localhost:8080").replace(
        '("example.com", 80)', '("localhost", 8080)'
    )
    text = re.sub(r"https?://example\.com", "http://localhost:8080", text)
    text = text.replace("user@", f"{getpass.getuser()}@")
    return text.replace("node-6:\n", f"node-6:{folder}/copy\n")


@pytest.fixture(scope="module")
def terminals(tmp_path_factory: pytest.TempPathFactory, web: int) -> Iterator[Terminals]:
    """Those in which the network and the SOCKS port run; node-6 has the tables of the page."""
    folder = tmp_path_factory.mktemp("reader")
    ports = dict.fromkeys((1080, 15432, 18080, 9000, 22, 5432)) | {8080: web}
    place = Terminals(folder, ports, partial(adapt, folder=folder))
    (network, socks, curl), published = blocks(START, "sh"), blocks("Published services", "toml")
    with ExitStack() as stack:
        place.paste(network.split("mtun up")[0], stack)
        public = place.paste(blocks("Published services", "sh")[1], stack).split()[-1]
        tables = "".join(published).replace("PUBLIC KEY OF friend.key", public)
        config = place.folder / "mynet" / "node-6" / "node.toml"
        (reverse,) = blocks("Reverse forwards", "toml")
        text = config.read_text().replace("[service]\n", place.adapted(reverse)) + place.adapted(tables)
        config.write_text(text)
        place.paste("mtun up" + network.split("mtun up")[1], stack)
        place.paste(socks, stack)
        assert SERVER_WORD in place.paste(curl, stack)
        yield place


pytestmark = pytest.mark.full
CURL = needs("curl", package="curl")
GIT = needs("git", package="git")


@CURL
@pytest.mark.parametrize(("title", "pages"), [("curl", 4), ("Isolation", 2)])
def test_curl(terminals: Terminals, title: str, pages: int) -> None:
    with ExitStack() as stack:
        assert terminals.paste(blocks(title, "sh")[0], stack).count(SERVER_WORD) == pages


@GIT
def test_git(terminals: Terminals) -> None:
    with ExitStack() as stack:
        terminals.paste(blocks("git", "sh")[0], stack)
    log = run("git", "-C", str(terminals.folder / "project"), "log", "--format=%s")
    assert log == b"message\n"


@NEEDS_SSHD
def test_ssh_and_scp(terminals: Terminals, tmp_path: Path) -> None:
    (terminals.folder / "report.pdf").write_bytes(b"a report")
    with ExitStack() as stack:
        options = stack.enter_context(sshd(terminals.ports[22], tmp_path))
        for name in ("ssh", "scp"):
            terminals.install(name, f"exec {shutil.which(name)} {shlex.join(options)}")
        assert "Linux" in terminals.paste(blocks("ssh, scp and rsync", "sh")[0], stack)
    assert (terminals.folder / "copy").read_bytes() == b"a report"


@needs("chromium", package="chromium")
def test_a_browser(terminals: Terminals) -> None:
    flags = "--headless --no-sandbox --disable-gpu --dump-dom --proxy-bypass-list='<-loopback>'"
    terminals.install("chromium", f"exec {shutil.which('chromium')} {flags}")
    (block,) = blocks("A browser", "sh")
    with ExitStack() as stack:
        shown = terminals.paste(block.replace("/tmp/mtun-browser", str(terminals.folder / "browser")), stack)
    assert SERVER_WORD in shown


@needs("psql", package="postgresql")
@needs("proxychains4", package="proxychains4")
@NEEDS_POSTGRES
def test_programs_without_a_proxy_setting(terminals: Terminals) -> None:
    psql, curl, chains = blocks("psql and other programs without a proxy setting", "sh")
    with ExitStack() as stack, postgres(terminals.ports[5432]):
        assert "(1 row)" in terminals.paste(psql, stack)
    with ExitStack() as stack:
        assert SERVER_WORD in terminals.paste(curl, stack)
        assert SERVER_WORD in terminals.paste(chains, stack)


def test_own_programs(terminals: Terminals) -> None:
    for name in ("socks", "requests", "httpx", "socksio"):
        pytest.importorskip(name)
    through_the_port, with_a_node = blocks("Your own program", "python")
    assert terminals.run_python(through_the_port).count(SERVER_WORD) == 3
    assert "HTTP/1.0 200 OK" in terminals.run_python(with_a_node)


@CURL
def test_client_keys(terminals: Terminals) -> None:
    _, _, use = blocks("Published services", "sh")
    with ExitStack() as stack:
        assert SERVER_WORD in terminals.paste(use, stack)
    with ExitStack() as stack, pytest.raises(AssertionError, match=r"\(52\)|\(56\)"):
        terminals.paste(use.replace("--key friend.key ", ""), stack)  # curl: empty reply, or reset


def test_publish_runs_a_node_for_one_server(terminals: Terminals) -> None:
    terminals.paste("mtun keygen state/keys", ExitStack())
    (terminals.folder / "node.toml").write_text("")
    with ExitStack() as stack:
        terminals.paste(blocks("Published services", "sh")[0], stack)


@CURL
def test_a_reverse_forward(terminals: Terminals) -> None:
    with ExitStack() as stack:
        terminals.paste(blocks("Reverse forwards", "sh")[0], stack)
        assert SERVER_WORD in terminals.paste("curl -sS http://127.0.0.1:9000/\n", stack)
