"""The read service: one per stream that a neighbour opened. Header, and then whoever the frame is for.

A frame to be forwarded is handed to the global service, which lends the stream to a write service; frames
that end here are served by the local service. The read service owns the stream all the time: it alone tells
the neighbour of an error, in one place.
"""

from __future__ import annotations

import logging

from reactor import ReadYield, Service, UnexpectedEnd
from tunnel.descriptor import short
from tunnel.errors import (
    ErrorCode,
    FrameTruncated,
    LocalTunnelError,
    PeerError,
    ProfileError,
    StreamReset,
)
from tunnel.node.context import NodeContext, Stream
from tunnel.node.forward import Forward
from tunnel.node.local_service import local_service
from tunnel.node.statuses import Reporter, fault_here
from tunnel.node.within import within
from tunnel.onion.header import Command

__all__ = ["read_service"]

log = logging.getLogger("tunnel.node")


def read_service(node: NodeContext, stream: Stream) -> Service[None]:
    """Serve one stream to its end. Errors of the peer end it, and are logged here."""
    code = ErrorCode.CANCELLED
    try:
        yield from _serve(node, stream)
    except PeerError as error:
        _log(node, stream, error)
        code = error.code
    except LocalTunnelError as error:
        log.error("node %s: %s: %s", node.name, type(error).__name__, error)
        code = ErrorCode.INTERNAL
    except Exception:
        code = ErrorCode.INTERNAL
        raise  # a fault of this node: the scope logs it
    finally:
        stream.reset(code)  # without effect when it has ended in order


def _log(node: NodeContext, stream: Stream, error: PeerError) -> None:
    # Who talks to whom stays below INFO; that and why a node refused something does not.
    level = logging.INFO if isinstance(error, StreamReset) else logging.WARNING
    log.log(level, "node %s ended a frame: %s: %s", node.name, type(error).__name__, error)
    log.debug("node %s: that frame came from %s", node.name, short(stream.peer_id))


def _serve(node: NodeContext, stream: Stream) -> Service[None]:
    opened = node.tunnel.open_frame(
        # In no variable: it would stay as long as the frame, and there may be a thousand.
        (yield from _read_header(node, stream)),
        stream.profile,
        neighbour=stream.peer_id,
        now_s=node.wall_clock(),
    )
    # From here on this node has keys of the frame, and can tell Alice what goes wrong with it.
    reporter = Reporter(node, stream, opened.slot)
    try:
        if opened.slot.command is Command.RELAY:
            forward = Forward(stream, opened, reporter)
            del opened  # the next header, which the write service drops when it is sent
            yield from node.forwards.send(forward)
            yield from forward.wait_returned()
        else:
            yield from local_service(node, stream, opened.slot, reporter)
    except PeerError as error:
        yield from reporter.fail(error)
        raise
    except Exception:
        yield from reporter.fail(fault_here())
        raise


def _read_header(node: NodeContext, stream: Stream) -> Service[bytes]:
    if not node.descriptor.offers(stream.profile):
        raise ProfileError(
            f"peer opens a frame of profile {stream.profile.name!r}, which this node does not offer"
        )
    header = bytearray(stream.profile.geometry.header_bytes)
    read = ReadYield(stream).read_exactly(memoryview(header))
    try:
        yield from within(node.limits.header_s, read, "no whole header after OPEN")
    except UnexpectedEnd as error:
        raise FrameTruncated("FIN inside the onion header") from error
    return bytes(header)
