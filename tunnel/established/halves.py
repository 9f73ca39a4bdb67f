"""The two halves of a stream within a tunnel: bytes that wait to be sent, bytes that wait to be read.

What is held is bounded: of what is to be sent, the data of one chunk; of what came, the window, which the
other end may fill and must then wait for credit. The bounds count an end of message as 16 bytes more than
its data, because where it lies is remembered.

Neither half knows chunks or states; the tunnel does. A half calls `changed` when something became due that
was not, and sets its notifier when a call that raised BlockingIOError is worth another try.

Source: docs/protocol.md, "Established tunnels".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from readwrite_comp.helpers import byte_view, renewed, writable_view
from tunnel.errors import LocalTunnelError, MalformedMessage, PeerError

__all__ = ["END_COST_BYTES", "Incoming", "IncomingMessages", "N", "Notifier", "Outgoing"]

END_COST_BYTES = 16


class Notifier(Protocol):
    """What wakes a waiting service: `reactor.Signal`, or anything with `set`."""

    def set(self) -> None:
        """Something may be possible now that was not."""


N = TypeVar("N", bound=Notifier)


class Outgoing(Generic[N]):
    """Bytes on their way out.

    Args:
        capacity: data bytes of a chunk: the most that is held.
        credit: bytes that the other end lets pass before it grants more.
        eager: what is written is due at once; otherwise when full, flushed or ended.
        writable: set when `write` or `end` is worth another try.
        changed: called when something is due.
    """

    def __init__(
        self, capacity: int, credit: int, *, eager: bool, writable: N, changed: Callable[[], None]
    ) -> None:
        self.writable = writable
        self.credit = credit
        self._capacity = capacity
        self._eager = eager
        self._changed = changed
        self._buffer = bytearray()
        self._pushed = False  # flushed: due although not full
        self._end_wanted = False
        self._in_message = False  # something of a message was written, its end has not left

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take as much as there is room for. Raises BlockingIOError: no room for any; wait for `writable`."""
        view = byte_view(data)
        room = self._capacity - len(self._buffer)
        if self._end_wanted or (view and not room):
            raise BlockingIOError("the stream's outgoing chunk is full")
        taken = min(len(view), room)
        self._buffer += view[:taken]
        if taken:
            self._in_message = True
            self._pushed |= self._eager
            if self.is_due:
                self._changed()
        return taken

    def flush(self) -> None:
        """Let what is held leave, though the chunk is not full."""
        if self._buffer:
            self._pushed = True
            self._changed()

    def end(self) -> None:
        """Mark the end of the message. Raises BlockingIOError: the end before it has not left yet."""
        if self._end_wanted:
            raise BlockingIOError("the end of the message before has not left yet")
        self._end_wanted = self._in_message = True
        self._changed()

    def grant(self, amount: int, limit: int) -> None:
        """Credit from the other end. Raises MalformedMessage: more than `limit`, its window, altogether."""
        if self.credit + amount > limit:
            raise MalformedMessage(
                f"CREDIT of {amount} bytes on top of {self.credit} exceeds the window of {limit} bytes"
            )
        self.credit += amount
        if self.is_due:
            self._changed()

    @property
    def held_bytes(self) -> int:
        """What waits to be sent."""
        return len(self._buffer)

    @property
    def is_inside_message(self) -> bool:
        """A message was begun and `end` was not called."""
        return self._in_message and not self._end_wanted

    @property
    def holds(self) -> bool:
        """Something was written, or ended, and has not left."""
        return bool(self._buffer) or self._end_wanted

    @property
    def is_due(self) -> bool:
        """A chunk can be made now."""
        if self._end_wanted and self.credit >= len(self._buffer) + END_COST_BYTES:
            return True
        if not self._buffer or not self.credit:
            return False
        return self._end_wanted or self._pushed or len(self._buffer) == self._capacity

    def take(self, out: memoryview) -> tuple[int, bool]:
        """Move what is due into `out` (a chunk's data). Returns its length, and whether it ends a message."""
        is_end = self._end_wanted and self.credit >= len(self._buffer) + END_COST_BYTES
        length = min(len(self._buffer), self.credit)
        out[:length] = memoryview(self._buffer)[:length]
        del self._buffer[:length]
        self.credit -= length + END_COST_BYTES * is_end
        if is_end:
            self._end_wanted = self._in_message = False
        if not self._buffer:
            self._pushed = False
        self.writable.set()
        return length, is_end

    def drop(self) -> None:
        """Forget what is held; nothing leaves any more."""
        self._buffer.clear()
        self._end_wanted = self._pushed = self._in_message = False
        self.writable.set()


