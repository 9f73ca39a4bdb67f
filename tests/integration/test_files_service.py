"""The files service over real nodes: put, get, list, resume, quota, and requests of hostile clients."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from bench.node_group import NodeGroup
from reactor import Service, Sleep
from tests.support.network import PATIENCE_S, wait_until_idle
from tunnel import LocalNetwork, Profile, QueryFailed
from tunnel.client import FilesClient, get, list_files, put
from tunnel.client.clients import AskingNode
from tunnel.codes import CODES
from tunnel.directory import StaticDirectory
from tunnel.errors import ChangedContent, ErrorCode, FilesError, LocalTunnelError, PeerError
from tunnel.node.links.link_table import LinkTable
from tunnel.services import Echo, Files, FilesSettings, FileStatus, InnerService, Query, Reply, Services
from tunnel.services import files as file_store
from tunnel.services.file_requests import REPLY_BYTES, FileEntry, FileReply, FileRequest, Operation
from tunnel.services.files import FileStore, StoreRefused
from tunnel.services.partial_file import PartialFile

CONTENT = os.urandom(1_500_000)
DIGEST = hashlib.sha256(CONTENT).digest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def net(folder: Path) -> Iterator[LocalNetwork]:
    with LocalNetwork(peers=4, service=Files(folder, FilesSettings(quota_bytes=4_000_000))) as net:
        yield net


def raw(net: LocalNetwork, request: FileRequest, content: bytes = b"") -> tuple[FileReply, bytes]:
    """A request with arbitrary fields, as a hostile client could send it."""
    reply = net[0].query(net[3].id, request.pack() + content, hops=1).result(PATIENCE_S).read()
    return FileReply.unpack(reply[:REPLY_BYTES]), reply[REPLY_BYTES:]


@pytest.mark.parametrize("size", [0, 1, 262_144, 1_500_000])
def test_a_file_is_sent_and_fetched(net: LocalNetwork, folder: Path, tmp_path: Path, size: int) -> None:
    source = tmp_path / "report.bin"
    source.write_bytes(CONTENT[:size])
    seen: list[tuple[int, int]] = []
    stored = put(net[0], net[3].id, source, hops=2, progress=lambda *counts: seen.append(counts)).result(
        PATIENCE_S
    )
    assert (stored.name, stored.size, stored.sent_bytes, stored.attempts) == ("report.bin", size, size, 1)
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
    assert [(e.name, e.size) for e in list_files(net[0], net[3].id, hops=1).result(PATIENCE_S)] == [
        ("report.bin", size)
    ]
    fetched = get(net[1], net[3].id, "report.bin", tmp_path / "copy", hops=1).result(PATIENCE_S)
    assert (fetched.size, fetched.digest) == (size, stored.digest)
    assert (tmp_path / "copy").read_bytes() == (folder / "report.bin").read_bytes() == CONTENT[:size]
    assert sorted(os.listdir(tmp_path)) == ["copy", "report.bin", "store"]
    assert os.listdir(folder) == ["report.bin"]
    wait_until_idle(net)


def test_file_objects_both_ways_and_services(net: LocalNetwork) -> None:
    client = FilesClient(net[0], net[3].id, hops=1)
    sink = io.BytesIO()
    stored = net.submit(client.put(io.BytesIO(CONTENT), "object")).result(PATIENCE_S)
    fetched = net.submit(client.get("object", sink)).result(PATIENCE_S)
    assert sink.getvalue() == CONTENT
    assert stored.digest == fetched.digest == DIGEST
    with pytest.raises(LocalTunnelError, match="a file object has no name"):
        net.submit(client.put(io.BytesIO(b""))).result(PATIENCE_S)


@pytest.mark.parametrize(
    ("offered", "used"),
    [
        (None, {"bulk-hctr"}),
        (("default", "bulk"), {"bulk"}),
        (("default",), {"default"}),
    ],
    ids=["all", "no suite 1", "no bulk"],
)
def test_content_uses_the_best_profile_that_all_nodes_offer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, offered: tuple[str, ...] | None, used: set[str]
) -> None:
    names: set[str] = set()
    open_stream = LinkTable.open_stream

    def watched(self: LinkTable, peer_id: bytes, profile: Profile, *, is_own: bool = False) -> Service[Any]:
        names.add(profile.name)
        return open_stream(self, peer_id, profile, is_own=is_own)

    monkeypatch.setattr(LinkTable, "open_stream", watched)
    directory = StaticDirectory()
    with NodeGroup() as group:
        profiles = None if offered is None else tuple(Profile.from_name(name).byte for name in offered)
        nodes = [
            group.add(directory, profiles=profiles, service=service)
            for service in (None, None, Files(folder, FilesSettings()))
        ]
        for node in nodes:
            directory.publish(node.descriptor)
            group.start(node)
        put(nodes[0], nodes[2].id, io.BytesIO(CONTENT), "a", hops=1).result(PATIENCE_S)
        target = io.BytesIO()
        get(nodes[0], nodes[2].id, "a", target, hops=1).result(PATIENCE_S)
        assert target.getvalue() == CONTENT
    assert names == used


def test_stored_content_is_not_sent_again(net: LocalNetwork, folder: Path) -> None:
    for sent in (len(CONTENT), 0):
        stored = put(net[0], net[3].id, io.BytesIO(CONTENT), "same", hops=1).result(PATIENCE_S)
        assert stored.sent_bytes == sent
    with pytest.raises(FilesError, match="EXISTS") as caught:
        put(net[0], net[3].id, io.BytesIO(b"other"), "same", hops=1).result(PATIENCE_S)
    assert caught.value.status is FileStatus.EXISTS
    assert (folder / "same").read_bytes() == CONTENT


def test_replacing_where_that_is_allowed(tmp_path: Path) -> None:
    service = Files(tmp_path, FilesSettings(may_replace=True))
    with LocalNetwork(peers=3, service=service) as net:
        for content in (b"old", b"new and longer"):
            put(net[0], net[2].id, io.BytesIO(content), "name", hops=1).result(PATIENCE_S)
            assert (tmp_path / "name").read_bytes() == content
            sink = io.BytesIO()
            get(net[0], net[2].id, "name", sink, hops=1).result(PATIENCE_S)
            assert sink.getvalue() == content


def test_an_interrupted_put_continues_where_it_stopped(net: LocalNetwork, folder: Path) -> None:
    half = len(CONTENT) // 2
    request = FileRequest(Operation.PUT, "big", len(CONTENT), 0, DIGEST)
    head, _ = raw(net, request, CONTENT[:half])
    assert head.status is FileStatus.SIZE
    assert os.listdir(folder) == [f".{DIGEST.hex()}.part"]
    assert list_files(net[0], net[3].id, hops=1).result(PATIENCE_S) == []
    stored = put(net[0], net[3].id, io.BytesIO(CONTENT), "big", hops=1).result(PATIENCE_S)
    assert stored.sent_bytes == len(CONTENT) - half
    assert (folder / "big").read_bytes() == CONTENT


def test_a_put_whose_proxy_dies_continues_over_another_route(tmp_path: Path) -> None:
    """The proxy in use dies in the middle of the file; the rest takes another route."""
    content = os.urandom(12_000_000)
    used = threading.Event()
    with LocalNetwork(peers=4, service=Files(tmp_path)) as net:
        ids = [node.id for node in net]

        def progress(done: int, size: int) -> None:
            if done > size // 3:
                used.set()

        def in_use() -> Service[int]:
            """The proxy that carries the content, once the previous request has ended."""
            while len(busy := [index for index in (1, 2) if net[index].open_streams]) != 1:
                yield Sleep(0.001)
            return busy[0]

        stored = put(net[0], ids[3], io.BytesIO(content), "big", hops=1, progress=progress, retries=16)
        assert used.wait(PATIENCE_S)
        busy = net.submit(in_use()).result(PATIENCE_S)
        net.stop(busy)
        net.directory.forget(ids[busy])
        result = stored.result(PATIENCE_S)
        assert result.attempts > 1
        assert result.sent_bytes < 2 * len(content)
        assert (tmp_path / "big").read_bytes() == content


def test_an_interrupted_get_continues_where_it_stopped(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    (folder / "big").write_bytes(CONTENT)
    part = tmp_path / f".copy.{DIGEST.hex()}.part"
    part.write_bytes(CONTENT[:1_000_000])
    fetched = get(net[0], net[3].id, "big", tmp_path / "copy", hops=1).result(PATIENCE_S)
    assert fetched.received_bytes == len(CONTENT) - 1_000_000
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert not part.exists()


def test_a_get_to_the_longest_name_that_a_file_may_have(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    (folder / "big").write_bytes(CONTENT)
    target = tmp_path / ("x" * 255)
    get(net[0], net[3].id, "big", target, hops=1).result(PATIENCE_S)
    assert target.read_bytes() == CONTENT
    assert not list(tmp_path.glob(".*"))


def test_a_get_of_a_file_that_has_changed_meanwhile_begins_anew(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    (folder / "big").write_bytes(CONTENT)
    for name, version in (("longer", "ab" * 32), ("same", DIGEST.hex())):
        # Of another version; or of this one, but damaged.
        (tmp_path / f".{name}.{version}.part").write_bytes(b"other")
        fetched = get(net[0], net[3].id, "big", tmp_path / name, hops=1).result(PATIENCE_S)
        assert fetched.attempts == 2
        assert (tmp_path / name).read_bytes() == CONTENT
    assert not list(tmp_path.glob(".*.part"))


def test_a_cancelled_get_leaves_no_file_and_is_resumed(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    content = os.urandom(4_000_000)
    (folder / "big").write_bytes(content)
    begun = threading.Event()

    def progress(done: int, size: int) -> None:
        if done:
            begun.set()

    future = get(net[0], net[3].id, "big", tmp_path / "copy", hops=2, progress=progress)
    assert begun.wait(PATIENCE_S)
    future.cancel()
    wait_until_idle(net)
    if not (tmp_path / "copy").exists():  # the cancellation came first
        assert len(list(tmp_path.glob(".copy.*.part"))) == 1
        fetched = get(net[0], net[3].id, "big", tmp_path / "copy", hops=1).result(PATIENCE_S)
        assert fetched.received_bytes < len(content)
    assert (tmp_path / "copy").read_bytes() == content


def test_an_existing_path_is_not_written_over_unless_asked(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    (folder / "f").write_bytes(b"new")
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(LocalTunnelError, match="exists"):
        get(net[0], net[3].id, "f", tmp_path, hops=1).result(PATIENCE_S)
    assert (tmp_path / "f").read_bytes() == b"old"
    get(net[0], net[3].id, "f", tmp_path, hops=1, replace=True).result(PATIENCE_S)
    assert (tmp_path / "f").read_bytes() == b"new"


def test_only_a_file_is_replaced(net: LocalNetwork, folder: Path, tmp_path: Path) -> None:
    """Run by root, `get --output /dev/null --replace` would replace the device by a file."""
    (folder / "f").write_bytes(b"new")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LocalTunnelError, match="not a regular file"):
        get(net[0], net[3].id, "f", tmp_path / "pipe", hops=1, replace=True).result(PATIENCE_S)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


class Liar(InnerService):
    """Answers every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def handle(self, query: Query, reply: Reply) -> Service[None]:
        while (yield from query.read()):
            pass
        yield from reply.write(self._answer)


