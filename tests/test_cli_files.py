"""`mtun send` and `mtun get` in this process, against nodes that serve files: streams, folders, names."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tunnel.helpers import OPENSSL
from tunnel import LocalNetwork
from tunnel.cli.folders import pack_folder, unpack_archive
from tunnel.cli.main import main
from tunnel.cli.terminal import ProgressBar
from tunnel.client.file_endpoints import PathTarget
from tunnel.directory import StaticDirectory
from tunnel.errors import FileChanged, LocalTunnelError
from tunnel.identity.descriptor import Address
from tunnel.identity.keys import NodeKeys
from tunnel.services import Files, FilesSettings, InnerService, Query, Reply, Services
from tunnel.services.files import Download

pytestmark = pytest.mark.full

CONTENT = os.urandom(700_000)


class Switched(InnerService):
    """A files service whose settings a test can change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = Files(folder)

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        yield from self.files.handle(query, reply)


class Served:
    """A node that serves a folder, and the command line as its client."""

    def __init__(self, net: LocalNetwork, service: Switched, folder: Path, peers: Path) -> None:
        self.service = service
        self.folder = folder
        self.id = net[2].id.hex()
        self.way = ["--peers", str(peers), "--hops", "1"]

    def send(self, file: str | Path, *options: str) -> int:
        return main(["send", *options, *self.way, "--", str(file), self.id])

    def get(self, *options: str, name: str = "") -> int:
        return main(["get", *options, *self.way, "--", self.id, *([name] if name else [])])


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = tmp_path_factory.mktemp("served")
    service = Switched(base / "store")
    with LocalNetwork(peers=3, service=Services({"files": service})) as net:
        StaticDirectory(net.directory).save(base / "peers")
        yield Served(net, service, base / "store", base / "peers")


