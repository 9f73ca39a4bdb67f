"""The open streams of a link, and their common state: numbers, limits, sender and budget.

Example: the side that dialled opens streams 1, 3, 5, the other side 2, 4, 6; numbers are never used again.
So a number that is neither in the table nor above the highest one opened belongs to an ended stream, and a
cell for it was sent before the peer knew of the end. The table remembers nothing about ended streams except
one sum: the content that their senders still had credit for. Late content is subtracted from that sum, so a
flood of it ends where credit would have ended it.

Calls go one way: `Multiplexer` calls `MuxStream` and `StreamTable`, `MuxStream` calls `StreamTable`, and both
queue cells with `LinkSender`. The table calls no stream.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from tunnel.errors import ErrorCode, LinkError, TableFull
from tunnel.link.cells import CELLS, pack_reset
from tunnel.link.records import Budget
from tunnel.link.scheduler import LinkSender, SendingStream

__all__ = [
    "MuxLimits",
    "StreamTable",
]

_MAX_STREAM_ID: Final = (1 << 32) - 1
# Windows grow while at most this many streams share a link: with more, each is fast enough without.
_FEW_STREAMS: Final = 4
_SPARE_RESETS: Final = 64  # unsent RESETs allowed beyond one for each stream that the peer may have


@dataclass(frozen=True, slots=True)
class MuxLimits:
    """The limits of one link.

    Attributes:
        max_streams: open streams of the peer; sent in the handshake.
        peer_max_streams: the peer's limit on streams of this side, from its settings.
        window_bytes: all receive windows together: 1,024 streams of the default profile, and four grown ones.
        max_window_bytes: limit of the growth of one window: two link buffers (records.py), so one is filled
            while the other is emptied.
    """

    max_streams: int = 1024
    peer_max_streams: int = 1024
    window_bytes: int = 66 << 20
    max_window_bytes: int = 512 << 10


class TableStream(SendingStream, Protocol):
    """A stream as the table sees it."""

    is_opener: bool
    window_bytes: int

    @property
    def late_bytes(self) -> int:
        """Content that the peer may still send before it learns that the stream has ended."""


S = TypeVar("S", bound=TableStream)


class StreamTable(Generic[S]):
    """The open streams of one link.

    Attributes:
        sender: queues the cells of the streams.
        budget: counts their unread content.
        peer_id: node id of the neighbour.
        streams: by number.
        arrived: streams of the peer that no service has accepted yet, oldest first.
        own: number of streams that this side opened.
        window_bytes: all their receive windows together.
        late_bytes: content that may still arrive for ended streams.
        passes_left: pieces of this receive that may still be passed on at once (`MuxStream.pass_on`).
    """

    __slots__ = (
        "_highest",
        "_limits",
        "_peer_parity",
        "_resets",
        "arrived",
        "budget",
        "late_bytes",
        "own",
        "passes_left",
        "peer_id",
        "sender",
        "streams",
        "unused_id",
        "window_bytes",
    )

    def __init__(
        self, limits: MuxLimits, sender: LinkSender, budget: Budget, *, peer_id: bytes, is_dialler: bool
    ) -> None:
        self._limits = limits
        self.unused_id = 1 if is_dialler else 2
        self._peer_parity = 0 if is_dialler else 1
        self._highest = 0
        self._resets: list[int] = []  # marks of RESETs for the peer's streams, see `LinkSender.has_left`
        self.sender = sender
        self.budget = budget
        self.peer_id = peer_id
        self.streams: dict[int, S] = {}
        self.arrived: OrderedDict[S, None] = OrderedDict()
        self.own = 0
        self.window_bytes = 0
        self.late_bytes = 0
        self.passes_left = 0

    # -- new streams ----------------------------------------------------------------------------------

    @property
    def can_open(self) -> bool:
        """Whether this side may open another stream."""
        return self.own < self._limits.peer_max_streams and self.unused_id <= _MAX_STREAM_ID

    @property
    def is_crowded(self) -> bool:
        """Whether the streams of both sides use half of the windows. Without this limit, the streams of one
        side could leave no window for the answers of the other."""
        return 2 * self.window_bytes >= self._limits.window_bytes

    def next_id(self, window_bytes: int) -> int:
        """The number for a new stream of this side.

        Raises:
            TableFull: the peer's limit on streams or this side's limit on windows is reached.
        """
        if not self.can_open or not self._has_room(window_bytes):
            raise TableFull(f"the link carries {self.own} streams of this side and takes no more")
        stream_id = self.unused_id
        self.unused_id += 2
        return stream_id

    def take_id(self, stream_id: int) -> None:
        """Check the number of a stream that the peer opens.

        Raises:
            LinkError: it is one of this side's numbers or not above the last one.
        """
        if stream_id & 1 != self._peer_parity or stream_id <= self._highest:
            parity = "odd" if self._peer_parity else "even"
            raise LinkError(f"OPEN of stream {stream_id}, expected one beyond {self._highest} and {parity}")
        self._highest = stream_id

    def check_resets(self) -> None:
        """Bound the cells that a peer can make this side queue by opening streams that are reset.

        Raises:
            LinkError: more than `max_streams` + 64 RESETs of its streams are unsent.
        """
        has_left = self.sender.has_left
        if self._resets and has_left(self._resets[0]):
            self._resets = [mark for mark in self._resets if not has_left(mark)]
        if len(self._resets) > self._limits.max_streams + _SPARE_RESETS:
            raise LinkError(f"OPEN while {len(self._resets)} RESETs of such streams have not left")

    def admits(self, window_bytes: int) -> bool:
        """Whether the peer may have another stream with such a window."""
        return len(self.streams) - self.own < self._limits.max_streams and self._has_room(window_bytes)

    def _has_room(self, window_bytes: int) -> bool:
        return self.window_bytes + window_bytes <= self._limits.window_bytes

    def add(self, stream: S) -> None:
        """Enter a new stream; one of the peer's waits in `arrived`."""
        self.streams[stream.id] = stream
        self.own += stream.is_opener
        self.window_bytes += stream.window_bytes
        if not stream.is_opener:
            self.arrived[stream] = None

    def refuse(self, stream_id: int, code: ErrorCode, window_bytes: int) -> None:
        """Reset a new stream of the peer, which may have filled its window already."""
        self._resets.append(self.sender.queue(pack_reset(stream_id, code)))
        self.late_bytes += window_bytes

    # -- the end of streams ---------------------------------------------------------------------------

    def remove(self, stream: S) -> None:
        """Take out a stream that has ended in order; it can still be accepted and read."""
        del self.streams[stream.id]
        self.own -= stream.is_opener
        self.window_bytes -= stream.window_bytes
        self.sender.forget(stream)

    def drop(self, stream: S) -> None:
        """Take out a stream that the peer has reset; it can no longer be accepted."""
        self.remove(stream)
        self.arrived.pop(stream, None)

    def abandon(self, stream: S, code: ErrorCode) -> None:
        """Remove a stream that this side resets. Content that is already in transit is accepted, no more."""
        self.late_bytes += stream.late_bytes
        mark = self.sender.queue(pack_reset(stream.id, code))
        if not stream.is_opener:
            self._resets.append(mark)
        self.drop(stream)

    def clear(self) -> list[S]:
        """Take out all streams and return them; none can be accepted any more."""
        streams = list(self.streams.values())
        self.streams.clear()
        self.arrived.clear()
        self.own = self.window_bytes = 0
        return streams

    # -- cells from the peer --------------------------------------------------------------------------

    def find(self, stream_id: int, kind: int) -> S | None:
        """The open stream of this number, or None for one that has ended on this side.

        Args:
            kind: of the cell, for the error.
        Raises:
            LinkError: no such stream was ever opened.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            is_peers = stream_id & 1 == self._peer_parity
            if stream_id > self._highest if is_peers else stream_id >= self.unused_id:
                rule = CELLS[kind]
                raise LinkError(f"{rule and rule.name} for stream {stream_id}, which was never opened")
        return stream

    def late(self, stream_id: int, count: int) -> None:
        """Count content for a stream that has ended on this side.

        Raises:
            LinkError: more than the peer can have sent before it knew of the end.
        """
        self.late_bytes -= count
        if self.late_bytes < 0:
            raise LinkError(f"content for stream {stream_id}, which has ended, beyond what was granted")

    def grow(self, stream: S) -> int:
        """Enlarge the window of a stream whose reader keeps up; returns the number of added bytes.

        While few streams share the link it doubles, up to its limit and to the room left for windows.
        """
        limits = self._limits
        growth = min(stream.window_bytes, limits.max_window_bytes - stream.window_bytes)
        if growth <= 0 or len(self.streams) > _FEW_STREAMS or not self._has_room(growth):
            return 0
        stream.window_bytes += growth
        self.window_bytes += growth
        return growth
