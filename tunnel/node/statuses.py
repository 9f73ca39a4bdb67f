"""STATUS on the streams of a node: the last frame of each backward half.

In this version it says nothing: it is random bytes of the right length, as in error mode none, and a reason
travels as RESET, from hop to hop.
"""

from __future__ import annotations

import logging
import os

from reactor import ReadYield, Service, TimedOut, WriteYield, timeout_after
from tunnel.errors import ErrorCode, MalformedMessage, PeerError
from tunnel.link.mux import MuxStream
from tunnel.node.context import NodeContext, Stream

__all__ = ["end_backward", "pass_status", "settle_beside", "wait_status"]

log = logging.getLogger("tunnel.node")

STATUS_BYTES = 2_496


def end_backward(stream: Stream) -> Service[None]:
    """At the last node: end the backward half in order, with FIN and STATUS. Again: nothing."""
    if stream.is_answered:
        return
    stream.finish()
    yield from WriteYield(stream).call(MuxStream.send_status, os.urandom(STATUS_BYTES))


def pass_status(source: Stream, sink: Stream) -> Service[None]:
    """At a proxy: the status of the next hop, passed on to the one before."""
    status = yield from wait_status(source)
    yield from WriteYield(sink).call(MuxStream.send_status, status)


def wait_status(stream: Stream) -> Service[bytes]:
    """Wait for the status that follows the FIN of the backward half.

    Raises:
        MalformedMessage: content comes instead. Whatever the stream raises.
    """
    if (yield from ReadYield(stream).readinto(memoryview(bytearray(1)))):
        raise MalformedMessage("content on the backward half of a frame that asked for none")
    return (yield from ReadYield(stream).call(MuxStream.read_status))


def settle_beside(node: NodeContext, stream: Stream) -> Service[None]:
    """Wait for the end of the backward half while the caller goes on; it is reset if it takes too long.

    A stream that is reset the moment its query is answered would make every proxy report a failure.
    """
    if not stream.is_ended:
        yield from node.scope.spawn(_settle(node, stream), name=f"{node.name} end")


def _settle(node: NodeContext, stream: Stream) -> Service[None]:
    try:
        yield from timeout_after(node.limits.linger_s, wait_status(stream))
    except (PeerError, TimedOut) as error:
        log.debug("stream of an answered query did not end in order: %s", error)
    finally:
        stream.reset(ErrorCode.CANCELLED)
