"""The folder of the files service against a model: after any uploads that are begun, interrupted, resumed,
falsified or committed, each named file is complete, and the quota holds."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tunnel.errors import LocalTunnelError
from tunnel.services import FilesSettings, FileStatus
from tunnel.services import files as file_store
from tunnel.services.files import FileStore, StoreRefused, Upload
from tunnel.services.names import file_name

CONTENTS = [bytes([number]) * size for number, size in enumerate((0, 1, 50, 400, 700))]
DIGESTS = [hashlib.sha256(content).digest() for content in CONTENTS]
NAMES = ["a", "b", "c"]
QUOTA = 1000


T = TypeVar("T")


def _try(work: Callable[[], T]) -> T | FileStatus:
    """The result of the call, or the status of its refusal."""
    try:
        return work()
    except StoreRefused as refused:
        return refused.status


class StoreMachine(RuleBasedStateMachine):
    """One store with any number of concurrent uploads, some with wrong bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.settings = FilesSettings(quota_bytes=QUOTA, files=3, uploads=3)
        self.store = FileStore(self.folder, self.settings)
        # Each with the bytes that it will still write.
        self.uploads: list[tuple[Upload, bytearray]] = []
        self.committed: dict[str, int] = {}

    def teardown(self) -> None:
        for upload, _ in self.uploads:
            upload.close()
        shutil.rmtree(self.folder)

    @rule(name=st.sampled_from(NAMES), number=st.sampled_from(range(len(CONTENTS))), is_hostile=st.booleans())
    def begin(self, name: str, number: int, is_hostile: bool) -> None:
        content, digest = CONTENTS[number], DIGESTS[number]
        offset = _try(lambda: self.store.offered(name, len(content), digest))
        if isinstance(offset, FileStatus):
            assert offset is FileStatus.FULL
            return
        upload = _try(lambda: self.store.begin(name, len(content), digest, offset))
        if isinstance(upload, FileStatus):
            assert upload in (FileStatus.FULL, FileStatus.BUSY)
            return
        while not upload.prepare():
            pass
        rest = content[offset:]
        self.uploads.append((upload, bytearray(b"\xff" * len(rest) if is_hostile else rest)))

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), count=st.integers(1, 800))
    def write(self, data: st.DataObject, count: int) -> None:
        upload, rest = data.draw(st.sampled_from(self.uploads))
        if _try(lambda: upload.write(bytes(rest[:count]))) is None:
            del rest[:count]
        else:  # FULL: others have sent as much meanwhile
            self.uploads = [entry for entry in self.uploads if entry[0] is not upload]
            upload.close()

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        upload, rest = data.draw(st.sampled_from(self.uploads))
        self.uploads = [entry for entry in self.uploads if entry[0] is not upload]
        number = DIGESTS.index(upload.digest)
        before = self.committed.get(upload.name)
        refused = _try(upload.commit)
        upload.close()
        if rest:
            assert refused is FileStatus.SIZE
        elif refused is FileStatus.DIGEST:
            assert upload.digest != upload.file.digest
        elif refused is None:
            assert before in (None, number)
            self.committed[upload.name] = number
        else:
            assert refused is FileStatus.EXISTS
            assert before not in (None, number)

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def break_off(self, data: st.DataObject) -> None:
        upload, rest = data.draw(st.sampled_from(self.uploads))
        self.uploads = [entry for entry in self.uploads if entry[0] is not upload]
        upload.close()
        if rest:
            with pytest.raises((StoreRefused, LocalTunnelError)):
                upload.write(bytes(rest))

    @rule()
    def restart(self) -> None:
        """Another process continues with the folder."""
        for upload, _ in self.uploads:
            upload.close()
        self.uploads.clear()
        self.store = FileStore(self.folder, self.settings)

    @invariant()
    def files_are_whole_and_the_quota_holds(self) -> None:
        found = {name: (self.folder / name).read_bytes() for name in os.listdir(self.folder)}
        assert {
            name: CONTENTS.index(content)
            for name, content in found.items()
            if file_name(name.encode()) is not None
        } == (self.committed)
        assert sum(map(len, found.values())) <= QUOTA
        assert [(entry.name, entry.size) for entry in self.store.entries()] == [
            (name, len(CONTENTS[number])) for name, number in sorted(self.committed.items())
        ]
        assert len(self.committed) <= 3