OK = FileStatus.OK


@pytest.mark.parametrize(
    ("answer", "error", "what"),
    [
        (FileReply(OK, 4, 0, DIGEST).pack() + b"lies", FilesError, "DIGEST"),
        (FileReply(OK, 9, 0, DIGEST).pack() + b"short", FilesError, "DIGEST"),
        (FileReply(OK, 3, 0, DIGEST).pack() + b"long", QueryFailed, "more content"),
        (FileReply(OK, 1 << 60, 0, DIGEST).pack() + b"huge", FilesError, "SIZE"),
        (FileReply(OK, 9, 5, DIGEST).pack() + b"part", QueryFailed, "another part"),
        (FileReply(OK, 4, 0, DIGEST).pack()[:-1], QueryFailed, "not a files service"),
        (b"", QueryFailed, "not a files service"),
    ],
)
def test_a_lying_server_is_found_out(
    tmp_path: Path, answer: bytes, error: type[Exception], what: str
) -> None:
    with LocalNetwork(peers=3, service=Liar(answer)) as net:
        with pytest.raises(error, match=what):
            get(net[0], net[2].id, "f", tmp_path / "f", hops=1, retries=1).result(PATIENCE_S)
        assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    "answer",
    [
        FileReply(OK, 100_001).pack(),
        FileReply(OK, 2).pack() + FileEntry("a", 1).pack(),
        FileReply(OK, 1).pack() + b"\x04" + bytes(8) + b"../x",
        FileReply(OK, 1).pack() + b"\x00" + bytes(8),
    ],
)
def test_a_list_of_false_entries(answer: bytes) -> None:
    with (
        LocalNetwork(peers=3, service=Liar(answer)) as net,
        pytest.raises(QueryFailed, match="not a files service"),
    ):
        list_files(net[0], net[2].id, hops=1).result(PATIENCE_S)


