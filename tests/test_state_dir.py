"""The files of a node: private, locked, complete or refused; and the state after a restart."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reactor import (
    Reactor,
    RunInThread,
    Sleep,
)
from reactor.core.requests import Request
from tests.tunnel.helpers import OPENSSL
from tunnel.cli.client import PeerNames
from tunnel.cli.main import main
from tunnel.config import NodeConfig, make_config
from tunnel.directory import StaticDirectory
from tunnel.directory.base import PeerFiles, list_peer_files, write_descriptor
from tunnel.errors import CannotListen, ConfigError, KeyFileError, ReplayFileError, StateError, TunnelError
from tunnel.geometry import Profile
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import NodeKeys, keygen_hint
from tunnel.identity.state_dir import StateDir, check_private
from tunnel.node.upkeep import publish
from tunnel.running.configured_node import ConfiguredNode


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_a_disk_that_is_full_leaves_the_folder_unlocked(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tunnel.identity.state_dir.os.pwrite", full)
        with pytest.raises(OSError, match="no space"):
            StateDir(state)
    StateDir(state).close()


# --- files ----------------------------------------------------------------------------------------------


def test_a_written_file_is_read_back_and_is_private(state: Path) -> None:
    with StateDir(state) as folder:
        assert folder.read("guards", 1) is None
        for body in (b"", b"\0\n" * 1000):
            folder.write("guards", 1, body)
            assert folder.read("guards", 1) == body
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "guards").stat().st_mode) == 0o600
    assert sorted(path.name for path in state.iterdir()) == ["guards", "lock"]


def test_a_change_of_any_byte_is_refused_with_advice(state: Path) -> None:
    with StateDir(state) as folder:
        folder.write("guards", 1, b"some guards")
        path = state / "guards"
        good = path.read_bytes()
        for at in range(len(good)):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(StateError) as caught:
                folder.read("guards", 1)
            assert str(path) in str(caught.value)
            assert f"move {path} away" in caught.value.hint
        for bad in (good[:-1], good + b"x", b"", b"\x7fELF"):
            path.write_bytes(bad)
            with pytest.raises(StateError):
                folder.read("guards", 1)


def test_another_version_or_name_is_refused(state: Path) -> None:
    with StateDir(state) as folder:
        folder.write("guards", 2, b"")
        with pytest.raises(StateError, match="has version 2, this program reads 1"):
            folder.read("guards", 1)
        (state / "guards").rename(state / "others")
        with pytest.raises(StateError, match="not a state file called 'others'"):
            folder.read("others", 2)
        for name in ("", "UP", "a/b", "a.b"):
            with pytest.raises(ValueError, match="a state file called"):
                folder.write(name, 1, b"")


@pytest.mark.parametrize("digits", [10, 5_000])
def test_a_version_of_too_many_digits_is_not_a_state_file(state: Path, digits: int) -> None:
    with StateDir(state) as folder:
        folder.write("guards", 1, b"")
        written = (state / "guards").read_bytes()
        (state / "guards").write_bytes(written.replace(b" 1 ", b" " + b"1" * digits + b" "))
        with pytest.raises(StateError, match="is not a state file"):
            folder.read("guards", 1)


def test_files_that_others_may_read_are_refused(state: Path) -> None:
    with StateDir(state) as folder:
        folder.write("guards", 1, b"")
        (state / "guards").chmod(0o640)
        with pytest.raises(StateError, match="has mode 640") as caught:
            folder.read("guards", 1)
        assert caught.value.hint == f"chmod 600 {state / 'guards'}"
    state.chmod(0o755)
    with pytest.raises(StateError, match="has mode 755") as caught:
        StateDir(state)
    assert caught.value.hint == f"chmod 700 {state}"


def test_links_are_not_followed(state: Path, tmp_path: Path) -> None:
    with StateDir(state) as folder:
        (tmp_path / "elsewhere").write_bytes(b"")
        (state / "guards").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic"):
            folder.read("guards", 1)


def test_two_nodes_do_not_use_one_folder(state: Path) -> None:
    with StateDir(state), pytest.raises(StateError, match=f"in use by a running node .process {os.getpid()}"):
        StateDir(state)
    StateDir(state).close()


def test_a_file_in_its_place(state: Path) -> None:
    state.write_bytes(b"")
    with pytest.raises(StateError, match="is not a folder"):
        StateDir(state)


# --- a node over restarts -------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    (tmp_path / "peers").mkdir()
    assert main(["keygen", str(tmp_path / "state" / "keys")]) == 0
    tables = {"peers": {"files": ["peers"], "publish": "peers/me"}}
    return make_config(tables, folder=tmp_path, source="test", environment={})


def run_once(config: NodeConfig) -> Descriptor:
    """Start and stop in order. Returns the descriptor."""
    with ConfiguredNode(config, Reactor()) as configured:
        descriptor = configured.node.descriptor
        (published,) = StaticDirectory.load(config.files[0] / "me", OPENSSL)
        assert published == descriptor
        assert not (config.state / "replay").exists()
    assert (config.state / "replay").exists()
    return descriptor


def test_a_clean_restart_keeps_the_keys(config: NodeConfig) -> None:
    first, second = run_once(config), run_once(config)
    assert second.node_id == first.node_id
    assert second.onion_keys == first.onion_keys
    assert second.sequence > first.sequence


def test_after_a_crash_the_node_is_the_same_and_its_onion_keys_are_new(config: NodeConfig) -> None:
    first = run_once(config)
    (config.state / "replay").unlink()  # as while a node runs
    second = run_once(config)
    assert second.node_id == first.node_id
    assert second.link_key == first.link_key
    assert not set(second.onion_keys) & set(first.onion_keys)


def test_a_start_that_fails_costs_nothing(config: NodeConfig, tmp_path: Path) -> None:
    first = run_once(config)
    with ConfiguredNode(config, Reactor()) as running:
        assert running.node.listens_at is not None
        taken = str(running.node.listens_at)
        tables = {"node": {"state": "other", "keys": "other/keys", "listen": taken}}
        other = make_config(tables, folder=tmp_path, source="test", environment={})
        assert main(["keygen", str(other.keys)]) == 0
        with pytest.raises(CannotListen, match="cannot listen on") as caught:
            ConfiguredNode(other, Reactor()).__enter__()
        assert "[node] listen" in caught.value.hint
        assert (other.state / "replay").exists()
        StateDir(other.state).close()  # its lock was given back
    assert run_once(config).onion_keys == first.onion_keys


def refused(config: NodeConfig, kind: type[TunnelError]) -> str:
    with pytest.raises(kind) as caught:
        ConfiguredNode(config, Reactor()).__enter__()
    StateDir(config.state).close()  # its lock was given back
    return f"{caught.value} {getattr(caught.value, 'hint', '')}"


def test_missing_and_damaged_files_are_refused_with_advice(config: NodeConfig) -> None:
    run_once(config)
    replay, keys = config.state / "replay", config.keys
    table, secret = replay.read_bytes(), keys.read_bytes()
    replay.write_bytes(table[:-1] + bytes([table[-1] ^ 1]))
    assert "Delete the file" in refused(config, ReplayFileError)
    replay.write_bytes(b"foreign")
    assert str(replay) in refused(config, ReplayFileError)
    replay.write_bytes(table)
    keys.write_bytes(secret[:-9])
    assert f"{keys} is not a key file" in refused(config, KeyFileError)
    keys.write_bytes(secret)
    keys.chmod(0o644)
    assert f"chmod 600 {keys}" in refused(config, KeyFileError)
    keys.chmod(0o600)
    published = (config.files[0] / "me").read_bytes()
    (config.files[0] / "me").write_text("not base64")
    assert "line 1" in refused(config, KeyFileError)
    (config.files[0] / "me").write_bytes(published)
    keys.unlink()
    assert f"mtun keygen {keys}" in refused(config, ConfigError)


def becomes_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def becomes_folder(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.mkdir()


def becomes_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def becomes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (Path.unlink, "there is no key file"),
        (becomes_link, "there is no key file"),
        (becomes_folder, "is a folder, not a key file"),
        (becomes_fifo, "is a FIFO (named pipe), expected a regular file"),
        (lambda path: os.truncate(path, 200), "it is damaged, or cut short, at byte"),
        (becomes(b""), "it is empty"),
        (becomes(b"-----BEGIN PRIVATE KEY-----\n"), "it is a PEM file"),
        (becomes(b"mtun-state guards 1 ab\n"), "it is another file of a state folder"),
        (becomes(b"bXR1bg==\n"), "it is a peer file"),
        (becomes(b'[node]\nkeys = "keys"\n'), "it is a configuration"),
        (becomes(b"\x7fELF"), "its content has another form"),
        (becomes(b'{"mtun-client-key": 1, "seed": "ab"}'), "it is the key of a client"),
        (becomes(b"{}"), "its field 'mtun-keys' is missing"),
    ],
)
def test_a_wrong_key_file_is_named_with_the_command_to_create_a_key(
    config: NodeConfig,
    change: Callable[[Path], object],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(config.keys)
    with pytest.raises((ConfigError, KeyFileError)) as caught:
        ConfiguredNode(config, Reactor()).__enter__()
    assert str(config.keys) in str(caught.value)
    assert fault in str(caught.value)
    # The commands of the hint work as they stand, and then the node starts.
    _, found, commands = caught.value.hint.rpartition(": ")
    assert found
    for step in commands.split(" && "):
        words = shlex.split(step)
        if words[0] == "mtun":
            assert main(words[1:]) == 0
            config = replace(config, keys=Path(words[-1]))
        else:
            subprocess.run(words, check=True)
    run_once(config)


def test_keys_that_are_missing_with_their_folders_are_made_by_the_hint(tmp_path: Path) -> None:
    deep = tmp_path / "a b" / "c" / "keys"
    assert keygen_hint(deep) == f"make one with: mkdir -p '{tmp_path / 'a b'}' && mtun keygen '{deep}'"
    deep.parent.mkdir(parents=True)
    assert main(["keygen", str(deep)]) == 0
    assert keygen_hint(deep.parent) == f"did you mean {deep}?"


def test_keys_that_cannot_be_read_are_named_with_their_rights(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, *_: object) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("tunnel.identity.keys.read_regular", denied)
    refusal = refused(config, KeyFileError)
    assert f"the key file {config.keys} cannot be read: Permission denied" in refusal
    assert f"chmod 600 {config.keys}" in refusal


@pytest.mark.parametrize("name", ["lock", "replay", "keys"])
def test_a_state_folder_that_cannot_be_written_is_named(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each file that a start opens, removes or writes."""
    run_once(config)
    really_open, really_unlink = os.open, os.unlink

    def check(path: str | Path) -> None:
        if Path(path).name.removesuffix(".new") == name:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    def read_only_open(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            check(path)
        return really_open(path, flags, mode)

    def read_only_unlink(path: str | Path) -> None:
        check(path)
        really_unlink(path)

    monkeypatch.setattr(os, "open", read_only_open)
    monkeypatch.setattr(os, "unlink", read_only_unlink)
    with pytest.raises(StateError, match=f"{name}: Read-only file system") as caught:
        ConfiguredNode(config, Reactor()).__enter__()
    assert "mount it writable" in caught.value.hint


def test_the_keys_of_another_node_are_noticed(config: NodeConfig, caplog: pytest.LogCaptureFixture) -> None:
    """By the replay tables of an orderly stop; after a crash, by the descriptor that the node published."""
    run_once(config)
    own = config.keys.read_bytes()
    NodeKeys.generate(time.time()).save(config.keys)
    refusal = refused(config, ReplayFileError)
    assert f"if {config.keys} is the key file of another node" in refusal
    config.keys.write_bytes(own)
    run_once(config)
    (config.state / "replay").unlink()
    assert caplog.messages == []
    NodeKeys.generate(time.time()).save(config.keys)
    run_once(config)
    (warning,) = caplog.messages
    assert f"if {config.keys} is the key file of another node" in warning
    assert str(config.publish) in warning


def test_a_new_descriptor_is_written_and_offers_the_same_profiles(config: NodeConfig) -> None:
    config = replace(config, profiles=(Profile.from_name("bulk"), Profile.from_name("default")))
    with ConfiguredNode(config, Reactor()) as configured:
        first = configured.node.descriptor
        assert {Profile.from_byte(byte).name for byte in first.profiles} == {"bulk", "default"}
        publish(configured.node.context)  # as after a change of keys
        (published,) = StaticDirectory.load(config.files[0] / "me", OPENSSL)
        assert published.sequence > first.sequence
        assert published.profiles == first.profiles


def test_a_disk_that_does_not_take_the_new_descriptor_ends_no_node(
    config: NodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """It is written later; until then the others use the previous one."""
    folder = config.files[0]
    with ConfiguredNode(config, Reactor()) as configured:
        folder.rename(folder.with_name("away"))
        publish(configured.node.context)  # as after a change of keys
        assert "descriptor is not written yet" in caplog.text
        folder.with_name("away").rename(folder)
        refreshing = configured.refresh()
        assert_sleeps(next(refreshing))  # a while later
        request = next(refreshing)
        assert isinstance(request, RunInThread)
        request.function(*request.args)
        refreshing.close()
        (published,) = StaticDirectory.load(folder / "me", OPENSSL)
        assert published == configured.node.descriptor


def test_the_sequence_number_outlives_a_crash_with_the_clock_ahead(config: NodeConfig) -> None:
    """The clock was two days ahead, the node was killed, and no peer file holds its descriptor."""
    config = replace(config, publish=None, files=())
    ahead_s = time.time() + 2 * 86_400
    with ConfiguredNode(config, Reactor()) as crashed:
        crashed.node.context.wall_clock = lambda: ahead_s
        crashed.node.context.codec.ring.advance(ahead_s)
        publish(crashed.node.context)
        ahead = crashed.node.descriptor
        copy = config.keys.read_bytes()
    # As after a kill: the last written keys, and no replay table.
    config.keys.write_bytes(copy)
    (config.state / "replay").unlink()
    with ConfiguredNode(config, Reactor()) as again:
        assert again.node.id == ahead.node_id
        assert again.node.descriptor.sequence > ahead.sequence == int(ahead_s)
        assert again.node.descriptor.hop(time.time())


def first_hops(config: NodeConfig, destination: bytes) -> set[bytes]:
    """Start, draw some routes, and stop in order."""
    with ConfiguredNode(config, Reactor()) as configured:
        profile = Profile.from_name("default")
        return {configured.node.choose_route(destination, 3, profile).proxies[0] for _ in range(9)}


def test_guards_are_kept_in_the_state_folder(config: NodeConfig) -> None:
    config = replace(config, network=b"some network....")
    peers = [
        NodeKeys.generate(time.time()).descriptor(
            (Address(f"{100 + number}.1.2.3", 4000),), time.time(), OPENSSL
        )
        for number in range(9)
    ]
    StaticDirectory(peers).save(config.files[0] / "others")
    first = first_hops(config, peers[0].node_id)
    assert len(first) == 1
    for _ in range(3):
        assert first_hops(config, peers[0].node_id) == first
    path = config.state / "guards"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(path.read_bytes()[:-1])
    assert f"move {path} away" in refused(config, StateError)


def test_a_local_network_has_no_guards_to_keep(config: NodeConfig) -> None:
    run_once(config)
    assert not (config.state / "guards").exists()


def test_a_family_is_in_the_descriptor(config: NodeConfig) -> None:
    assert run_once(replace(config, family=b"f" * 16)).family == b"f" * 16


# --- peer files -----------------------------------------------------------------------------------------


def test_peer_files_are_read_again_when_they_change(
    config: NodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    folder = config.files[0]
    first = run_once(config)
    directory = StaticDirectory()
    files = PeerFiles(directory, [folder], OPENSSL)
    files.load()
    assert list(directory) == [first]
    assert files.refresh() == []
    second = run_once(config)
    assert files.refresh() == [second]
    assert files.refresh() == []
    (folder / "bad").write_text("x")
    (folder / ".half").write_text("x")
    assert files.refresh() == []
    assert f"peers are skipped: {folder / 'bad'}, line 1: not a descriptor" in caplog.text
    assert ".half" not in caplog.text
    caplog.clear()
    assert files.refresh() == []
    assert not caplog.text
    write_descriptor(folder / "bad", first)
    assert files.refresh() == [first]
    assert [path.name for path in list_peer_files([folder, folder / "me"])] == ["bad", "me", "me"]


def test_copies_that_editors_make_are_no_peers(config: NodeConfig, caplog: pytest.LogCaptureFixture) -> None:
    first = run_once(config)
    folder = config.files[0]
    copies = ["me~", "#me#", "me.bak", "me.BAK", "me.orig", "me.tmp", "me.swp"]
    for name in (*copies, ".me.swp"):
        (folder / name).write_text("x")
    directory = StaticDirectory()
    files = PeerFiles(directory, [folder], OPENSSL)
    files.load()
    files.refresh()
    assert list(directory) == [first]
    assert [path.name for path in list_peer_files([folder])] == ["me"]
    for name in copies:
        assert caplog.text.count(f"{folder / name} looks like") == 1
    assert ".me.swp" not in caplog.text


def test_a_byte_order_mark_and_lines_of_garbage_spoil_no_peer_file(
    config: NodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    first = run_once(config)
    path = config.files[0] / "me"
    text = path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text + b"garbage\n\xff\xfe\0\n")
    directory = StaticDirectory()
    files = PeerFiles(directory, [config.files[0], path.with_name("none")], OPENSSL)
    files.load()
    assert list(directory) == [first]
    assert caplog.text.count(f"{path}, line 3: not a descriptor") == 1
    assert "and 1 more line" in caplog.text
    assert caplog.text.count(f"{path.with_name('none')} is not a peer file") == 1
    assert [*PeerNames(directory, (path.parent,), OPENSSL)] == [first]


def test_peer_files_without_one_peer_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x7fELF\0\0")
    (tmp_path / "b").write_text("# nothing\n")
    with pytest.raises(KeyFileError, match=r"no peer can be read: .*/a, line 1") as caught:
        PeerFiles(StaticDirectory(), [tmp_path], OPENSSL).load()
    assert "descriptors that nodes publish" in caught.value.__notes__[0]
    (tmp_path / "a").unlink()
    PeerFiles(StaticDirectory(), [tmp_path], OPENSSL).load()  # a node may be the first of its network


def test_a_folder_of_peers_that_cannot_be_listed_stops_neither_the_others_nor_the_refreshing(
    config: NodeConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens when a node has no file descriptors left, which its peers can cause."""
    first = run_once(config)
    folder, closed = config.files[0], config.files[0].with_name("closed")
    closed.mkdir()
    iterdir = Path.iterdir

    def iterdir_but_one(path: Path) -> Iterator[Path]:
        if path == closed:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", iterdir_but_one)
    files = PeerFiles(StaticDirectory(), [closed, folder], OPENSSL)
    assert files.refresh() == [first]
    assert f"peers are skipped: {closed}: {os.strerror(errno.EMFILE)}" in caplog.text


def test_a_link_in_a_shared_folder_of_peers_is_not_written_through(
    config: NodeConfig, tmp_path: Path
) -> None:
    first = run_once(config)
    (tmp_path / "precious").write_text("mine")
    (config.files[0] / ".me.new").symlink_to(tmp_path / "precious")
    write_descriptor(config.files[0] / "me", first)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (config.files[0] / "me").is_symlink()
    assert list(StaticDirectory.load(config.files[0] / "me", OPENSSL)) == [first]


def test_check_private_of_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_private(tmp_path / "none")


# --- a state that cannot be saved ---------------------------------------------------------------------------


def assert_sleeps(request: Request) -> None:
    assert isinstance(request, Sleep)
    assert request.seconds


def steps(configured: ConfiguredNode, count: int) -> None:
    """Run a number of refreshes."""
    refreshing = configured.refresh()
    assert_sleeps(next(refreshing))
    for _ in range(count):
        request = refreshing.send(None)
        while isinstance(request, RunInThread):
            request = refreshing.send(request.function(*request.args))
        assert_sleeps(request)
    refreshing.close()


def test_a_folder_that_is_removed_while_the_node_runs_is_made_again(
    config: NodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    first = run_once(config)
    with ConfiguredNode(config, Reactor()) as configured:
        shutil.rmtree(config.state)
        steps(configured, 3)
        assert caplog.text.count("were removed while the node runs") == 1
        assert config.keys.exists()
        with pytest.raises(StateError, match="in use by a running node"):
            StateDir(config.state)
        shutil.rmtree(config.state)  # again, just before it stops
    assert run_once(config).node_id == first.node_id
    assert stat.S_IMODE(config.state.stat().st_mode) == 0o700


def test_a_state_that_cannot_be_saved_is_logged_once_an_hour_and_when_it_can_again(
    config: NodeConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = config.state.with_name("away")
    with ConfiguredNode(config, Reactor()) as configured:
        config.state.rename(away)
        config.state.write_bytes(b"")  # in its place, so that it cannot be made again
        steps(configured, 3)
        told = f"the state of the node is not saved: {config.state} is not a folder"
        assert caplog.text.count(told) == 1
        now_s = time.monotonic()
        monkeypatch.setattr("tunnel.running.configured_node.time.monotonic", lambda: now_s + 4000)
        steps(configured, 3)
        assert caplog.text.count(told) == 2
        config.state.unlink()
        away.rename(config.state)
        steps(configured, 3)
        assert caplog.text.count("saved again") == 1


def test_keys_that_cannot_be_saved_at_their_place_are_saved_elsewhere(
    config: NodeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_once(config)
    configured = ConfiguredNode(config, Reactor()).__enter__()
    shutil.rmtree(config.state)
    config.state.write_bytes(b"")
    with pytest.raises(StateError, match="is not a folder") as caught:
        configured.__exit__(None, None, None)
    (place,) = tmp_path.glob("mtun-keys-*/keys")
    assert str(place) in str(caught.value)
    assert caught.value.hint == f"before the next start: mv {place} {config.keys}"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    config.state.unlink()
    config.state.mkdir(mode=0o700)
    place.rename(config.keys)
    assert run_once(config).node_id == first.node_id


def test_keys_of_another_node_at_the_same_place_are_not_replaced(
    config: NodeConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A network is removed and made again while the old one runs."""
    run_once(config)
    configured = ConfiguredNode(config, Reactor()).__enter__()
    shutil.rmtree(config.state)
    assert main(["keygen", str(config.keys)]) == 0
    theirs = config.keys.read_bytes()
    steps(configured, 2)
    publish(configured.node.context)
    assert "holds other keys now" in caplog.text
    with pytest.raises(StateError, match=r"holds other keys now .*; its keys are in"):
        configured.__exit__(None, None, None)
    assert config.keys.read_bytes() == theirs
    StateDir(config.state).close()
    assert len(list(tmp_path.glob("mtun-keys-*/keys"))) == 1


def test_a_full_disk_at_the_stop_is_an_error_with_the_path_and_leaves_the_old_keys(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_once(config)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    configured = ConfiguredNode(config, Reactor()).__enter__()
    with monkeypatch.context() as patch:
        patch.setattr("tunnel.identity.state_dir.os.fsync", full)
        with pytest.raises(StateError, match=f"{config.keys}: No space left") as caught:
            configured.__exit__(None, None, None)
    assert "the disk is full: free some space" in str(caught.value)
    assert "unharmed" in caught.value.hint
    assert sorted(path.name for path in config.state.iterdir()) == ["keys", "lock"]
    assert run_once(config).node_id == first.node_id


def test_a_state_that_cannot_be_saved_does_not_hide_the_error_that_ended_the_node(
    config: NodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    configured = ConfiguredNode(config, Reactor()).__enter__()
    shutil.rmtree(config.state)
    config.state.write_bytes(b"")
    configured.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert "its keys are in" in caplog.text


def test_a_node_whose_state_is_not_saved_ends_with_status_1(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert main(["keygen", str(state / "keys")]) == 0
    (tmp_path / "node.toml").write_text('[node]\nlisten = "127.0.0.1:0"\n')
    command = [sys.executable, "-m", "tunnel", "node", "--config", str(tmp_path / "node.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        shutil.rmtree(state)
        state.write_bytes(b"")
        process.terminate()
        _, shown = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"error: the state of the node is not saved: {state} is not a folder" in shown
    assert "hint: before the next start: mv " in shown