TestStore = StoreMachine.TestCase


def _begun(store: FileStore, name: str, content: bytes, offset: int = 0) -> Upload:
    upload = store.begin(name, len(content), hashlib.sha256(content).digest(), offset)
    while not upload.prepare():
        pass
    return upload


def test_parts_that_hold_nothing_are_bounded_too(tmp_path: Path) -> None:
    """A peer that begins many uploads and sends nothing cannot fill the folder with empty files."""
    store = FileStore(tmp_path, FilesSettings(files=5))
    for number in range(20):
        _begun(store, "a", b"%d" % number).close()
    assert len(os.listdir(tmp_path)) <= 5


def test_a_stored_file_is_not_changed_through_a_part_that_a_crash_has_left(tmp_path: Path) -> None:
    """Between the link to its name and the removal of the part's name, both are one file."""
    store = FileStore(tmp_path)
    content = b"precious"
    digest = hashlib.sha256(content).digest()
    (tmp_path / "a").write_bytes(content)
    os.link(tmp_path / "a", store.part_path(digest))
    upload = _begun(store, "b", content)
    upload.write(b"poisoned")
    with pytest.raises(StoreRefused):
        upload.commit()
    assert (tmp_path / "a").read_bytes() == content
    assert store.offered("b", len(content), digest) == 0


