"""Services: names, attachments, requests of the files service, and archives that a peer has made."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import unicodedata
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.fuzz.target import Input, same_in_pieces, scratch_folder, target
from tunnel.cli.folders import unpack_archive
from tunnel.errors import LocalTunnelError, MalformedMessage, PeerError, TargetNotAllowed
from tunnel.identity.client_key import Claim, ClientKey
from tunnel.services import InnerService, Services
from tunnel.services.attachments import AttachmentEnd, AttachmentParser, AttachmentStart, pack_attachments
from tunnel.services.base import Query, Reply, proven_prefix, service_prefix
from tunnel.services.file_requests import (
    ENTRY_HEAD_BYTES,
    REPLY_BYTES,
    REQUEST_HEAD_BYTES,
    FileEntry,
    FileReply,
    FileRequest,
)
from tunnel.services.names import (
    MAX_FILE_NAME_BYTES,
    checked_file_name,
    checked_name,
    file_name,
    is_name,
    safe_name,
)

_BLOCK = 512


@target(MalformedMessage, most_bytes=320)
def file_requests(given: Input) -> None:
    """Requests, replies and entries of lists pack to the same bytes."""
    kind: type[FileRequest | FileReply | FileEntry] = given.one_of([FileRequest, FileReply, FileEntry])
    if issubclass(kind, FileReply):
        data = given.take(REPLY_BYTES)
    else:
        head = given.take(REQUEST_HEAD_BYTES if kind is FileRequest else ENTRY_HEAD_BYTES)
        data = head + given.take(kind.name_bytes(head))
    assert kind.unpack(data).pack() == data


@target(LocalTunnelError, most_bytes=320)
def names(given: Input) -> None:
    """A name that is taken is one entry of a folder, and safe to print; the advised one is taken."""
    raw = given.rest()
    text = raw.decode("utf-8", "surrogateescape")
    advised = safe_name(text)
    assert checked_file_name(advised) == advised
    found = file_name(raw)
    if found is not None:
        assert os.path.basename(found) == found
        assert found not in ("", ".", "..")
        assert "\0" not in found
        assert checked_file_name(found) == found == safe_name(found)
        assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in found)
    if is_name(raw):
        assert checked_name(text) == raw
    taken = checked_file_name(text)
    assert len(taken.encode()) <= MAX_FILE_NAME_BYTES
    assert file_name(taken.encode()) == taken


@target(most_bytes=1024)
def attachments(given: Input) -> None:
    """Attachments in any pieces: the same events, never more than a name held, and packed as they came."""
    data = _attachments(given) if given.flag() else given.rest()

    def outcome(pieces: list[bytes]) -> tuple[list[tuple[str, bytes, bytes]], str]:
        parser, found, error = AttachmentParser(most=3), list[tuple[str, bytearray, bytearray]](), ""
        try:
            for piece in pieces:
                for event in parser.feed(piece):
                    if isinstance(event, AttachmentStart):
                        found.append((event.name, bytearray(), bytearray()))
                    elif isinstance(event, AttachmentEnd):
                        found[-1][2][:] = event.digest
                    else:
                        found[-1][1].extend(event)
                    assert len(parser.held) <= MAX_FILE_NAME_BYTES
            parser.finish()
        except MalformedMessage as refusal:
            error = str(refusal)
        assert len(found) <= 3
        assert len({name for name, _, _ in found}) == len(found)
        return [(name, bytes(content), bytes(digest)) for name, content, digest in found], error

    same_in_pieces(data, outcome)


def _attachments(given: Input) -> bytes:
    """What `pack_attachments` writes, with a change."""
    contents = [(f"name {each}", given.some(100)) for each in range(given.number(0, 4))]
    packed = bytearray(b"".join(pack_attachments(contents)))
    packed[given.number(0, len(packed) - 1)] ^= given.number(0, 255)
    return bytes(packed) + given.some(4)


@target(MalformedMessage, TargetNotAllowed, most_bytes=400)
def service_name(given: Input) -> None:
    """A message for a service by name, with and without a proof, in any pieces."""
    data = given.rest()
    if data[:1] == b"\0":
        data = service_prefix("echo") + data[1:]
    elif data[:1] == b"\1":
        data = proven_prefix(service_prefix("echo"), ClientKey(bytes(32)), bytes(32)) + data[1:]

    def outcome(pieces: list[bytes]) -> tuple[bytes, bytes, str]:
        taken = _Taken(pieces)
        try:
            _finish(Services({"echo": taken}).handle(taken, taken))  # type: ignore[arg-type]
        except PeerError as error:
            return b"", b"", repr(error)
        return bytes(taken.content), taken.proof, ""

    content, proof, error = same_in_pieces(data, outcome)
    assert error or data == bytes([4 | (0x80 if proof else 0)]) + b"echo" + proof + content


def _finish(run: Generator[Any, Any, None]) -> None:
    """Run a service that waits for nothing: it only asks for its task."""
    with contextlib.suppress(StopIteration):
        next(run)
        while True:
            run.send(SimpleNamespace(name=""))


class _Taken(InnerService):
    """A query of these pieces, and the service that takes it."""

    claim = Claim(bytes(32))

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)
        self.content = bytearray()
        self.proof = b""

    def read(self) -> Generator[Any, Any, bytes]:
        yield from ()
        return next(self._pieces, b"")

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        self.proof = query.claim.proof
        while piece := (yield from query.read()):
            self.content += piece


_TYPES = [bytes([each]) for each in b"0512xgLKSVM67"]  # regular, folder, links, and extended headers


def _blocks(data: bytes) -> list[bytearray]:
    return [bytearray(data[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK)]


def _member(given: Input) -> bytes:
    """One member of an archive: a header of `tarfile`, perhaps with a number replaced, and content."""
    info = tarfile.TarInfo(
        given.one_of(["a", "a/b", "../a", "/a", "a/../b", "c/d/e", "/".join("d" * given.number(1, 900))])
    )
    info.type = given.one_of(_TYPES)
    info.linkname = given.one_of(["", "a", "../a", "../../a", "/etc", "b/.."])
    content = given.some(200)
    info.size = len(content)
    *extended, header = _blocks(info.tobuf())
    if given.flag():  # size, time or mode: any number, also a negative one in base 256
        start, length = given.one_of([(124, 12), (136, 12), (100, 8), (386, 12), (483, 12)])
        header[start : start + length] = given.take(length)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return b"".join(extended) + header + content.ljust(-(-len(content) // _BLOCK) * _BLOCK, b"\0")


@target(LocalTunnelError, OSError, most_bytes=4096)
def archive(given: Input) -> None:
    """An archive from a stranger: it ends, and nothing is made outside its folder."""
    data = b"".join(_member(given) for _ in range(given.number(0, 6))) + given.rest()
    here = scratch_folder() / "archive"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    (here / "tar").write_bytes(data)
    target_folder = here / "target"
    try:
        unpack_archive(here / "tar", target_folder)
    finally:
        assert {entry.name for entry in here.iterdir()} <= {"tar", "target"}
    for path in target_folder.rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(target_folder))
