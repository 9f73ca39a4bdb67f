"""The streams of an established tunnel: the two halves of each, and the objects for their user.

    Outgoing, Incoming                 one half: bytes to send, bytes to read
    StreamHalves                       both halves of a stream with its state, for the tunnel
    MessageWriter, IncomingMessages    stream 0, the messages, for the user
    SubStream                          a sub-stream, for the user

The user's objects are streams in the sense of `readwrite_comp`: `readinto` and `write` may handle fewer bytes
than asked, and raise BlockingIOError when nothing can be done now. A caller then waits for the notifier that
the method names. Their buffers are `bytes`, a `bytearray` or a view of bytes; the node converts all others.

Memory is bounded: an outgoing half holds the data of one chunk, an incoming half one window. An end of
message counts as 16 bytes more than its data, because its position is stored.

Rule for changing it: a half knows neither chunks nor states; the table decides about both. A half calls
`changed` when something becomes due, and sets its notifier when a call that raised BlockingIOError is worth
another try.

Source: docs/protocol.md, "Established tunnels".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from readwrite_comp.errors import renewed
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
    "OwnTunnel",
    "StreamHalves",
    "SubStream",
]


END_COST_BYTES = 16


class Notifier(Protocol):
    """Wakes a waiting service: `reactor.Signal`, or anything with `set`."""

    def set(self) -> None:
        """Announce that a call may succeed now."""


N = TypeVar("N", bound=Notifier)


class Outgoing(Generic[N]):
    """Bytes to send.

    Args:
        capacity: data bytes of a chunk, the most that it holds.
        credit: bytes that may be sent before the other end grants more.
        eager: written bytes are due immediately; otherwise when the chunk is full, flushed or ended.
        writable: set when `write` or `end` is worth another try.
        changed: called when something becomes due.
    """

    def __init__(
        self, capacity: int, credit: int, *, eager: bool, writable: N, changed: Callable[[], None]
    ) -> None:
        self.writable = writable
        self.credit = credit
        self.capacity = capacity
        self._eager = eager
        self._changed = changed
        self._buffer = bytearray()
        self._pushed = False  # flushed, so due although not full
        self._end_wanted = False
        self._in_message = False  # a message has begun, and its end has not been sent

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take as much as there is room for. Raises BlockingIOError: no room; wait for `writable`."""
        room = self.capacity - len(self._buffer)
        if self._end_wanted or (data and not room):
            raise BlockingIOError("the stream's outgoing chunk is full")
        taken = min(len(data), room)
        self._buffer += data[:taken]
        if taken:
            self._in_message = True
            self._pushed |= self._eager
            if self.is_due:
                self._changed()
        return taken

    def flush(self) -> None:
        """Make the held bytes due, although the chunk is not full."""
        if self._buffer:
            self._pushed = True
            self._changed()

    def end(self) -> None:
        """Mark the end of the message. Raises BlockingIOError: the previous end has not been sent yet."""
        if self._end_wanted:
            raise BlockingIOError("the end of the previous message has not been sent yet")
        self._end_wanted = self._in_message = True
        self._changed()

    def add_credit(self, amount: int, limit: int) -> None:
        """Add credit from the other end. Raises MalformedMessage: the sum exceeds `limit`, its window."""
        if self.credit + amount > limit:
            raise MalformedMessage(
                f"CREDIT of {amount} bytes in addition to {self.credit} exceeds the window of {limit} bytes"
            )
        self.credit += amount
        if self.is_due:
            self._changed()

    @property
    def held_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._buffer)

    @property
    def is_inside_message(self) -> bool:
        """A message has begun, and `end` was not called."""
        return self._in_message and not self._end_wanted

    @property
    def holds(self) -> bool:
        """Bytes or an end of message wait to be sent."""
        return bool(self._buffer) or self._end_wanted

    @property
    def is_due(self) -> bool:
        """A chunk can be made now."""
        if self._end_wanted and self.credit >= len(self._buffer) + END_COST_BYTES:
            return True
        if not self._buffer or not self.credit:
            return False
        return self._end_wanted or self._pushed or len(self._buffer) == self.capacity

    def take(self, out: memoryview) -> tuple[int, bool]:
        """Move the due bytes into a chunk's data. Returns the length, and whether a message ends there."""
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
        """Discard the held bytes; nothing more is sent."""
        self._buffer.clear()
        self._end_wanted = self._pushed = self._in_message = False
        self.writable.set()