def test_an_upload_may_end_while_room_is_made_for_another(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    first, second = _begun(store, "a", b"a"), _begun(store, "b", b"b")

    class Ending(Upload):
        __slots__ = ()

        @property
        def held_bytes(self) -> int:  # looked at where another thread would come in
            second.close()
            return 1

        @held_bytes.setter
        def held_bytes(self, size: int) -> None:
            pass

    first.__class__ = Ending
    assert store.offered("c", 1, hashlib.sha256(b"c").digest()) == 0
    first.close()


# Strangers: what they declare takes nobody's room.


def test_a_declared_size_takes_no_room(tmp_path: Path) -> None:
    """Idle uploads that declare the whole quota, as many as may be, and one chunk of each has come."""
    store = FileStore(tmp_path, FilesSettings(quota_bytes=QUOTA, uploads=4))
    idle = [_begun(store, f"idle {number}", b"%d" % number * QUOTA) for number in range(3)]
    for upload in idle:
        upload.write(b"x")
    content = b"h" * (QUOTA - 3)
    honest = _begun(store, "honest", content)
    honest.write(content)
    honest.commit()
    assert (tmp_path / "honest").read_bytes() == content
    with pytest.raises(StoreRefused, match="FULL"):
        idle[0].write(b"x")
    for upload in idle:
        upload.close()


def test_an_offer_and_a_declared_size_remove_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path, FilesSettings(quota_bytes=QUOTA))
    part = _begun(store, "mine", b"m" * QUOTA)
    part.write(b"m" * 500)
    part.close()
    for number in range(20):
        content = b"%02d" % number * (QUOTA // 2)
        assert store.offered("other", QUOTA, hashlib.sha256(content).digest()) == 0
        _begun(store, "other", content).close()
    assert store.part_path(part.digest).stat().st_size == 500
    again = _begun(store, "mine", b"m" * QUOTA, 500)
    again.write(b"m" * (QUOTA - 500))
    again.commit()


def test_bytes_that_have_come_displace_as_many_of_idle_parts(tmp_path: Path) -> None:
    store = FileStore(tmp_path, FilesSettings(quota_bytes=QUOTA))
    parts = [_begun(store, f"part {number}", b"%d" % number * QUOTA) for number in range(4)]
    for number, part in enumerate(parts):
        part.write(bytes(QUOTA // 4))
        part.close()
        os.utime(store.part_path(part.digest), (time.time() - 100 + number,) * 2)
    upload = _begun(store, "new", b"n" * QUOTA)
    for gone in (1, 1, 2):  # an eighth of the quota each time
        upload.write(b"n" * (QUOTA // 8))
        assert [store.part_path(part.digest).exists() for part in parts] == [False] * gone + [True] * (
            4 - gone
        )
    upload.close()


def test_empty_parts_go_first(tmp_path: Path) -> None:
    store = FileStore(tmp_path, FilesSettings(files=5))
    part = _begun(store, "mine", b"mine")
    part.write(b"m")
    part.close()
    for number in range(20):
        _begun(store, "a", b"%d" % number).close()
    assert store.part_path(part.digest).exists()
    assert len(os.listdir(tmp_path)) <= 5


def test_names_that_the_rule_forbids_are_not_listed(tmp_path: Path) -> None:
    store = FileStore(tmp_path, FilesSettings(is_name_allowed=lambda name: name != "b"))
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"")
    assert [entry.name for entry in store.entries()] == ["a"]


def test_uploads_that_send_nothing_do_not_block_others(tmp_path: Path) -> None:
    now_s = 1000.0
    store = FileStore(tmp_path, FilesSettings(uploads=2), now_s=lambda: now_s)
    silent = [_begun(store, name, name.encode() * 5) for name in ("a", "b")]
    now_s += 59
    assert _try(lambda: _begun(store, "c", b"c")) is FileStatus.BUSY
    silent[1].write(b"b")
    now_s += 2
    upload = _begun(store, "c", b"c")
    upload.write(b"c")
    upload.commit()
    assert _try(lambda: silent[0].write(b"a")) is FileStatus.BUSY
    silent[1].write(b"bbbb")
    silent[1].commit()
    assert sorted(entry.name for entry in store.entries()) == ["b", "c"]


@pytest.mark.parametrize("late", [b"too much of it", b"wrong"])
def test_a_refused_upload_does_not_remove_the_part_of_another(tmp_path: Path, late: bytes) -> None:
    """Both write the same part: anyone who knew the digest could have prevented the upload of the file."""
    now_s = 0.0
    store = FileStore(tmp_path, now_s=lambda: now_s)
    hostile = _begun(store, "a", b"right")
    if len(late) == 5:
        hostile.write(late)
    now_s = file_store.STALLED_S
    with pytest.raises(StoreRefused):  # not stalled yet
        _begun(store, "a", b"right")
    now_s += 1
    honest = _begun(store, "a", b"right")
    honest.write(b"right")
    ending = hostile.commit if len(late) == 5 else partial(hostile.write, late)
    with pytest.raises(StoreRefused):
        ending()
    honest.commit()
    assert (tmp_path / "a").read_bytes() == b"right"


@pytest.mark.parametrize("name", ["a:b", "語" * 85, "ab" * 32])
def test_a_name_that_the_file_system_refuses_is_refused_before_the_content_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store = FileStore(tmp_path)
    digest = hashlib.sha256(b"x").digest()
    part = tmp_path / f".{'ab' * 32}.part"
    part.write_bytes(b"kept")  # of another upload, whose digest is the name
    assert store.offered(name, 1, digest) == 0
    assert os.listdir(tmp_path) == [part.name]
    real = os.open

    def fails(number: int) -> Callable[..., int]:
        def opens(path: Path, *arguments: int) -> int:
            if ".trial." in str(path):
                raise OSError(number, os.strerror(number), str(path))
            return real(path, *arguments)

        return opens

    for number in (errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG):
        monkeypatch.setattr(os, "open", fails(number))
        with pytest.raises(StoreRefused, match="NAME"):
            store.offered(name, 1, digest)
    monkeypatch.setattr(os, "open", fails(errno.EROFS))
    with pytest.raises(OSError, match="Read-only"):
        store.offered(name, 1, digest)
