"""A disk becomes read-only while a node runs: it continues, explains refusals, and logs each kind once."""

from __future__ import annotations

import errno
import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from reactor import ReactorThread
from tests.support.network import PATIENCE_S
from tunnel import LocalNetwork, connect
from tunnel.cli import main
from tunnel.client import get, list_files, put
from tunnel.config import load_config
from tunnel.errors import FilesError
from tunnel.running.configured_node import ConfiguredNode
from tunnel.services import Files


class Disk:
    """Refuses to open files for writing below a folder while `is_read_only`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_read_only = False
        self.refused = threading.Semaphore(0)
        really_open = os.open

        def checked_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if self.is_read_only and flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(folder)):
                self.refused.release()
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return really_open(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", checked_open)


def test_puts_are_refused_in_words_and_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(tmp_path / "files", monkeypatch)
    with LocalNetwork(peers=2, service=Files(tmp_path / "files")) as net:
        node, bob = net[0], net[1].id

        def store(name: str) -> None:
            put(node, bob, io.BytesIO(name.encode()), name, hops=0).result(PATIENCE_S)

        store("one")
        for outages in (1, 2):
            disk.is_read_only = True
            for _ in range(3):
                with pytest.raises(FilesError, match="DISK"):
                    store("two")
            lines = [line for line in caplog.messages if "Read-only file system" in line]
            assert len(lines) == outages
            # What is there can still be read.
            assert len(list_files(node, bob, hops=0).result(PATIENCE_S)) == outages
            get(node, bob, "one", tmp_path / f"one-{outages}", hops=0).result(PATIENCE_S)
            disk.is_read_only = False
            store(f"again-{outages}")


def test_a_node_survives_the_removal_of_its_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["network", str(tmp_path / "net"), "--nodes", "1"]) == 0
    state = tmp_path / "net" / "node-0"
    config = load_config(state / "node.toml", {"MTUN_PEERS_REFRESH_S": "0.01"})
    disk = Disk(state, monkeypatch)
    thread = ReactorThread()
    with ConfiguredNode(config, thread.reactor) as configured, thread:
        ready = threading.Event()
        serving = thread.submit(configured.serve(ready.set))
        assert ready.wait(PATIENCE_S)
        disk.is_read_only = True
        # A new descriptor is to be written, and written again until that works.
        on_publish = configured.node.context.on_publish
        assert on_publish is not None
        thread.reactor.post(on_publish, configured.node.descriptor)
        for _ in range(5):
            assert disk.refused.acquire(timeout=PATIENCE_S)
        lines = [line for line in caplog.messages if "Read-only file system" in line]
        assert len(lines) == 1, lines
        assert "the new descriptor is not written yet" in lines[0]
        with connect(config.state) as client:  # it still serves
            assert client.id == configured.node.id
            assert client.pid == os.getpid()
        disk.is_read_only = False
        thread.submit(configured.stop()).result(PATIENCE_S)
        serving.result(PATIENCE_S)
