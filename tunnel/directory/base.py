"""What a directory is to the rest: four methods, none of which waits for anything.

A directory that asks others does so in the background; `lookup` and `sample` answer from what is here, so
that no route and no relayed frame ever waits for somebody's answer, and nobody sees by whom a node is asked
for. All four may be called from any thread.
"""

from __future__ import annotations

import base64
import logging
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

from tunnel.crypto.primitives import TunnelEngine
from tunnel.disk import naming, read_regular
from tunnel.errors import DescriptorError, KeyFileError, LocalTunnelError
from tunnel.identity.descriptor import Descriptor

__all__ = ["Directory", "PeerFiles", "StaticDirectory", "list_peer_files", "write_descriptor"]


class Directory(Protocol):
    """Descriptors by node id."""

    def publish(self, descriptor: Descriptor) -> None:
        """Add a verified descriptor that this node vouches for: its own, or one that its user gave it. Of two
        of one node the higher sequence number holds; of equals the later one."""

    def lookup(self, node_id: bytes) -> Descriptor | None:
        """The descriptor of a node, or None when it is not known here."""

    def sample(self, count: int | None = None) -> list[Descriptor]:
        """Up to `count` descriptors of different nodes, drawn uniformly with the system's generator; by
        default all that are known, in any order."""

    def close(self) -> None:
        """End what runs in the background. What is known stays readable. Idempotent."""


# The peer list from a static file: one descriptor a line, in base64, each verified when it is read.
#
# Lines that begin with # are comments. Of two descriptors of one node the higher sequence number wins.
_RANDOM = random.SystemRandom()


class StaticDirectory:
    """Descriptors by node id.

    Args:
        descriptors: verified ones (made here, or by `Descriptor.parse`).
    """

    def __init__(self, descriptors: Iterable[Descriptor] = ()) -> None:
        self._by_id: dict[bytes, Descriptor] = {}
        for descriptor in descriptors:
            self.publish(descriptor)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Descriptor]:
        # A snapshot: routes are drawn in the caller's thread, while the reactor's may publish.
        return iter(list(self._by_id.values()))

    def publish(self, descriptor: Descriptor) -> None:
        """Add a verified descriptor, unless a newer one of the same node is here."""
        known = self._by_id.get(descriptor.node_id)
        if known is None or descriptor.sequence >= known.sequence:
            self._by_id[descriptor.node_id] = descriptor

    def forget(self, node_id: bytes) -> None:
        """Remove a node, if it is here."""
        self._by_id.pop(node_id, None)

    def lookup(self, node_id: bytes) -> Descriptor | None:
        """The descriptor of a node, or None when it is not known."""
        return self._by_id.get(node_id)

    def sample(self, count: int | None = None) -> list[Descriptor]:
        """Up to `count` descriptors, drawn uniformly; by default all."""
        every = list(self)
        return every if count is None or count >= len(every) else _RANDOM.sample(every, count)

    def close(self) -> None:
        """Nothing runs in the background."""

    def save(self, path: Path) -> None:
        """Write all descriptors to `path`."""
        lines = [base64.b64encode(descriptor.signed).decode("ascii") for descriptor in self]
        path.write_text(
            "# mtun peers, one signed descriptor a line\n" + "\n".join(lines) + "\n", encoding="ascii"
        )

    @classmethod
    def load(
        cls, path: Path, engine: TunnelEngine, *, on_bad_line: Callable[[str], object] | None = None
    ) -> StaticDirectory:
        """Read what `save` wrote and verify each signature.

        Args:
            on_bad_line: called for each line that is no descriptor, with a text that names file and line; the
                line is then left out. None: the first one is an error.
        Raises:
            KeyFileError: unreadable, or a line that is no descriptor; names file and line.
        """
        try:
            # Some editors write a byte order mark. Bytes that are no text fail below, with their line.
            lines = read_regular(path).decode("utf-8-sig", "replace").splitlines()
        except (OSError, LocalTunnelError) as error:
            raise KeyFileError(f"{path} is not a peer file: {error}") from error
        directory = cls()
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                directory.publish(Descriptor.parse(base64.b64decode(line, validate=True), engine))
            except (ValueError, DescriptorError) as error:  # ValueError: of base64
                reason = error if isinstance(error, DescriptorError) else "it is not base64"
                text = f"{path}, line {number}: not a descriptor: {reason}"
                if on_bad_line is None:
                    raise KeyFileError(text) from error
                on_bad_line(text)
        return directory


