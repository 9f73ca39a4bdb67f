"""Key files: private, written completely or not at all, and refused with their name when invalid."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel.helpers import ENGINES, NOW_S, OPENSSL, make_keys
from tunnel.errors import KeyFileError
from tunnel.geometry import ALL_PROFILES
from tunnel.identity.descriptor import Address, Descriptor
from tunnel.identity.keys import EPOCH_S, NodeKeys


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "node.keys"
    make_keys("a").save(path)
    return path


def test_generated_keys_are_all_different() -> None:
    every: list[bytes] = []
    for _ in range(20):
        keys = NodeKeys.generate(NOW_S)
        every += [keys.identity, keys.link, keys.onion.private, keys.home, keys.onion.table]
        assert keys.onion.epoch == int(NOW_S) - 600
    assert len(set(every)) == 100
    assert {len(secret) for secret in every} == {32}


def test_rotated_keys_are_the_same_node_with_another_epoch() -> None:
    old = make_keys("a")
    new = old.rotated(NOW_S + 86_400)
    assert (new.identity, new.link, new.home) == (old.identity, old.link, old.home)
    assert new.onion.epoch == old.onion.epoch + 86_400
    assert len({old.onion.private, new.onion.private, old.onion.table, new.onion.table}) == 4


def test_a_new_descriptor_is_valid_now_and_names_every_profile() -> None:
    for engine in ENGINES:
        keys = make_keys("a")
        descriptor = keys.descriptor((Address("127.0.0.1", 1),), NOW_S, engine)
        assert Descriptor.parse(descriptor.signed, engine) == descriptor
        assert descriptor.hop(NOW_S).onion_public == keys.onion.opening_key(engine).private.public
        assert descriptor.hop(NOW_S).epoch == keys.onion.opening_key(engine).epoch
        assert descriptor.node_id == keys.node_id(engine)
        assert descriptor.link_key == keys.link_private(engine).public
        assert set(descriptor.profiles) == {p.byte for p in ALL_PROFILES if p.suite in engine.suites}
        assert len(descriptor.profiles) == (10 if engine is OPENSSL else 5)
        assert not descriptor.unlisted
        assert descriptor.onion_keys[0].not_after - descriptor.onion_keys[0].not_before == EPOCH_S


def test_a_node_without_an_address_is_unlisted() -> None:
    assert make_keys("a").descriptor((), NOW_S, OPENSSL).unlisted


def test_round_trip(tmp_path: Path) -> None:
    keys = NodeKeys.generate(NOW_S)
    keys.save(tmp_path / "k")
    assert NodeKeys.load(tmp_path / "k") == keys


def test_of_several_writers_of_one_file_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "k"
    make_keys("a").save(path, replace=False)
    with pytest.raises(FileExistsError):
        make_keys("b").save(path, replace=False)
    assert NodeKeys.load(path) == make_keys("a")
    assert os.listdir(tmp_path) == ["k"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("is_failing", [stat.S_ISREG, stat.S_ISDIR], ids=["file", "folder"])
def test_a_new_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_failing: Callable[[int], bool]
) -> None:
    def full(descriptor: int) -> None:
        if is_failing(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("tunnel.identity.state_dir.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        make_keys("a").save(tmp_path / "k", replace=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_only_the_owner_may_read(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        make_keys("a").save(tmp_path / "k")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) & ~0o600 == 0


def test_an_open_file_is_replaced_by_a_private_one(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_text("old")
    path.chmod(0o666)
    # An attacker with write access to the folder could prepare the temporary name, as a link or open file.
    (tmp_path / "k.new").write_text("prepared")
    (tmp_path / "k.new").chmod(0o666)
    make_keys("a").save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert NodeKeys.load(path) == make_keys("a")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["k"]


def test_a_symbolic_link_in_the_path_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("innocent")
    (tmp_path / "k.new").symlink_to(victim)
    make_keys("a").save(tmp_path / "k")
    assert victim.read_text() == "innocent"


def test_a_crash_while_writing_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("tunnel.identity.state_dir.os.fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        make_keys("b").save(saved)
    assert NodeKeys.load(saved) == make_keys("a")
    monkeypatch.undo()
    make_keys("b").save(saved)  # files left by the crash have no effect
    assert NodeKeys.load(saved) == make_keys("b")


def test_a_file_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        seen.append((tmp_path / "k").exists())
        fsync(descriptor)

    monkeypatch.setattr("tunnel.identity.state_dir.os.fsync", record)
    make_keys("a").save(tmp_path / "k")
    assert seen == [False, True], "the file before it has its name, the folder afterwards"


# --- damage -----------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(KeyFileError) as caught:
        NodeKeys.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none")


def test_a_directory(tmp_path: Path) -> None:
    refused(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"1",
        b"{}",
        b"\xff\xfe",
        b'{"mtun-keys": 1}',
        b"[" * 100_000,
        b"NaN",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "k"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("version", [0, 1, 3, "2", None, [2]])
def test_other_versions(saved: Path, version: object) -> None:
    record = json.loads(saved.read_text())
    record["mtun-keys"] = version
    saved.write_text(json.dumps(record))
    assert "version" in refused(saved)


@pytest.mark.parametrize("name", ["identity", "link", "home"])
@pytest.mark.parametrize("value", ["", "00", "zz" * 32, "00" * 31, "00" * 33, None, 7, ["00" * 32], {}])
def test_damaged_secrets(saved: Path, name: str, value: object) -> None:
    record = json.loads(saved.read_text())
    record[name] = value
    saved.write_text(json.dumps(record))
    refused(saved)
    del record[name]
    saved.write_text(json.dumps(record))
    assert name in refused(saved)


@pytest.mark.parametrize(
    "epoch",
    [float("inf"), float("nan"), -1, 2**32, 10**30, 1.5, True, "1", None, [], {}],
    ids=repr,
)
def test_epochs_that_no_wire_field_holds(saved: Path, epoch: object) -> None:
    """Infinity caused an OverflowError; the others were accepted, and failed at the first header."""
    record = json.loads(saved.read_text())
    record["onion"]["epoch"] = epoch
    saved.write_text(json.dumps(record))
    refused(saved)


GOOD = {"epoch": 1, "not-after": 2, "private": "00" * 32, "table": "00" * 32}


@pytest.mark.parametrize("which", ["onion", "previous", "next"])
@pytest.mark.parametrize(
    "onion",
    [
        [],
        "x",
        {},
        {"epoch": 1},
        {"private": "00" * 32},
        GOOD | {"not-after": 1},
        GOOD | {"table": "00" * 31},
        GOOD | {"private": None},
        GOOD | {"not-after": True},
    ],
    ids=str,
)
def test_damaged_onion_key(saved: Path, which: str, onion: Any) -> None:
    record = json.loads(saved.read_text())
    record[which] = onion
    saved.write_text(json.dumps(record))
    refused(saved)


@given(st.data())
def test_any_cut_or_changed_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """JSON has no checksum, so a changed digit gives another key; any other change is a KeyFileError."""
    path = tmp_path_factory.mktemp("keys") / "k"
    make_keys("a").save(path)
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:position])
    refused(path)
    path.write_bytes(whole[:position] + bytes([data.draw(st.integers(0, 255))]) + whole[position + 1 :])
    try:
        keys = NodeKeys.load(path)
    except KeyFileError:
        refused(path)
    else:
        assert {len(keys.identity), len(keys.link), len(keys.onion.private), len(keys.home)} == {32}


def test_errors_show_no_secret(saved: Path) -> None:
    record = json.loads(saved.read_text())
    secret = record["identity"]
    record["link"] = "no hex"
    saved.write_text(json.dumps(record))
    assert secret not in refused(saved)