def test_a_put_that_is_confirmed_for_other_content() -> None:
    answer = FileReply(OK, 1, 1, bytes(32)).pack()
    with LocalNetwork(peers=3, service=Liar(answer)) as net, pytest.raises(FilesError, match="DIGEST"):
        put(net[0], net[2].id, io.BytesIO(b"x"), "f", hops=1, retries=0).result(PATIENCE_S)


def test_an_answer_of_another_service() -> None:
    with LocalNetwork(peers=3, service=Echo()) as net:
        with pytest.raises(QueryFailed, match="not a files service") as caught:
            list_files(net[0], net[2].id, hops=1, retries=0).result(PATIENCE_S)
        assert caught.value.code is ErrorCode.BAD_CONTENT


def test_by_the_name_of_the_service(tmp_path: Path) -> None:
    with LocalNetwork(peers=3, service=Services({"files": Files(tmp_path)})) as net:
        put(net[0], net[2].id, io.BytesIO(b"x"), "x", service="files", hops=1).result(PATIENCE_S)
        assert (tmp_path / "x").read_bytes() == b"x"
        with pytest.raises(QueryFailed, match="TARGET_NOT_ALLOWED") as caught:
            list_files(net[0], net[2].id, service="other", hops=1).result(PATIENCE_S)
        assert caught.value.code is ErrorCode.TARGET_NOT_ALLOWED


