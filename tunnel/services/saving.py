"""Attachments of a message to files: whole or not at all.

Each is written under a name of its own making, and all are given theirs when the message has come to its end
and every digest fits. What fails before that leaves nothing behind; only a crash of the process leaves parts,
which are hidden and called `.<random>.part`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reactor import RunInThread, Service, needs_yield_from
from tunnel.errors import MalformedMessage
from tunnel.services.attachments import AttachmentEnd, AttachmentParser, AttachmentStart
from tunnel.services.byte_reader import ByteReader
from tunnel.services.partial_file import PartialFile

__all__ = ["AttachmentLimits", "SavedAttachment", "save_attachments"]

_BATCH_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class AttachmentLimits:
    """What one message may bring.

    Attributes:
        count: of attachments.
        total_bytes: of their content together.
    """

    count: int = 16
    total_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class SavedAttachment:
    """One that is a file now. Attributes: size: in bytes. digest: its SHA-256, which was compared."""

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
        read: gives the message.
        folder: is there already; one per message keeps senders from taking each other's names.
    Raises:
        MalformedMessage: the message is none of attachments, breaks the limits, or a digest does not fit.
            FileExistsError: a name is taken; those committed before it, in order, stay. OSError: the disk
            failed. Whatever `read` raises.
    On error or cancellation: no file is left that is not whole.
    """
    saving = _Saving(folder, limits or AttachmentLimits())
    try:
        batch = ByteReader(read).batches(_BATCH_BYTES)
        while data := (yield from batch()):
            yield RunInThread(saving.take, data)
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
        for event in self._parser.feed(data):
            if isinstance(event, AttachmentStart):
                self._start(event.name)
            elif isinstance(event, AttachmentEnd):
                if self._parts[-1][1].digest != event.digest:
                    raise MalformedMessage("the content of an attachment does not have its digest")
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
        """Remove what was not committed."""
        self._is_closed = True
        for _, part in self._parts:
            part.discard()

    def _start(self, name: str) -> None:
        try:
            os.fsencode(name)
        except UnicodeEncodeError as error:
            raise MalformedMessage("this system's locale has no form of the name of an attachment") from error
        path = self._folder / f".{secrets.token_hex(16)}.part"
        part = PartialFile(path)
        self._parts.append((name, part))
        if self._is_closed:  # cancelled while this thread was at it
            part.discard()
