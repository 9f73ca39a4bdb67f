"""The files service: put, get and list files of one folder, with resumption and digests.

    Files       answers a request (`file_requests.py`); threads do the disk work
    FileStore   the folder: names, limits, and uploads in progress
    Upload      a file that is being stored
    Download    a file that is being sent

The store blocks and runs in threads; only `close` may be called by the reactor's thread, at any time. Nothing
outside the folder is touched: names are checked, links are not followed, and only regular files count. Only
one process at a time may store files in a folder.

An upload is written to `.<digest>.part` and renamed when its digest matches, so a file is never visible in
part. An interrupted upload of the same content resumes under any name, and content that another peer sent
for it cannot enter a file, because the digest would not match. Idle parts are removed when they are old or,
oldest first, when their space is needed. Layouts: docs/services.md, "Files".
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
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from reactor import RunInThread, Service
from tunnel.arguments import check_fields, checked_bytes, setting
from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.disk import Identity, kind_of, open_regular
from tunnel.errors import LocalTunnelError, TargetNotAllowed
from tunnel.identity.client_key import CLIENT_KEY_BYTES, Claim
from tunnel.services.base import InnerService, PieceReader, Query, Reply
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

__all__ = [
    "BATCH_BYTES",
    "Download",
    "FileStore",
    "Files",
    "FilesSettings",
    "StoreRefused",
    "Upload",
    "until_done",
]

T = TypeVar("T")
log = logging.getLogger("tunnel.services")

BATCH_BYTES: Final = 256 * 1024
"""Read or written in one thread call: a call costs about 0.1 ms, this much content 2 ms on a fast link."""
STALLED_S: Final = 2.0
"""An upload without progress for this time gives way to another of the same content: its sender may have
reconnected over another route."""
_IDLE_S: Final = 60.0
"""At the limit of uploads, one without progress for this time gives way to any other, so that idle uploads
cannot block the service."""
_PART_AGE_S: Final = 86_400.0  # of an interrupted upload; a day covers a laptop that was closed
_TRIAL_BYTES: Final = 200
_PART: Final = re.compile(r"\.[0-9a-f]{64}\.part")


@dataclass(frozen=True, slots=True)
class FilesSettings:
    """The permissions and limits of a files service.

    Attributes:
        read, write, list: who may fetch, store and list files: public client keys, 32 bytes each
            (`ClientKey.public`; of a shared secret, `ClientKey.of_secret`). None: everybody. Empty: nobody.
        is_name_allowed: a rule for names beside those of `tunnel.services.names`.
        uploads: at the same time; each holds an open file.
    Raises:
        BadArgument: a number out of range, or a key of another length. TypeError: a wrong type.
    """

    quota_bytes: int = setting(
        1 << 30, "Total size of the folder, including the received parts of unfinished uploads.", "bytes"
    )
    files: int = setting(10_000, "Number of complete files, and of remembered digests.")
    file_bytes: int = setting(1 << 30, "Size of the largest file.", "bytes")
    may_replace: bool = setting(
        False,
        "Whether an upload may replace a file with the same name but different content.",
    )
    is_name_allowed: Callable[[str], bool] | None = None
    uploads: int = 16
    read: Collection[bytes] | None = None
    write: Collection[bytes] | None = None
    list: Collection[bytes] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for right in ("read", "write", "list"):
            if (clients := getattr(self, right)) is not None:
                keys = frozenset(checked_bytes(key, right, CLIENT_KEY_BYTES) for key in clients)
                object.__setattr__(self, right, keys)

    def clients_of(self, operation: Operation) -> Collection[bytes] | None:
        """Who may do it: public keys; None: everybody."""
        match operation:
            case Operation.PUT | Operation.OFFER:
                return self.write
            case Operation.GET:
                return self.read
            case Operation.LIST:
                return self.list


class StoreRefused(Exception):
    """The store refuses a request for the reason `status`, which the files service sends as its reply."""

    def __init__(self, status: FileStatus) -> None:
        super().__init__(status.name)
        self.status = status


class Files(InnerService):
    """Serves the files of one folder.

    Args:
        folder: for these files only; created if it does not exist.
        settings: without them everybody may read, write and list.
        engine: checks the clients' signatures; by default the preferred one.
    Raises:
        OSError: the folder cannot be created.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: FilesSettings | None = None,
        *,
        engine: TunnelEngine | None = None,
    ) -> None:
        self._store = FileStore(Path(folder), settings)
        self._engine = engine or tunnel_engine()
        self._logged: set[tuple[Operation, str]] = set()  # failures of the disk, until one works

    def handle(self, query: Query, reply: Reply) -> Generator[Any, Any, None]:
        """Serve one request. A refusal is a reply with its status; the query itself succeeds."""
        reader = PieceReader(query.read)
        head = yield from reader.exactly(REQUEST_HEAD_BYTES)
        name = yield from reader.exactly(FileRequest.name_bytes(head))
        request = FileRequest.unpack(head + name)
        try:
            yield from self._check_allowed(request.operation, query.claim)
            yield from self._serve(request, reader, reply)
            self._logged = {each for each in self._logged if each[0] is not request.operation}
        except StoreRefused as refused:
            yield from reply.write(FileReply(refused.status).pack())
        except OSError as error:
            # The error's own path contains the name that the peer chose, so it is logged at DEBUG only.
            reason, folder = error.strerror or type(error).__name__, self._store.folder
            # Once for each kind until it works again: a peer may ask as often as it likes.
            if (request.operation, reason) not in self._logged:
                self._logged.add((request.operation, reason))
                log.error("files: %s failed: %s (in the folder %s)", request.operation.name, reason, folder)
            log.debug("files: %s", error)
            yield from reply.write(FileReply(FileStatus.DISK).pack())

    def _check_allowed(self, operation: Operation, claim: Claim) -> Service[None]:
        """Check the client before the folder is read, so that a refused client does not learn which files
        exist.

        Raises:
            StoreRefused: DENIED.
        """
        clients = self._store.settings.clients_of(operation)
        if clients is not None:
            try:
                yield RunInThread(partial(claim.check, self._engine, clients))
            except TargetNotAllowed as error:
                raise StoreRefused(FileStatus.DENIED) from error

    def _serve(self, request: FileRequest, reader: PieceReader, reply: Reply) -> Service[None]:
        match request.operation:
            case Operation.PUT:
                yield from self._put(request, reader, reply)
            case Operation.OFFER:
                yield from self._offer(request, reply)
            case Operation.GET:
                yield from self._get(request, reply)
            case Operation.LIST:
                yield from self._list(request, reply)

    def _put(self, request: FileRequest, reader: PieceReader, reply: Reply) -> Service[None]:
        store = self._store
        name, size, digest = request.name, request.size, request.digest
        upload: Upload = yield RunInThread(partial(store.begin, name, size, digest, request.offset))
        try:
            yield from until_done(upload.prepare)
            batch = reader.batches(BATCH_BYTES)
            while data := (yield from batch()):
                yield RunInThread(upload.write, data)
            yield RunInThread(upload.commit)
        except OSError:
            upload.discard()  # parts of files must not keep a full disk full
            raise
        finally:
            upload.close()
        yield from reply.write(FileReply(FileStatus.OK, size, size, digest).pack())

    def _offer(self, request: FileRequest, reply: Reply) -> Service[None]:
        name, size, digest = request.name, request.size, request.digest
        status = FileStatus.OK
        held_bytes = yield RunInThread(self._store.offered, name, size, digest)
        stored = yield from self._digest_of(name)
        if stored == digest:
            status, held_bytes = FileStatus.STORED, size
        elif stored is not None and not self._store.settings.may_replace:
            raise StoreRefused(FileStatus.EXISTS)
        yield from reply.write(FileReply(status, size, held_bytes, digest).pack())

    def _digest_of(self, name: str) -> Service[bytes | None]:
        """The digest of a stored file; None: no such file."""
        try:
            download: Download = yield RunInThread(self._store.open, name)
        except StoreRefused:
            return None
        with download:
            yield from until_done(download.prepare)
            return download.digest

    def _get(self, request: FileRequest, reply: Reply) -> Service[None]:
        download: Download = yield RunInThread(self._store.open, request.name)
        with download:
            yield from until_done(download.prepare)
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


