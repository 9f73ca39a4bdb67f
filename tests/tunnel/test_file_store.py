"""The folder behind the files service against a model: whatever is begun, broken off, resumed, poisoned or
committed, a file under a name is whole, and the quota holds."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tunnel.errors import LocalTunnelError
from tunnel.services import FilesSettings, FileStatus
from tunnel.services.file_store import FileStore, StoreRefused, Upload
from tunnel.services.names import is_name

CONTENTS = [bytes([number]) * size for number, size in enumerate((0, 1, 50, 400, 700))]
DIGESTS = [hashlib.sha256(content).digest() for content in CONTENTS]
NAMES = ["a", "b", "c"]
QUOTA = 1000


T = TypeVar("T")


def _try(work: Callable[[], T]) -> T | FileStatus:
    """What it returns, or the status with which it was refused."""
    try:
        return work()
    except StoreRefused as refused:
        return refused.status


class StoreMachine(RuleBasedStateMachine):
    """One store, any number of uploads at once, some of them of wrong bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.settings = FilesSettings(quota_bytes=QUOTA, files=3, uploads=3)
        self.store = FileStore(self.folder, self.settings)
        # Each with what it will still write.
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
        upload.write(bytes(rest[:count]))
        del rest[:count]

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        upload, rest = data.draw(st.sampled_from(self.uploads))
        self.uploads = [entry for entry in self.uploads if entry[0] is not upload]
        number = DIGESTS.index(upload.digest)
        before = self.committed.get(upload._name)
        refused = _try(upload.commit)
        upload.close()
        if rest:
            assert refused is FileStatus.SIZE
        elif refused is FileStatus.DIGEST:
            assert upload.digest != upload._file.digest
        elif refused is None:
            assert before in (None, number)
            self.committed[upload._name] = number
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
        """Another process takes the folder over."""
        for upload, _ in self.uploads:
            upload.close()
        self.uploads.clear()
        self.store = FileStore(self.folder, self.settings)

    @invariant()
    def files_are_whole_and_the_quota_holds(self) -> None:
        found = {name: (self.folder / name).read_bytes() for name in os.listdir(self.folder)}
        assert {
            name: CONTENTS.index(content) for name, content in found.items() if is_name(name.encode())
        } == (self.committed)
        assert sum(map(len, found.values())) <= QUOTA
        assert [(entry.name, entry.size) for entry in self.store.entries()] == [
            (name, len(CONTENTS[number])) for name, number in sorted(self.committed.items())
        ]
        assert len(self.committed) <= 3


TestStore = StoreMachine.TestCase
