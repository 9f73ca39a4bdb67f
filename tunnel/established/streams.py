"""What the user of an established tunnel holds: the messages each way, and sub-streams.

They are streams in the sense of `readwrite_comp`: `readinto` and `write` may handle fewer bytes than asked
and raise BlockingIOError when nothing can be done now. Whoever waits, waits for the notifier named there. All
decisions about chunks are the tunnel's.

Source: docs/protocol.md, "Established tunnels".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from readwrite_comp.helpers import byte_view, renewed, writable_view
from tunnel.arguments import member
from tunnel.errors import ErrorCode, LocalTunnelError, MalformedMessage, PeerError
from tunnel.established.layouts import StreamEvent, StreamState, Target, next_stream_state

__all__ = [
    "END_COST_BYTES",
    "Incoming",
    "IncomingMessages",
    "MessageWriter",
    "N",
    "Notifier",
    "Outgoing",
    "Stream",
    "SubStream",
]


# The two halves of a stream within a tunnel: bytes that wait to be sent, bytes that wait to be read.
#
# What is held is bounded: of what is to be sent, the data of one chunk; of what came, the window, which the
# other end may fill and must then wait for credit. The bounds count an end of message as 16 bytes more than
# its data, because where it lies is remembered.
#
# Neither half knows chunks or states; the tunnel does. A half calls `changed` when something became due
# that was not, and sets its notifier when a call that raised BlockingIOError is worth another try.
#
# Source: docs/protocol.md, "Established tunnels".
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
    def is_inside_message(self) -> bool:
        """Whether a message was begun, and more of it is to be read."""
        return self._is_reading and not self._is_at_end and self._error is None

    @property
    def _is_at_end(self) -> bool:
        return bool(self._ends) and self._ends[0] == self._first


class Stream(Generic[N]):
    """What the tunnel knows of stream 0 and of each sub-stream.

    Args:
        number: 0 for the messages, else the sub-stream's id.
        state: what the other end may do on it.
    """

    def __init__(self, number: int, state: StreamState, outgoing: Outgoing[N], incoming: Incoming[N]) -> None:
        self.number = number
        self.state = state
        self.outgoing = outgoing
        self.incoming = incoming
        self.close_wanted = False  # CLOSE is to follow what is held
        self.close_queued = False  # CLOSE is to leave before all data: one of the two ends gave up
        self.close_sent = False
        self.stop_code: ErrorCode | None = None  # a CLOSE with this code is to follow CLOSE 0

    def advance(self, event: StreamEvent) -> StreamState:
        """Let a chunk count, and return the state that it met. Raises MalformedMessage: not legal there."""
        before = self.state
        self.state = next_stream_state(before, event, self.number)
        return before

    @property
    def is_due(self) -> bool:
        """A chunk of it can be made now: data, an end of message, or CLOSE behind the last data."""
        if self.close_sent or self.close_queued:
            return False
        return self.outgoing.is_due or (self.close_wanted and not self.outgoing.holds)

    @property
    def is_gone(self) -> bool:
        return self.close_sent and self.state is StreamState.ENDED


class SubStream(Generic[N]):
    """One bidirectional byte stream inside a tunnel. Made by `EstablishedTunnel.open` and `accept`.

    Attributes:
        number: its id. target: where it leads.
        readable, writable: notifiers for `readinto`, and for `write`, `check_opened`.
        ended: notifier, set when `has_ended` or `failure` has changed.
        failure: why neither half goes on, once that is so.
    """

    def __init__(
        self,
        stream: Stream[N],
        target: Target,
        *,
        is_ours: bool,
        ended: N,
        on_confirm: Callable[[], None],
        on_close: Callable[[], None],
        on_give_up: Callable[[ErrorCode], None],
        on_stop: Callable[[ErrorCode], None],
    ) -> None:
        self.number = stream.number
        self.target = target
        self._stream = stream
        self._is_ours = is_ours
        self._is_confirmed = is_ours
        self._on_confirm = on_confirm
        self._on_close = on_close
        self._on_give_up = on_give_up
        self._on_stop = on_stop
        self.ended = ended
        self.failure: PeerError | None = None
        self._unwanted: PeerError | None = None  # the other end reads no more

    @property
    def has_ended(self) -> bool:
        """Nothing is left to do for it: both ends have closed their halves, or one gave it up."""
        return self.failure is not None or self._stream.is_gone

    @property
    def is_closed(self) -> bool:
        """This end has closed its half."""
        return self._stream.close_wanted

    @property
    def ignored_bytes(self) -> int:
        """What has come since `finish`."""
        return self._stream.incoming.ignored_bytes

    @property
    def readable(self) -> N:
        """Set when `readinto` is worth another try."""
        return self._stream.incoming.readable

    @property
    def writable(self) -> N:
        """Set when `write` or `check_opened` is worth another try."""
        return self._stream.outgoing.writable

    def fail(self, error: PeerError) -> None:
        """For the tunnel: every call raises `error` from now on."""
        if self.failure is None:
            self.failure = error
        self._stream.outgoing.drop()
        self._stream.incoming.fail(error)
        self.ended.set()

    def refuse_writes(self, error: PeerError) -> None:
        """For the tunnel: the other end, whose half has ended in order, reads no more.

        What has come of its half can still be read, or an answer would be lost with the half that it had no
        use for.
        """
        self._unwanted = error
        self._stream.outgoing.drop()

    def check_opened(self) -> None:
        """Return once the other end has confirmed. What is written before that is sent all the same.

        Raises:
            BlockingIOError: not yet; wait for `writable`. PeerError: it refused, or the tunnel ended.
        """
        if self.failure is not None:
            raise renewed(self.failure)
        if self._stream.state is StreamState.AWAIT_OPENED:
            raise BlockingIOError("the sub-stream is not confirmed yet")

    def confirm(self) -> None:
        """Accept a sub-stream that the other end opened; to refuse it, `give_up`.

        Raises:
            LocalTunnelError: it is this end's own, or confirmed already. PeerError: it has ended since.
        """
        if self.failure is not None:
            raise renewed(self.failure)
        if self._is_confirmed:
            raise LocalTunnelError("the sub-stream is this end's own, or confirmed already")
        self._is_confirmed = True
        self._on_confirm()

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read what is here: 0 is the end of the other end's half.

        Raises:
            BlockingIOError: nothing yet; wait for `readable`. PeerError: given up, or the tunnel ended.
            LocalTunnelError: not confirmed yet, or after `finish`.
        """
        if self.failure is not None:
            raise renewed(self.failure)
        self._check_confirmed()
        return self._stream.incoming.readinto(buffer)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take bytes to send, at most a chunk's; they are due at once.

        Raises:
            BlockingIOError: no room; wait for `writable`. PeerError: given up, or the tunnel ended, or the
            other end reads no more. LocalTunnelError: after `close`, or not confirmed yet.
        """
        if self.failure is not None:
            raise renewed(self.failure)
        self._check_confirmed()
        if self._unwanted is not None:
            raise renewed(self._unwanted)
        if self._stream.close_wanted or self._stream.close_sent:
            raise LocalTunnelError("write after close")
        return self._stream.outgoing.write(data)

    def close(self) -> None:
        """End this half, behind what was written; the other half goes on. More than once does no harm.

        Raises:
            LocalTunnelError: not confirmed yet.
        """
        if self.failure is None and not self._stream.close_wanted:
            self._check_confirmed()
            self._stream.close_wanted = True
            self._on_close()

    def finish(self) -> None:
        """Close this half, and throw away what still comes on the other. Nothing if it has ended.

        One that waits for this end's confirmation is refused.
        """
        if not self._is_confirmed:
            self.give_up()
        self.close()
        if self.failure is None:
            self._stream.incoming.ignore()

    def stop(self, code: ErrorCode) -> None:
        """After `finish`: tell the other end, behind what was written, that nobody reads what it sends.

        It can still read all that was written here. Nothing if its half has ended.
        """
        if self.failure is None:
            self._on_stop(code)

    def give_up(self, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        """End both halves at once and tell the other end why. What was written and not sent is dropped."""
        code = member(ErrorCode, code, "code")
        if self.failure is None:
            self._on_give_up(code)

    def _check_confirmed(self) -> None:
        if not self._is_confirmed:
            raise LocalTunnelError("the sub-stream waits for this end: confirm it first, or give it up")


class MessageWriter(Generic[N]):
    """The messages that this end sends, one after the other, each of any length.

    Attributes:
        writable: notifier for `write` and `end`.
    """

    def __init__(self, stream: Stream[N]) -> None:
        self._stream = stream
        self.writable = stream.outgoing.writable
        self._error: PeerError | None = None

    def fail(self, error: PeerError) -> None:
        """For the tunnel: every call raises `error` from now on."""
        if self._error is None:
            self._error = error
        self._stream.outgoing.drop()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take bytes of the message, at most a chunk's; they leave when a chunk is full, at `flush` or `end`.

        Raises:
            BlockingIOError: no room; wait for `writable`. PeerError: the tunnel ended.
            LocalTunnelError: after the tunnel's `close`.
        """
        self._check()
        return self._stream.outgoing.write(data)

    def flush(self) -> None:
        """Let what was written leave now. Raises as `write`, but never BlockingIOError."""
        self._check()
        self._stream.outgoing.flush()

    def end(self) -> None:
        """End the message; the next `write` begins another. Without any `write`: an empty message.

        Raises as `write`.
        """
        self._check()
        self._stream.outgoing.end()

    def _check(self) -> None:
        if self._error is not None:
            raise renewed(self._error)
        if self._stream.close_wanted or self._stream.close_sent:
            raise LocalTunnelError("a message after the tunnel was closed")