def until_done(step: Callable[[], bool]) -> Service[None]:
    """Call a blocking function in a thread until it returns True; other calls run in between."""
    while not (yield RunInThread(step)):
        pass


class _Found(NamedTuple):
    """A regular file of the folder. Attributes: changed_s: its time of change, by the wall clock."""

    name: str
    size: int
    changed_s: float


class FileStore:
    """The folder of a files service.

    Args:
        folder: created if it does not exist.
        now_s: for uploads that stall. wall_clock: for the age of unfinished files.
    Raises:
        OSError: from each method: the disk failed.
    """

    def __init__(
        self,
        folder: Path,
        settings: FilesSettings | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.now_s = now_s
        self._wall_clock = wall_clock
        self.settings = settings or FilesSettings()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        # Weak: an upload that began for a service cancelled meanwhile has no owner.
        self._uploads: weakref.WeakValueDictionary[bytes, Upload] = weakref.WeakValueDictionary()
        self._digests: dict[str, tuple[Identity, bytes]] = {}  # of hashed files, by name
        # On the disk, with what uploads are about to write; None: look at the disk again.
        self._used_bytes: int | None = None

    def entries(self, after: str = "") -> list[FileEntry]:
        """The complete files after this name, in order. Names that cannot be sent are omitted."""
        found: dict[str, FileEntry] = {}
        for disk_name, size, _ in self._scan():
            name = _wire_name(disk_name)
            if name is None or name <= after or not self._is_allowed(name):
                continue
            if name == disk_name or name not in found:  # NFC precedes other forms, as in `open`
                found[name] = FileEntry(name, size)
        return [found[name] for name in sorted(found)]

    def open(self, name: str) -> Download:
        """Open a file to be sent. Raises StoreRefused: NAME, NOT_FOUND."""
        self._check_name(name)
        try:
            fd = open_regular(self.path_of(name), os.O_RDONLY | os.O_NOFOLLOW)
        except (LocalTunnelError, OSError) as error:
            raise StoreRefused(FileStatus.NOT_FOUND) from error
        return Download(self, name, fd)

    def offered(self, name: str, size: int, digest: bytes) -> int:
        """The number of stored bytes of an offered file, if it may be stored.

        Raises:
            StoreRefused: NAME, FULL.
        """
        with self._lock:
            self._check_name(name)
            self._make_folder()
            held_bytes = self._part_bytes(digest)
            self._check_room(digest, size, self._scan())
            self._try_name(name)
            return min(held_bytes, size)

    def _try_name(self, name: str) -> None:
        """Check before the content is sent that the folder accepts a file of this name.

        Some file systems do not allow ":" or "?", or have shorter names; the folder may be read-only.

        Raises:
            StoreRefused: NAME. OSError: the folder accepts no files.
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
        """Begin to store a file, from `offset` on.

        Closes an upload of the same content that has stalled, and at the limit of uploads the longest idle.

        Raises:
            StoreRefused: NAME, FULL, CHANGED (fewer than `offset` bytes are here), BUSY.
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
            held_bytes = self._part_bytes(digest)
            if held_bytes < offset:
                raise StoreRefused(FileStatus.CHANGED)
            found = self._scan()
            self._check_room(digest, size, found)
            self._remove_old_parts(digest, found)
            upload = Upload(self, name, size, digest, offset)
            upload.held_bytes = held_bytes
            self._uploads[digest] = upload
            self._used_bytes = None
            return upload

    def path_of(self, name: str) -> Path:
        """The path of a file, stored or not. On the disk the name may have another normal form than NFC."""
        path = self.folder / name
        if not name.isascii() and not os.path.lexists(path):
            path = self.folder / next((held for held, _, _ in self._scan() if _wire_name(held) == name), name)
        return path

    def part_path(self, digest: bytes) -> Path:
        """The path of content with this digest while it is incomplete."""
        return self.folder / f".{digest.hex()}.part"

    def forget(self, digest: bytes, token: object) -> None:
        """An upload has ended. Called with or without the lock, in any thread."""
        upload = self._uploads.get(digest)
        if upload is not None and upload.token is token:
            self._uploads.pop(digest, None)
            self._used_bytes = None

    def known_digest(self, name: str, found: os.stat_result) -> bytes | None:
        """The digest of a file that is unchanged since it was hashed; None: unknown."""
        key, digest = self._digests.get(name, (None, None))
        return digest if key == Identity.of(found) else None

    def remember_digest(self, name: str, found: os.stat_result, digest: bytes) -> None:
        """Keep the digest of a file that was hashed or stored."""
        if len(self._digests) >= self.settings.files:
            self._digests.clear()
        self._digests[name] = (Identity.of(found), digest)

    def _current(self) -> list[Upload]:
        # All references in one call: other threads call `forget` meanwhile.
        return [upload for each in self._uploads.valuerefs() if (upload := each()) is not None]

    def _close_idle(self) -> None:
        """Close the longest idle upload, if it has been idle for `_IDLE_S`."""
        longest = max(self._current(), key=lambda upload: upload.idle_s, default=None)
        if longest is not None and longest.idle_s > _IDLE_S:
            longest.close()

    def _check_name(self, name: str) -> None:
        if not self._is_allowed(name):
            raise StoreRefused(FileStatus.NAME)

    def _is_allowed(self, name: str) -> bool:
        allowed = self.settings.is_name_allowed
        try:
            os.fsencode(name)  # in the C locale of old systems the disk has fewer characters than the wire
        except UnicodeEncodeError:
            return False
        return _wire_name(name) == name and (allowed is None or allowed(name))

    def _make_folder(self) -> None:
        """Create the folder again if it was removed while it is served."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            log.error("files: the folder %s was removed while it is served; created it again", self.folder)

    def _part_bytes(self, digest: bytes) -> int:
        path = self.part_path(digest)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return 0
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EEXIST, f"expected a regular file, found {kind_of(found.st_mode)}", str(path))
        if found.st_nlink > 1 and digest not in self._uploads:
            # After a crash between the two steps of the rename the complete file has both names; writing to
            # the part would change it.
            os.unlink(path)
            return 0
        return found.st_size

    def take_room(self, upload: Upload, held_bytes: int) -> None:
        """Before an upload writes: count the bytes that it will then hold.

        Only received bytes are counted, because an announced size must not take room from others. Received
        bytes displace idle parts, the oldest first. To remove another peer's part, a peer must therefore send
        as many bytes as that part holds.

        Raises:
            StoreRefused: FULL.
        """
        with self._lock:
            more = held_bytes - upload.held_bytes
            used = self._used_bytes
            if used is None or used + more > self.settings.quota_bytes:
                used = self._remove_parts(more)
            upload.held_bytes += more
            self._used_bytes = used + more

    def _check_room(self, digest: bytes, size: int, found: list[_Found]) -> None:
        """Refuse a file for which there is no room even without idle parts. Raises StoreRefused: FULL."""
        settings, uploads = self.settings, self._current()
        files = [each for each in found if not _PART.fullmatch(each.name)]
        used = sum(each.size for each in files)
        used += sum(upload.held_bytes for upload in uploads if upload.digest != digest)
        is_full = len(files) + len(uploads) >= settings.files or used + size > settings.quota_bytes
        if is_full or size > settings.file_bytes:
            raise StoreRefused(FileStatus.FULL)

    def _remove_old_parts(self, digest: bytes, found: list[_Found]) -> None:
        """Remove idle parts that are too old, and those that exceed the number of files, empty ones first."""
        oldest_s = self._wall_clock() - _PART_AGE_S
        idle = sorted(self._idle_parts(found, digest), key=lambda part: (part.size > 0, part.changed_s))
        left = len(found) - self.settings.files + 1
        for part in idle:
            if part.changed_s < oldest_s or left > 0:
                os.unlink(self.folder / part.name)
                left -= 1

    def _remove_parts(self, more: int) -> int:
        """Remove idle parts until `more` bytes fit; returns the bytes in use. Raises StoreRefused: FULL."""
        found, uploads = self._scan(), self._current()
        writing = {self.part_path(upload.digest).name for upload in uploads}
        used = sum(each.size for each in found if each.name not in writing)
        used += sum(upload.held_bytes for upload in uploads)
        for part in sorted(self._idle_parts(found), key=lambda part: part.changed_s):
            if used + more <= self.settings.quota_bytes:
                break
            os.unlink(self.folder / part.name)
            used -= part.size
        if used + more > self.settings.quota_bytes:
            raise StoreRefused(FileStatus.FULL)
        return used

    def _idle_parts(self, found: list[_Found], *wanted: bytes) -> list[_Found]:
        """The parts that no upload writes, except those of the `wanted` digests."""
        digests = (*wanted, *(upload.digest for upload in self._current()))
        in_use = {self.part_path(digest).name for digest in digests}
        return [each for each in found if _PART.fullmatch(each.name) and each.name not in in_use]

    def _scan(self) -> list[_Found]:
        """All regular files, complete or not."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    if entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        found.append(_Found(entry.name, status.st_size, status.st_mtime))
                except FileNotFoundError:
                    continue  # just removed or renamed
        return found


class Upload:
    """A file that is being stored. Made by `FileStore.begin`.

    Attributes:
        whole_bytes, digest: of the complete file.
        held_bytes: of its part on the disk, with what it is about to write; the store counts them.
        token: distinguishes it from a later upload of the same content.
    """

    def __init__(self, store: FileStore, name: str, size: int, digest: bytes, offset: int) -> None:
        self.whole_bytes = size
        self.digest = digest
        self.held_bytes = 0
        self._store = store
        self.name = name
        self._offset = offset
        self._moved_s = store.now_s()
        self.token = token = object()
        # Not a bound method: it would keep this object alive as long as its file is open.
        self.file = PartialFile(store.part_path(digest), on_closed=lambda: store.forget(digest, token))

    @property
    def idle_s(self) -> float:
        """Seconds without progress."""
        return self._store.now_s() - self._moved_s

    @property
    def is_stalled(self) -> bool:
        """Whether another upload of the same content may replace this one."""
        return self.idle_s > STALLED_S

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be received."""
        return self.whole_bytes - self.file.size

    def prepare(self) -> bool:
        """Hash the next block of the stored part; True: all is hashed. Raises StoreRefused: BUSY."""
        return self._checked(lambda: self.file.rehash(self._offset))

    def write(self, data: bytes) -> None:
        """Store the next bytes. Raises StoreRefused: SIZE (more than announced), FULL, BUSY."""
        if len(data) > self.missing_bytes:
            self.file.discard()
            raise StoreRefused(FileStatus.SIZE)
        self._store.take_room(self, max(self.held_bytes, self.file.size + len(data)))
        self._checked(lambda: self.file.write(data))

    def commit(self) -> None:
        """Give the complete file its name.

        Raises:
            StoreRefused: SIZE: bytes are missing (the part is kept for resumption); DIGEST: the content does
            not match (the part is removed); EXISTS; BUSY.
        """
        file, store = self.file, self._store
        if self.missing_bytes:
            raise StoreRefused(FileStatus.SIZE)
        if file.digest != self.digest:
            file.discard()
            raise StoreRefused(FileStatus.DIGEST)
        target = store.path_of(self.name)
        try:
            self._checked(lambda: file.commit(target, replace=store.settings.may_replace))
        except FileExistsError:
            file.discard()
            with store.open(self.name) as other:
                while not other.prepare():
                    pass
                if other.digest != self.digest:
                    raise StoreRefused(FileStatus.EXISTS) from None
        else:
            store.remember_digest(self.name, os.lstat(target), self.digest)

    def discard(self) -> None:
        """Remove the stored part."""
        self.file.discard()

    def close(self) -> None:
        """Stop; the received part is kept for resumption. Never waits."""
        self.file.close()

    def _checked(self, work: Callable[[], T]) -> T:
        self._moved_s = self._store.now_s()
        try:
            return work()
        except LocalTunnelError as error:  # closed in favour of another upload
            raise StoreRefused(FileStatus.BUSY) from error


class Download:
    """A file that is being sent, as it was when it was opened. Made by `FileStore.open`; a context manager.

    A file that grows meanwhile, such as a log, is sent up to its size at that time.

    Attributes:
        size: in bytes.
        digest: valid when `prepare` has returned True.
    """

    def __init__(self, store: FileStore, name: str, fd: int) -> None:
        self.digest = b""
        self._store = store
        self.name = name
        self.file = ThreadFile(fd)
        self._stat = os.fstat(fd)
        self._place = 0
        self.size = self._stat.st_size
        self._sha256 = hashlib.sha256()

    def prepare(self) -> bool:
        """Hash the next block, unless the digest is known; True: done, `start` may be called.

        Raises:
            StoreRefused: CHANGED: the file was cut or rewritten meanwhile.
        """
        known = self._store.known_digest(self.name, self._stat)
        if known is None:
            if self._place < self.size:
                data = self.read(BLOCK_BYTES)
                if not data:
                    raise StoreRefused(FileStatus.CHANGED)
                self._sha256.update(data)
                return False
            known = self._sha256.digest()
            self._store.remember_digest(self.name, self._stat, known)
        self.digest = known
        return True

    def start(self, offset: int) -> None:
        """Read from `offset` on."""
        self._place = offset

    def read(self, limit_bytes: int) -> bytes:
        """The next bytes; b"" at the end, and if the file was cut or rewritten since it was opened."""
        with self.file.using() as fd:
            data = os.pread(fd, min(limit_bytes, self.size - self._place), self._place)
            found = os.fstat(fd)
        # A file that has only grown still begins with the same content.
        if found.st_size <= self.size and Identity.of(found) != Identity.of(self._stat):
            return b""
        self._place += len(data)
        return data

    def close(self) -> None:
        """Close the file. Never waits."""
        self.file.close()

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _wire_name(disk_name: str) -> str | None:
    """The name on the wire of a file in the folder; None: the name has no form on the wire."""
    return file_name(unicodedata.normalize("NFC", disk_name).encode("utf-8", "surrogateescape"))
