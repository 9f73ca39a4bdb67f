"""One frame per link (policy `once`): the two classes of the first version, until every link is multiplexed.

Self-contained on purpose: with its last user, tunnel/node/wire.py, this file and its test can be deleted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from tunnel.errors import ErrorCode, LinkError
from tunnel.geometry import PROTOCOL_VERSION, Profile
from tunnel.link.records import (
    HEAD_BYTES,
    MAX_RECORD_BYTES,
    RECORD_OVERHEAD,
    TAG_BYTES,
    UNIT_BYTES,
    RecordOpener,
    RecordSealer,
    record_bytes_for,
    record_bytes_of,
)

__all__ = [
    "BUFFER_BYTES",
    "FRAME_HEAD_BYTES",
    "NEED_DATA",
    "Data",
    "Event",
    "Fin",
    "FrameReceiver",
    "FrameSender",
    "FrameType",
    "GoAway",
    "Open",
    "Reset",
]

BUFFER_BYTES = 2 * MAX_RECORD_BYTES
# Behind the room for content: one record each for OPEN, FIN, RESET and GOAWAY, so that ending never has to
# wait.
_CONTROL_BYTES = 4 * UNIT_BYTES
FRAME_HEAD_BYTES = 8
STREAM = 1  # the only stream of a link under policy `once`

_FRAME = struct.Struct(">BBHI")
_OPEN = struct.Struct(">BBI")
_RESET = struct.Struct(">H")
_MAX_PAYLOAD = MAX_RECORD_BYTES - RECORD_OVERHEAD - FRAME_HEAD_BYTES
_ZEROS = bytes(MAX_RECORD_BYTES)


class FrameType(IntEnum):
    PAD = 0  # the rest of the record is zero
    OPEN = 1
    DATA = 2
    CREDIT = 3
    FIN = 4
    RESET = 5
    STATUS = 6
    PING = 7
    GOAWAY = 8
    PEER_EXCHANGE = 9


@dataclass(frozen=True, slots=True)
class Open:
    """A new frame begins: its profile."""

    profile: Profile


@dataclass(slots=True)
class Data:
    """Content: a view into the receiver's buffer, valid until its next call."""

    payload: memoryview


