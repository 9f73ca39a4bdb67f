"""The sending half of a link: one outgoing buffer, whose turn it is to write, and what shares records.

Content is sealed straight into the buffer (buffers.py) when its stream has its turn (turns.py). Control
frames wait (control.py) until the link is about to send: then they ride in the padding of a record of
content, or make up a record of their own. With records of one fixed size nothing leaves but by `tick`.
"""

from __future__ import annotations

from typing import Final, Protocol

from tunnel.errors import LocalTunnelError
from tunnel.link.buffers import BufferPool, Outgoing
from tunnel.link.control import ControlQueue, Creditor
from tunnel.link.frames import FRAME_HEAD, FRAME_HEAD_BYTES, MAX_EXCHANGE_BYTES, FrameType
from tunnel.link.records import MAX_RECORD_BYTES, MAX_UNITS, RECORD_OVERHEAD, UNIT_BYTES, RecordSealer
from tunnel.link.turns import Notifier, Turns, Writer

__all__ = ["MIN_FIXED_UNITS", "Sender", "SendingStream"]

# The longest control frame, PEER-EXCHANGE, has to fit into a record of a fixed size.
MIN_FIXED_UNITS: Final = -(-(MAX_EXCHANGE_BYTES + FRAME_HEAD_BYTES + RECORD_OVERHEAD) // UNIT_BYTES)


class SendingStream(Creditor, Writer, Protocol):
    """A stream as the sender sees it: `control_mark` is the number of its last control frame."""

    control_mark: int


class Sender:
    """One direction of a link.

    Args:
        sealer: of this direction.
        pool: where the buffer is borrowed while there is something in it.
        record_units: 0, or the one size of all records.
        output: told when there may be something to send.
    Raises:
        LocalTunnelError: `record_units` below MIN_FIXED_UNITS or above 63.
    """

    __slots__ = ("_control", "_out", "_output", "_turns", "fixed_bytes")

    def __init__(self, sealer: RecordSealer, pool: BufferPool, record_units: int, output: Notifier) -> None:
        if record_units and not MIN_FIXED_UNITS <= record_units <= MAX_UNITS:
            raise LocalTunnelError(
                f"records of a fixed size have {MIN_FIXED_UNITS} to {MAX_UNITS} units, not {record_units}"
            )
        self.fixed_bytes = record_units * UNIT_BYTES
        self._out = Outgoing(sealer, pool, self.fixed_bytes)
        self._control = ControlQueue()
        self._turns = Turns()
        self._output = output

    # -- the socket's side ----------------------------------------------------------------------------

    @property
    def pending(self) -> memoryview:
        """Sealed bytes to send, control frames that waited included; valid until the next call."""
        if not self.fixed_bytes:
            self._flush_control()
        return self._out.pending

    def sent(self, count: int) -> None:
        """The first `count` bytes of `pending` have left."""
        out = self._out
        out.sent(count)
        self._turns.freed(out.room, is_empty=out.is_empty)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is unsent."""
        return not self._control.size and self._out.is_empty

    # -- padding --------------------------------------------------------------------------------------

    def pad(self, units: int) -> bool:
        """Seal a record of padding only. False: no room, so there is traffic enough."""
        size = units * UNIT_BYTES
        if self.fixed_bytes or size > self._out.room:
            return False
        self._out.add(size, b"")
        self._output.set()
        return True

    def tick(self) -> None:
        """With records of a fixed size: let exactly one more leave, of padding if there is nothing else.

        A socket that takes less than it is given holds up the clock: with two records unsent nothing is
        added.
        """
        out = self._out
        if not self.fixed_bytes:
            raise LocalTunnelError("tick on a link without a fixed record size")
        if not out.hidden_bytes:
            if out.room < self.fixed_bytes:
                return  # two records are unsent
            out.add(self.fixed_bytes, self._control.take(self.fixed_bytes - RECORD_OVERHEAD))
        out.show_next()
        self._output.set()

    # -- control frames -------------------------------------------------------------------------------

    def queue(self, frame: bytes) -> int:
        """Queue a control frame; returns its number, for `has_left`."""
        mark = self._control.add(frame)
        self._output.set()
        return mark

    def queue_for(self, stream: SendingStream, frame: bytes) -> None:
        """Queue a control frame that no later content of `stream` may overtake."""
        stream.control_mark = self.queue(frame)

    def queue_answer(self, frame: bytes) -> None:
        """Queue the answer to a PING, in place of one that still waits."""
        self._control.answer(frame)
        self._output.set()

    def has_left(self, mark: int) -> bool:
        """Whether the control frame with this number has been sealed."""
        return mark <= self._control.taken

    def owe(self, stream: Creditor) -> None:
        """The stream has credit to grant."""
        self._control.owe(stream)
        self._output.set()

    def owe_nothing(self, stream: Creditor) -> None:
        """The stream's peer sends nothing more: it needs no credit."""
        self._control.forget(stream)

    # -- content --------------------------------------------------------------------------------------

    def fixed_room(self) -> int:
        """Content that the next record of the fixed size takes beside the control frames that wait."""
        inside = self.fixed_bytes - RECORD_OVERHEAD - FRAME_HEAD_BYTES
        return inside - min(self._control.size, inside // 2)

    def emit(self, stream: SendingStream, kind: FrameType, payload: bytes | memoryview) -> bool:
        """Seal one frame of content, if it is the stream's turn and there is room.

        Control frames ride in front as far as they fit into what would be padding. Those of this stream go
        first in any case: nothing of a stream overtakes its OPEN or FIN.
        """
        out, control = self._out, self._control
        frame_bytes = FRAME_HEAD_BYTES + len(payload)
        size = out.size_for(frame_bytes)
        spare = size - RECORD_OVERHEAD - frame_bytes
        room = out.room
        if control.size > spare and stream.control_mark > control.taken:
            self._flush_control()
            # Where they do not all fit now, the content waits until some have left.
            room = out.room if stream.control_mark <= control.taken else 0
        if not self._turns.admits(stream, size, room):
            return False
        front = control.take(spare) if control.size else b""
        out.add(size, front + FRAME_HEAD.pack(kind, 0, len(payload), stream.id), payload)
        self._output.set()
        return True

    def pass_turn(self, stream: Writer) -> None:
        """The stream cannot write now, whoever's turn it is."""
        if len(self._turns):
            self._turns.forget(stream, self._out.room)

    def forget(self, stream: SendingStream) -> None:
        """The stream has ended; its control frames still go."""
        self._control.forget(stream)
        self.pass_turn(stream)

    # -- ending ---------------------------------------------------------------------------------------

    def stop(self, last: bytes = b"") -> None:
        """Take nothing more. What is sealed can still be sent, and behind it, if there is room, `last`."""
        self._control.clear()
        self._turns.clear()
        size = self._out.size_for(1)
        if last and self._out.room >= size:
            self._out.add(size, last)
            self._output.set()

    def clear(self) -> None:
        """Forget everything and give the buffer back."""
        self.stop()
        self._out.clear()

    def _flush_control(self) -> None:
        """Seal control frames into records of their own, as far as there is room."""
        out, control = self._out, self._control
        while control.size:
            limit = min(self.fixed_bytes or MAX_RECORD_BYTES, out.room) - RECORD_OVERHEAD
            frames = control.take(limit) if limit > 0 else b""
            if not frames:
                return
            out.add(out.size_for(len(frames)), frames)