class Incoming(Generic[N]):
    """Received bytes that wait for their reader.

    Args:
        window: bytes that the other end may send before this end grants more.
        readable: set when a read is worth another try.
        changed: called when at least half of the window can be granted again.
    Attributes:
        is_ignored: this end has stopped reading; `ignored_bytes` were discarded since.
    """

    def __init__(self, window: int, *, readable: N, changed: Callable[[], None]) -> None:
        self.readable = readable
        self._window = window
        self._changed = changed
        self._left = window  # bytes that the other end may still send
        self._grantable = 0  # read, not granted yet
        self._buffer = bytearray()
        self._is_over = False
        self._error: PeerError | None = None
        self.is_ignored = False
        self.ignored_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes that wait to be read."""
        return len(self._buffer)

    @property
    def has_ended(self) -> bool:
        """Nothing more will arrive; received bytes may still wait to be read."""
        return self._is_over or self._error is not None

    def put(self, data: memoryview) -> None:
        """Add the data of a chunk. Raises MalformedMessage: more than was granted."""
        self._charge(len(data))
        if self.is_ignored:
            self.ignored_bytes += len(data)
            self._consumed(len(data))
            return
        self._buffer += data
        self.readable.set()

    def ignore(self) -> None:
        """Stop reading: discard unread and further content. The other end can continue to send."""
        self.is_ignored = True
        count = len(self._buffer)
        self._buffer.clear()
        self._consumed(count)
        self.readable.set()

    def discard(self, data: memoryview) -> None:
        """Count data that is dropped. Raises as `put`."""
        self._charge(len(data))

    def finish(self) -> None:
        """The other end has closed its half."""
        self._is_over = True
        self.readable.set()

    def fail(self, error: PeerError) -> None:
        """Drop unread content; reads raise `error` from now on."""
        if self._error is None:
            self._error = error
        self._buffer.clear()
        self.readable.set()

    def read(self, limit_bytes: int) -> bytes:
        """Read up to `limit_bytes` of the available bytes, as `readinto`; b"" at the end."""
        buffer = bytearray(min(limit_bytes, len(self._buffer)) or 1)
        count = self.readinto(buffer)
        return bytes(memoryview(buffer)[:count])

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read the available bytes; 0 at the end, or for an empty buffer.

        Raises:
            BlockingIOError: no data yet; wait for `readable`. PeerError: no more data will arrive; the
            error has the reason.
        LocalTunnelError: this end has stopped reading.
        """
        if self._error is not None:
            raise renewed(self._error)
        if self.is_ignored:
            raise LocalTunnelError("this end has finished the sub-stream and no longer reads it")
        count = self._move(buffer, len(self._buffer))
        if buffer and not count and not self._is_over:
            raise BlockingIOError("nothing to read on the stream yet")
        return count

    def take_credit(self) -> int:
        """Take the credit for all bytes read since the last call; 0 if the other end has ended."""
        amount = 0 if self.has_ended else self._grantable
        self._grantable -= amount
        self._left += amount
        return amount

    def _charge(self, cost: int) -> None:
        if cost > self._left:
            raise MalformedMessage(f"{cost} bytes on a stream with {self._left} bytes of credit left")
        self._left -= cost

    def _move(self, buffer: bytearray | memoryview, here: int) -> int:
        """Move up to `here` bytes into `buffer`."""
        count = min(len(buffer), here)
        if count:
            buffer[:count] = memoryview(self._buffer)[:count]
            del self._buffer[:count]
            self._consumed(count)
        return count

    def _consumed(self, amount: int) -> None:
        self._grantable += amount
        if 2 * self._grantable >= self._window and not self._is_over:
            self._changed()