@pytest.fixture
def served(network: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """In a new empty folder, and with an empty store."""
    for path in network.folder.iterdir():
        path.unlink()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return network


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


class Stream:
    """A standard stream with only its bytes."""

    def __init__(self, content: bytes = b"") -> None:
        self.buffer = io.BytesIO(content)


def test_a_file_keeps_its_name_there_and_back(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("日本語.txt", "中文字.txt", "my résumé (1).txt", "-rf"):
        Path(name).write_bytes(name.encode())
        assert served.send(name) == 0
        Path(name).unlink()
        assert served.get(name=name) == 0
        assert Path(name).read_bytes() == name.encode()
    capsys.readouterr()
    assert served.get() == 0
    listed = capsys.readouterr().out
    assert "日本語.txt" in listed
    assert "my résumé (1).txt" in listed
    assert len(listed.splitlines()) == 4


def test_a_node_without_files_is_named(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert served.get() == 0
    assert capsys.readouterr() == ("", f"{served.id[:8]} has no files\n")
    assert served.get("--json") == 0
    assert json.loads(capsys.readouterr().out)["files"] == []


def test_an_invalid_file_name_is_replaced_by_a_valid_name(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a\nb.txt").write_bytes(b"x")
    assert served.send("a\nb.txt") == 2
    shown = capsys.readouterr().err
    assert "control character U+000A" in shown
    assert "'a_b.txt'" in shown
    assert "hint: choose another name with --name" in shown
    assert served.send("a\nb.txt", "--name", "a_b.txt") == 0
    assert os.listdir(served.folder) == ["a_b.txt"]


def test_standard_input_and_output(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, name in (([], "stdin"), (["--name", "boot.log"], "boot.log")):
        monkeypatch.setattr(sys, "stdin", Stream(CONTENT))
        assert served.send("-", *options) == 0
        assert (served.folder / name).read_bytes() == CONTENT
    out = Stream()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        out.flush = lambda: None  # type: ignore[attr-defined]
        assert served.get("-o", "-", name="boot.log") == 0
    assert out.buffer.getvalue() == CONTENT
    assert "boot.log" in capsys.readouterr().err
    assert served.get("-o", "-", "--json", name="boot.log") == 2
    assert os.listdir() == []


def test_a_file_named_dash_is_not_standard_input(served: Served) -> None:
    Path("-").write_bytes(b"dash")
    assert served.send("./-") == 0
    Path("-").unlink()
    assert served.get("-o", "./-", name="-") == 0
    assert Path("-").read_bytes() == b"dash"


def test_a_folder_there_and_back(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(Path("photos"))
    os.mkfifo("photos/line\nerror: lies")
    assert served.send("photos") == 0
    shown = capsys.readouterr().err
    assert "skipped photos/pipe: a FIFO" in shown
    assert "skipped photos/line\\nerror: lies: a FIFO" in shown
    assert os.listdir(served.folder) == ["photos.tar"]
    Path("photos").rename("original")
    assert served.get("--extract", name="photos.tar") == 0
    assert tree(Path("photos")) == tree(Path("original")) - {"pipe", "out", "line\nerror: lies"}
    assert sorted(os.listdir()) == ["original", "photos"]
    assert served.get("--extract", name="photos.tar") == 2
    assert "photos exists" in capsys.readouterr().err
    assert served.get("--extract", "--output", "other", name="photos.tar") == 0
    assert tree(Path("other")) == tree(Path("photos"))
    # The same folder makes the same archive, so an interrupted transfer resumes.
    first, second = io.BytesIO(), io.BytesIO()
    pack_folder(Path("original"), first)
    pack_folder(Path("original"), second)
    assert first.getvalue() == second.getvalue()
    assert b"root" not in first.getvalue()


def test_only_an_archive_is_extracted(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    (served.folder / "f").write_bytes(CONTENT)
    assert served.get("--extract", name="f") == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: f: not a valid tar archive")
    assert "hint: the archive is kept as f, as without --extract" in shown
    assert os.listdir() == ["f"]
    assert Path("f").read_bytes() == CONTENT


def appears(archive: Path, folder: Path) -> list[str]:
    folder.mkdir()
    return unpack_archive(archive, folder)


def is_interrupted(archive: Path, folder: Path) -> list[str]:
    raise KeyboardInterrupt


def fills_the_disk(archive: Path, folder: Path) -> list[str]:
    raise OSError(errno.ENOSPC, "No space left on device", str(folder))


@pytest.mark.parametrize(
    ("unpack", "status", "words"),
    [
        (appears, 1, ["error: photos appeared meanwhile", "move it away"]),
        (is_interrupted, 130, ["error: interrupted"]),
        (fills_the_disk, 1, ["No space left on device", "the disk is full"]),
    ],
)
def test_an_archive_that_is_not_unpacked_is_kept_and_not_fetched_again(
    served: Served,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unpack: Callable[[Path, Path], list[str]],
    status: int,
    words: list[str],
) -> None:
    Path("photos", "sub").mkdir(parents=True)
    Path("photos", "sub", "f").write_bytes(CONTENT)
    assert served.send("photos") == 0
    Path("photos").rename("original")
    with monkeypatch.context() as patch:
        patch.setattr("tunnel.cli.files.unpack_archive", unpack)
        assert served.get("--extract", name="photos.tar") == status
    shown = capsys.readouterr().err
    for word in [*words, "the archive is kept as .photos.tar.fetched"]:
        assert word in shown
    if Path("photos").exists():
        Path("photos").rename("moved away")
    assert served.get("--extract", "--json", name="photos.tar") == 0
    assert json.loads(capsys.readouterr().out)["moved_bytes"] == 0
    assert tree(Path("photos")) == tree(Path("original"))
    assert [name for name in os.listdir() if name.startswith(".")] == []


def test_an_archive_of_a_killed_command_that_has_changed_is_fetched_again(served: Served) -> None:
    make_folder(Path("photos"))
    assert served.send("photos") == 0
    shutil.rmtree("photos")
    Path(".photos.tar.fetched").write_bytes(b"of last week")
    assert served.get("--extract", name="photos.tar") == 0
    assert Path("photos").is_dir()
    assert [name for name in os.listdir() if name.startswith(".")] == []


# --- the content is read before it is sent ----------------------------------------------------------------


def test_unreadable_entries_of_a_folder_are_named_before_anything_is_sent(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the middle of a long transfer otherwise. Tests may run as root, who can read everything."""
    for number in range(6):
        path = Path("photos", "sub", f"{number}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    Path("photos", "closed").mkdir()
    scandir = os.scandir

    def denied(path: Any, *_: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def closed(path: Any) -> Any:
        return denied(path) if Path(path).name == "closed" else scandir(path)

    monkeypatch.setattr("tunnel.cli.folders.open_regular", denied)
    monkeypatch.setattr(os, "scandir", closed)
    monkeypatch.setattr("tunnel.cli.files.Client", denied)  # the network is not used
    assert served.send("photos") == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: photos: 7 entries cannot be read: closed: Permission denied, sub/0.jpg: ")
    assert error.endswith(", and 2 more")
    assert "nothing was sent" in hint


def test_special_files_in_a_folder_are_skipped_by_name(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos").mkdir()
    Path("photos", "f").write_bytes(b"x")
    os.mkfifo("photos/fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("photos/socket")
        assert served.send("photos") == 0
    shown = capsys.readouterr().err
    assert "skipped photos/fifo: a FIFO (named pipe)" in shown
    assert "skipped photos/socket: a socket" in shown
    assert served.get("--extract", "-o", "copy", name="photos.tar") == 0
    assert os.listdir("copy") == ["f"]


@pytest.mark.parametrize("source", ["folder", "-"])
def test_a_node_that_does_not_answer_is_found_before_the_content_is_read(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    Path("folder").mkdir()
    monkeypatch.setattr(sys, "stdin", Stream(CONTENT))
    keys, address = NodeKeys.generate(time.time()), Address("127.0.0.1", closed_port())
    StaticDirectory([keys.descriptor((address,), time.time(), OPENSSL)]).save(Path("dead"))
    monkeypatch.setattr("tunnel.cli.files.pack_folder", None)
    node_id = keys.node_id(OPENSSL).hex()
    assert main(["send", source, node_id, "--peers", "dead", "--hops", "0", "--retries", "0"]) == 1
    assert "NEXT_REFUSED" in capsys.readouterr().err
    assert sys.stdin.buffer.tell() == 0


def test_a_node_that_does_not_list_its_files_takes_a_folder(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("folder").mkdir()
    drop_box = Files(served.folder, FilesSettings(read=[], list=[]))
    monkeypatch.setattr(served.service, "files", drop_box)
    assert served.send("folder") == 0
    assert os.listdir(served.folder) == ["folder.tar"]


@pytest.mark.parametrize("source", ["folder", "-"])
def test_the_time_limit_covers_reading_the_content(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    make_folder(Path("folder"))
    monkeypatch.setattr(sys, "stdin", Stream(CONTENT))
    now_s = itertools.count(0.0, 40.0)  # a look at the clock each 40 s
    monkeypatch.setattr("tunnel.cli.files.monotonic", lambda: next(now_s))
    assert served.send(source, "--timeout", "100") == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: the content was not read within 100 s (--timeout); nothing was sent"
    assert "longer --timeout" in hint
    assert list(served.folder.iterdir()) == []


def test_the_time_limit_covers_a_silent_standard_input(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    with open(reader) as stdin, open(writer, "wb"):
        monkeypatch.setattr(sys, "stdin", stdin)
        # No limit of select: it returns at once, as after the time limit.
        monkeypatch.setattr("tunnel.cli.files.select.select", lambda *_: ended.append(True))
        ended: list[bool] = []
        monkeypatch.setattr("tunnel.cli.files.monotonic", lambda: 1000.0 if ended else 0.0)
        assert served.send("-", "--timeout", "100") == 1
    assert "was not read within 100 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("none", ["no such file: none"]),
        ("fifo", ["is a FIFO", "mtun send -"]),
        ("/dev/null", ["is a device", "mtun send -"]),
        ("/proc/cpuinfo", ["cannot be announced", "mtun send -"]),
        ("loop", ["loop: Too many levels"]),
    ],
)
def test_content_that_cannot_be_sent_is_refused(
    served: Served, capsys: pytest.CaptureFixture[str], file: str, words: list[str]
) -> None:
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    assert served.send(file) in (1, 2)
    shown = capsys.readouterr().err
    for word in words:
        assert word in shown


def test_an_interrupted_get_prints_how_to_resume_it(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (served.folder / "big").write_bytes(CONTENT)
    real, real_write = Download.read, PathTarget.write
    has_written = threading.Event()

    def breaks(self: Download, limit_bytes: int) -> bytes:
        if self._place >= 300_000 and self.digest:
            assert has_written.wait(60)  # bytes that were received but not written are lost
            raise LocalTunnelError("the node stops")
        return real(self, limit_bytes)

    def write(self: PathTarget, data: bytes) -> None:
        real_write(self, data)
        has_written.set()

    with monkeypatch.context() as patch:
        patch.setattr(Download, "read", breaks)
        patch.setattr(PathTarget, "write", write)
        assert served.get("--retries", "0", name="big") == 1
    shown = capsys.readouterr().err
    assert "are kept beside the target; the same command resumes the transfer" in shown
    assert len(shown.splitlines()) == 2
    assert served.get("--json", name="big") == 0
    assert 0 < json.loads(capsys.readouterr().out)["moved_bytes"] < len(CONTENT)
    assert Path("big").read_bytes() == CONTENT


@pytest.mark.parametrize("command", ["get", "send"])
def test_ctrl_c_in_a_transfer_prints_how_to_resume_in_one_line(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for folder in (served.folder, Path()):
        (folder / f"of-{command}").write_bytes(
            CONTENT * 40
        )  # long enough not to end before the signal is handled
    real_write, real_update = PathTarget.write, ProgressBar.update
    has_written = threading.Event()
    has_ended: list[int] = []

    def write(self: PathTarget, data: bytes) -> None:
        real_write(self, data)
        has_written.set()

    def update(self: ProgressBar, done: int) -> None:
        real_update(self, done)
        if done and not has_ended and (command == "send" or has_written.is_set()):
            has_ended.append(done)
            os.kill(os.getpid(), signal.SIGINT)  # the main thread gets it

    monkeypatch.setattr(PathTarget, "write", write)
    monkeypatch.setattr(ProgressBar, "update", update)
    if command == "get":
        status = served.get("-o", "fetched", name="of-get")
        kept = "are kept beside the target"
    else:
        (served.folder / "of-send").unlink()
        status = served.send("of-send")
        kept = "the node keeps the received part for a day"
    assert status == 130
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: interrupted"
    assert kept in hint
    assert "the same command resumes the transfer" in hint


def test_ctrl_c_before_a_resumed_get_moves_bytes_shows_the_kept_amount(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(f".fetched.{'ab' * 32}.part").write_bytes(b"x" * 3_000)

    has_ended = threading.Event()

    def interrupted(*_: object) -> bool:
        # An interruption after the end of the command would end the tests.
        if not has_ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            has_ended.wait(5.0)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(PathTarget, "prepare", interrupted)
        assert served.get("-o", "fetched", name="f") == 130
        has_ended.set()
    assert "hint: 2.9 KiB are kept beside the target; the same command resumes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text", "advice"),
    [
        (["send", "here", "ID", "--name", "taken"], "ID already has another taken (EXISTS)", "--name"),
        (["get", "ID", "none"], "ID has no file none (NOT_FOUND)", "without NAME, mtun get lists its files"),
        (["send", "here", "ID", "--name", "big"], "ID has no room for big (FULL)", "quota_bytes"),
        (["get", "ID", "taken"], "ID does not allow this client to fetch files (DENIED)", "--key FILE"),
        (["get", "ID"], "ID does not allow this client to list files (DENIED)", "--key FILE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_is_in_the_words_of_the_command(
    served: Served,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    text: str,
    advice: str,
) -> None:
    (served.folder / "taken").write_bytes(b"other")
    Path("here").write_bytes(b"x" * 100)
    limits: dict[str, Any] = {"file_bytes": 10} if "FULL" in text else {}
    if "DENIED" in text:
        limits = {"read": [], "list": []}
    limited = Files(served.folder, FilesSettings(**limits))
    monkeypatch.setattr(served.service, "files", limited)
    given = [served.id if argument == "ID" else argument for argument in arguments]
    assert main([*given, *served.way]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: {text.replace('ID', served.id[:8], 1)}"
    assert advice in hint


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["send", "ID", "here"], "mtun send here ID"),
        (["get", "here", "ID"], "mtun get ID here"),
        (["send", "folder", "here"], None),
        (["get", "here", "there"], None),
    ],
)
def test_swapped_arguments_are_named(
    served: Served, capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str | None
) -> None:
    Path("here").write_bytes(b"x")
    Path("folder").mkdir()
    given = [served.id if argument == "ID" else argument for argument in arguments]
    assert main([*given, *served.way]) == 2
    shown = capsys.readouterr().err
    if hint is None:
        assert "swap" not in shown
    else:
        assert f"did you swap two arguments? {hint.replace('ID', served.id)}" in shown


def test_a_full_disk_behind_standard_output_is_named(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            pass

    (served.folder / "f").write_bytes(CONTENT)
    with monkeypatch.context() as patch:
        out = Stream()
        out.buffer = Full()  # type: ignore[assignment]
        out.flush = lambda: None  # type: ignore[attr-defined]
        patch.setattr(sys, "stdout", out)
        assert served.get("-o", "-", name="f") == 1
    assert "error: standard output: No space left on device" in capsys.readouterr().err


def test_a_full_disk_is_named_with_the_remedy(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (served.folder / "f").write_bytes(CONTENT)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tunnel.services.files.os.pwrite", full)
        assert served.get(name="f") == 1
    shown = capsys.readouterr().err
    assert "No space left on device" in shown
    assert ".f." in shown
    assert "hint: the disk is full" in shown


# --- archives from strangers --------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """Files, folders, links and special files, for an archive."""
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "日本語 (1).txt").write_bytes(b"ja")
    (folder / os.fsdecode(b"caf\xe9")).write_bytes(b"latin")
    (folder / "sub" / "run").write_bytes(b"#!/bin/sh\n")
    (folder / "sub" / "run").chmod(0o755)
    (folder / "sub" / "up").symlink_to("../日本語 (1).txt")
    (folder / "out").symlink_to("/etc/passwd")
    os.utime(folder / "sub" / "run", (1_000_000_000, 1_000_000_000))
    os.mkfifo(folder / "pipe")


def tree(folder: Path) -> set[Any]:
    """Everything below a folder: strings for special files, (path, content, is executable) for files."""
    found: set[Any] = set()
    for path in folder.rglob("*"):
        name, status = str(path.relative_to(folder)), path.lstat()
        if stat.S_ISREG(status.st_mode):
            found.add((name, path.read_bytes(), bool(status.st_mode & 0o100)))
        elif stat.S_ISLNK(status.st_mode) and not os.readlink(path).startswith("/"):
            found.add((name, os.readlink(path)))
        elif stat.S_ISDIR(status.st_mode):
            found.add((name, None))
        else:
            found.add(name)
    return found


def archive(path: Path, *members: tuple[str, bytes, str | bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if isinstance(content, str):
                member.linkname = content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


REG, SYM, LNK, DIR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", REG, b"x")],
        [("{outside}/evil", REG, b"x")],
        [("a/../../evil", REG, b"x")],
        [("a/link", SYM, "{outside}"), ("a/link/evil", REG, b"x")],
        [("a/link", SYM, "../.."), ("a/link/evil", REG, b"x")],
        [("a/b/c/deep", DIR, b""), ("a/one", SYM, "b/c/deep"), ("a/two", SYM, "one/../../../../..")],
        [("a/b/one", SYM, ".."), ("a/b/two", SYM, "one/one/../../x")],
        [("a/one", SYM, "b"), ("a/b", SYM, "../..")],
        [("a/link", SYM, "sub"), ("a/link/two", SYM, "../../x")],
        [("evil", LNK, "/etc/passwd")],
        [("fifo", tarfile.FIFOTYPE, b""), ("null", tarfile.CHRTYPE, b"")],
        [("a\x1b[31m", REG, b"x")],
        [("a", SYM, "a"), ("a/b", SYM, "a"), ("a/c", SYM, "a")],
        [("a", REG, b"x"), ("a/b", REG, b"y"), ("a", DIR, b""), ("a", REG, b"z")],
    ],
    ids=range(14),
)
def test_a_hostile_archive_reaches_nothing_outside(
    tmp_path: Path, members: list[tuple[str, bytes, str | bytes]]
) -> None:
    (tmp_path / "in").mkdir()
    target = tmp_path / "in" / "target"
    placed = [
        (name.format(outside=tmp_path), kind, c.format(outside=tmp_path) if isinstance(c, str) else c)
        for name, kind, c in members
    ]
    assert unpack_archive(archive(tmp_path / "x.tar", *placed), target)
    assert sorted(os.listdir(tmp_path)) == ["in", "x.tar"]
    assert os.listdir(tmp_path / "in") == ["target"]
    for path in target.rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(target)
        assert path.is_symlink() or path.is_file() or path.is_dir()
        assert "\x1b" not in path.name


def test_bombs_are_refused(tmp_path: Path) -> None:
    sparse = tarfile.TarInfo("sparse")
    sparse.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,0"}
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(sparse)
    assert unpack_archive(tmp_path / "sparse.tar", tmp_path / "sparse") == [
        "sparse: neither a file nor a folder"
    ]
    header = tarfile.TarInfo("x" * 3_000_000)
    (tmp_path / "header.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(LocalTunnelError, match="header of"):
        unpack_archive(tmp_path / "header.tar", tmp_path / "header")
    cut = archive(tmp_path / "cut.tar", ("f", REG, CONTENT)).read_bytes()[:5000]
    (tmp_path / "cut.tar").write_bytes(cut)
    with pytest.raises(LocalTunnelError, match=r"ends early|unexpected end"):
        unpack_archive(tmp_path / "cut.tar", tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_changes_while_its_folder_is_packed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "log").write_bytes(CONTENT)

    class Meddling(io.BytesIO):
        def write(self, data: Any) -> int:
            if len(data) > 1000:
                os.truncate(tmp_path / "d" / "log", 10)
            return super().write(data)

    with pytest.raises(FileChanged, match="changed while it was sent"):
        pack_folder(tmp_path / "d", Meddling())


@pytest.mark.full
def test_through_real_pipes(network: Served, tmp_path: Path) -> None:
    """As in a shell: `cat | mtun send -`, `mtun get -o - | cat`."""
    run = [sys.executable, "-m", "tunnel"]
    way = [network.id, *network.way]
    subprocess.run([*run, "send", "-", *way, "--name", "piped"], input=CONTENT, check=True, timeout=60)
    got = subprocess.run([*run, "get", "-o", "-", *way, "piped"], check=True, timeout=60, capture_output=True)
    assert got.stdout == CONTENT
