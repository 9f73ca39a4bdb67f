"""What an observer of the wire has of a connection between two nodes: when it began and ended, and the time,
direction and size of each record.

Sizes are in the clear (a record begins with its length), and so is where the handshake ends: its three
messages have one length each. Nothing else is looked at. Source: docs/protocol.md, "Link record".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tunnel.errors import LinkError
from tunnel.link.buffers import HEAD_BYTES, record_bytes_of
from tunnel.link.handshake import M1_BYTES, M2_BYTES, M3_BYTES

__all__ = ["Connection", "Record"]


@dataclass(frozen=True, slots=True)
class Record:
    """One record that passed.

    Attributes:
        time_s: on the observer's clock, when its last byte came.
        is_outward: from the side that dialled.
        size: in bytes, head included.
    """

    time_s: float
    is_outward: bool
    size: int


class _Sizes:
    """The records of one direction, from its bytes."""

    def __init__(self, handshake_bytes: int) -> None:
        self._skip = handshake_bytes
        self._head = b""

    def feed(self, data: memoryview) -> Iterator[int]:
        """The sizes of the records that end in these bytes. Raises LinkError: no record begins so."""
        while data:
            if self._skip:
                taken = min(self._skip, len(data))
                self._skip -= taken
                data = data[taken:]
                if not self._skip and self._head:
                    yield record_bytes_of(self._head)
                    self._head = b""
                continue
            taken = HEAD_BYTES - len(self._head)
            self._head += bytes(data[:taken])
            data = data[taken:]
            if len(self._head) == HEAD_BYTES:
                self._skip = record_bytes_of(self._head) - HEAD_BYTES


@dataclass(slots=True)
class Connection:
    """One connection, as a `bench.tcp_proxy.Watcher` sees it.

    Attributes:
        source, target: who dialled whom: an observer knows addresses.
        began_s, ended_s: ended_s is None while it lives.
        has_strange_bytes: something came by that is no record of an allowed size.
    """

    source: int
    target: int
    now_s: Callable[[], float]
    began_s: float = 0.0
    ended_s: float | None = None
    records: list[Record] = field(default_factory=list)
    has_strange_bytes: bool = False
    _outward: _Sizes = field(default_factory=lambda: _Sizes(M1_BYTES + M3_BYTES))
    _inward: _Sizes = field(default_factory=lambda: _Sizes(M2_BYTES))

    def __post_init__(self) -> None:
        self.began_s = self.now_s()

    def passes(self, data: memoryview, *, outward: bool) -> int:
        """Record the bytes and pass all of them on."""
        now_s = self.now_s()
        try:
            for size in (self._outward if outward else self._inward).feed(data):
                self.records.append(Record(now_s, outward, size))
        except LinkError:
            self.has_strange_bytes = True
        return len(data)

    def ended(self) -> None:
        """It is over."""
        self.ended_s = self.now_s()