class Incoming(Generic[N]):
    """Bytes that came and wait for their reader.

    Args:
        window: what this end lets the other send before it is granted more.
        readable: set when a read is worth another try.
        changed: called when at least half of the window waits to be granted anew.
    Attributes:
        is_ignored: this end reads no more; `ignored_bytes` of what came have been thrown away since.
    """

    def __init__(self, window: int, *, readable: N, changed: Callable[[], None]) -> None:
        self.readable = readable
        self._window = window
        self._changed = changed
        self._left = window  # what the other end may still send
        self._owed = 0  # read, not granted yet
        self._buffer = bytearray()
        self._is_over = False
        self._error: PeerError | None = None
        self.is_ignored = False
        self.ignored_bytes = 0

    @property
    def held_bytes(self) -> int:
        """What waits to be read."""
        return len(self._buffer)

    @property
    def has_ended(self) -> bool:
        """No more comes, in order or not; what came may still wait to be read."""
        return self._is_over or self._error is not None

    def put(self, data: memoryview) -> None:
        """What a chunk brought. Raises MalformedMessage: more than was granted."""
        self._charge(len(data))
        if self.is_ignored:
            self.ignored_bytes += len(data)
            self._consumed(len(data))
            return
        self._buffer += data
        self.readable.set()

    def ignore(self) -> None:
        """This end reads no more: throw away what is here and what comes. The other end can go on sending."""
        self.is_ignored = True
        count = len(self._buffer)
        self._buffer.clear()
        self._consumed(count)
        self.readable.set()

    def discard(self, data: memoryview) -> None:
        """The same when nobody will read it. Raises as `put`."""
        self._charge(len(data))

    def finish(self) -> None:
        """The other end's half is over, in order."""
        self._is_over = True
        self.readable.set()

    def fail(self, error: PeerError) -> None:
        """Nothing more comes, and what waits is dropped; reads raise `error` from now on."""
        if self._error is None:
            self._error = error
        self._buffer.clear()
        self.readable.set()

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read what is here.

        Returns:
            Bytes read; 0 at the end, or for no buffer.
        Raises:
            BlockingIOError: nothing is here yet; wait for `readable`. PeerError: why nothing more will come.
            LocalTunnelError: this end reads no more.
        """
        if self._error is not None:
            raise renewed(self._error)
        if self.is_ignored:
            raise LocalTunnelError("this end has finished the sub-stream: it reads no more")
        view = writable_view(buffer)
        count = self._move(view, len(self._buffer))
        if view and not count and not self._is_over:
            raise BlockingIOError("nothing to read on the stream yet")
        return count

    def grant(self) -> int:
        """What to grant the other end now: all that was read since the last time, 0 when it has ended."""
        amount = 0 if self.has_ended else self._owed
        self._owed -= amount
        self._left += amount
        return amount

    def _charge(self, cost: int) -> None:
        if cost > self._left:
            raise MalformedMessage(f"{cost} bytes on a stream that may bring {self._left} more")
        self._left -= cost

    def _move(self, view: memoryview, here: int) -> int:
        """Move up to `here` bytes into `view`."""
        count = min(len(view), here)
        if count:
            view[:count] = memoryview(self._buffer)[:count]
            del self._buffer[:count]
            self._consumed(count)
        return count

    def _consumed(self, amount: int) -> None:
        self._owed += amount
        if 2 * self._owed >= self._window and not self._is_over:
            self._changed()


class IncomingMessages(Incoming[N]):
    """The incoming half of stream 0: messages, one after the other.

    `next_message` begins one, `readinto` reads it and returns 0 at its end, and so on.
    """

    def __init__(self, window: int, *, readable: N, changed: Callable[[], None]) -> None:
        super().__init__(window, readable=readable, changed=changed)
        self._first = 0  # place of the buffer's first byte, counted from the stream's beginning
        self._ends: deque[int] = deque()  # places of the ends of messages that came
        self._is_arriving = False  # a part of a message has come, its end has not
        self._is_reading = False

    def put(self, data: memoryview, *, is_end: bool = False) -> None:
        self._charge(len(data) + END_COST_BYTES * is_end)
        self._buffer += data
        self._is_arriving = not is_end
        if is_end:
            self._ends.append(self._first + len(self._buffer))
        self.readable.set()

    def finish(self) -> None:
        """The other end sends no more messages. Raises MalformedMessage: inside one."""
        if self._is_arriving:
            raise MalformedMessage("the messages end inside one")
        super().finish()

    def fail(self, error: PeerError) -> None:
        super().fail(error)
        self._ends.clear()

    def next_message(self) -> bool:
        """Go on to the next message, once the one before has been read to its end.

        Returns:
            True: a message has begun. False: none follows, the other end has closed.
        Raises:
            BlockingIOError: not known yet; wait for `readable`. PeerError: why nothing more will come.
            LocalTunnelError: the message before is not read to its end.
        """
        if self._error is not None:
            raise renewed(self._error)
        if self._is_reading:
            if not self._is_at_end:
                raise LocalTunnelError("the message before is not read to its end")
            self._ends.popleft()
            self._is_reading = False
            self._consumed(END_COST_BYTES)
        if self._buffer or self._ends:
            self._is_reading = True
            return True
        if self._is_over:
            return False
        raise BlockingIOError("no further message yet")

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read from the message that `next_message` began; 0 at its end.

        Raises:
            BlockingIOError: nothing is here yet; wait for `readable`. PeerError: why nothing more will come.
            LocalTunnelError: no message was begun.
        """
        if self._error is not None:
            raise renewed(self._error)
        if not self._is_reading:
            raise LocalTunnelError("no message has been begun: call next_message first")
        view = writable_view(buffer)
        here = self._ends[0] - self._first if self._ends else len(self._buffer)
        count = self._move(view, here)
        self._first += count
        if view and not count and not self._is_at_end:
            raise BlockingIOError("nothing to read of the message yet")
        return count

    @property
    def _is_at_end(self) -> bool:
        return bool(self._ends) and self._ends[0] == self._first
