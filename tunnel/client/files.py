"""Files of another node that runs the files service (`tunnel.services.Files`): put, get, list.

    stored = put(node, bob_id, "report.pdf").result()
    get(node, bob_id, "report.pdf", "copy.pdf", progress=print).result()
    for entry in list_files(node, bob_id).result():
        print(entry.name, entry.size)

These functions may be called from any thread and return futures; cancelling a future cancels the transfer.
`FilesClient` has the same three as services of the reactor: `stored = yield from FilesClient(node,
bob_id).put("report.pdf")`.

Both ends compute and compare the SHA-256 of the file; an incomplete file never appears under its name.
Interrupted transfers resume over another route: up to `retries` times within a call, and in a later call for
the same file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Unpack

from reactor import RunInThread, Service, Sleep, needs_yield_from
from tunnel.arguments import checked_count, checked_seconds
from tunnel.client.clients import AskingNode, asking
from tunnel.client.file_endpoints import FileTarget, ObjectTarget, PathTarget, SourceFile
from tunnel.codes import CODES, Location
from tunnel.errors import (
    BadRoute,
    FilesError,
    LocalTunnelError,
    MalformedMessage,
    NodeStopped,
    QueryFailed,
)
from tunnel.identity.client_key import ClientKey
from tunnel.node.query.attempts import submit
from tunnel.node.query.contents import Prefixed
from tunnel.node.query.incoming_replies import IncomingReply, report_progress
from tunnel.node.query.request import MAX_RETRIES, RouteOptions
from tunnel.services.base import PieceReader, service_prefix
from tunnel.services.file_requests import (
    ENTRY_HEAD_BYTES,
    NO_DIGEST,
    REPLY_BYTES,
    FileEntry,
    FileReply,
    FileRequest,
    FileStatus,
    Operation,
)
from tunnel.services.files import BATCH_BYTES, until_done
from tunnel.services.names import checked_file_name

__all__ = ["Fetched", "FileProgress", "FilesClient", "Stored", "get", "list_files", "put"]

FileProgress = Callable[[int, int], None]
"""Called in the reactor's thread with (bytes done, bytes of the whole file)."""

_MOST_ENTRIES: Final = 100_000
"""Limit of a list, some 20 MB: the other node decides its length."""
MOST_BYTES: Final = 1 << 34
"""Default limit of a fetched file, 16 GiB: no node can fill the disk here."""

# Three pauses are longer than the other end needs to detect a stalled upload.
_BUSY_PAUSE_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.05
_MOST_PAUSE_S: Final = 2.0
_PASSING: Final = (FileStatus.BUSY, FileStatus.CHANGED, FileStatus.DIGEST)


