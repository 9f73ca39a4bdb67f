"""Attachments: named streams inside a message, each of any length. Layout and parser; bytes only.

    message     = attachment* 0x00
    attachment  = 0x01, name length (1 byte, 1 to 255), name, piece*, 0x00000000, SHA-256 of its content (32
    bytes) piece       = length (u32, 1 to 1,048,576), so many bytes

Rules: lengths are checked before anything is kept, and what is kept is less than one head; a name is one of a
file (`tunnel.services.names`), and comes once. Source: docs/services.md, "Attachments".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from readwrite_comp.helpers import byte_view
from tunnel.disk import FileReader, pieces_of
from tunnel.errors import MalformedMessage
from tunnel.services.names import checked_file_name, file_name

__all__ = ["AttachmentEnd", "AttachmentEvent", "AttachmentParser", "AttachmentStart", "pack_attachments"]

MAX_PIECE_BYTES: Final = 1 << 20

_END: Final = 0
_ATTACHMENT: Final = 1
_LENGTH: Final = struct.Struct(">I")
_DIGEST_BYTES: Final = 32
_READ_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class AttachmentStart:
    """The content of this name follows."""

    name: str


@dataclass(frozen=True, slots=True)
class AttachmentEnd:
    """The attachment is over, and its content is to have this SHA-256: the receiver compares."""

    digest: bytes


AttachmentEvent: TypeAlias = AttachmentStart | AttachmentEnd | bytes
"""Bytes are content of the attachment that has started."""


class _State(Enum):
    """What comes next, and how many bytes that takes."""

    KIND = auto()
    NAME_LENGTH = auto()
    NAME = auto()
    PIECE_LENGTH = auto()
    PIECE = auto()
    DIGEST = auto()
    ENDED = auto()


class AttachmentParser:
    """Takes the bytes of one message in pieces of any length, and says what they are.

    Args:
        most: attachments of the message.
    """

    def __init__(self, *, most: int = 16) -> None:
        self._most = most
        self._names: set[str] = set()
        self._held = bytearray()
        self._state = _State.KIND
        self._wanted = 1

    def feed(self, data: bytes) -> Iterator[AttachmentEvent]:
        """Take the next bytes of the message; the events must be taken before the next call.

        Raises:
            MalformedMessage: what `pack_attachments` does not write; an invalid name, or one that comes
            twice; too many.
        """
        view = byte_view(data)
        while view:
            if self._state is _State.ENDED:
                raise MalformedMessage("bytes behind the end of the attachments")
            take = view[: self._wanted - len(self._held)]
            view = view[len(take) :]
            if self._state is _State.PIECE:
                self._wanted -= len(take)
                if not self._wanted:
                    self._expect(_State.PIECE_LENGTH, _LENGTH.size)
                yield bytes(take)
                continue
            self._held += take
            if len(self._held) == self._wanted:
                field = bytes(self._held)
                self._held.clear()
                event = self._field(field)
                if event is not None:
                    yield event

    def finish(self) -> None:
        """The message has ended. Raises MalformedMessage: not where it may."""
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
    """A message of attachments, as content for a query. It blocks, as content from iterators may.

    Args:
        attachments: name and content each; a path is opened when its turn comes.
    Raises:
        LocalTunnelError: an invalid name, or a path that is no regular file.
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
