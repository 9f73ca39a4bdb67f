"""The interface of a directory, the directory of a file, and peer files that are kept in step with one.

A directory has four methods, which any thread may call and which never wait. `lookup` and `sample` use cached
descriptors, and fetching runs in the background. So no route and no relayed frame waits for another node, and
other nodes do not learn when a route is drawn.
"""

from __future__ import annotations

import base64
import logging
import os
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

from tunnel.crypto.primitives import TunnelEngine, tunnel_engine
from tunnel.disk import naming, read_regular
from tunnel.errors import DescriptorError, KeyFileError, LocalTunnelError
from tunnel.identity.descriptor import Descriptor

__all__ = [
    "Directory",
    "PeerFiles",
    "StaticDirectory",
    "ids_by_name",
    "list_peer_files",
    "write_descriptor",
]


class Directory(Protocol):
    """Descriptors by node id."""

    def publish(self, descriptor: Descriptor) -> None:
        """Add a verified descriptor that this node trusts: its own, or one that its user configured. The
        highest sequence number of a node wins; of equal numbers the later descriptor."""

    def lookup(self, node_id: bytes) -> Descriptor | None:
        """The descriptor of a node; None: unknown."""

    def sample(self, count: int | None = None) -> list[Descriptor]:
        """Up to `count` descriptors of different nodes, drawn uniformly with the system's generator; by
        default all, in any order."""

    def close(self) -> None:
        """Stop the background work. Known descriptors stay readable. Idempotent."""


class StaticDirectory:
    """The descriptors of a file, and no others. One per line, in base64; lines that begin with # are
    comments.

    Args:
        descriptors: verified (made here, or by `Descriptor.parse`). rng: draws samples.
    """

    def __init__(self, descriptors: Iterable[Descriptor] = (), *, rng: random.Random | None = None) -> None:
        self._rng = rng or random.SystemRandom()
        self._by_id: dict[bytes, Descriptor] = {}
        for descriptor in descriptors:
            self.publish(descriptor)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Descriptor]:
        # A snapshot: routes are drawn in the caller's thread, while the reactor's may publish.
        return iter(list(self._by_id.values()))

    def publish(self, descriptor: Descriptor) -> None:
        """Add a verified descriptor, unless a newer one of the same node is known."""
        known = self._by_id.get(descriptor.node_id)
        if known is None or descriptor.sequence >= known.sequence:
            self._by_id[descriptor.node_id] = descriptor

    def forget(self, node_id: bytes) -> None:
        """Remove a node, if it is known."""
        self._by_id.pop(node_id, None)

    def lookup(self, node_id: bytes) -> Descriptor | None:
        """The descriptor of a node; None: unknown."""
        return self._by_id.get(node_id)

    def sample(self, count: int | None = None) -> list[Descriptor]:
        """Up to `count` descriptors, drawn uniformly; by default all."""
        every = list(self)
        return every if count is None or count >= len(every) else self._rng.sample(every, count)

    def close(self) -> None:
        """Does nothing: no background work."""

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
        """Read a file of `save` and verify each signature.

        Args:
            on_bad_line: called for each invalid line, with a text that names file and line; the line is then
                skipped. None: an invalid line is an error.
        Raises:
            KeyFileError: unreadable, or an invalid line; names file and line.
        """
        try:
            # Some editors write a byte order mark. Invalid UTF-8 fails below, with its line.
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


_Mark: TypeAlias = tuple[int, int, int]
log = logging.getLogger("tunnel.directory")
_COPY = re.compile(
    r"#.*|.*(~|#|\.(bak|old|orig|rej|save|sav|swp|swo|swx|tmp|temp|new|part|dpkg-\w+|rpm\w+))", re.I
)


def list_peer_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files of these paths; of a folder its files by name, without hidden files and editors' copies."""
    for path in paths:
        if path.is_dir():
            yield from (entry for entry in _entries(path) if not _COPY.fullmatch(entry.name))
        else:
            yield path


def ids_by_name(
    paths: str | Path | Iterable[str | Path], engine: TunnelEngine | None = None
) -> dict[str, bytes]:
    """The ids of nodes by the names of their peer files, of those files that hold a single node.

    Its descriptor may have expired. Files that cannot be read are skipped: `PeerFiles` warns of them.

    Args:
        paths: peer files, or folders of them. engine: None: the fastest one.
    Raises:
        OSError: a folder cannot be listed.
    """
    found = {}
    engine = tunnel_engine() if engine is None else engine
    for path in list_peer_files(map(Path, [paths] if isinstance(paths, str | Path) else paths)):
        try:
            held = list(StaticDirectory.load(path, engine, on_bad_line=lambda _: None))
        except KeyFileError:
            continue
        if len(held) == 1:
            found[path.name] = held[0].node_id
    return found


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))


def write_descriptor(path: Path, descriptor: Descriptor) -> None:
    """Write a peer file of one descriptor, completely or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    # The folder may be shared: a link or file that another user put there is not followed or written to.
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    with naming(path):
        StaticDirectory([descriptor]).save(temporary)
    temporary.replace(path)


class PeerFiles:
    """Keeps a directory up to date with peer files.

    Each node of a network on one machine writes its descriptor to its own file in one shared folder, so no
    file needs a lock. A damaged file must not stop all nodes that read the folder: invalid lines, unreadable
    files and editors' copies are skipped, with one warning per file when it is first seen and when it
    changes. `load` fails only if no descriptor can be read.

    Args:
        directory: filled from the files.
        paths: files, and folders of files.
    """

    def __init__(self, directory: Directory, paths: Iterable[Path], engine: TunnelEngine) -> None:
        self._directory = directory
        self._paths = tuple(paths)
        self._engine = engine
        self._lock = threading.Lock()  # a failed query and the clock may ask for a refresh together
        self._seen: dict[Path, _Mark | None] = {}
        self._warned: dict[Path, str] = {}
        self._news: list[str] = []

    def load(self) -> None:
        """Read all files.

        Raises:
            KeyFileError: no descriptor can be read; names a file and line.
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
        """Read the files that have changed. Blocks on the disk: run it in a thread.

        Returns:
            Their descriptors, to be published in the reactor's thread.
        """
        found: list[Descriptor] = []
        with self._lock:
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
            except OSError as error:  # no permission, too many open files, …
                self._note(path, f"{path}: {error.strerror}")
                continue
            for copy in copies:
                if copy not in self._seen:
                    self._seen[copy] = None
                    log.warning("%s looks like the copy that an editor makes, and is skipped", copy)
            yield from listed

    def _load(self, path: Path) -> Iterable[Descriptor]:
        # Before the file is read: a change meanwhile causes another read.
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
        """Report a fault of a file once, and again when it changes."""
        if self._warned.get(path) != text:
            self._warned[path] = text
            self._news.append(text)

    def _warn(self) -> None:
        for text in self._news:
            log.warning("peers are skipped: %s", text)
        self._news.clear()


def _mark(path: Path) -> _Mark | None:
    """Changes when the file changes; None: the file cannot be examined."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
