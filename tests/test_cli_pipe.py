"""`mtun pipe`: its standard input and output, of whatever kind they are."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.network import PATIENCE_S
from tunnel import LocalNetwork
from tunnel.cli.main import main
from tunnel.directory import StaticDirectory
from tunnel.services import Published, Services

ANSWER = bytes(range(256)) * 4_096  # more than a pipe holds


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """`mtun pipe` to a server that reads to the end, and then answers with what it has read and `ANSWER`."""

    def serve() -> None:
        while True:
            try:
                conn, _ = server.accept()
            except OSError:
                return
            with conn, conn.makefile("rb") as received:
                conn.settimeout(PATIENCE_S)
                with contextlib.suppress(ConnectionResetError):  # the command was refused its input
                    conn.sendall(received.read() + ANSWER)

    peers = tmp_path_factory.mktemp("pipe") / "peers"
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        services = Services({"echo": Published("127.0.0.1", server.getsockname()[1])})
        with LocalNetwork(peers=3, service=services) as net:
            StaticDirectory(net.directory).save(peers)
            yield ["pipe", f"{net[2].id.hex()}:echo", "--peers", str(peers), "--hops", "1"]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("is_blocking", [True, False])
def test_pipes_of_either_kind(command: list[str], is_blocking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs at the ends of a pipe may have set it not to block."""
    (stdin, to_stdin), (from_stdout, stdout) = os.pipe(), os.pipe()
    received = bytearray()

    def talk() -> None:
        with open(to_stdin, "wb") as writer, open(from_stdout, "rb") as reader:
            writer.write(b"hello")
            writer.close()
            received.extend(reader.read())

    for descriptor in (stdin, stdout):
        os.set_blocking(descriptor, is_blocking)
    with open(stdin) as standard_input, open(stdout, "w") as standard_output:
        monkeypatch.setattr(sys, "stdin", standard_input)
        monkeypatch.setattr(sys, "stdout", standard_output)
        talking = threading.Thread(target=talk)
        talking.start()
        assert main(command) == 0
    talking.join(timeout=PATIENCE_S)
    assert bytes(received) == b"hello" + ANSWER


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_a_closed_stream_is_an_error(
    command: list[str], name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, name, None)
    assert main(command) == 2
    assert "is closed" in capfd.readouterr().err


def test_an_input_that_cannot_be_read_is_named(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with open(tmp_path / "file", "w") as only_for_writing, open(os.devnull, "w") as output:
        monkeypatch.setattr(sys, "stdin", only_for_writing)
        monkeypatch.setattr(sys, "stdout", output)
        assert main(command) == 1
    assert "error: standard input: Bad file descriptor" in capfd.readouterr().err
