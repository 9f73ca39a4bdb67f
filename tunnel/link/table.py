"""The streams of a link: their numbers, how many there may be, and what is on its way to those that are gone.

Numbers of the side that dialled are odd, the other's even; each side's only grow. So a number that is not in
the table, and not beyond the last opened, is of a stream that has ended here, and a cell for it was on its
way before the peer knew. Nothing is kept of such streams but one sum: the content that their senders had
credit for when they ended. What comes late is taken off that sum, so a flood of it ends where credit would
have ended it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from tunnel.errors import LinkError, TableFull
from tunnel.link.cells import CELLS

__all__ = ["MuxLimits", "StreamTable", "TableStream"]

_MAX_STREAM_ID: Final = (1 << 32) - 1
# Streams whose window may grow: with more of them on a link each is fast enough with its first window.
_FEW_STREAMS: Final = 4


@dataclass(frozen=True, slots=True)
class MuxLimits:
    """What one link may use.

    Attributes:
        max_streams: streams of the peer's at once; told in the handshake.
        peer_max_streams: the same of the peer's settings, for those that this side opens.
        window_bytes: all receive windows together: 1,024 streams of the default profile, and four that have
            grown.
        max_window_bytes: to which the window of one stream grows while few share the link: two buffers of the
            link (buffers.py), so that one is filled while the other is emptied.
    """

    max_streams: int = 1024
    peer_max_streams: int = 1024
    window_bytes: int = 66 << 20
    max_window_bytes: int = 512 << 10


class TableStream(Protocol):
    """A stream as the table sees it."""

    id: int
    is_opener: bool
    window_bytes: int

    @property
    def late_bytes(self) -> int:
        """Content that the peer may still send before it hears that the stream has ended."""


S = TypeVar("S", bound=TableStream)


class StreamTable(Generic[S]):
    """The open streams of one link.

    Attributes:
        streams: by number.
        own: how many of them this side opened.
        window_bytes: all their receive windows together.
        late_bytes: content that may still come for streams that have ended here.
    """

    __slots__ = (
        "_highest",
        "_limits",
        "_next_id",
        "_peer_parity",
        "late_bytes",
        "own",
        "streams",
        "window_bytes",
    )

    def __init__(self, limits: MuxLimits, *, is_dialler: bool) -> None:
        self._limits = limits
        self._next_id = 1 if is_dialler else 2
        self._peer_parity = 0 if is_dialler else 1
        self._highest = 0
        self.streams: dict[int, S] = {}
        self.own = 0
        self.window_bytes = 0
        self.late_bytes = 0

    @property
    def can_open(self) -> bool:
        """Whether this side has a number and a place for one more."""
        return self.own < self._limits.peer_max_streams and self._next_id <= _MAX_STREAM_ID

    def next_id(self, window_bytes: int) -> int:
        """The number for a stream that this side opens.

        Raises:
            TableFull: as many streams as the peer allows, or windows as this side does.
        """
        if not self.can_open or not self._has_room(window_bytes):
            raise TableFull(f"the link carries {self.own} streams of this side and takes no more")
        stream_id = self._next_id
        self._next_id += 2
        return stream_id

    def take_id(self, stream_id: int) -> None:
        """The peer opens this number.

        Raises:
            LinkError: the number is this side's, or not beyond the last.
        """
        if stream_id & 1 != self._peer_parity or stream_id <= self._highest:
            parity = "odd" if self._peer_parity else "even"
            raise LinkError(f"OPEN of stream {stream_id}, expected one beyond {self._highest} and {parity}")
        self._highest = stream_id

    def admits(self, window_bytes: int) -> bool:
        """Whether the peer may have one more stream, with such a window."""
        return len(self.streams) - self.own < self._limits.max_streams and self._has_room(window_bytes)

    def _has_room(self, window_bytes: int) -> bool:
        return self.window_bytes + window_bytes <= self._limits.window_bytes

    def add(self, stream: S) -> None:
        """A stream begins."""
        self.streams[stream.id] = stream
        self.own += stream.is_opener
        self.window_bytes += stream.window_bytes

    def remove(self, stream: S) -> None:
        """A stream has ended on both sides, or the peer ended it: nothing legal can follow."""
        del self.streams[stream.id]
        self.own -= stream.is_opener
        self.window_bytes -= stream.window_bytes

    def abandon(self, stream: S) -> None:
        """This side ends the stream: what is on its way to it is forgiven, and nothing more."""
        self.late_bytes += stream.late_bytes
        self.remove(stream)

    def find(self, stream_id: int, kind: int) -> S | None:
        """The stream, or None when it has ended here.

        Raises:
            LinkError: no such stream was ever opened.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            is_peers = stream_id & 1 == self._peer_parity
            if stream_id > self._highest if is_peers else stream_id >= self._next_id:
                rule = CELLS[kind]
                raise LinkError(f"{rule and rule.name} for stream {stream_id}, which was never opened")
        return stream

    def late(self, stream_id: int, count: int) -> None:
        """Content for a stream that has ended here.

        Raises:
            LinkError: more than may have been on its way.
        """
        self.late_bytes -= count
        if self.late_bytes < 0:
            raise LinkError(f"content for stream {stream_id}, which has ended, beyond what was granted")

    def grow(self, stream: S) -> int:
        """Let the window of a stream whose reader keeps up grow, by what is returned.

        It doubles, up to the limit and to what is left of the link's, while few streams share the link.
        """
        limits = self._limits
        growth = min(stream.window_bytes, limits.max_window_bytes - stream.window_bytes)
        if growth <= 0 or len(self.streams) > _FEW_STREAMS or not self._has_room(growth):
            return 0
        stream.window_bytes += growth
        self.window_bytes += growth
        return growth

    def clear(self) -> list[S]:
        """Forget all streams; returns them."""
        streams = list(self.streams.values())
        self.streams.clear()
        self.own = self.window_bytes = 0
        return streams