class Counted(InnerService):
    """Counts the queries that arrive, and raises an error of its own if it has one."""

    def __init__(self, inner: InnerService, error: Exception | None = None) -> None:
        self.inner = inner
        self.error = error
        self.failing: dict[int, Exception] = {}  # by the number of the query, from 1
        self.count = 0

    def handle(self, query: Query, reply: Reply) -> Any:
        self.count += 1
        error = self.failing.get(self.count, self.error)
        if error is not None:
            raise error
        yield from self.inner.handle(query, reply)


def transfers(node: AskingNode, destination: bytes, **options: Any) -> dict[str, Callable[[], Future[Any]]]:
    """Each call that a files service answers."""
    way: Any = {"hops": 1, **options}
    return {
        "list": lambda: list_files(node, destination, **way),
        "get": lambda: get(node, destination, "f", io.BytesIO(), **way),
        "put": lambda: put(node, destination, io.BytesIO(b"x"), "f", **way),
    }


@pytest.mark.parametrize("what", ["list", "get", "put"])
@pytest.mark.parametrize(
    ("named", "code"),
    [(None, ErrorCode.BAD_REQUEST), ("other", ErrorCode.TARGET_NOT_ALLOWED), ("f", ErrorCode.BAD_REQUEST)],
    ids=["no name", "unknown name", "another service"],
)
def test_a_refusal_ends_a_transfer_immediately(
    tmp_path: Path, what: str, named: str | None, code: ErrorCode
) -> None:
    inner = Services({"files": Files(tmp_path / "a"), "f": Services({"x": Echo()})})
    service = Counted(inner)
    with LocalNetwork(peers=3, service=service) as net:
        with pytest.raises(QueryFailed, match=f"{code.name} at the destination") as caught:
            transfers(net[0], net[2].id, service=named)[what]().result(PATIENCE_S)
        assert caught.value.code is code
        assert service.count == 1
        assert net[0].peers.avoided() == set(), "it has answered"


REFUSALS = [code for code, row in CODES.items() if not row.may_pass]


@pytest.mark.parametrize("code", list(ErrorCode), ids=lambda code: code.name)
@pytest.mark.full
def test_each_code_of_a_destination_is_repeated_or_final(tmp_path: Path, code: ErrorCode) -> None:
    service = Counted(Files(tmp_path), PeerError("not now", code))
    with LocalNetwork(peers=3, service=service) as net:
        with pytest.raises(QueryFailed) as caught:
            transfers(net[0], net[2].id, retries=1)["list"]().result(PATIENCE_S)
        assert caught.value.code is code
        assert service.count == (1 if code in REFUSALS else 2)