@dataclass(frozen=True, slots=True)
class Stored:
    """The result of a put.

    Attributes:
        sent_bytes: content sent in this call; less than `size` if the service already had a part.
        attempts: queries with content, failed ones included.
    """

    name: str
    size: int
    digest: bytes
    sent_bytes: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of a get. Attributes: received_bytes: in this call. attempts: number of queries."""

    name: str
    size: int
    digest: bytes
    received_bytes: int
    attempts: int


class FilesClient:
    """The files of one node, for services.

    Args:
        destination: the node's id.
        service: name of the files service, if the node offers several services (`tunnel.services.Services`).
        client_key: for a service that lists its clients, and can then distinguish them. Requires `service`.
        retries: attempts after the first, each over another route. A refusal by the destination is final.
        options: of each query; `timeout_s` limits each attempt.
    Raises, from each method: FilesError: the other end refused; `status` is the reason. QueryFailed: the last
        attempt failed, or the service there is not a files service. LocalTunnelError: a wrong argument.
        TypeError: one of a wrong type. OSError: the local disk.
    """

    def __init__(
        self,
        node: AskingNode,
        destination: bytes,
        *,
        service: str | None = None,
        client_key: ClientKey | None = None,
        retries: int = 3,
        **options: Unpack[RouteOptions],
    ) -> None:
        if client_key is not None and not isinstance(client_key, ClientKey):
            raise TypeError(f"client_key: expected a ClientKey, got {type(client_key).__name__}")
        if client_key is not None and service is None:
            raise LocalTunnelError(
                "client_key: only a service with a name takes one", 'give its name, as in service="files"'
            )
        self._client_key = client_key
        self._node = asking(node)
        self._destination = destination
        self._prefix = b"" if service is None else service_prefix(service)
        self._retries = checked_count(retries, "retries", most=MAX_RETRIES)
        if (timeout_s := options.get("timeout_s")) is not None:
            checked_seconds(timeout_s, "timeout_s")
        self._options = options

    @needs_yield_from
    def put(
        self, source: str | Path | BinaryIO, name: str | None = None, *, progress: FileProgress | None = None
    ) -> Service[Stored]:
        """Store a file.

        Args:
            source: a path, or a binary file that can seek; TypeError: another object.
            name: name at the other node; by default that of the path. See `tunnel.services.safe_name`.
        Raises:
            FileChanged: the source grew, shrank, or was rewritten or replaced meanwhile; there is no retry.
            LocalTunnelError: the name is missing or invalid; the source is not a regular file, or its size is
            unknown before it is read. Others: see the class.
        Cancellation: the other end keeps the sent part for a day, and it can be resumed.
        """
        if name is None:
            if not isinstance(source, str | os.PathLike):
                raise LocalTunnelError("a file object has no name: give the name to store it under")
            name = Path(source).name
        name = checked_file_name(name)
        with closing((yield RunInThread(SourceFile, source))) as file:
            yield from until_done(file.prepare)
            put = _Put(self, file, name, progress)
            yield from self._try(put.attempt)
            return Stored(name, file.size, file.digest, put.sent_bytes, put.attempts)

    @needs_yield_from
    def get(
        self,
        name: str,
        target: str | Path | BinaryIO,
        *,
        progress: FileProgress | None = None,
        replace: bool = False,
        limit_bytes: int = MOST_BYTES,
    ) -> Service[Fetched]:
        """Fetch a file.

        Args:
            target: a path, a folder (the file keeps its name), or a binary file to write to. A new file has
                mode 0666 less the umask; a replaced one keeps its mode.
            replace: whether an existing path may be replaced.
            limit_bytes: a larger file is not fetched.
        Raises:
            LocalTunnelError: an invalid name; the path exists, or another transfer writes to it. OSError: the
            path cannot be created. Both before anything is fetched. LocalTunnelError, at the end: the path
            has appeared meanwhile (what was fetched is kept), or its folder is gone. Others: see the class.
        Cancellation: a part of the file stays beside a path, and can be resumed.
        """
        name = checked_file_name(name)
        with closing((yield RunInThread(_target, target, name, replace))) as file:
            yield from until_done(file.prepare)
            get = _Get(self, file, name, progress, limit_bytes)
            yield from self._try(get.attempt)
            return Fetched(name, file.size, file.digest, get.received_bytes, get.attempts)

    @needs_yield_from
    def list_files(self) -> Service[list[FileEntry]]:
        """The files of the other node, by name."""
        entries: list[FileEntry] = []

        def attempt() -> Service[None]:
            entries.clear()
            after = FileRequest(Operation.LIST)
            with (yield from self._begin(after)) as reply:
                reader, head = yield from self._head(reply, after)
                if head.size > _MOST_ENTRIES:
                    raise MalformedMessage(f"a list of {head.size} files, expected {_MOST_ENTRIES} at most")
                for _ in range(head.size):
                    start = yield from reader.exactly(ENTRY_HEAD_BYTES)
                    rest = yield from reader.exactly(FileEntry.name_bytes(start))
                    entries.append(FileEntry.unpack(start + rest))
                yield from reply.result()

        yield from self._try(attempt)
        return entries

    # For the three above.

    def _try(self, attempt: Callable[[], Service[None]]) -> Service[None]:
        """Repeat attempts until one succeeds or no further attempt is possible."""
        for number in range(self._retries + 1):
            is_last = number == self._retries
            try:
                yield from attempt()
                return
            except MalformedMessage as error:
                raise QueryFailed(f"the service there is not a files service: {error}", error.code) from error
            except QueryFailed as error:
                if is_last or self._is_final(error):
                    raise
            except FilesError as error:
                if is_last or error.status not in _PASSING:
                    raise
                if error.status is FileStatus.BUSY:
                    yield Sleep(_BUSY_PAUSE_S)
            except BadRoute:
                # A chosen node has left the directory.
                if is_last or self._options.get("route") is not None:
                    raise
            yield Sleep(min(_FIRST_PAUSE_S * 2**number, _MOST_PAUSE_S))

    def _is_final(self, error: QueryFailed) -> bool:
        """Whether another attempt would fail alike: the destination has refused, or this node has stopped."""
        report, code = error.report, error.code
        if isinstance(error, NodeStopped):
            return True
        if report is None:  # as in error mode `none`: the code came without its author
            return code is not None and CODES[code].location is Location.FAR_END
        return report.is_refusal

    def _begin(
        self, request: FileRequest, more: Callable[[], Service[bytes]] | None = None
    ) -> Service[IncomingReply]:
        """Begin a query with a request, and the content that follows it."""
        first = request.pack()

        def content() -> Service[bytes]:
            nonlocal first
            if first:
                data, first = first, b""
                return data
            return b"" if more is None else (yield from more())

        options = self._options
        carries = request.operation is Operation.GET or request.size >= BATCH_BYTES
        if carries:
            options = {"purpose": "bulk", **options}
        named = Prefixed(self._prefix, content, self._client_key)
        return (yield from self._node.ask(self._node.call(self._destination, named, **options)))

    def _head(self, reply: IncomingReply, request: FileRequest) -> Service[tuple[PieceReader, FileReply]]:
        """Read the head of a reply. Raises FilesError: the service refused the request."""
        reader = PieceReader(reply.read)
        head = FileReply.unpack((yield from reader.exactly(REPLY_BYTES)))
        if head.status not in (FileStatus.OK, FileStatus.STORED):
            is_offer = request.operation is Operation.OFFER  # the first half of a put
            verb = "put" if is_offer else request.operation.name.lower()
            raise FilesError(f"{verb} {request.name}".strip() + f": {head.status.words}", head.status)
        return reader, head


class _Put:
    """A file that is sent, over one or more attempts."""

    def __init__(
        self, client: FilesClient, file: SourceFile, name: str, progress: FileProgress | None
    ) -> None:
        self._client = client
        self._file = file
        self._name = name
        self._progress = progress or _no_progress
        self.sent_bytes = 0
        self.attempts = 0

    def attempt(self) -> Service[None]:
        client, file = self._client, self._file
        self.attempts += 1
        offer = FileRequest(Operation.OFFER, self._name, file.size, 0, file.digest)
        with (yield from client._begin(offer)) as reply:
            _, head = yield from client._head(reply, offer)
            yield from reply.result()
        report_progress(self._progress, head.offset, file.size)
        if head.status is FileStatus.STORED:
            return
        file.start(head.offset)
        request = FileRequest(Operation.PUT, self._name, file.size, head.offset, file.digest)
        with (yield from client._begin(request, partial(self._next, [head.offset]))) as reply:
            try:
                _, head = yield from client._head(reply, request)
            except FilesError as error:
                if error.status is FileStatus.DIGEST:
                    # Another attempt helps if the other end held a wrong part; not if the file changed here.
                    yield from until_done(file.verifier())
                raise
            yield from reply.result()
        if head.digest != file.digest or head.offset != file.size:
            raise FilesError(f"put {self._name}: the other end confirmed other content", FileStatus.DIGEST)

    def _next(self, place: list[int]) -> Service[bytes]:
        file = self._file
        if place[0] == file.size:
            return b""
        data: bytes = yield RunInThread(file.read, min(BATCH_BYTES, file.size - place[0]))
        place[0] += len(data)
        self.sent_bytes += len(data)
        report_progress(self._progress, place[0], file.size)
        return data


class _Get:
    """A file that is fetched, over one or more attempts."""

    def __init__(
        self,
        client: FilesClient,
        file: FileTarget,
        name: str,
        progress: FileProgress | None,
        limit_bytes: int,
    ) -> None:
        self._client = client
        self._file = file
        self._name = name
        self._progress = progress or _no_progress
        self._limit_bytes = limit_bytes
        self._must_restart = False
        self.received_bytes = 0
        self.attempts = 0

    def attempt(self) -> Service[None]:
        client, file = self._client, self._file
        self.attempts += 1
        version = None if self._must_restart else file.version
        request = FileRequest(
            Operation.GET, self._name, 0, 0 if version is None else file.size, version or NO_DIGEST
        )
        with (yield from client._begin(request)) as reply:
            try:
                reader, head = yield from client._head(reply, request)
            except FilesError as error:
                self._must_restart = error.status is FileStatus.CHANGED
                raise
            if head.size > self._limit_bytes:
                text = f"get {self._name}: {head.size} bytes, the limit of this call is {self._limit_bytes}"
                raise FilesError(text, FileStatus.SIZE)
            if head.offset != request.offset or version not in (None, head.digest):
                raise MalformedMessage("the reply is another part of the file than requested")
            if version is None:
                yield RunInThread(file.restart, head.digest)
                self._must_restart = False
            yield from self._receive(reader, head)
            yield from reply.result()
        if file.size != head.size or file.digest != head.digest:
            self._must_restart = True
            raise FilesError(
                f"get {self._name}: the content differs from the announced digest", FileStatus.DIGEST
            )
        yield RunInThread(file.commit)

    def _receive(self, reader: PieceReader, head: FileReply) -> Service[None]:
        file = self._file
        report_progress(self._progress, file.size, head.size)
        batch = reader.batches(BATCH_BYTES)
        while data := (yield from batch()):
            if file.size + len(data) > head.size:
                raise MalformedMessage("more content than announced")
            self.received_bytes += len(data)
            yield RunInThread(file.write, data)
            report_progress(self._progress, file.size, head.size)


def put(
    node: AskingNode,
    destination: bytes,
    source: str | Path | BinaryIO,
    name: str | None = None,
    *,
    progress: FileProgress | None = None,
    service: str | None = None,
    client_key: ClientKey | None = None,
    retries: int = 3,
    **options: Unpack[RouteOptions],
) -> Future[Stored]:
    """Store a file at the node `destination`, from any thread. See `FilesClient`, also for errors."""
    client = FilesClient(
        node, destination, service=service, client_key=client_key, retries=retries, **options
    )
    return submit(node.reactor, client.put(source, name, progress=progress), "files put")


def get(
    node: AskingNode,
    destination: bytes,
    name: str,
    target: str | Path | BinaryIO,
    *,
    progress: FileProgress | None = None,
    replace: bool = False,
    limit_bytes: int = MOST_BYTES,
    service: str | None = None,
    client_key: ClientKey | None = None,
    retries: int = 3,
    **options: Unpack[RouteOptions],
) -> Future[Fetched]:
    """Fetch a file from the node `destination`, from any thread. See `FilesClient`, also for errors."""
    client = FilesClient(
        node, destination, service=service, client_key=client_key, retries=retries, **options
    )
    getting = client.get(name, target, progress=progress, replace=replace, limit_bytes=limit_bytes)
    return submit(node.reactor, getting, "files get")


def list_files(
    node: AskingNode,
    destination: bytes,
    *,
    service: str | None = None,
    client_key: ClientKey | None = None,
    retries: int = 3,
    **options: Unpack[RouteOptions],
) -> Future[list[FileEntry]]:
    """List the files of the node `destination`, from any thread. See `FilesClient`, also for errors."""
    client = FilesClient(
        node, destination, service=service, client_key=client_key, retries=retries, **options
    )
    return submit(node.reactor, client.list_files(), "files list")


def _target(target: str | Path | BinaryIO, name: str, replace: bool) -> FileTarget:
    if not isinstance(target, str | os.PathLike):
        if isinstance(target, io.TextIOBase) or not hasattr(target, "write"):
            raise TypeError(f"a target is a path or a binary file, got {type(target).__name__}")
        return ObjectTarget(target)
    path = Path(target)
    return PathTarget(path / name if path.is_dir() else path, replace=replace)


def _no_progress(done: int, size: int) -> None:
    pass
