"""The peer list from a static file: one descriptor a line, in base64, each verified when it is read.

Lines that begin with # are comments. Of two descriptors of one node the higher sequence number wins.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tunnel.descriptor import Descriptor
from tunnel.disk import read_regular
from tunnel.errors import DescriptorError, KeyFileError, LocalTunnelError
from tunnel.primitives import TunnelEngine

__all__ = ["StaticDirectory"]

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
