"""`Splice` joins a TCP connection and a sub-stream of a tunnel, at either end of the tunnel.

Each direction is copied by its own service, so either may end first: the end of one becomes a half-close of
the other, as between two sockets. If the receiver of a direction does not read, its sender is stopped by the
socket's window or the credit of the sub-stream. Each direction holds the bytes of one read at most, and
nothing while it waits for its source.

A broken connection never looks like a normal end. It is noticed within 10 s, even while nothing is read from
it. A reset of the socket ends the sub-stream with code DISCONNECTED. If the sub-stream is aborted or its
tunnel breaks, the socket is reset.
"""

from __future__ import annotations

import math
from typing import Final

from reactor import Broken, ReadYield, Scope, Service, Signal, Sleep, SocketStream, WriteYield
from tunnel.errors import ErrorCode, PeerError
from tunnel.established import SubStream

__all__ = ["Splice"]

_READ_BYTES: Final = 64 * 1024
_LOOK_S: Final = 5.0  # between two looks at a connection; after two without a byte it may be found broken


class Splice:
    """A socket joined with a sub-stream. When `run` returns, both have ended.

    Args:
        stream: confirmed, if the other end has opened it.
        idle_s: end both when no byte has moved in either direction for this time, or up to half as much more;
            None: never.
        half_open_s: the same when one direction has ended in order, if it is shorter.
        bytes_per_s: most bytes a second in each direction; None: no limit.
    Attributes:
        sent_bytes: into the tunnel. received_bytes: out of the tunnel.
    """

    def __init__(
        self,
        sock: SocketStream,
        stream: SubStream[Signal],
        *,
        idle_s: float | None = None,
        half_open_s: float = math.inf,
        bytes_per_s: int | None = None,
    ) -> None:
        self._sock = sock
        self._stream = stream
        self._idle_s = math.inf if idle_s is None else idle_s
        self._half_open_s = half_open_s
        self._bytes_per_s = bytes_per_s
        # A piece takes a second at most, so that the pause after it is no silence.
        self._piece_bytes = _READ_BYTES if bytes_per_s is None else min(_READ_BYTES, bytes_per_s)
        self._failure: PeerError | None = None
        self._copying = 2  # directions that have not ended
        self.sent_bytes = self.received_bytes = 0

    def run(self, first: bytes = b"") -> Service[None]:
        """Copy until both directions have ended.

        Args:
            first: bytes that were already read from the socket; they go into the tunnel.
        Raises:
            PeerError: the socket broke (DISCONNECTED), the sub-stream or its tunnel did (their code), or
                nothing moved (TIMEOUT). The other one was aborted, as at a cancellation.
        """
        scope = Scope("splice")
        code: ErrorCode | None = ErrorCode.CANCELLED
        try:
            yield from scope.spawn(self._copy(self._send(first), scope), name="into the tunnel")
            yield from scope.spawn(self._copy(self._receive(), scope), name="out of the tunnel")
            yield from scope.spawn(self._watch(scope), name="watch")
            yield from scope.join()
            if self._failure is not None:
                code = self._failure.code
                raise self._failure
            code = None
        finally:
            try:
                yield from scope.close()
            finally:
                self._end(code)

    def _end(self, code: ErrorCode | None) -> None:
        """End both, in order (None) or not."""
        if code is not None:
            self._sock.abort()
            self._stream.give_up(code)
            return
        self._sock.close()
        # What was written is still sent. If the socket's program left early, the other end learns it.
        self._stream.finish()
        self._stream.stop(ErrorCode.DISCONNECTED)

    def _copy(self, direction: Service[None], scope: Scope) -> Service[None]:
        """Run one direction; the last to end, or the first to fail, ends the rest."""
        try:
            yield from direction
        except Broken as error:
            self._fail(PeerError(str(error), ErrorCode.DISCONNECTED), scope)
        except PeerError as error:
            self._fail(error, scope)
        self._copying -= 1
        if not self._copying:
            scope.cancel()

    def _fail(self, error: PeerError, scope: Scope) -> None:
        self._failure = self._failure or error
        scope.cancel()

    def _send(self, first: bytes) -> Service[None]:
        """From the socket into the tunnel."""
        stream = self._stream
        reader, writer = ReadYield(self._sock), WriteYield(stream)
        # Whole chunks: the rest of a read would go in one that is mostly empty.
        read_bytes = max(1, self._piece_bytes // stream.chunk_data_bytes) * stream.chunk_data_bytes
        data = first or (yield from reader.read(read_bytes))
        try:
            while data:
                yield from writer.write_all(data)
                self.sent_bytes += len(data)
                if self._bytes_per_s is not None:
                    yield Sleep(len(data) / self._bytes_per_s)
                data = yield from reader.read(read_bytes)
        except PeerError:
            if stream.failure is not None:
                raise
            return  # the other end reads no more; what it sends is still good
        stream.close()

    def _receive(self) -> Service[None]:
        """From the tunnel to the socket."""
        reader, writer = ReadYield(self._stream), WriteYield(self._sock)
        try:
            while data := (yield from reader.read(self._piece_bytes)):
                yield from writer.write_all(data)
                self.received_bytes += len(data)
                if self._bytes_per_s is not None:
                    yield Sleep(len(data) / self._bytes_per_s)
            self._sock.shutdown_write()
        except Broken:
            # A program may answer and close before it has read all. What it sent is still good; if the
            # connection broke instead, reading it fails as well.
            pass

    def _watch(self, scope: Scope) -> Service[None]:
        """End what has been silent for too long, or whose socket broke while neither side takes bytes."""
        half_open_s = min(self._idle_s, self._half_open_s)
        tick_s = min(half_open_s / 2, _LOOK_S)
        last, silent_s, limit_s = (0, 0), 0.0, self._idle_s
        while silent_s < limit_s:
            yield Sleep(tick_s)
            now = self.sent_bytes + self.received_bytes, self._copying  # the end of a direction is no silence
            if now == last and self._sock.is_lost:
                self._fail(PeerError("the connection broke", ErrorCode.DISCONNECTED), scope)
                return
            silent_s = silent_s + tick_s if now == last else 0.0
            last = now
            limit_s = self._idle_s if self._copying == 2 else half_open_s
        self._fail(PeerError(f"no byte moved for {limit_s:g} s", ErrorCode.TIMEOUT), scope)
