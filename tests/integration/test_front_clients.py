"""Real programs through a network of processes: `mtun socks`, `forward` and `pipe`, over two proxies.

Each program runs as a user would run it. Its server is on loopback, behind the exit node-5.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import http.server
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import needs, running
from tests.support.servers import (
    NEEDS_POSTGRES,
    NEEDS_SSHD,
    TIMEOUT_S,
    free_port,
    postgres,
    run,
    sshd,
    wait_for_port,
)
from tunnel.cli.main import main

pytestmark = pytest.mark.full

BIG_BYTES = 100_000_000


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def www(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("www")
    (folder / "index.html").write_text("hello\n")
    block = os.urandom(1_000_000)
    with (folder / "big.bin").open("wb") as file:
        for number in range(BIG_BYTES // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])
    return folder


@pytest.fixture(scope="module")
def web(www: Path) -> Iterator[int]:
    handler = partial(_Quiet, directory=str(www))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


SSH_PORT, DATABASE_PORT = free_port(), free_port()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("front") / "net"
    assert main(["network", str(folder), "--nodes", "6", "--exit", "node-5"]) == 0
    with (folder / "node-4" / "node.toml").open("a") as file:
        for name, port in (("ssh", SSH_PORT), ("database", DATABASE_PORT)):
            file.write(f'\n[[publish]]\nname = "{name}"\nto = "127.0.0.1:{port}"\n')
    with running("up", str(folder)):
        yield folder


@pytest.fixture(scope="module")
def proxy(net: Path) -> Iterator[str]:
    with running("socks", "--network", str(net), "--exit", "node-5", "--hops", "2", "--listen", "0") as (
        _,
        ready,
    ):
        place: str = ready["listen"]
        yield place


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- web ----------------------------------------------------------------------------------------------------


@needs("curl", package="curl")
@pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
def test_curl(proxy: str, web: int, scheme: str) -> None:
    shown = run("curl", "-sS", "-p", "-x", f"{scheme}://{proxy}", f"http://localhost:{web}/")
    assert shown == b"hello\n"


@needs("curl", package="curl")
def test_curl_fetches_100_megabytes_whole(proxy: str, web: int, www: Path, tmp_path: Path) -> None:
    target = tmp_path / "big.bin"
    run("curl", "-sS", "-x", f"socks5h://{proxy}", f"http://localhost:{web}/big.bin", "-o", str(target))
    assert digest(target) == digest(www / "big.bin")


@needs("curl", package="curl")
def test_fifty_curls_at_once(proxy: str, web: int) -> None:
    def fetch(_: int) -> bytes:
        return run("curl", "-sS", "-x", f"socks5h://{proxy}", f"http://localhost:{web}/")

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(fetch, range(50))) == {b"hello\n"}


@needs("proxychains4", package="proxychains4")
@needs("curl", package="curl")
def test_proxychains(proxy: str, web: int, tmp_path: Path) -> None:
    host, port = proxy.rsplit(":", 1)
    config = tmp_path / "proxychains.conf"
    config.write_text(f"strict_chain\nproxy_dns\nremote_dns_subnet 224\n[ProxyList]\nsocks5 {host} {port}\n")
    # A name that only the exit can look up: the program sees an invented address.
    shown = run("proxychains4", "-q", "-f", str(config), "curl", "-sS", f"http://localhost.:{web}/")
    assert shown == b"hello\n"


def test_pysocks_and_requests(proxy: str, web: int) -> None:
    socks = pytest.importorskip("socks")
    requests = pytest.importorskip("requests")
    host, port = proxy.rsplit(":", 1)
    with socks.socksocket() as conn:
        conn.set_proxy(socks.SOCKS5, host, int(port), rdns=True, username="a", password="b")
        conn.connect(("localhost", web))
        conn.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert conn.makefile("rb").read().endswith(b"hello\n")
    proxies = {"http": f"socks5h://{proxy}"}
    assert requests.get(f"http://localhost:{web}/", proxies=proxies, timeout=TIMEOUT_S).text == "hello\n"


def test_httpx(proxy: str, web: int) -> None:
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("socksio")
    with httpx.Client(proxy=f"socks5://{proxy}", timeout=TIMEOUT_S) as client:
        assert client.get(f"http://localhost:{web}/").text == "hello\n"


@pytest.mark.parametrize("idle_s", [0.0, pytest.param(600.0, marks=pytest.mark.slow)])
def test_a_websocket(proxy: str, idle_s: float) -> None:
    server_module = pytest.importorskip("websockets.asyncio.server")
    client_module = pytest.importorskip("websockets.asyncio.client")
    pytest.importorskip("python_socks")

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def talk() -> None:
        async with server_module.serve(echo, "127.0.0.1", 0, max_size=None) as server:
            port = server.sockets[0].getsockname()[1]
            address = f"ws://localhost:{port}/"
            async with client_module.connect(
                address, proxy=f"socks5h://{proxy}", max_size=None
            ) as connection:
                for number in range(100):
                    await connection.send(str(number))
                    assert await connection.recv() == str(number)
                    await asyncio.sleep(idle_s / 100)
                await connection.send(b"y" * 1_000_000)
                assert await connection.recv() == b"y" * 1_000_000

    asyncio.run(asyncio.wait_for(talk(), TIMEOUT_S + idle_s))


@needs("chromium", package="chromium")
def test_chromium_loads_a_page_of_60_resources(proxy: str, web: int, www: Path, tmp_path: Path) -> None:
    for number in range(60):
        (www / f"part{number}.js").write_text(f"window.parts = (window.parts || 0) + 1; // {number}\n")
    scripts = "".join(f'<script src="part{number}.js"></script>' for number in range(60))
    (www / "page.html").write_text(f"{scripts}<p id=p></p><script>p.textContent = parts + ' parts'</script>")
    shown = run(
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path}",
        f"--proxy-server=socks5://{proxy}",
        "--proxy-bypass-list=<-loopback>",
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"http://localhost:{web}/page.html",
    )
    assert b"60 parts" in shown


# --- many connections ---------------------------------------------------------------------------------------


async def _connected(proxy: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a port behind the exit, through SOCKS5."""
    host, own = proxy.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(own))
    writer.write(b"\x05\x01\x00" + b"\x05\x01\x00\x01\x7f\0\0\x01" + port.to_bytes(2, "big"))
    assert await reader.readexactly(2) == b"\x05\x00"
    assert (await reader.readexactly(10))[1] == 0
    return reader, writer


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def _serving(handler: Handler) -> AsyncIterator[int]:
    """The port of a server. At the end its connections have ended too."""
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass  # the client is gone
        finally:
            await _end(writer)

    async with await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1_024) as server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*tasks)


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a whole request with its digest and a megabyte; a request that begins with "echo", at once."""
    digest = hashlib.sha256()
    while data := await reader.read(65_536):
        if data.startswith(b"echo"):
            writer.write(data)
        digest.update(data)
    writer.write(digest.digest() + bytes(1 << 20))
    await writer.drain()


async def _flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(bytes(65_536))
        await writer.drain()


def test_a_thousand_connections_at_once(proxy: str) -> None:
    async def talk() -> None:
        async with _serving(_digest) as port:
            connections = []
            for _ in range(20):
                connections += await asyncio.gather(*(_connected(proxy, port) for _ in range(50)))
            for number, (_, writer) in enumerate(connections):
                writer.write(b"echo%04d" % number)
            for number, (reader, _) in enumerate(connections):
                assert await reader.readexactly(8) == b"echo%04d" % number
            for _, writer in connections:
                await _end(writer)

    asyncio.run(asyncio.wait_for(talk(), TIMEOUT_S))


def test_half_closes_beside_a_client_that_reads_nothing(proxy: str) -> None:
    """Up, the end, a megabyte down, 50 times."""

    async def ask(port: int, size: int) -> None:
        reader, writer = await _connected(proxy, port)
        content = os.urandom(1 << 16) * (size >> 16)
        writer.write(content)
        writer.write_eof()
        assert await reader.readexactly(32) == hashlib.sha256(content).digest()
        assert await reader.read(-1) == bytes(1 << 20)
        await _end(writer)

    async def talk() -> None:
        async with _serving(_flood) as flooding, _serving(_digest) as port:
            _, stuck = await _connected(proxy, flooding)
            await asyncio.gather(*(ask(port, 1 << 16) for _ in range(49)), ask(port, 8 << 20))
            await _end(stuck)

    asyncio.run(asyncio.wait_for(talk(), TIMEOUT_S))


# --- git ----------------------------------------------------------------------------------------------------


@needs("git", package="git")
def test_git_clone_over_http(proxy: str, web: int, www: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    run("git", "init", "-q", str(made))
    (made / "file").write_bytes(os.urandom(300_000))
    run("git", "-C", str(made), "add", ".")
    run("git", "-C", str(made), *identity, "commit", "-qm", "message")
    run("git", "clone", "-q", "--bare", str(made), str(www / "repository.git"))
    run("git", "-C", str(www / "repository.git"), "update-server-info")
    cloned = tmp_path / "cloned"
    option = f"http.proxy=socks5h://{proxy}"
    run("git", "-c", option, "clone", "-q", f"http://localhost:{web}/repository.git", str(cloned))
    assert (cloned / "file").read_bytes() == (made / "file").read_bytes()


# --- ssh ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ssh_options(net: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The options of `ssh` for a server behind the published service "ssh"."""
    with sshd(SSH_PORT, tmp_path_factory.mktemp("ssh")) as options:
        pipe = shlex.join([sys.executable, "-m", "tunnel", "pipe", "node-4:ssh", "--network", str(net)])
        yield [*options, "-o", f"ProxyCommand={pipe} --hops 2"]


