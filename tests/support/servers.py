"""Servers on loopback, for tests of the front: functions in threads, sshd and PostgreSQL."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commands import needs

__all__ = [
    "MEGABYTE",
    "NEEDS_POSTGRES",
    "NEEDS_SSHD",
    "TIMEOUT_S",
    "digest_server",
    "free_port",
    "postgres",
    "run",
    "sshd",
    "tcp_server",
    "wait_for_port",
]

TIMEOUT_S = 120.0
MEGABYTE = bytes(range(256)) * 4096


def free_port() -> int:
    """A port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


@contextlib.contextmanager
def tcp_server(handle: Callable[[socket.socket], object], port: int = 0) -> Iterator[int]:
    """The port of a server that runs a function for each connection, in a thread of its own."""
    with socket.create_server(("127.0.0.1", port), backlog=256) as server:

        def serve(conn: socket.socket) -> None:
            with conn:
                handle(conn)

        def run() -> None:
            while True:
                try:
                    conn, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(conn,), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def digest_server(conn: socket.socket) -> None:
    """For `tcp_server`: answers a whole request, whatever its length, with its digest and a megabyte."""
    digest = hashlib.sha256()
    conn.settimeout(TIMEOUT_S)
    while data := conn.recv(65_536):
        digest.update(data)
    conn.sendall(digest.digest() + MEGABYTE)


def wait_for_port(port: int) -> None:
    """Wait until a server listens there."""
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")


def run(*command: str, data: bytes | None = None, **environment: str) -> bytes:
    """The output of a program that succeeds."""
    done = subprocess.run(
        command,
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


NEEDS_SSHD = needs("ssh", "ssh-keygen", "sshd", package="openssh-client openssh-server")


@contextlib.contextmanager
def sshd(port: int, folder: Path) -> Iterator[list[str]]:
    """A server for this user. Gives the options of `ssh` for it, without the way to it."""
    for name in ("host", "client"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    shutil.copy(folder / "client.pub", folder / "authorized")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    settings = {
        "ListenAddress": "127.0.0.1",
        "AuthorizedKeysFile": folder / "authorized",
        "StrictModes": "no",
        "PidFile": "none",
        "UsePAM": "no",
        "Subsystem": "sftp internal-sftp",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    server = shutil.which("sshd") or "/usr/sbin/sshd"
    command = [server, "-D", "-e", "-f", "/dev/null", "-p", str(port), "-h", str(folder / "host"), *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port)
            client = {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR"}
            yield [
                *("-i", str(folder / "client")),
                *(word for key, value in client.items() for word in ("-o", f"{key}={value}")),
            ]
        finally:
            process.terminate()


def _postgres() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


NEEDS_POSTGRES = pytest.mark.skipif(
    _postgres() is None or os.geteuid() != 0, reason="needs root and the server: apt install postgresql"
)


@contextlib.contextmanager
def postgres(port: int) -> Iterator[None]:
    """A server for the user postgres, without a password."""
    programs = _postgres()
    data = Path("/tmp") / f"mtun-pg-{os.getpid()}"  # the user postgres must reach it
    run("install", "-d", "-o", "postgres", str(data))

    def as_postgres(command: str) -> None:
        run("su", "postgres", "-c", command)

    try:
        as_postgres(f"{programs}/initdb -D {data} -A trust")
        options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1"
        as_postgres(f"{programs}/pg_ctl -D {data} -o '{options}' -l {data}/log -w start")
        yield
    finally:
        as_postgres(f"{programs}/pg_ctl -D {data} -m immediate stop")
        shutil.rmtree(data)
