"""Sub-streams of established tunnels: as services use them, and what a node does with those that are opened
to it.

Nothing is reachable unless a rule says so: a sub-stream whose target the node's service does not know is
refused with TARGET_NOT_ALLOWED. One that fails does no harm to the tunnel that carries it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from reactor import ReadYield, Scope, Service, Signal, WriteYield
from readwrite_comp.helpers import byte_view
from tunnel.errors import ErrorCode, LocalTunnelError, PeerError, TargetNotAllowed
from tunnel.established import SubStream, Target, TargetKind
from tunnel.services import InnerService

__all__ = ["StreamHandler", "TunnelStream", "refuse_stream", "serve_streams", "service_handler"]

log = logging.getLogger("tunnel.node")


class TunnelStream:
    """A sub-stream: bytes in both directions, for services. One reads, one writes.

    Attributes:
        target: where it leads.

    Raises, from `read` and `write`: SubStreamReset when one of both ends gave it up; its `code` says why.
        PeerError when the tunnel has ended.
    """

    def __init__(self, stream: SubStream[Signal]) -> None:
        self.stream = stream
        self.target: Target = stream.target
        self._reader = ReadYield(stream)
        self._writer = WriteYield(stream)

    def read(self, limit_bytes: int = 65_536) -> Service[bytes]:
        """The next bytes; b"" when the other end has closed its half."""
        buffer = bytearray(limit_bytes)
        count = yield from self._reader.readinto(buffer)
        return bytes(memoryview(buffer)[:count])

    def write(self, data: bytes) -> Service[None]:
        """Send bytes; they leave at once. Cancellation: some, all or none of them are sent."""
        if len(view := byte_view(data)):
            yield from self._writer.write_all(view)

    def opened(self) -> Service[None]:
        """Wait until the other end has accepted it."""
        yield from self._writer.call(lambda _: self.stream.check_opened())

    def confirm(self) -> None:
        """Accept one that the other end has opened."""
        self.stream.confirm()

    def close(self) -> None:
        """End this half, behind what was written."""
        self.stream.close()

    def give_up(self, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        """End both halves now. Nothing if it has ended."""
        self.stream.give_up(code)


StreamHandler: TypeAlias = Callable[[TunnelStream], Service[None]]
"""Serves a sub-stream that the other end has opened: `confirm`s it, or raises TargetNotAllowed."""


def refuse_stream(stream: TunnelStream) -> Service[None]:
    """The handler of who offers nothing."""
    raise TargetNotAllowed("sub-streams are not served here")
    yield


def service_handler(service: InnerService) -> StreamHandler:
    """A handler for targets of kind SERVICE: what comes is a query, and the reply goes back."""

    def handle(stream: TunnelStream) -> Service[None]:
        target = stream.target
        if target.kind is not TargetKind.SERVICE:
            raise TargetNotAllowed("this node connects to no addresses")
        named = service.find(target.address)
        stream.confirm()
        yield from named.handle(stream, _StreamReply(stream))
        while (yield from stream.read()):
            pass  # what the service left unread
        stream.close()

    return handle


class _StreamReply:
    """`Reply` as the way back of a sub-stream."""

    is_possible = True
    remaining = 0  # a sub-stream has one way back

    def __init__(self, stream: TunnelStream) -> None:
        self._stream = stream

    def write(self, data: bytes) -> Service[None]:
        yield from self._stream.write(data)

    def flush(self) -> Service[None]:
        return  # what is written to a sub-stream leaves at once
        yield

    def next(self) -> Service[None]:
        yield from ()
        raise LocalTunnelError("a sub-stream has one way back")


def serve_streams(accept: Callable[[], Service[TunnelStream]], handler: StreamHandler) -> Service[None]:
    """Serve the sub-streams that the other end opens, as long as the tunnel lives.

    Raises:
        PeerError: the tunnel has ended.
    """
    scope = Scope("sub-streams", fail_together=False)
    try:
        while True:
            stream = yield from accept()
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
    except (Exception, SystemExit):  # a user's sys.exit() is to end no node
        log.exception("the service of a sub-stream failed")
        code = ErrorCode.SERVICE_FAILED
    finally:
        if not has_ended:
            stream.give_up(code)