@NEEDS_SSHD
def test_ssh_through_a_pipe(ssh_options: list[str]) -> None:
    host = f"{getpass.getuser()}@node-4"
    shown = run("ssh", *ssh_options, host, "echo in; head -c 2000000 /dev/zero | sha256sum")
    assert shown.decode().split()[:2] == ["in", hashlib.sha256(bytes(2_000_000)).hexdigest()]


@NEEDS_SSHD
@pytest.mark.parametrize("program", ["scp", "rsync"])
def test_copies_over_ssh(ssh_options: list[str], program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(5_000_000))
    place = f"{getpass.getuser()}@node-4:{target}"
    shell = shlex.join(["ssh", *ssh_options])
    options = ssh_options if program == "scp" else ["-e", shell]
    run(program, *options, str(source), place)
    assert digest(target) == digest(source)


@NEEDS_SSHD
@needs("git", package="git")
def test_git_push_over_ssh(ssh_options: list[str], tmp_path: Path) -> None:
    made, bare = tmp_path / "made", tmp_path / "bare.git"
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    run("git", "init", "-q", "-b", "trunk", str(made))
    run("git", "init", "-q", "--bare", str(bare))
    (made / "file").write_bytes(os.urandom(300_000))
    run("git", "-C", str(made), "add", ".")
    run("git", "-C", str(made), *identity, "commit", "-qm", "message")
    place = f"{getpass.getuser()}@node-4:{bare}"
    shell = shlex.join(["ssh", *ssh_options])
    run("git", "-C", str(made), "push", "-q", place, "trunk", GIT_SSH_COMMAND=shell)
    assert run("git", "-C", str(bare), "rev-parse", "trunk") == run(
        "git", "-C", str(made), "rev-parse", "trunk"
    )