class IncomingMessages(Incoming[N]):
    """The incoming half of stream 0: messages, one after the other.

    `next_message` begins a message; `readinto` reads it and returns 0 at its end, `read` b"".

    Attributes:
        is_arriving: a part of a message has arrived, its end has not.
    """

    def __init__(self, window: int, *, readable: N, changed: Callable[[], None]) -> None:
        super().__init__(window, readable=readable, changed=changed)
        self._first = 0  # position of the buffer's first byte in the stream
        self._ends: deque[int] = deque()  # positions of the ends of messages
        self.is_arriving = False
        self._is_reading = False

    def put(self, data: memoryview, *, is_end: bool = False) -> None:
        self._charge(len(data) + END_COST_BYTES * is_end)
        self._buffer += data
        self.is_arriving = not is_end
        if is_end:
            self._ends.append(self._first + len(self._buffer))
        self.readable.set()

    def finish(self) -> None:
        """The other end sends no more messages. Raises MalformedMessage: the last one is incomplete."""
        if self.is_arriving:
            raise MalformedMessage("the other end closed the messages inside a message")
        super().finish()

    def fail(self, error: PeerError) -> None:
        super().fail(error)
        self._ends.clear()

    def next_message(self) -> bool:
        """Begin the next message. The previous one must have been read completely.

        Returns:
            True: a message has begun. False: the other end has closed, no message follows.
        Raises:
            BlockingIOError: not known yet; wait for `readable`. PeerError: the reason of an early end.
            LocalTunnelError: the previous message has unread bytes.
        """
        if self._error is not None:
            raise renewed(self._error)
        if self._is_reading:
            if not self._is_at_end:
                raise LocalTunnelError("the previous message has not been read completely")
            self._ends.popleft()
            self._is_reading = False
            self._consumed(END_COST_BYTES)
        if self._buffer or self._ends:
            self._is_reading = True
            return True
        if self._is_over:
            return False
        raise BlockingIOError("no message yet")

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read from the message that `next_message` began; 0 at its end.

        Raises:
            BlockingIOError: nothing is here yet; wait for `readable`. PeerError: why nothing more will
                arrive.
            LocalTunnelError: no message was begun.
        """
        if self._error is not None:
            raise renewed(self._error)
        if not self._is_reading:
            raise LocalTunnelError("no message has been begun: call next_message first")
        here = self._ends[0] - self._first if self._ends else len(self._buffer)
        count = self._move(buffer, here)
        self._first += count
        if buffer and not count and not self._is_at_end:
            raise BlockingIOError("nothing of the message to read yet")
        return count

    @property
    def is_inside_message(self) -> bool:
        """Whether a message was begun and has unread bytes or more to come."""
        return self._is_reading and not self._is_at_end and self._error is None

    @property
    def _is_at_end(self) -> bool:
        return bool(self._ends) and self._ends[0] == self._first


class StreamHalves(Generic[N]):
    """Both halves of stream 0 or of a sub-stream, and their state, as the tunnel keeps them.

    Args:
        number: 0 for the messages, else the id of the sub-stream.
        state: of the other end's side.
    """

    def __init__(self, number: int, state: StreamState, outgoing: Outgoing[N], incoming: Incoming[N]) -> None:
        self.number = number
        self.state = state
        self.outgoing = outgoing
        self.incoming = incoming
        # The CLOSE of this end. Three facts, not one state: a CLOSE with a code may follow an orderly CLOSE,
        # and is then queued and sent at the same time.
        self.close_wanted = False  # CLOSE follows the held bytes
        self.close_queued = False  # CLOSE goes before all data, because one of the ends gave up
        self.close_sent = False
        self.stop_code: ErrorCode | None = None  # a CLOSE with this code follows the orderly CLOSE

    def advance(self, event: StreamEvent) -> StreamState:
        """Apply a chunk. Returns the state before it. Raises MalformedMessage: not legal in that state."""
        before = self.state
        self.state = next_stream_state(before, event, self.number)
        return before

    @property
    def is_due(self) -> bool:
        """A chunk can be made now: data, an end of message, or CLOSE after the last data."""
        if self.close_sent or self.close_queued:
            return False
        return self.outgoing.is_due or (self.close_wanted and not self.outgoing.holds)

    @property
    def is_gone(self) -> bool:
        return self.close_sent and self.state is StreamState.ENDED


class OwnTunnel(Protocol[N]):
    """The tunnel of a sub-stream, for the service of that: see `EstablishedTunnel`."""

    openable: N

    @property
    def binding(self) -> bytes | None: ...
    def open(self, target: Target, proof: bytes = b"") -> SubStream[N]: ...


class SubStream(Generic[N]):
    """A two-way byte stream inside a tunnel, from `EstablishedTunnel.open` or `accept`.

    Attributes:
        number: its id. target: its destination.
        tunnel: in which its service may open others.
        proof: that its opener holds a client key (`tunnel.identity.client_key`); b"": none was given, or
            this end is Alice, who checks none.
        readable, writable: notifiers for `readinto`, and for `write`, `check_opened`.
        ended: notifier, set when `has_ended` or `failure` has changed.
        failure: the reason of an early end of both halves; None: no early end.
    """

    def __init__(
        self,
        stream: StreamHalves[N],
        target: Target,
        proof: bytes,
        *,
        is_confirmed: bool,
        tunnel: OwnTunnel[N],
        ended: N,
        on_confirm: Callable[[], None],
        on_close: Callable[[], None],
        on_give_up: Callable[[ErrorCode], None],
        on_stop: Callable[[ErrorCode], None],
    ) -> None:
        self.number = stream.number
        self.target = target
        self.proof = proof
        self.halves = stream
        self.tunnel = tunnel
        self._is_confirmed = is_confirmed
        self._on_confirm = on_confirm
        self._on_close = on_close
        self._on_give_up = on_give_up
        self._on_stop = on_stop
        self.ended = ended
        self.failure: PeerError | None = None
        self._unwanted: PeerError | None = None  # the other end has stopped reading

    @property
    def has_ended(self) -> bool:
        """Both ends have closed their halves, or one gave up."""
        return self.failure is not None or self.halves.is_gone

    @property
    def binding(self) -> bytes:
        """32 bytes that only the two ends of this tunnel know; a proof is a signature of them.

        Raises:
            LocalTunnelError: the tunnel is not established yet.
        """
        binding = self.tunnel.binding
        if binding is None:
            raise LocalTunnelError("the tunnel is not established yet")
        return binding

    @property
    def chunk_data_bytes(self) -> int:
        """Bytes that one chunk carries: writes of a multiple fill whole chunks."""
        return self.halves.outgoing.capacity

    @property
    def is_confirmed(self) -> bool:
        """This end has opened it, or has accepted it by `confirm`."""
        return self._is_confirmed

    @property
    def is_closed(self) -> bool:
        """This end has closed its half."""
        return self.halves.close_wanted

    @property
    def ignored_bytes(self) -> int:
        """Bytes that arrived after `finish`."""
        return self.halves.incoming.ignored_bytes

    @property
    def readable(self) -> N:
        """Set when `readinto` is worth another try."""
        return self.halves.incoming.readable

    @property
    def writable(self) -> N:
        """Set when `write` or `check_opened` is worth another try."""
        return self.halves.outgoing.writable

    def fail(self, error: PeerError) -> None:
        """For the tunnel: every call raises `error` from now on."""
        if self.failure is None:
            self.failure = error
        self.halves.outgoing.drop()
        self.halves.incoming.fail(error)
        self.ended.set()

    def refuse_writes(self, error: PeerError) -> None:
        """For the tunnel: the other end has closed its half, and has stopped reading.

        Its bytes can still be read here; otherwise its answer would be lost with the half that it refuses.
        """
        self._unwanted = error
        self.halves.outgoing.drop()

    def check_opened(self) -> None:
        """Check that the other end has confirmed. Bytes written earlier are sent in any case.

        Raises:
            BlockingIOError: not yet; wait for `writable`. PeerError: it refused, or the tunnel ended.
        """
        if self.failure is not None:
            raise renewed(self.failure)
        if self.halves.state is StreamState.AWAIT_OPENED:
            raise BlockingIOError("the sub-stream is not confirmed yet")

    def confirm(self) -> None:
        """Accept a sub-stream that the other end opened. Use `give_up` to refuse it.

        Raises:
            LocalTunnelError: this end opened it, or has confirmed it already. PeerError: it has ended.
        """
        if self.failure is not None:
            raise renewed(self.failure)
        if self._is_confirmed:
            raise LocalTunnelError("this end opened the sub-stream, or has confirmed it already")
        self._is_confirmed = True
        self._on_confirm()

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read the available bytes; 0 at the end of the other end's half.

        Raises:
            BlockingIOError: nothing yet; wait for `readable`. PeerError: given up, or the tunnel ended.
            LocalTunnelError: not confirmed yet, or after `finish`.
        """
        self._check_readable()
        return self.halves.incoming.readinto(buffer)

    def read(self, limit_bytes: int) -> bytes:
        """Read the available bytes, up to a limit, as new bytes; b"" at the end. Raises as `readinto`."""
        self._check_readable()
        return self.halves.incoming.read(limit_bytes)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take bytes to send, at most a chunk of them; they are due immediately.

        Raises:
            BlockingIOError: no room; wait for `writable`. PeerError: given up, or the tunnel ended, or the
            other end has stopped reading. LocalTunnelError: after `close`, or not confirmed yet.
        """
        if self.failure is not None:
            raise renewed(self.failure)
        self._check_confirmed()
        if self._unwanted is not None:
            raise renewed(self._unwanted)
        if self.halves.close_wanted or self.halves.close_sent:
            raise LocalTunnelError("write after close")
        return self.halves.outgoing.write(data)

    def close(self) -> None:
        """End this half after the written bytes; the other half continues. Repeated calls have no effect.

        Raises:
            LocalTunnelError: not confirmed yet.
        """
        if self.failure is None and not self.halves.close_wanted:
            self._check_confirmed()
            self.halves.close_wanted = True
            self._on_close()

    def finish(self) -> None:
        """Close this half, and discard what still arrives on the other. No effect after the end.

        A sub-stream that waits for this end's confirmation is refused.
        """
        if not self._is_confirmed:
            self.give_up()
        self.close()
        if self.failure is None:
            self.halves.incoming.ignore()

    def stop(self, code: ErrorCode) -> None:
        """After `finish`: tell the other end, after the written bytes, that its data is not read.

        It can still read all that was written here. No effect if its half has ended.
        """
        if self.failure is None:
            self._on_stop(code)

    def give_up(self, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        """End both halves now, and send the reason. Unsent bytes are dropped."""
        code = member(ErrorCode, code, "code")
        if self.failure is None:
            self._on_give_up(code)

    def _check_readable(self) -> None:
        if self.failure is not None:
            raise renewed(self.failure)
        self._check_confirmed()

    def _check_confirmed(self) -> None:
        if not self._is_confirmed:
            raise LocalTunnelError("the sub-stream is not confirmed: confirm it first, or give it up")


class MessageWriter(Generic[N]):
    """Sends messages, one after the other, each of any length.

    Attributes:
        writable: notifier for `write` and `end`.
    """

    def __init__(self, stream: StreamHalves[N]) -> None:
        self.halves = stream
        self.writable = stream.outgoing.writable
        self._error: PeerError | None = None

    def fail(self, error: PeerError) -> None:
        """For the tunnel: every call raises `error` from now on."""
        if self._error is None:
            self._error = error
        self.halves.outgoing.drop()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take bytes of the message, at most a chunk of them; sent when a chunk is full, flushed or ended.

        Raises:
            BlockingIOError: no room; wait for `writable`. PeerError: the tunnel ended.
            LocalTunnelError: after the tunnel's `close`.
        """
        self._check()
        return self.halves.outgoing.write(data)

    def flush(self) -> None:
        """Send the written bytes now. Raises as `write`, but never BlockingIOError."""
        self._check()
        self.halves.outgoing.flush()

    def end(self) -> None:
        """End the message; the next `write` begins another. Without a `write` it is an empty message.

        Raises as `write`.
        """
        self._check()
        self.halves.outgoing.end()

    def _check(self) -> None:
        if self._error is not None:
            raise renewed(self._error)
        if self.halves.close_wanted or self.halves.close_sent:
            raise LocalTunnelError("the tunnel is closed: it accepts no more messages")
