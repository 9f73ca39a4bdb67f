"""What the user of an established tunnel holds: the messages each way, and sub-streams.

They are streams in the sense of `readwrite_comp`: `readinto` and `write` may handle fewer bytes than asked
and raise BlockingIOError when nothing can be done now. Whoever waits, waits for the notifier named there. All
decisions about chunks are the tunnel's.

Source: docs/protocol.md, "Established tunnels".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from readwrite_comp.helpers import renewed
from tunnel.arguments import member
from tunnel.errors import ErrorCode, LocalTunnelError, PeerError
from tunnel.established.halves import Incoming, N, Outgoing
from tunnel.established.layouts import StreamEvent, StreamState, Target, next_stream_state

__all__ = ["MessageWriter", "Stream", "SubStream"]


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