def test_content_that_a_proxy_changes_is_sent_again(tmp_path: Path) -> None:
    """The destination found it; it does not refuse."""
    service = Counted(Files(tmp_path))
    with LocalNetwork(peers=3, service=service) as net:
        way: Any = {"hops": 1, "retries": 1}
        service.failing[2] = ChangedContent("a chunk does not open")  # the query after the offer
        stored = put(net[0], net[2].id, io.BytesIO(CONTENT), "f", **way).result(PATIENCE_S)
        assert stored.attempts == 2
        assert service.count == 4, "an offer, content that fails, an offer, content"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\0b",
        "a\nb",
        "\x1b[31m",
        "gpj.\u202eexe",
        ".x.part",
        "x" * 256,
    ],
    ids=lambda name: ascii(name)[:12],
)
def test_names_that_no_file_can_have(net: LocalNetwork, folder: Path, name: str) -> None:
    with pytest.raises(LocalTunnelError, match="invalid file name"):
        put(net[0], net[3].id, io.BytesIO(b"x"), name, hops=1).result(PATIENCE_S)
    encoded = name.encode()
    if len(encoded) < 256 and encoded:
        head = bytearray(FileRequest(Operation.PUT, "x", 1, 0, DIGEST).pack()[:-1])
        head[1] = len(encoded)
        with pytest.raises(QueryFailed, match="BAD_REQUEST"):
            net[0].query(net[3].id, bytes(head) + encoded + b"x", hops=1).result(PATIENCE_S)
    assert os.listdir(folder) == []


def test_a_name_rule_of_the_node(tmp_path: Path) -> None:
    service = Files(tmp_path, FilesSettings(is_name_allowed=lambda name: name.endswith(".txt")))
    with LocalNetwork(peers=3, service=service) as net:
        put(net[0], net[2].id, io.BytesIO(b"x"), "x.txt", hops=1).result(PATIENCE_S)
        with pytest.raises(FilesError, match="NAME"):
            put(net[0], net[2].id, io.BytesIO(b"x"), "x.exe", hops=1).result(PATIENCE_S)


def test_content_with_another_digest_is_discarded(net: LocalNetwork, folder: Path) -> None:
    request = FileRequest(Operation.PUT, "f", 5, 0, DIGEST)
    assert raw(net, request, b"wrong")[0].status is FileStatus.DIGEST
    assert raw(net, request, b"too long")[0].status is FileStatus.SIZE
    assert os.listdir(folder) == []
    # An offset beyond the stored part cannot be resumed.
    assert raw(net, FileRequest(Operation.PUT, "f", 5, 3, DIGEST), b"xx")[0].status is FileStatus.CHANGED


def test_a_poisoned_part_does_not_prevent_an_upload(net: LocalNetwork, folder: Path) -> None:
    request = FileRequest(Operation.PUT, "mine", len(CONTENT), 0, DIGEST)
    assert raw(net, request, b"poison")[0].status is FileStatus.SIZE
    stored = put(net[0], net[3].id, io.BytesIO(CONTENT), "mine", hops=1).result(PATIENCE_S)
    assert stored.attempts == 2
    assert (folder / "mine").read_bytes() == CONTENT


def test_quota_counts_parts_and_makes_room_for_files(net: LocalNetwork, folder: Path) -> None:
    with pytest.raises(FilesError, match="FULL"):
        put(net[0], net[3].id, io.BytesIO(bytes(4_000_001)), "huge", hops=1).result(PATIENCE_S)
    # A part without a writer gives way to a file.
    request = FileRequest(Operation.PUT, "half", 3_000_000, 0, b"\x01" * 32)
    assert raw(net, request, bytes(2_999_999))[0].status is FileStatus.SIZE
    put(net[0], net[3].id, io.BytesIO(CONTENT), "whole", hops=1).result(PATIENCE_S)
    assert os.listdir(folder) == ["whole"]
    with pytest.raises(FilesError, match="FULL"):
        put(net[0], net[3].id, io.BytesIO(bytes(3_000_000)), "more", hops=1).result(PATIENCE_S)