# --- databases and other servers ----------------------------------------------------------------------------


@pytest.fixture
def forwarded(net: Path) -> Iterator[int]:
    """A local port that leads to the published database."""
    command = ("forward", "0", "node-4:database", "--network", str(net), "--hops", "2")
    with running(*command) as (_, ready):
        yield int(ready["listen"].rsplit(":", 1)[1])


@needs("psql", package="postgresql")
@NEEDS_POSTGRES
def test_psql_copies_100_megabytes_both_ways(forwarded: int) -> None:
    psql = ("psql", "-h", "127.0.0.1", "-p", str(forwarded), "-U", "postgres", "-v", "ON_ERROR_STOP=1")
    rows = 100_000
    content = (b"x" * 999 + b"\n") * rows
    with postgres(DATABASE_PORT):
        run(*psql, "-qc", "create table big (line text)")
        run(*psql, "-qc", "copy big from stdin", data=content)
        assert run(*psql, "-Atc", "select count(*), sum(length(line)) from big") == b"100000|99900000\n"
        assert run(*psql, "-c", "copy big to stdout") == content


@needs("redis-server", "redis-cli", package="redis-server redis-tools")
def test_redis(forwarded: int, tmp_path: Path) -> None:
    command = [
        "redis-server",
        "--port",
        str(DATABASE_PORT),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        wait_for_port(DATABASE_PORT)
        client = ("redis-cli", "-p", str(forwarded))
        assert run(*client, "set", "key", "v" * 100_000) == b"OK\n"
        assert run(*client, "get", "key") == b"v" * 100_000 + b"\n"
        server.terminate()


@needs("iperf3", package="iperf3")
@pytest.mark.parametrize("direction", [(), ("-R",)], ids=["up", "down"])
def test_iperf3(net: Path, direction: tuple[str, ...]) -> None:
    port = free_port()
    with subprocess.Popen(["iperf3", "-s", "-p", str(port)], stdout=subprocess.DEVNULL) as server:
        wait_for_port(port)
        to = f"node-5/127.0.0.1:{port}"
        with running("forward", "0", to, "--network", str(net), "--hops", "2") as (_, ready):
            local = ready["listen"].rsplit(":", 1)[1]
            run("iperf3", "-c", "127.0.0.1", "-p", local, "-t", "2", *direction)
        server.terminate()


@needs("openssl", package="openssl")
def test_openssl_s_client(net: Path, tmp_path: Path) -> None:
    key, certificate, port = tmp_path / "key", tmp_path / "cert", free_port()
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
        *("-keyout", str(key), "-out", str(certificate)),
    )
    server_command = [
        "openssl",
        "s_server",
        "-accept",
        f"127.0.0.1:{port}",
        "-cert",
        str(certificate),
        "-key",
        str(key),
        "-www",
    ]
    with subprocess.Popen(server_command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
        wait_for_port(port)
        with running("forward", "0", f"node-5/localhost:{port}", "--network", str(net), "--hops", "2") as (
            _,
            ready,
        ):
            shown = run(
                *("openssl", "s_client", "-connect", ready["listen"], "-CAfile", str(certificate)),
                *("-verify_return_error", "-quiet"),
                data=b"GET / HTTP/1.0\r\n\r\n",
            )
            assert b"HTTP/1.0 200" in shown
        server.terminate()


@needs("ncat", package="ncat")
def test_ncat_reads_http_1_0_to_its_end(proxy: str, web: int) -> None:
    shown = run(
        *("ncat", "--proxy", proxy, "--proxy-type", "socks5", "127.0.0.1", str(web)),
        data=b"GET / HTTP/1.0\r\n\r\n",
    )
    assert shown.endswith(b"hello\n")


def test_pipe_of_100_megabytes(net: Path, web: int, www: Path) -> None:
    command = (sys.executable, "-m", "tunnel", "pipe", f"node-5/127.0.0.1:{web}", "--network", str(net))
    shown = run(*command, data=b"GET /big.bin HTTP/1.0\r\n\r\n")
    _, _, content = shown.partition(b"\r\n\r\n")
    assert hashlib.sha256(content).hexdigest() == digest(www / "big.bin")
