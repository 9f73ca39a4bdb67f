"""Files in use: they change while they are sent, have any name, and are on any file system."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import os
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from reactor import Service
from tests.support.network import PATIENCE_S, wait_until_idle
from tunnel import LocalNetwork, QueryFailed, QueryResult
from tunnel.client import get, list_files, put
from tunnel.client.file_endpoints import PathTarget
from tunnel.errors import FileChanged, FilesError, LocalTunnelError
from tunnel.services import (
    Echo,
    Files,
    FileStatus,
    Query,
    Reply,
    ServiceFunction,
    pack_attachments,
    save_attachments,
)
from tunnel.services.file_requests import FileReply
from tunnel.services.files import FileStore, StoreRefused
from tunnel.services.partial_file import PartialFile

pytestmark = pytest.mark.full

CONTENT = os.urandom(3_000_000)
OTHER = os.urandom(1_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def net(folder: Path) -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=3, service=Files(folder)) as net:
        yield net


# --- a source that changes --------------------------------------------------------------------------------


def appends(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"one more line\n")


def shrinks(path: Path) -> None:
    os.truncate(path, 1000)


def rewrites(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2_999_000)
        file.write(b"X")


def replaces(path: Path) -> None:
    path.with_name("new").write_bytes(CONTENT)
    path.with_name("new").replace(path)


def rewrites_unseen(path: Path) -> None:
    """Rewrite without a change of the modification time, as through a memory map or within one clock tick."""
    before = path.stat()
    rewrites(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = [appends, shrinks, rewrites, rewrites_unseen]


@pytest.mark.parametrize(
    ("kind", "change"),
    [*itertools.product(["path", "file"], CHANGES), ("path", replaces), ("temporary", appends)],
)
def test_a_file_that_changes_while_it_is_sent_ends_the_put(
    net: LocalNetwork, folder: Path, tmp_path: Path, kind: str, change: Callable[[Path], None]
) -> None:
    temporary: Any = tempfile.NamedTemporaryFile(dir=tmp_path)  # noqa: SIM115 - closed below
    path = Path(temporary.name) if kind == "temporary" else tmp_path / "log"
    path.write_bytes(CONTENT)
    sent: list[int] = []

    def progress(done: int, size: int) -> None:
        if done and not any(sent):
            change(path)
        sent.append(done)

    with temporary, path.open("rb", buffering=0) as file:
        source = {"path": path, "file": file, "temporary": temporary}[kind]
        with pytest.raises(FileChanged, match=f"{path.name}' changed while it was sent"):
            put(net[0], net[2].id, source, "log", hops=1, progress=progress, retries=5).result(PATIENCE_S)
    # Once over it, from the front, and no further than announced.
    assert sent == sorted(set(sent))
    assert sent[-1] <= len(CONTENT)
    if change is not rewrites_unseen:
        assert sent[-1] < len(CONTENT)
    assert not (folder / "log").exists()
    wait_until_idle(net)


def test_a_file_that_is_removed_while_it_is_sent_is_sent_whole(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    put(net[0], net[2].id, path, hops=1, progress=lambda *_: path.unlink(missing_ok=True)).result(PATIENCE_S)
    assert (folder / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["cut", "rewritten"])
def test_a_file_in_memory_that_changes_ends_the_put(net: LocalNetwork, change: str) -> None:
    source = io.BytesIO(CONTENT[:-1] + b"0")
    seen: list[int] = []

    def progress(done: int, size: int) -> None:
        seen.append(done)
        if len(seen) == 2:
            if change == "cut":
                source.truncate(100)
            else:
                source.getbuffer()[-1:] = b"1"

    with pytest.raises(FileChanged):
        put(net[0], net[2].id, source, "memory", hops=1, progress=progress).result(PATIENCE_S)
    assert seen == sorted(set(seen))


def test_a_poisoned_part_at_the_other_end_is_no_change_here(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "f"
    source.write_bytes(CONTENT)
    (folder / f".{hashlib.sha256(CONTENT).hexdigest()}.part").write_bytes(b"poison")
    assert put(net[0], net[2].id, source, hops=1).result(PATIENCE_S).attempts == 2
    assert (folder / "f").read_bytes() == CONTENT


def test_a_file_that_grows_in_the_store_is_served_as_it_was(folder: Path) -> None:
    store = FileStore(folder)
    path = folder / "log"
    path.write_bytes(CONTENT)
    with store.open("log") as download:
        assert not download.prepare()
        appends(path)
        while not download.prepare():
            pass
        assert (download.size, download.digest) == (len(CONTENT), hashlib.sha256(CONTENT).digest())
        download.start(0)
        assert download.read(10_000_000) == CONTENT
        assert download.read(1) == b""


def test_a_file_that_is_cut_or_rewritten_in_the_store_is_not_served_on(folder: Path) -> None:
    store = FileStore(folder)
    path = folder / "log"
    for change in (shrinks, rewrites):
        path.write_bytes(CONTENT)
        with store.open("log") as download:
            while not download.prepare():
                pass
            download.start(0)
            assert len(download.read(1000)) == 1000
            change(path)
            assert download.read(1000) == b""
    path.write_bytes(CONTENT)
    with store.open("log") as download:
        shrinks(path)
        with pytest.raises(StoreRefused, match="CHANGED"):
            download.prepare()


# --- files whose size is not known ------------------------------------------------------------------------


def test_content_without_a_size_is_refused_before_anything_is_sent(net: LocalNetwork, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    wrong: list[tuple[str, type[Exception], str]] = [
        ("fifo", LocalTunnelError, "FIFO"),
        (".", LocalTunnelError, "a folder"),
        ("/dev/zero", LocalTunnelError, "a device"),
        ("/proc/cpuinfo", LocalTunnelError, "cannot be announced.*mtun send -"),
        ("/proc/self/pagemap", LocalTunnelError, "cannot be announced"),
        ("dangling", FileNotFoundError, "dangling"),
        ("loop", OSError, "loop"),
    ]
    if Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        wrong.append(("/sys/kernel/mm/transparent_hugepage/enabled", LocalTunnelError, "cannot be announced"))
    for path, kind, what in wrong:
        with pytest.raises(kind, match=what):
            put(net[0], net[2].id, tmp_path / path, "x", hops=1).result(PATIENCE_S)


def test_fifos_do_not_take_the_reactors_threads(net: LocalNetwork, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "f").write_bytes(OTHER)
    refused = [put(net[0], net[2].id, tmp_path / "fifo", f"{n}", hops=1) for n in range(8)]
    assert put(net[0], net[2].id, tmp_path / "f", hops=1).result(PATIENCE_S).size == len(OTHER)
    for future in refused:
        with pytest.raises(LocalTunnelError, match="FIFO"):
            future.result(PATIENCE_S)


# --- files as content of a query --------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=3, service=Echo()) as echo:
        yield echo


def start_query(echo: LocalNetwork, content: Any, **options: Any) -> tuple[Future[QueryResult], io.BytesIO]:
    sink = io.BytesIO()
    return echo[0].query(echo[2].id, content, hops=1, sink=sink, **options), sink


def echoed(echo: LocalNetwork, content: Any, **options: Any) -> bytes:
    future, sink = start_query(echo, content, **options)
    future.result(PATIENCE_S)
    return sink.getvalue()


def test_a_query_sends_a_file_as_it_is_when_the_query_begins(echo: LocalNetwork, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    with path.open("rb") as file, Path("/proc/cpuinfo").open("rb") as proc, path.open("r+b") as writing:
        file.seek(1000)
        assert echoed(echo, file) == CONTENT[1000:]
        assert echoed(echo, path, retries=2) == CONTENT
        assert b"processor" in echoed(echo, proc)
        writing.seek(0, os.SEEK_END)
        writing.write(b"not on the disk yet")
        writing.seek(10)
        assert echoed(echo, writing) == CONTENT[10:] + b"not on the disk yet"


@pytest.mark.parametrize("change", [appends, shrinks, rewrites])
@pytest.mark.parametrize("kind", ["path", "raw", "buffered"])
def test_a_query_whose_file_changes_fails_with_that(
    echo: LocalNetwork, tmp_path: Path, kind: str, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    seen: list[int] = []

    def progress(sent: int, received: int) -> None:
        if sent and not seen:
            seen.append(sent)
            change(path)

    with path.open("rb", buffering=0 if kind == "raw" else -1) as file:
        content: Any = path if kind == "path" else file
        with pytest.raises(FileChanged, match="changed while it was sent"):
            echoed(echo, content, progress=progress)


def test_a_pipe_as_content_keeps_no_reactor_waiting(echo: LocalNetwork, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        waiting, sink = start_query(echo, pipe)
        assert echoed(echo, b"beside") == b"beside"
        os.write(writer, b"late")
        os.close(writer)
        waiting.result(PATIENCE_S)
        assert sink.getvalue() == b"late"
    os.mkfifo(tmp_path / "fifo")
    for wrong, kind in ((tmp_path / "fifo", LocalTunnelError), (tmp_path / "none", FileNotFoundError)):
        with pytest.raises(kind):
            echoed(echo, wrong)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["日本語.txt", "my résumé (1).txt", ".bashrc", "-rf", "n" * 251 + ".pdf", "語" * 85],
    ids=lambda name: ascii(name)[:12],
)
def test_a_name_is_the_same_there_and_back(
    net: LocalNetwork, folder: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(OTHER)
    (tmp_path / "back").mkdir()
    assert put(net[0], net[2].id, tmp_path / name, hops=1).result(PATIENCE_S).name == name
    assert os.listdir(folder) == [name]
    assert [entry.name for entry in list_files(net[0], net[2].id, hops=1).result(PATIENCE_S)] == [name]
    get(net[0], net[2].id, name, tmp_path / "back", hops=1).result(PATIENCE_S)
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "back").iterdir()} == {name: OTHER}


def test_both_normal_forms_are_one_file(net: LocalNetwork, folder: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é.txt") for form in ("NFC", "NFD"))
    put(net[0], net[2].id, io.BytesIO(OTHER), decomposed, hops=1).result(PATIENCE_S)
    assert put(net[0], net[2].id, io.BytesIO(OTHER), composed, hops=1).result(PATIENCE_S).sent_bytes == 0
    (folder / composed).rename(folder / decomposed)  # as stored by its owner from another system
    with pytest.raises(FilesError, match="EXISTS"):
        put(net[0], net[2].id, io.BytesIO(b"x"), composed, hops=1).result(PATIENCE_S)
    for name in (composed, decomposed):
        sink = io.BytesIO()
        get(net[0], net[2].id, name, sink, hops=1).result(PATIENCE_S)
        assert sink.getvalue() == OTHER
    assert [entry.name for entry in list_files(net[0], net[2].id, hops=1).result(PATIENCE_S)] == [composed]
    store = FileStore(folder)
    with pytest.raises(StoreRefused, match="EXISTS"):
        _store(store, composed, b"x")
    (folder / composed).write_bytes(b"two")  # if both exist, the NFC form is served
    assert [(entry.name, entry.size) for entry in store.entries()] == [(composed, 3)]
    assert store.open(composed).size == 3


def _store(store: FileStore, name: str, content: bytes) -> None:
    upload = store.begin(name, len(content), hashlib.sha256(content).digest(), 0)
    while not upload.prepare():
        pass
    upload.write(content)
    upload.commit()


def test_names_on_the_disk_that_the_wire_has_no_form_for_are_not_listed(folder: Path) -> None:
    store = FileStore(folder)
    for raw in (b"good", b"caf\xe9", b"a\nb", b"\x1b[31m", b".x.part", "gpj.\u202eexe".encode()):
        (folder / os.fsdecode(raw)).write_bytes(b"")
    assert [entry.name for entry in store.entries()] == ["good"]


def test_a_locale_without_the_letters_refuses_the_name(
    folder: Path, tmp_path: Path, net: LocalNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsencode", lambda name: os.fspath(name).encode("latin-1"))
    with pytest.raises(StoreRefused, match="NAME"):
        FileStore(folder).begin("日本語", 0, bytes(32), 0)
    with pytest.raises(LocalTunnelError, match="LC_ALL"):
        get(net[0], net[2].id, "日本語", tmp_path, hops=1).result(PATIENCE_S)


@pytest.mark.parametrize(
    "name", [b"../x", b"/etc/passwd", b"\x1b[2J", b"a\nb", b"caf\xe9", "e\u0301".encode(), b"."]
)
def test_a_list_with_a_name_that_no_file_has_is_refused(name: bytes) -> None:
    entry = bytes([len(name)]) + (5).to_bytes(8, "big") + name

    def lies(query: Query, reply: Reply) -> Service[None]:
        yield from reply.write(FileReply(FileStatus.OK, 1).pack() + entry)

    with LocalNetwork(peers=3, service=lies) as net, pytest.raises(QueryFailed, match="invalid name"):
        list_files(net[0], net[2].id, hops=1, retries=0).result(PATIENCE_S)


def test_content_that_is_neither_path_nor_file_is_refused(net: LocalNetwork) -> None:
    wrong: Any = b"content"
    with pytest.raises(TypeError, match="wrap bytes"):
        put(net[0], net[2].id, wrong, "x", hops=1).result(PATIENCE_S)
    with pytest.raises(TypeError, match="a target is"):
        get(net[0], net[2].id, "x", wrong, hops=1).result(PATIENCE_S)
    text: Any = io.StringIO("content")
    with pytest.raises(TypeError, match="binary mode"):
        put(net[0], net[2].id, text, "x", hops=1).result(PATIENCE_S)
    with pytest.raises(TypeError, match="a target is"):
        get(net[0], net[2].id, "x", text, hops=1).result(PATIENCE_S)


# --- the target ---------------------------------------------------------------------------------------------


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_there_and_back_without_hard_links(
    net: LocalNetwork, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    put(net[0], net[2].id, io.BytesIO(CONTENT), "f", hops=1).result(PATIENCE_S)
    get(net[0], net[2].id, "f", tmp_path / "usb", hops=1).result(PATIENCE_S)
    assert (folder / "f").read_bytes() == (tmp_path / "usb").read_bytes() == CONTENT
    with pytest.raises(FilesError, match="EXISTS"):
        put(net[0], net[2].id, io.BytesIO(OTHER), "f", hops=1).result(PATIENCE_S)
    assert sorted(os.listdir(tmp_path)) == ["store", "usb"]
    assert os.listdir(folder) == ["f"]


def test_a_target_that_cannot_be_is_refused_before_the_transfer(
    net: LocalNetwork, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "f").write_bytes(CONTENT)
    (tmp_path / "file").write_bytes(b"")
    asked: list[object] = []
    monkeypatch.setattr(FileStore, "open", lambda *arguments: asked.append(arguments))
    wrong: list[tuple[str, type[Exception], str]] = [
        ("none/x", FileNotFoundError, "none"),
        ("file/x", NotADirectoryError, "file"),
        ("x" * 256, OSError, "too long"),
        ("file", LocalTunnelError, "exists"),
    ]
    for name, kind, what in wrong:
        with pytest.raises(kind, match=what):
            get(net[0], net[2].id, "f", tmp_path / name, hops=1).result(PATIENCE_S)

    def read_only(path: str | Path, *arguments: int) -> int:
        if str(path).startswith(str(tmp_path)):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, *arguments)

    real = os.open
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OSError, match=f"Read-only file system: '{tmp_path / 'x'}'"):
        get(net[0], net[2].id, "f", tmp_path / "x", hops=1).result(PATIENCE_S)
    assert asked == []
    assert sorted(os.listdir(tmp_path)) == ["file", "store"]


def file_appears(target: Path) -> None:
    target.write_bytes(b"of another program")


def folder_appears(target: Path) -> None:
    target.mkdir()


def link_appears(target: Path) -> None:
    target.symlink_to("nowhere")


def fifo_appears(target: Path) -> None:
    os.mkfifo(target)


@pytest.mark.parametrize(
    ("appears", "replace"),
    [
        (file_appears, False),
        (folder_appears, False),
        (link_appears, False),
        (fifo_appears, False),
        (folder_appears, True),
        (fifo_appears, True),
    ],
)
def test_a_target_that_appears_during_the_transfer_is_not_replaced(
    net: LocalNetwork, folder: Path, tmp_path: Path, appears: Callable[[Path], None], replace: bool
) -> None:
    (folder / "f").write_bytes(CONTENT)
    target = tmp_path / "here" / "copy"
    target.parent.mkdir()

    def progress(done: int, size: int) -> None:
        if done and not os.path.lexists(target):
            appears(target)

    way: Any = {"hops": 1, "replace": replace}
    with pytest.raises(LocalTunnelError, match=r"copy' appeared during the transfer.*\.part") as caught:
        get(net[0], net[2].id, "f", target, progress=progress, **way).result(PATIENCE_S)
    assert "nothing is fetched again" in caught.value.hint
    kind = os.lstat(target).st_mode
    (part,) = target.parent.glob(".copy.*.part")
    assert part.read_bytes() == CONTENT
    target.rename(tmp_path / "moved away")
    assert os.lstat(tmp_path / "moved away").st_mode == kind
    fetched = get(net[0], net[2].id, "f", target, **way).result(PATIENCE_S)
    assert fetched.received_bytes == 0
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == ["copy"]


def test_a_target_that_appears_at_the_last_moment_is_not_replaced(
    net: LocalNetwork, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last look at it, and before the rename."""
    (folder / "f").write_bytes(CONTENT)
    commit = PartialFile.commit

    def late(self: PartialFile, target: Path, **options: Any) -> None:
        target.write_bytes(b"of another program")
        commit(self, target, **options)

    monkeypatch.setattr(PartialFile, "commit", late)
    with pytest.raises(LocalTunnelError, match="appeared during the transfer"):
        get(net[0], net[2].id, "f", tmp_path / "copy", hops=1).result(PATIENCE_S)
    assert (tmp_path / "copy").read_bytes() == b"of another program"