def test_operations_that_are_not_offered(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    settings = FilesSettings(read=[], write=[], list=[])
    with LocalNetwork(peers=3, service=Files(tmp_path, settings)) as net:
        bob = net[2].id
        for future in (
            put(net[0], bob, io.BytesIO(b"x"), "x", hops=1),
            get(net[0], bob, "f", io.BytesIO(), hops=1),
            list_files(net[0], bob, hops=1),
        ):
            with pytest.raises(FilesError, match="DENIED"):
                future.result(PATIENCE_S)


def test_links_folders_and_strange_files_are_not_served(
    net: LocalNetwork, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (folder / "link").symlink_to(secret)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / f".{DIGEST.hex()}.part").symlink_to(secret)
    assert list_files(net[0], net[3].id, hops=1).result(PATIENCE_S) == []
    for name in ("link", "folder", "pipe", "nothing"):
        with pytest.raises(FilesError, match="NOT_FOUND"):
            get(net[0], net[3].id, name, io.BytesIO(), hops=1).result(PATIENCE_S)
    # A symbolic link in the place of the part is not followed either.
    with pytest.raises(FilesError, match="DISK"):
        put(net[0], net[3].id, io.BytesIO(CONTENT), "f", hops=1, retries=0).result(PATIENCE_S)
    assert secret.read_bytes() == b"secret"


def test_a_full_disk(net: LocalNetwork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: PartialFile, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(self.path))

    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "write", full)
        with pytest.raises(FilesError, match="DISK") as caught:
            put(net[0], net[3].id, io.BytesIO(CONTENT), "f", hops=1).result(PATIENCE_S)
    assert str(folder) not in str(caught.value)
    assert os.listdir(folder) == []
    put(net[0], net[3].id, io.BytesIO(CONTENT), "f", hops=1).result(PATIENCE_S)


def test_a_full_disk_at_this_end(
    net: LocalNetwork, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    (folder / "f").write_bytes(CONTENT)
    with pytest.raises(OSError, match="No space left"):
        get(net[0], net[3].id, "f", Full(), hops=1).result(PATIENCE_S)
    wait_until_idle(net)


def test_old_parts_are_removed(tmp_path: Path) -> None:
    part = tmp_path / f".{'cd' * 32}.part"
    part.write_bytes(b"x")
    old_s = time.time() - 100_000
    os.utime(part, (old_s, old_s))
    with LocalNetwork(peers=3, service=Files(tmp_path)) as net:
        put(net[0], net[2].id, io.BytesIO(b"x"), "x", hops=1).result(PATIENCE_S)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.full
def test_two_uploads_of_the_same_content_at_once(net: LocalNetwork, folder: Path) -> None:
    """Both succeed: one stores the file, the other waits and then finds it stored."""
    both = [put(net[i], net[3].id, io.BytesIO(CONTENT), "same", hops=1, retries=16) for i in (0, 1)]
    assert {future.result(PATIENCE_S).digest for future in both} == {DIGEST}
    assert os.listdir(folder) == ["same"]
    assert (folder / "same").read_bytes() == CONTENT


def test_an_upload_that_has_stalled_gives_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(folder)
    stalled = store.begin("f", 6, DIGEST, 0)
    stalled.write(b"abc")
    with pytest.raises(StoreRefused, match="BUSY"):
        store.begin("f", 6, DIGEST, 0)
    monkeypatch.setattr(file_store, "STALLED_S", -1.0)
    other = store.begin("f", 6, DIGEST, 3)
    for late in (lambda: stalled.write(b"x"), stalled.prepare, lambda: stalled.write(b"def")):
        with pytest.raises(StoreRefused, match="BUSY"):
            late()
    assert other.prepare()
    other.write(b"def")
    stalled.close()
    with pytest.raises(StoreRefused, match="DIGEST"):
        other.commit()
    assert os.listdir(folder) == []


def test_a_file_that_a_thread_works_in_is_closed_by_that_thread(tmp_path: Path) -> None:
    closed = []
    file = PartialFile(tmp_path / "part", on_closed=lambda: closed.append(True))
    with file.file.using() as fd:
        file.close()
        assert not closed
        os.fstat(fd)
    assert closed == [True]
    with pytest.raises(LocalTunnelError, match="closed"):
        file.write(b"x")


def test_an_upload_whose_client_left_is_forgotten(folder: Path) -> None:
    store = FileStore(folder, FilesSettings(uploads=1))
    for _ in range(3):
        store.begin("f", 6, DIGEST, 0)  # the caller was cancelled while the thread opened it
        gc.collect()
