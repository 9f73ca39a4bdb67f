"""The service that stores and sends files: put, get and list, with resumption and digests.

It joins the messages of `file_requests` with the storage of `file_store`. Threads do the disk work, a quarter
of a megabyte at a time. Layouts: docs/services.md, "Files".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, Final

from reactor import RunInThread, Service
from tunnel.services.base import InnerService, PieceReader, Query, Reply
from tunnel.services.file_requests import (
    NO_DIGEST,
    REQUEST_HEAD_BYTES,
    FileReply,
    FileRequest,
    FileStatus,
    Operation,
)
from tunnel.services.file_store import Download, FilesSettings, FileStore, StoreRefused, Upload

__all__ = ["BATCH_BYTES", "Files", "FilesSettings"]

log = logging.getLogger("tunnel.services")

BATCH_BYTES: Final = 256 * 1024
"""Read or written in one call of a thread: the crossing costs about 0.1 ms, this much on a fast link 2 ms."""


class Files(InnerService):
    """Serves the files of one folder.

    Args:
        folder: holds the files, and nothing else; made if it is not there.
        settings: quota, name rules, which operations there are.
    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, settings: FilesSettings | None = None) -> None:
        self._store = FileStore(Path(folder), settings)

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        """Serve one request; an answer that says why is no error of the query."""
        reader = PieceReader(query.read)
        head = yield from reader.exactly(REQUEST_HEAD_BYTES)
        name = yield from reader.exactly(FileRequest.name_bytes(head))
        request = FileRequest.unpack(head + name)
        try:
            yield from self._serve(request, reader, reply)
        except StoreRefused as refused:
            yield from reply.write(FileReply(refused.status).pack())
        except OSError as error:
            # Not its own path: that has the name which the peer chose.
            reason, folder = error.strerror or type(error).__name__, self._store.folder
            log.error("files: %s failed: %s (in the folder %s)", request.operation.name, reason, folder)
            log.debug("files: %s", error)
            yield from reply.write(FileReply(FileStatus.DISK).pack())

    def _serve(self, request: FileRequest, reader: PieceReader, reply: Reply) -> Service[None]:
        settings = self._store.settings
        match request.operation:
            case Operation.PUT if settings.may_put:
                yield from self._put(request, reader, reply)
            case Operation.OFFER if settings.may_put:
                yield from self._offer(request, reply)
            case Operation.GET if settings.may_get:
                yield from self._get(request, reply)
            case Operation.LIST if settings.may_list:
                yield from self._list(request, reply)
            case _:
                raise StoreRefused(FileStatus.DENIED)

    def _put(self, request: FileRequest, reader: PieceReader, reply: Reply) -> Service[None]:
        store = self._store
        name, size, digest = request.name, request.size, request.digest
        upload: Upload = yield RunInThread(partial(store.begin, name, size, digest, request.offset))
        try:
            yield from _all(upload.prepare)
            batch = reader.batches(BATCH_BYTES)
            while data := (yield from batch()):
                yield RunInThread(upload.write, data)
            yield RunInThread(upload.commit)
        except OSError:
            upload.discard()  # a full disk is not to stay full of halves
            raise
        finally:
            upload.close()
        yield from reply.write(FileReply(FileStatus.OK, size, size, digest).pack())

    def _offer(self, request: FileRequest, reply: Reply) -> Service[None]:
        name, size, digest = request.name, request.size, request.digest
        status = FileStatus.OK
        here = yield RunInThread(self._store.offered, name, size, digest)
        if (there := (yield from self._digest_of(name))) is not None:
            if there == digest:
                status, here = FileStatus.STORED, size
            elif not self._store.settings.may_replace:
                raise StoreRefused(FileStatus.EXISTS)
        yield from reply.write(FileReply(status, size, here, digest).pack())

    def _digest_of(self, name: str) -> Service[bytes | None]:
        """Of a file that is here."""
        try:
            download: Download = yield RunInThread(self._store.open, name)
        except StoreRefused:
            return None
        with download:
            yield from _all(download.prepare)
            return download.digest

    def _get(self, request: FileRequest, reply: Reply) -> Service[None]:
        download: Download = yield RunInThread(self._store.open, request.name)
        with download:
            yield from _all(download.prepare)
            if request.offset > download.size or request.digest not in (NO_DIGEST, download.digest):
                raise StoreRefused(FileStatus.CHANGED)
            head = FileReply(FileStatus.OK, download.size, request.offset, download.digest)
            yield from reply.write(head.pack())
            download.start(request.offset)
            left = download.size - request.offset
            while left and (data := (yield RunInThread(download.read, min(left, BATCH_BYTES)))):
                yield from reply.write(data)
                left -= len(data)

    def _list(self, request: FileRequest, reply: Reply) -> Service[None]:
        entries = yield RunInThread(self._store.entries, request.name)
        yield from reply.write(FileReply(FileStatus.OK, len(entries)).pack())
        yield from reply.write(b"".join(entry.pack() for entry in entries))


def _all(step: Callable[[], bool]) -> Service[None]:
    """Call a blocking function in a thread until it says that it is done; others get their turn between."""
    while not (yield RunInThread(step)):
        pass
