"""A frame's two halves over one authenticated connection: where link bytes meet the socket.

`LinkStream` is a stream in the sense of `readwrite_comp`: `readinto` and `write` give short counts and raise
`BlockingIOError`, so ReadYield, WriteYield, layers and lending work on it as on a socket. Its read side
belongs to one service and its write side to one service; lending a side is passing the object.

What `write` takes is sealed at once but sent only by `flush`, or when the buffer is full: a proxy handles all
the chunks of one receive and then sends all that they became with one system call.
"""

from __future__ import annotations

import errno

from reactor import PASS, Broken, Request, SocketStream
from tunnel.errors import Disconnected, ErrorCode, LinkError, StreamReset, TunnelError
from tunnel.geometry import Profile
from tunnel.link.frames import NEED_DATA, Data, Event, Fin, FrameReceiver, FrameSender, GoAway, Open, Reset
from tunnel.link.noise import LinkKeys
from tunnel.link.records import RecordOpener, RecordSealer
from tunnel.primitives import TunnelEngine

__all__ = ["LinkStream"]

# System calls of one direction that were not refused, in a row: about a MiB. A layer that skips padding, or
# writes it, does so within one call; this is what keeps it from holding the node's thread.
_CALLS_PER_TURN = 8


class LinkStream:
    """One frame each way with one neighbour.

    Args:
        socket: connected, the handshake done; owned from here on.
        keys: of the finished handshake.
        peer_id: who is at the other end, proven by the handshake.
        dialled: True on the side that opens the frame; the other side must see OPEN first.
    """

    def __init__(
        self, socket: SocketStream, keys: LinkKeys, *, peer_id: bytes, dialled: bool, engine: TunnelEngine
    ) -> None:
        self._socket = socket
        self._sender = FrameSender(RecordSealer(keys.send_key, engine))
        self._receiver = FrameReceiver(RecordOpener(keys.receive_key, engine))
        self._payload = memoryview(b"")
        self._awaits_open = not dialled
        self._read_ended = False
        self._write_ended = False
        self._said_goodbye = False
        self._peer_leaves = False
        self._receives = 0
        self._sends = 0
        self._error: TunnelError | None = None
        self.peer_id = peer_id
        self.content_in = 0
        self.content_out = 0

    @property
    def readable(self) -> Request:
        """What to wait for after `readinto` raised BlockingIOError: news, or only everybody else's turn."""
        if self._receives >= _CALLS_PER_TURN:
            self._receives = 0
            return PASS
        return self._socket.readable

    @property
    def writable(self) -> Request:
        """What to wait for after `write` or `flush` raised BlockingIOError, as above."""
        if self._sends >= _CALLS_PER_TURN:
            self._sends = 0
            return PASS
        return self._socket.writable

    # -- reading ------------------------------------------------------------------------------------

    def read_open(self) -> Profile:
        """The profile that the peer opens its frame with.

        Raises:
            BlockingIOError: not here yet. LinkError: something else came first. ProfileError: unknown
                profile.
        """
        event = self._next_event()
        if not isinstance(event, Open):
            raise self._fail(LinkError(f"{type(event).__name__} before OPEN"))
        self._awaits_open = False
        return event.profile

    def readinto(self, buffer: memoryview) -> int:
        """Content of the peer's half.

        Returns:
            Bytes written into `buffer`; 0 after FIN, and only then (or for an empty buffer).
        Raises:
            BlockingIOError: nothing now. StreamReset: the peer ended it early. Disconnected: the connection
                broke,
            or ended without FIN. LinkError: forbidden bytes. All but the first are sticky.
        """
        if not len(buffer):
            return 0
        payload = self._payload
        if not payload:
            if self._read_ended:
                return 0
            event = self._next_event()
            if type(event) is Fin:
                self._read_ended = True
                return 0
            if type(event) is not Data or self._awaits_open:
                raise self._fail(LinkError(f"{type(event).__name__} where content or FIN was expected"))
            payload = event.payload
        count = min(len(buffer), len(payload))
        buffer[:count] = payload[:count]
        self._payload = payload[count:]
        self.content_in += count
        return count

    def _next_event(self) -> Event:
        if self._error is not None:
            raise self._error
        receiver = self._receiver
        while True:
            try:
                event = receiver.next_event()
            except TunnelError as error:
                raise self._fail(error) from None
            if type(event) is Reset:
                raise self._fail(StreamReset(event.code))
            if event is NEED_DATA:
                self._receive()
            elif type(event) is not GoAway:
                return event
            elif self._peer_leaves:
                raise self._fail(LinkError("second GOAWAY"))
            else:
                self._peer_leaves = True

    def _receive(self) -> None:
        receiver = self._receiver
        if self._receives >= _CALLS_PER_TURN:
            raise BlockingIOError(errno.EAGAIN, "others get their turn")
        if self._socket.drained:
            # The last receive emptied the kernel's buffer: asking again at once would only be refused.
            self._socket.drained = False
            self._receives = 0
            raise BlockingIOError(errno.EAGAIN, "nothing has come since the last receive")
        self._receives += 1
        try:
            count = self._socket.readinto(receiver.space())
        except BlockingIOError:
            self._receives = 0
            raise
        except Broken as error:
            raise self._fail(Disconnected(f"connection broke while reading: {error}")) from error
        if count == 0:
            raise self._fail(Disconnected("connection ended before FIN"))
        receiver.received(count)

    def discard(self) -> int:
        """Throw away what arrives, opened or not, until the connection ends.

        Returns:
            Bytes thrown away, 0 at the connection's end. Raises BlockingIOError while there is nothing.
        """
        receiver = self._receiver
        receiver.discard()
        try:
            return self._socket.readinto(receiver.space())
        except Broken:
            return 0  # it ended the hard way: nothing more can come, which is all that is asked here

    def _fail(self, error: TunnelError) -> TunnelError:
        self._error = error
        return error

    # -- writing ------------------------------------------------------------------------------------

    def open(self, profile: Profile) -> None:
        """Begin the frame; queued, not sent."""
        self._sender.open(profile)

    def write(self, data: bytes | memoryview) -> int:
        """Seal content into the outgoing buffer; send when it is full.

        Returns:
            Bytes taken, at least 1; 0 of empty data.
        Raises:
            BlockingIOError: no room and the socket takes nothing now. Disconnected: the connection broke.
        """
        if not len(data):
            return 0
        while not (count := self._sender.data(data)):
            self._push()
        self.content_out += count
        return count

    def flush(self) -> None:
        """Send all that is sealed.

        Raises:
            BlockingIOError: not all could be sent now; call again. Disconnected: the connection broke.
        """
        while not self._sender.is_empty:
            self._push()

    def finish(self) -> None:
        """End this half in order; queued, not sent. Again, or after a reset: nothing."""
        if not self._write_ended:
            self._write_ended = True
            self._sender.fin()

    def reset(self, code: ErrorCode) -> None:
        """End the stream early, both ways, with the reason; queued, not sent. Not after FIN."""
        if not self._write_ended:
            self._write_ended = True
            self._sender.reset(code)

    def go_away(self) -> None:
        """Say that nothing more will be opened; queued, not sent."""
        if not self._said_goodbye:
            self._said_goodbye = True
            self._sender.go_away()

    def _push(self) -> None:
        if self._sends >= _CALLS_PER_TURN:
            raise BlockingIOError(errno.EAGAIN, "others get their turn")
        self._sends += 1
        try:
            self._sender.sent(self._socket.write(self._sender.pending))
        except BlockingIOError:
            self._sends = 0
            raise
        except Broken as error:
            raise Disconnected(f"connection broke while writing: {error}") from error

    # -- ending -------------------------------------------------------------------------------------

    def shutdown_write(self) -> None:
        """Half-close: the peer reads to the end, we still read."""
        self._socket.shutdown_write()

    def close(self) -> None:
        """Close the connection at once; sealed bytes that were not sent are lost. Idempotent."""
        self._socket.close()