def test_an_empty_file_whose_target_appears_leaves_nothing(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    (folder / "f").write_bytes(b"")
    target = tmp_path / "here" / "copy"
    target.parent.mkdir()

    def progress(done: int, size: int) -> None:
        if not target.exists():
            file_appears(target)

    with pytest.raises(LocalTunnelError, match="is not replaced") as caught:
        get(net[0], net[2].id, "f", target, hops=1, progress=progress).result(PATIENCE_S)
    assert "kept" not in str(caught.value)
    assert os.listdir(target.parent) == ["copy"]


def folder_vanishes(here: Path) -> None:
    here.rename(here.with_name("renamed"))


def folder_becomes_a_file(here: Path) -> None:
    folder_vanishes(here)
    here.write_bytes(b"")


def folder_is_made_again(here: Path) -> None:
    folder_vanishes(here)
    here.mkdir()


@pytest.mark.parametrize(
    ("change", "when"),
    [
        (folder_vanishes, "restart"),
        (folder_vanishes, "write"),
        (folder_becomes_a_file, "restart"),
        (folder_becomes_a_file, "write"),
        (folder_is_made_again, "write"),
    ],
)
def test_a_target_whose_folder_is_gone_is_named(
    net: LocalNetwork,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    when: str,
) -> None:
    (folder / "f").write_bytes(CONTENT)
    here = tmp_path / "here"
    here.mkdir()
    method = getattr(PathTarget, when)

    def late(self: PathTarget, data: bytes) -> None:
        if not here.with_name("renamed").exists():
            change(here)
        method(self, data)

    monkeypatch.setattr(PathTarget, when, late)
    with pytest.raises(LocalTunnelError, match="here', or the unfinished file in it, was removed") as caught:
        get(net[0], net[2].id, "f", here / "copy", hops=1).result(PATIENCE_S)
    assert "make the folder again" in caught.value.hint
    assert not (here / "copy").exists()


def test_modes_are_those_of_new_files_and_of_the_replaced_one(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    (folder / "f").write_bytes(OTHER)
    new, secret = tmp_path / "new", tmp_path / "secret"
    secret.write_bytes(b"")
    secret.chmod(0o600)
    before = os.umask(0o027)
    try:
        get(net[0], net[2].id, "f", new, hops=1).result(PATIENCE_S)
        get(net[0], net[2].id, "f", secret, hops=1, replace=True).result(PATIENCE_S)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (new, secret)] == [0o640, 0o600]


def test_of_several_gets_to_one_target_one_continues(net: LocalNetwork, folder: Path, tmp_path: Path) -> None:
    (folder / "big").write_bytes(CONTENT)
    futures = [get(net[i % 2], net[2].id, "big", tmp_path / "x", hops=1) for i in range(4)]
    refused = [error for future in futures if (error := future.exception(PATIENCE_S)) is not None]
    assert len(refused) == 3
    assert all(isinstance(error, LocalTunnelError) for error in refused)
    assert all("is under way" in str(error) or "exists" in str(error) for error in refused)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert sorted(os.listdir(tmp_path)) == ["store", "x"]


def test_a_part_without_a_digest_that_a_killed_process_has_left_is_used_again(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    (folder / "f").write_bytes(OTHER)
    (tmp_path / f".x.{'00' * 32}.part").write_bytes(b"")
    get(net[0], net[2].id, "f", tmp_path / "x", hops=1).result(PATIENCE_S)
    with pytest.raises(FilesError, match="NOT_FOUND"):
        get(net[0], net[2].id, "none", tmp_path / "y", hops=1).result(PATIENCE_S)
    assert sorted(os.listdir(tmp_path)) == ["store", "x"]


def test_a_store_that_is_removed_while_it_is_served_is_made_again(
    net: LocalNetwork, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.rmdir()
    with pytest.raises(FilesError, match="DISK"):
        list_files(net[0], net[2].id, hops=1, retries=0).result(PATIENCE_S)
    assert f"No such file or directory (in the folder {folder})" in caplog.text
    put(net[0], net[2].id, io.BytesIO(OTHER), "f", hops=1).result(PATIENCE_S)
    assert (folder / "f").read_bytes() == OTHER
    assert f"the folder {folder} was removed while it is served" in caplog.text


# --- attachments --------------------------------------------------------------------------------------------


def save_into(folder: Path) -> ServiceFunction:
    def save(query: Query, reply: Reply) -> Service[None]:
        for saved in (yield from save_attachments(query.read, folder)):
            yield from reply.write(saved.name.encode() + b" ")

    return save


def test_attachments_keep_their_names_on_disks_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "inbox").mkdir()
    (tmp_path / "f").write_bytes(CONTENT)
    with LocalNetwork(peers=3, service=save_into(tmp_path / "inbox")) as net:
        content = pack_attachments([("日本語.txt", tmp_path / "f"), (".hidden", b"x")])
        echoed_names = echoed(net, content).decode().split()
    assert echoed_names == ["日本語.txt", ".hidden"]
    assert (tmp_path / "inbox" / "日本語.txt").read_bytes() == CONTENT
    assert sorted(os.listdir(tmp_path / "inbox")) == [".hidden", "日本語.txt"]


@pytest.mark.parametrize("kind", ["path", "file"])
def test_an_attachment_that_changes_while_it_is_sent_ends_the_query(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    (tmp_path / "inbox").mkdir()
    with LocalNetwork(peers=3, service=save_into(tmp_path / "inbox")) as net, path.open("rb") as file:
        content = pack_attachments([("f", path if kind == "path" else file)])

        def progress(sent: int, received: int) -> None:
            if sent:
                appends(path)

        with pytest.raises(FileChanged):
            echoed(net, content, progress=progress)
        wait_until_idle(net)
    assert os.listdir(tmp_path / "inbox") == []
