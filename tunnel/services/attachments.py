"""Attachments: named streams of any length inside a message. Packing, parsing, saving to files.

    message     = attachment* 0x00
    attachment  = 0x01, name length (1 byte, 1 to 255), name, piece*, 0x00000000, SHA-256 (32 bytes)
    piece       = length (u32, 1 to 1,048,576), data of that length

Rules for the parser: it checks lengths before it keeps data, and never keeps more than one name. A name is a
file name (`tunnel.services.names`) and occurs once.

`save_attachments` writes each file under a temporary name, and renames all of them when the message has ended
and every digest matches. A failure before that leaves nothing behind; a crash of the process leaves hidden
files named `.<random>.part`. Source: docs/services.md, "Attachments".
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import struct
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from reactor import RunInThread, Service, needs_yield_from
from readwrite_comp.helpers import byte_view
from tunnel.arguments import MOST_BYTES, bounded, check_fields
from tunnel.disk import FileReader, pieces_of
from tunnel.errors import MalformedMessage, TableFull
from tunnel.services.base import PieceReader
from tunnel.services.names import checked_file_name, file_name
from tunnel.services.partial_file import PartialFile

__all__ = [
    "AttachmentEnd",
    "AttachmentEvent",
    "AttachmentLimits",
    "AttachmentParser",
    "AttachmentStart",
    "SavedAttachment",
    "pack_attachments",
    "save_attachments",
]

MAX_PIECE_BYTES: Final = 1 << 20
_END: Final = 0
_ATTACHMENT: Final = 1
_LENGTH: Final = struct.Struct(">I")
_DIGEST_BYTES: Final = 32
_READ_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class AttachmentStart:
    """An attachment of this name begins."""

    name: str


@dataclass(frozen=True, slots=True)
class AttachmentEnd:
    """The attachment has ended. The receiver must compare `digest` with the SHA-256 of the content."""

    digest: bytes


AttachmentEvent: TypeAlias = AttachmentStart | AttachmentEnd | bytes
"""Bytes are content of the current attachment."""


class _State(Enum):
    """The next element of the message."""

    KIND = auto()
    NAME_LENGTH = auto()
    NAME = auto()
    PIECE_LENGTH = auto()
    PIECE = auto()
    DIGEST = auto()
    ENDED = auto()


class AttachmentParser:
    """Parses one message from pieces of any length.

    Args:
        most: attachments that are allowed.
    """

    def __init__(self, *, most: int = 16) -> None:
        self._most = most
        self._names: set[str] = set()
        self.held = bytearray()
        self._state = _State.KIND
        self._wanted = 1

    def feed(self, data: bytes) -> Iterator[AttachmentEvent]:
        """Parse the next bytes of the message. Exhaust the iterator before the next call.

        Raises:
            MalformedMessage: not the output of `pack_attachments`; an invalid or repeated name; too many
            attachments.
        """
        view = byte_view(data)
        while view:
            if self._state is _State.ENDED:
                raise MalformedMessage("bytes after the end of the attachments")
            take = view[: self._wanted - len(self.held)]
            view = view[len(take) :]
            if self._state is _State.PIECE:
                self._wanted -= len(take)
                if not self._wanted:
                    self._expect(_State.PIECE_LENGTH, _LENGTH.size)
                yield bytes(take)
                continue
            self.held += take
            if len(self.held) == self._wanted:
                field = bytes(self.held)
                self.held.clear()
                event = self._field(field)
                if event is not None:
                    yield event

    def finish(self) -> None:
        """The message has ended. Raises MalformedMessage: it is incomplete."""
        if self._state is not _State.ENDED:
            raise MalformedMessage(f"the message ends within its attachments, before {self._state.name}")

    def _expect(self, state: _State, count: int) -> None:
        self._state = state
        self._wanted = count

    def _field(self, field: bytes) -> AttachmentEvent | None:
        match self._state:
            case _State.KIND:
                self._kind(field[0])
            case _State.NAME_LENGTH:
                if not field[0]:
                    raise MalformedMessage("an attachment without a name")
                self._expect(_State.NAME, field[0])
            case _State.NAME:
                return AttachmentStart(self._name(field))
            case _State.PIECE_LENGTH:
                self._piece(*_LENGTH.unpack(field))
            case _State.DIGEST:
                self._expect(_State.KIND, 1)
                return AttachmentEnd(field)
            case _:
                raise AssertionError(self._state)
        return None

    def _kind(self, kind: int) -> None:
        if kind == _END:
            self._expect(_State.ENDED, 1)
        elif kind != _ATTACHMENT:
            raise MalformedMessage(f"an attachment of kind {kind}, expected 0 or 1")
        elif len(self._names) >= self._most:
            raise MalformedMessage(f"more than {self._most} attachments")
        else:
            self._expect(_State.NAME_LENGTH, 1)

    def _name(self, raw: bytes) -> str:
        name = file_name(raw)
        if name is None:
            raise MalformedMessage(f"an attachment with an invalid name of {len(raw)} bytes")
        if name in self._names:
            raise MalformedMessage("two attachments of the same name")
        self._names.add(name)
        self._expect(_State.PIECE_LENGTH, _LENGTH.size)
        return name

    def _piece(self, length: int) -> None:
        if length > MAX_PIECE_BYTES:
            raise MalformedMessage(f"a piece of {length} bytes, expected at most {MAX_PIECE_BYTES}")
        if length:
            self._expect(_State.PIECE, length)
        else:
            self._expect(_State.DIGEST, _DIGEST_BYTES)


def pack_attachments(attachments: Iterable[tuple[str, bytes | Path | BinaryIO]]) -> Iterator[bytes]:
    """Pack attachments as content for a query. The iterator blocks, as content may.

    Args:
        attachments: pairs of name and content; a path is opened just before it is read.
    Raises:
        LocalTunnelError: an invalid name, or a path that is not a regular file.
        FileChanged: a regular file changed while it was read. OSError: a file cannot be read.
    """
    for name, content in attachments:
        raw = checked_file_name(name).encode("utf-8")
        yield bytes([_ATTACHMENT, len(raw)]) + raw
        digest = hashlib.sha256()
        for piece in _pieces(content):
            digest.update(piece)
            yield _LENGTH.pack(len(piece)) + piece
        yield _LENGTH.pack(0) + digest.digest()
    yield bytes([_END])


def _pieces(content: bytes | Path | BinaryIO) -> Iterator[bytes]:
    if not isinstance(content, Path) and not hasattr(content, "read"):
        content = bytes(byte_view(content, "an attachment"))
    if isinstance(content, bytes):
        yield from (content[i : i + _READ_BYTES] for i in range(0, len(content), _READ_BYTES))
    elif isinstance(content, Path):
        yield from pieces_of(content, _READ_BYTES)
    else:
        reader = FileReader(content)
        while piece := reader.read(_READ_BYTES):
            yield piece


_BATCH_BYTES: Final = 64 * 1024  # a message whose sender pauses holds no more than a link would


@dataclass(frozen=True, slots=True)
class AttachmentLimits:
    """Limits of one message.

    Attributes:
        count: of attachments.
        total_bytes: of their contents together.
        left_free_bytes: of the disk: below this every message ends. Each message that is being saved may
            use 64 KiB of it.
    Raises:
        BadArgument: a value out of range. TypeError: a wrong type.
    """

    count: int = 16
    total_bytes: int = bounded(1 << 30, least=0, most=MOST_BYTES)
    left_free_bytes: int = bounded(1 << 30, least=0, most=MOST_BYTES)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class SavedAttachment:
    """A saved attachment. Attributes: size: in bytes. digest: its verified SHA-256."""

    name: str
    path: Path
    size: int
    digest: bytes


@needs_yield_from
def save_attachments(
    read: Callable[[], Generator[Any, Any, bytes]],
    folder: Path,
    limits: AttachmentLimits | None = None,
) -> Service[list[SavedAttachment]]:
    """Save all attachments of a message: `saved = yield from save_attachments(query.read, folder)`.

    Args:
        read: returns the next bytes of the message.
        folder: must exist. With one folder per message, senders cannot take each other's names.
    Raises:
        MalformedMessage: the message is not one of attachments, exceeds the limits, or a digest does not
            match. TableFull: the disk has less than `left_free_bytes` left. FileExistsError: a file has this
            name; attachments before it are already saved. OSError: the disk failed. Errors of `read`.
    On error or cancellation: no incomplete file is left.
    """
    saving = _Saving(folder, limits or AttachmentLimits())
    try:
        batch = PieceReader(read).batches(_BATCH_BYTES)
        while data := (yield from batch()):
            yield RunInThread(saving.take, data)
            del data  # not held while the sender pauses
        saved: list[SavedAttachment] = yield RunInThread(saving.commit)
        return saved
    finally:
        saving.close()


class _Saving:
    """The files of one message. All but `close` blocks."""

    def __init__(self, folder: Path, limits: AttachmentLimits) -> None:
        self._folder = folder
        self._limits = limits
        self._parser = AttachmentParser(most=limits.count)
        self._parts: list[tuple[str, PartialFile]] = []
        self._left_bytes = limits.total_bytes
        self._is_closed = False

    def take(self, data: bytes) -> None:
        if shutil.disk_usage(self._folder).free < self._limits.left_free_bytes + len(data):
            raise TableFull(f"less than {self._limits.left_free_bytes} bytes are free for attachments")
        try:
            self._parse(data)
        finally:
            self._rest()

    def _parse(self, data: bytes) -> None:
        for event in self._parser.feed(data):
            if isinstance(event, AttachmentStart):
                self._start(event.name)
            elif isinstance(event, AttachmentEnd):
                if self._parts[-1][1].digest != event.digest:
                    raise MalformedMessage("the content of an attachment does not match its digest")
            else:
                self._left_bytes -= len(event)
                if self._left_bytes < 0:
                    raise MalformedMessage(f"attachments of more than {self._limits.total_bytes} bytes")
                self._parts[-1][1].write(event)

    def commit(self) -> list[SavedAttachment]:
        self._parser.finish()
        saved = []
        for name, part in self._parts:
            path = self._folder / name
            part.commit(path, replace=False)
            saved.append(SavedAttachment(name, path, part.size, part.digest))
        return saved

    def close(self) -> None:
        """Remove the uncommitted files."""
        self._is_closed = True
        for _, part in self._parts:
            part.discard()

    def _rest(self) -> None:
        """Hold no descriptor while the sender pauses."""
        if self._parts:
            self._parts[-1][1].rest()

    def _start(self, name: str) -> None:
        self._rest()
        try:
            os.fsencode(name)
        except UnicodeEncodeError as error:
            raise MalformedMessage(
                "this system's locale cannot represent the name of an attachment"
            ) from error
        path = self._folder / f".{secrets.token_hex(16)}.part"
        part = PartialFile(path)
        self._parts.append((name, part))
        if self._is_closed:  # cancelled while this thread ran
            part.discard()
