"""Sub-streams of established tunnels: as services use them, and what a node does with those that are opened
to it.

Nothing is reachable by default: a sub-stream to a target that the node's service does not know is refused
with TARGET_NOT_ALLOWED. A sub-stream that fails does not affect its tunnel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from reactor import (
    YIELD,
    Cancelled,
    ReadYield,
    Scope,
    Service,
    Signal,
    WriteYield,
    move_on_after,
    needs_yield_from,
)
from reactor.errors import is_ctrl_c, log_failure
from readwrite_comp.helpers import byte_view, renewed
from tunnel.arguments import checked_count
from tunnel.errors import ErrorCode, LocalTunnelError, PeerError, TableFull, TargetNotAllowed
from tunnel.established import SubStream, Target, TargetKind
from tunnel.node.limits import Limits
from tunnel.node.waits import Turn, run_with_guards
from tunnel.services import InnerService
from tunnel.services.base import run_service

__all__ = ["StreamHandler", "TunnelStream", "refuse_stream", "serve_streams", "service_handler"]

log = logging.getLogger("tunnel.node")


class TunnelStream:
    """A sub-stream: bytes in both directions, for services. Concurrent readers take turns, as do writers.

    Attributes:
        target: where it leads.

    Raises, from `read` and `write`: SubStreamReset: one of the ends aborted it; `code` is the reason.
        PeerError: the tunnel has ended.
    """

    def __init__(self, stream: SubStream[Signal]) -> None:
        self.stream = stream
        self.target: Target = stream.target
        self._reader = ReadYield(stream)
        self._writer = WriteYield(stream)
        self._reading, self._writing = Turn(), Turn()

    @needs_yield_from
    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """Read bytes; b"" when the other end has closed its half."""
        buffer = bytearray(checked_count(limit_bytes, "limit_bytes", least=1))
        place = self._reading.enter()
        try:
            yield from self._reading.wait(place)
            count = yield from self._reader.readinto(buffer)
        finally:
            self._reading.leave(place)
        return bytes(memoryview(buffer)[:count])

    @needs_yield_from
    def write(self, data: bytes) -> Service[None]:
        """Send bytes immediately. Cancellation: some, all or none of them are sent."""
        view = byte_view(data)
        place = self._writing.enter()
        try:
            yield from self._writing.wait(place)
            if len(view):
                yield from self._writer.write_all(view)
        finally:
            self._writing.leave(place)

    @needs_yield_from
    def opened(self) -> Service[None]:
        """Wait for the other end to accept the sub-stream."""
        yield from self._writer.call(lambda _: self.stream.check_opened())

    def confirm(self) -> None:
        """Accept one that the other end has opened."""
        self.stream.confirm()

    def close(self) -> None:
        """End this half, behind what was written; the other goes on."""
        self.stream.close()

    def finish(self, silent_s: float, most_s: float) -> Service[None]:
        """End this half, and throw away what still comes until the other end has closed its own.

        An other end that is silent for `silent_s`, or sends for longer than `most_s`, is told that nobody
        reads. It can still read all that was written here.
        """
        stream, left_s = self.stream, most_s
        stream.finish()
        while not stream.has_ended and left_s > 0:
            before = stream.ignored_bytes
            yield from move_on_after(silent_s, self._wait_ended())
            left_s -= silent_s
            if stream.ignored_bytes == before:
                break
        stream.stop(ErrorCode.CANCELLED)

    def drop(self) -> None:
        """For one that its user has lost: what he closed is sent; one that he did not close is given up."""
        if self.stream.is_closed:
            self.stream.finish()
            self.stream.stop(ErrorCode.CANCELLED)
        else:
            self.stream.give_up(ErrorCode.CANCELLED)

    def watch(self) -> Service[None]:
        """Return when both ends have closed their halves. Raises PeerError: one has given it up."""
        yield from self._wait_ended()
        if self.stream.failure is not None:
            raise renewed(self.stream.failure)

    def _wait_ended(self) -> Service[None]:
        while not self.stream.has_ended:
            yield self.stream.ended

    def give_up(self, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        """End both halves now. Nothing if it has ended."""
        self.stream.give_up(code)


StreamHandler: TypeAlias = Callable[[TunnelStream], Service[None]]
"""Serves a sub-stream that the other end has opened: `confirm`s it, or raises TargetNotAllowed."""


def refuse_stream(stream: TunnelStream) -> Service[None]:
    """The handler of who offers nothing."""
    raise TargetNotAllowed("sub-streams are not served here")
    yield


def service_handler(service: InnerService, limits: Limits) -> StreamHandler:
    """A handler for targets of kind SERVICE: what comes is a query, and the reply goes back.

    The reply ends when the service returns, not when the query does: a client that waits for the end of the
    reply before it ends its own half would wait for ever.
    """

    def handle(stream: TunnelStream) -> Service[None]:
        target = stream.target
        if target.kind is not TargetKind.SERVICE:
            raise TargetNotAllowed("this node connects to no addresses")
        named = service.find(target.address)
        stream.confirm()
        # A service whose sub-stream is given up is cancelled where it waits, as that of a query is.
        yield from run_with_guards(run_service(named.handle, stream, _StreamReply(stream)), stream.watch())
        yield from stream.finish(limits.linger_s, limits.answer_s)

    return handle


class _StreamReply:
    """`Reply` as the way back of a sub-stream."""

    is_possible = True
    remaining = 0  # a sub-stream has one way back

    def __init__(self, stream: TunnelStream) -> None:
        self._stream = stream

    @needs_yield_from
    def write(self, data: bytes) -> Service[None]:
        yield from self._stream.write(data)

    @needs_yield_from
    def flush(self) -> Service[None]:
        return  # what is written to a sub-stream leaves at once
        yield

    @needs_yield_from
    def end(self) -> Service[None]:
        self._stream.close()
        yield YIELD

    @needs_yield_from
    def next(self) -> Service[None]:
        yield from ()
        raise LocalTunnelError("a sub-stream has one way back")


def serve_streams(
    accept: Callable[[], Service[TunnelStream]], handler: StreamHandler, *, most: int
) -> Service[None]:
    """Serve the sub-streams that the other end opens, as long as the tunnel lives.

    Args:
        most: that are served at once. A service may outlive its sub-stream, whose place the other end can use
            again: more are refused with BUSY.
    Raises:
        PeerError: the tunnel has ended.
    """
    scope = Scope("sub-streams", fail_together=False)
    try:
        while True:
            stream = yield from accept()
            if len(scope) >= most:
                log.debug("a sub-stream is refused: %d are served already", most)
                stream.give_up(TableFull.code)
                continue
            yield from scope.spawn(_serve(stream, handler), name="sub-stream")
    finally:
        yield from scope.close()


def _serve(stream: TunnelStream, handler: StreamHandler) -> Service[None]:
    code = ErrorCode.CANCELLED
    has_ended = False
    try:
        yield from handler(stream)
        has_ended = True
    except PeerError as error:
        log.debug("a sub-stream ended: %s: %s", type(error).__name__, error)
        code = error.code
    except (Cancelled, GeneratorExit):
        raise
    except BaseException as error:  # the other end learns of it
        if is_ctrl_c(error):
            raise
        log_failure(log, error, "the service of a sub-stream failed")
        code = ErrorCode.SERVICE_FAILED
    finally:
        if not has_ended:
            stream.give_up(code)
