"""Messages between the files service and its clients: fixed layouts, bytes only.

Rules for changes: describe each layout in docs/services.md first. Each `unpack` accepts exactly the output of
`pack`. No length in a layout makes a receiver reserve memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from tunnel.errors import MalformedMessage
from tunnel.services.names import file_name

__all__ = [
    "DIGEST_BYTES",
    "ENTRY_HEAD_BYTES",
    "MAX_FILE_BYTES",
    "NO_DIGEST",
    "REPLY_BYTES",
    "REQUEST_HEAD_BYTES",
    "FileEntry",
    "FileReply",
    "FileRequest",
    "FileStatus",
    "Operation",
]

DIGEST_BYTES: Final = 32
NO_DIGEST: Final = bytes(DIGEST_BYTES)
MAX_FILE_BYTES: Final = 2**62  # below the limits of file systems and of signed 64-bit numbers

_REQUEST: Final = struct.Struct(">BBQQ32s")
_REPLY: Final = struct.Struct(">BQQ32s")
_ENTRY: Final = struct.Struct(">BQ")
REQUEST_HEAD_BYTES: Final = _REQUEST.size
REPLY_BYTES: Final = _REPLY.size
ENTRY_HEAD_BYTES: Final = _ENTRY.size


class Operation(IntEnum):
    """The kind of a request."""

    PUT = 1  # store the content that follows
    GET = 2  # send a file
    LIST = 3  # list the files
    OFFER = 4  # state how much of this file is already stored


class FileStatus(IntEnum):
    """The result of a request; docs/services.md has the meanings. No request begins with one of these bytes,
    so an echo service is not mistaken for a files service."""

    OK = 0x80
    STORED = 0x81  # of an OFFER only
    NOT_FOUND = 0x82
    EXISTS = 0x83
    FULL = 0x84
    NAME = 0x85
    CHANGED = 0x86
    DIGEST = 0x87
    SIZE = 0x88
    BUSY = 0x89
    DENIED = 0x8A
    DISK = 0x8B

    @property
    def words(self) -> str:
        """The status as text for a user."""
        return _STATUS_WORDS[self]


_STATUS_WORDS = {
    FileStatus.OK: "done",
    FileStatus.STORED: "the whole file is already stored there",
    FileStatus.NOT_FOUND: "there is no such file",
    FileStatus.EXISTS: "a different file of this name is stored there, and is not replaced",
    FileStatus.FULL: "no room for this file there: a limit on size, total size or number of files",
    FileStatus.NAME: "this file name is not allowed there",
    FileStatus.CHANGED: "the file there has changed",
    FileStatus.DIGEST: "the content arrived damaged: its digest differs",
    FileStatus.SIZE: "the content is shorter or longer than announced",
    FileStatus.BUSY: "the same file is being stored by another upload, or too many uploads run there",
    FileStatus.DENIED: "not allowed there: for nobody, or only with a listed client key or the secret",
    FileStatus.DISK: "the disk there failed; the log of that node has the reason",
}


@dataclass(frozen=True, slots=True)
class FileRequest:
    """The head of a request; fields that the operation does not use are zero.

    Attributes:
        name: of the file; LIST: list names after this one; may be "".
        size, digest: PUT, OFFER: of the whole file. GET: `digest` of the version that is resumed.
        offset: PUT: where the content that follows begins. GET: where the reply shall begin.
    """

    operation: Operation
    name: str = ""
    size: int = 0
    offset: int = 0
    digest: bytes = NO_DIGEST

    def pack(self) -> bytes:
        """The bytes on the wire."""
        raw = self.name.encode("utf-8")
        return _REQUEST.pack(self.operation, len(raw), self.size, self.offset, self.digest) + raw

    @staticmethod
    def name_bytes(head: bytes) -> int:
        """How many bytes of name follow the head."""
        return head[1]

    @classmethod
    def unpack(cls, data: bytes) -> FileRequest:
        """Args: data: the head and the name. Raises MalformedMessage: not the output of `pack`."""
        kind, length, size, offset, digest = _REQUEST.unpack_from(data)
        raw = data[_REQUEST.size :]
        if kind not in Operation._value2member_map_ or length != len(raw):
            raise MalformedMessage(f"a request of kind {kind} with {len(raw)} of {length} bytes of name")
        operation = Operation(kind)
        name = "" if operation is Operation.LIST and not raw else file_name(raw)
        if name is None:
            raise MalformedMessage(f"a request with an invalid name of {length} bytes")
        request = cls(operation, name, size, offset, digest)
        if not request._is_consistent:
            raise MalformedMessage(
                f"{operation.name} of {size} bytes from {offset} uses a field that it must not"
            )
        return request

    @property
    def _is_consistent(self) -> bool:
        match self.operation:
            case Operation.PUT | Operation.OFFER:
                has_offset = self.operation is Operation.PUT
                return self.offset <= (self.size if has_offset else 0) and self.size <= MAX_FILE_BYTES
            case Operation.GET:
                is_resumed = self.digest != NO_DIGEST
                return self.size == 0 and self.offset <= (MAX_FILE_BYTES if is_resumed else 0)
            case _:
                return self.size == self.offset == 0 and self.digest == NO_DIGEST


@dataclass(frozen=True, slots=True)
class FileReply:
    """The head of a reply; after a status other than OK and STORED all fields are zero.

    Attributes:
        size, digest: of the whole file; LIST: `size` is the number of entries that follow.
        offset: GET: where the content that follows begins. OFFER, PUT: how much is stored.
    """

    status: FileStatus
    size: int = 0
    offset: int = 0
    digest: bytes = NO_DIGEST

    def pack(self) -> bytes:
        """The bytes on the wire."""
        return _REPLY.pack(self.status, self.size, self.offset, self.digest)

    @classmethod
    def unpack(cls, data: bytes) -> FileReply:
        """Args: data: REPLY_BYTES. Raises MalformedMessage: not the output of `pack`."""
        status, size, offset, digest = _REPLY.unpack(data)
        if status not in FileStatus._value2member_map_:
            raise MalformedMessage(
                f"a reply with the status {status}, expected {min(FileStatus)} to {max(FileStatus)}"
            )
        reply = cls(FileStatus(status), size, offset, digest)
        is_good = reply.status in (FileStatus.OK, FileStatus.STORED)
        if size > MAX_FILE_BYTES or offset > size or not (is_good or reply == cls(reply.status)):
            raise MalformedMessage(f"{reply.status.name} with size {size} and offset {offset}")
        return reply


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a list, with its size in bytes."""

    name: str
    size: int

    def pack(self) -> bytes:
        """The bytes on the wire."""
        raw = self.name.encode("utf-8")
        return _ENTRY.pack(len(raw), self.size) + raw

    @staticmethod
    def name_bytes(head: bytes) -> int:
        """How many bytes of name follow the head."""
        return head[0]

    @classmethod
    def unpack(cls, data: bytes) -> FileEntry:
        """Args: data: head and name. Raises MalformedMessage: not the output of `pack`."""
        length, size = _ENTRY.unpack_from(data)
        raw = data[_ENTRY.size :]
        name = file_name(raw)
        if length != len(raw) or name is None or size > MAX_FILE_BYTES:
            raise MalformedMessage(f"a list entry of {size} bytes, with an invalid name of {length} bytes")
        return cls(name, size)
