"""The service that stores and sends files: put, get and list, with resumption and digests.

It joins the messages of `file_requests` with the storage of `file_store`. Threads do the disk work, a quarter
of a megabyte at a time. Layouts: docs/services.md, "Files".
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import stat
import threading
import time
import unicodedata
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from reactor import RunInThread, Service
from tunnel.arguments import setting
from tunnel.disk import Identity, kind_of, open_regular
from tunnel.errors import LocalTunnelError
from tunnel.services.base import PieceReader, InnerService, Query, Reply
from tunnel.services.file_requests import (
    NO_DIGEST,
    REQUEST_HEAD_BYTES,
    FileEntry,
    FileReply,
    FileRequest,
    FileStatus,
    Operation,
)
from tunnel.services.names import file_name
from tunnel.services.partial_file import BLOCK_BYTES, PartialFile, ThreadFile

__all__ = ["BATCH_BYTES", "Download", "FileStore", "Files", "FilesSettings", "StoreRefused", "Upload"]


# The folder behind the files service: its files, its limits, and uploads in progress.
#
# Everything here blocks and runs in threads, except `close`, which the reactor's thread may call at any
# time. Nothing outside the folder is touched: names are checked, links are not followed, and only regular
# files count. Only one process at a time may store files in a folder.
#
# An upload is written to `.<digest>.part` and renamed when its digest matches, so a file is never visible
# in part. An interrupted upload of the same content resumes under any name, and content that another peer
# sent for it cannot enter a file, because the digest would not match. Idle parts are removed when they are
# old or, oldest first, when their space is needed.
#
# A cancelled service leaves a call behind that still runs in a thread. Closing its descriptor at that
# moment could give the number to another file. `ThreadFile` therefore lets that thread close it afterwards.
T = TypeVar("T")
log = logging.getLogger("tunnel.services")
_STALLED_S: Final = 2.0
"""An upload without progress for this time gives way to another of the same content: its sender may have
reconnected over another route."""

_IDLE_S: Final = 60.0
"""At the limit of uploads, one without progress for this time gives way to any other, so that idle uploads
cannot block the service."""

_TRIAL_BYTES: Final = 200
_PART: Final = re.compile(r"\.[0-9a-f]{64}\.part")


@dataclass(frozen=True, slots=True)
class FilesSettings:
    """What a files service allows.

    Attributes:
        is_name_allowed: a rule for names beside those of `tunnel.services.base`.
    """

    quota_bytes: int = setting(1 << 30, "Total size of the folder, uploads in progress included.", "bytes")
    files: int = setting(10_000, "Number of complete files. As many digests are remembered.")
    file_bytes: int = setting(1 << 30, "Size of the largest file.", "bytes")
    uploads: int = setting(16, "Simultaneous uploads.")
    part_age_s: float = setting(86_400.0, "How long an interrupted upload is kept for resumption.", "s")
    may_get: bool = setting(True, "Whether files can be read.")
    may_put: bool = setting(True, "Whether files can be stored.")
    may_list: bool = setting(True, "Whether files can be listed.")
    may_replace: bool = setting(
        False,
        "Whether an upload may replace a file of the same name and other content.",
    )
    is_name_allowed: Callable[[str], bool] | None = None


class StoreRefused(Exception):
    """The store refuses a request for the reason `status`, which the files service sends as its reply."""

    def __init__(self, status: FileStatus) -> None:
        super().__init__(status.name)
        self.status = status


class FileStore:
    """Args: folder: made if it is not there. Raises OSError, as every method does."""

    def __init__(self, folder: Path, settings: FilesSettings | None = None) -> None:
        self.folder = folder
        self.settings = settings or FilesSettings()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        # Weak: one that was begun for a service that was cancelled meanwhile has no owner.
        self._uploads: weakref.WeakValueDictionary[bytes, Upload] = weakref.WeakValueDictionary()
        # Of files that were hashed, by name.
        self._digests: dict[str, tuple[Identity, bytes]] = {}

    def entries(self, after: str = "") -> list[FileEntry]:
        """The whole files, by name. Those whose names the wire has no form for are left out."""
        found: dict[str, FileEntry] = {}
        for disk_name, size, _ in self._scan():
            name = _wire_name(disk_name)
            if name is None or name <= after or not self._is_allowed(name):
                continue
            if name == disk_name or name not in found:  # NFC goes before other forms, as in `open`
                found[name] = FileEntry(name, size)
        return [found[name] for name in sorted(found)]

    def open(self, name: str) -> Download:
        """A file to be sent. Raises StoreRefused: NAME, NOT_FOUND."""
        self._check_name(name)
        try:
            fd = open_regular(self.path_of(name), os.O_RDONLY | os.O_NOFOLLOW)
        except (LocalTunnelError, OSError) as error:
            raise StoreRefused(FileStatus.NOT_FOUND) from error
        return Download(self, name, fd)

    def offered(self, name: str, size: int, digest: bytes) -> int:
        """How much of a file is here already, which somebody wants to store, if he may.

        Raises:
            StoreRefused: NAME, FULL.
        """
        with self._lock:
            self._check_name(name)
            self._make_folder()
            here = self._part_bytes(digest)
            self._make_room(digest, size)
            self._try_name(name)
            return min(here, size)

    def _try_name(self, name: str) -> None:
        """Find out before the content comes whether the folder takes a file of this name.

        Some file systems have no ":" or "?", or shorter names; and the folder may be read-only.

        Raises:
            StoreRefused: NAME. OSError: it takes no file at all.
        """
        beginning = name.encode("utf-8")[:_TRIAL_BYTES].decode("utf-8", "ignore")
        trial = self.folder / f".{beginning}.trial.part"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.lstat(self.path_of(name))
                return
            os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            os.unlink(trial)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG):
                raise StoreRefused(FileStatus.NAME) from error
            raise

    def begin(self, name: str, size: int, digest: bytes, offset: int) -> Upload:
        """Store a file, from `offset` on; who stores the same content and has stalled is put off, and who
        has for long where all places are taken.

        Raises:
            StoreRefused: NAME, FULL, CHANGED (there is less than `offset` here), BUSY.
        """
        with self._lock:
            self._check_name(name)
            self._make_folder()
            before = self._uploads.get(digest)
            if before is not None and before.is_stalled:
                before.close()
            if len(self._uploads) >= self.settings.uploads:
                self._close_idle()
            if digest in self._uploads or len(self._uploads) >= self.settings.uploads:
                raise StoreRefused(FileStatus.BUSY)
            if self._part_bytes(digest) < offset:
                raise StoreRefused(FileStatus.CHANGED)
            self._make_room(digest, size)
            upload = Upload(self, name, size, digest, offset)
            self._uploads[digest] = upload
            return upload

    def path_of(self, name: str) -> Path:
        """Where the file of this name is, or is to be: it may lie there in another normal form than NFC."""
        path = self.folder / name
        if not name.isascii() and not os.path.lexists(path):
            path = self.folder / next((held for held, _, _ in self._scan() if _wire_name(held) == name), name)
        return path

    def part_path(self, digest: bytes) -> Path:
        """Where content of this digest is while it is not whole."""
        return self.folder / f".{digest.hex()}.part"

    def forget(self, digest: bytes, token: object) -> None:
        """An upload has ended. Called with or without the lock, in any thread."""
        upload = self._uploads.get(digest)
        if upload is not None and upload.token is token:
            self._uploads.pop(digest, None)

    def known_digest(self, name: str, found: os.stat_result) -> bytes | None:
        """The digest of a file that has not changed since it was hashed."""
        key, digest = self._digests.get(name, (None, None))
        return digest if key == Identity.of(found) else None

    def remember_digest(self, name: str, found: os.stat_result, digest: bytes) -> None:
        """A file was hashed, or stored."""
        if len(self._digests) >= self.settings.files:
            self._digests.clear()
        self._digests[name] = (Identity.of(found), digest)

    def _current(self) -> list[Upload]:
        # The references all at once: other threads `forget` meanwhile.
        return [upload for each in self._uploads.valuerefs() if (upload := each()) is not None]

    def _close_idle(self) -> None:
        """The upload on which nothing has moved for longest, where that is too long."""
        longest = max(self._current(), key=lambda upload: upload.still_s, default=None)
        if longest is not None and longest.still_s > _IDLE_S:
            longest.close()

    def _check_name(self, name: str) -> None:
        if not self._is_allowed(name):
            raise StoreRefused(FileStatus.NAME)

    def _is_allowed(self, name: str) -> bool:
        allowed = self.settings.is_name_allowed
        try:
            os.fsencode(name)  # in the C locale of old systems the disk takes fewer letters than the wire
        except UnicodeEncodeError:
            return False
        return _wire_name(name) == name and (allowed is None or allowed(name))

    def _make_folder(self) -> None:
        """Again, where somebody has removed it while it is served."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            log.error("files: the folder %s was removed while it is served; it is made again", self.folder)

    def _part_bytes(self, digest: bytes) -> int:
        path = self.part_path(digest)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return 0
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EEXIST, f"expected a regular file, found {kind_of(found.st_mode)}", str(path))
        if found.st_nlink > 1 and digest not in self._uploads:
            # A crash came between giving it its name and taking this one: to write here would change the
            # whole file.
            os.unlink(path)
            return 0
        return found.st_size

    def _make_room(self, digest: bytes, size: int) -> None:
        """Room for a file of this digest, by removing parts that nobody writes. Raises StoreRefused: FULL."""
        settings = self.settings
        found = self._scan()
        uploads = self._current()
        count = sum(1 for name, _, _ in found if not _PART.fullmatch(name)) + len(uploads)
        if size > settings.file_bytes or count >= settings.files:
            raise StoreRefused(FileStatus.FULL)
        own = {self.part_path(other).name for other in (*(upload.digest for upload in uploads), digest)}
        # What is being stored counts with the size that it will have.
        used = sum(bytes_ for name, bytes_, _ in found if name not in own)
        used += sum(upload.whole_bytes for upload in uploads if upload.digest != digest)
        idle = sorted(
            (changed_s, bytes_, name)
            for name, bytes_, changed_s in found
            if _PART.fullmatch(name) and name not in own
        )
        oldest_s = time.time() - settings.part_age_s
        for index, (changed_s, bytes_, name) in enumerate(idle):
            # Also the empty ones take room, in the folder and in each look at it.
            is_one_too_many = count + len(idle) - index >= settings.files
            if changed_s < oldest_s or is_one_too_many or used + size > settings.quota_bytes:
                os.unlink(self.folder / name)
                used -= bytes_
        if used + size > settings.quota_bytes:
            raise StoreRefused(FileStatus.FULL)

    def _scan(self) -> list[tuple[str, int, float]]:
        """(name, bytes, time of change) of the regular files."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    if entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        found.append((entry.name, status.st_size, status.st_mtime))
                except FileNotFoundError:
                    continue  # just removed or renamed
        return found


class Upload:
    """A file that is being stored. Made by `FileStore.begin`.

    Attributes:
        whole_bytes, digest: of the file that is to be.
        token: tells it from another of the same content.
    """

    def __init__(self, store: FileStore, name: str, size: int, digest: bytes, offset: int) -> None:
        self.whole_bytes = size
        self.digest = digest
        self._store = store
        self._name = name
        self._offset = offset
        self._moved_s = time.monotonic()
        self.token = token = object()
        # Not a method of its own: that would keep this object for as long as its file is open.
        self._file = PartialFile(store.part_path(digest), on_closed=lambda: store.forget(digest, token))

    @property
    def still_s(self) -> float:
        """For how long nothing has moved."""
        return time.monotonic() - self._moved_s

    @property
    def is_stalled(self) -> bool:
        """Nothing has moved for a while."""
        return self.still_s > _STALLED_S

    @property
    def missing_bytes(self) -> int:
        """What is still to come."""
        return self.whole_bytes - self._file.size

    def prepare(self) -> bool:
        """Hash a part of what is here already; again until True. Raises StoreRefused: BUSY, put off."""
        return self._checked(lambda: self._file.rehash(self._offset))

    def write(self, data: bytes) -> None:
        """Store what follows. Raises StoreRefused: SIZE, more than was said; BUSY, put off."""
        if len(data) > self.missing_bytes:
            self._file.discard()
            raise StoreRefused(FileStatus.SIZE)
        self._checked(lambda: self._file.write(data))

    def commit(self) -> None:
        """It is whole: give it its name.

        Raises:
            StoreRefused: SIZE: it is not (it is kept, to be resumed); DIGEST: it is thrown away; EXISTS;
            BUSY.
        """
        file, store = self._file, self._store
        if self.missing_bytes:
            raise StoreRefused(FileStatus.SIZE)
        if file.digest != self.digest:
            file.discard()
            raise StoreRefused(FileStatus.DIGEST)
        target = store.path_of(self._name)
        try:
            self._checked(lambda: file.commit(target, replace=store.settings.may_replace))
        except FileExistsError:
            file.discard()
            with store.open(self._name) as other:
                while not other.prepare():
                    pass
                if other.digest != self.digest:
                    raise StoreRefused(FileStatus.EXISTS) from None
        else:
            store.remember_digest(self._name, os.lstat(target), self.digest)

    def discard(self) -> None:
        """Throw it away."""
        self._file.discard()

    def close(self) -> None:
        """Stop here; what came is kept, to be resumed. Never waits."""
        self._file.close()

    def _checked(self, work: Callable[[], T]) -> T:
        self._moved_s = time.monotonic()
        try:
            return work()
        except LocalTunnelError as error:  # closed by who stores the same now
            raise StoreRefused(FileStatus.BUSY) from error


class Download:
    """A file that is being sent, as it was when it was opened. Made by `FileStore.open`; a context.

    A file that grows meanwhile, such as a log, is sent up to the size that it had.

    Attributes:
        size: its bytes.
        digest: once `prepare` has returned True.
    """

    def __init__(self, store: FileStore, name: str, fd: int) -> None:
        self.digest = b""
        self._store = store
        self._name = name
        self._file = ThreadFile(fd)
        self._stat = os.fstat(fd)
        self._place = 0
        self.size = self._stat.st_size
        self._sha256 = hashlib.sha256()

    def prepare(self) -> bool:
        """Hash a part of it, unless its digest is known; again until True, then from `start` on.

        Raises:
            StoreRefused: CHANGED: it was cut or rewritten meanwhile.
        """
        known = self._store.known_digest(self._name, self._stat)
        if known is None:
            if self._place < self.size:
                data = self.read(BLOCK_BYTES)
                if not data:
                    raise StoreRefused(FileStatus.CHANGED)
                self._sha256.update(data)
                return False
            known = self._sha256.digest()
            self._store.remember_digest(self._name, self._stat, known)
        self.digest = known
        return True

    def start(self, offset: int) -> None:
        """Read from here on."""
        self._place = offset

    def read(self, limit_bytes: int) -> bytes:
        """The next bytes; b"" at the end, and where the file was cut or rewritten since it was opened."""
        with self._file.using() as fd:
            data = os.pread(fd, min(limit_bytes, self.size - self._place), self._place)
            found = os.fstat(fd)
        # What only grew holds what it held.
        if found.st_size <= self.size and Identity.of(found) != Identity.of(self._stat):
            return b""
        self._place += len(data)
        return data

    def close(self) -> None:
        """Close it. Never waits."""
        self._file.close()

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _wire_name(disk_name: str) -> str | None:
    """The name on the wire of a file in the folder; None: it has none."""
    return file_name(unicodedata.normalize("NFC", disk_name).encode("utf-8", "surrogateescape"))


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
