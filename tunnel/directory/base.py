"""What a directory is to the rest: four methods, none of which waits for anything.

A directory that asks others does so in the background; `lookup` and `sample` answer from what is here, so
that no route and no relayed frame ever waits for somebody's answer, and nobody sees by whom a node is asked
for. All four may be called from any thread.
"""

from __future__ import annotations

from typing import Protocol

from tunnel.descriptor import Descriptor

__all__ = ["Directory"]


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
