"""Opening only regular files, and renaming without replacing, on every kind of file system."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tunnel.helpers import OPENSSL
from tunnel import disk
from tunnel.config import load_config
from tunnel.directory import StaticDirectory
from tunnel.directory.base import PeerFiles
from tunnel.disk import open_regular, read_regular, rename_new
from tunnel.errors import LocalTunnelError, TunnelError
from tunnel.identity.key_ring import KeyRing
from tunnel.identity.keys import NodeKeys
from tunnel.identity.state_dir import StateDir, write_private
from tunnel.services import pack_attachments


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()


def link_to_null(path: Path) -> None:
    path.symlink_to("/dev/null")


def link_to_tty(path: Path) -> None:
    path.symlink_to("/dev/ptmx")


@pytest.fixture(
    params=[make_fifo, make_socket, link_to_null, link_to_tty, Path.mkdir], ids=lambda make: make.__name__
)
def strange(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path that is not a regular file. Opening a FIFO would wait for a writer forever."""
    path = tmp_path / "strange"
    request.param(path)
    return path


def test_only_regular_files_are_opened(strange: Path) -> None:
    with pytest.raises(LocalTunnelError, match="expected a regular file"):
        open_regular(strange)
    with pytest.raises(LocalTunnelError, match="expected a regular file"):
        open_regular(strange, os.O_RDWR | os.O_CREAT)


def _keys_with_tables(path: Path) -> None:
    keys = path.with_name("keys")
    NodeKeys.generate(1e9).save(keys)
    KeyRing.resume(keys, path, OPENSSL, now_s=1e9)


@pytest.mark.parametrize(
    "read",
    [
        NodeKeys.load,
        lambda path: load_config(path, {}),
        lambda path: StaticDirectory.load(path, OPENSSL),
        lambda path: b"".join(pack_attachments([("a", path)])),
        _keys_with_tables,
    ],
    ids=["keys", "configuration", "peers", "attachment", "replay tables"],
)
def test_no_reader_of_a_users_path_waits_for_a_fifo(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(TunnelError, match="FIFO"):
        read(path)


def test_a_state_file_that_is_a_fifo_is_refused(tmp_path: Path) -> None:
    with StateDir(tmp_path / "state") as state:
        os.mkfifo(state.path / "guards", 0o600)
        with pytest.raises(LocalTunnelError, match="FIFO"):
            state.read("guards", 1)
    (tmp_path / "state" / "lock").unlink()
    os.mkfifo(tmp_path / "state" / "lock", 0o600)
    with pytest.raises(LocalTunnelError, match="FIFO"):
        StateDir(tmp_path / "state")


def test_a_fifo_among_the_peers_stops_no_refresh(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    StaticDirectory([]).save(path)
    files = PeerFiles(StaticDirectory(), [path], OPENSSL)
    files.load()
    path.unlink()
    os.mkfifo(path)
    assert files.refresh() == []


def test_a_file_is_read_up_to_one_byte_more_than_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    assert read_regular(path, 3) == b"1234"


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=["link", "renameat2", "placeholder"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kinds of file systems: with hard links; without; without hard links and RENAME_NOREPLACE."""
    if request.param != "link":
        monkeypatch.setattr(os, "link", no_links)
    if request.param == "placeholder":
        monkeypatch.setattr(disk, "rename_noreplace", lambda *_: False)
    return str(request.param)


def test_a_rename_gives_the_name_and_never_replaces(way: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    rename_new(source, target)
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["target"]
    source.write_bytes(b"other")
    for taken in (target, tmp_path / "link"):
        if taken != target:
            taken.symlink_to("nowhere")
        with pytest.raises(FileExistsError):
            rename_new(source, taken)
    assert (source.read_bytes(), target.read_bytes()) == (b"other", b"new")


def test_a_rename_that_fails_leaves_both_as_they_were(way: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "none", tmp_path / "target")
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "source", tmp_path / "none" / "target")
    assert os.listdir(tmp_path) == ["source"]


def test_a_file_that_takes_the_place_of_the_placeholder_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(disk, "rename_noreplace", lambda *_: False)
    found = os.lstat

    def lstat(path: Path) -> os.stat_result:
        if path == target:  # another program is faster
            target.unlink()
            (tmp_path / "other").write_bytes(b"theirs")
            (tmp_path / "other").rename(target)
            monkeypatch.setattr(os, "lstat", found)
        return found(path)

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(FileExistsError):
        rename_new(source, target)
    assert (source.read_bytes(), target.read_bytes()) == (b"new", b"theirs")


def test_a_full_disk_leaves_the_old_file_no_half_and_an_error_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    write_private(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
            write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["keys"]
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "gone" / "keys")):
        write_private(tmp_path / "gone" / "keys", b"new")