@dataclass(frozen=True, slots=True)
class Fin:
    """This direction of the stream has ended in order."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The stream was ended early, both ways, for this reason."""

    code: ErrorCode


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer opens nothing more on this link."""


class _NeedData:
    """More bytes are needed before there can be an event."""

    def __repr__(self) -> str:
        return "NEED_DATA"


NEED_DATA = _NeedData()
Event = Open | Data | Fin | Reset | GoAway | _NeedData

# The length that a payload must have; DATA has its own rule.
_PAYLOAD_BYTES = {
    FrameType.OPEN: _OPEN.size,
    FrameType.FIN: 0,
    FrameType.RESET: _RESET.size,
    FrameType.GOAWAY: 0,
}


class FrameSender:
    """Frames in, sealed records out, in one buffer of fixed size.

    Records that were queued lie back to back from `_start` to `_end`; `pending` shows them, `sent` lets go of
    them. Content may be refused for want of room; control frames, each at most once on a link, have room of
    their own.
    """

    def __init__(self, sealer: RecordSealer) -> None:
        self._sealer = sealer
        self._buffer = memoryview(bytearray(BUFFER_BYTES + _CONTROL_BYTES))
        self._start = self._end = 0

    @property
    def pending(self) -> memoryview:
        """Sealed bytes that wait to be sent."""
        return self._buffer[self._start : self._end]

    @property
    def is_empty(self) -> bool:
        return self._start == self._end

    def sent(self, count: int) -> None:
        """The first `count` bytes of `pending` have left."""
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0

    def data(self, payload: bytes | memoryview) -> int:
        """Queue content as one record.

        Returns:
            How many bytes were taken: all, or the most that one record holds, or 0 where there is no room
                now. 0 for an empty payload too: a DATA frame without content is an error at the peer.
        """
        payload = payload[:_MAX_PAYLOAD]
        if not len(payload):
            return 0
        if self._end + record_bytes_for(FRAME_HEAD_BYTES + len(payload)) > BUFFER_BYTES:
            return 0
        self._queue(FrameType.DATA, payload)
        return len(payload)

    def open(self, profile: Profile) -> None:
        self._queue(FrameType.OPEN, _OPEN.pack(PROTOCOL_VERSION, profile.byte, 0))

    def fin(self) -> None:
        self._queue(FrameType.FIN, b"")

    def reset(self, code: ErrorCode) -> None:
        self._queue(FrameType.RESET, _RESET.pack(code))

    def go_away(self) -> None:
        self._queue(FrameType.GOAWAY, b"")

    def _queue(self, frame_type: FrameType, payload: bytes | memoryview) -> None:
        count = len(payload)
        size = record_bytes_for(FRAME_HEAD_BYTES + count)
        record = self._buffer[self._end : self._end + size]
        body = HEAD_BYTES + FRAME_HEAD_BYTES
        _FRAME.pack_into(record, HEAD_BYTES, frame_type, 0, count, STREAM)
        record[body : body + count] = payload
        record[body + count : size - TAG_BYTES] = _ZEROS[: size - TAG_BYTES - body - count]
        self._sealer.seal(record)
        self._end += size


class FrameReceiver:
    """Received bytes in, events out, in one buffer of fixed size.

    From `_start` to `_end` lie bytes not yet opened. `_frames` is what is left of the record opened last.
    """

    def __init__(self, opener: RecordOpener) -> None:
        self._opener = opener
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0
        self._frames = memoryview(b"")

    def space(self) -> memoryview:
        """Where to receive into; never empty after NEED_DATA. Views of earlier events end with this call."""
        if self._start == self._end:
            self._start = self._end = 0
        elif BUFFER_BYTES - self._start < MAX_RECORD_BYTES:
            # Too near the end for a whole record: move the partial one to the front.
            have = self._end - self._start
            self._buffer[:have] = self._buffer[self._start : self._end]
            self._start, self._end = 0, have
        return self._buffer[self._end :]

    def discard(self) -> None:
        """Forget all that was received: of use only while a link is being ended."""
        self._frames = memoryview(b"")
        self._start = self._end = 0

    def received(self, count: int) -> None:
        """The first `count` bytes of `space()` were filled."""
        self._end += count

    def next_event(self) -> Event:
        """The next event, or NEED_DATA.

        Raises:
            LinkError: bytes that no record or frame allows. Close the link; the receiver is of no further
                use.
        """
        while True:
            if not self._frames and not self._open_record():
                return NEED_DATA
            frames = self._frames
            if frames[0] == FrameType.PAD:
                self._frames = memoryview(b"")
                if frames != _ZEROS[: len(frames)]:
                    raise LinkError("padding of a link record is not zero")
                continue
            return self._parse(frames)

    def _open_record(self) -> bool:
        have = self._end - self._start
        if have < HEAD_BYTES:
            return False
        size = record_bytes_of(self._buffer[self._start : self._start + HEAD_BYTES])
        if have < size:
            return False
        self._frames = self._opener.open(self._buffer[self._start : self._start + size])
        self._start += size
        if self._frames[0] == FrameType.PAD:
            # Cover traffic comes with pooled links; here it would only be a way to keep a node busy.
            raise LinkError("link record that holds nothing but padding")
        return True

    def _parse(self, frames: memoryview) -> Event:
        if len(frames) < FRAME_HEAD_BYTES:
            raise LinkError(f"{len(frames)} bytes at a record's end, too few for a frame")
        frame_type, flags, length, stream = _FRAME.unpack_from(frames)
        end = FRAME_HEAD_BYTES + length
        if end > len(frames):
            raise LinkError(
                f"frame of {length} bytes in a record that has {len(frames) - FRAME_HEAD_BYTES} left"
            )
        if flags or stream != STREAM:
            raise LinkError(f"frame has flags 0x{flags:02x} and stream {stream}, expected 0 and {STREAM}")
        payload = frames[FRAME_HEAD_BYTES:end]
        self._frames = frames[end:]
        if frame_type == FrameType.DATA:
            if not length:
                raise LinkError("DATA frame without payload")
            return Data(payload)
        expected = _PAYLOAD_BYTES.get(frame_type)
        if expected is None:
            raise LinkError(f"frame type {frame_type} is not legal in this version")
        if length != expected:
            raise LinkError(f"{FrameType(frame_type).name} frame has {length} bytes, expected {expected}")
        if frame_type == FrameType.OPEN:
            return _parse_open(payload)
        if frame_type == FrameType.RESET:
            return _parse_reset(payload)
        return Fin() if frame_type == FrameType.FIN else GoAway()


def _parse_open(payload: memoryview) -> Open:
    version, profile, window = _OPEN.unpack(payload)
    if version != PROTOCOL_VERSION:
        raise LinkError(f"OPEN names protocol version {version}, this is {PROTOCOL_VERSION}")
    if window:
        raise LinkError(f"OPEN names a window of {window}, expected 0: this version has no credit")
    return Open(Profile.from_byte(profile))


def _parse_reset(payload: memoryview) -> Reset:
    (code,) = _RESET.unpack(payload)
    if code not in ErrorCode._value2member_map_:
        raise LinkError(f"RESET names the unknown code {code}")
    return Reset(ErrorCode(code))
