"""The sub-streams that the other end of a tunnel opens: each is served by a named service, or refused.

Nothing is reachable by default: a sub-stream to a target that the node's service does not know is refused
with TARGET_NOT_ALLOWED. A sub-stream that fails does not affect its tunnel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from reactor import YIELD, Cancelled, Scope, Service, Signal, move_on_after, needs_yield_from
from reactor.errors import is_ctrl_c
from readwrite_comp.errors import renewed
from tunnel.errors import ErrorCode, LocalTunnelError, PeerError, TableFull, TargetNotAllowed
from tunnel.established import SubStream, TargetKind
from tunnel.node.context import NodeContext
from tunnel.node.tunnels.tunnel import TunnelStream
from tunnel.node.waits import run_with_guards
from tunnel.services import InnerService, Services, StreamService
from tunnel.services.base import run_service, running

__all__ = ["StreamHandler", "refuse_stream", "serve_streams", "service_handler"]

log = logging.getLogger("tunnel.node")


StreamHandler: TypeAlias = Callable[[TunnelStream], Service[None]]
"""Serves a sub-stream that the other end has opened: confirms it, or raises TargetNotAllowed."""


def refuse_stream(stream: TunnelStream) -> Service[None]:
    """The handler of an end that serves no sub-streams."""
    raise TargetNotAllowed("sub-streams are not served here")
    yield


def service_handler(service: InnerService, node: NodeContext) -> StreamHandler:
    """A handler for the services of a node.

    For an `InnerService` the sub-stream carries the query in, and the reply out. The reply ends when the
    service returns, not when the query does: a client that waits for the end of the reply before it ends its
    own half would wait forever.
    """

    limits = node.limits

    def handle(stream: TunnelStream) -> Service[None]:
        core, target = stream.core, stream.core.target
        is_named = target.kind is TargetKind.SERVICE
        named = service.find(target.address) if is_named else service.find_exit(target)
        label = service.label(target.address) if is_named and isinstance(service, Services) else ""
        if isinstance(named, StreamService):
            served = run_service(named.serve, core, label=label)
            yield from run_with_guards(_logged(node, served), _watch(core))
            yield from _finish(core, limits.linger_s, limits.answer_s)
            return
        core.confirm()
        # When the sub-stream is given up, the service is cancelled at its wait, as for queries.
        served = run_service(named.handle, stream, _StreamReply(stream), label=label)
        yield from run_with_guards(_logged(node, served), _watch(core))
        yield from _finish(core, limits.linger_s, limits.answer_s)

    return handle


def _logged(node: NodeContext, service: Service[None]) -> Service[None]:
    """Run a service. Raises PeerError: as it does, or (SERVICE_FAILED) for another error, which is logged."""
    try:
        yield from service
    except PeerError:
        raise
    except Exception as error:
        text = f"inner service {(yield from running())} failed in a sub-stream"
        node.log_limit.failure("failed in an inner service", error, text)
        raise PeerError(f"inner service failed: {type(error).__name__}", ErrorCode.SERVICE_FAILED) from error


def _watch(core: SubStream[Signal]) -> Service[None]:
    """Return when both ends have closed their halves. Raises PeerError: one end has given the stream up."""
    yield from _wait_ended(core)
    if core.failure is not None:
        raise renewed(core.failure)


def _finish(core: SubStream[Signal], silent_s: float, most_s: float) -> Service[None]:
    """Close this half, and discard what arrives until the other end has closed its own.

    An other end that is silent for `silent_s`, or sends for longer than `most_s`, learns that its bytes are
    not read. It can still read all that was written here.
    """
    left_s = most_s
    core.finish()
    while not core.has_ended and left_s > 0:
        before = core.ignored_bytes
        yield from move_on_after(silent_s, _wait_ended(core))
        left_s -= silent_s
        if core.ignored_bytes == before:
            break
    core.stop(ErrorCode.CANCELLED)


def _wait_ended(core: SubStream[Signal]) -> Service[None]:
    while not core.has_ended:
        yield core.ended


class _StreamReply:
    """`Reply` that writes to a sub-stream."""

    is_possible = True
    remaining = 0  # a sub-stream has one reply

    def __init__(self, stream: TunnelStream) -> None:
        self._stream = stream

    @needs_yield_from
    def write(self, data: bytes) -> Service[None]:
        yield from self._stream.write(data)

    @needs_yield_from
    def flush(self) -> Service[None]:
        return  # a sub-stream sends immediately
        yield

    @needs_yield_from
    def end(self) -> Service[None]:
        self._stream.close()
        yield YIELD

    @needs_yield_from
    def next(self) -> Service[None]:
        yield from ()
        raise LocalTunnelError("a sub-stream has only one reply")


def serve_streams(
    node: NodeContext, accept: Callable[[], Service[TunnelStream]], handler: StreamHandler, *, most: int
) -> Service[None]:
    """Serve the sub-streams that the other end opens, as long as the tunnel lives.

    Args:
        most: limit of services at a time; more sub-streams are refused with BUSY. A service may outlive its
            sub-stream, whose place the other end can use again.
    Raises:
        PeerError: the tunnel has ended.
    """
    scope = Scope("sub-streams", fail_together=False)
    try:
        while True:
            stream = yield from accept()
            if len(scope) >= most:
                log.debug("a sub-stream is refused: %d are served already", most)
                stream.core.give_up(TableFull.code)
                node.counters.sub_streams_refused += 1
                continue
            yield from scope.spawn(_serve(node, stream, handler), name="sub-stream")
    finally:
        yield from scope.close()


def _serve(node: NodeContext, stream: TunnelStream, handler: StreamHandler) -> Service[None]:
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
        node.log_limit.failure("failed in a sub-stream", error, "the service of a sub-stream failed")
        code = ErrorCode.SERVICE_FAILED
    finally:
        node.counters.sub_streams_refused += not stream.core.is_confirmed
        if not has_ended:
            stream.core.give_up(code)
