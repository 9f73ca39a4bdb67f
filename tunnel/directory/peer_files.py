"""A directory kept in files that may change: those of other nodes are read again, this node's own is written.

Each node of a network on one machine writes its descriptor to a file of its own in one shared folder, so
nobody has to lock anything. A file that cannot be read is said and left as it was known: one node's mistake
is not to stop the others.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tunnel.descriptor import Descriptor
from tunnel.directory.base import Directory
from tunnel.directory.static_file import StaticDirectory
from tunnel.errors import KeyFileError
from tunnel.primitives import TunnelEngine

__all__ = ["PeerFiles", "list_peer_files", "write_descriptor"]

log = logging.getLogger("tunnel.directory")


def list_peer_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files themselves: for a folder those in it, without hidden and half-written ones, by name."""
    for path in paths:
        if path.is_dir():
            yield from sorted(
                entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")
            )
        else:
            yield path


def write_descriptor(path: Path, descriptor: Descriptor) -> None:
    """Write one descriptor as a peer file of its own, whole or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    # The folder may be shared: what somebody has put there is not followed, and not written to.
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
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
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def load(self) -> None:
        """Read all of them.

        Raises:
            KeyFileError: one cannot be read; names file and line.
        """
        for path in list_peer_files(self._paths):
            self._read(path)

    def refresh(self) -> list[Descriptor]:
        """Read those that have changed since. Blocks on the disk: for a thread.

        Returns:
            What they hold, to be published where the directory lives.
        """
        found: list[Descriptor] = []
        for path in self._listed():
            try:
                if self._seen.get(path) != _mark(path):
                    found += self._load(path)
            except KeyFileError as error:
                log.warning("a peer file is left as it was known: %s", error)
            except OSError as error:
                log.warning("a peer file cannot be read: %s", error)
        return found

    def _listed(self) -> Iterator[Path]:
        for path in self._paths:
            try:
                yield from list(list_peer_files([path]))
            except OSError as error:  # no rights any more, no more open files, …
                log.warning("peer files are left as they were known: %s", error)

    def _read(self, path: Path) -> None:
        for descriptor in self._load(path):
            self._directory.publish(descriptor)

    def _load(self, path: Path) -> StaticDirectory:
        try:
            # Before it is read: what changes meanwhile is read once more.
            self._seen[path] = _mark(path)
        except OSError as error:
            raise KeyFileError(f"{path}: {error.strerror}") from error
        return StaticDirectory.load(path, self._engine)


def _mark(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