# A directory kept in files that may change: those of other nodes are read again, this node's own is
# written.
#
# Each node of a network on one machine writes its descriptor to a file of its own in one shared folder, so
# no file needs a lock. One damaged file must not stop all nodes that read the folder: lines that are no
# descriptors, files that cannot be read and the copies that editors make are skipped, with one warning for
# each file when it is first seen and when it changes. Only where nothing at all can be read is that an
# error.
_Mark: TypeAlias = tuple[int, int, int]
log = logging.getLogger("tunnel.directory")
_COPY = re.compile(
    r"#.*|.*(~|#|\.(bak|old|orig|rej|save|sav|swp|swo|swx|tmp|temp|new|part|dpkg-\w+|rpm\w+))", re.I
)


def list_peer_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files themselves: for a folder those in it, by name, without hidden files and editors' copies."""
    for path in paths:
        if path.is_dir():
            yield from (entry for entry in _entries(path) if not _COPY.fullmatch(entry.name))
        else:
            yield path


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))


def write_descriptor(path: Path, descriptor: Descriptor) -> None:
    """Write one descriptor as a peer file of its own, whole or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    # The folder may be shared: what somebody has put there is not followed, and not written to.
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    with naming(path):
        StaticDirectory([descriptor]).save(temporary)
    temporary.replace(path)


class PeerFiles:
    """Keeps a directory like its files.

    Args:
        directory: filled from the files.
        paths: files, and folders of files.
    """

    def __init__(self, directory: Directory, paths: Iterable[Path], engine: TunnelEngine) -> None:
        self._directory = directory
        self._paths = tuple(paths)
        self._engine = engine
        self._seen: dict[Path, _Mark | None] = {}
        self._warned: dict[Path, str] = {}
        self._news: list[str] = []

    def load(self) -> None:
        """Read all of them.

        Raises:
            KeyFileError: nothing in them can be read; names a file and line.
        """
        count = 0
        for path in self._listed():
            for descriptor in self._load(path):
                self._directory.publish(descriptor)
                count += 1
        if self._news and not count:
            error = KeyFileError(f"no peer can be read: {self._news[0]}")
            error.add_note("a peer file has the descriptors that nodes publish ([peers] publish), one a line")
            raise error
        self._warn()

    def refresh(self) -> list[Descriptor]:
        """Read those that have changed since. Blocks on the disk: for a thread.

        Returns:
            What they hold, to be published where the directory lives.
        """
        found: list[Descriptor] = []
        for path in self._listed():
            mark = _mark(path)
            if mark is None or self._seen.get(path) != mark:
                found += self._load(path)
        self._warn()
        return found

    def _listed(self) -> Iterator[Path]:
        for path in self._paths:
            try:
                listed = list(list_peer_files([path]))
                copies = [] if listed == [path] else [e for e in _entries(path) if e not in listed]
            except OSError as error:  # no rights any more, no more open files, …
                self._note(path, f"{path}: {error.strerror}")
                continue
            for copy in copies:
                if copy not in self._seen:
                    self._seen[copy] = None
                    log.warning("%s looks like the copy that an editor makes, and is skipped", copy)
            yield from listed

    def _load(self, path: Path) -> Iterable[Descriptor]:
        # Before it is read: what changes meanwhile is read once more.
        self._seen[path] = _mark(path)
        bad: list[str] = []
        try:
            found = StaticDirectory.load(path, self._engine, on_bad_line=bad.append)
        except KeyFileError as error:
            self._note(path, str(error))
            return ()
        if bad:
            more = len(bad) - 1
            also = f", and {more} more {'line' if more == 1 else 'lines'}" if more else ""
            self._note(path, f"{bad[0]}{also}")
        return found

    def _note(self, path: Path, text: str) -> None:
        """Say once what is wrong with a file, and again when that changes."""
        if self._warned.get(path) != text:
            self._warned[path] = text
            self._news.append(text)

    def _warn(self) -> None:
        for text in self._news:
            log.warning("peers are skipped: %s", text)
        self._news.clear()


def _mark(path: Path) -> _Mark | None:
    """What changes when a file does; None: it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
